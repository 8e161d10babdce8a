//! Rules: one statement that strikes every certificate showing an identity, a prefix, a public key or an issuer.

use std::{collections::HashMap, fmt, time::Duration};

use mintage_identity::{
    IdPrefix, IssuerKeyId, SpiffeId, SpkiHash, UnixTime,
    limits::{SPIFFE_ID_BYTES_MAX, TTL_SECONDS_MAX},
};

use crate::{
    Missing, Query, Shown, Why,
    rule_marks::{Marks, Subject},
    shown::Struck,
};

/// A rule on an identity is dead this long after its cut: no leaf lives longer, and an hour covers back-dating and skew.
pub(crate) const IDENTITY_RULE_LIFE: Duration = Duration::from_secs(TTL_SECONDS_MAX as u64 + 3_600);

/// What a rule looks at: only what a certificate shows.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RuleTarget {
    /// Every certificate of this SPIFFE ID.
    Identity(SpiffeId),
    /// Every certificate whose SPIFFE ID lies below this prefix.
    Prefix(IdPrefix),
    /// Every certificate of this public key.
    Key(SpkiHash),
    /// Every certificate signed by this key.
    Issuer(IssuerKeyId),
}

/// One rule. A later rule on the same target takes the earlier one's place; its cut never goes back.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Rule {
    /// What it looks at.
    pub target: RuleTarget,
    /// The largest `notBefore` it kills, so that a replacement issued above it lives. `None` kills every certificate
    /// that matches, whenever it was issued: for disabled entries, bans and blocked keys.
    pub cut: Option<UnixTime>,
}

impl Rule {
    /// When the rule can strike nothing that is still alive; `None` when that is not known.
    fn until(&self) -> Option<UnixTime> {
        match self.target {
            RuleTarget::Identity(_) | RuleTarget::Prefix(_) => Some(self.cut?.plus(IDENTITY_RULE_LIFE)),
            RuleTarget::Key(_) | RuleTarget::Issuer(_) => None,
        }
    }

    /// True when at `horizon` the rule can strike nothing that is still covered.
    pub fn is_spent(&self, horizon: UnixTime) -> bool {
        self.until().is_some_and(|until| until < horizon)
    }

    /// True when `self` kills all that `other`, a rule on the same target, kills.
    pub(crate) fn covers(&self, other: &Self) -> bool {
        match (self.cut, other.cut) {
            (None, _) => true,
            (Some(_), None) => false,
            (Some(mine), Some(theirs)) => mine >= theirs,
        }
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.target {
            RuleTarget::Identity(id) => write!(f, "identity {id}")?,
            RuleTarget::Prefix(prefix) => write!(f, "prefix {prefix}")?,
            RuleTarget::Key(key) => write!(f, "key {key}")?,
            RuleTarget::Issuer(issuer) => write!(f, "issuer {issuer}")?,
        }
        match self.cut {
            Some(cut) => write!(f, " up to notBefore {}", cut.seconds()),
            None => Ok(()),
        }
    }
}

/// The cut of a rule, in one word: [`ALL`] for "kills everything".
type Cut = i64;
const ALL: Cut = i64::MAX;

/// Rules in the form in which they are asked: one hash look-up for each kind in use.
#[derive(Clone, Default)]
pub(crate) struct RuleTable {
    identities: HashMap<Box<str>, Cut>,
    /// Keyed by the stem: what stands before `/*`.
    prefixes: HashMap<Box<str>, Cut>,
    keys: HashMap<SpkiHash, Cut>,
    issuers: HashMap<IssuerKeyId, Cut>,
    /// What [`Self::may_strike`] goes by.
    marks: Marks,
    /// The lengths of stems, each once, sorted.
    stem_lengths: Vec<usize>,
    /// The latest cuts of rules on names and on keys; `None` where there are none.
    latest_cuts: (Option<Cut>, Option<Cut>),
}

impl RuleTable {
    /// Puts `rule` in the place of an earlier one on its target.
    pub(crate) fn put(&mut self, rule: &Rule) {
        let cut = rule.cut.map_or(ALL, |cut| cut.millis().min(ALL - 1));
        match &rule.target {
            RuleTarget::Identity(id) => _ = self.identities.insert(id.as_str().into(), cut),
            RuleTarget::Prefix(prefix) => _ = self.prefixes.insert(prefix.stem().as_str().into(), cut),
            RuleTarget::Key(key) => _ = self.keys.insert(*key, cut),
            RuleTarget::Issuer(issuer) => _ = self.issuers.insert(*issuer, cut),
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub(crate) fn len(&self) -> usize {
        self.identities.len() + self.prefixes.len() + self.keys.len() + self.issuers.len()
    }

    /// Brings up what [`Self::may_strike`] goes by. Whoever puts rules calls it once, afterwards.
    pub(crate) fn index(&mut self) {
        let mut marks = Marks::for_count(self.len());
        self.identities
            .keys()
            .for_each(|id| marks.set(Subject::Identity, id.as_bytes()));
        self.prefixes
            .keys()
            .for_each(|stem| marks.set(Subject::Stem, stem.as_bytes()));
        self.keys.keys().for_each(|key| marks.set(Subject::Key, key.as_bytes()));
        self.issuers
            .keys()
            .for_each(|id| marks.set(Subject::Issuer, id.as_bytes()));
        self.marks = marks;
        self.stem_lengths = self.prefixes.keys().map(|stem| stem.len()).collect();
        self.stem_lengths.sort_unstable();
        self.stem_lengths.dedup();
        let names = self.identities.values().chain(self.prefixes.values());
        self.latest_cuts = (names.copied().max(), self.keys.values().copied().max());
    }

    /// False when no rule strikes the certificate; true when [`Self::strike`] must tell.
    #[inline(never)]
    pub(crate) fn may_strike(&self, query: &Query<'_>) -> bool {
        let marked = |subject, octets| self.marks.may_have(subject, octets);
        let by_issuer = !self.issuers.is_empty() && marked(Subject::Issuer, query.issuer.as_bytes());
        let by_key = !self.keys.is_empty() && marked(Subject::Key, query.spki_sha256.as_bytes());
        let Some(id) = query.spiffe_id.map(|id| id.as_str().as_bytes()) else {
            return by_issuer | by_key;
        };
        let by_id = !self.identities.is_empty() && marked(Subject::Identity, id);
        // A stem ends before a slash of the ID.
        let stems = self.stem_lengths.iter().take_while(|&&len| len < id.len());
        let mut stems = stems.filter_map(|&len| id.split_at_checked(len));
        let by_stem = stems.any(|(stem, rest)| rest.first() == Some(&b'/') && marked(Subject::Stem, stem));
        by_issuer | by_key | by_id | by_stem
    }

    /// The rule that strikes the certificate, if any.
    #[inline(never)]
    pub(crate) fn strike(&self, query: &Query<'_>) -> Option<Why> {
        let kills = |cut: Option<&Cut>| cut.is_some_and(|&cut| query.not_before.millis() <= cut);
        if !self.issuers.is_empty() && kills(self.issuers.get(&query.issuer)) {
            return Some(Why::Issuer);
        }
        if !self.keys.is_empty() && kills(self.keys.get(&query.spki_sha256)) {
            return Some(Why::Key);
        }
        let id = query.spiffe_id?.as_str();
        if !self.identities.is_empty() && kills(self.identities.get(id)) {
            return Some(Why::Identity);
        }
        if self.prefixes.is_empty() || id.len() > SPIFFE_ID_BYTES_MAX {
            return None;
        }
        // Every stem of the ID: what stands before each slash after the scheme's two.
        let stems = id.match_indices('/').skip(2).map(|(at, _)| &id[..at]);
        let mut struck = stems.filter(|stem| kills(self.prefixes.get(*stem)));
        struck.next().map(|_| Why::Prefix)
    }

    /// What is certain about a certificate that is known in part.
    pub(crate) fn strike_shown(&self, shown: &Shown<'_>) -> Struck {
        let mut missing = Missing::default();
        let mut kills = |cut: Option<&Cut>| match (cut, shown.not_before) {
            (None, _) => false,
            (Some(&ALL), _) => true,
            (Some(&cut), Some(not_before)) => not_before.millis() <= cut,
            (Some(_), None) => {
                missing.not_before = true;
                false
            }
        };
        if let Some((issuer, _)) = &shown.name
            && kills(self.issuers.get(issuer))
        {
            return Struck::Yes(Why::Issuer);
        }
        if let Some(key) = &shown.spki_sha256
            && kills(self.keys.get(key))
        {
            return Struck::Yes(Why::Key);
        }
        if let Some(id) = shown.spiffe_id.map(SpiffeId::as_str) {
            if kills(self.identities.get(id)) {
                return Struck::Yes(Why::Identity);
            }
            let stems = id.match_indices('/').skip(2).map(|(at, _)| &id[..at]);
            // All of them: one without a cut strikes where an earlier one cannot tell.
            if stems.filter(|stem| kills(self.prefixes.get(*stem))).count() > 0 {
                return Struck::Yes(Why::Prefix);
            }
        }
        // A certificate that began after every cut is struck under no name and on no key.
        let reaches = |latest: Option<Cut>| {
            let began = shown.not_before.map_or(Cut::MIN, UnixTime::millis);
            latest.is_some_and(|latest| began <= latest)
        };
        let (of_names, of_keys) = self.latest_cuts;
        missing.spki_sha256 = shown.spki_sha256.is_none() && reaches(of_keys);
        missing.spiffe_id = shown.spiffe_id.is_none() && reaches(of_names);
        Struck::Unless(missing)
    }
}

#[cfg(test)]
mod tests {
    use mintage_identity::Serial;

    use super::*;

    fn strike(rules: &[Rule], id: &str, not_before: i64) -> Option<Why> {
        let mut table = RuleTable::default();
        rules.iter().for_each(|rule| table.put(rule));
        assert_eq!(table.is_empty(), rules.is_empty());
        table.index();
        let id = SpiffeId::parse(id).unwrap();
        let query = Query {
            issuer: IssuerKeyId::new([1; 32]),
            serial: &Serial::from_random([9; 16]),
            not_before: UnixTime::from_millis(not_before),
            not_after: UnixTime::from_millis(not_before.saturating_add(1_000)),
            spiffe_id: Some(&id),
            spki_sha256: SpkiHash::new([2; 32]),
        };
        let struck = table.strike(&query);
        assert!(
            struck.is_none() || table.may_strike(&query),
            "what strikes is never passed by"
        );
        struck
    }

    fn rule(target: RuleTarget, cut: Option<i64>) -> Rule {
        let cut = cut.map(UnixTime::from_millis);
        Rule { target, cut }
    }

    #[test]
    fn each_target_strikes_up_to_its_cut() {
        let web = RuleTarget::Identity(SpiffeId::parse("spiffe://td/web").unwrap());
        let below = RuleTarget::Prefix(IdPrefix::parse("spiffe://td/a/*").unwrap());
        let cases = [
            (web, Why::Identity, "spiffe://td/web"),
            (below, Why::Prefix, "spiffe://td/a/b/c"),
            (RuleTarget::Key(SpkiHash::new([2; 32])), Why::Key, "spiffe://td/x"),
            (
                RuleTarget::Issuer(IssuerKeyId::new([1; 32])),
                Why::Issuer,
                "spiffe://td/x",
            ),
        ];
        for (target, why, id) in cases {
            let cut = [rule(target.clone(), Some(50))];
            assert_eq!(strike(&cut, id, 50), Some(why));
            assert_eq!(strike(&cut, id, 51), None, "the replacement lives");
            assert_eq!(strike(&[rule(target, None)], id, i64::MAX), Some(why));
        }
    }

    #[test]
    fn a_prefix_strikes_whole_segments_only() {
        let below = |text| [rule(RuleTarget::Prefix(IdPrefix::parse(text).unwrap()), None)];
        assert_eq!(strike(&below("spiffe://td/a/*"), "spiffe://td/a", 1), None);
        assert_eq!(strike(&below("spiffe://td/a/*"), "spiffe://td/ab", 1), None);
        assert_eq!(strike(&below("spiffe://td/*"), "spiffe://td/ab", 1), Some(Why::Prefix));
        assert_eq!(strike(&below("spiffe://t/*"), "spiffe://td/ab", 1), None);
    }

    #[test]
    fn rules_on_identities_with_a_cut_die() {
        let id = || RuleTarget::Identity(SpiffeId::parse("spiffe://td/web").unwrap());
        assert!(rule(id(), Some(0)).until().unwrap() > UnixTime::from_seconds(i64::from(TTL_SECONDS_MAX)));
        assert_eq!(rule(id(), None).until(), None);
        assert_eq!(
            rule(RuleTarget::Issuer(IssuerKeyId::new([1; 32])), Some(0)).until(),
            None
        );
    }
}
