//! Join by token: one string that tells a new node where the CA is, which roots it may have, and a secret that works for
//! one key.
//!
//! Node: [`JoinToken::parse`], pin the CA's root, send the secret with a CSR. CA: keep only [`JoinToken::secret_hash`];
//! [`verify`] what is presented; record the use together with the key (the first record for a token wins); then
//! [`Joined::into_attested`] with that record's index. The same key may ask again after a lost reply.

use std::fmt;

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use mintage_identity::{AgentInstance, AgentName, CertHash, SpiffeId, SpkiHash, TrustDomain, UnixTime};
use zeroize::Zeroizing;

use crate::{
    AttestError, Attested,
    attested::digest_parts,
    limits::{TOKEN_ADDRESS_BYTES_MAX, TOKEN_ADDRESSES_MAX, TOKEN_BYTES_MAX, TOKEN_RETRY_WINDOW, TOKEN_ROOTS_MAX},
};

/// Marks the string and its version, for people and for scanners of leaked secrets.
pub const TOKEN_PREFIX: &str = "mint1_";
const SECRET_BYTES: usize = 32;
/// Octets of the checksum: it tells a typo from a refusal, and protects nothing.
const CHECKSUM_BYTES: usize = 4;

/// A join token. `Debug` shows no secret, and there is no `Display`: printing one is [`JoinToken::encode`]'s alone. Nor
/// is there a comparison: tokens are compared by [`JoinToken::secret_hash`].
#[derive(Clone)]
pub struct JoinToken {
    addresses: Vec<String>,
    root_hashes: Vec<CertHash>,
    trust_domain: TrustDomain,
    secret: Zeroizing<[u8; SECRET_BYTES]>,
}

impl JoinToken {
    /// Puts a token together. The secret comes from the caller's random source.
    ///
    /// # Errors
    /// Refuses no address or root, more than eight of either, and an address that is not `host:port`.
    pub fn new(
        addresses: Vec<String>,
        root_hashes: Vec<CertHash>,
        trust_domain: TrustDomain,
        secret: Zeroizing<[u8; 32]>,
    ) -> Result<Self, AttestError> {
        if !(1..=TOKEN_ADDRESSES_MAX).contains(&addresses.len()) {
            return Err(AttestError::TokenMalformed("needs 1 to 8 CA addresses"));
        }
        if !(1..=TOKEN_ROOTS_MAX).contains(&root_hashes.len()) {
            return Err(AttestError::TokenMalformed("needs the hashes of 1 to 8 roots"));
        }
        if !addresses.iter().all(|address| is_host_port(address)) {
            return Err(AttestError::TokenMalformed(
                "has a CA address that is not host:port, such as ca.example.org:8443 or [::1]:8443",
            ));
        }
        Ok(Self {
            addresses,
            root_hashes,
            trust_domain,
            secret,
        })
    }

    /// Reads a token's string form; white space around it is ignored.
    ///
    /// # Errors
    /// `TokenMalformed` for text that was mistyped, cut or is something else. The text is never echoed.
    pub fn parse(text: &str) -> Result<Self, AttestError> {
        let malformed = |problem| Err(AttestError::TokenMalformed(problem));
        if text.len() > TOKEN_BYTES_MAX {
            return malformed("is longer than 4096 bytes: not a join token");
        }
        let Some(body) = text.trim_ascii().strip_prefix(TOKEN_PREFIX) else {
            return malformed("does not begin with mint1_: not a join token, or of a newer version");
        };
        // The buffer is made at full size: growing it would leave copies of the secret behind.
        let mut payload = Zeroizing::new(vec![0; body.len()]);
        let typo = AttestError::TokenMalformed("was mistyped or cut off; copy the whole line again");
        let Ok(len) = URL_SAFE_NO_PAD.decode_slice(body, &mut payload) else {
            return Err(typo);
        };
        let Some((content, checksum)) = payload[..len].split_last_chunk::<CHECKSUM_BYTES>() else {
            return Err(typo);
        };
        if checksum_of(content) != *checksum {
            return Err(typo);
        }
        let broken = AttestError::TokenMalformed("has a valid checksum but a broken content; make a new token");
        Self::from_content(content).unwrap_or(Err(broken))
    }

    /// `None` when the content ends early or goes on; the error of a field that may not be so.
    fn from_content(content: &[u8]) -> Option<Result<Self, AttestError>> {
        let mut rest = content;
        let mut addresses = Vec::new();
        for _ in 0..take(&mut rest, 1)?[0] {
            let len = take(&mut rest, 1)?[0];
            addresses.push(std::str::from_utf8(take(&mut rest, len.into())?).ok()?.to_owned());
        }
        let mut root_hashes = Vec::new();
        for _ in 0..take(&mut rest, 1)?[0] {
            root_hashes.push(CertHash::from_slice(take(&mut rest, 32)?).ok()?);
        }
        let len = take(&mut rest, 1)?[0];
        let trust_domain = TrustDomain::parse(std::str::from_utf8(take(&mut rest, len.into())?).ok()?).ok()?;
        let mut secret = Zeroizing::new([0; SECRET_BYTES]);
        secret.copy_from_slice(take(&mut rest, SECRET_BYTES)?);
        rest.is_empty()
            .then(|| Self::new(addresses, root_hashes, trust_domain, secret))
    }

    /// The string form: `mint1_` and base64url of the fields with a checksum. Show it once, store it never.
    pub fn encode(&self) -> Zeroizing<String> {
        let mut content = Zeroizing::new(Vec::with_capacity(TOKEN_BYTES_MAX));
        // Every count and length fits its octet: `new` holds the limits.
        content.push(self.addresses.len() as u8);
        for address in &self.addresses {
            content.push(address.len() as u8);
            content.extend_from_slice(address.as_bytes());
        }
        content.push(self.root_hashes.len() as u8);
        for hash in &self.root_hashes {
            content.extend_from_slice(hash.as_bytes());
        }
        content.push(self.trust_domain.as_str().len() as u8);
        content.extend_from_slice(self.trust_domain.as_str().as_bytes());
        content.extend_from_slice(&*self.secret);
        let checksum = checksum_of(&content);
        content.extend_from_slice(&checksum);
        let mut text = Zeroizing::new(String::with_capacity(TOKEN_BYTES_MAX));
        text.push_str(TOKEN_PREFIX);
        URL_SAFE_NO_PAD.encode_string(&*content, &mut text);
        text
    }

    /// Where the CA listens: `host:port`, in the order to try.
    pub fn addresses(&self) -> &[String] {
        &self.addresses
    }

    /// SHA-256 of every root certificate that the CA may show.
    pub fn root_hashes(&self) -> &[CertHash] {
        &self.root_hashes
    }

    /// The trust domain to be joined.
    pub fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    /// What the node sends, inside TLS to a server under a pinned root.
    pub fn secret(&self) -> &[u8; 32] {
        &self.secret
    }

    /// What the CA stores in the secret's stead.
    pub fn secret_hash(&self) -> TokenHash {
        TokenHash::of_presented(&*self.secret)
    }
}

impl fmt::Debug for JoinToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JoinToken")
            .field("addresses", &self.addresses)
            .field("root_hashes", &self.root_hashes)
            .field("trust_domain", &self.trust_domain)
            .field("secret", &"...")
            .finish()
    }
}

/// SHA-256 of a token's secret under a label: names the token and cannot be presented as one.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TokenHash([u8; 32]);

impl TokenHash {
    /// Wraps a stored hash.
    pub const fn new(octets: [u8; 32]) -> Self {
        Self(octets)
    }

    /// The hash of whatever a node presented as a secret. Octets of any other number than 32 take the same time and
    /// give a hash that no token has.
    pub fn of_presented(secret: &[u8]) -> Self {
        const LABEL: &str = "mintage-join-token-v1";
        let fixed = <&[u8; SECRET_BYTES]>::try_from(secret);
        Self(match fixed {
            Ok(secret) => digest_parts(LABEL, &[secret]),
            Err(_) => digest_parts(LABEL, &[&[0; SECRET_BYTES], b"not a secret"]),
        })
    }

    /// The octets.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Display for TokenHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|octet| write!(f, "{octet:02x}"))
    }
}

impl fmt::Debug for TokenHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TokenHash({self})")
    }
}

/// What the CA's state says about a token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenStanding {
    /// The hash under which it is stored.
    pub hash: TokenHash,
    /// The agent it makes.
    pub agent: AgentName,
    /// First instant of its validity.
    pub not_before: UnixTime,
    /// First instant after its validity.
    pub expires: UnixTime,
    /// The use, if there was one.
    pub bound: Option<TokenUse>,
}

/// The one use of a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TokenUse {
    /// The key that used it.
    pub key: SpkiHash,
    /// The agent instance that came of it.
    pub instance: AgentInstance,
    /// When.
    pub at: UnixTime,
}

/// How an accepted token was used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum JoinVerdict {
    /// For the first time, as far as the state knows: record it, and see that the record wins.
    First,
    /// By the same key again: nothing is to be recorded, the instance is this one.
    Retry(AgentInstance),
}

/// An accepted token, not yet an attested agent: the record of its use must come first.
#[derive(Debug, PartialEq, Eq)]
pub struct Joined {
    agent: SpiffeId,
    name: AgentName,
    verdict: JoinVerdict,
    evidence: [u8; 32],
    proven_at: UnixTime,
}

impl Joined {
    /// Whether a record is to be made.
    pub fn verdict(&self) -> JoinVerdict {
        self.verdict
    }

    /// The agent's SPIFFE ID.
    pub fn agent(&self) -> &SpiffeId {
        &self.agent
    }

    /// The agent's name.
    pub fn name(&self) -> &AgentName {
        &self.name
    }

    /// SHA-256 over what was presented, for the record.
    pub fn evidence(&self) -> &[u8; 32] {
        &self.evidence
    }

    /// The attested agent, given the instance that the state knows for this token and key after the record was applied.
    ///
    /// # Errors
    /// `TokenRefused` when a retry is told another instance than its own.
    pub fn into_attested(self, recorded: AgentInstance) -> Result<Attested, AttestError> {
        if matches!(self.verdict, JoinVerdict::Retry(instance) if instance != recorded) {
            let text = format!("the retry of {} was given another instance {recorded}", self.agent);
            return Err(AttestError::token_refused("token_instance", text));
        }
        Ok(Attested::new(
            (self.agent, self.name),
            recorded,
            "join_token",
            self.evidence,
            self.proven_at,
        ))
    }
}

/// Checks a presented token, by its hash, for the key of the CSR that came with it.
///
/// The answer is one and the same for every reason, and so is the work but for the wording of the log line.
///
/// # Errors
/// `TokenRefused`: unknown, expired, not yet valid, used by another key, or too long ago by the same.
pub fn verify(
    presented: &TokenHash,
    standing: Option<&TokenStanding>,
    key: &SpkiHash,
    domain: &TrustDomain,
    now: UnixTime,
) -> Result<Joined, AttestError> {
    let known = standing.filter(|standing| same_octets(standing.hash.as_bytes(), presented.as_bytes()));
    let evidence = digest_parts("mintage-attest-join-token-v1", &[presented.as_bytes(), key.as_bytes()]);
    let Some(standing) = known else {
        return Err(AttestError::token_refused("token_unknown", "unknown token"));
    };
    let name = &standing.agent;
    let verdict = match &standing.bound {
        Some(bound) if !same_octets(bound.key.as_bytes(), key.as_bytes()) => {
            let text = format!("token of agent {name} was used before by another key");
            return Err(AttestError::token_refused("token_other_key", text));
        }
        // Expiry does not cut off the retry of a use that was in time.
        Some(bound) if now.since(bound.at) <= TOKEN_RETRY_WINDOW => JoinVerdict::Retry(bound.instance),
        Some(_) => {
            let text = format!("token of agent {name} was used before, too long ago for a retry");
            return Err(AttestError::token_refused("token_used", text));
        }
        None if now < standing.not_before => {
            let text = format!("token of agent {name} is not valid yet");
            return Err(AttestError::token_refused("token_early", text));
        }
        None if now >= standing.expires => {
            let text = format!("token of agent {name} has expired");
            return Err(AttestError::token_refused("token_expired", text));
        }
        None => JoinVerdict::First,
    };
    Ok(Joined {
        agent: SpiffeId::agent(domain, name),
        name: name.clone(),
        verdict,
        evidence,
        proven_at: now,
    })
}

/// Compares in the same time wherever the first difference is. Both sides are hashes, so this is the second line: even
/// a full timing oracle would give a hash and no secret.
fn same_octets(a: &[u8; 32], b: &[u8; 32]) -> bool {
    let difference = a
        .iter()
        .zip(b)
        .fold(0, |sum, (a, b)| std::hint::black_box(sum | (a ^ b)));
    difference == 0
}

fn take<'a>(rest: &mut &'a [u8], count: usize) -> Option<&'a [u8]> {
    let (taken, after) = rest.split_at_checked(count)?;
    *rest = after;
    Some(taken)
}

fn checksum_of(content: &[u8]) -> [u8; CHECKSUM_BYTES] {
    let digest = digest_parts("mintage-join-token-checksum-v1", &[content]);
    [digest[0], digest[1], digest[2], digest[3]]
}

/// `name:port`, `a.b.c.d:port` or `[v6]:port`, printable and without blanks, user or path.
fn is_host_port(address: &str) -> bool {
    if address.len() > TOKEN_ADDRESS_BYTES_MAX {
        return false;
    }
    let Some((host, port)) = address.rsplit_once(':') else {
        return false;
    };
    let port_fits = port.bytes().all(|b| b.is_ascii_digit()) && port.parse::<u16>().is_ok_and(|port| port > 0);
    let host_fits = match host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
        Some(v6) => v6.parse::<std::net::Ipv6Addr>().is_ok(),
        None => {
            !host.is_empty()
                && host
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_'))
        }
    };
    port_fits && host_fits
}

#[cfg(test)]
mod tests;
