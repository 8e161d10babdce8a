//! `mintage bundle show`: the roots of the trust domain, as PEM, as a SPIFFE bundle document, or as a table. Bundles of other
//! trust domains have a file of their own.

use clap::Subcommand;
use mintage_identity::TrustDomain;
use mintage_proto::v1::{BundleRequest, BundleResponse};
use mintage_svid::{CertInfo, cert_sha256, pem::encode_certificates};
use serde::Serialize;

use crate::{
    cli::Context,
    failure::Failure,
    federation,
    output::{Format, Output, Row, fields, table, write},
    text::{rfc3339, utc},
};

/// What to do with the trust bundle.
#[derive(Subcommand, Debug)]
pub(crate) enum Verb {
    /// Shows the roots: -o pem for certificates, -o jwks for the SPIFFE bundle document.
    Show,
    /// Takes the bundle of another trust domain, or a newer one of it; entries name those that their workloads get.
    Federate(federation::Federate),
    /// Bundles of other trust domains.
    #[command(subcommand)]
    Federated(federation::Verb),
}

#[derive(Serialize)]
struct RootRow {
    sha256: String,
    key_id: String,
    serial: String,
    not_before: Option<String>,
    not_after: Option<String>,
    pem: String,
    #[serde(skip)]
    times: (i64, i64),
}

impl RootRow {
    fn read(der: &[u8]) -> Result<Self, Failure> {
        let info = CertInfo::parse(der).map_err(|error| Failure::Remote(format!("the CA sent a bad root: {error}")))?;
        let times = (info.not_before().millis(), info.not_after().millis());
        Ok(Self {
            sha256: cert_sha256(der).to_string(),
            key_id: info.key_id().to_string(),
            serial: info.serial().to_string(),
            not_before: rfc3339(times.0),
            not_after: rfc3339(times.1),
            pem: encode_certificates([der]),
            times,
        })
    }
}

impl Row for RootRow {
    const HEADER: &'static [&'static str] = &["ROOT (SHA-256)", "NOT BEFORE", "NOT AFTER"];
    fn cells(&self) -> Vec<String> {
        vec![self.sha256.clone(), utc(self.times.0), utc(self.times.1)]
    }
}

#[derive(Serialize)]
struct Bundle {
    trust_domain: String,
    sequence: u64,
    refresh_hint_seconds: u32,
    roots: Vec<RootRow>,
}

/// Runs the verb.
pub(crate) async fn run(context: &Context, verb: Verb) -> Result<(), Failure> {
    match verb {
        Verb::Show => {}
        Verb::Federate(federate) => return federation::federate(context, &federate).await,
        Verb::Federated(verb) => return federation::run(context, verb).await,
    }
    let answer = context.ca().await?.trust().bundle(BundleRequest {}).await?.into_inner();
    show(context.output, answer)
}

fn show(output: Output, answer: BundleResponse) -> Result<(), Failure> {
    let bundle = answer
        .bundle
        .ok_or_else(|| Failure::Remote("the CA sent no bundle".to_owned()))?;
    let domain = TrustDomain::parse(&bundle.trust_domain).map_err(|error| Failure::Remote(error.to_string()))?;
    let roots = bundle
        .roots
        .iter()
        .map(|der| RootRow::read(der))
        .collect::<Result<Vec<_>, _>>()?;
    match output.format() {
        Format::Pem => write(&encode_certificates(&bundle.roots)),
        Format::Jwks => {
            // A document that nobody else could read is not passed on.
            mintage_svid::TrustBundle::from_jwks_json(domain, &answer.jwks)
                .map_err(|error| Failure::Remote(format!("the CA sent a bad bundle document: {error}")))?;
            write(&format!("{}\n", answer.jwks.trim_end()))
        }
        _ => {
            let bundle = Bundle {
                trust_domain: domain.to_string(),
                sequence: bundle.sequence,
                refresh_hint_seconds: bundle.refresh_hint_seconds,
                roots,
            };
            output.object(&bundle, || {
                let facts = fields(&[
                    ("trust domain", bundle.trust_domain.clone()),
                    ("sequence", bundle.sequence.to_string()),
                ]);
                format!(
                    "{facts}\n{}",
                    table(RootRow::HEADER, bundle.roots.iter().map(Row::cells))
                )
            })
        }
    }
}
