//! An agent's open Sync stream without an agent behind it: whatever is sent is the test's own choice.

use mintage_proto::v1::{
    AgentMessage, Ask, CaMessage, Hello, JwtAsk, JwtResult, Mint, MintResult, Seen, SeenUse,
    agent_message::Message as Up, ca_message::Message as Down, node_client::NodeClient,
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming, transport::Channel};

use super::client::{Joined, key_and_csr, random};

/// Both directions of an open stream.
#[derive(Debug)]
pub struct Stream {
    up: mpsc::Sender<AgentMessage>,
    down: Streaming<CaMessage>,
}

impl Stream {
    /// Connects as `agent` and says Hello.
    pub async fn open(agent: &Joined, address: &str) -> Result<Self, Status> {
        let unavailable = |error: tonic::transport::Error| Status::unavailable(error.to_string());
        let (channel, _) = agent.channel(address).await.map_err(unavailable)?;
        Self::over(channel).await
    }

    /// Says Hello over a channel, whoever it belongs to.
    pub async fn over(channel: Channel) -> Result<Self, Status> {
        let (up, messages) = mpsc::channel(16);
        let hello = Hello {
            agent_version: "kit".to_owned(),
            ..Hello::default()
        };
        let hello = AgentMessage {
            message: Some(Up::Hello(hello)),
        };
        up.try_send(hello).expect("an empty queue takes a message");
        let down = NodeClient::new(channel).sync(ReceiverStream::new(messages)).await?;
        Ok(Self {
            up,
            down: down.into_inner(),
        })
    }

    /// Sends one batch; an error when the stream has ended.
    pub async fn ask(&self, asks: Vec<Ask>) -> Result<(), Status> {
        let message = AgentMessage {
            message: Some(Up::Mint(Mint {
                asks,
                ..Mint::default()
            })),
        };
        let ended = |_| Status::unavailable("the stream has ended");
        self.up.send(message).await.map_err(ended)
    }

    /// Tells of certificates seen in use; an error when the stream has ended.
    pub async fn tell_seen(&self, uses: Vec<SeenUse>) -> Result<(), Status> {
        let message = AgentMessage {
            message: Some(Up::Seen(Seen { uses })),
        };
        let ended = |_| Status::unavailable("the stream has ended");
        self.up.send(message).await.map_err(ended)
    }

    /// Sends whatever message; an error when the stream has ended.
    pub async fn say(&self, message: AgentMessage) -> Result<(), Status> {
        let ended = |_| Status::unavailable("the stream has ended");
        self.up.send(message).await.map_err(ended)
    }

    /// The next answers to asks, passing over whatever else is pushed.
    pub async fn minted(&mut self) -> Result<Vec<MintResult>, Status> {
        loop {
            let message = self.down.message().await?;
            match message.map(|message| message.message) {
                Some(Some(Down::Minted(minted))) => return Ok(minted.results),
                Some(_) => {}
                None => return Err(Status::unavailable("the stream was closed")),
            }
        }
    }

    /// Asks for JWT-SVIDs and waits for the answers.
    pub async fn jwts(&mut self, jwt_asks: Vec<JwtAsk>) -> Result<Vec<JwtResult>, Status> {
        let mint = Mint {
            jwt_asks,
            ..Mint::default()
        };
        let message = AgentMessage {
            message: Some(Up::Mint(mint)),
        };
        let ended = |_| Status::unavailable("the stream has ended");
        self.up.send(message).await.map_err(ended)?;
        loop {
            let message = self.down.message().await?;
            match message.and_then(|message| message.message) {
                Some(Down::Minted(minted)) => return Ok(minted.jwts),
                Some(_) => {}
                None => return Err(Status::unavailable("the stream was closed")),
            }
        }
    }

    /// Asks for one certificate and waits for the answer.
    pub async fn ask_one(&mut self, ask: Ask) -> Result<MintResult, Status> {
        self.ask(vec![ask]).await?;
        let mut results = self.minted().await?;
        results
            .pop()
            .ok_or_else(|| Status::internal("an answer without results"))
    }
}

/// An ask for `entry` with a new key.
pub fn ask(entry: &str) -> Ask {
    ask_with(entry, key_and_csr().1)
}

/// An ask for `entry` with this signing request.
pub fn ask_with(entry: &str, csr: Vec<u8>) -> Ask {
    Ask {
        request_id: random::<16>().to_vec(),
        entry: entry.to_owned(),
        csr,
    }
}

/// The code of a refusal; empty for a certificate.
pub fn code(result: &MintResult) -> &str {
    result.refusal.as_ref().map_or("", |refusal| refusal.code.as_str())
}
