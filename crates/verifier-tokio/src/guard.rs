//! One live connection's place in the registry, and why it was told to close.

use std::{
    fmt,
    sync::{Arc, OnceLock},
};

use mintage_verifier::{VerifiedPeer, VerifyError};
use tokio_util::sync::CancellationToken;

use crate::registry::Inner;

/// Why a live connection has to end.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum CloseReason {
    /// A certificate of the peer's path has reached its notAfter.
    #[error("the peer's certificate has expired; reconnect with a current one")]
    Expired,
    /// The peer would not be accepted any more: revoked, or its root was removed.
    #[error("the peer is no longer accepted: {0}")]
    Refused(VerifyError),
    /// The program asked for it, as when an agent was banned or the server drains.
    #[error("the connection was ended by the server: {0}")]
    Ended(&'static str),
}

/// What the registry and the connection's own tasks share.
#[derive(Debug, Default)]
pub(crate) struct Closing {
    token: CancellationToken,
    reason: OnceLock<CloseReason>,
}

impl Closing {
    /// Tells the connection to end; true for the first to say so.
    pub(crate) fn close(&self, reason: CloseReason) -> bool {
        let first = self.reason.set(reason).is_ok();
        // After the reason, so that whoever is woken finds it.
        self.token.cancel();
        first
    }
}

/// A connection's place in the registry. Dropping it takes the connection out.
pub struct Guard {
    pub(crate) registry: Arc<Inner>,
    pub(crate) number: u64,
    pub(crate) peer: Arc<VerifiedPeer>,
    pub(crate) closing: Arc<Closing>,
}

impl Guard {
    /// Who was proven to be at the other end.
    pub fn peer(&self) -> &Arc<VerifiedPeer> {
        &self.peer
    }

    /// Ends with the connection: for tasks that work on behalf of the peer.
    pub fn token(&self) -> &CancellationToken {
        &self.closing.token
    }

    /// True once the connection has to end.
    pub fn is_closed(&self) -> bool {
        self.closing.token.is_cancelled()
    }

    /// Waits until the connection has to end.
    pub async fn closed(&self) -> CloseReason {
        self.closing.token.cancelled().await;
        self.reason().unwrap_or(CloseReason::Ended("cancelled"))
    }

    /// Why the connection has to end, or `None` while it may live.
    pub fn reason(&self) -> Option<CloseReason> {
        self.closing.reason.get().cloned()
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.registry.remove(self.number);
    }
}

impl fmt::Debug for Guard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Guard")
            .field("number", &self.number)
            .field("peer", self.peer.id())
            .field("reason", &self.closing.reason.get())
            .finish()
    }
}
