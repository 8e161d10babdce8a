//! The ledger over HTTPS: an auditor copies the whole log and proves it elsewhere; nobody else reads anything, and an
//! auditor whose certificate was revoked reads no more, on the connection he has.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::{
    fs,
    net::SocketAddr,
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

use mintage_ca::{Ca, Config, Deps};
use mintage_identity::Serial;
use mintage_proto::v1::{
    Entry, RevokeRequest, RollRequest, ledger_client::LedgerClient, revocation_client::RevocationClient,
    revoke_request::Target,
};
use mintage_svid::LeafInfo;
use mintage_tests::kit::{
    auditor::{Reader, tls},
    bins::binary,
    ca::{self, TestCa, with_metrics},
    client::{Joined, admin, join, key_and_csr},
    clock::Shifted,
    face::metric,
    inventory::denials,
    stream::{Stream, ask_with},
    verifiers::Verifier,
};
use mintage_verifier::TlsSettings;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

/// Longest wait for what should happen at once; the machine may be busy.
const SOON: Duration = Duration::from_secs(60);
/// The auditor's name.
const AUDITOR: &str = "spiffe://dev.test/audit/one";
/// Entries that are recorded: with what else happens, a full tile and a partial one beside it.
const ENTRIES: usize = 300;
/// Entries of one request.
const BATCH: usize = 100;

fn with_auditor(config: Config) -> Config {
    with_metrics(config)
        .with_auditors("127.0.0.1:0".parse().unwrap(), &[AUDITOR])
        .unwrap()
}

/// A CA whose ledger may be read, and two workloads: the auditor, and another.
struct World {
    ca: TestCa,
    auditor: Joined,
    other: Joined,
    agent: Joined,
}

impl World {
    async fn start() -> Self {
        let ca = TestCa::start_with(with_auditor).await;
        let [auditor, other, agent] = people(&ca.ca).await;
        Self {
            ca,
            auditor,
            other,
            agent,
        }
    }

    fn address(&self) -> SocketAddr {
        self.ca.ca.audit_address().unwrap()
    }

    async fn reader(&self) -> Reader {
        Reader::open(self.address(), &self.auditor).await.unwrap()
    }

    async fn counted(&self, path: &str, status: u16) -> u64 {
        let line = format!("mintage_audit_requests_total{{path=\"{path}\",status=\"{status}\"}}");
        metric(self.ca.ca.metrics_address().unwrap(), &line).await
    }
}

/// The auditor, another workload, and the agent of both.
async fn people(ca: &Ca) -> [Joined; 3] {
    let socket = ca.admin_socket();
    ca::entry(socket, "auditor", "/audit/one").await;
    ca::entry(socket, "web", "/web").await;
    let agent = join(&ca::token(socket, "n1").await).await.unwrap();
    let mut stream = Stream::open(&agent, &ca.address().to_string()).await.unwrap();
    let mut workloads = Vec::new();
    for entry in ["auditor", "web"] {
        let (key, csr) = key_and_csr();
        let issued = stream.ask_one(ask_with(entry, csr)).await.unwrap();
        let chain = std::iter::once(issued.leaf).chain(agent.chain[1..].iter().cloned());
        workloads.push(Joined {
            key,
            chain: chain.collect(),
            ..agent.clone()
        });
    }
    let other = workloads.pop().unwrap();
    [workloads.pop().unwrap(), other, agent]
}

fn serial(identity: &Joined) -> Serial {
    *LeafInfo::parse(&identity.chain[0]).unwrap().serial()
}

async fn revoke(ca: &Ca, identity: &Joined) {
    let request = RevokeRequest {
        target: Some(Target::Serial(serial(identity).to_string())),
        reason: "key-compromise".to_owned(),
        no_renew: true,
        ..RevokeRequest::default()
    };
    let mut revocation = RevocationClient::new(admin(ca.admin_socket()).await.unwrap());
    let struck = revocation.revoke(request).await.unwrap().into_inner();
    assert_eq!(struck.certificates, 1);
}

async fn fill(ca: &Ca) {
    for first in (0..ENTRIES).step_by(BATCH) {
        let entry = |number: usize| Entry {
            name: format!("app-{number}"),
            spiffe_id: format!("spiffe://{}/app/{number}", ca::domain()),
            agents: vec![format!("spiffe://{}/mintage/agent/n1", ca::domain())],
            selectors: vec!["unix:uid:1".to_owned()],
            ..Entry::default()
        };
        ca::apply(ca.admin_socket(), (first..first + BATCH).map(entry).collect())
            .await
            .unwrap();
    }
}

/// Reads the checkpoint until it covers so many records.
async fn signed(reader: &mut Reader, least: u64) {
    let look = async {
        loop {
            let note = reader.get("/checkpoint").await.unwrap();
            let text = String::from_utf8(note.body).unwrap();
            let size: u64 = text.lines().nth(1).unwrap().parse().unwrap();
            if size >= least {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    timeout(SOON, look).await.unwrap();
}

fn verified(dir: &Path, vkey: &Path) -> u64 {
    let mut command = Command::new(binary("mintage"));
    command.env_remove("MINTAGE_FORMAT").args(["audit", "verify"]);
    let output = command
        .arg(dir)
        .arg("--vkey")
        .arg(vkey)
        .args(["--signatures", "-o", "json"])
        .stdin(Stdio::null())
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    let told: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    told["shards"][0]["size"].as_u64().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_auditor_copies_the_log_and_others_prove_the_copy() {
    let world = World::start().await;
    fill(&world.ca.ca).await;
    let mut reader = world.reader().await;
    signed(&mut reader, ENTRIES as u64).await;
    let (one, two) = (world.ca.beside("copy"), world.ca.beside("shard"));
    let size = reader.mirror("", &one).await.unwrap();
    assert!((257..512).contains(&size), "{size}");
    let policy = fs::read_to_string(world.ca.data_dir().join("ledger/policy")).unwrap();
    let key = policy
        .lines()
        .find_map(|line| line.strip_prefix("log "))
        .unwrap()
        .to_owned();
    let vkey = world.ca.beside("vkey");
    fs::write(&vkey, format!("{key}\n")).unwrap();
    assert_eq!(verified(&one, &vkey), size);

    // The same log under its shard's own name.
    let origin = key.split('+').next().unwrap();
    let (_, below) = origin.split_once("/mintage/").unwrap();
    let again = reader.mirror(&format!("/{below}"), &two).await.unwrap();
    assert_eq!(verified(&two, &vkey), again);
    let stranger = reader.get("/a1b2/1999-01/checkpoint").await.unwrap();
    assert_eq!(stranger.status, 404);

    let scratch = Path::new(env!("CARGO_TARGET_TMPDIR")).join("interop");
    fs::create_dir_all(&scratch).unwrap();
    for verifier in [Verifier::go(&scratch), Verifier::python(&scratch)]
        .into_iter()
        .flatten()
    {
        let said = verifier.verify(&one, std::slice::from_ref(&key));
        assert_eq!(said, Ok(size), "{}", verifier.name);
    }
    assert!(world.counted("entries", 200).await >= 4);
    assert!(world.counted("tile", 200).await >= 6);
    world.ca.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_closed_shard_is_read_below_its_name_and_the_next_at_the_root() {
    let world = World::start().await;
    let mut ledger = LedgerClient::new(admin(world.ca.ca.admin_socket()).await.unwrap());
    let rolled = ledger.roll(RollRequest::default()).await.unwrap().into_inner();
    let (closed, begun) = (rolled.closed.unwrap(), rolled.begun.unwrap());
    let mut reader = world.reader().await;
    let growing = async {
        let at_root = |note: Vec<u8>| String::from_utf8(note).unwrap().starts_with(&begun.origin);
        while !at_root(reader.get("/checkpoint").await.unwrap().body) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(SOON, growing).await.unwrap();
    for (shard, prefix) in [(&closed, true), (&begun, true), (&begun, false)] {
        let (_, below) = shard.origin.split_once("/mintage/").unwrap();
        let prefix = if prefix { format!("/{below}") } else { String::new() };
        let copy = world.ca.beside(&format!("copy{}", prefix.replace('/', "-")));
        let size = reader.mirror(&prefix, &copy).await.unwrap();
        assert!(size > 0, "{}", shard.origin);
        let vkey = world.ca.beside("vkey");
        fs::write(&vkey, &shard.vkey).unwrap();
        for beside in ["snapshot", "succession"] {
            let found = reader.get(&format!("{prefix}/{beside}")).await.unwrap();
            assert_eq!(found.status, if shard.first > 0 { 200 } else { 404 }, "{beside}");
            if found.status == 200 {
                fs::write(copy.join(beside), &found.body).unwrap();
            }
        }
        assert_eq!(verified(&copy, &vkey), size);
    }
    let policy = reader.get("/policy").await.unwrap().body;
    assert_eq!(policy, fs::read(world.ca.data_dir().join("ledger/policy")).unwrap());
    world.ca.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn headers_methods_and_paths_are_those_of_the_specification_and_no_others() {
    let world = World::start().await;
    fill(&world.ca.ca).await;
    let mut reader = world.reader().await;
    signed(&mut reader, 300).await;
    let checkpoint = reader.get("/checkpoint").await.unwrap();
    assert_eq!(checkpoint.header("content-type"), Some("text/plain; charset=utf-8"));
    assert_eq!(checkpoint.header("cache-control"), Some("no-cache"));
    let tile = reader.get("/tile/0/000").await.unwrap();
    assert_eq!(tile.header("content-type"), Some("application/octet-stream"));
    assert!(tile.header("cache-control").unwrap().contains("immutable"));
    assert_eq!(tile.body.len(), 256 * 32);
    let head = reader.request("HEAD", "/tile/0/000").await.unwrap();
    assert_eq!((head.status, head.header("content-length")), (200, Some("8192")));
    assert_eq!(
        reader.get("/tile/0/000.p/3").await.unwrap().body,
        tile.body[..96],
        "a width that an older checkpoint had"
    );
    for path in [
        "/",
        "/lock",
        "/snapshot",
        "/metrics",
        "/tile/0/000.p/0",
        "/tile/0/000.p/256",
        "/tile/0/000.p/257",
        "/tile/0/002",
        "/tile/0/001.p/255",
        "/tile/0/x018/x446/x744/x073/x709/x551/615",
        "/tile/0/99999999999999999999999999999999",
        "/tile/255/000",
        "/tile/entries/-01",
        "/tile/entries/../../head/00000001.wal",
        "/tile/entries/%2e%2e/checkpoint",
        "/../../keys/root.key",
        "//checkpoint",
        "/checkpoint/",
        "/checkpoint?x",
        "/tile/0/000?width=1",
    ] {
        let answer = reader.get(path).await.unwrap();
        assert_eq!(
            (answer.status, answer.header("cache-control")),
            (404, Some("no-store")),
            "{path}"
        );
    }
    for method in ["POST", "PUT", "DELETE", "OPTIONS", "PATCH", "BREW"] {
        let answer = reader.request(method, "/checkpoint").await.unwrap();
        assert_eq!(
            (answer.status, answer.header("allow")),
            (405, Some("GET, HEAD")),
            "{method}"
        );
    }
    assert_eq!(world.counted("checkpoint", 405).await, 6);
    assert_eq!(world.counted("tile", 200).await, 3);
    // A head that is too long is refused, and costs its sender the connection alone.
    let long = reader.get(&format!("/{}", "x".repeat(64 * 1024))).await;
    assert!(long.is_err() || [414, 431].contains(&long.unwrap().status));
    assert_eq!(world.reader().await.get("/checkpoint").await.unwrap().status, 200);
    world.ca.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_but_an_auditor_reads_and_each_refusal_is_told() {
    let world = World::start().await;
    // Without a certificate there is no connection.
    let trusting = Joined {
        ..world.auditor.clone()
    };
    let bare = bare(&trusting);
    let answer = match Reader::open_with(world.address(), bare).await {
        Ok(mut reader) => reader.get("/checkpoint").await,
        Err(error) => Err(error),
    };
    assert!(answer.is_err(), "{answer:?}");
    // Nor for a certificate of another authority.
    let elsewhere = TestCa::start().await;
    let [stranger, ..] = people(&elsewhere.ca).await;
    let stranger = Joined {
        roots: world.auditor.roots.clone(),
        ..stranger
    };
    let answer = match Reader::open(world.address(), &stranger).await {
        Ok(mut reader) => reader.get("/checkpoint").await,
        Err(error) => Err(error),
    };
    assert!(answer.is_err(), "{answer:?}");
    elsewhere.stop().await;

    for (identity, id) in [
        (&world.other, "spiffe://dev.test/web"),
        (&world.agent, "spiffe://dev.test/mintage/agent/n1"),
    ] {
        let mut reader = Reader::open(world.address(), identity).await.unwrap();
        for path in ["/checkpoint", "/tile/0/000", "/nothing"] {
            let answer = reader.get(path).await.unwrap();
            assert_eq!(answer.status, 403, "{id} {path}");
            assert!(String::from_utf8(answer.body).unwrap().contains(id));
        }
    }
    assert_eq!(world.counted("checkpoint", 403).await, 2);
    assert_eq!(world.counted("other", 403).await, 2);
    // Recorded once each, under the identity that was proven; a command answered in between makes them findable.
    ca::entry(world.ca.ca.admin_socket(), "after", "/after").await;
    let told = denials(world.ca.ca.admin_socket(), "audit-role").await;
    let mut ids: Vec<&str> = told.iter().map(|(_, deny)| deny.spiffe_id.as_str()).collect();
    ids.sort_unstable();
    assert_eq!(ids, ["spiffe://dev.test/mintage/agent/n1", "spiffe://dev.test/web"]);
    assert!(told.iter().all(|(_, deny)| deny.why.contains("serial")));
    world.ca.stop().await;
}

/// A client that trusts the same roots and shows nothing.
fn bare(like: &Joined) -> std::sync::Arc<rustls::ClientConfig> {
    use mintage_verifier::{AllowedIds, RevocationCheck, Trust, TrustStore, client_config};
    let trust = Trust::builder(like.domain.clone())
        .domain(like.domain.clone(), like.roots.clone(), RevocationCheck::None)
        .unwrap()
        .build();
    let settings = TlsSettings::new(
        mintage_tests::kit::client::provider(),
        std::sync::Arc::new(rustls::time_provider::DefaultTimeProvider),
    );
    let allowed = AllowedIds::replicas_of(&like.domain).unwrap();
    client_config(TrustStore::new(trust), None, allowed, &settings).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revoked_auditor_reads_no_more_on_the_connection_he_has() {
    let world = World::start().await;
    let mut reader = world.reader().await;
    assert_eq!(reader.get("/checkpoint").await.unwrap().status, 200);
    revoke(&world.ca.ca, &world.auditor).await;
    // The reply to the revocation waits for the state, which is what each request is held against: the connection may
    // have been ended by now, or the answer is a refusal; a file it is not.
    if let Ok(answer) = reader.get("/checkpoint").await {
        assert_eq!(answer.status, 403);
    }
    let ended = timeout(SOON, async {
        while let Ok(answer) = reader.get("/checkpoint").await {
            assert_eq!(answer.status, 403);
        }
    });
    ended.await.unwrap();
    let answer = match Reader::open(world.address(), &world.auditor).await {
        Ok(mut reader) => reader.get("/checkpoint").await,
        Err(error) => Err(error),
    };
    assert!(answer.is_err(), "{answer:?}");
    world.ca.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_expired_auditor_reads_no_more_on_the_connection_he_has() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("ca");
    let clock = Shifted::behind(Duration::ZERO);
    ca::make_with(&dir, &clock.deps());
    let ca = Ca::start(with_auditor(ca::config(&dir)), clock.deps()).await.unwrap();
    let [auditor, ..] = people(&ca).await;
    let mut reader = Reader::open(ca.audit_address().unwrap(), &auditor).await.unwrap();
    assert_eq!(reader.get("/checkpoint").await.unwrap().status, 200);
    let end = LeafInfo::parse(&auditor.chain[0]).unwrap().not_after();
    clock.move_to(end, Duration::ZERO);
    if let Ok(answer) = reader.get("/checkpoint").await {
        assert_eq!(answer.status, 403);
        assert!(String::from_utf8(answer.body).unwrap().contains("expired"));
    }
    ca.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn slow_and_silent_callers_are_let_go_and_the_others_served() {
    let world = World::start().await;
    // One that never begins TLS, and one that never ends its head.
    let mut silent = TcpStream::connect(world.address()).await.unwrap();
    let mut slow = world.reader().await;
    slow.send(b"GET /checkpoint HTTP/1.1\r\nhost: ca\r\nx: ").await.unwrap();
    assert_eq!(world.reader().await.get("/checkpoint").await.unwrap().status, 200);
    let mut octets = Vec::new();
    timeout(SOON, silent.read_to_end(&mut octets)).await.unwrap().unwrap();
    assert!(octets.is_empty(), "nothing is said to one who said nothing");
    let answer = timeout(SOON, slow.answer(true)).await.expect("it is let go");
    assert!(answer.is_err() || answer.unwrap().status == 408);
    // More connections than one source may have are closed unanswered; places come back.
    let mut held = Vec::new();
    while held.len() < 16 {
        held.push(world.reader().await);
    }
    let mut one_more = TcpStream::connect(world.address()).await.unwrap();
    let _ = one_more.write_all(b"x").await;
    let _ = timeout(SOON, one_more.read_to_end(&mut octets)).await.unwrap();
    assert!(octets.is_empty());
    assert_eq!(held[0].get("/checkpoint").await.unwrap().status, 200);
    drop(held);
    let again = async {
        loop {
            if let Ok(mut reader) = Reader::open_with(world.address(), tls(&world.auditor)).await
                && reader.get("/checkpoint").await.is_ok_and(|answer| answer.status == 200)
            {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(SOON, again).await.unwrap();
    world.ca.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_auditor_of_another_trust_domain_is_refused_at_the_start() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("ca");
    ca::make(&dir);
    let config = ca::config(&dir)
        .with_auditors("127.0.0.1:0".parse().unwrap(), &["spiffe://other.test/audit"])
        .unwrap();
    let told = mintage_ca::check_data_dir(&config).unwrap_err().to_string();
    assert!(told.contains("audit.auditors") && told.contains("other.test"), "{told}");
    assert!(Ca::start(config, Deps::system()).await.is_err());
}
