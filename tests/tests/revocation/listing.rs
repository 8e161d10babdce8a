//! What is revoked, as the real `mintage` lists, counts and exports it: nothing at first, then one of each sort, page by page; and
//! what is asked wrongly is refused with its name and what to give instead.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::{
    fs,
    process::{Command, Stdio},
};

use mintage_svid::LeafInfo;
use mintage_tests::kit::{
    bins::binary,
    ca::TestCa,
    client::join,
    stream::{Stream, ask},
};
use serde_json::{Value, json};

/// How a verb ended, and what it printed on both streams.
struct Ended {
    code: Option<i32>,
    data: String,
    notices: String,
}

impl Ended {
    fn json(&self) -> Value {
        assert_eq!(self.code, Some(0), "{}{}", self.data, self.notices);
        serde_json::from_str(&self.data).unwrap_or_else(|error| panic!("{error}: {}", self.data))
    }
}

async fn mintage(ca: &TestCa, words: &[&str]) -> Ended {
    let mut command = Command::new(binary("mintage"));
    command.args(words).stdin(Stdio::null());
    command.env("MINTAGE_ADMIN_SOCKET", ca.ca.admin_socket());
    let output = tokio::task::spawn_blocking(move || command.output().unwrap())
        .await
        .unwrap();
    let [data, notices] = [output.stdout, output.stderr].map(|octets| String::from_utf8(octets).unwrap());
    Ended {
        code: output.status.code(),
        data,
        notices,
    }
}

/// The leaves of three entries, which nobody is connected for any more.
async fn issued(ca: &TestCa) -> [LeafInfo; 3] {
    let agent = join(&ca.token("n1").await).await.unwrap();
    let mut stream = Stream::open(&agent, &ca.ca.address().to_string()).await.unwrap();
    let mut leaves = Vec::new();
    for name in ["web", "db", "api"] {
        ca.entry(name, &format!("/{name}")).await;
        let leaf = stream.ask_one(ask(name)).await.unwrap().leaf;
        leaves.push(LeafInfo::parse(&leaf).unwrap());
    }
    leaves.try_into().unwrap()
}

/// One revocation of each sort; the record of each.
async fn revoked(ca: &TestCa, [web, db, api]: &[LeafInfo; 3]) -> Vec<Value> {
    let (serial, id, key) = (
        web.serial().to_string(),
        db.id().to_string(),
        api.spki_sha256().to_string(),
    );
    let mut records = Vec::new();
    for (target, value, more) in [
        ("--serial", &serial, ["--note", "a lost laptop"]),
        ("--spiffe-id", &id, ["--reason", "superseded"]),
        ("--key", &key, ["--reason", "key-compromise"]),
    ] {
        let words = [
            "revoke",
            target,
            value,
            more[0],
            more[1],
            "--no-renew",
            "--wait",
            "0s",
            "-o",
            "json",
        ];
        records.push(mintage(ca, &words).await.json()["sequence"].clone());
    }
    records
}

#[tokio::test(flavor = "multi_thread")]
async fn revocations_are_listed_newest_first_and_page_by_page() {
    let ca = TestCa::start().await;
    let empty = mintage(&ca, &["revocation", "list", "-o", "json"]).await;
    assert_eq!(
        empty.json(),
        json!({"schema_version": 1, "revocations": [], "next": null})
    );
    let empty = mintage(&ca, &["revocation", "list"]).await;
    assert_eq!((empty.code, empty.data.lines().count()), (Some(0), 1), "{}", empty.data);
    assert!(
        empty.data.starts_with("INDEX") && empty.notices.is_empty(),
        "{}",
        empty.notices
    );

    let leaves = issued(&ca).await;
    let records = revoked(&ca, &leaves).await;
    let [web, db, api] = &leaves;
    let all = mintage(&ca, &["revocation", "list", "-o", "json"]).await.json();
    let rows = all["revocations"].as_array().unwrap();
    let column = |name: &str| rows.iter().map(|row| row[name].clone()).collect::<Vec<_>>();
    assert_eq!(column("index"), records.iter().rev().cloned().collect::<Vec<_>>());
    assert_eq!(
        column("scope"),
        [
            json!(format!("key {}", api.spki_sha256())),
            json!(format!("spiffe-id {}", db.id())),
            json!(format!("serial {}", web.serial())),
        ]
    );
    assert_eq!(column("reason"), ["key-compromise", "superseded", "unspecified"]);
    assert_eq!(column("note"), ["", "", "a lost laptop"]);
    assert_eq!(rows[2]["certificates"], 1);
    let rules = |row: usize| rows[row]["rules"].to_string();
    assert!(
        rules(0).contains(&format!("key {}, every one", api.spki_sha256())),
        "{}",
        rules(0)
    );
    assert!(
        rules(1).contains(&format!("spiffe-id {}, not before up to ", db.id())),
        "{}",
        rules(1)
    );
    assert!(
        column("time")
            .iter()
            .all(|time| time.as_str().is_some_and(|time| time.ends_with('Z')))
    );
    assert!(all["next"].is_null());

    // The pages join to the whole, each begun with the token that the one before named.
    let (mut joined, mut token) = (Vec::new(), None::<String>);
    loop {
        let mut words = vec!["revocation", "list", "-o", "json", "--limit", "1"];
        words.extend(token.iter().flat_map(|token| ["--page", token.as_str()]));
        let page = mintage(&ca, &words).await.json();
        joined.extend(page["revocations"].as_array().unwrap().iter().cloned());
        let Some(next) = page["next"].as_str() else { break };
        token = Some(next.to_owned());
        assert!(joined.len() <= rows.len(), "the pages end");
    }
    assert_eq!(&joined, rows);
    let shown = mintage(&ca, &["revocation", "list", "--limit", "2"]).await;
    assert_eq!(shown.data.lines().count(), 3, "{}", shown.data);
    assert!(shown.notices.contains("there is more: --page "), "{}", shown.notices);
    let shown = mintage(&ca, &["revocation", "list"]).await.data;
    for told in ["a lost laptop", ", not before up to 20"] {
        assert!(shown.contains(told), "{told}: {shown}");
    }

    counted(&ca, rows).await;
    ca.stop().await;
}

/// `status` and both exports tell of the same.
async fn counted(ca: &TestCa, rows: &[Value]) {
    let status = mintage(ca, &["revocation", "status", "-o", "json"]).await.json();
    let rules: usize = rows.iter().map(|row| row["rules"].as_array().unwrap().len()).sum();
    let serials: u64 = rows.iter().filter_map(|row| row["certificates"].as_u64()).sum();
    assert_eq!((&status["rules"], &status["serials"]), (&json!(rules), &json!(serials)));
    assert_eq!(status["sequence"], rows[0]["index"], "{status}");
    let text = mintage(ca, &["revocation", "status"]).await.data;
    assert!(text.contains(&format!("{serials} serials, {rules} rules")), "{text}");

    let exported = mintage(ca, &["revocation", "export", "--format", "jsonl"]).await;
    assert_eq!(
        exported.data.lines().count() as u64,
        rules as u64 + serials,
        "{}",
        exported.data
    );
    let file = ca.beside("snapshot");
    let told = mintage(
        ca,
        &["revocation", "export", "--out", file.to_str().unwrap(), "-o", "json"],
    )
    .await;
    assert_eq!(told.json()["bytes"], fs::read(&file).unwrap().len());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_asked_wrongly_is_refused_with_its_name_and_the_remedy() {
    let ca = TestCa::start().await;
    for (words, code, told) in [
        (
            &["list", "--page", "yesterday"][..],
            1,
            &["--page yesterday: ", "give the one that the page before named"][..],
        ),
        (&["list", "--page", "0"], 1, &["--page 0: ", "begin with the newest"]),
        (&["list", "--page", ""], 1, &["--page : "]),
        (&["list", "--limit", "0"], 1, &["--limit 0 ", "allowed are 1 to "]),
        (&["list", "--limit", "x"], 1, &["--limit <N>"]),
        (
            &["export", "--format", "pem"],
            1,
            &["--format <FORMAT>", "snapshot, jsonl"],
        ),
        (&["status", "everything"], 1, &["'everything'", "Usage: "]),
    ] {
        let words = [&["revocation"], words].concat();
        let ended = mintage(&ca, &words).await;
        assert_eq!(
            (ended.code, ended.data.as_str()),
            (Some(code), ""),
            "{words:?}: {}",
            ended.notices
        );
        for told in told {
            assert!(ended.notices.contains(told), "{words:?}: {}", ended.notices);
        }
    }
    ca.stop().await;
}
