//! One mutual TLS connection to a publisher, and gRPC over it and no other: when it breaks, so does the channel.

use std::{
    error::Error,
    future::ready,
    io,
    net::Ipv4Addr,
    sync::{Arc, Mutex, PoisonError},
};

use hyper_util::rt::TokioIo;
use rustls::{ClientConfig, pki_types::ServerName};
use tokio::{net::TcpStream, time::timeout};
use tokio_rustls::TlsConnector;
use tonic::transport::{Channel, Endpoint};
use tower::service_fn;

use crate::limits::{CONNECT_WAIT, PROBE_EVERY, PROBE_WAIT};

/// The protocol spoken inside TLS.
pub(crate) const ALPN: &[u8] = b"h2";
/// Receive window of a stream and of the connection: one largest message fits without waiting for the reader.
const WINDOW_BYTES: u32 = 2 * 1024 * 1024;

/// Connects to `address` (`HOST:PORT`). Who answers is decided by its SPIFFE ID alone.
pub(crate) async fn connect(address: &str, config: Arc<ClientConfig>) -> Result<Channel, String> {
    let tcp = match timeout(CONNECT_WAIT, TcpStream::connect(address)).await {
        Ok(Ok(tcp)) => tcp,
        Ok(Err(error)) => return Err(error.to_string()),
        Err(_) => return Err(format!("no answer within {CONNECT_WAIT:?}")),
    };
    // Small messages go at once; a failure only costs latency.
    let _ = tcp.set_nodelay(true);
    let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
    let host = host.trim_start_matches('[').trim_end_matches(']');
    // A name that TLS cannot carry is no obstacle.
    let name =
        ServerName::try_from(host.to_owned()).unwrap_or_else(|_| ServerName::IpAddress(Ipv4Addr::LOCALHOST.into()));
    let tls = match timeout(CONNECT_WAIT, TlsConnector::from(config).connect(name, tcp)).await {
        Ok(Ok(tls)) => tls,
        Ok(Err(error)) => return Err(format!("TLS: {error}")),
        Err(_) => return Err(format!("no TLS handshake within {CONNECT_WAIT:?}")),
    };
    if tls.get_ref().1.alpn_protocol() != Some(ALPN) {
        return Err("does not speak HTTP/2: is this the CA's port for agents?".to_owned());
    }
    let once = Arc::new(Mutex::new(Some(TokioIo::new(tls))));
    let connector = service_fn(move |_| {
        let taken = once.lock().unwrap_or_else(PoisonError::into_inner).take();
        ready(taken.ok_or_else(|| io::Error::from(io::ErrorKind::BrokenPipe)))
    });
    Endpoint::from_static("http://mintage-ca")
        .http2_keep_alive_interval(PROBE_EVERY)
        .keep_alive_timeout(PROBE_WAIT)
        .keep_alive_while_idle(true)
        .initial_stream_window_size(WINDOW_BYTES)
        .initial_connection_window_size(WINDOW_BYTES)
        .connect_with_connector(connector)
        .await
        .map_err(|error| format!("HTTP/2: {}", chain_of(&error)))
}

/// An error and its sources in one line: tonic's own text says only "transport error".
pub(crate) fn chain_of(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(inner) = source {
        text = format!("{text}: {inner}");
        source = inner.source();
    }
    text
}
