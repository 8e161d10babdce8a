//! HTTP/1.1 to the store, over the same TLS as everything here: who speaks for the store is what `ca_file` says, and nobody else.

use std::{
    error::Error,
    sync::{Arc, Mutex, PoisonError},
};

use async_trait::async_trait;
use http::{Method, Uri, header::HOST};
use http_body_util::{BodyExt, Limited};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use object_store::{
    ClientConfigKey, ClientOptions,
    client::{
        HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest, HttpRequestBody, HttpResponse,
        HttpResponseBody, HttpService,
    },
};
use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::TlsConnector;

use crate::limits::{
    UPLOAD_ANSWER_BYTES_MAX, UPLOAD_CONNECT_TIMEOUT, UPLOAD_HEAD_BYTES_MAX, UPLOAD_HEADERS_MAX, UPLOADS_AT_ONCE,
};

/// Makes HTTP clients.
#[derive(Debug)]
pub(super) struct Connector {
    /// None where the store is reached by plain HTTP on this machine.
    tls: Option<Arc<ClientConfig>>,
}

impl Connector {
    pub(super) fn new(tls: Option<Arc<ClientConfig>>) -> Self {
        Self { tls }
    }
}

impl HttpConnector for Connector {
    fn connect(&self, options: &ClientOptions) -> object_store::Result<HttpClient> {
        let plain = options.get_config_value(&ClientConfigKey::AllowHttp);
        Ok(HttpClient::new(Service {
            tls: self.tls.clone(),
            plain: plain.as_deref() == Some("true"),
            idle: Mutex::default(),
        }))
    }
}

type Sender = SendRequest<HttpRequestBody>;

/// One client: its connections are kept open between requests.
#[derive(Debug)]
struct Service {
    tls: Option<Arc<ClientConfig>>,
    /// Plain HTTP is allowed: to this machine, or to the instance's own metadata.
    plain: bool,
    idle: Mutex<Vec<(String, Sender)>>,
}

fn failed(kind: HttpErrorKind, problem: impl Into<Box<dyn Error + Send + Sync>>) -> HttpError {
    HttpError::new_boxed(kind, problem.into())
}

#[async_trait]
impl HttpService for Service {
    async fn call(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let (mut head, body) = request.into_parts();
        let unusable = || failed(HttpErrorKind::Unknown, format!("{} names no host to ask", head.uri));
        let authority = head.uri.authority().cloned().ok_or_else(unusable)?;
        let is_tls = match head.uri.scheme_str() {
            Some("https") => true,
            Some("http") if self.plain => false,
            _ => return Err(failed(HttpErrorKind::Unknown, format!("{} is not HTTPS", head.uri))),
        };
        let key = format!("{is_tls} {authority}");
        let mut sender = match self.kept(&key) {
            Some(kept) => kept,
            None => self.open(is_tls, authority.host(), authority.port_u16()).await?,
        };
        // What is asked of an object streams to whoever compares it; every other answer is held as a whole.
        let is_object = head.method == Method::GET && head.uri.query().is_none();
        let path = head.uri.path_and_query().map_or("/", |path| path.as_str()).to_owned();
        let host = authority.as_str().parse();
        head.headers
            .entry(HOST)
            .or_insert(host.map_err(|error| failed(HttpErrorKind::Unknown, error))?);
        head.uri = path
            .parse::<Uri>()
            .map_err(|error| failed(HttpErrorKind::Unknown, error))?;
        let sent = async {
            sender.ready().await?;
            sender.send_request(HttpRequest::from_parts(head, body)).await
        };
        let answer = sent.await.map_err(of_hyper)?;
        self.keep(key, sender);
        let (head, body) = answer.into_parts();
        let body = match is_object {
            true => HttpResponseBody::new(body.map_err(of_hyper)),
            false => {
                let limited = Limited::new(body, UPLOAD_ANSWER_BYTES_MAX);
                HttpResponseBody::new(limited.map_err(|error| failed(HttpErrorKind::Decode, error)))
            }
        };
        Ok(HttpResponse::from_parts(head, body))
    }
}

impl Service {
    /// A connection to the same place that is free and open.
    fn kept(&self, key: &str) -> Option<Sender> {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        idle.retain(|(_, sender)| !sender.is_closed());
        let at = idle.iter().position(|(to, sender)| to == key && sender.is_ready())?;
        Some(idle.swap_remove(at).1)
    }

    fn keep(&self, key: String, sender: Sender) {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() >= 2 * UPLOADS_AT_ONCE {
            idle.remove(0);
        }
        idle.push((key, sender));
    }

    async fn open(&self, is_tls: bool, host: &str, port: Option<u16>) -> Result<Sender, HttpError> {
        let name = host.trim_matches(['[', ']']).to_owned();
        let place = (name.as_str(), port.unwrap_or(if is_tls { 443 } else { 80 }));
        let opened = async {
            let stream = TcpStream::connect(place)
                .await
                .map_err(|error| failed(HttpErrorKind::Connect, format!("no connection to {name}: {error}")))?;
            let _ = stream.set_nodelay(true);
            if !is_tls {
                return handshake(stream).await;
            }
            let config = self.tls.clone().ok_or_else(|| {
                failed(
                    HttpErrorKind::Unknown,
                    "HTTPS without a ca_file that says whom to trust",
                )
            })?;
            let server = ServerName::try_from(name.clone()).map_err(|error| failed(HttpErrorKind::Unknown, error))?;
            let stream = TlsConnector::from(config).connect(server, stream).await;
            handshake(stream.map_err(|error| failed(HttpErrorKind::Connect, format!("no TLS with {name}: {error}")))?)
                .await
        };
        match timeout(UPLOAD_CONNECT_TIMEOUT, opened).await {
            Ok(opened) => opened,
            Err(_) => Err(failed(
                HttpErrorKind::Connect,
                format!("no connection to {name} within {UPLOAD_CONNECT_TIMEOUT:?}"),
            )),
        }
    }
}

async fn handshake(stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) -> Result<Sender, HttpError> {
    let mut http = http1::Builder::new();
    http.max_buf_size(UPLOAD_HEAD_BYTES_MAX).max_headers(UPLOAD_HEADERS_MAX);
    let (sender, connection) = http.handshake(TokioIo::new(stream)).await.map_err(of_hyper)?;
    // It ends with the sender, at the latest.
    tokio::spawn(async move { drop(connection.await) });
    Ok(sender)
}

fn of_hyper(error: hyper::Error) -> HttpError {
    let kind = match () {
        () if error.is_timeout() => HttpErrorKind::Timeout,
        () if error.is_canceled() || error.is_closed() => HttpErrorKind::Request,
        () if error.is_incomplete_message() || error.is_body_write_aborted() => HttpErrorKind::Interrupted,
        () if error.is_parse() => HttpErrorKind::Decode,
        () => HttpErrorKind::Interrupted,
    };
    failed(kind, error)
}
