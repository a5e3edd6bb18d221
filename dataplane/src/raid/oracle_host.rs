//! A host of a mirror whose every read is judged.

use bytes::{Bytes, BytesMut};
use rand::rngs::SmallRng;
use rand::{Rng, RngExt};
use tokio::task::yield_now;

use super::oracle::{BLOCK, Shared};
use super::oracle_model::{ANYTHING, Ended, Tag};
use crate::bdev::{IoError, Registry};

fn fill(tag: Tag, blocks: u64) -> Bytes {
    Bytes::from(tag.to_le_bytes().repeat(blocks as usize * BLOCK as usize / 8))
}

/// The tags of blocks; a block of something else has a tag that nobody wrote.
pub(super) fn tags(data: &[u8]) -> Vec<Tag> {
    let tag = |words: &[u8]| u64::from_le_bytes(words.try_into().unwrap_or_default());
    let block = |block: &[u8]| {
        let words = || block.chunks_exact(8).map(tag);
        let first = tag(&block[..8]);
        let mixed = || words().fold(1, |hash: u64, word| (hash ^ word).wrapping_mul(0x0100_0000_01b3));
        if words().all(|t| t == first) { first } else { mixed() & !1 }
    };
    data.chunks_exact(BLOCK as usize).map(block).collect()
}

/// One host: reads and writes, also over each other, and now and then does not wait for the end.
pub(super) async fn host(
    registry: Registry,
    model: Shared,
    mut rng: SmallRng,
    operations: usize,
) -> Result<(), String> {
    let Ok((d, _events)) = registry.open("r", true) else { return Ok(()) };
    for _ in 0..operations {
        let len = rng.random_range(1..9);
        let lba = rng.random_range(0..=d.num_blocks() - len);
        let range = lba as usize..(lba + len) as usize;
        let result = match rng.random_range(0..100) {
            0..40 => {
                let reading = model.borrow().begin_read(range.clone());
                match d.read(lba, BytesMut::zeroed((len * u64::from(BLOCK)) as usize)).await {
                    Ok(got) => {
                        model.borrow_mut().end_read(range.start, &reading, &tags(&got)).map(|()| Ok(()))?
                    }
                    Err(e) => Err(e),
                }
            }
            40..85 => {
                let tag = (rng.next_u64() >> 1) | 1;
                let change = model.borrow_mut().begin(range.clone(), tag);
                let fua = rng.random_bool(0.2);
                let write = d.write(lba, fill(tag, len), fua);
                let patience = rng.random_bool(0.1).then(|| rng.random_range(0..6));
                let done = if fua { Ended::Durable } else { Ended::Acknowledged };
                finish(&model, (range, change), write, done, patience).await
            }
            85..95 => {
                let unmap = rng.random_bool(0.5);
                let change = model.borrow_mut().begin(range.clone(), if unmap { ANYTHING } else { 0 });
                if unmap {
                    finish(&model, (range, change), d.unmap(lba, len), Ended::Acknowledged, None).await
                } else {
                    let fua = rng.random_bool(0.3);
                    let done = if fua { Ended::Durable } else { Ended::Acknowledged };
                    finish(&model, (range, change), d.write_zeroes(lba, len, fua), done, None).await
                }
            }
            _ => {
                let flushing = model.borrow().begin_flush();
                let result = d.flush().await;
                if result.is_ok() {
                    model.borrow_mut().end_flush(&flushing);
                }
                result
            }
        };
        if result == Err(IoError::Removed) {
            return Ok(());
        }
    }
    Ok(())
}

/// Waits for the end of a change, or with `patience` only so many turns.
async fn finish(
    model: &Shared,
    (range, change): (std::ops::Range<usize>, u64),
    io: impl Future<Output = Result<(), IoError>>,
    done: Ended,
    patience: Option<u32>,
) -> Result<(), IoError> {
    let mut io = Box::pin(io);
    let mut turns = patience.unwrap_or(u32::MAX);
    loop {
        if let std::task::Poll::Ready(result) = futures::poll!(&mut io) {
            let ended = if result.is_ok() { done } else { Ended::Failed };
            model.borrow_mut().end(range, change, ended);
            return result;
        }
        if turns == 0 {
            model.borrow_mut().end(range, change, Ended::Unknown);
            return Ok(());
        }
        turns -= 1;
        yield_now().await;
    }
}
