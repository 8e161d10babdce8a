//! One identity as files, which change together, for software that reads no socket.

use std::path::Path;

use mintage_svid::pem::encode_private_key;
use mintage_sys::swap::{Folder, FolderRules, GenerationFile};

use crate::failure::Failure;

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
    let absolute = std::path::absolute(folder).map_err(|error| Failure::file(folder, error))?;
    let rules = FolderRules {
        tag: tag.to_owned(),
        owner: None,
        group: None,
        mode: 0o700,
    };
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
}
