//! How a node becomes an agent: with a join token, or with the last key of an expired certificate. Both are anonymous
//! calls; what they carry is the credential.

use std::sync::Arc;

use mintage_attest::{AttestError, Attested, JoinVerdict, TokenHash, join_token, rejoin};
use mintage_identity::{AgentInstance, RequestId, Serial, SpiffeId, SpkiHash, UnixTime};
use mintage_ledger::{Actor, Attestation};
use mintage_mint::{ProvenKey, prove_possession};
use mintage_policy::{KeyView, Want, check_key_for};
use mintage_proto::{
    request_id,
    v1::{
        AgentMessage, AttestRequest, AttestResponse, ProveReceiptRequest, ProveReceiptResponse, RejoinRequest,
        node_server::Node,
    },
};
use mintage_state::{
    TokenId, View,
    command::{TokenUse, attest_again, consume_token},
};
use mintage_svid::LeafInfo;
use tokio::sync::Semaphore;
use tonic::{Request, Response, Status, Streaming};
use tracing::{error, info, warn};

use crate::{
    certificate_state::is_compromised,
    control::{Origin, command},
    desk::Desk,
    in_place::waiting,
    issue::{Ask, Speaker, check_issuer, issue},
    limits::ATTESTATIONS_IN_WORK,
    peer::{Peer, TlsPeer},
    pusher::wire_bundle,
    services::{
        receipts,
        sync::{self, CaStream},
    },
    standing,
    status::Refusal,
};

/// Largest chain a rejoining node may show, in certificates and bytes.
const LAST_CHAIN_MAX: usize = 4;
const LAST_CERTIFICATE_BYTES_MAX: usize = 8 * 1024;

pub(crate) struct NodeService {
    desk: Arc<Desk>,
    work: Arc<Semaphore>,
}

impl NodeService {
    pub(crate) fn new(desk: Arc<Desk>) -> Self {
        Self {
            desk,
            work: Arc::new(Semaphore::new(ATTESTATIONS_IN_WORK)),
        }
    }

    fn place(&self) -> Result<tokio::sync::OwnedSemaphorePermit, Refusal> {
        let busy = |_| Refusal::unavailable("attestations", "too many attestations at once; try again in a moment");
        self.work.clone().try_acquire_owned().map_err(busy)
    }

    /// Refuses before anything is recorded: a token is not used up for a certificate that cannot be made.
    fn check_issuer(&self) -> Result<(), Refusal> {
        let desk = &self.desk;
        let alive = desk.issuer.check_life(desk.clock.now()?).map_err(Refusal::from);
        alive
            .and_then(|()| check_issuer(desk, &desk.state.view()))
            .inspect_err(|refusal| desk.metrics.denied(refusal.code))
    }

    /// Refuses before anything is recorded: a token is not used up for a key that no certificate may carry.
    fn check_key(&self, view: &View, agent: &SpiffeId, key: &SpkiHash, now: UnixTime) -> Result<(), Refusal> {
        let holders = self.desk.index.holders_of(key, now)?;
        check_key_for(agent, key, view, &holders)?;
        Ok(())
    }

    /// Issues the agent's first certificate and answers with everything it needs to go on.
    async fn welcome(
        &self,
        attested: Attested,
        shown: Option<Serial>,
        id: RequestId,
        csr: Vec<u8>,
    ) -> Result<AttestResponse, Refusal> {
        let instance = attested.instance();
        let kind = attested.kind();
        let agent = attested.agent().clone();
        let ask = Ask {
            request_id: id,
            want: Want::AgentItself,
            csr,
        };
        let speaker = Speaker::Proven(Arc::new(attested), shown);
        // In a task of its own: a caller that hangs up must not give its key back while the record is under way.
        let desk = self.desk.clone();
        let issued = tokio::spawn(async move { issue(&desk, &speaker, &Arc::new(vec![ask])).await.pop() });
        let answer = issued
            .await
            .ok()
            .flatten()
            .unwrap_or_else(|| Err(Refusal::bug("no answer")))?;
        self.desk.metrics.attested(kind, Ok(()));
        info!(%agent, %instance, kind, index = answer.index, "agent attested");
        let bundle = wire_bundle(&self.desk, &self.desk.state.view());
        Ok(AttestResponse {
            bundle: Some(bundle),
            receipt: Some(answer.receipt()),
            // Leaf first, without the root.
            chain: [&[answer.leaf], self.desk.issuer.chain_below_root()].concat(),
            instance: instance.0,
        })
    }

    async fn attest_by_token(&self, request: AttestRequest) -> Result<AttestResponse, Refusal> {
        self.check_issuer()?;
        let id = request_id("request_id", &request.request_id)?;
        let key = prove_possession(&request.csr, &self.desk.key_policy)?;
        let presented = TokenHash::of_presented(&request.secret);
        // A former instance of this key, such as after a lost reply, is found inside: the state knows the bound key.
        let attested = self.consume(&presented, &key, id).await?;
        self.welcome(attested, None, id, request.csr).await
    }

    /// Verifies the token and records its use together with the key; the first record in the ledger wins.
    async fn consume(&self, presented: &TokenHash, key: &ProvenKey, id: RequestId) -> Result<Attested, Refusal> {
        let desk = &self.desk;
        let spki = key.spki_sha256();
        let check = |view: &View| {
            let now = desk.clock.now()?;
            let standing = standing::of_token(view, presented);
            let joined = join_token::verify(presented, standing.as_ref(), &spki, &desk.domain, now);
            let joined = joined.map_err(|error| self.not_proven(&error))?;
            self.check_key(view, joined.agent(), &spki, now)?;
            match joined.verdict() {
                JoinVerdict::Retry(_) => Ok((Vec::new(), joined)),
                JoinVerdict::First => {
                    let used = TokenUse {
                        token: TokenId::new(*presented.as_bytes()),
                        spki,
                        kind: "join_token",
                        evidence: *joined.evidence(),
                    };
                    Ok((vec![consume_token(view, &used)?], joined))
                }
            }
        };
        let actor = Actor::Token {
            hash: *presented.as_bytes(),
        };
        let origin = Origin {
            actor,
            attestation: None,
            request_id: Some(id),
        };
        let (joined, index) = match command(desk, &origin, &check).await {
            // Another racer's record came first: what stands now decides, and it says the same to everyone.
            Err(refusal) if refusal.code == "token-used" => command(desk, &origin, &check).await?,
            other => other?,
        };
        let recorded = match (joined.verdict(), index) {
            (JoinVerdict::Retry(instance), _) => instance,
            (JoinVerdict::First, Some(index)) => AgentInstance(index),
            (JoinVerdict::First, None) => return Err(Refusal::bug("a first use without a record")),
        };
        joined.into_attested(recorded).map_err(|error| self.not_proven(&error))
    }

    /// Logs the true reason, which the caller is not told.
    fn not_proven(&self, error: &AttestError) -> Refusal {
        let code = error.code();
        match error.is_alarming() {
            true => {
                self.desk.metrics.alarm(code);
                error!(code, detail = %error.detail(), "not proven: somebody may hold a secret that is not theirs");
            }
            false => warn!(code, detail = %error.detail(), "not proven"),
        }
        Refusal::new(tonic::Code::Unauthenticated, code, error.to_string())
    }

    /// Counts and logs a refusal, whichever step it came from; the one place, so that none is counted twice or not at all.
    fn told(&self, kind: &'static str, refusal: Refusal) -> Status {
        let (code, why) = (refusal.code, refusal.message.escape_debug());
        self.desk.metrics.attested(kind, Err(code));
        match refusal.is_alarming() {
            true => {
                self.desk.metrics.alarm(code);
                error!(kind, code, %why, "attestation refused: somebody may use a key that is not theirs");
            }
            false => warn!(kind, code, %why, "attestation refused"),
        }
        refusal.into()
    }

    /// Refuses a last key that may be in other hands: one that is blocked, or whose certificate was revoked for
    /// key-compromise. What was revoked for another reason still opens the door to the agent itself.
    fn check_last_key(&self, view: &View, last: &rejoin::LastCertificate, key: &SpkiHash) -> Result<(), Refusal> {
        let blocked = view.key_blocked(key);
        // The ledger's files are read, after the view was taken: a revocation that comes later moves the state.
        if blocked || waiting(|| is_compromised(&self.desk, &last.serial))? {
            let why = match blocked {
                true => "the last key of this agent is blocked",
                false => "the last certificate of this agent was revoked for key-compromise",
            };
            let text = format!("{why}; ask an operator for a join token");
            return Err(Refusal::new(tonic::Code::PermissionDenied, "rejoin-compromised", text));
        }
        Ok(())
    }

    async fn rejoin_by_key(&self, exporter: [u8; 32], request: RejoinRequest) -> Result<AttestResponse, Refusal> {
        self.check_issuer()?;
        let desk = &self.desk;
        let id = request_id("request_id", &request.request_id)?;
        let key = prove_possession(&request.csr, &desk.key_policy)?;
        let (last, last_key) = last_certificate(&request.last_chain)?;
        let spki: SpkiHash = key.spki_sha256();
        let check = |view: &View| {
            let now = desk.clock.now()?;
            let standing = standing::of_agent(view, &last.id);
            let attested = rejoin::verify(&last, &request.signature, &exporter, &spki, standing.as_ref(), now);
            let attested = attested.map_err(|error| self.not_proven(&error))?;
            self.check_last_key(view, &last, &last_key)?;
            self.check_key(view, attested.agent(), &spki, now)?;
            let body = attest_again(
                view,
                attested.name(),
                attested.instance(),
                &spki,
                attested.kind(),
                attested.evidence(),
            )?;
            Ok((vec![body], attested))
        };
        let now = desk.clock.now()?;
        let standing = standing::of_agent(&desk.state.view(), &last.id);
        let instance = standing.map_or(AgentInstance(0), |standing| standing.instance);
        let actor = Actor::Agent {
            id: last.id.clone(),
            instance,
            serial: Some(last.serial),
        };
        let evidence = ring::digest::digest(&ring::digest::SHA256, &request.signature);
        let mut octets = [0; 32];
        octets.copy_from_slice(evidence.as_ref());
        let attestation = Attestation {
            kind: "rejoin".to_owned(),
            evidence: octets,
            proven_at: now,
        };
        let origin = Origin {
            actor,
            attestation: Some(attestation),
            request_id: Some(id),
        };
        let (attested, _) = command(desk, &origin, check).await?;
        self.welcome(attested, Some(last.serial), id, request.csr).await
    }
}

/// The certificate whose key signs the rejoin, parsed by the SPIFFE rules, with the hash of that key.
fn last_certificate(chain: &[Vec<u8>]) -> Result<(rejoin::LastCertificate, SpkiHash), Refusal> {
    if chain.is_empty()
        || chain.len() > LAST_CHAIN_MAX
        || chain.iter().any(|der| der.len() > LAST_CERTIFICATE_BYTES_MAX)
    {
        return Err(Refusal::invalid(format!(
            "last_chain: 1 to {LAST_CHAIN_MAX} certificates of at most {LAST_CERTIFICATE_BYTES_MAX} bytes are taken"
        )));
    }
    let leaf = LeafInfo::parse(&chain[0]).map_err(|error| Refusal::invalid(format!("last_chain: {error}")))?;
    let last = rejoin::LastCertificate {
        id: leaf.id().clone(),
        serial: *leaf.serial(),
        not_after: leaf.not_after(),
        spki_der: leaf.spki_der().to_vec(),
    };
    Ok((last, leaf.spki_sha256()))
}

fn tls_peer<T>(request: &Request<T>) -> Result<Arc<TlsPeer>, Refusal> {
    match request.extensions().get::<Peer>() {
        Some(Peer::Tls(peer)) => Ok(peer.clone()),
        _ => Err(Refusal::bug("a node call without TLS passed the gate")),
    }
}

#[tonic::async_trait]
impl Node for NodeService {
    type SyncStream = CaStream;

    async fn attest(&self, request: Request<AttestRequest>) -> Result<Response<AttestResponse>, Status> {
        let outcome = async {
            let _place = self.place()?;
            self.attest_by_token(request.into_inner()).await
        };
        let outcome = outcome.await.map(Response::new);
        outcome.map_err(|refusal| self.told("join_token", refusal))
    }

    async fn rejoin(&self, request: Request<RejoinRequest>) -> Result<Response<AttestResponse>, Status> {
        let outcome = async {
            let _place = self.place()?;
            let exporter = tls_peer(&request)?.exporter;
            self.rejoin_by_key(exporter, request.into_inner()).await
        };
        let outcome = outcome.await.map(Response::new);
        outcome.map_err(|refusal| self.told("rejoin", refusal))
    }

    async fn sync(&self, request: Request<Streaming<AgentMessage>>) -> Result<Response<CaStream>, Status> {
        let peer = tls_peer(&request)?;
        Ok(Response::new(
            sync::open(self.desk.clone(), &peer, request.into_inner()).await?,
        ))
    }

    async fn prove_receipt(
        &self,
        request: Request<ProveReceiptRequest>,
    ) -> Result<Response<ProveReceiptResponse>, Status> {
        let session = tls_peer(&request)?
            .agent_session()
            .ok_or_else(|| Refusal::bug("a receipt without an agent"))?;
        let proof = receipts::prove(&self.desk, &session, request.into_inner().receipt).await?;
        Ok(Response::new(ProveReceiptResponse { tlog_proof: proof }))
    }
}
