//! The rules an entry must follow beyond being readable: limits, selectors that can stand alone, DNS syntax.

use mintage_identity::{AgentPattern, Selector, TrustDomain, check_audience};

use crate::entry::{Entry, EntryError};
use crate::limits;
use crate::problem::{nearest, printable};

/// A selector kind that an agent of this product can show.
struct SelectorKind {
    kind: &'static str,
    /// True when the kernel vouches for it; false for hints about the executable, which an `exec` can outrun.
    stands_alone: bool,
    form: Form,
}

/// What the value of a selector looks like.
enum Form {
    Number,
    AbsolutePath,
    Sha256,
}

/// Every selector kind that some attestor yields. A new attestor adds its kinds here.
const SELECTOR_KINDS: [SelectorKind; 5] = [
    SelectorKind {
        kind: "unix:uid",
        stands_alone: true,
        form: Form::Number,
    },
    SelectorKind {
        kind: "unix:gid",
        stands_alone: true,
        form: Form::Number,
    },
    SelectorKind {
        kind: "unix:supplementary_gid",
        stands_alone: true,
        form: Form::Number,
    },
    SelectorKind {
        kind: "unix:path",
        stands_alone: false,
        form: Form::AbsolutePath,
    },
    SelectorKind {
        kind: "unix:sha256",
        stands_alone: false,
        form: Form::Sha256,
    },
];

/// Checks every rule on an entry whose names were parsed.
pub(crate) fn rules(entry: &Entry, domain: &TrustDomain) -> Result<(), EntryError> {
    agents(entry, domain)?;
    selectors(entry)?;
    dns_names(&entry.dns_names)?;
    if let Some(name) = &entry.common_name {
        common_name(name)?;
    }
    note("hint", &entry.hint, limits::HINT_BYTES_MAX)?;
    note("owner", &entry.owner, limits::NOTE_BYTES_MAX)?;
    note("environment", &entry.environment, limits::NOTE_BYTES_MAX)?;
    note("purpose", &entry.purpose, limits::NOTE_BYTES_MAX)?;
    jwt(entry)?;
    federation(entry, domain)?;
    whole(entry)
}

fn jwt(entry: &Entry) -> Result<(), EntryError> {
    let field = "jwt_audiences";
    let audiences = &entry.jwt_audiences;
    if entry.jwt_forbidden && !audiences.is_empty() {
        let problem = "names audiences, and jwt_forbidden says that there is no JWT-SVID at all; remove one of the two";
        return Err(EntryError::new(field, problem));
    }
    count(
        field,
        audiences.len(),
        limits::JWT_AUDIENCES_PER_ENTRY_MAX,
        "leave it out to allow any",
    )?;
    for (position, audience) in audiences.iter().enumerate() {
        check_audience(audience).map_err(|error| EntryError::at(field, position, error))?;
        if audiences[..position].contains(audience) {
            let problem = format!("{audience:?} is written twice; remove one");
            return Err(EntryError::at(field, position, problem));
        }
    }
    Ok(())
}

fn federation(entry: &Entry, domain: &TrustDomain) -> Result<(), EntryError> {
    let field = "federates_with";
    count(
        field,
        entry.federates_with.len(),
        limits::FEDERATES_WITH_PER_ENTRY_MAX,
        "name those that the workload speaks with",
    )?;
    match entry.federates_with.contains(domain) {
        true => Err(EntryError::new(
            field,
            format!("names {domain}, the own trust domain, whose bundle every workload is given; remove it"),
        )),
        false => Ok(()),
    }
}

fn agents(entry: &Entry, domain: &TrustDomain) -> Result<(), EntryError> {
    count(
        "agents",
        entry.agents.len(),
        limits::AGENTS_PER_ENTRY_MAX,
        "name a prefix ending in /*",
    )?;
    if entry.agents.is_empty() {
        let problem = format!("is empty; name an agent such as spiffe://{domain}/mintage/agent/NAME");
        return Err(EntryError::new("agents", problem));
    }
    for pattern in &entry.agents {
        if pattern.trust_domain_str() != domain.as_str() {
            let problem = format!("{pattern} is of another trust domain; agents here are below spiffe://{domain}/");
            return Err(EntryError::new("agents", problem));
        }
        if let AgentPattern::Prefix(prefix) = pattern {
            let path = prefix.stem().path();
            let above = matches!(path, "" | "/mintage" | "/mintage/agent");
            if !above && !path.starts_with("/mintage/agent/") {
                let problem =
                    format!("{pattern} can never match an agent; agents are spiffe://{domain}/mintage/agent/*");
                return Err(EntryError::new("agents", problem));
            }
        }
    }
    Ok(())
}

fn selectors(entry: &Entry) -> Result<(), EntryError> {
    count(
        "selectors",
        entry.selectors.len(),
        limits::SELECTORS_PER_ENTRY_MAX,
        "split the entry",
    )?;
    if entry.selectors.is_empty() {
        let problem = "is empty, which would match every process; name at least unix:uid:N";
        return Err(EntryError::new("selectors", problem));
    }
    let mut stands = false;
    for selector in entry.selectors.iter() {
        stands |= known_selector(selector)?.stands_alone;
    }
    if !stands {
        let problem = "holds only unix:path or unix:sha256, which a process can outlive by exec; add unix:uid:N";
        return Err(EntryError::new("selectors", problem));
    }
    single_valued(entry)
}

/// A process has one uid, one gid and one executable: two values of the same kind can never hold together.
fn single_valued(entry: &Entry) -> Result<(), EntryError> {
    let mut kinds = entry
        .selectors
        .iter()
        .map(Selector::kind)
        .filter(|kind| *kind != "unix:supplementary_gid");
    let Some(mut last) = kinds.next() else { return Ok(()) };
    // The set is ordered by text, so selectors of one kind are neighbours.
    for kind in kinds {
        if kind == last {
            let problem = format!("names {kind} twice; all selectors must hold, so this entry can never match");
            return Err(EntryError::new("selectors", problem));
        }
        last = kind;
    }
    Ok(())
}

fn known_selector(selector: &Selector) -> Result<&'static SelectorKind, EntryError> {
    let refuse = |problem: String| EntryError::new("selectors", format!("{selector}: {problem}"));
    let Some(known) = SELECTOR_KINDS.iter().find(|known| known.kind == selector.kind()) else {
        let names = SELECTOR_KINDS.map(|known| known.kind);
        return Err(refuse(match nearest(selector.kind(), &names) {
            Some(word) => format!("unknown kind; the nearest valid one is {word}"),
            None => format!("unknown kind; valid ones are {}", names.join(", ")),
        }));
    };
    let value = selector.value();
    match known.form {
        // Written any other way (leading zeros, a plus sign) it would never equal what the agent shows.
        Form::Number if value.parse::<u32>().is_ok_and(|n| n.to_string() == value) => Ok(known),
        Form::Number => Err(refuse(
            "the value must be a number up to 4294967295, without leading zeros".into(),
        )),
        Form::AbsolutePath if is_plain_path(value) => Ok(known),
        Form::AbsolutePath => Err(refuse(
            "the value must be an absolute path without empty, . or .. parts".into(),
        )),
        Form::Sha256 if value.len() == 64 && value.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) => Ok(known),
        Form::Sha256 => Err(refuse("the value must be 64 hexadecimal digits in lower case".into())),
    }
}

fn is_plain_path(path: &str) -> bool {
    path.strip_prefix('/')
        .is_some_and(|rest| rest.split('/').all(|part| !matches!(part, "" | "." | "..")))
}

fn dns_names(names: &[String]) -> Result<(), EntryError> {
    count(
        "dns_names",
        names.len(),
        limits::DNS_NAMES_PER_ENTRY_MAX,
        "split the entry",
    )?;
    for (position, name) in names.iter().enumerate() {
        dns_name(name)
            .map_err(|problem| EntryError::at("dns_names", position, format!("\"{}\" {problem}", printable(name))))?;
        if names[..position].contains(name) {
            return Err(EntryError::at(
                "dns_names",
                position,
                format!("{name:?} is written twice; remove one"),
            ));
        }
    }
    Ok(())
}

/// Preferred name syntax (RFC 1034 section 3.5, RFC 1123 section 2.1), in lower case, fully written out.
fn dns_name(name: &str) -> Result<(), String> {
    if name.is_empty() || name.len() > limits::DNS_NAME_BYTES_MAX {
        return Err(format!(
            "is {} bytes long; 1 to {} are allowed",
            name.len(),
            limits::DNS_NAME_BYTES_MAX
        ));
    }
    if name.contains('*') {
        return Err("has a wildcard, which would let this workload answer for others; write whole names".into());
    }
    if name.bytes().any(|b| b.is_ascii_uppercase()) {
        return Err("has an upper-case letter; DNS names are written in lower case here".into());
    }
    for label in name.split('.') {
        let good = |b: u8| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'-');
        if label.is_empty() || label.len() > limits::DNS_LABEL_BYTES_MAX {
            return Err("has an empty label, a label over 63 bytes or a dot at an end".into());
        }
        if !label.bytes().all(good) || label.starts_with('-') || label.ends_with('-') {
            return Err("has a label with other characters than a-z 0-9 or with - at an end".into());
        }
    }
    let last = name.rsplit('.').next().unwrap_or(name);
    if last.bytes().all(|b| b.is_ascii_digit()) {
        return Err("ends in a number and would be read as an IP address".into());
    }
    Ok(())
}

fn common_name(name: &str) -> Result<(), EntryError> {
    let good = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_' | b'@');
    if name.len() > limits::COMMON_NAME_BYTES_MAX {
        let problem = format!(
            "is {} bytes long, the limit is {}",
            name.len(),
            limits::COMMON_NAME_BYTES_MAX
        );
        return Err(EntryError::new("common_name", problem));
    }
    if !name.bytes().all(good) {
        let problem = format!("\"{}\" has characters other than a-z A-Z 0-9 . - _ @", printable(name));
        return Err(EntryError::new("common_name", problem));
    }
    Ok(())
}

fn note(field: &'static str, text: &str, max: usize) -> Result<(), EntryError> {
    if text.len() > max {
        return Err(EntryError::new(
            field,
            format!("is {} bytes long, the limit is {max}", text.len()),
        ));
    }
    if printable(text) != text {
        return Err(EntryError::new(
            field,
            "has a control character; write it in one plain line",
        ));
    }
    Ok(())
}

fn count(field: &'static str, given: usize, max: usize, remedy: &str) -> Result<(), EntryError> {
    if given > max {
        return Err(EntryError::new(
            field,
            format!("has {given} elements, the limit is {max}; {remedy}"),
        ));
    }
    Ok(())
}

fn whole(entry: &Entry) -> Result<(), EntryError> {
    let raw = entry.to_raw();
    let lists = [
        &raw.agents,
        &raw.selectors,
        &raw.dns_names,
        &raw.jwt_audiences,
        &raw.federates_with,
    ];
    let singles = [
        &raw.name,
        &raw.spiffe_id,
        &raw.common_name,
        &raw.hint,
        &raw.owner,
        &raw.environment,
        &raw.purpose,
    ];
    let bytes = lists
        .into_iter()
        .flatten()
        .chain(singles)
        .map(String::len)
        .sum::<usize>();
    if bytes > limits::ENTRY_TEXT_BYTES_MAX {
        let problem = format!(
            "the entry has {bytes} bytes of text, the limit is {}",
            limits::ENTRY_TEXT_BYTES_MAX
        );
        return Err(EntryError::new("name", problem));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use crate::RawEntry;
    use crate::samples::{domain, raw};

    fn refusal(change: impl FnOnce(&mut RawEntry)) -> (&'static str, String) {
        let mut entry = raw("web");
        change(&mut entry);
        let error = entry.validate(&domain()).expect_err("must be refused");
        (error.field(), error.problem().to_owned())
    }

    fn texts(list: &[&str]) -> Vec<String> {
        list.iter().map(ToString::to_string).collect()
    }

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
    fn empty_selectors_and_hints_that_stand_alone_are_refused() {
        assert_eq!(refusal(|e| e.selectors.clear()).0, "selectors");
        let hash = format!("unix:sha256:{}", "ab".repeat(32));
        for alone in [
            texts(&["unix:path:/bin/a"]),
            vec![hash.clone()],
            vec![hash.clone(), "unix:path:/bin/a".into()],
        ] {
            let (field, problem) = refusal(|e| e.selectors = alone);
            assert!(field == "selectors" && problem.contains("add unix:uid"), "{problem}");
        }
        for beside in ["unix:uid:0", "unix:gid:5", "unix:supplementary_gid:5"] {
            let good = RawEntry {
                selectors: vec![hash.clone(), beside.into()],
                ..raw("web")
            };
            assert!(good.validate(&domain()).is_ok(), "{beside}");
        }
    }

    #[test]
    fn selectors_that_could_never_hold_are_refused() {
        for (bad, says) in [
            ("unix:uid:+5", "number"),
            ("unix:uid:05", "number"),
            ("unix:uid:4294967296", "number"),
            ("unix:uid:root", "number"),
            ("unix:path:bin/a", "absolute path"),
            ("unix:path:/a/../b", "absolute path"),
            ("unix:path:/a/", "absolute path"),
            ("unix:sha256:ABCD", "64 hexadecimal"),
            ("unix:uuid:5", "the nearest valid one is unix:uid"),
            ("k8s:ns:prod", "valid ones are"),
        ] {
            let (field, problem) = refusal(|e| e.selectors = texts(&["unix:gid:1", bad]));
            assert!(field == "selectors" && problem.contains(says), "{bad}: {problem}");
        }
        let (_, problem) = refusal(|e| e.selectors = texts(&["unix:uid:1", "unix:uid:2"]));
        assert!(problem.contains("never match"), "{problem}");
        let groups = texts(&["unix:supplementary_gid:1", "unix:supplementary_gid:2"]);
        assert!(
            RawEntry {
                selectors: groups,
                ..raw("web")
            }
            .validate(&domain())
            .is_ok()
        );
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
}
