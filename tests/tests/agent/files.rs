//! The real agent against the real CA: delivery, rotation, restart without a CA, kill -9, readers in between, and what
//! OpenSSL says of the files.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::{
    collections::BTreeSet,
    path::Path,
    process::Command,
    thread::JoinHandle,
    time::{Duration, Instant},
};

use mintage_agent::rotation::BACKDATE;
use mintage_identity::Serial;
use mintage_proto::v1::{DeleteEntryRequest, Entry, RenewAgentRequest};
use mintage_svid::{LeafInfo, key_matches, pem};
use mintage_tests::kit::{
    agent::{AgentProcess, config},
    ca::{CaProcess, apply, domain, entry, make, token},
    client::registry,
    dice::full,
    peers::peer,
};

/// Reads of the delivered folder in one torture run, of each of the two ways to read it.
const READS: usize = 100_000;
/// And with the long campaigns.
const READS_WHOLE: usize = 1_000_000;
/// And of at least so many generations.
const GENERATIONS: usize = 3;
/// Longest torture for so many [`READS`]; it takes seconds.
const TORTURE_MAX: Duration = Duration::from_secs(120);

fn campaign(whole: usize) -> usize {
    if full() { whole } else { whole / 10 }
}

fn reads() -> usize {
    if full() { READS_WHOLE } else { READS }
}

/// Chain and key of one generation as texts, entered once.
fn read_entered(folder: &Path) -> Option<(String, String)> {
    // Entering `..data` once holds one generation; the links of the single files could straddle a swap.
    let generation = std::fs::canonicalize(folder.join("..data")).ok()?;
    let certificate = std::fs::read_to_string(generation.join("svid.pem")).ok()?;
    let key = std::fs::read_to_string(generation.join("svid_key.pem")).ok()?;
    Some((certificate, key))
}

/// The same out of the one file with both, opened by its plain name.
fn read_one_file(folder: &Path) -> Option<(String, String)> {
    let text = std::fs::read_to_string(folder.join("svid_credential_bundle.pem")).ok()?;
    let (key, chain) = text.split_at(text.find("-----BEGIN CERTIFICATE-----")?);
    Some((chain.to_owned(), key.to_owned()))
}

/// Leaf and key, decoded.
fn decoded((certificate, key): &(String, String)) -> Option<(Vec<u8>, Vec<u8>)> {
    let leaf = pem::decode_certificates(certificate).ok()?.swap_remove(0);
    Some((leaf, pem::decode_private_key(key).ok()?.to_vec()))
}

fn read_pair(folder: &Path) -> Option<(Vec<u8>, Vec<u8>)> {
    decoded(&read_entered(folder)?)
}

fn leaf_of(folder: &Path) -> Option<LeafInfo> {
    LeafInfo::parse(&read_pair(folder)?.0).ok()
}

fn serial_of(folder: &Path) -> Option<Serial> {
    Some(*leaf_of(folder)?.serial())
}

async fn renew(ca: &CaProcess) {
    let request = RenewAgentRequest {
        name: "n1".to_owned(),
        agent: false,
        ..RenewAgentRequest::default()
    };
    registry(&ca.admin_socket())
        .await
        .renew_agent(request)
        .await
        .expect("the agent is connected");
}

#[tokio::test(flavor = "multi_thread")]
async fn files_are_delivered_rotated_and_never_torn() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("ca");
    make(&data);
    let ca = CaProcess::start(&data, 0);
    entry(&ca.admin_socket(), "web", "/web").await;
    let file = config(folder.path(), &["web"]);
    let mut agent = AgentProcess::start(folder.path(), &file, Some(&token(&ca.admin_socket(), "n1").await));
    let web = folder.path().join("web");
    let first = agent.wait_for("the first delivery", || serial_of(&web));
    openssl_accepts(&web);
    let readers = [read_entered, read_one_file].map(|read| {
        let web = web.clone();
        std::thread::spawn(move || torture(&web, read))
    });
    let mut serials = BTreeSet::from([first]);
    while !readers.iter().all(JoinHandle::is_finished) {
        let before = serial_of(&web).unwrap();
        renew(&ca).await;
        let after = agent.wait_for("a rotation", || serial_of(&web).filter(|serial| *serial != before));
        assert!(serials.insert(after), "serial {after} came twice");
    }
    for reader in readers {
        let read = reader.join().unwrap();
        println!("{read:?}");
        assert!(read.pairs >= reads() && read.mismatched == 0, "{read:?}");
        assert!(read.generations >= GENERATIONS, "{read:?} is no torture");
    }
    assert_eq!(agent.stop(), Some(0));
    assert_eq!(ca.stop(), Some(0));
}

/// What a reader saw.
#[derive(Debug, Default)]
struct Read {
    pairs: usize,
    mismatched: usize,
    /// Changes from one pair to another between two reads.
    generations: usize,
    took: Duration,
}

/// Reads pairs until enough are read, of enough generations; a generation removed under the reader counts as a retry, not as a pair.
fn torture(folder: &Path, read: fn(&Path) -> Option<(String, String)>) -> Read {
    let started = Instant::now();
    let longest = TORTURE_MAX * u32::try_from(reads() / READS).unwrap();
    let (mut seen, mut last, mut matched) = (Read::default(), None, false);
    while (seen.pairs < reads() || seen.generations < GENERATIONS) && started.elapsed() < longest {
        let Some(pair) = read(folder) else { continue };
        // Octets that were looked at already are not parsed again: the same pair is as good as it was.
        if last.as_ref() != Some(&pair) {
            matched = decoded(&pair).is_some_and(|(leaf, key)| key_matches(&leaf, &key).unwrap_or(false));
            seen.generations += 1;
            last = Some(pair);
        }
        seen.pairs += 1;
        seen.mismatched += usize::from(!matched);
    }
    seen.took = started.elapsed();
    seen
}

/// `openssl verify -x509_strict` for both purposes.
fn openssl_accepts(folder: &Path) {
    let Some(openssl) = peer("openssl") else { return };
    for purpose in ["sslclient", "sslserver"] {
        let output = Command::new(&openssl)
            .args(["verify", "-x509_strict", "-purpose", purpose, "-CAfile"])
            .arg(folder.join("svid_bundle.pem"))
            .arg("-untrusted")
            .arg(folder.join("svid.pem"))
            .arg(folder.join("svid.pem"))
            .output()
            .unwrap();
        assert!(
            output.status.success(),
            "{purpose}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_outlives_its_ca_its_own_death_and_comes_back_by_itself() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("ca");
    make(&data);
    let mut ca = CaProcess::start(&data, 0);
    let port = ca.address.rsplit_once(':').unwrap().1.parse().unwrap();
    entry(&ca.admin_socket(), "web", "/web").await;
    let file = config(folder.path(), &["web"]);
    let web = folder.path().join("web");
    let join = token(&ca.admin_socket(), "n1").await;
    let mut agent = AgentProcess::start(folder.path(), &file, Some(&join));
    let mut serials = BTreeSet::from([agent.wait_for("the first delivery", || serial_of(&web))]);
    for _ in 0..campaign(30) {
        ca.kill();
        agent.kill();
        // Without a CA the delivered pair stays, and the restarted agent goes on without a token.
        let (leaf, key) = read_pair(&web).expect("the delivered pair stays");
        assert!(key_matches(&leaf, &key).unwrap());
        agent = AgentProcess::start(folder.path(), &file, None);
        ca = CaProcess::start(&data, port);
        let before = serial_of(&web).unwrap();
        let socket = ca.admin_socket();
        let after = loop {
            let request = RenewAgentRequest {
                name: "n1".to_owned(),
                ..RenewAgentRequest::default()
            };
            // Until the agent is connected again the CA has nobody to ask.
            if registry(&socket).await.renew_agent(request).await.is_ok() {
                break agent.wait_for("a rotation", || serial_of(&web).filter(|serial| *serial != before));
            }
            agent.runs();
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        };
        assert!(serials.insert(after), "serial {after} came twice");
    }
    assert_eq!(agent.stop(), Some(0));
    assert_eq!(ca.stop(), Some(0));
}

/// Applies the entry web for agent n1 as it stands here; nothing else of it ever changes.
async fn apply_web(ca: &CaProcess, ttl_seconds: i64, dns_names: &[&str]) {
    let domain = domain();
    let web = Entry {
        name: "web".to_owned(),
        spiffe_id: format!("spiffe://{domain}/web"),
        agents: vec![format!("spiffe://{domain}/mintage/agent/n1")],
        selectors: vec![format!("unix:uid:{}", rustix::process::geteuid().as_raw())],
        ttl_seconds,
        dns_names: dns_names.iter().map(|name| (*name).to_owned()).collect(),
        ..Entry::default()
    };
    let applied = apply(&ca.admin_socket(), vec![web]).await;
    applied.expect("the entry is applied");
}

/// The times a message was logged.
fn logged(agent: &AgentProcess, message: &str) -> usize {
    agent.log().matches(message).count()
}

#[tokio::test(flavor = "multi_thread")]
async fn changes_of_an_entry_reach_a_connected_agent_by_push() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("ca");
    make(&data);
    let ca = CaProcess::start(&data, 0);
    let file = config(folder.path(), &["web", "db"]);
    let mut agent = AgentProcess::start(folder.path(), &file, Some(&token(&ca.admin_socket(), "n1").await));
    let (web, db) = (folder.path().join("web"), folder.path().join("db"));
    let connected = "connected to the CA";
    let log = folder.path().join("agent.log");
    let told = |message: &str| {
        std::fs::read_to_string(&log)
            .is_ok_and(|log| log.contains(message))
            .then_some(())
    };
    agent.wait_for("the stream", || told(connected));
    assert_eq!(serial_of(&web), None, "delivered without an entry");

    entry(&ca.admin_socket(), "db", "/db").await;
    apply_web(&ca, 600, &[]).await;
    let first = agent.wait_for("the first delivery", || leaf_of(&web));
    let lifetime = |leaf: &LeafInfo| leaf.not_after().since(leaf.not_before().plus(BACKDATE)).as_secs();
    assert_eq!((lifetime(&first), first.dns_names().len()), (600, 0));

    // Half of ten minutes is far away: what comes now, comes because it was pushed.
    apply_web(&ca, 300, &[]).await;
    let shorter = agent.wait_for("the other lifetime", || {
        leaf_of(&web).filter(|leaf| lifetime(leaf) == 300)
    });
    apply_web(&ca, 300, &["web.dev.test"]).await;
    let named = agent.wait_for("the name", || leaf_of(&web).filter(|leaf| !leaf.dns_names().is_empty()));
    assert_eq!(named.dns_names(), ["web.dev.test"]);
    let serials = BTreeSet::from([first.serial(), shorter.serial(), named.serial()]);
    assert_eq!(serials.len(), 3, "each change is a certificate of its own");

    let before = agent.wait_for("the other entry's delivery", || serial_of(&db));
    let delete = DeleteEntryRequest {
        name: "web".to_owned(),
        dry_run: false,
    };
    let deleted = registry(&ca.admin_socket()).await.delete_entry(delete).await.unwrap();
    assert!(deleted.into_inner().revoked_certificates >= 1);
    agent.wait_for("the end of the entry", || {
        told("the CA offers no such entry to this agent")
    });
    // A demand for everything renews what still has an entry, and nothing else.
    renew(&ca).await;
    agent.wait_for("the other entry's renewal", || {
        serial_of(&db).filter(|serial| *serial != before)
    });
    assert_eq!(
        serial_of(&web).as_ref(),
        Some(named.serial()),
        "renewed without an entry"
    );

    assert_eq!(
        logged(&agent, connected),
        1,
        "one stream brought it all:\n{}",
        agent.log()
    );
    assert_eq!(agent.stop(), Some(0));
    assert_eq!(ca.stop(), Some(0));
}

#[test]
fn a_token_as_an_argument_is_refused_and_not_repeated() {
    let output = Command::new(mintage_tests::kit::bins::binary("mintage-agent"))
        .args([
            "run",
            "--data-dir",
            "/nonexistent",
            "--join-token-file",
            "mint1_c2VjcmV0c2VjcmV0",
        ])
        .output()
        .unwrap();
    let told = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1));
    assert!(
        told.contains("looks like a join token") && !told.contains("c2VjcmV0"),
        "{told}"
    );
}
