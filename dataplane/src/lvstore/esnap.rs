//! External snapshots: bdevs outside an lvstore that its clones show and never write.

use std::cell::RefCell;

use bytes::BytesMut;
use uuid::Uuid;

use super::volume::MODULE;
use crate::bdev::{BdevError, ClaimType, Descriptor, Events, IoError, IoFuture, Registry};

/// An external snapshot that is there. Nobody can write it while it is held.
pub(super) struct Esnap {
    /// Gone when the bdev goes.
    desc: RefCell<Option<Descriptor>>,
}

impl Esnap {
    /// Opens the bdev with that uuid and sees to it that nobody writes it.
    ///
    /// # Errors
    /// If it is not there, somebody may write it, or its blocks do not fit those of the lvstore.
    pub(super) fn open(
        registry: &Registry,
        uuid: Uuid,
        block_size: u32,
    ) -> Result<(Self, Events), BdevError> {
        let (mut desc, events) = registry.open(&uuid.to_string(), false)?;
        if !block_size.is_multiple_of(desc.block_size()) {
            return Err(BdevError::Invalid {
                field: "block_size",
                value: desc.block_size().to_string(),
                allowed: "a divisor of the block size of the lvstore",
            });
        }
        desc.claim(ClaimType::ReadManyWriteNone, MODULE)?;
        Ok((Self { desc: RefCell::new(Some(desc)) }, events))
    }

    /// Lets go of the bdev.
    pub(super) fn close(&self) {
        self.desc.replace(None);
    }

    /// Reads from byte `offset` on; beyond the end of the bdev there are zeros.
    pub(super) fn read(&self, offset: u64, mut buf: BytesMut) -> IoFuture<BytesMut> {
        let desc = self.desc.borrow();
        let Some(desc) = desc.as_ref() else {
            return Box::pin(std::future::ready(Err(IoError::Removed)));
        };
        let block = u64::from(desc.block_size());
        let there = (desc.num_blocks() * block).saturating_sub(offset).min(buf.len() as u64);
        let mut beyond = buf.split_off(there as usize);
        beyond.fill(0);
        if there == 0 {
            return Box::pin(std::future::ready(Ok(beyond)));
        }
        let read = desc.read(offset / block, buf);
        Box::pin(async move {
            let mut whole = read.await?;
            whole.unsplit(beyond);
            Ok(whole)
        })
    }
}
