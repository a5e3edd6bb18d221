use std::rc::Rc;

use super::*;

const WINDOW: Duration = Duration::from_micros(50);
const SHORT: Duration = Duration::from_micros(20);
const LONG: Duration = Duration::from_millis(1);

/// How many short sleeps until it spins.
fn sleeps(policy: &mut Policy) -> u32 {
    (1..).find(|_| policy.woken(SHORT)).expect("some time")
}

#[test]
fn only_a_run_of_short_sleeps_makes_it_spin() {
    let mut policy = Policy::new(WINDOW);
    for _ in 0..1000 {
        assert!((1..EAGER).all(|_| !policy.woken(SHORT)));
        assert!(!policy.woken(LONG));
    }
    assert_eq!(sleeps(&mut policy), EAGER);
}

#[test]
fn what_was_in_vain_is_tried_less_and_less_often_and_success_makes_up_for_it() {
    let mut policy = Policy::new(WINDOW);
    let mut needed = Vec::new();
    for _ in 0..12 {
        needed.push(sleeps(&mut policy));
        policy.spun(0);
    }
    assert_eq!(needed[..4], [4, 8, 16, 32]);
    assert_eq!(needed[11], RELUCTANT);
    sleeps(&mut policy);
    policy.spun(100);
    assert_eq!(sleeps(&mut policy), EAGER);
}

#[test]
fn without_a_window_it_never_spins() {
    let mut policy = Policy::new(Duration::ZERO);
    assert!((0..10_000).all(|_| !policy.woken(Duration::ZERO)));
}

#[test]
fn a_spin_ends_when_nothing_comes_and_lasts_while_something_does() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("runtime");
    let window = Duration::from_millis(20);
    tokio::task::LocalSet::new().block_on(&runtime, async {
        let begun = Instant::now();
        assert_eq!(spin(window).await, 0);
        assert!(begun.elapsed() >= window);
        let more = Rc::new(Cell::new(10));
        let left = Rc::clone(&more);
        tokio::task::spawn_local(async move {
            while left.get() > 0 {
                left.set(left.get() - 1);
                active();
                tokio::task::yield_now().await;
            }
        });
        assert!(spin(window).await >= 1);
        assert_eq!(more.get(), 0);
    });
}

#[test]
fn activity_wakes_the_one_who_waits_for_it() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("runtime");
    tokio::task::LocalSet::new().block_on(&runtime, async {
        let waiting = tokio::task::spawn_local(activity(events()));
        tokio::task::yield_now().await;
        active();
        tokio::time::timeout(Duration::from_secs(10), waiting).await.expect("woken").expect("joined");
    });
}
