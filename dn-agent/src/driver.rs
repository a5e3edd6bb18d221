//! What makes an agent one for disk nodes.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use vda_model::ids::PdId;
use vda_model::names::OwnedName;
use vda_proto::v1::{PdStatus, ShareStatus};
use vda_reconcile::parts::export::{ExportSpec, NamespaceSpec};
use vda_reconcile::parts::lvol::LvolSpec;
use vda_reconcile::status::Book;
use vda_reconcile::{
    Actual, Agent, Depth, Desired, Driver, Fault, Perform, Report, Settled, Target, Wanted, prepare,
};
use vda_spdk::{ListenAddress, NvmfCreateTransport};

use crate::identity::{ns_nguid, ns_uuid, serial};
use crate::resources::{Action, Disk, Id, Key, Spec};
use crate::want::{PdWant, ShareWant, VdWant, Want};
use crate::{observe, perform, report};

/// An agent of a disk node.
pub type DnAgentHandle<T> = Agent<DiskNode<T>, T>;

/// What is reported about a component.
#[derive(Debug, Clone, PartialEq)]
pub enum Status {
    Pd(PdStatus),
    Share(ShareStatus),
}

/// Drives the data plane of a disk node.
pub struct DiskNode<T> {
    target: T,
    transport: NvmfCreateTransport,
    /// Where the operator says that VDs are exported; checked against what the DN was registered with.
    listener: ListenAddress,
    ledger: Arc<vda_reconcile::Ledger>,
    /// The PDs of the desired state accepted last: shares are judged by what becomes of them.
    pds: Mutex<BTreeMap<PdId, PdWant>>,
    /// Why nothing can be exported.
    conflict: Mutex<Option<String>>,
}

fn lock<X>(mutex: &Mutex<X>) -> MutexGuard<'_, X> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<T: Target> DiskNode<T> {
    /// `listener` and `transport` as the agent was started with.
    pub fn new(
        target: T,
        transport: NvmfCreateTransport,
        listener: ListenAddress,
        ledger: Arc<vda_reconcile::Ledger>,
    ) -> Self {
        Self { target, transport, listener, ledger, pds: Mutex::default(), conflict: Mutex::default() }
    }

    /// Takes over what an accepted desired state says about the node as a whole.
    pub(crate) fn set_node(&self, pds: BTreeMap<PdId, PdWant>, listener: &ListenAddress) {
        *lock(&self.pds) = pds;
        *lock(&self.conflict) = self.listener_conflict(listener);
    }

    /// Why nothing can be exported, if so.
    pub(crate) fn conflict(&self) -> Option<String> {
        lock(&self.conflict).clone()
    }

    /// Whether a VD that is not there can be taken for gone although the lvstore of its PD is not loaded: the PD is volatile (what was on
    /// it is lost), or is itself given up.
    pub(crate) fn given_up(&self, pd: PdId) -> bool {
        let pds = lock(&self.pds);
        pds.get(&pd).is_none_or(|pd| pd.deleting || pd.backend.volatile())
    }

    pub(crate) fn initialised(&self, id: &str) -> bool {
        self.ledger.initialised(id)
    }

    /// Why exports cannot be made at `wanted`.
    pub(crate) fn listener_conflict(&self, wanted: &ListenAddress) -> Option<String> {
        let as_seen = vda_spdk::Trid {
            traddr: Some(wanted.traddr.clone()),
            adrfam: wanted.adrfam.clone(),
            trsvcid: wanted.trsvcid.clone(),
            ..vda_spdk::Trid::new(wanted.trtype.clone())
        };
        (!self.listener.is(&as_seen)).then(|| {
            format!(
                "the DN is registered with listener {}, but its agent was started with --lis-conf {}",
                words(wanted),
                words(&self.listener)
            )
        })
    }

    fn want_pd(desired: &mut Desired<Disk>, id: PdId, pd: &PdWant, known: bool) {
        if pd.deleting {
            desired.erase.extend([Id::Bdev(id), Id::Lvstore(id)]);
            desired.context.insert(Id::Contents(id));
            return;
        }
        let spec = Spec::Lvstore {
            bdev: pd.backend.bdev(id),
            initialised: pd.initialised || known,
            volatile: pd.backend.volatile(),
        };
        desired.want(Id::Bdev(id), Spec::Bdev(pd.backend.clone()), []);
        desired.want(Id::Lvstore(id), spec, [Id::Bdev(id)]);
    }

    fn want_share(&self, desired: &mut Desired<Disk>, share: &ShareWant) {
        let conflict = self.listener_conflict(&share.listener);
        for (vd_id, vd) in &share.vds {
            let lvol = Id::Lvol(vd.pd, *vd_id);
            desired.context.insert(Id::Lvstore(vd.pd));
            if share.deleting {
                desired.erase.extend([lvol, Id::Export(*vd_id)]);
                continue;
            }
            let initialised = vd.initialised || self.initialised(&report::vd_record(*vd_id));
            desired.want(lvol, Spec::Lvol { lvol: lvol_spec(*vd_id, vd), initialised }, [Id::Lvstore(vd.pd)]);
            let export = match &conflict {
                Some(why) => Spec::NoExport(why.clone()),
                None => Spec::Export(Box::new(export_spec(*vd_id, vd, &share.listener))),
            };
            desired.want(Id::Export(*vd_id), export, [lvol]);
        }
    }
}

fn words(a: &ListenAddress) -> String {
    format!("{} {}:{}", a.trtype, a.traddr, a.trsvcid.as_deref().unwrap_or("?"))
}

fn lvol_spec(id: vda_model::ids::VdId, vd: &VdWant) -> LvolSpec {
    LvolSpec {
        lvstore: OwnedName::PdLvstore(vd.pd).to_string(),
        name: OwnedName::VdLvol(id).to_string(),
        size_bytes: vd.size_bytes,
        limits: vd.limits,
    }
}

fn export_spec(id: vda_model::ids::VdId, vd: &VdWant, listener: &ListenAddress) -> ExportSpec {
    ExportSpec {
        nqn: OwnedName::VdSubsystem(id).to_string(),
        serial_number: serial(id),
        model_number: "VDA virtual disk".to_owned(),
        cntlids: None,
        max_namespaces: 1,
        ana: None,
        hosts: BTreeSet::from([vd.owner.clone()]),
        listener: listener.clone(),
        namespace: NamespaceSpec {
            bdev: OwnedName::VdBdev(vd.pd, id).to_string(),
            uuid: ns_uuid(id),
            nguid: ns_nguid(id),
        },
    }
}

impl<T: Target> Perform<Disk> for DiskNode<T> {
    async fn perform(&self, _id: &Id, action: &Action) -> Result<(), Fault> {
        perform::perform(&self.target, action).await
    }
}

impl<T: Target> Driver for DiskNode<T> {
    type Domain = Disk;
    type Key = Key;
    type Want = Want;
    type Status = Status;

    fn desired(&self, key: &Key, want: Option<&Want>, leftovers: &BTreeSet<Id>) -> Desired<Disk> {
        let mut desired = Desired::default();
        match (key, want) {
            (Key::Pd(id), Some(Want::Pd(pd))) => {
                let known = self.initialised(&report::pd_record(*id));
                Self::want_pd(&mut desired, *id, pd, known);
            }
            (_, Some(Want::Share(share))) => self.want_share(&mut desired, share),
            _ => {}
        }
        for id in leftovers {
            match id {
                Id::Lvol(..) | Id::Export(_) => {
                    desired.erase.insert(*id);
                }
                // A disk nobody mentions is let go, never erased, and not even that while there is something on it.
                Id::Bdev(pd) | Id::Lvstore(pd) => {
                    desired.context.insert(Id::Contents(*pd));
                }
                Id::Contents(_) => {}
            }
        }
        desired
    }

    async fn observe(&self, ids: &BTreeSet<Id>, _depth: Depth) -> Actual<Disk> {
        observe::observe(&self.target, ids).await
    }

    async fn observe_all(&self) -> Result<Actual<Disk>, Fault> {
        observe::observe_all(&self.target).await
    }

    fn report(
        &self,
        key: &Key,
        wanted: &Wanted<Want>,
        settled: &Settled<'_, Disk>,
        previous: Option<&Status>,
        book: &mut Book,
    ) -> Option<Report<Status>> {
        report::report(self, key, wanted, settled, previous, book)
    }

    fn component_of(&self, id: &Id) -> Key {
        match id {
            Id::Bdev(pd) | Id::Lvstore(pd) | Id::Contents(pd) => Key::Pd(*pd),
            Id::Lvol(_, vd) | Id::Export(vd) => Key::Stray(*vd),
        }
    }

    fn affects(&self, id: &Id) -> Option<Id> {
        match id {
            Id::Lvol(pd, _) => Some(Id::Contents(*pd)),
            _ => None,
        }
    }

    fn record_of(&self, id: &Id) -> Option<String> {
        match id {
            Id::Lvstore(pd) => Some(report::pd_record(*pd)),
            Id::Lvol(_, vd) => Some(report::vd_record(*vd)),
            Id::Bdev(_) | Id::Contents(_) | Id::Export(_) => None,
        }
    }

    async fn prepare(&self) -> Result<(), Fault> {
        prepare(&self.target, &self.transport).await
    }
}
