//! One TLS connection to the CA, made by our own connector: resumption is off, the verifier is ours, and the exporter of
//! this very connection is at hand for whoever must prove something over it.

use std::{
    fmt,
    future::ready,
    io,
    sync::{Arc, Mutex, PoisonError},
};

use hyper_util::rt::TokioIo;
use mintage_attest::rejoin::EXPORTER_LABEL;
use rustls::{ClientConfig, pki_types::ServerName};
use tokio::{net::TcpStream, time::timeout};
use tokio_rustls::{TlsConnector, client::TlsStream};
use tonic::transport::{Channel, Endpoint};
use tower::service_fn;

use crate::limits::{CONNECT_WAIT, HANDSHAKE_WAIT, KEEP_ALIVE_EVERY, KEEP_ALIVE_WAIT};

/// The protocol spoken inside TLS.
pub(crate) const ALPN: &[u8] = b"h2";
/// Receive window of a stream and of the connection: one largest message fits without waiting for the reader.
const WINDOW_BYTES: u32 = 2 * 1024 * 1024;
/// Largest frame: the answer to a full message of asks in one, instead of a frame and a write for every 16 KB.
const FRAME_BYTES_MAX: u32 = 64 * 1024;

/// A connection to one address of the CA.
pub(crate) struct Connection {
    /// gRPC over this connection and no other: when it breaks, so does the channel.
    pub(crate) channel: Channel,
    /// The TLS exporter (RFC 5705; RFC 8446, section 7.5) of this connection.
    pub(crate) exporter: [u8; 32],
}

/// Why there is no connection.
#[derive(Debug)]
pub(crate) struct ConnectError {
    /// True when the CA was reached and TLS failed.
    pub(crate) reached: bool,
    message: String,
}

impl fmt::Display for ConnectError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

/// Connects to `address` (`host:port`).
pub(crate) async fn connect(address: &str, config: Arc<ClientConfig>) -> Result<Connection, ConnectError> {
    let fail = |reached, message: String| ConnectError { reached, message };
    let tcp = match timeout(CONNECT_WAIT, TcpStream::connect(address)).await {
        Ok(Ok(tcp)) => tcp,
        Ok(Err(error)) => return Err(fail(false, format!("{address}: {error}"))),
        Err(_) => return Err(fail(false, format!("{address}: no answer within {CONNECT_WAIT:?}"))),
    };
    // Small messages go at once; a failure only costs latency.
    let _ = tcp.set_nodelay(true);
    let handshake = TlsConnector::from(config).connect(server_name(address), tcp);
    let tls = match timeout(HANDSHAKE_WAIT, handshake).await {
        Ok(Ok(tls)) => tls,
        Ok(Err(error)) => return Err(fail(true, format!("{address}: TLS: {error}"))),
        Err(_) => {
            return Err(fail(
                true,
                format!("{address}: no TLS handshake within {HANDSHAKE_WAIT:?}"),
            ));
        }
    };
    if tls.get_ref().1.alpn_protocol() != Some(ALPN) {
        return Err(fail(
            true,
            format!("{address}: the server does not speak HTTP/2: is this the CA's port for agents?"),
        ));
    }
    let exporter = tls
        .get_ref()
        .1
        .export_keying_material([0; 32], EXPORTER_LABEL, None)
        .map_err(|error| fail(true, format!("{address}: TLS exporter: {error}")))?;
    let channel = channel_over(tls)
        .await
        .map_err(|error| fail(true, format!("{address}: HTTP/2: {}", chain_of(&error))))?;
    Ok(Connection { channel, exporter })
}

async fn channel_over(tls: TlsStream<TcpStream>) -> Result<Channel, tonic::transport::Error> {
    let once = Arc::new(Mutex::new(Some(TokioIo::new(tls))));
    let connector = service_fn(move |_| {
        let taken = once.lock().unwrap_or_else(PoisonError::into_inner).take();
        // A second call means that the connection broke; a new one would have another exporter.
        ready(taken.ok_or_else(|| io::Error::from(io::ErrorKind::BrokenPipe)))
    });
    Endpoint::from_static("http://mintage-ca")
        .http2_keep_alive_interval(KEEP_ALIVE_EVERY)
        .keep_alive_timeout(KEEP_ALIVE_WAIT)
        .keep_alive_while_idle(true)
        .initial_stream_window_size(WINDOW_BYTES)
        .initial_connection_window_size(WINDOW_BYTES)
        .max_frame_size(FRAME_BYTES_MAX)
        .connect_with_connector(connector)
        .await
}

/// The name for SNI. Who answers is decided by its SPIFFE ID alone, so a name that TLS cannot carry is no obstacle.
fn server_name(address: &str) -> ServerName<'static> {
    let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
    let host = host.strip_prefix('[').and_then(|h| h.strip_suffix(']')).unwrap_or(host);
    ServerName::try_from(host.to_owned())
        .unwrap_or_else(|_| ServerName::IpAddress(std::net::Ipv4Addr::LOCALHOST.into()))
}

/// An error and its sources in one line: tonic's own text says only "transport error".
pub(crate) fn chain_of(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(inner) = source {
        let more = inner.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        source = inner.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sni_is_the_host_without_port_and_brackets() {
        assert_eq!(server_name("ca.example.org:8443").to_str(), "ca.example.org");
        assert_eq!(server_name("[::1]:8443").to_str(), "::1");
        assert_eq!(server_name("not a name:1").to_str(), "127.0.0.1");
    }

    #[tokio::test]
    async fn a_port_nobody_listens_on_is_told_as_not_reached() {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(rustls::RootCertStore::empty())
            .with_no_client_auth();
        let error = connect("127.0.0.1:1", Arc::new(config)).await.err().unwrap();
        assert!(!error.reached && error.to_string().contains("127.0.0.1:1"), "{error}");
    }
}
