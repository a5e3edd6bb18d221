//! Large buffers that are contiguous in physical memory.
//!
//! A disk fetches and stores data by itself, from a list of pieces each of which is contiguous in physical memory: 128 KiB of ordinary memory
//! are up to 32 pieces, of a huge page one. What a list costs depends on the disk; behind virtio it was a fifth of the time of a 128 KiB read
//! (`docs/adr/0094-large-buffers-lie-in-huge-pages.md`). So large buffers are cut from slabs, each a huge page where the system has them.

use std::cell::Cell;

use bytes::{Buf, BytesMut};

/// Bytes of a slab: a huge page of x86-64, and of arm64 with pages of 4 KiB.
const SLAB: usize = 2 << 20;
/// How many there are at most.
const SLABS: usize = 4;

thread_local! {
    /// Whether a bdev of this thread's reactor has a disk fetch its data.
    static DISK: Cell<bool> = const { Cell::new(false) };
}

/// Says that there is a disk that fetches data by itself. Who only copies has no use for slabs: the buffer that was used last is better, for it is
/// in the cache.
pub(crate) fn disk_is_there() {
    DISK.set(true);
}

/// Up to [`SLABS`] slabs, made when they are needed and kept.
#[derive(Default)]
pub(crate) struct Slabs(Vec<Slab>);

impl Slabs {
    /// `size` bytes of any contents, which begin at a multiple of `size`, a power of two. `None` if there is no place, or no disk.
    pub(crate) fn take(&mut self, size: usize) -> Option<BytesMut> {
        debug_assert!(size.is_power_of_two() && size <= SLAB);
        if !DISK.get() {
            return None;
        }
        let found = self.0.iter_mut().find_map(|slab| slab.take(size));
        if found.is_some() || self.0.len() == SLABS {
            return found;
        }
        self.0.push(Slab::new());
        self.0.last_mut()?.take(size)
    }

    /// Whether this is memory of a slab.
    pub(crate) fn contain(&self, buffer: &[u8]) -> bool {
        let at = buffer.as_ptr().addr();
        self.0.iter().any(|slab| (slab.begin..slab.begin + SLAB).contains(&at))
    }
}

/// Buffers are cut off one after the other; when nobody holds any of them, it begins anew. So one buffer at a time is always the same one, which
/// is still in the processor's cache.
struct Slab {
    /// What was not cut off, with a length of 0. It knows whether there is another handle to any of the memory.
    rest: BytesMut,
    /// Address of the first byte.
    begin: usize,
    /// Bytes cut off.
    used: usize,
}

impl Slab {
    fn new() -> Self {
        // Twice the size, for there is a huge page in it. What is not used of it never becomes memory.
        let mut rest = BytesMut::zeroed(2 * SLAB);
        let begin = rest.as_ptr().addr() + rest.as_ptr().align_offset(SLAB);
        advise_huge(&mut rest);
        rest.clear();
        Self { rest, begin, used: 0 }
    }

    fn take(&mut self, size: usize) -> Option<BytesMut> {
        if self.used > 0 && self.rest.try_reclaim(2 * SLAB) {
            self.used = 0;
        }
        let from = self.used.next_multiple_of(size);
        if from + size > SLAB {
            return None;
        }
        let skip = self.begin + from - self.rest.as_ptr().addr();
        // SAFETY: `begin` and the slab behind it lie within the allocation, of which `rest` is what begins at its pointer; all of it was
        // zeroed when it was made, so it is initialised.
        #[allow(unsafe_code)]
        unsafe {
            self.rest.set_len(skip + size);
        }
        self.rest.advance(skip);
        self.used = from + size;
        Some(self.rest.split())
    }
}

/// Asks for a huge page where one begins in `memory`. Where there are none it is ordinary memory.
fn advise_huge(memory: &mut BytesMut) {
    let before = memory.as_ptr().align_offset(SLAB);
    let page = &mut memory[before..before + SLAB];
    // SAFETY: the range is that of the slice; the advice changes nothing of what it holds.
    #[allow(unsafe_code)]
    let advised = unsafe { libc::madvise(page.as_mut_ptr().cast(), page.len(), libc::MADV_HUGEPAGE) };
    if advised != 0 {
        let error = std::io::Error::last_os_error();
        tracing::debug!(%error, "no huge pages for large buffers");
    }
}

#[cfg(test)]
#[path = "slabs_tests.rs"]
mod tests;
