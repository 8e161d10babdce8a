//! All that the records revoke, to be held against the snapshot with which a shard begins: once the records before it are given
//! up, what it lacks is revoked no longer.

use std::collections::BTreeMap;

use mintage_identity::{SpiffeId, UnixTime};
use mintage_revocation::{Revocation, RevokedSet, Rule, RuleTarget, limits::DROP_GRACE};
use mintage_state::{View, limits::CUT_BEFORE_NOW};

/// The times by which it is told what a snapshot may lack.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Clock {
    /// That of the last record: a snapshot leaves out what was dead then.
    last: UnixTime,
    /// The latest of all records, where the clock of the CA went back.
    latest: UnixTime,
}

impl Clock {
    pub(super) fn pass(&mut self, time: UnixTime) {
        self.last = time;
        self.latest = self.latest.max(time);
    }

    pub(super) fn last(self) -> UnixTime {
        self.last
    }
}

/// What was revoked, by record and by rule.
#[derive(Debug, Default)]
pub(super) struct Revoked {
    records: BTreeMap<u64, Revocation>,
    /// The cut of each rule as it stands; none kills everything.
    rules: BTreeMap<RuleTarget, Option<UnixTime>>,
    /// The first record that is here.
    first: u64,
}

/// True when a cut kills all that the other kills.
fn covers(cut: Option<UnixTime>, other: Option<UnixTime>) -> bool {
    match (cut, other) {
        (None, _) => true,
        (Some(_), None) => false,
        (Some(mine), Some(theirs)) => mine >= theirs,
    }
}

/// True when all that a record revokes has ended, and a grace period after it.
fn is_dead(revocation: &Revocation, at: UnixTime) -> bool {
    let horizon = at.minus(DROP_GRACE);
    let ended = revocation.serials.iter().all(|serial| serial.not_after < horizon);
    ended && revocation.rules.iter().all(|rule| rule.is_spent(horizon))
}

impl Revoked {
    /// Takes in what a record revokes.
    pub(super) fn add(&mut self, index: u64, revocation: Revocation) {
        for rule in &revocation.rules {
            let standing = self.rules.entry(rule.target.clone()).or_insert(rule.cut);
            if !covers(*standing, rule.cut) {
                *standing = rule.cut;
            }
        }
        self.records.insert(index, revocation);
    }

    /// An entry of this identity was enabled by a record of this time: what is issued from then on is good again.
    pub(super) fn lift(&mut self, id: SpiffeId, time: UnixTime) {
        if let Some(cut) = self.rules.get_mut(&RuleTarget::Identity(id)) {
            cut.get_or_insert(time.minus(CUT_BEFORE_NOW));
        }
    }

    /// Takes up what a snapshot holds.
    pub(super) fn take_up(&mut self, view: &View, records: BTreeMap<u64, Revocation>) {
        let rules = view.revoked().rules();
        self.rules = rules.map(|rule| (rule.target.clone(), rule.cut)).collect();
        self.records = records;
        self.first = view.applied();
    }

    /// That a snapshot holds what the records revoke, and nothing else. What was dead at its end it may lack.
    ///
    /// # Errors
    /// The first that differs.
    pub(super) fn agrees(&self, view: &View, held: &BTreeMap<u64, Revocation>, clock: Clock) -> Result<(), String> {
        self.records_agree(held, clock)?;
        self.rules_agree(view.revoked(), clock)
    }

    fn records_agree(&self, held: &BTreeMap<u64, Revocation>, clock: Clock) -> Result<(), String> {
        for (index, revocation) in held {
            // One that an earlier snapshot left out comes back where the clock went back between them.
            let of_before = || *index < self.first && is_dead(revocation, clock.latest);
            match self.records.get(index) {
                Some(made) if made == revocation => {}
                None if of_before() => {}
                _ => {
                    return Err(format!(
                        "the snapshot has another revocation by record {index} than the record"
                    ));
                }
            }
        }
        let mut made = self.records.iter();
        match made.find(|(index, made)| !held.contains_key(index) && !is_dead(made, clock.last)) {
            Some((index, _)) => Err(format!("the snapshot lacks what record {index} revokes")),
            None => Ok(()),
        }
    }

    /// The rules as they stand, after what lifts them.
    fn rules_agree(&self, set: &RevokedSet, clock: Clock) -> Result<(), String> {
        for rule in set.rules() {
            let is_made = self.rules.get(&rule.target) == Some(&rule.cut);
            if !is_made && !rule.is_spent(clock.latest.minus(DROP_GRACE)) {
                return Err(format!("the snapshot has another rule than the records: {rule}"));
            }
        }
        for (target, cut) in &self.rules {
            let rule = Rule {
                target: target.clone(),
                cut: *cut,
            };
            // A full set has forgotten rules on keys; what blocks the keys are the records.
            let may_lack = matches!(target, RuleTarget::Key(_)) || rule.is_spent(clock.last.minus(DROP_GRACE));
            if !may_lack && set.rule(target).is_none() {
                return Err(format!("the snapshot lacks the rule on {rule}"));
            }
        }
        Ok(())
    }
}
