//! What is done after a delivered folder has changed, and the proof that the server really serves the new certificate: real
//! programs of others, real signals, real handshakes.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::{fs, path::Path, process::Command};

use mintage_proto::v1::{Entry, revoke_request::Target};
use mintage_tests::kit::{
    ca::apply,
    node::Node,
    peers::peer,
    proxies::{Proxy, free_port, served_serial},
};

/// How often hooks have succeeded, by the agent's log.
fn successes(log: &str) -> usize {
    log.matches("hooks succeeded").count()
}

#[tokio::test(flavor = "multi_thread")]
async fn nginx_is_told_by_a_signal_and_the_agent_sees_that_it_serves_the_new_certificate() {
    let front = tempfile::tempdir().unwrap();
    let port = free_port();
    let (pid_file, facts) = (front.path().join("nginx.pid"), front.path().join("facts"));
    let script = format!("env | grep ^MINTAGE > {}", facts.display());
    let more = format!(
        "effect = {{ address = '127.0.0.1:{port}', within_s = 20 }}\n\
         [[delivery.hook]]\nsignal = 'HUP'\npid_file = {pid_file:?}\n\
         [[delivery.hook]]\ncommand = ['/bin/sh', '-c', {script:?}]\n"
    );
    let mut node = Node::start(&["web"], &more).await;
    // The server has not started: that is told, and what is delivered stays.
    let log = node
        .agent
        .wait_for_log("a failed hook", |log| log.contains("nginx.pid"));
    assert!(
        log.contains("stage=\"hook\"") || log.contains("\"stage\":\"hook\""),
        "{log}"
    );
    assert_eq!(successes(&log), 0);
    let folder = node.place.join("web");
    let Some(nginx) = Proxy::nginx_from(front.path(), &folder, port) else {
        return;
    };
    // The agent tries again by itself.
    node.agent.wait_for_log("a success", |log| successes(log) == 1);
    let first = node.pair("web");
    assert_eq!(served_serial(port), first.serial());

    node.revoke(Target::Serial(first.serial())).await;
    let second = node.after("web", &first);
    node.agent.wait_for_log("a second success", |log| successes(log) == 2);
    nginx.has_one_worker().await;
    assert_eq!(served_serial(port), second.serial());
    let told = fs::read_to_string(&facts).unwrap();
    for fact in [
        "MINTAGE_ENTRY=web".to_owned(),
        format!("MINTAGE_SERIAL={}", second.serial()),
        format!("MINTAGE_DIRECTORY={}", folder.display()),
        "MINTAGE_SPIFFE_ID=spiffe://dev.test/web".to_owned(),
    ] {
        assert!(told.lines().any(|line| line == fact), "{fact}: {told}");
    }
    node.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_was_not_told_is_found_out() {
    let front = tempfile::tempdir().unwrap();
    let port = free_port();
    let more = format!("effect = {{ address = '127.0.0.1:{port}', within_s = 1 }}\n");
    let mut node = Node::start(&["web"], &more).await;
    let folder = node.place.join("web");
    let Some(nginx) = Proxy::nginx_from(front.path(), &folder, port) else {
        return;
    };
    node.agent.wait_for_log("a success", |log| successes(log) == 1);
    let first = node.pair("web");
    node.revoke(Target::Serial(first.serial())).await;
    let second = node.after("web", &first);
    let word = format!(
        "serves serial {} instead of the new serial {}",
        first.serial(),
        second.serial()
    );
    node.agent.wait_for_log("the finding", |log| log.contains(&word));
    // Somebody else tells the server, and the next look sees it.
    nginx.hang_up();
    node.agent.wait_for_log("a second success", |log| successes(log) == 2);
    nginx.has_one_worker().await;
    assert_eq!(served_serial(port), second.serial());
    node.stop();
}

/// Whether a server on this port answers somebody who shows no certificate, by curl.
fn answers_anybody(port: u16) -> bool {
    let Some(curl) = peer("curl") else { return false };
    let mut curl = Command::new(curl);
    curl.args(["--silent", "--insecure", &format!("https://127.0.0.1:{port}/")]);
    curl.output().unwrap().status.success()
}

/// A delivery of `front` for HAProxy, told through its admin socket.
fn for_haproxy(front: &Path, port: u16) -> String {
    let uid = rustix::process::geteuid().as_raw();
    format!(
        "[[delivery]]\nentry = 'front'\ndirectory = {:?}\nowner = {uid}\ngroup = {uid}\nlayout = 'haproxy'\n\
         effect = {{ address = '127.0.0.1:{port}' }}\n[[delivery.hook]]\nhaproxy = {:?}\n",
        front.join("web"),
        front.join("admin.sock")
    )
}

async fn front_entry(node: &Node, dns_names: &[&str]) {
    let entry = Entry {
        name: "front".to_owned(),
        spiffe_id: "spiffe://dev.test/front".to_owned(),
        agents: vec!["spiffe://dev.test/mintage/agent/*".to_owned()],
        selectors: vec![format!("unix:uid:{}", rustix::process::geteuid().as_raw())],
        dns_names: dns_names.iter().map(|name| (*name).to_owned()).collect(),
        ..Entry::default()
    };
    apply(&node.ca.admin_socket(), vec![entry]).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn haproxy_takes_certificates_on_its_admin_socket_without_a_reload_and_goes_on_asking_for_clients() {
    let front = tempfile::tempdir().unwrap();
    let port = free_port();
    let mut node = Node::start(&["db"], &for_haproxy(front.path(), port)).await;
    front_entry(&node, &["front.example"]).await;
    let file = front.path().join("web/haproxy.pem");
    node.agent.wait_for("a delivery", || file.exists().then_some(()));
    let Some(haproxy) = Proxy::haproxy(front.path(), port) else {
        return;
    };
    node.agent.wait_for_log("a success", |log| successes(log) >= 1);
    let client = node.pair("db");
    for _ in 0..3 {
        let answer = client.get(port).await;
        let answer = answer.unwrap_or_else(|error| panic!("{error}: {}", haproxy.log()));
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
        assert!(!answers_anybody(port), "a client without a certificate");
        let before = served_serial(port);
        node.revoke(Target::Serial(before.clone())).await;
        node.agent.wait_for("another certificate to be served", || {
            (served_serial(port) != before).then_some(())
        });
    }
    assert!(client.get(port).await.is_ok() && !answers_anybody(port));
    assert_eq!(haproxy.log(), "", "nothing was reloaded or complained about");
    node.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn haproxy_is_not_given_a_certificate_without_a_name_with_which_it_would_answer_anybody() {
    let front = tempfile::tempdir().unwrap();
    let port = free_port();
    let mut node = Node::start(&["db"], &for_haproxy(front.path(), port)).await;
    front_entry(&node, &[]).await;
    let file = front.path().join("web/haproxy.pem");
    node.agent.wait_for("a delivery", || file.exists().then_some(()));
    let Some(haproxy) = Proxy::haproxy(front.path(), port) else {
        return;
    };
    let before = served_serial(port);
    node.revoke(Target::Serial(before.clone())).await;
    let log = node
        .agent
        .wait_for_log("the refusal", |log| log.contains("without a DNS name"));
    assert_eq!(successes(&log), 0);
    assert_eq!(served_serial(port), before);
    assert!(!answers_anybody(port), "{}", haproxy.log());
    node.stop();
}
