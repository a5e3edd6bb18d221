//! What an administrator does to an lvol waits for the changes under way on it. A change is held at the disk below, so the order is
//! certain: without the wait each of these tests fails, every time.

use std::rc::Rc;
use std::task::Poll;

use bytes::{Bytes, BytesMut};
use vda_spdk::{ErrorIoType, ErrorType};

use super::module::{CreateStore, LvolModule, LvsSelector};
use super::{LvolClear, LvolError};
use crate::bdev::inject::{ErrorBdevs, ErrorParams, Injection};
use crate::bdev::malloc::{self, MallocParams};
use crate::bdev::{Descriptor, IoError, Registry};

const LVS: LvsSelector<'static> = LvsSelector::Name("lvs");
const BLOCK: usize = 4096;
const PER_CLUSTER: u64 = 16;
/// The bdev that holds changes back.
const GATE: &str = "EE_m0";
/// Turns of the reactor in which everything ends that waits for nobody.
const ENOUGH: usize = 1000;

struct Bench {
    registry: Registry,
    module: Rc<LvolModule>,
    faults: Rc<ErrorBdevs>,
}

fn run<F: Future>(test: impl FnOnce(Bench) -> F) -> F::Output {
    let rt = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    tokio::task::LocalSet::new().block_on(&rt, async {
        let registry = Registry::new();
        let (module, faults) = (LvolModule::new(registry.clone()), ErrorBdevs::new(registry.clone()));
        let name = Some("m0".to_owned());
        let disk = MallocParams { name, num_blocks: 4096, block_size: BLOCK as u32, uuid: None };
        malloc::create(&registry, disk).unwrap();
        faults.create(ErrorParams { base_name: "m0".to_owned(), uuid: None }).unwrap();
        let params = CreateStore {
            bdev_name: GATE.to_owned(),
            lvs_name: "lvs".to_owned(),
            cluster_sz: Some(BLOCK as u32 * PER_CLUSTER as u32),
            ..CreateStore::default()
        };
        module.create_store(params).await.unwrap();
        module.create(LVS, "v", 1, true, LvolClear::Unmap).await.unwrap();
        let bench = Bench { registry, module, faults };
        bench.open("v").write(0, filled(1, PER_CLUSTER), false).await.unwrap();
        test(bench).await
    })
}

fn filled(value: u8, blocks: u64) -> Bytes {
    Bytes::from(vec![value; BLOCK * blocks as usize])
}

impl Bench {
    fn open(&self, name: &str) -> Descriptor {
        self.registry.open(&format!("lvs/{name}"), true).unwrap().0
    }

    async fn byte(&self, name: &str, block: u64) -> u8 {
        let (lvol, _events) = self.registry.open(&format!("lvs/{name}"), false).unwrap();
        lvol.read(block, BytesMut::zeroed(BLOCK)).await.unwrap()[0]
    }

    /// The next write to the disk does not end before [`Self::let_go`].
    fn hold_next_write(&self) {
        self.next_write(ErrorType::Pending);
    }

    fn next_write(&self, error: ErrorType) {
        let injection = Injection { error, num: 1, queue_depth: 0, nvme: (0, 0), corrupt: (0, 0) };
        self.faults.inject(GATE, ErrorIoType::Write, injection).unwrap();
    }

    fn let_go(&self) {
        self.faults.resume(GATE).unwrap();
    }

    fn balance(&self) {
        let store = self.module.stores(None).unwrap().remove(0);
        let taken: u64 = self.module.lvols(None).unwrap().iter().map(|l| l.num_allocated_clusters).sum();
        assert_eq!(store.free_clusters + taken, store.total_data_clusters, "the books do not balance");
    }
}

/// What became of something after [`ENOUGH`] turns.
async fn after_a_while<T>(mut work: std::pin::Pin<&mut impl Future<Output = T>>) -> Poll<T> {
    for _ in 0..ENOUGH {
        if let Poll::Ready(done) = futures::poll!(&mut work) {
            return Poll::Ready(done);
        }
        tokio::task::yield_now().await;
    }
    Poll::Pending
}

/// Holds a write of 2 to block 3 of `lvol` at the disk, begins `admin`, and a write of 5 to block 4, and lets go: `admin` must wait for
/// the first write. Gives what became of the second.
async fn write_under_way<T>(
    b: &Bench,
    lvol: &str,
    admin: impl Future<Output = Result<T, LvolError>>,
) -> Result<(), IoError> {
    let opened = b.open(lvol);
    b.hold_next_write();
    let mut write = std::pin::pin!(opened.write(3, filled(2, 1), false));
    assert!(after_a_while(write.as_mut()).await.is_pending());
    let mut admin = std::pin::pin!(admin);
    assert!(after_a_while(admin.as_mut()).await.is_pending(), "it did not wait for the write under way");
    let mut later = std::pin::pin!(opened.write(4, filled(5, 1), false));
    assert!(after_a_while(later.as_mut()).await.is_pending(), "it did not wait for the administrator");
    b.let_go();
    let (written, done, later) = futures::join!(write, admin, later);
    written.unwrap();
    done.unwrap();
    later
}

#[test]
fn a_snapshot_waits_for_a_write_to_a_cluster_that_becomes_its_own() {
    run(|b| async move {
        write_under_way(&b, "v", b.module.snapshot("lvs/v", "s")).await.unwrap();
        assert_eq!((b.byte("s", 3).await, b.byte("s", 4).await, b.byte("s", 5).await), (2, 1, 1));
        assert_eq!((b.byte("v", 3).await, b.byte("v", 4).await, b.byte("v", 5).await), (2, 5, 1));
        b.balance();
    });
}

#[test]
fn a_snapshot_waits_for_the_copy_of_a_cluster() {
    run(|b| async move {
        b.module.snapshot("lvs/v", "s1").await.unwrap();
        write_under_way(&b, "v", b.module.snapshot("lvs/v", "s2")).await.unwrap();
        assert_eq!((b.byte("s1", 3).await, b.byte("s2", 3).await, b.byte("v", 3).await), (1, 2, 2));
        assert_eq!((b.byte("s2", 4).await, b.byte("v", 4).await), (1, 5));
        b.balance();
    });
}

/// The copy would be put where the heir has just got the cluster of the deleted snapshot.
#[test]
fn a_deleted_snapshot_waits_for_the_copies_of_its_heir() {
    run(|b| async move {
        b.module.snapshot("lvs/v", "s").await.unwrap();
        write_under_way(&b, "v", b.module.delete("lvs/s")).await.unwrap();
        assert_eq!((b.byte("v", 2).await, b.byte("v", 3).await, b.byte("v", 4).await), (1, 2, 5));
        b.balance();
        // The metadata can still be written.
        b.module.rename("lvs/v", "w").await.unwrap();
    });
}

#[test]
fn what_is_made_read_only_does_not_change_any_more() {
    run(|b| async move {
        let later = write_under_way(&b, "v", b.module.set_read_only("lvs/v")).await;
        assert_eq!(later, Err(IoError::WriteProtected), "it waited until the lvol was read-only");
        assert_eq!((b.byte("v", 3).await, b.byte("v", 4).await), (2, 1));
    });
}

/// An lvol that gets another parent while a cluster is copied from the old one shows one of them, not the one in the other.
#[test]
fn another_parent_waits_for_copies_from_the_old_one() {
    run(|b| async move {
        b.module.snapshot("lvs/v", "s1").await.unwrap();
        b.open("v").write(0, filled(9, PER_CLUSTER), false).await.unwrap();
        b.module.snapshot("lvs/v", "s2").await.unwrap();
        b.module.clone_lvol("lvs/s1", "c").await.unwrap();
        write_under_way(&b, "c", b.module.set_parent("lvs/c", "lvs/s2")).await.unwrap();
        // The cluster was copied before the parent was exchanged, so it is as it was.
        assert_eq!((b.byte("c", 2).await, b.byte("c", 3).await), (1, 2));
        b.balance();
    });
}

/// Who opens an lvol while it shrinks is not told that something was written which is then cut off.
#[test]
fn a_write_to_an_lvol_that_shrinks_waits_and_is_refused_beyond_the_end() {
    run(|b| async move {
        b.module.resize("lvs/v", 2).await.unwrap();
        let (last, kept) = (2 * 256 - 1, 5);
        b.open("v").write(last, filled(3, 1), false).await.unwrap();
        b.hold_next_write();
        let mut shrink = std::pin::pin!(b.module.resize("lvs/v", 1));
        assert!(after_a_while(shrink.as_mut()).await.is_pending());
        let opened = b.open("v");
        let mut writes = std::pin::pin!(futures::future::join(
            opened.write(last, filled(4, 1), false),
            opened.write(kept, filled(4, 1), false),
        ));
        assert!(after_a_while(writes.as_mut()).await.is_pending(), "it did not wait for the administrator");
        b.let_go();
        let (shrunk, (cut_off, written)) = futures::join!(shrink, writes);
        shrunk.unwrap();
        assert_eq!((cut_off, written), (Err(IoError::InvalidRange), Ok(())));
        drop(opened);
        b.module.resize("lvs/v", 2).await.unwrap();
        assert_eq!((b.byte("v", last).await, b.byte("v", kept).await), (0, 4));
        b.balance();
    });
}

/// What is on the disk is not known after a metadata write that failed: nothing may change that relies on it, although the disk works again.
#[test]
fn nothing_changes_after_a_metadata_write_that_failed_until_the_store_is_loaded_again() {
    run(|b| async move {
        b.next_write(ErrorType::Failure);
        assert!(b.module.create(LVS, "w", 1, true, LvolClear::Unmap).await.is_err());
        assert!(b.module.create(LVS, "x", 1, true, LvolClear::Unmap).await.is_err(), "the store goes on");
        let opened = b.open("v");
        opened.write(0, filled(7, 1), false).await.expect("what is mapped can be written");
        assert!(opened.unmap(0, PER_CLUSTER).await.is_err());
        assert_eq!(b.byte("v", 0).await, 7);
        drop(opened);
        b.faults.delete(GATE).unwrap().await;
        assert_eq!(b.module.stores(None).unwrap().len(), 0);
        b.faults.create(ErrorParams { base_name: "m0".to_owned(), uuid: None }).unwrap();
        b.registry.wait_for_examine().await;
        assert_eq!(b.byte("v", 0).await, 7);
        b.module.create(LVS, "x", 1, true, LvolClear::Unmap).await.unwrap();
        b.balance();
    });
}
