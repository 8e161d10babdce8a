//! A directory that others look into and nobody else may write: for the socket and the node's revocation map. Whoever may
//! rename in it could put his own socket or map there and answer for us.

use std::path::Path;

use mintage_sys::dir::Dir;

/// Mode of a directory that is made.
const MODE: u32 = 0o755;

/// Opens the directory, making its last part when it is missing.
pub(crate) fn open(path: &Path) -> Result<Dir, String> {
    let dir = match Dir::open(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            let (Some(above), Some(name)) = (path.parent(), path.file_name().and_then(|name| name.to_str())) else {
                return Err("its directory does not exist".to_owned());
            };
            Dir::open(above)
                .and_then(|above| above.create_dir_beneath(name, MODE))
                .map_err(|error| format!("its directory {} cannot be made: {error}", path.display()))?
        }
        opened => opened.map_err(|error| {
            let path = path.display();
            format!("its directory {path} cannot be opened (is it a symbolic link?): {error}")
        })?,
    };
    check(&dir)?;
    Ok(dir)
}

/// Looks whether the directory is fit, without making it.
pub(crate) fn look(path: &Path) -> Result<(), String> {
    let opened = Dir::open(path);
    check(&opened.map_err(|error| format!("{} cannot be opened (is it a symbolic link?): {error}", path.display()))?)
}

fn check(dir: &Dir) -> Result<(), String> {
    let path = dir.path().display();
    let meta = dir.meta().map_err(|error| error.to_string())?;
    let us = mintage_sys::process::effective_uid();
    if meta.uid != 0 && meta.uid != us {
        return Err(format!(
            "its directory {path} belongs to uid {}, neither root nor we (uid {us})",
            meta.uid
        ));
    }
    if meta.mode & 0o022 != 0 {
        return Err(format!(
            "its directory {path} may be written by others (mode {:04o}); chmod go-w it",
            meta.mode
        ));
    }
    Ok(())
}
