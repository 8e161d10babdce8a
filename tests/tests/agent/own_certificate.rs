//! The certificate that the CA serves with: renewed by the wall clock with a new key, recorded before it is shown, and not
//! renewed while the clock cannot be believed.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use mintage_ca::{Ca, Clock};
use mintage_identity::{CertHash, Serial, UnixTime};
use mintage_ledger::wire::record::Body;
use mintage_svid::LeafInfo;
use mintage_tests::kit::{
    ca::{config, domain, make_with, token, with_metrics},
    client::provider,
    clock::Shifted,
    face::{get, metric},
    inventory::{record, records},
};
use mintage_verifier::{JoinVerifier, TlsSettings, join_config};
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// Longest wait for a renewal that is due.
const SOON: Duration = Duration::from_secs(30);
/// Several looks at the clock: what has not happened after it does not happen.
const LOOKS: Duration = Duration::from_secs(3);
const MINUTE: Duration = Duration::from_secs(60);

/// A CA, its clock, and a verifier for whoever connects.
struct World {
    ca: Ca,
    clock: Arc<Shifted>,
    pins: Vec<CertHash>,
    _folder: tempfile::TempDir,
}

impl World {
    async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let dir = folder.path().join("ca");
        let clock = Shifted::behind(Duration::ZERO);
        make_with(&dir, &clock.deps());
        let ca = Ca::start(with_metrics(config(&dir)), clock.deps()).await.unwrap();
        let pins = token(ca.admin_socket(), "pins").await.root_hashes().to_vec();
        Self {
            ca,
            clock,
            pins,
            _folder: folder,
        }
    }

    /// What a caller whose clock is the CA's is shown; the handshake fails when it has ended.
    async fn shown(&self) -> LeafInfo {
        let verifier = JoinVerifier::new(domain(), self.pins.iter().copied(), &provider()).unwrap();
        let settings = TlsSettings::new(provider(), self.clock.clone()).with_alpn([b"h2".as_slice()]);
        let stream = TcpStream::connect(self.ca.address()).await.unwrap();
        let name = ServerName::try_from("mintage.invalid").unwrap();
        let connector = TlsConnector::from(join_config(verifier, &settings).unwrap());
        let stream = connector.connect(name, stream).await.unwrap();
        LeafInfo::parse(&stream.get_ref().1.peer_certificates().unwrap()[0]).unwrap()
    }

    /// Waits for another certificate than this one.
    async fn renewed(&self, serial: &Serial) -> LeafInfo {
        let started = Instant::now();
        loop {
            let shown = self.shown().await;
            if shown.serial() != serial {
                return shown;
            }
            assert!(started.elapsed() < SOON, "still {serial}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Serials of the certificates that the ledger has for this replica, newest first.
    async fn recorded(&self) -> Vec<String> {
        let found = records(self.ca.admin_socket(), "issue", "").await;
        found.into_iter().map(|found| found.serial).collect()
    }

    async fn expiry(&self) -> UnixTime {
        let line = "mintage_ca_expiry_timestamp_seconds{ca=\"replica\"}";
        let seconds = metric(self.ca.metrics_address().unwrap(), line).await;
        UnixTime::from_seconds(i64::try_from(seconds).unwrap())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn it_is_renewed_at_half_of_its_life_with_a_new_key_and_a_record_each_time() {
    let world = World::start().await;
    let mut shown = vec![world.shown().await];
    assert_eq!(world.expiry().await, shown[0].not_after());
    // Not a second before.
    world.clock.move_on(29 * MINUTE);
    tokio::time::sleep(LOOKS).await;
    assert_eq!(world.shown().await.serial(), shown[0].serial());

    // As after a suspend: the clock has moved on at once, and no timer has.
    world.clock.move_on(2 * MINUTE);
    shown.push(world.renewed(shown[0].serial()).await);
    // A suspend beyond its end: whoever connects after the next look is shown one that is good.
    world.clock.move_on(300 * MINUTE);
    let started = Instant::now();
    while world.expiry().await <= world.clock.now() {
        assert!(started.elapsed() < SOON, "not renewed after its end");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    shown.push(world.shown().await);

    for pair in shown.windows(2) {
        assert_eq!(pair[0].id(), pair[1].id());
        assert_ne!(pair[0].spki_sha256(), pair[1].spki_sha256(), "a new key");
        assert!(pair[1].not_after() > pair[0].not_after());
    }
    assert_eq!(world.expiry().await, shown[2].not_after());
    let serials: Vec<String> = shown.iter().rev().map(|leaf| leaf.serial().to_string()).collect();
    assert_eq!(
        world.recorded().await,
        serials,
        "each is a record, and no other is there"
    );
    let newest = records(world.ca.admin_socket(), "issue", "").await.remove(0);
    match record(world.ca.admin_socket(), newest.index).await.body {
        Some(Body::Issue(issue)) => {
            let recorded = LeafInfo::parse(&issue.certificate_der).unwrap();
            assert_eq!(recorded.spki_sha256(), shown[2].spki_sha256());
        }
        other => panic!("{other:?}"),
    }
    world.ca.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stepped_clock_renews_nothing_until_it_is_right_again() {
    let world = World::start().await;
    let first = world.shown().await;
    // The wall clock alone: by it the certificate is due, but nobody knows whether it is right.
    world.clock.step(40 * 60);
    tokio::time::sleep(LOOKS).await;
    assert_eq!(world.recorded().await, [first.serial().to_string()]);
    world.clock.step(-40 * 60);
    assert_eq!(world.shown().await.serial(), first.serial());
    let metrics = get(world.ca.metrics_address().unwrap(), "/metrics").await;
    assert!(metrics.contains("\nmintage_ready 1\n"), "{metrics}");
    // A step within the bounds is one like any passing of time.
    world.clock.move_on(29 * MINUTE);
    world.clock.step(100);
    let second = world.renewed(first.serial()).await;
    assert!(second.not_after() > first.not_after());
    world.ca.stop().await;
}
