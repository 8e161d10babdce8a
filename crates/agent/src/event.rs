//! What an observer in the same process is told.

use std::path::PathBuf;

use mintage_identity::{EntryName, Serial, SpiffeId, UnixTime};

/// Something happened. Events are news, not state: a slow observer may lose some and asks the handle for the state.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum AgentEvent {
    /// The agent has its identity from the CA.
    Joined {
        /// Its own SPIFFE ID.
        spiffe_id: SpiffeId,
    },
    /// The stream to the CA is open.
    Connected {
        /// The address that answered.
        address: String,
    },
    /// The stream to the CA ended; the agent tries again by itself.
    Disconnected {
        /// Why.
        why: String,
    },
    /// The CA named the entries of this agent.
    EntriesApplied {
        /// How many there are now.
        count: usize,
        /// Ledger index they stand at.
        index: u64,
    },
    /// A new certificate was verified and swapped into its folder, durably.
    Delivered {
        /// The entry.
        entry: EntryName,
        /// Its identity.
        spiffe_id: SpiffeId,
        /// The certificate's serial.
        serial: Serial,
        /// Its end.
        not_after: UnixTime,
        /// The folder.
        directory: PathBuf,
    },
    /// What is to be done after a change of a folder was done, and its effect was seen where one is asked for.
    Acted {
        /// The entry.
        entry: EntryName,
        /// The certificate's serial.
        serial: Serial,
        /// The folder.
        directory: PathBuf,
    },
    /// The agent's own certificate was renewed.
    Renewed {
        /// The certificate's serial.
        serial: Serial,
        /// Its end.
        not_after: UnixTime,
    },
    /// Everything revoked up to this ledger index is now refused on this node.
    RevocationApplied {
        /// Sequence of the revocation set.
        sequence: u64,
    },
    /// A new trust bundle is in force.
    TrustApplied {
        /// Its sequence.
        sequence: u64,
    },
    /// Other bundles of federated trust domains are in force.
    FederationApplied {
        /// How many there are now.
        trust_domains: usize,
    },
    /// The CA took identities away.
    Retired {
        /// The entries; empty when the agent itself was retired.
        entries: Vec<EntryName>,
        /// Why.
        why: String,
    },
    /// Something failed; what was in place before still is.
    Problem {
        /// Where: `connect`, `join`, `mint`, `verify`, `deliver`, `entry`, `trust`, `revocation`, `store`,
        /// `receipt`, `hook`, `effect`, `bundle_map`, `limit`, `socket`.
        stage: &'static str,
        /// The entry, address or file it is about.
        subject: String,
        /// What is wrong and what to do.
        message: String,
    },
}
