//! Why a peer was refused, in our words for logs and counters, and as the alert rustls sends.
//!
//! The peer learns only the alert. Where rustls has a variant of its own the alert follows RFC 8446, section 6.2;
//! everything else travels in `CertificateError::Other`, whose alert is `certificate_unknown`.

use std::sync::Arc;

use mintage_identity::{IssuerKeyId, Serial, SpiffeId, TrustDomain};
use mintage_revocation::Why;
use mintage_svid::SvidError;
use rustls::{CertificateError, OtherError};

use crate::limits::{CERT_BYTES_MAX, CHAIN_BYTES_MAX, CHAIN_CERTS_MAX, PINNED_ROOTS_MAX, ROOTS_PER_DOMAIN_MAX};

/// Why a chain was not accepted.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum VerifyError {
    /// No certificate was presented.
    #[error("the peer presented no certificate; give it an X.509-SVID")]
    NoCertificate,
    /// More certificates than the limit; nothing was parsed.
    #[error("the chain has {count} certificates, the limit is {CHAIN_CERTS_MAX}; send the leaf and its issuers only")]
    ChainTooLong {
        /// How many were presented.
        count: usize,
    },
    /// One certificate, or all of them together, is over the limit; nothing was parsed.
    #[error(
        "the chain has {bytes} bytes, the limits are {CERT_BYTES_MAX} per certificate and {CHAIN_BYTES_MAX} in all"
    )]
    ChainTooLarge {
        /// Bytes of the offending certificate or of the chain.
        bytes: usize,
    },
    /// The leaf breaks a rule of the X509-SVID standard.
    #[error("the leaf is no X.509-SVID: {0}")]
    Leaf(#[source] SvidError),
    /// An issuing certificate of the path breaks a rule of the X509-SVID standard.
    #[error("an issuing certificate is not acceptable: {0}")]
    Issuer(#[source] SvidError),
    /// An issuing certificate names another trust domain than the leaf's bundle (X509-SVID, section 3.1).
    #[error("an issuing certificate of the path names {0}, another trust domain")]
    ForeignIssuer(SpiffeId),
    /// No bundle is held for the leaf's trust domain.
    #[error("no trust bundle for trust domain {0}; federate with it, or the peer belongs elsewhere")]
    UnknownTrustDomain(TrustDomain),
    /// Path validation (RFC 5280, section 6) failed.
    #[error("path validation failed: {0}")]
    Path(CertificateError),
    /// The path ends at a root that is itself out of date.
    #[error("the root {0} is expired or not yet valid; publish a bundle with a current root")]
    RootOutOfDate(IssuerKeyId),
    /// The path ends at a root that the bundle no longer has.
    #[error("the root {0} is no longer in the trust bundle")]
    RootRemoved(IssuerKeyId),
    /// The id is proven, but may not connect here.
    #[error("{0} is not among the allowed ids")]
    NotAllowed(SpiffeId),
    /// A certificate of the path is revoked.
    #[error("certificate {serial} of issuer {issuer} is revoked (by {})", why.as_str())]
    Revoked {
        /// The key that issued the revoked certificate.
        issuer: IssuerKeyId,
        /// Its serial.
        serial: Serial,
        /// What struck it.
        why: Why,
    },
    /// The revocation knowledge is older than the freshness policy takes.
    #[error("the revocation filter of {0} is older than the freshness policy allows; check the agent's link to the CA")]
    RevocationStale(TrustDomain),
    /// No revocation knowledge is at hand at all.
    #[error("no revocation filter for {0}; wait for the agent, or mark the domain as one without revocation")]
    NoRevocationFilter(TrustDomain),
    /// The filter does not speak about this certificate.
    #[error("certificate {serial} of issuer {issuer} is not covered by the revocation filter")]
    NotCovered {
        /// The key that issued the certificate.
        issuer: IssuerKeyId,
        /// Its serial.
        serial: Serial,
    },
    /// A certificate of a live connection has expired since the handshake.
    #[error("certificate {0} has expired since the handshake")]
    Expired(Serial),
    /// None of the presented certificates is one of the pinned roots.
    #[error("none of the presented certificates is a pinned root; the join token is for another CA, or outdated")]
    RootNotPinned,
}

impl VerifyError {
    /// Every code [`VerifyError::code`] can give, in a fixed order: the label values of a refusal counter.
    pub const CODES: [&'static str; 17] = [
        "no_certificate",
        "chain_too_long",
        "chain_too_large",
        "bad_leaf",
        "bad_issuer",
        "unknown_trust_domain",
        "bad_path",
        "root_out_of_date",
        "root_removed",
        "not_allowed",
        "revoked",
        "revocation_stale",
        "no_revocation_filter",
        "not_covered",
        "expired",
        "root_not_pinned",
        "foreign_issuer",
    ];

    pub(crate) fn index(&self) -> usize {
        match self {
            Self::NoCertificate => 0,
            Self::ChainTooLong { .. } => 1,
            Self::ChainTooLarge { .. } => 2,
            Self::Leaf(_) => 3,
            Self::Issuer(_) => 4,
            Self::UnknownTrustDomain(_) => 5,
            Self::Path(_) => 6,
            Self::RootOutOfDate(_) => 7,
            Self::RootRemoved(_) => 8,
            Self::NotAllowed(_) => 9,
            Self::Revoked { .. } => 10,
            Self::RevocationStale(_) => 11,
            Self::NoRevocationFilter(_) => 12,
            Self::NotCovered { .. } => 13,
            Self::Expired(_) => 14,
            Self::RootNotPinned => 15,
            Self::ForeignIssuer(_) => 16,
        }
    }

    /// A stable word for counters: bounded in number, never an id or a serial.
    pub fn code(&self) -> &'static str {
        Self::CODES[self.index()]
    }

    /// True when the refusal rests on missing knowledge about revocation, not on a fact about the certificate.
    pub fn is_unknown_status(&self) -> bool {
        matches!(
            self,
            Self::RevocationStale(_) | Self::NoRevocationFilter(_) | Self::NotCovered { .. }
        )
    }

    /// The rustls error whose alert the peer receives.
    pub fn to_certificate_error(&self) -> CertificateError {
        match self {
            Self::Path(error) => error.clone(),
            Self::Revoked { .. } => CertificateError::Revoked,
            Self::UnknownTrustDomain(_) | Self::RootRemoved(_) | Self::RootNotPinned => CertificateError::UnknownIssuer,
            Self::RootOutOfDate(_) | Self::Expired(_) => CertificateError::Expired,
            Self::NotAllowed(_) => CertificateError::ApplicationVerificationFailure,
            Self::RevocationStale(_) => CertificateError::ExpiredRevocationList,
            Self::NoRevocationFilter(_) | Self::NotCovered { .. } => CertificateError::UnknownRevocationStatus,
            Self::ChainTooLong { .. }
            | Self::ChainTooLarge { .. }
            | Self::Leaf(_)
            | Self::Issuer(_)
            | Self::ForeignIssuer(_) => CertificateError::Other(OtherError(Arc::new(self.clone()))),
            Self::NoCertificate => CertificateError::BadEncoding,
        }
    }
}

/// The reason inside a handshake's error, where rustls has no variant of its own for it. rustls itself would print it in
/// debug form.
pub fn reason_of(error: &rustls::Error) -> Option<&VerifyError> {
    match error {
        rustls::Error::InvalidCertificate(CertificateError::Other(OtherError(inner))) => inner.downcast_ref(),
        _ => None,
    }
}

impl From<VerifyError> for rustls::Error {
    fn from(error: VerifyError) -> Self {
        Self::InvalidCertificate(error.to_certificate_error())
    }
}

/// Translates webpki's error as rustls does, so that the alert is the same as with rustls' own verifier.
pub(crate) fn from_webpki(error: webpki::Error) -> CertificateError {
    use webpki::Error as E;
    match error {
        E::BadDer | E::BadDerTime | E::TrailingData(_) => CertificateError::BadEncoding,
        E::CertNotValidYet { time, not_before } => CertificateError::NotValidYetContext { time, not_before },
        E::CertExpired { time, not_after } => CertificateError::ExpiredContext { time, not_after },
        E::InvalidCertValidity => CertificateError::Expired,
        E::UnknownIssuer => CertificateError::UnknownIssuer,
        E::InvalidSignatureForPublicKey => CertificateError::BadSignature,
        E::UnsupportedCriticalExtension => CertificateError::UnhandledCriticalExtension,
        E::UnsupportedSignatureAlgorithmContext(context) => CertificateError::UnsupportedSignatureAlgorithmContext {
            signature_algorithm_id: context.signature_algorithm_id,
            supported_algorithms: context.supported_algorithms,
        },
        E::UnsupportedSignatureAlgorithmForPublicKeyContext(context) => {
            CertificateError::UnsupportedSignatureAlgorithmForPublicKeyContext {
                signature_algorithm_id: context.signature_algorithm_id,
                public_key_algorithm_id: context.public_key_algorithm_id,
            }
        }
        E::RequiredEkuNotFoundContext(_) | E::EmptyEkuExtension => CertificateError::InvalidPurpose,
        other => CertificateError::Other(OtherError(Arc::new(other))),
    }
}

/// Why a snapshot could not be built.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum TrustError {
    /// A root certificate cannot be used.
    #[error("root {index} of trust domain {domain}: {why}")]
    Root {
        /// Whose bundle it is in.
        domain: TrustDomain,
        /// Its place in the list, from 0.
        index: usize,
        /// What is wrong with it.
        why: String,
    },
    /// Too many roots in one bundle.
    #[error("trust domain {domain} has {count} roots, the limit is {ROOTS_PER_DOMAIN_MAX}; remove expired ones")]
    TooManyRoots {
        /// Whose bundle it is.
        domain: TrustDomain,
        /// How many roots it has.
        count: usize,
    },
    /// The same trust domain was given twice: bundles are never merged (X509-SVID, section 5).
    #[error("trust domain {0} is given twice; bundles are never merged")]
    DuplicateDomain(TrustDomain),
    /// Too many trust domains.
    #[error("more than {} trust domains; federate with fewer", crate::limits::TRUST_DOMAINS_MAX)]
    TooManyDomains,
    /// A join needs 1 to [`PINNED_ROOTS_MAX`] root hashes.
    #[error("{0} pinned root hashes; 1 to {PINNED_ROOTS_MAX} are needed")]
    PinCount(usize),
}

/// Why an identity was not put in place.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum IdentityError {
    /// The chain is over a limit or empty.
    #[error("certificate chain: {0}")]
    Chain(#[source] VerifyError),
    /// The leaf is no X.509-SVID.
    #[error("certificate is no X.509-SVID: {0}")]
    Leaf(#[source] SvidError),
    /// The provider cannot load the private key.
    #[error("private key cannot be loaded (PKCS#8 is needed): {0}")]
    Key(rustls::Error),
    /// The private key does not belong to the certificate.
    #[error("the private key does not match the certificate; write key and certificate of one generation together")]
    Mismatch,
}
