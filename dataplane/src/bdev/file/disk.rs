//! The bdev over a file or a block device.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use futures::future::LocalBoxFuture;
use serde_json::{Value, json};
use uuid::Uuid;

use super::engine::{Deallocate, FileEngine};
use super::medium::Medium;
use super::{FileModule, FileParams};
use crate::bdev::{Bdev, IoError, IoFuture, IoType};
use crate::page_buffers::PageBuffers;

/// Zeros are written in pieces of this size where the file system can not make a hole.
const ZERO_PIECE: usize = 1024 * 1024;

/// Aligned, as direct I/O wants it.
#[repr(align(4096))]
struct Zeros([u8; ZERO_PIECE]);
static ZEROS: Zeros = Zeros([0; ZERO_PIECE]);

pub(super) struct Disk {
    pub(super) engine: Rc<dyn FileEngine>,
    pub(super) buffers: Rc<PageBuffers>,
    pub(super) medium: Arc<Medium>,
    pub(super) params: FileParams,
    pub(super) block_size: u32,
    pub(super) num_blocks: Cell<u64>,
    pub(super) uuid: Uuid,
    /// Why data that was acknowledged may be lost.
    pub(super) lost: Rc<Cell<Option<IoError>>>,
}

impl Disk {
    fn at(&self, lba: u64) -> u64 {
        lba * u64::from(self.block_size)
    }

    /// Whether the medium takes this buffer as it is.
    fn suits(&self, buf: &[u8]) -> bool {
        self.medium.direct.is_none_or(|align| buf.as_ptr().addr().is_multiple_of(align))
    }

    fn read_through_copy(&self, offset: u64, mut buf: BytesMut) -> IoFuture<BytesMut> {
        let buffers = Rc::clone(&self.buffers);
        let read = self.engine.read(&self.medium, offset, buffers.take(buf.len()));
        Box::pin(async move {
            let copy = read.await?;
            buf.copy_from_slice(&copy);
            buffers.give(copy);
            Ok(buf)
        })
    }

    fn write_from_copy(&self, offset: u64, data: &[u8], fua: bool) -> IoFuture<()> {
        let buffers = Rc::clone(&self.buffers);
        let mut copy = buffers.take(data.len());
        copy.copy_from_slice(data);
        let copy = copy.freeze();
        let write = self.engine.write(&self.medium, offset, copy.clone(), fua);
        Box::pin(async move {
            let written = write.await;
            buffers.give_bytes(copy);
            written
        })
    }

    /// Makes what was acknowledged durable. Once that failed it fails for good: the system reports what it could not write to one caller only,
    /// and forgets; but the volumes on this bdev flush each for itself, and the next one must not hear that all is well.
    fn sync(&self) -> IoFuture<()> {
        let (lost, name) = (Rc::clone(&self.lost), self.params.name.clone());
        let synced = self.engine.sync(&self.medium);
        Box::pin(async move {
            if let Some(e) = lost.get() {
                return Err(e);
            }
            let result = synced.await;
            if let Err(error) = result {
                tracing::error!(bdev = %name, %error, "data could not be made durable: every flush fails until the bdev is made anew");
                lost.set(Some(error));
            }
            result
        })
    }

    /// Zeros a byte range by the cheapest means that the file supports.
    fn zero(&self, offset: u64, len: u64, fua: bool) -> IoFuture<()> {
        let (engine, medium) = (Rc::clone(&self.engine), Arc::clone(&self.medium));
        let synced = fua.then(|| self.sync());
        // A hole in a file costs nothing; on a disk zeroing must not depend on discard.
        let first = if medium.is_block_device { Deallocate::Zero } else { Deallocate::Hole };
        let second = if medium.is_block_device { Deallocate::Hole } else { Deallocate::Zero };
        Box::pin(async move {
            let mut result = engine.deallocate(&medium, first, offset, len).await;
            if result == Err(IoError::Unsupported) {
                result = engine.deallocate(&medium, second, offset, len).await;
            }
            if result == Err(IoError::Unsupported) {
                result = write_zeros(&engine, &medium, offset, len).await;
            }
            result?;
            match synced {
                Some(synced) => synced.await,
                None => Ok(()),
            }
        })
    }
}

async fn write_zeros(
    engine: &Rc<dyn FileEngine>,
    medium: &Arc<Medium>,
    offset: u64,
    len: u64,
) -> Result<(), IoError> {
    let (mut at, end) = (offset, offset + len);
    while at < end {
        let n = usize::try_from(end - at).map_or(ZERO_PIECE, |left| left.min(ZERO_PIECE));
        engine.write(medium, at, Bytes::from_static(&ZEROS.0[..n]), false).await?;
        at += n as u64;
    }
    Ok(())
}

impl Bdev for Disk {
    fn product_name(&self) -> &'static str {
        match self.params.module {
            FileModule::Aio => "AIO disk",
            FileModule::Uring => "URING bdev",
        }
    }
    fn module(&self) -> &'static str {
        self.params.module.as_str()
    }
    fn block_size(&self) -> u32 {
        self.block_size
    }
    fn num_blocks(&self) -> u64 {
        self.num_blocks.get()
    }
    fn uuid(&self) -> Uuid {
        self.uuid
    }
    fn supports(&self, io: IoType) -> bool {
        match io {
            IoType::Read | IoType::Flush | IoType::Reset | IoType::Compare => true,
            IoType::Write | IoType::WriteZeroes | IoType::Unmap => !self.params.readonly,
            IoType::CompareAndWrite | IoType::Abort => false,
        }
    }
    fn driver_specific(&self) -> Value {
        let p = &self.params;
        match p.module {
            FileModule::Aio => json!({"aio": {
                "filename": p.filename,
                "block_size_override": p.block_size.is_some_and(|b| b != 0),
                "readonly": p.readonly,
                "fallocate": p.fallocate,
                "nowait": false,
            }}),
            FileModule::Uring => json!({"uring": {"filename": p.filename}}),
        }
    }
    fn read(&self, lba: u64, buf: BytesMut) -> IoFuture<BytesMut> {
        if self.suits(&buf) {
            return self.engine.read(&self.medium, self.at(lba), buf);
        }
        self.read_through_copy(self.at(lba), buf)
    }
    fn write(&self, lba: u64, data: Bytes, fua: bool) -> IoFuture<()> {
        if self.params.readonly {
            return Box::pin(std::future::ready(Err(IoError::WriteProtected)));
        }
        // Through the page cache a durable write that fails may do so for what others wrote: that is a flush, and remembered as one.
        let flush = (fua && self.medium.direct.is_none()).then(|| self.sync());
        let fua = fua && flush.is_none();
        let write = if self.suits(&data) {
            self.engine.write(&self.medium, self.at(lba), data, fua)
        } else {
            self.write_from_copy(self.at(lba), &data, fua)
        };
        match flush {
            Some(flush) => Box::pin(async move {
                write.await?;
                flush.await
            }),
            None => write,
        }
    }
    fn flush(&self) -> IoFuture<()> {
        self.sync()
    }
    fn unmap(&self, lba: u64, blocks: u64) -> IoFuture<()> {
        if self.params.readonly {
            return Box::pin(std::future::ready(Err(IoError::WriteProtected)));
        }
        let hole = self.engine.deallocate(&self.medium, Deallocate::Hole, self.at(lba), self.at(blocks));
        Box::pin(async move {
            match hole.await {
                // Deallocation is a hint.
                Err(IoError::Unsupported) => Ok(()),
                result => result,
            }
        })
    }
    fn write_zeroes(&self, lba: u64, blocks: u64, fua: bool) -> IoFuture<()> {
        if self.params.readonly {
            return Box::pin(std::future::ready(Err(IoError::WriteProtected)));
        }
        self.zero(self.at(lba), self.at(blocks), fua)
    }
    fn destruct(&self) -> LocalBoxFuture<'static, ()> {
        let synced = (!self.params.readonly).then(|| self.sync());
        let name = self.params.name.clone();
        Box::pin(async move {
            if let Some(synced) = synced
                && let Err(e) = synced.await
            {
                tracing::warn!(bdev = %name, error = %e, "last flush of a file failed");
            }
        })
    }
}

#[cfg(test)]
#[path = "disk_tests.rs"]
mod tests;
