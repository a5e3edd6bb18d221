//! raid0 and concat: where a block is. Pure, and the I/O over it.

use std::rc::Rc;

use bytes::{Bytes, BytesMut};
use futures::future::join_all;

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
    pub(super) fn pieces(&self, lba: u64, blocks: u64) -> Vec<Piece> {
        let mut pieces = Vec::new();
        let (mut at, end) = (lba, lba + blocks);
        while at < end {
            let Some((member, lba, left)) = self.locate(at) else { break };
            let blocks = left.min(end - at);
            pieces.push(Piece { member, lba, blocks });
            at += blocks;
        }
        pieces
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
        let Self::Stripes { strip, members } = self else { return self.pieces(lba, blocks) };
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
    /// The present spread; `None` unless all members are there.
    fn spread(&self) -> Option<(Spread, Vec<Rc<Member>>)> {
        let slots = self.slots.borrow();
        let members: Vec<_> = slots.iter().map(|s| s.member.clone()).collect::<Option<_>>()?;
        let spread = match self.level {
            vda_spdk::RaidLevel::Concat => {
                Spread::Concat { sizes: slots.iter().map(|s| s.data_size).collect() }
            }
            _ => Spread::Stripes { strip: self.strip_blocks(), members: members.len() },
        };
        Some((spread, members))
    }

    pub(super) fn strip_blocks(&self) -> u64 {
        u64::from(self.strip_size_kb) * 1024 / u64::from(self.block_size.get().max(1))
    }

    fn piece_bytes(&self, piece: &Piece) -> usize {
        piece.blocks as usize * self.block_size.get() as usize
    }

    pub(super) fn striped_read(&self, lba: u64, mut buf: BytesMut) -> IoFuture<BytesMut> {
        let Some((spread, members)) = self.spread() else { return removed() };
        let blocks = buf.len() as u64 / u64::from(self.block_size.get());
        let pieces = spread.pieces(lba, blocks);
        if let [piece] = pieces.as_slice() {
            let member = &members[piece.member];
            return on_member(member, Box::pin(member.desc.read(piece.lba, buf)));
        }
        let reads: Vec<_> = pieces
            .iter()
            .map(|p| {
                let member = &members[p.member];
                on_member(member, Box::pin(member.desc.read(p.lba, buf.split_to(self.piece_bytes(p)))))
            })
            .collect();
        Box::pin(async move {
            let mut whole = BytesMut::new();
            for piece in join_all(reads).await {
                whole.unsplit(piece?);
            }
            Ok(whole)
        })
    }

    pub(super) fn striped_write(&self, lba: u64, mut data: Bytes, fua: bool) -> IoFuture<()> {
        let Some((spread, members)) = self.spread() else { return removed() };
        let blocks = data.len() as u64 / u64::from(self.block_size.get());
        let pieces = spread.pieces(lba, blocks);
        if let [piece] = pieces.as_slice() {
            let member = &members[piece.member];
            return on_member(member, Box::pin(member.desc.write(piece.lba, data, fua)));
        }
        let writes = pieces.iter().map(|p| {
            let member = &members[p.member];
            let piece = data.split_to(self.piece_bytes(p));
            on_member(member, Box::pin(member.desc.write(p.lba, piece, fua)))
        });
        all(writes.collect())
    }

    pub(super) fn striped_unmap(&self, lba: u64, blocks: u64) -> IoFuture<()> {
        self.on_ranges(lba, blocks, |m, p| {
            if m.desc.supports(IoType::Unmap) {
                Box::pin(m.desc.unmap(p.lba, p.blocks))
            } else {
                Box::pin(std::future::ready(Ok(())))
            }
        })
    }

    pub(super) fn striped_zero(&self, lba: u64, blocks: u64, fua: bool) -> IoFuture<()> {
        self.on_ranges(lba, blocks, |m, p| Box::pin(m.desc.write_zeroes(p.lba, p.blocks, fua)))
    }

    fn on_ranges(&self, lba: u64, blocks: u64, io: impl Fn(&Member, Piece) -> IoFuture<()>) -> IoFuture<()> {
        let Some((spread, members)) = self.spread() else { return removed() };
        let ranges = spread.ranges(lba, blocks);
        all(ranges.iter().map(|p| on_member(&members[p.member], io(&members[p.member], *p))).collect())
    }

    pub(super) fn striped_flush(&self) -> IoFuture<()> {
        let Some((_, members)) = self.spread() else { return removed() };
        all(members.iter().map(|m| on_member(m, Box::pin(m.desc.flush()))).collect())
    }
}

fn removed<T: 'static>() -> IoFuture<T> {
    Box::pin(std::future::ready(Err(IoError::Removed)))
}

fn on_member<T: 'static>(member: &Rc<Member>, io: IoFuture<T>) -> IoFuture<T> {
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
