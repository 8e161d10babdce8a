//! The root's list: signed where the root's key is at hand, by `init` and `restore`, and kept beside its certificate.

use mintage_identity::{Serial, UnixTime};
use mintage_mint::{CrlEntry, Issuer, limits::BACKDATE, sign_crl};
use mintage_svid::CertInfo;

use super::SignedList;
use crate::{
    data_dir::{DataDir, ROOT_CRL},
    error::CaError,
    limits::ROOT_CRL_VALIDITY,
};

/// The root's list as it lies in the data directory.
#[derive(Debug)]
pub(crate) struct RootList(pub(super) SignedList);

impl RootList {
    /// Reads and verifies it; none in a directory that was made before there were any.
    pub(crate) fn read(data: &DataDir, root: &CertInfo) -> Result<Option<Self>, CaError> {
        let Some(list) = data.root_list()? else { return Ok(None) };
        list.verify(root).map_err(|error| {
            data.problem(format!(
                "{ROOT_CRL} is not the list of its root ({error}): put that one back, or remove it to serve without"
            ))
        })?;
        Ok(Some(Self(SignedList::new(root.key_id(), list))))
    }
}

/// Signs and stores the list of the CA certificates that the root has revoked. Its number is the time, as those of all lists.
pub(crate) fn write_root_list(data: &DataDir, root: &Issuer, revoked: &[Serial], now: UnixTime) -> Result<(), CaError> {
    let entries: Vec<CrlEntry> = revoked
        .iter()
        .map(|serial| CrlEntry {
            serial: *serial,
            revoked_at: now,
            reason: None,
        })
        .collect();
    let end = now.plus(ROOT_CRL_VALIDITY);
    let der = sign_crl(root, number_at(now), now.minus(BACKDATE), end, &entries)?;
    data.write_root_list(&der)
}

/// The number of a list that is made at `now`: milliseconds since 1970, so that nothing that could be lost has to be kept for it
/// to rise.
pub(super) fn number_at(now: UnixTime) -> u64 {
    u64::try_from(now.millis()).unwrap_or(0)
}
