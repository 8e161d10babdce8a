//! The wire of the test CA: our own TLS acceptor with the real verifier, and the services an agent calls.

use std::{
    io,
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use mintage_attest::{
    channel::{AgentCertificate, AgentStanding},
    rejoin::{self, EXPORTER_LABEL, LastCertificate},
};
use mintage_identity::{AgentInstance, SpkiHash};
use mintage_proto::v1::{
    self, agent_message,
    ca_message::Message,
    crls_server::CrlsServer,
    node_server::{Node, NodeServer},
    revocation_server::{Revocation, RevocationServer},
    revoked::News,
};
use mintage_svid::{LeafInfo, spki_sha256};
use mintage_verifier::{AllowedIds, ClientAuth, RevocationCheck, TlsSettings, Trust, TrustStore, server_config};
use rustls::time_provider::DefaultTimeProvider;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
    sync::mpsc,
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tonic::{
    Request, Response, Status, Streaming,
    transport::{Server, server::Connected},
};

use super::{DOMAIN, SECRET, SeenAsk, State, domain, pki::spki_of, receipts, wall};

pub const AGENT_ID: &str = "spiffe://dev.test/mintage/agent/node-1";
const INSTANCE: u64 = 42;

#[derive(Clone)]
pub struct Peer {
    certificate: Option<Vec<u8>>,
    exporter: [u8; 32],
}

/// A connection that ends when the CA goes down.
struct Io {
    tls: TlsStream<TcpStream>,
    down: Pin<Box<WaitForCancellationFutureOwned>>,
    peer: Peer,
}

impl Connected for Io {
    type ConnectInfo = Peer;
    fn connect_info(&self) -> Peer {
        self.peer.clone()
    }
}

impl AsyncRead for Io {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.down.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        }
        Pin::new(&mut self.tls).poll_read(cx, buf)
    }
}

impl AsyncWrite for Io {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.tls).poll_write(cx, buf)
    }
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tls).poll_flush(cx)
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tls).poll_shutdown(cx)
    }
}

pub async fn serve(state: Arc<State>, address: SocketAddr, stop: CancellationToken) -> SocketAddr {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let trust = Trust::builder(domain())
        .domain(domain(), [state.pki.root_der.clone()], RevocationCheck::None)
        .unwrap()
        .build();
    let tls = TlsSettings::new(provider, Arc::new(DefaultTimeProvider)).with_alpn([b"h2".as_slice()]);
    let clients = ClientAuth::Optional(AllowedIds::agents_of(&domain()).unwrap());
    let config = server_config(TrustStore::new(trust), state.pki.replica.clone(), clients, &tls).unwrap();
    let acceptor = TlsAcceptor::from(config);
    let listener = loop {
        // The port of a CA that just went down may be busy for a moment.
        match TcpListener::bind(address).await {
            Ok(listener) => break listener,
            Err(_) => tokio::time::sleep(std::time::Duration::from_millis(20)).await,
        }
    };
    let address = listener.local_addr().unwrap();
    let (ready, incoming) = mpsc::channel(16);
    let accepting = stop.clone();
    tokio::spawn(async move {
        loop {
            let (tcp, _) = tokio::select! {
                accepted = listener.accept() => accepted.unwrap(),
                () = accepting.cancelled() => return,
            };
            let (acceptor, ready, down) = (acceptor.clone(), ready.clone(), accepting.clone());
            tokio::spawn(async move {
                let Ok(tls) = acceptor.accept(tcp).await else { return };
                let connection = tls.get_ref().1;
                let peer = Peer {
                    certificate: connection.peer_certificates().map(|chain| chain[0].to_vec()),
                    exporter: connection
                        .export_keying_material([0; 32], EXPORTER_LABEL, None)
                        .unwrap(),
                };
                let down = Box::pin(down.cancelled_owned());
                let _ = ready.send(Ok::<_, io::Error>(Io { tls, down, peer })).await;
            });
        }
    });
    let lists = CrlsServer::new(state.lists.clone());
    let service = Service(state);
    let server = Server::builder()
        .add_service(NodeServer::new(service.clone()))
        .add_service(RevocationServer::new(service))
        .add_service(lists);
    tokio::spawn(async move {
        tokio::select! {
            served = server.serve_with_incoming(ReceiverStream::new(incoming)) => served.unwrap(),
            () = stop.cancelled() => {}
        }
    });
    address
}

#[derive(Clone)]
struct Service(Arc<State>);

impl Service {
    fn peer<T>(request: &Request<T>) -> Peer {
        request.extensions().get::<Peer>().unwrap().clone()
    }

    /// The recorded leaf of a request id, or a new one.
    fn mint(&self, request_id: &[u8], csr: &[u8], id: &str, ttl: std::time::Duration) -> Vec<u8> {
        let mut issued = self.0.issued.lock().unwrap();
        let made = issued
            .entry(request_id.to_vec())
            .or_insert_with(|| self.0.pki.leaf(csr, id, ttl));
        made.clone()
    }

    fn welcome(&self, request_id: &[u8], csr: &[u8]) -> v1::AttestResponse {
        let ttl = self.0.script.lock().unwrap().agent_ttl;
        let leaf = self.mint(request_id, csr, AGENT_ID, ttl);
        self.0.agent_leaves.lock().unwrap().push(leaf.clone());
        v1::AttestResponse {
            chain: vec![leaf, self.0.pki.issuer_der.clone()],
            bundle: Some(self.0.bundle()),
            receipt: None,
            instance: INSTANCE,
        }
    }

    fn answer(&self, ask: &v1::Ask) -> v1::MintResult {
        let script = self.0.script.lock().unwrap();
        let entry = script.entries.iter().find(|entry| entry.name == ask.entry);
        let (id, ttl) = match (ask.entry.as_str(), entry) {
            ("", _) => (AGENT_ID.to_owned(), script.agent_ttl),
            (_, Some(entry)) => (
                script.wrong_id.clone().unwrap_or(entry.spiffe_id.clone()),
                script.svid_ttl,
            ),
            (_, None) => (String::new(), script.svid_ttl),
        };
        let refusal = match &script.refuse {
            Some(refusal)
                if !ask.entry.is_empty()
                    && (script.refuse_only.is_empty() || script.refuse_only.contains(&ask.entry)) =>
            {
                Some(refusal.clone())
            }
            _ if id.is_empty() => Some(v1::Refusal {
                code: "no_entry".to_owned(),
                ..v1::Refusal::default()
            }),
            _ => None,
        };
        let wrong_key = script.wrong_key && !ask.entry.is_empty();
        drop(script);
        let leaf = match &refusal {
            Some(_) => Vec::new(),
            None if wrong_key => self.0.pki.leaf_for_another_key(&id),
            None => self.mint(&ask.request_id, &ask.csr, &id, ttl),
        };
        if ask.entry.is_empty() && !leaf.is_empty() {
            self.0.agent_leaves.lock().unwrap().push(leaf.clone());
        }
        v1::MintResult {
            request_id: ask.request_id.clone(),
            receipt: refusal.is_none().then(|| receipts::of(&leaf)),
            leaf,
            refusal,
        }
    }

    /// False when the stream is to break.
    fn asked(&self, mint: &v1::Mint, out: &mpsc::Sender<Result<v1::CaMessage, Status>>) -> bool {
        let mut seen = self.0.seen.lock().unwrap();
        seen.largest_batch = seen.largest_batch.max(mint.asks.len());
        seen.asks.extend(mint.asks.iter().map(|ask| SeenAsk {
            request_id: ask.request_id.clone(),
            entry: ask.entry.clone(),
            spki: spki_of(&ask.csr),
        }));
        drop(seen);
        let results: Vec<_> = mint.asks.iter().map(|ask| self.answer(ask)).collect();
        let mut script = self.0.script.lock().unwrap();
        if script.break_at_mint > 0 {
            script.break_at_mint -= 1;
            return false;
        }
        if script.silent_mints > 0 {
            script.silent_mints -= 1;
            return true;
        }
        let issuers = if script.no_chain {
            Vec::new()
        } else {
            vec![self.0.pki.issuer_der.clone()]
        };
        let mut minter = self.0.jwt.lock().unwrap();
        let jwts = minter
            .as_mut()
            .map(|minter| minter.answer(&mint.jwt_asks, &script.entries));
        let minted = v1::Minted {
            results,
            issuers,
            jwts: jwts.unwrap_or_default(),
        };
        out.try_send(Ok(v1::CaMessage {
            message: Some(Message::Minted(minted)),
        }))
        .is_ok()
    }

    fn first_messages(&self) -> Vec<Message> {
        let script = self.0.script.lock().unwrap();
        let entries = v1::Entries {
            full: true,
            put: script.entries.clone(),
            removed: vec![],
            index: 5,
            last: true,
        };
        let news = if script.snapshot_by_reference {
            News::SnapshotRef(self.0.revoking.lock().unwrap().set.sequence())
        } else {
            News::Snapshot(self.0.snapshot().into())
        };
        vec![
            Message::Trust(v1::Trust {
                bundle: Some(self.0.bundle()),
            }),
            Message::Revoked(v1::Revoked { news: Some(news) }),
            Message::Revoked(v1::Revoked {
                news: Some(News::Heartbeat(self.0.heartbeat().into())),
            }),
            Message::Entries(entries),
        ]
    }
}

#[tonic::async_trait]
impl Node for Service {
    type SyncStream = ReceiverStream<Result<v1::CaMessage, Status>>;

    async fn attest(&self, request: Request<v1::AttestRequest>) -> Result<Response<v1::AttestResponse>, Status> {
        let request = request.into_inner();
        let spki = spki_of(&request.csr);
        self.0.seen.lock().unwrap().attests.push(SeenAsk {
            request_id: request.request_id.clone(),
            entry: String::new(),
            spki,
        });
        if request.secret != SECRET {
            return Err(Status::unauthenticated("the join token is not accepted"));
        }
        let response = self.welcome(&request.request_id, &request.csr);
        let mut script = self.0.script.lock().unwrap();
        if script.lose_attest > 0 {
            script.lose_attest -= 1;
            return Err(Status::unavailable("the answer was lost"));
        }
        Ok(Response::new(response))
    }

    async fn rejoin(&self, request: Request<v1::RejoinRequest>) -> Result<Response<v1::AttestResponse>, Status> {
        let exporter = Self::peer(&request).exporter;
        let request = request.into_inner();
        let spki = spki_of(&request.csr);
        self.0.seen.lock().unwrap().rejoins.push(SeenAsk {
            request_id: request.request_id.clone(),
            entry: String::new(),
            spki: spki.clone(),
        });
        let refused = || Status::unauthenticated("re-joining is not accepted");
        if self.0.script.lock().unwrap().no_agents {
            return Err(refused());
        }
        let leaf = LeafInfo::parse(&request.last_chain[0]).unwrap();
        let current = self.0.agent_leaf().unwrap();
        let last = LastCertificate {
            id: leaf.id().clone(),
            serial: *leaf.serial(),
            not_after: leaf.not_after(),
            spki_der: leaf.spki_der().to_vec(),
        };
        let standing = AgentStanding {
            id: current.id().clone(),
            instance: AgentInstance(INSTANCE),
            banned: false,
            evicted: false,
            current: AgentCertificate {
                serial: *current.serial(),
                spki: current.spki_sha256(),
            },
            earlier: Vec::new(),
        };
        let hash: SpkiHash = spki_sha256(&spki);
        rejoin::verify(&last, &request.signature, &exporter, &hash, Some(&standing), wall()).map_err(|_| refused())?;
        Ok(Response::new(self.welcome(&request.request_id, &request.csr)))
    }

    async fn prove_receipt(
        &self,
        request: Request<v1::ProveReceiptRequest>,
    ) -> Result<Response<v1::ProveReceiptResponse>, Status> {
        let receipt = request.into_inner().receipt.unwrap();
        self.0.seen.lock().unwrap().receipts.push(receipt.clone());
        let issued: Vec<_> = self.0.issued.lock().unwrap().values().cloned().collect();
        let leaf = issued.iter().find(|leaf| receipts::of(leaf) == receipt).unwrap();
        let answer = self.0.script.lock().unwrap().proofs.pop_front();
        let proof = match answer {
            Some(answer) => answer?,
            None => receipts::proof(leaf),
        };
        Ok(Response::new(v1::ProveReceiptResponse { tlog_proof: proof }))
    }

    async fn sync(&self, request: Request<Streaming<v1::AgentMessage>>) -> Result<Response<Self::SyncStream>, Status> {
        let expired = |der: &[u8]| LeafInfo::parse(der).unwrap().not_after() < wall();
        match Self::peer(&request).certificate {
            Some(der) if !expired(&der) && !self.0.script.lock().unwrap().no_agents => {}
            _ => return Err(Status::unauthenticated("the agent's certificate is not accepted")),
        }
        let mut asks = request.into_inner();
        let (out, stream) = mpsc::channel(1024);
        self.0.streams.lock().unwrap().push(out.clone());
        let service = self.clone();
        tokio::spawn(async move {
            while let Ok(Some(message)) = asks.message().await {
                match message.message.unwrap() {
                    agent_message::Message::Hello(hello) => {
                        service.0.seen.lock().unwrap().hellos.push(hello);
                        for message in service.first_messages() {
                            let _ = out.try_send(Ok(v1::CaMessage { message: Some(message) }));
                        }
                    }
                    agent_message::Message::Mint(mint) => {
                        if !service.asked(&mint, &out) {
                            let _ = out.try_send(Err(Status::unavailable("the stream broke")));
                            break;
                        }
                    }
                    agent_message::Message::Ack(ack) => service.0.seen.lock().unwrap().acks.push(ack),
                    agent_message::Message::Seen(seen) => service.0.seen.lock().unwrap().uses.extend(seen.uses),
                    // The real CA's answer to these is in the tests across crates.
                    agent_message::Message::Release(_) => {}
                }
            }
        });
        Ok(Response::new(ReceiverStream::new(stream)))
    }
}

#[tonic::async_trait]
impl Revocation for Service {
    type ExportRevocationsStream = ReceiverStream<Result<v1::RevokedPart, Status>>;
    type SnapshotStream = ReceiverStream<Result<v1::SnapshotChunk, Status>>;
    type WatchStream = ReceiverStream<Result<v1::WatchNews, Status>>;

    async fn snapshot(&self, _: Request<v1::SnapshotRequest>) -> Result<Response<Self::SnapshotStream>, Status> {
        self.0.seen.lock().unwrap().snapshots += 1;
        let bytes = self.0.snapshot();
        let (sender, stream) = mpsc::channel(64);
        let total = bytes.len() as u64;
        let mut offset = 0;
        for chunk in bytes.chunks(bytes.len().div_ceil(3)) {
            let chunk = v1::SnapshotChunk {
                offset,
                total,
                data: chunk.to_vec().into(),
            };
            offset += chunk.data.len() as u64;
            sender.try_send(Ok(chunk)).unwrap();
        }
        Ok(Response::new(ReceiverStream::new(stream)))
    }

    async fn export_revocations(
        &self,
        _: Request<v1::ExportRevocationsRequest>,
    ) -> Result<Response<Self::ExportRevocationsStream>, Status> {
        Err(Status::permission_denied(DOMAIN))
    }

    async fn find_fingerprints(
        &self,
        _: Request<v1::FindFingerprintsRequest>,
    ) -> Result<Response<v1::FindFingerprintsResponse>, Status> {
        Err(Status::permission_denied(DOMAIN))
    }

    async fn revoke(&self, _: Request<v1::RevokeRequest>) -> Result<Response<v1::RevokeResponse>, Status> {
        Err(Status::permission_denied(DOMAIN))
    }

    async fn list_revocations(
        &self,
        _: Request<v1::ListRevocationsRequest>,
    ) -> Result<Response<v1::ListRevocationsResponse>, Status> {
        Err(Status::permission_denied(DOMAIN))
    }

    async fn revocation_status(
        &self,
        _: Request<v1::RevocationStatusRequest>,
    ) -> Result<Response<v1::RevocationStatusResponse>, Status> {
        Err(Status::permission_denied(DOMAIN))
    }

    async fn watch(&self, _: Request<v1::WatchRequest>) -> Result<Response<Self::WatchStream>, Status> {
        Err(Status::permission_denied(DOMAIN))
    }
}
