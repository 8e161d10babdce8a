//! A set of entries on its way to the CA: as one command where that can hold it, else planned as a whole and sent in parts.

use std::collections::HashSet;

use mintage_policy::Entry;
use mintage_proto::{
    limits::{ADMIN_REQUEST_BYTES_MAX, ENTRIES_PER_REQUEST_MAX},
    v1::{self, ApplyEntriesRequest, ApplyEntriesResponse, entry_change::Action},
};

use super::{apply::Mode, wire};
use crate::{client::Ca, failure::Failure, limits::ENTRIES_PER_COMMAND_MAX, text::count};

/// Bytes an entry's message takes beyond its texts: a tag and a length for each of some 20 fields.
const FRAMING_BYTES: usize = 100;

/// What the CA did, and why it was not asked for the rest.
pub(super) struct Sent {
    pub(super) answer: ApplyEntriesResponse,
    pub(super) rest: Result<(), Failure>,
}

/// Sends a set.
///
/// # Errors
/// When nothing of it was done.
pub(super) async fn send(ca: &Ca, entries: &[Entry], mode: &Mode) -> Result<Sent, Failure> {
    let mut wanted: Vec<v1::Entry> = entries.iter().map(wire).collect();
    if mode.prune {
        check_size(&wanted)?;
    } else {
        // Only entries of one identity can be in each other's way, so they go together.
        wanted.sort_by(|a, b| a.spiffe_id.cmp(&b.spiffe_id));
    }
    let is_one = parts(&wanted, ENTRIES_PER_REQUEST_MAX).len() <= 1;
    if is_one && !mode.prune && wanted.len() <= ENTRIES_PER_COMMAND_MAX {
        return once(ca, wanted, mode, mode.dry_run).await.map(whole);
    }
    let mut plan = ApplyEntriesResponse::default();
    for part in parts(&wanted, ENTRIES_PER_REQUEST_MAX) {
        let planned = once(ca, part.to_vec(), mode, true).await?;
        plan.changes.extend(planned.changes);
        plan.warnings.extend(planned.warnings);
    }
    let [deleted, same] = [Action::Delete, Action::Unchanged].map(|action| of(&plan, action));
    let changed = plan.changes.len() - same;
    if changed > ENTRIES_PER_COMMAND_MAX && mode.prune {
        return Err(too_many_with_prune(changed - deleted, deleted));
    }
    if mode.dry_run {
        return Ok(whole(plan));
    }
    if changed <= ENTRIES_PER_COMMAND_MAX && is_one {
        return once(ca, wanted, mode, false).await.map(whole);
    }
    let (unchanged, changes): (Vec<_>, Vec<_>) = plan
        .changes
        .into_iter()
        .partition(|change| change.action() == Action::Unchanged);
    let names: HashSet<String> = changes.into_iter().map(|change| change.name).collect();
    wanted.retain(|entry| names.contains(&entry.name));
    let planned = ApplyEntriesResponse {
        changes: unchanged,
        index: 0,
        warnings: plan.warnings,
    };
    in_parts(ca, &wanted, planned, mode).await
}

fn whole(answer: ApplyEntriesResponse) -> Sent {
    Sent { answer, rest: Ok(()) }
}

fn of(plan: &ApplyEntriesResponse, action: Action) -> usize {
    plan.changes.iter().filter(|change| change.action() == action).count()
}

/// Sends what changes as several commands, in order; the first that fails is the last. `planned` has what stays as it is, and
/// the warnings of the whole set.
async fn in_parts(ca: &Ca, wanted: &[v1::Entry], planned: ApplyEntriesResponse, mode: &Mode) -> Result<Sent, Failure> {
    let mut sent = whole(planned);
    let mut applied = 0;
    for part in parts(wanted, ENTRIES_PER_COMMAND_MAX) {
        match once(ca, part.to_vec(), mode, false).await {
            Ok(answer) => {
                applied += part.len();
                sent.answer.changes.extend(answer.changes);
                sent.answer.index = sent.answer.index.max(answer.index);
            }
            Err(failure) if applied == 0 => return Err(failure),
            Err(failure) => {
                let (done, all) = (applied, wanted.len());
                let told = format!("{done} of {all} changes were applied before that; mend it and apply the set again");
                sent.rest = Err(failure.and(&told));
                break;
            }
        }
    }
    Ok(sent)
}

async fn once(ca: &Ca, entries: Vec<v1::Entry>, mode: &Mode, dry_run: bool) -> Result<ApplyEntriesResponse, Failure> {
    let request = ApplyEntriesRequest {
        entries,
        prune: mode.prune,
        dry_run,
        create_only: mode.create_only,
    };
    Ok(ca.registry().apply_entries(request).await?.into_inner())
}

/// Cuts a set so that each part has at most so many entries and is read whole by the CA. An empty set is none.
fn parts(entries: &[v1::Entry], entries_max: usize) -> Vec<&[v1::Entry]> {
    let (mut parts, mut from, mut bytes) = (Vec::new(), 0, 0);
    for (at, entry) in entries.iter().enumerate() {
        let more = bytes_of(entry);
        if at > from && (at - from == entries_max || bytes + more > ADMIN_REQUEST_BYTES_MAX) {
            parts.push(&entries[from..at]);
            (from, bytes) = (at, 0);
        }
        bytes += more;
    }
    if from < entries.len() {
        parts.push(&entries[from..]);
    }
    parts
}

fn bytes_of(entry: &v1::Entry) -> usize {
    let lists = entry
        .agents
        .iter()
        .chain(&entry.selectors)
        .chain(&entry.dns_names)
        .chain(&entry.jwt_audiences)
        .chain(&entry.federates_with)
        .map(|text| text.len() + 4);
    let plain = [
        &entry.name,
        &entry.spiffe_id,
        &entry.common_name,
        &entry.hint,
        &entry.owner,
        &entry.environment,
    ];
    lists.sum::<usize>() + plain.iter().map(|text| text.len()).sum::<usize>() + entry.purpose.len() + FRAMING_BYTES
}

/// What is missing from a set is deleted, so that it must go as a whole: one the CA would not read is refused here, where
/// it can be said better.
fn check_size(entries: &[v1::Entry]) -> Result<(), Failure> {
    let bytes: usize = entries.iter().map(bytes_of).sum();
    match bytes > ADMIN_REQUEST_BYTES_MAX || entries.len() > ENTRIES_PER_REQUEST_MAX {
        true => Err(Failure::local(format!(
            "{} take {bytes} bytes, a set with --prune has at most {ENTRIES_PER_REQUEST_MAX} entries and \
             {ADMIN_REQUEST_BYTES_MAX} bytes; apply it without --prune, and delete by `mintage entry delete`",
            count(entries.len() as u64, "entry", "entries")
        ))),
        false => Ok(()),
    }
}

/// A rename deletes one entry and creates another for the same workload, which must be one command: such a set is not cut.
fn too_many_with_prune(put: usize, deleted: usize) -> Failure {
    Failure::local(format!(
        "{put} entries would be created or changed and {deleted} deleted; with --prune at most \
         {ENTRIES_PER_COMMAND_MAX} are, because they change together. Apply the set without --prune first, which takes any \
         number, then with it; delete more than so many by `mintage entry delete`"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(purpose: usize) -> v1::Entry {
        v1::Entry {
            purpose: "x".repeat(purpose),
            ..v1::Entry::default()
        }
    }

    #[test]
    fn a_set_is_cut_by_entries_and_by_bytes_and_nothing_is_lost() {
        assert!(parts(&[], 512).is_empty());
        let small = vec![entry(1); 1_100];
        let lengths = |parts: Vec<&[v1::Entry]>| parts.iter().map(|part| part.len()).collect::<Vec<_>>();
        assert_eq!(lengths(parts(&small, 512)), [512, 512, 76]);
        let large = vec![entry(ADMIN_REQUEST_BYTES_MAX / 2 - FRAMING_BYTES); 5];
        assert_eq!(lengths(parts(&large, 512)), [2, 2, 1]);
        let huge = vec![entry(ADMIN_REQUEST_BYTES_MAX); 2];
        assert_eq!(lengths(parts(&huge, 512)), [1, 1], "the CA refuses them, and says why");
    }

    #[test]
    fn a_set_with_prune_the_ca_would_not_read_is_refused_here() {
        assert!(check_size(&vec![entry(250); 10_000]).is_ok());
        for refused in [vec![entry(1); 10_001], vec![entry(500); 9_000]] {
            let told = check_size(&refused).unwrap_err().to_string();
            assert!(told.contains("4194304 bytes; apply it without --prune"), "{told}");
        }
    }
}
