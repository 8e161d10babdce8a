//! `mintage cert holder`: one identity on one screen: who holds it now, and what became of it before.

use std::collections::BTreeMap;

use clap::Args;
use mintage_identity::{IdPrefix, SpiffeId};
use mintage_proto::v1::{GetRecordRequest, ListRevocationsRequest, RecordSummary, SearchRequest, get_record_request};
use serde::Serialize;

use crate::{
    audit::search,
    cert::live,
    cli::Context,
    client::Ca,
    failure::Failure,
    ledger_row::{CertRow, RecordRow},
    limits::{HISTORY_ROWS_MAX, LIST_ROWS_DEFAULT, REVOCATIONS_LOOKED_AT},
    output::{Row, notice, table},
    paging::Paging,
    text::{count, utc},
};

/// `cert holder`.
#[derive(Args, Debug)]
pub(crate) struct HolderArgs {
    /// The identity.
    #[arg(value_name = "ID")]
    spiffe_id: SpiffeId,
    /// How many of the last issuances, refusals and revocations to show.
    #[arg(long, value_name = "N", default_value_t = 10)]
    last: usize,
}

#[derive(Serialize)]
struct Shown {
    spiffe_id: String,
    live: Vec<CertRow>,
    /// The last issuances, refusals and revocations, newest first.
    history: Vec<RecordRow>,
}

impl Shown {
    fn text(&self) -> String {
        let held = match self.live.len() as u64 {
            0 => "nobody holds it now".to_owned(),
            holders => format!("held now by {}", count(holders, "certificate", "certificates")),
        };
        let mut text = format!("{}\n{held}\n", self.spiffe_id);
        if !self.live.is_empty() {
            text.push('\n');
            text.push_str(&table(
                &["AGENT", "INSTANCE", "ENTRY", "SERIAL", "ISSUED", "NOT AFTER"],
                self.live.iter().map(holder_cells),
            ));
        }
        if !self.history.is_empty() {
            text.push_str("\nHistory, newest first\n");
            text.push_str(&table(RecordRow::HEADER, self.history.iter().map(Row::cells)));
        }
        text
    }
}

fn holder_cells(row: &CertRow) -> Vec<String> {
    vec![
        row.agent.clone(),
        row.instance.map(|instance| instance.to_string()).unwrap_or_default(),
        row.entry.clone(),
        row.serial.clone(),
        utc(row.times.0),
        utc(row.times.1),
    ]
}

/// Runs the verb.
pub(crate) async fn run(context: &Context, args: &HolderArgs) -> Result<(), Failure> {
    if args.last > HISTORY_ROWS_MAX {
        return Err(Failure::local(format!(
            "--last {} is over the limit of {HISTORY_ROWS_MAX}; use `mintage audit search`",
            args.last
        )));
    }
    let ca = context.ca().await?;
    let of_it = SearchRequest {
        spiffe_id: args.spiffe_id.to_string(),
        ..SearchRequest::default()
    };
    let holders = Paging::at_most(LIST_ROWS_DEFAULT);
    let (holders, more) = search::fetch(&ca, live(of_it.clone()), &holders, LIST_ROWS_DEFAULT).await?;
    if more.is_some() {
        notice(&format!(
            "only the newest {LIST_ROWS_DEFAULT} holders are shown: mintage cert list --spiffe-id"
        ));
    }
    let shown = Shown {
        spiffe_id: args.spiffe_id.to_string(),
        live: holders.into_iter().map(Into::into).collect(),
        history: history(&ca, args, of_it).await?,
    };
    if shown.live.is_empty() && shown.history.is_empty() && args.last > 0 {
        return Err(Failure::No(format!(
            "nobody holds {} and the ledger has nothing about it",
            args.spiffe_id
        )));
    }
    context.output.object(&shown, || shown.text())
}

/// The last issuances, refusals and revocations.
async fn history(ca: &Ca, args: &HolderArgs, of_it: SearchRequest) -> Result<Vec<RecordRow>, Failure> {
    if args.last == 0 {
        return Ok(Vec::new());
    }
    let request = SearchRequest {
        kinds: vec!["issue".to_owned(), "deny".to_owned()],
        ..of_it
    };
    let (found, _) = search::fetch(ca, request, &Paging::at_most(args.last), args.last).await?;
    let mut records: BTreeMap<u64, RecordSummary> = BTreeMap::new();
    for index in revocations(ca, &args.spiffe_id, &found).await? {
        let (_, summary) = record(ca, index).await?;
        records.insert(index, summary);
    }
    records.extend(found.into_iter().map(|summary| (summary.index, summary)));
    Ok(records.into_values().rev().take(args.last).map(Into::into).collect())
}

/// The revocations of an identity: those that name it, and those that struck one of these certificates.
async fn revocations(ca: &Ca, id: &SpiffeId, found: &[RecordSummary]) -> Result<Vec<u64>, Failure> {
    let request = ListRevocationsRequest {
        limit: REVOCATIONS_LOOKED_AT,
        ..ListRevocationsRequest::default()
    };
    let listed = ca.revocation().list_revocations(request).await?.into_inner().items;
    let named = listed
        .iter()
        .filter(|item| item.rules.iter().any(|rule| names(rule, id)));
    let mut indices: Vec<u64> = named.map(|item| item.index).collect();
    for issued in found.iter().filter(|summary| summary.state == "revoked") {
        indices.extend(record(ca, issued.index).await?.0);
    }
    indices.sort_unstable();
    indices.dedup();
    Ok(indices)
}

/// Whether a rule, as the CA tells it, is about an identity.
fn names(rule: &str, id: &SpiffeId) -> bool {
    let target = rule.split(',').next().unwrap_or_default();
    match (target.strip_prefix("spiffe-id "), target.strip_prefix("prefix ")) {
        (Some(named), _) => named == id.as_str(),
        (_, Some(prefix)) => IdPrefix::parse(prefix).is_ok_and(|prefix| prefix.matches(id)),
        _ => false,
    }
}

/// The revocations that strike the certificate of a record, and the record in short.
async fn record(ca: &Ca, index: u64) -> Result<(Vec<u64>, RecordSummary), Failure> {
    let request = GetRecordRequest {
        key: Some(get_record_request::Key::Index(index)),
    };
    let answer = ca.ledger().get_record(request).await?.into_inner();
    Ok((answer.revoked_by, answer.summary.unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_are_about_whom_they_name() {
        let id = SpiffeId::parse("spiffe://dev.test/shop/web").unwrap();
        for (rule, about) in [
            ("spiffe-id spiffe://dev.test/shop/web, every one", true),
            ("spiffe-id spiffe://dev.test/shop/web, not before up to 7", true),
            ("spiffe-id spiffe://dev.test/shop/web2, every one", false),
            ("prefix spiffe://dev.test/shop/*, every one", true),
            ("prefix spiffe://dev.test/shops/*, every one", false),
            ("key 00ff, every one", false),
            ("", false),
        ] {
            assert_eq!(names(rule, &id), about, "{rule}");
        }
    }
}
