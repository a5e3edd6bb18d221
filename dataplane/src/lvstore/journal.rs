//! Bytes of journal pages and the records in them (`docs/lvstore-format.md`). Pure.

use bytes::{Buf, BufMut};
use uuid::Uuid;

use super::codec::{
    DecodeError, FLAG_CLEAR_NONE, FLAG_CLEAR_ZEROES, FLAG_THIN, PAGE_LEN, check_seal, clear_flags, clear_of,
    get_name, get_parent, put_name, put_parent, seal, take,
};
use super::state::{LvolId, Record};

pub(super) const JOURNAL_MAGIC: [u8; 4] = *b"VLVJ";
/// Bytes of a journal page's header: magic, crc, uuid, generation, page number, length.
const JOURNAL_HEADER: usize = 4 + 4 + 16 + 8 + 4 + 2;
/// What a record of a creation may say.
const CREATE_FLAGS: u32 = FLAG_THIN | FLAG_CLEAR_ZEROES | FLAG_CLEAR_NONE;

fn put_new(out: &mut Vec<u8>, kind: u8, id: LvolId, uuid: Uuid, name: &str) {
    out.put_u8(kind);
    out.put_u64_le(id);
    out.put_slice(uuid.as_bytes());
    put_name(out, name);
}

fn get_new(b: &mut &[u8]) -> Result<(LvolId, Uuid, String), DecodeError> {
    Ok((b.try_get_u64_le()?, Uuid::from_bytes(take(b)?), get_name(b)?))
}

fn encode_record(out: &mut Vec<u8>, record: &Record) {
    match record {
        Record::Create { id, uuid, name, thin, clear, clusters } => {
            put_new(out, 1, *id, *uuid, name);
            out.put_u32_le(if *thin { FLAG_THIN } else { 0 } | clear_flags(*clear));
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
        Record::Snapshot { id, uuid, name, of } => {
            put_new(out, 10, *id, *uuid, name);
            out.put_u64_le(*of);
        }
        Record::Clone { id, uuid, name, clusters, parent } => {
            put_new(out, 11, *id, *uuid, name);
            out.put_u64_le(*clusters);
            put_parent(out, *parent);
        }
        Record::SetParent { id, parent } => {
            out.put_u8(12);
            out.put_u64_le(*id);
            put_parent(out, *parent);
        }
        Record::Inflated { id } => {
            out.put_u8(13);
            out.put_u64_le(*id);
        }
    }
}

fn decode_record(b: &mut &[u8]) -> Result<Record, DecodeError> {
    Ok(match b.try_get_u8()? {
        1 => {
            let (id, uuid, name) = get_new(b)?;
            let flags = b.try_get_u32_le()?;
            if flags & !CREATE_FLAGS != 0 {
                return Err(DecodeError::Malformed("an lvol with features that this version does not have"));
            }
            let (thin, clear) = (flags & FLAG_THIN != 0, clear_of(flags));
            Record::Create { id, uuid, name, thin, clear, clusters: b.try_get_u64_le()? }
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
        10 => {
            let (id, uuid, name) = get_new(b)?;
            Record::Snapshot { id, uuid, name, of: b.try_get_u64_le()? }
        }
        11 => {
            let (id, uuid, name) = get_new(b)?;
            Record::Clone { id, uuid, name, clusters: b.try_get_u64_le()?, parent: get_parent(b)? }
        }
        12 => Record::SetParent { id: b.try_get_u64_le()?, parent: get_parent(b)? },
        13 => Record::Inflated { id: b.try_get_u64_le()? },
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
