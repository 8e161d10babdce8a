//! The CA's edge against callers who break the rules of the transport: roles, sizes, handshakes, certificates, floods.
//! In every case the others are still served.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use mintage_ca::roles::{Role, allowed};
use mintage_proto::{
    limits::AGENT_MESSAGE_BYTES_MAX,
    v1::{AttestRequest, BundleRequest, node_client::NodeClient, trust_domain_client::TrustDomainClient},
};
use mintage_tests::kit::{
    blank::call,
    ca::{self, TestCa},
    client::{Joined, admin, anonymous, channel, join, key_and_csr, provider},
    http2::{PING, PREFACE, SETTINGS, frame},
    stream::{Stream, ask, ask_with, code},
};
use mintage_verifier::JoinVerifier;
use prost::Message as _;
use rustls::{
    AlertDescription, ClientConfig, HandshakeKind, SupportedProtocolVersion,
    client::Resumption,
    pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName},
    time_provider::DefaultTimeProvider,
    version::{TLS12, TLS13},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
    time::timeout,
};
use tokio_rustls::{TlsConnector, client::TlsStream};
use tonic::{Code, Request, Status, codegen::http, metadata::MetadataKey, transport::Channel};
use tower::Service;

/// Longest wait for what should happen at once; the machine may be busy.
const SOON: Duration = Duration::from_secs(30);
/// How long a refusal may be under way before a connection counts as accepted; a busy machine needs some of it.
const REFUSAL: Duration = Duration::from_secs(1);
/// The CA's deadline of a handshake.
const HANDSHAKE: Duration = Duration::from_secs(5);
/// The CA serves whoever comes now.
async fn serves(ca: &TestCa) {
    let (channel, _) = anonymous(&ca.token("probe").await).await.expect("a new connection");
    bundle(channel).await.expect("an answer");
}

async fn bundle(channel: Channel) -> Result<(), Status> {
    let asked = TrustDomainClient::new(channel).bundle(BundleRequest::default()).await;
    asked.map(|_| ())
}

#[tokio::test(flavor = "multi_thread")]
async fn every_rpc_is_refused_to_every_role_without_a_row() {
    let ca = TestCa::start().await;
    let agent = join(&ca.token("n1").await).await.unwrap();
    let address = ca.ca.address().to_string();
    let channels = [
        (Role::Anonymous, anonymous(&ca.token("n2").await).await.unwrap().0),
        (Role::Agent, agent.channel(&address).await.unwrap().0),
        (Role::Admin, admin(ca.ca.admin_socket()).await.unwrap()),
    ];
    let health = ["Check", "List", "Watch"].map(|method| format!("/grpc.health.v1.Health/{method}"));
    let unknown = [
        "/mintage.v1.Node/Nothing",
        "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
        "/",
    ];
    let paths: Vec<String> = mintage_proto::every_rpc()
        .iter()
        .map(mintage_proto::Rpc::path)
        .collect();
    assert!(paths.len() > 25, "{paths:?}");
    let paths = paths.into_iter().chain(health).chain(unknown.map(str::to_owned));
    let mut wrong = Vec::new();
    for path in paths {
        for (role, channel) in &channels {
            let outcome = call(channel, &path, Request::new(())).await;
            let code = outcome.as_ref().err().map(Status::code);
            let right = match allowed(&path) {
                None => code == Some(Code::Unimplemented),
                Some(roles) if !roles.contains(role) => code == Some(Code::PermissionDenied),
                Some(_) => !matches!(
                    code,
                    Some(Code::PermissionDenied | Code::Unimplemented | Code::Internal | Code::Unavailable)
                ),
            };
            if !right {
                wrong.push(format!("{role:?} {path}: {outcome:?}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    ca.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_workloads_certificate_opens_no_door_of_an_agent() {
    let ca = TestCa::start().await;
    ca.entry("web", "/web").await;
    let agent = join(&ca.token("n1").await).await.unwrap();
    let address = ca.ca.address().to_string();
    let mut stream = Stream::open(&agent, &address).await.unwrap();
    let (key, csr) = key_and_csr();
    let issued = stream.ask_one(ask_with("web", csr)).await.unwrap();
    let chain = std::iter::once(issued.leaf).chain(agent.chain[1..].iter().cloned());
    let workload = Joined {
        key,
        chain: chain.collect(),
        ..agent.clone()
    };
    assert_eq!(
        Stream::open(&workload, &address).await.unwrap_err().code(),
        Code::PermissionDenied
    );
    let (channel, _) = workload.channel(&address).await.unwrap();
    let refused = call(&channel, "/mintage.v1.Registry/ListEntries", Request::new(()))
        .await
        .unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied);
    assert_eq!(code(&stream.ask_one(ask("web")).await.unwrap()), "");
    ca.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_over_its_limit_is_refused_before_it_is_read() {
    let ca = TestCa::start().await;
    ca.entry("web", "/web").await;
    let token = ca.token("n1").await;
    let agent = join(&token).await.unwrap();
    let (channel, _) = anonymous(&token).await.unwrap();
    // The largest message is read, and found to lack a request id.
    for (octets, code) in [
        (AGENT_MESSAGE_BYTES_MAX, Code::InvalidArgument),
        (AGENT_MESSAGE_BYTES_MAX + 1, Code::ResourceExhausted),
        (4 * 1024 * 1024 + 1, Code::ResourceExhausted),
    ] {
        let mut request = AttestRequest {
            secret: vec![0; octets],
            ..AttestRequest::default()
        };
        request.secret.truncate(2 * octets - request.encoded_len());
        assert_eq!(request.encoded_len(), octets);
        let refused = NodeClient::new(channel.clone()).attest(request).await.unwrap_err();
        assert_eq!(refused.code(), code, "{octets}: {refused:?}");
    }
    // A compressed message is refused unread: nothing here unpacks anything, and Unimplemented rather than ResourceExhausted is
    // what gRPC has for an encoding that a server does not know.
    let bomb = http::Request::post("http://mintage.invalid/mintage.v1.TrustDomain/Bundle")
        .header("content-type", "application/grpc")
        .header("grpc-encoding", "gzip")
        .header("te", "trailers")
        .body(tonic::body::Body::new("\u{1}\0\0\0\u{4}abcd".to_owned()))
        .unwrap();
    let mut raw = channel.clone();
    std::future::poll_fn(|cx| raw.poll_ready(cx)).await.unwrap();
    let answer = raw.call(bomb).await.unwrap();
    assert_eq!(answer.headers().get("grpc-status").unwrap(), "12", "{answer:?}");

    let address = ca.ca.address().to_string();
    let mut stream = Stream::open(&agent, &address).await.unwrap();
    stream
        .ask(vec![ask_with("web", vec![0x30; AGENT_MESSAGE_BYTES_MAX + 1])])
        .await
        .unwrap();
    let refused = timeout(SOON, stream.minted()).await.unwrap().unwrap_err();
    assert_eq!(
        refused.code(),
        Code::ResourceExhausted,
        "the stream says why it ends: {refused:?}"
    );
    let mut stream = Stream::open(&agent, &address).await.unwrap();
    assert_eq!(code(&stream.ask_one(ask("web")).await.unwrap()), "");
    ca.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn too_much_metadata_is_refused_and_the_next_call_is_served() {
    let ca = TestCa::start().await;
    let (channel, _) = anonymous(&ca.token("n1").await).await.unwrap();
    let many: Vec<_> = (0..1000).map(|n| (format!("x-{n}"), "v".to_owned())).collect();
    let large = vec![("x-large".to_owned(), "v".repeat(17 * 1024))];
    for headers in [many, large] {
        let mut request = Request::new(BundleRequest::default());
        for (name, value) in headers {
            let name = MetadataKey::from_bytes(name.as_bytes()).unwrap();
            request.metadata_mut().insert(name, value.parse().unwrap());
        }
        let refused = TrustDomainClient::new(channel.clone()).bundle(request).await;
        assert!(refused.is_err(), "{refused:?}");
        bundle(channel.clone()).await.unwrap();
    }
    ca.stop().await;
}

/// Whatever comes until the other end closes.
async fn until_closed(mut stream: TcpStream) -> Vec<u8> {
    let mut octets = Vec::new();
    // A reset is an end as well.
    let _ = timeout(SOON, stream.read_to_end(&mut octets))
        .await
        .expect("the connection is closed in time");
    octets
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_that_does_not_finish_its_handshake_is_closed_at_the_deadline() {
    let ca = TestCa::start().await;
    let address = ca.ca.address();
    let silent = async {
        let started = Instant::now();
        assert!(
            until_closed(TcpStream::connect(address).await.unwrap())
                .await
                .is_empty()
        );
        started.elapsed()
    };
    let drip = async {
        let started = Instant::now();
        let mut stream = TcpStream::connect(address).await.unwrap();
        // The start of a ClientHello that never ends, one octet at a time.
        for octet in [0x16, 3, 1, 2, 0, 1].iter().cycle().take(240) {
            tokio::time::sleep(Duration::from_millis(250)).await;
            if stream.write_all(&[*octet]).await.is_err() {
                return started.elapsed();
            }
        }
        panic!("a drip was listened to for a minute");
    };
    for lasted in <[Duration; 2]>::from(tokio::join!(silent, drip)) {
        assert!(
            lasted > HANDSHAKE - Duration::from_secs(1) && lasted < SOON,
            "{lasted:?}"
        );
    }
    serves(&ca).await;
    ca.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn http_without_tls_gets_no_answer() {
    let ca = TestCa::start().await;
    let preface = [PREFACE, &frame(SETTINGS, 0, 0, &[])].concat();
    for octets in [b"GET / HTTP/1.1\r\nhost: x\r\n\r\n".as_slice(), &preface] {
        let mut stream = TcpStream::connect(ca.ca.address()).await.unwrap();
        stream.write_all(octets).await.unwrap();
        let answer = until_closed(stream).await;
        // Nothing, or a TLS alert (RFC 8446, section 5.1).
        assert!(answer.first().is_none_or(|kind| *kind == 0x15), "{answer:?}");
    }
    serves(&ca).await;
    ca.stop().await;
}

/// A client that trusts the CA, with the versions and the certificate a test wants.
async fn client(
    ca: &TestCa,
    version: &'static SupportedProtocolVersion,
    identity: Option<(Vec<Vec<u8>>, Vec<u8>)>,
) -> ClientConfig {
    let token = ca.token("pins").await;
    let pins = token.root_hashes().iter().copied();
    let verifier = JoinVerifier::new(token.trust_domain().clone(), pins, &provider()).unwrap();
    let builder = ClientConfig::builder_with_details(provider(), Arc::new(DefaultTimeProvider))
        .with_protocol_versions(&[version])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(verifier);
    let mut config = match identity {
        None => builder.with_no_client_auth(),
        Some((chain, key)) => {
            let chain = chain.into_iter().map(CertificateDer::from).collect();
            builder
                .with_client_auth_cert(chain, PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key)))
                .unwrap()
        }
    };
    config.alpn_protocols = vec![b"h2".to_vec()];
    config
}

/// What a client's attempt came to.
#[derive(Debug, PartialEq, Eq)]
enum Outcome {
    Served,
    Alert(AlertDescription),
    /// The connection ended without a word.
    Cut,
}

/// Connects and makes a call that anybody may make.
async fn attempt(ca: &TestCa, config: ClientConfig) -> Outcome {
    let config = Arc::new(config);
    let handshake = async {
        let mut stream = connect(ca, "127.0.0.1", config.clone()).await?;
        // In TLS 1.3 a client learns of its refusal after its own handshake is over. Nothing is sent before that: what the
        // CA has not read when it closes would take the alert with it.
        match timeout(REFUSAL, stream.read_u8()).await {
            Ok(Err(error)) => Err(error),
            Ok(Ok(octet)) => panic!("the CA speaks first: {octet}"),
            Err(_) => Ok(()),
        }
    };
    let alert = |error: std::io::Error| match error.get_ref().and_then(|error| error.downcast_ref()) {
        Some(rustls::Error::AlertReceived(alert)) => Outcome::Alert(*alert),
        _ => Outcome::Cut,
    };
    if let Err(error) = timeout(SOON, handshake).await.expect("an outcome in time") {
        return alert(error);
    }
    let served = async {
        let (channel, _) = channel(&ca.ca.address().to_string(), config)
            .await
            .expect("a handshake");
        bundle(channel).await.expect("an answer");
    };
    timeout(SOON, served).await.expect("an answer in time");
    Outcome::Served
}

#[tokio::test(flavor = "multi_thread")]
async fn old_tls_and_certificates_that_prove_nothing_are_refused_with_an_alert_and_counted() {
    let (ca, other) = tokio::join!(TestCa::start_with(ca::with_metrics), TestCa::start());
    let agent = join(&ca.token("n1").await).await.unwrap();
    let with = |chain: Vec<Vec<u8>>, key: &[u8]| client(&ca, &TLS13, Some((chain, key.to_vec())));
    assert_eq!(attempt(&ca, client(&ca, &TLS13, None).await).await, Outcome::Served);
    let own = attempt(&ca, with(agent.chain.clone(), &agent.key).await).await;
    assert_eq!(own, Outcome::Served);

    // The same trust domain and the same name, by another authority.
    let foreign = join(&other.token("n1").await).await.unwrap();
    let mixed = vec![foreign.chain[0].clone(), agent.chain[1].clone()];
    let key = rcgen::KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::default();
    let id = "spiffe://dev.test/mintage/agent/n1".try_into().unwrap();
    params.subject_alt_names = vec![rcgen::SanType::URI(id)];
    let own = params.self_signed(&key).unwrap().der().to_vec();
    let mut long = agent.chain.clone();
    long.extend(vec![agent.chain[1].clone(); 28]);
    let huge = [agent.chain.clone(), vec![vec![0x30; 1024 * 1024]]].concat();
    let mut cases = vec![(
        "TLS 1.2",
        client(&ca, &TLS12, None).await,
        AlertDescription::ProtocolVersion,
    )];
    for (what, chain, key, alert) in [
        (
            "another authority",
            foreign.chain.clone(),
            &foreign.key,
            AlertDescription::UnknownCA,
        ),
        (
            "a foreign leaf below our issuer",
            mixed,
            &foreign.key,
            AlertDescription::UnknownCA,
        ),
        (
            "self-signed",
            vec![own],
            &key.serialize_der(),
            AlertDescription::CertificateUnknown,
        ),
        ("a chain of 30", long, &agent.key, AlertDescription::CertificateUnknown),
    ] {
        cases.push((what, with(chain, key).await, alert));
    }
    const REFUSED: u32 = 5;
    let mut wrong = Vec::new();
    for (count, (what, config, alert)) in (1..=REFUSED).zip(cases) {
        let outcome = attempt(&ca, config).await;
        if outcome != Outcome::Alert(alert) {
            wrong.push(format!("{what}: {outcome:?}, not {alert:?}"));
        }
        refusals(&ca, "tls", count).await;
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    // The CA closes while most of this is still under way, so its alert may be lost on the way back.
    assert_ne!(
        attempt(&ca, with(huge, &agent.key).await).await,
        Outcome::Served,
        "a chain of 1 MB"
    );
    refusals(&ca, "tls", REFUSED + 1).await;
    serves(&ca).await;
    tokio::join!(ca.stop(), other.stop());
}

async fn connect(ca: &TestCa, from: &str, config: Arc<ClientConfig>) -> std::io::Result<TlsStream<TcpStream>> {
    let socket = TcpSocket::new_v4()?;
    socket.bind(format!("{from}:0").parse().expect("an address"))?;
    let stream = socket.connect(ca.ca.address()).await?;
    let name = ServerName::try_from("mintage.invalid").expect("a name");
    TlsConnector::from(config).connect(name, stream).await
}

/// Waits until this many connections were refused for this reason: the count follows the close.
async fn refusals(ca: &TestCa, reason: &str, count: u32) {
    let line = format!("mintage_refused_connections_total{{reason=\"{reason}\"}} {count}");
    let counted = async { while !ca.metrics().await.lines().any(|found| found == line) {} };
    let counted = timeout(SOON, counted).await;
    assert!(counted.is_ok(), "no {line} in\n{}", ca.metrics().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_that_is_silent_after_its_handshake_is_closed_at_the_deadline() {
    let ca = TestCa::start_with(ca::with_metrics).await;
    let config = Arc::new(client(&ca, &TLS13, None).await);
    let lasted = async |octets: &[u8]| {
        let mut stream = connect(&ca, "127.0.0.1", config.clone()).await.unwrap();
        let started = Instant::now();
        stream.write_all(octets).await.unwrap();
        let mut answer = Vec::new();
        // An end without a goodbye is an end as well.
        let _ = timeout(SOON, stream.read_to_end(&mut answer))
            .await
            .expect("the connection is closed in time");
        assert!(answer.is_empty(), "{answer:?}");
        started.elapsed()
    };
    let almost = &PREFACE[..PREFACE.len() - 1];
    for lasted in <[Duration; 2]>::from(tokio::join!(lasted(&[]), lasted(almost))) {
        assert!(
            lasted > HANDSHAKE - Duration::from_secs(1) && lasted < SOON,
            "{lasted:?}"
        );
    }
    refusals(&ca, "timeout", 2).await;
    // Whoever speaks something else is not waited for at all.
    assert!(lasted(b"GET / HTTP/1.1\r\n").await < HANDSHAKE - Duration::from_secs(1));
    refusals(&ca, "preface", 1).await;
    serves(&ca).await;
    ca.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_preface_in_small_pieces_is_served_and_nothing_behind_it_is_lost() {
    let ca = TestCa::start().await;
    let config = Arc::new(client(&ca, &TLS13, None).await);
    let behind = [frame(SETTINGS, 0, 0, &[]), frame(PING, 0, 0, b"hello ca")].concat();
    let octets = [PREFACE, &behind].concat();
    let answered = frame(PING, 1, 0, b"hello ca");
    for piece in [1, 7, octets.len()] {
        let mut stream = connect(&ca, "127.0.0.1", config.clone()).await.unwrap();
        for piece in octets.chunks(piece) {
            stream.write_all(piece).await.unwrap();
            stream.flush().await.unwrap();
        }
        let mut got = Vec::new();
        let answer = async {
            while !got.windows(answered.len()).any(|window| window == answered) {
                assert!(stream.read_buf(&mut got).await.unwrap() > 0, "closed after {got:?}");
            }
        };
        timeout(SOON, answer).await.expect("the ping is answered");
    }
    ca.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_session_is_ever_resumed() {
    let ca = TestCa::start().await;
    let mut config = client(&ca, &TLS13, None).await;
    config.resumption = Resumption::in_memory_sessions(8);
    let config = Arc::new(config);
    for _ in 0..3 {
        let mut stream = connect(&ca, "127.0.0.1", config.clone()).await.unwrap();
        assert_eq!(stream.get_ref().1.handshake_kind(), Some(HandshakeKind::Full));
        stream.write_all(PREFACE).await.unwrap();
        // Its settings come after whatever tickets there would be.
        let mut first = [0; 9];
        timeout(SOON, stream.read_exact(&mut first)).await.unwrap().unwrap();
        assert_eq!(first[3], SETTINGS);
        assert_eq!(stream.get_ref().1.tls13_tickets_received(), 0);
    }
    ca.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn half_open_connections_of_one_address_leave_everybody_else_served() {
    let ca = TestCa::start().await;
    ca.entry("web", "/web").await;
    let agent = join(&ca.token("n1").await).await.unwrap();
    let mut stream = Stream::open(&agent, &ca.ca.address().to_string()).await.unwrap();
    let config = Arc::new(client(&ca, &TLS13, None).await);
    let flood: Vec<_> = futures_util::future::join_all((0..200).map(|_| TcpStream::connect(ca.ca.address()))).await;
    let flood: Vec<_> = flood.into_iter().map(Result::unwrap).collect();
    let started = Instant::now();
    let elsewhere = timeout(SOON, connect(&ca, "127.0.0.2", config.clone())).await.unwrap();
    assert!(elsewhere.is_ok(), "{elsewhere:?}");
    assert_eq!(code(&stream.ask_one(ask("web")).await.unwrap()), "");
    if started.elapsed() < HANDSHAKE / 2 {
        assert!(
            connect(&ca, "127.0.0.1", config).await.is_err(),
            "the flooding address has no place left"
        );
    }
    // The deadline gives every place back, whether or not the flood lets go.
    tokio::time::sleep(HANDSHAKE + Duration::from_secs(1)).await;
    serves(&ca).await;
    drop(flood);
    ca.stop().await;
}
