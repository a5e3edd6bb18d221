use std::rc::Rc;

use super::*;

const WINDOW: Duration = Duration::from_micros(50);
const SHORTEST: Duration = Duration::from_micros(20);
const LONG: Duration = Duration::from_millis(1);

/// How many short sleeps until it spins.
fn sleeps(policy: &mut Policy) -> u32 {
    (1..).find(|_| policy.woken(SHORTEST, false)).expect("some time")
}

/// What a load of events, each of which comes so long after the one before, costs a reactor.
#[derive(Debug, Default)]
struct Cost {
    /// Events that it slept for.
    slept: u32,
    /// Spent looking in vain, and the whole time.
    vain: Duration,
    whole: Duration,
}

/// Runs the policy as [`run`] does. Waking up takes `wakeup`; while spinning it takes nothing.
fn load(gaps: impl IntoIterator<Item = Duration>, wakeup: Duration) -> Cost {
    mixed(gaps.into_iter().map(|gap| (gap, 0)), wakeup)
}

/// The same; with each event so much I/O of a disk that is in flight until then, the end of which is the event if there is any.
fn mixed(gaps: impl IntoIterator<Item = (Duration, usize)>, wakeup: Duration) -> Cost {
    let (mut policy, mut cost) = (Policy::new(WINDOW), Cost::default());
    // While it spins: how many events it has found.
    let mut spinning: Option<u64> = None;
    for (gap, in_flight) in gaps {
        if let Some(found) = spinning {
            if gap < patience(WINDOW, in_flight) {
                spinning = Some(found + 1);
                cost.whole += gap;
                continue;
            }
            policy.spun(found);
            cost.vain += patience(WINDOW, in_flight);
        }
        let slept = gap + wakeup;
        cost.slept += 1;
        cost.whole += slept;
        spinning = policy.woken(slept, in_flight > 0).then_some(0);
    }
    cost
}

/// `n` gaps, these in turn.
fn in_turn(micros: &[u64], n: usize) -> impl Iterator<Item = Duration> {
    micros.iter().copied().cycle().take(n).map(Duration::from_micros)
}

#[test]
fn who_answers_within_the_window_is_met_awake_even_where_waking_up_takes_as_long() {
    for gaps in [&[1][..], &[49], &[5, 45], &[10, 10, 40, 45]] {
        for wakeup in [0, 10, 49] {
            let cost = load(in_turn(gaps, 1000), Duration::from_micros(wakeup));
            assert_eq!(cost.slept, EAGER, "{gaps:?}, {wakeup} us to wake up");
            assert_eq!(cost.vain, Duration::ZERO);
        }
    }
}

#[test]
fn who_answers_later_costs_next_to_nothing() {
    for gaps in [&[51][..], &[60, 90], &[99], &[10, 70], &[1, 1, 1, 60]] {
        let cost = load(in_turn(gaps, 100_000), Duration::from_micros(5));
        assert!(cost.vain < cost.whole / 100, "{gaps:?}: {cost:?}");
    }
    for gaps in [&[101][..], &[1000], &[10, 10, 10, 500]] {
        let cost = load(in_turn(gaps, 100_000), Duration::from_micros(5));
        assert_eq!(cost.vain, Duration::ZERO, "{gaps:?}: it never spins");
    }
}

/// A request of one host to a disk that takes so long: what it sends comes `SHORTEST` after it was answered.
fn disk_load(took: Duration, in_flight: usize, n: usize) -> Cost {
    let turns = [(SHORTEST, 0), (took, in_flight)];
    mixed(turns.into_iter().cycle().take(n), Duration::from_micros(5))
}

#[test]
fn a_disk_with_little_to_do_is_met_awake_though_it_takes_longer_than_a_peer() {
    for windows in [1, 2, DISK_WINDOWS] {
        for in_flight in [1, SHALLOW] {
            let took = WINDOW * windows - Duration::from_micros(1);
            let cost = disk_load(took, in_flight, 1000);
            assert_eq!((cost.slept, cost.vain), (EAGER, Duration::ZERO), "{took:?}, {in_flight} in flight");
        }
    }
}

#[test]
fn a_disk_that_is_slow_or_has_much_to_do_costs_next_to_nothing() {
    let slower = [WINDOW * DISK_WINDOWS, WINDOW * DISK_WINDOWS * SHORT, Duration::from_millis(5)];
    let cases = slower.map(|took| (took, 1)).into_iter().chain([(WINDOW * 2, SHALLOW + 1)]);
    for (took, in_flight) in cases {
        let cost = disk_load(took, in_flight, 100_000);
        assert!(cost.vain < cost.whole / 100, "{took:?}, {in_flight} in flight: {cost:?}");
    }
}

/// A disk that ends an I/O each time somebody looks.
#[derive(Default)]
struct Memory {
    left: Cell<usize>,
}

impl Source for Memory {
    fn look(&self) {
        if let Some(left) = self.left.get().checked_sub(1) {
            self.left.set(left);
            disk_active();
        }
    }

    fn in_flight(&self) -> usize {
        self.left.get()
    }
}

#[test]
fn a_spin_looks_at_what_disks_have_ended() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("runtime");
    tokio::task::LocalSet::new().block_on(&runtime, async {
        let disks = [Rc::new(Memory::default()), Rc::new(Memory::default())];
        disks.iter().for_each(watch);
        disks.iter().for_each(|d| d.left.set(10));
        assert_eq!(in_flight(), 20);
        // A turn in which both have ended something counts once.
        assert_eq!(spin(Duration::from_millis(20)).await, 10);
        assert_eq!((disks[0].left.get(), in_flight()), (0, 0));
        let [gone, left] = disks;
        drop(gone);
        left.left.set(1);
        assert_eq!(in_flight(), 1, "who is gone is not asked");
    });
}

#[test]
fn only_a_run_of_short_sleeps_makes_it_spin() {
    let mut policy = Policy::new(WINDOW);
    for _ in 0..1000 {
        assert!((1..EAGER).all(|_| !policy.woken(SHORTEST, false)));
        assert!(!policy.woken(LONG, false));
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
    assert!((0..10_000).all(|_| !policy.woken(Duration::ZERO, true)));
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
