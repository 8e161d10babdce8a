//! The peers whose connections were accepted, handed on to whoever reports which certificates are in use: a certificate that
//! the CA's ledger does not hold was made with a stolen key, and only its use shows it. Handing on never waits; reporting
//! is not done here, because nothing on a handshake path opens another connection.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use rustls::pki_types::CertificateDer;
use tokio::sync::mpsc;

use crate::limits::ACCEPTED_QUEUE_MAX;

/// The chain of a peer that was accepted, leaf first, as it was sent.
pub type AcceptedChain = Vec<CertificateDer<'static>>;

/// Where the chains go; clones lead to the same receiver.
#[derive(Debug, Clone)]
pub struct AcceptedPeers {
    sender: mpsc::Sender<AcceptedChain>,
    missed: Arc<AtomicU64>,
}

impl AcceptedPeers {
    /// A way for chains, and its end. At most 256 wait; those that come while it is full are not handed on, and counted.
    /// A service passes on to its agent's socket (`AgentLocal.ReportSeen`) what it receives.
    pub fn channel() -> (Self, mpsc::Receiver<AcceptedChain>) {
        let (sender, receiver) = mpsc::channel(ACCEPTED_QUEUE_MAX);
        let missed = Arc::default();
        (Self { sender, missed }, receiver)
    }

    /// Chains that were not handed on because nobody took them in time.
    pub fn missed(&self) -> u64 {
        self.missed.load(Ordering::Relaxed)
    }

    pub(crate) fn hand_on(&self, presented: &[CertificateDer<'_>]) {
        // Nothing is copied for a queue that is full.
        match self.sender.try_reserve() {
            Ok(place) => place.send(presented.iter().map(|der| der.clone().into_owned()).collect()),
            Err(_) => drop(self.missed.fetch_add(1, Ordering::Relaxed)),
        }
    }
}
