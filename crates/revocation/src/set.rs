//! The CA's side: the canonical set, folded from the ledger's records and from nothing else.
//!
//! Any replica that folds the same records gets the same set, the same hash at every sequence, and so the same deltas:
//! a follower may go from one publisher to another in mid-chain. Cloning is cheap; clones share what did not change.

use std::collections::{BTreeSet, HashSet};

use imbl::OrdMap;
use mintage_identity::{
    IdPrefix, IssuerKeyId, Serial, SpiffeId, SpkiHash, TrustDomain, UnixTime, limits::SERIAL_OCTETS_MAX,
};

use crate::{
    Exception, IssuerCoverage, LiveSerial, Query, Revocation, RevocationError, RevokedEntry, RevokedSerial, Rule,
    RuleTarget, SerialKind, SetHash, TrustDomainHash, Verdict, View, Why,
    body::{Body, BodyIssuer, subject_of},
    bucket::{Bucket, horizon_at},
    fingerprint::fingerprint,
    header::sha256,
    limits::{
        EXCEPTIONS_MAX, ISSUERS_MAX, RULES_MAX, RULES_PER_REVOCATION_MAX, SERIALS_MAX, SERIALS_PER_REVOCATION_MAX,
    },
    pulse::Pulse,
    rules::{IDENTITY_RULE_LIFE, RuleTable},
    set_log::{IssuerChange, SetLog, Step},
};

/// Revoked serials of one issuer and bucket, by fingerprint and padded serial.
pub(crate) type SegmentMap = OrdMap<(u64, [u8; SERIAL_OCTETS_MAX]), RevokedEntry>;

/// Before every horizon.
const ALWAYS: UnixTime = UnixTime::from_millis(i64::MIN);
const CHAIN_LABEL: &[u8] = b"mintage-revoked-set-v1\0";

/// The revoked set of one trust domain at one sequence.
#[derive(Clone)]
pub struct RevokedSet {
    trust_domain: TrustDomainHash,
    sequence: u64,
    hash: SetHash,
    pub(crate) issuers: OrdMap<IssuerKeyId, BodyIssuer>,
    pub(crate) segments: OrdMap<(IssuerKeyId, Bucket), SegmentMap>,
    pub(crate) rules: OrdMap<RuleTarget, Rule>,
    /// When a record last named each key that a rule is on.
    keys_named: OrdMap<SpkiHash, UnixTime>,
    serials: usize,
    pub(crate) log: SetLog,
}

impl RevokedSet {
    /// The empty set of `domain`, at sequence 0.
    pub fn new(domain: &TrustDomain) -> Self {
        let trust_domain = TrustDomainHash::of(domain);
        let hash = SetHash(sha256(&[CHAIN_LABEL, &trust_domain.0]));
        Self {
            trust_domain,
            sequence: 0,
            hash,
            issuers: OrdMap::new(),
            segments: OrdMap::new(),
            rules: OrdMap::new(),
            keys_named: OrdMap::new(),
            serials: 0,
            log: SetLog::starting_at(0, hash),
        }
    }

    /// Folds in the record at ledger index `sequence`. A serial that is revoked already keeps its first reason; a rule
    /// kills at least what it killed before. Serials of an issuer that is not covered are held and struck all the same.
    ///
    /// # Errors
    /// Refuses an index that does not come after the last, and what goes past a limit; the set is unchanged then.
    pub fn apply_revocation(&mut self, sequence: u64, revocation: &Revocation) -> Result<(), RevocationError> {
        self.check_order(sequence)?;
        limit(
            "serials in one revocation",
            revocation.serials.len(),
            SERIALS_PER_REVOCATION_MAX,
        )?;
        limit(
            "rules in one revocation",
            revocation.rules.len(),
            RULES_PER_REVOCATION_MAX,
        )?;
        let serials: BTreeSet<&RevokedSerial> = revocation.serials.iter().collect();
        let rules: BTreeSet<&Rule> = revocation.rules.iter().collect();
        self.check_room(&serials, &rules)?;
        let issuers: BTreeSet<IssuerKeyId> = serials.iter().map(|serial| serial.issuer).collect();
        let unknown: Vec<_> = issuers
            .iter()
            .filter(|id| !self.issuers.contains_key(*id))
            .copied()
            .collect();
        limit("issuers", self.issuers.len() + unknown.len(), ISSUERS_MAX)?;

        let mut step = self.step(sequence, b'r', &canonical(revocation, &serials, &rules));
        for id in unknown {
            let kind = SerialKind::Native;
            let until = UnixTime::from_millis(i64::MAX);
            step.issuers.push(self.set_issuer(BodyIssuer {
                id,
                covered: false,
                kind,
                until,
            }));
        }
        let entry = RevokedEntry {
            sequence,
            at: revocation.at,
            reason: revocation.reason,
        };
        for serial in serials {
            step.serials.extend(self.insert(serial, entry));
        }
        for rule in rules {
            step.rules.extend(self.strengthen(rule));
            if let RuleTarget::Key(key) = rule.target {
                let before = self.keys_named.get(&key).copied();
                self.keys_named
                    .insert(key, before.unwrap_or(revocation.at).max(revocation.at));
            }
        }
        self.commit(sequence, step);
        Ok(())
    }

    /// What is held already takes no room again; it is looked up only where it matters.
    fn check_room(&self, serials: &BTreeSet<&RevokedSerial>, rules: &BTreeSet<&Rule>) -> Result<(), RevocationError> {
        if self.serials + serials.len() > SERIALS_MAX {
            let new = serials.iter().filter(|s| self.revoked(&s.issuer, &s.serial).is_none());
            limit("serials", self.serials + new.count(), SERIALS_MAX)?;
        }
        if self.rules.len() + rules.len() > RULES_MAX {
            let targets: BTreeSet<&RuleTarget> = rules.iter().map(|rule| &rule.target).collect();
            let new = targets.iter().filter(|target| !self.rules.contains_key(**target));
            limit("rules", self.rules.len() + new.count(), RULES_MAX)?;
        }
        Ok(())
    }

    /// Folds in that `issuer` is covered from the record at `sequence` on. Its kind of serials is fixed when first seen.
    ///
    /// # Errors
    /// As [`Self::apply_revocation`].
    pub fn cover_issuer(&mut self, sequence: u64, issuer: &IssuerCoverage) -> Result<(), RevocationError> {
        self.check_order(sequence)?;
        let held = self.issuers.get(&issuer.id);
        limit("issuers", self.issuers.len() + usize::from(held.is_none()), ISSUERS_MAX)?;
        let after = BodyIssuer {
            id: issuer.id,
            covered: true,
            kind: held.map_or(issuer.serials, |held| held.kind),
            until: issuer.until.unwrap_or(UnixTime::from_millis(i64::MAX)),
        };
        let kind = [after.kind as u8];
        let until = after.until.millis().to_le_bytes();
        let mut step = self.step(sequence, b'i', &[&issuer.id.as_bytes()[..], &kind, &until].concat());
        step.issuers.push(self.set_issuer(after));
        self.commit(sequence, step);
        Ok(())
    }

    /// Folds in that rules without a cut on `targets` get the cut `cut`: what they killed up to it stays dead, what is
    /// issued above it lives. For an entry that is enabled again. Rules that have a cut already stay as they are.
    ///
    /// # Errors
    /// As [`Self::apply_revocation`].
    pub fn lift(&mut self, sequence: u64, targets: &[RuleTarget], cut: UnixTime) -> Result<(), RevocationError> {
        self.check_order(sequence)?;
        limit("rules in one revocation", targets.len(), RULES_PER_REVOCATION_MAX)?;
        let targets: BTreeSet<&RuleTarget> = targets.iter().collect();
        let rules: Vec<Rule> = targets
            .into_iter()
            .map(|target| Rule {
                target: target.clone(),
                cut: Some(cut),
            })
            .collect();
        let mut octets = Vec::new();
        rules.iter().for_each(|rule| canonical_rule(rule, &mut octets));
        let mut step = self.step(sequence, b'l', &octets);
        for rule in rules {
            if self.rules.get(&rule.target).is_some_and(|held| held.cut.is_none()) {
                self.rules.insert(rule.target.clone(), rule.clone());
                step.rules.push(rule);
            }
        }
        self.commit(sequence, step);
        Ok(())
    }

    /// Drops what is dead at `now`: buckets past their end and grace, issuers and rules that can matter no more. The
    /// sequence, the hash and every answer about living certificates stay as they are: for a public key, as long as none is
    /// issued on it after a record has named it, which is the issuer's to see to.
    pub fn prune(&mut self, now: UnixTime) {
        let horizon = horizon_at(now);
        let gone: Vec<_> = self
            .issuers
            .values()
            .filter(|i| i.until < horizon)
            .map(|i| i.id)
            .collect();
        gone.iter().for_each(|id| _ = self.issuers.remove(id));
        let dead = |key: &&(IssuerKeyId, Bucket)| key.1.is_dead(horizon) || !self.issuers.contains_key(&key.0);
        let dead: Vec<_> = self.segments.keys().filter(dead).copied().collect();
        for key in dead {
            self.serials -= self.segments.remove(&key).map_or(0, |segment| segment.len());
        }
        let over = |rule: &&Rule| self.is_over(rule, horizon);
        let over: Vec<_> = self
            .rules
            .values()
            .filter(over)
            .map(|rule| rule.target.clone())
            .collect();
        for target in over {
            self.rules.remove(&target);
            if let RuleTarget::Key(key) = target {
                self.keys_named.remove(&key);
            }
        }
    }

    /// True when no certificate that the rule strikes is covered at `horizon`. Of a key that a record has named nothing is
    /// issued any more, so what lived then has ended a leaf's life later; a key that signs certificates may be certified for
    /// longer.
    pub(crate) fn is_over(&self, rule: &Rule, horizon: UnixTime) -> bool {
        let RuleTarget::Key(key) = &rule.target else {
            return rule.is_spent(horizon);
        };
        let named = self.keys_named.get(key);
        let has_ended = named.is_some_and(|named| named.plus(IDENTITY_RULE_LIFE) < horizon);
        has_ended && !self.issuers.contains_key(&IssuerKeyId::new(*key.as_bytes()))
    }

    /// Goes on where a longer row of records led, of which what was folded in so far is all that still matters: `hash` is the
    /// set's at `sequence`. Deltas reach back to there and no further.
    ///
    /// # Errors
    /// Refuses a sequence before the last that was folded in.
    pub fn resume_at(&mut self, sequence: u64, hash: SetHash) -> Result<(), RevocationError> {
        let last = self.sequence;
        if sequence < last {
            return Err(RevocationError::OutOfOrder { sequence, last });
        }
        (self.sequence, self.hash) = (sequence, hash);
        self.log = SetLog::starting_at(sequence, hash);
        Ok(())
    }

    /// Ledger index of the last record folded in; 0 for none.
    pub fn sequence(&self) -> u64 {
        self.sequence
    }

    /// Hash of the set at [`Self::sequence`].
    pub fn hash(&self) -> SetHash {
        self.hash
    }

    /// Hash of the set at an earlier sequence, while deltas from there can be made.
    pub fn hash_at(&self, sequence: u64) -> Option<SetHash> {
        self.log.hash_at(sequence)
    }

    /// Number of revoked serials held.
    pub fn serial_count(&self) -> usize {
        self.serials
    }

    /// Number of rules held.
    pub fn rule_count(&self) -> usize {
        self.rules.len()
    }

    /// The rule held on this target.
    pub fn rule(&self, target: &RuleTarget) -> Option<&Rule> {
        self.rules.get(target)
    }

    /// The rules held, by target.
    pub fn rules(&self) -> impl Iterator<Item = &Rule> {
        self.rules.values()
    }

    /// The issuing keys that are covered.
    pub fn covered_issuers(&self) -> impl Iterator<Item = IssuerKeyId> + '_ {
        self.issuers
            .values()
            .filter(|issuer| issuer.covered)
            .map(|issuer| issuer.id)
    }

    /// When the last certificate of an issuing key has ended, by what was said when it was covered; the end of time when nothing
    /// was, and none when it is not covered.
    pub fn covered_until(&self, issuer: &IssuerKeyId) -> Option<UnixTime> {
        let held = self.issuers.get(issuer).filter(|issuer| issuer.covered);
        held.map(|issuer| issuer.until)
    }

    /// The issuing keys of which anything is held: also those that are not covered, but have revoked serials.
    pub fn known_issuers(&self) -> impl Iterator<Item = IssuerKeyId> + '_ {
        self.issuers.keys().copied()
    }

    /// The revoked serials of `issuer`, for its CRL.
    pub fn serials_of(&self, issuer: IssuerKeyId) -> impl Iterator<Item = (Serial, &RevokedEntry)> {
        let segments = self.segments_of(issuer);
        let entries = segments.flat_map(|(_, segment)| segment);
        // A padded serial is one: it was made from a `Serial`.
        entries.filter_map(|((_, padded), entry)| Some((Serial::from_be_octets(padded).ok()?, entry)))
    }

    /// How exactly this serial was revoked, rules apart.
    pub fn revoked(&self, issuer: &IssuerKeyId, serial: &Serial) -> Option<RevokedEntry> {
        let key = (
            fingerprint(self.issuers.get(issuer)?.kind, issuer, serial),
            *serial.padded(),
        );
        self.segments_of(*issuer)
            .find_map(|(_, segment)| segment.get(&key))
            .copied()
    }

    /// What a verifier without exceptions would say of a certificate once this set is published. A serial for which
    /// this is not `Good` is not issued: so later serials never collide.
    pub fn check(&self, query: &Query<'_>) -> Verdict {
        let mut table = RuleTable::default();
        if !self.rules.is_empty() {
            self.rules_that_may_strike(query).for_each(|rule| table.put(rule));
        }
        if let Some(why) = table.strike(query) {
            return Verdict::Revoked { why };
        }
        let Some(issuer) = self.issuers.get(&query.issuer) else {
            return Verdict::NotCovered;
        };
        let wanted = fingerprint(issuer.kind, &query.issuer, query.serial);
        let struck = Bucket::all_for(query.not_after).any(|bucket| {
            let segment = self.segments.get(&(query.issuer, bucket));
            segment.is_some_and(|segment| holds(segment, wanted))
        });
        match struck {
            true => Verdict::Revoked { why: Why::Serial },
            false if issuer.covered => Verdict::Good,
            false => Verdict::NotCovered,
        }
    }

    /// Runs the live serials through the filter that will be published, and lists those it would wrongly strike.
    ///
    /// # Errors
    /// Fails past [`EXCEPTIONS_MAX`]: then serials are not random, and nothing must be published.
    pub fn exceptions_for(&self, live: impl Iterator<Item = LiveSerial>) -> Result<Vec<Exception>, RevocationError> {
        self.struck_wrongly(&self.snapshot_body(&[], ALWAYS), &HashSet::new(), live)
    }

    /// As [`Self::exceptions_for`], when `prior` are those at the earlier sequence `from`, and every serial issued since was
    /// good under the set of its time ([`Self::check`]): then only what was revoked since can strike anybody wrongly, and
    /// the cost is that of the live serials and not of all that is revoked.
    ///
    /// # Errors
    /// As [`Self::exceptions_for`].
    pub fn exceptions_since(
        &self,
        from: u64,
        prior: &[Exception],
        live: impl Iterator<Item = LiveSerial>,
    ) -> Result<Vec<Exception>, RevocationError> {
        let Ok(new) = self.delta_body(from, self.sequence, &[], ALWAYS) else {
            return self.exceptions_for(live);
        };
        self.struck_wrongly(&new, &prior.iter().cloned().collect(), live)
    }

    /// The live serials that are exceptions already, or that a filter of `body` strikes, and that are not revoked.
    fn struck_wrongly(
        &self,
        body: &Body,
        prior: &HashSet<Exception>,
        live: impl Iterator<Item = LiveSerial>,
    ) -> Result<Vec<Exception>, RevocationError> {
        let pulse = Pulse::new(ALWAYS, ALWAYS);
        let filter = View::of_body(self.sequence, body, pulse);
        let mut exceptions = BTreeSet::new();
        for live in live {
            let (issuer, serial) = (live.issuer, live.serial);
            let exception = Exception { issuer, serial };
            let is_struck = filter.lists(&issuer, &serial, live.not_after);
            if (is_struck || prior.contains(&exception)) && self.revoked(&issuer, &serial).is_none() {
                exceptions.insert(exception);
                limit("exceptions", exceptions.len(), EXCEPTIONS_MAX)?;
            }
        }
        Ok(exceptions.into_iter().collect())
    }

    pub(crate) fn trust_domain_hash(&self) -> TrustDomainHash {
        self.trust_domain
    }

    fn check_order(&self, sequence: u64) -> Result<(), RevocationError> {
        let last = self.sequence;
        (sequence > last)
            .then_some(())
            .ok_or(RevocationError::OutOfOrder { sequence, last })
    }

    /// A step without changes, whose hash chains `octets` to the set's.
    fn step(&self, sequence: u64, kind: u8, octets: &[u8]) -> Step {
        let hash = SetHash(sha256(&[
            CHAIN_LABEL,
            &self.hash.0,
            &sequence.to_le_bytes(),
            &[kind],
            octets,
        ]));
        Step {
            hash,
            serials: Vec::new(),
            rules: Vec::new(),
            issuers: Vec::new(),
        }
    }

    fn commit(&mut self, sequence: u64, step: Step) {
        self.sequence = sequence;
        self.hash = step.hash;
        self.log.push(sequence, step);
    }

    fn set_issuer(&mut self, after: BodyIssuer) -> IssuerChange {
        let before = self.issuers.insert(after.id, after.clone());
        IssuerChange { before, after }
    }

    /// Adds a serial; what a delta must carry for it, unless it was there.
    fn insert(&mut self, serial: &RevokedSerial, entry: RevokedEntry) -> Option<(IssuerKeyId, Bucket, u64)> {
        let kind = self
            .issuers
            .get(&serial.issuer)
            .map_or(SerialKind::Native, |issuer| issuer.kind);
        let fingerprint = fingerprint(kind, &serial.issuer, &serial.serial);
        let key = (fingerprint, *serial.serial.padded());
        let held = |bucket| {
            self.segments
                .get(&(serial.issuer, bucket))
                .is_some_and(|held| held.contains_key(&key))
        };
        if Bucket::all_for(serial.not_after).any(held) {
            return None;
        }
        let bucket = Bucket::place(serial.not_after, entry.at);
        self.segments
            .entry((serial.issuer, bucket))
            .or_default()
            .insert(key, entry);
        self.serials += 1;
        Some((serial.issuer, bucket, fingerprint))
    }

    /// Puts `rule`, unless the one held kills as much.
    fn strengthen(&mut self, rule: &Rule) -> Option<Rule> {
        if self.rules.get(&rule.target).is_some_and(|held| held.covers(rule)) {
            return None;
        }
        self.rules.insert(rule.target.clone(), rule.clone());
        Some(rule.clone())
    }

    fn segments_of(&self, issuer: IssuerKeyId) -> impl Iterator<Item = (&(IssuerKeyId, Bucket), &SegmentMap)> {
        self.segments.range((issuer, Bucket::FIRST)..=(issuer, Bucket::FOREVER))
    }

    fn rules_that_may_strike(&self, query: &Query<'_>) -> impl Iterator<Item = &Rule> {
        let id = query.spiffe_id;
        let exact = [RuleTarget::Key(query.spki_sha256), RuleTarget::Issuer(query.issuer)];
        let exact = exact.into_iter().chain(id.map(|id| RuleTarget::Identity(id.clone())));
        let prefixes = id.into_iter().flat_map(prefixes_of).map(RuleTarget::Prefix);
        exact.chain(prefixes).filter_map(|target| self.rules.get(&target))
    }
}

impl std::fmt::Debug for RevokedSet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RevokedSet")
            .field("sequence", &self.sequence)
            .field("hash", &self.hash)
            .field("serials", &self.serials)
            .field("rules", &self.rules.len())
            .finish_non_exhaustive()
    }
}

/// Every prefix that matches `id`.
fn prefixes_of(id: &SpiffeId) -> impl Iterator<Item = IdPrefix> {
    let slashes = id.as_str().match_indices('/').skip(2);
    slashes.filter_map(|(at, _)| format!("{}/*", &id.as_str()[..at]).parse().ok())
}

fn holds(segment: &SegmentMap, fingerprint: u64) -> bool {
    let lowest = (fingerprint, [0; SERIAL_OCTETS_MAX]);
    segment
        .get_next(&lowest)
        .is_some_and(|((found, _), _)| *found == fingerprint)
}

fn limit(what: &'static str, found: usize, limit: usize) -> Result<(), RevocationError> {
    (found <= limit)
        .then_some(())
        .ok_or(RevocationError::TooMany { what, limit, found })
}

/// The octets by which a revocation enters the chain of hashes; the order inside the record does not matter.
fn canonical(revocation: &Revocation, serials: &BTreeSet<&RevokedSerial>, rules: &BTreeSet<&Rule>) -> Vec<u8> {
    let mut out = Vec::new();
    out.extend_from_slice(&revocation.at.millis().to_le_bytes());
    out.push(revocation.reason.code());
    out.extend_from_slice(&(serials.len() as u64).to_le_bytes());
    for serial in serials {
        out.extend_from_slice(serial.issuer.as_bytes());
        out.extend_from_slice(serial.serial.padded());
        out.extend_from_slice(&serial.not_after.millis().to_le_bytes());
    }
    rules.iter().for_each(|rule| canonical_rule(rule, &mut out));
    out
}

fn canonical_rule(rule: &Rule, out: &mut Vec<u8>) {
    let (kind, subject) = subject_of(&rule.target);
    out.extend_from_slice(&[kind, u8::from(rule.cut.is_some())]);
    out.extend_from_slice(&rule.cut.unwrap_or_default().millis().to_le_bytes());
    out.extend_from_slice(&(subject.len() as u64).to_le_bytes());
    out.extend_from_slice(&subject);
}
