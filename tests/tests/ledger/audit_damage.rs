//! A ledger that somebody cut, thinned out, shuffled or altered, before `mintage audit verify`: the verb says no and names
//! the place. A record that was only half written, which nobody was told of, is repaired by the next start.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use mintage_tests::kit::{
    bins::binary,
    ca::{self, CaProcess, entries},
    wal::{Frame, GROUP_HEAD, RECORD, frames, wal},
};
use serde_json::Value;
use tempfile::TempDir;

/// An authority whose ledger has several groups, stopped cleanly.
async fn used() -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("ca");
    ca::make(&dir);
    let running = CaProcess::start(&dir, 0);
    for name in ["web", "db", "mail"] {
        ca::entry(&running.admin_socket(), name, &format!("/{name}")).await;
    }
    assert_eq!(running.stop(), Some(0));
    (folder, dir)
}

/// Runs the verb; its exit code and the one object it prints.
fn verify(dir: &Path) -> (Option<i32>, Value) {
    let mut command = Command::new(binary("mintage"));
    command.env_remove("MINTAGE_FORMAT").arg("--data-dir").arg(dir);
    let output = command
        .args(["audit", "verify", "-o", "json"])
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    let object = serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {told}"));
    (output.status.code(), object)
}

#[track_caller]
fn proves(dir: &Path, records: usize) -> Value {
    let (code, told) = verify(dir);
    assert_eq!((code, &told["proven"]), (Some(0), &Value::Bool(true)), "{told}");
    assert_eq!(told["shards"][0]["size"], records, "{told}");
    told
}

/// Holds that the verb says no, and names the record and the octet.
#[track_caller]
fn names(what: &str, dir: &Path, index: usize, at: usize) {
    let (code, told) = verify(dir);
    assert_eq!(
        (code, &told["proven"]),
        (Some(3), &Value::Bool(false)),
        "{what}: {told}"
    );
    assert_eq!(told["index"], index, "{what}: {told}");
    let problem = told["problem"].as_str().unwrap();
    for part in ["00000001.wal", &format!("byte {at}")] {
        assert!(problem.contains(part), "{what}: no {part:?} in {problem}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_kind_of_damage_is_named_by_record_and_byte() {
    let (_folder, dir) = used().await;
    let wal = wal(&dir);
    let whole = fs::read(&wal).unwrap();
    let frames = frames(&whole);
    let of_kind = |kind| frames.iter().copied().filter(move |frame: &Frame| frame.kind == kind);
    let records: Vec<Frame> = of_kind(RECORD).collect();
    let heads: Vec<Frame> = of_kind(GROUP_HEAD).collect();
    proves(&dir, records.len());

    // Cut between two groups: what is there is whole, and less than was signed.
    let head = heads[heads.len() / 2];
    let kept = records.iter().filter(|record| record.at < head.at).count();
    fs::write(&wal, &whole[..head.at]).unwrap();
    names("cut between groups", &dir, kept, head.at);

    // The group that holds a record, and the number of records before it.
    let group_of = |record: Frame| {
        let group = heads.iter().rev().find(|head| head.at < record.at).unwrap();
        (records.iter().filter(|record| record.at < group.at).count(), *group)
    };
    // Cut inside a record that was acknowledged.
    let last = records[records.len() - 1];
    let (before, group) = group_of(last);
    fs::write(&wal, &whole[..last.at + last.len / 2]).unwrap();
    names("cut inside the last record", &dir, before, group.at);

    let middle = records.len() / 2;
    let record = records[middle];
    let mut altered = whole.clone();
    altered[record.at + record.len / 2] ^= 0x10;
    fs::write(&wal, &altered).unwrap();
    names("one bit of a record", &dir, middle, record.at);

    // What the group's own head says of its length is wrong from then on, so the group is what is named.
    let (first, group) = group_of(record);
    let removed = [&whole[..record.at], &whole[record.at + record.len..]].concat();
    fs::write(&wal, removed).unwrap();
    names("removed", &dir, first, group.at);

    // Two neighbouring groups, the later one first.
    let [one, two, end] = [heads[1], heads[2], heads[3]];
    let first = records.iter().filter(|record| record.at < one.at).count();
    let swapped = [
        &whole[..one.at],
        &whole[two.at..end.at],
        &whole[one.at..two.at],
        &whole[end.at..],
    ];
    fs::write(&wal, swapped.concat()).unwrap();
    names("reordered", &dir, first, one.at);

    fs::write(&wal, &whole).unwrap();
    proves(&dir, records.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_that_nobody_was_told_of_may_be_half_written_and_is_repaired() {
    let (folder, dir) = used().await;
    let torn = folder.path().join("torn");
    let copied = Command::new("cp").arg("-a").args([&dir, &torn]).status().unwrap();
    assert!(copied.success());
    let before = fs::read(wal(&torn)).unwrap();
    let standing = frames(&before);
    let records = standing.iter().filter(|frame| frame.kind == RECORD).count();
    let end = standing.last().map(|frame| frame.at + frame.len).unwrap();
    // What the next start wrote first, of which a crash would have left the beginning.
    assert_eq!(CaProcess::start(&dir, 0).stop(), Some(0));
    let after = fs::read(wal(&dir)).unwrap();
    assert_eq!(after[..end], before[..end], "the same file goes on");
    let next = frames(&after);
    let heads: Vec<usize> = next
        .iter()
        .filter(|frame| frame.kind == GROUP_HEAD)
        .map(|frame| frame.at)
        .collect();
    let at = heads
        .iter()
        .position(|at| *at == end)
        .expect("a group begins where the last one ended");
    for octets in [1, 8, (heads[at + 1] - end) / 2, heads[at + 1] - end - 1] {
        let mut half = before.clone();
        half.resize(half.len().max(end + octets), 0);
        half[end..end + octets].copy_from_slice(&after[end..end + octets]);
        fs::write(wal(&torn), &half).unwrap();
        let told = proves(&torn, records);
        assert_eq!(told["shards"][0]["unfinished_tail"], true, "{octets}: {told}");
    }
    let running = CaProcess::start(&torn, 0);
    assert_eq!(entries(&running.admin_socket()).await, 3);
    assert_eq!(running.stop(), Some(0));
    let (code, told) = verify(&torn);
    assert_eq!(code, Some(0), "{told}");
    assert_eq!(told["shards"][0]["unfinished_tail"], false, "{told}");
    assert!(told["shards"][0]["size"].as_u64().unwrap() as usize > records, "{told}");
}
