//! `mintage explain`: on a node, what a process shows to the agent, which entries that matches, and for each other one the
//! selector that failed. The agent looks; what it says is what it would refuse the process with.

use std::fmt::Write;

use clap::Args;
use mintage_proto::v1::{
    ExplainRequest, ExplainResponse, agent_local_client::AgentLocalClient, explain_request::Subject,
};
use serde::Serialize;
use tonic::{Code, Status};

use crate::{
    cli::Context,
    endpoint::Endpoint,
    failure::Failure,
    limits::{ANSWER_BYTES_MAX, WORKLOAD_FIRST_WAIT},
    output::{Row, fields, table},
};

/// `explain`.
#[derive(Args, Debug)]
pub(crate) struct Explain {
    /// This process, of one's own user or as root [default: this very command].
    #[arg(long, value_name = "PID", conflicts_with = "uid", value_parser = clap::value_parser!(i32).range(1..))]
    pid: Option<i32>,
    /// Any process of this user, of which nothing but its user is known.
    #[arg(long, value_name = "UID")]
    uid: Option<u32>,
}

/// What one entry says to a workload.
#[derive(Serialize)]
pub(crate) struct ExplanationRow {
    pub(crate) name: String,
    pub(crate) spiffe_id: String,
    pub(crate) matches: bool,
    pub(crate) why_not: String,
}

impl Row for ExplanationRow {
    const HEADER: &'static [&'static str] = &["NAME", "MATCHES", "SPIFFE ID", "WHY NOT"];
    fn cells(&self) -> Vec<String> {
        let matches = if self.matches { "yes" } else { "no" };
        vec![
            self.name.clone(),
            matches.to_owned(),
            self.spiffe_id.clone(),
            self.why_not.clone(),
        ]
    }
}

#[derive(Serialize)]
struct Explained {
    /// None for a user.
    pid: Option<i32>,
    uid: u32,
    selectors: Vec<String>,
    /// How the process was held; none for a user.
    method: Option<String>,
    approximate: Vec<String>,
    entries: Vec<ExplanationRow>,
}

/// Runs the verb.
pub(crate) async fn run(context: &Context, explain: &Explain) -> Result<(), Failure> {
    let subject = match (explain.pid, explain.uid) {
        (Some(pid), _) => Some(Subject::Pid(pid)),
        (None, uid) => uid.map(Subject::Uid),
    };
    let endpoint = Endpoint::of(context)?;
    let mut agent = AgentLocalClient::new(endpoint.connect().await?).max_decoding_message_size(ANSWER_BYTES_MAX);
    let answered = tokio::time::timeout(WORKLOAD_FIRST_WAIT, agent.explain(ExplainRequest { subject }));
    let answer = answered
        .await
        .map_err(|_| Failure::Remote("the agent did not answer in time; see its log".to_owned()))?
        .map_err(|status| refused(&status))?;
    let explained = Explained::of(answer.into_inner());
    context.output.object(&explained, || explained.told())?;
    match explained.entries.iter().any(|row| row.matches) {
        true => Ok(()),
        false => Err(Failure::No("no entry of this agent matches".to_owned())),
    }
}

fn refused(status: &Status) -> Failure {
    let why = status.message();
    match status.code() {
        Code::PermissionDenied | Code::FailedPrecondition => Failure::No(why.to_owned()),
        Code::Unimplemented => {
            Failure::Remote("the agent does not know this call; it is older than this program".to_owned())
        }
        Code::Unavailable | Code::ResourceExhausted => {
            Failure::Remote(format!("the agent cannot answer now: {why}; try again"))
        }
        code => Failure::Remote(format!("the agent refuses: {why} ({code:?})")),
    }
}

impl Explained {
    fn of(answer: ExplainResponse) -> Self {
        let entries = answer.entries.into_iter();
        let mut entries: Vec<ExplanationRow> = entries
            .map(|entry| ExplanationRow {
                name: entry.name,
                spiffe_id: entry.spiffe_id,
                matches: entry.matches,
                why_not: entry.why_not,
            })
            .collect();
        // What the workload gets stands first.
        entries.sort_by_key(|row| !row.matches);
        Self {
            pid: Some(answer.pid).filter(|pid| *pid != 0),
            uid: answer.uid,
            selectors: answer.selectors,
            method: Some(answer.method).filter(|method| !method.is_empty()),
            approximate: answer.approximate,
            entries,
        }
    }

    fn told(&self) -> String {
        let subject = match (self.pid, &self.method) {
            (Some(pid), Some(method)) => format!("process {pid} of user {}, held by {method}", self.uid),
            (Some(pid), None) => format!("process {pid} of user {}", self.uid),
            (None, _) => format!("user {}", self.uid),
        };
        let mut text = fields(&[("subject", subject), ("shows", self.selectors.join(" "))]);
        for note in &self.approximate {
            let _ = writeln!(text, "about: {note}");
        }
        text.push('\n');
        text + &table(ExplanationRow::HEADER, self.entries.iter().map(Row::cells))
    }
}

#[cfg(test)]
mod tests {
    use mintage_proto::v1::WhoAmIEntry;

    use super::*;

    #[test]
    fn what_matches_stands_first_and_what_is_uncertain_is_said() {
        let entry = |name: &str, why_not: &str| WhoAmIEntry {
            name: name.to_owned(),
            spiffe_id: format!("spiffe://dev.test/{name}"),
            matches: why_not.is_empty(),
            why_not: why_not.to_owned(),
        };
        let told = Explained::of(ExplainResponse {
            pid: 0,
            uid: 7,
            selectors: vec!["unix:uid:7".to_owned()],
            entries: vec![entry("a", "a needs unix:uid:8"), entry("b", "")],
            method: String::new(),
            approximate: vec!["only the user".to_owned()],
        })
        .told();
        let lines: Vec<&str> = told.lines().collect();
        assert!(
            lines[0].ends_with("user 7") && lines[1].ends_with("unix:uid:7"),
            "{told}"
        );
        assert_eq!(lines[2], "about: only the user");
        assert!(
            lines[5].starts_with("b ") && lines[6].ends_with("a needs unix:uid:8"),
            "{told}"
        );
    }

    #[test]
    fn a_refusal_is_a_no_and_an_older_agent_is_told_apart() {
        assert_eq!(refused(&Status::failed_precondition("process 7: ended")).code(), 3);
        assert_eq!(refused(&Status::unavailable("x")).code(), 2);
        assert!(refused(&Status::unimplemented("x")).to_string().contains("older"));
    }
}
