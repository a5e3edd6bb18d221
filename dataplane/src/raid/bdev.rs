//! A raid as a bdev.

use std::rc::Rc;

use bytes::{Bytes, BytesMut};
use serde_json::{Value, json};
use uuid::Uuid;
use vda_spdk::RaidLevel;

use super::{MODULE, Raid};
use crate::bdev::{Bdev, IoFuture, IoType};

/// The bdev of an online raid.
pub(super) struct RaidBdev(pub(super) Rc<Raid>);

impl RaidBdev {
    fn is_mirror(&self) -> bool {
        self.0.level == RaidLevel::Raid1
    }
}

impl Bdev for RaidBdev {
    fn product_name(&self) -> &'static str {
        "Raid Volume"
    }
    fn module(&self) -> &'static str {
        MODULE
    }
    fn block_size(&self) -> u32 {
        self.0.block_size.get()
    }
    fn num_blocks(&self) -> u64 {
        self.0.num_blocks.get()
    }
    fn uuid(&self) -> Uuid {
        self.0.uuid.get()
    }
    fn supports(&self, io: IoType) -> bool {
        let all = |t| self.0.members().iter().all(|m| m.desc.supports(t));
        match io {
            IoType::Read | IoType::Write | IoType::Flush | IoType::Reset | IoType::Compare => true,
            IoType::Unmap | IoType::WriteZeroes => all(io),
            IoType::CompareAndWrite | IoType::Abort => false,
        }
    }
    fn driver_specific(&self) -> Value {
        match serde_json::to_value(self.0.info()) {
            Ok(info) => json!({"raid": info}),
            Err(_) => json!({}),
        }
    }
    fn read(&self, lba: u64, buf: BytesMut) -> IoFuture<BytesMut> {
        if self.is_mirror() {
            return Box::pin(Rc::clone(&self.0).mirror_read(lba, buf));
        }
        self.0.striped_read(lba, buf)
    }
    fn write(&self, lba: u64, data: Bytes, fua: bool) -> IoFuture<()> {
        if self.is_mirror() {
            return Box::pin(Rc::clone(&self.0).mirror_write(lba, data, fua));
        }
        self.0.striped_write(lba, data, fua)
    }
    fn flush(&self) -> IoFuture<()> {
        if self.is_mirror() {
            return Box::pin(Rc::clone(&self.0).mirror_flush());
        }
        self.0.striped_flush()
    }
    fn unmap(&self, lba: u64, blocks: u64) -> IoFuture<()> {
        if self.is_mirror() {
            return Box::pin(Rc::clone(&self.0).mirror_unmap(lba, blocks));
        }
        self.0.striped_unmap(lba, blocks)
    }
    fn write_zeroes(&self, lba: u64, blocks: u64, fua: bool) -> IoFuture<()> {
        if self.is_mirror() {
            return Box::pin(Rc::clone(&self.0).mirror_zero(lba, blocks, fua));
        }
        self.0.striped_zero(lba, blocks, fua)
    }
}
