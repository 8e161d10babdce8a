//! The real filter under a snapshot: signed news takes effect without a new snapshot, and ages.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod support;

use std::time::Duration;

use mintage_identity::{IdPrefix, UnixTime};
use mintage_revocation::{MapOwner, MapReader, MapWriter, Replica, Rule, RuleTarget};
use mintage_verifier::{AllowedIds, RevocationCheck, Trust, Usage, VerifiedPeer, VerifyError};
use support::{Ca, Leaf, LeafSpec, domain, id, now, provider, publisher::Publisher, trust};

const WEB: &str = "spiffe://a.test/web";

struct World {
    root: Ca,
    issuing: Ca,
    publisher: Publisher,
    trust: Trust,
}

impl World {
    fn new() -> Self {
        let root = Ca::root("root");
        let issuing = root.intermediate("issuing");
        let publisher = Publisher::new("a.test", &[&root, &issuing]);
        let trust = trust("a.test", &root, RevocationCheck::required(publisher.follower.handle()));
        Self {
            root,
            issuing,
            publisher,
            trust,
        }
    }
}

fn verify(trust: &Trust, leaf: &Leaf, at: UnixTime) -> Result<VerifiedPeer, VerifyError> {
    let algorithms = provider().signature_verification_algorithms;
    trust.verify(&leaf.chain, Usage::Both, &AllowedIds::OwnTrustDomain, &algorithms, at)
}

fn later(seconds: u64) -> UnixTime {
    now().plus(Duration::from_secs(seconds))
}

#[test]
fn a_signed_delta_refuses_a_leaf_without_a_new_snapshot() {
    let mut world = World::new();
    let (bad, good) = (world.issuing.good_leaf(WEB), world.issuing.good_leaf(WEB));
    let peer = verify(&world.trust, &bad, now()).unwrap();
    let keys = world.trust.news_keys(&peer);
    assert_eq!((keys.keys.len(), keys.some_unknown), (2, false));
    let added = world.publisher.revoke(&world.issuing, &[&bad], Vec::new());
    assert!(
        added.keys.iter().any(|key| keys.keys.contains(key)),
        "news is found by its key"
    );
    assert_eq!(verify(&world.trust, &bad, now()).unwrap_err().code(), "revoked");
    assert_eq!(world.trust.recheck(&peer, now()).unwrap_err().code(), "revoked");
    assert!(verify(&world.trust, &good, now()).is_ok());
}

#[test]
fn a_revoked_intermediate_is_asked_for_under_its_own_issuer() {
    let mut world = World::new();
    let leaf = world.issuing.good_leaf(WEB);
    let as_leaf = Leaf {
        chain: vec![world.issuing.der.clone()],
        key: Vec::new(),
        serial: world.issuing.serial,
    };
    world.publisher.revoke(&world.root, &[&as_leaf], Vec::new());
    assert_eq!(verify(&world.trust, &leaf, now()).unwrap_err().code(), "revoked");
    let other = world.root.good_leaf(WEB);
    assert!(verify(&world.trust, &other, now()).is_ok());
}

#[test]
fn rules_strike_by_id_prefix_key_and_issuer() {
    let strikes = |target: fn(&World, &VerifiedPeer) -> RuleTarget| {
        let mut world = World::new();
        let leaf = world.issuing.good_leaf("spiffe://a.test/team/web");
        let peer = verify(&world.trust, &leaf, now()).unwrap();
        let target = target(&world, &peer);
        let rule = Rule { target, cut: None };
        world.publisher.revoke(&world.issuing, &[], vec![rule]);
        assert_eq!(verify(&world.trust, &leaf, now()).unwrap_err().code(), "revoked");
        assert_eq!(world.trust.recheck(&peer, now()).unwrap_err().code(), "revoked");
        let elsewhere = world.root.good_leaf("spiffe://a.test/other");
        assert!(verify(&world.trust, &elsewhere, now()).is_ok());
    };
    strikes(|_, peer| RuleTarget::Identity(peer.id().clone()));
    strikes(|_, _| RuleTarget::Prefix(IdPrefix::parse("spiffe://a.test/team/*").unwrap()));
    strikes(|_, peer| RuleTarget::Key(*peer.spki_sha256()));
    strikes(|world, _| RuleTarget::Issuer(world.issuing.key_id()));
    // A rule on the key of an issuer strikes everything it has signed.
    strikes(|world, _| RuleTarget::Key(mintage_identity::SpkiHash::new(*world.issuing.key_id().as_bytes())));
}

#[test]
fn a_cut_lets_the_replacement_live() {
    let mut world = World::new();
    let old = world.issuing.good_leaf(WEB);
    let new = world.issuing.leaf(LeafSpec {
        starts: 1,
        ..LeafSpec::good(WEB)
    });
    let rule = Rule {
        target: RuleTarget::Identity(id(WEB)),
        cut: Some(now()),
    };
    world.publisher.revoke(&world.issuing, &[], vec![rule]);
    assert_eq!(verify(&world.trust, &old, later(1)).unwrap_err().code(), "revoked");
    assert!(verify(&world.trust, &new, later(1)).is_ok());
}

#[test]
fn a_filter_without_heartbeats_ages_and_recovers() {
    let mut world = World::new();
    let leaf = world.issuing.leaf(LeafSpec {
        ends: 86_400,
        ..LeafSpec::good(WEB)
    });
    assert!(verify(&world.trust, &leaf, later(600)).is_ok());
    assert_eq!(
        verify(&world.trust, &leaf, later(601)).unwrap_err().code(),
        "revocation_stale"
    );
    world.publisher.heartbeat(later(601));
    assert!(verify(&world.trust, &leaf, later(601)).is_ok());
}

#[test]
fn a_follower_that_has_nothing_yet_refuses_everyone() {
    let root = Ca::root("root");
    let empty = Replica::new(&domain("a.test"));
    let trust = trust("a.test", &root, RevocationCheck::required(empty.handle()));
    assert!(
        verify(&trust, &root.good_leaf(WEB), now())
            .unwrap_err()
            .is_unknown_status()
    );
}

#[test]
fn an_issuer_the_filter_does_not_cover_is_refused() {
    let root = Ca::root("root");
    let (covered, blind) = (root.intermediate("covered"), root.intermediate("blind"));
    let publisher = Publisher::new("a.test", &[&root, &covered]);
    let trust = trust("a.test", &root, RevocationCheck::required(publisher.follower.handle()));
    assert!(verify(&trust, &covered.good_leaf(WEB), now()).is_ok());
    assert_eq!(
        verify(&trust, &blind.good_leaf(WEB), now()).unwrap_err().code(),
        "not_covered"
    );
}

#[test]
fn another_process_refuses_through_the_nodes_map() {
    let mut world = World::new();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("revocation.map");
    let open = || MapReader::open(&path, &domain("a.test"), MapOwner::RootOrSelf).unwrap();
    let leaf = world.issuing.good_leaf(WEB);
    // Before the agent has written its map nothing is known, and everyone is refused.
    let early = trust(
        "a.test",
        &world.root,
        RevocationCheck::required(std::sync::Arc::new(open())),
    );
    assert!(verify(&early, &leaf, now()).unwrap_err().is_unknown_status());

    let mut writer = MapWriter::create(&path, &domain("a.test")).unwrap();
    writer.publish(&world.publisher.follower.view(), now()).unwrap();
    let other = trust(
        "a.test",
        &world.root,
        RevocationCheck::required(std::sync::Arc::new(open())),
    );
    assert!(verify(&other, &leaf, now()).is_ok());
    world.publisher.revoke(&world.issuing, &[&leaf], Vec::new());
    writer.publish(&world.publisher.follower.view(), now()).unwrap();
    assert_eq!(verify(&other, &leaf, now()).unwrap_err().code(), "revoked");
}
