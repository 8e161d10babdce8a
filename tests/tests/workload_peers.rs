//! Processes that are not what they seem, before the socket of the real agent: each hears PermissionDenied with the reason,
//! at bounded cost, and the honest one beside them gets its identity from the real CA.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::{
    fs,
    io::Write,
    os::{
        fd::{AsFd, OwnedFd},
        unix::{fs::PermissionsExt, net::UnixStream, process::CommandExt},
    },
    path::{Path, PathBuf},
    pin::Pin,
    process::{Child, Command, Stdio},
    task::{Context, Poll},
    time::{Duration, Instant},
};

use hyper_util::rt::TokioIo;
use mintage_proto::{
    sds::{DiscoveryRequest, secret_discovery_service_client::SecretDiscoveryServiceClient},
    workload::{X509svidRequest, spiffe_workload_api_client::SpiffeWorkloadApiClient},
};
use mintage_tests::kit::{
    agent::{AgentProcess, config},
    ca::{CaProcess, entry, make, token},
    peers,
};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tonic::{
    Request,
    transport::{Channel, Endpoint},
};

/// What a child is to do; without it the child's test does nothing.
const ROLE: &str = "MINTAGE_TEST_ROLE";
const SOCKET: &str = "MINTAGE_TEST_SOCKET";
/// The program that the hand-off becomes, and the file by which it is told that a first call was answered.
const NEXT: &str = "MINTAGE_TEST_NEXT";
/// The beginning of HTTP/2, by which the agent knows what is spoken.
const BEGUN: &[u8] = b"PRI ";
/// Longest wait for the agent, and for a child's answer; the machine may be busy.
const SOON: Duration = Duration::from_secs(60);
/// Reading a file of 4 GB takes longer than this everywhere; a refusal takes milliseconds.
const BOUNDED: Duration = Duration::from_secs(1);

/// Not a test by itself: the processes that the tests below start.
#[tokio::test]
async fn child_process() {
    let Ok(role) = std::env::var(ROLE) else { return };
    let connect = || UnixStream::connect(std::env::var_os(SOCKET).unwrap()).unwrap();
    let stream = match role.as_str() {
        "ask" => {
            // Whatever is to happen to this process first has happened once its input ends.
            std::io::copy(&mut std::io::stdin(), &mut std::io::sink()).unwrap();
            connect()
        }
        "hand-off" => {
            let mut stream = connect();
            // The agent answers only after it has looked at this process.
            stream.write_all(BEGUN).unwrap();
            let kept = OwnedFd::from(stream.try_clone().unwrap());
            stream.set_nonblocking(true).unwrap();
            let stream = tokio::net::UnixStream::from_std(stream).unwrap();
            stream.readable().await.unwrap();
            let mut next = Command::new(std::env::var_os(NEXT).unwrap());
            next.args(["--exact", "child_process", "--nocapture"])
                .env(ROLE, "inherited");
            panic!("{}", next.stdin(kept).exec());
        }
        "twice" => {
            let channel = channel(connect(), 0).await.unwrap();
            eprintln!("told at first: {}", fetch_on(channel.clone()).await);
            fs::write(std::env::var_os(NEXT).unwrap(), "").unwrap();
            std::io::copy(&mut std::io::stdin(), &mut std::io::sink()).unwrap();
            return eprintln!("told: {}", fetch_on(channel).await);
        }
        "inherited" => UnixStream::from(std::io::stdin().as_fd().try_clone_to_owned().unwrap()),
        other => panic!("no role {other}"),
    };
    let begun = if role == "inherited" { BEGUN.len() } else { 0 };
    eprintln!("told: {}", fetch(stream, begun).await);
}

/// A stream on which the first octets were written already.
struct Begun {
    stream: tokio::net::UnixStream,
    left: usize,
}

impl AsyncRead for Begun {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Begun {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<std::io::Result<usize>> {
        let skipped = self.left.min(buf.len());
        if skipped > 0 {
            self.left -= skipped;
            return Poll::Ready(Ok(skipped));
        }
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// Asks for an X.509-SVID over a stream on which so many octets were written already.
async fn fetch(stream: UnixStream, begun: usize) -> String {
    match channel(stream, begun).await {
        Ok(channel) => fetch_on(channel).await,
        Err(error) => format!("no connection: {error}"),
    }
}

async fn channel(stream: UnixStream, begun: usize) -> Result<Channel, tonic::transport::Error> {
    stream.set_nonblocking(true).unwrap();
    let mut once = Some(Begun {
        stream: tokio::net::UnixStream::from_std(stream).unwrap(),
        left: begun,
    });
    let connector = tower::service_fn(move |_| {
        let stream = once.take().ok_or_else(|| std::io::Error::other("one connection"));
        async move { stream.map(TokioIo::new) }
    });
    let endpoint = Endpoint::from_static("http://agent");
    endpoint.connect_with_connector(connector).await
}

async fn fetch_on(channel: Channel) -> String {
    let mut request = Request::new(X509svidRequest {});
    request
        .metadata_mut()
        .insert("workload.spiffe.io", "true".parse().unwrap());
    let first = async {
        let mut answers = SpiffeWorkloadApiClient::new(channel.clone())
            .fetch_x509svid(request)
            .await?
            .into_inner();
        answers.message().await
    };
    let told = match first.await {
        Ok(Some(answer)) => format!("identity {}", answer.svids[0].spiffe_id),
        Ok(None) => "an end without an answer".to_owned(),
        Err(status) => format!("{:?} {}", status.code(), status.message()),
    };
    // Envoy's SDS beside it knows no more and no less.
    let secrets = DiscoveryRequest {
        resource_names: vec!["default".to_owned()],
        ..DiscoveryRequest::default()
    };
    let secrets = SecretDiscoveryServiceClient::new(channel).fetch_secrets(secrets).await;
    match secrets {
        Ok(_) if told.starts_with("identity") => told,
        Err(status) if told == format!("{:?} {}", status.code(), status.message()) => told,
        other => format!(
            "{told}, but SDS: {}",
            other.map_or_else(|status| status.to_string(), |_| "a secret".to_owned())
        ),
    }
}

/// CA and agent, and an entry for whoever has this process's user id.
struct Scene {
    folder: tempfile::TempDir,
    socket: PathBuf,
    agent: AgentProcess,
    ca: CaProcess,
}

impl Scene {
    async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let data = folder.path().join("ca");
        make(&data);
        let ca = CaProcess::start(&data, 0);
        entry(&ca.admin_socket(), "web", "/web").await;
        let file = config(folder.path(), &[]);
        let socket = folder.path().join("agent.sock");
        let text = fs::read_to_string(&file).unwrap();
        fs::write(&file, text.replace("socket = \"off\"", &format!("socket = {socket:?}"))).unwrap();
        let agent = AgentProcess::start(folder.path(), &file, Some(&token(&ca.admin_socket(), "n1").await));
        let scene = Self {
            folder,
            socket,
            agent,
            ca,
        };
        let started = Instant::now();
        // Until the agent has its stream it has nothing to give.
        loop {
            let told = if scene.socket.exists() {
                scene.asked(&mut Command::new(own()))
            } else {
                String::new()
            };
            if told == "identity spiffe://dev.test/web" {
                return scene;
            }
            assert!(started.elapsed() < SOON, "{told}: {}", scene.agent.log());
        }
    }

    /// A copy of this program, whose file can be changed.
    fn copy(&self, name: &str) -> PathBuf {
        let copy = self.folder.path().join(name);
        fs::copy(own(), &copy).unwrap();
        fs::set_permissions(&copy, PermissionsExt::from_mode(0o755)).unwrap();
        copy
    }

    fn child(&self, command: &mut Command, role: &str) -> Child {
        command
            .args(["--exact", "child_process", "--nocapture"])
            .env(ROLE, role)
            .env(SOCKET, &self.socket);
        let command = command
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        command.spawn().unwrap()
    }

    /// What a process is told that does nothing but ask.
    fn asked(&self, command: &mut Command) -> String {
        told(self.child(command, "ask"))
    }

    fn stop(self) {
        assert_eq!(self.agent.stop(), Some(0));
        assert_eq!(self.ca.stop(), Some(0));
    }
}

fn own() -> PathBuf {
    std::env::current_exe().unwrap()
}

/// Runs `copy` under a shell that waits until it can: while another thread starts a process, a file that was just written
/// may still be open for writing in there.
fn of(copy: &Path) -> Command {
    let mut command = Command::new("sh");
    let wait = r#"until "$0" --list >/dev/null 2>&1; do sleep 0.1; done; exec "$0" "$@""#;
    command.args(["-c", wait]).arg(copy);
    command
}

/// Lets a child go on and returns what it was told.
fn told(mut child: Child) -> String {
    drop(child.stdin.take());
    let output = child.wait_with_output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    let line = text.lines().find_map(|line| line.strip_prefix("told: "));
    line.unwrap_or_else(|| panic!("nothing was told: {text}")).to_owned()
}

#[track_caller]
fn denied(told: &str, why: &str) {
    assert!(told.starts_with("PermissionDenied ") && told.contains(why), "{told}");
}

/// Waits until a process is the program at `path`.
fn runs(child: &Child, path: &Path) {
    let started = Instant::now();
    let link = format!("/proc/{}/exe", child.id());
    while fs::read_link(&link).ok().as_deref() != Some(path) {
        assert!(started.elapsed() < SOON, "{link} is not {}", path.display());
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn processes_that_hide_their_executable_or_their_user_get_nothing() {
    let scene = Scene::new().await;
    let copy = scene.copy("deleted");
    let child = scene.child(&mut of(&copy), "ask");
    runs(&child, &copy);
    fs::remove_file(&copy).unwrap();
    denied(&told(child), "deleted or replaced");

    let copy = scene.copy("replaced");
    let child = scene.child(&mut of(&copy), "ask");
    runs(&child, &copy);
    fs::rename(scene.copy("other"), &copy).unwrap();
    denied(&told(child), "deleted or replaced");

    let copy = scene.copy("sparse");
    fs::File::options()
        .write(true)
        .open(&copy)
        .unwrap()
        .set_len(4 << 30)
        .unwrap();
    let child = scene.child(&mut of(&copy), "ask");
    runs(&child, &copy);
    let started = Instant::now();
    denied(&told(child), "4294967296 bytes");
    assert!(started.elapsed() < BOUNDED, "{:?}", started.elapsed());

    let mut unshared = Command::new("unshare");
    unshared.args(["--user", "--map-root-user"]);
    let able = Command::new("unshare")
        .args(["--user", "--map-root-user", "true"])
        .status();
    if able.is_ok_and(|status| status.success()) {
        denied(&scene.asked(unshared.arg(own())), "user namespace of its own");
    } else {
        peers::missing::<()>("a user namespace", "none can be made here");
    }
    assert_eq!(scene.asked(&mut Command::new(own())), "identity spiffe://dev.test/web");
    scene.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_handed_on_to_another_program_gets_nothing_more() {
    let scene = Scene::new().await;
    let next = scene.copy("next");
    let mut command = Command::new(own());
    let child = scene.child(command.env(NEXT, &next), "hand-off");
    denied(&told(child), "runs another program now");
    assert_eq!(scene.asked(&mut Command::new(own())), "identity spiffe://dev.test/web");
    scene.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_on_an_old_connection_is_attested_anew() {
    let scene = Scene::new().await;
    let copy = scene.copy("old");
    let answered = scene.folder.path().join("answered");
    let mut command = of(&copy);
    let child = scene.child(command.env(NEXT, &answered), "twice");
    let started = Instant::now();
    while !answered.exists() {
        assert!(started.elapsed() < SOON, "no first answer");
        std::thread::sleep(Duration::from_millis(5));
    }
    // The process lives on, as a program that nobody can look at any more.
    fs::rename(scene.copy("new"), &copy).unwrap();
    let output = {
        let mut child = child;
        drop(child.stdin.take());
        child.wait_with_output().unwrap()
    };
    let text = String::from_utf8_lossy(&output.stderr);
    let line = |start: &str| {
        text.lines()
            .find_map(|line| line.strip_prefix(start))
            .unwrap_or_default()
    };
    assert_eq!(line("told at first: "), "identity spiffe://dev.test/web", "{text}");
    denied(line("told: "), "connect again");
    scene.stop();
}
