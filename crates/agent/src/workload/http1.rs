//! Look-ups over plain HTTP/1.1 on the socket, for proxies and scripts: one question in a path, or one certificate in a
//! header. Reading alone; who asks decides nothing but whose turn it is.

use std::{convert::Infallible, pin::pin, sync::Arc};

use bytes::Bytes;
use http::{
    HeaderValue, Method, Request, Response, StatusCode,
    header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, RETRY_AFTER},
};
use http_body_util::Full;
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use serde_json::json;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    time::timeout,
};
use tokio_util::sync::CancellationToken;

use super::checks::Checks;
use crate::{
    limits::{HTTP_FIELDS_MAX, HTTP_HEAD_BYTES_MAX, HTTP_HEAD_WAIT, LOOKUP_AGAIN_AFTER, SOCKET_LAST_WAIT},
    lookup::{Answer, Particulars, Route, RouteProblem, Unknown, unescape_chain},
    shared::Shared,
};

/// The field with the certificate: URL-escaped PEM.
const CERTIFICATE: &str = "x-client-cert";
/// The field of an answer that says why.
const REASON: &str = "x-mintage-reason";

type Page = Response<Full<Bytes>>;

/// What the questions of one connection are answered by.
pub(super) struct Asked {
    pub(super) shared: Arc<Shared>,
    pub(super) checks: Arc<Checks>,
    /// Who asks.
    pub(super) uid: u32,
}

/// Serves one connection until its end, or until `stop`.
pub(super) async fn serve<S>(stream: S, asked: Asked, stop: CancellationToken)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let asked = &asked;
    let service = service_fn(move |request: Request<Incoming>| async move {
        // Whatever body there is is not waited for.
        let head = request.map(drop);
        Ok::<_, Infallible>(answer(asked, &head).await)
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HTTP_HEAD_WAIT)
        .max_buf_size(HTTP_HEAD_BYTES_MAX)
        .max_headers(HTTP_FIELDS_MAX)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = stop.cancelled() => {
            connection.as_mut().graceful_shutdown();
            // Half a request is not waited for: what is shared with this task keeps the data directory locked.
            timeout(SOCKET_LAST_WAIT, connection).await.unwrap_or(Ok(()))
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "an HTTP connection of the socket ended early");
    }
}

async fn answer(asked: &Asked, request: &Request<()>) -> Page {
    let shared = &asked.shared;
    let target = request.uri().path_and_query().map_or("*", |target| target.as_str());
    match Route::parse(target) {
        Ok(Route::Auth) => {
            let answer = auth(asked, request).await;
            shared.note_answer(&answer);
            auth_page(&answer)
        }
        Ok(Route::Ask(question)) if request.method() == Method::GET => ask(shared, &question),
        Ok(Route::Ask(_)) => {
            shared.metrics.lookup("wrong_method");
            let mut page = plain(StatusCode::METHOD_NOT_ALLOWED, "use GET\n");
            page.headers_mut().insert(ALLOW, HeaderValue::from_static("GET"));
            page
        }
        Err(problem) => {
            shared.metrics.lookup("wrong_path");
            no_route(problem)
        }
    }
}

fn no_route(problem: RouteProblem) -> Page {
    match problem {
        RouteProblem::NotFound => plain(
            StatusCode::NOT_FOUND,
            "there are /v1/revocation/{issuer}/{serial} and /v1/revocation/auth\n",
        ),
        RouteProblem::TooLong => plain(StatusCode::URI_TOO_LONG, "path: is too long\n"),
        RouteProblem::Wrong(problem) => plain(StatusCode::BAD_REQUEST, &format!("{problem}\n")),
    }
}

async fn auth(asked: &Asked, request: &Request<()>) -> Answer {
    let mut values = request.headers().get_all(CERTIFICATE).iter();
    match (values.next(), values.next()) {
        (Some(value), None) if !value.is_empty() => match unescape_chain(CERTIFICATE, value.as_bytes()) {
            Ok(chain) => asked.checks.of_chain(asked.uid, &asked.shared, chain).await,
            Err(problem) => Answer::Unknown(Unknown::Invalid(problem)),
        },
        _ => Answer::Unknown(Unknown::Invalid(format!(
            "{CERTIFICATE}: must be there once, with the client's certificate as URL-escaped PEM"
        ))),
    }
}

/// 204 for a good certificate, 403 for one that is not, 503 while that is not known.
fn auth_page(answer: &Answer) -> Page {
    let code = match answer {
        Answer::Good { .. } => StatusCode::NO_CONTENT,
        other if other.is_for_now() => StatusCode::SERVICE_UNAVAILABLE,
        _ => StatusCode::FORBIDDEN,
    };
    let body = match code {
        StatusCode::NO_CONTENT => String::new(),
        _ => format!("{}\n", answer.problem()),
    };
    finished(plain(code, &body), answer)
}

/// 200 with an answer, 503 while there is none, 400 for a question that cannot be answered as it is.
fn ask(shared: &Shared, asked: &Particulars) -> Page {
    let now = shared.wall();
    let (sequence, age) = {
        let view = shared.desk.view();
        (view.sequence(), view.age(now))
    };
    let answer = shared.desk.of_shown(&asked.shown(), now);
    shared.note_answer(&answer);
    let (status, revoked_by) = match &answer {
        Answer::Good { .. } => ("good", None),
        Answer::Revoked(why) => ("revoked", Some(why.as_str())),
        Answer::Unknown(_) => ("unknown", None),
    };
    let code = match &answer {
        other if other.is_for_now() => StatusCode::SERVICE_UNAVAILABLE,
        Answer::Unknown(Unknown::Incomplete(_)) => StatusCode::BAD_REQUEST,
        _ => StatusCode::OK,
    };
    let body = json!({
        "schema_version": 1,
        "status": status,
        "cause": (status == "unknown").then(|| answer.word()),
        "revoked_by": revoked_by,
        "problem": answer.problem(),
        "missing": answer.missing(),
        "tolerated": answer == Answer::Good { tolerated: true },
        "sequence": sequence,
        "filter_age_ms": age.map(|age| u64::try_from(age.as_millis()).unwrap_or(u64::MAX)),
    });
    finished(page(code, "application/json", format!("{body}\n")), &answer)
}

fn finished(mut page: Page, answer: &Answer) -> Page {
    let fields = page.headers_mut();
    fields.insert(REASON, HeaderValue::from_static(answer.word()));
    if answer.is_for_now() {
        fields.insert(RETRY_AFTER, HeaderValue::from(LOOKUP_AGAIN_AFTER.as_secs()));
    }
    page
}

fn plain(code: StatusCode, body: &str) -> Page {
    page(code, "text/plain; charset=utf-8", body.to_owned())
}

fn page(code: StatusCode, kind: &'static str, body: String) -> Page {
    let mut page = Response::new(Full::new(Bytes::from(body)));
    *page.status_mut() = code;
    let fields = page.headers_mut();
    fields.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    // A kept answer would outlive a revocation.
    fields.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    page
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_to_ask_again_is_told_when_and_good_is_good_by_an_old_set_too() {
        let of = |answer: Answer| {
            let page = auth_page(&answer);
            let reason = page.headers()[REASON].to_str().unwrap().to_owned();
            (page.status().as_u16(), reason, page.headers().contains_key(RETRY_AFTER))
        };
        let is = |code: u16, reason: &str, again| (code, reason.to_owned(), again);
        assert_eq!(of(Answer::Unknown(Unknown::Busy)), is(503, "busy", true));
        assert_eq!(of(Answer::Unknown(Unknown::Stale)), is(503, "stale", true));
        assert_eq!(of(Answer::Unknown(Unknown::NotCovered)), is(403, "not_covered", false));
        for tolerated in [false, true] {
            assert_eq!(of(Answer::Good { tolerated }), is(204, "good", false));
        }
    }
}
