//! `read`, `write`, `verify`.

use std::io::{Read as _, Write as _};
use std::path::Path;
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use bytes::{Bytes, BytesMut};
use futures::stream::{self, StreamExt, TryStreamExt};
use serde_json::json;
use vda_dataplane::initiator::Namespace;

use crate::args::{Format, Range, Read, Verify, Write};
use crate::connect::{connect, namespace};
use crate::pattern;

/// Data is not what it should be.
#[derive(Debug, thiserror::Error)]
#[error("data differs from seed {seed} at byte {position} of the namespace (block {block})")]
pub(crate) struct Mismatch {
    seed: u64,
    position: u64,
    block: u64,
}

/// A range that was checked against the namespace, and how it is cut.
struct Plan {
    ns: Rc<Namespace>,
    offset: u64,
    length: u64,
    io_size: u64,
    depth: usize,
    timeout: Duration,
}

impl Plan {
    fn new(ns: Rc<Namespace>, r: &Range, timeout: Duration) -> anyhow::Result<Self> {
        let block = u64::from(ns.block_size());
        let size = ns.blocks() * block;
        ensure!(r.offset <= size, "--offset {} is beyond the namespace of {size} bytes", r.offset);
        let length = r.length.unwrap_or(size - r.offset);
        for (name, value) in [("--offset", r.offset), ("--length", length), ("--io-size", r.io_size)] {
            ensure!(
                value.is_multiple_of(block),
                "{name} {value} is not a multiple of the block size {block}"
            );
        }
        ensure!(length <= size - r.offset, "--length {length} reaches beyond the namespace of {size} bytes");
        ensure!((block..=16 << 20).contains(&r.io_size), "--io-size must be from {block} to 16777216");
        Ok(Self { ns, offset: r.offset, length, io_size: r.io_size, depth: r.depth.into(), timeout })
    }

    /// Positions and lengths of the I/Os, in order.
    fn pieces(&self) -> impl Iterator<Item = (u64, usize)> + use<> {
        let (start, end, step) = (self.offset, self.offset + self.length, self.io_size);
        (start..end).step_by(step as usize).map(move |at| (at, (end - at).min(step) as usize))
    }

    async fn read(&self, at: u64, len: usize) -> anyhow::Result<Bytes> {
        let lba = at >> self.ns.block_shift;
        let io = self.ns.read(lba, BytesMut::zeroed(len));
        let done = tokio::time::timeout(self.timeout, io).await;
        let what = || format!("reading {len} bytes at {at}");
        Ok(done.context("no path in time").with_context(what)?.with_context(what)?.freeze())
    }

    async fn write(&self, at: u64, data: Bytes) -> anyhow::Result<()> {
        let (lba, len) = (at >> self.ns.block_shift, data.len());
        let done = tokio::time::timeout(self.timeout, self.ns.write(lba, data, false)).await;
        let what = || format!("writing {len} bytes at {at}");
        done.context("no path in time").with_context(what)?.with_context(what)
    }

    /// Reads all pieces, several at a time, and hands them on in order.
    async fn read_all(&self, mut each: impl FnMut(u64, Bytes) -> anyhow::Result<()>) -> anyhow::Result<()> {
        let reads = self
            .pieces()
            .map(|(at, len)| async move { Ok::<_, anyhow::Error>((at, self.read(at, len).await?)) });
        let mut done = stream::iter(reads).buffered(self.depth);
        while let Some((at, data)) = done.try_next().await? {
            each(at, data)?;
        }
        Ok(())
    }

    /// Writes what `data` gives for each piece, several at a time; the checksum of all in order.
    async fn write_all(
        &self,
        mut data: impl FnMut(u64, usize) -> anyhow::Result<Bytes>,
    ) -> anyhow::Result<u32> {
        let mut checksum = 0;
        let pieces = self.pieces().map(|(at, len)| {
            let bytes = data(at, len)?;
            checksum = crc32c::crc32c_append(checksum, &bytes);
            anyhow::Ok((at, bytes))
        });
        stream::iter(pieces).try_for_each_concurrent(self.depth, |(at, bytes)| self.write(at, bytes)).await?;
        Ok(checksum)
    }

    async fn flush(&self) -> anyhow::Result<()> {
        let flush = tokio::time::timeout(self.timeout, self.ns.flush()).await;
        flush.context("flush: no path in time")?.context("flush")
    }
}

fn report(what: &str, output: Format, bytes: u64, checksum: u32, begun: Instant) {
    let seconds = begun.elapsed().as_secs_f64();
    let rate = bytes as f64 / seconds.max(1e-9);
    match output {
        Format::Json => {
            let crc = format!("{checksum:08x}");
            println!(
                "{}",
                json!({ "bytes": bytes, "seconds": seconds, "bytes_per_s": rate as u64, "crc32c": crc })
            );
        }
        Format::Text => {
            let mib = rate / f64::from(1 << 20);
            println!("{what} {bytes} bytes in {seconds:.3} s ({mib:.1} MiB/s), crc32c {checksum:08x}");
        }
    }
}

pub(crate) async fn write(a: Write) -> anyhow::Result<()> {
    let group = connect(&a.subsystem).await?;
    let ns = namespace(&group, a.range.nsid)?;
    let mut plan = Plan::new(ns, &a.range, a.subsystem.io_timeout)?;
    let begun = Instant::now();
    let checksum = match &a.from {
        None => plan.write_all(|at, len| Ok(pattern::fill(a.seed, at, len))).await?,
        Some(path) => {
            let mut file = open_source(path, &mut plan, a.range.length)?;
            let next = |at, len| {
                let mut buf = BytesMut::zeroed(len);
                file.read_exact(&mut buf).with_context(|| format!("{} at {at}", path.display()))?;
                Ok(buf.freeze())
            };
            plan.write_all(next).await?
        }
    };
    if !a.no_flush {
        plan.flush().await?;
    }
    report("wrote", a.output, plan.length, checksum, begun);
    group.close().await;
    Ok(())
}

/// Opens the file to write; without --length its length counts.
fn open_source(path: &Path, plan: &mut Plan, given: Option<u64>) -> anyhow::Result<std::fs::File> {
    let file = std::fs::File::open(path).with_context(|| path.display().to_string())?;
    let size = file.metadata()?.len();
    if given.is_none() {
        let block = u64::from(plan.ns.block_size());
        ensure!(
            size.is_multiple_of(block),
            "{}: {size} bytes are no multiple of the block size {block}",
            path.display()
        );
        ensure!(size <= plan.length, "{}: {size} bytes do not fit", path.display());
        plan.length = size;
    } else if size < plan.length {
        bail!("{}: has {size} bytes, --length asks for {}", path.display(), plan.length);
    }
    Ok(file)
}

pub(crate) async fn verify(a: Verify) -> anyhow::Result<()> {
    let group = connect(&a.subsystem).await?;
    let ns = namespace(&group, a.range.nsid)?;
    let shift = ns.block_shift;
    let plan = Plan::new(ns, &a.range, a.subsystem.io_timeout)?;
    let (begun, mut checksum) = (Instant::now(), 0);
    plan.read_all(|at, data| {
        if let Some(position) = pattern::first_difference(a.seed, at, &data) {
            return Err(Mismatch { seed: a.seed, position, block: position >> shift }.into());
        }
        checksum = crc32c::crc32c_append(checksum, &data);
        Ok(())
    })
    .await?;
    report("verified", a.output, plan.length, checksum, begun);
    group.close().await;
    Ok(())
}

pub(crate) async fn read(a: Read) -> anyhow::Result<()> {
    let group = connect(&a.subsystem).await?;
    let ns = namespace(&group, a.range.nsid)?;
    let plan = Plan::new(ns, &a.range, a.subsystem.io_timeout)?;
    let mut sink: Box<dyn std::io::Write> = match &a.to {
        None => Box::new(std::io::stdout().lock()),
        Some(path) => Box::new(std::fs::File::create(path).with_context(|| path.display().to_string())?),
    };
    plan.read_all(|_, data| Ok(sink.write_all(&data)?)).await?;
    sink.flush()?;
    group.close().await;
    Ok(())
}
