//! Byte stream <-> PDUs (TCP 3.6.1): framing, digests, data alignment, limits.

use bytes::BytesMut;

use crate::digest::{DIGEST_LEN, Digests, digest};
use crate::field::{u8_at, u32_at};
pub use crate::limits::Limits;
use crate::limits::{MAX_ALIGNMENT, TERM_DATA_MAX};
pub use crate::outbox::Outbox;
use crate::pdu::{COMMON_HEADER_LEN, Fes, Kind, MAX_HEADER_LEN, Pdu, Termination, flag};

#[cfg(test)]
#[path = "codec_tests.rs"]
mod tests;

/// Which end of the connection decodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Receives ICResp, responses, data and R2Ts.
    Host,
    /// Receives ICReq, commands and data.
    Controller,
}

/// Header of a PDU that passed validation.
#[derive(Debug, Clone, Copy)]
struct Frame {
    kind: Kind,
    /// Where the data starts.
    data_at: usize,
    data_len: usize,
    data_digest: bool,
    total: usize,
}

/// Stream decoder of one direction of a connection.
#[derive(Debug)]
pub struct Decoder {
    role: Role,
    limits: Limits,
    established: bool,
    digests: Digests,
    buf: BytesMut,
    frame: Option<Frame>,
    /// Header of the PDU given out last: a termination request carries it.
    last: [u8; MAX_HEADER_LEN],
    last_len: usize,
}

impl Decoder {
    /// Decoder before connection initialisation: takes only the peer's IC PDU.
    #[must_use]
    pub fn new(role: Role, limits: Limits) -> Self {
        Self {
            role,
            limits,
            established: false,
            digests: Digests::default(),
            buf: BytesMut::new(),
            frame: None,
            last: [0; MAX_HEADER_LEN],
            last_len: 0,
        }
    }

    /// Changes the largest in-capsule data from the next PDU on.
    pub(crate) fn set_in_capsule(&mut self, bytes: u32) {
        self.limits.in_capsule_data = bytes;
    }

    /// Header of the PDU given out last, as it came, without its digest.
    #[must_use]
    pub fn last_header(&self) -> &[u8] {
        &self.last[..self.last_len]
    }

    /// From the next PDU on, the connection is initialised with these digests.
    pub fn establish(&mut self, digests: Digests) {
        self.established = true;
        self.digests = digests;
    }

    /// Where received bytes go; append only.
    pub fn buffer(&mut self) -> &mut BytesMut {
        &mut self.buf
    }

    /// How many more bytes complete the PDU that has begun, 0 if unknown: a hint for reserving.
    #[must_use]
    pub fn missing(&self) -> usize {
        self.frame.map_or(0, |f| f.total.saturating_sub(self.buf.len()))
    }

    /// The next complete PDU, `None` if bytes are missing.
    ///
    /// # Errors
    /// Why the connection has to be terminated. The decoder must not be used afterwards.
    pub fn decode(&mut self) -> Result<Option<Pdu>, Termination> {
        let frame = match self.frame {
            Some(f) => f,
            None => match self.decode_frame()? {
                Some(f) => *self.frame.insert(f),
                None => return Ok(None),
            },
        };
        if self.buf.len() < frame.total {
            return Ok(None);
        }
        self.frame = None;
        self.last_len = frame.kind.header_len();
        self.last[..self.last_len].copy_from_slice(&self.buf[..self.last_len]);
        Ok(Some(take_pdu(&mut self.buf, frame)))
    }

    fn decode_frame(&mut self) -> Result<Option<Frame>, Termination> {
        let b = &self.buf[..];
        if b.len() < COMMON_HEADER_LEN {
            return Ok(None);
        }
        let kind = self.check_type(b)?;
        let hlen = kind.header_len();
        if usize::from(u8_at(b, 2)) != hlen {
            return Err(invalid(b, 2));
        }
        let hdgst = kind.has_digests() && self.digests.header;
        if kind.has_digests() && (u8_at(b, 1) & flag::HDGST != 0) != hdgst {
            return Err(invalid(b, 1));
        }
        let head = hlen + usize::from(hdgst) * DIGEST_LEN;
        if b.len() < head {
            return Ok(None);
        }
        if hdgst && digest(&b[..hlen])[..] != b[hlen..head] {
            return Err(Termination::new(Fes::HeaderDigest, u32_at(b, hlen), &b[..hlen]));
        }
        self.check_lengths(kind, &b[..hlen], head).map(Some)
    }

    fn check_type(&self, b: &[u8]) -> Result<Kind, Termination> {
        let kind = Kind::from_byte(u8_at(b, 0)).ok_or_else(|| invalid(b, 0))?;
        let expected = match (self.role, self.established) {
            (Role::Host, false) => matches!(kind, Kind::IcResp | Kind::C2hTermReq),
            (Role::Host, true) => {
                matches!(kind, Kind::CapsuleResp | Kind::C2hData | Kind::R2t | Kind::C2hTermReq)
            }
            (Role::Controller, false) => matches!(kind, Kind::IcReq | Kind::H2cTermReq),
            (Role::Controller, true) => matches!(kind, Kind::CapsuleCmd | Kind::H2cData | Kind::H2cTermReq),
        };
        if expected { Ok(kind) } else { Err(Termination::new(Fes::Sequence, 0, &b[..COMMON_HEADER_LEN])) }
    }

    fn check_lengths(&self, kind: Kind, h: &[u8], head: usize) -> Result<Frame, Termination> {
        let plen = u32_at(h, 4) as usize;
        let none = Frame { kind, data_at: head, data_len: 0, data_digest: false, total: head };
        match kind {
            Kind::IcReq | Kind::IcResp | Kind::CapsuleResp | Kind::R2t if plen == head => Ok(none),
            Kind::H2cTermReq | Kind::C2hTermReq if (head..=head + TERM_DATA_MAX).contains(&plen) => {
                Ok(Frame { data_len: plen - head, total: plen, ..none })
            }
            Kind::CapsuleCmd if plen == head => Ok(none),
            Kind::CapsuleCmd | Kind::H2cData | Kind::C2hData => self.check_data(kind, h, none),
            _ => Err(invalid(h, 4)),
        }
    }

    fn check_data(&self, kind: Kind, h: &[u8], none: Frame) -> Result<Frame, Termination> {
        let (plen, data_at) = (u32_at(h, 4) as usize, usize::from(u8_at(h, 3)));
        let ddgst = u8_at(h, 1) & flag::DDGST != 0;
        let tail = usize::from(ddgst) * DIGEST_LEN;
        if ddgst != self.digests.data {
            return Err(invalid(h, 1));
        }
        let alignment = (usize::from(self.limits.alignment) + 1) * 4;
        if data_at < none.total || data_at % alignment != 0 {
            return Err(invalid(h, 3));
        }
        let data_len = plen.checked_sub(data_at + tail).ok_or_else(|| invalid(h, 4))?;
        if kind != Kind::CapsuleCmd && u32_at(h, 16) as usize != data_len {
            return Err(invalid(h, 4));
        }
        match kind {
            Kind::CapsuleCmd if data_len == 0 || data_len > self.limits.in_capsule_data as usize => {
                return Err(invalid(h, 4));
            }
            Kind::H2cData if data_len > self.limits.max_h2c_data as usize => {
                return Err(Termination::new(Fes::LimitExceeded, 0, h));
            }
            Kind::C2hData if data_len > self.limits.max_c2h_data as usize => {
                return Err(Termination::new(Fes::OutOfRange, 0, h));
            }
            _ => {}
        }
        Ok(Frame { data_at, data_len, data_digest: ddgst, total: plen, ..none })
    }
}

fn invalid(h: &[u8], field: u32) -> Termination {
    Termination::new(Fes::InvalidHeader, field, h)
}

fn take_pdu(buf: &mut BytesMut, f: Frame) -> Pdu {
    let mut all = buf.split_to(f.total);
    let header = all.split_to(f.data_at.min(all.len()));
    let data = all.split_to(f.data_len.min(all.len())).freeze();
    let digest_ok = !f.data_digest || digest(&data)[..] == all[..];
    Pdu::from_parts(f.kind, &header, data, digest_ok)
}

/// Checks the parameters of an IC PDU that are the same in both directions: version and alignment.
pub(crate) fn check_ic(pfv: u16, alignment: u8) -> Result<(), Termination> {
    if pfv != 0 {
        return Err(Termination::new(Fes::Unsupported, 8, &[]));
    }
    if alignment > MAX_ALIGNMENT {
        return Err(Termination::new(Fes::InvalidHeader, 10, &[]));
    }
    Ok(())
}

/// The Fatal Error Status of a termination request, as text.
#[must_use]
pub fn describe_termination(fes: u16) -> String {
    Fes::from_u16(fes).map_or_else(|| format!("unknown reason {fes}"), |f| f.to_string())
}
