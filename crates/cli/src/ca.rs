//! `mintage ca status`: keys with their ends, and how much the CA holds.

use clap::Subcommand;
use mintage_proto::v1::{self, CaStatusRequest};
use serde::Serialize;

use crate::{
    cli::Context,
    failure::Failure,
    output::{Row, fields, table},
    text::{rfc3339, utc},
};

/// What to ask of the CA itself.
#[derive(Subcommand, Debug)]
pub(crate) enum Verb {
    /// Shows whether it can issue, its keys with their ends, and how much it holds.
    Status,
}

#[derive(Serialize)]
struct KeyRow {
    role: String,
    key_id: String,
    status: String,
    not_before: Option<String>,
    not_after: Option<String>,
    subject: String,
    serial: String,
    #[serde(skip)]
    end: i64,
}

impl From<v1::CaKey> for KeyRow {
    fn from(key: v1::CaKey) -> Self {
        Self {
            not_before: rfc3339(key.not_before_ms),
            not_after: rfc3339(key.not_after_ms),
            end: key.not_after_ms,
            role: key.role,
            key_id: key.key_id,
            status: key.status,
            subject: key.subject,
            serial: key.serial,
        }
    }
}

impl Row for KeyRow {
    const HEADER: &'static [&'static str] = &["ROLE", "STATUS", "NOT AFTER", "KEY", "SUBJECT"];
    fn cells(&self) -> Vec<String> {
        let key: String = self.key_id.chars().take(16).collect();
        vec![
            self.role.clone(),
            self.status.clone(),
            utc(self.end),
            key,
            self.subject.clone(),
        ]
    }
}

#[derive(Serialize)]
struct CrlRow {
    role: String,
    key_id: String,
    number: u64,
    this_update: Option<String>,
    next_update: Option<String>,
    certificates: u64,
    remark: String,
    #[serde(skip)]
    end: i64,
}

impl From<v1::CaCrl> for CrlRow {
    fn from(list: v1::CaCrl) -> Self {
        Self {
            this_update: rfc3339(list.this_update_ms),
            next_update: rfc3339(list.next_update_ms),
            end: list.next_update_ms,
            role: list.role,
            key_id: list.key_id,
            number: list.number,
            certificates: list.entries,
            remark: list.remark,
        }
    }
}

impl CrlRow {
    fn text(&self) -> String {
        let Self {
            certificates,
            role,
            remark,
            ..
        } = self;
        let end = format!("{certificates} certificates, ends {}", utc(self.end));
        match remark.is_empty() {
            true => format!("{role}: {end}"),
            false => format!("{role}: {end} ({remark})"),
        }
    }
}

#[derive(Serialize)]
struct Status {
    trust_domain: String,
    replica: String,
    version: String,
    ready: bool,
    not_ready_because: String,
    agent_address: String,
    ledger_origin: String,
    ledger_size: u64,
    entries: u64,
    agents: u64,
    connected_agents: u64,
    live_certificates: u64,
    revocation_sequence: u64,
    seen_unknown: u64,
    keys: Vec<KeyRow>,
    crls: Vec<CrlRow>,
}

impl From<v1::CaStatusResponse> for Status {
    fn from(status: v1::CaStatusResponse) -> Self {
        Self {
            trust_domain: status.trust_domain,
            replica: status.replica,
            version: status.version,
            ready: status.ready,
            not_ready_because: status.not_ready_because,
            agent_address: status.agent_address,
            ledger_origin: status.ledger_origin,
            ledger_size: status.ledger_size,
            entries: status.entries,
            agents: status.agents,
            connected_agents: status.connected_agents,
            live_certificates: status.live_certificates,
            revocation_sequence: status.revocation_sequence,
            seen_unknown: status.seen_unknown,
            keys: status.keys.into_iter().map(Into::into).collect(),
            crls: status.crls.into_iter().map(Into::into).collect(),
        }
    }
}

impl Status {
    fn text(&self) -> String {
        let ready = if self.ready {
            "yes".to_owned()
        } else {
            format!("no: {}", self.not_ready_because)
        };
        let seen = match self.seen_unknown {
            0 => String::new(),
            count => format!("{count} certificates seen in use: mintage audit search --kind seen.report"),
        };
        let crls: Vec<String> = self.crls.iter().map(CrlRow::text).collect();
        let facts = fields(&[
            ("trust domain", self.trust_domain.clone()),
            ("ready", ready),
            ("replica", format!("{} {}", self.replica, self.version)),
            (
                "agents",
                format!("{}, {} connected", self.agents, self.connected_agents),
            ),
            ("agents connect to", self.agent_address.clone()),
            ("entries", self.entries.to_string()),
            ("live certificates", self.live_certificates.to_string()),
            (
                "ledger",
                format!("{} records of {}", self.ledger_size, self.ledger_origin),
            ),
            ("revocation", format!("up to {}", self.revocation_sequence)),
            ("lists of revoked", crls.join("; ")),
            ("not in the ledger", seen),
        ]);
        format!("{facts}\n{}", table(KeyRow::HEADER, self.keys.iter().map(Row::cells)))
    }
}

/// Runs the verb.
pub(crate) async fn run(context: &Context, verb: Verb) -> Result<(), Failure> {
    let Verb::Status = verb;
    let answer = context
        .ca()
        .await?
        .registry()
        .ca_status(CaStatusRequest {})
        .await?
        .into_inner();
    let status = Status::from(answer);
    context.output.object(&status, || status.text())
}
