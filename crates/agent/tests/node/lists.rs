//! Lists of revoked certificates on their way to the agent: what is cut, oversized, out of order or sent twice is refused
//! with the field's name, and the last good list stays until a whole one comes. And beyond it, into folders and to callers of
//! the socket: lists that are long, or that something is in the way of, hold no certificate back, and what is left out is told.

use std::{fs, path::PathBuf};

use base64::{Engine, engine::general_purpose::STANDARD};
use mintage_proto::{
    v1::CrlChunk,
    workload::{X509BundlesRequest, X509BundlesResponse},
};
use mintage_svid::Crl;
use tokio::time::timeout;
use tonic::Streaming;

use crate::support::{
    FakeCa,
    agent::{Node, PATIENCE, Running, page, until},
    entry,
    lists::{Chunks, Lists, chunks},
    socket::{call, client},
};

fn file(node: &Node) -> PathBuf {
    node.folder("web").join("svid_crl.pem")
}

/// The lists that are delivered.
fn in_folder(node: &Node) -> Vec<Crl> {
    let text = fs::read_to_string(file(node)).unwrap_or_default();
    let blocks = text.split_inclusive("-----END X509 CRL-----\n");
    blocks
        .map(|block| {
            let base64: String = block.lines().filter(|line| !line.starts_with('-')).collect();
            Crl::parse(&STANDARD.decode(base64).unwrap()).unwrap()
        })
        .collect()
}

/// Their numbers.
fn delivered(node: &Node) -> Vec<u64> {
    in_folder(node).iter().map(Crl::number).collect()
}

async fn send(stream: &Chunks, chunks: Vec<CrlChunk>) {
    for chunk in chunks {
        stream.send(Ok(chunk)).await.unwrap();
    }
}

/// The numbers of the lists in the next answers on the socket, until they are these.
async fn told_on_socket(stream: &mut Streaming<X509BundlesResponse>, wanted: &[u64]) {
    let answers = async {
        loop {
            let answer = stream.message().await.unwrap().unwrap();
            let numbers = answer.crl.iter().map(|der| Crl::parse(der).unwrap().number());
            if numbers.collect::<Vec<_>>() == wanted {
                return;
            }
        }
    };
    let told = timeout(PATIENCE, answers).await;
    told.unwrap_or_else(|_| panic!("never {wanted:?} on the socket"));
}

/// What is told about these chunks. The agent asks for everything anew a while after it refused something: then they are sent
/// on the stream that it opens.
async fn refused(agent: &mut Running, lists: &Lists, stream: &mut Chunks, chunks: &[CrlChunk]) -> String {
    loop {
        for chunk in chunks {
            // One that is over is noticed below.
            let _ = stream.send(Ok(chunk.clone())).await;
        }
        tokio::select! {
            // What was told before the end of the stream counts.
            biased;
            told = agent.problem("revocation") => return told,
            () = stream.closed() => *stream = lists.stream().await,
        }
    }
}

/// What is sent in place of this list of three chunks, and the field by which it is refused: nothing of it may stay for what
/// comes next.
fn misfits(whole: &[CrlChunk]) -> Vec<(&'static str, Vec<CrlChunk>, &'static str)> {
    let bent = |at: usize, bend: fn(&mut CrlChunk)| {
        let mut chunks = whole[..=at].to_vec();
        bend(&mut chunks[at]);
        chunks
    };
    let of = |order: &[usize]| order.iter().map(|at| whole[*at].clone()).collect();
    vec![
        ("reordered", of(&[0, 2]), "offset"),
        ("sent twice", of(&[0, 1, 1]), "offset"),
        ("without its beginning", of(&[1]), "offset"),
        ("cut, and the next begins", of(&[0, 0, 2]), "offset"),
        ("oversized", bent(0, |chunk| chunk.total = 1 << 40), "total"),
        ("longer than it says", bent(2, |chunk| chunk.data.push(0)), "data"),
        ("empty", bent(1, |chunk| chunk.data.clear()), "data"),
        ("growing", bent(1, |chunk| chunk.total += 1), "total"),
        ("two numbers", bent(1, |chunk| chunk.number = 9), "number"),
        (
            "two issuers",
            bent(1, |chunk| chunk.issuer_key_id[0] ^= 1),
            "issuer_key_id",
        ),
    ]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn chunks_that_do_not_fit_are_refused_by_their_field_and_the_last_good_list_stays() {
    let ca = FakeCa::start(vec![entry("web", "/web")]).await;
    let node = Node::new();
    let delivery = node.delivery("web").with_crl(true);
    let config = node.config(&[]).with_deliveries(vec![delivery]).unwrap();
    let mut agent = node.start(config, Some(ca.token()));
    agent.delivered("web").await;
    let (pki, lists) = (&ca.state.pki, &ca.state.lists);
    let mut stream = lists.stream().await;
    for chunk in chunks(pki, 7, 3) {
        stream.send(Ok(chunk)).await.unwrap();
    }
    until("the first list", || delivered(&node) == [7]).await;

    let whole = || chunks(pki, 8, 5);
    for (what, chunks, field) in misfits(&whole()) {
        let told = refused(&mut agent, lists, &mut stream, &chunks).await;
        assert!(told.contains(field), "{what}: {told}");
        assert_eq!(delivered(&node), [7], "{what}");
    }
    // An older list, and one with a flipped bit, are whole, and refused all the same.
    let told = refused(&mut agent, lists, &mut stream, &chunks(pki, 6, 9)).await;
    assert!(told.contains("from 7 to 6"), "{told}");
    let mut flipped = whole();
    *flipped[2].data.last_mut().unwrap() ^= 1;
    refused(&mut agent, lists, &mut stream, &flipped).await;
    assert_eq!(delivered(&node), [7]);

    // A stream that is cut gives nothing; the one that is opened next has the list from its beginning.
    for chunk in whole().drain(..2) {
        let _ = stream.send(Ok(chunk)).await;
    }
    drop(stream);
    let stream = lists.stream().await;
    assert_eq!(delivered(&node), [7]);
    for chunk in whole() {
        stream.send(Ok(chunk)).await.unwrap();
    }
    until("the next list", || delivered(&node) == [8]).await;
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_thousand_listed_certificates_are_delivered_with_each_renewal_and_the_socket_tells_what_it_leaves_out()
 {
    const LISTED: usize = 100_000;
    let ca = FakeCa::start(vec![entry("web", "/web")]).await;
    let node = Node::new();
    let config = node
        .config(&[])
        .with_deliveries(vec![node.delivery("web").with_crl(true)]);
    let config = config.unwrap().with_socket(Some(node.socket()));
    let config = config.with_metrics("127.0.0.1:0".parse().unwrap()).unwrap();
    let mut agent = node.start(config, Some(ca.token()));
    let (first, _) = agent.delivered("web").await;
    let address = agent.handle.metrics_address().unwrap();
    let get = |path: &str| tokio::task::block_in_place(|| page(address, path));
    let left_out = |lists: u32| get("/metrics").contains(&format!("mintage_agent_workload_crls_left_out {lists}\n"));
    let (pki, stream) = (&ca.state.pki, ca.state.lists.stream().await);
    let mut client = client(&node).await;
    let bundles = client.fetch_x509_bundles(call(X509BundlesRequest {})).await;
    let mut bundles = bundles.unwrap().into_inner();

    send(&stream, chunks(pki, 7, 3)).await;
    told_on_socket(&mut bundles, &[7]).await;
    assert!(left_out(0));

    send(&stream, chunks(pki, 8, LISTED as u64)).await;
    until("the long list", || delivered(&node) == [8]).await;
    assert_eq!(in_folder(&node)[0].entries(), LISTED);
    assert!(fs::metadata(file(&node)).unwrap().len() > 4 << 20);
    ca.renew(&["web"]);
    let mut renewed = first;
    while renewed == first {
        renewed = agent.delivered("web").await.0;
    }
    assert_eq!((node.read("web").serial(), delivered(&node)), (renewed, vec![8]));

    told_on_socket(&mut bundles, &[]).await;
    let ready = get("/ready");
    assert!(ready.starts_with("HTTP/1.1 200"), "{ready}");
    for part in [
        pki.issuer_id.to_string().as_str(),
        "at most 1048576 bytes",
        "crl = true",
    ] {
        assert!(ready.contains(part), "{part}: {ready}");
    }
    assert!(left_out(1) && agent.failures("limit") == 1);

    send(&stream, chunks(pki, 9, 3)).await;
    told_on_socket(&mut bundles, &[9]).await;
    assert!(left_out(0) && !get("/ready").contains("1048576"));
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lists_that_something_is_in_the_way_of_hold_no_renewal_back_and_come_when_it_is_gone() {
    let ca = FakeCa::start(vec![entry("web", "/web")]).await;
    let node = Node::new();
    let deliveries = vec![node.delivery("web").with_crl(true)];
    let config = node.config(&[]).with_deliveries(deliveries.clone()).unwrap();
    let mut agent = node.start(config, Some(ca.token()));
    let (first, _) = agent.delivered("web").await;
    fs::write(file(&node), "the operator's").unwrap();

    send(&ca.state.lists.stream().await, chunks(&ca.state.pki, 7, 3)).await;
    let told = agent.problem("lists").await;
    for part in ["svid_crl.pem", "move it away", "tried again each 60 s"] {
        assert!(told.contains(part), "{part}: {told}");
    }
    ca.renew(&["web"]);
    while agent.delivered("web").await.0 == first {}
    assert_ne!(node.read("web").serial(), first);
    assert_eq!(fs::read_to_string(file(&node)).unwrap(), "the operator's");
    let status = agent.handle.status().await.unwrap();
    assert!(status.not_ready_because().is_empty());
    assert!(status.problems()[0].contains("lists: ") && status.problems()[0].contains("move it away"));

    fs::remove_file(file(&node)).unwrap();
    agent.handle.reload(deliveries).await.unwrap();
    until("the list", || delivered(&node) == [7]).await;
    agent.delivered("web").await;
    assert_eq!(agent.handle.status().await.unwrap().problems(), Vec::<String>::new());
    agent.stop().await;
}
