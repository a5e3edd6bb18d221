//! What the volumes may hold.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

use super::LOOKED_AT;

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
    pub(super) mib: Vec<u64>,
    pub(super) blocks: Vec<Allowed>,
    pub(super) may_be_absent: bool,
    pub(super) must_be_absent: bool,
    pub(super) read_only: bool,
    /// A snapshot of it is being taken; its number.
    pub(super) taking: Option<u64>,
}

impl Vol {
    pub(super) fn new(name: String, mib: u64, blocks: Vec<Allowed>) -> Self {
        Self {
            names: vec![name],
            mib: vec![mib],
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
}

#[derive(Default)]
pub(super) struct Model {
    pub(super) vols: BTreeMap<u64, Vol>,
    pub(super) next: u64,
    pub(super) stamp: u64,
}

pub(super) type Shared = Rc<RefCell<Model>>;

impl Model {
    pub(super) fn fresh(&mut self) -> u64 {
        self.next += 1;
        self.next
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

pub(super) fn zeros() -> Vec<Allowed> {
    vec![Allowed::default(); LOOKED_AT as usize]
}

pub(super) fn stamp_of(block: &[u8]) -> u64 {
    let first = u64::from_le_bytes(block[..8].try_into().unwrap());
    assert!(block.chunks(8).all(|w| w == first.to_le_bytes()), "a block of pieces");
    first
}
