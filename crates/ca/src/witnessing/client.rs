//! Asking one witness over HTTP/1.1: one connection, kept open between requests; every wait and answer has its limit.

use bytes::Bytes;
use http::{Method, Request, StatusCode, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::{
    body::Incoming,
    client::conn::http1::{self, SendRequest},
};
use hyper_util::rt::TokioIo;
use mintage_ledger::{
    AddCheckpoint, NoteSignature, SIZE_CONTENT_TYPE, cosignature_in, limits::NOTE_BYTES_MAX, size_in,
};
use tokio::{net::TcpStream, time::timeout};

use super::peer::WitnessPeer;
use crate::{
    limits::{WITNESS_ANSWER_TIMEOUT, WITNESS_CONNECT_TIMEOUT, WITNESS_HEAD_BYTES_MAX, WITNESS_HEADERS_MAX},
    logging::printable,
};

/// Octets of a refusal's text that are told.
const REFUSAL_BYTES_MAX: usize = 200;

/// What a witness answered.
#[derive(Debug)]
pub(super) enum Answer {
    /// Its cosignature, verified.
    Cosigned(NoteSignature),
    /// It holds another size than the request said (409). Nobody has signed that.
    Holds(u64),
    /// It takes the checkpoint for no continuation of what it holds (422). Nobody has signed that.
    Inconsistent(String),
    /// It does not know the log (404).
    Unknown(String),
    /// Anything else.
    Refused(String),
}

/// What a witness answered to a log's statement about the log after it.
#[derive(Debug)]
pub(super) enum Told {
    /// It follows the log that is named.
    Follows,
    /// It does not know the log that speaks, or has no such call.
    Unknown(String),
    /// Anything else.
    Refused(String),
}

/// The way to one witness.
#[derive(Debug)]
pub(super) struct Client {
    peer: WitnessPeer,
    open: Option<SendRequest<Full<Bytes>>>,
}

impl Client {
    pub(super) fn new(peer: WitnessPeer) -> Self {
        Self { peer, open: None }
    }

    /// Sends a checkpoint.
    ///
    /// # Errors
    /// Why there is no answer.
    pub(super) async fn ask(&mut self, request: &AddCheckpoint) -> Result<Answer, String> {
        let (status, kind, body) = self.call("add-checkpoint", request.to_string()).await?;
        self.read(request, status, &kind, &body)
    }

    /// Sends a log's statement about the log after it: a call that C2SP tlog-witness does not have, and other witnesses need not.
    ///
    /// # Errors
    /// Why there is no answer.
    pub(super) async fn tell(&mut self, statement: String) -> Result<Told, String> {
        let (status, _, body) = self.call("add-log", statement).await?;
        Ok(match status {
            StatusCode::OK => Told::Follows,
            StatusCode::NOT_FOUND | StatusCode::METHOD_NOT_ALLOWED => Told::Unknown(told(status, &body)),
            _ => Told::Refused(told(status, &body)),
        })
    }

    async fn call(&mut self, name: &str, body: String) -> Result<(StatusCode, String, Bytes), String> {
        match timeout(WITNESS_ANSWER_TIMEOUT, self.exchange(name, Bytes::from(body))).await {
            Ok(answer) => answer,
            Err(_) => {
                // An answer that comes too late must not be taken for that of the next request.
                self.open = None;
                Err(format!("no answer within {WITNESS_ANSWER_TIMEOUT:?}"))
            }
        }
    }

    async fn exchange(&mut self, name: &str, body: Bytes) -> Result<(StatusCode, String, Bytes), String> {
        match self.open.take() {
            // A kept connection may have been closed from the other side at any time: then a new one is tried, once.
            Some(kept) => match self.send(kept, name, body.clone()).await {
                Ok(answer) => Ok(answer),
                Err(_) => self.send(self.connect().await?, name, body).await,
            },
            None => self.send(self.connect().await?, name, body).await,
        }
    }

    async fn connect(&self) -> Result<SendRequest<Full<Bytes>>, String> {
        let at = (self.peer.url.host.as_str(), self.peer.url.port);
        let stream = timeout(WITNESS_CONNECT_TIMEOUT, TcpStream::connect(at)).await;
        let stream = stream
            .map_err(|_| format!("no connection within {WITNESS_CONNECT_TIMEOUT:?}"))?
            .map_err(|error| format!("no connection: {error}"))?;
        stream.set_nodelay(true).map_err(|error| error.to_string())?;
        let mut http = http1::Builder::new();
        http.max_buf_size(WITNESS_HEAD_BYTES_MAX)
            .max_headers(WITNESS_HEADERS_MAX);
        let handshake = http.handshake(TokioIo::new(stream)).await;
        let (sender, connection) = handshake.map_err(|error| error.to_string())?;
        // It ends with the sender, at the latest.
        tokio::spawn(async move { drop(connection.await) });
        Ok(sender)
    }

    /// One request and its answer; the connection is kept when it can be used again.
    async fn send(
        &mut self,
        mut sender: SendRequest<Full<Bytes>>,
        name: &str,
        body: Bytes,
    ) -> Result<(StatusCode, String, Bytes), String> {
        let failed = |error: hyper::Error| format!("no answer: {error}");
        let request = Request::builder()
            .method(Method::POST)
            .uri(self.peer.url.call(name))
            .header(header::HOST, &self.peer.url.authority)
            .header(header::CONTENT_TYPE, "text/plain; charset=utf-8")
            .body(Full::new(body))
            .map_err(|error| error.to_string())?;
        sender.ready().await.map_err(failed)?;
        let answer = sender.send_request(request).await.map_err(failed)?;
        let (head, body) = answer.into_parts();
        let kind = head.headers.get(header::CONTENT_TYPE);
        let kind = kind.and_then(|kind| kind.to_str().ok()).unwrap_or_default().to_owned();
        let body = whole(body).await?;
        self.open = Some(sender);
        Ok((head.status, kind, body))
    }

    fn read(&self, request: &AddCheckpoint, status: StatusCode, kind: &str, body: &[u8]) -> Result<Answer, String> {
        match status {
            StatusCode::OK => cosignature_in(body, request.note(), &self.peer.key)
                .map(Answer::Cosigned)
                .map_err(|error| error.to_string()),
            StatusCode::CONFLICT if kind == SIZE_CONTENT_TYPE => {
                size_in(body).map(Answer::Holds).map_err(|error| error.to_string())
            }
            StatusCode::UNPROCESSABLE_ENTITY => Ok(Answer::Inconsistent(told(status, body))),
            StatusCode::NOT_FOUND => Ok(Answer::Unknown(told(status, body))),
            _ => Ok(Answer::Refused(told(status, body))),
        }
    }
}

/// A refusal as it is told: nobody has signed it.
fn told(status: StatusCode, body: &[u8]) -> String {
    let text = String::from_utf8_lossy(&body[..body.len().min(REFUSAL_BYTES_MAX)]);
    format!("{status}: {}", printable(text.trim_end()))
}

async fn whole(body: Incoming) -> Result<Bytes, String> {
    let read = Limited::new(body, NOTE_BYTES_MAX).collect().await;
    read.map(http_body_util::Collected::to_bytes)
        .map_err(|error| format!("no whole answer: {error}"))
}

#[cfg(test)]
mod tests {
    use mintage_ledger::{Cosigner, LogKey};
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpListener,
    };
    use zeroize::Zeroizing;

    use super::*;
    use crate::{
        witness::kit::{Fork, NOW},
        witnessing::peer::SubmissionPrefix,
    };

    fn witness() -> Cosigner {
        let (pair, _) = LogKey::generate(&Zeroizing::new([5; 32])).unwrap();
        Cosigner::new("w1", pair).unwrap()
    }

    fn request(size: u64) -> AddCheckpoint {
        AddCheckpoint::parse(Fork::new(1).request(2, size).as_bytes()).unwrap()
    }

    fn answer(status: &str, kind: &str, body: &str) -> String {
        let length = body.len();
        format!("HTTP/1.1 {status}\r\ncontent-type: {kind}\r\ncontent-length: {length}\r\n\r\n{body}")
    }

    /// A client of a witness that answers each connection with these octets, whatever it is asked, and then closes it.
    async fn client_of(answers: Vec<String>) -> Client {
        client_that_sends(request(7).to_string(), answers).await
    }

    async fn client_that_sends(whole: String, answers: Vec<String>) -> Client {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(async move {
            for answer in answers {
                let (mut stream, _) = listener.accept().await.unwrap();
                // All of it, for closing with something unread would take the answer away.
                let mut read = Vec::new();
                while !read.ends_with(whole.as_bytes()) {
                    assert!(stream.read_buf(&mut read).await.unwrap() > 0);
                }
                // Who is answered too much leaves before its end.
                let _ = stream.write_all(answer.as_bytes()).await;
            }
        });
        Client::new(WitnessPeer {
            url: SubmissionPrefix::parse(&url).unwrap(),
            key: witness().key().clone(),
        })
    }

    #[tokio::test]
    async fn answers_are_told_apart_and_a_closed_connection_is_made_anew() {
        let good = witness().cosign(request(7).note(), NOW).unwrap();
        let mut client = client_of(vec![
            answer("200 OK", "text/plain", &format!("{good}\n")),
            answer("409 Conflict", SIZE_CONTENT_TYPE, "5\n"),
            answer("422 Unprocessable Entity", "text/plain", "no\u{1b}[31m\n"),
            answer("404 Not Found", "text/html", "<html>"),
        ])
        .await;
        assert!(matches!(client.ask(&request(7)).await, Ok(Answer::Cosigned(line)) if line == good));
        assert!(matches!(client.ask(&request(7)).await, Ok(Answer::Holds(5))));
        let told = client.ask(&request(7)).await;
        assert!(
            matches!(&told, Ok(Answer::Inconsistent(why)) if why.ends_with("no\\u{1b}[31m")),
            "{told:?}"
        );
        assert!(matches!(client.ask(&request(7)).await, Ok(Answer::Unknown(_))));
        assert!(client.ask(&request(7)).await.is_err(), "nobody is there any more");
    }

    #[tokio::test]
    async fn a_witness_that_does_not_follow_logs_is_told_from_one_that_refuses() {
        let statement = Fork::new(1).names(&Fork::later(2));
        let answers = ["200 OK", "404 Not Found", "405 Method Not Allowed", "409 Conflict"];
        let answers = answers.map(|status| answer(status, "text/plain", "x\n")).to_vec();
        let mut client = client_that_sends(statement.clone(), answers).await;
        assert!(matches!(client.tell(statement.clone()).await, Ok(Told::Follows)));
        for _ in 0..2 {
            assert!(matches!(client.tell(statement.clone()).await, Ok(Told::Unknown(_))));
        }
        let told = client.tell(statement.clone()).await;
        assert!(
            matches!(&told, Ok(Told::Refused(why)) if why == "409 Conflict: x"),
            "{told:?}"
        );
        assert!(client.tell(statement).await.is_err(), "nobody is there any more");
    }

    #[tokio::test]
    async fn what_does_not_verify_and_what_does_not_end_is_no_answer() {
        let other = witness().cosign(request(8).note(), NOW).unwrap();
        let headers: String = (0..200).map(|n| format!("x{n}: y\r\n")).collect();
        let hostile = vec![
            answer("200 OK", "text/plain", &format!("{other}\n")),
            answer("200 OK", "text/plain", ""),
            answer("200 OK", "text/plain", &"a".repeat(NOTE_BYTES_MAX + 1)),
            answer("409 Conflict", SIZE_CONTENT_TYPE, "five\n"),
            format!("HTTP/1.1 200 OK\r\n{headers}\r\n"),
            format!(
                "HTTP/1.1 200 OK\r\nx: {}\r\n\r\n",
                "y".repeat(2 * WITNESS_HEAD_BYTES_MAX)
            ),
            "no HTTP at all\r\n\r\n".to_owned(),
            "HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nshort".to_owned(),
        ];
        for answer in hostile {
            let mut client = client_of(vec![answer.clone()]).await;
            let told = client.ask(&request(7)).await;
            assert!(told.is_err(), "{told:?} to {:?}", &answer[..answer.len().min(60)]);
        }
        // A 409 that a proxy makes says no size.
        let mut client = client_of(vec![answer("409 Conflict", "text/html", "7\n")]).await;
        assert!(matches!(client.ask(&request(7)).await, Ok(Answer::Refused(_))));
    }
}
