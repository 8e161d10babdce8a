//! Entries between the wire and the policy's own type, and times as the wire has them.

use mintage_identity::TrustDomain;
use mintage_policy::{Entry, RawEntry};
use mintage_proto::v1;

use crate::status::Refusal;

/// An entry as the wire has it.
pub(crate) fn wire_entry(entry: &Entry, revision: u64) -> v1::Entry {
    v1::Entry {
        name: entry.name().to_string(),
        spiffe_id: entry.spiffe_id().to_string(),
        agents: entry.agents().iter().map(ToString::to_string).collect(),
        selectors: entry.selectors().iter().map(ToString::to_string).collect(),
        ttl_seconds: i64::from(entry.ttl().seconds()),
        dns_names: entry.dns_names().to_vec(),
        common_name: entry.common_name().unwrap_or_default().to_owned(),
        hint: entry.hint().to_owned(),
        owner: entry.owner().to_owned(),
        environment: entry.environment().to_owned(),
        purpose: entry.purpose().to_owned(),
        disabled: entry.is_disabled(),
        revision,
        jwt_forbidden: entry.jwt_forbidden(),
        jwt_audiences: entry.jwt_audiences().to_vec(),
        federates_with: entry.federates_with().iter().map(ToString::to_string).collect(),
    }
}

/// An entry out of a request, checked by the policy's rules.
pub(crate) fn entry_of(wire: v1::Entry, domain: &TrustDomain) -> Result<Entry, Refusal> {
    let name = wire.name.clone();
    let raw = RawEntry {
        name: wire.name,
        spiffe_id: wire.spiffe_id,
        agents: wire.agents,
        selectors: wire.selectors,
        ttl_seconds: wire.ttl_seconds,
        dns_names: wire.dns_names,
        common_name: wire.common_name,
        hint: wire.hint,
        owner: wire.owner,
        environment: wire.environment,
        purpose: wire.purpose,
        disabled: wire.disabled,
        jwt_forbidden: wire.jwt_forbidden,
        jwt_audiences: wire.jwt_audiences,
        federates_with: wire.federates_with,
    };
    raw.validate(domain)
        .map_err(|error| Refusal::invalid(format!("entry {}: {error}", name.escape_debug())))
}
