//! The life of an agent against a CA that answers, loses answers, goes away, asks for renewal and retires.

use std::{
    os::unix::fs::PermissionsExt,
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
    time::{Duration, Instant},
};

use mintage_agent::{AgentError, AgentEvent};
use mintage_identity::CertHash;
use mintage_proto::v1::{Retire, ca_message::Message};

use crate::support::{
    self, FakeCa,
    agent::{Node, read_generation, until},
    entry,
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn joins_delivers_and_restarts_without_token_and_without_ca() {
    let ca = FakeCa::start(vec![entry("web", "/web"), entry("db", "/db")]).await;
    let node = Node::new();
    let mut agent = node.start(node.config(&["web", "db"]), Some(ca.token()));
    let (web, _) = agent.delivered("web").await;
    until("both pairs", || read_generation(&node.folder("db")).is_some()).await;
    let pair = node.read("web");
    assert!(pair.matches());
    assert_eq!(
        (pair.serial(), pair.leaf().id().as_str()),
        (web, "spiffe://dev.test/web")
    );
    assert_eq!((pair.chain.len(), pair.roots.len()), (2, 1));
    let mode = |file: &str| {
        std::fs::metadata(node.folder("web").join(file))
            .unwrap()
            .permissions()
            .mode()
            & 0o777
    };
    assert_eq!(
        (
            mode("svid_key.pem"),
            mode("svid.pem"),
            mode("svid_credential_bundle.pem")
        ),
        (0o600, 0o644, 0o600)
    );
    agent.stop().await;

    ca.down();
    std::fs::remove_dir_all(node.folder("web")).unwrap();
    let mut agent = node.start(node.config(&["web", "db"]), None);
    agent.delivered("web").await;
    assert_eq!(node.read("web"), pair, "the same pair, from the agent's own disk");
    let status = agent.handle.status().await.unwrap();
    assert!(
        !status.connected && status.deliveries.iter().all(|delivery| delivery.serving),
        "{status:?}"
    );
    assert!(status.not_ready_because().is_empty());
    ca.up().await;
    agent.connected().await;
    assert_eq!(ca.seen().attests.len(), 1, "no token is needed again");
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_entry_that_changed_while_the_agent_was_down_is_delivered_anew() {
    let ca = FakeCa::start(vec![entry("web", "/web")]).await;
    let node = Node::new();
    let mut agent = node.start(node.config(&["web"]), Some(ca.token()));
    agent.delivered("web").await;
    agent.stop().await;
    ca.script().entries = vec![entry("web", "/other")];
    let agent = node.start(node.config(&["web"]), None);
    until("the new identity", || {
        node.read("web").leaf().id().as_str() == "spiffe://dev.test/other"
    })
    .await;
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_without_identity_and_token_is_told_what_to_do() {
    let node = Node::new();
    let error = node.try_start(node.config(&[]), None).err().unwrap();
    assert!(
        matches!(error, AgentError::NotJoined) && error.to_string().contains("--join-token-file"),
        "{error}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_attest_answer_is_asked_again_with_the_same_key_even_after_a_crash() {
    let ca = FakeCa::start(vec![entry("web", "/web")]).await;
    ca.script().lose_attest = 1;
    let node = Node::new();
    let mut agent = node.start(node.config(&["web"]), Some(ca.token()));
    agent.problem("join").await;
    // As if it had been killed before its second try.
    agent.stop().await;
    let mut agent = node.start(node.config(&["web"]), Some(ca.token()));
    agent.delivered("web").await;
    let attests = ca.seen().attests.clone();
    assert!(
        attests.len() >= 2 && attests.windows(2).all(|w| w[0] == w[1]),
        "{attests:?}"
    );
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_mint_answer_is_asked_again_with_the_same_id_and_key_and_the_next_renewal_has_new_ones() {
    let ca = FakeCa::start(vec![entry("web", "/web")]).await;
    ca.script().break_at_mint = 1;
    let node = Node::new();
    let mut agent = node.start(node.config(&["web"]), Some(ca.token()));
    let (first, _) = agent.delivered("web").await;
    let asks = ca.asks_for("web");
    assert_eq!(asks.len(), 2, "{asks:?}");
    assert_eq!(asks[0], asks[1]);
    ca.renew(&["web"]);
    let (second, _) = agent.delivered("web").await;
    let asks = ca.asks_for("web");
    assert_ne!(first, second);
    assert!(asks[2].request_id != asks[1].request_id && asks[2].spki != asks[1].spki);
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rotation_by_time_never_shows_a_mismatched_pair_and_makes_a_new_key_each_time() {
    let ca = FakeCa::start(vec![entry("web", "/web")]).await;
    ca.script().svid_ttl = Duration::from_secs(4);
    let node = Node::new();
    let mut agent = node.start(node.config(&["web"]), Some(ca.token()));
    agent.delivered("web").await;
    let (stop, reads) = (AtomicBool::new(false), AtomicUsize::new(0));
    let folder = node.folder("web");
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                // A reader that took the pointer just before a second swap may find nothing, and reads again.
                if let Some(pair) = read_generation(&folder) {
                    assert!(pair.matches(), "a mismatched pair");
                    reads.fetch_add(1, Ordering::Relaxed);
                }
            }
        });
        tokio::task::block_in_place(|| {
            tokio::runtime::Handle::current().block_on(async {
                for _ in 0..3 {
                    agent.delivered("web").await;
                }
            });
        });
        stop.store(true, Ordering::Relaxed);
    });
    assert!(reads.load(Ordering::Relaxed) > 100);
    let asks = ca.asks_for("web");
    let keys: std::collections::HashSet<_> = asks.iter().map(|ask| &ask.spki).collect();
    assert_eq!(keys.len(), asks.len(), "a key is used once");
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_agents_own_certificate_is_renewed_and_the_stream_moves_to_it() {
    let ca = FakeCa::start(vec![entry("web", "/web")]).await;
    ca.script().agent_ttl = Duration::from_secs(6);
    let node = Node::new();
    let mut agent = node.start(node.config(&["web"]), Some(ca.token()));
    agent
        .event("renewal", |event| {
            matches!(event, AgentEvent::Renewed { .. }).then_some(())
        })
        .await;
    agent.connected().await;
    agent
        .event("second renewal", |event| {
            matches!(event, AgentEvent::Renewed { .. }).then_some(())
        })
        .await;
    assert!(ca.seen().rejoins.is_empty(), "it never ran out");
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_an_outage_longer_than_its_certificate_the_agent_rejoins_by_its_last_key() {
    let ca = FakeCa::start(vec![entry("web", "/web")]).await;
    ca.script().agent_ttl = Duration::from_secs(3);
    let node = Node::new();
    let mut agent = node.start(node.config(&["web"]), Some(ca.token()));
    agent.delivered("web").await;
    ca.down();
    agent.stop().await;
    tokio::time::sleep(Duration::from_secs(4)).await;
    let mut agent = node.start(node.config(&["web"]), None);
    agent.problem("connect").await;
    assert!(
        agent.handle.status().await.unwrap().deliveries[0].serving,
        "served through the outage"
    );
    ca.script().agent_ttl = Duration::from_secs(3600);
    ca.up().await;
    agent.connected().await;
    let rejoins = ca.seen().rejoins.len();
    let attests = ca.seen().attests.len();
    assert_eq!((rejoins, attests), (1, 1));
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refused_rejoin_ends_with_a_clear_error_once_nothing_is_served() {
    let ca = FakeCa::start(vec![entry("web", "/web")]).await;
    ca.script().agent_ttl = Duration::from_secs(2);
    let node = Node::new();
    let mut agent = node.start(node.config(&[]), Some(ca.token()));
    agent.connected().await;
    agent.stop().await;
    ca.script().no_agents = true;
    let agent = node.start(node.config(&[]), None);
    let error = tokio::time::timeout(support::agent::PATIENCE, agent.handle.stopped())
        .await
        .unwrap()
        .unwrap_err();
    assert!(matches!(*error, AgentError::NeedsToken(_)), "{error}");
    assert_eq!(error.exit_code(), 2);
    assert!(error.to_string().contains("--join-token-file"), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refused_token_ends_at_once_and_another_root_gets_no_secret() {
    let ca = FakeCa::start(vec![]).await;
    let node = Node::new();
    let mut agent = node.start(node.config(&[]), Some(ca.token_pinning(CertHash::new([9; 32]))));
    let said = agent.problem("join").await;
    assert!(said.contains("TLS"), "{said}");
    assert!(
        ca.seen().attests.is_empty(),
        "the secret goes only to a server under a pinned root"
    );
    agent.stop().await;

    let wrong = mintage_attest::join_token::JoinToken::new(
        vec![ca.address.to_string()],
        ca.token().root_hashes().to_vec(),
        support::domain(),
        zeroize::Zeroizing::new([1; 32]),
    );
    let agent = node.start(node.config(&[]), Some(wrong.unwrap()));
    let error = tokio::time::timeout(support::agent::PATIENCE, agent.handle.stopped())
        .await
        .unwrap()
        .unwrap_err();
    assert!(
        matches!(*error, AgentError::JoinRefused(_)) && error.exit_code() == 2,
        "{error}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn retired_entries_are_cleared_and_a_retired_agent_forgets_every_key() {
    let ca = FakeCa::start(vec![entry("web", "/web"), entry("db", "/db")]).await;
    let node = Node::new();
    let mut agent = node.start(node.config(&["web", "db"]), Some(ca.token()));
    until("both pairs", || {
        ["web", "db"].iter().all(|e| read_generation(&node.folder(e)).is_some())
    })
    .await;
    ca.push(Message::Retire(Retire {
        entries: vec!["web".to_owned()],
        agent: false,
        why: "test".to_owned(),
    }));
    agent
        .event("retirement", |event| {
            matches!(event, AgentEvent::Retired { .. }).then_some(())
        })
        .await;
    // The pointer goes first, and then what it pointed to.
    until("web to be cleared, keys and all", || {
        let left = std::fs::read_dir(node.folder("web")).unwrap();
        left.map(|file| file.unwrap().file_name()).eq([".mintage-delivery"])
    })
    .await;
    assert!(node.read("db").matches());

    ca.push(Message::Retire(Retire {
        entries: vec![],
        agent: true,
        why: "stolen".to_owned(),
    }));
    let error = tokio::time::timeout(support::agent::PATIENCE, agent.handle.stopped())
        .await
        .unwrap()
        .unwrap_err();
    assert!(matches!(&*error, AgentError::Retired(why) if why == "stolen") && error.exit_code() == 2);
    assert!(read_generation(&node.folder("db")).is_none());
    for file in ["agent.pem", "joining.pem", "state.json"] {
        assert!(!node.data().join(file).exists(), "{file}");
    }
    assert_eq!(std::fs::read_dir(node.data().join("deliveries")).unwrap().count(), 0);
    drop(agent);
    let again = node.try_start(node.config(&[]), None).err();
    assert!(matches!(again, Some(AgentError::NotJoined)), "{again:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unreachable_ca_is_tried_again_with_growing_waits_and_no_hot_loop() {
    let ca = FakeCa::start(vec![entry("web", "/web")]).await;
    let node = Node::new();
    let mut agent = node.start(node.config(&["web"]), Some(ca.token()));
    agent.delivered("web").await;
    ca.down();
    let (mut tries, from) = (0, Instant::now());
    while from.elapsed() < Duration::from_secs(4) {
        agent.problem("connect").await;
        tries += 1;
    }
    assert!((2..=16).contains(&tries), "{tries} tries in four seconds");
    ca.up().await;
    agent.connected().await;
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_clock_is_told_costs_no_hot_loop_and_mends_itself() {
    let ca = FakeCa::start(vec![entry("web", "/web")]).await;
    let node = Node::new();
    let mut agent = node.start(node.config(&["web"]), Some(ca.token()));
    agent.delivered("web").await;
    let before = ca.asks_for("web").len();
    node.clock.shift(3_600);
    let said = agent.problem("verify").await;
    assert!(said.contains("does not verify"), "{said}");
    assert!(node.read("web").matches(), "the old pair stays in place");
    tokio::time::sleep(Duration::from_secs(5)).await;
    let asks = ca.asks_for("web").len() - before;
    assert!(asks <= 8, "{asks} asks within seconds of a stepped clock");
    node.clock.shift(0);
    agent.delivered("web").await;
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_agent_on_the_same_data_directory_does_not_start() {
    let ca = FakeCa::start(vec![]).await;
    let node = Node::new();
    let agent = node.start(node.config(&[]), Some(ca.token()));
    let said = node
        .try_start(node.config(&[]), Some(ca.token()))
        .err()
        .unwrap()
        .to_string();
    assert!(said.contains("another process holds it"), "{said}");
    agent.stop().await;
}
