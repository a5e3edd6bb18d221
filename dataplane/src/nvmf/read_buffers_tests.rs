use super::*;

#[test]
fn memory_is_used_again() {
    let buffers = ReadBuffers::default();
    for len in [512, 4096, 5000, 131_072, 1 << 20] {
        let first = buffers.take(len);
        let at = first.as_ptr();
        assert!(at.addr().is_multiple_of(page::PAGE), "{len} bytes");
        buffers.give(first.freeze());
        let second = buffers.take(len);
        assert_eq!((second.len(), second.as_ptr()), (len, at), "{len} bytes");
        // As an lvol does with what lies in two clusters.
        let mut second = second;
        let mut head = second.split_to(len / 2);
        head.unsplit(second);
        buffers.give(head.freeze());
        assert_eq!(buffers.take(len).as_ptr(), at, "{len} bytes, after they were split");
    }
}

#[test]
fn what_somebody_still_holds_is_not_used_again() {
    let buffers = ReadBuffers::default();
    let sent = buffers.take(4096).freeze();
    let held = sent.clone();
    buffers.give(sent);
    assert_ne!(buffers.take(4096).as_ptr(), held.as_ptr());
    assert_eq!(buffers.bytes.get(), 0);
}

#[test]
fn only_so_much_is_kept() {
    let buffers = ReadBuffers::default();
    let many: Vec<_> = (0..2 * KEPT / (128 << 10)).map(|_| buffers.take(128 << 10)).collect();
    many.into_iter().for_each(|b| buffers.give(b.freeze()));
    assert_eq!(buffers.bytes.get(), KEPT);
    buffers.give(Bytes::from(vec![0; LARGEST * 2]));
    buffers.give(Bytes::from_static(&[0; 4096]));
    assert_eq!(buffers.bytes.get(), KEPT);
}

#[test]
fn every_size_has_its_class() {
    assert_eq!([1, 4096, 4097, 8192, LARGEST].map(class), [0, 0, 1, 1, CLASSES - 1]);
    assert_eq!(ReadBuffers::default().take(LARGEST * 2 + 1).len(), LARGEST * 2 + 1);
}

/// What was read before, maybe by another host, is in it otherwise, and a bdev that does not fill it would not be noticed by any test.
#[test]
#[cfg(debug_assertions)]
fn a_buffer_never_looks_as_if_it_had_been_read_into() {
    let buffers = ReadBuffers::default();
    let mut first = buffers.take(4096);
    assert!(first.iter().all(|b| *b == 0xa5));
    first.fill(7);
    buffers.give(first.freeze());
    assert!(buffers.take(4096).iter().all(|b| *b == 0xa5));
}
