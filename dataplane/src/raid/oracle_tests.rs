//! No lost byte: hosts read and write a mirror while its members fail, lose their power, go, come back stale or foreign, and its process
//! is killed, or everything loses its power; a model of what was acknowledged, and flushed ([`super::oracle_model`]), judges every
//! read, and the members are compared byte by byte.
//!
//! After the end of a process the mirror is assembled as the control plane does it: of one member that was in sync, whichever, and the
//! others are rebuilt. Members are disks of other machines: they keep what they have in their caches when the process is killed.
//!
//! `VDA_RAID_CYCLES=n` runs n seeds, from `VDA_SEED` on; a failure names its seed, and `VDA_RAID_SEED=s` repeats it: all that is random
//! comes from the seed, and there is no clock.

use std::collections::BTreeMap;

use rand::rngs::SmallRng;
use rand::{Rng, RngExt, SeedableRng};
use tokio::task::yield_now;

use super::oracle_host::{host, tags};
use super::oracle_model::Model;
use super::*;
use crate::bdev::null::{self, NullParams};
use crate::bdev::sim_disk::{Faults, SimBdev, SimDisk};
use crate::bdev::{IoError, NewBdev, Registry};

pub(super) const BLOCK: u32 = 512;
const BLOCKS: u64 = 96;
/// The mirror grows by so much at a time.
const GROWTH: u64 = 16;

pub(super) type Shared = Rc<RefCell<Model>>;

/// What outlives a process.
struct World {
    rng: SmallRng,
    disks: BTreeMap<String, Rc<SimDisk>>,
    model: Shared,
    /// Who holds the truth: what a control plane remembers.
    in_sync: Vec<String>,
    slots: usize,
    blocks: u64,
    names: u64,
    /// All power was off since the last process.
    dark: bool,
    /// A seed that is repeated tells what happens.
    tells: bool,
}

/// A process.
struct Life {
    registry: Registry,
    module: Rc<RaidModule>,
    plugged: BTreeMap<String, Registration>,
}

async fn turns(n: u32) {
    for _ in 0..n {
        yield_now().await;
    }
}

impl World {
    fn new(seed: u64, tells: bool) -> Self {
        let mut rng = SmallRng::seed_from_u64(seed);
        let slots = rng.random_range(2..5);
        let mut world = Self {
            rng,
            disks: BTreeMap::new(),
            model: Shared::default(),
            in_sync: Vec::new(),
            slots,
            blocks: BLOCKS,
            names: 0,
            dark: false,
            tells,
        };
        world.model.borrow_mut().grow(BLOCKS as usize);
        for _ in 0..slots {
            let name = world.new_disk(false);
            world.in_sync.push(name);
        }
        world
    }

    fn tell(&self, what: std::fmt::Arguments<'_>) {
        if self.tells {
            eprintln!("{what}");
        }
    }

    fn new_disk(&mut self, used: bool) -> String {
        self.names += 1;
        let name = format!("d{:03}", self.names);
        let disk = SimDisk::new(self.rng.next_u64(), BLOCK, self.blocks);
        if used {
            disk.fill_with_garbage();
        }
        disk.scramble_deallocated();
        self.disks.insert(name.clone(), disk);
        name
    }

    fn one_of<T: Clone>(&mut self, of: &[T]) -> Option<T> {
        let n = of.len().checked_sub(1)?;
        Some(of[self.rng.random_range(0..=n)].clone())
    }

    /// The process was killed: what was in flight may have come to the disks, or not.
    fn killed(&mut self) {
        self.tell(format_args!("killed; in sync: {:?}", self.in_sync));
        self.replace_disks(|disk, seed| disk.after_user_was_killed(seed));
    }

    /// Everything lost its power: each disk has what was flushed to it, and some of the rest.
    fn lost_power(&mut self) {
        self.tell(format_args!("all power lost; in sync: {:?}", self.in_sync));
        self.replace_disks(|disk, seed| disk.after_power_cut(seed));
        self.model.borrow_mut().power_was_cut();
        self.dark = true;
    }

    fn replace_disks(&mut self, after: impl Fn(&SimDisk, u64) -> Rc<SimDisk>) {
        for disk in self.disks.values_mut() {
            *disk = after(disk, self.rng.next_u64());
            disk.grow(self.blocks);
            disk.scramble_deallocated();
        }
    }
}

impl Life {
    fn new() -> Self {
        let registry = Registry::new();
        let module = RaidModule::new(registry.clone());
        Self { registry, module, plugged: BTreeMap::new() }
    }

    fn plug(&mut self, world: &World, name: &str) {
        let disk = &world.disks[name];
        disk.grow(world.blocks);
        let bdev = Rc::new(SimBdev(Rc::clone(disk)));
        let new = NewBdev { name: name.to_owned(), aliases: vec![], bdev };
        self.plugged.insert(name.to_owned(), self.registry.register(new).unwrap());
    }

    fn raid(&self) -> Option<Rc<Raid>> {
        self.module.find("r").ok().filter(|r| r.state.get() == RaidState::Online)
    }

    fn members(&self, in_sync: bool) -> Vec<String> {
        let Some(raid) = self.raid() else { return Vec::new() };
        let members = raid.members();
        let wanted = members.iter().filter(|m| m.in_sync.get() == in_sync);
        wanted.map(|m| m.desc.name().to_owned()).collect()
    }

    fn create(&self, bases: Vec<String>) {
        let params = CreateRaid {
            name: "r".to_owned(),
            level: RaidLevel::Raid1,
            strip_size_kb: None,
            base_bdevs: bases,
            uuid: None,
            superblock: false,
        };
        self.module.create(params).unwrap();
    }

    /// A mirror of one elected member, as the control plane makes it: the other slots are filled for a moment only.
    async fn assemble(&mut self, world: &mut World) {
        let elected = world.one_of(&world.in_sync.clone()).unwrap();
        world.tell(format_args!("assembled of {elected}"));
        if !self.plugged.contains_key(&elected) {
            self.plug(world, &elected);
        }
        let mut bases = vec![elected.clone()];
        for n in 1..world.slots {
            let name = format!("spare{n}");
            let params =
                NullParams { name: name.clone(), num_blocks: world.blocks, block_size: BLOCK, uuid: None };
            null::create(&self.registry, params).unwrap();
            bases.push(name);
        }
        let spares = bases.split_off(1);
        let all = [vec![elected], spares.clone()].concat();
        self.create(all);
        for spare in spares {
            self.module.remove_base(&spare).await.unwrap();
            self.registry.unregister(&spare, null::MODULE).unwrap().await;
        }
    }

    /// Nothing is in flight any more: all members in sync are the same, and are what hosts may find.
    async fn compare(&self, world: &mut World) -> Result<(), String> {
        let Some(raid) = self.raid() else { return Ok(()) };
        let _all = raid.changes.lock(0, u64::MAX).await;
        let names = self.members(true);
        let contents = |name: &String| world.disks[name].contents(0, raid.num_blocks.get());
        let first = tags(&contents(&names[0]));
        for name in &names[1..] {
            let other = tags(&contents(name));
            if let Some(at) = (0..first.len()).find(|n| first[*n] != other[*n]) {
                let (a, b) = (first[at], other[at]);
                return Err(format!("block {at} is {a:#x} on {} and {b:#x} on {name}", names[0]));
            }
        }
        world.model.borrow_mut().settle(&first)?;
        world.tell(format_args!("quiet; in sync: {names:?}, blocks: {}", first.len()));
        world.in_sync = names;
        Ok(())
    }

    /// Something happens to a member.
    async fn event(&mut self, world: &mut World) {
        let (in_sync, targets) = (self.members(true), self.members(false));
        let members = [in_sync.clone(), targets.clone()].concat();
        let Some(any) = world.one_of(&members) else { return };
        let last = in_sync.len() == 1 && in_sync[0] == any;
        match world.rng.random_range(0..100) {
            0..15 => {
                let likely = [0.05, 0.3, 1.0][world.rng.random_range(0..3)];
                let faults = [(likely, 0.0), (0.0, likely), (likely, likely)][world.rng.random_range(0..3)];
                world.tell(format_args!("{any} fails: {faults:?}"));
                world.disks[&any].set_faults(Faults { reads: faults.0, changes: faults.1 });
            }
            15..25 => {
                for disk in world.disks.values() {
                    disk.set_faults(Faults::default());
                }
            }
            25..35 => {
                let turns = world.rng.random_range(1..40);
                world.disks[&any].set_turns(turns);
            }
            35..65 => self.add(world),
            65..72 if !last || world.rng.random_bool(0.15) => self.take(world, &any, true).await,
            72..80 if !last || world.rng.random_bool(0.15) => {
                let likely = [0.0, 0.5, 1.0][world.rng.random_range(0..3)];
                let also: Vec<_> = members.into_iter().filter(|_| world.rng.random_bool(likely)).collect();
                self.cut(world, any, also).await;
            }
            80..90 if !last || world.rng.random_bool(0.15) => self.take(world, &any, false).await,
            90..94 => self.grow(world),
            _ => turns(world.rng.random_range(50..1000)).await,
        }
    }

    /// Adds somebody: somebody new with something foreign on it, or somebody stale.
    fn add(&mut self, world: &mut World) {
        let window = world.rng.random_range(1..12);
        let options = RaidOptions { process_window_size_kb: window, ..RaidOptions::default() };
        self.module.set_options(options).unwrap();
        let stale: Vec<_> = world.disks.keys().cloned().collect();
        let name = match world.one_of(&stale) {
            Some(name) if world.rng.random_bool(0.6) => name,
            _ => world.new_disk(true),
        };
        if !self.plugged.contains_key(&name) {
            self.plug(world, &name);
        }
        world.disks[&name].set_faults(Faults::default());
        // Refused if it is a member, or there is no room, or a rebuild.
        let added = self.module.add_base("r", &name);
        world.tell(format_args!("add {name}: {added:?}"));
    }

    /// Takes a member away. If that takes the mirror with it, this one was the last that had everything.
    async fn take(&mut self, world: &mut World, name: &str, by_its_bdev: bool) {
        if by_its_bdev {
            self.plugged.remove(name);
            self.registry.unregister(name, "sim").unwrap().await;
        } else {
            let _ = self.module.remove_base(name).await;
        }
        world.tell(format_args!("took {name} (its bdev: {by_its_bdev}), left: {:?}", self.members(true)));
        if self.raid().is_none() {
            world.in_sync = vec![name.to_owned()];
        }
    }

    /// Some members lose their power at the same moment; the mirror loses them one after the other.
    async fn cut(&mut self, world: &mut World, first: String, also: Vec<String>) {
        let mut names = also;
        names.retain(|name| *name != first);
        names.push(first);
        for name in &names {
            world.disks[name].fail(Some(IoError::Os { errno: libc::EIO }));
        }
        turns(world.rng.random_range(0..20)).await;
        for name in names {
            let was_there = self.raid().is_some();
            if was_there {
                self.take(world, &name, true).await;
            } else if let Some(registration) = self.plugged.remove(&name) {
                registration.unregister().await;
            }
            let seed = world.rng.next_u64();
            let disk = world.disks[&name].after_power_cut(seed);
            disk.scramble_deallocated();
            world.tell(format_args!("{name} has lost its power"));
            world.disks.insert(name, disk);
            if was_there && self.raid().is_none() {
                world.model.borrow_mut().power_was_cut();
            }
        }
    }

    fn grow(&mut self, world: &mut World) {
        world.blocks += GROWTH;
        world.tell(format_args!("grows to {}", world.blocks));
        world.model.borrow_mut().grow(world.blocks as usize);
        for disk in world.disks.values() {
            disk.grow(world.blocks);
        }
        for registration in self.plugged.values() {
            registration.notify_resize();
        }
    }

    async fn rebuilt(&self) {
        while self.raid().is_some_and(|r| r.process.borrow().is_some()) {
            yield_now().await;
        }
    }
}

/// How a process ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Orderly,
    Killed,
    PowerCut,
}

/// One process, from its start to its end.
async fn life(world: &mut World, first: bool) -> Result<End, String> {
    let mut life = Life::new();
    if first {
        for name in world.in_sync.clone() {
            life.plug(world, &name);
        }
        life.create(world.in_sync.clone());
    } else {
        life.assemble(world).await;
    }
    life.compare(world).await?;
    if std::mem::take(&mut world.dark) {
        world.model.borrow_mut().all_is_durable();
    }
    for _ in 0..world.rng.random_range(1..4) {
        if life.raid().is_none() {
            life.assemble(world).await;
            life.compare(world).await?;
        }
        let hosts: Vec<_> = (0..4)
            .map(|_| {
                let rng = SmallRng::seed_from_u64(world.rng.next_u64());
                let host = host(life.registry.clone(), Rc::clone(&world.model), rng, 50);
                tokio::task::spawn_local(host)
            })
            .collect();
        for _ in 0..world.rng.random_range(1..12) {
            turns(world.rng.random_range(0..40)).await;
            if life.raid().is_some() && world.rng.random_bool(0.06) {
                world.in_sync = life.members(true);
                return Ok(if world.rng.random_bool(0.5) { End::Killed } else { End::PowerCut });
            }
            life.event(world).await;
        }
        for host in hosts {
            host.await.map_err(|e| e.to_string())??;
        }
        if world.rng.random_bool(0.5) {
            life.rebuilt().await;
        }
        life.compare(world).await?;
    }
    Ok(End::Orderly)
}

/// A few processes, one after the other, over the same disks.
fn history(seed: u64, tells: bool) -> Result<(), String> {
    let mut world = World::new(seed, tells);
    for n in 0..5 {
        let rt = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let local = tokio::task::LocalSet::new();
        let end = local.block_on(&rt, life(&mut world, n == 0))?;
        drop((local, rt));
        match end {
            End::Orderly => {}
            End::Killed => world.killed(),
            End::PowerCut => world.lost_power(),
        }
    }
    Ok(())
}

#[test]
fn no_acknowledged_byte_is_lost_and_members_in_sync_are_the_same() {
    let number = |name| std::env::var(name).ok().and_then(|s| s.parse::<u64>().ok());
    let repeated = number("VDA_RAID_SEED");
    let cycles = number("VDA_RAID_CYCLES").unwrap_or(100);
    let first = number("VDA_SEED").unwrap_or(0);
    let seeds = repeated.map_or(first..first + cycles, |seed| seed..seed + 1);
    println!("seeds {seeds:?}");
    for seed in seeds {
        let repeat =
            format!("repeat with VDA_RAID_SEED={seed} cargo nextest run -p vda-dataplane raid::oracle");
        let history = std::panic::AssertUnwindSafe(|| history(seed, repeated.is_some()));
        match std::panic::catch_unwind(history) {
            Ok(Ok(())) => {}
            Ok(Err(e)) => panic!("{repeat}: {e}"),
            Err(panic) => {
                eprintln!("{repeat}");
                std::panic::resume_unwind(panic);
            }
        }
    }
}
