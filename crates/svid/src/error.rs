//! What can be wrong with an identity document, and whose fault it is.

use mintage_identity::NameError;

use crate::der::DerError;

/// A document that this crate refuses.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SvidError {
    /// Larger than its limit; nothing of it was parsed.
    #[error("{what} has {size} {unit}, the limit is {limit}")]
    TooLarge {
        /// Which document or list.
        what: &'static str,
        /// Its size.
        size: usize,
        /// Its limit.
        limit: usize,
        /// What is counted.
        unit: &'static str,
    },
    /// Not strict DER.
    #[error("{what} is not strict DER: {error}")]
    Der {
        /// Which document.
        what: &'static str,
        /// What the reader met.
        error: DerError,
    },
    /// DER, but not the document it should be.
    #[error("{what} is malformed: {why}")]
    Malformed {
        /// Which document.
        what: &'static str,
        /// What is wrong with it.
        why: String,
    },
    /// A certificate that must not be accepted as an X.509-SVID leaf.
    #[error("not a valid X.509-SVID: {0}")]
    Leaf(#[from] LeafRule),
    /// A certificate that must not be accepted as a signing certificate (X509-SVID, section 3.1 and 4).
    #[error("not a valid signing certificate: {0}")]
    Signing(&'static str),
    /// The certificates of a chain do not belong together.
    #[error("certificate {index} of the chain {why}")]
    Chain {
        /// Position, 0 is the leaf.
        index: usize,
        /// What is wrong with it.
        why: &'static str,
    },
    /// A public or private key that is not used here.
    #[error("{what}: {why}")]
    Key {
        /// Which key.
        what: &'static str,
        /// What is wrong with it.
        why: &'static str,
    },
    /// Text that is not strict PEM (RFC 7468).
    #[error("line {line} is not strict PEM: {why}")]
    Pem {
        /// Line number from 1.
        line: usize,
        /// What is wrong with it.
        why: &'static str,
    },
    /// A trust bundle that must not be used (SPIFFE Trust Domain and Bundle, section 4).
    #[error("trust bundle refused: {0}")]
    Bundle(String),
    /// A JWT-SVID that must not be accepted (JWT-SVID, sections 2 to 5).
    #[error("not a valid JWT-SVID: {0}")]
    Jwt(String),
}

impl SvidError {
    pub(crate) fn malformed(what: &'static str, why: impl Into<String>) -> Self {
        Self::Malformed { what, why: why.into() }
    }

    /// Refuses `size` above `limit`.
    pub(crate) fn check_size(what: &'static str, size: usize, limit: usize, unit: &'static str) -> Result<(), Self> {
        if size <= limit {
            Ok(())
        } else {
            Err(Self::TooLarge {
                what,
                size,
                limit,
                unit,
            })
        }
    }
}

/// The rule of the X509-SVID standard that a leaf breaks.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LeafRule {
    /// Section 2: exactly one URI SAN. Here there is none.
    #[error("it has no URI subject alternative name, exactly one is needed")]
    NoUriSan,
    /// Section 2: exactly one URI SAN, whatever the others say.
    #[error("it has {0} URI subject alternative names, exactly one is allowed")]
    ManyUriSans(usize),
    /// The URI is no SPIFFE ID.
    #[error("its URI is no SPIFFE ID: {0}")]
    BadId(#[from] NameError),
    /// Section 3: a leaf names a workload, not a trust domain.
    #[error("its SPIFFE ID has no path, only a signing certificate may name a trust domain")]
    RootPath,
    /// RFC 5280, section 4.1.2.6: the name extension carries the whole subject then.
    #[error("its subject is empty but its subject alternative name is not critical")]
    SanNotCritical,
    /// A subject alternative name that cannot be read.
    #[error("it has an unreadable subject alternative name")]
    UnreadableSan,
    /// Section 4.3: key usage must be set.
    #[error("it has no key usage extension")]
    KeyUsageMissing,
    /// Section 4.3: key usage must be critical.
    #[error("its key usage extension is not critical")]
    KeyUsageNotCritical,
    /// Section 4.3: a leaf authenticates with signatures.
    #[error("its key usage lacks digitalSignature")]
    NoDigitalSignature,
    /// Section 4.3: a leaf must not sign certificates.
    #[error("its key usage allows signing certificates")]
    KeyCertSign,
    /// Section 4.3: a leaf must not sign revocation lists.
    #[error("its key usage allows signing revocation lists")]
    CrlSign,
    /// Section 4.1: cA must be false.
    #[error("it is a CA certificate")]
    IsCa,
    /// RFC 5280, section 4.2.1.9: meaningless without cA.
    #[error("it has a path length without being a CA")]
    PathLength,
    /// Section 4.4: when set, both purposes must be there.
    #[error("its extended key usage must name both serverAuth and clientAuth")]
    ExtendedKeyUsage,
}
