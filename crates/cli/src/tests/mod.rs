//! Every verb against a CA in this process: the exit code it promises, and what it prints.

mod every_verb;
mod large_sets;
mod offline_audit;

use std::{fs, path::Path};

use clap::Parser;
use mintage_ca::{Ca, Config, Deps, InitOptions, KeyProtection, init};
use mintage_identity::{ReplicaName, TrustDomain};
use serde_json::Value;
use tempfile::TempDir;
use tokio::runtime::Runtime;

use crate::{cli::Cli, output::sink};

/// A running CA without agents.
struct Running {
    dir: TempDir,
    runtime: Runtime,
    ca: Option<Ca>,
}

/// What a verb answered.
struct Answer {
    code: u8,
    data: String,
    notices: String,
}

impl Running {
    fn new() -> Self {
        Self::listening("127.0.0.1:0")
    }

    fn listening(listen: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let options = InitOptions {
            trust_domain: TrustDomain::parse("dev.test").unwrap(),
            data_dir: dir.path().join("ca"),
            protection: KeyProtection::ClearForTestDomainOnly,
            replica: ReplicaName::parse("ca-1").unwrap(),
        };
        init(&options, &Deps::system()).unwrap();
        let runtime = Runtime::new().unwrap();
        let config = Config::for_data_dir(dir.path().join("ca")).listening_on(listen.parse().unwrap());
        let ca = runtime.block_on(Ca::start(config, Deps::system())).unwrap();
        Self {
            dir,
            runtime,
            ca: Some(ca),
        }
    }

    fn stop(&mut self) {
        if let Some(ca) = self.ca.take() {
            self.runtime.block_on(ca.stop());
        }
    }

    /// Runs `mintage` with these words, in which `DIR` is the test's own directory.
    fn run(&self, line: &str) -> Answer {
        let dir = self.dir.path().display().to_string();
        let words = line.split_whitespace().map(|word| word.replace("DIR", &dir));
        let base = ["mintage", "--data-dir"].map(str::to_owned);
        let words = base.into_iter().chain([format!("{dir}/ca")]).chain(words);
        drop(sink::take());
        let outcome = Cli::try_parse_from(words)
            .unwrap_or_else(|error| panic!("{line}: {error}"))
            .run();
        let (data, notices) = sink::take();
        let told = outcome
            .as_ref()
            .err()
            .map(|failure| failure.report())
            .unwrap_or_default();
        Answer {
            code: outcome.err().map_or(0, |failure| failure.code()),
            data,
            notices: notices + &told,
        }
    }

    #[track_caller]
    fn expect(&self, code: u8, line: &str) -> Answer {
        let answer = self.run(line);
        assert_eq!(answer.code, code, "{line}: {}{}", answer.data, answer.notices);
        answer
    }

    #[track_caller]
    fn json(&self, code: u8, line: &str) -> Value {
        let answer = self.expect(code, &format!("{line} -o json"));
        let value: Value =
            serde_json::from_str(&answer.data).unwrap_or_else(|error| panic!("{line}: {error}: {}", answer.data));
        assert_eq!(value["schema_version"], 1, "{line}");
        value
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop();
    }
}

fn write(path: &Path, name: &str, ttl: &str) {
    let text = format!(
        "[[entry]]\nname = \"{name}\"\nspiffe_id = \"spiffe://dev.test/{name}\"\nagents = [\"spiffe://dev.test/mintage/agent/*\"]\nselectors = [\"unix:uid:1000\"]\nttl = \"{ttl}\"\n"
    );
    fs::write(path.join(format!("{name}.toml")), text).unwrap();
}

#[test]
fn entries_are_applied_shown_explained_and_deleted() {
    let running = Running::new();
    let dir = running.dir.path().join("entries");
    fs::create_dir(&dir).unwrap();
    write(&dir, "web", "5m");
    write(&dir, "db", "5m");
    running.expect(3, "entry apply -f DIR/entries --dry-run --check");
    assert_eq!(running.json(0, "entry apply -f DIR/entries")["created"], 2);
    running.expect(0, "entry apply -f DIR/entries --dry-run --check");
    fs::remove_file(dir.join("db.toml")).unwrap();
    write(&dir, "web", "10m");
    let plan = running.expect(0, "entry apply -f DIR/entries --prune --dry-run");
    assert!(
        plan.data.contains("delete  db") && plan.data.contains("ttl: 300s -> 600s"),
        "{}",
        plan.data
    );
    assert_eq!(
        running.json(0, "entry list")["entries"].as_array().unwrap().len(),
        2,
        "a dry run changes nothing"
    );
    let applied = running.json(0, "entry apply -f DIR/entries --prune");
    assert_eq!(
        (applied["updated"].as_u64(), applied["deleted"].as_u64()),
        (Some(1), Some(1))
    );

    running.expect(
        0,
        "entry create job --spiffe-id spiffe://dev.test/job --agent n1 --selector unix:uid:5 --ttl 90s",
    );
    let again = running.expect(
        2,
        "entry create job --spiffe-id spiffe://dev.test/job --agent n2 --selector unix:uid:5",
    );
    assert!(again.notices.contains("entry job exists already"), "{}", again.notices);
    assert_eq!(running.json(0, "entry show job")["ttl_seconds"], 90);
    let page = running.json(0, "entry list --limit 1");
    assert_eq!(
        (page["entries"][0]["name"].as_str(), page["next"].as_str()),
        (Some("job"), Some("job"))
    );
    assert_eq!(
        running.json(0, "entry list --limit 1 --page job")["entries"][0]["name"],
        "web"
    );

    assert_eq!(
        running.json(0, "entry explain --agent n1 --selector unix:uid:5")["explanations"][0]["name"],
        "job"
    );
    running.expect(3, "entry explain --agent n9 --selector unix:uid:6");
    running.expect(3, "entry show db");
    running.expect(3, "entry delete db");
    running.expect(0, "entry delete job --dry-run");
    running.expect(0, "entry delete job");
    fs::remove_file(dir.join("web.toml")).unwrap();
    running.expect(1, "entry apply -f DIR/entries --prune");
}

#[test]
fn tokens_agents_and_revocations_answer_as_promised() {
    let running = Running::new();
    let token = running.expect(0, "token create --agent n1 --ttl 5m");
    assert!(
        token.data.starts_with("mint1_") && token.data.lines().count() == 1,
        "{}",
        token.data
    );
    assert!(
        token.notices.contains("shown once") && !token.notices.contains("mint1_"),
        "{}",
        token.notices
    );
    assert_eq!(running.expect(0, "token create --agent n1 --dry-run").data, "");
    running.expect(0, "token create --agent n2 --out DIR/token");
    assert!(
        fs::read_to_string(running.dir.path().join("token"))
            .unwrap()
            .starts_with("mint1_")
    );
    running.expect(1, "token create --agent n2 --out DIR/token");
    let tokens = running.json(0, "token list");
    assert_eq!(tokens["tokens"].as_array().unwrap().len(), 2);
    let id = tokens["tokens"][0]["id"].as_str().unwrap();
    running.expect(0, &format!("token delete {id} --dry-run"));
    running.expect(0, &format!("token delete {id}"));
    running.expect(3, &format!("token delete {id}"));

    assert_eq!(running.json(0, "agent list")["agents"], Value::Array(Vec::new()));
    running.expect(3, "agent show n1");
    running.expect(3, "agent ban n1");
    running.expect(3, "revoke --agent n1");
    running.expect(3, "revoke --serial 4f");
    running.expect(2, "revoke --spiffe-id spiffe://other.test/web");
    let dry = running.json(0, "revoke --spiffe-id spiffe://dev.test/web --dry-run");
    assert_eq!(
        (dry["sequence"].as_u64(), dry["dry_run"].as_bool()),
        (Some(0), Some(true))
    );
    assert_eq!(
        running.json(0, "revocation list")["revocations"],
        Value::Array(Vec::new())
    );
    let done = running.expect(
        0,
        "revoke --spiffe-id spiffe://dev.test/web --reason key-compromise --note leaked --wait 1s",
    );
    assert!(done.notices.contains("no agent is connected"), "{}", done.notices);
    let list = running.json(0, "revocation list");
    assert_eq!(
        (list["revocations"][0]["note"].as_str(), list["next"].as_str()),
        (Some("leaked"), None)
    );
    assert_eq!(running.json(0, "revocation status")["rules"], 1);
}

#[test]
fn a_token_that_no_ca_makes_leaves_no_file() {
    let mut running = Running::new();
    running.stop();
    running.expect(2, "token create --agent n1 --out DIR/token");
    assert!(!running.dir.path().join("token").exists());
}

#[test]
fn the_ledger_is_searched_shown_proven_and_verified() {
    let mut running = Running::new();
    let status = running.json(0, "ca status");
    assert_eq!(
        (status["ready"].as_bool(), status["trust_domain"].as_str()),
        (Some(true), Some("dev.test"))
    );
    let certificates = running.json(0, "cert list");
    let serial = certificates["certificates"][0]["serial"].as_str().unwrap().to_owned();
    let shown = running.json(0, &format!("audit show {serial}"));
    assert_eq!(shown["body"]["profile"], "replica");
    assert_eq!(shown["certificate"]["serial"], serial.as_str());
    let text = running.expect(0, "audit show 0").data;
    assert!(text.contains("log.open") && text.contains("Caused by"), "{text}");
    let found = running.json(0, "audit search --kind ca.event --limit 3");
    assert_eq!(
        (found["records"].as_array().unwrap().len(), found["next"].is_string()),
        (3, true)
    );
    assert_eq!(
        running.json(0, "audit search --state revoked")["records"],
        Value::Array(Vec::new())
    );
    running.expect(3, "audit show 4000");
    running.expect(3, "audit show serial:4f");
    running.expect(1, "audit show web");

    let proof = running.json(0, &format!("audit proof {serial}"));
    assert_eq!(proof["verified"], true);
    running.expect(3, "audit proof 4000");
    let key = proof["vkey"].as_str().unwrap();
    fs::write(running.dir.path().join("vkey"), key).unwrap();
    fs::write(
        running.dir.path().join("other"),
        mintage_ledger::Vkey::new("dev.test/mintage/x/2026-11", [7; 32])
            .unwrap()
            .to_string(),
    )
    .unwrap();
    running.expect(0, &format!("audit proof {serial} --vkey DIR/vkey"));
    running.expect(3, &format!("audit proof {serial} --vkey DIR/other"));

    running.stop();
    running.expect(2, "ca status");
    let offline = running.json(0, &format!("audit proof {serial} --offline --vkey DIR/vkey"));
    assert_eq!(offline["record"], proof["record"]);
    assert_eq!(
        running.json(0, "audit verify --vkey DIR/vkey --signatures")["certificates"],
        1
    );
    assert_eq!(running.json(3, "audit verify --vkey DIR/other")["proven"], false);
    running.expect(1, "audit verify --data-dir DIR");
}

#[test]
fn a_token_that_sends_its_node_nowhere_is_told_with_the_remedy() {
    let running = Running::listening("0.0.0.0:0");
    let made = running.expect(0, "token create --agent n1");
    assert!(
        made.data.starts_with("mint1_") && made.notices.contains("the CA advertises 0.0.0.0:"),
        "{}",
        made.notices
    );
    assert!(made.notices.contains("advertise = ["), "{}", made.notices);
    let running = Running::new();
    let made = running.expect(0, "token create --agent n1");
    assert!(!made.notices.contains("advertise"), "{}", made.notices);
}

#[test]
fn the_bundle_is_shown_in_every_form() {
    let running = Running::new();
    let bundle = running.json(0, "bundle show");
    let pem = running.expect(0, "bundle show -o pem").data;
    assert_eq!(bundle["roots"][0]["pem"], pem.as_str());
    let jwks: Value = serde_json::from_str(&running.expect(0, "bundle show -o jwks").data).unwrap();
    assert_eq!(jwks["keys"][0]["use"], "x509-svid");
    running.expect(1, "agent list -o pem");
    assert!(
        running
            .expect(0, "completions fish")
            .data
            .contains("complete -c mintage")
    );
    assert_eq!(running.json(0, "version")["version"], env!("CARGO_PKG_VERSION"));
}
