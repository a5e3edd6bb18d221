//! I/O whose caller goes away.

use serde_json::Value;
use tokio::sync::Semaphore;

use super::super::{Bdev, NewBdev, Registry};
use super::*;

/// A bdev whose flushes end when they are let.
#[derive(Default)]
struct Stuck {
    begun: Cell<usize>,
    ends: Rc<EndOf>,
}

struct EndOf(Semaphore);

impl Default for EndOf {
    fn default() -> Self {
        Self(Semaphore::new(0))
    }
}

fn nothing<T: 'static>() -> IoFuture<T> {
    Box::pin(async { Err(IoError::Aborted) })
}

impl Bdev for Rc<Stuck> {
    fn product_name(&self) -> &'static str {
        "Stuck disk"
    }
    fn module(&self) -> &'static str {
        "stuck"
    }
    fn block_size(&self) -> u32 {
        512
    }
    fn num_blocks(&self) -> u64 {
        8
    }
    fn uuid(&self) -> Uuid {
        Uuid::from_u128(5)
    }
    fn supports(&self, _: IoType) -> bool {
        true
    }
    fn driver_specific(&self) -> Value {
        Value::Null
    }
    fn read(&self, _: u64, _: BytesMut) -> IoFuture<BytesMut> {
        nothing()
    }
    fn write(&self, _: u64, _: Bytes, _: bool) -> IoFuture<()> {
        nothing()
    }
    fn flush(&self) -> IoFuture<()> {
        self.begun.set(self.begun.get() + 1);
        let ends = Rc::clone(&self.ends);
        Box::pin(async move {
            let end = ends.0.acquire().await;
            end.map(tokio::sync::SemaphorePermit::forget).map_err(|_| IoError::Aborted)
        })
    }
    fn unmap(&self, _: u64, _: u64) -> IoFuture<()> {
        nothing()
    }
    fn write_zeroes(&self, _: u64, _: u64, _: bool) -> IoFuture<()> {
        nothing()
    }
}

#[tokio::test(flavor = "local")]
async fn callers_that_give_up_and_try_again_do_not_pile_up_io() {
    let registry = Registry::new();
    let disk = Rc::new(Stuck::default());
    let new = NewBdev { name: "s".into(), aliases: vec![], bdev: Rc::new(Rc::clone(&disk)) };
    registry.register(new).expect("registered");
    let (descriptor, _events) = registry.open("s", true).expect("opened");
    let try_once = || {
        let mut io = Box::pin(descriptor.flush());
        assert!(io.as_mut().poll(&mut Context::from_waker(std::task::Waker::noop())).is_pending());
    };
    (0..MAX_ORPHANS).for_each(|_| try_once());
    assert_eq!(disk.begun.get(), MAX_ORPHANS);
    (0..3 * MAX_ORPHANS).for_each(|_| try_once());
    assert_eq!((disk.begun.get(), descriptor.entry.orphaned.get()), (MAX_ORPHANS, MAX_ORPHANS));
    // One that stays is begun as soon as one of those that were given up has ended, and is no orphan.
    let stays = tokio::task::spawn_local(descriptor.flush());
    tokio::task::yield_now().await;
    assert_eq!(disk.begun.get(), MAX_ORPHANS);
    disk.ends.0.add_permits(MAX_ORPHANS + 1);
    assert_eq!(stays.await.expect("ran"), Ok(()));
    while descriptor.entry.orphaned.get() > 0 {
        tokio::task::yield_now().await;
    }
    assert_eq!((disk.begun.get(), descriptor.entry.inflight.get()), (MAX_ORPHANS + 1, 0));
}
