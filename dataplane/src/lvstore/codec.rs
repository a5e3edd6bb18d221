//! Bytes of the superblock and of checkpoints (`docs/lvstore-format.md`). Pure.
//!
//! All integers are little-endian. Everything is covered by a CRC-32C and carries the lvstore's uuid, so that neither a torn
//! write nor what an earlier lvstore left on the disk is ever taken for metadata.

use std::collections::BTreeMap;

use bytes::{Buf, BufMut, TryGetError};
use uuid::Uuid;

use super::layout::{EXTENT_BYTES, Layout, PAGE};
use super::map::{ClusterMap, Entry, HOLE};
use super::state::{Lvol, LvolClear, MAX_CLUSTERS, NAME_MAX, Parent, State};

pub(super) const PAGE_LEN: usize = PAGE as usize;
const SUPER_MAGIC: [u8; 8] = *b"VDALVSTR";
const CHECKPOINT_MAGIC: [u8; 8] = *b"VDALVCHK";
/// Version of the format. Compatible additions keep it.
const VERSION: u32 = 1;
/// Bit of `features`: there are, or were, snapshots, clones, or lvols with a clear method of their own.
pub(super) const FEATURE_CLONES: u64 = 1;
/// Bits of features without which an lvstore must not be opened.
const KNOWN_FEATURES: u64 = FEATURE_CLONES;

/// Bytes of a checkpoint's header (the rest of its page is zero).
pub(super) const CHECKPOINT_HEADER: usize = 8 + 4 + 16 + 8 + 8 + 4;
/// Bytes of an lvol in a checkpoint without its name and its extents.
const LVOL_FIXED: usize = 8 + 16 + 1 + 4 + 8 + 1 + 4;
/// What the longest parent takes beside its kind: the text of a uuid.
const PARENT_MAX: usize = 1 + 36;
/// The most that an lvol takes without its extents.
pub(super) const LVOL_HEADER_MAX: usize = LVOL_FIXED + NAME_MAX + PARENT_MAX;

pub(super) const FLAG_THIN: u32 = 1;
const FLAG_READ_ONLY: u32 = 2;
const FLAG_SNAPSHOT: u32 = 4;
/// What is done with clusters that are given back; none of the two: unmap.
pub(super) const FLAG_CLEAR_ZEROES: u32 = 8;
pub(super) const FLAG_CLEAR_NONE: u32 = 16;
/// Of a thin lvol: all clusters are promised to it nevertheless.
const FLAG_RESERVED: u32 = 32;
const KNOWN_FLAGS: u32 =
    FLAG_THIN | FLAG_READ_ONLY | FLAG_SNAPSHOT | FLAG_CLEAR_ZEROES | FLAG_CLEAR_NONE | FLAG_RESERVED;

/// Kinds of parent.
const PARENT_NONE: u8 = 0;
const PARENT_LVOL: u8 = 1;
const PARENT_EXTERNAL: u8 = 2;

pub(super) const TOO_SMALL: &str = "the device is smaller than its lvstore";

/// Why bytes are not metadata.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum DecodeError {
    #[error("not an lvstore")]
    NotOurs,
    #[error("checksum mismatch")]
    Checksum,
    #[error("{0}")]
    Malformed(&'static str),
}

impl From<TryGetError> for DecodeError {
    fn from(_: TryGetError) -> Self {
        Self::Malformed("metadata ends too early")
    }
}

pub(super) fn take<const N: usize>(b: &mut &[u8]) -> Result<[u8; N], DecodeError> {
    let mut out = [0; N];
    b.try_copy_to_slice(&mut out)?;
    Ok(out)
}

pub(super) fn put_name(out: &mut Vec<u8>, name: &str) {
    debug_assert!(name.len() <= NAME_MAX, "names are checked when they enter the state");
    out.put_u8(u8::try_from(name.len()).unwrap_or(u8::MAX));
    out.put_slice(name.as_bytes());
}

pub(super) fn get_name(b: &mut &[u8]) -> Result<String, DecodeError> {
    let len = usize::from(b.try_get_u8()?);
    if b.len() < len || len > NAME_MAX {
        return Err(DecodeError::Malformed("bad length of a name"));
    }
    let (name, rest) = b.split_at(len);
    *b = rest;
    String::from_utf8(name.to_vec()).map_err(|_| DecodeError::Malformed("a name is not UTF-8"))
}

pub(super) fn put_parent(out: &mut Vec<u8>, parent: Parent) {
    match parent {
        Parent::None => out.put_u8(PARENT_NONE),
        Parent::Lvol(id) => {
            out.put_u8(PARENT_LVOL);
            out.put_u64_le(id);
        }
        Parent::External(uuid) => {
            out.put_u8(PARENT_EXTERNAL);
            put_name(out, &uuid.to_string());
        }
    }
}

pub(super) fn get_parent(b: &mut &[u8]) -> Result<Parent, DecodeError> {
    match b.try_get_u8()? {
        PARENT_NONE => Ok(Parent::None),
        PARENT_LVOL => Ok(Parent::Lvol(b.try_get_u64_le()?)),
        PARENT_EXTERNAL => {
            let uuid = Uuid::parse_str(&get_name(b)?);
            uuid.map(Parent::External)
                .map_err(|_| DecodeError::Malformed("an external parent without a uuid"))
        }
        _ => Err(DecodeError::Malformed("a kind of parent that this version does not have")),
    }
}

pub(super) fn clear_flags(clear: LvolClear) -> u32 {
    match clear {
        LvolClear::Unmap => 0,
        LvolClear::WriteZeroes => FLAG_CLEAR_ZEROES,
        LvolClear::None => FLAG_CLEAR_NONE,
    }
}

pub(super) fn clear_of(flags: u32) -> LvolClear {
    match (flags & FLAG_CLEAR_ZEROES != 0, flags & FLAG_CLEAR_NONE != 0) {
        (true, _) => LvolClear::WriteZeroes,
        (false, true) => LvolClear::None,
        (false, false) => LvolClear::Unmap,
    }
}

/// The superblock's page.
pub(super) fn encode_super(uuid: Uuid, features: u64, l: &Layout) -> Vec<u8> {
    let mut out = Vec::with_capacity(PAGE_LEN);
    out.put_slice(&SUPER_MAGIC);
    out.put_u32_le(0);
    out.put_u32_le(VERSION);
    out.put_u64_le(features);
    out.put_slice(uuid.as_bytes());
    for v in [
        l.block_size,
        l.cluster_size,
        l.md_clusters,
        l.max_clusters,
        l.checkpoint_pages,
        l.journal_pages,
        l.header_budget,
    ] {
        out.put_u32_le(v);
    }
    out.resize(PAGE_LEN, 0);
    seal(&mut out, 8);
    out
}

/// Puts the checksum of all that follows it at `at`.
pub(super) fn seal(page: &mut [u8], at: usize) {
    let crc = crc32c::crc32c(&page[at + 4..]);
    page[at..at + 4].copy_from_slice(&crc.to_le_bytes());
}

pub(super) fn check_seal(page: &[u8], at: usize) -> Result<(), DecodeError> {
    let stored = page.get(at..at + 4).ok_or(DecodeError::NotOurs)?;
    if stored == crc32c::crc32c(&page[at + 4..]).to_le_bytes() { Ok(()) } else { Err(DecodeError::Checksum) }
}

/// Reads a superblock's page.
pub(super) fn decode_super(page: &[u8]) -> Result<(Uuid, u64, Layout), DecodeError> {
    if !page.starts_with(&SUPER_MAGIC) {
        return Err(DecodeError::NotOurs);
    }
    check_seal(page, 8)?;
    let mut b = &page[12..];
    if b.try_get_u32_le()? != VERSION {
        return Err(DecodeError::Malformed("unknown version"));
    }
    let features = b.try_get_u64_le()?;
    if features & !KNOWN_FEATURES != 0 {
        return Err(DecodeError::Malformed("made with features that this version does not have"));
    }
    let uuid = Uuid::from_bytes(take(&mut b)?);
    let mut next = || b.try_get_u32_le();
    let layout = Layout {
        block_size: next()?,
        cluster_size: next()?,
        md_clusters: next()?,
        max_clusters: next()?,
        checkpoint_pages: next()?,
        journal_pages: next()?,
        header_budget: next()?,
    };
    if !layout.is_possible() {
        return Err(DecodeError::Malformed("impossible geometry"));
    }
    Ok((uuid, features, layout))
}

fn encode_lvol(out: &mut Vec<u8>, id: u64, lvol: &Lvol) {
    out.put_u64_le(id);
    out.put_slice(lvol.uuid.as_bytes());
    put_name(out, &lvol.name);
    let thin = if lvol.thin { FLAG_THIN } else { 0 };
    let read_only = if lvol.read_only { FLAG_READ_ONLY } else { 0 };
    let snapshot = if lvol.snapshot { FLAG_SNAPSHOT } else { 0 };
    let reserved = if lvol.thin && lvol.reserved { FLAG_RESERVED } else { 0 };
    out.put_u32_le(thin | read_only | snapshot | reserved | clear_flags(lvol.clear));
    out.put_u64_le(lvol.clusters);
    put_parent(out, lvol.parent);
    let count_at = out.len();
    out.put_u32_le(0);
    let mut extents = 0u32;
    let mut run: Option<(u64, u32, u32)> = None;
    for (index, cluster) in lvol.map.iter_raw() {
        match &mut run {
            Some((i, c, n)) if *i + u64::from(*n) == index && nth(*c, *n) == Some(cluster) => *n += 1,
            _ => {
                extents += u32::from(put_extent(out, run));
                run = Some((index, cluster, 1));
            }
        }
    }
    extents += u32::from(put_extent(out, run));
    out[count_at..count_at + 4].copy_from_slice(&extents.to_le_bytes());
}

/// The entry `n` further on in an extent that begins with `first`. Holes are all alike.
fn nth(first: u32, n: u32) -> Option<u32> {
    if first == HOLE { Some(HOLE) } else { first.checked_add(n).filter(|c| *c < HOLE) }
}

fn put_extent(out: &mut Vec<u8>, extent: Option<(u64, u32, u32)>) -> bool {
    let Some((index, cluster, count)) = extent else { return false };
    // Lvols have less than 2^32 clusters.
    out.put_u32_le(index as u32);
    out.put_u32_le(cluster);
    out.put_u32_le(count);
    true
}

/// How many things of at least `size` bytes follow: no more than there are bytes for.
fn get_count(b: &mut &[u8], size: usize) -> Result<u32, DecodeError> {
    let count = b.try_get_u32_le()?;
    if u64::from(count) * size as u64 > b.len() as u64 {
        return Err(DecodeError::Malformed("more is announced than there is"));
    }
    Ok(count)
}

/// Reads an extent of an lvol of `clusters` clusters into its map. `left` is how many clusters of the lvstore nobody has claimed yet.
fn decode_extent(
    b: &mut &[u8],
    map: &mut ClusterMap,
    clusters: u64,
    left: &mut u32,
) -> Result<(), DecodeError> {
    let (index, cluster, count) = (u64::from(b.try_get_u32_le()?), b.try_get_u32_le()?, b.try_get_u32_le()?);
    let end = index + u64::from(count);
    if end > clusters {
        return Err(DecodeError::Malformed("an extent beyond the end of its lvol"));
    }
    if map.any(index, end, |entry| entry != Entry::Inherited) {
        return Err(DecodeError::Malformed("extents of an lvol overlap"));
    }
    if cluster == HOLE {
        map.punch(index, end);
        return Ok(());
    }
    if cluster.checked_add(count).is_none_or(|end| end > HOLE) {
        return Err(DecodeError::Malformed("an extent beyond the last cluster"));
    }
    // Before anything is stored: a number must not cost more than the bytes of what it counts.
    *left =
        left.checked_sub(count).ok_or(DecodeError::Malformed("more clusters are mapped than there are"))?;
    for (at, cluster) in (index..end).zip(cluster..) {
        map.set(at, Entry::Mapped(cluster));
    }
    Ok(())
}

fn decode_lvol(b: &mut &[u8], left: &mut u32) -> Result<(u64, Lvol), DecodeError> {
    let id = b.try_get_u64_le()?;
    let uuid = Uuid::from_bytes(take(b)?);
    let name = get_name(b)?;
    let flags = b.try_get_u32_le()?;
    let clusters = b.try_get_u64_le()?;
    if flags & !KNOWN_FLAGS != 0 {
        return Err(DecodeError::Malformed("an lvol with features that this version does not have"));
    }
    if clusters > MAX_CLUSTERS {
        return Err(DecodeError::Malformed("an lvol is too large"));
    }
    let parent = get_parent(b)?;
    let mut map = ClusterMap::default();
    for _ in 0..get_count(b, EXTENT_BYTES as usize)? {
        decode_extent(b, &mut map, clusters, left)?;
    }
    let lvol = Lvol {
        uuid,
        name,
        thin: flags & FLAG_THIN != 0,
        reserved: flags & (FLAG_THIN | FLAG_RESERVED) != FLAG_THIN,
        read_only: flags & FLAG_READ_ONLY != 0,
        snapshot: flags & FLAG_SNAPSHOT != 0,
        clear: clear_of(flags),
        clusters,
        parent,
        map,
    };
    Ok((id, lvol))
}

/// A checkpoint: header page and body, whole pages.
pub(super) fn encode_checkpoint(uuid: Uuid, generation: u64, state: &State) -> Vec<u8> {
    let mut out = vec![0; PAGE_LEN];
    put_name(&mut out, &state.name);
    out.put_u32_le(state.clusters);
    out.put_u64_le(state.next_id);
    out.put_u32_le(u32::try_from(state.lvols.len()).unwrap_or(u32::MAX));
    for (id, lvol) in &state.lvols {
        encode_lvol(&mut out, *id, lvol);
    }
    let body_len = (out.len() - PAGE_LEN) as u64;
    let body_crc = crc32c::crc32c(&out[PAGE_LEN..]);
    let mut header = Vec::with_capacity(CHECKPOINT_HEADER);
    header.put_slice(&CHECKPOINT_MAGIC);
    header.put_u32_le(0);
    header.put_slice(uuid.as_bytes());
    header.put_u64_le(generation);
    header.put_u64_le(body_len);
    header.put_u32_le(body_crc);
    seal(&mut header, 8);
    out[..CHECKPOINT_HEADER].copy_from_slice(&header);
    out.resize(out.len().next_multiple_of(PAGE_LEN), 0);
    out
}

/// What the header of a checkpoint says about its body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct CheckpointHeader {
    pub(super) generation: u64,
    pub(super) body_len: u64,
    body_crc: u32,
}

/// Reads the header of a checkpoint of the lvstore `uuid`.
pub(super) fn decode_checkpoint_header(page: &[u8], uuid: Uuid) -> Result<CheckpointHeader, DecodeError> {
    let header = page.get(..CHECKPOINT_HEADER).ok_or(DecodeError::NotOurs)?;
    if !header.starts_with(&CHECKPOINT_MAGIC) {
        return Err(DecodeError::NotOurs);
    }
    check_seal(header, 8)?;
    let mut b = &header[12..];
    if Uuid::from_bytes(take(&mut b)?) != uuid {
        return Err(DecodeError::NotOurs);
    }
    Ok(CheckpointHeader {
        generation: b.try_get_u64_le()?,
        body_len: b.try_get_u64_le()?,
        body_crc: b.try_get_u32_le()?,
    })
}

/// Reads the body of a checkpoint; `body` may be longer. The device has room for `max_clusters` data clusters.
pub(super) fn decode_checkpoint_body(
    header: &CheckpointHeader,
    body: &[u8],
    max_clusters: u32,
) -> Result<State, DecodeError> {
    let len = usize::try_from(header.body_len).map_err(|_| DecodeError::Checksum)?;
    let mut b = body.get(..len).ok_or(DecodeError::Checksum)?;
    if crc32c::crc32c(b) != header.body_crc {
        return Err(DecodeError::Checksum);
    }
    let b = &mut b;
    let (name, clusters, next_id) = (get_name(b)?, b.try_get_u32_le()?, b.try_get_u64_le()?);
    if clusters > max_clusters {
        return Err(DecodeError::Malformed(TOO_SMALL));
    }
    let mut lvols = BTreeMap::new();
    let mut left = clusters;
    for _ in 0..get_count(b, LVOL_FIXED)? {
        let (id, lvol) = decode_lvol(b, &mut left)?;
        if id >= next_id || lvols.insert(id, lvol).is_some() {
            return Err(DecodeError::Malformed("an lvol with a number that it can not have"));
        }
    }
    Ok(State { name, clusters, next_id, lvols })
}

#[cfg(test)]
#[path = "codec_tests.rs"]
mod tests;
