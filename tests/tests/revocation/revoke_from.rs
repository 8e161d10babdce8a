//! What a scanner found is revoked by the real `mintage`, what nobody knows is listed, and no secret is printed; and what
//! is in force is exported.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::{
    fs,
    path::Path,
    process::{Command, Stdio},
};

use mintage_proto::v1::CaStatusRequest;
use mintage_svid::{LeafInfo, cert_sha256, pem};
use mintage_tests::kit::{
    bins::binary,
    ca::TestCa,
    client::{join, key_and_csr, registry},
    inventory::issued,
    stream::{Stream, ask, ask_with, code},
};
use serde_json::{Value, json};

/// What the verb prints, on both streams, and its JSON.
async fn mintage(ca: &TestCa, words: &[&str]) -> (Value, String) {
    let mut command = Command::new(binary("mintage"));
    command.args(words).args(["-o", "json"]).stdin(Stdio::null());
    command.env("MINTAGE_ADMIN_SOCKET", ca.ca.admin_socket());
    let output = tokio::task::spawn_blocking(move || command.output().unwrap())
        .await
        .unwrap();
    let [data, notices] = [output.stdout, output.stderr].map(|octets| String::from_utf8(octets).unwrap());
    assert_eq!(output.status.code(), Some(0), "{data}{notices}");
    (serde_json::from_str(&data).unwrap(), data + &notices)
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_scanner_found_is_revoked_and_the_rest_is_listed() {
    let ca = TestCa::start().await;
    for name in ["web", "db", "api"] {
        ca.entry(name, &format!("/{name}")).await;
    }
    let agent = join(&ca.token("n1").await).await.unwrap();
    let mut stream = Stream::open(&agent, &ca.ca.address().to_string()).await.unwrap();
    let (key, csr) = key_and_csr();
    let web = stream.ask_one(ask_with("web", csr.clone())).await.unwrap().leaf;
    let db = stream.ask_one(ask("db")).await.unwrap().leaf;
    let api = stream.ask_one(ask("api")).await.unwrap().leaf;

    let secret = pem::encode_private_key(&key);
    let findings = json!([
        {"RuleID": "private-key", "File": "tls/web.key", "StartLine": 1, "Secret": &*secret, "Match": "-"},
        {"RuleID": "x", "File": "db.pem", "StartLine": 2, "Secret": pem::encode_certificates([&db]), "Match": "-"},
        {"RuleID": "password", "File": ".env", "StartLine": 3, "Secret": "hunter2", "Match": "P=hunter2"},
    ]);
    let found = ca.beside("findings.json");
    fs::write(&found, findings.to_string()).unwrap();

    let state = async |name: &str| issued(ca.ca.admin_socket(), name).await[0].state.clone();
    let (dry, _) = mintage(&ca, &["revoke", "--from", text(&found), "--dry-run"]).await;
    assert_eq!(
        (&dry["certificates"], &dry["sequence"]),
        (&json!(2), &json!(0)),
        "{dry}"
    );
    assert_eq!(state("web").await, "live");
    let (done, printed) = mintage(&ca, &["revoke", "--from", text(&found), "--no-renew"]).await;
    assert_eq!(
        (&done["certificates"], &done["findings"]),
        (&json!(2), &json!(3)),
        "{done}"
    );
    assert_eq!(done["matched"].as_array().unwrap().len(), 2);
    assert_eq!((&done["others"], &done["unmatched"]), (&json!([".env:3"]), &json!([])));
    let body = secret.lines().nth(1).unwrap();
    assert!(!printed.contains("hunter2") && !printed.contains(body), "{printed}");
    assert_eq!(
        [state("web").await, state("db").await, state("api").await],
        ["revoked", "revoked", "live"]
    );
    assert_eq!(
        code(&stream.ask_one(ask_with("web", csr)).await.unwrap()),
        "key-blocked"
    );

    let colons = hex::encode_upper(cert_sha256(&api).as_bytes());
    let pairs: Vec<&str> = (0..32).map(|at| &colons[2 * at..2 * at + 2]).collect();
    let list = ca.beside("list");
    fs::write(&list, format!("{}\n{}\n", pairs.join(":"), "0a".repeat(32))).unwrap();
    let (done, _) = mintage(&ca, &["revoke", "--from", text(&list), "--reason", "superseded"]).await;
    assert_eq!(
        (&done["certificates"], &done["unmatched"][0]["place"]),
        (&json!(1), &json!("line 2")),
        "{done}"
    );
    assert_eq!(state("api").await, "revoked");
    exported(&ca, &[&web, &db, &api]).await;
    ca.stop().await;
}

/// Both exports tell of these certificates.
async fn exported(ca: &TestCa, revoked: &[&Vec<u8>]) {
    let (snapshot, lines) = (ca.beside("snapshot"), ca.beside("lines"));
    let (told, _) = mintage(ca, &["revocation", "export", text(&snapshot)]).await;
    let bytes = fs::read(&snapshot).unwrap();
    assert_eq!(told["bytes"], bytes.len());
    assert!(bytes.starts_with(b"MNTGRVK1"), "a signed snapshot");
    mintage(ca, &["revocation", "export", text(&lines), "--format", "jsonl"]).await;
    let lines: Vec<Value> = fs::read_to_string(&lines)
        .unwrap()
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let has = |field: &str, value: String| lines.iter().any(|line| line[field] == json!(value));
    // By its key alone; by its serial and, for key-compromise, its key; by its serial alone.
    for (der, expected) in revoked.iter().zip([(false, true), (true, true), (true, false)]) {
        let leaf = LeafInfo::parse(der).unwrap();
        let told = (
            has("serial", leaf.serial().to_string()),
            has("rule", format!("key {}", leaf.spki_sha256())),
        );
        assert_eq!(told, expected, "{lines:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leaked_key_of_the_ca_is_told_as_such_and_the_rest_is_revoked() {
    let ca = TestCa::start().await;
    ca.entry("web", "/web").await;
    let agent = join(&ca.token("n1").await).await.unwrap();
    let mut stream = Stream::open(&agent, &ca.ca.address().to_string()).await.unwrap();
    let web = stream.ask_one(ask("web")).await.unwrap();
    let mut registry = registry(ca.ca.admin_socket()).await;
    let keys = registry
        .ca_status(CaStatusRequest::default())
        .await
        .unwrap()
        .into_inner()
        .keys;
    let issuer = &keys.iter().find(|key| key.role == "intermediate").unwrap().key_id;
    let list = ca.beside("list");
    let leaf = hex::encode(cert_sha256(&web.leaf).as_bytes());
    fs::write(&list, format!("{issuer}  # ci/ca.pem\n{leaf}\n")).unwrap();
    let mut command = Command::new(binary("mintage"));
    command
        .args(["revoke", "--from", text(&list), "-o", "json"])
        .stdin(Stdio::null());
    command.env("MINTAGE_ADMIN_SOCKET", ca.ca.admin_socket());
    let output = tokio::task::spawn_blocking(move || command.output().unwrap())
        .await
        .unwrap();
    let told = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{told}");
    assert!(
        told.contains("the CA's own intermediate key") && told.contains(&format!("--issuer {issuer}")),
        "{told}"
    );
    let done: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(
        (&done["certificates"], &done["unmatched"]),
        (&json!(1), &json!([])),
        "{done}"
    );
    assert_eq!(done["ca_keys"][0]["fingerprint"], json!(issuer));
    assert_eq!(issued(ca.ca.admin_socket(), "web").await[0].state, "revoked");
    ca.stop().await;
}
