//! Total access to little-endian fields of fixed structures: out of range reads give zero, writes do nothing.

fn bytes<const N: usize>(b: &[u8], at: usize) -> [u8; N] {
    let mut out = [0; N];
    if let Some(src) = b.get(at..at + N) {
        out.copy_from_slice(src);
    }
    out
}

pub(crate) fn u8_at(b: &[u8], at: usize) -> u8 {
    b.get(at).copied().unwrap_or(0)
}

pub(crate) fn u16_at(b: &[u8], at: usize) -> u16 {
    u16::from_le_bytes(bytes(b, at))
}

pub(crate) fn u32_at(b: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes(b, at))
}

pub(crate) fn u64_at(b: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes(b, at))
}

pub(crate) fn array_at<const N: usize>(b: &[u8], at: usize) -> [u8; N] {
    bytes(b, at)
}

pub(crate) fn put(b: &mut [u8], at: usize, value: &[u8]) {
    if let Some(dst) = b.get_mut(at..at + value.len()) {
        dst.copy_from_slice(value);
    }
}

/// Writes `text` at `at`, cut to `len` bytes and padded with `pad` (Base 1.4.2: ASCII strings are space padded).
pub(crate) fn put_text(b: &mut [u8], at: usize, len: usize, text: &str, pad: u8) {
    if let Some(dst) = b.get_mut(at..at + len) {
        dst.fill(pad);
        let n = text.len().min(len);
        dst[..n].copy_from_slice(&text.as_bytes()[..n]);
    }
}

/// Text of `len` bytes at `at` without its padding of spaces and zeros.
pub(crate) fn text_at(b: &[u8], at: usize, len: usize) -> String {
    let raw = b.get(at..at + len).unwrap_or_default();
    let end = raw.iter().position(|&c| c == 0).unwrap_or(raw.len());
    String::from_utf8_lossy(&raw[..end]).trim_end_matches(' ').to_owned()
}
