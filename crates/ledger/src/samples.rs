//! Records for tests: one of every kind, and certificates with just the parts the index reads.

use mintage_identity::{AgentInstance, RequestId, Serial, SpiffeId, SpkiHash, UnixTime};

use crate::{Actor, Attestation, Body, Kind, Record, tree::sha256, wire};

pub(crate) fn head(seed: u64, body: Body) -> Record {
    let mut salt = [0; 16];
    salt[..8].copy_from_slice(&seed.to_be_bytes());
    Record {
        time: UnixTime::from_millis(1_000_000_000 + seed.cast_signed()),
        salt,
        actor: Actor::Agent {
            id: SpiffeId::parse("spiffe://dev.test/mintage/agent/web-1").unwrap(),
            instance: AgentInstance(3),
            serial: Some(serial(77)),
        },
        attestation: Some(Attestation {
            kind: "svid".into(),
            evidence: [9; 32],
            proven_at: UnixTime::from_millis(5),
        }),
        request_id: Some(RequestId::new(salt)),
        replica: "ca-1".into(),
        control_seen: 4,
        body,
    }
}

/// An issue of certificate number `seed` to `spiffe_id` through `agent`.
pub(crate) fn issue(seed: u64, spiffe_id: &str, agent: &str) -> Record {
    issue_until(seed, spiffe_id, agent, 1_000_600)
}

pub(crate) fn issue_until(seed: u64, spiffe_id: &str, agent: &str, not_after_s: i64) -> Record {
    let entry = spiffe_id.rsplit('/').next().unwrap_or_default().to_owned();
    let mut record = head(
        seed,
        Body::Issue(wire::Issue {
            spiffe_id: spiffe_id.into(),
            entry,
            entry_revision: 2,
            selectors: vec!["unix:uid:1000".into(), "unix:gid:1000".into()],
            selectors_enforced_by_agent: true,
            rule: "entry".into(),
            ttl_seconds: 600,
            issuer_key_id: vec![8; 32],
            certificate_der: certificate(seed, 1_000_000, not_after_s),
            profile: wire::Profile::Workload.into(),
        }),
    );
    record.actor = Actor::Agent {
        id: SpiffeId::parse(&format!("spiffe://dev.test/mintage/agent/{agent}")).unwrap(),
        instance: AgentInstance(3),
        serial: Some(serial(77)),
    };
    record
}

#[expect(clippy::too_many_lines, reason = "one arm for each kind")]
pub(crate) fn record_of(kind: Kind, seed: u64) -> Record {
    let attest = wire::AgentAttest {
        name: "web-1".into(),
        spiffe_id: "spiffe://dev.test/mintage/agent/web-1".into(),
        instance_of: 0,
        kind: "join_token".into(),
        evidence_sha256: vec![6; 32],
        spki_sha256: vec![5; 32],
        rejoin: false,
    };
    let body = match kind {
        Kind::Issue => return issue(seed, "spiffe://dev.test/web", "web-1"),
        Kind::Deny => Body::Deny(wire::Deny {
            spiffe_id: "spiffe://dev.test/web".into(),
            code: "no_entry".into(),
            suppressed: 3,
            ..Default::default()
        }),
        Kind::Revoke => Body::Revoke(wire::Revoke {
            serials: vec![wire::RevokedSerial {
                issuer_key_id: vec![8; 32],
                serial: serial(seed).octets().to_vec(),
                not_after_s: 1_000_600,
            }],
            rules: vec![wire::RevocationRule {
                target: Some(wire::revocation_rule::Target::SpkiSha256(vec![5; 32])),
                cut_s: Some(0),
            }],
            reason: 1,
            part: 1,
            parts: 1,
            ..Default::default()
        }),
        Kind::EntryPut => Body::EntryPut(wire::EntryPut {
            name: "web".into(),
            spiffe_id: "spiffe://dev.test/web".into(),
            ttl_seconds: 600,
            ..Default::default()
        }),
        Kind::EntryDelete => Body::EntryDelete(wire::EntryDelete {
            name: "web".into(),
            revision: 2,
        }),
        Kind::TokenCreate => Body::TokenCreate(wire::TokenCreate {
            token_hash: vec![1; 32],
            agent: "web-1".into(),
            expires_ms: 9,
            not_before_ms: 1,
        }),
        Kind::TokenConsume => Body::TokenConsume(wire::TokenConsume {
            token_hash: vec![1; 32],
            attest: Some(attest),
        }),
        Kind::TokenDelete => Body::TokenDelete(wire::TokenDelete {
            token_hash: vec![1; 32],
            agent: "web-1".into(),
        }),
        Kind::AgentAttest => Body::AgentAttest(attest),
        Kind::AgentBan => Body::AgentBan(wire::AgentBan {
            name: "web-1".into(),
            instance: 3,
            reason: "lost".into(),
        }),
        Kind::AgentEvict => Body::AgentEvict(wire::AgentEvict {
            name: "web-1".into(),
            instance: 3,
            reason: "gone".into(),
        }),
        Kind::CaEvent => Body::CaEvent(wire::CaEvent {
            key_id: vec![2; 32],
            ..Default::default()
        }),
        Kind::BundleChange => Body::BundleChange(wire::BundleChange {
            sequence: 1,
            roots_der: vec![vec![1]],
            jwt_keys: Vec::new(),
        }),
        Kind::BundleFederatedSet => Body::BundleFederatedSet(wire::BundleFederatedSet {
            trust_domain: "other.test".into(),
            sequence: 4,
            refresh_hint_seconds: 300,
            roots_der: vec![vec![1]],
            jwt_keys: Vec::new(),
            revocation_unchecked: true,
            replaces_revision: 0,
        }),
        Kind::BundleFederatedRemove => Body::BundleFederatedRemove(wire::BundleFederatedRemove {
            trust_domain: "other.test".into(),
            revision: 3,
        }),
        Kind::AdminEvent => Body::AdminEvent(wire::AdminEvent {
            action: "login".into(),
            detail: String::new(),
        }),
        Kind::SeenReport => Body::SeenReport(wire::SeenReport::default()),
        Kind::RevocationSnapshot => Body::RevocationSnapshot(wire::RevocationSnapshot {
            epoch: 1,
            sequence: 9,
            set_hash: vec![3; 32],
            snapshot_sha256: vec![4; 32],
            key_id: vec![5; 32],
        }),
        Kind::WitnessEvent => Body::WitnessEvent(wire::WitnessEvent::default()),
        Kind::LogOpen => Body::LogOpen(wire::LogOpen {
            origin: "dev.test/mintage/a1b2/2025-12".into(),
            ..Default::default()
        }),
        Kind::LogClose => Body::LogClose(wire::LogClose::default()),
        Kind::IssueJwt => Body::IssueJwt(wire::IssueJwt {
            spiffe_id: "spiffe://dev.test/web".into(),
            entry: "web".into(),
            entry_revision: 2,
            selectors: vec!["unix:uid:1000".into()],
            rule: "entry".into(),
            audiences: vec!["https://db.dev.test".into()],
            issued_s: 1_000_000,
            expires_s: 1_000_300,
            kid: "aa".into(),
            jti: "bb".into(),
            token_sha256: vec![7; 32],
        }),
    };
    head(seed, body)
}

pub(crate) fn serial(seed: u64) -> Serial {
    let mut octets = [1; 16];
    octets[8..].copy_from_slice(&seed.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes());
    Serial::from_random(octets)
}

fn der(tag: u8, content: &[u8]) -> Vec<u8> {
    let mut out = vec![tag];
    match content.len() {
        len @ 0..=127 => out.push(len as u8),
        len @ 128..=255 => out.extend([0x81, len as u8]),
        len => out.extend([0x82, (len >> 8) as u8, len as u8]),
    }
    out.extend(content);
    out
}

fn spki_der(seed: u64) -> Vec<u8> {
    der(0x30, &[&[3, 66, 0][..], &seed.to_be_bytes(), &[7; 57]].concat())
}

pub(crate) fn spki(seed: u64) -> SpkiHash {
    SpkiHash::new(sha256(&spki_der(seed)))
}

fn time(seconds: i64) -> Vec<u8> {
    // Tests stay within January 1970.
    let (days, rest) = (seconds / 86_400, seconds % 86_400);
    let text = format!(
        "7001{:02}{:02}{:02}{:02}Z",
        days + 1,
        rest / 3600,
        rest / 60 % 60,
        rest % 60
    );
    der(0x17, text.as_bytes())
}

/// The outer shape of a certificate, as long as a real one.
pub(crate) fn certificate(seed: u64, not_before_s: i64, not_after_s: i64) -> Vec<u8> {
    let tbs = [
        der(0xa0, &der(2, &[2])),
        der(2, serial(seed).octets()),
        der(0x30, &[6, 1, 1]),
        der(0x30, &[0x31; 40]),
        der(0x30, &[time(not_before_s), time(not_after_s)].concat()),
        der(0x30, &[]),
        spki_der(seed),
        der(0xa3, &[4; 180]),
    ]
    .concat();
    der(
        0x30,
        &[der(0x30, &tbs), der(0x30, &[6, 1, 1]), der(3, &[0x55; 72])].concat(),
    )
}
