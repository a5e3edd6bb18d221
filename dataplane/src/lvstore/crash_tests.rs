//! Random work on an lvstore over a disk that loses power (or whose process is killed) at a random point, again and again:
//! what was flushed is there, what was not is old or new but never somebody else's, half-done changes are invisible, snapshots never
//! change, and no cluster is shared or lost. Volumes and the lvstore change their size while hosts use them. In every third run the lvstore
//! stands on a mirror that is rebuilt meanwhile.
//!
//! `VDA_CRASH_CYCLES=1000` asks for that many restarts (the nightly form), with seeds from `VDA_SEED` on; `VDA_CRASH_SEED=n` repeats one run.

mod admin;
mod directed;
mod host;
mod machine;
mod model;
mod resizer;

use std::rc::Rc;

use bytes::Bytes;
use rand::rngs::SmallRng;
use rand::{Rng, RngExt, SeedableRng};

use super::LvolClear;
use super::module::{ClearMethod, CreateStore, LvsSelector};
use crate::bdev::sim_disk::SimDisk;
use crate::bdev::{IoError, IoType};
use machine::{Booted, Machine};
use model::{Allowed, Shared, Vol, contents, reach};

const BLOCK: u64 = 512;
const CLUSTER: u64 = 8192;
const PER_CLUSTER: u64 = CLUSTER / BLOCK;
/// Room for one thick volume, or for hardly more than what is written, so that clusters change hands all the time.
const DISK_BLOCKS: [u64; 2] = [4448, 1792];
/// The lvstore grows by so many clusters: with more there would be nothing to fight for.
const GROWTH: u64 = 20;
const PER_MIB: u64 = (1 << 20) / BLOCK;
const LVS: LvsSelector<'static> = LvsSelector::Name("lvs");
/// What is in block `n` of the external snapshot.
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

impl End {
    /// The test that has this end.
    fn test(self) -> &'static str {
        match self {
            Self::PowerCut => "what_was_flushed_survives_power_cuts",
            Self::Kill => "what_was_acknowledged_survives_kill_9",
        }
    }
}

fn params(bdev: &str) -> CreateStore {
    CreateStore {
        bdev_name: bdev.to_owned(),
        lvs_name: "lvs".to_owned(),
        cluster_sz: Some(CLUSTER as u32),
        clear_method: ClearMethod::None,
        num_md_pages_per_cluster_ratio: Some(2),
        ..CreateStore::default()
    }
}

/// A process on a disk.
async fn boot(disk: &Rc<SimDisk>) -> Booted {
    Machine::new(Rc::clone(disk), false).boot().await
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
    let clusters = b.clusters();
    let (least, most) = model.borrow().clusters;
    assert!((least..=most).contains(&clusters), "the lvstore has {clusters} clusters, not {least} to {most}");
    model.borrow_mut().clusters = (clusters, clusters);
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
    let mut seen = Vol::new(name.to_owned(), vec![mib], model::zeros());
    seen.may_be_absent = false;
    seen.read_only = !d.supports(IoType::Write);
    for (n, found) in contents(&d).await.unwrap().into_iter().enumerate() {
        let allowed = &vol.blocks[n].after;
        assert!(allowed.contains(&found), "{name} block {n}: {found} not in {allowed:?}");
        seen.blocks[n] = Allowed::of(found);
    }
    // What is beyond the end is as lost as zeros.
    if vol.shrinking != Some(mib) {
        for (n, block) in vol.blocks.iter().enumerate().skip(reach(mib)) {
            assert!(block.after.contains(&0), "{name} has {mib} MiB, without block {n}: {:?}", block.after);
        }
    }
    seen
}

/// Works until the disk goes off, or nothing is left to do.
async fn work(machine: &Machine, model: &Shared, end: End, rng: &mut SmallRng) {
    let b = Rc::new(machine.boot().await);
    verify(&b, model).await;
    machine.disk.power_off_after(rng.random_range(20..700));
    let mut tasks = Vec::new();
    let (mut idle, mut used) = (Vec::new(), Vec::new());
    let vols: Vec<_> = model.borrow().vols.iter().map(|(id, v)| (*id, v.clone())).collect();
    for (id, vol) in vols {
        if vol.mib[0] == 0 || vol.read_only || tasks.len() == 4 || rng.random_bool(0.3) {
            idle.push(id);
            continue;
        }
        let (desc, events) = b.registry.open(&vol.alias(), true).unwrap();
        if let Some(vol) = model.borrow_mut().vols.get_mut(&id) {
            vol.open = true;
        }
        used.push(id);
        let rng = SmallRng::seed_from_u64(rng.next_u64());
        let host = host::Host { vol: id, desc, _events: events, model: Rc::clone(model), end, rng };
        tasks.push(tokio::task::spawn_local(host.run()));
    }
    let seed = |rng: &mut SmallRng| SmallRng::seed_from_u64(rng.next_u64());
    let (module, of) = (Rc::clone(&b.module), Rc::clone(model));
    let resizer = resizer::Resizer { module, model: of, used, rng: seed(rng) };
    tasks.push(tokio::task::spawn_local(resizer.run()));
    let (booted, of) = (Rc::clone(&b), Rc::clone(model));
    let admin = admin::Admin { booted, model: of, end, idle, rng: seed(rng) };
    tasks.push(tokio::task::spawn_local(admin.run()));
    for task in tasks {
        let mut task = task;
        loop {
            tokio::select! {
                biased;
                done = &mut task => { done.unwrap(); break }
                () = tokio::task::yield_now() => if machine.disk.is_off() { break },
            }
        }
    }
    // Whoever failed before the lights went out tells why.
    tokio::task::yield_now().await;
    machine.ends(&b);
}

fn block_on<F: Future>(future: F) -> F::Output {
    let rt = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    tokio::task::LocalSet::new().block_on(&rt, future)
}

fn random_run(seed: u64, end: End) {
    let mut rng = SmallRng::seed_from_u64(seed);
    let disk = SimDisk::new(seed, BLOCK as u32, DISK_BLOCKS[seed as usize % 2]);
    let mut machine = Machine::new(disk, seed % 3 == 2);
    let model: Shared = Rc::default();
    block_on(async {
        let b = machine.boot().await;
        b.module.create_store(params(b.base)).await.unwrap();
        let (clusters, mut model) = (b.clusters(), model.borrow_mut());
        model.clusters = (clusters, clusters);
        model.metadata = b.base_clusters() - clusters;
        model.grows_to = clusters + GROWTH;
    });
    for round in 0..ROUNDS {
        machine = machine.after(end, seed * 100 + round);
        block_on(work(&machine, &model, end, &mut rng));
    }
    machine = machine.after(End::PowerCut, seed);
    if end == End::PowerCut {
        block_on(nothing_is_leaked(&machine, &model));
    }
}

/// When all volumes are gone, every cluster can be written by another one.
async fn nothing_is_leaked(machine: &Machine, model: &Shared) {
    let b = machine.boot().await;
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
        None => {
            let first = env("VDA_SEED").unwrap_or(0);
            first..first + many.unwrap_or(few)
        }
    };
    let begun = std::time::Instant::now();
    let count = seeds.end - seeds.start;
    for seed in seeds {
        let run = std::panic::AssertUnwindSafe(|| random_run(seed, end));
        if let Err(panic) = std::panic::catch_unwind(run) {
            eprintln!("repeat with VDA_CRASH_SEED={seed} cargo nextest run -p vda-dataplane {}", end.test());
            std::panic::resume_unwind(panic);
        }
    }
    println!("{end:?}: {} restarts in {:?}", count * ROUNDS, begun.elapsed());
}

#[test]
fn what_was_flushed_survives_power_cuts() {
    runs(6, 75, End::PowerCut);
}

#[test]
fn what_was_acknowledged_survives_kill_9() {
    runs(3, 25, End::Kill);
}
