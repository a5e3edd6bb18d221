//! Snapshots, clones, external snapshots, and how an lvol leaves its parent.

use std::rc::Rc;

use futures::{StreamExt, TryStreamExt};
use uuid::Uuid;

use super::LvolError;
use super::copy::{Change, Mapping};
use super::esnap::Esnap;
use super::gate::Frozen;
use super::lvols::Busy;
use super::map::Entry;
use super::module::{LvolModule, LvsSelector};
use super::plan::NewLvol;
use super::state::{Lvol, LvolId, Parent, Place, Record};
use super::store::{Order, Store};
use crate::bdev::{BdevError, BdevEvent, Events, IoError};

/// Clusters of one lvol that are copied at a time.
const COPIES: usize = 4;

/// What a part of an lvol needs to stand without its parent.
enum Need {
    Nothing,
    Copy,
    Hole,
}

impl Store {
    /// Whether an lvol stands on an external snapshot that is not there.
    pub(super) fn is_degraded(&self, id: LvolId) -> bool {
        let external = self.state.borrow().external(id);
        external.is_some_and(|uuid| !self.esnaps.borrow().contains_key(&uuid))
    }

    /// Lets go of the external snapshots that no lvol stands on any more.
    pub(super) fn close_unused_externals(&self) {
        let state = self.state.borrow();
        let is_used = |uuid: &Uuid| state.lvols.values().any(|l| l.parent == Parent::External(*uuid));
        self.esnaps.borrow_mut().retain(|uuid, _| is_used(uuid));
    }

    /// Freezes an lvol and all that descend from it.
    async fn freeze_family(self: &Rc<Self>, id: LvolId) -> Vec<Frozen> {
        let family: Vec<_> = {
            let state = self.state.borrow();
            let ids = state.lvols.keys().copied();
            ids.filter(|i| state.lineage(*i).any(|ancestor| ancestor == id)).collect()
        };
        let gates: Vec<_> = family.iter().map(|id| self.gate(*id)).collect();
        let mut frozen = Vec::new();
        for gate in gates {
            frozen.push(gate.freeze().await);
        }
        frozen
    }

    /// What cluster `index` of an lvol needs when its direct parent goes.
    fn need_without_parent(&self, id: LvolId, index: u64) -> Need {
        let state = self.state.borrow();
        let Some(lvol) = state.lvols.get(&id) else { return Need::Nothing };
        let Parent::Lvol(parent) = lvol.parent else { return Need::Nothing };
        let Some(parent) = state.lvols.get(&parent) else { return Need::Nothing };
        if lvol.map.entry(index) != Entry::Inherited {
            return Need::Nothing;
        }
        // Only a grandparent could show where the parent had zeros.
        let hides = parent.parent != Parent::None;
        match parent.map.entry(index) {
            Entry::Mapped(_) => Need::Copy,
            Entry::Hole if hides => Need::Hole,
            Entry::Inherited if hides && index >= parent.clusters => Need::Hole,
            Entry::Hole | Entry::Inherited => Need::Nothing,
        }
    }

    /// What cluster `index` of an lvol needs when it is to stand alone.
    fn need_alone(&self, id: LvolId, index: u64) -> Need {
        match self.state.borrow().place(id, index) {
            Some(Place::Inherited(_) | Place::External(_)) => Need::Copy,
            Some(Place::Own(_) | Place::Zeros) | None => Need::Nothing,
        }
    }

    /// Gives cluster `index` of an lvol what it needs.
    async fn settle(self: &Rc<Self>, id: LvolId, index: u64, need: impl Fn() -> Need) -> Result<(), IoError> {
        loop {
            if matches!(need(), Need::Nothing) {
                return Ok(());
            }
            let mapped = self.mapped.notified();
            let Some(mapping) = Mapping::begin(self, id, index) else {
                mapped.await;
                continue;
            };
            match need() {
                Need::Nothing => return Ok(()),
                Need::Copy => return self.copy_on_write(&mapping, Change::Nothing).await,
                Need::Hole => {
                    let record = Record::Unmap { id, start: index, count: 1 };
                    return match self.commit(record, Order::Plain).await {
                        // No room for more holes in the metadata.
                        Err(IoError::NoSpace) => self.map_zeros(&mapping).await,
                        result => result,
                    };
                }
            }
        }
    }

    async fn settle_all(
        self: &Rc<Self>,
        id: LvolId,
        need: impl Fn(&Self, LvolId, u64) -> Need,
    ) -> Result<(), IoError> {
        let clusters = self.state.borrow().lvols.get(&id).map_or(0, |l| l.clusters);
        let (need, this) = (&need, self);
        let indices = (0..clusters).filter(|index| !matches!(need(this, id, *index), Need::Nothing));
        futures::stream::iter(indices)
            .map(Ok)
            .try_for_each_concurrent(COPIES, |index| this.settle(id, index, move || need(this, id, index)))
            .await
    }
}

impl LvolModule {
    /// `bdev_lvol_snapshot`: a read-only lvol with what is acknowledged now; the lvol becomes its clone.
    ///
    /// # Errors
    /// -19, -22 bad name or read-only lvol, -17 taken name, -16 something is under way, -28 no room in the metadata.
    pub async fn snapshot(&self, name: &str, snapshot: &str) -> Result<Uuid, LvolError> {
        let (store, of, _alone) = self.locked(name).await?;
        let uuid = Uuid::new_v4();
        let new = NewLvol { uuid, name: snapshot };
        let record = store.state.borrow().plan_snapshot(&store.layout, of, new)?;
        store.check_idle(of)?;
        self.check_alias(&store, snapshot)?;
        let id = store.state.borrow().next_id;
        // A write that began before must not reach what is the snapshot's afterwards.
        let _frozen = store.gate(of).freeze().await;
        store.commit(record, Order::Durable).await?;
        self.publish(&store, id)?;
        Ok(uuid)
    }

    /// `bdev_lvol_clone`: a thin lvol that shows a read-only one.
    ///
    /// # Errors
    /// -19, -22 bad name or an lvol that can be written, -17 taken name, -16 something is under way, -28 no room in the metadata.
    pub async fn clone_lvol(&self, snapshot: &str, name: &str) -> Result<Uuid, LvolError> {
        let (store, of, _alone) = self.locked(snapshot).await?;
        let uuid = Uuid::new_v4();
        let record = store.state.borrow().plan_clone(&store.layout, of, NewLvol { uuid, name })?;
        store.check_idle(of)?;
        self.check_alias(&store, name)?;
        let id = store.state.borrow().next_id;
        store.commit(record, Order::Durable).await?;
        self.publish(&store, id)?;
        Ok(uuid)
    }

    /// Uuid and size in bytes of a bdev that may be an external snapshot.
    fn external(&self, store: &Store, bdev: &str) -> Result<(Uuid, u64), LvolError> {
        let info = self.registry.info(bdev)?;
        let invalid = |value: String, allowed| LvolError::Invalid { field: "bdev", value, allowed };
        if info.uuid.is_nil() {
            return Err(invalid(info.name, "a bdev with a uuid"));
        }
        if !store.layout.block_size.is_multiple_of(info.block_size) {
            return Err(invalid(
                format!("{} bytes a block", info.block_size),
                "a divisor of the lvstore's block size",
            ));
        }
        Ok((info.uuid, info.num_blocks * u64::from(info.block_size)))
    }

    /// Whether a bdev is an lvol of that lvstore.
    fn is_lvol_of(&self, store: &Store, bdev: &str) -> bool {
        let name = self.registry.canonical_name(bdev).ok();
        name.is_some_and(|name| store.volumes.borrow().values().any(|v| v.name() == name))
    }

    /// `bdev_lvol_clone_bdev`: a thin lvol that shows a bdev outside of the lvstore. If somebody may write the bdev, the lvol waits
    /// without a bdev until it comes anew.
    ///
    /// # Errors
    /// In words for what does not exist or is of the same lvstore; -22 bad name or size, -17 taken name, -28 no room in the metadata.
    pub async fn clone_bdev(self: &Rc<Self>, bdev: &str, lvs: &str, name: &str) -> Result<Uuid, LvolError> {
        let store =
            self.find(LvsSelector::Name(lvs)).map_err(|_| LvolError::Refused("lvs does not exist"))?;
        let _alone = std::sync::Arc::clone(&store.admin).lock_owned().await;
        if self.registry.info(bdev).is_err() {
            return Err(LvolError::Refused("bdev does not exist"));
        }
        if self.is_lvol_of(&store, bdev) {
            return Err(LvolError::Refused(
                "bdev is an lvol in same lvs as clone; use bdev_lvol_clone instead",
            ));
        }
        let external = self.external(&store, bdev)?;
        let uuid = Uuid::new_v4();
        let record =
            store.state.borrow().plan_clone_external(&store.layout, external, NewLvol { uuid, name })?;
        self.check_alias(&store, name)?;
        let id = store.state.borrow().next_id;
        store.commit(record, Order::Durable).await?;
        self.open_externals(&store);
        self.publish(&store, id)?;
        Ok(uuid)
    }

    /// `bdev_lvol_set_parent`: hangs a thin lvol below a snapshot of the same size.
    ///
    /// # Errors
    /// -19, -22 they do not fit, -17 it is there already, -16 something is under way.
    pub async fn set_parent(&self, name: &str, parent: &str) -> Result<(), LvolError> {
        let (store, id, _alone) = self.locked(name).await?;
        let not_found = || LvolError::VolumeNotFound { name: parent.to_owned() };
        let parent_id = {
            let bdev = self.registry.canonical_name(parent).map_err(|_| not_found())?;
            let volumes = store.volumes.borrow();
            volumes.iter().find(|(_, v)| v.name() == bdev).map(|(id, _)| *id).ok_or_else(not_found)?
        };
        let record = store.state.borrow().plan_set_parent(id, parent_id)?;
        store.check_family_idle(id)?;
        store.check_idle(parent_id)?;
        let _frozen = store.freeze_family(id).await;
        store.commit(record, Order::Durable).await?;
        store.close_unused_externals();
        Ok(())
    }

    /// `bdev_lvol_set_parent_bdev`: hangs a thin lvol below an external snapshot.
    ///
    /// # Errors
    /// -19, -22 they do not fit or the bdev can be written, -17 it is there already, -16 something is under way.
    pub async fn set_parent_bdev(self: &Rc<Self>, name: &str, parent: &str) -> Result<(), LvolError> {
        let (store, id, _alone) = self.locked(name).await?;
        let invalid = |allowed| {
            let value = parent.to_owned();
            Err(LvolError::Invalid { field: "parent_name", value, allowed })
        };
        if self.is_lvol_of(&store, parent) {
            return invalid("a bdev outside of the lvstore");
        }
        let external = self.external(&store, parent)?;
        let record = store.state.borrow().plan_set_external(&store.layout, id, external)?;
        store.check_family_idle(id)?;
        if self.open_external(&store, external.0).is_err() {
            return invalid("a bdev that nobody can write");
        }
        let _frozen = store.freeze_family(id).await;
        let done = store.commit(record, Order::Durable).await;
        store.close_unused_externals();
        Ok(done?)
    }

    /// `bdev_lvol_inflate`: copies everything from the parents, and makes the lvol thick.
    ///
    /// # Errors
    /// -19, -28 not enough free clusters, -16 something is under way, or the errno of an I/O error.
    pub async fn inflate(&self, name: &str) -> Result<(), LvolError> {
        let (store, id, alone) = self.locked(name).await?;
        let _busy = Busy::begin(&store, id)?;
        drop(alone);
        self.inflate_busy(&store, id).await
    }

    async fn inflate_busy(&self, store: &Rc<Store>, id: LvolId) -> Result<(), LvolError> {
        {
            let state = store.state.borrow();
            if state.lvols.get(&id).is_none_or(|l| !l.thin) {
                return Ok(());
            }
            let is_short = |l: &Lvol| !l.reserved && state.missing(id) > state.free_clusters();
            if state.lvols.get(&id).is_some_and(is_short) {
                return Err(LvolError::NoSpace);
            }
        }
        store.settle_all(id, Store::need_alone).await?;
        store.commit(Record::Inflated { id }, Order::Durable).await?;
        store.close_unused_externals();
        Ok(())
    }

    /// `bdev_lvol_decouple_parent`: copies what the direct parent has, and hangs the lvol below the parent's parent. A clone of an
    /// external snapshot is inflated.
    ///
    /// # Errors
    /// -19, -22 no parent, -28 not enough free clusters, -16 something is under way, or the errno of an I/O error.
    pub async fn decouple_parent(&self, name: &str) -> Result<(), LvolError> {
        let (store, id, alone) = self.locked(name).await?;
        let _busy = Busy::begin(&store, id)?;
        drop(alone);
        let (grandparent, needed, free) = {
            let state = store.state.borrow();
            let parent = state.lvols.get(&id).map_or(Parent::None, |l| l.parent);
            let (grandparent, clusters) = match parent {
                Parent::None => {
                    let (value, allowed) = (name.to_owned(), "an lvol with a parent");
                    return Err(LvolError::Invalid { field: "name", value, allowed });
                }
                Parent::External(_) => (None, 0),
                Parent::Lvol(parent) => (
                    state.lvols.get(&parent).map(|p| p.parent),
                    state.lvols.get(&id).map_or(0, |l| l.clusters),
                ),
            };
            let copies = (0..clusters).filter(|i| matches!(store.need_without_parent(id, *i), Need::Copy));
            (grandparent, copies.count() as u64, state.free_clusters())
        };
        let Some(grandparent) = grandparent else { return self.inflate_busy(&store, id).await };
        if needed > free {
            return Err(LvolError::NoSpace);
        }
        store.settle_all(id, Store::need_without_parent).await?;
        Ok(store.commit(Record::SetParent { id, parent: grandparent }, Order::Durable).await?)
    }

    /// Opens an external snapshot for an lvstore, unless it is.
    fn open_external(self: &Rc<Self>, store: &Rc<Store>, uuid: Uuid) -> Result<(), BdevError> {
        if store.esnaps.borrow().contains_key(&uuid) {
            return Ok(());
        }
        let (esnap, events) = Esnap::open(&self.registry, uuid, store.layout.block_size)?;
        store.esnaps.borrow_mut().insert(uuid, Rc::new(esnap));
        tokio::task::spawn_local(Rc::clone(self).watch_external(Rc::clone(store), uuid, events));
        Ok(())
    }

    /// Opens the external snapshots of an lvstore that are there.
    pub(super) fn open_externals(self: &Rc<Self>, store: &Rc<Store>) {
        let parents: Vec<_> = store.state.borrow().lvols.values().map(|l| l.parent).collect();
        for parent in parents {
            if let Parent::External(uuid) = parent
                && let Err(error) = self.open_external(store, uuid)
            {
                let name = &store.state.borrow().name;
                tracing::warn!(lvstore = %name, %uuid, %error, "an external snapshot is missing: its clones are no bdevs");
            }
        }
    }

    /// A bdev appeared: if lvols wait for it, they become bdevs.
    pub(super) async fn external_arrived(self: &Rc<Self>, bdev: &str) {
        let Ok(info) = self.registry.info(bdev) else { return };
        for store in self.all() {
            let waits = |store: &Store| {
                let state = store.state.borrow();
                let is_parent = state.lvols.values().any(|l| l.parent == Parent::External(info.uuid));
                is_parent && !store.esnaps.borrow().contains_key(&info.uuid)
            };
            if !waits(&store) {
                continue;
            }
            let _alone = std::sync::Arc::clone(&store.admin).lock_owned().await;
            if !waits(&store) {
                continue;
            }
            match self.open_external(&store, info.uuid) {
                Ok(()) => self.publish_all(&store),
                Err(error) => tracing::warn!(%bdev, %error, "an external snapshot can not be used"),
            }
        }
    }

    /// When an external snapshot goes, the bdevs that stand on it go too.
    async fn watch_external(self: Rc<Self>, store: Rc<Store>, uuid: Uuid, mut events: Events) {
        while let Some(event) = events.recv().await {
            if event != BdevEvent::Removed {
                continue;
            }
            let esnap = store.esnaps.borrow_mut().remove(&uuid);
            // At once: the bdev waits for it.
            if let Some(esnap) = esnap {
                esnap.close();
            }
            tracing::warn!(%uuid, "an external snapshot was removed: its clones are no bdevs any more");
            let _alone = std::sync::Arc::clone(&store.admin).lock_owned().await;
            let orphans: Vec<_> = {
                let volumes = store.volumes.borrow();
                volumes
                    .iter()
                    .filter(|(id, _)| store.is_degraded(**id))
                    .map(|(id, v)| (*id, v.clone()))
                    .collect()
            };
            let gone = orphans.iter().map(|(_, volume)| volume.unregister());
            futures::future::join_all(gone).await;
            for (id, _) in orphans {
                store.volumes.borrow_mut().remove(&id);
            }
            return;
        }
    }
}

#[cfg(test)]
#[path = "family_tests.rs"]
mod tests;
