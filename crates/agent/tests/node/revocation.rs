//! Revocation news on its way through the agent: verified, in force, on the node's map, on disk, acknowledged.

use std::time::Duration;

use mintage_agent::AgentEvent;
use mintage_identity::Serial;
use mintage_proto::v1::{Revoked, ca_message::Message, revoked::News};
use mintage_revocation::{MapOwner, MapReader, Query, Verdict};
use mintage_svid::CertInfo;
use mintage_verifier::{AllowedIds, Usage};
use rustls_pki_types::CertificateDer;

use crate::missing::missing;
use crate::support::{
    self, FakeCa,
    agent::{Node, Pair, Running, read_generation, until},
    entry, wall,
};

async fn applied(agent: &mut Running, wanted: u64) {
    agent
        .event("revocation", |event| match event {
            AgentEvent::RevocationApplied { sequence } if sequence >= wanted => Some(()),
            _ => None,
        })
        .await;
}

/// Whether a verifier in the agent's process accepts the pair's certificate.
fn accepted(agent: &Running, pair: &Pair) -> bool {
    let chain: Vec<CertificateDer<'_>> = pair.chain.iter().map(|der| der.as_slice().into()).collect();
    let provider = rustls::crypto::ring::default_provider();
    let algorithms = &provider.signature_verification_algorithms;
    let trust = agent.handle.trust_store().load_full();
    trust
        .verify(&chain, Usage::Both, &AllowedIds::OwnTrustDomain, algorithms, wall())
        .is_ok()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_revoked_own_certificate_is_refused_here_replaced_at_once_and_acknowledged() {
    let ca = FakeCa::start(vec![entry("web", "/web")]).await;
    let node = Node::new();
    let config = node.config(&["web"]).with_revocation_map(node.map()).unwrap();
    let mut agent = node.start(config.clone(), Some(ca.token()));
    agent.delivered("web").await;
    until("the filter", || {
        ca.seen().acks.iter().any(|ack| ack.revocation_sequence == 2)
    })
    .await;
    let old = node.read("web");
    assert!(accepted(&agent, &old));
    let mut added = agent.handle.revocations();
    let sequence = ca.revoke(old.serial(), old.leaf().not_after());
    applied(&mut agent, sequence).await;
    assert!(!accepted(&agent, &old));
    assert_eq!(added.recv().await.unwrap().keys.len(), 1);
    let (serial, _) = agent.delivered("web").await;
    assert_ne!(serial, old.serial());
    let new = node.read("web");
    assert!(new.key != old.key && accepted(&agent, &new));
    until("the acknowledgement", || {
        ca.seen().acks.iter().any(|ack| ack.revocation_sequence == sequence)
    })
    .await;

    // Another process on the node sees the same through the map.
    let reader = MapReader::open(&node.map(), &support::domain(), MapOwner::default()).unwrap();
    let check = |reader: &MapReader, pair: &Pair| {
        let leaf = pair.leaf();
        let issuer = CertInfo::parse(&pair.chain[1]).unwrap().key_id();
        let query = Query {
            issuer,
            serial: leaf.serial(),
            not_before: leaf.not_before(),
            not_after: leaf.not_after(),
            spiffe_id: Some(leaf.id()),
            spki_sha256: leaf.spki_sha256(),
        };
        reader.check(&query, wall())
    };
    assert!(matches!(check(&reader, &old), Verdict::Revoked { .. }));
    assert_eq!(check(&reader, &new), Verdict::Good);

    // Revoked stays revoked across a restart with the CA down.
    agent.stop().await;
    ca.down();
    let agent = node.start(config, None);
    assert!(!accepted(&agent, &old));
    assert!(accepted(&agent, &new));
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_snapshot_by_reference_is_fetched_on_its_own_rpc() {
    let ca = FakeCa::start(vec![entry("web", "/web")]).await;
    ca.script().snapshot_by_reference = true;
    let node = Node::new();
    let mut agent = node.start(node.config(&["web"]), Some(ca.token()));
    applied(&mut agent, 2).await;
    until("the pair", || read_generation(&node.folder("web")).is_some()).await;
    assert!(ca.seen().snapshots >= 1);
    assert!(accepted(&agent, &node.read("web")));
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn forged_and_torn_news_changes_nothing_and_a_gap_is_closed_by_the_snapshot() {
    let ca = FakeCa::start(vec![entry("web", "/web")]).await;
    let node = Node::new();
    let mut agent = node.start(node.config(&["web"]), Some(ca.token()));
    agent.delivered("web").await;
    until("the filter", || {
        ca.seen().acks.iter().any(|ack| ack.revocation_sequence == 2)
    })
    .await;
    let pair = node.read("web");
    let mut forged = ca.state.snapshot();
    let middle = forged.len() / 2;
    forged[middle] ^= 1;
    let torn = ca.state.heartbeat()[..40].to_vec();
    for news in [
        News::Snapshot(forged.into()),
        News::Delta(vec![0; 500].into()),
        News::Heartbeat(torn.into()),
        News::Delta(Vec::new().into()),
    ] {
        ca.push(Message::Revoked(Revoked { news: Some(news) }));
        agent.problem("revocation").await;
    }
    assert!(accepted(&agent, &pair), "the last good set stays");
    // A revocation whose delta never came: the heartbeat tells that something is missing.
    let fetched = ca.seen().snapshots;
    let streams = std::mem::take(&mut *ca.state.streams.lock().unwrap());
    let sequence = ca.revoke(pair.serial(), pair.leaf().not_after());
    *ca.state.streams.lock().unwrap() = streams;
    ca.push(Message::Revoked(Revoked {
        news: Some(News::Heartbeat(ca.state.heartbeat().into())),
    }));
    applied(&mut agent, sequence).await;
    assert!(ca.seen().snapshots > fetched);
    assert!(!accepted(&agent, &pair));
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_whose_filter_is_old_still_reaches_its_ca() {
    let ca = FakeCa::start(vec![entry("web", "/web")]).await;
    let node = Node::new();
    let mut agent = node.start(node.config(&["web"]), Some(ca.token()));
    agent.delivered("web").await;
    until("the filter", || {
        ca.seen().acks.iter().any(|ack| ack.revocation_sequence == 2)
    })
    .await;
    ca.down();
    // Older than any policy for peers allows, and the agent's certificate still valid.
    node.clock.shift(1_200);
    ca.up().await;
    agent.connected().await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_revoked_after_many_deltas_stays_revoked_across_a_restart_with_the_ca_down() {
    let ca = FakeCa::start(vec![entry("web", "/web")]).await;
    let node = Node::new();
    let mut agent = node.start(node.config(&["web"]), Some(ca.token()));
    let (_, _) = agent.delivered("web").await;
    until("the filter", || {
        ca.seen().acks.iter().any(|ack| ack.revocation_sequence == 2)
    })
    .await;
    let pair = node.read("web");
    let deltas = mintage_revocation::limits::SAVED_DELTAS_MAX as u64;
    for other in 0..deltas {
        let serial = Serial::from_random(std::array::from_fn(|at| (other >> (at % 8)) as u8 ^ 0x5a));
        let sequence = ca.revoke(serial, pair.leaf().not_after());
        applied(&mut agent, sequence).await;
    }
    let saved = node.data().join("revocation");
    until("a snapshot in the place of the deltas", || {
        !saved.join("delta-00001").exists()
    })
    .await;
    let sequence = ca.revoke(pair.serial(), pair.leaf().not_after());
    applied(&mut agent, sequence).await;
    agent.stop().await;
    ca.down();
    let agent = node.start(node.config(&["web"]), None);
    assert!(!accepted(&agent, &pair), "the delta after the limit was saved too");
    agent.stop().await;
}

/// A small disk, unmounted when this ends.
struct Disk(std::path::PathBuf);

impl Disk {
    /// `None`, with the reason told, where this process may not mount.
    fn mount(at: std::path::PathBuf) -> Option<Self> {
        std::fs::create_dir(&at).unwrap();
        let options = ["-t", "tmpfs", "-o", "size=256k,mode=755", "tmpfs"];
        let mounted = std::process::Command::new("mount").args(options).arg(&at).output();
        if mounted.as_ref().is_ok_and(|output| output.status.success()) {
            return Some(Self(at));
        }
        missing("a small disk", &format!("none can be mounted here: {mounted:?}"))
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = std::process::Command::new("umount").arg("-l").arg(&self.0).output();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_map_has_no_room_for_is_not_acknowledged_until_it_has() {
    let folder = tempfile::tempdir().unwrap();
    let Some(disk) = Disk::mount(folder.path().join("run")) else {
        return;
    };
    let ca = FakeCa::start(vec![entry("web", "/web")]).await;
    let node = Node::new();
    let map = disk.0.join("revocation.map");
    let config = node.config(&["web"]).with_revocation_map(map.clone()).unwrap();
    let mut agent = node.start(config, Some(ca.token()));
    agent.delivered("web").await;
    let acknowledged = |wanted| ca.seen().acks.iter().any(|ack| ack.revocation_sequence == wanted);
    until("the filter", || acknowledged(2)).await;
    let filler = disk.0.join("filler");
    let mut file = std::fs::File::create(&filler).unwrap();
    while std::io::Write::write_all(&mut file, &[1; 4096]).is_ok() {}
    drop(file);

    let pair = node.read("web");
    let sequence = ca.revoke(pair.serial(), pair.leaf().not_after());
    let full = async |agent: &mut Running| loop {
        // The CA's own heartbeats may find it full as well.
        if agent.problem("revocation").await.contains("free ") {
            return;
        }
    };
    full(&mut agent).await;
    applied(&mut agent, sequence).await;
    assert!(!accepted(&agent, &pair), "here it is refused all the same");
    let beat = || {
        ca.push(Message::Revoked(Revoked {
            news: Some(News::Heartbeat(ca.state.heartbeat().into())),
        }))
    };
    for _ in 0..2 {
        beat();
        full(&mut agent).await;
    }
    assert!(!acknowledged(sequence), "readers of the map do not refuse it");

    std::fs::remove_file(&filler).unwrap();
    beat();
    until("the acknowledgement", || acknowledged(sequence)).await;
    let reader = MapReader::open(&map, &support::domain(), MapOwner::default()).unwrap();
    assert_eq!(reader.sequence(), sequence);
    agent.stop().await;
}
