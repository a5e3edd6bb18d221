//! What `bdev_lvol_*` does.

use std::cell::RefCell;
use std::rc::Rc;

use futures::future::LocalBoxFuture;
use uuid::Uuid;

use super::LvolError;
use super::layout::{DEFAULT_CLUSTER, DEFAULT_RATIO, Layout};
use super::state::{self, LvolId, Record};
use super::store::{self, Store};
use super::volume::{MODULE, Volume};
use crate::bdev::{
    BdevError, BdevEvent, ClaimType, Descriptor, Events, Examiner, IoType, NewBdev, Registration, Registry,
};

const MIB: u64 = 1024 * 1024;

/// What is done with the whole bdev when an lvstore is made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ClearMethod {
    #[default]
    Unmap,
    WriteZeroes,
    None,
}

/// Parameters of `bdev_lvol_create_lvstore`.
#[derive(Clone, Debug, Default)]
pub struct CreateStore {
    pub bdev_name: String,
    pub lvs_name: String,
    /// Bytes; 4 MiB if absent or 0.
    pub cluster_sz: Option<u32>,
    pub clear_method: ClearMethod,
    /// Percent; how much room for growth the metadata gets. 100 if absent.
    pub num_md_pages_per_cluster_ratio: Option<u32>,
}

/// An lvstore by uuid or by name.
#[derive(Clone, Copy, Debug)]
pub enum LvsSelector<'a> {
    Uuid(&'a str),
    Name(&'a str),
}

/// What `bdev_lvol_get_lvstores` shows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoreInfo {
    pub uuid: Uuid,
    pub name: String,
    pub base_bdev: String,
    pub total_data_clusters: u64,
    pub free_clusters: u64,
    /// Bytes.
    pub block_size: u64,
    /// Bytes.
    pub cluster_size: u64,
    /// Bytes.
    pub max_growable_size: u64,
}

/// What `bdev_lvol_get_lvols` shows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LvolInfo {
    pub alias: String,
    pub uuid: Uuid,
    pub name: String,
    pub thin: bool,
    pub num_allocated_clusters: u64,
    pub lvs_name: String,
    pub lvs_uuid: Uuid,
}

/// All lvstores of the process.
pub struct LvolModule {
    registry: Registry,
    stores: RefCell<Vec<Rc<Store>>>,
    /// One creation, load, rename or deletion of an lvstore at a time.
    admin: tokio::sync::Mutex<()>,
}

/// Examines for lvstores. Holds the module weakly: the registry lives longer.
struct LvsExaminer(std::rc::Weak<LvolModule>);

impl Examiner for LvsExaminer {
    fn examine(&self, _registry: Registry, name: String) -> LocalBoxFuture<'static, ()> {
        let module = self.0.upgrade();
        Box::pin(async move {
            let Some(module) = module else { return };
            match module.examine(&name).await {
                Ok(()) => {}
                Err(e) => tracing::error!(bdev = %name, error = %e, "lvstore can not be loaded"),
            }
        })
    }
}

impl LvolModule {
    /// Starts the module and has it examine new bdevs.
    pub fn new(registry: Registry) -> Rc<Self> {
        let module = Rc::new(Self {
            registry: registry.clone(),
            stores: RefCell::default(),
            admin: tokio::sync::Mutex::default(),
        });
        registry.add_examiner(Rc::new(LvsExaminer(Rc::downgrade(&module))));
        module
    }

    fn find(&self, select: LvsSelector<'_>) -> Result<Rc<Store>, LvolError> {
        let is_it = |s: &&Rc<Store>| match select {
            LvsSelector::Name(name) => s.state.borrow().name == name,
            LvsSelector::Uuid(uuid) => Uuid::parse_str(uuid).is_ok_and(|u| u == s.uuid),
        };
        let (LvsSelector::Uuid(name) | LvsSelector::Name(name)) = select;
        let found = self.stores.borrow().iter().find(is_it).cloned();
        found.ok_or_else(|| LvolError::StoreNotFound { name: name.to_owned() })
    }

    fn is_name_taken(&self, name: &str) -> bool {
        self.stores.borrow().iter().any(|s| s.state.borrow().name == name)
    }

    fn claim(&self, bdev: &str) -> Result<(Descriptor, Events), LvolError> {
        let (mut base, events) = self.registry.open(bdev, false)?;
        base.claim(ClaimType::ReadManyWriteOne, MODULE)?;
        Ok((base, events))
    }

    /// `bdev_lvol_create_lvstore`: formats a bdev.
    ///
    /// # Errors
    /// -22 bad name or geometry, -17 taken name, -19 no such bdev, -1 claimed bdev, or the errno of an I/O error.
    pub async fn create_store(self: &Rc<Self>, params: CreateStore) -> Result<Uuid, LvolError> {
        let _one = self.admin.lock().await;
        let name = params.lvs_name;
        state::check_name("lvs_name", &name)?;
        let bdev = self.registry.canonical_name(&params.bdev_name)?;
        if self.is_name_taken(&name) {
            return Err(LvolError::Exists { what: "lvstore", name });
        }
        let (base, events) = self.claim(&bdev)?;
        let cluster = params.cluster_sz.filter(|c| *c != 0).unwrap_or(DEFAULT_CLUSTER);
        let ratio = params.num_md_pages_per_cluster_ratio.unwrap_or(DEFAULT_RATIO);
        let layout = Layout::new(base.block_size(), base.num_blocks(), cluster, ratio)?;
        clear(&base, params.clear_method).await?;
        let uuid = Uuid::new_v4();
        store::format(&base, uuid, layout, &name).await?;
        let store = Store::load(base, uuid, layout).await?;
        self.adopt(store, events);
        Ok(uuid)
    }

    /// Adds a loaded lvstore and watches its base bdev.
    fn adopt(self: &Rc<Self>, store: Rc<Store>, mut events: Events) {
        self.stores.borrow_mut().push(Rc::clone(&store));
        let module = Rc::clone(self);
        tokio::task::spawn_local(async move {
            while let Some(event) = events.recv().await {
                if event == BdevEvent::Removed {
                    module.unload(&store).await;
                    return;
                }
            }
        });
    }

    /// Loads the lvstore on a bdev, if there is one.
    async fn examine(self: &Rc<Self>, bdev: &str) -> Result<(), LvolError> {
        let found = {
            let Ok((base, _events)) = self.registry.open(bdev, false) else { return Ok(()) };
            store::read_super(&base).await?
        };
        if found.is_none() {
            return Ok(());
        }
        let _one = self.admin.lock().await;
        let (base, events) = match self.claim(bdev) {
            Ok(opened) => opened,
            // Somebody else's, or loaded already.
            Err(LvolError::Bdev(BdevError::Claimed { .. } | BdevError::NotFound { .. })) => return Ok(()),
            Err(e) => return Err(e),
        };
        let Some((uuid, layout)) = store::read_super(&base).await? else { return Ok(()) };
        let store = Store::load(base, uuid, layout).await?;
        let name = store.state.borrow().name.clone();
        let uuid_taken = self.stores.borrow().iter().any(|s| s.uuid == uuid);
        if uuid_taken || self.is_name_taken(&name) {
            return Err(LvolError::Exists { what: "lvstore", name });
        }
        tracing::info!(lvstore = %name, bdev, "lvstore loaded");
        self.adopt(Rc::clone(&store), events);
        let ids: Vec<_> = store.state.borrow().lvols.keys().copied().collect();
        for id in ids {
            if let Err(e) = self.publish(&store, id) {
                tracing::error!(lvstore = %name, error = %e, "an lvol can not be made visible");
            }
        }
        Ok(())
    }

    /// Registers the bdev of an lvol.
    fn publish(&self, store: &Rc<Store>, id: LvolId) -> Result<(), LvolError> {
        let (uuid, alias) = {
            let state = store.state.borrow();
            let Some(lvol) = state.lvols.get(&id) else { return Ok(()) };
            (lvol.uuid, format!("{}/{}", state.name, lvol.name))
        };
        let bdev = Rc::new(Volume { store: Rc::clone(store), id, uuid });
        let new = NewBdev { name: uuid.to_string(), aliases: vec![alias], bdev };
        let registration = self.registry.register(new)?;
        store.volumes.borrow_mut().insert(id, registration);
        Ok(())
    }

    /// Takes the bdevs of an lvstore away and lets go of its base.
    async fn unload(&self, store: &Rc<Store>) {
        let volumes: Vec<_> = store.volumes.borrow().values().cloned().collect();
        let gone = volumes.iter().map(Registration::unregister);
        futures::future::join_all(gone).await;
        store.volumes.borrow_mut().clear();
        drop(store.close());
        self.stores.borrow_mut().retain(|s| !Rc::ptr_eq(s, store));
    }

    /// `bdev_lvol_delete_lvstore`: takes its lvols away and makes the bdev hold no lvstore.
    ///
    /// # Errors
    /// -19, or the errno of an I/O error.
    pub async fn delete_store(&self, select: LvsSelector<'_>) -> Result<(), LvolError> {
        let _one = self.admin.lock().await;
        let store = self.find(select)?;
        let _no_more = store.admin.lock().await;
        let volumes: Vec<_> = store.volumes.borrow().values().cloned().collect();
        futures::future::join_all(volumes.iter().map(Registration::unregister)).await;
        store.volumes.borrow_mut().clear();
        self.stores.borrow_mut().retain(|s| !Rc::ptr_eq(s, &store));
        match store.close() {
            Some(base) => store::wipe(&base).await,
            None => Ok(()),
        }
    }

    /// `bdev_lvol_rename_lvstore`.
    ///
    /// # Errors
    /// -19 no such lvstore, -17 the new name is taken, -22 it is not a name.
    pub async fn rename_store(&self, old: &str, new: &str) -> Result<(), LvolError> {
        let _one = self.admin.lock().await;
        let store = self.find(LvsSelector::Name(old))?;
        let _alone = store.admin.lock().await;
        state::check_name("new_name", new)?;
        if old == new {
            return Ok(());
        }
        if self.is_name_taken(new) {
            return Err(LvolError::Exists { what: "lvstore", name: new.to_owned() });
        }
        store.commit(Record::RenameStore { name: new.to_owned() }, true).await?;
        for (id, volume) in store.volumes.borrow().iter() {
            let state = store.state.borrow();
            let Some(lvol) = state.lvols.get(id) else { continue };
            let (from, to) = (format!("{old}/{}", lvol.name), format!("{new}/{}", lvol.name));
            if let Err(e) = volume.replace_alias(&from, &to) {
                tracing::error!(error = %e, "an lvol has no alias after the rename of its lvstore");
            }
        }
        Ok(())
    }

    /// `bdev_lvol_grow_lvstore`: uses what the base bdev grew by.
    ///
    /// # Errors
    /// -19, or the errno of an I/O error.
    pub async fn grow_store(&self, select: LvsSelector<'_>) -> Result<(), LvolError> {
        let store = self.find(select)?;
        let _alone = store.admin.lock().await;
        let blocks = store.on_base(Descriptor::num_blocks)?;
        let clusters = store.layout.data_clusters(blocks);
        if clusters > store.state.borrow().clusters {
            store.commit(Record::Grow { clusters }, true).await?;
        }
        Ok(())
    }

    /// `bdev_lvol_get_lvstores`: one, or all.
    ///
    /// # Errors
    /// -19.
    pub fn stores(&self, select: Option<LvsSelector<'_>>) -> Result<Vec<StoreInfo>, LvolError> {
        let stores = match select {
            Some(select) => vec![self.find(select)?],
            None => self.stores.borrow().clone(),
        };
        Ok(stores.iter().map(|s| store_info(s)).collect())
    }

    /// `bdev_lvol_get_lvols`: of one lvstore, or all.
    ///
    /// # Errors
    /// -19.
    pub fn lvols(&self, select: Option<LvsSelector<'_>>) -> Result<Vec<LvolInfo>, LvolError> {
        let stores = match select {
            Some(select) => vec![self.find(select)?],
            None => self.stores.borrow().clone(),
        };
        Ok(stores.iter().flat_map(|s| lvol_infos(s)).collect())
    }

    /// Finds an lvol by uuid or by `lvstore/lvol`.
    fn resolve(&self, name: &str) -> Result<(Rc<Store>, LvolId), LvolError> {
        let by_uuid = Uuid::parse_str(name).ok();
        for store in self.stores.borrow().iter() {
            let state = store.state.borrow();
            let id = match by_uuid {
                Some(uuid) => state.lvols.iter().find(|(_, l)| l.uuid == uuid).map(|(id, _)| *id),
                None => name
                    .strip_prefix(&state.name)
                    .and_then(|rest| rest.strip_prefix('/'))
                    .and_then(|lvol| state.find(lvol)),
            };
            if let Some(id) = id {
                return Ok((Rc::clone(store), id));
            }
        }
        Err(LvolError::VolumeNotFound { name: name.to_owned() })
    }

    /// Like [`Self::resolve`], with the lvstore's administration locked.
    async fn locked(
        &self,
        name: &str,
    ) -> Result<(Rc<Store>, LvolId, tokio::sync::OwnedMutexGuard<()>), LvolError> {
        let (store, id) = self.resolve(name)?;
        let guard = std::sync::Arc::clone(&store.admin).lock_owned().await;
        if !store.state.borrow().lvols.contains_key(&id) {
            return Err(LvolError::VolumeNotFound { name: name.to_owned() });
        }
        Ok((store, id, guard))
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
    ) -> Result<Uuid, LvolError> {
        let store = self.find(select)?;
        let _alone = std::sync::Arc::clone(&store.admin).lock_owned().await;
        let clusters = clusters_for(&store, size_in_mib)?;
        let uuid = Uuid::new_v4();
        let record = store.state.borrow().plan_create(&store.layout, uuid, name, thin, clusters)?;
        let alias = format!("{}/{name}", store.state.borrow().name);
        if self.registry.canonical_name(&alias).is_ok() {
            return Err(LvolError::Exists { what: "bdev", name: alias });
        }
        let id = store.state.borrow().next_id;
        store.commit(record, true).await?;
        self.publish(&store, id)?;
        Ok(uuid)
    }

    /// `bdev_lvol_delete`: takes the bdev from whoever has it open and frees its clusters.
    ///
    /// # Errors
    /// -19, or the errno of an I/O error.
    pub async fn delete(&self, name: &str) -> Result<(), LvolError> {
        let (store, id, _alone) = self.locked(name).await?;
        let volume = store.volumes.borrow().get(&id).cloned();
        if let Some(volume) = volume {
            volume.unregister().await;
        }
        store.volumes.borrow_mut().remove(&id);
        Ok(store.commit(Record::Delete { id }, true).await?)
    }

    /// `bdev_lvol_rename`, within its lvstore.
    ///
    /// # Errors
    /// -19, -22 not a name, -17 taken.
    pub async fn rename(&self, old: &str, new: &str) -> Result<(), LvolError> {
        let (store, id, _alone) = self.locked(old).await?;
        let (from, to, record) = {
            let state = store.state.borrow();
            let name = state.lvols.get(&id).map(|l| l.name.clone()).unwrap_or_default();
            if name == new {
                return Ok(());
            }
            let record = state.plan_rename(id, new)?;
            (format!("{}/{name}", state.name), format!("{}/{new}", state.name), record)
        };
        if self.registry.canonical_name(&to).is_ok() {
            return Err(LvolError::Exists { what: "bdev", name: to });
        }
        store.commit(record, true).await?;
        let volume = store.volumes.borrow().get(&id).cloned();
        Ok(volume.map_or(Ok(()), |v| v.replace_alias(&from, &to))?)
    }

    /// `bdev_lvol_resize`, rounded up to clusters. A shrink of an open lvol is refused and changes nothing.
    ///
    /// # Errors
    /// -19, -28 no space, -16 a shrink while open, -1 read-only.
    pub async fn resize(&self, name: &str, size_in_mib: u64) -> Result<(), LvolError> {
        let (store, id, _alone) = self.locked(name).await?;
        let clusters = clusters_for(&store, size_in_mib)?;
        let volume = store.volumes.borrow().get(&id).cloned();
        let in_use = volume.as_ref().is_some_and(Registration::is_busy);
        let record = store.state.borrow().plan_resize(&store.layout, id, clusters, in_use)?;
        let Some(record) = record else { return Ok(()) };
        store.commit(record, true).await?;
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
        Ok(store.commit(Record::SetReadOnly { id }, true).await?)
    }
}

async fn clear(base: &Descriptor, method: ClearMethod) -> Result<(), LvolError> {
    let blocks = base.num_blocks();
    match method {
        ClearMethod::Unmap if base.supports(IoType::Unmap) => base.unmap(0, blocks).await?,
        ClearMethod::WriteZeroes => base.write_zeroes(0, blocks, false).await?,
        ClearMethod::Unmap | ClearMethod::None => {}
    }
    Ok(())
}

fn clusters_for(store: &Store, size_in_mib: u64) -> Result<u64, LvolError> {
    let bytes = size_in_mib.checked_mul(MIB).ok_or_else(|| LvolError::Invalid {
        field: "size_in_mib",
        value: size_in_mib.to_string(),
        allowed: "a size below 2^64 bytes",
    })?;
    Ok(bytes.div_ceil(u64::from(store.layout.cluster_size)))
}

fn store_info(store: &Store) -> StoreInfo {
    let state = store.state.borrow();
    StoreInfo {
        uuid: store.uuid,
        name: state.name.clone(),
        base_bdev: store.base_name().to_owned(),
        total_data_clusters: u64::from(state.clusters),
        free_clusters: state.free_clusters(),
        block_size: u64::from(store.layout.block_size),
        cluster_size: u64::from(store.layout.cluster_size),
        max_growable_size: store.layout.max_growable_size(),
    }
}

fn lvol_infos(store: &Store) -> Vec<LvolInfo> {
    let state = store.state.borrow();
    let infos = state.lvols.values().map(|lvol| LvolInfo {
        alias: format!("{}/{}", state.name, lvol.name),
        uuid: lvol.uuid,
        name: lvol.name.clone(),
        thin: lvol.thin,
        num_allocated_clusters: lvol.allocated(),
        lvs_name: state.name.clone(),
        lvs_uuid: store.uuid,
    });
    infos.collect()
}

#[cfg(test)]
#[path = "module_tests.rs"]
mod tests;
