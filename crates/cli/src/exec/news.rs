//! One identity of this process, followed over the Workload API: the stream is opened again whenever it ends (SPIFFE
//! Workload API, section 4), and what the agent no longer gives is withdrawn.

use mintage_proto::workload::{X509svidRequest, X509svidResponse};
use tokio::{
    sync::mpsc,
    time::{sleep, timeout},
};
use tonic::{Status, Streaming};

use crate::{
    endpoint::{Endpoint, spiffe},
    failure::Failure,
    limits::{WORKLOAD_AGAIN_FIRST, WORKLOAD_AGAIN_MAX, WORKLOAD_FIRST_WAIT},
    output::notice,
    svid::{
        answer::{Answer, is_withdrawal, refused},
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

/// What an answer says of the identity.
pub(super) enum Heard {
    Given(Identity),
    /// It is no longer given, and why.
    Withdrawn(Failure),
}

/// An open stream and how to open the next one.
pub(super) struct News {
    endpoint: Endpoint,
    wanted: Option<String>,
    stream: Option<Open>,
}

struct Open {
    messages: Streaming<X509svidResponse>,
    /// Nothing came over it yet.
    fresh: bool,
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
        let first = match first.map_err(late)?? {
            Heard::Given(first) => first,
            Heard::Withdrawn(why) => return Err(why),
        };
        // Another one may come to be the first of several; the program goes on as who it is.
        news.wanted = Some(first.spiffe_id.clone());
        Ok((news, first))
    }

    /// The next answer, over a new stream where there is none.
    async fn next(&mut self) -> Result<Heard, Failure> {
        let mut stream = match self.stream.take() {
            Some(open) => open,
            None => {
                let open = async {
                    let mut client = client(self.endpoint.clone()).await?;
                    Ok::<_, Failure>(client.fetch_x509svid(spiffe(X509svidRequest {})).await)
                };
                let late = |_| Failure::Remote("the agent did not answer in time; see its log".to_owned());
                match timeout(WORKLOAD_FIRST_WAIT, open).await.map_err(late)?? {
                    Ok(opened) => Open {
                        messages: opened.into_inner(),
                        fresh: true,
                    },
                    Err(status) => return ended(&status, true),
                }
            }
        };
        let message = match stream.messages.message().await {
            Ok(Some(message)) => message,
            Ok(None) => return Err(Failure::Remote("the agent ended the stream".to_owned())),
            Err(status) => return ended(&status, stream.fresh),
        };
        let heard = match Identity::of(message, self.wanted.as_deref()) {
            Ok(identity) => Heard::Given(identity),
            Err(why @ Failure::No(_)) => Heard::Withdrawn(why),
            Err(failure) => return Err(failure),
        };
        stream.fresh = false;
        self.stream = Some(stream);
        Ok(heard)
    }

    /// Sends each change on, `None` where the identity is withdrawn, for as long as somebody takes them. It does not end by
    /// itself.
    pub(super) async fn follow(mut self, first: Seen, changes: mpsc::Sender<Option<Identity>>) {
        let mut again = WORKLOAD_AGAIN_FIRST;
        let mut last = Some(first);
        loop {
            let problem = match self.next().await {
                Ok(Heard::Given(next)) => {
                    again = WORKLOAD_AGAIN_FIRST;
                    let seen = Some(next.seen());
                    if seen != last {
                        last = seen;
                        if changes.send(Some(next)).await.is_err() {
                            return;
                        }
                    }
                    continue;
                }
                Ok(Heard::Withdrawn(why)) => {
                    if last.take().is_some() {
                        notice(&format!("{why}; its files are removed until it is given again"));
                        if changes.send(None).await.is_err() {
                            return;
                        }
                    }
                    // An answer without it is an answer: the next one comes over the same stream.
                    if self.stream.is_some() {
                        again = WORKLOAD_AGAIN_FIRST;
                        continue;
                    }
                    why
                }
                Err(failure) => failure,
            };
            let files = if last.is_some() {
                "the files stay"
            } else {
                "there are no files"
            };
            notice(&format!("{problem}; {files}, asking again in {} ms", again.as_millis()));
            sleep(again).await;
            again = (again * 2).min(WORKLOAD_AGAIN_MAX);
        }
    }
}

/// What the end of a stream says. That nothing is given is believed of a new connection alone: of an older one it may say
/// something about that alone.
fn ended(status: &Status, fresh: bool) -> Result<Heard, Failure> {
    match fresh && is_withdrawal(status) {
        true => Ok(Heard::Withdrawn(refused(status))),
        false => Err(refused(status)),
    }
}
