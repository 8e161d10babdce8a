//! Holds a CA against what its clients were told: while it serves, and offline by what its ledger holds.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
};

use mintage_identity::Serial;
use mintage_ledger::{
    Hash, Leaves, RecordCheck, ShardBegin, ShardReport, Stored, Vkey, inclusion, verify, verify_inclusion,
    wire::{Record, record::Body},
};
use mintage_proto::v1::{RecordSummary, SearchRequest, ShardsRequest, ledger_client::LedgerClient};
use mintage_svid::LeafInfo;
use prost::Message as _;
use tonic::transport::Channel;

use super::{ca::entries, client::admin, dice::Dice, load::Shared};

/// Certificates of former lives that are looked up again after each start; the offline check looks at every one.
const LOOKED_UP_AGAIN: usize = 40;

async fn issued(ledger: &mut LedgerClient<Channel>, serial: &Serial) -> Vec<RecordSummary> {
    let request = SearchRequest {
        serial: serial.to_string(),
        ..SearchRequest::default()
    };
    let found = ledger.search(request).await.expect("the ledger answers").into_inner();
    found
        .records
        .into_iter()
        .filter(|record| record.kind == "issue")
        .collect()
}

/// Holds the serving CA against what clients were told; `before` are the certificates that were held against it already.
///
/// # Panics
///
/// When it has forgotten anything.
pub async fn compare(socket: &Path, shared: &Shared, before: &BTreeSet<Serial>, dice: &mut Dice) {
    let (fresh, old, revoked) = shared.look(|told| {
        assert!(told.twice.is_empty(), "serials given twice: {:?}", told.twice);
        let (old, fresh): (Vec<_>, Vec<_>) = told
            .certificates
            .clone()
            .into_iter()
            .partition(|(serial, _)| before.contains(serial));
        (fresh, old, told.revoked.clone())
    });
    let again = (0..LOOKED_UP_AGAIN.min(old.len())).map(|_| old[dice.below(old.len() as u64) as usize].clone());
    let mut ledger = LedgerClient::new(admin(socket).await.expect("the admin socket answers"));
    let shards = ledger.shards(ShardsRequest {}).await.expect("the shards").into_inner();
    let firsts: BTreeMap<String, u64> = shards.shards.into_iter().map(|log| (log.origin, log.first)).collect();
    for (serial, receipt) in fresh.into_iter().chain(again) {
        let found = issued(&mut ledger, &serial).await;
        assert_eq!(found.len(), 1, "{serial}: {found:?}");
        // A receipt counts in its log, a search through all of them.
        let position = firsts.get(&receipt.origin).map(|first| first + receipt.index);
        assert_eq!(Some(found[0].index), position, "{serial}");
    }
    // All of them while they are few; later a sample, or a long campaign would do little else.
    let every = (revoked.len() / LOOKED_UP_AGAIN).max(1);
    let from = dice.below(every as u64) as usize;
    for serial in revoked.iter().skip(from).step_by(every) {
        let found = issued(&mut ledger, serial).await;
        assert_eq!(found[0].state, "revoked", "{serial} lives again");
    }
    assert_eq!(entries(socket).await, 1);
}

/// What the ledger itself holds.
#[derive(Default)]
struct Held {
    /// Log, index in it, leaf hash.
    issued: BTreeMap<Serial, (String, u64, Hash)>,
    struck: BTreeSet<Serial>,
    /// Of each log.
    leaves: BTreeMap<String, Leaves>,
    /// Records of the log that is read.
    size: u64,
}

impl RecordCheck for Held {
    fn begin(&mut self, _: &ShardBegin<'_>) -> Result<(), String> {
        self.size = 0;
        Ok(())
    }

    fn record(&mut self, log: &Vkey, stored: &Stored) -> Result<(), String> {
        let record = Record::decode(stored.bytes()).map_err(|error| error.to_string())?;
        let leaves = self.leaves.entry(log.name().to_owned()).or_default();
        leaves.push(stored.leaf_hash());
        let index = self.size;
        self.size += 1;
        match record.body {
            Some(Body::Issue(issue)) => {
                let leaf = LeafInfo::parse(&issue.certificate_der).map_err(|error| error.to_string())?;
                let at = (log.name().to_owned(), index, stored.leaf_hash());
                match self.issued.insert(*leaf.serial(), at) {
                    None => Ok(()),
                    Some((log, first, _)) => Err(format!(
                        "serial {} was issued at {first} of {log} before",
                        leaf.serial()
                    )),
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

/// Verifies the ledger in `ledger` and finds in it everything that clients were told.
///
/// # Panics
///
/// When the ledger does not prove itself, lacks anything, or too little was told to prove much.
pub fn verify_offline(ledger: &Path, shared: &Shared) -> Vec<ShardReport> {
    let mut held = Held::default();
    let reports = verify(ledger, None, &mut held).expect("the ledger proves itself offline");
    shared.look(|told| {
        assert!(told.twice.is_empty(), "{:?}", told.twice);
        assert!(
            told.certificates.len() > 50 && told.revoked.len() > 4,
            "too little happened to prove anything: {told:?}"
        );
        for (serial, receipt) in &told.certificates {
            let (log, index, leaf) = held
                .issued
                .get(serial)
                .unwrap_or_else(|| panic!("{serial} has no record"));
            assert_eq!(
                (log.as_str(), *index, leaf.as_bytes().as_slice()),
                (receipt.origin.as_str(), receipt.index, receipt.leaf_hash.as_slice()),
                "{serial}"
            );
            let report = reports.iter().find(|report| report.vkey.name() == log);
            let signed = &report.expect("each log is reported").checkpoint;
            let path = inclusion(&held.leaves[log], *index, signed.size);
            let path = path.expect("the checkpoint covers what was released");
            verify_inclusion(leaf, *index, signed.size, &path, &signed.root).expect("the proof is valid");
        }
        assert!(told.revoked.is_subset(&held.struck));
        println!(
            "{} certificates, {} revoked, {} records",
            told.certificates.len(),
            told.revoked.len(),
            reports.iter().map(|report| report.size).sum::<u64>()
        );
    });
    reports
}
