//! A revocation that stands is told whatever comes after it, by the real `mintage`.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::{
    fs,
    io::{BufRead, BufReader, Read},
    path::Path,
    process::{Child, Command, Stdio},
};

use mintage_svid::pem;
use mintage_tests::kit::{
    bins::binary,
    ca::{CaProcess, TestCa, entry, make, token},
    client::{join, key_and_csr},
    stream::{Stream, ask_with},
};
use serde_json::{Value, json};

fn mintage(socket: &Path, words: &[&str]) -> Child {
    let mut command = Command::new(binary("mintage"));
    command
        .args(words)
        .args(["-o", "json"])
        .env("MINTAGE_ADMIN_SOCKET", socket);
    command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command.spawn().unwrap()
}

/// Its exit code, its JSON and its notices.
fn ended(child: Child) -> (Option<i32>, Value, String) {
    let output = child.wait_with_output().unwrap();
    let [data, notices] = [output.stdout, output.stderr].map(|octets| String::from_utf8(octets).unwrap());
    let told = serde_json::from_str(&data).unwrap_or_else(|error| panic!("{error}: {data}{notices}"));
    (output.status.code(), told, notices)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revocation_that_stands_is_told_when_the_ca_is_lost() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("ca");
    make(&data);
    let ca = CaProcess::start(&data, 0);
    entry(&ca.admin_socket(), "web", "/web").await;
    let agent = join(&token(&ca.admin_socket(), "n1").await).await.unwrap();
    // It is connected and never acknowledges.
    let mut stream = Stream::open(&agent, &ca.address).await.unwrap();
    stream.ask_one(ask_with("web", key_and_csr().1)).await.unwrap();
    let words = ["revoke", "--spiffe-id", "spiffe://dev.test/web", "--wait", "10m"];
    let mut child = mintage(&ca.admin_socket(), &words);
    let mut notices = BufReader::new(child.stderr.take().unwrap());
    let (line, notices) = tokio::task::spawn_blocking(move || {
        let mut line = String::new();
        notices.read_line(&mut line).unwrap();
        (line, notices)
    })
    .await
    .unwrap();
    assert!(line.contains("enforced on 0 of 1 agent"), "{line}");
    ca.kill();
    let (code, told, rest) = tokio::task::spawn_blocking(move || {
        let (code, told, _) = ended(child);
        let (mut notices, mut rest) = (notices, String::new());
        notices.read_to_string(&mut rest).unwrap();
        (code, told, rest)
    })
    .await
    .unwrap();
    assert_eq!(code, Some(2), "{rest}");
    assert_eq!(
        (&told["certificates"], &told["enforced"]),
        (&json!(1), &Value::Null),
        "{told}"
    );
    assert!(
        told.get("enforced").is_some() && told["sequence"].as_u64() > Some(0),
        "{told}"
    );
    assert_eq!(told["serials"].as_array().unwrap().len(), 1);
    assert!(rest.contains("the revocation stands"), "{rest}");
}

#[tokio::test(flavor = "multi_thread")]
async fn findings_tell_what_was_not_tried_and_count_a_certificate_once() {
    let ca = TestCa::start().await;
    ca.entry("web", "/web").await;
    let agent = join(&ca.token("n1").await).await.unwrap();
    let mut stream = Stream::open(&agent, &ca.ca.address().to_string()).await.unwrap();
    let (key, csr) = key_and_csr();
    let web = stream.ask_one(ask_with("web", csr)).await.unwrap().leaf;
    let certificate = pem::encode_certificates([&web]);
    let both = format!("{}{certificate}", &*pem::encode_private_key(&key));
    let found = ca.beside("findings.json");
    let finding = json!([{"RuleID": "x", "File": "tls.pem", "StartLine": 1, "Secret": both, "Match": "-"}]);
    fs::write(&found, finding.to_string()).unwrap();
    let found = found.to_str().unwrap().to_owned();
    let run = async |more: &[&str]| {
        let child = mintage(ca.ca.admin_socket(), &[&["revoke", "--from", &found], more].concat());
        tokio::task::spawn_blocking(move || ended(child)).await.unwrap()
    };

    let long = "x".repeat(300);
    let (code, told, notices) = run(&["--note", &long]).await;
    assert_eq!(code, Some(2), "{notices}");
    let lengths = ["matched", "failed", "not_tried", "unmatched"].map(|list| told[list].as_array().unwrap().len());
    assert_eq!(lengths, [0, 1, 1, 0], "{told}");
    let fingerprint = told["failed"][0]["fingerprint"].as_str().unwrap();
    assert!(notices.contains(fingerprint) && told["sequence"] == 0, "{notices}");

    for more in [&["--dry-run"][..], &["--no-renew"]] {
        let (code, told, notices) = run(more).await;
        assert_eq!(code, Some(0), "{notices}");
        assert_eq!(told["matched"].as_array().unwrap().len(), 2, "{told}");
        assert_eq!(told["certificates"], 1, "{told}");
    }
    ca.stop().await;
}
