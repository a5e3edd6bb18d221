//! File I/O on the runtime's small pool of blocking threads; a read that the page cache can serve does not leave the reactor.

use std::fs::File;
use std::io::{IoSlice, IoSliceMut};
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use rustix::fs::{FallocateFlags, fallocate};
use rustix::io::{Errno, ReadWriteFlags, preadv2, pwritev2};

use super::engine::{Deallocate, FileEngine};
use super::medium::Medium;
use crate::bdev::{IoError, IoFuture};

/// The pool itself belongs to the tokio runtime.
pub(super) struct ThreadPool;

/// Bytes read before the range is complete; stops early at what would block.
fn read_cached(file: &File, offset: u64, buf: &mut [u8]) -> usize {
    // On an error (not cached, or a file system without RWF_NOWAIT) the pool finds out what is really wrong.
    preadv2(file, &mut [IoSliceMut::new(buf)], offset, ReadWriteFlags::NOWAIT).unwrap_or_default()
}

fn read_all(file: &File, mut offset: u64, mut buf: &mut [u8]) -> Result<(), IoError> {
    while !buf.is_empty() {
        match rustix::io::pread(file, &mut *buf, offset) {
            Ok(0) => return Err(IoError::Os { errno: libc::EIO }),
            Ok(n) => {
                offset += n as u64;
                buf = &mut buf[n..];
            }
            Err(Errno::INTR) => {}
            Err(e) => return Err(e.into()),
        }
    }
    Ok(())
}

fn write_all(file: &File, mut offset: u64, mut data: &[u8], dsync: bool) -> Result<(), IoError> {
    let flags = if dsync { ReadWriteFlags::DSYNC } else { ReadWriteFlags::empty() };
    while !data.is_empty() {
        match pwritev2(file, &[IoSlice::new(data)], offset, flags) {
            Ok(0) => return Err(IoError::Os { errno: libc::EIO }),
            Ok(n) => {
                offset += n as u64;
                data = &data[n..];
            }
            Err(Errno::INTR) => {}
            Err(e) => return Err(e.into()),
        }
    }
    Ok(())
}

async fn on_pool<T: Send + 'static>(
    job: impl FnOnce() -> Result<T, IoError> + Send + 'static,
) -> Result<T, IoError> {
    tokio::task::spawn_blocking(job).await.unwrap_or(Err(IoError::Aborted))
}

pub(super) fn fallocate_flags(how: Deallocate) -> FallocateFlags {
    let kind = match how {
        Deallocate::Hole => FallocateFlags::PUNCH_HOLE,
        Deallocate::Zero => FallocateFlags::ZERO_RANGE,
    };
    kind | FallocateFlags::KEEP_SIZE
}

/// The errors by which file systems say that they lack a kind of `fallocate`.
pub(super) fn fallocate_error(e: Errno) -> IoError {
    match e {
        Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL => IoError::Unsupported,
        e => e.into(),
    }
}

impl FileEngine for ThreadPool {
    fn read(&self, medium: &Arc<Medium>, offset: u64, mut buf: BytesMut) -> IoFuture<BytesMut> {
        // Around the cache nothing is there without waiting for it.
        let done = if medium.direct.is_some() { 0 } else { read_cached(&medium.file, offset, &mut buf) };
        if done == buf.len() {
            return Box::pin(std::future::ready(Ok(buf)));
        }
        let medium = Arc::clone(medium);
        Box::pin(on_pool(move || {
            read_all(&medium.file, offset + done as u64, &mut buf[done..])?;
            Ok(buf)
        }))
    }

    fn write(&self, medium: &Arc<Medium>, offset: u64, data: Bytes, dsync: bool) -> IoFuture<()> {
        let medium = Arc::clone(medium);
        Box::pin(on_pool(move || write_all(&medium.file, offset, &data, dsync)))
    }

    fn sync(&self, medium: &Arc<Medium>) -> IoFuture<()> {
        let medium = Arc::clone(medium);
        Box::pin(on_pool(move || Ok(rustix::fs::fdatasync(&medium.file)?)))
    }

    fn deallocate(&self, medium: &Arc<Medium>, how: Deallocate, offset: u64, len: u64) -> IoFuture<()> {
        let medium = Arc::clone(medium);
        Box::pin(on_pool(move || {
            fallocate(&medium.file, fallocate_flags(how), offset, len).map_err(fallocate_error)
        }))
    }
}
