//! What a process uses, as the kernel tells it.

use std::{fs, time::Duration};

use anyhow::Context as _;

/// Processor time used so far, by all its threads.
///
/// # Errors
/// If there is no such process.
pub fn cpu(pid: u32) -> anyhow::Result<Duration> {
    // "pid (name) S ppid ...": utime and stime are fields 14 and 15, in ticks of USER_HZ, which is 100.
    const TICK: Duration = Duration::from_millis(10);
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let after_name = stat.rsplit_once(')').context("no name in stat")?.1;
    let field = |n: usize| after_name.split_whitespace().nth(n - 3).and_then(|f| f.parse::<u32>().ok());
    let ticks = field(14).zip(field(15)).map(|(user, system)| user + system);
    Ok(TICK * ticks.context("no times in stat")?)
}

/// Resident memory, MiB.
///
/// # Errors
/// If there is no such process.
pub fn rss_mib(pid: u32) -> anyhow::Result<f64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let kib = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))
        .and_then(|value| value.trim().strip_suffix("kB"))
        .context("no VmRSS")?;
    Ok(kib.trim().parse::<f64>()? / 1024.0)
}
