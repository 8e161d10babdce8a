//! `audit export-tiles`: the ledger as plain C2SP tlog-tiles folders, for verifiers that nobody here wrote.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use clap::Args;
use mintage_ledger::{LedgerError, LedgerTreeWriter, Vkey, signed_records};
use serde::Serialize;

use super::{
    offline::{ledger_of, verdict},
    progress::Watched,
    trust::{Trust, keys_of},
};
use crate::{cli::Context, failure::Failure, output::fields};

/// `audit export-tiles`.
#[derive(Args, Debug)]
pub(crate) struct ExportTilesArgs {
    /// Where the tree is written: a folder that is empty or not there.
    #[arg(value_name = "DIR")]
    dir: PathBuf,
    #[command(flatten)]
    trust: Trust,
}

#[derive(Debug, Serialize)]
struct Log {
    origin: String,
    vkey: String,
    size: u64,
}

#[derive(Debug, Serialize)]
struct Written {
    dir: PathBuf,
    logs: Vec<Log>,
}

impl Written {
    fn text(&self) -> String {
        let mut text = fields(&[("tree", self.dir.display().to_string())]);
        for log in &self.logs {
            let rows = [
                ("origin", log.origin.clone()),
                ("records", log.size.to_string()),
                ("vkey", log.vkey.clone()),
            ];
            text.push('\n');
            text.push_str(&fields(&rows));
        }
        text
    }
}

/// Runs the verb.
pub(super) fn run(context: &Context, args: &ExportTilesArgs) -> Result<(), Failure> {
    let ledger = ledger_of(&context.data_dir())?;
    let keys = args.trust.read_or_say()?.as_ref().map(keys_of);
    let writer = LedgerTreeWriter::create(&ledger, &args.dir).map_err(|error| ours(&error))?;
    let logs = export(&ledger, keys.as_deref(), writer).inspect_err(|_| clear(&args.dir))?;
    let written = Written {
        dir: args.dir.clone(),
        logs: logs
            .into_iter()
            .map(|(vkey, size)| Log {
                origin: vkey.name().to_owned(),
                vkey: vkey.to_string(),
                size,
            })
            .collect(),
    };
    context.output.object(&written, || written.text())
}

/// Verifies the ledger as a whole while it is written; nothing of it counts before all of it is proven.
fn export(ledger: &Path, keys: Option<&[Vkey]>, mut writer: LedgerTreeWriter) -> Result<Vec<(Vkey, u64)>, Failure> {
    let verified = mintage_ledger::verify(
        ledger,
        keys,
        &mut Watched::new(&mut writer, signed_records(ledger).ok()),
    );
    if let Some(error) = writer.failure() {
        return Err(ours(&error));
    }
    verified.map_err(|error| verdict(&error))?;
    writer.finish().map_err(|error| verdict(&error))
}

/// A folder that is in use is the caller's side.
fn ours(error: &LedgerError) -> Failure {
    match error {
        LedgerError::Exists(dir) => Failure::file(dir, "is not empty; a tree is written into a folder of its own"),
        error => verdict(error),
    }
}

/// Removes what a failed export left behind; the folder was empty before.
fn clear(dir: &Path) {
    let gone = || -> io::Result<()> {
        for entry in fs::read_dir(dir)? {
            let entry = entry?;
            match entry.file_type()?.is_dir() {
                true => fs::remove_dir_all(entry.path())?,
                false => fs::remove_file(entry.path())?,
            }
        }
        Ok(())
    };
    // What stays has no checkpoint, so no verifier takes it for a log.
    let _ = gone();
}
