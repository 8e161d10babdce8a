//! The entries this agent may ask for, as the CA pushed them, and which of them a process or a delivery may have. Pure.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    time::Duration,
};

use mintage_attest::unix::file_owner_selectors;
use mintage_identity::{EntryName, JwtRule, Selector, SpiffeId, TrustDomain, Ttl, WhyNot};
use mintage_proto::v1;

use crate::{config::Delivery, limits::ENTRIES_MAX};

/// Entries named in one explanation: more would be a dump.
const EXPLAINED_MAX: usize = 10;
/// Bytes of what is told about entries in one explanation, and of what is told of the caller: a status travels in a header,
/// and clients take 8 KiB of those.
const EXPLAINED_BYTES_MAX: usize = 3 * 1024;
/// Longest hint in bytes (SPIFFE Workload API, section 5.2.1).
const HINT_BYTES_MAX: usize = 1024;

/// One entry, reduced to what an agent acts on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Offered {
    pub(crate) spiffe_id: SpiffeId,
    pub(crate) selectors: BTreeSet<Selector>,
    pub(crate) ttl: Duration,
    pub(crate) hint: String,
    pub(crate) disabled: bool,
    /// Which JWT-SVIDs it gives.
    pub(crate) jwt: JwtRule,
    /// Other trust domains whose bundles go with it.
    pub(crate) federates_with: BTreeSet<TrustDomain>,
    /// What else shows in a certificate: when it changes, a new one is due.
    dns_names: Vec<String>,
    common_name: String,
}

impl Offered {
    fn from_wire(wire: &v1::Entry) -> Result<(EntryName, Self), String> {
        let text = |error: mintage_identity::NameError| error.to_string();
        let name = EntryName::parse(&wire.name).map_err(text)?;
        let selectors: BTreeSet<Selector> = wire
            .selectors
            .iter()
            .map(|s| Selector::parse(s))
            .collect::<Result<_, _>>()
            .map_err(text)?;
        if selectors.is_empty() {
            return Err(format!("entry {name} has no selector: it would be everybody's"));
        }
        if wire.hint.len() > HINT_BYTES_MAX {
            return Err(format!("entry {name} has a hint of more than {HINT_BYTES_MAX} bytes"));
        }
        let offered = Self {
            spiffe_id: SpiffeId::parse_workload(&wire.spiffe_id).map_err(text)?,
            selectors,
            ttl: Ttl::from_seconds(wire.ttl_seconds).map_err(text)?.duration(),
            hint: wire.hint.clone(),
            disabled: wire.disabled,
            jwt: JwtRule::of(wire.jwt_forbidden, &wire.jwt_audiences),
            federates_with: wire
                .federates_with
                .iter()
                .map(|domain| TrustDomain::parse(domain))
                .collect::<Result<_, _>>()
                .map_err(text)?,
            dns_names: wire.dns_names.clone(),
            common_name: wire.common_name.clone(),
        };
        Ok((name, offered))
    }

    /// Whether somebody who proves `proven` may have this entry.
    pub(crate) fn gives(&self, proven: &BTreeSet<Selector>) -> bool {
        !self.disabled && self.selectors.is_subset(proven)
    }

    /// Why somebody who proves `proven` may not have the entry `name`, in one sentence; `None` when he may.
    pub(crate) fn why_not(&self, name: &EntryName, proven: &BTreeSet<Selector>) -> Option<String> {
        let why = WhyNot::of(&self.selectors, self.disabled, proven)?;
        Some(format!("{name} {why}"))
    }

    /// True when a certificate for `self` would look different from one for `other`.
    fn certifies_otherwise_than(&self, other: &Self) -> bool {
        self.spiffe_id != other.spiffe_id
            || self.dns_names != other.dns_names
            || self.common_name != other.common_name
            || self.ttl != other.ttl
    }
}

/// Entries that are new, gone or other than they were.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Changed {
    /// These and no others.
    These(BTreeSet<EntryName>),
    /// Whichever.
    All,
}

impl Default for Changed {
    fn default() -> Self {
        Self::These(BTreeSet::new())
    }
}

impl Changed {
    /// Both.
    pub(crate) fn and(&mut self, other: Self) {
        match (&mut *self, other) {
            (Self::These(names), Self::These(others)) => names.extend(others),
            (_, Self::All) => *self = Self::All,
            (Self::All, _) => {}
        }
    }
}

/// What one message changed.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Change {
    /// The whole message (or set of messages) is applied; false while more of it follow.
    pub(crate) complete: bool,
    /// What is not as it was.
    pub(crate) changed: Changed,
    /// Entries whose certificates must be replaced.
    pub(crate) outdated: Vec<EntryName>,
    /// Entries of the CA that this agent cannot use, and why.
    pub(crate) unusable: Vec<String>,
}

/// Names of entries by one selector each, of those that it needs the one that fewest entries were put under: whoever does
/// not prove that one need not be held against the entry.
#[derive(Debug, Default)]
struct BySelector(HashMap<Selector, BTreeSet<EntryName>>);

impl BySelector {
    fn insert(&mut self, name: &EntryName, selectors: &BTreeSet<Selector>) {
        let rarest = selectors
            .iter()
            .min_by_key(|selector| self.0.get(*selector).map_or(0, BTreeSet::len));
        if let Some(selector) = rarest {
            self.0.entry(selector.clone()).or_default().insert(name.clone());
        }
    }

    fn remove(&mut self, name: &EntryName, selectors: &BTreeSet<Selector>) {
        for selector in selectors {
            let Some(names) = self.0.get_mut(selector) else {
                continue;
            };
            if names.remove(name) && names.is_empty() {
                self.0.remove(selector);
            }
        }
    }

    /// All that somebody who proves this could have, in the order of their names, and some that he could not.
    fn candidates(&self, proven: &BTreeSet<Selector>) -> BTreeSet<&EntryName> {
        proven
            .iter()
            .filter_map(|selector| self.0.get(selector))
            .flatten()
            .collect()
    }
}

/// The set of entries.
#[derive(Debug, Default)]
pub(crate) struct Entries {
    known: bool,
    index: u64,
    entries: BTreeMap<EntryName, Offered>,
    by_selector: BySelector,
    /// A full set that has not arrived whole yet.
    incoming: Option<BTreeMap<EntryName, Offered>>,
}

impl Entries {
    /// False until the CA named the whole set once.
    pub(crate) fn known(&self) -> bool {
        self.known
    }

    /// Ledger index this set stands at.
    pub(crate) fn index(&self) -> u64 {
        self.index
    }

    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(crate) fn get(&self, name: &EntryName) -> Option<&Offered> {
        self.entries.get(name)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&EntryName, &Offered)> {
        self.entries.iter()
    }

    /// The entries somebody who proves `proven` may have, in the order of their names.
    pub(crate) fn matching(&self, proven: &BTreeSet<Selector>) -> impl Iterator<Item = (&EntryName, &Offered)> {
        let candidates = self.by_selector.candidates(proven).into_iter();
        let offered = candidates.filter_map(|name| self.entries.get_key_value(name));
        offered.filter(|(_, entry)| entry.gives(proven))
    }

    /// How long certificates of a slot live that is of this entry, in memory or for this delivery; or why it gets none.
    pub(crate) fn verdict(&self, name: Option<&EntryName>, delivery: Option<&Delivery>) -> Result<Duration, String> {
        let offered = name.and_then(|name| Some((name, self.entries.get(name)?)));
        let (name, entry) = offered.ok_or("the CA offers no such entry to this agent")?;
        let Some(delivery) = delivery else {
            return match entry.disabled {
                true => Err("the entry is disabled".to_owned()),
                false => Ok(entry.ttl),
            };
        };
        let (uid, gid) = (delivery.owner(), delivery.group());
        let refused = entry.why_not(name, &file_owner_selectors(uid, gid));
        refused.map_or(Ok(entry.ttl), |why| {
            Err(format!(
                "{why}; the owner of a folder proves only unix:uid:{uid} and unix:gid:{gid}"
            ))
        })
    }

    /// Takes an entry out, as when it was retired.
    pub(crate) fn remove(&mut self, name: &EntryName) {
        if let Some(entry) = self.entries.remove(name) {
            self.by_selector.remove(name, &entry.selectors);
        }
    }

    fn insert(&mut self, name: EntryName, entry: Offered) {
        self.remove(&name);
        self.by_selector.insert(&name, &entry.selectors);
        self.entries.insert(name, entry);
    }

    /// The stream ended: half of a full set is no set.
    pub(crate) fn interrupted(&mut self) {
        self.incoming = None;
    }

    /// Applies one message.
    pub(crate) fn apply(&mut self, message: &v1::Entries) -> Change {
        let mut change = Change::default();
        let mut put = Vec::with_capacity(message.put.len());
        for wire in &message.put {
            match Offered::from_wire(wire) {
                Ok(entry) => put.push(entry),
                Err(problem) => change.unusable.push(problem),
            }
        }
        if message.full {
            let incoming = self.incoming.get_or_insert_default();
            for (name, entry) in put {
                if incoming.len() >= ENTRIES_MAX && !incoming.contains_key(&name) {
                    change
                        .unusable
                        .push(format!("entry {name}: more than {ENTRIES_MAX} entries are offered"));
                    continue;
                }
                incoming.insert(name, entry);
            }
            if !message.last {
                return change;
            }
            let whole = self.incoming.take().unwrap_or_default();
            change.outdated = whole
                .iter()
                .filter(|(n, e)| self.outdates(n, e))
                .map(|(n, _)| n.clone())
                .collect();
            self.by_selector = BySelector::default();
            for (name, entry) in &whole {
                self.by_selector.insert(name, &entry.selectors);
            }
            self.entries = whole;
            self.known = true;
            change.changed = Changed::All;
        } else {
            self.apply_delta(put, &message.removed, &mut change);
        }
        self.index = message.index;
        change.complete = true;
        change
    }

    fn apply_delta(&mut self, put: Vec<(EntryName, Offered)>, removed: &[String], change: &mut Change) {
        let mut changed = BTreeSet::new();
        for name in removed {
            // What is no name is the name of nothing.
            if let Ok(name) = EntryName::parse(name) {
                self.remove(&name);
                changed.insert(name);
            }
        }
        for (name, entry) in put {
            if self.entries.len() >= ENTRIES_MAX && !self.entries.contains_key(&name) {
                change
                    .unusable
                    .push(format!("entry {name}: more than {ENTRIES_MAX} entries are offered"));
                continue;
            }
            if self.outdates(&name, &entry) {
                change.outdated.push(name.clone());
            }
            changed.insert(name.clone());
            self.insert(name, entry);
        }
        change.changed.and(Changed::These(changed));
    }

    fn outdates(&self, name: &EntryName, new: &Offered) -> bool {
        self.entries
            .get(name)
            .is_some_and(|old| new.certifies_otherwise_than(old))
    }

    /// Why nothing is there for somebody who proves `proven`: for each of a few entries the one selector that failed.
    pub(crate) fn explain_none(&self, proven: &BTreeSet<Selector>) -> String {
        let proofs = few(proven.iter().map(Selector::to_string)).join(" ");
        if self.entries.is_empty() {
            return format!("no identity issued: this agent has no entries at all; the caller proves {proofs}");
        }
        let all = self
            .entries
            .iter()
            .filter_map(|(name, entry)| entry.why_not(name, proven));
        let mut reasons = few(all);
        if self.entries.len() > reasons.len() {
            reasons.push(format!("and {} more entries", self.entries.len() - reasons.len()));
        }
        format!(
            "no identity issued: no entry matches; the caller proves {proofs}; {}",
            reasons.join("; ")
        )
    }
}

/// The first texts, as many as one explanation holds.
fn few(texts: impl Iterator<Item = String>) -> Vec<String> {
    let mut left = EXPLAINED_BYTES_MAX;
    let fits = |text: &String| {
        let fits = text.len() <= left;
        left = left.saturating_sub(text.len());
        fits
    };
    texts.take(EXPLAINED_MAX).take_while(fits).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(name: &str, id: &str, selectors: &[&str]) -> v1::Entry {
        v1::Entry {
            name: name.to_owned(),
            spiffe_id: format!("spiffe://dev.test{id}"),
            selectors: selectors.iter().map(|s| (*s).to_owned()).collect(),
            ttl_seconds: 60,
            ..v1::Entry::default()
        }
    }

    fn full(put: Vec<v1::Entry>, last: bool) -> v1::Entries {
        v1::Entries {
            full: true,
            put,
            last,
            index: 5,
            ..v1::Entries::default()
        }
    }

    fn delta(put: Vec<v1::Entry>, removed: &[&str]) -> v1::Entries {
        v1::Entries {
            put,
            removed: removed.iter().map(|s| (*s).to_owned()).collect(),
            last: true,
            index: 6,
            ..v1::Entries::default()
        }
    }

    fn names(entries: &Entries) -> Vec<&str> {
        entries.iter().map(|(name, _)| name.as_str()).collect()
    }

    fn proven(list: &[&str]) -> BTreeSet<Selector> {
        list.iter().map(|s| Selector::parse(s).unwrap()).collect()
    }

    #[test]
    fn a_full_set_replaces_only_when_it_is_whole() {
        let mut entries = Entries::default();
        assert!(!entries.known());
        assert!(
            entries
                .apply(&full(vec![entry("old", "/o", &["unix:uid:1"])], true))
                .complete
        );
        assert!(
            !entries
                .apply(&full(vec![entry("a", "/a", &["unix:uid:1"])], false))
                .complete
        );
        assert_eq!(names(&entries), ["old"], "half a set changes nothing");
        entries.interrupted();
        assert!(
            entries
                .apply(&full(vec![entry("b", "/b", &["unix:uid:1"])], true))
                .complete
        );
        assert_eq!(
            (names(&entries), entries.index(), entries.known()),
            (vec!["b"], 5, true)
        );
        assert!(entries.apply(&full(vec![], true)).complete);
        assert!(entries.known() && entries.len() == 0, "an empty set is a set");
    }

    #[test]
    fn deltas_put_and_remove_and_tell_which_certificates_are_outdated() {
        let mut entries = Entries::default();
        entries.apply(&full(
            vec![entry("a", "/a", &["unix:uid:1"]), entry("b", "/b", &["unix:uid:2"])],
            true,
        ));
        let change = entries.apply(&delta(
            vec![entry("a", "/a2", &["unix:uid:1"]), entry("c", "/c", &["unix:uid:3"])],
            &["b", "never"],
        ));
        assert_eq!(names(&entries), ["a", "c"]);
        assert_eq!(change.outdated, [EntryName::parse("a").unwrap()]);
        let selectors_only = entries.apply(&delta(vec![entry("c", "/c", &["unix:uid:4"])], &[]));
        assert!(
            selectors_only.outdated.is_empty(),
            "selectors are not in the certificate"
        );
    }

    #[test]
    fn entries_that_would_be_everybodys_or_are_malformed_are_not_taken() {
        let mut entries = Entries::default();
        let change = entries.apply(&full(
            vec![
                entry("open", "/x", &[]),
                entry("bad name", "/x", &["unix:uid:1"]),
                entry("reserved", "/mintage/agent/x", &["unix:uid:1"]),
                v1::Entry {
                    ttl_seconds: 1,
                    ..entry("short", "/x", &["unix:uid:1"])
                },
            ],
            true,
        ));
        assert_eq!((change.unusable.len(), entries.len()), (4, 0));
    }

    #[test]
    fn every_selector_must_hold_and_the_explanation_names_the_one_that_failed() {
        let mut entries = Entries::default();
        entries.apply(&full(
            vec![
                entry("web", "/w", &["unix:uid:1", "unix:gid:2"]),
                v1::Entry {
                    disabled: true,
                    ..entry("off", "/o", &["unix:uid:1"])
                },
            ],
            true,
        ));
        let only_uid = proven(&["unix:uid:1"]);
        assert_eq!(entries.matching(&only_uid).count(), 0);
        let text = entries.explain_none(&only_uid);
        assert!(
            text.contains("web needs unix:gid:2, the workload shows nothing of that kind")
                && text.contains("off would match but is disabled"),
            "{text}"
        );
        assert!(text.contains("proves unix:uid:1"), "{text}");
        let both = proven(&["unix:uid:1", "unix:gid:2", "unix:path:/x"]);
        assert_eq!(
            entries.matching(&both).map(|(n, _)| n.as_str()).collect::<Vec<_>>(),
            ["web"]
        );
    }

    #[test]
    fn a_caller_is_held_against_few_of_a_thousand_entries() {
        let mut entries = Entries::default();
        let numbered = |n: u32| {
            let gid = format!("unix:supplementary_gid:{n}");
            entry(&format!("w{n}"), &format!("/w/{n}"), &["unix:uid:1", &gid])
        };
        entries.apply(&full((0..1_000).map(numbered).collect(), true));
        let one = proven(&["unix:gid:1", "unix:supplementary_gid:500", "unix:uid:1"]);
        // One entry had to stand under the selector that all share.
        assert!(entries.by_selector.candidates(&one).len() <= 2);
        let names = |entries: &Entries| {
            entries
                .matching(&one)
                .map(|(name, _)| name.to_string())
                .collect::<Vec<_>>()
        };
        assert_eq!(names(&entries), ["w500"]);
        entries.apply(&delta(
            vec![entry("w500", "/x", &["unix:uid:2"]), entry("a", "/a", &["unix:gid:1"])],
            &[],
        ));
        assert_eq!(names(&entries), ["a"], "what an entry needed before is forgotten");
        entries.apply(&delta(vec![], &["a"]));
        entries.remove(&EntryName::parse("w500").unwrap());
        assert_eq!(names(&entries), [""; 0]);
        entries.apply(&full(vec![], true));
        assert!(entries.by_selector.0.is_empty());
    }

    proptest::proptest! {
        /// The index gives what looking at every entry would.
        #[test]
        fn matching_is_what_every_entry_says(
            ops in proptest::collection::vec((0..12u8, proptest::collection::btree_set(0..6u8, 0..4), 0..4u8), 1..40),
            proves in proptest::collection::btree_set(0..6u8, 0..6),
        ) {
            let selector = |n: &u8| format!("unix:uid:{n}");
            let proves: BTreeSet<Selector> = proves.iter().map(|n| Selector::parse(&selector(n)).unwrap()).collect();
            let mut entries = Entries::default();
            for (name, needs, what) in ops {
                let name = format!("e{name}");
                let needs: Vec<String> = needs.iter().map(selector).collect();
                let needs: Vec<&str> = needs.iter().map(String::as_str).collect();
                let put = v1::Entry { disabled: what == 3, ..entry(&name, "/x", &needs) };
                match what {
                    0 => drop(entries.apply(&delta(vec![], &[&name]))),
                    1 if needs.len() == 1 => drop(entries.apply(&full(vec![put], true))),
                    2 => entries.remove(&EntryName::parse(&name).unwrap()),
                    _ => drop(entries.apply(&delta(vec![put], &[]))),
                }
                let by_index: Vec<_> = entries.matching(&proves).map(|(name, _)| name).collect();
                let by_look = entries.iter().filter(|(_, entry)| entry.gives(&proves));
                proptest::prop_assert_eq!(by_index, by_look.map(|(name, _)| name).collect::<Vec<_>>());
            }
        }
    }

    #[test]
    fn an_explanation_of_many_and_long_selectors_still_fits_a_header() {
        let path = |n: usize| format!("unix:path:/{n}{}", "x".repeat(900));
        let mut entries = Entries::default();
        let wanted: Vec<String> = (0..30).map(path).collect();
        let put = wanted.iter().enumerate();
        let put = put.map(|(n, path)| entry(&format!("e{n}"), "/e", &[path]));
        entries.apply(&full(put.collect(), true));
        let shown: Vec<String> = (30..60).map(path).collect();
        let shown = proven(&shown.iter().map(String::as_str).collect::<Vec<_>>());
        let text = entries.explain_none(&shown);
        assert!(text.len() < 7 * 1024 && text.contains("and 30 more entries"), "{text}");
        let text = entries.explain_none(&proven(&["unix:uid:1"]));
        assert!(
            text.contains("e0 needs unix:path:/0x") && text.contains("and 27 more entries"),
            "{text}"
        );
    }
}
