//! The first call of a node: only a pinned root, only a CA replica, only the token's trust domain.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod support;

use std::sync::Arc;

use mintage_identity::CertHash;
use mintage_verifier::{
    AllowedIds, ClientAuth, IdentitySource, JoinVerifier, TlsSettings, TrustError, VerifyError, join_config,
    limits::PINNED_ROOTS_MAX, server_config,
};
use rustls_pki_types::CertificateDer;
use support::{Ca, Clock, Leaf, domain, now, provider, store, tls::handshake};

const REPLICA: &str = "spiffe://a.test/mintage/ca/r1";

fn pin(root: &Ca) -> CertHash {
    mintage_svid::cert_sha256(&root.der)
}

fn verifier(pins: impl IntoIterator<Item = CertHash>) -> Arc<JoinVerifier> {
    JoinVerifier::new(domain("a.test"), pins, &provider()).unwrap()
}

/// A replica's leaf, its root sent along as the CA does on joining.
fn replica_of(root: &Ca, id: &str) -> Leaf {
    let mut leaf = root.intermediate("issuing").good_leaf(id);
    leaf.chain.push(root.der.clone());
    leaf
}

#[track_caller]
fn assert_code(verifier: &JoinVerifier, chain: &[CertificateDer<'_>], code: &str) {
    let error = verifier.verify(chain, now()).unwrap_err();
    assert_eq!(error.code(), code, "{error}");
    assert!(verifier.learned_root().is_none());
}

#[test]
fn a_node_joins_over_a_pinned_root_and_learns_it() {
    let (root, prepared) = (Ca::root("root"), Ca::root("next root"));
    let leaf = replica_of(&root, REPLICA);
    let clock = Clock::new();
    let tls = TlsSettings::new(provider(), clock);
    let source = IdentitySource::new(leaf.chain.clone(), leaf.private_key(), &provider()).unwrap();
    let clients = ClientAuth::Optional(AllowedIds::agents_of(&domain("a.test")).unwrap());
    let server = server_config(store("a.test", &root), source, clients, &tls).unwrap();

    let joining = verifier([pin(&prepared), pin(&root)]);
    assert!(joining.learned_root().is_none());
    let outcome = handshake(&join_config(joining.clone(), &tls).unwrap(), &server);
    assert!(
        outcome.succeeded(),
        "{:?} {:?}",
        outcome.client_error,
        outcome.server_error
    );
    assert_eq!(joining.learned_root().unwrap(), root.der);

    let elsewhere = verifier([pin(&prepared)]);
    assert!(!handshake(&join_config(elsewhere.clone(), &tls).unwrap(), &server).succeeded());
    assert!(matches!(*elsewhere.last_refusal().unwrap(), VerifyError::RootNotPinned));
    assert!(joining.last_refusal().is_none());
}

#[test]
fn a_replica_signed_by_the_root_itself_may_be_joined() {
    let root = Ca::root("root");
    let mut leaf = root.good_leaf(REPLICA);
    leaf.chain.push(root.der.clone());
    assert!(verifier([pin(&root)]).verify(&leaf.chain, now()).is_ok());
}

#[test]
fn a_chain_without_the_pinned_root_is_refused() {
    let (root, other) = (Ca::root("root"), Ca::root("root"));
    let leaf = replica_of(&root, REPLICA);
    assert_code(&verifier([pin(&other)]), &leaf.chain, "root_not_pinned");
    // The root not sent at all.
    let pinned = verifier([pin(&root)]);
    assert_code(&pinned, &leaf.chain[..2], "root_not_pinned");
}

#[test]
fn the_pinned_root_must_have_signed_the_path() {
    let (root, rogue) = (Ca::root("root"), Ca::root("root"));
    let mut leaf = replica_of(&rogue, REPLICA);
    // A public root may be sent along by anyone.
    leaf.chain.push(root.der.clone());
    assert_code(&verifier([pin(&root)]), &leaf.chain, "bad_path");
    leaf.chain.remove(2);
    assert_code(&verifier([pin(&root)]), &leaf.chain, "bad_path");
}

#[test]
fn pinning_an_intermediate_or_a_leaf_lets_nobody_in() {
    let root = Ca::root("root");
    let leaf = replica_of(&root, REPLICA);
    let leaf_pin = mintage_svid::cert_sha256(&leaf.chain[0]);
    assert_code(&verifier([leaf_pin]), &leaf.chain, "root_not_pinned");
    // A leaf sent twice, the second time as its own root.
    let twice = [leaf.chain[0].clone(), leaf.chain[0].clone()];
    assert_code(&verifier([leaf_pin]), &twice, "root_not_pinned");
}

#[test]
fn only_a_replica_of_the_tokens_trust_domain_is_joined() {
    let root = Ca::root("root");
    let joining = verifier([pin(&root)]);
    for (other, code) in [
        ("spiffe://b.test/mintage/ca/r1", "unknown_trust_domain"),
        ("spiffe://a.test/mintage/agent/r1", "not_allowed"),
        ("spiffe://a.test/mintage/ca", "not_allowed"),
        ("spiffe://a.test/mintage/ca/r1/x", "not_allowed"),
        ("spiffe://a.test/web", "not_allowed"),
    ] {
        assert_code(&joining, &replica_of(&root, other).chain, code);
    }
}

#[test]
fn an_outdated_root_is_refused_though_pinned() {
    let root = Ca::root_until("root", -1);
    let leaf = replica_of(&root, REPLICA);
    assert_code(&verifier([pin(&root)]), &leaf.chain, "root_out_of_date");
}

#[test]
fn limits_hold_before_anything_is_hashed() {
    let root = Ca::root("root");
    let joining = verifier([pin(&root)]);
    assert_code(&joining, &[], "no_certificate");
    let mut leaf = replica_of(&root, REPLICA);
    leaf.chain.resize(30, root.der.clone());
    assert!(matches!(
        joining.verify(&leaf.chain, now()).unwrap_err(),
        VerifyError::ChainTooLong { count: 30 }
    ));
    let new = |pins: Vec<CertHash>| JoinVerifier::new(domain("a.test"), pins, &provider());
    assert!(matches!(new(Vec::new()).unwrap_err(), TrustError::PinCount(0)));
    assert!(new(vec![pin(&root); PINNED_ROOTS_MAX]).is_ok());
    assert!(new(vec![pin(&root); PINNED_ROOTS_MAX + 1]).is_err());
}
