//! The real `mintage-agent`, as a process that dies with its value.

use std::{
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use mintage_attest::JoinToken;

use super::bins::binary;

/// Longest wait for something an agent does by itself.
pub const WAIT_MAX: Duration = Duration::from_secs(60);

/// A running agent.
#[derive(Debug)]
pub struct AgentProcess {
    child: Child,
    log: PathBuf,
}

/// Writes a secret file as operators are told to.
pub fn secret_file(path: &Path, text: &str) {
    use std::io::Write;
    let mut file = std::fs::File::options()
        .create(true)
        .write(true)
        .truncate(true)
        .mode(0o600)
        .open(path)
        .expect("a file");
    file.write_all(text.as_bytes()).expect("written");
}

/// Writes a configuration with one delivery for each entry, into `<dir>/<entry>`.
pub fn config(dir: &Path, entries: &[&str]) -> PathBuf {
    let mut text = format!(
        "data_dir = {:?}\nsocket = \"off\"\n[revocation_map]\npath = {:?}\n",
        dir.join("agent"),
        dir.join("node.map")
    );
    let uid = rustix::process::geteuid().as_raw();
    for entry in entries {
        let directory = dir.join(entry);
        text.push_str(&format!(
            "[[delivery]]\nentry = {entry:?}\ndirectory = {directory:?}\nowner = \"{uid}\"\ngroup = \"{uid}\"\n"
        ));
    }
    let path = dir.join("agent.toml");
    std::fs::write(&path, text).expect("written");
    path
}

/// Processor time that a process has used.
pub fn cpu(pid: u32) -> Duration {
    /// Clock ticks of `/proc/PID/stat` in a second (`USER_HZ`, the same on every machine that Linux runs on here).
    const TICKS_PER_SECOND: u64 = 100;
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).expect("the process is there");
    // The name, in parentheses, may hold blanks; utime and stime are the 12th and 13th fields after it.
    let fields = stat.rsplit(')').next().expect("fields").split_whitespace();
    let ticks: u64 = fields
        .skip(11)
        .take(2)
        .map(|field| field.parse::<u64>().expect("ticks"))
        .sum();
    Duration::from_millis(ticks * 1000 / TICKS_PER_SECOND)
}

impl AgentProcess {
    /// Starts it; with a token for the first time.
    pub fn start(dir: &Path, config: &Path, token: Option<&JoinToken>) -> Self {
        std::fs::set_permissions(dir, std::fs::Permissions::from_mode(0o755)).expect("the folder is ours");
        let mut command = Command::new(binary("mintage-agent"));
        command.arg("run").arg("--config").arg(config);
        Self::launch(dir, command, token)
    }

    /// Runs this command, with a token for the first time; its log is in `dir`.
    pub fn launch(dir: &Path, mut command: Command, token: Option<&JoinToken>) -> Self {
        let log = dir.join("agent.log");
        let file = std::fs::File::options()
            .create(true)
            .append(true)
            .open(&log)
            .expect("a log file");
        if let Some(token) = token {
            let path = dir.join("token");
            secret_file(&path, &token.encode());
            command.arg("--join-token-file").arg(path);
        }
        let child = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(file)
            .spawn()
            .expect("mintage-agent starts");
        Self { child, log }
    }

    /// Waits until `done` gives something.
    pub fn wait_for<T>(&mut self, what: &str, mut done: impl FnMut() -> Option<T>) -> T {
        let started = Instant::now();
        loop {
            if let Some(found) = done() {
                return found;
            }
            if let Ok(Some(status)) = self.child.try_wait() {
                panic!("the agent ended with {status} before {what}:\n{}", self.log());
            }
            assert!(started.elapsed() < WAIT_MAX, "{what} did not come:\n{}", self.log());
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Waits until its log is as wanted; the log.
    pub fn wait_for_log(&mut self, what: &str, done: impl Fn(&str) -> bool) -> String {
        let path = self.log.clone();
        self.wait_for(what, || {
            let log = std::fs::read_to_string(&path).unwrap_or_default();
            done(&log).then_some(log)
        })
    }

    /// Holds that it has not ended by itself.
    pub fn runs(&mut self) {
        if let Ok(Some(status)) = self.child.try_wait() {
            panic!("the agent ended with {status}:\n{}", self.log());
        }
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Everything it has logged.
    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// SIGHUP.
    pub fn hang_up(&self) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::HUP).expect("the process takes signals");
    }

    /// Waits until it has ended by itself; its exit code.
    pub fn ended(mut self) -> Option<i32> {
        let started = Instant::now();
        loop {
            if let Ok(Some(status)) = self.child.try_wait() {
                return status.code();
            }
            assert!(started.elapsed() < WAIT_MAX, "the agent does not end:\n{}", self.log());
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// `kill -9`.
    pub fn kill(mut self) {
        self.child.kill().expect("the process can be killed");
        self.child.wait().expect("the process ends");
    }

    /// SIGTERM, and the exit code.
    pub fn stop(mut self) -> Option<i32> {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("the process takes signals");
        self.child.wait().expect("the process ends").code()
    }
}

impl Drop for AgentProcess {
    fn drop(&mut self) {
        // Only the process started here, by its own handle; it may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
