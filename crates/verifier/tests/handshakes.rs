//! Whole handshakes in memory: who gets in, which alert the other one sees, rotation, and that nothing is resumed.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod support;

use std::sync::Arc;

use mintage_verifier::{
    AllowedIds, ClientAuth, IdentityError, IdentitySource, Observer, RevocationCheck, SvidClientVerifier,
    SvidServerVerifier, TlsSettings, TlsVersions, TrustStore, Usage, VerifyError, client_config, from_rustls,
    reason_of, server_config,
};
use rustls::{
    AlertDescription, CertificateError, ClientConfig, Error, HandshakeKind, ProtocolVersion, ServerConfig,
    client::Resumption,
    version::{TLS12, TLS13},
};
use rustls_pki_types::CertificateDer;
use support::{
    Ca, Clock, FakeView, Leaf, LeafSpec, id, provider, store,
    tls::{Outcome, handshake},
    trust,
};

const WEB: &str = "spiffe://a.test/web";
const DB: &str = "spiffe://a.test/db";

/// A trust domain with a server and a client in it.
struct World {
    clock: Arc<Clock>,
    root: Ca,
    store: Arc<TrustStore>,
}

impl World {
    fn new() -> Self {
        let root = Ca::root("root");
        Self {
            clock: Clock::new(),
            store: store("a.test", &root),
            root,
        }
    }

    fn tls(&self) -> TlsSettings {
        TlsSettings::new(provider(), self.clock.clone())
    }

    fn source(&self, leaf: &Leaf) -> Arc<IdentitySource> {
        IdentitySource::new(leaf.chain.clone(), leaf.private_key(), &provider()).unwrap()
    }

    fn client_as(&self, leaf: &Leaf, tls: &TlsSettings) -> Arc<ClientConfig> {
        let source = Some(self.source(leaf));
        client_config(self.store.clone(), source, AllowedIds::OwnTrustDomain, tls).unwrap()
    }

    fn client(&self) -> Arc<ClientConfig> {
        self.client_as(&self.root.good_leaf(WEB), &self.tls())
    }

    fn server_with(&self, clients: ClientAuth, tls: &TlsSettings) -> Arc<ServerConfig> {
        let source = self.source(&self.root.good_leaf(DB));
        server_config(self.store.clone(), source, clients, tls).unwrap()
    }

    fn server(&self) -> Arc<ServerConfig> {
        self.server_with(ClientAuth::Mandatory(AllowedIds::OwnTrustDomain), &self.tls())
    }
}

fn certificate_error(error: &Error) -> &CertificateError {
    match error {
        Error::InvalidCertificate(inner) => inner,
        other => panic!("not about a certificate: {other:?}"),
    }
}

#[track_caller]
fn assert_server_refuses(outcome: &Outcome, alert: AlertDescription) -> CertificateError {
    let (error, seen) = outcome.refusal_by_server();
    assert_eq!(seen, &Error::AlertReceived(alert), "{error:?}");
    certificate_error(error).clone()
}

#[test]
fn both_sides_prove_their_ids_over_tls_13() {
    let world = World::new();
    let outcome = handshake(&world.client(), &world.server());
    assert!(
        outcome.succeeded(),
        "{:?} {:?}",
        outcome.client_error,
        outcome.server_error
    );
    assert_eq!(outcome.client.protocol_version(), Some(ProtocolVersion::TLSv1_3));
    let algorithms = provider().signature_verification_algorithms;
    let peer_of = |certs: Option<&[CertificateDer<'static>]>, usage| {
        let trust = world.store.load();
        trust
            .peer_of(certs.unwrap(), usage, &algorithms, support::now())
            .unwrap()
    };
    assert_eq!(
        peer_of(outcome.server.peer_certificates(), Usage::Client).id(),
        &id(WEB)
    );
    assert_eq!(peer_of(outcome.client.peer_certificates(), Usage::Server).id(), &id(DB));
    assert_eq!(world.store.counters().accepted(), 2);
    assert_eq!(world.store.counters().tolerated(), 0);
}

#[test]
fn application_protocols_are_agreed_on() {
    let world = World::new();
    let tls = world.tls().with_alpn([b"h2".as_slice()]);
    let client = world.client_as(&world.root.good_leaf(WEB), &tls);
    let server = world.server_with(ClientAuth::Mandatory(AllowedIds::OwnTrustDomain), &tls);
    assert_eq!(
        handshake(&client, &server).server.alpn_protocol(),
        Some(b"h2".as_slice())
    );
}

#[test]
fn a_tls_12_client_is_refused_unless_the_server_says_otherwise() {
    let world = World::new();
    let leaf = world.root.good_leaf(WEB);
    let verifier = SvidServerVerifier::new(world.store.clone(), AllowedIds::OwnTrustDomain, &provider());
    let only_12 = ClientConfig::builder_with_details(provider(), world.clock.clone())
        .with_protocol_versions(&[&TLS12])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_client_cert_resolver(world.source(&leaf));
    let only_12 = Arc::new(only_12);
    let outcome = handshake(&only_12, &world.server());
    assert!(!outcome.succeeded());
    assert_eq!(
        outcome.client_error,
        Some(Error::AlertReceived(AlertDescription::ProtocolVersion))
    );
    let tls = world.tls().with_versions(TlsVersions::From12);
    let lenient = world.server_with(ClientAuth::Mandatory(AllowedIds::OwnTrustDomain), &tls);
    let outcome = handshake(&only_12, &lenient);
    assert!(outcome.succeeded());
    assert_eq!(outcome.client.protocol_version(), Some(ProtocolVersion::TLSv1_2));
    // The lenient server still takes the better version where it can.
    let outcome = handshake(&world.client(), &lenient);
    assert_eq!(outcome.client.protocol_version(), Some(ProtocolVersion::TLSv1_3));
}

#[test]
fn no_client_certificate_is_refused_where_mandatory_and_anonymous_where_optional() {
    let world = World::new();
    let nobody = client_config(world.store.clone(), None, AllowedIds::OwnTrustDomain, &world.tls()).unwrap();
    let outcome = handshake(&nobody, &world.server());
    let (error, alert) = outcome.refusal_by_server();
    assert_eq!(error, &Error::NoCertificatesPresented);
    assert_eq!(alert, &Error::AlertReceived(AlertDescription::CertificateRequired));
    // An identity that has not arrived yet is no certificate either.
    let empty = client_config(
        world.store.clone(),
        Some(IdentitySource::empty()),
        AllowedIds::OwnTrustDomain,
        &world.tls(),
    );
    assert!(!handshake(&empty.unwrap(), &world.server()).succeeded());

    let optional = world.server_with(ClientAuth::Optional(AllowedIds::OwnTrustDomain), &world.tls());
    let outcome = handshake(&nobody, &optional);
    assert!(outcome.succeeded());
    assert!(outcome.server.peer_certificates().is_none());
}

#[test]
fn a_bad_client_certificate_is_refused_even_where_optional() {
    let world = World::new();
    let optional = world.server_with(ClientAuth::Optional(AllowedIds::OwnTrustDomain), &world.tls());
    let expired = world.root.leaf(LeafSpec {
        ends: -1,
        ..LeafSpec::good(WEB)
    });
    let outcome = handshake(&world.client_as(&expired, &world.tls()), &optional);
    assert_server_refuses(&outcome, AlertDescription::CertificateExpired);
}

#[test]
fn a_server_without_identity_ends_the_handshake() {
    let world = World::new();
    let clients = ClientAuth::Mandatory(AllowedIds::OwnTrustDomain);
    let server = server_config(world.store.clone(), IdentitySource::empty(), clients, &world.tls()).unwrap();
    assert!(!handshake(&world.client(), &server).succeeded());
}

#[test]
fn each_refusal_has_its_alert() {
    let world = World::new();
    let refuse = |leaf: &Leaf, alert| {
        assert_server_refuses(&handshake(&world.client_as(leaf, &world.tls()), &world.server()), alert)
    };
    let starting = |starts, ends| {
        world.root.leaf(LeafSpec {
            starts,
            ends,
            ..LeafSpec::good(WEB)
        })
    };
    refuse(&starting(-60, -1), AlertDescription::CertificateExpired);
    refuse(&starting(10, 60), AlertDescription::CertificateExpired);
    refuse(&Ca::root("stranger").good_leaf(WEB), AlertDescription::UnknownCA);
    refuse(&Ca::root("root").good_leaf(WEB), AlertDescription::DecryptError);
    refuse(
        &world.root.good_leaf("spiffe://b.test/web"),
        AlertDescription::UnknownCA,
    );
    let counters: Vec<_> = world
        .store
        .counters()
        .refused()
        .filter(|(_, count)| *count > 0)
        .collect();
    assert_eq!(counters, [("unknown_trust_domain", 1), ("bad_path", 4)]);
}

#[test]
fn ids_that_are_not_allowed_get_access_denied() {
    let world = World::new();
    let allowed = AllowedIds::exact([id("spiffe://a.test/backup")]).unwrap();
    let server = world.server_with(ClientAuth::Mandatory(allowed.clone()), &world.tls());
    let error = assert_server_refuses(&handshake(&world.client(), &server), AlertDescription::AccessDenied);
    assert_eq!(error, CertificateError::ApplicationVerificationFailure);
    // And the other way round: a client that expects another server.
    let client = client_config(world.store.clone(), None, allowed, &world.tls()).unwrap();
    let outcome = handshake(&client, &world.server());
    let (_, alert) = outcome.refusal_by_client();
    assert_eq!(alert, &Error::AlertReceived(AlertDescription::AccessDenied));
}

#[test]
fn an_observer_hears_what_an_alert_does_not_say() {
    #[derive(Debug, Default)]
    struct Heard(std::sync::Mutex<Vec<String>>);
    impl Observer for Heard {
        fn refused(&self, error: &VerifyError) {
            self.0.lock().unwrap().push(error.to_string());
        }
    }
    let (mut world, heard) = (World::new(), Arc::new(Heard::default()));
    let snapshot = trust("a.test", &world.root, RevocationCheck::required(FakeView::fresh()));
    world.store = TrustStore::observed(snapshot, heard.clone());
    let allowed = AllowedIds::exact([id("spiffe://a.test/backup")]).unwrap();
    let server = world.server_with(ClientAuth::Mandatory(allowed), &world.tls());
    assert!(!handshake(&world.client(), &server).succeeded());
    let heard = heard.0.lock().unwrap();
    assert_eq!(*heard, ["spiffe://a.test/web is not among the allowed ids"]);
}

#[test]
fn revocation_takes_effect_at_the_next_handshake_and_has_its_alert() {
    let world = World::new();
    let leaf = world.root.good_leaf(WEB);
    let (client, server) = (world.client_as(&leaf, &world.tls()), world.server());
    assert!(handshake(&client, &server).succeeded());
    let view = FakeView::fresh();
    view.revoke(world.root.key_id(), leaf.serial);
    world
        .store
        .swap(trust("a.test", &world.root, RevocationCheck::required(view)));
    let error = assert_server_refuses(&handshake(&client, &server), AlertDescription::CertificateRevoked);
    assert_eq!(error, CertificateError::Revoked);
    // A filter that is gone is not a filter that says nothing is revoked.
    world
        .store
        .swap(trust("a.test", &world.root, RevocationCheck::not_yet_known()));
    assert!(!handshake(&world.client(), &server).succeeded());
}

#[test]
fn a_leaf_with_two_ids_is_refused_by_the_handshake_with_its_reason() {
    let world = World::new();
    let mut spec = LeafSpec::good(WEB);
    spec.uris.push(DB.to_owned());
    // Our own source would not even show it: use rustls' plain resolver, as a hostile peer would.
    let leaf = world.root.leaf(spec);
    let source = IdentitySource::new(leaf.chain.clone(), leaf.private_key(), &provider());
    assert!(matches!(source.unwrap_err(), IdentityError::Leaf(_)));
    let hostile = hostile_client(&world, leaf.chain.clone(), &leaf);
    let outcome = handshake(&hostile, &world.server());
    assert_server_refuses(&outcome, AlertDescription::CertificateUnknown);
    let reason = reason_of(outcome.refusal_by_server().0).unwrap();
    assert!(reason.to_string().contains("2 URI"), "{reason}");
}

/// A client that sends any chain at all.
fn hostile_client(world: &World, chain: Vec<CertificateDer<'static>>, leaf: &Leaf) -> Arc<ClientConfig> {
    let verifier = SvidServerVerifier::new(world.store.clone(), AllowedIds::OwnTrustDomain, &provider());
    let config = ClientConfig::builder_with_details(provider(), world.clock.clone())
        .with_protocol_versions(&[&TLS13])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_client_auth_cert(chain, leaf.private_key())
        .unwrap();
    Arc::new(config)
}

#[test]
fn thirty_certificates_and_a_megabyte_of_them_fail_the_handshake() {
    let world = World::new();
    let leaf = world.root.good_leaf(WEB);
    let mut chain = leaf.chain.clone();
    chain.resize(30, world.root.der.clone());
    let outcome = handshake(&hostile_client(&world, chain, &leaf), &world.server());
    assert_server_refuses(&outcome, AlertDescription::CertificateUnknown);
    let reason = reason_of(outcome.refusal_by_server().0).unwrap();
    assert!(matches!(reason, VerifyError::ChainTooLong { count: 30 }), "{reason}");
    let mut chain = leaf.chain.clone();
    chain.extend((0..64).map(|_| CertificateDer::from(vec![0x30; 16_000])));
    assert!(!handshake(&hostile_client(&world, chain, &leaf), &world.server()).succeeded());
}

#[test]
fn a_stolen_certificate_without_its_key_is_refused() {
    let world = World::new();
    let (victim, thief) = (world.root.good_leaf(WEB), world.root.good_leaf("spiffe://a.test/thief"));
    assert!(matches!(
        IdentitySource::new(victim.chain.clone(), thief.private_key(), &provider()).unwrap_err(),
        IdentityError::Mismatch
    ));
    // rustls itself refuses the pair; forge it behind its back.
    let key = provider().key_provider.load_private_key(thief.private_key()).unwrap();
    let forged = rustls::sign::CertifiedKey::new(victim.chain.clone(), key);
    let verifier = SvidServerVerifier::new(world.store.clone(), AllowedIds::OwnTrustDomain, &provider());
    let client = ClientConfig::builder_with_details(provider(), world.clock.clone())
        .with_protocol_versions(&[&TLS13])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_client_cert_resolver(Arc::new(rustls::sign::SingleCertAndKey::from(forged)));
    let outcome = handshake(&Arc::new(client), &world.server());
    let (error, _) = outcome.refusal_by_server();
    assert_eq!(certificate_error(error), &CertificateError::BadSignature);
}

#[test]
fn a_refused_identity_leaves_the_old_one_in_place() {
    let world = World::new();
    let (old, new) = (world.root.good_leaf(WEB), world.root.good_leaf(WEB));
    let source = world.source(&old);
    assert!(
        source
            .replace(new.chain.clone(), old.private_key(), &provider())
            .is_err()
    );
    assert!(source.replace(Vec::new(), new.private_key(), &provider()).is_err());
    let junk = rustls_pki_types::PrivatePkcs8KeyDer::from(vec![0x30, 0]);
    assert!(source.replace(new.chain.clone(), junk.into(), &provider()).is_err());
    assert_eq!(source.current().unwrap().cert, old.chain);
    assert!(!format!("{source:?}").contains("CertifiedKey"));
}

#[test]
fn an_identity_rotates_under_live_handshakes_without_a_failure() {
    let world = World::new();
    let clients = ClientAuth::Mandatory(AllowedIds::OwnTrustDomain);
    let source = world.source(&world.root.good_leaf(DB));
    let server = server_config(world.store.clone(), source.clone(), clients, &world.tls()).unwrap();
    let client = world.client();
    let done = std::sync::atomic::AtomicBool::new(false);
    let rotations = std::thread::scope(|scope| {
        let rotating = scope.spawn(|| {
            let mut rotations = 0;
            while !done.load(std::sync::atomic::Ordering::SeqCst) {
                let next = world.root.good_leaf(DB);
                source
                    .replace(next.chain.clone(), next.private_key(), &provider())
                    .unwrap();
                rotations += 1;
            }
            rotations
        });
        let mut shown = std::collections::HashSet::new();
        for _ in 0..200 {
            let outcome = handshake(&client, &server);
            assert!(
                outcome.succeeded(),
                "{:?} {:?}",
                outcome.client_error,
                outcome.server_error
            );
            shown.insert(outcome.client.peer_certificates().unwrap()[0].to_vec());
        }
        done.store(true, std::sync::atomic::Ordering::SeqCst);
        assert!(shown.len() > 1, "the new identity was never shown");
        rotating.join().unwrap()
    });
    assert!(rotations > 1);
}

/// Connects twice, the second time after the client's certificate has expired; returns the second outcome.
fn reconnect_after_expiry(world: &World, client: &Arc<ClientConfig>, server: &Arc<ServerConfig>) -> Outcome {
    let first = handshake(client, server);
    assert!(first.succeeded(), "{:?} {:?}", first.client_error, first.server_error);
    assert_eq!(first.server.handshake_kind(), Some(HandshakeKind::Full));
    world.clock.advance(601);
    handshake(client, server)
}

/// The client's part of the trap: rustls' defaults, which keep sessions for later.
fn resuming_client(
    world: &World,
    leaf: &Leaf,
    version: &'static rustls::SupportedProtocolVersion,
) -> Arc<ClientConfig> {
    // It does not look at the server's certificate dates either: only the server's check is under test.
    let store = TrustStore::new(trust("a.test", &world.root, RevocationCheck::None));
    let verifier = SvidServerVerifier::new(store, AllowedIds::OwnTrustDomain, &provider());
    let mut config = ClientConfig::builder_with_details(provider(), world.clock.clone())
        .with_protocol_versions(&[version])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_client_cert_resolver(world.source(leaf));
    config.resumption = Resumption::in_memory_sessions(16);
    Arc::new(config)
}

/// The server's part of the trap: our verifier in a configuration with rustls' defaults.
fn careless_server(world: &World) -> Arc<ServerConfig> {
    let verifier = SvidClientVerifier::mandatory(world.store.clone(), AllowedIds::OwnTrustDomain, &provider());
    let config = ServerConfig::builder_with_details(provider(), world.clock.clone())
        .with_protocol_versions(&[&TLS13, &TLS12])
        .unwrap()
        .with_client_cert_verifier(Arc::new(verifier))
        .with_cert_resolver(world.source(&world.root.leaf(LeafSpec {
            ends: 86_400,
            ..LeafSpec::good(DB)
        })));
    Arc::new(config)
}

fn long_lived_server(world: &World) -> Arc<ServerConfig> {
    let source = world.source(&world.root.leaf(LeafSpec {
        ends: 86_400,
        ..LeafSpec::good(DB)
    }));
    let tls = world.tls().with_versions(TlsVersions::From12);
    let clients = ClientAuth::Mandatory(AllowedIds::OwnTrustDomain);
    server_config(world.store.clone(), source, clients, &tls).unwrap()
}

#[test]
fn stock_rustls_resumes_a_session_whose_certificate_has_expired() {
    // The trap itself. Should this ever fail, rustls has closed it, and the tests below prove less than they say.
    for version in [&TLS13, &TLS12] {
        let world = World::new();
        let client = resuming_client(&world, &world.root.good_leaf(WEB), version);
        let second = reconnect_after_expiry(&world, &client, &careless_server(&world));
        assert!(second.succeeded());
        assert_eq!(second.server.handshake_kind(), Some(HandshakeKind::Resumed));
    }
}

#[test]
fn every_door_to_resumption_is_shut() {
    let world = World::new();
    let (server, client) = (world.server(), world.client());
    assert!(!server.session_storage.can_cache());
    assert!(!server.ticketer.enabled());
    assert_eq!((server.send_tls13_tickets, server.max_tls13_tickets), (0, 0));
    assert_eq!(server.max_early_data_size, 0);
    assert!(!client.enable_early_data && client.send_ticket_request.is_none());
    assert!(server.require_ems && client.require_ems);
    assert!(server.cert_decompressors.is_empty() && client.cert_decompressors.is_empty());
}

#[test]
fn our_server_does_not_resume_a_session_after_the_certificate_expired() {
    for version in [&TLS13, &TLS12] {
        let world = World::new();
        let client = resuming_client(&world, &world.root.good_leaf(WEB), version);
        let second = reconnect_after_expiry(&world, &client, &long_lived_server(&world));
        assert_server_refuses(&second, AlertDescription::CertificateExpired);
    }
}

#[test]
fn our_server_does_not_resume_a_session_after_the_certificate_was_revoked() {
    for version in [&TLS13, &TLS12] {
        let world = World::new();
        let leaf = world.root.good_leaf(WEB);
        let client = resuming_client(&world, &leaf, version);
        let server = long_lived_server(&world);
        assert!(handshake(&client, &server).succeeded());
        let view = FakeView::fresh();
        view.revoke(world.root.key_id(), leaf.serial);
        world
            .store
            .swap(trust("a.test", &world.root, RevocationCheck::required(view)));
        assert_server_refuses(&handshake(&client, &server), AlertDescription::CertificateRevoked);
    }
}

#[test]
fn our_client_does_not_resume_a_session_with_a_server_that_expired_or_was_revoked() {
    let world = World::new();
    let short = world.root.good_leaf(DB);
    let verifier = SvidClientVerifier::optional(world.store.clone(), AllowedIds::OwnTrustDomain, &provider());
    let generous = ServerConfig::builder_with_details(provider(), world.clock.clone())
        .with_protocol_versions(&[&TLS13])
        .unwrap()
        .with_client_cert_verifier(Arc::new(verifier))
        .with_cert_resolver(world.source(&short));
    let generous = Arc::new(generous);
    let client = client_config(world.store.clone(), None, AllowedIds::OwnTrustDomain, &world.tls()).unwrap();
    let again = handshake(&client, &generous);
    assert!(again.succeeded());
    assert_eq!(
        handshake(&client, &generous).client.handshake_kind(),
        Some(HandshakeKind::Full)
    );
    world.clock.advance(601);
    let outcome = handshake(&client, &generous);
    let (error, _) = outcome.refusal_by_client();
    assert!(matches!(
        certificate_error(error),
        CertificateError::ExpiredContext { .. }
    ));
}

#[test]
fn a_clock_that_cannot_be_read_fails_the_handshake() {
    #[derive(Debug)]
    struct NoClock;
    impl rustls::time_provider::TimeProvider for NoClock {
        fn current_time(&self) -> Option<rustls_pki_types::UnixTime> {
            None
        }
    }
    let world = World::new();
    let clients = ClientAuth::Mandatory(AllowedIds::OwnTrustDomain);
    let server = world.server_with(clients, &TlsSettings::new(provider(), Arc::new(NoClock)));
    assert!(!handshake(&world.client(), &server).succeeded());
}

#[test]
fn seconds_of_rustls_are_taken_without_overflow() {
    let at = |seconds| {
        from_rustls(rustls_pki_types::UnixTime::since_unix_epoch(
            std::time::Duration::from_secs(seconds),
        ))
    };
    assert_eq!(at(support::NOW), support::now());
    assert_eq!(at(u64::MAX).millis(), i64::MAX);
}
