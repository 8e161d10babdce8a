//! Why the operating system, or a rule about its files, refused: one line that names the path and the remedy.

use std::{
    io,
    path::{Path, PathBuf},
};

/// A refusal. The text is one line and fit for an operator: what, where, and what to do about it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SysError {
    /// A file or directory does not follow a rule that protects secrets or readers.
    #[error("{}: {problem}", .path.escape_debug())]
    Refused {
        /// The path as the caller named it.
        path: String,
        /// What is wrong and the command that mends it.
        problem: String,
    },
    /// The operating system failed an operation.
    #[error("{}: cannot {doing}: {source}", .path.escape_debug())]
    Io {
        /// The path as the caller named it.
        path: String,
        /// What was being done, such as "open".
        doing: &'static str,
        /// The operating system's answer.
        source: io::Error,
    },
    /// Another process holds the lock.
    #[error("{}: another process holds it; stop that process first", .0.escape_debug())]
    Busy(String),
}

impl SysError {
    pub(crate) fn refused(path: &Path, problem: impl Into<String>) -> Self {
        Self::Refused {
            path: path.display().to_string(),
            problem: problem.into(),
        }
    }

    pub(crate) fn io(path: &Path, doing: &'static str, source: impl Into<io::Error>) -> Self {
        Self::Io {
            path: path.display().to_string(),
            doing,
            source: source.into(),
        }
    }

    /// The path the refusal speaks of.
    pub fn path(&self) -> PathBuf {
        match self {
            Self::Refused { path, .. } | Self::Io { path, .. } | Self::Busy(path) => path.into(),
        }
    }

    /// The kind of the operating system's answer; `PermissionDenied` for a broken rule, `WouldBlock` for a held lock.
    pub fn io_kind(&self) -> io::ErrorKind {
        match self {
            Self::Refused { .. } => io::ErrorKind::PermissionDenied,
            Self::Io { source, .. } => source.kind(),
            Self::Busy(_) => io::ErrorKind::WouldBlock,
        }
    }

    /// Whether the disk or a quota is full: the old state stands, and trying again later may succeed.
    pub fn is_out_of_space(&self) -> bool {
        matches!(
            self.io_kind(),
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
        )
    }
}
