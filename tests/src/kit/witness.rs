//! The real `mintage witness serve`, as a process that dies with this value, and a bare client of its wire.

use std::{
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use super::{bins::binary, ca::serving_address};

/// Longest wait for a program to serve; a loaded machine is slow.
const START_MAX: Duration = Duration::from_secs(60);

fn mintage(words: &[&str]) -> Command {
    let mut command = Command::new(binary("mintage"));
    command.env_remove("MINTAGE_FORMAT").env_remove("MINTAGE_LOG");
    command.args(words).stdin(Stdio::null());
    command
}

fn text(path: &Path) -> &str {
    path.to_str().expect("folders of tests have plain names")
}

fn passphrase_words(file: Option<&Path>) -> Vec<&str> {
    file.map_or(Vec::new(), |file| vec!["--passphrase-file", text(file)])
}

/// A witness's folder, its key, and where it listens once it has.
#[derive(Debug)]
pub struct WitnessHome {
    /// The key that verifies it, as `witness init` printed it.
    pub vkey: String,
    /// Where it listens; port 0 before its first start.
    pub address: String,
    dir: PathBuf,
    policy: PathBuf,
    passphrase: Option<PathBuf>,
}

impl WitnessHome {
    /// Makes a witness `name` below `folder` for the logs of this policy file.
    pub fn make(folder: &Path, name: &str, policy: &Path) -> Self {
        Self::make_as(folder, name, policy, None)
    }

    /// The same, with a key that is encrypted under the passphrase in this file.
    pub fn make_encrypted(folder: &Path, name: &str, policy: &Path, passphrase: &Path) -> Self {
        Self::make_as(folder, name, policy, Some(passphrase))
    }

    fn make_as(folder: &Path, name: &str, policy: &Path, passphrase: Option<&Path>) -> Self {
        let dir = folder.join(name);
        let mut command = mintage(&["witness", "init", "--dir", text(&dir), "--name", name, "-o", "json"]);
        command.args(passphrase_words(passphrase));
        let output = command.output().expect("mintage runs");
        assert!(output.status.success(), "{output:?}");
        let made: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
        Self {
            vkey: made["vkey"].as_str().expect("a key").to_owned(),
            address: "127.0.0.1:0".to_owned(),
            dir,
            policy: policy.to_path_buf(),
            passphrase: passphrase.map(Path::to_path_buf),
        }
    }

    /// What a start says that is refused, with the passphrase in this file or none.
    pub fn refused(&self, passphrase: Option<&Path>) -> String {
        let words = [
            "witness",
            "serve",
            "--dir",
            text(&self.dir),
            "--policy",
            text(&self.policy),
        ];
        let mut command = mintage(&[&words[..], &["--listen", "127.0.0.1:0"]].concat());
        super::refusal::refused(command.args(passphrase_words(passphrase)))
    }

    /// Where it logs.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.dir.with_extension("log")).unwrap_or_default()
    }

    /// The folder with the last checkpoint of each log.
    pub fn logs(&self) -> PathBuf {
        self.dir.join("logs")
    }

    /// The first start finds a port, which later ones keep.
    pub fn start(&mut self) -> WitnessProcess {
        let started = Instant::now();
        loop {
            match self.try_start(started) {
                Ok(process) => return process,
                // Somebody's connection may have been given the port while it was free.
                Err(told) if told.contains("Address already in use") && started.elapsed() < START_MAX => {
                    std::thread::sleep(Duration::from_millis(100));
                }
                Err(told) => panic!("{told}"),
            }
        }
    }

    fn try_start(&mut self, started: Instant) -> Result<WitnessProcess, String> {
        let log = self.dir.with_extension("log");
        let file = std::fs::File::options().create(true).append(true).open(&log);
        let file = file.expect("a log file");
        let from = usize::try_from(file.metadata().expect("a size").len()).expect("a short log");
        let words = [
            "witness",
            "serve",
            "--dir",
            text(&self.dir),
            "--policy",
            text(&self.policy),
        ];
        let child = mintage(&[&words[..], &["--listen", &self.address]].concat())
            .args(passphrase_words(self.passphrase.as_deref()))
            .stdout(Stdio::null())
            .stderr(file)
            .spawn()
            .expect("mintage starts");
        let mut process = WitnessProcess(child);
        loop {
            let log = self.log();
            if let Some(address) = serving_address(&log[from..]) {
                self.address = address;
                return Ok(process);
            }
            if let Ok(Some(status)) = process.0.try_wait() {
                return Err(format!("the witness ended with {status}:\n{}", &self.log()[from..]));
            }
            assert!(started.elapsed() < START_MAX, "the witness does not serve:\n{log}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Status and body of the answer to an add-checkpoint request; `None` when nobody answered.
    pub async fn ask(&self, body: &str) -> Option<(u16, String)> {
        self.call("add-checkpoint", body).await
    }

    /// Status and body of the answer to any call; `None` when nobody answered.
    pub async fn call(&self, name: &str, body: &str) -> Option<(u16, String)> {
        let mut stream = TcpStream::connect(&self.address).await.ok()?;
        let head = format!("POST /{name} HTTP/1.1\r\nhost: w\r\nconnection: close\r\n");
        let request = format!("{head}content-length: {}\r\n\r\n{body}", body.len());
        stream.write_all(request.as_bytes()).await.ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.ok()?;
        let status = answer.split(' ').nth(1)?.parse().ok()?;
        Some((status, answer.split_once("\r\n\r\n")?.1.to_owned()))
    }
}

/// A running witness.
#[derive(Debug)]
pub struct WitnessProcess(Child);

impl WitnessProcess {
    /// `kill -9`.
    pub fn kill(mut self) {
        self.0.kill().expect("the process can be killed");
        self.0.wait().expect("the process ends");
    }

    /// SIGHUP.
    pub fn hang_up(&self) {
        let pid = rustix::process::Pid::from_child(&self.0);
        rustix::process::kill_process(pid, rustix::process::Signal::HUP).expect("the process takes signals");
    }

    /// SIGTERM, and the exit code.
    pub fn stop(mut self) -> Option<i32> {
        let pid = rustix::process::Pid::from_child(&self.0);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("the process takes signals");
        self.0.wait().expect("the process ends").code()
    }
}

impl Drop for WitnessProcess {
    fn drop(&mut self) {
        // Only the process started here, by its own handle; it may have ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
