//! Why and since when a rule strikes. The revoked set itself tells verifiers only that it does; this is for people and for lists
//! of revoked certificates.

use imbl::OrdMap;
use mintage_identity::{IdPrefix, RevocationReason, SpiffeId, UnixTime};
use mintage_revocation::{Query, RevokedSet, Rule, RuleTarget};

use crate::limits::MARKS_PER_RULE_MAX;

/// The record by which a rule began to strike.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RuleMark {
    /// Its ledger index.
    pub index: u64,
    /// When it was made.
    pub at: UnixTime,
    /// Its reason.
    pub reason: RevocationReason,
    /// The largest notBefore it kills; none for every one.
    cut: Option<UnixTime>,
}

impl RuleMark {
    fn kills(&self, not_before: UnixTime) -> bool {
        self.cut.is_none_or(|cut| not_before <= cut)
    }

    fn kills_all_of(&self, cut: Option<UnixTime>) -> bool {
        match (self.cut, cut) {
            (None, _) => true,
            (Some(_), None) => false,
            (Some(mine), Some(theirs)) => mine >= theirs,
        }
    }
}

/// The marks of every rule, each rule's in the order of the ledger.
#[derive(Clone, Debug, Default)]
pub(crate) struct RuleMarks(OrdMap<RuleTarget, Vec<RuleMark>>);

impl RuleMarks {
    /// Notes a rule of the record at `index`. One that kills nothing new leaves the earlier word.
    pub(crate) fn add(&mut self, index: u64, (at, reason): (UnixTime, RevocationReason), rule: &Rule) {
        let marks = self.0.entry(rule.target.clone()).or_default();
        if marks.iter().any(|mark| mark.kills_all_of(rule.cut)) {
            return;
        }
        if marks.len() >= MARKS_PER_RULE_MAX {
            marks.remove(0);
        }
        marks.push(RuleMark {
            index,
            at,
            reason,
            cut: rule.cut,
        });
    }

    /// A rule without a cut on the identity got one.
    pub(crate) fn lift(&mut self, id: &SpiffeId, cut: UnixTime) {
        if let Some(marks) = self.0.get_mut(&RuleTarget::Identity(id.clone())) {
            for mark in marks {
                mark.cut.get_or_insert(cut);
            }
        }
    }

    /// The first mark that strikes this certificate.
    pub(crate) fn first(&self, query: &Query<'_>) -> Option<RuleMark> {
        if self.0.is_empty() {
            return None;
        }
        let id = query.spiffe_id;
        let prefixes = id.into_iter().flat_map(prefixes_of).map(RuleTarget::Prefix);
        let targets = [RuleTarget::Key(query.spki_sha256), RuleTarget::Issuer(query.issuer)].into_iter();
        let targets = targets.chain(id.cloned().map(RuleTarget::Identity)).chain(prefixes);
        let marks = targets.filter_map(|target| {
            let marks = self.0.get(&target)?;
            marks.iter().find(|mark| mark.kills(query.not_before)).copied()
        });
        marks.min_by_key(|mark| mark.index)
    }

    /// The newest mark of a rule.
    pub(crate) fn newest(&self, target: &RuleTarget) -> Option<RuleMark> {
        self.0.get(target)?.last().copied()
    }

    /// Forgets rules that the set holds no longer.
    pub(crate) fn prune(&mut self, set: &RevokedSet) {
        let held: std::collections::BTreeSet<&RuleTarget> = set.rules().map(|rule| &rule.target).collect();
        let gone: Vec<RuleTarget> = self.0.keys().filter(|target| !held.contains(target)).cloned().collect();
        for target in gone {
            self.0.remove(&target);
        }
    }
}

/// Every prefix above an ID: what stands before each slash after the scheme's two.
fn prefixes_of(id: &SpiffeId) -> impl Iterator<Item = IdPrefix> + use<'_> {
    let text = id.as_str();
    let stems = text.match_indices('/').skip(2).map(|(at, _)| &text[..at]);
    stems.filter_map(|stem| IdPrefix::parse(&format!("{stem}/*")).ok())
}

#[cfg(test)]
mod tests {
    use mintage_identity::{IssuerKeyId, Serial, SpkiHash};

    use super::*;

    const KEY: SpkiHash = SpkiHash::new([3; 32]);
    const ISSUER: IssuerKeyId = IssuerKeyId::new([4; 32]);

    fn rule(target: RuleTarget, cut_s: Option<i64>) -> Rule {
        Rule {
            target,
            cut: cut_s.map(UnixTime::from_seconds),
        }
    }

    /// The record that strikes a certificate of this ID that began then.
    fn struck(marks: &RuleMarks, id: &str, not_before_s: i64) -> Option<u64> {
        let (id, serial) = (SpiffeId::parse(id).unwrap(), Serial::from_random([1; 16]));
        let begun = UnixTime::from_seconds(not_before_s);
        let query = Query {
            issuer: ISSUER,
            serial: &serial,
            not_before: begun,
            not_after: begun,
            spiffe_id: Some(&id),
            spki_sha256: KEY,
        };
        marks.first(&query).map(|mark| mark.index)
    }

    #[test]
    fn the_first_record_that_strikes_a_certificate_is_the_one_that_is_told() {
        let mut marks = RuleMarks::default();
        let why = (UnixTime::from_seconds(1), RevocationReason::Superseded);
        let web = || RuleTarget::Identity(SpiffeId::parse("spiffe://dev.test/shop/web").unwrap());
        marks.add(10, why, &rule(web(), Some(100)));
        marks.add(11, why, &rule(web(), Some(90)));
        marks.add(12, why, &rule(web(), Some(200)));
        let below = RuleTarget::Prefix(IdPrefix::parse("spiffe://dev.test/shop/*").unwrap());
        marks.add(13, why, &rule(below.clone(), Some(150)));
        let at = |seconds| struck(&marks, "spiffe://dev.test/shop/web", seconds);
        assert_eq!(
            [at(90), at(100), at(101), at(151), at(201)],
            [Some(10), Some(10), Some(12), Some(12), None]
        );
        assert_eq!(struck(&marks, "spiffe://dev.test/shop/db", 150), Some(13));
        assert_eq!(
            struck(&marks, "spiffe://dev.test/shop", 150),
            None,
            "the stem is not below itself"
        );
        assert_eq!(marks.newest(&web()).map(|mark| mark.index), Some(12));
        marks.add(14, why, &rule(RuleTarget::Key(KEY), None));
        assert_eq!(struck(&marks, "spiffe://dev.test/x", 1_000), Some(14));
    }

    #[test]
    fn a_lifted_rule_strikes_what_began_before_and_marks_are_bounded() {
        let mut marks = RuleMarks::default();
        let why = (UnixTime::from_seconds(1), RevocationReason::Unspecified);
        let id = SpiffeId::parse("spiffe://dev.test/web").unwrap();
        marks.add(5, why, &rule(RuleTarget::Identity(id.clone()), None));
        marks.lift(&id, UnixTime::from_seconds(50));
        let at = |marks: &RuleMarks, seconds| struck(marks, "spiffe://dev.test/web", seconds);
        assert_eq!((at(&marks, 50), at(&marks, 51)), (Some(5), None));
        for cut in 51..100 {
            marks.add(
                cut,
                why,
                &rule(RuleTarget::Identity(id.clone()), Some(i64::try_from(cut).unwrap())),
            );
        }
        assert_eq!(marks.0.values().map(Vec::len).sum::<usize>(), MARKS_PER_RULE_MAX);
        assert!(at(&marks, 40).is_some(), "a later record strikes it as well");
        marks.prune(&RevokedSet::new(
            &mintage_identity::TrustDomain::parse("dev.test").unwrap(),
        ));
        assert_eq!(at(&marks, 40), None);
    }
}
