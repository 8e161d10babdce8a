//! `mintage cert list`: who holds which certificate now.

use clap::Subcommand;

use crate::{
    audit::search::{self, Filter},
    cli::Context,
    failure::Failure,
    ledger_row::CertRow,
    limits::LIST_ROWS_DEFAULT,
    paging::Paging,
};

/// What to do with live certificates.
#[derive(Subcommand, Debug)]
pub(crate) enum Verb {
    /// Lists the certificates that are valid now and not revoked, newest first.
    List(List),
}

/// `cert list`.
#[derive(clap::Args, Debug)]
pub(crate) struct List {
    #[command(flatten)]
    filter: Filter,
    #[command(flatten)]
    paging: Paging,
}

/// Runs the verb.
pub(crate) async fn run(context: &Context, verb: Verb) -> Result<(), Failure> {
    let Verb::List(list) = verb;
    let mut request = list.filter.request();
    request.kinds = vec!["issue".to_owned()];
    request.states = vec!["live".to_owned()];
    let ca = context.ca().await?;
    let (rows, next) = search::fetch(&ca, request, &list.paging, LIST_ROWS_DEFAULT).await?;
    let rows: Vec<CertRow> = rows.into_iter().map(Into::into).collect();
    context.output.list("certificates", &rows, next.as_deref())
}
