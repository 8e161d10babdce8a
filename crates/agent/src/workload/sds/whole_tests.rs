//! The state of the world, by example and against a client that follows the protocol.

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

fn asking(names: &[&str], nonce: &str) -> DiscoveryRequest {
    DiscoveryRequest {
        resource_names: names.iter().map(|name| (*name).to_owned()).collect(),
        response_nonce: nonce.to_owned(),
        ..DiscoveryRequest::default()
    }
}

fn reply(owed: Owed) -> Reply {
    match owed {
        Owed::Reply(reply) => reply,
        other => panic!("{other:?}"),
    }
}

#[test]
fn any_combination_of_names_is_answered_in_one_response() {
    let shelf = shelf(&[("ALL", 1), ("ROOTCA", 1), ("default", 1), ("a", 1)]);
    let mut stream = Whole::default();
    assert_eq!(stream.owed(&shelf), Owed::Nothing, "nothing was asked for");
    assert_eq!(
        stream.hear(&asking(&["ROOTCA", "default", "ALL", "none"], "")),
        Heard::Taken
    );
    let first = reply(stream.owed(&shelf));
    assert_eq!(first.send, ["ALL", "ROOTCA", "default"]);
    assert_eq!(stream.hear(&asking(&["none"], &first.nonce)), Heard::Taken);
    assert_eq!(stream.owed(&shelf), Owed::Unknown(vec!["none".to_owned()]));
}

#[test]
fn who_names_nothing_wants_everything_until_it_has_named_something() {
    let shelf = shelf(&[("a", 1), ("b", 1), ("default", 1)]);
    let mut stream = Whole::default();
    stream.hear(&asking(&[], ""));
    let first = reply(stream.owed(&shelf));
    assert_eq!(first.send, ["a", "b"]);
    stream.hear(&asking(&[], &first.nonce));
    assert_eq!(stream.owed(&shelf), Owed::Nothing);
    stream.hear(&asking(&["default"], &first.nonce));
    let second = reply(stream.owed(&shelf));
    assert_eq!(second.send, ["default"]);
    stream.hear(&asking(&[], &second.nonce));
    assert_eq!(stream.owed(&shelf), Owed::Nothing);
    assert!(!stream.everything() && stream.names().next().is_none());
    stream.hear(&asking(&["*", "default"], &second.nonce));
    assert_eq!(reply(stream.owed(&shelf)).send, ["a", "b", "default"]);
}

#[test]
fn a_refused_response_is_told_once_and_not_sent_again() {
    let mut stream = Whole::default();
    stream.hear(&asking(&["a"], ""));
    let first = reply(stream.owed(&shelf(&[("a", 1)])));
    let nack = DiscoveryRequest {
        error_detail: Some(Problem {
            code: 13,
            message: "no key".to_owned(),
        }),
        ..asking(&["a"], &first.nonce)
    };
    for _ in 0..3 {
        assert_eq!(stream.hear(&nack), Heard::Refused("no key".to_owned()));
        assert_eq!(stream.owed(&shelf(&[("a", 1)])), Owed::Nothing);
    }
    let second = reply(stream.owed(&shelf(&[("a", 2)])));
    assert_ne!(second.version, first.version);
    // What was sent before is no answer to the last response.
    assert_eq!(stream.hear(&nack), Heard::Stale);
    assert_eq!(stream.owed(&shelf(&[("a", 2)])), Owed::Nothing);
    let back = reply(stream.owed(&shelf(&[("a", 1)])));
    assert_eq!(back.version, first.version, "a version is its content's");
}

#[test]
fn a_client_that_comes_back_with_the_version_is_sent_nothing() {
    let held = shelf(&[("a", 1), ("b", 1)]);
    let mut stream = Whole::default();
    stream.hear(&asking(&["a", "b"], ""));
    let first = reply(stream.owed(&held));
    let again = DiscoveryRequest {
        version_info: first.version,
        ..asking(&["a", "b"], "of the stream before")
    };
    let mut stream = Whole::default();
    assert_eq!(stream.hear(&again), Heard::Taken);
    assert_eq!(stream.owed(&held), Owed::Nothing);
    assert_eq!(reply(stream.owed(&shelf(&[("a", 1), ("b", 2)]))).send, ["a", "b"]);
    let mut fewer = Whole::default();
    fewer.hear(&DiscoveryRequest {
        resource_names: vec!["a".to_owned()],
        ..again
    });
    assert_eq!(
        reply(fewer.owed(&held)).send,
        ["a"],
        "the version of two is not that of one"
    );
}

#[test]
fn what_was_taken_away_is_missing_in_another_response_and_the_last_of_it_ends_the_stream() {
    let mut stream = Whole::default();
    stream.hear(&asking(&["a", "b"], ""));
    reply(stream.owed(&shelf(&[("a", 1), ("b", 1)])));
    assert_eq!(reply(stream.owed(&shelf(&[("b", 1)]))).send, ["b"]);
    assert_eq!(
        stream.owed(&shelf(&[])),
        Owed::Unknown(vec!["a".to_owned(), "b".to_owned()])
    );
}

const NAMES: [&str; 5] = ["a", "b", "c", "default", "*"];

#[derive(Clone, Debug)]
enum Op {
    /// The client asks for these from now on.
    Ask(Vec<usize>),
    /// The client answers the last response it got, well or not, by what it asks for now.
    Answer(bool),
    /// An answer that was overtaken by another response.
    Late(Vec<usize>),
    Put(usize, u32),
    Take(usize),
}

fn op() -> impl Strategy<Value = Op> {
    let names = || proptest::collection::vec(0..NAMES.len(), 0..4);
    prop_oneof![
        names().prop_map(Op::Ask),
        any::<bool>().prop_map(Op::Answer),
        names().prop_map(Op::Late),
        (0..4usize, 0..3u32).prop_map(|(name, version)| Op::Put(name, version)),
        (0..4usize).prop_map(Op::Take),
    ]
}

proptest! {
    /// Whatever comes in whatever order, a client that follows the protocol ends with exactly what it asks for, and is
    /// never sent the same twice in a row.
    #[test]
    fn a_client_ends_with_what_it_asks_for(ops in proptest::collection::vec(op(), 1..40)) {
        let mut stream = Whole::default();
        let mut shelf = shelf(&[("a", 0), ("default", 0)]);
        let (mut asks, mut nonce, mut held) = (Vec::<&str>::new(), String::new(), None::<BTreeMap<String, String>>);
        let mut named = false;
        let names_of = |picked: &[usize]| picked.iter().map(|at| NAMES[*at]).collect::<Vec<_>>();
        for op in ops {
            match op {
                Op::Ask(picked) => {
                    asks = names_of(&picked);
                    stream.hear(&asking(&asks, &nonce));
                    named |= !asks.is_empty();
                }
                Op::Answer(well) => {
                    let problem = (!well).then(|| Problem { code: 13, message: String::new() });
                    let request = DiscoveryRequest { error_detail: problem, ..asking(&asks, &nonce) };
                    prop_assert_ne!(stream.hear(&request), Heard::Stale);
                    named |= !asks.is_empty();
                }
                Op::Late(picked) => {
                    if nonce.parse::<u64>().is_ok_and(|number| number > 1) {
                        let old = (nonce.parse::<u64>().unwrap() - 1).to_string();
                        prop_assert_eq!(stream.hear(&asking(&names_of(&picked), &old)), Heard::Stale);
                    }
                }
                Op::Put(name, version) => drop(shelf.0.insert(NAMES[name].to_owned(), version.to_string())),
                Op::Take(name) => drop(shelf.0.remove(NAMES[name])),
            }
            let everything = match asks.is_empty() {
                true => stream.everything() && !named,
                false => asks.contains(&"*"),
            };
            let wanted: BTreeMap<String, String> = shelf.0.iter().filter(|(name, _)| {
                asks.contains(&name.as_str()) || everything && *name != "default"
            }).map(|(name, version)| (name.clone(), version.clone())).collect();
            match stream.owed(&shelf) {
                Owed::Reply(reply) => {
                    let sent: BTreeMap<_, _> = reply.send.iter().map(|name| (name.clone(), shelf.0[name].clone())).collect();
                    prop_assert_ne!(Some(&sent), held.as_ref(), "the same twice");
                    prop_assert_eq!(&sent, &wanted);
                    nonce = reply.nonce;
                    held = Some(sent);
                }
                Owed::Nothing => {
                    let has = held.clone().unwrap_or_default();
                    for (name, version) in &wanted {
                        prop_assert_eq!(has.get(name), Some(version), "{} is missing", name);
                    }
                    // What it no longer asks for it may drop.
                    if !wanted.is_empty() || held.is_some() { held = Some(wanted); }
                }
                // The stream ends here.
                Owed::Unknown(_) => { prop_assert!(wanted.is_empty()); break }
            }
            prop_assert_eq!(stream.owed(&shelf), Owed::Nothing, "a second look at the same owes nothing");
        }
    }
}
