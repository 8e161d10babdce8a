//! Tests of [`super`].

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
    assert!(
        in_header(&text) < 7 * 1024 && text.contains("and 30 more entries"),
        "{text}"
    );
    let text = entries.explain_none(&proven(&["unix:uid:1"]));
    assert!(
        text.contains("e0 needs unix:path:/0x") && text.contains("and 27 more entries"),
        "{text}"
    );

    // What a header makes three octets of each: blanks, per cent signs, and what is not ASCII.
    for octets in ["\u{e4}", "%", " ", "\u{1d11e}"] {
        let path = |n: usize| format!("unix:path:/{n}{}", octets.repeat(900 / octets.len()));
        let put = (0..30).map(|n| entry(&format!("e{n}"), "/e", &[&path(n)]));
        entries.apply(&full(put.collect(), true));
        let shown: Vec<String> = (30..60).map(path).collect();
        let shown = proven(&shown.iter().map(String::as_str).collect::<Vec<_>>());
        let text = entries.explain_none(&shown);
        let header = tonic::Status::permission_denied(text.as_str()).into_http::<()>();
        let sent = header.headers()["grpc-message"].len();
        assert_eq!(sent, in_header(&text));
        assert!(sent < 7 * 1024 && text.contains("more entries"), "{sent}: {text}");
    }
}
