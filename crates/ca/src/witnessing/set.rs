//! The configured set of witnesses as the log has it: a change is recorded at the start that brings it.

use std::{collections::BTreeMap, sync::Arc};

use mintage_ledger::{Body, Cursor, Kind, Query, limits::PAGE_ROWS_MAX, wire};

use crate::{
    control::{Origin, note},
    desk::Desk,
    error::CaError,
    limits::WITNESS_EVENT_PAGES_MAX,
};

/// `witness.event` of a witness that is asked from now on.
const ADDED: &str = "added";
/// `witness.event` of a witness that is asked no more.
const REMOVED: &str = "removed";

/// What to record so that the log names exactly the configured keys.
fn changes<'a>(recorded: &'a BTreeMap<String, bool>, configured: &'a [String]) -> Vec<(&'a str, &'static str)> {
    let stands = |key: &str| recorded.get(key).copied().unwrap_or(false);
    let gone = recorded.keys().filter(|key| stands(key) && !configured.contains(key));
    let new = configured.iter().filter(|key| !stands(key));
    let gone = gone.map(|key| (key.as_str(), REMOVED));
    gone.chain(new.map(|key| (key.as_str(), ADDED))).collect()
}

/// Whether each key that the log names was added last, and not removed.
fn recorded(desk: &Desk) -> Result<BTreeMap<String, bool>, CaError> {
    let query = Query {
        kinds: vec![Kind::WitnessEvent],
        ..Query::default()
    };
    let mut found = BTreeMap::new();
    let mut from: Option<Cursor> = None;
    for _ in 0..WITNESS_EVENT_PAGES_MAX {
        // The newest first, so the first that is met of a key decides.
        let page = desk.index.search().query(&query, from, PAGE_ROWS_MAX)?;
        for hit in &page.rows {
            let Some(stored) = desk.journal.read_from(hit.index, 1)?.pop() else {
                continue;
            };
            let Body::WitnessEvent(event) = stored.decode()?.body else {
                continue;
            };
            if matches!(event.event.as_str(), ADDED | REMOVED) {
                found.entry(event.witness).or_insert(event.event == ADDED);
            }
        }
        from = page.next;
        if from.is_none() {
            break;
        }
    }
    Ok(found)
}

/// Records what changed since the last start.
pub(super) async fn record_changes(desk: &Arc<Desk>) -> Result<(), CaError> {
    let reader = desk.clone();
    let known = tokio::task::spawn_blocking(move || recorded(&reader)).await;
    let known = known.map_err(|error| CaError::Poisoned(error.to_string()))??;
    let configured: Vec<String> = desk.witnesses.peers().iter().map(|peer| peer.key.to_string()).collect();
    for (witness, event) in changes(&known, &configured) {
        record(desk, witness, event, desk.journal.size());
    }
    Ok(())
}

/// Records something about a witness, named by its whole verifier key.
pub(super) fn record(desk: &Desk, witness: &str, event: &str, tree_size: u64) {
    let event = wire::WitnessEvent {
        witness: witness.to_owned(),
        event: event.to_owned(),
        tree_size,
        cosignature: String::new(),
    };
    note(desk, &Origin::replica(desk), Body::WitnessEvent(event));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_changed_is_recorded() {
        let recorded: BTreeMap<_, _> = [("a", true), ("b", true), ("c", false)]
            .map(|(key, stands)| (key.to_owned(), stands))
            .into();
        let configured = |keys: &[&str]| keys.iter().map(|key| (*key).to_owned()).collect::<Vec<_>>();
        assert_eq!(changes(&recorded, &configured(&["a", "b"])), []);
        assert_eq!(
            changes(&recorded, &configured(&["a", "c", "d"])),
            [("b", REMOVED), ("c", ADDED), ("d", ADDED)]
        );
        assert_eq!(changes(&recorded, &[]), [("a", REMOVED), ("b", REMOVED)]);
        assert_eq!(changes(&BTreeMap::new(), &[]), []);
    }
}
