//! Log pages (Base 5.16.1): ANA, discovery, changed namespaces, SMART, error, commands and effects.

use crate::field::{put, put_text, text_at, u8_at, u16_at, u32_at, u64_at};
use crate::identify::IDENTIFY_LEN;

/// Log page identifiers.
pub mod lid {
    /// Supported log pages.
    pub const SUPPORTED: u8 = 0x00;
    /// Error information.
    pub const ERROR: u8 = 0x01;
    /// SMART / health information.
    pub const HEALTH: u8 = 0x02;
    /// Firmware slots.
    pub const FIRMWARE: u8 = 0x03;
    /// Changed namespaces.
    pub const CHANGED_NAMESPACES: u8 = 0x04;
    /// Commands supported and effects.
    pub const EFFECTS: u8 = 0x05;
    /// Asymmetric Namespace Access.
    pub const ANA: u8 = 0x0c;
    /// Reservation notification.
    pub const RESERVATION: u8 = 0x80;
    /// Discovery.
    pub const DISCOVERY: u8 = 0x70;
}

/// State of an ANA group as seen through a controller (Base 8.1.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum AnaState {
    /// Best path.
    Optimized,
    /// Works, slower.
    NonOptimized,
    /// Commands fail with a path error.
    Inaccessible,
    /// Lost for good.
    PersistentLoss,
    /// Changing.
    Change,
}

impl AnaState {
    /// Value in the log page.
    #[must_use]
    pub fn bits(self) -> u8 {
        match self {
            Self::Optimized => 1,
            Self::NonOptimized => 2,
            Self::Inaccessible => 3,
            Self::PersistentLoss => 4,
            Self::Change => 15,
        }
    }

    /// From the log page; unknown values are treated as inaccessible: a path that is not understood is not used.
    #[must_use]
    pub fn from_bits(bits: u8) -> Self {
        match bits & 0xf {
            1 => Self::Optimized,
            2 => Self::NonOptimized,
            4 => Self::PersistentLoss,
            15 => Self::Change,
            _ => Self::Inaccessible,
        }
    }
}

/// One group of the ANA log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AnaGroup {
    /// Group id.
    pub id: u32,
    /// State.
    pub state: AnaState,
    /// Namespaces of the group, ascending.
    pub nsids: Vec<u32>,
}

/// Encodes the ANA log page; without namespace lists if `groups_only` (RGO).
#[must_use]
pub fn encode_ana(change_count: u64, groups: &[AnaGroup], groups_only: bool) -> Vec<u8> {
    let mut b = vec![0; 16];
    put(&mut b, 0, &change_count.to_le_bytes());
    put(&mut b, 8, &(groups.len() as u16).to_le_bytes());
    for g in groups {
        let nsids: &[u32] = if groups_only { &[] } else { &g.nsids };
        let at = b.len();
        b.resize(at + 32, 0);
        put(&mut b, at, &g.id.to_le_bytes());
        put(&mut b, at + 4, &(nsids.len() as u32).to_le_bytes());
        put(&mut b, at + 8, &change_count.to_le_bytes());
        put(&mut b, at + 16, &[g.state.bits()]);
        b.extend(nsids.iter().flat_map(|n| n.to_le_bytes()));
    }
    b
}

/// Decodes the ANA log page: change count and groups. A truncated page gives the groups that are complete.
#[must_use]
pub fn decode_ana(b: &[u8]) -> (u64, Vec<AnaGroup>) {
    let mut groups = Vec::new();
    let mut at = 16;
    for _ in 0..u16_at(b, 8) {
        let count = u32_at(b, at + 4) as usize;
        let end = count.checked_mul(4).and_then(|n| n.checked_add(at + 32)).filter(|&e| e <= b.len());
        let Some(end) = end else { break };
        let nsids = b[at + 32..end].chunks_exact(4).map(|c| u32_at(c, 0)).collect();
        groups.push(AnaGroup { id: u32_at(b, at), state: AnaState::from_bits(u8_at(b, at + 16)), nsids });
        at = end;
    }
    (u64_at(b, 0), groups)
}

/// Length of a discovery log entry, bytes.
pub const DISCOVERY_ENTRY_LEN: usize = 1024;

/// What a discovery entry refers to (SUBTYPE).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SubsystemType {
    /// Another discovery subsystem.
    Referral,
    /// NVM subsystem.
    Nvm,
    /// This discovery subsystem.
    Current,
}

impl SubsystemType {
    fn bits(self) -> u8 {
        match self {
            Self::Referral => 1,
            Self::Nvm => 2,
            Self::Current => 3,
        }
    }

    fn from_bits(bits: u8) -> Self {
        match bits {
            1 => Self::Referral,
            3 => Self::Current,
            _ => Self::Nvm,
        }
    }
}

/// One entry of the discovery log (Base 5.16.1.23).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DiscoveryEntry {
    /// Address family: 1 IPv4, 2 IPv6.
    pub adrfam: u8,
    /// Transport type: 3 TCP.
    pub trtype: u8,
    /// What the entry refers to.
    pub subtype: SubsystemType,
    /// Transport requirements (NVM Express Base 2.0, figure 264): bits 1:0 secure channel (0 not specified, 1 required, 2 not required), bit 2
    /// disabling of SQ flow control is supported.
    pub treq: u8,
    /// Port of the subsystem.
    pub portid: u16,
    /// Controller id, 0xffff for dynamic.
    pub cntlid: u16,
    /// Largest admin queue.
    pub asqsz: u16,
    /// Transport service id: the port.
    pub trsvcid: String,
    /// Subsystem NQN.
    pub subnqn: String,
    /// Address.
    pub traddr: String,
}

/// Transport type TCP in discovery entries.
pub const TRTYPE_TCP: u8 = 3;

/// Encodes the discovery log page.
#[must_use]
pub fn encode_discovery(generation: u64, entries: &[DiscoveryEntry]) -> Vec<u8> {
    let mut b = vec![0; DISCOVERY_ENTRY_LEN * (entries.len() + 1)];
    put(&mut b, 0, &generation.to_le_bytes());
    put(&mut b, 8, &(entries.len() as u64).to_le_bytes());
    for (e, out) in entries.iter().zip(b.chunks_exact_mut(DISCOVERY_ENTRY_LEN).skip(1)) {
        put(out, 0, &[e.trtype, e.adrfam, e.subtype.bits(), e.treq]);
        put(out, 4, &e.portid.to_le_bytes());
        put(out, 6, &e.cntlid.to_le_bytes());
        put(out, 8, &e.asqsz.to_le_bytes());
        if e.subtype == SubsystemType::Current {
            put(out, 10, &0b11_u16.to_le_bytes()); // EFLAGS: duplicate information, persistent connections
        }
        put_text(out, 32, 32, &e.trsvcid, b' ');
        put_text(out, 256, 256, &e.subnqn, 0);
        put_text(out, 512, 256, &e.traddr, b' ');
    }
    b
}

/// Generation counter and number of records of a discovery log page.
#[must_use]
pub fn decode_discovery_header(b: &[u8]) -> (u64, u64) {
    (u64_at(b, 0), u64_at(b, 8))
}

/// Decodes the entries that are complete in a discovery log page.
#[must_use]
pub fn decode_discovery(b: &[u8]) -> Vec<DiscoveryEntry> {
    let count = usize::try_from(u64_at(b, 8)).unwrap_or(usize::MAX);
    let entry = |e: &[u8]| DiscoveryEntry {
        trtype: u8_at(e, 0),
        adrfam: u8_at(e, 1),
        subtype: SubsystemType::from_bits(u8_at(e, 2)),
        treq: u8_at(e, 3),
        portid: u16_at(e, 4),
        cntlid: u16_at(e, 6),
        asqsz: u16_at(e, 8),
        trsvcid: text_at(e, 32, 32),
        subnqn: text_at(e, 256, 256),
        traddr: text_at(e, 512, 256),
    };
    b.chunks_exact(DISCOVERY_ENTRY_LEN).skip(1).take(count).map(entry).collect()
}

/// Largest number of entries of the changed namespace list.
pub const CHANGED_MAX: usize = 1024;

/// Encodes the changed namespace list; one entry FFFFFFFFh if there are too many.
#[must_use]
pub fn encode_changed(nsids: impl ExactSizeIterator<Item = u32>) -> Vec<u8> {
    let mut b = vec![0; IDENTIFY_LEN];
    if nsids.len() > CHANGED_MAX {
        put(&mut b, 0, &u32::MAX.to_le_bytes());
        return b;
    }
    for (i, n) in nsids.enumerate() {
        put(&mut b, i * 4, &n.to_le_bytes());
    }
    b
}

/// Length of a reservation notification log page, bytes.
pub const RESERVATION_LEN: usize = 64;

/// Encodes a reservation notification log page (Base 5.16.1.24): `count` of all pages ever, `kind`, how many more wait.
#[must_use]
pub fn encode_reservation(count: u64, kind: u8, more: u8, nsid: u32) -> Vec<u8> {
    let mut b = vec![0; RESERVATION_LEN];
    put(&mut b, 0, &count.to_le_bytes());
    put(&mut b, 8, &[kind, more]);
    put(&mut b, 12, &nsid.to_le_bytes());
    b
}

/// Length of the health log page, bytes.
pub const HEALTH_LEN: usize = 512;
/// Length of the error log page, whose entries are empty, bytes.
pub const ERROR_LEN: usize = 64 * crate::limits::ERROR_ENTRIES;

/// Commands supported and effects (Base 5.16.1.6): `admin` and `io` opcodes, those of `writes` change data.
#[must_use]
pub fn encode_effects(admin: &[u8], io: &[u8], writes: &[u8]) -> Vec<u8> {
    let mut b = vec![0; 4096];
    for &op in admin {
        put(&mut b, usize::from(op) * 4, &1_u32.to_le_bytes());
    }
    for &op in io {
        let lbcc = if writes.contains(&op) { 1 << 1 } else { 0 };
        put(&mut b, 1024 + usize::from(op) * 4, &(1_u32 | lbcc).to_le_bytes());
    }
    b
}

/// Part of a log page that Get Log Page asks for: `offset` and `length`, zero padded; `None` if the offset is behind it.
#[must_use]
pub fn window(page: &[u8], offset: u64, length: usize) -> Option<Vec<u8>> {
    let from = usize::try_from(offset).ok().filter(|&o| o < page.len() || page.is_empty() && o == 0)?;
    let mut out = page[from..page.len().min(from.saturating_add(length))].to_vec();
    out.resize(length, 0);
    Some(out)
}
