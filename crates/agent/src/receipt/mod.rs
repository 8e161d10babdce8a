//! Receipts: where the record of a certificate stands in the CA's ledger, and the proof of it that is written beside the
//! certificate. What the CA says is compared before it is believed; nothing of it ever holds a delivery up.

use mintage_proto::v1;

use crate::limits::RECEIPT_ORIGIN_BYTES_MAX;

mod chase;
mod proof;

pub(crate) use chase::Chase;
pub(crate) use proof::Proof;

/// Name of the proof in a delivered folder, whatever its layout.
pub(crate) const PROOF_FILE: &str = "svid.tlog-proof";

/// Where a record stands: which log, which leaf, and the leaf's hash.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Receipt {
    origin: String,
    index: u64,
    leaf_hash: [u8; 32],
}

impl Receipt {
    /// A receipt of these parts.
    ///
    /// # Errors
    /// Refuses an origin that no checkpoint could have, and a hash that is no SHA-256.
    pub(crate) fn new(origin: String, index: u64, leaf_hash: &[u8]) -> Result<Self, String> {
        let plain = origin.bytes().all(|octet| octet.is_ascii_graphic());
        if origin.is_empty() || origin.len() > RECEIPT_ORIGIN_BYTES_MAX || !plain {
            return Err(format!(
                "receipt origin: must have 1 to {RECEIPT_ORIGIN_BYTES_MAX} printable characters"
            ));
        }
        let octets = leaf_hash.len();
        let leaf_hash = leaf_hash
            .try_into()
            .map_err(|_| format!("receipt leaf_hash: has {octets} octets, not 32"))?;
        Ok(Self {
            origin,
            index,
            leaf_hash,
        })
    }

    /// The receipt that came with a certificate.
    pub(crate) fn from_wire(wire: v1::Receipt) -> Result<Self, String> {
        Self::new(wire.origin, wire.index, &wire.leaf_hash)
    }

    pub(crate) fn to_wire(&self) -> v1::Receipt {
        v1::Receipt {
            origin: self.origin.clone(),
            index: self.index,
            leaf_hash: self.leaf_hash.to_vec(),
        }
    }

    pub(crate) fn origin(&self) -> &str {
        &self.origin
    }

    pub(crate) fn index(&self) -> u64 {
        self.index
    }

    pub(crate) fn leaf_hash(&self) -> &[u8; 32] {
        &self.leaf_hash
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_receipt_that_no_checkpoint_could_meet_is_refused() {
        let good = Receipt::new("dev.test/mintage/a1b2/2026-11".to_owned(), 7, &[1; 32]).unwrap();
        assert_eq!(Receipt::from_wire(good.to_wire()), Ok(good));
        for origin in ["", "two words", "a\nb", &"a".repeat(RECEIPT_ORIGIN_BYTES_MAX + 1)] {
            let told = Receipt::new(origin.to_owned(), 7, &[1; 32]).unwrap_err();
            assert!(told.contains("origin"), "{told}");
        }
        assert!(
            Receipt::new("log".to_owned(), 7, &[1; 31])
                .unwrap_err()
                .contains("31 octets")
        );
    }
}
