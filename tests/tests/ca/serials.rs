//! Serials from a random source that repeats itself: drawn again, never given twice, and refused when nothing else comes.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::{
    collections::{BTreeSet, VecDeque},
    sync::{Mutex, MutexGuard},
};

use mintage_ca::{Ca, Deps, Random};
use mintage_identity::Serial;
use mintage_proto::v1::{MintResult, RecordSummary};
use mintage_tests::kit::{
    ca::{config, entry, make, token},
    client::join,
    inventory::issued,
    stream::{Stream, ask, code},
};
use rustls::crypto::{GetRandomFailed, SecureRandom};
use tempfile::TempDir;
use tonic::Code;
use x509_parser::prelude::{FromDer, X509Certificate};

/// Octets of a serial, or of the salt of a record. A batch takes them out of one draw: its serials first, then its salts.
type Draw = [u8; 16];
/// Draws for one serial before the CA gives up.
const DRAWS_MAX: usize = 32;

/// The system's randomness, until a test loads something else, 16 octets at a time.
#[derive(Debug)]
struct Loaded {
    system: Random,
    load: Mutex<Load>,
}

#[derive(Debug, Default)]
struct Load {
    next: VecDeque<Draw>,
    /// Once `next` is used up: this for ever.
    stuck: Option<Draw>,
    broken: bool,
}

impl Loaded {
    fn load(&self) -> MutexGuard<'_, Load> {
        self.load.lock().expect("no panic under the lock")
    }

    fn script(&self, draws: impl IntoIterator<Item = Draw>) {
        self.load().next = draws.into_iter().collect();
    }

    #[track_caller]
    fn all_drawn(&self) {
        assert!(self.load().next.is_empty(), "{:?} was not drawn", self.load().next);
    }
}

impl SecureRandom for Loaded {
    fn fill(&self, octets: &mut [u8]) -> Result<(), GetRandomFailed> {
        let mut load = self.load();
        if load.broken {
            return Err(GetRandomFailed);
        }
        self.system.fill(octets)?;
        for draw in octets.chunks_exact_mut(size_of::<Draw>()) {
            if let Some(loaded) = load.next.pop_front().or(load.stuck) {
                draw.copy_from_slice(&loaded);
            }
        }
        Ok(())
    }
}

/// A CA on such a source, an agent's stream to it, and one entry.
struct Scene {
    random: &'static Loaded,
    ca: Ca,
    stream: Stream,
    _folder: TempDir,
}

impl Scene {
    async fn new() -> Self {
        let random: &'static Loaded = Box::leak(Box::new(Loaded {
            system: Deps::system().random,
            load: Mutex::default(),
        }));
        let folder = tempfile::tempdir().unwrap();
        let dir = folder.path().join("ca");
        make(&dir);
        let deps = Deps {
            random,
            ..Deps::system()
        };
        let ca = Ca::start(config(&dir), deps).await.unwrap();
        entry(ca.admin_socket(), "web", "/web").await;
        let agent = join(&token(ca.admin_socket(), "n1").await).await.unwrap();
        let stream = Stream::open(&agent, &ca.address().to_string()).await.unwrap();
        Self {
            random,
            ca,
            stream,
            _folder: folder,
        }
    }

    /// One certificate, after these draws.
    async fn serial_after(&mut self, draws: impl IntoIterator<Item = Draw>) -> Serial {
        self.random.script(draws);
        let serial = serial_of(&self.stream.ask_one(ask("web")).await.unwrap());
        self.random.all_drawn();
        serial
    }

    /// What was issued for the entry.
    async fn issued(&self) -> Vec<RecordSummary> {
        issued(self.ca.admin_socket(), "web").await
    }
}

/// The serial of a certificate, which always has 16 octets and starts with the bits 01.
fn serial_of(result: &MintResult) -> Serial {
    assert_eq!(code(result), "", "{result:?}");
    let (_, certificate) = X509Certificate::from_der(&result.leaf).unwrap();
    let octets = certificate.raw_serial();
    assert_eq!(octets.len(), 16, "{octets:02x?}");
    assert_eq!(octets[0] & 0xc0, 0x40, "{octets:02x?}");
    Serial::from_be_octets(octets).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_serial_that_is_taken_is_drawn_again() {
    let mut scene = Scene::new().await;
    let salt = [0xaa; 16];
    let mut given = Vec::new();
    // Octets at both ends of the range, and those whose sign bit is set.
    for octets in [[0; 16], [0xff; 16], [0x80; 16]] {
        let serial = scene.serial_after([octets, salt]).await;
        assert_eq!(serial, Serial::from_random(octets));
        given.push(serial);
    }
    // What differs only in the bits that are set anyway is the same serial.
    let mut twin = [0; 16];
    twin[0] = 0xc0;
    let draws = [[0; 16], twin, [1; 16], salt];
    given.push(scene.serial_after(draws).await);
    assert_eq!(given[3], Serial::from_random([1; 16]));
    // Up to the last draw.
    let draws = std::iter::repeat_n([0xff; 16], DRAWS_MAX - 1).chain([[2; 16], salt]);
    given.push(scene.serial_after(draws).await);
    assert_eq!(given[4], Serial::from_random([2; 16]));
    // In one batch the first is not recorded yet when the second is drawn.
    scene.random.script([[3; 16], [3; 16], [4; 16], salt, salt]);
    scene.stream.ask(vec![ask("web"), ask("web")]).await.unwrap();
    let results = scene.stream.minted().await.unwrap();
    scene.random.all_drawn();
    given.extend(results.iter().map(serial_of));
    assert_eq!(given[5..], [[3; 16], [4; 16]].map(Serial::from_random));

    let recorded: Vec<String> = scene.issued().await.into_iter().map(|record| record.serial).collect();
    let different: BTreeSet<&String> = recorded.iter().collect();
    assert_eq!((recorded.len(), different.len()), (7, 7), "{recorded:?}");
    assert_eq!(
        different,
        given.iter().map(Serial::to_string).collect::<Vec<_>>().iter().collect()
    );
    scene.ca.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_random_source_that_only_repeats_itself_issues_nothing_twice() {
    let mut scene = Scene::new().await;
    scene.random.load().stuck = Some([7; 16]);
    let unavailable = |result: &MintResult, reason: &str| {
        let refusal = result.refusal.as_ref().expect("a refusal");
        assert!(result.leaf.is_empty() && result.receipt.is_none(), "{result:?}");
        assert_eq!(
            (refusal.code.as_str(), refusal.grpc_code),
            (reason, Code::Unavailable as u32)
        );
        assert!(
            refusal.retry && refusal.message.contains("nothing is issued"),
            "{refusal:?}"
        );
    };
    scene.stream.ask((0..8).map(|_| ask("web")).collect()).await.unwrap();
    let results = scene.stream.minted().await.unwrap();
    assert_eq!(serial_of(&results[0]), Serial::from_random([7; 16]));
    assert_eq!(results.len(), 8);
    results[1..].iter().for_each(|result| unavailable(result, "serials"));
    for entry in ["web", ""] {
        unavailable(&scene.stream.ask_one(ask(entry)).await.unwrap(), "serials");
    }
    assert_eq!(scene.issued().await.len(), 1);

    *scene.random.load() = Load {
        broken: true,
        ..Load::default()
    };
    unavailable(&scene.stream.ask_one(ask("web")).await.unwrap(), "random");
    assert_eq!(scene.issued().await.len(), 1);

    // The stream has outlived all of it.
    *scene.random.load() = Load::default();
    let serial = serial_of(&scene.stream.ask_one(ask("web")).await.unwrap());
    assert_ne!(serial, Serial::from_random([7; 16]));
    assert_eq!(scene.issued().await.len(), 2);
    scene.ca.stop().await;
}
