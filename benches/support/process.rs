//! Processes that are measured, each in one of its own so that the load generator's memory does not count.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::thread::JoinHandle;

/// Set in a process that is to serve instead of to measure.
pub const ROLE: &str = "DOORBELL_BENCH_ROLE";

/// A process of this benchmark's own program, in another role.
pub struct Served {
    child: Child,
    /// What it printed first.
    pub greeting: String,
    rest: Option<JoinHandle<()>>,
}

impl Served {
    /// Starts this program again as `role`, and returns once it has printed a line.
    pub fn start(role: &str, variables: &[(&str, &str)]) -> Self {
        let mut command = Command::new(std::env::current_exe().expect("this program"));
        command.env(ROLE, role).envs(variables.iter().copied()).stdout(Stdio::piped());
        let mut child = command.spawn().expect("starts");
        let mut stdout = BufReader::new(child.stdout.take().expect("piped"));
        Self::greeted(child, &mut stdout, |_| true)
    }

    /// Starts `doorbell serve`, and returns once it listens.
    pub fn doorbell(variables: &[(&str, &str)]) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_doorbell"));
        command.arg("serve").envs(variables.iter().copied()).env("DOORBELL__LOG__FORMAT", "json");
        command.stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("starts");
        let mut lines = BufReader::new(child.stderr.take().expect("piped"));
        let mut served = Self::greeted(child, &mut lines, |line| line.contains("\"listening\""));
        // What it says later must not fill the pipe.
        served.rest = Some(std::thread::spawn(move || lines.lines().for_each(drop)));
        served
    }

    fn greeted(child: Child, lines: &mut impl BufRead, is_greeting: impl Fn(&str) -> bool) -> Self {
        let mut line = String::new();
        loop {
            line.clear();
            assert!(lines.read_line(&mut line).expect("a line") > 0, "it ended before it served");
            if is_greeting(&line) {
                return Self { child, greeting: line.trim().to_owned(), rest: None };
            }
        }
    }

    /// Resident memory in MB, now and at its highest.
    pub fn memory(&self) -> (f64, f64) {
        memory(&self.child)
    }
}

/// Resident memory of a process in MB, now and at its highest.
pub fn memory(child: &Child) -> (f64, f64) {
    let status = std::fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap_or_default();
    let megabytes = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default();
        line.trim().trim_end_matches(" kB").parse::<f64>().unwrap_or(f64::NAN) / 1000.0
    };
    (megabytes("VmRSS:"), megabytes("VmHWM:"))
}

impl Drop for Served {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if let Some(rest) = self.rest.take() {
            let _ = rest.join();
        }
    }
}
