//! `mintage svid`: a workload's own view. What the node's agent gives to this very process, once or as it changes, and
//! what stands in a certificate.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use mintage_proto::workload::{JwtsvidRequest, X509svidRequest, spiffe_workload_api_client::SpiffeWorkloadApiClient};
use serde::Serialize;
use tonic::transport::Channel;

use crate::{
    cli::Context,
    endpoint::{Endpoint, spiffe},
    failure::Failure,
    limits::{WORKLOAD_BYTES_MAX, WORKLOAD_FIRST_WAIT},
    output::{Row, write},
};

pub(crate) mod answer;
pub(crate) mod files;
mod inspect;
mod report;
mod watch;

use answer::{Answer, TAG, refused};

/// What to do with SVIDs. `--socket` is the agent's here.
#[derive(Subcommand, Debug)]
pub(crate) enum Verb {
    /// Fetches this process's SVIDs from the agent, once.
    Fetch(Fetch),
    /// Shows this process's X509-SVIDs, and again at each change, until Ctrl-C.
    Watch(watch::Watch),
    /// Shows what stands in a certificate or key-first file, offline.
    Inspect(inspect::Inspect),
    /// Reports certificates that peers were seen with; one that the ledger does not hold becomes an alarm.
    Report(report::Report),
}

/// `svid fetch`.
#[derive(Args, Debug)]
pub(crate) struct Fetch {
    /// A JWT-SVID for this audience instead, its token alone on a line; may be given more than once.
    #[arg(long, value_name = "AUDIENCE", conflicts_with = "write")]
    audience: Vec<String>,
    /// Only this identity.
    #[arg(long, value_name = "ID")]
    spiffe_id: Option<String>,
    /// Writes svid.pem, svid_key.pem and svid_bundle.pem into this folder, as one generation: of --spiffe-id, else of the
    /// identity whose files lie there, else of the first one. Files of an identity that is not given any more stay.
    #[arg(long, value_name = "DIR")]
    write: Option<PathBuf>,
}

#[derive(Serialize)]
struct JwtRow {
    spiffe_id: String,
    token: String,
    hint: String,
}

impl Row for JwtRow {
    const HEADER: &'static [&'static str] = &["SPIFFE ID", "TOKEN"];
    fn cells(&self) -> Vec<String> {
        vec![self.spiffe_id.clone(), self.token.clone()]
    }
}

/// Runs the verb.
pub(crate) async fn run(context: &Context, verb: Verb) -> Result<(), Failure> {
    match verb {
        Verb::Inspect(inspect) => inspect::run(context, &inspect),
        Verb::Report(report) => report::run(context, &report).await,
        Verb::Fetch(fetch) if !fetch.audience.is_empty() => fetch_jwt(context, fetch).await,
        Verb::Fetch(fetch) => fetch_x509(context, fetch).await,
        Verb::Watch(watch) => watch::run(context, watch).await,
    }
}

/// A client of the Workload API there.
pub(crate) async fn client(endpoint: Endpoint) -> Result<SpiffeWorkloadApiClient<Channel>, Failure> {
    let channel = endpoint.connect().await?;
    Ok(SpiffeWorkloadApiClient::new(channel).max_decoding_message_size(WORKLOAD_BYTES_MAX))
}

async fn fetch_x509(context: &Context, fetch: Fetch) -> Result<(), Failure> {
    let mut client = client(Endpoint::of(context)?).await?;
    let asked = async {
        let mut stream = client.fetch_x509svid(spiffe(X509svidRequest {})).await?.into_inner();
        stream.message().await
    };
    let first = tokio::time::timeout(WORKLOAD_FIRST_WAIT, asked)
        .await
        .map_err(|_| Failure::Remote("the agent did not answer in time; see its log".to_owned()))?
        .map_err(|status| refused(&status))?
        .ok_or_else(|| Failure::Remote("the agent ended the stream without an answer; try again".to_owned()))?;
    let mut answer = Answer::read(first)?;
    if let Some(wanted) = &fetch.spiffe_id {
        answer.svids.retain(|svid| svid.row.spiffe_id == *wanted);
        if answer.svids.is_empty() {
            return Err(Failure::No(format!(
                "the agent gives this process no {wanted}; without --spiffe-id it lists what it gives"
            )));
        }
    }
    if let Some(folder) = &fetch.write {
        let pinned = files::pinned(fetch.spiffe_id.as_deref(), Some(folder), TAG)?;
        let none = || {
            Failure::No(format!(
                "{} holds {}, which the agent does not give to this process; its files stay, and --spiffe-id ID writes another",
                folder.display(),
                pinned.as_deref().unwrap_or_default()
            ))
        };
        answer.chosen(pinned.as_deref()).ok_or_else(none)?.write(folder)?;
    }
    context.output.list("svids", &answer.into_rows(), None)
}

async fn fetch_jwt(context: &Context, fetch: Fetch) -> Result<(), Failure> {
    let request = JwtsvidRequest {
        audience: fetch.audience,
        spiffe_id: fetch.spiffe_id.unwrap_or_default(),
    };
    let mut client = client(Endpoint::of(context)?).await?;
    let answered = tokio::time::timeout(WORKLOAD_FIRST_WAIT, client.fetch_jwtsvid(spiffe(request))).await;
    let svids = answered
        .map_err(|_| Failure::Remote("the agent did not answer in time; see its log".to_owned()))?
        .map_err(|status| refused(&status))?
        .into_inner()
        .svids;
    // A mandatory field that is empty makes the answer void (SPIFFE Workload API, section 5.2).
    if svids.is_empty()
        || svids
            .iter()
            .any(|svid| svid.spiffe_id.is_empty() || svid.svid.is_empty())
    {
        return Err(Failure::Remote(
            "the agent's answer lacks a token; it is no Workload API".to_owned(),
        ));
    }
    let rows: Vec<JwtRow> = svids
        .into_iter()
        .map(|svid| JwtRow {
            spiffe_id: svid.spiffe_id,
            token: svid.svid,
            hint: svid.hint,
        })
        .collect();
    match context.output.is_table() {
        // For `TOKEN=$(mintage svid fetch --audience A)`.
        true => write(&rows.iter().map(|row| format!("{}\n", row.token)).collect::<String>()),
        false => context.output.list("svids", &rows, None),
    }
}
