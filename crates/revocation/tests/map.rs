//! The node's map: in step with its writer, bounded by its own file, and never a reason to answer Good.

#![allow(clippy::unwrap_used, reason = "a test may fail")]

mod publisher;

use std::{
    fs,
    os::unix::fs::{FileExt, MetadataExt, PermissionsExt},
    path::PathBuf,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
};

use mintage_identity::TrustDomain;
use mintage_revocation::{
    Exception, IssuerCoverage, MapOwner, MapReader, MapWriter, RevocationError, RevokedSet, RuleTarget, SerialKind,
    Verdict, Why,
};
use publisher::{BY_SERIAL, Cert, NATIVE, Publisher, START, STRANGER, domain, id, seconds, twin};

struct Node {
    publisher: Publisher,
    replica: mintage_revocation::Replica,
    writer: Option<MapWriter>,
    path: PathBuf,
    _dir: tempfile::TempDir,
}

impl Node {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("revocation.map");
        let publisher = Publisher::new();
        let replica = publisher.current_follower();
        let mut writer = MapWriter::create(&path, &domain()).unwrap();
        writer.publish(&replica.view(), START).unwrap();
        Self {
            publisher,
            replica,
            writer: Some(writer),
            path,
            _dir: dir,
        }
    }

    fn reader(&self) -> MapReader {
        self.reader_as(MapOwner::RootOrSelf).unwrap()
    }

    fn reader_as(&self, owner: MapOwner) -> Result<MapReader, RevocationError> {
        MapReader::open(&self.path, &domain(), owner)
    }

    fn publish(&mut self) {
        self.publisher.bring_up(&mut self.replica);
        self.write();
    }

    fn write(&mut self) {
        let writer = self.writer.as_mut().unwrap();
        writer.publish(&self.replica.view(), self.publisher.now).unwrap();
    }

    /// The agent is killed and started again: nobody marks its file.
    fn restart(&mut self) {
        self.writer = None;
        self.writer = Some(MapWriter::create(&self.path, &domain()).unwrap());
    }

    fn inode(&self) -> u64 {
        fs::metadata(&self.path).unwrap().ino()
    }
}

fn ask(reader: &MapReader, cert: &Cert, node: &Node) -> Verdict {
    reader.check(&cert.query(), node.publisher.now)
}

#[test]
fn a_reader_follows_additions_in_place_and_new_files() {
    let mut node = Node::new();
    let reader = node.reader();
    let certs: Vec<Cert> = (0..200).map(Cert::new).collect();
    let mut files = std::collections::HashSet::new();
    let mut generation = reader.generation();
    for (at, cert) in certs.iter().enumerate() {
        assert_eq!(ask(&reader, cert, &node), Verdict::Good);
        node.publisher.revoke_serial(cert);
        node.publish();
        files.insert(node.inode());
        assert!(
            certs[..=at].iter().all(|cert| ask(&reader, cert, &node) == BY_SERIAL),
            "{at}"
        );
        assert_eq!(reader.sequence(), node.publisher.set.sequence());
        assert!(reader.generation() > generation);
        generation = reader.generation();
    }
    assert!(
        files.len() > 1 && files.len() < 40,
        "{} files for 200 additions",
        files.len()
    );
}

#[test]
fn rules_and_exceptions_reach_the_reader() {
    let mut node = Node::new();
    let reader = node.reader();
    let (struck, web) = (
        Cert {
            id: id("spiffe://dev.test/db"),
            ..Cert::new(1)
        },
        Cert::new(2),
    );
    let live_twin = Cert {
        serial: twin(&struck.serial, 1),
        ..struck.clone()
    };
    node.publisher.revoke_serial(&struck);
    node.publisher.exceptions = vec![Exception {
        issuer: NATIVE,
        serial: live_twin.serial,
    }];
    node.publisher
        .revoke_rule(RuleTarget::Identity(web.id.clone()), Some(START));
    node.publish();
    assert_eq!(ask(&reader, &struck, &node), BY_SERIAL);
    assert_eq!(ask(&reader, &live_twin, &node), Verdict::Good);
    assert_eq!(ask(&reader, &web, &node), Verdict::Revoked { why: Why::Identity });
}

#[test]
fn a_dead_agent_is_noticed_and_a_restarted_one_followed() {
    let mut node = Node::new();
    let reader = node.reader();
    let cert = Cert::new(1);
    assert_eq!(ask(&reader, &cert, &node), Verdict::Good);
    node.publisher.now = START.plus(seconds(60));
    assert_eq!(ask(&reader, &cert, &node), Verdict::Stale);
    node.replica
        .heartbeat(&node.publisher.heartbeat(), node.publisher.now)
        .unwrap();
    node.write();
    assert_eq!(ask(&reader, &cert, &node), Verdict::Good);
    assert_eq!(reader.last_update(node.publisher.now), Some(START.plus(seconds(60))));

    // The next one makes a new file under the same name, and readers of the old one are told at once.
    node.restart();
    node.publisher.revoke_serial(&cert);
    node.publish();
    assert_eq!(ask(&reader, &cert, &node), BY_SERIAL);
}

#[test]
fn a_restarted_agent_without_its_ca_takes_nothing_back_and_stays_as_fresh_as_it_was() {
    let mut node = Node::new();
    let (old, cert) = (node.publisher.snapshot(), Cert::new(1));
    node.publisher.now = START.plus(seconds(30));
    node.publisher.revoke_serial(&cert);
    node.publish();
    let (reader, inode) = (node.reader(), node.inode());
    // What it had saved is older than its own map.
    node.replica = node.publisher.follower();
    node.replica.restore_snapshot(&old, node.publisher.now).unwrap();
    node.restart();
    node.write();
    assert_eq!(node.inode(), inode, "the newer file stays");
    assert_eq!(ask(&reader, &cert, &node), BY_SERIAL);
    assert_eq!(ask(&node.reader(), &cert, &node), BY_SERIAL);
    // The CA is back: an older set than the map's is no longer held back by it.
    node.publisher.now = START.plus(seconds(40));
    node.publish();
    assert_ne!(node.inode(), inode);
    assert_eq!(ask(&reader, &cert, &node), BY_SERIAL);
    // What it had saved is the very set of its map, which the CA vouched for later than when it was saved.
    let saved = node.publisher.snapshot();
    node.publisher.now = START.plus(seconds(80));
    node.replica
        .heartbeat(&node.publisher.heartbeat(), node.publisher.now)
        .unwrap();
    node.write();
    node.replica = node.publisher.follower();
    node.replica.restore_snapshot(&saved, node.publisher.now).unwrap();
    node.restart();
    node.write();
    node.write();
    node.publisher.now = START.plus(seconds(130));
    assert_eq!(
        ask(&node.reader(), &Cert::new(2), &node),
        Verdict::Good,
        "fresh as of second 80"
    );
    assert_eq!(ask(&reader, &Cert::new(2), &node), Verdict::Good);
}

#[test]
fn one_map_has_one_writer() {
    let mut node = Node::new();
    let refused = MapWriter::create(&node.path, &domain()).unwrap_err().to_string();
    assert!(refused.contains("be the writer of the map"), "{refused}");
    node.restart();
    node.write();
}

#[test]
fn a_map_that_went_back_is_not_followed() {
    let mut node = Node::new();
    let old = node.replica.view();
    let cert = Cert::new(1);
    node.publisher.revoke_serial(&cert);
    node.publish();
    let reader = node.reader();
    assert_eq!(ask(&reader, &cert, &node), BY_SERIAL);
    // An agent that has forgotten even where the map stood.
    fs::remove_file(&node.path).unwrap();
    node.restart();
    node.writer.as_mut().unwrap().publish(&old, START).unwrap();
    for later in [0, 11, 30, 70] {
        node.publisher.now = START.plus(seconds(later));
        assert_eq!(ask(&reader, &cert, &node), BY_SERIAL, "{later}");
    }
}

#[test]
fn the_map_of_a_ca_made_anew_is_followed_and_vouches_for_nothing_of_the_one_before() {
    let mut node = Node::new();
    let (cert, old) = (Cert::new(1), node.replica.view());
    node.publisher.revoke_serial(&cert);
    node.publish();
    let reader = node.reader();
    assert_eq!(ask(&reader, &cert, &node), BY_SERIAL);
    // Its ledger counts from the start, and it has issuers of its own.
    let mut anew = Publisher::new();
    anew.set = RevokedSet::new(&domain());
    let (id, serials, until) = (STRANGER, SerialKind::Native, None);
    anew.set
        .cover_issuer(1, &IssuerCoverage { id, serials, until })
        .unwrap();
    anew.now = START.plus(seconds(30));
    node.publisher.now = anew.now;
    let of_anew = Cert {
        issuer: STRANGER,
        ..Cert::new(2)
    };
    assert_eq!(ask(&reader, &of_anew, &node), Verdict::NotCovered);
    node.restart();
    let writer = node.writer.as_mut().unwrap();
    assert!(writer.publish(&anew.current_follower().view(), anew.now).unwrap());
    assert_eq!(ask(&reader, &of_anew, &node), Verdict::Good, "at once");
    for gone in [&cert, &Cert::new(3)] {
        assert_eq!(ask(&reader, gone, &node), Verdict::NotCovered);
    }
    // A map of the CA before, older than what was held of it, does not come back by that way.
    fs::remove_file(&node.path).unwrap();
    node.restart();
    node.writer.as_mut().unwrap().publish(&old, anew.now).unwrap();
    for later in [0, 11, 30, 70] {
        node.publisher.now = anew.now.plus(seconds(later));
        assert_eq!(ask(&reader, &cert, &node), Verdict::NotCovered, "{later}");
    }
}

#[test]
fn without_a_file_the_answer_is_stale_until_there_is_one() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("revocation.map");
    let reader = MapReader::open(&path, &domain(), MapOwner::RootOrSelf).unwrap();
    let (publisher, cert) = (Publisher::new(), Cert::new(1));
    assert_eq!(reader.check(&cert.query(), START), Verdict::Stale);
    assert_eq!(reader.last_update(START), None);
    let mut writer = MapWriter::create(&path, &domain()).unwrap();
    // A follower that holds nothing writes nothing.
    assert!(!writer.publish(&publisher.follower().view(), START).unwrap());
    assert!(!path.exists());
    assert!(writer.publish(&publisher.current_follower().view(), START).unwrap());
    assert_eq!(reader.check(&cert.query(), START.plus(seconds(1))), Verdict::Good);
    fs::remove_file(&path).unwrap();
    assert_eq!(
        reader.check(&cert.query(), START.plus(seconds(59))),
        Verdict::Good,
        "the mapped file lives on"
    );
    assert_eq!(reader.check(&cert.query(), START.plus(seconds(60))), Verdict::Stale);
}

#[test]
fn a_map_of_a_wrong_owner_or_domain_is_refused() {
    let node = Node::new();
    let elsewhere = TrustDomain::parse("other.test").unwrap();
    let error = MapReader::open(&node.path, &elsewhere, MapOwner::RootOrSelf).unwrap_err();
    assert!(matches!(error, RevocationError::WrongTrustDomain), "{error}");
    fs::set_permissions(&node.path, fs::Permissions::from_mode(0o666)).unwrap();
    let error = node.reader_as(MapOwner::RootOrSelf).unwrap_err();
    assert!(matches!(error, RevocationError::NotTrusted { .. }), "{error}");
    assert_eq!(
        ask(&node.reader_as(MapOwner::AnyByCopy).unwrap(), &Cert::new(1), &node),
        Verdict::Good
    );
}

#[test]
fn a_copying_reader_follows_within_five_seconds() {
    let mut node = Node::new();
    let reader = node.reader_as(MapOwner::AnyByCopy).unwrap();
    let cert = Cert::new(1);
    assert_eq!(ask(&reader, &cert, &node), Verdict::Good);
    node.publisher.now = START.plus(seconds(5));
    node.publisher.revoke_serial(&cert);
    node.publish();
    assert_eq!(ask(&reader, &cert, &node), BY_SERIAL);
}

#[test]
fn a_shortened_file_crashes_no_copying_reader_and_is_refused() {
    let node = Node::new();
    let reader = node.reader_as(MapOwner::AnyByCopy).unwrap();
    let file = fs::File::options().write(true).open(&node.path).unwrap();
    let len = file.metadata().unwrap().len();
    for len in [len - 8, 512, 8, 0] {
        file.set_len(len).unwrap();
        assert!(node.reader_as(MapOwner::AnyByCopy).is_err(), "{len}");
        assert!(node.reader_as(MapOwner::RootOrSelf).is_err(), "{len}");
        assert_eq!(
            reader.check(&Cert::new(1).query(), START.plus(seconds(30))),
            Verdict::Good,
            "{len}"
        );
    }
}

/// Names the map to a process of its own, which a read beyond the end would end.
const CUT: &str = "MAP_TO_BE_CUT";

#[test]
fn a_file_that_is_cut_under_its_mapping_is_let_go_before_it_is_read() {
    if let Some(path) = std::env::var_os(CUT) {
        let path = PathBuf::from(path);
        let reader = MapReader::open(&path, &domain(), MapOwner::RootOrSelf).unwrap();
        let (cert, later) = (Cert::new(1), START.plus(seconds(5)));
        assert_eq!(reader.check(&cert.query(), START), Verdict::Good);
        let whole = fs::read(&path).unwrap();
        fs::File::options().write(true).open(&path).unwrap().set_len(0).unwrap();
        assert!(reader.let_go_if_cut());
        assert_eq!(reader.check(&cert.query(), later), Verdict::Stale);
        assert!(!reader.let_go_if_cut());
        // A whole one in its place is taken.
        let new = path.with_extension("new");
        fs::write(&new, whole).unwrap();
        fs::rename(new, &path).unwrap();
        assert_eq!(reader.check(&cert.query(), START.plus(seconds(9))), Verdict::Good);
        return;
    }
    let node = Node::new();
    let mut child = std::process::Command::new(std::env::current_exe().unwrap());
    child.args([
        "--exact",
        "a_file_that_is_cut_under_its_mapping_is_let_go_before_it_is_read",
    ]);
    let ended = child.env(CUT, &node.path).output().unwrap();
    assert!(ended.status.success(), "{ended:?}");
}

#[test]
fn what_was_added_in_place_to_a_map_that_was_cut_is_not_taken_back() {
    const NAME: &str = "what_was_added_in_place_to_a_map_that_was_cut_is_not_taken_back";
    if std::env::var_os(CUT).is_none() {
        let mut child = std::process::Command::new(std::env::current_exe().unwrap());
        let ended = child.args(["--exact", NAME]).env(CUT, "").output().unwrap();
        assert!(ended.status.success(), "{ended:?}");
        return;
    }
    let mut node = Node::new();
    let [older, newer] = ["older", "newer"].map(|name| node.path.with_file_name(name));
    // The first revocation for which there is room in the file.
    let (reader, last) = (0..100)
        .map(Cert::new)
        .find_map(|cert| {
            let (reader, inode) = (node.reader(), node.inode());
            fs::copy(&node.path, &older).unwrap();
            node.publisher.revoke_serial(&cert);
            node.publish();
            (node.inode() == inode).then_some((reader, cert))
        })
        .unwrap();
    fs::copy(&node.path, &newer).unwrap();
    assert!(!reader.let_go_if_cut());
    assert_eq!(ask(&reader, &last, &node), BY_SERIAL);
    node.writer = None;
    let file = fs::File::options().write(true).open(&node.path).unwrap();
    file.set_len(0).unwrap();
    assert!(reader.let_go_if_cut());
    for (later, whole, answer) in [(5, older, Verdict::Stale), (10, newer, BY_SERIAL)] {
        fs::rename(whole, &node.path).unwrap();
        node.publisher.now = START.plus(seconds(later));
        assert_eq!(ask(&reader, &last, &node), answer, "{later}");
    }
}

#[test]
fn a_map_that_is_cut_behind_its_header_is_let_go_where_a_newer_file_is_looked_for() {
    const NAME: &str = "a_map_that_is_cut_behind_its_header_is_let_go_where_a_newer_file_is_looked_for";
    let certs: Vec<Cert> = (0..2_000).map(Cert::new).collect();
    if let Some(path) = std::env::var_os(CUT) {
        let path = PathBuf::from(path);
        let reader = MapReader::open(&path, &domain(), MapOwner::RootOrSelf).unwrap();
        assert_eq!(reader.check(&certs[0].query(), START), BY_SERIAL);
        let file = fs::File::options().write(true).open(&path).unwrap();
        file.set_len(4_096).unwrap();
        // The heartbeat is old now, so this question looks for another file first.
        let later = START.plus(seconds(30));
        assert!(
            certs
                .iter()
                .all(|cert| reader.check(&cert.query(), later) == Verdict::Stale)
        );
        return;
    }
    let mut node = Node::new();
    certs.iter().for_each(|cert| node.publisher.revoke_serial(cert));
    node.publish();
    assert!(fs::metadata(&node.path).unwrap().len() > 16_384);
    let mut child = std::process::Command::new(std::env::current_exe().unwrap());
    let ended = child.args(["--exact", NAME]).env(CUT, &node.path).output().unwrap();
    assert!(ended.status.success(), "{ended:?}");
}

#[test]
fn a_damaged_header_or_directory_is_refused() {
    let mut node = Node::new();
    node.publisher.revoke_serial(&Cert::new(1));
    node.publish();
    let whole = fs::read(&node.path).unwrap();
    let directory = u64::from_ne_bytes(whole[32..40].try_into().unwrap()) as usize;
    let file = fs::File::options().write(true).open(&node.path).unwrap();
    // Words 0 to 12 and the directory are fixed; what follows the header's words moves, and epoch 13 is a number.
    for at in (0..13 * 8).chain(512..512 + directory) {
        file.write_all_at(&[whole[at] ^ 0x81], at as u64).unwrap();
        assert!(node.reader_as(MapOwner::RootOrSelf).is_err(), "octet {at}");
        file.write_all_at(&whole[at..=at], at as u64).unwrap();
    }
    for (word, value) in [
        (2, u64::MAX),
        (3, u64::MAX),
        (3, u64::MAX / 8),
        (4, 4 << 30),
        (4, u64::MAX),
    ] {
        file.write_all_at(&value.to_ne_bytes(), word * 8).unwrap();
        assert!(node.reader_as(MapOwner::RootOrSelf).is_err(), "word {word} = {value}");
        file.write_all_at(&whole[word as usize * 8..word as usize * 8 + 8], word * 8)
            .unwrap();
    }
    assert_eq!(ask(&node.reader(), &Cert::new(1), &node), BY_SERIAL);
}

#[test]
fn what_a_crash_left_beside_the_map_is_no_obstacle() {
    let mut node = Node::new();
    fs::write(node.path.with_file_name(".revocation.map.new"), b"half").unwrap();
    node.publisher.revoke_serial(&Cert::new(1));
    node.publish();
    assert_eq!(ask(&node.reader(), &Cert::new(1), &node), BY_SERIAL);
    assert_eq!(fs::metadata(&node.path).unwrap().permissions().mode() & 0o7777, 0o644);
}

#[test]
fn no_reader_ever_loses_a_revocation_while_the_writer_works() {
    let mut node = Node::new();
    let certs: Vec<Cert> = (0..1_500).map(Cert::new).collect();
    let (known, done) = (AtomicU64::new(0), AtomicBool::new(false));
    let readers: Vec<MapReader> = (0..2).map(|_| node.reader()).collect();
    std::thread::scope(|scope| {
        for reader in &readers {
            scope.spawn(|| {
                while !done.load(Ordering::Acquire) {
                    let known = known.load(Ordering::Acquire) as usize;
                    for (at, cert) in certs[..known].iter().enumerate().rev().step_by(7) {
                        let verdict = reader.check(&cert.query(), START);
                        assert_eq!(verdict, BY_SERIAL, "{at} of {known}");
                    }
                }
            });
        }
        for (at, cert) in certs.iter().enumerate() {
            node.publisher.revoke_serial(cert);
            node.publish();
            known.store(at as u64 + 1, Ordering::Release);
        }
        done.store(true, Ordering::Release);
    });
}
