//! The record that is made by the thousand, an issuance, encoded from borrowed parts straight into its bytes. It is bit for
//! bit what [`Record::encode`](crate::Record::encode) makes of the same values, at a third of the time.

use mintage_identity::{IssuerKeyId, RequestId, UnixTime};
use prost::encoding::{WireType, encode_key, encode_varint};

use crate::{
    LedgerError,
    kind::Kind,
    record::{Actor, EncodedRecord, RECORD_VERSION, check_replica},
    wire::Profile,
};

/// An issuance to be recorded; see the messages `Record` and `Issue` of the ledger's protocol.
#[derive(Clone, Debug)]
pub struct IssueRecord<'a> {
    /// When it was made, by the clock of the replica that made it.
    pub time: UnixTime,
    /// Random octets.
    pub salt: &'a [u8; 16],
    /// Who caused it.
    pub actor: &'a Actor,
    /// What the CA itself has proven about the agent: kind, SHA-256 of the evidence, and when.
    pub attestation: Option<(&'a str, &'a [u8; 32], UnixTime)>,
    /// The caller's name for the request.
    pub request_id: Option<&'a RequestId>,
    /// Name of the replica that makes the record.
    pub replica: &'a str,
    /// Control index the decision was made at.
    pub control_seen: u64,
    /// Identity of the certificate.
    pub spiffe_id: &'a str,
    /// The entry's name, its revision and its selectors, which the agent enforces; none where there is no entry.
    pub entry: Option<(&'a str, u64, Vec<&'a str>)>,
    /// The rule of the policy that allowed it.
    pub rule: &'a str,
    /// Lifetime.
    pub ttl_seconds: u32,
    /// The key that signed it.
    pub issuer: &'a IssuerKeyId,
    /// The certificate.
    pub certificate_der: &'a [u8],
    /// What kind of holder it is for.
    pub profile: Profile,
}

impl IssueRecord<'_> {
    /// The record's one encoding.
    ///
    /// # Errors
    /// Refuses more than 60 KB, and what [`Record::encode`](crate::Record::encode) refuses.
    pub fn encode(&self) -> Result<EncodedRecord, LedgerError> {
        check_replica(self.replica).map_err(LedgerError::Record)?;
        if self.certificate_der.is_empty() || self.spiffe_id.is_empty() {
            return Err(LedgerError::Record("issue without a certificate or a SPIFFE ID".into()));
        }
        let issue = self.issue();
        let mut record = Vec::with_capacity(issue.len() + 512);
        varint(&mut record, 1, RECORD_VERSION.into());
        signed(&mut record, 2, self.time.millis());
        octets(&mut record, 3, self.salt);
        message(&mut record, 4, &actor(self.actor));
        if let Some((kind, evidence, proven_at)) = self.attestation {
            let mut attestation = Vec::with_capacity(96);
            octets(&mut attestation, 1, kind.as_bytes());
            octets(&mut attestation, 2, evidence);
            signed(&mut attestation, 3, proven_at.millis());
            message(&mut record, 5, &attestation);
        }
        octets(&mut record, 6, self.request_id.map_or(&[], |id| id.as_bytes()));
        octets(&mut record, 7, self.replica.as_bytes());
        varint(&mut record, 8, self.control_seen);
        message(&mut record, 16, &issue);
        EncodedRecord::of(&record, Kind::Issue, self.time)
    }

    fn issue(&self) -> Vec<u8> {
        let mut issue = Vec::with_capacity(self.certificate_der.len() + 512);
        octets(&mut issue, 1, self.spiffe_id.as_bytes());
        if let Some((name, revision, selectors)) = &self.entry {
            octets(&mut issue, 2, name.as_bytes());
            varint(&mut issue, 3, *revision);
            // Each is written, were it empty.
            selectors
                .iter()
                .for_each(|selector| message(&mut issue, 4, selector.as_bytes()));
            varint(&mut issue, 5, 1);
        }
        octets(&mut issue, 6, self.rule.as_bytes());
        varint(&mut issue, 7, self.ttl_seconds.into());
        octets(&mut issue, 8, self.issuer.as_bytes());
        octets(&mut issue, 9, self.certificate_der);
        varint(&mut issue, 10, self.profile as u64);
        issue
    }
}

fn actor(actor: &Actor) -> Vec<u8> {
    let (mut whole, mut who) = (Vec::with_capacity(160), Vec::with_capacity(128));
    match actor {
        Actor::Agent { id, instance, serial } => {
            octets(&mut who, 1, id.as_str().as_bytes());
            varint(&mut who, 2, instance.0);
            octets(&mut who, 3, serial.as_ref().map_or(&[], |serial| serial.octets()));
            message(&mut whole, 1, &who);
        }
        Actor::Admin {
            uid,
            pid,
            name,
            address,
        } => {
            varint(&mut who, 1, (*uid).into());
            varint(&mut who, 2, (*pid).into());
            octets(&mut who, 3, name.as_bytes());
            octets(&mut who, 4, address.as_bytes());
            message(&mut whole, 2, &who);
        }
        Actor::Replica { id } => {
            octets(&mut who, 1, id.as_str().as_bytes());
            message(&mut whole, 3, &who);
        }
        Actor::Token { hash } => message(&mut whole, 4, hash),
    }
    whole
}

/// A number; zero is left out, as proto3 does.
fn varint(to: &mut Vec<u8>, tag: u32, value: u64) {
    if value != 0 {
        encode_key(tag, WireType::Varint, to);
        encode_varint(value, to);
    }
}

/// An `int64`: two's complement.
fn signed(to: &mut Vec<u8>, tag: u32, value: i64) {
    varint(to, tag, value.cast_unsigned());
}

/// A string or octets; none are left out.
fn octets(to: &mut Vec<u8>, tag: u32, value: &[u8]) {
    if !value.is_empty() {
        message(to, tag, value);
    }
}

/// What is written even when it is empty: a message that is there, a value of a list, the case of a `oneof`.
fn message(to: &mut Vec<u8>, tag: u32, octets: &[u8]) {
    encode_key(tag, WireType::LengthDelimited, to);
    encode_varint(octets.len() as u64, to);
    to.extend_from_slice(octets);
}

#[cfg(test)]
mod tests {
    use mintage_identity::{AgentInstance, Serial, SpiffeId};
    use proptest::prelude::*;

    use super::*;
    use crate::{Attestation, Record, wire};

    fn actors() -> impl Strategy<Value = Actor> {
        let id = SpiffeId::parse("spiffe://dev.test/mintage/agent/web-1").unwrap();
        let serial = proptest::option::of(any::<[u8; 16]>().prop_map(Serial::from_random));
        let agent = (Just(id.clone()), any::<u64>(), serial).prop_map(|(id, instance, serial)| Actor::Agent {
            id,
            instance: AgentInstance(instance),
            serial,
        });
        let admin = (any::<u32>(), any::<u32>(), "[a-z]{0,9}").prop_map(|(uid, pid, name)| Actor::Admin {
            uid,
            pid,
            address: name.clone(),
            name,
        });
        let token = any::<[u8; 32]>().prop_map(|hash| Actor::Token { hash });
        prop_oneof![agent, admin, Just(Actor::Replica { id }), token]
    }

    prop_compose! {
        /// The same values as a whole record.
        fn records()(
            actor in actors(),
            time in any::<i64>(),
            salt in any::<[u8; 16]>(),
            attestation in proptest::option::of(("[a-z_]{0,12}", any::<[u8; 32]>(), any::<i64>())),
            request_id in proptest::option::of(any::<[u8; 16]>()),
            control_seen in any::<u64>(),
            entry in proptest::option::of(("[a-z]{0,9}", any::<u64>(), proptest::collection::vec("[a-z:]{0,40}", 0..4))),
            rule in "[a-z]{0,9}",
            ttl_seconds in any::<u32>(),
            issuer_key_id in any::<[u8; 32]>(),
            certificate_der in proptest::collection::vec(any::<u8>(), 1..900),
            profile in 0..4i32,
        ) -> Record {
            let (name, entry_revision, selectors) = entry.clone().unwrap_or_default();
            Record {
                time: UnixTime::from_millis(time),
                salt,
                actor,
                attestation: attestation.map(|(kind, evidence, at)| Attestation {
                    kind,
                    evidence,
                    proven_at: UnixTime::from_millis(at),
                }),
                request_id: request_id.map(RequestId::new),
                replica: "ca-1".into(),
                control_seen,
                body: crate::Body::Issue(wire::Issue {
                    spiffe_id: "spiffe://dev.test/web".into(),
                    entry: name,
                    entry_revision,
                    selectors,
                    selectors_enforced_by_agent: entry.is_some(),
                    rule,
                    ttl_seconds,
                    issuer_key_id: issuer_key_id.to_vec(),
                    certificate_der,
                    profile,
                }),
            }
        }
    }

    /// The record's values, borrowed.
    fn encoded(record: &Record) -> Result<EncodedRecord, LedgerError> {
        let crate::Body::Issue(issue) = &record.body else {
            panic!("an issue")
        };
        let entry = || {
            let selectors = issue.selectors.iter().map(String::as_str).collect();
            (issue.entry.as_str(), issue.entry_revision, selectors)
        };
        let attestation = record.attestation.as_ref();
        IssueRecord {
            time: record.time,
            salt: &record.salt,
            actor: &record.actor,
            attestation: attestation.map(|proven| (proven.kind.as_str(), &proven.evidence, proven.proven_at)),
            request_id: record.request_id.as_ref(),
            replica: &record.replica,
            control_seen: record.control_seen,
            spiffe_id: &issue.spiffe_id,
            entry: issue.selectors_enforced_by_agent.then(entry),
            rule: &issue.rule,
            ttl_seconds: issue.ttl_seconds,
            issuer: &IssuerKeyId::from_slice(&issue.issuer_key_id).unwrap(),
            certificate_der: &issue.certificate_der,
            profile: issue.profile(),
        }
        .encode()
    }

    proptest! {
        #[test]
        fn it_is_bit_for_bit_what_the_general_encoding_is(record in records()) {
            let one = encoded(&record).unwrap();
            let other = record.encode().unwrap();
            prop_assert_eq!(one.bytes(), other.bytes());
            prop_assert_eq!(
                (one.leaf_hash(), one.kind(), one.is_restricting(), one.time()),
                (other.leaf_hash(), other.kind(), other.is_restricting(), other.time())
            );
        }
    }

    #[test]
    fn what_the_general_encoding_refuses_is_refused() {
        let good = crate::samples::issue(1, "spiffe://dev.test/web", "web-1");
        assert!(encoded(&good).is_ok());
        let refused = |change: &dyn Fn(&mut Record, &mut wire::Issue)| {
            let mut record = good.clone();
            let crate::Body::Issue(mut issue) = record.body.clone() else {
                panic!("an issue")
            };
            change(&mut record, &mut issue);
            record.body = crate::Body::Issue(issue);
            encoded(&record).is_err() && record.encode().is_err()
        };
        assert!(refused(&|record, _| record.replica.clear()));
        assert!(refused(&|record, _| record.replica = "x".repeat(257)));
        assert!(refused(&|_, issue| issue.certificate_der.clear()));
        assert!(refused(&|_, issue| issue.spiffe_id.clear()));
        assert!(refused(&|_, issue| issue.certificate_der = vec![1; 62_000]));
    }
}
