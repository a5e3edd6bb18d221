//! How lvstores and lvols are shown.

use serde_json::{Value, json};
use uuid::Uuid;

use super::state::{LvolId, Parent};
use super::store::Store;

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
    pub snapshot: bool,
    pub clone: bool,
    pub esnap_clone: bool,
    /// Its external snapshot is missing, so it is no bdev.
    pub degraded: bool,
    pub num_allocated_clusters: u64,
    pub lvs_name: String,
    pub lvs_uuid: Uuid,
}

pub(super) fn store_info(store: &Store) -> StoreInfo {
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

pub(super) fn lvol_infos(store: &Store) -> Vec<LvolInfo> {
    let state = store.state.borrow();
    let infos = state.lvols.iter().map(|(id, lvol)| LvolInfo {
        alias: format!("{}/{}", state.name, lvol.name),
        uuid: lvol.uuid,
        name: lvol.name.clone(),
        thin: lvol.thin,
        snapshot: lvol.snapshot,
        clone: matches!(lvol.parent, Parent::Lvol(_)),
        esnap_clone: matches!(lvol.parent, Parent::External(_)),
        degraded: store.is_degraded(*id),
        num_allocated_clusters: lvol.allocated(),
        lvs_name: state.name.clone(),
        lvs_uuid: store.uuid,
    });
    infos.collect()
}

/// `driver_specific` of an lvol's bdev.
pub(super) fn driver_specific(store: &Store, id: LvolId) -> Value {
    let state = store.state.borrow();
    let Some(lvol) = state.lvols.get(&id) else { return json!({}) };
    let name = |id: LvolId| state.lvols.get(&id).map(|l| l.name.clone()).unwrap_or_default();
    let mut shown = json!({
        "lvol_store_uuid": store.uuid.to_string(),
        "base_bdev": store.base_name(),
        "thin_provision": lvol.thin,
        "num_allocated_clusters": lvol.allocated(),
        "snapshot": lvol.snapshot,
        "clone": matches!(lvol.parent, Parent::Lvol(_)),
        "esnap_clone": matches!(lvol.parent, Parent::External(_)),
    });
    match lvol.parent {
        Parent::None => {}
        Parent::Lvol(parent) => shown["base_snapshot"] = name(parent).into(),
        Parent::External(uuid) => shown["external_snapshot_name"] = uuid.to_string().into(),
    }
    let clones: Vec<_> = state.clones(id).map(name).collect();
    if !clones.is_empty() {
        shown["clones"] = clones.into();
    }
    json!({ "lvol": shown })
}
