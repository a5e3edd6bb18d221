//! File I/O by `io_uring`, on the reactor. A disk that has next to nothing to do gets I/O at once; else submissions of one turn of the
//! reactor go to the kernel together. Completions wake the reactor through the ring's own file descriptor; while it spins, it looks at the ring itself
//! (`docs/adr/0093-the-spin-looks-at-the-disk.md`).

use std::cell::{Cell, RefCell};
use std::os::fd::{AsRawFd, RawFd};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use bytes::{Bytes, BytesMut};
use io_uring::{IoUring, opcode, squeue, types};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::Notify;

use super::engine::{Deallocate, FileEngine};
use super::medium::Medium;
use super::pool::{fallocate_error, fallocate_flags};
use crate::bdev::{IoError, IoFuture};
use crate::spin::{self, Source};

/// Submission queue entries; more I/O than that in one turn is submitted in several calls.
const ENTRIES: u32 = 256;
/// So many go to the kernel at once, and not only when the turn is over: a disk that gets all of a deep queue at its end has nothing to do
/// while the next turn is computed.
const SUBMIT: usize = 8;
/// Up to so many in flight go to the kernel at once: the disk works on them while the rest of the turn is computed.
const AT_ONCE: usize = 3;

/// What must stay where it is while the kernel works on it.
enum Payload {
    Read(BytesMut),
    Write(Bytes),
    None,
}

struct Slot {
    payload: Payload,
    /// Keeps the descriptor open until the kernel is done with it.
    _medium: Arc<Medium>,
    result: Option<i32>,
    waker: Option<Waker>,
    /// The future is gone; the completion frees the slot.
    abandoned: bool,
}

struct Shared {
    ring: RefCell<IoUring>,
    slots: RefCell<Slots>,
    unsubmitted: Cell<bool>,
    submit: Notify,
    /// Begun and not ended.
    in_flight: Cell<usize>,
}

impl Source for Shared {
    fn look(&self) {
        self.reap();
    }

    fn in_flight(&self) -> usize {
        self.in_flight.get()
    }
}

#[derive(Default)]
struct Slots {
    slots: Vec<Option<Slot>>,
    free: Vec<usize>,
}

impl Slots {
    fn insert(&mut self, slot: Slot) -> usize {
        let index = self.free.pop().unwrap_or_else(|| {
            self.slots.push(None);
            self.slots.len() - 1
        });
        self.slots[index] = Some(slot);
        index
    }

    fn remove(&mut self, index: usize) -> Option<Slot> {
        let slot = self.slots[index].take();
        self.free.push(index);
        slot
    }
}

/// The ring of the reactor.
pub(super) struct Ring(Rc<Shared>);

struct RingFd(RawFd);

impl AsRawFd for RingFd {
    fn as_raw_fd(&self) -> RawFd {
        self.0
    }
}

impl Ring {
    /// Sets a ring up; fails where the kernel or a seccomp filter does not allow it (`ENOSYS`, `EPERM`).
    pub(super) fn new() -> std::io::Result<Rc<Self>> {
        let ring = set_up()?;
        let fd = RingFd(ring.as_raw_fd());
        let shared = Rc::new(Shared {
            ring: RefCell::new(ring),
            slots: RefCell::new(Slots::default()),
            unsubmitted: Cell::new(false),
            submit: Notify::new(),
            in_flight: Cell::new(0),
        });
        // SAFETY: the descriptor is the ring's, which `drive` keeps alive for longer than `readiness`: both are its arguments, and
        // the later one is dropped first.
        #[allow(unsafe_code)]
        let readiness = unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE) }?;
        tokio::task::spawn_local(drive(Rc::clone(&shared), readiness));
        spin::watch(&shared);
        Ok(Rc::new(Self(shared)))
    }
}

/// A ring that does not interrupt the reactor for each completion, but has it look for them whenever it enters the kernel (Linux 6.0), or
/// a plain one.
fn set_up() -> std::io::Result<IoUring> {
    let mut builder = IoUring::builder();
    builder.dontfork().setup_cqsize(ENTRIES * 8);
    let plain = builder.clone();
    match builder.setup_coop_taskrun().setup_single_issuer().build(ENTRIES) {
        Err(e) if e.raw_os_error() == Some(libc::EINVAL) => plain.build(ENTRIES),
        ring => ring,
    }
}

async fn drive(shared: Rc<Shared>, readiness: AsyncFd<RingFd>) {
    loop {
        tokio::select! {
            biased;
            () = shared.submit.notified() => shared.submit_all(),
            ready = readiness.readable() => match ready {
                Ok(mut guard) => {
                    shared.reap();
                    guard.clear_ready();
                }
                Err(e) => {
                    tracing::error!(error = %e, "waiting for io_uring failed");
                    return;
                }
            },
        }
    }
}

impl Shared {
    fn push(&self, entry: &squeue::Entry) {
        let mut ring = self.ring.borrow_mut();
        loop {
            // SAFETY: the buffers and the file the entry points to are owned by its slot, which is only freed by `reap` (or by
            // `drop`, which waits for the kernel first).
            #[allow(unsafe_code)]
            let pushed = unsafe { ring.submission().push(entry) };
            if pushed.is_ok() {
                break;
            }
            if let Err(e) = ring.submit() {
                // EBUSY: completions have to be taken first; they wait in the kernel and nothing is lost.
                tracing::debug!(error = %e, "io_uring submission is busy");
                drop(ring);
                self.reap();
                ring = self.ring.borrow_mut();
            }
        }
        let queued = ring.submission().len();
        drop(ring);
        self.in_flight.set(self.in_flight.get() + 1);
        if queued >= SUBMIT || self.in_flight.get() <= AT_ONCE {
            self.submit();
        } else if !self.unsubmitted.replace(true) {
            self.submit.notify_one();
        }
    }

    fn submit_all(&self) {
        self.unsubmitted.set(false);
        self.submit();
        self.reap();
    }

    fn submit(&self) {
        let mut ring = self.ring.borrow_mut();
        if ring.submission().is_empty() {
            return;
        }
        if let Err(e) = ring.submit() {
            tracing::debug!(error = %e, "io_uring submission is busy, once more after completions");
            self.unsubmitted.set(true);
            self.submit.notify_one();
        }
    }

    fn reap(&self) {
        loop {
            // The borrows end before a waker runs.
            let Some((index, result)) =
                self.ring.borrow_mut().completion().next().map(|c| (c.user_data(), c.result()))
            else {
                return;
            };
            let Ok(index) = usize::try_from(index) else { continue };
            let mut slots = self.slots.borrow_mut();
            let Some(slot) = slots.slots[index].as_mut() else { continue };
            slot.result = Some(result);
            self.in_flight.set(self.in_flight.get() - 1);
            spin::disk_active();
            let waker = slot.waker.take();
            let dead = slot.abandoned.then(|| slots.remove(index));
            drop(slots);
            drop(dead);
            if let Some(waker) = waker {
                waker.wake();
            }
        }
    }

    fn start(
        self: &Rc<Self>,
        medium: &Arc<Medium>,
        payload: Payload,
        entry: impl FnOnce(types::Fd, &mut Payload) -> squeue::Entry,
    ) -> Completion {
        let slot = Slot { payload, _medium: Arc::clone(medium), result: None, waker: None, abandoned: false };
        let index = self.slots.borrow_mut().insert(slot);
        let entry = {
            let mut slots = self.slots.borrow_mut();
            let slot = slots.slots[index].as_mut();
            slot.map(|s| entry(types::Fd(medium.file.as_raw_fd()), &mut s.payload).user_data(index as u64))
        };
        if let Some(entry) = entry {
            self.push(&entry);
        }
        Completion { shared: Rc::clone(self), index: Some(index) }
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        while self.in_flight.get() > 0 {
            if self.ring.get_mut().submit_and_wait(1).is_err_and(|e| e.raw_os_error() != Some(libc::EINTR)) {
                // The kernel may still write into the buffers: leaking them is the only safe way out.
                std::mem::forget(std::mem::take(self.slots.get_mut()));
                return;
            }
            self.reap();
        }
    }
}

/// Resolves to the result of an operation and gives its payload back.
struct Completion {
    shared: Rc<Shared>,
    index: Option<usize>,
}

impl Future for Completion {
    type Output = (Payload, i32);

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let Some(index) = self.index else { return Poll::Ready((Payload::None, -libc::ECANCELED)) };
        let finished = {
            let mut slots = self.shared.slots.borrow_mut();
            match slots.slots[index].as_mut() {
                Some(slot) if slot.result.is_none() => {
                    slot.waker = Some(cx.waker().clone());
                    return Poll::Pending;
                }
                _ => slots.remove(index),
            }
        };
        self.index = None;
        let (payload, result) =
            finished.map_or((Payload::None, -libc::ECANCELED), |s| (s.payload, s.result.unwrap_or(0)));
        Poll::Ready((payload, result))
    }
}

impl Drop for Completion {
    fn drop(&mut self) {
        let Some(index) = self.index else { return };
        let mut slots = self.shared.slots.borrow_mut();
        let finished = slots.slots[index].as_ref().is_none_or(|s| s.result.is_some());
        if finished {
            slots.remove(index);
        } else if let Some(slot) = slots.slots[index].as_mut() {
            slot.abandoned = true;
            slot.waker = None;
        }
    }
}

/// How much of `len` bytes an operation did; EINTR and EAGAIN count as nothing.
fn progress(result: i32) -> Result<usize, IoError> {
    match result {
        0 => Err(IoError::Os { errno: libc::EIO }),
        n if n > 0 => Ok(usize::try_from(n).unwrap_or(0)),
        e if e == -libc::EINTR || e == -libc::EAGAIN => Ok(0),
        e if e == -libc::ENOSPC => Err(IoError::NoSpace),
        e => Err(IoError::Os { errno: -e }),
    }
}

fn length(left: usize) -> u32 {
    u32::try_from(left).unwrap_or(1 << 30)
}

impl FileEngine for Ring {
    fn read(&self, medium: &Arc<Medium>, offset: u64, mut buf: BytesMut) -> IoFuture<BytesMut> {
        let (shared, medium) = (Rc::clone(&self.0), Arc::clone(medium));
        Box::pin(async move {
            let (mut done, len) = (0, buf.len());
            while done < len {
                let op = shared.start(&medium, Payload::Read(buf), |fd, payload| {
                    let target = match payload {
                        Payload::Read(b) => b[done..].as_mut_ptr(),
                        Payload::Write(_) | Payload::None => std::ptr::null_mut(),
                    };
                    opcode::Read::new(fd, target, length(len - done)).offset(offset + done as u64).build()
                });
                let (Payload::Read(back), result) = op.await else { return Err(IoError::Aborted) };
                buf = back;
                done += progress(result)?;
            }
            Ok(buf)
        })
    }

    fn write(&self, medium: &Arc<Medium>, offset: u64, data: Bytes, dsync: bool) -> IoFuture<()> {
        let (shared, medium) = (Rc::clone(&self.0), Arc::clone(medium));
        let flags = if dsync { libc::RWF_DSYNC } else { 0 };
        Box::pin(async move {
            let mut done = 0;
            while done < data.len() {
                let left = data.slice(done..);
                let len = length(left.len());
                let op = shared.start(&medium, Payload::Write(left), |fd, payload| {
                    let source = match payload {
                        Payload::Write(b) => b.as_ptr(),
                        Payload::Read(_) | Payload::None => std::ptr::null(),
                    };
                    opcode::Write::new(fd, source, len).offset(offset + done as u64).rw_flags(flags).build()
                });
                done += progress(op.await.1)?;
            }
            Ok(())
        })
    }

    fn sync(&self, medium: &Arc<Medium>) -> IoFuture<()> {
        let (shared, medium) = (Rc::clone(&self.0), Arc::clone(medium));
        Box::pin(async move {
            let op = shared.start(&medium, Payload::None, |fd, _| {
                opcode::Fsync::new(fd).flags(types::FsyncFlags::DATASYNC).build()
            });
            match op.await.1 {
                0 => Ok(()),
                e => Err(IoError::Os { errno: -e }),
            }
        })
    }

    fn deallocate(&self, medium: &Arc<Medium>, how: Deallocate, offset: u64, len: u64) -> IoFuture<()> {
        let (shared, medium) = (Rc::clone(&self.0), Arc::clone(medium));
        let mode = fallocate_flags(how).bits().cast_signed();
        Box::pin(async move {
            let op = shared.start(&medium, Payload::None, |fd, _| {
                opcode::Fallocate::new(fd, len).offset(offset).mode(mode).build()
            });
            match op.await.1 {
                0 => Ok(()),
                e => Err(fallocate_error(rustix::io::Errno::from_raw_os_error(-e))),
            }
        })
    }
}

#[cfg(test)]
#[path = "ring_tests.rs"]
mod tests;
