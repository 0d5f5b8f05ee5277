//! How many files the process may have open, and how many of them connections may take.

/// Raises the process's limit of open files as far as it may without asking anybody, and returns it.
///
/// Shells and service managers hand down 1,024 for the sake of programs that use `select`; Doorbell is none of them.
#[cfg(unix)]
pub(crate) fn raise_open_file_limit() -> u64 {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    if limit.current != limit.maximum
        && let Err(error) = setrlimit(Resource::Nofile, raised)
    {
        tracing::warn!(%error, limit = limit.current, "the limit of open files cannot be raised");
        return limit.current.unwrap_or(u64::MAX);
    }
    limit.maximum.unwrap_or(u64::MAX)
}

/// As many files as are common.
#[cfg(not(unix))]
pub(crate) fn raise_open_file_limit() -> u64 {
    1024
}
