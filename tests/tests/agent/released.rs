//! A delivery that is taken out of an agent's configuration: what lies in its folder is revoked, and nothing else is.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::{
    fs,
    path::Path,
    time::{Duration, Instant},
};

use mintage_proto::v1::{
    AgentMessage, GetRecordRequest, Release, SearchRequest, agent_message::Message as Up, get_record_request::Key,
    ledger_client::LedgerClient,
};
use mintage_svid::{LeafInfo, pem};
use mintage_tests::kit::{
    agent::{AgentProcess, config},
    ca::{CaProcess, TestCa, entry, make, token},
    client::{admin, join},
    stream::{Stream, ask},
};

/// Longest wait for what should happen at once; the machine may be busy.
const SOON: Duration = Duration::from_secs(60);

fn serial_in(folder: &Path) -> Option<String> {
    let chain = pem::decode_certificates(&fs::read_to_string(folder.join("svid.pem")).ok()?).ok()?;
    Some(LeafInfo::parse(chain.first()?).ok()?.serial().to_string())
}

/// State of a certificate, and why it is revoked.
async fn state(socket: &Path, serial: &str) -> (String, String, String) {
    let mut ledger = LedgerClient::new(admin(socket).await.unwrap());
    let key = Some(Key::Serial(serial.to_owned()));
    let answer = ledger.get_record(GetRecordRequest { key }).await.unwrap().into_inner();
    let note = answer.strikers.first().map(|striker| striker.note.clone());
    let summary = answer.summary.unwrap();
    (summary.state, summary.revoked_for, note.unwrap_or_default())
}

async fn revoked(socket: &Path, serial: &str) -> (String, String) {
    let began = Instant::now();
    loop {
        let (state, why, note) = state(socket, serial).await;
        if state == "revoked" {
            return (why, note);
        }
        assert!(began.elapsed() < SOON, "{serial} is {state}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_delivered_is_revoked_when_its_delivery_ends_by_a_signal_or_while_the_agent_was_stopped() {
    let folder = tempfile::tempdir().unwrap();
    let place = folder.path().join("node");
    fs::create_dir(&place).unwrap();
    let data = folder.path().join("ca");
    make(&data);
    let ca = CaProcess::start(&data, 0);
    let socket = ca.admin_socket();
    let names = ["web", "db", "cache"];
    for name in names {
        entry(&socket, name, &format!("/{name}")).await;
    }
    let file = config(&place, &names);
    let mut agent = AgentProcess::start(&place, &file, Some(&token(&socket, "n1").await));
    let serials = names.map(|name| agent.wait_for("a delivery", || serial_in(&place.join(name))));

    config(&place, &["db", "cache"]);
    agent.hang_up();
    let (why, note) = revoked(&socket, &serials[0]).await;
    assert_eq!(
        (why.as_str(), note.as_str()),
        ("cessation-of-operation", "its delivery on agent n1 ended")
    );
    for serial in &serials[1..] {
        assert_eq!(state(&socket, serial).await.0, "live");
    }
    assert_eq!(agent.stop(), Some(0));
    config(&place, &["cache"]);
    let agent = AgentProcess::start(&place, &file, None);
    assert_eq!(revoked(&socket, &serials[1]).await.0, "cessation-of-operation");
    assert_eq!(state(&socket, &serials[2]).await.0, "live");
    assert_eq!(agent.stop(), Some(0));
    assert_eq!(ca.stop(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_can_release_only_what_was_issued_to_itself_by_an_entry() {
    let ca = TestCa::start().await;
    let socket = ca.ca.admin_socket().to_owned();
    let address = ca.ca.address().to_string();
    ca.entry("web", "/web").await;
    let mut serials = Vec::new();
    let mut streams = Vec::new();
    let mut agents = Vec::new();
    for name in ["n1", "n2"] {
        let agent = join(&ca.token(name).await).await.unwrap();
        let mut stream = Stream::open(&agent, &address).await.unwrap();
        let minted = stream.ask_one(ask("web")).await.unwrap();
        serials.push(*LeafInfo::parse(&minted.leaf).unwrap().serial());
        agents.push(*LeafInfo::parse(&agent.chain[0]).unwrap().serial());
        streams.push(stream);
    }
    // Another agent's, its own agent certificate, one that nobody has, and last its own.
    let mut asked: Vec<Vec<u8>> = [serials[1], agents[0], agents[1]]
        .iter()
        .map(|s| s.octets().to_vec())
        .collect();
    asked.push(vec![0x77; 16]);
    asked.push(serials[0].octets().to_vec());
    let release = |serials: Vec<Vec<u8>>| AgentMessage {
        message: Some(Up::Release(Release { serials })),
    };
    streams[0].say(release(asked.clone())).await.unwrap();
    revoked(&socket, &serials[0].to_string()).await;
    for serial in [serials[1], agents[0], agents[1]] {
        assert_eq!(state(&socket, &serial.to_string()).await.0, "live");
    }
    // Said again, it changes nothing.
    let revocations = || async {
        let request = SearchRequest {
            kinds: vec!["revoke".to_owned()],
            ..SearchRequest::default()
        };
        let mut ledger = LedgerClient::new(admin(&socket).await.unwrap());
        ledger.search(request).await.unwrap().into_inner().records.len()
    };
    let before = revocations().await;
    streams[0].say(release(asked)).await.unwrap();
    // What comes after it on the stream is answered, so it was read.
    assert!(streams[0].ask_one(ask("web")).await.unwrap().refusal.is_none());
    assert_eq!(revocations().await, before);
    // More than a message holds ends the stream.
    streams[0].say(release(vec![vec![1]; 65])).await.unwrap();
    let ended = streams[0].minted().await.unwrap_err();
    assert!(
        ended.message().contains("release.serials") && ended.message().contains("64"),
        "{ended}"
    );
    ca.stop().await;
}
