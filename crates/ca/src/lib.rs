//! The certificate authority: gRPC services over the ledger, the state and the mint.
//!
//! Start reading at `issue.rs`: it tells an issuance on one screen. `control` is the same road for everything that is
//! no issuance; `serve` puts the parts together; `roles` says who may call what. Nothing here parses a certificate by
//! hand, signs anything itself, or keeps a truth of its own: the ledger is the truth.

mod acceptor;
mod admin;
mod auditors;
mod ca_events;
mod ca_status;
mod certificate_state;
mod clock;
mod config;
mod control;
mod convert;
mod data_dir;
mod denials;
mod descriptors;
mod desk;
mod drawn;
mod entries;
mod error;
mod fleet;
mod flood;
mod gate;
mod health;
mod http;
mod index;
mod inflight;
mod init;
mod issue;
mod key_ends;
mod keys;
mod limits;
pub mod line;
mod listing;
pub mod logging;
mod metrics;
mod open;
mod orphans;
mod peer;
mod places;
mod preface;
mod publisher;
mod pusher;
mod replay;
mod replica_svid;
mod restore;
mod revoke;
pub mod roles;
mod seen;
mod serve;
mod services;
mod shards;
mod signals;
mod sparse;
mod standing;
mod status;
mod trust;
pub mod witness;
mod witnessing;

pub use clock::{Clock, SystemClock};
pub use config::{ChainMode, Config, ConfigError, LISTEN_DEFAULT, parse_metrics_address};
pub use desk::Random;
pub use error::CaError;
pub use init::{Deps, InitOptions, Made, check_init, init};
pub use keys::find_protection;
pub use mintage_mint::KeyProtection;
pub use open::check_data_dir;
pub use restore::{RestoreOptions, RestorePlan, Restored, check_restore, restore};
pub use serve::Ca;
pub use signals::Hangups;
pub use witness::{Witness, WitnessOptions};
