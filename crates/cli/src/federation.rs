//! `mintage bundle federate` and `mintage bundle federated`: bundles of other trust domains, whose identities workloads accept
//! where their entries say so.

use std::{
    fs::File,
    io::{self, Read},
    path::{Path, PathBuf},
};

use clap::{Args, Subcommand, ValueEnum};
use mintage_identity::TrustDomain;
use mintage_proto::{
    limits::FEDERATED_DOCUMENT_BYTES_MAX,
    v1::{FederatedBundle, ListFederatedRequest, RemoveFederatedRequest, SetFederatedRequest},
};
use mintage_svid::cert_sha256;
use serde::Serialize;

use crate::{
    cli::Context,
    failure::Failure,
    output::{Row, fields, notice},
    text::count,
};

/// `bundle federate`.
#[derive(Args, Debug)]
pub(crate) struct Federate {
    /// The other trust domain.
    #[arg(long, value_name = "TD")]
    trust_domain: TrustDomain,
    /// Its SPIFFE bundle document, or its root certificates in PEM; - reads standard input.
    file: PathBuf,
    /// What verifiers of this trust domain ask about its certificates: `required` refuses them while no revoked set covers them,
    /// `none` accepts them unasked. Other software never asks.
    #[arg(long, value_name = "WHAT", value_enum, default_value = "required")]
    revocation: Revocation,
    /// Checks only; nothing is changed.
    #[arg(long)]
    dry_run: bool,
}

/// What is asked about certificates of another trust domain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Revocation {
    Required,
    None,
}

/// What to do with bundles of other trust domains.
#[derive(Subcommand, Debug)]
pub(crate) enum Verb {
    /// Lists them, and those that entries wait for.
    List,
    /// Trusts another trust domain no longer.
    Remove {
        /// The other trust domain.
        trust_domain: TrustDomain,
        /// Says what would go; nothing is changed.
        #[arg(long)]
        dry_run: bool,
    },
}

/// One of them.
#[derive(Serialize)]
struct FederatedRow {
    trust_domain: String,
    sequence: u64,
    refresh_hint_seconds: u32,
    roots_sha256: Vec<String>,
    jwt_keys: Vec<String>,
    revocation: &'static str,
    revision: u64,
}

impl From<FederatedBundle> for FederatedRow {
    fn from(federated: FederatedBundle) -> Self {
        let bundle = federated.bundle.unwrap_or_default();
        Self {
            trust_domain: bundle.trust_domain,
            sequence: bundle.sequence,
            refresh_hint_seconds: bundle.refresh_hint_seconds,
            roots_sha256: bundle.roots.iter().map(|der| cert_sha256(der).to_string()).collect(),
            jwt_keys: bundle.jwt_keys.into_iter().map(|key| key.kid).collect(),
            revocation: match federated.revocation_unchecked {
                true => "none",
                false => "required",
            },
            revision: federated.revision,
        }
    }
}

impl Row for FederatedRow {
    const HEADER: &'static [&'static str] = &[
        "TRUST DOMAIN",
        "SEQUENCE",
        "ROOTS",
        "JWT KEYS",
        "REVOCATION",
        "REVISION",
    ];
    fn cells(&self) -> Vec<String> {
        vec![
            self.trust_domain.clone(),
            self.sequence.to_string(),
            self.roots_sha256.len().to_string(),
            self.jwt_keys.len().to_string(),
            self.revocation.to_owned(),
            self.revision.to_string(),
        ]
    }
}

impl FederatedRow {
    fn lines(&self) -> String {
        fields(&[
            ("trust domain", self.trust_domain.clone()),
            ("sequence", self.sequence.to_string()),
            ("roots (SHA-256)", self.roots_sha256.join(", ")),
            ("jwt keys", self.jwt_keys.join(", ")),
            ("revocation", self.revocation.to_owned()),
        ])
    }
}

#[derive(Serialize)]
struct Taken {
    #[serde(flatten)]
    bundle: FederatedRow,
    changed: bool,
    entries: u64,
    index: u64,
    dry_run: bool,
}

#[derive(Serialize)]
struct Removed {
    #[serde(flatten)]
    bundle: FederatedRow,
    entries: u64,
    index: u64,
    dry_run: bool,
}

/// The document; one byte too many is enough to know that it is too long.
fn document(file: &Path) -> Result<String, Failure> {
    let source: Box<dyn Read> = match file == Path::new("-") {
        true => Box::new(io::stdin()),
        false => Box::new(File::open(file).map_err(|error| Failure::file(file, error))?),
    };
    let mut text = String::new();
    let read = source
        .take(FEDERATED_DOCUMENT_BYTES_MAX as u64 + 1)
        .read_to_string(&mut text);
    read.map_err(|error| Failure::file(file, error))?;
    match text.len() > FEDERATED_DOCUMENT_BYTES_MAX {
        true => Err(Failure::file(
            file,
            format!(
                "is longer than {FEDERATED_DOCUMENT_BYTES_MAX} bytes; have the other side take out roots and keys that are out of use"
            ),
        )),
        false => Ok(text),
    }
}

/// Runs `bundle federate`.
pub(crate) async fn federate(context: &Context, federate: &Federate) -> Result<(), Failure> {
    context.output.general()?;
    let request = SetFederatedRequest {
        trust_domain: federate.trust_domain.to_string(),
        document: document(&federate.file)?,
        revocation_unchecked: federate.revocation == Revocation::None,
        dry_run: federate.dry_run,
    };
    let answer = context.ca().await?.trust().set_federated(request).await?.into_inner();
    let taken = Taken {
        bundle: answer.bundle.unwrap_or_default().into(),
        changed: answer.changed,
        entries: answer.entries,
        index: answer.index,
        dry_run: federate.dry_run,
    };
    context.output.object(&taken, || {
        let done = match (taken.changed, federate.dry_run) {
            (false, _) => "stands already",
            (true, true) => "would be taken",
            (true, false) => "is taken",
        };
        let given = count(taken.entries, "entry federates", "entries federate");
        format!("{}the bundle {done}; {given} with it\n", taken.bundle.lines())
    })
}

/// Runs a verb of `bundle federated`.
pub(crate) async fn run(context: &Context, verb: Verb) -> Result<(), Failure> {
    context.output.general()?;
    match verb {
        Verb::List => {
            let answer = context
                .ca()
                .await?
                .trust()
                .list_federated(ListFederatedRequest {})
                .await?;
            let answer = answer.into_inner();
            let rows: Vec<FederatedRow> = answer.bundles.into_iter().map(Into::into).collect();
            context.output.list("bundles", &rows, None)?;
            for domain in answer.missing {
                notice(&format!(
                    "entries federate with {domain}, whose bundle is not here: mintage bundle federate --trust-domain {domain} FILE"
                ));
            }
            Ok(())
        }
        Verb::Remove { trust_domain, dry_run } => {
            let request = RemoveFederatedRequest {
                trust_domain: trust_domain.to_string(),
                dry_run,
            };
            let answer = context
                .ca()
                .await?
                .trust()
                .remove_federated(request)
                .await?
                .into_inner();
            let removed = Removed {
                bundle: answer.bundle.unwrap_or_default().into(),
                entries: answer.entries,
                index: answer.index,
                dry_run,
            };
            context.output.object(&removed, || {
                let whose = count(removed.entries, "entry federates", "entries federate");
                match dry_run {
                    true => format!("would trust {trust_domain} no longer; {whose} with it\n"),
                    false => format!("{trust_domain} is not trusted any longer; {whose} with it\n"),
                }
            })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_document_is_read_whole_or_not_at_all() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("bundle.json");
        std::fs::write(&path, "{}").unwrap();
        assert_eq!(document(&path).unwrap(), "{}");
        std::fs::write(&path, " ".repeat(FEDERATED_DOCUMENT_BYTES_MAX + 1)).unwrap();
        assert!(document(&path).unwrap_err().to_string().contains("take out roots"));
        std::fs::write(&path, [0xff]).unwrap();
        assert!(document(&path).is_err());
        assert!(document(&dir.path().join("none")).is_err());
    }
}
