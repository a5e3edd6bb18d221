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

/// `driver_specific` of a bdev: one element per path that shows the namespace, the preferred one first.
pub(super) fn driver_specific(group: &Group, ns: &Namespace) -> Value {
    let nvme: Vec<Value> = ns.paths().iter().filter_map(|p| path(group, p, ns)).collect();
    match ns.policy() {
        Policy::ActivePassive => json!({ "nvme": nvme, "mp_policy": "active_passive" }),
        Policy::QueueDepth => {
            json!({ "nvme": nvme, "mp_policy": "active_active", "selector": "queue_depth" })
        }
        Policy::RoundRobin { min_io } => {
            json!({ "nvme": nvme, "mp_policy": "active_active", "selector": "round_robin", "rr_min_io": min_io })
        }
    }
}

/// A path that shows the namespace. While it is lost, its controller is shown as it was.
fn path(group: &Group, p: &Path, ns: &Namespace) -> Option<Value> {
    let state = p.ana_state(ns.nsid)?;
    let id = p.identify().unwrap_or_default();
    let ana = id.ana.is_some();
    let mut ns_data = json!({ "id": ns.nsid, "can_share": true });
    if ana {
        ns_data["ana_state"] = ana_word(state).into();
    }
    let ctrlr_data = json!({
        "cntlid": p.cntlid(),
        "vendor_id": format!("{:#06x}", id.vid),
        "model_number": id.model,
        "serial_number": id.serial,
        "firmware_revision": id.firmware,
        "subnqn": id.subnqn,
        "oacs": { "security": 0, "format": 0, "firmware": 0, "ns_manage": 0 },
        "multi_ctrlr": true,
        "ana_reporting": ana,
    });
    Some(json!({
        "trid": trid(p.address, Some(&group.subnqn)),
        "ctrlr_data": ctrlr_data,
        "vs": { "nvme_version": format!("{}.{}", id.version >> 16, id.version >> 8 & 0xff) },
        "ns_data": ns_data,
    }))
}
