//! The history that a restore begins. What the lost directory recorded after the backup is in the log that it ended in, and
//! others may hold it: a witness, an auditor's checkpoint. So the backup's log is closed, and all that the restore records is in a
//! new one, with a name that the lost directory cannot have used and a key that it never had.

use std::sync::Arc;

use mintage_identity::UnixTime;
use mintage_ledger::{
    Body, FileJournal, Journal, LedgerError, LogKey, LogKeys, Origin, Roll,
    wire::{CaEvent, CaEventKind, CaRole, LogClose},
};
use mintage_state::State;
use zeroize::Zeroizing;

use super::{
    backup::Backup,
    records::{append, encode, random},
};
use crate::{
    ca_events::bare, data_dir::DataDir, error::CaError, init::Deps, keys, open::open_ledger, shards::time_before,
};

/// Opens the ledger in a new log, for the first record that the lost directory never had.
pub(super) fn enter_log(
    data: &DataDir,
    backup: &Backup,
    (now, deps): (UnixTime, &Deps),
) -> Result<Arc<FileJournal>, CaError> {
    let (domain, protection) = (&backup.authority().trust_domain, backup.protection());
    let journal = Arc::new(open_ledger(data, backup.log_key())?);
    let (dir, old) = (data.keys()?, journal.log());
    let next = unused_name(old.origin(), (now, deps))?;
    let (key, pkcs8) = LogKey::generate(&Zeroizing::new(random(deps)?))?;
    keys::replace_log_key(&dir, &next, &pkcs8, protection, domain, deps.random)?;
    let event = |public: &[u8], kind: CaEventKind| {
        Body::CaEvent(CaEvent {
            event: kind.into(),
            note: format!("restore: log {next} begins"),
            ..bare(CaRole::Log, public, Vec::new(), 0)
        })
    };
    let note = |bodies| append(&journal, backup, bodies, (now, deps)).map_err(|problem| data.problem(problem));
    let new_public = key.public_key();
    note(vec![event(&new_public, CaEventKind::Prepare)])?;
    close(data, backup, &journal, (&next, key), (now, deps))?;
    note(vec![
        event(&new_public, CaEventKind::Activate),
        event(old.vkey().public_key(), CaEventKind::Retire),
    ])?;
    keys::remove_other_log_keys(&dir, &next)?;
    Ok(journal)
}

/// A name of this month that nobody can have used: it has random digits.
fn unused_name(old: &Origin, (now, deps): (UnixTime, &Deps)) -> Result<Origin, CaError> {
    Ok(old.of_month(now)?.restored(random(deps)?)?)
}

/// Closes the backup's log and begins the next, over a state that is opened for its snapshot alone.
fn close(
    data: &DataDir,
    backup: &Backup,
    journal: &Arc<FileJournal>,
    (next, key): (&Origin, LogKey),
    (now, deps): (UnixTime, &Deps),
) -> Result<(), CaError> {
    let (domain, protection) = (&backup.authority().trust_domain, backup.protection());
    let old = keys::read_log_key(&data.keys()?, journal.log().origin(), protection, domain)?;
    let keys = LogKeys::new(journal.log().origin(), LogKey::from_pkcs8(&old)?);
    let state = State::open(&data.state(), domain, journal.clone() as Arc<dyn Journal>)?;
    let record = |body| encode(backup, body, 0, (now, deps));
    let refused = |error: CaError| LedgerError::Record(error.to_string());
    let roll = Roll {
        next,
        key,
        closing: record(Body::LogClose(LogClose {
            reason: "restore".to_owned(),
        }))?,
        snapshot: &mut |position| {
            let at = time_before(&**journal, position)?;
            let snapshot = state.snapshot(position, at);
            snapshot.map_err(|error| LedgerError::Record(error.to_string()))
        },
        opening: &mut |open| record(Body::LogOpen(open)).map_err(refused),
    };
    journal.roll(&keys, roll)?;
    Ok(())
}
