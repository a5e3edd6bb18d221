use super::*;

/// Chunks that tests before this one left on the thread are not in the way.
fn forget() {
    FREE.with_borrow_mut(|free| *free = Free::default());
}

fn filled(len: usize) -> BytesMut {
    let mut buffer = BytesMut::new();
    replace(&mut buffer, len);
    buffer.resize(len, 7);
    buffer
}

#[test]
fn what_is_given_back_is_lent_again_and_of_the_size_that_fits() {
    forget();
    for (len, size) in [(1, SIZES[0]), (SIZES[0] + 1, SIZES[1]), (SIZES[1] + 1, SIZES[2])] {
        let mut buffer = filled(len);
        assert_eq!(buffer.capacity(), size);
        let at = buffer.as_ptr();
        // As a queue does it: PDUs are cut off in front, and what they were is gone.
        drop(buffer.split_to(len));
        give(&mut buffer);
        assert_eq!((buffer.capacity(), kept()), (0, size));
        let again = filled(len);
        assert_eq!((again.as_ptr(), again.capacity(), kept()), (at, size, 0));
    }
}

#[test]
fn a_chunk_that_others_hold_a_part_of_stays_until_they_let_it_go() {
    forget();
    for (cut, size) in [(100, SIZES[0]), (100, SIZES[1]), (90 << 10, SIZES[1]), (1 << 20, SIZES[2])] {
        let mut buffer = filled(size);
        let held = buffer.split_to(cut).freeze();
        buffer.clear();
        let room = buffer.capacity();
        give(&mut buffer);
        assert_eq!((buffer.capacity(), kept()), (room, 0), "{cut} of {size} are in use");
        assert!(held.iter().all(|b| *b == 7));
        drop(held);
        give(&mut buffer);
        assert_eq!((buffer.capacity(), kept()), (0, size));
        forget();
    }
}

#[test]
fn what_is_in_a_buffer_moves_with_it() {
    forget();
    let mut buffer = filled(3000);
    buffer.extend_from_slice(&[8; 500]);
    drop(buffer.split_to(2000));
    replace(&mut buffer, SIZES[1]);
    assert_eq!((buffer.len(), buffer.capacity(), kept()), (1500, SIZES[1], SIZES[0]));
    assert!(buffer[..1000].iter().all(|b| *b == 7) && buffer[1000..].iter().all(|b| *b == 8));
}

#[test]
fn no_more_is_kept_than_allowed_and_nothing_of_another_size() {
    forget();
    let mut all: Vec<BytesMut> = (0..100).map(|i| filled(SIZES[i % 3])).collect();
    for buffer in &mut all {
        buffer.clear();
        give(buffer);
        assert!(buffer.capacity() == 0 && kept() <= KEPT, "{} bytes", kept());
    }
    assert!(kept() > KEPT / 2);
    forget();
    let mut huge = BytesMut::with_capacity(SIZES[2] + 1);
    give(&mut huge);
    assert_eq!((huge.capacity(), kept()), (0, 0));
}
