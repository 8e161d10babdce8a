//! grpc.health.v1 on the socket: what it says of the whole and of each service, while the agent starts, serves and stops.

use std::path::PathBuf;

use tokio::time::timeout;
use tonic::{Code, Streaming, transport::Channel};
use tonic_health::pb::{
    HealthCheckRequest, HealthCheckResponse,
    health_check_response::ServingStatus::{self, NotServing, Serving},
    health_client::HealthClient,
};

use crate::support::{
    FakeCa,
    agent::{Node, PATIENCE},
    entry,
    socket::channel,
};

const WORKLOADS: &str = "SpiffeWorkloadAPI";
const SECRETS: &str = "envoy.service.secret.v3.SecretDiscoveryService";
const LOOKUPS: &str = "mintage.v1.RevocationLookup";
const LOCAL: &str = "mintage.v1.AgentLocal";

async fn health(socket: PathBuf) -> HealthClient<Channel> {
    HealthClient::new(channel(socket).await)
}

fn of(service: &str) -> HealthCheckRequest {
    HealthCheckRequest {
        service: service.to_owned(),
    }
}

async fn watch(client: &mut HealthClient<Channel>, service: &str) -> Streaming<HealthCheckResponse> {
    client.watch(of(service)).await.unwrap().into_inner()
}

/// Waits until a service is so.
async fn becomes(stream: &mut Streaming<HealthCheckResponse>, wanted: ServingStatus) {
    let waiting = async { while stream.message().await.unwrap().unwrap().status != wanted as i32 {} };
    timeout(PATIENCE, waiting)
        .await
        .unwrap_or_else(|_| panic!("never {wanted:?}"));
}

async fn now(client: &mut HealthClient<Channel>, service: &str) -> i32 {
    client.check(of(service)).await.unwrap().into_inner().status
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_service_serves_when_it_can_the_whole_when_all_is_ready_and_nothing_once_the_agent_stops() {
    let ca = FakeCa::start(vec![entry("web", "/web")]).await;
    let node = Node::new();
    let config = node.config(&["web", "unknown"]).with_socket(Some(node.socket()));
    let mut agent = node.start(config, Some(ca.token()));
    let mut client = health(node.socket()).await;
    let mut whole = watch(&mut client, "").await;
    let first = timeout(PATIENCE, whole.message()).await.unwrap().unwrap().unwrap();
    assert_eq!(
        first.status, NotServing as i32,
        "a folder of an unknown entry is never ready"
    );
    for service in [WORKLOADS, SECRETS, LOOKUPS, LOCAL] {
        becomes(&mut watch(&mut client, service).await, Serving).await;
    }
    agent.delivered("web").await;
    assert_eq!(now(&mut client, "").await, NotServing as i32);
    agent.handle.reload(vec![node.delivery("web")]).await.unwrap();
    becomes(&mut whole, Serving).await;
    assert_eq!(client.check(of("nothing")).await.unwrap_err().code(), Code::NotFound);

    // Who watches is told before it is let go, and does not hold the agent up.
    let mut workloads = watch(&mut client, WORKLOADS).await;
    becomes(&mut workloads, Serving).await;
    let (stopped, ()) = tokio::join!(agent.handle.shutdown(PATIENCE), async {
        for stream in [&mut whole, &mut workloads] {
            becomes(stream, NotServing).await;
            assert!(!matches!(
                timeout(PATIENCE, stream.message()).await.unwrap(),
                Ok(Some(_))
            ));
        }
    });
    assert!(stopped);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_ca_since_the_start_folders_are_served_and_callers_are_not() {
    let ca = FakeCa::start(vec![entry("web", "/web")]).await;
    let node = Node::new();
    let config = || node.config(&["web"]).with_socket(Some(node.socket()));
    let mut agent = node.start(config(), Some(ca.token()));
    agent.delivered("web").await;
    agent.stop().await;
    ca.down();
    let agent = node.start(config(), None);
    let mut client = health(node.socket()).await;
    becomes(&mut watch(&mut client, "").await, Serving).await;
    for service in [WORKLOADS, SECRETS] {
        assert_eq!(now(&mut client, service).await, NotServing as i32, "{service}");
    }
    assert_eq!(now(&mut client, LOCAL).await, Serving as i32);
    agent.stop().await;
}
