//! The admin socket: a Unix socket inside the data directory, mode 0600, for root and the CA's own user alone.

use std::{
    io,
    os::{fd::AsFd, unix::fs::PermissionsExt},
    path::{Path, PathBuf},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{UnixListener, UnixStream},
    sync::{OwnedSemaphorePermit, Semaphore, mpsc},
};
use tokio_util::sync::CancellationToken;
use tonic::transport::server::Connected;
use tracing::warn;

use crate::{
    limits::{ACCEPT_PAUSE_MIN, ACCEPTED_QUEUE, ADMIN_CONNECTIONS_MAX},
    metrics::Metrics,
    peer::{AdminPeer, Peer},
};

/// Longest path of a Unix socket (`sun_path`, with its final NUL).
const SOCKET_PATH_BYTES_MAX: usize = 107;

/// An accepted connection of an administrator.
pub(crate) struct AdminConnection {
    stream: UnixStream,
    peer: AdminPeer,
    _place: OwnedSemaphorePermit,
}

/// Binds the socket; an old one of a process that died is replaced. The directory must be closed to others already.
///
/// # Errors
/// When the path is too long for a socket or the directory cannot be written.
pub(crate) fn bind(path: &Path) -> io::Result<UnixListener> {
    if path.as_os_str().len() > SOCKET_PATH_BYTES_MAX {
        let text = format!(
            "socket path {} is {} bytes long, the limit is {SOCKET_PATH_BYTES_MAX}: choose a shorter data directory",
            path.display(),
            path.as_os_str().len()
        );
        return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
    }
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    // The data directory is 0700, so nobody can connect between bind and chmod.
    let listener = UnixListener::bind(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}

/// Accepts administrators until told to stop, then removes the socket.
pub(crate) fn start(
    listener: UnixListener,
    path: PathBuf,
    metrics: Arc<Metrics>,
    stop: CancellationToken,
) -> mpsc::Receiver<io::Result<AdminConnection>> {
    let (accepted, receiver) = mpsc::channel(ACCEPTED_QUEUE);
    let places = Arc::new(Semaphore::new(ADMIN_CONNECTIONS_MAX));
    tokio::spawn(async move {
        loop {
            let stream = tokio::select! {
                stream = listener.accept() => stream,
                () = stop.cancelled() => break,
            };
            match stream.and_then(|(stream, _)| Ok((credentials(&stream)?, stream))) {
                Ok((peer, stream)) => {
                    let Ok(place) = places.clone().try_acquire_owned() else {
                        metrics.refused_connection("admin_full");
                        continue;
                    };
                    if accepted
                        .send(Ok(AdminConnection {
                            stream,
                            peer,
                            _place: place,
                        }))
                        .await
                        .is_err()
                    {
                        break;
                    }
                }
                Err(error) => {
                    metrics.refused_connection("admin");
                    warn!(%error, "connection to the admin socket refused");
                    tokio::time::sleep(ACCEPT_PAUSE_MIN).await;
                }
            }
        }
        let _ = std::fs::remove_file(path);
    });
    receiver
}

/// Who connected, if it is root or our own user.
fn credentials(stream: &UnixStream) -> io::Result<AdminPeer> {
    let peer = mintage_sys::peer::peer_credentials(stream.as_fd()).map_err(io::Error::other)?;
    let own = rustix::process::geteuid().as_raw();
    if peer.uid != 0 && peer.uid != own {
        let text = format!("uid {} is neither root nor the CA's own uid {own}", peer.uid);
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, text));
    }
    Ok(AdminPeer {
        uid: peer.uid,
        pid: u32::try_from(peer.pid).unwrap_or(0),
    })
}

impl Connected for AdminConnection {
    type ConnectInfo = Peer;
    fn connect_info(&self) -> Peer {
        Peer::Admin(self.peer)
    }
}

impl AsyncRead for AdminConnection {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for AdminConnection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
