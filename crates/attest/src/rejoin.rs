//! Join again after expiry: the node's last key signs the TLS exporter of this very connection and the new key, so the
//! signature is worth nothing anywhere else.
//!
//! Node: [`prove`]. CA: [`verify`], against what its own records say about the agent's last certificate.

use mintage_identity::{Reserved, Serial, SpiffeId, SpkiHash, UnixTime};
use ring::{digest, rand::SecureRandom};

use crate::{
    AttestError, Attested,
    attested::digest_parts,
    channel::{AgentStanding, Superseded},
    key,
    limits::{REJOIN_WINDOW, SIGNATURE_BYTES_MAX},
};

/// Label of the TLS exporter (RFC 8446, section 7.5; RFC 5705), with no context, for 32 octets.
pub const EXPORTER_LABEL: &[u8] = b"EXPERIMENTAL mintage rejoin v1";

const PAYLOAD_LABEL: &[u8] = b"mintage-rejoin-v1";

/// What the last key signs: label, exporter of this connection, hash of the new public key.
pub fn rejoin_payload(exporter: &[u8; 32], csr_spki: &SpkiHash) -> Vec<u8> {
    // Every part has a fixed length, so the parts cannot run into one another.
    [PAYLOAD_LABEL, &[0], exporter, csr_spki.as_bytes()].concat()
}

/// The node's half: signs with the last key, PKCS#8 of P-256, P-384 or Ed25519.
///
/// # Errors
/// `Key` for any other key.
pub fn prove(
    last_key_pkcs8: &[u8],
    exporter: &[u8; 32],
    csr_spki: &SpkiHash,
    random: &dyn SecureRandom,
) -> Result<Vec<u8>, AttestError> {
    key::sign(last_key_pkcs8, &rejoin_payload(exporter, csr_spki), random)
}

/// The last certificate as presented, parsed by the SPIFFE rules.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LastCertificate {
    /// URI SAN.
    pub id: SpiffeId,
    /// Serial.
    pub serial: Serial,
    /// End of its validity.
    pub not_after: UnixTime,
    /// Its SubjectPublicKeyInfo, DER.
    pub spki_der: Vec<u8>,
}

/// The CA's half. The certificate is believed because the CA's own records name its serial and key as the agent's last,
/// not because of who signed it: the issuer may be gone by now.
///
/// # Errors
/// `RejoinRefused` when the agent is unknown, banned or evicted, the certificate is not its last, expired more than
/// seven days ago, or the signature is not the key's over this connection and this new key.
pub fn verify(
    last: &LastCertificate,
    signature: &[u8],
    exporter: &[u8; 32],
    csr_spki: &SpkiHash,
    standing: Option<&AgentStanding>,
    now: UnixTime,
) -> Result<Attested, AttestError> {
    let refuse = |code, text: String| Err(AttestError::rejoin_refused(code, text));
    let id = &last.id;
    let Some(Reserved::Agent(name)) = id.reserved() else {
        return refuse("rejoin_no_agent", format!("{id} is no agent"));
    };
    let Some(standing) = standing.filter(|standing| standing.id == *id) else {
        return refuse("rejoin_unknown", format!("{id} is not registered"));
    };
    if standing.banned || standing.evicted {
        let text = format!("instance {} of {id} was banned or evicted", standing.instance);
        return refuse("rejoin_banned", text);
    }
    let mut spki = [0; 32];
    spki.copy_from_slice(digest::digest(&digest::SHA256, &last.spki_der).as_ref());
    let spki = SpkiHash::new(spki);
    match standing.accepts(&last.serial, &spki) {
        Ok(()) => {}
        Err(Superseded::Serial) => {
            let text = format!("serial {} is not the last of {id}", last.serial);
            return refuse("rejoin_superseded", text);
        }
        Err(Superseded::Key) => {
            let text = format!("serial {} of {id} came with another key", last.serial);
            return refuse("rejoin_other_key", text);
        }
    }
    if now.since(last.not_after) > REJOIN_WINDOW {
        let text = format!("the last certificate of {id} expired more than 7 days ago");
        return refuse("rejoin_too_old", text);
    }
    let payload = rejoin_payload(exporter, csr_spki);
    if signature.len() > SIGNATURE_BYTES_MAX || !key::verify(&last.spki_der, &payload, signature)? {
        let text = format!("the signature is not that of the last key of {id} over this connection");
        return refuse("rejoin_signature", text);
    }
    let evidence = digest_parts(
        "mintage-attest-rejoin-v1",
        &[
            id.as_str().as_bytes(),
            last.serial.octets(),
            spki.as_bytes(),
            csr_spki.as_bytes(),
        ],
    );
    Ok(Attested::new(
        (id.clone(), name),
        standing.instance,
        "rejoin",
        evidence,
        now,
    ))
}

#[cfg(test)]
mod tests;
