//! Which drivers a change in etcd concerns. Pure: all changes of one notification together, so that a generation arrives with what it stands for.

use std::collections::BTreeMap;

use vda_model::delta::Node;
use vda_model::ids::{CnId, DaId, DnId};
use vda_model::keys::{
    AnyKey, CntlrSpecKey, CntlrStatusKey, DaTombstoneKey, DnShareKey, Key, ShareStatusKey,
};
use vda_proto::v1::{Condition, ShareStatus};
use vda_store::Snapshot;

use crate::desired::shares_of;
use crate::inbox::Mail;

/// Mail for the drivers among `ours`.
pub(crate) struct Sorter<'a> {
    snapshot: &'a Snapshot,
    ours: &'a [Node],
    mail: BTreeMap<Node, Mail>,
}

impl<'a> Sorter<'a> {
    pub(crate) fn new(snapshot: &'a Snapshot, ours: &'a [Node]) -> Self {
        Self { snapshot, ours, mail: BTreeMap::new() }
    }

    fn post(&mut self, node: Node, mail: Mail) {
        if self.ours.contains(&node) {
            self.mail.entry(node).or_default().merge(mail);
        }
    }

    fn post_where(&mut self, concerns: impl Fn(Node) -> bool, mail: &Mail) {
        let ours = self.ours;
        ours.iter().filter(|node| concerns(**node)).for_each(|node| self.post(*node, mail.clone()));
    }

    /// `key` has changed.
    pub(crate) fn sort(&mut self, key: &AnyKey) {
        let of_da = |da: &DaId| Mail { das: [*da].into(), ..Mail::default() };
        let touched = || Mail { touched: true, ..Mail::default() };
        match key {
            AnyKey::DnSpec(dn) | AnyKey::PdSpec(dn, _) => {
                self.post(Node::Dn(*dn), Mail { node: true, ..Mail::default() })
            }
            AnyKey::CnSpec(cn) => self.post(Node::Cn(*cn), Mail { node: true, ..Mail::default() }),
            AnyKey::DnGen(dn) => self.post(Node::Dn(*dn), touched()),
            AnyKey::CnGen(cn) => self.post(Node::Cn(*cn), touched()),
            AnyKey::DnCapacity(dn) | AnyKey::DnStatus(dn) => self.post(Node::Dn(*dn), Mail::default()),
            AnyKey::CnCapacity(cn) => self.post(Node::Cn(*cn), Mail::default()),
            AnyKey::DnBoot(dn) => self.boot(*dn),
            AnyKey::DnShare(dn, da) => self.post(Node::Dn(*dn), of_da(da)),
            AnyKey::ShareStatus(dn, da) => self.share_status(*dn, *da),
            AnyKey::CnStatus(cn) => {
                self.post(Node::Cn(*cn), Mail::default());
                let held = Mail { held: true, ..Mail::default() };
                self.post_where(|node| matches!(node, Node::Dn(_)), &held);
            }
            AnyKey::CntlrSpec(cn, da) => {
                self.post(Node::Cn(*cn), of_da(da));
                self.release(*da);
            }
            AnyKey::ExpSpec(cn, da, _) => self.post(Node::Cn(*cn), of_da(da)),
            AnyKey::CntlrStatus(_, da) => self.release(*da),
            AnyKey::LegState(da, _) => {
                let snapshot = self.snapshot;
                let has = |node| matches!(node, Node::Cn(cn) if snapshot.raw(&CntlrSpecKey(cn, *da).any()).is_some());
                self.post_where(has, &of_da(da));
            }
            AnyKey::Da(_)
            | AnyKey::DaTombstone(_)
            | AnyKey::DnName(_)
            | AnyKey::CnName(_)
            | AnyKey::Request(_)
            | AnyKey::Monitor(_) => {}
        }
    }

    /// If the DN is ours, its driver has told the CN's already.
    fn share_status(&mut self, dn: DnId, da: DaId) {
        if self.ours.contains(&Node::Dn(dn)) {
            return;
        }
        let status = self.snapshot.get(&ShareStatusKey(dn, da)).ok().flatten();
        let waiting = status.and_then(|s| waits_for(self.snapshot, dn, da, &s.value));
        if let Some(cn) = waiting {
            self.post(Node::Cn(cn), Mail { retry: [da].into(), ..Mail::default() });
        }
    }

    /// The node was started anew: its mirrored VDs have other names. (And its own driver sees whether that is what its agent says.)
    fn boot(&mut self, dn: DnId) {
        self.post(Node::Dn(dn), Mail::default());
        for da in shares_of(self.snapshot, dn) {
            let share = self.snapshot.get(&DnShareKey(dn, da)).ok().flatten();
            let Some(cn) = share.and_then(|share| share.value.cn_id.parse().ok()) else { continue };
            self.post(Node::Cn(cn), Mail { das: [da].into(), ..Mail::default() });
        }
    }

    /// The DNs that still have something of a deleted array may go on.
    fn release(&mut self, da: DaId) {
        let Ok(Some(tombstone)) = self.snapshot.get(&DaTombstoneKey(da)) else { return };
        for dn in tombstone.value.dn_ids.iter().filter_map(|id| id.parse::<DnId>().ok()) {
            self.post(Node::Dn(dn), Mail { held: true, ..Mail::default() });
        }
    }

    /// What came together.
    pub(crate) fn finish(mut self) -> BTreeMap<Node, Mail> {
        for mail in self.mail.values_mut() {
            mail.resync = mail.touched && !mail.node && mail.das.is_empty();
        }
        self.mail
    }
}

/// The CN whose controller may have been waiting for this share, which has just become READY.
pub(crate) fn waits_for(snapshot: &Snapshot, dn: DnId, da: DaId, status: &ShareStatus) -> Option<CnId> {
    let ready = |s: Option<Condition>| s == Some(Condition::Ready);
    if status.vds.is_empty() || !status.vds.iter().all(|vd| ready(vd.status.as_ref().map(|s| s.condition())))
    {
        return None;
    }
    let share = snapshot.get(&DnShareKey(dn, da)).ok().flatten()?.value;
    let cn: CnId = share.cn_id.parse().ok()?;
    let cntlr = snapshot.get(&CntlrStatusKey(cn, da)).ok().flatten().and_then(|s| s.value.status);
    (!share.deleting && !ready(cntlr.map(|s| s.condition()))).then_some(cn)
}

#[cfg(test)]
#[path = "routing_tests.rs"]
mod tests;
