//! Text that an operator wrote, such as a configuration: a regular file, within a bound, in UTF-8.

use std::{
    fs::File,
    io::{self, Read},
    path::Path,
};

use rustix::fs::{Mode, OFlags};

/// The text of a file of at most `bytes_max` bytes, or what is wrong with it, without its name. A link is followed: the
/// name is the operator's.
///
/// # Errors
/// Whatever open(2) and read(2) answer; a pipe, a device or a folder; a longer file; octets that are no UTF-8.
pub fn read(path: &Path, bytes_max: u64) -> Result<String, String> {
    let unreadable = |error: io::Error| format!("cannot be read: {error}");
    // Not blocking: the open of a pipe would wait for a writer, and the file is looked at only once it is open.
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let file: File = rustix::fs::open(path, flags, Mode::empty())
        .map_err(|error| unreadable(error.into()))?
        .into();
    if !file.metadata().map_err(unreadable)?.is_file() {
        return Err("is no regular file; write the configuration to a file and name that".to_owned());
    }
    let mut octets = Vec::new();
    file.take(bytes_max + 1).read_to_end(&mut octets).map_err(unreadable)?;
    if octets.len() as u64 > bytes_max {
        return Err(format!("is longer than {bytes_max} bytes; is it a configuration?"));
    }
    String::from_utf8(octets).map_err(|_| "is no UTF-8 text; is it a configuration?".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_read_up_to_its_bound_and_nothing_else_is() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        std::fs::write(path("text"), "äbc").unwrap();
        std::os::unix::fs::symlink("text", path("link")).unwrap();
        assert_eq!(read(&path("text"), 4), Ok("äbc".to_owned()));
        assert_eq!(read(&path("link"), 4), Ok("äbc".to_owned()));
        let refusal = |name: &str, most| read(&path(name), most).unwrap_err();
        assert!(refusal("text", 3).contains("longer than 3 bytes"));
        rustix::fs::mkfifoat(rustix::fs::CWD, path("pipe"), Mode::from_raw_mode(0o600)).unwrap();
        // Without a writer: it must not be waited for.
        assert!(refusal("pipe", 4).contains("no regular file"));
        assert!(refusal(".", 4).contains("no regular file"));
        assert!(refusal("none", 4).contains("cannot be read"));
        std::fs::write(path("bytes"), b"\xff").unwrap();
        assert!(refusal("bytes", 4).contains("UTF-8"));
    }
}
