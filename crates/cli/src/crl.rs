//! `mintage revocation crl`: the lists of revoked certificates (RFC 5280), shown or written to files.

use std::path::{Path, PathBuf};

use clap::Args;
use mintage_identity::IssuerKeyId;
use mintage_proto::{CrlAssembly, issuer_key_id, v1::WatchCrlsRequest};
use mintage_svid::{
    Crl,
    limits::CRL_BYTES_MAX,
    pem::{Label, encode},
};
use serde::Serialize;

use crate::{
    cli::Context,
    failure::Failure,
    held::{Held, public_folder},
    limits::CRLS_MAX,
    output::Row,
    text::{rfc3339, utc},
};

/// Which lists, and where they go.
#[derive(Args, Debug)]
pub(crate) struct Wanted {
    /// Only the list of this CA key, by its id as `mintage ca status` shows it.
    #[arg(long, value_name = "KEYID")]
    issuer: Option<IssuerKeyId>,
    /// Write each list to `<key id>.crl` (DER) in this folder, for everybody to read, and without --issuer all of them to
    /// `crl.pem`.
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

#[derive(Serialize)]
struct CrlRow {
    issuer: String,
    number: u64,
    this_update: Option<String>,
    next_update: Option<String>,
    entries: usize,
    pem: String,
    #[serde(skip)]
    ends: i64,
}

impl Row for CrlRow {
    const HEADER: &'static [&'static str] = &["ISSUER KEY", "NUMBER", "CERTIFICATES", "NEXT UPDATE"];
    fn cells(&self) -> Vec<String> {
        vec![
            self.issuer.clone(),
            self.number.to_string(),
            self.entries.to_string(),
            utc(self.ends),
        ]
    }
}

/// Runs the verb.
pub(crate) async fn run(context: &Context, wanted: Wanted) -> Result<(), Failure> {
    let mut lists = fetch(context).await?;
    if let Some(issuer) = &wanted.issuer {
        lists.retain(|(signer, _)| signer == issuer);
        if lists.is_empty() {
            let told = format!("the CA has no list of key {issuer}; `mintage revocation crl` shows those it has");
            return Err(Failure::No(told));
        }
    }
    if let Some(folder) = &wanted.out {
        save(folder, &lists, wanted.issuer.is_none())?;
    }
    let rows: Vec<CrlRow> = lists
        .iter()
        .map(|(issuer, list)| CrlRow {
            issuer: issuer.to_string(),
            number: list.number(),
            this_update: rfc3339(list.this_update().millis()),
            next_update: rfc3339(list.next_update().millis()),
            entries: list.entries(),
            pem: encode(Label::Crl, list.der()).to_string(),
            ends: list.next_update().millis(),
        })
        .collect();
    context.output.list("crls", &rows, None)
}

/// Every current list. Lengths are believed only as far as the limits.
async fn fetch(context: &Context) -> Result<Vec<(IssuerKeyId, Crl)>, Failure> {
    let mut client = context.ca().await?.crls();
    let mut chunks = client.watch(WatchCrlsRequest { once: true }).await?.into_inner();
    let bad = |why: String| Failure::Remote(format!("the CA sent a bad list of revoked certificates: {why}"));
    let mut lists = Vec::new();
    let mut parts = CrlAssembly::new(CRL_BYTES_MAX);
    let mut is_whole = false;
    while let Some(chunk) = chunks.message().await? {
        let issuer = issuer_key_id("issuer_key_id", &chunk.issuer_key_id).map_err(|error| bad(error.to_string()))?;
        let is_last = chunk.is_last;
        let list = parts.add(chunk).map_err(bad)?;
        is_whole = list.is_some() && is_last;
        if let Some(der) = list {
            let list = Crl::parse(&der).map_err(|error| bad(error.to_string()))?;
            if lists.len() == CRLS_MAX {
                return Err(bad(format!("there are more than {CRLS_MAX}")));
            }
            lists.push((issuer, list));
        }
    }
    match is_whole {
        true => Ok(lists),
        false => Err(bad("it ended early".to_owned())),
    }
}

/// The lists one by one, and `whole` ones, which are all there are, in one file too: a server that reads `crl.pem` would
/// refuse every peer for want of a list.
fn save(folder: &Path, lists: &[(IssuerKeyId, Crl)], whole: bool) -> Result<(), Failure> {
    public_folder(folder)?;
    let mut all = String::new();
    for (issuer, list) in lists {
        all.push_str(&encode(Label::Crl, list.der()));
        Held::publish(&folder.join(format!("{issuer}.crl")), list.der())?;
    }
    match whole {
        true => Held::publish(&folder.join("crl.pem"), all.as_bytes()),
        false => Ok(()),
    }
}
