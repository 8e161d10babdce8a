//! A log with as many histories as a test wants, and a folder for a witness of it.

use std::path::PathBuf;

use mintage_identity::{TrustDomain, UnixTime};
use mintage_ledger::{
    AddCheckpoint, Checkpoint, CosignerKey, Hash, HashSource, LedgerError, LogKey, Origin, SignedCheckpoint,
    Succession, Vkey, consistency, leaf_hash, node_hash, root_at,
};
use tempfile::TempDir;
use zeroize::Zeroizing;

use super::store::{self, Store};
use crate::{Deps, error::CaError};

pub(crate) const NOW: UnixTime = UnixTime::from_seconds(1_800_000_000);

/// One history of a log; the log's key signs any of them.
pub(crate) struct Fork {
    seed: u8,
    origin: Origin,
    key: u16,
}

impl HashSource for Fork {
    fn node(&self, level: u8, index: u64) -> Result<Hash, LedgerError> {
        match level {
            0 => Ok(leaf_hash(&[&[self.seed][..], &index.to_be_bytes()].concat())),
            _ => Ok(node_hash(
                &self.node(level - 1, 2 * index)?,
                &self.node(level - 1, 2 * index + 1)?,
            )),
        }
    }
}

impl Fork {
    pub(crate) fn new(seed: u8) -> Self {
        let domain = TrustDomain::parse("dev.test").unwrap();
        let origin = Origin::new(&domain, "a1b2", NOW).unwrap();
        Self { seed, origin, key: 3 }
    }

    /// A log of this name, with the key of this seed.
    pub(crate) fn named(origin: &str, key: u16) -> Self {
        let origin = Origin::parse(origin).unwrap();
        Self { seed: 1, origin, key }
    }

    /// The log of the same ledger that is this many shards after the first.
    pub(crate) fn later(number: u8) -> Self {
        Self::named(
            &format!("dev.test/mintage/a1b2/2030-{number:02}"),
            100 + u16::from(number),
        )
    }

    /// One of many logs of the same ledger.
    pub(crate) fn numbered(number: usize) -> Self {
        Self::named(
            &format!("dev.test/mintage/a1b2/2040-01-{number}"),
            1000 + u16::try_from(number).unwrap(),
        )
    }

    fn key(&self) -> LogKey {
        let mut seed = Zeroizing::new([3; 32]);
        seed[..2].copy_from_slice(&self.key.to_be_bytes());
        LogKey::generate(&seed).unwrap().0
    }

    /// What the key of this log says about the log after it.
    pub(crate) fn names(&self, next: &Self) -> String {
        Succession::sign(&self.key(), &self.origin, &next.vkey()).to_string()
    }

    pub(crate) fn origin(&self) -> &str {
        self.origin.as_str()
    }

    pub(crate) fn vkey(&self) -> Vkey {
        self.key().vkey(&self.origin)
    }

    pub(crate) fn signed(&self, size: u64) -> SignedCheckpoint {
        self.key().sign(Checkpoint {
            origin: self.origin.clone(),
            size,
            root: root_at(self, size).unwrap(),
        })
    }

    pub(crate) fn text(&self, size: u64) -> String {
        self.signed(size).note().text().to_owned()
    }

    pub(crate) fn request(&self, old: u64, new: u64) -> String {
        let proof = consistency(self, old, new).unwrap();
        let request = AddCheckpoint::new(old, proof, self.signed(new).note().clone());
        request.unwrap().to_string()
    }
}

/// A folder for a witness and its policy.
pub(crate) struct Place(TempDir);

impl Place {
    pub(crate) fn new() -> Self {
        let place = Self(tempfile::tempdir().unwrap());
        let policy = format!("log {}\nquorum none\n", Fork::new(0).vkey());
        std::fs::write(place.policy(), policy).unwrap();
        place
    }

    pub(crate) fn dir(&self) -> PathBuf {
        self.0.path().join("witness")
    }

    pub(crate) fn policy(&self) -> PathBuf {
        self.0.path().join("policy")
    }

    pub(crate) fn init(&self, name: &str) -> CosignerKey {
        store::init(&self.dir(), name, None, Deps::system().random).unwrap()
    }

    pub(super) fn open(&self) -> Result<Store, CaError> {
        Store::open(&self.dir(), &self.policy(), None)
    }
}
