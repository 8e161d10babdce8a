//! Delegation: a CA key says which Ed25519 key may sign revocation news, for which epoch and until when.
//!
//! An epoch rises only by such a statement, so that whoever holds a stolen revocation key cannot outrun its replacement.

use mintage_identity::{IssuerKeyId, TrustDomain, UnixTime};
use ring::signature::{ECDSA_P256_SHA256_ASN1, UnparsedPublicKey};

use crate::{
    RevocationError, RevocationKeyId, TrustDomainHash, header::sha256, limits::DELEGATION_BYTES_MAX, octets::Fields,
};

const WHAT: &str = "delegation";
const MAGIC: &[u8; 8] = b"MNTGDLG1";
const VERSION: u16 = 1;
const ALGORITHM: u8 = 1;
/// What a CA key signs is this label and the statement.
const LABEL: &[u8] = b"mintage-revocation-delegation-v1\0";
const STATEMENT_LEN: usize = 160;
/// SubjectPublicKeyInfo of a P-256 key up to its point (RFC 5480, section 2): both algorithm identifiers and the bit
/// string's head. With an uncompressed point the whole has 91 octets.
const P256_SPKI_HEAD: [u8; 26] = [
    0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a, 0x86, 0x48, 0xce,
    0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00,
];
const P256_POINT_LEN: usize = 65;

/// What is delegated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DelegationStatement {
    trust_domain: TrustDomainHash,
    epoch: u64,
    not_after: UnixTime,
    public_key: [u8; 32],
    ca_key: IssuerKeyId,
}

/// A statement with its signature by a CA key, not verified yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delegation {
    statement: DelegationStatement,
    signature: Vec<u8>,
}

/// A delegation whose signature a CA key of the bundle made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VerifiedDelegation {
    statement: DelegationStatement,
}

impl DelegationStatement {
    /// States that the Ed25519 key `public_key` may sign for `domain` in `epoch` until `not_after`; `ca_key` is the
    /// SHA-256 of the SubjectPublicKeyInfo that will sign.
    pub fn new(
        domain: &TrustDomain,
        public_key: &[u8; 32],
        epoch: u64,
        not_after: UnixTime,
        ca_key: IssuerKeyId,
    ) -> Self {
        Self {
            trust_domain: TrustDomainHash::of(domain),
            epoch,
            not_after,
            public_key: *public_key,
            ca_key,
        }
    }

    /// The octets a CA key signs with ECDSA P-256 and SHA-256; they carry a label that no certificate starts with.
    pub fn to_be_signed(&self) -> Vec<u8> {
        [LABEL, &self.encode()].concat()
    }

    /// Joins the CA key's ASN.1 signature.
    pub fn signed(self, signature: Vec<u8>) -> Delegation {
        Delegation {
            statement: self,
            signature,
        }
    }

    /// The epoch it speaks of.
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// The end of the delegation.
    pub fn not_after(&self) -> UnixTime {
        self.not_after
    }

    /// The key that delegates.
    pub fn ca_key(&self) -> IssuerKeyId {
        self.ca_key
    }

    /// The delegated key's id.
    pub fn key_id(&self) -> RevocationKeyId {
        RevocationKeyId::of(&self.public_key)
    }

    fn encode(&self) -> [u8; STATEMENT_LEN] {
        let mut out = Vec::with_capacity(STATEMENT_LEN);
        out.extend_from_slice(MAGIC);
        out.extend_from_slice(&VERSION.to_le_bytes());
        out.extend_from_slice(&[ALGORITHM, 0, 0, 0, 0, 0]);
        out.extend_from_slice(&self.trust_domain.0);
        out.extend_from_slice(&self.epoch.to_le_bytes());
        out.extend_from_slice(&self.not_after.millis().to_le_bytes());
        out.extend_from_slice(&self.public_key);
        out.extend_from_slice(self.ca_key.as_bytes());
        let mut fixed = [0; STATEMENT_LEN];
        fixed[..out.len()].copy_from_slice(&out);
        fixed
    }

    fn decode(octets: &[u8]) -> Result<Self, RevocationError> {
        let mut fields = Fields::new(octets);
        if fields.array() != *MAGIC {
            return Err(RevocationError::malformed(WHAT, "it does not start with MNTGDLG1"));
        }
        let version = u16::from_le_bytes(fields.array());
        let [algorithm, zeros @ ..] = fields.array::<6>();
        if version != VERSION || algorithm != ALGORITHM {
            let found = u64::from(version) << 8 | u64::from(algorithm);
            let known = u64::from(VERSION) << 8 | u64::from(ALGORITHM);
            return Err(RevocationError::Unsupported {
                what: WHAT,
                found,
                known,
            });
        }
        let statement = Self {
            trust_domain: TrustDomainHash(fields.array()),
            epoch: fields.number(),
            not_after: fields.time(),
            public_key: fields.array(),
            ca_key: IssuerKeyId::new(fields.array()),
        };
        if zeros != [0; 5] || fields.array() != [0; 32] {
            return Err(RevocationError::malformed(WHAT, "its reserved octets are not zero"));
        }
        Ok(statement)
    }
}

impl Delegation {
    /// The wire form: the statement and the signature after it.
    pub fn encode(&self) -> Vec<u8> {
        [&self.statement.encode()[..], &self.signature].concat()
    }

    /// Reads the wire form; nothing is verified yet.
    ///
    /// # Errors
    /// Refuses other lengths, magic, version and non-zero reserved octets.
    pub fn decode(bytes: &[u8]) -> Result<Self, RevocationError> {
        if bytes.len() <= STATEMENT_LEN || bytes.len() > DELEGATION_BYTES_MAX {
            let problem = format!("{} octets; {STATEMENT_LEN} and a signature are expected", bytes.len());
            return Err(RevocationError::malformed(WHAT, problem));
        }
        let (statement, signature) = bytes.split_at(STATEMENT_LEN);
        let statement = DelegationStatement::decode(statement)?;
        Ok(Self {
            statement,
            signature: signature.to_vec(),
        })
    }

    /// What it says, unverified.
    pub fn statement(&self) -> &DelegationStatement {
        &self.statement
    }

    /// Verifies it under the CA key whose SubjectPublicKeyInfo (DER, P-256) is `ca_spki`.
    ///
    /// # Errors
    /// Refuses another trust domain, a CA key other than the one it names, a bad signature, and one that has ended.
    pub fn verify(
        &self,
        domain: &TrustDomain,
        ca_spki: &[u8],
        now: UnixTime,
    ) -> Result<VerifiedDelegation, RevocationError> {
        if self.statement.trust_domain != TrustDomainHash::of(domain) {
            return Err(RevocationError::WrongTrustDomain);
        }
        if sha256(&[ca_spki]) != *self.statement.ca_key.as_bytes() {
            let problem = format!("it was made by {}, not by the key given", self.statement.ca_key);
            return Err(RevocationError::BadKey {
                what: "the CA key",
                problem,
            });
        }
        let point = ca_spki
            .strip_prefix(&P256_SPKI_HEAD[..])
            .filter(|point| point.len() == P256_POINT_LEN);
        let Some(point) = point else {
            let problem = "it is no uncompressed P-256 SubjectPublicKeyInfo".into();
            return Err(RevocationError::BadKey {
                what: "the CA key",
                problem,
            });
        };
        UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, point)
            .verify(&self.statement.to_be_signed(), &self.signature)
            .map_err(|_| RevocationError::BadSignature { what: WHAT })?;
        self.statement.check_end(now)?;
        Ok(VerifiedDelegation {
            statement: self.statement.clone(),
        })
    }
}

impl DelegationStatement {
    pub(crate) fn check_end(&self, now: UnixTime) -> Result<(), RevocationError> {
        if now <= self.not_after {
            return Ok(());
        }
        let seconds_ago = now.since(self.not_after).as_secs();
        Err(RevocationError::DelegationExpired { seconds_ago })
    }
}

impl VerifiedDelegation {
    /// What it says.
    pub fn statement(&self) -> &DelegationStatement {
        &self.statement
    }

    pub(crate) fn public_key(&self) -> &[u8; 32] {
        &self.statement.public_key
    }

    pub(crate) fn trust_domain(&self) -> TrustDomainHash {
        self.statement.trust_domain
    }
}
