//! Logical volumes and their stores: `bdev_lvol_*`.
//!
//! An lvol is named by its UUID or by its alias `lvstore/lvol`; an lvstore by `uuid` or by `lvs_name`, not both.

use crate::Uuid;

rpc! {
    /// `bdev_lvol_create_lvstore`: formats a bdev as an lvstore; answers its UUID. What was on the bdev is lost.
    BdevLvolCreateLvstore = "bdev_lvol_create_lvstore" -> Uuid, {
        bdev_name: String,
        lvs_name: String,
        ;
        /// Bytes; 4 MiB unless given.
        cluster_sz: u32,
        clear_method: LvsClearMethod,
        /// Metadata pages reserved, in percent of the number of clusters; 100 unless given. Bounds the time of a load after a crash.
        num_md_pages_per_cluster_ratio: u32,
        /// Bytes.
        md_page_size: u32,
    }

    /// `bdev_lvol_delete_lvstore`: deletes an lvstore with all its lvols.
    BdevLvolDeleteLvstore = "bdev_lvol_delete_lvstore" -> bool, {
        ;
        uuid: String,
        lvs_name: String,
    }

    /// `bdev_lvol_rename_lvstore`: renames an lvstore.
    BdevLvolRenameLvstore = "bdev_lvol_rename_lvstore" -> bool, {
        old_name: String,
        new_name: String,
        ;
    }

    /// `bdev_lvol_grow_lvstore`: lets an lvstore use what its bdev grew by.
    BdevLvolGrowLvstore = "bdev_lvol_grow_lvstore" -> bool, {
        ;
        uuid: String,
        lvs_name: String,
    }

    /// `bdev_lvol_get_lvstores`: all lvstores, or one (-19 if there is none).
    BdevLvolGetLvstores = "bdev_lvol_get_lvstores" -> Vec<Lvstore>, {
        ;
        uuid: String,
        lvs_name: String,
    }

    /// `bdev_lvol_create`: an lvol; answers its UUID.
    BdevLvolCreate = "bdev_lvol_create" -> String, {
        lvol_name: String,
        /// MiB.
        size_in_mib: u64,
        ;
        thin_provision: bool,
        uuid: String,
        lvs_name: String,
        clear_method: LvolClearMethod,
    }

    /// `bdev_lvol_delete`: deletes an lvol. -32603 "Operation not permitted" while it has clones.
    BdevLvolDelete = "bdev_lvol_delete" -> bool, {
        name: String,
        ;
    }

    /// `bdev_lvol_resize`: resizes an lvol, rounded up to clusters. Never send a smaller size: the data is cut off even when the answer is an error.
    BdevLvolResize = "bdev_lvol_resize" -> bool, {
        name: String,
        /// MiB.
        size_in_mib: u64,
        ;
    }

    /// `bdev_lvol_rename`: renames an lvol within its lvstore.
    BdevLvolRename = "bdev_lvol_rename" -> bool, {
        old_name: String,
        new_name: String,
        ;
    }

    /// `bdev_lvol_get_lvols`: all lvols, or those of one lvstore, including those that are no bdev.
    BdevLvolGetLvols = "bdev_lvol_get_lvols" -> Vec<Lvol>, {
        ;
        lvs_uuid: String,
        lvs_name: String,
    }

    /// `bdev_lvol_snapshot`: a read-only copy of the present state; answers its UUID. The lvol becomes its clone.
    BdevLvolSnapshot = "bdev_lvol_snapshot" -> String, {
        lvol_name: String,
        snapshot_name: String,
        ;
    }

    /// `bdev_lvol_clone`: a writable lvol on a snapshot; answers its UUID.
    BdevLvolClone = "bdev_lvol_clone" -> String, {
        snapshot_name: String,
        clone_name: String,
        ;
    }

    /// `bdev_lvol_clone_bdev`: a writable lvol on a bdev that is never written (an external snapshot); answers its UUID.
    BdevLvolCloneBdev = "bdev_lvol_clone_bdev" -> String, {
        bdev: String,
        lvs_name: String,
        clone_name: String,
        ;
    }

    /// `bdev_lvol_inflate`: copies everything from the parents, and allocates all clusters.
    BdevLvolInflate = "bdev_lvol_inflate" -> bool, {
        name: String,
        ;
    }

    /// `bdev_lvol_decouple_parent`: copies from the direct parent what it has, and leaves it.
    BdevLvolDecoupleParent = "bdev_lvol_decouple_parent" -> bool, {
        name: String,
        ;
    }

    /// `bdev_lvol_set_parent`: hangs an lvol below another snapshot of the same lvstore.
    BdevLvolSetParent = "bdev_lvol_set_parent" -> bool, {
        lvol_name: String,
        parent_name: String,
        ;
    }

    /// `bdev_lvol_set_parent_bdev`: hangs an lvol below an external snapshot.
    BdevLvolSetParentBdev = "bdev_lvol_set_parent_bdev" -> bool, {
        lvol_name: String,
        parent_name: String,
        ;
    }

    /// `bdev_lvol_set_read_only`: makes an lvol read-only, for ever.
    BdevLvolSetReadOnly = "bdev_lvol_set_read_only" -> bool, {
        name: String,
        ;
    }

    /// `bdev_lvol_start_shallow_copy`: copies the clusters an lvol itself has to another bdev, in the background.
    BdevLvolStartShallowCopy = "bdev_lvol_start_shallow_copy" -> ShallowCopyStarted, {
        src_lvol_name: String,
        dst_bdev_name: String,
        ;
    }

    /// `bdev_lvol_check_shallow_copy`: how far a shallow copy is. Its end can be asked for once.
    BdevLvolCheckShallowCopy = "bdev_lvol_check_shallow_copy" -> ShallowCopy, {
        operation_id: u32,
        ;
    }
}

closed! {
    /// What to do with the whole bdev when an lvstore is created.
    LvsClearMethod { Unmap = "unmap", WriteZeroes = "write_zeroes", None = "none", }

    /// What to do with clusters when they are given back.
    LvolClearMethod { Default = "default", None = "none", Unmap = "unmap", WriteZeroes = "write_zeroes", }
}

object! {
    /// An element of the reply of [`BdevLvolGetLvstores`].
    Lvstore {
        uuid: Uuid,
        name: String,
        base_bdev: String,
        total_data_clusters: u64,
        free_clusters: u64,
        /// Bytes of an I/O unit.
        block_size: u64,
        /// Bytes.
        cluster_size: u64,
        ;
        /// Bytes the bdev may grow to before metadata runs out.
        max_growable_size: u64,
    }

    /// An element of the reply of [`BdevLvolGetLvols`].
    Lvol {
        /// `lvstore/lvol`.
        alias: String,
        uuid: String,
        name: String,
        is_thin_provisioned: bool,
        is_snapshot: bool,
        is_clone: bool,
        is_esnap_clone: bool,
        is_degraded: bool,
        lvs: LvolLvstore,
        ;
        num_allocated_clusters: u64,
    }

    /// `lvs` of an [`Lvol`].
    LvolLvstore {
        name: String,
        uuid: Uuid,
        ;
    }

    /// `driver_specific.lvol` of a bdev.
    LvolSpecific {
        lvol_store_uuid: Uuid,
        base_bdev: String,
        thin_provision: bool,
        num_allocated_clusters: u64,
        snapshot: bool,
        clone: bool,
        ;
        /// Of a clone: the snapshot's name.
        base_snapshot: String,
        /// Of a snapshot: the clones' names.
        clones: Vec<String>,
        esnap_clone: bool,
        external_snapshot_name: String,
    }

    /// Reply of [`BdevLvolStartShallowCopy`].
    ShallowCopyStarted {
        operation_id: u32,
        ;
    }

    /// Reply of [`BdevLvolCheckShallowCopy`].
    ShallowCopy {
        copied_clusters: u64,
        total_clusters: u64,
        /// `in progress`, `complete` or `error`.
        state: String,
        ;
        error: String,
    }
}
