//! A signal to the process whose number a file holds or the configuration gives, and to no other that has the number by
//! now.

use std::{collections::BTreeMap, io, path::Path, time::SystemTime};

use mintage_sys::{peer::PidFd, text_file};

use crate::{
    config::{Delivery, HookAction, HookSignal, SignalTarget},
    limits::PID_FILE_BYTES_MAX,
};

/// Inode of the machine's first pid namespace (`PROC_PID_INIT_INO`, the same on every kernel since 3.8).
const FIRST_PID_NAMESPACE: u64 = 0xEFFF_FFFC;

/// The processes that a delivery's hooks name by number, each held from the moment the configuration was taken over: a number
/// that is another's by then is never meant.
#[derive(Debug, Default)]
pub(crate) struct Pinned(BTreeMap<i32, Result<PidFd, String>>);

impl Pinned {
    /// Holds those of a delivery, as they run now.
    pub(crate) fn of(delivery: &Delivery) -> Self {
        let actions = delivery.hooks().iter().map(|hook| &hook.action);
        let numbers = actions.filter_map(|action| match action {
            HookAction::Signal {
                target: SignalTarget::Pid(pid),
                ..
            } => Some(*pid),
            _ => None,
        });
        let open = |pid| {
            check_may_be_meant(pid, Surroundings::ours())?;
            PidFd::open(pid).map_err(|error| match error.kind() {
                io::ErrorKind::NotFound => format!("no process {pid} ran when the configuration was read"),
                _ => format!("process {pid}: {error}"),
            })
        };
        Self(numbers.map(|pid| (pid, open(pid))).collect())
    }

    fn send(&self, signal: HookSignal, pid: i32) -> Result<(), String> {
        let remedy = "set pid to the number it has now and SIGHUP the agent; pid_file follows a process by itself";
        let process = match self.0.get(&pid) {
            Some(Ok(process)) => process,
            Some(Err(problem)) => return Err(format!("{problem}; {remedy}")),
            None => return Err(format!("process {pid} is not held; SIGHUP the agent")),
        };
        let gone = || format!("process {pid} has ended; {remedy}");
        if !process.is_alive() {
            return Err(gone());
        }
        send_to(process, pid, signal, gone)
    }
}

/// Sends the signal.
pub(super) fn send(signal: HookSignal, target: &SignalTarget, pinned: &Pinned) -> Result<(), String> {
    match target {
        SignalTarget::Pid(pid) => pinned.send(signal, *pid),
        SignalTarget::PidFile(pid_file) => send_by_file(signal, pid_file),
    }
}

fn send_by_file(signal: HookSignal, pid_file: &Path) -> Result<(), String> {
    let pid = read(pid_file)?;
    check_may_be_meant(pid, Surroundings::ours()).map_err(|problem| format!("{}: {problem}", pid_file.display()))?;
    let gone = || {
        format!(
            "no process {pid} runs, which {} names; was it started?",
            pid_file.display()
        )
    };
    let process = PidFd::open(pid).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => gone(),
        _ => format!("process {pid}: {error}"),
    })?;
    check_is_meant(pid, pid_file)?;
    // What was looked at by its number is what the handle holds, as long as that has not ended.
    if !process.is_alive() {
        return Err(gone());
    }
    send_to(&process, pid, signal, gone)
}

fn send_to(process: &PidFd, pid: i32, signal: HookSignal, gone: impl Fn() -> String) -> Result<(), String> {
    process.send_signal(signal.number()).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => gone(),
        io::ErrorKind::PermissionDenied => format!(
            "process {pid} belongs to another user, and the agent lacks CAP_KILL; see deploy/mintage-agent-hooks.conf"
        ),
        _ => format!("process {pid}: {error}"),
    })
}

fn read(pid_file: &Path) -> Result<i32, String> {
    let text =
        text_file::read(pid_file, PID_FILE_BYTES_MAX).map_err(|problem| format!("{} {problem}", pid_file.display()))?;
    let first = text.lines().next().unwrap_or_default().trim();
    match first.parse::<i32>() {
        Ok(pid) if pid > 0 => Ok(pid),
        _ => Err(format!(
            "{} holds {first:?}, which is no process's number",
            pid_file.display()
        )),
    }
}

/// Where the agent runs, as far as it tells whom number 1 means.
#[derive(Debug, Clone, Copy)]
struct Surroundings {
    pid: i32,
    /// 0 for one outside of our pid namespace.
    parent: i32,
    /// In the machine's first pid namespace, or it cannot be told.
    first_namespace: bool,
}

impl Surroundings {
    fn ours() -> Self {
        use std::os::unix::fs::MetadataExt;
        let raw = |pid: rustix::process::Pid| pid.as_raw_nonzero().get();
        let namespace = std::fs::metadata("/proc/self/ns/pid").map(|meta| meta.ino());
        Self {
            pid: raw(rustix::process::getpid()),
            parent: rustix::process::getppid().map_or(0, raw),
            first_namespace: namespace.ok().is_none_or(|inode| inode == FIRST_PID_NAMESPACE),
        }
    }
}

/// Nobody means the agent itself. Number 1 is the machine's init, or the supervisor that started the agent, and then a
/// mistake; in the pid namespace of another container it is that container's main process.
fn check_may_be_meant(pid: i32, ours: Surroundings) -> Result<(), String> {
    match pid {
        _ if pid == ours.pid => Err(format!(
            "process {pid} is the agent itself, no process's number to signal"
        )),
        1 if ours.first_namespace => Err("process 1 is this machine's init, no process's number to signal".to_owned()),
        1 if ours.parent == 1 => {
            Err("process 1 is the agent's own supervisor, no process's number to signal".to_owned())
        }
        _ => Ok(()),
    }
}

/// A process that began after its file was written took over the number of one that has ended. Both times are whole
/// seconds or coarser, so a second is allowed between them; the file is read again, in case it changed meanwhile.
fn check_is_meant(pid: i32, pid_file: &Path) -> Result<(), String> {
    let of = |what: &str, error: io::Error| format!("{what}: {error}");
    let written = std::fs::metadata(pid_file)
        .and_then(|meta| meta.modified())
        .map_err(|error| of(&pid_file.display().to_string(), error))?;
    // The folder of a process in /proc is made when it is first looked at, so its own times say nothing.
    let began = began(pid).map_err(|error| of(&format!("process {pid}"), error))?;
    let slack = std::time::Duration::from_secs(2);
    if began.duration_since(written).is_ok_and(|later| later > slack) || read(pid_file)? != pid {
        return Err(format!(
            "process {pid} began after {} was written: the file is stale; start its service anew",
            pid_file.display()
        ));
    }
    Ok(())
}

/// When a process began: field 22 of /proc/PID/stat in ticks since boot (proc(5)), and CLOCK_BOOTTIME for how long ago that
/// was.
fn began(pid: i32) -> io::Result<SystemTime> {
    let bad = || io::Error::new(io::ErrorKind::InvalidData, "/proc is not as proc(5) describes it");
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let after_name = stat.rsplit_once(')').ok_or_else(bad)?.1;
    let ticks: u64 = after_name
        .split_ascii_whitespace()
        .nth(19)
        .and_then(|field| field.parse().ok())
        .ok_or_else(bad)?;
    let uptime = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    let per_second = rustix::param::clock_ticks_per_second();
    let age_ms = (u64::try_from(uptime.tv_sec).map_err(|_| bad())? * 1000)
        .saturating_sub(ticks.saturating_mul(1000) / per_second.max(1));
    SystemTime::now()
        .checked_sub(std::time::Duration::from_millis(age_ms))
        .ok_or_else(bad)
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::process::ExitStatusExt, process::Command};

    use super::*;

    #[test]
    fn the_process_of_the_file_gets_the_signal() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("pid");
        let mut child = Command::new("sleep").arg("600").spawn().unwrap();
        fs::write(&file, format!("{}\n", child.id())).unwrap();
        send_by_file(HookSignal::Usr1, &file).unwrap();
        assert_eq!(child.wait().unwrap().signal(), Some(HookSignal::Usr1.number()));
        assert!(send_by_file(HookSignal::Hup, &file).unwrap_err().contains("no process"));
    }

    #[test]
    fn a_process_that_began_after_the_file_was_written_is_not_meant() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("pid");
        let mut child = Command::new("sleep").arg("600").spawn().unwrap();
        fs::write(&file, child.id().to_string()).unwrap();
        let long_ago = SystemTime::now() - std::time::Duration::from_secs(60);
        fs::File::options()
            .write(true)
            .open(&file)
            .unwrap()
            .set_modified(long_ago)
            .unwrap();
        assert!(send_by_file(HookSignal::Term, &file).unwrap_err().contains("stale"));
        assert!(child.try_wait().unwrap().is_none());
        child.kill().unwrap();
        child.wait().unwrap();
    }

    fn pinned(pid: i32) -> Pinned {
        let hook = crate::config::Hook::new(HookAction::Signal {
            signal: HookSignal::Usr1,
            target: SignalTarget::Pid(pid),
        });
        let entry = mintage_identity::EntryName::parse("web").unwrap();
        Pinned::of(&Delivery::new(entry, "/r").unwrap().with_hooks(vec![hook]).unwrap())
    }

    #[test]
    fn the_process_of_a_number_is_held_and_no_other_one_is_meant_once_it_has_ended() {
        let mut child = Command::new("sleep").arg("600").spawn().unwrap();
        let pid = i32::try_from(child.id()).unwrap();
        let (target, held) = (SignalTarget::Pid(pid), pinned(pid));
        send(HookSignal::Usr1, &target, &held).unwrap();
        assert_eq!(child.wait().unwrap().signal(), Some(HookSignal::Usr1.number()));
        // Waited for, its number is free for others; what is held is still the one that ended.
        let told = send(HookSignal::Usr1, &target, &held).unwrap_err();
        assert!(
            told.contains("has ended") && told.contains("SIGHUP the agent"),
            "{told}"
        );
        let told = send(HookSignal::Usr1, &target, &pinned(pid)).unwrap_err();
        assert!(
            told.contains("no process") && told.contains("SIGHUP the agent"),
            "{told}"
        );
    }

    #[test]
    fn number_1_is_meant_only_in_another_containers_namespace_and_the_agent_never() {
        let of = |pid, parent, first_namespace| Surroundings {
            pid,
            parent,
            first_namespace,
        };
        // In `docker run --pid container:web` the agent's parent is outside.
        assert_eq!(check_may_be_meant(1, of(40, 0, false)), Ok(()));
        assert_eq!(check_may_be_meant(1, of(40, 7, false)), Ok(()));
        for (pid, ours) in [
            (1, of(40, 0, true)),
            (1, of(40, 1, false)),
            (1, of(1, 0, false)),
            (40, of(40, 0, false)),
        ] {
            let told = check_may_be_meant(pid, ours).unwrap_err();
            assert!(told.contains("no process's number to signal"), "{told}");
        }
        assert_eq!(check_may_be_meant(41, of(40, 1, true)), Ok(()));
        let own = i32::try_from(std::process::id()).unwrap();
        assert!(
            send(HookSignal::Usr1, &SignalTarget::Pid(own), &pinned(own))
                .unwrap_err()
                .contains("itself")
        );
    }

    #[test]
    fn a_file_without_a_number_is_refused_with_what_it_holds() {
        let dir = tempfile::tempdir().unwrap();
        for text in ["", "0", "-1", "nginx", "12 13", "99999999999"] {
            let file = dir.path().join("pid");
            fs::write(&file, text).unwrap();
            assert!(
                send_by_file(HookSignal::Hup, &file)
                    .unwrap_err()
                    .contains("no process's number"),
                "{text:?}"
            );
        }
        assert!(
            send_by_file(HookSignal::Hup, &dir.path().join("none"))
                .unwrap_err()
                .contains("none")
        );
    }
}
