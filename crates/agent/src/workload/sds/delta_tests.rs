//! Changes alone, by example and against a client that does as it is told.

use proptest::prelude::*;

use super::*;
use mintage_proto::sds::Problem;

/// Names and versions; everything is all of them but the alias.
#[derive(Clone, Debug, Default)]
struct Shelf(BTreeMap<String, String>);

impl Catalogue for Shelf {
    fn version(&self, name: &str) -> Option<String> {
        self.0.get(name).cloned()
    }

    fn everything(&self) -> Vec<String> {
        self.0.keys().filter(|name| *name != "default").cloned().collect()
    }
}

fn shelf(content: &[(&str, u32)]) -> Shelf {
    Shelf(
        content
            .iter()
            .map(|(name, version)| ((*name).to_owned(), version.to_string()))
            .collect(),
    )
}

fn owned(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

fn changing(subscribe: &[&str], unsubscribe: &[&str]) -> DeltaDiscoveryRequest {
    DeltaDiscoveryRequest {
        resource_names_subscribe: owned(subscribe),
        resource_names_unsubscribe: owned(unsubscribe),
        ..DeltaDiscoveryRequest::default()
    }
}

fn answer(nonce: &str, problem: Option<&str>) -> DeltaDiscoveryRequest {
    DeltaDiscoveryRequest {
        response_nonce: nonce.to_owned(),
        error_detail: problem.map(|message| Problem {
            code: 13,
            message: message.to_owned(),
        }),
        ..DeltaDiscoveryRequest::default()
    }
}

fn reply(owed: Owed) -> Reply {
    match owed {
        Owed::Reply(reply) => reply,
        other => panic!("{other:?}"),
    }
}

#[test]
fn only_what_changed_is_sent_and_what_is_not_there_is_told_once() {
    let mut stream = Delta::default();
    stream.hear(&changing(&["a", "b", "none"], &[]));
    let first = reply(stream.owed(&shelf(&[("a", 1), ("b", 1), ("c", 1)])));
    assert_eq!((first.send, first.removed), (owned(&["a", "b"]), owned(&["none"])));
    let now = shelf(&[("a", 1), ("b", 2), ("c", 1)]);
    assert_eq!(reply(stream.owed(&now)).send, ["b"]);
    assert_eq!(stream.owed(&now), Owed::Nothing);
    let gone = reply(stream.owed(&shelf(&[("b", 2)])));
    assert_eq!((gone.send, gone.removed), (Vec::new(), owned(&["a"])));
    let back = reply(stream.owed(&shelf(&[("a", 1), ("b", 2), ("none", 1)])));
    assert_eq!((back.send, back.removed), (owned(&["a", "none"]), Vec::new()));
}

#[test]
fn a_reconnect_with_versions_is_sent_what_differs() {
    let held = shelf(&[("a", 1), ("b", 2)]);
    let again = DeltaDiscoveryRequest {
        initial_resource_versions: [("a", "1"), ("b", "1"), ("c", "1")]
            .map(|(name, version)| (name.to_owned(), version.to_owned()))
            .into(),
        ..changing(&["a", "b", "c"], &[])
    };
    let mut stream = Delta::default();
    stream.hear(&again);
    let first = reply(stream.owed(&held));
    assert_eq!((first.send, first.removed), (owned(&["b"]), owned(&["c"])));
    let mut stream = Delta::default();
    stream.hear(&again);
    assert_eq!(stream.owed(&shelf(&[("a", 1), ("b", 1), ("c", 1)])), Owed::Nothing);
    // Versions are brought along in the first request alone.
    stream.hear(&again);
    assert_eq!(reply(stream.owed(&held)).send, ["a", "b"], "it subscribed again");
}

#[test]
fn a_refused_response_is_told_and_not_sent_again_and_foreign_nonces_say_nothing() {
    let held = shelf(&[("a", 1)]);
    let mut stream = Delta::default();
    stream.hear(&changing(&["a"], &[]));
    let first = reply(stream.owed(&held));
    for _ in 0..3 {
        assert_eq!(
            stream.hear(&answer(&first.nonce, Some("no"))),
            Heard::Refused("no".to_owned())
        );
        assert_eq!(stream.owed(&held), Owed::Nothing);
    }
    assert_eq!(stream.hear(&answer("77", Some("no"))), Heard::Stale);
    assert_eq!(stream.hear(&answer(&first.nonce, None)), Heard::Taken);
    // A late answer still says what its client wants.
    let late = DeltaDiscoveryRequest {
        resource_names_subscribe: owned(&["a"]),
        ..answer("77", None)
    };
    assert_eq!(stream.hear(&late), Heard::Stale);
    assert_eq!(reply(stream.owed(&held)).send, ["a"]);
}

#[test]
fn everything_is_followed_as_it_comes_and_goes() {
    let mut stream = Delta::default();
    stream.hear(&changing(&[], &[]));
    assert_eq!(reply(stream.owed(&shelf(&[("a", 1), ("default", 1)]))).send, ["a"]);
    let next = reply(stream.owed(&shelf(&[("b", 1), ("default", 1)])));
    assert_eq!((next.send, next.removed), (owned(&["b"]), owned(&["a"])));
    stream.hear(&changing(&["default"], &["*"]));
    let named = reply(stream.owed(&shelf(&[("b", 1), ("default", 1)])));
    assert_eq!((named.send, named.removed), (owned(&["default"]), Vec::new()));
    assert_eq!(stream.withdraw().unwrap().removed, ["default"]);
    assert_eq!(stream.withdraw(), None, "nothing is left");
}

#[test]
fn a_version_that_is_none_of_ours_is_not_kept_but_its_name_is() {
    let mut stream = Delta::default();
    stream.hear(&DeltaDiscoveryRequest {
        initial_resource_versions: [("a".to_owned(), "x".repeat(1000)), ("b".to_owned(), "x".repeat(1000))].into(),
        ..changing(&["a", "b"], &[])
    });
    assert!(stream.told.values().all(|version| version.as_deref() == Some("")));
    let first = reply(stream.owed(&shelf(&[("a", 1)])));
    assert_eq!((first.send, first.removed), (owned(&["a"]), owned(&["b"])));
}

#[test]
fn names_are_counted_once() {
    let mut stream = Delta::default();
    stream.hear(&changing(&["a", "b"], &[]));
    assert_eq!(stream.names_after(&changing(&["b", "c"], &[])).count(), 3);
}

const NAMES: [&str; 4] = ["a", "b", "c", "default"];

#[derive(Clone, Debug)]
enum Op {
    Subscribe(Vec<usize>),
    Unsubscribe(Vec<usize>),
    Answer(u64, bool),
    Put(usize, u32),
    Take(usize),
}

fn op() -> impl Strategy<Value = Op> {
    let names = || proptest::collection::vec(0..NAMES.len(), 1..4);
    prop_oneof![
        names().prop_map(Op::Subscribe),
        names().prop_map(Op::Unsubscribe),
        (0..9u64, any::<bool>()).prop_map(|(nonce, well)| Op::Answer(nonce, well)),
        (0..NAMES.len(), 0..3u32).prop_map(|(name, version)| Op::Put(name, version)),
        (0..NAMES.len()).prop_map(Op::Take),
    ]
}

proptest! {
    /// Whatever comes in whatever order, a client that does as it is told holds exactly what it is subscribed to, and is
    /// sent nothing that it holds unless it subscribed anew.
    #[test]
    fn a_client_holds_what_it_is_subscribed_to(
        everything in any::<bool>(),
        brought in proptest::collection::btree_map(0..NAMES.len(), 0..3u32, 0..3),
        ops in proptest::collection::vec(op(), 1..40),
    ) {
        let mut shelf = shelf(&[("a", 0), ("default", 0)]);
        let mut stream = Delta::default();
        let mut names: BTreeSet<&str> = if everything { BTreeSet::new() } else { ["a"].into() };
        let first: Vec<&str> = names.iter().copied().collect();
        let mut held: BTreeMap<String, String> = brought.iter()
            .map(|(at, version)| (NAMES[*at].to_owned(), version.to_string()))
            .filter(|(name, _)| everything || name == "a")
            .collect();
        stream.hear(&DeltaDiscoveryRequest {
            initial_resource_versions: held.clone().into_iter().collect(),
            ..changing(&first, &[])
        });
        let mut again = BTreeSet::new();
        let mut last = 0u64;
        for op in [None].into_iter().chain(ops.into_iter().map(Some)) {
            let picked = |picked: &[usize]| picked.iter().map(|at| NAMES[*at]).collect::<Vec<_>>();
            match op {
                None => {}
                Some(Op::Subscribe(at)) => {
                    again = picked(&at).into_iter().collect();
                    names.extend(&again);
                    stream.hear(&changing(&picked(&at), &[]));
                }
                Some(Op::Unsubscribe(at)) => {
                    for name in picked(&at) {
                        names.remove(name);
                        if !everything { held.remove(name); }
                    }
                    stream.hear(&changing(&[], &picked(&at)));
                }
                Some(Op::Answer(nonce, well)) => {
                    let heard = stream.hear(&answer(&nonce.to_string(), (!well).then_some("no")));
                    let ours = (1..=last).contains(&nonce);
                    prop_assert_eq!(heard == Heard::Stale, !ours);
                    prop_assert_eq!(matches!(heard, Heard::Refused(_)), ours && !well);
                }
                Some(Op::Put(name, version)) => drop(shelf.0.insert(NAMES[name].to_owned(), version.to_string())),
                Some(Op::Take(name)) => drop(shelf.0.remove(NAMES[name])),
            }
            if let Owed::Reply(reply) = stream.owed(&shelf) {
                last = reply.nonce.parse().unwrap();
                for name in reply.send {
                    let version = shelf.0[&name].clone();
                    let known = held.insert(name.clone(), version.clone()) == Some(version);
                    prop_assert!(!known || again.contains(name.as_str()), "{} twice", name);
                }
                for name in reply.removed {
                    held.remove(&name);
                }
            }
            again.clear();
            let wanted: BTreeMap<String, String> = shelf.0.iter()
                .filter(|(name, _)| names.contains(name.as_str()) || everything && *name != "default")
                .map(|(name, version)| (name.clone(), version.clone()))
                .collect();
            prop_assert_eq!(&held, &wanted);
            prop_assert_eq!(stream.owed(&shelf), Owed::Nothing, "a second look at the same owes nothing");
        }
    }
}
