//! The results: a table for people, JSON for programs.

use std::{collections::BTreeMap, fmt};

use serde::Serialize;

#[derive(Debug, Serialize)]
pub(crate) struct Report {
    pub(crate) rows: Vec<Row>,
    pub(crate) usable: Vec<Usable>,
    pub(crate) rss_mib: BTreeMap<String, f64>,
}

/// Creates by so many clients at a time, beside etcd's own rate in the same run.
#[derive(Debug, Serialize)]
pub(crate) struct Row {
    pub(crate) clients: usize,
    pub(crate) creates_per_s: f64,
    pub(crate) create_p50_ms: f64,
    pub(crate) create_p99_ms: f64,
    pub(crate) etcd_txn_per_s: f64,
    pub(crate) ratio: f64,
}

/// From the request to Ready.
#[derive(Debug, Serialize)]
pub(crate) struct Usable {
    pub(crate) existing: usize,
    pub(crate) p50_ms: f64,
    pub(crate) p99_ms: f64,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "creates, with agents and data planes stopped; etcd: transactions of 1 compare and 6 puts, same clients, same run"
        )?;
        writeln!(
            f,
            "{:>7}  {:>9}  {:>8}  {:>8}  {:>10}  {:>5}",
            "clients", "creates/s", "p50 ms", "p99 ms", "etcd txn/s", "ratio"
        )?;
        for row in &self.rows {
            writeln!(
                f,
                "{:>7}  {:>9.0}  {:>8.2}  {:>8.2}  {:>10.0}  {:>5.2}",
                row.clients,
                row.creates_per_s,
                row.create_p50_ms,
                row.create_p99_ms,
                row.etcd_txn_per_s,
                row.ratio
            )?;
        }
        writeln!(f, "\nfrom create to usable, one client, everything running")?;
        writeln!(f, "{:>15}  {:>8}  {:>8}", "existing arrays", "p50 ms", "p99 ms")?;
        for row in &self.usable {
            writeln!(f, "{:>15}  {:>8.2}  {:>8.2}", row.existing, row.p50_ms, row.p99_ms)?;
        }
        let existing = self.usable.last().map_or(0, |row| row.existing);
        writeln!(f, "\nresident memory with {existing} arrays")?;
        for (process, mib) in &self.rss_mib {
            writeln!(f, "{process:>15}  {mib:>8.1} MiB")?;
        }
        Ok(())
    }
}
