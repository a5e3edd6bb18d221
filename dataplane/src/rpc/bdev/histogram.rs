//! `bdev_enable_histogram`, `bdev_get_histogram`.

use vda_spdk::{BdevEnableHistogram, BdevGetHistogram, Errno, Histogram as Reply};

use crate::bdev::{Counted, Histogram, IoClass, Registry, TICK_RATE};
use crate::rpc::RpcError;

/// SPDK's defaults: latencies from a microsecond to two minutes, to about a percent.
const GRANULARITY: u8 = 7;
const MIN_NSEC: u64 = 1000;
const MAX_NSEC: u64 = 120_000_000_000;

/// A nanosecond is a tick.
const _: () = assert!(TICK_RATE == 1_000_000_000);

/// What SPDK calls so.
fn counted(opc: &str) -> Result<Counted, RpcError> {
    Ok(Counted::Only(match opc {
        "read" => IoClass::Read,
        "write" => IoClass::Write,
        "unmap" => IoClass::Unmap,
        "flush" => IoClass::Flush,
        "write_zeroes" => IoClass::WriteZeroes,
        "compare" => IoClass::Compare,
        "reset"
        | "nvme_admin"
        | "nvme_io"
        | "nvme_io_md"
        | "zcopy"
        | "get_zone_info"
        | "zone_management"
        | "zone_append"
        | "compare_and_write"
        | "abort"
        | "seek_hole"
        | "seek_data"
        | "copy"
        | "nvme_iov_md"
        | "nvme_nssr"
        | "write_uncorrectable" => return Ok(Counted::Nothing),
        _ => return Err(RpcError::internal("Invalid Io type")),
    }))
}

pub(super) fn enable(bdevs: &Registry, call: &BdevEnableHistogram) -> Result<bool, RpcError> {
    bdevs.canonical_name(&call.name)?;
    let counted = call.opc.as_deref().map_or(Ok(Counted::All), counted)?;
    if !call.enable {
        bdevs.set_histogram(&call.name, None)?;
        return Ok(true);
    }
    let granularity = u32::from(call.granularity.unwrap_or(GRANULARITY));
    let (min, max) = (call.min_nsec.unwrap_or(MIN_NSEC), call.max_nsec.unwrap_or(MAX_NSEC));
    let histogram = Histogram::new(counted, granularity, min, max);
    let histogram = histogram.ok_or_else(|| RpcError::errno(Errno(libc::ENOMEM)))?;
    bdevs.set_histogram(&call.name, Some(histogram))?;
    Ok(true)
}

pub(super) fn get(bdevs: &Registry, call: &BdevGetHistogram) -> Result<Reply, RpcError> {
    let (histogram, measured) = bdevs.histogram(&call.name)?;
    // As SPDK has it: there never was one; or it ended, and there is I/O that it should have counted.
    let histogram = histogram.ok_or_else(|| RpcError::errno(Errno(libc::ENOMEM)))?;
    if !measured && bdevs.info(&call.name)?.open > 0 {
        return Err(RpcError::internal("Bad address"));
    }
    let (min_range, max_range) = histogram.ranges();
    Ok(Reply {
        min_range: Some(min_range),
        max_range: Some(max_range),
        tsc_rate: i64::try_from(TICK_RATE).ok(),
        ..Reply::new(histogram.encoded(), i64::from(histogram.granularity()))
    })
}
