//! Waiting for something that can only be asked for: it is asked often, and for a limited time.

use std::{future::Future, time::Duration};

use anyhow::bail;
use tokio::time::{Instant, sleep};

const INTERVAL: Duration = Duration::from_millis(10);

/// The answer of `probe` as soon as it is one. After `limit`: an error with the reason `probe` gave last.
pub async fn eventually<T, F, Fut>(what: &str, limit: Duration, mut probe: F) -> anyhow::Result<T>
where
    F: FnMut() -> Fut,
    Fut: Future<Output = anyhow::Result<T>>,
{
    let end = Instant::now() + limit;
    loop {
        let why = match probe().await {
            Ok(answer) => return Ok(answer),
            Err(why) => why,
        };
        if Instant::now() >= end {
            bail!("{what}: not in {limit:?}: {why:#}");
        }
        sleep(INTERVAL).await;
    }
}
