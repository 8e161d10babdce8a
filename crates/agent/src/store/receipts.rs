//! Where the record of a delivered certificate stands in the CA's ledger, and its proof, so that a restart loses neither.

use mintage_identity::CertHash;
use mintage_svid::cert_sha256;
use mintage_sys::{SysError, secret_file};
use serde::{Deserialize, Serialize};

use super::{Store, VERSION, check_version, json, named, read};
use crate::{
    Delivery,
    limits::PROOF_BYTES_MAX,
    receipt::{Proof, Receipt},
};

/// Bytes of a stored receipt: its proof, in which JSON doubles each newline, and room.
const RECEIPT_BYTES_MAX: usize = 2 * PROOF_BYTES_MAX;

#[derive(Serialize, Deserialize)]
struct ReceiptFile {
    version: u32,
    certificate_sha256: String,
    origin: String,
    index: u64,
    leaf_hash: String,
    proof: Option<String>,
}

/// What was kept of a delivered certificate's record.
pub(crate) struct KeptReceipt {
    /// Of which certificate.
    pub(crate) certificate: CertHash,
    pub(crate) receipt: Receipt,
    /// As it was written; not checked yet.
    pub(crate) proof: Option<String>,
}

pub(super) fn file(delivery: &Delivery) -> String {
    named(delivery, "receipt")
}

impl Store {
    /// The receipt of a delivery's last certificate. One that cannot be read costs that certificate's proof alone.
    pub(crate) fn receipt(&self, delivery: &Delivery) -> Option<KeptReceipt> {
        let name = file(delivery);
        let look = || -> Result<Option<KeptReceipt>, String> {
            let bytes = read(&self.deliveries, &name, RECEIPT_BYTES_MAX).map_err(|error| error.to_string())?;
            let Some(bytes) = bytes else { return Ok(None) };
            let kept: ReceiptFile = serde_json::from_slice(&bytes).map_err(|error| error.to_string())?;
            check_version(kept.version)?;
            let octets = |field: &str, text: &str| hex::decode(text).map_err(|error| format!("{field}: {error}"));
            let certificate = octets("certificate_sha256", &kept.certificate_sha256)?;
            let certificate: [u8; 32] = certificate
                .try_into()
                .map_err(|_| "certificate_sha256: has not 32 octets".to_owned())?;
            let receipt = Receipt::new(kept.origin, kept.index, &octets("leaf_hash", &kept.leaf_hash)?)?;
            Ok(Some(KeptReceipt {
                certificate: CertHash::new(certificate),
                receipt,
                proof: kept.proof,
            }))
        };
        look().unwrap_or_else(|problem| {
            tracing::warn!(file = name, problem, "the saved receipt of a delivery cannot be read");
            None
        })
    }

    /// Keeps the receipt of a delivered certificate (DER), and its proof once there is one.
    pub(crate) fn save_receipt(
        &self,
        delivery: &Delivery,
        certificate: &[u8],
        receipt: &Receipt,
        proof: Option<&Proof>,
    ) -> Result<(), SysError> {
        let kept = ReceiptFile {
            version: VERSION,
            certificate_sha256: hex::encode(cert_sha256(certificate).as_bytes()),
            origin: receipt.origin().to_owned(),
            index: receipt.index(),
            leaf_hash: hex::encode(receipt.leaf_hash()),
            // A proof is text, or it would not have been taken.
            proof: proof.map(|proof| String::from_utf8_lossy(proof.octets()).into_owned()),
        };
        secret_file::replace(&self.deliveries, &file(delivery), &json(&kept))
    }
}
