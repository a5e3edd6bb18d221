//! Identify data structures (Base 5.17, NVM 4.1.5).

use crate::field::{array_at, put, put_text, text_at, u8_at, u16_at, u32_at, u64_at};
use crate::limits::{ABORTS, ERROR_ENTRIES};

/// Length of every Identify data structure, bytes.
pub const IDENTIFY_LEN: usize = 4096;

/// CNS values.
pub mod cns {
    /// Identify Namespace.
    pub const NAMESPACE: u8 = 0x00;
    /// Identify Controller.
    pub const CONTROLLER: u8 = 0x01;
    /// Active Namespace ID list.
    pub const ACTIVE_NAMESPACES: u8 = 0x02;
    /// Namespace Identification Descriptor list.
    pub const NAMESPACE_DESCRIPTORS: u8 = 0x03;
    /// I/O Command Set specific Identify Namespace.
    pub const CSI_NAMESPACE: u8 = 0x05;
    /// I/O Command Set specific Identify Controller.
    pub const CSI_CONTROLLER: u8 = 0x06;
    /// I/O Command Set specific active Namespace ID list.
    pub const CSI_ACTIVE_NAMESPACES: u8 = 0x07;
    /// I/O Command Set independent Identify Namespace.
    pub const INDEPENDENT_NAMESPACE: u8 = 0x08;
    /// Allocated Namespace ID list.
    pub const ALLOCATED_NAMESPACES: u8 = 0x10;
    /// I/O Command Set data structure.
    pub const COMMAND_SETS: u8 = 0x1c;
}

/// Command set identifier of the NVM command set.
pub const CSI_NVM: u8 = 0;

/// Type of a controller (CNTRLTYPE).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ControllerType {
    /// I/O controller.
    #[default]
    Io,
    /// Discovery controller.
    Discovery,
}

/// Identify Controller: the fields of an NVMe/TCP controller.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Controller {
    /// PCI vendor id.
    pub vid: u16,
    /// Serial number, up to 20 bytes.
    pub serial: String,
    /// Model number, up to 40 bytes.
    pub model: String,
    /// Firmware revision, up to 8 bytes.
    pub firmware: String,
    /// Maximum data transfer size, power of two in units of 4 KiB, 0 for no limit.
    pub mdts: u8,
    /// Controller id.
    pub cntlid: u16,
    /// Version, as in the VS property.
    pub version: u32,
    /// OAES: asynchronous events that can be sent.
    pub oaes: u32,
    /// Controller type.
    pub kind: ControllerType,
    /// Outstanding Asynchronous Event Requests, zero based.
    pub aerl: u8,
    /// Keep alive granularity, units of 100 ms.
    pub kas: u16,
    /// Largest number of commands on a queue.
    pub maxcmd: u16,
    /// Number of namespaces: largest NSID.
    pub nn: u32,
    /// ONCS: optional NVM commands.
    pub oncs: u16,
    /// A volatile write cache is present.
    pub volatile_cache: bool,
    /// ANA reporting, `None` if not supported.
    pub ana: Option<AnaCapabilities>,
    /// Subsystem NQN.
    pub subnqn: String,
    /// IOCCSZ: size of a command capsule, units of 16 bytes.
    pub ioccsz: u32,
    /// IORCSZ: size of a response capsule, units of 16 bytes.
    pub iorcsz: u32,
}

/// ANA fields of Identify Controller.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct AnaCapabilities {
    /// Largest time of a transition, seconds.
    pub transition_secs: u8,
    /// ANACAP: reported states, bit 6 set if group ids never change.
    pub states: u8,
    /// Largest group id.
    pub max_group: u32,
    /// Number of groups.
    pub groups: u32,
}

/// ANACAP of a controller with states optimized, non-optimized and inaccessible, and fixed group ids.
pub const ANACAP_FIXED: u8 = 0b0100_0111;
/// OAES: Namespace Attribute Notices.
pub const OAES_NAMESPACE: u32 = 1 << 8;
/// OAES: ANA Change Notices.
pub const OAES_ANA: u32 = 1 << 11;
/// OAES: Discovery Log Change Notices.
pub const OAES_DISCOVERY: u32 = 1 << 31;
/// ONCS: Compare.
pub const ONCS_COMPARE: u16 = 1 << 0;
/// ONCS: Dataset Management.
pub const ONCS_DSM: u16 = 1 << 2;
/// ONCS: Write Zeroes.
pub const ONCS_WRITE_ZEROES: u16 = 1 << 3;
/// ONCS: reservations.
pub const ONCS_RESERVATIONS: u16 = 1 << 5;

const CMIC_MULTI_PORT_MULTI_CONTROLLER: u8 = 0b0000_0011;
const CMIC_ANA: u8 = 1 << 3;

impl Controller {
    /// Encodes 4096 bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut b = vec![0; IDENTIFY_LEN];
        put(&mut b, 0, &self.vid.to_le_bytes());
        put(&mut b, 2, &self.vid.to_le_bytes());
        put_text(&mut b, 4, 20, &self.serial, b' ');
        put_text(&mut b, 24, 40, &self.model, b' ');
        put_text(&mut b, 64, 8, &self.firmware, b' ');
        put(&mut b, 77, &[self.mdts]);
        put(&mut b, 78, &self.cntlid.to_le_bytes());
        put(&mut b, 80, &self.version.to_le_bytes());
        put(&mut b, 92, &self.oaes.to_le_bytes());
        let kind = match self.kind {
            ControllerType::Io => 1,
            ControllerType::Discovery => 2,
        };
        put(&mut b, 111, &[kind]);
        put(&mut b, 259, &[self.aerl]);
        put(&mut b, 514, &self.maxcmd.to_le_bytes());
        // LPA bit 2: extended data (NUMDU, offsets) in Get Log Page.
        put(&mut b, 261, &[1 << 2]);
        put(&mut b, 262, &[(ERROR_ENTRIES - 1) as u8]); // ELPE
        // SGLS: SGLs of any alignment, offsets into the capsule, transport data blocks.
        put(&mut b, 536, &(1_u32 | 1 << 20 | 1 << 21).to_le_bytes());
        put_text(&mut b, 768, 256, &self.subnqn, 0);
        if self.kind == ControllerType::Io {
            self.put_io(&mut b);
        }
        b
    }

    fn put_io(&self, b: &mut [u8]) {
        let cmic = CMIC_MULTI_PORT_MULTI_CONTROLLER | if self.ana.is_some() { CMIC_ANA } else { 0 };
        put(b, 72, &[6]); // RAB
        put(b, 76, &[cmic]);
        put(b, 96, &1_u32.to_le_bytes()); // CTRATT: 128-bit host identifier
        put(b, 258, &[(ABORTS - 1) as u8]); // ACL
        put(b, 260, &[0b11]); // FRMW: one slot, read-only
        put(b, 261, &[1 << 1 | 1 << 2]); // LPA: effects log, extended data
        put(b, 266, &0x157_u16.to_le_bytes()); // WCTEMP
        put(b, 268, &0x175_u16.to_le_bytes()); // CCTEMP
        put(b, 320, &self.kas.to_le_bytes());
        put(b, 512, &[0x66, 0x44]); // SQES, CQES
        put(b, 516, &self.nn.to_le_bytes());
        put(b, 520, &self.oncs.to_le_bytes());
        put(b, 522, &1_u16.to_le_bytes()); // FUSES: Compare and Write
        put(b, 525, &[u8::from(self.volatile_cache) | 2 << 1]);
        if let Some(ana) = self.ana {
            put(b, 342, &[ana.transition_secs, ana.states]);
            put(b, 344, &ana.max_group.to_le_bytes());
            put(b, 348, &ana.groups.to_le_bytes());
            put(b, 540, &self.nn.to_le_bytes()); // MNAN
        }
        put(b, 1792, &self.ioccsz.to_le_bytes());
        put(b, 1796, &self.iorcsz.to_le_bytes());
        put(b, 1803, &[1]); // MSDBD
    }

    /// Decodes the fields from Identify data; missing bytes read as zero.
    #[must_use]
    pub fn decode(b: &[u8]) -> Self {
        let ana = AnaCapabilities {
            transition_secs: u8_at(b, 342),
            states: u8_at(b, 343),
            max_group: u32_at(b, 344),
            groups: u32_at(b, 348),
        };
        Self {
            vid: u16_at(b, 0),
            serial: text_at(b, 4, 20),
            model: text_at(b, 24, 40),
            firmware: text_at(b, 64, 8),
            mdts: u8_at(b, 77),
            cntlid: u16_at(b, 78),
            version: u32_at(b, 80),
            oaes: u32_at(b, 92),
            kind: if u8_at(b, 111) == 2 { ControllerType::Discovery } else { ControllerType::Io },
            aerl: u8_at(b, 259),
            kas: u16_at(b, 320),
            maxcmd: u16_at(b, 514),
            nn: u32_at(b, 516),
            oncs: u16_at(b, 520),
            volatile_cache: u8_at(b, 525) & 1 != 0,
            ana: (u8_at(b, 76) & CMIC_ANA != 0).then_some(ana),
            subnqn: text_at(b, 768, 256),
            ioccsz: u32_at(b, 1792),
            iorcsz: u32_at(b, 1796),
        }
    }
}

/// Identify Namespace: the fields of a namespace without metadata.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Namespace {
    /// Size, blocks.
    pub blocks: u64,
    /// Logarithm of the block size.
    pub block_shift: u8,
    /// Deallocated blocks read as zeroes and Write Zeroes may deallocate.
    pub thin: bool,
    /// Preferred write granularity, blocks, not zero based; 0 for none.
    pub preferred_write: u16,
    /// Reservation capabilities (RESCAP), see [`crate::reservation::Reservations::capabilities`].
    pub rescap: u8,
    /// ANA group.
    pub ana_group: u32,
    /// Namespace globally unique id, zero for none.
    pub nguid: [u8; 16],
    /// IEEE extended unique id, zero for none.
    pub eui64: [u8; 8],
}

impl Namespace {
    /// Encodes 4096 bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut b = vec![0; IDENTIFY_LEN];
        for at in [0, 8, 16] {
            put(&mut b, at, &self.blocks.to_le_bytes()); // NSZE, NCAP, NUSE
        }
        let optimal = u8::from(self.preferred_write > 0) << 4;
        put(&mut b, 24, &[u8::from(self.thin) | optimal]); // NSFEAT
        put(&mut b, 30, &[1, self.rescap]); // NMIC: shared
        put(&mut b, 33, &[if self.thin { 1 | 1 << 3 } else { 0 }]); // DLFEAT
        if self.preferred_write > 0 {
            let zero_based = self.preferred_write - 1;
            for at in [64, 66, 68, 70, 72] {
                put(&mut b, at, &zero_based.to_le_bytes()); // NPWG, NPWA, NPDG, NPDA, NOWS
            }
        }
        put(&mut b, 92, &self.ana_group.to_le_bytes());
        put(&mut b, 104, &self.nguid);
        put(&mut b, 120, &self.eui64);
        put(&mut b, 130, &[self.block_shift]); // LBAF 0
        b
    }

    /// Decodes the fields from Identify data; missing bytes read as zero.
    #[must_use]
    pub fn decode(b: &[u8]) -> Self {
        let format = usize::from(u8_at(b, 26) & 0xf);
        let nsfeat = u8_at(b, 24);
        Self {
            blocks: u64_at(b, 0),
            block_shift: u8_at(b, 128 + format * 4 + 2),
            thin: nsfeat & 1 != 0,
            preferred_write: if nsfeat & 1 << 4 != 0 { u16_at(b, 64).saturating_add(1) } else { 0 },
            rescap: u8_at(b, 31),
            ana_group: u32_at(b, 92),
            nguid: array_at(b, 104),
            eui64: array_at(b, 120),
        }
    }
}

/// Identifiers of a namespace (Identify CNS 03h).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct NamespaceIds {
    /// EUI-64, zero for none.
    pub eui64: [u8; 8],
    /// NGUID, zero for none.
    pub nguid: [u8; 16],
    /// UUID, zero for none.
    pub uuid: [u8; 16],
}

impl NamespaceIds {
    /// Encodes 4096 bytes: the identifiers that are not zero, and the command set.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut b = Vec::with_capacity(IDENTIFY_LEN);
        for (kind, id) in [(1, &self.eui64[..]), (2, &self.nguid[..]), (3, &self.uuid[..])] {
            if id.iter().any(|&x| x != 0) {
                b.extend_from_slice(&[kind, id.len() as u8, 0, 0]);
                b.extend_from_slice(id);
            }
        }
        b.extend_from_slice(&[4, 1, 0, 0, CSI_NVM]);
        b.resize(IDENTIFY_LEN, 0);
        b
    }

    /// Decodes a list; unknown and malformed descriptors are skipped.
    #[must_use]
    pub fn decode(mut b: &[u8]) -> Self {
        let mut ids = Self::default();
        while let [kind, len, _, _, rest @ ..] = b {
            let len = usize::from(*len);
            if len == 0 {
                break;
            }
            match (kind, len) {
                (1, 8) => ids.eui64 = array_at(rest, 0),
                (2, 16) => ids.nguid = array_at(rest, 0),
                (3, 16) => ids.uuid = array_at(rest, 0),
                _ => {}
            }
            b = rest.get(len..).unwrap_or_default();
        }
        ids
    }
}

/// Encodes a Namespace ID list: the ids of `nsids` (ascending) above `after`.
#[must_use]
pub fn encode_nsid_list(nsids: impl IntoIterator<Item = u32>, after: u32) -> Vec<u8> {
    let mut b = vec![0; IDENTIFY_LEN];
    let listed = nsids.into_iter().filter(|&n| n > after).take(IDENTIFY_LEN / 4);
    for (i, nsid) in listed.enumerate() {
        put(&mut b, i * 4, &nsid.to_le_bytes());
    }
    b
}

/// Decodes a Namespace ID list up to its first zero.
#[must_use]
pub fn decode_nsid_list(b: &[u8]) -> Vec<u32> {
    b.chunks_exact(4).map(|c| u32_at(c, 0)).take_while(|&n| n != 0).collect()
}
