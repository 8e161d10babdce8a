//! Becoming an agent: by a token, or again by the last key. The key is on disk before it is shown to anybody, so that a
//! lost reply, or a crash, is followed by the same question and gets the same answer.

use std::sync::Arc;

use mintage_attest::{join_token::JoinToken, rejoin};
use mintage_identity::{Reserved, SpiffeId};
use mintage_proto::v1::{self, node_client::NodeClient};
use mintage_svid::{LeafInfo, cert_sha256};
use mintage_verifier::{JoinVerifier, client_config, join_config};
use tokio::time::timeout;
use tonic::{Code, transport::Channel};

use super::{Failure, Link, connect};
use crate::{
    AgentError, AgentEvent,
    bundle::Bundle,
    core::Input,
    held::{Held, Unverified},
    key::NewKey,
    limits::{CALL_WAIT, MESSAGE_DOWN_BYTES_MAX},
    store::Membership,
};

pub(super) const VERSION: &str = env!("CARGO_PKG_VERSION");

impl Link {
    /// Joins by the token.
    pub(super) async fn join(&mut self) -> Result<(), Failure> {
        let Some(token) = self.token.clone() else {
            return Err(Failure::Fatal(AgentError::NotJoined));
        };
        let key = self.joining_key()?;
        self.addresses = token.addresses().to_vec();
        let mut last = Failure::retry("no CA address is known");
        for address in self.ca_addresses() {
            match self.join_at(&address, &token, &key).await {
                Ok(()) => {
                    // It is used up: shown again with another key it would raise an alarm at the CA.
                    self.token = None;
                    return Ok(());
                }
                Err(fatal @ Failure::Fatal(_)) => return Err(fatal),
                Err(failure) => last = failure,
            }
        }
        Err(last)
    }

    async fn join_at(&self, address: &str, token: &JoinToken, key: &NewKey) -> Result<(), Failure> {
        let pins = token.root_hashes().iter().copied();
        let provider = &self.shared.deps.provider;
        let verifier = JoinVerifier::new(token.trust_domain().clone(), pins, provider)
            .map_err(|error| Failure::retry(error.to_string()))?;
        let config =
            join_config(verifier.clone(), &self.shared.tls()).map_err(|error| Failure::retry(error.to_string()))?;
        let connection = connect::connect(address, config).await.map_err(unreached)?;
        let request = v1::AttestRequest {
            secret: token.secret().to_vec(),
            csr: key.csr.clone(),
            request_id: key.request_id().as_bytes().to_vec(),
            agent_version: VERSION.to_owned(),
        };
        let response = timeout(CALL_WAIT, client(connection.channel).attest(request))
            .await
            .map_err(|_| Failure::retry(format!("{address}: no answer to the join within {CALL_WAIT:?}")))?
            .map_err(|status| match status.code() {
                Code::Unauthenticated | Code::PermissionDenied | Code::InvalidArgument => {
                    Failure::Fatal(AgentError::JoinRefused(status.message().to_owned()))
                }
                _ => Failure::of_status(&status),
            })?
            .into_inner();
        let pinned = verifier.learned_root().map(|root| cert_sha256(&root));
        let bundle = self.read_bundle(&response)?;
        if !bundle.roots().iter().any(|root| Some(cert_sha256(root)) == pinned) {
            return Err(Failure::retry(
                "the CA's bundle does not hold the root that the token names",
            ));
        }
        self.accept(&response, bundle, key, None).await
    }

    /// Joins again: the last key signs the exporter of this very connection and the new key.
    pub(super) async fn rejoin(&mut self) -> Result<(), Failure> {
        let shared = self.shared.clone();
        let Some(own) = shared.own.load_full() else {
            return Err(Failure::retry("there is no last certificate"));
        };
        let key = self.joining_key()?;
        let config = client_config(shared.ca_trust.clone(), None, self.replicas()?, &shared.tls())
            .map_err(|error| Failure::retry(error.to_string()))?;
        let mut last = Failure::retry("no CA address is known");
        for address in self.ca_addresses() {
            let connection = match connect::connect(&address, config.clone()).await {
                Ok(connection) => connection,
                Err(error) => {
                    last = unreached(error);
                    continue;
                }
            };
            let random = ring::rand::SystemRandom::new();
            let signature = rejoin::prove(&own.pair.key, &connection.exporter, &key.spki, &random)
                .map_err(|error| Failure::retry(error.to_string()))?;
            let request = v1::RejoinRequest {
                last_chain: own.pair.chain.clone(),
                signature,
                csr: key.csr.clone(),
                request_id: key.request_id().as_bytes().to_vec(),
                agent_version: VERSION.to_owned(),
            };
            match timeout(CALL_WAIT, client(connection.channel).rejoin(request)).await {
                Err(_) => last = Failure::retry(format!("{address}: no answer to the re-join within {CALL_WAIT:?}")),
                Ok(Err(status)) => last = Failure::of_status(&status),
                Ok(Ok(response)) => {
                    let response = response.into_inner();
                    let bundle = self.read_bundle(&response)?;
                    let accepted = self.accept(&response, bundle, &key, Some(own.leaf.id())).await;
                    if accepted.is_ok() {
                        self.rejoin_next = false;
                    }
                    return accepted;
                }
            }
        }
        if matches!(last, Failure::Refused(_)) {
            // So that a second no counts as the last word; see `Link::refused`.
            self.rejoin_next = true;
        }
        Err(last)
    }

    /// The key of a join that was begun, or a new one; on disk before it is used.
    fn joining_key(&self) -> Result<NewKey, Failure> {
        let store = &self.shared.store;
        let local = |error: AgentError| Failure::Retry {
            reached: false,
            why: error.to_string(),
        };
        if let Some(begun) = store.joining_key().map_err(local)?
            && let Ok(key) = NewKey::from_pkcs8(&begun)
        {
            return Ok(key);
        }
        let key = NewKey::generate().map_err(Failure::retry)?;
        store
            .save_joining_key(&key.pkcs8)
            .map_err(|error| local(error.into()))?;
        Ok(key)
    }

    fn read_bundle(&self, response: &v1::AttestResponse) -> Result<Bundle, Failure> {
        let wire = response
            .bundle
            .as_ref()
            .ok_or_else(|| Failure::retry("the CA sent no bundle"))?;
        let bundle =
            Bundle::from_wire(wire).map_err(|problem| Failure::retry(format!("the CA's bundle: {problem}")))?;
        if *bundle.trust_domain() != self.shared.domain {
            return Err(Failure::retry("the CA's bundle is another trust domain's"));
        }
        Ok(bundle)
    }

    /// Verifies what the CA gave, puts it on disk and then in force.
    async fn accept(
        &self,
        response: &v1::AttestResponse,
        bundle: Bundle,
        key: &NewKey,
        expected: Option<&SpiffeId>,
    ) -> Result<(), Failure> {
        let shared = self.shared.clone();
        let first = response
            .chain
            .first()
            .ok_or_else(|| Failure::retry("the CA sent no certificate"))?;
        let id = LeafInfo::parse(first)
            .map_err(|error| Failure::retry(error.to_string()))?
            .id()
            .clone();
        let ours = expected.is_none_or(|expected| *expected == id);
        if !ours || !matches!(id.reserved(), Some(Reserved::Agent(_))) || !id.is_member_of(&shared.domain) {
            return Err(Failure::retry(format!(
                "the CA's certificate is for {id}, which is not this agent"
            )));
        }
        let trust = bundle
            .catching_up_trust(&shared.view)
            .map_err(|error| Failure::retry(error.to_string()))?;
        let pair = || Unverified {
            key: key.pkcs8.clone(),
            chain: response.chain.clone(),
        };
        Held::verify(pair(), &id, &trust, &shared.deps.provider, shared.wall())
            .map_err(|problem| Failure::retry(format!("{problem}; is this node's clock right?")))?;
        let membership = Membership {
            trust_domain: shared.domain.clone(),
            spiffe_id: id.clone(),
            addresses: self.addresses.clone(),
            instance: response.instance,
        };
        self.save(pair(), bundle.clone(), membership).await?;
        shared.install_bundle(bundle).map_err(Failure::retry)?;
        shared.install_own(pair()).map_err(Failure::retry)?;
        shared.tell(AgentEvent::Joined { spiffe_id: id.clone() });
        tracing::info!(spiffe_id = %id, instance = response.instance, "joined");
        let _ = self.inbox.send(Input::Joined { spiffe_id: id }).await;
        Ok(())
    }

    /// All of it, or the join is repeated: the CA answers the same key again.
    async fn save(&self, pair: Unverified, bundle: Bundle, membership: Membership) -> Result<(), Failure> {
        let store = Arc::clone(&self.shared.store);
        let saved = tokio::task::spawn_blocking(move || {
            store.save_bundle(&bundle)?;
            store.save_agent(&pair.key, &pair.chain)?;
            store.save_membership(&membership)?;
            store.forget_joining_key();
            Ok::<_, mintage_sys::SysError>(())
        });
        let local = |why: String| Failure::Retry { reached: false, why };
        saved
            .await
            .map_err(|error| local(error.to_string()))?
            .map_err(|error| local(error.to_string()))
    }
}

fn unreached(error: connect::ConnectError) -> Failure {
    Failure::Retry {
        reached: error.reached,
        why: error.to_string(),
    }
}

pub(super) fn client(channel: Channel) -> NodeClient<Channel> {
    NodeClient::new(channel)
        .max_decoding_message_size(MESSAGE_DOWN_BYTES_MAX)
        .max_encoding_message_size(crate::limits::MESSAGE_UP_BYTES_MAX)
}
