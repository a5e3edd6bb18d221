//! What the `gen` keys hold. Their meaning is in their `mod_revision`; their value is free, and says who raised them:
//! field 15 the mark of the transaction, field 14 the id of the request it served. As messages they are empty: readers skip both.

use bytes::{BufMut, Bytes, BytesMut};

const MARK: u8 = (15 << 3) | 1;
const ORIGIN: u8 = (14 << 3) | 2;
const MARKED: usize = 9;

/// The beginning of a value put by the transaction with this mark.
pub(crate) fn marked(mark: u64) -> Bytes {
    let mut bytes = BytesMut::with_capacity(MARKED);
    bytes.put_u8(MARK);
    bytes.put_u64_le(mark);
    bytes.freeze()
}

/// The rest of it. Ids are short; what is longer than 127 bytes is left out.
pub(crate) fn with_origin(request_id: &str) -> Bytes {
    let mut bytes = BytesMut::new();
    if let Ok(len @ 1..=127) = u8::try_from(request_id.len()) {
        bytes.put_u8(ORIGIN);
        bytes.put_u8(len);
        bytes.put_slice(request_id.as_bytes());
    }
    bytes.freeze()
}

/// The request id in the value of a generation, if the transaction had one.
pub(crate) fn origin_of(value: &[u8]) -> Option<&str> {
    let (tag, rest) = value.get(MARKED..)?.split_first()?;
    let (len, text) = rest.split_first()?;
    (*tag == ORIGIN && usize::from(*len) == text.len()).then(|| std::str::from_utf8(text).ok())?
}

#[cfg(test)]
#[path = "generation_tests.rs"]
mod tests;
