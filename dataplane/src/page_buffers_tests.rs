use super::*;
use crate::slabs;

#[test]
fn memory_is_used_again() {
    used_again();
    slabs::disk_is_there();
    used_again();
}

fn used_again() {
    let buffers = PageBuffers::default();
    for len in [512, 4096, 5000, 131_072, 1 << 20] {
        let first = buffers.take(len);
        let at = first.as_ptr();
        assert!(at.addr().is_multiple_of(PAGE), "{len} bytes");
        buffers.give_bytes(first.freeze());
        let second = buffers.take(len);
        assert_eq!((second.len(), second.as_ptr()), (len, at), "{len} bytes");
        // As an lvol does with what lies in two clusters.
        let mut second = second;
        let mut head = second.split_to(len / 2);
        head.unsplit(second);
        buffers.give_bytes(head.freeze());
        assert_eq!(buffers.take(len).as_ptr(), at, "{len} bytes, after they were split");
    }
}

#[test]
fn what_somebody_still_holds_is_not_used_again() {
    let buffers = PageBuffers::default();
    let sent = buffers.take(4096).freeze();
    let held = sent.clone();
    buffers.give_bytes(sent);
    assert_ne!(buffers.take(4096).as_ptr(), held.as_ptr());
    assert_eq!(buffers.bytes.get(), 0);
    let at = held.as_ptr();
    buffers.give_bytes(held);
    assert_eq!((buffers.bytes.get(), buffers.take(512).as_ptr()), (4096, at));
}

/// A slab gives it out again when nobody holds anything of it: kept here too, it would be given to two, or the slab never be free.
#[test]
fn what_a_slab_will_give_again_is_not_kept_as_well() {
    slabs::disk_is_there();
    let buffers = PageBuffers::default();
    let first = buffers.take(LARGE);
    let at = first.as_ptr();
    buffers.give(first);
    assert_eq!(buffers.bytes.get(), 0);
    let again = buffers.take(LARGE);
    assert_eq!(again.as_ptr(), at);
    let other = buffers.take(LARGE);
    assert_ne!(other.as_ptr(), at);
    // Without a place in a slab it is ordinary memory, which is kept.
    let full: Vec<_> = (0..=8).map(|_| buffers.take(LARGEST)).collect();
    let last = full.into_iter().last().expect("some");
    let ordinary = last.as_ptr();
    buffers.give_bytes(last.freeze());
    assert_eq!(buffers.bytes.get(), LARGEST);
    let full: Vec<_> = (0..8).map(|_| buffers.take(LARGEST)).collect();
    assert!(full.iter().any(|b| b.as_ptr() == ordinary));
}

#[test]
fn only_so_much_is_kept() {
    let buffers = PageBuffers::default();
    let many: Vec<_> = (0..2 * KEPT / (128 << 10)).map(|_| buffers.take(128 << 10)).collect();
    many.into_iter().for_each(|b| buffers.give_bytes(b.freeze()));
    assert_eq!(buffers.bytes.get(), KEPT);
    buffers.give_bytes(Bytes::from(vec![0; LARGEST * 2]));
    buffers.give_bytes(Bytes::from_static(&[0; 4096]));
    buffers.give(page::zeroed(LARGEST * 4));
    buffers.give(BytesMut::zeroed(64));
    assert_eq!(buffers.bytes.get(), KEPT);
    let few = PageBuffers::default();
    few.give(page::zeroed(2 * PAGE).split_off(PAGE / 2));
    assert_eq!(few.bytes.get(), 0, "not at a page");
}

#[test]
fn every_size_has_its_class() {
    assert_eq!([1, 4096, 4097, 8192, LARGEST].map(class), [0, 0, 1, 1, CLASSES - 1]);
    assert_eq!(PageBuffers::default().take(LARGEST * 2 + 1).len(), LARGEST * 2 + 1);
}

/// What was read before, maybe by another host, is in it otherwise, and a bdev that does not fill it would not be noticed by any test.
#[test]
#[cfg(debug_assertions)]
fn a_buffer_never_looks_as_if_it_had_been_read_into() {
    let buffers = PageBuffers::default();
    let mut first = buffers.take(4096);
    assert!(first.iter().all(|b| *b == 0xa5));
    first.fill(7);
    buffers.give_bytes(first.freeze());
    assert!(buffers.take(4096).iter().all(|b| *b == 0xa5));
}

#[test]
fn whatever_was_done_with_it_a_buffer_begins_at_a_page() {
    let buffers = PageBuffers::default();
    for round in 0..3 {
        let lengths = [512, 4096, 5000, 128 << 10, 1 << 20, 3 << 20];
        let out = lengths.map(|len| {
            let buffer = buffers.take(len);
            assert!(buffer.as_ptr().addr().is_multiple_of(PAGE), "round {round}, {len} bytes");
            buffer
        });
        for (n, buffer) in out.into_iter().enumerate() {
            match n % 2 {
                0 => buffers.give(buffer),
                _ => buffers.give_bytes(buffer.freeze()),
            }
        }
    }
}
