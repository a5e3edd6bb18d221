//! What `bdev_lvol_*` does with lvstores.

use std::cell::RefCell;
use std::rc::Rc;

use futures::future::LocalBoxFuture;
use uuid::Uuid;

use super::LvolError;
use super::layout::{DEFAULT_CLUSTER, DEFAULT_RATIO, Layout};
use super::load;
use super::plan::check_name;
use super::shallow_copy::Copies;
use super::state::{LvolId, Record};
use super::store::{Order, Store};
use super::view::{LvolInfo, StoreInfo, lvol_infos, store_info};
use super::volume::{MODULE, Volume};
use crate::bdev::{
    BdevError, BdevEvent, ClaimType, Descriptor, Events, Examiner, IoType, NewBdev, Registration, Registry,
};

/// Metadata pages that SPDK would take, in bytes.
const MD_PAGES: std::ops::RangeInclusive<u32> = 4096..=65536;

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
    /// Bytes; checked as SPDK does, and without an effect: a metadata page has 4096 bytes.
    pub md_page_size: Option<u32>,
}

/// An lvstore by uuid or by name.
#[derive(Clone, Copy, Debug)]
pub enum LvsSelector<'a> {
    Uuid(&'a str),
    Name(&'a str),
}

/// All lvstores of the process.
pub struct LvolModule {
    pub(super) registry: Registry,
    stores: RefCell<Vec<Rc<Store>>>,
    pub(super) copies: Copies,
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
            module.external_arrived(&name).await;
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
            copies: Copies::default(),
            admin: tokio::sync::Mutex::default(),
        });
        registry.add_examiner(Rc::new(LvsExaminer(Rc::downgrade(&module))));
        module
    }

    pub(super) fn find(&self, select: LvsSelector<'_>) -> Result<Rc<Store>, LvolError> {
        let is_it = |s: &&Rc<Store>| match select {
            LvsSelector::Name(name) => s.state.borrow().name == name,
            LvsSelector::Uuid(uuid) => Uuid::parse_str(uuid).is_ok_and(|u| u == s.uuid),
        };
        let (LvsSelector::Uuid(name) | LvsSelector::Name(name)) = select;
        let found = self.stores.borrow().iter().find(is_it).cloned();
        found.ok_or_else(|| LvolError::StoreNotFound { name: name.to_owned() })
    }

    pub(super) fn all(&self) -> Vec<Rc<Store>> {
        self.stores.borrow().clone()
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
        check_name("lvs_name", &name)?;
        if let Some(size) = params.md_page_size.filter(|s| *s != 0)
            && !(MD_PAGES.contains(&size) && size.is_power_of_two())
        {
            let (value, allowed) = (size.to_string(), "a power of two from 4096 to 65536");
            return Err(LvolError::Invalid { field: "md_page_size", value, allowed });
        }
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
        load::format(&base, uuid, layout, &name).await?;
        let store = Store::load(base, load::Super { uuid, features: 0, layout }).await?;
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
            load::read_super(&base).await?
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
        let Some(sb) = load::read_super(&base).await? else { return Ok(()) };
        let uuid = sb.uuid;
        let store = Store::load(base, sb).await?;
        let name = store.state.borrow().name.clone();
        let uuid_taken = self.stores.borrow().iter().any(|s| s.uuid == uuid);
        if uuid_taken || self.is_name_taken(&name) {
            return Err(LvolError::Exists { what: "lvstore", name });
        }
        tracing::info!(lvstore = %name, bdev, "lvstore loaded");
        self.adopt(Rc::clone(&store), events);
        self.open_externals(&store);
        self.publish_all(&store);
        Ok(())
    }

    /// Registers the bdevs of all lvols that are complete and not registered yet.
    pub(super) fn publish_all(&self, store: &Rc<Store>) {
        let ids: Vec<_> = store.state.borrow().lvols.keys().copied().collect();
        for id in ids {
            if let Err(e) = self.publish(store, id) {
                let name = &store.state.borrow().name;
                tracing::error!(lvstore = %name, error = %e, "an lvol can not be made visible");
            }
        }
    }

    /// Registers the bdev of an lvol, unless it has one, or its external snapshot is missing.
    pub(super) fn publish(&self, store: &Rc<Store>, id: LvolId) -> Result<(), LvolError> {
        if store.volumes.borrow().contains_key(&id) || store.is_degraded(id) {
            return Ok(());
        }
        let (uuid, alias) = {
            let state = store.state.borrow();
            let Some(lvol) = state.lvols.get(&id) else { return Ok(()) };
            (lvol.uuid, format!("{}/{}", state.name, lvol.name))
        };
        let bdev = Rc::new(Volume { store: Rc::clone(store), id, uuid, gate: store.gate(id) });
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
        store.esnaps.borrow_mut().clear();
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
        store.esnaps.borrow_mut().clear();
        self.stores.borrow_mut().retain(|s| !Rc::ptr_eq(s, &store));
        match store.close() {
            Some(base) => load::wipe(&base).await,
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
        check_name("new_name", new)?;
        if old == new {
            return Ok(());
        }
        if self.is_name_taken(new) {
            return Err(LvolError::Exists { what: "lvstore", name: new.to_owned() });
        }
        store.commit(Record::RenameStore { name: new.to_owned() }, Order::Durable).await?;
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
        let record = store.state.borrow().plan_grow(&store.layout, blocks);
        match record {
            Some(record) => Ok(store.commit(record, Order::Durable).await?),
            None => Ok(()),
        }
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

#[cfg(test)]
#[path = "module_tests.rs"]
mod tests;
