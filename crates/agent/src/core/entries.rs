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
/// Bytes of what is told about entries in one explanation, and of what is told of the caller, as they travel: a status is in
/// a header, where an octet may become three, and clients take 8 KiB of those.
const EXPLAINED_BYTES_MAX: usize = 3 * 1024;
/// Octets between two texts, as they travel: `; `.
const SEPARATOR_BYTES: usize = 4;
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

    /// As much as an agent knows of it.
    fn to_wire(&self, name: &EntryName) -> v1::Entry {
        let (jwt_forbidden, jwt_audiences) = match &self.jwt {
            JwtRule::Any => (false, Vec::new()),
            JwtRule::Forbidden => (true, Vec::new()),
            JwtRule::Only(audiences) => (false, audiences.iter().cloned().collect()),
        };
        v1::Entry {
            name: name.to_string(),
            spiffe_id: self.spiffe_id.to_string(),
            selectors: self.selectors.iter().map(Selector::to_string).collect(),
            ttl_seconds: i64::try_from(self.ttl.as_secs()).unwrap_or(i64::MAX),
            dns_names: self.dns_names.clone(),
            common_name: self.common_name.clone(),
            hint: self.hint.clone(),
            disabled: self.disabled,
            jwt_forbidden,
            jwt_audiences,
            federates_with: self.federates_with.iter().map(ToString::to_string).collect(),
            ..v1::Entry::default()
        }
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
    /// The CA itself named them since the start.
    heard: bool,
    index: u64,
    entries: BTreeMap<EntryName, Offered>,
    by_selector: BySelector,
    /// A full set that has not arrived whole yet.
    incoming: Option<BTreeMap<EntryName, Offered>>,
}

impl Entries {
    /// False until the CA named the whole set once, in this life of the agent or the one before.
    pub(crate) fn known(&self) -> bool {
        self.known
    }

    /// True once the CA named the whole set since the agent started.
    pub(crate) fn heard(&self) -> bool {
        self.heard
    }

    /// Takes up what the CA named before a restart; what cannot be used of it.
    pub(crate) fn restore(&mut self, kept: &v1::Entries) -> Vec<String> {
        let change = self.apply(kept);
        self.heard = false;
        change.unusable
    }

    /// The whole set, as the CA would name it.
    pub(crate) fn to_wire(&self) -> v1::Entries {
        v1::Entries {
            full: true,
            put: self.entries.iter().map(|(name, entry)| entry.to_wire(name)).collect(),
            removed: Vec::new(),
            index: self.index,
            last: true,
        }
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
            (self.known, self.heard) = (true, true);
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
        reasons.extend(left(self.entries.len(), reasons.len()).map(|more| format!("{more} entries")));
        format!(
            "no identity issued: no entry matches; the caller proves {proofs}; {}",
            reasons.join("; ")
        )
    }
}

/// The first texts, as many as one explanation holds.
pub(super) fn few(texts: impl Iterator<Item = String>) -> Vec<String> {
    let mut left = EXPLAINED_BYTES_MAX;
    let fits = |text: &String| {
        let len = in_header(text) + SEPARATOR_BYTES;
        let fits = len <= left;
        left = left.saturating_sub(len);
        fits
    };
    texts.take(EXPLAINED_MAX).take_while(fits).collect()
}

/// Says that there are more than were shown.
pub(super) fn left(all: usize, shown: usize) -> Option<String> {
    (all > shown).then(|| format!("and {} more", all - shown))
}

/// Octets of a text as gRPC puts it into a header (percent-encoded: PROTOCOL-HTTP2.md, `grpc-message`).
fn in_header(text: &str) -> usize {
    let plain = |octet: u8| octet.is_ascii_graphic() && !b"\"#%<>`?{}".contains(&octet);
    text.bytes().map(|octet| if plain(octet) { 1 } else { 3 }).sum()
}

#[cfg(test)]
#[path = "entries_tests.rs"]
mod tests;
