//! Fabrics commands: Connect, Property Get/Set, Disconnect (Base 6).

use crate::cmd::{FABRICS_OPCODE, Sqe};
use crate::field::{array_at, put, u16_at};
use crate::limits::NQN_MAX_LEN;
use crate::status::Status;

/// Fabrics command types.
pub mod fctype {
    /// Property Set.
    pub const PROPERTY_SET: u8 = 0x00;
    /// Connect.
    pub const CONNECT: u8 = 0x01;
    /// Property Get.
    pub const PROPERTY_GET: u8 = 0x04;
    /// Disconnect.
    pub const DISCONNECT: u8 = 0x08;
}

/// Property offsets (Base 3.1.3).
pub mod property {
    /// Controller Capabilities, 8 bytes.
    pub const CAP: u32 = 0x00;
    /// Version, 4 bytes.
    pub const VS: u32 = 0x08;
    /// Controller Configuration, 4 bytes.
    pub const CC: u32 = 0x14;
    /// Controller Status, 4 bytes.
    pub const CSTS: u32 = 0x1c;
    /// NVM Subsystem Reset, 4 bytes.
    pub const NSSR: u32 = 0x20;
    /// Controller Ready Timeouts, 4 bytes.
    pub const CRTO: u32 = 0x68;
}

/// CNTLID that asks for a dynamically allocated controller.
pub const CNTLID_DYNAMIC: u16 = 0xffff;
/// Length of Connect's data, bytes.
pub const CONNECT_DATA_LEN: usize = 1024;

const CATTR_NO_SQFC: u32 = 1 << 2;

/// Connect (Base 6.3): command fields and data.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Connect {
    /// Record format: only 0 exists.
    pub recfmt: u16,
    /// Queue: 0 is the admin queue.
    pub qid: u16,
    /// Queue size, zero based.
    pub sqsize: u16,
    /// Submission queue flow control disabled.
    pub no_sq_flow_control: bool,
    /// Keep Alive Timeout, milliseconds.
    pub kato: u32,
    /// Data of the command.
    pub data: ConnectData,
}

/// Data of Connect.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConnectData {
    /// Host identifier.
    pub hostid: [u8; 16],
    /// Controller asked for, [`CNTLID_DYNAMIC`] on the admin queue.
    pub cntlid: u16,
    /// Subsystem.
    pub subnqn: String,
    /// Host.
    pub hostnqn: String,
}

/// Why a Connect command's content is refused: status and dword 0 (Base 6.3, figure "Connect Response").
///
/// Never with Do Not Retry: a host would then give its path up, which a moment later, when hosts and listeners have been
/// rearranged, may be the right one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ConnectRefusal {
    /// Status.
    pub status: Status,
    /// Dword 0: offset of the invalid parameter, bit 16 set if it is in the data.
    pub result: u32,
}

impl ConnectRefusal {
    /// Refusal without a parameter offset.
    #[must_use]
    pub fn plain(status: Status) -> Self {
        Self { status, result: 0 }
    }

    /// The parameter at `offset` in the data is invalid.
    #[must_use]
    pub fn data(offset: u16) -> Self {
        Self { status: Status::CONNECT_INVALID_PARAM, result: 1 << 16 | u32::from(offset) }
    }

    /// The parameter at `offset` in the command is invalid.
    #[must_use]
    pub fn command(offset: u16) -> Self {
        Self { status: Status::CONNECT_INVALID_PARAM, result: u32::from(offset) }
    }
}

/// Offset of CNTLID in Connect's data.
pub const CONNECT_CNTLID: u16 = 16;
/// Offset of SUBNQN in Connect's data.
pub const CONNECT_SUBNQN: u16 = 256;
/// Offset of HOSTNQN in Connect's data.
pub const CONNECT_HOSTNQN: u16 = 512;
/// Offset of SQSIZE in the Connect command.
pub const CONNECT_SQSIZE: u16 = 44;
/// Offset of QID in the Connect command.
pub const CONNECT_QID: u16 = 42;

impl Connect {
    /// Parses command and data.
    ///
    /// # Errors
    /// The refusal to answer: data too short, or an NQN that is not terminated or not text.
    pub fn decode(sqe: &Sqe, data: &[u8]) -> Result<Self, ConnectRefusal> {
        if data.len() < CONNECT_DATA_LEN {
            return Err(ConnectRefusal::plain(Status::INVALID_FIELD));
        }
        Ok(Self {
            recfmt: (sqe.cdw10[0] & 0xffff) as u16,
            qid: (sqe.cdw10[0] >> 16) as u16,
            sqsize: (sqe.cdw10[1] & 0xffff) as u16,
            no_sq_flow_control: sqe.cdw10[1] >> 16 & CATTR_NO_SQFC != 0,
            kato: sqe.cdw10[2],
            data: ConnectData {
                hostid: array_at(data, 0),
                cntlid: u16_at(data, CONNECT_CNTLID.into()),
                subnqn: nqn(data, CONNECT_SUBNQN)?,
                hostnqn: nqn(data, CONNECT_HOSTNQN)?,
            },
        })
    }

    /// The command (without SGL, the queue fills it in) and its data.
    #[must_use]
    pub fn encode(&self) -> (Sqe, Vec<u8>) {
        let mut sqe = Sqe::new(FABRICS_OPCODE, fctype::CONNECT.into());
        let cattr = if self.no_sq_flow_control { CATTR_NO_SQFC } else { 0 };
        sqe.cdw10[0] = u32::from(self.recfmt) | u32::from(self.qid) << 16;
        sqe.cdw10[1] = u32::from(self.sqsize) | cattr << 16;
        sqe.cdw10[2] = self.kato;
        let mut data = vec![0; CONNECT_DATA_LEN];
        put(&mut data, 0, &self.data.hostid);
        put(&mut data, CONNECT_CNTLID.into(), &self.data.cntlid.to_le_bytes());
        put(&mut data, CONNECT_SUBNQN.into(), nqn_bytes(&self.data.subnqn));
        put(&mut data, CONNECT_HOSTNQN.into(), nqn_bytes(&self.data.hostnqn));
        (sqe, data)
    }
}

fn nqn_bytes(s: &str) -> &[u8] {
    &s.as_bytes()[..s.len().min(NQN_MAX_LEN)]
}

fn nqn(data: &[u8], at: u16) -> Result<String, ConnectRefusal> {
    let raw = &data[usize::from(at)..usize::from(at) + NQN_MAX_LEN + 1];
    let end = raw.iter().position(|&c| c == 0).ok_or_else(|| ConnectRefusal::data(at))?;
    match std::str::from_utf8(&raw[..end]) {
        Ok(s) => Ok(s.to_owned()),
        Err(_) => Err(ConnectRefusal::data(at)),
    }
}

/// Property Get of `offset`; `wide` for 8 byte properties.
#[must_use]
pub fn property_get(offset: u32, wide: bool) -> Sqe {
    let mut sqe = Sqe::new(FABRICS_OPCODE, fctype::PROPERTY_GET.into());
    sqe.cdw10[0] = u32::from(wide);
    sqe.cdw10[1] = offset;
    sqe
}

/// Property Set of a 4 byte property.
#[must_use]
pub fn property_set(offset: u32, value: u32) -> Sqe {
    let mut sqe = Sqe::new(FABRICS_OPCODE, fctype::PROPERTY_SET.into());
    sqe.cdw10[1] = offset;
    sqe.cdw10[2] = value;
    sqe
}
