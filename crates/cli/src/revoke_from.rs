//! `mintage revoke --from FILE`: revokes what a scanner found, and says what nobody here knows.

use std::{collections::BTreeSet, fs::File, io::Read, path::Path};

use mintage_identity::RevocationReason;
use mintage_proto::v1::{
    FindFingerprintsRequest, FingerprintMatch, RevokeRequest, RevokeResponse, revoke_request::Target as Wire,
};
use serde::Serialize;
use tonic::Code;

use crate::{
    cli::Context,
    client::Ca,
    failure::Failure,
    findings::{self, Findings},
    limits::FINDINGS_FILE_BYTES_MAX,
    output::fields,
    revoke::{Followed, Revoke, settled},
    text::count,
};

#[derive(Serialize)]
struct Found {
    fingerprint: String,
    place: String,
    /// `certificate`, `key` or `ca-key`.
    #[serde(skip_serializing_if = "str::is_empty")]
    of: &'static str,
    #[serde(skip_serializing_if = "String::is_empty")]
    serial: String,
    certificates: u64,
}

#[derive(Serialize)]
struct Outcome {
    findings: usize,
    matched: Vec<Found>,
    unmatched: Vec<Found>,
    /// What the CA did not revoke, or did not answer for.
    failed: Vec<Found>,
    /// What was not tried after that.
    not_tried: Vec<Found>,
    /// Keys of the CA itself, which no list revokes.
    ca_keys: Vec<Found>,
    /// Places of findings without a certificate or key.
    others: Vec<String>,
    /// Each once, also where itself and its key were found.
    certificates: u64,
    sequence: u64,
    dry_run: bool,
    #[serde(flatten)]
    followed: Followed,
    #[serde(skip)]
    serials: BTreeSet<String>,
}

impl Outcome {
    fn text(&self) -> String {
        let done = if self.dry_run { "would revoke" } else { "revoked" };
        let mut text = format!(
            "{done} {} by {} of {}\n",
            count(self.certificates, "certificate", "certificates"),
            count(self.matched.len() as u64, "fingerprint", "fingerprints"),
            count(self.findings as u64, "finding", "findings"),
        );
        let line = |word: &str, found: &Found| {
            let what = format!("{} {} {} ({})", found.of, found.serial, found.fingerprint, found.place);
            fields(&[(word, what.split_whitespace().collect::<Vec<_>>().join(" "))])
        };
        text.extend(self.matched.iter().map(|found| line("matched", found)));
        text.extend(self.failed.iter().map(|found| line("failed", found)));
        text.extend(self.not_tried.iter().map(|found| line("not tried", found)));
        text.extend(self.ca_keys.iter().map(|found| line("the CA's own", found)));
        text.extend(self.unmatched.iter().map(|found| line("unknown", found)));
        text.extend(
            self.others
                .iter()
                .map(|place| fields(&[("no certificate or key", place.clone())])),
        );
        text
    }
}

/// The text of the file; a pipe is one too.
fn text_of(file: &Path) -> Result<String, Failure> {
    let mut octets = Vec::new();
    let opened = File::open(file).map_err(|error| Failure::file(file, error))?;
    let mut bounded = opened.take(FINDINGS_FILE_BYTES_MAX + 1);
    bounded
        .read_to_end(&mut octets)
        .map_err(|error| Failure::file(file, error))?;
    if octets.len() as u64 > FINDINGS_FILE_BYTES_MAX {
        let problem = format!("is longer than {FINDINGS_FILE_BYTES_MAX} bytes; split it");
        return Err(Failure::file(file, problem));
    }
    String::from_utf8(octets).map_err(|_| Failure::file(file, "is no UTF-8 text"))
}

/// Runs the verb.
pub(crate) async fn run(context: &Context, revoke: &Revoke, file: &Path) -> Result<(), Failure> {
    let findings = findings::read(&text_of(file)?).map_err(|problem| Failure::file(file, problem))?;
    let ca = context.ca().await?;
    let (mut outcome, mut ended) = strike(&ca, revoke, findings).await?;
    if outcome.sequence > 0 {
        let (followed, settled) = settled(&ca, outcome.sequence, revoke).await;
        outcome.followed = followed;
        // The first thing that went wrong is what is told.
        ended = ended.and(settled);
    }
    context.output.object(&outcome, || outcome.text())?;
    ended
}

/// What the CA knows of the fingerprints.
async fn matches_of(ca: &Ca, findings: &Findings) -> Result<Vec<FingerprintMatch>, Failure> {
    let sha256: Vec<Vec<u8>> = findings
        .fingerprints
        .keys()
        .map(|fingerprint| fingerprint.to_vec())
        .collect();
    if sha256.is_empty() {
        return Ok(Vec::new());
    }
    let request = FindFingerprintsRequest { sha256 };
    Ok(ca.revocation().find_fingerprints(request).await?.into_inner().matches)
}

/// What was done, and the first failure; after that one nothing more was tried.
async fn strike(ca: &Ca, revoke: &Revoke, findings: Findings) -> Result<(Outcome, Result<(), Failure>), Failure> {
    let matches = matches_of(ca, &findings).await?;
    let mut outcome = Outcome {
        findings: findings.count,
        matched: Vec::new(),
        unmatched: Vec::new(),
        failed: Vec::new(),
        not_tried: Vec::new(),
        ca_keys: Vec::new(),
        others: findings.others,
        certificates: 0,
        sequence: 0,
        dry_run: revoke.dry_run,
        followed: Followed::default(),
        serials: BTreeSet::new(),
    };
    let mut unmatched = findings.fingerprints;
    let (mut ended, mut own) = (Ok(()), Ok(()));
    for found in matches {
        let Some(place) = <[u8; 32]>::try_from(found.sha256.as_slice())
            .ok()
            .and_then(|key| unmatched.remove(&key))
        else {
            let strange = "the CA answered with a fingerprint that was not asked for";
            // Nothing is told of it: its place is not known.
            ended = ended.and(Err(Failure::Remote(strange.into())));
            continue;
        };
        let role = found.ca_role.clone();
        let (mut row, target) = Found::of(found, place);
        if !role.is_empty() {
            row.of = "ca-key";
            own = own.and(Err(is_own(&role, &row)));
            outcome.ca_keys.push(row);
            continue;
        }
        if ended.is_err() {
            outcome.not_tried.push(row);
            continue;
        }
        match one(ca, revoke, target).await {
            Ok(struck) => outcome.took(row, struck),
            Err(failure) => {
                let told = format!("that was {} ({})", row.fingerprint, row.place);
                outcome.failed.push(row);
                ended = Err(failure.and(&told));
            }
        }
    }
    let unknown = |(fingerprint, place): ([u8; 32], String)| Found {
        fingerprint: hex::encode(fingerprint),
        place,
        of: "",
        serial: String::new(),
        certificates: 0,
    };
    outcome.unmatched = unmatched.into_iter().map(unknown).collect();
    Ok((outcome, own.and(ended)))
}

/// What to do about a key of the CA: nobody may lose everything by a line in a file.
fn is_own(role: &str, found: &Found) -> Failure {
    let todo = match role {
        "root" | "intermediate" => format!(
            "whoever has it can make any identity. Revoke it by itself: `mintage revoke --issuer {} --reason \
             ca-compromise`, which says what that takes when no other issuing key is active",
            found.fingerprint
        ),
        _ => "it is not revoked by this; `mintage ca status` tells of it, and it has to be replaced".to_owned(),
    };
    Failure::Remote(format!("{}: this is the CA's own {role} key: {todo}", found.place))
}

/// Revokes by one fingerprint.
async fn one(ca: &Ca, revoke: &Revoke, target: Wire) -> Result<RevokeResponse, Failure> {
    let request = RevokeRequest {
        target: Some(target),
        reason: revoke.reason.unwrap_or(RevocationReason::KeyCompromise).to_string(),
        note: revoke.note.clone(),
        dry_run: revoke.dry_run,
        no_renew: revoke.no_renew,
        ..RevokeRequest::default()
    };
    match ca.revocation().revoke(request).await {
        Ok(answer) => Ok(answer.into_inner()),
        // It has expired since it was found.
        Err(status) if status.code() == Code::NotFound => Ok(RevokeResponse::default()),
        Err(status) => Err(status.into()),
    }
}

impl Found {
    /// What the CA knows by a fingerprint, and how it is revoked.
    fn of(found: FingerprintMatch, place: String) -> (Self, Wire) {
        let fingerprint = hex::encode(&found.sha256);
        let (of, target) = match found.serial.is_empty() {
            true => ("key", Wire::Key(fingerprint.clone())),
            false => ("certificate", Wire::Serial(found.serial.clone())),
        };
        let row = Self {
            fingerprint,
            place,
            of,
            serial: found.serial,
            certificates: 0,
        };
        (row, target)
    }
}

impl Outcome {
    fn took(&mut self, row: Found, struck: RevokeResponse) {
        self.sequence = self.sequence.max(struck.sequence);
        // The CA names the first hundred; those beyond are counted as they come.
        let unnamed = struck.certificates.saturating_sub(struck.serials.len() as u64);
        let before = self.serials.len();
        self.serials.extend(struck.serials);
        self.certificates += unnamed + (self.serials.len() - before) as u64;
        self.matched.push(Found {
            certificates: struck.certificates,
            ..row
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_counts_once_whatever_it_was_found_by() {
        let mut outcome = Outcome {
            findings: 2,
            matched: Vec::new(),
            unmatched: Vec::new(),
            failed: Vec::new(),
            not_tried: Vec::new(),
            ca_keys: Vec::new(),
            others: Vec::new(),
            certificates: 0,
            sequence: 0,
            dry_run: true,
            followed: Followed::default(),
            serials: BTreeSet::new(),
        };
        let struck = |certificates, serials: &[&str]| RevokeResponse {
            certificates,
            serials: serials.iter().map(|serial| (*serial).to_owned()).collect(),
            ..RevokeResponse::default()
        };
        let row = |serial: &str| {
            let found = FingerprintMatch {
                serial: serial.to_owned(),
                ..FingerprintMatch::default()
            };
            Found::of(found, "tls.pem:1".to_owned()).0
        };
        outcome.took(row("4f"), struck(1, &["4f"]));
        outcome.took(row(""), struck(2, &["4f", "5a"]));
        assert_eq!(outcome.certificates, 2);
        outcome.took(row(""), struck(103, &["6b"]));
        assert_eq!(
            outcome.certificates, 105,
            "those without a serial in the answer count too"
        );
    }
}
