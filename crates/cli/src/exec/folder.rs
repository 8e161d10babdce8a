//! The folder that one program's files are in: new, for this user alone, and gone when the program is.

use std::{
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
};

use ring::rand::{SecureRandom, SystemRandom};

use super::news::Identity;
use crate::{
    failure::Failure,
    output::notice,
    svid::files::{self, BUNDLE, CHAIN, KEY},
};

/// Whose the folder is.
const TAG: &str = "mintage exec";
/// The variable that names a folder in memory for each user's programs (XDG Base Directory Specification).
const RUNTIME_DIR: &str = "XDG_RUNTIME_DIR";

/// The folder. It is removed when this value is dropped.
#[derive(Debug)]
pub(super) struct PrivateFolder(PathBuf);

impl PrivateFolder {
    /// A name of its own, below the user's runtime directory or the system's place for temporary files.
    pub(super) fn new() -> Result<Self, Failure> {
        let runtime = std::env::var_os(RUNTIME_DIR).map(PathBuf::from);
        let usual = runtime.filter(|path| path.is_absolute() && path.is_dir());
        Self::below(&usual.unwrap_or_else(std::env::temp_dir))
    }

    fn below(base: &Path) -> Result<Self, Failure> {
        // No link is followed later.
        let base = fs::canonicalize(base).map_err(|error| Failure::file(base, error))?;
        let mut name = [0; 16];
        let random = SystemRandom::new().fill(&mut name);
        random.map_err(|_| Failure::local("the system gives no random numbers"))?;
        Ok(Self(base.join(format!("mintage-exec-{}", hex::encode(name)))))
    }

    /// Writes the files as one generation.
    pub(super) fn write(&self, identity: &Identity) -> Result<(), Failure> {
        files::write(&self.0, TAG, &identity.chain, &identity.key, &identity.bundle)
    }

    /// Removes them; the folder stays, for an identity that comes back.
    pub(super) fn empty(&self) -> Result<(), Failure> {
        files::remove(&self.0, TAG)
    }

    /// Where the files are, for the program.
    pub(super) fn variables(&self) -> Vec<(&'static str, OsString)> {
        let file = |name: &str| self.0.join(name).into_os_string();
        vec![
            ("MINTAGE_DIRECTORY", self.0.clone().into_os_string()),
            ("MINTAGE_SVID_FILE", file(CHAIN)),
            ("MINTAGE_KEY_FILE", file(KEY)),
            ("MINTAGE_BUNDLE_FILE", file(BUNDLE)),
        ]
    }
}

impl Drop for PrivateFolder {
    fn drop(&mut self) {
        match fs::remove_dir_all(&self.0) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                notice(&format!("{}: cannot be removed: {error}", self.0.display()));
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    fn identity() -> Identity {
        Identity {
            spiffe_id: "spiffe://dev.test/web".to_owned(),
            chain: "chain".to_owned(),
            key: zeroize::Zeroizing::new(b"key".to_vec()),
            bundle: "roots".to_owned(),
        }
    }

    #[test]
    fn the_folder_is_its_users_alone_and_goes_with_its_value() {
        let dir = tempfile::tempdir().unwrap();
        let (one, two) = (
            PrivateFolder::below(dir.path()).unwrap(),
            PrivateFolder::below(dir.path()).unwrap(),
        );
        one.write(&identity()).unwrap();
        two.write(&identity()).unwrap();
        assert_ne!(one.0, two.0);
        assert_eq!(fs::metadata(&one.0).unwrap().mode() & 0o777, 0o700);
        one.empty().unwrap();
        assert!(!one.0.join(KEY).exists() && two.0.join(KEY).exists());
        one.write(&identity()).unwrap();
        for (name, path) in one.variables().into_iter().skip(1) {
            assert!(fs::metadata(&path).unwrap().is_file(), "{name}");
        }
        drop(one);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
        drop(two);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
        assert!(PrivateFolder::below(&dir.path().join("missing")).is_err());
    }
}
