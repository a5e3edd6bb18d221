//! Power cuts in which a chosen part of what was not flushed is lost: each rule of ordering has a test that fails without it.

use std::rc::Rc;

use bytes::{Bytes, BytesMut};

use super::model::stamp_of;
use super::{BLOCK, Booted, CLUSTER, DISK_BLOCKS, LVS, PER_CLUSTER, block_on, boot, params};
use crate::bdev::sim_disk::{Faults, SimBdev, SimDisk};
use crate::bdev::{Bdev, IoError};
use crate::lvstore::LvolClear;
use crate::lvstore::layout::{Layout, PAGE};

fn layout() -> Layout {
    layout_on(DISK_BLOCKS[0])
}

fn layout_on(blocks: u64) -> Layout {
    Layout::new(BLOCK as u32, blocks, CLUSTER as u32, 2).unwrap()
}

fn stamped(stamp: u64, blocks: u64) -> Bytes {
    Bytes::from(stamp.to_le_bytes().repeat((blocks * BLOCK / 8) as usize))
}

async fn write(b: &Booted, name: &str, lba: u64, stamp: u64, blocks: u64) {
    let (d, _events) = b.registry.open(&format!("lvs/{name}"), true).unwrap();
    d.write(lba, stamped(stamp, blocks), false).await.unwrap();
}

async fn read(b: &Booted, name: &str, lba: u64) -> u64 {
    let (d, _events) = b.registry.open(&format!("lvs/{name}"), false).unwrap();
    stamp_of(&d.read(lba, BytesMut::zeroed(BLOCK as usize)).await.unwrap())
}

async fn flush(b: &Booted, name: &str) {
    let (d, _events) = b.registry.open(&format!("lvs/{name}"), true).unwrap();
    d.flush().await.unwrap();
}

async fn create(b: &Booted, name: &str) {
    b.module.create(LVS, name, 1, true, LvolClear::Unmap).await.unwrap();
}

/// Whether a block belongs to the two journals.
fn is_journal(layout: &Layout, lba: u64) -> bool {
    let first = layout.page_lba(layout.journal_page(0));
    let end = layout.page_lba(layout.journal_page(1) + u64::from(layout.journal_pages));
    (first..end).contains(&lba)
}

fn is_data(lba: u64) -> bool {
    lba >= layout().cluster_lba(0)
}

/// Runs until the power goes after `operations`, which may be never.
fn until_power_off<F: Future>(disk: &Rc<SimDisk>, work: impl FnOnce(Rc<SimDisk>) -> F) {
    let off = Rc::clone(disk);
    block_on(async {
        tokio::select! {
            _ = work(Rc::clone(disk)) => {}
            () = async { while !off.is_off() { tokio::task::yield_now().await } } => {}
        }
    });
}

/// Without the rule, the data of the new owner is in the cluster when the record that took it from the old one is lost: a flush that began
/// before that record says nothing about it.
#[test]
fn a_freed_cluster_is_used_again_only_when_the_record_that_freed_it_is_durable() {
    let full = SimDisk::new(3, BLOCK as u32, DISK_BLOCKS[1]);
    block_on(async {
        let b = boot(&full).await;
        b.module.create_store(params("disk")).await.unwrap();
        create(&b, "new").await;
        write(&b, "new", 0, 5, PER_CLUSTER).await;
        b.module.snapshot("lvs/new", "s").await.unwrap();
        b.module.create(LVS, "old", 1, true, LvolClear::None).await.unwrap();
        for cluster in 0..b.module.stores(None).unwrap()[0].free_clusters {
            write(&b, "old", cluster * PER_CLUSTER, 7, PER_CLUSTER).await;
        }
        flush(&b, "old").await;
    });
    for (seed, operations) in (0..8).flat_map(|seed| (1..24).map(move |n| (seed, n))) {
        let disk = full.after_power_cut_with(seed, |_| true);
        until_power_off(&disk, |disk| async move {
            let b = boot(&disk).await;
            // So that the next change needs no checkpoint.
            b.module.rename("lvs/old", "older").await.unwrap();
            disk.power_off_after(operations);
            let (old, _events) = b.registry.open("lvs/older", true).unwrap();
            let (flushed, unmapped) = futures::join!(old.flush(), old.unmap(0, PER_CLUSTER));
            flushed.and(unmapped).unwrap();
            write(&b, "new", 3, 9, 1).await;
        });
        let layout = layout_on(DISK_BLOCKS[1]);
        let disk = disk.after_power_cut_with(seed, |lba| !is_journal(&layout, lba));
        block_on(async {
            let b = boot(&disk).await;
            for block in 0..PER_CLUSTER {
                let found = read(&b, "older", block).await;
                assert!(
                    [0, 7].contains(&found),
                    "seed {seed}, {operations}: the old owner's block {block} is {found}"
                );
            }
        });
    }
}

/// Without the rule, a journal page of the new generation is there and its checkpoint is not: nothing could be loaded any more.
#[test]
fn a_checkpoint_is_flushed_before_its_journal_is_used() {
    let layout = layout();
    let checkpoints = layout.page_lba(layout.checkpoint_page(0))..layout.page_lba(layout.journal_page(0));
    for operations in 1..40 {
        let disk = SimDisk::new(operations, BLOCK as u32, DISK_BLOCKS[0]);
        block_on(async {
            let b = boot(&disk).await;
            b.module.create_store(params("disk")).await.unwrap();
        });
        let disk = disk.after_power_cut_with(operations, |_| true);
        until_power_off(&disk, |disk| async move {
            let b = boot(&disk).await;
            disk.power_off_after(operations);
            create(&b, "a").await;
        });
        let disk = disk.after_power_cut_with(operations, |lba| !checkpoints.contains(&lba));
        block_on(async {
            let b = boot(&disk).await;
            assert!(b.module.stores(Some(LVS)).is_ok(), "not loaded after {operations} operations");
        });
    }
}

/// Without the rule, the record shows a cluster to which nothing was copied yet.
#[test]
fn a_copied_cluster_is_durable_before_it_is_mapped() {
    for operations in 1..60 {
        let disk = SimDisk::new(operations, BLOCK as u32, DISK_BLOCKS[0]);
        block_on(async {
            let b = boot(&disk).await;
            b.module.create_store(params("disk")).await.unwrap();
            create(&b, "v").await;
            write(&b, "v", 0, 7, 2 * PER_CLUSTER).await;
            b.module.snapshot("lvs/v", "s").await.unwrap();
        });
        let disk = disk.after_power_cut_with(operations, |_| true);
        until_power_off(&disk, |disk| async move {
            let b = boot(&disk).await;
            // So that the next change needs no checkpoint.
            create(&b, "w").await;
            disk.power_off_after(operations);
            write(&b, "v", 3, 9, 1).await;
            write(&b, "v", PER_CLUSTER, 9, PER_CLUSTER).await;
            write(&b, "w", 0, 5, 1).await;
        });
        let disk = disk.after_power_cut_with(operations, |lba| !is_data(lba));
        block_on(async {
            let b = boot(&disk).await;
            for block in 0..2 * PER_CLUSTER {
                let found = read(&b, "v", block).await;
                let written = block == 3 || block >= PER_CLUSTER;
                assert!(found == 7 || (written && found == 9), "{operations}: block {block} is {found}");
                assert_eq!(read(&b, "s", block).await, 7);
            }
        });
    }
}

/// A lost journal page takes what follows with it.
#[test]
fn what_follows_a_lost_journal_page_never_comes_back() {
    let disk = SimDisk::new(1, BLOCK as u32, DISK_BLOCKS[0]);
    let names = |b: &Booted| b.module.lvols(None).unwrap().into_iter().map(|l| l.name).collect::<Vec<_>>();
    block_on(async {
        let b = boot(&disk).await;
        b.module.create_store(params("disk")).await.unwrap();
        for name in ["a", "b", "c"] {
            create(&b, name).await;
        }
    });
    // The first change after the load of the new store began generation 2: "a" is in its page 0, "b" in page 1, "c" in page 2.
    let lost = layout().page_lba(layout().journal_page(2) + 1);
    block_on(async {
        let garbage = Bytes::from(vec![0xa5; PAGE as usize]);
        SimBdev(Rc::clone(&disk)).write(lost, garbage, true).await.unwrap();
        let b = boot(&disk).await;
        assert_eq!(names(&b), ["a"]);
        create(&b, "d").await;
    });
    block_on(async {
        let b = boot(&disk).await;
        assert_eq!(names(&b), ["a", "d"]);
    });
}

#[test]
fn what_an_lvstore_grew_by_can_be_written_to_the_last_cluster() {
    let disk = SimDisk::new(2, BLOCK as u32, DISK_BLOCKS[1]);
    block_on(async {
        let b = boot(&disk).await;
        b.module.create_store(params("disk")).await.unwrap();
        create(&b, "v").await;
        let before = b.clusters();
        // More than fit in the word of the bitmap that is there already.
        for _ in 0..64 {
            b.grow().await;
        }
        b.module.grow_store(LVS).await.unwrap();
        assert_eq!(b.clusters(), before + 64);
        for cluster in 0..b.clusters() {
            write(&b, "v", cluster * PER_CLUSTER, 7, 1).await;
        }
        let (d, _events) = b.registry.open("lvs/v", true).unwrap();
        let full = d.write(b.clusters() * PER_CLUSTER, stamped(7, 1), false).await;
        assert_eq!(full, Err(IoError::NoSpace));
    });
}

/// Neighbours that are given back at the same time are each cleared as their lvol says.
#[test]
fn what_is_to_be_overwritten_is_not_deallocated_with_its_neighbour() {
    let disk = SimDisk::new(2, BLOCK as u32, DISK_BLOCKS[0]);
    block_on(async {
        let b = boot(&disk).await;
        b.module.create_store(params("disk")).await.unwrap();
        b.module.create(LVS, "u", 1, true, LvolClear::Unmap).await.unwrap();
        b.module.create(LVS, "z", 1, true, LvolClear::WriteZeroes).await.unwrap();
        write(&b, "u", 0, 5, PER_CLUSTER).await;
        write(&b, "z", 0, 7, PER_CLUSTER).await;
        let holds = |lba: u64, stamp: u64| disk.contents(lba, 1) == stamped(stamp, 1);
        let of = |stamp| (0..DISK_BLOCKS[0]).find(|lba| holds(*lba, stamp)).unwrap();
        let (of_u, of_z) = (of(5), of(7));
        assert_eq!(of_z, of_u + PER_CLUSTER, "they are neighbours");
        for name in ["u", "z"] {
            let (d, _events) = b.registry.open(&format!("lvs/{name}"), true).unwrap();
            d.unmap(0, PER_CLUSTER).await.unwrap();
        }
        flush(&b, "u").await;
        for _ in 0..1000 {
            if !holds(of_u, 5) && !holds(of_z, 7) {
                break;
            }
            tokio::task::yield_now().await;
        }
        assert!(!holds(of_u, 5) && !holds(of_u, 0), "the disk makes something up where it was deallocated");
        assert!((of_z..of_z + PER_CLUSTER).all(|lba| holds(lba, 0)), "it was not overwritten");
    });
}

/// Clusters that could not be zeroed hold what their last owner wrote: nobody sees that, and they are not lost.
#[test]
fn clusters_that_could_not_be_zeroed_are_neither_handed_out_nor_lost() {
    // A write of zeros that fails is made all the same by every other disk.
    for seed in 0..8 {
        let disk = SimDisk::new(seed, BLOCK as u32, DISK_BLOCKS[1]);
        block_on(async {
            let b = boot(&disk).await;
            b.module.create_store(params("disk")).await.unwrap();
            b.module.create(LVS, "old", 1, true, LvolClear::None).await.unwrap();
            for cluster in 0..b.clusters() {
                write(&b, "old", cluster * PER_CLUSTER, 7, PER_CLUSTER).await;
            }
            b.module.delete("lvs/old").await.unwrap();
            b.module.create(LVS, "new", 1, true, LvolClear::None).await.unwrap();
            let (new, _events) = b.registry.open("lvs/new", true).unwrap();
            disk.set_faults(Faults { reads: 0.0, changes: 1.0 });
            let failed = new.write(0, stamped(9, 1), false).await;
            assert_eq!(failed, Err(IoError::Os { errno: libc::EIO }), "there is no zeroed cluster");
            disk.set_faults(Faults::default());
            for cluster in 0..b.clusters() {
                let at = cluster * PER_CLUSTER;
                new.write(at, stamped(9, 1), false).await.unwrap();
                let found = (read(&b, "new", at).await, read(&b, "new", at + 1).await);
                assert_eq!(found, (9, 0), "disk {seed}, cluster {cluster}");
            }
        });
    }
}
