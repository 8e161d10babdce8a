//! A signal to the process whose number a file holds, and to no other that has the number by now.

use std::{io, path::Path, time::SystemTime};

use mintage_sys::{peer::PidFd, text_file};

use crate::{config::HookSignal, limits::PID_FILE_BYTES_MAX};

/// Sends the signal.
pub(super) fn send(signal: HookSignal, pid_file: &Path) -> Result<(), String> {
    let pid = read(pid_file)?;
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
        // 1 is the supervisor of everything: a file that names it was written by mistake.
        Ok(pid) if pid > 1 => Ok(pid),
        _ => Err(format!(
            "{} holds {first:?}, which is no process's number",
            pid_file.display()
        )),
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
        send(HookSignal::Usr1, &file).unwrap();
        assert_eq!(child.wait().unwrap().signal(), Some(HookSignal::Usr1.number()));
        assert!(send(HookSignal::Hup, &file).unwrap_err().contains("no process"));
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
        assert!(send(HookSignal::Term, &file).unwrap_err().contains("stale"));
        assert!(child.try_wait().unwrap().is_none());
        child.kill().unwrap();
        child.wait().unwrap();
    }

    #[test]
    fn a_file_without_a_number_is_refused_with_what_it_holds() {
        let dir = tempfile::tempdir().unwrap();
        for text in ["", "0", "1", "-1", "nginx", "12 13", "99999999999"] {
            let file = dir.path().join("pid");
            fs::write(&file, text).unwrap();
            assert!(
                send(HookSignal::Hup, &file)
                    .unwrap_err()
                    .contains("no process's number"),
                "{text:?}"
            );
        }
        assert!(
            send(HookSignal::Hup, &dir.path().join("none"))
                .unwrap_err()
                .contains("none")
        );
    }
}
