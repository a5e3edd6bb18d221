//! Random work on an lvstore over a disk that loses power (or whose process is killed) at a random point, again and again:
//! what was flushed is there, what was not is old or new but never somebody else's, and half-done changes are invisible.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

use bytes::{Bytes, BytesMut};
use rand::rngs::SmallRng;
use rand::{Rng, RngExt, SeedableRng};

use super::module::{ClearMethod, CreateStore, LvolModule, LvsSelector};
use crate::bdev::sim_disk::{SimBdev, SimDisk};
use crate::bdev::{Descriptor, IoError, NewBdev, Registry};

const BLOCK: u64 = 512;
const CLUSTER: u64 = 8192;
const PER_CLUSTER: u64 = CLUSTER / BLOCK;
/// Room for one thick volume, or for hardly more than what is written, so that clusters change hands all the time.
const DISK_BLOCKS: [u64; 2] = [4448, 1792];
const PER_MIB: u64 = (1 << 20) / BLOCK;
/// Blocks of a volume that are looked at: the start of it.
const LOOKED_AT: u64 = 6 * PER_CLUSTER;
const LVS: LvsSelector<'static> = LvsSelector::Name("lvs");

/// How the process ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    PowerCut,
    Kill,
}

/// What a block may hold: now, and after the end of the process.
#[derive(Clone, Debug)]
struct Allowed {
    now: Vec<u64>,
    after: Vec<u64>,
}

impl Default for Allowed {
    fn default() -> Self {
        Self { now: vec![0], after: vec![0] }
    }
}

/// A volume as the test knows it.
#[derive(Clone, Debug)]
struct Vol {
    names: Vec<String>,
    mib: Vec<u64>,
    blocks: Vec<Allowed>,
    may_be_absent: bool,
    must_be_absent: bool,
}

#[derive(Default)]
struct Model {
    vols: BTreeMap<u64, Vol>,
    next: u64,
    stamp: u64,
}

type Shared = Rc<RefCell<Model>>;

/// A host with its own volume: several I/O at once, now and then a flush.
struct Host {
    vol: u64,
    desc: Descriptor,
    model: Shared,
    end: End,
    rng: SmallRng,
}

impl Host {
    fn with(&self, range: std::ops::Range<u64>, f: impl Fn(&mut Allowed)) {
        let mut model = self.model.borrow_mut();
        let vol = model.vols.get_mut(&self.vol).unwrap();
        vol.blocks[range.start as usize..range.end as usize].iter_mut().for_each(f);
    }

    /// An acknowledged change to one of `values`.
    fn acknowledged(&self, range: std::ops::Range<u64>, values: &[u64], durable: bool, keep_old: bool) {
        let durable = durable || self.end == End::Kill;
        self.with(range, |a| {
            let old = if keep_old { std::mem::take(&mut a.now) } else { Vec::new() };
            a.now = [old.as_slice(), values].concat();
            if durable {
                a.after = a.now.clone();
            }
        });
    }

    async fn change(&self, lba: u64, len: u64, kind: u32, stamp: u64) {
        let range = lba..lba + len;
        let value = if kind >= 4 { 0 } else { stamp };
        self.with(range.clone(), |a| a.after.push(value));
        let fua = kind == 1 || kind == 5;
        let data = || Bytes::from(stamp.to_le_bytes().repeat((len * BLOCK / 8) as usize));
        let result = match kind {
            0..4 => self.desc.write(lba, data(), fua).await,
            4 | 5 => self.desc.write_zeroes(lba, len, fua).await,
            _ => self.desc.unmap(lba, len).await,
        };
        match result {
            Ok(()) => self.acknowledged(range, &[value], fua, kind >= 6),
            Err(IoError::NoSpace) => self.with(range, |a| a.now.push(value)),
            Err(e) => panic!("{e}"),
        }
    }

    async fn check(&self, lba: u64, len: u64) {
        let got = self.desc.read(lba, BytesMut::zeroed((len * BLOCK) as usize)).await.unwrap();
        let model = self.model.borrow();
        for (n, block) in got.chunks(BLOCK as usize).enumerate() {
            let allowed = &model.vols[&self.vol].blocks[lba as usize + n].now;
            let found = stamp_of(block);
            assert!(allowed.contains(&found), "block {}: {found} not in {allowed:?}", lba + n as u64);
        }
    }

    async fn run(mut self) {
        for _ in 0..40 {
            let mut changes = Vec::new();
            let mut at = self.rng.random_range(0..8);
            while at < LOOKED_AT {
                let len = self.rng.random_range(1..PER_CLUSTER * 5 / 2).min(LOOKED_AT - at);
                if self.rng.random_bool(0.5) {
                    let stamp = {
                        let mut model = self.model.borrow_mut();
                        model.stamp += 1;
                        model.stamp
                    };
                    changes.push((at, len, self.rng.random_range(0..7), stamp));
                }
                at += len + self.rng.random_range(0..20);
            }
            let changes =
                changes.into_iter().map(|(lba, len, kind, stamp)| self.change(lba, len, kind, stamp));
            futures::future::join_all(changes).await;
            match self.rng.random_range(0..6) {
                0 => {
                    self.desc.flush().await.unwrap();
                    self.with(0..LOOKED_AT, |a| a.after = a.now.clone());
                }
                1 => self.check(0, LOOKED_AT).await,
                _ => {}
            }
        }
    }
}

fn stamp_of(block: &[u8]) -> u64 {
    let first = u64::from_le_bytes(block[..8].try_into().unwrap());
    assert!(block.chunks(8).all(|w| w == first.to_le_bytes()), "a block of pieces");
    first
}

/// Creates, renames, resizes and deletes volumes that no host has.
async fn administrate(module: Rc<LvolModule>, model: Shared, idle: Vec<u64>, mut rng: SmallRng) {
    let mut idle = idle;
    for _ in 0..12 {
        let pick = (!idle.is_empty()).then(|| rng.random_range(0..idle.len()));
        match (rng.random_range(0..4), pick) {
            (1, Some(n)) => delete(&module, &model, idle.remove(n)).await,
            (2, Some(n)) => rename(&module, &model, idle[n]).await,
            (3, Some(n)) => resize(&module, &model, idle[n], rng.random_range(0..3)).await,
            _ => idle.extend(create(&module, &model, rng.random_bool(0.7)).await),
        }
    }
}

async fn create(module: &LvolModule, model: &Shared, thin: bool) -> Option<u64> {
    let (id, name) = {
        let mut model = model.borrow_mut();
        let id = model.next;
        model.next += 1;
        let vol = Vol {
            names: vec![format!("v{id}")],
            // There is room for one thick one at a time.
            mib: vec![1],
            blocks: vec![Allowed::default(); LOOKED_AT as usize],
            may_be_absent: true,
            must_be_absent: false,
        };
        model.vols.insert(id, vol);
        (id, format!("v{id}"))
    };
    let created = module.create(LVS, &name, 1, thin).await;
    let mut model = model.borrow_mut();
    if created.is_err() {
        model.vols.remove(&id);
        return None;
    }
    model.vols.get_mut(&id).unwrap().may_be_absent = false;
    Some(id)
}

async fn delete(module: &LvolModule, model: &Shared, id: u64) {
    let name = {
        let mut model = model.borrow_mut();
        let vol = model.vols.get_mut(&id).unwrap();
        vol.may_be_absent = true;
        format!("lvs/{}", vol.names[0])
    };
    module.delete(&name).await.unwrap();
    model.borrow_mut().vols.get_mut(&id).unwrap().must_be_absent = true;
}

async fn rename(module: &LvolModule, model: &Shared, id: u64) {
    let (old, new) = {
        let mut model = model.borrow_mut();
        model.next += 1;
        let new = format!("v{id}r{}", model.next);
        let vol = model.vols.get_mut(&id).unwrap();
        vol.names.push(new.clone());
        (format!("lvs/{}", vol.names[0]), new)
    };
    module.rename(&old, &new).await.unwrap();
    model.borrow_mut().vols.get_mut(&id).unwrap().names = vec![new];
}

async fn resize(module: &LvolModule, model: &Shared, id: u64, mib: u64) {
    let name = {
        let mut model = model.borrow_mut();
        let vol = model.vols.get_mut(&id).unwrap();
        vol.mib.push(mib);
        if mib == 0 {
            // What is cut off comes back as zeros.
            vol.blocks.iter_mut().for_each(|a| a.after.push(0));
        }
        format!("lvs/{}", vol.names[0])
    };
    let done = module.resize(&name, mib).await;
    let mut model = model.borrow_mut();
    let vol = model.vols.get_mut(&id).unwrap();
    if done.is_ok() {
        vol.mib = vec![mib];
        if mib == 0 {
            vol.blocks.fill(Allowed::default());
        }
    } else {
        vol.mib.pop();
    }
}

struct Booted {
    registry: Registry,
    module: Rc<LvolModule>,
}

async fn boot(disk: &Rc<SimDisk>) -> Booted {
    let registry = Registry::new();
    let module = LvolModule::new(registry.clone());
    let bdev = Rc::new(SimBdev(Rc::clone(disk)));
    registry.register(NewBdev { name: "disk".to_owned(), aliases: vec![], bdev }).unwrap();
    registry.wait_for_examine().await;
    Booted { registry, module }
}

/// Compares what is found after a restart with what may be, and takes it over.
async fn verify(b: &Booted, model: &Shared) {
    let found: Vec<_> = b.module.lvols(Some(LVS)).unwrap().into_iter().map(|l| l.name).collect();
    let ids: Vec<_> = model.borrow().vols.keys().copied().collect();
    let mut known = 0;
    for id in ids {
        let vol = model.borrow().vols[&id].clone();
        let names: Vec<_> = found.iter().filter(|f| vol.names.contains(f)).collect();
        assert!(names.len() <= 1, "{vol:?} twice");
        let Some(name) = names.first() else {
            assert!(vol.may_be_absent, "v{id} is missing");
            model.borrow_mut().vols.remove(&id);
            continue;
        };
        assert!(!vol.must_be_absent, "v{id} is back");
        known += 1;
        let seen = look(b, name, &vol).await;
        model.borrow_mut().vols.insert(id, seen);
    }
    assert_eq!(known, found.len(), "unknown volumes in {found:?}");
}

async fn look(b: &Booted, name: &str, vol: &Vol) -> Vol {
    let (d, _events) = b.registry.open(&format!("lvs/{name}"), false).unwrap();
    let mib = d.num_blocks() / PER_MIB;
    assert!(vol.mib.contains(&mib), "{name} has {mib} MiB, not one of {:?}", vol.mib);
    let mut blocks = vec![Allowed::default(); LOOKED_AT as usize];
    if mib > 0 {
        let got = d.read(0, BytesMut::zeroed((LOOKED_AT * BLOCK) as usize)).await.unwrap();
        for (n, block) in got.chunks(BLOCK as usize).enumerate() {
            let found = stamp_of(block);
            let allowed = &vol.blocks[n].after;
            assert!(allowed.contains(&found), "{name} block {n}: {found} not in {allowed:?}");
            blocks[n] = Allowed { now: vec![found], after: vec![found] };
        }
    }
    Vol { names: vec![name.to_owned()], mib: vec![mib], blocks, may_be_absent: false, must_be_absent: false }
}

/// Works until the disk goes off, or nothing is left to do.
async fn work(disk: &Rc<SimDisk>, model: &Shared, end: End, rng: &mut SmallRng) {
    let b = boot(disk).await;
    verify(&b, model).await;
    disk.power_off_after(rng.random_range(20..700));
    let mut tasks = Vec::new();
    let mut idle = Vec::new();
    let vols: Vec<_> = model.borrow().vols.iter().map(|(id, v)| (*id, v.clone())).collect();
    for (id, vol) in vols {
        if vol.mib[0] == 0 || tasks.len() == 4 || rng.random_bool(0.3) {
            idle.push(id);
            continue;
        }
        let (desc, _events) = b.registry.open(&format!("lvs/{}", vol.names[0]), true).unwrap();
        let rng = SmallRng::seed_from_u64(rng.next_u64());
        let host = Host { vol: id, desc, model: Rc::clone(model), end, rng };
        tasks.push(tokio::task::spawn_local(host.run()));
    }
    let admin =
        administrate(Rc::clone(&b.module), Rc::clone(model), idle, SmallRng::seed_from_u64(rng.next_u64()));
    tasks.push(tokio::task::spawn_local(admin));
    for task in tasks {
        let mut task = task;
        loop {
            tokio::select! {
                biased;
                done = &mut task => { done.unwrap(); break }
                () = tokio::task::yield_now() => if disk.is_off() { break },
            }
        }
    }
    // Whoever failed before the lights went out tells why.
    tokio::task::yield_now().await;
}

fn block_on<F: Future>(future: F) -> F::Output {
    let rt = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    tokio::task::LocalSet::new().block_on(&rt, future)
}

fn random_run(seed: u64, end: End) {
    let mut rng = SmallRng::seed_from_u64(seed);
    let mut disk = SimDisk::new(seed, BLOCK as u32, DISK_BLOCKS[seed as usize % 2]);
    block_on(async {
        let registry = Registry::new();
        let bdev = Rc::new(SimBdev(Rc::clone(&disk)));
        registry.register(NewBdev { name: "disk".to_owned(), aliases: vec![], bdev }).unwrap();
        let module = LvolModule::new(registry);
        let params = CreateStore {
            bdev_name: "disk".to_owned(),
            lvs_name: "lvs".to_owned(),
            cluster_sz: Some(CLUSTER as u32),
            clear_method: ClearMethod::None,
            num_md_pages_per_cluster_ratio: Some(2),
        };
        module.create_store(params).await.unwrap();
    });
    let model: Shared = Rc::default();
    for round in 0..16u64 {
        let at = seed * 100 + round;
        disk = match end {
            End::PowerCut => disk.after_power_cut(at),
            End::Kill => disk.after_kill(at),
        };
        block_on(work(&disk, &model, end, &mut rng));
    }
    disk = disk.after_power_cut(seed);
    if end == End::PowerCut {
        block_on(nothing_is_leaked(&disk, &model));
    }
}

/// When all volumes are gone, every cluster can be written by another one.
async fn nothing_is_leaked(disk: &Rc<SimDisk>, model: &Shared) {
    let b = boot(disk).await;
    verify(&b, model).await;
    for lvol in b.module.lvols(None).unwrap() {
        b.module.delete(&lvol.alias).await.unwrap();
    }
    let store = b.module.stores(None).unwrap().remove(0);
    assert_eq!(store.free_clusters, store.total_data_clusters);
    b.module.create(LVS, "all", 10, true).await.unwrap();
    let (d, _events) = b.registry.open("lvs/all", true).unwrap();
    for cluster in 0..store.total_data_clusters {
        d.write(cluster * PER_CLUSTER, Bytes::from(vec![1; 512]), false).await.unwrap();
    }
    let full = d.write(store.total_data_clusters * PER_CLUSTER, Bytes::from(vec![1; 512]), false).await;
    assert_eq!(full, Err(IoError::NoSpace));
}

fn seeds(n: u64) -> std::ops::Range<u64> {
    let one = std::env::var("VDA_SEED").ok().and_then(|s| s.parse().ok());
    one.map_or(0..n, |s: u64| s..s + 1)
}

#[test]
fn what_was_flushed_survives_power_cuts() {
    for seed in seeds(24) {
        println!("seed {seed}");
        random_run(seed, End::PowerCut);
    }
}

#[test]
fn what_was_acknowledged_survives_kill_9() {
    for seed in seeds(8) {
        println!("seed {seed}");
        random_run(seed, End::Kill);
    }
}

#[test]
fn what_follows_a_lost_journal_page_never_comes_back() {
    use super::layout::{Layout, PAGE};
    let disk = SimDisk::new(1, BLOCK as u32, DISK_BLOCKS[0]);
    let names = |b: &Booted| b.module.lvols(None).unwrap().into_iter().map(|l| l.name).collect::<Vec<_>>();
    block_on(async {
        let b = boot(&disk).await;
        let params = CreateStore {
            bdev_name: "disk".to_owned(),
            lvs_name: "lvs".to_owned(),
            cluster_sz: Some(CLUSTER as u32),
            clear_method: ClearMethod::None,
            num_md_pages_per_cluster_ratio: Some(2),
        };
        b.module.create_store(params).await.unwrap();
        for name in ["a", "b", "c"] {
            b.module.create(LVS, name, 1, true).await.unwrap();
        }
    });
    // The first change after the load of the new store began generation 2: "a" is in its page 0, "b" in page 1, "c" in page 2.
    let layout = Layout::new(BLOCK as u32, DISK_BLOCKS[0], CLUSTER as u32, 2).unwrap();
    let lost = layout.page_lba(layout.journal_page(2) + 1);
    block_on(async {
        use crate::bdev::Bdev;
        let garbage = Bytes::from(vec![0xa5; PAGE as usize]);
        SimBdev(Rc::clone(&disk)).write(lost, garbage, true).await.unwrap();
        let b = boot(&disk).await;
        assert_eq!(names(&b), ["a"]);
        b.module.create(LVS, "d", 1, true).await.unwrap();
    });
    block_on(async {
        let b = boot(&disk).await;
        assert_eq!(names(&b), ["a", "d"]);
    });
}
