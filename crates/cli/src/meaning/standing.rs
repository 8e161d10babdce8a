//! What stands at a place in the log: entries, tokens and agents.

use std::collections::HashMap;

use mintage_identity::{AgentInstance, AgentName, Serial, SpiffeId, TrustDomain};
use mintage_ledger::wire;
use mintage_policy::{AgentStatus, Entry, RawEntry};
use mintage_state::{AgentRecord, View};

/// An entry and the record that wrote it.
#[derive(Debug)]
pub(super) struct StandingEntry {
    pub(super) entry: Entry,
    pub(super) revision: u64,
}

/// Why an agent's present life has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    Banned,
    Evicted,
}

#[derive(Debug)]
struct Agent {
    instance: AgentInstance,
    /// How and at which record its life ended.
    ended: Option<(End, u64)>,
    own: Own,
}

/// The certificates by which an agent may speak: the last that this life obtained, and those that count beside it, which are
/// the one that it showed when it asked for the last, and the one before the last.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Own {
    current: Option<Serial>,
    earlier: Vec<Serial>,
}

impl Own {
    fn of(agent: &AgentRecord) -> Self {
        Self {
            current: agent.current.as_ref().map(|current| current.serial),
            earlier: agent.earlier.iter().map(|earlier| earlier.serial).collect(),
        }
    }
}

impl Agent {
    /// The life that the record at `index` makes.
    fn begun(index: u64) -> Self {
        Self {
            instance: AgentInstance(index),
            ended: None,
            own: Own::default(),
        }
    }
}

#[derive(Debug)]
struct Token {
    agent: AgentName,
    used: bool,
}

/// Entries, tokens and agents.
#[derive(Debug, Default)]
pub(super) struct Standing {
    entries: HashMap<String, StandingEntry>,
    /// Entries that are gone, with the record that deleted them.
    deleted: HashMap<String, u64>,
    agents: HashMap<AgentName, Agent>,
    tokens: HashMap<[u8; 32], Token>,
}

fn hash(octets: &[u8]) -> Result<[u8; 32], String> {
    octets
        .try_into()
        .map_err(|_| "a token's hash has not 32 octets".to_owned())
}

fn end_of(status: AgentStatus) -> Option<End> {
    match status {
        AgentStatus::Active => None,
        AgentStatus::Banned => Some(End::Banned),
        AgentStatus::Evicted => Some(End::Evicted),
    }
}

fn agent_name(text: &str) -> Result<AgentName, String> {
    AgentName::parse(text).map_err(|error| error.to_string())
}

impl Standing {
    /// The entry of this name.
    ///
    /// # Errors
    /// Says whether it was deleted, and where.
    pub(super) fn entry(&self, name: &str) -> Result<&StandingEntry, String> {
        self.entries.get(name).ok_or_else(|| match self.deleted.get(name) {
            Some(index) => format!("entry {name} was deleted by record {index}"),
            None => format!("no record wrote an entry {name}"),
        })
    }

    /// Takes up what a snapshot holds.
    pub(super) fn take_up(&mut self, view: &View) {
        for standing in view.entries() {
            let entry = StandingEntry {
                entry: Entry::clone(&standing.entry),
                revision: standing.revision,
            };
            self.entries.insert(standing.entry.name().to_string(), entry);
        }
        for agent in view.agents() {
            let end = end_of(agent.status);
            let agent_at = Agent {
                instance: agent.instance,
                ended: end.map(|end| (end, view.applied())),
                own: Own::of(agent),
            };
            self.agents.insert(agent.name.clone(), agent_at);
        }
        for (id, token) in view.tokens() {
            let standing = Token {
                agent: token.agent.clone(),
                used: token.bound.is_some(),
            };
            self.tokens.insert(*id.as_bytes(), standing);
        }
    }

    /// That a snapshot says of entries, agents and tokens what the records say.
    ///
    /// # Errors
    /// The first that differs.
    pub(super) fn agrees(&self, view: &View) -> Result<(), String> {
        for standing in view.entries() {
            let name = standing.entry.name().to_string();
            let known = self.entries.get(&name);
            if known.is_none_or(|known| known.revision != standing.revision || known.entry != *standing.entry) {
                return Err(format!("the snapshot has another entry {name} than the records"));
            }
        }
        if view.entry_count() != self.entries.len() || view.agent_count() != self.agents.len() {
            return Err("the snapshot lacks an entry or an agent that the records make".into());
        }
        for agent in view.agents() {
            let known = self.agents.get(&agent.name);
            let same = |known: &Agent| {
                known.instance == agent.instance && known.ended.map(|(end, _)| end) == end_of(agent.status)
            };
            if !known.is_some_and(same) {
                return Err(format!(
                    "the snapshot has another life of agent {} than the records",
                    agent.name
                ));
            }
            // One that has ended speaks by none.
            if agent.status == AgentStatus::Active && known.is_some_and(|known| known.own != Own::of(agent)) {
                return Err(format!(
                    "the snapshot lets agent {} speak by other certificates than the records",
                    agent.name
                ));
            }
        }
        // Dead tokens are forgotten at some time, so the snapshot may lack some.
        for (id, token) in view.tokens() {
            let known = self.tokens.get(id.as_bytes());
            if known.is_none_or(|known| known.agent != token.agent || known.used != token.bound.is_some()) {
                return Err(format!("the snapshot has another token {id} than the records"));
            }
        }
        Ok(())
    }

    /// That this life of an agent may act.
    ///
    /// # Errors
    /// What ended it, and where.
    pub(super) fn acting(&self, name: &AgentName, instance: AgentInstance) -> Result<(), String> {
        let Some(agent) = self.agents.get(name) else {
            return Err(format!("no record attested an agent {name}"));
        };
        if agent.instance != instance {
            return Err(format!(
                "agent {name} acts as life {instance}, its present one is {}",
                agent.instance
            ));
        }
        match agent.ended {
            None => Ok(()),
            Some((End::Banned, index)) => Err(format!("agent {name} was banned by record {index}")),
            Some((End::Evicted, index)) => Err(format!("agent {name} was evicted by record {index}")),
        }
    }

    /// An agent obtained a certificate of its own, by the one it showed.
    pub(super) fn obtained(&mut self, name: &AgentName, serial: Serial, shown: Option<Serial>) {
        let Some(Agent { own, .. }) = self.agents.get_mut(name) else {
            return;
        };
        if let Some(former) = own.current.replace(serial) {
            own.earlier
                .retain(|earlier| Some(*earlier) == shown && *earlier != former);
            own.earlier.push(former);
        }
    }

    /// Takes in an entry. Returns the identity that it gives, where none of its name gave one before.
    pub(super) fn put_entry(
        &mut self,
        index: u64,
        put: &wire::EntryPut,
        domain: &TrustDomain,
    ) -> Result<Option<SpiffeId>, String> {
        let raw = RawEntry {
            name: put.name.clone(),
            spiffe_id: put.spiffe_id.clone(),
            agents: put.agents.clone(),
            selectors: put.selectors.clone(),
            ttl_seconds: i64::from(put.ttl_seconds),
            dns_names: put.dns_names.clone(),
            common_name: put.common_name.clone(),
            hint: put.hint.clone(),
            owner: put.owner.clone(),
            environment: put.environment.clone(),
            purpose: put.purpose.clone(),
            disabled: put.disabled,
            jwt_forbidden: put.jwt_forbidden,
            jwt_audiences: put.jwt_audiences.clone(),
            federates_with: put.federates_with.clone(),
        };
        let entry = raw
            .restore(domain)
            .map_err(|error| format!("entry {}: {error}", put.name))?;
        if entry.selectors().is_empty() {
            return Err(format!(
                "entry {} has no selector: it would match every process",
                put.name
            ));
        }
        let before = self.entries.get(&put.name);
        if before.map_or(0, |standing| standing.revision) != put.replaces_revision {
            return Ok(None);
        }
        let was_off = before.is_none_or(|standing| standing.entry.is_disabled());
        let enabled = (was_off && !entry.is_disabled()).then(|| entry.spiffe_id().clone());
        self.entries
            .insert(put.name.clone(), StandingEntry { entry, revision: index });
        Ok(enabled)
    }

    pub(super) fn delete_entry(&mut self, index: u64, delete: &wire::EntryDelete) {
        let standing = self.entries.get(&delete.name).map(|standing| standing.revision);
        if standing == Some(delete.revision) {
            self.entries.remove(&delete.name);
            self.deleted.insert(delete.name.clone(), index);
        }
    }

    pub(super) fn create_token(&mut self, token: &wire::TokenCreate) -> Result<(), String> {
        let agent = agent_name(&token.agent)?;
        self.tokens
            .entry(hash(&token.token_hash)?)
            .or_insert(Token { agent, used: false });
        Ok(())
    }

    pub(super) fn delete_token(&mut self, token: &wire::TokenDelete) {
        if let Ok(hash) = hash(&token.token_hash) {
            self.tokens.remove(&hash);
        }
    }

    /// The first use of a token makes an agent; a later one makes nothing.
    pub(super) fn consume_token(
        &mut self,
        index: u64,
        consume: &wire::TokenConsume,
        domain: &TrustDomain,
    ) -> Result<(), String> {
        let attest = consume.attest.as_ref().ok_or("a token was used for no agent")?;
        let name = own_name(attest, domain)?;
        let Some(token) = self.tokens.get_mut(&hash(&consume.token_hash)?) else {
            return Err(format!("agent {name} joined by a token that does not stand"));
        };
        if token.agent != name {
            return Err(format!("agent {name} joined by a token made for {}", token.agent));
        }
        if !token.used {
            token.used = true;
            self.agents.insert(name, Agent::begun(index));
        }
        Ok(())
    }

    pub(super) fn attest_agent(
        &mut self,
        index: u64,
        attest: &wire::AgentAttest,
        domain: &TrustDomain,
    ) -> Result<(), String> {
        let name = own_name(attest, domain)?;
        if attest.instance_of == 0 {
            self.agents.insert(name, Agent::begun(index));
            return Ok(());
        }
        self.acting(&name, AgentInstance(attest.instance_of))
    }

    /// A ban stands for ever; it may follow an eviction.
    pub(super) fn ban_agent(&mut self, index: u64, name: &str, instance: u64) -> Result<(), String> {
        if let Some(agent) = self.life(name, instance)?
            && !matches!(agent.ended, Some((End::Banned, _)))
        {
            agent.ended = Some((End::Banned, index));
        }
        Ok(())
    }

    pub(super) fn evict_agent(&mut self, index: u64, name: &str, instance: u64) -> Result<(), String> {
        if let Some(agent) = self.life(name, instance)? {
            agent.ended.get_or_insert((End::Evicted, index));
        }
        Ok(())
    }

    /// The agent, when this life is its present one.
    fn life(&mut self, name: &str, instance: u64) -> Result<Option<&mut Agent>, String> {
        let agent = self.agents.get_mut(&agent_name(name)?);
        Ok(agent.filter(|agent| agent.instance.0 == instance))
    }
}

/// The name an attestation is for; its identity must be the one that belongs to the name.
fn own_name(attest: &wire::AgentAttest, domain: &TrustDomain) -> Result<AgentName, String> {
    let name = agent_name(&attest.name)?;
    let id = SpiffeId::agent(domain, &name);
    match attest.spiffe_id == id.as_str() {
        true => Ok(name),
        false => Err(format!(
            "agent {name} was attested as {}, which is not its identity",
            attest.spiffe_id
        )),
    }
}
