//! Whom the caller of an audit trusts, read from files of his own; and such files, each with a limit.

use std::{
    fs::File,
    io::Read,
    path::{Path, PathBuf},
};

use clap::Args;
use mintage_ledger::{Policy, Vkey, limits::POLICY_BYTES_MAX};

use super::offline::read_vkeys;
use crate::{failure::Failure, output::notice};

/// Verifier keys, or a policy.
#[derive(Args, Clone, Debug, Default)]
pub(crate) struct Trust {
    /// File with the verifier keys you trust, one a line.
    #[arg(long, value_name = "FILE", conflicts_with = "policy")]
    pub(crate) vkey: Option<PathBuf>,
    /// File with the policy you trust (C2SP tlog-policy): logs, witnesses, and how many of them must have cosigned.
    #[arg(long, value_name = "FILE")]
    pub(crate) policy: Option<PathBuf>,
}

impl Trust {
    /// What the files say; nothing when none is named.
    ///
    /// # Errors
    /// When a file cannot be read or lists no log.
    pub(crate) fn read(&self) -> Result<Option<Policy>, Failure> {
        if let Some(path) = &self.policy {
            let octets = read_bounded(path, POLICY_BYTES_MAX)?;
            let policy = Policy::parse(&octets).map_err(|error| Failure::file(path, error))?;
            return match policy.logs().is_empty() {
                true => Err(Failure::file(path, "the policy lists no log")),
                false => Ok(Some(policy)),
            };
        }
        let Some(path) = &self.vkey else { return Ok(None) };
        let mut keys: Vec<Vkey> = Vec::new();
        for key in read_vkeys(path)? {
            if !keys.contains(&key) {
                keys.push(key);
            }
        }
        let policy = Policy::trusting(keys).map_err(|error| Failure::file(path, error))?;
        Ok(Some(policy))
    }

    /// The same, and says so when the keys will be taken on the ledger's own word.
    ///
    /// # Errors
    /// As [`Trust::read`].
    pub(crate) fn read_or_say(&self) -> Result<Option<Policy>, Failure> {
        let policy = self.read()?;
        if policy.is_none() {
            notice(
                "the keys are the folder's own word: bring the one that `mintage-ca init` printed by --vkey FILE, or a policy by --policy FILE",
            );
        }
        Ok(policy)
    }
}

/// The keys of a policy's logs.
pub(crate) fn keys_of(policy: &Policy) -> Vec<Vkey> {
    policy.logs().iter().map(|log| log.vkey.clone()).collect()
}

/// A whole file of at most `max` octets.
///
/// # Errors
/// When it cannot be read or is longer.
pub(crate) fn read_bounded(path: &Path, max: usize) -> Result<Vec<u8>, Failure> {
    let file = File::open(path).map_err(|error| Failure::file(path, error))?;
    let mut octets = Vec::new();
    let read = file.take(max as u64 + 1).read_to_end(&mut octets);
    read.map_err(|error| Failure::file(path, error))?;
    match octets.len() > max {
        true => Err(Failure::file(path, format!("has more than {max} bytes"))),
        false => Ok(octets),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn keys_and_policies_are_read_from_their_files() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("trusted");
        let key = Vkey::new("dev.test/mintage/a1/2026-11", [7; 32]).unwrap();
        let keys = Trust {
            vkey: Some(path.clone()),
            policy: None,
        };
        let policy = Trust {
            vkey: None,
            policy: Some(path.clone()),
        };
        fs::write(&path, format!("{key}\n{key}\n")).unwrap();
        assert_eq!(keys_of(&keys.read().unwrap().unwrap()), std::slice::from_ref(&key));
        let told = policy.read().unwrap_err();
        assert!(told.to_string().contains("line 1: ") && told.code() == 1, "{told}");
        fs::write(&path, format!("log {key}\nquorum none\n")).unwrap();
        assert_eq!(keys_of(&policy.read().unwrap().unwrap()), [key]);
        fs::write(&path, "quorum none\n").unwrap();
        assert!(policy.read().unwrap_err().to_string().contains("lists no log"));
        assert!(Trust::default().read().unwrap().is_none());
    }

    #[test]
    fn longer_files_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        fs::write(&path, "1234").unwrap();
        assert_eq!(read_bounded(&path, 4).unwrap(), b"1234");
        assert_eq!(read_bounded(&path, 3).unwrap_err().code(), 1);
        assert_eq!(read_bounded(&dir.path().join("none"), 3).unwrap_err().code(), 1);
    }
}
