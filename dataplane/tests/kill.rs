//! A real `vda_dataplane` on a file is killed with -9 under I/O, snapshots, clones, deletions, resizes and growth of the lvstore, and started again:
//! the lvstore loads, every acknowledged write is there, snapshots are as they were, what grew has grown. `VDA_KILL_CYCLES=n` asks for more restarts, `VDA_KILL_SEED=n` repeats the choices.

#![allow(clippy::unwrap_used)]

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::rc::Rc;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use tokio::net::UnixStream;
use tokio::task::{LocalSet, spawn_local};
use vda_dataplane::bdev::nvme::{Attach, Multipath, NvmeModule};
use vda_dataplane::bdev::{Descriptor, Registry};
use vda_dataplane::initiator::Resilience;
use vda_spdk::{
    BdevAioCreate, BdevAioRescan, BdevLvolClone, BdevLvolCreate, BdevLvolCreateLvstore, BdevLvolDelete,
    BdevLvolGetLvols, BdevLvolGetLvstores, BdevLvolGrowLvstore, BdevLvolResize, BdevLvolSnapshot,
    BdevWaitForExamine, Client, Error, ListenAddress, MultipathMode, NamespaceParams, NvmfCreateSubsystem,
    NvmfCreateTransport, NvmfSubsystemAddListener, NvmfSubsystemAddNs, Rpc,
};

const PATIENCE: Duration = Duration::from_secs(30);
const NQN: &str = "nqn.2016-06.io.vda:exp:kill:kill";
const BLOCK: u64 = 4096;
const CLUSTER: u32 = 65536;
const PER_MIB: u64 = (1 << 20) / BLOCK;
/// Size of the volume in MiB at first, and when it is grown.
const MIB: std::ops::RangeInclusive<u64> = 8..=16;
/// Blocks of the volume that are written: the start of it, and one for each writer at the start of each MiB that it grows by.
const START: u64 = 96;
const BLOCKS: u64 = START + WRITERS * (*MIB.end() - *MIB.start());
const WRITERS: u64 = 6;
/// Snapshots that are kept over a restart.
const FAMILY: usize = 8;

/// What each block may hold: the last one acknowledged, and what was sent since.
type Allowed = Vec<Vec<u64>>;

/// Where the `n`th of the blocks that are written is.
fn lba(n: u64) -> u64 {
    match n.checked_sub(START) {
        None => n,
        Some(grown) => (MIB.start() + grown / WRITERS) * PER_MIB + grown % WRITERS,
    }
}

struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

async fn start(dir: &Path) -> (Process, Client) {
    let socket = dir.join("dp.sock");
    let mut command = Command::new(env!("CARGO_BIN_EXE_vda_dataplane"));
    let child = command.arg("-r").arg(&socket).stderr(Stdio::null()).spawn().unwrap();
    let process = Process(child);
    let deadline = Instant::now() + PATIENCE;
    while UnixStream::connect(&socket).await.is_err() {
        assert!(Instant::now() < deadline, "it does not listen");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let client = Client::new(socket.to_str().unwrap(), PATIENCE);
    let file = dir.join("disk").to_str().unwrap().to_owned();
    let disk = BdevAioCreate { block_size: Some(BLOCK as u32), ..BdevAioCreate::new("disk", file) };
    client.call(disk).await.unwrap();
    client.call(BdevWaitForExamine {}).await.unwrap();
    (process, client)
}

/// Exports lvols and opens them over NVMe/TCP.
async fn connect(client: &Client, names: &[String]) -> (Rc<NvmeModule>, BTreeMap<String, Descriptor>) {
    let port = vda_ports::Port::reserve().unwrap();
    let address = port.address().parse().unwrap();
    client.call(NvmfCreateTransport::new("TCP")).await.unwrap();
    let subsystem = NvmfCreateSubsystem { allow_any_host: Some(true), ..NvmfCreateSubsystem::new(NQN) };
    client.call(subsystem).await.unwrap();
    for name in names {
        let namespace = NamespaceParams::new(format!("lvs/{name}"));
        client.call(NvmfSubsystemAddNs::new(NQN, namespace)).await.unwrap();
    }
    client.call(NvmfSubsystemAddListener::new(NQN, ListenAddress::tcp(address))).await.unwrap();
    let registry = Registry::new();
    let module = NvmeModule::new(registry.clone());
    let resilience = Resilience { loss_timeout: Some(Duration::ZERO), ..Resilience::default() };
    let attach = Attach {
        name: "c".to_owned(),
        address,
        subnqn: NQN.to_owned(),
        hostnqn: None,
        header_digest: false,
        data_digest: false,
        io_queues: 1,
        resilience: Some(resilience),
        multipath: Multipath::default(),
        mode: MultipathMode::Multipath,
    };
    module.attach(attach).await.unwrap();
    let open = |n: usize| registry.open(&format!("cn{}", n + 1), true).unwrap().0;
    let opened = names.iter().enumerate().map(|(n, name)| (name.clone(), open(n))).collect();
    (module, opened)
}

fn stamp_of(block: &[u8]) -> u64 {
    let first = u64::from_le_bytes(block[..8].try_into().unwrap());
    assert!(block.chunks(8).all(|w| w == first.to_le_bytes()), "a block of pieces");
    first
}

/// Compares an lvol with what it may hold, and takes over what it does. What is beyond its end is as lost as zeros.
async fn check(name: &str, lvol: &Descriptor, allowed: &mut Allowed) {
    for (n, allowed) in allowed.iter_mut().enumerate() {
        let lba = lba(n as u64);
        let found = match lba < lvol.num_blocks() {
            true => stamp_of(&lvol.read(lba, BytesMut::zeroed(BLOCK as usize)).await.unwrap()),
            false => 0,
        };
        assert!(allowed.contains(&found), "{name} block {lba}: {found} not in {allowed:?}");
        *allowed = vec![found];
    }
}

#[derive(Default)]
struct Model {
    volume: Allowed,
    /// Size of the volume, and the one it may be getting.
    mib: Vec<u64>,
    /// Clusters that the lvstore has at least.
    clusters: u64,
    /// By name; whether it may be missing.
    snapshots: BTreeMap<String, (Allowed, bool)>,
    /// The snapshot that is being taken: it may hold what is sent meanwhile.
    taking: Option<String>,
    stamp: u64,
    acknowledged: u64,
}

/// Writes its own share of the blocks until the target is gone.
async fn write(lvol: Rc<Descriptor>, model: Rc<RefCell<Model>>, share: u64, mut rng: SmallRng) {
    loop {
        let there = |n: &u64| lba(n * WRITERS + share) < lvol.num_blocks();
        let rows = (0..BLOCKS / WRITERS).take_while(there).count() as u64;
        // Half of them where it has grown last.
        let least = if rng.random_bool(0.5) { rows - 2 } else { 0 };
        let block = rng.random_range(least..rows) * WRITERS + share;
        let zero = rng.random_bool(0.2);
        let stamp = {
            let mut m = model.borrow_mut();
            m.stamp += 1;
            let stamp = if zero { 0 } else { m.stamp };
            m.volume[block as usize].push(stamp);
            if let Some(name) = m.taking.clone() {
                m.snapshots.get_mut(&name).unwrap().0[block as usize].push(stamp);
            }
            stamp
        };
        let (lba, fua) = (lba(block), rng.random_bool(0.2));
        let data = || Bytes::from(stamp.to_le_bytes().repeat(BLOCK as usize / 8));
        let done = match zero {
            true => lvol.write_zeroes(lba, 1, fua).await,
            false => lvol.write(lba, data(), fua).await,
        };
        if done.is_err() {
            return;
        }
        let mut m = model.borrow_mut();
        m.volume[block as usize] = vec![stamp];
        m.acknowledged += 1;
    }
}

/// Whether the target is still there; it has refused nothing.
fn answered(result: Result<bool, Error>) -> Result<(), Error> {
    match result {
        Err(e) if e.is_answer() => panic!("{e}"),
        Err(e) => Err(e),
        Ok(_) => Ok(()),
    }
}

/// Grows the volume that is written; it does not shrink meanwhile.
async fn resize(client: &Client, model: &Rc<RefCell<Model>>) -> Result<(), Error> {
    let mib = model.borrow().mib[0];
    if mib < *MIB.end() {
        model.borrow_mut().mib.push(mib + 1);
        answered(client.call(BdevLvolResize::new("lvs/v", mib + 1)).await)?;
        model.borrow_mut().mib = vec![mib + 1];
    }
    match client.call(BdevLvolResize::new("lvs/v", mib - 1)).await {
        Ok(_) => panic!("a volume shrank under I/O"),
        Err(e) if e.is_answer() => assert!(e.is_busy(), "{e}"),
        Err(e) => return Err(e),
    }
    Ok(())
}

/// Makes the file larger, and lets the lvstore use that.
async fn grow(client: &Client, model: &Rc<RefCell<Model>>, disk: &Path) -> Result<(), Error> {
    let file = std::fs::File::options().write(true).open(disk).unwrap();
    file.set_len(file.metadata().unwrap().len() + u64::from(CLUSTER)).unwrap();
    answered(client.call(BdevAioRescan::new("disk")).await)?;
    let grow = BdevLvolGrowLvstore { lvs_name: Some("lvs".to_owned()), ..BdevLvolGrowLvstore::default() };
    answered(client.call(grow).await)?;
    let before = model.borrow().clusters;
    let clusters = client.call(BdevLvolGetLvstores::default()).await?.remove(0).total_data_clusters;
    assert!(clusters > before, "{clusters} clusters after growing from {before}");
    model.borrow_mut().clusters = clusters;
    Ok(())
}

/// Cuts the volume, which nobody has open, back to what it was at first: what was beyond comes back as zeros.
async fn shrink(client: &Client, model: &Rc<RefCell<Model>>) {
    client.call(BdevLvolResize::new("lvs/v", *MIB.start())).await.unwrap();
    let mut m = model.borrow_mut();
    m.mib = vec![*MIB.start()];
    m.volume[START as usize..].fill(vec![0]);
}

/// Takes a snapshot of the volume.
async fn snapshot(client: &Client, model: &Rc<RefCell<Model>>, name: &str) -> Result<(), Error> {
    {
        let mut m = model.borrow_mut();
        let allowed = m.volume.clone();
        m.snapshots.insert(name.to_owned(), (allowed, true));
        m.taking = Some(name.to_owned());
    }
    let taken = client.call(BdevLvolSnapshot::new("lvs/v", name)).await;
    let mut m = model.borrow_mut();
    m.taking = None;
    m.snapshots.get_mut(name).unwrap().1 = taken.is_err();
    taken.map(|_| ())
}

/// Takes snapshots, makes clones, resizes, and deletes both until the target is gone.
async fn administrate(
    client: Client,
    model: Rc<RefCell<Model>>,
    disk: std::path::PathBuf,
    cycle: u64,
) -> Result<(), Error> {
    for n in 0.. {
        let name = format!("s{cycle}-{n}");
        snapshot(&client, &model, &name).await?;
        resize(&client, &model).await?;
        let clone = format!("c{cycle}-{n}");
        client.call(BdevLvolClone::new(format!("lvs/{name}"), clone.clone())).await?;
        // What looks for lvstores on the clone has it open.
        client.call(BdevWaitForExamine {}).await?;
        for mib in [1_u64, 20] {
            answered(client.call(BdevLvolResize::new(format!("lvs/{clone}"), mib)).await)?;
        }
        answered(client.call(BdevLvolDelete::new(format!("lvs/{clone}"))).await)?;
        if n % 2 == 0 {
            model.borrow_mut().snapshots.get_mut(&name).unwrap().1 = true;
            answered(client.call(BdevLvolDelete::new(format!("lvs/{name}"))).await)?;
            model.borrow_mut().snapshots.remove(&name);
        } else {
            grow(&client, &model, &disk).await?;
        }
    }
    Ok(())
}

/// One life of the process: what is found is checked, then it works until it is killed.
async fn life(dir: &Path, model: &Rc<RefCell<Model>>, cycle: u64, rng: &mut SmallRng) {
    let (process, client) = start(dir).await;
    if cycle == 0 {
        let lvs =
            BdevLvolCreateLvstore { cluster_sz: Some(CLUSTER), ..BdevLvolCreateLvstore::new("disk", "lvs") };
        client.call(lvs).await.unwrap();
        let lvol = BdevLvolCreate::new("v", *MIB.start());
        let lvol = BdevLvolCreate { lvs_name: Some("lvs".to_owned()), thin_provision: Some(true), ..lvol };
        client.call(lvol).await.unwrap();
    }
    let lvols = client.call(BdevLvolGetLvols::default()).await.unwrap();
    let store = client.call(BdevLvolGetLvstores::default()).await.unwrap().remove(0);
    let taken: u64 = lvols.iter().filter_map(|l| l.num_allocated_clusters).sum();
    assert_eq!(store.free_clusters + taken, store.total_data_clusters, "the books do not balance");
    assert!(store.total_data_clusters >= model.borrow().clusters, "the lvstore has lost clusters");
    model.borrow_mut().clusters = store.total_data_clusters;
    let mut names: Vec<String> = lvols.into_iter().map(|l| l.name).collect();
    for clone in names.iter().filter(|n| n.starts_with('c')) {
        client.call(BdevLvolDelete::new(format!("lvs/{clone}"))).await.unwrap();
    }
    names.retain(|n| !n.starts_with('c'));
    let known = std::mem::take(&mut model.borrow_mut().snapshots);
    let mut kept = BTreeMap::new();
    for (name, (allowed, may_be_absent)) in known {
        let found = names.contains(&name);
        assert!(found || may_be_absent, "{name} is missing");
        if found {
            kept.insert(name, (allowed, false));
        }
    }
    // Some go, so that families stay small; the only clone of each inherits.
    while kept.len() > FAMILY {
        let (name, _) = kept.pop_first().unwrap();
        client.call(BdevLvolDelete::new(format!("lvs/{name}"))).await.unwrap();
        names.retain(|n| *n != name);
    }
    if cycle % 4 == 3 {
        shrink(&client, model).await;
    }
    let (_module, opened) = connect(&client, &names).await;
    for (name, (allowed, _)) in &mut kept {
        check(name, &opened[name], allowed).await;
    }
    let mut volume = std::mem::take(&mut model.borrow_mut().volume);
    check("v", &opened["v"], &mut volume).await;
    let mib = opened["v"].num_blocks() / PER_MIB;
    assert!(model.borrow().mib.contains(&mib), "v has {mib} MiB, not one of {:?}", model.borrow().mib);
    model.borrow_mut().mib = vec![mib];
    let acknowledged = {
        let mut m = model.borrow_mut();
        (m.snapshots, m.volume) = (kept, volume);
        m.acknowledged
    };
    let mut opened = opened;
    let lvol = Rc::new(opened.remove("v").unwrap());
    let mut tasks = Vec::new();
    for share in 0..WRITERS {
        let rng = SmallRng::seed_from_u64(rng.random());
        tasks.push(spawn_local(write(Rc::clone(&lvol), Rc::clone(model), share, rng)));
    }
    let administrator = spawn_local(administrate(client, Rc::clone(model), dir.join("disk"), cycle));
    let until = acknowledged + rng.random_range(20..300);
    while model.borrow().acknowledged < until {
        tokio::task::yield_now().await;
    }
    drop(process);
    for task in tasks {
        task.await.unwrap();
    }
    // It goes on until nobody answers.
    assert!(administrator.await.unwrap().is_err());
}

#[test]
fn what_was_acknowledged_survives_kill_9_of_the_process() {
    let env = |name: &str| std::env::var(name).ok().map(|s| s.parse::<u64>().unwrap());
    let seed = env("VDA_KILL_SEED").unwrap_or_else(rand::random);
    println!("repeat with VDA_KILL_SEED={seed} cargo nextest run -p vda-dataplane --test kill");
    let dir = tempfile::tempdir().unwrap();
    std::fs::File::create(dir.path().join("disk")).unwrap().set_len(64 << 20).unwrap();
    let (volume, mib) = (vec![vec![0]; BLOCKS as usize], vec![*MIB.start()]);
    let model = Rc::new(RefCell::new(Model { volume, mib, ..Model::default() }));
    let mut rng = SmallRng::seed_from_u64(seed);
    for cycle in 0..env("VDA_KILL_CYCLES").unwrap_or(6) {
        let rt = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        LocalSet::new().block_on(&rt, life(dir.path(), &model, cycle, &mut rng));
    }
}
