//! Who is on the other end of a connection, as the transport proved it. Nothing here is believed from a message.

use std::{net::SocketAddr, sync::Arc};

use mintage_attest::AgentSession;
use mintage_identity::Reserved;
use mintage_verifier::VerifiedPeer;

/// One connection's other end; a request carries it in its extensions.
#[derive(Clone, Debug)]
pub(crate) enum Peer {
    /// Over TCP and TLS.
    Tls(Arc<TlsPeer>),
    /// Over the admin socket, with the credentials the kernel gave.
    Admin(AdminPeer),
}

/// The other end of a TLS connection.
#[derive(Debug)]
pub(crate) struct TlsPeer {
    /// Where it came from; for logs only.
    pub(crate) remote: SocketAddr,
    /// The certificate it proved; `None` for an anonymous caller.
    pub(crate) verified: Option<VerifiedPeer>,
    /// TLS exporter of this connection (RFC 8446, section 7.5), which a rejoin signs.
    pub(crate) exporter: [u8; 32],
}

/// The other end of the admin socket (`SO_PEERCRED`).
#[derive(Clone, Copy, Debug)]
pub(crate) struct AdminPeer {
    pub(crate) uid: u32,
    pub(crate) pid: u32,
}

impl TlsPeer {
    /// The session of an agent, when the verified certificate is an agent's.
    pub(crate) fn agent_session(&self) -> Option<AgentSession> {
        let peer = self.verified.as_ref()?;
        match peer.id().reserved() {
            Some(Reserved::Agent(_)) => Some(AgentSession {
                id: peer.id().clone(),
                issuer: *peer.issuer(),
                serial: *peer.serial(),
                not_before: peer.not_before(),
                not_after: peer.not_after(),
                spki: *peer.spki_sha256(),
            }),
            _ => None,
        }
    }
}
