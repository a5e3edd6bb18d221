//! PDUs of NVMe/TCP (TCP 3.6). Payload is `Bytes`, apart from the header, and is never copied.

use bytes::Bytes;

use crate::cmd::{CQE_LEN, Cqe, SQE_LEN, Sqe};
use crate::digest::Digests;
use crate::field::{array_at, put, u8_at, u16_at, u32_at};
use crate::limits::TERM_DATA_MAX;

/// Length of the common header, bytes.
pub const COMMON_HEADER_LEN: usize = 8;
/// Length of ICReq and ICResp, bytes.
pub const IC_LEN: usize = 128;
/// Longest PDU header, bytes.
pub const MAX_HEADER_LEN: usize = IC_LEN;
/// Length of the header of a termination request, bytes.
pub const TERM_HEADER_LEN: usize = 24;

/// Header flags.
pub mod flag {
    /// A header digest follows the header.
    pub const HDGST: u8 = 1 << 0;
    /// A data digest follows the data.
    pub const DDGST: u8 = 1 << 1;
    /// Last data PDU of a transfer.
    pub const LAST: u8 = 1 << 2;
    /// The command succeeded, no completion follows.
    pub const SUCCESS: u8 = 1 << 3;
}

/// PDU types.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// Initialize Connection Request.
    IcReq = 0x00,
    /// Initialize Connection Response.
    IcResp = 0x01,
    /// Host to Controller Terminate Connection Request.
    H2cTermReq = 0x02,
    /// Controller to Host Terminate Connection Request.
    C2hTermReq = 0x03,
    /// Command Capsule.
    CapsuleCmd = 0x04,
    /// Response Capsule.
    CapsuleResp = 0x05,
    /// Host to Controller Data.
    H2cData = 0x06,
    /// Controller to Host Data.
    C2hData = 0x07,
    /// Ready to Transfer.
    R2t = 0x09,
}

impl Kind {
    /// From the type byte.
    #[must_use]
    pub fn from_byte(b: u8) -> Option<Self> {
        Some(match b {
            0x00 => Self::IcReq,
            0x01 => Self::IcResp,
            0x02 => Self::H2cTermReq,
            0x03 => Self::C2hTermReq,
            0x04 => Self::CapsuleCmd,
            0x05 => Self::CapsuleResp,
            0x06 => Self::H2cData,
            0x07 => Self::C2hData,
            0x09 => Self::R2t,
            _ => return None,
        })
    }

    /// HLEN of the type, bytes.
    #[must_use]
    pub fn header_len(self) -> usize {
        match self {
            Self::IcReq | Self::IcResp => IC_LEN,
            Self::CapsuleCmd => COMMON_HEADER_LEN + SQE_LEN,
            Self::CapsuleResp => COMMON_HEADER_LEN + CQE_LEN,
            Self::H2cTermReq | Self::C2hTermReq | Self::H2cData | Self::C2hData | Self::R2t => 24,
        }
    }

    /// Whether digests apply to the type.
    #[must_use]
    pub fn has_digests(self) -> bool {
        !matches!(self, Self::IcReq | Self::IcResp | Self::H2cTermReq | Self::C2hTermReq)
    }
}

/// Fatal Error Status of a termination request (TCP 3.6.2.4, 3.6.2.5).
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[repr(u16)]
pub enum Fes {
    /// A header field has a value that is not allowed; FEI is its offset.
    #[error("invalid PDU header field")]
    InvalidHeader = 1,
    /// The PDU is not expected in this state.
    #[error("PDU sequence error")]
    Sequence = 2,
    /// The header digest does not match; FEI is the digest received.
    #[error("header digest error")]
    HeaderDigest = 3,
    /// Data outside of the command's buffer.
    #[error("data transfer out of range")]
    OutOfRange = 4,
    /// Host: more R2Ts than MAXR2T; controller: more data than MAXH2CDATA.
    #[error("limit exceeded")]
    LimitExceeded = 5,
    /// A parameter is not supported; FEI is its offset.
    #[error("unsupported parameter")]
    Unsupported = 6,
}

impl Fes {
    /// From the wire; unknown values are `None`.
    #[must_use]
    pub fn from_u16(v: u16) -> Option<Self> {
        Some(match v {
            1 => Self::InvalidHeader,
            2 => Self::Sequence,
            3 => Self::HeaderDigest,
            4 => Self::OutOfRange,
            5 => Self::LimitExceeded,
            6 => Self::Unsupported,
            _ => return None,
        })
    }
}

/// Why this side ends the connection; becomes a termination request.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{fes} (information {fei:#x})")]
pub struct Termination {
    /// Fatal Error Status.
    pub fes: Fes,
    /// Fatal Error Information.
    pub fei: u32,
    /// Header of the PDU in error; empty until the queue that received it fills it in.
    pub header: Bytes,
}

impl Termination {
    /// Termination because of `header`.
    #[must_use]
    pub fn new(fes: Fes, fei: u32, header: &[u8]) -> Self {
        Self { fes, fei, header: Bytes::copy_from_slice(&header[..header.len().min(TERM_DATA_MAX)]) }
    }

    /// The same because of `header`, if it does not say so yet.
    #[must_use]
    pub(crate) fn because_of(self, header: &[u8]) -> Self {
        if self.header.is_empty() { Self::new(self.fes, self.fei, header) } else { self }
    }

    /// The request to send.
    #[must_use]
    pub fn request(&self) -> TermReq {
        TermReq { fes: self.fes as u16, fei: self.fei, header: self.header.clone() }
    }
}

/// ICReq (TCP 3.6.2.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IcReq {
    /// PDU format version: 0.
    pub pfv: u16,
    /// Host PDU data alignment, dwords, zero based, 0-31.
    pub hpda: u8,
    /// Digests the host wants.
    pub digests: Digests,
    /// Outstanding R2Ts per command the host takes, zero based.
    pub maxr2t: u32,
}

/// ICResp (TCP 3.6.2.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IcResp {
    /// PDU format version: 0.
    pub pfv: u16,
    /// Controller PDU data alignment, dwords, zero based, 0-31.
    pub cpda: u8,
    /// Digests in use.
    pub digests: Digests,
    /// Largest data of one H2CData PDU, bytes, at least 4096.
    pub maxh2cdata: u32,
}

/// H2CTermReq and C2HTermReq.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TermReq {
    /// Fatal Error Status, see [`Fes`].
    pub fes: u16,
    /// Fatal Error Information.
    pub fei: u32,
    /// Header of the PDU in error.
    pub header: Bytes,
}

/// Command Capsule (TCP 3.6.2.6).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CapsuleCmd {
    /// The command.
    pub sqe: Sqe,
    /// In-capsule data.
    pub data: Bytes,
    /// Whether the data digest, if there is one, matches.
    pub digest_ok: bool,
}

/// H2CData (TCP 3.6.2.8).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct H2cData {
    /// Command identifier.
    pub cccid: u16,
    /// Transfer tag of the R2T.
    pub ttag: u16,
    /// Offset in the command's data, bytes.
    pub offset: u32,
    /// Data.
    pub data: Bytes,
    /// Last PDU of this R2T.
    pub last: bool,
    /// Whether the data digest, if there is one, matches.
    pub digest_ok: bool,
}

/// C2HData (TCP 3.6.2.9).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct C2hData {
    /// Command identifier.
    pub cccid: u16,
    /// Offset in the command's data, bytes.
    pub offset: u32,
    /// Data.
    pub data: Bytes,
    /// Last PDU of the command's data.
    pub last: bool,
    /// The command succeeded and no response follows; only with `last`.
    pub success: bool,
    /// Whether the data digest, if there is one, matches.
    pub digest_ok: bool,
}

/// R2T (TCP 3.6.2.10).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct R2t {
    /// Command identifier.
    pub cccid: u16,
    /// Transfer tag, chosen by the controller.
    pub ttag: u16,
    /// Offset in the command's data, bytes.
    pub offset: u32,
    /// Bytes requested.
    pub length: u32,
}

/// A PDU.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Pdu {
    /// Initialize Connection Request.
    IcReq(IcReq),
    /// Initialize Connection Response.
    IcResp(IcResp),
    /// Host to Controller Terminate Connection Request.
    H2cTermReq(TermReq),
    /// Controller to Host Terminate Connection Request.
    C2hTermReq(TermReq),
    /// Command Capsule.
    CapsuleCmd(CapsuleCmd),
    /// Response Capsule.
    CapsuleResp(Cqe),
    /// Host to Controller Data.
    H2cData(H2cData),
    /// Controller to Host Data.
    C2hData(C2hData),
    /// Ready to Transfer.
    R2t(R2t),
}

impl Pdu {
    /// Type of the PDU.
    #[must_use]
    pub fn kind(&self) -> Kind {
        match self {
            Self::IcReq(_) => Kind::IcReq,
            Self::IcResp(_) => Kind::IcResp,
            Self::H2cTermReq(_) => Kind::H2cTermReq,
            Self::C2hTermReq(_) => Kind::C2hTermReq,
            Self::CapsuleCmd(_) => Kind::CapsuleCmd,
            Self::CapsuleResp(_) => Kind::CapsuleResp,
            Self::H2cData(_) => Kind::H2cData,
            Self::C2hData(_) => Kind::C2hData,
            Self::R2t(_) => Kind::R2t,
        }
    }

    /// The payload, empty if the PDU has none.
    #[must_use]
    pub fn payload(&self) -> &[u8] {
        match self {
            Self::CapsuleCmd(p) => &p.data,
            Self::H2cData(p) => &p.data,
            Self::C2hData(p) => &p.data,
            Self::H2cTermReq(p) | Self::C2hTermReq(p) => &p.header,
            Self::IcReq(_) | Self::IcResp(_) | Self::CapsuleResp(_) | Self::R2t(_) => &[],
        }
    }

    /// The payload, without another reference to it.
    pub(crate) fn into_payload(self) -> Bytes {
        match self {
            Self::CapsuleCmd(p) => p.data,
            Self::H2cData(p) => p.data,
            Self::C2hData(p) => p.data,
            Self::H2cTermReq(p) | Self::C2hTermReq(p) => p.header,
            Self::IcReq(_) | Self::IcResp(_) | Self::CapsuleResp(_) | Self::R2t(_) => Bytes::new(),
        }
    }

    /// LAST and SUCCESS flags.
    pub(crate) fn data_flags(&self) -> u8 {
        match self {
            Self::H2cData(p) => u8::from(p.last) * flag::LAST,
            Self::C2hData(p) => (u8::from(p.last) * flag::LAST) | (u8::from(p.success) * flag::SUCCESS),
            _ => 0,
        }
    }

    /// Writes the type-specific part of the header to `b`, which has the length of the header and is zeroed.
    pub(crate) fn put_header(&self, b: &mut [u8]) {
        match self {
            Self::IcReq(p) => {
                put(b, 8, &p.pfv.to_le_bytes());
                put(b, 10, &[p.hpda, p.digests.bits()]);
                put(b, 12, &p.maxr2t.to_le_bytes());
            }
            Self::IcResp(p) => {
                put(b, 8, &p.pfv.to_le_bytes());
                put(b, 10, &[p.cpda, p.digests.bits()]);
                put(b, 12, &p.maxh2cdata.to_le_bytes());
            }
            Self::H2cTermReq(p) | Self::C2hTermReq(p) => {
                put(b, 8, &p.fes.to_le_bytes());
                put(b, 10, &p.fei.to_le_bytes());
            }
            Self::CapsuleCmd(p) => put(b, 8, &p.sqe.encode()),
            Self::CapsuleResp(cqe) => put(b, 8, &cqe.encode()),
            Self::H2cData(p) => put_transfer(b, p.cccid, p.ttag, p.offset, p.data.len()),
            Self::C2hData(p) => put_transfer(b, p.cccid, 0, p.offset, p.data.len()),
            Self::R2t(p) => put_transfer(b, p.cccid, p.ttag, p.offset, p.length as usize),
        }
    }

    /// Builds a PDU from its header and payload. `h` has at least the header length of `kind`.
    pub(crate) fn from_parts(kind: Kind, h: &[u8], data: Bytes, digest_ok: bool) -> Self {
        let flags = u8_at(h, 1);
        let (last, success) = (flags & flag::LAST != 0, flags & flag::SUCCESS != 0);
        let (cccid, ttag, offset) = (u16_at(h, 8), u16_at(h, 10), u32_at(h, 12));
        let digests = Digests::from_bits(u8_at(h, 11));
        match kind {
            Kind::IcReq => {
                Self::IcReq(IcReq { pfv: u16_at(h, 8), hpda: u8_at(h, 10), digests, maxr2t: offset })
            }
            Kind::IcResp => {
                Self::IcResp(IcResp { pfv: u16_at(h, 8), cpda: u8_at(h, 10), digests, maxh2cdata: offset })
            }
            Kind::H2cTermReq => Self::H2cTermReq(TermReq { fes: cccid, fei: u32_at(h, 10), header: data }),
            Kind::C2hTermReq => Self::C2hTermReq(TermReq { fes: cccid, fei: u32_at(h, 10), header: data }),
            Kind::CapsuleCmd => {
                Self::CapsuleCmd(CapsuleCmd { sqe: Sqe::decode(&array_at(h, 8)), data, digest_ok })
            }
            Kind::CapsuleResp => Self::CapsuleResp(Cqe::decode(&array_at(h, 8))),
            Kind::H2cData => Self::H2cData(H2cData { cccid, ttag, offset, data, last, digest_ok }),
            Kind::C2hData => Self::C2hData(C2hData { cccid, offset, data, last, success, digest_ok }),
            Kind::R2t => Self::R2t(R2t { cccid, ttag, offset, length: u32_at(h, 16) }),
        }
    }
}

fn put_transfer(b: &mut [u8], cccid: u16, ttag: u16, offset: u32, length: usize) {
    put(b, 8, &cccid.to_le_bytes());
    put(b, 10, &ttag.to_le_bytes());
    put(b, 12, &offset.to_le_bytes());
    put(b, 16, &u32::try_from(length).unwrap_or(u32::MAX).to_le_bytes());
}
