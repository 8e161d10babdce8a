//! From signed to issued: the bytes go into a record, the record into the ledger, and only its receipt opens the seal.

use std::{fmt, sync::Arc};

use mintage_identity::{IssuerKeyId, ReplicaName, RequestId, Serial, SpiffeId, SpkiHash, UnixTime};
use mintage_ledger::{Actor, EncodedRecord, Hash, IssueRecord, Receipt};
use mintage_policy::Profile;

use crate::{MintError, Prepared};

/// A signed certificate whose bytes nobody can reach: they go into its record and, against the record's receipt, out.
///
/// ```compile_fail,E0616
/// fn peek(sealed: mintage_mint::Sealed) -> Vec<u8> {
///     sealed.facts.leaf_der
/// }
/// ```
#[derive(Debug)]
pub struct Sealed {
    prepared: Prepared,
    facts: Facts,
}

/// What surrounds an issuance in its record.
#[derive(Debug, Clone)]
pub struct RecordContext {
    /// Who caused it.
    pub actor: Actor,
    /// The caller's name for the request, where it gave one.
    pub request_id: Option<RequestId>,
    /// The replica that makes the record.
    pub replica: ReplicaName,
    /// The replica's clock.
    pub time: UnixTime,
    /// Sixteen random octets.
    pub salt: [u8; 16],
}

/// A signed certificate whose record is on its way. It opens for the receipt of exactly that record, once.
///
/// ```
/// # use mintage_ledger::{EncodedRecord, Receipt};
/// # use mintage_mint::{AwaitingReceipt, Issued, MintError};
/// fn released(waiting: AwaitingReceipt, receipt: Receipt) -> Result<Issued, MintError> {
///     waiting.release(receipt)
/// }
/// ```
///
/// Without a receipt:
///
/// ```compile_fail,E0061
/// # use mintage_mint::{AwaitingReceipt, Issued, MintError};
/// fn released(waiting: AwaitingReceipt) -> Result<Issued, MintError> {
///     waiting.release()
/// }
/// ```
///
/// Twice:
///
/// ```compile_fail,E0382
/// # use mintage_ledger::Receipt;
/// # use mintage_mint::{AwaitingReceipt, Issued, MintError};
/// fn released(waiting: AwaitingReceipt, a: Receipt, b: Receipt) -> Result<(Issued, Issued), MintError> {
///     Ok((waiting.release(a)?, waiting.release(b)?))
/// }
/// ```
///
/// One receipt for two certificates:
///
/// ```compile_fail,E0382
/// # use mintage_ledger::Receipt;
/// # use mintage_mint::{AwaitingReceipt, Issued, MintError};
/// fn released(a: AwaitingReceipt, b: AwaitingReceipt, receipt: Receipt) -> Result<(Issued, Issued), MintError> {
///     Ok((a.release(receipt)?, b.release(receipt)?))
/// }
/// ```
///
/// With a receipt made by hand:
///
/// ```compile_fail,E0451
/// # use mintage_ledger::Receipt;
/// fn forged(honest: Receipt) -> Receipt {
///     Receipt { index: 0, ..honest }
/// }
/// ```
#[derive(Debug)]
pub struct AwaitingReceipt {
    facts: Facts,
    leaf_hash: Hash,
}

/// A certificate that is recorded and may leave.
#[derive(Debug)]
pub struct Issued {
    facts: Facts,
    receipt: Receipt,
}

struct Facts {
    leaf_der: Vec<u8>,
    chain_below_root: Arc<[Vec<u8>]>,
    spiffe_id: SpiffeId,
    serial: Serial,
    issuer: IssuerKeyId,
    spki_sha256: SpkiHash,
    not_before: UnixTime,
    not_after: UnixTime,
    profile: Profile,
}

/// Says which certificate it is and shows none of its bytes: a log line must not release what is sealed.
impl fmt::Debug for Facts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Facts")
            .field("spiffe_id", &self.spiffe_id)
            .field("serial", &self.serial)
            .field("issuer", &self.issuer)
            .field("not_after", &self.not_after)
            .finish_non_exhaustive()
    }
}

impl Sealed {
    pub(crate) fn new(prepared: Prepared, leaf_der: Vec<u8>, chain_below_root: Arc<[Vec<u8>]>) -> Self {
        let facts = Facts {
            leaf_der,
            chain_below_root,
            spiffe_id: prepared.grant.spiffe_id().clone(),
            serial: prepared.serial,
            issuer: prepared.issuer,
            spki_sha256: prepared.key.spki_sha256(),
            not_before: prepared.dates.not_before,
            not_after: prepared.dates.not_after,
            profile: prepared.grant.profile(),
        };
        Self { prepared, facts }
    }

    /// Makes the record. The certificate waits for its receipt; the record goes to the ledger, at the control index
    /// the Grant was decided on ([`Sealed::decided_at`]).
    ///
    /// # Errors
    /// [`MintError::Record`] when the record is over the ledger's limits.
    pub fn seal(self, context: RecordContext) -> Result<(AwaitingReceipt, EncodedRecord), MintError> {
        let grant = &self.prepared.grant;
        let entry = grant.entry().map(|entry| {
            // The CA sees the agent, not the workload: matching selectors is the agent's word.
            let selectors = entry.selectors().iter().map(|selector| selector.as_str());
            (entry.name().as_str(), entry.revision(), selectors.collect())
        });
        let agent = grant.agent();
        let record = IssueRecord {
            time: context.time,
            salt: &context.salt,
            actor: &context.actor,
            attestation: agent.map(|agent| (agent.attestation_kind(), agent.evidence(), agent.proven_at())),
            request_id: context.request_id.as_ref(),
            replica: context.replica.as_str(),
            control_seen: grant.decided_at(),
            spiffe_id: grant.spiffe_id().as_str(),
            entry,
            rule: grant.rule(),
            ttl_seconds: grant.ttl_seconds(),
            issuer: &self.facts.issuer,
            certificate_der: &self.facts.leaf_der,
            profile: wire_profile(grant.profile()),
        };
        let record = record.encode()?;
        let leaf_hash = record.leaf_hash();
        Ok((
            AwaitingReceipt {
                facts: self.facts,
                leaf_hash,
            },
            record,
        ))
    }

    #[cfg(test)]
    pub(crate) fn leaf_der(&self) -> &[u8] {
        &self.facts.leaf_der
    }

    /// The control index the Grant was decided on: the ledger refuses the record when a restricting one came after it.
    pub fn decided_at(&self) -> u64 {
        self.prepared.grant.decided_at()
    }

    /// The serial.
    pub fn serial(&self) -> &Serial {
        &self.facts.serial
    }
}

impl AwaitingReceipt {
    /// Opens the seal.
    ///
    /// # Errors
    /// [`MintError::OtherReceipt`] for the receipt of another record; the certificate is then lost, as it must be.
    pub fn release(self, receipt: Receipt) -> Result<Issued, MintError> {
        if receipt.leaf_hash() != self.leaf_hash {
            return Err(MintError::OtherReceipt);
        }
        Ok(Issued {
            facts: self.facts,
            receipt,
        })
    }

    /// The serial.
    pub fn serial(&self) -> &Serial {
        &self.facts.serial
    }
}

impl Issued {
    /// The chain, leaf first, without the root.
    pub fn chain_der(&self) -> Vec<Vec<u8>> {
        let mut chain = Vec::with_capacity(1 + self.facts.chain_below_root.len());
        chain.push(self.facts.leaf_der.clone());
        chain.extend_from_slice(&self.facts.chain_below_root);
        chain
    }

    /// The leaf alone.
    pub fn leaf_der(&self) -> &[u8] {
        &self.facts.leaf_der
    }

    /// The leaf alone, taken out.
    pub fn into_leaf_der(self) -> Vec<u8> {
        self.facts.leaf_der
    }

    /// What follows the leaf in the chain.
    pub fn chain_below_root(&self) -> &[Vec<u8>] {
        &self.facts.chain_below_root
    }

    /// The proof that it is recorded.
    pub fn receipt(&self) -> &Receipt {
        &self.receipt
    }

    /// The identity.
    pub fn spiffe_id(&self) -> &SpiffeId {
        &self.facts.spiffe_id
    }

    /// The serial.
    pub fn serial(&self) -> &Serial {
        &self.facts.serial
    }

    /// The key that signed it.
    pub fn issuer(&self) -> IssuerKeyId {
        self.facts.issuer
    }

    /// SHA-256 of the subject's SubjectPublicKeyInfo.
    pub fn spki_sha256(&self) -> SpkiHash {
        self.facts.spki_sha256
    }

    /// First second of validity.
    pub fn not_before(&self) -> UnixTime {
        self.facts.not_before
    }

    /// Last second of validity.
    pub fn not_after(&self) -> UnixTime {
        self.facts.not_after
    }

    /// What kind of holder it is for.
    pub fn profile(&self) -> Profile {
        self.facts.profile
    }
}

fn wire_profile(profile: Profile) -> mintage_ledger::wire::Profile {
    match profile {
        Profile::Workload => mintage_ledger::wire::Profile::Workload,
        Profile::Agent => mintage_ledger::wire::Profile::Agent,
        Profile::Replica => mintage_ledger::wire::Profile::Replica,
    }
}
