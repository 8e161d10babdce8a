//! `audit proof`: a record's inclusion proof, verified here before it is printed.

use std::{path::PathBuf, time::Instant};

use base64::{Engine, engine::general_purpose::STANDARD};
use clap::Args;
use mintage_ledger::{Hash, LedgerError, SignedCheckpoint, TlogProof, Vkey, follow, leaf_hash, verify_inclusion};
use mintage_proto::v1::{ProofRequest, ProofResponse, proof_request::Want};
use serde::Serialize;
use tonic::Code;

use super::{
    Key,
    offline::{Proven, ledger_of, prove, read_vkeys, verdict},
    show,
};
use crate::{
    cli::Context,
    client::Ca,
    failure::Failure,
    limits::{CHECKPOINT_PAUSE, CHECKPOINT_WAIT},
    output::{Output, notice},
};

/// `audit proof`.
#[derive(Args, Debug)]
pub(crate) struct ProofArgs {
    /// A certificate's serial in hexadecimal, or a record's index.
    #[arg(value_name = "SERIAL|INDEX")]
    record: Key,
    /// File with the verifier keys you trust; without it the CA's own word is taken for its key.
    #[arg(long, value_name = "FILE")]
    vkey: Option<PathBuf>,
    /// Reads the ledger of --data-dir instead of asking the CA.
    #[arg(long)]
    offline: bool,
}

/// A proof that was verified.
#[derive(Serialize)]
struct Shown {
    origin: String,
    index: u64,
    size: u64,
    root: String,
    leaf_hash: String,
    hashes: Vec<String>,
    checkpoint: String,
    vkey: String,
    /// The leaf's bytes, so that a stranger can hash them himself.
    record: String,
    /// All of it in one text, as `audit check` and other programs read it (C2SP tlog-proof).
    tlog_proof: String,
    verified: bool,
}

/// Runs the verb.
pub(super) async fn run(context: &Context, proof: ProofArgs) -> Result<(), Failure> {
    let keys = proof.vkey.as_deref().map(read_vkeys).transpose()?;
    if keys.is_none() {
        notice(
            "the checkpoint's key is taken on the ledger's own word: bring the one that `mintage-ca init` printed by --vkey FILE",
        );
    }
    let proven = match proof.offline {
        true => prove(&ledger_of(&context.data_dir())?, keys.as_deref(), proof.record)?,
        false => ask(&context.ca().await?, proof.record, keys.as_deref()).await?,
    };
    print(context.output, &proven)
}

fn print(output: Output, proven: &Proven) -> Result<(), Failure> {
    let checkpoint = proven.checkpoint.checkpoint();
    let shown = Shown {
        origin: checkpoint.origin.to_string(),
        index: proven.index,
        size: checkpoint.size,
        root: hex::encode(checkpoint.root.as_bytes()),
        leaf_hash: hex::encode(leaf_hash(&proven.record).as_bytes()),
        hashes: proven.hashes.iter().map(|hash| hex::encode(hash.as_bytes())).collect(),
        checkpoint: proven.checkpoint.to_string(),
        vkey: proven.vkey.to_string(),
        record: STANDARD.encode(&proven.record),
        tlog_proof: tlog_proof(proven).to_string(),
        verified: true,
    };
    output.object(&shown, || shown.tlog_proof.clone())
}

/// The proof for whoever has nothing else: the record's bytes travel in it.
fn tlog_proof(proven: &Proven) -> TlogProof {
    TlogProof::new(
        Some(proven.record.clone()),
        proven.index,
        proven.hashes.clone(),
        proven.checkpoint.note().clone(),
    )
}

/// Asks the CA for record and proof, and believes neither.
async fn ask(ca: &Ca, key: Key, keys: Option<&[Vkey]>) -> Result<Proven, Failure> {
    let (answer, _) = show::fetch(ca, key).await?;
    let index = answer.summary.map_or(0, |summary| summary.index);
    let proof = fetch(ca, index).await?;
    let own: Vkey = proof
        .vkey
        .parse()
        .map_err(|error| Failure::Remote(format!("the CA names no verifier key: {error}")))?;
    // A key that you trust vouches for the logs after its own.
    let trusted = keys.map(|keys| follow(keys, proof.successions.iter().map(String::as_str)));
    if trusted.is_some_and(|keys| !keys.contains(&own)) {
        return Err(Failure::No(format!(
            "not proven: the log's key {own} is none you trust"
        )));
    }
    check(answer.record, &proof, &own).map_err(|error| verdict(&error))
}

/// Fetches the proof, waiting for the checkpoint that covers the record.
async fn fetch(ca: &Ca, index: u64) -> Result<ProofResponse, Failure> {
    let begun = Instant::now();
    loop {
        let request = ProofRequest {
            want: Some(Want::Index(index)),
        };
        match ca.ledger().proof(request).await {
            Err(status) if status.code() == Code::Unavailable && begun.elapsed() < CHECKPOINT_WAIT => {
                tokio::time::sleep(CHECKPOINT_PAUSE).await;
            }
            answer => return Ok(answer?.into_inner()),
        }
    }
}

/// Verifies a proof: signature, size, and the path from the record's own bytes to the signed root.
fn check(record: Vec<u8>, proof: &ProofResponse, key: &Vkey) -> Result<Proven, LedgerError> {
    let checkpoint = SignedCheckpoint::verify(proof.checkpoint.as_bytes(), key)?;
    let (size, root) = (checkpoint.checkpoint().size, checkpoint.checkpoint().root);
    let index = proof.index;
    if proof.size != size {
        return Err(LedgerError::Proof("the proof is of another checkpoint"));
    }
    let hashes = proof
        .hashes
        .iter()
        .map(|hash| Hash::from_slice(hash))
        .collect::<Result<Vec<_>, _>>()?;
    verify_inclusion(&leaf_hash(&record), index, size, &hashes, &root)?;
    Ok(Proven {
        index,
        record,
        hashes,
        checkpoint,
        vkey: key.clone(),
    })
}

#[cfg(test)]
mod tests {
    use mintage_identity::{TrustDomain, UnixTime};
    use mintage_ledger::{Checkpoint, Frontier, Leaves, LogKey, Origin, inclusion};
    use zeroize::Zeroizing;

    use super::*;

    fn proof() -> (Vec<u8>, ProofResponse, Vkey) {
        let domain = TrustDomain::parse("dev.test").unwrap();
        let origin = Origin::new(&domain, "a1b2", UnixTime::from_seconds(0)).unwrap();
        let (key, _) = LogKey::generate(&Zeroizing::new([3; 32])).unwrap();
        let (mut leaves, mut frontier) = (Leaves::default(), Frontier::new());
        for number in 0..21u8 {
            leaves.push(leaf_hash(&[number]));
            frontier.push(leaf_hash(&[number]));
        }
        let vkey = key.vkey(&origin);
        let signed = key.sign(Checkpoint {
            origin,
            size: 21,
            root: frontier.root(),
        });
        let hashes = inclusion(&leaves, 9, 21).unwrap();
        let proof = ProofResponse {
            index: 9,
            size: 21,
            hashes: hashes.iter().map(|hash| hash.as_bytes().to_vec()).collect(),
            checkpoint: signed.to_string(),
            leaf_hash: leaf_hash(&[9]).as_bytes().to_vec(),
            vkey: vkey.to_string(),
            successions: Vec::new(),
        };
        (vec![9], proof, vkey)
    }

    #[test]
    fn a_proof_is_believed_only_when_every_part_fits() {
        let (record, good, key) = proof();
        check(record.clone(), &good, &key).unwrap();
        let refused = |record: &[u8], change: &dyn Fn(&mut ProofResponse)| {
            let mut bad = good.clone();
            change(&mut bad);
            assert!(check(record.to_vec(), &bad, &key).is_err());
        };
        refused(&[8], &|_| {});
        refused(&record, &|bad| bad.index = 8);
        refused(&record, &|bad| bad.size = 20);
        refused(&record, &|bad| bad.hashes[0][0] ^= 1);
        refused(&record, &|bad| drop(bad.hashes.pop()));
        refused(&record, &|bad| bad.hashes[1].truncate(31));
        refused(&record, &|bad| {
            bad.checkpoint = bad.checkpoint.replace("\n21\n", "\n22\n")
        });
        let other = Vkey::new(key.name(), [9; 32]).unwrap();
        let error = verdict(&check(record, &good, &other).unwrap_err());
        assert_eq!(error.code(), 3, "{error}");
    }
}
