//! Raids as their users see them, over simulated disks: members come, fail and go while hosts read and write.

use bytes::{Bytes, BytesMut};

use super::*;
use crate::bdev::null::{self, NullParams};
use crate::bdev::sim_disk::{Faults, SimBdev, SimDisk};
use crate::bdev::{IoError, IoType};

const BLOCK: u32 = 512;
const BLOCKS: u64 = 256;

fn run<F: Future>(test: impl FnOnce() -> F) -> F::Output {
    let rt = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    tokio::task::LocalSet::new().block_on(&rt, async { test().await })
}

struct Bench {
    registry: Registry,
    module: Rc<RaidModule>,
    seed: Cell<u64>,
}

impl Bench {
    fn new(seed: u64) -> Self {
        let registry = Registry::new();
        let module = RaidModule::new(registry.clone());
        Self { registry, module, seed: Cell::new(seed) }
    }

    fn disk_of(&self, name: &str, blocks: u64) -> Rc<SimDisk> {
        self.seed.set(self.seed.get() + 1);
        let disk = SimDisk::new(self.seed.get(), BLOCK, blocks);
        let bdev = Rc::new(SimBdev(Rc::clone(&disk)));
        self.registry.register(NewBdev { name: name.to_owned(), aliases: vec![], bdev }).unwrap();
        disk
    }

    fn disk(&self, name: &str) -> Rc<SimDisk> {
        self.disk_of(name, BLOCKS)
    }

    fn null(&self, name: &str) {
        let params = NullParams { name: name.to_owned(), num_blocks: BLOCKS, block_size: BLOCK, uuid: None };
        null::create(&self.registry, params).unwrap();
    }

    fn create(&self, level: RaidLevel, strip: Option<u32>, bases: &[&str]) -> Result<(), RaidError> {
        self.module.create(CreateRaid {
            name: "r".to_owned(),
            level,
            strip_size_kb: strip,
            base_bdevs: bases.iter().map(|b| (*b).to_owned()).collect(),
            uuid: None,
            superblock: false,
        })
    }

    fn mirror(&self, bases: &[&str]) {
        self.create(RaidLevel::Raid1, None, bases).unwrap();
    }

    fn info(&self) -> vda_spdk::RaidInfo {
        self.module.list(None).remove(0).info
    }

    fn names(&self) -> Vec<Option<String>> {
        self.info().base_bdevs_list.into_iter().map(|b| b.name).collect()
    }

    async fn rebuilt(&self) {
        while self.module.list(None).iter().any(|r| r.info.process.is_some()) {
            tokio::task::yield_now().await;
        }
    }
}

fn bytes(tag: u8, blocks: u64) -> Bytes {
    Bytes::from(vec![tag; (blocks * u64::from(BLOCK)) as usize])
}

#[test]
fn refusals_have_the_errno_of_spdk() {
    run(|| async {
        let b = Bench::new(1);
        for name in ["a", "b", "c"] {
            b.disk(name);
        }
        let errno = |level, strip, bases: &[&str]| b.create(level, strip, bases).err().map(|e| e.errno());
        assert_eq!(errno(RaidLevel::Raid1, None, &["a"]), Some(libc::EINVAL));
        assert_eq!(errno(RaidLevel::Raid1, Some(64), &["a", "b"]), Some(libc::EINVAL));
        assert_eq!(errno(RaidLevel::Raid0, None, &["a", "b"]), Some(libc::EINVAL));
        assert_eq!(errno(RaidLevel::Raid0, Some(63), &["a", "b"]), Some(libc::EINVAL));
        assert_eq!(errno(RaidLevel::Raid1, None, &["a", "a"]), Some(libc::EPERM));
        assert_eq!(errno(RaidLevel::Raid1, None, &["a", "b"]), None);
        assert_eq!(errno(RaidLevel::Raid1, None, &["a", "c"]), Some(libc::EEXIST));
        assert_eq!(b.module.add_base("r", "c").unwrap_err().errno(), libc::EINVAL);
        assert_eq!(b.module.add_base("nope", "c").unwrap_err().errno(), libc::ENODEV);
        assert_eq!(b.module.remove_base("c").await.unwrap_err().errno(), libc::ENODEV);
        b.module.delete("r").await.unwrap();
        assert_eq!(b.module.delete("r").await.unwrap_err().errno(), libc::ENODEV);
        assert_eq!(errno(RaidLevel::Raid0, Some(1), &["a"]), None);
        assert!(b.registry.info("a").unwrap().claim.is_some());
    });
}

#[test]
fn a_raid_waits_for_missing_members() {
    run(|| async {
        let b = Bench::new(2);
        b.disk("a");
        b.mirror(&["a", "late"]);
        let info = b.info();
        assert_eq!(info.state, RaidState::Configuring);
        assert_eq!((info.num_base_bdevs_discovered, info.num_base_bdevs_operational), (1, 2));
        assert!(b.registry.info("r").is_err());
        b.disk("late");
        b.registry.wait_for_examine().await;
        assert_eq!(b.info().state, RaidState::Online);
        assert_eq!(b.registry.info("r").unwrap().num_blocks, BLOCKS);
    });
}

#[test]
fn a_spare_slot_takes_a_member_that_is_rebuilt_and_the_old_one_can_go() {
    run(|| async {
        let b = Bench::new(3);
        let old = b.disk("old");
        b.null("spare");
        b.mirror(&["old", "spare"]);
        b.module.remove_base("spare").await.unwrap();
        let info = b.info();
        assert_eq!((info.num_base_bdevs, info.num_base_bdevs_operational), (2, 1));
        assert_eq!(b.names(), [Some("old".to_owned()), None]);
        let (d, _e) = b.registry.open("r", true).unwrap();
        for lba in 0..BLOCKS {
            d.write(lba, bytes(lba as u8, 1), false).await.unwrap();
        }
        let new = b.disk("new");
        let small = b.disk_of("small", BLOCKS - 1);
        assert_eq!(b.module.add_base("r", "small").unwrap_err().errno(), libc::EINVAL);
        let options = RaidOptions { process_window_size_kb: 4, process_max_bandwidth_mb_sec: 0 };
        b.module.set_options(options).unwrap();
        b.module.add_base("r", "new").unwrap();
        let process = b.info().process.unwrap();
        assert_eq!((process.r#type.as_str(), process.target.as_str()), ("rebuild", "new"));
        assert_eq!(b.info().num_base_bdevs_operational, 2);
        assert_eq!(b.module.add_base("r", "small").unwrap_err().errno(), libc::EPERM);
        b.rebuilt().await;
        assert_eq!(new.contents(0, BLOCKS), old.contents(0, BLOCKS));
        b.module.remove_base("old").await.unwrap();
        assert!(b.registry.info("old").unwrap().claim.is_none());
        d.write(3, bytes(99, 1), false).await.unwrap();
        assert_eq!(d.read(3, BytesMut::zeroed(512)).await.unwrap(), bytes(99, 1));
        assert_eq!(new.contents(3, 1), bytes(99, 1));
        drop((d, small));
        b.module.remove_base("new").await.unwrap();
        assert!(b.module.list(None).is_empty(), "the last member takes the raid with it");
        assert!(b.registry.info("r").is_err());
    });
}

#[test]
fn a_failing_member_is_dropped_and_hosts_see_nothing() {
    run(|| async {
        let b = Bench::new(4);
        let (one, _two) = (b.disk("one"), b.disk("two"));
        b.mirror(&["one", "two"]);
        let (d, mut events) = b.registry.open("r", true).unwrap();
        d.write(0, bytes(1, 8), false).await.unwrap();
        one.fail(Some(IoError::NoPath));
        d.write(4, bytes(2, 8), false).await.unwrap();
        assert_eq!(b.names(), [None, Some("two".to_owned())]);
        one.fail(None);
        for _ in 0..4 {
            assert_eq!(d.read(4, BytesMut::zeroed(8 * 512)).await.unwrap(), bytes(2, 8));
        }
        let (three, _) = (b.disk("three"), ());
        b.module.add_base("r", "three").unwrap();
        b.rebuilt().await;
        three.fail(Some(IoError::Os { errno: libc::EIO }));
        for _ in 0..4 {
            assert_eq!(d.read(4, BytesMut::zeroed(8 * 512)).await.unwrap(), bytes(2, 8));
        }
        assert_eq!(b.info().num_base_bdevs_operational, 1);
        let removal = b.registry.unregister("two", "sim").unwrap();
        assert_eq!(events.recv().await, Some(BdevEvent::Removed), "the last member takes the raid with it");
        assert_eq!(d.read(0, BytesMut::zeroed(512)).await, Err(IoError::Removed));
        drop(d);
        removal.await;
        assert!(b.module.list(None).is_empty());
    });
}

#[test]
fn when_all_fail_one_stays_and_the_host_is_told() {
    run(|| async {
        let b = Bench::new(5);
        let (one, two) = (b.disk("one"), b.disk("two"));
        b.mirror(&["one", "two"]);
        let (d, _e) = b.registry.open("r", true).unwrap();
        one.fail(Some(IoError::NoPath));
        two.fail(Some(IoError::NoPath));
        assert_eq!(d.write(0, bytes(1, 1), false).await, Err(IoError::NoPath));
        assert_eq!(b.info().num_base_bdevs_operational, 1);
        one.fail(None);
        two.fail(None);
        d.write(0, bytes(2, 1), false).await.unwrap();
        assert_eq!(d.read(0, BytesMut::zeroed(512)).await.unwrap(), bytes(2, 1));
    });
}

#[test]
fn a_failed_rebuild_drops_its_target_only() {
    run(|| async {
        let b = Bench::new(6);
        b.disk("one");
        b.null("spare");
        b.mirror(&["one", "spare"]);
        b.module.remove_base("spare").await.unwrap();
        let (d, _e) = b.registry.open("r", true).unwrap();
        d.write(0, bytes(7, BLOCKS), false).await.unwrap();
        let options = RaidOptions { process_window_size_kb: 1, process_max_bandwidth_mb_sec: 0 };
        b.module.set_options(options).unwrap();
        let target = b.disk("target");
        b.module.add_base("r", "target").unwrap();
        while b.info().process.is_some_and(|p| p.progress.blocks < 100) {
            tokio::task::yield_now().await;
        }
        target.fail(Some(IoError::NoPath));
        b.rebuilt().await;
        assert_eq!(b.names(), [Some("one".to_owned()), None]);
        assert_eq!(d.read(0, BytesMut::zeroed(512)).await.unwrap(), bytes(7, 1));
        assert!(b.registry.info("target").unwrap().claim.is_none());
    });
}

#[test]
fn raid0_and_concat_hold_what_is_written_and_go_with_a_member() {
    run(|| async {
        for (level, strip) in [(RaidLevel::Raid0, 2), (RaidLevel::Concat, 1)] {
            let b = Bench::new(7);
            for name in ["a", "b", "c"] {
                b.disk(name);
            }
            b.create(level, Some(strip), &["a", "b", "c"]).unwrap();
            let (d, mut events) = b.registry.open("r", true).unwrap();
            assert_eq!(d.num_blocks(), 3 * BLOCKS);
            let data: Vec<u8> = (0..3 * BLOCKS * 512).map(|i| (i / 512 * 7 + i % 13) as u8).collect();
            d.write(0, Bytes::from(data.clone()), false).await.unwrap();
            assert_eq!(d.read(0, BytesMut::zeroed(data.len())).await.unwrap(), data);
            d.write_zeroes(5, 600, false).await.unwrap();
            let mut want = data;
            want[5 * 512..605 * 512].fill(0);
            assert_eq!(d.read(0, BytesMut::zeroed(want.len())).await.unwrap(), want);
            assert!(d.supports(IoType::WriteZeroes));
            let removal = b.registry.unregister("b", "sim").unwrap();
            assert_eq!(events.recv().await, Some(BdevEvent::Removed));
            assert!(d.read(0, BytesMut::zeroed(512)).await.is_err());
            drop(d);
            removal.await;
            assert_eq!(b.info().state, RaidState::Offline);
            b.module.delete("r").await.unwrap();
            assert!(b.registry.info("a").unwrap().claim.is_none());
        }
    });
}

#[test]
fn mirrors_and_stripes_grow_with_their_smallest_member_and_concat_does_not() {
    run(|| async {
        for (level, strip, before, after) in [
            (RaidLevel::Raid1, None, 4096, 8192),
            (RaidLevel::Raid0, Some(4), 8192, 16384),
            (RaidLevel::Concat, Some(4), 8192, 8192),
        ] {
            let b = Bench::new(8);
            let nulls: Vec<_> = ["a", "b"]
                .iter()
                .map(|name| {
                    let name = (*name).to_owned();
                    null::create(
                        &b.registry,
                        NullParams { name, num_blocks: 4096, block_size: BLOCK, uuid: None },
                    )
                    .unwrap()
                })
                .collect();
            b.create(level, strip, &["a", "b"]).unwrap();
            let (d, mut events) = b.registry.open("r", true).unwrap();
            assert_eq!(d.num_blocks(), before);
            for null in &nulls {
                null.resize(4).unwrap();
            }
            if after > before {
                assert_eq!(events.recv().await, Some(BdevEvent::Resized));
            } else {
                tokio::task::yield_now().await;
            }
            assert_eq!(d.num_blocks(), after);
        }
    });
}

#[test]
fn a_removed_target_is_free_when_the_removal_is_answered() {
    run(|| async {
        let b = Bench::new(9);
        let one = b.disk("one");
        b.null("spare");
        b.mirror(&["one", "spare"]);
        b.module.remove_base("spare").await.unwrap();
        let (d, _e) = b.registry.open("r", true).unwrap();
        d.write(0, bytes(7, BLOCKS), false).await.unwrap();
        b.module.set_options(RaidOptions { process_window_size_kb: 1, ..RaidOptions::default() }).unwrap();
        // The source takes its time: the removal comes while the copy reads.
        one.set_turns(40);
        for round in 0..20 {
            let name = format!("t{round}");
            let target = b.disk(&name);
            b.module.add_base("r", &name).unwrap();
            for _ in 0..round * 7 {
                tokio::task::yield_now().await;
            }
            b.module.remove_base(&name).await.unwrap();
            let changes = target.changes();
            assert!(
                b.registry.info(&name).unwrap().claim.is_none(),
                "round {round}: its bdev can be taken by others"
            );
            for _ in 0..100 {
                tokio::task::yield_now().await;
            }
            assert_eq!(target.changes(), changes, "round {round}: nothing is written to it any more");
        }
    });
}

#[test]
fn a_slow_end_of_one_rebuild_does_not_disturb_the_next() {
    run(|| async {
        let b = Bench::new(10);
        let one = b.disk("one");
        b.null("spare");
        b.null("spare2");
        b.mirror(&["one", "spare", "spare2"]);
        for spare in ["spare", "spare2"] {
            b.module.remove_base(spare).await.unwrap();
        }
        let (d, _e) = b.registry.open("r", true).unwrap();
        one.set_turns(60);
        for round in 0..30u8 {
            let (bad, good) = (format!("bad{round}"), format!("good{round}"));
            let failing = b.disk(&bad);
            b.module
                .set_options(RaidOptions { process_window_size_kb: 8, ..RaidOptions::default() })
                .unwrap();
            b.module.add_base("r", &bad).unwrap();
            for _ in 0..round {
                tokio::task::yield_now().await;
            }
            // The target fails a host's write while the copy of a window waits for its source.
            failing.fail(Some(IoError::NoPath));
            d.write(200, bytes(round, 2), false).await.unwrap();
            let disk = b.disk(&good);
            if b.module.add_base("r", &good).is_err() {
                continue;
            }
            for lba in 0..40 {
                d.write(lba, bytes(round ^ lba as u8, 1), false).await.unwrap();
            }
            b.rebuilt().await;
            assert_eq!(disk.contents(0, BLOCKS), one.contents(0, BLOCKS), "round {round}");
            b.module.remove_base(&good).await.unwrap();
        }
    });
}

#[test]
fn a_read_error_is_answered_by_another_and_nothing_is_written() {
    run(|| async {
        let b = Bench::new(11);
        let (one, two) = (b.disk("one"), b.disk("two"));
        b.mirror(&["one", "two"]);
        let (d, _e) = b.registry.open("r", true).unwrap();
        d.write(0, bytes(1, 8), false).await.unwrap();
        let changes = (one.changes(), two.changes());
        one.set_faults(Faults { reads: 1.0, changes: 0.0 });
        for _ in 0..8 {
            assert_eq!(d.read(0, BytesMut::zeroed(8 * 512)).await.unwrap(), bytes(1, 8));
        }
        assert_eq!(b.names(), [None, Some("two".to_owned())]);
        assert_eq!((one.changes(), two.changes()), changes, "no silent repair");
    });
}

#[test]
fn what_is_deallocated_reads_the_same_from_all_members() {
    run(|| async {
        let b = Bench::new(12);
        let disks = [b.disk("one"), b.disk("two"), b.disk("three")];
        for disk in &disks {
            disk.scramble_deallocated();
        }
        b.mirror(&["one", "two", "three"]);
        let (d, _e) = b.registry.open("r", true).unwrap();
        d.write(0, bytes(1, 64), false).await.unwrap();
        d.unmap(8, 40).await.unwrap();
        for disk in &disks {
            assert_eq!(disk.contents(8, 40), vec![0; 40 * 512]);
            assert_eq!(disk.contents(0, 8), bytes(1, 8));
        }
    });
}

#[test]
fn a_waiting_raid_takes_back_what_was_taken_from_it() {
    run(|| async {
        let b = Bench::new(13);
        b.disk("a");
        b.disk("other");
        b.mirror(&["a", "late"]);
        b.module.remove_base("a").await.unwrap();
        assert_eq!(b.names(), [None, Some("late".to_owned())]);
        assert_eq!(b.module.add_base("r", "other").unwrap_err().errno(), libc::EINVAL);
        b.module.add_base("r", "a").unwrap();
        b.disk("late");
        b.registry.wait_for_examine().await;
        assert_eq!(b.info().state, RaidState::Online);
    });
}
