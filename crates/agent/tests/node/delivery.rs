//! What can go wrong between a certificate and its folder: each case keeps what was there, says why, and mends itself.

use std::{
    fs,
    os::unix::fs::{PermissionsExt, symlink},
    time::Duration,
};

use mintage_agent::{AgentEvent, Delivery, Layout};
use mintage_proto::v1::{Refusal, Trust, ca_message::Message};

use crate::support::{
    self, FakeCa,
    agent::{Node, Running, read_generation, until},
    entry,
};

async fn delivered_once() -> (FakeCa, Node, Running) {
    let ca = FakeCa::start(vec![entry("web", "/web")]).await;
    let node = Node::new();
    let mut agent = node.start(node.config(&["web"]), Some(ca.token()));
    agent.delivered("web").await;
    (ca, node, agent)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn output_dir_as_symlink_or_with_foreign_files_gets_nothing_and_health_says_why() {
    let ca = FakeCa::start(vec![entry("web", "/web"), entry("db", "/db")]).await;
    let node = Node::new();
    let elsewhere = node.temp.path().join("elsewhere");
    fs::create_dir(&elsewhere).unwrap();
    symlink(&elsewhere, node.folder("web")).unwrap();
    fs::create_dir(node.folder("db")).unwrap();
    fs::write(node.folder("db").join("precious"), "x").unwrap();
    let mut agent = node.start(node.config(&["web", "db"]), Some(ca.token()));
    let mut said = agent.problem("deliver").await;
    said.push_str(&agent.problem("deliver").await);
    assert!(said.contains("symbolic link") && said.contains("not empty"), "{said}");
    assert_eq!(fs::read_dir(&elsewhere).unwrap().count(), 0);
    assert_eq!(fs::read_dir(node.folder("db")).unwrap().count(), 1);
    let reasons = agent.handle.status().await.unwrap().not_ready_because().join("; ");
    assert!(
        reasons.contains("symbolic link") && reasons.contains("not empty"),
        "{reasons}"
    );
    // The certificate is there; only its folder was not. Once it is, no new one is needed.
    fs::remove_file(node.folder("web")).unwrap();
    agent.delivered("web").await;
    let keys: std::collections::HashSet<_> = ca.asks_for("web").into_iter().map(|ask| ask.spki).collect();
    assert_eq!(keys.len(), 1);
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn output_dir_removed_or_replaced_by_a_symlink_keeps_writing_out_of_the_new_place_until_reload() {
    let (ca, node, mut agent) = delivered_once().await;
    let moved = node.temp.path().join("moved");
    fs::rename(node.folder("web"), &moved).unwrap();
    symlink(&moved, node.folder("web")).unwrap();
    ca.renew(&["web"]);
    let said = agent.problem("deliver").await;
    assert!(said.contains("symbolic link"), "{said}");
    assert!(
        read_generation(&moved).unwrap().matches(),
        "what was delivered stays as it was"
    );
    fs::remove_file(node.folder("web")).unwrap();
    let done = agent.handle.reload(vec![node.delivery("web")]).await.unwrap();
    assert_eq!((done.added, done.changed, done.removed), (0, 0, 0));
    agent.delivered("web").await;
    until("a new pair", || {
        read_generation(&node.folder("web")).is_some_and(|pair| pair.matches())
    })
    .await;
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_removed_folder_is_made_again_where_it_was_and_nowhere_else() {
    let ca = FakeCa::start(vec![entry("web", "/web")]).await;
    let node = Node::new();
    let (place, other) = (node.temp.path().join("place"), node.temp.path().join("other"));
    fs::create_dir(&place).unwrap();
    let folder = place.join("web");
    let delivery = Delivery::new(support::agent::name("web"), &folder).unwrap();
    let config = node.config(&[]).with_deliveries(vec![delivery.clone()]).unwrap();
    let config = config.with_metrics("127.0.0.1:0".parse().unwrap()).unwrap();
    let mut agent = node.start(config, Some(ca.token()));
    agent.delivered("web").await;
    fs::remove_dir_all(&folder).unwrap();
    ca.renew(&["web"]);
    let (serial, _) = agent.delivered("web").await;
    let pair = read_generation(&folder).unwrap();
    assert!(pair.matches() && pair.serial() == serial);
    assert_eq!(fs::metadata(&folder).unwrap().permissions().mode() & 0o777, 0o750);

    // Somebody else's directory in its place is not taken: that is for whoever runs the agent to say.
    fs::rename(&place, &other).unwrap();
    fs::create_dir(&place).unwrap();
    ca.renew(&["web"]);
    let said = agent.problem("deliver").await;
    assert!(said.contains("is gone") && said.contains("SIGHUP the agent"), "{said}");
    assert_eq!(fs::read_dir(&place).unwrap().count(), 0);
    assert!(agent.failures("deliver") >= 1);
    let told = agent.handle.status().await.unwrap().deliveries[0].problem.clone();
    assert!(told.unwrap().contains("is gone"));
    agent.handle.reload(vec![delivery]).await.unwrap();
    agent.delivered("web").await;
    assert!(read_generation(&folder).unwrap().matches());
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn certificates_that_do_not_verify_never_reach_the_folder() {
    let (ca, node, mut agent) = delivered_once().await;
    let before = node.read("web");
    type Bend = fn(&mut support::Script);
    let cases: [(&str, Bend); 3] = [
        ("another identity", |script| {
            script.wrong_id = Some("spiffe://dev.test/other".to_owned())
        }),
        ("another key", |script| script.wrong_key = true),
        ("no intermediate", |script| script.no_chain = true),
    ];
    for (what, bend) in cases {
        bend(&mut ca.script());
        ca.renew(&["web"]);
        let said = agent.problem("verify").await;
        assert!(!said.is_empty(), "{what}");
        assert_eq!(node.read("web"), before, "{what}");
        let mut script = ca.script();
        (script.wrong_id, script.wrong_key, script.no_chain) = (None, false, false);
    }
    agent.delivered("web").await;
    assert_ne!(node.read("web").serial(), before.serial());
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refusal_is_told_with_its_code_and_the_old_pair_stays() {
    let (ca, node, mut agent) = delivered_once().await;
    let before = node.read("web");
    ca.script().refuse = Some(Refusal {
        code: "ttl_too_long".to_owned(),
        message: "the entry asks for too long a lifetime".to_owned(),
        retry: true,
        ..Refusal::default()
    });
    ca.renew(&["web"]);
    let said = agent.problem("mint").await;
    assert!(
        said.contains("ttl_too_long") && said.contains("too long a lifetime"),
        "{said}"
    );
    assert_eq!(node.read("web"), before);
    ca.script().refuse = None;
    agent.delivered("web").await;
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_entry_that_asks_for_more_than_the_folders_owner_proves_is_refused_here() {
    let mut path = entry("web", "/web");
    path.selectors.push("unix:path:/usr/sbin/nginx".to_owned());
    let ca = FakeCa::start(vec![path]).await;
    let node = Node::new();
    let mut agent = node.start(node.config(&["web", "unknown"]), Some(ca.token()));
    let mut said = agent.problem("entry").await;
    said.push_str(&agent.problem("entry").await);
    assert!(
        said.contains("unix:path:/usr/sbin/nginx") && said.contains("proves only unix:uid:"),
        "{said}"
    );
    assert!(said.contains("offers no such entry"), "{said}");
    assert!(ca.seen().asks.is_empty(), "nothing is asked for");
    ca.set_entries(vec![entry("web", "/web")]);
    agent.delivered("web").await;
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_changed_entry_gets_a_new_certificate_and_a_removed_one_no_more_renewals() {
    let (ca, node, mut agent) = delivered_once().await;
    ca.set_entries(vec![entry("web", "/web2")]);
    agent.delivered("web").await;
    assert_eq!(node.read("web").leaf().id().as_str(), "spiffe://dev.test/web2");
    ca.set_entries(vec![]);
    let said = agent.problem("entry").await;
    assert!(said.contains("offers no such entry"), "{said}");
    let asked = ca.asks_for("web").len();
    ca.renew(&["web"]);
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(ca.asks_for("web").len(), asked);
    assert!(
        node.read("web").matches(),
        "what was delivered stays until it ends or is retired"
    );
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_bundle_is_written_into_every_folder_and_an_older_one_is_refused() {
    let (ca, node, mut agent) = delivered_once().await;
    let before = node.read("web");
    let other = support::pki::Pki::new().root_der;
    let mut bundle = ca.bundle();
    bundle.sequence = 7;
    bundle.roots.push(other.clone());
    ca.push(Message::Trust(Trust {
        bundle: Some(bundle.clone()),
    }));
    agent
        .event("bundle", |event| {
            matches!(event, AgentEvent::TrustApplied { sequence: 7 }).then_some(())
        })
        .await;
    agent.delivered("web").await;
    let after = node.read("web");
    assert_eq!(
        (after.key, after.roots.len()),
        (before.key, 2),
        "the same pair, the new roots"
    );
    until("the bundle's acknowledgement", || {
        ca.seen().acks.iter().any(|ack| ack.bundle_sequence == 7)
    })
    .await;
    bundle.sequence = 6;
    ca.push(Message::Trust(Trust {
        bundle: Some(bundle.clone()),
    }));
    assert!(agent.problem("trust").await.contains("goes back"));
    bundle.sequence = 8;
    bundle.roots.clear();
    ca.push(Message::Trust(Trust { bundle: Some(bundle) }));
    assert!(agent.problem("trust").await.contains("no root"));
    assert_eq!(node.read("web").roots.len(), 2);
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_folder_on_a_disk_that_refuses_is_tried_again_with_the_same_certificate() {
    if mintage_sys::process::effective_uid() == 0 && !can_make_immutable() {
        return;
    }
    let (ca, node, mut agent) = delivered_once().await;
    let before = node.read("web");
    let folder = node.folder("web");
    refuse_writes(&folder, true);
    ca.renew(&["web"]);
    let said = agent.problem("deliver").await;
    assert!(!said.is_empty());
    assert_eq!(node.read("web"), before);
    assert!(agent.handle.status().await.unwrap().deliveries[0].problem.is_some());
    refuse_writes(&folder, false);
    let (serial, _) = agent.delivered("web").await;
    assert_eq!(node.read("web").serial(), serial);
    assert!(agent.handle.status().await.unwrap().deliveries[0].problem.is_none());
    agent.stop().await;
}

fn can_make_immutable() -> bool {
    let temp = tempfile::tempdir().unwrap();
    let made = std::process::Command::new("chattr").arg("+i").arg(temp.path()).output();
    let _ = std::process::Command::new("chattr").arg("-i").arg(temp.path()).output();
    made.is_ok_and(|output| output.status.success())
}

fn refuse_writes(folder: &std::path::Path, refuse: bool) {
    if mintage_sys::process::effective_uid() == 0 {
        let flag = if refuse { "+i" } else { "-i" };
        let done = std::process::Command::new("chattr")
            .arg(flag)
            .arg(folder)
            .status()
            .unwrap();
        assert!(done.success());
    } else {
        let mode = if refuse { 0o555 } else { 0o755 };
        fs::set_permissions(folder, fs::Permissions::from_mode(mode)).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reload_adds_changes_and_removes_folders() {
    let ca = FakeCa::start(vec![entry("web", "/web"), entry("db", "/db")]).await;
    let node = Node::new();
    let mut agent = node.start(node.config(&["web"]), Some(ca.token()));
    agent.delivered("web").await;
    let changed = node
        .delivery("web")
        .with_layout(Layout::Spiffe)
        .with_mode(0o640)
        .unwrap();
    let done = agent.handle.reload(vec![changed, node.delivery("db")]).await.unwrap();
    assert_eq!((done.added, done.changed, done.removed), (1, 1, 0));
    let single = node.folder("web").join("credential-bundle.private-key.pem");
    until("the other layout", || {
        single.exists() && !node.folder("web").join("svid.pem").exists()
    })
    .await;
    assert_eq!(fs::metadata(&single).unwrap().permissions().mode() & 0o777, 0o640);
    agent.delivered("db").await;
    let done = agent.handle.reload(vec![]).await.unwrap();
    assert_eq!(done.removed, 2);
    assert!(single.exists(), "what was delivered stays until it ends");
    assert_eq!(fs::read_dir(node.data().join("deliveries")).unwrap().count(), 0);
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_deliveries_are_asked_for_in_batches_of_at_most_64() {
    let names: Vec<String> = (0..100).map(|n| format!("e{n}")).collect();
    let ca = FakeCa::start(names.iter().map(|name| entry(name, &format!("/{name}"))).collect()).await;
    let node = Node::new();
    let entries: Vec<&str> = names.iter().map(String::as_str).collect();
    let agent = node.start(node.config(&entries), Some(ca.token()));
    until("all pairs", || {
        entries
            .iter()
            .all(|entry| read_generation(&node.folder(entry)).is_some())
    })
    .await;
    let largest = ca.seen().largest_batch;
    assert!((2..=64).contains(&largest), "{largest}");
    assert!(entries.iter().all(|entry| node.read(entry).matches()));
    agent.stop().await;
}
