use super::*;

#[test]
fn addresses_are_aligned_whatever_was_done_with_the_memory() {
    let buffers = AlignedBuffers::default();
    let mut out = Vec::new();
    for round in 0..3 {
        for len in [512, 4096, 5000, 128 << 10, 1 << 20, 3 << 20] {
            let buffer = buffers.take(len);
            assert!(is_aligned(&buffer, PAGE), "round {round}, {len} bytes");
            assert_eq!(buffer.len(), len);
            out.push(buffer);
        }
        for (n, buffer) in out.drain(..).enumerate() {
            match n % 2 {
                0 => buffers.give(buffer),
                _ => buffers.give_bytes(buffer.freeze()),
            }
        }
    }
}

#[test]
fn memory_is_used_again_but_not_while_somebody_has_it() {
    let buffers = AlignedBuffers::default();
    let first = buffers.take(4096);
    let address = first.as_ptr();
    let written = first.freeze();
    let held = written.clone();
    buffers.give_bytes(written);
    assert_eq!(buffers.bytes.get(), 0, "it is still held");
    buffers.give_bytes(held);
    assert_eq!(buffers.bytes.get(), 4096);
    assert_eq!(buffers.take(512).as_ptr(), address);
    assert_eq!(buffers.bytes.get(), 0);
}

#[test]
fn only_so_much_is_kept() {
    let buffers = AlignedBuffers::default();
    let out: Vec<BytesMut> = (0..3 * KEPT / LARGEST).map(|_| buffers.take(LARGEST)).collect();
    out.into_iter().for_each(|b| buffers.give(b));
    assert_eq!(buffers.bytes.get(), KEPT);
    buffers.give(page::zeroed(LARGEST * 4));
    buffers.give(BytesMut::zeroed(64));
    assert_eq!(buffers.bytes.get(), KEPT, "neither what is too large nor what is too small for its size");
}
