//! What is to be sent on a connection: PDUs as bytes, payloads never copied.

use std::collections::VecDeque;
use std::io::IoSlice;

use bytes::{Buf, BufMut, Bytes};

use crate::digest::{DIGEST_LEN, Digests, digest};
use crate::limits::buffer_size;
use crate::pdu::{Kind, Pdu, flag};

#[cfg(test)]
#[path = "outbox_tests.rs"]
mod tests;

/// Payloads up to this many bytes are copied next to their header: one longer `iovec` is cheaper than two.
const INLINE_PAYLOAD: usize = 512;
/// Headers already sent are dropped from the front of their buffer when they are this many bytes.
const COMPACT: usize = 16 << 10;

#[derive(Debug)]
enum Chunk {
    /// So many bytes of `heads`.
    Heads(usize),
    Payload(Bytes),
}

impl Chunk {
    fn len(&self) -> usize {
        match self {
            Self::Heads(n) => *n,
            Self::Payload(b) => b.len(),
        }
    }
}

/// What is to be sent: headers gathered in one buffer, large payloads as they are.
#[derive(Debug, Default)]
pub struct Outbox {
    chunks: VecDeque<Chunk>,
    /// Bytes of the first chunk that have been sent.
    sent: usize,
    /// Headers, in order; those of chunks that have been sent are the first `heads_done` bytes.
    heads: Vec<u8>,
    heads_done: usize,
    queued: usize,
    digests: Digests,
    alignment: usize,
    /// Payloads that have been sent, for whoever uses their memory again.
    spent: Option<Vec<Bytes>>,
    /// Bytes sent ever.
    sent_ever: u64,
    /// Memory of the payloads of C2HData PDUs that were sent since [`Outbox::take_freed`], bytes.
    freed: usize,
}

impl Outbox {
    /// Empty, no digests, no padding.
    #[must_use]
    pub fn new() -> Self {
        Self { alignment: 4, ..Self::default() }
    }

    /// From the next PDU on, use these digests and the peer's data alignment (dwords, zero based).
    pub fn establish(&mut self, digests: Digests, alignment: u8) {
        self.digests = digests;
        self.alignment = (usize::from(alignment) + 1) * 4;
    }

    /// From now on payloads that have been sent are kept for [`Outbox::take_spent`], which must be called then.
    pub fn keep_spent(&mut self) {
        self.spent.get_or_insert_default();
    }

    /// A payload that has been sent, whole.
    pub fn take_spent(&mut self) -> Option<Bytes> {
        self.spent.as_mut()?.pop()
    }

    /// Memory of the payloads that were sent since this was last called, as [`buffer_size`] counts it, bytes.
    pub(crate) fn take_freed(&mut self) -> usize {
        std::mem::take(&mut self.freed)
    }

    /// Position in the stream: bytes sent, ever.
    pub(crate) fn sent_ever(&self) -> u64 {
        self.sent_ever
    }

    /// Position in the stream of the end of what is queued.
    pub(crate) fn end(&self) -> u64 {
        self.sent_ever + self.queued as u64
    }

    /// Forgets what is queued and will not be sent any more: the connection is gone.
    pub fn clear(&mut self) {
        self.advance(self.queued);
    }

    /// Queues a PDU. Its `digest_ok` is ignored: digests are computed.
    pub fn push(&mut self, pdu: Pdu) {
        let (kind, payload) = (pdu.kind(), pdu.payload());
        let hlen = kind.header_len();
        let digests = if kind.has_digests() { self.digests } else { Digests::default() };
        let head = hlen + usize::from(digests.header) * DIGEST_LEN;
        let pdo = match kind {
            _ if payload.is_empty() && kind == Kind::CapsuleCmd => 0,
            Kind::CapsuleCmd | Kind::H2cData | Kind::C2hData => head.next_multiple_of(self.alignment.max(4)),
            _ => 0,
        };
        let data_at = head.max(pdo);
        let ddgst = digests.data && pdo > 0;
        let plen = data_at + payload.len() + usize::from(ddgst) * DIGEST_LEN;
        let start = self.heads.len();
        self.heads.put_bytes(0, data_at);
        let h = &mut self.heads[start..start + hlen];
        h[0] = kind as u8;
        h[1] = pdu.data_flags() | (u8::from(digests.header) * flag::HDGST) | (u8::from(ddgst) * flag::DDGST);
        h[2] = hlen as u8;
        h[3] = pdo as u8;
        h[4..8].copy_from_slice(&(plen as u32).to_le_bytes());
        pdu.put_header(h);
        if digests.header {
            let d = digest(&self.heads[start..start + hlen]);
            self.heads[start + hlen..head + start].copy_from_slice(&d);
        }
        let trailer = ddgst.then(|| digest(payload));
        self.grow_heads(data_at);
        self.push_payload(pdu.into_payload(), kind);
        if let Some(d) = trailer {
            self.heads.put_slice(&d);
            self.grow_heads(d.len());
        }
        self.queued += plen;
    }

    /// The last `n` bytes of `heads` are to be sent after everything that is queued.
    fn grow_heads(&mut self, n: usize) {
        match self.chunks.back_mut() {
            Some(Chunk::Heads(len)) => *len += n,
            _ => self.chunks.push_back(Chunk::Heads(n)),
        }
    }

    fn push_payload(&mut self, payload: Bytes, kind: Kind) {
        if payload.len() > INLINE_PAYLOAD {
            self.chunks.push_back(Chunk::Payload(payload));
            return;
        }
        if kind == Kind::C2hData {
            self.freed += buffer_size(payload.len());
        }
        self.heads.put_slice(&payload);
        self.grow_heads(payload.len());
        self.keep(payload);
    }

    fn keep(&mut self, payload: Bytes) {
        if let Some(spent) = self.spent.as_mut().filter(|_| !payload.is_empty()) {
            spent.push(payload);
        }
    }

    /// Whether there is nothing to send.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.queued == 0
    }

    /// What is queued, in order, without what has been sent.
    fn slices(&self) -> impl Iterator<Item = &[u8]> {
        let mut heads = &self.heads[self.heads_done..];
        let mut sent = self.sent;
        self.chunks.iter().map(move |chunk| {
            let all = match chunk {
                Chunk::Payload(bytes) => &bytes[..],
                Chunk::Heads(n) => {
                    let (these, rest) = heads.split_at(*n);
                    heads = rest;
                    these
                }
            };
            // Only the first chunk may have been sent in part.
            &all[std::mem::take(&mut sent)..]
        })
    }

    fn forget_heads(&mut self, n: usize) {
        self.heads_done += n;
        if self.heads_done == self.heads.len() {
            self.heads.clear();
            self.heads_done = 0;
        } else if self.heads_done >= COMPACT {
            self.heads.drain(..self.heads_done);
            self.heads_done = 0;
        }
    }
}

/// Drains the bytes to send, vectored.
impl Buf for Outbox {
    fn remaining(&self) -> usize {
        self.queued
    }

    fn chunk(&self) -> &[u8] {
        self.slices().next().unwrap_or_default()
    }

    fn chunks_vectored<'a>(&'a self, dst: &mut [IoSlice<'a>]) -> usize {
        dst.iter_mut().zip(self.slices()).map(|(d, s)| *d = IoSlice::new(s)).count()
    }

    fn advance(&mut self, n: usize) {
        self.queued = self.queued.saturating_sub(n);
        self.sent_ever += n as u64;
        self.sent += n;
        while let Some(front) = self.chunks.front().map(Chunk::len).filter(|len| *len <= self.sent) {
            self.sent -= front;
            match self.chunks.pop_front() {
                Some(Chunk::Heads(len)) => self.forget_heads(len),
                Some(Chunk::Payload(payload)) => {
                    self.freed += buffer_size(payload.len());
                    self.keep(payload);
                }
                None => {}
            }
        }
    }
}
