//! What `bdev_lvol_*` does with lvols, snapshots and clones aside.

use std::rc::Rc;

use tokio::sync::OwnedMutexGuard;
use uuid::Uuid;

use super::LvolError;
use super::module::{LvolModule, LvsSelector};
use super::plan::NewLvol;
use super::state::{LvolClear, LvolId, Record};
use super::store::{Order, Store};
use crate::bdev::Registration;

const MIB: u64 = 1024 * 1024;

/// Something long is under way on an lvol while this lives: nothing else may change it or what it descends from.
pub(super) struct Busy {
    store: Rc<Store>,
    id: LvolId,
}

impl Busy {
    pub(super) fn begin(store: &Rc<Store>, id: LvolId) -> Result<Self, LvolError> {
        store.check_idle(id)?;
        store.busy.borrow_mut().insert(id);
        Ok(Self { store: Rc::clone(store), id })
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.store.busy.borrow_mut().remove(&self.id);
    }
}

impl Store {
    pub(super) fn name_of(&self, id: LvolId) -> String {
        self.state.borrow().lvols.get(&id).map(|l| l.name.clone()).unwrap_or_default()
    }

    /// # Errors
    /// -16 if something is under way on the lvol.
    pub(super) fn check_idle(&self, id: LvolId) -> Result<(), LvolError> {
        if self.busy.borrow().contains(&id) {
            return Err(LvolError::Busy { name: self.name_of(id) });
        }
        Ok(())
    }

    /// # Errors
    /// -16 if something is under way on the lvol or on one that descends from it.
    pub(super) fn check_family_idle(&self, id: LvolId) -> Result<(), LvolError> {
        let state = self.state.borrow();
        let busy = self.busy.borrow();
        let found = busy.iter().find(|b| state.lineage(**b).any(|ancestor| ancestor == id));
        found.map_or(Ok(()), |b| Err(LvolError::Busy { name: self.name_of(*b) }))
    }
}

/// An lvol with the administration of its lvstore locked.
pub(super) type Locked = (Rc<Store>, LvolId, OwnedMutexGuard<()>);

impl LvolModule {
    /// Finds an lvol by uuid or by `lvstore/lvol`, whether it is a bdev or not.
    fn resolve(&self, name: &str) -> Result<(Rc<Store>, LvolId), LvolError> {
        let by_uuid = Uuid::parse_str(name).ok();
        for store in self.all() {
            let state = store.state.borrow();
            let id = match by_uuid {
                Some(uuid) => state.lvols.iter().find(|(_, l)| l.uuid == uuid).map(|(id, _)| *id),
                None => name
                    .strip_prefix(&state.name)
                    .and_then(|rest| rest.strip_prefix('/'))
                    .and_then(|lvol| state.find(lvol)),
            };
            if let Some(id) = id {
                return Ok((Rc::clone(&store), id));
            }
        }
        Err(LvolError::VolumeNotFound { name: name.to_owned() })
    }

    async fn locked_any(&self, name: &str) -> Result<Locked, LvolError> {
        let (store, id) = self.resolve(name)?;
        let guard = std::sync::Arc::clone(&store.admin).lock_owned().await;
        if !store.state.borrow().lvols.contains_key(&id) {
            return Err(LvolError::VolumeNotFound { name: name.to_owned() });
        }
        Ok((store, id, guard))
    }

    /// Finds an lvol that is a bdev, and locks the administration of its lvstore.
    pub(super) async fn locked(&self, name: &str) -> Result<Locked, LvolError> {
        let (store, id, guard) = self.locked_any(name).await?;
        if !store.volumes.borrow().contains_key(&id) {
            return Err(LvolError::VolumeNotFound { name: name.to_owned() });
        }
        Ok((store, id, guard))
    }

    /// # Errors
    /// -17 if some bdev has the alias that an lvol of that name would have.
    pub(super) fn check_alias(&self, store: &Store, name: &str) -> Result<(), LvolError> {
        let alias = format!("{}/{name}", store.state.borrow().name);
        if self.registry.canonical_name(&alias).is_ok() {
            return Err(LvolError::Exists { what: "bdev", name: alias });
        }
        Ok(())
    }

    /// `bdev_lvol_create`: an lvol of at least `size_in_mib`, rounded up to clusters.
    ///
    /// # Errors
    /// -19 no such lvstore, -22 bad name or size, -17 taken name, -28 no space.
    pub async fn create(
        &self,
        select: LvsSelector<'_>,
        name: &str,
        size_in_mib: u64,
        thin: bool,
        clear: LvolClear,
    ) -> Result<Uuid, LvolError> {
        let store = self.find(select)?;
        let _alone = std::sync::Arc::clone(&store.admin).lock_owned().await;
        let clusters = clusters_for(&store, size_in_mib)?;
        let uuid = Uuid::new_v4();
        let new = NewLvol { uuid, name };
        let record = store.state.borrow().plan_create(&store.layout, new, thin, clear, clusters)?;
        self.check_alias(&store, name)?;
        let id = store.state.borrow().next_id;
        store.commit(record, Order::Durable).await?;
        self.publish(&store, id)?;
        Ok(uuid)
    }

    /// `bdev_lvol_delete`: takes the bdev from whoever has it open and frees its clusters. The only clone of a snapshot inherits what
    /// it does not have itself.
    ///
    /// # Errors
    /// -19, -1 a snapshot with several clones, -16 something is under way, or the errno of an I/O error.
    pub async fn delete(&self, name: &str) -> Result<(), LvolError> {
        let (store, id, _alone) = self.locked_any(name).await?;
        let clones: Vec<_> = store.state.borrow().clones(id).take(2).collect();
        if clones.len() > 1 {
            return Err(LvolError::HasClones { name: name.to_owned() });
        }
        store.check_family_idle(id)?;
        let volume = store.volumes.borrow().get(&id).cloned();
        if let Some(volume) = volume {
            volume.unregister().await;
        }
        store.volumes.borrow_mut().remove(&id);
        // A copy under way into the heir and what it inherits would be two clusters in one place.
        let _heir = match clones.first() {
            Some(heir) => Some(store.gate(*heir).freeze().await),
            None => None,
        };
        store.commit(Record::Delete { id }, Order::Durable).await?;
        store.gates.borrow_mut().remove(&id);
        store.close_unused_externals();
        Ok(())
    }

    /// `bdev_lvol_rename`, within its lvstore.
    ///
    /// # Errors
    /// -19, -22 not a name, -17 taken, -1 a read-only lvol.
    pub async fn rename(&self, old: &str, new: &str) -> Result<(), LvolError> {
        let (store, id, _alone) = self.locked(old).await?;
        let record = store.state.borrow().plan_rename(id, new)?;
        self.check_alias(&store, new)?;
        let (from, to) = {
            let state = store.state.borrow();
            (format!("{}/{}", state.name, store.name_of(id)), format!("{}/{new}", state.name))
        };
        store.commit(record, Order::Durable).await?;
        let volume = store.volumes.borrow().get(&id).cloned();
        Ok(volume.map_or(Ok(()), |v| v.replace_alias(&from, &to))?)
    }

    /// `bdev_lvol_resize`, rounded up to clusters. A shrink of an open lvol is refused and changes nothing.
    ///
    /// # Errors
    /// -19, -28 no space, -16 a shrink while open, or something is under way, -1 read-only.
    pub async fn resize(&self, name: &str, size_in_mib: u64) -> Result<(), LvolError> {
        let (store, id, _alone) = self.locked(name).await?;
        store.check_idle(id)?;
        let clusters = clusters_for(&store, size_in_mib)?;
        let volume = store.volumes.borrow().get(&id).cloned();
        let in_use = volume.as_ref().is_some_and(Registration::is_busy);
        let record = store.state.borrow().plan_resize(&store.layout, id, clusters, in_use)?;
        let Some(record) = record else { return Ok(()) };
        // Who opens it now must not be told of a write to what is being cut off.
        let is_shrink = store.state.borrow().lvols.get(&id).is_some_and(|l| clusters < l.clusters);
        let _frozen = if is_shrink { Some(store.gate(id).freeze().await) } else { None };
        store.commit(record, Order::Durable).await?;
        if let Some(volume) = volume {
            volume.notify_resize();
        }
        Ok(())
    }

    /// `bdev_lvol_set_read_only`, for ever.
    ///
    /// # Errors
    /// -19, or the errno of an I/O error.
    pub async fn set_read_only(&self, name: &str) -> Result<(), LvolError> {
        let (store, id, _alone) = self.locked(name).await?;
        // What is written now is still written.
        let _frozen = store.gate(id).freeze().await;
        Ok(store.commit(Record::SetReadOnly { id }, Order::Durable).await?)
    }
}

fn clusters_for(store: &Store, size_in_mib: u64) -> Result<u64, LvolError> {
    let bytes = size_in_mib.checked_mul(MIB).ok_or_else(|| LvolError::Invalid {
        field: "size_in_mib",
        value: size_in_mib.to_string(),
        allowed: "a size below 2^64 bytes",
    })?;
    Ok(bytes.div_ceil(u64::from(store.layout.cluster_size)))
}
