//! Envoy's SDS on the agent's socket, as a client of its own hears it: any names in one request, rotation, revocation and
//! withdrawal, responses that were refused, and what is beyond the limits. CA and agent are the real ones.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::{path::PathBuf, time::Duration};

use mintage_agent::{Agent, AgentHandle, Config, Deps};
use mintage_proto::{
    sds::{
        Any, CertificateValidationContext, DataSource, DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest,
        DiscoveryResponse, Node, Problem, Secret, SpiffeCertValidatorConfig, TlsCertificate, data_source::Specifier,
        secret::Type, secret_discovery_service_client::SecretDiscoveryServiceClient,
    },
    v1::{
        DeleteEntryRequest, RenewAgentRequest, RevokeRequest, revocation_client::RevocationClient,
        revoke_request::Target,
    },
};
use mintage_svid::{Crl, LeafInfo, key_matches, pem};
use mintage_tests::kit::{
    ca::TestCa,
    client::{admin, registry},
    face::metric,
    node::Node as ProgramNode,
};
use prost::Message as _;
use prost_types::{Struct, Value, value::Kind};
use tokio::{sync::mpsc, time::timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status, Streaming, transport::Channel};

/// Longest wait for anything; the machine may be busy.
const SOON: Duration = Duration::from_secs(60);
const WEB: &str = "spiffe://dev.test/web";
const DB: &str = "spiffe://dev.test/db";
const DOMAIN: &str = "spiffe://dev.test";
const SECRET_TYPE: &str = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret";

struct Scene {
    ca: TestCa,
    agent: AgentHandle,
    socket: PathBuf,
    folder: tempfile::TempDir,
}

/// CA and agent with entries for this process, once the agent has all there is to give.
async fn scene() -> Scene {
    let ca = TestCa::start().await;
    for name in ["db", "web"] {
        ca.entry(name, &format!("/{name}")).await;
    }
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("run/agent.sock");
    let config = Config::new(folder.path().join("agent"))
        .with_socket(Some(socket.clone()))
        .with_metrics("127.0.0.1:0".parse().unwrap())
        .unwrap()
        .with_bundle_map(folder.path().join("run/bundles.json"))
        .unwrap();
    let agent = Agent::start(config, Some(ca.token("n1").await), Deps::system()).unwrap();
    let scene = Scene {
        ca,
        agent,
        socket,
        folder,
    };
    // The lists of root and intermediate come after everything else.
    let all = async {
        loop {
            let response = scene.client().await.fetch_secrets(asking(&["ROOTCA"])).await;
            let lists = response.map(|response| context(&response.into_inner().resources[0]).1.crl);
            if lists.is_ok_and(|crl| crl.is_some_and(|crl| lists_of(&crl).len() == 2)) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(SOON, all).await.unwrap();
    scene
}

impl Scene {
    async fn client(&self) -> SecretDiscoveryServiceClient<Channel> {
        SecretDiscoveryServiceClient::new(admin(&self.socket).await.unwrap())
    }

    async fn whole(&self) -> Whole {
        let (sender, requests) = mpsc::channel(4);
        let answers = self.client().await.stream_secrets(ReceiverStream::new(requests)).await;
        Whole {
            sender,
            answers: answers.unwrap().into_inner(),
        }
    }

    async fn delta(&self) -> Delta {
        let (sender, requests) = mpsc::channel(4);
        let answers = self.client().await.delta_secrets(ReceiverStream::new(requests)).await;
        Delta {
            sender,
            answers: answers.unwrap().into_inner(),
        }
    }

    async fn revoke(&self, id: &str) {
        let request = RevokeRequest {
            target: Some(Target::SpiffeId(id.to_owned())),
            reason: "superseded".to_owned(),
            ..RevokeRequest::default()
        };
        let channel = admin(self.ca.ca.admin_socket()).await.unwrap();
        RevocationClient::new(channel).revoke(request).await.unwrap();
    }

    async fn delete(&self, entry: &str) {
        let request = DeleteEntryRequest {
            name: entry.to_owned(),
            dry_run: false,
        };
        let mut registry = registry(self.ca.ca.admin_socket()).await;
        registry.delete_entry(request).await.unwrap();
    }

    async fn messages(&self, result: &str) -> u64 {
        let face = self.agent.metrics_address().unwrap();
        metric(
            face,
            &format!("mintage_agent_sds_messages_total{{result=\"{result}\"}}"),
        )
        .await
    }

    async fn end(self) {
        assert!(self.agent.shutdown(SOON).await);
        self.ca.stop().await;
    }
}

fn asking(names: &[&str]) -> DiscoveryRequest {
    DiscoveryRequest {
        resource_names: names.iter().map(|name| (*name).to_owned()).collect(),
        type_url: SECRET_TYPE.to_owned(),
        ..DiscoveryRequest::default()
    }
}

fn subscribing(names: &[&str]) -> DeltaDiscoveryRequest {
    DeltaDiscoveryRequest {
        resource_names_subscribe: names.iter().map(|name| (*name).to_owned()).collect(),
        ..DeltaDiscoveryRequest::default()
    }
}

/// A stream of the whole state.
struct Whole {
    sender: mpsc::Sender<DiscoveryRequest>,
    answers: Streaming<DiscoveryResponse>,
}

impl Whole {
    async fn ask(&self, request: DiscoveryRequest) {
        self.sender.send(request).await.unwrap();
    }

    async fn answer(&mut self) -> Result<DiscoveryResponse, Status> {
        timeout(SOON, self.answers.message()).await.unwrap().map(Option::unwrap)
    }

    async fn acknowledge(&self, response: &DiscoveryResponse, names: &[&str]) {
        let request = DiscoveryRequest {
            version_info: response.version_info.clone(),
            response_nonce: response.nonce.clone(),
            ..asking(names)
        };
        self.ask(request).await;
    }
}

/// A stream of what changes.
struct Delta {
    sender: mpsc::Sender<DeltaDiscoveryRequest>,
    answers: Streaming<DeltaDiscoveryResponse>,
}

impl Delta {
    async fn ask(&self, request: DeltaDiscoveryRequest) {
        self.sender.send(request).await.unwrap();
    }

    async fn answer(&mut self) -> Result<DeltaDiscoveryResponse, Status> {
        timeout(SOON, self.answers.message()).await.unwrap().map(Option::unwrap)
    }
}

fn names_of(response: &DeltaDiscoveryResponse) -> Vec<&str> {
    response
        .resources
        .iter()
        .map(|resource| resource.name.as_str())
        .collect()
}

fn secret(any: &Any) -> Secret {
    assert_eq!(any.type_url, SECRET_TYPE);
    let secret = Secret::decode(&any.value[..]).unwrap();
    assert!(
        !format!("{any:?}{secret:?}").contains("PRIVATE"),
        "a secret is not told"
    );
    secret
}

fn text(source: &DataSource) -> String {
    match &source.specifier {
        Some(Specifier::InlineBytes(bytes)) => String::from_utf8(bytes.clone()).unwrap(),
        _ => panic!("it is not inline"),
    }
}

fn context(any: &Any) -> (String, CertificateValidationContext) {
    let secret = secret(any);
    match secret.r#type {
        Some(Type::ValidationContext(context)) => (secret.name, context),
        _ => panic!("{} is no context", secret.name),
    }
}

/// The name and the leaf of a certificate whose key is its own.
fn certificate(any: &Any) -> (String, LeafInfo) {
    let secret = secret(any);
    let Some(Type::TlsCertificate(TlsCertificate {
        certificate_chain,
        private_key,
    })) = secret.r#type
    else {
        panic!("{} is no certificate", secret.name);
    };
    let chain = pem::decode_certificates(&text(&certificate_chain.unwrap())).unwrap();
    assert_eq!(chain.len(), 2, "leaf and intermediate");
    let key = pem::decode_private_key(&text(&private_key.unwrap())).unwrap();
    assert!(key_matches(&chain[0], &key).unwrap());
    (secret.name, LeafInfo::parse(&chain[0]).unwrap())
}

fn lists_of(crl: &DataSource) -> Vec<Crl> {
    let text = text(crl);
    let blocks = text.split_inclusive("-----END X509 CRL-----\n");
    blocks
        .map(|block| Crl::parse(&pem::decode(pem::Label::Crl, block).unwrap()).unwrap())
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_name_in_one_request_then_rotation_revocation_and_withdrawal() {
    let scene = scene().await;
    let names = ["default", "ROOTCA", "ALL", WEB, DOMAIN, "spiffe://dev.test/none"];
    let mut stream = scene.whole().await;
    stream.ask(asking(&names)).await;
    let first = stream.answer().await.unwrap();
    assert_eq!((first.type_url.as_str(), first.resources.len()), (SECRET_TYPE, 5));
    for at in [0, 1, 3] {
        let (name, context) = context(&first.resources[at]);
        assert_eq!(name, ["ALL", "ROOTCA", "", DOMAIN][at]);
        assert!(context.only_verify_leaf_cert_crl && context.custom_validator_config.is_none());
        assert!(text(&context.trusted_ca.unwrap()).starts_with("-----BEGIN CERTIFICATE-----"));
        assert_eq!(lists_of(&context.crl.unwrap()).len(), 2);
    }
    let (name, leaf) = certificate(&first.resources[2]);
    assert_eq!(
        (name.as_str(), leaf.id().as_str()),
        ("default", DB),
        "the first by the entries' names"
    );
    let (name, web) = certificate(&first.resources[4]);
    assert_eq!((name.as_str(), web.id().as_str()), (WEB, WEB));
    assert_eq!(scene.messages("unknown_name").await, 1);
    stream.acknowledge(&first, &names).await;

    // A revocation: the certificate is replaced, and the lists name the old one.
    scene.revoke(WEB).await;
    let mut last = first;
    let (mut replaced, mut listed) = (false, false);
    while !(replaced && listed) {
        let next = stream.answer().await.unwrap();
        assert_ne!(next.version_info, last.version_info);
        replaced = certificate(&next.resources[4]).1.serial() != web.serial();
        let crl = context(&next.resources[1]).1.crl.unwrap();
        listed = lists_of(&crl).iter().map(Crl::entries).sum::<usize>() == 1;
        stream.acknowledge(&next, &names).await;
        last = next;
    }

    // One of two goes: what is left comes; the last goes: the stream ends with the reason.
    scene.delete("db").await;
    while certificate(&last.resources[2]).1.id().as_str() != WEB {
        last = stream.answer().await.unwrap();
    }
    scene.delete("web").await;
    let status = loop {
        match stream.answer().await {
            Ok(_) => {}
            Err(status) => break status,
        }
    };
    assert_eq!(status.code(), Code::PermissionDenied);
    assert!(status.message().contains("no identity issued"), "{status}");
    let map = std::fs::read_to_string(scene.folder.path().join("run/bundles.json")).unwrap();
    assert!(
        map.contains("\"trust_domains\"") && map.contains("\"dev.test\""),
        "{map}"
    );
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn changes_alone_over_a_reconnect_and_what_goes_is_removed() {
    let scene = scene().await;
    let mut stream = scene.delta().await;
    stream.ask(subscribing(&[WEB, DB, "ROOTCA", "nothing"])).await;
    let first = stream.answer().await.unwrap();
    assert_eq!(names_of(&first), ["ROOTCA", DB, WEB]);
    assert_eq!(first.removed_resources, ["nothing"]);
    let versions = first
        .resources
        .iter()
        .map(|resource| (resource.name.clone(), resource.version.clone()));

    // Whoever comes back with the versions is sent nothing of it: the first response is for what is new.
    let mut again = scene.delta().await;
    again
        .ask(DeltaDiscoveryRequest {
            initial_resource_versions: versions.collect(),
            ..subscribing(&[WEB, DB, "ROOTCA"])
        })
        .await;
    again.ask(subscribing(&["default"])).await;
    assert_eq!(names_of(&again.answer().await.unwrap()), ["default"]);

    let renew = RenewAgentRequest {
        name: "n1".to_owned(),
        ..RenewAgentRequest::default()
    };
    registry(scene.ca.ca.admin_socket())
        .await
        .renew_agent(renew)
        .await
        .unwrap();
    let mut renewed = std::collections::BTreeSet::new();
    while renewed.len() < 2 {
        let next = stream.answer().await.unwrap();
        for resource in &next.resources {
            let old = first.resources.iter().find(|old| old.name == resource.name).unwrap();
            assert_ne!(old.version, resource.version);
            assert_ne!(resource.name, "ROOTCA", "roots and lists are as they were");
            certificate(resource.resource.as_ref().unwrap());
            renewed.insert(resource.name.clone());
        }
    }

    scene.delete("web").await;
    // The deletion revokes, so the lists come as well, before or after.
    let mut removed = Vec::new();
    while removed.is_empty() {
        let next = stream.answer().await.unwrap();
        assert!(
            names_of(&next).iter().all(|name| *name == "ROOTCA"),
            "{:?}",
            names_of(&next)
        );
        removed = next.removed_resources;
    }
    assert_eq!(removed, [WEB]);
    scene.delete("db").await;
    let mut gone = Vec::new();
    let status = loop {
        match stream.answer().await {
            Ok(next) => gone.extend(next.removed_resources),
            Err(status) => break status,
        }
    };
    assert_eq!(gone, ["ROOTCA", DB], "everything is taken back before the end");
    assert_eq!(status.code(), Code::PermissionDenied);
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_response_is_counted_and_not_sent_again() {
    let scene = scene().await;
    let mut stream = scene.whole().await;
    stream.ask(asking(&["ROOTCA"])).await;
    let first = stream.answer().await.unwrap();
    let refusal = DiscoveryRequest {
        response_nonce: first.nonce.clone(),
        error_detail: Some(Problem {
            code: 13,
            message: "line one\nline two".to_owned(),
        }),
        ..asking(&["ROOTCA"])
    };
    for _ in 0..5 {
        stream.ask(refusal.clone()).await;
    }
    // The next response is for another wish; of the five there was none between.
    stream.acknowledge(&first, &["ROOTCA", "ALL"]).await;
    let second = stream.answer().await.unwrap();
    assert_eq!(second.resources.len(), 2);
    assert_eq!(scene.messages("nack").await, 5);
    // What answers the first response now comes too late, and changes nothing.
    stream.acknowledge(&first, &["none"]).await;
    stream.acknowledge(&second, &["ROOTCA", "ALL", DOMAIN]).await;
    assert_eq!(stream.answer().await.unwrap().resources.len(), 3);
    assert_eq!(scene.messages("stale").await, 1);
    assert_eq!(scene.messages("nack").await, 5);
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_node_chooses_the_validator_and_what_is_not_there_or_too_much_is_refused() {
    let scene = scene().await;
    let mut client = scene.client().await;
    let mut request = asking(&["ALL"]);
    let value = Value {
        kind: Some(Kind::StringValue("spiffe".to_owned())),
    };
    request.node = Some(Node {
        metadata: Some(Struct {
            fields: [("mintage_validator".to_owned(), value)].into(),
        }),
        ..Node::default()
    });
    let response = client.fetch_secrets(request).await.unwrap().into_inner();
    let (_, all) = context(&response.resources[0]);
    assert!(all.trusted_ca.is_none() && all.crl.is_none());
    let validator = all.custom_validator_config.unwrap();
    assert_eq!(validator.name, "envoy.tls.cert_validator.spiffe");
    let config = SpiffeCertValidatorConfig::decode(&validator.typed_config.unwrap().value[..]).unwrap();
    assert_eq!(config.trust_domains[0].name, "dev.test");

    // Everything: each thing once.
    let everything = client.fetch_secrets(asking(&[])).await.unwrap().into_inner();
    let names: Vec<String> = everything.resources.iter().map(|any| secret(any).name).collect();
    assert_eq!(names, [DOMAIN, DB, WEB]);

    let refused = client.fetch_secrets(asking(&["web"])).await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied);
    for word in ["\"web\"", "\"default\"", "\"ROOTCA\"", WEB] {
        assert!(refused.message().contains(word), "{refused}");
    }
    let many = vec!["x"; 257];
    let mut other = asking(&["ROOTCA"]);
    other.type_url = "type.googleapis.com/envoy.config.cluster.v3.Cluster".to_owned();
    for (request, word) in [(asking(&many), "resource_names"), (other, "type_url")] {
        let status = client.fetch_secrets(request).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument);
        assert!(status.message().contains(word), "{status}");
    }
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_user_cannot_open_streams_without_end() {
    let scene = scene().await;
    let (mut open, mut refused) = (Vec::new(), 0);
    for _ in 0..5 {
        let client = scene.client().await;
        for _ in 0..60 {
            let (sender, requests) = mpsc::channel(1);
            match client.clone().stream_secrets(ReceiverStream::new(requests)).await {
                Ok(answers) => open.push((sender, answers.into_inner())),
                Err(status) => {
                    assert_eq!(status.code(), Code::ResourceExhausted);
                    refused += 1;
                }
            }
        }
    }
    assert_eq!((open.len(), refused), (256, 44));
    // One that ends makes room for another.
    open.truncate(255);
    let room = async {
        while scene.client().await.fetch_secrets(asking(&["ROOTCA"])).await.is_err() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(SOON, room).await.unwrap();
    // Streams that have asked for nothing do not hold the agent up.
    scene.end().await;
}

/// The configuration file's own names and validator, and what an operator sees of a refusal.
#[tokio::test(flavor = "multi_thread")]
async fn the_program_serves_the_names_and_the_validator_of_its_configuration_and_logs_a_nack() {
    let mut node = ProgramNode::start(&["web"], "[sds]\nsvid_name = \"mine\"\nvalidator = \"spiffe\"\n").await;
    let channel = admin(&node.socket()).await.unwrap();
    let (sender, requests) = mpsc::channel(4);
    let answers = SecretDiscoveryServiceClient::new(channel.clone())
        .stream_secrets(ReceiverStream::new(requests))
        .await;
    let mut stream = Whole {
        sender,
        answers: answers.unwrap().into_inner(),
    };
    stream.ask(asking(&["mine", "ROOTCA"])).await;
    let mut first = stream.answer().await.unwrap();
    first.resources.sort_by_key(|any| secret(any).name);
    let (name, roots) = context(&first.resources[0]);
    assert!(name == "ROOTCA" && roots.custom_validator_config.is_some(), "{roots:?}");
    let (name, leaf) = certificate(&first.resources[1]);
    assert_eq!((name.as_str(), leaf.id().as_str()), ("mine", WEB));
    let other = SecretDiscoveryServiceClient::new(channel)
        .fetch_secrets(asking(&["default"]))
        .await;
    let refused = other.unwrap_err();
    assert!(refused.message().contains("default"), "{refused}");
    stream
        .ask(DiscoveryRequest {
            response_nonce: first.nonce.clone(),
            error_detail: Some(Problem {
                code: 13,
                message: "no such curve".to_owned(),
            }),
            ..asking(&["mine", "ROOTCA"])
        })
        .await;
    node.agent.wait_for_log("the refusal", |log| {
        log.contains("an SDS client refused a response") && log.contains("no such curve")
    });
    drop(stream);
    node.stop();
}
