//! The ledger: search, single records, the checkpoint, proofs against it, and its shards.

use std::sync::Arc;

use mintage_identity::{IdPrefix, Serial, SpiffeId, UnixTime};
use mintage_ledger::{Actor, Body, Cursor, Hash, Hit, Kind, LiveCertificate, LiveQuery, Page, Query, Stored};
use mintage_proto::{
    serial,
    v1::{
        CheckpointRequest, CheckpointResponse, GetRecordRequest, GetRecordResponse, ProofRequest, ProofResponse,
        RecordSummary, RecordsRequest, RetainRequest, RetainResponse, RollRequest, RollResponse, SearchRequest,
        SearchResponse, ShardsRequest, ShardsResponse, get_record_request::Key, ledger_server::Ledger,
        proof_request::Want,
    },
};
use tonic::{Request, Response, Status};

use crate::{
    certificate_state::{CertificateState, revocations_of},
    control::Origin,
    desk::Desk,
    limits::PAGE_RECORDS_AT_ONCE,
    line,
    services::{
        page::limit_and_token,
        records::{self, BatchStream},
        shards,
    },
    status::Refusal,
};

/// Rows looked at for one page when states are filtered: a filter that matches nothing must end.
const SCANNED_MAX: usize = 20_000;

pub(crate) struct LedgerService(pub(crate) Arc<Desk>);

/// The ledger is there and does not give what was asked for.
pub(crate) fn unreadable(error: impl std::fmt::Display) -> Refusal {
    Refusal::unavailable("ledger-read", format!("the ledger cannot be read: {error}"))
}

/// The kinds that are meant by their names.
pub(crate) fn kinds_of(names: &[String]) -> Result<Vec<Kind>, Refusal> {
    let kind = |name: &String| {
        let known = || Kind::ALL.iter().map(|kind| kind.name()).collect::<Vec<_>>().join(", ");
        let found = Kind::ALL.iter().copied().find(|kind| kind.name() == name);
        found.ok_or_else(|| Refusal::invalid(format!("kind {name:?} is none of {}", known())))
    };
    names.iter().map(kind).collect()
}

fn query_of(request: &SearchRequest) -> Result<Query, Refusal> {
    let text = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    let bad = |error: mintage_identity::NameError| Refusal::invalid(error.to_string());
    Ok(Query {
        spiffe_id: text(&request.spiffe_id)
            .map(|id| SpiffeId::parse(&id))
            .transpose()
            .map_err(bad)?,
        id_prefix: text(&request.id_prefix)
            .map(|id| IdPrefix::parse(&id))
            .transpose()
            .map_err(bad)?,
        agent: text(&request.agent),
        entry: text(&request.entry),
        serial: text(&request.serial).map(|text| serial("serial", &text)).transpose()?,
        kinds: kinds_of(&request.kinds)?,
        since: (request.since_ms != 0).then(|| UnixTime::from_millis(request.since_ms)),
        until: (request.until_ms != 0).then(|| UnixTime::from_millis(request.until_ms)),
        oldest_first: false,
    })
}

/// The same question about live certificates alone, where that is all that is asked.
fn live_of(request: &SearchRequest, query: &Query) -> Option<LiveQuery> {
    let only_live = request.states == ["live"] && query.kinds == [Kind::Issue];
    let any_time = query.since.is_none() && query.until.is_none();
    (only_live && any_time && query.serial.is_none()).then(|| LiveQuery {
        spiffe_id: query.spiffe_id.clone(),
        id_prefix: query.id_prefix.clone(),
        agent: query.agent.clone(),
        entry: query.entry.clone(),
        ..LiveQuery::default()
    })
}

fn hit_of(live: LiveCertificate) -> Hit {
    Hit {
        index: live.index,
        kind: Some(Kind::Issue),
        time: live.not_before,
        spiffe_id: Some(live.spiffe_id),
        agent: live.agent,
        entry: live.entry,
        serial: Some(live.serial),
        not_after: Some(live.not_after),
    }
}

/// Whether a certificate ends so soon; 0 asks nothing.
fn ends_until(hit: &Hit, until_ms: i64) -> bool {
    until_ms == 0 || hit.not_after.is_some_and(|end| end.millis() <= until_ms)
}

impl LedgerService {
    fn stored(&self, index: u64) -> Result<Stored, Refusal> {
        let found = self.0.journal.read_from(index, 1).map_err(unreadable)?.pop();
        found.ok_or_else(|| Refusal::not_found(format!("the ledger has no record {index}")))
    }

    fn index_of(&self, serial_text: &str) -> Result<u64, Refusal> {
        let wanted = serial("serial", serial_text)?;
        let found = self.0.index.certificate(&wanted).map_err(unreadable)?;
        let none = || Refusal::not_found(format!("no certificate with serial {wanted} was issued"));
        found.map(|issued| issued.stored.index()).ok_or_else(none)
    }

    fn summary(&self, hit: &Hit, stored: &Stored) -> Result<RecordSummary, Refusal> {
        let record = stored.decode().map_err(unreadable)?;
        let state = match (&record.body, hit.serial) {
            (Body::Issue(_), Some(_)) => CertificateState::of(&self.0, &record),
            _ => None,
        };
        let struck = state.and_then(CertificateState::struck);
        let text = |name: &Option<Arc<str>>| name.as_deref().unwrap_or_default().to_owned();
        Ok(RecordSummary {
            index: hit.index,
            time_ms: record.time.millis(),
            kind: record.kind().name().to_owned(),
            actor: line::actor(&record.actor),
            spiffe_id: text(&hit.spiffe_id),
            entry: text(&hit.entry),
            agent: text(&hit.agent),
            serial: hit.serial.as_ref().map(Serial::to_string).unwrap_or_default(),
            not_after_ms: hit.not_after.map_or(0, UnixTime::millis),
            state: state.map_or("", CertificateState::as_str).to_owned(),
            revoked_ms: struck.map_or(0, |(at, _)| at.millis()),
            revoked_for: struck.map(|(_, reason)| reason.to_string()).unwrap_or_default(),
            request_id: record.request_id.map(|id| id.to_string()).unwrap_or_default(),
            text: line::what(&record),
            instance: match &record.actor {
                Actor::Agent { instance, .. } => instance.0,
                _ => 0,
            },
        })
    }

    /// A page of hits. Certificates that live are found without a look at the many that have ended.
    fn page(
        &self,
        query: &Query,
        live: Option<&LiveQuery>,
        from: Option<Cursor>,
        limit: usize,
    ) -> Result<Page<Hit>, Refusal> {
        let search = self.0.index.search();
        let Some(live) = live else {
            return Ok(search.query(query, from, limit)?);
        };
        let page = search.live(live, self.0.clock.unguarded(), from, limit)?;
        Ok(Page {
            rows: page.rows.into_iter().map(hit_of).collect(),
            next: page.next,
        })
    }

    fn search_rows(&self, request: &SearchRequest) -> Result<SearchResponse, Refusal> {
        let query = query_of(request)?;
        let live = live_of(request, &query);
        let (limit, token) = limit_and_token(request.page.as_ref());
        let mut from = match token {
            "" => None,
            token => Some(Cursor(token.parse().map_err(|_| {
                Refusal::invalid("page token: none of this listing; give the one that the page before named")
            })?)),
        };
        let mut records = Vec::new();
        let mut scanned = 0;
        loop {
            let page = self.page(&query, live.as_ref(), from, limit - records.len())?;
            scanned += page.rows.len();
            let ends = |hit: &Hit| ends_until(hit, request.not_after_until_ms);
            let hits: Vec<Hit> = page.rows.into_iter().filter(ends).collect();
            for hits in hits.chunks(PAGE_RECORDS_AT_ONCE) {
                // Together, since rows are often near each other: what holds them is unpacked once.
                let places: Vec<u64> = hits.iter().map(|hit| hit.index).collect();
                let stored = self.0.journal.read_each(&places).map_err(unreadable)?;
                for (hit, stored) in hits.iter().zip(&stored) {
                    let row = self.summary(hit, stored)?;
                    if request.states.is_empty() || request.states.contains(&row.state) {
                        records.push(row);
                    }
                }
            }
            from = page.next;
            if from.is_none() || records.len() >= limit || scanned >= SCANNED_MAX {
                break;
            }
        }
        let next = from.map(|cursor| cursor.0.to_string()).unwrap_or_default();
        Ok(SearchResponse { records, next })
    }

    /// Work that reads files, on a thread that may wait.
    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Self) -> Result<T, Refusal> + Send + 'static,
    ) -> Result<T, Refusal> {
        let service = Self(self.0.clone());
        let done = tokio::task::spawn_blocking(move || work(&service)).await;
        done.map_err(|_| Refusal::bug("reading the ledger ended early"))?
    }

    fn found(&self, key: Key) -> Result<GetRecordResponse, Refusal> {
        let index = match key {
            Key::Index(index) => index,
            Key::Serial(text) => self.index_of(&text)?,
        };
        let stored = self.stored(index)?;
        let record = stored.decode().map_err(unreadable)?;
        let query = Query {
            since: Some(record.time),
            until: Some(record.time),
            ..Query::default()
        };
        let search = self.0.index.search();
        let hit = search.query(&query, Some(Cursor(index + 1)), 1)?.rows.pop();
        let hit = hit
            .filter(|hit| hit.index == index)
            .ok_or_else(|| Refusal::unavailable("state-slow", "the record is not indexed yet; ask again"))?;
        let strikers = revocations_of(&self.0, &record)?;
        Ok(GetRecordResponse {
            summary: Some(self.summary(&hit, &stored)?),
            record: stored.bytes().to_vec(),
            leaf_hash: stored.leaf_hash().as_bytes().to_vec(),
            revoked_by: strikers.iter().map(|striker| striker.index).collect(),
            strikers,
        })
    }

    fn prove(&self, want: Want) -> Result<ProofResponse, Refusal> {
        let hashes = |list: Vec<Hash>| list.iter().map(|hash| hash.as_bytes().to_vec()).collect();
        let index = match want {
            Want::Index(index) => index,
            Want::Serial(text) => self.index_of(&text)?,
            Want::FromSize(old) => {
                let (log, tree) = self.0.trees.growing();
                let signed = self.0.journal.checkpoint_of(&log).map_err(unreadable)?;
                let (size, root) = (signed.checkpoint().size, signed.checkpoint().root);
                let beyond = || Refusal::invalid(format!("the last checkpoint has size {size}, which is below {old}"));
                let old_root = (old <= size).then(|| tree.root_at(old)).ok_or_else(beyond)?;
                let old_root = old_root.map_err(unreadable)?;
                let proof = tree.consistency((old, &old_root), (size, &root)).map_err(unreadable)?;
                let checkpoint = signed.to_string();
                return Ok(ProofResponse {
                    size,
                    hashes: hashes(proof),
                    checkpoint,
                    ..ProofResponse::default()
                });
            }
        };
        let leaf = self.stored(index)?.leaf_hash();
        let gone = || Refusal::not_found(format!("record {index} was given up with its shard"));
        let log = self.0.journal.log_of(index).ok_or_else(gone)?;
        let signed = self.0.journal.checkpoint_of(&log).map_err(unreadable)?;
        let (size, root) = (signed.checkpoint().size, signed.checkpoint().root);
        let index = log.leaf_at(index).ok_or_else(gone)?;
        if index >= size {
            return Err(Refusal::unavailable(
                "not-signed-yet",
                "the record is durable; its checkpoint is signed within a second",
            ));
        }
        let tree = self.0.trees.of_log(&log).map_err(unreadable)?;
        let proof = tree.inclusion(index, &leaf, size, &root).map_err(unreadable)?;
        let leaf_hash = leaf.as_bytes().to_vec();
        Ok(ProofResponse {
            index,
            size,
            hashes: hashes(proof),
            checkpoint: signed.to_string(),
            leaf_hash,
            vkey: log.vkey().to_string(),
            successions: self.0.shards.files().successions().map_err(unreadable)?,
        })
    }
}

#[tonic::async_trait]
impl Ledger for LedgerService {
    type RecordsStream = BatchStream;

    async fn records(&self, request: Request<RecordsRequest>) -> Result<Response<BatchStream>, Status> {
        Ok(Response::new(records::open(&self.0, &request.into_inner())?))
    }

    async fn search(&self, request: Request<SearchRequest>) -> Result<Response<SearchResponse>, Status> {
        let request = request.into_inner();
        let rows = self.blocking(move |service| service.search_rows(&request)).await?;
        Ok(Response::new(rows))
    }

    async fn get_record(&self, request: Request<GetRecordRequest>) -> Result<Response<GetRecordResponse>, Status> {
        let key = request.into_inner().key;
        let key = key.ok_or_else(|| Refusal::invalid("name an index or a serial"))?;
        Ok(Response::new(self.blocking(|service| service.found(key)).await?))
    }

    async fn checkpoint(&self, _: Request<CheckpointRequest>) -> Result<Response<CheckpointResponse>, Status> {
        let signed = self.0.journal.checkpoint().map_err(unreadable)?;
        Ok(Response::new(CheckpointResponse {
            note: signed.to_string(),
            vkey: self.0.journal.log().vkey().to_string(),
        }))
    }

    async fn proof(&self, request: Request<ProofRequest>) -> Result<Response<ProofResponse>, Status> {
        let want = request
            .into_inner()
            .want
            .ok_or_else(|| Refusal::invalid("name an index, a serial or a size"))?;
        Ok(Response::new(self.blocking(|service| service.prove(want)).await?))
    }

    async fn shards(&self, _: Request<ShardsRequest>) -> Result<Response<ShardsResponse>, Status> {
        let shards = shards::list(&self.0);
        Ok(Response::new(ShardsResponse { shards }))
    }

    async fn roll(&self, request: Request<RollRequest>) -> Result<Response<RollResponse>, Status> {
        let by = Origin::of(&request)?;
        Ok(Response::new(shards::roll(&self.0, &by, request.into_inner()).await?))
    }

    async fn retain(&self, request: Request<RetainRequest>) -> Result<Response<RetainResponse>, Status> {
        let by = Origin::of(&request)?;
        Ok(Response::new(
            shards::retain(&self.0, &by, &request.into_inner()).await?,
        ))
    }
}
