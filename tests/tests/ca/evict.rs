//! `agent evict` over the wire: the open stream ends, the old certificate opens no other, and the node may come again with
//! a token, as a new instance.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::{path::Path, time::Duration};

use mintage_proto::v1::{
    Agent, BundleRequest, CaMessage, EvictAgentRequest, ShowAgentRequest, ca_message::Message as Down,
    node_client::NodeClient, trust_domain_client::TrustDomainClient,
};
use mintage_svid::LeafInfo;
use mintage_tests::kit::{
    agent::{AgentProcess, config},
    ca::{CaProcess, TestCa, entry, make, token},
    client::{join, registry},
    stream::{Stream, ask, code},
};
use tonic::{Code, Status, Streaming};

/// Longest wait for what should happen at once; the machine may be busy.
const SOON: Duration = Duration::from_secs(30);

async fn evict(socket: &Path, name: &str, dry_run: bool) -> u64 {
    let request = EvictAgentRequest {
        name: name.to_owned(),
        reason: "moved to another node".to_owned(),
        dry_run,
    };
    registry(socket)
        .await
        .evict_agent(request)
        .await
        .unwrap()
        .into_inner()
        .index
}

async fn shown(socket: &Path, name: &str) -> Agent {
    let request = ShowAgentRequest { name: name.to_owned() };
    let answer = registry(socket).await.show_agent(request).await.unwrap();
    answer.into_inner().agent.unwrap()
}

/// Everything that is pushed until the stream ends.
async fn to_its_end(mut down: Streaming<CaMessage>) -> (Vec<Down>, Option<Status>) {
    let mut pushed = Vec::new();
    loop {
        match tokio::time::timeout(SOON, down.message())
            .await
            .expect("the stream ends")
        {
            Ok(Some(message)) => pushed.extend(message.message),
            Ok(None) => return (pushed, None),
            Err(status) => return (pushed, Some(status)),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_whose_agent_is_evicted_before_hello_does_not_begin() {
    let ca = TestCa::start().await;
    let socket = ca.ca.admin_socket().to_path_buf();
    let agent = join(&ca.token("n1").await).await.unwrap();
    let (channel, _) = agent.channel(&ca.ca.address().to_string()).await.unwrap();
    let (up, messages) = tokio::sync::mpsc::channel(1);
    let messages = tokio_stream::wrappers::ReceiverStream::new(messages);
    let mut node = NodeClient::new(channel.clone());
    let opening = tokio::spawn(async move { node.sync(messages).await.map(tonic::Response::into_inner) });
    // A call over the same connection, begun after the stream, is answered: the stream waits for Hello.
    let mut anybody = TrustDomainClient::new(channel);
    anybody.bundle(BundleRequest::default()).await.unwrap();
    assert!(evict(&socket, "n1", false).await > 0);
    let hello = mintage_proto::v1::agent_message::Message::Hello(mintage_proto::v1::Hello::default());
    let hello = mintage_proto::v1::AgentMessage { message: Some(hello) };
    up.send(hello).await.unwrap();
    let refused = tokio::time::timeout(SOON, opening)
        .await
        .expect("it is answered")
        .unwrap();
    assert_eq!(refused.unwrap_err().code(), Code::Unauthenticated);
    ca.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_evicted_agents_stream_ends_and_a_token_lets_it_come_again() {
    let ca = TestCa::start().await;
    ca.entry("web", "/web").await;
    let (socket, address) = (ca.ca.admin_socket().to_path_buf(), ca.ca.address().to_string());
    let old = join(&ca.token("n1").await).await.unwrap();
    let other = join(&ca.token("n2").await).await.unwrap();
    let mut others = Stream::open(&other, &address).await.unwrap();
    let (channel, _) = old.channel(&address).await.unwrap();
    let hello = mintage_proto::v1::AgentMessage {
        message: Some(mintage_proto::v1::agent_message::Message::Hello(
            mintage_proto::v1::Hello::default(),
        )),
    };
    // The upward half stays open: what ends the stream is the CA.
    let (up, messages) = tokio::sync::mpsc::channel(4);
    up.send(hello).await.unwrap();
    let messages = tokio_stream::wrappers::ReceiverStream::new(messages);
    let mut down = NodeClient::new(channel).sync(messages).await.unwrap().into_inner();
    assert!(down.message().await.unwrap().is_some(), "the stream is open");

    assert_eq!(evict(&socket, "n1", true).await, 0);
    assert!(shown(&socket, "n1").await.connected, "a rehearsal ends nothing");
    assert!(evict(&socket, "n1", false).await > 0);
    let (pushed, ended) = to_its_end(down).await;
    assert!(
        pushed
            .iter()
            .any(|message| matches!(message, Down::Retire(retire) if retire.agent)),
        "it is told: {ended:?}"
    );
    let agent = shown(&socket, "n1").await;
    assert_eq!((agent.status.as_str(), agent.connected), ("evicted", false));

    // Its certificate lives for an hour, and opens nothing.
    assert!(LeafInfo::parse(&old.chain[0]).unwrap().not_after().millis() > 0);
    let refused = Stream::open(&old, &address).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unauthenticated, "{refused:?}");
    assert_eq!(
        code(&others.ask_one(ask("web")).await.unwrap()),
        "",
        "nobody else is struck"
    );

    let new = join(&ca.token("n1").await).await.unwrap();
    assert!(new.instance > old.instance, "a new instance");
    let mut stream = Stream::open(&new, &address).await.unwrap();
    assert_eq!(code(&stream.ask_one(ask("web")).await.unwrap()), "");
    assert!(
        Stream::open(&old, &address).await.is_err(),
        "the old one does not come back with it"
    );
    assert_eq!(shown(&socket, "n1").await.status, "active");
    ca.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_real_agent_that_is_evicted_ends_and_starts_again_with_a_token_alone() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("ca");
    make(&data);
    let ca = CaProcess::start(&data, 0);
    let socket = ca.admin_socket();
    entry(&socket, "web", "/web").await;
    let file = config(folder.path(), &["web"]);
    let svid = folder.path().join("web/svid.pem");
    let read = || std::fs::read_to_string(&svid).ok();
    let mut agent = AgentProcess::start(folder.path(), &file, Some(&token(&socket, "n1").await));
    let first = agent.wait_for("the first delivery", read);
    evict(&socket, "n1", false).await;
    assert_eq!(agent.ended(), Some(2), "the CA said no");

    let without = AgentProcess::start(folder.path(), &file, None);
    let log = folder.path().join("agent.log");
    let told = |part: &str| std::fs::read_to_string(&log).unwrap().contains(part);
    assert_eq!(without.ended(), Some(1));
    assert!(told("start it with --join-token-file FILE"), "what to do is told");
    let mut agent = AgentProcess::start(folder.path(), &file, Some(&token(&socket, "n1").await));
    agent.wait_for("a new delivery", || read().filter(|text| *text != first));
    assert_eq!(agent.stop(), Some(0));
    assert_eq!(ca.stop(), Some(0));
}
