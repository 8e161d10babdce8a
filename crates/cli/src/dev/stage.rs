//! The stage of a tour: a CA and an agent of their own in this process, set up as an operator would through the admin
//! socket.

use std::{
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    time::Duration,
};

use mintage_agent::{Agent, AgentEvent, AgentHandle, Config as AgentConfig, Delivery};
use mintage_attest::join_token::JoinToken;
use mintage_ca::{Ca, Config, InitOptions, KeyProtection, init};
use mintage_identity::{EntryName, ReplicaName, TrustDomain};
use mintage_proto::v1::{ApplyEntriesRequest, CreateTokenRequest, Entry};
use mintage_sys::process::effective_uid;

use super::{
    events::Events,
    party::{DB, WEB},
    report::{Report, TRUST_DOMAIN},
    steps::Steps,
};
use crate::{client, failure::Failure};

/// Name of the agent.
pub(super) const AGENT: &str = "dev";
/// Lifetime of the demo's certificates: the shortest there is, so that rotation can be watched.
const TTL_SECONDS: i64 = 60;
/// Lifetime of the join token, which is used at once.
const TOKEN_SECONDS: i64 = 60;
/// How long the agent may take to stop.
const STOP_WAIT: Duration = Duration::from_secs(5);
/// Any free port of this machine.
const FREE_PORT: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

/// What runs.
pub(super) struct Stage {
    pub(super) admin: client::Ca,
    pub(super) agent: AgentHandle,
    pub(super) events: Events,
    pub(super) ca: Ca,
}

fn failed(what: &str) -> impl Fn(&dyn std::fmt::Display) -> Failure + '_ {
    move |error| Failure::local(format!("{what}: {error}"))
}

impl Stage {
    /// Makes and starts CA and agent.
    pub(super) async fn raise(report: &mut Report, steps: &mut Steps) -> Result<Self, Failure> {
        let ca = steps.take("ca", start_ca(report)).await?;
        report.ca_addr = Some(ca.address().to_string());
        report.admin_socket = Some(ca.admin_socket().to_owned());
        let admin = client::Ca::connect(ca.admin_socket()).await?;
        steps.take("entries", write_entries(&admin)).await?;
        let (agent, events) = steps.take("join", join(&admin, &report.dir)).await?;
        Ok(Self {
            admin,
            agent,
            events,
            ca,
        })
    }

    /// Ends both, the agent first; the CA closes its ledger with a checkpoint.
    pub(super) async fn stop(self) {
        let Self { admin, agent, ca, .. } = self;
        drop(admin);
        agent.shutdown(STOP_WAIT).await;
        ca.stop().await;
    }
}

async fn start_ca(report: &Report) -> Result<(Ca, String), Failure> {
    let told = failed("the CA");
    let options = InitOptions {
        trust_domain: TrustDomain::parse(TRUST_DOMAIN).map_err(|error| told(&error))?,
        data_dir: report.ca_dir(),
        protection: KeyProtection::ClearForTestDomainOnly,
        replica: ReplicaName::parse("dev").map_err(|error| told(&error))?,
    };
    let deps = mintage_ca::Deps::system();
    let making = deps.clone();
    let made = tokio::task::spawn_blocking(move || init(&options, &making)).await;
    let made = made.map_err(|error| told(&error))?.map_err(|error| told(&error))?;
    report.keep_vkey(&made.vkey)?;
    let config = Config::for_data_dir(report.ca_dir())
        .listening_on(FREE_PORT)
        .with_metrics(Some(FREE_PORT));
    let ca = Ca::start(config, deps).await.map_err(|error| told(&error))?;
    let line = format!("authority of {TRUST_DOMAIN} made, agents connect to {}", ca.address());
    Ok((ca, line))
}

async fn write_entries(admin: &client::Ca) -> Result<((), String), Failure> {
    let selector = format!("unix:uid:{}", effective_uid());
    let entry = |name: &str| Entry {
        name: name.to_owned(),
        spiffe_id: format!("spiffe://{TRUST_DOMAIN}/demo/{name}"),
        agents: vec![format!("spiffe://{TRUST_DOMAIN}/mintage/agent/{AGENT}")],
        selectors: vec![selector.clone()],
        ttl_seconds: TTL_SECONDS,
        purpose: "demonstration".to_owned(),
        ..Entry::default()
    };
    let request = ApplyEntriesRequest {
        entries: vec![entry(WEB), entry(DB)],
        ..ApplyEntriesRequest::default()
    };
    admin.registry().apply_entries(request).await?;
    Ok((
        (),
        format!("{WEB} and {DB} may be held by {selector}, for {TTL_SECONDS} s at a time"),
    ))
}

async fn join(admin: &client::Ca, dir: &Path) -> Result<((AgentHandle, Events), String), Failure> {
    let told = failed("the agent");
    let request = CreateTokenRequest {
        agent: AGENT.to_owned(),
        ttl_seconds: TOKEN_SECONDS,
        dry_run: false,
    };
    let token = admin.registry().create_token(request).await?.into_inner().token;
    let token = JoinToken::parse(&token).map_err(|error| told(&error))?;
    let config = agent_config(dir).map_err(|error| told(&error))?;
    let agent = Agent::start(config, Some(token), mintage_agent::Deps::system()).map_err(|error| told(&error))?;
    let mut events = Events::new(agent.events());
    let mut joined = None;
    let both = events.until("the agent's stream", |event| {
        if let AgentEvent::Joined { spiffe_id } = event {
            joined = Some(spiffe_id.to_string());
        }
        Ok(matches!(event, AgentEvent::Connected { .. }))
    });
    both.await?;
    let id = joined.unwrap_or_default();
    Ok((
        (agent, events),
        format!("{id} joined by a token that is spent now, its stream is open"),
    ))
}

fn agent_config(dir: &Path) -> Result<AgentConfig, mintage_agent::AgentError> {
    let run: PathBuf = dir.join("run");
    let delivery = |name: &str| {
        let entry = EntryName::parse(name).map_err(|error| mintage_agent::AgentError::Config(error.to_string()))?;
        Delivery::new(entry, dir.join(name))
    };
    AgentConfig::new(dir.join("agent"))
        .with_socket(Some(run.join("agent.sock")))
        .with_revocation_map(run.join("revocation.map"))?
        .with_metrics(FREE_PORT)?
        .with_deliveries(vec![delivery(WEB)?, delivery(DB)?])
}
