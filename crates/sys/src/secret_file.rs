//! Files that hold a key, a passphrase or a token: read only when nobody else could have read or planted them, and
//! written so that a crash leaves the old one or the new one, never half of one.

use std::{fs::File, io, os::fd::AsFd, path::Path};

use rustix::{
    fs::{CWD, Mode, OFlags},
    process::geteuid,
};
use zeroize::Zeroizing;

use crate::{
    SysError,
    dir::{Dir, Kind, Meta},
};

/// The bytes of a secret; wiped on drop. The type has no `Display`, and its `Debug` must not be logged.
pub type Secret = Zeroizing<Vec<u8>>;

/// Reads a secret from the file at `path`, or from standard input when `path` is `-`.
///
/// # Errors
/// One line with the remedy when the file is a symlink, a pipe or a device, belongs to another user, is readable or
/// writable by group or others, is empty, or is longer than `bytes_max`.
pub fn read(path: &Path, bytes_max: usize) -> Result<Secret, SysError> {
    if path.as_os_str() == "-" {
        let shown = Path::new("standard input");
        // By descriptor: the buffer of `io::stdin` would keep an unwiped copy.
        let stdin = io::stdin().as_fd().try_clone_to_owned();
        let stdin = stdin.map_err(|error| SysError::io(shown, "read", error))?;
        return read_limited(File::from(stdin), shown, bytes_max);
    }
    let file = open(CWD, path, path)?;
    check(&file, path, Rules::File)?;
    read_limited(file, path, bytes_max)
}

/// Reads a secret by its plain name from an open directory, under the rules of [`read`].
///
/// # Errors
/// As [`read`].
pub fn read_beneath(dir: &Dir, name: &str, bytes_max: usize) -> Result<Secret, SysError> {
    let path = dir.path().join(name);
    if name.contains('/') {
        return Err(SysError::refused(&path, "is no plain file name"));
    }
    let file = open(dir, Path::new(name), &path)?;
    check(&file, &path, Rules::File)?;
    read_limited(file, &path, bytes_max)
}

/// Reads a credential that systemd placed in `$CREDENTIALS_DIRECTORY` (systemd.exec(5), "Credentials"). Root may own it
/// and its group bits may be those of an access list that names us, so only others' bits and group writing are refused.
///
/// # Errors
/// As [`read`].
pub fn read_credential(directory: &Path, name: &str, bytes_max: usize) -> Result<Secret, SysError> {
    let path = directory.join(name);
    if name.is_empty() || name.starts_with('.') || name.contains('/') {
        return Err(SysError::refused(&path, "is no name of a credential"));
    }
    let file = open(CWD, &path, &path)?;
    check(&file, &path, Rules::Credential)?;
    read_limited(file, &path, bytes_max)
}

/// Takes one line ending (`\n` or `\r\n`) off the end, as editors and `echo` leave it.
pub fn trim_line_end(secret: &mut Secret) {
    if secret.last() == Some(&b'\n') {
        secret.pop();
        if secret.last() == Some(&b'\r') {
            secret.pop();
        }
    }
}

/// Writes a new secret file (mode 0600), durably, under a name that must not exist.
///
/// # Errors
/// `AlreadyExists`; otherwise what the file system answers. Nothing is left behind on failure.
pub fn write_new(dir: &Dir, name: &str, bytes: &[u8]) -> Result<(), SysError> {
    put(dir, name, bytes, |dir, temporary| dir.rename_new(temporary, name))
}

/// Writes a secret file (mode 0600), durably, in the place of an older one if there is any.
///
/// # Errors
/// What the file system answers; the old file then stands.
pub fn replace(dir: &Dir, name: &str, bytes: &[u8]) -> Result<(), SysError> {
    put(dir, name, bytes, |dir, temporary| dir.rename(temporary, name))
}

fn put(dir: &Dir, name: &str, bytes: &[u8], place: impl FnOnce(&Dir, &str) -> io::Result<()>) -> Result<(), SysError> {
    use io::Write;
    let path = dir.path().join(name);
    let failed = |doing| {
        let path = &path;
        move |error: io::Error| SysError::io(path, doing, error)
    };
    let temporary = format!(".{name}.new");
    match dir.remove_file(&temporary) {
        // What an earlier crash left.
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(failed("remove the left-over of an earlier try")(error)),
    }
    let written = dir.create_file_beneath(&temporary, 0o600).and_then(|mut file| {
        file.write_all(bytes)?;
        file.sync_all()?;
        place(dir, &temporary)
    });
    if let Err(error) = written {
        let _ = dir.remove_file(&temporary);
        return Err(failed("write")(error));
    }
    dir.fsync().map_err(failed("make durable"))
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Rules {
    File,
    Credential,
}

fn open(dir: impl AsFd, name: &Path, path: &Path) -> Result<File, SysError> {
    // Not blocking: opening a pipe must not wait for a writer.
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    match rustix::fs::openat(dir, name, flags, Mode::empty()) {
        Ok(fd) => Ok(fd.into()),
        Err(rustix::io::Errno::LOOP) => Err(SysError::refused(path, "is a symbolic link; name the file itself")),
        Err(error) => Err(SysError::io(path, "open", error)),
    }
}

fn check(file: &File, path: &Path, rules: Rules) -> Result<(), SysError> {
    let meta = Meta::of(file).map_err(|error| SysError::io(path, "stat", error))?;
    if meta.kind != Kind::File {
        let problem = format!(
            "is {}; a secret must be in a regular file (or `-` for standard input)",
            meta.kind.describe()
        );
        return Err(SysError::refused(path, problem));
    }
    let us = geteuid().as_raw();
    if meta.uid != us && !(rules == Rules::Credential && meta.uid == 0) {
        let problem = format!("belongs to uid {}, not to us (uid {us}); chown {us} it", meta.uid);
        return Err(SysError::refused(path, problem));
    }
    let forbidden = match rules {
        Rules::File => 0o077,
        Rules::Credential => 0o027,
    };
    if meta.mode & forbidden != 0 {
        let problem = format!("others may use it (mode {:04o}); chmod 600 it", meta.mode);
        return Err(SysError::refused(path, problem));
    }
    Ok(())
}

fn read_limited(mut from: impl io::Read, path: &Path, bytes_max: usize) -> Result<Secret, SysError> {
    // One allocation of the full size: a growing buffer would leave unwiped copies behind.
    let mut secret: Secret = Zeroizing::new(vec![0; bytes_max + 1]);
    let mut filled = 0;
    while filled < secret.len() {
        match from.read(&mut secret[filled..]) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(SysError::io(path, "read", error)),
        }
    }
    if filled > bytes_max {
        return Err(SysError::refused(
            path,
            format!("is longer than {bytes_max} bytes: not the right file"),
        ));
    }
    if filled == 0 {
        return Err(SysError::refused(path, "is empty"));
    }
    secret.truncate(filled);
    Ok(secret)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;
    use crate::privilege::{Tmpfs, is_root};

    fn folder() -> (tempfile::TempDir, Dir) {
        let temp = tempfile::tempdir().unwrap();
        let dir = Dir::open(temp.path()).unwrap();
        (temp, dir)
    }

    fn refusal(result: Result<Secret, SysError>) -> String {
        let text = result.map(|_| ()).unwrap_err().to_string();
        assert!(!text.contains('\n'), "{text}");
        text
    }

    #[test]
    fn reads_what_it_wrote_and_trims_one_line_end() {
        let (temp, dir) = folder();
        write_new(&dir, "token", b"hush\r\n").unwrap();
        let path = temp.path().join("token");
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o600);
        let mut secret = read(&path, 64).unwrap();
        trim_line_end(&mut secret);
        assert_eq!(&secret[..], b"hush");
        assert_eq!(&read_beneath(&dir, "token", 6).unwrap()[..], b"hush\r\n");
    }

    #[test]
    fn a_new_secret_never_replaces_one_and_a_replaced_one_is_whole() {
        let (temp, dir) = folder();
        write_new(&dir, "key", b"one").unwrap();
        let again = write_new(&dir, "key", b"two").unwrap_err();
        assert_eq!(again.io_kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(std::fs::read(temp.path().join("key")).unwrap(), b"one");
        std::fs::write(temp.path().join(".key.new"), b"left over").unwrap();
        replace(&dir, "key", b"three").unwrap();
        assert_eq!(std::fs::read(temp.path().join("key")).unwrap(), b"three");
        assert_eq!(dir.names(8).unwrap().len(), 1);
    }

    #[test]
    fn key_file_that_others_may_read_is_refused_with_the_remedy() {
        let (temp, dir) = folder();
        write_new(&dir, "key", b"one").unwrap();
        let path = temp.path().join("key");
        for mode in [0o644, 0o640, 0o604, 0o620, 0o602, 0o610] {
            std::fs::set_permissions(&path, PermissionsExt::from_mode(mode)).unwrap();
            assert!(refusal(read(&path, 64)).contains("chmod 600"), "{mode:o}");
        }
    }

    #[test]
    fn key_file_as_symlink_pipe_directory_or_device_is_refused_at_once() {
        let (temp, dir) = folder();
        write_new(&dir, "key", b"one").unwrap();
        symlink(temp.path().join("key"), temp.path().join("link")).unwrap();
        assert!(refusal(read(&temp.path().join("link"), 64)).contains("symbolic link"));
        rustix::fs::mkfifoat(&dir, "pipe", Mode::from_raw_mode(0o600)).unwrap();
        assert!(refusal(read(&temp.path().join("pipe"), 64)).contains("named pipe"));
        assert!(refusal(read(temp.path(), 64)).contains("directory"));
        assert!(refusal(read(Path::new("/dev/null"), 64)).contains("device"));
        assert!(refusal(read_beneath(&dir, "../key", 64)).contains("plain"));
    }

    #[test]
    fn an_empty_or_over_long_secret_is_refused() {
        let (temp, dir) = folder();
        write_new(&dir, "empty", b"").unwrap();
        write_new(&dir, "long", &[b'x'; 65]).unwrap();
        assert!(refusal(read(&temp.path().join("empty"), 64)).contains("empty"));
        assert!(refusal(read(&temp.path().join("long"), 64)).contains("64 bytes"));
        let endless = read_limited(io::repeat(1), Path::new("standard input"), 64);
        assert!(refusal(endless).contains("64 bytes"));
    }

    #[test]
    fn a_full_disk_keeps_the_old_secret_and_leaves_nothing() {
        let temp = tempfile::tempdir().unwrap();
        let Some(_mounted) = Tmpfs::mount(temp.path(), "64k") else {
            return;
        };
        let dir = Dir::open(temp.path()).unwrap();
        write_new(&dir, "key", b"one").unwrap();
        let large = vec![b'x'; 128 * 1024];
        assert!(replace(&dir, "key", &large).unwrap_err().is_out_of_space());
        assert!(write_new(&dir, "other", &large).unwrap_err().is_out_of_space());
        assert_eq!(dir.names(8).unwrap(), [b"key"]);
        assert_eq!(&read_beneath(&dir, "key", 64).unwrap()[..], b"one");
    }

    #[test]
    fn a_secret_of_another_user_is_refused() {
        if !is_root() {
            return;
        }
        let (temp, dir) = folder();
        write_new(&dir, "key", b"one").unwrap();
        let path = temp.path().join("key");
        std::os::unix::fs::chown(&path, Some(12345), None).unwrap();
        assert!(refusal(read(&path, 64)).contains("uid 12345"));
        assert!(refusal(read_credential(temp.path(), "key", 64)).contains("uid 12345"));
    }

    #[test]
    fn a_credential_may_have_an_access_list_but_nothing_for_others() {
        let (temp, dir) = folder();
        write_new(&dir, "passphrase", b"hush").unwrap();
        let path = temp.path().join("passphrase");
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o440)).unwrap();
        assert_eq!(&read_credential(temp.path(), "passphrase", 64).unwrap()[..], b"hush");
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o444)).unwrap();
        assert!(refusal(read_credential(temp.path(), "passphrase", 64)).contains("others"));
        assert!(read_credential(temp.path(), "../passphrase", 64).is_err());
    }
}
