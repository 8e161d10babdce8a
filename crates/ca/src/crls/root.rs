//! The root's list: signed where the root's key is at hand, by `init`, `restore` and `renew-root-crl`, and kept beside its
//! certificate.

use mintage_identity::UnixTime;
use mintage_svid::CertInfo;

use super::SignedList;
use crate::{
    data_dir::{DataDir, ROOT_CRL},
    error::CaError,
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

/// The number of a list that is made at `now`: milliseconds since 1970, so that nothing that could be lost has to be kept for it
/// to rise.
pub(super) fn number_at(now: UnixTime) -> u64 {
    u64::try_from(now.millis()).unwrap_or(0)
}
