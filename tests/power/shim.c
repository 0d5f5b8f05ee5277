/*
 * Preloaded into a program, writes down everything that it does to the files below POWER_DIRECTORY: what was written
 * where, when the call began and when it had returned, and whether the file was synchronous at the time. From that a
 * test can tell what a disk may hold after a loss of power at any moment. See tests/power.rs, which reads the record.
 *
 * While a file named by POWER_FULL exists, the disk is full: writes there fail with ENOSPC.
 *
 * A record is, in the machine's byte order: u8 operation, u8 synchronous, u16 length of the name, u32 length of the
 * data, u64 number of the call, u64 file, u64 offset, then the name and the data.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <limits.h>
#include <linux/fs.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

enum { WRITE = 1, RETURNED, SYNC, TRUNCATE, CREATE, RENAME, UNLINK, MKDIR };

#define DESCRIPTORS 4096

static char directory[PATH_MAX];
static size_t directory_length;
static int record = -1;
static char watched[DESCRIPTORS];
static uint64_t calls;
static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;

#define REAL(result, name, ...) \
    static result (*real_##name)(__VA_ARGS__); \
    if (!real_##name) real_##name = dlsym(RTLD_NEXT, #name)

__attribute__((constructor)) static void begin(void) {
    const char *below = getenv("POWER_DIRECTORY"), *to = getenv("POWER_RECORD");
    if (!below || !to) return;
    snprintf(directory, sizeof directory, "%s/", below);
    directory_length = strlen(directory);
    REAL(int, open64, const char *, int, ...);
    record = real_open64(to, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    if (record < 0) abort();
}

static const char *name_of(const char *path) {
    if (record < 0) return NULL;
    return strncmp(path, directory, directory_length) == 0 ? path + directory_length : NULL;
}

static int is_full(void) {
    const char *flag = getenv("POWER_FULL");
    if (!flag || access(flag, F_OK) != 0) return 0;
    errno = ENOSPC;
    return 1;
}

static int is_watched(int fd) { return record >= 0 && fd >= 0 && fd < DESCRIPTORS && watched[fd]; }

static uint64_t put(uint8_t operation, uint8_t synchronous, uint64_t call, uint64_t file, uint64_t offset,
                    const char *name, const void *data, uint32_t length) {
    REAL(ssize_t, write, int, const void *, size_t);
    uint16_t name_length = name ? (uint16_t)strlen(name) : 0;
    size_t size = 32 + name_length + length;
    char *out = malloc(size);
    pthread_mutex_lock(&mutex);
    if (!call) call = ++calls;
    memcpy(out, &operation, 1);
    memcpy(out + 1, &synchronous, 1);
    memcpy(out + 2, &name_length, 2);
    memcpy(out + 4, &length, 4);
    memcpy(out + 8, &call, 8);
    memcpy(out + 16, &file, 8);
    memcpy(out + 24, &offset, 8);
    if (name_length) memcpy(out + 32, name, name_length);
    if (length) memcpy(out + 32 + name_length, data, length);
    if (real_write(record, out, size) != (ssize_t)size) abort();
    pthread_mutex_unlock(&mutex);
    free(out);
    return call;
}

static int attributes(int fd) {
    int flags = 0;
    return ioctl(fd, FS_IOC_GETFLAGS, &flags) == 0 ? flags : 0;
}

static int is_synchronous(int fd) {
    int mode = fcntl(fd, F_GETFL);
    return (mode & O_SYNC) == O_SYNC || (mode & O_DSYNC) || (attributes(fd) & FS_SYNC_FL);
}

static int parent_is_synchronous(const char *path) {
    REAL(int, open64, const char *, int, ...);
    REAL(int, close, int);
    char copy[PATH_MAX];
    snprintf(copy, sizeof copy, "%s", path);
    int fd = real_open64(dirname(copy), O_RDONLY | O_CLOEXEC);
    if (fd < 0) return 0;
    int flags = attributes(fd);
    real_close(fd);
    return (flags & (FS_DIRSYNC_FL | FS_SYNC_FL)) != 0;
}

static uint64_t file_of(int fd) {
    struct stat status;
    return fstat(fd, &status) == 0 ? status.st_ino : 0;
}

static int opened(int fd, const char *path, int flags, int existed) {
    const char *name = name_of(path);
    if (fd < 0 || fd >= DESCRIPTORS) return fd;
    watched[fd] = name != NULL;
    if (name && (flags & O_CREAT) && !existed)
        put(CREATE, parent_is_synchronous(path), 0, file_of(fd), 0, name, NULL, 0);
    if (name && existed && (flags & O_TRUNC) && (flags & O_ACCMODE) != O_RDONLY) {
        uint64_t call = put(TRUNCATE, is_synchronous(fd), 0, file_of(fd), 0, NULL, NULL, 0);
        put(RETURNED, 0, call, 0, 0, NULL, NULL, 0);
    }
    return fd;
}

#define OPEN(symbol) \
    int symbol(const char *path, int flags, ...) { \
        REAL(int, symbol, const char *, int, ...); \
        va_list rest; \
        va_start(rest, flags); \
        mode_t mode = (flags & (O_CREAT | O_TMPFILE)) ? va_arg(rest, mode_t) : 0; \
        va_end(rest); \
        int existed = access(path, F_OK) == 0; \
        return opened(real_##symbol(path, flags, mode), path, flags, existed); \
    }
OPEN(open)
OPEN(open64)

int close(int fd) {
    REAL(int, close, int);
    if (fd >= 0 && fd < DESCRIPTORS) watched[fd] = 0;
    return real_close(fd);
}

static uint64_t wrote(int fd, const void *data, size_t length, uint64_t offset) {
    return put(WRITE, is_synchronous(fd), 0, file_of(fd), offset, NULL, data, (uint32_t)length);
}

static void returned(uint64_t call) { put(RETURNED, 0, call, 0, 0, NULL, NULL, 0); }

ssize_t write(int fd, const void *data, size_t length) {
    REAL(ssize_t, write, int, const void *, size_t);
    if (!is_watched(fd)) return real_write(fd, data, length);
    if (is_full()) return -1;
    off_t at = (fcntl(fd, F_GETFL) & O_APPEND) ? lseek(fd, 0, SEEK_END) : lseek(fd, 0, SEEK_CUR);
    uint64_t call = wrote(fd, data, length, (uint64_t)at);
    ssize_t result = real_write(fd, data, length);
    if (result >= 0 && (size_t)result != length) abort();
    if (result >= 0) returned(call);
    return result;
}

#define PWRITE(symbol) \
    ssize_t symbol(int fd, const void *data, size_t length, off_t offset) { \
        REAL(ssize_t, symbol, int, const void *, size_t, off_t); \
        if (!is_watched(fd)) return real_##symbol(fd, data, length, offset); \
        if (is_full()) return -1; \
        uint64_t call = wrote(fd, data, length, (uint64_t)offset); \
        ssize_t result = real_##symbol(fd, data, length, offset); \
        if (result >= 0 && (size_t)result != length) abort(); \
        if (result >= 0) returned(call); \
        return result; \
    }
PWRITE(pwrite)
PWRITE(pwrite64)

#define SYNCHRONIZE(symbol) \
    int symbol(int fd) { \
        REAL(int, symbol, int); \
        if (!is_watched(fd)) return real_##symbol(fd); \
        uint64_t call = put(SYNC, 0, 0, file_of(fd), 0, NULL, NULL, 0); \
        int result = real_##symbol(fd); \
        if (result == 0) returned(call); \
        return result; \
    }
SYNCHRONIZE(fsync)
SYNCHRONIZE(fdatasync)

#define FTRUNCATE(symbol) \
    int symbol(int fd, off_t length) { \
        REAL(int, symbol, int, off_t); \
        if (!is_watched(fd)) return real_##symbol(fd, length); \
        uint64_t call = put(TRUNCATE, is_synchronous(fd), 0, file_of(fd), (uint64_t)length, NULL, NULL, 0); \
        int result = real_##symbol(fd, length); \
        if (result == 0) returned(call); \
        return result; \
    }
FTRUNCATE(ftruncate)
FTRUNCATE(ftruncate64)

int rename(const char *from, const char *to) {
    REAL(int, rename, const char *, const char *);
    const char *from_name = name_of(from), *to_name = name_of(to);
    int result = real_rename(from, to);
    if (result == 0 && from_name && to_name)
        put(RENAME, parent_is_synchronous(to), 0, 0, 0, from_name, to_name, (uint32_t)strlen(to_name));
    return result;
}

int unlink(const char *path) {
    REAL(int, unlink, const char *);
    int result = real_unlink(path);
    if (result == 0 && name_of(path)) put(UNLINK, parent_is_synchronous(path), 0, 0, 0, name_of(path), NULL, 0);
    return result;
}

int mkdir(const char *path, mode_t mode) {
    REAL(int, mkdir, const char *, mode_t);
    int result = real_mkdir(path, mode);
    if (result == 0 && name_of(path)) {
        struct stat status;
        uint64_t file = stat(path, &status) == 0 ? status.st_ino : 0;
        put(MKDIR, parent_is_synchronous(path), 0, file, 0, name_of(path), NULL, 0);
    }
    return result;
}
