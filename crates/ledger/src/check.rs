//! The fixed lengths inside a record's body, checked alike when a record is written and when it is read.

use crate::wire::{
    AgentAttest, BundleChange, BundleFederatedSet, CaEvent, Issue, IssueJwt, RevocationSnapshot, Revoke, SeenReport,
    record::Body, revocation_rule::Target,
};

/// Longest serial in octets (RFC 5280 section 4.1.2.2).
const SERIAL_OCTETS_MAX: usize = 20;

/// Checks hashes and serials; names are checked where they are used, by their types.
pub(crate) fn check_body(body: &Body) -> Result<(), String> {
    match body {
        Body::Issue(issue) => check_issue(issue),
        Body::IssueJwt(issue) => check_issue_jwt(issue),
        Body::Revoke(revoke) => check_revoke(revoke),
        Body::TokenCreate(token) => hash("token hash", &token.token_hash),
        Body::TokenDelete(token) => hash("token hash", &token.token_hash),
        Body::TokenConsume(token) => {
            hash("token hash", &token.token_hash)?;
            let attest = token.attest.as_ref();
            attest.map_or_else(|| Err("token.consume without its attestation".into()), check_attest)
        }
        Body::AgentAttest(attest) => check_attest(attest),
        Body::CaEvent(event) => check_ca_event(event),
        Body::BundleChange(change) => check_bundle(change),
        Body::BundleFederatedSet(set) => check_federated(set),
        Body::BundleFederatedRemove(gone) if gone.trust_domain.is_empty() => {
            Err("a removed bundle without its trust domain".into())
        }
        Body::SeenReport(report) => check_seen(report),
        Body::RevocationSnapshot(snapshot) => check_snapshot(snapshot),
        Body::LogOpen(open) if !open.snapshot_sha256.is_empty() => hash("snapshot hash", &open.snapshot_sha256),
        _ => Ok(()),
    }
}

fn check_issue(issue: &Issue) -> Result<(), String> {
    hash("issuer key id", &issue.issuer_key_id)?;
    if issue.certificate_der.is_empty() {
        return Err("issue without a certificate".into());
    }
    if issue.spiffe_id.is_empty() {
        return Err("issue without a SPIFFE ID".into());
    }
    Ok(())
}

fn check_issue_jwt(issue: &IssueJwt) -> Result<(), String> {
    hash("token hash", &issue.token_sha256)?;
    for (what, text) in [
        ("SPIFFE ID", &issue.spiffe_id),
        ("key id", &issue.kid),
        ("jti", &issue.jti),
    ] {
        if text.is_empty() {
            return Err(format!("issue.jwt without a {what}"));
        }
    }
    match issue.audiences.is_empty() {
        true => Err("issue.jwt without an audience".into()),
        false => Ok(()),
    }
}

fn check_revoke(revoke: &Revoke) -> Result<(), String> {
    for revoked in &revoke.serials {
        hash("issuer key id", &revoked.issuer_key_id)?;
        serial(&revoked.serial)?;
    }
    for rule in &revoke.rules {
        match &rule.target {
            None => return Err("a revocation rule without a target".into()),
            Some(Target::SpkiSha256(octets)) => hash("public key hash", octets)?,
            Some(Target::IssuerKeyId(octets)) => hash("issuer key id", octets)?,
            Some(Target::Identity(text) | Target::Prefix(text)) if text.is_empty() => {
                return Err("a revocation rule with an empty identity".into());
            }
            Some(_) => {}
        }
    }
    Ok(())
}

fn check_attest(attest: &AgentAttest) -> Result<(), String> {
    hash("public key hash", &attest.spki_sha256)?;
    hash("evidence hash", &attest.evidence_sha256)
}

fn check_ca_event(event: &CaEvent) -> Result<(), String> {
    hash("key id", &event.key_id)
}

fn check_bundle(change: &BundleChange) -> Result<(), String> {
    if change.roots_der.is_empty() {
        return Err("a bundle without roots".into());
    }
    Ok(())
}

fn check_federated(set: &BundleFederatedSet) -> Result<(), String> {
    if set.trust_domain.is_empty() {
        return Err("a bundle without its trust domain".into());
    }
    match set.roots_der.is_empty() && set.jwt_keys.is_empty() {
        true => Err("a federated bundle without roots and keys".into()),
        false => Ok(()),
    }
}

fn check_seen(report: &SeenReport) -> Result<(), String> {
    for seen in &report.certificates {
        hash("issuer key id", &seen.issuer_key_id)?;
        hash("certificate hash", &seen.certificate_sha256)?;
        serial(&seen.serial)?;
    }
    Ok(())
}

fn check_snapshot(snapshot: &RevocationSnapshot) -> Result<(), String> {
    hash("set hash", &snapshot.set_hash)?;
    hash("snapshot hash", &snapshot.snapshot_sha256)?;
    hash("key id", &snapshot.key_id)
}

fn hash(field: &str, octets: &[u8]) -> Result<(), String> {
    match octets.len() {
        32 => Ok(()),
        other => Err(format!("{field} has {other} octets, 32 are needed")),
    }
}

fn serial(octets: &[u8]) -> Result<(), String> {
    match octets.len() {
        1..=SERIAL_OCTETS_MAX => Ok(()),
        other => Err(format!(
            "a serial has {other} octets, 1 to {SERIAL_OCTETS_MAX} are needed"
        )),
    }
}
