//! File descriptors as a thing that runs out. The last ones belong to the stream to the CA, the deliveries, their hooks and
//! the readiness page: callers of the socket may not take them, or a crowd could keep certificates from being renewed and
//! nobody could ask why.

use std::os::fd::AsRawFd;

use mintage_sys::process::file_descriptors_max;
use rustix::event::{EventfdFlags, eventfd};

use crate::limits::DESCRIPTORS_RESERVED;

/// Why no caller can be taken now; `None` while there is room.
///
/// The kernel hands out the lowest free number, so the number of a new descriptor tells how many are open below it. Making
/// one costs a microsecond, and notices whatever else would make accepting fail: the limit of the machine, or memory.
pub(crate) fn shortage() -> Option<String> {
    match eventfd(0, EventfdFlags::CLOEXEC) {
        // Read each time: whoever runs the agent may change the limit of the running process.
        Ok(probe) => judge(u64::try_from(probe.as_raw_fd()).unwrap_or(0), file_descriptors_max()?),
        Err(error) => Some(match file_descriptors_max() {
            Some(limit) if error == rustix::io::Errno::MFILE => told(limit, limit),
            _ => format!("{error}; see the limits of the machine (fs.file-max), or lower [limits]"),
        }),
    }
}

fn judge(used: u64, limit: u64) -> Option<String> {
    (used >= limit - reserve(limit)).then(|| told(used, limit))
}

fn told(used: u64, limit: u64) -> String {
    format!(
        "{used} of {limit} file descriptors are in use, and the last {} are for the agent itself; raise LimitNOFILE= of its \
         unit, or lower [limits]",
        reserve(limit)
    )
}

fn reserve(limit: u64) -> u64 {
    DESCRIPTORS_RESERVED.min(limit / 4)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn callers_leave_the_reserve_alone_and_are_told_how_many_are_in_use() {
        assert_eq!([0, 3, 64, 1024, 16_384].map(reserve), [0, 0, 16, 256, 256]);
        assert_eq!(judge(767, 1024), None);
        let told = judge(768, 1024).unwrap();
        assert!(told.contains("768 of 1024") && told.contains("LimitNOFILE"), "{told}");
        assert!(judge(0, 0).is_some());
        assert_eq!(shortage(), None, "this test needs few");
    }
}
