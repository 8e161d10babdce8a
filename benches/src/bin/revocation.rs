//! The revocation filter: look-ups with up to ten million revoked, against what others offer; bytes, and the cost of an addition.

use std::{
    path::{Path, PathBuf},
    process::{Command, ExitCode},
    sync::Arc,
    time::Instant,
};

use clap::Parser;
use mintage_benches::{
    filter::{Asked, LATER, NOW, Publisher, follower, serial},
    host::rss_mb,
    load::{Failure, percentile},
    peers::{LOT, Peers, floor_ns, peers},
};
use mintage_identity::Serial;
use mintage_revocation::{Replica, Verdict, View};
use serde::{Deserialize, Serialize};

/// Serials that were never revoked begin here.
const UNTOUCHED: u64 = 1 << 40;
/// Serials of deltas begin here.
const ADDED: u64 = 1 << 41;
/// Questions of each sort.
const QUESTIONS: u64 = 1_000_000;
/// Serials of a delta, and deltas.
const DELTA: u64 = 1_000;
const DELTAS: u64 = 40;

#[derive(Parser)]
struct Options {
    /// Revoked serials of the largest set.
    #[arg(long, default_value_t = 10_000_000)]
    largest: u64,
    /// Asks ten times as often.
    #[arg(long)]
    full: bool,
    /// Output format; only json.
    #[arg(short, default_value = "json")]
    output: String,
    #[arg(long, hide = true)]
    load: Option<PathBuf>,
}

#[derive(Serialize)]
struct Report {
    lookup_ns: Sizes,
    lookup_hit_ns: Sizes,
    floor_ns: Sizes,
    batch_m_per_s_100k: f64,
    batch_m_per_s_10m: f64,
    peers_ns_100k: Peers,
    ratio_webpki: f64,
    ratio_hashset: f64,
    ratio_hashset_by_issuer: f64,
    hashset_to_floor: f64,
    drop_us: Drops,
    bytes: Bytes,
    add_ns: f64,
    add_one_us: f64,
    load_s_10m: f64,
    largest: u64,
}

#[derive(Serialize)]
struct Sizes {
    n1k: f64,
    n100k: f64,
    n10m: f64,
}

#[derive(Serialize)]
struct Drops {
    n100k: f64,
    n10m: f64,
}

#[derive(Serialize)]
struct Bytes {
    ram: f64,
    snapshot: f64,
    delta: f64,
}

/// What one set answered.
#[derive(Serialize, Deserialize)]
struct Answers {
    miss_ns: f64,
    hit_ns: f64,
    floor_ns: f64,
    batch_m_per_s: f64,
    ram: f64,
    load_s: f64,
    drop_us: f64,
}

fn main() -> ExitCode {
    let options = Options::parse();
    let outcome = match &options.load {
        Some(dir) => load(dir, &options).and_then(|answers| tell(&answers)),
        None => run(&options).and_then(|report| tell(&report)),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench: {error}");
            ExitCode::FAILURE
        }
    }
}

fn tell(what: &impl Serialize) -> Result<(), Failure> {
    println!("{}", serde_json::to_string_pretty(what)?);
    Ok(())
}

fn run(options: &Options) -> Result<Report, Failure> {
    let folder = tempfile::tempdir()?;
    let questions = questions(options);
    let mut small = Publisher::new()?;
    small.revoke(0, 1_000)?;
    let small = asked(&small.follower()?.view(), 1_000, questions)?;
    let mut middle = Publisher::new()?;
    middle.revoke(0, 100_000)?;
    let snapshot = middle.snapshot()?.len() as f64 / 100_000.0;
    let mut follower = middle.follower()?;
    let answers = Answers {
        drop_us: dropping(&mut follower, &middle.late_heartbeat()?)?,
        ..asked(&middle.follower()?.view(), 100_000, questions)?
    };
    let revoked: Vec<Serial> = (0..100_000).map(serial).collect();
    let peers_ns_100k = peers(&revoked, &untouched(questions), folder.path())?;
    let (add_ns, delta) = additions(&mut middle, DELTA)?;
    let (add_one_ns, _) = additions(&mut middle, 1)?;
    let large = in_a_process(folder.path(), options)?;
    let sizes = |of: fn(&Answers) -> f64| Sizes {
        n1k: of(&small),
        n100k: of(&answers),
        n10m: of(&large),
    };
    let ratio = |peer: f64| peer / answers.miss_ns;
    Ok(Report {
        ratio_webpki: ratio(peers_ns_100k.webpki_crl),
        ratio_hashset: ratio(peers_ns_100k.hashset),
        ratio_hashset_by_issuer: ratio(peers_ns_100k.hashset_by_issuer),
        hashset_to_floor: peers_ns_100k.hashset / answers.floor_ns,
        drop_us: Drops {
            n100k: answers.drop_us,
            n10m: large.drop_us,
        },
        lookup_ns: sizes(|answers| answers.miss_ns),
        lookup_hit_ns: sizes(|answers| answers.hit_ns),
        floor_ns: sizes(|answers| answers.floor_ns),
        batch_m_per_s_100k: answers.batch_m_per_s,
        batch_m_per_s_10m: large.batch_m_per_s,
        peers_ns_100k,
        bytes: Bytes {
            ram: large.ram,
            snapshot,
            delta,
        },
        add_ns,
        add_one_us: add_one_ns / 1_000.0,
        load_s_10m: large.load_s,
        largest: options.largest,
    })
}

fn questions(options: &Options) -> u64 {
    match options.full {
        true => 10 * QUESTIONS,
        false => QUESTIONS,
    }
}

fn untouched(count: u64) -> Vec<Serial> {
    (UNTOUCHED..UNTOUCHED + count).map(serial).collect()
}

/// Asks `view`, which holds serials `0..revoked`.
fn asked(view: &Arc<View>, revoked: u64, count: u64) -> Result<Answers, Failure> {
    let about = Asked::new()?;
    let misses = untouched(count);
    // Strewn over the set, each asked for as often as it must be to fill the row.
    let hits: Vec<Serial> = (0..count)
        .map(|n| serial(n.wrapping_mul(0x9e37_79b9) % revoked))
        .collect();
    let is_struck = |verdict: &Verdict| matches!(verdict, Verdict::Revoked { .. });
    let ask = |serials: &[Serial]| {
        about.median_ns(serials, |lot| {
            lot.iter().filter(|query| is_struck(&view.check(query, NOW))).count()
        })
    };
    let mut verdicts = [Verdict::Stale; LOT];
    let batch_ns = about.median_ns(&misses, |lot| {
        view.check_batch(lot, NOW, &mut verdicts);
        usize::from(is_struck(&verdicts[0]))
    });
    let right = view.check(&about.about(&misses[0]), NOW) == Verdict::Good;
    let right = right
        && hits
            .iter()
            .take(100_000)
            .all(|serial| is_struck(&view.check(&about.about(serial), NOW)));
    match right {
        true => Ok(Answers {
            miss_ns: ask(&misses),
            hit_ns: ask(&hits),
            floor_ns: floor_ns(revoked, &misses),
            batch_m_per_s: 1_000.0 / batch_ns,
            ram: 0.0,
            load_s: 0.0,
            drop_us: 0.0,
        }),
        false => Err("the filter answers wrongly".into()),
    }
}

/// Nanoseconds of one serial in deltas of `each`, verified and put in force, and its bytes on the wire.
fn additions(publisher: &mut Publisher, each: u64) -> Result<(f64, f64), Failure> {
    let mut replica = publisher.follower()?;
    let from = ADDED + each * 1_000_000;
    let deltas = (0..DELTAS).map(|n| publisher.delta(from + n * each, from + (n + 1) * each));
    let deltas: Vec<Vec<u8>> = deltas.collect::<Result<_, _>>()?;
    let mut took = Vec::new();
    for delta in &deltas {
        let started = Instant::now();
        replica.apply_delta(delta, NOW)?;
        took.push(started.elapsed().as_nanos() as f64 / each as f64);
    }
    Ok((percentile(&mut took, 0.5), deltas[0].len() as f64 / each as f64))
}

/// Microseconds of the heartbeat that moves the horizon past the partition which holds everything. Its memory is given back by
/// whoever held the former view last: a reader, here and in an agent.
fn dropping(replica: &mut Replica, heartbeat: &[u8]) -> Result<f64, Failure> {
    let held = replica.view();
    let started = Instant::now();
    replica.heartbeat(heartbeat, LATER)?;
    let took = started.elapsed().as_secs_f64() * 1e6;
    match (held.serial_count(), replica.view().serial_count()) {
        (1.., 0) => Ok(took),
        counts => Err(format!("the partition was not dropped: {counts:?}").into()),
    }
}

/// Loads the largest set in a process of its own, so that its memory is that of the set alone.
fn in_a_process(folder: &Path, options: &Options) -> Result<Answers, Failure> {
    let mut publisher = Publisher::new()?;
    publisher.revoke(0, options.largest)?;
    let (spki, delegation) = publisher.trust()?;
    let files = [
        ("spki", spki),
        ("delegation", delegation),
        ("snapshot", publisher.snapshot()?),
        ("heartbeat", publisher.late_heartbeat()?),
    ];
    for (name, octets) in files {
        std::fs::write(folder.join(name), octets)?;
    }
    drop(publisher);
    let mut child = Command::new(std::env::current_exe()?);
    child
        .arg("--load")
        .arg(folder)
        .arg("--largest")
        .arg(options.largest.to_string());
    child.args(options.full.then_some("--full"));
    let output = child.output()?;
    match output.status.success() {
        true => Ok(serde_json::from_slice(&output.stdout)?),
        false => Err(String::from_utf8_lossy(&output.stderr).into_owned().into()),
    }
}

fn load(dir: &Path, options: &Options) -> Result<Answers, Failure> {
    let [spki, delegation, snapshot] = ["spki", "delegation", "snapshot"].map(|name| std::fs::read(dir.join(name)));
    let (spki, delegation, snapshot) = (spki?, delegation?, snapshot?);
    let (before, started) = (rss_mb(std::process::id()), Instant::now());
    let mut replica = follower(&spki, &delegation, &snapshot)?;
    let load_s = started.elapsed().as_secs_f64();
    let ram = (rss_mb(std::process::id()) - before) * 1e6 / options.largest as f64;
    let answers = asked(&replica.view(), options.largest, questions(options))?;
    let drop_us = dropping(&mut replica, &std::fs::read(dir.join("heartbeat"))?)?;
    Ok(Answers {
        ram,
        load_s,
        drop_us,
        ..answers
    })
}
