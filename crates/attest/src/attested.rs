//! The proof that an agent's node was attested, as a value that only this crate can make.

use mintage_identity::{AgentInstance, AgentName, SpiffeId, UnixTime};
use ring::digest;

/// An agent as the CA itself has proven it: by a join token, by its certificate on a live channel, or by its last key.
///
/// ```compile_fail,E0451
/// // Nothing outside the crate can build one ...
/// fn forge(honest: mintage_attest::Attested, agent: mintage_identity::SpiffeId) -> mintage_attest::Attested {
///     mintage_attest::Attested { agent, ..honest }
/// }
/// ```
/// ```
/// // ... but everybody may read one.
/// fn read(honest: &mintage_attest::Attested) -> &mintage_identity::SpiffeId {
///     honest.agent()
/// }
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attested {
    agent: SpiffeId,
    name: AgentName,
    instance: AgentInstance,
    kind: &'static str,
    evidence: [u8; 32],
    proven_at: UnixTime,
}

impl Attested {
    pub(crate) fn new(
        (agent, name): (SpiffeId, AgentName),
        instance: AgentInstance,
        kind: &'static str,
        evidence: [u8; 32],
        proven_at: UnixTime,
    ) -> Self {
        Self {
            agent,
            name,
            instance,
            kind,
            evidence,
            proven_at,
        }
    }

    /// The agent's SPIFFE ID, `/mintage/agent/<name>`.
    pub fn agent(&self) -> &SpiffeId {
        &self.agent
    }

    /// The agent's name.
    pub fn name(&self) -> &AgentName {
        &self.name
    }

    /// Which life of that name.
    pub fn instance(&self) -> AgentInstance {
        self.instance
    }

    /// The method: `join_token`, `svid` or `rejoin`.
    pub fn kind(&self) -> &'static str {
        self.kind
    }

    /// SHA-256 over what was presented, for the ledger's record. It holds no secret.
    pub fn evidence(&self) -> &[u8; 32] {
        &self.evidence
    }

    /// When the proof was checked. Ban and expiry are checked again for every message, so an `Attested` is not kept.
    pub fn proven_at(&self) -> UnixTime {
        self.proven_at
    }
}

/// SHA-256 over a label and length-prefixed parts, so that no two lists of parts hash alike.
pub(crate) fn digest_parts(label: &str, parts: &[&[u8]]) -> [u8; 32] {
    let mut hash = digest::Context::new(&digest::SHA256);
    for part in std::iter::once(label.as_bytes()).chain(parts.iter().copied()) {
        hash.update(&(part.len() as u64).to_be_bytes());
        hash.update(part);
    }
    let mut octets = [0; 32];
    octets.copy_from_slice(hash.finish().as_ref());
    octets
}
