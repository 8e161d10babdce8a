//! Bundles of other trust domains on all three ways, from the operator's word at the CA to an open stream of the Workload API,
//! Envoy's SDS and folders; taken away again; and kept while the CA is down. Beside them: tokens and certificates of the other
//! trust domain, which are believed by those alone whose entries say so.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use mintage_agent::{Agent, AgentEvent, AgentHandle, Config, Delivery, Deps, Layout};
use mintage_identity::{EntryName, SpiffeId, TrustDomain, UnixTime};
use mintage_proto::{
    sds::{
        DeltaDiscoveryRequest, DeltaDiscoveryResponse, Node, Secret, SpiffeCertValidatorConfig, secret::Type,
        secret_discovery_service_client::SecretDiscoveryServiceClient,
    },
    v1::SetFederatedRequest,
    workload::{
        JwtBundlesRequest, JwtsvidRequest, ValidateJwtsvidRequest, X509BundlesRequest, X509svidRequest,
        X509svidResponse, spiffe_workload_api_client::SpiffeWorkloadApiClient,
    },
};
use mintage_svid::{TrustBundle, pem};
use mintage_tests::kit::{
    ca::{TestCa, apply, domain},
    client::{admin, provider},
    federation::{document, federate, federate_with, federating_entry, other_domain, own_entry, unfederate},
};
use mintage_verifier::{AllowedIds, Usage, VerifyError};
use prost::Message as _;
use prost_types::{Struct, Value, value::Kind};
use rustls::pki_types::CertificateDer;
use tokio::{sync::mpsc, time::timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Request, Streaming, transport::Channel};

/// Longest wait for anything; the machine may be busy.
const SOON: Duration = Duration::from_secs(60);
const OTHER: &str = "spiffe://other.test";

/// CA and agent of one trust domain, with a socket, and folders of `web` and `plain`.
struct Scene {
    ca: TestCa,
    agent: AgentHandle,
    folder: tempfile::TempDir,
}

fn configuration(place: &Path) -> Config {
    let delivery = |entry: &str, folder: &str| {
        let name = EntryName::parse(entry).unwrap();
        Delivery::new(name, place.join(folder)).unwrap()
    };
    Config::new(place.join("agent"))
        .with_socket(Some(place.join("run/agent.sock")))
        .with_bundle_map(place.join("run/bundles.json"))
        .unwrap()
        .with_deliveries(vec![
            delivery("web", "web").with_federated(true),
            delivery("web", "spiffe").with_layout(Layout::Spiffe),
            delivery("web", "quiet"),
            delivery("plain", "plain").with_federated(true),
        ])
        .unwrap()
}

impl Scene {
    async fn new(of: &TrustDomain) -> Self {
        let ca = TestCa::start_of(of).await;
        let entries = vec![own_entry(of, "web"), own_entry(of, "plain")];
        apply(ca.ca.admin_socket(), entries).await.unwrap();
        let folder = tempfile::tempdir().unwrap();
        let token = ca.token("n1").await;
        let agent = Agent::start(configuration(folder.path()), Some(token), Deps::system()).unwrap();
        let scene = Self { ca, agent, folder };
        scene
            .see("the first deliveries", || scene.path("plain/svid.pem").exists())
            .await;
        scene
    }

    fn admin(&self) -> &Path {
        self.ca.ca.admin_socket()
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    async fn channel(&self) -> Channel {
        admin(&self.path("run/agent.sock")).await.unwrap()
    }

    async fn workload(&self) -> SpiffeWorkloadApiClient<Channel> {
        SpiffeWorkloadApiClient::new(self.channel().await)
    }

    /// Waits for what shows on disk, in the steps that the agent tells; how long it took.
    async fn see(&self, what: &str, done: impl Fn() -> bool) -> Duration {
        let started = Instant::now();
        while !done() {
            assert!(started.elapsed() < SOON, "{what} did not come");
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        started.elapsed()
    }

    async fn end(self) {
        assert!(self.agent.shutdown(SOON).await);
        self.ca.stop().await;
    }
}

fn call<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    let metadata = request.metadata_mut();
    metadata.insert("workload.spiffe.io", "true".parse().unwrap());
    request
}

fn roots_of(document: &str) -> Vec<Vec<u8>> {
    let bundle = TrustBundle::from_jwks_json(other_domain(), document).unwrap();
    bundle.roots().to_vec()
}

/// The next message for which `done` says so.
async fn next<T>(stream: &mut Streaming<T>, what: &str, done: impl Fn(&T) -> bool) -> T {
    loop {
        let message = timeout(SOON, stream.message())
            .await
            .unwrap_or_else(|_| panic!("{what} did not come"));
        let message = message.unwrap().unwrap();
        if done(&message) {
            return message;
        }
    }
}

fn has_other(response: &X509svidResponse) -> bool {
    response.federated_bundles.contains_key(OTHER)
}

/// A stream of SDS that asks for the other trust domain and for all, with Envoy's SPIFFE validator.
async fn secrets(scene: &Scene) -> (mpsc::Sender<DeltaDiscoveryRequest>, Streaming<DeltaDiscoveryResponse>) {
    let (sender, requests) = mpsc::channel(4);
    let chosen = Value {
        kind: Some(Kind::StringValue("spiffe".to_owned())),
    };
    let metadata = Struct {
        fields: [("mintage_validator".to_owned(), chosen)].into(),
    };
    let node = Node {
        metadata: Some(metadata),
        ..Node::default()
    };
    let request = DeltaDiscoveryRequest {
        node: Some(node),
        resource_names_subscribe: [OTHER, "ALL", "ROOTCA"].map(str::to_owned).to_vec(),
        ..DeltaDiscoveryRequest::default()
    };
    sender.send(request).await.unwrap();
    let mut client = SecretDiscoveryServiceClient::new(scene.channel().await);
    let answers = client.delta_secrets(ReceiverStream::new(requests)).await.unwrap();
    (sender, answers.into_inner())
}

/// The names of the trust domains of one context in a response; none where it is not in it.
fn context(response: &DeltaDiscoveryResponse, name: &str) -> Option<Vec<String>> {
    let resource = response.resources.iter().find(|resource| resource.name == name)?;
    let secret = Secret::decode(&resource.resource.as_ref()?.value[..]).unwrap();
    let Some(Type::ValidationContext(context)) = secret.r#type else {
        panic!("{name} is no context")
    };
    let typed = context.custom_validator_config?.typed_config?;
    let config = SpiffeCertValidatorConfig::decode(&typed.value[..]).unwrap();
    Some(config.trust_domains.into_iter().map(|domain| domain.name).collect())
}

/// What is open while a bundle comes and goes.
struct Open {
    svids: Streaming<X509svidResponse>,
    secrets: Streaming<DeltaDiscoveryResponse>,
    _asking: mpsc::Sender<DeltaDiscoveryRequest>,
}

const IN_SPLIT: &str = "web/other.test.federated.pem";
const IN_SPIFFE: &str = "spiffe/other.test.spiffe-trust-bundle.pem";

impl Open {
    /// Opens both streams, which have nothing of the other trust domain.
    async fn new(scene: &Scene) -> Self {
        let svids = scene.workload().await.fetch_x509svid(call(X509svidRequest {})).await;
        let mut svids = svids.unwrap().into_inner();
        let first = next(&mut svids, "the identities", |response| response.svids.len() == 2).await;
        assert!(first.federated_bundles.is_empty(), "no entry federates");
        let (asking, mut secrets) = secrets(scene).await;
        let told = next(&mut secrets, "the contexts", |_| true).await;
        assert_eq!(context(&told, "ALL").unwrap(), ["dev.test"]);
        assert_eq!(told.removed_resources, [OTHER]);
        Self {
            svids,
            secrets,
            _asking: asking,
        }
    }

    async fn hears_of(&mut self, roots: &[Vec<u8>], since: Instant) {
        let given = next(&mut self.svids, "the other bundle", has_other).await;
        println!("an open stream of the Workload API has it after {:?}", since.elapsed());
        assert_eq!(given.federated_bundles, [(OTHER.to_owned(), roots.concat())].into());
        let given = next(&mut self.secrets, "its context", |response| {
            context(response, OTHER).is_some()
        })
        .await;
        println!("a stream of SDS has it after {:?}", since.elapsed());
        assert_eq!(context(&given, OTHER).unwrap(), ["other.test"]);
        assert_eq!(context(&given, "ALL").unwrap(), ["dev.test", "other.test"]);
        assert!(context(&given, "ROOTCA").is_none(), "the own one did not change");
    }

    async fn hears_the_end(&mut self, since: Instant) {
        let left = next(&mut self.svids, "the set without it", |response| !has_other(response)).await;
        println!(
            "an open stream of the Workload API has it no more after {:?}",
            since.elapsed()
        );
        assert!(left.svids.len() == 2 && left.federated_bundles.is_empty());
        let gone = |response: &DeltaDiscoveryResponse| response.removed_resources.contains(&OTHER.to_owned());
        let left = next(&mut self.secrets, "its withdrawal", gone).await;
        assert_eq!(context(&left, "ALL").unwrap(), ["dev.test"]);
    }
}

/// The bundles that a caller who asks now is given.
async fn asked_for(scene: &Scene, roots: &[Vec<u8>]) {
    let bundles = scene
        .workload()
        .await
        .fetch_x509_bundles(call(X509BundlesRequest {}))
        .await;
    let bundles = next(&mut bundles.unwrap().into_inner(), "the bundles", |_| true)
        .await
        .bundles;
    assert_eq!((bundles.len(), bundles.get(OTHER)), (2, Some(&roots.concat())));
    let bundles = scene
        .workload()
        .await
        .fetch_jwt_bundles(call(JwtBundlesRequest {}))
        .await;
    let bundles = next(&mut bundles.unwrap().into_inner(), "the JWT bundles", |_| true)
        .await
        .bundles;
    assert!(bundles[OTHER].starts_with(b"{"), "the other CA signs tokens too");
}

/// Folders: those that want it, of the entry that names it, in one generation with the rest; and the bundle map.
async fn on_disk(scene: &Scene, roots: &[Vec<u8>]) {
    let there = |name: &str| scene.path(name).exists();
    let took = scene.see("its files", || there(IN_SPLIT) && there(IN_SPIFFE)).await;
    println!("both folders have it {took:?} later");
    for name in [IN_SPLIT, IN_SPIFFE] {
        let text = fs::read_to_string(scene.path(name)).unwrap();
        assert_eq!(pem::decode_certificates(&text).unwrap(), roots);
    }
    for folder in ["quiet", "plain"] {
        assert!(!there(&format!("{folder}/other.test.federated.pem")), "{folder}");
    }
    scene.see("the bundle map", || map_has_other(scene) == Some(true)).await;
}

fn map_has_other(scene: &Scene) -> Option<bool> {
    let text = fs::read_to_string(scene.path("run/bundles.json")).ok()?;
    Some(text.contains("\"other.test\""))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bundle_reaches_open_streams_and_folders_and_leaves_them() {
    let other = TestCa::start_of(&other_domain()).await;
    let scene = Scene::new(&domain()).await;
    let theirs = document(other.ca.admin_socket()).await;
    let roots = roots_of(&theirs);

    // The bundle alone is nothing: no entry names it.
    federate_with(scene.admin(), &other_domain(), &theirs).await;
    let mut open = Open::new(&scene).await;

    // An entry that names it, and a trust domain that nobody has vouched for yet.
    let mut entry = federating_entry(&domain(), "web", &other_domain());
    entry.federates_with.push("unknown.test".to_owned());
    let applied = apply(scene.admin(), vec![entry]).await.unwrap();
    assert!(
        applied.warnings.len() == 1 && applied.warnings[0].contains("unknown.test"),
        "{applied:?}"
    );
    open.hears_of(&roots, Instant::now()).await;
    asked_for(&scene, &roots).await;
    on_disk(&scene, &roots).await;

    // Taken away: everywhere.
    unfederate(scene.admin(), &other_domain()).await;
    open.hears_the_end(Instant::now()).await;
    let there = |name: &str| scene.path(name).exists();
    scene
        .see("empty places", || !there(IN_SPLIT) && !there(IN_SPIFFE))
        .await;
    assert!(there("web/svid.pem") && there("spiffe/credential-bundle.private-key.pem"));
    scene
        .see("the bundle map", || map_has_other(&scene) == Some(false))
        .await;

    // Handed in again, while the entry stands: the news comes by the bundle this time.
    federate_with(scene.admin(), &other_domain(), &theirs).await;
    open.hears_of(&roots, Instant::now()).await;
    on_disk(&scene, &roots).await;
    drop(open);
    scene.end().await;
    other.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn folders_keep_the_bundles_of_others_while_the_ca_is_down() {
    let other = TestCa::start_of(&other_domain()).await;
    let scene = Scene::new(&domain()).await;
    let theirs = document(other.ca.admin_socket()).await;
    federate_with(scene.admin(), &other_domain(), &theirs).await;
    apply(scene.admin(), vec![federating_entry(&domain(), "web", &other_domain())])
        .await
        .unwrap();
    let file = scene.path("web/other.test.federated.pem");
    scene.see("its file", || file.exists()).await;
    let saved = scene.path("agent/federated.json");
    scene
        .see("what is saved", || {
            fs::read_to_string(&saved).is_ok_and(|text| text.contains("\"web\""))
        })
        .await;

    let Scene { ca, agent, folder } = scene;
    assert!(agent.shutdown(SOON).await);
    // It holds the lock of its directory.
    drop(agent);
    let ca_folder = ca.stop().await;
    fs::remove_dir_all(folder.path().join("web")).unwrap();
    let agent = Agent::start(configuration(folder.path()), None, Deps::system()).unwrap();
    let mut events = agent.events();
    let delivered = |event: &AgentEvent| match event {
        AgentEvent::Delivered { directory, .. } => directory.ends_with("web"),
        _ => false,
    };
    let again = async { while !delivered(&events.recv().await.unwrap()) {} };
    timeout(SOON, again).await.unwrap();
    let text = fs::read_to_string(&file).unwrap();
    assert_eq!(pem::decode_certificates(&text).unwrap(), roots_of(&theirs));
    assert!(!folder.path().join("plain/other.test.federated.pem").exists());
    let trust = agent.trust_store().load_full();
    let domains: BTreeSet<String> = trust.domains().map(ToString::to_string).collect();
    assert_eq!(domains, ["dev.test", "other.test"].map(str::to_owned).into());
    assert!(agent.shutdown(SOON).await);
    drop(ca_folder);
    other.stop().await;
}

/// What the other trust domain's `web` holds: a token for `db`, and its chain.
async fn held(theirs: &Scene) -> (String, Vec<CertificateDer<'static>>) {
    let id = format!("{OTHER}/web");
    let request = JwtsvidRequest {
        audience: vec!["db".to_owned()],
        spiffe_id: id.clone(),
    };
    let tokens = theirs.workload().await.fetch_jwtsvid(call(request)).await;
    let token = tokens.unwrap().into_inner().svids.remove(0).svid;
    let svids = theirs.workload().await.fetch_x509svid(call(X509svidRequest {})).await;
    let both = |response: &X509svidResponse| response.svids.iter().any(|svid| svid.spiffe_id == id);
    let svids = next(&mut svids.unwrap().into_inner(), "an identity", both).await.svids;
    let svid = svids.iter().find(|svid| svid.spiffe_id == id).unwrap();
    (token, certificates(&svid.x509_svid))
}

/// What the agent says of a token for `db`.
async fn validate(ours: &Scene, token: &str) -> Result<String, Code> {
    let request = ValidateJwtsvidRequest {
        audience: "db".to_owned(),
        svid: token.to_owned(),
    };
    let answer = ours.workload().await.validate_jwtsvid(call(request)).await;
    let answer = answer.map(|answer| answer.into_inner().spiffe_id);
    answer.map_err(|status| status.code())
}

/// What a verifier in the agent's process says of a chain of the other trust domain's `web`.
fn verify(ours: &Scene, chain: &[CertificateDer<'static>]) -> Result<SpiffeId, VerifyError> {
    let allowed = AllowedIds::exact([SpiffeId::parse(&format!("{OTHER}/web")).unwrap()]).unwrap();
    let algorithms = provider().signature_verification_algorithms;
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let now = UnixTime::from_millis(i64::try_from(since.as_millis()).unwrap());
    let trust = ours.agent.trust_store().load_full();
    let peer = trust.verify(chain, Usage::Client, &allowed, &algorithms, now)?;
    Ok(peer.id().clone())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tokens_and_certificates_of_another_trust_domain_are_believed_only_as_the_operator_says() {
    let (theirs, ours) = (Scene::new(&other_domain()).await, Scene::new(&domain()).await);
    let (token, chain) = held(&theirs).await;
    assert_eq!(validate(&ours, &token).await, Err(Code::InvalidArgument));
    assert!(matches!(verify(&ours, &chain), Err(VerifyError::UnknownTrustDomain(_))));

    // Vouched for, but with revocation required: certificates are refused, because nothing here covers them.
    let document = document(theirs.admin()).await;
    let required = SetFederatedRequest {
        trust_domain: other_domain().to_string(),
        document: document.clone(),
        ..SetFederatedRequest::default()
    };
    let mut events = ours.agent.events();
    let mut applied = async || while !matches!(events.recv().await.unwrap(), AgentEvent::FederationApplied { .. }) {};
    federate(ours.admin(), required).await.unwrap();
    timeout(SOON, applied()).await.unwrap();
    assert_eq!(
        validate(&ours, &token).await,
        Err(Code::InvalidArgument),
        "no entry of the caller federates with it"
    );
    let refused = verify(&ours, &chain);
    assert!(matches!(refused, Err(VerifyError::NotCovered { .. })), "{refused:?}");
    let entry = federating_entry(&domain(), "web", &other_domain());
    apply(ours.admin(), vec![entry]).await.unwrap();
    let started = Instant::now();
    while validate(&ours, &token).await != Ok(format!("{OTHER}/web")) {
        assert!(started.elapsed() < SOON, "the token is not believed");
    }

    // Nothing is asked about them: accepted. Taken away: unknown again.
    federate_with(ours.admin(), &other_domain(), &document).await;
    timeout(SOON, applied()).await.unwrap();
    assert_eq!(verify(&ours, &chain).unwrap().as_str(), format!("{OTHER}/web"));
    unfederate(ours.admin(), &other_domain()).await;
    timeout(SOON, applied()).await.unwrap();
    assert_eq!(validate(&ours, &token).await, Err(Code::InvalidArgument));
    assert!(matches!(verify(&ours, &chain), Err(VerifyError::UnknownTrustDomain(_))));
    ours.end().await;
    theirs.end().await;
}

/// The certificates of concatenated DER.
fn certificates(mut octets: &[u8]) -> Vec<CertificateDer<'static>> {
    let mut found = Vec::new();
    while !octets.is_empty() {
        let (rest, _) = x509_parser::parse_x509_certificate(octets).unwrap();
        found.push(CertificateDer::from(octets[..octets.len() - rest.len()].to_vec()));
        octets = rest;
    }
    found
}
