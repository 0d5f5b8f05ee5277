//! The real program, in a process of its own.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc;

use serde_json::Value;

use super::PATIENCE;

/// A running `doorbell serve`, or a vendor's binary that serves the same way.
pub struct Process {
    child: Child,
    pub public: String,
    pub admin: String,
    /// What it logged until it listened.
    pub said: Vec<String>,
    lines: mpsc::Receiver<String>,
}

/// Where it listens, if this is the log line that says so, in either format.
fn addresses(line: &str) -> Option<[String; 2]> {
    let event: Value = serde_json::from_str(line).unwrap_or_default();
    let in_text = |name: &str| {
        let (_, rest) = line.split_once(" listening ")?.1.split_once(&format!("{name}="))?;
        rest.split(' ').next().map(str::to_owned)
    };
    let address = |name: &str| {
        let in_json = (event["message"] == "listening").then(|| event[name].as_str().expect("an address").to_owned());
        in_json.or_else(|| in_text(name)).map(|address| format!("http://{address}"))
    };
    Some([address("public")?, address("admin")?])
}

/// The stock binary.
pub fn doorbell() -> PathBuf {
    env!("CARGO_BIN_EXE_doorbell").into()
}

/// The binary whose handler waits for the test: see `gated_vendor.rs`.
pub fn gated_vendor() -> PathBuf {
    let path = doorbell().with_file_name("examples").join("gated_vendor");
    assert!(path.exists(), "{path:?} is not built; run `cargo build --examples` first");
    path
}

impl Process {
    /// Serves with the configuration in `file`, and returns once it listens.
    pub fn serve(program: &Path, file: &Path, variables: &[(&str, &str)]) -> Self {
        let mut child = Command::new(program)
            .args(["serve", "--config"])
            .arg(file)
            .envs(variables.iter().copied())
            .stderr(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .expect("starts");
        let stderr = BufReader::new(child.stderr.take().expect("piped"));
        let (sender, lines) = mpsc::channel();
        std::thread::spawn(move || stderr.lines().map_while(Result::ok).try_for_each(|line| sender.send(line)));
        let mut said = Vec::new();
        loop {
            let line = lines.recv_timeout(PATIENCE).unwrap_or_else(|error| panic!("not listening ({error}): {said:?}"));
            let addresses = addresses(&line);
            said.push(line);
            if let Some([public, admin]) = addresses {
                return Self { child, public, admin, said, lines };
            }
        }
    }

    /// Its id in the system.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Waits until it logs a line that holds `text`.
    pub fn until_said(&self, text: &str) {
        while !self.lines.recv_timeout(PATIENCE).unwrap_or_else(|_| panic!("never says {text:?}")).contains(text) {}
    }

    /// SIGKILL.
    pub fn kill(mut self) {
        self.child.kill().expect("killed");
        self.child.wait().expect("gone");
    }

    /// SIGTERM, and the exit status with everything that was logged.
    pub fn terminate(self) -> (ExitStatus, Vec<String>) {
        self.signal("TERM");
        self.wait()
    }

    /// Sends a signal.
    pub fn signal(&self, name: &str) {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args([&format!("-{name}"), &pid]).status().expect("kill runs").success());
    }

    /// Waits until a line of the log contains `text`.
    pub fn until_logged(&self, text: &str) {
        let mut said = Vec::new();
        loop {
            let line =
                self.lines.recv_timeout(PATIENCE).unwrap_or_else(|error| panic!("not logged ({error}): {said:?}"));
            if line.contains(text) {
                return;
            }
            said.push(line);
        }
    }

    /// The exit status, once the process has ended by itself, and what was logged since somebody last looked.
    pub fn wait(mut self) -> (ExitStatus, Vec<String>) {
        let mut lines = Vec::new();
        loop {
            // The log ends when the process does.
            match self.lines.recv_timeout(PATIENCE) {
                Ok(line) => lines.push(line),
                Err(mpsc::RecvTimeoutError::Disconnected) => break,
                Err(mpsc::RecvTimeoutError::Timeout) => panic!("still running: {lines:?}"),
            }
        }
        (self.child.wait().expect("gone"), lines)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
