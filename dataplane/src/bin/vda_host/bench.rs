//! `bench`: IOPS, throughput and latency.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use bytes::{Bytes, BytesMut};
use futures::future::try_join_all;
use futures::stream::{self, StreamExt, TryStreamExt};
use hdrhistogram::Histogram;
use serde_json::json;
use vda_dataplane::initiator::{Group, Namespace};

use crate::args::{Bench, Format, Load, Subsystem};
use crate::connect::{connect, namespace};
use crate::pattern;

/// Subsystems that are connected at a time.
const CONNECTING: usize = 32;
/// Of ten I/Os of a mixed load, so many are reads.
const READS_OF_TEN: u64 = 7;

/// A namespace under load.
struct Volume {
    ns: Rc<Namespace>,
    block_shift: u8,
    /// Places for an I/O.
    slots: u64,
}

struct Run<'a> {
    volumes: Vec<Volume>,
    args: &'a Bench,
    next: Cell<u64>,
    ended: Cell<u64>,
    /// I/O that begins between these is counted.
    begin: Instant,
    end: Instant,
    /// Nanoseconds.
    latency: RefCell<Histogram<u64>>,
}

impl Run<'_> {
    /// The next I/O: on which volume, at which block, and whether it reads.
    fn next(&self) -> (&Volume, u64, bool) {
        let n = self.next.get();
        self.next.set(n + 1);
        let (turn, volume) = (n / self.volumes.len() as u64, &self.volumes[n as usize % self.volumes.len()]);
        let dice = pattern::random(self.args.seed, n);
        let (place, reads) = match self.args.load {
            Load::Randread => (dice, true),
            Load::Randwrite => (dice, false),
            Load::Randrw => (dice, dice.rotate_left(32) % 10 < READS_OF_TEN),
            Load::Read => (turn, true),
            Load::Write => (turn, false),
        };
        (volume, (place % volume.slots) * (self.args.io_size >> volume.block_shift), reads)
    }

    async fn worker(&self, data: Bytes) -> anyhow::Result<()> {
        let mut buffer = BytesMut::zeroed(self.args.io_size as usize);
        let mut begun = Instant::now();
        while begun < self.end {
            let (volume, lba, reads) = self.next();
            if reads {
                let read = volume.ns.read(lba, std::mem::take(&mut buffer));
                buffer = read.await.with_context(|| format!("block {lba}"))?;
            } else {
                volume.ns.write(lba, data.clone(), false).await.with_context(|| format!("block {lba}"))?;
            }
            let ended = Instant::now();
            let nanos = u64::try_from((ended - begun).as_nanos()).unwrap_or(u64::MAX);
            self.ended.set(self.ended.get() + 1);
            if begun >= self.begin {
                self.latency.borrow_mut().saturating_record(nanos);
            }
            begun = ended;
        }
        Ok(())
    }

    /// Ends the run when no I/O has ended for as long as one may take. One timer for all: setting one for every I/O would be
    /// measured as well.
    async fn watch(&self) -> anyhow::Result<()> {
        let most = self.args.subsystem.io_timeout;
        loop {
            let before = self.ended.get();
            tokio::time::sleep(most).await;
            ensure!(self.ended.get() > before, "no path in time: no I/O ended in {most:?}");
        }
    }
}

fn volume(a: &Bench, group: &Group) -> anyhow::Result<Volume> {
    let ns = namespace(group, a.nsid)?;
    let block = u64::from(ns.block_size());
    let size = ns.blocks() * block;
    ensure!(
        a.io_size > 0 && a.io_size.is_multiple_of(block),
        "--io-size must be a multiple of the block size {block}"
    );
    ensure!(a.io_size <= size.min(16 << 20), "--io-size is above 16 MiB or the namespace's {size} bytes");
    Ok(Volume { block_shift: ns.block_shift, slots: size / a.io_size, ns })
}

async fn connect_all(a: &Bench) -> anyhow::Result<Vec<Rc<Group>>> {
    let nqns = std::iter::once(&a.subsystem.nqn).chain(&a.also);
    let subsystems: Vec<Subsystem> =
        nqns.map(|nqn| Subsystem { nqn: nqn.clone(), ..a.subsystem.clone() }).collect();
    stream::iter(&subsystems).map(connect).buffered(CONNECTING).try_collect().await
}

pub(crate) async fn bench(a: Bench) -> anyhow::Result<()> {
    let groups = connect_all(&a).await?;
    let volumes = groups.iter().map(|g| volume(&a, g)).collect::<anyhow::Result<_>>()?;
    if let Some(time) = a.hold {
        tokio::time::sleep(time).await;
    }
    let latency = RefCell::new(Histogram::new_with_bounds(1, 3_600_000_000_000, 3)?);
    let begin = Instant::now() + a.warm_up;
    let (next, ended) = (Cell::new(0), Cell::new(0));
    let run = Run { volumes, args: &a, next, ended, begin, end: begin + a.time, latency };
    let data = pattern::fill(a.seed, 0, a.io_size as usize);
    tokio::select! {
        done = try_join_all((0..a.depth).map(|_| run.worker(data.clone()))) => drop(done?),
        late = run.watch() => late?,
    }
    print(&a, &run.latency.borrow(), begin.elapsed());
    futures::future::join_all(groups.iter().map(|g| g.close())).await;
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
