//! An empty POST to a loopback address, for what reads its files again when it is told so over HTTP.

use std::net::SocketAddr;

use bytes::Bytes;
use http::{Method, Request, header::HOST};
use http_body_util::Empty;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

/// Posts; any answer but 2xx is a failure.
pub(super) async fn post(address: SocketAddr, path: &str) -> Result<(), String> {
    let stream = TcpStream::connect(address).await.map_err(|error| error.to_string())?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream))
        .await
        .map_err(|error| error.to_string())?;
    let request = Request::builder()
        .method(Method::POST)
        .uri(path)
        .header(HOST, address.to_string())
        .body(Empty::<Bytes>::new())
        .map_err(|error| error.to_string())?;
    // Both end with this call: the connection is not kept.
    let answer = tokio::select! {
        answer = sender.send_request(request) => answer.map_err(|error| error.to_string())?,
        ended = connection => return Err(format!("the connection ended without an answer: {ended:?}")),
    };
    match answer.status().is_success() {
        true => Ok(()),
        false => Err(format!("it answered {}", answer.status())),
    }
}
