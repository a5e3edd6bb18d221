//! When which component is worked on.

use std::time::Duration;

use tokio::time::Instant;

use super::{Agent, AgentOptions, Driver, State};
use crate::target::Target;

impl<V: Driver> State<V> {
    /// Lets a component be worked on at `at`, or earlier if that was planned already.
    pub(super) fn mark(&mut self, key: &V::Key, at: Instant) {
        let Some(entry) = self.entries.get_mut(key) else { return };
        if entry.running {
            entry.again = true;
            return;
        }
        match entry.due {
            Some(due) if due <= at => return,
            Some(due) => {
                self.queue.remove(&(due, key.clone()));
            }
            None => {}
        }
        entry.due = Some(at);
        self.queue.insert((at, key.clone()));
    }

    /// Takes what is due, as far as there is room.
    fn take_due(&mut self, now: Instant, concurrency: usize) -> Vec<V::Key> {
        let mut taken = Vec::new();
        while self.running < concurrency
            && let Some((due, _)) = self.queue.first()
            && *due <= now
            && let Some((_, key)) = self.queue.pop_first()
        {
            if let Some(entry) = self.entries.get_mut(&key) {
                entry.due = None;
                entry.running = true;
                entry.again = false;
                self.running += 1;
                taken.push(key);
            }
        }
        taken
    }

    fn next_due(&self, concurrency: usize) -> Option<Instant> {
        if self.running < concurrency { self.queue.first().map(|(due, _)| *due) } else { None }
    }
}

impl AgentOptions {
    /// The pause before attempt `attempts + 1`.
    pub(super) fn backoff(&self, attempts: u32) -> Duration {
        let factor = 1u32.checked_shl(attempts.saturating_sub(1)).unwrap_or(u32::MAX);
        self.min_backoff.saturating_mul(factor).min(self.max_backoff)
    }
}

impl<V: Driver, T: Target> Agent<V, T> {
    pub(super) async fn schedule(&self) {
        let concurrency = self.inner.options.concurrency;
        let tracker = tokio_util::task::TaskTracker::new();
        loop {
            let (due, next) = {
                let mut state = self.state();
                (state.take_due(Instant::now(), concurrency), state.next_due(concurrency))
            };
            for key in due {
                let agent = self.clone();
                tracker.spawn(async move { agent.activate(key).await });
            }
            let timer = async {
                match next {
                    Some(at) => tokio::time::sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = self.inner.shutdown.cancelled() => break,
                () = self.inner.wake.notified() => {}
                () = timer => {}
            }
        }
        tracker.close();
        tracker.wait().await;
    }
}
