//! What the agent's tasks share: clocks, disk, trust and the own identity. Everything here is swapped whole.

use std::{
    collections::HashSet,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use arc_swap::{ArcSwap, ArcSwapOption};
use mintage_identity::{SpiffeId, TrustDomain, UnixTime};
use mintage_revocation::ViewHandle;
use mintage_svid::{LeafInfo, key_matches};
use mintage_verifier::{IdentitySource, TlsSettings, Trust, TrustStore};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio::sync::{broadcast, mpsc};

use crate::{
    AgentEvent, Config, Deps, SocketLimits,
    bundle::Bundle,
    crls::Crls,
    federation::Federation,
    held::Unverified,
    limits::{CALLER_LINES_MAX, CRLS_ON_SOCKET_BYTES_MAX},
    link::ALPN,
    lookup::{Answer, Desk},
    metrics::Metrics,
    revoked::News,
    seen::Pool,
    store::Store,
};

/// The agent's own certificate, whatever its age: an expired one still proves the last key.
pub(crate) struct Own {
    pub(crate) pair: Unverified,
    pub(crate) leaf: LeafInfo,
}

impl Own {
    /// Takes up a pair; key and certificate must belong together.
    pub(crate) fn new(pair: Unverified) -> Result<Self, String> {
        let first = pair.chain.first().ok_or("there is no certificate")?;
        let leaf = LeafInfo::parse(first).map_err(|error| error.to_string())?;
        match key_matches(first, &pair.key) {
            Ok(true) => Ok(Self { leaf, pair }),
            Ok(false) => Err("key and certificate do not belong together".to_owned()),
            Err(error) => Err(error.to_string()),
        }
    }
}

/// Shared by all tasks of one agent.
pub(crate) struct Shared {
    pub(crate) deps: Deps,
    pub(crate) store: Arc<Store>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) domain: TrustDomain,
    /// The revocation view, published by the revocation thread.
    pub(crate) view: ViewHandle,
    /// The agent's own identity in TLS handshakes.
    pub(crate) tls_identity: Arc<IdentitySource>,
    pub(crate) own: ArcSwapOption<Own>,
    pub(crate) bundle: ArcSwapOption<Bundle>,
    /// The bundles of other trust domains.
    pub(crate) federation: ArcSwap<Federation>,
    /// For software that speaks only X.509.
    pub(crate) crls: ArcSwap<Crls>,
    /// For the CA's certificates and those it just made; see [`Bundle::catching_up_trust`].
    pub(crate) ca_trust: Arc<TrustStore>,
    /// For verifiers on this node.
    pub(crate) local_trust: Arc<TrustStore>,
    /// For programs that ask on the socket.
    pub(crate) desk: Desk,
    /// How much callers of the socket may hold.
    pub(crate) limits: SocketLimits,
    /// What callers of the socket are served is kept on disk.
    pub(crate) keep: bool,
    /// For certificates that were seen in use: the roots alone, whatever was revoked. None before there is a bundle.
    pub(crate) roots_trust: ArcSwapOption<Trust>,
    /// What was seen in use and waits to be told to the CA.
    pub(crate) seen: Mutex<Pool>,
    /// Identities that are being served now.
    pub(crate) serving: AtomicUsize,
    /// The shortest lifetime held or wanted, in milliseconds.
    shortest_life: AtomicU64,
    /// What was logged of callers, and the second of that.
    callers_logged: Mutex<CallersLogged>,
    /// What the CA offers that is older than what is held: refused, and told until it offers something newer.
    refused_older: [ArcSwapOption<String>; 2],
    /// Why no caller of the socket can be taken now.
    no_descriptors: ArcSwapOption<String>,
    /// There are callers of the socket.
    has_socket: bool,
    /// Which lists of revoked certificates they do not get.
    lists_left_out: ArcSwapOption<String>,
    events: broadcast::Sender<AgentEvent>,
    revocation: mpsc::Sender<News>,
}

/// What a caller of the socket can bring about as often as it likes, and the log tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Noted {
    /// It has no identity.
    Denied,
    /// Its user has too many connections.
    TooManyConnections,
    /// It sends a flood of frames.
    Flood,
    /// It could not be looked at in time.
    Late,
}

/// What was logged of which users in this second.
#[derive(Debug, Default)]
struct CallersLogged {
    second: i64,
    lines: HashSet<(Noted, u32)>,
}

impl CallersLogged {
    /// Whether this was not logged of this user in this second yet, and there is room for a line.
    fn is_first(&mut self, what: Noted, uid: u32, second: i64) -> bool {
        if self.second != second {
            self.lines.clear();
            self.second = second;
        }
        self.lines.len() < CALLER_LINES_MAX && self.lines.insert((what, uid))
    }
}

/// What may not go back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Forward {
    Bundle,
    Revocation,
}

impl Shared {
    pub(crate) fn new(
        deps: Deps,
        store: Arc<Store>,
        domain: TrustDomain,
        (view, config): (ViewHandle, &Config),
        (events, revocation): (broadcast::Sender<AgentEvent>, mpsc::Sender<News>),
    ) -> Self {
        // Before there is a bundle nobody is trusted.
        let nobody = || TrustStore::new(Trust::builder(domain.clone()).build());
        Self {
            metrics: Arc::new(Metrics::new()),
            tls_identity: IdentitySource::empty(),
            own: ArcSwapOption::empty(),
            bundle: ArcSwapOption::empty(),
            federation: ArcSwap::default(),
            crls: ArcSwap::default(),
            ca_trust: nobody(),
            local_trust: nobody(),
            desk: Desk::new(config.lookup(), view.clone()),
            limits: config.limits(),
            keep: config.keeps_workloads(),
            roots_trust: ArcSwapOption::empty(),
            seen: Mutex::default(),
            serving: AtomicUsize::new(0),
            shortest_life: AtomicU64::new(u64::MAX),
            callers_logged: Mutex::default(),
            no_descriptors: ArcSwapOption::empty(),
            has_socket: config.socket().is_some(),
            lists_left_out: ArcSwapOption::empty(),
            refused_older: [const { ArcSwapOption::const_empty() }; 2],
            deps,
            store,
            domain,
            view,
            events,
            revocation,
        }
    }

    /// Tells whoever listens; nobody listening is no fault.
    pub(crate) fn tell(&self, event: AgentEvent) {
        let _ = self.events.send(event);
    }

    /// Logs, counts and tells a problem that is tried again by itself.
    pub(crate) fn problem(&self, stage: &'static str, subject: &str, message: &str) {
        tracing::warn!(stage, subject, problem = message, "failed; what was in place stays");
        self.metrics.failure(stage);
        self.tell(AgentEvent::Problem {
            stage,
            subject: subject.to_owned(),
            message: message.to_owned(),
        });
    }

    /// The CA offers something older than what is held, which stays: told with what to do, once, and then among what is
    /// not mended.
    pub(crate) fn refuse_older(&self, what: Forward, problem: &str) {
        let (stage, subject) = match what {
            Forward::Bundle => ("trust", "CA"),
            Forward::Revocation => ("revocation", "news"),
        };
        let told = format!(
            "{problem}; what is held stays. Was the CA's data directory put back from a backup? It has to be restored: \
             mintage-ca restore"
        );
        let before = self.refused_older[what as usize].swap(Some(Arc::new(told.clone())));
        if before.is_none_or(|before| *before != told) {
            self.problem(stage, subject, &told);
        }
    }

    /// The CA offers what is as new as what is held.
    pub(crate) fn not_older(&self, what: Forward) {
        self.refused_older[what as usize].store(None);
    }

    /// What the CA offered last that was refused as older.
    pub(crate) fn refused_older(&self) -> Vec<String> {
        let refused = self.refused_older.iter().filter_map(|slot| slot.load_full());
        refused.map(|told| told.to_string()).collect()
    }

    /// Notes whether callers of the socket can be taken, which is told as it begins and as it ends.
    pub(crate) fn note_descriptors(&self, shortage: Option<String>) {
        let lasts = self.no_descriptors.load().is_some();
        if lasts == shortage.is_some() {
            return;
        }
        match &shortage {
            Some(why) => self.problem("socket", "callers", &format!("cannot accept: {why}")),
            None => tracing::info!("there are file descriptors for callers of the socket again"),
        }
        self.no_descriptors.store(shortage.map(Arc::new));
    }

    /// Why no caller of the socket can be taken now.
    pub(crate) fn no_descriptors(&self) -> Option<String> {
        self.no_descriptors.load().as_deref().cloned()
    }

    /// Notes which of the lists in force callers of the socket do not get, which is told as it changes and as it ends: to them
    /// a list that is not in an answer is no more.
    pub(crate) fn note_lists(&self) {
        if !self.has_socket {
            return;
        }
        let left_out = self.crls.load().left_out_on_socket();
        self.metrics
            .crls_left_out
            .set(i64::try_from(left_out.len()).unwrap_or(i64::MAX));
        let told = (!left_out.is_empty()).then(|| {
            let keys: Vec<String> = left_out.iter().map(ToString::to_string).collect();
            format!(
                "crl: callers of the Workload API do not get the lists of revoked certificates of the keys {}: one answer has at \
                 most {CRLS_ON_SOCKET_BYTES_MAX} bytes of lists; let them look certificates up, or read the lists from a folder \
                 with crl = true",
                keys.join(", ")
            )
        });
        let before = self.lists_left_out.swap(told.clone().map(Arc::new));
        match (told, before) {
            (Some(told), before) if before.as_deref() != Some(&told) => self.problem("limit", "socket", &told),
            (None, Some(_)) => tracing::info!("callers of the socket get every list of revoked certificates again"),
            _ => {}
        }
    }

    /// Which lists of revoked certificates callers of the socket do not get, and what they may do.
    pub(crate) fn lists_left_out(&self) -> Option<String> {
        self.lists_left_out.load().as_deref().cloned()
    }

    /// Whether a line about this may be logged: at most one a second of each user, so that a caller can neither fill the disk
    /// nor keep another's line out. Each is counted, whether it is logged or not.
    pub(crate) fn may_log(&self, what: Noted, uid: u32) -> bool {
        let mut logged = self.callers_logged.lock().unwrap_or_else(PoisonError::into_inner);
        logged.is_first(what, uid, self.wall().seconds())
    }

    /// Logs that a caller has no identity; the caller itself is told too.
    pub(crate) fn log_denied(&self, uid: u32, why: &str) {
        if self.may_log(Noted::Denied, uid) {
            tracing::info!(uid, why, "a caller has no identity");
        }
    }

    pub(crate) fn tls(&self) -> TlsSettings {
        TlsSettings::new(self.deps.provider.clone(), self.deps.clock.clone()).with_alpn([ALPN])
    }

    /// Puts the agent's own identity in force.
    pub(crate) fn install_own(&self, pair: Unverified) -> Result<(), String> {
        let own = Own::new(pair)?;
        let chain = own
            .pair
            .chain
            .iter()
            .map(|der| CertificateDer::from(der.clone()))
            .collect();
        let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(own.pair.key.to_vec()));
        self.tls_identity
            .replace(chain, key, &self.deps.provider)
            .map_err(|error| error.to_string())?;
        self.own.store(Some(Arc::new(own)));
        Ok(())
    }

    /// Puts a bundle in force for everybody: every snapshot of trust, and the keys that may sign revocations.
    pub(crate) fn install_bundle(&self, bundle: Bundle) -> Result<Arc<Bundle>, String> {
        let strict = bundle
            .strict_trust(&self.view, &self.federation.load())
            .map_err(|error| error.to_string())?;
        let catching_up = bundle
            .catching_up_trust(&self.view)
            .map_err(|error| error.to_string())?;
        let roots = bundle.roots_trust().map_err(|error| error.to_string())?;
        let bundle = Arc::new(bundle);
        self.desk.install(&bundle).map_err(|error| error.to_string())?;
        self.roots_trust.store(Some(Arc::new(roots)));
        self.ca_trust.swap(catching_up);
        self.local_trust.swap(strict);
        self.bundle.store(Some(bundle.clone()));
        // A full queue holds a bundle or news that the thread is busy with; it looks at the bundle in force for each.
        let _ = self.revocation.try_send(News::BundleChanged);
        Ok(bundle)
    }

    /// Puts the bundles of other trust domains in force, for verifiers on this node too.
    pub(crate) fn install_federation(&self, federation: Federation) -> Result<(), String> {
        if let Some(bundle) = self.bundle.load_full() {
            let strict = bundle.strict_trust(&self.view, &federation);
            self.local_trust.swap(strict.map_err(|error| error.to_string())?);
        }
        self.federation.store(Arc::new(federation));
        Ok(())
    }

    /// The queue of the revocation thread.
    pub(crate) fn revocation(&self) -> &mpsc::Sender<News> {
        &self.revocation
    }

    /// This agent's SPIFFE ID, once it joined.
    pub(crate) fn own_id(&self) -> Option<SpiffeId> {
        self.own.load().as_ref().map(|own| own.leaf.id().clone())
    }

    pub(crate) fn wall(&self) -> UnixTime {
        self.deps.wall()
    }

    pub(crate) fn events(&self) -> broadcast::Receiver<AgentEvent> {
        self.events.subscribe()
    }

    /// The shortest lifetime held or wanted; without end when there is none.
    pub(crate) fn shortest_life(&self) -> Duration {
        Duration::from_millis(self.shortest_life.load(Ordering::Relaxed))
    }

    /// Notes it for whoever waits for the CA.
    pub(crate) fn note_shortest_life(&self, life: Option<Duration>) {
        let millis = life.map_or(u64::MAX, |life| u64::try_from(life.as_millis()).unwrap_or(u64::MAX));
        self.shortest_life.store(millis, Ordering::Relaxed);
    }

    /// Brings the metrics that are read off other parts up to date.
    pub(crate) fn measure(&self) {
        let stores = [&self.ca_trust, &self.local_trust];
        self.metrics.verified(&stores, self.view.load().false_positives());
    }

    /// Counts what was told of a certificate.
    pub(crate) fn note_answer(&self, answer: &Answer) {
        self.metrics.lookup(answer.label());
        self.desk.note(answer);
    }

    pub(crate) fn serves_anything(&self) -> bool {
        self.serving.load(Ordering::Relaxed) > 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_callers_do_is_logged_once_a_second_for_each_user_and_there_is_a_limit() {
        let mut logged = CallersLogged::default();
        let mut first = |what, uid, second| logged.is_first(what, uid, second);
        assert!(first(Noted::Denied, 1, 5) && !first(Noted::Denied, 1, 5));
        assert!(first(Noted::Denied, 2, 5), "one user keeps no other's line out");
        assert!(first(Noted::Flood, 1, 5), "nor one thing another");
        assert!(first(Noted::Denied, 1, 6));
        let many = u32::try_from(CALLER_LINES_MAX).unwrap();
        let lines = (10..10 + 2 * many).filter(|uid| first(Noted::Denied, *uid, 7)).count();
        assert_eq!(lines, CALLER_LINES_MAX);
        assert!(first(Noted::Denied, 1, 8));
    }
}
