//! What is taken over of SPIRE's entries, and what is left out rather than widened.

use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::samples::domain;

/// An entry as `spire-server` writes it, defaults and 64-bit numbers as text included.
fn shown(id: &str, path: &str) -> Value {
    json!({
        "id": id,
        "spiffe_id": {"trust_domain": "dev.test", "path": path},
        "parent_id": {"trust_domain": "dev.test", "path": "/spire/agent/join_token/abc"},
        "selectors": [{"type": "unix", "value": "uid:1000"}],
        "x509_svid_ttl": 300, "jwt_svid_ttl": 0, "federates_with": [], "admin": false, "downstream": false,
        "expires_at": "0", "dns_names": ["web.dev.test"], "revision_number": "3", "store_svid": false,
        "hint": "internal", "created_at": "1678000000"
    })
}

fn with(mut entry: Value, field: &str, value: Value) -> Value {
    entry[field] = value;
    entry
}

fn all_agents() -> SpireImport {
    let other_agents = Some(AgentPattern::parse("spiffe://dev.test/mintage/agent/*").unwrap());
    SpireImport {
        other_agents,
        ..SpireImport::default()
    }
}

fn import(entries: &[Value], options: &SpireImport) -> SpireImported {
    let json = json!({"entries": entries, "next_page_token": ""}).to_string();
    import_spire_json(&json, &domain(), options).unwrap()
}

fn texts(imported: &SpireImported) -> Vec<&str> {
    imported.notes.iter().map(|note| note.text.as_str()).collect()
}

#[test]
fn an_entry_of_spire_becomes_one_of_ours_without_a_note() {
    let imported = import(&[shown("e1", "/ns/prod/sa/web")], &all_agents());
    assert_eq!(texts(&imported), [""; 0]);
    let entry = &imported.entries[0];
    assert_eq!((entry.name().as_str(), entry.ttl().seconds()), ("ns-prod-sa-web", 300));
    assert_eq!((entry.hint(), entry.dns_names().len()), ("internal", 1));
    assert!(entry.selectors().iter().map(|s| s.as_str()).eq(["unix:uid:1000"]));
}

#[test]
fn parents_are_mapped_only_by_an_explicit_option() {
    let entry = shown("e1", "/web");
    let refused = import(std::slice::from_ref(&entry), &SpireImport::default());
    assert!(refused.entries.is_empty());
    assert!(
        refused.notes[0].text.contains("is not mapped") && refused.notes[0].name.is_none(),
        "{refused:?}"
    );
    for flag in ["--map PARENT=PATTERN", "--agents PATTERN"] {
        assert!(refused.notes[0].text.contains(flag), "{refused:?}");
    }

    let n7 = AgentPattern::parse("spiffe://dev.test/mintage/agent/n7").unwrap();
    let parent = "spiffe://dev.test/spire/agent/join_token/abc".to_owned();
    let options = SpireImport {
        agents: [(parent, vec![n7.clone()])].into(),
        ..all_agents()
    };
    assert!(import(&[entry], &options).entries[0].agents().iter().eq([&n7]));

    let under = |path: &str| {
        with(
            shown("e2", "/x"),
            "parent_id",
            json!({"trust_domain": "dev.test", "path": path}),
        )
    };
    let imported = import(&[under("/spire/server"), under("/cluster/alias")], &all_agents());
    assert!(imported.entries.is_empty());
    assert!(
        texts(&imported)[0].contains("node alias") && texts(&imported)[1].contains("neither"),
        "{imported:?}"
    );
    let alias = "spiffe://dev.test/cluster/alias".to_owned();
    let options = SpireImport {
        agents: [(alias, vec![n7])].into(),
        ..SpireImport::default()
    };
    assert_eq!(import(&[under("/cluster/alias")], &options).entries.len(), 1);
}

#[test]
fn selectors_of_services_and_containers_are_taken_over() {
    let theirs = json!([
        {"type": "k8s", "value": "ns:prod"}, {"type": "k8s", "value": "pod-label:app:web"},
        {"type": "docker", "value": "label:tier:web"}, {"type": "systemd", "value": "id:web.service"},
    ]);
    let imported = import(&[with(shown("e", "/web"), "selectors", theirs)], &all_agents());
    let ours = imported.entries[0].selectors().iter().map(|selector| selector.as_str());
    assert!(ours.eq([
        "docker:label:tier:web",
        "k8s:ns:prod",
        "k8s:pod-label:app:web",
        "systemd:unit:web.service"
    ]));
}

#[test]
fn an_entry_is_left_out_rather_than_widened() {
    let selectors = |value: Value| with(shown("e", "/web"), "selectors", value);
    let mixed = json!([{"type": "unix", "value": "uid:1"}, {"type": "aws_iid", "value": "tag:prod"}]);
    for (entry, says) in [
        (selectors(mixed), "aws_iid:tag:prod has no counterpart"),
        (
            selectors(json!([{"type": "docker", "value": "env:A=b"}, {"type": "unix", "value": "uid:1"}])),
            "docker:env:A=b: unknown kind",
        ),
        (
            selectors(json!([{"type": "unix", "value": "user:root"}])),
            "is a name, not a number",
        ),
        (
            selectors(json!([{"type": "unix", "value": "path:/bin/a"}])),
            "add unix:uid",
        ),
        (selectors(json!([])), "would match every process"),
        (with(shown("e", "/web"), "downstream", json!(true)), "downstream"),
        (
            with(shown("e", "/web"), "expires_at", json!("1700000000")),
            "expires at 1700000000",
        ),
        (with(shown("e", "/web"), "x509_svid_ttl", json!(30)), "ttl"),
        (with(shown("e", "/web"), "x509_svid_ttl", json!("x")), "no number"),
        (with(shown("e", "/web"), "dns_names", json!(["*.dev.test"])), "wildcard"),
        (shown("e", "/mintage/agent/x"), "kept for agents"),
        (shown("e", ""), "no path"),
        (
            with(
                shown("e", "/a"),
                "spiffe_id",
                json!({"trust_domain": "other", "path": "/a"}),
            ),
            "another trust domain",
        ),
    ] {
        let imported = import(&[entry], &all_agents());
        assert!(imported.entries.is_empty(), "{imported:?}");
        assert!(texts(&imported)[0].starts_with("left out: "), "{imported:?}");
        assert!(texts(&imported)[0].contains(says), "{says}: {imported:?}");
    }
}

#[test]
fn what_is_read_over_is_noted() {
    let mut entry = shown("e1", "/web");
    for (field, value) in [
        ("admin", json!(true)),
        ("jwt_svid_ttl", json!(60)),
        ("store_svid", json!(true)),
        ("new\u{1b}field", json!("x")),
        ("x509_svid_ttl", json!(0)),
    ] {
        entry[field] = value;
    }
    let imported = import(&[entry], &all_agents());
    assert_eq!(imported.entries[0].ttl().seconds(), 600);
    assert_eq!(imported.notes.len(), 5, "{imported:?}");
    assert!(
        imported
            .notes
            .iter()
            .all(|note| note.name.as_deref() == Some("web") && note.entry_id == "e1")
    );
    assert!(!texts(&imported).concat().chars().any(char::is_control));
}

#[test]
fn trust_domains_are_taken_over_by_either_spelling_and_wrong_ones_leave_the_entry_out() {
    let federating =
        |list: serde_json::Value| import(&[with(shown("e1", "/web"), "federates_with", list)], &all_agents());
    let imported = federating(json!(["spiffe://b.test", "a.test", "b.test"]));
    let told: Vec<_> = imported.entries[0]
        .federates_with()
        .iter()
        .map(ToString::to_string)
        .collect();
    assert_eq!(
        (told, imported.notes.len()),
        (vec!["a.test".to_owned(), "b.test".to_owned()], 0)
    );
    for bad in [json!(["dev.test"]), json!(["spiffe://a.test/x"]), json!([""])] {
        let imported = federating(bad);
        assert!(imported.entries.is_empty(), "{imported:?}");
        assert!(texts(&imported)[0].contains("federates_with"), "{imported:?}");
    }
}

#[test]
fn entries_that_differ_only_in_their_parent_become_one() {
    let other = with(
        shown("e2", "/web"),
        "parent_id",
        json!({"trust_domain": "dev.test", "path": "/spire/agent/n2"}),
    );
    let n = |name: &str| AgentPattern::parse(&format!("spiffe://dev.test/mintage/agent/{name}")).unwrap();
    let agents = [
        ("spiffe://dev.test/spire/agent/join_token/abc".to_owned(), vec![n("n1")]),
        ("spiffe://dev.test/spire/agent/n2".to_owned(), vec![n("n2")]),
    ];
    let options = SpireImport {
        agents: agents.into(),
        other_agents: None,
    };
    let imported = import(&[shown("e1", "/web"), other], &options);
    assert_eq!((imported.entries.len(), imported.notes.len()), (1, 1));
    assert!(imported.entries[0].agents().iter().eq([&n("n1"), &n("n2")]));
}

#[test]
fn names_are_derived_safely_and_never_twice() {
    let ids = ["/a/b", "/a-b", "/_x/y_", "/...", "/-"];
    let other = |n: usize, path: &str| with(shown(&format!("id-{n}"), path), "hint", json!(format!("h{n}")));
    let entries: Vec<_> = ids.iter().enumerate().map(|(n, path)| other(n, path)).collect();
    let imported = import(&entries, &all_agents());
    let names: Vec<_> = imported.entries.iter().map(|entry| entry.name().as_str()).collect();
    assert_eq!(names, ["a-b", "a-b-2", "id-3", "id-4", "x-y_"], "{imported:?}");
    assert_eq!(name_stem(&format!("/{}", "a".repeat(2_000))).len(), NAME_STEM_BYTES_MAX);
}

#[test]
fn one_page_of_several_and_foreign_text_are_refused() {
    let import = |json: &str| import_spire_json(json, &domain(), &all_agents());
    assert!(
        import(r#"{"entries": [], "next_page_token": "x"}"#)
            .unwrap_err()
            .contains("one page of several")
    );
    for bad in ["", "[", "{\"entries\": 5}", "{\"entries\": [{}]}", &"[".repeat(100_000)] {
        assert!(import(bad).unwrap_err().starts_with("not the output of"), "{:.20}", bad);
    }
    assert!(import("{}").unwrap().entries.is_empty());
}

proptest! {
    #[test]
    fn every_entry_is_taken_over_or_told(path in "(/\\PC{0,8}){0,4}", value in "\\PC{0,20}", ttl in any::<i64>(), dns in "\\PC{0,12}") {
        let mut entry = shown("e1", &path);
        entry["selectors"] = json!([{"type": "unix", "value": value}, {"type": "unix", "value": "uid:1"}]);
        entry["x509_svid_ttl"] = json!(ttl);
        entry["dns_names"] = json!([dns]);
        let imported = import(&[entry], &all_agents());
        prop_assert!(imported.entries.len() == 1 || imported.notes.iter().any(|note| note.name.is_none()));
        prop_assert!(!texts(&imported).concat().chars().any(char::is_control));
    }
}
