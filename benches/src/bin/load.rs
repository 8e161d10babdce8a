//! Certificates a second over streams, with proof of possession checked and every record durable before its release,
//! against the floor of the same machine in the same run.

use std::{
    path::PathBuf,
    process::ExitCode,
    time::{Duration, Instant},
};

use clap::Parser;
use mintage_benches::{
    floor::{self, Floor},
    host::{self, Host},
    load::{BATCH, Driver, Failure, IN_FLIGHT, Measured, Requests, Window, percentile, requests},
};
use mintage_tests::kit::{ca, client::join};
use serde::Serialize;

/// Idle asks timed one by one.
const IDLE_ASKS: usize = 200;
/// Requests made for each second of load: more than the floor of two fast cores can use.
const REQUESTS_PER_SECOND: usize = 30_000;
/// Load before a slice counts: the time the first messages need to fill the CA.
const LEAD: Duration = Duration::from_millis(200);
/// A slice of load that counts. Floor and load take turns, so that a machine whose speed changes changes both.
const SLICE: Duration = Duration::from_secs(1);
/// A measurement of the floor, before each slice and after the last.
const FLOOR_TIME: Duration = Duration::from_millis(400);
/// Proofs for each of them: more than two fast cores verify in that time; more cores end a little earlier.
const FLOOR_PROOFS: usize = 12_000;

#[derive(Parser)]
struct Options {
    /// Agents, each with one stream.
    #[arg(long, default_value_t = 8)]
    agents: usize,
    /// Seconds of load that count, in slices of one.
    #[arg(long, default_value_t = 8)]
    seconds: usize,
    /// Five times as long.
    #[arg(long)]
    full: bool,
    /// Output format; only json.
    #[arg(short, default_value = "json")]
    output: String,
    #[arg(long = "host", hide = true)]
    host: Option<PathBuf>,
}

#[derive(Serialize)]
struct Report {
    cores: usize,
    floor_us_per_cert: f64,
    floor_certs_per_s: f64,
    certs_per_s: f64,
    ratio_to_floor: f64,
    p50_ms: f64,
    p99_ms: f64,
    ca_cpu_us_per_cert: f64,
    rss_mb: f64,
    fsyncs_per_s: f64,
    idle_p50_ms: f64,
    fsync_p50_ms: f64,
    idle_rss_mb: f64,
    agents: usize,
    seconds: usize,
}

fn main() -> ExitCode {
    let options = Options::parse();
    host::main(options.host.as_deref(), |runtime| runtime.block_on(run(&options)))
}

async fn run(options: &Options) -> Result<(), Failure> {
    let seconds = if options.full {
        options.seconds * 5
    } else {
        options.seconds
    };
    let folder = tempfile::tempdir()?;
    let host = Host::start(&folder.path().join("ca")).map_err(|error| error.to_string())?;
    let idle_rss_mb = host.rss_mb();
    ca::entry(&host.admin_socket(), "load", "/load").await;
    let each = REQUESTS_PER_SECOND * (seconds + 1) / options.agents;
    let prepared = requests(options.agents, each);
    let proofs = floor::proofs(&requests(1, FLOOR_PROOFS * (seconds + 1)).concat())?;
    let idle_p50_ms = idle(&host, requests(1, IDLE_ASKS).concat()).await?;
    let mut drivers = open(&host, prepared).await?;
    let mut proofs = proofs.chunks(FLOOR_PROOFS);
    let mut floor = || floor::measure(FLOOR_TIME, proofs.next().unwrap_or_default());
    let mut floors = vec![floor()];
    let mut slices = Vec::new();
    for _ in 0..seconds {
        let slice;
        (drivers, slice) = load(&host, drivers).await?;
        slices.push(slice);
        floors.push(floor());
    }
    let summary = Summary::of(&floors, slices);
    let report = Report {
        cores: floors[0].cores,
        floor_us_per_cert: floors[0].cores as f64 / summary.floor * 1e6,
        floor_certs_per_s: summary.floor,
        certs_per_s: summary.rate,
        ratio_to_floor: summary.ratio,
        p50_ms: summary.p50_ms,
        p99_ms: summary.p99_ms,
        ca_cpu_us_per_cert: summary.cpu_us,
        rss_mb: host.rss_mb(),
        fsyncs_per_s: summary.flushes,
        idle_p50_ms,
        fsync_p50_ms: floor::fsync_p50_ms(folder.path())?,
        idle_rss_mb,
        agents: options.agents,
        seconds,
    };
    println!("{}", serde_json::to_string_pretty(&report)?);
    Ok(())
}

/// One slice of load.
struct Slice {
    counted: u64,
    certificates: u64,
    latencies_ms: Vec<f64>,
    cpu_s: f64,
    flushes: u64,
    took: Duration,
}

/// Medians over the slices.
struct Summary {
    floor: f64,
    rate: f64,
    ratio: f64,
    p50_ms: f64,
    p99_ms: f64,
    cpu_us: f64,
    flushes: f64,
}

impl Summary {
    fn of(floors: &[Floor], slices: Vec<Slice>) -> Self {
        let rates: Vec<f64> = slices
            .iter()
            .map(|slice| slice.counted as f64 / SLICE.as_secs_f64())
            .collect();
        // Each slice against the floor right before and right after it.
        let beside = floors
            .windows(2)
            .map(|pair| f64::midpoint(pair[0].certs_per_s, pair[1].certs_per_s));
        let mut ratios: Vec<f64> = rates.iter().zip(beside).map(|(rate, floor)| rate / floor).collect();
        let certificates: u64 = slices.iter().map(|slice| slice.certificates).sum();
        let took: f64 = slices.iter().map(|slice| slice.took.as_secs_f64()).sum();
        let cpu_s: f64 = slices.iter().map(|slice| slice.cpu_s).sum();
        let flushes: u64 = slices.iter().map(|slice| slice.flushes).sum();
        let mut latencies: Vec<f64> = slices.into_iter().flat_map(|slice| slice.latencies_ms).collect();
        Self {
            floor: percentile(
                &mut floors.iter().map(|floor| floor.certs_per_s).collect::<Vec<_>>(),
                0.5,
            ),
            rate: percentile(&mut rates.clone(), 0.5),
            ratio: percentile(&mut ratios, 0.5),
            p50_ms: percentile(&mut latencies, 0.5),
            p99_ms: percentile(&mut latencies, 0.99),
            cpu_us: cpu_s * 1e6 / certificates as f64,
            flushes: flushes as f64 / took,
        }
    }
}

/// One certificate at a time over an otherwise idle stream.
async fn idle(host: &Host, mut requests: Vec<Vec<u8>>) -> Result<f64, Failure> {
    requests.truncate(IDLE_ASKS);
    let agent = join(&ca::token(&host.admin_socket(), "idle").await).await?;
    let driver = Driver::open(&agent, &host.address, requests, 1, 0xffff).await?;
    let window = Window::after(Duration::ZERO, Duration::from_secs(10));
    let (_, mut measured) = driver.drive(1, window).await?;
    Ok(percentile(&mut measured.latencies_ms, 0.5))
}

async fn open(host: &Host, prepared: Vec<Requests>) -> Result<Vec<Driver>, Failure> {
    let mut drivers = Vec::new();
    for (number, requests) in prepared.into_iter().enumerate() {
        let agent = join(&ca::token(&host.admin_socket(), &format!("load-{number}")).await).await?;
        drivers.push(Driver::open(&agent, &host.address, requests, BATCH, number).await?);
    }
    Ok(drivers)
}

async fn load(host: &Host, drivers: Vec<Driver>) -> Result<(Vec<Driver>, Slice), Failure> {
    let (cpu_s, flushes, started) = (host.cpu_seconds(), host.flushes()?, Instant::now());
    let window = Window::after(LEAD, SLICE);
    let drive = |driver: Driver| tokio::spawn(driver.drive(IN_FLIGHT, window));
    let tasks: Vec<_> = drivers.into_iter().map(drive).collect();
    let (mut drivers, mut measured) = (Vec::new(), Measured::default());
    for task in tasks {
        let (driver, one) = task.await??;
        drivers.push(driver);
        measured.add(one);
    }
    if let Some(refusal) = measured.refused {
        return Err(format!("an ask was refused: {refusal}").into());
    }
    let slice = Slice {
        counted: measured.counted,
        certificates: measured.certificates,
        latencies_ms: measured.latencies_ms,
        cpu_s: host.cpu_seconds() - cpu_s,
        flushes: host.flushes()?.saturating_sub(flushes),
        took: started.elapsed(),
    };
    Ok((drivers, slice))
}
