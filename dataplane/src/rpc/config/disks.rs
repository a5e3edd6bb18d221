//! Bdevs that are made by one call each: malloc, null, aio, uring, delay, error.

use vda_spdk::{
    BdevAioCreate, BdevDelayCreate, BdevErrorCreate, BdevMallocCreate, BdevNullCreate, BdevUringCreate,
    ConfigEntry, DelaySpecific, DriverSpecific, FileSpecific,
};

use super::{Part, entry};
use crate::bdev::BdevInfo;
use crate::bdev::delay::DelayParams;
use crate::bdev::inject::ErrorParams;
use crate::bdev::{malloc, null};

pub(super) fn parts(bdevs: &[BdevInfo]) -> Vec<Part> {
    bdevs.iter().filter_map(part).collect()
}

fn part(info: &BdevInfo) -> Option<Part> {
    let specific: DriverSpecific = serde_json::from_value(info.driver_specific.clone()).unwrap_or_default();
    let mut needs = Vec::new();
    let call = match info.module {
        malloc::MODULE => entry(&BdevMallocCreate {
            name: Some(info.name.clone()),
            uuid: Some(info.uuid),
            ..BdevMallocCreate::new(info.block_size, info.num_blocks)
        }),
        null::MODULE => entry(&BdevNullCreate {
            uuid: Some(info.uuid),
            ..BdevNullCreate::new(info.name.clone(), info.block_size, info.num_blocks)
        }),
        _ => match specific {
            DriverSpecific { aio: Some(file), .. } => aio(info, file),
            DriverSpecific { uring: Some(file), .. } => uring(info, file),
            DriverSpecific { delay: Some(delay), .. } => {
                needs.push(delay.base_bdev_name.clone());
                entry(&delayed(info, delay)?)
            }
            DriverSpecific { error_disk: Some(error), .. } => {
                // It is named after what its base was called then, which may be an alias.
                let base = info.name.strip_prefix("EE_").unwrap_or(&error.base_bdev).to_owned();
                needs.push(error.base_bdev);
                entry(&BdevErrorCreate { uuid: Some(info.uuid), ..BdevErrorCreate::new(base) })
            }
            _ => return None,
        },
    };
    Some(Part { provides: vec![info.name.clone()], needs, calls: vec![call] })
}

/// Delay and error bdevs whose bases are not there.
pub(crate) fn waiting_parts(delays: &[DelayParams], errors: &[ErrorParams]) -> Vec<Part> {
    let delay = |params: &DelayParams| {
        let l = params.latencies;
        let (name, base) = (params.name.clone(), params.base_bdev_name.clone());
        entry(&BdevDelayCreate {
            uuid: params.uuid,
            ..BdevDelayCreate::new(name, base, l.avg_read, l.p99_read, l.avg_write, l.p99_write)
        })
    };
    let error = |params: &ErrorParams| {
        entry(&BdevErrorCreate { uuid: params.uuid, ..BdevErrorCreate::new(params.base_name.clone()) })
    };
    let calls = delays.iter().map(delay).chain(errors.iter().map(error));
    calls.map(|call| Part { calls: vec![call], ..Part::default() }).collect()
}

fn aio(info: &BdevInfo, file: FileSpecific) -> ConfigEntry {
    entry(&BdevAioCreate {
        block_size: Some(info.block_size),
        readonly: file.readonly,
        fallocate: file.fallocate,
        uuid: Some(info.uuid),
        nowait: file.nowait,
        ..BdevAioCreate::new(info.name.clone(), file.filename)
    })
}

fn uring(info: &BdevInfo, file: FileSpecific) -> ConfigEntry {
    entry(&BdevUringCreate {
        block_size: Some(info.block_size),
        uuid: Some(info.uuid),
        ..BdevUringCreate::new(file.filename, info.name.clone())
    })
}

fn delayed(info: &BdevInfo, delay: DelaySpecific) -> Option<BdevDelayCreate> {
    let time = |micros: i64| u64::try_from(micros).ok();
    let (avg_read, p99_read) = (time(delay.avg_read_latency)?, time(delay.p99_read_latency)?);
    let (avg_write, p99_write) = (time(delay.avg_write_latency)?, time(delay.p99_write_latency)?);
    let (name, base) = (info.name.clone(), delay.base_bdev_name);
    Some(BdevDelayCreate {
        uuid: Some(info.uuid),
        ..BdevDelayCreate::new(name, base, avg_read, p99_read, avg_write, p99_write)
    })
}
