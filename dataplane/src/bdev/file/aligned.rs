//! Buffers whose address suits I/O that goes around the page cache, used again.
//!
//! Data from the network is where the network left it. Devices want an address that is a multiple of theirs (`STATX_DIOALIGN`,
//! 4 for most NVMe disks, 512 for others), so what does not suit is copied into, or read through, one of these.

use std::cell::{Cell, RefCell};

use bytes::{Bytes, BytesMut};

use crate::page::{self, PAGE};

/// Smallest and largest buffer that is kept, bytes; sizes are powers of two.
const SMALLEST: usize = 4 << 10;
const LARGEST: usize = 1 << 20;
const CLASSES: usize = (LARGEST.ilog2() - SMALLEST.ilog2()) as usize + 1;
/// All that are kept together, bytes.
const KEPT: usize = 8 << 20;

/// The free buffers of the process's file bdevs. They begin at pages, which every device takes. How many are in use is bounded by the I/O in flight.
#[derive(Default)]
pub(super) struct AlignedBuffers {
    /// By size; each has its size as length.
    classes: [RefCell<Vec<BytesMut>>; CLASSES],
    bytes: Cell<usize>,
}

/// Index of the size that holds `len` bytes.
fn class(len: usize) -> usize {
    (len.next_power_of_two().max(SMALLEST).ilog2() - SMALLEST.ilog2()) as usize
}

/// Whether a buffer can be given to a device that wants addresses to be a multiple of `align`.
pub(super) fn is_aligned(buf: &[u8], align: usize) -> bool {
    buf.as_ptr().addr().is_multiple_of(align)
}

impl AlignedBuffers {
    /// A buffer of `len` bytes, of any contents.
    pub(super) fn take(&self, len: usize) -> BytesMut {
        let kept = self.classes.get(class(len)).and_then(|c| c.borrow_mut().pop());
        let mut buffer = match kept {
            Some(buffer) => {
                self.bytes.set(self.bytes.get() - buffer.len());
                buffer
            }
            None => page::zeroed(len.next_power_of_two().max(SMALLEST)),
        };
        buffer.truncate(len);
        buffer
    }

    /// Takes a buffer back, if there are not enough yet.
    pub(super) fn give(&self, mut buffer: BytesMut) {
        let size = buffer.len().next_power_of_two().max(SMALLEST);
        let fits = size <= LARGEST && buffer.capacity() >= size && is_aligned(&buffer, PAGE);
        if !fits || self.bytes.get() + size > KEPT {
            return;
        }
        buffer.resize(size, 0);
        self.bytes.set(self.bytes.get() + size);
        self.classes[class(size)].borrow_mut().push(buffer);
    }

    /// Takes back what was written from it, if nobody else holds it.
    pub(super) fn give_bytes(&self, spent: Bytes) {
        if let Ok(buffer) = spent.try_into_mut() {
            self.give(buffer);
        }
    }
}

#[cfg(test)]
#[path = "aligned_tests.rs"]
mod tests;
