//! An open bdev: the only way to do I/O on one.

use std::cell::{Cell, RefCell};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Instant;

use bytes::{Bytes, BytesMut};
use uuid::Uuid;

use super::atomic::Range;
use super::qos::Place;
use super::registry::Entry;
use super::stats::IoClass;
use super::{BdevError, IoError, IoFuture, IoType};

/// I/O of a bdev whose callers have dropped it and that has not ended: with so much of it no other I/O begins. A caller that gives up on its I/O and
/// tries again, for as long as the bdev answers nothing, would otherwise pile it up.
const MAX_ORPHANS: usize = 1024;

/// How a module claims a bdev (SPDK's `spdk_bdev_claim_type`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClaimType {
    /// Only this module writes (raid members, namespaces, delay and error bdevs).
    ExclusiveWrite,
    /// Only this descriptor writes, others may read (lvstores).
    ReadManyWriteOne,
    /// Nobody writes, and any number of descriptors claim it like that (external snapshots).
    ReadManyWriteNone,
}

impl ClaimType {
    /// As `bdev_get_bdevs` spells it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::ExclusiveWrite => "exclusive_write",
            Self::ReadManyWriteOne => "read_many_write_one",
            Self::ReadManyWriteNone => "read_many_write_none",
        }
    }
}

pub(super) struct Claim {
    pub(super) kind: ClaimType,
    pub(super) module: &'static str,
    /// More than one only if nobody writes.
    holders: Vec<u64>,
}

/// Why a compare-and-write failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FusedError {
    /// The comparison did; nothing was written.
    Compare(IoError),
    /// The write did.
    Write(IoError),
}

/// An open bdev. Closed, and its claim released, when dropped; I/O begun before goes on to its end.
pub struct Descriptor {
    entry: Rc<Entry>,
    id: u64,
    write: bool,
    wait: RefCell<Option<Waiting>>,
}

/// An I/O that a limit holds back (`bdev_set_qos_limit`): until its turn comes, dropping it means that it never happens.
#[derive(Clone, Debug, Default)]
pub struct Waiting(Rc<Cell<bool>>);

impl Waiting {
    /// Whether the I/O has begun.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.0.get()
    }
}

impl Drop for Descriptor {
    fn drop(&mut self) {
        let entry = &self.entry;
        entry.holders.borrow_mut().remove(&self.id);
        if self.write {
            entry.writers.set(entry.writers.get() - 1);
        }
        let mut claim = entry.claim.borrow_mut();
        if let Some(held) = claim.as_mut() {
            held.holders.retain(|id| *id != self.id);
            if held.holders.is_empty() {
                *claim = None;
            }
        }
        drop(claim);
        if entry.removing.get() {
            entry.quiesced.notify_waiters();
            entry.quiesced.notify_one();
        }
    }
}

impl std::fmt::Debug for Descriptor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Descriptor").field("bdev", &self.entry.name).field("write", &self.write).finish()
    }
}

impl Descriptor {
    pub(super) fn new(entry: Rc<Entry>, id: u64, write: bool) -> Self {
        if write {
            entry.writers.set(entry.writers.get() + 1);
        }
        Self { entry, id, write, wait: RefCell::default() }
    }

    /// The bdev's name (never an alias).
    pub fn name(&self) -> &str {
        &self.entry.name
    }

    /// Bytes in a block.
    pub fn block_size(&self) -> u32 {
        self.entry.bdev.block_size()
    }

    /// Blocks it has now.
    pub fn num_blocks(&self) -> u64 {
        self.entry.bdev.num_blocks()
    }

    pub fn uuid(&self) -> Uuid {
        self.entry.bdev.uuid()
    }

    pub fn product_name(&self) -> &'static str {
        self.entry.bdev.product_name()
    }

    pub fn supports(&self, io: IoType) -> bool {
        self.entry.bdev.supports(io)
    }

    /// Whether the bdev is on its way out.
    pub fn is_removing(&self) -> bool {
        self.entry.removing.get()
    }

    /// Takes the bdev for `module` until the descriptor is dropped: others can not open it for writing, nor claim it.
    /// A descriptor that was opened for reading becomes writable, as in SPDK, unless the claim is that nobody writes.
    ///
    /// # Errors
    /// [`BdevError::Claimed`] if it is claimed; [`BdevError::Busy`] if somebody else has it open for writing.
    pub fn claim(&mut self, kind: ClaimType, module: &'static str) -> Result<(), BdevError> {
        let name = || self.entry.name.clone();
        let nobody_writes = kind == ClaimType::ReadManyWriteNone;
        if let Some(claim) = self.entry.claim.borrow_mut().as_mut() {
            if nobody_writes && claim.kind == kind {
                claim.holders.push(self.id);
                return Ok(());
            }
            return Err(BdevError::Claimed { name: name(), by: claim.module.to_owned() });
        }
        if self.entry.writers.get() > usize::from(self.write) {
            return Err(BdevError::Claimed { name: name(), by: "another writer".to_owned() });
        }
        if nobody_writes && self.write {
            return Err(BdevError::Claimed { name: name(), by: "this writer".to_owned() });
        }
        if !self.write && !nobody_writes {
            self.write = true;
            self.entry.writers.set(self.entry.writers.get() + 1);
        }
        self.entry.claim.replace(Some(Claim { kind, module, holders: vec![self.id] }));
        Ok(())
    }

    /// Reads `buf.len()` bytes from block `lba` on into `buf` and gives it back.
    pub fn read(&self, lba: u64, buf: BytesMut) -> impl Future<Output = Result<BytesMut, IoError>> + use<> {
        let bytes = buf.len() as u64;
        let admitted = self.check(IoClass::Read, lba, bytes);
        let bdev = Rc::clone(&self.entry.bdev);
        self.submit(IoClass::Read, bytes, None, admitted, move || bdev.read(lba, buf))
    }

    /// Writes `data` from block `lba` on; durable on completion if `fua`.
    pub fn write(
        &self,
        lba: u64,
        data: Bytes,
        fua: bool,
    ) -> impl Future<Output = Result<(), IoError>> + use<> {
        let bytes = data.len() as u64;
        let admitted = self.check(IoClass::Write, lba, bytes);
        let bdev = Rc::clone(&self.entry.bdev);
        self.submit(IoClass::Write, bytes, Some(self.range(lba, bytes)), admitted, move || {
            bdev.write(lba, data, fua)
        })
    }

    /// The wait of the I/O that was submitted last, if a limit holds it back.
    pub fn take_wait(&self) -> Option<Waiting> {
        self.wait.take()
    }

    /// Makes everything acknowledged so far durable.
    pub fn flush(&self) -> impl Future<Output = Result<(), IoError>> + use<> {
        let bdev = Rc::clone(&self.entry.bdev);
        let admitted = if self.entry.removing.get() { Err(IoError::Removed) } else { Ok(()) };
        self.submit(IoClass::Flush, 0, None, admitted, move || bdev.flush())
    }

    /// Deallocates blocks.
    pub fn unmap(&self, lba: u64, blocks: u64) -> impl Future<Output = Result<(), IoError>> + use<> {
        let bytes = blocks.saturating_mul(u64::from(self.block_size()));
        let admitted = self.check(IoClass::Unmap, lba, bytes);
        let bdev = Rc::clone(&self.entry.bdev);
        self.submit(IoClass::Unmap, bytes, Some(self.range(lba, bytes)), admitted, move || {
            bdev.unmap(lba, blocks)
        })
    }

    /// Makes blocks read as zeros.
    pub fn write_zeroes(
        &self,
        lba: u64,
        blocks: u64,
        fua: bool,
    ) -> impl Future<Output = Result<(), IoError>> + use<> {
        let bytes = blocks.saturating_mul(u64::from(self.block_size()));
        let admitted = self.check(IoClass::WriteZeroes, lba, bytes);
        let bdev = Rc::clone(&self.entry.bdev);
        self.submit(IoClass::WriteZeroes, bytes, Some(self.range(lba, bytes)), admitted, move || {
            bdev.write_zeroes(lba, blocks, fua)
        })
    }

    /// Compares blocks with `data`; [`IoError::Miscompare`] if they differ.
    pub fn compare(&self, lba: u64, data: Bytes) -> impl Future<Output = Result<(), IoError>> + use<> {
        let bytes = data.len() as u64;
        let admitted = self.check(IoClass::Compare, lba, bytes);
        let bdev = Rc::clone(&self.entry.bdev);
        self.submit(IoClass::Compare, bytes, None, admitted, move || bdev.compare(lba, data))
    }

    /// Writes `data` from block `lba` on if the blocks hold exactly `expected`: nobody changes them in between. Counts as a write.
    ///
    /// # Errors
    /// Which of the two failed: [`IoError::Miscompare`] if the blocks hold something else. When comparing failed nothing was written.
    pub fn compare_and_write(
        &self,
        lba: u64,
        expected: Bytes,
        data: Bytes,
        fua: bool,
    ) -> impl Future<Output = Result<(), FusedError>> + use<> {
        let bytes = data.len() as u64;
        let admitted = self.check(IoClass::Write, lba, bytes);
        let entry = Rc::clone(&self.entry);
        let range = self.range(lba, bytes);
        let equal = Rc::new(Cell::new(false));
        let compared = Rc::clone(&equal);
        let io = self.submit(IoClass::Write, bytes, None, admitted, move || {
            Box::pin(async move {
                let _closed = entry.atomic.close(range).await;
                entry.bdev.compare(lba, expected).await?;
                compared.set(true);
                entry.bdev.write(lba, data, fua).await
            })
        });
        async move {
            io.await.map_err(|e| if equal.get() { FusedError::Write(e) } else { FusedError::Compare(e) })
        }
    }

    fn range(&self, lba: u64, bytes: u64) -> Range {
        (lba, lba.saturating_add(bytes / u64::from(self.block_size())))
    }

    fn check(&self, class: IoClass, lba: u64, bytes: u64) -> Result<(), IoError> {
        if self.entry.removing.get() {
            return Err(IoError::Removed);
        }
        let block = u64::from(self.block_size());
        let blocks = bytes / block;
        let in_range = blocks > 0
            && bytes.is_multiple_of(block)
            && lba.checked_add(blocks).is_some_and(|end| end <= self.num_blocks());
        if !in_range {
            return Err(IoError::InvalidRange);
        }
        let writes = matches!(class, IoClass::Write | IoClass::WriteZeroes | IoClass::Unmap);
        if writes && !self.write {
            return Err(IoError::WriteProtected);
        }
        Ok(())
    }

    /// Wraps an I/O with admission, throttling, accounting and the guarantee that it runs to its end. `changed` are the blocks that it changes.
    fn submit<T: 'static, B: FnOnce() -> IoFuture<T>>(
        &self,
        class: IoClass,
        bytes: u64,
        changed: Option<Range>,
        admitted: Result<(), IoError>,
        begin: B,
    ) -> impl Future<Output = Result<T, IoError>> + use<T, B> {
        let turn = if admitted.is_ok() { Turn::of(&self.entry, class, bytes) } else { None };
        let wait = turn.is_some().then(Waiting::default);
        self.wait.replace(wait.clone());
        let entry = Rc::clone(&self.entry);
        let mut inflight = admitted.is_ok().then(|| InFlight::begin(Rc::clone(&entry)));
        async move {
            admitted?;
            let begun = Instant::now();
            if let Some(turn) = turn {
                turn.comes().await;
            }
            if entry.orphaned.get() >= MAX_ORPHANS {
                fewer_orphans(&entry).await;
            }
            if let Some(range) = changed {
                let _alone = if entry.atomic.is_open() { None } else { entry.atomic.open(range).await };
                if let Some(inflight) = &mut inflight {
                    inflight.change = Some(entry.atomic.begin());
                }
            }
            if let Some(wait) = wait {
                wait.0.set(true);
            }
            let result = Driven { io: Some(begin()), inflight }.await;
            match &result {
                Ok(_) => entry.stats.completed(class, bytes, begun),
                Err(e) => entry.stats.failed(class, begun, *e),
            }
            result
        }
    }
}

async fn fewer_orphans(entry: &Entry) {
    loop {
        let gone = entry.orphan_gone.notified();
        if entry.orphaned.get() < MAX_ORPHANS {
            return;
        }
        gone.await;
    }
}

/// Counts an I/O whose caller is gone while it lives.
struct Orphan(Rc<Entry>);

impl Orphan {
    fn new(entry: &Rc<Entry>) -> Self {
        entry.orphaned.set(entry.orphaned.get() + 1);
        Self(Rc::clone(entry))
    }
}

impl Drop for Orphan {
    fn drop(&mut self) {
        self.0.orphaned.set(self.0.orphaned.get() - 1);
        self.0.orphan_gone.notify_waiters();
    }
}

/// The place of an I/O that a limit holds back; given back if the I/O is dropped before its turn comes, even before it was polled.
struct Turn {
    entry: Rc<Entry>,
    class: IoClass,
    bytes: u64,
    place: Place,
    came: bool,
}

impl Turn {
    /// `None` if the I/O may begin at once.
    fn of(entry: &Rc<Entry>, class: IoClass, bytes: u64) -> Option<Self> {
        let place = entry.throttle.admit(class, bytes, Instant::now())?;
        Some(Self { entry: Rc::clone(entry), class, bytes, place, came: false })
    }

    async fn comes(mut self) {
        let entry = Rc::clone(&self.entry);
        entry.throttle.wait(self.class, self.bytes, &mut self.place).await;
        self.came = true;
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        if !self.came {
            self.entry.throttle.refund(self.class, self.bytes, self.place);
        }
    }
}

/// Counts an I/O as in flight on its bdev while it lives, and as a change of its blocks from when it has begun.
struct InFlight {
    entry: Rc<Entry>,
    change: Option<usize>,
}

impl InFlight {
    fn begin(entry: Rc<Entry>) -> Self {
        entry.inflight.set(entry.inflight.get() + 1);
        Self { entry, change: None }
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        let entry = &self.entry;
        if let Some(change) = self.change {
            entry.atomic.end(change);
        }
        entry.inflight.set(entry.inflight.get() - 1);
        if entry.removing.get() && entry.inflight.get() == 0 {
            entry.quiesced.notify_waiters();
            entry.quiesced.notify_one();
        }
    }
}

/// An I/O that is handed to the reactor if its caller drops it, so that it always ends.
struct Driven<T: 'static> {
    io: Option<IoFuture<T>>,
    inflight: Option<InFlight>,
}

impl<T: 'static> Future for Driven<T> {
    type Output = Result<T, IoError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let Some(io) = self.io.as_mut() else { return Poll::Ready(Err(IoError::Aborted)) };
        let result = std::task::ready!(io.as_mut().poll(cx));
        self.io = None;
        self.inflight = None;
        Poll::Ready(result)
    }
}

impl<T: 'static> Drop for Driven<T> {
    fn drop(&mut self) {
        let (Some(io), Some(inflight)) = (self.io.take(), self.inflight.take()) else { return };
        let orphans = inflight.entry.orphans.clone();
        let orphan = Orphan::new(&inflight.entry);
        // When the reactor is gone there is nobody left to finish it.
        let _ = orphans.send(Box::pin(async move {
            let _ = io.await;
            drop((inflight, orphan));
        }));
    }
}

#[cfg(test)]
#[path = "descriptor_tests.rs"]
mod tests;
