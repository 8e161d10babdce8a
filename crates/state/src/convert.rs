//! Between the ledger's record bodies and the types of policy: the one place where the two are known together.

use mintage_identity::{IdPrefix, IssuerKeyId, NameError, Serial, SpiffeId, SpkiHash, TrustDomain, Ttl, UnixTime};
use mintage_ledger::wire;
use mintage_ledger::wire::revocation_rule::Target;
use mintage_policy::{Entry, EntryError, RawEntry};
use mintage_revocation::{Revocation, RevokedSerial, Rule, RuleTarget};

use crate::stored::reason_of;

/// The body that records `entry` in the place of `replaces_revision` (0: a new entry).
pub fn entry_to_put(entry: &Entry, replaces_revision: u64) -> wire::EntryPut {
    let raw = entry.to_raw();
    wire::EntryPut {
        name: raw.name,
        spiffe_id: raw.spiffe_id,
        agents: raw.agents,
        selectors: raw.selectors,
        ttl_seconds: entry.ttl().seconds(),
        dns_names: raw.dns_names,
        common_name: raw.common_name,
        hint: raw.hint,
        owner: raw.owner,
        environment: raw.environment,
        purpose: raw.purpose,
        disabled: raw.disabled,
        replaces_revision,
        jwt_forbidden: raw.jwt_forbidden,
        jwt_audiences: raw.jwt_audiences,
        federates_with: raw.federates_with,
    }
}

/// The entry of a recorded body.
///
/// # Errors
/// A name in it that cannot be read, or one of another trust domain.
pub fn entry_from_put(put: &wire::EntryPut, domain: &TrustDomain) -> Result<Entry, EntryError> {
    RawEntry {
        name: put.name.clone(),
        spiffe_id: put.spiffe_id.clone(),
        agents: put.agents.clone(),
        selectors: put.selectors.clone(),
        // A record without a lifetime is of an encoder that left the default out.
        ttl_seconds: i64::from(if put.ttl_seconds == 0 {
            Ttl::DEFAULT.seconds()
        } else {
            put.ttl_seconds
        }),
        dns_names: put.dns_names.clone(),
        common_name: put.common_name.clone(),
        hint: put.hint.clone(),
        owner: put.owner.clone(),
        environment: put.environment.clone(),
        purpose: put.purpose.clone(),
        disabled: put.disabled,
        jwt_forbidden: put.jwt_forbidden,
        jwt_audiences: put.jwt_audiences.clone(),
        federates_with: put.federates_with.clone(),
    }
    .restore(domain)
}

/// What a recorded revoke body means to the revoked set; `at` is the time of its record.
///
/// # Errors
/// A name, serial or hash in it that cannot be read: it must not be passed over, because it revokes something.
pub fn revocation_of(body: &wire::Revoke, at: UnixTime) -> Result<Revocation, NameError> {
    let serial = |revoked: &wire::RevokedSerial| {
        Ok(RevokedSerial {
            issuer: IssuerKeyId::from_slice(&revoked.issuer_key_id)?,
            serial: Serial::from_be_octets(&revoked.serial)?,
            not_after: UnixTime::from_seconds(revoked.not_after_s),
        })
    };
    Ok(Revocation {
        at,
        serials: body.serials.iter().map(serial).collect::<Result<_, NameError>>()?,
        rules: body.rules.iter().map(rule_of).collect::<Result<_, _>>()?,
        reason: reason_of(body.reason),
    })
}

fn rule_of(rule: &wire::RevocationRule) -> Result<Rule, NameError> {
    let target = match &rule.target {
        Some(Target::Identity(text)) => RuleTarget::Identity(SpiffeId::parse(text)?),
        Some(Target::Prefix(text)) => RuleTarget::Prefix(IdPrefix::parse(text)?),
        Some(Target::SpkiSha256(octets)) => RuleTarget::Key(SpkiHash::from_slice(octets)?),
        Some(Target::IssuerKeyId(octets)) => RuleTarget::Issuer(IssuerKeyId::from_slice(octets)?),
        None => return Err(NameError::new("revocation rule", "", "has no target")),
    };
    Ok(Rule {
        target,
        cut: rule.cut_s.map(UnixTime::from_seconds),
    })
}

/// The recorded form of a rule. The cut is rounded up to the second, the precision of a certificate's dates: rounded
/// down it would miss what it was meant to kill.
pub fn rule_to_wire(rule: &Rule) -> wire::RevocationRule {
    let target = match &rule.target {
        RuleTarget::Identity(id) => Target::Identity(id.to_string()),
        RuleTarget::Prefix(prefix) => Target::Prefix(prefix.to_string()),
        RuleTarget::Key(key) => Target::SpkiSha256(key.as_bytes().to_vec()),
        RuleTarget::Issuer(issuer) => Target::IssuerKeyId(issuer.as_bytes().to_vec()),
    };
    let up = |cut: UnixTime| cut.seconds().saturating_add(i64::from(cut.floor_to_second() != cut));
    wire::RevocationRule {
        target: Some(target),
        cut_s: rule.cut.map(up),
    }
}

/// The recorded form of a revoked serial. Its end is rounded up, so that it is not forgotten early.
pub fn serial_to_wire(revoked: &RevokedSerial) -> wire::RevokedSerial {
    let end = revoked.not_after;
    wire::RevokedSerial {
        issuer_key_id: revoked.issuer.as_bytes().to_vec(),
        serial: revoked.serial.octets().to_vec(),
        not_after_s: end.seconds().saturating_add(i64::from(end.floor_to_second() != end)),
    }
}
