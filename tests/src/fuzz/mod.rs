//! Parsers of hostile bytes as functions that say what must hold whatever the bytes: no panic, one encoding, and no more
//! taken than was given. The property tests run them on mutated seeds, and the program `mintage-fuzz` on files or standard
//! input, for a fuzzer that drives a program.

mod ledger;
mod lookups;
mod names;
mod revocation;
mod sds;

/// One parser, and inputs that it accepts.
#[derive(Clone, Copy)]
pub struct Target {
    /// Its name on the command line.
    pub name: &'static str,
    /// Feeds it, and tells whether it took the bytes; a broken promise is a panic.
    pub run: fn(&[u8]) -> bool,
    /// Inputs that it accepts, from which others are made.
    pub seeds: fn() -> Vec<Vec<u8>>,
}

impl std::fmt::Debug for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Target({})", self.name)
    }
}

const fn target(name: &'static str, run: fn(&[u8]) -> bool, seeds: fn() -> Vec<Vec<u8>>) -> Target {
    Target { name, run, seeds }
}

/// Every target.
pub const TARGETS: &[Target] = &[
    target("record", ledger::record, ledger::records),
    target("frame", ledger::frames, ledger::framed),
    target("wal-file", ledger::wal_file, ledger::wal_files),
    target("tile", ledger::tile, ledger::tiles),
    target("bundle", ledger::bundle, ledger::bundles),
    target("tile-path", ledger::tile_path, ledger::tile_paths),
    target("entries", ledger::entries, ledger::sealed_entries),
    target("index", ledger::index, ledger::sealed_index),
    target("checkpoint", ledger::checkpoint, ledger::checkpoints),
    target("signed-note", ledger::signed_note, ledger::checkpoints),
    target("tlog-proof", ledger::tlog_proof, ledger::tlog_proofs),
    target("add-checkpoint", ledger::add_checkpoint, ledger::add_checkpoints),
    target("vkey", ledger::vkey, ledger::vkeys),
    target("tlog-policy", ledger::tlog_policy, ledger::tlog_policies),
    target("revocation-snapshot", revocation::snapshot, revocation::snapshots),
    target("revocation-delta", revocation::delta, revocation::deltas),
    target("revocation-heartbeat", revocation::heartbeat, revocation::heartbeats),
    target("delegation", revocation::delegation, revocation::delegations),
    target("revocation-map", revocation::map, revocation::maps),
    target("escaped-chain", lookups::escaped_chain, lookups::escaped_chains),
    target("lookup-path", lookups::path, lookups::paths),
    target("csr", names::csr, names::csrs),
    target("crl", names::crl, names::crls),
    target("spiffe-id", names::spiffe_id, names::spiffe_ids),
    target("entries-file", names::entries_file, names::entries_files),
    target("sds-request", sds::request, sds::requests),
];

/// The target of this name.
pub fn target_of(name: &str) -> Option<&'static Target> {
    TARGETS.iter().find(|target| target.name == name)
}
