//! Keep the secrets of this process out of core files and away from debuggers.

use std::io;

use rustix::process::{
    DumpableBehavior, Resource, Rlimit, dumpable_behavior, getrlimit, set_dumpable_behavior, setrlimit,
};

/// Makes the process not dumpable (prctl(2), `PR_SET_DUMPABLE` 0): no core file, and nobody without `CAP_SYS_PTRACE`
/// may attach to it or read its memory. Undone by execve(2), so each program calls it once at its start.
///
/// # Errors
/// Whatever prctl(2) answers.
pub fn set_not_dumpable() -> io::Result<()> {
    set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
    Ok(())
}

/// Whether the process may leave a core file or be attached to.
///
/// # Errors
/// Whatever prctl(2) answers.
pub fn is_dumpable() -> io::Result<bool> {
    Ok(dumpable_behavior()? != DumpableBehavior::NotDumpable)
}

/// Sets both limits on core files to zero, for this process and those it starts (setrlimit(2)).
///
/// # Errors
/// Whatever setrlimit(2) answers.
pub fn no_core_dumps() -> io::Result<()> {
    let none = Rlimit {
        current: Some(0),
        maximum: Some(0),
    };
    setrlimit(Resource::Core, none)?;
    Ok(())
}

/// How many file descriptors this process may hold now (`RLIMIT_NOFILE`); `None` for no limit.
pub fn file_descriptors_max() -> Option<u64> {
    getrlimit(Resource::Nofile).current
}

/// Raises the number of file descriptors to the most the system allows this process, and returns it.
///
/// # Errors
/// Whatever setrlimit(2) answers.
pub fn raise_file_descriptors() -> io::Result<Option<u64>> {
    let limit = getrlimit(Resource::Nofile);
    setrlimit(
        Resource::Nofile,
        Rlimit {
            current: limit.maximum,
            maximum: limit.maximum,
        },
    )?;
    Ok(limit.maximum)
}

/// Effective user id of this process.
pub fn effective_uid() -> u32 {
    rustix::process::geteuid().as_raw()
}

/// Effective group id of this process.
pub fn effective_gid() -> u32 {
    rustix::process::getegid().as_raw()
}

#[cfg(test)]
mod tests {
    use std::{
        os::{fd::AsFd, unix::process::CommandExt},
        process::Command,
    };

    const CHILD: &str = "MINTAGE_SYS_TEST_NOT_DUMPABLE";

    /// Run again as a child process by the test below; does nothing in its own right.
    #[test]
    fn child_that_hides_its_memory() {
        if std::env::var_os(CHILD).is_none() {
            return;
        }
        assert!(super::is_dumpable().unwrap());
        super::set_not_dumpable().unwrap();
        assert!(!super::is_dumpable().unwrap());
        // What the agent reads about itself and others must go on working, though /proc/self is root's now.
        let (ours, _theirs) = std::os::unix::net::UnixStream::pair().unwrap();
        if let Ok(handle) = crate::peer::peer_pidfd(ours.as_fd()) {
            assert_eq!(handle.pid().unwrap(), std::process::id() as i32);
        }
        std::fs::read_to_string("/proc/self/uid_map").unwrap();
        assert!(std::fs::File::open("/proc/self/mem").is_err() || super::effective_uid() == 0);
    }

    #[test]
    fn a_process_that_hides_its_memory_still_knows_itself() {
        let program = std::env::current_exe().unwrap();
        let run = |uid: Option<u32>| {
            let mut command = Command::new(&program);
            command
                .args(["--exact", "process::tests::child_that_hides_its_memory"])
                .env(CHILD, "1");
            if let Some(uid) = uid {
                command.uid(uid).gid(uid);
            }
            command.output().unwrap()
        };
        let output = run(None);
        assert!(output.status.success(), "{output:?}");
        if crate::privilege::is_root() {
            let output = run(Some(4321));
            assert!(output.status.success(), "{output:?}");
        }
    }

    #[test]
    fn core_limit_is_zero_in_a_child_and_descriptors_are_known() {
        // The limit is lowered for good, which harms no other test: none dumps core.
        super::no_core_dumps().unwrap();
        let shown = std::process::Command::new("sh")
            .args(["-c", "ulimit -c; ulimit -Hc"])
            .output()
            .unwrap();
        assert_eq!(String::from_utf8(shown.stdout).unwrap(), "0\n0\n");
        let highest = super::raise_file_descriptors().unwrap();
        assert_eq!(super::file_descriptors_max(), highest);
    }
}
