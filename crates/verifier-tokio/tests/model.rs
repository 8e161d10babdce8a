//! The registry against a model: any sequence of registering, dropping, revoking and ending leaves exactly the right
//! connections open, and none behind.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

#[path = "../../verifier/tests/support/mod.rs"]
mod support;

use std::{collections::HashSet, sync::Arc};

use mintage_identity::Serial;
use mintage_revocation::{Added, Rule, RuleTarget};
use mintage_verifier::{RevocationCheck, RevocationView, TrustStore, Usage, VerifiedPeer};
use mintage_verifier_tokio::{Guard, Registry, RegistrySettings};
use proptest::prelude::*;
use support::{Ca, Clock, FakeView, Leaf, id, now, provider, trust};

const PEERS: usize = 6;

type Kind = (fn(&VerifiedPeer) -> RuleTarget, fn(usize, usize) -> bool);

/// The kinds of rules: whom each strikes that is made from a peer, and whether that is another one.
const KINDS: [Kind; 4] = [
    (
        |peer| RuleTarget::Identity(peer.id().clone()),
        |one, other| one == other,
    ),
    (
        |peer| {
            let folder = peer.id().as_str().rsplit_once('/').unwrap().0;
            RuleTarget::Prefix(format!("{folder}/*").parse().unwrap())
        },
        |one, other| one % 2 == other % 2,
    ),
    (|peer| RuleTarget::Key(*peer.spki_sha256()), |one, other| one == other),
    (|peer| RuleTarget::Issuer(*peer.issuer()), |_, _| true),
];

/// Two folders, of which one's name begins like the other's.
fn id_of(peer: usize) -> String {
    format!("spiffe://a.test/{}/{peer}", ["f", "f-x"][peer % 2])
}

#[derive(Debug, Clone)]
enum Op {
    Register(usize),
    Drop(prop::sample::Index),
    /// Revokes these peers and tells the registry by one delta.
    Revoke(Vec<usize>),
    /// Revokes whom a rule of this kind on this peer strikes, and tells the registry the rule alone.
    Rule(usize, usize),
    /// Tells of a certificate that no connection has.
    OtherNews,
    /// Looks at everything.
    Everything,
    End(usize),
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let op = prop_oneof![
        6 => (0..PEERS).prop_map(Op::Register),
        3 => any::<prop::sample::Index>().prop_map(Op::Drop),
        1 => prop::collection::vec(0..PEERS, 1..3).prop_map(Op::Revoke),
        1 => (0..KINDS.len(), 0..PEERS).prop_map(|(kind, peer)| Op::Rule(kind, peer)),
        1 => Just(Op::OtherNews),
        1 => Just(Op::Everything),
        1 => (0..PEERS).prop_map(Op::End),
    ];
    prop::collection::vec(op, 0..60)
}

/// The registry, and beside it what it should look like.
struct Model {
    root: Ca,
    view: Arc<FakeView>,
    registry: Registry,
    leaves: Vec<Leaf>,
    peers: Vec<VerifiedPeer>,
    /// Live connections in order of birth: the guard, whose it is, and whether it must be closed by now.
    live: Vec<(Guard, usize, bool)>,
    revoked: HashSet<usize>,
}

impl Model {
    fn new() -> Self {
        let root = Ca::root("root");
        let view = FakeView::fresh();
        let store = TrustStore::new(trust("a.test", &root, RevocationCheck::required(view.clone())));
        let leaf = |n| root.good_leaf(&id_of(n));
        let leaves: Vec<_> = (0..PEERS).map(leaf).collect();
        let algorithms = provider().signature_verification_algorithms;
        let peer = |leaf: &Leaf| {
            let trust = store.load();
            trust.peer_of(&leaf.chain, Usage::Client, &algorithms, now()).unwrap()
        };
        Self {
            peers: leaves.iter().map(peer).collect(),
            registry: Registry::start(store.clone(), Clock::new(), RegistrySettings::default()),
            leaves,
            root,
            view,
            live: Vec::new(),
            revoked: HashSet::new(),
        }
    }

    /// A delta that names these certificates.
    fn news_of<'a>(&self, serials: impl IntoIterator<Item = &'a Serial>) -> Added {
        let key_of = |serial| self.view.entry_key(&self.root.key_id(), serial).unwrap();
        Added {
            keys: serials.into_iter().map(key_of).collect(),
            ..Added::default()
        }
    }

    /// Marks whom it must have hit; returns how many connections were still open.
    fn expect_closed(&mut self, is_hit: impl Fn(usize) -> bool) -> usize {
        let mut hit = 0;
        for (_, peer, closed) in &mut self.live {
            hit += usize::from(is_hit(*peer) && !*closed);
            *closed |= is_hit(*peer);
        }
        hit
    }

    /// Does one step; returns how many connections the registry has told to end, and how many it should have.
    fn step(&mut self, op: &Op) -> (usize, usize) {
        match op {
            Op::Register(peer) => {
                let outcome = self.registry.register(self.peers[*peer].clone());
                assert_eq!(outcome.is_err(), self.revoked.contains(peer));
                self.live.extend(outcome.ok().map(|guard| (guard, *peer, false)));
                (0, 0)
            }
            Op::Drop(which) => {
                if !self.live.is_empty() {
                    self.live.swap_remove(which.index(self.live.len()));
                }
                (0, 0)
            }
            Op::Revoke(whom) => {
                for peer in whom {
                    self.view.revoke(self.root.key_id(), self.leaves[*peer].serial);
                    self.revoked.insert(*peer);
                }
                let added = self.news_of(whom.iter().map(|peer| &self.leaves[*peer].serial));
                let told = self.registry.apply(&added);
                (told, self.expect_closed(|peer| whom.contains(&peer)))
            }
            Op::Rule(kind, peer) => {
                let (target_of, strikes) = KINDS[*kind];
                for other in (0..PEERS).filter(|other| strikes(*peer, *other)) {
                    self.view.revoke(self.root.key_id(), self.leaves[other].serial);
                    self.revoked.insert(other);
                }
                let target = target_of(&self.peers[*peer]);
                let added = Added {
                    rules: vec![Rule { target, cut: None }],
                    ..Added::default()
                };
                let told = self.registry.apply(&added);
                (told, self.expect_closed(|other| strikes(*peer, other)))
            }
            Op::OtherNews => (self.registry.apply(&self.news_of([&self.root.serial])), 0),
            Op::Everything => {
                let everything = Added {
                    everything: true,
                    ..Added::default()
                };
                (self.registry.apply(&everything), 0)
            }
            Op::End(whom) => {
                let told = self.registry.end_id(&id(&id_of(*whom)), "test");
                (told, self.expect_closed(|peer| peer == *whom))
            }
        }
    }
}

fn run(ops: &[Op]) -> Result<(), TestCaseError> {
    let mut model = Model::new();
    for op in ops {
        let (told, expected) = model.step(op);
        prop_assert_eq!(told, expected, "{:?}", op);
        prop_assert_eq!(model.registry.counts().live, model.live.len());
        for (guard, _, closed) in &model.live {
            prop_assert_eq!(guard.is_closed(), *closed);
        }
    }
    model.live.clear();
    prop_assert_eq!(model.registry.counts().live, 0);
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn the_registry_keeps_exactly_the_right_connections_open(ops in ops()) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let _inside = runtime.enter();
        run(&ops)?;
    }
}
