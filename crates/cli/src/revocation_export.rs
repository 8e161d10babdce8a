//! `mintage revocation export`: the signed snapshot as verifiers get it, or what is in force in clear.

use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use mintage_proto::v1::{ExportRevocationsRequest, RevokedPart, SnapshotRequest};
use mintage_revocation::limits::BODY_BYTES_MAX;
use serde::Serialize;

use crate::{
    audit::export::target::Target,
    cli::Context,
    client::Ca,
    failure::Failure,
    output::fields,
    text::{printable_json, rfc3339},
};

/// `revocation export`.
#[derive(Args, Debug)]
pub(crate) struct ExportArgs {
    /// What is written: the signed snapshot, byte for byte, or (jsonl) a line of JSON for each serial and rule in force.
    #[arg(long, value_name = "FORMAT", value_enum, default_value = "snapshot")]
    format: Form,
    /// File to write, which appears when it is whole; without it standard output.
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// The same as --out.
    #[arg(value_name = "FILE", conflicts_with = "out", hide = true)]
    file: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Form {
    Snapshot,
    Jsonl,
}

#[derive(Serialize)]
struct Exported<'a> {
    file: &'a Path,
    bytes: u64,
    /// Lines of JSON; a snapshot has none.
    lines: u64,
}

/// One line of JSON.
#[derive(Serialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
enum Line {
    Serial {
        issuer: String,
        serial: String,
        reason: String,
        time: Option<String>,
        index: u64,
    },
    Rule {
        rule: String,
        reason: String,
        time: Option<String>,
        index: u64,
    },
}

/// Runs the verb.
pub(crate) async fn run(context: &Context, args: &ExportArgs) -> Result<(), Failure> {
    let ca = context.ca().await?;
    let out = args.out.as_deref().or(args.file.as_deref());
    let mut target = Target::open(out)?;
    let (bytes, lines) = match args.format {
        Form::Snapshot => (snapshot(&ca, &mut target).await?, 0),
        Form::Jsonl => jsonl(&ca, &mut target).await?,
    };
    target.finish().await?;
    let Some(file) = out else { return Ok(()) };
    let exported = Exported { file, bytes, lines };
    context.output.object(&exported, || {
        fields(&[("file", file.display().to_string()), ("bytes", bytes.to_string())])
    })
}

async fn snapshot(ca: &Ca, target: &mut Target) -> Result<u64, Failure> {
    let mut chunks = ca.revocation().snapshot(SnapshotRequest {}).await?.into_inner();
    let (mut written, mut total) = (0, 0);
    while let Some(chunk) = chunks.message().await? {
        // A signed snapshot is its body and a header of some hundred bytes.
        if chunk.offset != written || chunk.total > 2 * BODY_BYTES_MAX as u64 {
            return Err(Failure::Remote(
                "the snapshot came in pieces that do not fit; ask again".into(),
            ));
        }
        (written, total) = (written + chunk.data.len() as u64, chunk.total);
        target.write(chunk.data.into()).await?;
    }
    match written == total && total > 0 {
        true => Ok(written),
        false => Err(Failure::Remote("the snapshot ended early; ask again".into())),
    }
}

async fn jsonl(ca: &Ca, target: &mut Target) -> Result<(u64, u64), Failure> {
    let mut parts = ca
        .revocation()
        .export_revocations(ExportRevocationsRequest {})
        .await?
        .into_inner();
    let (mut bytes, mut count) = (0, 0);
    while let Some(part) = parts.message().await? {
        let mut text = String::new();
        for line in lines(part) {
            text += &printable_json(&serde_json::to_string(&line).map_err(Failure::local)?);
            text.push('\n');
            count += 1;
        }
        bytes += text.len() as u64;
        target.write(text.into_bytes()).await?;
    }
    Ok((bytes, count))
}

fn lines(part: RevokedPart) -> impl Iterator<Item = Line> {
    let serials = part.certificates.into_iter().map(|revoked| Line::Serial {
        issuer: revoked.issuer,
        serial: revoked.serial,
        reason: revoked.reason,
        time: rfc3339(revoked.time_ms),
        index: revoked.index,
    });
    let rules = part.rules_in_force.into_iter().map(|rule| Line::Rule {
        rule: rule.rule,
        reason: rule.reason,
        time: rfc3339(rule.time_ms),
        index: rule.index,
    });
    serials.chain(rules)
}
