//! From a workload's connect to its identity, and from an entry to the workload's open stream: a real CA, real
//! `mintage-agent`s with a thousand identities and with ten thousand streams, and servers whose certificates change under
//! load.

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
    time::{Duration, Instant},
};

use clap::Parser;
use futures_util::{StreamExt, TryStreamExt, stream};
use mintage_benches::{
    caller::{Callers, Role},
    floor,
    host::{self, Host, cpu_seconds, rss_mb},
    load::{Failure, percentile},
    node::{agent, renew, stopped},
    served::{self, Served},
    workloads::{Open, connect, entry, fetch},
};
use mintage_tests::kit::{agent::AgentProcess, ca};
use serde::Serialize;

/// Identities of the agent whose memory and processor time are measured.
const IDENTITIES: u32 = 1_000;
/// Their lifetime.
const TTL_SECONDS: i64 = 300;
/// Entries of one command: the CA takes 512.
const ENTRIES_AT_ONCE: usize = 500;
/// First SVIDs that are timed, of each kind, and entries.
const TIMED: u32 = 200;
/// Callers that connect at once where nobody is timed.
const AT_ONCE: usize = 16;
/// Streams of the agent with many, and the connections they are spread over.
const STREAMS: usize = 10_000;
const CONNECTIONS: usize = 200;

#[derive(Parser)]
struct Options {
    /// A minute of processor time, and a hundred rotations.
    #[arg(long)]
    full: bool,
    /// Output format; only json.
    #[arg(short, default_value = "json")]
    output: String,
    #[arg(long = "host", hide = true)]
    host: Option<PathBuf>,
    #[command(flatten)]
    role: Role,
}

#[derive(Serialize)]
struct Report {
    cached_first_svid_p50_ms: f64,
    cached_first_svid_tonic_p50_ms: f64,
    uncached_first_svid_p50_ms: f64,
    fsync_p50_ms: f64,
    entry_to_svid_p50_ms: f64,
    entry_to_svid_p99_ms: f64,
    rss_mb_1000: f64,
    cpu_percent_1000: f64,
    renewals_1000: usize,
    streams_10k_rss_mb: f64,
    streams_10k_news_ms: f64,
    /// None where there is neither nginx nor Envoy.
    failed_handshakes: Option<u64>,
    failed_handshakes_nginx: Option<u64>,
    failed_handshakes_envoy: Option<u64>,
    handshakes: u64,
    handshakes_per_second_nginx: Option<f64>,
    handshakes_per_second_envoy: Option<f64>,
    /// Of each of them.
    rotations: u32,
}

fn main() -> ExitCode {
    let options = Options::parse();
    if let Some(played) = options.role.play() {
        return played.map_or_else(
            |error| {
                eprintln!("bench (a caller): {error}");
                ExitCode::FAILURE
            },
            |()| ExitCode::SUCCESS,
        );
    }
    let full = options.full;
    host::main(options.host.as_deref(), |runtime| runtime.block_on(run(full)))
}

async fn run(full: bool) -> Result<(), Failure> {
    let folder = tempfile::tempdir()?;
    let host = Host::start(&folder.path().join("ca")).map_err(|error| error.to_string())?;
    let thousand = Thousand::measure(&host, folder.path(), Duration::from_secs(if full { 60 } else { 8 })).await?;
    let (streams_10k_rss_mb, streams_10k_news_ms) = many_streams(&host, folder.path()).await?;
    let rotations = if full { 100 } else { 20 };
    let nginx = served::nginx(&host, folder.path(), rotations).await?;
    let envoy = served::envoys(&host, folder.path(), rotations).await?;
    let served: Vec<&Served> = nginx.iter().chain(&envoy).collect();
    let report = Report {
        cached_first_svid_p50_ms: thousand.cached_ms,
        cached_first_svid_tonic_p50_ms: thousand.cached_tonic_ms,
        uncached_first_svid_p50_ms: thousand.uncached_ms,
        fsync_p50_ms: floor::fsync_p50_ms(folder.path())?,
        entry_to_svid_p50_ms: thousand.entry_p50_ms,
        entry_to_svid_p99_ms: thousand.entry_p99_ms,
        rss_mb_1000: thousand.rss_mb,
        cpu_percent_1000: thousand.cpu_percent,
        renewals_1000: thousand.renewals,
        streams_10k_rss_mb,
        streams_10k_news_ms,
        failed_handshakes: (!served.is_empty()).then(|| served.iter().map(|served| served.failed).sum()),
        failed_handshakes_nginx: nginx.as_ref().map(|served| served.failed),
        failed_handshakes_envoy: envoy.as_ref().map(|served| served.failed),
        handshakes: served.iter().map(|served| served.made).sum(),
        handshakes_per_second_nginx: nginx.as_ref().map(|served| served.per_second),
        handshakes_per_second_envoy: envoy.as_ref().map(|served| served.per_second),
        rotations,
    };
    println!("{}", serde_json::to_string_pretty(&report)?);
    Ok(())
}

/// An agent with a thousand identities, each of a caller of its own with an open stream.
struct Thousand {
    cached_ms: f64,
    cached_tonic_ms: f64,
    uncached_ms: f64,
    entry_p50_ms: f64,
    entry_p99_ms: f64,
    rss_mb: f64,
    cpu_percent: f64,
    renewals: usize,
}

impl Thousand {
    async fn measure(host: &Host, dir: &Path, busy: Duration) -> Result<Self, Failure> {
        let entries = (0..IDENTITIES).map(|n| entry(&format!("w{n}"), n, TTL_SECONDS));
        let entries: Vec<_> = entries.collect();
        for some in entries.chunks(ENTRIES_AT_ONCE) {
            ca::apply(&host.admin_socket(), some.to_vec()).await?;
        }
        let limits = "[limits]\nconnections = 2000\nconnections_per_user = 2000\nstreams_per_user = 4096\n";
        let (agent, socket) = agent(host, dir, "thousand", limits).await?;
        let callers = Callers::of(&socket);
        let (mut uncached, mut open) = (Vec::new(), Vec::new());
        for caller in 0..TIMED {
            let (took, stream) = first(&callers, caller).await?;
            uncached.push(took);
            open.push(stream);
        }
        let rest = stream::iter(TIMED..IDENTITIES).map(|caller| first(&callers, caller));
        let rest: Vec<_> = rest.buffered(AT_ONCE).try_collect().await?;
        open.extend(rest.into_iter().map(|(_, stream)| stream));
        let (mut cached, mut cached_tonic) = (Vec::new(), Vec::new());
        for nth in 0..TIMED {
            let caller = nth * (IDENTITIES / TIMED);
            cached.push(callers.bare(caller)?.as_secs_f64() * 1e3);
            cached_tonic.push(first(&callers, caller).await?.0);
        }
        let rss = rss_mb(agent.id());
        let (cpu_percent, renewals) = pace(host, &agent, &open, busy).await?;
        let mut arrivals = arrivals(host, &open).await?;
        drop(open);
        stopped(agent)?;
        Ok(Self {
            cached_ms: percentile(&mut cached, 0.5),
            cached_tonic_ms: percentile(&mut cached_tonic, 0.5),
            uncached_ms: percentile(&mut uncached, 0.5),
            entry_p50_ms: percentile(&mut arrivals, 0.5),
            entry_p99_ms: percentile(&mut arrivals, 0.99),
            rss_mb: rss,
            cpu_percent,
            renewals,
        })
    }
}

/// From a caller's connect to its first SVID, in milliseconds.
async fn first(callers: &Callers, caller: u32) -> Result<(f64, Open), Failure> {
    let (channel, began) = connect(callers, caller).await?;
    let (stream, identities) = fetch(channel).await?;
    let took = began.elapsed().as_secs_f64() * 1e3;
    match identities {
        1 => Ok((took, Open::new(stream, identities))),
        other => Err(format!("caller {caller} has {other} identities").into()),
    }
}

/// Processor time of the agent, in percent of one core, while its identities are renewed one after the other at the pace
/// of their lifetime; and how many were.
async fn pace(host: &Host, agent: &AgentProcess, open: &[Open], busy: Duration) -> Result<(f64, usize), Failure> {
    // At half of their lifetime, as they do by themselves.
    let every = Duration::from_secs(TTL_SECONDS.unsigned_abs()) / 2 / IDENTITIES;
    let messages = || open.iter().map(|open| open.last().messages).sum::<usize>();
    let (before, used, began) = (messages(), cpu_seconds(agent.id()), Instant::now());
    let mut tick = tokio::time::interval(every);
    let mut due = (0..IDENTITIES).cycle();
    let mut demanded = 0;
    while began.elapsed() < busy {
        tick.tick().await;
        let Some(nth) = due.next() else { break };
        renew(host, "thousand", vec![format!("w{nth}")]).await?;
        demanded += 1;
    }
    let percent = (cpu_seconds(agent.id()) - used) / began.elapsed().as_secs_f64() * 100.0;
    let renewed = messages() - before;
    match renewed + 2 >= demanded {
        true => Ok((percent, renewed)),
        false => Err(format!("{renewed} of {demanded} renewals arrived").into()),
    }
}

/// From sending the command that makes an entry to its SVID in the caller's open stream, in milliseconds.
async fn arrivals(host: &Host, open: &[Open]) -> Result<Vec<f64>, Failure> {
    let mut times = Vec::new();
    for caller in 0..TIMED {
        let stream = &open[caller as usize];
        let second = entry(&format!("second{caller}"), caller, TTL_SECONDS);
        let began = Instant::now();
        ca::apply(&host.admin_socket(), vec![second]).await?;
        let news = stream.until(|news| news.identities == 2).await?;
        times.push(news.at.saturating_duration_since(began).as_secs_f64() * 1e3);
    }
    Ok(times)
}

/// An agent with ten thousand streams: its memory, and from the demand for another certificate to the last stream that is
/// sent it.
async fn many_streams(host: &Host, dir: &Path) -> Result<(f64, f64), Failure> {
    let limits =
        format!("[limits]\nconnections_per_user = {CONNECTIONS}\nstreams = {STREAMS}\nstreams_per_user = {STREAMS}\n");
    let (agent, socket) = agent(host, dir, "many", &limits).await?;
    let callers = Callers::of(&socket);
    let mut open = Vec::with_capacity(STREAMS);
    for _ in 0..CONNECTIONS {
        let (channel, _) = connect(&callers, 0).await?;
        let streams = stream::iter(0..STREAMS / CONNECTIONS).map(|_| fetch(channel.clone()));
        let streams: Vec<_> = streams.buffer_unordered(AT_ONCE).try_collect().await?;
        open.extend(
            streams
                .into_iter()
                .map(|(stream, identities)| Open::new(stream, identities)),
        );
    }
    let began = Instant::now();
    renew(host, "many", vec!["w0".to_owned()]).await?;
    let mut last = began;
    for stream in &open {
        last = last.max(stream.until(|news| news.messages > 1).await?.at);
    }
    let rss = rss_mb(agent.id());
    drop(open);
    stopped(agent)?;
    Ok((rss, (last - began).as_secs_f64() * 1e3))
}
