//! Who is at the other end of a connection. The process is held from the moment it was accepted and attested in full; before
//! anything is sent it is looked at again, and when it dies its calls end.
//!
//! A process that runs another program now gets nothing more on this connection, not even as that program: it may have handed
//! the socket to somebody else before it became one that is trusted.

use std::{collections::BTreeSet, os::fd::AsFd, sync::Arc, time::Duration};

use mintage_attest::unix::WorkloadPeer;
use mintage_identity::Selector;
use tokio::{
    io::{Interest, unix::AsyncFd},
    net::UnixStream,
    sync::mpsc::{self, error::TrySendError},
};
use tokio_util::sync::{CancellationToken, DropGuard, WaitForCancellationFutureOwned};
use tonic::Status;

use super::{
    attesting::{Attesting, Looked, NotAttested},
    look::Looks,
};
use crate::{config::SocketLimit, shared::Shared};

/// One connection's process.
pub(crate) struct Caller {
    looked: Looked,
    attesting: Arc<Attesting>,
    peer: Result<WorkloadPeer, String>,
    proven: Arc<BTreeSet<Selector>>,
    ended: CancellationToken,
    looks: Looks,
    /// Closes the connection.
    cut: CancellationToken,
    /// Ends the watch over the process with the connection.
    _gone: DropGuard,
}

impl Caller {
    /// Attests the process that connected. A refusal is kept: each call is then answered with its reason. `cut` closes the
    /// connection.
    ///
    /// # Errors
    /// What kept it from being looked at in time. The next connection may fare better.
    pub(super) async fn attest(
        stream: &UnixStream,
        looked: Looked,
        attesting: Arc<Attesting>,
        cut: CancellationToken,
    ) -> Result<Arc<Self>, String> {
        let peer = match stream.as_fd().try_clone_to_owned() {
            Ok(socket) => attesting.attest(socket, looked).await,
            Err(error) => Err(NotAttested::Refused(error.to_string())),
        };
        let peer = match peer {
            Ok(peer) => Ok(peer),
            Err(NotAttested::Refused(why)) => Err(why),
            Err(NotAttested::Late(why)) => return Err(why),
        };
        let proven = peer.as_ref().map(|peer| peer.selectors().clone()).unwrap_or_default();
        let gone = CancellationToken::new();
        let caller = Arc::new(Self {
            looked,
            attesting,
            proven: Arc::new(proven),
            ended: CancellationToken::new(),
            looks: Looks::default(),
            cut,
            _gone: gone.clone().drop_guard(),
            peer,
        });
        caller.watch_process(gone);
        Ok(caller)
    }

    /// Ends the token when the process dies. The task ends with the process or the connection.
    fn watch_process(&self, gone: CancellationToken) {
        let Ok(peer) = &self.peer else { return };
        #[expect(
            deprecated,
            reason = "its successor is unsafe, which this crate forbids; an OwnedFd keeps its descriptor open"
        )]
        let watched = peer
            .pidfd()
            .as_fd()
            .try_clone_to_owned()
            .and_then(|fd| AsyncFd::with_interest(fd, Interest::READABLE));
        let Ok(watched) = watched else {
            // It is still looked at before each message.
            return;
        };
        let ended = self.ended.clone();
        tokio::spawn(async move {
            // A pidfd becomes readable when its process ends (pidfd_open(2)).
            tokio::select! {
                ready = watched.readable() => {
                    drop(ready);
                    ended.cancel();
                }
                () = gone.cancelled() => {}
            }
        });
    }

    pub(super) fn uid(&self) -> u32 {
        self.looked.uid
    }

    /// What the process proves.
    pub(super) fn proven(&self) -> Arc<BTreeSet<Selector>> {
        self.proven.clone()
    }

    /// The attested process, or why there is none.
    pub(super) fn peer(&self) -> Result<&WorkloadPeer, Status> {
        self.peer.as_ref().map_err(|why| Status::permission_denied(why.clone()))
    }

    /// Completes when the process has ended.
    pub(super) async fn ended(&self) {
        self.ended.cancelled().await;
    }

    /// A call begins: the process must be one that was attested, and still the same.
    pub(super) async fn begins(self: &Arc<Self>) -> Result<(), Status> {
        self.peer()?;
        self.still_same().await
    }

    /// Looks again, just before something is sent. Who asks while a look is under way shares the next one.
    pub(super) async fn still_same(self: &Arc<Self>) -> Result<(), Status> {
        let look = async || {
            let at_once = self.peer.as_ref().ok().and_then(WorkloadPeer::still_same_at_once);
            if let Some(same) = at_once {
                return Ok(same);
            }
            let caller = self.clone();
            let same = move || caller.peer.as_ref().is_ok_and(WorkloadPeer::still_same);
            self.attesting.again(self.looked, same).await
        };
        match self.looks.look(look).await {
            Ok(true) => Ok(()),
            Ok(false) | Err(NotAttested::Refused(_)) => Err(Status::permission_denied(
                "the process that connected has ended, changed its user, groups or control group, or runs another program now; connect again",
            )),
            Err(NotAttested::Late(why)) => Err(Status::unavailable(why)),
        }
    }

    /// Completes when the connection is to be closed.
    pub(super) fn cut_off(&self) -> WaitForCancellationFutureOwned {
        self.cut.clone().cancelled_owned()
    }

    /// Puts a message on a stream of this connection; false when the stream is over. A client that does not read holds one
    /// task and a few messages, and not for long: then it loses its connection.
    pub(super) async fn send<T>(&self, sender: &mpsc::Sender<T>, message: T, shared: &Shared) -> bool {
        let message = match sender.try_send(message) {
            Ok(()) => return true,
            Err(TrySendError::Closed(_)) => return false,
            Err(TrySendError::Full(message)) => message,
        };
        let seconds = u64::from(shared.limits.get(SocketLimit::UnreadSeconds));
        tokio::select! {
            sent = sender.send(message) => sent.is_ok(),
            () = self.ended() => false,
            () = tokio::time::sleep(Duration::from_secs(seconds)) => {
                shared.metrics.workload_request("unread");
                tracing::warn!(uid = self.uid(), seconds, "a client reads nothing; its connection is closed");
                self.cut.cancel();
                false
            }
        }
    }
}
