//! `mintage revocation`: what is revoked, and how far the news has come.

use clap::Subcommand;
use mintage_proto::{
    limits::PAGE_ROWS_MAX,
    v1::{ListRevocationsRequest, RevocationItem, RevocationStatusRequest},
};
use serde::Serialize;

use crate::{
    cli::Context,
    crl::{self, Wanted},
    failure::Failure,
    limits::SEARCH_ROWS_DEFAULT,
    output::{Row, fields},
    paging::Paging,
    revocation_export::{self, ExportArgs},
    text::{rfc3339, utc},
};

/// What to ask about revocations.
#[derive(Subcommand, Debug)]
pub(crate) enum Verb {
    /// Lists revocations, newest first.
    List(Paging),
    /// Shows what is in force and how many agents enforce it.
    Status,
    /// Fetches the lists of revoked certificates (CRLs) for software that speaks only X.509.
    Crl(Wanted),
    /// Writes what is in force to a file: the signed snapshot, or lines of JSON.
    Export(ExportArgs),
}

#[derive(Serialize)]
struct RevocationRow {
    index: u64,
    time: Option<String>,
    scope: String,
    reason: String,
    note: String,
    certificates: u64,
    rules: Vec<String>,
    #[serde(skip)]
    millis: i64,
}

impl From<RevocationItem> for RevocationRow {
    fn from(item: RevocationItem) -> Self {
        Self {
            index: item.index,
            time: rfc3339(item.time_ms),
            scope: item.scope,
            reason: item.reason,
            note: item.note,
            certificates: item.certificates,
            rules: item.rules,
            millis: item.time_ms,
        }
    }
}

impl Row for RevocationRow {
    const HEADER: &'static [&'static str] = &["INDEX", "TIME", "SCOPE", "REASON", "CERTIFICATES", "RULES", "NOTE"];
    fn cells(&self) -> Vec<String> {
        vec![
            self.index.to_string(),
            utc(self.millis),
            self.scope.clone(),
            self.reason.clone(),
            self.certificates.to_string(),
            self.rules.iter().map(|rule| shown(rule)).collect::<Vec<_>>().join("; "),
            self.note.clone(),
        ]
    }
}

/// A rule with the time of its cut as a person reads it; the CA tells seconds since 1970.
fn shown(rule: &str) -> String {
    const CUT: &str = ", not before up to ";
    let dated = rule.rsplit_once(CUT).and_then(|(target, seconds)| {
        let millis = seconds.parse::<i64>().ok()?.checked_mul(1_000)?;
        Some(format!("{target}{CUT}{}", utc(millis)))
    });
    dated.unwrap_or_else(|| rule.to_owned())
}

#[derive(Serialize)]
struct Status {
    epoch: u64,
    sequence: u64,
    serials: u64,
    rules: u64,
    agents: u64,
    agents_current: u64,
    acks: u64,
    p50_ack_ms: f64,
    p99_ack_ms: f64,
    slowest_ack_ms: f64,
    missing: Vec<String>,
    not_connected: u64,
}

/// Runs the verb.
pub(crate) async fn run(context: &Context, verb: Verb) -> Result<(), Failure> {
    match verb {
        Verb::Export(args) => revocation_export::run(context, &args).await,
        Verb::List(paging) => list(context, &paging).await,
        Verb::Crl(wanted) => crl::run(context, wanted).await,
        Verb::Status => status(context).await,
    }
}

async fn list(context: &Context, paging: &Paging) -> Result<(), Failure> {
    // Looked at before the CA is: a page that starts nowhere would be the newest one again.
    if let Some(token) = paging.token().filter(|token| before(token).is_none()) {
        return Err(Failure::local(format!(
            "--page {token}: no token of this listing; give the one that the page before named, or leave it out to begin \
             with the newest"
        )));
    }
    let revocation = context.ca().await?.revocation();
    let (rows, next) = paging
        .collect(SEARCH_ROWS_DEFAULT, async |page| {
            let before = before(&page.token).unwrap_or_default();
            let limit = page.limit.min(PAGE_ROWS_MAX);
            let request = ListRevocationsRequest { limit, before };
            let items = revocation.clone().list_revocations(request).await?.into_inner().items;
            // The oldest index of a full page is where the next one begins; nothing lies before record 0.
            let full = items.len() >= limit as usize;
            let next = items.last().filter(|last| full && last.index > 0);
            let next = next.map(|last| last.index.to_string()).unwrap_or_default();
            Ok((items, next))
        })
        .await?;
    let rows: Vec<RevocationRow> = rows.into_iter().map(Into::into).collect();
    context.output.list("revocations", &rows, next.as_deref())
}

/// The record before which a page begins.
fn before(token: &str) -> Option<u64> {
    token.parse().ok().filter(|record| *record > 0)
}

async fn status(context: &Context) -> Result<(), Failure> {
    let mut revocation = context.ca().await?.revocation();
    let answer = revocation
        .revocation_status(RevocationStatusRequest::default())
        .await?
        .into_inner();
    let status = Status {
        epoch: answer.epoch,
        sequence: answer.sequence,
        serials: answer.serials,
        rules: answer.rules,
        agents: answer.agents,
        agents_current: answer.agents_current,
        acks: answer.acks,
        p50_ack_ms: answer.p50_ack_ms,
        p99_ack_ms: answer.p99_ack_ms,
        slowest_ack_ms: answer.slowest_ack_ms,
        missing: answer.missing,
        not_connected: answer.not_connected,
    };
    context.output.object(&status, || {
        fields(&[
            ("epoch", status.epoch.to_string()),
            ("sequence", status.sequence.to_string()),
            ("revoked", format!("{} serials, {} rules", status.serials, status.rules)),
            (
                "enforced",
                format!("on {} of {} agents", status.agents_current, status.agents),
            ),
            ("missing", status.missing.join(", ")),
            (
                "not connected",
                match status.not_connected {
                    0 => String::new(),
                    away => away.to_string(),
                },
            ),
            (
                "latest revocation",
                match status.acks {
                    0 => String::new(),
                    _ => format!(
                        "p50 {:.1} ms, p99 {:.1} ms, slowest {:.1} ms",
                        status.p50_ack_ms, status.p99_ack_ms, status.slowest_ack_ms
                    ),
                },
            ),
        ])
    })
}
