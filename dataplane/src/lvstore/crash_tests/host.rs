//! A host with its own volume: several I/O at once, now and then a flush.

use bytes::{Bytes, BytesMut};
use rand::RngExt;
use rand::rngs::SmallRng;

use super::model::{Allowed, Shared, stamp_of};
use super::{BLOCK, End, LOOKED_AT, PER_CLUSTER};
use crate::bdev::{Descriptor, IoError};

pub(super) struct Host {
    pub(super) vol: u64,
    pub(super) desc: Descriptor,
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

    async fn change(&self, lba: u64, len: u64, kind: u32, stamp: u64) {
        let range = lba..lba + len;
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
                Err(IoError::NoSpace) => a.now.push(value),
                Err(e) => panic!("{e}"),
            }
        });
    }

    async fn check(&self) {
        let got = self.desc.read(0, BytesMut::zeroed((LOOKED_AT * BLOCK) as usize)).await.unwrap();
        let model = self.model.borrow();
        for (n, block) in got.chunks(BLOCK as usize).enumerate() {
            let allowed = &model.vols[&self.vol].blocks[n].now;
            let found = stamp_of(block);
            assert!(allowed.contains(&found), "block {n}: {found} not in {allowed:?}");
        }
    }

    pub(super) async fn run(mut self) {
        for _ in 0..40 {
            let mut changes = Vec::new();
            let mut at = self.rng.random_range(0..8);
            while at < LOOKED_AT {
                let len = self.rng.random_range(1..PER_CLUSTER * 5 / 2).min(LOOKED_AT - at);
                if self.rng.random_bool(0.5) {
                    let stamp = {
                        let mut model = self.model.borrow_mut();
                        model.stamp += 1;
                        model.stamp
                    };
                    changes.push((at, len, self.rng.random_range(0..7), stamp));
                }
                at += len + self.rng.random_range(0..20);
            }
            let changes =
                changes.into_iter().map(|(lba, len, kind, stamp)| self.change(lba, len, kind, stamp));
            futures::future::join_all(changes).await;
            match self.rng.random_range(0..6) {
                0 => {
                    self.desc.flush().await.unwrap();
                    self.with(0..LOOKED_AT, |a| a.after.clone_from(&a.now));
                }
                1 => self.check().await,
                _ => {}
            }
        }
    }
}
