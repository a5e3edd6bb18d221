//! Random work on an lvstore over a disk that loses power (or whose process is killed) at a random point, again and again:
//! what was flushed is there, what was not is old or new but never somebody else's, half-done changes are invisible, snapshots never
//! change, and no cluster is shared or lost.
//!
//! `VDA_CRASH_CYCLES=1000` asks for that many restarts (the nightly form); `VDA_CRASH_SEED=n` repeats one run.

mod admin;
mod directed;
mod host;
mod model;

use std::rc::Rc;

use bytes::{Bytes, BytesMut};
use rand::rngs::SmallRng;
use rand::{Rng, RngExt, SeedableRng};
use uuid::Uuid;

use super::LvolClear;
use super::module::{ClearMethod, CreateStore, LvolModule, LvsSelector};
use crate::bdev::malloc::{self, MallocParams};
use crate::bdev::sim_disk::{SimBdev, SimDisk};
use crate::bdev::{IoError, IoType, NewBdev, Registry};
use model::{Allowed, Shared, Vol, stamp_of};

const BLOCK: u64 = 512;
const CLUSTER: u64 = 8192;
const PER_CLUSTER: u64 = CLUSTER / BLOCK;
/// Room for one thick volume, or for hardly more than what is written, so that clusters change hands all the time.
const DISK_BLOCKS: [u64; 2] = [4448, 1792];
const PER_MIB: u64 = (1 << 20) / BLOCK;
/// Blocks of a volume that are looked at: the start of it.
const LOOKED_AT: u64 = 6 * PER_CLUSTER;
const LVS: LvsSelector<'static> = LvsSelector::Name("lvs");
/// The external snapshot, and what is in its block `n`.
const EXTERNAL: Uuid = Uuid::from_u128(0xe);
const fn external_stamp(block: u64) -> u64 {
    1 << 40 | block
}
/// Restarts in one run.
const ROUNDS: u64 = 16;

/// How the process ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    PowerCut,
    Kill,
}

fn params() -> CreateStore {
    CreateStore {
        bdev_name: "disk".to_owned(),
        lvs_name: "lvs".to_owned(),
        cluster_sz: Some(CLUSTER as u32),
        clear_method: ClearMethod::None,
        num_md_pages_per_cluster_ratio: Some(2),
        ..CreateStore::default()
    }
}

struct Booted {
    registry: Registry,
    module: Rc<LvolModule>,
}

/// A process on the disk, with the external snapshot.
async fn boot(disk: &Rc<SimDisk>) -> Booted {
    let registry = Registry::new();
    let module = LvolModule::new(registry.clone());
    for (name, mib, uuid) in [("ext", 1, Some(EXTERNAL)), ("copy", 3, None)] {
        let name = Some(name.to_owned());
        let params = MallocParams { name, num_blocks: mib * PER_MIB, block_size: BLOCK as u32, uuid };
        malloc::create(&registry, params).unwrap();
    }
    let (ext, events) = registry.open("ext", true).unwrap();
    for block in 0..LOOKED_AT {
        let data = external_stamp(block).to_le_bytes().repeat(BLOCK as usize / 8);
        ext.write(block, Bytes::from(data), false).await.unwrap();
    }
    drop((ext, events));
    disk.scramble_deallocated();
    let bdev = Rc::new(SimBdev(Rc::clone(disk)));
    registry.register(NewBdev { name: "disk".to_owned(), aliases: vec![], bdev }).unwrap();
    registry.wait_for_examine().await;
    Booted { registry, module }
}

/// Compares what is found after a restart with what may be, and takes it over.
async fn verify(b: &Booted, model: &Shared) {
    let lvols = b.module.lvols(Some(LVS)).unwrap();
    assert!(lvols.iter().all(|l| !l.degraded));
    let found: Vec<_> = lvols.into_iter().map(|l| l.name).collect();
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
    balance(b);
}

/// Every cluster is free, or some lvol's.
fn balance(b: &Booted) {
    let store = b.module.stores(Some(LVS)).unwrap().remove(0);
    let taken: u64 = b.module.lvols(Some(LVS)).unwrap().iter().map(|l| l.num_allocated_clusters).sum();
    assert_eq!(store.free_clusters + taken, store.total_data_clusters, "the books do not balance");
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
            blocks[n] = Allowed::of(found);
        }
    }
    let (names, mib) = (vec![name.to_owned()], vec![mib]);
    let read_only = !d.supports(IoType::Write);
    Vol { read_only, names, mib, blocks, may_be_absent: false, must_be_absent: false, taking: None }
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
        if vol.mib[0] == 0 || vol.read_only || tasks.len() == 4 || rng.random_bool(0.3) {
            idle.push(id);
            continue;
        }
        let (desc, _events) = b.registry.open(&format!("lvs/{}", vol.names[0]), true).unwrap();
        let rng = SmallRng::seed_from_u64(rng.next_u64());
        let host = host::Host { vol: id, desc, model: Rc::clone(model), end, rng };
        tasks.push(tokio::task::spawn_local(host.run()));
    }
    let (registry, module) = (b.registry.clone(), Rc::clone(&b.module));
    let rng = SmallRng::seed_from_u64(rng.next_u64());
    let admin = admin::Admin { registry, module, model: Rc::clone(model), end, idle, rng };
    tasks.push(tokio::task::spawn_local(admin.run()));
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
        let b = boot(&disk).await;
        b.module.create_store(params()).await.unwrap();
    });
    let model: Shared = Rc::default();
    for round in 0..ROUNDS {
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
    // A snapshot with several clones goes when they are gone.
    loop {
        let lvols = b.module.lvols(None).unwrap();
        if lvols.is_empty() {
            break;
        }
        let mut deleted = 0;
        for lvol in lvols {
            deleted += u64::from(b.module.delete(&lvol.alias).await.is_ok());
        }
        assert!(deleted > 0);
    }
    let store = b.module.stores(None).unwrap().remove(0);
    assert_eq!(store.free_clusters, store.total_data_clusters);
    b.module.create(LVS, "all", 10, true, LvolClear::Unmap).await.unwrap();
    let (d, _events) = b.registry.open("lvs/all", true).unwrap();
    for cluster in 0..store.total_data_clusters {
        d.write(cluster * PER_CLUSTER, Bytes::from(vec![1; 512]), false).await.unwrap();
    }
    let full = d.write(store.total_data_clusters * PER_CLUSTER, Bytes::from(vec![1; 512]), false).await;
    assert_eq!(full, Err(IoError::NoSpace));
}

fn env(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|s| s.parse().unwrap_or_else(|e| panic!("{name}={s}: {e}")))
}

/// Runs all seeds, or the one that is asked for; a seed that fails is told.
fn runs(few: u64, share: u64, end: End) {
    let many = env("VDA_CRASH_CYCLES").map(|cycles| (cycles * share / 100).div_ceil(ROUNDS));
    let seeds = match env("VDA_CRASH_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..many.unwrap_or(few),
    };
    let begun = std::time::Instant::now();
    let count = seeds.end - seeds.start;
    for seed in seeds {
        let run = std::panic::AssertUnwindSafe(|| random_run(seed, end));
        if let Err(panic) = std::panic::catch_unwind(run) {
            eprintln!("repeat with VDA_CRASH_SEED={seed}");
            std::panic::resume_unwind(panic);
        }
    }
    println!("{end:?}: {} restarts in {:?}", count * ROUNDS, begun.elapsed());
}

#[test]
fn what_was_flushed_survives_power_cuts() {
    runs(10, 75, End::PowerCut);
}

#[test]
fn what_was_acknowledged_survives_kill_9() {
    runs(4, 25, End::Kill);
}
