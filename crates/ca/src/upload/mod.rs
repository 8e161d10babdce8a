//! Sealed segments in an object store, as a second copy that an auditor can verify and a fire does not reach.
//!
//! It follows the journal alone, on a thread and runtime of its own: no certificate, seal, roll or answer ever waits for it. Names in
//! the store are those below the ledger's folder, so that a downloaded copy is a ledger of closed shards. An object is made once
//! and never replaced; only the checkpoint of each log, and the policy that names whole shards, may be replaced by newer ones.

#[cfg(feature = "upload")]
mod connector;
#[cfg(feature = "upload")]
mod credentials;
mod progress;
mod settings;
#[cfg(feature = "upload")]
mod store;
#[cfg(feature = "upload")]
mod task;
#[cfg(test)]
#[cfg(feature = "upload")]
mod tests;
#[cfg(feature = "upload")]
mod uploader;

pub(crate) use self::progress::Uploaded;
pub(crate) use self::settings::{RawUpload, UploadSettings};
#[cfg(feature = "upload")]
pub(crate) use self::task::Upload;
