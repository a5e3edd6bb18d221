//! Waiting between attempts: exponential with full jitter, so that those who collided once do not collide again.

use std::time::Duration;

/// Delays that double from `first` to `most`; each is drawn from the upper half.
#[derive(Clone, Debug)]
pub struct Backoff {
    first: Duration,
    most: Duration,
    attempt: u32,
}

impl Backoff {
    /// Starts at `first`.
    #[must_use]
    pub fn new(first: Duration, most: Duration) -> Self {
        Self { first, most, attempt: 0 }
    }

    /// The next delay.
    pub fn next_delay(&mut self) -> Duration {
        let full = self.first.saturating_mul(1 << self.attempt.min(16)).min(self.most);
        self.attempt = self.attempt.saturating_add(1);
        full.mul_f64(rand::random_range(0.5..=1.0))
    }

    /// Sleeps for the next delay.
    pub async fn wait(&mut self) {
        tokio::time::sleep(self.next_delay()).await;
    }

    /// After a success: start at `first` again.
    pub fn reset(&mut self) {
        self.attempt = 0;
    }
}
