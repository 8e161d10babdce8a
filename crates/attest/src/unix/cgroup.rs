//! The control group of a process, which its unit, container or pod is made of: a workload cannot leave it without the
//! right to write in another one, and only below its own where that was delegated (cgroups(7), "Delegation").

use mintage_identity::Selector;

use super::process::{Process, read_proc};
use crate::AttestError;

/// How the kernel marks a group that was removed under its processes (cgroups(7), `/proc/[pid]/cgroup`).
const DELETED: &str = " (deleted)";

/// Path in the unified hierarchy, seen from the root of the agent's cgroup namespace; none where there is no such hierarchy,
/// or where the process is outside of that root.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Cgroup(Option<String>);

impl Cgroup {
    /// Reads it.
    ///
    /// # Errors
    /// When the process has ended.
    pub(super) fn of(process: &Process) -> Result<Self, AttestError> {
        match read_proc(process.proc_dir(), "cgroup") {
            Ok(text) => Ok(Self(unified(&text).map(str::to_owned))),
            // A kernel without control groups has no such file.
            Err(_) if process.is_same() => Ok(Self(None)),
            Err(error) => Err(error),
        }
    }

    /// Whether the process is still in it.
    pub(super) fn is_still_of(&self, process: &Process) -> bool {
        Self::of(process).is_ok_and(|now| now == *self)
    }

    /// `cgroup:path`, where there is one that can be written as a selector.
    pub(super) fn selector(&self) -> Option<Selector> {
        Selector::parse(&format!("cgroup:path:{}", self.0.as_ref()?)).ok()
    }
}

/// The path of the line `0::` of `/proc/[pid]/cgroup`.
fn unified(text: &str) -> Option<&str> {
    let path = text.lines().find_map(|line| line.strip_prefix("0::"))?;
    let is_within = path.starts_with('/') && path.split('/').all(|part| part != "..");
    (is_within && !path.ends_with(DELETED)).then_some(path)
}

#[cfg(test)]
mod tests {
    use std::os::{fd::AsFd, unix::net::UnixStream};

    use mintage_sys::peer::{peer_credentials, peer_pidfd};

    use super::*;

    #[test]
    fn the_unified_path_is_taken_where_it_lies_within_the_agents_root() {
        assert_eq!(
            unified("0::/system.slice/web.service\n"),
            Some("/system.slice/web.service")
        );
        assert_eq!(unified("4:memory:/a\n0::/b\n"), Some("/b"), "beside older hierarchies");
        assert_eq!(unified("0::/a:b c\n"), Some("/a:b c"));
        for none in [
            "",
            "4:memory:/a\n",
            "0::\n",
            "0::/../..\n",
            "0::/../web.service\n",
            "0::/web.service (deleted)\n",
            "10::/a\n",
        ] {
            assert_eq!(unified(none), None, "{none:?}");
        }
    }

    #[test]
    fn a_process_that_moved_is_not_the_same() {
        let (ours, _theirs) = UnixStream::pair().unwrap();
        let credentials = peer_credentials(ours.as_fd()).unwrap();
        let process = Process::hold(&credentials, peer_pidfd(ours.as_fd())).unwrap();
        let mut cgroup = Cgroup::of(&process).unwrap();
        assert!(cgroup.is_still_of(&process));
        cgroup.0 = Some("/where/it/was".into());
        assert!(!cgroup.is_still_of(&process));
    }

    #[test]
    fn a_path_that_is_no_selector_shows_nothing() {
        let shown = |path: &str| {
            Cgroup(Some(path.into()))
                .selector()
                .map(|selector| selector.to_string())
        };
        assert_eq!(
            shown("/a.slice/b.service").as_deref(),
            Some("cgroup:path:/a.slice/b.service")
        );
        assert_eq!(shown("/a\u{1b}[2J"), None);
        assert_eq!(shown(&format!("/{}", "a".repeat(4096))), None);
        assert_eq!(Cgroup(None).selector(), None);
    }
}
