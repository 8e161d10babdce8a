//! Verifiers without an agent: how many may follow the signed news, what becomes of one that does not read, and of one that
//! goes on at another CA process.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::{path::Path, time::Duration};

use hyper_util::rt::TokioIo;
use mintage_attest::JoinToken;
use mintage_proto::v1::{
    RevokeRequest, SnapshotRequest, WatchNews, WatchRequest, revocation_client::RevocationClient,
    revoke_request::Target, watch_news::News,
};
use mintage_revocation::RevocationError;
use mintage_tests::kit::{
    ca::{CaProcess, TestCa, domain, make, with_metrics},
    client::{admin, anonymous, join, provider, settings},
    face::metric,
    follower::{Follower, now},
};
use mintage_verifier::{JoinVerifier, join_config};
use rustls::pki_types::ServerName;
use tokio::{net::TcpSocket, time::timeout};
use tokio_rustls::TlsConnector;
use tonic::{
    Code, Streaming,
    transport::{Channel, Endpoint},
};

/// Longest wait for what should happen at once; the machine may be busy.
const SOON: Duration = Duration::from_secs(120);
/// Revocations while somebody does not read.
const REVOCATIONS: usize = 5_000;
/// Commands under way at once.
const AT_ONCE: usize = 4;

async fn revoke(client: &mut RevocationClient<Channel>, target: Target) -> u64 {
    let request = RevokeRequest {
        target: Some(target),
        no_renew: true,
        ..RevokeRequest::default()
    };
    client.revoke(request).await.unwrap().into_inner().sequence
}

/// One identity after another, each with a name that makes its delta long.
async fn revoke_many(socket: &Path, count: usize) -> u64 {
    let channel = admin(socket).await.unwrap();
    let commands = (0..AT_ONCE).map(|lane| {
        let mut client = RevocationClient::new(channel.clone());
        tokio::spawn(async move {
            let mut last = 0;
            for number in (lane..count).step_by(AT_ONCE) {
                let id = format!("spiffe://{}/{}/{number}", domain(), "x".repeat(1_900));
                last = revoke(&mut client, Target::SpiffeId(id)).await;
            }
            last
        })
    });
    let mut last = 0;
    for command in commands.collect::<Vec<_>>() {
        last = last.max(command.await.unwrap());
    }
    last
}

async fn watch(client: &mut RevocationClient<Channel>, follower: &Follower) -> Streaming<WatchNews> {
    let (epoch, sequence) = follower.stands_at();
    let request = WatchRequest { epoch, sequence };
    client.watch(request).await.unwrap().into_inner()
}

/// What a stream brought.
#[derive(Debug, Default)]
struct Brought {
    deltas: usize,
    snapshots: usize,
    references: usize,
}

/// Takes up what comes until the follower holds `sequence`.
async fn read_until(
    client: &mut RevocationClient<Channel>,
    stream: &mut Streaming<WatchNews>,
    follower: &mut Follower,
    sequence: u64,
) -> Brought {
    let mut brought = Brought::default();
    while follower.stands_at().1 < sequence {
        let news = timeout(SOON, stream.message()).await.expect("news comes").unwrap();
        let replica = follower.replica();
        let taken = match news.expect("the stream goes on").news.unwrap() {
            News::Snapshot(bytes) => {
                brought.snapshots += 1;
                replica.apply_snapshot(&bytes, now()).map(drop)
            }
            News::Delta(bytes) => {
                brought.deltas += 1;
                replica.apply_delta(&bytes, now()).map(drop)
            }
            News::Heartbeat(bytes) => replica.heartbeat(&bytes, now()).map(drop),
            News::SnapshotRef(_) => {
                brought.references += 1;
                let bytes = snapshot(client).await;
                replica.apply_snapshot(&bytes, now()).map(drop)
            }
        };
        match taken {
            // What came between the snapshot's order and its making is in it already.
            Ok(()) | Err(RevocationError::Rollback { .. }) => {}
            Err(error) => panic!("{error}"),
        }
    }
    brought
}

async fn snapshot(client: &mut RevocationClient<Channel>) -> Vec<u8> {
    let mut chunks = client.snapshot(SnapshotRequest {}).await.unwrap().into_inner();
    let mut bytes = Vec::new();
    while let Some(chunk) = chunks.message().await.unwrap() {
        assert_eq!(chunk.offset, bytes.len() as u64);
        bytes.extend_from_slice(&chunk.data);
    }
    bytes
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_that_stops_reading_holds_up_nobody_and_goes_on_from_a_snapshot() {
    let ca = TestCa::start_with(with_metrics).await;
    let socket = ca.ca.admin_socket().to_owned();
    let token = ca.token("n1").await;
    let mut followers = [Follower::trusting(&socket).await, Follower::trusting(&socket).await];
    let mut clients = Vec::new();
    let mut streams = Vec::new();
    for follower in &mut followers {
        let (channel, _) = anonymous(&token).await.unwrap();
        let mut client = RevocationClient::new(channel);
        let mut stream = watch(&mut client, follower).await;
        let first = read_until(&mut client, &mut stream, follower, 1).await;
        assert_eq!(first.snapshots, 1, "{first:?}");
        clients.push(client);
        streams.push(stream);
    }
    let [mut quick, mut slow] = followers;
    let (mut slow_client, mut slow_stream) = (clients.pop().unwrap(), streams.pop().unwrap());
    let (mut quick_client, mut quick_stream) = (clients.pop().unwrap(), streams.pop().unwrap());
    // Whoever reads is served while the other does not.
    let reading = tokio::spawn(async move {
        let mut brought = Brought::default();
        loop {
            let next = quick.stands_at().1 + 1;
            let one = read_until(&mut quick_client, &mut quick_stream, &mut quick, next).await;
            brought.deltas += one.deltas;
            brought.references += one.references;
            if quick.replica().view().rule_count() >= REVOCATIONS {
                return (quick.stands_at(), brought);
            }
        }
    });
    let last = revoke_many(&socket, REVOCATIONS).await;
    let (stands, brought) = timeout(SOON, reading).await.unwrap().unwrap();
    assert_eq!(stands.1, last);
    assert!(brought.deltas > 300, "more than any queue holds: {brought:?}");

    let late = read_until(&mut slow_client, &mut slow_stream, &mut slow, last).await;
    assert!(
        late.references >= 1 && late.deltas < brought.deltas,
        "{late:?} of {brought:?}"
    );
    assert_eq!(slow.stands_at(), stands);
    let face = ca.ca.metrics_address().unwrap();
    assert!(metric(face, "mintage_revocation_watches_behind_total").await >= 1);
    // It follows on, without a snapshot.
    let mut client = RevocationClient::new(admin(&socket).await.unwrap());
    let next = revoke(&mut client, Target::Key("ab".repeat(32))).await;
    let news = read_until(&mut slow_client, &mut slow_stream, &mut slow, next).await;
    assert_eq!((news.deltas, news.references), (1, 0));
    ca.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_have_a_limit_of_one_peer_and_a_place_that_is_given_back_is_taken() {
    let ca = TestCa::start_with(with_metrics).await;
    let socket = ca.ca.admin_socket().to_owned();
    let (channel, _) = anonymous(&ca.token("n1").await).await.unwrap();
    let mut client = RevocationClient::new(channel);
    let mut held = Vec::new();
    let refused = loop {
        match client.watch(WatchRequest::default()).await {
            Ok(stream) => held.push(stream.into_inner()),
            Err(status) => break status,
        }
        assert!(held.len() <= 64, "there is no limit");
    };
    assert_eq!(refused.code(), Code::ResourceExhausted);
    let told = refused.message();
    assert!(
        told.contains("of one address") && told.contains(&held.len().to_string()),
        "{told}"
    );
    let face = ca.ca.metrics_address().unwrap();
    let line = "mintage_refused_calls_total{reason=\"watch-streams-of-peer\"}";
    assert_eq!(metric(face, line).await, 1);
    // Others have places of their own.
    let mut other = RevocationClient::new(admin(&socket).await.unwrap());
    other.watch(WatchRequest::default()).await.unwrap();
    drop(held.pop());
    let again = async {
        while client.watch(WatchRequest::default()).await.is_err() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(SOON, again).await.expect("the place is free again");
    // A stop waits for none of them.
    timeout(Duration::from_secs(8), ca.stop())
        .await
        .expect("no stream is waited for");
}

/// A channel from this address of the machine, which takes 64 KiB of a stream before its reader does.
async fn from(address: &str, token: &JoinToken) -> Channel {
    let pins = token.root_hashes().iter().copied();
    let verifier = JoinVerifier::new(token.trust_domain().clone(), pins, &provider()).unwrap();
    let tls = join_config(verifier, &settings()).unwrap();
    let (bound, target) = (address.to_owned(), token.addresses()[0].clone());
    let connect = tower::service_fn(move |_| {
        let (tls, bound, target) = (tls.clone(), bound.clone(), target.clone());
        async move {
            let socket = TcpSocket::new_v4()?;
            socket.bind(format!("{bound}:0").parse().unwrap())?;
            let stream = socket.connect(target.parse().unwrap()).await?;
            let name = ServerName::try_from("mintage.invalid").unwrap();
            TlsConnector::from(tls).connect(name, stream).await.map(TokioIo::new)
        }
    });
    let endpoint = Endpoint::from_static("http://mintage.invalid").initial_stream_window_size(65_535);
    endpoint.connect_with_connector(connect).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn readers_of_the_snapshot_have_limits_of_one_address_and_in_all_and_agents_places_of_their_own() {
    let ca = TestCa::start().await;
    let socket = ca.ca.admin_socket().to_owned();
    let token = ca.token("n1").await;
    let agent = join(&token).await.unwrap();
    // Longer than all that lies between the CA and a reader that does not read.
    revoke_many(&socket, 1_500).await;
    let mut held = Vec::new();
    let mut told = String::new();
    for last in 2..64 {
        let mut client = RevocationClient::new(from(&format!("127.0.0.{last}"), &token).await);
        let mut of_this = 0;
        told = loop {
            match client.snapshot(SnapshotRequest {}).await {
                Ok(stream) => held.push((client.clone(), stream.into_inner())),
                Err(status) => {
                    assert_eq!(status.code(), Code::ResourceExhausted, "{status}");
                    break status.message().to_owned();
                }
            }
            of_this += 1;
            assert!(of_this <= 128, "there is no limit of one address");
        };
        if told.contains("in all") {
            break;
        }
        assert!(told.contains("of one address") && told.contains("16"), "{told}");
        assert!(of_this >= 16);
    }
    assert!(
        told.contains("in all") && told.contains("64") && held.len() >= 64,
        "{} held: {told}",
        held.len()
    );
    // Agents are known, and have places of their own.
    let (channel, _) = agent.channel(&token.addresses()[0]).await.unwrap();
    assert!(!snapshot(&mut RevocationClient::new(channel)).await.is_empty());
    held.clear();
    let mut client = RevocationClient::new(from("127.0.0.99", &token).await);
    let again = async {
        while client.snapshot(SnapshotRequest {}).await.is_err() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(SOON, again).await.expect("a place is free again");
    ca.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_follower_goes_on_at_another_process_of_the_ledger_without_a_snapshot() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("ca");
    make(&data);
    let ca = CaProcess::start(&data, 0);
    let socket = ca.admin_socket();
    let mut follower = Follower::trusting(&socket).await;
    let mut client = RevocationClient::new(admin(&socket).await.unwrap());
    let mut stream = watch(&mut client, &follower).await;
    let sequence = revoke(&mut client, Target::Key("01".repeat(32))).await;
    read_until(&mut client, &mut stream, &mut follower, sequence).await;
    // Of these it hears nothing from the process that made them.
    drop(stream);
    for number in 2..8 {
        revoke(&mut client, Target::Key(format!("{number:02x}").repeat(32))).await;
    }
    assert_eq!(ca.stop(), Some(0));
    let ca = CaProcess::start(&data, 0);
    let mut client = RevocationClient::new(admin(&ca.admin_socket()).await.unwrap());
    let mut stream = watch(&mut client, &follower).await;
    let sequence = revoke(&mut client, Target::Key("09".repeat(32))).await;
    let brought = read_until(&mut client, &mut stream, &mut follower, sequence).await;
    assert_eq!((brought.snapshots, brought.references), (0, 0), "{brought:?}");
    assert!((1..=2).contains(&brought.deltas), "{brought:?}");
    assert_eq!(follower.replica().view().rule_count(), 8);
    assert_eq!(ca.stop(), Some(0));
}
