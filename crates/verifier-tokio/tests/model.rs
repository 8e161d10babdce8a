//! The registry against a model: any sequence of registering, dropping, revoking and ending leaves exactly the right
//! connections open, and none behind.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

#[path = "../../verifier/tests/support/mod.rs"]
mod support;

use std::collections::{HashMap, HashSet};

use mintage_revocation::Added;
use mintage_verifier::{RevocationCheck, RevocationView, TrustStore, Usage, VerifiedPeer};
use mintage_verifier_tokio::{Guard, Registry, RegistrySettings};
use proptest::prelude::*;
use support::{Ca, Clock, FakeView, id, now, provider, trust};

const PEERS: usize = 6;

#[derive(Debug, Clone)]
enum Op {
    Register(usize),
    Drop(prop::sample::Index),
    /// Revokes these peers and tells the registry by one delta.
    Revoke(Vec<usize>),
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
        1 => Just(Op::OtherNews),
        1 => Just(Op::Everything),
        1 => (0..PEERS).prop_map(Op::End),
    ];
    prop::collection::vec(op, 0..60)
}

fn run(ops: &[Op]) -> Result<(), TestCaseError> {
    let root = Ca::root("root");
    let view = FakeView::fresh();
    let store = TrustStore::new(trust("a.test", &root, RevocationCheck::required(view.clone())));
    let registry = Registry::start(store.clone(), Clock::new(), RegistrySettings::default());
    let leaves: Vec<_> = (0..PEERS)
        .map(|n| root.good_leaf(&format!("spiffe://a.test/{n}")))
        .collect();
    let peers: Vec<VerifiedPeer> = leaves
        .iter()
        .map(|leaf| {
            let algorithms = provider().signature_verification_algorithms;
            store
                .load()
                .peer_of(&leaf.chain, Usage::Client, &algorithms, now())
                .unwrap()
        })
        .collect();
    let key_of = |serial| view.entry_key(&root.key_id(), serial).unwrap();

    // Connections by their order of birth: the guard, whose it is, and whether it must be closed by now.
    let mut live: HashMap<usize, (Guard, usize, bool)> = HashMap::new();
    let mut revoked = HashSet::new();
    for (born, op) in ops.iter().enumerate() {
        let mut expected = 0;
        let told = match op {
            Op::Register(peer) => {
                match registry.register(peers[*peer].clone()) {
                    Ok(guard) => {
                        prop_assert!(!revoked.contains(peer));
                        live.insert(born, (guard, *peer, false));
                    }
                    Err(_) => prop_assert!(revoked.contains(peer)),
                }
                0
            }
            Op::Drop(which) => {
                let mut births: Vec<_> = live.keys().copied().collect();
                births.sort_unstable();
                if !births.is_empty() {
                    live.remove(&births[which.index(births.len())]);
                }
                0
            }
            Op::Revoke(whom) => {
                for peer in whom {
                    view.revoke(root.key_id(), leaves[*peer].serial);
                    revoked.insert(*peer);
                }
                for (_, peer, closed) in live.values_mut() {
                    expected += usize::from(whom.contains(peer) && !*closed);
                    *closed |= whom.contains(peer);
                }
                let keys = whom.iter().map(|peer| key_of(&leaves[*peer].serial)).collect();
                registry.apply(&Added {
                    keys,
                    ..Added::default()
                })
            }
            Op::OtherNews => {
                let keys = vec![key_of(&root.serial)];
                registry.apply(&Added {
                    keys,
                    ..Added::default()
                })
            }
            Op::Everything => registry.apply(&Added {
                everything: true,
                ..Added::default()
            }),
            Op::End(whom) => {
                for (_, peer, closed) in live.values_mut() {
                    expected += usize::from(peer == whom && !*closed);
                    *closed |= peer == whom;
                }
                registry.end_id(&id(&format!("spiffe://a.test/{whom}")), "test")
            }
        };
        prop_assert_eq!(told, expected, "{:?}", op);
        prop_assert_eq!(registry.counts().live, live.len());
        for (guard, _, closed) in live.values() {
            prop_assert_eq!(guard.is_closed(), *closed);
        }
    }
    live.clear();
    prop_assert_eq!(registry.counts().live, 0);
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
