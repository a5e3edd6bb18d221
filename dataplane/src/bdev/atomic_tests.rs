//! Compare-and-write beside other changes.

use std::future::poll_fn;
use std::rc::Rc;
use std::task::Poll;

use bytes::{Bytes, BytesMut};

use crate::bdev::delay::{DelayBdevs, DelayParams, Latencies};
use crate::bdev::held_disk::HeldDisk;
use crate::bdev::malloc::{self, MallocParams};
use crate::bdev::{Descriptor, FusedError, IoError, Registry};

const BLOCK: usize = 512;

fn block(tag: u8) -> Bytes {
    vec![tag; BLOCK].into()
}

/// Polls once: an I/O begins then.
async fn begun<F: Future + Unpin>(io: &mut F) -> Option<F::Output> {
    poll_fn(|cx| match std::pin::Pin::new(&mut *io).poll(cx) {
        Poll::Ready(output) => Poll::Ready(Some(output)),
        Poll::Pending => Poll::Ready(None),
    })
    .await
}

#[tokio::test(flavor = "local")]
async fn it_waits_for_earlier_changes_and_later_ones_of_its_blocks_wait_for_it() {
    let registry = Registry::new();
    let disk = HeldDisk::register(&registry, "held");
    let (held, _events) = registry.open("held", true).expect("opened");
    let mut earlier = Box::pin(held.write(9, block(1), false));
    assert_eq!(begun(&mut earlier).await, None);
    let mut swap = Box::pin(held.compare_and_write(5, block(0), block(2), false));
    assert_eq!(begun(&mut swap).await, None);
    assert_eq!(disk.begun(), 1, "the earlier write is waited for");
    let mut overlaps = Box::pin(held.write(4, [block(3), block(3)].concat().into(), false));
    assert_eq!(begun(&mut overlaps).await, None);
    let mut elsewhere = Box::pin(held.write(6, block(4), false));
    assert_eq!(begun(&mut elsewhere).await, None);
    assert_eq!(disk.begun(), 2, "only what does not overlap begins");
    disk.let_end(1);
    assert_eq!(earlier.await, Ok(()));
    assert_eq!(begun(&mut swap).await, None);
    assert_eq!(disk.begun(), 3, "it goes on, although one that came later is not over");
    assert_eq!(begun(&mut overlaps).await, None);
    disk.let_end(2);
    assert_eq!((elsewhere.await, swap.await), (Ok(()), Ok(())));
    assert_eq!(begun(&mut overlaps).await, None);
    assert_eq!(disk.begun(), 4, "now the one that overlaps begins");
    // And is waited for by the next one, although it was let in by another turn.
    let mut next = Box::pin(held.compare_and_write(5, block(0), block(2), false));
    assert_eq!(begun(&mut next).await, None);
    assert_eq!(disk.begun(), 4);
    disk.let_end(2);
    assert_eq!((overlaps.await, next.await), (Ok(()), Ok(())));
}

#[tokio::test(flavor = "local")]
async fn nothing_is_written_where_something_else_is() {
    let (_registry, disk) = slow().await;
    assert_eq!(disk.compare_and_write(3, block(0), block(1), false).await, Ok(()));
    let differs = disk.compare_and_write(3, block(0), block(2), true).await;
    assert_eq!(differs, Err(FusedError::Compare(IoError::Miscompare)));
    assert_eq!(disk.read(3, BytesMut::zeroed(BLOCK)).await, Ok(BytesMut::from(&block(1)[..])));
    let beyond = disk.compare_and_write(u64::MAX, block(0), block(2), false).await;
    assert_eq!(beyond, Err(FusedError::Compare(IoError::InvalidRange)));
}

/// A disk on which every I/O takes a while: whatever may come in between does.
async fn slow() -> (Registry, Rc<Descriptor>) {
    let registry = Registry::new();
    let params =
        MallocParams { name: Some("base".into()), num_blocks: 64, block_size: BLOCK as u32, uuid: None };
    malloc::create(&registry, params).expect("created");
    let delays = DelayBdevs::new(registry.clone());
    let latencies = Latencies { avg_read: 1000, p99_read: 3000, avg_write: 1000, p99_write: 3000 };
    let params = DelayParams { name: "slow".into(), base_bdev_name: "base".into(), latencies, uuid: None };
    delays.create(params).expect("created");
    let (disk, _events) = registry.open("slow", true).expect("opened");
    (registry, Rc::new(disk))
}

/// What cluster file systems do with it: whoever finds the block free, and writes its name there, has the lock. Beside it another block of the
/// same disk is written all the time.
#[tokio::test(flavor = "local")]
async fn a_lock_has_one_holder() {
    let (_registry, disk) = slow().await;
    let held = Rc::new(std::cell::Cell::new(0_u8));
    let host = |name: u8| {
        let (disk, held) = (Rc::clone(&disk), Rc::clone(&held));
        tokio::task::spawn_local(async move {
            for _ in 0..8 {
                while let Err(e) = disk.compare_and_write(0, block(0), block(name), false).await {
                    assert_eq!(e, FusedError::Compare(IoError::Miscompare));
                }
                assert_eq!(held.replace(name), 0, "{name} has what another one has");
                disk.write(1, block(name), false).await.expect("written");
                assert_eq!(held.replace(0), name);
                disk.compare_and_write(0, block(name), block(0), false).await.expect("it was mine");
            }
        })
    };
    let hosts: Vec<_> = (1..=4).map(host).collect();
    for host in hosts {
        host.await.expect("went well");
    }
}

/// A plain write either comes before the comparison, which then fails, or after the write: it is never lost in between.
#[tokio::test(flavor = "local")]
async fn a_write_does_not_get_lost_in_between() {
    let (_registry, disk) = slow().await;
    for pause in 0..8 {
        disk.write(0, block(0), false).await.expect("written");
        let swap = disk.compare_and_write(0, block(0), block(1), false);
        let plain = async {
            tokio::time::sleep(std::time::Duration::from_micros(500 * pause)).await;
            disk.write(0, block(2), false).await
        };
        let (_, plain) = tokio::join!(swap, plain);
        assert_eq!(plain, Ok(()));
        let now = disk.read(0, BytesMut::zeroed(BLOCK)).await.expect("read");
        assert_eq!(now[0], 2, "written after {pause} half milliseconds");
    }
}
