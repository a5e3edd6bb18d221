//! Buffers that begin at pages, used again.
//!
//! Memory from the allocator would be zeroed for every read and, in the sizes of large I/O, often be fetched from and given back to the
//! kernel, which costs more than the read itself. What comes out of here holds what was in it before, maybe of another host: a bdev
//! fills the whole of a buffer or fails ([`crate::bdev::Bdev::read`]), and the data of a read that failed is never sent.

use std::cell::{Cell, RefCell};

use bytes::{Bytes, BytesMut};
use vda_nvme::limits::{SMALLEST_BUFFER as SMALLEST, buffer_size};

use crate::page::{self, PAGE};
use crate::slabs::Slabs;

/// Largest buffer that is kept, bytes; sizes are powers of two.
const LARGEST: usize = 1 << 20;
/// From this size on a buffer is cut from a slab, if there is place.
const LARGE: usize = 32 << 10;
const CLASSES: usize = (LARGEST.ilog2() - SMALLEST.ilog2()) as usize + 1;
/// All that are kept together, bytes.
const KEPT: usize = 8 << 20;

/// The free buffers of a target, or of its file bdevs. How many are in use is bounded by the I/O in flight.
#[derive(Default)]
pub(crate) struct PageBuffers {
    /// By size; each has its whole capacity as length.
    classes: [RefCell<Vec<BytesMut>>; CLASSES],
    bytes: Cell<usize>,
    slabs: RefCell<Slabs>,
}

/// Index of the size that holds `len` bytes.
fn class(len: usize) -> usize {
    (buffer_size(len.max(1)).ilog2() - SMALLEST.ilog2()) as usize
}

impl PageBuffers {
    /// A buffer of `len` bytes, of any contents.
    pub(crate) fn take(&self, len: usize) -> BytesMut {
        let size = buffer_size(len);
        let cut = (LARGE..=LARGEST).contains(&size).then(|| self.slabs.borrow_mut().take(size)).flatten();
        let mut buffer = cut.or_else(|| self.kept(size)).unwrap_or_else(|| page::zeroed(size));
        buffer.truncate(len);
        if cfg!(debug_assertions) {
            // A bdev that does not fill all of it shows in every test.
            buffer.fill(0xa5);
        }
        buffer
    }

    fn kept(&self, size: usize) -> Option<BytesMut> {
        let buffer = self.classes.get(class(size))?.borrow_mut().pop()?;
        self.bytes.set(self.bytes.get() - buffer.len());
        Some(buffer)
    }

    /// Takes a buffer back, whole or shortened, if there is not enough memory here yet. A slab finds out by itself what nobody holds.
    pub(crate) fn give(&self, mut buffer: BytesMut) {
        let size = buffer.capacity();
        let fits = size.is_power_of_two()
            && (SMALLEST..=LARGEST).contains(&size)
            && buffer.as_ptr().addr().is_multiple_of(PAGE)
            && !self.slabs.borrow().contain(&buffer);
        if !fits || self.bytes.get() + size > KEPT {
            return;
        }
        buffer.resize(size, 0);
        self.bytes.set(self.bytes.get() + size);
        self.classes[class(size)].borrow_mut().push(buffer);
    }

    /// Takes back what was sent or written from it, if nobody else holds it.
    pub(crate) fn give_bytes(&self, spent: Bytes) {
        if let Ok(buffer) = spent.try_into_mut() {
            self.give(buffer);
        }
    }
}

#[cfg(test)]
#[path = "page_buffers_tests.rs"]
mod tests;
