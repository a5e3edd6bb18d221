//! Looking again before going to sleep. A reactor that sleeps is woken by the kernel, which takes longer than the answer to a small
//! I/O; a host that waits for one answer before it asks again pays for that every time. So while requests keep coming
//! faster than sleeping pays, the reactor asks for events for a moment longer; as soon as that was in vain it sleeps, and is slower to
//! try again. Idle, it sleeps (`docs/adr/0073-a-bounded-spin.md`).

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::task::{Poll, Waker};
use std::time::{Duration, Instant};

/// Short sleeps in a row before it is tried, while it succeeds, and at most when it keeps failing.
const EAGER: u32 = 4;
const RELUCTANT: u32 = 256;
/// A sleep of up to so many windows is short. More than one: half of it may be the time that waking up takes, which a spin saves. Where
/// that takes long, a reactor that compared with one window would go on sleeping because it sleeps.
const SHORT: u32 = 2;

/// When to spin. Times are arguments.
#[derive(Debug)]
struct Policy {
    /// The longest look for events that gives none.
    window: Duration,
    /// Sleeps in a row that a spin would have replaced.
    short: u32,
    /// So many are needed.
    needed: u32,
}

impl Policy {
    fn new(window: Duration) -> Self {
        Self { window, short: 0, needed: EAGER }
    }

    /// After a sleep: whether to spin before the next one.
    fn woken(&mut self, slept: Duration) -> bool {
        self.short = if slept < self.window * SHORT { self.short + 1 } else { 0 };
        if self.short < self.needed {
            return false;
        }
        self.short = 0;
        true
    }

    /// After a spin that found so many events before it ended.
    fn spun(&mut self, events: u64) {
        let worth = events > u64::from(EAGER);
        self.needed = if worth { EAGER } else { (self.needed * 2).min(RELUCTANT) };
    }
}

#[derive(Default)]
struct Activity {
    events: Cell<u64>,
    sleeper: RefCell<Option<Waker>>,
}

thread_local! {
    /// The reactor's: there is one on a thread.
    static ACTIVITY: Activity = Activity::default();
}

/// Says that something came from outside: bytes, or the end of an I/O.
pub(crate) fn active() {
    ACTIVITY.with(|a| {
        a.events.set(a.events.get() + 1);
        if let Some(waker) = a.sleeper.take() {
            waker.wake();
        }
    });
}

fn events() -> u64 {
    ACTIVITY.with(|a| a.events.get())
}

/// Resolves when there was activity since `seen`.
async fn activity(seen: u64) {
    poll_fn(|cx| {
        if events() != seen {
            return Poll::Ready(());
        }
        ACTIVITY.with(|a| a.sleeper.replace(Some(cx.waker().clone())));
        Poll::Pending
    })
    .await;
}

/// Keeps the reactor of this thread awake for up to `window` after activity, while that pays. Never ends.
pub async fn run(window: Duration) {
    let mut policy = Policy::new(window);
    loop {
        let began = Instant::now();
        activity(events()).await;
        if policy.woken(began.elapsed()) {
            policy.spun(spin(window).await);
        }
    }
}

/// Looks for events until there was none for `window`; how often there was one.
async fn spin(window: Duration) -> u64 {
    let (mut seen, mut found) = (events(), 0);
    let mut until = Instant::now() + window;
    loop {
        // The runtime asks the kernel for events, without waiting, before this goes on.
        tokio::task::yield_now().await;
        let (now, count) = (Instant::now(), events());
        if count != seen {
            (seen, found, until) = (count, found + 1, now + window);
        } else if now >= until {
            return found;
        }
    }
}

#[cfg(test)]
#[path = "spin_tests.rs"]
mod tests;
