//! What hosts may read from a mirror, given what they were told. Pure.

use std::collections::BTreeMap;
use std::ops::Range;

/// A value of a block: what a write put there. Zero is zeros.
pub(super) type Tag = u64;

/// The value of a block that is being deallocated: until that is acknowledged, anything.
pub(super) const ANYTHING: Tag = u64::MAX;

/// What is known about one block.
#[derive(Default)]
struct Block {
    /// Changes in the order in which they were begun. The latest acknowledged one and all after it may be there.
    changes: BTreeMap<u64, Tag>,
    /// The latest change acknowledged.
    acknowledged: u64,
    /// The latest change that was acknowledged before a flush that was, or with FUA: nothing older may come back, whatever loses power.
    durable: u64,
    /// The latest deallocation acknowledged.
    unmapped: u64,
    /// Counts beginnings and ends of changes.
    events: u64,
    /// Changes in flight, and those of which nobody learned the end.
    flying: u32,
    /// `events` when it was last deallocated.
    deallocated: u64,
    /// What was read since `events` had that value.
    seen: Option<(u64, Tag)>,
}

/// The blocks of a mirror.
#[derive(Default)]
pub(super) struct Model {
    blocks: Vec<Block>,
    next: u64,
}

/// How a change ended for the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ended {
    Acknowledged,
    /// It was a write with FUA.
    Durable,
    Failed,
    /// The host went away before.
    Unknown,
}

/// A flush begun: what was acknowledged then.
pub(super) struct Flushing(Vec<u64>);

/// A read begun: of its blocks, what was true then, and what they might hold. A flush that ends during the read makes that forgotten
/// elsewhere, but who asked before may still be told of it.
pub(super) struct Reading(Vec<(u64, u64, Vec<Tag>)>);

impl Model {
    /// Adds blocks that read as zeros.
    pub(super) fn grow(&mut self, blocks: usize) {
        self.blocks.resize_with(blocks, || Block { changes: BTreeMap::from([(0, 0)]), ..Block::default() });
    }

    /// A host begins to change blocks; gives the number of the change.
    pub(super) fn begin(&mut self, range: Range<usize>, tag: Tag) -> u64 {
        self.next += 1;
        for block in &mut self.blocks[range] {
            block.changes.insert(self.next, tag);
            block.events += 1;
            block.flying += 1;
        }
        self.next
    }

    pub(super) fn end(&mut self, range: Range<usize>, change: u64, ended: Ended) {
        for block in &mut self.blocks[range] {
            block.events += 1;
            block.flying -= u32::from(ended != Ended::Unknown);
            if ended == Ended::Durable {
                block.durable = block.durable.max(change);
            }
            if matches!(ended, Ended::Acknowledged | Ended::Durable) {
                block.acknowledged = block.acknowledged.max(change);
                let tag = block.changes.entry(change).or_default();
                if *tag == ANYTHING {
                    *tag = 0;
                    block.deallocated = block.events;
                    block.unmapped = block.unmapped.max(change);
                }
            }
        }
    }

    pub(super) fn begin_read(&self, range: Range<usize>) -> Reading {
        let may = |b: &Block| b.changes.range(b.acknowledged..).map(|(_, tag)| *tag).collect();
        Reading(self.blocks[range].iter().map(|b| (b.acknowledged, b.events, may(b))).collect())
    }

    /// Checks what a read gave: nothing older than what was acknowledged before it, and the same as before where nothing changes.
    pub(super) fn end_read(&mut self, first: usize, reading: &Reading, got: &[Tag]) -> Result<(), String> {
        for (n, ((floor, events, before), tag)) in reading.0.iter().zip(got).enumerate() {
            let (at, block) = (first + n, &mut self.blocks[first + n]);
            let mut may = block.changes.range(floor..);
            if block.deallocated > *events || may.any(|(_, t)| *t == ANYTHING) {
                continue;
            }
            if !before.contains(tag) && !block.changes.range(floor..).any(|(_, t)| t == tag) {
                let may: Vec<_> = block.changes.range(floor..).collect();
                return Err(format!("block {at} reads {tag:#x}, may be {may:x?}"));
            }
            if block.events != *events || block.flying > 0 {
                continue;
            }
            match block.seen {
                Some((when, seen)) if when == *events && seen != *tag => {
                    return Err(format!("block {at} reads {tag:#x} after {seen:#x}, and nothing changed it"));
                }
                _ => block.seen = Some((*events, *tag)),
            }
        }
        Ok(())
    }

    /// A host begins to flush.
    pub(super) fn begin_flush(&self) -> Flushing {
        Flushing(self.blocks.iter().map(|b| b.acknowledged).collect())
    }

    /// The flush was acknowledged.
    pub(super) fn end_flush(&mut self, flushing: &Flushing) {
        for (block, acknowledged) in self.blocks.iter_mut().zip(&flushing.0) {
            block.durable = block.durable.max(*acknowledged);
            block.changes = block.changes.split_off(&block.durable);
        }
    }

    /// Whoever has the truth lost its power: what was not flushed may be there, or not.
    pub(super) fn power_was_cut(&mut self) {
        for block in &mut self.blocks {
            if block.unmapped > block.durable {
                // It was made zero when it had been given back; the first may be there without the second.
                block.changes.insert(block.unmapped, ANYTHING);
            }
            block.acknowledged = block.durable;
            block.events += 1;
        }
    }

    /// All that is there now can not be lost any more.
    pub(super) fn all_is_durable(&mut self) {
        for block in &mut self.blocks {
            block.durable = block.acknowledged;
            block.changes = block.changes.split_off(&block.durable);
        }
    }

    /// Checks what is there when nothing is in flight, and takes that as the only truth from now on.
    pub(super) fn settle(&mut self, got: &[Tag]) -> Result<(), String> {
        let all = 0..got.len();
        let reading = self.begin_read(all);
        self.end_read(0, &reading, got)?;
        self.next += 1;
        for (block, tag) in self.blocks.iter_mut().zip(got) {
            // What was there since the last flush may come back.
            block.changes.insert(self.next, *tag);
            block.acknowledged = self.next;
            block.events += 1;
            block.flying = 0;
            block.seen = None;
        }
        Ok(())
    }
}
