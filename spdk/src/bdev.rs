//! Block devices whatever they are made of: `bdev_get_bdevs`, `bdev_examine`, statistics, limits, histograms.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{DelaySpecific, ErrorSpecific, FileSpecific, LvolSpecific, NvmeNamespace, RaidInfo, Uuid};

rpc! {
    /// `bdev_set_options`: options of the bdev layer, before `framework_start_init` only.
    BdevSetOptions = "bdev_set_options" -> bool, {
        ;
        bdev_io_pool_size: u32,
        bdev_io_cache_size: u32,
        bdev_auto_examine: bool,
        iobuf_small_cache_size: u32,
        iobuf_large_cache_size: u32,
    }

    /// `bdev_get_bdevs`: all block devices, or one by name, alias or UUID (-19 if there is none).
    BdevGetBdevs = "bdev_get_bdevs" -> Vec<Bdev>, {
        ;
        name: String,
        /// Milliseconds to wait for `name` to appear.
        timeout: u64,
    }

    /// `bdev_examine`: lets the modules look for their metadata on a bdev. -22 while automatic examine is on.
    BdevExamine = "bdev_examine" -> bool, {
        name: String,
        ;
    }

    /// `bdev_wait_for_examine`: answers when the examines under way are done.
    BdevWaitForExamine = "bdev_wait_for_examine" -> bool, { ; }

    /// `bdev_get_iostat`: counters of I/O.
    BdevGetIostat = "bdev_get_iostat" -> Iostat, {
        ;
        names: Vec<String>,
        per_channel: bool,
        reset_mode: ResetStatMode,
    }

    /// `bdev_reset_iostat`: zeroes counters.
    BdevResetIostat = "bdev_reset_iostat" -> bool, {
        ;
        name: String,
        mode: ResetStatMode,
    }

    /// `bdev_set_qos_limit`: limits a bdev's rate; at least one limit has to be given.
    BdevSetQosLimit = "bdev_set_qos_limit" -> bool, {
        name: String,
        ;
        /// Rounded up to thousands; 0: no limit.
        rw_ios_per_sec: u64,
        /// MiB a second; 0: no limit.
        rw_mbytes_per_sec: u64,
        /// MiB a second; 0: no limit.
        r_mbytes_per_sec: u64,
        /// MiB a second; 0: no limit.
        w_mbytes_per_sec: u64,
    }

    /// `bdev_set_qd_sampling_period`: measures the queue depth every `period` microseconds; 0: never.
    BdevSetQdSamplingPeriod = "bdev_set_qd_sampling_period" -> bool, {
        name: String,
        period: u64,
        ;
    }

    /// `bdev_enable_histogram`: turns the latency histogram of a bdev on or off.
    BdevEnableHistogram = "bdev_enable_histogram" -> bool, {
        name: String,
        enable: bool,
        ;
        opc: String,
        granularity: u8,
        min_nsec: u64,
        max_nsec: u64,
    }

    /// `bdev_get_histogram`: the latency histogram. -14 while it is off.
    BdevGetHistogram = "bdev_get_histogram" -> Histogram, {
        name: String,
        ;
    }
}

closed! {
    /// What [`BdevResetIostat`] (or a reading [`BdevGetIostat`]) sets back.
    ResetStatMode { All = "all", Maxmin = "maxmin", Error = "error", None = "none", }

    /// Who may open a claimed bdev.
    ClaimType {
        NotClaimed = "not_claimed",
        ExclusiveWrite = "exclusive_write",
        ReadManyWriteOne = "read_many_write_one",
        ReadManyWriteNone = "read_many_write_none",
        ReadManyWriteShared = "read_many_write_shared",
    }
}

object! {
    /// A block device, as `bdev_get_bdevs` shows it.
    Bdev {
        name: String,
        /// For an lvol `lvstore/lvol`; for most others the UUID.
        aliases: Vec<String>,
        product_name: String,
        /// Bytes.
        block_size: u32,
        num_blocks: u64,
        preferred_write_alignment: u32,
        preferred_write_granularity: u32,
        optimal_write_size: u32,
        preferred_unmap_alignment: u32,
        preferred_unmap_granularity: u32,
        uuid: Uuid,
        assigned_rate_limits: RateLimits,
        claimed: bool,
        zoned: bool,
        supported_io_types: SupportedIoTypes,
        driver_specific: DriverSpecific,
        ;
        numa_id: i32,
        md_size: u32,
        md_interleave: bool,
        dif_type: u32,
        claim_type: ClaimType,
        memory_domains: Vec<MemoryDomain>,
    }

    /// `assigned_rate_limits` of a [`Bdev`]; 0: no limit.
    RateLimits {
        rw_ios_per_sec: u64,
        /// MiB a second.
        rw_mbytes_per_sec: u64,
        /// MiB a second.
        r_mbytes_per_sec: u64,
        /// MiB a second.
        w_mbytes_per_sec: u64,
        ;
    }

    /// An element of `memory_domains` of a [`Bdev`].
    MemoryDomain {
        dma_device_type: String,
        ;
    }

    /// `driver_specific` of a [`Bdev`]: the part of the module it belongs to. Parts not listed are not read.
    DriverSpecific {
        ;
        lvol: LvolSpecific,
        raid: RaidInfo,
        nvme: Vec<NvmeNamespace>,
        /// Of `nvme`: `active_passive` or `active_active`.
        mp_policy: String,
        /// Of `nvme`, with `active_active`.
        selector: String,
        /// Of `nvme`, with `round_robin`.
        rr_min_io: u32,
        aio: FileSpecific,
        uring: FileSpecific,
        delay: DelaySpecific,
        error_disk: ErrorSpecific,
    }

    /// Reply of [`BdevGetHistogram`].
    Histogram {
        /// Base64 of little-endian 64-bit counters.
        histogram: String,
        granularity: i64,
        ;
        min_range: u32,
        max_range: u32,
        /// Ticks a second.
        tsc_rate: i64,
        /// Older targets: the number of counters a range, as a power of two.
        bucket_shift: i64,
    }

    /// Reply of [`BdevGetIostat`].
    Iostat {
        /// Ticks a second.
        tick_rate: u64,
        ticks: u64,
        ;
        bdevs: Vec<BdevIostat>,
        /// The bdev, with `per_channel`.
        name: String,
        /// With `per_channel`.
        channels: Vec<ChannelIostat>,
    }
}

/// `supported_io_types` of a [`Bdev`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct SupportedIoTypes {
    pub read: bool,
    pub write: bool,
    pub unmap: bool,
    pub flush: bool,
    pub reset: bool,
    pub nvme_admin: bool,
    pub nvme_io: bool,
    pub nvme_io_md: bool,
    pub write_zeroes: bool,
    pub zcopy: bool,
    pub get_zone_info: bool,
    pub zone_management: bool,
    pub zone_append: bool,
    pub compare: bool,
    pub compare_and_write: bool,
    pub abort: bool,
    pub seek_hole: bool,
    pub seek_data: bool,
    pub copy: bool,
    pub nvme_iov_md: bool,
    pub nvme_nssr: bool,
    pub write_uncorrectable: bool,
}

/// Counters of a bdev since it exists, or since they were reset. Latencies are sums over all operations, in ticks.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct IoCounters {
    pub bytes_read: u64,
    pub num_read_ops: u64,
    pub bytes_written: u64,
    pub num_write_ops: u64,
    pub bytes_unmapped: u64,
    pub num_unmap_ops: u64,
    pub bytes_copied: u64,
    pub num_copy_ops: u64,
    pub read_latency_ticks: u64,
    pub max_read_latency_ticks: u64,
    pub min_read_latency_ticks: u64,
    pub write_latency_ticks: u64,
    pub max_write_latency_ticks: u64,
    pub min_write_latency_ticks: u64,
    pub unmap_latency_ticks: u64,
    pub max_unmap_latency_ticks: u64,
    pub min_unmap_latency_ticks: u64,
    pub copy_latency_ticks: u64,
    pub max_copy_latency_ticks: u64,
    pub min_copy_latency_ticks: u64,
    /// Failed operations by kind of failure.
    pub io_error: BTreeMap<String, u64>,
}

/// Counters of one bdev.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct BdevIostat {
    pub name: String,
    #[serde(flatten)]
    pub counters: IoCounters,
    /// Microseconds, while the queue depth is sampled.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub queue_depth_polling_period: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub queue_depth: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub io_time: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weighted_io_time: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub driver_specific: Option<Value>,
}

/// Counters of one bdev on one thread.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChannelIostat {
    pub thread_id: u64,
    #[serde(flatten)]
    pub counters: IoCounters,
}

impl Bdev {
    /// Bytes.
    pub fn size(&self) -> u64 {
        self.num_blocks.saturating_mul(u64::from(self.block_size))
    }

    /// Whether `name` is its name or one of its aliases.
    pub fn is_called(&self, name: &str) -> bool {
        self.name == name || self.aliases.iter().any(|alias| alias == name)
    }
}
