//! A small file system for tests of full, read-only and vanished disks.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

/// A small tmpfs, unmounted on drop. `None` where this process may not mount.
pub(crate) struct Tmpfs(PathBuf);

impl Tmpfs {
    pub(crate) fn mount(at: &Path, size: &str) -> Option<Self> {
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={size},mode=755"), "tmpfs"])
            .arg(at)
            .status();
        matches!(mounted, Ok(status) if status.success() && rustix::process::geteuid().is_root())
            .then(|| Self(at.to_owned()))
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
