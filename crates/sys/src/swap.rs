//! A folder whose files change together: every set of files is a generation, and one rename makes the next one current.
//!
//! ```text
//! folder/.mintage-delivery      whose folder this is; locked while it is written to
//! folder/..gen-<16 hex>/key.pem a generation: complete, owned and durable before anything points to it
//! folder/..data -> ..gen-...    the one pointer; replaced by rename
//! folder/key.pem -> ..data/key.pem
//! ```
//! A reader that opens `..data` once and then its files sees one generation; the one before stays until the next swap.
//! The folder may belong to the workload, so nothing in it is believed: no symlink is followed, no existing file is
//! written, owned or removed but those that carry our names, and what lies outside is out of reach (openat2(2)).

mod folder;
mod generation;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};

pub use generation::Generation;

use crate::SysError;

/// Most files of a generation: key, chain, bundle in a few formats, and the bundles of 64 other trust domains.
pub const FILES_MAX: usize = 96;
/// Longest file of a generation in bytes: the lists of revoked certificates of three CA keys, in PEM. What else is delivered
/// is far shorter, and has limits of its own where it is read; a folder holds two generations, and a third for a moment.
pub const FILE_BYTES_MAX: usize = 72 << 20;
/// Longest name of a file in bytes: a trust domain's and an ending, and it fits `NAME_MAX`.
pub const NAME_BYTES_MAX: usize = 224;

/// How a delivery folder is made, and whose it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FolderRules {
    /// Names the delivery, such as trust domain and entry; another delivery's folder is refused. At most 512 bytes.
    pub tag: String,
    /// Owner of a folder that has to be made, and the one user beside root and ourselves who may own an existing one.
    pub owner: Option<u32>,
    /// Group of a folder that has to be made.
    pub group: Option<u32>,
    /// Permission bits of a folder that has to be made, such as 0o750.
    pub mode: u32,
}

/// One file of a new generation.
#[derive(Clone, Copy)]
pub struct GenerationFile<'a> {
    /// Name in the folder: letters, digits, `.`, `_` and `-`, beginning with a letter or digit.
    pub name: &'a str,
    /// Content.
    pub bytes: &'a [u8],
    /// Permission bits, such as 0o600; set before the file can be reached.
    pub mode: u32,
    /// Owner, when it is not to be us.
    pub owner: Option<u32>,
    /// Group, when it is not to be ours.
    pub group: Option<u32>,
}

impl std::fmt::Debug for GenerationFile<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // The content may be a key.
        f.debug_struct("GenerationFile")
            .field("name", &self.name)
            .field("bytes", &"...")
            .field("mode", &format_args!("{:04o}", self.mode))
            .field("owner", &self.owner)
            .field("group", &self.group)
            .finish()
    }
}

/// What a swap did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Swapped {
    /// Name of the generation that is current and durable now.
    pub generation: String,
    /// Name of the one before, which stays until the next swap.
    pub previous: Option<String>,
    /// Left-overs that could not be removed, each with its reason; the swap itself is complete.
    pub leftovers: Vec<String>,
}

/// What a folder is to a delivery that has not opened it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It is not there and can be made.
    Missing,
    /// It holds nothing and can be taken.
    Empty,
    /// It is marked as this delivery's.
    Ours,
}

/// A delivery folder: its path, its rules, and which directory it was when it was opened.
#[derive(Clone, Debug)]
pub struct Folder {
    path: PathBuf,
    rules: FolderRules,
    identity: (u64, u64),
}

impl Folder {
    /// Takes the folder at `path`: makes it when its last part is missing, takes over an empty one, or finds it marked
    /// with this tag.
    ///
    /// # Errors
    /// One line with the remedy: a symlink anywhere in the path, another owner, writable by everybody, not empty and not
    /// ours, another delivery's, no permission, no space.
    pub fn open(path: &Path, rules: FolderRules) -> Result<Self, SysError> {
        folder::open(path, rules)
    }

    /// Looks whether [`Folder::open`] would take the folder, without making or marking anything.
    ///
    /// # Errors
    /// As [`Folder::open`], as far as that can be known without writing.
    pub fn look(path: &Path, rules: &FolderRules) -> Result<Standing, SysError> {
        folder::look(path, rules)
    }

    /// Makes these files the current generation: durably, all at once, or not at all.
    ///
    /// # Errors
    /// Before the rename the old generation stands untouched. The one failure after it, making the rename durable, is
    /// reported too: then the new generation is seen, and a crash could bring the old one back.
    pub fn swap(&self, files: &[GenerationFile<'_>]) -> Result<Swapped, SysError> {
        generation::swap(self, files, &mut |_| Ok(()))
    }

    /// The current generation, if there is one.
    ///
    /// # Errors
    /// As [`Folder::open`], and when another directory has taken the folder's place.
    pub fn current(&self) -> Result<Option<Generation>, SysError> {
        generation::current(self)
    }

    /// Removes every generation but the current one, and what a crash left, without waiting for the next swap.
    ///
    /// # Errors
    /// As [`Folder::current`]; what could not be removed is in the answer.
    pub fn prune(&self) -> Result<Vec<String>, SysError> {
        generation::prune(self)
    }

    /// Removes everything this folder was given: the per-file links, the pointer and all generations. The marker stays.
    ///
    /// # Errors
    /// As [`Folder::current`]; what could not be removed is in the answer.
    pub fn clear(&self) -> Result<Vec<String>, SysError> {
        generation::clear(self)
    }

    /// The folder's path.
    pub fn path(&self) -> &Path {
        &self.path
    }
}
