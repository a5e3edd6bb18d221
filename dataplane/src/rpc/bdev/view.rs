//! How bdevs and their counters are shown.

use vda_spdk::{Bdev, ClaimType, DriverSpecific, IoCounters, RateLimits, SupportedIoTypes};

use crate::bdev::{self, BdevInfo, IoStat, IoType};

fn supported(types: &[IoType]) -> SupportedIoTypes {
    let has = |t| types.contains(&t);
    SupportedIoTypes {
        read: has(IoType::Read),
        write: has(IoType::Write),
        unmap: has(IoType::Unmap),
        flush: has(IoType::Flush),
        reset: has(IoType::Reset),
        write_zeroes: has(IoType::WriteZeroes),
        compare: has(IoType::Compare),
        compare_and_write: has(IoType::CompareAndWrite),
        abort: has(IoType::Abort),
        ..SupportedIoTypes::default()
    }
}

fn driver_specific(info: &BdevInfo) -> DriverSpecific {
    serde_json::from_value(info.driver_specific.clone()).unwrap_or_else(|e| {
        tracing::error!(bdev = %info.name, error = %e, "driver_specific can not be shown");
        DriverSpecific::default()
    })
}

/// An element of the reply of `bdev_get_bdevs`.
pub(super) fn bdev(info: BdevInfo) -> Bdev {
    let limits = RateLimits {
        rw_ios_per_sec: info.limits.rw_ios_per_sec,
        rw_mbytes_per_sec: info.limits.rw_mbytes_per_sec,
        r_mbytes_per_sec: info.limits.r_mbytes_per_sec,
        w_mbytes_per_sec: info.limits.w_mbytes_per_sec,
    };
    let claim_type = info.claim.map(|(kind, _)| match kind {
        bdev::ClaimType::ExclusiveWrite => ClaimType::ExclusiveWrite,
        bdev::ClaimType::ReadManyWriteOne => ClaimType::ReadManyWriteOne,
        bdev::ClaimType::ReadManyWriteNone => ClaimType::ReadManyWriteNone,
    });
    // SPDK names the memory node of these; -1 is any.
    let numa_id = matches!(info.product_name, "Malloc disk" | "NVMe disk").then_some(-1);
    Bdev {
        driver_specific: driver_specific(&info),
        name: info.name,
        aliases: info.aliases,
        product_name: info.product_name.to_owned(),
        block_size: info.block_size,
        num_blocks: info.num_blocks,
        preferred_write_alignment: 0,
        preferred_write_granularity: 0,
        optimal_write_size: 0,
        preferred_unmap_alignment: 0,
        preferred_unmap_granularity: 0,
        uuid: info.uuid,
        assigned_rate_limits: limits,
        claimed: claim_type.is_some(),
        zoned: false,
        supported_io_types: supported(&info.supported),
        numa_id,
        md_size: None,
        md_interleave: None,
        dif_type: None,
        claim_type,
        memory_domains: None,
    }
}

/// Counters as `bdev_get_iostat` spells them.
pub(super) fn counters(stat: &IoStat) -> IoCounters {
    let io_error = stat.errors().map(|(kind, n)| (kind.to_owned(), n)).collect();
    IoCounters {
        bytes_read: stat.read.bytes,
        num_read_ops: stat.read.ops,
        bytes_written: stat.write.bytes,
        num_write_ops: stat.write.ops,
        bytes_unmapped: stat.unmap.bytes,
        num_unmap_ops: stat.unmap.ops,
        read_latency_ticks: stat.read.latency_ticks,
        max_read_latency_ticks: stat.read.max_latency_ticks,
        min_read_latency_ticks: stat.read.min_latency_ticks,
        write_latency_ticks: stat.write.latency_ticks,
        max_write_latency_ticks: stat.write.max_latency_ticks,
        min_write_latency_ticks: stat.write.min_latency_ticks,
        unmap_latency_ticks: stat.unmap.latency_ticks,
        max_unmap_latency_ticks: stat.unmap.max_latency_ticks,
        min_unmap_latency_ticks: stat.unmap.min_latency_ticks,
        io_error,
        ..IoCounters::default()
    }
}
