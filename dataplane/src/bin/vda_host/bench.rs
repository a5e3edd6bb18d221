//! `bench`: IOPS, throughput and latency.

use std::cell::{Cell, RefCell};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use bytes::BytesMut;
use futures::future::try_join_all;
use hdrhistogram::Histogram;
use serde_json::json;
use vda_dataplane::initiator::Namespace;

use crate::args::{Bench, Format, Load};
use crate::connect::{connect, namespace};
use crate::pattern;

struct Run<'a> {
    ns: &'a Namespace,
    args: &'a Bench,
    slots: u64,
    next: Cell<u64>,
    end: Instant,
    /// Nanoseconds.
    latency: RefCell<Histogram<u64>>,
}

impl Run<'_> {
    /// Position of the next I/O, in units of its size.
    fn position(&self) -> u64 {
        let n = self.next.get();
        self.next.set(n + 1);
        match self.args.load {
            Load::Randread | Load::Randwrite => pattern::random(self.args.seed, n) % self.slots,
            Load::Read | Load::Write => n % self.slots,
        }
    }

    async fn worker(&self) -> anyhow::Result<()> {
        let size = self.args.io_size as usize;
        let blocks = self.args.io_size >> self.ns.block_shift;
        let data = pattern::fill(self.args.seed, 0, size);
        let mut buffer = BytesMut::zeroed(size);
        while Instant::now() < self.end {
            let lba = self.position() * blocks;
            let begun = Instant::now();
            let io = async {
                if matches!(self.args.load, Load::Randread | Load::Read) {
                    buffer = self.ns.read(lba, std::mem::take(&mut buffer)).await?;
                } else {
                    self.ns.write(lba, data.clone(), false).await?;
                }
                anyhow::Ok(())
            };
            tokio::time::timeout(self.args.subsystem.io_timeout, io)
                .await
                .context("no path in time")?
                .with_context(|| format!("block {lba}"))?;
            let nanos = u64::try_from(begun.elapsed().as_nanos()).unwrap_or(u64::MAX);
            self.latency.borrow_mut().saturating_record(nanos);
        }
        Ok(())
    }
}

pub(crate) async fn bench(a: Bench) -> anyhow::Result<()> {
    let group = connect(&a.subsystem).await?;
    let ns = namespace(&group, a.nsid)?;
    let block = u64::from(ns.block_size());
    let size = ns.blocks() * block;
    ensure!(
        a.io_size > 0 && a.io_size.is_multiple_of(block),
        "--io-size must be a multiple of the block size {block}"
    );
    ensure!(a.io_size <= size.min(16 << 20), "--io-size is above 16 MiB or the namespace's {size} bytes");
    let begun = Instant::now();
    let latency = Histogram::new_with_bounds(1, 3_600_000_000_000, 3)?;
    let run = Run {
        ns: &ns,
        args: &a,
        slots: size / a.io_size,
        next: Cell::new(0),
        end: begun + a.time,
        latency: RefCell::new(latency),
    };
    try_join_all((0..a.depth).map(|_| run.worker())).await?;
    print(&a, &run.latency.borrow(), begun.elapsed());
    group.close().await;
    Ok(())
}

fn print(a: &Bench, latency: &Histogram<u64>, elapsed: Duration) {
    let seconds = elapsed.as_secs_f64();
    let iops = latency.len() as f64 / seconds;
    let bytes_per_s = iops * a.io_size as f64;
    let micros = |q: f64| latency.value_at_quantile(q) as f64 / 1000.0;
    let (p50, p99, max) = (micros(0.5), micros(0.99), latency.max() as f64 / 1000.0);
    match a.output {
        Format::Json => println!(
            "{}",
            json!({
                "ios": latency.len(), "seconds": seconds, "iops": iops, "bytes_per_s": bytes_per_s,
                "p50_us": p50, "p99_us": p99, "max_us": max, "io_size": a.io_size, "depth": a.depth,
            })
        ),
        Format::Text => println!(
            "{iops:.0} IOPS, {:.1} MiB/s, latency p50 {p50:.0} us, p99 {p99:.0} us, max {max:.0} us ({} I/Os in {seconds:.2} s)",
            bytes_per_s / f64::from(1 << 20),
            latency.len(),
        ),
    }
}
