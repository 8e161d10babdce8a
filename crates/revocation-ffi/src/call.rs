//! The edge of a call: panics stop here, and texts go out in bounded buffers.

use std::{
    ffi::c_char,
    panic::{AssertUnwindSafe, catch_unwind},
};

/// Runs `call`; `None` when it panicked. What a panic leaves behind is behind atomics that are stored to whole.
pub(crate) fn guarded<T>(call: impl FnOnce() -> T) -> Option<T> {
    catch_unwind(AssertUnwindSafe(call)).ok()
}

/// Writes as much of `problem` as fits with its terminating zero, cut between characters.
///
/// # Safety
/// `to` is null or has `len` octets that may be written to.
pub(crate) unsafe fn write_error(problem: &str, to: *mut c_char, len: usize) {
    if to.is_null() || len == 0 {
        return;
    }
    let end = problem.floor_char_boundary(len - 1);
    let text = &problem.as_bytes()[..end];
    // SAFETY: `end < len` octets may be written to, and a text of ours does not overlap the caller's buffer.
    unsafe { std::ptr::copy_nonoverlapping(text.as_ptr(), to.cast(), end) };
    // SAFETY: `end < len`.
    let last = unsafe { to.add(end) };
    // SAFETY: inside the buffer.
    unsafe { last.write(0) };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_stops_at_the_edge() {
        assert_eq!(guarded(|| 1), Some(1));
        assert_eq!(guarded(|| -> u8 { panic!("inside") }), None);
    }

    #[test]
    fn an_error_fits_its_buffer() {
        for (len, expected) in [
            (0, &[9, 9, 9, 9, 9][..]),
            (1, &[0, 9, 9, 9, 9]),
            (3, &[b'a', 0, 9, 9, 9]),
        ] {
            let mut buffer = [9_u8; 5];
            // SAFETY: `len` is at most the buffer's.
            unsafe { write_error("a\u{e9}b", buffer.as_mut_ptr().cast(), len) };
            assert_eq!(buffer, *expected, "{len}");
        }
        // SAFETY: null is allowed.
        unsafe { write_error("a", std::ptr::null_mut(), 5) };
    }
}
