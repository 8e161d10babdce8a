//! Whether a folder may be written to: where it is, whose it is, and that it has not been exchanged since.

use std::{
    fs::File,
    io::{self, Read, Write},
    path::Path,
};

use rustix::{
    fs::{Gid, Uid, fchown},
    process::{getegid, geteuid},
};

use super::{Folder, FolderRules, Standing};
use crate::{
    SysError,
    dir::{Dir, Meta},
    lock::Held,
};

/// Marks a folder as a delivery's. Mode 0600, so that only its writer can lock it.
pub(super) const MARKER: &str = ".mintage-delivery";
const MARKER_HEAD: &str = "mintage delivery folder v1\n";
/// Longest marker in bytes: head and tag.
const MARKER_BYTES_MAX: u64 = 1024;
const TAG_BYTES_MAX: usize = 512;
/// What an empty folder may hold: the root of an ext4 file system has this.
const NOT_FOREIGN: &[u8] = b"lost+found";

/// The folder, open and locked against other writers for as long as the value lives.
pub(super) struct Locked {
    pub(super) dir: Dir,
    _marker: Held,
}

pub(super) fn open(path: &Path, rules: FolderRules) -> Result<Folder, SysError> {
    if rules.tag.len() > TAG_BYTES_MAX || rules.tag.bytes().any(|b| b.is_ascii_control()) {
        return Err(SysError::refused(
            path,
            "the delivery's tag is longer than 512 bytes or not printable",
        ));
    }
    let dir = match Dir::open_without_symlinks(path) {
        Ok(dir) => dir,
        Err(error) if error.kind() == io::ErrorKind::NotFound => make(path, &rules)?,
        Err(error) => return Err(explain_open(path, error)),
    };
    let meta = check(&dir, &rules)?;
    take_over(&dir, &rules)?;
    Ok(Folder {
        path: path.to_owned(),
        rules,
        identity: meta.identity,
    })
}

/// Opens the folder again for one operation. It is not kept open in between, so that its file system can be unmounted.
pub(super) fn reopen(folder: &Folder) -> Result<Locked, SysError> {
    let path = &folder.path;
    let dir = Dir::open_without_symlinks(path).map_err(|error| explain_open(path, error))?;
    let meta = check(&dir, &folder.rules)?;
    if meta.identity != folder.identity {
        return Err(SysError::refused(
            path,
            "is another directory than before (was a mount removed, or the folder replaced?); restore it or restart",
        ));
    }
    let marker = match open_marker(&dir)? {
        Some(marker) if marker_tag(&dir, &marker)?.as_deref() == Some(&folder.rules.tag) => marker,
        _ => {
            let problem = format!("its marker {MARKER} is gone or another's; empty the folder and restart");
            return Err(SysError::refused(path, problem));
        }
    };
    let marker = Held::exclusive(marker, path)?;
    Ok(Locked { dir, _marker: marker })
}

fn make(path: &Path, rules: &FolderRules) -> Result<Dir, SysError> {
    let parent_path = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let Some(name) = path.file_name().and_then(|name| name.to_str()) else {
        return Err(SysError::refused(path, "has no usable last part"));
    };
    let parent = Dir::open_without_symlinks(parent_path).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => SysError::refused(path, "its parent directory does not exist; make it first"),
        _ => explain_open(parent_path, error),
    })?;
    let dir = parent
        .create_dir_beneath(name, rules.mode & 0o7777)
        .map_err(|error| SysError::io(path, "make the folder", error))?;
    let finished = give(&dir, path, rules.owner, rules.group).and_then(|()| {
        parent
            .fsync()
            .map_err(|error| SysError::io(parent_path, "make the new folder durable", error))
    });
    if let Err(error) = finished {
        // It is empty and new; should it stay, the next try takes it over or says why not.
        let _ = parent.remove_dir(name);
        return Err(error);
    }
    Dir::open_without_symlinks(path).map_err(|error| explain_open(path, error))
}

/// Sets owner and group of what is open, where they are wanted and differ.
pub(super) fn give(
    file: impl std::os::fd::AsFd,
    path: &Path,
    owner: Option<u32>,
    group: Option<u32>,
) -> Result<(), SysError> {
    let meta = Meta::of(&file).map_err(|error| SysError::io(path, "stat", error))?;
    let owner = owner.filter(|owner| *owner != meta.uid);
    let group = group.filter(|group| *group != meta.gid);
    if owner.is_none() && group.is_none() {
        return Ok(());
    }
    fchown(&file, owner.map(Uid::from_raw), group.map(Gid::from_raw)).map_err(|error| match error {
        rustix::io::Errno::PERM => SysError::refused(
            path,
            format!(
                "cannot be given to uid {} gid {}; run as that user or with CAP_CHOWN",
                owner.unwrap_or(meta.uid),
                group.unwrap_or(meta.gid)
            ),
        ),
        error => SysError::io(path, "set the owner", error),
    })
}

fn explain_open(path: &Path, error: io::Error) -> SysError {
    if error.raw_os_error() == Some(rustix::io::Errno::LOOP.raw_os_error()) {
        return SysError::refused(
            path,
            "goes through a symbolic link; name the real path (see realpath(1))",
        );
    }
    match error.kind() {
        io::ErrorKind::NotADirectory => SysError::refused(path, "is no directory, or is a symbolic link"),
        io::ErrorKind::NotFound => SysError::refused(path, "is gone; put it back, or restart to have it made again"),
        _ => SysError::io(path, "open the folder", error),
    }
}

/// Whoever may rename in the folder could point its readers to a key and roots of his own.
fn check(dir: &Dir, rules: &FolderRules) -> Result<Meta, SysError> {
    let path = dir.path();
    let meta = dir.meta().map_err(|error| SysError::io(path, "stat", error))?;
    let us = geteuid().as_raw();
    if meta.uid != us && meta.uid != 0 && Some(meta.uid) != rules.owner {
        return Err(SysError::refused(
            path,
            format!(
                "belongs to uid {}, who is neither we (uid {us}) nor the delivery's owner",
                meta.uid
            ),
        ));
    }
    if meta.mode & 0o002 != 0 {
        return Err(SysError::refused(
            path,
            format!("everybody may write it (mode {:04o}); chmod o-w it", meta.mode),
        ));
    }
    let group_known = meta.gid == getegid().as_raw() || meta.gid == 0 || Some(meta.gid) == rules.group;
    if meta.mode & 0o020 != 0 && !group_known {
        return Err(SysError::refused(
            path,
            format!(
                "group {} may write it and is not the delivery's (mode {:04o}); chmod g-w it",
                meta.gid, meta.mode
            ),
        ));
    }
    Ok(meta)
}

/// Looks whether the folder could be taken, and changes nothing.
pub(super) fn look(path: &Path, rules: &FolderRules) -> Result<Standing, SysError> {
    let dir = match Dir::open_without_symlinks(path) {
        Ok(dir) => dir,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let parent = path.parent().unwrap_or(path);
            return match Dir::open_without_symlinks(parent) {
                Ok(_) => Ok(Standing::Missing),
                Err(error) if error.kind() == io::ErrorKind::NotFound => Err(SysError::refused(
                    path,
                    "its parent directory does not exist; make it first",
                )),
                Err(error) => Err(explain_open(parent, error)),
            };
        }
        Err(error) => return Err(explain_open(path, error)),
    };
    check(&dir, rules)?;
    standing(&dir, rules)
}

/// Finds our marker, or puts it into a folder that holds nothing else.
fn take_over(dir: &Dir, rules: &FolderRules) -> Result<(), SysError> {
    let path = dir.path();
    if standing(dir, rules)? == Standing::Ours {
        return Ok(());
    }
    match dir.remove_file(MARKER) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(SysError::io(path, "remove an unfinished marker", error)),
    }
    write_marker(dir, &rules.tag).map_err(|error| SysError::io(path, "mark the folder", error))
}

/// Whether the folder is this delivery's, or free to become so.
fn standing(dir: &Dir, rules: &FolderRules) -> Result<Standing, SysError> {
    let path = dir.path();
    if let Some(marker) = open_marker(dir)? {
        match marker_tag(dir, &marker)? {
            Some(tag) if tag == rules.tag => return Ok(Standing::Ours),
            Some(tag) => {
                let problem = format!(
                    "belongs to another delivery ({}); name another folder",
                    tag.escape_debug()
                );
                return Err(SysError::refused(path, problem));
            }
            // Cut short by a crash before anything else was written.
            None => {}
        }
    }
    // Two names are enough to know; a folder of a million need not be read.
    let foreign = match dir.names(3) {
        Ok(names) => names
            .iter()
            .any(|name| name.as_slice() != NOT_FOREIGN && name.as_slice() != MARKER.as_bytes()),
        Err(error) if error.kind() == io::ErrorKind::FileTooLarge => true,
        Err(error) => return Err(SysError::io(path, "list the folder", error)),
    };
    if foreign {
        let problem = "is not empty and was not made by Mintage; name a new or an empty folder";
        return Err(SysError::refused(path, problem));
    }
    Ok(Standing::Empty)
}

fn write_marker(dir: &Dir, tag: &str) -> io::Result<()> {
    let mut marker = dir.create_file_beneath(MARKER, 0o600)?;
    marker.write_all(format!("{MARKER_HEAD}{tag}\n").as_bytes())?;
    marker.sync_all()?;
    dir.fsync()
}

fn open_marker(dir: &Dir) -> Result<Option<File>, SysError> {
    match dir.open_file_beneath(MARKER) {
        Ok(marker) => Ok(Some(marker)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(SysError::io(&dir.path().join(MARKER), "open the marker", error)),
    }
}

/// The marker's tag; `None` for a marker that was not written to its end.
fn marker_tag(dir: &Dir, marker: &File) -> Result<Option<String>, SysError> {
    let path = dir.path().join(MARKER);
    let mut bytes = Vec::new();
    marker
        .take(MARKER_BYTES_MAX)
        .read_to_end(&mut bytes)
        .map_err(|error| SysError::io(&path, "read the marker", error))?;
    let whole = String::from_utf8(bytes).ok().and_then(|text| {
        let tag = text.strip_prefix(MARKER_HEAD)?.strip_suffix('\n')?;
        Some(tag.to_owned())
    });
    if whole.is_none() && marker.metadata().is_ok_and(|meta| meta.len() > MARKER_BYTES_MAX) {
        return Err(SysError::refused(&path, "is no marker of a delivery; remove it"));
    }
    Ok(whole)
}
