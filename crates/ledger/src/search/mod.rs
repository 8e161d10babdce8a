//! The search index: who got what, when, through whom, from memory, rebuilt from the log at each start.
//!
//! It holds columns of small numbers, about 90 bytes for a record, in chunks of 65,536 records. A chunk that is full
//! never changes again; its columns are sorted once, so that any value is found by a binary search. While a certificate
//! is live it costs about as much again, for the questions that every issuance asks.

mod chunk;
mod hot;
mod names;
mod query;

use std::{
    fmt,
    sync::{Arc, PoisonError, RwLock, RwLockReadGuard},
};

use mintage_identity::{IssuerKeyId, RequestId, Serial, UnixTime};
use tokio::sync::watch;

use crate::{
    LedgerError,
    facts::{Facts, agent_of},
    follow::Sink,
    journal::{Journal, Stored},
    leaf_der::LeafFacts,
    limits::SEGMENT_RECORDS,
};

use chunk::{Chunk, Row, serial_tag};
use hot::{Hot, Of};
use names::Names;

pub use query::{Cursor, Hit, LiveCertificate, LiveQuery, Page, Query};

/// The index, shared by its writer (a sink) and any number of readers.
pub struct Search {
    index: RwLock<Index>,
    applied: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct Index {
    names: Names,
    chunks: Vec<Chunk>,
    hot: Hot,
    size: u64,
}

impl fmt::Debug for Search {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Search({} records)", self.applied())
    }
}

impl Default for Search {
    fn default() -> Self {
        Self {
            index: RwLock::default(),
            applied: watch::Sender::new(0),
        }
    }
}

/// A certificate as the log knows it.
#[derive(Clone, Debug)]
pub struct Issued {
    /// Its record.
    pub stored: Stored,
    /// What it says about itself.
    pub facts: LeafFacts,
}

impl Search {
    /// An empty index.
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    /// The sink that fills this index; there must be one only.
    pub fn sink(self: &Arc<Self>) -> Box<dyn Sink> {
        Box::new(SearchSink {
            search: Arc::clone(self),
        })
    }

    /// Records that are indexed.
    pub fn applied(&self) -> u64 {
        *self.applied.borrow()
    }

    /// Follows the number of records that are indexed: to ask about record `i`, wait until it is above `i`.
    pub fn watch(&self) -> watch::Receiver<u64> {
        self.applied.subscribe()
    }

    fn read(&self) -> RwLockReadGuard<'_, Index> {
        // The writer leaves whole records behind, panic or not.
        self.index.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// The certificate with this serial, and of this issuer where one is given; the newest when an issuer's serials
    /// were ever repeated.
    ///
    /// # Errors
    /// Fails when a record cannot be read.
    pub fn certificate(
        &self,
        journal: &dyn Journal,
        serial: &Serial,
        issuer: Option<&IssuerKeyId>,
    ) -> Result<Option<Issued>, LedgerError> {
        let candidates = self.read().by_serial(serial, issuer);
        for index in candidates {
            if let Some(issued) = issued(journal, index)?
                && issued.facts.serial == *serial
            {
                return Ok(Some(issued));
            }
        }
        Ok(None)
    }

    /// True when a certificate with this serial, of whatever issuer, is live at `now`. Answered from memory, at once
    /// in the usual case that there is none.
    pub fn is_live(&self, serial: &Serial, now: UnixTime) -> bool {
        let index = self.read();
        index.hot.may_be_live(Of::Serial, serial_tag(serial), now) && index.serial_is_live(serial, now)
    }

    /// The record that answered request `id` of the agent `agent` (its name or its SPIFFE ID) and whose certificate is
    /// live at `now`, if there is one: a lost reply asked for again is answered from it, after the caller has compared
    /// the key.
    ///
    /// # Errors
    /// Fails when a record cannot be read.
    pub fn answered(
        &self,
        journal: &dyn Journal,
        agent: &str,
        id: &RequestId,
        now: UnixTime,
    ) -> Result<Option<Issued>, LedgerError> {
        let agent = agent_name(agent);
        let candidates = self.read().by_request(agent, id, now);
        for index in candidates {
            if let Some(issued) = issued(journal, index)?
                && issued.stored.facts().request_id == id.as_bytes()
                && issued.stored.facts().agent == agent
            {
                return Ok(Some(issued));
            }
        }
        Ok(None)
    }
}

fn issued(journal: &dyn Journal, index: u64) -> Result<Option<Issued>, LedgerError> {
    let Some(stored) = journal.read_from(index, 1)?.pop() else {
        return Ok(None);
    };
    let facts = LeafFacts::read(stored.facts().certificate);
    Ok(facts.map(|facts| Issued { stored, facts }))
}

struct SearchSink {
    search: Arc<Search>,
}

impl Sink for SearchSink {
    fn name(&self) -> &'static str {
        "search"
    }

    fn next(&self) -> u64 {
        self.search.applied()
    }

    fn apply(&mut self, first: u64, records: &[Stored]) -> Result<(), LedgerError> {
        let mut index = self.search.index.write().unwrap_or_else(PoisonError::into_inner);
        if first != index.size {
            return Err(LedgerError::Beyond {
                what: "record",
                asked: first,
                have: index.size,
            });
        }
        records.iter().for_each(|record| index.push(record));
        let size = index.size;
        drop(index);
        self.search.applied.send_replace(size);
        Ok(())
    }
}

impl Index {
    fn push(&mut self, stored: &Stored) {
        let facts = stored.facts();
        let row = self.row(&facts, stored.index());
        self.hot.add(&row);
        if self.chunks.last().is_none_or(|chunk| chunk.len() == SEGMENT_RECORDS) {
            self.chunks.push(Chunk::new(self.size));
        }
        if let Some(chunk) = self.chunks.last_mut() {
            chunk.push(&row);
        }
        self.size += 1;
    }

    fn row(&mut self, facts: &Facts<'_>, index: u64) -> Row {
        let leaf = (!facts.certificate.is_empty())
            .then(|| LeafFacts::read(facts.certificate))
            .flatten();
        let agent = self.names.intern(facts.agent);
        Row {
            kind: facts.kind.map_or(0, |kind| kind as u8),
            time_ms: facts.time_ms,
            identity: self.names.intern(facts.spiffe_id),
            agent,
            // A record that makes an instance is the instance.
            instance: match facts.instance {
                0 if makes_instance(facts) => index,
                instance => instance,
            },
            entry: self.names.intern(facts.entry),
            issuer: self.names.intern_issuer(facts.issuer_key_id),
            leaf,
            request: request_tag(agent, facts.request_id),
        }
    }
}

fn makes_instance(facts: &Facts<'_>) -> bool {
    matches!(facts.kind, Some(crate::Kind::TokenConsume | crate::Kind::AgentAttest))
}

/// An agent's name from its name or its SPIFFE ID.
fn agent_name(text: &str) -> &str {
    match agent_of(text) {
        "" => text,
        name => name,
    }
}

/// A tag that two different requests of two different agents share once in 2^32; the record itself decides.
fn request_tag(agent: u32, id: &[u8]) -> u32 {
    if id.is_empty() {
        return 0;
    }
    // Request ids are chosen by agents, so they are mixed rather than trusted to be random (FNV-1a).
    let mix = |hash: u32, byte: &u8| (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193);
    let hash = agent.to_le_bytes().iter().fold(0x811c_9dc5, mix);
    id.iter().fold(hash, mix).max(1)
}
