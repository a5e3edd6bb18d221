//! Delay and error bdevs where their answers over RPC do not show what they do.

use std::rc::Rc;

use bytes::BytesMut;
use vda_spdk::{ErrorIoType, ErrorType};

use super::delay::{DelayBdevs, DelayParams, Latencies};
use super::inject::{ErrorBdevs, ErrorParams, Injection};
use super::malloc::{self, MallocParams};
use super::null::{self, NullParams};
use super::{BdevError, BdevEvent, Descriptor, IoError, Registry};

/// Microseconds that no test waits.
const FOR_EVER: u64 = 3_600_000_000;
/// Turns of the reactor in which everything ends that waits for nobody.
const ENOUGH: usize = 100;

fn over_malloc() -> (Registry, Rc<ErrorBdevs>) {
    let registry = Registry::new();
    let faults = ErrorBdevs::new(registry.clone());
    let name = Some("m0".to_owned());
    malloc::create(&registry, MallocParams { name, num_blocks: 16, block_size: 4096, uuid: None }).unwrap();
    faults.create(ErrorParams { base_name: "m0".to_owned(), uuid: None }).unwrap();
    (registry, faults)
}

fn injection(error: ErrorType, num: u32) -> Injection {
    Injection { error, num, queue_depth: 0, nvme: (0, 0), corrupt: (0, 0) }
}

async fn read(bdev: &Descriptor) -> Result<(), IoError> {
    bdev.read(0, BytesMut::zeroed(4096)).await.map(drop)
}

fn on_reactor<F: Future>(test: F) -> F::Output {
    let rt = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    tokio::task::LocalSet::new().block_on(&rt, test)
}

/// What became of something that need not wait for anything.
async fn at_once<T>(work: impl Future<Output = T>) -> Option<T> {
    let mut work = std::pin::pin!(work);
    for _ in 0..ENOUGH {
        if let std::task::Poll::Ready(done) = futures::poll!(&mut work) {
            return Some(done);
        }
        tokio::task::yield_now().await;
    }
    None
}

/// That none of 3,000 is slow has a likelihood of 10^-13.
#[test]
fn one_io_in_a_hundred_is_slow() {
    on_reactor(async {
        let (registry, _faults) = over_malloc();
        let delays = DelayBdevs::new(registry.clone());
        let create = |latencies| {
            let (name, base_bdev_name) = ("d0".to_owned(), "EE_m0".to_owned());
            delays.create(DelayParams { name, base_bdev_name, latencies, uuid: None })
        };
        let latencies = Latencies { avg_read: 0, p99_read: FOR_EVER, avg_write: 0, p99_write: 0 };
        create(latencies).unwrap();
        let (bdev, _events) = registry.open("d0", true).unwrap();
        let mut slow = 0;
        for _ in 0..3000 {
            slow += u32::from(at_once(read(&bdev)).await.is_none());
        }
        assert!((1..150).contains(&slow), "{slow} of 3000 were slow");
        for wrong in [
            Latencies { avg_read: 2, p99_read: 1, ..Latencies::default() },
            Latencies { avg_write: 2, p99_write: 1, ..Latencies::default() },
        ] {
            assert!(matches!(create(wrong), Err(BdevError::Invalid { .. })), "{wrong:?}");
        }
    });
}

#[test]
fn all_operations_are_those_that_spdk_knows_errors_of() {
    on_reactor(async {
        let (registry, faults) = over_malloc();
        faults.inject("EE_m0", ErrorIoType::All, injection(ErrorType::Failure, 1)).unwrap();
        let (bdev, _events) = registry.open("EE_m0", true).unwrap();
        let failed = Err(IoError::Os { errno: libc::EIO });
        assert_eq!(bdev.write_zeroes(0, 1, false).await, Ok(()));
        for _ in 0..2 {
            let injected = faults.inject("EE_m0", ErrorIoType::All, injection(ErrorType::Failure, 1));
            injected.unwrap();
            assert_eq!(read(&bdev).await, failed);
            assert_eq!(bdev.write(0, vec![1; 4096].into(), false).await, failed);
            assert_eq!(bdev.unmap(0, 1).await, failed);
            assert_eq!(bdev.flush().await, failed);
            assert_eq!(bdev.flush().await, Ok(()));
        }
    });
}

/// Otherwise whoever deletes the bdev, or has it open, would wait for ever.
#[test]
fn what_is_pending_ends_when_its_bdev_is_deleted() {
    on_reactor(async {
        let (registry, faults) = over_malloc();
        faults.inject("EE_m0", ErrorIoType::Read, injection(ErrorType::Pending, 1)).unwrap();
        let (bdev, _events) = registry.open("EE_m0", true).unwrap();
        let reading = bdev.read(0, BytesMut::zeroed(4096));
        let mut pending = std::pin::pin!(reading);
        assert!(at_once(&mut pending).await.is_none());
        let gone = faults.delete("EE_m0").unwrap();
        assert!(at_once(pending).await.is_some(), "it is pending still");
        drop(bdev);
        assert!(at_once(gone).await.is_some(), "it is not deleted");
    });
}

/// What a disk grows by can be used through what stands over it, and whoever has that open is told, each time.
#[test]
fn growth_passes_through_delay_and_error_bdevs() {
    on_reactor(async {
        let registry = Registry::new();
        let (delays, faults) = (DelayBdevs::new(registry.clone()), ErrorBdevs::new(registry.clone()));
        let base = NullParams { name: "n0".to_owned(), num_blocks: 256, block_size: 4096, uuid: None };
        let base = null::create(&registry, base).unwrap();
        let (name, base_bdev_name) = ("d0".to_owned(), "n0".to_owned());
        let latencies = Latencies::default();
        delays.create(DelayParams { name, base_bdev_name, latencies, uuid: None }).unwrap();
        faults.create(ErrorParams { base_name: "d0".to_owned(), uuid: None }).unwrap();
        let (delay, mut of_delay) = registry.open("d0", false).unwrap();
        let (error, mut of_error) = registry.open("EE_d0", false).unwrap();
        for mib in [2, 5] {
            base.resize(mib).unwrap();
            assert_eq!(at_once(of_delay.recv()).await.flatten(), Some(BdevEvent::Resized));
            assert_eq!(at_once(of_error.recv()).await.flatten(), Some(BdevEvent::Resized));
            let blocks = mib * 256;
            for bdev in [&delay, &error] {
                assert_eq!(bdev.num_blocks(), blocks, "{bdev:?}");
                bdev.read(blocks - 1, BytesMut::zeroed(4096)).await.unwrap();
                let beyond = bdev.read(blocks, BytesMut::zeroed(4096)).await;
                assert_eq!(beyond, Err(IoError::InvalidRange), "{bdev:?}");
            }
        }
    });
}
