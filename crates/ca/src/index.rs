//! The live certificates and the whole inventory, as the ledger's search index has them.

use std::sync::Arc;

use mintage_identity::{AgentName, IssuerKeyId, RequestId, Serial, SpiffeId, SpkiHash, UnixTime};
use mintage_ledger::{Issued, Journal, LedgerError, LiveCertificate, LiveQuery, Search};
use mintage_policy::limits::KEY_HOLDERS_MAX;
use mintage_revocation::LiveSerial;

use crate::limits::{INDEX_LAG_READ_MAX, RECORDS_READ_AT_ONCE};

/// The index with the journal it reads records from.
#[derive(Clone, Debug)]
pub(crate) struct Index {
    search: Arc<Search>,
    journal: Arc<dyn Journal>,
}

impl Index {
    pub(crate) fn new(search: Arc<Search>, journal: Arc<dyn Journal>) -> Self {
        Self { search, journal }
    }

    /// The search over every record.
    pub(crate) fn search(&self) -> &Search {
        &self.search
    }

    /// True when a certificate with this serial was issued, by whatever issuer, and still lives.
    pub(crate) fn is_live(&self, serial: &Serial, now: UnixTime) -> bool {
        self.search.is_live(serial, now)
    }

    /// The certificate with this serial.
    pub(crate) fn certificate(&self, serial: &Serial) -> Result<Option<Issued>, LedgerError> {
        self.search.certificate(&*self.journal, serial, None)
    }

    /// The certificate with this serial of this issuer.
    pub(crate) fn certificate_of(&self, issuer: &IssuerKeyId, serial: &Serial) -> Result<Option<Issued>, LedgerError> {
        self.search.certificate(&*self.journal, serial, Some(issuer))
    }

    /// The identities of live certificates on this key.
    pub(crate) fn holders_of(&self, key: &SpkiHash, now: UnixTime) -> Result<Vec<SpiffeId>, LedgerError> {
        let query = LiveQuery {
            spki_sha256: Some(*key),
            ..LiveQuery::default()
        };
        let page = self.search.live(&query, now, None, KEY_HOLDERS_MAX)?;
        let holders = page.rows.iter().filter_map(|row| SpiffeId::parse(&row.spiffe_id).ok());
        Ok(holders.collect())
    }

    /// The record that answered this request of this agent, if its certificate lives.
    pub(crate) fn answered(
        &self,
        agent: &AgentName,
        id: &RequestId,
        now: UnixTime,
    ) -> Result<Option<Issued>, LedgerError> {
        self.search.answered(&*self.journal, agent.as_str(), id, now)
    }

    /// The live certificates that match.
    pub(crate) fn live(&self, query: &LiveQuery, now: UnixTime) -> Result<Vec<LiveCertificate>, LedgerError> {
        self.search.live_all(query, now)
    }

    /// How many live certificates match.
    pub(crate) fn live_count(&self, query: &LiveQuery, now: UnixTime) -> Result<u64, LedgerError> {
        self.search.live_count(query, now)
    }

    /// The same for a listing, which is shown without the number when the index cannot be read.
    pub(crate) fn live_count_shown(&self, query: &LiveQuery, now: UnixTime) -> u64 {
        self.live_count(query, now).unwrap_or_else(|error| {
            tracing::error!(%error, "live certificates cannot be counted");
            0
        })
    }

    /// The serials of every live certificate, to be run through a new revocation filter.
    pub(crate) fn live_serials(&self, now: UnixTime) -> Result<impl Iterator<Item = LiveSerial>, LedgerError> {
        Ok(self.search.live_serials(now)?.map(named))
    }

    /// The serials that the records before `end` have and the index does not yet, read out of the ledger itself. Ask before
    /// [`Self::live_serials`], so that none is missed that the index takes up in between.
    pub(crate) fn serials_to_come(&self, end: u64) -> Result<Vec<LiveSerial>, LedgerError> {
        let mut at = self.search.applied();
        let lag = end.saturating_sub(at);
        if lag > INDEX_LAG_READ_MAX {
            return Err(LedgerError::Beyond {
                what: "indexed record",
                asked: end,
                have: at,
            });
        }
        let mut serials = Vec::new();
        while at < end {
            let records = self.journal.read_from(at, RECORDS_READ_AT_ONCE as usize)?;
            if records.is_empty() {
                return Err(LedgerError::Beyond {
                    what: "record",
                    asked: at,
                    have: self.journal.size(),
                });
            }
            at += records.len() as u64;
            serials.extend(records.iter().filter_map(mintage_ledger::LiveSerial::of).map(named));
        }
        Ok(serials)
    }

    /// Waits until the record at `index` is indexed; `None` when the index follows no longer.
    pub(crate) async fn wait_applied(&self, index: u64) -> Option<()> {
        self.search
            .watch()
            .wait_for(|applied| *applied > index)
            .await
            .ok()
            .map(|_| ())
    }
}

fn named(row: mintage_ledger::LiveSerial) -> LiveSerial {
    LiveSerial {
        issuer: row.issuer,
        serial: row.serial,
        not_after: row.not_after,
    }
}
