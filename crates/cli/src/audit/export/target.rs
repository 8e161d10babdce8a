//! Where an export goes: standard output, or a file that has another name until it is whole.

use std::{
    ffi::OsString,
    fs::{self, File, OpenOptions},
    io::Write,
    path::{Path, PathBuf},
};

use crate::{
    failure::Failure,
    lines::{Lines, Reader},
};

/// An open target. A file that is not finished is removed.
pub(crate) enum Target {
    /// Written as it comes.
    Stdout(Lines),
    /// Held back until it is whole.
    File(Held),
}

/// A file under a temporary name beside its own.
pub(crate) struct Held {
    file: File,
    part: PathBuf,
    name: PathBuf,
}

impl Target {
    pub(crate) fn open(out: Option<&Path>) -> Result<Self, Failure> {
        match out {
            None => Lines::start().map(Self::Stdout),
            Some(name) => Held::create(name).map(Self::File),
        }
    }

    /// True when nothing is seen of it before [`Target::finish`].
    pub(crate) fn is_held_back(&self) -> bool {
        matches!(self, Self::File(_))
    }

    pub(crate) async fn write(&mut self, bytes: Vec<u8>) -> Result<Reader, Failure> {
        match self {
            Self::Stdout(lines) => lines.write(bytes).await,
            Self::File(held) => {
                held.file
                    .write_all(&bytes)
                    .map_err(|error| Failure::file(&held.part, error))?;
                Ok(Reader::Stays)
            }
        }
    }

    /// Everything is written: the file gets its name.
    pub(crate) async fn finish(self) -> Result<(), Failure> {
        match self {
            Self::Stdout(lines) => lines.finish().await,
            Self::File(held) => held.finish(),
        }
    }
}

impl Held {
    fn create(name: &Path) -> Result<Self, Failure> {
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

    fn finish(self) -> Result<(), Failure> {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_file_appears_when_it_is_whole_and_leaves_nothing_when_it_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let name = dir.path().join("records.csv");
        fs::write(&name, "old").unwrap();
        let mut target = Target::open(Some(&name)).unwrap();
        target.write(b"half".to_vec()).await.unwrap();
        assert_eq!(fs::read_to_string(&name).unwrap(), "old");
        drop(target);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);

        let mut target = Target::open(Some(&name)).unwrap();
        target.write(b"who".to_vec()).await.unwrap();
        target.write(b"le".to_vec()).await.unwrap();
        target.finish().await.unwrap();
        assert_eq!(fs::read_to_string(&name).unwrap(), "whole");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
        assert!(Target::open(Some(dir.path())).is_err() && Target::open(Some(Path::new("/"))).is_err());
    }
}
