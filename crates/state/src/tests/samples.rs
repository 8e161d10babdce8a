//! Records, certificates and ledgers for tests.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use mintage_identity::{AgentInstance, AgentName, Serial, SpiffeId, TrustDomain, UnixTime};
use mintage_ledger::{Actor, Body, FileJournal, Journal, LogKey, OpenOptions, Origin, Record, wire};
use zeroize::Zeroizing;

pub(super) const NOW: UnixTime = UnixTime::from_seconds(1_800_000_000);

/// Rounds of a campaign: a tenth of them by default, all with `MINTAGE_FULL` set.
pub(super) fn rounds(full: u32) -> u32 {
    if std::env::var_os("MINTAGE_FULL").is_some() {
        full
    } else {
        full / 10
    }
}

/// Where a campaign's random places start; `MINTAGE_SEED` goes somewhere else.
pub(super) fn seed() -> u64 {
    std::env::var("MINTAGE_SEED")
        .ok()
        .and_then(|seed| seed.parse().ok())
        .unwrap_or(7)
}

pub(super) fn domain() -> TrustDomain {
    TrustDomain::parse("dev.test").unwrap()
}

pub(super) fn agent_id(name: &str) -> SpiffeId {
    SpiffeId::agent(&domain(), &AgentName::parse(name).unwrap())
}

/// A record made `seconds` after [`NOW`].
pub(super) fn record(seconds: i64, body: Body) -> Record {
    static SALT: AtomicU64 = AtomicU64::new(0);
    let mut salt = [0; 16];
    salt[..8].copy_from_slice(&SALT.fetch_add(1, Ordering::Relaxed).to_be_bytes());
    Record {
        time: UnixTime::from_seconds(NOW.seconds() + seconds),
        salt,
        actor: Actor::Admin {
            uid: 0,
            pid: 1,
            name: "root".into(),
            address: "test".into(),
        },
        attestation: None,
        request_id: None,
        replica: "r1".into(),
        control_seen: 0,
        body,
    }
}

pub(super) fn put(name: &str, agent: &str, ttl_seconds: u32, replaces_revision: u64) -> Body {
    Body::EntryPut(wire::EntryPut {
        name: name.into(),
        spiffe_id: format!("spiffe://dev.test/{name}"),
        agents: vec![format!("spiffe://dev.test/mintage/agent/{agent}")],
        selectors: vec!["unix:uid:1000".into()],
        ttl_seconds,
        replaces_revision,
        ..Default::default()
    })
}

pub(super) fn delete(name: &str, revision: u64) -> Body {
    Body::EntryDelete(wire::EntryDelete {
        name: name.into(),
        revision,
    })
}

pub(super) fn token(hash: u8, agent: &str, life_seconds: i64) -> Body {
    Body::TokenCreate(wire::TokenCreate {
        token_hash: vec![hash; 32],
        agent: agent.into(),
        expires_ms: NOW.millis() + life_seconds * 1_000,
        not_before_ms: NOW.millis(),
    })
}

pub(super) fn attest(agent: &str, key: u8, instance_of: u64) -> wire::AgentAttest {
    wire::AgentAttest {
        name: agent.into(),
        spiffe_id: agent_id(agent).to_string(),
        instance_of,
        kind: if instance_of == 0 { "join_token" } else { "rejoin" }.into(),
        evidence_sha256: vec![6; 32],
        spki_sha256: vec![key; 32],
        rejoin: instance_of != 0,
    }
}

pub(super) fn consume(hash: u8, agent: &str, key: u8) -> Body {
    Body::TokenConsume(wire::TokenConsume {
        token_hash: vec![hash; 32],
        attest: Some(attest(agent, key, 0)),
    })
}

pub(super) fn ban(agent: &str, instance: u64) -> Body {
    Body::AgentBan(wire::AgentBan {
        name: agent.into(),
        instance,
        reason: "lost".into(),
    })
}

pub(super) fn evict(agent: &str, instance: u64) -> Body {
    Body::AgentEvict(wire::AgentEvict {
        name: agent.into(),
        instance,
        reason: "gone".into(),
    })
}

pub(super) fn ca_event(event: wire::CaEventKind, role: wire::CaRole, key: u8, not_after_s: i64) -> Body {
    Body::CaEvent(wire::CaEvent {
        event: event as i32,
        role: role as i32,
        key_id: vec![key; 32],
        not_after_s,
        ..Default::default()
    })
}

pub(super) fn bundle(sequence: u64) -> Body {
    let roots_der = vec![vec![u8::try_from(sequence % 200).unwrap()]];
    Body::BundleChange(wire::BundleChange {
        sequence,
        roots_der,
        jwt_keys: Vec::new(),
    })
}

pub(super) fn revoke(serials: &[u8], rules: Vec<wire::RevocationRule>) -> Body {
    let serials = serials.iter().map(|n| wire::RevokedSerial {
        issuer_key_id: vec![0xca; 32],
        serial: serial(*n).octets().to_vec(),
        not_after_s: NOW.seconds() + 600,
    });
    Body::Revoke(wire::Revoke {
        serials: serials.collect(),
        rules,
        reason: 1,
        part: 1,
        parts: 1,
        ..Default::default()
    })
}

pub(super) fn identity_rule(id: &str, cut_s: Option<i64>) -> wire::RevocationRule {
    wire::RevocationRule {
        target: Some(wire::revocation_rule::Target::Identity(id.into())),
        cut_s,
    }
}

pub(super) fn serial(n: u8) -> Serial {
    Serial::from_random([n; 16])
}

/// A certificate for `agent` itself, asked for by the agent's instance.
pub(super) fn agent_issue(seconds: i64, agent: &str, instance: u64, n: u8) -> Record {
    agent_issue_by(None, seconds, agent, instance, n)
}

/// As [`agent_issue`], asked for with the certificate of this serial.
pub(super) fn agent_issue_by(shown: Option<Serial>, seconds: i64, agent: &str, instance: u64, n: u8) -> Record {
    let body = Body::Issue(wire::Issue {
        spiffe_id: agent_id(agent).to_string(),
        ttl_seconds: 3_600,
        rule: "agent-itself".into(),
        issuer_key_id: vec![0xca; 32],
        certificate_der: certificate(n),
        profile: wire::Profile::Agent.into(),
        ..Default::default()
    });
    let actor = Actor::Agent {
        id: agent_id(agent),
        instance: AgentInstance(instance),
        serial: shown,
    };
    Record {
        actor,
        ..record(seconds, body)
    }
}

/// A certificate for a workload, which the state does not look at.
pub(super) fn workload_issue(seconds: i64, n: u8) -> Record {
    let mut issue = agent_issue(seconds, "n1", 1, n);
    if let Body::Issue(body) = &mut issue.body {
        body.spiffe_id = "spiffe://dev.test/web".into();
        body.profile = wire::Profile::Workload.into();
    }
    issue
}

fn der(tag: u8, content: &[u8]) -> Vec<u8> {
    assert!(content.len() < 128);
    let mut out = vec![tag, u8::try_from(content.len()).unwrap()];
    out.extend_from_slice(content);
    out
}

/// The parts of a certificate that the ledger reads.
fn certificate(n: u8) -> Vec<u8> {
    let validity = [der(0x17, b"270115080000Z"), der(0x17, b"270115090000Z")].concat();
    let parts = [
        der(0xa0, &der(2, &[2])),
        der(2, serial(n).octets()),
        der(0x30, &[]),
        der(0x30, &[]),
        der(0x30, &validity),
        der(0x30, &[]),
        der(0x30, &[n]),
    ];
    der(0x30, &der(0x30, &parts.concat()))
}

/// A ledger with its first record in `dir`/ledger.
pub(super) fn new_ledger(dir: &Path, id: &str) -> Arc<FileJournal> {
    let origin = Origin::new(&domain(), id, NOW).unwrap();
    let (key, _) = LogKey::generate(&Zeroizing::new([3; 32])).unwrap();
    let opening = Body::LogOpen(wire::LogOpen {
        origin: origin.as_str().into(),
        vkey: key.vkey(&origin).to_string(),
        ..Default::default()
    });
    let opening = record(0, opening).encode().unwrap();
    Arc::new(FileJournal::create(&dir.join("ledger"), &origin, &key, opening, OpenOptions::default()).unwrap())
}

pub(super) fn open_ledger(dir: &Path) -> Arc<FileJournal> {
    Arc::new(FileJournal::open(&dir.join("ledger"), OpenOptions::default()).unwrap())
}

/// Appends each record in a group of its own and returns the index of the last.
pub(super) fn append(journal: &dyn Journal, records: impl IntoIterator<Item = Record>) -> u64 {
    let mut last = 0;
    for record in records {
        last = journal.append(&[record.encode().unwrap()], u64::MAX).unwrap();
    }
    last
}
