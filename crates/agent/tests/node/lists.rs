//! Lists of revoked certificates on their way to the agent: what is cut, oversized, out of order or sent twice is refused
//! with the field's name, and the last good list stays until a whole one comes.

use mintage_proto::v1::CrlChunk;
use mintage_svid::{Crl, pem};

use crate::support::{
    FakeCa,
    agent::{Node, Running, until},
    entry,
    lists::{Chunks, Lists, chunks},
};

/// The numbers of the lists that are delivered.
fn delivered(node: &Node) -> Vec<u64> {
    let text = std::fs::read_to_string(node.folder("web").join("svid_crl.pem")).unwrap_or_default();
    let blocks = text.split_inclusive("-----END X509 CRL-----\n");
    blocks
        .map(|block| {
            Crl::parse(&pem::decode(pem::Label::Crl, block).unwrap())
                .unwrap()
                .number()
        })
        .collect()
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
