//! Revoking and its news. The news is signed, so whoever verifies may fetch it.

use std::{collections::BTreeSet, pin::Pin, sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::Stream;
use mintage_identity::{AgentName, EntryName, IdPrefix, IssuerKeyId, RevocationReason, Selector, SpiffeId, SpkiHash};
use mintage_ledger::{Body, Cursor, Kind, LedgerError, Query};
use mintage_policy::AgentStatus;
use mintage_proto::{
    limits::{PAGE_ROWS_DEFAULT, PAGE_ROWS_MAX, SNAPSHOT_CHUNK_BYTES},
    serial,
    v1::{
        self, CaMessage, ExportRevocationsRequest, FindFingerprintsRequest, FindFingerprintsResponse,
        ListRevocationsRequest, ListRevocationsResponse, RevocationItem, RevocationStatusRequest,
        RevocationStatusResponse, RevokeRequest, RevokeResponse, RevokedPart, SnapshotChunk, SnapshotRequest,
        WatchNews, WatchRequest, ca_message::Message as Down, revocation_server::Revocation, revoke_request::Target,
    },
};
use mintage_revocation::RevocationError;
use mintage_state::{View, command::Scope};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use crate::{
    control::Origin,
    desk::Desk,
    fingerprints,
    limits::{MISSING_NAMES_MAX, SLOW_READER_WAIT, SNAPSHOT_CHUNKS_QUEUE, STRUCK_NAMES_MAX},
    peer::Peer,
    pusher::ENTRIES_BYTES_MAX,
    revoke::{Order, carry_out},
    revoked_export,
    status::Refusal,
    watching,
};

/// Bytes of a string's key and length in a message (protobuf encoding, a length of up to 16 KB).
const NAME_FRAME_BYTES: usize = 3;
/// Longest wait for acknowledgements.
const WAIT_MAX: Duration = Duration::from_secs(10);

pub(crate) struct RevocationService(pub(crate) Arc<Desk>);

type NewsStream = Pin<Box<dyn Stream<Item = Result<WatchNews, Status>> + Send>>;
type PartStream = ReceiverStream<Result<RevokedPart, Status>>;
type ChunkStream = ReceiverStream<Result<SnapshotChunk, Status>>;

fn scope_of(target: Option<Target>) -> Result<Scope, Refusal> {
    let bad = |error: mintage_identity::NameError| Refusal::invalid(error.to_string());
    Ok(
        match target.ok_or_else(|| {
            Refusal::invalid("no target: name a serial, spiffe-id, prefix, agent, entry, selector, key or issuer")
        })? {
            Target::Serial(text) => Scope::Serial(serial("serial", &text)?),
            Target::SpiffeId(text) => Scope::Identity(SpiffeId::parse(&text).map_err(bad)?),
            Target::IdPrefix(text) => Scope::Prefix(IdPrefix::parse(&text).map_err(bad)?),
            Target::Agent(text) => Scope::Agent(AgentName::parse(&text).map_err(bad)?),
            Target::Entry(text) => Scope::Entry(EntryName::parse(&text).map_err(bad)?),
            Target::Key(text) => Scope::Key(text.parse::<SpkiHash>().map_err(bad)?),
            Target::Issuer(text) => Scope::Issuer(text.parse::<IssuerKeyId>().map_err(bad)?),
            Target::Selector(text) => Scope::Selector(Selector::parse(&text).map_err(bad)?),
        },
    )
}

pub(crate) fn reason_of(text: &str) -> Result<RevocationReason, Refusal> {
    match text {
        "" => Ok(RevocationReason::Unspecified),
        text => text
            .parse()
            .map_err(|error: mintage_identity::NameError| Refusal::invalid(error.to_string())),
    }
}

impl RevocationService {
    /// Asks the agents that may have lost certificates to fetch new ones now: by default a revocation replaces.
    fn renew(&self, scope: &Scope, entries: &BTreeSet<String>) {
        // A banned agent and a blocked key get no replacement.
        if matches!(scope, Scope::Agent(_) | Scope::Issuer(_)) || entries.is_empty() {
            return;
        }
        let (view, why) = (self.0.state.view(), format!("revoked: {scope}"));
        self.0.fleet.push(|agent| renewals(&view, agent, entries, &why));
    }

    /// The revocation at `index`; `None` where its record was given up meanwhile. One that cannot be read is an error: a
    /// listing without it would say that it was never made.
    fn item(&self, index: u64) -> Result<Option<RevocationItem>, LedgerError> {
        let Some(stored) = self.0.journal.read_from(index, 1)?.pop() else {
            return Ok(None);
        };
        let record = stored.decode()?;
        let Body::Revoke(body) = record.body else {
            return Ok(None);
        };
        let reason = u8::try_from(body.reason)
            .ok()
            .and_then(RevocationReason::from_code)
            .unwrap_or_default();
        Ok(Some(RevocationItem {
            index,
            time_ms: record.time.millis(),
            scope: body.scope,
            reason: reason.to_string(),
            note: body.note,
            certificates: body.serials.len() as u64,
            rules: body.rules.iter().map(rule_text).collect(),
        }))
    }
}

/// What one agent is asked to renew: those of its own entries that lost something, in messages of bounded size, and no others'.
/// Without any it is asked nothing: a message without names means all that it has.
fn renewals(view: &View, agent: &SpiffeId, lost: &BTreeSet<String>, why: &str) -> Vec<CaMessage> {
    let own = view
        .entries_for_agent(agent)
        .into_iter()
        .map(|standing| &standing.entry);
    let names = own
        .filter(|entry| !entry.is_disabled())
        .map(|entry| entry.name().as_str())
        .filter(|name| lost.contains(*name));
    let mut pieces: Vec<Vec<String>> = Vec::new();
    let mut bytes = 0;
    for name in names {
        let len = name.len() + NAME_FRAME_BYTES;
        match pieces.last_mut().filter(|_| bytes + len <= ENTRIES_BYTES_MAX) {
            Some(piece) => {
                bytes += len;
                piece.push(name.to_owned());
            }
            None => {
                bytes = len;
                pieces.push(vec![name.to_owned()]);
            }
        }
    }
    pieces
        .into_iter()
        .map(|names| renew_message(names, false, why))
        .collect()
}

fn rule_text(rule: &mintage_ledger::wire::RevocationRule) -> String {
    use mintage_ledger::wire::revocation_rule::Target as Rule;
    let hex = |octets: &[u8]| hex::encode(octets);
    let target = match &rule.target {
        Some(Rule::Identity(id)) => format!("spiffe-id {id}"),
        Some(Rule::Prefix(prefix)) => format!("prefix {prefix}"),
        Some(Rule::SpkiSha256(key)) => format!("key {}", hex(key)),
        Some(Rule::IssuerKeyId(issuer)) => format!("issuer {}", hex(issuer)),
        None => "nothing".to_owned(),
    };
    match rule.cut_s {
        Some(cut) => format!("{target}, not before up to {cut}"),
        None => format!("{target}, every one"),
    }
}

#[tonic::async_trait]
impl Revocation for RevocationService {
    type ExportRevocationsStream = PartStream;
    type SnapshotStream = ChunkStream;
    type WatchStream = NewsStream;

    async fn revoke(&self, request: Request<RevokeRequest>) -> Result<Response<RevokeResponse>, Status> {
        let origin = Origin::of(&request)?;
        let request = request.into_inner();
        let scope = scope_of(request.target)?;
        let order = Order {
            scope,
            reason: reason_of(&request.reason)?,
            note: request.note,
            and_disable: request.and_disable,
            force_last: request.force_last,
        };
        let (struck, last) = carry_out(&self.0, &origin, &order, request.dry_run).await?;
        // Where nothing lived, the last record disables or bans: no verifier is sent that.
        let sequence = last.min(self.0.state.view().revoked().sequence());
        if !request.dry_run && !request.no_renew && !request.and_disable {
            self.renew(&order.scope, &struck.entries);
        }
        let first = |names: BTreeSet<String>| (names.len() as u64, names.into_iter().take(STRUCK_NAMES_MAX).collect());
        let (agent_count, agents) = first(struck.agents);
        let (entry_count, entries) = first(struck.entries);
        let (left_without_count, left_without) = first(struck.left_without);
        Ok(Response::new(RevokeResponse {
            sequence,
            certificates: struck.certificates,
            agents,
            entries,
            serials: struck.serials,
            blocked_keys: struck.keys,
            left_without,
            agent_count,
            entry_count,
            left_without_count,
        }))
    }

    async fn list_revocations(
        &self,
        request: Request<ListRevocationsRequest>,
    ) -> Result<Response<ListRevocationsResponse>, Status> {
        let request = request.into_inner();
        let limit = if request.limit == 0 {
            PAGE_ROWS_DEFAULT
        } else {
            request.limit.min(PAGE_ROWS_MAX)
        };
        let query = Query {
            kinds: vec![Kind::Revoke],
            ..Query::default()
        };
        let from = (request.before > 0).then_some(Cursor(request.before));
        let page = self
            .0
            .index
            .search()
            .query(&query, from, limit as usize)
            .map_err(Refusal::from)?;
        let items = page.rows.iter().filter_map(|row| self.item(row.index).transpose());
        let items = items.collect::<Result<_, _>>().map_err(Refusal::from)?;
        Ok(Response::new(ListRevocationsResponse { items }))
    }

    async fn revocation_status(
        &self,
        request: Request<RevocationStatusRequest>,
    ) -> Result<Response<RevocationStatusResponse>, Status> {
        let request = request.into_inner();
        let desk = &self.0;
        if request.wait_for > 0 && request.wait_ms > 0 {
            let wait = Duration::from_millis(u64::from(request.wait_ms)).min(WAIT_MAX);
            desk.fleet.wait_enforced(request.wait_for, wait).await;
            if desk.publisher.is_dismissed() {
                let text = "the CA is stopping and its agents are gone; who enforces what is told when they are back";
                return Err(Refusal::unavailable("stopping", text).into());
            }
        }
        let view = desk.state.view();
        let sequence = desk.publisher.sequence();
        let asked = if request.wait_for > 0 {
            request.wait_for
        } else {
            sequence
        };
        let progress = desk.fleet.progress(asked);
        let now = desk.clock.unguarded();
        let active = view.agents().filter(|agent| {
            let speaks = agent.current.iter().any(|certificate| certificate.not_after > now);
            agent.status == AgentStatus::Active && speaks
        });
        let not_connected = desk.fleet.not_connected(active.map(|agent| &agent.name));
        let spread = desk.propagation.of(asked);
        Ok(Response::new(RevocationStatusResponse {
            epoch: desk.publisher.epoch(),
            sequence,
            serials: view.revoked().serial_count() as u64,
            rules: view.revoked().rule_count() as u64,
            agents: progress.agents,
            agents_current: progress.current,
            slowest_ack_ms: spread.slowest_ms,
            acks: spread.acks,
            p50_ack_ms: spread.p50_ms,
            p99_ack_ms: spread.p99_ms,
            missing: desk.fleet.missing(asked, MISSING_NAMES_MAX),
            not_connected,
        }))
    }

    async fn export_revocations(&self, _: Request<ExportRevocationsRequest>) -> Result<Response<PartStream>, Status> {
        let parts = revoked_export::parts(self.0.state.view());
        Ok(Response::new(ReceiverStream::new(parts)))
    }

    async fn find_fingerprints(
        &self,
        request: Request<FindFingerprintsRequest>,
    ) -> Result<Response<FindFingerprintsResponse>, Status> {
        let (desk, asked) = (self.0.clone(), request.into_inner().sha256);
        let found = tokio::task::spawn_blocking(move || fingerprints::find(&desk, &asked)).await;
        let matches = found.map_err(|_| Refusal::bug("looking for fingerprints ended early"))??;
        Ok(Response::new(FindFingerprintsResponse { matches }))
    }

    async fn snapshot(&self, request: Request<SnapshotRequest>) -> Result<Response<ChunkStream>, Status> {
        let desk = self.0.clone();
        let place = desk.watching.snapshot(&desk, request.extensions().get::<Peer>())?;
        let signed = blocking(&desk, |desk| desk.publisher.snapshot(desk.news_time())).await?;
        let (queue, chunks) = mpsc::channel(SNAPSHOT_CHUNKS_QUEUE);
        tokio::spawn(async move {
            tokio::select! {
                () = send_chunks(&signed.bytes, &queue) => {}
                () = queue.closed() => {}
                () = desk.publisher.dismissed() => {}
            }
            drop(place);
        });
        Ok(Response::new(ReceiverStream::new(chunks)))
    }

    async fn watch(&self, request: Request<WatchRequest>) -> Result<Response<NewsStream>, Status> {
        let desk = self.0.clone();
        let place = desk.watching.watch(&desk, request.extensions().get::<Peer>())?;
        let WatchRequest { epoch, sequence } = request.into_inner();
        // Subscribed before catching up: news in between comes twice rather than never.
        let live = desk.publisher.subscribe();
        let missed = blocking(&desk, move |desk| {
            desk.publisher.catch_up(epoch, sequence, desk.news_time())
        });
        let missed = missed.await?;
        Ok(Response::new(Box::pin(watching::news(desk, missed, live, place))))
    }
}

/// Signs, or waits for somebody who signs the same, on a thread that may wait: a set of millions takes a second.
pub(super) async fn blocking<T: Send + 'static>(
    desk: &Arc<Desk>,
    work: impl FnOnce(&Desk) -> Result<T, RevocationError> + Send + 'static,
) -> Result<T, Refusal> {
    let desk = desk.clone();
    let signed = tokio::task::spawn_blocking(move || work(&desk)).await;
    signed
        .map_err(|_| Refusal::bug("signing revocation news ended early"))?
        .map_err(|error| Refusal::unavailable("revocation", error.to_string()))
}

/// Sends a snapshot piece by piece, until its reader sleeps. No piece is copied before it is written to the connection.
async fn send_chunks(bytes: &Bytes, queue: &mpsc::Sender<Result<SnapshotChunk, Status>>) {
    let total = bytes.len() as u64;
    for start in (0..bytes.len()).step_by(SNAPSHOT_CHUNK_BYTES) {
        let chunk = SnapshotChunk {
            offset: start as u64,
            total,
            data: bytes.slice(start..bytes.len().min(start + SNAPSHOT_CHUNK_BYTES)),
        };
        if queue.send_timeout(Ok(chunk), SLOW_READER_WAIT).await.is_err() {
            return;
        }
    }
}

/// The message by which one agent is asked to renew.
pub(crate) fn renew_message(entries: Vec<String>, agent: bool, why: &str) -> CaMessage {
    CaMessage {
        message: Some(Down::Renew(v1::Renew {
            entries,
            agent,
            why: why.to_owned(),
        })),
    }
}

#[cfg(test)]
mod tests {
    use mintage_proto::v1::{ApplyEntriesRequest, Entry};
    use prost::Message as _;

    use super::*;
    use crate::{entries, trial::Trial};

    #[tokio::test(flavor = "multi_thread")]
    async fn nobody_is_told_that_all_enforce_it_by_a_ca_whose_agents_leave() {
        let trial = Trial::open().await;
        let service = RevocationService(trial.desk.clone());
        let asked = || {
            Request::new(RevocationStatusRequest {
                wait_for: 1,
                wait_ms: 1_000,
            })
        };
        assert!(service.revocation_status(asked()).await.is_ok());
        trial.desk.publisher.dismiss();
        let refused = service.revocation_status(asked()).await.unwrap_err();
        assert_eq!(refused.code(), tonic::Code::Unavailable, "{refused}");
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn an_agent_is_asked_for_its_own_in_messages_of_bounded_size() {
        let trial = Trial::open().await;
        let entry = |number: usize, agent: &str| Entry {
            name: format!("{agent}-{number:04}-{}", "x".repeat(100)),
            spiffe_id: format!("spiffe://dev.test/{agent}/{number}"),
            agents: vec![format!("spiffe://dev.test/mintage/agent/{agent}")],
            selectors: vec!["unix:uid:1".to_owned()],
            ..Entry::default()
        };
        let count = ENTRIES_BYTES_MAX / 100;
        let all: Vec<Entry> = (0..count)
            .map(|number| entry(number, "n1"))
            .chain([entry(0, "n2")])
            .collect();
        let lost: BTreeSet<String> = all.iter().map(|entry| entry.name.clone()).collect();
        for some in all.chunks(500) {
            let request = ApplyEntriesRequest {
                entries: some.to_vec(),
                ..ApplyEntriesRequest::default()
            };
            entries::apply(&trial.desk, &trial.origin(), request).await.unwrap();
        }
        let view = trial.desk.state.view();
        let asked = |agent: &str| {
            let agent = SpiffeId::parse(&format!("spiffe://dev.test/mintage/agent/{agent}")).unwrap();
            renewals(&view, &agent, &lost, "test")
        };
        let names = |message: &CaMessage| match &message.message {
            Some(Down::Renew(renew)) => renew.entries.len(),
            other => panic!("{other:?}"),
        };
        let own = asked("n1");
        assert!(
            own.len() > 1
                && own
                    .iter()
                    .all(|message| message.encoded_len() < ENTRIES_BYTES_MAX + 100)
        );
        assert_eq!(own.iter().map(names).sum::<usize>(), count);
        assert_eq!(
            asked("n2").iter().map(names).collect::<Vec<_>>(),
            [1],
            "nobody else's names"
        );
        assert!(asked("n3").is_empty(), "no names would mean all");
    }
}
