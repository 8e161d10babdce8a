//! The witness's HTTP face: `POST /add-checkpoint`, `POST /add-log`, and `GET /<SHA-256 of the origin>/checkpoint` for monitors.

use std::sync::Arc;

use axum::{
    Router,
    body::{Body, to_bytes},
    extract::{Path, State},
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use mintage_ledger::{
    LogVerdict, SIZE_CONTENT_TYPE, Verdict,
    limits::{ADD_CHECKPOINT_BYTES_MAX, SUCCESSION_BYTES_MAX},
};
use tokio::sync::Semaphore;

use super::{
    metrics::{Call, Metrics},
    store::{Answer, Following, Store},
};
use crate::{
    clock::Clock,
    limits::{WITNESS_IN_WORK_MAX, WITNESS_REQUEST_TIMEOUT},
};

/// What every request works with.
#[derive(Clone)]
pub(super) struct Face {
    store: Arc<Store>,
    clock: Arc<dyn Clock>,
    in_work: Arc<Semaphore>,
    metrics: Arc<Metrics>,
}

impl Face {
    pub(super) fn new(store: Arc<Store>, clock: Arc<dyn Clock>, metrics: Arc<Metrics>) -> Self {
        Self {
            store,
            clock,
            in_work: Arc::new(Semaphore::new(WITNESS_IN_WORK_MAX)),
            metrics,
        }
    }
}

/// The calls.
pub(super) fn router(face: Face) -> Router {
    Router::new()
        .route("/add-checkpoint", post(add_checkpoint))
        .route("/add-log", post(add_log))
        .route("/{origin}/checkpoint", get(checkpoint))
        .with_state(face)
}

async fn add_checkpoint(State(face): State<Face>, body: Body) -> Response {
    let work = |face: &Face, body: &[u8]| match face.store.add(body, face.clock.now()) {
        Answer::Cosigned(line) => text(StatusCode::OK, line),
        Answer::Refused(verdict) => refusal(&verdict),
        Answer::Unavailable(why) => text(StatusCode::SERVICE_UNAVAILABLE, why + "\n"),
    };
    answer(face, Call::AddCheckpoint, (body, ADD_CHECKPOINT_BYTES_MAX), work).await
}

async fn add_log(State(face): State<Face>, body: Body) -> Response {
    let work = |face: &Face, body: &[u8]| match face.store.follow(body) {
        Following::Followed(vkey) => text(StatusCode::OK, format!("{vkey}\n")),
        Following::Refused(verdict) => no_log(&verdict),
        Following::Unavailable(why) => text(StatusCode::SERVICE_UNAVAILABLE, why + "\n"),
    };
    answer(face, Call::AddLog, (body, SUCCESSION_BYTES_MAX), work).await
}

/// Reads a body and works on it, within the limits of each.
async fn answer(
    face: Face,
    call: Call,
    (body, bytes_max): (Body, usize),
    work: impl FnOnce(&Face, &[u8]) -> Response + Send + 'static,
) -> Response {
    let metrics = face.metrics.clone();
    let working = async move {
        let Ok(body) = to_bytes(body, bytes_max).await else {
            let told = format!("a request has at most {bytes_max} bytes\n");
            return text(StatusCode::PAYLOAD_TOO_LARGE, told);
        };
        let Ok(place) = face.in_work.clone().try_acquire_owned() else {
            return text(StatusCode::SERVICE_UNAVAILABLE, "too many requests are in work\n");
        };
        // On a thread of its own, which goes on when the caller leaves: what is begun under a lock is finished there.
        let done = tokio::task::spawn_blocking(move || {
            let response = work(&face, &body);
            drop(place);
            response
        });
        done.await
            .unwrap_or_else(|_| text(StatusCode::INTERNAL_SERVER_ERROR, "the witness failed\n"))
    };
    let response = match tokio::time::timeout(WITNESS_REQUEST_TIMEOUT, working).await {
        Ok(response) => response,
        Err(_) => text(StatusCode::REQUEST_TIMEOUT, "the request took too long\n"),
    };
    metrics.answered(call, response.status());
    response
}

fn status_of(status: u16) -> StatusCode {
    StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
}

fn refusal(verdict: &Verdict) -> Response {
    let status = status_of(verdict.status());
    match verdict {
        Verdict::OtherSize(size) => {
            (status, [(header::CONTENT_TYPE, SIZE_CONTENT_TYPE)], format!("{size}\n")).into_response()
        }
        Verdict::Malformed(why) | Verdict::NotSigned(why) | Verdict::Inconsistent(why) => {
            text(status, format!("{why}\n"))
        }
        Verdict::UnknownLog => text(status, "the witness does not know this log\n"),
        Verdict::Cosign(_) => status.into_response(),
    }
}

fn no_log(verdict: &LogVerdict) -> Response {
    let status = status_of(verdict.status());
    match verdict {
        LogVerdict::Malformed(why) | LogVerdict::NotSigned(why) | LogVerdict::Foreign(why) => {
            text(status, format!("{why}\n"))
        }
        LogVerdict::UnknownLog => text(status, "the witness does not know the log that says this\n"),
        LogVerdict::OtherSuccessor(known) => text(status, format!("that log has named another one before: {known}\n")),
        LogVerdict::Follow(_) | LogVerdict::Followed => status.into_response(),
    }
}

async fn checkpoint(State(face): State<Face>, Path(origin): Path<String>) -> Response {
    // The log's lock may be held for a flush.
    let store = face.store;
    let found = tokio::task::spawn_blocking(move || store.checkpoint(&origin)).await;
    let response = match found {
        Ok(Some(note)) => text(StatusCode::OK, note),
        Ok(None) => text(StatusCode::NOT_FOUND, "no checkpoint of this log was cosigned\n"),
        Err(_) => text(StatusCode::INTERNAL_SERVER_ERROR, "the witness failed\n"),
    };
    face.metrics.answered(Call::Checkpoint, response.status());
    response
}

fn text(status: StatusCode, body: impl Into<String>) -> Response {
    let kind = [(header::CONTENT_TYPE, "text/plain; charset=utf-8")];
    (status, kind, body.into()).into_response()
}
