//! What a tour gives to programs: one object without any key in it.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Instant,
};

use mintage_identity::{Serial, SpiffeId, UnixTime};
use serde::Serialize;

use super::steps::{Step, Steps};
use crate::{
    audit::{
        Key,
        offline::{ledger_of, prove, read_vkeys},
        verify::{VerifyArgs, verify},
    },
    failure::Failure,
    limits::{CHECKPOINT_PAUSE, CHECKPOINT_WAIT},
    text::{count, rfc3339},
};

/// The trust domain of every tour.
pub(super) const TRUST_DOMAIN: &str = "dev.test";
/// File with the ledger's verifier key, as an auditor would keep it elsewhere.
const VKEY_FILE: &str = "ledger.vkey";

/// One identity on disk.
#[derive(Debug, Serialize)]
pub(super) struct Svid {
    spiffe_id: String,
    pub(super) certificate: PathBuf,
    private_key: PathBuf,
    pub(super) bundle: PathBuf,
    serial: String,
    not_after: Option<String>,
}

#[derive(Debug, Serialize)]
struct Ledger {
    origin: String,
    size: u64,
    root: String,
}

/// The object.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    trust_domain: &'static str,
    pub(super) dir: PathBuf,
    pub(super) ca_addr: Option<String>,
    pub(super) admin_socket: Option<PathBuf>,
    steps: Vec<Step>,
    pub(super) svids: Vec<Svid>,
    pub(super) revoke_to_refused_ms: Option<f64>,
    ledger: Option<Ledger>,
    /// Serial of web's first certificate, which the offline proof is about.
    #[serde(skip)]
    pub(super) first_serial: Option<Serial>,
}

impl Svid {
    pub(super) fn new(id: &SpiffeId, directory: &Path, serial: &Serial, not_after: UnixTime) -> Self {
        Self {
            spiffe_id: id.to_string(),
            certificate: directory.join("svid.pem"),
            private_key: directory.join("svid_key.pem"),
            bundle: directory.join("svid_bundle.pem"),
            serial: serial.to_string(),
            not_after: rfc3339(not_after.millis()),
        }
    }
}

impl Report {
    pub(super) fn new(dir: &Path) -> Self {
        Self {
            trust_domain: TRUST_DOMAIN,
            dir: dir.to_owned(),
            ca_addr: None,
            admin_socket: None,
            steps: Vec::new(),
            svids: Vec::new(),
            revoke_to_refused_ms: None,
            ledger: None,
            first_serial: None,
        }
    }

    /// Takes over what the steps were.
    pub(super) fn finish(&mut self, steps: &mut Steps) {
        self.steps = steps.taken();
    }

    /// The CA's data directory.
    pub(super) fn ca_dir(&self) -> PathBuf {
        self.dir.join("ca")
    }

    /// File with the ledger's verifier key.
    pub(super) fn vkey_file(&self) -> PathBuf {
        self.dir.join(VKEY_FILE)
    }

    /// Keeps the verifier key that `init` named.
    pub(super) fn keep_vkey(&self, vkey: &str) -> Result<(), Failure> {
        let path = self.vkey_file();
        fs::write(&path, format!("{vkey}\n")).map_err(|error| Failure::file(&path, error))
    }

    /// The last step: the ledger is verified from its files alone, and the first certificate proven in it.
    pub(super) async fn audit(&mut self, steps: &mut Steps) -> Result<(), Failure> {
        let (data_dir, vkey) = (self.ca_dir(), self.vkey_file());
        let serial = self
            .first_serial
            .ok_or_else(|| Failure::local("there is no first certificate to prove"))?;
        let work = tokio::task::spawn_blocking(move || audited(&data_dir, vkey, serial));
        let ledger = steps
            .take("audit", async move {
                let ended = |error: tokio::task::JoinError| Failure::local(format!("the audit ended early: {error}"));
                work.await.map_err(ended)?
            })
            .await?;
        self.ledger = Some(ledger);
        Ok(())
    }
}

fn audited(data_dir: &Path, vkey: PathBuf, serial: Serial) -> Result<(Ledger, String), Failure> {
    let keys = read_vkeys(&vkey)?;
    let ledger = ledger_of(data_dir)?;
    let begun = Instant::now();
    let proven = loop {
        // A CA that still runs signs a checkpoint over the record within a second.
        match prove(&ledger, Some(&keys), Key::Serial(serial)) {
            Err(Failure::No(_)) if begun.elapsed() < CHECKPOINT_WAIT => std::thread::sleep(CHECKPOINT_PAUSE),
            outcome => break outcome?,
        }
    };
    let args = VerifyArgs::strict(vkey);
    let verified = verify(data_dir, &args).map_err(|refused| refused.failure)?;
    let shard = verified
        .shards
        .last()
        .ok_or_else(|| Failure::No("the ledger has no shard".into()))?;
    let line = format!(
        "{} verified offline; web's first certificate is record {}, proven by {}",
        count(shard.size, "record", "records"),
        proven.index,
        count(proven.hashes.len() as u64, "hash", "hashes"),
    );
    let found = Ledger {
        origin: shard.origin.clone(),
        size: shard.size,
        root: shard.root.clone(),
    };
    Ok((found, line))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_object_has_the_promised_form_and_names_files_not_keys() {
        let mut report = Report::new(Path::new("/d"));
        let id = SpiffeId::parse("spiffe://dev.test/demo/web").unwrap();
        let serial = Serial::from_random([7; 16]);
        report.svids.push(Svid::new(
            &id,
            Path::new("/d/web"),
            &serial,
            UnixTime::from_seconds(1_795_467_600),
        ));
        let json = serde_json::to_value(&report).unwrap();
        let mut names: Vec<_> = json.as_object().unwrap().keys().map(String::as_str).collect();
        names.sort_unstable();
        let promised = [
            "admin_socket",
            "ca_addr",
            "dir",
            "ledger",
            "revoke_to_refused_ms",
            "steps",
            "svids",
            "trust_domain",
        ];
        assert_eq!(names, promised);
        let svid = &json["svids"][0];
        assert_eq!(svid["private_key"], "/d/web/svid_key.pem");
        assert_eq!(
            (&svid["certificate"], &svid["bundle"]),
            (&"/d/web/svid.pem".into(), &"/d/web/svid_bundle.pem".into())
        );
        assert_eq!(svid["not_after"], "2026-11-23T21:00:00.000Z");
    }
}
