//! The verifier's side: one filter, asked without a lock, an allocation or a system call. It never loses what it strikes.

use std::{
    collections::{BTreeMap, HashSet},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use mintage_identity::{IssuerKeyId, Serial, UnixTime};
use mintage_sys::map::ReadWord;

use crate::{
    Decision, EntryKey, Exception, Freshness, FreshnessPolicy, Missing, Query, RevocationError, Rule, RuleTarget,
    Shown, Verdict, Why,
    body::Body,
    fingerprint::{fingerprint, is_native, plain},
    limits::FUTURE_SKEW,
    pulse::{Moment, Pulse},
    road::{Road, Roads},
    rules::RuleTable,
    segment::{Add, may_contain},
    shown::Struck,
    view_issuer::ViewIssuer,
    words::{BLOCK_WORDS, fetch},
};

/// Questions whose blocks are found before the first of them is looked at: as many as the processor can wait for at once.
const BATCH: usize = 16;
/// Words of filters from which they do not fit the caches near a core: a megabyte.
const LARGE_WORDS: usize = 131_072;

/// A filter at one sequence. Cloning shares all segments.
#[derive(Clone)]
pub struct View {
    epoch: u64,
    sequence: u64,
    /// Sorted by key id.
    issuers: Vec<ViewIssuer>,
    roads: Arc<Roads>,
    /// True when the filters together are larger than [`LARGE_WORDS`].
    is_large: bool,
    has_rules: bool,
    rules: Arc<RuleTable>,
    rule_list: Arc<BTreeMap<RuleTarget, Rule>>,
    exceptions: Arc<HashSet<(IssuerKeyId, Serial)>>,
    /// None while there is no filter yet.
    pulse: Pulse,
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
            roads: Arc::default(),
            is_large: false,
            has_rules: false,
            rules: Arc::default(),
            rule_list: Arc::default(),
            exceptions: Arc::default(),
            pulse: Pulse::none(),
            refuted: Arc::default(),
        }
    }

    /// Goes on with the count of the view that this one follows.
    pub(crate) fn counting_on(mut self, former: &Self) -> Self {
        self.refuted = former.refuted.clone();
        self
    }

    /// The view of a body that is at hand.
    pub(crate) fn of_body(sequence: u64, body: &Body, pulse: Pulse) -> Self {
        let mut view = Self { pulse, ..Self::none() };
        view.extend(sequence, body);
        view
    }

    /// The view of a snapshot's body, whose serials are read straight into their segments.
    pub(crate) fn of_snapshot(epoch: u64, sequence: u64, body: &[u8], pulse: Pulse) -> Result<Self, RevocationError> {
        let mut segments = Vec::new();
        let body = Body::decode_with(body, |place, run| {
            segments.push((place, ViewIssuer::read(run)?));
            Ok(())
        })?;
        // Issuers and segments are sorted there as they are here.
        let mut issuers: Vec<ViewIssuer> = body.issuers.iter().map(ViewIssuer::new).collect();
        for (place, segment) in segments {
            issuers[place.issuer].push(place.bucket, segment);
        }
        let mut view = Self {
            epoch,
            sequence,
            issuers,
            pulse,
            ..Self::none()
        };
        view.put_rules(&body.rules);
        view.put_exceptions(&body.exceptions);
        view.drop_dead();
        Ok(view)
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
            pulse,
            ..Self::none()
        };
        view.put_rules(rules);
        view.put_exceptions(exceptions);
        view.index();
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
        table.index();
    }

    fn put_exceptions(&mut self, exceptions: &[Exception]) {
        self.exceptions = Arc::new(exceptions.iter().map(|e| (e.issuer, e.serial)).collect());
    }

    /// Puts a body's content on top: what a delta does. Published clones may already strike its serials.
    pub(crate) fn extend(&mut self, sequence: u64, body: &Body) {
        self.sequence = sequence;
        // A new exception is there because of a new serial: neither is seen without the other.
        let excepted = body.exceptions.iter().map(|e| (e.issuer, e.serial)).collect();
        let how = match *self.exceptions == excepted {
            true => Add::InPlace,
            false => Add::Apart,
        };
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
                self.issuers[at].add(segment.bucket, &segment.fingerprints, how);
            }
        }
        self.put_rules(&body.rules);
        self.exceptions = Arc::new(excepted);
        self.drop_dead();
    }

    /// This view without what the horizon has passed; `None` when there is nothing such.
    pub(crate) fn without_dead(&self) -> Option<Self> {
        let horizon = self.horizon();
        let dead = |issuer: &ViewIssuer| {
            issuer.until < horizon || issuer.segments().iter().any(|(bucket, _)| bucket.is_dead(horizon))
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
        self.issuers.iter_mut().for_each(|issuer| issuer.drop_dead(horizon));
        if self.rule_list.values().any(|rule| rule.is_spent(horizon)) {
            let (table, list) = (Arc::make_mut(&mut self.rules), Arc::make_mut(&mut self.rule_list));
            list.retain(|_, rule| !rule.is_spent(horizon));
            *table = RuleTable::default();
            list.values().for_each(|rule| table.put(rule));
            table.index();
        }
        self.index();
    }

    /// The answer for one certificate at `now`. Ask for each certificate of a verified path below the root.
    #[inline(always)]
    pub fn check(&self, query: &Query<'_>, now: UnixTime) -> Verdict {
        // The pulse before the filter: who sees a heartbeat sees all that it vouches for.
        if let Some(horizon) = self.pulse.fresh_horizon(now)
            && query.not_after >= horizon
            && let Some(road) = self.roads.find(&query.issuer)
            && self.may_pass(query)
            && !road.may_list(plain(query.serial), query.not_after)
        {
            return Verdict::Good;
        }
        self.check_again(query, now)
    }

    /// [`Self::check`] for the few that are not good, or not plainly.
    #[cold]
    #[inline(never)]
    fn check_again(&self, query: &Query<'_>, now: UnixTime) -> Verdict {
        match self.pulse.at(now) {
            Some(moment) => self.check_thoroughly(query, moment),
            None => Verdict::Stale,
        }
    }

    /// [`Self::check`] for many certificates: the answer to `queries[i]` is put in `verdicts[i]`. Faster than as many single
    /// questions, most of all when the filter is larger than the processor's caches. Answers beyond the shorter slice are
    /// not given.
    pub fn check_batch(&self, queries: &[Query<'_>], now: UnixTime, verdicts: &mut [Verdict]) {
        let Some(moment) = self.pulse.at(now) else {
            let answered = queries.len().min(verdicts.len());
            return verdicts[..answered].fill(Verdict::Stale);
        };
        if self.is_large {
            return self.check_together(queries, moment, verdicts);
        }
        // Neighbours mostly have one issuer.
        let mut former = None;
        for (query, verdict) in queries.iter().zip(verdicts) {
            let road = former.filter(|road: &&Road| road.is_of(&query.issuer));
            former = road.or_else(|| self.roads.find(&query.issuer));
            *verdict = match former.is_some_and(|road| self.lets_pass(query, moment, road)) {
                true => Verdict::Good,
                false => self.check_thoroughly(query, moment),
            };
        }
    }

    /// Finds some blocks before it looks at the first of them, so that the memory brings them together.
    #[inline(never)]
    fn check_together(&self, queries: &[Query<'_>], moment: Moment, verdicts: &mut [Verdict]) {
        for (queries, verdicts) in queries.chunks(BATCH).zip(verdicts.chunks_mut(BATCH)) {
            let mut looks = [None; BATCH];
            for (look, query) in looks.iter_mut().zip(queries) {
                *look = self.look(query, moment);
            }
            for ((query, verdict), look) in queries.iter().zip(verdicts).zip(&looks) {
                *verdict = match look {
                    Some((block, fingerprint)) if !may_contain(block, *fingerprint) => Verdict::Good,
                    _ => self.check_at(query, moment),
                };
            }
        }
    }

    /// Where [`Self::lets_pass`] would look last, when it is one block and all else lets the certificate pass.
    #[inline(always)]
    fn look(&self, query: &Query<'_>, moment: Moment) -> Option<(&[ReadWord; BLOCK_WORDS], u64)> {
        let road = self.roads.find(&query.issuer)?;
        if !moment.lets_pass(query.not_after) || !self.may_pass(query) {
            return None;
        }
        let fingerprint = plain(query.serial);
        let block = road.only_block(fingerprint, query.not_after)?;
        fetch(&block[0]);
        Some((block, fingerprint))
    }

    #[inline(always)]
    fn check_at(&self, query: &Query<'_>, moment: Moment) -> Verdict {
        match self.roads.find(&query.issuer) {
            Some(road) if self.lets_pass(query, moment, road) => Verdict::Good,
            _ => self.check_thoroughly(query, moment),
        }
    }

    /// True for nearly every certificate, in few steps: it is good. False when it may not be.
    #[inline(always)]
    fn lets_pass(&self, query: &Query<'_>, moment: Moment, road: &Road) -> bool {
        moment.lets_pass(query.not_after)
            && self.may_pass(query)
            && !road.may_list(plain(query.serial), query.not_after)
    }

    /// False when a rule may strike a certificate, or its serial is not looked for as it is.
    #[inline(always)]
    fn may_pass(&self, query: &Query<'_>) -> bool {
        is_native(query.serial) && !(self.has_rules && self.rules.may_strike(query))
    }

    /// The answer about any certificate. Apart from the few steps above, so that they need no room for what it needs.
    #[cold]
    #[inline(never)]
    fn check_thoroughly(&self, query: &Query<'_>, moment: Moment) -> Verdict {
        if self.has_rules
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
        if !issuer.covered || query.not_after < moment.horizon {
            return Verdict::NotCovered;
        }
        match moment.is_fresh {
            true => Verdict::Good,
            false => Verdict::Stale,
        }
    }

    /// The answer for a certificate that is known in part; the error names what would tell. Without issuer and serial the
    /// rules alone are asked. Slower than [`Self::check`], and it may strike a serial out of another bucket, by chance of
    /// one in 2^48 for each serial held.
    ///
    /// # Errors
    /// A rule may strike the certificate, and whether it does cannot be told.
    pub fn check_shown(&self, shown: &Shown<'_>, now: UnixTime) -> Result<Verdict, Missing> {
        let Some(moment) = self.pulse.at(now) else {
            return Ok(Verdict::Stale);
        };
        let missing = match self.rules.strike_shown(shown) {
            Struck::Yes(why) => return Ok(Verdict::Revoked { why }),
            Struck::Unless(missing) => missing,
        };
        if let Some((id, serial)) = shown.name {
            let Some(issuer) = self.issuer(&id) else {
                return Ok(Verdict::NotCovered);
            };
            let listed = match shown.not_after {
                Some(not_after) => issuer.lists(serial, not_after, &self.refuted),
                None => issuer.lists_anywhere(serial, &self.refuted),
            };
            if listed && !self.exceptions.contains(&(id, *serial)) {
                return Ok(Verdict::Revoked { why: Why::Serial });
            }
            if !issuer.covered || shown.not_after.is_some_and(|end| end < moment.horizon) {
                return Ok(Verdict::NotCovered);
            }
        }
        match (missing.is_nothing(), moment.is_fresh) {
            (false, _) => Err(missing),
            (true, true) => Ok(Verdict::Good),
            (true, false) => Ok(Verdict::Stale),
        }
    }

    /// [`Self::check`] and then the policy: what a verifier does with the certificate.
    pub fn decide(&self, query: &Query<'_>, now: UnixTime, policy: FreshnessPolicy) -> Decision {
        self.judge(self.check(query, now), now, policy)
    }

    /// [`Self::check_batch`] and then the policy.
    pub fn decide_batch(
        &self,
        queries: &[Query<'_>],
        now: UnixTime,
        policy: FreshnessPolicy,
        decisions: &mut [Decision],
    ) {
        for (queries, decisions) in queries.chunks(BATCH).zip(decisions.chunks_mut(BATCH)) {
            let mut verdicts = [Verdict::Stale; BATCH];
            self.check_batch(queries, now, &mut verdicts);
            for (decision, verdict) in decisions.iter_mut().zip(verdicts).take(queries.len()) {
                *decision = self.judge(verdict, now, policy);
            }
        }
    }

    /// What a policy makes of a verdict that this view gave at `now`.
    pub fn judge(&self, verdict: Verdict, now: UnixTime, policy: FreshnessPolicy) -> Decision {
        match verdict {
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
        self.pulse.heartbeat()
    }

    /// Certificates that ended before this are not covered.
    pub fn horizon(&self) -> UnixTime {
        self.pulse.horizon().unwrap_or(UnixTime::from_millis(i64::MIN))
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
        let segments = self.issuers.iter().flat_map(ViewIssuer::segments);
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

    fn issuer(&self, id: &IssuerKeyId) -> Option<&ViewIssuer> {
        let at = self.issuers.binary_search_by(|issuer| issuer.id.cmp(id)).ok()?;
        self.issuers.get(at)
    }

    /// Brings up what is derived from the tables.
    fn index(&mut self) {
        self.roads = Arc::new(Roads::of(&self.issuers));
        let segments = self.issuers.iter().flat_map(ViewIssuer::segments);
        self.is_large = segments.map(|(_, segment)| segment.filter_words()).sum::<usize>() > LARGE_WORDS;
        self.has_rules = !self.rules.is_empty();
    }

    /// True when the filter strikes this serial, exceptions apart.
    pub(crate) fn lists(&self, issuer: &IssuerKeyId, serial: &Serial, not_after: UnixTime) -> bool {
        self.issuer(issuer)
            .is_some_and(|issuer| issuer.lists(serial, not_after, &self.refuted))
    }

    /// True when some segment of its issuer holds the key, exceptions apart. Slow: it looks at every segment.
    pub(crate) fn lists_key(&self, key: &EntryKey) -> bool {
        let segments = self.issuer(&key.issuer).into_iter().flat_map(ViewIssuer::segments);
        let mut segments = segments.map(|(_, segment)| segment);
        segments.any(|segment| segment.contains_counted(key.fingerprint, &self.refuted))
    }

    #[cold]
    fn is_exception(&self, query: &Query<'_>) -> bool {
        let excepted = !self.exceptions.is_empty() && self.exceptions.contains(&(query.issuer, *query.serial));
        if excepted {
            self.refuted.fetch_add(1, Ordering::Relaxed);
        }
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

    pub(crate) fn pulse(&self) -> &Pulse {
        &self.pulse
    }
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

#[cfg(test)]
#[path = "view_tests.rs"]
mod tests;
