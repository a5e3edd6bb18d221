//! When the ring hands I/O to the kernel, and who finds out that it has ended.

use std::fs::OpenOptions;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::time::{Duration, Instant};

use super::*;

const BLOCK: usize = 4096;
const BLOCKS: u64 = 64;
const LATEST: Duration = Duration::from_secs(60);

/// A file whose blocks hold their number.
fn medium(dir: &tempfile::TempDir) -> Arc<Medium> {
    let options = OpenOptions::new().read(true).write(true).create(true).mode(0o600).clone();
    let mut file = options.open(dir.path().join("disk")).expect("a file");
    for n in 0..BLOCKS {
        file.write_all(&[n as u8; BLOCK]).expect("written");
    }
    Arc::new(Medium { file, is_block_device: false, direct: None })
}

/// Runs a test, unless the kernel refuses io_uring here.
fn with_ring<F: Future<Output = ()>>(test: impl FnOnce(Rc<Ring>, Arc<Medium>) -> F) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("runtime");
    tokio::task::LocalSet::new().block_on(&runtime, async {
        let dir = tempfile::tempdir().expect("a directory");
        match Ring::new() {
            Ok(ring) => test(ring, medium(&dir)).await,
            Err(e) => eprintln!("not tested: {e}"),
        }
    });
}

fn read(ring: &Ring, medium: &Arc<Medium>, block: u64) -> IoFuture<BytesMut> {
    ring.read(medium, block * BLOCK as u64, BytesMut::zeroed(BLOCK))
}

fn poll_now<T>(io: &mut IoFuture<T>) -> Poll<Result<T, IoError>> {
    io.as_mut().poll(&mut Context::from_waker(Waker::noop()))
}

fn waiting(ring: &Ring) -> usize {
    ring.0.ring.borrow_mut().submission().len()
}

/// The reactor's runtime is not asked for anything: what ends is only found in the memory of the ring.
#[test]
fn io_of_an_idle_disk_begins_at_once_and_its_end_is_seen_by_looking() {
    with_ring(|ring, medium| async move {
        for block in 0..BLOCKS {
            let mut io = read(&ring, &medium, block);
            let begun = Instant::now();
            let data = loop {
                if let Poll::Ready(read) = poll_now(&mut io) {
                    break read.expect("read");
                }
                assert!(begun.elapsed() < LATEST, "block {block} does not end");
                // Any call of the kernel has it write down what has ended.
                std::thread::yield_now();
                spin::look();
            };
            assert!(data.iter().all(|b| *b == block as u8), "block {block}");
            assert_eq!(ring.0.in_flight.get(), 0);
        }
    });
}

#[test]
fn io_of_a_busy_disk_waits_for_the_end_of_the_turn_or_for_company() {
    with_ring(|ring, medium| async move {
        let mut many: Vec<_> = (0..BLOCKS).map(|n| read(&ring, &medium, n)).collect();
        let mut most = 0;
        for (n, io) in many.iter_mut().enumerate() {
            // A read that the page cache serves ends within the call, but nobody has looked.
            assert!(poll_now(io).is_pending());
            assert_eq!(ring.0.in_flight.get(), n + 1);
            let expected = (n + 1).saturating_sub(AT_ONCE) % SUBMIT;
            assert_eq!(waiting(&ring), expected, "after {} I/Os", n + 1);
            most = most.max(expected);
        }
        assert_eq!(most, SUBMIT - 1, "some waited");
        for (n, data) in futures::future::join_all(many).await.into_iter().enumerate() {
            assert!(data.expect("read").iter().all(|b| *b == n as u8), "block {n}");
        }
        assert_eq!((waiting(&ring), ring.0.in_flight.get()), (0, 0));
    });
}

#[test]
fn io_that_nobody_waits_for_any_more_is_in_flight_until_it_ends() {
    with_ring(|ring, medium| async move {
        let mut io = read(&ring, &medium, 0);
        assert!(poll_now(&mut io).is_pending());
        drop(io);
        assert_eq!(ring.0.in_flight.get(), 1);
        assert_eq!(read(&ring, &medium, 5).await.expect("read")[..], [5; BLOCK]);
        let begun = Instant::now();
        while ring.0.in_flight.get() > 0 {
            assert!(begun.elapsed() < LATEST);
            std::thread::yield_now();
            spin::look();
        }
    });
}
