//! The CA's own replicas: they are not attested, the CA grants them their server certificate itself.

use mintage_identity::{ReplicaName, SpiffeId, TrustDomain, Ttl, UnixTime};

use crate::grant::{Denial, Grant, Profile};
use crate::view::{EntryView, not_before_floor};

/// The Grant for the server certificate of one of the CA's own replicas.
///
/// # Errors
/// A revocation rule that blocks the replica's identity.
pub fn grant_replica(
    domain: &TrustDomain,
    name: &ReplicaName,
    ttl: Ttl,
    view: &impl EntryView,
    now: UnixTime,
) -> Result<Grant, Denial> {
    let spiffe_id = SpiffeId::replica(domain, name);
    Ok(Grant {
        not_before_floor: not_before_floor(&spiffe_id, view, now)?,
        spiffe_id,
        ttl,
        dns_names: Vec::new(),
        common_name: None,
        entry: None,
        agent: None,
        decided_at: view.control_index(),
        profile: Profile::Replica,
        rule: "replica-itself",
    })
}
