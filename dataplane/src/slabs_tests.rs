use bytes::Bytes;
use proptest::prelude::*;

use super::*;

const KIB: usize = 1 << 10;

fn slabs() -> Slabs {
    disk_is_there();
    Slabs::default()
}

#[test]
fn without_a_disk_there_are_none() {
    let mut slabs = Slabs::default();
    assert!(slabs.take(128 * KIB).is_none());
    disk_is_there();
    assert!(slabs.take(128 * KIB).is_some());
}

#[test]
fn one_buffer_at_a_time_is_the_same_memory_again() {
    let mut slabs = slabs();
    let first = slabs.take(128 * KIB).expect("a buffer").as_ptr();
    for size in [128 * KIB, 32 * KIB, SLAB, 128 * KIB] {
        let buffer = slabs.take(size).expect("a buffer");
        assert_eq!((buffer.as_ptr(), buffer.len()), (first, size));
        // As an lvol does with what lies in two clusters, and as it is sent.
        let mut head = buffer;
        let tail = head.split_off(size / 2);
        head.unsplit(tail);
        drop(head.freeze().slice(7..));
    }
    assert_eq!(slabs.0.len(), 1);
}

#[test]
fn when_all_is_held_there_is_no_more_until_a_slab_is_free() {
    let mut slabs = slabs();
    let all: Vec<_> = std::iter::from_fn(|| slabs.take(SLAB / 4)).collect();
    assert_eq!(all.len(), 4 * SLABS);
    assert!(all.iter().all(|b| slabs.contain(b)));
    assert!(!slabs.contain(&[0]));
    let mut all = all.into_iter();
    let first_slab: Vec<_> = all.by_ref().take(4).collect();
    let at = first_slab[0].as_ptr();
    let last = first_slab.into_iter().last();
    assert!(slabs.take(SLAB / 4).is_none(), "one quarter of the first slab is held");
    drop(last);
    assert_eq!(slabs.take(SLAB / 4).map(|b| b.as_ptr()), Some(at));
}

#[derive(Clone, Debug)]
enum Step {
    /// A buffer of 2 to the power of this.
    Take(u32),
    /// Drops the nth of those that are held, or one half of it.
    Drop(usize),
    Halve(usize),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        3 => (12u32..=20).prop_map(Step::Take),
        2 => any::<usize>().prop_map(Step::Drop),
        1 => any::<usize>().prop_map(Step::Halve),
    ];
    prop::collection::vec(step, 1..200)
}

/// Whether each byte at the edges of what is held is what its holder wrote.
fn intact(held: &[(u8, Bytes)]) -> bool {
    held.iter().all(|(mark, b)| [b.first(), b.last(), b.get(b.len() / 2)].iter().all(|at| *at == Some(mark)))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn no_memory_is_given_to_two(steps in steps()) {
        let mut slabs = slabs();
        let mut held: Vec<(u8, Bytes)> = Vec::new();
        for (n, step) in steps.into_iter().enumerate() {
            match step {
                Step::Take(power) => {
                    let Some(mut buffer) = slabs.take(1 << power) else { continue };
                    prop_assert_eq!(buffer.len(), 1 << power);
                    prop_assert!(buffer.as_ptr().addr().is_multiple_of(1 << power));
                    prop_assert!(slabs.contain(&buffer[buffer.len() - 1..]));
                    let mark = n as u8;
                    buffer.fill(mark);
                    held.push((mark, buffer.freeze()));
                }
                Step::Drop(_) | Step::Halve(_) if held.is_empty() => {}
                Step::Drop(nth) => drop(held.swap_remove(nth % held.len())),
                Step::Halve(nth) => {
                    let nth = nth % held.len();
                    let (_, whole) = &mut held[nth];
                    drop(whole.split_off(whole.len().div_ceil(2)));
                }
            }
            prop_assert!(intact(&held), "after step {}", n);
        }
        prop_assert!(slabs.0.len() <= SLABS);
    }
}
