//! The rules of a data directory: a real one, ours, and not everybody's to write.

use std::{fs::File, io, path::Path};

use rustix::{
    fs::{CWD, Mode},
    process::{geteuid, umask},
};

use super::Dir;
use crate::SysError;

/// Opens a data directory: a real directory that belongs to us and that not everybody may write.
///
/// # Errors
/// One line with the remedy when the path is a symlink or no directory, belongs to another user, or is world-writable.
pub fn open_owned(path: &Path) -> Result<Dir, SysError> {
    let dir = Dir::open(path).map_err(|error| {
        let symlink = std::fs::symlink_metadata(path).is_ok_and(|meta| meta.is_symlink());
        match error.kind() {
            _ if symlink => SysError::refused(path, "is a symbolic link; name the directory itself"),
            io::ErrorKind::NotADirectory => SysError::refused(path, "is no directory"),
            _ => SysError::io(path, "open the directory", error),
        }
    })?;
    let meta = dir.meta().map_err(|error| SysError::io(path, "stat", error))?;
    let us = geteuid().as_raw();
    if meta.uid != us {
        return Err(SysError::refused(
            path,
            format!("belongs to uid {}, not to us (uid {us}); chown {us} it", meta.uid),
        ));
    }
    if meta.mode & 0o002 != 0 {
        return Err(SysError::refused(
            path,
            format!("everybody may write it (mode {:04o}); chmod o-w it", meta.mode),
        ));
    }
    Ok(dir)
}

/// Makes a data directory with mode 0700 if its last part does not exist, durably, then opens it as [`open_owned`] does.
///
/// # Errors
/// As [`open_owned`]; the parent must exist.
pub fn create_owned(path: &Path) -> Result<Dir, SysError> {
    match rustix::fs::mkdirat(CWD, path, Mode::from_raw_mode(0o700)) {
        Ok(()) => {
            let parent = match path.parent() {
                Some(parent) if !parent.as_os_str().is_empty() => parent,
                _ => Path::new("."),
            };
            File::open(parent)
                .and_then(|parent| parent.sync_all())
                .map_err(|error| SysError::io(parent, "make the new directory durable", error))?;
        }
        Err(rustix::io::Errno::EXIST) => {}
        Err(error) => return Err(SysError::io(path, "make the directory", error)),
    }
    open_owned(path)
}

/// Sets a umask of 0077, so that a file made without a mode is ours alone. Called once at a program's start.
pub fn private_umask() {
    umask(Mode::from_raw_mode(0o077));
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};

    use super::*;

    fn refusal(result: Result<Dir, SysError>) -> String {
        let text = result.map(|_| ()).unwrap_err().to_string();
        assert!(!text.contains('\n'), "{text}");
        text
    }

    #[test]
    fn makes_a_private_directory_once_and_finds_it_again() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("data");
        create_owned(&path).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o7777, 0o700);
        create_owned(&path).unwrap();
        assert!(create_owned(&path.join("a/b")).is_err());
    }

    #[test]
    fn store_that_is_world_writable_a_symlink_or_a_file_is_refused_with_the_remedy() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("data");
        create_owned(&path).unwrap();
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o707)).unwrap();
        assert!(refusal(open_owned(&path)).contains("chmod o-w"));
        let link = temp.path().join("link");
        symlink(&path, &link).unwrap();
        assert!(refusal(open_owned(&link)).contains("symbolic link"));
        let file = temp.path().join("file");
        std::fs::write(&file, "").unwrap();
        assert!(refusal(open_owned(&file)).contains("no directory"));
        assert!(refusal(open_owned(&temp.path().join("none"))).contains("open the directory"));
    }

    #[test]
    fn store_owned_by_another_user_is_refused() {
        if !crate::privilege::is_root() {
            return;
        }
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("data");
        create_owned(&path).unwrap();
        chown(&path, Some(4321), None).unwrap();
        assert!(refusal(open_owned(&path)).contains("uid 4321"));
    }
}
