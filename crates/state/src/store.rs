//! The view on disk, in sled. It is never believed further than the ledger: what is lost, damaged or old is rebuilt, and
//! only one thing stops the start: a store that has seen more of the ledger than there is.
//!
//! sled's own flush ends in `sync_file_range`, which covers neither the file's size nor the device's cache, so that each
//! flush is followed by an fdatasync of sled's file through a descriptor of our own. All calls come from one thread,
//! because concurrent flushes of sled 0.34 can wait for each other for ever.

use std::collections::HashSet;
use std::ffi::OsString;
use std::fs::{self, File};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::time::Duration;

use mintage_identity::TrustDomain;
use ring::digest;

use crate::error::StateError;
use crate::key::{Key, META};
use crate::limits::SLED_CACHE_BYTES;
use crate::load::view_of;
use crate::snapshot::Object;
use crate::view::View;
use crate::watermark::{self, Seen};

/// Version of the store's objects. An older one is rebuilt; a newer one is refused.
const VERSION: u64 = 1;
/// Name of the one object that is not part of the view.
const META_NAME: &[u8] = &[META];
/// sled's folder and file inside the state's folder.
const FOLDER: &str = "sled";
const FILE: &str = "db";
/// Where a store that could not be read is kept for a look at it.
const BAD_FOLDER: &str = "sled.bad";
/// sled's threads may hold its file for a moment after it was closed.
const LOCK_TRIES: u32 = 20;
const LOCK_PAUSE: Duration = Duration::from_millis(50);

/// The open store.
pub(crate) struct Store {
    folder: PathBuf,
    db: sled::Db,
    file: File,
    blobs_synced: HashSet<OsString>,
}

/// How far the store has come, with what proves it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Mark {
    /// Records applied.
    pub(crate) applied: u64,
    /// Hash of the last record applied; zeros for none.
    pub(crate) leaf: [u8; 32],
}

/// What was found on opening.
pub(crate) enum Found {
    /// A whole view.
    Whole(Box<View>, Mark),
    /// Nothing that can be used, and why, for the log.
    Nothing(String),
}

/// The one object that is no part of the view: what the others must come to.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Meta {
    #[prost(uint64, tag = "1")]
    pub(crate) version: u64,
    #[prost(string, tag = "2")]
    domain: String,
    #[prost(uint64, tag = "3")]
    applied: u64,
    #[prost(uint64, tag = "4")]
    control_head: u64,
    #[prost(bytes = "vec", tag = "5")]
    leaf: Vec<u8>,
    /// The digest of the view.
    #[prost(bytes = "vec", tag = "6")]
    digest: Vec<u8>,
    /// SHA-256 over this message with an empty `check`.
    #[prost(bytes = "vec", tag = "7")]
    check: Vec<u8>,
}

impl Meta {
    pub(crate) fn of(view: &View, leaf: [u8; 32]) -> Self {
        Self {
            version: VERSION,
            domain: view.domain().to_string(),
            applied: view.applied(),
            control_head: view.control_head(),
            leaf: leaf.to_vec(),
            digest: view.digest().to_vec(),
            check: Vec::new(),
        }
    }

    fn sealed(mut self) -> Vec<u8> {
        self.check = self.own_check();
        prost::Message::encode_to_vec(&self)
    }

    fn read(bytes: &[u8]) -> Option<Self> {
        let meta = <Self as prost::Message>::decode(bytes).ok()?;
        (meta.check == meta.own_check()).then_some(meta)
    }

    fn own_check(&self) -> Vec<u8> {
        let open = Self {
            check: Vec::new(),
            ..self.clone()
        };
        digest::digest(&digest::SHA256, &prost::Message::encode_to_vec(&open))
            .as_ref()
            .to_vec()
    }
}

impl Store {
    /// Opens the store inside `dir`, which the caller has locked, and reads it whole. What cannot be read is moved aside
    /// and an empty store is made in its place; a store that was never finished is taken away.
    ///
    /// # Errors
    /// A store of another trust domain or of a newer version, and files that cannot be made.
    pub(crate) fn open(dir: &Path, domain: &TrustDomain) -> Result<(Self, Found), StateError> {
        let folder = dir.join(FOLDER);
        let fresh = !folder.exists();
        match read_whole(&folder, domain)? {
            (Some(db), found @ Found::Whole(..)) => Ok((Self::over(folder, db)?, found)),
            (_, found) if fresh => Ok((Self::fresh(folder)?, found)),
            (db, found) => {
                drop(db);
                // Without a watermark it was never whole: its making was interrupted, and there is nothing to look at.
                match watermark::read(dir)? {
                    Seen::Nothing => fs::remove_dir_all(&folder).map_err(StateError::io("remove", &folder))?,
                    Seen::Mark(_) | Seen::Damaged => set_aside(dir, &folder)?,
                }
                Ok((Self::fresh(folder)?, found))
            }
        }
    }

    fn fresh(folder: PathBuf) -> Result<Self, StateError> {
        let db = open_sled(&folder).map_err(StateError::store("open", &folder))?;
        Self::over(folder, db)
    }

    fn over(folder: PathBuf, db: sled::Db) -> Result<Self, StateError> {
        let path = folder.join(FILE);
        let file = File::open(&path).map_err(StateError::io("open", &path))?;
        // The names of sled's files, and of its folder, must outlive a power cut as their content does.
        for place in [Some(folder.as_path()), folder.parent()].into_iter().flatten() {
            sync_folder(place)?;
        }
        Ok(Self {
            folder,
            db,
            file,
            blobs_synced: HashSet::new(),
        })
    }

    /// Writes changed objects and the mark in one atomic batch. Not yet durable.
    pub(crate) fn write<'a>(
        &self,
        writes: impl IntoIterator<Item = (&'a Key, &'a Option<Vec<u8>>)>,
        view: &View,
        leaf: [u8; 32],
    ) -> Result<(), StateError> {
        let mut batch = sled::Batch::default();
        for (key, value) in writes {
            match value {
                Some(value) => batch.insert(key.to_bytes(), value.as_slice()),
                None => batch.remove(key.to_bytes()),
            }
        }
        batch.insert(META_NAME, Meta::of(view, leaf).sealed());
        self.db
            .apply_batch(batch)
            .map_err(StateError::store("write", &self.folder))
    }

    /// Writes objects as they are, and the mark of the view they lead to.
    pub(crate) fn put(&self, objects: &[Object], view: &View, leaf: [u8; 32]) -> Result<(), StateError> {
        let mut batch = sled::Batch::default();
        for (name, value) in objects {
            batch.insert(name.as_slice(), value.as_slice());
        }
        batch.insert(META_NAME, Meta::of(view, leaf).sealed());
        self.db
            .apply_batch(batch)
            .map_err(StateError::store("write", &self.folder))
    }

    /// Forgets every object and the mark.
    pub(crate) fn clear(&self) -> Result<(), StateError> {
        self.db.clear().map_err(StateError::store("clear", &self.folder))
    }

    /// Writes a mark as another version of this program would.
    #[cfg(test)]
    pub(crate) fn write_meta(&self, meta: Meta) {
        self.db.insert(META_NAME, meta.sealed()).unwrap();
        self.db.flush().unwrap();
    }

    /// Every object of the view, ordered by name.
    pub(crate) fn objects(&self) -> Result<Vec<Object>, StateError> {
        let read = self
            .db
            .iter()
            .filter(|item| !matches!(item, Ok((name, _)) if name.as_ref() == META_NAME));
        let read = read.map(|item| item.map(|(name, value)| (name.to_vec(), value.to_vec())));
        read.collect::<Result<_, _>>()
            .map_err(StateError::store("read", &self.folder))
    }

    /// Makes everything written so far durable.
    pub(crate) fn flush(&mut self) -> Result<(), StateError> {
        self.db.flush().map_err(StateError::store("flush", &self.folder))?;
        self.sync_blobs()?;
        self.file
            .sync_data()
            .map_err(StateError::io("fdatasync", self.folder.join(FILE)))
    }

    /// sled puts large nodes into files of their own and syncs them no better than the rest.
    fn sync_blobs(&mut self) -> Result<(), StateError> {
        let folder = self.folder.join("blobs");
        let mut there = HashSet::new();
        let mut any_new = false;
        for item in fs::read_dir(&folder).map_err(StateError::io("list", &folder))? {
            let item = item.map_err(StateError::io("list", &folder))?;
            if !self.blobs_synced.contains(&item.file_name()) {
                // sled may have removed it since; then nothing points to it.
                if let Ok(file) = File::open(item.path()) {
                    file.sync_data().map_err(StateError::io("fdatasync", item.path()))?;
                    any_new = true;
                }
            }
            there.insert(item.file_name());
        }
        self.blobs_synced = there;
        if any_new { sync_folder(&folder) } else { Ok(()) }
    }
}

/// Opens and reads a store that is there. sled may panic on bytes it did not expect: that is damage like any other.
fn read_whole(folder: &Path, domain: &TrustDomain) -> Result<(Option<sled::Db>, Found), StateError> {
    if !folder.exists() {
        return Ok((None, Found::Nothing("there is no store".into())));
    }
    let db = match catch_unwind(AssertUnwindSafe(|| open_sled(folder))) {
        Ok(Ok(db)) => db,
        Ok(Err(error)) => return Ok((None, Found::Nothing(format!("sled cannot open it: {error}")))),
        Err(_) => return Ok((None, Found::Nothing("sled panicked while opening it".into()))),
    };
    match catch_unwind(AssertUnwindSafe(|| view_in(&db, folder, domain))) {
        Ok(Ok(found)) => Ok((Some(db), found)),
        Ok(Err(refusal)) => Err(refusal),
        Err(_) => Ok((Some(db), Found::Nothing("sled panicked while reading it".into()))),
    }
}

fn view_in(db: &sled::Db, folder: &Path, domain: &TrustDomain) -> Result<Found, StateError> {
    let nothing = |why: &str| Ok(Found::Nothing(why.to_owned()));
    let bytes = match db.get(META_NAME) {
        Ok(Some(bytes)) => bytes,
        Ok(None) => return nothing("it holds no mark"),
        Err(error) => return nothing(&format!("sled cannot read it: {error}")),
    };
    let Some(meta) = Meta::read(&bytes) else {
        return nothing("its mark is damaged");
    };
    let dir = || folder.parent().unwrap_or(folder).to_path_buf();
    if meta.version > VERSION {
        return Err(StateError::Newer {
            dir: dir(),
            found: meta.version,
            known: VERSION,
        });
    }
    if meta.version < VERSION {
        return nothing(&format!(
            "it has version {}, this program writes {VERSION}",
            meta.version
        ));
    }
    if meta.domain != domain.as_str() {
        return Err(StateError::OtherDomain {
            dir: dir(),
            found: meta.domain,
            expected: domain.to_string(),
        });
    }
    let mut objects = Vec::new();
    for item in db.iter() {
        match item {
            Ok((name, _)) if name.as_ref() == META_NAME => {}
            Ok(object) => objects.push(object),
            Err(error) => return nothing(&format!("sled cannot read it: {error}")),
        }
    }
    let view = match view_of(domain, (meta.applied, meta.control_head), objects) {
        Ok(view) => view,
        Err(why) => return nothing(&format!("it holds {why}")),
    };
    if view.digest().as_slice() != meta.digest {
        return nothing("its content is not the one its mark was written for");
    }
    let Ok(leaf) = <[u8; 32]>::try_from(meta.leaf.as_slice()) else {
        return nothing("its mark is damaged");
    };
    Ok(Found::Whole(
        Box::new(view),
        Mark {
            applied: meta.applied,
            leaf,
        },
    ))
}

fn open_sled(folder: &Path) -> sled::Result<sled::Db> {
    let config = sled::Config::new()
        .path(folder)
        .cache_capacity(SLED_CACHE_BYTES)
        // Flushing is ours alone.
        .flush_every_ms(None)
        .print_profile_on_drop(false);
    let mut tries = 0;
    loop {
        match config.open() {
            Err(sled::Error::Io(error)) if error.to_string().contains("acquire lock") && tries < LOCK_TRIES => {
                tries += 1;
                std::thread::sleep(LOCK_PAUSE);
            }
            done => return done,
        }
    }
}

/// Moves a store that cannot be used out of the way; an older one there is given up.
fn set_aside(dir: &Path, folder: &Path) -> Result<(), StateError> {
    let bad = dir.join(BAD_FOLDER);
    if bad.exists() {
        fs::remove_dir_all(&bad).map_err(StateError::io("remove", &bad))?;
    }
    fs::rename(folder, &bad).map_err(StateError::io("move", folder))?;
    sync_folder(dir)
}

pub(crate) fn sync_folder(folder: &Path) -> Result<(), StateError> {
    File::open(folder)
        .and_then(|file| file.sync_all())
        .map_err(StateError::io("fsync", folder))
}
