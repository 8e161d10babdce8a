//! `audit search`, and the filters it shares with the inventory.

use std::time::{SystemTime, UNIX_EPOCH};

use clap::{Args, ValueEnum};
use mintage_identity::{AgentName, EntryName, IdPrefix, Serial, SpiffeId, UnixTime};
use mintage_ledger::{is_about_identity, is_about_prefix};
use mintage_proto::v1::{RecordSummary, RecordsRequest, SearchRequest};

use super::facts::Placed;
use crate::{
    cli::Context,
    client::Ca,
    failure::Failure,
    ledger_row::RecordRow,
    limits::SEARCH_ROWS_DEFAULT,
    paging::{Paging, Rows},
    text::moment,
};

/// What the help of the verbs says about revocations.
pub(super) const REVOCATIONS_HELP: &str = "\
A revocation is found by what it names: the identity, prefix, agent or entry that was asked for, and each serial. One of an \
agent or entry names no identities: `mintage cert holder ID` tells what was revoked of an identity. One of a key, a selector or \
an issuer is found by `--kind revoke`, and by `mintage audit show SERIAL` where it struck that certificate.";

/// Whose records.
#[derive(Args, Debug, Default)]
pub(crate) struct Filter {
    /// About this identity, revocations of a prefix over it included.
    #[arg(long, value_name = "ID")]
    spiffe_id: Option<SpiffeId>,
    /// About an identity below a prefix that ends in /*.
    #[arg(long, value_name = "PREFIX")]
    id_prefix: Option<IdPrefix>,
    /// By or about this agent.
    #[arg(long, value_name = "NAME")]
    agent: Option<AgentName>,
    /// About this entry.
    #[arg(long, value_name = "NAME")]
    entry: Option<EntryName>,
}

impl Filter {
    pub(crate) fn request(&self) -> SearchRequest {
        fn text<T: ToString>(value: &Option<T>) -> String {
            value.as_ref().map(ToString::to_string).unwrap_or_default()
        }
        SearchRequest {
            spiffe_id: text(&self.spiffe_id),
            id_prefix: text(&self.id_prefix),
            agent: text(&self.agent),
            entry: text(&self.entry),
            ..SearchRequest::default()
        }
    }

    fn is_empty(&self) -> bool {
        self.spiffe_id.is_none() && self.id_prefix.is_none() && self.agent.is_none() && self.entry.is_none()
    }

    /// The same conditions, held against a record.
    fn holds(&self, placed: &Placed, serial: Option<&Serial>) -> bool {
        if self.is_empty() && serial.is_none() {
            return true;
        }
        let facts = placed.facts();
        let has = |serial: &Serial| {
            facts.leaf.as_ref().is_some_and(|leaf| leaf.serial() == serial) || facts.revoked.contains(serial)
        };
        let id = &facts.spiffe_id;
        self.spiffe_id
            .as_ref()
            .is_none_or(|wanted| is_about_identity(id, wanted))
            && self.id_prefix.as_ref().is_none_or(|wanted| is_about_prefix(id, wanted))
            && self.agent.as_ref().is_none_or(|name| name.as_str() == facts.agent)
            && self.entry.as_ref().is_none_or(|name| name.as_str() == facts.entry)
            && serial.is_none_or(has)
    }
}

/// State of a certificate.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum State {
    /// Valid and not revoked.
    Live,
    /// Past its end.
    Expired,
    /// Revoked.
    Revoked,
}

/// Which records; every condition that is given must hold.
#[derive(Args, Debug, Default)]
pub(crate) struct Conditions {
    #[command(flatten)]
    filter: Filter,
    /// The certificate with this serial, and its revocations.
    #[arg(long, value_name = "SERIAL")]
    serial: Option<Serial>,
    /// Only these kinds, such as issue, revoke, entry.put (repeatable, or separated by commas).
    #[arg(long = "kind", value_name = "KIND", value_delimiter = ',')]
    kinds: Vec<kind_argument::Known>,
    /// Not before this: 2026-11-23T21:00:00Z, 2026-11-23, or how long ago, such as 15m.
    #[arg(long, value_name = "TIME", value_parser = when)]
    since: Option<UnixTime>,
    /// Not after this, in the same forms.
    #[arg(long, value_name = "TIME", value_parser = when)]
    until: Option<UnixTime>,
}

/// `audit search`.
#[derive(Args, Debug)]
#[command(after_help = REVOCATIONS_HELP)]
pub(crate) struct SearchArgs {
    #[command(flatten)]
    conditions: Conditions,
    /// Only certificates in these states (repeatable, or separated by commas).
    #[arg(long = "state", value_name = "STATE", value_enum, value_delimiter = ',')]
    states: Vec<State>,
    #[command(flatten)]
    paging: Paging,
}

/// The kinds of records, as an argument.
mod kind_argument {
    use std::str::FromStr;

    use mintage_ledger::Kind;
    use mintage_policy::nearest;

    /// A kind that exists.
    #[derive(Clone, Copy, Debug)]
    pub(super) struct Known(pub(super) Kind);

    impl FromStr for Known {
        type Err = String;

        fn from_str(text: &str) -> Result<Self, String> {
            let names: Vec<&str> = Kind::ALL.iter().map(|kind| kind.name()).collect();
            text.parse().map(Self).map_err(|_| match nearest(text, &names) {
                Some(name) => format!("there is no kind {text:?}; the nearest is {name}"),
                None => format!("there is no kind {text:?}; kinds are {}", names.join(", ")),
            })
        }
    }
}

fn when(text: &str) -> Result<UnixTime, String> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    moment(
        text,
        UnixTime::from_millis(i64::try_from(now.as_millis()).unwrap_or(i64::MAX)),
    )
}

impl Conditions {
    /// As a search.
    pub(super) fn request(&self) -> SearchRequest {
        SearchRequest {
            serial: self.serial.as_ref().map(ToString::to_string).unwrap_or_default(),
            kinds: self.kinds(),
            since_ms: self.since.map_or(0, UnixTime::millis),
            until_ms: self.until.map_or(0, UnixTime::millis),
            ..self.filter.request()
        }
    }

    fn kinds(&self) -> Vec<String> {
        self.kinds.iter().map(|kind| kind.0.name().to_owned()).collect()
    }

    /// As a stream of records, which knows kinds and times; the rest is for [`Conditions::hold`].
    pub(super) fn stream(&self, from: u64, follow: bool) -> RecordsRequest {
        RecordsRequest {
            from,
            follow,
            since_ms: self.since.map_or(0, UnixTime::millis),
            until_ms: self.until.map_or(0, UnixTime::millis),
            kinds: self.kinds(),
        }
    }

    /// Whether a record meets all of them.
    pub(super) fn hold(&self, placed: &Placed) -> bool {
        let time = placed.time();
        let in_time = self.since.is_none_or(|since| time >= since) && self.until.is_none_or(|until| time <= until);
        let of_kind = self.kinds.is_empty() || self.kinds.iter().any(|kind| kind.0 == placed.kind());
        in_time && of_kind && self.filter.holds(placed, self.serial.as_ref())
    }
}

impl SearchArgs {
    fn request(&self) -> SearchRequest {
        let state = |state: &State| match state {
            State::Live => "live",
            State::Expired => "expired",
            State::Revoked => "revoked",
        };
        SearchRequest {
            states: self.states.iter().map(|named| state(named).to_owned()).collect(),
            ..self.conditions.request()
        }
    }
}

/// Fetches what a search finds, page by page.
pub(crate) async fn fetch(
    ca: &Ca,
    request: SearchRequest,
    paging: &Paging,
    default: usize,
) -> Result<Rows<RecordSummary>, Failure> {
    let ledger = ca.ledger();
    paging
        .collect(default, async |page| {
            let request = SearchRequest {
                page: Some(page),
                ..request.clone()
            };
            let answer = ledger.clone().search(request).await?.into_inner();
            Ok((answer.records, answer.next))
        })
        .await
}

/// Runs the verb.
pub(super) async fn run(context: &Context, search: &SearchArgs) -> Result<(), Failure> {
    let ca = context.ca().await?;
    let (rows, next) = fetch(&ca, search.request(), &search.paging, SEARCH_ROWS_DEFAULT).await?;
    let rows: Vec<RecordRow> = rows.into_iter().map(Into::into).collect();
    context.output.list("records", &rows, next.as_deref())
}

#[cfg(test)]
mod tests {
    use super::kind_argument::Known;

    #[test]
    fn an_unknown_kind_is_refused_with_the_nearest() {
        assert!("issues".parse::<Known>().unwrap_err().contains("the nearest is issue"));
        assert!("entry.put".parse::<Known>().is_ok());
        assert!("zzzzzz".parse::<Known>().unwrap_err().contains("kinds are issue, deny"));
    }
}
