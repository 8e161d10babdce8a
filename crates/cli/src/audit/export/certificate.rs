//! The certificate of an issue record as security products want it.

use mintage_ledger::Body;
use mintage_svid::{LeafInfo, cert_sha256};

use crate::failure::Failure;

/// A certificate with its names as text (RFC 4514, as far as the parser writes it).
pub(super) struct Leaf {
    pub(super) info: LeafInfo,
    pub(super) issuer: String,
    pub(super) subject: String,
    pub(super) sha256: String,
}

impl Leaf {
    /// The certificate of a record; `None` where there is none.
    pub(super) fn of(body: &Body) -> Result<Option<Self>, Failure> {
        let Body::Issue(issue) = body else { return Ok(None) };
        let der = &issue.certificate_der;
        let no = |error: String| Failure::No(format!("a record's certificate is no X.509-SVID: {error}"));
        let info = LeafInfo::parse(der).map_err(|error| no(error.to_string()))?;
        let (_, parsed) = x509_parser::parse_x509_certificate(der).map_err(|error| no(error.to_string()))?;
        Ok(Some(Self {
            info,
            issuer: parsed.issuer().to_string(),
            subject: parsed.subject().to_string(),
            sha256: cert_sha256(der).to_string(),
        }))
    }
}
