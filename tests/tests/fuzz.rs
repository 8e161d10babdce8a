//! Every fuzz target on its own seeds, on mutations of them, and on bytes of no origin.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::{
    io::Write,
    process::{Command, Stdio},
};

use mintage_tests::{
    fuzz::{TARGETS, Target},
    kit::bins::binary,
};
use proptest::{collection::vec, prelude::*, sample::Index, test_runner::TestRunner};

/// One change to an input.
#[derive(Clone, Debug)]
enum Change {
    Flip(Index, u8),
    Set(Index, u8),
    Insert(Index, Vec<u8>),
    Remove(Index, Index),
    /// A piece is put in again elsewhere.
    Copy(Index, Index, Index),
    Cut(Index),
}

fn change() -> impl Strategy<Value = Change> {
    let at = any::<Index>;
    prop_oneof![
        4 => (at(), 0u8..8).prop_map(|(at, bit)| Change::Flip(at, 1 << bit)),
        4 => (at(), prop_oneof![Just(0), Just(1), Just(127), Just(128), Just(255), any::<u8>()])
            .prop_map(|(at, octet)| Change::Set(at, octet)),
        2 => (at(), vec(any::<u8>(), 1..9)).prop_map(|(at, octets)| Change::Insert(at, octets)),
        2 => (at(), at()).prop_map(|(from, to)| Change::Remove(from, to)),
        1 => (at(), at(), at()).prop_map(|(from, to, at)| Change::Copy(from, to, at)),
        1 => at().prop_map(Change::Cut),
    ]
}

/// A piece of at most 64 octets.
fn piece(bytes: &[u8], from: Index, length: Index) -> std::ops::Range<usize> {
    let from = from.index(bytes.len());
    let length = 1 + length.index(64);
    from..(from + length).min(bytes.len())
}

fn apply(bytes: &mut Vec<u8>, change: Change) {
    if bytes.is_empty() {
        return;
    }
    match change {
        Change::Flip(at, bit) => *at.get_mut(bytes) ^= bit,
        Change::Set(at, octet) => *at.get_mut(bytes) = octet,
        Change::Insert(at, octets) => {
            let at = at.index(bytes.len() + 1);
            bytes.splice(at..at, octets);
        }
        Change::Remove(from, length) => drop(bytes.drain(piece(bytes, from, length))),
        Change::Copy(from, length, at) => {
            let copied = bytes[piece(bytes, from, length)].to_vec();
            let at = at.index(bytes.len() + 1);
            bytes.splice(at..at, copied);
        }
        Change::Cut(at) => bytes.truncate(at.index(bytes.len())),
    }
}

fn campaign(target: &Target) {
    let seeds = (target.seeds)();
    // A seed that is not taken would make its campaign prove nothing.
    for (at, seed) in seeds.iter().enumerate() {
        assert!((target.run)(seed), "{} refuses its seed {at}", target.name);
    }
    assert!(!(target.run)(&[]), "{} takes nothing for something", target.name);
    // Seven in eight are near what is accepted, where the deep ends are.
    let inputs = prop_oneof![
        7 => (any::<Index>(), vec(change(), 1..6)).prop_map(move |(seed, changes)| {
            let mut bytes = seed.get(&seeds).clone();
            changes.into_iter().for_each(|change| apply(&mut bytes, change));
            bytes
        }),
        1 => vec(any::<u8>(), 0..700),
    ];
    let outcome = TestRunner::default().run(&inputs, |bytes| {
        let _ = (target.run)(&bytes);
        Ok(())
    });
    if let Err(found) = outcome {
        panic!("{}: {found}", target.name);
    }
}

macro_rules! campaigns {
    ($($test:ident: $name:literal,)*) => {
        $(
            #[test]
            fn $test() {
                campaign(TARGETS.iter().find(|target| target.name == $name).unwrap());
            }
        )*

        #[test]
        fn every_target_has_its_campaign() {
            let campaigns = [$($name),*];
            let targets: Vec<&str> = TARGETS.iter().map(|target| target.name).collect();
            assert_eq!(targets, campaigns);
        }
    };
}

campaigns! {
    a_record: "record",
    a_frame: "frame",
    a_write_ahead_file: "wal-file",
    a_tile: "tile",
    a_bundle: "bundle",
    a_tile_path: "tile-path",
    sealed_entries: "entries",
    a_sealed_index: "index",
    a_checkpoint: "checkpoint",
    a_signed_note: "signed-note",
    a_tlog_proof: "tlog-proof",
    a_witness_request: "add-checkpoint",
    a_verifier_key: "vkey",
    a_tlog_policy: "tlog-policy",
    a_revocation_snapshot: "revocation-snapshot",
    a_revocation_delta: "revocation-delta",
    a_revocation_heartbeat: "revocation-heartbeat",
    a_delegation: "delegation",
    a_revocation_map: "revocation-map",
    an_escaped_chain: "escaped-chain",
    a_path_of_a_look_up: "lookup-path",
    a_signing_request: "csr",
    a_revocation_list: "crl",
    a_spiffe_id: "spiffe-id",
    a_file_of_entries: "entries-file",
    a_request_for_secrets: "sds-request",
}

#[test]
fn the_program_feeds_a_target_and_tells_a_wrong_name() {
    let run = |words: &[&str], input: &[u8]| {
        let mut child = Command::new(binary("mintage-fuzz"))
            .args(words)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        // Who refuses its words reads nothing.
        let _ = child.stdin.take().unwrap().write_all(input);
        child.wait_with_output().unwrap()
    };
    let named = String::from_utf8(run(&[], b"").stdout).unwrap();
    assert_eq!(named.lines().count(), TARGETS.len());
    assert!(run(&["spiffe-id"], b"spiffe://dev.test/web").status.success());
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("seeds");
    assert!(run(&["--seeds", "record", dir.to_str().unwrap()], b"").status.success());
    let seeds: Vec<String> = std::fs::read_dir(&dir)
        .unwrap()
        .map(|entry| entry.unwrap().path().to_str().unwrap().to_owned())
        .collect();
    let words: Vec<&str> = std::iter::once("record")
        .chain(seeds.iter().map(String::as_str))
        .collect();
    assert!(seeds.len() > 3 && run(&words, b"").status.success());
    let wrong = run(&["recrod"], b"");
    assert_eq!(wrong.status.code(), Some(1));
    assert!(String::from_utf8(wrong.stderr).unwrap().contains("recrod"));
}
