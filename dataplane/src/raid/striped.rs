//! raid0 and concat: where a block is. Pure, and the I/O over it.

use std::rc::Rc;

use bytes::{Bytes, BytesMut};
use futures::future::join_all;
use vda_spdk::RaidLevel;

use super::{Member, OnMember, Raid};
use crate::bdev::{IoError, IoFuture, IoType};

/// How blocks are spread over members.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Spread {
    /// raid0: strips of that many blocks in turn.
    Stripes { strip: u64, members: usize },
    /// concat: blocks of each member, one after the other.
    Concat { sizes: Vec<u64> },
}

/// Blocks that are together on one member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Piece {
    pub(super) member: usize,
    pub(super) lba: u64,
    pub(super) blocks: u64,
}

impl Spread {
    /// The pieces of a range, in the order of the range.
    pub(super) fn pieces(&self, lba: u64, blocks: u64) -> impl Iterator<Item = Piece> {
        let (mut at, end) = (lba, lba + blocks);
        std::iter::from_fn(move || {
            let (member, lba, left) = self.locate(at).filter(|_| at < end)?;
            let blocks = left.min(end - at);
            at += blocks;
            Some(Piece { member, lba, blocks })
        })
    }

    /// Member, block on it, and how many blocks follow there.
    fn locate(&self, at: u64) -> Option<(usize, u64, u64)> {
        match self {
            Self::Stripes { strip, members } => {
                let (index, offset) = (at / strip, at % strip);
                let n = *members as u64;
                Some(((index % n) as usize, index / n * strip + offset, strip - offset))
            }
            Self::Concat { sizes } => {
                let mut base = 0;
                for (member, size) in sizes.iter().enumerate() {
                    if at < base + size {
                        return Some((member, at - base, base + size - at));
                    }
                    base += size;
                }
                None
            }
        }
    }

    /// What a range is on each member: one piece each at most, in no order. For operations without data.
    pub(super) fn ranges(&self, lba: u64, blocks: u64) -> Vec<Piece> {
        let Self::Stripes { strip, members } = self else { return self.pieces(lba, blocks).collect() };
        let n = *members as u64;
        let (first, last) = (lba / strip, (lba + blocks - 1) / strip);
        let (head, tail) = (lba % strip, (lba + blocks - 1) % strip + 1);
        let range = |m: u64| {
            let from = first + (m + n - first % n) % n;
            let to = last.checked_sub((last % n + n - m) % n).filter(|to| *to >= from)?;
            let start = from / n * strip + if from == first { head } else { 0 };
            let end = to / n * strip + if to == last { tail } else { *strip };
            Some(Piece { member: m as usize, lba: start, blocks: end - start })
        };
        (0..n).filter_map(range).collect()
    }
}

impl Raid {
    /// Takes over what has changed in the slots: where blocks are, if all members are there.
    pub(super) fn spread_changed(&self) {
        let slots = self.slots.borrow();
        let spread = match self.level {
            _ if slots.iter().any(|s| s.member.is_none()) => None,
            RaidLevel::Raid1 | RaidLevel::Raid5f => None,
            RaidLevel::Concat => Some(Spread::Concat { sizes: slots.iter().map(|s| s.data_size).collect() }),
            RaidLevel::Raid0 => Some(Spread::Stripes { strip: self.strip_blocks(), members: slots.len() }),
        };
        self.spread.replace(spread);
    }

    pub(super) fn strip_blocks(&self) -> u64 {
        u64::from(self.strip_size_kb) * 1024 / u64::from(self.block_size.get().max(1))
    }

    fn blocks(&self, bytes: usize) -> u64 {
        bytes as u64 / u64::from(self.block_size.get())
    }

    fn piece_bytes(&self, piece: &Piece) -> usize {
        piece.blocks as usize * self.block_size.get() as usize
    }

    pub(super) fn striped_read(&self, lba: u64, mut buf: BytesMut) -> IoFuture<BytesMut> {
        let (spread, members) = (self.spread.borrow(), self.members.borrow());
        let Some(spread) = spread.as_ref() else { return removed() };
        let mut pieces = spread.pieces(lba, self.blocks(buf.len()));
        let Some(first) = pieces.next() else { return removed() };
        let read = |p: &Piece, buf| {
            let member = &members[p.member];
            on_member(member, member.desc.read(p.lba, buf))
        };
        // What is on one member goes there as it came.
        if self.piece_bytes(&first) == buf.len() {
            return read(&first, buf);
        }
        let pieces = std::iter::once(first).chain(pieces);
        let reads: Vec<_> = pieces.map(|p| read(&p, buf.split_to(self.piece_bytes(&p)))).collect();
        Box::pin(async move {
            let mut whole = BytesMut::new();
            for piece in join_all(reads).await {
                whole.unsplit(piece?);
            }
            Ok(whole)
        })
    }

    pub(super) fn striped_write(&self, lba: u64, mut data: Bytes, fua: bool) -> IoFuture<()> {
        let (spread, members) = (self.spread.borrow(), self.members.borrow());
        let Some(spread) = spread.as_ref() else { return removed() };
        let mut pieces = spread.pieces(lba, self.blocks(data.len()));
        let Some(first) = pieces.next() else { return removed() };
        let write = |p: &Piece, data| {
            let member = &members[p.member];
            on_member(member, member.desc.write(p.lba, data, fua))
        };
        if self.piece_bytes(&first) == data.len() {
            return write(&first, data);
        }
        let pieces = std::iter::once(first).chain(pieces);
        all(pieces.map(|p| write(&p, data.split_to(self.piece_bytes(&p)))).collect())
    }

    pub(super) fn striped_unmap(&self, lba: u64, blocks: u64) -> IoFuture<()> {
        self.on_ranges(lba, blocks, |m, p| {
            let unmap = m.desc.supports(IoType::Unmap).then(|| m.desc.unmap(p.lba, p.blocks));
            async move {
                match unmap {
                    Some(unmap) => unmap.await,
                    None => Ok(()),
                }
            }
        })
    }

    pub(super) fn striped_zero(&self, lba: u64, blocks: u64, fua: bool) -> IoFuture<()> {
        self.on_ranges(lba, blocks, |m, p| m.desc.write_zeroes(p.lba, p.blocks, fua))
    }

    fn on_ranges<F>(&self, lba: u64, blocks: u64, io: impl Fn(&Member, Piece) -> F) -> IoFuture<()>
    where
        F: Future<Output = Result<(), IoError>> + 'static,
    {
        let (spread, members) = (self.spread.borrow(), self.members.borrow());
        let Some(spread) = spread.as_ref() else { return removed() };
        let ranges = spread.ranges(lba, blocks);
        all(ranges.iter().map(|p| on_member(&members[p.member], io(&members[p.member], *p))).collect())
    }

    pub(super) fn striped_flush(&self) -> IoFuture<()> {
        if self.spread.borrow().is_none() {
            return removed();
        }
        all(self.members().iter().map(|m| on_member(m, m.desc.flush())).collect())
    }
}

fn removed<T: 'static>() -> IoFuture<T> {
    Box::pin(std::future::ready(Err(IoError::Removed)))
}

/// Does an I/O on a member, counted there from now on.
fn on_member<T: 'static>(
    member: &Rc<Member>,
    io: impl Future<Output = Result<T, IoError>> + 'static,
) -> IoFuture<T> {
    let on = OnMember::begin(member);
    Box::pin(async move {
        let result = io.await;
        drop(on);
        result
    })
}

fn all(ios: Vec<IoFuture<()>>) -> IoFuture<()> {
    Box::pin(async move { join_all(ios).await.into_iter().collect() })
}

#[cfg(test)]
#[path = "striped_tests.rs"]
mod tests;
