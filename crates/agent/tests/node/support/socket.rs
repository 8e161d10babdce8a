//! The agent's socket as its clients reach it.

use std::path::PathBuf;

use mintage_agent::Config;
use mintage_proto::{
    v1,
    workload::{X509svidRequest, X509svidResponse, spiffe_workload_api_client::SpiffeWorkloadApiClient},
};
use tokio::{net::UnixStream, time::timeout};
use tonic::{
    Request, Status, Streaming,
    transport::{Channel, Endpoint},
};

use super::{
    FakeCa,
    agent::{Node, PATIENCE, Running},
};

/// A connection to a socket.
pub async fn channel(socket: PathBuf) -> Channel {
    let connector = tower::service_fn(move |_| {
        let socket = socket.clone();
        async move { UnixStream::connect(socket).await.map(hyper_util::rt::TokioIo::new) }
    });
    Endpoint::from_static("http://agent")
        .connect_with_connector(connector)
        .await
        .unwrap()
}

/// A client of the Workload API.
pub async fn client(node: &Node) -> SpiffeWorkloadApiClient<Channel> {
    SpiffeWorkloadApiClient::new(channel(node.socket()).await)
}

/// A call with the header that every call of the Workload API has.
pub fn call<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request
        .metadata_mut()
        .insert("workload.spiffe.io", "true".parse().unwrap());
    request
}

/// The socket, and no deliveries.
pub fn socket_config(node: &Node) -> Config {
    node.config(&[]).with_socket(Some(node.socket()))
}

/// A CA with these entries, and an agent that is connected to it.
pub async fn started(entries: Vec<v1::Entry>) -> (FakeCa, Node, Running) {
    let ca = FakeCa::start(entries).await;
    let node = Node::new();
    let mut agent = node.start(socket_config(&node), Some(ca.token()));
    agent.connected().await;
    (ca, node, agent)
}

/// A stream of X.509-SVIDs on a connection of its own.
pub async fn svids(node: &Node) -> Result<Streaming<X509svidResponse>, Status> {
    let mut client = client(node).await;
    let answer = timeout(PATIENCE, client.fetch_x509svid(call(X509svidRequest {})));
    Ok(answer.await.unwrap()?.into_inner())
}

/// The next message of a stream.
pub async fn next(stream: &mut Streaming<X509svidResponse>) -> X509svidResponse {
    timeout(PATIENCE, stream.message()).await.unwrap().unwrap().unwrap()
}

/// How a stream ends, whatever it sends before.
pub async fn end(stream: &mut Streaming<X509svidResponse>) -> Status {
    loop {
        if let Err(status) = timeout(PATIENCE, stream.message()).await.unwrap() {
            return status;
        }
    }
}

/// The identities of a message, in their order.
pub fn ids(response: &X509svidResponse) -> Vec<&str> {
    response.svids.iter().map(|svid| svid.spiffe_id.as_str()).collect()
}

/// The first certificate of concatenated DER.
pub fn leaf(concatenated: &[u8]) -> Vec<u8> {
    let len = usize::from(u16::from_be_bytes([concatenated[2], concatenated[3]]));
    concatenated[..len + 4].to_vec()
}
