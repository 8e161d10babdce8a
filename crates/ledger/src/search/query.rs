//! Questions to the index, a page at a time.

use std::sync::Arc;

use mintage_identity::{AgentInstance, IdPrefix, IssuerKeyId, RequestId, Serial, SpiffeId, SpkiHash, UnixTime};

use super::{
    Index, Search, agent_name,
    chunk::{Chunk, serial_tag, spki_tag},
    hot::Of,
    request_tag,
};
use crate::{
    kind::Kind,
    limits::{PAGE_ROWS_MAX, PAGE_SCAN_MAX},
};

/// What is looked for; every condition that is set must hold.
#[derive(Clone, Debug, Default)]
pub struct Query {
    /// About this identity.
    pub spiffe_id: Option<SpiffeId>,
    /// About an identity below this prefix.
    pub id_prefix: Option<IdPrefix>,
    /// By or about the agent of this name, or SPIFFE ID.
    pub agent: Option<String>,
    /// About the entry of this name.
    pub entry: Option<String>,
    /// The certificate with this serial.
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
    /// The identity it is about.
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

/// A condition on one chunk's record.
type Test<'a> = Box<dyn Fn(&Chunk, usize) -> bool + 'a>;
/// The searched column and value that narrow a query most.
type Narrow = (fn(&Chunk) -> &super::chunk::Column, u32);

/// A query in numbers. `None` where a name is not in the index, so that nothing can match.
struct Plan<'a> {
    narrow: Option<Narrow>,
    tests: Vec<Test<'a>>,
    chunk: Box<dyn Fn(&Chunk) -> bool + 'a>,
    oldest_first: bool,
}

impl Search {
    /// A page of records. `limit` is at most 1000.
    pub fn query(&self, query: &Query, from: Option<Cursor>, limit: usize) -> Page<Hit> {
        let index = self.read();
        let Some(plan) = index.plan(query) else {
            return Page {
                rows: Vec::new(),
                next: None,
            };
        };
        index.run(&plan, from, limit, |chunk, at| Some(index.hit(chunk, at)))
    }

    /// A page of the certificates whose validity ends at `now` or later, newest first. `limit` is at most 1000.
    pub fn live(&self, query: &LiveQuery, now: UnixTime, from: Option<Cursor>, limit: usize) -> Page<LiveCertificate> {
        let index = self.read();
        let Some(plan) = index.live_plan(query, now) else {
            return Page {
                rows: Vec::new(),
                next: None,
            };
        };
        index.run(&plan, from, limit, |chunk, at| index.live(chunk, at))
    }

    /// All certificates of [`Search::live`], page by page.
    pub fn live_all(&self, query: &LiveQuery, now: UnixTime) -> Vec<LiveCertificate> {
        let (mut all, mut from) = (Vec::new(), None);
        loop {
            let page = self.live(query, now, from, PAGE_ROWS_MAX);
            all.extend(page.rows);
            match page.next {
                None => return all,
                next => from = next,
            }
        }
    }
}

impl Index {
    pub(super) fn by_serial(&self, serial: &Serial, issuer: Option<&IssuerKeyId>) -> Vec<u64> {
        let issuer = match issuer {
            None => None,
            Some(id) => match self.names.find_issuer(id) {
                None => return Vec::new(),
                known => known,
            },
        };
        let matches = |chunk: &Chunk, at: usize| {
            chunk.serial(at) == Some(*serial) && issuer.is_none_or(|issuer| chunk.issuer(at) == issuer)
        };
        self.newest(|chunk| chunk.places(&chunk.serial_tags, serial_tag(serial)), matches)
    }

    pub(super) fn by_request(&self, agent: &str, id: &RequestId, now: UnixTime) -> Vec<u64> {
        let Some(agent) = self.names.find(agent) else {
            return Vec::new();
        };
        let (tag, now_s) = (request_tag(agent, id.as_bytes()), now.seconds());
        if !self.hot.may_be_live(Of::Request, tag, now) {
            return Vec::new();
        }
        let places = |chunk: &Chunk| match chunk.may_be_live(now_s) {
            true => chunk.places(&chunk.requests, tag),
            false => Vec::new(),
        };
        self.newest(places, |chunk, at| {
            chunk.agents.get(at) == agent && chunk.not_after_s(at) >= now_s
        })
    }

    pub(super) fn serial_is_live(&self, serial: &Serial, now: UnixTime) -> bool {
        let now_s = now.seconds();
        self.chunks
            .iter()
            .rev()
            .filter(|chunk| chunk.may_be_live(now_s))
            .any(|chunk| {
                let places = chunk.places(&chunk.serial_tags, serial_tag(serial));
                places
                    .into_iter()
                    .map(usize::from)
                    .any(|at| chunk.serial(at) == Some(*serial) && chunk.not_after_s(at) >= now_s)
            })
    }

    /// Indices of matching records, newest first.
    fn newest(&self, places: impl Fn(&Chunk) -> Vec<u16>, matches: impl Fn(&Chunk, usize) -> bool) -> Vec<u64> {
        let mut found = Vec::new();
        for chunk in self.chunks.iter().rev() {
            for at in places(chunk).into_iter().rev().map(usize::from) {
                if matches(chunk, at) {
                    found.push(chunk.first() + at as u64);
                }
            }
        }
        found
    }

    fn plan<'a>(&self, query: &'a Query) -> Option<Plan<'a>> {
        let mut plan = Plan {
            narrow: None,
            tests: Vec::new(),
            chunk: Box::new(|_| true),
            oldest_first: query.oldest_first,
        };
        // The most selective condition last: it stays.
        plan.name(query.entry.as_deref(), |chunk| &chunk.entries, self)?;
        plan.name(query.agent.as_deref().map(agent_name), |chunk| &chunk.agents, self)?;
        plan.identity(query.spiffe_id.as_ref(), query.id_prefix.as_ref(), self)?;
        if let Some(serial) = &query.serial {
            plan.narrow = Some((|chunk| &chunk.serial_tags, serial_tag(serial)));
            plan.tests
                .push(Box::new(|chunk, at| chunk.serial(at).as_ref() == Some(serial)));
        }
        let kinds = match query.kinds.as_slice() {
            [] => u64::MAX,
            some => some.iter().fold(0, |set, kind| set | 1 << (*kind as u8 & 63)),
        };
        let since = query.since.map_or(i64::MIN, UnixTime::millis);
        let until = query.until.map_or(i64::MAX, UnixTime::millis);
        plan.tests.push(Box::new(move |chunk, at| {
            kinds & 1 << (chunk.kind(at) & 63) != 0 && (since..=until).contains(&chunk.time_ms(at))
        }));
        plan.chunk = Box::new(move |chunk| chunk.has_kinds(kinds) && chunk.overlaps(since, until));
        Some(plan)
    }

    fn live_plan<'a>(&self, query: &'a LiveQuery, now: UnixTime) -> Option<Plan<'a>> {
        let now_s = now.seconds();
        let mut plan = Plan {
            narrow: None,
            tests: Vec::new(),
            chunk: Box::new(move |chunk| chunk.may_be_live(now_s)),
            oldest_first: false,
        };
        plan.name(query.entry.as_deref(), |chunk| &chunk.entries, self)?;
        plan.name(query.agent.as_deref().map(agent_name), |chunk| &chunk.agents, self)?;
        plan.identity(query.spiffe_id.as_ref(), query.id_prefix.as_ref(), self)?;
        if let Some(hash) = &query.spki_sha256 {
            if !self.hot.may_be_live(Of::Key, spki_tag(hash.as_bytes()), now) {
                return None;
            }
            plan.narrow = Some((|chunk| &chunk.spki_tags, spki_tag(hash.as_bytes())));
            plan.tests
                .push(Box::new(|chunk, at| chunk.has_spki(at, hash.as_bytes())));
        }
        if let Some(id) = &query.issuer {
            let issuer = self.names.find_issuer(id)?;
            plan.tests.push(Box::new(move |chunk, at| chunk.issuer(at) == issuer));
        }
        if let Some(AgentInstance(instance)) = query.instance {
            plan.tests
                .push(Box::new(move |chunk, at| chunk.instance(at) == instance));
        }
        plan.tests.push(Box::new(move |chunk, at| {
            let not_after = chunk.not_after_s(at);
            not_after != 0 && not_after >= now_s
        }));
        Some(plan)
    }

    /// Walks the chunks from the cursor in the plan's order.
    fn run<T>(
        &self,
        plan: &Plan<'_>,
        from: Option<Cursor>,
        limit: usize,
        row: impl Fn(&Chunk, usize) -> Option<T>,
    ) -> Page<T> {
        let limit = limit.clamp(1, PAGE_ROWS_MAX);
        let (mut rows, mut looked) = (Vec::new(), 0);
        let order: Box<dyn Iterator<Item = &Chunk>> = match plan.oldest_first {
            true => Box::new(self.chunks.iter()),
            false => Box::new(self.chunks.iter().rev()),
        };
        // Newest first the cursor is the first index not to look at any more, else the first to look at.
        let wanted = |index: u64| match (from, plan.oldest_first) {
            (None, _) => true,
            (Some(Cursor(from)), true) => index >= from,
            (Some(Cursor(from)), false) => index < from,
        };
        for chunk in order {
            let last = chunk.first() + (chunk.len() as u64).saturating_sub(1);
            if !(wanted(chunk.first()) || wanted(last)) || !(plan.chunk)(chunk) {
                continue;
            }
            let mut places = plan.places(chunk);
            if !plan.oldest_first {
                places.reverse();
            }
            for at in places.into_iter().map(usize::from) {
                let index = chunk.first() + at as u64;
                if !wanted(index) {
                    continue;
                }
                if rows.len() == limit || looked == PAGE_SCAN_MAX {
                    let next = if plan.oldest_first { index } else { index + 1 };
                    return Page {
                        rows,
                        next: Some(Cursor(next)),
                    };
                }
                looked += 1;
                if plan.tests.iter().all(|test| test(chunk, at)) {
                    rows.extend(row(chunk, at));
                }
            }
        }
        Page { rows, next: None }
    }

    fn hit(&self, chunk: &Chunk, at: usize) -> Hit {
        let serial = chunk.serial(at);
        Hit {
            index: chunk.first() + at as u64,
            kind: Kind::from_tag(chunk.kind(at).into()),
            time: UnixTime::from_millis(chunk.time_ms(at)),
            spiffe_id: self.names.name(chunk.identities.get(at)),
            agent: self.names.name(chunk.agents.get(at)),
            entry: self.names.name(chunk.entries.get(at)),
            not_after: serial.map(|_| UnixTime::from_seconds(chunk.not_after_s(at))),
            serial,
        }
    }

    fn live(&self, chunk: &Chunk, at: usize) -> Option<LiveCertificate> {
        Some(LiveCertificate {
            index: chunk.first() + at as u64,
            issuer: self.names.issuer(chunk.issuer(at))?,
            serial: chunk.serial(at)?,
            not_before: UnixTime::from_seconds(chunk.not_before_s(at)),
            not_after: UnixTime::from_seconds(chunk.not_after_s(at)),
            spiffe_id: self.names.name(chunk.identities.get(at))?,
            agent: self.names.name(chunk.agents.get(at)),
            instance: AgentInstance(chunk.instance(at)),
            entry: self.names.name(chunk.entries.get(at)),
        })
    }
}

impl Plan<'_> {
    /// Adds the condition that a column holds a name; `None` when the index has no such name.
    fn name(&mut self, name: Option<&str>, column: fn(&Chunk) -> &super::chunk::Column, index: &Index) -> Option<()> {
        if let Some(name) = name {
            let number = index.names.find(name)?;
            self.narrow = Some((column, number));
            self.tests
                .push(Box::new(move |chunk, at| column(chunk).get(at) == number));
        }
        Some(())
    }

    fn identity(&mut self, id: Option<&SpiffeId>, prefix: Option<&IdPrefix>, index: &Index) -> Option<()> {
        if let Some(prefix) = prefix {
            let table = index
                .names
                .matching(|name| SpiffeId::parse(name).is_ok_and(|id| prefix.matches(&id)));
            self.tests.push(Box::new(move |chunk, at| {
                table.get(chunk.identities.get(at) as usize).copied().unwrap_or(false)
            }));
        }
        self.name(id.map(SpiffeId::as_str), |chunk| &chunk.identities, index)
    }

    /// The places of a chunk to look at, ascending.
    fn places(&self, chunk: &Chunk) -> Vec<u16> {
        match self.narrow {
            Some((column, value)) => chunk.places(column(chunk), value),
            None => (0..=u16::MAX).take(chunk.len()).collect(),
        }
    }
}
