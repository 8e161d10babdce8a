//! What a live mTLS channel proves: that the other end holds the key of a certificate of this agent instance.
//!
//! The node proves it by completing the handshake with its certificate. The CA calls [`verify_session`] for every RPC
//! and every message of a long stream, because expiry, bans and revocations come while a connection stays open.

use mintage_identity::{AgentInstance, Serial, SpiffeId, SpkiHash, UnixTime};

use crate::{AttestError, Attested, attested::digest_parts};
use mintage_identity::Reserved;

/// What the verified handshake showed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AgentSession {
    /// URI SAN of the client certificate.
    pub id: SpiffeId,
    /// Its serial.
    pub serial: Serial,
    /// End of its validity.
    pub not_after: UnixTime,
    /// Hash of its public key.
    pub spki: SpkiHash,
}

/// A certificate by which an agent may speak.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AgentCertificate {
    /// Its serial.
    pub serial: Serial,
    /// Hash of its public key.
    pub spki: SpkiHash,
}

/// What the CA's state says now about the agent with the session's id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AgentStanding {
    /// The agent's SPIFFE ID.
    pub id: SpiffeId,
    /// The current life of the name.
    pub instance: AgentInstance,
    /// The instance was banned.
    pub banned: bool,
    /// The instance was evicted.
    pub evicted: bool,
    /// The last certificate made for it.
    pub current: AgentCertificate,
    /// The one before, as long as the agent may not have received the last one. Anything older is superseded.
    pub previous: Option<AgentCertificate>,
}

impl AgentStanding {
    /// Whether one of the certificates that count has this serial and this key.
    pub(crate) fn accepts(&self, serial: &Serial, spki: &SpkiHash) -> Result<(), Superseded> {
        let mut of_serial = std::iter::once(&self.current)
            .chain(&self.previous)
            .filter(|certificate| certificate.serial == *serial)
            .peekable();
        if of_serial.peek().is_none() {
            return Err(Superseded::Serial);
        }
        if of_serial.any(|certificate| certificate.spki == *spki) {
            return Ok(());
        }
        Err(Superseded::Key)
    }
}

/// Why a certificate does not count.
pub(crate) enum Superseded {
    /// A newer certificate took its place.
    Serial,
    /// The serial is right but the key is another: nobody should have such a certificate.
    Key,
}

/// Checks that the session still speaks for a living agent instance.
///
/// # Errors
/// `SessionRefused` for a certificate that has expired, was superseded, or is none of an agent, and for an agent that is
/// unknown, banned or evicted. Revocation of the certificate itself is the verifier's to check beside this.
pub fn verify_session(
    session: &AgentSession,
    standing: Option<&AgentStanding>,
    now: UnixTime,
) -> Result<Attested, AttestError> {
    let refuse = |code, text: String| Err(AttestError::session_refused(code, text));
    let id = &session.id;
    let Some(Reserved::Agent(name)) = id.reserved() else {
        return refuse("session_no_agent", format!("{id} is no agent"));
    };
    // RFC 5280, section 4.1.2.5: the validity includes the second of notAfter itself.
    if now.seconds() > session.not_after.seconds() {
        return refuse("session_expired", format!("the certificate of {id} has expired"));
    }
    let Some(standing) = standing.filter(|standing| standing.id == *id) else {
        return refuse("session_unknown", format!("{id} is not registered"));
    };
    if standing.banned {
        let text = format!("instance {} of {id} is banned", standing.instance);
        return refuse("session_banned", text);
    }
    if standing.evicted {
        let text = format!("instance {} of {id} was evicted", standing.instance);
        return refuse("session_evicted", text);
    }
    match standing.accepts(&session.serial, &session.spki) {
        Ok(()) => {}
        Err(Superseded::Serial) => {
            let text = format!(
                "serial {} of {id} was superseded by {}",
                session.serial, standing.current.serial
            );
            return refuse("session_superseded", text);
        }
        Err(Superseded::Key) => {
            let text = format!("serial {} of {id} came with another key", session.serial);
            return refuse("session_other_key", text);
        }
    }
    let evidence = digest_parts(
        "mintage-attest-svid-v1",
        &[id.as_str().as_bytes(), session.serial.octets(), session.spki.as_bytes()],
    );
    Ok(Attested::new(
        (id.clone(), name),
        standing.instance,
        "svid",
        evidence,
        now,
    ))
}
