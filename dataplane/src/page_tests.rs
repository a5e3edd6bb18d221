use super::*;

#[test]
fn it_begins_at_a_page_and_has_the_size_that_was_asked_for() {
    let sizes = [1, 512, PAGE, PAGE + 1, 128 << 10, 256 << 10, 1 << 20];
    let held: Vec<_> = sizes.into_iter().cycle().take(100).map(|len| (len, zeroed(len))).collect();
    for (len, memory) in held {
        assert_eq!((memory.len(), memory.capacity()), (len, len));
        assert!(memory.as_ptr().addr().is_multiple_of(PAGE), "{len} bytes");
        assert!(memory.iter().all(|b| *b == 0));
    }
}

#[test]
fn it_stays_where_it_is_when_it_is_sent_and_taken_back() {
    let memory = zeroed(8192);
    let at = memory.as_ptr();
    let back = memory.freeze().try_into_mut().expect("nobody else holds it");
    assert_eq!((back.as_ptr(), back.len(), back.capacity()), (at, 8192, 8192));
}

#[test]
fn a_buffer_lines_up_wherever_it_was_left() {
    for used in 0..200 {
        for offset in [0, 24, 28, 72] {
            let mut buffer = BytesMut::with_capacity(1024);
            buffer.resize(used, 1);
            buffer.advance(used);
            line_up(&mut buffer, offset);
            assert!(buffer.is_empty());
            assert!((buffer.as_ptr().addr() + offset).is_multiple_of(LINE), "{used} used, {offset}");
            assert!(buffer.capacity() > 1024 - used - LINE);
        }
    }
}
