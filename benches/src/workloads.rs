//! What callers of an agent's socket ask for and are sent.

use std::time::{Duration, Instant};

use hyper_util::rt::TokioIo;
use mintage_proto::{
    v1::Entry,
    workload::{X509svidRequest, X509svidResponse, spiffe_workload_api_client::SpiffeWorkloadApiClient},
};
use mintage_tests::kit::ca::domain;
use tokio::{sync::watch, task::AbortHandle, time::timeout};
use tonic::{
    Request, Streaming,
    transport::{Channel, Endpoint},
};

use crate::{
    caller::{Callers, FIRST_GROUP},
    load::Failure,
};

/// Longest wait for a message.
const WAIT: Duration = Duration::from_secs(20);

/// An entry that only the caller of this number matches.
pub fn entry(name: &str, caller: u32, ttl_seconds: i64) -> Entry {
    let domain = domain();
    let uid = rustix::process::geteuid().as_raw();
    Entry {
        name: name.to_owned(),
        spiffe_id: format!("spiffe://{domain}/{name}"),
        agents: vec![format!("spiffe://{domain}/mintage/agent/*")],
        selectors: vec![
            format!("unix:uid:{uid}"),
            format!("unix:supplementary_gid:{}", FIRST_GROUP + caller),
        ],
        ttl_seconds,
        ..Entry::default()
    }
}

/// A connection of the caller of this number, and when it began to connect.
///
/// # Errors
/// What the caller could not do.
pub async fn connect(callers: &Callers, number: u32) -> Result<(Channel, Instant), Failure> {
    let (stream, began) = callers.connect(number)?;
    stream.set_nonblocking(true)?;
    let mut once = Some(stream);
    let connector = tower::service_fn(move |_| {
        let stream = once.take();
        async move {
            let stream = stream.ok_or_else(|| std::io::Error::other("the connection has ended"))?;
            tokio::net::UnixStream::from_std(stream).map(TokioIo::new)
        }
    });
    let endpoint = Endpoint::from_static("http://agent");
    Ok((endpoint.connect_with_connector(connector).await?, began))
}

/// Opens a stream and waits for its first message.
///
/// # Errors
/// What the agent refuses, and a message that does not come.
pub async fn fetch(channel: Channel) -> Result<(Streaming<X509svidResponse>, usize), Failure> {
    let mut request = Request::new(X509svidRequest {});
    request.metadata_mut().insert("workload.spiffe.io", "true".parse()?);
    let answer = timeout(WAIT, SpiffeWorkloadApiClient::new(channel).fetch_x509svid(request)).await?;
    let mut stream = answer?.into_inner();
    let first = timeout(WAIT, stream.message()).await??.ok_or("the stream ended")?;
    Ok((stream, first.svids.len()))
}

/// What an open stream was sent last.
#[derive(Clone, Copy, Debug)]
pub struct News {
    /// When.
    pub at: Instant,
    /// How many messages there were.
    pub messages: usize,
    /// Identities in the last one.
    pub identities: usize,
}

/// An open stream that somebody reads; it ends with this value.
#[derive(Debug)]
pub struct Open {
    news: watch::Receiver<News>,
    reader: AbortHandle,
}

impl Open {
    /// Goes on reading a stream.
    pub fn new(mut stream: Streaming<X509svidResponse>, identities: usize) -> Self {
        let first = News {
            at: Instant::now(),
            messages: 1,
            identities,
        };
        let (tell, news) = watch::channel(first);
        let reading = tokio::spawn(async move {
            while let Ok(Some(message)) = stream.message().await {
                tell.send_modify(|news| {
                    *news = News {
                        at: Instant::now(),
                        messages: news.messages + 1,
                        identities: message.svids.len(),
                    };
                });
            }
        });
        Self {
            news,
            reader: reading.abort_handle(),
        }
    }

    /// What it was sent last.
    pub fn last(&self) -> News {
        *self.news.borrow()
    }

    /// Waits until it was sent what is wanted.
    ///
    /// # Errors
    /// When that does not come, or the stream ends.
    pub async fn until(&self, wanted: impl Fn(&News) -> bool) -> Result<News, Failure> {
        let mut news = self.news.clone();
        let found = timeout(WAIT, news.wait_for(|news| wanted(news))).await;
        Ok(*found.map_err(|_| "a stream was not told")??)
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.reader.abort();
    }
}
