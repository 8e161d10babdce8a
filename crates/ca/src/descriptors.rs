//! File descriptors as a thing that runs out. The last ones belong to the ledger, the administrators and the health face:
//! a caller over TCP may not take them, or a crowd of connections could keep the ledger from opening its next file.

use std::os::fd::AsRawFd;

use rustix::{
    event::{EventfdFlags, eventfd},
    process::{Resource, getrlimit},
};

use crate::limits::DESCRIPTORS_RESERVED;

/// True while the next connection would leave the reserve alone.
///
/// The kernel hands out the lowest free number, so the number of a new descriptor tells how many are open below it. Making
/// one costs a microsecond, and notices whatever else would make accepting fail: the limit of the machine, or memory.
pub(crate) fn are_left() -> bool {
    let Ok(probe) = eventfd(0, EventfdFlags::CLOEXEC) else {
        return false;
    };
    // Read each time: whoever runs the CA may change the limit of the running process.
    match getrlimit(Resource::Nofile).current {
        Some(limit) => u64::try_from(probe.as_raw_fd()).is_ok_and(|number| number < limit - reserve(limit)),
        None => true,
    }
}

fn reserve(limit: u64) -> u64 {
    DESCRIPTORS_RESERVED.min(limit / 4)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reserve_leaves_most_of_a_small_limit_to_callers() {
        assert_eq!([0, 3, 64, 256, 131_072].map(reserve), [0, 0, 16, 64, 128]);
    }
}
