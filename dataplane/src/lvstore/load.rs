//! Reading and making an lvstore on a bdev: superblock, checkpoint, journal.

use bytes::{Bytes, BytesMut};
use uuid::Uuid;

use super::LvolError;
use super::codec::{self, DecodeError};
use super::journal;
use super::layout::{Layout, PAGE};
use super::state::State;
use crate::bdev::Descriptor;
use crate::page;

/// Pages of a journal that are read together.
const JOURNAL_READ: u32 = 64;

/// What a superblock says.
#[derive(Clone, Copy, Debug)]
pub(super) struct Super {
    pub(super) uuid: Uuid,
    pub(super) features: u64,
    pub(super) layout: Layout,
}

/// Zeroed pages, where direct I/O needs no copy of them, which a file bdev would keep for the next.
fn bytes_of(pages: u32) -> BytesMut {
    page::zeroed(pages as usize * PAGE as usize)
}

/// Reads the superblock; `None` if there is no lvstore.
///
/// # Errors
/// I/O errors, and [`LvolError::Format`] for an lvstore that this version can not open.
pub(super) async fn read_super(base: &Descriptor) -> Result<Option<Super>, LvolError> {
    let block_size = u64::from(base.block_size());
    if !PAGE.is_multiple_of(block_size) || base.num_blocks() < 2 * PAGE / block_size {
        return Ok(None);
    }
    let pages = base.read(0, bytes_of(2)).await?;
    let mut damage = None;
    let mut found: Option<Super> = None;
    for page in pages.chunks(PAGE as usize) {
        match codec::decode_super(page) {
            Ok((uuid, features, layout)) if u64::from(layout.block_size) == block_size => {
                // A feature holds when both copies have it.
                let both = found.map_or(features, |first| first.features & features);
                found = Some(Super { uuid, features: both, layout });
            }
            Ok(_) => damage = Some("made with another block size"),
            // A torn superblock is that of an lvstore whose creation was never acknowledged.
            Err(DecodeError::NotOurs | DecodeError::Checksum) => {}
            Err(DecodeError::Malformed(why)) => damage = Some(why),
        }
    }
    match (found, damage) {
        (Some(found), _) => Ok(Some(found)),
        (None, Some(why)) => Err(LvolError::Format(why)),
        (None, None) => Ok(None),
    }
}

/// Makes an empty lvstore on `base`. The superblock is written last: half of a creation is no lvstore.
///
/// # Errors
/// I/O errors.
pub(super) async fn format(
    base: &Descriptor,
    uuid: Uuid,
    layout: Layout,
    name: &str,
) -> Result<State, LvolError> {
    wipe(base).await?;
    let state = State::new(name.to_owned(), layout.data_clusters(base.num_blocks()));
    let checkpoint = page::copied(&codec::encode_checkpoint(uuid, 1, &state)).freeze();
    base.write(layout.page_lba(layout.checkpoint_page(1)), checkpoint, false).await?;
    base.flush().await?;
    let page = codec::encode_super(uuid, 0, &layout);
    base.write(0, Bytes::from([page.as_slice(), page.as_slice()].concat()), false).await?;
    base.flush().await?;
    Ok(state)
}

/// Makes `base` hold no lvstore.
///
/// # Errors
/// I/O errors.
pub(super) async fn wipe(base: &Descriptor) -> Result<(), LvolError> {
    base.write(0, bytes_of(2).freeze(), false).await?;
    base.flush().await?;
    Ok(())
}

async fn read_checkpoint(base: &Descriptor, uuid: Uuid, layout: &Layout) -> Result<(u64, State), LvolError> {
    let mut headers = Vec::new();
    for slot in [0, 1] {
        let page = layout.checkpoint_page(slot);
        let bytes = base.read(layout.page_lba(page), bytes_of(1)).await?;
        match codec::decode_checkpoint_header(&bytes, uuid) {
            Ok(header) if header.generation % 2 == slot => headers.push((header, page + 1)),
            Ok(_) => return Err(LvolError::Format("a checkpoint is in the wrong slot")),
            Err(_) => {}
        }
    }
    headers.sort_by_key(|(header, _)| std::cmp::Reverse(header.generation));
    for (header, page) in headers {
        let pages = header.body_len.div_ceil(PAGE);
        if pages >= u64::from(layout.checkpoint_pages) {
            continue;
        }
        let body = bytes_of(u32::try_from(pages).unwrap_or(u32::MAX));
        let body = base.read(layout.page_lba(page), body).await?;
        match codec::decode_checkpoint_body(&header, &body, layout.data_clusters(base.num_blocks())) {
            Ok(state) => {
                check_is_newest(base, uuid, layout, header.generation).await?;
                return Ok((header.generation, state));
            }
            // Half-written: the other one, with its journal, is current.
            Err(DecodeError::Checksum | DecodeError::NotOurs) => {}
            Err(DecodeError::Malformed(why)) => return Err(LvolError::Format(why)),
        }
    }
    Err(LvolError::Format("no checkpoint is intact"))
}

/// Refuses to go back in time: if the journal of the next generation was begun, its checkpoint had been written completely and
/// was damaged since.
async fn check_is_newest(
    base: &Descriptor,
    uuid: Uuid,
    layout: &Layout,
    generation: u64,
) -> Result<(), LvolError> {
    let next = generation + 1;
    let page = base.read(layout.page_lba(layout.journal_page(next)), bytes_of(1)).await?;
    match journal::decode_journal_page(&page, uuid, next, 0) {
        Err(DecodeError::NotOurs | DecodeError::Checksum) => Ok(()),
        Ok(_) | Err(DecodeError::Malformed(_)) => Err(LvolError::Format("the newest checkpoint is damaged")),
    }
}

/// Where a load left off.
pub(super) struct Loaded {
    pub(super) state: State,
    pub(super) generation: u64,
    /// Pages of the journal that were replayed.
    pub(super) pages: u32,
}

/// Reads what [`format()`] made and records changed since. Writes nothing.
///
/// # Errors
/// I/O errors, and [`LvolError::Format`] for damage.
pub(super) async fn read_state(base: &Descriptor, uuid: Uuid, layout: &Layout) -> Result<Loaded, LvolError> {
    if layout.cluster_lba(0) > base.num_blocks() {
        return Err(LvolError::Format(codec::TOO_SMALL));
    }
    let (generation, mut state) = read_checkpoint(base, uuid, layout).await?;
    let pages = replay(base, uuid, layout, generation, &mut state).await?;
    if state.clusters > layout.data_clusters(base.num_blocks()) {
        return Err(LvolError::Format(codec::TOO_SMALL));
    }
    Ok(Loaded { state, generation, pages })
}

async fn replay(
    base: &Descriptor,
    uuid: Uuid,
    layout: &Layout,
    generation: u64,
    state: &mut State,
) -> Result<u32, LvolError> {
    let first = layout.journal_page(generation);
    let mut done = 0;
    while done < layout.journal_pages {
        let pages = JOURNAL_READ.min(layout.journal_pages - done);
        let journal = base.read(layout.page_lba(first + u64::from(done)), bytes_of(pages)).await?;
        for page in journal.chunks(PAGE as usize) {
            match journal::decode_journal_page(page, uuid, generation, done) {
                Ok(records) => {
                    for record in &records {
                        state.apply(record).map_err(|e| LvolError::Format(e.0))?;
                    }
                }
                Err(DecodeError::NotOurs | DecodeError::Checksum) => return Ok(done),
                Err(DecodeError::Malformed(why)) => return Err(LvolError::Format(why)),
            }
            done += 1;
        }
    }
    Ok(done)
}
