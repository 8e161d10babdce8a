//! The real CA and the real witness: checkpoints are cosigned, whatever dies; a log that was rolled back or forked is not
//! served; and a log that nobody witnesses is told of.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::{
    collections::BTreeSet,
    fs,
    io::{Read, Write},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    path::Path,
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

use mintage_identity::UnixTime;
use mintage_ledger::{
    AddCheckpoint, Checkpoint, CosignerKey, Hash, HashSource, Leaves, LedgerError, LogKey, Origin, TlogProof,
    consistency, leaf_hash, node_hash, root_at,
};
use mintage_proto::v1::{ProveReceiptRequest, node_client::NodeClient};
use mintage_svid::pem;
use mintage_tests::kit::{
    ca,
    client::join,
    face::{get, metric},
    folder::copied,
    refusal::refused,
    stream::{Stream, ask},
    witness::WitnessHome,
    witnessed::{SOON, Scene, until},
};

/// Another history of the log, signed by its own key: whoever holds that can make one.
struct Fork {
    seed: u8,
    key: LogKey,
    origin: Origin,
}

impl HashSource for Fork {
    fn node(&self, level: u8, index: u64) -> Result<Hash, LedgerError> {
        match level {
            0 => Ok(leaf_hash(&[&[self.seed][..], &index.to_be_bytes()].concat())),
            _ => Ok(node_hash(
                &self.node(level - 1, 2 * index)?,
                &self.node(level - 1, 2 * index + 1)?,
            )),
        }
    }
}

impl Fork {
    fn of(scene: &Scene) -> Self {
        let text = fs::read_to_string(scene.dir().join("keys/log.key")).unwrap();
        let pkcs8 = pem::decode_private_key(&text).unwrap();
        Self {
            seed: 0,
            key: LogKey::from_pkcs8(&pkcs8).unwrap(),
            origin: Origin::parse(&scene.log_name()).unwrap(),
        }
    }

    /// A log of the test's own, of which there may be several histories.
    fn new(seed: u8) -> Self {
        // RFC 8410, section 7: an Ed25519 key in PKCS#8, before its 32 octets.
        let head = hex::decode("302e020100300506032b657004220420").unwrap();
        Self {
            seed,
            key: LogKey::from_pkcs8(&[&head[..], &[3; 32]].concat()).unwrap(),
            origin: Origin::parse("dev.test/mintage/a1b2/2026-11").unwrap(),
        }
    }

    fn request(&self, old: u64, size: u64) -> String {
        let signed = self.key.sign(Checkpoint {
            origin: self.origin.clone(),
            size,
            root: root_at(self, size).unwrap(),
        });
        let proof = consistency(self, old, size).unwrap();
        AddCheckpoint::new(old, proof, signed.note().clone())
            .unwrap()
            .to_string()
    }

    /// Asks for a cosignature of the fork, from whatever size the witness holds now. True once it was refused for what it
    /// is; none of the answers may be a cosignature.
    async fn refused_by(&self, witness: &WitnessHome) -> bool {
        let mut old = 0;
        for _ in 0..20 {
            match witness.ask(&self.request(old, old + 7)).await {
                Some((409, size)) => old = size.trim_end().parse().unwrap(),
                Some((422, _)) => return true,
                None => return false,
                // Before it has seen anything, the first tree that it is shown is the log.
                Some(other) => panic!("a fork was answered with {other:?}"),
            }
        }
        false
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_checkpoint_is_cosigned_within_seconds_and_a_quorum_holds() {
    let (scene, witness) = Scene::new("60s");
    let ca = scene.serve();
    let note = scene.cosigned(2);
    let policy = scene.policy();
    let checked = policy.check(&note).unwrap();
    let (by, time) = checked.witnesses[0];
    assert_eq!(by.name, "w1");
    let key: CosignerKey = scene.witness.vkey.parse().unwrap();
    assert_eq!(key.time_on(&note).unwrap(), Some(time));
    let now = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap();
    let age = UnixTime::from_seconds(now.as_secs().try_into().unwrap()).since(time);
    assert!(age < SOON, "{age:?}");

    // It goes on as the log grows, and the offline audit takes the very file.
    let before = scene.size();
    ca::entry(&ca.admin_socket(), "web", "/web").await;
    let grown = scene.cosigned(before + 1);
    let size = policy.check(&grown).unwrap().checkpoint.size();
    // The gauge follows the file.
    let gauge = "mintage_witness_cosigned_size{witness=\"w1\"} ";
    let begun = Instant::now();
    while metric(scene.face, gauge).await < size {
        assert!(begun.elapsed() < SOON, "{gauge}is below {size}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let events = scene.events();
    assert_eq!(events.len(), 1, "{events:?}");
    assert!(
        events[0].starts_with("w1+") && events[0].ends_with(" added"),
        "{events:?}"
    );
    assert_eq!(ca.stop(), Some(0));

    // The same set is not recorded again; one that is asked no more is.
    let ca = scene.serve();
    assert_eq!(scene.events().len(), 1);
    assert_eq!(ca.stop(), Some(0));
    let file = scene.folder.path().join("ca.toml");
    let text = fs::read_to_string(&file).unwrap();
    fs::write(&file, text.split("[[witness]]").next().unwrap()).unwrap();
    let ca = scene.serve();
    let events = until("the record", || Some(scene.events()).filter(|events| events.len() == 2));
    assert!(events[0].ends_with(" removed"), "{events:?}");
    assert_eq!(ca.stop(), Some(0));
    assert_eq!(witness.stop(), Some(0), "SIGTERM ends a witness well");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_witness_that_is_killed_again_and_again_cosigns_no_fork_and_the_ca_goes_on() {
    let (mut scene, witness) = Scene::new("60s");
    let ca = scene.serve();
    scene.cosigned(2);
    let fork = Fork::of(&scene);
    let mut running = witness;
    let mut seen = Vec::new();
    for round in 0..12u64 {
        for n in 0..3 {
            ca::entry(&ca.admin_socket(), &format!("e{round}-{n}"), &format!("/e{round}-{n}")).await;
        }
        // Each time at another place of its work, and gone for another while.
        tokio::time::sleep(Duration::from_millis(17 * round)).await;
        running.kill();
        let held = scene.held().expect("what was cosigned stays");
        tokio::time::sleep(Duration::from_millis(40 * (round % 4))).await;
        running = scene.witness.start();
        seen.extend([held, scene.checkpoint()]);
        assert!(fork.refused_by(&scene.witness).await);
    }
    let last = scene.size();
    seen.push(scene.cosigned(last));
    assert!(
        !ca.log().contains("another tree") && !ca.log().contains("rolled back"),
        "{}",
        ca.log()
    );
    drop(running);
    assert_eq!(ca.stop(), Some(0));
    // Whatever carries a cosignature is a tree on the way to the one that the log holds now.
    let leaves = leaves(&scene.dir());
    let key: CosignerKey = scene.witness.vkey.parse().unwrap();
    let cosigned: Vec<_> = seen
        .iter()
        .filter(|note| key.time_on(note).unwrap().is_some())
        .collect();
    assert!(cosigned.len() > 10);
    for note in cosigned {
        let checkpoint = scene.policy().check(note).unwrap().checkpoint;
        let root = root_at(&leaves, checkpoint.size()).unwrap();
        assert_eq!(checkpoint.root(), root, "{note}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_witness_has_answered_it_knows_after_kill_9() {
    let folder = tempfile::tempdir().unwrap();
    let (ours, fork) = (Fork::new(1), Fork::new(2));
    let policy = folder.path().join("policy");
    fs::write(&policy, format!("log {}\nquorum none\n", ours.key.vkey(&ours.origin))).unwrap();
    let mut witness = WitnessHome::make(folder.path(), "w1", &policy);
    let mut answered = 0;
    for round in 0..12u64 {
        let running = witness.start();
        // One step after the other, as fast as they are answered, until it dies in the middle of one.
        let killing = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(60 + 13 * round));
            running.kill();
        });
        let mut old = answered;
        while let Some((status, told)) = witness.ask(&ours.request(old, old + 1)).await {
            match status {
                200 => {
                    old += 1;
                    answered = old;
                }
                // What was stored and not answered is a step further, and never one back.
                409 => {
                    old = told.trim_end().parse().unwrap();
                    assert!(old >= answered, "{answered} was answered, {old} is known");
                }
                _ => panic!("{status}: {told}"),
            }
        }
        killing.join().unwrap();
        let running = witness.start();
        assert!(fork.refused_by(&witness).await);
        running.kill();
    }
    assert!(answered > 12, "{answered}");
}

/// How many records the ledger holds.
fn records(dir: &Path) -> u64 {
    let reports = mintage_ledger::verify(&dir.join("ledger"), None, &mut ()).unwrap();
    reports[0].size
}

/// The leaves of a whole ledger.
fn leaves(dir: &Path) -> Leaves {
    use mintage_ledger::{FileJournal, Journal, OpenOptions};
    let journal = FileJournal::open(&dir.join("ledger"), OpenOptions::default()).unwrap();
    let (mut leaves, mut read) = (Leaves::default(), 0);
    while read < journal.size() {
        for stored in journal.read_from(read, 512).unwrap() {
            leaves.push(stored.leaf_hash());
            read += 1;
        }
    }
    leaves
}

#[tokio::test(flavor = "multi_thread")]
async fn an_older_copy_of_the_data_directory_is_not_served_and_neither_is_a_fork() {
    let (mut scene, witness) = Scene::new("60s");
    let ca = scene.serve();
    scene.cosigned(2);
    assert_eq!(ca.stop(), Some(0));
    let old = scene.folder.path().join("old");
    copied(&scene.dir(), &old);

    let ca = scene.serve();
    let size = scene.size() + 12;
    for n in 0..12 {
        ca::entry(&ca.admin_socket(), &format!("e{n}"), &format!("/e{n}")).await;
    }
    scene.cosigned(size);
    assert_eq!(ca.stop(), Some(0));
    let newer = scene.folder.path().join("newer");
    fs::rename(scene.dir(), &newer).unwrap();
    copied(&old, &scene.dir());
    let told = refused(&mut scene.command());
    assert!(told.contains("rolled back: witness w1 has seen"), "{told}");

    // With nobody there to tell, it starts with a warning; the witness that comes back raises the alarm.
    witness.kill();
    let mut ca = scene.serve();
    assert!(ca.log().contains("was not compared with this witness"), "{}", ca.log());
    let witness = scene.witness.start();
    ca.wait_for("the alarm", |log| log.contains("the log was rolled back"));
    let alarms = "mintage_alarms_total{reason=\"witness-behind\"} ";
    assert!(metric(scene.face, alarms).await >= 1);
    let recorded = |word: &str| scene.events().iter().any(|event| event.ends_with(word)).then_some(());
    until("the record", || recorded(" behind"));

    // Grown past what the witness has seen, it is a fork and no longer shorter.
    for n in 0..40 {
        ca::entry(&ca.admin_socket(), &format!("f{n}"), &format!("/f{n}")).await;
    }
    ca.wait_for("the second alarm", |log| log.contains("it was forked or altered"));
    until("the record", || recorded(" conflict"));
    assert_eq!(ca.stop(), Some(0));
    let told = refused(&mut scene.command());
    assert!(told.contains("forked: witness w1 has seen another tree"), "{told}");

    // The newer one is as good as ever.
    fs::remove_dir_all(scene.dir()).unwrap();
    fs::rename(&newer, scene.dir()).unwrap();
    let ca = scene.serve();
    scene.cosigned(size);
    assert_eq!(ca.stop(), Some(0));
    drop(witness);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_last_checkpoint_of_a_clean_stop_is_cosigned_before_its_end() {
    let (scene, _witness) = Scene::new("60s");
    let ca = scene.serve();
    scene.cosigned(2);
    ca::entry(&ca.admin_socket(), "web", "/web").await;
    assert_eq!(ca.stop(), Some(0));
    let policy = scene.policy();
    let checked = policy.check(&scene.checkpoint()).unwrap();
    assert!(checked.quorum, "the checkpoint of the stop has its line");
    assert_eq!(checked.checkpoint.size(), records(&scene.dir()));
}

/// Stands between a CA and its witness, and hands every answer on only after some checkpoints' time.
fn slow_way_to(witness: &str) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let (address, witness) = (listener.local_addr().unwrap(), witness.to_owned());
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let (ours, theirs) = (stream.unwrap(), TcpStream::connect(&witness).unwrap());
            let ways = [
                (ours.try_clone().unwrap(), theirs.try_clone().unwrap(), Duration::ZERO),
                (theirs, ours, Duration::from_millis(450)),
            ];
            for (mut from, mut to, rest) in ways {
                std::thread::spawn(move || {
                    let mut octets = [0; 64 * 1024];
                    while let Ok(read) = from.read(&mut octets) {
                        std::thread::sleep(rest);
                        if read == 0 || to.write_all(&octets[..read]).is_err() {
                            break;
                        }
                    }
                    let _ = to.shutdown(Shutdown::Write);
                });
            }
        }
    });
    address
}

#[tokio::test(flavor = "multi_thread")]
async fn a_witness_slower_than_checkpoints_come_still_gets_its_line_into_a_busy_log() {
    let (scene, _witness) = Scene::new("60s");
    let file = scene.folder.path().join("ca.toml");
    let slow = slow_way_to(&scene.witness.address).to_string();
    let text = fs::read_to_string(&file).unwrap();
    fs::write(&file, text.replace(&scene.witness.address, &slow)).unwrap();
    let ca = scene.serve();
    let busy = AtomicBool::new(true);
    let socket = ca.admin_socket();
    let write = async {
        // The log grows all the time, so that no checkpoint is ever the last for long.
        for n in 0.. {
            if !busy.load(Ordering::Relaxed) {
                break;
            }
            ca::entry(&socket, &format!("e{n}"), &format!("/e{n}")).await;
        }
    };
    let look = async {
        let (policy, mut sizes) = (scene.policy(), BTreeSet::new());
        let begun = Instant::now();
        while sizes.len() < 3 {
            assert!(begun.elapsed() < SOON, "only {sizes:?} were cosigned");
            let checked = policy.check(&scene.checkpoint()).unwrap();
            if checked.quorum && checked.checkpoint.size() > 12 {
                sizes.insert(checked.checkpoint.size());
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        busy.store(false, Ordering::Relaxed);
    };
    tokio::join!(write, look);
    assert_eq!(ca.stop(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_forged_proof_is_refused() {
    let (scene, _witness) = Scene::new("60s");
    let ca = scene.serve();
    scene.cosigned(2);
    assert_eq!(ca.stop(), Some(0));
    let held = scene.held().unwrap();
    let size = scene.policy().check(&held).unwrap().checkpoint.size();
    let fork = Fork::of(&scene);
    let forged = fork.request(size, size + 9);
    let (status, why) = scene.witness.ask(&forged).await.unwrap();
    assert_eq!(status, 422, "{why}");
    let mut without_proof = AddCheckpoint::parse(forged.as_bytes()).unwrap();
    without_proof = AddCheckpoint::new(size, Vec::new(), without_proof.note().clone()).unwrap();
    assert_eq!(scene.witness.ask(&without_proof.to_string()).await.unwrap().0, 422);
    let (status, told) = scene.witness.ask(&fork.request(size + 1, size + 9)).await.unwrap();
    assert_eq!((status, told), (409, format!("{size}\n")));
    assert_eq!(scene.held().unwrap(), held, "nothing changed");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_nobody_witnesses_is_told_of_until_somebody_does() {
    let (mut scene, witness) = Scene::new("1s");
    let mut ca = scene.serve();
    scene.cosigned(2);
    until_metric(scene.face, 0).await;
    witness.kill();
    ca::entry(&ca.admin_socket(), "web", "/web").await;
    until_metric(scene.face, 1).await;
    ca.wait_for("the warning", |log| {
        log.contains("no witness has cosigned what the log holds")
    });
    let ready = get(scene.face, "/ready").await;
    assert!(
        ready.starts_with("HTTP/1.1 200 ") && ready.contains("ready; unwitnessed: "),
        "{ready}"
    );
    // Nobody waits for a witness.
    ca::entry(&ca.admin_socket(), "db", "/db").await;
    let _witness = scene.witness.start();
    until_metric(scene.face, 0).await;
    let ready = get(scene.face, "/ready").await;
    assert!(ready.ends_with("ready\n"), "{ready}");
    let size = scene.size();
    scene.cosigned(size);
    ca.wait_for("the end of it", |log| log.contains("the log is witnessed again"));
    assert_eq!(ca.stop(), Some(0));
}

async fn until_metric(face: SocketAddr, wanted: u64) {
    let begun = Instant::now();
    while metric(face, "mintage_log_unwitnessed ").await != wanted {
        assert!(begun.elapsed() < SOON, "mintage_log_unwitnessed is not {wanted}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_proof_of_a_receipt_carries_the_cosignatures_and_does_not_wait_for_a_witness_that_is_away() {
    let (scene, witness) = Scene::new("60s");
    let ca = scene.serve();
    ca::entry(&ca.admin_socket(), "web", "/web").await;
    let agent = join(&ca::token(&ca.admin_socket(), "n1").await).await.unwrap();
    let prove = async || {
        let mut stream = Stream::open(&agent, &ca.address).await.unwrap();
        let receipt = stream.ask_one(ask("web")).await.unwrap().receipt;
        let (channel, _) = agent.channel(&ca.address).await.unwrap();
        let answer = NodeClient::new(channel)
            .prove_receipt(ProveReceiptRequest { receipt })
            .await;
        TlogProof::parse(&answer.unwrap().into_inner().tlog_proof).unwrap()
    };
    let proof = prove().await;
    let leaf = leaf_hash(proof.extra().unwrap());
    assert_eq!(proof.verify(&leaf, &scene.policy()).unwrap().witnesses.len(), 1);
    drop(witness);
    let alone = prove().await;
    assert_eq!(alone.note().signatures().len(), 1, "the log's own");
    assert_eq!(ca.stop(), Some(0));
}
