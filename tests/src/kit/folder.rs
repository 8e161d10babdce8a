//! Whole folders: copies of them, as backups are made, and what they hold.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

/// Copies a folder with everything in it, modes and times included, to a path that does not exist.
///
/// # Panics
///
/// When it cannot be copied.
pub fn copied(from: &Path, to: &Path) {
    let status = Command::new("cp").arg("-a").arg(from).arg(to).status();
    assert!(status.expect("cp runs").success());
}

/// Every file below a folder with its content, sorted; sockets are left out.
///
/// # Panics
///
/// When it cannot be read.
pub fn content(dir: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).expect("it lists") {
        let path = entry.expect("it lists").path();
        let kind = fs::symlink_metadata(&path).expect("it is there").file_type();
        match () {
            () if kind.is_dir() => found.extend(content(&path)),
            () if kind.is_file() => found.push((path.clone(), fs::read(&path).expect("it reads"))),
            () => {}
        }
    }
    found.sort();
    found
}
