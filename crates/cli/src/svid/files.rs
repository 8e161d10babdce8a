//! One identity as files, which change together, for software that reads no socket.

use std::path::{Path, PathBuf};

use mintage_svid::{
    LeafInfo,
    pem::{decode_certificates, encode_private_key},
};
use mintage_sys::swap::{Folder, FolderRules, GenerationFile, Standing};

use crate::{failure::Failure, limits::SVID_FILE_BYTES_MAX};

/// The chain, leaf first.
pub(crate) const CHAIN: &str = "svid.pem";
/// The private key.
pub(crate) const KEY: &str = "svid_key.pem";
/// The roots of the identity's trust domain.
pub(crate) const BUNDLE: &str = "svid_bundle.pem";

/// Writes one generation with the names of the agent's layout `split`; the key for this user alone. A folder with another
/// tag is somebody else's and refused.
///
/// # Errors
/// Why the folder cannot be taken or written.
pub(crate) fn write(folder: &Path, tag: &str, chain: &str, key: &[u8], bundle: &str) -> Result<(), Failure> {
    let (absolute, rules) = rules(folder, tag)?;
    let key = encode_private_key(key);
    let file = |name, bytes, mode| GenerationFile {
        name,
        bytes,
        mode,
        owner: None,
        group: None,
    };
    let files = [
        file(CHAIN, chain.as_bytes(), 0o644),
        file(KEY, key.as_bytes(), 0o600),
        file(BUNDLE, bundle.as_bytes(), 0o644),
    ];
    let swapped = Folder::open(&absolute, rules).and_then(|opened| opened.swap(&files));
    swapped.map(drop).map_err(|error| Failure::file(folder, error))
}

/// The identity that a folder is for: the one given, else the one whose certificate lies there.
///
/// # Errors
/// Why the folder cannot be taken.
pub(crate) fn pinned(given: Option<&str>, folder: Option<&Path>, tag: &str) -> Result<Option<String>, Failure> {
    match (given, folder) {
        (Some(given), _) => Ok(Some(given.to_owned())),
        (None, Some(folder)) => held(folder, tag),
        (None, None) => Ok(None),
    }
}

fn held(folder: &Path, tag: &str) -> Result<Option<String>, Failure> {
    let told = |error| Failure::file(folder, error);
    let Some(opened) = ours(folder, tag)? else {
        return Ok(None);
    };
    let Some(current) = opened.current().map_err(told)? else {
        return Ok(None);
    };
    let chain = current.read(CHAIN, SVID_FILE_BYTES_MAX as usize).map_err(told)?;
    // A certificate that cannot be read says nothing, and is written anew.
    let id = || {
        let chain = decode_certificates(std::str::from_utf8(&chain?).ok()?).ok()?;
        let leaf = LeafInfo::parse(chain.first()?).ok()?;
        Some(leaf.id().to_string())
    };
    Ok(id())
}

/// Removes what [`write()`] put there: the names at once, then what they stood for.
///
/// # Errors
/// Why the folder cannot be taken, or what is left in it.
pub(crate) fn remove(folder: &Path, tag: &str) -> Result<(), Failure> {
    let Some(opened) = ours(folder, tag)? else {
        return Ok(());
    };
    let left = opened.clear().map_err(|error| Failure::file(folder, error))?;
    match left.is_empty() {
        true => Ok(()),
        false => Err(Failure::file(folder, left.join("; "))),
    }
}

/// The folder where it is marked as ours; one that is missing or empty holds nothing.
fn ours(folder: &Path, tag: &str) -> Result<Option<Folder>, Failure> {
    let told = |error| Failure::file(folder, error);
    let (absolute, rules) = rules(folder, tag)?;
    match Folder::look(&absolute, &rules).map_err(told)? {
        Standing::Ours => Folder::open(&absolute, rules).map(Some).map_err(told),
        Standing::Missing | Standing::Empty => Ok(None),
    }
}

fn rules(folder: &Path, tag: &str) -> Result<(PathBuf, FolderRules), Failure> {
    let absolute = std::path::absolute(folder).map_err(|error| Failure::file(folder, error))?;
    let rules = FolderRules {
        tag: tag.to_owned(),
        owner: None,
        group: None,
        mode: 0o700,
    };
    Ok((absolute, rules))
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::MetadataExt};

    use super::*;

    #[test]
    fn the_key_is_for_its_owner_alone_and_a_folder_of_somebody_else_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("out");
        for round in ["1", "2"] {
            write(&folder, "ours", round, b"key", "roots").unwrap();
            assert_eq!(fs::read_to_string(folder.join("svid.pem")).unwrap(), round);
        }
        let another = write(&folder, "another", "3", b"key", "roots").unwrap_err().to_string();
        assert!(another.contains("another delivery"), "{another}");
        let key = fs::metadata(folder.join("svid_key.pem")).unwrap();
        assert_eq!(key.mode() & 0o777, 0o600);
        let other = dir.path().join("other");
        fs::create_dir(&other).unwrap();
        fs::write(other.join("mine"), "x").unwrap();
        assert!(
            write(&other, "ours", "1", b"key", "roots")
                .unwrap_err()
                .to_string()
                .contains("other")
        );
        assert_eq!(fs::read_dir(&other).unwrap().count(), 1);
    }

    #[test]
    fn what_was_written_is_removed_whole_and_nothing_else_is() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("out");
        remove(&folder, "ours").unwrap();
        assert!(!folder.exists(), "nothing is made in order to remove from it");
        for round in ["1", "2"] {
            write(&folder, "ours", round, b"key", "roots").unwrap();
        }
        fs::write(folder.join("mine"), "x").unwrap();
        let another = remove(&folder, "another").unwrap_err().to_string();
        assert!(another.contains("another delivery"), "{another}");
        assert!(folder.join(KEY).exists());
        remove(&folder, "ours").unwrap();
        let left: Vec<_> = fs::read_dir(&folder)
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .collect();
        assert_eq!(left.len(), 2, "the marker and the file of somebody else: {left:?}");
        assert_eq!(pinned(None, Some(&folder), "ours").unwrap(), None);
        write(&folder, "ours", "3", b"key", "roots").unwrap();
        assert_eq!(fs::read_to_string(folder.join(CHAIN)).unwrap(), "3");
        let given = pinned(Some("spiffe://dev.test/a"), Some(&folder), "ours").unwrap();
        assert_eq!(given.as_deref(), Some("spiffe://dev.test/a"));
        assert_eq!(
            pinned(None, Some(&folder), "ours").unwrap(),
            None,
            "it holds no certificate"
        );
    }
}
