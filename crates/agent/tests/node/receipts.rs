//! Proofs of receipts beside the certificate: of exactly that certificate, in the same generation, whatever the CA does;
//! and never in a delivery's way.

use std::{fs, path::Path};

use mintage_agent::Config;
use tonic::Status;

use crate::support::{
    FakeCa,
    agent::{Node, Running, read_generation, until},
    entry, receipts,
};

fn config(node: &Node) -> Config {
    let web = node.delivery("web").with_receipt(true);
    node.config(&[]).with_deliveries(vec![web]).unwrap()
}

async fn started() -> (FakeCa, Node) {
    let ca = FakeCa::start(vec![entry("web", "/web")]).await;
    (ca, Node::new())
}

/// The proof that lies in the generation, if there is one; it must be that of the certificate beside it.
fn proof_of(folder: &Path) -> Option<Vec<u8>> {
    let generation = fs::canonicalize(folder.join("..data")).ok()?;
    let proof = fs::read(generation.join("svid.tlog-proof")).ok()?;
    let pair = read_generation(folder)?;
    // Another generation may have come between the two reads.
    (fs::canonicalize(folder.join("..data")).ok()? == generation).then(|| {
        assert_eq!(
            proof,
            receipts::proof(&pair.chain[0]),
            "the proof of another certificate"
        );
        proof
    })
}

async fn proven(node: &Node) -> Vec<u8> {
    let folder = node.folder("web");
    until("the proof", || proof_of(&folder).is_some()).await;
    proof_of(&folder).unwrap()
}

async fn renewed(ca: &FakeCa, agent: &mut Running, before: mintage_identity::Serial) {
    ca.renew(&["web"]);
    while agent.delivered("web").await.0 == before {}
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_proof_follows_its_certificate_and_the_next_one_its_own() {
    let (ca, node) = started().await;
    let mut agent = node.start(config(&node), Some(ca.token()));
    let (first, _) = agent.delivered("web").await;
    assert!(
        !node.folder("web").join("svid.tlog-proof").exists(),
        "a delivery waits for no proof"
    );
    let proof = proven(&node).await;
    renewed(&ca, &mut agent, first).await;
    until("another proof", || {
        proof_of(&node.folder("web")).is_some_and(|next| next != proof)
    })
    .await;
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_the_key_nothing_is_asked_and_nothing_written() {
    let (ca, node) = started().await;
    let mut agent = node.start(node.config(&["web"]), Some(ca.token()));
    let (serial, _) = agent.delivered("web").await;
    // By a reload it is wanted, for the certificate in place; and taken away by another.
    assert!(ca.seen().receipts.is_empty());
    let with = |receipt| vec![node.delivery("web").with_receipt(receipt)];
    assert_eq!(agent.handle.reload(with(true)).await.unwrap().changed, 1);
    proven(&node).await;
    assert_eq!(node.read("web").serial(), serial);
    assert_eq!(agent.handle.reload(with(false)).await.unwrap().changed, 1);
    let folder = node.folder("web");
    until("no proof", || {
        fs::symlink_metadata(folder.join("svid.tlog-proof")).is_err()
    })
    .await;
    assert_eq!(node.read("web").serial(), serial);
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_ca_that_knows_no_proofs_costs_a_warning_and_nothing_else() {
    let (ca, node) = started().await;
    ca.script()
        .proofs
        .push_back(Err(Status::unimplemented("no such method")));
    let mut agent = node.start(config(&node), Some(ca.token()));
    let (first, _) = agent.delivered("web").await;
    let told = agent.problem("receipt").await;
    assert!(told.contains("proves no receipts"), "{told}");
    renewed(&ca, &mut agent, first).await;
    assert_eq!(
        ca.seen().receipts.len(),
        1,
        "it is not asked again over this connection"
    );
    let status = agent.handle.status().await.unwrap();
    assert!(status.not_ready_because().is_empty() && status.deliveries[0].problem.is_none());
    // The next connection may lead to another CA.
    ca.down();
    ca.up().await;
    proven(&node).await;
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_proof_is_never_written_and_asked_for_again() {
    let (ca, node) = started().await;
    ca.script().proofs.extend([
        Ok(receipts::proof(b"another certificate")),
        Err(Status::unavailable("not signed yet")),
    ]);
    let mut agent = node.start(config(&node), Some(ca.token()));
    agent.delivered("web").await;
    // `proof_of` holds each that is found against its certificate.
    proven(&node).await;
    let asked = ca.seen().receipts.clone();
    assert!(
        asked.len() == 3 && asked.iter().all(|receipt| *receipt == asked[0]),
        "{asked:?}"
    );
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refusal_is_final_for_its_certificate() {
    let (ca, node) = started().await;
    ca.script()
        .proofs
        .push_back(Err(Status::permission_denied("not yours")));
    let mut agent = node.start(config(&node), Some(ca.token()));
    let (first, _) = agent.delivered("web").await;
    let told = agent.problem("receipt").await;
    assert!(told.contains("not yours"), "{told}");
    renewed(&ca, &mut agent, first).await;
    proven(&node).await;
    assert_eq!(ca.seen().receipts.len(), 2);
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_restart_a_missing_proof_is_fetched_and_a_kept_one_put_back() {
    let (ca, node) = started().await;
    // Nothing but receipts are kept of the first life.
    ca.script().proofs.push_back(Err(Status::unavailable("not signed yet")));
    let mut agent = node.start(config(&node), Some(ca.token()));
    let (serial, _) = agent.delivered("web").await;
    until("the first try", || ca.seen().receipts.len() == 1).await;
    agent.stop().await;
    assert_eq!(proof_of(&node.folder("web")), None);

    let agent = node.start(config(&node), None);
    proven(&node).await;
    assert_eq!(node.read("web").serial(), serial);
    let kept = until_kept(&node).await;
    agent.stop().await;

    // The folder is lost, the data directory is not; the CA is not asked.
    fs::remove_dir_all(node.folder("web")).unwrap();
    ca.down();
    let asked = ca.seen().receipts.len();
    let agent = node.start(config(&node), None);
    proven(&node).await;
    assert_eq!((node.read("web").serial(), ca.seen().receipts.len()), (serial, asked));
    agent.stop().await;

    // A data directory of before there were receipts, and one with a broken one, are good for the delivery.
    for broken in [None, Some("{}")] {
        match broken {
            None => fs::remove_file(&kept).unwrap(),
            Some(text) => fs::write(&kept, text).unwrap(),
        }
        let mut agent = node.start(config(&node), None);
        assert_eq!(agent.delivered("web").await.0, serial);
        assert_eq!(proof_of(&node.folder("web")), None);
        agent.stop().await;
    }
}

/// Waits until the proof is kept in the data directory; its file.
async fn until_kept(node: &Node) -> std::path::PathBuf {
    let kept = || {
        let files = fs::read_dir(node.data().join("deliveries")).unwrap();
        let mut paths = files.map(|file| file.unwrap().path());
        let found = paths.find(|path| path.extension().is_some_and(|end| end == "receipt"))?;
        fs::read_to_string(&found)
            .is_ok_and(|text| text.contains("tlog-proof@v1"))
            .then_some(found)
    };
    until("the kept proof", || kept().is_some()).await;
    kept().unwrap()
}
