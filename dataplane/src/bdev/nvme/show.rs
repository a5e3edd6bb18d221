//! What `bdev_get_bdevs` and `bdev_nvme_get_*` show of controllers and paths.

use std::net::SocketAddr;

use serde_json::{Value, json};
use vda_nvme::log::AnaState;
use vda_spdk::{ControllerState, Trid};

use crate::initiator::group::Policy;
use crate::initiator::{Group, Namespace, Path, PathState};

/// State of a path in SPDK's words.
#[must_use]
pub fn controller_state(state: PathState) -> ControllerState {
    match state {
        PathState::Enabled => ControllerState::Enabled,
        PathState::Disabled => ControllerState::Disabled,
        PathState::Failed => ControllerState::Failed,
        PathState::Deleting => ControllerState::Deleting,
        PathState::Resetting => ControllerState::Resetting,
        PathState::ReconnectIsDelayed => ControllerState::ReconnectIsDelayed,
    }
}

/// Transport id of a path.
#[must_use]
pub fn trid(address: SocketAddr, subnqn: Option<&str>) -> Trid {
    Trid {
        trtype: "TCP".into(),
        adrfam: Some(if address.is_ipv4() { "IPv4" } else { "IPv6" }.into()),
        traddr: Some(address.ip().to_string()),
        trsvcid: Some(address.port().to_string()),
        subnqn: subnqn.map(Into::into),
    }
}

fn ana_word(state: AnaState) -> &'static str {
    match state {
        AnaState::Optimized => "optimized",
        AnaState::NonOptimized => "non_optimized",
        AnaState::Inaccessible => "inaccessible",
        AnaState::PersistentLoss => "persistent_loss",
        AnaState::Change => "change",
    }
}

/// `driver_specific` of a bdev: one element per path that shows the namespace.
pub(super) fn driver_specific(group: &Group, ns: &Namespace) -> Value {
    let paths = group.paths();
    let shown: Vec<Value> = paths.iter().filter_map(|p| path(group, p, ns)).collect();
    let policy = match group.policy() {
        Policy::ActivePassive => "active_passive",
        Policy::RoundRobin { .. } | Policy::QueueDepth => "active_active",
    };
    json!({ "nvme": shown, "mp_policy": policy })
}

fn path(group: &Group, p: &Path, ns: &Namespace) -> Option<Value> {
    let state = p.ana_state(ns.nsid)?;
    let mut ns_data = json!({ "id": ns.nsid, "can_share": true });
    let session = p.session();
    let ctrlr = session.as_ref().map(|s| {
        let id = &s.identify;
        let ana = id.ana.is_some();
        if ana {
            ns_data["ana_state"] = ana_word(state).into();
        }
        json!({
            "cntlid": p.cntlid(),
            "vendor_id": format!("{:#06x}", id.vid),
            "model_number": id.model,
            "serial_number": id.serial,
            "firmware_revision": id.firmware,
            "subnqn": id.subnqn,
            "oacs": { "security": 0, "format": 0, "firmware": 0, "ns_manage": 0 },
            "multi_ctrlr": true,
            "ana_reporting": ana,
        })
    });
    let version = session.map_or(0, |s| s.identify.version);
    Some(json!({
        "trid": trid(p.address, Some(&group.subnqn)),
        "ctrlr_data": ctrlr.unwrap_or_else(|| lost_controller(p)),
        "vs": { "nvme_version": format!("{}.{}", version >> 16, version >> 8 & 0xff) },
        "ns_data": ns_data,
    }))
}

/// What is known of a controller while its path is lost.
fn lost_controller(p: &Path) -> Value {
    json!({
        "cntlid": p.cntlid(),
        "vendor_id": "0x0000",
        "model_number": "",
        "serial_number": "",
        "firmware_revision": "",
        "oacs": { "security": 0, "format": 0, "firmware": 0, "ns_manage": 0 },
        "multi_ctrlr": true,
        "ana_reporting": false,
    })
}
