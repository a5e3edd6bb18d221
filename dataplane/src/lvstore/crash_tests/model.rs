//! What the volumes may hold.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

use bytes::BytesMut;

use super::{BLOCK, PER_CLUSTER, PER_MIB, external_stamp};
use crate::bdev::{Descriptor, IoError};

/// Runs of blocks of a volume that are looked at, as first block and length: its start, and where it ends before it grows.
pub(super) const WINDOWS: [(u64, u64); 3] = [
    (0, 4 * PER_CLUSTER),
    (PER_MIB - PER_CLUSTER, 2 * PER_CLUSTER),
    (2 * PER_MIB - PER_CLUSTER, 2 * PER_CLUSTER),
];
/// Blocks of a volume that are looked at, counted through all windows.
pub(super) const LOOKED_AT: u64 = WINDOWS[0].1 + WINDOWS[1].1 + WINDOWS[2].1;

/// The windows of a volume of `mib` MiB: the number of their first block, the block itself, and how many there are.
pub(super) fn windows(mib: u64) -> impl Iterator<Item = (u64, u64, u64)> {
    let mut number = 0;
    WINDOWS.into_iter().filter_map(move |(lba, len)| {
        let first = number;
        number += len;
        let there = (mib * PER_MIB).saturating_sub(lba).min(len);
        (there > 0).then_some((first, lba, there))
    })
}

/// How many of the blocks that are looked at a volume of `mib` MiB has.
pub(super) fn reach(mib: u64) -> usize {
    windows(mib).map(|(_, _, len)| len as usize).sum()
}

/// What is in the blocks of a volume that are looked at, by their number.
pub(super) async fn contents(d: &Descriptor) -> Result<Vec<u64>, IoError> {
    let mut found = Vec::new();
    for (_, lba, len) in windows(d.num_blocks() / PER_MIB) {
        let got = d.read(lba, BytesMut::zeroed((len * BLOCK) as usize)).await?;
        found.extend(got.chunks(BLOCK as usize).map(stamp_of));
    }
    Ok(found)
}

/// What a block may hold: now, and after the end of the process.
#[derive(Clone, Debug)]
pub(super) struct Allowed {
    pub(super) now: Vec<u64>,
    pub(super) after: Vec<u64>,
    /// Of changes under way.
    pub(super) coming: Vec<u64>,
}

impl Allowed {
    pub(super) fn of(value: u64) -> Self {
        Self { now: vec![value], after: vec![value], coming: Vec::new() }
    }
}

impl Default for Allowed {
    fn default() -> Self {
        Self::of(0)
    }
}

/// A snapshot being taken: what it may hold, and what it may if it is found though it was never answered.
#[derive(Clone, Debug)]
pub(super) struct Taking {
    pub(super) blocks: Vec<Vec<u64>>,
    pub(super) after: Vec<Vec<u64>>,
}

/// A volume as the test knows it.
#[derive(Clone, Debug)]
pub(super) struct Vol {
    pub(super) names: Vec<String>,
    /// Its size, and what it may become of resizes under way.
    pub(super) mib: Vec<u64>,
    /// A shrink to that size is under way.
    pub(super) shrinking: Option<u64>,
    /// Somebody has it open.
    pub(super) open: bool,
    /// How many are making it leave its parent.
    pub(super) leaving: i32,
    pub(super) blocks: Vec<Allowed>,
    pub(super) may_be_absent: bool,
    pub(super) must_be_absent: bool,
    pub(super) read_only: bool,
    /// A snapshot of it is being taken; its number.
    pub(super) taking: Option<u64>,
}

impl Vol {
    pub(super) fn new(name: String, mib: Vec<u64>, blocks: Vec<Allowed>) -> Self {
        Self {
            names: vec![name],
            mib,
            shrinking: None,
            open: false,
            leaving: 0,
            blocks,
            may_be_absent: true,
            must_be_absent: false,
            read_only: false,
            taking: None,
        }
    }

    pub(super) fn alias(&self) -> String {
        format!("lvs/{}", self.names[0])
    }

    /// It has that size now. What is beyond comes back as zeros.
    pub(super) fn has_size(&mut self, mib: u64) {
        self.mib = vec![mib];
        self.shrinking = None;
        self.blocks[reach(mib)..].fill(Allowed::default());
    }
}

#[derive(Default)]
pub(super) struct Model {
    pub(super) vols: BTreeMap<u64, Vol>,
    pub(super) next: u64,
    pub(super) stamp: u64,
    /// Clusters that the lvstore has, at least and at most.
    pub(super) clusters: (u64, u64),
    /// Clusters of its metadata.
    pub(super) metadata: u64,
    /// The most clusters that the lvstore is to have.
    pub(super) grows_to: u64,
}

pub(super) type Shared = Rc<RefCell<Model>>;

impl Model {
    pub(super) fn fresh(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    /// A volume may get that size.
    pub(super) fn resizes(&mut self, vol: u64, mib: u64) {
        let Some(v) = self.vols.get_mut(&vol) else { return };
        v.mib.push(mib);
        v.shrinking = (mib < v.mib[0]).then_some(mib);
        if let Some(snapshot) = v.taking.and_then(|id| self.vols.get_mut(&id)) {
            snapshot.mib.push(mib);
        }
    }

    /// A change of some blocks of a volume begins.
    pub(super) fn begins(&mut self, vol: u64, range: std::ops::Range<u64>, value: u64) {
        let taking = self.vols[&vol].taking;
        for n in range {
            let a = &mut self.vols.get_mut(&vol).unwrap().blocks[n as usize];
            a.after.push(value);
            a.coming.push(value);
            if let Some(snapshot) = taking.and_then(|id| self.vols.get_mut(&id)) {
                snapshot.blocks[n as usize].now.push(value);
                snapshot.blocks[n as usize].after.push(value);
            }
        }
    }

    /// A snapshot that begins now may hold what is there and what is under way; found after a power cut though it was never answered,
    /// also what was there at the last flush.
    pub(super) fn snapshot_of(&self, vol: u64) -> Taking {
        let blocks = &self.vols[&vol].blocks;
        let now = |a: &Allowed| [a.now.as_slice(), &a.coming].concat();
        Taking {
            blocks: blocks.iter().map(now).collect(),
            after: blocks.iter().map(|a| [now(a).as_slice(), &a.after].concat()).collect(),
        }
    }
}

/// What a clone of the external snapshot shows.
pub(super) fn external() -> Vec<Allowed> {
    let mut blocks = zeros();
    for (number, lba, len) in windows(1) {
        for n in 0..len {
            blocks[(number + n) as usize] = Allowed::of(external_stamp(lba + n));
        }
    }
    blocks
}

pub(super) fn zeros() -> Vec<Allowed> {
    vec![Allowed::default(); LOOKED_AT as usize]
}

pub(super) fn stamp_of(block: &[u8]) -> u64 {
    let first = u64::from_le_bytes(block[..8].try_into().unwrap());
    assert!(block.chunks(8).all(|w| w == first.to_le_bytes()), "a block of pieces");
    first
}
