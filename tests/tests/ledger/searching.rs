//! `audit search` of the real program: certificates by what became of them, by serial, and page by page.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::{
    collections::BTreeSet,
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

use mintage_ca::Ca;
use mintage_proto::v1::Entry;
use mintage_svid::LeafInfo;
use mintage_tests::kit::{
    bins::binary,
    ca::{apply, config, make_with, token},
    client::join,
    clock::Shifted,
    stream::{Stream, ask, code},
};
use serde_json::Value;

#[track_caller]
fn search(data: &Path, words: &[&str]) -> Value {
    let mut command = Command::new(binary("mintage"));
    for variable in ["MINTAGE_FORMAT", "MINTAGE_ADMIN_SOCKET", "MINTAGE_LOG"] {
        command.env_remove(variable);
    }
    command
        .arg("--data-dir")
        .arg(data)
        .args(["audit", "search", "-o", "json"]);
    let output = command.args(words).stdin(Stdio::null()).output().unwrap();
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(0), "{words:?}: {told}");
    serde_json::from_slice(&output.stdout).unwrap()
}

fn indices(found: &Value) -> Vec<u64> {
    let rows = found["records"].as_array().unwrap();
    rows.iter().map(|row| row["index"].as_u64().unwrap()).collect()
}

fn serials(found: &Value) -> Vec<String> {
    let rows = found["records"].as_array().unwrap();
    let serial = |row: &Value| row["serial"].as_str().unwrap().to_owned();
    rows.iter().map(serial).collect()
}

async fn issue(stream: &mut Stream, entry: &str) -> String {
    let minted = stream.ask_one(ask(entry)).await.unwrap();
    assert_eq!(code(&minted), "");
    LeafInfo::parse(&minted.leaf).unwrap().serial().to_string()
}

fn entry(name: &str, ttl_seconds: i64) -> Entry {
    Entry {
        name: name.to_owned(),
        spiffe_id: format!("spiffe://dev.test/shop/{name}"),
        agents: vec!["spiffe://dev.test/mintage/agent/*".to_owned()],
        selectors: vec!["unix:uid:1".to_owned()],
        ttl_seconds,
        ..Entry::default()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn certificates_are_found_by_what_became_of_them_by_serial_and_page_by_page() {
    // By the machine's clock, too, its certificate is good all the time.
    let clock = Shifted::behind(Duration::from_secs(600));
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("ca");
    make_with(&data, &clock.deps());
    let ca = Ca::start(config(&data), clock.deps()).await.unwrap();
    apply(ca.admin_socket(), vec![entry("brief", 60), entry("long", 3600)])
        .await
        .unwrap();
    let joined = join(&token(ca.admin_socket(), "n1").await).await.unwrap();
    let mut stream = Stream::open(&joined, &ca.address().to_string()).await.unwrap();
    let expired = issue(&mut stream, "brief").await;
    clock.move_on(Duration::from_secs(600));
    let revoked = issue(&mut stream, "long").await;
    let live = issue(&mut stream, "long").await;
    drop(stream);
    let output = Command::new(binary("mintage"))
        .env_remove("MINTAGE_ADMIN_SOCKET")
        .arg("--data-dir")
        .arg(&data)
        .args(["revoke", "--serial", &revoked, "--reason", "superseded", "--no-renew"])
        .stdin(Stdio::null())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));

    let shop = ["--id-prefix", "spiffe://dev.test/shop/*", "--kind", "issue"];
    let of = |states: &str| serials(&search(&data, &[&shop[..], &["--state", states]].concat()));
    assert_eq!(of("live"), [live.as_str()]);
    assert_eq!(of("expired"), [expired.as_str()]);
    assert_eq!(of("revoked"), [revoked.as_str()]);
    assert_eq!(of("expired,revoked"), [revoked.as_str(), &expired]);
    assert_eq!(of("live,expired,revoked"), [live.as_str(), &revoked, &expired]);
    assert_eq!(serials(&search(&data, &shop)), [live.as_str(), &revoked, &expired]);

    for serial in [&live, &revoked, &expired] {
        let found = search(&data, &["--serial", serial]);
        assert!(serials(&found).contains(serial), "{found}");
        let issued = search(&data, &["--serial", serial, "--kind", "issue"]);
        assert_eq!(serials(&issued), [serial.as_str()]);
    }
    assert!(indices(&search(&data, &["--serial", &"4".repeat(32)])).is_empty());

    // Pages join without a gap and without a row twice.
    let all = indices(&search(&data, &["--limit", "1000"]));
    assert!(all.len() > 10 && all.is_sorted_by(|one, two| one > two), "{all:?}");
    let (mut joined, mut pages, mut page) = (Vec::new(), 0, None::<String>);
    loop {
        let mut words = vec!["--limit", "4"];
        if let Some(page) = &page {
            words.extend(["--page", page.as_str()]);
        }
        let found = search(&data, &words);
        let rows = indices(&found);
        assert!(rows.len() <= 4, "{found}");
        joined.extend(rows);
        pages += 1;
        page = found["next"]
            .as_str()
            .filter(|next| !next.is_empty())
            .map(str::to_owned);
        if page.is_none() {
            break;
        }
    }
    assert_eq!(joined, all);
    assert_eq!(pages, all.len().div_ceil(4));
    assert_eq!(joined.iter().collect::<BTreeSet<_>>().len(), all.len());
    ca.stop().await;
}
