//! A CA for a test: the real one, in this process or as the real program, over a data directory of its own.

use std::{
    ffi::OsString,
    io::{Read as _, Seek as _, SeekFrom},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use mintage_attest::JoinToken;
use mintage_ca::{Ca, Config, Deps, InitOptions, KeyProtection, init};
use mintage_identity::{ReplicaName, TrustDomain};
use mintage_proto::v1::{
    ApplyEntriesRequest, ApplyEntriesResponse, CreateTokenRequest, DeleteEntryRequest, Entry, ListEntriesRequest,
};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tonic::{Response, Status};

use super::{bins::binary, client};

/// Longest wait for a program to serve; a loaded machine is slow.
const START_MAX: Duration = Duration::from_secs(120);

/// The trust domain of every test CA.
pub fn domain() -> TrustDomain {
    TrustDomain::parse("dev.test").expect("a trust domain")
}

/// Makes an authority in `dir` with the machine's clock.
pub fn make(dir: &Path) {
    make_with(dir, &Deps::system());
}

/// Any free port of this machine, for metrics.
pub fn with_metrics(config: Config) -> Config {
    config.with_metrics(Some("127.0.0.1:0".parse().expect("an address")))
}

/// Makes an authority in `dir`.
pub fn make_with(dir: &Path, deps: &Deps) {
    make_of(dir, domain(), deps);
}

/// Makes an authority of another trust domain in `dir`.
pub fn make_of(dir: &Path, trust_domain: TrustDomain, deps: &Deps) {
    let options = InitOptions {
        trust_domain,
        data_dir: dir.to_path_buf(),
        protection: KeyProtection::ClearForTestDomainOnly,
        replica: ReplicaName::parse("ca-1").expect("a name"),
    };
    init(&options, deps).expect("an authority is made");
}

/// A configuration over `dir` that listens on any free port.
pub fn config(dir: &Path) -> Config {
    Config::for_data_dir(dir).listening_on("127.0.0.1:0".parse().expect("an address"))
}

/// A running CA in this process, and the folder it lives in.
pub struct TestCa {
    /// The CA.
    pub ca: Ca,
    folder: TempDir,
}

impl TestCa {
    /// Makes and starts one.
    pub async fn start() -> Self {
        Self::start_with(|config| config).await
    }

    /// The same, with a change to its configuration.
    pub async fn start_with(change: impl FnOnce(Config) -> Config) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        make(&folder.path().join("ca"));
        let ca = Ca::start(change(config(&folder.path().join("ca"))), Deps::system())
            .await
            .expect("the CA starts");
        Self { ca, folder }
    }

    /// Makes and starts one of another trust domain.
    pub async fn start_of(trust_domain: &TrustDomain) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let data = folder.path().join("ca");
        make_of(&data, trust_domain.clone(), &Deps::system());
        let ca = Ca::start(config(&data), Deps::system()).await.expect("the CA starts");
        Self { ca, folder }
    }

    /// Its data directory.
    pub fn data_dir(&self) -> PathBuf {
        self.folder.path().join("ca")
    }

    /// Its metrics, when the configuration has an address for them.
    pub async fn metrics(&self) -> String {
        let face = self.ca.metrics_address().expect("an address of metrics");
        let mut stream = TcpStream::connect(face).await.expect("the metrics answer");
        let request = "GET /metrics HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
        stream.write_all(request.as_bytes()).await.expect("a request");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.expect("an answer");
        answer
    }

    /// A folder beside the data directory.
    pub fn beside(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// A join token.
    pub async fn token(&self, agent: &str) -> JoinToken {
        token(self.ca.admin_socket(), agent).await
    }

    /// Applies one entry for every agent.
    pub async fn entry(&self, name: &str, path: &str) {
        entry(self.ca.admin_socket(), name, path).await;
    }

    /// Stops it, keeping the folder.
    pub async fn stop(self) -> TempDir {
        self.ca.stop().await;
        self.folder
    }
}

/// A join token of the CA behind this admin socket.
pub async fn token(socket: &Path, agent: &str) -> JoinToken {
    let request = CreateTokenRequest {
        agent: agent.to_owned(),
        ttl_seconds: 600,
        dry_run: false,
    };
    let made = client::registry(socket)
        .await
        .create_token(request)
        .await
        .expect("a token")
        .into_inner();
    JoinToken::parse(&made.token).expect("a token that parses")
}

/// Applies one entry for every agent, for whoever has this process's user id.
pub async fn entry(socket: &Path, name: &str, path: &str) {
    entry_for(socket, name, path, rustix::process::geteuid().as_raw()).await;
}

/// Applies one entry for every agent, for whoever has this user id.
pub async fn entry_for(socket: &Path, name: &str, path: &str, uid: u32) {
    let domain = domain();
    let entry = Entry {
        name: name.to_owned(),
        spiffe_id: format!("spiffe://{domain}{path}"),
        agents: vec![format!("spiffe://{domain}/mintage/agent/*")],
        selectors: vec![format!("unix:uid:{uid}")],
        ..Entry::default()
    };
    apply(socket, vec![entry]).await.expect("the entry is applied");
}

/// Applies entries, and removes none.
///
/// # Errors
/// The CA's refusal.
pub async fn apply(socket: &Path, entries: Vec<Entry>) -> Result<ApplyEntriesResponse, Status> {
    let request = ApplyEntriesRequest {
        entries,
        ..ApplyEntriesRequest::default()
    };
    let applied = client::registry(socket).await.apply_entries(request).await;
    applied.map(Response::into_inner)
}

/// Deletes one entry.
pub async fn delete(socket: &Path, name: &str) {
    let request = DeleteEntryRequest {
        name: name.to_owned(),
        dry_run: false,
    };
    let mut registry = client::registry(socket).await;
    registry.delete_entry(request).await.expect("the entry is deleted");
}

/// Applies one entry for one agent alone, for a workload that nobody here is.
pub async fn entry_of(socket: &Path, name: &str, agent: &str) {
    let domain = domain();
    let entry = Entry {
        name: name.to_owned(),
        spiffe_id: format!("spiffe://{domain}/{name}"),
        agents: vec![format!("spiffe://{domain}/mintage/agent/{agent}")],
        selectors: vec!["unix:uid:1".to_owned()],
        ..Entry::default()
    };
    apply(socket, vec![entry]).await.expect("the entry is applied");
}

/// How many entries there are.
pub async fn entries(socket: &Path) -> usize {
    let list = client::registry(socket)
        .await
        .list_entries(ListEntriesRequest::default())
        .await;
    list.expect("a list").into_inner().entries.len()
}

/// The real `mintage-ca`, as a process that dies with this value.
#[derive(Debug)]
pub struct CaProcess {
    child: Child,
    /// Where agents connect.
    pub address: String,
    data_dir: PathBuf,
}

/// What a log has from this octet on.
fn written_since(log: &Path, from: u64) -> String {
    let mut text = Vec::new();
    if let Ok(mut file) = std::fs::File::open(log)
        && file.seek(SeekFrom::Start(from)).is_ok()
    {
        // What is missing is seen at the next look.
        let _ = file.read_to_end(&mut text);
    }
    String::from_utf8_lossy(&text).into_owned()
}

/// The threads of a process, each with the place in the kernel where it waits: whether it works, or waits for a disk.
fn threads(pid: u32) -> String {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task"));
    let tasks = tasks.into_iter().flatten().flatten().map(|task| task.path());
    let read = |path: &Path, name| std::fs::read_to_string(path.join(name)).unwrap_or_default();
    tasks
        .map(|task| format!("{}: {}\n", read(&task, "comm").trim(), read(&task, "wchan").trim()))
        .collect()
}

impl CaProcess {
    /// Starts `mintage-ca serve` on `port` (0 for any) and waits until it serves.
    pub fn start(data_dir: &Path, port: u16) -> Self {
        Self::start_with(data_dir, port, [])
    }

    /// The same, with more in its environment.
    pub fn start_with<const N: usize>(data_dir: &Path, port: u16, env: [(&str, OsString); N]) -> Self {
        let mut command = Command::new(binary("mintage-ca"));
        command.arg("serve").arg("--data-dir").arg(data_dir);
        command.args(["--listen", &format!("127.0.0.1:{port}")]).envs(env);
        Self::launch(data_dir, command)
    }

    /// Runs this command, which serves `data_dir`, and waits until it does.
    pub fn launch(data_dir: &Path, mut command: Command) -> Self {
        let log = data_dir.with_extension("log");
        let file = std::fs::File::options()
            .create(true)
            .append(true)
            .open(&log)
            .expect("a log file");
        let child = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(file.try_clone().expect("a second handle"))
            .spawn()
            .expect("mintage-ca starts");
        let from = file.metadata().expect("a size").len();
        let mut new = Self {
            child,
            address: String::new(),
            data_dir: data_dir.to_path_buf(),
        };
        let started = Instant::now();
        while new.address.is_empty() {
            // Former lives may have written much, so only this one's lines are read.
            let text = written_since(&log, from);
            assert!(
                started.elapsed() < START_MAX,
                "mintage-ca does not serve after {START_MAX:?}; its threads:\n{}its log:\n{text}",
                threads(new.child.id())
            );
            if let Ok(Some(status)) = new.child.try_wait() {
                panic!("mintage-ca ended with {status}:\n{}", written_since(&log, from));
            }
            new.address = serving_address(&text).unwrap_or_default();
            std::thread::sleep(Duration::from_millis(5));
        }
        new
    }

    /// The admin socket.
    pub fn admin_socket(&self) -> PathBuf {
        self.data_dir.join("admin.sock")
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Everything it has logged, in this life and former ones.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.data_dir.with_extension("log")).unwrap_or_default()
    }

    /// SIGHUP.
    pub fn hang_up(&self) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::HUP).expect("the process takes signals");
    }

    /// Waits until `done` says so of its log.
    pub fn wait_for(&mut self, what: &str, mut done: impl FnMut(&str) -> bool) {
        let started = Instant::now();
        while !done(&self.log()) {
            if let Ok(Some(status)) = self.child.try_wait() {
                panic!("mintage-ca ended with {status} before {what}:\n{}", self.log());
            }
            assert!(started.elapsed() < START_MAX, "{what} did not come:\n{}", self.log());
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Its exit code, once it has ended by itself.
    pub fn ended(&mut self) -> Option<Option<i32>> {
        let status = self.child.try_wait().expect("the process is ours");
        status.map(|status| status.code())
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

impl Drop for CaProcess {
    fn drop(&mut self) {
        // Only the process started here, by its own handle; it may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The address in the log line that tells of serving.
pub fn serving_address(log: &str) -> Option<String> {
    let line = log.lines().find(|line| line.contains("\"message\":\"serving\""))?;
    let fields: serde_json::Value = serde_json::from_str(line).ok()?;
    Some(fields.get("address")?.as_str()?.to_owned())
}
