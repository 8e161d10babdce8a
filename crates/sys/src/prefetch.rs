//! A hint to the processor that memory will be read soon, for look-ups in tables that are larger than its caches.

/// Has the cache line of `place` fetched without waiting for it; false where that cannot be asked for.
#[inline(always)]
pub fn line_of<T>(place: &T) -> bool {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: every x86-64 processor has the instruction, which changes nothing that a program sees and faults at no address.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(std::ptr::from_ref(place).cast()) };
        true
    }
    #[cfg(not(target_arch = "x86_64"))]
    {
        let _ = place;
        false
    }
}
