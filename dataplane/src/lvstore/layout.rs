//! Where things are on the base bdev: a pure function of its size and of the parameters of the lvstore.

use super::LvolError;

/// Bytes of a metadata page: what a journal commit writes at least.
pub(super) const PAGE: u64 = 4096;
/// Cluster size unless given: 4 MiB, as in SPDK.
pub(super) const DEFAULT_CLUSTER: u32 = 4 << 20;
/// `num_md_pages_per_cluster_ratio` unless given.
pub(super) const DEFAULT_RATIO: u32 = 100;
/// How many times its size an lvstore may grow at the default ratio.
const GROWTH: u64 = 64;
/// The longest extent encoding of one cluster in a checkpoint.
pub(super) const EXTENT_BYTES: u64 = 12;
/// Extents that a checkpoint has room for at least, per cluster: one for what is mapped, the others for holes in clones.
const MIN_EXTENTS_PER_CLUSTER: u64 = 3;
/// Checkpoint bytes reserved for the headers of lvols, per cluster, with its bounds.
const HEADER_BYTES_PER_CLUSTER: u64 = 64;
const HEADER_BYTES: std::ops::RangeInclusive<u64> = 64 << 10..=4 << 20;
/// Journal pages: one for every eighth cluster, with its bounds.
const JOURNAL_PAGES: std::ops::RangeInclusive<u64> = 64..=1024;
/// The two copies of the superblock.
const SUPER_PAGES: u64 = 2;

/// What is fixed when an lvstore is made; part of the superblock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Layout {
    /// Block size of the base bdev.
    pub(super) block_size: u32,
    pub(super) cluster_size: u32,
    /// Clusters taken by metadata, at the start of the base bdev.
    pub(super) md_clusters: u32,
    /// Data clusters the lvstore may ever have.
    pub(super) max_clusters: u32,
    /// Pages of one of the two checkpoint slots, its header page included.
    pub(super) checkpoint_pages: u32,
    /// Pages of one of the two journals.
    pub(super) journal_pages: u32,
    /// Bytes of a checkpoint that lvol headers may take.
    pub(super) header_budget: u32,
}

fn clamp(v: u64, range: &std::ops::RangeInclusive<u64>) -> u64 {
    v.clamp(*range.start(), *range.end())
}

fn fit(v: u64) -> Result<u32, LvolError> {
    // The last two values have a meaning in cluster maps.
    u32::try_from(v).ok().filter(|v| *v < u32::MAX - 1).ok_or(LvolError::TooManyClusters)
}

impl Layout {
    /// Lays an lvstore out on a bdev of `num_blocks` blocks.
    ///
    /// # Errors
    /// [`LvolError::Invalid`] for a block or cluster size that does not work, [`LvolError::NoSpace`] if metadata leaves nothing.
    pub(super) fn new(
        block_size: u32,
        num_blocks: u64,
        cluster_size: u32,
        ratio: u32,
    ) -> Result<Self, LvolError> {
        let invalid =
            |field, value: u32, allowed| LvolError::Invalid { field, value: value.to_string(), allowed };
        let page = PAGE as u32;
        if block_size == 0 || !page.is_multiple_of(block_size) {
            return Err(invalid("block_size", block_size, "a divisor of 4096"));
        }
        if cluster_size < 2 * page || !cluster_size.is_multiple_of(page) {
            return Err(invalid("cluster_sz", cluster_size, "a multiple of 4096 of at least 8192"));
        }
        let clusters = num_blocks.saturating_mul(u64::from(block_size)) / u64::from(cluster_size);
        let growth = (GROWTH * u64::from(ratio) / 100).clamp(2, GROWTH);
        let max_clusters = clusters.saturating_mul(growth).min(u64::from(u32::MAX) - 2);
        let header_budget = clamp(clusters * HEADER_BYTES_PER_CLUSTER, &HEADER_BYTES);
        // The header, a page for what does not depend on sizes, and the lvols.
        let extents = max_clusters.max(MIN_EXTENTS_PER_CLUSTER * clusters);
        let checkpoint_pages = 2 + (extents * EXTENT_BYTES + header_budget).div_ceil(PAGE);
        let journal_pages = clamp(clusters / 8, &JOURNAL_PAGES);
        let mut layout = Self {
            block_size,
            cluster_size,
            md_clusters: 0,
            max_clusters: fit(max_clusters)?,
            checkpoint_pages: fit(checkpoint_pages)?,
            journal_pages: fit(journal_pages)?,
            header_budget: fit(header_budget)?,
        };
        layout.md_clusters = fit(layout.md_bytes().div_ceil(u64::from(cluster_size)))?;
        if layout.data_clusters(num_blocks) == 0 {
            return Err(LvolError::NoSpace);
        }
        Ok(layout)
    }

    /// Whether a superblock may say this: what all code that computes with it relies on.
    pub(super) fn is_possible(&self) -> bool {
        let page = PAGE as u32;
        let sizes = self.block_size > 0
            && page.is_multiple_of(self.block_size)
            && self.cluster_size >= page
            && self.cluster_size.is_multiple_of(page);
        let metadata = self.checkpoint_pages >= 2
            && self.journal_pages >= 1
            && self.md_bytes() <= u64::from(self.md_clusters) * u64::from(self.cluster_size);
        sizes && metadata && self.max_clusters < u32::MAX - 1
    }

    /// Bytes at the start of the base bdev that hold metadata.
    fn md_bytes(&self) -> u64 {
        (SUPER_PAGES + 2 * (u64::from(self.checkpoint_pages) + u64::from(self.journal_pages))) * PAGE
    }

    /// Data clusters on a bdev of `num_blocks` blocks, within what the metadata can describe.
    pub(super) fn data_clusters(&self, num_blocks: u64) -> u32 {
        let clusters = num_blocks / self.blocks_per_cluster();
        let data = clusters.saturating_sub(u64::from(self.md_clusters));
        u32::try_from(data).unwrap_or(u32::MAX).min(self.max_clusters)
    }

    pub(super) fn blocks_per_cluster(&self) -> u64 {
        u64::from(self.cluster_size / self.block_size)
    }

    /// First block of a data cluster.
    pub(super) fn cluster_lba(&self, cluster: u32) -> u64 {
        (u64::from(self.md_clusters) + u64::from(cluster)) * self.blocks_per_cluster()
    }

    /// Extents that fit a checkpoint beside the headers of the lvols. What is mapped takes at most one a cluster, and may split a run of
    /// holes; the others are for runs of holes.
    pub(super) fn max_extents(&self) -> u64 {
        let bytes = (u64::from(self.checkpoint_pages).saturating_sub(2) * PAGE)
            .saturating_sub(u64::from(self.header_budget));
        bytes / EXTENT_BYTES
    }

    pub(super) fn page_lba(&self, page: u64) -> u64 {
        page * (PAGE / u64::from(self.block_size))
    }

    /// First page of the checkpoint slot of a generation.
    pub(super) fn checkpoint_page(&self, generation: u64) -> u64 {
        SUPER_PAGES + (generation % 2) * u64::from(self.checkpoint_pages)
    }

    /// First page of the journal of a generation.
    pub(super) fn journal_page(&self, generation: u64) -> u64 {
        SUPER_PAGES + 2 * u64::from(self.checkpoint_pages) + (generation % 2) * u64::from(self.journal_pages)
    }

    /// Bytes the lvstore may grow to (`max_growable_size`).
    pub(super) fn max_growable_size(&self) -> u64 {
        (u64::from(self.md_clusters) + u64::from(self.max_clusters)) * u64::from(self.cluster_size)
    }
}
