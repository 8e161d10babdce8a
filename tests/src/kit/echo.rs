//! A server that answers what it is told with the same, for peers that an acceptor takes.

use std::net::SocketAddr;

use mintage_verifier_tokio::Acceptor;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};

/// Listens on loopback until the test ends.
///
/// # Panics
///
/// When loopback has no free port.
pub async fn serve(acceptor: Acceptor) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0")
        .await
        .expect("loopback has a free port");
    let address = listener.local_addr().expect("a listener has an address");
    tokio::spawn(async move {
        while let Ok((tcp, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                let Ok(mut stream) = acceptor.accept(tcp).await else {
                    return;
                };
                let mut octets = [0; 16];
                while let Ok(count @ 1..) = stream.read(&mut octets).await {
                    if stream.write_all(&octets[..count]).await.is_err() || stream.flush().await.is_err() {
                        break;
                    }
                }
                let _ = stream.shutdown().await;
            });
        }
    });
    address
}
