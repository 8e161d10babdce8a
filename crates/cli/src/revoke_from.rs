//! `mintage revoke --from FILE`: revokes what a scanner found, and says what nobody here knows.

use std::{fs::File, io::Read, path::Path};

use mintage_identity::RevocationReason;
use mintage_proto::v1::{FindFingerprintsRequest, FingerprintMatch, RevokeRequest, revoke_request::Target as Wire};
use serde::Serialize;
use tonic::Code;

use crate::{
    cli::Context,
    client::Ca,
    failure::Failure,
    findings::{self, Findings},
    limits::{ENFORCE_WAIT_DEFAULT, FINDINGS_FILE_BYTES_MAX},
    output::fields,
    revoke::{Enforced, Revoke, follow, settled},
    text::count,
};

#[derive(Serialize)]
struct Found {
    fingerprint: String,
    place: String,
    /// `certificate` or `key`.
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
    /// Places of findings without a certificate or key.
    others: Vec<String>,
    certificates: u64,
    sequence: u64,
    dry_run: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    enforced: Option<Enforced>,
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
    let mut outcome = strike(&ca, revoke, findings).await?;
    if outcome.sequence > 0 {
        outcome.enforced = Some(follow(&ca, outcome.sequence, revoke.wait.unwrap_or(ENFORCE_WAIT_DEFAULT)).await?);
    }
    context.output.object(&outcome, || outcome.text())?;
    settled(revoke, outcome.enforced.as_ref())
}

async fn strike(ca: &Ca, revoke: &Revoke, findings: Findings) -> Result<Outcome, Failure> {
    let sha256: Vec<Vec<u8>> = findings
        .fingerprints
        .keys()
        .map(|fingerprint| fingerprint.to_vec())
        .collect();
    let matches = match sha256.is_empty() {
        true => Vec::new(),
        false => {
            ca.revocation()
                .find_fingerprints(FindFingerprintsRequest { sha256 })
                .await?
                .into_inner()
                .matches
        }
    };
    let mut outcome = Outcome {
        findings: findings.count,
        matched: Vec::new(),
        unmatched: Vec::new(),
        others: findings.others,
        certificates: 0,
        sequence: 0,
        dry_run: revoke.dry_run,
        enforced: None,
    };
    let mut unmatched = findings.fingerprints;
    for found in matches {
        let Some(place) = <[u8; 32]>::try_from(found.sha256.as_slice())
            .ok()
            .and_then(|key| unmatched.remove(&key))
        else {
            return Err(Failure::Remote(
                "the CA answered with a fingerprint that was not asked for".into(),
            ));
        };
        outcome.one(ca, revoke, found, place).await?;
    }
    outcome.unmatched = unmatched
        .into_iter()
        .map(|(fingerprint, place)| Found {
            fingerprint: hex::encode(fingerprint),
            place,
            of: "",
            serial: String::new(),
            certificates: 0,
        })
        .collect();
    Ok(outcome)
}

impl Outcome {
    /// Revokes by one fingerprint.
    async fn one(&mut self, ca: &Ca, revoke: &Revoke, found: FingerprintMatch, place: String) -> Result<(), Failure> {
        let fingerprint = hex::encode(&found.sha256);
        let (of, target) = match found.serial.is_empty() {
            true => ("key", Wire::Key(fingerprint.clone())),
            false => ("certificate", Wire::Serial(found.serial.clone())),
        };
        let request = RevokeRequest {
            target: Some(target),
            reason: revoke.reason.unwrap_or(RevocationReason::KeyCompromise).to_string(),
            note: revoke.note.clone(),
            dry_run: revoke.dry_run,
            no_renew: revoke.no_renew,
            ..RevokeRequest::default()
        };
        let struck = match ca.revocation().revoke(request).await {
            Ok(answer) => answer.into_inner(),
            // It has expired since it was found.
            Err(status) if status.code() == Code::NotFound => Default::default(),
            Err(status) => return Err(status.into()),
        };
        self.certificates += struck.certificates;
        self.sequence = self.sequence.max(struck.sequence);
        self.matched.push(Found {
            fingerprint,
            place,
            of,
            serial: found.serial,
            certificates: struck.certificates,
        });
        Ok(())
    }
}
