//! What a live mTLS channel proves: that the other end holds the key of a certificate of this agent instance.
//!
//! The node proves it by completing the handshake with its certificate. The CA calls [`verify_session`] for every RPC
//! and every message of a long stream, because expiry, bans and revocations come while a connection stays open.

use mintage_identity::{AgentInstance, IssuerKeyId, Serial, SpiffeId, SpkiHash, UnixTime};

use crate::{AttestError, Attested, attested::digest_parts};
use mintage_identity::Reserved;

/// What the verified handshake showed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AgentSession {
    /// URI SAN of the client certificate.
    pub id: SpiffeId,
    /// The key that issued it.
    pub issuer: IssuerKeyId,
    /// Its serial.
    pub serial: Serial,
    /// Start of its validity.
    pub not_before: UnixTime,
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
    /// Earlier ones that count: the agent may not have received the last one. Any other is superseded.
    pub earlier: Vec<AgentCertificate>,
}

impl AgentStanding {
    /// Whether one of the certificates that count has this serial and this key.
    pub(crate) fn accepts(&self, serial: &Serial, spki: &SpkiHash) -> Result<(), Superseded> {
        let mut of_serial = std::iter::once(&self.current)
            .chain(&self.earlier)
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
/// unknown, banned or evicted. Whether the certificate itself was revoked is the caller's to check beside this, each time too:
/// [`AttestError::session_revoked`].
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

#[cfg(test)]
mod tests {
    use mintage_identity::TrustDomain;

    use super::*;

    const NOW: UnixTime = UnixTime::from_seconds(1_800_000_000);

    fn certificate(n: u8) -> AgentCertificate {
        AgentCertificate {
            serial: Serial::from_random([n; 16]),
            spki: SpkiHash::new([n; 32]),
        }
    }

    fn id() -> SpiffeId {
        SpiffeId::parse("spiffe://dev.test/mintage/agent/node-1").unwrap()
    }

    fn session(n: u8) -> AgentSession {
        AgentSession {
            id: id(),
            issuer: IssuerKeyId::new([9; 32]),
            serial: certificate(n).serial,
            not_before: NOW,
            not_after: NOW.plus(std::time::Duration::from_secs(60)),
            spki: certificate(n).spki,
        }
    }

    fn standing() -> AgentStanding {
        AgentStanding {
            id: id(),
            instance: AgentInstance(17),
            banned: false,
            evicted: false,
            current: certificate(2),
            earlier: vec![certificate(1)],
        }
    }

    fn code(session: &AgentSession, standing: Option<&AgentStanding>, now: UnixTime) -> &'static str {
        let error = verify_session(session, standing, now).unwrap_err();
        assert_eq!(error.to_string(), "the agent's certificate is not accepted");
        error.code()
    }

    #[test]
    fn the_current_and_an_earlier_certificate_speak_for_the_agent() {
        for n in [1, 2] {
            let attested = verify_session(&session(n), Some(&standing()), NOW).unwrap();
            assert_eq!(attested.agent(), &id());
            assert_eq!(attested.name().as_str(), "node-1");
            assert_eq!((attested.kind(), attested.instance()), ("svid", AgentInstance(17)));
            assert_eq!(attested.proven_at(), NOW);
        }
        let evidence = |n| *verify_session(&session(n), Some(&standing()), NOW).unwrap().evidence();
        assert_ne!(evidence(1), evidence(2));
    }

    #[test]
    fn agent_certificate_expired_during_a_long_stream_is_refused_at_the_next_message() {
        let session = session(2);
        let last = session.not_after.plus(std::time::Duration::from_millis(999));
        assert!(verify_session(&session, Some(&standing()), last).is_ok());
        let next = session.not_after.plus(std::time::Duration::from_secs(1));
        assert_eq!(code(&session, Some(&standing()), next), "session_expired");
    }

    #[test]
    fn banned_evicted_unknown_and_superseded_agents_are_refused_alike() {
        let banned = AgentStanding {
            banned: true,
            ..standing()
        };
        let evicted = AgentStanding {
            evicted: true,
            ..standing()
        };
        let renewed = AgentStanding {
            current: certificate(3),
            earlier: vec![certificate(2)],
            ..standing()
        };
        let settled = AgentStanding {
            earlier: Vec::new(),
            ..standing()
        };
        assert_eq!(code(&session(2), Some(&banned), NOW), "session_banned");
        assert_eq!(code(&session(2), Some(&evicted), NOW), "session_evicted");
        assert_eq!(code(&session(2), None, NOW), "session_unknown");
        assert_eq!(code(&session(1), Some(&renewed), NOW), "session_superseded");
        assert_eq!(code(&session(1), Some(&settled), NOW), "session_superseded");
    }

    #[test]
    fn a_right_serial_with_another_key_is_refused_and_alarms() {
        let forged = AgentSession {
            spki: certificate(1).spki,
            ..session(2)
        };
        let error = verify_session(&forged, Some(&standing()), NOW).unwrap_err();
        assert_eq!((error.code(), error.is_alarming()), ("session_other_key", true));
    }

    #[test]
    fn workloads_replicas_and_agents_of_other_names_or_domains_are_refused() {
        for other in [
            "spiffe://dev.test/web",
            "spiffe://dev.test/mintage/ca/one",
            "spiffe://dev.test/mintage/agent/node-1/x",
            "spiffe://dev.test/mintage/agent",
        ] {
            let session = AgentSession {
                id: SpiffeId::parse(other).unwrap(),
                ..session(2)
            };
            assert_eq!(code(&session, Some(&standing()), NOW), "session_no_agent", "{other}");
        }
        for other in [
            "spiffe://dev.test/mintage/agent/node-2",
            "spiffe://prod.test/mintage/agent/node-1",
        ] {
            let session = AgentSession {
                id: SpiffeId::parse(other).unwrap(),
                ..session(2)
            };
            assert_eq!(code(&session, Some(&standing()), NOW), "session_unknown", "{other}");
        }
        assert!(TrustDomain::parse("dev.test").is_ok());
    }
}
