//! Why a workload gets an identity or not: for each entry, the one thing that failed.

use std::collections::BTreeSet;

use mintage_identity::{EntryName, Selector, SpiffeId, WhyNot};

use crate::entry::Entry;

/// One entry's answer to a workload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Explanation {
    /// The entry.
    pub entry: EntryName,
    /// Its revision.
    pub revision: u64,
    /// The identity it gives.
    pub spiffe_id: SpiffeId,
    /// The one thing that failed; `None` when the workload gets the identity.
    pub why_not: Option<WhyNot>,
}

impl Explanation {
    /// The answer in one sentence.
    pub fn sentence(&self) -> String {
        match &self.why_not {
            None => format!("{} matches and gives {}", self.entry, self.spiffe_id),
            Some(why) => format!("{} {why}", self.entry),
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
            why_not: match entry.is_for_agent(agent) {
                true => WhyNot::of(entry.selectors(), entry.is_disabled(), shown),
                false => Some(WhyNot::OtherAgent),
            },
        })
        .collect()
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
            "web needs unix:path:/usr/bin/web, the workload shows nothing of that kind (1 more selector fails)"
        );
    }
}
