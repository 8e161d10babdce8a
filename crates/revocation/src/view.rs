//! The verifier's side: one immutable filter, asked without a lock, an allocation or a system call.

use std::{
    collections::{BTreeMap, HashSet},
    sync::{
        Arc,
        atomic::{AtomicI64, AtomicU64, Ordering},
    },
    time::Duration,
};

use mintage_identity::{IssuerKeyId, Serial, UnixTime};
use mintage_sys::map::ReadMap;

use crate::{
    Decision, EntryKey, Exception, Freshness, FreshnessPolicy, Query, Rule, RuleTarget, SerialKind, Verdict, Why,
    body::{Body, BodyIssuer},
    bucket::{Bucket, Span},
    fingerprint::fingerprint,
    limits::{FRESH_FOR, FUTURE_SKEW},
    map_layout,
    rules::RuleTable,
    segment::Segment,
};

/// What heartbeats move while the filter stays: the last sign of life and the horizon.
#[derive(Clone)]
pub(crate) enum Pulse {
    /// Moved by a replica of this process.
    Own(Arc<OwnPulse>),
    /// Moved by the writer of the map.
    Mapped(Arc<ReadMap>),
}

/// A pulse of this process.
pub(crate) struct OwnPulse {
    heartbeat_ms: AtomicI64,
    horizon_ms: AtomicI64,
}

impl OwnPulse {
    pub(crate) fn new(heartbeat: UnixTime, horizon: UnixTime) -> Self {
        Self {
            heartbeat_ms: AtomicI64::new(heartbeat.millis()),
            horizon_ms: AtomicI64::new(horizon.millis()),
        }
    }
}

impl Pulse {
    /// Raises both, which never go back. A mapped pulse is not ours to move.
    pub(crate) fn raise(&self, heartbeat: UnixTime, horizon: UnixTime) {
        if let Self::Own(own) = self {
            own.heartbeat_ms.fetch_max(heartbeat.millis(), Ordering::Release);
            own.horizon_ms.fetch_max(horizon.millis(), Ordering::Release);
        }
    }

    pub(crate) fn heartbeat(&self) -> UnixTime {
        UnixTime::from_millis(match self {
            Self::Own(own) => own.heartbeat_ms.load(Ordering::Acquire),
            Self::Mapped(map) => map_layout::number(map, map_layout::HEARTBEAT) as i64,
        })
    }

    pub(crate) fn horizon(&self) -> UnixTime {
        UnixTime::from_millis(match self {
            Self::Own(own) => own.horizon_ms.load(Ordering::Acquire),
            Self::Mapped(map) => map_layout::number(map, map_layout::HORIZON) as i64,
        })
    }
}

/// A new segment has room for one in so many more, so that the first delta after a snapshot need not make it anew.
const SPARE: usize = 64;

/// One issuing key with its segments, sorted by bucket.
#[derive(Clone)]
pub(crate) struct ViewIssuer {
    pub(crate) id: IssuerKeyId,
    pub(crate) covered: bool,
    pub(crate) kind: SerialKind,
    pub(crate) until: UnixTime,
    /// [`Span::bit`] of every span that has a segment.
    spans: u8,
    /// [`Bucket::packed`] of each segment; sorted.
    buckets: Vec<u64>,
    segments: Vec<(Bucket, Arc<Segment>)>,
}

impl ViewIssuer {
    pub(crate) fn new(from: &BodyIssuer) -> Self {
        Self {
            id: from.id,
            covered: from.covered,
            kind: from.kind,
            until: from.until,
            spans: 0,
            buckets: Vec::new(),
            segments: Vec::new(),
        }
    }

    /// The issuer as the tables hold it.
    pub(crate) fn row(&self) -> BodyIssuer {
        BodyIssuer {
            id: self.id,
            covered: self.covered,
            kind: self.kind,
            until: self.until,
        }
    }

    #[inline]
    fn segment(&self, bucket: Bucket) -> Option<&Segment> {
        let at = self.buckets.binary_search(&bucket.packed()).ok()?;
        self.segments.get(at).map(|(_, segment)| &**segment)
    }

    #[inline]
    fn lists(&self, serial: &Serial, not_after: UnixTime, refuted: &AtomicU64) -> bool {
        if self.spans == 0 {
            return false;
        }
        let wanted = fingerprint(self.kind, &self.id, serial);
        let not_after = not_after.max(UnixTime::from_millis(0));
        let mut spans = Span::ALL.into_iter().filter(|span| self.spans & span.bit() != 0);
        spans.any(|span| {
            let bucket = Bucket::containing(span, not_after);
            let segment = bucket.and_then(|bucket| self.segment(bucket));
            segment.is_some_and(|segment| segment.contains_counted(wanted, refuted))
        })
    }

    pub(crate) fn segments(&self) -> &[(Bucket, Arc<Segment>)] {
        &self.segments
    }

    fn add(&mut self, bucket: Bucket, fingerprints: &[u64]) {
        match self.buckets.binary_search(&bucket.packed()) {
            Ok(at) => {
                let grown = self.segments[at].1.with(fingerprints);
                self.segments[at].1 = Arc::new(grown);
            }
            Err(at) => self.put(at, bucket, Segment::build(fingerprints, fingerprints.len() / SPARE)),
        }
    }

    fn put(&mut self, at: usize, bucket: Bucket, segment: Segment) {
        self.spans |= bucket.span().bit();
        self.buckets.insert(at, bucket.packed());
        self.segments.insert(at, (bucket, Arc::new(segment)));
    }

    /// Adds a segment that sorts after all others.
    pub(crate) fn push(&mut self, bucket: Bucket, segment: Segment) {
        self.put(self.segments.len(), bucket, segment);
    }

    fn drop_dead(&mut self, horizon: UnixTime) {
        self.segments.retain(|(bucket, _)| !bucket.is_dead(horizon));
        self.buckets = self.segments.iter().map(|(bucket, _)| bucket.packed()).collect();
        self.spans = self
            .segments
            .iter()
            .fold(0, |spans, (bucket, _)| spans | bucket.span().bit());
    }
}

/// A filter at one sequence. Cloning shares all segments.
#[derive(Clone)]
pub struct View {
    epoch: u64,
    sequence: u64,
    /// Sorted by key id.
    issuers: Vec<ViewIssuer>,
    /// First octets of each key id, in the same order: the search stays in one or two cache lines.
    prefixes: Vec<u64>,
    rules: Arc<RuleTable>,
    rule_list: Arc<BTreeMap<RuleTarget, Rule>>,
    exceptions: Arc<HashSet<(IssuerKeyId, Serial)>>,
    /// `None`: there is no filter yet.
    pulse: Option<Pulse>,
    /// Hits of the filter that were none; shared by all clones and by what follows this view.
    refuted: Arc<AtomicU64>,
}

impl View {
    /// The view of a verifier that has no filter yet: every answer is [`Verdict::Stale`].
    pub fn none() -> Self {
        Self {
            epoch: 0,
            sequence: 0,
            issuers: Vec::new(),
            prefixes: Vec::new(),
            rules: Arc::default(),
            rule_list: Arc::default(),
            exceptions: Arc::default(),
            pulse: None,
            refuted: Arc::default(),
        }
    }

    /// Goes on with the count of the view that this one follows.
    pub(crate) fn counting_on(mut self, former: &Self) -> Self {
        self.refuted = former.refuted.clone();
        self
    }

    /// The view of a snapshot's body.
    pub(crate) fn of_snapshot(epoch: u64, sequence: u64, body: &Body, pulse: Pulse) -> Self {
        let mut view = Self {
            epoch,
            pulse: Some(pulse),
            ..Self::none()
        };
        view.extend(sequence, body);
        view
    }

    /// The view of a map: segments are there already.
    pub(crate) fn of_map(
        (epoch, sequence): (u64, u64),
        issuers: Vec<ViewIssuer>,
        rules: &[Rule],
        exceptions: &[Exception],
        pulse: Pulse,
    ) -> Self {
        let mut view = Self {
            epoch,
            sequence,
            issuers,
            pulse: Some(pulse),
            ..Self::none()
        };
        view.index_issuers();
        view.put_rules(rules);
        view.put_exceptions(exceptions);
        view
    }

    fn put_rules(&mut self, rules: &[Rule]) {
        if rules.is_empty() {
            return;
        }
        let (table, list) = (Arc::make_mut(&mut self.rules), Arc::make_mut(&mut self.rule_list));
        for rule in rules {
            table.put(rule);
            list.insert(rule.target.clone(), rule.clone());
        }
    }

    fn put_exceptions(&mut self, exceptions: &[Exception]) {
        self.exceptions = Arc::new(exceptions.iter().map(|e| (e.issuer, e.serial)).collect());
    }

    /// Puts a body's content on top: what a delta does. Published clones do not change.
    pub(crate) fn extend(&mut self, sequence: u64, body: &Body) {
        self.sequence = sequence;
        for issuer in &body.issuers {
            match self.issuers.binary_search_by(|held| held.id.cmp(&issuer.id)) {
                Ok(at) => {
                    let held = &mut self.issuers[at];
                    held.covered |= issuer.covered;
                    held.until = issuer.until;
                }
                Err(at) => self.issuers.insert(at, ViewIssuer::new(issuer)),
            }
        }
        for segment in &body.segments {
            let id = body.issuers[segment.issuer].id;
            if let Ok(at) = self.issuers.binary_search_by(|held| held.id.cmp(&id)) {
                self.issuers[at].add(segment.bucket, &segment.fingerprints);
            }
        }
        self.put_rules(&body.rules);
        self.put_exceptions(&body.exceptions);
        self.drop_dead();
    }

    /// This view without what the horizon has passed; `None` when there is nothing such.
    pub(crate) fn without_dead(&self) -> Option<Self> {
        let horizon = self.horizon();
        let dead = |issuer: &ViewIssuer| {
            issuer.until < horizon || issuer.segments.iter().any(|(bucket, _)| bucket.is_dead(horizon))
        };
        let spent = self.rule_list.values().any(|rule| rule.is_spent(horizon));
        (spent || self.issuers.iter().any(dead)).then(|| {
            let mut view = self.clone();
            view.drop_dead();
            view
        })
    }

    /// Drops segments and issuers that the horizon has passed.
    fn drop_dead(&mut self) {
        let horizon = self.horizon();
        self.issuers.retain(|issuer| issuer.until >= horizon);
        self.index_issuers();
        self.issuers.iter_mut().for_each(|issuer| issuer.drop_dead(horizon));
        if self.rule_list.values().any(|rule| rule.is_spent(horizon)) {
            let (table, list) = (Arc::make_mut(&mut self.rules), Arc::make_mut(&mut self.rule_list));
            list.retain(|_, rule| !rule.is_spent(horizon));
            *table = RuleTable::default();
            list.values().for_each(|rule| table.put(rule));
        }
    }

    /// The answer for one certificate at `now`. Ask for each certificate of a verified path below the root.
    pub fn check(&self, query: &Query<'_>, now: UnixTime) -> Verdict {
        let Some(pulse) = &self.pulse else {
            return Verdict::Stale;
        };
        if !self.rules.is_empty()
            && let Some(why) = self.rules.strike(query)
        {
            return Verdict::Revoked { why };
        }
        let Some(issuer) = self.issuer(&query.issuer) else {
            return Verdict::NotCovered;
        };
        if issuer.lists(query.serial, query.not_after, &self.refuted) && !self.is_exception(query) {
            return Verdict::Revoked { why: Why::Serial };
        }
        if !issuer.covered || query.not_after < pulse.horizon() {
            return Verdict::NotCovered;
        }
        match self.age(now) {
            Some(age) if age < FRESH_FOR => Verdict::Good,
            _ => Verdict::Stale,
        }
    }

    /// [`Self::check`] and then the policy: what a verifier does with the certificate.
    pub fn decide(&self, query: &Query<'_>, now: UnixTime, policy: FreshnessPolicy) -> Decision {
        match self.check(query, now) {
            Verdict::Good => Decision::Accept { tolerated: false },
            Verdict::Stale => match policy.judge(self.age(now)) {
                Freshness::Fresh => Decision::Accept { tolerated: false },
                Freshness::Tolerated => Decision::Accept { tolerated: true },
                Freshness::Stale => Decision::Refuse(Verdict::Stale),
            },
            verdict => Decision::Refuse(verdict),
        }
    }

    /// Time since the last heartbeat; `None` when there is no filter. A clock that went back by more than the allowed
    /// skew says nothing about age: the age is then the largest, which only [`FreshnessPolicy::Open`] tolerates.
    pub fn age(&self, now: UnixTime) -> Option<Duration> {
        let heartbeat = self.last_heartbeat()?;
        if now.plus(FUTURE_SKEW) < heartbeat {
            return Some(Duration::MAX);
        }
        Some(now.since(heartbeat))
    }

    /// Time of the last heartbeat, or of the filter itself when none came since.
    pub fn last_heartbeat(&self) -> Option<UnixTime> {
        self.pulse.as_ref().map(|pulse| pulse.heartbeat())
    }

    /// Certificates that ended before this are not covered.
    pub fn horizon(&self) -> UnixTime {
        self.pulse
            .as_ref()
            .map_or(UnixTime::from_millis(i64::MIN), |pulse| pulse.horizon())
    }

    /// The epoch; 0 when there is no filter.
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// Ledger index of the last record folded in; 0 when there is none.
    pub fn sequence(&self) -> u64 {
        self.sequence
    }

    /// Number of revoked serials held.
    pub fn serial_count(&self) -> usize {
        let segments = self.issuers.iter().flat_map(|issuer| &issuer.segments);
        segments.map(|(_, segment)| segment.count()).sum()
    }

    /// How often the filter spoke of a certificate that is not revoked, since its process began to follow: hits that the
    /// exact lines refuted, and certificates that the publisher named as exceptions.
    pub fn false_positives(&self) -> u64 {
        self.refuted.load(Ordering::Relaxed)
    }

    /// Number of rules held.
    pub fn rule_count(&self) -> usize {
        self.rules.len()
    }

    /// True when the filter speaks of certificates issued by `issuer`.
    pub fn covers(&self, issuer: &IssuerKeyId) -> bool {
        self.issuer(issuer).is_some_and(|issuer| issuer.covered)
    }

    /// The issuing keys the filter speaks of.
    pub fn covered_issuers(&self) -> impl Iterator<Item = IssuerKeyId> + '_ {
        self.issuers
            .iter()
            .filter(|issuer| issuer.covered)
            .map(|issuer| issuer.id)
    }

    /// The key under which a live connection with this certificate is found when a delta names it; `None` for an
    /// issuer the filter does not know.
    pub fn entry_key(&self, issuer: &IssuerKeyId, serial: &Serial) -> Option<EntryKey> {
        let kind = self.issuer(issuer)?.kind;
        Some(EntryKey {
            issuer: *issuer,
            fingerprint: fingerprint(kind, issuer, serial),
        })
    }

    #[inline]
    fn issuer(&self, id: &IssuerKeyId) -> Option<&ViewIssuer> {
        let wanted = prefix(id);
        let first = self.prefixes.partition_point(|&held| held < wanted);
        let alike = self
            .prefixes
            .get(first..)?
            .iter()
            .take_while(|&&held| held == wanted)
            .count();
        self.issuers
            .get(first..first + alike)?
            .iter()
            .find(|issuer| issuer.id == *id)
    }

    fn index_issuers(&mut self) {
        self.prefixes = self.issuers.iter().map(|issuer| prefix(&issuer.id)).collect();
    }

    /// True when the filter strikes this serial, exceptions apart.
    pub(crate) fn lists(&self, issuer: &IssuerKeyId, serial: &Serial, not_after: UnixTime) -> bool {
        self.issuer(issuer)
            .is_some_and(|issuer| issuer.lists(serial, not_after, &self.refuted))
    }

    #[cold]
    fn is_exception(&self, query: &Query<'_>) -> bool {
        let excepted = !self.exceptions.is_empty() && self.exceptions.contains(&(query.issuer, *query.serial));
        self.refuted.fetch_add(u64::from(excepted), Ordering::Relaxed);
        excepted
    }

    pub(crate) fn issuers(&self) -> &[ViewIssuer] {
        &self.issuers
    }

    pub(crate) fn rule_list(&self) -> Vec<Rule> {
        self.rule_list.values().cloned().collect()
    }

    /// The exceptions, sorted.
    pub(crate) fn exceptions(&self) -> Vec<Exception> {
        let exceptions = self.exceptions.iter();
        let mut sorted: Vec<_> = exceptions
            .map(|&(issuer, serial)| Exception { issuer, serial })
            .collect();
        sorted.sort();
        sorted
    }

    /// True when issuers, rules and exceptions are the same: the views differ in segments at most.
    pub(crate) fn same_tables(&self, other: &Self) -> bool {
        let rows = |view: &Self| view.issuers.iter().map(ViewIssuer::row).collect::<Vec<_>>();
        self.epoch == other.epoch
            && (Arc::ptr_eq(&self.rule_list, &other.rule_list) || self.rule_list == other.rule_list)
            && (Arc::ptr_eq(&self.exceptions, &other.exceptions) || self.exceptions == other.exceptions)
            && rows(self) == rows(other)
    }

    pub(crate) fn pulse(&self) -> Option<&Pulse> {
        self.pulse.as_ref()
    }
}

/// The first eight octets; key ids are hashes, so they nearly always differ here.
#[inline]
fn prefix(id: &IssuerKeyId) -> u64 {
    let mut first = [0; 8];
    first.copy_from_slice(&id.as_bytes()[..8]);
    u64::from_be_bytes(first)
}

impl std::fmt::Debug for View {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("View")
            .field("epoch", &self.epoch)
            .field("sequence", &self.sequence)
            .field("serials", &self.serial_count())
            .field("rules", &self.rule_count())
            .field("last_heartbeat", &self.last_heartbeat())
            .finish_non_exhaustive()
    }
}
