//! The directions and containments that ARCHITECTURE.md promises, read off the sources.

use std::fs;
use std::path::{Path, PathBuf};

fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Every file below `directory` whose name ends in one of `extensions`, but for what other projects' packages bring.
fn files(directory: &Path, extensions: &[&str]) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).expect("a directory") {
        let path = entry.expect("an entry").path();
        if path.ends_with("node_modules") {
            continue;
        }
        if path.is_dir() {
            found.append(&mut files(&path, extensions));
        } else if path.extension().is_some_and(|extension| extensions.iter().any(|wanted| extension == *wanted)) {
            found.push(path);
        }
    }
    found
}

/// Every source file below `src`, as its path from there and its text without tests.
fn sources() -> Vec<(String, String)> {
    let root = repository().join("src");
    let paths = files(&root, &["rs"]);
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

/// What is written for people or programs to read in this repository, as path and text.
fn texts() -> Vec<(PathBuf, String)> {
    let extensions = ["rs", "md", "toml", "sql", "graphql"];
    let mut paths: Vec<PathBuf> = fs::read_dir(repository())
        .expect("a directory")
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| path.is_file() && path.extension().is_some_and(|found| extensions.iter().any(|e| found == *e)))
        .collect();
    for directory in ["src", "tests", "benches", "examples", "config", "docs", "fuzz/src", "fuzz/fuzz_targets"] {
        paths.append(&mut files(&repository().join(directory), &extensions));
    }
    paths
        .into_iter()
        .filter(|path| path.file_name().is_some_and(|name| name != "Cargo.lock"))
        .map(|path| {
            let text = fs::read_to_string(&path).expect("readable");
            (path, text)
        })
        .collect()
}

fn module(path: &str) -> &str {
    path.split(['/', '.']).next().unwrap_or_default()
}

#[test]
fn a_module_uses_only_the_modules_below_it() {
    let may_use = |module: &str| -> Option<&[&str]> {
        Some(match module {
            "event" => &["clock", "printable"],
            "clock" | "printable" | "shutdown" => &[],
            "log_limiter" => &["clock"],
            "config" => &["event"],
            "telemetry" => &["config", "printable"],
            "egress" => &["event", "config"],
            "oidc" => &["event", "clock", "config", "egress", "log_limiter"],
            "authenticate" => &["event", "clock", "config", "egress", "oidc", "log_limiter", "store"],
            "store" => &["event", "clock", "config"],
            "marketplace" => &["event", "clock", "config", "egress"],
            "handler" => &["event"],
            "http" => &["event", "clock", "log_limiter"],
            "receive" => &["event", "clock", "config", "http", "authenticate", "store", "shutdown", "log_limiter"],
            "deliver" => &["event", "clock", "config", "store", "handler", "marketplace"],
            "admin" => &["event", "clock", "config", "http", "store", "printable", "shutdown"],
            "sandbox" => &["event", "clock", "config", "http", "egress", "printable"],
            // The composition root and the command line put everything together.
            "app" | "cli" | "lib" | "main" => return None,
            other => panic!("src/{other} has no place in the architecture: give it one here and in ARCHITECTURE.md"),
        })
    };
    for (path, text) in sources() {
        let module = module(&path);
        let Some(allowed) = may_use(module) else { continue };
        for used in text.split("crate::").skip(1) {
            let used: String = used.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
            assert!(
                used == module || used == "handler" && module == "deliver" || allowed.contains(&used.as_str()),
                "src/{path} uses crate::{used}"
            );
        }
    }
}

#[test]
fn each_library_stays_in_its_module() {
    for (library, modules) in [
        ("actix_web", &["http", "receive", "admin", "sandbox", "app"][..]),
        // The log names it, to have it say nothing.
        ("actix_http", &["http", "telemetry"]),
        ("actix_service", &["http"]),
        ("reqwest", &["egress"]),
        ("sled::", &["store", "app", "cli"]),
        ("jsonwebtoken", &["authenticate", "oidc"]),
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
            assert!(!is_used || modules.contains(&module(&path)), "src/{path} uses {library}");
        }
    }
}

/// The guarantees that `text` cites, such as `G5`.
fn cited_guarantees(text: &str) -> Vec<&str> {
    let words = text.split(|c: char| !c.is_alphanumeric() && c != '_');
    words
        .filter(|word| {
            word.strip_prefix('G').is_some_and(|number| {
                !number.is_empty() && number.len() <= 2 && number.chars().all(|digit| digit.is_ascii_digit())
            })
        })
        .collect()
}

#[test]
fn every_guarantee_that_is_cited_is_defined_and_names_tests_that_hold_it() {
    let guarantees = fs::read_to_string(repository().join("docs/guarantees.md")).expect("readable");
    let sections: Vec<&str> = guarantees.split("\n## ").skip(1).collect();
    let defined: Vec<&str> = sections.iter().filter_map(|section| section.split(':').next()).collect();
    for (path, text) in texts() {
        for cited in cited_guarantees(&text) {
            assert!(
                defined.contains(&cited),
                "{} cites {cited}, which docs/guarantees.md does not define",
                path.display()
            );
        }
    }
    for section in &sections {
        assert!(section.contains("\nTests:\n- `"), "no test holds {}", section.lines().next().unwrap_or_default());
    }
}

#[test]
fn every_test_that_a_guarantee_names_exists() {
    let guarantees = fs::read_to_string(repository().join("docs/guarantees.md")).expect("readable");
    let named: Vec<(&str, &str)> =
        guarantees.split('`').filter(|span| span.contains('/')).filter_map(|span| span.split_once("::")).collect();
    assert!(named.len() > 50, "the tests are named as file::name");
    let texts = texts();
    for (place, name) in named {
        let place = repository().join(place);
        let declaration = format!("fn {name}(");
        let is_there = texts.iter().any(|(path, text)| {
            let lies_there = *path == place || path.starts_with(&place) || *path == place.with_extension("rs");
            lies_there && text.contains(&declaration)
        });
        assert!(is_there, "docs/guarantees.md names {name}, which is not in {}", place.display());
    }
}

#[test]
fn every_link_between_documents_leads_to_a_file() {
    for (path, text) in texts().iter().filter(|(path, _)| path.extension().is_some_and(|extension| extension == "md")) {
        for link in text.split("](").skip(1).filter_map(|rest| rest.split([')', '#']).next()) {
            let leads_out = link.is_empty() || link.contains("://");
            let target = path.parent().expect("a directory").join(link);
            assert!(leads_out || target.exists(), "{} links to {link}, which is not there", path.display());
        }
    }
}

#[test]
fn every_file_that_a_document_names_exists() {
    let roots = ["", "src", "tests"].map(|root| repository().join(root));
    let is_path = |span: &str| {
        let is_plain = span.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || "_-./".contains(c));
        let is_file = Path::new(span).extension().is_some_and(|extension| extension == "rs" || extension == "md");
        is_plain && !span.starts_with(['/', '.']) && (is_file || span.ends_with('/'))
    };
    for (path, text) in texts().iter().filter(|(path, _)| path.extension().is_some_and(|extension| extension == "md")) {
        // Every other piece stands between backticks.
        for span in text.split('`').skip(1).step_by(2) {
            let named = span.split("::").next().unwrap_or_default();
            let is_there = !is_path(named) || roots.iter().any(|root| root.join(named).exists());
            assert!(is_there, "{} names {named}, which is not there", path.display());
        }
    }
}

#[test]
fn the_map_stays_short() {
    let map = fs::read_to_string(repository().join("ARCHITECTURE.md")).expect("readable");
    let length = map.lines().count();
    assert!(length <= 120, "ARCHITECTURE.md has {length} lines: what is not on the way of an event belongs in docs/");
}

#[test]
fn the_documents_of_the_admin_api_are_the_same_for_whoever_writes_and_reads_them() {
    for (path, text) in sources() {
        if path.starts_with("admin/api/") {
            assert!(!text.contains("actix"), "src/{path} knows of HTTP, which the command line does not serve");
        }
        if path.starts_with("admin/") {
            assert!(!text.contains("json!("), "src/{path} writes a document that has no type");
        }
        if path.starts_with("cli/") {
            let untyped = ["serde_json::Value", "serde_json::{", "json!("].iter().find(|name| text.contains(*name));
            assert!(untyped.is_none(), "src/{path} reads a document that has no type");
        }
    }
}

#[test]
fn no_module_is_called_utils() {
    for (path, _) in sources() {
        for name in ["utils", "common", "helpers", "core", "types", "manager", "service"] {
            assert!(!path.split(['/', '.']).any(|part| part == name), "src/{path}");
        }
    }
}

/// Words of a dialect that had to be learnt before the code could be read, and what the field says instead.
const DIALECT: [(&str, &str); 24] = [
    ("agenda", "scheduler"),
    ("lane", "marketplace queue"),
    ("lanes", "marketplace queues"),
    ("hasten", "make_due"),
    ("seize", "lock"),
    ("give_way", "an order window, which the store ends"),
    ("amendment", "operator action"),
    ("settlement", "completion"),
    ("facts", "extracted fields"),
    ("announced", "route_type"),
    ("dispatched", "verdict"),
    ("standing", "account state"),
    ("waste", "obsolete"),
    ("door", "public listener"),
    ("desk", "sandbox state"),
    ("books", "state"),
    ("threshold", "limiter"),
    ("excess", "exceeded limit"),
    ("vault", "secrets"),
    ("presented", "request credentials"),
    ("whereabouts", "location"),
    ("may_pass", "is_transient"),
    ("for_good", "permanent"),
    ("left_to_answer", "awaiting_response"),
];

#[test]
fn the_code_speaks_the_fields_language() {
    for (path, text) in sources() {
        // What is stored, configured or said to people keeps its words.
        let outside_of_strings = text.split('"').step_by(2).collect::<Vec<_>>().join(" ");
        let lower = outside_of_strings.to_lowercase();
        for word in lower.split(|c: char| !c.is_alphanumeric() && c != '_') {
            let known = DIALECT.iter().find(|(private, _)| *private == word);
            assert!(known.is_none(), "src/{path}: {known:?}");
        }
    }
}

#[test]
fn every_file_says_what_it_is_for() {
    for (path, text) in sources() {
        assert!(text.starts_with("//!"), "src/{path} begins without a //! line");
    }
}
