//! `audit show`: one record whole, hashed again here, with its certificate decoded.

use mintage_ledger::{Body, Record, leaf_hash};
use mintage_proto::v1::{GetRecordRequest, GetRecordResponse, Striker, get_record_request::Key as WireKey};
use mintage_svid::{LeafInfo, cert_sha256, pem::encode_certificates};
use serde::Serialize;

use super::{Key, describe};
use crate::{
    cli::Context,
    client::Ca,
    failure::Failure,
    ledger_row::RecordRow,
    output::fields,
    text::{rfc3339, utc},
};

#[derive(Serialize)]
pub(super) struct Certificate {
    serial: String,
    spiffe_id: String,
    dns_names: Vec<String>,
    common_name: Option<String>,
    not_before: Option<String>,
    not_after: Option<String>,
    public_key_sha256: String,
    sha256: String,
    pem: String,
    #[serde(skip)]
    times: (i64, i64),
}

#[derive(Serialize)]
struct Shown {
    index: u64,
    time: Option<String>,
    kind: String,
    /// live, expired or revoked, for certificates.
    state: String,
    leaf_hash: String,
    cause: describe::Fields,
    body: describe::Fields,
    certificate: Option<Certificate>,
    revoked_by: Vec<u64>,
    revocations: Vec<Revocation>,
}

/// What strikes the certificate.
#[derive(Serialize)]
struct Revocation {
    index: u64,
    time: Option<String>,
    scope: String,
    reason: String,
    note: String,
    #[serde(skip)]
    millis: i64,
}

impl Certificate {
    /// The certificate of an issue record; `None` for other records.
    pub(super) fn of(record: &Record) -> Result<Option<Self>, Failure> {
        let Body::Issue(issue) = &record.body else {
            return Ok(None);
        };
        let der = &issue.certificate_der;
        let leaf = LeafInfo::parse(der)
            .map_err(|error| Failure::No(format!("the record's certificate is no X.509-SVID: {error}")))?;
        let times = (leaf.not_before().millis(), leaf.not_after().millis());
        Ok(Some(Self {
            serial: leaf.serial().to_string(),
            spiffe_id: leaf.id().to_string(),
            dns_names: leaf.dns_names().to_vec(),
            common_name: leaf.common_name().map(str::to_owned),
            not_before: rfc3339(times.0),
            not_after: rfc3339(times.1),
            public_key_sha256: leaf.spki_sha256().to_string(),
            sha256: cert_sha256(der).to_string(),
            pem: encode_certificates([der]),
            times,
        }))
    }

    fn text(&self) -> String {
        fields(&[
            ("serial", self.serial.clone()),
            ("spiffe id", self.spiffe_id.clone()),
            ("dns names", self.dns_names.join(", ")),
            ("common name", self.common_name.clone().unwrap_or_default()),
            ("not before", utc(self.times.0)),
            ("not after", utc(self.times.1)),
            ("public key sha256", self.public_key_sha256.clone()),
            ("certificate sha256", self.sha256.clone()),
        ])
    }
}

impl From<Striker> for Revocation {
    fn from(striker: Striker) -> Self {
        Self {
            index: striker.index,
            time: rfc3339(striker.time_ms),
            scope: striker.scope,
            reason: striker.reason,
            note: striker.note,
            millis: striker.time_ms,
        }
    }
}

impl Revocation {
    fn text(&self) -> String {
        let note = match self.note.as_str() {
            "" => String::new(),
            note => format!(" ({note})"),
        };
        format!("{}  {}, by {}{note}", utc(self.millis), self.reason, self.scope)
    }
}

impl Shown {
    fn text(&self) -> String {
        let head = fields(&[
            ("index", self.index.to_string()),
            ("time", self.time.clone().unwrap_or_default()),
            ("kind", self.kind.clone()),
            ("state", self.state.clone()),
            ("leaf hash", self.leaf_hash.clone()),
        ]);
        let mut text = format!("{head}\n{}", self.body.lines());
        if let Some(certificate) = &self.certificate {
            text.push_str(&format!("\nCertificate\n{}", certificate.text()));
        }
        text.push_str(&format!("\nCaused by\n{}", self.cause.lines()));
        if !self.revocations.is_empty() {
            text.push_str("\nRevoked by\n");
            let names: Vec<String> = self
                .revocations
                .iter()
                .map(|by| format!("record {}", by.index))
                .collect();
            let lines: Vec<(&str, String)> = names
                .iter()
                .zip(&self.revocations)
                .map(|(name, by)| (name.as_str(), by.text()))
                .collect();
            text.push_str(&fields(&lines));
        }
        if let Some(certificate) = &self.certificate {
            text.push_str(&format!("\n{}", certificate.pem));
        }
        text
    }
}

/// Fetches a record and checks that its bytes are those of its leaf.
pub(super) async fn fetch(ca: &Ca, key: Key) -> Result<(GetRecordResponse, Record), Failure> {
    let key = match key {
        Key::Index(index) => WireKey::Index(index),
        Key::Serial(serial) => WireKey::Serial(serial.to_string()),
        Key::Neither(text) => return Err(Key::refused(&text)),
    };
    let answer = ca
        .ledger()
        .get_record(GetRecordRequest { key: Some(key) })
        .await?
        .into_inner();
    if leaf_hash(&answer.record).as_bytes() != answer.leaf_hash.as_slice() {
        return Err(Failure::No(
            "the record's bytes are not those of its leaf hash; the answer was altered".into(),
        ));
    }
    let record =
        Record::decode(&answer.record).map_err(|error| Failure::Remote(format!("the CA sent no record: {error}")))?;
    Ok((answer, record))
}

/// Runs the verb.
pub(super) async fn run(context: &Context, key: Key) -> Result<(), Failure> {
    if let Key::Neither(text) = &key {
        return Err(Key::refused(text));
    }
    let (answer, record) = fetch(&context.ca().await?, key).await?;
    let summary = RecordRow::from(answer.summary.unwrap_or_default());
    let shown = Shown {
        index: summary.index,
        time: rfc3339(record.time.millis()),
        kind: record.kind().name().to_owned(),
        state: summary.state,
        leaf_hash: hex::encode(&answer.leaf_hash),
        cause: describe::cause(&record),
        certificate: Certificate::of(&record)?,
        body: describe::body(&record.body),
        revoked_by: answer.revoked_by,
        revocations: answer.strikers.into_iter().map(Into::into).collect(),
    };
    context.output.object(&shown, || shown.text())
}
