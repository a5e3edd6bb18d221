//! `bdev_malloc`: a disk in memory.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

use bytes::{Bytes, BytesMut};
use serde_json::{Value, json};
use uuid::Uuid;

use super::{Bdev, BdevError, IoError, IoFuture, IoType, NewBdev, Registration, Registry};
use crate::page;

/// Module name of malloc bdevs.
pub const MODULE: &str = "malloc";

/// Memory is taken in pieces of this size when first written, so a big disk costs what is stored on it.
const CHUNK: usize = 256 * 1024;

/// Parameters of `bdev_malloc_create`.
#[derive(Clone, Debug, Default)]
pub struct MallocParams {
    /// `Malloc{n}` if absent, with a number that was not used before.
    pub name: Option<String>,
    pub num_blocks: u64,
    /// A multiple of 512.
    pub block_size: u32,
    /// Random if absent.
    pub uuid: Option<Uuid>,
}

struct Memory {
    len: u64,
    /// They begin at pages, so blocks are where copying is fast.
    chunks: BTreeMap<u64, BytesMut>,
}

impl Memory {
    /// The pieces of a byte range: index of the chunk, offset in it, length.
    fn pieces(offset: u64, len: usize) -> impl Iterator<Item = (u64, usize, usize)> {
        let (mut at, mut left) = (offset, len);
        std::iter::from_fn(move || {
            if left == 0 {
                return None;
            }
            let within = usize::try_from(at % CHUNK as u64).unwrap_or(0);
            let n = left.min(CHUNK - within);
            let piece = (at / CHUNK as u64, within, n);
            at += n as u64;
            left -= n;
            Some(piece)
        })
    }

    fn read(&self, offset: u64, buf: &mut [u8]) {
        let mut done = 0;
        for (chunk, within, n) in Self::pieces(offset, buf.len()) {
            let out = &mut buf[done..done + n];
            match self.chunks.get(&chunk) {
                Some(data) => out.copy_from_slice(&data[within..within + n]),
                None => out.fill(0),
            }
            done += n;
        }
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        let mut done = 0;
        for (chunk, within, n) in Self::pieces(offset, data.len()) {
            let memory = self.chunks.entry(chunk).or_insert_with(|| page::zeroed(CHUNK));
            memory[within..within + n].copy_from_slice(&data[done..done + n]);
            done += n;
        }
    }

    fn zero(&mut self, offset: u64, len: u64) {
        let (mut at, end) = (offset, offset + len);
        while at < end {
            let (chunk, within) = (at / CHUNK as u64, at % CHUNK as u64);
            let n = (end - at).min(CHUNK as u64 - within);
            if n == CHUNK as u64 {
                self.chunks.remove(&chunk);
            } else if let Some(memory) = self.chunks.get_mut(&chunk) {
                let from = usize::try_from(within).unwrap_or(0);
                memory[from..from + usize::try_from(n).unwrap_or(0)].fill(0);
            }
            at += n;
        }
    }
}

struct Malloc {
    block_size: u32,
    num_blocks: u64,
    uuid: Uuid,
    memory: Rc<RefCell<Memory>>,
}

impl Malloc {
    fn at(&self, lba: u64) -> u64 {
        lba * u64::from(self.block_size)
    }

    fn zero(&self, lba: u64, blocks: u64) -> IoFuture<()> {
        let mut memory = self.memory.borrow_mut();
        debug_assert!(self.at(lba + blocks) <= memory.len, "the descriptor checks ranges");
        memory.zero(self.at(lba), self.at(blocks));
        ready(Ok(()))
    }
}

fn ready<T: 'static>(result: Result<T, IoError>) -> IoFuture<T> {
    Box::pin(std::future::ready(result))
}

impl Bdev for Malloc {
    fn product_name(&self) -> &'static str {
        "Malloc disk"
    }
    fn module(&self) -> &'static str {
        MODULE
    }
    fn block_size(&self) -> u32 {
        self.block_size
    }
    fn num_blocks(&self) -> u64 {
        self.num_blocks
    }
    fn uuid(&self) -> Uuid {
        self.uuid
    }
    fn supports(&self, io: IoType) -> bool {
        io != IoType::CompareAndWrite
    }
    fn driver_specific(&self) -> Value {
        json!({})
    }
    fn read(&self, lba: u64, mut buf: BytesMut) -> IoFuture<BytesMut> {
        self.memory.borrow().read(self.at(lba), &mut buf);
        ready(Ok(buf))
    }
    fn write(&self, lba: u64, data: Bytes, _fua: bool) -> IoFuture<()> {
        self.memory.borrow_mut().write(self.at(lba), &data);
        ready(Ok(()))
    }
    fn flush(&self) -> IoFuture<()> {
        ready(Ok(()))
    }
    fn unmap(&self, lba: u64, blocks: u64) -> IoFuture<()> {
        self.zero(lba, blocks)
    }
    fn write_zeroes(&self, lba: u64, blocks: u64, _fua: bool) -> IoFuture<()> {
        self.zero(lba, blocks)
    }
}

/// Checks what malloc and null have in common: a block size that is a multiple of 512, and at least one block.
pub(super) fn check_geometry(num_blocks: u64, block_size: u32) -> Result<(), BdevError> {
    let invalid =
        |field, value: u64, allowed| BdevError::Invalid { field, value: value.to_string(), allowed };
    if block_size == 0 || !block_size.is_multiple_of(512) {
        return Err(invalid("block_size", u64::from(block_size), "a multiple of 512"));
    }
    if num_blocks == 0 || num_blocks.checked_mul(u64::from(block_size)).is_none() {
        return Err(invalid("num_blocks", num_blocks, "at least 1, and a size below 2^64 bytes"));
    }
    Ok(())
}

/// `bdev_malloc_create`.
///
/// # Errors
/// [`BdevError::Invalid`] for a bad geometry, [`BdevError::Exists`] for a taken name or uuid.
pub fn create(registry: &Registry, params: MallocParams) -> Result<Registration, BdevError> {
    check_geometry(params.num_blocks, params.block_size)?;
    let name = params.name.unwrap_or_else(|| format!("Malloc{}", registry.next_unnamed()));
    let bdev = Malloc {
        block_size: params.block_size,
        num_blocks: params.num_blocks,
        uuid: params.uuid.filter(|u| !u.is_nil()).unwrap_or_else(Uuid::new_v4),
        memory: Rc::new(RefCell::new(Memory {
            len: params.num_blocks * u64::from(params.block_size),
            chunks: BTreeMap::new(),
        })),
    };
    registry.register(NewBdev { name, aliases: Vec::new(), bdev: Rc::new(bdev) })
}

#[cfg(test)]
#[path = "malloc_tests.rs"]
mod tests;
