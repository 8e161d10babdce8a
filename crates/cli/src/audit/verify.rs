//! `audit verify`: a ledger folder held against its own rules, offline. First the form (frames, hashes, tiles, signatures,
//! all by the ledger crate), and with each record its meaning.

use std::{collections::BTreeMap, path::PathBuf};

use clap::Args;
use mintage_identity::Ttl;
use mintage_ledger::{LedgerError, ShardReport};
use serde::Serialize;

use super::offline::{ledger_of, read_vkeys, verdict};
use crate::{
    cli::Context,
    failure::Failure,
    meaning::{Meaning, Rules},
    output::{Format, fields, notice},
    text::count,
};

/// `audit verify`.
#[derive(Args, Debug, Default)]
pub(crate) struct VerifyArgs {
    /// File with the verifier keys you trust; without it the folder's own list is taken.
    #[arg(long, value_name = "FILE")]
    pub(crate) vkey: Option<PathBuf>,
    /// Also verifies the signature of every leaf certificate.
    #[arg(long)]
    pub(crate) signatures: bool,
    /// The longest lifetime your policy allows: a longer certificate is an offence.
    #[arg(long, value_name = "DURATION")]
    pub(crate) max_ttl: Option<Ttl>,
}

impl VerifyArgs {
    /// Under the keys of a file, every signature included.
    pub(crate) fn strict(vkey: PathBuf) -> Self {
        Self {
            vkey: Some(vkey),
            signatures: true,
            max_ttl: None,
        }
    }
}

/// One shard that was verified.
#[derive(Debug, Serialize)]
pub(crate) struct Shard {
    pub(crate) origin: String,
    vkey: String,
    pub(crate) size: u64,
    pub(crate) root: String,
    checkpoint_size: u64,
    checkpoint_root: String,
    unsigned_records: u64,
    unfinished_tail: bool,
    tiles: u64,
    tiles_missing: u64,
}

/// What a verification found when everything holds.
#[derive(Debug, Serialize)]
pub(crate) struct Verified {
    proven: bool,
    pub(crate) shards: Vec<Shard>,
    records: BTreeMap<&'static str, u64>,
    certificates: u64,
    signatures_verified: bool,
    keys_given: bool,
}

/// What it found when something does not.
#[derive(Debug, Serialize)]
struct Offence {
    proven: bool,
    origin: String,
    index: Option<u64>,
    problem: String,
}

impl From<&ShardReport> for Shard {
    fn from(report: &ShardReport) -> Self {
        Self {
            origin: report.vkey.name().to_owned(),
            vkey: report.vkey.to_string(),
            size: report.size,
            root: hex::encode(report.root.as_bytes()),
            checkpoint_size: report.checkpoint.size,
            checkpoint_root: hex::encode(report.checkpoint.root.as_bytes()),
            unsigned_records: report.size.saturating_sub(report.checkpoint.size),
            unfinished_tail: report.unfinished_tail,
            tiles: report.tiles,
            tiles_missing: report.tiles_missing,
        }
    }
}

impl Verified {
    fn text(&self) -> String {
        let mut text = String::from("proven\n\n");
        for shard in &self.shards {
            let unsigned = match shard.unsigned_records {
                0 => String::new(),
                more => format!(", {} after it not signed yet", count(more, "record", "records")),
            };
            let missing = match shard.tiles_missing {
                0 => String::new(),
                missing => format!(", {missing} missing (they can be made again)"),
            };
            text.push_str(&fields(&[
                ("origin", shard.origin.clone()),
                ("records", shard.size.to_string()),
                ("root", shard.root.clone()),
                ("checkpoint", format!("signed at {}{unsigned}", shard.checkpoint_size)),
                ("tiles", format!("{} right{missing}", shard.tiles)),
                (
                    "tail",
                    if shard.unfinished_tail {
                        "ends with a group that was never finished".into()
                    } else {
                        String::new()
                    },
                ),
            ]));
            text.push('\n');
        }
        let kinds: Vec<_> = self
            .records
            .iter()
            .map(|(kind, number)| format!("{kind} {number}"))
            .collect();
        let signatures = match self.signatures_verified {
            true => "with every signature",
            false => "signatures of leaves not looked at: --signatures",
        };
        text + &fields(&[
            ("kinds", kinds.join(", ")),
            ("certificates", format!("{} ({signatures})", self.certificates)),
        ])
    }
}

/// Verifies the ledger below a data directory.
pub(crate) fn verify(data_dir: &std::path::Path, verify: &VerifyArgs) -> Result<Verified, Box<Refused>> {
    let local = |failure| {
        Box::new(Refused {
            failure,
            origin: String::new(),
            index: None,
        })
    };
    let ledger = ledger_of(data_dir).map_err(local)?;
    let keys = verify.vkey.as_deref().map(read_vkeys).transpose().map_err(local)?;
    let rules = Rules {
        signatures: verify.signatures,
        max_ttl: verify.max_ttl,
    };
    let mut meaning = Meaning::new(rules);
    let reports = mintage_ledger::verify(&ledger, keys.as_deref(), &mut meaning);
    let reports = reports.map_err(|error| Box::new(Refused::of(&error, &meaning)))?;
    Ok(Verified {
        proven: true,
        shards: reports.iter().map(Into::into).collect(),
        certificates: meaning.certificates(),
        records: meaning.into_counts(),
        signatures_verified: verify.signatures,
        keys_given: keys.is_some(),
    })
}

/// Why a ledger is not proven, or could not be looked at.
#[derive(Debug)]
pub(crate) struct Refused {
    pub(crate) failure: Failure,
    origin: String,
    pub(crate) index: Option<u64>,
}

impl Refused {
    fn of(error: &LedgerError, meaning: &Meaning) -> Self {
        // A record that offends is told as such: its bytes are whole.
        if let Some((index, problem)) = meaning.offence() {
            let failure = Failure::No(format!("not proven: record {index}: {problem}"));
            return Self {
                failure,
                origin: meaning.origin().to_owned(),
                index: Some(index),
            };
        }
        let index = match error {
            LedgerError::Corrupt { index, .. } => Some(*index),
            LedgerError::RolledBack { have, .. } => Some(*have),
            LedgerError::Forked { size, .. } => Some(size.saturating_sub(1)),
            _ => None,
        };
        Self {
            failure: verdict(error),
            origin: meaning.origin().to_owned(),
            index,
        }
    }
}

/// Runs the verb.
pub(super) fn run(context: &Context, args: &VerifyArgs) -> Result<(), Failure> {
    if args.vkey.is_none() {
        notice("the keys are the folder's own word: bring the one that `mintage-ca init` printed by --vkey FILE");
    }
    match verify(&context.data_dir(), args) {
        Ok(verified) => context.output.object(&verified, || verified.text()),
        Err(refused) => {
            let Refused { failure, origin, index } = *refused;
            let is_no = matches!(failure, Failure::No(_));
            if is_no && matches!(context.output.format(), Format::Json | Format::Jsonl) {
                let offence = Offence {
                    proven: false,
                    origin,
                    index,
                    problem: failure.to_string(),
                };
                context.output.object(&offence, String::new)?;
            }
            Err(failure)
        }
    }
}
