//! Copying a raid1 to a new member.

use std::rc::Rc;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};

use super::{Member, OnMember, Process, Raid, RaidOptions};
use crate::bdev::{IoError, IoType};

const KIB: u64 = 1024;
const MIB: u64 = 1024 * KIB;

/// Why a rebuild ended early.
enum Stopped {
    /// The target is no member any more.
    Removed,
    Failed(IoError),
}

impl From<IoError> for Stopped {
    fn from(e: IoError) -> Self {
        Self::Failed(e)
    }
}

impl Raid {
    /// Starts to rebuild a member that has just been put in a slot.
    pub(super) fn start_rebuild(self: &Rc<Self>, target: Rc<Member>, options: RaidOptions) {
        self.process.replace(Some(Process { target: Rc::clone(&target), position: 0 }));
        let raid = Rc::clone(self);
        tokio::task::spawn_local(async move {
            let begun = Instant::now();
            let outcome = raid.rebuild(&target, options).await;
            let (name, member) = (&raid.name, target.desc.name());
            match outcome {
                Ok(()) => tracing::info!(raid = %name, member, took = ?begun.elapsed(), "rebuilt"),
                Err(Stopped::Removed) => {
                    tracing::info!(raid = %name, member, "rebuild stopped: the member is gone");
                }
                Err(Stopped::Failed(error)) => {
                    tracing::warn!(raid = %name, member, %error, "rebuild failed: the new member is dropped");
                    raid.detach(&target);
                }
            }
        });
    }

    async fn rebuild(self: &Rc<Self>, target: &Rc<Member>, options: RaidOptions) -> Result<(), Stopped> {
        let block = u64::from(self.block_size.get());
        let window = (u64::from(options.process_window_size_kb) * KIB / block).max(1);
        let begun = Instant::now();
        let mut position = 0;
        loop {
            while position < self.num_blocks.get() {
                let blocks = window.min(self.num_blocks.get() - position);
                self.copy(target, position, blocks).await?;
                position += blocks;
                self.progress(target, position)?;
                pace(begun, position * block, options).await;
            }
            let on = OnMember::begin(target);
            let flushed = target.desc.flush().await;
            drop(on);
            flushed?;
            // It may have grown while the flush ran.
            if position >= self.num_blocks.get() {
                break;
            }
        }
        self.progress(target, position)?;
        target.in_sync.set(true);
        self.process.replace(None);
        Ok(())
    }

    fn progress(&self, target: &Rc<Member>, position: u64) -> Result<(), Stopped> {
        match self.process.borrow_mut().as_mut() {
            Some(process) if Rc::ptr_eq(&process.target, target) => {
                process.position = position;
                Ok(())
            }
            _ => Err(Stopped::Removed),
        }
    }

    async fn copy(self: &Rc<Self>, target: &Rc<Member>, lba: u64, blocks: u64) -> Result<(), Stopped> {
        let _window = self.writes.window(lba, lba + blocks).await;
        if !self.has(target) {
            return Err(Stopped::Removed);
        }
        let len = usize::try_from(blocks).unwrap_or(usize::MAX) * self.block_size.get() as usize;
        let data = Rc::clone(self).mirror_read(lba, BytesMut::zeroed(len)).await?;
        let on = OnMember::begin(target);
        // What is empty stays empty on a thin member.
        let result = if target.desc.supports(IoType::WriteZeroes) && is_zero(&data) {
            target.desc.write_zeroes(lba, blocks, false).await
        } else {
            target.desc.write(lba, Bytes::from(data), false).await
        };
        drop(on);
        Ok(result?)
    }
}

fn is_zero(data: &[u8]) -> bool {
    // Comparing with itself, shifted, is as fast as memory.
    data.first().is_none_or(|first| *first == 0)
        && data.get(1..).is_none_or(|rest| rest == &data[..rest.len()])
}

/// Waits so long that `bytes` since `begun` are within the bandwidth.
async fn pace(begun: Instant, bytes: u64, options: RaidOptions) {
    let rate = u64::from(options.process_max_bandwidth_mb_sec) * MIB;
    if rate > 0 {
        let due = begun + Duration::from_secs_f64(bytes as f64 / rate as f64);
        tokio::time::sleep_until(due.into()).await;
    }
}
