//! `mintage token`: join tokens, each good for one node.

use std::{
    fs::OpenOptions,
    io::{self, Write},
    net::SocketAddr,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    time::Duration,
};

use clap::{Args, Subcommand};
use mintage_identity::{AgentName, parse_duration};
use mintage_proto::v1::{self, CreateTokenRequest, DeleteTokenRequest, ListTokensRequest};
use serde::Serialize;

use crate::{
    cli::Context,
    client::Ca,
    failure::Failure,
    limits::LIST_ROWS_DEFAULT,
    output::{Row, notice},
    paging::Paging,
    text::{rfc3339, utc},
};

/// What to do with join tokens.
#[derive(Subcommand, Debug)]
pub(crate) enum Verb {
    /// Makes a token by which one node joins. The token alone is printed: send it into a file.
    Create(Create),
    /// Lists the tokens that stand. Their secrets are not known here.
    List(Paging),
    /// Withdraws a token.
    Delete(Delete),
}

/// `token create`.
#[derive(Args, Debug)]
pub(crate) struct Create {
    /// Name of the agent that joins by it.
    #[arg(long, value_name = "NAME")]
    agent: AgentName,
    /// How long it can be used.
    #[arg(long, value_name = "DURATION", default_value = "10m", value_parser = life)]
    ttl: Duration,
    /// Writes the token into a new file (mode 0600) instead of printing it.
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Checks only; no token is made.
    #[arg(long)]
    dry_run: bool,
}

/// `token delete`.
#[derive(Args, Debug)]
pub(crate) struct Delete {
    /// The token's id as `token list` shows it: the beginning of its secret's hash.
    id: String,
    /// Says what would go; nothing is changed.
    #[arg(long)]
    dry_run: bool,
}

fn life(text: &str) -> Result<Duration, String> {
    let life = parse_duration("ttl", text).map_err(|error| error.to_string())?;
    match u32::try_from(life.as_secs()) {
        Ok(1..) => Ok(life),
        _ => Err(format!("{text} is out of range; write 10m or 24h")),
    }
}

#[derive(Serialize)]
struct Created<'a> {
    #[serde(skip_serializing_if = "str::is_empty")]
    token: &'a str,
    id: &'a str,
    agent: &'a str,
    expires: Option<String>,
    index: u64,
    dry_run: bool,
}

#[derive(Serialize)]
struct Deleted {
    #[serde(flatten)]
    token: TokenRow,
    index: u64,
    dry_run: bool,
}

#[derive(Serialize)]
pub(crate) struct TokenRow {
    id: String,
    agent: String,
    created: Option<String>,
    expires: Option<String>,
    used: bool,
    #[serde(skip)]
    times: (i64, i64),
}

impl From<v1::Token> for TokenRow {
    fn from(token: v1::Token) -> Self {
        Self {
            created: rfc3339(token.created_ms),
            expires: rfc3339(token.expires_ms),
            times: (token.created_ms, token.expires_ms),
            id: token.id,
            agent: token.agent,
            used: token.used,
        }
    }
}

impl Row for TokenRow {
    const HEADER: &'static [&'static str] = &["ID", "AGENT", "CREATED", "EXPIRES", "USED"];
    fn cells(&self) -> Vec<String> {
        let used = if self.used { "yes" } else { "no" };
        vec![
            self.id.clone(),
            self.agent.clone(),
            utc(self.times.0),
            utc(self.times.1),
            used.to_owned(),
        ]
    }
}

/// Runs the verb.
pub(crate) async fn run(context: &Context, verb: Verb) -> Result<(), Failure> {
    match verb {
        Verb::Create(create) => make(context, &create).await,
        Verb::List(paging) => {
            let registry = context.ca().await?.registry();
            let (rows, next) = paging
                .collect(LIST_ROWS_DEFAULT, async |page| {
                    let answer = registry
                        .clone()
                        .list_tokens(ListTokensRequest { page: Some(page) })
                        .await?
                        .into_inner();
                    Ok((answer.tokens, answer.next))
                })
                .await?;
            let rows: Vec<TokenRow> = rows.into_iter().map(Into::into).collect();
            context.output.list("tokens", &rows, next.as_deref())
        }
        Verb::Delete(delete) => {
            let request = DeleteTokenRequest {
                id: delete.id,
                dry_run: delete.dry_run,
            };
            let answer = context.ca().await?.registry().delete_token(request).await?.into_inner();
            let deleted = Deleted {
                token: answer.token.unwrap_or_default().into(),
                index: answer.index,
                dry_run: delete.dry_run,
            };
            let done = if deleted.dry_run { "would delete" } else { "deleted" };
            let TokenRow { id, agent, .. } = &deleted.token;
            context
                .output
                .object(&deleted, || format!("{done} token {id} of agent {agent}\n"))
        }
    }
}

async fn make(context: &Context, create: &Create) -> Result<(), Failure> {
    // The CA first, which may not be there; then the file, before the token exists: one that cannot be written would be
    // lost.
    let ca = context.ca().await?;
    let file = create
        .out
        .as_deref()
        .filter(|_| !create.dry_run)
        .map(new_file)
        .transpose()?;
    let agent = create.agent.as_str();
    let request = CreateTokenRequest {
        agent: agent.to_owned(),
        ttl_seconds: i64::try_from(create.ttl.as_secs()).unwrap_or(i64::MAX),
        dry_run: create.dry_run,
    };
    let answer = ca.registry().create_token(request).await;
    let made = answer
        .inspect_err(|_| forget(create.out.as_deref().filter(|_| file.is_some())))?
        .into_inner();
    let kept = match (&create.out, file) {
        (Some(path), Some(mut file)) => {
            let written = writeln!(file, "{}", made.token).and_then(|()| file.sync_all());
            written.map_err(|error| Failure::file(path, format!("the token could not be written: {error}")))?;
            true
        }
        _ => false,
    };
    let shown = Created {
        token: if kept { "" } else { &made.token },
        id: &made.id,
        agent,
        expires: rfc3339(made.expires_ms),
        index: made.index,
        dry_run: create.dry_run,
    };
    context.output.object(&shown, || match create.dry_run || kept {
        true => String::new(),
        false => format!("{}\n", made.token),
    })?;
    tell_of_address(&ca).await;
    match (create.dry_run, &create.out) {
        (true, _) => notice(&format!("a token for agent {agent} could be made")),
        (false, Some(path)) => notice(&told(&made, agent, &path.display().to_string())),
        (false, None) => notice(&told(&made, agent, "FILE")),
    }
    Ok(())
}

/// A token sends its node to the address that the CA advertises, which must be one of a machine.
async fn tell_of_address(ca: &Ca) {
    // The token stands whatever is answered here.
    let Ok(status) = ca.registry().ca_status(v1::CaStatusRequest {}).await else {
        return;
    };
    let address = status.into_inner().agent_address;
    if address
        .parse::<SocketAddr>()
        .is_ok_and(|address| address.ip().is_unspecified())
    {
        notice(&format!(
            "no node can join by it: the CA advertises {address}, which is no machine's address; set \
             advertise = [\"ca.example.org:8443\"] in its configuration, restart it, and make the token anew"
        ));
    }
}

fn told(made: &v1::CreateTokenResponse, agent: &str, file: &str) -> String {
    let (id, until) = (&made.id, utc(made.expires_ms));
    format!(
        "token {id} lets one node join as agent {agent} until {until}; it is shown once. On the node: mintage-agent run \
         --data-dir DIR --join-token-file {file}"
    )
}

fn new_file(path: &Path) -> Result<std::fs::File, Failure> {
    let made = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
    made.map_err(|error| match error.kind() {
        io::ErrorKind::AlreadyExists => Failure::file(path, "exists already; a token is never written over a file"),
        _ => Failure::file(path, format!("cannot be made: {error}")),
    })
}

/// Takes away the file that was made for a token that is not.
fn forget(path: Option<&Path>) {
    if let Some(path) = path {
        // What stays is an empty file.
        let _ = std::fs::remove_file(path);
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_token_is_written_into_a_new_private_file_only() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("token");
        drop(new_file(&path).unwrap());
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        assert!(new_file(&path).unwrap_err().to_string().contains("exists already"));
        forget(Some(&path));
        assert!(!path.exists());
    }

    #[test]
    fn lives_of_nothing_or_of_ages_are_refused() {
        assert!(life("0s").is_err() && life("10").is_err() && life("99999d").is_err());
        assert_eq!(life("10m").unwrap().as_secs(), 600);
    }

    #[test]
    fn a_token_kept_in_a_file_is_not_in_the_json() {
        let shown = Created {
            token: "",
            id: "ab",
            agent: "n1",
            expires: None,
            index: 4,
            dry_run: false,
        };
        let json = serde_json::to_value(&shown).unwrap();
        assert!(json.get("token").is_none() && json["id"] == "ab");
    }
}
