//! Questions to the index, a page at a time.

use std::sync::Arc;

use mintage_identity::{AgentInstance, IdPrefix, IssuerKeyId, Serial, SpiffeId, SpkiHash, UnixTime};

use super::{
    Search, agent_name,
    hot::{Of, key_tag},
    wanted::{Rows, Wanted},
};
use crate::{
    LedgerError,
    journal::Stored,
    kind::Kind,
    limits::{PAGE_ROWS_MAX, PAGE_SCAN_MAX},
};

/// What is looked for; every condition that is set must hold.
#[derive(Clone, Debug, Default)]
pub struct Query {
    /// About this identity, or a revocation of a prefix that it lies below.
    pub spiffe_id: Option<SpiffeId>,
    /// About an identity below this prefix, or a revocation of a prefix that shares identities with it.
    pub id_prefix: Option<IdPrefix>,
    /// By or about the agent of this name, or SPIFFE ID.
    pub agent: Option<String>,
    /// About the entry of this name.
    pub entry: Option<String>,
    /// The certificate with this serial, and the revocations that name it.
    pub serial: Option<Serial>,
    /// One of these kinds; empty: any.
    pub kinds: Vec<Kind>,
    /// Not before this time.
    pub since: Option<UnixTime>,
    /// Not after this time.
    pub until: Option<UnixTime>,
    /// Oldest first instead of newest first.
    pub oldest_first: bool,
}

/// Which certificates are looked for; every condition that is set must hold.
#[derive(Clone, Debug, Default)]
pub struct LiveQuery {
    /// Of this identity.
    pub spiffe_id: Option<SpiffeId>,
    /// Of an identity below this prefix.
    pub id_prefix: Option<IdPrefix>,
    /// Obtained by the agent of this name, or SPIFFE ID; its own certificates count too.
    pub agent: Option<String>,
    /// Obtained by this instance of it.
    pub instance: Option<AgentInstance>,
    /// Through the entry of this name.
    pub entry: Option<String>,
    /// Over this public key.
    pub spki_sha256: Option<SpkiHash>,
    /// Signed by this key.
    pub issuer: Option<IssuerKeyId>,
}

/// Where the next page begins. Made by a page; a number, so that it can travel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cursor(pub u64);

/// One page of an answer.
#[derive(Clone, Debug)]
pub struct Page<T> {
    /// The rows, in the order asked for.
    pub rows: Vec<T>,
    /// Where the next page begins, when there may be more. A page may be empty and still have a next one, because each
    /// looks at a limited number of records.
    pub next: Option<Cursor>,
}

/// A record that was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hit {
    /// Its place in the log.
    pub index: u64,
    /// Its kind; `None` for one this program does not know.
    pub kind: Option<Kind>,
    /// When it was made.
    pub time: UnixTime,
    /// The identity it is about; of a revocation perhaps a prefix, which ends in `/*`.
    pub spiffe_id: Option<Arc<str>>,
    /// The name of the agent it is by or about.
    pub agent: Option<Arc<str>>,
    /// The entry it is about.
    pub entry: Option<Arc<str>>,
    /// The serial of its certificate.
    pub serial: Option<Serial>,
    /// The end of its certificate's validity.
    pub not_after: Option<UnixTime>,
}

/// What names a certificate whose validity has not ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LiveSerial {
    /// The key that signed it.
    pub issuer: IssuerKeyId,
    /// Its serial.
    pub serial: Serial,
    /// End of its validity.
    pub not_after: UnixTime,
}

impl LiveSerial {
    /// What names the certificate of a record, as the index would have it; `None` for a record without one. Whether it has
    /// ended is not looked at.
    pub fn of(stored: &Stored) -> Option<Self> {
        let facts = stored.facts();
        let leaf = facts.leaf()?;
        Some(Self {
            issuer: IssuerKeyId::from_slice(facts.issuer_key_id).ok()?,
            serial: leaf.serial,
            not_after: leaf.not_after,
        })
    }
}

/// A certificate whose validity has not ended. Whether it is revoked is not known here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LiveCertificate {
    /// Place of its record in the log.
    pub index: u64,
    /// The key that signed it.
    pub issuer: IssuerKeyId,
    /// Its serial.
    pub serial: Serial,
    /// Start of its validity.
    pub not_before: UnixTime,
    /// End of its validity.
    pub not_after: UnixTime,
    /// Its identity.
    pub spiffe_id: Arc<str>,
    /// Name of the agent that obtained it.
    pub agent: Option<Arc<str>>,
    /// Instance of that agent.
    pub instance: AgentInstance,
    /// The entry it was obtained through.
    pub entry: Option<Arc<str>>,
}

impl Search {
    /// A page of records. `limit` is at most 1000.
    ///
    /// # Errors
    /// Fails when a sealed index can be neither read nor made again.
    pub fn query(&self, query: &Query, from: Option<Cursor>, limit: usize) -> Result<Page<Hit>, LedgerError> {
        let page = Collect::new(from, limit, query.oldest_first);
        self.collect(&query.wanted(), page, |rows, places| rows.hits(places))
    }

    /// A page of the certificates whose validity ends at `now` or later, newest first. `limit` is at most 1000.
    ///
    /// # Errors
    /// Fails when a sealed index can be neither read nor made again.
    pub fn live(
        &self,
        query: &LiveQuery,
        now: UnixTime,
        from: Option<Cursor>,
        limit: usize,
    ) -> Result<Page<LiveCertificate>, LedgerError> {
        if let Some(key) = &query.spki_sha256
            && !self.read().hot.may_be_live(Of::Key, key_tag(key.as_bytes()), now)
        {
            return Ok(Page {
                rows: Vec::new(),
                next: None,
            });
        }
        let page = Collect::new(from, limit, false);
        self.collect(&query.wanted(now), page, |rows, places| rows.certificates(places))
    }

    /// All certificates of [`Search::live`].
    ///
    /// # Errors
    /// As [`Search::live`].
    pub fn live_all(&self, query: &LiveQuery, now: UnixTime) -> Result<Vec<LiveCertificate>, LedgerError> {
        let parts = self.walk(&query.wanted(now), |rows, places| rows.certificates(places))?;
        Ok(parts.into_iter().flatten().collect())
    }

    /// How many certificates [`Search::live_all`] has.
    ///
    /// # Errors
    /// As [`Search::live`].
    pub fn live_count(&self, query: &LiveQuery, now: UnixTime) -> Result<u64, LedgerError> {
        let parts = self.walk(&query.wanted(now), |_, places| Ok(places.len() as u64))?;
        Ok(parts.iter().sum())
    }

    /// Of every certificate that lives at `now` what names it in a filter: some tens of nanoseconds for each.
    ///
    /// # Errors
    /// As [`Search::live`].
    pub fn live_serials(&self, now: UnixTime) -> Result<impl Iterator<Item = LiveSerial>, LedgerError> {
        let parts = self.walk(&LiveQuery::default().wanted(now), |rows, places| rows.serials(places))?;
        Ok(parts.into_iter().flatten())
    }

    /// The places of all records that match, newest first.
    pub(super) fn places(&self, wanted: &Wanted<'_>) -> Result<Vec<u64>, LedgerError> {
        let place = |rows: &dyn Rows, at: &u16| rows.first() + u64::from(*at);
        let parts = self.walk(wanted, |rows, places| {
            Ok(places.iter().map(|at| place(rows, at)).collect::<Vec<_>>())
        })?;
        Ok(parts.into_iter().flatten().collect())
    }

    /// What `take` makes of the places that match in each part of the index, newest first. Each part is gone through once. One in
    /// memory is read under the lock, which is given back between two of them; sealed ones are read without it.
    fn walk<T>(
        &self,
        wanted: &Wanted<'_>,
        take: impl Fn(&dyn Rows, &[u16]) -> Result<T, LedgerError>,
    ) -> Result<Vec<T>, LedgerError> {
        let of_part = |part: &dyn Rows| {
            if !wanted.may_be_in(&part.span()) {
                return Ok(None);
            }
            let (mut places, _) = part.select(wanted)?;
            places.reverse();
            (!places.is_empty()).then(|| take(part, &places)).transpose()
        };
        let (mut all, mut before) = (Vec::new(), u64::MAX);
        let sealed = loop {
            let index = self.read();
            let mut older = index.chunks.iter().rev();
            let Some(chunk) = older.find(|chunk| chunk.first() < before) else {
                // Whatever was sealed since the walk began is among these: parts end where they did in memory.
                break Arc::clone(&index.sealed);
            };
            all.extend(of_part(chunk)?);
            before = chunk.first();
        };
        for part in sealed.iter().rev().filter(|part| part.first() < before) {
            all.extend(self.segments.ask(part, |part| of_part(part))?);
        }
        Ok(all)
    }

    /// Walks the parts of the index in the page's order. Those in memory are read under the lock, sealed ones without it.
    fn collect<T>(
        &self,
        wanted: &Wanted<'_>,
        mut page: Collect<T>,
        read: impl Fn(&dyn Rows, &[u16]) -> Result<Vec<T>, LedgerError>,
    ) -> Result<Page<T>, LedgerError> {
        if !page.oldest_first {
            let sealed = {
                let index = self.read();
                for chunk in index.chunks.iter().rev() {
                    if page.part(chunk, wanted, &read)? {
                        return Ok(page.done());
                    }
                }
                Arc::clone(&index.sealed)
            };
            for part in sealed.iter().rev() {
                if self.segments.ask(part, |part| page.part(part, wanted, &read))? {
                    break;
                }
            }
            return Ok(page.done());
        }
        let mut end = 0;
        loop {
            let sealed = Arc::clone(&self.read().sealed);
            for part in sealed.iter().filter(|part| part.first() >= end) {
                if self.segments.ask(part, |part| page.part(part, wanted, &read))? {
                    return Ok(page.done());
                }
            }
            end = sealed.last().map_or(0, |last| last.end());
            let index = self.read();
            // What was sealed in the meantime comes first.
            if index.sealed.last().is_some_and(|last| last.end() > end) {
                continue;
            }
            for chunk in &index.chunks {
                if page.part(chunk, wanted, &read)? {
                    break;
                }
            }
            return Ok(page.done());
        }
    }
}

/// A page while it is filled.
struct Collect<T> {
    rows: Vec<T>,
    next: Option<Cursor>,
    from: Option<Cursor>,
    limit: usize,
    looked: usize,
    oldest_first: bool,
}

impl<T> Collect<T> {
    fn new(from: Option<Cursor>, limit: usize, oldest_first: bool) -> Self {
        Self {
            rows: Vec::new(),
            next: None,
            from,
            limit: limit.clamp(1, PAGE_ROWS_MAX),
            looked: 0,
            oldest_first,
        }
    }

    fn done(self) -> Page<T> {
        Page {
            rows: self.rows,
            next: self.next,
        }
    }

    /// Newest first the cursor is the first index not to look at any more, else the first to look at.
    fn is_ahead(&self, index: u64) -> bool {
        match (self.from, self.oldest_first) {
            (None, _) => true,
            (Some(Cursor(from)), true) => index >= from,
            (Some(Cursor(from)), false) => index < from,
        }
    }

    /// Takes what matches of one part; true when the page is full. Of a part that fails nothing is taken.
    fn part(
        &mut self,
        part: &dyn Rows,
        wanted: &Wanted<'_>,
        read: &impl Fn(&dyn Rows, &[u16]) -> Result<Vec<T>, LedgerError>,
    ) -> Result<bool, LedgerError> {
        let (rows, looked) = (self.rows.len(), self.looked);
        let taken = self.take(part, wanted, read);
        if taken.is_err() {
            self.rows.truncate(rows);
            self.looked = looked;
        }
        taken
    }

    fn take(
        &mut self,
        part: &dyn Rows,
        wanted: &Wanted<'_>,
        read: &impl Fn(&dyn Rows, &[u16]) -> Result<Vec<T>, LedgerError>,
    ) -> Result<bool, LedgerError> {
        let (first, count) = (part.first(), part.count() as u64);
        let ahead = count > 0 && (self.is_ahead(first) || self.is_ahead(first + count - 1));
        if !ahead || !wanted.may_be_in(&part.span()) {
            return Ok(false);
        }
        if self.looked >= PAGE_SCAN_MAX {
            self.next = Some(Cursor(if self.oldest_first { first } else { first + count }));
            return Ok(true);
        }
        let (mut places, looked) = part.select(wanted)?;
        self.looked += looked;
        if !self.oldest_first {
            places.reverse();
        }
        places.retain(|at| self.is_ahead(first + u64::from(*at)));
        let room = self.limit - self.rows.len();
        let behind = places.get(room).map(|at| first + u64::from(*at));
        places.truncate(room);
        self.rows.extend(read(part, &places)?);
        // Newest first the cursor is behind what comes next.
        self.next = behind.map(|index| Cursor(if self.oldest_first { index } else { index + 1 }));
        Ok(behind.is_some())
    }
}

impl Query {
    fn wanted(&self) -> Wanted<'_> {
        Wanted {
            spiffe_id: self.spiffe_id.as_ref(),
            prefix: self.id_prefix.as_ref(),
            agent: self.agent.as_deref().map(agent_name),
            entry: self.entry.as_deref(),
            serial: self.serial.as_ref(),
            revocations: true,
            kinds: match self.kinds.as_slice() {
                [] => u64::MAX,
                some => some.iter().fold(0, |set, kind| set | 1 << (*kind as u8 & 63)),
            },
            since: self.since.map_or(i64::MIN, UnixTime::millis),
            until: self.until.map_or(i64::MAX, UnixTime::millis),
            ..Wanted::anything()
        }
    }
}

impl LiveQuery {
    fn wanted(&self, now: UnixTime) -> Wanted<'_> {
        Wanted {
            spiffe_id: self.spiffe_id.as_ref(),
            prefix: self.id_prefix.as_ref(),
            agent: self.agent.as_deref().map(agent_name),
            entry: self.entry.as_deref(),
            key: self.spki_sha256.as_ref(),
            issuer: self.issuer.as_ref(),
            instance: self.instance.map(|AgentInstance(instance)| instance),
            live_at: Some(now.seconds()),
            ..Wanted::anything()
        }
    }
}
