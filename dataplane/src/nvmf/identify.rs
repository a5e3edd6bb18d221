//! Identify (NVM Express Base 2.0, 5.17).

use vda_nvme::cmd::Sqe;
use vda_nvme::controller::state::VERSION_2_0;
use vda_nvme::identify::{
    self as id, ANACAP_FIXED, AnaCapabilities, CSI_NVM, ControllerType, IDENTIFY_LEN, OAES_ANA,
    OAES_DISCOVERY, OAES_NAMESPACE, ONCS_COMPARE, ONCS_DSM, ONCS_RESERVATIONS, ONCS_WRITE_ZEROES, cns,
};
use vda_nvme::limits::EVENT_REQUESTS;
use vda_nvme::log::AnaState;
use vda_nvme::status::Status;

use super::controller::Controller;
use super::{TransportOptions, all_support};
use crate::bdev::IoType;

/// Vendor id that SPDK reports.
const VENDOR: u16 = 0x8086;
/// Longest time an ANA transition takes, seconds.
const ANA_TRANSITION_SECS: u8 = 10;
/// Firmware revision: the version of this program.
const FIRMWARE: &str = env!("CARGO_PKG_VERSION");

/// Data of an Identify command.
pub(super) fn identify(c: &Controller, o: &TransportOptions, sqe: &Sqe) -> Result<Vec<u8>, Status> {
    let which = sqe.cdw10[0].to_le_bytes()[0];
    let csi = sqe.cdw10[1].to_le_bytes()[3];
    if c.subsystem.config.discovery && which != cns::CONTROLLER {
        return Err(Status::INVALID_FIELD.dnr());
    }
    match which {
        cns::NAMESPACE => namespace(c, sqe.nsid),
        cns::CONTROLLER => Ok(controller(c, o).encode()),
        cns::ACTIVE_NAMESPACES => nsid_list(c, sqe.nsid),
        cns::CSI_ACTIVE_NAMESPACES | cns::CSI_NAMESPACE if csi != CSI_NVM => Err(Status::INVALID_FIELD.dnr()),
        cns::CSI_ACTIVE_NAMESPACES => nsid_list(c, sqe.nsid),
        cns::NAMESPACE_DESCRIPTORS => descriptors(c, sqe.nsid),
        cns::CSI_NAMESPACE => known(c, sqe.nsid).map(|_| vec![0; IDENTIFY_LEN]),
        cns::CSI_CONTROLLER => Ok(csi_controller(c, csi)),
        cns::INDEPENDENT_NAMESPACE => independent(c, sqe.nsid),
        cns::COMMAND_SETS => {
            let mut b = vec![0; IDENTIFY_LEN];
            b[0] = 1; // vector 0: the NVM command set
            Ok(b)
        }
        _ => Err(Status::INVALID_FIELD.dnr()),
    }
}

fn controller(c: &Controller, o: &TransportOptions) -> id::Controller {
    let config = &c.subsystem.config;
    let discovery = config.discovery;
    let ana = config.ana_reporting.then_some(AnaCapabilities {
        transition_secs: ANA_TRANSITION_SECS,
        states: ANACAP_FIXED,
        max_group: config.max_namespaces,
        groups: config.max_namespaces,
    });
    let optional = [(IoType::Unmap, ONCS_DSM), (IoType::WriteZeroes, ONCS_WRITE_ZEROES)];
    let supported = optional.iter().filter(|(io, _)| all_support(&c.subsystem, *io));
    id::Controller {
        vid: if discovery { 0 } else { VENDOR },
        serial: if discovery { String::new() } else { config.serial.clone() },
        model: if discovery { String::new() } else { config.model.clone() },
        firmware: FIRMWARE.to_owned(),
        mdts: u8::try_from((o.max_io_size / 4096).trailing_zeros()).unwrap_or(0),
        cntlid: c.cntlid,
        version: VERSION_2_0,
        oaes: match (discovery, ana.is_some()) {
            (true, _) => OAES_DISCOVERY,
            (false, true) => OAES_NAMESPACE | OAES_ANA,
            (false, false) => OAES_NAMESPACE,
        },
        kind: if discovery { ControllerType::Discovery } else { ControllerType::Io },
        aerl: (EVENT_REQUESTS - 1) as u8,
        kas: o.kas,
        maxcmd: o.max_queue_depth,
        nn: config.max_namespaces,
        oncs: supported.fold(ONCS_COMPARE | ONCS_RESERVATIONS, |bits, (_, bit)| bits | bit),
        // Always: what a bdev acknowledges may still be in a cache of the file system or of a remote disk.
        volatile_cache: true,
        ana,
        subnqn: config.nqn.clone(),
        ioccsz: (64 + o.in_capsule_data_size) / 16,
        iorcsz: 1,
    }
}

fn known(c: &Controller, nsid: u32) -> Result<Option<std::rc::Rc<super::Namespace>>, Status> {
    if nsid == 0 || nsid > c.subsystem.config.max_namespaces {
        return Err(Status::INVALID_NAMESPACE.dnr());
    }
    Ok(c.namespace(nsid))
}

/// An inactive namespace gives zeroes (Base 5.17.2.1).
fn namespace(c: &Controller, nsid: u32) -> Result<Vec<u8>, Status> {
    let found = known(c, nsid)?.and_then(|ns| ns.identify(c.subsystem.config.ana_reporting));
    Ok(found.map_or_else(|| vec![0; IDENTIFY_LEN], |ns| ns.encode()))
}

fn nsid_list(c: &Controller, after: u32) -> Result<Vec<u8>, Status> {
    if after >= 0xffff_fffe {
        return Err(Status::INVALID_NAMESPACE.dnr());
    }
    let namespaces = c.subsystem.namespaces.borrow();
    let seen = namespaces.values().filter(|ns| ns.is_visible_to(&c.hostnqn)).map(|ns| ns.nsid);
    Ok(id::encode_nsid_list(seen, after))
}

fn descriptors(c: &Controller, nsid: u32) -> Result<Vec<u8>, Status> {
    // An inactive namespace (Base 3.2.1.4).
    let ns = known(c, nsid)?.ok_or(Status::INVALID_FIELD.dnr())?;
    Ok(ns.descriptors().encode())
}

/// Limits of Write Zeroes and Dataset Management (NVM 4.1.5.3).
fn csi_controller(c: &Controller, csi: u8) -> Vec<u8> {
    let mut b = vec![0; IDENTIFY_LEN];
    if csi == CSI_NVM {
        let dmrsl = c.subsystem.config.dmrsl;
        b[1] = c.subsystem.config.wzsl;
        b[3] = u8::from(dmrsl > 0);
        b[4..8].copy_from_slice(&dmrsl.to_le_bytes());
        b[8..16].copy_from_slice(&u64::from(dmrsl).to_le_bytes());
    }
    b
}

fn independent(c: &Controller, nsid: u32) -> Result<Vec<u8>, Status> {
    let mut b = vec![0; IDENTIFY_LEN];
    if let Some(ns) = known(c, nsid)? {
        let group = ns.ana_group.get();
        b[1] = 1; // NMIC: shared
        b[2] = ns.reservations.capabilities();
        b[4..8].copy_from_slice(&group.to_le_bytes());
        b[14] = u8::from(c.ana_state(group) != AnaState::Inaccessible); // NSTAT: ready
    }
    Ok(b)
}
