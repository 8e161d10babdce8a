//! An X.509-SVID as it travels: the leaf first, then the certificates that signed it.

use mintage_identity::SpiffeId;

use crate::{
    CertInfo, LeafInfo, SvidError,
    der::{Reader, TAG_SEQUENCE},
    limits::{BUNDLE_ROOTS_MAX, CHAIN_BYTES_MAX, CHAIN_LENGTH_MAX, DOCUMENT_BYTES_MAX},
    pem,
};

/// A leaf and its issuers, each named by the next. Signatures and trust are the verifier's to check.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct X509Svid {
    leaf: LeafInfo,
    issuers: Vec<CertInfo>,
    chain_der: Vec<Vec<u8>>,
}

impl X509Svid {
    /// Parses a chain of DER certificates, leaf first; a root at the end is allowed.
    ///
    /// # Errors
    /// Refuses an empty chain, more than 8 certificates or 48 KB, a bad leaf, a certificate that may not sign, and a
    /// certificate whose issuer is not the next one's subject.
    pub fn parse(chain_der: Vec<Vec<u8>>) -> Result<Self, SvidError> {
        SvidError::check_size("certificate chain", chain_der.len(), CHAIN_LENGTH_MAX, "certificates")?;
        let bytes = chain_der.iter().map(Vec::len).sum();
        SvidError::check_size("certificate chain", bytes, CHAIN_BYTES_MAX, "bytes")?;
        let Some((leaf_der, issuers_der)) = chain_der.split_first() else {
            return Err(SvidError::malformed("certificate chain", "it is empty"));
        };
        let leaf = LeafInfo::parse(leaf_der)?;
        let issuers = issuers_der
            .iter()
            .map(|der| CertInfo::parse_signing(der))
            .collect::<Result<Vec<_>, _>>()?;
        let mut named = leaf.issuer_raw();
        for (at, issuer) in issuers.iter().enumerate() {
            if issuer.subject_raw() != named {
                return Err(SvidError::Chain {
                    index: at + 1,
                    why: "is not the issuer that the one before it names",
                });
            }
            named = issuer.issuer_raw();
        }
        Ok(Self {
            leaf,
            issuers,
            chain_der,
        })
    }

    /// Parses a PEM chain, leaf first.
    ///
    /// # Errors
    /// As [`X509Svid::parse`], and for text that is not strict PEM.
    pub fn from_pem(text: &str) -> Result<Self, SvidError> {
        Self::parse(pem::decode_certificates(text)?)
    }

    /// Parses certificates that stand in a row, leaf first, as the Workload API sends them.
    ///
    /// # Errors
    /// As [`X509Svid::parse`] and [`split_certificates`].
    pub fn from_concatenated(der: &[u8]) -> Result<Self, SvidError> {
        Self::parse(split_certificates(der)?)
    }

    /// The SPIFFE ID of the leaf.
    pub fn id(&self) -> &SpiffeId {
        self.leaf.id()
    }

    /// The leaf's facts.
    pub fn leaf(&self) -> &LeafInfo {
        &self.leaf
    }

    /// The facts of the certificates after the leaf, in order.
    pub fn issuers(&self) -> &[CertInfo] {
        &self.issuers
    }

    /// The certificates, leaf first.
    pub fn chain_der(&self) -> &[Vec<u8>] {
        &self.chain_der
    }

    /// The certificates, leaf first, without a copy.
    pub fn into_chain_der(self) -> Vec<Vec<u8>> {
        self.chain_der
    }

    /// The chain as PEM, leaf first.
    pub fn to_pem(&self) -> String {
        pem::encode_certificates(&self.chain_der)
    }
}

/// Takes DER certificates apart that stand in a row (SPIFFE Workload API, section 5.2). What is in them is not read.
///
/// # Errors
/// Refuses more than 64 certificates or 1 MB, and octets between or after them.
pub fn split_certificates(der: &[u8]) -> Result<Vec<Vec<u8>>, SvidError> {
    const WHAT: &str = "a row of certificates";
    if der.len() > DOCUMENT_BYTES_MAX {
        return Err(SvidError::TooLarge {
            what: WHAT,
            size: der.len(),
            limit: DOCUMENT_BYTES_MAX,
            unit: "bytes",
        });
    }
    let malformed = |why: &str| SvidError::Malformed {
        what: WHAT,
        why: why.to_owned(),
    };
    let (mut reader, mut certificates) = (Reader::new(der), Vec::new());
    while !reader.is_empty() {
        let element = reader
            .expect(TAG_SEQUENCE)
            .map_err(|error| SvidError::Der { what: WHAT, error })?;
        if certificates.len() == BUNDLE_ROOTS_MAX {
            return Err(malformed("it has more than 64 certificates"));
        }
        certificates.push(element.raw.to_vec());
    }
    Ok(certificates)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::samples::{ca_params, root};

    #[test]
    fn a_chain_is_in_order_from_leaf_to_root() {
        let root = root();
        let middle = root.below(ca_params("middle"));
        let leaf = middle.leaf(|_| {});
        let chain = vec![leaf.clone(), middle.der.clone()];
        let svid = X509Svid::parse(chain.clone()).unwrap();
        assert_eq!(svid.id().as_str(), "spiffe://example.org/web");
        assert_eq!(svid.issuers().len(), 1);
        assert_eq!(X509Svid::from_pem(&svid.to_pem()).unwrap().into_chain_der(), chain);
        assert!(X509Svid::parse(vec![leaf.clone()]).is_ok());
        assert!(X509Svid::parse(vec![leaf.clone(), middle.der.clone(), root.der.clone()]).is_ok());

        let refused = |chain: Vec<&Vec<u8>>| X509Svid::parse(chain.into_iter().cloned().collect()).unwrap_err();
        assert!(matches!(
            refused(vec![&leaf, &root.der]),
            SvidError::Chain { index: 1, .. }
        ));
        assert!(matches!(
            refused(vec![&leaf, &root.der, &middle.der]),
            SvidError::Chain { index: 1, .. }
        ));
        assert!(matches!(refused(vec![&middle.der, &root.der]), SvidError::Leaf(_)));
        assert!(matches!(refused(vec![&leaf, &leaf]), SvidError::Signing(_)));
        assert!(matches!(refused(vec![]), SvidError::Malformed { .. }));
        let long: Vec<_> = std::iter::once(&leaf)
            .chain(std::iter::repeat_n(&root.der, CHAIN_LENGTH_MAX))
            .collect();
        assert!(matches!(refused(long), SvidError::TooLarge { .. }));
    }

    #[test]
    fn certificates_in_a_row_are_taken_apart_and_nothing_else_is() {
        let one = [0x30, 2, 5, 0];
        let row = [one, one].concat();
        assert_eq!(split_certificates(&row).unwrap(), [one, one]);
        assert_eq!(split_certificates(&[]).unwrap(), Vec::<Vec<u8>>::new());
        for cut in 1..row.len() {
            assert_eq!(split_certificates(&row[..cut]).is_ok(), cut == one.len(), "{cut}");
        }
        assert!(split_certificates(&[&row[..], &[0]].concat()).is_err());
        assert!(split_certificates(&one.repeat(BUNDLE_ROOTS_MAX + 1)).is_err());
        assert!(split_certificates(&vec![0; DOCUMENT_BYTES_MAX + 1]).is_err());
    }
}
