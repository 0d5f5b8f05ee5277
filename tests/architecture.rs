//! The directions and containments that ARCHITECTURE.md promises, read off the sources.

use std::fs;
use std::path::{Path, PathBuf};

/// Every source file below `src`, as its path from there and its text without tests.
fn sources() -> Vec<(String, String)> {
    fn collect(directory: &Path, found: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(directory).expect("a directory") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                collect(&path, found);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                found.push(path);
            }
        }
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut paths = Vec::new();
    collect(&root, &mut paths);
    assert!(paths.len() > 30, "the sources were found");
    paths
        .into_iter()
        .map(|path| {
            let text = fs::read_to_string(&path).expect("readable");
            let text = text.split("#[cfg(test)]\nmod tests").next().unwrap_or_default().to_owned();
            (path.strip_prefix(&root).expect("below src").to_string_lossy().into_owned(), text)
        })
        .collect()
}

fn room(path: &str) -> &str {
    path.split(['/', '.']).next().unwrap_or_default()
}

#[test]
fn a_room_uses_only_the_rooms_below_it() {
    let may_use = |room: &str| -> Option<&[&str]> {
        Some(match room {
            "event" => &["clock"],
            "clock" | "printable" | "shutdown" => &[],
            "log_limiter" => &["clock"],
            "config" => &["event"],
            "telemetry" => &["config", "printable"],
            "egress" => &["event", "config"],
            "authenticate" => &["event", "clock", "config", "egress", "log_limiter", "store"],
            "store" => &["event", "clock", "config"],
            "marketplace" => &["event", "clock", "config", "egress"],
            "handler" => &["event"],
            "http" => &["clock"],
            "receive" => &["event", "clock", "config", "http", "authenticate", "store", "shutdown", "log_limiter"],
            "deliver" => &["event", "clock", "config", "store", "handler", "marketplace"],
            "admin" => &["event", "clock", "config", "authenticate", "store", "receive", "printable", "shutdown"],
            "sandbox" => &["event", "clock", "config", "egress", "app", "printable"],
            // The composition root and the command line put everything together.
            "app" | "cli" | "lib" | "main" => return None,
            other => panic!("src/{other} has no place in the architecture: give it one here and in ARCHITECTURE.md"),
        })
    };
    for (path, text) in sources() {
        let room = room(&path);
        let Some(allowed) = may_use(room) else { continue };
        for used in text.split("crate::").skip(1) {
            let used: String = used.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
            assert!(
                used == room || used == "handler" && room == "deliver" || allowed.contains(&used.as_str()),
                "src/{path} uses crate::{used}"
            );
        }
    }
}

#[test]
fn each_library_stays_in_its_room() {
    for (library, rooms) in [
        ("actix_web", &["http", "receive", "admin", "sandbox", "app"][..]),
        // The log names it, to have it say nothing.
        ("actix_http", &["http", "telemetry"]),
        ("actix_service", &["http"]),
        ("reqwest", &["egress"]),
        ("sled::", &["store", "app", "cli"]),
        ("jsonwebtoken", &["authenticate"]),
        ("aws_lc_rs", &["authenticate"]),
        ("oauth2::", &["marketplace"]),
        ("clap", &["cli"]),
        ("comfy_table", &["cli", "sandbox"]),
        ("rustix", &["store", "http"]),
        ("SystemTime", &["clock"]),
    ] {
        for (path, text) in sources() {
            // A line that begins with a quotation mark names a library and uses none.
            let code = text.lines().filter(|line| !line.trim_start().starts_with(['/', '"']));
            let is_used = code.map(|line| format!(" {line}")).any(|line| {
                line.match_indices(library)
                    .any(|(at, _)| !line[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_'))
            });
            assert!(!is_used || rooms.contains(&room(&path)), "src/{path} uses {library}");
        }
    }
}

#[test]
fn no_room_is_called_utils() {
    for (path, _) in sources() {
        for name in ["utils", "common", "helpers", "core", "types", "manager", "service"] {
            assert!(!path.split(['/', '.']).any(|part| part == name), "src/{path}");
        }
    }
}
