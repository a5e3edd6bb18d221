//! What makes an agent one for disk nodes.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use vda_model::ids::{BootId, PdId};
use vda_proto::v1::{PdStatus, ShareStatus};
use vda_reconcile::status::Book;
use vda_reconcile::{
    Actual, Agent, Depth, Desired, Driver, Fault, Perform, Report, Settled, Target, Wanted, prepare, settings,
};
use vda_spdk::{ListenAddress, NvmfCreateTransport};

use crate::layout::{self, Knowledge};
use crate::resources::{Action, Disk, Id, Key};
use crate::want::{PdWant, Want};
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
    boot: BootId,
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
    /// `listener` and `transport` as the agent was started with; `boot` that of the node.
    pub fn new(
        target: T,
        transport: NvmfCreateTransport,
        listener: ListenAddress,
        boot: BootId,
        ledger: Arc<vda_reconcile::Ledger>,
    ) -> Self {
        Self { target, transport, listener, boot, ledger, pds: Mutex::default(), conflict: Mutex::default() }
    }

    /// Takes over what an accepted desired state says about the node as a whole.
    pub(crate) fn set_node(&self, pds: BTreeMap<PdId, PdWant>, listener: &ListenAddress) {
        *lock(&self.pds) = pds;
        *lock(&self.conflict) = self.listener_conflict(listener);
    }

    /// The boot of the node.
    pub(crate) const fn boot_id(&self) -> BootId {
        self.boot
    }

    /// Why nothing can be exported, if so.
    pub(crate) fn conflict(&self) -> Option<String> {
        lock(&self.conflict).clone()
    }

    /// Why exports cannot be made at `wanted`.
    fn listener_conflict(&self, wanted: &ListenAddress) -> Option<String> {
        settings::listener_conflict("DN", wanted, &self.listener)
    }
}

impl<T: Target> Knowledge for DiskNode<T> {
    fn initialised(&self, record: &str) -> bool {
        self.ledger.initialised(record)
    }

    fn conflict(&self, listener: &ListenAddress) -> Option<String> {
        self.listener_conflict(listener)
    }

    fn boot(&self) -> BootId {
        self.boot
    }

    fn given_up(&self, pd: PdId) -> bool {
        let pds = lock(&self.pds);
        pds.get(&pd).is_none_or(|pd| pd.deleting || pd.backend.volatile())
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
        layout::desired(key, want, leftovers, self)
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
            Id::Lvol(_, vd) | Id::Export(vd, _) => Key::Stray(*vd),
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
            Id::Bdev(_) | Id::Contents(_) | Id::Export(..) => None,
        }
    }

    async fn prepare(&self) -> Result<(), Fault> {
        prepare(&self.target, &self.transport).await?;
        perform::withdraw_old_boots(&self.target, self.boot).await
    }
}
