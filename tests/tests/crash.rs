//! The real CA killed with `kill -9` at random points, again and again, while agents ask and an administrator revokes:
//! no certificate without its record, no serial twice, nothing revoked comes back to life.
//!
//! Seeded: `MINTAGE_SEED` repeats a run's moments of death. Four rounds, forty with `MINTAGE_FULL=1`.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use mintage_identity::Serial;
use mintage_ledger::{
    RecordCheck, Stored, Vkey, verify,
    wire::{Record, record::Body},
};
use mintage_proto::v1::{
    ListEntriesRequest, Receipt, RevokeRequest, SearchRequest, ledger_client::LedgerClient,
    revocation_client::RevocationClient, revoke_request::Target,
};
use mintage_svid::LeafInfo;
use mintage_tests::kit::{
    ca::{self, CaProcess},
    client::{self, Joined, admin, join},
    stream::{Stream, ask},
};
use prost::Message as _;
use tokio::task::JoinSet;
use tonic::transport::Channel;

const AGENTS: usize = 3;
const ASKS_PER_BATCH: usize = 4;
/// Certificates of former rounds that are looked up again after each restart; the offline check looks at every one.
const LOOKED_UP_AGAIN: usize = 40;

/// What clients were told, in every round.
#[derive(Debug, Default)]
struct Told {
    certificates: BTreeMap<Serial, Receipt>,
    /// Acknowledged as revoked.
    revoked: BTreeSet<Serial>,
    twice: Vec<Serial>,
}

type Shared = Arc<Mutex<Told>>;

fn told<T>(shared: &Shared, look: impl FnOnce(&mut Told) -> T) -> T {
    look(&mut shared.lock().unwrap())
}

/// SplitMix64 (Steele, Lea and Flood, 2014): a sequence that a seed repeats.
struct Dice(u64);

impl Dice {
    fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % end
    }
}

/// Asks batch after batch until the CA is gone or the work is over.
async fn asks(agent: Joined, address: String, shared: Shared, over: Arc<AtomicBool>) {
    let Ok(mut stream) = Stream::open(&agent, &address).await else {
        return;
    };
    while !over.load(Ordering::Relaxed) {
        let batch = (0..ASKS_PER_BATCH).map(|_| ask("web")).collect();
        if stream.ask(batch).await.is_err() {
            return;
        }
        let Ok(results) = stream.minted().await else { return };
        for result in results {
            assert!(result.refusal.is_none(), "{:?}", result.refusal);
            let serial = *LeafInfo::parse(&result.leaf).expect("an SVID").serial();
            let receipt = result.receipt.expect("a receipt");
            told(&shared, |told| {
                if told.certificates.insert(serial, receipt).is_some() {
                    told.twice.push(serial);
                }
            });
        }
    }
}

/// Revokes certificates that clients have, one after the other, until the CA is gone or the work is over.
async fn revokes(channel: Channel, shared: Shared, over: Arc<AtomicBool>) {
    let mut revocation = RevocationClient::new(channel);
    while !over.load(Ordering::Relaxed) {
        tokio::time::sleep(Duration::from_millis(15)).await;
        let live = told(&shared, |told| {
            told.certificates
                .keys()
                .find(|serial| !told.revoked.contains(serial))
                .copied()
        });
        let Some(serial) = live else { continue };
        let request = RevokeRequest {
            target: Some(Target::Serial(serial.to_string())),
            reason: "key-compromise".to_owned(),
            no_renew: true,
            ..RevokeRequest::default()
        };
        if revocation.revoke(request).await.is_err() {
            return;
        }
        told(&shared, |told| told.revoked.insert(serial));
    }
}

/// One life of the CA under load; `dies_after` is when it is killed, without it is stopped by SIGTERM.
async fn live(running: CaProcess, agents: &[Joined], shared: &Shared, dies_after: Option<Duration>) {
    let over = Arc::new(AtomicBool::new(false));
    let mut clients = JoinSet::new();
    for agent in agents {
        clients.spawn(asks(
            agent.clone(),
            running.address.clone(),
            shared.clone(),
            over.clone(),
        ));
    }
    let channel = admin(&running.admin_socket()).await.expect("the admin socket answers");
    clients.spawn(revokes(channel, shared.clone(), over.clone()));
    tokio::time::sleep(dies_after.unwrap_or(Duration::from_millis(500))).await;
    if dies_after.is_some() {
        running.kill();
    } else {
        let code = tokio::task::spawn_blocking(|| running.stop()).await.unwrap();
        assert_eq!(code, Some(0), "SIGTERM under load is a clean stop");
    }
    over.store(true, Ordering::Relaxed);
    while let Some(ended) = tokio::time::timeout(Duration::from_secs(60), clients.join_next())
        .await
        .expect("clients end")
    {
        ended.expect("no client panics");
    }
}

/// Holds the CA against what clients were told.
async fn compare(socket: &Path, shared: &Shared, before: &BTreeSet<Serial>, dice: &mut Dice) {
    let (fresh, old, revoked) = told(shared, |told| {
        assert!(told.twice.is_empty(), "serials given twice: {:?}", told.twice);
        let (old, fresh): (Vec<_>, Vec<_>) = told
            .certificates
            .clone()
            .into_iter()
            .partition(|(serial, _)| before.contains(serial));
        (fresh, old, told.revoked.clone())
    });
    let again = (0..LOOKED_UP_AGAIN.min(old.len())).map(|_| old[dice.below(old.len() as u64) as usize].clone());
    let mut ledger = LedgerClient::new(admin(socket).await.unwrap());
    let mut search = async |serial: &Serial| {
        let request = SearchRequest {
            serial: serial.to_string(),
            ..SearchRequest::default()
        };
        let found = ledger.search(request).await.unwrap().into_inner().records;
        found
            .into_iter()
            .filter(|record| record.kind == "issue")
            .collect::<Vec<_>>()
    };
    for (serial, receipt) in fresh.into_iter().chain(again) {
        let found = search(&serial).await;
        assert_eq!(found.len(), 1, "{serial}: {found:?}");
        assert_eq!(found[0].index, receipt.index, "{serial}");
        assert!(
            !revoked.contains(&serial) || found[0].state == "revoked",
            "{serial} lives again"
        );
    }
    for serial in &revoked {
        assert_eq!(search(serial).await[0].state, "revoked", "{serial} lives again");
    }
    let entries = client::registry(socket)
        .await
        .list_entries(ListEntriesRequest::default())
        .await
        .unwrap()
        .into_inner();
    assert_eq!(entries.entries.len(), 1);
}

/// What the ledger itself holds.
#[derive(Default)]
struct Held {
    issued: BTreeMap<Serial, (u64, [u8; 32])>,
    struck: BTreeSet<Serial>,
}

impl RecordCheck for Held {
    fn record(&mut self, _: &Vkey, stored: &Stored) -> Result<(), String> {
        let record = Record::decode(stored.bytes()).map_err(|error| error.to_string())?;
        match record.body {
            Some(Body::Issue(issue)) => {
                let leaf = LeafInfo::parse(&issue.certificate_der).map_err(|error| error.to_string())?;
                let at = (stored.index(), *stored.leaf_hash().as_bytes());
                match self.issued.insert(*leaf.serial(), at) {
                    None => Ok(()),
                    Some((first, _)) => Err(format!("serial {} was issued at {first} before", leaf.serial())),
                }
            }
            Some(Body::Revoke(revoke)) => {
                for revoked in revoke.serials {
                    let serial = Serial::from_be_octets(&revoked.serial).map_err(|error| error.to_string())?;
                    self.struck.insert(serial);
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ca_killed_at_any_moment_forgets_nothing_it_has_said() {
    let full = std::env::var("MINTAGE_FULL").is_ok_and(|value| value == "1");
    let seed = std::env::var("MINTAGE_SEED")
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(20_26);
    println!("MINTAGE_SEED={seed}");
    let mut dice = Dice(seed);
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("ca");
    ca::make(&dir);
    let shared = Shared::default();

    let mut running = CaProcess::start(&dir, 0);
    ca::entry(&running.admin_socket(), "web", "/web").await;
    let mut agents = Vec::new();
    for n in 0..AGENTS {
        let token = ca::token(&running.admin_socket(), &format!("n{n}")).await;
        agents.push(join(&token).await.unwrap());
    }
    for _ in 0..if full { 40 } else { 4 } {
        let before = told(&shared, |told| told.certificates.keys().copied().collect());
        let dies_after = Duration::from_millis(100 + dice.below(1400));
        live(running, &agents, &shared, Some(dies_after)).await;
        running = CaProcess::start(&dir, 0);
        compare(&running.admin_socket(), &shared, &before, &mut dice).await;
    }
    live(running, &agents, &shared, None).await;

    let mut held = Held::default();
    let reports = verify(&dir.join("ledger"), None, &mut held).expect("the ledger proves itself offline");
    assert!(
        reports
            .iter()
            .all(|report| !report.unfinished_tail && report.checkpoint.size == report.size),
        "{reports:?}"
    );
    let told = shared.lock().unwrap();
    assert!(told.twice.is_empty(), "{:?}", told.twice);
    assert!(
        told.certificates.len() > 50 && told.revoked.len() > 4,
        "too little happened to prove anything: {told:?}"
    );
    for (serial, receipt) in &told.certificates {
        let (index, leaf) = held
            .issued
            .get(serial)
            .unwrap_or_else(|| panic!("{serial} has no record"));
        assert_eq!(
            (*index, leaf.as_slice()),
            (receipt.index, receipt.leaf_hash.as_slice()),
            "{serial}"
        );
    }
    assert!(told.revoked.is_subset(&held.struck));
    println!(
        "{} certificates, {} revoked, {} records",
        told.certificates.len(),
        told.revoked.len(),
        reports[0].size
    );
}
