//! Readers of signed revocation news that are no agents: how many there may be, and what one gets that fell behind.

use std::{collections::VecDeque, net::IpAddr, net::Ipv4Addr, sync::Arc};

use futures_util::{Stream, stream};
use mintage_proto::v1::{WatchNews, revoked::News, watch_news};
use tokio::sync::broadcast::{self, error::RecvError};
use tonic::{Code, Status};

use crate::{
    desk::Desk,
    limits::{
        SNAPSHOT_STREAMS_MAX, SNAPSHOT_STREAMS_OF_AGENTS_MAX, SNAPSHOT_STREAMS_PER_SOURCE_MAX, WATCH_STREAMS_MAX,
        WATCH_STREAMS_PER_SOURCE_MAX,
    },
    peer::Peer,
    places::{Full, Place, Places},
    roles::{Role, role_of},
    status::Refusal,
};

/// The places of all readers.
pub(crate) struct Watching {
    watches: Places,
    snapshots: Places,
    snapshots_of_agents: Places,
}

impl Default for Watching {
    fn default() -> Self {
        Self {
            watches: Places::new(WATCH_STREAMS_MAX, WATCH_STREAMS_PER_SOURCE_MAX),
            snapshots: Places::new(SNAPSHOT_STREAMS_MAX, SNAPSHOT_STREAMS_PER_SOURCE_MAX),
            snapshots_of_agents: Places::new(SNAPSHOT_STREAMS_OF_AGENTS_MAX, SNAPSHOT_STREAMS_OF_AGENTS_MAX),
        }
    }
}

impl Watching {
    /// A place for a stream of news.
    ///
    /// # Errors
    /// `watch-streams` or `watch-streams-of-peer`.
    pub(crate) fn watch(&self, desk: &Desk, peer: Option<&Peer>) -> Result<Place, Refusal> {
        self.watches.take(source(peer)).map_err(|full| match full {
            Full::All => busy(
                desk,
                "watch-streams",
                WATCH_STREAMS_MAX,
                "streams of revocation news in all",
            ),
            Full::Source => {
                let (code, limit) = ("watch-streams-of-peer", WATCH_STREAMS_PER_SOURCE_MAX);
                busy(desk, code, limit, "streams of revocation news of one address")
            }
        })
    }

    /// A place for reading a snapshot.
    ///
    /// # Errors
    /// `snapshot-streams` or `snapshot-streams-of-peer`.
    pub(crate) fn snapshot(&self, desk: &Desk, peer: Option<&Peer>) -> Result<Place, Refusal> {
        // Agents are known, and many may stand behind one address.
        let is_agent = peer.is_some_and(|peer| role_of(peer) == Role::Agent);
        let (places, all) = match is_agent {
            true => (&self.snapshots_of_agents, SNAPSHOT_STREAMS_OF_AGENTS_MAX),
            false => (&self.snapshots, SNAPSHOT_STREAMS_MAX),
        };
        places.take(source(peer)).map_err(|full| match full {
            Full::All => busy(desk, "snapshot-streams", all, "readers of the snapshot in all"),
            Full::Source => {
                let (code, limit) = ("snapshot-streams-of-peer", SNAPSHOT_STREAMS_PER_SOURCE_MAX);
                busy(desk, code, limit, "readers of the snapshot of one address")
            }
        })
    }
}

/// Where a caller comes from; those of the admin socket have an address that no caller over TCP can have.
fn source(peer: Option<&Peer>) -> IpAddr {
    match peer {
        Some(Peer::Tls(tls)) => tls.remote.ip(),
        _ => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
    }
}

fn busy(desk: &Desk, code: &'static str, limit: usize, what: &str) -> Refusal {
    desk.metrics.refused_call(code);
    let text = format!("there are as many {what} as there may be, {limit}; end one of them, or come back later");
    Refusal::new(Code::ResourceExhausted, code, text)
}

/// One stream of news.
struct Watcher {
    desk: Arc<Desk>,
    missed: VecDeque<News>,
    live: broadcast::Receiver<News>,
    _place: Place,
}

impl Watcher {
    async fn next(&mut self) -> Option<News> {
        if let Some(news) = self.missed.pop_front() {
            return Some(news);
        }
        let publisher = &self.desk.publisher;
        let news = tokio::select! {
            news = self.live.recv() => news,
            () = publisher.dismissed() => return None,
        };
        match news {
            Ok(news) => Some(news),
            Err(RecvError::Closed) => None,
            Err(RecvError::Lagged(_)) => {
                // What is left in the queue continues what was lost. First the new place in it, then the sequence: what
                // comes between is in the snapshot and comes again, rather than in neither.
                self.live = publisher.subscribe();
                self.desk.metrics.watch_behind();
                Some(News::SnapshotRef(publisher.sequence()))
            }
        }
    }
}

/// What was missed, then what is new, until the reader goes or the CA stops.
pub(crate) fn news(
    desk: Arc<Desk>,
    missed: Vec<News>,
    live: broadcast::Receiver<News>,
    place: Place,
) -> impl Stream<Item = Result<WatchNews, Status>> + Send {
    let watcher = Watcher {
        desk,
        missed: missed.into(),
        live,
        _place: place,
    };
    stream::unfold(watcher, |mut watcher| async move {
        let news = watcher.next().await?;
        Some((Ok(watch_news(news)), watcher))
    })
}

fn watch_news(news: News) -> WatchNews {
    let news = match news {
        News::Snapshot(bytes) => watch_news::News::Snapshot(bytes),
        News::Delta(bytes) => watch_news::News::Delta(bytes),
        News::Heartbeat(bytes) => watch_news::News::Heartbeat(bytes),
        News::SnapshotRef(sequence) => watch_news::News::SnapshotRef(sequence),
    };
    WatchNews { news: Some(news) }
}
