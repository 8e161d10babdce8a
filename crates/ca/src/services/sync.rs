//! The Sync stream: one long stream for each agent. Asks come up in batches; certificates and every change of entries,
//! trust and revocation go down as they happen. Nothing polls.
//!
//! Every message is taken only from an agent that may still speak: its certificate and its standing are checked anew for
//! each one. A batch of asks is worked on while the next is read, up to a limit; past it the reader waits, and so does
//! the agent, by HTTP/2 flow control.

use std::{pin::Pin, sync::Arc, time::Duration};

use futures_util::Stream;
use mintage_attest::AgentSession;
use mintage_identity::{AgentName, EntryName, RequestId, Reserved, SpiffeId};
use mintage_policy::Want;
use mintage_proto::{
    limits::ASKS_PER_MINT_MAX,
    request_id,
    v1::{
        self, AgentMessage, CaMessage, Hello, MintResult, Minted, agent_message::Message as Up,
        ca_message::Message as Down, revoked::News,
    },
};
use mintage_state::View;
use tokio::sync::{Semaphore, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status, Streaming};
use tracing::{error, info, warn};

use super::{jwt, revocation::blocking};
use crate::{
    denials::{self, Asked},
    desk::Desk,
    federation::federated_message,
    fleet::{NewMember, Outgoing, Place},
    issue::{Ask, Speaker, issue},
    limits::{HELLO_WAIT, JOIN_ROUNDS_MAX, MINTS_IN_WORK_PER_STREAM, RELEASES_IN_WORK_PER_STREAM, STREAM_QUEUE},
    logging::steers,
    peer::TlsPeer,
    publisher::revoked,
    pusher::{entries_of, message, trust_message},
    released,
    replay::Answer,
    seen, standing,
    status::{Refusal, over_limit},
};

/// What `Sync` returns.
pub(crate) type CaStream = Pin<Box<dyn Stream<Item = Outgoing> + Send>>;

/// Opens the stream: checks the agent, joins it to the fleet, sends what it has missed, and starts reading.
pub(crate) async fn open(
    desk: Arc<Desk>,
    peer: &TlsPeer,
    mut incoming: Streaming<AgentMessage>,
) -> Result<CaStream, Status> {
    let session = Arc::new(
        peer.agent_session()
            .ok_or_else(|| Refusal::bug("a stream without an agent"))?,
    );
    let instance = check(&desk, &session)?;
    let hello = first(incoming.message(), HELLO_WAIT).await?;
    let name = agent_name(&session)?;
    let (queue, outgoing) = mpsc::channel(STREAM_QUEUE);
    let cut = CancellationToken::new();
    watch_for_newer(&desk, &session, &hello);
    let member = NewMember {
        id: session.id.clone(),
        name: name.clone(),
        instance,
        version: printable(&hello.agent_version),
        queue: queue.clone(),
        cut: cut.clone(),
        enforced: hello.revocation_sequence,
        since: desk.publisher.sequence(),
    };
    let place = join(&desk, &member, &hello).await?;
    // Whoever was banned while Hello was waited for was told so before it joined, when it was no stream yet.
    check(&desk, &session)?;
    info!(agent = %session.id, remote = %peer.remote, version = %printable(&hello.agent_version), "agent connected");
    tokio::spawn(async move {
        let why = Reader {
            desk,
            session: session.clone(),
            place,
            queue,
            cut,
            seen: Arc::new(Semaphore::new(1)),
            released: Arc::new(Semaphore::new(RELEASES_IN_WORK_PER_STREAM)),
        }
        .read(incoming)
        .await;
        info!(agent = %session.id, why = %why, "agent disconnected");
    });
    Ok(Box::pin(ReceiverStream::new(outgoing)))
}

/// The first message, which has to be Hello, and to come in time: until then the stream is in no list.
async fn first(
    message: impl Future<Output = Result<Option<AgentMessage>, Status>>,
    at_most: Duration,
) -> Result<Hello, Status> {
    let late = |_| {
        let text = format!("Hello did not come within {at_most:?}; connect again");
        Refusal::new(Code::DeadlineExceeded, "hello", text)
    };
    match tokio::time::timeout(at_most, message).await.map_err(late)?? {
        Some(AgentMessage {
            message: Some(Up::Hello(hello)),
        }) => Ok(hello),
        _ => Err(Refusal::invalid("the first message of a stream is Hello").into()),
    }
}

/// Text of an agent for logs and listings: short, and without what steers a terminal or turns text around.
fn printable(text: &str) -> String {
    text.chars().filter(|c| !steers(*c)).take(64).collect()
}

fn agent_name(session: &AgentSession) -> Result<AgentName, Refusal> {
    match session.id.reserved() {
        Some(Reserved::Agent(name)) => Ok(name),
        _ => Err(Refusal::bug("an agent session of something that is no agent")),
    }
}

/// May this agent speak now?
pub(crate) fn check(desk: &Desk, session: &AgentSession) -> Result<mintage_identity::AgentInstance, Refusal> {
    let attested = standing::prove(&desk.state.view(), session, desk.clock.unguarded()).map_err(|error| {
        desk.metrics.attested("svid", Err(error.code()));
        match error.is_alarming() {
            true => {
                desk.metrics.alarm(error.code());
                error!(agent = %session.id, why = %error.detail(), "agent refused: somebody may use a key that is not theirs");
            }
            false => warn!(agent = %session.id, why = %error.detail(), "agent refused"),
        }
        Refusal::from(error)
    })?;
    Ok(attested.instance())
}

/// An agent holds signed news that this CA has not made: it was put back from a backup, and forgets revocations. The agent
/// refuses what it is offered; that the others do not know better is for a person to mend.
fn watch_for_newer(desk: &Desk, session: &AgentSession, hello: &Hello) {
    let held = (hello.revocation_epoch, hello.revocation_sequence);
    let ours = (desk.publisher.epoch(), desk.publisher.sequence());
    if held > ours {
        desk.metrics.alarm("revocation-behind");
        error!(
            agent = %session.id,
            held_epoch = held.0,
            held_sequence = held.1,
            epoch = ours.0,
            sequence = ours.1,
            todo = "stop this CA; put the newest data directory back, or make one of the backup with `mintage-ca restore`",
            "an agent has seen more revocations than this data directory holds: it is an older copy"
        );
    }
}

/// Joins the fleet with bundle, revocations and entries as what the agent is told first.
///
/// Revocations are signed before, because that takes time. What is published meanwhile was pushed to those who had joined, so it
/// is signed again until nothing was: then all that comes after is pushed to this agent too.
async fn join(desk: &Arc<Desk>, member: &NewMember, hello: &Hello) -> Result<Place, Refusal> {
    for round in 1..=JOIN_ROUNDS_MAX {
        let published = desk.publisher.sequence();
        let (epoch, sequence) = (hello.revocation_epoch, hello.revocation_sequence);
        let news = blocking(desk, move |desk| {
            desk.publisher.catch_up(epoch, sequence, desk.news_time())
        });
        let news = news.await?;
        let place = desk.fleet.join(member.clone(), |told| {
            let is_whole = desk.publisher.sequence() == published || round == JOIN_ROUNDS_MAX;
            is_whole.then(|| beginning(desk, told, &member.id, news))
        })?;
        if let Some(place) = place {
            return Ok(place);
        }
    }
    Err(Refusal::bug("a stream was begun once more than there are rounds"))
}

/// What a stream begins with: the bundle, which revocations are verified with, those of other trust domains, which entries name,
/// revocations, and the entries.
fn beginning(desk: &Desk, told: &View, agent: &SpiffeId, news: Vec<News>) -> Vec<CaMessage> {
    let bundles = [
        Down::Trust(trust_message(desk, told)),
        Down::Federated(federated_message(told)),
    ];
    let news = news.into_iter().map(|news| Down::Revoked(revoked(news)));
    let entries = entries_of(told, agent).into_iter().map(Down::Entries);
    bundles.into_iter().chain(news).chain(entries).map(message).collect()
}

/// The reading half of a stream.
struct Reader {
    desk: Arc<Desk>,
    session: Arc<AgentSession>,
    place: Place,
    queue: mpsc::Sender<Outgoing>,
    cut: CancellationToken,
    /// One message of what was seen in use is looked up at a time.
    seen: Arc<Semaphore>,
    /// Messages of what was released that are in work.
    released: Arc<Semaphore>,
}

impl Reader {
    /// Reads until the agent leaves, misbehaves, or may no longer speak; returns why.
    async fn read(self, mut incoming: Streaming<AgentMessage>) -> String {
        let work = Arc::new(Semaphore::new(MINTS_IN_WORK_PER_STREAM));
        loop {
            let message = tokio::select! {
                message = incoming.message() => message,
                () = self.cut.cancelled() => return "cut off".to_owned(),
            };
            let outcome = match message {
                Ok(Some(message)) => self.take(message, &work).await,
                Ok(None) => return "closed by the agent".to_owned(),
                Err(status) => {
                    let why = format!("stream ended: {}", status.message().escape_debug());
                    // Whoever broke a limit is told; where the connection is gone, nobody hears it.
                    let _ = self.queue.try_send(Err(over_limit(status, &self.desk.metrics)));
                    return why;
                }
            };
            if let Err(refusal) = outcome {
                let why = refusal.to_string();
                let _ = self.queue.send(Err(refusal.into())).await;
                return why;
            }
        }
    }

    async fn take(&self, message: AgentMessage, work: &Arc<Semaphore>) -> Result<(), Refusal> {
        check(&self.desk, &self.session)?;
        match message.message {
            Some(Up::Mint(mint)) => self.mint(mint, work).await,
            Some(Up::Ack(ack)) => {
                if ack.revocation_sequence > 0 {
                    let news = self.place.enforce(ack.revocation_sequence);
                    self.desk.propagation.acknowledged(news, &self.desk);
                }
                Ok(())
            }
            Some(Up::Seen(seen)) => self.seen(seen),
            Some(Up::Release(release)) => self.release(release),
            Some(Up::Hello(_)) => Err(Refusal::invalid("Hello comes once, as the first message")),
            // A newer agent may say more than this CA understands.
            None => Ok(()),
        }
    }

    /// Has a sample of certificates looked up, beside everything else. A second one that comes meanwhile is passed over: it
    /// is a sample, and asks must not wait behind it.
    fn seen(&self, seen: v1::Seen) -> Result<(), Refusal> {
        let uses = seen::read(seen)?;
        let Ok(place) = self.seen.clone().try_acquire_owned() else {
            self.desk.metrics.seen("passed_over", uses.len() as u64);
            return Ok(());
        };
        let (desk, session) = (self.desk.clone(), self.session.clone());
        tokio::spawn(async move {
            seen::reconcile(&desk, &session, uses).await;
            drop(place);
        });
        Ok(())
    }

    /// Has certificates revoked whose delivery ended, one message after the other. As many wait as there may be; what is passed
    /// over is said again on the next stream.
    fn release(&self, release: v1::Release) -> Result<(), Refusal> {
        let serials = released::read(&release)?;
        let Ok(place) = self.released.clone().try_acquire_owned() else {
            self.desk.metrics.refused_call("releases");
            return Ok(());
        };
        let (desk, session, name) = (self.desk.clone(), self.session.clone(), agent_name(&self.session)?);
        tokio::spawn(async move {
            released::strike(&desk, &session, &name, &serials).await;
            drop(place);
        });
        Ok(())
    }

    async fn mint(&self, mint: v1::Mint, work: &Arc<Semaphore>) -> Result<(), Refusal> {
        let asks = mint.asks.len() + mint.jwt_asks.len();
        if asks > ASKS_PER_MINT_MAX {
            let text = format!("{asks} asks in one message, the limit is {ASKS_PER_MINT_MAX}");
            return Err(Refusal::new(Code::ResourceExhausted, "asks", text));
        }
        let permit = work
            .clone()
            .acquire_owned()
            .await
            .map_err(|_| Refusal::bug("the work limit was closed"))?;
        let (desk, session, queue) = (self.desk.clone(), self.session.clone(), self.queue.clone());
        tokio::spawn(async move {
            let minted = answer(&desk, session, mint).await;
            let message = CaMessage {
                message: Some(Down::Minted(minted)),
            };
            // Waiting here holds this batch's permit: an agent that does not read is not read from either.
            let _ = queue.send(Ok(message)).await;
            drop(permit);
        });
        Ok(())
    }
}

/// Answers one batch: every ask gets a certificate or a refusal, under its own request id.
async fn answer(desk: &Arc<Desk>, session: Arc<AgentSession>, mint: v1::Mint) -> Minted {
    let started = desk.clock.clock().monotonic();
    let mut asks = Vec::with_capacity(mint.asks.len());
    let mut sent: Vec<(Vec<u8>, Option<Refusal>)> = Vec::with_capacity(mint.asks.len());
    for mut ask in mint.asks {
        let refused = parse(&mut ask).map(|ask| asks.push(ask)).err();
        sent.push((ask.request_id, refused));
    }
    let asks = Arc::new(asks);
    let answers = issue(desk, &Speaker::Session(session.clone()), &asks).await;
    let mut answers = answers.into_iter().zip(asks.iter());
    let mut minted = Minted {
        results: Vec::with_capacity(sent.len()),
        issuers: desk.issuer.chain_below_root().to_vec(),
        jwts: jwt::answer(desk, &session, mint.jwt_asks).await,
    };
    for (request_id, refused) in sent {
        let (outcome, want) = match refused {
            Some(refusal) => (Err(refusal), None),
            None => match answers.next() {
                Some((answer, ask)) => (answer, Some(&ask.want)),
                None => (Err(Refusal::bug("an ask was left without an answer")), None),
            },
        };
        minted.results.push(match outcome {
            Ok(answer) => granted(request_id, answer),
            Err(refusal) => {
                // Of an ask that cannot be read, the id may still be one.
                let asked = Asked {
                    request_id: RequestId::from_slice(&request_id).ok(),
                    want,
                };
                denials::record(desk, &session, &asked, &refusal);
                denied(request_id, refusal)
            }
        });
    }
    desk.metrics.issuance_took(desk.seconds_since(started));
    minted
}

/// Takes the request out of a message.
fn parse(ask: &mut v1::Ask) -> Result<Ask, Refusal> {
    let want = match ask.entry.as_str() {
        "" => Want::AgentItself,
        name => Want::Entry(EntryName::parse(name).map_err(|error| Refusal::invalid(error.to_string()))?),
    };
    Ok(Ask {
        request_id: request_id("request_id", &ask.request_id)?,
        want,
        csr: std::mem::take(&mut ask.csr),
    })
}

fn granted(request_id: Vec<u8>, answer: Answer) -> MintResult {
    MintResult {
        request_id,
        receipt: Some(answer.receipt()),
        leaf: answer.leaf,
        refusal: None,
    }
}

fn denied(request_id: Vec<u8>, refusal: Refusal) -> MintResult {
    MintResult {
        request_id,
        leaf: Vec::new(),
        receipt: None,
        refusal: Some(wire_refusal(refusal)),
    }
}

pub(super) fn wire_refusal(refusal: Refusal) -> v1::Refusal {
    v1::Refusal {
        code: refusal.code.to_owned(),
        message: refusal.message,
        grpc_code: refusal.grpc as u32,
        retry: refusal.retry,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_stream_begins_with_hello_and_in_time() {
        let up = |message| Ok(Some(AgentMessage { message: Some(message) }));
        let hello = first(std::future::ready(up(Up::Hello(Hello::default()))), HELLO_WAIT).await;
        assert_eq!(hello.unwrap(), Hello::default());
        for other in [up(Up::Seen(v1::Seen::default())), Ok(None)] {
            let refused = first(std::future::ready(other), HELLO_WAIT).await.unwrap_err();
            assert_eq!(refused.code(), Code::InvalidArgument);
        }
        let late = first(std::future::pending(), Duration::from_millis(1))
            .await
            .unwrap_err();
        assert_eq!(late.code(), Code::DeadlineExceeded);
    }
}
