//! Holds a CA against what its clients were told: while it serves, and offline by what its ledger holds.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
};

use mintage_identity::Serial;
use mintage_ledger::{
    Hash, Leaves, RecordCheck, ShardReport, Stored, Vkey, inclusion, verify, verify_inclusion,
    wire::{Record, record::Body},
};
use mintage_proto::v1::{RecordSummary, SearchRequest, ledger_client::LedgerClient};
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
    for (serial, receipt) in fresh.into_iter().chain(again) {
        let found = issued(&mut ledger, &serial).await;
        assert_eq!(found.len(), 1, "{serial}: {found:?}");
        assert_eq!(found[0].index, receipt.index, "{serial}");
    }
    for serial in &revoked {
        let found = issued(&mut ledger, serial).await;
        assert_eq!(found[0].state, "revoked", "{serial} lives again");
    }
    assert_eq!(entries(socket).await, 1);
}

/// What the ledger itself holds.
#[derive(Default)]
struct Held {
    issued: BTreeMap<Serial, (u64, Hash)>,
    struck: BTreeSet<Serial>,
    leaves: Leaves,
}

impl RecordCheck for Held {
    fn record(&mut self, _: &Vkey, stored: &Stored) -> Result<(), String> {
        let record = Record::decode(stored.bytes()).map_err(|error| error.to_string())?;
        self.leaves.push(stored.leaf_hash());
        match record.body {
            Some(Body::Issue(issue)) => {
                let leaf = LeafInfo::parse(&issue.certificate_der).map_err(|error| error.to_string())?;
                let at = (stored.index(), stored.leaf_hash());
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
            let (index, leaf) = held
                .issued
                .get(serial)
                .unwrap_or_else(|| panic!("{serial} has no record"));
            assert_eq!(
                (*index, leaf.as_bytes().as_slice()),
                (receipt.index, receipt.leaf_hash.as_slice()),
                "{serial}"
            );
            let signed = &reports[0].checkpoint;
            let path = inclusion(&held.leaves, *index, signed.size).expect("the checkpoint covers what was released");
            verify_inclusion(leaf, *index, signed.size, &path, &signed.root).expect("the proof is valid");
        }
        assert!(told.revoked.is_subset(&held.struck));
        println!(
            "{} certificates, {} revoked, {} records",
            told.certificates.len(),
            told.revoked.len(),
            reports[0].size
        );
    });
    reports
}
