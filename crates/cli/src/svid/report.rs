//! `mintage svid report`: tells the agent of certificates that peers were seen with. One that the ledger does not hold is
//! recorded as an alarm: that is how a stolen key of the CA shows.

use std::path::PathBuf;

use clap::Args;
use mintage_proto::v1::{ReportSeenRequest, SeenChain, agent_local_client::AgentLocalClient};
use mintage_svid::pem::decode_certificates;
use mintage_sys::text_file;
use serde::Serialize;

use super::answer::refused;
use crate::{
    cli::Context,
    endpoint::Endpoint,
    failure::Failure,
    limits::{SEEN_CHAINS_MAX, SVID_FILE_BYTES_MAX, WORKLOAD_FIRST_WAIT},
    output::Row,
};

/// `svid report`.
#[derive(Args, Debug)]
pub(crate) struct Report {
    /// PEM files with one peer's chain each, leaf first, as the peer sent it; at most 16.
    #[arg(required = true, num_args = 1..=SEEN_CHAINS_MAX)]
    files: Vec<PathBuf>,
}

#[derive(Serialize)]
struct Reported {
    file: String,
    /// Whether the agent passes it on, or has done so a short while ago.
    taken: bool,
    known: bool,
    problem: String,
}

impl Row for Reported {
    const HEADER: &'static [&'static str] = &["FILE", "REPORTED"];
    fn cells(&self) -> Vec<String> {
        let told = match (self.taken, self.known) {
            (true, false) => "yes".to_owned(),
            (true, true) => "a short while ago".to_owned(),
            (false, _) => format!("no: {}", self.problem),
        };
        vec![self.file.clone(), told]
    }
}

/// Runs the verb.
pub(super) async fn run(context: &Context, report: &Report) -> Result<(), Failure> {
    let chains = report.files.iter().map(|file| {
        let told = |problem: String| Failure::file(file, problem);
        let text = text_file::read(file, SVID_FILE_BYTES_MAX).map_err(|problem| told(problem.to_string()))?;
        let certificates = decode_certificates(&text).map_err(|error| told(error.to_string()))?;
        Ok(SeenChain { certificates })
    });
    let chains = chains.collect::<Result<Vec<_>, Failure>>()?;
    let mut client = AgentLocalClient::new(Endpoint::of(context)?.connect().await?);
    let answered = tokio::time::timeout(WORKLOAD_FIRST_WAIT, client.report_seen(ReportSeenRequest { chains })).await;
    let results = answered
        .map_err(|_| Failure::Remote("the agent did not answer in time; see its log".to_owned()))?
        .map_err(|status| refused(&status))?
        .into_inner()
        .results;
    if results.len() != report.files.len() {
        return Err(Failure::Remote(
            "the agent answered for other chains than were sent; see its log".to_owned(),
        ));
    }
    let rows: Vec<Reported> = report
        .files
        .iter()
        .zip(results)
        .map(|(file, result)| Reported {
            file: file.display().to_string(),
            taken: result.problem.is_empty(),
            known: result.known,
            problem: result.problem,
        })
        .collect();
    context.output.list("reported", &rows, None)?;
    match rows.iter().all(|row| row.taken) {
        true => Ok(()),
        false => Err(Failure::No(
            "not every chain was taken; the reasons stand beside the files".to_owned(),
        )),
    }
}
