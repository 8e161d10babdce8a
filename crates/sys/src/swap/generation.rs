//! One generation: written beside the current one, made current by a rename, removed one swap after it was replaced.

use std::{
    collections::BTreeSet,
    hash::{BuildHasher, Hasher, RandomState},
    io::{self, Write},
    path::Path,
};

use rustix::fs::{Mode, fchmod};
use zeroize::Zeroizing;

use super::{
    FILE_BYTES_MAX, FILES_MAX, Folder, GenerationFile, NAME_BYTES_MAX, Swapped,
    folder::{Locked, give, reopen},
};
use crate::{
    SysError,
    dir::{Dir, Kind},
};

const POINTER: &str = "..data";
const POINTER_NEW: &str = "..data_tmp";
const GENERATION_PREFIX: &str = "..gen-";
/// Generations may be entered by everybody; their files guard themselves, and the folder guards both.
const GENERATION_MODE: u32 = 0o755;
/// Most entries of a folder that are looked through for left-overs: a delivery makes some twenty.
const FOLDER_ENTRIES_MAX: usize = 4096;
/// Most entries of a generation that are removed: what holds more was not made here.
const GENERATION_ENTRIES_MAX: usize = 4 * FILES_MAX;
/// Tries to find a free name out of 2^64.
const NAME_TRIES_MAX: usize = 8;

/// The points between which a crash may fall, in their order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// What the folder shows is durable.
    Settled,
    /// Left-overs and the generation before the current one are gone.
    Swept,
    /// The new generation's directory exists, ours alone.
    Made,
    /// A file has its content, owner, group and mode.
    Written,
    /// A file is durable.
    FileSynced,
    /// The new directory's entries are durable.
    GenerationSynced,
    /// Each file has its link in the folder.
    Linked,
    /// The folder's entries are durable.
    FolderSynced,
    /// The new pointer waits under its temporary name.
    PointerMade,
    /// The new generation is current.
    Swapped,
    /// The rename is durable.
    SwapSynced,
    /// Links of names that are no more are gone.
    Unlinked,
}

/// Called after each step; a refusal stops the swap there as a crash would.
pub(super) type Watch<'a> = &'a mut dyn FnMut(Step) -> Result<(), SysError>;

/// A generation, held open: its files belong together, whatever becomes current meanwhile.
#[derive(Debug)]
pub struct Generation {
    dir: Dir,
    name: String,
}

impl Generation {
    /// Its name in the folder.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Reads one of its files, of at most `bytes_max` bytes; `None` when it has no such file.
    ///
    /// # Errors
    /// Refuses what is no regular file or longer.
    pub fn read(&self, name: &str, bytes_max: usize) -> Result<Option<Zeroizing<Vec<u8>>>, SysError> {
        use io::Read;
        let path = self.dir.path().join(name);
        let file = match self.dir.open_file_beneath(name) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(SysError::io(&path, "open", error)),
        };
        let length = file
            .metadata()
            .map_err(|error| SysError::io(&path, "stat", error))?
            .len();
        // Full size at once: it may be a key, and a growing buffer would leave copies.
        let most = usize::try_from(length).unwrap_or(usize::MAX).min(bytes_max);
        let mut bytes = Zeroizing::new(Vec::with_capacity(most + 1));
        file.take(most as u64 + 1)
            .read_to_end(&mut bytes)
            .map_err(|error| SysError::io(&path, "read", error))?;
        if bytes.len() > most {
            return Err(SysError::refused(&path, format!("is longer than {most} bytes")));
        }
        Ok(Some(bytes))
    }
}

/// Writes and swaps, then tidies up: after a failure nothing of the new generation is left, unless it is current.
pub(super) fn swap(folder: &Folder, files: &[GenerationFile<'_>], watch: Watch<'_>) -> Result<Swapped, SysError> {
    check_files(&folder.path, files)?;
    let locked = reopen(folder)?;
    let previous = pointer(&locked.dir)?;
    let result = write_and_swap(&locked.dir, files, watch);
    if result.is_err() && pointer(&locked.dir).is_ok_and(|now| now == previous) {
        // Best effort: the next swap sweeps again, and the reason to report is the first one. Once the pointer has moved,
        // nothing is removed: the move may not be durable, and the old generation is what a crash would bring back.
        let _ = sweep(&locked.dir, previous.as_deref());
    }
    result
}

/// The swap itself. It leaves everything where a crash would; `tests` stops it at every step.
pub(super) fn write_and_swap(dir: &Dir, files: &[GenerationFile<'_>], watch: Watch<'_>) -> Result<Swapped, SysError> {
    let failed = |doing| move |error: io::Error| SysError::io(dir.path(), doing, error);
    let previous = pointer(dir)?;
    files
        .iter()
        .try_for_each(|file| link_state(dir, file.name).map(|_| ()))?;
    // An earlier swap may have failed to make its rename durable: nothing older goes before that is certain.
    dir.fsync().map_err(failed("make the folder durable"))?;
    watch(Step::Settled)?;
    let leftovers = sweep(dir, previous.as_deref())?;
    watch(Step::Swept)?;

    let generation = make_generation(dir).map_err(failed("make a generation"))?;
    watch(Step::Made)?;
    for file in files {
        write_file(&generation, file, watch)?;
    }
    fchmod(&generation.dir, Mode::from_raw_mode(GENERATION_MODE))
        .map_err(io::Error::from)
        .and_then(|()| generation.dir.fsync())
        .map_err(failed("make a generation durable"))?;
    watch(Step::GenerationSynced)?;
    for file in files {
        if !link_state(dir, file.name)? {
            dir.symlink(&format!("{POINTER}/{}", file.name), file.name)
                .map_err(failed("link a file"))?;
        }
    }
    watch(Step::Linked)?;
    dir.fsync().map_err(failed("make the folder durable"))?;
    watch(Step::FolderSynced)?;

    dir.symlink(&generation.name, POINTER_NEW)
        .map_err(failed("make the new pointer"))?;
    watch(Step::PointerMade)?;
    dir.rename(POINTER_NEW, POINTER).map_err(failed("swap the pointer"))?;
    watch(Step::Swapped)?;
    dir.fsync().map_err(failed("make the swap durable"))?;
    watch(Step::SwapSynced)?;

    let keep: BTreeSet<&str> = files.iter().map(|file| file.name).collect();
    let mut swapped = Swapped {
        generation: generation.name,
        previous,
        leftovers,
    };
    if let Err(error) = unlink_others(dir, &keep) {
        swapped.leftovers.push(error.to_string());
    }
    watch(Step::Unlinked)?;
    Ok(swapped)
}

pub(super) fn current(folder: &Folder) -> Result<Option<Generation>, SysError> {
    let locked = reopen(folder)?;
    let Some(name) = pointer(&locked.dir)? else {
        return Ok(None);
    };
    match locked.dir.open_dir_beneath(&name) {
        Ok(dir) => Ok(Some(Generation { dir, name })),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(SysError::io(&folder.path, "open the current generation", error)),
    }
}

pub(super) fn prune(folder: &Folder) -> Result<Vec<String>, SysError> {
    let Locked { dir, .. } = &reopen(folder)?;
    sweep(dir, pointer(dir)?.as_deref())
}

pub(super) fn clear(folder: &Folder) -> Result<Vec<String>, SysError> {
    let Locked { dir, .. } = &reopen(folder)?;
    let failed = |doing| move |error: io::Error| SysError::io(dir.path(), doing, error);
    // The pointer first: what a reader still finds by a link then is nothing, never a part.
    if pointer(dir)?.is_some() {
        dir.remove_file(POINTER).map_err(failed("remove the pointer"))?;
    }
    unlink_others(dir, &BTreeSet::new()).map_err(failed("remove the links"))?;
    let leftovers = sweep(dir, None)?;
    dir.fsync().map_err(failed("make the folder durable"))?;
    Ok(leftovers)
}

fn check_files(path: &Path, files: &[GenerationFile<'_>]) -> Result<(), SysError> {
    let refuse = |problem: String| Err(SysError::refused(path, problem));
    if !(1..=FILES_MAX).contains(&files.len()) {
        return refuse(format!("a generation has 1 to {FILES_MAX} files, not {}", files.len()));
    }
    let mut seen = BTreeSet::new();
    for file in files {
        let plain = file.name.starts_with(|c: char| c.is_ascii_alphanumeric())
            && file.name.len() <= NAME_BYTES_MAX
            && file
                .name
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'));
        if !plain {
            return refuse(format!(
                "{:?} is no file name for a delivery: 1 to {NAME_BYTES_MAX} of a-z A-Z 0-9 . _ -, a letter or digit first",
                file.name
            ));
        }
        if !seen.insert(file.name) {
            return refuse(format!("two files are named {}", file.name));
        }
        if file.bytes.len() > FILE_BYTES_MAX {
            return refuse(format!(
                "{} has {} bytes, the limit of a delivered file is {FILE_BYTES_MAX}; deliver less in it",
                file.name,
                file.bytes.len()
            ));
        }
        if file.mode & !0o777 != 0 {
            return refuse(format!("{:o} is no mode of a delivered file", file.mode));
        }
    }
    Ok(())
}

/// Target of the pointer; refuses anything in its place that was not made here.
fn pointer(dir: &Dir) -> Result<Option<String>, SysError> {
    let foreign = || {
        SysError::refused(
            &dir.path().join(POINTER),
            "is not ours: another program keeps its files in this folder; name another folder",
        )
    };
    let failed = |error| SysError::io(&dir.path().join(POINTER), "read the pointer", error);
    match dir.entry(POINTER).map_err(failed)? {
        None => Ok(None),
        Some(meta) if meta.kind == Kind::Symlink => {
            let target = dir.read_link(POINTER).map_err(failed)?.unwrap_or_default();
            String::from_utf8(target)
                .ok()
                .filter(|target| is_generation(target.as_bytes()))
                .map(Some)
                .ok_or_else(foreign)
        }
        Some(_) => Err(foreign()),
    }
}

/// Whether the link of this file stands; false when there is nothing; refuses what is another's.
fn link_state(dir: &Dir, name: &str) -> Result<bool, SysError> {
    let path = dir.path().join(name);
    let Some(meta) = dir.entry(name).map_err(|error| SysError::io(&path, "stat", error))? else {
        return Ok(false);
    };
    let target = dir
        .read_link(name)
        .map_err(|error| SysError::io(&path, "read", error))?;
    if meta.kind == Kind::Symlink && target.is_some_and(|target| target == format!("{POINTER}/{name}").as_bytes()) {
        return Ok(true);
    }
    let problem = format!(
        "{} of that name was not made by Mintage and is never replaced; move it away",
        meta.kind.describe()
    );
    Err(SysError::refused(&path, problem))
}

fn is_generation(name: &[u8]) -> bool {
    name.strip_prefix(GENERATION_PREFIX.as_bytes())
        .is_some_and(|hex| hex.len() == 16 && hex.iter().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')))
}

fn make_generation(dir: &Dir) -> io::Result<Generation> {
    let mut tries = 0;
    loop {
        // Unique is enough: the name is no secret, and an existing one is never used.
        let name = format!("{GENERATION_PREFIX}{:016x}", RandomState::new().build_hasher().finish());
        tries += 1;
        match dir.create_dir_beneath(&name, 0o700) {
            Ok(dir) => return Ok(Generation { dir, name }),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists && tries < NAME_TRIES_MAX => {}
            Err(error) => return Err(error),
        }
    }
}

fn write_file(generation: &Generation, file: &GenerationFile<'_>, watch: Watch<'_>) -> Result<(), SysError> {
    let path = generation.dir.path().join(file.name);
    let failed = |doing| {
        let path = &path;
        move |error: io::Error| SysError::io(path, doing, error)
    };
    let mut made = generation
        .dir
        .create_file_beneath(file.name, 0o600)
        .map_err(failed("create"))?;
    made.write_all(file.bytes).map_err(failed("write"))?;
    // Mode before owner: who may give files away need not be allowed to change others' files. Until the directory is
    // opened at the end, nobody else reaches it.
    fchmod(&made, Mode::from_raw_mode(file.mode))
        .map_err(io::Error::from)
        .map_err(failed("set the mode"))?;
    give(&made, &path, file.owner, file.group)?;
    watch(Step::Written)?;
    made.sync_all().map_err(failed("make durable"))?;
    watch(Step::FileSynced)
}

/// Removes every generation but `keep`, and an unfinished pointer. What does not go is reported and harms nothing.
fn sweep(dir: &Dir, keep: Option<&str>) -> Result<Vec<String>, SysError> {
    let names = match dir.names(FOLDER_ENTRIES_MAX) {
        Ok(names) => names,
        Err(error) if error.kind() == io::ErrorKind::FileTooLarge => {
            return Ok(vec![format!("{}: {error}; not swept", dir.path().display())]);
        }
        Err(error) => return Err(SysError::io(dir.path(), "list the folder", error)),
    };
    match dir.remove_file(POINTER_NEW) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => {
            let path = dir.path().join(POINTER_NEW);
            return Err(SysError::io(&path, "remove an unfinished pointer", error));
        }
    }
    let mut leftovers = Vec::new();
    for name in names.iter().filter(|name| is_generation(name)) {
        let Ok(name) = std::str::from_utf8(name) else {
            continue;
        };
        if Some(name) == keep {
            continue;
        }
        if let Err(error) = remove_generation(dir, name) {
            leftovers.push(format!("{}: {error}", dir.path().join(name).display()));
        }
    }
    Ok(leftovers)
}

/// One level deep and never through a symlink: what was not made here does not go.
fn remove_generation(dir: &Dir, name: &str) -> io::Result<()> {
    match dir.entry(name)? {
        None => return Ok(()),
        Some(meta) if meta.kind != Kind::Dir => return dir.remove_file(name),
        Some(_) => {}
    }
    let generation = dir.open_dir_beneath(name)?;
    for file in generation.names(GENERATION_ENTRIES_MAX)? {
        let file = String::from_utf8(file).map_err(|_| io::Error::from(io::ErrorKind::InvalidData))?;
        generation.remove_file(&file)?;
    }
    dir.remove_dir(name)
}

/// Removes our own links of names that are not kept.
fn unlink_others(dir: &Dir, keep: &BTreeSet<&str>) -> io::Result<()> {
    for name in dir.names(FOLDER_ENTRIES_MAX)? {
        let Ok(name) = String::from_utf8(name) else { continue };
        let ours = || {
            dir.read_link(&name)
                .map(|target| target.is_some_and(|target| target == format!("{POINTER}/{name}").as_bytes()))
        };
        if !keep.contains(name.as_str()) && ours()? {
            dir.remove_file(&name)?;
        }
    }
    Ok(())
}
