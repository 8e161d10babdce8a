//! SIGHUP at the real programs: what can be taken over is, what cannot is named, and each signal has its own answer.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::{fs, path::Path, process::Command, time::Duration};

use mintage_proto::v1::Entry;
use mintage_svid::LeafInfo;
use mintage_tests::kit::{
    agent::AgentProcess,
    bins::binary,
    ca::{self, CaProcess, make, token},
    client::join,
};
use tonic::{Code, Status};

/// How often the log has a line with all of these parts.
fn lines(log: &str, parts: &[&str]) -> usize {
    log.lines()
        .filter(|line| parts.iter().all(|part| line.contains(part)))
        .count()
}

/// Sends SIGHUP and waits for one more line with these parts.
#[track_caller]
fn answered(ca: &mut CaProcess, parts: &[&str]) {
    let before = lines(&ca.log(), parts);
    ca.hang_up();
    ca.wait_for(&parts.join(" "), |log| lines(log, parts) > before);
    assert_eq!(lines(&ca.log(), parts), before + 1, "{parts:?}");
}

/// Lifetime of a certificate that an agent now gets by joining.
async fn agent_life(socket: &Path, name: &str) -> Duration {
    let joined = join(&token(socket, name).await).await.unwrap();
    let leaf = LeafInfo::parse(&joined.chain[0]).unwrap();
    leaf.not_after().since(leaf.not_before())
}

async fn apply(socket: &Path, ttl_seconds: i64) -> Result<(), Status> {
    let entry = Entry {
        name: "web".to_owned(),
        spiffe_id: "spiffe://dev.test/web".to_owned(),
        agents: vec!["spiffe://dev.test/mintage/agent/*".to_owned()],
        selectors: vec!["unix:uid:1".to_owned()],
        ttl_seconds,
        ..Entry::default()
    };
    ca::apply(socket, vec![entry]).await.map(|_| ())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ca_takes_over_its_policy_and_names_the_rest_at_each_hangup() {
    const RELOADED: &[&str] = &["\"message\":\"reloaded: ca.max_ttl, ca.agent_ttl, ca.jwt_ttl, ca.rotate_keys\""];
    const FIXED: &[&str] = &["need a restart", "\"keys\":\"listen, ca.strict_csr\""];
    let folder = tempfile::tempdir().unwrap();
    let (dir, file) = (folder.path().join("ca"), folder.path().join("ca.toml"));
    make(&dir);
    let first = format!("data_dir = {:?}\nlisten = \"127.0.0.1:0\"\n", dir.display().to_string());
    fs::write(&file, &first).unwrap();
    let mut command = Command::new(binary("mintage-ca"));
    command.arg("serve").arg("--config").arg(&file);
    let mut ca = CaProcess::launch(&dir, command);
    let socket = ca.admin_socket();
    apply(&socket, 3600).await.unwrap();
    assert!(agent_life(&socket, "hour").await > Duration::from_secs(3000));

    let second = format!(
        "data_dir = {:?}\nlisten = \"127.0.0.1:1\"\n[ca]\nmax_ttl = \"15m\"\nagent_ttl = \"2m\"\nstrict_csr = true\n",
        dir.display().to_string()
    );
    fs::write(&file, second).unwrap();
    for told in 1..=2 {
        answered(&mut ca, RELOADED);
        assert_eq!(
            lines(&ca.log(), FIXED),
            told,
            "named at each signal until there is a restart"
        );
    }
    assert!(agent_life(&socket, "short").await < Duration::from_secs(300));
    assert_eq!(apply(&socket, 3600).await.unwrap_err().code(), Code::InvalidArgument);

    fs::write(&file, "data_dir = \"/x\"\nlissten = 1\n").unwrap();
    for _ in 0..2 {
        answered(&mut ca, &["reload refused", "ca.toml:2", "lissten"]);
    }
    assert!(
        agent_life(&socket, "still").await < Duration::from_secs(300),
        "a refused file changes nothing"
    );

    fs::write(&file, first).unwrap();
    answered(&mut ca, RELOADED);
    assert_eq!(lines(&ca.log(), &["need a restart"]), 2, "as it was at the start");
    assert!(agent_life(&socket, "again").await > Duration::from_secs(3000));
    assert_eq!(ca.stop(), Some(0));
}

#[test]
fn programs_without_a_file_say_so_at_each_hangup() {
    const NOTHING: &str = "SIGHUP: there is no configuration file to read again";
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("ca");
    make(&dir);
    let mut ca = CaProcess::start(&dir, 0);
    for _ in 0..2 {
        answered(&mut ca, &[NOTHING]);
    }

    let runtime = tokio::runtime::Runtime::new().unwrap();
    let token = runtime.block_on(token(&ca.admin_socket(), "n1"));
    let mut command = Command::new(binary("mintage-agent"));
    command.arg("run").arg("--data-dir").arg(folder.path().join("agent"));
    let mut agent = AgentProcess::launch(folder.path(), command, Some(&token));
    let log = folder.path().join("agent.log");
    let times = |part: &str| lines(&fs::read_to_string(&log).unwrap(), &[part]);
    agent.wait_for("the stream", || (times("connected to the CA") == 1).then_some(()));
    for told in 1..=2 {
        agent.hang_up();
        agent.wait_for("the answer", || (times(NOTHING) == told).then_some(()));
    }
    assert_eq!(times("deliveries reloaded"), 0);
    assert_eq!(agent.stop(), Some(0));
    assert_eq!(ca.stop(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_takes_over_its_deliveries_and_names_the_rest_at_each_hangup() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("ca");
    make(&dir);
    let ca = CaProcess::start(&dir, 0);
    for name in ["web", "db"] {
        ca::entry(&ca.admin_socket(), name, &format!("/{name}")).await;
    }
    let file = mintage_tests::kit::agent::config(folder.path(), &["web"]);
    let token = token(&ca.admin_socket(), "n1").await;
    let mut agent = AgentProcess::start(folder.path(), &file, Some(&token));
    let [web, db] = ["web", "db"].map(|name| folder.path().join(name).join("svid.pem"));
    agent.wait_for("the first delivery", || web.exists().then_some(()));
    assert!(!db.exists());

    let text = fs::read_to_string(mintage_tests::kit::agent::config(folder.path(), &["web", "db"])).unwrap();
    fs::write(
        &file,
        format!("metrics = \"127.0.0.1:1\"\nca_addresses = [\"ca.example.org:1\"]\n{text}"),
    )
    .unwrap();
    let log = folder.path().join("agent.log");
    let times = |parts: &[&str]| lines(&fs::read_to_string(&log).unwrap(), parts);
    for told in 1..=2 {
        agent.hang_up();
        agent.wait_for("the answer", || (times(&["deliveries reloaded"]) == told).then_some(()));
        for key in ["metrics", "ca_addresses"] {
            let named = times(&["restart the agent", &format!("\"key\":\"{key}\"")]);
            assert_eq!(named, told, "{key}: {}", agent.log());
        }
        assert_eq!(times(&["restart the agent"]), 2 * told, "nothing else changed");
    }
    agent.wait_for("the second delivery", || db.exists().then_some(()));
    fs::write(&file, "nonsense = 1\n").unwrap();
    for told in 1..=2 {
        agent.hang_up();
        agent.wait_for("the refusal", || {
            (times(&["not reloaded", "agent.toml:1"]) == told).then_some(())
        });
    }
    assert_eq!(agent.stop(), Some(0));
    assert_eq!(ca.stop(), Some(0));
}
