//! Bundles of other trust domains: what is taken, in which order, and how much.

use mintage_identity::TrustDomain;
use mintage_ledger::Body;

use super::samples::{bundle, domain, record};
use crate::command::{Refusal, RefusalKind, remove_federated, set_federated};
use crate::limits::{FEDERATED_MAX, FEDERATED_OCTETS_MAX, FEDERATED_OCTETS_SUM_MAX};
use crate::{FederatedContent, Ignored, View};

fn other(name: &str) -> TrustDomain {
    TrustDomain::parse(name).unwrap()
}

fn content(sequence: u64, root: &[u8]) -> FederatedContent {
    FederatedContent {
        sequence,
        refresh_hint_seconds: 300,
        roots_der: vec![root.to_vec()],
        jwt_keys: vec![("k".into(), vec![2; 91])],
        revocation_unchecked: false,
    }
}

fn append(view: &mut View, body: Body) -> Option<Ignored> {
    let index = view.applied();
    // Through its octets, so that what a command drafts is what a ledger takes.
    record(1, body.clone()).encode().unwrap();
    view.apply(index, &record(1, body)).unwrap();
    view.ignored(index)
}

fn begun() -> View {
    let mut view = View::new(&domain());
    append(&mut view, bundle(1));
    view
}

fn set(view: &mut View, name: &str, content: &FederatedContent) -> u64 {
    let body = set_federated(view, &other(name), content).unwrap().unwrap();
    assert_eq!(append(view, body), None);
    view.applied() - 1
}

#[test]
fn a_bundle_is_set_kept_replaced_and_removed_at_its_revision_only() {
    let mut view = begun();
    let (old, new) = (content(4, b"a"), content(5, b"b"));
    let first = set(&mut view, "other.test", &old);
    let stands = view.federated_with(&other("other.test")).unwrap().clone();
    assert_eq!((stands.revision, &stands.content), (first, &old));
    assert_eq!(
        set_federated(&view, &other("other.test"), &old).unwrap(),
        None,
        "nothing to record"
    );
    let before = view.clone();
    let stale = remove_federated(&view, &other("other.test")).unwrap();
    let second = set(&mut view, "other.test", &new);
    assert!(view.federated_changed_since(&before) && !view.federated_changed_since(&view.clone()));
    assert_eq!(append(&mut view, stale), Some(Ignored::FederatedMoved));
    assert_eq!(
        view.federated().map(|record| record.revision).collect::<Vec<_>>(),
        [second]
    );
    let gone = remove_federated(&view, &other("other.test")).unwrap();
    assert_eq!(append(&mut view, gone.clone()), None);
    assert_eq!(
        (view.federated().count(), append(&mut view, gone)),
        (0, Some(Ignored::FederatedMoved))
    );
    let refused = remove_federated(&view, &other("other.test")).unwrap_err();
    assert_eq!(refused.kind(), RefusalKind::NotFound);
    set(&mut view, "other.test", &old);
}

#[test]
fn of_two_changes_made_on_one_view_the_first_counts() {
    let mut view = begun();
    let draft = |view: &View, root: &[u8]| {
        set_federated(view, &other("other.test"), &content(1, root))
            .unwrap()
            .unwrap()
    };
    let (one, two) = (draft(&view, b"a"), draft(&view, b"b"));
    assert_eq!(append(&mut view, one), None);
    assert_eq!(append(&mut view, two), Some(Ignored::FederatedMoved));
    assert_eq!(
        view.federated_with(&other("other.test")).unwrap().content.roots_der,
        [b"a"]
    );
}

#[test]
fn what_goes_back_differs_or_vouches_for_nothing_is_refused_and_the_old_one_stays() {
    let mut view = begun();
    set(&mut view, "other.test", &content(4, b"a"));
    let code = |name: &str, content: &FederatedContent| set_federated(&view, &other(name), content).unwrap_err().code();
    assert_eq!(code("other.test", &content(3, b"b")), "bundle-older");
    assert_eq!(code("other.test", &content(4, b"b")), "bundle-differs");
    assert_eq!(code("dev.test", &content(9, b"b")), "own-domain");
    for name in [&"x".repeat(201), "..", "-x", "_x"] {
        assert_eq!(code(name, &content(9, b"b")), "domain-no-file-name", "{name}");
    }
    assert_eq!(
        code(
            "other.test",
            &FederatedContent {
                sequence: 5,
                ..FederatedContent::default()
            }
        ),
        "bundle-empty"
    );
    let drafted = |content: &FederatedContent| set_federated(&view, &other("other.test"), content).unwrap().is_some();
    let unchecked = FederatedContent {
        revocation_unchecked: true,
        ..content(4, b"a")
    };
    assert!(
        drafted(&unchecked),
        "what the operator says of it may change under one sequence"
    );
    assert!(drafted(&content(0, b"b")), "PEM has no sequence");
}

#[test]
fn count_and_octets_are_limited_so_that_all_fit_one_message() {
    let mut view = begun();
    let large = |octets: usize| content(1, &vec![1; octets - 92]);
    let refused = set_federated(&view, &other("other.test"), &large(FEDERATED_OCTETS_MAX + 1)).unwrap_err();
    assert!(
        matches!(
            refused,
            Refusal::TooMany {
                limit: FEDERATED_OCTETS_MAX,
                ..
            }
        ),
        "{refused}"
    );
    let fit = FEDERATED_OCTETS_SUM_MAX / FEDERATED_OCTETS_MAX;
    for n in 0..fit {
        set(&mut view, &format!("d{n}"), &large(FEDERATED_OCTETS_MAX));
    }
    let refused = set_federated(&view, &other("more"), &content(1, b"a")).unwrap_err();
    assert!(refused.to_string().contains("federated remove"), "{refused}");
    // What takes the place of another counts once.
    set(
        &mut view,
        "d0",
        &FederatedContent {
            sequence: 2,
            ..large(FEDERATED_OCTETS_MAX)
        },
    );
    let mut view = begun();
    for n in 0..FEDERATED_MAX {
        set(&mut view, &format!("d{n}"), &content(1, b"a"));
    }
    let refused = set_federated(&view, &other("more"), &content(1, b"a")).unwrap_err();
    assert_eq!(refused.kind(), RefusalKind::Exhausted);
}
