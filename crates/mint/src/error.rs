//! What the mint refuses, and whose fault it is.

use mintage_identity::{IssuerKeyId, SpiffeId, TrustDomain, UnixTime};
use mintage_ledger::LedgerError;
use mintage_svid::{SvidError, der::DerError};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use crate::limits::{CRL_ENTRIES_MAX, CSR_ATTRIBUTES_MAX, CSR_BYTES_MAX};

/// A signing request that proves nothing. The requester's fault, always.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CsrError {
    /// Nothing was sent.
    #[error("the signing request is empty")]
    Empty,
    /// Larger than the limit; nothing of it was parsed.
    #[error("the signing request has {0} bytes, the limit is {CSR_BYTES_MAX}")]
    TooLarge(usize),
    /// PEM where DER is wanted.
    #[error("the signing request is PEM, send the DER inside it")]
    Pem,
    /// Not strict DER.
    #[error("the signing request is not strict DER: {0}")]
    Der(#[from] DerError),
    /// DER of another shape than PKCS#10 version 0 (RFC 2986).
    #[error("the signing request is no PKCS#10 request of version 0")]
    Version,
    /// An attribute twice, or too many of them.
    #[error("the signing request has an attribute twice or more than {CSR_ATTRIBUTES_MAX}")]
    Attributes,
    /// A strict policy wants the key alone.
    #[error("the signing request asks for a subject or extensions, which strict policy refuses; send an empty one")]
    NotBare,
    /// A key of a kind that is not accepted.
    #[error("the key of the signing request is refused: {0}")]
    Key(SvidError),
    /// RSA is off by policy.
    #[error("RSA keys are off by policy, use P-256, P-384 or Ed25519")]
    RsaOff,
    /// A signature algorithm that is not accepted (SHA-1 among them).
    #[error("the signature algorithm of the signing request is not accepted")]
    Algorithm,
    /// The signature does not verify.
    #[error("proof of possession failed: the signature of the signing request does not verify")]
    Possession,
}

/// An instant as people read it, or its milliseconds where no calendar has it.
fn shown(time: UnixTime) -> String {
    let instant = OffsetDateTime::from_unix_timestamp(time.seconds()).ok();
    let text = instant.and_then(|instant| instant.format(&Rfc3339).ok());
    text.unwrap_or_else(|| format!("{} ms since 1970", time.millis()))
}

/// Why no certificate, list or statement was made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MintError {
    /// The issuing CA has too little life left to give any away.
    #[error("the issuing CA expires at {}, too soon for a certificate of 60 s: rotate it now", shown(*.not_after))]
    IssuerExpiring {
        /// The end of the issuing certificate.
        not_after: UnixTime,
    },
    /// The clock stands before the issuing certificate begins, or outside of what X.509 can write.
    #[error("the clock ({}) is outside the validity of the issuing CA: check the clock", shown(*.now))]
    Clock {
        /// What the clock says.
        now: UnixTime,
    },
    /// The Grant is for an identity this issuer does not vouch for.
    #[error("{id} is not in the trust domain {issuer} of the issuing CA")]
    OtherTrustDomain {
        /// The granted identity.
        id: SpiffeId,
        /// The issuer's trust domain.
        issuer: TrustDomain,
    },
    /// The requester presented a key of the CA.
    #[error("the request carries the issuing CA's own public key")]
    OwnKey,
    /// Prepared by one issuer and handed to another.
    #[error("prepared for the issuer {prepared}, but {given} was given to sign")]
    OtherIssuer {
        /// The issuer whose name is in the certificate.
        prepared: IssuerKeyId,
        /// The issuer that was asked to sign.
        given: IssuerKeyId,
    },
    /// What was built is not what was granted. Nothing was signed.
    #[error("refused to sign: {0} of the built certificate is not what was granted (a bug: report it)")]
    Lint(&'static str),
    /// The token that was built is not what was granted. Nothing was signed.
    #[error("refused to sign: {0} of the built JWT-SVID is not what was granted (a bug: report it)")]
    JwtLint(&'static str),
    /// The certificate library refused the parameters.
    #[error("the certificate could not be built: {0}")]
    Build(#[from] rcgen::Error),
    /// A CA certificate or its path is not usable.
    #[error("the CA certificate is not usable: {0}")]
    Certificate(#[from] SvidError),
    /// A CA certificate that is well formed and still not usable here.
    #[error("the CA certificate is not usable: {0}")]
    Unusable(&'static str),
    /// The system's random number generator or the signature primitive failed.
    #[error("signing failed: no randomness or a damaged key")]
    Sign,
    /// A key that cannot be loaded.
    #[error("the key is not usable: {0}")]
    Key(&'static str),
    /// A key file that cannot be read or written.
    #[error("the key file is refused: {0}")]
    KeyFile(&'static str),
    /// Too many entries in one revocation list.
    #[error("a revocation list of {0} entries is over the limit of {CRL_ENTRIES_MAX}")]
    CrlTooLarge(usize),
    /// What was asked to be signed is no delegation statement.
    #[error("not a delegation statement")]
    NotADelegation,
    /// The receipt belongs to another record.
    #[error("the receipt is for another record; the certificate stays sealed")]
    OtherReceipt,
    /// The record could not be made.
    #[error("the record could not be made: {0}")]
    Record(#[from] LedgerError),
}
