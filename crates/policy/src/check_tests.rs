//! What an entry may say, field by field, and what is refused.

use proptest::prelude::*;

use crate::RawEntry;
use crate::samples::{domain, raw, refusal, texts};

#[test]
fn a_right_entry_survives_writing_and_reading() {
    let entry = raw("web").validate(&domain()).unwrap();
    assert_eq!(entry.to_raw().validate(&domain()).unwrap(), entry);
    assert_eq!(entry.ttl().seconds(), 300);
    assert_eq!(
        entry.dns_names(),
        ["web.dev.test", "web"],
        "the order of names is the writer's"
    );
    let short = RawEntry {
        ttl_seconds: 0,
        common_name: String::new(),
        ..raw("web")
    }
    .validate(&domain())
    .unwrap();
    assert_eq!((short.ttl().seconds(), short.common_name()), (600, None));
}

#[test]
fn identities_of_bad_form_reserved_or_of_another_trust_domain_are_refused() {
    for bad in [
        "spiffe://Dev.test/a",
        "SPIFFE://dev.test/a",
        "spiffe://dev.test",
        "spiffe://dev.test/",
        "spiffe://dev.test/a/",
        "spiffe://dev.test//a",
        "spiffe://dev.test/../a",
        "spiffe://dev.test/%2e%2e",
        "spiffe://dev.test/a\0",
        "spiffe://dev.test/ä",
        "spiffe://user@dev.test/a",
        "spiffe://dev.test:1/a",
        "spiffe://dev.test/a?x#y",
        "spiffe://other.test/a",
        "spiffe://dev.test/mintage",
        "spiffe://dev.test/mintage/agent/n1",
        "spiffe://dev.test/mintage/ca/r1",
        "",
    ] {
        assert_eq!(refusal(|e| e.spiffe_id = bad.into()).0, "spiffe_id", "{bad}");
    }
    let long = format!("spiffe://dev.test/{}", "a".repeat(2_048));
    assert_eq!(refusal(|e| e.spiffe_id = long).0, "spiffe_id");
}

#[test]
fn lifetimes_out_of_range_are_refused_and_never_clamped() {
    for bad in [-1, 1, 59, 86_401, i64::MAX, i64::MIN] {
        assert_eq!(refusal(|e| e.ttl_seconds = bad).0, "ttl", "{bad}");
    }
}

#[test]
fn agents_that_could_never_match_are_refused() {
    assert_eq!(refusal(|e| e.agents.clear()).0, "agents");
    for bad in [
        "spiffe://dev.test/web",
        "spiffe://dev.test/web/*",
        "spiffe://dev.test/mintage/ca/*",
        "spiffe://other.test/mintage/agent/n1",
        "spiffe://other.test/*",
        "spiffe://dev.test/mintage/agent/n*",
        "*",
    ] {
        assert_eq!(refusal(|e| e.agents = texts(&[bad])).0, "agents", "{bad}");
    }
    for good in [
        "spiffe://dev.test/*",
        "spiffe://dev.test/mintage/*",
        "spiffe://dev.test/mintage/agent/*",
    ] {
        assert!(
            RawEntry {
                agents: texts(&[good]),
                ..raw("web")
            }
            .validate(&domain())
            .is_ok(),
            "{good}"
        );
    }
    assert_eq!(refusal(|e| e.agents.push(e.agents[0].clone())).0, "agents");
}

#[test]
fn dns_names_are_whole_lower_case_host_names() {
    let label = "a".repeat(63);
    let longest = [label.as_str(), &label, &label, &"a".repeat(61)].join(".");
    assert_eq!(longest.len(), 253);
    for good in ["a", "a-b.c", "xn--bcher-kva.example", "1a.b", &longest] {
        assert!(
            RawEntry {
                dns_names: texts(&[good]),
                ..raw("web")
            }
            .validate(&domain())
            .is_ok(),
            "{good}"
        );
    }
    let (long_label, long_name) = ("a".repeat(64), format!("{longest}a"));
    for bad in [
        "",
        "*",
        "*.dev.test",
        "a.*.b",
        "A.b",
        "a_b",
        "-a",
        "a-",
        ".a",
        "a.",
        "a..b",
        "bücher.example",
        "a b",
        "a\n",
        "1.2.3.4",
        "a.1",
        &long_label,
        &long_name,
    ] {
        assert_eq!(refusal(|e| e.dns_names = texts(&[bad])).0, "dns_names", "{bad:?}");
    }
    assert_eq!(refusal(|e| e.dns_names = texts(&["a", "a"])).0, "dns_names");
    assert_eq!(
        refusal(|e| e.dns_names = (0..33).map(|n| format!("a{n}")).collect()).0,
        "dns_names"
    );
}

#[test]
fn names_and_notes_cannot_inject_into_logs_or_subjects() {
    for bad in ["web\nroot", "a,CN=b", "a/b", "a+b", "a\u{1b}[31m", &"a".repeat(65)] {
        assert_eq!(refusal(|e| e.common_name = bad.into()).0, "common_name", "{bad:?}");
    }
    for bad in ["a\nb", "\u{1b}[31m", "a\u{202e}b", &"a".repeat(257)] {
        assert_eq!(refusal(|e| e.owner = bad.into()).0, "owner", "{bad:?}");
        assert_eq!(refusal(|e| e.environment = bad.into()).0, "environment", "{bad:?}");
        assert_eq!(refusal(|e| e.purpose = bad.into()).0, "purpose", "{bad:?}");
        assert_eq!(refusal(|e| e.hint = bad.into()).0, "hint", "{bad:?}");
    }
    for bad in ["", "..", "a/b", "-a", "a b", &"a".repeat(129)] {
        assert_eq!(refusal(|e| e.name = bad.into()).0, "name", "{bad:?}");
    }
}

#[test]
fn audiences_are_plain_few_and_not_beside_a_ban() {
    let set = |list: &[&str]| {
        let list = texts(list);
        move |e: &mut RawEntry| e.jwt_audiences = list
    };
    let mut entry = raw("web");
    set(&["https://a", "b"])(&mut entry);
    assert!(entry.validate(&domain()).is_ok());
    let long = "x".repeat(256);
    for bad in [&[""][..], &["a\u{1b}[2J"], &[&long], &["a", "a"], &["a"; 33]] {
        assert_eq!(refusal(set(bad)).0, "jwt_audiences", "{bad:?}");
    }
    let (field, told) = refusal(|e| {
        e.jwt_forbidden = true;
        e.jwt_audiences = texts(&["a"]);
    });
    assert!(field == "jwt_audiences" && told.contains("jwt_forbidden"), "{told}");
}

#[test]
fn federation_is_with_other_trust_domains_by_their_bare_names() {
    let set = |list: &[&str]| {
        let list = texts(list);
        move |e: &mut RawEntry| e.federates_with = list
    };
    let mut entry = raw("web");
    set(&["b.test", "a.test"])(&mut entry);
    let valid = entry.validate(&domain()).unwrap();
    assert_eq!(valid.to_raw().federates_with, ["a.test", "b.test"]);
    for bad in [
        &["dev.test"][..],
        &["spiffe://b.test"],
        &["B.test"],
        &[""],
        &["b.test/"],
        &["b.test", "b.test"],
    ] {
        assert_eq!(refusal(set(bad)).0, "federates_with", "{bad:?}");
    }
    let (field, told) = refusal(|e| e.federates_with = (0..65).map(|n| format!("d{n}")).collect());
    assert!(field == "federates_with" && told.contains("the limit is 64"), "{told}");
    let other = refusal(set(&["dev.test"])).1;
    assert!(
        other.contains("own trust domain") && other.contains("remove it"),
        "{other}"
    );
}

#[test]
fn an_entry_that_would_fill_a_record_is_refused() {
    let agent = |n: usize| format!("spiffe://dev.test/mintage/agent/{n}{}", "a".repeat(60));
    assert_eq!(refusal(|e| e.agents = (0..65).map(agent).collect()).0, "agents");
    assert_eq!(
        refusal(|e| e.selectors = (0..33).map(|n| format!("unix:supplementary_gid:{n}")).collect()).0,
        "selectors"
    );
    let path = |n: usize| format!("unix:supplementary_gid:{n}");
    let (_, problem) = refusal(|e| {
        e.selectors = (0..30).map(path).collect();
        e.selectors.push(format!("unix:path:/{}", "a".repeat(1_000)));
        e.agents = (0..64).map(agent).collect();
        e.spiffe_id = format!("spiffe://dev.test/{}", "a".repeat(2_000));
        let tail = ["b", "c", "d"].map(|letter| letter.repeat(62)).join(".");
        e.dns_names = (10..42).map(|n| format!("{n}.{tail}.{}", "e".repeat(58))).collect();
    });
    assert!(problem.contains("bytes of text"), "{problem}");
}

proptest! {
    #[test]
    fn any_text_is_validated_or_refused_and_what_is_valid_stays_valid(
        name in "\\PC{0,12}", id in "(spiffe://dev.test)?[a-z/.%]{0,12}", agent in "\\PC{0,20}|spiffe://dev.test/\\*",
        selector in "unix:(uid|gid|path|sha256):[/a-f0-9]{1,8}|\\PC{0,20}", dns in "[a-zA-Z0-9.*-]{0,10}", ttl in any::<i64>(),
    ) {
        let entry = RawEntry {
            name, spiffe_id: id, agents: vec![agent], selectors: vec![selector, "unix:uid:1".into()],
            ttl_seconds: ttl, dns_names: vec![dns], ..RawEntry::default()
        };
        if let Ok(valid) = entry.validate(&domain()) {
            prop_assert_eq!(valid.to_raw().validate(&domain()).unwrap(), valid.clone());
            prop_assert_eq!(valid.to_raw().restore(&domain()).unwrap(), valid);
        }
    }
}
