//! Load over Sync streams: agents that keep a fixed number of asks in flight with requests made beforehand.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use bytes::{BufMut, Bytes};
use mintage_proto::v1::{AgentMessage, Ask, Hello, Mint, Refusal, agent_message::Message as Up};
use mintage_tests::kit::client::Joined;
use prost::Message;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{
    Request, Status, Streaming,
    client::Grpc,
    codec::{Codec, EncodeBuf, Encoder},
    codegen::http::uri::PathAndQuery,
};
use tonic_prost::{ProstCodec, ProstDecoder};

/// A boxed failure.
pub type Failure = Box<dyn std::error::Error + Send + Sync>;

/// Asks in one message.
pub const BATCH: usize = 64;
/// Messages in flight on each stream.
pub const IN_FLIGHT: usize = 2;

/// Requests for one agent, each used once.
pub type Requests = Vec<Vec<u8>>;

/// What a CA sends, as far as this client looks: certificates stay in the buffer they came in, since what a client does
/// with them is no part of what is measured, and the client takes its time from the same cores.
#[derive(Clone, PartialEq, prost::Message)]
struct Answer {
    #[prost(message, optional, tag = "1")]
    minted: Option<Minted>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Minted {
    #[prost(message, repeated, tag = "1")]
    results: Vec<Outcome>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Outcome {
    #[prost(bytes = "bytes", tag = "1")]
    request_id: Bytes,
    #[prost(bytes = "bytes", tag = "2")]
    leaf: Bytes,
    #[prost(message, optional, tag = "4")]
    refusal: Option<Refusal>,
}

/// The time that counts. What arrives before `from`, while the first messages fill the CA, or after `end`, while the last
/// ones are taken in, belongs to no rate.
#[derive(Clone, Copy, Debug)]
pub struct Window {
    /// Its first moment.
    pub from: Instant,
    /// Its end, and that of sending.
    pub end: Instant,
}

impl Window {
    /// `length` from `lead` on.
    pub fn after(lead: Duration, length: Duration) -> Self {
        let from = Instant::now() + lead;
        Self {
            from,
            end: from + length,
        }
    }

    fn holds(self, time: Instant) -> bool {
        (self.from..self.end).contains(&time)
    }
}

/// What one stream measured.
#[derive(Debug, Default)]
pub struct Measured {
    /// Certificates received in the window.
    pub counted: u64,
    /// All certificates received.
    pub certificates: u64,
    /// Time from sending a batch to its answer, of those answered in the window, in milliseconds.
    pub latencies_ms: Vec<f64>,
    /// The first refusal, if there was one: a bench that measures refusals measures nothing.
    pub refused: Option<String>,
}

/// Makes signing requests on all cores.
///
/// # Panics
/// When no key can be made.
pub fn requests(agents: usize, each: usize) -> Vec<Requests> {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let total = agents * each;
    let mut all: Vec<Vec<u8>> = std::thread::scope(|scope| {
        let share = total.div_ceil(cores);
        let threads: Vec<_> = (0..cores)
            .map(|_| scope.spawn(move || (0..share).map(|_| request()).collect::<Vec<_>>()))
            .collect();
        threads
            .into_iter()
            .flat_map(|thread| thread.join().expect("requests are made"))
            .collect()
    });
    (0..agents)
        .map(|_| all.split_off(all.len().saturating_sub(each)))
        .collect()
}

fn request() -> Vec<u8> {
    let key = rcgen::KeyPair::generate().expect("a key");
    rcgen::CertificateParams::default()
        .serialize_request(&key)
        .expect("a request")
        .der()
        .to_vec()
}

/// Sends messages that were encoded before the measured part.
#[derive(Debug, Default)]
struct Encoded;

impl Codec for Encoded {
    type Encode = Bytes;
    type Decode = Answer;
    type Encoder = Self;
    type Decoder = ProstDecoder<Answer>;

    fn encoder(&mut self) -> Self::Encoder {
        Self
    }

    fn decoder(&mut self) -> Self::Decoder {
        ProstCodec::<Answer, Answer>::default().decoder()
    }
}

impl Encoder for Encoded {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, message: Bytes, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        buffer.put(message);
        Ok(())
    }
}

/// A message of asks; the id of the first names it.
#[derive(Debug)]
struct Batch {
    first: Vec<u8>,
    message: Bytes,
}

/// Messages of `batch` asks each, under ids that begin with `number`.
fn batches(requests: Requests, batch: usize, number: usize) -> Vec<Batch> {
    let mut id = (number as u128) << 96;
    let mut ask = |csr: Vec<u8>| {
        id += 1;
        Ask {
            request_id: id.to_be_bytes().to_vec(),
            entry: "load".to_owned(),
            csr,
        }
    };
    let mut requests = requests.into_iter();
    let mut made = Vec::with_capacity(requests.len() / batch);
    while requests.len() >= batch {
        let asks: Vec<Ask> = requests.by_ref().take(batch).map(&mut ask).collect();
        made.push(Batch {
            first: asks[0].request_id.clone(),
            message: encoded(Up::Mint(Mint {
                asks,
                ..Mint::default()
            })),
        });
    }
    made
}

fn encoded(message: Up) -> Bytes {
    let message = AgentMessage { message: Some(message) };
    message.encode_to_vec().into()
}

/// One agent's stream.
#[derive(Debug)]
pub struct Driver {
    up: mpsc::Sender<Bytes>,
    down: Streaming<Answer>,
    batches: Vec<Batch>,
}

impl Driver {
    /// Opens the stream and makes its messages, of `batch` asks each.
    ///
    /// # Errors
    /// When the CA does not take the agent.
    pub async fn open(
        agent: &Joined,
        address: &str,
        requests: Requests,
        batch: usize,
        number: usize,
    ) -> Result<Self, Failure> {
        let (channel, _) = agent.channel(address).await?;
        let (up, messages) = mpsc::channel(IN_FLIGHT + 1);
        let hello = Hello {
            agent_version: "load".to_owned(),
            ..Hello::default()
        };
        up.send(encoded(Up::Hello(hello))).await?;
        let mut client = Grpc::new(channel).max_decoding_message_size(4 << 20);
        client.ready().await?;
        let path = PathAndQuery::from_static("/mintage.v1.Node/Sync");
        let asks = Request::new(ReceiverStream::new(messages));
        let down = client.streaming(asks, path, Encoded).await?.into_inner();
        Ok(Self {
            up,
            down,
            batches: batches(requests, batch, number),
        })
    }

    /// Sends a message and says which; `None` when they are used up.
    async fn send(&mut self) -> Result<Option<Vec<u8>>, Failure> {
        let Some(batch) = self.batches.pop() else {
            return Ok(None);
        };
        self.up.send(batch.message).await?;
        Ok(Some(batch.first))
    }

    /// Keeps `in_flight` messages under way until the window ends, and then takes in what is still coming.
    ///
    /// # Errors
    /// When the stream ends.
    pub async fn drive(mut self, in_flight: usize, window: Window) -> Result<(Self, Measured), Failure> {
        let mut measured = Measured::default();
        let mut open: HashMap<Vec<u8>, Instant> = HashMap::new();
        loop {
            while open.len() < in_flight && Instant::now() < window.end {
                match self.send().await? {
                    Some(id) => _ = open.insert(id, Instant::now()),
                    None => break,
                }
            }
            if open.is_empty() {
                return Ok((self, measured));
            }
            let message = tokio::time::timeout(Duration::from_secs(20), self.down.message()).await??;
            let Some(minted) = message.ok_or("the CA ended the stream")?.minted else {
                continue;
            };
            measured.take(minted, &mut open, window);
        }
    }
}

impl Measured {
    /// Adds what another stream measured.
    pub fn add(&mut self, other: Self) {
        self.counted += other.counted;
        self.certificates += other.certificates;
        self.latencies_ms.extend(other.latencies_ms);
        self.refused = self.refused.take().or(other.refused);
    }

    fn take(&mut self, minted: Minted, open: &mut HashMap<Vec<u8>, Instant>, window: Window) {
        let received = Instant::now();
        let counts = window.holds(received);
        let first = minted.results.first();
        let sent = first.and_then(|first| open.remove(&first.request_id[..]));
        if let Some(sent) = sent.filter(|_| counts) {
            self.latencies_ms.push((received - sent).as_secs_f64() * 1e3);
        }
        for result in minted.results {
            let certificate = u64::from(!result.leaf.is_empty());
            self.certificates += certificate;
            self.counted += certificate * u64::from(counts);
            self.refused = self.refused.take().or(result.refusal.map(|refusal| refusal.message));
        }
    }
}

/// The value below which `share` of the sorted values lie.
pub fn percentile(values: &mut [f64], share: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    let last = values.len().saturating_sub(1);
    values
        .get((last as f64 * share).round() as usize)
        .copied()
        .unwrap_or(f64::NAN)
}
