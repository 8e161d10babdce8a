//! The command line, and what it asks for once every value has been checked.

use std::{collections::BTreeSet, path::PathBuf};

use clap::Parser;
use mintage_identity::{SpiffeId, TrustDomain, UnixTime};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use crate::failure::Failure;

/// The only trust domain there is here.
pub(crate) const DOMAIN: &str = "dev.test";
/// Most leaves of one run: enough for a demonstration of every kind.
const LEAVES_MAX: usize = 64;
/// Longest stem of a file name: room for a suffix below the 255 bytes of a file system.
const STEM_BYTES_MAX: usize = 128;
/// Latest start: ten years later the dates are still in what X.509's UTCTime can tell (RFC 5280, section 4.1.2.5).
const LATEST_START_YEAR: i32 = 2039;

/// Generate a development root, an intermediate and leaves under dev.test.
#[derive(Debug, Parser)]
#[command(name = "mintage-certs-dev", version)]
pub(crate) struct Args {
    /// Where to write; git ignores the default place.
    #[arg(long, value_name = "DIR", default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/out"))]
    out: PathBuf,
    /// First second of validity; all other dates follow from it.
    #[arg(long, value_name = "TIME", default_value = "2026-01-01T00:00:00Z")]
    not_before: String,
    /// Path of a leaf's SPIFFE ID; may be given again.
    #[arg(long = "leaf", value_name = "PATH", default_values = ["/demo/web", "/demo/db"])]
    leaves: Vec<String>,
    /// Anything but dev.test is refused.
    #[arg(long, value_name = "NAME", default_value = DOMAIN)]
    trust_domain: String,
    /// Replace what an earlier run has written.
    #[arg(long)]
    force: bool,
}

/// What is asked for.
#[derive(Debug)]
pub(crate) struct Wanted {
    pub(crate) out: PathBuf,
    pub(crate) domain: TrustDomain,
    pub(crate) not_before: UnixTime,
    pub(crate) leaves: Vec<WantedLeaf>,
    pub(crate) force: bool,
}

/// One leaf.
#[derive(Debug)]
pub(crate) struct WantedLeaf {
    pub(crate) id: SpiffeId,
    /// File name without its suffix.
    pub(crate) stem: String,
}

impl Args {
    /// Checks every value.
    pub(crate) fn checked(&self) -> Result<Wanted, Failure> {
        let domain = TrustDomain::parse(&self.trust_domain)?;
        if domain.as_str() != DOMAIN {
            return Err(Failure::OtherDomain(domain));
        }
        if self.leaves.len() > LEAVES_MAX {
            return Err(Failure::TooMany {
                count: self.leaves.len(),
                limit: LEAVES_MAX,
            });
        }
        // The names of the CA's own files are taken.
        let mut taken = BTreeSet::from(["root".to_owned(), "intermediate".to_owned(), "bundle".to_owned()]);
        let mut leaves = Vec::with_capacity(self.leaves.len());
        for path in &self.leaves {
            let leaf = WantedLeaf::new(&domain, path)?;
            if !taken.insert(leaf.stem.clone()) {
                return Err(Failure::SameFile(path.clone()));
            }
            leaves.push(leaf);
        }
        Ok(Wanted {
            out: self.out.clone(),
            domain,
            not_before: date(&self.not_before)?,
            leaves,
            force: self.force,
        })
    }
}

impl WantedLeaf {
    fn new(domain: &TrustDomain, path: &str) -> Result<Self, Failure> {
        if !path.starts_with('/') {
            return Err(Failure::Leaf(path.to_owned()));
        }
        let id = SpiffeId::parse_workload(&format!("{}{path}", domain.id()))?;
        // Segments have no slash and are never . or ..; a leading dot or dash would still surprise a shell.
        let stem = id.segments().collect::<Vec<_>>().join("-");
        if stem.len() > STEM_BYTES_MAX || !stem.starts_with(|c: char| c.is_ascii_alphanumeric()) {
            return Err(Failure::Leaf(path.to_owned()));
        }
        Ok(Self { id, stem })
    }
}

fn date(text: &str) -> Result<UnixTime, Failure> {
    let parsed = OffsetDateTime::parse(text, &Rfc3339).ok();
    let fits = parsed
        .filter(|date| date.unix_timestamp() >= 0 && date.to_offset(time::UtcOffset::UTC).year() <= LATEST_START_YEAR);
    match fits {
        Some(date) => Ok(UnixTime::from_seconds(date.unix_timestamp())),
        None => Err(Failure::Date { text: text.to_owned() }),
    }
}
