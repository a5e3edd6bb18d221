//! A host with its own volume: several I/O at once, now and then a flush.

use bytes::Bytes;
use rand::RngExt;
use rand::rngs::SmallRng;

use super::model::{Allowed, LOOKED_AT, Shared, contents, windows};
use super::{BLOCK, End, PER_CLUSTER, PER_MIB};
use crate::bdev::{Descriptor, Events, IoError};

/// A change that a host makes.
struct Change {
    /// Number of its first block among those that are looked at, and the block itself.
    first: u64,
    lba: u64,
    len: u64,
    kind: u32,
    stamp: u64,
}

pub(super) struct Host {
    pub(super) vol: u64,
    pub(super) desc: Descriptor,
    /// Whoever has a volume open hears of it.
    pub(super) _events: Events,
    pub(super) model: Shared,
    pub(super) end: End,
    pub(super) rng: SmallRng,
}

impl Host {
    fn with(&self, range: std::ops::Range<u64>, f: impl Fn(&mut Allowed)) {
        let mut model = self.model.borrow_mut();
        let vol = model.vols.get_mut(&self.vol).unwrap();
        vol.blocks[range.start as usize..range.end as usize].iter_mut().for_each(f);
    }

    async fn change(&self, Change { first, lba, len, kind, stamp }: Change) -> Result<(), IoError> {
        let range = first..first + len;
        let value = if kind >= 4 { 0 } else { stamp };
        self.model.borrow_mut().begins(self.vol, range.clone(), value);
        let fua = kind == 1 || kind == 5;
        let data = || Bytes::from(stamp.to_le_bytes().repeat((len * BLOCK / 8) as usize));
        let result = match kind {
            0..4 => self.desc.write(lba, data(), fua).await,
            4 | 5 => self.desc.write_zeroes(lba, len, fua).await,
            _ => self.desc.unmap(lba, len).await,
        };
        let durable = fua || self.end == End::Kill;
        self.with(range, |a| {
            if let Some(n) = a.coming.iter().position(|v| *v == value) {
                a.coming.swap_remove(n);
            }
            match result {
                Ok(()) => {
                    a.now = vec![value];
                    if durable {
                        a.after.clone_from(&a.now);
                    }
                }
                Err(_) => a.now.push(value),
            }
        });
        match result {
            Ok(()) | Err(IoError::NoSpace) => Ok(()),
            Err(e) => Err(e),
        }
    }

    /// The size that the host sees is one that the volume may have.
    fn size(&self) -> u64 {
        let mib = self.desc.num_blocks() / PER_MIB;
        let allowed = &self.model.borrow().vols[&self.vol].mib;
        assert!(allowed.contains(&mib), "{mib} MiB, not one of {allowed:?}");
        mib
    }

    async fn check(&self) -> Result<(), IoError> {
        let found = contents(&self.desc).await?;
        let model = self.model.borrow();
        for (n, (found, block)) in found.into_iter().zip(&model.vols[&self.vol].blocks).enumerate() {
            assert!(block.now.contains(&found), "block {n}: {found} not in {:?}", block.now);
        }
        Ok(())
    }

    fn draw(&mut self) -> Vec<Change> {
        let mut changes = Vec::new();
        for (first, lba, there) in windows(self.size()) {
            let mut at = self.rng.random_range(0..8);
            while at < there {
                let len = self.rng.random_range(1..PER_CLUSTER * 5 / 2).min(there - at);
                if self.rng.random_bool(0.5) {
                    self.model.borrow_mut().stamp += 1;
                    let (kind, stamp) = (self.rng.random_range(0..7), self.model.borrow().stamp);
                    changes.push(Change { first: first + at, lba: lba + at, len, kind, stamp });
                }
                at += len + self.rng.random_range(0..20);
            }
        }
        changes
    }

    async fn use_it(&mut self) -> Result<(), IoError> {
        for _ in 0..40 {
            let changes: Vec<_> = self.draw();
            let changes = changes.into_iter().map(|change| self.change(change));
            for result in futures::future::join_all(changes).await {
                result?;
            }
            match self.rng.random_range(0..6) {
                0 => {
                    self.desc.flush().await?;
                    self.with(0..LOOKED_AT, |a| a.after.clone_from(&a.now));
                }
                1 => self.check().await?,
                _ => {}
            }
        }
        Ok(())
    }

    /// Works until all is done, or the volume is deleted.
    pub(super) async fn run(mut self) {
        match self.use_it().await {
            Ok(()) | Err(IoError::Removed) => {}
            Err(e) => panic!("{e}"),
        }
        if let Some(vol) = self.model.borrow_mut().vols.get_mut(&self.vol) {
            vol.open = false;
        }
    }
}
