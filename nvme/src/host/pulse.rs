//! When a host sends Keep Alive, and when it gives its controller up (Base 3.9). Pure: `now` is an argument.

use std::time::{Duration, Instant};

/// Keep Alive of one controller: sent half a Keep Alive Timeout after the last answer, answered within one, or the controller is lost.
#[derive(Debug, Clone, Copy)]
pub struct Pulse {
    timeout: Duration,
    /// When the last answer came, or when this one was sent.
    since: Instant,
    waiting: bool,
}

impl Pulse {
    /// Of a controller that was just connected with this Keep Alive Timeout.
    #[must_use]
    pub fn new(timeout: Duration, now: Instant) -> Self {
        Self { timeout, since: now, waiting: false }
    }

    /// When the next Keep Alive is to be sent; `None` while one is not answered.
    #[must_use]
    pub fn send_at(&self) -> Option<Instant> {
        (!self.waiting).then(|| self.since + self.timeout / 2)
    }

    /// A Keep Alive was sent. Gives the time by which it has to be answered.
    pub fn sent(&mut self, now: Instant) -> Instant {
        (self.since, self.waiting) = (now, true);
        now + self.timeout
    }

    /// It was answered.
    pub fn answered(&mut self, now: Instant) {
        (self.since, self.waiting) = (now, false);
    }

    /// Whether the controller counts as lost.
    #[must_use]
    pub fn is_lost(&self, now: Instant) -> bool {
        self.waiting && now >= self.since + self.timeout
    }
}
