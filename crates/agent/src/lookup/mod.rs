//! Answers for verifiers that cannot hold the filter themselves: one certificate, as it is or as far as it is known, against
//! the agent's own set. An answer is never better than what a verifier of this node would say: without a set nothing is good.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use arc_swap::{ArcSwapOption, Guard};
use mintage_identity::{SpiffeId, UnixTime};
use mintage_revocation::{Decision, FreshnessPolicy, Missing, Shown, Verdict, View, ViewHandle, Why};
use mintage_svid::{CertInfo, LeafInfo};
use mintage_verifier::{AllowedIds, RevocationCheck, Trust, TrustError, Usage, VerifyError, limits::CHAIN_CERTS_MAX};
use rustls::{CertificateError, crypto::CryptoProvider};
use rustls_pki_types::CertificateDer;

use crate::{
    bundle::Bundle,
    config::{LookupRules, WithoutCertificate},
};

mod escaped;
mod route;

pub use escaped::unescape_chain;
pub use route::{Particulars, Route, RouteProblem};

/// Bundles say who is believed, and nothing of what was revoked.
const UNKNOWN_ELSEWHERE: &str = "what other trust domains revoke is not known here, federated or not";

/// What is told about one certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Answer {
    /// Not revoked.
    Good {
        /// By a set that is not fresh, which the configuration tolerates.
        tolerated: bool,
    },
    /// Revoked, by this.
    Revoked(Why),
    /// Neither is known.
    Unknown(Unknown),
}

/// Why nothing is known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Unknown {
    /// The set is older than the configuration allows.
    Stale,
    /// There is no set, or no trust bundle.
    NoSet,
    /// The set does not speak of it.
    NotCovered,
    /// Nobody in the bundle issued it.
    ForeignIssuer(String),
    /// A rule may strike it.
    Incomplete(Missing),
    /// Too many questions of its user are under way.
    Busy,
    /// It is none that a verifier takes, or the question is malformed.
    Invalid(String),
}

impl Answer {
    /// The name under which it is counted: beside its word, what was good by an old set alone.
    pub(crate) fn label(&self) -> &'static str {
        match self {
            Self::Good { tolerated: true } => "tolerated",
            other => other.word(),
        }
    }

    /// A stable word, for machines.
    pub(crate) fn word(&self) -> &'static str {
        match self {
            Self::Good { .. } => "good",
            Self::Revoked(_) => "revoked",
            Self::Unknown(Unknown::Stale) => "stale",
            Self::Unknown(Unknown::NoSet) => "no_set",
            Self::Unknown(Unknown::NotCovered) => "not_covered",
            Self::Unknown(Unknown::ForeignIssuer(_)) => "foreign_issuer",
            Self::Unknown(Unknown::Incomplete(_)) => "incomplete",
            Self::Unknown(Unknown::Busy) => "busy",
            Self::Unknown(Unknown::Invalid(_)) => "invalid",
        }
    }

    /// True when the same question may have another answer in a moment, with nothing changed but the agent.
    pub(crate) fn is_for_now(&self) -> bool {
        matches!(self, Self::Unknown(Unknown::Stale | Unknown::NoSet | Unknown::Busy))
    }

    /// What has to be given beside what was, for an answer.
    pub(crate) fn missing(&self) -> Vec<&'static str> {
        match self {
            Self::Unknown(Unknown::Incomplete(missing)) => named(*missing),
            _ => Vec::new(),
        }
    }

    /// Why the certificate is not good, and what to do; empty when it is.
    pub(crate) fn problem(&self) -> String {
        match self {
            Self::Good { .. } => String::new(),
            Self::Revoked(why) => format!("the certificate is revoked (by {})", why.as_str()),
            Self::Unknown(unknown) => unknown.problem(),
        }
    }
}

impl Unknown {
    fn problem(&self) -> String {
        match self {
            Self::Stale => {
                "the revocation set is older than [lookup] freshness allows; check the agent's link to the CA"
                    .to_owned()
            }
            Self::NoSet => "the agent has no revocation set yet; wait until it has joined and is connected".to_owned(),
            Self::Busy => "too many certificates of this user are being looked at; try again".to_owned(),
            Self::NotCovered => "the revocation set does not speak of this certificate".to_owned(),
            Self::ForeignIssuer(why) | Self::Invalid(why) => why.clone(),
            Self::Incomplete(missing) => {
                let named = named(*missing).join(", ");
                format!(
                    "{named}: a rule in force may strike the certificate; ask again with it, in the query over HTTP or in \
                     the question over gRPC, or show the whole certificate (who always gives spiffe_id, \
                     public_key_sha256 and not_before_ms is asked for nothing more)"
                )
            }
        }
    }
}

/// The fields of a question that a rule asks for, as they are called over HTTP and over gRPC.
fn named(missing: Missing) -> Vec<&'static str> {
    let fields = [
        (missing.spiffe_id, "spiffe_id"),
        (missing.spki_sha256, "public_key_sha256"),
        (missing.not_before, "not_before_ms"),
    ];
    let wanted = fields.into_iter().filter(|(is_missing, _)| *is_missing);
    wanted.map(|(_, name)| name).collect()
}

/// Answers, by the bundle and the view in force.
pub(crate) struct Desk {
    rules: LookupRules,
    view: ViewHandle,
    known: ArcSwapOption<Known>,
    /// The last good answer rested on a set that is not fresh.
    tolerating: AtomicBool,
}

/// What of a bundle is needed.
struct Known {
    trust: Trust,
    /// Issuing certificates that a root signed; proxies show leaves alone.
    issuers: Vec<(CertInfo, CertificateDer<'static>)>,
}

impl Desk {
    pub(crate) fn new(rules: LookupRules, view: ViewHandle) -> Self {
        Self {
            rules,
            view,
            known: ArcSwapOption::empty(),
            tolerating: AtomicBool::new(false),
        }
    }

    /// Answers by this bundle from now on.
    pub(crate) fn install(&self, bundle: &Bundle) -> Result<(), TrustError> {
        let trust = bundle.trust(RevocationCheck::Required {
            view: Some(self.view.clone()),
            freshness: self.rules.freshness,
        })?;
        let issuers = bundle.issuing();
        self.known.store(Some(Arc::new(Known { trust, issuers })));
        Ok(())
    }

    /// The view in force, for what is told beside the answers.
    pub(crate) fn view(&self) -> Guard<Arc<View>> {
        self.view.load()
    }

    /// For a certificate (DER) that a client shows, and issuing ones that may follow it.
    pub(crate) fn of_chain(&self, chain: &[Vec<u8>], provider: &CryptoProvider, now: UnixTime) -> Answer {
        let known = self.known.load();
        let Some(known) = known.as_deref() else {
            return Answer::Unknown(Unknown::NoSet);
        };
        let mut presented: Vec<CertificateDer<'_>> = chain.iter().map(|der| der.as_slice().into()).collect();
        if let [leaf] = chain {
            known.complete(leaf, &mut presented);
        }
        let algorithms = &provider.signature_verification_algorithms;
        let verified = known
            .trust
            .verify(&presented, Usage::Client, &AllowedIds::OwnTrustDomain, algorithms, now);
        match verified {
            Ok(_) => self.good(now),
            Err(error) => self.refused(error, now),
        }
    }

    /// For what somebody knows of a certificate.
    pub(crate) fn of_shown(&self, shown: &Shown<'_>, now: UnixTime) -> Answer {
        let view = self.view.load();
        match view.check_shown(shown, now) {
            Ok(verdict) => judged(&view, verdict, self.rules.freshness, now),
            Err(missing) => Answer::Unknown(Unknown::Incomplete(missing)),
        }
    }

    /// For a connection whose proxy names a SPIFFE ID that it has verified, and shows no certificate.
    pub(crate) fn of_principal(&self, principal: &str, now: UnixTime) -> Answer {
        let refuse = |why: &str| Answer::Unknown(Unknown::Invalid(why.to_owned()));
        if self.rules.without_certificate == WithoutCertificate::Refuse {
            return refuse(
                "source.certificate: is missing; set include_peer_certificate, and require a client certificate",
            );
        }
        let Ok(id) = SpiffeId::parse(principal) else {
            return refuse("source.principal: is no SPIFFE ID, and there is no source.certificate");
        };
        let known = self.known.load();
        if known
            .as_deref()
            .is_some_and(|known| !id.is_member_of(known.trust.own_domain()))
        {
            return Answer::Unknown(Unknown::ForeignIssuer(format!(
                "{id} is of another trust domain; {UNKNOWN_ELSEWHERE}"
            )));
        }
        let named = Shown {
            name: None,
            spiffe_id: Some(&id),
            spki_sha256: None,
            not_before: None,
            not_after: None,
        };
        let view = self.view.load();
        match view.check_shown(&named, now) {
            Ok(verdict) => judged(&view, verdict, self.rules.freshness, now),
            // Rules on keys say nothing about a name.
            Err(missing) if !missing.not_before => judged(&view, Verdict::Stale, self.rules.freshness, now),
            Err(missing) => Answer::Unknown(Unknown::Incomplete(missing)),
        }
    }

    /// Tells in the log when good answers begin to rest on an old set, and when they no longer do.
    pub(crate) fn note(&self, answer: &Answer) {
        let &Answer::Good { tolerated } = answer else { return };
        // Read first, so that what is asked for all the time does not write all the time.
        if self.tolerating.load(Ordering::Relaxed) == tolerated
            || self.tolerating.swap(tolerated, Ordering::Relaxed) == tolerated
        {
            return;
        }
        match tolerated {
            true => tracing::info!(
                "look-ups are answered by a revocation set that is not fresh, as [lookup] freshness allows; check the \
                 agent's link to the CA"
            ),
            false => tracing::info!("look-ups are answered by a fresh revocation set again"),
        }
    }

    fn good(&self, now: UnixTime) -> Answer {
        judged(&self.view.load(), Verdict::Stale, FreshnessPolicy::Open, now)
    }

    fn refused(&self, error: VerifyError, now: UnixTime) -> Answer {
        let told = error.to_string();
        let unknown = match error {
            VerifyError::Revoked { why, .. } => return Answer::Revoked(why),
            VerifyError::RevocationStale(_) if self.view.load().age(now).is_none() => Unknown::NoSet,
            VerifyError::NoRevocationFilter(_) => Unknown::NoSet,
            VerifyError::RevocationStale(_) => Unknown::Stale,
            VerifyError::NotCovered { .. } => Unknown::NotCovered,
            VerifyError::UnknownTrustDomain(_) | VerifyError::Path(CertificateError::UnknownIssuer) => {
                Unknown::ForeignIssuer(format!("{told}; {UNKNOWN_ELSEWHERE}"))
            }
            _ => Unknown::Invalid(told),
        };
        Answer::Unknown(unknown)
    }
}

/// A verdict under a policy.
fn judged(view: &View, verdict: Verdict, policy: FreshnessPolicy, now: UnixTime) -> Answer {
    match view.judge(verdict, now, policy) {
        Decision::Accept { tolerated } => Answer::Good { tolerated },
        Decision::Refuse(Verdict::Revoked { why }) => Answer::Revoked(why),
        Decision::Refuse(Verdict::NotCovered) => Answer::Unknown(Unknown::NotCovered),
        Decision::Refuse(Verdict::Stale | Verdict::Good) => Answer::Unknown(match view.age(now) {
            Some(_) => Unknown::Stale,
            None => Unknown::NoSet,
        }),
    }
}

impl Known {
    /// Adds the issuing certificates between `leaf` and a root, as far as the bundle has them; verified they are later.
    fn complete(&self, leaf: &[u8], presented: &mut Vec<CertificateDer<'_>>) {
        let Ok(leaf) = LeafInfo::parse(leaf) else { return };
        let mut name = leaf.issuer_raw().to_vec();
        let mut key = leaf.authority_key_id().map(<[u8]>::to_vec);
        while presented.len() < CHAIN_CERTS_MAX {
            let is_next = |info: &CertInfo| {
                let key_fits =
                    key.is_none() || info.subject_key_id().is_none() || info.subject_key_id() == key.as_deref();
                info.subject_raw() == name && key_fits
            };
            let Some((info, der)) = self.issuers.iter().find(|(info, _)| is_next(info)) else {
                return;
            };
            presented.push(der.clone());
            name = info.issuer_raw().to_vec();
            key = info.authority_key_id().map(<[u8]>::to_vec);
        }
    }
}

#[cfg(test)]
mod tests;
