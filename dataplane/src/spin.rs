//! Looking again before going to sleep. A reactor that sleeps is woken by the kernel, which takes longer than the answer to a small
//! I/O; a host that waits for one answer before it asks again pays for that every time. So while requests keep coming
//! faster than sleeping pays, the reactor asks for events for a moment longer; as soon as that was in vain it sleeps, and is slower to
//! try again. Idle, it sleeps (`docs/adr/0073-a-bounded-spin.md`). While it looks, it also looks where disks leave the ends of their I/O, which
//! costs no call of the kernel, and it is more patient with them (`docs/adr/0093-the-spin-looks-at-the-disk.md`).

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::rc::{Rc, Weak};
use std::task::{Poll, Waker};
use std::time::{Duration, Instant};

/// Short sleeps in a row before it is tried, while it succeeds, and at most when it keeps failing.
const EAGER: u32 = 4;
const RELUCTANT: u32 = 256;
/// A sleep of up to so many windows is short. More than one: half of it may be the time that waking up takes, which a spin saves. Where
/// that takes long, a reactor that compared with one window would go on sleeping because it sleeps.
const SHORT: u32 = 2;
/// What a disk does takes longer than what a peer does: with so few of its I/Os in flight there is nothing else to do, and the look for
/// events lasts so many windows. A deep queue needs no look: it loses nothing by a sleep, and many ends are taken at once.
const SHALLOW: usize = 8;
const DISK_WINDOWS: u32 = 4;

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

    /// After a sleep that the end of a disk's I/O, or else something else, has ended: whether to spin before the next one.
    fn woken(&mut self, slept: Duration, by_disk: bool) -> bool {
        let windows = SHORT * if by_disk { DISK_WINDOWS } else { 1 };
        self.short = if slept < self.window * windows { self.short + 1 } else { 0 };
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

/// How long to look for an event with so much I/O of disks in flight.
fn patience(window: Duration, in_flight: usize) -> Duration {
    if (1..=SHALLOW).contains(&in_flight) { window * DISK_WINDOWS } else { window }
}

/// I/O of disks whose end is written to memory, where it can be seen without asking the kernel.
pub(crate) trait Source {
    /// Takes what has ended, and says so to [`disk_active`].
    fn look(&self);

    /// How much has begun and not ended.
    fn in_flight(&self) -> usize;
}

#[derive(Default)]
struct Activity {
    events: Cell<u64>,
    /// The last one was the end of a disk's I/O.
    by_disk: Cell<bool>,
    sleeper: RefCell<Option<Waker>>,
    sources: RefCell<Vec<Weak<dyn Source>>>,
}

impl Activity {
    fn happened(&self, by_disk: bool) {
        self.events.set(self.events.get() + 1);
        self.by_disk.set(by_disk);
        if let Some(waker) = self.sleeper.take() {
            waker.wake();
        }
    }

    /// Those that are still there; no borrow is held while they are used.
    fn sources(&self) -> impl Iterator<Item = Rc<dyn Source>> {
        (0..self.sources.borrow().len()).filter_map(|n| self.sources.borrow().get(n)?.upgrade())
    }
}

thread_local! {
    /// The reactor's: there is one on a thread.
    static ACTIVITY: Activity = Activity::default();
}

/// Says that bytes came from outside.
pub(crate) fn active() {
    ACTIVITY.with(|a| a.happened(false));
}

/// Says that an I/O of a disk has ended.
pub(crate) fn disk_active() {
    ACTIVITY.with(|a| a.happened(true));
}

/// From now on a spin looks there too, as long as it exists.
pub(crate) fn watch(source: &Rc<impl Source + 'static>) {
    ACTIVITY.with(|a| {
        let mut sources = a.sources.borrow_mut();
        sources.retain(|s| s.strong_count() > 0);
        sources.push(Rc::downgrade(source) as Weak<dyn Source>);
    });
}

/// Takes what disks have ended.
pub(crate) fn look() {
    ACTIVITY.with(|a| a.sources().for_each(|s| s.look()));
}

/// I/O that disks have not ended.
fn in_flight() -> usize {
    ACTIVITY.with(|a| a.sources().map(|s| s.in_flight()).sum())
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
        if policy.woken(began.elapsed(), ACTIVITY.with(|a| a.by_disk.get())) {
            policy.spun(spin(window).await);
        }
    }
}

/// Looks for events until there was none for `window`, or as long as disks deserve; how often there was one.
async fn spin(window: Duration) -> u64 {
    let (mut seen, mut found) = (events(), 0);
    let mut last = Instant::now();
    loop {
        // The runtime asks the kernel for events, without waiting, before this goes on; and whenever it is asked something, the kernel writes
        // down which I/O has ended.
        tokio::task::yield_now().await;
        look();
        let (now, count) = (Instant::now(), events());
        if count != seen {
            (seen, found, last) = (count, found + 1, now);
        } else if now - last >= window && now - last >= patience(window, in_flight()) {
            return found;
        }
    }
}

#[cfg(test)]
#[path = "spin_tests.rs"]
mod tests;
