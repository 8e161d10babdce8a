//! The frames of a ledger's write-ahead file, found without the ledger's own code, so that a test can damage them where it
//! wants to.

use std::{
    fs,
    path::{Path, PathBuf},
};

/// Frames of a record (kind in the top four bits of the length).
pub const RECORD: u32 = 0;
/// Frames that begin a group.
pub const GROUP_HEAD: u32 = 2;

/// One frame: its kind, where it is, and its length with its head.
#[derive(Clone, Copy, Debug)]
pub struct Frame {
    /// What it holds.
    pub kind: u32,
    /// Where it begins.
    pub at: usize,
    /// Its octets, head and payload.
    pub len: usize,
}

/// Every file below a folder.
pub fn files(folder: &Path) -> Vec<PathBuf> {
    let (mut folders, mut files) = (vec![folder.to_path_buf()], Vec::new());
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() { &mut folders } else { &mut files }.push(path);
        }
    }
    files
}

/// The one write-ahead file of a young ledger in this data directory.
pub fn wal(data_dir: &Path) -> PathBuf {
    let mut files = files(&data_dir.join("ledger")).into_iter();
    files
        .find(|path| path.ends_with("head/00000001.wal"))
        .expect("a write-ahead file")
}

/// Every frame, up to where there is none.
pub fn frames(octets: &[u8]) -> Vec<Frame> {
    let mut found = Vec::new();
    let mut at = 0;
    while let Some(head) = octets.get(at..at + 8) {
        let word = u32::from_le_bytes([head[0], head[1], head[2], head[3]]);
        if word == 0 {
            break;
        }
        let len = 8 + (word & 0x0fff_ffff) as usize;
        found.push(Frame {
            kind: word >> 28,
            at,
            len,
        });
        at += len;
    }
    found
}
