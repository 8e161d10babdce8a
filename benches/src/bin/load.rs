//! Certificates a second over streams, with proof of possession checked and every record durable before its release,
//! against the floor of the same machine in the same run.

use std::{
    path::PathBuf,
    process::ExitCode,
    time::{Duration, Instant},
};

use clap::Parser;
use mintage_benches::{
    floor,
    host::{self, Host},
    load::{BATCH, Driver, Failure, IN_FLIGHT, Measured, percentile, requests},
};
use mintage_tests::kit::{ca, client::join};
use serde::Serialize;

/// Idle asks timed one by one.
const IDLE_ASKS: usize = 200;
/// Requests made for each second and agent group of the measured time: more than the floor can use.
const REQUESTS_PER_SECOND: usize = 30_000;

/// Time of each of the two measurements of the floor.
const FLOOR_TIME: Duration = Duration::from_millis(1500);
/// Proofs for both: more than two fast cores verify in that time; more cores end a little earlier.
const FLOOR_PROOFS: usize = 100_000;

#[derive(Parser)]
struct Options {
    /// Agents, each with one stream.
    #[arg(long, default_value_t = 8)]
    agents: usize,
    /// Seconds of load.
    #[arg(long, default_value_t = 6)]
    seconds: u64,
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
    seconds: u64,
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
    let each = REQUESTS_PER_SECOND * usize::try_from(seconds)? / options.agents;
    let prepared = requests(options.agents, each);
    let proofs = floor::proofs(&requests(1, FLOOR_PROOFS).concat())?;
    let (first, second) = proofs.split_at(FLOOR_PROOFS / 2);
    let idle_p50_ms = idle(&host, requests(1, IDLE_ASKS).concat()).await?;
    let before = floor::measure(FLOOR_TIME, first);
    let spent = host.cpu_seconds();
    let (measured, fsyncs_per_s) = load(&host, prepared, seconds).await?;
    let spent = host.cpu_seconds() - spent;
    let after = floor::measure(FLOOR_TIME, second);
    let floor = f64::midpoint(before.certs_per_s, after.certs_per_s);
    let mut latencies: Vec<f64> = measured.iter().flat_map(|one| one.latencies_ms.clone()).collect();
    let certificates: u64 = measured.iter().map(|one| one.certificates).sum();
    if let Some(refusal) = measured.iter().find_map(|one| one.refused.clone()) {
        return Err(format!("an ask was refused: {refusal}").into());
    }
    let certs_per_s = certificates as f64 / seconds as f64;
    let report = Report {
        cores: before.cores,
        floor_us_per_cert: before.cores as f64 / floor * 1e6,
        floor_certs_per_s: floor,
        certs_per_s,
        ratio_to_floor: certs_per_s / floor,
        p50_ms: percentile(&mut latencies, 0.5),
        p99_ms: percentile(&mut latencies, 0.99),
        ca_cpu_us_per_cert: spent * 1e6 / certificates as f64,
        rss_mb: host.rss_mb(),
        fsyncs_per_s,
        idle_p50_ms,
        fsync_p50_ms: fsync_p50_ms(folder.path())?,
        idle_rss_mb,
        agents: options.agents,
        seconds,
    };
    println!("{}", serde_json::to_string_pretty(&report)?);
    Ok(())
}

/// One certificate at a time over an otherwise idle stream.
async fn idle(host: &Host, mut requests: Vec<Vec<u8>>) -> Result<f64, Failure> {
    requests.truncate(IDLE_ASKS);
    let agent = join(&ca::token(&host.admin_socket(), "idle").await).await?;
    let driver = Driver::open(&agent, &host.address, requests, 1, 0xffff).await?;
    let mut measured = driver.drive(1, Instant::now() + Duration::from_secs(10)).await?;
    Ok(percentile(&mut measured.latencies_ms, 0.5))
}

async fn load(host: &Host, prepared: Vec<Vec<Vec<u8>>>, seconds: u64) -> Result<(Vec<Measured>, f64), Failure> {
    let mut drivers = Vec::new();
    for (number, requests) in prepared.into_iter().enumerate() {
        let agent = join(&ca::token(&host.admin_socket(), &format!("load-{number}")).await).await?;
        drivers.push(Driver::open(&agent, &host.address, requests, BATCH, number).await?);
    }
    let flushes = host.flushes()?;
    let started = Instant::now();
    let end = started + Duration::from_secs(seconds);
    let tasks: Vec<_> = drivers
        .into_iter()
        .map(|driver| tokio::spawn(driver.drive(IN_FLIGHT, end)))
        .collect();
    let mut measured = Vec::new();
    for task in tasks {
        measured.push(task.await??);
    }
    let flushes = host.flushes()?.saturating_sub(flushes) as f64 / started.elapsed().as_secs_f64();
    Ok((measured, flushes))
}

/// What one flush of a small write costs on the disk of the ledger.
fn fsync_p50_ms(folder: &std::path::Path) -> Result<f64, Failure> {
    use std::io::Write;
    let mut file = std::fs::File::create(folder.join("flush"))?;
    file.write_all(&vec![0; 1 << 20])?;
    file.sync_all()?;
    let mut times = Vec::new();
    for _ in 0..100 {
        std::io::Seek::rewind(&mut file)?;
        let started = Instant::now();
        file.write_all(&[1; 1024])?;
        file.sync_data()?;
        times.push(started.elapsed().as_secs_f64() * 1e3);
    }
    Ok(percentile(&mut times, 0.5))
}
