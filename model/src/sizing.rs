//! How large the parts of a leg must be for its volume to fit.
//!
//! The leg's lvstore keeps its metadata at the front of the same bdev that holds the data (SPDK `lib/blob/blobstore.c`,
//! `spdk_bs_init`): a superblock page, three bit masks, and `ratio` metadata pages per hundred clusters. After a crash every metadata
//! page is read one at a time, which decides how long a failover takes; hence few pages and, for large arrays, large clusters.

use crate::{
    defaults::{GIB, MIB, TIB},
    sizes::round_up,
};

const PAGE: u64 = 4096;
/// Pages that even a small lvstore gets: its own blob, the volume's, and some for snapshots.
const MIN_MD_PAGES: u64 = 128;

/// Sizes of one leg with one group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LegSize {
    /// Allocation unit of the leg's lvstore; the volume is a multiple of it.
    pub cluster_bytes: u64,
    /// `num_md_pages_per_cluster_ratio` of `bdev_lvol_create_lvstore`: metadata pages per hundred clusters.
    pub md_pages_per_cluster_ratio: u32,
    /// What every VD gives at least; a VD is this, rounded up to its PD's cluster.
    pub vd_bytes: u64,
    /// What the lvstore gets: the sum of its stripes.
    pub physical_bytes: u64,
}

/// The unit of which the size of a volume of about `size_bytes` must be a multiple.
pub const fn cluster_bytes(size_bytes: u64) -> u64 {
    if size_bytes < GIB {
        MIB
    } else if size_bytes <= 2 * TIB {
        4 * MIB
    } else {
        32 * MIB
    }
}

/// Sizes for a volume of `size_bytes` on `stripes` stripes with strips of `strip_bytes`, and at least `physical_min` of space under it.
pub fn leg(size_bytes: u64, physical_min: u64, stripes: u32, strip_bytes: u64) -> LegSize {
    let cluster = cluster_bytes(size_bytes);
    let data_clusters = size_bytes.div_ceil(cluster);
    // The overhead depends on the total, which contains it: it grows far slower than the total, so this settles in a few steps.
    let mut clusters = data_clusters;
    loop {
        let needed = data_clusters + md_clusters(clusters, cluster) + 1;
        if needed <= clusters {
            break;
        }
        clusters = needed;
    }
    let wanted = physical_min.max(clusters * cluster);
    let vd_bytes = round_up(wanted.div_ceil(u64::from(stripes.max(1))), strip_bytes.max(MIB));
    let physical_bytes = vd_bytes * u64::from(stripes.max(1));
    LegSize {
        cluster_bytes: cluster,
        md_pages_per_cluster_ratio: md_ratio(physical_bytes / cluster, cluster),
        vd_bytes,
        physical_bytes,
    }
}

/// 5 pages per 100 clusters last for growing to several times the size; of larger clusters fewer are needed.
fn md_ratio(total_clusters: u64, cluster: u64) -> u32 {
    let base = if cluster > 4 * MIB { 2 } else { 5 };
    let floor = (MIN_MD_PAGES * 100).div_ceil(total_clusters.max(1));
    u32::try_from(floor.max(base)).unwrap_or(u32::MAX)
}

/// Clusters that the metadata of an lvstore of `total_clusters` takes.
fn md_clusters(total_clusters: u64, cluster: u64) -> u64 {
    // The ratio is chosen from a total that may be a little larger; twice the minimum covers its rounding.
    let md_pages =
        (u64::from(md_ratio(total_clusters, cluster)) * total_clusters).div_ceil(100) + MIN_MD_PAGES;
    let mask = |bits: u64| (8 + bits.div_ceil(8)).div_ceil(PAGE);
    let pages = 1 + 2 * mask(md_pages) + mask(total_clusters).max(mask(md_pages)) + md_pages;
    let embedded = embedded_md_pages(total_clusters, md_ratio(total_clusters, cluster));
    (pages.max(embedded) * PAGE).div_ceil(cluster)
}

/// Metadata pages of the embedded data plane's lvstore: superblocks, and two each of checkpoints and journals. Checkpoints are sized for
/// what the lvstore may grow to, which follows from the ratio.
fn embedded_md_pages(total_clusters: u64, ratio: u32) -> u64 {
    let growth = (64 * u64::from(ratio) / 100).clamp(2, 64);
    let headers = (total_clusters * 64).clamp(64 << 10, 4 << 20);
    let checkpoint = 2 + (total_clusters * growth * 12 + headers).div_ceil(PAGE);
    let journal = (total_clusters / 8).clamp(64, 1024);
    2 + 2 * (checkpoint + journal)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Data clusters of an lvstore on a bdev of `bytes`, as SPDK computes them (`spdk_lvs_init`, `spdk_bs_init`).
    fn spdk_data_clusters(bytes: u64, cluster: u64, ratio: u32) -> u64 {
        let total = bytes / cluster;
        let md_len = u64::from(ratio) * total / 100;
        let mask = |bits: u64| (8 + bits.div_ceil(8)).div_ceil(PAGE);
        let pages = 1 + mask(md_len) + mask(total).max(mask(md_len)) + mask(md_len) + md_len;
        total - (pages * PAGE).div_ceil(cluster)
    }

    proptest! {
        #[test]
        fn the_volume_fits_with_a_cluster_to_spare(units in 1..2_000_000_u64, stripes in 1..65_u32, strip in 2..11_u32, min in 0..4 * GIB) {
            let mut size = units * MIB;
            size = round_up(size, cluster_bytes(size));
            let strip_bytes = 1024_u64 << strip;
            let leg = leg(size, min, stripes, strip_bytes);
            prop_assert!(leg.physical_bytes >= min);
            prop_assert_eq!(leg.vd_bytes % strip_bytes, 0);
            prop_assert_eq!(leg.vd_bytes * u64::from(stripes), leg.physical_bytes);
            let data = spdk_data_clusters(leg.physical_bytes, leg.cluster_bytes, leg.md_pages_per_cluster_ratio);
            prop_assert!((data - 1) * leg.cluster_bytes >= size, "{data} clusters for {size}");
            let total = leg.physical_bytes / leg.cluster_bytes;
            let embedded = embedded_md_pages(total, leg.md_pages_per_cluster_ratio) * PAGE;
            let data = total - embedded.div_ceil(leg.cluster_bytes);
            prop_assert!(data * leg.cluster_bytes >= size, "{data} clusters of the embedded data plane for {size}");
            let pages = u64::from(leg.md_pages_per_cluster_ratio) * (leg.physical_bytes / leg.cluster_bytes) / 100;
            // A page maps 512 clusters; the volume fully written, the lvstore's blob, and as much again.
            prop_assert!(pages >= 2 * (2 + size.div_ceil(leg.cluster_bytes).div_ceil(512)), "{pages} pages");
        }
    }

    #[test]
    fn a_small_array_costs_little_more_than_its_size() {
        let leg = leg(64 * MIB, 64 * MIB, 1, 64 << 10);
        assert_eq!(leg.cluster_bytes, MIB);
        assert!(leg.physical_bytes <= 68 * MIB, "{}", leg.physical_bytes / MIB);
    }

    #[test]
    fn a_dirty_load_stays_within_the_failover_budget() {
        // 12.8k pages load in 0.77 s from a local file: see the findings on lvstore load time.
        for size in [GIB, 100 * GIB, TIB, 2 * TIB, 16 * TIB, 64 * TIB] {
            let leg = leg(size, 0, 4, 64 << 10);
            let pages =
                u64::from(leg.md_pages_per_cluster_ratio) * (leg.physical_bytes / leg.cluster_bytes) / 100;
            assert!(pages <= 45_000, "{size}: {pages} pages");
            assert!(leg.physical_bytes - size <= size / 100 + 16 * MIB + 4 * leg.cluster_bytes, "{size}");
        }
    }
}
