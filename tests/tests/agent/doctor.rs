//! `mintage-agent doctor` on a node that is well, and on one where things went wrong one after the other.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::Path,
    process::{Command, Output},
};

use mintage_tests::kit::{
    agent::AgentProcess,
    bins::binary,
    ca::{domain, entry_for},
    node::Node,
    peers::{peer, root},
};
use serde_json::Value;

/// A user that has nothing to do with the agent (nobody).
const OTHER_UID: u32 = 65_534;

fn doctor(config: &Path, words: &[&str]) -> Output {
    let mut command = Command::new(binary("mintage-agent"));
    command.arg("doctor").arg("--config").arg(config).args(words);
    command.output().unwrap()
}

/// Exit code, and every finding as `level check`.
fn found(config: &Path) -> (Option<i32>, Vec<String>, Value) {
    let output = doctor(config, &["-o", "json"]);
    let value: Value = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&output.stderr)));
    assert_eq!(value["schema_version"], 1);
    let findings = value["findings"].as_array().unwrap().iter();
    let word = |finding: &Value, name: &str| finding[name].as_str().unwrap().to_owned();
    let said = findings.map(|finding| {
        assert_eq!(
            word(finding, "advice").is_empty(),
            word(finding, "level") == "ok",
            "{finding}"
        );
        format!("{} {}", word(finding, "level"), word(finding, "check"))
    });
    let said = said.collect();
    (output.status.code(), said, value)
}

fn has(said: &[String], wanted: &str) -> bool {
    said.iter().any(|finding| finding == wanted)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_is_well_is_told_so_and_then_what_goes_wrong() {
    let node = Node::start(&["web"], "").await;
    let config = node.place.join("agent.toml");
    let (code, said, value) = found(&config);
    assert_eq!(code, Some(0), "{value:#}");
    assert!(said.iter().all(|finding| finding.starts_with("ok ")), "{value:#}");
    for check in [
        "config",
        "kernel",
        "capabilities",
        "data_dir",
        "socket",
        "agent",
        "certificate",
        "bundle",
        "revocation_map",
        "clock",
        "ca",
        "folders",
    ] {
        assert!(has(&said, &format!("ok {check}")), "{check}: {value:#}");
    }
    let text = String::from_utf8(doctor(&config, &[]).stdout).unwrap();
    assert_eq!(text.lines().count(), said.len(), "{text}");
    assert!(text.lines().all(|line| line.starts_with("[ok]   ")), "{text}");

    // The hook of a server that is not there, and a folder of somebody else's.
    let foreign = node.beside("foreign");
    fs::write(foreign.join("precious"), "x").unwrap();
    let more = format!(
        "[[delivery]]\nentry = \"web\"\ndirectory = {foreign:?}\n[[delivery.hook]]\nsignal = \"HUP\"\npid_file = \"/nonexistent/pid\"\n"
    );
    let wrong = node.place.join("wrong.toml");
    fs::write(&wrong, fs::read_to_string(&config).unwrap() + &more).unwrap();
    let (code, said, value) = found(&wrong);
    assert_eq!(code, Some(3));
    assert!(
        has(&said, "fail folder") && has(&said, "warn hook") && has(&said, "ok folders"),
        "{value:#}"
    );
    assert_eq!(fs::read_dir(&foreign).unwrap().count(), 1, "nothing was marked or made");

    // A socket directory that others may write, and a map that is gone.
    let run = node.place.join("run");
    fs::set_permissions(&run, fs::Permissions::from_mode(0o777)).unwrap();
    fs::remove_file(node.place.join("node.map")).unwrap();
    let (code, said, value) = found(&config);
    assert_eq!(code, Some(3));
    assert!(
        has(&said, "fail socket") && has(&said, "fail revocation_map"),
        "{value:#}"
    );
    assert!(value.to_string().contains("chmod go-w"), "{value:#}");
    fs::set_permissions(&run, fs::Permissions::from_mode(0o755)).unwrap();

    // Without the CA the agent serves on, and is cut off.
    let Node { ca, mut agent, .. } = node;
    ca.kill();
    let (code, said, value) = agent.wait_for("the end of the stream", || {
        let found = found(&config);
        has(&found.1, "warn agent").then_some(found)
    });
    assert_eq!(code, Some(3));
    assert!(has(&said, "fail ca"), "{value:#}");

    // A killed agent leaves its socket.
    agent.kill();
    let (code, said, value) = found(&config);
    assert_eq!(code, Some(3));
    assert!(has(&said, "fail socket") && has(&said, "ok certificate"), "{value:#}");
    assert!(value.to_string().contains("nobody answers"), "{value:#}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bundle_map_is_read_as_its_readers_do_and_capabilities_are_those_of_the_running_agent() {
    let node = Node::start(&["web"], "").await;
    let map = node.place.join("bundles.json");
    let config = node.place.join("mapped.toml");
    let more = format!("owner = \"65534\"\n[bundle_map]\npath = {map:?}\n");
    let text = fs::read_to_string(node.place.join("agent.toml")).unwrap();
    let uid = format!("owner = \"{}\"\n", rustix::process::geteuid().as_raw());
    assert_eq!(text.matches(&uid).count(), 1, "{text}");
    fs::write(&config, text.replace(&uid, "") + &more).unwrap();

    let looked = |content: &str| {
        fs::write(&map, content).unwrap();
        found(&config)
    };
    let roots = fs::read_to_string(node.place.join("web/svid_bundle.pem")).unwrap();
    let roots = mintage_svid::pem::decode_certificates(&roots).unwrap();
    let document = mintage_svid::TrustBundle::new(domain(), roots, Vec::new(), 1 << 40, None).unwrap();
    let good = format!(
        "{{\"trust_domains\": {{\"{}\": {}}}}}",
        domain(),
        document.to_jwks_json()
    );
    let (_, said, value) = looked(&good);
    assert!(has(&said, "ok bundle_map"), "{value:#}");
    let agent = format!("/proc/{}/status", node.agent.id());
    assert!(fs::read_to_string(agent).unwrap().contains("CapEff:"));
    let capabilities = value["findings"].as_array().unwrap().iter();
    let capabilities = capabilities.filter(|finding| finding["check"] == "capabilities");
    let told: Vec<_> = capabilities.map(|finding| finding["told"].as_str().unwrap()).collect();
    assert_eq!(told.len(), 2, "callers, and a folder of another user: {value:#}");
    assert!(
        told.iter().all(|told| told.starts_with("the running agent ")),
        "{told:?}"
    );

    for bad in [&good[1..], "{}", &good.replace("dev.test", "other.test")] {
        let (code, said, value) = looked(bad);
        assert_eq!(code, Some(3));
        assert!(has(&said, "fail bundle_map"), "{bad}: {value:#}");
    }
    fs::remove_file(&map).unwrap();
    let (_, said, value) = found(&config);
    assert!(has(&said, "warn bundle_map"), "{value:#}");
}

/// What the doctor says of its capabilities, as `level: what`.
fn capabilities(value: &Value) -> Vec<String> {
    let findings = value["findings"].as_array().unwrap().iter();
    let about = findings.filter(|finding| finding["check"] == "capabilities");
    let said = about.map(|finding| {
        let word = |name: &str| finding[name].as_str().unwrap();
        format!("{}: {}", word("level"), word("told"))
    });
    said.collect()
}

/// `mintage svid fetch` as another user: its exit code and what it said.
fn fetched_as_other(node: &Node) -> (Option<i32>, String) {
    let other = OTHER_UID.to_string();
    let mut command = Command::new("setpriv");
    command.args(["--reuid", &other, "--regid", &other, "--clear-groups"]);
    command
        .arg(binary("mintage"))
        .args(["svid", "fetch", "--socket"])
        .arg(node.socket());
    let output = command.output().unwrap();
    (
        output.status.code(),
        String::from_utf8_lossy(&output.stderr).into_owned(),
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_agent_without_capabilities_cannot_do_is_told_and_is_so() {
    if peer("setpriv").is_none() || !root("nobody else has capabilities to lose") {
        return;
    }
    let mut node = Node::start(&["web"], "").await;
    entry_for(&node.ca.admin_socket(), "other", "/other", OTHER_UID).await;
    let config = node.place.join("agent.toml");
    let other = node.place.join("other");
    let more = format!(
        "[[delivery]]\nentry = \"other\"\ndirectory = {other:?}\nowner = \"{OTHER_UID}\"\ngroup = \"{OTHER_UID}\"\n"
    );
    fs::write(&config, fs::read_to_string(&config).unwrap() + &more).unwrap();

    let place = node.place.clone();
    let restarted = |agent: AgentProcess, without: bool| {
        agent.kill();
        let mut command = Command::new("setpriv");
        if without {
            command.args(["--bounding-set", "-all", "--inh-caps", "-all"]);
        }
        command
            .arg(binary("mintage-agent"))
            .arg("run")
            .arg("--config")
            .arg(&config);
        fs::remove_file(place.join("agent.log")).unwrap();
        let mut agent = AgentProcess::launch(&place, command, None);
        agent.wait_for_log("its connection", |log| log.contains("connected to the CA"));
        agent
    };
    node.agent = restarted(node.agent, false);
    node.agent
        .wait_for("a delivery", || other.join("svid.pem").exists().then_some(()));
    assert_eq!(fetched_as_other(&node).0, Some(0));
    let (_, _, value) = found(&config);
    assert!(
        capabilities(&value).iter().all(|said| said.starts_with("ok: ")),
        "{value:#}"
    );

    fs::remove_dir_all(&other).unwrap();
    node.agent = restarted(node.agent, true);
    let (code, _, value) = found(&config);
    let said = capabilities(&value);
    let lacks = |level: &str, names: &str| {
        let wanted = format!("{level}: the running agent lacks {names} for ");
        said.iter().any(|said| said.starts_with(&wanted))
    };
    assert_eq!((code, said.len()), (Some(3), 2), "{value:#}");
    assert!(lacks("warn", "CAP_SYS_PTRACE and CAP_DAC_READ_SEARCH"), "{value:#}");
    assert!(lacks("fail", "CAP_CHOWN and CAP_DAC_OVERRIDE"), "{value:#}");
    // It is as the doctor says: no identity for processes of others, none in their folders, and each says why.
    let (code, told) = fetched_as_other(&node);
    assert!(
        code == Some(3) && told.contains("cannot read its executable"),
        "{code:?} {told}"
    );
    let log = node.agent.wait_for_log("the refusal", |log| log.contains("CAP_CHOWN"));
    assert!(!other.join("svid.pem").exists(), "{log}");
    node.agent.runs();
}

#[test]
fn a_node_that_has_not_begun_is_left_as_it_is_and_a_wrong_configuration_is_a_finding() {
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("agent.toml");
    let data = folder.path().join("data");
    let socket = folder.path().join("run/agent.sock");
    let out = folder.path().join("out");
    let text =
        format!("data_dir = {data:?}\nsocket = {socket:?}\n[[delivery]]\nentry = \"web\"\ndirectory = {out:?}\n");
    fs::write(&config, &text).unwrap();
    let (code, said, value) = found(&config);
    assert_eq!(code, Some(0), "nothing of this is wrong: {value:#}");
    assert!(
        has(&said, "warn data_dir") && has(&said, "warn socket") && has(&said, "warn folder"),
        "{value:#}"
    );
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "nothing is made");

    fs::write(&config, format!("{text}mode = \"0666\"\n")).unwrap();
    let (code, said, value) = found(&config);
    assert_eq!((code, said), (Some(3), vec!["fail config".to_owned()]), "{value:#}");
    assert!(value.to_string().contains("0666"), "{value:#}");
    let missing = doctor(&folder.path().join("none.toml"), &[]);
    assert_eq!(missing.status.code(), Some(3));
    assert!(String::from_utf8_lossy(&missing.stdout).starts_with("[fail] config: "));
}
