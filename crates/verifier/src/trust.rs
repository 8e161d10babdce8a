//! One immutable snapshot of everything a handshake needs: roots per trust domain, revocation knowledge and its
//! freshness policy. It is built off the handshake path and swapped whole; a handshake sees one snapshot from its
//! first check to its last.

use std::{collections::HashMap, fmt, sync::Arc, time::Duration};

use arc_swap::{ArcSwap, Guard};
use mintage_identity::{IssuerKeyId, TrustDomain, UnixTime};
use mintage_svid::{CertInfo, LeafInfo, TrustBundle};
use rustls::crypto::WebPkiSupportedAlgorithms;
use rustls_pki_types::{CertificateDer, TrustAnchor};

use crate::{
    AllowedIds, Counters, NewsKeys, RevocationCheck, TrustError, VerifiedPeer, VerifyError,
    limits::{ROOTS_PER_DOMAIN_MAX, TRUST_DOMAINS_MAX},
    path,
    path::Usage,
    tolerated::Tolerated,
};

/// Everything needed to accept or refuse a peer without asking anyone.
#[derive(Debug)]
pub struct Trust {
    own: TrustDomain,
    domains: HashMap<TrustDomain, Domain>,
}

/// One trust domain's roots, never pooled with another's (X509-SVID, section 5).
#[derive(Debug)]
pub(crate) struct Domain {
    name: TrustDomain,
    roots: Vec<Root>,
    /// The same roots in the same order, as webpki takes them.
    anchors: Vec<TrustAnchor<'static>>,
    revocation: RevocationCheck,
}

#[derive(Debug)]
struct Root {
    der: CertificateDer<'static>,
    key: IssuerKeyId,
    not_before: UnixTime,
    not_after: UnixTime,
}

impl Trust {
    /// Starts a snapshot seen from trust domain `own`; its bundle is added like any other.
    pub fn builder(own: TrustDomain) -> TrustBuilder {
        TrustBuilder {
            trust: Self {
                own,
                domains: HashMap::new(),
            },
        }
    }

    /// The trust domain this snapshot is seen from.
    pub fn own_domain(&self) -> &TrustDomain {
        &self.own
    }

    /// The trust domains that have a bundle here.
    pub fn domains(&self) -> impl Iterator<Item = &TrustDomain> {
        self.domains.keys()
    }

    /// The roots of `domain` in DER, or `None` without a bundle for it.
    pub fn roots(&self, domain: &TrustDomain) -> Option<impl Iterator<Item = &CertificateDer<'static>>> {
        Some(self.domains.get(domain)?.roots.iter().map(|root| &root.der))
    }

    /// Verifies a chain (DER, leaf first) in full: limits, leaf rules, path, allowed ids, revocation.
    ///
    /// Works without a connection too, such as for a certificate that is about to be written to disk or for
    /// `peer_certificates()` of a finished handshake. Costs one signature check per certificate.
    ///
    /// # Errors
    /// The first reason found, in the order above.
    pub fn verify(
        &self,
        presented: &[CertificateDer<'_>],
        usage: Usage,
        allowed: &AllowedIds,
        algorithms: &WebPkiSupportedAlgorithms,
        now: UnixTime,
    ) -> Result<VerifiedPeer, VerifyError> {
        self.verify_noting_age(presented, usage, allowed, algorithms, now)
            .map(|(peer, _)| peer)
    }

    /// Who is at the other end of a connection, from its `peer_certificates()`. The chain is verified again under this
    /// snapshot, but for the allowed ids, which the handshake has already applied.
    ///
    /// # Errors
    /// As [`Trust::verify`]: the snapshot may have changed since the handshake.
    pub fn peer_of(
        &self,
        presented: &[CertificateDer<'_>],
        usage: Usage,
        algorithms: &WebPkiSupportedAlgorithms,
        now: UnixTime,
    ) -> Result<VerifiedPeer, VerifyError> {
        let leaf = path::parse_leaf(presented)?;
        let domain = self.domain_of(&leaf)?;
        let peer = path::verify(domain, &leaf, presented, usage, algorithms, now)?;
        domain.check_status(&peer, now)?;
        Ok(peer)
    }

    /// Under which keys a delta would name certificates of `peer`'s path: what a list of live connections is sorted by.
    pub fn news_keys(&self, peer: &VerifiedPeer) -> NewsKeys {
        self.domains
            .get(peer.trust_domain())
            .map(|domain| domain.revocation.news_keys(peer.path()))
            .unwrap_or_default()
    }

    /// How long the revocation status of `domain`'s certificates can still be told if no news comes: zero when it cannot
    /// now, `None` when it always can, or when nobody of that domain is accepted anyway.
    pub fn status_known_for(&self, domain: &TrustDomain, now: UnixTime) -> Option<Duration> {
        self.domains.get(domain)?.revocation.known_for(now)
    }

    fn domain_of(&self, leaf: &LeafInfo) -> Result<&Domain, VerifyError> {
        self.domains
            .get(leaf.id().trust_domain_str())
            .ok_or_else(|| VerifyError::UnknownTrustDomain(leaf.id().trust_domain()))
    }

    /// As [`Trust::verify`]; true when a filter that is not fresh was tolerated.
    pub(crate) fn verify_noting_age(
        &self,
        presented: &[CertificateDer<'_>],
        usage: Usage,
        allowed: &AllowedIds,
        algorithms: &WebPkiSupportedAlgorithms,
        now: UnixTime,
    ) -> Result<(VerifiedPeer, bool), VerifyError> {
        let leaf = path::parse_leaf(presented)?;
        let domain = self.domain_of(&leaf)?;
        let peer = path::verify(domain, &leaf, presented, usage, algorithms, now)?;
        if !allowed.permits(&self.own, peer.id()) {
            return Err(VerifyError::NotAllowed(peer.id().clone()));
        }
        let tolerated = domain.check_status(&peer, now)?;
        Ok((peer, tolerated))
    }

    /// Asks again about a peer verified before, without any signature: is its root still in the bundle, is every
    /// certificate of its path still valid at `now`, and is none revoked? For every request on a long connection, and
    /// for all connections after a swap.
    ///
    /// # Errors
    /// What has changed for the worse.
    pub fn recheck(&self, peer: &VerifiedPeer, now: UnixTime) -> Result<(), VerifyError> {
        let domain = self
            .domains
            .get(peer.trust_domain())
            .ok_or_else(|| VerifyError::UnknownTrustDomain(peer.trust_domain().clone()))?;
        if let Some(ended) = peer.path().iter().find(|link| now > link.not_after) {
            return Err(VerifyError::Expired(ended.serial));
        }
        domain.check_root(peer.root_key(), now)?;
        domain.check_status(peer, now).map(|_| ())
    }
}

impl Domain {
    /// A domain of these roots, each a CA certificate.
    pub(crate) fn new(
        name: TrustDomain,
        roots: impl IntoIterator<Item = Vec<u8>>,
        revocation: RevocationCheck,
    ) -> Result<Self, TrustError> {
        let ders: Vec<_> = roots.into_iter().take(ROOTS_PER_DOMAIN_MAX + 1).collect();
        if ders.len() > ROOTS_PER_DOMAIN_MAX {
            return Err(TrustError::TooManyRoots {
                domain: name,
                count: ders.len(),
            });
        }
        let (mut roots, mut anchors) = (Vec::with_capacity(ders.len()), Vec::with_capacity(ders.len()));
        for (index, der) in ders.into_iter().enumerate() {
            let (root, anchor) = parse_root(der).map_err(|why| TrustError::Root {
                domain: name.clone(),
                index,
                why,
            })?;
            roots.push(root);
            anchors.push(anchor);
        }
        Ok(Self {
            name,
            roots,
            anchors,
            revocation,
        })
    }

    pub(crate) fn name(&self) -> &TrustDomain {
        &self.name
    }

    pub(crate) fn anchors(&self) -> &[TrustAnchor<'static>] {
        &self.anchors
    }

    /// Is a root with this key in the bundle, and valid at `now`? A root renewed with its old key counts as itself.
    pub(crate) fn check_root(&self, key: &IssuerKeyId, now: UnixTime) -> Result<(), VerifyError> {
        let mut known = self.roots.iter().filter(|root| root.key == *key).peekable();
        if known.peek().is_none() {
            return Err(VerifyError::RootRemoved(*key));
        }
        // X.509 counts whole seconds, and its last second is still inside.
        let now = now.floor_to_second();
        match known.any(|root| root.not_before <= now && now <= root.not_after) {
            true => Ok(()),
            false => Err(VerifyError::RootOutOfDate(*key)),
        }
    }

    /// True when an answer came from a filter that is not fresh, but within the policy. Every certificate is asked for: one
    /// whose status is unknown may live on by the caller's choice, and must not hide one above it that is revoked.
    fn check_status(&self, peer: &VerifiedPeer, now: UnixTime) -> Result<bool, VerifyError> {
        let mut tolerated = false;
        let mut unknown = None;
        for (depth, link) in peer.path().iter().enumerate() {
            let id = (depth == 0).then_some(peer.id());
            match self.revocation.ask(&self.name, link, id, now) {
                Ok(was_tolerated) => tolerated |= was_tolerated,
                Err(error) if error.is_unknown_status() => unknown = unknown.or(Some(error)),
                Err(error) => return Err(error),
            }
        }
        unknown.map_or(Ok(tolerated), Err)
    }
}

fn parse_root(der: Vec<u8>) -> Result<(Root, TrustAnchor<'static>), String> {
    let info = CertInfo::parse_signing(&der).map_err(|error| error.to_string())?;
    let der = CertificateDer::from(der);
    let anchor = webpki::anchor_from_trusted_cert(&der).map_err(|error| error.to_string())?;
    let anchor = anchor.to_owned();
    let root = Root {
        key: info.key_id(),
        not_before: info.not_before(),
        not_after: info.not_after(),
        der,
    };
    Ok((root, anchor))
}

/// Collects the bundles of a [`Trust`].
#[derive(Debug)]
pub struct TrustBuilder {
    trust: Trust,
}

impl TrustBuilder {
    /// Adds the bundle of `domain`: its roots in DER and how its certificates are checked for revocation. A bundle
    /// without roots is taken and makes every certificate of that domain invalid.
    ///
    /// # Errors
    /// Refuses a root that is no CA certificate, a trust domain given twice, and what is over a limit.
    pub fn domain(
        mut self,
        domain: TrustDomain,
        roots: impl IntoIterator<Item = Vec<u8>>,
        revocation: RevocationCheck,
    ) -> Result<Self, TrustError> {
        if self.trust.domains.contains_key(&domain) {
            return Err(TrustError::DuplicateDomain(domain));
        }
        if self.trust.domains.len() >= TRUST_DOMAINS_MAX {
            return Err(TrustError::TooManyDomains);
        }
        let entry = Domain::new(domain.clone(), roots, revocation)?;
        self.trust.domains.insert(domain, entry);
        Ok(self)
    }

    /// Adds the roots of `bundle`; see [`TrustBuilder::domain`].
    ///
    /// # Errors
    /// As [`TrustBuilder::domain`].
    pub fn bundle(self, bundle: &TrustBundle, revocation: RevocationCheck) -> Result<Self, TrustError> {
        self.domain(
            bundle.trust_domain().clone(),
            bundle.roots().iter().cloned(),
            revocation,
        )
    }

    /// The finished snapshot.
    pub fn build(self) -> Trust {
        self.trust
    }
}

/// Hears of every refused chain, in full: an alert, and even rustls' own error, say less. Called inside the handshake,
/// in the task that drives it, so it must not block.
pub trait Observer: fmt::Debug + Send + Sync {
    /// A chain was refused because of `error`.
    fn refused(&self, error: &VerifyError);
}

/// The one pointer through which every verifier reads the current snapshot.
#[derive(Debug)]
pub struct TrustStore {
    current: ArcSwap<Trust>,
    counters: Counters,
    tolerated: Tolerated,
    observer: Option<Arc<dyn Observer>>,
}

impl TrustStore {
    /// A store that starts with this snapshot.
    pub fn new(trust: Trust) -> Arc<Self> {
        Arc::new(Self::made(trust, None))
    }

    /// A store that starts with this snapshot and tells `observer` of every refusal.
    pub fn observed(trust: Trust, observer: Arc<dyn Observer>) -> Arc<Self> {
        Arc::new(Self::made(trust, Some(observer)))
    }

    fn made(trust: Trust, observer: Option<Arc<dyn Observer>>) -> Self {
        Self {
            current: ArcSwap::from_pointee(trust),
            counters: Counters::default(),
            tolerated: Tolerated::default(),
            observer,
        }
    }

    /// Puts a new snapshot in place; handshakes that begin later see it. Live connections are not touched here: see
    /// [`Trust::recheck`].
    pub fn swap(&self, trust: Trust) {
        self.current.store(Arc::new(trust));
    }

    /// The current snapshot, for the length of one check.
    pub fn load(&self) -> Guard<Arc<Trust>> {
        self.current.load()
    }

    /// The current snapshot, to keep.
    pub fn load_full(&self) -> Arc<Trust> {
        self.current.load_full()
    }

    /// What the verifiers over this store have answered so far.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Counts an answer; the flag says that it rests on a filter that is not fresh, which is logged when it changes.
    pub(crate) fn note(&self, outcome: &Result<(VerifiedPeer, bool), VerifyError>) {
        self.counters.count(outcome);
        if let Ok((peer, tolerated)) = outcome {
            self.tolerated.note(peer.trust_domain(), *tolerated);
        }
        if let (Some(observer), Err(error)) = (&self.observer, outcome) {
            observer.refused(error);
        }
    }
}
