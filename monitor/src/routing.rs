//! Which drivers a change in etcd concerns. Pure, but for the delivery.

use vda_model::delta::Node;
use vda_model::ids::{CnId, DaId, DnId};
use vda_model::keys::{AnyKey, CntlrSpecKey, CntlrStatusKey, DaTombstoneKey, DnShareKey, Key, ShareStatusKey};
use vda_proto::v1::{Condition, ShareStatus};
use vda_store::Snapshot;

use crate::inbox::{Inboxes, Mail};

fn of_node() -> Mail {
    Mail { node: true, ..Mail::default() }
}

fn of_da(da: DaId) -> Mail {
    Mail { das: [da].into(), ..Mail::default() }
}

fn of_held() -> Mail {
    Mail { held: true, ..Mail::default() }
}

fn retry(da: DaId) -> Mail {
    Mail { retry: [da].into(), ..Mail::default() }
}

/// Tells the drivers of this monitor that `key` changed.
pub(crate) fn route(snapshot: &Snapshot, key: &AnyKey, inboxes: &Inboxes) {
    match key {
        AnyKey::DnSpec(dn) | AnyKey::PdSpec(dn, _) => inboxes.dn(*dn, of_node()),
        // A wake-up only: whether the node's own records changed is told by their keys.
        AnyKey::DnGen(dn) | AnyKey::DnCapacity(dn) | AnyKey::DnStatus(dn) => inboxes.dn(*dn, Mail::default()),
        AnyKey::DnShare(dn, da) => inboxes.dn(*dn, of_da(*da)),
        AnyKey::ShareStatus(dn, da) => {
            // If the DN is ours, its driver has told the CN's already.
            if !inboxes.has(Node::Dn(*dn)) {
                route_ready(snapshot, *dn, *da, None, inboxes);
            }
        }
        AnyKey::CnSpec(cn) => inboxes.cn(*cn, of_node()),
        AnyKey::CnGen(cn) | AnyKey::CnCapacity(cn) => inboxes.cn(*cn, Mail::default()),
        AnyKey::CnStatus(cn) => {
            inboxes.cn(*cn, Mail::default());
            inboxes.all_dns(&of_held());
        }
        AnyKey::CntlrSpec(cn, da) => {
            inboxes.cn(*cn, of_da(*da));
            release(snapshot, *da, inboxes);
        }
        AnyKey::ExpSpec(cn, da, _) => inboxes.cn(*cn, of_da(*da)),
        AnyKey::CntlrStatus(_, da) => release(snapshot, *da, inboxes),
        AnyKey::LegState(da, _) => {
            let has = |cn: CnId| snapshot.raw(&CntlrSpecKey(cn, *da).any()).is_some();
            inboxes.cns(has, &of_da(*da));
        }
        AnyKey::Da(_)
        | AnyKey::DaTombstone(_)
        | AnyKey::DnName(_)
        | AnyKey::CnName(_)
        | AnyKey::Request(_)
        | AnyKey::Monitor(_) => {}
    }
}

/// The DNs that still have something of a deleted array may go on.
fn release(snapshot: &Snapshot, da: DaId, inboxes: &Inboxes) {
    let Ok(Some(tombstone)) = snapshot.get(&DaTombstoneKey(da)) else { return };
    for dn in tombstone.value.dn_ids.iter().filter_map(|id| id.parse::<DnId>().ok()) {
        inboxes.dn(dn, of_held());
    }
}

/// A share that has become READY: the controller may have been waiting for it. `status`: as just reported, else as stored.
pub(crate) fn route_ready(snapshot: &Snapshot, dn: DnId, da: DaId, status: Option<&ShareStatus>, inboxes: &Inboxes) {
    let stored = || snapshot.get(&ShareStatusKey(dn, da)).ok().flatten().map(|s| s.value);
    let Some(status) = status.cloned().or_else(stored) else { return };
    let ready = |s: Option<Condition>| s == Some(Condition::Ready);
    if status.vds.is_empty() || !status.vds.iter().all(|vd| ready(vd.status.as_ref().map(|s| s.condition()))) {
        return;
    }
    let Ok(Some(share)) = snapshot.get(&DnShareKey(dn, da)) else { return };
    let Ok(cn) = share.value.cn_id.parse::<CnId>() else { return };
    let cntlr = snapshot.get(&CntlrStatusKey(cn, da)).ok().flatten().and_then(|s| s.value.status);
    if !share.value.deleting && !ready(cntlr.map(|s| s.condition())) {
        inboxes.cn(cn, retry(da));
    }
}
