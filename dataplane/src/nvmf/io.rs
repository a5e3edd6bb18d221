//! I/O commands on namespaces (NVM Command Set 1.0, 3.2).

use std::rc::Rc;

use bytes::Bytes;
use futures::future::LocalBoxFuture;
use vda_nvme::cmd::{DsmRange, Sqe, io};
use vda_nvme::controller::{Compare, Request};
use vda_nvme::log::AnaState;
use vda_nvme::status::Status;

use super::controller::Controller;
use super::namespace::Busy;
use super::reservation;
use crate::bdev::{Descriptor, FusedError, IoError, IoType, Waiting};
use crate::page_buffers::PageBuffers;

/// End of a command.
pub(super) struct Done {
    pub(super) tag: u16,
    pub(super) status: Status,
    pub(super) data: Option<Bytes>,
    /// End of the first half of a fused operation, if the command is the second one.
    pub(super) first: Option<(u16, Status)>,
}

impl Done {
    /// End of a command that is no fused operation.
    pub(super) fn new(tag: u16, status: Status, data: Option<Bytes>) -> Self {
        Self { tag, status, data, first: None }
    }
}

/// The commands of a request: one, or both halves of a fused operation.
#[derive(Clone, Copy)]
pub(super) struct Tags {
    pub(super) tag: u16,
    first: Option<u16>,
}

impl Tags {
    pub(super) fn of(r: &Request) -> Self {
        Self { tag: r.tag, first: r.compare.as_ref().map(|compare| compare.tag) }
    }

    /// The end of what was refused, or did not begin: both halves of a fused operation, and for the same reason.
    pub(super) fn refused(self, status: Status) -> Done {
        Done { tag: self.tag, status, data: None, first: self.first.map(|first| (first, status)) }
    }
}

type Outcome = Result<Option<Bytes>, Status>;

/// A command that was accepted.
pub(super) struct Begun {
    /// Gives the end. It must be driven to its end, also when the connection is gone.
    pub(super) io: LocalBoxFuture<'static, Done>,
    /// A limit of the bdev holds the command back: until that is over it may be dropped, and has never happened.
    pub(super) wait: Option<Waiting>,
}

/// Begins a command.
///
/// # Errors
/// The status of a command that is refused.
pub(super) fn begin(c: &Controller, buffers: &PageBuffers, mut r: Request) -> Result<Begun, Status> {
    if !c.state.borrow().properties.is_ready() {
        return Err(Status::SEQUENCE_ERROR.dnr());
    }
    let ns = c.namespace(r.sqe.nsid).ok_or(Status::INVALID_NAMESPACE.dnr())?;
    match c.ana_state(ns.ana_group.get()) {
        AnaState::Optimized | AnaState::NonOptimized => {}
        AnaState::Inaccessible => return Err(Status::ANA_INACCESSIBLE),
        AnaState::PersistentLoss => return Err(Status::ANA_PERSISTENT_LOSS),
        AnaState::Change => return Err(Status::ANA_TRANSITION),
    }
    // Whoever may write may compare: of a fused operation the second half is looked at.
    ns.reservations.check(c, &r.sqe)?;
    if reservation::is_command(&r.sqe) {
        return Ok(Begun { io: reservation::begin(c, &ns, r), wait: None });
    }
    let (bdev, busy) = ns.begin().ok_or(Status::INVALID_NAMESPACE.dnr())?;
    bdev.take_wait();
    let io = match r.compare.take() {
        Some(compare) => compare_and_write(&bdev, busy, &r, *compare),
        None => submit(&bdev, busy, buffers, r)?,
    };
    Ok(Begun { io, wait: bdev.take_wait() })
}

fn submit(
    bdev: &Rc<Descriptor>,
    busy: Busy,
    buffers: &PageBuffers,
    r: Request,
) -> Result<LocalBoxFuture<'static, Done>, Status> {
    let tag = r.tag;
    Ok(match r.sqe.opcode {
        io::READ => {
            let buffer = buffers.take(check_length(bdev, &r, r.buffer_len as usize)?);
            let read = bdev.read(r.sqe.slba(), buffer);
            finish(tag, busy, async move { read.await.map(|b| Some(b.freeze())).map_err(status) })
        }
        io::WRITE => {
            let length = check_length(bdev, &r, r.data.len())?;
            let write = bdev.write(r.sqe.slba(), r.data.slice(..length), r.sqe.fua());
            finish(tag, busy, async move { write.await.map(|()| None).map_err(status) })
        }
        io::FLUSH => {
            let flush = bdev.flush();
            finish(tag, busy, async move { flush.await.map(|()| None).map_err(status) })
        }
        io::WRITE_ZEROES => {
            check_range(bdev, r.sqe.slba(), r.sqe.blocks().into())?;
            let zero = bdev.write_zeroes(r.sqe.slba(), r.sqe.blocks().into(), r.sqe.fua());
            finish(tag, busy, async move { zero.await.map(|()| None).map_err(status) })
        }
        io::COMPARE => {
            let length = check_length(bdev, &r, r.data.len())?;
            let compare = bdev.compare(r.sqe.slba(), r.data.slice(..length));
            finish(tag, busy, async move { compare.await.map(|()| None).map_err(status) })
        }
        io::DATASET_MANAGEMENT => {
            let ranges = dsm_ranges(bdev, &r)?;
            finish(tag, busy, deallocate(Rc::clone(bdev), ranges))
        }
        _ => return Err(Status::INVALID_OPCODE.dnr()),
    })
}

fn finish(
    tag: u16,
    busy: Busy,
    io: impl Future<Output = Outcome> + 'static,
) -> LocalBoxFuture<'static, Done> {
    Box::pin(async move {
        let outcome = io.await;
        drop(busy);
        match outcome {
            Ok(data) => Done::new(tag, Status::SUCCESS, data),
            Err(status) => Done::new(tag, status, None),
        }
    })
}

/// A fused operation (Base 3.4.2): the write happens if the blocks hold what the first command says, and nothing comes in between.
///
/// The half that fails says why, the other one that it has; a compare that was followed by a write that failed is a success.
fn compare_and_write(
    bdev: &Descriptor,
    busy: Busy,
    r: &Request,
    compare: Compare,
) -> LocalBoxFuture<'static, Done> {
    let (tag, first) = (r.tag, compare.tag);
    let end = move |compared: Status, written: Status| Done {
        tag,
        status: written,
        data: None,
        first: Some((first, compared)),
    };
    let length = match check_pair(bdev, r, &compare) {
        Ok(length) => length,
        Err(status) => return Box::pin(std::future::ready(end(status, Status::FAILED_FUSED))),
    };
    let (expected, data) = (compare.data.slice(..length), r.data.slice(..length));
    let io = bdev.compare_and_write(r.sqe.slba(), expected, data, r.sqe.fua());
    Box::pin(async move {
        let outcome = io.await;
        drop(busy);
        match outcome {
            Ok(()) => end(Status::SUCCESS, Status::SUCCESS),
            Err(FusedError::Compare(e)) => end(status(e), Status::FAILED_FUSED),
            Err(FusedError::Write(e)) => end(Status::SUCCESS, status(e)),
        }
    })
}

/// Bytes of the range of both commands.
fn check_pair(bdev: &Descriptor, r: &Request, compare: &Compare) -> Result<usize, Status> {
    let range = |sqe: &Sqe| (sqe.nsid, sqe.slba(), sqe.blocks());
    if range(&r.sqe) != range(&compare.sqe) || r.sqe.blocks() > COMPARE_AND_WRITE_BLOCKS {
        return Err(Status::INVALID_FIELD.dnr());
    }
    let length = check_length(bdev, r, r.data.len())?;
    if length > compare.data.len() {
        return Err(Status::DATA_SGL_LENGTH_INVALID.dnr());
    }
    Ok(length)
}

/// Blocks of a fused operation at most (ACWU, NACWU: zero based, and 0).
const COMPARE_AND_WRITE_BLOCKS: u32 = 1;

/// Bytes of the command's range; the transfer has to hold all of it.
fn check_length(bdev: &Descriptor, r: &Request, transfer: usize) -> Result<usize, Status> {
    check_range(bdev, r.sqe.slba(), r.sqe.blocks().into())?;
    let length = r.sqe.blocks() as usize * bdev.block_size() as usize;
    if length > transfer {
        return Err(Status::DATA_SGL_LENGTH_INVALID.dnr());
    }
    Ok(length)
}

fn check_range(bdev: &Descriptor, lba: u64, blocks: u64) -> Result<(), Status> {
    match lba.checked_add(blocks) {
        Some(end) if end <= bdev.num_blocks() => Ok(()),
        _ => Err(Status::LBA_OUT_OF_RANGE.dnr()),
    }
}

fn dsm_ranges(bdev: &Descriptor, r: &Request) -> Result<Vec<DsmRange>, Status> {
    let count = (r.sqe.cdw10[0] & 0xff) as usize + 1;
    let ranges = DsmRange::decode_all(&r.data, count)?;
    for range in &ranges {
        check_range(bdev, range.slba, range.blocks.into())?;
    }
    // Without the deallocate attribute the command is a hint that needs nothing done; so it is where unmap does not exist.
    let wanted = r.sqe.cdw10[1] & io::DSM_DEALLOCATE != 0 && bdev.supports(IoType::Unmap);
    Ok(if wanted { ranges } else { Vec::new() })
}

async fn deallocate(bdev: Rc<Descriptor>, ranges: Vec<DsmRange>) -> Outcome {
    for r in ranges.into_iter().filter(|r| r.blocks > 0) {
        bdev.unmap(r.slba, r.blocks.into()).await.map_err(status)?;
    }
    Ok(None)
}

/// Status of a bdev's error.
pub(super) fn status(e: IoError) -> Status {
    let (sct, sc) = e.nvme_status();
    let status = Status::new(sct, sc);
    if e.do_not_retry() { status.dnr() } else { status }
}
