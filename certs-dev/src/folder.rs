//! Writing the output folder: whole, beside the old one, then put in its place. Key files are born with mode 0600.

use std::{
    fs, io,
    io::Write,
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use crate::{failure::Failure, forge::File};

/// Tells a folder of ours, so that `--force` never deletes anything else.
const MARKER: &str = ".mintage-certs-dev";

/// Puts `files` into a new folder at `out`; an existing one is replaced only with `force`, and only if it is ours.
pub(crate) fn put(out: &Path, files: &[File], force: bool) -> Result<(), Failure> {
    let exists = fs::symlink_metadata(out).is_ok();
    if exists && !force {
        return Err(Failure::Exists(out.to_owned()));
    }
    if exists {
        check_ours(out)?;
    }
    let fresh = beside(out, "new");
    write_folder(&fresh, files)
        .and_then(|()| put_in_place(&fresh, out, exists))
        .inspect_err(|_| {
            // Half a folder of keys is of no use to anyone.
            let _ = fs::remove_dir_all(&fresh);
        })
}

fn put_in_place(fresh: &Path, out: &Path, exists: bool) -> Result<(), Failure> {
    if !exists {
        return rename(fresh, out);
    }
    let old = beside(out, "old");
    rename(out, &old)?;
    rename(fresh, out)?;
    fs::remove_dir_all(&old).map_err(|error| Failure::Io(old, error))
}

fn check_ours(out: &Path) -> Result<(), Failure> {
    let at = |error| Failure::Io(out.to_owned(), error);
    // A link is not followed: what it points to is not ours to delete.
    if !fs::symlink_metadata(out).map_err(at)?.is_dir() {
        return Err(Failure::Exists(out.to_owned()));
    }
    let mut is_marked = false;
    for entry in fs::read_dir(out).map_err(at)? {
        let entry = entry.map_err(at)?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let is_file = entry.file_type().map_err(at)?.is_file();
        is_marked |= name == MARKER;
        if !is_file || !(name == MARKER || name.ends_with(".pem") || name.ends_with(".key")) {
            return Err(Failure::Foreign(out.to_owned(), name));
        }
    }
    match is_marked {
        true => Ok(()),
        false => Err(Failure::Foreign(out.to_owned(), format!("no {MARKER}"))),
    }
}

fn beside(out: &Path, what: &str) -> PathBuf {
    let name = out.file_name().unwrap_or_default().to_string_lossy();
    out.with_file_name(format!(".{name}.{what}.{}", std::process::id()))
}

fn write_folder(folder: &Path, files: &[File]) -> Result<(), Failure> {
    if let Some(parent) = folder.parent() {
        fs::create_dir_all(parent).map_err(|error| Failure::Io(parent.to_owned(), error))?;
    }
    let at = |error| Failure::Io(folder.to_owned(), error);
    fs::DirBuilder::new().mode(0o700).create(folder).map_err(at)?;
    write_file(&folder.join(MARKER), "dev.test only\n", 0o644)?;
    for file in files {
        let mode = if file.is_secret { 0o600 } else { 0o644 };
        write_file(&folder.join(&file.name), &file.text, mode)?;
    }
    Ok(())
}

fn write_file(path: &Path, text: &str, mode: u32) -> Result<(), Failure> {
    let write = || -> io::Result<()> {
        let mut options = fs::OpenOptions::new();
        options.write(true).create_new(true).mode(mode);
        options.open(path)?.write_all(text.as_bytes())
    };
    write().map_err(|error| Failure::Io(path.to_owned(), error))
}

fn rename(from: &Path, to: &Path) -> Result<(), Failure> {
    fs::rename(from, to).map_err(|error| Failure::Io(to.to_owned(), error))
}
