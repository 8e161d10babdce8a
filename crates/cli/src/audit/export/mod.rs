//! `audit export`: records as files for other programs, from the CA or out of a data directory that is verified first.
//!
//! Formats are written for whoever reads them: one JSON object a line with everything, a table for spreadsheets, and the
//! events that security products know (OCSF and ECS). Control characters are written out in all of them.

mod certificate;
mod columns;
mod csv;
mod ecs;
mod jsonl;
mod ocsf;
pub(crate) mod target;
#[cfg(test)]
mod tests;

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use mintage_ledger::{ShardReport, Vkey, signed_records};
use mintage_proto::v1::{Shard, ShardsRequest};
use serde::Serialize;

use self::target::Target;
use super::{
    facts::Placed,
    offline::{ledger_of, read_vkeys, verdict},
    progress::{Progress, Watched},
    search::{self, Conditions},
    source::{Live, Offline},
};
use crate::{
    cli::Context,
    client::Ca,
    failure::Failure,
    interrupt::Interrupt,
    limits::EXPORT_WRITE_BYTES,
    lines::Reader,
    output::{fields, notice},
    text::{count, rfc3339},
};

/// `audit export`.
#[derive(Args, Debug)]
#[command(after_help = search::REVOCATIONS_HELP)]
pub(crate) struct ExportArgs {
    /// What the records become: jsonl, csv, ocsf, ecs or parquet.
    #[arg(long, value_name = "FORMAT", value_enum)]
    format: Form,
    /// File to write, which appears when it is whole; without it standard output.
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Reads and verifies the ledger of --data-dir instead of asking the CA.
    #[arg(long)]
    offline: bool,
    /// File with the verifier keys you trust, for --offline; without it the folder's own list is taken.
    #[arg(long, value_name = "FILE", requires = "offline")]
    vkey: Option<PathBuf>,
    #[command(flatten)]
    conditions: Conditions,
}

/// The formats.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum Form {
    /// One JSON object a line, with the fields of `audit show`.
    Jsonl,
    /// A table with a fixed header (RFC 4180).
    Csv,
    /// Events of the Open Cybersecurity Schema Framework, one JSON object a line.
    Ocsf,
    /// Events of the Elastic Common Schema, one JSON object a line.
    Ecs,
    /// Columns in an Apache Parquet file; needs the feature of that name.
    Parquet,
}

/// Writes records in one format.
trait Encoder {
    /// What stands before the first record.
    fn head(&mut self, _out: &mut Vec<u8>) -> Result<(), Failure> {
        Ok(())
    }

    /// One record.
    fn record(&mut self, placed: &Placed, out: &mut Vec<u8>) -> Result<(), Failure>;

    /// What stands after the last one.
    fn end(&mut self, _out: &mut Vec<u8>) -> Result<(), Failure> {
        Ok(())
    }
}

impl Form {
    fn encoder(self) -> Result<Box<dyn Encoder>, Failure> {
        Ok(match self {
            Self::Jsonl => Box::new(jsonl::Jsonl),
            Self::Csv => Box::new(csv::Csv),
            Self::Ocsf => Box::new(ocsf::Ocsf),
            Self::Ecs => Box::new(ecs::Ecs),
            Self::Parquet => columns::encoder()?,
        })
    }

    fn name(self) -> &'static str {
        match self {
            Self::Jsonl => "jsonl",
            Self::Csv => "csv",
            Self::Ocsf => "ocsf",
            Self::Ecs => "ecs",
            Self::Parquet => "parquet",
        }
    }
}

/// What was exported.
#[derive(Serialize)]
struct Exported {
    file: PathBuf,
    format: &'static str,
    records: u64,
    /// Index of the first and the last of them.
    first: Option<u64>,
    last: Option<u64>,
    /// Time of the last of them.
    until: Option<String>,
    /// True when the ledger was verified as a whole; from a CA each record is held against its leaf hash alone.
    verified: bool,
}

/// An export under way.
struct Export<'a> {
    conditions: &'a Conditions,
    encoder: Box<dyn Encoder>,
    target: Target,
    progress: Progress,
    buffer: Vec<u8>,
    records: u64,
    first: Option<u64>,
    last: Option<(u64, i64)>,
}

impl Export<'_> {
    /// Takes the wanted ones of these records, when so many were looked at in all.
    async fn take(&mut self, batch: &[Placed], looked_at: u64) -> Result<Reader, Failure> {
        for placed in batch.iter().filter(|placed| self.conditions.hold(placed)) {
            self.encoder.record(placed, &mut self.buffer)?;
            self.records += 1;
            self.first.get_or_insert(placed.index);
            self.last = Some((placed.index, placed.time().millis()));
            if self.buffer.len() >= EXPORT_WRITE_BYTES && self.write().await? == Reader::Left {
                return Ok(Reader::Left);
            }
        }
        self.progress.tell(looked_at);
        Ok(Reader::Stays)
    }

    async fn write(&mut self) -> Result<Reader, Failure> {
        self.target.write(std::mem::take(&mut self.buffer)).await
    }

    /// Every record that the CA still holds.
    async fn live(&mut self, context: &Context) -> Result<Reader, Failure> {
        let ca = context.ca().await?;
        let (first, size) = held(&ca).await?;
        if first > 0 {
            let gone = count(first, "record", "records");
            notice(&format!(
                "the first {gone} of the ledger were given up with their shards; the export begins with record {first}"
            ));
        }
        self.progress = Progress::start(Some(size.saturating_sub(first)));
        let mut live = Live::open(ca, self.conditions.stream(first, false)).await?;
        while let Some(batch) = live.next().await? {
            if self.take(&batch, live.looked_at().saturating_sub(first)).await? == Reader::Left {
                return Ok(Reader::Left);
            }
        }
        Ok(Reader::Stays)
    }

    /// Every record of a data directory, none of which counts before all of them hold.
    async fn offline(&mut self, ledger: PathBuf, keys: Option<Vec<Vkey>>) -> Result<Reader, Failure> {
        let total = signed_records(&ledger).ok();
        if !self.target.is_held_back() {
            // What is printed cannot be taken back: everything is verified once before.
            let (ledger, keys) = (ledger.clone(), keys.clone());
            let verified = tokio::task::spawn_blocking(move || {
                mintage_ledger::verify(&ledger, keys.as_deref(), &mut Watched::new(&mut (), total))
            });
            let verified = verified.await.map_err(Failure::local)?;
            verified.map_err(|error| verdict(&error))?;
        }
        self.progress = Progress::start(total);
        let mut looked_at = 0;
        let mut offline = Offline::start(move |check| mintage_ledger::verify(&ledger, keys.as_deref(), check));
        while let Some(leaves) = offline.next().await {
            let batch = leaves
                .iter()
                .map(super::source::Leaf::placed)
                .collect::<Result<Vec<_>, _>>()?;
            looked_at += batch.len() as u64;
            if self.take(&batch, looked_at).await? == Reader::Left {
                return Ok(Reader::Left);
            }
        }
        unsigned(&offline.end().await?);
        Ok(Reader::Stays)
    }

    /// The end of the format, and the file under its name.
    async fn finish(mut self) -> Result<Counted, Failure> {
        self.encoder.end(&mut self.buffer)?;
        let reader = self.write().await?;
        self.progress.over();
        if reader == Reader::Stays {
            self.target.finish().await?;
        }
        Ok(Counted {
            records: self.records,
            first: self.first,
            last: self.last,
        })
    }
}

/// The first record that the CA holds, and the number of all that there ever were.
async fn held(ca: &Ca) -> Result<(u64, u64), Failure> {
    let shards = ca.ledger().shards(ShardsRequest {}).await?.into_inner().shards;
    let end = |shard: &Shard| shard.first.saturating_add(shard.records);
    let first = shards.iter().find(|shard| shard.state != "released");
    Ok((first.map_or(0, |shard| shard.first), shards.last().map_or(0, end)))
}

struct Counted {
    records: u64,
    first: Option<u64>,
    last: Option<(u64, i64)>,
}

/// Says which records no checkpoint covers yet.
fn unsigned(reports: &[ShardReport]) {
    for report in reports {
        let more = report.size.saturating_sub(report.checkpoint.size);
        if more > 0 {
            let records = count(more, "record", "records");
            notice(&format!(
                "{records} of {} stand after the last signed checkpoint, of {} records",
                report.vkey.name(),
                report.checkpoint.size
            ));
        }
    }
}

/// Runs the verb.
pub(super) async fn run(context: &Context, args: &ExportArgs) -> Result<(), Failure> {
    let keys = args.vkey.as_deref().map(read_vkeys).transpose()?;
    let encoder = args.format.encoder()?;
    let ledger = match args.offline {
        true => Some(ledger_of(&context.data_dir())?),
        false => None,
    };
    if args.offline && keys.is_none() {
        notice("the keys are the folder's own word: bring the one that `mintage-ca init` printed by --vkey FILE");
    }
    let mut interrupt = Interrupt::listen()?;
    let export = Export {
        conditions: &args.conditions,
        encoder,
        target: Target::open(args.out.as_deref())?,
        progress: Progress::hidden(),
        buffer: Vec::new(),
        records: 0,
        first: None,
        last: None,
    };
    let counted = tokio::select! {
        counted = whole(context, export, ledger, keys) => counted?,
        () = interrupt.came() => return Err(Failure::local("interrupted; what was written is not whole")),
    };
    match &args.out {
        None => Ok(()),
        Some(file) => told(context, args, file, &counted),
    }
}

async fn whole(
    context: &Context,
    mut export: Export<'_>,
    ledger: Option<PathBuf>,
    keys: Option<Vec<Vkey>>,
) -> Result<Counted, Failure> {
    export.encoder.head(&mut export.buffer)?;
    match ledger {
        Some(ledger) => export.offline(ledger, keys).await?,
        None => export.live(context).await?,
    };
    export.finish().await
}

fn told(context: &Context, args: &ExportArgs, file: &std::path::Path, counted: &Counted) -> Result<(), Failure> {
    let exported = Exported {
        file: file.to_owned(),
        format: args.format.name(),
        records: counted.records,
        first: counted.first,
        last: counted.last.map(|(index, _)| index),
        until: counted.last.and_then(|(_, time)| rfc3339(time)),
        verified: args.offline,
    };
    let number = |index: Option<u64>| index.map(|index| index.to_string()).unwrap_or_default();
    context.output.object(&exported, || {
        fields(&[
            ("file", exported.file.display().to_string()),
            ("format", exported.format.to_owned()),
            ("records", exported.records.to_string()),
            ("first", number(exported.first)),
            ("last", number(exported.last)),
            ("until", exported.until.clone().unwrap_or_default()),
        ])
    })
}
