//! One request of an auditor: who asks is looked at first, then what is asked, and every answer is counted.

use std::{convert::Infallible, sync::Arc};

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use mintage_ledger::TreeFile;
use mintage_verifier::VerifiedPeer;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::timeout,
};
use tonic::Code;
use tracing::warn;

use super::{settings::Auditors, shelf::Asked};
use crate::{
    denials,
    desk::Desk,
    limits::{AUDIT_ANSWERS_BYTES_MAX, AUDIT_IN_WORK_MAX, AUDIT_REQUEST_TIMEOUT},
    status::Refusal,
    trust::PeerTrust,
};

/// The answer of this listener.
pub(super) type Answer = Response<Full<Bytes>>;

/// What every request works with.
pub(super) struct Room {
    pub(super) desk: Arc<Desk>,
    pub(super) peers: Arc<PeerTrust>,
    pub(super) auditors: Auditors,
    in_work: Arc<Semaphore>,
    octets: Arc<Semaphore>,
}

/// The octets of an answer, with their share of what all answers may hold; it is given back when they were sent.
struct Held {
    octets: Vec<u8>,
    _share: OwnedSemaphorePermit,
}

impl AsRef<[u8]> for Held {
    fn as_ref(&self) -> &[u8] {
        &self.octets
    }
}

/// Why a request gets no file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum No {
    Method,
    Path,
    Beyond,
    Late,
    Unreadable,
}

impl Room {
    pub(super) fn new(desk: Arc<Desk>, peers: Arc<PeerTrust>, auditors: Auditors) -> Self {
        Self {
            desk,
            peers,
            auditors,
            in_work: Arc::new(Semaphore::new(AUDIT_IN_WORK_MAX)),
            octets: Arc::new(Semaphore::new(AUDIT_ANSWERS_BYTES_MAX)),
        }
    }

    /// Answers one request of a caller whose certificate was good when he connected.
    pub(super) async fn answer<B>(
        self: Arc<Self>,
        peer: Arc<VerifiedPeer>,
        request: Request<B>,
    ) -> Result<Answer, Infallible> {
        let asked = Asked::parse(request.uri().path()).filter(|_| request.uri().query().is_none());
        let file = asked.as_ref().map(|asked| asked.file.file());
        let answer = match self.admits(&peer) {
            Err(refusal) => {
                self.refused(&peer, &refusal);
                text(StatusCode::FORBIDDEN, format!("{}\n", refusal.message))
            }
            Ok(()) => match self.read(request.method(), asked).await {
                Ok((file, octets)) => found(file, octets),
                Err(no) => no.answer(),
            },
        };
        self.desk.metrics.audited(word(file), status_word(answer.status()));
        Ok(answer)
    }

    /// Whether the caller may read now: he is an auditor, and his certificate has neither ended nor been revoked since.
    fn admits(&self, peer: &VerifiedPeer) -> Result<(), Refusal> {
        let refuse = |code, why: String| Err(Refusal::new(Code::PermissionDenied, code, why));
        if let Err(error) = self.peers.store.load().recheck(peer, self.peers.clock.now()) {
            return refuse(
                "audit-certificate",
                format!("the certificate is good no longer: {error}"),
            );
        }
        match self.auditors.contains(peer.id()) {
            true => Ok(()),
            false => refuse(
                "audit-role",
                format!(
                    "{} is no auditor of this CA; audit.auditors names those who are",
                    peer.id()
                ),
            ),
        }
    }

    fn refused(&self, peer: &VerifiedPeer, refusal: &Refusal) {
        self.desk.metrics.refused_call("audit");
        denials::record_reader(&self.desk, peer, refusal);
    }

    async fn read(&self, method: &Method, asked: Option<Asked>) -> Result<(TreeFile, Bytes), No> {
        if method != Method::GET && method != Method::HEAD {
            return Err(No::Method);
        }
        let asked = asked.ok_or(No::Path)?;
        // Whoever waits here is one of the few connections there are.
        match timeout(AUDIT_REQUEST_TIMEOUT, self.fetch(asked)).await {
            Ok(outcome) => outcome,
            Err(_) => Err(No::Late),
        }
    }

    async fn fetch(&self, asked: Asked) -> Result<(TreeFile, Bytes), No> {
        let place = self.in_work.clone().acquire_owned().await.map_err(|_| No::Late)?;
        let (desk, file) = (self.desk.clone(), asked.file.file());
        let read = tokio::task::spawn_blocking(move || {
            let found = asked.shard(&desk).map(|shard| shard.read(&asked.file));
            // The place goes with the octets: while they wait for their share, nobody reads more in its stead.
            (found, place)
        });
        let (found, place) = read.await.map_err(|_| No::Unreadable)?;
        let octets = match found {
            None => return Err(No::Path),
            Some(Ok(None)) => return Err(No::Beyond),
            Some(Ok(Some(octets))) => octets,
            Some(Err(problem)) => {
                warn!(%problem, "a file of the ledger cannot be given to an auditor");
                return Err(No::Unreadable);
            }
        };
        let share = u32::try_from(octets.len().min(AUDIT_ANSWERS_BYTES_MAX)).map_err(|_| No::Unreadable)?;
        let share = self.octets.clone().acquire_many_owned(share).await;
        drop(place);
        let held = Held {
            octets,
            _share: share.map_err(|_| No::Late)?,
        };
        Ok((file, Bytes::from_owner(held)))
    }
}

impl No {
    fn answer(self) -> Answer {
        match self {
            Self::Method => {
                let mut answer = text(StatusCode::METHOD_NOT_ALLOWED, "a log is read with GET and HEAD\n");
                let allow = HeaderValue::from_static("GET, HEAD");
                answer.headers_mut().insert(header::ALLOW, allow);
                answer
            }
            Self::Path => text(StatusCode::NOT_FOUND, "no log here has such a file\n"),
            Self::Beyond => text(
                StatusCode::NOT_FOUND,
                "the signed checkpoint does not reach so far; read /checkpoint for the size that is signed\n",
            ),
            Self::Late => again("the ledger was too busy; ask again\n"),
            Self::Unreadable => again("the ledger cannot be read now; the CA's log tells why\n"),
        }
    }
}

/// A file, with the headers that C2SP tlog-tiles asks for. Records are for this reader alone: no cache between may keep
/// them for others.
fn found(file: TreeFile, octets: Bytes) -> Answer {
    let (kind, keep) = match file {
        TreeFile::Checkpoint | TreeFile::Policy => ("text/plain; charset=utf-8", "no-cache"),
        TreeFile::Succession => ("text/plain; charset=utf-8", "private, max-age=31536000, immutable"),
        TreeFile::Tile | TreeFile::Entries | TreeFile::Snapshot => {
            ("application/octet-stream", "private, max-age=31536000, immutable")
        }
    };
    let mut answer = Response::new(Full::new(octets));
    let headers = answer.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static(keep));
    answer
}

/// What is no file today may be one tomorrow: nobody may keep this answer.
fn text(status: StatusCode, body: impl Into<String>) -> Answer {
    let mut answer = Response::new(Full::new(Bytes::from(body.into())));
    *answer.status_mut() = status;
    let headers = answer.headers_mut();
    let plain = HeaderValue::from_static("text/plain; charset=utf-8");
    headers.insert(header::CONTENT_TYPE, plain);
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    answer
}

fn again(body: &'static str) -> Answer {
    let mut answer = text(StatusCode::SERVICE_UNAVAILABLE, body);
    answer
        .headers_mut()
        .insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
    answer
}

/// What was asked for, as a label.
fn word(file: Option<TreeFile>) -> &'static str {
    match file {
        Some(TreeFile::Checkpoint) => "checkpoint",
        Some(TreeFile::Snapshot) => "snapshot",
        Some(TreeFile::Succession) => "succession",
        Some(TreeFile::Policy) => "policy",
        Some(TreeFile::Tile) => "tile",
        Some(TreeFile::Entries) => "entries",
        None => "other",
    }
}

/// The status, as a label.
fn status_word(status: StatusCode) -> &'static str {
    match status {
        StatusCode::OK => "200",
        StatusCode::FORBIDDEN => "403",
        StatusCode::NOT_FOUND => "404",
        StatusCode::METHOD_NOT_ALLOWED => "405",
        _ => "503",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_checkpoint_is_asked_for_anew_and_a_tile_kept_by_its_reader() {
        let headers = |answer: &Answer| {
            [header::CONTENT_TYPE, header::CACHE_CONTROL]
                .map(|name| answer.headers()[name].to_str().unwrap().to_owned())
        };
        let checkpoint = found(TreeFile::Checkpoint, Bytes::new());
        assert_eq!(headers(&checkpoint), ["text/plain; charset=utf-8", "no-cache"]);
        for file in [TreeFile::Tile, TreeFile::Entries] {
            let [kind, keep] = headers(&found(file, Bytes::new()));
            assert_eq!(kind, "application/octet-stream");
            assert!(keep.contains("immutable") && keep.contains("private"), "{keep}");
        }
        for no in [No::Method, No::Path, No::Beyond, No::Late, No::Unreadable] {
            assert_eq!(headers(&no.answer())[1], "no-store", "{no:?}");
        }
    }

    #[test]
    fn every_status_is_counted_under_its_own_word() {
        for no in [No::Method, No::Path, No::Beyond, No::Late, No::Unreadable] {
            let status = no.answer().status();
            assert_eq!(status_word(status), status.as_str(), "{no:?}");
        }
        assert_eq!(status_word(StatusCode::OK), "200");
        assert_eq!(status_word(StatusCode::FORBIDDEN), "403");
    }
}
