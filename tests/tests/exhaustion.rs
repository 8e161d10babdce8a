//! The real CA and file descriptors: it takes as many as the system allows; when none is left new callers wait, those it has
//! are served on, it neither spins nor falls, and it takes callers again once there is room.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::{
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

use mintage_proto::v1::{BundleRequest, CaStatusRequest, CaStatusResponse, trust_domain_client::TrustDomainClient};
use mintage_tests::kit::{
    bins::binary,
    ca::{CaProcess, entry, make, token},
    client::{anonymous, join, registry},
    stream::{Stream, ask, code},
};
use rustix::process::{Pid, Resource, Rlimit, getrlimit, prlimit};
use tempfile::TempDir;
use tokio::{
    net::{TcpSocket, TcpStream},
    time::timeout,
};

/// Longest wait for what should happen at once; the machine may be busy.
const SOON: Duration = Duration::from_secs(30);
/// How long the process is watched, and what it may use of a processor in that time: a loop without a rest takes all of
/// one, or half of one on a busy machine; rests of 50 ms to 1 s take next to nothing.
const WATCHED: Duration = Duration::from_secs(2);
const BUSY_MAX: Duration = Duration::from_millis(400);
/// Clock ticks of `/proc/PID/stat` in a second (`USER_HZ`, the same on every machine that Linux runs on here).
const TICKS_PER_SECOND: u64 = 100;

/// The CA as a process, and an agent with an open stream.
struct Scene {
    ca: CaProcess,
    pid: Pid,
    stream: Stream,
    folder: TempDir,
}

impl Scene {
    async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let dir = folder.path().join("ca");
        make(&dir);
        let ca = CaProcess::start(&dir, 0);
        entry(&ca.admin_socket(), "web", "/web").await;
        let agent = join(&token(&ca.admin_socket(), "n1").await).await.unwrap();
        let stream = Stream::open(&agent, &ca.address).await.unwrap();
        let pid = Pid::from_raw(i32::try_from(ca.id()).unwrap()).unwrap();
        let mut scene = Self {
            ca,
            pid,
            stream,
            folder,
        };
        scene.is_served().await;
        scene
    }

    /// Descriptors it has open.
    fn open(&self) -> u64 {
        let listed = std::fs::read_dir(format!("/proc/{}/fd", self.ca.id())).expect("the process is there");
        listed.count() as u64
    }

    /// Lets it have this many descriptors and no more.
    fn limit(&self, descriptors: u64) {
        let new = Rlimit {
            current: Some(descriptors),
            maximum: getrlimit(Resource::Nofile).maximum,
        };
        prlimit(Some(self.pid), Resource::Nofile, new).expect("the process is ours");
    }

    /// Processor time it has used.
    fn used(&self) -> Duration {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.ca.id())).expect("the process is there");
        // The name, in parentheses, may hold blanks; utime and stime are the 12th and 13th fields after it.
        let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
        let ticks: u64 = fields[11..13].iter().map(|field| field.parse::<u64>().unwrap()).sum();
        Duration::from_millis(ticks * 1000 / TICKS_PER_SECOND)
    }

    /// Watches it for a while, in which nobody asks for anything.
    async fn does_not_spin(&self) {
        let before = self.used();
        tokio::time::sleep(WATCHED).await;
        let used = self.used().saturating_sub(before);
        println!("{used:?} of processor time in {WATCHED:?}");
        assert!(used < BUSY_MAX, "{used:?} of processor time in {WATCHED:?}");
    }

    /// Waits for a line of its log.
    async fn has_logged(&self, text: &str) {
        let log = self.folder.path().join("ca.log");
        let started = Instant::now();
        while !std::fs::read_to_string(&log).expect("a log").contains(text) {
            assert!(started.elapsed() < SOON, "{text:?} is not in {}", log.display());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// The stream it has is answered.
    async fn is_served(&mut self) {
        for _ in 0..20 {
            let answer = timeout(SOON, self.stream.ask_one(ask("web")))
                .await
                .expect("an answer in time");
            assert_eq!(code(&answer.expect("the stream goes on")), "");
        }
    }

    /// Whoever comes now is answered, over TCP and as a new agent.
    async fn takes_callers(&self, name: &str) {
        let token = token(&self.ca.admin_socket(), name).await;
        let calls = async {
            let (channel, _) = anonymous(&token).await.expect("a connection");
            let bundle = TrustDomainClient::new(channel).bundle(BundleRequest::default()).await;
            bundle.expect("an answer");
            join(&token).await.expect("a new agent");
        };
        timeout(SOON, calls).await.expect("callers are taken in time");
    }
}

async fn status(socket: &Path) -> CaStatusResponse {
    let asked = registry(socket).await.ca_status(CaStatusRequest {}).await;
    asked.unwrap().into_inner()
}

/// Waits until the CA says of itself what is wanted; each look is a new connection to the admin socket.
async fn says(socket: &Path, ready: bool) -> String {
    let started = Instant::now();
    loop {
        let status = status(socket).await;
        if status.ready == ready {
            return status.not_ready_because;
        }
        assert!(
            started.elapsed() < SOON,
            "ready is still {}: {}",
            status.ready,
            status.not_ready_because
        );
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Connections that say nothing, from several addresses, so that no limit of one source gets in the way.
async fn crowd(address: &str, connections: usize) -> Vec<TcpStream> {
    let address = address.parse().unwrap();
    let connect = |n: usize| async move {
        let socket = TcpSocket::new_v4().unwrap();
        socket
            .bind(format!("127.0.0.{}:0", 2 + n % 8).parse().unwrap())
            .unwrap();
        socket
            .connect(address)
            .await
            .expect("the kernel takes it into the backlog")
    };
    futures_util::future::join_all((0..connections).map(connect)).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crowd_that_uses_up_the_descriptors_waits_and_leaves_the_reserve_alone() {
    let mut scene = Scene::new().await;
    let socket = scene.ca.admin_socket();
    let limit = scene.open() + 60;
    scene.limit(limit);
    let crowd = crowd(&scene.ca.address, 240).await;
    // Told over a new connection: the last descriptors are not for callers over TCP.
    let why = says(&socket, false).await;
    assert!(why.contains("file descriptors"), "{why}");
    let open = scene.open();
    println!("{open} of {limit} descriptors are open");
    assert!(
        open > limit / 2 && open < limit,
        "{open} of {limit} descriptors are open"
    );
    scene.does_not_spin().await;
    scene.is_served().await;
    let reserve = limit / 4;
    assert!(
        scene.open() <= limit - reserve + 8,
        "the reserve is for administrators and the ledger"
    );
    drop(crowd);
    assert_eq!(says(&socket, true).await, "");
    scene.takes_callers("n2").await;
    scene.is_served().await;
    assert_eq!(scene.ca.stop(), Some(0));
}

#[test]
fn the_soft_limit_of_descriptors_is_raised_to_the_hard_one() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("ca");
    make(&dir);
    let mut command = Command::new("sh");
    let serve = "ulimit -Sn 200 && exec \"$0\" serve --listen 127.0.0.1:0 --data-dir \"$1\"";
    command.args(["-c", serve]).arg(binary("mintage-ca")).arg(&dir);
    let ca = CaProcess::launch(&dir, command);
    let limits = std::fs::read_to_string(format!("/proc/{}/limits", ca.id())).unwrap();
    let files = limits.lines().find(|line| line.starts_with("Max open files")).unwrap();
    let [soft, hard] = [3, 4].map(|at| files.split_whitespace().nth(at).unwrap());
    assert_ne!(hard, "200", "a machine with a limit that can be raised");
    assert_eq!(soft, hard, "{files}");
    assert_eq!(ca.stop(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn not_one_descriptor_left_is_a_pause_and_no_end() {
    let mut scene = Scene::new().await;
    let socket = scene.ca.admin_socket();
    let before = getrlimit(Resource::Nofile).current.unwrap();
    // Below what is open already: whatever the process opens now fails, whoever asks for it.
    scene.limit(16);
    assert!(scene.open() > 16);
    let crowd = crowd(&scene.ca.address, 40).await;
    let administrator = tokio::net::UnixStream::connect(&socket).await.unwrap();
    scene.has_logged("no file descriptors are left").await;
    scene.has_logged("connection to the admin socket refused").await;
    scene.does_not_spin().await;
    scene.is_served().await;
    scene.does_not_spin().await;
    scene.is_served().await;
    scene.limit(before);
    drop((crowd, administrator));
    assert_eq!(says(&socket, true).await, "");
    scene.takes_callers("n2").await;
    scene.is_served().await;
    assert_eq!(scene.ca.stop(), Some(0));
}
