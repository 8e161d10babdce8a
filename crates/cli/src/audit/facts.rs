//! What a record is about, in the few facts that filters, listings and exports share.
//!
//! Who is named as agent and what counts as the identity of a record is the same as in the CA's own search.

use mintage_identity::{Reserved, RevocationReason, Serial, SpiffeId, UnixTime};
use mintage_ledger::{Actor, Body, Hash, Kind, Record, RevocationScope, wire::Revoke};
use mintage_svid::LeafInfo;

/// The facts of one record; what it does not have is empty.
#[derive(Debug, Default)]
pub(super) struct Facts {
    /// The identity it is about; of a revocation perhaps a prefix, which ends in `/*`.
    pub(super) spiffe_id: String,
    /// The agent by which or about which it is.
    pub(super) agent: String,
    /// That agent's instance; 0 where there is none.
    pub(super) instance: u64,
    /// The entry it is about.
    pub(super) entry: String,
    /// Its certificate.
    pub(super) leaf: Option<LeafInfo>,
    /// The certificates that it revokes.
    pub(super) revoked: Vec<Serial>,
}

/// A record in its place, with the hash its bytes were held against.
#[derive(Debug)]
pub(super) struct Placed {
    pub(super) index: u64,
    pub(super) leaf_hash: Hash,
    pub(super) record: Record,
}

impl Placed {
    /// The facts of the record.
    pub(super) fn facts(&self) -> Facts {
        Facts::of(self.index, &self.record)
    }

    /// The kind of the record.
    pub(super) fn kind(&self) -> Kind {
        self.record.kind()
    }

    /// When it was made.
    pub(super) fn time(&self) -> UnixTime {
        self.record.time
    }
}

/// The agent's name in its SPIFFE ID, or nothing.
fn agent_of(id: &SpiffeId) -> String {
    match id.reserved() {
        Some(Reserved::Agent(name)) => name.to_string(),
        _ => String::new(),
    }
}

impl Facts {
    fn of(index: u64, record: &Record) -> Self {
        let mut facts = Self::default();
        if let Actor::Agent { id, instance, .. } = &record.actor {
            facts.agent = agent_of(id);
            facts.instance = instance.0;
        }
        match &record.body {
            Body::Issue(issue) => {
                facts.about(&issue.spiffe_id, &issue.entry);
                facts.leaf = LeafInfo::parse(&issue.certificate_der).ok();
            }
            Body::IssueJwt(issue) => facts.about(&issue.spiffe_id, &issue.entry),
            Body::Deny(deny) => facts.about(&deny.spiffe_id, &deny.entry),
            Body::EntryPut(put) => {
                facts.entry.clone_from(&put.name);
                facts.spiffe_id.clone_from(&put.spiffe_id);
            }
            Body::EntryDelete(delete) => facts.entry.clone_from(&delete.name),
            Body::TokenCreate(token) => facts.agent.clone_from(&token.agent),
            Body::TokenDelete(token) => facts.agent.clone_from(&token.agent),
            Body::TokenConsume(token) => {
                if let Some(attest) = &token.attest {
                    facts.attested(index, attest);
                }
            }
            Body::AgentAttest(attest) => facts.attested(index, attest),
            Body::AgentBan(end) => facts.ended(&end.name, end.instance),
            Body::AgentEvict(end) => facts.ended(&end.name, end.instance),
            Body::Revoke(revoke) => facts.revokes(revoke),
            _ => {}
        }
        facts
    }

    fn revokes(&mut self, revoke: &Revoke) {
        match RevocationScope::parse(&revoke.scope) {
            RevocationScope::Identity(id) => id.clone_into(&mut self.spiffe_id),
            RevocationScope::Agent(name) => name.clone_into(&mut self.agent),
            RevocationScope::Entry(name) => name.clone_into(&mut self.entry),
            RevocationScope::Other => {}
        }
        let serials = revoke.serials.iter();
        self.revoked = serials
            .filter_map(|struck| Serial::from_be_octets(&struck.serial).ok())
            .collect();
    }

    fn about(&mut self, spiffe_id: &str, entry: &str) {
        spiffe_id.clone_into(&mut self.spiffe_id);
        entry.clone_into(&mut self.entry);
        if self.agent.is_empty() {
            self.agent = SpiffeId::parse(spiffe_id).as_ref().map(agent_of).unwrap_or_default();
        }
    }

    /// A record that makes an instance is the instance.
    fn attested(&mut self, index: u64, attest: &mintage_ledger::wire::AgentAttest) {
        self.agent.clone_from(&attest.name);
        self.spiffe_id.clone_from(&attest.spiffe_id);
        self.instance = match attest.instance_of {
            0 => index,
            instance => instance,
        };
    }

    fn ended(&mut self, name: &str, instance: u64) {
        name.clone_into(&mut self.agent);
        self.instance = instance;
    }

    /// The serial of its certificate.
    pub(super) fn serial(&self) -> String {
        self.leaf
            .as_ref()
            .map(|leaf| leaf.serial().to_string())
            .unwrap_or_default()
    }

    /// The end of its certificate's validity in milliseconds; 0 where there is none.
    pub(super) fn not_after_ms(&self) -> i64 {
        self.leaf.as_ref().map_or(0, |leaf| leaf.not_after().millis())
    }
}

/// Who caused a record: what they are, and by which name.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Cause {
    /// agent, admin, ca or join token.
    pub(super) what: &'static str,
    /// SPIFFE ID, user id or hash of the token.
    pub(super) id: String,
    /// Agent name, account name, or nothing.
    pub(super) name: String,
}

impl Cause {
    pub(super) fn of(actor: &Actor) -> Self {
        let cause = |what, id: String, name: String| Self { what, id, name };
        match actor {
            Actor::Agent { id, .. } => cause("agent", id.to_string(), agent_of(id)),
            Actor::Admin { uid, name, .. } => cause("admin", uid.to_string(), name.clone()),
            Actor::Replica { id } => cause("ca", id.to_string(), String::new()),
            Actor::Token { hash } => cause("join token", hex::encode(hash), String::new()),
            _ => cause("unknown", String::new(), String::new()),
        }
    }
}

/// The stable code and the words of a refusal, a revocation or a ban; both empty for the rest.
pub(super) fn code_and_reason(body: &Body) -> (String, String) {
    match body {
        Body::Deny(deny) => (deny.code.clone(), deny.why.clone()),
        Body::Revoke(revoke) => {
            let reason = u8::try_from(revoke.reason).ok().and_then(RevocationReason::from_code);
            (reason.unwrap_or_default().to_string(), revoke.note.clone())
        }
        Body::AgentBan(end) => (String::new(), end.reason.clone()),
        Body::AgentEvict(end) => (String::new(), end.reason.clone()),
        Body::LogClose(close) => (String::new(), close.reason.clone()),
        _ => (String::new(), String::new()),
    }
}
