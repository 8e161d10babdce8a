//! `mintage cert`: who holds which certificate now, and one identity with its history.

use std::time::{SystemTime, UNIX_EPOCH};

use clap::{Args, Subcommand, ValueEnum};
use mintage_identity::{UnixTime, parse_duration};
use mintage_proto::v1::SearchRequest;

use crate::{
    audit::search::{self, Filter},
    cli::Context,
    client::Ca,
    failure::Failure,
    holder,
    ledger_row::{CertRow, RevokedRow},
    limits::{LIST_ROWS_DEFAULT, ROWS_MAX},
    output::notice,
    paging::{Paging, Rows},
};

/// What to do with live certificates.
#[derive(Subcommand, Debug)]
pub(crate) enum Verb {
    /// Lists the certificates that are valid now and not revoked, newest first.
    List(List),
    /// Shows who holds an identity now, and what was issued, refused and revoked of it before.
    Holder(holder::HolderArgs),
}

/// In which order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum Sort {
    /// The last issued first.
    #[default]
    Newest,
    /// What ends first, first.
    Expiry,
    /// By SPIFFE ID, and of each what ends first, first.
    Identity,
}

/// `cert list`.
#[derive(Args, Debug)]
pub(crate) struct List {
    #[command(flatten)]
    filter: Filter,
    /// Only certificates that end within this time, such as 5m.
    #[arg(long, value_name = "DURATION", value_parser = from_now)]
    expires_within: Option<UnixTime>,
    /// Lists what is revoked instead, with date and reason, while that is known.
    #[arg(long, conflicts_with_all = ["sort", "expires_within"])]
    revoked: bool,
    /// The order: newest, expiry or identity.
    #[arg(
        long,
        value_name = "ORDER",
        value_enum,
        default_value = "newest",
        hide_possible_values = true
    )]
    sort: Sort,
    #[command(flatten)]
    paging: Paging,
}

/// The moment that lies so far ahead.
fn from_now(text: &str) -> Result<UnixTime, String> {
    let ahead = parse_duration("expires-within", text).map_err(|error| error.to_string())?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let now = UnixTime::from_millis(i64::try_from(now.as_millis()).unwrap_or(i64::MAX));
    Ok(now.plus(ahead))
}

/// A search for certificates that live.
pub(crate) fn live(filter: SearchRequest) -> SearchRequest {
    SearchRequest {
        kinds: vec!["issue".to_owned()],
        states: vec!["live".to_owned()],
        ..filter
    }
}

/// Runs the verb.
pub(crate) async fn run(context: &Context, verb: Verb) -> Result<(), Failure> {
    match verb {
        Verb::List(list) => list.run(context).await,
        Verb::Holder(holder) => holder::run(context, &holder).await,
    }
}

impl List {
    async fn run(&self, context: &Context) -> Result<(), Failure> {
        let request = SearchRequest {
            not_after_until_ms: self.expires_within.map_or(0, UnixTime::millis),
            ..live(self.filter.request())
        };
        let ca = context.ca().await?;
        if self.revoked {
            let request = SearchRequest {
                states: vec!["revoked".to_owned()],
                ..request
            };
            let (rows, next) = search::fetch(&ca, request, &self.paging, LIST_ROWS_DEFAULT).await?;
            let rows: Vec<RevokedRow> = rows.into_iter().map(Into::into).collect();
            return context.output.list("certificates", &rows, next.as_deref());
        }
        let (rows, next) = match self.sort {
            Sort::Newest => {
                let (rows, next) = search::fetch(&ca, request, &self.paging, LIST_ROWS_DEFAULT).await?;
                (rows.into_iter().map(CertRow::from).collect(), next)
            }
            sort => (self.sorted(&ca, request, sort).await?, None),
        };
        context.output.list("certificates", &rows, next.as_deref())
    }

    /// Every certificate, in an order that the CA does not have: all are fetched, and the first of them kept.
    async fn sorted(&self, ca: &Ca, request: SearchRequest, sort: Sort) -> Result<Vec<CertRow>, Failure> {
        if self.paging.goes_on() {
            return Err(Failure::local("--page goes with --sort newest alone; use --limit"));
        }
        let limit = self.paging.limit_or(LIST_ROWS_DEFAULT)?;
        let (rows, next): Rows<_> = search::fetch(ca, request, &Paging::at_most(ROWS_MAX), ROWS_MAX).await?;
        if next.is_some() {
            notice(&format!("only the newest {ROWS_MAX} certificates were looked at"));
        }
        let mut rows: Vec<CertRow> = rows.into_iter().map(Into::into).collect();
        match sort {
            Sort::Identity => rows.sort_by(|a, b| a.spiffe_id.cmp(&b.spiffe_id).then(a.end().cmp(&b.end()))),
            _ => rows.sort_by_key(CertRow::end),
        }
        let more = rows.len().saturating_sub(limit);
        if more > 0 {
            notice(&format!("{more} more: raise --limit"));
        }
        rows.truncate(limit);
        Ok(rows)
    }
}
