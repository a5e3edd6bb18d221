//! Members that come, go and grow while something is held on another one: the order is certain.

use bytes::Bytes;
use vda_spdk::{ErrorIoType, ErrorType};

use super::*;
use crate::bdev::inject::{ErrorBdevs, ErrorParams, Injection};
use crate::bdev::null::{self, NullParams};
use crate::bdev::sim_disk::{SimBdev, SimDisk};
use crate::bdev::{Descriptor, NewBdev, Registration, Registry};
use crate::raid::{CreateRaid, RaidLevel, RaidModule};

const BLOCK: u32 = 512;
const BLOCKS: u64 = 256;
/// Turns of the reactor in which everything ends that waits for nobody.
const ENOUGH: usize = 1000;

struct Bench {
    registry: Registry,
    raids: Rc<RaidModule>,
    faults: Rc<ErrorBdevs>,
}

fn run<F: Future>(test: impl FnOnce(Bench) -> F) -> F::Output {
    let rt = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    tokio::task::LocalSet::new().block_on(&rt, async {
        let registry = Registry::new();
        let (raids, faults) = (RaidModule::new(registry.clone()), ErrorBdevs::new(registry.clone()));
        test(Bench { registry, raids, faults }).await
    })
}

async fn a_while() {
    for _ in 0..ENOUGH {
        tokio::task::yield_now().await;
    }
}

fn filled(value: u8, blocks: u64) -> Bytes {
    Bytes::from(vec![value; blocks as usize * BLOCK as usize])
}

impl Bench {
    /// A disk full of something, and over it an error bdev `EE_{name}`.
    fn disk(&self, name: &str, blocks: u64) -> (Rc<SimDisk>, Registration) {
        let disk = SimDisk::new(u64::from(name.as_bytes()[0]), BLOCK, blocks);
        disk.fill_with_garbage();
        let bdev = Rc::new(SimBdev(Rc::clone(&disk)));
        let new = NewBdev { name: name.to_owned(), aliases: vec![], bdev };
        let registration = self.registry.register(new).unwrap();
        self.faults.create(ErrorParams { base_name: name.to_owned(), uuid: None }).unwrap();
        (disk, registration)
    }

    /// A mirror of one member, with a place for another; open.
    async fn mirror_of(&self, member: &str) -> Descriptor {
        let spare =
            NullParams { name: "spare".to_owned(), num_blocks: BLOCKS, block_size: BLOCK, uuid: None };
        null::create(&self.registry, spare).unwrap();
        let mirror = CreateRaid {
            name: "r".to_owned(),
            level: RaidLevel::Raid1,
            strip_size_kb: None,
            base_bdevs: vec![member.to_owned(), "spare".to_owned()],
            uuid: None,
            superblock: false,
        };
        self.raids.create(mirror).unwrap();
        self.raids.remove_base("spare").await.unwrap();
        self.registry.open("r", true).unwrap().0
    }

    /// The next operation of that type on `bdev` waits for [`ErrorBdevs::resume`].
    fn hold(&self, bdev: &str, io: ErrorIoType) {
        let injection =
            Injection { error: ErrorType::Pending, num: 1, queue_depth: 0, nvme: (0, 0), corrupt: (0, 0) };
        self.faults.inject(bdev, io, injection).unwrap();
    }

    fn is_rebuilding(&self) -> bool {
        self.raids.list(None).iter().any(|r| r.info.process.is_some())
    }

    async fn rebuilt(&self) {
        while self.is_rebuilding() {
            tokio::task::yield_now().await;
        }
    }
}

#[test]
fn a_write_that_waited_for_its_turn_leaves_a_member_alone_that_was_removed_meanwhile() {
    run(|b| async move {
        let ((a, _), (other, _)) = (b.disk("a", BLOCKS), b.disk("b", BLOCKS));
        let d = b.mirror_of("EE_a").await;
        b.raids.add_base("r", "EE_b").unwrap();
        b.rebuilt().await;
        b.hold("EE_a", ErrorIoType::Write);
        let first = tokio::task::spawn_local(d.write(8, filled(7, 4), false));
        a_while().await;
        let second = tokio::task::spawn_local(d.write(10, filled(9, 4), false));
        a_while().await;
        b.raids.remove_base("EE_b").await.unwrap();
        let changes = other.changes();
        b.faults.resume("EE_a").unwrap();
        assert_eq!((first.await.unwrap(), second.await.unwrap()), (Ok(()), Ok(())));
        assert_eq!(other.changes(), changes, "it was written to though it is free for others");
        assert_eq!(a.contents(8, 6), [filled(7, 2), filled(9, 4)].concat());
    });
}

#[test]
fn what_a_mirror_grows_by_during_the_last_flush_of_a_rebuild_is_copied() {
    run(|b| async move {
        let (a, _) = b.disk("a", BLOCKS + 64);
        let (target, registration) = b.disk("b", BLOCKS);
        let d = b.mirror_of("EE_a").await;
        assert_eq!(d.num_blocks(), BLOCKS);
        b.hold("EE_b", ErrorIoType::Flush);
        b.raids.add_base("r", "EE_b").unwrap();
        a_while().await;
        assert!(b.is_rebuilding(), "its flush is held");
        assert_eq!(target.contents(0, BLOCKS), a.contents(0, BLOCKS), "all is copied");
        target.grow(BLOCKS + 64);
        registration.notify_resize();
        a_while().await;
        assert_eq!(d.num_blocks(), BLOCKS + 64);
        b.faults.resume("EE_b").unwrap();
        b.rebuilt().await;
        assert!(target.contents(0, BLOCKS + 64) == a.contents(0, BLOCKS + 64), "members in sync differ");
    });
}

#[test]
fn a_flush_whose_members_were_all_replaced_meanwhile_is_one_of_those_who_came() {
    run(|b| async move {
        let ((_a, _), (other, _)) = (b.disk("a", BLOCKS), b.disk("b", BLOCKS));
        let d = b.mirror_of("EE_a").await;
        d.write(3, filled(5, 1), false).await.unwrap();
        b.hold("EE_a", ErrorIoType::Flush);
        let flush = tokio::task::spawn_local(d.flush());
        a_while().await;
        b.raids.add_base("r", "EE_b").unwrap();
        b.rebuilt().await;
        let raids = Rc::clone(&b.raids);
        let removal = tokio::task::spawn_local(async move { raids.remove_base("EE_a").await });
        a_while().await;
        assert!(!flush.is_finished() && !removal.is_finished(), "the flush is held");
        b.faults.resume("EE_a").unwrap();
        assert_eq!(flush.await.unwrap(), Ok(()));
        removal.await.unwrap().unwrap();
        let after = other.after_power_cut_with(1, |_| false);
        assert_eq!(after.contents(3, 1), filled(5, 1));
    });
}
