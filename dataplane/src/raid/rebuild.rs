//! Copying a raid1 to a new member.
//!
//! The copy has no memory outside of this process: one that was interrupted, by whatever, starts again from the first block.

use std::rc::Rc;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};

use super::{Member, OnMember, Process, Raid, RaidOptions};
use crate::bdev::{IoError, IoType};

const KIB: u64 = 1024;
const MIB: u64 = 1024 * KIB;
/// Bandwidth that may be saved up.
const CREDIT: Duration = Duration::from_millis(1);

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
        // Who removes the target waits for the end of this: nothing is written to it afterwards.
        let on = OnMember::begin(&target);
        let raid = Rc::clone(self);
        tokio::task::spawn_local(async move {
            let begun = Instant::now();
            let outcome = raid.rebuild(&target, options).await;
            drop(on);
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
        let window = (u64::from(options.process_window_size_kb) * KIB).div_ceil(block).max(1);
        let mut pace = Pace::new(options, Instant::now());
        let mut position = 0;
        loop {
            while position < self.num_blocks.get() {
                let blocks = window.min(self.num_blocks.get() - position);
                if let Some(when) = pace.next(blocks * block, Instant::now()) {
                    self.while_member(target, tokio::time::sleep_until(when.into())).await?;
                }
                self.copy(target, position, blocks).await?;
                position += blocks;
                self.progress(target, position)?;
            }
            target.desc.flush().await?;
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
        let locked = self.while_member(target, self.changes.lock(lba, lba + blocks)).await?;
        let len = usize::try_from(blocks).unwrap_or(usize::MAX) * self.block_size.get() as usize;
        let data = Rc::clone(self).mirror_read(lba, BytesMut::zeroed(len)).await?;
        if !self.has(target) {
            return Err(Stopped::Removed);
        }
        // What is empty stays empty on a thin member.
        if target.desc.supports(IoType::WriteZeroes) && is_zero(&data) {
            target.desc.write_zeroes(lba, blocks, false).await?;
        } else {
            target.desc.write(lba, Bytes::from(data), false).await?;
        }
        drop(locked);
        Ok(())
    }

    /// Waits for something as long as `target` is a member.
    async fn while_member<T>(
        &self,
        target: &Rc<Member>,
        wait: impl Future<Output = T>,
    ) -> Result<T, Stopped> {
        let mut left = std::pin::pin!(target.left.notified());
        left.as_mut().enable();
        if !self.has(target) {
            return Err(Stopped::Removed);
        }
        tokio::select! {
            biased;
            () = left => Err(Stopped::Removed),
            done = wait => Ok(done),
        }
    }
}

fn is_zero(data: &[u8]) -> bool {
    // Comparing with itself, shifted, is as fast as memory.
    data.first().is_none_or(|first| *first == 0)
        && data.get(1..).is_none_or(|rest| rest == &data[..rest.len()])
}

/// Keeps a rebuild within its bandwidth. What was not used of it is lost, but for a millisecond's worth (as in SPDK): a rebuild
/// that was held up does not make up for it at the hosts' cost.
struct Pace {
    /// Bytes a second; 0 is unlimited.
    rate: u64,
    /// When what was copied so far is used up.
    due: Instant,
}

impl Pace {
    fn new(options: RaidOptions, now: Instant) -> Self {
        Self { rate: u64::from(options.process_max_bandwidth_mb_sec) * MIB, due: now }
    }

    /// Books `bytes` more, and says when they may be copied; `None` is at once.
    fn next(&mut self, bytes: u64, now: Instant) -> Option<Instant> {
        if self.rate == 0 {
            return None;
        }
        let start = self.due.max(now.checked_sub(CREDIT).unwrap_or(now));
        self.due = start + Duration::from_secs_f64(bytes as f64 / self.rate as f64);
        (start > now).then_some(start)
    }
}

#[cfg(test)]
#[path = "rebuild_tests.rs"]
mod tests;
