//! The two ends of the demo's calls: a server over our verifier that tells each client who it is, and a client that checks
//! whom it has reached.

use std::{io, net::SocketAddr, sync::Arc};

use mintage_agent::AgentHandle;
use mintage_identity::{Serial, SpiffeId};
use mintage_verifier::{
    AllowedIds, ClientAuth, IdentitySource, TlsSettings, VerifyError, client_config, reason_of, server_config,
};
use mintage_verifier_tokio::{Acceptor, Connector, HandshakeError, RegisterError, Registry, RegistrySettings, Watched};
use rustls::{CertificateError, crypto::CryptoProvider, time_provider::DefaultTimeProvider};
use rustls_pki_types::ServerName;
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream},
    sync::{broadcast::error::RecvError, watch},
    task::{AbortHandle, JoinSet},
};
use tokio_rustls::client;

use crate::failure::Failure;

/// The word for a peer whose certificate is revoked.
pub(super) const REVOKED: &str = "revoked";
/// Longest line either end reads.
const LINE_BYTES_MAX: u64 = 4096;

/// Trust, clock and live connections of this process, all out of the agent.
#[derive(Clone, Debug)]
pub(super) struct Trusting {
    registry: Registry,
    settings: TlsSettings,
    provider: Arc<CryptoProvider>,
}

/// A server that runs until it is dropped.
#[derive(Debug)]
pub(super) struct Server {
    pub(super) address: SocketAddr,
    refused: watch::Receiver<Option<String>>,
    task: AbortHandle,
}

/// Calls one server under one identity.
#[derive(Clone, Debug)]
pub(super) struct Client {
    connector: Connector,
    address: SocketAddr,
    expects: SpiffeId,
}

/// An open connection of a client.
pub(super) struct Line {
    stream: BufReader<Watched<client::TlsStream<TcpStream>>>,
}

/// Who the server saw.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Answer {
    pub(super) id: String,
    pub(super) serial: String,
}

fn tls(error: &rustls::Error) -> Failure {
    Failure::local(format!("TLS cannot be set up: {error}"))
}

impl Trusting {
    /// Follows the agent: its bundle and its revocations judge every handshake and every live connection.
    pub(super) fn of(agent: &AgentHandle, background: &mut JoinSet<()>) -> Self {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let time = Arc::new(DefaultTimeProvider);
        let registry = Registry::start(agent.trust_store(), time.clone(), RegistrySettings::default());
        let mut added = agent.revocations();
        let judged = registry.clone();
        background.spawn(async move {
            loop {
                match added.recv().await {
                    Ok(added) => drop(judged.apply(&added)),
                    // Lost news: every connection is asked about again.
                    Err(RecvError::Lagged(_)) => drop(judged.trust_changed()),
                    Err(RecvError::Closed) => return,
                }
            }
        });
        let settings = TlsSettings::new(provider.clone(), time);
        Self {
            registry,
            settings,
            provider,
        }
    }

    pub(super) fn provider(&self) -> &CryptoProvider {
        &self.provider
    }

    /// A server under `identity` that accepts `clients` alone.
    pub(super) async fn serve(&self, identity: Arc<IdentitySource>, clients: SpiffeId) -> Result<Server, Failure> {
        let allowed = AllowedIds::exact([clients]).map_err(Failure::local)?;
        let trust = self.registry.trust().clone();
        let config = server_config(trust, identity, ClientAuth::Mandatory(allowed), &self.settings);
        let acceptor = Acceptor::new(config.map_err(|error| tls(&error))?, self.registry.clone());
        let no_port = |error: io::Error| Failure::local(format!("no port of this machine can be had: {error}"));
        let listener = TcpListener::bind("127.0.0.1:0").await.map_err(no_port)?;
        let address = listener.local_addr().map_err(no_port)?;
        let (refusals, refused) = watch::channel(None);
        let task = tokio::spawn(accept(listener, acceptor, refusals)).abort_handle();
        Ok(Server { address, refused, task })
    }

    /// A client under `identity` of the server at `address`, which must be `expects`.
    pub(super) fn client(
        &self,
        identity: Arc<IdentitySource>,
        address: SocketAddr,
        expects: &SpiffeId,
    ) -> Result<Client, Failure> {
        let allowed = AllowedIds::exact([expects.clone()]).map_err(Failure::local)?;
        let trust = self.registry.trust().clone();
        let config = client_config(trust, Some(identity), allowed, &self.settings).map_err(|error| tls(&error))?;
        let connector = Connector::new(config, self.registry.clone());
        Ok(Client {
            connector,
            address,
            expects: expects.clone(),
        })
    }
}

impl Server {
    /// The code of the last refusal; `None` before the first.
    pub(super) fn refusals(&self) -> watch::Receiver<Option<String>> {
        self.refused.clone()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn accept(listener: TcpListener, acceptor: Acceptor, refusals: watch::Sender<Option<String>>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let Ok((socket, _)) = accepted else { continue };
                let (acceptor, refusals) = (acceptor.clone(), refusals.clone());
                connections.spawn(async move {
                    match acceptor.accept(socket).await {
                        // A connection ends when the client goes, or when the registry ends it.
                        Ok(stream) => drop(answer(stream).await),
                        Err(error) => drop(refusals.send(Some(code_of(&error)))),
                    }
                });
            }
            Some(_) = connections.join_next() => {}
        }
    }
}

/// Why a handshake failed, as a word.
fn code_of(error: &HandshakeError) -> String {
    let word = match error {
        HandshakeError::Tls(io) => {
            let tls = io.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
            match tls {
                // rustls has a word of its own for this one, so that the alert is right.
                Some(rustls::Error::InvalidCertificate(CertificateError::Revoked)) => Some(REVOKED),
                other => other.and_then(reason_of).map(VerifyError::code),
            }
        }
        HandshakeError::Verify(error) | HandshakeError::Register(RegisterError::Refused(error)) => Some(error.code()),
        _ => None,
    };
    word.map_or_else(|| error.to_string(), str::to_owned)
}

/// Tells the client, line by line, who it is.
async fn answer<S>(stream: Watched<S>) -> io::Result<()>
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
{
    let Some(guard) = stream.guard() else { return Ok(()) };
    let told = format!("{} {}\n", guard.peer().id(), guard.peer().serial());
    let mut stream = BufReader::new(stream);
    let mut line = String::new();
    loop {
        line.clear();
        if (&mut stream).take(LINE_BYTES_MAX).read_line(&mut line).await? == 0 {
            return Ok(());
        }
        stream.get_mut().write_all(told.as_bytes()).await?;
        stream.get_mut().flush().await?;
    }
}

impl Client {
    /// Opens a connection; the server has proven who it is.
    ///
    /// # Errors
    /// Why it was refused.
    pub(super) async fn open(&self) -> io::Result<Line> {
        let socket = TcpStream::connect(self.address).await?;
        socket.set_nodelay(true)?;
        let name = ServerName::IpAddress(self.address.ip().into());
        let stream = self.connector.connect(name, socket).await.map_err(io::Error::other)?;
        let reached = stream.guard().map(|guard| guard.peer().id().clone());
        if reached.as_ref() != Some(&self.expects) {
            return Err(io::Error::other(format!("reached {reached:?}, not {}", self.expects)));
        }
        Ok(Line {
            stream: BufReader::new(stream),
        })
    }

    /// One call over a connection of its own.
    ///
    /// # Errors
    /// Why it was refused.
    pub(super) async fn call(&self) -> io::Result<Answer> {
        self.open().await?.ask().await
    }
}

impl Line {
    /// Asks who the server sees.
    pub(super) async fn ask(&mut self) -> io::Result<Answer> {
        self.stream.get_mut().write_all(b"who am I\n").await?;
        self.stream.get_mut().flush().await?;
        let mut line = String::new();
        (&mut self.stream).take(LINE_BYTES_MAX).read_line(&mut line).await?;
        let mut words = line.split_whitespace().map(str::to_owned);
        match (words.next(), words.next()) {
            (Some(id), Some(serial)) => Ok(Answer { id, serial }),
            _ => Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }

    /// Completes when the server has ended the connection.
    pub(super) async fn ended(mut self) {
        let mut rest = String::new();
        // An error is an end as well as an orderly close is.
        while let Ok(1..) = (&mut self.stream).take(LINE_BYTES_MAX).read_line(&mut rest).await {
            rest.clear();
        }
    }
}

impl Answer {
    /// True when the server saw this identity under this certificate.
    pub(super) fn is(&self, id: &SpiffeId, serial: &Serial) -> bool {
        self.id == id.as_str() && self.serial == serial.to_string()
    }
}
