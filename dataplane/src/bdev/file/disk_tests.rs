//! What the bdev does with what an engine answers.

use std::cell::RefCell;
use std::fs::File;

use super::*;
use crate::bdev::file::medium::Medium;

/// An engine whose flushes and durable writes end as told, once each; then all is well.
#[derive(Default)]
struct Told {
    syncs: RefCell<Vec<IoError>>,
    durable_writes: RefCell<Vec<IoError>>,
    addresses: RefCell<Vec<usize>>,
    /// Offset and length of each write of zeros.
    zeros: RefCell<Vec<(u64, usize)>>,
    lacks_fallocate: Cell<bool>,
}

fn told<T: 'static>(errors: &RefCell<Vec<IoError>>, well: T) -> IoFuture<T> {
    let result = errors.borrow_mut().pop().map_or(Ok(well), Err);
    Box::pin(std::future::ready(result))
}

impl FileEngine for Rc<Told> {
    fn read(&self, _: &Arc<Medium>, _: u64, mut buf: BytesMut) -> IoFuture<BytesMut> {
        self.addresses.borrow_mut().push(buf.as_ptr().addr());
        buf.fill(7);
        Box::pin(std::future::ready(Ok(buf)))
    }
    fn write(&self, _: &Arc<Medium>, offset: u64, data: Bytes, dsync: bool) -> IoFuture<()> {
        self.addresses.borrow_mut().push(data.as_ptr().addr());
        if data.iter().all(|b| *b == 0) {
            self.zeros.borrow_mut().push((offset, data.len()));
        }
        if dsync { told(&self.durable_writes, ()) } else { Box::pin(std::future::ready(Ok(()))) }
    }
    fn sync(&self, _: &Arc<Medium>) -> IoFuture<()> {
        told(&self.syncs, ())
    }
    fn deallocate(&self, _: &Arc<Medium>, _: Deallocate, _: u64, _: u64) -> IoFuture<()> {
        let lacks = self.lacks_fallocate.get();
        Box::pin(std::future::ready(if lacks { Err(IoError::Unsupported) } else { Ok(()) }))
    }
}

const EIO: IoError = IoError::Os { errno: libc::EIO };

fn disk(direct: Option<usize>) -> (Disk, Rc<Told>) {
    let engine = Rc::new(Told::default());
    let params = FileParams {
        module: FileModule::Aio,
        name: "f".to_owned(),
        filename: "f".to_owned(),
        block_size: None,
        readonly: false,
        fallocate: false,
        uuid: None,
    };
    let medium = Medium { file: File::open("/dev/null").unwrap(), is_block_device: false, direct };
    let disk = Disk {
        engine: Rc::new(Rc::clone(&engine)),
        buffers: Rc::default(),
        medium: Arc::new(medium),
        params,
        block_size: 512,
        num_blocks: Cell::new(64),
        uuid: Uuid::nil(),
        lost: Rc::default(),
    };
    (disk, engine)
}

fn block() -> Bytes {
    Bytes::from(vec![1; 512])
}

#[tokio::test(flavor = "current_thread")]
async fn after_a_flush_that_failed_nobody_hears_that_data_is_durable() {
    for direct in [None, Some(512)] {
        let (disk, engine) = disk(direct);
        assert_eq!(disk.flush().await, Ok(()));
        engine.syncs.borrow_mut().push(EIO);
        assert_eq!(disk.flush().await, Err(EIO));
        // The system has told it once, and would now say that all is well.
        assert_eq!(disk.flush().await, Err(EIO));
        assert_eq!(disk.write_zeroes(0, 1, true).await, Err(EIO));
        assert_eq!(disk.write_zeroes(0, 1, false).await, Ok(()));
        assert_eq!(disk.write(0, block(), false).await, Ok(()), "what promises nothing goes on");
    }
}

#[tokio::test(flavor = "current_thread")]
async fn a_durable_write_through_the_cache_may_fail_for_the_data_of_others() {
    let (cached, engine) = disk(None);
    engine.syncs.borrow_mut().push(EIO);
    assert_eq!(cached.write(0, block(), true).await, Err(EIO));
    assert_eq!(cached.flush().await, Err(EIO));
    assert_eq!(cached.write(0, block(), true).await, Err(EIO));

    let (direct, engine) = disk(Some(512));
    engine.durable_writes.borrow_mut().push(EIO);
    assert_eq!(direct.write(0, block(), true).await, Err(EIO));
    assert_eq!(direct.flush().await, Ok(()), "it failed for itself only");
}

#[tokio::test(flavor = "current_thread")]
async fn no_buffer_reaches_a_device_at_an_address_it_does_not_take() {
    let (disk, engine) = disk(Some(512));
    let memory = Bytes::from(vec![9; 8192]);
    for shift in [0, 1, 4, 8, 100, 511] {
        disk.write(0, memory.slice(shift..shift + 4096), false).await.unwrap();
        let mut buf = BytesMut::zeroed(8192).split_off(shift);
        buf.truncate(4096);
        let address = buf.as_ptr();
        let read = disk.read(0, buf).await.unwrap();
        assert_eq!(read.as_ptr(), address, "the buffer passed in");
        assert!(read.iter().all(|b| *b == 7) && read.len() == 4096);
    }
    assert!(engine.addresses.borrow().iter().all(|a| a % 512 == 0), "{:?}", engine.addresses.borrow());
}

/// `vda_dataplane` may be stopped without a flush before: what was written is not left to the system.
#[tokio::test(flavor = "current_thread")]
async fn a_bdev_that_goes_is_flushed_unless_nothing_was_written_to_it() {
    for readonly in [false, true] {
        let (mut disk, engine) = disk(None);
        disk.params.readonly = readonly;
        engine.syncs.borrow_mut().push(EIO);
        disk.destruct().await;
        assert_eq!(engine.syncs.borrow().is_empty(), !readonly, "read-only: {readonly}");
    }
}

#[tokio::test(flavor = "current_thread")]
async fn zeros_are_written_where_the_file_system_can_not_make_them() {
    let (disk, engine) = disk(Some(4096));
    engine.lacks_fallocate.set(true);
    disk.write_zeroes(3, 5000, false).await.unwrap();
    let mut at = 3 * 512;
    for (offset, len) in engine.zeros.borrow().iter() {
        assert_eq!(*offset, at, "the next piece");
        at += *len as u64;
    }
    assert_eq!(at, 5003 * 512, "all of it");
    assert!(engine.addresses.borrow().iter().all(|a| a % 4096 == 0));
    assert_eq!(disk.unmap(0, 8).await, Ok(()), "deallocation is a hint");
}
