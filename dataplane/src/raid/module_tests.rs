//! Raids as their users see them, over simulated disks: members come, fail and go while hosts read and write.

use bytes::{Bytes, BytesMut};
use rand::rngs::SmallRng;
use rand::{Rng, RngExt, SeedableRng};

use super::*;
use crate::bdev::null::{self, NullParams};
use crate::bdev::sim_disk::{SimBdev, SimDisk};
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

    async fn hot_remove(&self, name: &str) {
        self.registry.unregister(name, "sim").unwrap().await;
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

/// What a random run checks: per block the last acknowledged value, or that a write to it is in flight or failed.
struct Model {
    settled: RefCell<Vec<Option<u8>>>,
    busy: RefCell<Vec<bool>>,
}

async fn host(b: Rc<Bench>, model: Rc<Model>, mut rng: SmallRng, ops: usize) {
    let Ok((d, _e)) = b.registry.open("r", true) else { return };
    for _ in 0..ops {
        let len = rng.random_range(1..6u64);
        let lba = rng.random_range(0..BLOCKS - len);
        let range = lba as usize..(lba + len) as usize;
        if model.busy.borrow()[range.clone()].iter().any(|b| *b) {
            tokio::task::yield_now().await;
            continue;
        }
        if rng.random_bool(0.5) {
            let tag = rng.next_u32() as u8;
            model.busy.borrow_mut()[range.clone()].fill(true);
            let result = d.write(lba, bytes(tag, len), false).await;
            model.settled.borrow_mut()[range.clone()].fill(result.is_ok().then_some(tag));
            model.busy.borrow_mut()[range].fill(false);
        } else {
            let before = model.settled.borrow()[range.clone()].to_vec();
            let got = d.read(lba, BytesMut::zeroed((len * 512) as usize)).await;
            let after = model.settled.borrow()[range.clone()].to_vec();
            let quiet = before == after && !model.busy.borrow()[range].iter().any(|b| *b);
            if let (Ok(got), true) = (got, quiet) {
                for (n, want) in before.iter().enumerate() {
                    let got = got[n * 512];
                    assert!(want.is_none_or(|w| w == got), "block {}: {got} for {want:?}", lba + n as u64);
                }
            }
        }
    }
}

/// Members fail, go, come back blank and are rebuilt while hosts write: what was acknowledged is read back, from each member.
fn random_run(seed: u64) {
    run(|| async move {
        let mut rng = SmallRng::seed_from_u64(seed);
        let b = Rc::new(Bench::new(seed << 16));
        let mut disks: Vec<_> = (0..3).map(|n| (format!("d{n}"), b.disk(&format!("d{n}")))).collect();
        let names: Vec<_> = disks.iter().map(|d| d.0.as_str()).collect();
        b.mirror(&names);
        let options =
            RaidOptions { process_window_size_kb: rng.random_range(1..8), ..RaidOptions::default() };
        b.module.set_options(options).unwrap();
        let model = Rc::new(Model {
            settled: RefCell::new(vec![Some(0); BLOCKS as usize]),
            busy: RefCell::new(vec![false; BLOCKS as usize]),
        });
        for round in 0..8 {
            let hosts: Vec<_> = (0..4)
                .map(|_| {
                    let rng = SmallRng::seed_from_u64(rng.next_u64());
                    tokio::task::spawn_local(host(Rc::clone(&b), Rc::clone(&model), rng, 60))
                })
                .collect();
            for _ in 0..rng.random_range(0..60) {
                tokio::task::yield_now().await;
            }
            let in_sync = b.info().num_base_bdevs_operational;
            let rebuilding = b.info().process.is_some();
            let n = rng.random_range(0..disks.len());
            let (name, disk) = disks[n].clone();
            let is_target = b.info().process.is_some_and(|p| p.target == name);
            // The last member in sync is not taken away.
            if is_target || in_sync > 1 + u32::from(rebuilding) {
                match rng.random_range(0..3) {
                    0 => disk.fail(Some(IoError::NoPath)),
                    1 if b.names().contains(&Some(name.clone())) => b.hot_remove(&name).await,
                    _ => {
                        let _ = b.module.remove_base(&name).await;
                    }
                }
            }
            let fresh = format!("n{round}");
            let new = b.disk(&fresh);
            if b.module.add_base("r", &fresh).is_ok() {
                disks.push((fresh, new));
            }
            for host in hosts {
                host.await.unwrap();
            }
            disks.retain(|(name, _)| b.names().contains(&Some(name.clone())));
        }
        b.rebuilt().await;
        check_members(&b, &model, &disks, seed);
    });
}

fn check_members(b: &Bench, model: &Model, disks: &[(String, Rc<SimDisk>)], seed: u64) {
    let names = b.names();
    let members: Vec<_> = disks.iter().filter(|(name, _)| names.contains(&Some(name.clone()))).collect();
    assert!(!members.is_empty(), "seed {seed}: nobody is left");
    for (name, disk) in members {
        for (lba, want) in model.settled.borrow().iter().enumerate() {
            let got = disk.contents(lba as u64, 1)[0];
            assert!(want.is_none_or(|w| w == got), "seed {seed}: {name} block {lba}: {got} for {want:?}");
        }
    }
}

#[test]
fn acknowledged_writes_survive_failing_and_rebuilt_members() {
    let base = std::env::var("VDA_SEED").ok().and_then(|s| s.parse().ok());
    let seeds = base.map_or(0..40, |s: u64| s..s + 1);
    for seed in seeds {
        println!("seed {seed}");
        random_run(seed);
    }
}
