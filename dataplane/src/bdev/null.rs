//! `bdev_null`: swallows writes. It also holds a raid1 slot until that is emptied, so that the slot stays spare.

use std::cell::Cell;
use std::rc::Rc;

use bytes::{Bytes, BytesMut};
use serde_json::{Value, json};
use uuid::Uuid;

use super::malloc::check_geometry;
use super::{Bdev, BdevError, IoFuture, IoType, NewBdev, Registration, Registry};

/// Module name of null bdevs.
pub const MODULE: &str = "null";

/// Parameters of `bdev_null_create`.
#[derive(Clone, Debug)]
pub struct NullParams {
    pub name: String,
    pub num_blocks: u64,
    /// A multiple of 512.
    pub block_size: u32,
    /// Random if absent.
    pub uuid: Option<Uuid>,
}

struct Null {
    block_size: u32,
    num_blocks: Rc<Cell<u64>>,
    uuid: Uuid,
}

fn done() -> IoFuture<()> {
    Box::pin(std::future::ready(Ok(())))
}

impl Bdev for Null {
    fn product_name(&self) -> &'static str {
        "Null disk"
    }
    fn module(&self) -> &'static str {
        MODULE
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
        matches!(
            io,
            IoType::Read
                | IoType::Write
                | IoType::WriteZeroes
                | IoType::Reset
                | IoType::Abort
                | IoType::Flush
                | IoType::Unmap
        )
    }
    fn driver_specific(&self) -> Value {
        json!({})
    }
    fn read(&self, _lba: u64, mut buf: BytesMut) -> IoFuture<BytesMut> {
        buf.fill(0);
        Box::pin(std::future::ready(Ok(buf)))
    }
    fn write(&self, _lba: u64, _data: Bytes, _fua: bool) -> IoFuture<()> {
        done()
    }
    fn flush(&self) -> IoFuture<()> {
        done()
    }
    fn unmap(&self, _lba: u64, _blocks: u64) -> IoFuture<()> {
        done()
    }
    fn write_zeroes(&self, _lba: u64, _blocks: u64, _fua: bool) -> IoFuture<()> {
        done()
    }
}

/// `bdev_null_create`.
///
/// # Errors
/// [`BdevError::Invalid`] for a bad geometry, [`BdevError::Exists`] for a taken name or uuid.
pub fn create(registry: &Registry, params: NullParams) -> Result<NullHandle, BdevError> {
    check_geometry(params.num_blocks, params.block_size)?;
    let num_blocks = Rc::new(Cell::new(params.num_blocks));
    let bdev = Null {
        block_size: params.block_size,
        num_blocks: Rc::clone(&num_blocks),
        uuid: params.uuid.filter(|u| !u.is_nil()).unwrap_or_else(Uuid::new_v4),
    };
    let registration =
        registry.register(NewBdev { name: params.name, aliases: Vec::new(), bdev: Rc::new(bdev) })?;
    Ok(NullHandle { registration, num_blocks, block_size: params.block_size })
}

/// What `bdev_null_resize` needs.
#[derive(Clone)]
pub struct NullHandle {
    pub registration: Registration,
    num_blocks: Rc<Cell<u64>>,
    block_size: u32,
}

impl NullHandle {
    /// `bdev_null_resize` to `new_size` MiB.
    ///
    /// # Errors
    /// [`BdevError::Invalid`] when it would shrink.
    pub fn resize(&self, new_size: u64) -> Result<(), BdevError> {
        let invalid =
            |allowed| BdevError::Invalid { field: "new_size", value: new_size.to_string(), allowed };
        let bytes = new_size.checked_mul(1024 * 1024).ok_or_else(|| invalid("a size below 2^64 bytes"))?;
        let blocks = bytes / u64::from(self.block_size);
        if blocks < self.num_blocks.get() {
            return Err(invalid("at least the present size, in MiB"));
        }
        self.num_blocks.set(blocks);
        self.registration.notify_resize();
        Ok(())
    }
}
