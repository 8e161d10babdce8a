//! What news costs, and what becomes of connections when news stays away: a delta is looked up by what it names, however many
//! connections there are, and a filter that has grown too old ends them where the settings say so.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

#[path = "../../verifier/tests/support/mod.rs"]
mod support;

use std::{sync::Arc, time::Duration};

use mintage_revocation::{FreshnessPolicy, MapOwner, MapReader, MapWriter, Rule, RuleTarget};
use mintage_verifier::{RevocationCheck, TrustStore, Usage, VerifiedPeer};
use mintage_verifier_tokio::{
    CloseReason, Guard, RegisterError, Registry, RegistrySettings, UnknownStatus, follow_map, limits::CLOCK_AGAIN_AFTER,
};
use support::{Ca, Clock, Leaf, domain, id, now, provider, publisher::Publisher, trust};
use tokio::time::timeout;

/// Longer than anything here should take, shorter than a person's patience.
const PATIENCE: Duration = Duration::from_secs(20);
const MAX_AGE: Duration = Duration::from_secs(90);

struct World {
    clock: Arc<Clock>,
    root: Ca,
    issuing: Ca,
    other: Ca,
    publisher: Publisher,
    store: Arc<TrustStore>,
}

impl World {
    fn new() -> Self {
        let root = Ca::root("root");
        let (issuing, other) = (root.intermediate("issuing"), root.intermediate("other"));
        let publisher = Publisher::new("a.test", &[&root, &issuing, &other]);
        let check = RevocationCheck::Required {
            view: Some(publisher.follower.handle()),
            freshness: FreshnessPolicy::Bounded { max_age: MAX_AGE },
        };
        Self {
            store: TrustStore::new(trust("a.test", &root, check)),
            clock: Clock::new(),
            root,
            issuing,
            other,
            publisher,
        }
    }

    fn registry(&self, unknown_status: UnknownStatus) -> Registry {
        let settings = RegistrySettings {
            unknown_status,
            ..RegistrySettings::default()
        };
        Registry::start(self.store.clone(), self.clock.clone(), settings)
    }

    fn peer(&self, leaf: &Leaf) -> VerifiedPeer {
        let algorithms = provider().signature_verification_algorithms;
        let trust = self.store.load();
        trust.peer_of(&leaf.chain, Usage::Client, &algorithms, now()).unwrap()
    }
}

#[tokio::test]
async fn a_delta_looks_at_the_connections_that_it_names_and_at_no_other() {
    /// Connections of each peer.
    const EACH: usize = 50;
    let mut world = World::new();
    let registry = world.registry(UnknownStatus::default());
    let names = ["a/0", "a/1", "a/b/2", "a-x/3", "a", "c/5", "c/6", "c/7"];
    let leaves: Vec<Leaf> = (0..)
        .zip(names)
        .map(|(number, name)| {
            let issuer = if number < 7 { &world.issuing } else { &world.other };
            issuer.good_leaf(&format!("spiffe://a.test/{name}"))
        })
        .collect();
    let peers: Vec<_> = leaves.iter().map(|leaf| world.peer(leaf)).collect();
    let register = |peer: &VerifiedPeer| registry.register(peer.clone()).unwrap();
    let guards: Vec<Vec<Guard>> = peers
        .iter()
        .map(|peer| (0..EACH).map(|_| register(peer)).collect())
        .collect();
    let rule = |target| Rule { target, cut: None };
    let prefix = "spiffe://a.test/a/*".parse().unwrap();
    let (key, issuer) = (*peers[6].spki_sha256(), world.other.key_id());
    // What is said, and whom it strikes by their places above.
    let news: [(&[&Leaf], Vec<Rule>, &[usize]); 6] = [
        (&[&leaves[5]], Vec::new(), &[5]),
        (&[], vec![rule(RuleTarget::Identity(peers[3].id().clone()))], &[3]),
        (&[], vec![rule(RuleTarget::Prefix(prefix))], &[0, 1, 2]),
        (&[], vec![rule(RuleTarget::Key(key))], &[6]),
        (&[], vec![rule(RuleTarget::Issuer(issuer))], &[7]),
        (
            &[],
            vec![rule(RuleTarget::Identity(support::id("spiffe://a.test/nobody")))],
            &[],
        ),
    ];
    let mut open = vec![true; names.len()];
    for (serials, rules, struck) in news {
        let before = registry.counts().rechecked;
        let added = world.publisher.revoke(&world.issuing, serials, rules);
        assert_eq!(registry.apply(&added), struck.len() * EACH, "{added:?}");
        let looked_at = registry.counts().rechecked - before;
        assert_eq!(looked_at, (struck.len() * EACH) as u64, "{added:?}");
        for number in struck {
            open[*number] = false;
        }
        for (guards, open) in guards.iter().zip(&open) {
            assert!(guards.iter().all(|guard| guard.is_closed() != *open), "{added:?}");
        }
    }
    assert_eq!(open, [false, false, false, false, true, false, false, false]);
    assert_eq!(registry.counts().live, names.len() * EACH);
    drop(guards);
    // A rule on a key of an intermediate reaches what lies below it.
    let guard = register(&world.peer(&world.issuing.good_leaf("spiffe://a.test/d")));
    let _beside = register(&world.peer(&world.root.good_leaf("spiffe://a.test/e")));
    let key = guard.peer().path()[1].spki_sha256;
    let added = world
        .publisher
        .revoke(&world.issuing, &[], vec![rule(RuleTarget::Key(key))]);
    let before = registry.counts().rechecked;
    assert_eq!((registry.apply(&added), registry.counts().rechecked - before), (1, 1));
}

#[tokio::test]
async fn a_filter_that_grows_too_old_ends_connections_where_that_is_no_reason_to_live_on() {
    let world = World::new();
    world.clock.advance(MAX_AGE.as_secs() - 2);
    let (closing, keeping) = (
        world.registry(UnknownStatus::Close),
        world.registry(UnknownStatus::KeepUntilExpiry),
    );
    let peer = world.peer(&world.issuing.good_leaf("spiffe://a.test/web"));
    let (closed, kept) = (
        closing.register(peer.clone()).unwrap(),
        keeping.register(peer.clone()).unwrap(),
    );
    // The largest age is tolerated; the looks at it are a second apart by now.
    world.clock.advance(2);
    tokio::time::sleep(Duration::from_millis(1300)).await;
    assert!(!closed.is_closed(), "closed before its time: {:?}", closed.reason());
    world.clock.advance(1);
    let reason = timeout(PATIENCE, closed.closed()).await.unwrap();
    assert!(
        matches!(&reason, CloseReason::Refused(why) if why.code() == "revocation_stale"),
        "{reason}"
    );
    assert!(!kept.is_closed());
    assert_eq!((closing.counts().closed_refused, keeping.counts().rechecked), (1, 0));
    // Nobody new is let in by either.
    for registry in [&closing, &keeping] {
        assert!(matches!(
            registry.register(peer.clone()).unwrap_err(),
            RegisterError::Refused(why) if why.is_unknown_status()
        ));
    }
}

#[tokio::test]
async fn a_sign_of_life_keeps_connections_open_past_the_age() {
    let mut world = World::new();
    world.clock.advance(MAX_AGE.as_secs() - 2);
    let registry = world.registry(UnknownStatus::Close);
    let guard = registry
        .register(world.peer(&world.issuing.good_leaf("spiffe://a.test/web")))
        .unwrap();
    world.publisher.heartbeat(now().plus(MAX_AGE - Duration::from_secs(1)));
    world.clock.advance(4);
    tokio::time::sleep(Duration::from_millis(1300)).await;
    assert!(!guard.is_closed(), "{:?}", guard.reason());
    assert_eq!(registry.counts().rechecked, 0);
}

#[tokio::test]
async fn what_is_revoked_while_there_is_no_clock_ends_once_there_is_one() {
    let mut world = World::new();
    let registry = world.registry(UnknownStatus::KeepUntilExpiry);
    let web = "spiffe://a.test/web";
    let (bad, good) = (world.issuing.good_leaf(web), world.issuing.good_leaf(web));
    let register = |leaf: &Leaf| registry.register(world.peer(leaf)).unwrap();
    let (doomed, spared) = (register(&bad), register(&good));
    // The task sleeps for long by now; it must be woken, and find no clock either.
    tokio::time::sleep(Duration::from_millis(50)).await;
    world.clock.set_broken(true);
    let added = world.publisher.revoke(&world.issuing, &[&bad], Vec::new());
    assert_eq!(registry.apply(&added), 0, "nobody can say what is valid");
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert!(!doomed.is_closed());
    world.clock.set_broken(false);
    let reason = timeout(CLOCK_AGAIN_AFTER * 4, doomed.closed()).await.unwrap();
    assert!(matches!(reason, CloseReason::Refused(why) if why.code() == "revoked"));
    assert!(!spared.is_closed());
    assert_eq!(registry.counts().rechecked, 2, "everybody, once");
}

#[tokio::test]
async fn who_follows_the_map_looks_at_what_it_lists_and_at_no_other() {
    const OTHERS: u64 = 50;
    const DB: &str = "spiffe://a.test/db";
    let mut world = World::new();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("revocation.map");
    let mut writer = MapWriter::create(&path, &domain("a.test")).unwrap();
    writer.publish(&world.publisher.follower.view(), now()).unwrap();
    let map = Arc::new(MapReader::open(&path, &domain("a.test"), MapOwner::RootOrSelf).unwrap());
    let check = RevocationCheck::required(map.clone());
    let store = TrustStore::new(trust("a.test", &world.root, check));
    let registry = Registry::start(store, world.clock.clone(), RegistrySettings::default());
    let connect = |leaf: &Leaf| registry.register(world.peer(leaf)).unwrap();

    let leaf = world.issuing.good_leaf("spiffe://a.test/web");
    let one = connect(&leaf);
    let others: Vec<Guard> = (0..OTHERS).map(|_| connect(&world.issuing.good_leaf(DB))).collect();
    let following = tokio::spawn(follow_map(registry.clone(), map, Duration::from_millis(10)));
    let looked_at = async |count| {
        let looked = async {
            while registry.counts().rechecked < count {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(PATIENCE, looked).await.unwrap();
        assert_eq!(registry.counts().rechecked, count);
    };
    looked_at(OTHERS + 1).await;
    world.publisher.revoke(&world.issuing, &[&leaf], Vec::new());
    writer.publish(&world.publisher.follower.view(), now()).unwrap();
    timeout(PATIENCE, one.closed()).await.unwrap();
    looked_at(OTHERS + 2).await;
    drop(one);
    // A rule finds those of its identity.
    let target = RuleTarget::Identity(id(DB));
    world
        .publisher
        .revoke(&world.issuing, &[], vec![Rule { target, cut: None }]);
    writer.publish(&world.publisher.follower.view(), now()).unwrap();
    for other in &others {
        timeout(PATIENCE, other.closed()).await.unwrap();
    }
    looked_at(2 * OTHERS + 2).await;
    following.abort();
}
