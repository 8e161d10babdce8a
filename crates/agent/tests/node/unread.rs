//! Clients of the socket that never read: they lose their connection and nothing else, and hold up neither others nor the
//! agent's stop.

use std::path::PathBuf;

use mintage_agent::{SocketLimit, SocketLimits};
use mintage_proto::{
    sds::{DiscoveryRequest, DiscoveryResponse, secret_discovery_service_client::SecretDiscoveryServiceClient},
    workload::{X509svidRequest, X509svidResponse, spiffe_workload_api_client::SpiffeWorkloadApiClient},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpStream, UnixStream},
    time::timeout,
};
use tokio_stream::StreamExt;
use tonic::{
    Request, Streaming,
    transport::{Channel, Endpoint},
};

use crate::support::{
    FakeCa,
    agent::{Node, PATIENCE, Running},
    entry,
};

/// Bytes of a stream's window that hold no message.
const NO_WINDOW: u32 = 1;

async fn channel(socket: PathBuf, window: Option<u32>) -> Channel {
    let connector = tower::service_fn(move |_| {
        let socket = socket.clone();
        async move { UnixStream::connect(socket).await.map(hyper_util::rt::TokioIo::new) }
    });
    Endpoint::from_static("http://agent")
        .initial_stream_window_size(window)
        .connect_with_connector(connector)
        .await
        .unwrap()
}

async fn svids(channel: Channel) -> Streaming<X509svidResponse> {
    let mut request = Request::new(X509svidRequest {});
    request
        .metadata_mut()
        .insert("workload.spiffe.io", "true".parse().unwrap());
    let answer = SpiffeWorkloadApiClient::new(channel).fetch_x509svid(request).await;
    answer.unwrap().into_inner()
}

async fn secrets(channel: Channel) -> Streaming<DiscoveryResponse> {
    let request = DiscoveryRequest {
        resource_names: vec!["default".to_owned()],
        ..DiscoveryRequest::default()
    };
    let requests = tokio_stream::iter([request]).chain(tokio_stream::pending());
    let answer = SecretDiscoveryServiceClient::new(channel)
        .stream_secrets(requests)
        .await;
    answer.unwrap().into_inner()
}

async fn started(limits: SocketLimits) -> (FakeCa, Node, Running) {
    let ca = FakeCa::start(vec![entry("web", "/web")]).await;
    let node = Node::new();
    let config = node
        .config(&[])
        .with_socket(Some(node.socket()))
        .with_limits(limits)
        .with_metrics("127.0.0.1:0".parse().unwrap())
        .unwrap();
    let mut agent = node.start(config, Some(ca.token()));
    agent.connected().await;
    (ca, node, agent)
}

async fn next<T>(stream: &mut Streaming<T>) -> T {
    timeout(PATIENCE, stream.message()).await.unwrap().unwrap().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_that_never_read_do_not_hold_up_the_stop() {
    let (_ca, node, agent) = started(SocketLimits::default()).await;
    let mute = channel(node.socket(), Some(NO_WINDOW)).await;
    let unread = (svids(mute.clone()).await, secrets(mute.clone()).await);
    let mut reader = svids(channel(node.socket(), None).await).await;
    assert_eq!(next(&mut reader).await.svids.len(), 1);
    agent.stop().await;
    drop(unread);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_never_reads_loses_its_connection_and_others_are_told_all() {
    let limits = SocketLimits::default().with(SocketLimit::UnreadSeconds, 1).unwrap();
    for of_sds in [false, true] {
        let (ca, node, agent) = started(limits).await;
        let face = agent.handle.metrics_address().unwrap();
        let mut reader = svids(channel(node.socket(), None).await).await;
        let mut last = next(&mut reader).await;
        let mute = channel(node.socket(), Some(NO_WINDOW)).await;
        let (mut unread, mut unread_sds) = (None, None);
        match of_sds {
            false => unread = Some(svids(mute.clone()).await),
            true => unread_sds = Some(secrets(mute.clone()).await),
        }
        // One message is half sent, one waits behind it, and the next one finds no room.
        for _ in 0..3 {
            ca.renew(&["web"]);
            let now = next(&mut reader).await;
            assert_ne!(now, last, "each is sent to whoever reads");
            last = now;
        }
        let cut = async {
            while !get(face)
                .await
                .contains("mintage_agent_workload_requests_total{result=\"unread\"} 1\n")
            {
                tokio::time::sleep(std::time::Duration::from_millis(50)).await;
            }
        };
        timeout(PATIENCE, cut).await.expect("the client keeps its connection");
        if let Some(stream) = &mut unread {
            assert!(ended(stream).await, "the stream goes on");
        }
        if let Some(stream) = &mut unread_sds {
            assert!(ended(stream).await, "the stream goes on");
        }
        // Its next call is on a new connection, and is answered.
        let mut again = svids(channel(node.socket(), None).await).await;
        assert_eq!(next(&mut again).await, last);
        agent.stop().await;
    }
}

/// Reads what was on its way; true when an error ends it.
async fn ended<T>(stream: &mut Streaming<T>) -> bool {
    let read = async {
        loop {
            match stream.message().await {
                Ok(Some(_)) => {}
                Ok(None) => return false,
                Err(_) => return true,
            }
        }
    };
    timeout(PATIENCE, read).await.unwrap()
}

async fn get(face: std::net::SocketAddr) -> String {
    let mut stream = TcpStream::connect(face).await.unwrap();
    let request = b"GET /metrics HTTP/1.1\r\nHost: agent\r\nConnection: close\r\n\r\n";
    stream.write_all(request).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}
