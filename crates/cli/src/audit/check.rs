//! `audit check`: a certificate and its proof, verified with nothing else than the keys you trust. No CA, no ledger, no
//! network.

use std::path::PathBuf;

use clap::Args;
use mintage_identity::UnixTime;
use mintage_ledger::{Body, Policy, Record, TlogProof, leaf_hash, limits::TLOG_PROOF_BYTES_MAX};
use mintage_svid::{LeafInfo, cert_sha256, pem::decode_certificates};
use serde::Serialize;

use super::{
    offline::verdict,
    trust::{Trust, read_bounded},
};
use crate::{
    cli::Context,
    failure::Failure,
    limits::CERTIFICATE_FILE_BYTES_MAX,
    output::{Format, fields},
    text::{rfc3339, utc},
};

/// The first octet of every DER certificate: a SEQUENCE.
const DER_SEQUENCE: u8 = 0x30;

/// `audit check`.
#[derive(Args, Debug)]
pub(crate) struct CheckArgs {
    /// The certificate: PEM, of which the first is taken, or DER.
    #[arg(long, value_name = "FILE")]
    certificate: PathBuf,
    /// Its proof, as `audit proof` printed it.
    #[arg(long, value_name = "FILE")]
    proof: PathBuf,
    #[command(flatten)]
    trust: Trust,
}

#[derive(Debug, Serialize)]
struct Witness {
    name: String,
    time: Option<String>,
}

/// What was proven.
#[derive(Debug, Serialize)]
struct Checked {
    proven: bool,
    origin: String,
    index: u64,
    size: u64,
    root: String,
    vkey: String,
    leaf_hash: String,
    recorded: Option<String>,
    serial: String,
    spiffe_id: String,
    not_before: Option<String>,
    not_after: Option<String>,
    certificate_sha256: String,
    witnesses: Vec<Witness>,
    /// What nobody may conclude from it.
    not_proven: Vec<&'static str>,
    #[serde(skip)]
    validity: (i64, i64),
}

/// What it found when something does not hold.
#[derive(Debug, Serialize)]
struct Offence {
    proven: bool,
    problem: String,
}

impl Checked {
    fn text(&self) -> String {
        let witnesses: Vec<_> = self
            .witnesses
            .iter()
            .map(|witness| match &witness.time {
                Some(time) => format!("{} at {time}", witness.name),
                None => witness.name.clone(),
            })
            .collect();
        let head = fields(&[
            ("serial", self.serial.clone()),
            ("spiffe id", self.spiffe_id.clone()),
            ("not before", utc(self.validity.0)),
            ("not after", utc(self.validity.1)),
            ("certificate sha256", self.certificate_sha256.clone()),
            ("record", format!("{} of {}", self.index, self.origin)),
            ("recorded", self.recorded.clone().unwrap_or_default()),
            ("checkpoint", format!("signed at {} by {}", self.size, self.vkey)),
            ("witnesses", witnesses.join(", ")),
        ]);
        let not: String = self.not_proven.iter().map(|what| format!("  {what}\n")).collect();
        format!("proven: the log holds exactly this certificate\n\n{head}\nnot proven by this:\n{not}")
    }
}

/// Runs the verb.
pub(super) fn run(context: &Context, args: &CheckArgs) -> Result<(), Failure> {
    let policy = args.trust.read()?.ok_or_else(|| {
        Failure::local("whom do you trust? bring the log's verifier key by --vkey FILE or a policy by --policy FILE")
    })?;
    let certificate = certificate_of(args)?;
    let proof = read_bounded(&args.proof, TLOG_PROOF_BYTES_MAX)?;
    match check(&certificate, &proof, &policy) {
        Ok(checked) => context.output.object(&checked, || checked.text()),
        Err(failure) => {
            if matches!(failure, Failure::No(_)) && matches!(context.output.format(), Format::Json | Format::Jsonl) {
                let offence = Offence {
                    proven: false,
                    problem: failure.to_string(),
                };
                context.output.object(&offence, String::new)?;
            }
            Err(failure)
        }
    }
}

/// The file's first certificate.
fn certificate_of(args: &CheckArgs) -> Result<Vec<u8>, Failure> {
    let path = &args.certificate;
    let octets = read_bounded(path, CERTIFICATE_FILE_BYTES_MAX)?;
    if octets.first() == Some(&DER_SEQUENCE) {
        return Ok(octets);
    }
    let text = std::str::from_utf8(&octets).map_err(|_| Failure::file(path, "is neither PEM nor DER"))?;
    let chain = decode_certificates(text).map_err(|error| Failure::file(path, error))?;
    chain
        .into_iter()
        .next()
        .ok_or_else(|| Failure::file(path, "holds no certificate"))
}

/// Proof, then record, then certificate: each is believed only for what came before.
fn check(certificate: &[u8], proof: &[u8], policy: &Policy) -> Result<Checked, Failure> {
    let no = |text: String| Failure::No(format!("not proven: {text}"));
    let proof = TlogProof::parse(proof).map_err(|error| no(error.to_string()))?;
    let octets = proof
        .extra()
        .ok_or_else(|| no("the proof carries no record, so its leaf cannot be hashed".into()))?;
    let leaf = leaf_hash(octets);
    let verified = proof.verify(&leaf, policy).map_err(|error| verdict(&error))?;
    let record = Record::decode(octets).map_err(|error| no(error.to_string()))?;
    let Body::Issue(issue) = &record.body else {
        return Err(no(format!(
            "record {} is {}, not the issue of a certificate",
            proof.index(),
            record.kind()
        )));
    };
    if issue.certificate_der != certificate {
        let held = LeafInfo::parse(&issue.certificate_der).map(|leaf| leaf.serial().to_string());
        let held = held.unwrap_or_else(|_| "another".into());
        return Err(no(format!(
            "record {} holds the certificate {held}, not that of the file",
            proof.index()
        )));
    }
    let info =
        LeafInfo::parse(certificate).map_err(|error| no(format!("the certificate is no X.509-SVID: {error}")))?;
    let validity = (info.not_before().millis(), info.not_after().millis());
    let witness = |(witness, time): &(&mintage_ledger::PolicyWitness, UnixTime)| Witness {
        name: witness.name.clone(),
        time: rfc3339(time.millis()),
    };
    let checkpoint = &verified.checkpoint;
    Ok(Checked {
        proven: true,
        origin: checkpoint.origin().to_owned(),
        index: proof.index(),
        size: checkpoint.size(),
        root: hex::encode(checkpoint.root().as_bytes()),
        vkey: verified.log.vkey.to_string(),
        leaf_hash: hex::encode(leaf.as_bytes()),
        recorded: rfc3339(record.time.millis()),
        serial: info.serial().to_string(),
        spiffe_id: info.id().to_string(),
        not_before: rfc3339(validity.0),
        not_after: rfc3339(validity.1),
        certificate_sha256: cert_sha256(certificate).to_string(),
        not_proven: not_proven(verified.witnesses.is_empty()),
        witnesses: verified.witnesses.iter().map(witness).collect(),
        validity,
    })
}

/// What a proof of inclusion says nothing about.
fn not_proven(unseen: bool) -> Vec<&'static str> {
    let mut list = vec![
        "that the certificate is valid now, or was not revoked: ask a verifier with a fresh filter",
        "that it was allowed: `mintage audit verify` reads the records before it",
        "when it was recorded: the time is the CA's own word",
    ];
    if unseen {
        list.push("that everybody is shown the same log: no witness of a policy has cosigned the checkpoint");
    }
    list
}
