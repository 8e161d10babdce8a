//! What is done after a delivered folder has changed, and the proof that the server really serves the new certificate: real
//! programs of others, real signals, real handshakes.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::{fs, path::Path};

use mintage_proto::v1::revoke_request::Target;
use mintage_tests::kit::{
    node::Node,
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
    let Some(_nginx) = Proxy::nginx_from(front.path(), &folder, port) else {
        return;
    };
    // The agent tries again by itself.
    node.agent.wait_for_log("a success", |log| successes(log) == 1);
    let first = node.pair("web");
    assert_eq!(served_serial(port), first.serial());

    node.revoke(Target::Serial(first.serial())).await;
    let second = node.after("web", &first);
    node.agent.wait_for_log("a second success", |log| successes(log) == 2);
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
    assert_eq!(served_serial(port), second.serial());
    node.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn haproxy_takes_a_certificate_on_its_admin_socket_without_a_reload() {
    let front = tempfile::tempdir().unwrap();
    let port = free_port();
    let (directory, socket) = (front.path().join("web"), front.path().join("admin.sock"));
    let uid = rustix::process::geteuid().as_raw();
    let more = format!(
        "[[delivery]]\nentry = 'web'\ndirectory = {directory:?}\nowner = {uid}\ngroup = {uid}\nlayout = 'haproxy'\n\
         effect = {{ address = '127.0.0.1:{port}' }}\n[[delivery.hook]]\nhaproxy = {socket:?}\n"
    );
    let mut node = Node::start(&["db", "web"], &more).await;
    let Some(haproxy) = Proxy::haproxy(front.path(), port) else {
        return;
    };
    node.agent.wait_for_log("a success", |log| successes(log) >= 1);
    let client = node.pair("db");
    let answer = client
        .get(port)
        .await
        .unwrap_or_else(|error| panic!("{error}: {}", haproxy.log()));
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");

    let before = served_serial(port);
    node.revoke(Target::Serial(before.clone())).await;
    let of_folder = |folder: &Path| -> String {
        let text = fs::read_to_string(folder.join("haproxy.pem")).unwrap();
        let chain = mintage_svid::pem::decode_certificates(&text[..text.find("-----BEGIN PRIVATE").unwrap()]).unwrap();
        mintage_svid::LeafInfo::parse(&chain[0]).unwrap().serial().to_string()
    };
    node.agent.wait_for("another certificate", || {
        (of_folder(&directory) != before).then_some(())
    });
    let now = of_folder(&directory);
    node.agent
        .wait_for("it to be served", || (served_serial(port) == now).then_some(()));
    assert_eq!(haproxy.log(), "", "nothing was reloaded or complained about");
    node.stop();
}
