//! A disk for tests: it completes I/O in any order, loses, keeps or tears what was not flushed when the power goes, and fails on
//! demand. Everything it does at random comes from its seed.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;

use bytes::{Bytes, BytesMut};
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use serde_json::{Value, json};
use uuid::Uuid;

use super::{Bdev, IoError, IoFuture, IoType};

const SECTOR: usize = 512;
type Sector = Rc<[u8; SECTOR]>;

/// A sector: what is durable, and what was written since, oldest first; whether each was acknowledged.
#[derive(Clone, Default)]
struct Versions {
    durable: Option<Sector>,
    volatile: Vec<(u64, Sector, bool)>,
}

impl Versions {
    /// What a read finds: the newest acknowledged.
    fn newest(&self) -> Option<&Sector> {
        self.volatile.iter().rev().find(|v| v.2).map(|v| &v.1).or(self.durable.as_ref())
    }
}

/// The simulated medium. Shared between the bdev and the test.
pub(crate) struct SimDisk {
    block_size: u32,
    num_blocks: Cell<u64>,
    uuid: Uuid,
    sectors: RefCell<BTreeMap<u64, Versions>>,
    rng: RefCell<SmallRng>,
    next_write: Cell<u64>,
    /// Operations until the power goes.
    budget: Cell<u64>,
    failing: Cell<Option<IoError>>,
    faults: Cell<Faults>,
    /// Turns of the reactor that an operation takes at most.
    turns: Cell<u32>,
    /// Writes, write-zeroes and unmaps begun.
    changes: Cell<u64>,
    /// Deallocated sectors read as anything.
    scrambles: Cell<bool>,
}

/// How likely operations are to fail. A change that failed may have been made all the same.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Faults {
    pub(crate) reads: f64,
    pub(crate) changes: f64,
}

/// The bdev on a [`SimDisk`].
pub(crate) struct SimBdev(pub(crate) Rc<SimDisk>);

impl SimDisk {
    pub(crate) fn new(seed: u64, block_size: u32, num_blocks: u64) -> Rc<Self> {
        Rc::new(Self {
            block_size,
            num_blocks: Cell::new(num_blocks),
            uuid: Uuid::new_v4(),
            sectors: RefCell::default(),
            rng: RefCell::new(SmallRng::seed_from_u64(seed)),
            next_write: Cell::new(0),
            budget: Cell::new(u64::MAX),
            failing: Cell::new(None),
            faults: Cell::default(),
            turns: Cell::new(4),
            changes: Cell::new(0),
            scrambles: Cell::new(false),
        })
    }

    /// Something is on it, none of it ours.
    pub(crate) fn fill_with_garbage(&self) {
        let mut rng = self.rng.borrow_mut();
        let mut sectors = self.sectors.borrow_mut();
        for at in 0..self.first_sector(self.num_blocks.get()) {
            let mut sector = [0; SECTOR];
            rng.fill(&mut sector[..]);
            sectors.insert(at, Versions { durable: Some(Rc::new(sector)), volatile: Vec::new() });
        }
    }

    /// It gets bigger; who registered its bdev tells the holders.
    pub(crate) fn grow(&self, num_blocks: u64) {
        self.num_blocks.set(self.num_blocks.get().max(num_blocks));
    }

    /// Operations fail with `EIO` now and then.
    pub(crate) fn set_faults(&self, faults: Faults) {
        self.faults.set(faults);
    }

    /// How many turns of the reactor an operation may take.
    pub(crate) fn set_turns(&self, turns: u32) {
        self.turns.set(turns);
    }

    /// From now on deallocated sectors read as anything.
    pub(crate) fn scramble_deallocated(&self) {
        self.scrambles.set(true);
    }

    /// Writes, write-zeroes and unmaps that were begun so far.
    pub(crate) fn changes(&self) -> u64 {
        self.changes.get()
    }

    /// The power goes after that many operations: nothing completes any more.
    pub(crate) fn power_off_after(&self, operations: u64) {
        self.budget.set(operations);
    }

    pub(crate) fn is_off(&self) -> bool {
        self.budget.get() == 0
    }

    /// Every operation fails from now on, or works again.
    pub(crate) fn fail(&self, error: Option<IoError>) {
        self.failing.set(error);
    }

    /// The disk after the power comes back: of what was written since the last flush each write is there, lost or torn.
    pub(crate) fn after_power_cut(&self, seed: u64) -> Rc<Self> {
        let after = Self::new(seed, self.block_size, self.num_blocks.get());
        let mut rng = SmallRng::seed_from_u64(seed ^ 0x5eed);
        let mut fates: BTreeMap<u64, f64> = BTreeMap::new();
        for (at, versions) in self.sectors.borrow().iter() {
            let mut durable = versions.durable.clone();
            for (id, sector, _) in &versions.volatile {
                // How likely a sector of this write is to be there: never, sometimes, always.
                let fate =
                    *fates.entry(*id).or_insert_with(|| [0.0, 0.0, 0.5, 1.0, 1.0][rng.random_range(0..5)]);
                if rng.random_bool(fate) {
                    durable = Some(Rc::clone(sector));
                }
            }
            after.sectors.borrow_mut().insert(*at, Versions { durable, volatile: Vec::new() });
        }
        after
    }

    /// The disk after the power comes back: of what was written since the last flush is there what `keep` says of its block.
    pub(crate) fn after_power_cut_with(&self, seed: u64, keep: impl Fn(u64) -> bool) -> Rc<Self> {
        let after = Self::new(seed, self.block_size, self.num_blocks.get());
        let per = u64::from(self.block_size) / SECTOR as u64;
        for (at, versions) in self.sectors.borrow().iter() {
            let newest = versions.volatile.last().filter(|_| keep(at / per)).map(|v| Rc::clone(&v.1));
            let durable = newest.or_else(|| versions.durable.clone());
            after.sectors.borrow_mut().insert(*at, Versions { durable, volatile: Vec::new() });
        }
        after
    }

    /// The disk after kill -9 of the process: what was acknowledged is there, the rest may be.
    pub(crate) fn after_kill(&self, seed: u64) -> Rc<Self> {
        let after = Self::new(seed, self.block_size, self.num_blocks.get());
        let mut rng = SmallRng::seed_from_u64(seed ^ 0xdead);
        for (at, versions) in self.sectors.borrow().iter() {
            let acknowledged = versions.volatile.iter().rposition(|v| v.2).map_or(0, |n| n + 1);
            let durable = match rng.random_range(acknowledged..=versions.volatile.len()) {
                0 => versions.durable.clone(),
                n => Some(Rc::clone(&versions.volatile[n - 1].1)),
            };
            after.sectors.borrow_mut().insert(*at, Versions { durable, volatile: Vec::new() });
        }
        after
    }

    /// The disk, elsewhere, when the process that used it was killed: it has its power, and what it acknowledged is in its cache still;
    /// what was on its way may have come.
    pub(crate) fn after_user_was_killed(&self, seed: u64) -> Rc<Self> {
        let after = Self::new(seed, self.block_size, self.num_blocks.get());
        let mut rng = SmallRng::seed_from_u64(seed ^ 0xdead);
        for (at, versions) in self.sectors.borrow().iter() {
            let acknowledged = versions.volatile.iter().rposition(|v| v.2).map_or(0, |n| n + 1);
            let mut volatile = versions.volatile[..acknowledged].to_vec();
            let came = rng.random_range(acknowledged..=versions.volatile.len());
            if came > acknowledged {
                let (id, sector, _) = &versions.volatile[came - 1];
                volatile.push((*id, Rc::clone(sector), true));
            }
            let versions = Versions { durable: versions.durable.clone(), volatile };
            after.sectors.borrow_mut().insert(*at, versions);
        }
        after.next_write.set(self.next_write.get());
        after
    }

    /// What is on the disk, unflushed or not.
    pub(crate) fn contents(&self, lba: u64, blocks: u64) -> Vec<u8> {
        let per = u64::from(self.block_size) / SECTOR as u64;
        let sectors = self.sectors.borrow();
        let zero = [0; SECTOR];
        (lba * per..(lba + blocks) * per)
            .flat_map(|at| *sectors.get(&at).and_then(Versions::newest).map_or(&zero, |s| &**s))
            .collect()
    }

    fn first_sector(&self, lba: u64) -> u64 {
        lba * u64::from(self.block_size) / SECTOR as u64
    }

    /// One operation: takes a while, then succeeds unless the power is gone or the disk fails.
    async fn operate(self: &Rc<Self>) -> Result<(), IoError> {
        let left = self.budget.get();
        if left == 0 {
            std::future::pending::<()>().await;
        }
        self.budget.set(left - u64::from(left != u64::MAX));
        let turns = self.rng.borrow_mut().random_range(0..self.turns.get());
        for _ in 0..turns {
            tokio::task::yield_now().await;
        }
        if self.is_off() {
            std::future::pending::<()>().await;
        }
        self.failing.get().map_or(Ok(()), Err)
    }

    /// Whether a fault hits.
    fn faulty(&self, likely: f64) -> Result<(), IoError> {
        let hit = likely > 0.0 && self.rng.borrow_mut().random_bool(likely);
        if hit { Err(IoError::Os { errno: libc::EIO }) } else { Ok(()) }
    }

    async fn store(self: Rc<Self>, lba: u64, data: Bytes, fua: bool) -> Result<(), IoError> {
        self.changes.set(self.changes.get() + 1);
        if self.is_off() {
            std::future::pending::<()>().await;
        }
        let id = self.next_write.get();
        self.next_write.set(id + 1);
        let first = self.first_sector(lba);
        for (n, piece) in data.chunks_exact(SECTOR).enumerate() {
            let mut sector = [0; SECTOR];
            sector.copy_from_slice(piece);
            let mut sectors = self.sectors.borrow_mut();
            sectors.entry(first + n as u64).or_default().volatile.push((id, Rc::new(sector), false));
        }
        let result = self.operate().await;
        let fault = self.faulty(self.faults.get().changes);
        let landed = result.is_ok() && (fault.is_ok() || self.rng.borrow_mut().random_bool(0.5));
        for at in first..first + (data.len() / SECTOR) as u64 {
            let mut sectors = self.sectors.borrow_mut();
            let Some(versions) = sectors.get_mut(&at) else { continue };
            let Some(n) = versions.volatile.iter().position(|v| v.0 == id) else { continue };
            let (_, sector, _) = versions.volatile.remove(n);
            match (landed, fua && fault.is_ok()) {
                (true, true) => {
                    versions.volatile.retain(|v| !v.2);
                    versions.durable = Some(sector);
                }
                (true, false) => {
                    // Acknowledged last is newest.
                    let last = versions.volatile.iter().rposition(|v| v.2).map_or(0, |n| n + 1);
                    versions.volatile.insert(last, (id, sector, true));
                }
                (false, _) => {}
            }
        }
        result.and(fault)
    }

    /// What deallocated blocks read as.
    async fn deallocate(self: Rc<Self>, lba: u64, blocks: u64) -> Result<(), IoError> {
        if !self.scrambles.get() {
            return self.operate().await;
        }
        let mut anything = BytesMut::zeroed(blocks as usize * self.block_size as usize);
        self.rng.borrow_mut().fill(&mut anything[..]);
        self.store(lba, anything.freeze(), false).await
    }

    async fn sync(self: Rc<Self>) -> Result<(), IoError> {
        let before: Vec<(u64, Vec<u64>)> = {
            let sectors = self.sectors.borrow();
            let acknowledged = |v: &Versions| v.volatile.iter().filter(|v| v.2).map(|v| v.0).collect();
            let dirty = sectors.iter().filter(|(_, v)| v.volatile.iter().any(|v| v.2));
            dirty.map(|(at, v)| (*at, acknowledged(v))).collect()
        };
        self.operate().await?;
        self.faulty(self.faults.get().changes)?;
        let mut sectors = self.sectors.borrow_mut();
        for (at, writes) in before {
            let Some(versions) = sectors.get_mut(&at) else { continue };
            let newest = versions.volatile.iter().rfind(|v| writes.contains(&v.0)).map(|v| Rc::clone(&v.1));
            if let Some(newest) = newest {
                versions.durable = Some(newest);
                versions.volatile.retain(|v| !writes.contains(&v.0));
            }
        }
        Ok(())
    }
}

impl Bdev for SimBdev {
    fn product_name(&self) -> &'static str {
        "simulated disk"
    }
    fn module(&self) -> &'static str {
        "sim"
    }
    fn block_size(&self) -> u32 {
        self.0.block_size
    }
    fn num_blocks(&self) -> u64 {
        self.0.num_blocks.get()
    }
    fn uuid(&self) -> Uuid {
        self.0.uuid
    }
    fn supports(&self, io: IoType) -> bool {
        !matches!(io, IoType::CompareAndWrite | IoType::Abort)
    }
    fn driver_specific(&self) -> Value {
        json!({})
    }
    fn read(&self, lba: u64, mut buf: BytesMut) -> IoFuture<BytesMut> {
        let disk = Rc::clone(&self.0);
        Box::pin(async move {
            disk.operate().await?;
            disk.faulty(disk.faults.get().reads)?;
            let blocks = buf.len() as u64 / u64::from(disk.block_size);
            buf.copy_from_slice(&disk.contents(lba, blocks));
            Ok(buf)
        })
    }
    fn write(&self, lba: u64, data: Bytes, fua: bool) -> IoFuture<()> {
        Box::pin(Rc::clone(&self.0).store(lba, data, fua))
    }
    fn flush(&self) -> IoFuture<()> {
        Box::pin(Rc::clone(&self.0).sync())
    }
    fn unmap(&self, lba: u64, blocks: u64) -> IoFuture<()> {
        Box::pin(Rc::clone(&self.0).deallocate(lba, blocks))
    }
    fn write_zeroes(&self, lba: u64, blocks: u64, fua: bool) -> IoFuture<()> {
        let len = blocks as usize * self.0.block_size as usize;
        Box::pin(Rc::clone(&self.0).store(lba, Bytes::from(vec![0; len]), fua))
    }
}
