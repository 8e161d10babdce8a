//! `mintage-ca restore` with the real programs: what was revoked before the loss stays revoked, everything older is refused
//! as well, agents come back, and a restore that is killed leaves nothing that is served.
//!
//! Seeded: `MINTAGE_SEED` repeats a run's moments of death. Ten deaths, a hundred with `MINTAGE_FULL=1`.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::{
    fs,
    path::Path,
    process::{Command, Output, Stdio},
    time::Duration,
};

use mintage_identity::Serial;
use mintage_proto::v1::{
    RenewAgentRequest, RevokeRequest, revocation_client::RevocationClient, revoke_request::Target,
};
use mintage_revocation::RevocationError;
use mintage_svid::{CertInfo, LeafInfo, pem};
use mintage_tests::kit::{
    agent::{AgentProcess, config},
    bins::binary,
    ca::{CaProcess, entry, make, token},
    client::{Joined, admin, join, registry},
    dice::{Dice, full},
    folder::{content, copied},
    follower::Follower,
    power::PowerDisk,
    refusal::{refused, tells},
};
use mintage_verifier::VerifyError;

fn restore(backup: &Path, dir: &Path) -> Command {
    let mut command = Command::new(binary("mintage-ca"));
    command.env_remove("MINTAGE_FORMAT").stdin(Stdio::null());
    command.arg("restore").arg("--from").arg(backup);
    command.arg("--data-dir").arg(dir).args(["-o", "json"]);
    command
}

fn restored(backup: &Path, dir: &Path) -> serde_json::Value {
    let Output { status, stdout, stderr } = restore(backup, dir).output().unwrap();
    assert!(status.success(), "{}", String::from_utf8_lossy(&stderr));
    serde_json::from_slice(&stdout).unwrap()
}

fn serve(dir: &Path) -> Command {
    let mut command = Command::new(binary("mintage-ca"));
    command.arg("serve").arg("--data-dir").arg(dir);
    command.args(["--listen", "127.0.0.1:0"]);
    command
}

fn port(ca: &CaProcess) -> u16 {
    ca.address.rsplit_once(':').unwrap().1.parse().unwrap()
}

/// The chain that is delivered for the one entry.
fn delivered(folder: &Path) -> Option<Vec<Vec<u8>>> {
    let text = fs::read_to_string(folder.join("web/svid.pem")).ok()?;
    pem::decode_certificates(&text).ok()
}

fn serial(chain: &[Vec<u8>]) -> Serial {
    *LeafInfo::parse(&chain[0]).unwrap().serial()
}

/// Waits for another delivery than this one.
fn next(agent: &mut AgentProcess, folder: &Path, before: &[Vec<u8>]) -> Vec<Vec<u8>> {
    agent.wait_for("another certificate", || {
        delivered(folder).filter(|chain| serial(chain) != serial(before))
    })
}

async fn revoke(ca: &CaProcess, serial: Serial) {
    let request = RevokeRequest {
        target: Some(Target::Serial(serial.to_string())),
        reason: "key-compromise".to_owned(),
        ..RevokeRequest::default()
    };
    let socket = ca.admin_socket();
    let mut client = RevocationClient::new(admin(&socket).await.unwrap());
    client.revoke(request).await.unwrap();
}

fn revoked(verdict: Result<(), VerifyError>) {
    let told = verdict.expect_err("it was revoked").to_string();
    assert!(told.contains("revoked"), "{told}");
}

/// What is known from before the disk was lost.
struct Lost {
    agent: AgentProcess,
    verifier: Follower,
    /// Delivered before the backup, and after it; the second is revoked, the third took its place.
    chains: [Vec<Vec<u8>>; 3],
    /// An agent that joined after the backup.
    late: Joined,
    port: u16,
}

/// Issues, is backed up, goes on, and revokes; then the disk is lost.
async fn lose(folder: &Path) -> Lost {
    let (dir, backup) = (folder.join("ca"), folder.join("backup"));
    make(&dir);
    let ca = CaProcess::start(&dir, 0);
    let port = port(&ca);
    entry(&ca.admin_socket(), "web", "/web").await;
    let join_token = token(&ca.admin_socket(), "n1").await;
    let mut agent = AgentProcess::start(folder, &config(folder, &["web"]), Some(&join_token));
    let first = agent.wait_for("the first delivery", || delivered(folder));
    assert_eq!(ca.stop(), Some(0));
    copied(&dir, &backup);

    let ca = CaProcess::start(&dir, port);
    let late = join(&token(&ca.admin_socket(), "late").await).await.unwrap();
    let mut registry = registry(&ca.admin_socket()).await;
    let renew = RenewAgentRequest {
        name: "n1".to_owned(),
        ..RenewAgentRequest::default()
    };
    while registry.renew_agent(renew.clone()).await.is_err() {
        // Until it is connected again there is nobody to ask.
        agent.runs();
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let second = next(&mut agent, folder, &first);
    let mut verifier = Follower::default();
    verifier.follow(&ca.admin_socket()).await.unwrap();
    verifier.accepts(&second).unwrap();
    revoke(&ca, serial(&second)).await;
    let third = next(&mut agent, folder, &second);
    verifier.follow(&ca.admin_socket()).await.unwrap();
    verifier.accepts(&first).unwrap();
    revoked(verifier.accepts(&second));
    verifier.accepts(&third).unwrap();
    ca.kill();
    fs::remove_dir_all(&dir).unwrap();
    Lost {
        agent,
        verifier,
        chains: [first, second, third],
        late,
        port,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_that_was_revoked_lives_again_and_agents_come_back() {
    let folder = tempfile::tempdir().unwrap();
    let (dir, backup) = (folder.path().join("ca"), folder.path().join("backup"));
    let mut lost = lose(folder.path()).await;
    let before = content(&backup);

    // Who simply puts the backup in its place has a CA that forgot a revocation: followers know better, and say so.
    copied(&backup, &dir);
    let mut ca = CaProcess::start(&dir, lost.port);
    ca.wait_for("the alarm", |log| log.contains("an agent has seen more revocations"));
    assert!(ca.log().contains("mintage-ca restore"), "{}", ca.log());
    let agent_log = || fs::read_to_string(folder.path().join("agent.log")).unwrap();
    let told = "has to be restored: mintage-ca restore";
    lost.agent
        .wait_for("the refusal", || agent_log().contains(told).then_some(()));
    let outcome = lost.verifier.follow(&ca.admin_socket()).await;
    assert!(matches!(outcome, Err(RevocationError::Rollback { .. })), "{outcome:?}");
    revoked(lost.verifier.accepts(&lost.chains[1]));
    assert_eq!(ca.stop(), Some(0));
    fs::remove_dir_all(&dir).unwrap();

    let made = restored(&backup, &dir);
    assert_eq!(content(&backup), before, "the backup is only read");
    let ca = CaProcess::start(&dir, lost.port);
    let at = lost.verifier.stands_at();
    lost.verifier.follow(&ca.admin_socket()).await.unwrap();
    let now_at = lost.verifier.stands_at();
    assert!(now_at.0 > at.0 && now_at.0 == made["revocation_epoch"].as_u64().unwrap());
    for chain in &lost.chains {
        revoked(lost.verifier.accepts(chain));
    }

    // The agent's own certificate is dead like the rest: it comes back by its last key, and gets everything anew.
    let fresh = next(&mut lost.agent, folder.path(), &lost.chains[2]);
    lost.verifier.accepts(&fresh).unwrap();
    let issuer = CertInfo::parse(&fresh[1]).unwrap().key_id().to_string();
    assert_eq!(made["issuer"], issuer.as_str());
    // The one that joined after the backup is not known any more, and needs a token.
    revoked(lost.verifier.accepts(&lost.late.chain));
    let again = join(&token(&ca.admin_socket(), "late").await).await.unwrap();
    lost.verifier.accepts(&again.chain).unwrap();

    assert_eq!(lost.agent.stop(), Some(0));
    assert_eq!(ca.stop(), Some(0));
    let mut audit = Command::new(binary("mintage"));
    audit.env_remove("MINTAGE_FORMAT").arg("--data-dir").arg(&dir);
    let audit = audit.args(["audit", "verify", "--signatures"]).output().unwrap();
    assert!(audit.status.success(), "{audit:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn restoring_the_same_backup_again_is_another_epoch_yet() {
    let folder = tempfile::tempdir().unwrap();
    let place = |name: &str| folder.path().join(name);
    make(&place("backup"));
    let mut verifier = Follower::default();
    let mut chains = Vec::new();
    for name in ["one", "two"] {
        restored(&place("backup"), &place(name));
        let ca = CaProcess::start(&place(name), 0);
        let before = verifier.stands_at().0;
        verifier.follow(&ca.admin_socket()).await.unwrap();
        assert!(verifier.stands_at().0 > before, "{name}");
        let joined = join(&token(&ca.admin_socket(), "n1").await).await.unwrap();
        verifier.accepts(&joined.chain).unwrap();
        chains.push(joined.chain);
        assert_eq!(ca.stop(), Some(0));
    }
    // The second restore has never heard of the key that signed this, and yet it is dead.
    verifier.accepts(&chains[0]).unwrap_err();
    verifier.accepts(&chains[1]).unwrap();
    // A restored directory is a backup like any other.
    restored(&place("two"), &place("three"));
    let ca = CaProcess::start(&place("three"), 0);
    verifier.follow(&ca.admin_socket()).await.unwrap();
    revoked(verifier.accepts(&chains[1]));
    assert_eq!(ca.stop(), Some(0));
}

/// Holds that a directory is either served or refused with what to do; true when it is whole.
fn whole_or_refused(dir: &Path) -> bool {
    if dir.join("authority.toml").exists() && !dir.join("restore.unfinished").exists() {
        return true;
    }
    let told = refused(&mut serve(dir));
    let unfinished = told.contains("run the same `mintage-ca restore` again");
    let untouched = !dir.join("keys").exists() && !dir.join("ledger").exists();
    assert!(unfinished || untouched, "{told}");
    false
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restore_killed_at_any_moment_is_refused_until_it_is_run_to_its_end() {
    let mut dice = Dice::from_env();
    let folder = tempfile::tempdir().unwrap();
    let (backup, dir) = (folder.path().join("backup"), folder.path().join("ca"));
    make(&backup);
    let before = content(&backup);
    let started = std::time::Instant::now();
    restored(&backup, &folder.path().join("whole"));
    let whole_us = u64::try_from(started.elapsed().as_micros()).unwrap();
    let (mut unfinished, mut whole) = (0, 0);
    for _ in 0..if full() { 100 } else { 10 } {
        let mut child = restore(&backup, &dir)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        tokio::time::sleep(Duration::from_micros(dice.below(whole_us * 5 / 4))).await;
        let _ = child.kill();
        child.wait().unwrap();
        assert_eq!(content(&backup), before);
        match whole_or_refused(&dir) {
            true => {
                whole += 1;
                fs::remove_dir_all(&dir).unwrap();
            }
            false => unfinished += 1,
        }
    }
    println!("{unfinished} were not whole, {whole} were");
    assert!(unfinished > 0, "no death came before the end");
    // A mark that was left behind, whatever stands beside it.
    let _ = fs::remove_dir_all(&dir);
    copied(&folder.path().join("whole"), &dir);
    fs::write(dir.join("restore.unfinished"), "").unwrap();
    assert!(!whole_or_refused(&dir));
    let first = fs::read(dir.join("intermediate.pem")).unwrap();
    restored(&backup, &dir);
    assert_ne!(fs::read(dir.join("intermediate.pem")).unwrap(), first, "it began anew");
    assert_eq!(CaProcess::start(&dir, 0).stop(), Some(0));
}

#[test]
fn a_restore_that_loses_power_is_whole_or_refused() {
    let mut dice = Dice::from_env();
    let folder = tempfile::tempdir().unwrap();
    let backup = folder.path().join("backup");
    make(&backup);
    for round in 0..if full() { 40 } else { 6 } {
        let place = folder.path().join(format!("disk-{round}"));
        fs::create_dir(&place).unwrap();
        let Some(mut disk) = PowerDisk::new(&place) else { return };
        let mut child = restore(&backup, &disk.root().join("ca"));
        let mut child = child
            .envs(disk.env())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        // Every third one ends by itself: what it has said is done is whole.
        let to_its_end = round % 3 == 0;
        if !to_its_end {
            std::thread::sleep(Duration::from_millis(dice.below(60)));
            let _ = child.kill();
        }
        let done = child.wait().unwrap().success();
        disk.cut(|| dice.below(2) == 0);
        let dir = disk.root().join("ca");
        let whole = dir.exists() && whole_or_refused(&dir);
        assert!(whole || !done, "what was said to be restored is not");
        if whole {
            assert_eq!(CaProcess::start(&dir, 0).stop(), Some(0));
        }
    }
}

#[test]
fn a_rehearsal_tells_what_would_be_done_and_makes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let (backup, dir) = (folder.path().join("backup"), folder.path().join("ca"));
    make(&backup);
    let output = restore(&backup, &dir).arg("--dry-run").output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let told: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(
        (&told["dry_run"], &told["trust_domain"]),
        (&true.into(), &"dev.test".into())
    );
    assert_eq!(
        told["issuers_revoked"].as_array().unwrap().len(),
        2,
        "root and intermediate"
    );
    assert!(told["revocation_epoch"].as_u64().unwrap() > 1 && told["issuer"].is_null());
    assert!(!dir.exists());
    let ca = CaProcess::start(&backup, 0);
    let told = refused(&mut restore(&backup, &dir));
    tells(&told, &["backup/lock", "another process holds it"]);
    assert_eq!(ca.stop(), Some(0));
    assert!(!dir.exists());
}
