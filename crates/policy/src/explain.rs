//! Why a workload gets an identity or not: for each entry, the one thing that failed.

use std::collections::BTreeSet;

use mintage_identity::{EntryName, Selector, SpiffeId};

use crate::entry::Entry;

/// How one entry answers a workload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It gives its identity.
    Matches,
    /// It would, but it is disabled.
    Disabled,
    /// It is not for this agent.
    OtherAgent,
    /// This selector does not hold; `shown` is what the workload has of the same kind, and `more` selectors fail too.
    SelectorFails {
        /// The first selector of the entry that does not hold.
        wanted: Selector,
        /// What was shown of the same kind.
        shown: Vec<Selector>,
        /// How many further selectors of the entry do not hold.
        more: usize,
    },
}

/// One entry's answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Explanation {
    /// The entry.
    pub entry: EntryName,
    /// Its revision.
    pub revision: u64,
    /// The identity it gives.
    pub spiffe_id: SpiffeId,
    /// Its answer.
    pub outcome: Outcome,
}

impl Explanation {
    /// The answer in one sentence.
    pub fn sentence(&self) -> String {
        let (entry, id) = (&self.entry, &self.spiffe_id);
        match &self.outcome {
            Outcome::Matches => format!("{entry} matches and gives {id}"),
            Outcome::Disabled => format!("{entry} would match but is disabled"),
            Outcome::OtherAgent => format!("{entry} is not for this agent"),
            Outcome::SelectorFails { wanted, shown, more } => {
                let seen: Vec<_> = shown.iter().map(Selector::as_str).collect();
                let seen = if seen.is_empty() {
                    "nothing of that kind".to_owned()
                } else {
                    seen.join(", ")
                };
                let rest = if *more == 0 {
                    String::new()
                } else {
                    format!(" ({more} more fail)")
                };
                format!("{entry} needs {wanted}, the workload shows {seen}{rest}")
            }
        }
    }
}

/// Asks every entry (with its revision) what it says to a workload with the selectors `shown` on `agent`.
pub fn explain<'a>(
    entries: impl IntoIterator<Item = (&'a Entry, u64)>,
    agent: &SpiffeId,
    shown: &BTreeSet<Selector>,
) -> Vec<Explanation> {
    entries
        .into_iter()
        .map(|(entry, revision)| Explanation {
            entry: entry.name().clone(),
            revision,
            spiffe_id: entry.spiffe_id().clone(),
            outcome: outcome(entry, agent, shown),
        })
        .collect()
}

fn outcome(entry: &Entry, agent: &SpiffeId, shown: &BTreeSet<Selector>) -> Outcome {
    if !entry.is_for_agent(agent) {
        return Outcome::OtherAgent;
    }
    let mut failing = entry.selectors().difference(shown);
    if let Some(wanted) = failing.next() {
        let same_kind = shown.iter().filter(|have| have.kind() == wanted.kind());
        return Outcome::SelectorFails {
            wanted: wanted.clone(),
            shown: same_kind.cloned().collect(),
            more: failing.count(),
        };
    }
    if entry.is_disabled() {
        Outcome::Disabled
    } else {
        Outcome::Matches
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::RawEntry;
    use crate::samples::{agent_id, entry, raw};

    #[test]
    fn each_entry_names_the_one_thing_that_failed() {
        let other = RawEntry {
            agents: vec![agent_id("n2").to_string()],
            ..raw("other")
        };
        let off = RawEntry {
            disabled: true,
            ..raw("off")
        };
        let strict = RawEntry {
            selectors: vec!["unix:gid:7".into(), "unix:uid:1000".into()],
            ..raw("strict")
        };
        let entries: Vec<_> = [raw("web"), other, off, strict].iter().map(entry).collect();
        let shown = ["unix:uid:1000", "unix:path:/usr/bin/web", "unix:gid:5"].map(|s| Selector::parse(s).unwrap());
        let answers = explain(
            entries.iter().map(|entry| (entry, 3)),
            &agent_id("n1"),
            &shown.into_iter().collect(),
        );
        let said: Vec<_> = answers.iter().map(Explanation::sentence).collect();
        assert_eq!(
            said,
            [
                "web matches and gives spiffe://dev.test/web",
                "other is not for this agent",
                "off would match but is disabled",
                "strict needs unix:gid:7, the workload shows unix:gid:5",
            ]
        );
        let answers = explain(
            entries.iter().map(|entry| (entry, 3)),
            &agent_id("n1"),
            &BTreeSet::new(),
        );
        assert_eq!(
            answers[0].sentence(),
            "web needs unix:path:/usr/bin/web, the workload shows nothing of that kind (1 more fail)"
        );
    }
}
