//! `audit shards`, `audit roll` and `audit retain`: the logs that the ledger is made of, one after the other.

use std::time::Duration;

use clap::Args;
use mintage_identity::parse_duration;
use mintage_proto::v1::{self, RetainRequest, RollRequest, ShardsRequest};
use serde::Serialize;

use crate::{
    cli::Context,
    failure::Failure,
    output::{Row, fields, table},
    text::utc,
};

/// `audit roll`.
#[derive(Args, Debug)]
pub(crate) struct RollArgs {
    /// Why, as the ledger records it.
    #[arg(long, value_name = "TEXT", default_value = "")]
    reason: String,
    /// Only says which shard would end, and which would begin.
    #[arg(long)]
    dry_run: bool,
}

/// `audit retain`.
#[derive(Args, Debug)]
pub(crate) struct RetainArgs {
    /// Age of a shard's last record from which on its records are given up, such as 2160h for 90 days.
    #[arg(long, value_name = "DURATION", value_parser = age)]
    older_than: Duration,
    /// Also gives up what the object store of the CA's configuration does not have whole.
    #[arg(long)]
    even_if_not_uploaded: bool,
    /// Only says which shards would be given up.
    #[arg(long)]
    dry_run: bool,
}

fn age(text: &str) -> Result<Duration, String> {
    parse_duration("older-than", text).map_err(|error| error.to_string())
}

#[derive(Serialize)]
struct Shard {
    origin: String,
    first: u64,
    records: u64,
    state: String,
    vkey: String,
}

impl From<v1::Shard> for Shard {
    fn from(shard: v1::Shard) -> Self {
        Self {
            origin: shard.origin,
            first: shard.first,
            records: shard.records,
            state: shard.state,
            vkey: shard.vkey,
        }
    }
}

impl Row for Shard {
    const HEADER: &'static [&'static str] = &["ORIGIN", "FIRST", "RECORDS", "STATE", "VKEY"];
    fn cells(&self) -> Vec<String> {
        vec![
            self.origin.clone(),
            self.first.to_string(),
            self.records.to_string(),
            self.state.clone(),
            self.vkey.clone(),
        ]
    }
}

#[derive(Serialize)]
struct Rolled {
    dry_run: bool,
    closed: Option<Shard>,
    begun: Option<Shard>,
}

impl Rolled {
    fn text(&self) -> String {
        let closed = self.closed.as_ref();
        let begun = self.begun.as_ref();
        let ended = |shard: &Shard| format!("{} with {} records", shard.origin, shard.records);
        let begins = |shard: &Shard| format!("{} from record {} on", shard.origin, shard.first);
        fields(&[
            (
                if self.dry_run { "would close" } else { "closed" },
                closed.map(ended).unwrap_or_default(),
            ),
            (
                if self.dry_run { "would begin" } else { "begun" },
                begun.map(begins).unwrap_or_default(),
            ),
            ("vkey", begun.map(|shard| shard.vkey.clone()).unwrap_or_default()),
        ])
    }
}

#[derive(Serialize)]
struct Retained {
    dry_run: bool,
    released: Vec<Shard>,
    /// Old enough, and kept because the configured object store does not have them whole.
    withheld: Vec<Shard>,
    /// The oldest of the other shards, why it stays, and the time that belongs to that.
    oldest_kept: String,
    kept_because: String,
    kept_time_ms: i64,
}

impl Retained {
    fn text(&self) -> String {
        let mut text = match (self.released.is_empty(), self.dry_run) {
            (true, _) if !self.withheld.is_empty() => String::new(),
            (true, _) => "no shard is given up: each must be closed, sealed, that old and without a live certificate\n"
                .to_owned(),
            (false, true) => format!("these would be given up:\n{}", listed(&self.released)),
            (false, false) => format!(
                "given up; checkpoints, upper tiles and state stay:\n{}",
                listed(&self.released)
            ),
        };
        if !self.withheld.is_empty() {
            text.push_str(
                "kept until the object store has them whole (--even-if-not-uploaded gives them up without):\n",
            );
            text.push_str(&listed(&self.withheld));
        }
        if !self.oldest_kept.is_empty() {
            text.push_str(&format!("{} stays: {}\n", self.oldest_kept, self.why()));
        }
        text
    }

    fn why(&self) -> String {
        let time = utc(self.kept_time_ms);
        match self.kept_because.as_str() {
            "written" => "it is the one that is written; `mintage audit roll` closes it".to_owned(),
            "not-sealed" => "it is not all sealed yet, which goes on in the background".to_owned(),
            "young" => format!("its last record is of {time}"),
            "live" => format!("a certificate that it issued is valid until {time}"),
            other => other.to_owned(),
        }
    }
}

fn listed(shards: &[Shard]) -> String {
    table(Shard::HEADER, shards.iter().map(Row::cells))
}

/// Lists the shards.
pub(super) async fn list(context: &Context) -> Result<(), Failure> {
    let answer = context
        .ca()
        .await?
        .ledger()
        .shards(ShardsRequest {})
        .await?
        .into_inner();
    let rows: Vec<Shard> = answer.shards.into_iter().map(Into::into).collect();
    context.output.list("shards", &rows, None)
}

/// Closes the shard that is written and begins the next.
pub(super) async fn roll(context: &Context, args: RollArgs) -> Result<(), Failure> {
    let request = RollRequest {
        reason: args.reason,
        dry_run: args.dry_run,
    };
    let answer = context.ca().await?.ledger().roll(request).await?.into_inner();
    let rolled = Rolled {
        dry_run: args.dry_run,
        closed: answer.closed.map(Into::into),
        begun: answer.begun.map(Into::into),
    };
    context.output.object(&rolled, || rolled.text())
}

/// Gives up the records of old shards.
pub(super) async fn retain(context: &Context, args: RetainArgs) -> Result<(), Failure> {
    let request = RetainRequest {
        older_than_seconds: args.older_than.as_secs(),
        dry_run: args.dry_run,
        even_if_not_uploaded: args.even_if_not_uploaded,
    };
    let answer = context.ca().await?.ledger().retain(request).await?.into_inner();
    let retained = Retained {
        dry_run: args.dry_run,
        released: answer.released.into_iter().map(Into::into).collect(),
        withheld: answer.withheld.into_iter().map(Into::into).collect(),
        oldest_kept: answer.oldest_kept,
        kept_because: answer.kept_because,
        kept_time_ms: answer.kept_time_ms,
    };
    context.output.object(&retained, || retained.text())
}
