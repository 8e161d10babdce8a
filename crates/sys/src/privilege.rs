//! What tests need root for; without it they say that they prove nothing.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

/// Whether this is root; says so when it is not.
pub(crate) fn is_root() -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        println!("missing privilege: root; this test proves nothing here");
    }
    root
}

/// A small tmpfs, unmounted on drop. `None` where this process may not mount.
pub(crate) struct Tmpfs(PathBuf);

impl Tmpfs {
    pub(crate) fn mount(at: &Path, size: &str) -> Option<Self> {
        if !is_root() {
            return None;
        }
        let options = format!("size={size},mode=755");
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &options, "tmpfs"])
            .arg(at)
            .status();
        if !mounted.is_ok_and(|status| status.success()) {
            println!("missing privilege: mount; this test proves nothing here");
            return None;
        }
        Some(Self(at.to_owned()))
    }

    pub(crate) fn remount_read_only(&self) {
        let done = Command::new("mount").args(["-o", "remount,ro"]).arg(&self.0).status();
        assert!(done.unwrap().success());
    }

    pub(crate) fn unmount(&self) {
        assert!(Command::new("umount").arg(&self.0).status().unwrap().success());
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).output();
    }
}
