//! How long things live: lifetimes that no entry may ask for, certificates that would outlive their issuer, and an issuer
//! at its own end, over the CA's real wire.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::{
    net::SocketAddr,
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

use mintage_ca::{Ca, CaError, Clock, Deps};
use mintage_identity::Ttl;
use mintage_mint::limits::{INTERMEDIATE_LIFETIME, ISSUER_MARGIN};
use mintage_policy::IssuancePolicy;
use mintage_proto::v1::{
    CaStatusRequest, CaStatusResponse, CreateTokenRequest, Entry, ListEntriesRequest, ListTokensRequest, MintResult,
};
use mintage_svid::{CertInfo, LeafInfo};
use mintage_tests::kit::{
    bins::binary,
    ca::{TestCa, apply, config, entry, make_with, token},
    client::{join, registry},
    clock::Shifted,
    face::get,
    inventory::records,
    stream::{Stream, ask, code},
};
use tonic::Code;

/// Longest wait for what should happen at once; the machine may be busy.
const SOON: Duration = Duration::from_secs(30);
/// Lifetimes of a workload's certificate are out of range beyond these (in seconds).
const TTL_MIN: i64 = 60;
const TTL_MAX: i64 = 86_400;
/// What 32 bits would cut off: a number beyond them must not come out as the small one below them.
const BEYOND_32_BITS: i64 = 1 << 32;

/// An authority made so long ago that its issuing certificate has this much left of its life.
fn make_ending(dir: &Path, left: Duration) {
    make_with(dir, &Shifted::behind(INTERMEDIATE_LIFETIME - left).deps());
}

fn wanted(name: &str, ttl_seconds: i64) -> Entry {
    Entry {
        name: name.to_owned(),
        spiffe_id: format!("spiffe://dev.test/{name}"),
        agents: vec!["spiffe://dev.test/mintage/agent/*".to_owned()],
        selectors: vec!["unix:uid:1".to_owned()],
        ttl_seconds,
        ..Entry::default()
    }
}

async fn status(socket: &Path) -> CaStatusResponse {
    let asked = registry(socket).await.ca_status(CaStatusRequest {}).await;
    asked.unwrap().into_inner()
}

/// How many certificates the ledger tells of.
async fn issued(socket: &Path) -> usize {
    records(socket, "issue", "").await.len()
}

fn leaf(result: &MintResult) -> LeafInfo {
    assert_eq!(code(result), "", "{result:?}");
    LeafInfo::parse(&result.leaf).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn lifetimes_out_of_range_are_refused_with_field_limit_and_remedy() {
    let ca = TestCa::start().await;
    let socket = ca.ca.admin_socket();
    let before = status(socket).await.ledger_size;
    let mut refusals = Vec::new();
    for ttl in [
        1,
        TTL_MIN - 1,
        TTL_MAX + 1,
        i64::from(u32::MAX),
        BEYOND_32_BITS,
        BEYOND_32_BITS + TTL_MIN,
        i64::MAX,
        -1,
        -600,
        TTL_MIN - BEYOND_32_BITS,
        i64::MIN,
    ] {
        // One bad entry refuses the whole set.
        let set = vec![wanted("good", TTL_MIN), wanted("bad", ttl)];
        refusals.push((ttl, apply(socket, set).await.unwrap_err()));
    }
    for (ttl, refused) in refusals {
        assert_eq!(refused.code(), Code::InvalidArgument, "{ttl}: {refused:?}");
        for word in [
            "entry bad",
            "ttl",
            &ttl.to_string(),
            "out of range",
            "allowed are 60s to 24h",
        ] {
            assert!(refused.message().contains(word), "{ttl}: {refused:?}");
        }
    }
    let listed = registry(socket).await.list_entries(ListEntriesRequest::default()).await;
    assert!(listed.unwrap().into_inner().entries.is_empty());
    assert_eq!(status(socket).await.ledger_size, before, "nothing was recorded");
    apply(socket, vec![wanted("least", TTL_MIN), wanted("most", TTL_MAX)])
        .await
        .unwrap();
    ca.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tokens_life_out_of_range_is_refused_and_not_cut_to_one_in_range() {
    let ca = TestCa::start().await;
    let socket = ca.ca.admin_socket();
    let before = status(socket).await.ledger_size;
    for ttl_seconds in [9, 86_401, BEYOND_32_BITS, BEYOND_32_BITS + 600, i64::MAX, -1, i64::MIN] {
        let request = CreateTokenRequest {
            agent: "n1".to_owned(),
            ttl_seconds,
            dry_run: false,
        };
        let refused = registry(socket).await.create_token(request).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument, "{ttl_seconds}: {refused:?}");
        assert!(
            refused.message().contains(&ttl_seconds.to_string()),
            "{ttl_seconds}: {refused:?}"
        );
    }
    assert_eq!(status(socket).await.ledger_size, before, "nothing was recorded");
    ca.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_lifetime_means_ten_minutes_and_the_servers_own_limit_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("ca");
    make_with(&dir, &Deps::system());
    let policy = IssuancePolicy {
        max_ttl: Ttl::from_seconds(900).unwrap(),
        ..IssuancePolicy::default()
    };
    let ca = Ca::start(config(&dir).with_policy(policy), Deps::system())
        .await
        .unwrap();
    let socket = ca.admin_socket().to_path_buf();
    let refused = apply(&socket, vec![wanted("long", 901)]).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    for word in ["long", "901", "900", "max_ttl"] {
        assert!(refused.message().contains(word), "{refused:?}");
    }
    apply(&socket, vec![wanted("plain", 0)]).await.unwrap();
    let agent = join(&token(&socket, "n1").await).await.unwrap();
    let mut stream = Stream::open(&agent, &ca.address().to_string()).await.unwrap();
    let asked = Deps::system().clock.now();
    let plain = leaf(&stream.ask_one(ask("plain")).await.unwrap());
    let life = plain.not_after().since(asked.floor_to_second());
    assert!(
        (Duration::from_secs(600)..Duration::from_secs(600) + SOON).contains(&life),
        "{life:?}"
    );
    // Backdating is no lifetime.
    assert!(plain.not_before() <= asked.minus(Duration::from_secs(29)));
    ca.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_would_outlive_the_issuer_is_cut_a_minute_before_its_end() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("ca");
    make_ending(&dir, Duration::from_secs(600));
    let clock = Shifted::behind(Duration::ZERO);
    let ca = Ca::start(config(&dir), clock.deps()).await.unwrap();
    let socket = ca.admin_socket().to_path_buf();
    apply(&socket, vec![wanted("day", TTL_MAX), wanted("minute", TTL_MIN)])
        .await
        .unwrap();
    let agent = join(&token(&socket, "n1").await).await.unwrap();
    let end = CertInfo::parse_signing(&agent.chain[1]).unwrap().not_after();
    let last = end.minus(ISSUER_MARGIN);
    // An agent's hour is cut like a workload's day.
    assert_eq!(LeafInfo::parse(&agent.chain[0]).unwrap().not_after(), last);
    let mut stream = Stream::open(&agent, &ca.address().to_string()).await.unwrap();
    assert_eq!(
        leaf(&stream.ask_one(ask("day")).await.unwrap()).not_after(),
        last,
        "cut a minute before {end:?}"
    );
    assert!(leaf(&stream.ask_one(ask("minute")).await.unwrap()).not_after() < last);
    // Two and a half minutes before the end there is a life of 90 s to give, and a minute fits into it.
    clock.move_to(end, Duration::from_secs(150));
    let day = leaf(&stream.ask_one(ask("day")).await.unwrap());
    let minute = leaf(&stream.ask_one(ask("minute")).await.unwrap());
    assert_eq!(day.not_after(), last);
    assert!(minute.not_after() <= last && minute.not_after() > clock.now());
    ca.stop().await;
}

/// Waits until the CA says of itself that it is not ready, and returns why.
async fn not_ready(socket: &Path) -> String {
    let started = Instant::now();
    loop {
        let status = status(socket).await;
        if !status.ready {
            return status.not_ready_because;
        }
        assert!(started.elapsed() < SOON, "the CA still says that it is ready");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_issuer_at_its_end_gives_nothing_away_and_raises_the_alarm() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("ca");
    make_ending(&dir, Duration::from_secs(600));
    let clock = Shifted::behind(Duration::ZERO);
    let face = SocketAddr::from(([127, 0, 0, 1], 0));
    let ca = Ca::start(config(&dir).with_metrics(Some(face)), clock.deps())
        .await
        .unwrap();
    let (socket, face) = (ca.admin_socket().to_path_buf(), ca.metrics_address().unwrap());
    entry(&socket, "web", "/web").await;
    let agent = join(&token(&socket, "n1").await).await.unwrap();
    let end = CertInfo::parse_signing(&agent.chain[1]).unwrap().not_after();
    let mut stream = Stream::open(&agent, &ca.address().to_string()).await.unwrap();
    leaf(&stream.ask_one(ask("web")).await.unwrap());
    assert!(status(&socket).await.ready && get(face, "/ready").await.starts_with("HTTP/1.1 200"));
    let before = issued(&socket).await;

    // The agent's own certificate lives until a minute before the end: now it may still speak, and gets nothing.
    clock.move_to(end, Duration::from_secs(110));
    for entry in ["web", ""] {
        let refused = stream.ask_one(ask(entry)).await.unwrap();
        let refusal = refused.refusal.clone().expect("a refusal");
        assert_eq!(
            (refusal.code.as_str(), refusal.grpc_code),
            ("issuer-expiring", Code::FailedPrecondition as u32)
        );
        assert!(refused.leaf.is_empty() && refused.receipt.is_none() && refusal.message.contains("rotate"));
    }
    let why = not_ready(&socket).await;
    assert!(why.contains("issuing CA expires at 20"), "{why}");
    assert!(get(face, "/ready").await.starts_with("HTTP/1.1 503"));

    // 30 s before the end and an hour after it, nobody joins, and no token is used up by trying.
    for (before_end, agent) in [(Duration::from_secs(30), "n2"), (Duration::ZERO, "n3")] {
        clock.move_to(end, before_end);
        let token = token(&socket, agent).await;
        let recorded = status(&socket).await.ledger_size;
        let refused = join(&token).await.unwrap_err();
        assert_eq!(refused.code(), Code::FailedPrecondition, "{refused:?}");
        assert_eq!(status(&socket).await.ledger_size, recorded, "nothing was recorded");
        clock.move_on(Duration::from_secs(3600));
    }
    let tokens = registry(&socket).await.list_tokens(ListTokensRequest::default()).await;
    let tokens = tokens.unwrap().into_inner().tokens;
    assert_eq!(tokens.iter().filter(|token| token.used).count(), 1, "{tokens:?}");
    assert_eq!(issued(&socket).await, before, "no certificate");

    let metrics = get(face, "/metrics").await;
    for line in [
        format!("mintage_ca_expiry_timestamp_seconds{{ca=\"issuer\"}} {}", end.seconds()),
        "mintage_issuance_requests_total{profile=\"\",result=\"refused\",reason=\"issuer-expiring\"} 4".to_owned(),
        "mintage_ready 0".to_owned(),
    ] {
        assert!(metrics.contains(&line), "{line} is missing in\n{metrics}");
    }
    ca.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ca_whose_issuer_has_ended_does_not_start() {
    for left in [Duration::from_secs(30), Duration::ZERO] {
        let folder = tempfile::tempdir().unwrap();
        let dir = folder.path().join("ca");
        make_ending(&dir, left);
        let output = Command::new(binary("mintage-ca"))
            .args(["serve", "--listen", "127.0.0.1:0", "--data-dir"])
            .arg(&dir)
            .output()
            .unwrap();
        let told = String::from_utf8_lossy(&output.stderr);
        let last = told.lines().last().unwrap_or_default();
        assert_eq!(output.status.code(), Some(1), "{told}");
        assert!(
            last.contains("the issuing CA expires at 20") && last.contains("rotate"),
            "{told}"
        );
        // Where the clock is right again, it serves; the only certificate of its ledger is the one it then gives itself.
        let clock = Shifted::behind(Duration::from_secs(3600));
        let ca = Ca::start(config(&dir), clock.deps()).await;
        let ca = ca.unwrap_or_else(|error: CaError| panic!("{error}"));
        assert_eq!(issued(ca.admin_socket()).await, 1);
        ca.stop().await;
    }
}
