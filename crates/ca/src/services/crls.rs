//! The lists of revoked certificates as a stream: those that are current, then each that takes another's place.

use std::{collections::HashMap, sync::Arc};

use mintage_identity::IssuerKeyId;
use mintage_proto::{
    limits::SNAPSHOT_CHUNK_BYTES,
    v1::{CrlChunk, WatchCrlsRequest, crls_server::Crls},
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Request, Response, Status};

use crate::{
    crls::{Lists, SignedList},
    desk::Desk,
    limits::{CRL_CHUNKS_QUEUE, SLOW_READER_WAIT},
    peer::Peer,
    roles::{Role, role_of},
    status::Refusal,
};

pub(crate) struct CrlService(pub(crate) Arc<Desk>);

#[tonic::async_trait]
impl Crls for CrlService {
    type WatchStream = ReceiverStream<Result<CrlChunk, Status>>;

    async fn watch(&self, request: Request<WatchCrlsRequest>) -> Result<Response<Self::WatchStream>, Status> {
        let desk = self.0.clone();
        let is_agent = request
            .extensions()
            .get::<Peer>()
            .is_some_and(|peer| role_of(peer) == Role::Agent);
        let places = if is_agent { &desk.crls.agents } else { &desk.crls.others };
        let Ok(place) = places.clone().try_acquire_owned() else {
            desk.metrics.refused_call("crl_streams");
            let text = "as many streams of revocation lists are open as there may be; come back later";
            return Err(Refusal::new(Code::ResourceExhausted, "crl-streams", text).into());
        };
        let once = request.into_inner().once;
        let (queue, chunks) = mpsc::channel(CRL_CHUNKS_QUEUE);
        tokio::spawn(async move {
            tokio::select! {
                () = send(&desk, once, &queue) => {}
                () = queue.closed() => {}
                () = desk.crls.dismissed() => {}
            }
            drop(place);
        });
        Ok(Response::new(ReceiverStream::new(chunks)))
    }
}

type Queue = mpsc::Sender<Result<CrlChunk, Status>>;

/// Sends until the reader sleeps, or has what it asked for once.
async fn send(desk: &Desk, once: bool, queue: &Queue) {
    let mut current = desk.crls.subscribe();
    let mut sent: HashMap<IssuerKeyId, u64> = HashMap::new();
    loop {
        // The first list is signed just after the start.
        let Ok(lists) = current.wait_for(Option::is_some).await.map(|lists| lists.clone()) else {
            return;
        };
        let lists: Lists = lists.unwrap_or_default();
        let is_new = |one: &&Arc<SignedList>| sent.insert(one.issuer, one.list.number()) != Some(one.list.number());
        let news: Vec<&Arc<SignedList>> = lists.iter().filter(is_new).collect();
        for (at, one) in news.iter().enumerate() {
            for chunk in chunks(one, at + 1 == news.len()) {
                if queue.send_timeout(Ok(chunk), SLOW_READER_WAIT).await.is_err() {
                    return;
                }
            }
        }
        if once || current.changed().await.is_err() {
            return;
        }
    }
}

/// The pieces of a list; the last of the last list says that nothing is missing.
fn chunks(of: &SignedList, is_last: bool) -> impl Iterator<Item = CrlChunk> + '_ {
    let total = of.list.der().len() as u64;
    let pieces = of.list.der().chunks(SNAPSHOT_CHUNK_BYTES);
    pieces
        .zip((0u64..).step_by(SNAPSHOT_CHUNK_BYTES))
        .map(move |(data, offset)| CrlChunk {
            issuer_key_id: of.issuer.as_bytes().to_vec(),
            number: of.list.number(),
            offset,
            total,
            data: data.to_vec(),
            is_last: is_last && offset + data.len() as u64 == total,
        })
}
