//! What an agent takes of its node: the real `mintage-agent` with many deliveries, and the CA it talks with.

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
    time::Instant,
};

use clap::Parser;
use mintage_benches::{
    host::{self, Host, rss_mb},
    load::Failure,
};
use mintage_tests::kit::{
    agent::{AgentProcess, config},
    ca,
};
use serde::Serialize;

#[derive(Parser)]
struct Options {
    /// Identities delivered into a folder each.
    #[arg(long, default_value_t = 100)]
    deliveries: usize,
    /// Output format; only json.
    #[arg(short, default_value = "json")]
    output: String,
    #[arg(long = "host", hide = true)]
    host: Option<PathBuf>,
}

#[derive(Serialize)]
struct Report {
    deliveries: usize,
    /// Of the agent, once everything is delivered.
    agent_rss_mb: f64,
    /// Of the CA right after its start, and with this agent connected.
    ca_idle_rss_mb: f64,
    ca_rss_mb: f64,
    /// From the agent's start without any state to the last folder.
    delivered_ms: f64,
}

fn main() -> ExitCode {
    let options = Options::parse();
    host::main(options.host.as_deref(), |runtime| run(runtime, options.deliveries))
}

fn run(runtime: &tokio::runtime::Runtime, deliveries: usize) -> Result<(), Failure> {
    let folder = tempfile::tempdir()?;
    let dir = folder.path();
    let host = Host::start(&dir.join("ca")).map_err(|error| error.to_string())?;
    let ca_idle_rss_mb = host.rss_mb();
    let names: Vec<String> = (0..deliveries).map(|n| format!("w{n}")).collect();
    let token = runtime.block_on(async {
        for name in &names {
            ca::entry(&host.admin_socket(), name, &format!("/w/{name}")).await;
        }
        ca::token(&host.admin_socket(), "node").await
    });
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let config = config(dir, &names);
    let started = Instant::now();
    let mut agent = AgentProcess::start(dir, &config, Some(&token));
    let delivered = |name: &&str| Path::new(dir).join(name).join("svid.pem").exists();
    agent.wait_for("every delivery", || names.iter().all(delivered).then_some(()));
    let report = Report {
        deliveries,
        delivered_ms: started.elapsed().as_secs_f64() * 1e3,
        agent_rss_mb: rss_mb(agent.id()),
        ca_idle_rss_mb,
        ca_rss_mb: host.rss_mb(),
    };
    if agent.stop() != Some(0) {
        return Err("the agent did not stop in order".into());
    }
    println!("{}", serde_json::to_string_pretty(&report)?);
    Ok(())
}
