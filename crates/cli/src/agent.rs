//! `mintage agent`: the nodes, and how to end or renew them.

use clap::{Args, Subcommand};
use mintage_identity::{AgentName, EntryName};
use mintage_proto::v1::{
    self, BanAgentRequest, EvictAgentRequest, ListAgentsRequest, RenewAgentRequest, ShowAgentRequest,
};
use serde::Serialize;

use crate::{
    cli::Context,
    entry::EntryRow,
    failure::Failure,
    limits::LIST_ROWS_DEFAULT,
    output::{Row, fields, table},
    paging::Paging,
    text::{count, rfc3339, utc},
};

/// What to do with agents.
#[derive(Subcommand, Debug)]
pub(crate) enum Verb {
    /// Lists the agents.
    List(Paging),
    /// Shows one agent and the entries it may ask for.
    Show {
        /// Its name.
        name: AgentName,
    },
    /// Bans the agent's present life and revokes all it obtained.
    Ban(End),
    /// Ends the agent's present life without a ban: a new join token lets the node come back.
    Evict(End),
    /// Asks a connected agent to fetch new certificates, with new keys, now.
    Renew(Renew),
}

/// `agent ban` and `agent evict`.
#[derive(Args, Debug)]
pub(crate) struct End {
    /// Its name.
    name: AgentName,
    /// Why, for the record.
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    reason: String,
    /// Says what would be struck; nothing is changed.
    #[arg(long)]
    dry_run: bool,
}

/// `agent renew`.
#[derive(Args, Debug)]
pub(crate) struct Renew {
    /// Its name.
    name: AgentName,
    /// Only what this entry gives (repeatable); without it everything.
    #[arg(long = "entry", value_name = "NAME")]
    entries: Vec<EntryName>,
    /// Also the agent's own certificate.
    #[arg(long)]
    itself: bool,
    /// Says whether the agent can be reached; nothing is asked of it.
    #[arg(long)]
    dry_run: bool,
}

#[derive(Serialize)]
pub(crate) struct AgentRow {
    name: String,
    spiffe_id: String,
    instance: u64,
    status: String,
    connected: bool,
    attestation: String,
    attested_at: Option<String>,
    serial: String,
    not_after: Option<String>,
    version: String,
    live_certificates: u64,
    revocation_sequence: u64,
    #[serde(skip)]
    times: (i64, i64),
}

impl From<v1::Agent> for AgentRow {
    fn from(agent: v1::Agent) -> Self {
        Self {
            attested_at: rfc3339(agent.attested_at_ms),
            not_after: rfc3339(agent.not_after_ms),
            times: (agent.attested_at_ms, agent.not_after_ms),
            name: agent.name,
            spiffe_id: agent.spiffe_id,
            instance: agent.instance,
            status: agent.status,
            connected: agent.connected,
            attestation: agent.attestation,
            serial: agent.serial,
            version: agent.version,
            live_certificates: agent.live_certificates,
            revocation_sequence: agent.revocation_sequence,
        }
    }
}

fn yes(is: bool) -> String {
    if is { "yes" } else { "no" }.to_owned()
}

impl Row for AgentRow {
    const HEADER: &'static [&'static str] = &[
        "NAME",
        "STATUS",
        "CONNECTED",
        "LIVE",
        "NOT AFTER",
        "ATTESTED",
        "BY",
        "VERSION",
    ];
    fn cells(&self) -> Vec<String> {
        vec![
            self.name.clone(),
            self.status.clone(),
            yes(self.connected),
            self.live_certificates.to_string(),
            utc(self.times.1),
            utc(self.times.0),
            self.attestation.clone(),
            self.version.clone(),
        ]
    }
}

impl AgentRow {
    fn lines(&self) -> String {
        fields(&[
            ("name", self.name.clone()),
            ("spiffe id", self.spiffe_id.clone()),
            ("status", self.status.clone()),
            ("connected", yes(self.connected)),
            ("instance", self.instance.to_string()),
            ("attested", format!("{} by {}", utc(self.times.0), self.attestation)),
            ("serial", self.serial.clone()),
            ("not after", utc(self.times.1)),
            ("version", self.version.clone()),
            ("live certificates", self.live_certificates.to_string()),
            ("revocation", format!("enforces up to {}", self.revocation_sequence)),
        ])
    }
}

#[derive(Serialize)]
struct Shown {
    #[serde(flatten)]
    agent: AgentRow,
    entries: Vec<EntryRow>,
}

#[derive(Serialize)]
struct Ended {
    #[serde(flatten)]
    agent: AgentRow,
    index: u64,
    revoked_certificates: u64,
    dry_run: bool,
}

#[derive(Serialize)]
struct Renewed<'a> {
    name: &'a str,
    streams: u32,
    dry_run: bool,
}

/// Runs the verb.
pub(crate) async fn run(context: &Context, verb: Verb) -> Result<(), Failure> {
    match verb {
        Verb::List(paging) => {
            let registry = context.ca().await?.registry();
            let (rows, next) = paging
                .collect(LIST_ROWS_DEFAULT, async |page| {
                    let answer = registry
                        .clone()
                        .list_agents(ListAgentsRequest { page: Some(page) })
                        .await?
                        .into_inner();
                    Ok((answer.agents, answer.next))
                })
                .await?;
            let rows: Vec<AgentRow> = rows.into_iter().map(Into::into).collect();
            context.output.list("agents", &rows, next.as_deref())
        }
        Verb::Show { name } => {
            let request = ShowAgentRequest { name: name.to_string() };
            let answer = context.ca().await?.registry().show_agent(request).await?.into_inner();
            let shown = Shown {
                agent: answer.agent.unwrap_or_default().into(),
                entries: answer.entries.into_iter().map(Into::into).collect(),
            };
            let entries = || table(EntryRow::HEADER, shown.entries.iter().map(Row::cells));
            context
                .output
                .object(&shown, || format!("{}\n{}", shown.agent.lines(), entries()))
        }
        Verb::Ban(end) => {
            let request = BanAgentRequest {
                name: end.name.to_string(),
                reason: end.reason,
                dry_run: end.dry_run,
            };
            let answer = context.ca().await?.registry().ban_agent(request).await?.into_inner();
            let (agent, revoked) = (answer.agent.unwrap_or_default(), answer.revoked_certificates);
            tell_end(context, agent, (answer.index, revoked), ("ban", "banned"), end.dry_run)
        }
        Verb::Evict(end) => {
            let request = EvictAgentRequest {
                name: end.name.to_string(),
                reason: end.reason,
                dry_run: end.dry_run,
            };
            let answer = context.ca().await?.registry().evict_agent(request).await?.into_inner();
            tell_end(
                context,
                answer.agent.unwrap_or_default(),
                (answer.index, 0),
                ("evict", "evicted"),
                end.dry_run,
            )
        }
        Verb::Renew(renew) => ask_to_renew(context, &renew).await,
    }
}

fn tell_end(
    context: &Context,
    agent: v1::Agent,
    (index, revoked_certificates): (u64, u64),
    (verb, done): (&str, &str),
    dry_run: bool,
) -> Result<(), Failure> {
    let ended = Ended {
        agent: agent.into(),
        index,
        revoked_certificates,
        dry_run,
    };
    context.output.object(&ended, || {
        let name = &ended.agent.name;
        let revoked = count(revoked_certificates, "certificate", "certificates");
        match (dry_run, revoked_certificates) {
            (true, 0) => format!("would {verb} agent {name}\n"),
            (true, _) => format!("would {verb} agent {name} and revoke {revoked}\n"),
            (false, 0) => format!("{done} agent {name}\n"),
            (false, _) => format!("{done} agent {name}, {revoked} revoked\n"),
        }
    })
}

async fn ask_to_renew(context: &Context, renew: &Renew) -> Result<(), Failure> {
    let name = renew.name.as_str();
    let request = RenewAgentRequest {
        name: name.to_owned(),
        entries: renew.entries.iter().map(ToString::to_string).collect(),
        agent: renew.itself,
        dry_run: renew.dry_run,
    };
    let streams = context
        .ca()
        .await?
        .registry()
        .renew_agent(request)
        .await?
        .into_inner()
        .streams;
    let renewed = Renewed {
        name,
        streams,
        dry_run: renew.dry_run,
    };
    context.output.object(&renewed, || match (renew.dry_run, streams) {
        (true, 0) => format!("agent {name} is not connected; it could not be asked\n"),
        (true, _) => format!("agent {name} is connected and would be asked to renew\n"),
        (false, _) => format!("agent {name} was asked to renew\n"),
    })
}
