//! The CA over its real wire: joining, racing for a token, asking, being refused, and what its ledger then holds.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::{collections::BTreeSet, time::Duration};

use mintage_identity::Serial;
use mintage_proto::v1::{
    Ask, MintResult, RevokeRequest, SearchRequest, ledger_client::LedgerClient, revocation_client::RevocationClient,
    revoke_request::Target,
};
use mintage_svid::LeafInfo;
use mintage_tests::kit::{
    ca::TestCa,
    client::{self, admin, join, join_with, key_and_csr},
    inventory::issued,
    stream::{Stream, ask, ask_with, code},
};
use tonic::Code;

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_joins_asks_and_gets_only_what_its_entries_allow() {
    let ca = TestCa::start().await;
    ca.entry("web", "/web").await;
    let agent = join(&ca.token("n1").await).await.unwrap();
    let mut stream = Stream::open(&agent, &ca.ca.address().to_string()).await.unwrap();
    stream.ask(vec![ask("web"), ask("nothing"), ask("")]).await.unwrap();
    let results = stream.minted().await.unwrap();
    let leaf = LeafInfo::parse(&results[0].leaf).unwrap();
    assert_eq!(leaf.id().as_str(), "spiffe://dev.test/web");
    assert!(leaf.serial().is_native());
    assert_eq!(code(&results[1]), "entry-unknown");
    assert_eq!(
        LeafInfo::parse(&results[2].leaf).unwrap().id().as_str(),
        "spiffe://dev.test/mintage/agent/n1"
    );
    let mut ledger = LedgerClient::new(admin(ca.ca.admin_socket()).await.unwrap());
    let search = SearchRequest {
        serial: leaf.serial().to_string(),
        ..SearchRequest::default()
    };
    let found = ledger.search(search).await.unwrap().into_inner().records;
    assert_eq!(
        (found.len(), found[0].state.as_str(), found[0].entry.as_str()),
        (1, "live", "web")
    );
    assert_eq!(found[0].index, results[0].receipt.as_ref().unwrap().index);
    ca.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_reply_asked_again_is_the_same_certificate_and_another_key_is_refused() {
    let ca = TestCa::start().await;
    ca.entry("web", "/web").await;
    let agent = join(&ca.token("n1").await).await.unwrap();
    let mut stream = Stream::open(&agent, &ca.ca.address().to_string()).await.unwrap();
    let first = ask("web");
    let one = stream.ask_one(first.clone()).await.unwrap();
    assert_eq!(stream.ask_one(first.clone()).await.unwrap().leaf, one.leaf);
    let other_key = Ask {
        csr: key_and_csr().1,
        ..first.clone()
    };
    assert_eq!(code(&stream.ask_one(other_key).await.unwrap()), "request-id-reused");
    let other_id = ask_with("web", first.csr);
    assert_eq!(code(&stream.ask_one(other_id).await.unwrap()), "key-reused");
    ca.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sixty_four_racers_with_one_token_make_one_agent() {
    let ca = TestCa::start().await;
    let token = ca.token("n1").await;
    let racers = (0..64).map(|_| {
        let token = token.clone();
        tokio::spawn(async move { join(&token).await })
    });
    let outcomes = futures_util::future::join_all(racers).await;
    let (won, lost): (Vec<_>, Vec<_>) = outcomes.into_iter().map(Result::unwrap).partition(Result::is_ok);
    assert_eq!(won.len(), 1, "one racer wins");
    let refusals: BTreeSet<_> = lost
        .into_iter()
        .map(|refused| {
            refused
                .err()
                .map(|status| (status.code() as i32, status.message().to_owned()))
        })
        .collect();
    assert_eq!(refusals.len(), 1, "every loser hears the same: {refusals:?}");
    assert_eq!(
        refusals.first().unwrap().as_ref().unwrap().0,
        Code::Unauthenticated as i32
    );
    let agents = client::registry(ca.ca.admin_socket()).await;
    let list = { agents }
        .list_agents(mintage_proto::v1::ListAgentsRequest::default())
        .await
        .unwrap()
        .into_inner();
    assert_eq!(list.agents.len(), 1);
    ca.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_key_may_ask_again_after_a_lost_join_reply() {
    let ca = TestCa::start().await;
    let token = ca.token("n1").await;
    let (_, csr) = key_and_csr();
    let one = join_with(&token, csr.clone()).await.unwrap();
    let two = join_with(&token, csr).await.unwrap();
    assert_eq!(one.instance, two.instance);
    assert_eq!(
        join_with(&token, key_and_csr().1).await.unwrap_err().code(),
        Code::Unauthenticated
    );
    ca.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_banned_agent_is_cut_off_and_what_it_obtained_is_revoked() {
    let ca = TestCa::start().await;
    ca.entry("web", "/web").await;
    let agent = join(&ca.token("n1").await).await.unwrap();
    let address = ca.ca.address().to_string();
    let mut stream = Stream::open(&agent, &address).await.unwrap();
    let minted = stream.ask_one(ask("web")).await.unwrap();
    let serial = *LeafInfo::parse(&minted.leaf).unwrap().serial();
    let mut revocation = RevocationClient::new(admin(ca.ca.admin_socket()).await.unwrap());
    let request = RevokeRequest {
        target: Some(Target::Agent("n1".to_owned())),
        reason: "key-compromise".to_owned(),
        ..RevokeRequest::default()
    };
    let struck = revocation.revoke(request).await.unwrap().into_inner();
    assert!(struck.serials.contains(&serial.to_string()), "{struck:?}");
    let ended = tokio::time::timeout(Duration::from_secs(10), async {
        while stream.minted().await.is_ok() {}
    });
    ended.await.expect("the banned agent's stream ends");
    assert!(
        Stream::open(&agent, &address).await.is_err(),
        "a banned agent does not come back"
    );
    assert_eq!(state_of(&ca, &serial).await, "revoked");
    ca.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_whose_own_certificate_is_revoked_is_served_nothing_more_on_its_open_stream() {
    let ca = TestCa::start().await;
    ca.entry("web", "/web").await;
    let address = ca.ca.address().to_string();
    let (agent, other) = (
        join(&ca.token("n1").await).await.unwrap(),
        join(&ca.token("n2").await).await.unwrap(),
    );
    let mut stream = Stream::open(&agent, &address).await.unwrap();
    let mut beside = Stream::open(&other, &address).await.unwrap();
    stream.ask_one(ask("web")).await.unwrap();
    let serial = *LeafInfo::parse(&agent.chain[0]).unwrap().serial();
    let mut revocation = RevocationClient::new(admin(ca.ca.admin_socket()).await.unwrap());
    let request = RevokeRequest {
        target: Some(Target::Serial(serial.to_string())),
        no_renew: true,
        ..RevokeRequest::default()
    };
    revocation.revoke(request).await.unwrap();
    assert!(
        stream.ask_one(ask("web")).await.is_err(),
        "the reply to the revocation came before"
    );
    beside.ask_one(ask("web")).await.unwrap();
    assert!(Stream::open(&agent, &address).await.is_err());
    ca.stop().await;
}

async fn state_of(ca: &TestCa, serial: &Serial) -> String {
    let mut ledger = LedgerClient::new(admin(ca.ca.admin_socket()).await.unwrap());
    let search = SearchRequest {
        serial: serial.to_string(),
        kinds: vec!["issue".to_owned()],
        ..SearchRequest::default()
    };
    ledger
        .search(search)
        .await
        .unwrap()
        .into_inner()
        .records
        .remove(0)
        .state
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revoked_identity_lives_again_in_its_replacement_alone() {
    let ca = TestCa::start().await;
    ca.entry("web", "/web").await;
    let agent = join(&ca.token("n1").await).await.unwrap();
    let mut stream = Stream::open(&agent, &ca.ca.address().to_string()).await.unwrap();
    let minted = stream.ask_one(ask("web")).await.unwrap();
    let old = *LeafInfo::parse(&minted.leaf).unwrap().serial();
    let mut revocation = RevocationClient::new(admin(ca.ca.admin_socket()).await.unwrap());
    let target = Some(Target::SpiffeId("spiffe://dev.test/web".to_owned()));
    let dry = RevokeRequest {
        target: target.clone(),
        dry_run: true,
        ..RevokeRequest::default()
    };
    assert_eq!(revocation.revoke(dry).await.unwrap().into_inner().sequence, 0);
    assert_eq!(state_of(&ca, &old).await, "live");
    revocation
        .revoke(RevokeRequest {
            target,
            ..RevokeRequest::default()
        })
        .await
        .unwrap();
    let minted = stream.ask_one(ask("web")).await.unwrap();
    let new = LeafInfo::parse(&minted.leaf).unwrap();
    assert_eq!(
        (
            state_of(&ca, &old).await.as_str(),
            state_of(&ca, new.serial()).await.as_str()
        ),
        ("revoked", "live")
    );
    ca.stop().await;
}

/// Asks behind the contested one, in the batch of whoever takes long to be judged.
const FILLERS: usize = 63;
/// Rounds of two identities racing for one key.
const KEY_RACES: usize = 24;

#[tokio::test(flavor = "multi_thread")]
async fn streams_that_race_with_one_key_bring_it_under_one_identity_at_most() {
    let ca = TestCa::start().await;
    for name in ["web", "db", "filler"] {
        ca.entry(name, &format!("/{name}")).await;
    }
    let address = ca.ca.address().to_string();
    let mut streams = Vec::new();
    for name in ["n1", "n2", "n3"] {
        let agent = join(&ca.token(name).await).await.unwrap();
        streams.push(Stream::open(&agent, &address).await.unwrap());
    }
    let mut slow = streams.remove(0);
    for round in 0..KEY_RACES {
        let csr = key_and_csr().1;
        // Judged first and recorded long after, for all of its batch is judged in between: long enough for another
        // stream to take the same key from its ask to its record.
        let fillers = (0..FILLERS).map(|_| ask("filler"));
        let asks = std::iter::once(ask_with("db", csr.clone())).chain(fillers);
        slow.ask(asks.collect()).await.unwrap();
        let rivals = streams.iter_mut().map(|stream| {
            let rival = ask_with("web", csr.clone());
            async move {
                // Every other round starts a little into the long batch.
                if round % 2 == 1 {
                    stream.ask_one(ask("filler")).await.unwrap();
                }
                stream.ask_one(rival).await.unwrap()
            }
        });
        let mut results = futures_util::future::join_all(rivals).await;
        results.push(slow.minted().await.unwrap().swap_remove(0));
        let leaves = results.iter().filter(|result| !result.leaf.is_empty());
        let ids: BTreeSet<_> = leaves
            .map(|result| LeafInfo::parse(&result.leaf).unwrap().id().to_string())
            .collect();
        assert_eq!(ids.len(), 1, "round {round}: one key under {ids:?}");
    }
    // What was handed out is what stands: no certificate of the other identity hides in the ledger.
    let (web, db) = (
        issued(ca.ca.admin_socket(), "web").await,
        issued(ca.ca.admin_socket(), "db").await,
    );
    assert_eq!(web.len() + db.len(), KEY_RACES, "{web:?} {db:?}");
    ca.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_key_twice_in_one_message_is_one_certificate_and_one_ask_for_later() {
    let ca = TestCa::start().await;
    ca.entry("web", "/web").await;
    let agent = join(&ca.token("n1").await).await.unwrap();
    let mut stream = Stream::open(&agent, &ca.ca.address().to_string()).await.unwrap();
    let csr = key_and_csr().1;
    let asks = [ask_with("web", csr.clone()), ask_with("web", csr)];
    stream.ask(asks.to_vec()).await.unwrap();
    let results = stream.minted().await.unwrap();
    assert_eq!((code(&results[0]), code(&results[1])), ("", "key-in-flight"));
    let refusal = results[1].refusal.as_ref().unwrap();
    assert_eq!((refusal.grpc_code, refusal.retry), (Code::Unavailable as u32, true));
    assert!(refusal.message.contains("ask again"), "{}", refusal.message);
    let [first, second] = asks;
    assert_eq!(stream.ask_one(first).await.unwrap().leaf, results[0].leaf);
    assert_eq!(code(&stream.ask_one(second).await.unwrap()), "key-reused");
    assert_eq!(issued(ca.ca.admin_socket(), "web").await.len(), 1);
    ca.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_request_id_for_two_keys_in_one_message_is_one_certificate() {
    let ca = TestCa::start().await;
    ca.entry("web", "/web").await;
    let agent = join(&ca.token("n1").await).await.unwrap();
    let mut stream = Stream::open(&agent, &ca.ca.address().to_string()).await.unwrap();
    let first = ask("web");
    let second = Ask {
        csr: key_and_csr().1,
        ..first.clone()
    };
    stream.ask(vec![first.clone(), second.clone()]).await.unwrap();
    let results = stream.minted().await.unwrap();
    assert_eq!((code(&results[0]), code(&results[1])), ("", "request-in-flight"));
    assert!(results[1].refusal.as_ref().unwrap().retry);
    // Once the first is recorded, the request is told to be used up.
    assert_eq!(code(&stream.ask_one(second).await.unwrap()), "request-id-reused");
    assert_eq!(stream.ask_one(first).await.unwrap().leaf, results[0].leaf);
    assert_eq!(issued(ca.ca.admin_socket(), "web").await.len(), 1);
    ca.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_never_hears_of_its_renewals_is_not_locked_out() {
    let ca = TestCa::start().await;
    let agent = join(&ca.token("n1").await).await.unwrap();
    let address = ca.ca.address().to_string();
    let mut renewed = BTreeSet::new();
    // Each connection is made with the first certificate, as by an agent that was killed before it stored the answer.
    for round in 0..6 {
        let mut stream = Stream::open(&agent, &address).await.unwrap();
        let result = stream.ask_one(ask("")).await.unwrap();
        assert_eq!(code(&result), "", "round {round}");
        renewed.insert(*LeafInfo::parse(&result.leaf).unwrap().serial());
    }
    assert_eq!(renewed.len(), 6);
    ca.stop().await;
}

/// Asks until there is an answer that is no invitation to ask again; how often it was invited, and the answer.
async fn ask_until_answered(stream: &mut Stream, ask: &Ask) -> (usize, MintResult) {
    let mut again = 0;
    loop {
        let result = stream.ask_one(ask.clone()).await.unwrap();
        match code(&result) {
            "key-in-flight" => again += 1,
            _ => return (again, result),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_ask_on_several_streams_at_once_is_one_certificate_for_all() {
    let ca = TestCa::start().await;
    ca.entry("web", "/web").await;
    let agent = join(&ca.token("n1").await).await.unwrap();
    let address = ca.ca.address().to_string();
    let mut streams = Vec::new();
    for _ in 0..4 {
        streams.push(Stream::open(&agent, &address).await.unwrap());
    }
    let (mut invited, mut rounds) = (0, 0);
    // Until the race was seen to happen; each round has its own ask.
    while invited == 0 || rounds < 8 {
        assert!(rounds < 500, "no two streams ever met");
        rounds += 1;
        let same = ask("web");
        let answers = streams.iter_mut().map(|stream| ask_until_answered(stream, &same));
        let answers = futures_util::future::join_all(answers).await;
        let serials: BTreeSet<_> = answers
            .iter()
            .map(|(_, result)| LeafInfo::parse(&result.leaf).unwrap().serial().to_string())
            .collect();
        assert_eq!(serials.len(), 1, "round {rounds}: {serials:?}");
        invited += answers.iter().map(|(again, _)| again).sum::<usize>();
        let id = hex::encode(&same.request_id);
        let mut records = issued(ca.ca.admin_socket(), "web").await;
        records.retain(|record| record.request_id.replace('-', "") == id);
        assert_eq!(records.len(), 1, "{records:?}");
    }
    ca.stop().await;
}
