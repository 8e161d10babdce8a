//! The real agent killed with `kill -9` at random points, again and again, while it renews and an administrator revokes: the
//! delivered folder is never torn, the agent comes back without a token, no serial comes twice, what is revoked stays
//! revoked.
//!
//! Seeded: `MINTAGE_SEED` repeats a run's moments of death. Four deaths, forty with `MINTAGE_FULL=1`.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use mintage_identity::Serial;
use mintage_ledger::{RecordCheck, Stored, Vkey, verify, wire::Record, wire::record::Body};
use mintage_proto::v1::{
    RenewAgentRequest, RevokeRequest, SearchRequest, ledger_client::LedgerClient, revocation_client::RevocationClient,
    revoke_request::Target,
};
use mintage_svid::{LeafInfo, key_matches, pem};
use mintage_tests::kit::{
    agent::{AgentProcess, WAIT_MAX, config},
    ca::{CaProcess, entry, make, token},
    client::{admin, registry},
    dice::{Dice, full},
    inventory::records,
};
use prost::Message as _;

/// Entries that one agent delivers; more of them, and a death meets a write more often.
const ENTRIES: [&str; 4] = ["web", "db", "queue", "cache"];
/// Renewals come and go within this time in a life of the agent.
const LIFE_MAX_MS: u64 = 600;

/// Leaf and key of one generation, entered once so that a swap between two reads is none of the reader's.
fn read_pair(folder: &Path) -> Option<(Vec<u8>, Vec<u8>)> {
    let generation = std::fs::canonicalize(folder.join("..data")).ok()?;
    let certificate = std::fs::read_to_string(generation.join("svid.pem")).ok()?;
    let key = std::fs::read_to_string(generation.join("svid_key.pem")).ok()?;
    let leaf = pem::decode_certificates(&certificate).ok()?.swap_remove(0);
    Some((leaf, pem::decode_private_key(&key).ok()?.to_vec()))
}

fn serial_of(folder: &Path) -> Option<Serial> {
    Some(*LeafInfo::parse(&read_pair(folder)?.0).ok()?.serial())
}

/// Reads all folders until it is told to stop; every serial that it saw. The pair that a death left behind is read like any
/// other, for nobody may see a key that does not match.
fn reader(folders: Vec<PathBuf>, over: Arc<AtomicBool>) -> JoinHandle<BTreeSet<Serial>> {
    std::thread::spawn(move || {
        let mut seen = BTreeSet::new();
        let mut pairs = vec![None; folders.len()];
        while !over.load(Ordering::Relaxed) {
            for (folder, last) in folders.iter().zip(&mut pairs) {
                let Some(pair) = read_pair(folder) else { continue };
                if last.as_ref() == Some(&pair) {
                    continue;
                }
                assert!(key_matches(&pair.0, &pair.1).unwrap(), "{} is torn", folder.display());
                seen.insert(*LeafInfo::parse(&pair.0).unwrap().serial());
                *last = Some(pair);
            }
        }
        seen
    })
}

/// Asks the agent for renewals, and revokes what it delivered, until this much time has passed.
async fn stir(ca: &CaProcess, folders: &[PathBuf], life: Duration, revoked: &mut BTreeSet<Serial>, dice: &mut Dice) {
    let socket = ca.admin_socket();
    let mut registry = registry(&socket).await;
    let mut revocation = RevocationClient::new(admin(&socket).await.unwrap());
    let stirring = async {
        loop {
            let request = RenewAgentRequest {
                name: "n1".to_owned(),
                agent: dice.below(4) == 0,
                ..RenewAgentRequest::default()
            };
            // Until the agent is connected the CA has nobody to ask.
            let _ = registry.renew_agent(request).await;
            let struck = serial_of(&folders[dice.below(folders.len() as u64) as usize]);
            if let Some(serial) = struck.filter(|_| dice.below(8) == 0) {
                let request = RevokeRequest {
                    target: Some(Target::Serial(serial.to_string())),
                    reason: "key-compromise".to_owned(),
                    ..RevokeRequest::default()
                };
                if revocation.revoke(request).await.is_ok() {
                    revoked.insert(serial);
                }
            }
            tokio::time::sleep(Duration::from_millis(5 + dice.below(20))).await;
        }
    };
    // A call that is cut off may have been heard: then it is a revocation that nobody counts on.
    let _ = tokio::time::timeout(life, stirring).await;
}

/// What the ledger holds: no serial twice, and each that was seen.
#[derive(Default)]
struct Issued(BTreeSet<Serial>);

impl RecordCheck for Issued {
    fn record(&mut self, _: &Vkey, stored: &Stored) -> Result<(), String> {
        let record = Record::decode(stored.bytes()).map_err(|error| error.to_string())?;
        let Some(Body::Issue(issue)) = record.body else {
            return Ok(());
        };
        let leaf = LeafInfo::parse(&issue.certificate_der).map_err(|error| error.to_string())?;
        match self.0.insert(*leaf.serial()) {
            true => Ok(()),
            false => Err(format!("serial {} was issued twice", leaf.serial())),
        }
    }
}

async fn state_of(socket: &Path, serial: &Serial) -> String {
    let request = SearchRequest {
        serial: serial.to_string(),
        kinds: vec!["issue".to_owned()],
        ..SearchRequest::default()
    };
    let mut ledger = LedgerClient::new(admin(socket).await.unwrap());
    let mut found = ledger.search(request).await.unwrap().into_inner().records;
    assert_eq!(found.len(), 1, "{serial}");
    found.remove(0).state
}

/// Waits until every folder has another certificate than now: the agent is whole again, whatever was under way. It is asked
/// more than once, for a demand may still go to the stream of the process that died. Its own certificate may lag behind
/// what the CA issued: the answers to its renewals died with it, however many in a row.
async fn renewed(agent: &mut AgentProcess, ca: &CaProcess, folders: &[PathBuf]) {
    let mut left: Vec<_> = folders
        .iter()
        .map(|folder| (folder, serial_of(folder).unwrap()))
        .collect();
    let mut registry = registry(&ca.admin_socket()).await;
    let started = Instant::now();
    loop {
        left.retain(|(folder, before)| serial_of(folder).as_ref() == Some(before));
        if left.is_empty() {
            return;
        }
        let request = RenewAgentRequest {
            name: "n1".to_owned(),
            ..RenewAgentRequest::default()
        };
        // Until the agent is connected the CA has nobody to ask.
        let _ = registry.renew_agent(request).await;
        agent.runs();
        assert!(started.elapsed() < WAIT_MAX, "{left:?} not renewed:\n{}", agent.log());
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_killed_at_any_moment_comes_back_with_whole_folders() {
    let mut dice = Dice::from_env();
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("ca");
    make(&data);
    let ca = CaProcess::start(&data, 0);
    for name in ENTRIES {
        entry(&ca.admin_socket(), name, &format!("/{name}")).await;
    }
    let file = config(folder.path(), &ENTRIES);
    let folders: Vec<PathBuf> = ENTRIES.iter().map(|name| folder.path().join(name)).collect();
    let join = token(&ca.admin_socket(), "n1").await;
    let mut agent = AgentProcess::start(folder.path(), &file, Some(&join));
    for folder in &folders {
        agent.wait_for("the first delivery", || serial_of(folder));
    }
    let over = Arc::new(AtomicBool::new(false));
    let reading = reader(folders.clone(), over.clone());
    let mut revoked = BTreeSet::new();
    for _ in 0..if full() { 40 } else { 4 } {
        let life = Duration::from_millis(dice.below(LIFE_MAX_MS));
        stir(&ca, &folders, life, &mut revoked, &mut dice).await;
        agent.kill();
        for folder in &folders {
            let (leaf, key) = read_pair(folder).expect("a pair stays in place");
            assert!(key_matches(&leaf, &key).unwrap(), "{} is torn", folder.display());
        }
        agent = AgentProcess::start(folder.path(), &file, None);
        renewed(&mut agent, &ca, &folders).await;
    }
    over.store(true, Ordering::Relaxed);
    let seen = reading.join().unwrap();
    for serial in &revoked {
        assert_eq!(
            state_of(&ca.admin_socket(), serial).await,
            "revoked",
            "{serial} lives again"
        );
    }
    let joins = records(&ca.admin_socket(), "token.consume", "").await;
    assert_eq!(joins.len(), 1, "it never joined anew");
    assert_eq!(agent.stop(), Some(0));
    assert_eq!(ca.stop(), Some(0));

    let mut issued = Issued::default();
    verify(&data.join("ledger"), None, &mut issued).expect("the ledger proves itself");
    assert!(
        seen.is_subset(&issued.0),
        "every certificate that was delivered has its record"
    );
    assert!(seen.len() > 2 * ENTRIES.len(), "too little happened: {seen:?}");
    println!("{} certificates seen, {} revoked", seen.len(), revoked.len());
}
