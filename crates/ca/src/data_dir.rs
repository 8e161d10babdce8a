//! The data directory: its layout, the facts that never change, and the locks and checks before anything in it is used.
//!
//! ```text
//! authority.toml     trust domain and replica; written last by `init`: without it nothing was made
//! keys/              key files, mode 0600, encrypted outside .test
//! root.pem  intermediate.pem
//! root.crl           the root's list of revoked CA certificates, PEM
//! crl-number         number of the issuing key's last list
//! ledger/            the truth
//! state/             a view of the ledger; rebuilt when lost
//! restore.unfinished while a restore is under way: nothing is served
//! admin.sock         while serving
//! ```

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use mintage_identity::{ReplicaName, TrustDomain};
use mintage_svid::{Crl, pem};
use mintage_sys::{
    dir::{self, Dir},
    lock::Lock,
    secret_file,
};
use rustix::fs::Access;
use serde::{Deserialize, Serialize};

use crate::error::CaError;

const AUTHORITY: &str = "authority.toml";
const KEYS: &str = "keys";
const LEDGER: &str = "ledger";
const STATE: &str = "state";
const LOCK: &str = "lock";
/// Mark of a restore that has not come to its end.
const UNFINISHED: &str = "restore.unfinished";
const UNFINISHED_TEXT: &str =
    "A restore into this directory has not come to its end; run `mintage-ca restore` again.\n";
/// Certificate of the root.
pub(crate) const ROOT: &str = "root.pem";
/// Certificate of the issuing intermediate.
pub(crate) const INTERMEDIATE: &str = "intermediate.pem";
/// The list of CA certificates that the root has revoked.
pub(crate) const ROOT_CRL: &str = "root.crl";
/// Bytes of that list in PEM: it names intermediates, of which there are a handful in ten years.
const ROOT_CRL_BYTES_MAX: usize = 64 * 1024;
/// Number of the issuing key's last list, in decimal digits.
const CRL_NUMBER: &str = "crl-number";
const CRL_NUMBER_BYTES_MAX: usize = 32;
const AUTHORITY_BYTES_MAX: usize = 4096;
const CERTIFICATE_BYTES_MAX: usize = 16 * 1024;
/// Version of the layout; a newer one is refused.
const VERSION: u32 = 1;

/// Facts that `init` fixed.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawAuthority {
    version: u32,
    trust_domain: String,
    replica: String,
}

/// A data directory that is safely ours.
#[derive(Debug)]
pub(crate) struct DataDir {
    path: PathBuf,
    dir: Dir,
}

/// What `init` fixed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Authority {
    pub(crate) trust_domain: TrustDomain,
    pub(crate) replica: ReplicaName,
}

impl DataDir {
    /// Makes an empty directory, or takes one that is empty.
    pub(crate) fn create(path: &Path) -> Result<Self, CaError> {
        let new = Self::make(path)?;
        new.check_unused().map(|()| new)
    }

    /// Makes a directory, or takes the one that is there.
    pub(crate) fn make(path: &Path) -> Result<Self, CaError> {
        let dir = dir::create_owned(path).map_err(CaError::Sys)?;
        Ok(Self {
            path: path.to_path_buf(),
            dir,
        })
    }

    /// Looks whether [`DataDir::create`] would succeed, and makes nothing.
    pub(crate) fn check_creatable(path: &Path) -> Result<(), CaError> {
        match fs::symlink_metadata(path) {
            Ok(_) => Self::open(path)?.check_unused(),
            Err(_) => Self::check_makeable(path),
        }
    }

    /// Looks whether a directory that is not there can be made.
    pub(crate) fn check_makeable(path: &Path) -> Result<(), CaError> {
        let parent = match path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        // The trailing dot makes the system look for a directory behind the name.
        rustix::fs::access(parent.join("."), Access::WRITE_OK | Access::EXEC_OK).map_err(|error| CaError::DataDir {
            path: path.to_path_buf(),
            problem: format!("cannot be made: {}", io::Error::from(error)),
        })
    }

    /// True when it holds nothing but the lock.
    pub(crate) fn is_unused(&self) -> bool {
        let names = self.dir.names(1);
        names.is_ok_and(|names| names.iter().all(|name| name == LOCK.as_bytes()))
    }

    /// Refuses a directory that holds anything but the lock.
    pub(crate) fn check_unused(&self) -> Result<(), CaError> {
        if self.is_unused() {
            return Ok(());
        }
        let is = |name| self.dir.entry(name).is_ok_and(|entry| entry.is_some());
        Err(self.problem(if is(KEYS) && !is(AUTHORITY) {
            "holds what an interrupted `init` left, which no CA ever used; remove the directory and run `init` again"
        } else {
            "is not empty; `init` makes a new authority and never touches what is there"
        }))
    }

    /// Takes away all that `init` makes, in a directory that was empty before. What cannot be taken away stays, and the
    /// next `init` names it.
    pub(crate) fn clear(&self) {
        for folder in [KEYS, LEDGER] {
            let _ = fs::remove_dir_all(self.path.join(folder));
        }
        for file in [ROOT, ROOT_CRL, INTERMEDIATE, AUTHORITY, LOCK] {
            let _ = fs::remove_file(self.path.join(file));
        }
    }

    /// True while a restore is under way, or was when it was killed.
    pub(crate) fn is_unfinished(&self) -> bool {
        // What cannot be looked at is not known to be finished.
        self.dir.entry(UNFINISHED).map_or(true, |entry| entry.is_some())
    }

    /// Marks the beginning of a restore, durably.
    pub(crate) fn begin_restore(&self) -> Result<(), CaError> {
        secret_file::write_new(&self.dir, UNFINISHED, UNFINISHED_TEXT.as_bytes()).map_err(CaError::Sys)
    }

    /// Takes the mark of a restore away, durably and after everything else of it: from now on the directory is served.
    pub(crate) fn end_restore(&self) -> Result<(), CaError> {
        let ended = self.dir.fsync().and_then(|()| self.dir.remove_file(UNFINISHED));
        let ended = ended.and_then(|()| self.dir.fsync());
        ended.map_err(|error| self.problem(format!("the mark of the restore could not be taken away: {error}")))
    }

    /// Takes away what a restore has put here, but for its mark and the lock.
    pub(crate) fn clear_restore(&self) -> Result<(), CaError> {
        let there = |done: io::Result<()>| match done {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        };
        // First what makes it an authority.
        let files = [AUTHORITY, ROOT, ROOT_CRL, INTERMEDIATE];
        let mut cleared = files.map(|name| fs::remove_file(self.path.join(name))).into_iter();
        let folders = [KEYS, LEDGER, STATE].map(|name| fs::remove_dir_all(self.path.join(name)));
        let outcome = cleared.try_for_each(there);
        let outcome = outcome.and_then(|()| folders.into_iter().try_for_each(there));
        outcome.map_err(|error| self.problem(format!("what an earlier restore left cannot be taken away: {error}")))
    }

    /// Keeps a CA out while the directory is only read; makes nothing.
    pub(crate) fn lock_for_reading(&self) -> Result<Option<Lock>, CaError> {
        Lock::shared(&self.dir, LOCK).map_err(CaError::Sys)
    }

    /// Opens what `init` made.
    pub(crate) fn open(path: &Path) -> Result<Self, CaError> {
        let dir = dir::open_owned(path).map_err(CaError::Sys)?;
        Ok(Self {
            path: path.to_path_buf(),
            dir,
        })
    }

    /// Keeps a second process out.
    pub(crate) fn lock(&self) -> Result<Lock, CaError> {
        Lock::exclusive(&self.dir, LOCK).map_err(CaError::Sys)
    }

    pub(crate) fn keys(&self) -> Result<Dir, CaError> {
        dir::open_owned(&self.path.join(KEYS)).map_err(CaError::Sys)
    }

    pub(crate) fn create_keys(&self) -> Result<Dir, CaError> {
        dir::create_owned(&self.path.join(KEYS)).map_err(CaError::Sys)
    }

    pub(crate) fn ledger(&self) -> PathBuf {
        self.path.join(LEDGER)
    }

    pub(crate) fn state(&self) -> PathBuf {
        self.path.join(STATE)
    }

    /// Writes the facts; this is the last thing `init` does, so that a half-made directory is never served.
    pub(crate) fn write_authority(&self, authority: &Authority) -> Result<(), CaError> {
        let raw = RawAuthority {
            version: VERSION,
            trust_domain: authority.trust_domain.to_string(),
            replica: authority.replica.to_string(),
        };
        let text = toml::to_string(&raw).map_err(|error| self.problem(error.to_string()))?;
        secret_file::write_new(&self.dir, AUTHORITY, text.as_bytes()).map_err(CaError::Sys)
    }

    pub(crate) fn authority(&self) -> Result<Authority, CaError> {
        if self.is_unfinished() {
            return Err(self.problem(
                "holds a restore that did not come to its end, and is not served: run the same `mintage-ca restore` again",
            ));
        }
        if self.dir.entry(AUTHORITY).ok().flatten().is_none() {
            return Err(
                self.problem("holds no authority: run `mintage-ca init` first (a half-made one is to be removed)")
            );
        }
        let octets = secret_file::read_beneath(&self.dir, AUTHORITY, AUTHORITY_BYTES_MAX).map_err(CaError::Sys)?;
        let bad = |why: String| self.problem(format!("{AUTHORITY} is damaged: {why}"));
        let text = std::str::from_utf8(&octets).map_err(|error| bad(error.to_string()))?;
        let raw: RawAuthority = toml::from_str(text).map_err(|error| bad(error.message().to_owned()))?;
        if raw.version > VERSION {
            return Err(self.problem(format!(
                "has layout version {}, this program knows {VERSION}",
                raw.version
            )));
        }
        Ok(Authority {
            trust_domain: TrustDomain::parse(&raw.trust_domain).map_err(|error| bad(error.to_string()))?,
            replica: ReplicaName::parse(&raw.replica).map_err(|error| bad(error.to_string()))?,
        })
    }

    pub(crate) fn write_certificate(&self, name: &str, der: &[u8]) -> Result<(), CaError> {
        let text = pem::encode_certificates([der]);
        secret_file::write_new(&self.dir, name, text.as_bytes()).map_err(CaError::Sys)
    }

    pub(crate) fn certificate(&self, name: &str) -> Result<Vec<u8>, CaError> {
        let octets = secret_file::read_beneath(&self.dir, name, CERTIFICATE_BYTES_MAX).map_err(CaError::Sys)?;
        let text = std::str::from_utf8(&octets).map_err(|_| self.problem(format!("{name} is no text")))?;
        let certificates = pem::decode_certificates(text).map_err(|error| self.problem(format!("{name}: {error}")))?;
        match <[Vec<u8>; 1]>::try_from(certificates) {
            Ok([der]) => Ok(der),
            Err(list) => Err(self.problem(format!("{name} holds {} certificates, not one", list.len()))),
        }
    }

    pub(crate) fn write_root_list(&self, der: &[u8]) -> Result<(), CaError> {
        let text = pem::encode(pem::Label::Crl, der);
        secret_file::write_new(&self.dir, ROOT_CRL, text.as_bytes()).map_err(CaError::Sys)
    }

    /// Puts the root's list in the place of the former one, whole at any moment.
    pub(crate) fn replace_root_list(&self, der: &[u8]) -> Result<(), CaError> {
        let text = pem::encode(pem::Label::Crl, der);
        secret_file::replace(&self.dir, ROOT_CRL, text.as_bytes()).map_err(CaError::Sys)
    }

    /// The root's list; none in a directory that was made before there were any.
    pub(crate) fn root_list(&self) -> Result<Option<Crl>, CaError> {
        if self.dir.entry(ROOT_CRL).is_ok_and(|entry| entry.is_none()) {
            return Ok(None);
        }
        let octets = secret_file::read_beneath(&self.dir, ROOT_CRL, ROOT_CRL_BYTES_MAX).map_err(CaError::Sys)?;
        let text = String::from_utf8_lossy(&octets);
        let list = pem::decode(pem::Label::Crl, &text).and_then(|der| Crl::parse(&der));
        list.map(Some).map_err(|error| {
            self.problem(format!(
                "{ROOT_CRL}: {error}; put the file back from a backup, or remove it to serve without the root's list"
            ))
        })
    }

    /// Number of the issuing key's last list; 0 before the first.
    pub(crate) fn crl_number(&self) -> Result<u64, CaError> {
        if self.dir.entry(CRL_NUMBER).is_ok_and(|entry| entry.is_none()) {
            return Ok(0);
        }
        let octets = secret_file::read_beneath(&self.dir, CRL_NUMBER, CRL_NUMBER_BYTES_MAX).map_err(CaError::Sys)?;
        String::from_utf8_lossy(&octets).trim().parse().map_err(|_| {
            self.problem(format!(
                "{CRL_NUMBER} is no number; write the one that `mintage revocation crl` shows for the issuing key into it, or \
                 remove it when the clock was never set back"
            ))
        })
    }

    /// Puts a number in the place of the former one, whole at any moment.
    pub(crate) fn keep_crl_number(&self, number: u64) -> Result<(), CaError> {
        secret_file::replace(&self.dir, CRL_NUMBER, format!("{number}\n").as_bytes()).map_err(CaError::Sys)
    }

    pub(crate) fn problem(&self, problem: impl Into<String>) -> CaError {
        CaError::DataDir {
            path: self.path.clone(),
            problem: problem.into(),
        }
    }
}
