//! The selectors an entry may ask for: kinds that an agent shows, in the one form it shows them in, so that no entry waits
//! for what can never hold.

use mintage_identity::Selector;

use crate::check::count;
use crate::entry::{Entry, EntryError};
use crate::limits;
use crate::problem::nearest;

/// A selector kind.
struct SelectorKind {
    kind: &'static str,
    /// False for hints about the executable, which an `exec` can outrun. The others are vouched for by the kernel, the service
    /// manager or the container runtime.
    stands_alone: bool,
    /// True when a workload shows one value at most.
    is_single: bool,
    form: Form,
}

/// What the value of a selector looks like.
#[derive(Clone, Copy)]
enum Form {
    Number,
    AbsolutePath,
    /// 64 hexadecimal digits.
    Hex256,
    /// `sha256:` and 64 hexadecimal digits.
    Digest,
    /// A unit's name with its type (systemd.unit(5)).
    Unit,
    /// What Kubernetes takes as a name (RFC 1123, section 2.1).
    Name,
    /// `key:value`.
    Pair,
    Text,
}

const fn kind(kind: &'static str, form: Form) -> SelectorKind {
    SelectorKind {
        kind,
        stands_alone: true,
        is_single: true,
        form,
    }
}

impl SelectorKind {
    const fn hint(mut self) -> Self {
        self.stands_alone = false;
        self
    }

    const fn many(mut self) -> Self {
        self.is_single = false;
        self
    }
}

/// Every kind that an entry may name. `unix` and `cgroup` are shown by every agent; the others by one with the attestor of that name,
/// and until then such an entry gives nothing. A new attestor adds its kinds here.
const SELECTOR_KINDS: [SelectorKind; 19] = [
    kind("unix:uid", Form::Number),
    kind("unix:gid", Form::Number),
    kind("unix:supplementary_gid", Form::Number).many(),
    kind("unix:path", Form::AbsolutePath).hint(),
    kind("unix:sha256", Form::Hex256).hint(),
    kind("cgroup:path", Form::AbsolutePath),
    kind("systemd:unit", Form::Unit),
    kind("docker:container_id", Form::Hex256),
    kind("docker:image_config_digest", Form::Digest),
    kind("docker:label", Form::Pair).many(),
    kind("k8s:ns", Form::Name),
    kind("k8s:sa", Form::Name),
    kind("k8s:pod-name", Form::Name),
    kind("k8s:pod-uid", Form::Name),
    kind("k8s:pod-label", Form::Pair).many(),
    kind("k8s:node-name", Form::Name),
    kind("k8s:container-name", Form::Name),
    kind("k8s:container-image", Form::Text).many(),
    kind("k8s:pod-owner", Form::Pair).many(),
];

/// Checks the selectors of an entry, one by one and together.
///
/// # Errors
/// The selector and what is wrong with it.
pub(crate) fn check(entry: &Entry) -> Result<(), EntryError> {
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
    let mut single = None;
    // The set is ordered by text, so selectors of one kind are neighbours.
    for selector in entry.selectors.iter() {
        let known = known(selector)?;
        stands |= known.stands_alone;
        if known.is_single && single.replace(known.kind) == Some(known.kind) {
            let problem = format!(
                "names {} twice; all selectors must hold, so this entry can never match",
                known.kind
            );
            return Err(EntryError::new("selectors", problem));
        }
    }
    if !stands {
        let problem = "holds only unix:path or unix:sha256, which a process can outlive by exec; add unix:uid:N";
        return Err(EntryError::new("selectors", problem));
    }
    Ok(())
}

fn known(selector: &Selector) -> Result<&'static SelectorKind, EntryError> {
    let refuse = |problem: String| EntryError::new("selectors", format!("{selector}: {problem}"));
    let Some(known) = SELECTOR_KINDS.iter().find(|known| known.kind == selector.kind()) else {
        let names = SELECTOR_KINDS.map(|known| known.kind);
        return Err(refuse(match nearest(selector.kind(), &names) {
            Some(word) => format!("unknown kind; the nearest valid one is {word}"),
            None => format!("unknown kind; valid ones are {}", names.join(", ")),
        }));
    };
    match known.form.takes(selector.value()) {
        true => Ok(known),
        false => Err(refuse(format!("the value must be {}", known.form.told()))),
    }
}

impl Form {
    /// True for a value in the one form that is shown: written any other way it would never equal that.
    fn takes(self, value: &str) -> bool {
        match self {
            Self::Number => value.parse::<u32>().is_ok_and(|number| number.to_string() == value),
            Self::AbsolutePath => value
                .strip_prefix('/')
                .is_some_and(|rest| rest.split('/').all(|part| !matches!(part, "" | "." | ".."))),
            Self::Hex256 => value.len() == 64 && value.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')),
            Self::Digest => value.strip_prefix("sha256:").is_some_and(|hex| Self::Hex256.takes(hex)),
            Self::Unit => value.rsplit_once('.').is_some_and(|(name, unit_type)| {
                let plain = |b: u8| b.is_ascii_alphanumeric() || b":_.\\@-".contains(&b);
                !name.is_empty() && name.bytes().all(plain) && UNIT_TYPES.contains(&unit_type)
            }),
            Self::Name => {
                let plain = |b: u8| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.');
                value.len() <= 253 && value.bytes().all(plain)
            }
            Self::Pair => value.split_once(':').is_some_and(|(key, _)| !key.is_empty()),
            Self::Text => true,
        }
    }

    fn told(self) -> &'static str {
        match self {
            Self::Number => "a number up to 4294967295, without leading zeros",
            Self::AbsolutePath => "an absolute path without empty, . or .. parts",
            Self::Hex256 => "64 hexadecimal digits in lower case",
            Self::Digest => "sha256: and 64 hexadecimal digits in lower case",
            Self::Unit => "a unit with its type, such as web.service",
            Self::Name => "lower-case letters, digits, - and ., at most 253",
            Self::Pair => "key:value",
            Self::Text => "some text",
        }
    }
}

/// Types of units that have processes.
const UNIT_TYPES: [&str; 5] = ["service", "scope", "socket", "mount", "swap"];

#[cfg(test)]
mod tests {
    use crate::RawEntry;
    use crate::samples::{domain, raw, refusal, texts};

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
            ("aws_iid:tag:prod", "valid ones are"),
            ("cgroup:path:/", "absolute path"),
            ("cgroup:path:web.service", "absolute path"),
            ("systemd:unit:web", "with its type"),
            ("systemd:unit:web.timer", "with its type"),
            ("systemd:unit:a/b.service", "with its type"),
            ("systemd:id:web.service", "the nearest valid one is systemd:unit"),
            ("docker:container_id:abc", "64 hexadecimal"),
            ("docker:image_config_digest:sha512:00", "sha256: and"),
            ("docker:label:com.example", "key:value"),
            ("k8s:ns:Prod", "lower-case"),
            ("k8s:pod-label::web", "key:value"),
            ("k8s:service-account:web", "the nearest valid one"),
        ] {
            let (field, problem) = refusal(|e| e.selectors = texts(&["unix:gid:1", bad]));
            assert!(field == "selectors" && problem.contains(says), "{bad}: {problem}");
        }
        let (_, problem) = refusal(|e| e.selectors = texts(&["unix:uid:1", "unix:uid:2"]));
        assert!(problem.contains("never match"), "{problem}");
    }

    #[test]
    fn what_an_attestor_can_show_is_taken_alone_and_several_times_where_a_workload_has_several() {
        let digest = format!("docker:image_config_digest:sha256:{}", "0f".repeat(32));
        let container = format!("docker:container_id:{}", "0f".repeat(32));
        for good in [
            &["unix:supplementary_gid:1", "unix:supplementary_gid:2"][..],
            &["cgroup:path:/system.slice/web.service"],
            &["systemd:unit:web@1-2.service"],
            &[digest.as_str(), container.as_str()],
            &["docker:label:tier:web", "docker:label:env:a:b"],
            &[
                "k8s:ns:prod",
                "k8s:sa:web",
                "k8s:pod-label:app:web",
                "k8s:pod-label:tier:front",
            ],
            &[
                "k8s:container-image:registry.example/web@sha256:00",
                "k8s:container-image:web:1",
            ],
        ] {
            let entry = RawEntry {
                selectors: texts(good),
                ..raw("web")
            };
            assert!(entry.validate(&domain()).is_ok(), "{good:?}");
        }
        let (_, problem) = refusal(|e| e.selectors = texts(&["k8s:ns:a", "k8s:ns:b"]));
        assert!(problem.contains("k8s:ns twice"), "{problem}");
    }
}
