//! glibc's allocator, told what a data plane does with memory.

/// From this size on memory comes from the kernel and goes back to it, bytes: above every buffer of an I/O.
#[cfg(target_env = "gnu")]
const FROM_KERNEL: libc::c_int = 256 << 10;
/// So much free memory at the end of the heap is kept, bytes.
#[cfg(target_env = "gnu")]
const KEPT_FREE: libc::c_int = 8 << 20;

/// Keeps memory of buffers in the process. By default buffers of 128 KiB and more are fetched from the kernel and given back each time,
/// and zeroed by it page by page, which costs more than the I/O. To be called at the start.
pub fn tune() {
    #[cfg(target_env = "gnu")]
    for (parameter, value) in [(libc::M_MMAP_THRESHOLD, FROM_KERNEL), (libc::M_TRIM_THRESHOLD, KEPT_FREE)] {
        // SAFETY: sets a parameter of the allocator, under the allocator's own lock; the values are in range.
        #[allow(unsafe_code)]
        let done = unsafe { libc::mallopt(parameter, value) };
        debug_assert_eq!(done, 1, "mallopt({parameter}, {value})");
    }
}
