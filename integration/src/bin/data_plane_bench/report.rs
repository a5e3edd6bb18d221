//! The results: a table for people, JSON for programs.

use std::fmt;

use serde::Serialize;

use crate::{
    limits::{self, Limited},
    scale::Scale,
};

#[derive(Debug, Default, Serialize)]
pub(crate) struct Report {
    pub(crate) rows: Vec<Row>,
    /// Of a core, with 100 idle connections.
    pub(crate) idle_cpu_percent: Option<f64>,
    /// With all connections of `scale`, after load on each.
    pub(crate) rss_mib: Option<f64>,
    pub(crate) scale: Option<Scale>,
    /// What hosts get of the limits of a bdev.
    pub(crate) limits: Vec<Limited>,
}

/// One stack under one load: medians over the rounds. `spdk_*` and ratios are null without SPDK.
#[derive(Debug, Serialize)]
pub(crate) struct Row {
    pub(crate) stack: String,
    pub(crate) rw: String,
    pub(crate) block_kib: u32,
    pub(crate) qd: u16,
    pub(crate) iops: f64,
    pub(crate) mib_per_s: f64,
    pub(crate) p50_us: f64,
    pub(crate) p99_us: f64,
    /// Of its core, that the target used; SPDK uses all of it.
    pub(crate) cpu_percent: f64,
    pub(crate) spdk_iops: Option<f64>,
    pub(crate) spdk_p50_us: Option<f64>,
    pub(crate) spdk_p99_us: Option<f64>,
    pub(crate) iops_ratio: Option<f64>,
    /// IOPS by the time of a core that was used for them, ours to SPDK's.
    pub(crate) iops_per_core_ratio: Option<f64>,
    pub(crate) p50_ratio: Option<f64>,
}

/// The one in the middle; the lower one of two.
pub(crate) fn median(values: impl Iterator<Item = f64>) -> Option<f64> {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len().saturating_sub(1) / 2).copied()
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{:>7} {:>5} {:>5} {:>3}  {:>9} {:>8} {:>8} {:>6}  {:>9} {:>8}  {:>6} {:>8} {:>6}",
            "stack",
            "rw",
            "KiB",
            "qd",
            "IOPS",
            "p50 us",
            "p99 us",
            "core %",
            "SPDK IOPS",
            "p50 us",
            "IOPS",
            "IOPS/core",
            "p50"
        )?;
        for r in &self.rows {
            write!(
                f,
                "{:>7} {:>5} {:>5} {:>3}  {:>9.0} {:>8.1} {:>8.1} {:>6.0}  ",
                r.stack, r.rw, r.block_kib, r.qd, r.iops, r.p50_us, r.p99_us, r.cpu_percent
            )?;
            let spdk = r.spdk_iops.zip(r.spdk_p50_us);
            match spdk.zip(r.iops_ratio).zip(r.iops_per_core_ratio).zip(r.p50_ratio) {
                Some(((((iops, p50), ratio), per_core), latency)) => {
                    writeln!(f, "{iops:>9.0} {p50:>8.1}  {ratio:>5.2}x {per_core:>8.2}x {latency:>5.2}x")?;
                }
                None => writeln!(f, "{:>9} {:>8}  {:>6} {:>9} {:>6}", "-", "-", "-", "-", "-")?,
            }
        }
        if !self.limits.is_empty() {
            writeln!(f, "\n{}", limits::TITLE)?;
        }
        for limited in &self.limits {
            writeln!(f, "{limited}")?;
        }
        match &self.scale {
            Some(scale) => write!(f, "\n{scale}"),
            None => Ok(()),
        }
    }
}
