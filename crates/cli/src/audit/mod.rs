//! `mintage audit`: the ledger searched, shown, proven and verified.

mod check;
mod describe;
mod diff;
pub(crate) mod export;
mod export_tiles;
mod facts;
mod kept;
pub(crate) mod offline;
mod progress;
mod proof;
pub(crate) mod search;
mod shards;
mod show;
mod source;
mod tail;
mod trust;
pub(crate) mod verify;

use std::{convert::Infallible, str::FromStr};

use clap::Subcommand;
use mintage_identity::Serial;

use crate::{cli::Context, failure::Failure};

/// What to ask of the ledger.
#[derive(Subcommand, Debug)]
pub(crate) enum Verb {
    /// Searches the records, newest first.
    Search(search::SearchArgs),
    /// Shows one record whole: certificate, entry, selectors, decision, agent, revocations.
    Show {
        /// A certificate's serial in hexadecimal, or a record's index.
        #[arg(value_name = "SERIAL|INDEX")]
        record: Key,
    },
    /// Shows the newest records, a line each, and with -f every one as it is recorded.
    Tail(tail::TailArgs),
    /// Writes records for other programs: as JSON lines, CSV, OCSF or ECS events, or Parquet.
    Export(export::ExportArgs),
    /// Compares two ledgers, each verified as it is read: equal, one a beginning of the other, or forked.
    Diff(diff::DiffArgs),
    /// Proves that a record is in the ledger, as a C2SP tlog-proof that is verified here before it is printed.
    Proof(proof::ProofArgs),
    /// Checks a certificate against its proof, offline, with the keys you trust.
    Check(check::CheckArgs),
    /// Writes the ledger as a plain C2SP tlog-tiles tree that other verifiers read.
    ExportTiles(export_tiles::ExportTilesArgs),
    /// Lists the shards of the ledger: one log after the other, each with a key of its own.
    Shards,
    /// Closes the shard that is written and begins the next.
    Roll(shards::RollArgs),
    /// Gives up the records of old shards; checkpoints, upper tiles and the state stay.
    Retain(shards::RetainArgs),
    /// Verifies a ledger or an exported tree offline: every hash, tile and signature, then what the records mean.
    Verify(verify::VerifyArgs),
}

/// A record, as people name it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Key {
    /// By its place.
    Index(u64),
    /// By the serial of its certificate.
    Serial(Serial),
    /// Neither; told when it is used.
    Neither(String),
}

/// Longest number that is taken for an index; serials made here have 32 digits.
const INDEX_DIGITS_MAX: usize = 19;

impl FromStr for Key {
    type Err = Infallible;

    fn from_str(text: &str) -> Result<Self, Infallible> {
        let neither = || Self::Neither(text.to_owned());
        let serial = |text: &str| Serial::parse(text).map_or_else(|_| neither(), Self::Serial);
        let index = |text: &str| text.parse().map_or_else(|_| neither(), Self::Index);
        let digits = text.len() <= INDEX_DIGITS_MAX && text.bytes().all(|octet| octet.is_ascii_digit());
        Ok(match (text.strip_prefix("serial:"), text.strip_prefix("index:")) {
            (Some(text), _) => serial(text),
            (_, Some(text)) => index(text),
            _ if digits && !text.is_empty() => index(text),
            _ => serial(text),
        })
    }
}

impl Key {
    fn refused(text: &str) -> Failure {
        Failure::local(format!(
            "{text:?} is neither a serial in hexadecimal nor a record's index; write serial:4f.. or index:42 to say which"
        ))
    }
}

/// Runs the verb.
pub(crate) async fn run(context: &Context, verb: Verb) -> Result<(), Failure> {
    match verb {
        Verb::Search(search) => search::run(context, &search).await,
        Verb::Show { record } => show::run(context, record).await,
        Verb::Tail(tail) => tail::run(context, &tail).await,
        Verb::Export(export) => export::run(context, &export).await,
        Verb::Diff(diff) => diff::run(context, &diff).await,
        Verb::Proof(proof) => proof::run(context, proof).await,
        Verb::Check(check) => check::run(context, &check),
        Verb::ExportTiles(export) => export_tiles::run(context, &export),
        Verb::Shards => shards::list(context).await,
        Verb::Roll(roll) => shards::roll(context, roll).await,
        Verb::Retain(retain) => shards::retain(context, retain).await,
        Verb::Verify(verify) => verify::run(context, &verify),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_numbers_are_indices_and_the_rest_serials() {
        let key = |text: &str| text.parse::<Key>().unwrap();
        let serial = |text: &str| Key::Serial(Serial::parse(text).unwrap());
        assert_eq!(key("42"), Key::Index(42));
        assert_eq!(key("serial:42"), serial("42"));
        assert_eq!(key("index:42"), Key::Index(42));
        assert_eq!(key("4f00"), serial("4f00"));
        assert_eq!(
            key("40123456789012345678901234567890"),
            serial("40123456789012345678901234567890")
        );
        for bad in [
            "",
            "web",
            "index:x",
            "serial:",
            "99999999999999999999999999999999999999999999",
        ] {
            assert_eq!(key(bad), Key::Neither(bad.to_owned()));
        }
    }
}
