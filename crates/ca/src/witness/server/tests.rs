//! The witness's HTTP face over real connections: statuses, content types, limits, and the end.

use std::time::Instant;

use mintage_ledger::{SignedNote, limits::ADD_CHECKPOINT_BYTES_MAX};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;
use crate::witness::kit::{Fork, Place};

async fn started(place: &Place) -> Witness {
    let options = WitnessOptions {
        dir: place.dir(),
        policy: place.policy(),
        listen: "127.0.0.1:0".parse().unwrap(),
        metrics: Some("127.0.0.1:0".parse().unwrap()),
        passphrase_file: None,
    };
    Witness::start(options, &Deps::system()).await.unwrap()
}

/// The answer to what is written as it is.
async fn raw(address: SocketAddr, octets: &[u8]) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    // It may be answered, and closed, before all of it was taken.
    let _ = stream.write_all(octets).await;
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer).await;
    String::from_utf8(answer).unwrap()
}

async fn post(address: SocketAddr, body: &str) -> String {
    post_to(address, "/add-checkpoint", body).await
}

async fn post_to(address: SocketAddr, path: &str, body: &str) -> String {
    let head = format!("POST {path} HTTP/1.1\r\nhost: w\r\nconnection: close\r\n");
    raw(
        address,
        format!("{head}content-length: {}\r\n\r\n{body}", body.len()).as_bytes(),
    )
    .await
}

async fn get(address: SocketAddr, path: &str) -> String {
    let request = format!("GET {path} HTTP/1.1\r\nhost: w\r\nconnection: close\r\n\r\n");
    raw(address, request.as_bytes()).await
}

fn status(answer: &str) -> u16 {
    answer
        .split(' ')
        .nth(1)
        .unwrap_or_else(|| panic!("{answer:?}"))
        .parse()
        .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn each_verdict_has_its_status_and_form() {
    let place = Place::new();
    let key = place.init("w1");
    let witness = started(&place).await;
    let at = witness.address();
    let (ours, fork) = (Fork::new(1), Fork::new(2));
    let hash = hex::encode(ring::digest::digest(&ring::digest::SHA256, ours.origin().as_bytes()));
    assert_eq!(status(&get(at, &format!("/{hash}/checkpoint")).await), 404);

    let answer = post(at, &ours.request(0, 5)).await;
    assert_eq!(status(&answer), 200, "{answer}");
    let (_, line) = answer.split_once("\r\n\r\n").unwrap();
    let note = SignedNote::parse(format!("{}\n{line}", ours.text(5)).as_bytes()).unwrap();
    assert!(key.time_on(&note).unwrap().is_some());

    let other = post(at, &ours.request(4, 7)).await;
    assert_eq!(status(&other), 409);
    assert!(
        other.contains("content-type: text/x.tlog.size\r\n") && other.ends_with("\r\n\r\n5\n"),
        "{other}"
    );
    assert_eq!(status(&post(at, &fork.request(5, 7)).await), 422);
    assert_eq!(status(&post(at, "old 5\n").await), 400);
    assert_eq!(
        status(&post(at, &ours.request(5, 7).replace("a1b2", "a1b3")).await),
        404
    );
    assert_eq!(
        status(&post(at, &ours.request(5, 7).replace("\n7\n", "\n8\n")).await),
        403
    );
    assert_eq!(status(&get(at, "/add-checkpoint").await), 405);
    assert_eq!(status(&get(at, "/").await), 404);

    let served = get(at, &format!("/{hash}/checkpoint")).await;
    let (_, served) = served.split_once("\r\n\r\n").unwrap();
    let served = SignedNote::parse(served.as_bytes()).unwrap();
    served.verify(&ours.vkey()).unwrap();
    assert_eq!(served.text(), ours.text(5));
    witness.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_log_after_a_log_is_followed_and_the_metrics_tell_of_both() {
    let place = Place::new();
    place.init("w1");
    let witness = started(&place).await;
    let (at, metrics) = (witness.address(), witness.metrics_address().unwrap());
    let (first, second) = (Fork::new(1), Fork::later(2));
    let named = post_to(at, "/add-log", &first.names(&second)).await;
    assert!(
        status(&named) == 200 && named.ends_with(&format!("\r\n\r\n{}\n", second.vkey())),
        "{named}"
    );
    let other = post_to(at, "/add-log", &first.names(&Fork::later(3))).await;
    assert!(
        status(&other) == 409 && other.contains(&second.vkey().to_string()),
        "{other}"
    );
    assert_eq!(status(&post_to(at, "/add-log", "no note").await), 400);
    assert_eq!(status(&post_to(at, "/add-log", &"a".repeat(5000)).await), 413);
    assert_eq!(status(&get(at, "/add-log").await), 405);
    assert_eq!(status(&post(at, &second.request(0, 7)).await), 200);
    let told = get(metrics, "/metrics").await;
    let size = format!("mintage_witness_log_size{{origin=\"{}\"}} 7\n", second.origin());
    let time = format!(
        "mintage_witness_log_cosigned_timestamp_seconds{{origin=\"{}\"}} ",
        second.origin()
    );
    for line in [
        "mintage_witness_logs 2\n",
        "mintage_witness_requests_total{call=\"add-log\",status=\"409\"} 1\n",
        "mintage_witness_requests_total{call=\"add-checkpoint\",status=\"200\"} 1\n",
        &size,
        &time,
    ] {
        assert!(told.contains(line), "{line:?} is not in {told}");
    }
    assert!(
        !told.contains(first.origin()),
        "a log that was never cosigned has no size: {told}"
    );
    assert_eq!(status(&get(at, "/metrics").await), 404, "only on its own address");
    witness.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn heads_and_bodies_that_are_too_long_are_refused() {
    let place = Place::new();
    place.init("w1");
    let witness = started(&place).await;
    let at = witness.address();
    let long = "a".repeat(ADD_CHECKPOINT_BYTES_MAX + 1);
    assert_eq!(status(&post(at, &long).await), 413);
    let head = |lines: String| format!("GET / HTTP/1.1\r\nhost: w\r\nconnection: close\r\n{lines}\r\n");
    let large = head(format!("x: {}\r\n", "a".repeat(2 * WITNESS_HEAD_BYTES_MAX)));
    assert_eq!(status(&raw(at, large.as_bytes()).await), 431);
    let many = head((0..=WITNESS_HEADERS_MAX).map(|n| format!("x{n}: y\r\n")).collect());
    assert_eq!(status(&raw(at, many.as_bytes()).await), 431);
    witness.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_source_has_so_many_connections_and_a_stop_waits_for_what_is_under_way() {
    let place = Place::new();
    place.init("w1");
    let witness = started(&place).await;
    let at = witness.address();
    let mut kept = Vec::new();
    for _ in 0..WITNESS_CONNECTIONS_PER_SOURCE_MAX {
        kept.push(TcpStream::connect(at).await.unwrap());
    }
    assert_eq!(
        raw(at, b"GET / HTTP/1.1\r\nhost: w\r\n\r\n").await,
        "",
        "closed without an answer"
    );
    // Half of a request is under way on one of them; the others rest.
    let body = Fork::new(1).request(0, 5);
    let mut under_way = kept.pop().unwrap();
    let head = format!(
        "POST /add-checkpoint HTTP/1.1\r\nhost: w\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    under_way.write_all(head.as_bytes()).await.unwrap();
    under_way.write_all(&body.as_bytes()[..10]).await.unwrap();
    tokio::time::sleep(Duration::from_millis(200)).await;
    let since = Instant::now();
    let stopping = tokio::spawn(witness.stop());
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert!(TcpStream::connect(at).await.is_err(), "nobody new is taken");
    under_way.write_all(&body.as_bytes()[10..]).await.unwrap();
    let mut answer = String::new();
    under_way.read_to_string(&mut answer).await.unwrap();
    assert_eq!(status(&answer), 200, "{answer}");
    stopping.await.unwrap();
    assert!(
        since.elapsed() < WITNESS_REQUEST_TIMEOUT,
        "resting connections are not waited for"
    );
}
