//! Live connections over real handshakes: they end on revocation and at notAfter, their tasks are woken, and nothing
//! is left behind in the registry.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

#[path = "../../verifier/tests/support/mod.rs"]
mod support;

use std::{io, sync::Arc, time::Duration};

use mintage_revocation::{Added, MapOwner, MapReader, MapWriter, Rule, RuleTarget};
use mintage_verifier::{
    AllowedIds, ClientAuth, IdentitySource, RevocationCheck, RevocationView, TlsSettings, TrustStore, Usage,
    VerifiedPeer, client_config, server_config,
};
use mintage_verifier_tokio::{
    AcceptedPeers, Acceptor, CloseReason, Connector, HandshakeError, RegisterError, Registry, RegistrySettings,
    UnknownStatus, Watched, follow_map, limits::ACCEPTED_QUEUE_MAX,
};
use support::{Ca, Clock, FakeView, Leaf, LeafSpec, domain, id, now, provider, publisher::Publisher, trust};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, DuplexStream},
    time::timeout,
};
use tokio_rustls::{client, server};

const WEB: &str = "spiffe://a.test/web";
const DB: &str = "spiffe://a.test/db";
/// Longer than anything here should take, shorter than a person's patience.
const PATIENCE: Duration = Duration::from_secs(20);

struct World {
    clock: Arc<Clock>,
    root: Ca,
    issuing: Ca,
    view: Arc<FakeView>,
    store: Arc<TrustStore>,
    registry: Registry,
}

impl World {
    fn new() -> Self {
        Self::with(RegistrySettings::default())
    }

    fn with(settings: RegistrySettings) -> Self {
        let (clock, root, view) = (Clock::new(), Ca::root("root"), FakeView::fresh());
        let store = TrustStore::new(trust("a.test", &root, RevocationCheck::required(view.clone())));
        Self {
            registry: Registry::start(store.clone(), clock.clone(), settings),
            issuing: root.intermediate("issuing"),
            clock,
            root,
            view,
            store,
        }
    }

    fn source(&self, leaf: &Leaf) -> Arc<IdentitySource> {
        IdentitySource::new(leaf.chain.clone(), leaf.private_key(), &provider()).unwrap()
    }

    fn tls(&self) -> TlsSettings {
        TlsSettings::new(provider(), self.clock.clone())
    }

    fn acceptor(&self, clients: ClientAuth) -> Acceptor {
        let source = self.source(&self.issuing.good_leaf(DB));
        let config = server_config(self.store.clone(), source, clients, &self.tls()).unwrap();
        Acceptor::new(config, self.registry.clone())
    }

    fn connector(&self, identity: Option<&Leaf>) -> Connector {
        let source = identity.map(|leaf| self.source(leaf));
        let config = client_config(self.store.clone(), source, AllowedIds::OwnTrustDomain, &self.tls()).unwrap();
        // A registry of its own, so that counts are the server's alone.
        let registry = Registry::start(self.store.clone(), self.clock.clone(), RegistrySettings::default());
        Connector::new(config, registry)
    }

    /// A connection of the client `leaf` to a server that demands certificates.
    async fn connect(&self, leaf: &Leaf) -> Pair {
        let acceptor = self.acceptor(ClientAuth::Mandatory(AllowedIds::OwnTrustDomain));
        let (near, far) = tokio::io::duplex(64 * 1024);
        let connector = self.connector(Some(leaf));
        let name = "peer.test".try_into().unwrap();
        let (client, server) = tokio::join!(connector.connect(name, near), acceptor.accept(far));
        Pair {
            client: client.unwrap(),
            server: server.unwrap(),
        }
    }

    fn peer(&self, leaf: &Leaf) -> VerifiedPeer {
        let algorithms = provider().signature_verification_algorithms;
        let trust = self.store.load();
        trust.peer_of(&leaf.chain, Usage::Client, &algorithms, now()).unwrap()
    }

    /// What a delta says that names this leaf.
    fn news_of(&self, leaf: &Leaf) -> Added {
        Added {
            keys: vec![self.view.entry_key(&self.issuing.key_id(), &leaf.serial).unwrap()],
            ..Added::default()
        }
    }
}

struct Pair {
    client: Watched<client::TlsStream<DuplexStream>>,
    server: Watched<server::TlsStream<DuplexStream>>,
}

impl Pair {
    async fn echo(&mut self) {
        self.client.write_all(b"ping").await.unwrap();
        self.client.flush().await.unwrap();
        let mut buffer = [0; 4];
        self.server.read_exact(&mut buffer).await.unwrap();
        assert_eq!(&buffer, b"ping");
    }
}

fn reason_of(error: &io::Error) -> &CloseReason {
    assert_eq!(error.kind(), io::ErrorKind::ConnectionAborted, "{error}");
    error.get_ref().unwrap().downcast_ref().unwrap()
}

#[tokio::test]
async fn a_revoked_peers_connection_ends_and_its_neighbours_lives() {
    let world = World::new();
    let (bad, good) = (world.issuing.good_leaf(WEB), world.issuing.good_leaf(WEB));
    let (mut doomed, mut spared) = (world.connect(&bad).await, world.connect(&good).await);
    doomed.echo().await;
    assert_eq!(doomed.server.guard().unwrap().peer().id(), &id(WEB));
    assert_eq!(world.registry.counts().live, 2);

    // A read that is already waiting is woken.
    let (mut reader, mut writer) = tokio::io::split(doomed.server);
    let reading = tokio::spawn(async move {
        let mut buffer = [0; 1];
        reader.read(&mut buffer).await
    });
    tokio::task::yield_now().await;
    world.view.revoke(world.issuing.key_id(), bad.serial);
    assert_eq!(world.registry.apply(&world.news_of(&bad)), 1);
    let error = timeout(PATIENCE, reading).await.unwrap().unwrap().unwrap_err();
    assert!(
        matches!(reason_of(&error), CloseReason::Refused(why) if why.code() == "revoked"),
        "{error}"
    );
    let error = writer.write_all(b"late").await.unwrap_err();
    assert!(matches!(reason_of(&error), CloseReason::Refused(_)));

    spared.echo().await;
    drop((writer, doomed.client));
    let counts = world.registry.counts();
    assert_eq!((counts.live, counts.closed_refused), (1, 1));
    assert_eq!(world.registry.apply(&world.news_of(&bad)), 0);
}

#[tokio::test]
async fn a_write_that_waits_for_a_dawdling_reader_is_woken() {
    let world = World::new();
    let leaf = world.issuing.good_leaf(WEB);
    let pair = world.connect(&leaf).await;
    let mut server = pair.server;
    let writing = tokio::spawn(async move { server.write_all(&vec![0; 1 << 20]).await });
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert!(!writing.is_finished());
    world.view.revoke(world.issuing.key_id(), leaf.serial);
    world.registry.apply(&world.news_of(&leaf));
    let error = timeout(PATIENCE, writing).await.unwrap().unwrap().unwrap_err();
    assert!(matches!(reason_of(&error), CloseReason::Refused(_)));
    // The client never read: the connection must still go away.
    assert_eq!(world.registry.counts().live, 0);
}

#[tokio::test]
async fn a_shutdown_of_an_ended_connection_does_not_wait_for_the_peer() {
    let world = World::new();
    let leaf = world.issuing.good_leaf(WEB);
    let mut pair = world.connect(&leaf).await;
    // Fill the pipe so that a goodbye cannot be sent.
    let mut cannot_block = tokio::io::split(pair.server);
    let stuffed = timeout(Duration::from_millis(100), cannot_block.1.write_all(&vec![0; 1 << 20])).await;
    assert!(stuffed.is_err());
    pair.server = cannot_block.0.unsplit(cannot_block.1);
    world.registry.end_all("drain");
    let outcome = timeout(PATIENCE, pair.server.shutdown()).await.unwrap();
    assert!(matches!(reason_of(&outcome.unwrap_err()), CloseReason::Ended("drain")));
}

#[tokio::test]
async fn a_revoked_intermediate_ends_every_connection_below_it() {
    let world = World::new();
    let guards: Vec<_> = (0..3)
        .map(|_| {
            world
                .registry
                .register(world.peer(&world.issuing.good_leaf(WEB)))
                .unwrap()
        })
        .collect();
    let other = world.registry.register(world.peer(&world.root.good_leaf(DB))).unwrap();
    world.view.revoke(world.root.key_id(), world.issuing.serial);
    let added = Added {
        keys: vec![
            world
                .view
                .entry_key(&world.root.key_id(), &world.issuing.serial)
                .unwrap(),
        ],
        ..Added::default()
    };
    assert_eq!(world.registry.apply(&added), 3);
    assert!(guards.iter().all(|guard| guard.is_closed()) && !other.is_closed());
}

#[tokio::test]
async fn a_rule_finds_who_it_names_and_a_whole_snapshot_looks_at_every_connection() {
    let world = World::new();
    let leaf = world.issuing.good_leaf(WEB);
    let guard = world.registry.register(world.peer(&leaf)).unwrap();
    world.view.revoke(world.issuing.key_id(), leaf.serial);
    let rule = Rule {
        target: RuleTarget::Identity(id(WEB)),
        cut: None,
    };
    let added = Added {
        rules: vec![rule],
        ..Added::default()
    };
    assert_eq!(world.registry.apply(&added), 1);
    assert!(matches!(guard.closed().await, CloseReason::Refused(_)));

    let leaf = world.issuing.good_leaf(WEB);
    let guard = world.registry.register(world.peer(&leaf)).unwrap();
    world.view.revoke(world.issuing.key_id(), leaf.serial);
    let added = Added {
        everything: true,
        ..Added::default()
    };
    assert_eq!(world.registry.apply(&added), 1);
    assert!(guard.is_closed());
}

#[tokio::test]
async fn a_removed_root_ends_what_hangs_from_it() {
    let world = World::new();
    let guard = world
        .registry
        .register(world.peer(&world.issuing.good_leaf(WEB)))
        .unwrap();
    assert_eq!(world.registry.trust_changed(), 0);
    let next = Ca::root("next root");
    world
        .store
        .swap(trust("a.test", &next, RevocationCheck::required(world.view.clone())));
    assert_eq!(world.registry.trust_changed(), 1);
    assert!(matches!(guard.closed().await, CloseReason::Refused(why) if why.code() == "root_removed"));
}

#[tokio::test]
async fn a_connection_ends_at_not_after() {
    let world = World::new();
    let short = world.issuing.leaf(LeafSpec {
        ends: 2,
        ..LeafSpec::good(WEB)
    });
    let mut pair = world.connect(&short).await;
    let long = world
        .registry
        .register(world.peer(&world.issuing.good_leaf(WEB)))
        .unwrap();
    pair.echo().await;
    world.clock.advance(1);
    tokio::time::sleep(Duration::from_millis(1300)).await;
    assert!(!pair.server.guard().unwrap().is_closed(), "closed before its time");
    world.clock.advance(1);
    let mut buffer = [0; 1];
    let error = timeout(PATIENCE, pair.server.read(&mut buffer))
        .await
        .unwrap()
        .unwrap_err();
    assert!(matches!(reason_of(&error), CloseReason::Expired));
    let counts = world.registry.counts();
    assert_eq!((counts.closed_expired, counts.closed_refused), (1, 0));
    assert!(!long.is_closed());
}

#[tokio::test]
async fn a_connection_that_ends_sooner_than_all_others_is_not_overslept() {
    let world = World::new();
    let _long = world
        .registry
        .register(world.peer(&world.issuing.good_leaf(WEB)))
        .unwrap();
    // The task sleeps for long by now; the new one must wake it.
    tokio::time::sleep(Duration::from_millis(50)).await;
    let short = world.issuing.leaf(LeafSpec {
        ends: 1,
        ..LeafSpec::good(WEB)
    });
    let guard = world.registry.register(world.peer(&short)).unwrap();
    world.clock.advance(1);
    let before = std::time::Instant::now();
    assert!(matches!(
        timeout(PATIENCE, guard.closed()).await.unwrap(),
        CloseReason::Expired
    ));
    assert!(before.elapsed() < Duration::from_secs(2));
}

#[tokio::test]
async fn a_peer_revoked_between_handshake_and_registration_is_not_taken_in() {
    let world = World::new();
    let leaf = world.issuing.good_leaf(WEB);
    let peer = world.peer(&leaf);
    world.view.revoke(world.issuing.key_id(), leaf.serial);
    assert!(matches!(
        world.registry.register(peer.clone()).unwrap_err(),
        RegisterError::Refused(why) if why.code() == "revoked"
    ));
    world.clock.advance(601);
    assert!(matches!(
        world.registry.register(peer).unwrap_err(),
        RegisterError::Refused(why) if why.code() == "expired"
    ));
    assert_eq!(world.registry.counts().live, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_race_of_registering_and_revoking_leaves_a_revoked_connection_open() {
    let world = Arc::new(World::new());
    for _ in 0..200 {
        let leaf = world.issuing.good_leaf(WEB);
        let (peer, news) = (world.peer(&leaf), world.news_of(&leaf));
        let registering = {
            let world = world.clone();
            tokio::spawn(async move { world.registry.register(peer) })
        };
        world.view.revoke(world.issuing.key_id(), leaf.serial);
        world.registry.apply(&news);
        if let Ok(guard) = registering.await.unwrap() {
            assert!(guard.is_closed(), "a revoked connection lives");
        }
    }
    assert_eq!(world.registry.counts().live, 0);
}

#[tokio::test]
async fn an_unknown_status_keeps_or_closes_as_the_settings_say() {
    for (unknown_status, closed) in [(UnknownStatus::KeepUntilExpiry, 0), (UnknownStatus::Close, 1)] {
        let world = World::with(RegistrySettings {
            unknown_status,
            ..RegistrySettings::default()
        });
        let _guard = world
            .registry
            .register(world.peer(&world.issuing.good_leaf(WEB)))
            .unwrap();
        world
            .store
            .swap(trust("a.test", &world.root, RevocationCheck::not_yet_known()));
        assert_eq!(world.registry.trust_changed(), closed);
    }
}

#[tokio::test]
async fn a_connection_of_unknown_status_ends_when_its_issuing_certificate_is_revoked() {
    let world = World::new();
    let below = world
        .registry
        .register(world.peer(&world.issuing.good_leaf(WEB)))
        .unwrap();
    let beside = world.registry.register(world.peer(&world.root.good_leaf(DB))).unwrap();
    let stale = FakeView::aged(1_000_000);
    stale.revoke(world.root.key_id(), world.issuing.serial);
    world
        .store
        .swap(trust("a.test", &world.root, RevocationCheck::required(stale)));
    assert_eq!(world.registry.trust_changed(), 1);
    assert!(matches!(below.closed().await, CloseReason::Refused(why) if why.code() == "revoked"));
    assert!(!beside.is_closed(), "its status is unknown, and nothing more");
}

#[tokio::test]
async fn connections_without_a_key_yet_are_found_by_any_news() {
    let world = World::new();
    let leaf = world.issuing.good_leaf(WEB);
    let news = world.news_of(&world.issuing.good_leaf(WEB));
    // At its registration nothing was known about its issuer, and its domain asked for no revocation.
    let blind = FakeView::covering_nothing();
    let guard = {
        let settings = RegistrySettings {
            unknown_status: UnknownStatus::Close,
            ..RegistrySettings::default()
        };
        let store = TrustStore::new(trust("a.test", &world.root, RevocationCheck::None));
        let registry = Registry::start(store.clone(), world.clock.clone(), settings);
        let guard = registry.register(world.peer(&leaf)).unwrap();
        store.swap(trust("a.test", &world.root, RevocationCheck::required(blind.clone())));
        assert_eq!(registry.trust_changed(), 1, "not covered");
        let unknown = registry.register(world.peer(&leaf));
        assert!(matches!(unknown.unwrap_err(), RegisterError::Refused(why) if why.code() == "not_covered"));
        guard
    };
    drop(guard);

    let store = TrustStore::new(trust("a.test", &world.root, RevocationCheck::None));
    let registry = Registry::start(store.clone(), world.clock.clone(), RegistrySettings::default());
    let guard = registry.register(world.peer(&leaf)).unwrap();
    store.swap(trust("a.test", &world.root, RevocationCheck::required(blind.clone())));
    registry.trust_changed();
    blind.revoke(world.issuing.key_id(), leaf.serial);
    // The key of another certificate: those without a key are looked at all the same.
    assert_eq!(registry.apply(&news), 1);
    assert!(guard.is_closed());
}

#[tokio::test]
async fn a_full_registry_refuses_and_counts_and_frees_places() {
    let world = World::with(RegistrySettings {
        connections_max: 2,
        ..RegistrySettings::default()
    });
    let peer = || world.peer(&world.issuing.good_leaf(WEB));
    let first = world.registry.register(peer()).unwrap();
    let _second = world.registry.register(peer()).unwrap();
    assert!(matches!(
        world.registry.register(peer()).unwrap_err(),
        RegisterError::Full { limit: 2 }
    ));
    assert_eq!(world.registry.counts().refused_full, 1);
    drop(first);
    assert!(world.registry.register(peer()).is_ok());
}

#[tokio::test]
async fn a_banned_id_and_a_draining_server_end_connections() {
    let world = World::new();
    let web = world
        .registry
        .register(world.peer(&world.issuing.good_leaf(WEB)))
        .unwrap();
    let db = world
        .registry
        .register(world.peer(&world.issuing.good_leaf(DB)))
        .unwrap();
    assert_eq!(world.registry.end_id(&id(WEB), "banned"), 1);
    assert!(matches!(web.closed().await, CloseReason::Ended("banned")));
    assert!(!db.is_closed() && !db.token().is_cancelled());
    assert_eq!(world.registry.end_all("drain"), 1);
    assert!(db.is_closed());
    // The first reason stands.
    assert!(matches!(web.reason(), Some(CloseReason::Ended("banned"))));
    assert_eq!(world.registry.counts().closed_ended, 2);
}

#[tokio::test]
async fn an_anonymous_client_is_served_without_a_place_in_the_registry() {
    let world = World::new();
    let acceptor = world.acceptor(ClientAuth::Optional(AllowedIds::OwnTrustDomain));
    let (near, far) = tokio::io::duplex(64 * 1024);
    let connector = world.connector(None);
    let name = "peer.test".try_into().unwrap();
    let (client, server) = tokio::join!(connector.connect(name, near), acceptor.accept(far));
    let mut pair = Pair {
        client: client.unwrap(),
        server: server.unwrap(),
    };
    pair.echo().await;
    assert!(pair.server.guard().is_none());
    assert_eq!(pair.client.guard().unwrap().peer().id(), &id(DB));
    assert_eq!(world.registry.counts().live, 0);
}

#[tokio::test]
async fn a_peer_that_says_nothing_is_dropped_at_the_deadline() {
    let world = World::new();
    let acceptor = world
        .acceptor(ClientAuth::Mandatory(AllowedIds::OwnTrustDomain))
        .with_handshake_timeout(Duration::from_millis(100));
    let (_silent, far) = tokio::io::duplex(1024);
    let error = timeout(PATIENCE, acceptor.accept(far)).await.unwrap().unwrap_err();
    assert!(matches!(error, HandshakeError::Timeout(_)));
    // One byte now and then does not stretch the deadline.
    let (mut slow, far) = tokio::io::duplex(1024);
    let dripping = tokio::spawn(async move {
        while slow.write_all(&[0x16]).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(30)).await;
        }
    });
    assert!(timeout(PATIENCE, acceptor.accept(far)).await.unwrap().is_err());
    timeout(PATIENCE, dripping).await.unwrap().unwrap();
}

#[tokio::test]
async fn the_expiry_task_ends_with_the_registry() {
    let world = World::new();
    let store = Arc::downgrade(&world.store);
    let guard = world
        .registry
        .register(world.peer(&world.issuing.good_leaf(WEB)))
        .unwrap();
    // Let the task go to sleep first.
    tokio::time::sleep(Duration::from_millis(50)).await;
    drop(world);
    assert!(store.upgrade().is_some(), "a guard keeps its registry");
    drop(guard);
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert!(store.upgrade().is_none(), "something keeps the registry alive");
}

#[tokio::test]
async fn a_signed_delta_and_the_nodes_map_end_connections() {
    let world = World::new();
    let mut publisher = Publisher::new("a.test", &[&world.root, &world.issuing]);
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("revocation.map");
    let mut writer = MapWriter::create(&path, &domain("a.test")).unwrap();
    writer.publish(&publisher.follower.view(), now()).unwrap();
    let map = Arc::new(MapReader::open(&path, &domain("a.test"), MapOwner::RootOrSelf).unwrap());
    let with_map = TrustStore::new(trust("a.test", &world.root, RevocationCheck::required(map.clone())));
    let other = Registry::start(with_map, world.clock.clone(), RegistrySettings::default());
    world.store.swap(trust(
        "a.test",
        &world.root,
        RevocationCheck::required(publisher.follower.handle()),
    ));

    let leaf = world.issuing.good_leaf(WEB);
    let (here, there) = (
        world.registry.register(world.peer(&leaf)).unwrap(),
        other.register(world.peer(&leaf)).unwrap(),
    );
    let following = tokio::spawn(follow_map(other, map, Duration::from_millis(10)));
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert!(!here.is_closed() && !there.is_closed());
    let added = publisher.revoke(&world.issuing, &[&leaf], Vec::new());
    assert!(!added.concerns_all());
    assert_eq!(world.registry.apply(&added), 1);
    writer.publish(&publisher.follower.view(), now()).unwrap();
    assert!(matches!(
        timeout(PATIENCE, there.closed()).await.unwrap(),
        CloseReason::Refused(_)
    ));
    assert!(here.is_closed());
    following.abort();
}

#[tokio::test]
async fn one_revocation_among_many_connections_is_found_by_its_key() {
    // 20,000 connections of 20 peers: a scan would re-check them all.
    let world = World::new();
    let leaves: Vec<_> = (0..20).map(|_| world.issuing.good_leaf(WEB)).collect();
    let peers: Vec<_> = leaves.iter().map(|leaf| world.peer(leaf)).collect();
    let guards: Vec<_> = (0..20_000)
        .map(|n: usize| world.registry.register(peers[n % 20].clone()).unwrap())
        .collect();
    world.view.revoke(world.issuing.key_id(), leaves[7].serial);
    let nothing = world.news_of(&world.issuing.good_leaf(DB));
    assert_eq!(world.registry.apply(&nothing), 0);
    assert_eq!(world.registry.counts().rechecked, 0);
    assert_eq!(world.registry.apply(&world.news_of(&leaves[7])), 1000);
    assert_eq!(world.registry.counts().rechecked, 1000);
    assert_eq!(guards.iter().filter(|guard| guard.is_closed()).count(), 1000);
}

#[tokio::test]
async fn accepted_chains_are_handed_on_and_refused_ones_and_full_queues_hold_nobody_up() {
    let world = World::new();
    let (accepted, mut chains) = AcceptedPeers::channel();
    let acceptor = world.acceptor(ClientAuth::Mandatory(AllowedIds::OwnTrustDomain));
    let acceptor = acceptor.with_accepted_peers(accepted.clone());
    let (good, bad) = (world.issuing.good_leaf(WEB), world.issuing.good_leaf(WEB));
    world.view.revoke(world.issuing.key_id(), bad.serial);
    let connect = async |leaf: &Leaf| {
        let (near, far) = tokio::io::duplex(64 * 1024);
        let connector = world.connector(Some(leaf));
        let client = connector.connect("peer.test".try_into().unwrap(), near);
        tokio::join!(client, acceptor.accept(far)).1.is_ok()
    };
    assert!(!connect(&bad).await && connect(&good).await);
    assert_eq!(chains.try_recv().unwrap(), good.chain);
    assert!(chains.try_recv().is_err(), "the refused one was handed on");
    for _ in 0..ACCEPTED_QUEUE_MAX + 2 {
        assert!(connect(&good).await);
    }
    assert_eq!(accepted.missed(), 2);
}
