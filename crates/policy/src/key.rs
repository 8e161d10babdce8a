//! Whether a proven key may carry a granted identity: blocked keys, the CA's own, keys under another name, reused ones.

use mintage_identity::{SpiffeId, SpkiHash};

use crate::grant::{Denial, DenialKind, Grant};
use crate::limits::KEY_HOLDERS_MAX;
use crate::view::IssuancePolicy;

/// What the state knows about keys.
pub trait KeyView {
    /// True when an operator blocked the key.
    fn key_blocked(&self, key: &SpkiHash) -> bool;
    /// True when the key is, or was, one of the CA's own.
    fn key_of_ca(&self, key: &SpkiHash) -> bool;
}

/// Checks a key against the identity it is to carry, as far as this needs no Grant. `holders` are the identities of live
/// certificates on this key, out of the ledger's index; the first 16 are looked at. Tells whether `id` is one of them.
///
/// # Errors
/// The one thing that failed. Each of them is worth an alert.
pub fn check_key_for<'a>(
    id: &SpiffeId,
    key: &SpkiHash,
    view: &impl KeyView,
    holders: impl IntoIterator<Item = &'a SpiffeId>,
) -> Result<bool, Denial> {
    let refuse = |code, why: String| Err(Denial::new(DenialKind::PermissionDenied, code, why));
    if view.key_blocked(key) {
        return refuse("key-blocked", format!("public key {key} is blocked"));
    }
    if view.key_of_ca(key) {
        return refuse("key-of-ca", format!("public key {key} is the CA's own"));
    }
    held_by(id, key, holders)
}

/// Whether `id` is among the holders, who must all be `id`.
fn held_by<'a>(id: &SpiffeId, key: &SpkiHash, holders: impl IntoIterator<Item = &'a SpiffeId>) -> Result<bool, Denial> {
    let mut reused = false;
    for holder in holders.into_iter().take(KEY_HOLDERS_MAX) {
        if holder != id {
            let why = format!("public key {key} is live under {holder}; make a new one");
            return Err(Denial::new(DenialKind::PermissionDenied, "key-under-other-id", why));
        }
        reused = true;
    }
    Ok(reused)
}

/// Checks who holds the key of a proof of possession against the Grant it is for, re-use included. The key itself was
/// asked about before, by [`check_key_for`] on the view that the Grant was decided on.
///
/// # Errors
/// `key-under-other-id`, which is worth an alert, and `key-reused`.
pub fn check_holders<'a>(
    grant: &Grant,
    key: &SpkiHash,
    holders: impl IntoIterator<Item = &'a SpiffeId>,
    policy: &IssuancePolicy,
) -> Result<(), Denial> {
    let reused = held_by(grant.spiffe_id(), key, holders)?;
    // Whoever joins again with the token its key is bound to has lost the reply; it is told the same once more.
    if reused && policy.rotate_keys && grant.attestation_kind() != "join_token" {
        let why = format!(
            "public key {key} is in a live certificate of {}; renew with a new key",
            grant.spiffe_id()
        );
        return Err(Denial::new(DenialKind::FailedPrecondition, "key-reused", why));
    }
    Ok(())
}
