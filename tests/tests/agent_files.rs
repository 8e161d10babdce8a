//! The real agent against the real CA: delivery, rotation, restart without a CA, kill -9, readers in between, and what
//! OpenSSL says of the files.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::{
    collections::BTreeSet,
    path::Path,
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use mintage_identity::Serial;
use mintage_proto::v1::RenewAgentRequest;
use mintage_svid::{LeafInfo, key_matches, pem};
use mintage_tests::kit::{
    agent::{AgentProcess, config},
    ca::{CaProcess, entry, make, token},
    client::registry,
    peers::peer,
};

/// Reads of the delivered folder in one torture run; a tenth unless the whole campaign is asked for.
const READS: usize = 100_000;

fn campaign(whole: usize) -> usize {
    if std::env::var_os("MINTAGE_FULL").is_some() {
        whole
    } else {
        whole / 10
    }
}

/// Key and leaf of one generation, entered once.
fn read_pair(folder: &Path) -> Option<(Vec<u8>, Vec<u8>)> {
    // Entering `..data` once holds one generation; the links of the single files could straddle a swap.
    let generation = std::fs::canonicalize(folder.join("..data")).ok()?;
    let certificate = std::fs::read_to_string(generation.join("svid.pem")).ok()?;
    let key = std::fs::read_to_string(generation.join("svid_key.pem")).ok()?;
    let leaf = pem::decode_certificates(&certificate).ok()?.swap_remove(0);
    Some((leaf, pem::decode_private_key(&key).ok()?.to_vec()))
}

fn serial_of(folder: &Path) -> Option<Serial> {
    let (leaf, _) = read_pair(folder)?;
    Some(*LeafInfo::parse(&leaf).ok()?.serial())
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
    let stop = Arc::new(AtomicBool::new(false));
    let reader = std::thread::spawn({
        let (web, stop) = (web.clone(), stop.clone());
        move || torture(&web, &stop, campaign(READS))
    });
    let mut serials = BTreeSet::from([first]);
    while !reader.is_finished() {
        let before = serial_of(&web).unwrap();
        renew(&ca).await;
        let after = agent.wait_for("a rotation", || serial_of(&web).filter(|serial| *serial != before));
        assert!(serials.insert(after), "serial {after} came twice");
    }
    stop.store(true, Ordering::Relaxed);
    let (pairs, mismatched) = reader.join().unwrap();
    assert_eq!(mismatched, 0, "of {pairs} reads");
    assert!(serials.len() > 2, "{} rotations are no torture", serials.len());
    assert_eq!(agent.stop(), Some(0));
    assert_eq!(ca.stop(), Some(0));
}

/// Reads pairs until enough are read; a generation removed under the reader counts as a retry, not as a pair.
fn torture(folder: &Path, stop: &AtomicBool, wanted: usize) -> (usize, usize) {
    let (mut pairs, mut mismatched) = (0, 0);
    while pairs < wanted && !stop.load(Ordering::Relaxed) {
        if let Some((leaf, key)) = read_pair(folder) {
            pairs += 1;
            mismatched += usize::from(!key_matches(&leaf, &key).unwrap_or(false));
        }
    }
    (pairs, mismatched)
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
            agent.wait_for("the stream", || Some(()));
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        };
        assert!(serials.insert(after), "serial {after} came twice");
    }
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
