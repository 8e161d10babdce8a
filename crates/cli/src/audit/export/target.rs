//! Where an export goes: standard output, or a file that has another name until it is whole.

use std::path::Path;

use crate::{
    failure::Failure,
    held::Held,
    lines::{Lines, Reader},
};

/// An open target. A file that is not finished is removed.
pub(crate) enum Target {
    /// Written as it comes.
    Stdout(Lines),
    /// Held back until it is whole.
    File(Held),
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
                held.write(&bytes)?;
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

#[cfg(test)]
mod tests {
    use std::fs;

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
