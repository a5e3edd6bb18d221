//! `bdev_lvol_*`.
//!
//! SPDK answers refusals that it finds before it starts with their errno, and those that come up on the way with -32602.

use std::rc::Rc;

use vda_spdk::{
    BdevLvolCheckShallowCopy, BdevLvolClone, BdevLvolCloneBdev, BdevLvolCreate, BdevLvolCreateLvstore,
    BdevLvolDecoupleParent, BdevLvolDelete, BdevLvolDeleteLvstore, BdevLvolGetLvols, BdevLvolGetLvstores,
    BdevLvolGrowLvstore, BdevLvolInflate, BdevLvolRename, BdevLvolRenameLvstore, BdevLvolResize,
    BdevLvolSetParent, BdevLvolSetParentBdev, BdevLvolSetReadOnly, BdevLvolSnapshot,
    BdevLvolStartShallowCopy, Errno, Lvol, LvolClearMethod, LvolLvstore, LvsClearMethod, Lvstore,
    ShallowCopy, ShallowCopyStarted,
};

use super::{Methods, RpcError, State, config};
use crate::app::App;
use crate::lvstore::{
    ClearMethod, CopyStatus, CreateStore, LvolClear, LvolError, LvolInfo, LvolModule, LvsSelector, StoreInfo,
};

impl From<LvolError> for RpcError {
    fn from(e: LvolError) -> Self {
        // The answer is SPDK's and says little; the log says the rest.
        tracing::info!(refusal = %e, "lvol call refused");
        Self::errno(Errno(e.errno()))
    }
}

/// What comes up while an operation runs: -32602 with the text of the errno. Missing things keep their errno.
fn underway(e: LvolError) -> RpcError {
    match e {
        LvolError::StoreNotFound { .. } | LvolError::VolumeNotFound { .. } => e.into(),
        LvolError::Refused(why) => RpcError::invalid_params(why),
        e => {
            tracing::info!(refusal = %e, "lvol call refused");
            RpcError::invalid_params(Errno(e.errno()).message())
        }
    }
}

/// Like [`underway`], of a deletion: -32603.
fn undeletable(e: LvolError) -> RpcError {
    match e {
        LvolError::VolumeNotFound { .. } => e.into(),
        e => {
            tracing::info!(refusal = %e, "lvol call refused");
            RpcError::internal(Errno(e.errno()).message())
        }
    }
}

/// One of `uuid` and `lvs_name`; both are -22, none is `None`.
fn select<'a>(
    uuid: Option<&'a String>,
    name: Option<&'a String>,
) -> Result<Option<LvsSelector<'a>>, RpcError> {
    match (uuid, name) {
        (Some(_), Some(_)) => Err(RpcError::errno(Errno::EINVAL)),
        (Some(uuid), None) => Ok(Some(LvsSelector::Uuid(uuid))),
        (None, Some(name)) => Ok(Some(LvsSelector::Name(name))),
        (None, None) => Ok(None),
    }
}

/// One of `uuid` and `lvs_name`; anything else is -22.
fn one<'a>(uuid: Option<&'a String>, name: Option<&'a String>) -> Result<LvsSelector<'a>, RpcError> {
    select(uuid, name)?.ok_or_else(|| RpcError::errno(Errno::EINVAL))
}

pub(super) fn register(methods: &mut Methods, app: &Rc<App>) {
    let lvols = LvolModule::new(app.bdevs.clone());
    let m = Rc::clone(&lvols);
    methods.config_parts(move |app| (Vec::new(), saved(&m, app)));
    register_stores(methods, &lvols);
    register_volumes(methods, &lvols);
    register_family(methods, &lvols);
    register_copies(methods, &lvols);
    register_views(methods, &lvols);
}

/// What has to be done to find the lvstores again.
fn saved(lvols: &LvolModule, app: &App) -> Vec<config::Part> {
    let all = lvols.lvols(None).unwrap_or_default();
    let volumes = |store: &StoreInfo| {
        all.iter().filter(|lvol| lvol.lvs_uuid == store.uuid).map(|lvol| lvol.uuid.to_string()).collect()
    };
    let stores = lvols.stores(None).unwrap_or_default();
    let part = |s: &StoreInfo| config::store_parts(app.bdevs.is_auto_examine(), &s.base_bdev, volumes(s));
    stores.iter().map(part).collect()
}

fn register_stores(methods: &mut Methods, lvols: &Rc<LvolModule>) {
    let m = Rc::clone(lvols);
    methods.method::<BdevLvolCreateLvstore>(State::Runtime, async move |_, call| {
        let params = CreateStore {
            bdev_name: call.bdev_name,
            lvs_name: call.lvs_name,
            cluster_sz: call.cluster_sz,
            clear_method: match call.clear_method {
                None | Some(LvsClearMethod::Unmap) => ClearMethod::Unmap,
                Some(LvsClearMethod::WriteZeroes) => ClearMethod::WriteZeroes,
                Some(LvsClearMethod::None) => ClearMethod::None,
            },
            num_md_pages_per_cluster_ratio: call.num_md_pages_per_cluster_ratio,
            md_page_size: call.md_page_size,
        };
        Ok(m.create_store(params).await?)
    });
    let m = Rc::clone(lvols);
    methods.method::<BdevLvolDeleteLvstore>(State::Runtime, async move |_, call| {
        m.delete_store(one(call.uuid.as_ref(), call.lvs_name.as_ref())?).await.map_err(underway)?;
        Ok(true)
    });
    let m = Rc::clone(lvols);
    methods.method::<BdevLvolRenameLvstore>(State::Runtime, async move |_, call| {
        match m.rename_store(&call.old_name, &call.new_name).await {
            Ok(()) => Ok(true),
            Err(LvolError::StoreNotFound { name }) => {
                Err(RpcError::new(Errno::ENOENT.code(), format!("Lvol store {name} not found")))
            }
            Err(e) => Err(underway(e)),
        }
    });
    let m = Rc::clone(lvols);
    methods.method::<BdevLvolGrowLvstore>(State::Runtime, async move |_, call| {
        m.grow_store(one(call.uuid.as_ref(), call.lvs_name.as_ref())?).await.map_err(underway)?;
        Ok(true)
    });
}

fn register_volumes(methods: &mut Methods, lvols: &Rc<LvolModule>) {
    let m = Rc::clone(lvols);
    methods.method::<BdevLvolCreate>(State::Runtime, async move |_, call| {
        let store = one(call.uuid.as_ref(), call.lvs_name.as_ref())?;
        let thin = call.thin_provision.unwrap_or(false);
        let clear = match call.clear_method {
            None | Some(LvolClearMethod::Default | LvolClearMethod::Unmap) => LvolClear::Unmap,
            Some(LvolClearMethod::WriteZeroes) => LvolClear::WriteZeroes,
            Some(LvolClearMethod::None) => LvolClear::None,
        };
        let created = m.create(store, &call.lvol_name, call.size_in_mib, thin, clear).await;
        match created {
            Ok(uuid) => Ok(uuid.to_string()),
            // A bad or taken name is found before anything starts.
            Err(e @ (LvolError::Exists { .. } | LvolError::Invalid { .. })) => Err(e.into()),
            Err(e) => Err(underway(e)),
        }
    });
    let m = Rc::clone(lvols);
    methods.method::<BdevLvolDelete>(State::Runtime, async move |_, call| {
        m.delete(&call.name).await.map_err(undeletable)?;
        Ok(true)
    });
    let m = Rc::clone(lvols);
    methods.method::<BdevLvolRename>(State::Runtime, async move |_, call| {
        m.rename(&call.old_name, &call.new_name).await.map_err(underway)?;
        Ok(true)
    });
    let m = Rc::clone(lvols);
    methods.method::<BdevLvolResize>(State::Runtime, async move |_, call| {
        m.resize(&call.name, call.size_in_mib).await.map_err(underway)?;
        Ok(true)
    });
    let m = Rc::clone(lvols);
    methods.method::<BdevLvolSetReadOnly>(State::Runtime, async move |_, call| {
        m.set_read_only(&call.name).await.map_err(underway)?;
        Ok(true)
    });
}

fn register_family(methods: &mut Methods, lvols: &Rc<LvolModule>) {
    let m = Rc::clone(lvols);
    methods.method::<BdevLvolSnapshot>(State::Runtime, async move |_, call| {
        let taken = m.snapshot(&call.lvol_name, &call.snapshot_name).await;
        taken.map(|uuid| uuid.to_string()).map_err(underway)
    });
    let m = Rc::clone(lvols);
    methods.method::<BdevLvolClone>(State::Runtime, async move |_, call| {
        let made = m.clone_lvol(&call.snapshot_name, &call.clone_name).await;
        made.map(|uuid| uuid.to_string()).map_err(underway)
    });
    let m = Rc::clone(lvols);
    methods.method::<BdevLvolCloneBdev>(State::Runtime, async move |_, call| {
        let made = m.clone_bdev(&call.bdev, &call.lvs_name, &call.clone_name).await;
        made.map(|uuid| uuid.to_string()).map_err(underway)
    });
    let m = Rc::clone(lvols);
    methods.method::<BdevLvolInflate>(State::Runtime, async move |_, call| {
        m.inflate(&call.name).await.map_err(underway)?;
        Ok(true)
    });
    let m = Rc::clone(lvols);
    methods.method::<BdevLvolDecoupleParent>(State::Runtime, async move |_, call| {
        m.decouple_parent(&call.name).await.map_err(underway)?;
        Ok(true)
    });
    let m = Rc::clone(lvols);
    methods.method::<BdevLvolSetParent>(State::Runtime, async move |_, call| {
        m.set_parent(&call.lvol_name, &call.parent_name).await.map_err(underway)?;
        Ok(true)
    });
    let m = Rc::clone(lvols);
    methods.method::<BdevLvolSetParentBdev>(State::Runtime, async move |_, call| {
        m.set_parent_bdev(&call.lvol_name, &call.parent_name).await.map_err(underway)?;
        Ok(true)
    });
}

fn register_copies(methods: &mut Methods, lvols: &Rc<LvolModule>) {
    let m = Rc::clone(lvols);
    methods.method::<BdevLvolStartShallowCopy>(State::Runtime, async move |_, call| {
        let started = m.start_shallow_copy(&call.src_lvol_name, &call.dst_bdev_name).await;
        Ok(ShallowCopyStarted::new(started.map_err(underway)?))
    });
    let m = Rc::clone(lvols);
    methods.method::<BdevLvolCheckShallowCopy>(State::Runtime, async move |_, call| {
        let status = m.check_shallow_copy(call.operation_id);
        status.map(shallow_copy).ok_or_else(|| RpcError::errno(Errno::ENODEV))
    });
}

fn shallow_copy(status: CopyStatus) -> ShallowCopy {
    let state = match status.error {
        Some(_) => "error",
        None if status.done => "complete",
        None => "in progress",
    };
    ShallowCopy {
        error: status.error.map(|errno| Errno(errno).message().to_owned()),
        ..ShallowCopy::new(status.copied_clusters, status.total_clusters, state)
    }
}

fn register_views(methods: &mut Methods, lvols: &Rc<LvolModule>) {
    let m = Rc::clone(lvols);
    methods.method::<BdevLvolGetLvstores>(State::Runtime, async move |_, call| {
        let stores = m.stores(select(call.uuid.as_ref(), call.lvs_name.as_ref())?)?;
        Ok(stores.into_iter().map(lvstore).collect())
    });
    let m = Rc::clone(lvols);
    methods.method::<BdevLvolGetLvols>(State::Runtime, async move |_, call| {
        let found = m.lvols(select(call.lvs_uuid.as_ref(), call.lvs_name.as_ref())?)?;
        Ok(found.into_iter().map(lvol).collect())
    });
}

fn lvstore(info: StoreInfo) -> Lvstore {
    Lvstore {
        uuid: info.uuid,
        name: info.name,
        base_bdev: info.base_bdev,
        total_data_clusters: info.total_data_clusters,
        free_clusters: info.free_clusters,
        block_size: info.block_size,
        cluster_size: info.cluster_size,
        max_growable_size: Some(info.max_growable_size),
    }
}

fn lvol(info: LvolInfo) -> Lvol {
    Lvol {
        alias: info.alias,
        uuid: info.uuid.to_string(),
        name: info.name,
        is_thin_provisioned: info.thin,
        is_snapshot: info.snapshot,
        is_clone: info.clone,
        is_esnap_clone: info.esnap_clone,
        is_degraded: info.degraded,
        lvs: LvolLvstore { name: info.lvs_name, uuid: info.lvs_uuid },
        num_allocated_clusters: Some(info.num_allocated_clusters),
    }
}
