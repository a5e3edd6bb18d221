//! Memory to receive into, lent to the connections of a thread.
//!
//! A connection has some while bytes of it are there that are not consumed, or in use by its commands. With nothing there it has none, however
//! much it received before: what thousands of connections take depends on how many of them are busy. And the memory that was used
//! last is the next one's, so it is in the processor's cache (ADR 0095).

use std::cell::RefCell;

use bytes::BytesMut;

/// Sizes of chunks: many commands, two PDUs of 128 KiB, a PDU of 1 MiB; each with room for headers. One PDU fits, so no chunk ever grows.
pub(crate) const SIZES: [usize; 3] = [160 << 10, 264 << 10, (1 << 20) + (4 << 10)];
/// What is kept for the next, bytes.
const KEPT: usize = 2 << 20;

/// Chunks that nobody uses, by size.
#[derive(Default)]
struct Free {
    chunks: [Vec<BytesMut>; SIZES.len()],
    bytes: usize,
}

thread_local! {
    /// Connections do not leave their thread.
    static FREE: RefCell<Free> = RefCell::default();
}

impl Free {
    fn take(&mut self, len: usize) -> BytesMut {
        let Some(class) = SIZES.iter().position(|size| *size >= len) else {
            return BytesMut::with_capacity(len);
        };
        match self.chunks[class].pop() {
            Some(chunk) => {
                self.bytes -= SIZES[class];
                chunk
            }
            None => BytesMut::with_capacity(SIZES[class]),
        }
    }

    fn give(&mut self, class: usize, chunk: BytesMut) {
        if self.bytes + SIZES[class] <= KEPT {
            self.bytes += SIZES[class];
            self.chunks[class].push(chunk);
        }
    }
}

/// Makes an empty buffer begin where its chunk begins, if nobody holds a part of that; the size of the chunk then.
pub(crate) fn rewind(buffer: &mut BytesMut) -> Option<usize> {
    // A part of a chunk that others hold is never as large as the chunk.
    let class = SIZES.iter().rposition(|size| buffer.try_reclaim(*size))?;
    (buffer.capacity() == SIZES[class]).then_some(class)
}

/// Room for `len` bytes in all behind what is in `buffer`, in another chunk.
pub(crate) fn replace(buffer: &mut BytesMut, len: usize) {
    let mut chunk = FREE.with_borrow_mut(|free| free.take(len));
    chunk.extend_from_slice(buffer);
    let mut before = std::mem::replace(buffer, chunk);
    before.clear();
    give(&mut before);
}

/// Takes the chunk of an empty buffer back. One that others hold a part of stays, until it is empty the next time: there is room in it.
pub(crate) fn give(buffer: &mut BytesMut) {
    if buffer.capacity() == 0 {
        return;
    }
    match rewind(buffer) {
        Some(class) => FREE.with_borrow_mut(|free| free.give(class, std::mem::take(buffer))),
        // Larger than all PDUs should be.
        None if buffer.capacity() > SIZES[SIZES.len() - 1] => *buffer = BytesMut::new(),
        None => {}
    }
}

/// Bytes that are kept on this thread.
#[cfg(test)]
pub(crate) fn kept() -> usize {
    FREE.with_borrow(|free| free.bytes)
}

#[cfg(test)]
#[path = "receive_chunks_tests.rs"]
mod tests;
