//! Get Log Page (NVM Express Base 2.0, 5.16).

use std::collections::BTreeMap;

use vda_nvme::cmd::{Sqe, admin, io};
use vda_nvme::controller::events::Notice;
use vda_nvme::fabrics::CNTLID_DYNAMIC;
use vda_nvme::log::{self, AnaGroup, DiscoveryEntry, SubsystemType, TRTYPE_TCP, lid};
use vda_nvme::status::Status;

use super::Target;
use super::controller::Controller;
use super::referral::Referral;
use super::subsystem::Subsystem;

/// Data of a Get Log Page command, `length` bytes.
pub(super) fn get(target: &Target, c: &Controller, sqe: &Sqe, length: usize) -> Result<Vec<u8>, Status> {
    let dwords = (u64::from(sqe.cdw10[0] >> 16) | u64::from(sqe.cdw10[1] & 0xffff) << 16) + 1;
    let offset = sqe.qword(2);
    if !offset.is_multiple_of(4) {
        return Err(Status::INVALID_FIELD.dnr());
    }
    if dwords.saturating_mul(4) > length as u64 {
        return Err(Status::DATA_SGL_LENGTH_INVALID.dnr());
    }
    let retain = sqe.cdw10[0] >> 15 & 1 != 0;
    let length = (dwords * 4) as usize;
    let (page, offset) = match page(target, c, sqe, (offset, length), retain)? {
        // What was read of it is gone: it begins where the reader is.
        page if sqe.cdw10[0].to_le_bytes()[0] == lid::RESERVATION => (page, 0),
        page => (page, offset),
    };
    log::window(&page, offset, length).ok_or(Status::INVALID_FIELD.dnr())
}

fn page(
    target: &Target,
    c: &Controller,
    sqe: &Sqe,
    (offset, length): (u64, usize),
    retain: bool,
) -> Result<Vec<u8>, Status> {
    let which = sqe.cdw10[0].to_le_bytes()[0];
    let discovery = c.subsystem.config.discovery;
    let page = match which {
        lid::DISCOVERY if discovery => discovery_log(target, &c.hostnqn),
        lid::SUPPORTED => supported(discovery),
        _ if discovery => return Err(Status::INVALID_LOG_PAGE.dnr()),
        lid::ERROR => vec![0; log::ERROR_LEN],
        lid::HEALTH => vec![0; log::HEALTH_LEN],
        lid::FIRMWARE => firmware(),
        lid::CHANGED_NAMESPACES => changed_namespaces(c, offset),
        lid::EFFECTS => effects(),
        lid::RESERVATION => c.state.borrow_mut().notifications.read(offset, length)?,
        lid::ANA if c.subsystem.config.ana_reporting => {
            // LSP bit 0: return groups only.
            ana(c, sqe.cdw10[0] >> 8 & 1 != 0)
        }
        _ => return Err(Status::INVALID_LOG_PAGE.dnr()),
    };
    if !retain && let Some(notice) = Notice::ALL.into_iter().find(|n| n.log_page() == which) {
        c.state.borrow_mut().events.read(notice);
    }
    Ok(page)
}

/// Identifiers of the log pages that exist.
fn supported(discovery: bool) -> Vec<u8> {
    let nvm: &[u8] = &[
        lid::ERROR,
        lid::HEALTH,
        lid::FIRMWARE,
        lid::CHANGED_NAMESPACES,
        lid::EFFECTS,
        lid::ANA,
        lid::RESERVATION,
    ];
    let mut b = vec![0; 1024];
    let own = if discovery { &[lid::DISCOVERY] } else { nvm };
    for l in own.iter().chain([&lid::SUPPORTED]) {
        b[usize::from(*l) * 4] = 1;
    }
    b
}

fn firmware() -> Vec<u8> {
    let mut b = vec![0; 512];
    b[0] = 1; // slot 1 is active
    let version = env!("CARGO_PKG_VERSION").as_bytes();
    let n = version.len().min(8);
    b[8..16].fill(b' ');
    b[8..8 + n].copy_from_slice(&version[..n]);
    b
}

fn changed_namespaces(c: &Controller, offset: u64) -> Vec<u8> {
    let mut state = c.state.borrow_mut();
    let page = log::encode_changed(state.changed.iter().copied());
    // Reading the beginning clears the list.
    if offset == 0 {
        state.changed.clear();
    }
    page
}

fn effects() -> Vec<u8> {
    let admin = [
        admin::GET_LOG_PAGE,
        admin::IDENTIFY,
        admin::ABORT,
        admin::SET_FEATURES,
        admin::GET_FEATURES,
        admin::ASYNC_EVENT_REQUEST,
        admin::KEEP_ALIVE,
    ];
    let writes = [io::WRITE, io::WRITE_ZEROES, io::DATASET_MANAGEMENT];
    let others = [
        io::FLUSH,
        io::READ,
        io::COMPARE,
        io::RESERVATION_REGISTER,
        io::RESERVATION_REPORT,
        io::RESERVATION_ACQUIRE,
        io::RESERVATION_RELEASE,
    ];
    log::encode_effects(&admin, &[&others[..], &writes].concat(), &writes)
}

fn ana(c: &Controller, groups_only: bool) -> Vec<u8> {
    let mut members: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
    for ns in c.subsystem.namespaces.borrow().values().filter(|ns| ns.is_visible_to(&c.hostnqn)) {
        members.entry(ns.ana_group.get()).or_default().push(ns.nsid);
    }
    let group = |(id, nsids)| AnaGroup { id, state: c.ana_state(id), nsids };
    let groups: Vec<_> = members.into_iter().map(group).collect();
    log::encode_ana(c.listener.as_ref().map_or(0, |l| l.change_count()), &groups, groups_only)
}

/// What a host may know: only subsystems that it may use.
fn discovery_log(target: &Target, host: &str) -> Vec<u8> {
    let asqsz = target.transport().map_or(0, |o| o.max_aq_depth);
    let mut entries = Vec::new();
    for s in target.subsystems.borrow().iter().filter(|s| !s.closed.get() && s.allows(host)) {
        entries.extend(subsystem_entries(s, asqsz));
    }
    entries.extend(target.referrals.borrow().iter().map(Referral::entry));
    log::encode_discovery(target.discovery_generation.get(), &entries)
}

fn subsystem_entries(s: &Subsystem, asqsz: u16) -> Vec<DiscoveryEntry> {
    let subtype = if s.config.discovery { SubsystemType::Current } else { SubsystemType::Nvm };
    let listeners = s.listeners.borrow();
    listeners.iter().map(|l| entry(l.address, subtype, &s.config.nqn, l.id, asqsz)).collect()
}

fn entry(
    address: std::net::SocketAddr,
    subtype: SubsystemType,
    nqn: &str,
    portid: u16,
    asqsz: u16,
) -> DiscoveryEntry {
    DiscoveryEntry {
        adrfam: if address.is_ipv4() { 1 } else { 2 },
        trtype: TRTYPE_TCP,
        subtype,
        // Secure channel not specified, disabling of SQ flow control supported.
        treq: 1 << 2,
        portid,
        cntlid: CNTLID_DYNAMIC,
        asqsz,
        trsvcid: address.port().to_string(),
        subnqn: nqn.to_owned(),
        traddr: address.ip().to_string(),
    }
}
