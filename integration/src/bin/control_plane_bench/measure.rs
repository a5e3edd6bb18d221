//! Many clients doing the same as fast as they can.

use std::{future::Future, time::Duration};

use hdrhistogram::Histogram;
use tokio::time::Instant;

/// Rate and latencies of what many clients did.
pub(crate) struct Measured {
    pub(crate) per_s: f64,
    latencies: Histogram<u64>,
}

impl Measured {
    /// Latency below which `percent` of all were, in ms.
    pub(crate) fn ms(&self, percent: f64) -> f64 {
        self.latencies.value_at_percentile(percent) as f64 / 1000.0
    }
}

/// Microseconds up to an hour, to 3 digits.
pub(crate) fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, 3_600_000_000, 3)
        .unwrap_or_else(|_| unreachable!("bounds are constant and valid"))
}

/// Milliseconds at `percent`.
pub(crate) fn ms(latencies: &Histogram<u64>, percent: f64) -> f64 {
    latencies.value_at_percentile(percent) as f64 / 1000.0
}

pub(crate) fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

/// Each of `clients` runs `step` again and again for `time`. The first error ends it.
pub(crate) async fn load<C, F, Fut>(clients: Vec<C>, time: Duration, step: F) -> anyhow::Result<Measured>
where
    C: Clone + Send + 'static,
    F: Fn(C) -> Fut + Clone + Send + 'static,
    Fut: Future<Output = anyhow::Result<()>> + Send,
{
    let started = Instant::now();
    let end = started + time;
    let tasks: Vec<_> = clients
        .into_iter()
        .map(|client| {
            let step = step.clone();
            tokio::spawn(async move {
                let mut latencies = histogram();
                while Instant::now() < end {
                    let begun = Instant::now();
                    step(client.clone()).await?;
                    latencies.record(micros(begun.elapsed()))?;
                }
                anyhow::Ok(latencies)
            })
        })
        .collect();
    let mut latencies = histogram();
    for task in tasks {
        latencies.add(task.await??)?;
    }
    let per_s = latencies.len() as f64 / started.elapsed().as_secs_f64();
    Ok(Measured { per_s, latencies })
}
