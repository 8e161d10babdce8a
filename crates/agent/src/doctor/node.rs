//! What the kernel of this node can do, and whether its clock can be right.

use std::{io, os::fd::AsFd, os::unix::net::UnixStream, time::Duration};

use mintage_identity::UnixTime;
use mintage_sys::{
    dir::Dir,
    peer::{PidFd, peer_pidfd},
};

use super::notes::{Notes, span};

/// Clocks of two machines that are kept in step differ by less.
const SKEW_MAX: Duration = Duration::from_secs(2);

/// How callers are held, and that files can be opened beneath a folder.
pub(super) fn kernel(notes: &mut Notes) {
    let asked = UnixStream::pair().and_then(|(ours, theirs)| {
        let held = peer_pidfd(ours.as_fd());
        drop(theirs);
        held
    });
    callers_held(
        notes,
        asked.map(drop),
        PidFd::open(std::process::id().cast_signed()).map(drop),
    );
    match Dir::open("/proc").and_then(|proc| proc.open_dir_beneath("self")) {
        // `self` is a link, which is refused: the call is there and does what it must.
        Err(error) if error.raw_os_error() == Some(rustix::io::Errno::LOOP.raw_os_error()) => {
            notes.ok("kernel", "openat2 keeps to its folder".to_owned());
        }
        Ok(_) => notes.fail(
            "kernel",
            "openat2 followed a link that it must not follow".to_owned(),
            "deliver nothing on this machine; something between agent and kernel takes the call over",
        ),
        Err(error) => notes.fail(
            "kernel",
            format!("openat2 does not work: {error}"),
            "it needs Linux 5.6; a container's seccomp profile may forbid it",
        ),
    }
}

/// How callers can be held, by what the two calls answered.
fn callers_held(notes: &mut Notes, by_socket: io::Result<()>, by_number: io::Result<()>) {
    match (by_socket, by_number) {
        (Ok(()), _) => notes.ok("kernel", "callers of the socket are held by SO_PEERPIDFD".to_owned()),
        (Err(error), Ok(())) if error.kind() == io::ErrorKind::Unsupported => notes.warn(
            "kernel",
            "SO_PEERPIDFD is missing: callers are held by their number and start time".to_owned(),
            "a process that takes over a caller's number in between is noticed by its start time alone; use Linux 6.5 or newer",
        ),
        (Err(error), _) => notes.fail(
            "kernel",
            format!("callers of the socket cannot be held: {error}"),
            "pidfd_open(2) needs Linux 5.3; a container's seccomp profile may forbid it",
        ),
    }
}

/// Times that the CA signed lie in the past, unless this clock or the CA's is wrong.
pub(super) fn clock(notes: &mut Notes, signed: impl Iterator<Item = UnixTime>, now: UnixTime) {
    let Some(latest) = signed.max() else { return };
    match latest.since(now) {
        ahead if ahead > SKEW_MAX => notes.fail(
            "clock",
            format!("the CA signed something {} after what this clock shows", span(ahead)),
            "set the clock of this node, or of the CA (timedatectl, chronyc tracking): certificates are refused by it",
        ),
        _ => notes.ok(
            "clock",
            format!("the last time that the CA signed is {} ago", span(now.since(latest))),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::{super::notes::Level, *};

    #[test]
    fn a_time_that_was_signed_cannot_lie_ahead() {
        let at = UnixTime::from_seconds;
        let failed = |signed: &[i64], now: i64| {
            let mut notes = Notes::default();
            clock(&mut notes, signed.iter().map(|s| at(*s)), at(now));
            notes.report().failed()
        };
        assert!(failed(&[100, 90], 97));
        assert!(!failed(&[100, 90], 98));
        assert!(!failed(&[100], 5000) && !failed(&[], 0));
    }

    #[test]
    fn a_kernel_without_handles_by_socket_is_warned_of_and_one_without_any_cannot_do() {
        let judged = |by_socket: io::Result<()>, by_number: io::Result<()>| {
            let mut notes = Notes::default();
            callers_held(&mut notes, by_socket, by_number);
            let report = notes.report();
            (report.findings()[0].level, report.text())
        };
        let refused = || io::Error::from(io::ErrorKind::PermissionDenied);
        let unsupported = || io::Error::from(io::ErrorKind::Unsupported);
        assert_eq!(judged(Ok(()), Err(refused())).0, Level::Ok);
        let (level, told) = judged(Err(unsupported()), Ok(()));
        assert!(level == Level::Warn && told.contains("Linux 6.5"), "{told}");
        for (by_socket, by_number) in [
            (unsupported(), Err(unsupported())),
            (unsupported(), Err(refused())),
            (refused(), Ok(())),
        ] {
            let (level, told) = judged(Err(by_socket), by_number);
            assert!(level == Level::Fail && told.contains("seccomp"), "{told}");
        }
    }

    #[test]
    fn this_kernel_can_run_an_agent() {
        let mut notes = Notes::default();
        kernel(&mut notes);
        let report = notes.report();
        assert!(!report.failed() && report.findings().len() == 2, "{}", report.text());
    }
}
