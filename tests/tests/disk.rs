//! The real `mintage-ca` on a disk that cannot be written: read-only, it refuses to start with one line that says what and
//! what to do; full, it refuses asks, and freeing it is all it takes. Nothing is let go without its record.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use mintage_identity::Serial;
use mintage_ledger::verify;
use mintage_proto::v1::{
    ListAgentsRequest, MintResult, RevokeRequest, SearchRequest, ledger_client::LedgerClient,
    revocation_client::RevocationClient, revoke_request::Target,
};
use mintage_svid::LeafInfo;
use mintage_tests::kit::{
    bins::binary,
    ca::{self, CaProcess, entries, serving_address},
    client::{admin, join, registry},
    peers,
    refusal::{refused, tells},
    stream::{Stream, ask},
};
use rustix::process::geteuid;
use tonic::{Code, Status};

/// Longest wait for a program to serve, and for a freed disk to be noticed.
const SOON: Duration = Duration::from_secs(60);
/// Size of the disk that is filled: room for one more reserve of the log and for the state.
const DISK: &str = "24m";
/// The exit code of a script that may not mount.
const NO_MOUNT: i32 = 77;

/// `mintage-ca` in a mount namespace of its own, in which `place` cannot be written.
fn over_read_only(place: &Path) -> Command {
    let script = "mount --bind \"$1\" \"$1\" && mount -o remount,bind,ro \"$1\" || exit 77; shift; exec \"$@\"";
    let mut command = Command::new("unshare");
    command.args(["--mount", "sh", "-c", script, "sh"]).arg(place);
    command.arg(binary("mintage-ca"));
    command
}

#[test]
fn a_read_only_disk_is_refused_with_its_remedy() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("ca");
    ca::make(&dir);
    assert_eq!(CaProcess::start(&dir, 0).stop(), Some(0));
    // What changes nothing needs no disk that can be written.
    let validated = over_read_only(&dir)
        .arg("validate")
        .arg("--data-dir")
        .arg(&dir)
        .output();
    match validated {
        Ok(output) if output.status.success() => {}
        Ok(output) if output.status.code() == Some(NO_MOUNT) => {
            let text = String::from_utf8_lossy(&output.stderr).into_owned();
            peers::missing::<()>("a read-only disk", &text);
            return;
        }
        Ok(output) => {
            let text = String::from_utf8_lossy(&output.stderr).into_owned();
            assert!(!geteuid().is_root(), "{}: {text}", output.status);
            peers::missing::<()>("root", &format!("a mount namespace is wanted: {text}"));
            return;
        }
        Err(error) => {
            peers::missing::<()>("unshare", &format!("nothing can be mounted read-only: {error}"));
            return;
        }
    }
    for part in [".", "ledger", "state"] {
        let place = dir.join(part);
        let mut command = over_read_only(&place);
        command.arg("serve").arg("--data-dir").arg(&dir);
        let line = refused(command.args(["--listen", "127.0.0.1:0"]));
        let place = place.canonicalize().unwrap().display().to_string();
        tells(&line, &[&place, "Read-only file system", "mount", "for writing"]);
    }
    assert_eq!(CaProcess::start(&dir, 0).stop(), Some(0));
}

/// A CA whose data lies on a small disk of its own, in a mount namespace of its own.
struct Cramped {
    child: Child,
    address: String,
    disk: PathBuf,
}

impl Cramped {
    /// `None`, with the reason told, where this process may not mount.
    fn start(folder: &Path) -> Option<Self> {
        let disk = folder.join("disk");
        fs::create_dir(&disk).unwrap();
        let log = folder.join("log");
        let script = "mount -t tmpfs -o mode=700,size=\"$2\" tmpfs \"$1\" || exit 77\n\
                      \"$3\" init --trust-domain dev.test --data-dir \"$1/ca\" || exit 1\n\
                      exec \"$3\" serve --data-dir \"$1/ca\" --listen 127.0.0.1:0";
        let mut command = Command::new("unshare");
        command
            .args(["--mount", "sh", "-c", script, "sh"])
            .arg(&disk)
            .arg(DISK)
            .arg(binary("mintage-ca"));
        command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(fs::File::create(&log).unwrap());
        let started = Instant::now();
        let mut child = match command.spawn() {
            Ok(child) => child,
            Err(error) => return peers::missing("unshare", &format!("no disk can be filled: {error}")),
        };
        loop {
            let text = fs::read_to_string(&log).unwrap_or_default();
            if let Some(address) = serving_address(&text) {
                let disk = PathBuf::from(format!("/proc/{}/root", child.id())).join(disk.strip_prefix("/").unwrap());
                return Some(Self { child, address, disk });
            }
            if let Some(status) = child.try_wait().unwrap() {
                assert!(
                    !geteuid().is_root() || status.code() == Some(NO_MOUNT),
                    "{status}: {text}"
                );
                return peers::missing("a small disk", &format!("none can be mounted here ({status}): {text}"));
            }
            assert!(started.elapsed() < SOON, "{text}");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    fn socket(&self) -> PathBuf {
        self.disk.join("ca/admin.sock")
    }

    /// Takes all the room there is.
    fn fill(&self) {
        let mut file = fs::File::create(self.disk.join("fill")).unwrap();
        let block = vec![1; 4096];
        while std::io::Write::write_all(&mut file, &block).is_ok() {}
    }

    fn free(&self) {
        fs::remove_file(self.disk.join("fill")).unwrap();
    }
}

impl Drop for Cramped {
    fn drop(&mut self) {
        // Only the process started here, by its own handle; it may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Asks until nothing more can be recorded; returns the certificates that were let go on the way.
async fn exhaust(stream: &mut Stream) -> Vec<MintResult> {
    // The log has room in reserve: asks are answered until it is used up.
    let mut released: Vec<MintResult> = Vec::new();
    let mut refused = None;
    for _ in 0..150 {
        stream.ask((0..64).map(|_| ask("web")).collect()).await.unwrap();
        let (none, some): (Vec<_>, Vec<_>) = stream
            .minted()
            .await
            .unwrap()
            .into_iter()
            .partition(|result| result.refusal.is_some());
        released.extend(some);
        refused = none.into_iter().next().and_then(|result| result.refusal);
        if refused.is_some() {
            break;
        }
    }
    let refused = refused.expect("a full disk is noticed");
    assert_eq!(refused.grpc_code, Code::ResourceExhausted as u32, "{refused:?}");
    assert!(refused.retry && refused.message.contains("space"), "{refused:?}");
    // Where a batch does not fit, a single record may for a while.
    let mut in_a_row = 0;
    for _ in 0..1000 {
        let result = stream.ask_one(ask("web")).await.unwrap();
        match &result.refusal {
            None => {
                in_a_row = 0;
                released.push(result);
            }
            Some(again) => {
                assert_eq!(again.code, refused.code, "{again:?}");
                in_a_row += 1;
            }
        }
        if in_a_row == 3 {
            break;
        }
    }
    assert_eq!(in_a_row, 3, "a full disk takes no end of records");
    released
}

async fn revoke(socket: &Path, target: Target) -> Result<(), Status> {
    let request = RevokeRequest {
        target: Some(target),
        reason: "key-compromise".to_owned(),
        ..RevokeRequest::default()
    };
    let channel = admin(socket).await.expect("the admin socket answers");
    RevocationClient::new(channel).revoke(request).await.map(|_| ())
}

/// The state of a certificate, as the CA tells it: `live` or `revoked`.
async fn state_of(socket: &Path, serial: &Serial) -> String {
    let request = SearchRequest {
        serial: serial.to_string(),
        kinds: vec!["issue".to_owned()],
        ..SearchRequest::default()
    };
    let channel = admin(socket).await.expect("the admin socket answers");
    let found = LedgerClient::new(channel)
        .search(request)
        .await
        .expect("reading goes on");
    found.into_inner().records.remove(0).state
}

/// Holds that an order was carried out, or was refused for want of space.
fn is_done(outcome: Result<(), Status>) -> bool {
    let Err(status) = outcome else { return true };
    assert_eq!(status.code(), Code::ResourceExhausted, "{status:?}");
    assert!(status.message().contains("space"), "{status:?}");
    false
}

/// Revokes and bans on the full disk. Small records may find room where a large one did not, and then the order stands; a
/// revocation that is refused is not done at all, and not for this process alone either, which would forget it. Of the two
/// records of a ban the first bars the agent: where only the second has no room, more is barred than was said and not less.
/// Returns whether n2 is banned with all that it obtained.
async fn control_is_done_or_refused(socket: &Path, released: &[MintResult]) -> bool {
    let mut refused = 0;
    for result in released {
        let serial = *LeafInfo::parse(&result.leaf).unwrap().serial();
        let done = is_done(revoke(socket, Target::Serial(serial.to_string())).await);
        assert_eq!(
            state_of(socket, &serial).await,
            if done { "revoked" } else { "live" },
            "{serial}"
        );
        refused = if done { 0 } else { refused + 1 };
        if refused == 3 {
            break;
        }
    }
    assert_eq!(refused, 3, "a full disk takes no end of records");
    let done = is_done(revoke(socket, Target::Agent("n2".to_owned())).await);
    let agents = registry(socket).await.list_agents(ListAgentsRequest::default()).await;
    let agents = agents.unwrap().into_inner().agents;
    let n2 = agents.iter().find(|agent| agent.name == "n2").unwrap();
    assert!(n2.status == "banned" || !done && n2.status == "active", "{n2:?}");
    done
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_refuses_asks_and_freeing_it_is_all_it_takes() {
    let folder = tempfile::tempdir().unwrap();
    let Some(mut cramped) = Cramped::start(folder.path()) else {
        return;
    };
    ca::entry(&cramped.socket(), "web", "/web").await;
    let agent = join(&ca::token(&cramped.socket(), "n1").await).await.unwrap();
    let mut stream = Stream::open(&agent, &cramped.address).await.unwrap();
    join(&ca::token(&cramped.socket(), "n2").await).await.unwrap();
    let first = stream.ask_one(ask("web")).await.unwrap();
    let serial = *LeafInfo::parse(&first.leaf).unwrap().serial();
    cramped.fill();
    let mut released = exhaust(&mut stream).await;
    assert_eq!(entries(&cramped.socket()).await, 1, "reading goes on");
    let banned = control_is_done_or_refused(&cramped.socket(), &released).await;
    cramped.free();
    let started = Instant::now();
    let again = loop {
        let result = stream.ask_one(ask("web")).await.unwrap();
        if result.refusal.is_none() {
            break result;
        }
        assert!(started.elapsed() < SOON, "{result:?}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    };
    released.push(again);
    // Such orders are carried out now.
    revoke(&cramped.socket(), Target::Serial(serial.to_string()))
        .await
        .unwrap();
    assert_eq!(state_of(&cramped.socket(), &serial).await, "revoked");
    for (agent, done) in [("n2", banned), ("n1", false)] {
        if !done {
            revoke(&cramped.socket(), Target::Agent(agent.to_owned()))
                .await
                .unwrap();
        }
    }
    let ended = tokio::time::timeout(SOON, async { while stream.minted().await.is_ok() {} });
    ended.await.expect("the banned agent's stream ends");
    // The ledger holds every certificate that was let go.
    let mut held = BTreeMap::new();
    verify(&cramped.disk.join("ca/ledger"), None, &mut Leaves(&mut held)).expect("the ledger is whole");
    for receipt in released.into_iter().map(|result| result.receipt.expect("a receipt")) {
        assert_eq!(
            held.get(&receipt.index).map(Vec::as_slice),
            Some(receipt.leaf_hash.as_slice())
        );
    }
    let pid = rustix::process::Pid::from_child(&cramped.child);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    assert_eq!(cramped.child.wait().unwrap().code(), Some(0));
}

/// The leaf hash of every record.
struct Leaves<'a>(&'a mut BTreeMap<u64, Vec<u8>>);

impl mintage_ledger::RecordCheck for Leaves<'_> {
    fn record(&mut self, _: &mintage_ledger::Vkey, stored: &mintage_ledger::Stored) -> Result<(), String> {
        self.0.insert(stored.index(), stored.leaf_hash().as_bytes().to_vec());
        Ok(())
    }
}
