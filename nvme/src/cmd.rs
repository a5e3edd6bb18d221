//! Submission and completion queue entries, opcodes and SGL descriptors (Base 3.3.3, 4.1.2; NVM 3).

use crate::field::{array_at, put, u8_at, u16_at, u32_at, u64_at};
use crate::status::Status;

/// Length of a submission queue entry, bytes.
pub const SQE_LEN: usize = 64;
/// Length of a completion queue entry, bytes.
pub const CQE_LEN: usize = 16;
/// NSID that means "all namespaces".
pub const NSID_ALL: u32 = 0xffff_ffff;

/// Admin opcodes (Base figure "Opcodes for Admin Commands").
pub mod admin {
    /// Get Log Page.
    pub const GET_LOG_PAGE: u8 = 0x02;
    /// Identify.
    pub const IDENTIFY: u8 = 0x06;
    /// Abort.
    pub const ABORT: u8 = 0x08;
    /// Set Features.
    pub const SET_FEATURES: u8 = 0x09;
    /// Get Features.
    pub const GET_FEATURES: u8 = 0x0a;
    /// Asynchronous Event Request.
    pub const ASYNC_EVENT_REQUEST: u8 = 0x0c;
    /// Keep Alive.
    pub const KEEP_ALIVE: u8 = 0x18;
}

/// I/O opcodes of the NVM command set (NVM 3.2).
pub mod io {
    /// Flush.
    pub const FLUSH: u8 = 0x00;
    /// Write.
    pub const WRITE: u8 = 0x01;
    /// Read.
    pub const READ: u8 = 0x02;
    /// Compare.
    pub const COMPARE: u8 = 0x05;
    /// Write Zeroes.
    pub const WRITE_ZEROES: u8 = 0x08;
    /// Dataset Management.
    pub const DATASET_MANAGEMENT: u8 = 0x09;
    /// Reservation Register.
    pub const RESERVATION_REGISTER: u8 = 0x0d;
    /// Reservation Report.
    pub const RESERVATION_REPORT: u8 = 0x0e;
    /// Reservation Acquire.
    pub const RESERVATION_ACQUIRE: u8 = 0x11;
    /// Reservation Release.
    pub const RESERVATION_RELEASE: u8 = 0x15;
    /// Dword 12 bit 30: Force Unit Access.
    pub const FUA: u32 = 1 << 30;
    /// Dword 12 bit 25 of Write Zeroes: deallocate.
    pub const DEAC: u32 = 1 << 25;
    /// Dword 11 bit 2 of Dataset Management: deallocate.
    pub const DSM_DEALLOCATE: u32 = 1 << 2;
    /// Length of one range of Dataset Management, bytes.
    pub const DSM_RANGE_LEN: usize = 16;
}

/// Features (Base 5.27.1).
pub mod feature {
    /// Arbitration.
    pub const ARBITRATION: u8 = 0x01;
    /// Power Management.
    pub const POWER_MANAGEMENT: u8 = 0x02;
    /// Temperature Threshold.
    pub const TEMPERATURE_THRESHOLD: u8 = 0x04;
    /// Error Recovery.
    pub const ERROR_RECOVERY: u8 = 0x05;
    /// Volatile Write Cache.
    pub const VOLATILE_WRITE_CACHE: u8 = 0x06;
    /// Number of Queues.
    pub const NUMBER_OF_QUEUES: u8 = 0x07;
    /// Interrupt Coalescing.
    pub const INTERRUPT_COALESCING: u8 = 0x08;
    /// Interrupt Vector Configuration.
    pub const INTERRUPT_VECTOR: u8 = 0x09;
    /// Write Atomicity.
    pub const WRITE_ATOMICITY: u8 = 0x0a;
    /// Asynchronous Event Configuration.
    pub const ASYNC_EVENT_CONFIG: u8 = 0x0b;
    /// Keep Alive Timer.
    pub const KEEP_ALIVE_TIMER: u8 = 0x0f;
    /// Host Behaviour Support.
    pub const HOST_BEHAVIOR: u8 = 0x16;
    /// Host Identifier.
    pub const HOST_IDENTIFIER: u8 = 0x81;
    /// Reservation Notification Mask.
    pub const RESERVATION_MASK: u8 = 0x82;
    /// Reservation Persistence.
    pub const RESERVATION_PERSISTENCE: u8 = 0x83;
}

/// Which way a command moves data, from the two low bits of its opcode, or of FCTYPE for Fabrics (Base 3.3.3.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// No data.
    None,
    /// Host to controller.
    ToController,
    /// Controller to host.
    ToHost,
    /// Both: no command of NVMe/TCP uses it.
    Both,
}

/// FUSE: whether a command is part of a fused operation (Base 3.3.3.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fuse {
    /// It is not.
    None,
    /// It is the first command.
    First,
    /// It is the second command.
    Second,
    /// Not defined.
    Reserved,
}

/// A submission queue entry. Fields that mean nothing for a command keep their bits, so decode and encode are inverse.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Sqe {
    /// Opcode.
    pub opcode: u8,
    /// FUSE (bits 1:0) and PSDT (bits 7:6).
    pub flags: u8,
    /// Command identifier.
    pub cid: u16,
    /// Namespace; for Fabrics commands the low byte is FCTYPE.
    pub nsid: u32,
    /// Dwords 2 and 3.
    pub cdw2: [u32; 2],
    /// Metadata pointer.
    pub mptr: u64,
    /// Data pointer: one SGL descriptor.
    pub dptr: [u8; 16],
    /// Dwords 10 to 15.
    pub cdw10: [u32; 6],
}

/// Opcode of all Fabrics commands (Base 6).
pub const FABRICS_OPCODE: u8 = 0x7f;

impl Sqe {
    /// PSDT of a command whose data pointer is one SGL descriptor.
    pub const PSDT_SGL: u8 = 1;

    /// A command without data.
    #[must_use]
    pub fn new(opcode: u8, nsid: u32) -> Self {
        Self { opcode, nsid, flags: Self::PSDT_SGL << 6, ..Self::default() }
    }

    /// Decodes 64 bytes; every pattern is an entry.
    #[must_use]
    pub fn decode(b: &[u8; SQE_LEN]) -> Self {
        let dw = |i: usize| u32_at(b, i * 4);
        Self {
            opcode: u8_at(b, 0),
            flags: u8_at(b, 1),
            cid: u16_at(b, 2),
            nsid: dw(1),
            cdw2: [dw(2), dw(3)],
            mptr: u64_at(b, 16),
            dptr: array_at(b, 24),
            cdw10: [dw(10), dw(11), dw(12), dw(13), dw(14), dw(15)],
        }
    }

    /// Encodes to 64 bytes.
    #[must_use]
    pub fn encode(&self) -> [u8; SQE_LEN] {
        let mut b = [0; SQE_LEN];
        b[0] = self.opcode;
        b[1] = self.flags;
        put(&mut b, 2, &self.cid.to_le_bytes());
        put(&mut b, 4, &self.nsid.to_le_bytes());
        put(&mut b, 8, &self.cdw2[0].to_le_bytes());
        put(&mut b, 12, &self.cdw2[1].to_le_bytes());
        put(&mut b, 16, &self.mptr.to_le_bytes());
        put(&mut b, 24, &self.dptr);
        for (i, dw) in self.cdw10.iter().enumerate() {
            put(&mut b, 40 + i * 4, &dw.to_le_bytes());
        }
        b
    }

    /// Fabrics command type, meaningful if [`Sqe::is_fabrics`].
    #[must_use]
    pub fn fctype(&self) -> u8 {
        self.nsid.to_le_bytes()[0]
    }

    /// Whether this is a Fabrics command.
    #[must_use]
    pub fn is_fabrics(&self) -> bool {
        self.opcode == FABRICS_OPCODE
    }

    /// Direction of the data transfer.
    #[must_use]
    pub fn direction(&self) -> Direction {
        let code = if self.is_fabrics() { self.fctype() } else { self.opcode };
        match code & 3 {
            0 => Direction::None,
            1 => Direction::ToController,
            2 => Direction::ToHost,
            _ => Direction::Both,
        }
    }

    /// Starting LBA of Read, Write, Compare, Write Zeroes (dwords 10, 11).
    #[must_use]
    pub fn slba(&self) -> u64 {
        u64::from(self.cdw10[0]) | u64::from(self.cdw10[1]) << 32
    }

    /// Number of blocks, not zero based (dword 12 bits 15:0 plus one).
    #[must_use]
    pub fn blocks(&self) -> u32 {
        (self.cdw10[2] & 0xffff) + 1
    }

    /// Whether Force Unit Access is set.
    #[must_use]
    pub fn fua(&self) -> bool {
        self.cdw10[2] & io::FUA != 0
    }

    /// FUSE bits: which half of a fused operation it is.
    #[must_use]
    pub fn fuse(&self) -> Fuse {
        match self.flags & 3 {
            0 => Fuse::None,
            1 => Fuse::First,
            2 => Fuse::Second,
            _ => Fuse::Reserved,
        }
    }

    /// PSDT bits: what the data pointer is.
    #[must_use]
    pub fn psdt(&self) -> u8 {
        self.flags >> 6
    }

    /// Sets SLBA and the zero-based number of blocks.
    pub fn set_range(&mut self, slba: u64, blocks: u32) {
        self.cdw10[0] = slba as u32;
        self.cdw10[1] = (slba >> 32) as u32;
        self.cdw10[2] = self.cdw10[2] & !0xffff | blocks.saturating_sub(1) & 0xffff;
    }

    /// Dwords `i` and `i + 1` counted from dword 10, as one number.
    #[must_use]
    pub fn qword(&self, i: usize) -> u64 {
        let dw = |i: usize| u64::from(self.cdw10.get(i).copied().unwrap_or(0));
        dw(i) | dw(i + 1) << 32
    }
}

/// The SGL descriptors that NVMe/TCP uses (Base 4.1.2, TCP 3.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sgl {
    /// Data Block with an offset: `length` bytes of in-capsule data, `offset` from its start.
    InCapsule {
        /// Bytes from the start of the in-capsule data.
        offset: u64,
        /// Bytes.
        length: u32,
    },
    /// Transport SGL Data Block: `length` bytes move in H2CData or C2HData PDUs.
    Transport {
        /// Bytes.
        length: u32,
    },
}

impl Sgl {
    /// Decodes a descriptor.
    ///
    /// # Errors
    /// `SGL_TYPE_INVALID` for anything but the two forms.
    pub fn decode(b: &[u8; 16]) -> Result<Self, Status> {
        let length = u32_at(b, 8);
        match b[15] {
            0x01 => Ok(Self::InCapsule { offset: u64_at(b, 0), length }),
            0x5a => Ok(Self::Transport { length }),
            // An all-zero descriptor is what hosts send with commands that turn out to carry no data.
            0x00 if length == 0 => Ok(Self::Transport { length: 0 }),
            _ => Err(Status::SGL_TYPE_INVALID.dnr()),
        }
    }

    /// Encodes the descriptor.
    #[must_use]
    pub fn encode(self) -> [u8; 16] {
        let mut b = [0; 16];
        match self {
            Self::InCapsule { offset, length } => {
                put(&mut b, 0, &offset.to_le_bytes());
                put(&mut b, 8, &length.to_le_bytes());
                b[15] = 0x01;
            }
            Self::Transport { length } => {
                put(&mut b, 8, &length.to_le_bytes());
                b[15] = 0x5a;
            }
        }
        b
    }

    /// Bytes to transfer.
    #[must_use]
    pub fn length(self) -> u32 {
        match self {
            Self::InCapsule { length, .. } | Self::Transport { length } => length,
        }
    }
}

/// A completion queue entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Cqe {
    /// Dwords 0 and 1: command specific.
    pub result: u64,
    /// Submission queue head.
    pub sqhd: u16,
    /// Submission queue identifier; reserved in Fabrics.
    pub sqid: u16,
    /// Command identifier.
    pub cid: u16,
    /// Status.
    pub status: Status,
    /// Phase tag, reserved in Fabrics; kept so that decode and encode are inverse.
    pub phase: bool,
}

impl Cqe {
    /// Decodes 16 bytes; every pattern is an entry.
    #[must_use]
    pub fn decode(b: &[u8; CQE_LEN]) -> Self {
        let status = u16_at(b, 14);
        Self {
            result: u64_at(b, 0),
            sqhd: u16_at(b, 8),
            sqid: u16_at(b, 10),
            cid: u16_at(b, 12),
            status: Status::from_bits(status >> 1),
            phase: status & 1 != 0,
        }
    }

    /// Encodes to 16 bytes.
    #[must_use]
    pub fn encode(&self) -> [u8; CQE_LEN] {
        let mut b = [0; CQE_LEN];
        put(&mut b, 0, &self.result.to_le_bytes());
        put(&mut b, 8, &self.sqhd.to_le_bytes());
        put(&mut b, 10, &self.sqid.to_le_bytes());
        put(&mut b, 12, &self.cid.to_le_bytes());
        put(&mut b, 14, &(self.status.bits() << 1 | u16::from(self.phase)).to_le_bytes());
        b
    }
}

/// One range of Dataset Management (NVM 3.2.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DsmRange {
    /// First LBA.
    pub slba: u64,
    /// Number of blocks.
    pub blocks: u32,
}

impl DsmRange {
    /// The first `count` ranges of `data`.
    ///
    /// # Errors
    /// `DATA_SGL_LENGTH_INVALID` if the data is too short.
    pub fn decode_all(data: &[u8], count: usize) -> Result<Vec<Self>, Status> {
        let raw = data.get(..count * io::DSM_RANGE_LEN).ok_or(Status::DATA_SGL_LENGTH_INVALID.dnr())?;
        Ok(raw
            .chunks_exact(io::DSM_RANGE_LEN)
            .map(|r| Self { slba: u64_at(r, 8), blocks: u32_at(r, 4) })
            .collect())
    }

    /// Encodes ranges as the command's data.
    #[must_use]
    pub fn encode_all(ranges: &[Self]) -> Vec<u8> {
        let mut out = vec![0; ranges.len() * io::DSM_RANGE_LEN];
        for (r, b) in ranges.iter().zip(out.chunks_exact_mut(io::DSM_RANGE_LEN)) {
            put(b, 4, &r.blocks.to_le_bytes());
            put(b, 8, &r.slba.to_le_bytes());
        }
        out
    }
}
