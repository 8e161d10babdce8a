//! The backup: read whole and verified before anything is made of it, and never written.

use std::{
    fs::{self, File, OpenOptions},
    io,
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use mintage_identity::{IssuerKeyId, Serial, UnixTime};
use mintage_ledger::{
    LogKey, RecordCheck, ShardBegin, Stored, Vkey, current_log,
    wire::{CaEventKind, CaRole},
};
use mintage_mint::{CaKey, Issuer, KeyProtection, decode_key_file};
use mintage_revocation::Delegation;
use mintage_state::{CaKeyRecord, State, View};
use mintage_svid::{Crl, SvidError};
use mintage_sys::{lock::Lock, secret_file};

use super::{RestoreOptions, RestorePlan, utc};
use crate::{
    crls::next_root_list,
    data_dir::{Authority, DataDir, ROOT, ROOT_CRL},
    error::CaError,
    keys::{self, KEY_FILE_BYTES_MAX, KeyName, find_protection},
    limits::LEDGER_FOLDERS_DEEP_MAX,
};

/// The file by which ledger and state keep a second process out; it is not copied.
const LOCK: &str = "lock";

/// A verified backup with its keys.
pub(super) struct Backup {
    data: DataDir,
    authority: Authority,
    protection: KeyProtection,
    root: Issuer,
    /// None in a directory that was made before there were any.
    root_list: Option<Crl>,
    log: LogKey,
    view: View,
    last: UnixTime,
    _lock: Option<Lock>,
}

impl Backup {
    pub(super) fn open(options: &RestoreOptions) -> Result<Self, CaError> {
        let data = DataDir::open(&options.backup)?;
        let authority = data.authority()?;
        let lock = data.lock_for_reading()?;
        let domain = &authority.trust_domain;
        let protection = find_protection(options.passphrase_file.as_deref(), domain)?;
        let current = current_log(&data.ledger())?;
        let log = keys::read_log_key(&data.keys()?, current.origin(), &protection, domain)?;
        let log = LogKey::from_pkcs8(&log)?;
        let root = root(&data, &authority, &protection, options.root_key.as_deref())?;
        let (view, last) = verified(&data, &authority, &log)?;
        let known = view.ca_key(CaRole::Root, &root.key_id());
        let trusted = view
            .bundle()
            .is_some_and(|bundle| bundle.roots_der.iter().any(|der| der == root.certificate_der()));
        if !trusted || known.is_none_or(|key| key.stage != CaEventKind::Activate) {
            return Err(data.problem(format!(
                "its {ROOT} is no root that its ledger has: it was put together from two"
            )));
        }
        let root_list = data.root_list()?;
        if let Some(list) = &root_list {
            let refused = |error: SvidError| {
                data.problem(format!(
                    "{ROOT_CRL} is not the list of its root ({error}): put that one into the backup"
                ))
            };
            list.verify(root.info()).map_err(refused)?;
        }
        Ok(Self {
            data,
            protection,
            root,
            root_list,
            log,
            view,
            last,
            _lock: lock,
            authority,
        })
    }

    pub(super) fn authority(&self) -> &Authority {
        &self.authority
    }

    pub(super) fn protection(&self) -> &KeyProtection {
        &self.protection
    }

    pub(super) fn root(&self) -> &Issuer {
        &self.root
    }

    /// The root's next list: what the backup's names stays named, and `revoke` comes to it.
    pub(super) fn next_root_list(&self, revoke: &[Serial], now: UnixTime) -> Result<Vec<u8>, CaError> {
        next_root_list(&self.data, &self.root, self.root_list.as_ref(), revoke, now)
    }

    pub(super) fn log_key(&self) -> &LogKey {
        &self.log
    }

    pub(super) fn view(&self) -> &View {
        &self.view
    }

    /// Keys of this role that may still have something out in the world at `now`.
    pub(super) fn keys_of(&self, role: CaRole, now: UnixTime) -> impl Iterator<Item = &CaKeyRecord> {
        let lives = move |key: &&CaKeyRecord| key.role == role && key.not_after.is_none_or(|end| end >= now);
        self.view.ca_keys().filter(lives)
    }

    /// What a restore does at `now`.
    ///
    /// # Errors
    /// Refuses a clock that is behind what the backup holds: its records and dates would come before those they follow.
    pub(super) fn plan(&self, now: UnixTime) -> Result<RestorePlan, CaError> {
        if now < self.last {
            return Err(self.data.problem(format!(
                "its last record is of {}, and this machine's clock says {}: set the clock",
                utc(self.last),
                utc(now)
            )));
        }
        let signers = [CaRole::Root, CaRole::Intermediate, CaRole::Replica];
        let issuers = signers
            .into_iter()
            .flat_map(|role| self.keys_of(role, now).map(|key| key.key_id));
        Ok(RestorePlan {
            trust_domain: self.authority.trust_domain.clone(),
            records: self.view.applied(),
            until: self.last,
            issuers: issuers.collect::<Vec<IssuerKeyId>>(),
            epoch: beyond(self.epoch(), now),
        })
    }

    /// The highest epoch that the ledger has delegated.
    fn epoch(&self) -> u64 {
        let statements = self.view.ca_keys().filter(|key| key.role == CaRole::Revocation);
        let epochs = statements.filter_map(|key| Delegation::decode(&key.statement).ok());
        epochs
            .map(|delegation| delegation.statement().epoch())
            .max()
            .unwrap_or(0)
    }

    /// Copies what the new directory keeps: the ledger, its key, the root, and the root's key where it is here. The
    /// issuing and the revocation key stay behind.
    pub(super) fn copy_to(&self, target: &DataDir) -> Result<(), CaError> {
        copy_folder(&self.data.ledger(), &target.ledger(), 0).map_err(|(path, error)| {
            let problem = format!("{} could not be copied: {error}", path.display());
            target.problem(problem)
        })?;
        let (from, to) = (self.data.keys()?, target.create_keys()?);
        let log = keys::log_key_name(&from, current_log(&self.data.ledger())?.origin())?;
        for name in [log.as_str(), KeyName::Root.file()] {
            let there = from.entry(name).ok().flatten().is_some();
            if there || name == log {
                let octets = secret_file::read_beneath(&from, name, KEY_FILE_BYTES_MAX).map_err(CaError::Sys)?;
                secret_file::write_new(&to, name, &octets).map_err(CaError::Sys)?;
            }
        }
        target.write_certificate(ROOT, self.root.certificate_der())
    }
}

/// A number above `before`, and above all that the lost directory can have counted up to by now, another restore of this
/// backup included: steps take longer than a millisecond, and each counting began below the time of its first.
pub(super) fn beyond(before: u64, now: UnixTime) -> u64 {
    let millis = u64::try_from(now.millis()).unwrap_or(0);
    before.saturating_add(1).max(millis)
}

pub(crate) fn root(
    data: &DataDir,
    authority: &Authority,
    protection: &KeyProtection,
    file: Option<&Path>,
) -> Result<Issuer, CaError> {
    let domain = &authority.trust_domain;
    let dir = data.keys()?;
    let certificate = data.certificate(ROOT)?;
    let pkcs8 = match file {
        Some(file) => {
            let octets = secret_file::read(file, KEY_FILE_BYTES_MAX).map_err(CaError::Sys)?;
            let refused =
                |why: String| CaError::KeyFile(KeyName::Root.file().to_owned(), format!("{}: {why}", file.display()));
            let text = std::str::from_utf8(&octets).map_err(|_| refused("it is no text".to_owned()))?;
            decode_key_file(text, protection, domain).map_err(|error| refused(error.to_string()))?
        }
        None if dir.entry(KeyName::Root.file()).ok().flatten().is_none() => {
            return Err(
                data.problem("does not hold keys/root.key, and the root has to sign: give its key by --root-key FILE")
            );
        }
        None => keys::read(&dir, KeyName::Root, protection, domain)?,
    };
    let loaded = CaKey::from_pkcs8(&pkcs8).and_then(|key| Issuer::load(domain, key, vec![certificate]));
    loaded.map_err(|error| data.problem(format!("{ROOT} with its key: {error}")))
}

/// Reads the whole ledger: each record, root and signature, and what the records come to; and holds the state against it.
fn verified(data: &DataDir, authority: &Authority, log: &LogKey) -> Result<(View, UnixTime), CaError> {
    let seen = State::last_seen(&data.state())?;
    let mut reading = Reading {
        view: View::new(&authority.trust_domain),
        seen,
        seen_leaf: None,
        last: None,
    };
    let reports = mintage_ledger::verify(&data.ledger(), None, &mut reading)?;
    if reports.last().map(|report| report.vkey.public_key()) != Some(&log.public_key()) {
        return Err(data.problem(
            "its log key is not the one of its ledger: keys/log.key (or keys/log-<shard>.key) was damaged, or the backup was \
             put together from two",
        ));
    }
    if let Some((index, leaf)) = seen
        && reading.seen_leaf != Some(leaf)
    {
        return Err(data.problem(format!(
            "its state has seen {} records of another or a longer ledger than the {} that are here: it was put together \
             from two, or copied while a CA served it",
            index + 1,
            reading.view.applied()
        )));
    }
    let last = reading.last.map(|stored| stored.decode()).transpose()?;
    let last = last.ok_or_else(|| data.problem("its ledger is empty"))?;
    Ok((reading.view, last.time))
}

/// What the records come to, and what is remembered on the way.
struct Reading {
    view: View,
    seen: Option<(u64, [u8; 32])>,
    seen_leaf: Option<[u8; 32]>,
    last: Option<Stored>,
}

impl RecordCheck for Reading {
    /// What was given up before the first shard that is here is known by its snapshot.
    fn begin(&mut self, begin: &ShardBegin<'_>) -> Result<(), String> {
        if let Some(snapshot) = begin.snapshot
            && self.view.applied() == 0
        {
            self.view = View::from_snapshot(self.view.domain(), snapshot).map_err(|error| error.to_string())?;
        }
        Ok(())
    }

    fn record(&mut self, _: &Vkey, stored: &Stored) -> Result<(), String> {
        if self.seen.is_some_and(|(index, _)| index == stored.index()) {
            self.seen_leaf = Some(*stored.leaf_hash().as_bytes());
        }
        self.last = Some(stored.clone());
        self.view.apply_stored(stored).map_err(|error| error.to_string())
    }
}

/// Copies a folder with everything in it, and makes the copy durable from the files up.
fn copy_folder(from: &Path, to: &Path, deep: usize) -> Result<(), (PathBuf, io::Error)> {
    let at = |path: &Path| {
        let path = path.to_path_buf();
        move |error| (path, error)
    };
    if deep > LEDGER_FOLDERS_DEEP_MAX {
        return Err(at(from)(io::Error::other("no ledger has folders as deep as this one")));
    }
    fs::DirBuilder::new().mode(0o700).create(to).map_err(at(to))?;
    for entry in fs::read_dir(from).map_err(at(from))? {
        let entry = entry.map_err(at(from))?;
        let (source, target) = (entry.path(), to.join(entry.file_name()));
        let kind = entry.file_type().map_err(at(&source))?;
        if kind.is_dir() {
            copy_folder(&source, &target, deep + 1)?;
        } else if kind.is_file() {
            if entry.file_name() != LOCK {
                copy_file(&source, &target).map_err(at(&source))?;
            }
        } else {
            return Err(at(&source)(io::Error::other("it is neither a file nor a folder")));
        }
    }
    File::open(to).and_then(|folder| folder.sync_all()).map_err(at(to))
}

fn copy_file(from: &Path, to: &Path) -> io::Result<()> {
    let no_follow = rustix::fs::OFlags::NOFOLLOW.bits().cast_signed();
    let mut source = OpenOptions::new().read(true).custom_flags(no_follow).open(from)?;
    let mut target = OpenOptions::new().write(true).create_new(true).mode(0o600).open(to)?;
    io::copy(&mut source, &mut target)?;
    target.sync_all()
}
