//! `audit tail`: the newest records, a line each, and with -f every one as it is recorded.

use clap::Args;
use mintage_ledger::Kind;
use mintage_proto::v1::SearchRequest;
use serde::Serialize;

use super::{Key, facts::Placed, search, search::Conditions, show, source::Live};
use crate::{
    cli::Context,
    client::Ca,
    failure::Failure,
    interrupt::Interrupt,
    limits::TAIL_ROWS_MAX,
    lines::{Lines, Reader},
    output::{Format, Output, Row},
    paging::Paging,
    text::{printable, rfc3339, utc},
};

/// `audit tail`.
#[derive(Args, Debug)]
#[command(after_help = search::REVOCATIONS_HELP)]
pub(crate) struct TailArgs {
    /// Goes on with what is recorded from now on, until Ctrl-C.
    #[arg(short, long)]
    follow: bool,
    /// How many of the newest records to begin with.
    #[arg(short = 'n', long = "lines", value_name = "N", default_value_t = 10)]
    lines: usize,
    #[command(flatten)]
    conditions: Conditions,
}

/// One record.
#[derive(Serialize)]
struct TailRow {
    index: u64,
    time: Option<String>,
    kind: &'static str,
    actor: String,
    spiffe_id: String,
    entry: String,
    agent: String,
    serial: String,
    not_after: Option<String>,
    request_id: String,
    leaf_hash: String,
    text: String,
    #[serde(skip)]
    time_ms: i64,
}

impl TailRow {
    fn of(placed: &Placed) -> Self {
        let (facts, record) = (placed.facts(), &placed.record);
        Self {
            index: placed.index,
            time: rfc3339(record.time.millis()),
            kind: placed.kind().name(),
            actor: mintage_ca::line::actor(&record.actor),
            serial: facts.serial(),
            not_after: rfc3339(facts.not_after_ms()),
            spiffe_id: facts.spiffe_id,
            entry: facts.entry,
            agent: facts.agent,
            request_id: record.request_id.map(|id| id.to_string()).unwrap_or_default(),
            leaf_hash: hex::encode(placed.leaf_hash.as_bytes()),
            text: mintage_ca::line::what(record),
            time_ms: record.time.millis(),
        }
    }

    /// One line for people, whatever the names in it hold. Columns do not move, because later lines are not known yet.
    fn line(&self) -> String {
        let widest = Kind::ALL.iter().map(|kind| kind.name().len()).max().unwrap_or(0);
        format!(
            "{:>8}  {}  {:widest$}  {:<20}  {}\n",
            self.index,
            utc(self.time_ms),
            self.kind,
            printable(&self.actor),
            printable(&self.text)
        )
    }
}

impl Row for TailRow {
    const HEADER: &'static [&'static str] = &["INDEX", "TIME", "KIND", "ACTOR", "WHAT"];
    fn cells(&self) -> Vec<String> {
        vec![
            self.index.to_string(),
            utc(self.time_ms),
            self.kind.to_owned(),
            self.actor.clone(),
            self.text.clone(),
        ]
    }
}

fn text_of(output: Output, rows: &[TailRow]) -> Result<String, Failure> {
    match output.format() {
        Format::Jsonl => output.lines(rows),
        _ => Ok(rows.iter().map(TailRow::line).collect()),
    }
}

/// The size of the log, as far as it is indexed.
async fn size(ca: &Ca) -> Result<u64, Failure> {
    let newest = search::fetch(ca, SearchRequest::default(), &Paging::at_most(1), 1)
        .await?
        .0;
    Ok(newest.first().map_or(0, |row| row.index + 1))
}

/// The newest records before `size` that meet the conditions, oldest first.
async fn newest(ca: &Ca, tail: &TailArgs, size: u64) -> Result<Vec<TailRow>, Failure> {
    if tail.lines == 0 {
        return Ok(Vec::new());
    }
    let found = search::fetch(ca, tail.conditions.request(), &Paging::at_most(tail.lines), tail.lines)
        .await?
        .0;
    let mut rows = Vec::with_capacity(found.len());
    for index in found.iter().rev().map(|row| row.index).filter(|index| *index < size) {
        let (answer, record) = show::fetch(ca, Key::Index(index)).await?;
        let leaf_hash = mintage_ledger::leaf_hash(&answer.record);
        rows.push(TailRow::of(&Placed {
            index,
            leaf_hash,
            record,
        }));
    }
    Ok(rows)
}

/// Runs the verb.
pub(super) async fn run(context: &Context, tail: &TailArgs) -> Result<(), Failure> {
    let output = context.output;
    if tail.follow && output.format() == Format::Json {
        return Err(Failure::local(
            "-f has no end, and so no one JSON document; use -o jsonl or table",
        ));
    }
    if tail.lines > TAIL_ROWS_MAX {
        return Err(Failure::local(format!(
            "-n {} is over the limit of {TAIL_ROWS_MAX}; use `mintage audit export` for more",
            tail.lines
        )));
    }
    let ca = context.ca().await?;
    let size = size(&ca).await?;
    let rows = newest(&ca, tail, size).await?;
    if !tail.follow {
        return match output.format() {
            Format::Table => crate::output::write(&text_of(output, &rows)?),
            _ => output.list("records", &rows, None),
        };
    }
    let mut lines = Lines::start()?;
    let mut interrupt = Interrupt::listen()?;
    tokio::select! {
        ended = follow(ca, tail, size, text_of(output, &rows)?, output, &mut lines) => ended?,
        // What waits for a reader that does not read is left.
        () = interrupt.came() => return Ok(()),
    }
    lines.finish().await
}

/// Goes on until the reader leaves or the CA stops.
async fn follow(
    ca: Ca,
    tail: &TailArgs,
    size: u64,
    first: String,
    output: Output,
    lines: &mut Lines,
) -> Result<(), Failure> {
    let mut live = Live::open(ca, tail.conditions.stream(size, true)).await?;
    let mut text = first;
    loop {
        if !text.is_empty() && lines.write(text.into_bytes()).await? == Reader::Left {
            return Ok(());
        }
        let Some(batch) = live.next().await? else { return Ok(()) };
        let wanted = batch.iter().filter(|placed| tail.conditions.hold(placed));
        text = text_of(output, &wanted.map(TailRow::of).collect::<Vec<_>>())?;
    }
}
