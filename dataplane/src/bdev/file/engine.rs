//! How file I/O is done.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};

use super::medium::Medium;
use crate::bdev::IoFuture;

/// Two ways of giving storage of a file back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Deallocate {
    /// `FALLOC_FL_PUNCH_HOLE`: reads as zeros, storage is freed.
    Hole,
    /// `FALLOC_FL_ZERO_RANGE`: reads as zeros, storage is kept.
    Zero,
}

/// Does the I/O of files: `io_uring`, or a pool of threads where that is blocked.
///
/// Operations the file system does not have fail with [`crate::bdev::IoError::Unsupported`].
pub(super) trait FileEngine {
    /// Fills `buf` from `offset` on; a short file is an error.
    fn read(&self, medium: &Arc<Medium>, offset: u64, buf: BytesMut) -> IoFuture<BytesMut>;

    /// Writes all of `data`; durable (`RWF_DSYNC`) on completion if `dsync`.
    fn write(&self, medium: &Arc<Medium>, offset: u64, data: Bytes, dsync: bool) -> IoFuture<()>;

    /// `fdatasync`.
    fn sync(&self, medium: &Arc<Medium>) -> IoFuture<()>;

    /// `fallocate` that keeps the size.
    fn deallocate(&self, medium: &Arc<Medium>, how: Deallocate, offset: u64, len: u64) -> IoFuture<()>;
}
