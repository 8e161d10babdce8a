//! Two Envoys that nobody here wrote do mutual TLS with certificates and roots that the agent gives them by SDS: with both
//! kinds of stream, both validators and the bundle map, through rotations under load, and before and after a revocation.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use mintage_agent::{Agent, AgentHandle, Config, Deps};
use mintage_proto::{
    sds::{
        DataSource, DiscoveryRequest, Secret, data_source::Specifier, secret::Type,
        secret_discovery_service_client::SecretDiscoveryServiceClient,
    },
    v1::{RenewAgentRequest, RevokeRequest, revocation_client::RevocationClient, revoke_request::Target},
};
use mintage_svid::{Crl, pem};
use mintage_tests::kit::{
    ca::TestCa,
    client::{admin, provider, registry, settings},
    envoy::{Envoy, Peers, Side, envoy},
    face::metric,
    handshakes::Load,
};
use mintage_verifier::{AllowedIds, IdentitySource, RevocationCheck, Trust, TrustStore, client_config};
use prost::Message as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::UnixStream,
};
use tokio_rustls::TlsConnector;

const SERVER: &str = "spiffe://dev.test/server";
const CLIENT: &str = "spiffe://dev.test/client";
/// Rotations of both sides under load.
const ROUNDS: u64 = 100;
/// Calls with each certificate, so that the load meets every change.
const WITH_EACH: u64 = 20;
/// Longest wait for one of them: what is refused in passing is asked for again within a tenth of the lifetime, which is a minute.
const ROUND_MAX: Duration = Duration::from_secs(90);

struct Scene {
    ca: TestCa,
    agent: AgentHandle,
    folder: tempfile::TempDir,
}

async fn scene() -> Scene {
    let ca = TestCa::start().await;
    ca.entry("client", "/client").await;
    ca.entry("server", "/server").await;
    let folder = tempfile::tempdir().unwrap();
    let config = Config::new(folder.path().join("agent"))
        .with_socket(Some(folder.path().join("run/agent.sock")))
        .with_metrics("127.0.0.1:0".parse().unwrap())
        .unwrap()
        .with_bundle_map(folder.path().join("run/bundles.json"))
        .unwrap();
    let agent = Agent::start(config, Some(ca.token("n1").await), Deps::system()).unwrap();
    Scene { ca, agent, folder }
}

impl Scene {
    fn socket(&self) -> PathBuf {
        self.folder.path().join("run/agent.sock")
    }

    /// Both Envoys, once a call goes through.
    fn envoys(&self, program: &Path, api: &str, peers: Peers<'_>) -> (Envoy, Envoy) {
        let socket = self.socket();
        let side = |own, peer| Side {
            agent: &socket,
            api,
            own,
            peer,
            peers,
        };
        let server = Envoy::server(program, self.folder.path(), &side(SERVER, CLIENT));
        let mut client = Envoy::client(program, self.folder.path(), &side(CLIENT, SERVER));
        client.wait_for("a call", |client| called(client).ok());
        (server, client)
    }

    async fn messages(&self, result: &str) -> u64 {
        let face = self.agent.metrics_address().unwrap();
        metric(
            face,
            &format!("mintage_agent_sds_messages_total{{result=\"{result}\"}}"),
        )
        .await
    }

    /// Asks for new certificates of both.
    async fn renew(&self) {
        let request = RenewAgentRequest {
            name: "n1".to_owned(),
            ..RenewAgentRequest::default()
        };
        let mut registry = registry(self.ca.ca.admin_socket()).await;
        registry.renew_agent(request).await.unwrap();
    }

    /// The same, until a call shows the client's.
    async fn rotate(&self, client: &Envoy) {
        let before = called(client).unwrap();
        self.renew().await;
        let began = Instant::now();
        while called(client).unwrap() == before {
            assert!(began.elapsed() < ROUND_MAX, "no new certificate: {}", client.log());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    async fn end(self) {
        assert!(self.agent.shutdown(ROUND_MAX).await);
        self.ca.stop().await;
    }
}

/// The serial that the server saw of its client; what came instead when the call failed.
fn called(client: &Envoy) -> Result<String, String> {
    let answer = client.get().map_err(|error| error.to_string())?;
    let peer = answer.lines().find_map(|line| line.strip_prefix("x-peer: "));
    let serial = peer.and_then(|peer| peer.strip_prefix(CLIENT));
    match serial.filter(|_| answer.starts_with("HTTP/1.1 200")) {
        Some(serial) => Ok(serial.trim().to_owned()),
        None => Err(answer),
    }
}

/// Rotations under a steady load of 200 calls a second, each with a handshake: not one fails.
async fn rotations_under_load(scene: &Scene, client: &Envoy, validator: &str) {
    let began = Instant::now();
    let load = Load::through(client, CLIENT);
    let mut shown = load.other_than("").await;
    for _ in 0..ROUNDS {
        scene.renew().await;
        shown = load.other_than(&shown).await;
        load.goes_on(WITH_EACH).await;
    }
    let (calls, failed) = load.counts();
    println!(
        "{validator}: {calls} calls, each with a handshake, over {ROUNDS} rotations in {:.1} s, {:.0} a second, {failed} failed",
        began.elapsed().as_secs_f64(),
        load.per_second()
    );
    assert_eq!(failed, 0, "of {calls}: {:?}, {}", load.first_failure(), client.log());
    assert!(calls >= ROUNDS * WITH_EACH, "{calls} calls are no load");
    load.was_steady();
}

/// What the agent gives as the client's identity now, with the roots.
struct Given {
    key: Vec<u8>,
    chain: Vec<Vec<u8>>,
    roots: Vec<Vec<u8>>,
    /// The lists name something.
    lists_name_some: bool,
}

fn text(source: Option<DataSource>) -> String {
    match source.unwrap().specifier {
        Some(Specifier::InlineBytes(bytes)) => String::from_utf8(bytes).unwrap(),
        _ => panic!("it is not inline"),
    }
}

async fn given(socket: &Path) -> Given {
    let mut client = SecretDiscoveryServiceClient::new(admin(socket).await.unwrap());
    let request = DiscoveryRequest {
        resource_names: vec!["ROOTCA".to_owned(), CLIENT.to_owned()],
        ..DiscoveryRequest::default()
    };
    let response = client.fetch_secrets(request).await.unwrap().into_inner();
    let secrets = response.resources.iter();
    let secrets: Vec<Type> = secrets
        .map(|any| Secret::decode(&any.value[..]).unwrap().r#type.unwrap())
        .collect();
    let [Type::ValidationContext(context), Type::TlsCertificate(certificate)] = &secrets[..] else {
        panic!("{} secrets", secrets.len());
    };
    let lists = text(context.crl.clone());
    let lists = lists.split_inclusive("-----END X509 CRL-----\n");
    let mut lists = lists.map(|block| Crl::parse(&pem::decode(pem::Label::Crl, block).unwrap()).unwrap());
    Given {
        key: pem::decode_private_key(&text(certificate.private_key.clone()))
            .unwrap()
            .to_vec(),
        chain: pem::decode_certificates(&text(certificate.certificate_chain.clone())).unwrap(),
        roots: pem::decode_certificates(&text(context.trusted_ca.clone())).unwrap(),
        lists_name_some: lists.any(|list| list.entries() > 0),
    }
}

/// Whether the server answers whoever shows this certificate.
async fn accepts(folder: &Path, given: &Given) -> bool {
    let domain = mintage_tests::kit::ca::domain();
    let trust = Trust::builder(domain.clone())
        .domain(domain, given.roots.clone(), RevocationCheck::None)
        .unwrap()
        .build();
    let chain = given.chain.iter().cloned().map(CertificateDer::from).collect();
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(given.key.clone()));
    let identity = IdentitySource::new(chain, key, &provider()).unwrap();
    let server = AllowedIds::exact([SERVER.parse().unwrap()]).unwrap();
    let tls = client_config(TrustStore::new(trust), Some(identity), server, &settings()).unwrap();
    let stream = UnixStream::connect(folder.join("server.sock")).await.unwrap();
    let name = ServerName::try_from("envoy.invalid").unwrap();
    let Ok(mut stream) = TlsConnector::from(tls).connect(name, stream).await else {
        return false;
    };
    let asked = stream
        .write_all(b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
        .await;
    let mut answer = Vec::new();
    let read = stream.read_to_end(&mut answer).await;
    let accepted = answer.starts_with(b"HTTP/1.1 200");
    assert!(
        accepted || asked.is_err() || read.is_err(),
        "{}",
        String::from_utf8_lossy(&answer)
    );
    accepted
}

async fn revoke(scene: &Scene) {
    let request = RevokeRequest {
        target: Some(Target::SpiffeId(CLIENT.to_owned())),
        reason: "superseded".to_owned(),
        ..RevokeRequest::default()
    };
    let channel = admin(scene.ca.ca.admin_socket()).await.unwrap();
    RevocationClient::new(channel).revoke(request).await.unwrap();
}

fn program() -> Option<PathBuf> {
    let scratch = Path::new(env!("CARGO_TARGET_TMPDIR")).join("interop");
    fs::create_dir_all(&scratch).unwrap();
    envoy(&scratch)
}

/// Rotations, then a revocation; whether the server still takes the certificate that was revoked.
async fn through(program: &Path, api: &str, validator: &str) -> bool {
    let scene = scene().await;
    let (server, client) = scene.envoys(program, api, Peers::Sds(validator));
    rotations_under_load(&scene, &client, validator).await;
    for (envoy, name) in [(&server, "server"), (&client, "client")] {
        assert_eq!(envoy.count("update_rejected"), 0, "{name}: {}", envoy.log());
        assert_eq!(
            envoy.count("ssl.fail_verify_error") + envoy.count("ssl.fail_verify_no_cert"),
            0,
            "{name}"
        );
        // The first certificate and its rotations.
        assert!(envoy.count("update_success") > ROUNDS, "{name}");
    }
    assert_eq!(scene.messages("nack").await, 0);

    let folder = scene.folder.path();
    let old = given(&scene.socket()).await;
    assert!(accepts(folder, &old).await, "before it is revoked");
    let sent = server.count("update_success");
    revoke(&scene).await;
    let began = Instant::now();
    let after = loop {
        let now = given(&scene.socket()).await;
        // With lists in the answer the server gets one more.
        if now.lists_name_some
            && now.chain != old.chain
            && (validator != "plain" || server.count("update_success") > sent)
        {
            break now;
        }
        assert!(
            began.elapsed() < ROUND_MAX,
            "no replacement, or no lists: {}",
            server.log()
        );
        tokio::time::sleep(Duration::from_millis(10)).await;
    };
    // Envoy's workers take an update over a moment after its main thread has counted it.
    let mut accepted = accepts(folder, &old).await;
    while accepted && validator == "plain" {
        assert!(
            began.elapsed() < ROUND_MAX,
            "the lists have no effect: {}",
            server.log()
        );
        accepted = accepts(folder, &old).await;
    }
    if !accepted {
        let late = began.elapsed().as_secs_f64() * 1e3;
        println!("Envoy with lists over SDS: refused {late:.0} ms after the reply to the revocation");
    }
    assert!(accepts(folder, &after).await, "the replacement");
    called(&client).unwrap();
    drop((server, client));
    scene.end().await;
    accepted
}

#[tokio::test(flavor = "multi_thread")]
async fn rotations_fail_no_handshake_and_the_lists_refuse_what_is_revoked() {
    let Some(program) = program() else { return };
    assert!(!through(&program, "GRPC", "plain").await);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_spiffe_validator_takes_rotations_and_knows_no_lists() {
    let Some(program) = program() else { return };
    assert!(
        through(&program, "DELTA_GRPC", "spiffe").await,
        "Envoy has learnt to read lists: say so in the README"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_bundle_map_is_read_by_the_spiffe_validator() {
    let Some(program) = program() else { return };
    let scene = scene().await;
    let map = scene.folder.path().join("run/bundles.json");
    let began = Instant::now();
    while !map.exists() {
        assert!(began.elapsed() < ROUND_MAX, "no bundle map");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let (server, client) = scene.envoys(&program, "GRPC", Peers::Map(&map));
    scene.rotate(&client).await;
    assert_eq!(server.count("ssl.fail_verify_error"), 0);
    drop((server, client));
    scene.end().await;
}

#[test]
fn the_sample_configuration_is_valid() {
    let Some(program) = program() else { return };
    let sample = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/envoy.yaml");
    let output = Command::new(program)
        .args(["--mode", "validate", "--log-level", "warning", "-c"])
        .arg(sample)
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    let said = String::from_utf8_lossy(&output.stderr).to_lowercase();
    assert!(!said.contains("deprecated"), "{said}");
}
