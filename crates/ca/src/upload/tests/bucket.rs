//! A bucket on loopback that speaks as much of S3 as is asked of it, checks every signature itself, and fails on demand.

use std::{
    collections::{BTreeMap, VecDeque},
    convert::Infallible,
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use ring::{digest, hmac};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpListener,
};
use tokio_rustls::TlsAcceptor;

/// The bucket's name.
pub(super) const NAME: &str = "ledger-copy";
/// The region that requests are signed for.
pub(super) const REGION: &str = "eu-test-1";
/// Objects of one page of a list.
const PAGE: usize = 2;

/// What happens to a request instead of, or after, what was asked.
#[derive(Clone, Copy, Debug)]
pub(super) enum Fault {
    /// Answered with this status; nothing is done.
    Status(u16),
    /// Never answered; nothing is done.
    Silent,
    /// Done, and answered as if it had failed.
    Lost(u16),
}

/// A request as it came.
#[derive(Clone, Debug)]
pub(super) struct Seen {
    pub(super) method: Method,
    pub(super) key: String,
    pub(super) query: String,
    pub(super) headers: HeaderMap,
}

impl Seen {
    pub(super) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }
}

#[derive(Default)]
struct State {
    objects: BTreeMap<String, (Bytes, String)>,
    uploads: BTreeMap<String, BTreeMap<u32, Bytes>>,
    seen: Vec<Seen>,
    faults: VecDeque<(Method, Fault)>,
    keys: BTreeMap<String, String>,
    made: u64,
}

/// The bucket; it ends with the runtime.
#[derive(Clone)]
pub(super) struct Served {
    pub(super) address: SocketAddr,
    state: Arc<Mutex<State>>,
}

impl Served {
    /// Serves an empty bucket to whoever has this access key.
    pub(super) async fn start(tls: Option<TlsAcceptor>, key: (&str, &str)) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let served = Self {
            address: listener.local_addr().unwrap(),
            state: Arc::default(),
        };
        served.allow(key);
        let serving = served.clone();
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let (served, tls) = (serving.clone(), tls.clone());
                tokio::spawn(async move {
                    match tls {
                        None => served.connection(stream).await,
                        Some(tls) => {
                            // Who does not trust it leaves.
                            if let Ok(stream) = tls.accept(stream).await {
                                served.connection(stream).await;
                            }
                        }
                    }
                });
            }
        });
        served
    }

    async fn connection(&self, stream: impl AsyncRead + AsyncWrite + Unpin) {
        let answer = service_fn(|request| self.answer(request));
        let _ = http1::Builder::new()
            .serve_connection(TokioIo::new(stream), answer)
            .await;
    }

    /// Takes this access key, and no other any more.
    pub(super) fn allow(&self, (id, secret): (&str, &str)) {
        self.state.lock().unwrap().keys = BTreeMap::from([(id.to_owned(), secret.to_owned())]);
    }

    /// Fails the next request with this method.
    pub(super) fn fail(&self, method: Method, fault: Fault) {
        self.state.lock().unwrap().faults.push_back((method, fault));
    }

    pub(super) fn object(&self, key: &str) -> Option<Bytes> {
        self.state
            .lock()
            .unwrap()
            .objects
            .get(key)
            .map(|(bytes, _)| bytes.clone())
    }

    pub(super) fn keys(&self) -> Vec<String> {
        self.state.lock().unwrap().objects.keys().cloned().collect()
    }

    pub(super) fn place(&self, key: &str, bytes: &[u8]) {
        self.state.lock().unwrap().place(key, Bytes::copy_from_slice(bytes));
    }

    /// What was asked since the last call.
    pub(super) fn seen(&self) -> Vec<Seen> {
        std::mem::take(&mut self.state.lock().unwrap().seen)
    }

    async fn answer(&self, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
        let (head, body) = request.into_parts();
        let body = body.collect().await.map(|body| body.to_bytes()).unwrap_or_default();
        let path = head
            .uri
            .path()
            .strip_prefix(&format!("/{NAME}"))
            .unwrap_or("?")
            .to_owned();
        let seen = Seen {
            method: head.method,
            key: path.trim_start_matches('/').to_owned(),
            query: head.uri.query().unwrap_or_default().to_owned(),
            headers: head.headers,
        };
        let fault = {
            let mut state = self.state.lock().unwrap();
            state.seen.push(seen.clone());
            let wanted = state.faults.iter().position(|(method, _)| *method == seen.method);
            wanted.and_then(|at| state.faults.remove(at)).map(|(_, fault)| fault)
        };
        match fault {
            Some(Fault::Status(status)) => return Ok(plain(status, "<Error/>")),
            Some(Fault::Silent) => std::future::pending().await,
            _ => {}
        }
        let mut state = self.state.lock().unwrap();
        let done = match state.is_signed(&seen, &body) {
            true => state.handle(&seen, body),
            false => plain(403, "<Error><Code>SignatureDoesNotMatch</Code></Error>"),
        };
        Ok(match fault {
            Some(Fault::Lost(status)) => plain(status, "<Error/>"),
            _ => done,
        })
    }
}

impl State {
    fn place(&mut self, key: &str, bytes: Bytes) -> String {
        self.made += 1;
        let tag = format!("\"{}\"", self.made);
        self.objects.insert(key.to_owned(), (bytes, tag.clone()));
        tag
    }

    /// AWS Signature Version 4, computed anew from what came.
    fn is_signed(&self, seen: &Seen, body: &[u8]) -> bool {
        let hash = hex::encode(digest::digest(&digest::SHA256, body));
        let sum = STANDARD.encode(digest::digest(&digest::SHA256, body));
        let is_put = seen.method == Method::PUT && seen.header("x-amz-copy-source").is_empty();
        if seen.header("x-amz-content-sha256") != hash || (is_put && seen.header("x-amz-checksum-sha256") != sum) {
            return false;
        }
        let field = |name: &str| {
            let (_, rest) = seen.header("authorization").split_once(&format!("{name}="))?;
            Some(rest.split(',').next()?.trim().to_owned())
        };
        let (Some(scope), Some(names), Some(signature)) =
            (field("Credential"), field("SignedHeaders"), field("Signature"))
        else {
            return false;
        };
        let (id, scope) = scope.split_once('/').unwrap();
        let Some(secret) = self.keys.get(id) else { return false };
        let mut query: Vec<String> = seen
            .query
            .split('&')
            .filter(|part| !part.is_empty())
            .map(str::to_owned)
            .collect();
        query
            .iter_mut()
            .filter(|part| !part.contains('='))
            .for_each(|part| part.push('='));
        query.sort_unstable();
        let headers: String = names
            .split(';')
            .map(|name| format!("{name}:{}\n", seen.header(name).trim()))
            .collect();
        let path = match seen.key.as_str() {
            "" => format!("/{NAME}"),
            key => format!("/{NAME}/{key}"),
        };
        let canonical = format!(
            "{}\n{path}\n{}\n{headers}\n{names}\n{hash}",
            seen.method,
            query.join("&")
        );
        let canonical = hex::encode(digest::digest(&digest::SHA256, canonical.as_bytes()));
        let text = format!("AWS4-HMAC-SHA256\n{}\n{scope}\n{canonical}", seen.header("x-amz-date"));
        let parts: Vec<&str> = scope.split('/').collect();
        let mut key = format!("AWS4{secret}").into_bytes();
        for part in &parts {
            key = mac(&key, part);
        }
        parts[1..] == [REGION, "s3", "aws4_request"] && hex::encode(mac(&key, &text)) == signature
    }

    fn handle(&mut self, seen: &Seen, body: Bytes) -> Response<Full<Bytes>> {
        let query = |name: &str| {
            let pairs = seen
                .query
                .split('&')
                .map(|part| part.split_once('=').unwrap_or((part, "")));
            pairs
                .filter(|(found, _)| *found == name)
                .map(|(_, value)| value.to_owned())
                .next()
        };
        let key = seen.key.as_str();
        match (&seen.method, query("uploadId"), query("uploads")) {
            (&Method::POST, None, Some(_)) => {
                self.made += 1;
                let id = self.made.to_string();
                self.uploads.insert(id.clone(), BTreeMap::new());
                plain(
                    200,
                    &format!(
                        "<InitiateMultipartUploadResult><UploadId>{id}</UploadId></InitiateMultipartUploadResult>"
                    ),
                )
            }
            (&Method::PUT, Some(id), _) => {
                let number = query("partNumber").unwrap().parse().unwrap();
                let source = seen
                    .header("x-amz-copy-source")
                    .trim_start_matches(&format!("{NAME}/"))
                    .to_owned();
                let part = match source.as_str() {
                    "" => body,
                    source => self.objects[source].0.clone(),
                };
                self.uploads.get_mut(&id).unwrap().insert(number, part);
                tagged(
                    plain(200, "<CopyPartResult><ETag>\"part\"</ETag></CopyPartResult>"),
                    "\"part\"",
                )
            }
            (&Method::POST, Some(id), _) => {
                let parts = self.uploads.remove(&id).unwrap();
                let whole: Vec<u8> = parts.values().flat_map(|part| part.to_vec()).collect();
                let answer = self.put(seen, whole.into());
                match answer.status() {
                    StatusCode::OK => plain(
                        200,
                        "<CompleteMultipartUploadResult><ETag>\"whole\"</ETag></CompleteMultipartUploadResult>",
                    ),
                    _ => answer,
                }
            }
            (&Method::DELETE, id, _) => {
                match id {
                    Some(id) => drop(self.uploads.remove(&id)),
                    None => drop(self.objects.remove(key)),
                }
                plain(204, "")
            }
            (&Method::PUT, None, _) => self.put(seen, body),
            (&Method::GET, _, _) if query("list-type").is_some() => {
                self.list(&query("prefix").unwrap_or_default(), query("continuation-token"))
            }
            (&Method::GET, _, _) => match self.objects.get(key) {
                None => plain(404, "<Error><Code>NoSuchKey</Code></Error>"),
                Some((bytes, tag)) => tagged(answer(200, bytes.clone()), tag),
            },
            _ => plain(400, "<Error/>"),
        }
    }

    fn put(&mut self, seen: &Seen, body: Bytes) -> Response<Full<Bytes>> {
        let there = self.objects.get(&seen.key).map(|(_, tag)| tag.as_str());
        let refused = match (seen.header("if-none-match"), seen.header("if-match"), there) {
            ("*", _, Some(_)) => Some(412),
            (_, wanted, Some(tag)) if !wanted.is_empty() && wanted != tag => Some(412),
            (_, wanted, None) if !wanted.is_empty() => Some(404),
            _ => None,
        };
        match refused {
            Some(status) => plain(status, "<Error/>"),
            None => {
                let tag = self.place(&seen.key, body);
                tagged(plain(200, ""), &tag)
            }
        }
    }

    fn list(&self, prefix: &str, from: Option<String>) -> Response<Full<Bytes>> {
        let prefix = prefix.replace("%2F", "/");
        let from: usize = from.map_or(0, |from| from.parse().unwrap());
        let all: Vec<_> = self
            .objects
            .iter()
            .filter(|(key, _)| key.starts_with(&prefix))
            .collect();
        let page = all.iter().skip(from).take(PAGE);
        let rows: String = page
            .map(|(key, (bytes, _))| {
                let size = bytes.len();
                format!(
                    "<Contents><Key>{key}</Key><Size>{size}</Size><LastModified>2026-01-01T00:00:00.000Z</LastModified>\
                     <ETag>\"x\"</ETag></Contents>"
                )
            })
            .collect();
        let next = match from + PAGE < all.len() {
            true => format!("<NextContinuationToken>{}</NextContinuationToken>", from + PAGE),
            false => String::new(),
        };
        plain(200, &format!("<ListBucketResult>{rows}{next}</ListBucketResult>"))
    }
}

fn mac(key: &[u8], text: &str) -> Vec<u8> {
    hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), text.as_bytes())
        .as_ref()
        .to_vec()
}

fn plain(status: u16, body: &str) -> Response<Full<Bytes>> {
    answer(status, Bytes::copy_from_slice(body.as_bytes()))
}

fn answer(status: u16, body: Bytes) -> Response<Full<Bytes>> {
    let mut answer = Response::new(Full::new(body));
    *answer.status_mut() = StatusCode::from_u16(status).unwrap();
    let date = "Thu, 01 Jan 2026 00:00:00 GMT".parse().unwrap();
    answer.headers_mut().insert("last-modified", date);
    answer
}

fn tagged(mut answer: Response<Full<Bytes>>, tag: &str) -> Response<Full<Bytes>> {
    answer.headers_mut().insert("etag", tag.parse().unwrap());
    answer
}
