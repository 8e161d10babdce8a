//! How each record changes the view. Deterministic: the same records in the same order give the same view everywhere,
//! without a clock, and of two records that exclude each other the first one wins.

use std::collections::BTreeSet;
use std::sync::Arc;

use mintage_identity::{AgentName, EntryName, IssuerKeyId, Reserved, SpiffeId, SpkiHash, TrustDomain, UnixTime};
use mintage_ledger::{Actor, Body, LeafFacts, Record, Stored, wire};
use mintage_policy::{AgentStatus, Entry};
use mintage_revocation::{IssuerCoverage, RuleTarget, SerialKind};

use crate::ahead::{Decoded, Wanted, concerns, entry_of, touched};
use crate::convert::revocation_of;
use crate::error::StateError;
use crate::key::Key;
use crate::limits::{CUT_BEFORE_NOW, REFUSALS_MAX, TOKEN_KEPT_AFTER_END, TOKENS_SWEPT_MAX};
use crate::model::{AgentCertificate, AgentRecord, BundleRecord, CaKeyRecord, StandingEntry, TokenId, TokenRecord};
use crate::stored::federated_of;
use crate::stored::{self, Fold};
use crate::view::{Ignored, View};

/// What a record changed in the store: the name of each object with its new value, or none when it is gone.
pub(crate) type Writes = Vec<(Key, Option<Vec<u8>>)>;

/// What a view touched since the first record, to be settled at the end of a rebuild.
#[derive(Debug, Default)]
pub(crate) struct Gathered {
    touched: BTreeSet<Key>,
    folds: Writes,
}

impl View {
    /// Applies the record at the place it has in the log.
    ///
    /// # Errors
    /// A record out of order, of a kind this program does not know, or a revocation that cannot be read: passing over
    /// it would leave something unrevoked.
    pub fn apply_stored(&mut self, stored: &Stored) -> Result<(), StateError> {
        self.follow(stored).map(drop)
    }

    /// As [`View::apply_stored`], for a record that was decoded.
    ///
    /// # Errors
    /// As [`View::apply_stored`].
    pub fn apply(&mut self, index: u64, record: &Record) -> Result<(), StateError> {
        self.step(index, record).map(drop)
    }

    /// Applies a stored record and says what to write. Certificates of workloads are the search index's business and
    /// are not even decoded.
    pub(crate) fn follow(&mut self, stored: &Stored) -> Result<Writes, StateError> {
        match concerns(stored) {
            false => self.pass(stored.index()),
            true => self.step(stored.index(), &stored.decode()?),
        }
    }

    /// Applies a record without saying what to write: what it touched is remembered, to be settled once at the end.
    pub(crate) fn gather(&mut self, decoded: &mut Decoded, gathered: &mut Gathered) -> Result<(), StateError> {
        let index = decoded.index;
        let Some(Wanted { record, touched, entry }) = &mut decoded.wanted else {
            return self.pass(index).map(drop);
        };
        self.expect(index)?;
        gathered.touched.extend(touched.drain(..));
        if matches!(record.body, Body::TokenCreate(_)) {
            gathered.touched.extend(self.dead_tokens(record.time).map(Key::Token));
        }
        let mut folds = Vec::new();
        if let Err(why) = self.change(index, record, entry.take(), &mut folds)? {
            self.note_ignored(index, why);
        }
        self.write_folds(index, record, folds, &mut gathered.folds);
        self.passed(index, record);
        Ok(())
    }

    /// Accounts for everything that was gathered from the first record on, and says what to write.
    pub(crate) fn settle(&mut self, gathered: Gathered) -> Writes {
        let mut writes = gathered.folds;
        for key in gathered.touched {
            // A view that began with nothing had nothing of it before.
            if let Some(value) = self.value_of(&key) {
                self.account(&key, None, Some(&value));
                writes.push((key, Some(value)));
            }
        }
        writes
    }

    fn write_folds(&mut self, index: u64, record: &Record, folds: Vec<Fold>, writes: &mut Writes) {
        for fold in folds {
            let (key, value) = (Key::Fold(index), stored::fold_bytes(record.time, &fold));
            self.account(&key, None, Some(&value));
            writes.push((key, Some(value)));
        }
    }

    fn passed(&mut self, index: u64, record: &Record) {
        self.applied = index + 1;
        if record.is_restricting() {
            self.control_head = index + 1;
        }
    }

    fn pass(&mut self, index: u64) -> Result<Writes, StateError> {
        self.expect(index)?;
        self.applied = index + 1;
        Ok(Writes::new())
    }

    fn expect(&self, index: u64) -> Result<(), StateError> {
        if index == self.applied {
            Ok(())
        } else {
            Err(StateError::OutOfOrder {
                expected: self.applied,
                found: index,
            })
        }
    }

    pub(crate) fn step(&mut self, index: u64, record: &Record) -> Result<Writes, StateError> {
        self.expect(index)?;
        let mut touched = touched(&record.body);
        if matches!(record.body, Body::TokenCreate(_)) {
            touched.extend(self.dead_tokens(record.time).map(Key::Token));
            // The new token may take the place of a dead one; each object is accounted for once.
            touched.sort();
            touched.dedup();
        }
        let before: Vec<Option<Vec<u8>>> = touched.iter().map(|key| self.value_of(key)).collect();
        let mut folds = Vec::new();
        let entry = entry_of(&record.body, &self.domain);
        if let Err(why) = self.change(index, record, entry, &mut folds)? {
            self.note_ignored(index, why);
        }
        let mut writes = Writes::new();
        for (key, before) in touched.into_iter().zip(before) {
            let after = self.value_of(&key);
            if before != after {
                self.account(&key, before.as_deref(), after.as_deref());
                writes.push((key, after));
            }
        }
        self.write_folds(index, record, folds, &mut writes);
        self.passed(index, record);
        Ok(writes)
    }

    /// Keeps the sum in step with a change of one object.
    fn account(&mut self, key: &Key, before: Option<&[u8]>, after: Option<&[u8]>) {
        let name = key.to_bytes();
        before.into_iter().for_each(|value| self.sum.remove(&name, value));
        after.into_iter().for_each(|value| self.sum.add(&name, value));
    }

    /// The stored form of an object. What was folded into the revoked set is written once and has no form here.
    pub(crate) fn value_of(&self, key: &Key) -> Option<Vec<u8>> {
        match key {
            Key::Entry(name) => self.entries.get(name).map(stored::entry_bytes),
            Key::Agent(name) => self.agents.get(name).map(stored::agent_bytes),
            Key::Token(id) => self.tokens.get(id).map(stored::token_bytes),
            Key::Ca(role, id) => self.ca_keys.get(&(*role, *id)).map(stored::ca_key_bytes),
            Key::Bundle => self.bundle.as_deref().map(stored::bundle_bytes),
            Key::Federated(domain) => self.federated.get(domain).map(|record| stored::federated_bytes(record)),
            Key::Fold(_) | Key::Base => None,
        }
    }

    fn note_ignored(&mut self, index: u64, why: Ignored) {
        tracing::warn!(index, why = why.code(), "a record changed nothing");
        let ignored = Arc::make_mut(&mut self.ignored);
        ignored.push_back((index, why));
        if ignored.len() > REFUSALS_MAX {
            ignored.pop_front();
        }
    }

    /// The change itself, with the entry that the record puts. The outer error stops the state, the inner one leaves it as
    /// it was.
    fn change(
        &mut self,
        index: u64,
        record: &Record,
        entry: Option<Arc<Entry>>,
        folds: &mut Vec<Fold>,
    ) -> Result<Result<(), Ignored>, StateError> {
        let time = record.time;
        Ok(match &record.body {
            Body::EntryPut(put) => self.entry_put((index, time), put, entry, folds),
            Body::EntryDelete(delete) => self.entry_delete(delete),
            Body::TokenCreate(create) => self.token_create(time, create),
            Body::TokenDelete(delete) => self.token_delete(delete),
            Body::TokenConsume(consume) => self.token_consume(index, time, consume),
            Body::AgentAttest(attest) => self.agent_attest(index, time, attest),
            Body::AgentBan(ban) => self.agent_end(&ban.name, ban.instance, AgentStatus::Banned, &ban.reason),
            Body::AgentEvict(evict) => self.agent_end(&evict.name, evict.instance, AgentStatus::Evicted, &evict.reason),
            Body::Issue(issue) => {
                self.agent_issue(index, &record.actor, issue);
                Ok(())
            }
            Body::CaEvent(event) => self.ca_event(index, event, folds),
            Body::BundleChange(change) => self.bundle_change(index, time, change),
            Body::BundleFederatedSet(set) => self.federated_set(index, time, set),
            Body::BundleFederatedRemove(gone) => self.federated_remove(gone),
            Body::Revoke(body) => {
                let revocation = revocation_of(body, time).map_err(|problem| StateError::Record {
                    index,
                    problem: problem.to_string(),
                })?;
                self.fold(index, Fold::Revoke(body.clone(), revocation), folds)
            }
            _ => Ok(()),
        })
    }

    fn entry_put(
        &mut self,
        (index, time): (u64, UnixTime),
        put: &wire::EntryPut,
        entry: Option<Arc<Entry>>,
        folds: &mut Vec<Fold>,
    ) -> Result<(), Ignored> {
        let unread = match &entry {
            Some(_) => None,
            None => Some(EntryName::parse(&put.name).map_err(|_| Ignored::Unreadable)?),
        };
        let name = entry.as_deref().map(Entry::name).or(unread.as_ref());
        let before = name.and_then(|name| self.entries.get(name));
        if before.map_or(0, |standing| standing.revision) != put.replaces_revision {
            return Err(Ignored::EntryMoved);
        }
        let was_off = before.is_none_or(|standing| standing.entry.is_disabled());
        let Some(entry) = entry else {
            // What it replaced was not meant to stand any longer.
            unread.iter().for_each(|name| self.entries.remove(name));
            return Err(Ignored::Unreadable);
        };
        let lifts = was_off && !entry.is_disabled() && self.floors.identity_blocked(entry.spiffe_id());
        if lifts {
            let cut = time.minus(CUT_BEFORE_NOW);
            self.fold(index, Fold::Lift(entry.spiffe_id().clone(), cut), folds)?;
        }
        self.entries.insert(StandingEntry {
            entry,
            revision: index,
            changed_at: time,
        });
        Ok(())
    }

    fn entry_delete(&mut self, delete: &wire::EntryDelete) -> Result<(), Ignored> {
        let name = EntryName::parse(&delete.name).map_err(|_| Ignored::Unreadable)?;
        match self.entries.get(&name) {
            Some(standing) if standing.revision == delete.revision => {
                self.entries.remove(&name);
                Ok(())
            }
            _ => Err(Ignored::EntryMoved),
        }
    }

    fn token_create(&mut self, time: UnixTime, create: &wire::TokenCreate) -> Result<(), Ignored> {
        let id = token_id(&create.token_hash)?;
        let agent = AgentName::parse(&create.agent).map_err(|_| Ignored::Unreadable)?;
        let dead: Vec<TokenId> = self.dead_tokens(time).collect();
        if self.tokens.contains_key(&id) && !dead.contains(&id) {
            return Err(Ignored::Token);
        }
        for id in dead {
            self.tokens.remove(&id);
        }
        let token = TokenRecord {
            agent,
            expires: UnixTime::from_millis(create.expires_ms),
            not_before: UnixTime::from_millis(create.not_before_ms),
            created_at: time,
            bound: None,
        };
        self.tokens.insert(id, token);
        Ok(())
    }

    /// Some tokens that ended long before `time`, the time of a record: so the sweep is the same everywhere.
    fn dead_tokens(&self, time: UnixTime) -> impl Iterator<Item = TokenId> {
        let dead = self
            .tokens
            .iter()
            .filter(move |(_, token)| token.expires.plus(TOKEN_KEPT_AFTER_END) < time);
        dead.take(TOKENS_SWEPT_MAX).map(|(id, _)| *id)
    }

    fn token_delete(&mut self, delete: &wire::TokenDelete) -> Result<(), Ignored> {
        let id = token_id(&delete.token_hash)?;
        self.tokens.remove(&id).map(drop).ok_or(Ignored::Token)
    }

    fn token_consume(&mut self, index: u64, time: UnixTime, consume: &wire::TokenConsume) -> Result<(), Ignored> {
        let id = token_id(&consume.token_hash)?;
        let attest = consume.attest.as_ref().ok_or(Ignored::Unreadable)?;
        let agent = new_agent(index, time, attest, self)?;
        let token = self.tokens.get_mut(&id).ok_or(Ignored::Token)?;
        if token.bound.is_some() {
            return Err(Ignored::TokenUsed);
        }
        if token.agent != agent.name {
            return Err(Ignored::Agent);
        }
        token.bound = Some((agent.spki, agent.instance));
        self.agents.insert(agent.name.clone(), agent);
        Ok(())
    }

    fn agent_attest(&mut self, index: u64, time: UnixTime, attest: &wire::AgentAttest) -> Result<(), Ignored> {
        if attest.instance_of == 0 {
            let agent = new_agent(index, time, attest, self)?;
            self.agents.insert(agent.name.clone(), agent);
            return Ok(());
        }
        let name = AgentName::parse(&attest.name).map_err(|_| Ignored::Unreadable)?;
        let spki = SpkiHash::from_slice(&attest.spki_sha256).map_err(|_| Ignored::Unreadable)?;
        let agent = self.agents.get_mut(&name).ok_or(Ignored::Agent)?;
        if agent.instance.0 != attest.instance_of || agent.status != AgentStatus::Active {
            return Err(Ignored::Agent);
        }
        agent.spki = spki;
        agent.kind.clone_from(&attest.kind);
        agent.attested_at = time;
        Ok(())
    }

    fn agent_end(&mut self, name: &str, instance: u64, status: AgentStatus, reason: &str) -> Result<(), Ignored> {
        let name = AgentName::parse(name).map_err(|_| Ignored::Unreadable)?;
        let agent = self.agents.get_mut(&name).ok_or(Ignored::Agent)?;
        // A ban is never softened to an eviction, and a former instance has ended anyway.
        if agent.instance.0 != instance || agent.status == AgentStatus::Banned {
            return Err(Ignored::Agent);
        }
        agent.status = status;
        reason.clone_into(&mut agent.reason);
        Ok(())
    }

    /// Remembers an agent's own new certificate. It changes nothing when it is of another instance.
    fn agent_issue(&mut self, index: u64, actor: &Actor, issue: &wire::Issue) {
        let Ok(id) = SpiffeId::parse(&issue.spiffe_id) else {
            return;
        };
        let (Some(Reserved::Agent(name)), Some(facts)) = (id.reserved(), LeafFacts::read(&issue.certificate_der))
        else {
            return;
        };
        let Ok(issuer) = IssuerKeyId::from_slice(&issue.issuer_key_id) else {
            return;
        };
        let Some(agent) = self.agents.get_mut(&name).filter(|agent| agent.id == id) else {
            return;
        };
        let mut shown = None;
        if let Actor::Agent { instance, serial, .. } = actor {
            if *instance != agent.instance {
                return;
            }
            shown = *serial;
        }
        let certificate = AgentCertificate {
            serial: facts.serial,
            issuer,
            spki: facts.spki_sha256,
            not_before: facts.not_before,
            not_after: facts.not_after,
            index,
        };
        if let Some(former) = agent.current.replace(certificate) {
            agent
                .earlier
                .retain(|earlier| Some(earlier.serial) == shown && earlier.serial != former.serial);
            agent.earlier.push(former);
        }
    }

    fn ca_event(&mut self, index: u64, event: &wire::CaEvent, folds: &mut Vec<Fold>) -> Result<(), Ignored> {
        let role = wire::CaRole::try_from(event.role).map_err(|_| Ignored::Unreadable)?;
        let stage = wire::CaEventKind::try_from(event.event).map_err(|_| Ignored::Unreadable)?;
        let key_id = IssuerKeyId::from_slice(&event.key_id).map_err(|_| Ignored::Unreadable)?;
        let before = self.ca_keys.get(&(event.role, key_id));
        // The numbers of the stages are in the order in which a key goes through them.
        if before.is_some_and(|key| key.stage as i32 > event.event) {
            return Err(Ignored::CaStage);
        }
        let keep = |new: &Vec<u8>, old: fn(&CaKeyRecord) -> &Vec<u8>| match before {
            Some(key) if new.is_empty() => old(key).clone(),
            _ => new.clone(),
        };
        let given_end = Some(event.not_after_s)
            .filter(|seconds| *seconds != 0)
            .map(UnixTime::from_seconds);
        let key = CaKeyRecord {
            role,
            key_id,
            stage,
            certificate_der: keep(&event.certificate_der, |key| &key.certificate_der),
            public_key: keep(&event.public_key, |key| &key.public_key),
            statement: keep(&event.statement, |key| &key.statement),
            not_after: given_end.or_else(|| before.and_then(|key| key.not_after)),
            changed: index,
        };
        let signs = matches!(
            role,
            wire::CaRole::Root | wire::CaRole::Intermediate | wire::CaRole::Replica
        );
        if signs && before.is_none_or(|before| before.not_after != key.not_after) {
            let coverage = IssuerCoverage {
                id: key_id,
                serials: SerialKind::Native,
                until: key.not_after,
            };
            self.fold(index, Fold::Cover(coverage), folds)?;
        }
        self.ca_keys.insert((event.role, key_id), key);
        Ok(())
    }

    fn bundle_change(&mut self, index: u64, time: UnixTime, change: &wire::BundleChange) -> Result<(), Ignored> {
        if self
            .bundle
            .as_ref()
            .is_some_and(|bundle| bundle.sequence >= change.sequence)
        {
            return Err(Ignored::BundleOlder);
        }
        let jwt_keys = change
            .jwt_keys
            .iter()
            .map(|key| (key.kid.clone(), key.spki_der.clone()));
        self.bundle = Some(Arc::new(BundleRecord {
            sequence: change.sequence,
            roots_der: change.roots_der.clone(),
            jwt_keys: jwt_keys.collect(),
            index,
            changed_at: time,
        }));
        Ok(())
    }

    fn federated_set(&mut self, index: u64, time: UnixTime, set: &wire::BundleFederatedSet) -> Result<(), Ignored> {
        let record = federated_of(set, index, time).map_err(|_| Ignored::Unreadable)?;
        if self
            .federated
            .get(&record.domain)
            .map_or(0, |standing| standing.revision)
            != set.replaces_revision
        {
            return Err(Ignored::FederatedMoved);
        }
        self.federated.insert(record.domain.clone(), Arc::new(record));
        Ok(())
    }

    fn federated_remove(&mut self, gone: &wire::BundleFederatedRemove) -> Result<(), Ignored> {
        let domain = TrustDomain::parse(&gone.trust_domain).map_err(|_| Ignored::Unreadable)?;
        match self.federated.get(&domain) {
            Some(standing) if standing.revision == gone.revision => {
                self.federated.remove(&domain);
                Ok(())
            }
            _ => Err(Ignored::FederatedMoved),
        }
    }

    /// Folds a change into the revoked set and into the floors that follow from it.
    fn fold(&mut self, index: u64, fold: Fold, folds: &mut Vec<Fold>) -> Result<(), Ignored> {
        self.refold(index, &fold)?;
        folds.push(fold);
        Ok(())
    }

    /// The part of a fold that is also done when the store is read.
    pub(crate) fn refold(&mut self, index: u64, fold: &Fold) -> Result<(), Ignored> {
        let done = match fold {
            Fold::Revoke(_, revocation) => {
                let refused = self.revoked.apply_revocation(index, revocation).is_err();
                // What was dead when it was recorded takes no room from it, however long ago somebody looked.
                if refused {
                    self.prune(revocation.at);
                }
                match refused {
                    true => self.revoked.apply_revocation(index, revocation),
                    false => Ok(()),
                }
            }
            Fold::Cover(coverage) => self.revoked.cover_issuer(index, coverage),
            Fold::Lift(id, cut) => self.revoked.lift(index, &[RuleTarget::Identity(id.clone())], *cut),
        };
        // The order is checked before, so only a limit can be the reason.
        done.map_err(|error| {
            tracing::error!(index, %error, "a change of the revoked set was refused");
            Ignored::RevocationLimit
        })?;
        match fold {
            Fold::Revoke(_, revocation) => {
                for rule in &revocation.rules {
                    self.floors.add(rule);
                    self.marks.add(index, (revocation.at, revocation.reason), rule);
                }
            }
            Fold::Cover(_) => {}
            Fold::Lift(id, cut) => {
                self.floors.lift(id, *cut);
                self.marks.lift(id, *cut);
            }
        }
        Ok(())
    }
}

pub(crate) fn token_id(hash: &[u8]) -> Result<TokenId, Ignored> {
    hash.try_into().map(TokenId::new).map_err(|_| Ignored::Unreadable)
}

/// A new life of an agent's name, made by the record at `index`.
fn new_agent(index: u64, time: UnixTime, attest: &wire::AgentAttest, view: &View) -> Result<AgentRecord, Ignored> {
    let name = AgentName::parse(&attest.name).map_err(|_| Ignored::Unreadable)?;
    let id = SpiffeId::agent(&view.domain, &name);
    if attest.spiffe_id != id.as_str() {
        return Err(Ignored::Unreadable);
    }
    Ok(AgentRecord {
        name,
        id,
        instance: mintage_identity::AgentInstance(index),
        status: AgentStatus::Active,
        reason: String::new(),
        kind: attest.kind.clone(),
        spki: SpkiHash::from_slice(&attest.spki_sha256).map_err(|_| Ignored::Unreadable)?,
        joined_at: time,
        attested_at: time,
        current: None,
        earlier: Vec::new(),
    })
}
