//! What revocation rules mean for new certificates: the floor under their notBefore, and keys that may not come back.

use imbl::OrdMap;
use mintage_identity::{IdPrefix, IssuerKeyId, SpiffeId, SpkiHash, UnixTime};
use mintage_policy::Floor;
use mintage_revocation::{RevokedSet, Rule, RuleTarget};

/// The floors by target. A floor only rises, but for a lift: the order of [`Floor`] is that of its strictness.
#[derive(Clone, Debug, Default)]
pub(crate) struct Floors {
    identities: OrdMap<SpiffeId, Floor>,
    /// By the ID before `/*`.
    prefixes: OrdMap<SpiffeId, Floor>,
    keys: OrdMap<SpkiHash, Floor>,
    issuers: OrdMap<IssuerKeyId, Floor>,
}

impl Floors {
    pub(crate) fn add(&mut self, rule: &Rule) {
        let floor = rule.cut.map_or(Floor::Blocked, Floor::Above);
        let place = match &rule.target {
            RuleTarget::Identity(id) => self.identities.entry(id.clone()).or_insert(Floor::Open),
            RuleTarget::Prefix(prefix) => self.prefixes.entry(prefix.stem().clone()).or_insert(Floor::Open),
            RuleTarget::Key(key) => self.keys.entry(*key).or_insert(Floor::Open),
            RuleTarget::Issuer(issuer) => self.issuers.entry(*issuer).or_insert(Floor::Open),
        };
        *place = floor.max(*place);
    }

    /// The floor of exactly this target.
    pub(crate) fn of_target(&self, target: &RuleTarget) -> Floor {
        let floor = match target {
            RuleTarget::Identity(id) => self.identities.get(id),
            RuleTarget::Prefix(prefix) => self.prefixes.get(prefix.stem()),
            RuleTarget::Key(key) => self.keys.get(key),
            RuleTarget::Issuer(issuer) => self.issuers.get(issuer),
        };
        floor.copied().unwrap_or(Floor::Open)
    }

    /// The strictest floor of the identity itself and of every prefix above it.
    pub(crate) fn of_identity(&self, id: &SpiffeId) -> Floor {
        let own = self.identities.get(id).copied().unwrap_or(Floor::Open);
        if self.prefixes.is_empty() {
            return own;
        }
        let text = id.as_str();
        // Every stem of the ID: what stands before each slash after the scheme's two.
        let stems = text.match_indices('/').skip(2).map(|(at, _)| &text[..at]);
        stems
            .filter_map(|stem| self.prefixes.get(stem))
            .copied()
            .fold(own, Floor::max)
    }

    /// True when a rule without a cut names the identity itself.
    pub(crate) fn identity_blocked(&self, id: &SpiffeId) -> bool {
        self.identities.get(id) == Some(&Floor::Blocked)
    }

    /// Gives a blocked identity a cut: what was issued up to it stays dead, what comes later lives.
    pub(crate) fn lift(&mut self, id: &SpiffeId, cut: UnixTime) {
        if self.identity_blocked(id) {
            self.identities.insert(id.clone(), Floor::Above(cut));
        }
    }

    /// Forgets the floors of identities and prefixes whose rule the set holds no longer: it was dead, so they lie more than a
    /// day below any new certificate. Keys stay blocked, and issuers too.
    pub(crate) fn prune(&mut self, set: &RevokedSet) {
        let forget = |floors: &mut OrdMap<SpiffeId, Floor>, target: &dyn Fn(&SpiffeId) -> Option<RuleTarget>| {
            let gone = |(id, floor): &(&SpiffeId, &Floor)| {
                let held = target(id).is_none_or(|target| set.rule(&target).is_some());
                **floor != Floor::Blocked && !held
            };
            let gone: Vec<SpiffeId> = floors.iter().filter(gone).map(|(id, _)| id.clone()).collect();
            gone.iter().for_each(|id| _ = floors.remove(id));
        };
        forget(&mut self.identities, &|id| Some(RuleTarget::Identity(id.clone())));
        forget(&mut self.prefixes, &|stem| {
            IdPrefix::parse(&format!("{stem}/*")).ok().map(RuleTarget::Prefix)
        });
    }

    /// True when a rule names the key. Even one with a cut: who revokes by key does not want the key back.
    pub(crate) fn key_blocked(&self, key: &SpkiHash) -> bool {
        self.keys.contains_key(key)
    }

    /// The floor under certificates signed by an issuer.
    pub(crate) fn of_issuer(&self, issuer: &IssuerKeyId) -> Floor {
        self.of_target(&RuleTarget::Issuer(*issuer))
    }

    pub(crate) fn blocked_keys(&self) -> impl Iterator<Item = &SpkiHash> {
        self.keys.keys()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(text: &str) -> SpiffeId {
        SpiffeId::parse(text).unwrap()
    }

    fn cut(seconds: i64) -> Option<UnixTime> {
        Some(UnixTime::from_seconds(seconds))
    }

    #[test]
    fn the_strictest_rule_on_an_identity_or_above_it_counts() {
        let mut floors = Floors::default();
        let below = |text: &str| RuleTarget::Prefix(IdPrefix::parse(text).unwrap());
        floors.add(&Rule {
            target: RuleTarget::Identity(id("spiffe://td/a/b")),
            cut: cut(50),
        });
        floors.add(&Rule {
            target: below("spiffe://td/a/*"),
            cut: cut(70),
        });
        assert_eq!(
            floors.of_identity(&id("spiffe://td/a/b")),
            Floor::Above(UnixTime::from_seconds(70))
        );
        assert_eq!(
            floors.of_identity(&id("spiffe://td/a")),
            Floor::Open,
            "a prefix does not strike its stem"
        );
        assert_eq!(
            floors.of_identity(&id("spiffe://td/ab")),
            Floor::Open,
            "nor half a segment"
        );
        floors.add(&Rule {
            target: below("spiffe://td/*"),
            cut: None,
        });
        assert_eq!(floors.of_identity(&id("spiffe://td/ab")), Floor::Blocked);
    }

    #[test]
    fn a_floor_never_sinks() {
        let mut floors = Floors::default();
        let web = || RuleTarget::Identity(id("spiffe://td/web"));
        for (given, expected) in [
            (cut(50), Floor::Above(UnixTime::from_seconds(50))),
            (cut(20), Floor::Above(UnixTime::from_seconds(50))),
            (None, Floor::Blocked),
            (cut(90), Floor::Blocked),
        ] {
            floors.add(&Rule {
                target: web(),
                cut: given,
            });
            assert_eq!(floors.of_identity(&id("spiffe://td/web")), expected);
        }
    }
}
