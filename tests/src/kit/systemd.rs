//! systemd as the first process of namespaces that a test makes as root: units of the test's own, and `systemctl` beside them.
//! Nothing of the machine's systemd, its units or its `/run` is seen, and all of it ends with the value.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    time::Instant,
};

use super::{
    agent::WAIT_MAX,
    peers::{missing, peer, root},
};

/// Where Debian's package has it.
const SYSTEMD: &str = "/lib/systemd/systemd";
/// Run inside the new namespaces: `$1` is a folder with units.
const BEGIN: &str = "set -e
mount --make-rprivate /
mount -t proc proc /proc
mount -t tmpfs tmpfs /run
mkdir -p /run/systemd/system /run/lock
cp \"$1\"/* /run/systemd/system/
mount -t tmpfs tmpfs /usr/lib/systemd/system-generators
umount -R /sys/fs/cgroup
mount -t cgroup2 cgroup2 /sys/fs/cgroup
export container=mintage
exec /lib/systemd/systemd --system --unit=test.target --log-target=console --log-level=info --show-status=0";
const TARGET: &str = "[Unit]\nDescription=units of a test\n";

/// A running systemd, which dies with its value.
#[derive(Debug)]
pub struct Systemd {
    /// `unshare`, which ends its child with itself.
    child: Child,
    /// systemd, as everybody outside numbers it.
    pid: u32,
    cgroup: PathBuf,
    log: PathBuf,
}

impl Systemd {
    /// Starts it with these units (name and text) known and none running; none where it cannot be had.
    ///
    /// # Panics
    /// Under `CI=true` instead, and when it does not get ready.
    pub fn start(scratch: &Path, units: &[(&str, String)]) -> Option<Self> {
        let unshare = peer("unshare")?;
        peer("systemctl")?;
        peer("nsenter")?;
        if !root("namespaces for systemd are made by nobody else") {
            return None;
        }
        let Some(mount) = cgroup2() else {
            return missing("systemd", "no cgroup2 is mounted");
        };
        let folder = scratch.join("units");
        fs::create_dir(&folder).expect("a folder");
        fs::write(folder.join("test.target"), TARGET).expect("written");
        for (name, text) in units {
            fs::write(folder.join(name), text).expect("written");
        }
        let own = scratch
            .file_name()
            .and_then(|name| name.to_str())
            .expect("a plain name");
        let cgroup = mount.join(format!("mintage-test-{}{own}", std::process::id()));
        if let Err(error) = fs::create_dir(&cgroup) {
            return missing("systemd", &format!("{}: {error}", cgroup.display()));
        }
        let log = scratch.join("systemd.log");
        let file = fs::File::create(&log).expect("a log file");
        let mut command = Command::new("/bin/sh");
        // The shell goes into the cgroup, and is unshare from there on.
        command.args(["-c", "echo $$ > \"$1\"/cgroup.procs; shift; exec \"$@\"", "sh"]);
        command.arg(&cgroup).arg(unshare);
        command.args([
            "--pid",
            "--mount",
            "--cgroup",
            "--uts",
            "--ipc",
            "--fork",
            "--kill-child",
        ]);
        command.args(["/bin/sh", "-c", BEGIN, "sh"]).arg(&folder);
        let child = command
            .stdin(Stdio::null())
            .stdout(file.try_clone().expect("a log file"))
            .stderr(file)
            .spawn()
            .expect("unshare starts");
        let mut systemd = Self {
            child,
            pid: 0,
            cgroup,
            log,
        };
        systemd.wait_ready();
        Some(systemd)
    }

    fn wait_ready(&mut self) {
        let started = Instant::now();
        loop {
            if let Some(pid) = self.first_process() {
                self.pid = pid;
                if self.ctl(&["is-active", "test.target"]).status.success() {
                    return;
                }
            }
            if let Ok(Some(status)) = self.child.try_wait() {
                panic!("systemd ended with {status}:\n{}", self.log());
            }
            assert!(started.elapsed() < WAIT_MAX, "systemd is not ready:\n{}", self.log());
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
    }

    /// The child of `unshare`, once it is systemd.
    fn first_process(&self) -> Option<u32> {
        let id = self.child.id();
        let children = fs::read_to_string(format!("/proc/{id}/task/{id}/children")).ok()?;
        let pid = children.split_whitespace().next()?.parse().ok()?;
        let named = fs::read_to_string(format!("/proc/{pid}/cmdline")).ok()?;
        named.starts_with(SYSTEMD).then_some(pid)
    }

    /// `systemctl` with these words, inside.
    ///
    /// # Panics
    /// When it cannot be run.
    pub fn ctl(&self, words: &[&str]) -> Output {
        let mut command = Command::new(peer("nsenter").expect("it was there"));
        command.arg("--target").arg(self.pid.to_string());
        command
            .args(["--mount", "--pid", "systemctl", "--no-ask-password"])
            .args(words);
        command.stdin(Stdio::null()).output().expect("nsenter starts")
    }

    /// The same, which must succeed.
    ///
    /// # Panics
    /// When it does not.
    pub fn must(&self, words: &[&str]) {
        let output = self.ctl(words);
        assert!(output.status.success(), "{words:?}: {output:?}\n{}", self.log());
    }

    /// Everything it has logged.
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }
}

impl Drop for Systemd {
    fn drop(&mut self) {
        // Only what was started here: with unshare goes the first process of its namespace, and with that all others.
        let _ = self.child.kill();
        let _ = self.child.wait();
        let started = Instant::now();
        while remove(&self.cgroup).is_err() && started.elapsed() < WAIT_MAX {
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
    }
}

/// Removes a cgroup and those below it; it fails while a process of it is on its way out.
fn remove(cgroup: &Path) -> std::io::Result<()> {
    for below in fs::read_dir(cgroup)? {
        let below = below?;
        if below.file_type()?.is_dir() {
            remove(&below.path())?;
        }
    }
    fs::remove_dir(cgroup)
}

/// Where cgroup2 is mounted.
fn cgroup2() -> Option<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mounts").ok()?;
    let mut fields = mounts.lines().map(|line| line.split(' ').collect::<Vec<_>>());
    fields
        .find(|fields| fields.get(2) == Some(&"cgroup2"))
        .map(|fields| PathBuf::from(fields[1]))
}
