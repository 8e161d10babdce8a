//! A desk over a data directory of its own, with agents and certificates, for tests of what stands between the services and
//! the ledger.

use std::sync::Arc;

use mintage_attest::{AgentSession, TokenHash};
use mintage_identity::{AgentName, EntryName, ReplicaName, RequestId, TrustDomain};
use mintage_mint::KeyProtection;
use mintage_policy::Want;
use mintage_proto::v1::{ApplyEntriesRequest, AttestRequest, Entry, node_server::Node};
use mintage_state::{TokenId, command::create_token};
use mintage_svid::LeafInfo;
use mintage_verifier::{AllowedIds, TrustStore};
use mintage_verifier_tokio::{Registry, RegistrySettings};
use tempfile::TempDir;
use tonic::Request;

use crate::{
    clock::{Clock, TlsTime},
    config::Config,
    control::{Origin, command},
    desk::Desk,
    entries,
    health::Health,
    init::{Deps, InitOptions, init},
    issue::{Ask, Speaker, issue},
    metrics::Metrics,
    open::{Engine, open},
    services::node::NodeService,
    trust::{PeerTrust, trust_of},
};

/// How long a test waits for something that happens by itself.
pub(crate) const PATIENCE: std::time::Duration = std::time::Duration::from_secs(60);

/// The desk, what runs behind it, and the folder it lives in.
pub(crate) struct Trial {
    pub(crate) desk: Arc<Desk>,
    engine: Option<Engine>,
    _folder: TempDir,
}

impl Trial {
    /// Makes an authority and opens it; nothing listens, and nothing follows the state.
    pub(crate) async fn open() -> Self {
        Self::open_with(Deps::system()).await
    }

    /// The same by another clock.
    pub(crate) async fn open_at(clock: Arc<dyn Clock>) -> Self {
        let deps = Deps::system();
        Self::open_with(Deps { clock, ..deps }).await
    }

    async fn open_with(deps: Deps) -> Self {
        let opened = tokio::task::spawn_blocking(move || {
            let folder = tempfile::tempdir().unwrap();
            let data_dir = folder.path().join("ca");
            let options = InitOptions {
                trust_domain: TrustDomain::parse("dev.test").unwrap(),
                data_dir: data_dir.clone(),
                protection: KeyProtection::ClearForTestDomainOnly,
                replica: ReplicaName::parse("ca-1").unwrap(),
            };
            init(&options, &deps).unwrap();
            let metrics = Arc::new(Metrics::new());
            let health = Health::starting(metrics.clone());
            let (desk, engine) = open(&Config::for_data_dir(data_dir), &deps, metrics, health).unwrap();
            Self {
                desk: Arc::new(desk),
                engine: Some(engine),
                _folder: folder,
            }
        });
        opened.await.unwrap()
    }

    /// Ends what writes the ledger: it takes no record any more.
    pub(crate) async fn close_ledger(&mut self) {
        if let Some(engine) = self.engine.take() {
            tokio::task::spawn_blocking(move || stop(engine)).await.unwrap();
        }
    }

    pub(crate) fn origin(&self) -> Origin {
        Origin::replica(&self.desk)
    }

    /// How callers are verified, and their open connections.
    pub(crate) fn callers(&self) -> (Arc<PeerTrust>, Registry) {
        let (desk, deps) = (&self.desk, Deps::system());
        let roots = desk.state.view().bundle().unwrap().roots_der.clone();
        let store = TrustStore::new(trust_of(&desk.domain, &roots, &desk.state).unwrap());
        let time = Arc::new(TlsTime(deps.clock.clone()));
        let registry = Registry::start(store.clone(), time, RegistrySettings::default());
        let peers = PeerTrust {
            store,
            allowed: AllowedIds::OwnTrustDomain,
            provider: deps.provider,
            clock: deps.clock,
        };
        (Arc::new(peers), registry)
    }

    /// Applies entries of these names for every agent.
    pub(crate) async fn entries<'a>(&self, names: impl IntoIterator<Item = &'a str>) {
        let entry = |name: &str| Entry {
            name: name.to_owned(),
            spiffe_id: format!("spiffe://dev.test/{name}"),
            agents: vec!["spiffe://dev.test/mintage/agent/*".to_owned()],
            selectors: vec!["unix:uid:1".to_owned()],
            ..Entry::default()
        };
        let request = ApplyEntriesRequest {
            entries: names.into_iter().map(entry).collect(),
            ..ApplyEntriesRequest::default()
        };
        entries::apply(&self.desk, &self.origin(), request).await.unwrap();
    }

    /// An agent that has joined, and speaks by its first certificate.
    pub(crate) async fn agent(&self, name: &str) -> AgentSession {
        let desk = &self.desk;
        let secret: [u8; 32] = desk.random().unwrap();
        let id = TokenId::new(*TokenHash::of_presented(&secret).as_bytes());
        let agent = AgentName::parse(name).unwrap();
        let token = |view: &mintage_state::View| {
            let (life, now) = (std::time::Duration::from_secs(600), desk.clock.now()?);
            Ok((vec![create_token(view, id, &agent, life, None, now)?], ()))
        };
        command(desk, &self.origin(), token).await.unwrap();
        let request = AttestRequest {
            secret: secret.to_vec(),
            csr: csr(),
            request_id: desk.random::<16>().unwrap().to_vec(),
            ..AttestRequest::default()
        };
        let welcome = NodeService::new(desk.clone()).attest(Request::new(request)).await;
        let leaf = LeafInfo::parse(&welcome.unwrap().into_inner().chain[0]).unwrap();
        AgentSession {
            id: leaf.id().clone(),
            issuer: desk.issuer.key_id(),
            serial: *leaf.serial(),
            not_before: leaf.not_before(),
            not_after: leaf.not_after(),
            spki: leaf.spki_sha256(),
        }
    }

    /// A certificate by this entry.
    pub(crate) async fn certificate(&self, agent: &AgentSession, entry: &str) -> LeafInfo {
        let ask = Ask {
            request_id: RequestId::from_slice(&self.desk.random::<16>().unwrap()).unwrap(),
            want: Want::Entry(EntryName::parse(entry).unwrap()),
            csr: csr(),
        };
        let speaker = Speaker::Session(Arc::new(agent.clone()));
        let answer = issue(&self.desk, &speaker, &Arc::new(vec![ask])).await.pop().unwrap();
        LeafInfo::parse(&answer.unwrap().leaf).unwrap()
    }

    /// Is it revoked by its serial?
    pub(crate) fn is_revoked(&self, leaf: &LeafInfo) -> bool {
        let view = self.desk.state.view();
        view.revoked()
            .revoked(&self.desk.issuer.key_id(), leaf.serial())
            .is_some()
    }

    /// Waits until this is so, looking after each change of the state.
    pub(crate) async fn until(&self, so: impl Fn(&Desk) -> bool) {
        let mut views = self.desk.state.subscribe();
        let becomes = async {
            while !so(&self.desk) {
                // What is not in the state is looked at now and then.
                let _ = tokio::time::timeout(std::time::Duration::from_millis(20), views.changed()).await;
            }
        };
        tokio::time::timeout(PATIENCE, becomes)
            .await
            .expect("it never became so");
    }
}

impl Drop for Trial {
    fn drop(&mut self) {
        if let Some(engine) = self.engine.take() {
            stop(engine);
        }
    }
}

fn stop(engine: Engine) {
    engine.committer.stop();
    engine.search.stop();
    engine.integrator.stop();
    engine.sealer.stop();
}

/// A request with a new key.
pub(crate) fn csr() -> Vec<u8> {
    let key = rcgen::KeyPair::generate().unwrap();
    let request = rcgen::CertificateParams::default().serialize_request(&key).unwrap();
    request.der().to_vec()
}
