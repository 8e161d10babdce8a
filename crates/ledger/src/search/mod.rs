//! The search index: who got what, when, through whom.
//!
//! Records since the last sealed segment are in memory, in columns of small numbers, about 90 bytes for a record and about
//! as much again while its certificate is live, for the questions that every issuance asks. Sealed segments are searched
//! in place, in their files. At a start only the records behind the last sealed segment are read again.

mod chunk;
mod hot;
mod names;
mod query;
mod sealed;
mod wanted;

use std::{
    fmt,
    sync::{Arc, PoisonError, RwLock, RwLockReadGuard},
    time::Duration,
};

use mintage_identity::{IssuerKeyId, RequestId, Serial, UnixTime};
use tokio::sync::watch;

use crate::{
    LedgerError,
    facts::{agent_of, request_tag},
    follow::Sink,
    journal::{Journal, Stored},
    kind::Kind,
    leaf_der::LeafFacts,
    seg::{
        index::SealedIndex,
        seal::{Sealed, Segments},
    },
};

use chunk::Chunk;
use hot::{Hot, Of, serial_tag};
use wanted::{Rows, Wanted};

pub use query::{Cursor, Hit, LiveCertificate, LiveQuery, LiveSerial, Page, Query};

/// The index, shared by its writer (a sink) and any number of readers.
pub struct Search {
    index: RwLock<Index>,
    segments: Arc<Segments>,
    applied: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct Index {
    sealed: Arc<Vec<Arc<SealedIndex>>>,
    /// Records behind the sealed ones.
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
            segments: Arc::default(),
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
    /// An empty index, all of it in memory.
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    /// An index that begins with what is sealed, and lets go of what it holds in memory as more is sealed. A sealed index that
    /// is found damaged, now or by a later question, is made again from the records.
    ///
    /// # Errors
    /// Fails when a sealed index can be neither read nor made again.
    pub fn over(segments: Arc<Segments>) -> Result<Arc<Self>, LedgerError> {
        let mut index = Index::default();
        index.adopt(segments.list());
        index.hot.load(&segments, &index.sealed)?;
        Ok(Arc::new(Self {
            applied: watch::Sender::new(index.size),
            index: RwLock::new(index),
            segments,
        }))
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
        let wanted = Wanted {
            serial: Some(serial),
            issuer,
            ..Wanted::anything()
        };
        for index in self.places(&wanted)? {
            if let Some(issued) = issued(journal, index)?
                && issued.facts.serial == *serial
            {
                return Ok(Some(issued));
            }
        }
        Ok(None)
    }

    /// True when a certificate with this serial, of whatever issuer, is live at `now`. Answered from memory, at once
    /// in the usual case that there is none; true as well when the index cannot be read.
    pub fn is_live(&self, serial: &Serial, now: UnixTime) -> bool {
        if !self.read().hot.may_be_live(Of::Serial, serial_tag(serial), now) {
            return false;
        }
        let wanted = Wanted {
            serial: Some(serial),
            live_at: Some(now.seconds()),
            ..Wanted::anything()
        };
        self.places(&wanted).map_or_else(
            |error| {
                tracing::error!(%error, "a serial is taken for used because the index cannot be read");
                true
            },
            |places| !places.is_empty(),
        )
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
        let Some(tag) = request_tag(agent, id.as_bytes()) else {
            return Ok(None);
        };
        if !self.read().hot.may_be_live(Of::Request, tag, now) {
            return Ok(None);
        }
        let wanted = Wanted {
            request: Some(tag),
            agent: Some(agent),
            live_at: Some(now.seconds()),
            ..Wanted::anything()
        };
        for index in self.places(&wanted)? {
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

    fn caught_up(&mut self) -> Result<Option<Duration>, LedgerError> {
        let sealed = self.search.segments.list();
        // Looked at without the lock that writing takes: mostly there is nothing new.
        if !Arc::ptr_eq(&self.search.read().sealed, &sealed.indexes) {
            let mut index = self.search.index.write().unwrap_or_else(PoisonError::into_inner);
            index.adopt(sealed);
        }
        Ok(None)
    }
}

impl Index {
    /// Lets go of the chunks that are sealed, and of what was given up.
    fn adopt(&mut self, sealed: Sealed) {
        let end = sealed.end();
        self.chunks.retain(|chunk| chunk.first() >= end);
        self.size = self.size.max(end);
        self.sealed = sealed.indexes;
    }

    fn push(&mut self, stored: &Stored) {
        // Chunks end where segments do: a shard begins a new one.
        let begins = stored.kind() == Some(Kind::LogOpen);
        if begins || self.chunks.last().is_none_or(Chunk::is_full) {
            self.chunks.push(Chunk::new(self.size));
        }
        if let Some(chunk) = self.chunks.last_mut() {
            let pushed = chunk.push(&stored.facts(), self.size);
            self.hot.add(&pushed);
        }
        self.size += 1;
    }
}

/// An agent's name from its name or its SPIFFE ID.
fn agent_name(text: &str) -> &str {
    match agent_of(text) {
        "" => text,
        name => name,
    }
}
