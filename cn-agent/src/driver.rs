//! What makes an agent one for controller nodes.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::time::Instant;
use vda_model::ids::DaId;
use vda_proto::v1::CntlrStatus;
use vda_reconcile::parts::export::ExportAction;
use vda_reconcile::status::Book;
use vda_reconcile::{
    Actual, Agent, Depth, Desired, Driver, Fault, Ledger, Observed, Perform, Record, Refusal, Report,
    Settled, Target, Wanted, prepare, settings,
};
use vda_spdk::{ListenAddress, NvmfCreateTransport};

use crate::mirror::MirrorState;
use crate::proof::Proofs;
use crate::resources::{Action, Array, Id, Key, State};
use crate::stack::{self, Initialised};
use crate::want::Want;
use crate::{observe, perform, report};

/// An agent of a controller node.
pub type CnAgentHandle<T> = Agent<ControllerNode<T>, T>;

/// Drives the data plane of a controller node.
pub struct ControllerNode<T> {
    target: T,
    transport: NvmfCreateTransport,
    /// Where the operator says that exports listen; checked against what the CN was registered with.
    listener: ListenAddress,
    ledger: Arc<Ledger>,
    /// What is certain of the members of mirror sets.
    proofs: Mutex<Proofs>,
    /// Mirror sets as last glanced at: the loss of a member has to be reported soon.
    glanced: Mutex<BTreeMap<Id, MirrorState>>,
    /// Why nothing can be exported.
    conflict: Mutex<Option<String>>,
}

fn lock<X>(mutex: &Mutex<X>) -> MutexGuard<'_, X> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A VD that is not exported yet hides nothing, and each array waits for its VDs: a listing of all raids for that would make the time to
/// create an array grow with the number of arrays there are. Behind a raid that cannot be made one may be that is no bdev.
fn obscure(id: &Id, fault: &Fault) -> bool {
    !(matches!(id, Id::Member(..)) && fault.op == "bdev_nvme_attach_controller")
}

/// How a ledger names a leg.
pub(crate) fn leg_record(da: DaId, leg: u32) -> String {
    format!("leg:{da}:{leg}")
}

/// How a ledger names a volume.
pub(crate) fn volume_record(da: DaId) -> String {
    format!("vol:{da}")
}

/// What has to be in the ledger before this is done. Once a host can write, an agent and a data plane that end at once must not find the
/// array as one that was never made: its members would be put together as equal, whatever was on its way to them.
pub(crate) fn records_before(action: &Action) -> Vec<String> {
    let Action::Export(ExportAction::AddNamespace { namespace, .. }) = action else { return Vec::new() };
    match Id::of_bdev(&namespace.bdev) {
        Some(Id::Volume(da, leg)) => vec![leg_record(da, leg), volume_record(da)],
        _ => Vec::new(),
    }
}

impl<T> Initialised for ControllerNode<T> {
    fn leg(&self, da: DaId, leg: u32) -> bool {
        self.ledger.initialised(&leg_record(da, leg))
    }

    fn volume(&self, da: DaId) -> bool {
        self.ledger.initialised(&volume_record(da))
    }
}

impl<T: Target> ControllerNode<T> {
    /// `listener` and `transport` as the agent was started with.
    pub fn new(
        target: T,
        transport: NvmfCreateTransport,
        listener: ListenAddress,
        ledger: Arc<Ledger>,
    ) -> Self {
        Self {
            target,
            transport,
            listener,
            ledger,
            proofs: Mutex::default(),
            glanced: Mutex::default(),
            conflict: Mutex::default(),
        }
    }

    async fn remember(&self, records: impl IntoIterator<Item = String>) -> Result<(), Fault> {
        let new = records.into_iter().filter(|id| !self.ledger.initialised(id)).map(Record::Initialised);
        let written = self.ledger.remember(new.collect()).await;
        written.map_err(|error| Fault::refused("ledger", error.to_string()))
    }

    /// Takes over what an accepted desired state says about the node as a whole.
    pub(crate) fn set_node(&self, listener: &ListenAddress) {
        *lock(&self.conflict) = self.listener_conflict(listener);
    }

    /// Why nothing can be exported, if so.
    pub(crate) fn conflict(&self) -> Option<String> {
        lock(&self.conflict).clone()
    }

    fn listener_conflict(&self, wanted: &ListenAddress) -> Option<String> {
        settings::listener_conflict("CN", wanted, &self.listener)
    }

    /// Marks members of which it is not yet certain that they were rebuilt.
    fn doubt(&self, actual: &mut Actual<Array>) {
        let mut proofs = lock(&self.proofs);
        for seen in actual.seen.values_mut() {
            let Observed::Known(State::Mirror(mirror)) = &mut seen.state else { continue };
            proofs.judge(mirror, Instant::now());
        }
    }
}

impl<T: Target> Perform<Array> for ControllerNode<T> {
    async fn perform(&self, _id: &Id, action: &Action) -> Result<(), Fault> {
        if let Action::AddBase { bdev, .. } = action {
            lock(&self.proofs).adding(bdev);
        }
        self.remember(records_before(action)).await?;
        let done = perform::perform(&self.target, action).await;
        if let (Action::CreateRaid(call), Ok(())) = (action, &done) {
            lock(&self.proofs).created(call.base_bdevs.iter().cloned());
        }
        done
    }
}

impl<T: Target> Driver for ControllerNode<T> {
    type Domain = Array;
    type Key = Key;
    type Want = Want;
    type Status = CntlrStatus;

    fn desired(&self, key: &Key, want: Option<&Want>, leftovers: &BTreeSet<Id>) -> Desired<Array> {
        let mut desired = match (key, want) {
            (Key::Da(da), Some(want)) => {
                let refusal =
                    self.listener_conflict(&want.listener).map(|message| Refusal { op: "listener", message });
                stack::desired(*da, want, self, refusal)
            }
            _ => Desired::default(),
        };
        desired.erase.extend(leftovers.iter().filter(|id| !desired.wants.contains_key(*id)).cloned());
        desired
    }

    async fn observe(&self, ids: &BTreeSet<Id>, depth: Depth) -> Actual<Array> {
        let mut actual = observe::observe(&self.target, ids, depth).await;
        self.doubt(&mut actual);
        actual
    }

    async fn observe_all(&self) -> Result<Actual<Array>, Fault> {
        let mut actual = observe::observe_all(&self.target).await?;
        self.doubt(&mut actual);
        Ok(actual)
    }

    async fn glance(&self) -> BTreeSet<Key> {
        let Ok(mirrors) = observe::mirrors(&self.target).await else { return BTreeSet::new() };
        let mut glanced = lock(&self.glanced);
        let changed = mirrors.iter().filter(|(id, now)| glanced.get(*id).is_some_and(|then| then != *now));
        let lost = glanced.keys().filter(|id| !mirrors.contains_key(*id));
        let keys = changed.map(|(id, _)| id).chain(lost).map(|id| self.component_of(id)).collect();
        *glanced = mirrors;
        keys
    }

    fn report(
        &self,
        key: &Key,
        wanted: &Wanted<Want>,
        settled: &Settled<'_, Array>,
        previous: Option<&CntlrStatus>,
        book: &mut Book,
    ) -> Option<Report<CntlrStatus>> {
        let Key::Da(da) = key else { return None };
        report::report(self, *da, wanted, settled, previous, book)
    }

    fn obscure(&self, id: &Id, fault: &Fault) -> bool {
        obscure(id, fault)
    }

    fn component_of(&self, id: &Id) -> Key {
        match id {
            Id::Member(da, _)
            | Id::Spare(da, ..)
            | Id::Mirror(da, _)
            | Id::Group(da, ..)
            | Id::Concat(da, _)
            | Id::Lvstore(da, _)
            | Id::Volume(da, _) => Key::Da(*da),
            Id::Export(nqn) => Key::Stray(nqn.clone()),
        }
    }

    fn record_of(&self, id: &Id) -> Option<String> {
        match id {
            Id::Lvstore(da, leg) => Some(leg_record(*da, *leg)),
            Id::Volume(da, _) => Some(volume_record(*da)),
            _ => None,
        }
    }

    async fn prepare(&self) -> Result<(), Fault> {
        lock(&self.proofs).forget();
        prepare(&self.target, &self.transport).await
    }
}

#[cfg(test)]
#[path = "driver_tests.rs"]
mod tests;
