//! One request for a public file, and what caches may do with its answer.

use std::{convert::Infallible, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use mintage_identity::{IssuerKeyId, UnixTime};
use mintage_revocation::RevocationError;
use time::{OffsetDateTime, format_description::well_known::Rfc2822};
use tokio::{sync::Semaphore, time::timeout};
use tracing::warn;

use super::{
    asked::Asked,
    editions::{Editions, Time},
};
use crate::{
    desk::Desk,
    in_place::in_place,
    limits::{CRL_CACHED_FOR, HEARTBEAT_INTERVAL, PUBLIC_IN_WORK_MAX, PUBLIC_REQUEST_TIMEOUT},
    published::Signed,
};

type Answer = Response<Full<Bytes>>;

/// Octets of an object's signature, which no two objects share, that make its tag.
const TAG: std::ops::Range<usize> = 256..272;

/// What every request works with.
pub(super) struct Room {
    pub(super) desk: Arc<Desk>,
    editions: Editions,
    in_work: Arc<Semaphore>,
}

/// A file, with what its headers say.
struct File {
    octets: Bytes,
    kind: &'static str,
    tag: String,
    keep: String,
    modified: Option<UnixTime>,
}

/// Why a request gets no file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum No {
    Method,
    Path,
    Gone,
    UnknownKey,
    Late,
    Unsigned,
}

impl Room {
    pub(super) fn new(desk: Arc<Desk>) -> Self {
        Self {
            desk,
            editions: Editions::default(),
            in_work: Arc::new(Semaphore::new(PUBLIC_IN_WORK_MAX)),
        }
    }

    /// Answers one request of whoever it is.
    pub(super) async fn answer<B>(self: Arc<Self>, request: Request<B>) -> Result<Answer, Infallible> {
        let asked = Asked::parse(request.uri().path()).filter(|_| request.uri().query().is_none());
        let word = asked.as_ref().map_or("other", Asked::word);
        let metrics = self.desk.metrics.clone();
        let answer = match self.read(request.method(), asked).await {
            Ok(file) => file.answer(request.headers()),
            Err(no) => no.answer(),
        };
        metrics.public_request(word, status_word(answer.status()));
        Ok(answer)
    }

    async fn read(self: Arc<Self>, method: &Method, asked: Option<Asked>) -> Result<File, No> {
        if method != Method::GET && method != Method::HEAD {
            return Err(No::Method);
        }
        match asked.ok_or(No::Path)? {
            Asked::Crl(issuer) => self.list(issuer),
            Asked::Latest => {
                // The time first: what is published after it was read may be missing.
                let now = self.desk.news_time();
                let signed = self.editions.latest(&self.desk.publisher.latest(), now);
                signed.map(|signed| File::of_latest(&signed)).map_err(unsigned)
            }
            asked => {
                let found = timeout(PUBLIC_REQUEST_TIMEOUT, self.clone().sign(asked));
                let signed = found.await.map_err(|_| No::Late)??.ok_or(No::Gone)?;
                Ok(File::of_object(&signed, self.now()))
            }
        }
    }

    /// Signs, or finds what was signed, on a thread that may wait.
    async fn sign(self: Arc<Self>, asked: Asked) -> Result<Option<Signed>, No> {
        let room = self.clone();
        let signed = in_place(&self.in_work, move || {
            let (editions, now) = (&room.editions, room.desk.news_time());
            let time = Time {
                now,
                published: room.desk.publisher.sequence(),
            };
            match asked {
                Asked::Snapshot { epoch, sequence } => editions.snapshot(epoch, sequence, time),
                Asked::Delta { epoch, from, to } => editions.delta(epoch, from, to, time),
                Asked::Latest | Asked::Crl(_) => Ok(None),
            }
        });
        signed.await.ok_or(No::Late)?.map_err(unsigned)
    }

    fn list(&self, issuer: IssuerKeyId) -> Result<File, No> {
        let lists = self.desk.crls.current().ok_or(No::Late)?;
        let found = lists.iter().find(|one| one.issuer == issuer).ok_or(No::UnknownKey)?;
        let left = found.list.next_update().since(self.now());
        Ok(File {
            octets: found.octets.clone(),
            kind: "application/pkix-crl",
            tag: format!("\"{}\"", found.list.number()),
            keep: format!("public, max-age={}", left.min(CRL_CACHED_FOR).as_secs()),
            modified: Some(found.list.this_update()),
        })
    }

    fn now(&self) -> UnixTime {
        self.desk.clock.unguarded()
    }
}

fn unsigned(problem: RevocationError) -> No {
    warn!(%problem, "a public file of the revoked set cannot be signed");
    No::Unsigned
}

impl File {
    fn of_latest(signed: &Signed) -> Self {
        let seconds = HEARTBEAT_INTERVAL.as_secs();
        Self::signed(signed, format!("public, max-age={seconds}"))
    }

    /// What stands under its name stays good until it may no longer be taken up; then the name means nothing any more.
    fn of_object(signed: &Signed, now: UnixTime) -> Self {
        let left: Duration = signed.until.since(now);
        Self::signed(signed, format!("public, max-age={}, immutable", left.as_secs()))
    }

    fn signed(signed: &Signed, keep: String) -> Self {
        let tag = signed.bytes.get(TAG).map(hex::encode).unwrap_or_default();
        Self {
            octets: signed.bytes.clone(),
            kind: "application/octet-stream",
            tag: format!("\"{tag}\""),
            keep,
            modified: None,
        }
    }

    /// The file, or that the reader has it already.
    fn answer(self, asked: &HeaderMap) -> Answer {
        let modified = self.modified.and_then(http_date);
        let is_held = match asked.contains_key(header::IF_NONE_MATCH) {
            true => {
                values(asked, header::IF_NONE_MATCH).any(|tag| tag == "*" || tag.trim_start_matches("W/") == self.tag)
            }
            false => modified.as_ref().is_some_and(|date| {
                asked
                    .get(header::IF_MODIFIED_SINCE)
                    .is_some_and(|since| since.as_bytes() == date.as_bytes())
            }),
        };
        let mut answer = match is_held {
            true => Response::new(Full::default()),
            false => Response::new(Full::new(self.octets)),
        };
        if is_held {
            *answer.status_mut() = StatusCode::NOT_MODIFIED;
        }
        let headers = answer.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(self.kind));
        let rest = [
            (header::ETAG, Some(self.tag)),
            (header::CACHE_CONTROL, Some(self.keep)),
            (header::LAST_MODIFIED, modified),
        ];
        for (name, value) in rest {
            if let Some(value) = value.and_then(|value| HeaderValue::try_from(value).ok()) {
                headers.insert(name, value);
            }
        }
        answer
    }
}

/// The members of a header that is a list.
fn values(headers: &HeaderMap, name: HeaderName) -> impl Iterator<Item = &str> {
    let lines = headers
        .get_all(name)
        .into_iter()
        .filter_map(|value| value.to_str().ok());
    lines.flat_map(|line| line.split(',')).map(str::trim)
}

/// RFC 9110, section 5.6.7.
fn http_date(time: UnixTime) -> Option<String> {
    let date = OffsetDateTime::from_unix_timestamp(time.seconds()).ok()?;
    Some(date.format(&Rfc2822).ok()?.replace("+0000", "GMT"))
}

impl No {
    fn answer(self) -> Answer {
        let (status, told) = match self {
            Self::Method => (
                StatusCode::METHOD_NOT_ALLOWED,
                "these files are read with GET and HEAD\n",
            ),
            Self::Path => (
                StatusCode::NOT_FOUND,
                "there is /revocation/v1/latest, /revocation/v1/snapshot/<epoch>-<sequence>, \
                 /revocation/v1/delta/<epoch>-<from>-<to> and /crl/<key id>.crl\n",
            ),
            Self::Gone => (
                StatusCode::NOT_FOUND,
                "not here, or no longer: take /revocation/v1/latest, then the snapshot of the epoch and sequence it names\n",
            ),
            Self::UnknownKey => (StatusCode::NOT_FOUND, "no CA key of this id has a list here\n"),
            Self::Late => (StatusCode::SERVICE_UNAVAILABLE, "it is not signed yet; ask again\n"),
            Self::Unsigned => (
                StatusCode::SERVICE_UNAVAILABLE,
                "it cannot be signed now; the CA's log tells why\n",
            ),
        };
        let mut answer = Response::new(Full::new(Bytes::from_static(told.as_bytes())));
        *answer.status_mut() = status;
        let headers = answer.headers_mut();
        headers.insert(
            header::CONTENT_TYPE,
            HeaderValue::from_static("text/plain; charset=utf-8"),
        );
        // What is no file today may be one in a moment.
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        match status {
            StatusCode::METHOD_NOT_ALLOWED => headers.insert(header::ALLOW, HeaderValue::from_static("GET, HEAD")),
            StatusCode::SERVICE_UNAVAILABLE => headers.insert(header::RETRY_AFTER, HeaderValue::from_static("1")),
            _ => None,
        };
        answer
    }
}

/// The status, as a label.
fn status_word(status: StatusCode) -> &'static str {
    match status {
        StatusCode::OK => "200",
        StatusCode::NOT_MODIFIED => "304",
        StatusCode::NOT_FOUND => "404",
        StatusCode::METHOD_NOT_ALLOWED => "405",
        _ => "503",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file() -> File {
        File {
            octets: Bytes::from_static(b"list"),
            kind: "application/pkix-crl",
            tag: "\"17\"".to_owned(),
            keep: "public, max-age=5".to_owned(),
            modified: Some(UnixTime::from_seconds(784_111_777)),
        }
    }

    fn asked(name: HeaderName, value: &str) -> HeaderMap {
        HeaderMap::from_iter([(name, HeaderValue::from_str(value).unwrap())])
    }

    #[test]
    fn who_has_it_already_is_told_so() {
        let status = |headers: HeaderMap| file().answer(&headers).status().as_u16();
        assert_eq!(status(HeaderMap::new()), 200);
        for (value, wanted) in [
            ("\"17\"", 304),
            ("W/\"17\"", 304),
            ("\"1\", \"17\"", 304),
            ("*", 304),
            ("\"1\"", 200),
        ] {
            assert_eq!(status(asked(header::IF_NONE_MATCH, value)), wanted, "{value}");
        }
        let date = "Sun, 06 Nov 1994 08:49:37 GMT";
        assert_eq!(status(asked(header::IF_MODIFIED_SINCE, date)), 304);
        assert_eq!(
            status(asked(header::IF_MODIFIED_SINCE, "Sun, 06 Nov 1994 08:49:36 GMT")),
            200
        );
        let mut both = asked(header::IF_NONE_MATCH, "\"1\"");
        both.extend(asked(header::IF_MODIFIED_SINCE, date));
        assert_eq!(status(both), 200, "the tag decides");
        let answer = file().answer(&HeaderMap::new());
        assert_eq!(answer.headers()[header::LAST_MODIFIED], date);
        assert_eq!(answer.headers()[header::ETAG], "\"17\"");
    }

    #[test]
    fn no_cache_keeps_a_refusal_and_each_status_has_its_word() {
        for no in [No::Method, No::Path, No::Gone, No::UnknownKey, No::Late, No::Unsigned] {
            let answer = no.answer();
            assert_eq!(answer.headers()[header::CACHE_CONTROL], "no-store", "{no:?}");
            assert_eq!(status_word(answer.status()), answer.status().as_str(), "{no:?}");
        }
        assert_eq!(status_word(StatusCode::NOT_MODIFIED), "304");
    }
}
