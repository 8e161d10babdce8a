//! What a revocation names, and how that is held against what is asked for.
//!
//! A revocation carries its scope as text and the serials that it strikes. By the scope it is about an identity, a prefix, an
//! agent or an entry; a prefix stands where an identity does, and ends in `/*`, as no identity can. The index of the ledger and
//! the filters of its exports read it here, so that they find the same.

use mintage_identity::{IdPrefix, SpiffeId};

/// What the scope of a revocation names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RevocationScope<'a> {
    /// An identity, or all below a prefix, which ends in `/*`.
    Identity(&'a str),
    /// An agent, by its name.
    Agent(&'a str),
    /// An entry, by its name.
    Entry(&'a str),
    /// Something that records are not searched by: a serial (the record has it beside), a selector, a key, an issuer.
    Other,
}

impl<'a> RevocationScope<'a> {
    /// Reads the scope of a revoke record.
    pub fn parse(scope: &'a str) -> Self {
        match scope.split_once(' ') {
            Some(("spiffe-id" | "prefix", id)) => Self::Identity(id),
            Some(("agent", name)) => Self::Agent(name),
            Some(("entry", name)) => Self::Entry(name),
            _ => Self::Other,
        }
    }
}

/// The prefixes that `id` lies below, as text, the widest first.
pub(crate) fn prefixes_over(id: &SpiffeId) -> impl Iterator<Item = String> + '_ {
    let text = id.as_str();
    let authority = text.find("://").map_or(0, |at| at + 3);
    let slashes = text.bytes().enumerate().skip(authority);
    slashes
        .filter(|(_, byte)| *byte == b'/')
        .map(|(at, _)| format!("{}/*", &text[..at]))
}

/// Whether a record that is about `text`, an identity or a prefix, is about `id`.
pub fn is_about_identity(text: &str, id: &SpiffeId) -> bool {
    text == id.as_str() || (text.ends_with("/*") && IdPrefix::parse(text).is_ok_and(|over| over.matches(id)))
}

/// Whether a record that is about `text`, an identity or a prefix, is about one below `prefix`: of two prefixes each may be
/// the wider one.
pub fn is_about_prefix(text: &str, prefix: &IdPrefix) -> bool {
    if text.ends_with("/*") {
        return IdPrefix::parse(text)
            .is_ok_and(|other| other == *prefix || prefix.matches(other.stem()) || other.matches(prefix.stem()));
    }
    SpiffeId::parse(text).is_ok_and(|id| prefix.matches(&id))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_is_about_all_that_lies_below_it() {
        let id = SpiffeId::parse("spiffe://dev.test/db/a/b").unwrap();
        let over: Vec<String> = prefixes_over(&id).collect();
        assert_eq!(
            over,
            [
                "spiffe://dev.test/*",
                "spiffe://dev.test/db/*",
                "spiffe://dev.test/db/a/*"
            ]
        );
        for text in &over {
            assert!(is_about_identity(text, &id), "{text}");
        }
        assert!(is_about_identity(id.as_str(), &id));
        for other in [
            "spiffe://dev.test/db/a/b/*",
            "spiffe://dev.test/d/*",
            "spiffe://dev.test/db/a",
            "",
            "/*",
        ] {
            assert!(!is_about_identity(other, &id), "{other}");
        }
        let root = SpiffeId::parse("spiffe://dev.test").unwrap();
        assert_eq!(prefixes_over(&root).count(), 0);
    }

    #[test]
    fn prefixes_meet_where_one_holds_the_other() {
        let prefix = IdPrefix::parse("spiffe://dev.test/db/*").unwrap();
        for text in [
            "spiffe://dev.test/*",
            "spiffe://dev.test/db/*",
            "spiffe://dev.test/db/a/*",
            "spiffe://dev.test/db/a",
        ] {
            assert!(is_about_prefix(text, &prefix), "{text}");
        }
        for text in [
            "spiffe://dev.test/db",
            "spiffe://dev.test/dba/*",
            "spiffe://dev.test/web/*",
            "",
            "/*",
        ] {
            assert!(!is_about_prefix(text, &prefix), "{text}");
        }
    }

    #[test]
    fn what_is_no_scope_names_nothing() {
        for text in ["", "agent", "selector unix:uid:1", "serial 4f", "AGENT web-1"] {
            assert_eq!(RevocationScope::parse(text), RevocationScope::Other, "{text}");
        }
        assert_eq!(RevocationScope::parse("agent web-1"), RevocationScope::Agent("web-1"));
    }
}
