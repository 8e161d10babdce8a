//! What the index needs of a record, read in place.

use mintage_identity::Serial;

use crate::{
    about::RevocationScope,
    fields::{Fields, Value},
    kind::Kind,
    leaf_der::LeafFacts,
};

/// The indexed properties of one record, borrowed from its bytes. Absent ones are empty.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Facts<'a> {
    pub(crate) kind: Option<Kind>,
    pub(crate) time_ms: i64,
    pub(crate) request_id: &'a [u8],
    /// The SPIFFE ID the record is about; of a revocation perhaps a prefix.
    pub(crate) spiffe_id: &'a str,
    /// The name of the agent that acted or is acted upon.
    pub(crate) agent: &'a str,
    /// Its instance; 0: this record's own index.
    pub(crate) instance: u64,
    pub(crate) entry: &'a str,
    pub(crate) issuer_key_id: &'a [u8],
    pub(crate) certificate: &'a [u8],
    /// The body of a revocation.
    revoke: &'a [u8],
}

const AGENT_PATH: &str = "/mintage/agent/";

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap_or_default()
}

/// The agent's name in its SPIFFE ID, or nothing.
pub(crate) fn agent_of(spiffe_id: &str) -> &str {
    let path = || {
        let id = spiffe_id.strip_prefix("spiffe://")?;
        id[id.find('/')?..].strip_prefix(AGENT_PATH)
    };
    path().filter(|name| !name.contains('/')).unwrap_or_default()
}

/// The little that most followers need of most records.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Outline {
    pub(crate) kind: Option<Kind>,
    pub(crate) restricting: bool,
}

impl Outline {
    /// Reads the body's field number, and of an entry whether it replaces one.
    pub(crate) fn read(record: &[u8]) -> Self {
        let mut outline = Self::default();
        for (tag, value) in Fields::new(record) {
            if let (Some(kind), Value::Bytes(body)) = (Kind::from_tag(tag), value) {
                outline.kind = Some(kind);
                outline.restricting = match kind {
                    Kind::EntryPut => {
                        Fields::new(body).any(|(tag, value)| tag == 13 && !matches!(value, Value::Varint(0)))
                    }
                    kind => kind.restricts(),
                };
            }
        }
        outline
    }
}

/// A tag that two different requests of two different agents share once in 2^32; the record itself decides. `None` where
/// there is no request id.
pub(crate) fn request_tag(agent: &str, id: &[u8]) -> Option<u32> {
    if id.is_empty() {
        return None;
    }
    // Request ids are chosen by agents, so they are mixed rather than trusted to be random (FNV-1a). The tag is stored.
    let mix = |hash: u32, byte: &u8| (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193);
    let hash = agent.as_bytes().iter().fold(0x811c_9dc5, mix);
    Some(id.iter().fold(hash, mix).max(1))
}

impl<'a> Facts<'a> {
    /// What the certificate of the record says of itself, where it holds one that can be read.
    pub(crate) fn leaf(&self) -> Option<LeafFacts> {
        (!self.certificate.is_empty())
            .then(|| LeafFacts::read(self.certificate))
            .flatten()
    }

    /// The instance of the agent, for the record at `index`: a record that makes an instance is the instance.
    pub(crate) fn instance_at(&self, index: u64) -> u64 {
        let makes = matches!(self.kind, Some(Kind::TokenConsume | Kind::AgentAttest));
        match self.instance {
            0 if makes => index,
            instance => instance,
        }
    }

    /// Reads a record's bytes; a field that cannot be read is absent.
    pub(crate) fn read(record: &'a [u8]) -> Self {
        let mut facts = Self::default();
        for (tag, value) in Fields::new(record) {
            match (tag, value) {
                (2, Value::Varint(time)) => facts.time_ms = time.cast_signed(),
                (4, Value::Bytes(actor)) => facts.actor(actor),
                (6, Value::Bytes(id)) => facts.request_id = id,
                (tag, Value::Bytes(body)) => {
                    if let Some(kind) = Kind::from_tag(tag) {
                        facts.kind = Some(kind);
                        facts.body(kind, body);
                    }
                }
                _ => {}
            }
        }
        facts
    }

    fn actor(&mut self, actor: &'a [u8]) {
        for (tag, value) in Fields::new(actor) {
            if let (1, Value::Bytes(agent)) = (tag, value) {
                for field in Fields::new(agent) {
                    match field {
                        (1, Value::Bytes(id)) => self.agent = agent_of(text(id)),
                        (2, Value::Varint(instance)) => self.instance = instance,
                        _ => {}
                    }
                }
            }
        }
    }

    fn body(&mut self, kind: Kind, body: &'a [u8]) {
        match kind {
            Kind::TokenConsume => {
                for (tag, value) in Fields::new(body) {
                    if let (2, Value::Bytes(attest)) = (tag, value) {
                        self.instance = 0;
                        self.fields(Kind::AgentAttest, attest);
                    }
                }
            }
            Kind::AgentAttest => {
                // Absent means zero: the record itself makes the instance.
                self.instance = 0;
                self.fields(kind, body);
            }
            Kind::Revoke => {
                self.revoke = body;
                self.fields(kind, body);
            }
            _ => self.fields(kind, body),
        }
    }

    /// The serials that a revocation strikes; none of other records.
    pub(crate) fn revoked(&self) -> impl Iterator<Item = Serial> + use<'a> {
        let struck = Fields::new(self.revoke).filter_map(|field| match field {
            (1, Value::Bytes(revoked)) => Some(revoked),
            _ => None,
        });
        struck.filter_map(|revoked| {
            Fields::new(revoked).find_map(|field| match field {
                (2, Value::Bytes(octets)) => Serial::from_be_octets(octets).ok(),
                _ => None,
            })
        })
    }

    fn scope(&mut self, scope: &'a str) {
        match RevocationScope::parse(scope) {
            RevocationScope::Identity(id) => self.spiffe_id = id,
            RevocationScope::Agent(name) => self.agent = name,
            RevocationScope::Entry(name) => self.entry = name,
            RevocationScope::Other => {}
        }
    }

    fn fields(&mut self, kind: Kind, body: &'a [u8]) {
        for (tag, value) in Fields::new(body) {
            match (kind, tag, value) {
                (Kind::Issue | Kind::IssueJwt | Kind::Deny, 1, Value::Bytes(id)) => {
                    self.spiffe_id = text(id);
                    if self.agent.is_empty() {
                        self.agent = agent_of(self.spiffe_id);
                    }
                }
                (Kind::Issue | Kind::IssueJwt | Kind::Deny, 2, Value::Bytes(name))
                | (Kind::EntryPut | Kind::EntryDelete, 1, Value::Bytes(name)) => self.entry = text(name),
                (Kind::EntryPut | Kind::AgentAttest, 2, Value::Bytes(id)) => self.spiffe_id = text(id),
                (Kind::Issue, 8, Value::Bytes(id)) => self.issuer_key_id = id,
                (Kind::Issue, 9, Value::Bytes(der)) => self.certificate = der,
                (Kind::TokenCreate | Kind::TokenDelete, 2, Value::Bytes(name))
                | (Kind::AgentAttest | Kind::AgentBan | Kind::AgentEvict, 1, Value::Bytes(name)) => {
                    self.agent = text(name);
                }
                (Kind::AgentAttest, 3, Value::Varint(instance))
                | (Kind::AgentBan | Kind::AgentEvict, 2, Value::Varint(instance)) => self.instance = instance,
                (Kind::Revoke, 5, Value::Bytes(scope)) => self.scope(text(scope)),
                _ => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::samples;

    #[test]
    fn facts_agree_with_the_decoded_record() {
        for kind in Kind::ALL {
            let record = samples::record_of(*kind, 7);
            let encoded = record.clone().encode().unwrap();
            let facts = Facts::read(encoded.bytes());
            assert_eq!(facts.kind, Some(*kind));
            let outline = Outline::read(encoded.bytes());
            assert_eq!(
                (outline.kind, outline.restricting),
                (Some(*kind), record.is_restricting())
            );
            assert_eq!(facts.time_ms, record.time.millis());
        }
        let mut put = samples::record_of(Kind::EntryPut, 7);
        if let crate::Body::EntryPut(entry) = &mut put.body {
            entry.replaces_revision = 300;
        }
        assert!(Outline::read(put.encode().unwrap().bytes()).restricting);
    }

    #[test]
    fn an_issue_gives_identity_agent_entry_and_certificate() {
        let encoded = samples::issue(5, "spiffe://dev.test/web", "web-1").encode().unwrap();
        let facts = Facts::read(encoded.bytes());
        assert_eq!(
            (facts.spiffe_id, facts.agent, facts.entry),
            ("spiffe://dev.test/web", "web-1", "web")
        );
        assert_eq!(facts.instance, 3);
        assert_eq!(facts.certificate, samples::certificate(5, 1_000_000, 1_000_600));
    }

    #[test]
    fn only_agents_have_agent_names() {
        assert_eq!(agent_of("spiffe://dev.test/mintage/agent/web-1"), "web-1");
        assert_eq!(agent_of("spiffe://dev.test/mintage/agent/web-1/x"), "");
        assert_eq!(agent_of("spiffe://dev.test/web"), "");
        assert_eq!(
            agent_of("spiffe://dev.test/x/mintage/agent/web-1"),
            "",
            "not in the reserved place"
        );
        assert_eq!(agent_of("spiffe://dev.test"), "");
    }
}
