//! One record as a value: a typed head, the body of its kind, and the only way to and from bytes.

use std::sync::Arc;

use mintage_identity::{AgentInstance, RequestId, Serial, SpiffeId, UnixTime};
use prost::Message;

use crate::{
    LedgerError,
    check::check_body,
    kind::{Kind, is_restricting},
    limits::RECORD_BYTES_MAX,
    tree::{Hash, leaf_hash},
    wal::{FrameKind, frame_checksum, put_frame_checked},
    wire,
};

pub use crate::wire::record::Body;

/// Format version written, and the only one read.
pub const RECORD_VERSION: u32 = 1;

/// Longest replica id, actor name or address in bytes: a socket path of 108 or a DNS name of 253 fits.
const TEXT_BYTES_MAX: usize = 256;

/// A record of the ledger.
#[derive(Clone, Debug, PartialEq)]
pub struct Record {
    /// When it was made, by the clock of the replica that made it.
    pub time: UnixTime,
    /// Random octets, so that a leaf hash tells nothing about a record whose content can be guessed.
    pub salt: [u8; 16],
    /// Who caused it.
    pub actor: Actor,
    /// What the CA itself has proven about the agent; `None` where no agent is involved.
    pub attestation: Option<Attestation>,
    /// The caller's name for the request; `None` where there was none.
    pub request_id: Option<RequestId>,
    /// Name of the replica that made the record.
    pub replica: String,
    /// Control index the decision was made at: 1 + index of the last restricting record seen, 0 for none.
    pub control_seen: u64,
    /// What happened.
    pub body: Body,
}

/// Who caused a record.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Actor {
    /// An agent, by the certificate of its channel.
    Agent {
        /// Its SPIFFE ID.
        id: SpiffeId,
        /// Its instance.
        instance: AgentInstance,
        /// Serial of the certificate it spoke by: its channel's, or its last one when it joins again; `None` before it has one.
        serial: Option<Serial>,
    },
    /// An administrator, by the credentials of the socket.
    Admin {
        /// User id.
        uid: u32,
        /// Process id at the time of the call.
        pid: u32,
        /// Account name, or empty.
        name: String,
        /// Socket path or network address.
        address: String,
    },
    /// The CA acting for itself.
    Replica {
        /// Its SPIFFE ID.
        id: SpiffeId,
    },
    /// A node that holds a join token and is no agent yet.
    Token {
        /// Hash of the token's secret.
        hash: [u8; 32],
    },
}

/// An attestation as the CA proved it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attestation {
    /// `join_token`, `svid`, `rejoin`, ...
    pub kind: String,
    /// SHA-256 of the evidence.
    pub evidence: [u8; 32],
    /// When it was proven.
    pub proven_at: UnixTime,
}

/// A record as bytes that only the ledger may read, with what the committer must know of it.
#[derive(Clone, Debug)]
pub struct EncodedRecord {
    bytes: Arc<[u8]>,
    leaf_hash: Hash,
    /// Of the record's frame in the write-ahead file. Taken where the bytes are made, because there many work side by side
    /// and the bytes are still in the cache; the committer is one thread.
    frame_checksum: u32,
    kind: Kind,
    restricting: bool,
    time: UnixTime,
}

impl Record {
    /// The kind of the body.
    pub fn kind(&self) -> Kind {
        Kind::of(&self.body)
    }

    /// True when decisions made before this record have to be made again.
    pub fn is_restricting(&self) -> bool {
        is_restricting(&self.body)
    }

    /// The record's one encoding.
    ///
    /// # Errors
    /// Refuses more than 60 KB, and fields of a wrong length (the same checks as [`Record::decode`]).
    pub fn encode(self) -> Result<EncodedRecord, LedgerError> {
        let (kind, restricting, time) = (self.kind(), self.is_restricting(), self.time);
        let message = self.into_wire();
        let len = message.encoded_len();
        check_len(kind, len)?;
        check(&message).map_err(LedgerError::Record)?;
        // Straight into the allocation that is shared from here on; a vector would be copied into one.
        let mut bytes: Arc<[u8]> = std::iter::repeat_n(0, len).collect();
        let whole = Arc::get_mut(&mut bytes).and_then(|mut room| message.encode(&mut room).ok());
        whole.ok_or_else(|| LedgerError::Record(format!("{kind} was not encoded in the {len} bytes it measured")))?;
        Ok(EncodedRecord {
            leaf_hash: leaf_hash(&bytes),
            frame_checksum: frame_checksum(FrameKind::Record, &bytes),
            bytes,
            kind,
            restricting,
            time,
        })
    }

    /// Reads the bytes of a leaf.
    ///
    /// # Errors
    /// Refuses more than 60 KB, an unknown version, a record without a body, and fields of a wrong length.
    pub fn decode(bytes: &[u8]) -> Result<Self, LedgerError> {
        if bytes.len() > RECORD_BYTES_MAX {
            return Err(LedgerError::Decode(format!(
                "{} bytes, the limit is {RECORD_BYTES_MAX}",
                bytes.len()
            )));
        }
        let message = wire::Record::decode(bytes).map_err(|error| LedgerError::Decode(error.to_string()))?;
        Self::from_wire(message)
    }

    fn into_wire(self) -> wire::Record {
        wire::Record {
            version: RECORD_VERSION,
            time_ms: self.time.millis(),
            salt: self.salt.to_vec(),
            actor: Some(self.actor.into_wire()),
            attestation: self.attestation.map(|proven| wire::Attestation {
                kind: proven.kind,
                evidence_sha256: proven.evidence.to_vec(),
                proven_at_ms: proven.proven_at.millis(),
            }),
            request_id: self.request_id.map(|id| id.as_bytes().to_vec()).unwrap_or_default(),
            replica_id: self.replica,
            control_seen: self.control_seen,
            body: Some(self.body),
        }
    }

    fn from_wire(message: wire::Record) -> Result<Self, LedgerError> {
        check(&message).map_err(LedgerError::Decode)?;
        let absent = |what: &str| LedgerError::Decode(format!("{what} is absent"));
        let request_id = match message.request_id.as_slice() {
            [] => None,
            octets => Some(RequestId::from_slice(octets)?),
        };
        let attestation = message
            .attestation
            .map(|proven| {
                Ok::<_, LedgerError>(Attestation {
                    kind: proven.kind,
                    evidence: octets("evidence", &proven.evidence_sha256)?,
                    proven_at: UnixTime::from_millis(proven.proven_at_ms),
                })
            })
            .transpose()?;
        Ok(Self {
            time: UnixTime::from_millis(message.time_ms),
            salt: octets("salt", &message.salt)?,
            actor: Actor::from_wire(message.actor.ok_or_else(|| absent("actor"))?)?,
            attestation,
            request_id,
            replica: message.replica_id,
            control_seen: message.control_seen,
            body: message.body.ok_or_else(|| absent("body"))?,
        })
    }
}

impl Actor {
    fn into_wire(self) -> wire::Actor {
        use wire::actor::Who;
        let who = match self {
            Self::Agent { id, instance, serial } => Who::Agent(wire::AgentActor {
                spiffe_id: id.as_str().to_owned(),
                instance: instance.0,
                serial: serial.map(|serial| serial.octets().to_vec()).unwrap_or_default(),
            }),
            Self::Admin {
                uid,
                pid,
                name,
                address,
            } => Who::Admin(wire::AdminActor {
                uid,
                pid,
                name,
                address,
            }),
            Self::Replica { id } => Who::Replica(wire::ReplicaActor {
                spiffe_id: id.as_str().to_owned(),
            }),
            Self::Token { hash } => Who::TokenHash(hash.to_vec()),
        };
        wire::Actor { who: Some(who) }
    }

    fn from_wire(actor: wire::Actor) -> Result<Self, LedgerError> {
        use wire::actor::Who;
        Ok(match actor.who {
            None => return Err(LedgerError::Decode("actor is absent".into())),
            Some(Who::Agent(agent)) => Self::Agent {
                id: SpiffeId::parse(&agent.spiffe_id)?,
                instance: AgentInstance(agent.instance),
                serial: match agent.serial.as_slice() {
                    [] => None,
                    octets => Some(Serial::from_be_octets(octets)?),
                },
            },
            Some(Who::Admin(admin)) => Self::Admin {
                uid: admin.uid,
                pid: admin.pid,
                name: admin.name,
                address: admin.address,
            },
            Some(Who::Replica(replica)) => Self::Replica {
                id: SpiffeId::parse(&replica.spiffe_id)?,
            },
            Some(Who::TokenHash(hash)) => Self::Token {
                hash: octets("token hash", &hash)?,
            },
        })
    }
}

impl EncodedRecord {
    /// Bytes that were encoded as a record of this kind, which restricts nothing.
    pub(crate) fn of(bytes: &[u8], kind: Kind, time: UnixTime) -> Result<Self, LedgerError> {
        check_len(kind, bytes.len())?;
        Ok(Self {
            leaf_hash: leaf_hash(bytes),
            frame_checksum: frame_checksum(FrameKind::Record, bytes),
            bytes: bytes.into(),
            kind,
            restricting: false,
            time,
        })
    }

    /// The bytes of the leaf.
    pub(crate) fn bytes(&self) -> &Arc<[u8]> {
        &self.bytes
    }

    /// Appends the record's frame to a buffer.
    pub(crate) fn put_frame(&self, out: &mut Vec<u8>) {
        put_frame_checked(out, FrameKind::Record, &self.bytes, self.frame_checksum);
    }

    /// Length in bytes.
    pub fn encoded_len(&self) -> usize {
        self.bytes.len()
    }

    /// Hash of the leaf.
    pub fn leaf_hash(&self) -> Hash {
        self.leaf_hash
    }

    /// The kind of the record.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// True when decisions made before this record have to be made again.
    pub fn is_restricting(&self) -> bool {
        self.restricting
    }

    /// When the record was made.
    pub fn time(&self) -> UnixTime {
        self.time
    }
}

fn octets<const N: usize>(field: &str, from: &[u8]) -> Result<[u8; N], LedgerError> {
    <[u8; N]>::try_from(from).map_err(|_| LedgerError::Decode(format!("{field} has {} octets, not {N}", from.len())))
}

fn check_len(kind: Kind, len: usize) -> Result<(), LedgerError> {
    if len > RECORD_BYTES_MAX {
        return Err(LedgerError::Record(format!(
            "{kind} takes {len} bytes, the limit is {RECORD_BYTES_MAX}; split it or use fewer selectors"
        )));
    }
    Ok(())
}

pub(crate) fn check_replica(id: &str) -> Result<(), String> {
    if id.is_empty() || id.len() > TEXT_BYTES_MAX {
        return Err(format!("replica id must have 1 to {TEXT_BYTES_MAX} bytes"));
    }
    Ok(())
}

fn check(message: &wire::Record) -> Result<(), String> {
    if message.version != RECORD_VERSION {
        return Err(format!(
            "version {} is unknown; this program knows {RECORD_VERSION}",
            message.version
        ));
    }
    check_replica(&message.replica_id)?;
    if let Some(wire::actor::Who::Admin(admin)) = message.actor.as_ref().and_then(|actor| actor.who.as_ref())
        && (admin.name.len() > TEXT_BYTES_MAX || admin.address.len() > TEXT_BYTES_MAX)
    {
        return Err(format!(
            "administrator name and address have at most {TEXT_BYTES_MAX} bytes"
        ));
    }
    message.body.as_ref().map_or(Ok(()), check_body)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::samples;

    #[test]
    fn every_kind_round_trips_and_has_one_encoding() {
        for kind in Kind::ALL {
            let record = samples::record_of(*kind, 7);
            assert_eq!(record.kind(), *kind);
            let encoded = record.clone().encode().unwrap();
            assert_eq!(encoded.kind(), *kind);
            assert_eq!(encoded.leaf_hash(), leaf_hash(encoded.bytes()));
            let decoded = Record::decode(encoded.bytes()).unwrap();
            assert_eq!(decoded, record);
            assert_eq!(decoded.encode().unwrap().bytes(), encoded.bytes());
        }
    }

    #[test]
    fn only_records_that_take_something_away_restrict() {
        let mut restricting: Vec<_> = Kind::ALL
            .iter()
            .filter(|kind| samples::record_of(**kind, 7).is_restricting())
            .map(|kind| kind.name())
            .collect();
        restricting.sort_unstable();
        let expected = [
            "agent.ban",
            "agent.evict",
            "bundle.change",
            "bundle.federated.remove",
            "bundle.federated.set",
            "ca.event",
            "entry.delete",
            "revoke",
            "token.consume",
            "token.delete",
        ];
        assert_eq!(restricting, expected, "a new entry restricts nothing");
        let mut put = samples::record_of(Kind::EntryPut, 7);
        if let Body::EntryPut(entry) = &mut put.body {
            entry.replaces_revision = 3;
        }
        assert!(put.is_restricting());
    }

    #[test]
    fn a_record_over_sixty_kilobytes_is_refused() {
        let mut record = samples::issue(1, "spiffe://dev.test/web", "web-1");
        if let Body::Issue(issue) = &mut record.body {
            issue.selectors = (0..70).map(|i| format!("unix:path:/{i}{}", "x".repeat(900))).collect();
        }
        let error = record.encode().unwrap_err().to_string();
        assert!(error.contains("61440"), "{error}");
    }

    #[test]
    fn unknown_versions_and_missing_parts_are_refused() {
        let whole = samples::issue(1, "spiffe://dev.test/web", "web-1").into_wire();
        let refused = |change: &dyn Fn(&mut wire::Record)| {
            let mut message = whole.clone();
            change(&mut message);
            Record::decode(&message.encode_to_vec()).unwrap_err().to_string()
        };
        assert!(refused(&|m| m.version = 2).contains("version 2"));
        assert!(refused(&|m| m.body = None).contains("body"));
        assert!(refused(&|m| m.actor = None).contains("actor"));
        assert!(refused(&|m| m.salt.truncate(3)).contains("salt"));
        assert!(refused(&|m| m.request_id = vec![1; 15]).contains("request id"));
        assert!(refused(&|m| m.replica_id.clear()).contains("replica id"));
        assert!(
            refused(&|m| {
                if let Some(Body::Issue(issue)) = &mut m.body {
                    issue.issuer_key_id.pop();
                }
            })
            .contains("issuer key id")
        );
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            let _ = Record::decode(&bytes);
        }

        #[test]
        fn a_flipped_bit_never_panics(at in 0usize..10_000, bit in 0u8..8, kind in 0..Kind::ALL.len()) {
            let encoded = samples::record_of(Kind::ALL[kind], 7).encode().unwrap();
            let mut bytes = encoded.bytes().to_vec();
            let place = at % bytes.len();
            bytes[place] ^= 1 << bit;
            let _ = Record::decode(&bytes);
        }
    }
}
