//! A bdev for tests whose writes and flushes end when they are let.

use std::cell::Cell;
use std::rc::Rc;

use bytes::{Bytes, BytesMut};
use serde_json::Value;
use tokio::sync::Semaphore;
use uuid::Uuid;

use super::{Bdev, IoFuture, IoType, NewBdev, Registry};

/// Module name of held disks.
pub(crate) const MODULE: &str = "held";

/// A disk of 128 blocks of 512 bytes without contents.
pub(crate) struct HeldDisk(Rc<State>);

struct State {
    /// A place for each that may end.
    ends: Semaphore,
    begun: Cell<usize>,
    ended: Cell<usize>,
}

impl HeldDisk {
    /// Registers one under `name`; the other half of it is for the test.
    pub(crate) fn register(registry: &Registry, name: &str) -> Self {
        let state = State { ends: Semaphore::new(0), begun: Cell::new(0), ended: Cell::new(0) };
        let state = Rc::new(state);
        let bdev = Rc::new(Self(Rc::clone(&state)));
        let new = NewBdev { name: name.to_owned(), aliases: vec![], bdev };
        registry.register(new).expect("registered");
        Self(state)
    }

    /// Writes and flushes that have come.
    pub(crate) fn begun(&self) -> usize {
        self.0.begun.get()
    }

    /// Of them, those that have ended.
    pub(crate) fn ended(&self) -> usize {
        self.0.ended.get()
    }

    /// Lets `count` of them end, of those that have come or will come.
    pub(crate) fn let_end(&self, count: usize) {
        self.0.ends.add_permits(count);
    }

    fn hold(&self) -> IoFuture<()> {
        let state = Rc::clone(&self.0);
        state.begun.set(state.begun.get() + 1);
        Box::pin(async move {
            state.ends.acquire().await.expect("never closed").forget();
            state.ended.set(state.ended.get() + 1);
            Ok(())
        })
    }
}

impl Bdev for HeldDisk {
    fn product_name(&self) -> &'static str {
        "Held disk"
    }
    fn module(&self) -> &'static str {
        MODULE
    }
    fn block_size(&self) -> u32 {
        512
    }
    fn num_blocks(&self) -> u64 {
        128
    }
    fn uuid(&self) -> Uuid {
        Uuid::from_u128(99)
    }
    fn supports(&self, _: IoType) -> bool {
        true
    }
    fn driver_specific(&self) -> Value {
        Value::Null
    }
    fn read(&self, _: u64, buf: BytesMut) -> IoFuture<BytesMut> {
        Box::pin(std::future::ready(Ok(buf)))
    }
    fn write(&self, _: u64, _: Bytes, _: bool) -> IoFuture<()> {
        self.hold()
    }
    fn flush(&self) -> IoFuture<()> {
        self.hold()
    }
    fn unmap(&self, _: u64, _: u64) -> IoFuture<()> {
        Box::pin(std::future::ready(Ok(())))
    }
    fn write_zeroes(&self, _: u64, _: u64, _: bool) -> IoFuture<()> {
        Box::pin(std::future::ready(Ok(())))
    }
}
