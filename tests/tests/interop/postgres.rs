//! PostgreSQL with delivered certificates: it takes its users from those of clients, it is told of its own by SQL, and the trap that it sets is found out. A key whose mode it
//! dislikes makes it keep the old certificate, while pg_reload_conf() answers that all is well.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::{fs, path::Path};

use mintage_proto::v1::{Entry, revoke_request::Target};
use mintage_tests::kit::{
    ca::{apply, domain, entry_for},
    federation::own_entry,
    node::Node,
    postgres::{Postgres, account},
    proxies::free_port,
};

fn successes(log: &str) -> usize {
    log.matches("hooks succeeded").count()
}

/// A delivery into this folder, for whoever runs the test.
fn delivered(entry: &str, directory: &Path) -> String {
    let uid = rustix::process::geteuid().as_raw();
    format!("[[delivery]]\nentry = '{entry}'\ndirectory = {directory:?}\nowner = {uid}\ngroup = {uid}\n")
}

#[tokio::test(flavor = "multi_thread")]
async fn postgres_takes_the_user_from_the_common_name_of_a_delivered_certificate() {
    let Some(mut postgres) = Postgres::make(free_port()) else {
        return;
    };
    let (uid, gid) = account();
    let server = postgres.beside("pg");
    let clients = tempfile::tempdir().unwrap();
    let folder = |entry: &str| clients.path().join(entry);
    let more = format!(
        "[[delivery]]\nentry = 'pg'\ndirectory = {server:?}\nowner = {uid}\ngroup = {gid}\n{}{}",
        delivered("app", &folder("app")),
        delivered("other", &folder("other"))
    );
    let mut node = Node::start(&["plain"], &more).await;
    entry_for(&node.ca.admin_socket(), "pg", "/pg", uid).await;
    let named = |name: &str| Entry {
        common_name: name.to_owned(),
        ..own_entry(&domain(), name)
    };
    let applied = apply(&node.ca.admin_socket(), vec![named("app"), named("other")]).await;
    applied.unwrap();
    for at in [&server, &folder("app"), &folder("other")] {
        let key = at.join("svid_key.pem");
        node.agent.wait_for("a delivery", || key.exists().then_some(()));
    }
    postgres.start(&server);
    postgres.run("CREATE ROLE app LOGIN");

    assert_eq!(postgres.log_in("app", &folder("app")), Ok("app".to_owned()));
    let refused = "certificate authentication failed for user \"app\"";
    for (who, at) in [
        ("no common name", node.place.join("plain")),
        ("another's", folder("other")),
    ] {
        let told = postgres.log_in("app", &at).unwrap_err();
        assert!(told.contains(refused), "{who}: {told}");
    }
    let told = postgres.log_in("other", &folder("app")).unwrap_err();
    assert!(
        told.contains("certificate authentication failed for user \"other\""),
        "{told}"
    );

    let serial = || serial_in(&folder("app"));
    let first = serial();
    node.revoke(Target::Serial(first.clone())).await;
    node.agent
        .wait_for("the replacement", || (serial() != first).then_some(()));
    assert_eq!(postgres.log_in("app", &folder("app")), Ok("app".to_owned()));
    node.stop();
}

fn serial_in(folder: &Path) -> String {
    let text = fs::read_to_string(folder.join("svid.pem")).unwrap();
    let chain = mintage_svid::pem::decode_certificates(&text).unwrap();
    mintage_svid::LeafInfo::parse(&chain[0]).unwrap().serial().to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn postgres_reloads_by_sql_and_its_silent_refusal_is_found_out() {
    let Some(mut postgres) = Postgres::make(free_port()) else {
        return;
    };
    let (uid, gid) = account();
    let (directory, port) = (postgres.beside("pg"), postgres.port());
    let more = format!(
        "[[delivery]]\nentry = 'pg'\ndirectory = {directory:?}\nowner = {uid}\ngroup = {gid}\nmode = '0600'\n\
         effect = {{ address = '127.0.0.1:{port}', protocol = 'postgres', within_s = 2 }}\n\
         [[delivery.hook]]\npostgres = {:?}\nport = {port}\nrole = 'mintage'\nuser = {uid}\n",
        postgres.sockets()
    );
    let mut node = Node::start(&["db"], &more).await;
    // For whoever owns the folder.
    entry_for(&node.ca.admin_socket(), "pg", "/pg", uid).await;
    node.agent
        .wait_for("a delivery", || directory.join("svid_key.pem").exists().then_some(()));
    postgres.start(&directory);
    node.agent.wait_for_log("a success", |log| successes(log) == 1);

    let serial = || serial_in(&directory);
    let first = serial();
    node.revoke(Target::Serial(first.clone())).await;
    node.agent.wait_for_log("a second success", |log| successes(log) == 2);
    let second = serial();
    assert_ne!(first, second);
    assert_eq!(postgres.served(), second);

    // Its own key may be read by nobody else: with 0640 it keeps what it has, and says so in its log alone.
    let file = node.place.join("agent.toml");
    let text = fs::read_to_string(&file).unwrap();
    fs::write(&file, text.replace("mode = '0600'", "mode = '0640'")).unwrap();
    node.agent.hang_up();
    node.agent.wait_for_log("a third success", |log| successes(log) == 3);
    node.revoke(Target::Serial(second.clone())).await;
    let finding = format!("serves serial {second} instead of the new serial");
    let log = node.agent.wait_for_log("the finding", |log| log.contains(&finding));
    assert!(log.contains("PostgreSQL keeps the old one silently"), "{log}");
    assert_eq!(postgres.served(), second);
    assert!(postgres.log().contains("private key file"), "{}", postgres.log());
    node.stop();
}
