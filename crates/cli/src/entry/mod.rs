//! `mintage entry`: which workload, on which agents, may hold which identity.

mod apply;
mod import;
mod parts;
mod source;
mod switch;
mod toml_text;

use std::path::PathBuf;

use clap::{Args, Subcommand};
use mintage_identity::{AgentName, AgentPattern, EntryName, Selector, SpiffeId, TrustDomain, Ttl};
use mintage_policy::{Entry, RawEntry};
use mintage_proto::v1::{self, DeleteEntryRequest, ExplainEntriesRequest, ListEntriesRequest, ShowEntryRequest};
use serde::Serialize;

use crate::{
    cli::Context,
    explain::ExplanationRow,
    failure::Failure,
    limits::LIST_ROWS_DEFAULT,
    output::{Row, fields},
    paging::Paging,
    text::{count, lasting},
};

/// What to do with entries.
#[derive(Subcommand, Debug)]
pub(crate) enum Verb {
    /// Makes what stands at the CA like the entries of a directory or file.
    Apply(apply::Apply),
    /// Makes one entry; an existing one is never changed.
    Create(Box<Create>),
    /// Lists entries.
    List(List),
    /// Shows one entry.
    Show {
        /// Its name.
        name: EntryName,
    },
    /// Deletes an entry and revokes what was issued through it.
    Delete {
        /// Its name.
        name: EntryName,
        /// Says what would go; nothing is changed.
        #[arg(long)]
        dry_run: bool,
    },
    /// Lets an entry issue again, and lifts what `revoke --and-disable` had put on its identity.
    Enable(switch::Switch),
    /// Stops an entry from issuing; what it has issued is good until it ends (`revoke --and-disable` revokes it).
    Disable(switch::Switch),
    /// Tells what a workload would get on an agent, and why it does not get the rest.
    Explain(Explain),
    /// Takes entries over from another system.
    Import(import::Import),
    /// Checks the entries of a directory or file, without any CA.
    Validate {
        /// A directory of *.toml files, or one file.
        path: PathBuf,
        /// The trust domain they are for.
        #[arg(long, value_name = "TD")]
        trust_domain: TrustDomain,
    },
}

/// `entry create`.
#[derive(Args, Debug)]
pub(crate) struct Create {
    /// Its name.
    name: EntryName,
    /// The identity it gives.
    #[arg(long, value_name = "ID")]
    spiffe_id: SpiffeId,
    /// An agent it is for (repeatable): a name, * for every agent, a SPIFFE ID, or a prefix ending in /*.
    #[arg(long = "agent", value_name = "AGENT", required = true)]
    agents: Vec<String>,
    /// What must hold for the workload, such as unix:uid:1000 (repeatable; all must hold).
    #[arg(long = "selector", value_name = "SELECTOR", required = true)]
    selectors: Vec<Selector>,
    /// Lifetime of its certificates: 60s to 24h.
    #[arg(long, value_name = "DURATION", default_value = "10m")]
    ttl: Ttl,
    /// A DNS name for the certificate (repeatable).
    #[arg(long = "dns-name", value_name = "NAME")]
    dns_names: Vec<String>,
    /// The certificate's common name.
    #[arg(long, value_name = "NAME", default_value = "", hide_default_value = true)]
    common_name: String,
    /// Tells a workload with several identities which one is meant.
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    hint: String,
    /// Who answers for the workload.
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    owner: String,
    /// Where it runs.
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    environment: String,
    /// What it is for.
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    purpose: String,
    /// Nothing is issued by it for now.
    #[arg(long)]
    disabled: bool,
    /// No JWT-SVID is issued by it.
    #[arg(long, conflicts_with = "jwt_audiences")]
    jwt_forbidden: bool,
    /// An audience its JWT-SVIDs may be for (repeatable; any without it).
    #[arg(long = "jwt-audience", value_name = "AUDIENCE")]
    jwt_audiences: Vec<String>,
    /// Another trust domain whose bundle its workloads get (repeatable).
    #[arg(long = "federates-with", value_name = "TD")]
    federates_with: Vec<TrustDomain>,
    /// Checks only; nothing is changed.
    #[arg(long)]
    dry_run: bool,
}

/// `entry list`.
#[derive(Args, Debug)]
pub(crate) struct List {
    /// Only entries of this identity.
    #[arg(long, value_name = "ID")]
    spiffe_id: Option<SpiffeId>,
    /// Only entries this agent may ask for: a name or a SPIFFE ID.
    #[arg(long, value_name = "AGENT")]
    agent: Option<String>,
    #[command(flatten)]
    paging: Paging,
}

/// `entry explain`.
#[derive(Args, Debug)]
pub(crate) struct Explain {
    /// The agent: a name or a SPIFFE ID.
    #[arg(long, value_name = "AGENT")]
    agent: String,
    /// What the workload shows, such as unix:uid:1000 (repeatable).
    #[arg(long = "selector", value_name = "SELECTOR")]
    selectors: Vec<Selector>,
}

/// One entry.
#[derive(Debug, Serialize)]
pub(crate) struct EntryRow {
    name: String,
    spiffe_id: String,
    agents: Vec<String>,
    selectors: Vec<String>,
    ttl_seconds: i64,
    dns_names: Vec<String>,
    common_name: String,
    hint: String,
    owner: String,
    environment: String,
    purpose: String,
    disabled: bool,
    jwt_forbidden: bool,
    jwt_audiences: Vec<String>,
    federates_with: Vec<String>,
    revision: u64,
}

impl From<v1::Entry> for EntryRow {
    fn from(entry: v1::Entry) -> Self {
        Self {
            name: entry.name,
            spiffe_id: entry.spiffe_id,
            agents: entry.agents,
            selectors: entry.selectors,
            ttl_seconds: entry.ttl_seconds,
            dns_names: entry.dns_names,
            common_name: entry.common_name,
            hint: entry.hint,
            owner: entry.owner,
            environment: entry.environment,
            purpose: entry.purpose,
            disabled: entry.disabled,
            jwt_forbidden: entry.jwt_forbidden,
            jwt_audiences: entry.jwt_audiences,
            federates_with: entry.federates_with,
            revision: entry.revision,
        }
    }
}

impl Row for EntryRow {
    const HEADER: &'static [&'static str] = &["NAME", "SPIFFE ID", "TTL", "SELECTORS", "AGENTS", "STATE"];
    fn cells(&self) -> Vec<String> {
        vec![
            self.name.clone(),
            self.spiffe_id.clone(),
            lasting(self.ttl_seconds.unsigned_abs()),
            self.selectors.join(", "),
            self.agents.join(", "),
            if self.disabled { "disabled" } else { "enabled" }.to_owned(),
        ]
    }
}

impl EntryRow {
    /// Empty for any, which is left out.
    fn jwt_audiences_told(&self) -> String {
        match self.jwt_forbidden {
            true => "none, JWT-SVIDs are forbidden".to_owned(),
            false => self.jwt_audiences.join(", "),
        }
    }

    fn lines(&self, live: u64) -> String {
        fields(&[
            ("name", self.name.clone()),
            ("spiffe id", self.spiffe_id.clone()),
            ("agents", self.agents.join(", ")),
            ("selectors", self.selectors.join(", ")),
            ("ttl", lasting(self.ttl_seconds.unsigned_abs())),
            ("dns names", self.dns_names.join(", ")),
            ("common name", self.common_name.clone()),
            ("hint", self.hint.clone()),
            ("owner", self.owner.clone()),
            ("environment", self.environment.clone()),
            ("purpose", self.purpose.clone()),
            ("disabled", if self.disabled { "yes".into() } else { String::new() }),
            ("jwt audiences", self.jwt_audiences_told()),
            ("federates with", self.federates_with.join(", ")),
            ("revision", self.revision.to_string()),
            ("live certificates", live.to_string()),
        ])
    }
}

#[derive(Serialize)]
struct Shown {
    #[serde(flatten)]
    entry: EntryRow,
    live_certificates: u64,
}

#[derive(Serialize)]
struct Deleted {
    #[serde(flatten)]
    entry: EntryRow,
    index: u64,
    revoked_certificates: u64,
    dry_run: bool,
}

#[derive(Serialize)]
struct Valid {
    valid: bool,
    entries: usize,
}

/// The entry as the wire has it.
fn wire(entry: &Entry) -> v1::Entry {
    let raw = entry.to_raw();
    v1::Entry {
        name: raw.name,
        spiffe_id: raw.spiffe_id,
        agents: raw.agents,
        selectors: raw.selectors,
        ttl_seconds: raw.ttl_seconds,
        dns_names: raw.dns_names,
        common_name: raw.common_name,
        hint: raw.hint,
        owner: raw.owner,
        environment: raw.environment,
        purpose: raw.purpose,
        disabled: raw.disabled,
        revision: 0,
        jwt_forbidden: raw.jwt_forbidden,
        jwt_audiences: raw.jwt_audiences,
        federates_with: raw.federates_with,
    }
}

/// An agent as people name it: its name, `*` for all, or a whole pattern.
fn agent_pattern(text: &str, domain: &TrustDomain) -> Result<AgentPattern, Failure> {
    let whole = match text {
        "*" => format!("{}/mintage/agent/*", domain.id()),
        name if !name.contains("://") => {
            let name = AgentName::parse(name).map_err(Failure::local)?;
            SpiffeId::agent(domain, &name).to_string()
        }
        pattern => pattern.to_owned(),
    };
    AgentPattern::parse(&whole).map_err(Failure::local)
}

impl Create {
    fn entry(&self) -> Result<Entry, Failure> {
        let domain = self.spiffe_id.trust_domain();
        let agents = self
            .agents
            .iter()
            .map(|agent| agent_pattern(agent, &domain).map(|pattern| pattern.to_string()));
        let raw = RawEntry {
            name: self.name.to_string(),
            spiffe_id: self.spiffe_id.to_string(),
            agents: agents.collect::<Result<_, _>>()?,
            selectors: self.selectors.iter().map(ToString::to_string).collect(),
            ttl_seconds: i64::from(self.ttl.seconds()),
            dns_names: self.dns_names.clone(),
            common_name: self.common_name.clone(),
            hint: self.hint.clone(),
            owner: self.owner.clone(),
            environment: self.environment.clone(),
            purpose: self.purpose.clone(),
            disabled: self.disabled,
            jwt_forbidden: self.jwt_forbidden,
            jwt_audiences: self.jwt_audiences.clone(),
            federates_with: self.federates_with.iter().map(ToString::to_string).collect(),
        };
        raw.validate(&domain)
            .map_err(|error| Failure::local(format!("entry {}: {error}", self.name)))
    }
}

/// Runs the verb.
pub(crate) async fn run(context: &Context, verb: Verb) -> Result<(), Failure> {
    match verb {
        Verb::Apply(apply) => apply::run(context, &apply).await,
        Verb::Create(create) => {
            let entry = create.entry()?;
            apply::send(
                context,
                &context.ca().await?,
                &[entry],
                &apply::Mode::create(create.dry_run),
            )
            .await
        }
        Verb::List(list) => show_list(context, &list).await,
        Verb::Show { name } => {
            let request = ShowEntryRequest { name: name.to_string() };
            let answer = context.ca().await?.registry().show_entry(request).await?.into_inner();
            let shown = Shown {
                entry: answer.entry.unwrap_or_default().into(),
                live_certificates: answer.live_certificates,
            };
            context
                .output
                .object(&shown, || shown.entry.lines(shown.live_certificates))
        }
        Verb::Delete { name, dry_run } => delete(context, &name, dry_run).await,
        Verb::Enable(switch) => switch::run(context, &switch, false).await,
        Verb::Disable(switch) => switch::run(context, &switch, true).await,
        Verb::Explain(explain) => answer_why(context, &explain).await,
        Verb::Import(import) => import::run(context, &import).await,
        Verb::Validate { path, trust_domain } => {
            let entries = source::load(&path, &trust_domain)?.len();
            let valid = Valid { valid: true, entries };
            context.output.object(&valid, || {
                format!("{} valid\n", count(entries as u64, "entry is", "entries are"))
            })
        }
    }
}

async fn show_list(context: &Context, list: &List) -> Result<(), Failure> {
    let registry = context.ca().await?.registry();
    let (rows, next) = list
        .paging
        .collect(LIST_ROWS_DEFAULT, async |page| {
            let request = ListEntriesRequest {
                page: Some(page),
                spiffe_id: list.spiffe_id.as_ref().map(ToString::to_string).unwrap_or_default(),
                agent: list.agent.clone().unwrap_or_default(),
            };
            let answer = registry.clone().list_entries(request).await?.into_inner();
            Ok((answer.entries, answer.next))
        })
        .await?;
    let rows: Vec<EntryRow> = rows.into_iter().map(Into::into).collect();
    context.output.list("entries", &rows, next.as_deref())
}

async fn delete(context: &Context, name: &EntryName, dry_run: bool) -> Result<(), Failure> {
    let request = DeleteEntryRequest {
        name: name.to_string(),
        dry_run,
    };
    let answer = context.ca().await?.registry().delete_entry(request).await?.into_inner();
    let deleted = Deleted {
        entry: answer.entry.unwrap_or_default().into(),
        index: answer.index,
        revoked_certificates: answer.revoked_certificates,
        dry_run,
    };
    context.output.object(&deleted, || {
        let revoked = count(deleted.revoked_certificates, "certificate", "certificates");
        match dry_run {
            true => format!("would delete entry {name} and revoke {revoked}\n"),
            false => format!("deleted entry {name}, {revoked} revoked\n"),
        }
    })
}

async fn answer_why(context: &Context, explain: &Explain) -> Result<(), Failure> {
    let request = ExplainEntriesRequest {
        agent: explain.agent.clone(),
        selectors: explain.selectors.iter().map(ToString::to_string).collect(),
    };
    let answer = context
        .ca()
        .await?
        .registry()
        .explain_entries(request)
        .await?
        .into_inner();
    let mut rows: Vec<ExplanationRow> = answer
        .explanations
        .into_iter()
        .map(|row| ExplanationRow {
            name: row.name,
            spiffe_id: row.spiffe_id,
            matches: row.matches,
            why_not: row.why_not,
        })
        .collect();
    // What the workload gets stands first.
    rows.sort_by_key(|row| !row.matches);
    context.output.list("explanations", &rows, None)?;
    match rows.iter().any(|row| row.matches) {
        true => Ok(()),
        false => Err(Failure::No(format!(
            "no entry matches these selectors on agent {}",
            explain.agent
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn agents_are_named_in_four_ways() {
        let domain = TrustDomain::parse("dev.test").unwrap();
        for (text, pattern) in [
            ("n1", "spiffe://dev.test/mintage/agent/n1"),
            ("*", "spiffe://dev.test/mintage/agent/*"),
            (
                "spiffe://dev.test/mintage/agent/n2",
                "spiffe://dev.test/mintage/agent/n2",
            ),
            ("spiffe://dev.test/mintage/*", "spiffe://dev.test/mintage/*"),
        ] {
            assert_eq!(agent_pattern(text, &domain).unwrap().to_string(), pattern);
        }
        for bad in ["a/b", "", "n1*", "spiffe://dev.test/web"] {
            assert_eq!(agent_pattern(bad, &domain).unwrap_err().code(), 1, "{bad}");
        }
    }
}
