//! Records of the ledger as rows: for searches, and for the inventory of certificates.

use mintage_proto::v1::RecordSummary;
use serde::Serialize;

use crate::{
    output::Row,
    text::{rfc3339, utc},
};

/// One record.
#[derive(Serialize)]
pub(crate) struct RecordRow {
    pub(crate) index: u64,
    time: Option<String>,
    pub(crate) kind: String,
    actor: String,
    spiffe_id: String,
    entry: String,
    agent: String,
    serial: String,
    not_after: Option<String>,
    pub(crate) state: String,
    /// Since when and why, of a certificate that is revoked.
    revoked: Option<String>,
    revoked_for: String,
    request_id: String,
    text: String,
    #[serde(skip)]
    pub(crate) times: (i64, i64),
}

impl From<RecordSummary> for RecordRow {
    fn from(summary: RecordSummary) -> Self {
        Self {
            time: rfc3339(summary.time_ms),
            not_after: rfc3339(summary.not_after_ms),
            times: (summary.time_ms, summary.not_after_ms),
            index: summary.index,
            kind: summary.kind,
            actor: summary.actor,
            spiffe_id: summary.spiffe_id,
            entry: summary.entry,
            agent: summary.agent,
            serial: summary.serial,
            state: summary.state,
            revoked: (summary.revoked_ms != 0).then(|| rfc3339(summary.revoked_ms)).flatten(),
            revoked_for: summary.revoked_for,
            request_id: summary.request_id,
            text: summary.text,
        }
    }
}

impl RecordRow {
    /// The state, and why, where a certificate is revoked for something.
    pub(crate) fn state_told(&self) -> String {
        match self.revoked_for.as_str() {
            "" | "unspecified" => self.state.clone(),
            reason => format!("{} ({reason})", self.state),
        }
    }
}

impl Row for RecordRow {
    const HEADER: &'static [&'static str] = &["INDEX", "TIME", "KIND", "STATE", "ACTOR", "SERIAL", "WHAT"];
    fn cells(&self) -> Vec<String> {
        vec![
            self.index.to_string(),
            utc(self.times.0),
            self.kind.clone(),
            self.state_told(),
            self.actor.clone(),
            self.serial.clone(),
            self.text.clone(),
        ]
    }
}

/// One live certificate.
#[derive(Serialize)]
pub(crate) struct CertRow {
    pub(crate) serial: String,
    pub(crate) spiffe_id: String,
    pub(crate) agent: String,
    /// Instance of that agent, where the record says it.
    pub(crate) instance: Option<u64>,
    pub(crate) entry: String,
    issued: Option<String>,
    not_after: Option<String>,
    index: u64,
    #[serde(skip)]
    pub(crate) times: (i64, i64),
}

impl CertRow {
    /// The end of its validity in milliseconds.
    pub(crate) fn end(&self) -> i64 {
        self.times.1
    }
}

impl From<RecordSummary> for CertRow {
    fn from(summary: RecordSummary) -> Self {
        Self {
            issued: rfc3339(summary.time_ms),
            not_after: rfc3339(summary.not_after_ms),
            times: (summary.time_ms, summary.not_after_ms),
            serial: summary.serial,
            spiffe_id: summary.spiffe_id,
            agent: summary.agent,
            instance: (summary.instance != 0).then_some(summary.instance),
            entry: summary.entry,
            index: summary.index,
        }
    }
}

impl Row for CertRow {
    const HEADER: &'static [&'static str] = &["SPIFFE ID", "AGENT", "ENTRY", "NOT AFTER", "SERIAL", "INDEX"];
    fn cells(&self) -> Vec<String> {
        vec![
            self.spiffe_id.clone(),
            self.agent.clone(),
            self.entry.clone(),
            utc(self.times.1),
            self.serial.clone(),
            self.index.to_string(),
        ]
    }
}

/// One certificate that is revoked.
#[derive(Serialize)]
pub(crate) struct RevokedRow {
    #[serde(flatten)]
    certificate: CertRow,
    /// Since when, where that is still known.
    revoked: Option<String>,
    reason: String,
    #[serde(skip)]
    millis: i64,
}

impl From<RecordSummary> for RevokedRow {
    fn from(summary: RecordSummary) -> Self {
        let millis = summary.revoked_ms;
        Self {
            revoked: (millis != 0).then(|| rfc3339(millis)).flatten(),
            reason: summary.revoked_for.clone(),
            millis,
            certificate: summary.into(),
        }
    }
}

impl Row for RevokedRow {
    const HEADER: &'static [&'static str] = &["SPIFFE ID", "AGENT", "ENTRY", "REVOKED", "REASON", "SERIAL", "INDEX"];
    fn cells(&self) -> Vec<String> {
        let certificate = &self.certificate;
        vec![
            certificate.spiffe_id.clone(),
            certificate.agent.clone(),
            certificate.entry.clone(),
            self.revoked.as_ref().map(|_| utc(self.millis)).unwrap_or_default(),
            self.reason.clone(),
            certificate.serial.clone(),
            certificate.index.to_string(),
        ]
    }
}
