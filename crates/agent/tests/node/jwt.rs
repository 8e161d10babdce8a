//! JWT-SVIDs on the socket while the CA is away, silent, wrong or flooded: what is kept is kept for half of its life, and nobody
//! gets what was not asked for.

use std::time::Duration;

use mintage_agent::limits::JWT_ASKS_PER_ENTRY_MAX;
use mintage_proto::{
    v1,
    workload::{JwtsvidRequest, spiffe_workload_api_client::SpiffeWorkloadApiClient},
};
use tonic::{Code, Status, transport::Channel};

use crate::support::{
    FakeCa,
    agent::{Node, Running},
    entry,
    jwt::Minter,
    socket::{call, client, socket_config},
};

struct Scene {
    ca: FakeCa,
    agent: Running,
    client: SpiffeWorkloadApiClient<Channel>,
    _node: Node,
}

async fn scene(ttl: Duration) -> Scene {
    let ca = FakeCa::start(vec![entry("web", "/web")]).await;
    *ca.state.jwt.lock().unwrap() = Some(Minter::new(ttl));
    let node = Node::new();
    let mut agent = node.start(socket_config(&node), Some(ca.token()));
    agent.connected().await;
    let client = client(&node).await;
    Scene {
        ca,
        agent,
        client,
        _node: node,
    }
}

impl Scene {
    async fn fetch(&mut self, audience: &str) -> Result<String, Status> {
        let request = call(JwtsvidRequest {
            audience: vec![audience.to_owned()],
            spiffe_id: String::new(),
        });
        let mut svids = self.client.fetch_jwtsvid(request).await?.into_inner().svids;
        assert_eq!(svids.len(), 1);
        Ok(svids.remove(0).svid)
    }

    fn minter<T>(&self, change: impl FnOnce(&mut Minter) -> T) -> T {
        change(self.ca.state.jwt.lock().unwrap().as_mut().unwrap())
    }

    async fn refused(&mut self, audience: &str, code: Code, words: &str) {
        let refused = self.fetch(audience).await.unwrap_err();
        assert_eq!(refused.code(), code, "{refused}");
        assert!(refused.message().contains(words), "{refused}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_is_asked_for_again_at_half_of_its_life_and_kept_past_it_while_the_ca_is_away() {
    let mut scene = scene(Duration::from_secs(3600)).await;
    let long = scene.fetch("long").await.unwrap();
    assert_eq!(scene.fetch("long").await.unwrap(), long);
    scene.minter(|minter| minter.ttl = Duration::from_secs(4));
    let first = scene.fetch("short").await.unwrap();
    // Half of it is over then, and it has not ended.
    tokio::time::sleep(Duration::from_millis(2_100)).await;
    assert_ne!(scene.fetch("short").await.unwrap(), first);

    scene.ca.down();
    assert_eq!(scene.fetch("long").await.unwrap(), long, "from memory, without the CA");
    scene.refused("new", Code::Unavailable, "").await;
    scene.agent.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_ca_refuses_says_wrongly_or_never_says_is_told_and_nothing_is_handed_out() {
    let mut scene = scene(Duration::from_secs(300)).await;
    scene.minter(|minter| minter.wrong_id = Some("spiffe://dev.test/db".to_owned()));
    scene
        .refused("a", Code::Unavailable, "it is of spiffe://dev.test/db")
        .await;
    scene.minter(|minter| (minter.wrong_id, minter.wrong_kid) = (None, true));
    scene.refused("b", Code::Unavailable, "no key \"other\"").await;
    scene.minter(|minter| {
        minter.wrong_kid = false;
        minter.refuse = Some(v1::Refusal {
            code: "jwt-audience".to_owned(),
            message: "entry web says no".to_owned(),
            ..v1::Refusal::default()
        });
    });
    // Asking again would not help: the caller may not have it (W5, W12).
    scene
        .refused("c", Code::PermissionDenied, "entry web says no (jwt-audience)")
        .await;
    let asked = scene.minter(|minter| minter.asked.len());
    scene.refused("c", Code::PermissionDenied, "entry web says no").await;
    let wrong = |minter: &mut Minter| minter.refuse.as_mut().unwrap().grpc_code = Code::InvalidArgument as u32;
    scene.minter(wrong);
    scene.refused("g", Code::InvalidArgument, "entry web says no").await;
    scene.minter(|minter| minter.refuse.as_mut().unwrap().retry = true);
    scene.refused("f", Code::Unavailable, "entry web says no").await;
    let asked = asked + 2;
    assert_eq!(
        scene.minter(|minter| minter.asked.len()),
        asked,
        "not asked again at once"
    );
    scene.minter(|minter| (minter.refuse, minter.silent) = (None, true));
    scene.refused("d", Code::Unavailable, "has not answered yet").await;
    scene.minter(|minter| minter.silent = false);
    assert!(scene.fetch("e").await.is_ok());
    scene.agent.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn audiences_that_a_workload_makes_up_do_not_flood_the_ca() {
    let mut scene = scene(Duration::from_secs(300)).await;
    let first = scene.fetch("0").await.unwrap();
    for number in 1..JWT_ASKS_PER_ENTRY_MAX {
        scene.fetch(&number.to_string()).await.unwrap();
    }
    scene.refused("more", Code::Unavailable, "fewer audiences").await;
    assert_eq!(
        scene.minter(|minter| minter.asked.len()),
        JWT_ASKS_PER_ENTRY_MAX as usize
    );
    assert_eq!(
        scene.fetch("0").await.unwrap(),
        first,
        "what is kept is handed out all the same"
    );
    scene.agent.stop().await;
}
