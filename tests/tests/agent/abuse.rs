//! What hostile callers of the agent's socket send, and what it costs the others: nothing. CA and agent are the real ones.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::{
    net::SocketAddr,
    path::PathBuf,
    time::{Duration, Instant},
};

use mintage_agent::limits::{FIRST_OCTETS_WAIT, HTTP_HEAD_WAIT, LOCAL_REQUEST_BYTES_MAX};
use mintage_proto::workload::{
    JwtsvidRequest, X509svidRequest, X509svidResponse, spiffe_workload_api_client::SpiffeWorkloadApiClient,
};
use mintage_tests::kit::{
    agent::{AgentProcess, config},
    blank,
    ca::{CaProcess, entry, make, token},
    client::admin,
    face::{get, metric},
    http2::{HEADERS, PREFACE, SETTINGS, WHOLE, ends, floods, frame, head_of, literal},
    node::ask,
    proxies::free_port,
};
use rustix::process::{Pid, Resource, Rlimit, getrlimit, prlimit};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::UnixStream,
    time::timeout,
};
use tonic::{
    Code, Request, Status, Streaming,
    codegen::{Service as _, http},
    metadata::{BinaryMetadataValue, MetadataKey},
    transport::Channel,
};

/// Longest wait for what should happen at once; the machine may be busy.
const SOON: Duration = Duration::from_secs(30);
const PATH: &[u8] = b"/SpiffeWorkloadAPI/FetchX509SVID";
const WEB: &str = "spiffe://dev.test/web";

/// CA and agent as programs, and an entry for this process.
struct Scene {
    ca: CaProcess,
    agent: AgentProcess,
    socket: PathBuf,
    /// Where `/ready` is.
    page: SocketAddr,
    _folder: tempfile::TempDir,
}

impl Scene {
    async fn new(more: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let data = folder.path().join("ca");
        make(&data);
        let ca = CaProcess::start(&data, 0);
        entry(&ca.admin_socket(), "web", "/web").await;
        let file = config(folder.path(), &[]);
        let socket = folder.path().join("agent.sock");
        let text = std::fs::read_to_string(&file).unwrap();
        let page = SocketAddr::from(([127, 0, 0, 1], free_port()));
        let text = text.replace(
            "socket = \"off\"",
            &format!("socket = {socket:?}\nmetrics = \"{page}\""),
        );
        std::fs::write(&file, format!("{text}{more}")).unwrap();
        let token = token(&ca.admin_socket(), "n1").await;
        let mut agent = AgentProcess::start(folder.path(), &file, Some(&token));
        agent.wait_for_log("the entries", |log| log.contains("entries applied"));
        Self {
            ca,
            agent,
            socket,
            page,
            _folder: folder,
        }
    }

    async fn channel(&self) -> Channel {
        admin(&self.socket).await.unwrap()
    }

    /// Whoever comes now is served.
    async fn serves(&self) {
        first(self.channel().await).await.unwrap();
    }

    /// A connection on which HTTP/2 has begun.
    async fn raw(&self) -> UnixStream {
        let mut stream = UnixStream::connect(&self.socket).await.unwrap();
        let hello = [PREFACE, &frame(SETTINGS, 0, 0, &[])].concat();
        stream.write_all(&hello).await.unwrap();
        stream
    }

    /// How many calls of the socket ended so.
    async fn counted(&self, result: &str) -> u64 {
        let line = format!("mintage_agent_workload_requests_total{{result=\"{result}\"}}");
        metric(self.page, &line).await
    }

    /// How many calls were refused with this code.
    async fn refused(&self, code: &str) -> u64 {
        metric(
            self.page,
            &format!("mintage_agent_socket_refusals_total{{code=\"{code}\"}}"),
        )
        .await
    }

    fn stop(mut self) {
        self.agent.runs();
        assert_eq!(self.agent.stop(), Some(0));
        assert_eq!(self.ca.stop(), Some(0));
    }
}

fn call<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request
        .metadata_mut()
        .insert("workload.spiffe.io", "true".parse().unwrap());
    request
}

/// A stream that was sent its first message.
async fn first(channel: Channel) -> Result<Streaming<X509svidResponse>, Status> {
    let mut client = SpiffeWorkloadApiClient::new(channel);
    let answered = async {
        let mut stream = client.fetch_x509svid(call(X509svidRequest {})).await?.into_inner();
        let message = stream.message().await?.unwrap();
        assert_eq!(message.svids[0].spiffe_id, WEB);
        Ok(stream)
    };
    timeout(SOON, answered).await.expect("an answer in time")
}

/// True when the other end closes the connection, whatever it sends before.
async fn closed(stream: impl AsyncReadExt + Unpin) -> bool {
    closed_within(stream, SOON).await
}

async fn closed_within(mut stream: impl AsyncReadExt + Unpin, limit: Duration) -> bool {
    let mut sink = vec![0; 16 * 1024];
    let read = async { while stream.read(&mut sink).await.is_ok_and(|count| count > 0) {} };
    timeout(limit, read).await.is_ok()
}

/// A message over the limit is ResourceExhausted. A compressed one is not, but Unimplemented: nothing here unpacks anything,
/// which is what keeps memory constant, and that is the code that gRPC has for an encoding a server does not know (its
/// document on compression); a client that is told so sends the message plain.
#[tokio::test(flavor = "multi_thread")]
async fn d45_a_message_over_its_limit_and_a_compressed_one_are_refused_and_the_next_is_served() {
    let scene = Scene::new("").await;
    let channel = scene.channel().await;
    let mut client = SpiffeWorkloadApiClient::new(channel.clone());
    for octets in [LOCAL_REQUEST_BYTES_MAX + 1, 64 * 1024 + 1, 4 * 1024 * 1024 + 1] {
        let request = JwtsvidRequest {
            audience: vec!["a".repeat(octets)],
            ..JwtsvidRequest::default()
        };
        let refused = client.fetch_jwtsvid(call(request)).await.unwrap_err();
        assert_eq!(refused.code(), Code::ResourceExhausted, "{octets}: {refused:?}");
        first(channel.clone()).await.unwrap();
    }
    let bomb = http::Request::post("http://agent/SpiffeWorkloadAPI/FetchX509SVID")
        .header("content-type", "application/grpc")
        .header("grpc-encoding", "gzip")
        .header("workload.spiffe.io", "true")
        .header("te", "trailers")
        .body(tonic::body::Body::new("\u{1}\0\0\0\u{4}abcd".to_owned()))
        .unwrap();
    let mut raw = channel.clone();
    std::future::poll_fn(|cx| raw.poll_ready(cx)).await.unwrap();
    let answer = raw.call(bomb).await.unwrap();
    assert_eq!(answer.headers().get("grpc-status").unwrap(), "12", "{answer:?}");
    first(channel).await.unwrap();
    assert_eq!(scene.counted("message_size").await, 3);
    assert_eq!(
        (
            scene.refused("ResourceExhausted").await,
            scene.refused("Unimplemented").await
        ),
        (3, 1)
    );
    scene.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn d46_too_much_metadata_and_garbage_in_it_are_refused() {
    let scene = Scene::new("").await;
    let channel = scene.channel().await;
    let many: Vec<_> = (0..1000).map(|n| (format!("x-{n}"), "v".to_owned())).collect();
    let large = vec![("x-large".to_owned(), "v".repeat(LOCAL_REQUEST_BYTES_MAX + 1))];
    for headers in [many, large] {
        let mut request = call(X509svidRequest {});
        for (name, value) in headers {
            let name = MetadataKey::from_bytes(name.as_bytes()).unwrap();
            request.metadata_mut().insert(name, value.parse().unwrap());
        }
        let mut client = SpiffeWorkloadApiClient::new(channel.clone());
        // The refusal has a status of HTTP alone, which the client takes for the end of the stream.
        let refused = async { client.fetch_x509svid(request).await?.into_inner().message().await }.await;
        assert!(refused.is_err(), "{refused:?}");
        first(channel.clone()).await.unwrap();
    }
    let mut request = call(X509svidRequest {});
    let garbage = BinaryMetadataValue::from_bytes(&[0xff, 0, 0x80]);
    request.metadata_mut().insert_bin("x-garbage-bin", garbage);
    let answer = SpiffeWorkloadApiClient::new(channel.clone())
        .fetch_x509svid(request)
        .await;
    assert!(answer.is_ok(), "any octets are sound as Base64: {answer:?}");
    for (name, value) in [
        ("x-garbage-bin", &b"!!!!"[..]),
        ("x-garbage-bin", b"AA;AA"),
        ("x-garbage", b"caf\xe9"),
    ] {
        let request = http::Request::post(format!("http://agent{}", std::str::from_utf8(PATH).unwrap()))
            .header("content-type", "application/grpc")
            .header("workload.spiffe.io", "true")
            .header("te", "trailers")
            .header(name, http::HeaderValue::from_bytes(value).unwrap())
            .body(tonic::body::Body::new("\0\0\0\0\0".to_owned()))
            .unwrap();
        let mut raw = channel.clone();
        std::future::poll_fn(|cx| raw.poll_ready(cx)).await.unwrap();
        let answer = raw.call(request).await.unwrap();
        let status = Status::from_header_map(answer.headers()).unwrap();
        assert_eq!(status.code(), Code::InvalidArgument, "{name}: {status}");
        assert!(status.message().contains(name), "{status}");
    }
    assert_eq!(scene.counted("metadata").await, 3);
    // As a header that is no Base64 at all, and one that is no header.
    for garbage in [literal(b"x-garbage-bin", b"\xff\x00"), literal(b"X Y", b"v")] {
        let mut stream = scene.raw().await;
        let block = [head_of(PATH), literal(b"workload.spiffe.io", b"true"), garbage].concat();
        stream.write_all(&frame(HEADERS, WHOLE | 1, 1, &block)).await.unwrap();
        // Answered or reset: what counts is that the next caller is served.
        let mut some = [0; 64];
        timeout(SOON, stream.read(&mut some)).await.unwrap().unwrap();
        scene.serves().await;
    }
    scene.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn d47_a_caller_that_does_not_say_what_it_speaks_is_closed_at_the_deadline() {
    let scene = Scene::new("").await;
    let said = [&b""[..], b"P", b"PRI ", &PREFACE[..PREFACE.len() - 1]];
    let mut waiting = Vec::new();
    for octets in said {
        let mut stream = UnixStream::connect(&scene.socket).await.unwrap();
        stream.write_all(octets).await.unwrap();
        waiting.push(tokio::spawn(closed(stream)));
    }
    scene.serves().await;
    let began = Instant::now();
    for waits in waiting {
        assert!(waits.await.unwrap(), "it may stay for ever");
    }
    assert!(began.elapsed() >= FIRST_OCTETS_WAIT / 2, "nobody was given time");
    assert!(scene.counted("silent").await >= 1);
    scene.stop();
}

/// A request's head has longer than the first octets, more than a minute: an idle connection of a proxy is one, too.
#[tokio::test(flavor = "multi_thread")]
async fn d47_half_of_an_http_1_head_is_closed_at_its_own_deadline() {
    let scene = Scene::new("").await;
    let began = Instant::now();
    let mut waiting = Vec::new();
    for octets in [&b"GET / HTT"[..], b"GET / HTTP/1.1\r\nhost: x\r\nx-slow: "] {
        let mut stream = UnixStream::connect(&scene.socket).await.unwrap();
        stream.write_all(octets).await.unwrap();
        waiting.push(tokio::spawn(closed_within(stream, HTTP_HEAD_WAIT + SOON)));
    }
    scene.serves().await;
    for waits in waiting {
        assert!(waits.await.unwrap(), "it may stay for ever");
    }
    assert!(began.elapsed() >= FIRST_OCTETS_WAIT, "nobody was given time");
    scene.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn w2_a_header_that_is_missing_another_or_there_twice_is_refused_by_all_five_methods() {
    let scene = Scene::new("").await;
    let channel = scene.channel().await;
    let methods = [
        "FetchX509SVID",
        "FetchX509Bundles",
        "FetchJWTSVID",
        "FetchJWTBundles",
        "ValidateJWTSVID",
    ];
    for method in methods {
        for values in [
            &[][..],
            &["True"],
            &["TRUE"],
            &["1"],
            &["true", "true"],
            &["false", "true"],
        ] {
            let mut request = Request::new(());
            for value in values {
                request
                    .metadata_mut()
                    .append("workload.spiffe.io", value.parse().unwrap());
            }
            let answer = blank::call(&channel, &format!("/SpiffeWorkloadAPI/{method}"), request).await;
            let status = answer.unwrap_err();
            assert_eq!(status.code(), Code::InvalidArgument, "{method} {values:?}: {status}");
            assert!(status.message().contains("workload.spiffe.io: true, once"), "{status}");
        }
    }
    assert_eq!(scene.refused("InvalidArgument").await, 30);
    scene.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn d48_d51_what_is_no_grpc_is_refused() {
    let scene = Scene::new("").await;
    let mut tls = UnixStream::connect(&scene.socket).await.unwrap();
    // The start of a ClientHello of TLS 1.2.
    tls.write_all(b"\x16\x03\x01\x00\x2f\x01\x00\x00\x2b\x03\x03")
        .await
        .unwrap();
    assert!(closed(tls).await, "TLS is waited for");
    let path = std::str::from_utf8(PATH).unwrap();
    for (request, code) in [
        (
            format!("POST {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"),
            "404",
        ),
        ("GET / HTTP/1.0\r\n\r\n".to_owned(), "404"),
        ("BREW /pot HTCPCP/1.0\r\n\r\n".to_owned(), "400"),
    ] {
        let answer = ask(&scene.socket, &request).await.unwrap();
        assert_eq!(answer.split_whitespace().nth(1), Some(code), "{request}: {answer}");
    }
    assert_eq!(
        metric(scene.page, "mintage_agent_lookups_total{result=\"wrong_path\"}").await,
        2
    );
    scene.serves().await;
    scene.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn d49_a_flood_of_frames_ends_its_own_connection_and_nobody_else_waits() {
    let scene = Scene::new("").await;
    let steady = scene.channel().await;
    for flood in floods(&head_of(PATH)) {
        let what = flood.what;
        let mut flooding = Vec::new();
        for _ in 0..2 {
            flooding.push(tokio::spawn(ends(scene.raw().await, flood.clone())));
        }
        let mut answered = 0;
        while answered == 0 || !flooding.iter().all(tokio::task::JoinHandle::is_finished) {
            first(steady.clone()).await.unwrap();
            scene.serves().await;
            answered += 1;
        }
        println!("{what}: {answered} answers meanwhile");
        for flood in flooding {
            assert!(flood.await.unwrap(), "{what}: the connection lives on");
        }
    }
    assert!(scene.counted("flood").await >= 1);
    let told = scene.agent.log().matches("sends a flood of frames").count() as u64;
    assert!((1..=scene.counted("flood").await).contains(&told), "{told}");
    scene.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn d50_without_descriptors_callers_wait_and_are_served_when_there_are_some_again() {
    let scene = Scene::new("").await;
    let steady = scene.channel().await;
    first(steady.clone()).await.unwrap();
    let pid = Pid::from_raw(i32::try_from(scene.agent.id()).unwrap()).unwrap();
    let whole = getrlimit(Resource::Nofile).maximum;
    let limit = |current| {
        let new = Rlimit {
            current,
            maximum: whole,
        };
        prlimit(Some(pid), Resource::Nofile, new).expect("the process is ours");
    };
    let open = std::fs::read_dir(format!("/proc/{}/fd", scene.agent.id()))
        .unwrap()
        .count();
    // Within the reserve: callers get none of these, and the page does.
    limit(Some(open as u64 + 8));
    // One may be taken that was waited for before the limit fell.
    let waiting: Vec<_> = futures_util::future::join_all((0..8).map(|_| scene.channel())).await;
    let log = "cannot accept: ";
    let began = Instant::now();
    while !scene.agent.log().contains(log) {
        assert!(began.elapsed() < SOON, "{}", scene.agent.log());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let used = mintage_tests::kit::agent::cpu(scene.agent.id());
    tokio::time::sleep(Duration::from_secs(1)).await;
    let used = mintage_tests::kit::agent::cpu(scene.agent.id()).saturating_sub(used);
    assert!(used < Duration::from_millis(200), "it spins: {used:?} in a second");
    let page = get(scene.page, "/ready").await;
    for part in [
        "503",
        "\"ready\":false",
        "file descriptors are in use",
        "raise LimitNOFILE",
    ] {
        assert!(page.contains(part), "{part}: {page}");
    }
    limit(whole);
    drop(waiting);
    first(steady).await.unwrap();
    scene.serves().await;
    let page = get(scene.page, "/ready").await;
    assert!(page.contains("200 OK") && page.contains("\"ready\":true"), "{page}");
    scene.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_streams_of_one_user_are_refused_beyond_the_limits_and_harm_nobody() {
    let scene = Scene::new("[limits]\nstreams_per_user = 200\nconnections_per_user = 50\n").await;
    let watching = scene.channel().await;
    let mut kept = first(watching.clone()).await.unwrap();
    let (mut open, mut refused, mut closed) = (Vec::new(), 0, 0);
    // Connections of clients that were refused are held as well.
    let mut channels = Vec::new();
    for _ in 0..200 {
        let Ok(channel) = admin(&scene.socket).await else {
            closed += 50;
            continue;
        };
        let opening = (0..50).map(|_| first(channel.clone()));
        for outcome in futures_util::future::join_all(opening).await {
            match outcome {
                Ok(stream) => open.push(stream),
                Err(status) if status.message().contains("watches too often") => {
                    assert_eq!(status.code(), Code::Unavailable, "{status}");
                    refused += 1;
                }
                Err(status) => {
                    assert!(
                        matches!(status.code(), Code::Unavailable | Code::Unknown | Code::Cancelled),
                        "{status:?}"
                    );
                    closed += 1;
                }
            }
        }
        channels.push(channel);
    }
    println!("{} open, {refused} refused, {closed} not connected", open.len());
    assert_eq!(open.len(), 199, "with the one before they are two hundred");
    assert_eq!(open.len() + refused + closed, 10_000);
    assert!(refused > 0 && closed > 0);
    assert!(
        timeout(Duration::from_millis(10), kept.message()).await.is_err(),
        "the first one goes on"
    );
    drop((open, channels));
    // There is room for others again.
    let began = Instant::now();
    while let Err(status) = first(watching.clone()).await {
        assert!(began.elapsed() < SOON, "{status:?}");
    }
    scene.stop();
}
