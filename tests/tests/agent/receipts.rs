//! Receipts with the real programs: the agent writes the proof beside the certificate, `mintage audit check` believes it
//! offline, the next certificate gets its own, and nobody gets the proof of what was not issued to him.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use mintage_identity::Serial;
use mintage_ledger::{Policy, TlogProof, leaf_hash};
use mintage_proto::v1::{
    CheckpointRequest, ProveReceiptRequest, Receipt, RenewAgentRequest, ledger_client::LedgerClient,
    node_client::NodeClient,
};
use mintage_svid::{LeafInfo, pem};
use mintage_tests::kit::{
    agent::{AgentProcess, config},
    bins::binary,
    ca::{CaProcess, TestCa, entry, make, token},
    client::{Joined, admin, join, registry},
    stream::{Stream, ask},
};
use tonic::{Code, Status};

/// Certificate and proof of one generation, when both are there.
fn both(folder: &Path) -> Option<(Vec<u8>, Vec<u8>)> {
    let generation = fs::canonicalize(folder.join("..data")).ok()?;
    let chain = fs::read_to_string(generation.join("svid.pem")).ok()?;
    let proof = fs::read(generation.join("svid.tlog-proof")).ok()?;
    Some((pem::decode_certificates(&chain).ok()?.swap_remove(0), proof))
}

fn serial_of(folder: &Path) -> Option<Serial> {
    let chain = fs::read_to_string(folder.join("svid.pem")).ok()?;
    let leaf = pem::decode_certificates(&chain).ok()?.swap_remove(0);
    Some(*LeafInfo::parse(&leaf).ok()?.serial())
}

/// `mintage audit check` over what lies in the folder.
fn checked(folder: &Path, vkey: &Path) -> Output {
    let mut command = Command::new(binary("mintage"));
    command.env_remove("MINTAGE_FORMAT").args(["audit", "check"]);
    command.arg("--certificate").arg(folder.join("svid.pem"));
    command.arg("--proof").arg(folder.join("svid.tlog-proof"));
    command.arg("--vkey").arg(vkey).output().unwrap()
}

/// The log's verifier key in a file, as an auditor has it.
async fn vkey(socket: &Path, folder: &Path) -> PathBuf {
    let mut ledger = LedgerClient::new(admin(socket).await.unwrap());
    let answer = ledger.checkpoint(CheckpointRequest {}).await.unwrap().into_inner();
    let file = folder.join("vkey");
    fs::write(&file, answer.vkey + "\n").unwrap();
    file
}

#[tokio::test(flavor = "multi_thread")]
async fn the_proof_appears_beside_its_certificate_and_convinces_an_auditor() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("ca");
    make(&data);
    let ca = CaProcess::start(&data, 0);
    entry(&ca.admin_socket(), "web", "/web").await;
    let vkey = vkey(&ca.admin_socket(), folder.path()).await;
    let file = config(folder.path(), &["web"]);
    let text = fs::read_to_string(&file).unwrap();
    fs::write(&file, text + "receipt = true\n").unwrap();
    let web = folder.path().join("web");
    let mut agent = AgentProcess::start(folder.path(), &file, Some(&token(&ca.admin_socket(), "n1").await));
    let first = agent.wait_for("the first delivery", || serial_of(&web));
    let policy = Policy::parse(fs::read_to_string(data.join("ledger/policy")).unwrap().as_bytes()).unwrap();
    let mut last = first;
    for _ in 0..3 {
        let (certificate, proof) = agent.wait_for("the proof", || both(&web));
        let proof = TlogProof::parse(&proof).unwrap();
        let record = proof.extra().unwrap();
        proof.verify(&leaf_hash(record), &policy).unwrap();
        let holds = record.windows(certificate.len()).any(|part| part == certificate);
        assert!(holds, "the proof of another certificate lies beside it");
        let output = checked(&web, &vkey);
        let said = String::from_utf8_lossy(&output.stdout);
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        assert!(
            said.starts_with("proven: ") && said.contains(&last.to_string()),
            "{said}"
        );

        let request = RenewAgentRequest {
            name: "n1".to_owned(),
            ..RenewAgentRequest::default()
        };
        registry(&ca.admin_socket()).await.renew_agent(request).await.unwrap();
        last = agent.wait_for("a rotation", || serial_of(&web).filter(|serial| *serial != last));
    }
    assert_eq!(agent.stop(), Some(0));
    assert_eq!(ca.stop(), Some(0));
}

async fn prove(agent: &Joined, address: &str, receipt: Receipt) -> Result<Vec<u8>, Status> {
    let (channel, _) = agent.channel(address).await.unwrap();
    let request = ProveReceiptRequest { receipt: Some(receipt) };
    let answer = NodeClient::new(channel).prove_receipt(request).await?;
    Ok(answer.into_inner().tlog_proof)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proof_is_given_to_the_agent_of_the_certificate_alone() {
    let ca = TestCa::start().await;
    ca.entry("web", "/web").await;
    let address = ca.ca.address().to_string();
    let [owner, other] = [
        join(&ca.token("n1").await).await.unwrap(),
        join(&ca.token("n2").await).await.unwrap(),
    ];
    let mut stream = Stream::open(&owner, &address).await.unwrap();
    let minted = stream.ask_one(ask("web")).await.unwrap();
    let receipt = minted.receipt.unwrap();
    // At once: the call waits for the checkpoint itself.
    let proof = TlogProof::parse(&prove(&owner, &address, receipt.clone()).await.unwrap()).unwrap();
    let record = proof.extra().unwrap();
    assert_eq!(
        (leaf_hash(record).as_bytes().to_vec(), proof.index()),
        (receipt.leaf_hash.clone(), receipt.index)
    );
    let policy = fs::read_to_string(ca.data_dir().join("ledger/policy")).unwrap();
    proof
        .verify(&leaf_hash(record), &Policy::parse(policy.as_bytes()).unwrap())
        .unwrap();

    let refused = async |agent: &Joined, change: &dyn Fn(&mut Receipt)| {
        let mut bad = receipt.clone();
        change(&mut bad);
        let status = prove(agent, &address, bad).await.unwrap_err();
        assert_eq!(status.code(), Code::PermissionDenied, "{status:?}");
        status.message().to_owned()
    };
    let told = [
        refused(&other, &|_| {}).await,
        refused(&owner, &|bad| bad.index = 0).await,
        refused(&owner, &|bad| bad.index = u64::MAX).await,
        refused(&owner, &|bad| bad.leaf_hash[0] ^= 1).await,
        refused(&owner, &|bad| bad.leaf_hash.clear()).await,
        refused(&owner, &|bad| bad.origin.push('x')).await,
    ];
    assert!(
        told.iter().all(|text| *text == told[0]),
        "one can be told from another: {told:?}"
    );
    // The same name is not the same agent.
    let next = join(&ca.token("n1").await).await.unwrap();
    refused(&next, &|_| {}).await;
    ca.stop().await;
}
