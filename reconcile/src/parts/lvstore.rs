//! Lvstores, on a disk of a DN or on a leg of a CN.

use vda_spdk::{
    BdevExamine, BdevGetBdevs, BdevLvolCreateLvstore, BdevLvolDeleteLvstore, BdevLvolGetLvstores,
    BdevWaitForExamine, LvsClearMethod, Lvstore, Rpc,
};

use crate::execute::Fault;
use crate::graph::Observed;

/// What an lvstore is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LvstoreState {
    pub uuid: String,
    /// Name of the bdev it is on.
    pub base: String,
    pub cluster_bytes: u64,
    pub total_clusters: u64,
    pub free_clusters: u64,
}

impl From<Lvstore> for LvstoreState {
    fn from(l: Lvstore) -> Self {
        Self {
            uuid: l.uuid.to_string(),
            base: l.base_bdev,
            cluster_bytes: l.cluster_size,
            total_clusters: l.total_data_clusters,
            free_clusters: l.free_clusters,
        }
    }
}

/// How a new lvstore is laid out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Format {
    pub cluster_bytes: u32,
    /// Metadata pages per hundred clusters; after a crash every one of them is read.
    pub md_pages_per_cluster_ratio: Option<u32>,
    /// The medium is new and reads as zeroes: nothing has to be cleared.
    pub blank: bool,
}

/// Calls about an lvstore.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LvstoreAction {
    /// Looks for metadata on a bdev.
    Examine { bdev: String },
    /// Fails unless the lvstore is there now.
    Expect { name: String, missing: String },
    /// Formats, unless the lvstore is there now, or anything else is.
    Create { bdev: String, name: String, format: Format },
    /// Destroys it with its contents.
    Delete { name: String },
}

/// Brings up an lvstore that is absent: one that was initialised is only looked for, any other is created where nothing is.
pub fn bring_up(
    name: &str,
    bdev: &str,
    initialised: bool,
    missing: String,
    format: Format,
) -> Vec<LvstoreAction> {
    let examine = LvstoreAction::Examine { bdev: bdev.to_owned() };
    let then = if initialised {
        LvstoreAction::Expect { name: name.to_owned(), missing }
    } else {
        LvstoreAction::Create { bdev: bdev.to_owned(), name: name.to_owned(), format }
    };
    vec![examine, then]
}

/// Carries an action out.
///
/// # Errors
/// What the data plane said, or why it was not asked.
pub async fn perform(rpc: &impl Rpc, action: &LvstoreAction) -> Result<(), Fault> {
    match action {
        LvstoreAction::Examine { bdev } => {
            match rpc.call(BdevExamine::new(bdev.clone())).await {
                Ok(_) => {}
                // A bdev is examined once in its life. What was found is there; a step after it failed, and this is the next try.
                Err(error) if error.is_exists() => {}
                Err(error) => return Err(error.into()),
            }
            rpc.call(BdevWaitForExamine {}).await?;
        }
        LvstoreAction::Expect { name, missing } => match crate::rpc::lvstore(rpc, name).await {
            Observed::Known(_) => {}
            Observed::Absent => return Err(Fault::refused("bdev_examine", missing.clone())),
            Observed::Unknown => return Err(not_seen(name)),
        },
        LvstoreAction::Create { bdev, name, format } => create(rpc, bdev, name, format).await?,
        LvstoreAction::Delete { name } => {
            rpc.call(BdevLvolDeleteLvstore { lvs_name: Some(name.clone()), uuid: None }).await?;
        }
    }
    Ok(())
}

/// The last check before a medium is formatted is made here, after the examine, on what the data plane says now.
async fn create(rpc: &impl Rpc, bdev: &str, name: &str, format: &Format) -> Result<(), Fault> {
    match crate::rpc::lvstore(rpc, name).await {
        // Ours: it was created once, and the report got lost.
        Observed::Known(found) if found.base_bdev == bdev => return Ok(()),
        Observed::Known(found) => {
            let message = format!("lvstore {name} is on bdev {}, not on {bdev}", found.base_bdev);
            return Err(Fault::refused("bdev_lvol_create_lvstore", message));
        }
        Observed::Absent => {}
        Observed::Unknown => return Err(not_seen(name)),
    }
    let bdevs = rpc.call(BdevGetBdevs { name: Some(bdev.to_owned()), timeout: None }).await?;
    if bdevs.iter().any(|b| b.claimed) {
        let others = rpc.call(BdevLvolGetLvstores::default()).await?;
        let what = others
            .iter()
            .find(|l| l.base_bdev == bdev)
            .map_or_else(|| "something that is not ours".to_owned(), |l| format!("lvstore {:?}", l.name));
        let message = format!("bdev {bdev} already holds {what}: it is never formatted");
        return Err(Fault::refused("bdev_lvol_create_lvstore", message));
    }
    rpc.call(BdevLvolCreateLvstore {
        cluster_sz: Some(format.cluster_bytes),
        num_md_pages_per_cluster_ratio: format.md_pages_per_cluster_ratio,
        clear_method: format.blank.then_some(LvsClearMethod::None),
        ..BdevLvolCreateLvstore::new(bdev, name)
    })
    .await?;
    tracing::info!(bdev, lvstore = name, "lvstore created");
    Ok(())
}

fn not_seen(name: &str) -> Fault {
    Fault::refused("bdev_lvol_get_lvstores", format!("it cannot be told whether lvstore {name} is there"))
}
