//! Entries and attested agents for this crate's tests.

use mintage_attest::Attested;
use mintage_attest::channel::{AgentCertificate, AgentSession, AgentStanding, verify_session};
use mintage_identity::{AgentInstance, AgentName, IssuerKeyId, Serial, SpiffeId, SpkiHash, TrustDomain, UnixTime};

use crate::{Entry, RawEntry};

pub(crate) const NOW: UnixTime = UnixTime::from_seconds(1_800_000_000);

pub(crate) fn domain() -> TrustDomain {
    TrustDomain::parse("dev.test").unwrap()
}

pub(crate) fn agent_id(name: &str) -> SpiffeId {
    SpiffeId::agent(&domain(), &AgentName::parse(name).unwrap())
}

/// An entry that is right in every field.
pub(crate) fn raw(name: &str) -> RawEntry {
    RawEntry {
        name: name.into(),
        spiffe_id: format!("spiffe://dev.test/{name}"),
        agents: vec!["spiffe://dev.test/mintage/agent/n1".into()],
        selectors: vec!["unix:uid:1000".into(), "unix:path:/usr/bin/web".into()],
        ttl_seconds: 300,
        dns_names: vec!["web.dev.test".into(), "web".into()],
        common_name: "web.dev.test".into(),
        hint: "internal".into(),
        owner: "team-a".into(),
        environment: "prod".into(),
        purpose: "the shop's front".into(),
        jwt_forbidden: false,
        jwt_audiences: Vec::new(),
        federates_with: Vec::new(),
        disabled: false,
    }
}

pub(crate) fn entry(raw: &RawEntry) -> Entry {
    raw.validate(&domain()).unwrap()
}

/// `n1`-like agents proven over a channel at `at`.
pub(crate) fn attested(name: &str, instance: u64, at: UnixTime) -> Attested {
    let id = agent_id(name);
    let (serial, spki) = (Serial::from_random([7; 16]), SpkiHash::new([8; 32]));
    let session = AgentSession {
        id: id.clone(),
        issuer: IssuerKeyId::new([9; 32]),
        serial,
        not_before: at,
        not_after: UnixTime::from_millis(i64::MAX),
        spki,
    };
    let standing = AgentStanding {
        id,
        instance: AgentInstance(instance),
        banned: false,
        evicted: false,
        current: AgentCertificate { serial, spki },
        earlier: Vec::new(),
    };
    verify_session(&session, Some(&standing), at).unwrap()
}

/// The field and the problem of an entry that is right but for this change.
pub(crate) fn refusal(change: impl FnOnce(&mut RawEntry)) -> (&'static str, String) {
    let mut entry = raw("web");
    change(&mut entry);
    let error = entry.validate(&domain()).expect_err("must be refused");
    (error.field(), error.problem().to_owned())
}

pub(crate) fn texts(list: &[&str]) -> Vec<String> {
    list.iter().map(ToString::to_string).collect()
}
