//! The socket's place in the file system. It is made in a directory that only we may enter, gets its mode there, and is
//! renamed into place: nobody ever connects to it half made, and nobody else can put his own in its stead, because the
//! directory belongs to root or us and nobody else may write it. A lock beside it keeps a second agent out, also one that
//! starts in the same moment.

use std::{
    fs,
    os::{
        fd::{AsFd, AsRawFd},
        unix::{
            fs::{FileTypeExt, MetadataExt, PermissionsExt},
            net::UnixListener as StdListener,
        },
    },
    path::{Path, PathBuf},
};

use mintage_sys::{
    SysError,
    dir::{Dir, Meta},
    lock::Lock,
};
use rustix::{
    io::Errno,
    net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with},
};
use tokio::net::UnixListener;

use crate::{AgentError, public_dir};

/// Everybody may connect: who he is, is asked of the kernel afterwards.
const SOCKET_MODE: u32 = 0o666;
const NAME: &str = "socket";

/// The socket's file; removed on drop if it is still ours.
#[derive(Debug)]
pub(crate) struct SocketFile {
    path: PathBuf,
    identity: (u64, u64),
    /// Let go of after the file is removed.
    _lock: Lock,
}

/// Binds the socket at `path`.
pub(super) fn bind(path: &Path) -> Result<(UnixListener, SocketFile), AgentError> {
    let fail = |problem: String| AgentError::Bind {
        what: format!("socket {}", path.display()),
        problem: format!("{problem} (socket = \"...\" in the configuration names another path, \"off\" turns it off)"),
    };
    let (Some(parent), Some(name)) = (path.parent(), path.file_name().and_then(|name| name.to_str())) else {
        return Err(fail("is no path of a socket".to_owned()));
    };
    let dir = public_dir::open(parent).map_err(fail)?;
    let lock = lock(&dir, name).map_err(fail)?;
    check_old(&dir, name, path).map_err(fail)?;
    let private = format!(".{name}.{}", std::process::id());
    let made = make(&dir, &private, name);
    let _ = dir.open_dir_beneath(&private).and_then(|inner| inner.remove_file(NAME));
    let _ = dir.remove_dir(&private);
    let (listener, identity) = made.map_err(|error| fail(error.to_string()))?;
    let file = SocketFile {
        path: path.to_owned(),
        identity,
        _lock: lock,
    };
    let listener = UnixListener::from_std(listener).map_err(|error| fail(error.to_string()))?;
    Ok((listener, file))
}

/// Held for as long as the socket is served. Its file stays: whoever removes one that others may be opening lets two in.
fn lock(dir: &Dir, name: &str) -> Result<Lock, String> {
    Lock::exclusive(dir, &format!("{name}.lock")).map_err(|error| match error {
        SysError::Busy(file) => format!("another agent serves it and holds {file}; stop that process first"),
        other => format!("{other}; remove that file if an agent of another user left it"),
    })
}

/// What lies there already must be a socket that nobody answers on.
fn check_old(dir: &Dir, name: &str, path: &Path) -> Result<(), String> {
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error.to_string()),
        Ok(meta) if !meta.file_type().is_socket() => {
            return Err("something that is no socket lies there; remove it or name another path".to_owned());
        }
        Ok(_) => {}
    }
    match knock(dir, name) {
        // A left-over of a process that was killed; the rename replaces it.
        Err(Errno::CONNREFUSED | Errno::NOENT) => Ok(()),
        // A full queue is a process's, too.
        Ok(()) | Err(Errno::AGAIN) => Err("another process answers on it; stop that process first".to_owned()),
        Err(error) => Err(format!(
            "whether a process answers on the socket that lies there cannot be found out ({error}); stop that process, or remove \
             the socket"
        )),
    }
}

/// Connects without waiting.
fn knock(dir: &Dir, name: &str) -> Result<(), Errno> {
    // By way of the descriptor: the path is short enough for sun_path.
    let short = format!("/proc/self/fd/{}/{name}", dir.as_fd().as_raw_fd());
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    connect(&socket, &SocketAddrUnix::new(short)?)
}

fn make(dir: &Dir, private: &str, name: &str) -> std::io::Result<(StdListener, (u64, u64))> {
    // What a process with our number left when it was killed.
    let _ = dir.open_dir_beneath(private).and_then(|inner| inner.remove_file(NAME));
    let _ = dir.remove_dir(private);
    let inner = dir.create_dir_beneath(private, 0o700)?;
    // By way of the descriptor: the path is short enough for sun_path, and means this directory whatever is renamed.
    let short = PathBuf::from(format!("/proc/self/fd/{}/{NAME}", inner.as_fd().as_raw_fd()));
    let listener = StdListener::bind(&short)?;
    listener.set_nonblocking(true)?;
    fs::set_permissions(&short, fs::Permissions::from_mode(SOCKET_MODE))?;
    let made = fs::symlink_metadata(&short)?;
    rustix::fs::renameat(inner.as_fd(), NAME, dir.as_fd(), name)?;
    Ok((listener, (made.dev(), made.ino())))
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        let parent = self.path.parent().map(Dir::open);
        let name = self.path.file_name().and_then(|name| name.to_str());
        if let (Some(Ok(parent)), Some(name)) = (parent, name)
            && let Ok(Some(Meta { identity, .. })) = parent.entry(name)
            && identity == self.identity
        {
            let _ = parent.remove_file(name);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream as StdStream;

    use super::*;

    fn place() -> (tempfile::TempDir, PathBuf) {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("run").join("agent.sock");
        (temp, path)
    }

    fn refusal(path: &Path) -> String {
        bind(path).err().unwrap().to_string()
    }

    #[tokio::test]
    async fn everybody_may_connect_and_the_file_goes_with_the_value() {
        let (_temp, path) = place();
        let (_listener, file) = bind(&path).unwrap();
        let meta = fs::symlink_metadata(&path).unwrap();
        assert_eq!(
            (meta.permissions().mode() & 0o777, meta.file_type().is_socket()),
            (0o666, true)
        );
        assert_eq!(
            fs::metadata(path.parent().unwrap()).unwrap().permissions().mode() & 0o777,
            0o755
        );
        assert_eq!(
            fs::read_dir(path.parent().unwrap()).unwrap().count(),
            2,
            "the socket and its lock: no private directory is left"
        );
        assert!(StdStream::connect(&path).is_ok());
        drop(file);
        assert!(!path.exists());
    }

    #[tokio::test]
    async fn a_socket_directory_that_others_may_write_or_a_symlink_is_refused() {
        let (_temp, path) = place();
        let run = path.parent().unwrap();
        fs::create_dir(run).unwrap();
        for mode in [0o775, 0o757, 0o777] {
            fs::set_permissions(run, fs::Permissions::from_mode(mode)).unwrap();
            assert!(refusal(&path).contains("chmod go-w"));
        }
        fs::set_permissions(run, fs::Permissions::from_mode(0o755)).unwrap();
        let link = run.with_file_name("link");
        std::os::unix::fs::symlink(run, &link).unwrap();
        assert!(refusal(&link.join("agent.sock")).contains("symbolic link"));
    }

    #[tokio::test]
    async fn a_stale_socket_is_replaced_and_a_living_one_or_a_file_is_not() {
        let (_temp, path) = place();
        let (listener, file) = bind(&path).unwrap();
        assert!(refusal(&path).contains("another agent serves it"));
        drop((listener, file));
        // Of a process that takes no lock: a living one, one whose queue is full, and what a kill left.
        let others = StdListener::bind(&path).unwrap();
        assert!(refusal(&path).contains("another process answers"));
        rustix::net::listen(&others, 0).unwrap();
        while knock(&Dir::open(path.parent().unwrap()).unwrap(), "agent.sock").is_ok() {}
        assert!(
            refusal(&path).contains("another process answers"),
            "a full queue is waited for, or is none"
        );
        drop(others);
        assert!(path.exists(), "as after a kill");
        let (_listener, file) = bind(&path).unwrap();
        fs::remove_file(&path).unwrap();
        fs::write(&path, "precious").unwrap();
        drop(file);
        assert_eq!(fs::read(&path).unwrap(), b"precious", "only our own file is removed");
        assert!(refusal(&path).contains("no socket"));
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn of_many_that_find_the_same_stale_socket_at_once_one_gets_it() {
        let (_temp, path) = place();
        drop(bind(&path).unwrap());
        for _ in 0..20 {
            drop(StdListener::bind(&path).unwrap());
            let starters: Vec<_> = (0..4)
                .map(|_| {
                    let path = path.clone();
                    tokio::task::spawn_blocking(move || bind(&path).ok())
                })
                .collect();
            let mut bound = Vec::new();
            for starter in starters {
                bound.extend(starter.await.unwrap());
            }
            assert_eq!(bound.len(), 1);
        }
    }

    #[tokio::test]
    async fn a_path_longer_than_a_socket_address_works() {
        let temp = tempfile::tempdir().unwrap();
        let deep = temp.path().join("d".repeat(60)).join("e".repeat(60));
        fs::create_dir_all(&deep).unwrap();
        assert!(bind(&deep.join("agent.sock")).is_ok());
    }
}
