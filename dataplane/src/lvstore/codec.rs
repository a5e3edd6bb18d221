//! Bytes of the superblock, of checkpoints and of journal pages (`docs/lvstore-format.md`). Pure.
//!
//! All integers are little-endian. Everything is covered by a CRC-32C and carries the lvstore's uuid, so that neither a torn
//! write nor what an earlier lvstore left on the disk is ever taken for metadata.

use std::collections::BTreeMap;

use bytes::{Buf, BufMut, TryGetError};
use uuid::Uuid;

use super::layout::{Layout, PAGE};
use super::state::{ClusterMap, Lvol, NAME_MAX, Record, State};

const PAGE_LEN: usize = PAGE as usize;
const SUPER_MAGIC: [u8; 8] = *b"VDALVSTR";
const CHECKPOINT_MAGIC: [u8; 8] = *b"VDALVCHK";
const JOURNAL_MAGIC: [u8; 4] = *b"VLVJ";
/// Version of the format. Compatible additions keep it.
const VERSION: u32 = 1;
/// Bits of features without which an lvstore must not be opened: none yet. Snapshots and clones will take the first.
const KNOWN_FEATURES: u64 = 0;

/// Bytes of a checkpoint's header (the rest of its page is zero).
pub(super) const CHECKPOINT_HEADER: usize = 8 + 4 + 16 + 8 + 8 + 4;
/// Bytes of a journal page's header: magic, crc, uuid, generation, page number, length.
const JOURNAL_HEADER: usize = 4 + 4 + 16 + 8 + 4 + 2;
/// Bytes of an lvol in a checkpoint without its name and its extents.
const LVOL_FIXED: usize = 8 + 16 + 1 + 4 + 8 + 1 + 4;
/// The most that an lvol takes without its extents.
pub(super) const LVOL_HEADER_MAX: usize = LVOL_FIXED + NAME_MAX;

const FLAG_THIN: u32 = 1;
const FLAG_READ_ONLY: u32 = 2;
/// Kind of parent; 1 (an lvol of the store) and 2 (an external bdev) are reserved for clones.
const PARENT_NONE: u8 = 0;

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

fn take<const N: usize>(b: &mut &[u8]) -> Result<[u8; N], DecodeError> {
    let mut out = [0; N];
    b.try_copy_to_slice(&mut out)?;
    Ok(out)
}

fn put_name(out: &mut Vec<u8>, name: &str) {
    debug_assert!(name.len() <= NAME_MAX, "names are checked when they enter the state");
    out.put_u8(u8::try_from(name.len()).unwrap_or(u8::MAX));
    out.put_slice(name.as_bytes());
}

fn get_name(b: &mut &[u8]) -> Result<String, DecodeError> {
    let len = usize::from(b.try_get_u8()?);
    if b.len() < len || len > NAME_MAX {
        return Err(DecodeError::Malformed("bad length of a name"));
    }
    let (name, rest) = b.split_at(len);
    *b = rest;
    String::from_utf8(name.to_vec()).map_err(|_| DecodeError::Malformed("a name is not UTF-8"))
}

/// The superblock's page.
pub(super) fn encode_super(uuid: Uuid, l: &Layout) -> Vec<u8> {
    let mut out = Vec::with_capacity(PAGE_LEN);
    out.put_slice(&SUPER_MAGIC);
    out.put_u32_le(0);
    out.put_u32_le(VERSION);
    out.put_u64_le(KNOWN_FEATURES);
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
fn seal(page: &mut [u8], at: usize) {
    let crc = crc32c::crc32c(&page[at + 4..]);
    page[at..at + 4].copy_from_slice(&crc.to_le_bytes());
}

fn check_seal(page: &[u8], at: usize) -> Result<(), DecodeError> {
    let stored = page.get(at..at + 4).ok_or(DecodeError::NotOurs)?;
    if stored == crc32c::crc32c(&page[at + 4..]).to_le_bytes() { Ok(()) } else { Err(DecodeError::Checksum) }
}

/// Reads a superblock's page.
pub(super) fn decode_super(page: &[u8]) -> Result<(Uuid, Layout), DecodeError> {
    if !page.starts_with(&SUPER_MAGIC) {
        return Err(DecodeError::NotOurs);
    }
    check_seal(page, 8)?;
    let mut b = &page[12..];
    if b.try_get_u32_le()? != VERSION {
        return Err(DecodeError::Malformed("unknown version"));
    }
    if b.try_get_u64_le()? & !KNOWN_FEATURES != 0 {
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
    if layout.block_size == 0 || layout.cluster_size < layout.block_size || layout.journal_pages == 0 {
        return Err(DecodeError::Malformed("impossible geometry"));
    }
    Ok((uuid, layout))
}

fn encode_lvol(out: &mut Vec<u8>, id: u64, lvol: &Lvol) {
    out.put_u64_le(id);
    out.put_slice(lvol.uuid.as_bytes());
    put_name(out, &lvol.name);
    let thin = if lvol.thin { FLAG_THIN } else { 0 };
    let read_only = if lvol.read_only { FLAG_READ_ONLY } else { 0 };
    out.put_u32_le(thin | read_only);
    out.put_u64_le(lvol.clusters);
    out.put_u8(PARENT_NONE);
    let count_at = out.len();
    out.put_u32_le(0);
    let mut extents = 0u32;
    let mut run: Option<(u64, u32, u32)> = None;
    for (index, cluster) in lvol.map.iter() {
        match &mut run {
            Some((i, c, n)) if *i + u64::from(*n) == index && *c + *n == cluster => *n += 1,
            _ => {
                extents += u32::from(put_extent(out, run));
                run = Some((index, cluster, 1));
            }
        }
    }
    extents += u32::from(put_extent(out, run));
    out[count_at..count_at + 4].copy_from_slice(&extents.to_le_bytes());
}

fn put_extent(out: &mut Vec<u8>, extent: Option<(u64, u32, u32)>) -> bool {
    let Some((index, cluster, count)) = extent else { return false };
    // Lvols have less than 2^32 clusters.
    out.put_u32_le(index as u32);
    out.put_u32_le(cluster);
    out.put_u32_le(count);
    true
}

fn decode_lvol(b: &mut &[u8]) -> Result<(u64, Lvol), DecodeError> {
    let id = b.try_get_u64_le()?;
    let uuid = Uuid::from_bytes(take(b)?);
    let name = get_name(b)?;
    let flags = b.try_get_u32_le()?;
    let clusters = b.try_get_u64_le()?;
    if flags & !(FLAG_THIN | FLAG_READ_ONLY) != 0 || b.try_get_u8()? != PARENT_NONE {
        return Err(DecodeError::Malformed("an lvol with features that this version does not have"));
    }
    let mut map = ClusterMap::default();
    for _ in 0..b.try_get_u32_le()? {
        let (index, cluster, count) = (b.try_get_u32_le()?, b.try_get_u32_le()?, b.try_get_u32_le()?);
        let fits = u64::from(index) + u64::from(count) <= clusters;
        if !fits || cluster.checked_add(count).is_none() {
            return Err(DecodeError::Malformed("an extent beyond the end of its lvol"));
        }
        for n in 0..count {
            if map.set(u64::from(index + n), Some(cluster + n)).is_some() {
                return Err(DecodeError::Malformed("extents of an lvol overlap"));
            }
        }
    }
    let lvol = Lvol {
        uuid,
        name,
        thin: flags & FLAG_THIN != 0,
        read_only: flags & FLAG_READ_ONLY != 0,
        clusters,
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

/// Reads the body of a checkpoint; `body` may be longer.
pub(super) fn decode_checkpoint_body(header: &CheckpointHeader, body: &[u8]) -> Result<State, DecodeError> {
    let len = usize::try_from(header.body_len).map_err(|_| DecodeError::Checksum)?;
    let mut b = body.get(..len).ok_or(DecodeError::Checksum)?;
    if crc32c::crc32c(b) != header.body_crc {
        return Err(DecodeError::Checksum);
    }
    let b = &mut b;
    let (name, clusters, next_id) = (get_name(b)?, b.try_get_u32_le()?, b.try_get_u64_le()?);
    let count = b.try_get_u32_le()?;
    let lvols = (0..count).map(|_| decode_lvol(b)).collect::<Result<BTreeMap<_, _>, _>>()?;
    Ok(State { name, clusters, next_id, lvols })
}

fn encode_record(out: &mut Vec<u8>, record: &Record) {
    match record {
        Record::Create { id, uuid, name, thin, clusters } => {
            out.put_u8(1);
            out.put_u64_le(*id);
            out.put_slice(uuid.as_bytes());
            put_name(out, name);
            out.put_u32_le(if *thin { FLAG_THIN } else { 0 });
            out.put_u64_le(*clusters);
        }
        Record::Delete { id } => {
            out.put_u8(2);
            out.put_u64_le(*id);
        }
        Record::Rename { id, name } => {
            out.put_u8(3);
            out.put_u64_le(*id);
            put_name(out, name);
        }
        Record::Resize { id, clusters } => {
            out.put_u8(4);
            out.put_u64_le(*id);
            out.put_u64_le(*clusters);
        }
        Record::SetReadOnly { id } => {
            out.put_u8(5);
            out.put_u64_le(*id);
        }
        Record::Map { id, index, cluster } => {
            out.put_u8(6);
            out.put_u64_le(*id);
            out.put_u64_le(*index);
            out.put_u32_le(*cluster);
        }
        Record::Unmap { id, start, count } => {
            out.put_u8(7);
            out.put_u64_le(*id);
            out.put_u64_le(*start);
            out.put_u64_le(*count);
        }
        Record::RenameStore { name } => {
            out.put_u8(8);
            put_name(out, name);
        }
        Record::Grow { clusters } => {
            out.put_u8(9);
            out.put_u32_le(*clusters);
        }
    }
}

fn decode_record(b: &mut &[u8]) -> Result<Record, DecodeError> {
    Ok(match b.try_get_u8()? {
        1 => {
            let id = b.try_get_u64_le()?;
            let uuid = Uuid::from_bytes(take(b)?);
            let name = get_name(b)?;
            let thin = b.try_get_u32_le()? & FLAG_THIN != 0;
            Record::Create { id, uuid, name, thin, clusters: b.try_get_u64_le()? }
        }
        2 => Record::Delete { id: b.try_get_u64_le()? },
        3 => Record::Rename { id: b.try_get_u64_le()?, name: get_name(b)? },
        4 => Record::Resize { id: b.try_get_u64_le()?, clusters: b.try_get_u64_le()? },
        5 => Record::SetReadOnly { id: b.try_get_u64_le()? },
        6 => {
            Record::Map { id: b.try_get_u64_le()?, index: b.try_get_u64_le()?, cluster: b.try_get_u32_le()? }
        }
        7 => {
            Record::Unmap { id: b.try_get_u64_le()?, start: b.try_get_u64_le()?, count: b.try_get_u64_le()? }
        }
        8 => Record::RenameStore { name: get_name(b)? },
        9 => Record::Grow { clusters: b.try_get_u32_le()? },
        _ => return Err(DecodeError::Malformed("a record of a kind that this version does not have")),
    })
}

/// Packs records into journal pages, the first of which is number `first` of its generation; a record never spans pages.
pub(super) fn encode_journal<'a>(
    uuid: Uuid,
    generation: u64,
    first: u32,
    records: impl IntoIterator<Item = &'a Record>,
) -> Vec<u8> {
    let mut out = Vec::new();
    let mut body: Vec<u8> = Vec::with_capacity(PAGE_LEN);
    let mut page_no = first;
    for record in records {
        let before = body.len();
        encode_record(&mut body, record);
        if JOURNAL_HEADER + body.len() > PAGE_LEN {
            let last = body.split_off(before);
            put_journal_page(&mut out, uuid, generation, page_no, &body);
            page_no += 1;
            body = last;
        }
    }
    put_journal_page(&mut out, uuid, generation, page_no, &body);
    out
}

fn put_journal_page(out: &mut Vec<u8>, uuid: Uuid, generation: u64, page_no: u32, body: &[u8]) {
    let start = out.len();
    out.put_slice(&JOURNAL_MAGIC);
    out.put_u32_le(0);
    out.put_slice(uuid.as_bytes());
    out.put_u64_le(generation);
    out.put_u32_le(page_no);
    out.put_u16_le(u16::try_from(body.len()).unwrap_or(0));
    out.put_slice(body);
    out.resize(start + PAGE_LEN, 0);
    seal(&mut out[start..], 4);
}

/// Reads a journal page, which must be number `page_no` of `generation` of the lvstore `uuid`.
///
/// # Errors
/// [`DecodeError::NotOurs`] and [`DecodeError::Checksum`] mark the end of the journal, [`DecodeError::Malformed`] damage.
pub(super) fn decode_journal_page(
    page: &[u8],
    uuid: Uuid,
    generation: u64,
    page_no: u32,
) -> Result<Vec<Record>, DecodeError> {
    if page.len() != PAGE_LEN || !page.starts_with(&JOURNAL_MAGIC) {
        return Err(DecodeError::NotOurs);
    }
    check_seal(page, 4)?;
    let mut b = &page[8..];
    let ours = Uuid::from_bytes(take(&mut b)?) == uuid
        && b.try_get_u64_le()? == generation
        && b.try_get_u32_le()? == page_no;
    if !ours {
        return Err(DecodeError::NotOurs);
    }
    let len = usize::from(b.try_get_u16_le()?);
    let mut body = b.get(..len).ok_or(DecodeError::Malformed("bad length of a journal page"))?;
    let mut records = Vec::new();
    while !body.is_empty() {
        records.push(decode_record(&mut body)?);
    }
    Ok(records)
}

#[cfg(test)]
#[path = "codec_tests.rs"]
mod tests;
