//! The ledger's formats: records, its own files, and what C2SP gives to others.

use std::io::Write;

use mintage_identity::{SpiffeId, TrustDomain, UnixTime};
use mintage_ledger::{
    Actor, AddCheckpoint, Body, Checkpoint, Cosigner, CosignerKey, FileJournal, ForeignCheckpoint, Frontier, Journal,
    LogKey, OpenOptions, Origin, Policy, Record, SignedCheckpoint, SignedNote, TILE_WIDTH, TlogProof, TreePath, Vkey,
    fuzzing, leaf_hash, wire,
};
use tempfile::NamedTempFile;
use zeroize::Zeroizing;

fn key() -> LogKey {
    LogKey::generate(&Zeroizing::new([3; 32])).expect("a key").0
}

fn origin() -> Origin {
    let domain = TrustDomain::parse("dev.test").expect("a trust domain");
    Origin::new(&domain, "a1b2", UnixTime::from_seconds(1_764_547_200)).expect("an origin")
}

fn head(body: Body, seed: u8) -> Record {
    Record {
        time: UnixTime::from_seconds(1_764_547_200),
        salt: [seed; 16],
        actor: Actor::Replica {
            id: SpiffeId::parse("spiffe://dev.test/mintage/ca/ca-1").expect("an id"),
        },
        attestation: None,
        request_id: None,
        replica: "ca-1".into(),
        control_seen: 4,
        body,
    }
}

/// The first of a log, and others.
fn bodies() -> [Body; 4] {
    let open = wire::LogOpen {
        origin: origin().to_string(),
        vkey: key().vkey(&origin()).to_string(),
        ..Default::default()
    };
    let deny = wire::Deny {
        spiffe_id: "spiffe://dev.test/web".into(),
        entry: "web".into(),
        code: "entry-unknown".into(),
        why: "no such entry".into(),
        suppressed: 7,
    };
    let event = wire::AdminEvent {
        action: "login".into(),
        detail: String::new(),
    };
    let close = wire::LogClose {
        reason: "clean stop".into(),
    };
    [
        Body::LogOpen(open),
        Body::Deny(deny),
        Body::AdminEvent(event),
        Body::LogClose(close),
    ]
}

pub(super) fn records() -> Vec<Vec<u8>> {
    let written = |(body, seed)| fuzzing::written(head(body, seed)).expect("a record");
    bodies().into_iter().zip(1..).map(written).collect()
}

/// A record is written in one way, whatever other bytes protobuf reads as the same.
pub(super) fn record(bytes: &[u8]) -> bool {
    let Ok(record) = Record::decode(bytes) else {
        return false;
    };
    let one = fuzzing::written(record).expect("a record that was read can be written");
    assert!(one.len() <= bytes.len(), "nothing is made up");
    let again = Record::decode(&one).expect("a record that was written can be read");
    let again = fuzzing::written(again).expect("a record that was read can be written");
    assert_eq!(again, one, "a record is written in one way");
    true
}

pub(super) fn framed() -> Vec<Vec<u8>> {
    vec![fuzzing::framed(&records()), fuzzing::framed(&[vec![0; 60 * 1024]])]
}

pub(super) fn frames(bytes: &[u8]) -> bool {
    let again = fuzzing::frames(bytes);
    assert!(bytes.starts_with(&again), "frames are written where they stood");
    !again.is_empty()
}

/// A file that was just begun, and one with groups of one, two and twelve records.
pub(super) fn wal_files() -> Vec<Vec<u8>> {
    let folder = tempfile::tempdir().expect("a folder");
    let ledger = folder.path().join("ledger");
    let options = OpenOptions {
        reserve_bytes: 4096,
        ..OpenOptions::default()
    };
    let mut encoded = bodies().map(|body| head(body, 1).encode().expect("a record")).to_vec();
    let open = encoded.remove(0);
    let journal = FileJournal::create(&ledger, &origin(), &key(), open, options).expect("a ledger");
    let file = ledger
        .join(origin().id())
        .join(origin().shard())
        .join("head/00000001.wal");
    let mut files = vec![std::fs::read(&file).expect("its file")];
    for many in [1, 2, 12] {
        let group: Vec<_> = encoded.iter().cycle().take(many).cloned().collect();
        journal.append(&group, u64::MAX).expect("a group");
    }
    files.push(std::fs::read(&file).expect("its file"));
    files
}

/// As it is, and with the checksums of its frames made right: recovery believes no frame for its checksum alone.
pub(super) fn wal_file(bytes: &[u8]) -> bool {
    let mut repaired = bytes.to_vec();
    fuzzing::repair_wal(&mut repaired);
    let [plain, _] = [bytes, &repaired].map(|bytes| {
        let Ok((records, end)) = fuzzing::wal_file(bytes, &origin()) else {
            return false;
        };
        assert!(end <= bytes.len(), "no group reaches beyond the file");
        // What was cut was never acknowledged: without it the same is found.
        let mut whole = bytes[..end].to_vec();
        whole.resize(bytes.len(), 0);
        let again = fuzzing::wal_file(&whole, &origin()).expect("whole groups and space");
        assert_eq!(again, (records, end));
        true
    });
    plain
}

pub(super) fn tiles() -> Vec<Vec<u8>> {
    let tile: Vec<u8> = (0u8..=255).flat_map(|octet| *leaf_hash(&[octet]).as_bytes()).collect();
    // In a file of the first level others follow.
    vec![tile.clone(), tile.repeat(2)]
}

/// A tile is there whole, octet for octet, or it is not there.
pub(super) fn tile(bytes: &[u8]) -> bool {
    let folder = tempfile::tempdir_in("/dev/shm")
        .or_else(|_| tempfile::tempdir())
        .expect("a folder");
    let found = fuzzing::tile(folder.path(), bytes).expect("files are written and read");
    let whole = bytes.get(..TILE_WIDTH * 32);
    for tile in &found {
        let octets = tile
            .as_ref()
            .map(|hashes| hashes.iter().flat_map(|hash| *hash.as_bytes()).collect::<Vec<_>>());
        assert_eq!(octets.as_deref(), whole);
    }
    whole.is_some()
}

pub(super) fn bundles() -> Vec<Vec<u8>> {
    let bundle = |records: &[Vec<u8>]| {
        let mut bundle = vec![u8::try_from(records.len() - 1).expect("at most 256")];
        for record in records {
            bundle.extend_from_slice(&u16::try_from(record.len()).expect("a short record").to_be_bytes());
            bundle.extend_from_slice(record);
        }
        bundle
    };
    vec![bundle(&records()), bundle(&vec![Vec::new(); 256])]
}

/// The first octet is the width less one.
pub(super) fn bundle(bytes: &[u8]) -> bool {
    let Some((width, bundle)) = bytes.split_first() else {
        return false;
    };
    let again = fuzzing::bundle(bundle, usize::from(*width) + 1);
    assert!(
        again.as_deref().is_none_or(|again| again == bundle),
        "a bundle has one encoding"
    );
    again.is_some()
}

pub(super) fn tile_paths() -> Vec<Vec<u8>> {
    [
        "checkpoint",
        "tile/0/x001/x234/067",
        "tile/1/000.p/17",
        "tile/entries/273.p/112",
    ]
    .map(|path| path.as_bytes().to_vec())
    .into()
}

pub(super) fn tile_path(bytes: &[u8]) -> bool {
    let path = std::str::from_utf8(bytes).unwrap_or_default();
    if TreePath::parse(path).is_none() {
        return false;
    }
    assert!(
        !path.starts_with('/') && !path.contains("..") && !path.contains("//"),
        "{path:?}"
    );
    let plain = |octet: u8| octet.is_ascii_alphanumeric() || b"/.".contains(&octet);
    assert!(path.bytes().all(plain), "{path:?}");
    true
}

fn many_records() -> Vec<Vec<u8>> {
    (0..6).flat_map(|_| records()).collect()
}

fn sealed() -> (Vec<u8>, Vec<u8>) {
    fuzzing::sealed(&many_records()).expect("short records")
}

pub(super) fn sealed_entries() -> Vec<Vec<u8>> {
    vec![sealed().0]
}

pub(super) fn sealed_index() -> Vec<Vec<u8>> {
    vec![sealed().1]
}

fn file_of(bytes: &[u8]) -> NamedTempFile {
    let memory = NamedTempFile::new_in("/dev/shm").or_else(|_| NamedTempFile::new());
    let mut file = memory.expect("a file");
    file.write_all(bytes).expect("it is written");
    file
}

pub(super) fn entries(bytes: &[u8]) -> bool {
    let file = file_of(bytes);
    let records = fuzzing::entries(file.path());
    assert!(records.as_ref().is_ok_and(|records| records.len() <= 65_536) || records.is_err());
    records.is_ok()
}

/// As it is, and with the checksum of its head made right: nothing behind the head is believed either.
pub(super) fn index(bytes: &[u8]) -> bool {
    let mut repaired = bytes.to_vec();
    fuzzing::repair_index(&mut repaired);
    let [plain, repaired] = [bytes, &repaired].map(|bytes| {
        let answered = fuzzing::index(file_of(bytes).path()).unwrap_or_default();
        assert!(
            answered <= 64 * (bytes.len() + 64),
            "more answers than the file has octets"
        );
        answered > 0
    });
    plain && repaired
}

fn signed() -> SignedCheckpoint {
    let mut tree = Frontier::new();
    records().iter().for_each(|record| tree.push(leaf_hash(record)));
    key().sign(Checkpoint {
        origin: origin(),
        size: tree.size(),
        root: tree.root(),
    })
}

fn witness() -> Cosigner {
    let pair = LogKey::generate(&Zeroizing::new([4; 32])).expect("a key").0;
    Cosigner::new("witness.example/w1", pair).expect("a witness")
}

pub(super) fn checkpoints() -> Vec<Vec<u8>> {
    let plain = signed();
    let line = witness()
        .cosign(plain.note(), UnixTime::from_seconds(7))
        .expect("a cosignature");
    let cosigned = plain.note().with_lines([line]).expect("one more line");
    vec![plain.to_string().into_bytes(), cosigned.to_string().into_bytes()]
}

/// No other bytes than the signed ones pass under the key, but for lines of others.
pub(super) fn checkpoint(bytes: &[u8]) -> bool {
    if let Ok(note) = SignedNote::parse(bytes) {
        let _ = ForeignCheckpoint::parse(note.text());
    }
    let _ = ForeignCheckpoint::parse(std::str::from_utf8(bytes).unwrap_or_default());
    let found = SignedCheckpoint::verify(bytes, &key().vkey(&origin()));
    if let Ok(found) = &found {
        assert_eq!(found.note().text(), signed().note().text(), "nobody signed this");
    }
    found.is_ok()
}

pub(super) fn signed_note(bytes: &[u8]) -> bool {
    let Ok(note) = SignedNote::parse(bytes) else {
        return false;
    };
    let text = note.to_string();
    let again = SignedNote::parse(text.as_bytes()).expect("a note that was written can be read");
    assert_eq!(again.to_string(), text);
    assert_eq!(again.text(), note.text());
    assert!(
        bytes.starts_with(note.text().as_bytes()),
        "the text is what stood there"
    );
    true
}

pub(super) fn tlog_proofs() -> Vec<Vec<u8>> {
    let leaves = [1u8, 2, 3].map(|octet| leaf_hash(&[octet])).to_vec();
    let plain = TlogProof::new(None, 2, leaves.clone(), signed().note().clone());
    let extra = TlogProof::new(Some(records().remove(0)), 0, leaves, signed().note().clone());
    [plain, extra].map(|proof| proof.to_string().into_bytes()).into()
}

pub(super) fn tlog_proof(bytes: &[u8]) -> bool {
    let Ok(proof) = TlogProof::parse(bytes) else {
        return false;
    };
    let text = proof.to_string();
    let again = TlogProof::parse(text.as_bytes()).expect("a proof that was written can be read");
    assert_eq!(again.to_string(), text);
    true
}

pub(super) fn add_checkpoints() -> Vec<Vec<u8>> {
    let proof = vec![leaf_hash(&[1]), leaf_hash(&[2])];
    let request = AddCheckpoint::new(2, proof, signed().note().clone()).expect("a request");
    vec![request.to_string().into_bytes()]
}

pub(super) fn add_checkpoint(bytes: &[u8]) -> bool {
    let Ok(request) = AddCheckpoint::parse(bytes) else {
        return false;
    };
    let text = request.to_string();
    let again = AddCheckpoint::parse(text.as_bytes()).expect("a request that was written can be read");
    assert_eq!(again.to_string(), text);
    true
}

pub(super) fn vkeys() -> Vec<Vec<u8>> {
    vec![
        key().vkey(&origin()).to_string().into_bytes(),
        witness().key().to_string().into_bytes(),
    ]
}

pub(super) fn vkey(bytes: &[u8]) -> bool {
    let text = std::str::from_utf8(bytes).unwrap_or_default();
    let log = text.parse::<Vkey>().map(|key| key.to_string());
    let witness = text.parse::<CosignerKey>().map(|key| key.to_string());
    for spelling in log.iter().chain(&witness) {
        assert_eq!(spelling, text, "a verifier key has one spelling");
    }
    log.is_ok() || witness.is_ok()
}

pub(super) fn tlog_policies() -> Vec<Vec<u8>> {
    let log = key().vkey(&origin());
    let witness = witness().key().to_string();
    [
        format!("log {log}\nquorum none\n"),
        format!("# ours\nlog {log}\nwitness w1 {witness}\ngroup g any w1\nquorum g\n"),
    ]
    .map(String::into_bytes)
    .into()
}

pub(super) fn tlog_policy(bytes: &[u8]) -> bool {
    let policy = Policy::parse(bytes);
    assert!(policy.as_ref().is_ok_and(|policy| policy.logs().len() <= 256) || policy.is_err());
    policy.is_ok()
}
