//! nginx, which asks the agent about each request's client certificate: it accepts the good one, refuses the revoked one, and
//! accepts the one after it, without a reload and without a list.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::{fs, time::Instant};

use mintage_proto::v1::revoke_request::Target;
use mintage_tests::kit::{
    node::{Node, until},
    proxies::{Proxy, free_port},
};

#[tokio::test(flavor = "multi_thread")]
async fn nginx_refuses_a_revoked_client_by_asking_the_agent() {
    let mut node = Node::start(&["web", "db"], "").await;
    let folder = node.beside("nginx");
    node.pair("web").write(&folder);
    let Some(nginx) = Proxy::nginx(&folder, &node.socket()) else {
        return;
    };
    let port = nginx.ports[0];
    let client = node.pair("db");
    let is = async |pair: &mintage_tests::kit::node::Pair, code: &str| {
        let answer = pair
            .get(port)
            .await
            .unwrap_or_else(|error| panic!("{error}: {}", nginx.log()));
        answer.starts_with(&format!("HTTP/1.1 {code} "))
    };
    until(Instant::now(), "the agent's first set", async || {
        is(&client, "200").await
    })
    .await;

    let accepted = node.revoke(Target::Serial(client.serial())).await;
    let latency = until(accepted, "the refusal", async || is(&client, "403").await).await;
    println!(
        "nginx refuses {:.1} ms after the reply to the command to revoke",
        latency.as_secs_f64() * 1e3
    );
    for _ in 0..3 {
        assert!(is(&client, "403").await, "it stays refused");
    }
    let next = node.after("db", &client);
    assert!(is(&next, "200").await, "{}", nginx.log());

    // Without the agent nobody passes.
    let Node { ca, agent, .. } = node;
    assert_eq!(agent.stop(), Some(0));
    assert!(is(&next, "500").await, "{}", nginx.log());
    assert_eq!(ca.stop(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn nginx_with_lists_refuses_a_revoked_client_once_the_hook_has_told_it() {
    let front = tempfile::tempdir().unwrap();
    let port = free_port();
    let hook = format!(
        "crl = true\neffect = {{ address = '127.0.0.1:{port}', within_s = 20 }}\n\
         [[delivery.hook]]\nsignal = 'HUP'\npid_file = {:?}\n",
        front.path().join("nginx.pid")
    );
    let mut node = Node::start(&["db", "web"], &hook).await;
    let folder = node.place.join("web");
    let lists = folder.join("svid_crl.pem");
    node.agent.wait_for("the lists of root and intermediate", || {
        let text = fs::read_to_string(&lists).ok()?;
        (text.matches("BEGIN X509 CRL").count() == 2).then_some(())
    });
    let Some(nginx) = Proxy::nginx_by("crl.conf", front.path(), &folder, port) else {
        return;
    };
    let is = async |pair: &mintage_tests::kit::node::Pair, code: &str| {
        let answer = pair.get(port).await;
        answer.is_ok_and(|answer| answer.starts_with(&format!("HTTP/1.1 {code} ")))
    };
    let client = node.pair("db");
    until(Instant::now(), "the first answer", async || is(&client, "200").await).await;

    let accepted = node.revoke(Target::Serial(client.serial())).await;
    let first = until(accepted, "the refusal", async || is(&client, "400").await).await;
    nginx.has_one_worker().await;
    println!(
        "nginx with lists refuses {:.0} ms after the reply to the command to revoke, everywhere after {:.0} ms",
        first.as_secs_f64() * 1e3,
        accepted.elapsed().as_secs_f64() * 1e3
    );
    for _ in 0..3 {
        let answer = client.get(port).await;
        let refused = answer.as_ref().is_ok_and(|answer| answer.starts_with("HTTP/1.1 400 "));
        assert!(refused, "it stays refused, not {answer:?}: {}", nginx.log());
    }
    let next = node.after("db", &client);
    assert!(is(&next, "200").await, "{}", nginx.log());
    node.stop();
}
