//! What is done after a delivered folder has changed, and the proof that the server really serves the new certificate: real
//! programs of others, real signals, real handshakes.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::{fs, path::Path, process::Command};

use mintage_proto::v1::{Entry, revoke_request::Target};
use mintage_tests::kit::{
    ca::apply,
    node::{Node, Pair, until},
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
    for_haproxy_with(front, port, "")
}

fn for_haproxy_with(front: &Path, port: u16, more: &str) -> String {
    let uid = rustix::process::geteuid().as_raw();
    format!(
        "[[delivery]]\nentry = 'front'\ndirectory = {:?}\nowner = {uid}\ngroup = {uid}\nlayout = 'haproxy'\n{more}\
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

#[tokio::test(flavor = "multi_thread")]
async fn haproxy_takes_lists_on_its_admin_socket_and_refuses_the_revoked_without_a_reload() {
    let front = tempfile::tempdir().unwrap();
    let port = free_port();
    let mut node = Node::start(&["db", "other"], &for_haproxy_with(front.path(), port, "crl = true\n")).await;
    front_entry(&node, &["front.example"]).await;
    let lists = front.path().join("web/crl.pem");
    node.agent.wait_for("the lists of root and intermediate", || {
        let text = fs::read_to_string(&lists).ok()?;
        (text.matches("BEGIN X509 CRL").count() == 2).then_some(())
    });
    let programs = Path::new(env!("CARGO_TARGET_TMPDIR")).join("interop");
    fs::create_dir_all(&programs).unwrap();
    let Some(haproxy) = Proxy::haproxy_with_lists(&programs, front.path(), port) else {
        return;
    };
    node.agent.wait_for_log("a success", |log| successes(log) >= 1);
    let accepts = async |pair: &Pair| {
        let answer = pair.get(port).await;
        answer.is_ok_and(|answer| answer.starts_with("HTTP/1.1 200 "))
    };
    let (mut client, other) = (node.pair("db"), node.pair("other"));
    // Lists and certificate in turns: what the older version ends by.
    for _ in 0..3 {
        assert!(accepts(&client).await && accepts(&other).await, "{}", haproxy.log());
        let accepted = node.revoke(Target::Serial(client.serial())).await;
        let latency = until(accepted, "the refusal", async || !accepts(&client).await).await;
        println!(
            "HAProxy refuses {:.0} ms after the reply to the command to revoke",
            latency.as_secs_f64() * 1e3
        );
        assert!(accepts(&other).await, "the other one is good: {}", haproxy.log());
        let next = node.after("db", &client);
        assert!(accepts(&next).await, "the replacement: {}", haproxy.log());
        assert!(!accepts(&client).await && !answers_anybody(port), "it stays refused");
        client = next;
        let before = served_serial(port);
        node.revoke(Target::Serial(before.clone())).await;
        node.agent.wait_for("another certificate to be served", || {
            (served_serial(port) != before).then_some(())
        });
    }
    assert!(accepts(&client).await && !answers_anybody(port));
    assert_eq!(haproxy.log(), "", "nothing was reloaded or complained about");
    node.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn haproxy_that_would_end_by_lists_in_its_memory_is_given_none_and_the_log_says_so() {
    let front = tempfile::tempdir().unwrap();
    let port = free_port();
    let mut node = Node::start(&[], &for_haproxy_with(front.path(), port, "crl = true\n")).await;
    front_entry(&node, &["front.example"]).await;
    let lists = front.path().join("web/crl.pem");
    node.agent.wait_for("the lists", || lists.exists().then_some(()));
    let Some(haproxy) = Proxy::haproxy(front.path(), port) else {
        return;
    };
    let shown = Command::new(peer("haproxy").unwrap()).arg("-v").output().unwrap();
    let shown = String::from_utf8_lossy(&shown.stdout).into_owned();
    if !shown.contains("version 2.6.") {
        println!("the installed HAProxy takes lists: {shown}");
        return;
    }
    let before = served_serial(port);
    node.revoke(Target::Serial(before.clone())).await;
    let log = node
        .agent
        .wait_for_log("the refusal", |log| log.contains("use 2.8 or later"));
    assert_eq!(successes(&log), 0);
    assert_eq!(served_serial(port), before, "{}", haproxy.log());
    node.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn prometheus_is_told_by_http_and_what_it_answers_instead_is_told_and_tried_again() {
    let front = tempfile::tempdir().unwrap();
    let (port, missing) = (free_port(), front.path().join("missing"));
    let uid = rustix::process::geteuid().as_raw();
    let hook = |path: &str| format!("[[delivery.hook]]\nhttp = 'http://127.0.0.1:{port}/-/{path}'\ntimeout_s = 1\n");
    let more = hook("reload")
        + &format!("[[delivery]]\nentry = 'db'\ndirectory = {missing:?}\nowner = {uid}\ngroup = {uid}\n")
        + &hook("nothing");
    let mut node = Node::start(&["db", "web"], &more).await;
    let mut told = |what: &str, word: String| node.agent.wait_for_log(what, |log| log.contains(&word));
    told(
        "a refused connection",
        format!("POST http://127.0.0.1:{port}/-/reload: Connection refused"),
    );
    let scratch = front.path().join("prometheus");
    fs::create_dir(&scratch).unwrap();
    let Some(prometheus) = Proxy::prometheus_on(port, &scratch, &node.place.join("web"), free_port()) else {
        return;
    };
    told("a path that is none", "/-/nothing: it answered 404".to_owned());
    let log = node.agent.wait_for_log("a success", |log| successes(log) == 1);
    assert!(!log.contains("it answered 5"), "{log}");

    // Somebody who takes the connection and answers nothing.
    prometheus.pause();
    let first = node.pair("web");
    node.revoke(Target::Serial(first.serial())).await;
    let second = node.after("web", &first);
    let late = "it had not ended after 1 s";
    node.agent.wait_for_log("a hook that hangs", |log| log.contains(late));
    prometheus.go_on();
    node.agent.wait_for_log("a second success", |log| successes(log) == 2);

    // A server that cannot read its files says so.
    let file = scratch.join("prometheus.yml");
    let good = fs::read_to_string(&file).unwrap();
    fs::write(&file, "no: such\n").unwrap();
    node.revoke(Target::Serial(second.serial())).await;
    node.agent
        .wait_for_log("a refusal", |log| log.contains("/-/reload: it answered 500"));
    fs::write(&file, good).unwrap();
    node.agent.wait_for_log("a third success", |log| successes(log) == 3);
    drop(prometheus);
    node.stop();
}
