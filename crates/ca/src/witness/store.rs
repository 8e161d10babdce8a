//! What a witness keeps: its key, and of each log the last checkpoint that it cosigned.
//!
//! ```text
//! key.pem            Ed25519 private key, mode 0600
//! vkey               the key that verifies cosignatures; written last by `init`
//! lock               held while serving
//! logs/<SHA-256 of the origin>    the last checkpoint, with the log's lines and the witness's own
//! ```
//!
//! A cosignature leaves only after its checkpoint is durable, and one lock for each log is held from the look at the stored
//! one until then: whatever ends the process, and whenever, the next start knows at least what was cosigned.

use std::{
    collections::BTreeMap,
    path::Path,
    sync::{Mutex, MutexGuard},
    time::Instant,
};

use mintage_identity::UnixTime;
use mintage_ledger::{
    AddCheckpoint, Cosigner, CosignerKey, LogKey, Policy, SignedNote, TreeHead, Verdict, cosigned, decide,
    limits::{NOTE_BYTES_MAX, POLICY_BYTES_MAX},
};
use mintage_svid::pem;
use mintage_sys::{
    dir::{self, Dir},
    lock::Lock,
    secret_file, text_file,
};
use tracing::{error, warn};
use zeroize::Zeroizing;

use crate::{
    desk::Random,
    error::CaError,
    limits::{WITNESS_NAME_BYTES_MAX, WITNESS_WARNING_INTERVAL},
};

const KEY: &str = "key.pem";
const VKEY: &str = "vkey";
const LOCK: &str = "lock";
const LOGS: &str = "logs";
/// Longest key file: an Ed25519 key in PEM takes 120 bytes.
const KEY_BYTES_MAX: usize = 4096;

fn problem(path: &Path, problem: impl Into<String>) -> CaError {
    CaError::DataDir {
        path: path.to_path_buf(),
        problem: problem.into(),
    }
}

/// The file of a log's last checkpoint, and its name in the read API (C2SP tlog-witness, monitor retrieval).
fn file_of(origin: &str) -> String {
    hex::encode(ring::digest::digest(&ring::digest::SHA256, origin.as_bytes()))
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

pub(super) fn init(path: &Path, name: &str, random: Random) -> Result<CosignerKey, CaError> {
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
    let text = pem::encode_private_key(&pkcs8);
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

/// One log as the witness has seen it.
#[derive(Debug)]
struct Log {
    head: TreeHead,
    /// The stored checkpoint.
    note: Option<SignedNote>,
    file: String,
    /// Why nothing more is stored: what is on disk is unknown until the next start.
    failed: Option<String>,
    warned: Option<Instant>,
}

/// A witness's directory, open for one process.
#[derive(Debug)]
pub(super) struct Store {
    cosigner: Cosigner,
    policy: Policy,
    dir: Dir,
    logs: BTreeMap<String, Mutex<Log>>,
    _lock: Lock,
}

impl Store {
    /// Opens what `init` made, for the logs of a policy file.
    pub(super) fn open(path: &Path, policy: &Path) -> Result<Self, CaError> {
        let text = text_file::read(policy, POLICY_BYTES_MAX as u64).map_err(|told| problem(policy, told))?;
        let policy_file = policy;
        let policy = Policy::parse(text.as_bytes()).map_err(|error| problem(policy_file, error.to_string()))?;
        if policy.logs().is_empty() {
            return Err(problem(policy_file, "lists no log: nothing would be cosigned"));
        }
        let dir = dir::open_owned(path).map_err(CaError::Sys)?;
        let lock = Lock::exclusive(&dir, LOCK).map_err(CaError::Sys)?;
        let cosigner = read_key(&dir)?;
        let logs_dir = dir::open_owned(&path.join(LOGS)).map_err(CaError::Sys)?;
        let mut logs = BTreeMap::new();
        for log in policy.logs() {
            let origin = log.vkey.name();
            logs.insert(
                origin.to_owned(),
                Mutex::new(read_log(&logs_dir, origin, cosigner.key())?),
            );
        }
        Ok(Self {
            cosigner,
            policy,
            dir: logs_dir,
            logs,
            _lock: lock,
        })
    }

    pub(super) fn key(&self) -> &CosignerKey {
        self.cosigner.key()
    }

    pub(super) fn logs(&self) -> usize {
        self.logs.len()
    }

    /// Decides on a request's body and, where it is cosigned, stores its checkpoint first. Blocks for the disk.
    pub(super) fn add(&self, body: &[u8], now: UnixTime) -> Answer {
        let request = match AddCheckpoint::parse(body) {
            Ok(request) => request,
            Err(error) => return Answer::Refused(Verdict::Malformed(error.to_string())),
        };
        let Some(log) = self.logs.get(request.checkpoint().origin()) else {
            return Answer::Refused(Verdict::UnknownLog);
        };
        let Some(mut log) = locked(log) else {
            return Answer::Unavailable("an earlier request ended in a panic; start the witness again".to_owned());
        };
        let head = match decide(&self.policy, &request, log.head) {
            Verdict::Cosign(head) => head,
            refused => {
                log.warn(&request, &refused);
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
        if log.note.is_none() || log.head != head {
            let note = match cosigned(&self.policy, &request, line.clone()) {
                Ok(note) => note,
                Err(error) => return Answer::Refused(Verdict::Malformed(error.to_string())),
            };
            if let Err(why) = self.keep(&mut log, head, note) {
                return Answer::Unavailable(why);
            }
        }
        Answer::Cosigned(format!("{line}\n"))
    }

    /// Makes the checkpoint durable; only then is it the stored one.
    fn keep(&self, log: &mut Log, head: TreeHead, note: SignedNote) -> Result<(), String> {
        if let Some(why) = &log.failed {
            return Err(why.clone());
        }
        match secret_file::replace(&self.dir, &log.file, note.to_string().as_bytes()) {
            Ok(()) => {
                log.head = head;
                log.note = Some(note);
                Ok(())
            }
            // Nothing was put in place, and later requests are answered when there is room again.
            Err(problem) if problem.is_out_of_space() => Err(problem.to_string()),
            Err(problem) => {
                let why = format!("the checkpoint could not be stored: {problem}; start the witness again");
                error!(file = log.file, %problem, "a log is cosigned no more until the next start");
                log.failed = Some(why.clone());
                Err(why)
            }
        }
    }

    /// The stored checkpoint of the log whose origin has this SHA-256, in hexadecimal.
    pub(super) fn checkpoint(&self, hash: &str) -> Option<String> {
        let log = self.logs.iter().find(|(origin, _)| file_of(origin) == hash)?.1;
        let log = locked(log)?;
        log.note.as_ref().map(ToString::to_string)
    }
}

/// A log's lock; `None` when a request panicked while it held it.
fn locked(log: &Mutex<Log>) -> Option<MutexGuard<'_, Log>> {
    log.lock().ok()
}

impl Log {
    /// Tells of what its log's key has signed and what does not go on from the stored one: it may be proof of a fork.
    fn warn(&mut self, request: &AddCheckpoint, verdict: &Verdict) {
        let Verdict::Inconsistent(why) = verdict else { return };
        if self.warned.is_some_and(|at| at.elapsed() < WITNESS_WARNING_INTERVAL) {
            return;
        }
        self.warned = Some(Instant::now());
        warn!(
            origin = request.checkpoint().origin(),
            stored = self.head.size,
            size = request.checkpoint().size(),
            why,
            checkpoint = %request.note(),
            "a signed checkpoint is not shown to go on from the one that was cosigned"
        );
    }
}

fn read_key(dir: &Dir) -> Result<Cosigner, CaError> {
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
    let pkcs8 = pem::decode_private_key(text).map_err(|error| told(format!("{KEY}: {error}")))?;
    let cosigner = Cosigner::new(vkey.name(), LogKey::from_pkcs8(&pkcs8)?)?;
    match *cosigner.key() == vkey {
        true => Ok(cosigner),
        false => Err(told(format!("{KEY} is not the key of {VKEY}"))),
    }
}

/// The last checkpoint of a log, or none when it was never cosigned. A damaged one is never taken for none.
fn read_log(dir: &Dir, origin: &str, key: &CosignerKey) -> Result<Log, CaError> {
    let file = file_of(origin);
    let path = dir.path().join(&file);
    let mut log = Log {
        head: TreeHead::empty(),
        note: None,
        failed: None,
        warned: None,
        file,
    };
    let entry = dir
        .entry(&log.file)
        .map_err(|error| problem(&path, error.to_string()))?;
    if entry.is_none() {
        return Ok(log);
    }
    let octets = secret_file::read_beneath(dir, &log.file, NOTE_BYTES_MAX).map_err(CaError::Sys)?;
    let damaged = |why: String| problem(&path, format!("the last checkpoint of {origin:?} is damaged: {why}"));
    let note = SignedNote::parse(&octets).map_err(|error| damaged(error.to_string()))?;
    let own = key.time_on(&note).map_err(|error| damaged(error.to_string()))?;
    if own.is_none() {
        return Err(damaged("it has no cosignature of this witness".to_owned()));
    }
    let request = AddCheckpoint::new(0, Vec::new(), note).map_err(|error| damaged(error.to_string()))?;
    let checkpoint = request.checkpoint();
    if checkpoint.origin() != origin {
        return Err(damaged(format!("it is of {:?}", checkpoint.origin())));
    }
    log.head = TreeHead {
        size: checkpoint.size(),
        root: checkpoint.root(),
    };
    log.note = Some(request.note().clone());
    Ok(log)
}

#[cfg(test)]
mod tests;
