//! Where a tour keeps its things: a directory of its own, closed to others.

use std::{
    fs::DirBuilder,
    io,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
};

use crate::failure::Failure;

/// Names tried for a temporary directory before giving up.
const TRIES: u32 = 100;

/// Makes the directory, or takes one that is empty; its path is absolute and without links.
///
/// # Errors
/// When it holds anything or cannot be made.
pub(super) fn make(wanted: Option<&Path>) -> Result<PathBuf, Failure> {
    let made = match wanted {
        Some(path) => named(path)?,
        None => temporary()?,
    };
    made.canonicalize().map_err(|error| Failure::file(&made, error))
}

fn named(path: &Path) -> Result<PathBuf, Failure> {
    let cannot = |error: io::Error| Failure::file(path, format!("cannot be used: {error}"));
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(cannot)?;
    match path.read_dir().map_err(cannot)?.next() {
        None => Ok(path.to_owned()),
        Some(_) => Err(Failure::file(
            path,
            "is not empty; each run makes an authority of its own: name another directory or remove this one",
        )),
    }
}

fn temporary() -> Result<PathBuf, Failure> {
    let base = std::env::temp_dir();
    for number in 0..TRIES {
        let path = base.join(format!("mintage-dev-{}-{number}", std::process::id()));
        match DirBuilder::new().mode(0o700).create(&path) {
            Ok(()) => return Ok(path),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => {
                return Err(Failure::file(
                    &path,
                    format!("cannot be made: {error}; name a directory by --dir"),
                ));
            }
        }
    }
    Err(Failure::file(
        &base,
        "is full of directories of former runs; name one by --dir",
    ))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_directory_that_holds_something_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let new = dir.path().join("a/b");
        assert!(make(Some(&new)).unwrap().is_absolute());
        assert_eq!(new.metadata().unwrap().permissions().mode() & 0o777, 0o700);
        assert!(make(Some(&new)).is_ok());
        std::fs::write(new.join("x"), "").unwrap();
        assert!(make(Some(&new)).unwrap_err().to_string().contains("not empty"));
    }
}
