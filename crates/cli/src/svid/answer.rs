//! What an agent answers about X509-SVIDs, read strictly: everything that is not in a message is withdrawn.

use std::path::Path;

use mintage_proto::workload::X509svidResponse;
use mintage_svid::{X509Svid, pem::encode_certificates};
use serde::Serialize;
use tonic::{Code, Status};

use super::files;
use crate::{
    failure::Failure,
    output::Row,
    text::{rfc3339, utc},
};

/// Whose a folder of `--write` is; one that an agent delivers into is refused, and so is anybody else's.
pub(super) const TAG: &str = "mintage svid --write";

/// One X509-SVID, without its key.
#[derive(Serialize)]
pub(crate) struct SvidRow {
    pub(crate) spiffe_id: String,
    pub(crate) serial: String,
    not_before: Option<String>,
    not_after: Option<String>,
    hint: String,
    pub(crate) chain_pem: String,
    pub(crate) bundle_pem: String,
    /// Lists of revoked certificates that came with it.
    crls: usize,
    #[serde(skip)]
    pub(crate) ends: i64,
}

impl Row for SvidRow {
    const HEADER: &'static [&'static str] = &["SPIFFE ID", "SERIAL", "ENDS", "HINT"];
    fn cells(&self) -> Vec<String> {
        vec![
            self.spiffe_id.clone(),
            self.serial.clone(),
            utc(self.ends),
            self.hint.clone(),
        ]
    }
}

/// What the agent's status means to who called.
pub(crate) fn refused(status: &Status) -> Failure {
    let why = status.message();
    match status.code() {
        Code::PermissionDenied => Failure::No(format!("no identity is issued to this process: {why}")),
        Code::Unavailable => Failure::Remote(format!("the agent cannot answer now: {why}; try again")),
        code => Failure::Remote(format!("the agent refuses: {why} ({code:?})")),
    }
}

/// What an agent says, this one and SPIRE's, when no entry gives a process anything.
const NO_IDENTITY: &str = "no identity issued";

/// True when nothing is given to this process any more. One that cannot be attested, for example because an update replaced its
/// program, is refused with the same code, and nothing is withdrawn by that.
pub(crate) fn is_withdrawal(status: &Status) -> bool {
    status.code() == Code::PermissionDenied && status.message().contains(NO_IDENTITY)
}

/// A whole message: everything that is not in it is withdrawn.
pub(crate) struct Answer {
    pub(crate) svids: Vec<Fetched>,
}

/// One identity with its key.
pub(crate) struct Fetched {
    pub(crate) row: SvidRow,
    pub(crate) key: zeroize::Zeroizing<Vec<u8>>,
}

impl Fetched {
    /// Writes it into a folder of `--write`.
    pub(super) fn write(&self, folder: &Path) -> Result<(), Failure> {
        files::write(folder, TAG, &self.row.chain_pem, &self.key, &self.row.bundle_pem)
    }
}

impl Answer {
    /// Reads a message strictly: an empty mandatory field or a broken certificate makes it void.
    pub(crate) fn read(message: X509svidResponse) -> Result<Self, Failure> {
        let void = |why: String| Failure::Remote(format!("the agent's answer is not taken: {why}"));
        if message.svids.is_empty() {
            return Err(void("it has no SVID".to_owned()));
        }
        let crls = message.crl.len();
        let read = |svid: mintage_proto::workload::X509svid| {
            let key = zeroize::Zeroizing::new(svid.x509_svid_key);
            if key.is_empty() || svid.bundle.is_empty() {
                return Err(void(format!("{} comes without key or bundle", svid.spiffe_id)));
            }
            let chain = X509Svid::from_concatenated(&svid.x509_svid).map_err(|error| void(error.to_string()))?;
            if chain.id().as_str() != svid.spiffe_id {
                return Err(void(format!(
                    "{} comes with a certificate of {}",
                    svid.spiffe_id,
                    chain.id()
                )));
            }
            let roots = mintage_svid::split_certificates(&svid.bundle).map_err(|error| void(error.to_string()))?;
            let leaf = chain.leaf();
            let ends = leaf.not_after().millis();
            Ok(Fetched {
                key,
                row: SvidRow {
                    spiffe_id: svid.spiffe_id,
                    serial: leaf.serial().to_string(),
                    not_before: rfc3339(leaf.not_before().millis()),
                    not_after: rfc3339(ends),
                    hint: svid.hint,
                    chain_pem: chain.to_pem(),
                    bundle_pem: encode_certificates(&roots),
                    crls,
                    ends,
                },
            })
        };
        let svids = message.svids.into_iter().map(read).collect::<Result<_, _>>()?;
        Ok(Self { svids })
    }

    /// The identity wanted, or the first, which is the default one.
    pub(super) fn chosen(&self, wanted: Option<&str>) -> Option<&Fetched> {
        self.svids
            .iter()
            .find(|svid| wanted.is_none_or(|id| svid.row.spiffe_id == id))
    }

    pub(super) fn into_rows(self) -> Vec<SvidRow> {
        self.svids.into_iter().map(|svid| svid.row).collect()
    }
}
