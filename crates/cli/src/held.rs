//! Files that have another name until they are whole, so that a reader sees the former one or the new one, never half.

use std::{
    ffi::OsString,
    fs::{self, DirBuilder, File, OpenOptions, Permissions},
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, PermissionsExt},
    path::{Path, PathBuf},
};

use crate::failure::Failure;

/// A file under a temporary name beside its own. Unless it is finished, it is removed.
pub(crate) struct Held {
    file: File,
    part: PathBuf,
    name: PathBuf,
}

impl Held {
    /// Makes it, with the mode that the umask leaves.
    ///
    /// # Errors
    /// A name that is none of a file, or one that cannot be made there.
    pub(crate) fn create(name: &Path) -> Result<Self, Failure> {
        let Some(last) = name.file_name() else {
            return Err(Failure::file(name, "is no name of a file"));
        };
        if name.is_dir() {
            return Err(Failure::file(name, "is a directory"));
        }
        let mut part = OsString::from(".");
        part.push(last);
        part.push(format!(".{}.part", std::process::id()));
        let part = name.with_file_name(part);
        let file = OpenOptions::new().write(true).create_new(true).open(&part);
        Ok(Self {
            file: file.map_err(|error| Failure::file(&part, error))?,
            part,
            name: name.to_owned(),
        })
    }

    /// Writes a file that everybody may read, whatever the umask.
    ///
    /// # Errors
    /// As [`Held::create`], and what cannot be written.
    pub(crate) fn publish(name: &Path, bytes: &[u8]) -> Result<(), Failure> {
        let mut held = Self::create(name)?;
        let opened = held.file.set_permissions(Permissions::from_mode(0o644));
        opened.map_err(|error| Failure::file(&held.part, error))?;
        held.write(bytes)?;
        held.finish()
    }

    /// Writes on.
    ///
    /// # Errors
    /// Why it cannot be written.
    pub(crate) fn write(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        let written = self.file.write_all(bytes);
        written.map_err(|error| Failure::file(&self.part, error))
    }

    /// Everything is written: the file gets its name.
    ///
    /// # Errors
    /// Why it cannot be flushed or named.
    pub(crate) fn finish(self) -> Result<(), Failure> {
        let named = self.file.sync_all().and_then(|()| fs::rename(&self.part, &self.name));
        named.map_err(|error| Failure::file(&self.name, error))?;
        let folder = match self.name.parent() {
            Some(folder) if !folder.as_os_str().is_empty() => folder,
            _ => Path::new("."),
        };
        // The file is whole either way; a folder that cannot be flushed loses the name at worst.
        let flushed = File::open(folder).and_then(|folder| folder.sync_all());
        flushed.map_err(|error| Failure::file(folder, error))
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        // After a rename it is not there any more.
        let _ = fs::remove_file(&self.part);
    }
}

/// Makes a folder, and those above it that are missing, which everybody may enter whatever the umask. One that is there
/// stays as it is.
///
/// # Errors
/// Why it cannot be made.
pub(crate) fn public_folder(folder: &Path) -> Result<(), Failure> {
    let missing: Vec<&Path> = folder
        .ancestors()
        .take_while(|path| !path.as_os_str().is_empty() && !path.exists())
        .collect();
    for path in missing.into_iter().rev() {
        let made = match DirBuilder::new().mode(0o755).create(path) {
            Ok(()) => fs::set_permissions(path, Permissions::from_mode(0o755)),
            // Somebody else made it meanwhile: it is theirs.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            Err(error) => Err(error),
        };
        made.map_err(|error| Failure::file(path, error))?;
    }
    match folder.is_dir() {
        true => Ok(()),
        false => Err(Failure::file(folder, "is no directory")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_is_made_with_those_above_it_and_one_that_is_there_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let mode = |path: &Path| path.metadata().unwrap().permissions().mode() & 0o777;
        let folder = dir.path().join("a/b");
        public_folder(&folder).unwrap();
        assert_eq!((mode(&dir.path().join("a")), mode(&folder)), (0o755, 0o755));
        fs::set_permissions(&folder, Permissions::from_mode(0o700)).unwrap();
        public_folder(&folder).unwrap();
        assert_eq!(mode(&folder), 0o700);

        let file = folder.join("f");
        fs::write(&file, "old").unwrap();
        fs::set_permissions(&file, Permissions::from_mode(0o600)).unwrap();
        Held::publish(&file, b"new").unwrap();
        assert_eq!(
            (fs::read(&file).unwrap().as_slice(), mode(&file)),
            (b"new".as_slice(), 0o644)
        );
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 1);
        assert!(public_folder(&file).is_err() && public_folder(&file.join("x")).is_err());
    }
}
