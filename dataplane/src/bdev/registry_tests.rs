//! The registry seen from its users: names, claims, removal, growth, examine, accounting, limits.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use futures::future::LocalBoxFuture;

use super::held_disk::{self, HeldDisk};
use super::malloc::{self, MallocParams};
use super::null::{self, NullParams};
use super::*;

fn run<F: Future>(test: impl FnOnce() -> F) -> F::Output {
    let rt = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    tokio::task::LocalSet::new().block_on(&rt, async { test().await })
}

fn params(name: &str) -> MallocParams {
    MallocParams { name: Some(name.to_owned()), num_blocks: 1024, block_size: 4096, uuid: None }
}

#[test]
fn names_aliases_and_uuids_are_unique() {
    run(|| async {
        let r = Registry::new();
        let uuid = Uuid::new_v4();
        malloc::create(&r, MallocParams { uuid: Some(uuid), ..params("m0") }).unwrap();
        assert_eq!(malloc::create(&r, params("m0")).err().unwrap().errno(), libc::EEXIST);
        let twin = MallocParams { uuid: Some(uuid), ..params("m1") };
        assert_eq!(malloc::create(&r, twin).err().unwrap().errno(), libc::EEXIST);
        assert_eq!(r.canonical_name(&uuid.to_string()).unwrap(), "m0");
        let auto = malloc::create(&r, MallocParams { name: None, ..params("") }).unwrap();
        assert_eq!(auto.name(), "Malloc0");
        assert_eq!(r.list().iter().map(|b| b.name.clone()).collect::<Vec<_>>(), ["m0", "Malloc0"]);
        assert_eq!(r.info("nope").unwrap_err().errno(), libc::ENODEV);
    });
}

#[test]
fn a_claim_keeps_other_writers_out_until_it_is_dropped() {
    run(|| async {
        let r = Registry::new();
        malloc::create(&r, params("m0")).unwrap();
        let (mut first, _e) = r.open("m0", false).unwrap();
        first.claim(ClaimType::ExclusiveWrite, "raid").unwrap();
        assert_eq!(r.open("m0", true).unwrap_err().errno(), libc::EPERM);
        let (mut reader, _e) = r.open("m0", false).unwrap();
        assert_eq!(reader.claim(ClaimType::ExclusiveWrite, "lvol").unwrap_err().errno(), libc::EPERM);
        let denied = reader.write(0, Bytes::from(vec![1; 4096]), false).await;
        assert_eq!(denied, Err(IoError::WriteProtected));
        first.write(0, Bytes::from(vec![1; 4096]), false).await.unwrap();
        assert_eq!(reader.read(0, BytesMut::zeroed(4096)).await.unwrap(), vec![1; 4096]);
        drop(first);
        let (_writer, _e) = r.open("m0", true).unwrap();
        assert_eq!(reader.claim(ClaimType::ExclusiveWrite, "lvol").unwrap_err().errno(), libc::EPERM);
    });
}

#[test]
fn ranges_are_checked() {
    run(|| async {
        let r = Registry::new();
        malloc::create(&r, params("m0")).unwrap();
        let (d, _e) = r.open("m0", true).unwrap();
        for (lba, len) in [(1024, 4096), (1023, 8192), (u64::MAX, 4096), (0, 100), (0, 0)] {
            let got = d.read(lba, BytesMut::zeroed(len)).await;
            assert_eq!(got, Err(IoError::InvalidRange), "{lba} {len}");
        }
        assert_eq!(d.unmap(1, u64::MAX).await, Err(IoError::InvalidRange));
    });
}

#[test]
fn removal_waits_for_the_holders_and_then_frees_the_name() {
    run(|| async {
        let r = Registry::new();
        malloc::create(&r, params("m0")).unwrap();
        let (d, mut events) = r.open("m0", true).unwrap();
        assert!(r.unregister("m0", "aio").is_err(), "another module's bdev");
        let removal = r.unregister("m0", malloc::MODULE).unwrap();
        assert_eq!(events.recv().await, Some(BdevEvent::Removed));
        assert_eq!(d.flush().await, Err(IoError::Removed));
        assert!(r.open("m0", false).is_err());
        assert_eq!(malloc::create(&r, params("m0")).err().unwrap().errno(), libc::EEXIST);
        let mut removal = std::pin::pin!(removal);
        assert!(futures::poll!(&mut removal).is_pending());
        drop(d);
        removal.await;
        malloc::create(&r, params("m0")).unwrap();
    });
}

#[test]
fn growth_reaches_the_holders() {
    run(|| async {
        let r = Registry::new();
        let p = NullParams { name: "n0".to_owned(), num_blocks: 256, block_size: 4096, uuid: None };
        let handle = null::create(&r, p).unwrap();
        let (d, mut events) = r.open("n0", false).unwrap();
        handle.resize(2).unwrap();
        assert_eq!(events.recv().await, Some(BdevEvent::Resized));
        assert_eq!(d.num_blocks(), 512);
        assert_eq!(handle.resize(1).unwrap_err().errno(), libc::EINVAL);
    });
}

#[test]
fn a_holder_that_is_behind_hears_of_many_resizes_once_and_of_the_removal() {
    run(|| async {
        let r = Registry::new();
        let p = NullParams { name: "n0".to_owned(), num_blocks: 256, block_size: 4096, uuid: None };
        let handle = null::create(&r, p).unwrap();
        let (d, mut events) = r.open("n0", false).unwrap();
        (2..1000).for_each(|mib| handle.resize(mib).unwrap());
        assert_eq!((events.len(), d.num_blocks()), (1, 999 * 256));
        assert_eq!(events.recv().await, Some(BdevEvent::Resized));
        // One that comes while it looks at the last is told.
        handle.resize(1000).unwrap();
        handle.resize(1001).unwrap();
        let removed = r.unregister("n0", r.info("n0").unwrap().module).unwrap();
        assert_eq!(events.len(), 2);
        assert_eq!(events.recv().await, Some(BdevEvent::Resized));
        assert_eq!(events.recv().await, Some(BdevEvent::Removed));
        drop(d);
        removed.await;
    });
}

#[test]
fn io_is_counted() {
    run(|| async {
        let r = Registry::new();
        malloc::create(&r, params("m0")).unwrap();
        let (d, _e) = r.open("m0", true).unwrap();
        d.write(0, Bytes::from(vec![1; 8192]), false).await.unwrap();
        d.read(0, BytesMut::zeroed(4096)).await.unwrap();
        d.unmap(0, 3).await.unwrap();
        d.flush().await.unwrap();
        let (name, stat) = r.iostat("m0").unwrap();
        assert_eq!(name, "m0");
        assert_eq!((stat.read.ops, stat.read.bytes), (1, 4096));
        assert_eq!((stat.write.ops, stat.write.bytes), (1, 8192));
        assert_eq!((stat.unmap.ops, stat.unmap.bytes), (1, 3 * 4096));
        assert!(stat.read.min_latency_ticks > 0);
        r.reset_iostat("m0", IoStatReset::Extremes).unwrap();
        let stat = r.iostat("m0").unwrap().1;
        assert_eq!((stat.read.ops, stat.read.max_latency_ticks), (1, 0));
        r.reset_iostat("m0", IoStatReset::All).unwrap();
        assert_eq!(r.iostat("m0").unwrap().1, IoStat::default());
    });
}

#[test]
fn a_rate_limit_is_enforced() {
    run(|| async {
        let r = Registry::new();
        malloc::create(&r, params("m0")).unwrap();
        let (d, _e) = r.open("m0", true).unwrap();
        let limit = QosUpdate { rw_ios_per_sec: Some(1), ..QosUpdate::default() };
        assert!(r.set_qos("m0", limit).unwrap());
        assert_eq!(r.info("m0").unwrap().limits.rw_ios_per_sec, 1000);
        let begun = Instant::now();
        for _ in 0..101 {
            d.read(0, BytesMut::zeroed(4096)).await.unwrap();
        }
        assert!(begun.elapsed() >= Duration::from_millis(99), "took {:?}", begun.elapsed());
        let off = QosUpdate { rw_ios_per_sec: Some(0), ..QosUpdate::default() };
        assert!(r.set_qos("m0", off).unwrap());
        assert_eq!(r.info("m0").unwrap().limits, QosLimits::default());
    });
}

struct Recorder(Rc<RefCell<Vec<String>>>);

impl Examiner for Recorder {
    fn examine(&self, _registry: Registry, name: String) -> LocalBoxFuture<'static, ()> {
        let seen = Rc::clone(&self.0);
        Box::pin(async move {
            tokio::task::yield_now().await;
            seen.borrow_mut().push(name);
        })
    }
}

#[test]
fn examine_is_automatic_or_on_demand() {
    run(|| async {
        let r = Registry::new();
        let seen = Rc::new(RefCell::new(Vec::new()));
        r.add_examiner(Rc::new(Recorder(Rc::clone(&seen))));
        malloc::create(&r, params("auto")).unwrap();
        r.wait_for_examine().await;
        assert_eq!(*seen.borrow(), ["auto"]);
        assert_eq!(r.examine("auto").unwrap_err().errno(), libc::EINVAL);
        r.set_auto_examine(false);
        malloc::create(&r, params("silent")).unwrap();
        r.examine("later").unwrap();
        malloc::create(&r, params("later")).unwrap();
        r.examine("silent").unwrap();
        assert_eq!(r.examine("silent").unwrap_err().errno(), libc::EEXIST);
        r.wait_for_examine().await;
        seen.borrow_mut().sort();
        assert_eq!(*seen.borrow(), ["auto", "later", "silent"]);
    });
}

#[test]
fn an_io_whose_caller_gave_up_still_ends_and_holds_the_removal_up_until_then() {
    run(|| async {
        let r = Registry::new();
        let disk = HeldDisk::register(&r, "s");
        let (d, _e) = r.open("s", true).unwrap();
        let mut write = Box::pin(d.write(0, Bytes::from(vec![0; 512]), false));
        assert!(futures::poll!(&mut write).is_pending());
        drop(write);
        drop(d);
        let removal = r.unregister("s", held_disk::MODULE).unwrap();
        let mut removal = std::pin::pin!(removal);
        assert!(futures::poll!(&mut removal).is_pending());
        assert_eq!(disk.ended(), 0);
        disk.let_end(1);
        removal.await;
        assert_eq!(disk.ended(), 1);
    });
}

/// An external snapshot must not change: who can write it can not say that nobody does, and while it says so nobody else can.
#[test]
fn who_claims_that_nobody_writes_does_not_write() {
    run(|| async {
        let r = Registry::new();
        malloc::create(&r, params("m0")).unwrap();
        let nobody = ClaimType::ReadManyWriteNone;
        let (mut writer, _) = r.open("m0", true).unwrap();
        assert_eq!(writer.claim(nobody, "lvol").unwrap_err().errno(), libc::EPERM);
        let (mut reader, _) = r.open("m0", false).unwrap();
        assert_eq!(reader.claim(nobody, "lvol").unwrap_err().errno(), libc::EPERM, "there is a writer");
        drop(writer);
        reader.claim(nobody, "lvol").unwrap();
        assert!(r.open("m0", true).is_err());
        let denied = reader.write(0, Bytes::from(vec![1; 4096]), false).await;
        assert_eq!(denied, Err(IoError::WriteProtected));
    });
}
