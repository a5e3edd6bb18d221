//! Memory for data that begins at a page.
//!
//! Processors copy with one instruction (`rep movsb`), and so does the C library. Some take half as long again when the addresses are
//! not multiples of a cache line, and four times as long when the target is a few bytes behind the source within a page. Where the
//! allocator puts large memory (16 bytes behind a page) one or the other happens all the time (`docs/adr/0080-data-begins-at-a-page.md`).

use bytes::{Buf, Bytes, BytesMut};

/// Bytes of a page.
pub(crate) const PAGE: usize = 4096;
/// Bytes of a cache line: what addresses should be a multiple of at least.
pub(crate) const LINE: usize = 64;

/// `len` zeroed bytes that begin at a page and, unless the allocator moves what becomes smaller, end where their memory ends.
pub(crate) fn zeroed(len: usize) -> BytesMut {
    let mut memory = vec![0; len + PAGE];
    let mut before = memory.as_ptr().align_offset(PAGE);
    memory.truncate(before + len);
    memory.shrink_to_fit();
    if memory.as_ptr().align_offset(PAGE) != before {
        memory = vec![0; len + PAGE];
        before = memory.as_ptr().align_offset(PAGE);
    }
    let mut memory = Bytes::from(memory);
    memory.advance(before);
    let mut memory = memory.try_into_mut().unwrap_or_else(|shared| BytesMut::from(&shared[..]));
    memory.truncate(len);
    memory
}

/// A copy of `bytes` that begins at a page.
pub(crate) fn copied(bytes: &[u8]) -> BytesMut {
    let mut memory = zeroed(bytes.len());
    memory.copy_from_slice(bytes);
    memory
}

/// Skips up to a cache line of an empty buffer, so that `offset` bytes behind its start a cache line begins.
pub(crate) fn line_up(buffer: &mut BytesMut, offset: usize) {
    let at = buffer.as_ptr().addr() + offset;
    let skip = at.next_multiple_of(LINE) - at;
    buffer.resize(skip, 0);
    buffer.advance(skip);
}

#[cfg(test)]
#[path = "page_tests.rs"]
mod tests;
