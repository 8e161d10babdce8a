//! A record as named fields: every kind of body, and who caused it.

use std::fmt::Write;

use mintage_identity::{RevocationReason, UnixTime};
use mintage_ledger::{
    Actor, Body, Record,
    wire::{self, revocation_rule::Target},
};
use mintage_svid::cert_sha256;
use serde::{Serialize, Serializer, ser::SerializeMap};
use serde_json::{Value, json};

use crate::text::{lasting, printable, rfc3339};

/// Fields in the order in which they are shown.
#[derive(Debug, Default)]
pub(super) struct Fields(Vec<(&'static str, Value)>);

impl Serialize for Fields {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.0.len()))?;
        for (name, value) in &self.0 {
            map.serialize_entry(name, value)?;
        }
        map.end()
    }
}

impl Fields {
    fn of<const N: usize>(fields: [(&'static str, Value); N]) -> Self {
        Self(fields.into())
    }

    /// The same as lines for people; empty values are left out.
    pub(super) fn lines(&self) -> String {
        let shown: Vec<(String, Vec<String>)> = self
            .0
            .iter()
            .map(|(name, value)| (name.replace('_', " "), texts(value)))
            .filter(|(_, texts)| !texts.is_empty())
            .collect();
        let width = shown.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
        let mut lines = String::new();
        for (name, texts) in shown {
            for (at, text) in texts.iter().enumerate() {
                let name = if at == 0 { name.as_str() } else { "" };
                // Writing to a string does not fail.
                let _ = writeln!(lines, "{name:width$}  {}", printable(text));
            }
        }
        lines
    }
}

fn texts(value: &Value) -> Vec<String> {
    match value {
        Value::Null => Vec::new(),
        Value::String(text) if text.is_empty() => Vec::new(),
        Value::String(text) => vec![text.clone()],
        Value::Array(list) => list.iter().flat_map(texts).collect(),
        Value::Object(map) => {
            let parts = map
                .iter()
                .flat_map(|(name, value)| texts(value).into_iter().map(move |text| format!("{name} {text}")));
            vec![parts.collect::<Vec<_>>().join(", ")]
        }
        other => vec![other.to_string()],
    }
}

fn hexed(octets: &[u8]) -> Value {
    Value::String(hex::encode(octets))
}

fn time(millis: i64) -> Value {
    rfc3339(millis).map_or(Value::Null, Value::String)
}

fn seconds(seconds: i64) -> Value {
    time(UnixTime::from_seconds(seconds).millis())
}

/// Who caused the record, and what the CA had proven of him.
pub(super) fn cause(record: &Record) -> Fields {
    let mut fields = match &record.actor {
        Actor::Agent { id, instance, serial } => Fields::of([
            ("actor", json!("agent")),
            ("actor_id", json!(id.as_str())),
            ("instance", json!(instance.0)),
            ("channel_serial", json!(serial.as_ref().map(ToString::to_string))),
        ]),
        Actor::Admin {
            uid,
            pid,
            name,
            address,
        } => Fields::of([
            ("actor", json!("admin")),
            ("uid", json!(uid)),
            ("pid", json!(pid)),
            ("account", json!(name)),
            ("address", json!(address)),
        ]),
        Actor::Replica { id } => Fields::of([("actor", json!("ca")), ("actor_id", json!(id.as_str()))]),
        Actor::Token { hash } => Fields::of([("actor", json!("join token")), ("token_hash", hexed(hash))]),
        _ => Fields::of([("actor", json!("unknown"))]),
    };
    if let Some(proven) = &record.attestation {
        fields.0.push(("attestation", json!(proven.kind)));
        fields.0.push(("evidence_sha256", hexed(&proven.evidence)));
        fields.0.push(("proven_at", time(proven.proven_at.millis())));
    }
    fields
        .0
        .push(("request_id", json!(record.request_id.map(|id| id.to_string()))));
    fields.0.push(("replica", json!(record.replica)));
    fields.0.push(("control_seen", json!(record.control_seen)));
    fields
}

/// What happened.
pub(super) fn body(body: &Body) -> Fields {
    match body {
        Body::Issue(issue) => self::issue(issue),
        Body::IssueJwt(issue) => issue_jwt(issue),
        Body::Revoke(revoke) => self::revoke(revoke),
        Body::EntryPut(put) => entry(put),
        Body::CaEvent(event) => ca_event(event),
        Body::Deny(deny) => Fields::of([
            ("spiffe_id", json!(deny.spiffe_id)),
            ("entry", json!(deny.entry)),
            ("code", json!(deny.code)),
            ("why", json!(deny.why)),
            ("suppressed", json!(deny.suppressed)),
        ]),
        Body::EntryDelete(delete) => Fields::of([("entry", json!(delete.name)), ("revision", json!(delete.revision))]),
        Body::TokenCreate(token) => Fields::of([
            ("token_hash", hexed(&token.token_hash)),
            ("agent", json!(token.agent)),
            ("not_before", time(token.not_before_ms)),
            ("expires", time(token.expires_ms)),
        ]),
        Body::TokenConsume(token) => {
            let mut fields = token.attest.as_ref().map(attest).unwrap_or_default();
            fields.0.insert(0, ("token_hash", hexed(&token.token_hash)));
            fields
        }
        Body::TokenDelete(token) => {
            Fields::of([("token_hash", hexed(&token.token_hash)), ("agent", json!(token.agent))])
        }
        Body::AgentAttest(agent) => attest(agent),
        Body::AgentBan(end) => ended(&end.name, end.instance, &end.reason),
        Body::AgentEvict(end) => ended(&end.name, end.instance, &end.reason),
        other => log_body(other),
    }
}

/// What an agent saw in use; what the ledger does not hold in full.
fn seen(report: &wire::SeenReport) -> Fields {
    let unknown = report.certificates.iter().filter(|seen| !seen.known);
    let unknown = unknown.map(|seen| {
        json!({
            "serial": hex::encode(&seen.serial),
            "issuer_key_id": hex::encode(&seen.issuer_key_id),
            "certificate_sha256": hex::encode(&seen.certificate_sha256),
            "spiffe_id": seen.spiffe_id,
            "not_before": seconds(seen.not_before_s),
            "not_after": seconds(seen.not_after_s),
            "seen_at": time(seen.seen_at_ms),
            "recorded_otherwise": seen.recorded,
        })
    });
    Fields::of([
        ("certificates", json!(report.certificates.len())),
        ("unknown", unknown.collect()),
        ("suppressed", json!(report.suppressed)),
    ])
}

/// Kinds that change nothing but the log's own knowledge.
fn log_body(body: &Body) -> Fields {
    match body {
        Body::BundleChange(bundle) => Fields::of([
            ("sequence", json!(bundle.sequence)),
            ("roots", json!(bundle.roots_der.len())),
            ("jwt_keys", bundle.jwt_keys.iter().map(|key| json!(key.kid)).collect()),
        ]),
        Body::BundleFederatedSet(set) => federated(set),
        Body::BundleFederatedRemove(gone) => Fields::of([
            ("trust_domain", json!(gone.trust_domain)),
            ("revision", json!(gone.revision)),
        ]),
        Body::AdminEvent(event) => Fields::of([("action", json!(event.action)), ("detail", json!(event.detail))]),
        Body::SeenReport(report) => seen(report),
        Body::RevocationSnapshot(snapshot) => Fields::of([
            ("epoch", json!(snapshot.epoch)),
            ("sequence", json!(snapshot.sequence)),
            ("set_hash", hexed(&snapshot.set_hash)),
            ("snapshot_sha256", hexed(&snapshot.snapshot_sha256)),
            ("key_id", hexed(&snapshot.key_id)),
        ]),
        Body::WitnessEvent(event) => Fields::of([
            ("witness", json!(event.witness)),
            ("event", json!(event.event)),
            ("tree_size", json!(event.tree_size)),
            ("cosignature", json!(event.cosignature)),
        ]),
        Body::LogOpen(open) => Fields::of([
            ("origin", json!(open.origin)),
            ("vkey", json!(open.vkey)),
            ("previous_checkpoint", json!(open.previous_checkpoint)),
            ("snapshot_sha256", hexed(&open.snapshot_sha256)),
        ]),
        Body::LogClose(close) => Fields::of([("reason", json!(close.reason))]),
        _ => Fields::default(),
    }
}

fn federated(set: &wire::BundleFederatedSet) -> Fields {
    let stated = |number: u64| json!((number != 0).then_some(number));
    let roots = set.roots_der.iter().map(|der| json!(cert_sha256(der).to_string()));
    Fields::of([
        ("trust_domain", json!(set.trust_domain)),
        ("sequence", stated(set.sequence)),
        ("refresh_hint_seconds", stated(set.refresh_hint_seconds.into())),
        ("roots_sha256", roots.collect()),
        ("jwt_keys", set.jwt_keys.iter().map(|key| json!(key.kid)).collect()),
        (
            "revocation",
            json!(if set.revocation_unchecked { "none" } else { "required" }),
        ),
        ("replaces_revision", stated(set.replaces_revision)),
    ])
}

fn issue(issue: &wire::Issue) -> Fields {
    let enforced = match (issue.entry.is_empty(), issue.selectors_enforced_by_agent) {
        (true, _) => Value::Null,
        (_, true) => json!("the agent"),
        (_, false) => json!("the CA"),
    };
    let profile = match issue.profile() {
        wire::Profile::Workload => "workload",
        wire::Profile::Agent => "agent",
        wire::Profile::Replica => "replica",
        wire::Profile::Unspecified => "unknown",
    };
    Fields::of([
        ("profile", json!(profile)),
        ("spiffe_id", json!(issue.spiffe_id)),
        ("entry", json!(issue.entry)),
        (
            "entry_revision",
            if issue.entry.is_empty() {
                Value::Null
            } else {
                json!(issue.entry_revision)
            },
        ),
        ("selectors", json!(issue.selectors)),
        ("selectors_matched_by", enforced),
        ("rule", json!(issue.rule)),
        ("ttl", json!(lasting(issue.ttl_seconds.into()))),
        ("issuer_key_id", hexed(&issue.issuer_key_id)),
    ])
}

fn issue_jwt(issue: &wire::IssueJwt) -> Fields {
    Fields::of([
        ("spiffe_id", json!(issue.spiffe_id)),
        ("entry", json!(issue.entry)),
        ("entry_revision", json!(issue.entry_revision)),
        ("selectors", json!(issue.selectors)),
        ("selectors_matched_by", json!("the agent")),
        ("rule", json!(issue.rule)),
        ("audiences", json!(issue.audiences)),
        ("issued", seconds(issue.issued_s)),
        ("expires", seconds(issue.expires_s)),
        ("kid", json!(issue.kid)),
        ("jti", json!(issue.jti)),
        ("token_sha256", hexed(&issue.token_sha256)),
    ])
}

fn revoke(revoke: &wire::Revoke) -> Fields {
    let code = u8::try_from(revoke.reason).ok().and_then(RevocationReason::from_code);
    let reason = code.map_or_else(|| format!("unknown ({})", revoke.reason), |reason| reason.to_string());
    let part = (revoke.parts > 1).then(|| format!("{} of {}", revoke.part, revoke.parts));
    Fields::of([
        ("scope", json!(revoke.scope)),
        ("reason", json!(reason)),
        ("note", json!(revoke.note)),
        ("part", json!(part)),
        (
            "serials",
            revoke.serials.iter().map(|revoked| hexed(&revoked.serial)).collect(),
        ),
        (
            "rules",
            revoke.rules.iter().map(|rule| Value::String(rule_text(rule))).collect(),
        ),
    ])
}

fn rule_text(rule: &wire::RevocationRule) -> String {
    let target = match &rule.target {
        Some(Target::Identity(id)) => format!("spiffe-id {id}"),
        Some(Target::Prefix(prefix)) => format!("prefix {prefix}"),
        Some(Target::SpkiSha256(key)) => format!("key {}", hex::encode(key)),
        Some(Target::IssuerKeyId(issuer)) => format!("issuer {}", hex::encode(issuer)),
        None => "nothing".to_owned(),
    };
    match rule.cut_s.and_then(|cut| rfc3339(UnixTime::from_seconds(cut).millis())) {
        Some(cut) => format!("{target}, what began until {cut}"),
        None => format!("{target}, every one"),
    }
}

fn entry(put: &wire::EntryPut) -> Fields {
    let replaces = (put.replaces_revision != 0).then_some(put.replaces_revision);
    Fields::of([
        ("entry", json!(put.name)),
        ("spiffe_id", json!(put.spiffe_id)),
        ("agents", json!(put.agents)),
        ("selectors", json!(put.selectors)),
        ("ttl", json!(lasting(put.ttl_seconds.into()))),
        ("dns_names", json!(put.dns_names)),
        ("common_name", json!(put.common_name)),
        ("hint", json!(put.hint)),
        ("owner", json!(put.owner)),
        ("environment", json!(put.environment)),
        ("purpose", json!(put.purpose)),
        ("disabled", json!(put.disabled)),
        ("jwt_forbidden", json!(put.jwt_forbidden)),
        ("jwt_audiences", json!(put.jwt_audiences)),
        ("federates_with", json!(put.federates_with)),
        ("replaces_revision", json!(replaces)),
    ])
}

fn attest(agent: &wire::AgentAttest) -> Fields {
    Fields::of([
        ("agent", json!(agent.name)),
        ("spiffe_id", json!(agent.spiffe_id)),
        (
            "instance_of",
            json!((agent.instance_of != 0).then_some(agent.instance_of)),
        ),
        ("attestation", json!(agent.kind)),
        ("evidence_sha256", hexed(&agent.evidence_sha256)),
        ("public_key_sha256", hexed(&agent.spki_sha256)),
        ("rejoin", json!(agent.rejoin)),
    ])
}

fn ended(name: &str, instance: u64, reason: &str) -> Fields {
    Fields::of([
        ("agent", json!(name)),
        ("instance", json!(instance)),
        ("reason", json!(reason)),
    ])
}

fn ca_event(event: &wire::CaEvent) -> Fields {
    let plain = |name: &str, prefix: &str| name.trim_start_matches(prefix).to_ascii_lowercase();
    Fields::of([
        ("event", json!(plain(event.event().as_str_name(), "CA_EVENT_KIND_"))),
        ("role", json!(plain(event.role().as_str_name(), "CA_ROLE_"))),
        ("key_id", hexed(&event.key_id)),
        ("not_after", seconds(event.not_after_s)),
        ("public_key", hexed(&event.public_key)),
        ("note", json!(event.note)),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_take_a_line_each_and_nothing_none() {
        let put = wire::EntryPut {
            name: "web\n".into(),
            selectors: vec!["unix:uid:1".into(), "unix:gid:2".into()],
            ttl_seconds: 90,
            ..wire::EntryPut::default()
        };
        let lines = body(&Body::EntryPut(put)).lines();
        assert!(lines.contains("entry          web\\n\n"), "{lines}");
        assert!(
            lines.contains("selectors      unix:uid:1\n               unix:gid:2\n"),
            "{lines}"
        );
        assert!(
            lines.contains("ttl            1m30s\n") && !lines.contains("owner"),
            "{lines}"
        );
    }

    #[test]
    fn events_of_keys_are_told_in_plain_words() {
        let event = wire::CaEvent {
            event: wire::CaEventKind::Activate.into(),
            role: wire::CaRole::Intermediate.into(),
            key_id: vec![0xab; 32],
            ..wire::CaEvent::default()
        };
        let json = serde_json::to_value(body(&Body::CaEvent(event))).unwrap();
        assert_eq!(
            (json["event"].as_str(), json["role"].as_str()),
            (Some("activate"), Some("intermediate"))
        );
        assert!(json["not_after"].is_null());
    }

    #[test]
    fn rules_say_what_they_kill() {
        let rule = |cut_s| wire::RevocationRule {
            target: Some(Target::Identity("spiffe://dev.test/web".into())),
            cut_s,
        };
        assert_eq!(rule_text(&rule(None)), "spiffe-id spiffe://dev.test/web, every one");
        assert!(rule_text(&rule(Some(1_795_467_600))).ends_with("what began until 2026-11-23T21:00:00.000Z"));
    }
}
