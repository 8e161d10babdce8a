//! What a witness keeps: its key, and of each log the last checkpoint that it cosigned.
//!
//! ```text
//! key.pem            Ed25519 private key, mode 0600, encrypted where a passphrase was given
//! vkey               the key that verifies cosignatures; written last by `init`
//! lock               held while serving
//! logs/<SHA-256 of the origin>         the last checkpoint, with the log's lines and the witness's own
//! logs/<SHA-256 of the origin>.next    the log's statement about the log after it
//! ```
//!
//! A cosignature leaves only after its checkpoint is durable, and one lock for each log is held from the look at the stored
//! one until then: whatever ends the process, and whenever, the next start knows at least what was cosigned. A statement about
//! the log after a log is durable before that log is followed, and verified again at each start.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
};

use arc_swap::ArcSwap;
use mintage_identity::UnixTime;
use mintage_ledger::{
    AddCheckpoint, Cosigner, CosignerKey, LogKey, LogVerdict, Policy, SuccessionClaim, Verdict, Vkey, cosigned, decide,
    decide_log, limits::POLICY_BYTES_MAX,
};
use mintage_mint::{decrypt_key_file, encrypt_key_file};
use mintage_svid::pem::{self, Label};
use mintage_sys::{
    dir::{self, Dir},
    lock::Lock,
    secret_file, text_file,
};
use tracing::info;
use zeroize::Zeroizing;

use super::{
    known::{Followed, Known, Shelf, next_file},
    seen::file_of,
};
use crate::{desk::Random, error::CaError, limits::WITNESS_NAME_BYTES_MAX};

const KEY: &str = "key.pem";
const VKEY: &str = "vkey";
const LOCK: &str = "lock";
const LOGS: &str = "logs";
/// Longest key file: an Ed25519 key in PEM takes 120 bytes, encrypted 400.
const KEY_BYTES_MAX: usize = 4096;

/// What the key is encrypted under.
pub(super) type Passphrase = Zeroizing<Vec<u8>>;

/// What is answered when a lock's holder has panicked: what it left is unknown.
const PANICKED: &str = "an earlier request ended in a panic; start the witness again";

pub(super) fn problem(path: &Path, problem: impl Into<String>) -> CaError {
    CaError::DataDir {
        path: path.to_path_buf(),
        problem: problem.into(),
    }
}

fn check_name(name: &str) -> Result<(), CaError> {
    if name.len() > WITNESS_NAME_BYTES_MAX {
        let told = format!("{name:?} is longer than {WITNESS_NAME_BYTES_MAX} bytes");
        return Err(problem(Path::new("--name"), told));
    }
    Ok(CosignerKey::new(name, [0; 32]).map(drop)?)
}

fn check_empty(dir: &Dir) -> Result<(), CaError> {
    match dir.names(1) {
        Ok(names) if names.is_empty() => Ok(()),
        _ => Err(problem(
            dir.path(),
            "is not empty; a witness is made once and never over what is there",
        )),
    }
}

pub(super) fn check_init(path: &Path, name: &str) -> Result<(), CaError> {
    check_name(name)?;
    match std::fs::symlink_metadata(path) {
        Ok(_) => check_empty(&dir::open_owned(path).map_err(CaError::Sys)?),
        Err(_) => {
            let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
            let parent = parent.unwrap_or(Path::new("."));
            match parent.is_dir() {
                true => Ok(()),
                false => Err(problem(path, "cannot be made: the folder above it does not exist")),
            }
        }
    }
}

/// `passphrase` encrypts the key.
pub(super) fn init(
    path: &Path,
    name: &str,
    passphrase: Option<&Passphrase>,
    random: Random,
) -> Result<CosignerKey, CaError> {
    check_name(name)?;
    let dir = dir::create_owned(path).map_err(CaError::Sys)?;
    let _lock = {
        check_empty(&dir)?;
        Lock::exclusive(&dir, LOCK).map_err(CaError::Sys)?
    };
    let mut seed = Zeroizing::new([0; 32]);
    random.fill(&mut seed[..]).map_err(|_| CaError::NoRandom)?;
    let (pair, pkcs8) = LogKey::generate(&seed)?;
    let key = CosignerKey::new(name, pair.public_key())?;
    dir::create_owned(&path.join(LOGS)).map_err(CaError::Sys)?;
    let text = match passphrase {
        Some(passphrase) => {
            let mut octets = [0; 32];
            random.fill(&mut octets).map_err(|_| CaError::NoRandom)?;
            encrypt_key_file(&pkcs8, passphrase, &octets)?
        }
        None => pem::encode_private_key(&pkcs8),
    };
    secret_file::write_new(&dir, KEY, text.as_bytes()).map_err(CaError::Sys)?;
    secret_file::write_new(&dir, VKEY, format!("{key}\n").as_bytes()).map_err(CaError::Sys)?;
    Ok(key)
}

/// What a request comes to.
pub(super) enum Answer {
    /// The cosignature's line; its checkpoint is durable.
    Cosigned(String),
    /// No cosignature.
    Refused(Verdict),
    /// Nothing can be cosigned now.
    Unavailable(String),
}

/// What a statement about the log after a log comes to.
pub(super) enum Following {
    /// The log with this key is followed, and that is durable.
    Followed(Vkey),
    /// It is not.
    Refused(LogVerdict),
    /// Nothing can be stored now.
    Unavailable(String),
}

/// A witness's directory, open for one process.
#[derive(Debug)]
pub(super) struct Store {
    cosigner: Cosigner,
    policy: PathBuf,
    dir: Dir,
    known: ArcSwap<Known>,
    /// Held while the logs that are followed change.
    shelf: Mutex<Shelf>,
    _lock: Lock,
}

impl Store {
    /// Opens what `init` made, for the logs of a policy file and those that follow from them.
    pub(super) fn open(path: &Path, policy: &Path, passphrase: Option<&Passphrase>) -> Result<Self, CaError> {
        let listed = read_policy(policy)?;
        let dir = dir::open_owned(path).map_err(CaError::Sys)?;
        let lock = Lock::exclusive(&dir, LOCK).map_err(CaError::Sys)?;
        let cosigner = read_key(&dir, passphrase)?;
        let logs = dir::open_owned(&path.join(LOGS)).map_err(CaError::Sys)?;
        let mut shelf = Shelf::default();
        let known = Known::read(&listed, &logs, cosigner.key(), &mut shelf)?;
        Ok(Self {
            cosigner,
            policy: policy.to_owned(),
            dir: logs,
            known: ArcSwap::from_pointee(known),
            shelf: Mutex::new(shelf),
            _lock: lock,
        })
    }

    pub(super) fn key(&self) -> &CosignerKey {
        self.cosigner.key()
    }

    /// How many logs are followed.
    pub(super) fn logs(&self) -> usize {
        self.known.load().len()
    }

    /// Of each log that was cosigned the last size and time.
    pub(super) fn heads(&self) -> Vec<(String, u64, UnixTime)> {
        let known = self.known.load();
        let head = |(origin, log): (&String, &Followed)| {
            let seen = log.locked()?;
            seen.time().map(|time| (origin.clone(), seen.head().size, time))
        };
        known.iter().filter_map(head).collect()
    }

    /// Reads the policy file again. When it cannot be taken, what was followed stays followed.
    pub(super) fn reload(&self) -> Result<usize, CaError> {
        let listed = read_policy(&self.policy)?;
        let mut shelf = self.shelf.lock().map_err(|_| CaError::Poisoned(PANICKED.to_owned()))?;
        let known = Known::read(&listed, &self.dir, self.key(), &mut shelf)?;
        let logs = known.len();
        self.known.store(Arc::new(known));
        Ok(logs)
    }

    /// Decides on the statement of a followed log about the log after it, stores it, and only then follows that. Blocks for
    /// the disk.
    pub(super) fn follow(&self, body: &[u8]) -> Following {
        let claim = match SuccessionClaim::parse(body) {
            Ok(claim) => claim,
            Err(error) => return Following::Refused(LogVerdict::Malformed(error.to_string())),
        };
        let Ok(mut shelf) = self.shelf.lock() else {
            return Following::Unavailable(PANICKED.to_owned());
        };
        let known = self.known.load_full();
        let from = claim.from().as_str();
        let (keys, next) = known.get(from).map_or((&[][..], None), |log| (log.keys(), log.next()));
        let succession = match decide_log(keys, next, &claim) {
            LogVerdict::Follow(succession) => succession,
            LogVerdict::Followed => return Following::Followed(claim.to().clone()),
            refused => {
                if let LogVerdict::OtherSuccessor(known) = &refused {
                    shelf.warn(&claim, known);
                }
                return Following::Refused(refused);
            }
        };
        if let Err(why) = known.may_add(from, succession.to()) {
            return Following::Refused(LogVerdict::Foreign(why));
        }
        let more = match known.with(from, succession.to(), &self.dir, (self.key(), &mut shelf)) {
            Ok(more) => more,
            Err(error) => return Following::Unavailable(error.to_string()),
        };
        if let Err(error) = secret_file::replace(&self.dir, &next_file(from), succession.to_string().as_bytes()) {
            return Following::Unavailable(format!("the statement could not be stored: {error}"));
        }
        self.known.store(Arc::new(more));
        info!(from, vkey = %succession.to(), "a log follows one that is cosigned, by that one's word; it is cosigned too");
        Following::Followed(succession.to().clone())
    }

    /// Decides on a request's body and, where it is cosigned, stores its checkpoint first. Blocks for the disk.
    pub(super) fn add(&self, body: &[u8], now: UnixTime) -> Answer {
        let request = match AddCheckpoint::parse(body) {
            Ok(request) => request,
            Err(error) => return Answer::Refused(Verdict::Malformed(error.to_string())),
        };
        let known = self.known.load_full();
        let Some(followed) = known.get(request.checkpoint().origin()) else {
            return Answer::Refused(Verdict::UnknownLog);
        };
        let Some(mut seen) = followed.locked() else {
            return Answer::Unavailable(PANICKED.to_owned());
        };
        let head = match decide(followed.keys(), &request, seen.head()) {
            Verdict::Cosign(head) => head,
            refused => {
                seen.warn(&request, &refused);
                return Answer::Refused(refused);
            }
        };
        // A cosignature without a time would say something else (C2SP tlog-witness, add-checkpoint).
        if now.seconds() < 1 {
            return Answer::Unavailable("the clock stands before 1970".to_owned());
        }
        let line = match self.cosigner.cosign(request.note(), now) {
            Ok(line) => line,
            Err(error) => return Answer::Refused(Verdict::Malformed(error.to_string())),
        };
        // The same tree again is stored already.
        if !seen.holds(head) {
            let note = match cosigned(followed.keys(), &request, line.clone()) {
                Ok(note) => note,
                Err(error) => return Answer::Refused(Verdict::Malformed(error.to_string())),
            };
            if let Err(why) = seen.keep(&self.dir, head, note) {
                return Answer::Unavailable(why);
            }
        }
        seen.cosigned_at(now);
        Answer::Cosigned(format!("{line}\n"))
    }

    /// The stored checkpoint of the log whose origin has this SHA-256, in hexadecimal.
    pub(super) fn checkpoint(&self, hash: &str) -> Option<String> {
        let known = self.known.load();
        let followed = known.iter().find(|(origin, _)| file_of(origin) == hash)?.1;
        followed.locked()?.note().map(ToString::to_string)
    }
}

fn read_policy(file: &Path) -> Result<Policy, CaError> {
    let text = text_file::read(file, POLICY_BYTES_MAX as u64).map_err(|told| problem(file, told))?;
    let policy = Policy::parse(text.as_bytes()).map_err(|error| problem(file, error.to_string()))?;
    match policy.logs().is_empty() {
        true => Err(problem(file, "lists no log: nothing would be cosigned")),
        false => Ok(policy),
    }
}

fn read_key(dir: &Dir, passphrase: Option<&Passphrase>) -> Result<Cosigner, CaError> {
    let told = |what: String| problem(dir.path(), what);
    if dir.entry(VKEY).ok().flatten().is_none() {
        return Err(told(
            "holds no witness: run `mintage witness init` first (a half-made one is to be removed)".to_owned(),
        ));
    }
    let vkey = secret_file::read_beneath(dir, VKEY, KEY_BYTES_MAX).map_err(CaError::Sys)?;
    let vkey = String::from_utf8_lossy(&vkey);
    let vkey: CosignerKey = vkey.trim_end().parse()?;
    let text = secret_file::read_beneath(dir, KEY, KEY_BYTES_MAX).map_err(CaError::Sys)?;
    let text = std::str::from_utf8(&text).map_err(|_| told(format!("{KEY} is no text")))?;
    let pkcs8 = match passphrase {
        Some(passphrase) => decrypt_key_file(text, passphrase).map_err(|error| told(format!("{KEY}: {error}")))?,
        None if Label::of(text) == Some(Label::EncryptedPrivateKey) => {
            return Err(told(format!(
                "{KEY} is encrypted: give its passphrase by --passphrase-file"
            )));
        }
        None => pem::decode_private_key(text).map_err(|error| told(format!("{KEY}: {error}")))?,
    };
    let cosigner = Cosigner::new(vkey.name(), LogKey::from_pkcs8(&pkcs8)?)?;
    match *cosigner.key() == vkey {
        true => Ok(cosigner),
        false => Err(told(format!("{KEY} is not the key of {VKEY}"))),
    }
}

#[cfg(test)]
mod tests;
