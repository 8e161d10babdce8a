//! Why an entry does not give its identity to a workload: the one thing that failed, in the same words on the agent's
//! socket, in its log, on the node and at the CA.

use std::{collections::BTreeSet, fmt};

use crate::{Selector, limits::WHY_NOT_SHOWN_MAX};

/// The one thing that failed. Its text goes on after the entry's name: `web needs unix:uid:1000, ...`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WhyNot {
    /// The entry is not for this agent.
    OtherAgent,
    /// Every selector holds, but the entry is disabled.
    Disabled,
    /// A selector does not hold.
    Selector {
        /// The first selector of the entry, in their order, that does not hold.
        wanted: Selector,
        /// What the workload shows of the same kind.
        shown: Vec<Selector>,
        /// How many further selectors of the entry do not hold.
        more: usize,
    },
}

impl WhyNot {
    /// Why an entry that wants all of `wanted` gives nothing to a workload that shows `shown`; `None` when it does give.
    pub fn of(wanted: &BTreeSet<Selector>, disabled: bool, shown: &BTreeSet<Selector>) -> Option<Self> {
        let mut failing = wanted.difference(shown);
        match failing.next() {
            Some(wanted) => Some(Self::Selector {
                wanted: wanted.clone(),
                shown: shown
                    .iter()
                    .filter(|have| have.kind() == wanted.kind())
                    .cloned()
                    .collect(),
                more: failing.count(),
            }),
            None => disabled.then_some(Self::Disabled),
        }
    }
}

impl fmt::Display for WhyNot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (wanted, shown, more) = match self {
            Self::OtherAgent => return f.write_str("is not for this agent"),
            Self::Disabled => return f.write_str("would match but is disabled"),
            Self::Selector { wanted, shown, more } => (wanted, shown, more),
        };
        write!(f, "needs {wanted}, the workload shows ")?;
        if shown.is_empty() {
            f.write_str("nothing of that kind")?;
        }
        for (at, selector) in shown.iter().take(WHY_NOT_SHOWN_MAX).enumerate() {
            write!(f, "{}{selector}", if at == 0 { "" } else { ", " })?;
        }
        if shown.len() > WHY_NOT_SHOWN_MAX {
            write!(f, " and {} more", shown.len() - WHY_NOT_SHOWN_MAX)?;
        }
        match more {
            0 => Ok(()),
            1 => f.write_str(" (1 more selector fails)"),
            more => write!(f, " ({more} more selectors fail)"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn selectors(texts: &[&str]) -> BTreeSet<Selector> {
        texts.iter().map(|text| Selector::parse(text).unwrap()).collect()
    }

    fn told(wanted: &[&str], disabled: bool, shown: &[&str]) -> String {
        WhyNot::of(&selectors(wanted), disabled, &selectors(shown)).map_or_else(String::new, |why| why.to_string())
    }

    #[test]
    fn the_first_selector_that_fails_is_told_with_what_is_shown_of_its_kind() {
        assert_eq!(told(&["unix:uid:1"], false, &["unix:gid:2", "unix:uid:1"]), "");
        assert_eq!(
            told(&["unix:uid:1"], true, &["unix:uid:1"]),
            "would match but is disabled"
        );
        assert_eq!(
            told(&["unix:gid:7", "unix:uid:1"], true, &["unix:gid:5", "unix:uid:1"]),
            "needs unix:gid:7, the workload shows unix:gid:5",
            "a selector that fails counts more than the switch"
        );
        assert_eq!(
            told(&["unix:gid:7", "unix:uid:1"], false, &[]),
            "needs unix:gid:7, the workload shows nothing of that kind (1 more selector fails)"
        );
        assert_eq!(WhyNot::OtherAgent.to_string(), "is not for this agent");
    }

    #[test]
    fn a_workload_of_many_groups_makes_no_long_text() {
        let groups: Vec<String> = (0..1000)
            .map(|gid| format!("unix:supplementary_gid:{gid:04}"))
            .collect();
        let groups: Vec<&str> = groups.iter().map(String::as_str).collect();
        let told = told(&["unix:supplementary_gid:7"], false, &groups);
        assert!(
            told.ends_with("unix:supplementary_gid:0003 and 996 more") && told.len() < 300,
            "{told}"
        );
    }
}
