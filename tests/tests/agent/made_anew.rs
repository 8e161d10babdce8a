//! A CA that was made anew under the same trust domain: the nodes' agents join it again with empty data directories, and whoever
//! has the node's map open goes on without a restart.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::{fs, time::Instant};

use mintage_identity::IssuerKeyId;
use mintage_proto::v1::revoke_request::Target;
use mintage_revocation::{MapOwner, MapReader, Query, Verdict, Why};
use mintage_svid::CertInfo;
use mintage_tests::kit::{
    agent::AgentProcess,
    ca::{CaProcess, domain, entry, make, token},
    follower::now,
    node::{Node, Pair, until},
};

fn issuer(pair: &Pair) -> IssuerKeyId {
    CertInfo::parse(&pair.chain[1]).unwrap().key_id()
}

fn verdict(reader: &MapReader, pair: &Pair) -> Verdict {
    let leaf = pair.leaf();
    let query = Query {
        issuer: issuer(pair),
        serial: leaf.serial(),
        not_before: leaf.not_before(),
        not_after: leaf.not_after(),
        spiffe_id: Some(leaf.id()),
        spki_sha256: leaf.spki_sha256(),
    };
    reader.check(&query, now())
}

#[tokio::test(flavor = "multi_thread")]
async fn readers_of_the_nodes_map_follow_a_ca_that_was_made_anew() {
    let mut node = Node::start(&["web", "db"], "").await;
    let map = node.place.join("node.map");
    let (web, db) = (node.pair("web"), node.pair("db"));
    let reader = MapReader::open(&map, &domain(), MapOwner::RootOrSelf).unwrap();
    until(Instant::now(), "the first set", async || {
        verdict(&reader, &web) == Verdict::Good
    })
    .await;
    let revoked = Verdict::Revoked { why: Why::Serial };
    let accepted = node.revoke(Target::Serial(db.serial())).await;
    until(accepted, "the revocation", async || verdict(&reader, &db) == revoked).await;
    let former = reader.sequence();
    node.after("db", &db);

    let Node { ca, agent, place, .. } = node;
    assert_eq!((agent.stop(), ca.stop()), (Some(0), Some(0)));
    let data = place.join("another-ca");
    make(&data);
    let anew = CaProcess::start(&data, 0);
    for name in ["web", "db"] {
        entry(&anew.admin_socket(), name, &format!("/{name}")).await;
    }
    fs::remove_dir_all(place.join("agent")).unwrap();
    let token = token(&anew.admin_socket(), "n1").await;
    let mut agent = AgentProcess::start(&place, &place.join("agent.toml"), Some(&token));
    let next = agent.wait_for("a certificate of the other CA", || {
        let next = Pair::read(&place.join("web"))?;
        (issuer(&next) != issuer(&web)).then_some(next)
    });
    until(Instant::now(), "the other CA's set", async || {
        verdict(&reader, &next) == Verdict::Good
    })
    .await;
    assert!(reader.sequence() < former, "its ledger counts from the start");
    for gone in [&web, &db] {
        assert_eq!(verdict(&reader, gone), Verdict::NotCovered);
    }
    assert_eq!((agent.stop(), anew.stop()), (Some(0), Some(0)));
}
