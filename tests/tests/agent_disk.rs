//! The real agent over a disk that fills up, turns read-only and vanishes under a delivered folder: the old pair stays as
//! long as there is a disk, health says why nothing newer comes, nothing is written beside it, and it mends by itself.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::{
    fs,
    net::{SocketAddr, TcpListener},
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use mintage_proto::v1::RenewAgentRequest;
use mintage_svid::{LeafInfo, key_matches, pem};
use mintage_tests::kit::{
    agent::{AgentProcess, config},
    ca::{CaProcess, entry, make, token},
    client::registry,
    face::get,
    peers,
};

/// Longest wait for what an agent does by itself.
const SOON: Duration = Duration::from_secs(60);

/// A small disk, unmounted when this ends.
struct Disk(PathBuf);

impl Disk {
    /// `None`, with the reason told, where this process may not mount.
    fn mount(at: PathBuf) -> Option<Self> {
        fs::create_dir(&at).unwrap();
        let options = ["-t", "tmpfs", "-o", "size=512k,mode=755", "tmpfs"];
        let mounted = Command::new("mount").args(options).arg(&at).output();
        if mounted.as_ref().is_ok_and(|output| output.status.success()) {
            return Some(Self(at));
        }
        peers::missing("a small disk", &format!("none can be mounted here: {mounted:?}"))
    }

    fn remount(&self, how: &str) {
        let options = format!("remount,{how}");
        let status = Command::new("mount").args(["-o", &options]).arg(&self.0).status();
        assert!(status.unwrap().success(), "{options}");
    }

    /// Takes all the room there is, or gives it back.
    fn fill(&self, full: bool) {
        let path = self.0.join("filler");
        if !full {
            return fs::remove_file(path).unwrap();
        }
        let mut file = fs::File::create(path).unwrap();
        while std::io::Write::write_all(&mut file, &[1; 4096]).is_ok() {}
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // Gone already where the test took it away.
        let _ = Command::new("umount").arg("-l").arg(&self.0).output();
    }
}

/// The delivered leaf, of a pair that matches.
fn delivered(folder: &Path) -> Option<LeafInfo> {
    let text = fs::read_to_string(folder.join("svid_credential_bundle.pem")).ok()?;
    let (key, chain) = text.split_at(text.find("-----BEGIN CERTIFICATE-----")?);
    let leaf = pem::decode_certificates(chain).ok()?.swap_remove(0);
    assert!(
        key_matches(&leaf, &pem::decode_private_key(key).unwrap()).unwrap(),
        "a torn pair"
    );
    LeafInfo::parse(&leaf).ok()
}

/// Waits until health answers with this code and says this.
async fn says(face: SocketAddr, code: &str, words: &[&str]) {
    let started = Instant::now();
    loop {
        let answer = get(face, "/ready").await;
        if answer.starts_with(&format!("HTTP/1.1 {code}")) && words.iter().all(|word| answer.contains(word)) {
            return;
        }
        assert!(started.elapsed() < SOON, "not {code} with {words:?}: {answer}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn renew(ca: &CaProcess) {
    let request = RenewAgentRequest {
        name: "n1".to_owned(),
        ..RenewAgentRequest::default()
    };
    let renewed = registry(&ca.admin_socket()).await.renew_agent(request).await;
    renewed.expect("the agent is connected");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_fails_keeps_the_old_pair_and_health_says_why() {
    let folder = tempfile::tempdir().unwrap();
    let Some(disk) = Disk::mount(folder.path().join("disk")) else {
        return;
    };
    let data = folder.path().join("ca");
    make(&data);
    let ca = CaProcess::start(&data, 0);
    entry(&ca.admin_socket(), "web", "/web").await;
    // A port that was free a moment ago; the agent's own log would not tell which one it took.
    let face = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let file = config(&disk.0, &["web"]);
    let text = fs::read_to_string(&file).unwrap().replace(
        &format!("{:?}", disk.0.join("agent")),
        &format!("{:?}", folder.path().join("agent")),
    );
    let text = text.replace(
        &format!("{:?}", disk.0.join("node.map")),
        &format!("{:?}", folder.path().join("node.map")),
    );
    let file = folder.path().join("agent.toml");
    fs::write(&file, format!("metrics = \"{face}\"\n{text}")).unwrap();
    let web = disk.0.join("web");
    let mut agent = AgentProcess::start(folder.path(), &file, Some(&token(&ca.admin_socket(), "n1").await));
    let mut serial = *agent.wait_for("the first delivery", || delivered(&web)).serial();
    says(face, "200", &["\"problems\":[]"]).await;

    type Break = fn(&Disk, bool);
    let failures: [(&str, Break, &str); 2] = [
        ("full", |disk, fails| disk.fill(fails), "No space left"),
        (
            "read-only",
            |disk, fails| disk.remount(if fails { "ro" } else { "rw" }),
            "Read-only file system",
        ),
    ];
    for (what, fails, why) in failures {
        fails(&disk, true);
        renew(&ca).await;
        // The old pair serves yet, so the agent is ready; what is wrong is told all the same.
        says(face, "200", &["problems", "web in ", why]).await;
        assert_eq!(
            delivered(&web).map(|leaf| *leaf.serial()),
            Some(serial),
            "{what}: the old pair stays"
        );
        fails(&disk, false);
        // Nobody asks for it: what could not be written is written once it can be.
        let next = agent.wait_for("the pair that waited", || {
            delivered(&web).filter(|leaf| *leaf.serial() != serial)
        });
        serial = *next.serial();
        says(face, "200", &["\"problems\":[]"]).await;
    }

    let unmounted = Command::new("umount").arg(&disk.0).output().unwrap();
    assert!(unmounted.status.success(), "the agent holds the disk: {unmounted:?}");
    renew(&ca).await;
    says(face, "200", &["problems", "web in "]).await;
    assert_eq!(fs::read_dir(&disk.0).unwrap().count(), 0, "written where the disk was");
    assert_eq!(agent.stop(), Some(0));
    assert_eq!(ca.stop(), Some(0));
}
