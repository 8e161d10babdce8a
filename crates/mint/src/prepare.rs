//! Grant and key become the octets to be signed. No private key is used before they have been checked.

use std::fmt;

use mintage_identity::{IssuerKeyId, Serial, UnixTime};
use mintage_policy::Grant;

use crate::{Issuer, MintError, ProvenKey, Sealed, body, dates::LeafDates, lint::Expected, root::key_identifier, tbs};

/// A certificate that says exactly what was granted and is not signed yet. It is moved by value: signing twice, or
/// sealing it unsigned, does not compile.
///
/// ```
/// # use mintage_mint::{Issuer, MintError, Prepared, Sealed};
/// fn once(prepared: Prepared, issuer: &Issuer) -> Result<Sealed, MintError> {
///     prepared.sign(issuer)
/// }
/// ```
///
/// ```compile_fail,E0382
/// # use mintage_mint::{Issuer, MintError, Prepared, Sealed};
/// fn twice(prepared: Prepared, issuer: &Issuer) -> Result<(Sealed, Sealed), MintError> {
///     Ok((prepared.sign(issuer)?, prepared.sign(issuer)?))
/// }
/// ```
///
/// ```compile_fail,E0599
/// # use mintage_mint::{Prepared, RecordContext};
/// fn unsigned(prepared: Prepared, context: RecordContext) {
///     prepared.seal(context);
/// }
/// ```
pub struct Prepared {
    pub(crate) grant: Grant,
    pub(crate) key: ProvenKey,
    pub(crate) serial: Serial,
    pub(crate) dates: LeafDates,
    pub(crate) issuer: IssuerKeyId,
    tbs: Vec<u8>,
}

/// Builds the certificate for a Grant and checks every field of it against the Grant.
///
/// notBefore is 30 s ago, or just above the Grant's floor; the lifetime counts from now and is cut 60 s before the
/// issuer ends. The serial is the caller's to draw, and to draw again when it is taken.
///
/// ```
/// # use mintage_mint::{Issuer, MintError, Prepared, ProvenKey, prepare};
/// # use mintage_policy::Grant;
/// # use mintage_identity::{Serial, UnixTime};
/// fn granted(grant: Grant, key: ProvenKey, now: UnixTime, issuer: &Issuer) -> Result<Prepared, MintError> {
///     prepare(grant, key, Serial::from_random([7; 16]), now, issuer)
/// }
/// ```
///
/// ```compile_fail,E0451
/// # use mintage_policy::Grant;
/// # use mintage_identity::SpiffeId;
/// fn forged(honest: Grant, spiffe_id: SpiffeId) -> Grant {
///     Grant { spiffe_id, ..honest }
/// }
/// ```
///
/// # Errors
/// [`MintError::IssuerExpiring`] and [`MintError::Clock`] when no honest dates exist; [`MintError::OtherTrustDomain`]
/// and [`MintError::OwnKey`] when the Grant or the key is not for this issuer; [`MintError::Lint`] when what was built
/// differs from what was granted.
pub fn prepare(
    grant: Grant,
    key: ProvenKey,
    serial: Serial,
    now: UnixTime,
    issuer: &Issuer,
) -> Result<Prepared, MintError> {
    if !grant.spiffe_id().is_member_of(issuer.trust_domain()) {
        return Err(MintError::OtherTrustDomain {
            id: grant.spiffe_id().clone(),
            issuer: issuer.trust_domain().clone(),
        });
    }
    if key.spki_der() == issuer.key().spki_der() {
        return Err(MintError::OwnKey);
    }
    let dates = LeafDates::new(now, grant.ttl(), grant.not_before_floor(), issuer.into())?;
    let spki_sha256 = key.spki_sha256();
    let expected = Expected {
        serial: &serial,
        issuer_raw: issuer.info().subject_raw(),
        dates,
        common_name: grant.common_name(),
        spki_der: key.spki_der(),
        spiffe_id: grant.spiffe_id().as_str(),
        dns_names: grant.dns_names(),
        subject_key_id: key_identifier(spki_sha256.as_bytes()),
        authority_key_id: issuer.subject_key_id(),
    };
    let tbs = body::encode(&expected)?;
    expected.check(&tbs)?;
    Ok(Prepared {
        issuer: issuer.key_id(),
        grant,
        key,
        serial,
        dates,
        tbs,
    })
}

impl fmt::Debug for Prepared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Prepared")
            .field("spiffe_id", self.grant.spiffe_id())
            .field("serial", &self.serial)
            .field("dates", &self.dates)
            .field("issuer", &self.issuer)
            .finish_non_exhaustive()
    }
}

impl Prepared {
    /// Signs the checked octets, and no others.
    ///
    /// # Errors
    /// [`MintError::OtherIssuer`] unless `issuer` is the one it was prepared for; [`MintError::Sign`] when the system
    /// gives no randomness.
    pub fn sign(self, issuer: &Issuer) -> Result<Sealed, MintError> {
        if self.issuer != issuer.key_id() {
            return Err(MintError::OtherIssuer {
                prepared: self.issuer,
                given: issuer.key_id(),
            });
        }
        let leaf_der = tbs::sign(&self.tbs, issuer.key())?;
        Ok(Sealed::new(self, leaf_der, issuer.shared_chain()))
    }

    #[cfg(test)]
    pub(crate) fn tbs_der(&self) -> &[u8] {
        &self.tbs
    }

    /// The serial it will have.
    pub fn serial(&self) -> &Serial {
        &self.serial
    }
}
