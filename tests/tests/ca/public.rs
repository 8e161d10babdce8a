//! The revoked set and the CRLs as files over HTTP: anybody reads them in clear and under TLS, caches are told the truth, and
//! a reader in another language follows them to the answers that ours gives.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::{fs, net::SocketAddr, path::Path, sync::Arc, time::Duration};

use mintage_ca::Config;
use mintage_identity::IssuerKeyId;
use mintage_proto::v1::{
    BundleRequest, RevokeRequest, TrustBundle, revocation_client::RevocationClient, revoke_request::Target,
    trust_domain_client::TrustDomainClient,
};
use mintage_revocation::{Delegation, Query, Verdict};
use mintage_svid::{CertInfo, Crl, LeafInfo};
use mintage_tests::kit::{
    auditor::Reader,
    ca::{TestCa, domain, with_metrics},
    client::{admin, join, key_and_csr, provider},
    face::metric,
    follower::{Follower, now},
    proxies::Proxy,
    stream::{Stream, ask_with},
    verifiers::Interpreter,
};
use mintage_verifier::{AllowedIds, RevocationCheck, TlsSettings, Trust, TrustStore, client_config};
use rustls::time_provider::DefaultTimeProvider;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

/// Longest wait for what should happen at once; the machine may be busy.
const SOON: Duration = Duration::from_secs(60);
/// The pointer to everything else.
const LATEST: &str = "/revocation/v1/latest";

fn with_public(config: Config) -> Config {
    let any: SocketAddr = "127.0.0.1:0".parse().unwrap();
    with_metrics(config).with_public(Some(any), Some(any))
}

/// One answer over plain HTTP.
struct Answer {
    status: u16,
    head: String,
    body: Vec<u8>,
}

impl Answer {
    fn header(&self, name: &str) -> &str {
        let mut lines = self.head.lines().filter_map(|line| line.split_once(": "));
        let found = lines.find(|(found, _)| found.eq_ignore_ascii_case(name));
        found.map_or("", |(_, value)| value)
    }
}

async fn request(face: SocketAddr, method: &str, path: &str, more: &str) -> Answer {
    let mut stream = TcpStream::connect(face).await.unwrap();
    let asked = format!("{method} {path} HTTP/1.1\r\nhost: ca\r\nconnection: close\r\n{more}\r\n");
    stream.write_all(asked.as_bytes()).await.unwrap();
    let mut octets = Vec::new();
    stream.read_to_end(&mut octets).await.unwrap();
    let end = octets.windows(4).position(|four| four == b"\r\n\r\n").unwrap() + 4;
    let body = octets.split_off(end);
    let head = String::from_utf8(octets).unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    Answer { status, head, body }
}

async fn get(face: SocketAddr, path: &str) -> Answer {
    request(face, "GET", path, "").await
}

/// Epoch and sequence that `latest` names, once it names at least this sequence: a new one comes once a second.
async fn latest(face: SocketAddr, least: u64) -> (u64, u64) {
    let look = async {
        loop {
            let body = get(face, LATEST).await.body;
            let number = |at: usize| u64::from_le_bytes(body[at..at + 8].try_into().unwrap());
            if number(64) >= least {
                return (number(56), number(64));
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    timeout(SOON, look).await.unwrap()
}

async fn revoke(socket: &Path, target: Target) -> u64 {
    let request = RevokeRequest {
        target: Some(target),
        no_renew: true,
        ..RevokeRequest::default()
    };
    let mut client = RevocationClient::new(admin(socket).await.unwrap());
    client.revoke(request).await.unwrap().into_inner().sequence
}

async fn bundle(socket: &Path) -> TrustBundle {
    let mut client = TrustDomainClient::new(admin(socket).await.unwrap());
    let answer = client.bundle(BundleRequest::default()).await.unwrap();
    answer.into_inner().bundle.unwrap()
}

/// A reader under TLS that shows nothing and holds the CA to the bundle.
async fn over_tls(face: SocketAddr, bundle: &TrustBundle) -> Reader {
    let trust = Trust::builder(domain())
        .domain(domain(), bundle.roots.clone(), RevocationCheck::None)
        .unwrap()
        .build();
    let settings = TlsSettings::new(provider(), Arc::new(DefaultTimeProvider));
    let allowed = AllowedIds::replicas_of(&domain()).unwrap();
    let tls = client_config(TrustStore::new(trust), None, allowed, &settings).unwrap();
    Reader::open_with(face, tls).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_set_is_read_in_clear_and_under_tls_and_caches_are_told_how_long() {
    let ca = TestCa::start_with(with_public).await;
    let (socket, clear) = (ca.ca.admin_socket().to_owned(), ca.ca.public_http_address().unwrap());
    let first = revoke(&socket, Target::Key("01".repeat(32))).await;
    let (epoch, sequence) = latest(clear, first).await;
    let path = format!("/revocation/v1/snapshot/{epoch}-{sequence}");
    let snapshot = get(clear, &path).await;
    assert_eq!(snapshot.status, 200);
    let mut follower = Follower::trusting(&socket).await;
    follower.replica().apply_snapshot(&snapshot.body, now()).unwrap();
    assert_eq!(follower.stands_at(), (epoch, sequence));
    let kept = snapshot.header("cache-control");
    let age: u64 = kept
        .strip_prefix("public, max-age=")
        .and_then(|rest| rest.strip_suffix(", immutable"))
        .unwrap_or_else(|| panic!("{kept}"))
        .parse()
        .unwrap();
    assert!(
        (1_700..=3_600).contains(&age),
        "as long as it may be taken up, and no longer: {age}"
    );
    let again = format!("if-none-match: {}\r\n", snapshot.header("etag"));
    let again = request(clear, "GET", &path, &again).await;
    assert_eq!((again.status, again.body.len()), (304, 0));
    assert_eq!(again.header("cache-control").split('=').next(), Some("public, max-age"));
    let head = request(clear, "HEAD", &path, "").await;
    assert_eq!(head.header("content-length"), snapshot.body.len().to_string());
    assert!(head.body.is_empty());
    let pointer = get(clear, LATEST).await;
    // The same heartbeat again, unless another was signed meanwhile.
    let mut met = false;
    for _ in 0..3 {
        let pointer = get(clear, LATEST).await;
        let same = format!("if-none-match: {}\r\n", pointer.header("etag"));
        let same = request(clear, "GET", LATEST, &same).await;
        met |= (same.status, same.body.len()) == (304, 0);
        assert!(met || same.status == 200, "{}", same.status);
    }
    assert!(met, "whoever has the newest is told so");
    assert_eq!(
        (pointer.body.len(), pointer.header("cache-control")),
        (320, "public, max-age=5")
    );
    assert_eq!(pointer.header("content-type"), "application/octet-stream");

    let second = revoke(&socket, Target::Key("02".repeat(32))).await;
    let (_, newer) = latest(clear, second).await;
    let delta = get(clear, &format!("/revocation/v1/delta/{epoch}-{sequence}-{newer}")).await;
    assert_eq!(delta.status, 200);
    follower.replica().apply_delta(&delta.body, now()).unwrap();
    assert_eq!(follower.stands_at(), (epoch, newer));
    let mut tls = over_tls(ca.ca.public_https_address().unwrap(), &bundle(&socket).await).await;
    let same = tls.get(&path).await.unwrap();
    // Named a moment ago, so still there; perhaps with another date.
    let content = |octets: &[u8]| (octets[56..144].to_vec(), octets[320..].to_vec());
    assert_eq!(same.status, 200);
    assert_eq!(content(&same.body), content(&snapshot.body));

    ca.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_file_is_told_where_to_go_on_and_every_answer_is_counted() {
    let ca = TestCa::start_with(with_public).await;
    let (socket, clear) = (ca.ca.admin_socket().to_owned(), ca.ca.public_http_address().unwrap());
    let first = revoke(&socket, Target::Key("01".repeat(32))).await;
    let (epoch, newer) = latest(clear, first).await;
    for path in [
        "/",
        "/metrics",
        "/revocation/v1/latest?x",
        &format!("/revocation/v1/snapshot/{epoch}-{}", newer + 1),
        &format!("/revocation/v1/snapshot/{}-{newer}", epoch + 1),
        &format!("/revocation/v1/delta/{epoch}-{newer}-{newer}"),
        &format!("/revocation/v1/delta/{epoch}-0-{newer}"),
        &format!("/crl/{}.crl", "0a".repeat(32)),
    ] {
        let answer = get(clear, path).await;
        assert_eq!(
            (answer.status, answer.header("cache-control")),
            (404, "no-store"),
            "{path}"
        );
    }
    let gone = get(clear, &format!("/revocation/v1/snapshot/{epoch}-1000000")).await;
    assert!(
        String::from_utf8(gone.body).unwrap().contains(LATEST),
        "it tells where to go on"
    );
    let posted = request(clear, "POST", LATEST, "").await;
    assert_eq!((posted.status, posted.header("allow")), (405, "GET, HEAD"));
    let counted =
        |path: &str, status: u16| format!("mintage_public_requests_total{{path=\"{path}\",status=\"{status}\"}}");
    let face = ca.ca.metrics_address().unwrap();
    assert_eq!(metric(face, &counted("snapshot", 404)).await, 3);
    assert_eq!(metric(face, &counted("delta", 404)).await, 2);
    assert_eq!(metric(face, &counted("latest", 405)).await, 1);
    ca.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn lists_are_read_by_the_id_of_their_key() {
    let ca = TestCa::start_with(with_public).await;
    let (socket, clear) = (ca.ca.admin_socket().to_owned(), ca.ca.public_http_address().unwrap());
    let bundle = bundle(&socket).await;
    for der in bundle.roots.iter().chain(&bundle.issuers) {
        let signer = CertInfo::parse_signing(der).unwrap();
        let path = format!("/crl/{}.crl", signer.key_id());
        // The issuing key's first list is signed just after the start.
        let there = async {
            while get(clear, &path).await.status == 503 {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        timeout(SOON, there).await.unwrap();
        let answer = get(clear, &path).await;
        assert_eq!(
            (answer.status, answer.header("content-type")),
            (200, "application/pkix-crl")
        );
        // Under TLS too, with the same headers and, unless the next was signed meanwhile, the same list.
        let mut tls = over_tls(ca.ca.public_https_address().unwrap(), &bundle).await;
        let same = tls.get(&path).await.unwrap();
        assert_eq!(
            (same.status, same.header("content-type")),
            (200, Some("application/pkix-crl"))
        );
        assert_eq!(same.header("cache-control"), Some(answer.header("cache-control")));
        let [clear_list, tls_list] = [&answer.body, &same.body].map(|der| Crl::parse(der).unwrap());
        tls_list.verify(&signer).unwrap();
        assert!(tls_list.number() >= clear_list.number());
        assert_eq!(answer.header("cache-control"), "public, max-age=60");
        let list = Crl::parse(&answer.body).unwrap();
        list.verify(&signer).unwrap();
        for (name, value) in [("if-none-match", "etag"), ("if-modified-since", "last-modified")] {
            let value = answer.header(value);
            assert!(!value.is_empty(), "{name}");
            let again = request(clear, "GET", &path, &format!("{name}: {value}\r\n")).await;
            assert_eq!(again.status, 304, "{name}: {value}");
        }
    }
    ca.stop().await;
}

/// A certificate, as a question to both readers.
struct Shown {
    leaf: LeafInfo,
    issuer: IssuerKeyId,
}

impl Shown {
    fn question(&self) -> Value {
        json!({
            "issuer": hex::encode(self.issuer.as_bytes()),
            "serial": hex::encode(self.leaf.serial().padded()),
            "not_before": self.leaf.not_before().millis(),
            "not_after": self.leaf.not_after().millis(),
            "id": self.leaf.id().to_string(),
            "spki": hex::encode(self.leaf.spki_sha256().as_bytes()),
            "now": now().millis(),
        })
    }

    fn verdict(&self, follower: &mut Follower) -> &'static str {
        let query = Query {
            issuer: self.issuer,
            serial: self.leaf.serial(),
            not_before: self.leaf.not_before(),
            not_after: self.leaf.not_after(),
            spiffe_id: Some(self.leaf.id()),
            spki_sha256: self.leaf.spki_sha256(),
        };
        match follower.replica().view().check(&query, now()) {
            Verdict::Good => "good",
            Verdict::Revoked { .. } => "revoked",
            Verdict::Stale => "stale",
            Verdict::NotCovered => "not covered",
        }
    }
}

async fn certificates(ca: &TestCa, names: &[&str]) -> Vec<Shown> {
    let agent = join(&ca.token("n1").await).await.unwrap();
    let mut shown = Vec::new();
    for name in names {
        ca.entry(name, &format!("/{name}")).await;
    }
    let mut stream = Stream::open(&agent, &ca.ca.address().to_string()).await.unwrap();
    let issuer = CertInfo::parse_signing(&agent.chain[1]).unwrap().key_id();
    for name in names {
        let issued = stream.ask_one(ask_with(name, key_and_csr().1)).await.unwrap();
        let leaf = LeafInfo::parse(&issued.leaf).unwrap();
        shown.push(Shown { leaf, issuer });
    }
    shown
}

/// What the reader in another language says after these steps and what it then finds under `base`.
fn followed(
    python: &Interpreter,
    bundle: &TrustBundle,
    before: Vec<Value>,
    base: SocketAddr,
    shown: &[Shown],
) -> Value {
    let delegation = Delegation::decode(&bundle.revocation_delegations[0]).unwrap();
    let roots = bundle.roots.iter().map(|der| CertInfo::parse_signing(der).unwrap());
    let mut signers = roots.filter(|root| root.key_id() == delegation.statement().ca_key());
    let mut steps = vec![json!({ "what": "delegation", "octets": hex::encode(&bundle.revocation_delegations[0]) })];
    steps.extend(before);
    steps.push(json!({ "what": "fetch", "base": format!("http://{base}") }));
    let told = json!({
        "domain": domain().to_string(),
        "ca": hex::encode(signers.next().unwrap().spki_der()),
        "questions": shown.iter().map(Shown::question).collect::<Vec<_>>(),
        "steps": steps,
    });
    let input = told.to_string();
    // It waits for this process, which has to go on serving meanwhile.
    let answer = tokio::task::block_in_place(|| python.run("revocation.py", input.as_bytes()));
    serde_json::from_slice(&answer).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cache_between_answers_for_the_ca_and_holds_a_revocation_up_no_longer_than_it_may() {
    let scratch = Path::new(env!("CARGO_TARGET_TMPDIR")).join("interop");
    fs::create_dir_all(&scratch).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let ca = TestCa::start_with(with_public).await;
    let (socket, clear) = (ca.ca.admin_socket().to_owned(), ca.ca.public_http_address().unwrap());
    let python = Interpreter::python(&scratch);
    let (Some(python), Some(nginx)) = (python, Proxy::nginx_cache(folder.path(), clear.port())) else {
        return;
    };
    let cache = SocketAddr::from((clear.ip(), nginx.ports[0]));
    let shown = certificates(&ca, &["web"]).await;
    let first = revoke(&socket, Target::Key("01".repeat(32))).await;
    latest(clear, first).await;
    let bundle = bundle(&socket).await;
    // What the cache holds already is not asked of the CA again.
    let hit = async {
        while get(cache, LATEST).await.header("x-cache-status") != "HIT" {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(SOON, hit).await.expect("the cache answers by itself");
    let says = || {
        let answer = followed(&python, &bundle, Vec::new(), cache, &shown);
        assert!(
            answer["outcomes"].as_array().unwrap().iter().all(Value::is_null),
            "{answer}"
        );
        answer["answers"][0].as_str().unwrap().to_owned()
    };
    assert_eq!(says(), "good", "{}", nginx.log());
    revoke(&socket, Target::Serial(shown[0].leaf.serial().to_string())).await;
    let told = std::time::Instant::now();
    while says() != "revoked" {
        assert!(told.elapsed() < SOON, "{}", nginx.log());
    }
    // `latest` may be kept for 5 s, and names another sequence at most once a second.
    let late = told.elapsed().as_secs_f64();
    println!("through nginx with proxy_cache: revoked {late:.1} s after the reply to the revocation");
    ca.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_in_another_language_follows_the_files_and_answers_as_ours_does() {
    let scratch = Path::new(env!("CARGO_TARGET_TMPDIR")).join("interop");
    fs::create_dir_all(&scratch).unwrap();
    let Some(python) = Interpreter::python(&scratch) else {
        return;
    };
    let ca = TestCa::start_with(with_public).await;
    let (socket, clear) = (ca.ca.admin_socket().to_owned(), ca.ca.public_http_address().unwrap());
    let shown = certificates(&ca, &["web", "db", "batch"]).await;
    let first = revoke(&socket, Target::Serial(shown[0].leaf.serial().to_string())).await;
    let (epoch, sequence) = latest(clear, first).await;
    let early = get(clear, &format!("/revocation/v1/snapshot/{epoch}-{sequence}")).await;
    let last = revoke(&socket, Target::SpiffeId("spiffe://dev.test/db".to_owned())).await;
    latest(clear, last).await;

    let bundle = bundle(&socket).await;
    let held = json!({ "what": "object", "octets": hex::encode(&early.body), "now": now().millis() });
    let mut ours = Follower::default();
    ours.follow(&socket).await.unwrap();
    let wanted: Vec<_> = shown.iter().map(|shown| shown.verdict(&mut ours)).collect();
    assert_eq!(wanted, ["revoked", "revoked", "good"]);
    for (before, kind) in [(vec![], "snapshot"), (vec![held], "delta")] {
        let answer = followed(&python, &bundle, before, clear, &shown);
        assert!(
            answer["outcomes"].as_array().unwrap().iter().all(Value::is_null),
            "{answer}"
        );
        assert_eq!(answer["answers"], json!(wanted), "{answer}");
        let read: Vec<&str> = answer["read"]
            .as_array()
            .unwrap()
            .iter()
            .filter_map(Value::as_str)
            .collect();
        let kinds: Vec<&str> = read.iter().filter_map(|path| path.split('/').nth(3)).collect();
        assert_eq!(kinds, ["latest", kind, "latest"]);
    }
    ca.stop().await;
}
