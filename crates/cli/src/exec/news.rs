//! One identity of this process, followed over the Workload API: the stream is opened again whenever it ends (SPIFFE
//! Workload API, section 4), and what the agent no longer gives is said.

use mintage_proto::workload::{X509svidRequest, X509svidResponse};
use tokio::{
    sync::mpsc,
    time::{sleep, timeout},
};
use tonic::Streaming;

use crate::{
    endpoint::{Endpoint, spiffe},
    failure::Failure,
    limits::{WORKLOAD_AGAIN_FIRST, WORKLOAD_AGAIN_MAX, WORKLOAD_FIRST_WAIT},
    output::notice,
    svid::{
        answer::{Answer, refused},
        client,
    },
};

/// What the files hold.
pub(super) struct Identity {
    pub(super) spiffe_id: String,
    pub(super) chain: String,
    pub(super) key: zeroize::Zeroizing<Vec<u8>>,
    pub(super) bundle: String,
}

impl Identity {
    /// The identity wanted, or the first, which is the default one.
    fn of(message: X509svidResponse, wanted: Option<&str>) -> Result<Self, Failure> {
        let mut svids = Answer::read(message)?.svids.into_iter();
        let found = svids.find(|svid| wanted.is_none_or(|id| svid.row.spiffe_id == id));
        let none = || {
            Failure::No(format!(
                "the agent gives this process no {}; `mintage svid fetch` lists what it gives",
                wanted.unwrap_or_default()
            ))
        };
        let found = found.ok_or_else(none)?;
        Ok(Self {
            spiffe_id: found.row.spiffe_id,
            chain: found.row.chain_pem,
            key: found.key,
            bundle: found.row.bundle_pem,
        })
    }

    /// What tells it from the next one; a new key has a new certificate.
    pub(super) fn seen(&self) -> Seen {
        (self.chain.clone(), self.bundle.clone())
    }
}

/// Chain and bundle.
pub(super) type Seen = (String, String);

/// An open stream and how to open the next one.
pub(super) struct News {
    endpoint: Endpoint,
    wanted: Option<String>,
    stream: Option<Streaming<X509svidResponse>>,
}

impl News {
    /// Opens the stream; the identity comes within [`WORKLOAD_FIRST_WAIT`] or not at all.
    pub(super) async fn open(endpoint: Endpoint, wanted: Option<String>) -> Result<(Self, Identity), Failure> {
        let mut news = Self {
            endpoint,
            wanted,
            stream: None,
        };
        let first = timeout(WORKLOAD_FIRST_WAIT, news.next()).await;
        let late = |_| Failure::Remote("the agent did not answer in time; see its log".to_owned());
        let first = first.map_err(late)??;
        // Another one may come to be the first of several; the program goes on as who it is.
        news.wanted = Some(first.spiffe_id.clone());
        Ok((news, first))
    }

    /// The next answer, over a new stream where there is none.
    async fn next(&mut self) -> Result<Identity, Failure> {
        if self.stream.is_none() {
            let open = async {
                let mut client = client(self.endpoint.clone()).await?;
                let opened = client.fetch_x509svid(spiffe(X509svidRequest {})).await;
                opened.map_err(|status| refused(&status))
            };
            let late = |_| Failure::Remote("the agent did not answer in time; see its log".to_owned());
            let opened = timeout(WORKLOAD_FIRST_WAIT, open).await.map_err(late)?;
            self.stream = Some(opened?.into_inner());
        }
        let message = match &mut self.stream {
            Some(stream) => stream.message().await.map_err(|status| refused(&status))?,
            None => None,
        };
        let message = message.ok_or_else(|| Failure::Remote("the agent ended the stream".to_owned()))?;
        Identity::of(message, self.wanted.as_deref())
    }

    /// Sends each change on, for as long as somebody takes them. It does not end by itself.
    pub(super) async fn follow(mut self, mut last: Seen, changes: mpsc::Sender<Identity>) {
        let mut again = WORKLOAD_AGAIN_FIRST;
        loop {
            match self.next().await {
                Ok(next) => {
                    again = WORKLOAD_AGAIN_FIRST;
                    if next.seen() != last {
                        last = next.seen();
                        if changes.send(next).await.is_err() {
                            return;
                        }
                    }
                }
                Err(failure) => {
                    self.stream = None;
                    notice(&format!(
                        "{failure}; the files stay, asking again in {} ms",
                        again.as_millis()
                    ));
                    sleep(again).await;
                    again = (again * 2).min(WORKLOAD_AGAIN_MAX);
                }
            }
        }
    }
}
