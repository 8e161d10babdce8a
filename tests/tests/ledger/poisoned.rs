//! A disk that fails under the real CA: nothing more is issued, readers are still served, and the program ends with 75, at the
//! time that it said, whatever signals come.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::{
    net::{SocketAddr, TcpListener},
    path::Path,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use mintage_svid::LeafInfo;
use mintage_tests::kit::{
    bins::binary,
    ca::{CaProcess, entry, make, token},
    client::join,
    face::get,
    power::PowerDisk,
    stream::{Stream, ask, code},
};

/// Longest wait for what should happen at once; the machine may be busy.
const SOON: Duration = Duration::from_secs(60);
/// How long the CA stays up for readers here: time enough for a few of them on a busy machine.
const EXIT_AFTER: Duration = Duration::from_secs(8);

/// A CA on this disk, and where its readiness is told.
fn start(disk: &PowerDisk, file: &Path) -> (CaProcess, SocketAddr) {
    let data = disk.root().join("ca");
    let face = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let text = format!(
        "data_dir = {data:?}\nlisten = \"127.0.0.1:0\"\nmetrics = \"{face}\"\n[ledger]\nexit_after = \"{}s\"\n",
        EXIT_AFTER.as_secs()
    );
    std::fs::write(file, text).unwrap();
    let mut command = Command::new(binary("mintage-ca"));
    command.arg("serve").arg("--config").arg(file).envs(disk.env());
    (CaProcess::launch(&data, command), face)
}

fn show(data: &Path, serial: &str) -> (Option<i32>, String) {
    let output = Command::new(binary("mintage"))
        .env_remove("MINTAGE_ADMIN_SOCKET")
        .arg("--data-dir")
        .arg(data)
        .args(["audit", "show", serial])
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    (output.status.code(), text)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ca_whose_disk_fails_issues_nothing_serves_readers_and_ends_with_75() {
    let folder = tempfile::tempdir().unwrap();
    let Some(disk) = PowerDisk::new(folder.path()) else {
        return;
    };
    let data = disk.root().join("ca");
    make(&data);
    let (ca, face) = start(&disk, &folder.path().join("ca.toml"));
    entry(&ca.admin_socket(), "web", "/web").await;
    let joined = join(&token(&ca.admin_socket(), "n1").await).await.unwrap();
    let mut stream = Stream::open(&joined, &ca.address).await.unwrap();
    let minted = stream.ask_one(ask("web")).await.unwrap();
    assert_eq!(code(&minted), "");
    let serial = LeafInfo::parse(&minted.leaf).unwrap().serial().to_string();
    assert!(get(face, "/ready").await.starts_with("HTTP/1.1 200"));

    disk.fail(".wal");
    let begun = Instant::now();
    let refused = stream.ask_one(ask("web")).await;
    let is_refused = refused.as_ref().map_or(true, |minted| minted.leaf.is_empty());
    assert!(is_refused, "{refused:?}");
    loop {
        let ready = get(face, "/ready").await;
        if ready.starts_with("HTTP/1.1 503") {
            assert!(ready.contains("the ledger failed"), "{ready}");
            break;
        }
        assert!(begun.elapsed() < SOON, "{ready}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let (code, told) = show(&data, &serial);
    assert_eq!(code, Some(0), "{told}");
    assert!(told.contains(&serial), "{told}");

    // A reload in between does not give it more time.
    let mut ca = ca;
    let ended = loop {
        if let Some(code) = ca.ended() {
            break code;
        }
        assert!(begun.elapsed() < EXIT_AFTER + SOON, "it goes on:\n{}", ca.log());
        ca.hang_up();
        tokio::time::sleep(Duration::from_millis(500)).await;
    };
    assert_eq!(ended, Some(75), "{}", ca.log());
    assert!(begun.elapsed() >= EXIT_AFTER);

    // What was acknowledged is there, and the next start finds nothing wrong.
    let (ca, _) = start_again(&disk, folder.path());
    let (code, told) = show(&data, &serial);
    assert_eq!(code, Some(0), "{told}");
    assert_eq!(ca.stop(), Some(0));
}

/// On a disk that works again.
fn start_again(disk: &PowerDisk, folder: &Path) -> (CaProcess, SocketAddr) {
    disk.work();
    start(disk, &folder.join("again.toml"))
}
