//! `[lookup]`: what programs that ask for the status of a certificate are told where little is known.

use mintage_revocation::FreshnessPolicy;

/// How look-ups are answered. The defaults refuse.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LookupRules {
    /// How old the revoked set may be for a "not revoked".
    pub freshness: FreshnessPolicy,
    /// What becomes of a connection without a certificate.
    pub without_certificate: WithoutCertificate,
}

/// What Envoy is told of a connection whose certificate it does not show.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum WithoutCertificate {
    /// It is refused.
    #[default]
    Refuse,
    /// The SPIFFE ID that the proxy has verified is held against the rules on identities; a certificate that was revoked by
    /// its serial is not found that way.
    Principal,
}

/// Reads `freshness`.
///
/// # Errors
/// Names the words there are.
pub(super) fn freshness(text: &str) -> Result<FreshnessPolicy, String> {
    match text {
        "strict" => Ok(FreshnessPolicy::Strict),
        "bounded" => Ok(FreshnessPolicy::default()),
        "open" => Ok(FreshnessPolicy::Open),
        _ => Err(format!(
            "freshness {text:?} is none of \"strict\", \"bounded\" and \"open\""
        )),
    }
}

/// Reads `without_certificate`.
///
/// # Errors
/// Names the words there are.
pub(super) fn without_certificate(text: &str) -> Result<WithoutCertificate, String> {
    match text {
        "refuse" => Ok(WithoutCertificate::Refuse),
        "principal" => Ok(WithoutCertificate::Principal),
        _ => Err(format!(
            "without_certificate {text:?} is neither \"refuse\" nor \"principal\""
        )),
    }
}
