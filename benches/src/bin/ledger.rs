//! The ledger: appending against a bare append of the same bytes, verifying, sealing, searching and starting with millions of
//! records, and rebuilding the state from control records.

use std::{
    collections::VecDeque,
    fs::File,
    io::Write,
    path::{Path, PathBuf},
    process::{Command, ExitCode},
    sync::{Arc, mpsc},
    thread,
    time::{Duration, Instant},
};

use clap::Parser;
use mintage_benches::{
    load::{Failure, percentile},
    records::{Generator, IDENTITIES},
    searched::{self, Searched},
};
use mintage_identity::{IssuerKeyId, SpiffeId, TrustDomain, UnixTime};
use mintage_ledger::{
    Body, CommitTicket, Committer, CommitterLimits, EncodedRecord, FileJournal, Follower, Integrator, Journal,
    LedgerError, LogKey, OpenOptions, Origin, Record, Sealer, Trees, verify, wire,
};
use mintage_state::{State, View};
use mintage_tests::kit::bins::binary;
use serde::Serialize;
use zeroize::Zeroizing;

/// Time of a slice of appending, and of the bare appends beside it.
const SLICE: Duration = Duration::from_millis(150);
/// Slices of each kind, and fewest that tell anything.
const SLICES: usize = 8;
const SLICES_MIN: usize = 3;
/// Records prepared for appending: 700 MB, more than most disks take in all slices.
const PREPARED: u64 = 700_000;
/// Records that one group may hold.
const GROUP: usize = 512;
/// Memory that bare appends are taken from in turn: far more than a processor's cache.
const BARE_BYTES: usize = 256 << 20;
/// Control records from which the state is rebuilt.
const CONTROL: u64 = 200_000;

#[derive(Parser)]
struct Options {
    /// Records of the ledger that is searched and started.
    #[arg(long, default_value_t = 1_000_000)]
    records: u64,
    /// Ten million records.
    #[arg(long)]
    full: bool,
    /// Output format; only json.
    #[arg(short, default_value = "json")]
    output: String,
    /// Keeps the CA's folder with the ledger here and uses it again.
    #[arg(long)]
    keep: Option<PathBuf>,
    #[arg(long, hide = true)]
    serve: Option<PathBuf>,
}

#[derive(Serialize)]
struct Report {
    append_ratio_64: f64,
    append_ratio_512: f64,
    records_per_s_512: f64,
    verify_entries_per_s: f64,
    verify_whole_s: f64,
    verify_meaning_s: f64,
    #[serde(flatten)]
    searched: Searched,
    sealed_bytes_per_record: f64,
    rebuild_per_s: f64,
    sled_bulk_per_s: f64,
    append_bytes_per_record: f64,
}

fn main() -> ExitCode {
    let options = Options::parse();
    let outcome = match &options.serve {
        Some(dir) => searched::serve(dir),
        None => run(&options),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(options: &Options) -> Result<(), Failure> {
    let records = if options.full { 10_000_000 } else { options.records };
    let folder = tempfile::tempdir()?;
    let mut generator = Generator::new()?;
    let (ratio_64, _) = append(&folder.path().join("append-64"), &mut generator, 64)?;
    let (ratio_512, rate) = append(&folder.path().join("append-512"), &mut generator, 512)?;
    let (rebuild_per_s, sled_bulk_per_s) = rebuild(&folder.path().join("state"), &mut generator)?;
    let dir = options.keep.clone().unwrap_or_else(|| folder.path().join("large"));
    if !dir.exists() {
        fill(&dir, records)?;
    }
    let ledger = dir.join("ledger");
    let sealed_bytes_per_record = sealed_bytes(&ledger)?;
    let searched = searched::in_a_process(&dir)?;
    let started = Instant::now();
    let report = verify(&ledger, None, &mut ())?;
    let took = started.elapsed().as_secs_f64();
    let size = report.first().map_or(0, |shard| shard.size);
    let report = Report {
        append_ratio_64: ratio_64,
        append_ratio_512: ratio_512,
        records_per_s_512: rate,
        verify_entries_per_s: size as f64 / took,
        verify_whole_s: took,
        verify_meaning_s: verify_with_meaning(&dir)?,
        searched,
        sealed_bytes_per_record,
        rebuild_per_s,
        sled_bulk_per_s,
        append_bytes_per_record: generator.issue(0)?.0.encoded_len() as f64,
    };
    println!("{}", serde_json::to_string_pretty(&report)?);
    Ok(())
}

fn key() -> Result<LogKey, Failure> {
    Ok(LogKey::generate(&Zeroizing::new([3; 32]))?.0)
}

fn domain() -> Result<TrustDomain, Failure> {
    Ok(TrustDomain::parse("dev.test")?)
}

fn create(dir: &Path) -> Result<Arc<FileJournal>, Failure> {
    let now = UnixTime::from_seconds(1_767_225_600);
    let origin = Origin::new(&domain()?, "bench", now)?;
    let open = wire::LogOpen {
        origin: origin.to_string(),
        vkey: key()?.vkey(&origin).to_string(),
        ..wire::LogOpen::default()
    };
    let opening = Record {
        time: now,
        salt: [1; 16],
        actor: mintage_ledger::Actor::Replica {
            id: SpiffeId::parse("spiffe://dev.test/mintage/ca/ca-1")?,
        },
        attestation: None,
        request_id: None,
        replica: "ca-1".into(),
        control_seen: 0,
        body: Body::LogOpen(open),
    };
    let journal = FileJournal::create(dir, &origin, &key()?, opening.encode()?, OpenOptions::default())?;
    Ok(Arc::new(journal))
}

/// Appends through the committer with so many records waiting, and barely, in turns; the ratio of the medians, and records a second.
fn append(dir: &Path, generator: &mut Generator, waiting: usize) -> Result<(f64, f64), Failure> {
    let records: Vec<EncodedRecord> = (0..PREPARED)
        .map(|at| Ok(generator.issue(at)?.0))
        .collect::<Result<_, Failure>>()?;
    let bytes = records.first().map_or(0, EncodedRecord::encoded_len) * waiting;
    let journal = create(dir)?;
    let (committer, commits) = Committer::start(journal.clone(), CommitterLimits::default())?;
    let mut plain = File::create(dir.with_extension("plain"))?;
    // Each group comes from other memory, as the records do: what lies in the processor's cache is written faster.
    let groups = vec![0x5a; bytes * BARE_BYTES.div_ceil(bytes)];
    let mut bare_groups = groups.chunks_exact(bytes).cycle();
    let mut rest = records.chunks(waiting);
    let (mut ratios, mut rates) = (Vec::new(), Vec::new());
    for _ in 0..SLICES {
        let bare = timed(|| {
            plain.write_all(bare_groups.next().unwrap_or_default())?;
            plain.sync_data()?;
            Ok(true)
        })?;
        let mut under_way = VecDeque::new();
        let through = timed(|| {
            // So many are always waiting while a group of as many is written.
            while under_way.len() < 2 {
                let Some(group) = rest.next() else { return Ok(false) };
                under_way.push_back(commits.submit(group.iter().map(|record| (record.clone(), 0)).collect()));
            }
            under_way.pop_front().map_or(Ok(false), durable)
        })?;
        under_way.into_iter().try_for_each(|ticket| durable(ticket).map(drop))?;
        if rest.len() == 0 {
            // A disk this fast leaves too little for a whole slice: those before it tell.
            break;
        }
        ratios.push(through / bare);
        rates.push(through * waiting as f64);
    }
    committer.stop();
    match ratios.len() >= SLICES_MIN {
        true => Ok((percentile(&mut ratios, 0.5), percentile(&mut rates, 0.5))),
        false => {
            Err(format!("{PREPARED} records were appended in fewer than {SLICES_MIN} slices: prepare more").into())
        }
    }
}

/// Waits until a submission is durable.
fn durable(ticket: CommitTicket) -> Result<bool, Failure> {
    let refused = ticket.wait().into_iter().find_map(Result::err);
    refused.map_or(Ok(true), |error| Err(error.into()))
}

/// Calls a second for one slice of time, or until there is nothing more to do.
fn timed(mut call: impl FnMut() -> Result<bool, Failure>) -> Result<f64, Failure> {
    let started = Instant::now();
    let mut calls = 0u64;
    while started.elapsed() < SLICE && call()? {
        calls += 1;
    }
    Ok(calls as f64 / started.elapsed().as_secs_f64())
}

/// Control records a second from the ledger into a new view, and into a new state with its database.
fn rebuild(dir: &Path, generator: &mut Generator) -> Result<(f64, f64), Failure> {
    let journal = create(dir)?;
    let mut index = 1;
    while index <= CONTROL {
        let to = (index + GROUP as u64).min(CONTROL + 1);
        let group: Vec<EncodedRecord> = (index..to)
            .map(|at| generator.entry(at))
            .collect::<Result<_, Failure>>()?;
        journal.append(&group, u64::MAX).map_err(|error| error.to_string())?;
        index = to;
    }
    let started = Instant::now();
    let view = View::of_journal(&domain()?, &*journal)?;
    let took = started.elapsed().as_secs_f64();
    let started = Instant::now();
    let state = State::open(&dir.with_extension("sled"), &domain()?, journal)?;
    let whole = started.elapsed().as_secs_f64();
    let all = |view: &View| view.entry_count() as u64 == IDENTITIES;
    match all(&view) && all(&state.view()) {
        true => Ok((CONTROL as f64 / took, CONTROL as f64 / whole)),
        false => Err("the rebuilt state lacks entries".into()),
    }
}

/// Makes a CA whose ledger has so many records, with its tree and its sealed segments.
fn fill(dir: &Path, records: u64) -> Result<(), Failure> {
    let (journal, keys) = searched::make(dir)?;
    let mut generator = under_issuing_key(&*journal)?;
    for group in generator.population(journal.size())?.chunks(GROUP) {
        journal.append(group, u64::MAX).map_err(|error| error.to_string())?;
    }
    let shared: Arc<dyn Journal> = journal.clone();
    let trees = Trees::new(journal.ledger(), shared.clone(), journal.disk().clone());
    let integrator = Integrator::new(shared.clone(), trees.clone(), Some(keys), Duration::from_secs(1))?;
    let follower = Follower::start("tree", shared, vec![Box::new(integrator)], Duration::from_millis(5))?;
    let mut sealer = Sealer::new(journal.clone(), trees);
    let (grown, grows) = mpsc::channel();
    thread::scope(|scope| {
        // As in a CA, sealing goes on beside the appending.
        let sealing = scope.spawn(|| -> Result<(), LedgerError> {
            for () in grows {
                while sealer.seal_next()? {}
            }
            Ok(())
        });
        let mut index = journal.size();
        while index < records {
            let to = (index + GROUP as u64).min(records);
            let group: Vec<EncodedRecord> = (index..to)
                .map(|at| Ok(generator.issue(at)?.0))
                .collect::<Result<_, Failure>>()?;
            journal.append(&group, u64::MAX).map_err(|error| error.to_string())?;
            index = to;
            grown.send(()).map_err(|_| "sealing ended early")?;
        }
        drop(grown);
        sealing
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        Ok::<(), Failure>(())
    })?;
    follower.stop();
    while sealer.seal_next()? {}
    mintage_ledger::Sink::caught_up(&mut sealer)?;
    Ok(())
}

/// Makes issuances of the CA that a ledger begins with.
fn under_issuing_key(journal: &dyn Journal) -> Result<Generator, Failure> {
    for stored in journal.read_from(0, usize::MAX)? {
        if let Body::CaEvent(event) = stored.decode()?.body
            && event.role() == wire::CaRole::Intermediate
            && !event.certificate_der.is_empty()
        {
            return Generator::of(&event.certificate_der, IssuerKeyId::from_slice(&event.key_id)?);
        }
    }
    Err("the ledger names no issuing key".into())
}

/// Seconds of `mintage audit verify` over a CA's folder: form, indexes and the meaning of every record, on all cores.
fn verify_with_meaning(dir: &Path) -> Result<f64, Failure> {
    let started = Instant::now();
    let verified = Command::new(binary("mintage"))
        .args(["audit", "verify", "-o", "json"])
        .arg(dir)
        .output()?;
    let took = started.elapsed().as_secs_f64();
    match verified.status.success() {
        true => Ok(took),
        false => Err(format!(
            "the ledger is not proven: {}{}",
            String::from_utf8_lossy(&verified.stdout),
            String::from_utf8_lossy(&verified.stderr)
        )
        .into()),
    }
}

/// Bytes of entries and indexes for each sealed record.
fn sealed_bytes(dir: &Path) -> Result<f64, Failure> {
    let shard = FileJournal::open(dir, OpenOptions::default())?;
    let mut bytes = 0;
    for file in std::fs::read_dir(
        shard
            .ledger()
            .join(shard.log().origin().id())
            .join(shard.log().origin().shard())
            .join("seg"),
    )? {
        let file = file?;
        if file.path().extension().is_some_and(|extension| extension != "tiles") {
            bytes += file.metadata()?.len();
        }
    }
    Ok(bytes as f64 / shard.segments().records() as f64)
}
