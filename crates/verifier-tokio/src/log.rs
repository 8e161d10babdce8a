//! Refusals as log events. They are written inside the handshake's own task, so they carry whatever span the caller
//! has put around it, such as one with the peer's address.

use mintage_verifier::{Observer, VerifyError};

/// Logs every refused chain at level INFO, with its code and full reason.
#[derive(Debug, Clone, Copy, Default)]
pub struct LogRefusals;

impl Observer for LogRefusals {
    fn refused(&self, error: &VerifyError) {
        tracing::info!(code = error.code(), "refused a peer's certificate: {error}");
    }
}
