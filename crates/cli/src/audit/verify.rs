//! `audit verify`: a ledger held against its own rules, offline, as the CA keeps it or as it was exported. First the form
//! (frames, hashes, tiles, signatures, all by the ledger crate), and with each record its meaning.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, Ordering},
    thread,
};

use clap::Args;
use mintage_identity::Ttl;
use mintage_ledger::{
    LedgerError, Policy, RecordCheck, ShardBegin, ShardReport, Stored, TreeReport, Vkey, limits::NOTE_BYTES_MAX,
    signed_records, verify_indexes, verify_ledger_tree, verify_tree,
};
use serde::Serialize;

use super::{
    kept::{Against, GivenUp, Kept},
    offline::{checkpoint_of, holds_policy, none_in, verdict},
    progress::{PAUSE, Progress, Watched},
    trust::{Trust, keys_of, read_bounded},
};
use crate::{
    cli::Context,
    failure::Failure,
    meaning::{Handing, Meaning, Rules, judged},
    output::{Format, fields},
    text::count,
};

/// `audit verify`.
#[derive(Args, Debug, Default)]
pub(crate) struct VerifyArgs {
    /// A CA's data directory, what `audit export-tiles` wrote, or a copy of an object store [default: the data directory].
    #[arg(value_name = "DIR")]
    pub(crate) dir: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) trust: Trust,
    /// A checkpoint that you have kept: the log must begin with the records that were signed then.
    #[arg(long, value_name = "FILE")]
    pub(crate) checkpoint: Option<PathBuf>,
    /// Also verifies the signature of every leaf certificate.
    #[arg(long)]
    pub(crate) signatures: bool,
    /// The longest lifetime your policy allows: a longer certificate or token is an offence.
    #[arg(long, value_name = "DURATION")]
    pub(crate) max_ttl: Option<Ttl>,
}

impl VerifyArgs {
    /// Under the keys of a file, every signature included.
    pub(crate) fn strict(vkey: PathBuf) -> Self {
        Self {
            trust: Trust {
                vkey: Some(vkey),
                policy: None,
            },
            signatures: true,
            ..Self::default()
        }
    }
}

/// One shard that was verified.
#[derive(Debug, Serialize)]
pub(crate) struct Shard {
    pub(crate) origin: String,
    vkey: String,
    /// Index of its first record in the ledger.
    first: u64,
    /// True when its records were given up: its checkpoints and upper tiles are all there is.
    released: bool,
    pub(crate) size: u64,
    pub(crate) root: String,
    checkpoint_size: u64,
    checkpoint_root: String,
    unsigned_records: u64,
    unfinished_tail: bool,
    tiles: u64,
    tiles_missing: u64,
    /// Witnesses of the policy that cosigned the checkpoint.
    witnesses: Vec<String>,
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
    /// The size of the kept checkpoint that the log begins with.
    kept_checkpoint: Option<u64>,
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
            first: report.first,
            released: report.released,
            size: report.size,
            root: hex::encode(report.root.as_bytes()),
            checkpoint_size: report.checkpoint.size,
            checkpoint_root: hex::encode(report.checkpoint.root.as_bytes()),
            unsigned_records: report.size.saturating_sub(report.checkpoint.size),
            unfinished_tail: report.unfinished_tail,
            tiles: report.tiles,
            tiles_missing: report.tiles_missing,
            witnesses: Vec::new(),
        }
    }
}

impl From<&TreeReport> for Shard {
    fn from(report: &TreeReport) -> Self {
        let root = hex::encode(report.checkpoint.root().as_bytes());
        Self {
            origin: report.vkey.name().to_owned(),
            vkey: report.vkey.to_string(),
            first: report.first,
            released: report.released,
            size: report.checkpoint.size(),
            root: root.clone(),
            checkpoint_size: report.checkpoint.size(),
            checkpoint_root: root,
            unsigned_records: 0,
            unfinished_tail: false,
            tiles: report.tiles,
            tiles_missing: 0,
            witnesses: report.witnesses.iter().map(|(name, _)| name.clone()).collect(),
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
            let missing = match (shard.tiles_missing, shard.released) {
                (0, _) => String::new(),
                (missing, false) => format!(", {missing} missing (they can be made again)"),
                (missing, true) => format!(", {missing} missing (they went with the records)"),
            };
            text.push_str(&fields(&[
                ("origin", shard.origin.clone()),
                (
                    "first record",
                    if shard.first > 0 {
                        shard.first.to_string()
                    } else {
                        String::new()
                    },
                ),
                (
                    "records",
                    if shard.released {
                        format!("{}, given up", shard.size)
                    } else {
                        shard.size.to_string()
                    },
                ),
                ("root", shard.root.clone()),
                ("checkpoint", format!("signed at {}{unsigned}", shard.checkpoint_size)),
                ("witnesses", shard.witnesses.join(", ")),
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
        let kept = self
            .kept_checkpoint
            .map(|size| format!("of {} is its beginning", count(size, "record", "records")));
        text + &fields(&[
            ("kept checkpoint", kept.unwrap_or_default()),
            ("kinds", kinds.join(", ")),
            ("certificates", format!("{} ({signatures})", self.certificates)),
        ])
    }
}

/// What a folder is, by its files.
#[derive(Debug)]
pub(super) enum Form {
    /// A ledger as the CA keeps it, or a copy of closed shards.
    Ledger(PathBuf),
    /// An exported ledger: a policy, and a folder for each log.
    Tree(PathBuf),
    /// One log of such a tree.
    Log(PathBuf),
}

impl Form {
    /// Tells it by its files.
    ///
    /// # Errors
    /// When it holds no ledger in any form.
    pub(super) fn of(dir: &Path) -> Result<Self, Failure> {
        if dir.join("checkpoint").exists() {
            return Ok(Self::Log(dir.to_owned()));
        }
        if holds_policy(dir)? {
            // A ledger that was ever served has its lock, a copy of closed shards has their segments, and a tree neither.
            return Ok(match dir.join("lock").exists() || has_segments(dir) {
                true => Self::Ledger(dir.to_owned()),
                false => Self::Tree(dir.to_owned()),
            });
        }
        let ledger = dir.join("ledger");
        match holds_policy(&ledger)? {
            true => Ok(Self::Ledger(ledger)),
            false => Err(none_in(
                dir,
                "name a CA's data directory (it has ledger/policy), an exported tree or a copy (policy), or one log of a tree \
                 (checkpoint)",
            )),
        }
    }

    /// Refuses to believe a single log without a key: it has no list of its own.
    ///
    /// # Errors
    /// Says how a key is named.
    pub(super) fn with_key(self, policy: Option<&Policy>) -> Result<Self, Failure> {
        match (&self, policy) {
            (Self::Log(log), None) => Err(Failure::file(
                log,
                "is one log of a tree and brings no key: name it by --vkey FILE",
            )),
            _ => Ok(self),
        }
    }

    /// How many signed records it holds, where that can be told before it is verified.
    pub(super) fn total(&self) -> Option<u64> {
        match self {
            Self::Ledger(dir) | Self::Tree(dir) => signed_records(dir).ok(),
            Self::Log(dir) => {
                let note = read_bounded(&dir.join("checkpoint"), NOTE_BYTES_MAX).ok()?;
                std::str::from_utf8(&note).ok()?.lines().nth(1)?.parse().ok()
            }
        }
    }

    /// Verifies the folder under a policy, or under the keys it lists itself, and tells how far it is.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub(super) fn verify(
        &self,
        policy: Option<&Policy>,
        check: &mut dyn RecordCheck,
        progress: Progress,
    ) -> Result<Vec<Shard>, LedgerError> {
        let mut check = Watched::shown(check, progress);
        match self {
            Self::Ledger(ledger) => {
                let keys = policy.map(keys_of);
                let over = AtomicBool::new(false);
                let (reports, indexes) = thread::scope(|scope| {
                    let indexes = scope.spawn(|| verify_indexes(ledger, &|| !over.load(Ordering::Relaxed)));
                    let reports = mintage_ledger::verify(ledger, keys.as_deref(), &mut check);
                    over.store(reports.is_err(), Ordering::Relaxed);
                    while !indexes.is_finished() {
                        check.progress().note("comparing the search indexes with the records");
                        thread::sleep(PAUSE);
                    }
                    (reports, indexes.join())
                });
                // What is wrong with records is told before what is made of them.
                let reports = reports?;
                indexes.unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
                Ok(reports.iter().map(Into::into).collect())
            }
            Self::Tree(dir) => {
                let reports = verify_ledger_tree(dir, policy, &mut check)?;
                Ok(reports.iter().map(Into::into).collect())
            }
            Self::Log(dir) => {
                let policy = policy.ok_or_else(|| LedgerError::Signature("a single log brings no key".into()))?;
                Ok(vec![Shard::from(&verify_tree(dir, policy, &mut check)?)])
            }
        }
    }
}

/// True when a shard's folder, two below the ledger's, holds sealed segments.
fn has_segments(dir: &Path) -> bool {
    let below = |dir: &Path| -> Vec<PathBuf> {
        let listed = std::fs::read_dir(dir).into_iter().flatten();
        listed.filter_map(|entry| Some(entry.ok()?.path())).collect()
    };
    below(dir)
        .iter()
        .any(|id| below(id).iter().any(|shard| shard.join("seg").is_dir()))
}

/// Everything that looks at a record.
struct Looks<'a> {
    meaning: &'a mut Handing,
    kept: Option<&'a mut Kept>,
}

impl RecordCheck for Looks<'_> {
    fn begin(&mut self, begin: &ShardBegin<'_>) -> Result<(), String> {
        self.meaning.begin(begin)
    }

    fn record(&mut self, key: &Vkey, stored: &Stored) -> Result<(), String> {
        self.kept.as_mut().map_or(Ok(()), |kept| kept.record(key, stored))?;
        self.meaning.record(key, stored)
    }
}

/// Verifies what is in a folder.
pub(crate) fn verify(dir: &Path, verify: &VerifyArgs) -> Result<Verified, Box<Refused>> {
    let policy = verify.trust.read().map_err(Refused::local)?;
    let form = Form::of(dir).and_then(|form| form.with_key(policy.as_ref()));
    let form = form.map_err(Refused::local)?;
    let kept = verify.checkpoint.as_deref().map(Kept::read).transpose();
    let mut kept = kept.map_err(Refused::local)?;
    let rules = Rules {
        signatures: verify.signatures,
        max_ttl: verify.max_ttl,
    };
    let (verified, meaning) = judged(Meaning::new(rules), |meaning| {
        let mut looks = Looks {
            meaning,
            kept: kept.as_mut(),
        };
        form.verify(policy.as_ref(), &mut looks, Progress::start(form.total()))
    })
    .map_err(|error| Refused::local(Failure::local(error)))?;
    if let (Ok(_), Some((index, problem))) = (&verified, meaning.offence()) {
        return Err(Box::new(Refused::offence(index, problem, &meaning)));
    }
    let mut shards = verified.map_err(|error| Box::new(Refused::of(&error, &meaning)))?;
    if let (Form::Ledger(ledger), Some(policy)) = (&form, &policy) {
        for shard in &mut shards {
            witnessed(ledger, policy, shard).map_err(Refused::local)?;
        }
    }
    let kept = kept.as_ref().map(|kept| kept.holds(given_up(&shards, kept.origin())));
    Ok(Verified {
        proven: true,
        shards,
        kept_checkpoint: kept
            .transpose()
            .map_err(|against| Box::new(Refused::against(against, &meaning)))?,
        certificates: meaning.certificates(),
        records: meaning.into_counts(),
        signatures_verified: verify.signatures,
        keys_given: policy.is_some(),
    })
}

fn given_up<'a>(shards: &'a [Shard], origin: &str) -> Option<GivenUp<'a>> {
    let shard = shards.iter().find(|shard| shard.released && shard.origin == origin)?;
    Some(GivenUp {
        vkey: &shard.vkey,
        size: shard.checkpoint_size,
        root: &shard.checkpoint_root,
    })
}

/// Holds the quorum of the policy against the checkpoint of a CA's ledger, and notes who cosigned it.
fn witnessed(ledger: &Path, policy: &Policy, shard: &mut Shard) -> Result<(), Failure> {
    let vkey: Vkey = shard.vkey.parse().map_err(Failure::local)?;
    let signed = checkpoint_of(ledger, &vkey)?;
    // The log was proven to be named by one that the policy trusts.
    let policy = policy.with_log(vkey).map_err(|error| verdict(&error))?;
    let checked = policy.check(signed.note()).map_err(|error| verdict(&error))?;
    shard.witnesses = checked
        .witnesses
        .iter()
        .map(|(witness, _)| witness.name.clone())
        .collect();
    match checked.quorum {
        true => Ok(()),
        false => Err(Failure::No(format!(
            "not proven: the quorum of the policy is not met: {} of its witnesses cosigned {}",
            shard.witnesses.len(),
            shard.origin
        ))),
    }
}

/// Why a ledger is not proven, or could not be looked at.
#[derive(Debug)]
pub(crate) struct Refused {
    pub(crate) failure: Failure,
    origin: String,
    pub(crate) index: Option<u64>,
}

impl Refused {
    fn local(failure: Failure) -> Box<Self> {
        Box::new(Self {
            failure,
            origin: String::new(),
            index: None,
        })
    }

    fn against((problem, index): Against, meaning: &Meaning) -> Self {
        Self {
            failure: Failure::No(format!("not proven: {problem}")),
            origin: meaning.origin().to_owned(),
            index,
        }
    }

    fn offence(index: u64, problem: &str, meaning: &Meaning) -> Self {
        Self {
            failure: Failure::No(format!("not proven: record {index}: {problem}")),
            origin: meaning.origin().to_owned(),
            index: Some(index),
        }
    }

    fn of(error: &LedgerError, meaning: &Meaning) -> Self {
        // A record that offends is told as such: its bytes are whole.
        if let Some((index, problem)) = meaning.offence() {
            return Self::offence(index, problem, meaning);
        }
        let index = match error {
            LedgerError::Corrupt { index, .. } | LedgerError::Derived { index, .. } => Some(*index),
            LedgerError::Tree { index, .. } => *index,
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
    args.trust.read_or_say()?;
    let dir = args.dir.clone().unwrap_or_else(|| context.data_dir());
    match verify(&dir, args) {
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

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_folder_is_told_by_its_files() {
        let dir = tempfile::tempdir().unwrap();
        let told = Form::of(dir.path()).unwrap_err().to_string();
        assert!(told.contains("holds no ledger; name a CA's data directory"), "{told}");
        let told = Form::of(&dir.path().join("mistyped")).unwrap_err().to_string();
        assert!(told.contains("mistyped: is not there"), "{told}");
        fs::write(dir.path().join("policy"), "").unwrap();
        fs::create_dir_all(dir.path().join("a1/2026-01/tile")).unwrap();
        assert!(matches!(Form::of(dir.path()), Ok(Form::Tree(_))), "exported");
        fs::create_dir(dir.path().join("a1/2026-01/seg")).unwrap();
        assert!(
            matches!(Form::of(dir.path()), Ok(Form::Ledger(_))),
            "a copy of closed shards"
        );
        fs::remove_dir(dir.path().join("a1/2026-01/seg")).unwrap();
        fs::write(dir.path().join("lock"), "").unwrap();
        assert!(matches!(Form::of(dir.path()), Ok(Form::Ledger(_))), "served");
        fs::write(dir.path().join("checkpoint"), "").unwrap();
        assert!(matches!(Form::of(dir.path()), Ok(Form::Log(_))));
    }
}
