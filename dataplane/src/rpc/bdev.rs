//! `bdev_*` of the bdev layer itself and of the modules malloc, null, aio and uring.

mod disks;
mod faults;
mod histogram;
mod view;

use std::rc::Rc;
use std::time::Duration;

use vda_spdk::{
    BdevEnableHistogram, BdevExamine, BdevGetBdevs, BdevGetHistogram, BdevGetIostat, BdevIostat,
    BdevResetIostat, BdevSetOptions, BdevSetQosLimit, BdevWaitForExamine, ChannelIostat, Errno, Iostat,
    ResetStatMode,
};

use super::{Methods, RpcError, State};
use crate::app::App;
use crate::bdev::{BdevError, IoStatReset, QosUpdate, Registry, TICK_RATE};

/// SPDK's defaults of `bdev_set_options`; there are no pools here, but what SPDK refuses is refused.
pub(super) const IO_POOL_SIZE: u32 = 64 * 1024 - 1;
pub(super) const IO_CACHE_SIZE: u32 = 256;

impl From<BdevError> for RpcError {
    fn from(e: BdevError) -> Self {
        // The answer is SPDK's and says little; the log says the rest.
        tracing::info!(refusal = %e, "bdev call refused");
        Self::errno(Errno(e.errno()))
    }
}

pub(super) fn register(methods: &mut Methods, app: &Rc<App>) {
    methods.method::<BdevSetOptions>(State::Startup, async |app, call| set_options(&app, &call));
    methods.method::<BdevGetBdevs>(State::Runtime, async |app, call| get_bdevs(&app.bdevs, call).await);
    methods.method::<BdevExamine>(State::Runtime, async |app, call| {
        app.bdevs.examine(&call.name)?;
        Ok(true)
    });
    methods.method::<BdevWaitForExamine>(State::Runtime, async |app, _| {
        app.bdevs.wait_for_examine().await;
        Ok(true)
    });
    methods.method::<BdevGetIostat>(State::Runtime, async |app, call| get_iostat(&app, &call));
    methods.method::<BdevResetIostat>(State::Runtime, async |app, call| reset_iostat(&app.bdevs, &call));
    methods.method::<BdevSetQosLimit>(State::Runtime, async |app, call| set_qos_limit(&app.bdevs, &call));
    methods.method::<BdevEnableHistogram>(State::Runtime, async |app, call| {
        histogram::enable(&app.bdevs, &call)
    });
    methods.method::<BdevGetHistogram>(State::Runtime, async |app, call| histogram::get(&app.bdevs, &call));
    disks::register(methods, app);
    faults::register(methods, app);
}

fn set_options(app: &App, call: &BdevSetOptions) -> Result<bool, RpcError> {
    let pool = call.bdev_io_pool_size.unwrap_or(IO_POOL_SIZE);
    let cache = call.bdev_io_cache_size.unwrap_or(IO_CACHE_SIZE);
    // One thread of ours and SPDK's one more.
    if u64::from(pool) < u64::from(cache) * 2 {
        let message = format!("Pool size {pool} too small for cache size {cache}");
        return Err(RpcError::invalid_params(message));
    }
    if let Some(on) = call.bdev_auto_examine {
        app.bdevs.set_auto_examine(on);
    }
    Ok(true)
}

async fn get_bdevs(bdevs: &Registry, call: BdevGetBdevs) -> Result<Vec<vda_spdk::Bdev>, RpcError> {
    let Some(name) = call.name else { return Ok(bdevs.list().into_iter().map(view::bdev).collect()) };
    let found = match (bdevs.info(&name), call.timeout.filter(|t| *t > 0)) {
        (Err(_), Some(ms)) => tokio::time::timeout(Duration::from_millis(ms), bdevs.wait_for(&name))
            .await
            .map_err(|_| Errno(libc::ETIMEDOUT)),
        (found, _) => found.map_err(|_| Errno::ENODEV),
    };
    Ok(vec![view::bdev(found?)])
}

fn get_iostat(app: &App, call: &BdevGetIostat) -> Result<Iostat, RpcError> {
    let all: Vec<String>;
    let names = match &call.names {
        Some(names) => names,
        None => {
            all = app.bdevs.list().into_iter().map(|b| b.name).collect();
            &all
        }
    };
    let per_channel = call.per_channel.unwrap_or(false);
    // SPDK shows the channels of one bdev only.
    if per_channel && (call.names.is_none() || names.len() != 1) {
        return Err(RpcError::errno(Errno::EINVAL));
    }
    let mut bdevs = Vec::new();
    for name in names {
        let (name, stat) = app.bdevs.iostat(name)?;
        bdevs.push(BdevIostat { name, counters: view::counters(&stat), ..BdevIostat::default() });
    }
    for name in names {
        reset(&app.bdevs, name, call.reset_mode.unwrap_or(ResetStatMode::None))?;
    }
    let ticks = u64::try_from(app.uptime().as_nanos()).unwrap_or(u64::MAX);
    let reply = Iostat::new(TICK_RATE, ticks);
    if !per_channel {
        return Ok(Iostat { bdevs: Some(bdevs), ..reply });
    }
    let name = bdevs.first().map(|b| b.name.clone());
    // One thread has a channel to what somebody has open.
    let is_open = |b: &BdevIostat| app.bdevs.info(&b.name).is_ok_and(|info| info.open > 0);
    let channels = bdevs
        .into_iter()
        .filter(is_open)
        .map(|b| ChannelIostat { thread_id: 1, counters: b.counters })
        .collect();
    Ok(Iostat { name, channels: Some(channels), ..reply })
}

fn reset(bdevs: &Registry, name: &str, mode: ResetStatMode) -> Result<(), BdevError> {
    match mode {
        ResetStatMode::All => bdevs.reset_iostat(name, IoStatReset::All),
        ResetStatMode::Maxmin => bdevs.reset_iostat(name, IoStatReset::Extremes),
        ResetStatMode::Error => bdevs.reset_iostat(name, IoStatReset::Errors),
        ResetStatMode::None => Ok(()),
    }
}

fn reset_iostat(bdevs: &Registry, call: &BdevResetIostat) -> Result<bool, RpcError> {
    let mode = call.mode.unwrap_or(ResetStatMode::All);
    if mode == ResetStatMode::None {
        // Not even the name is looked at.
        return Ok(true);
    }
    let names = match &call.name {
        Some(name) => vec![bdevs.canonical_name(name)?],
        None => bdevs.list().into_iter().map(|b| b.name).collect(),
    };
    for name in names {
        reset(bdevs, &name, mode)?;
    }
    Ok(true)
}

fn set_qos_limit(bdevs: &Registry, call: &BdevSetQosLimit) -> Result<bool, RpcError> {
    let update = QosUpdate {
        rw_ios_per_sec: call.rw_ios_per_sec,
        rw_mbytes_per_sec: call.rw_mbytes_per_sec,
        r_mbytes_per_sec: call.r_mbytes_per_sec,
        w_mbytes_per_sec: call.w_mbytes_per_sec,
    };
    if bdevs.set_qos(&call.name, update)? {
        return Ok(true);
    }
    Err(RpcError::new(Errno::EINVAL.code(), "No rate limits specified"))
}

#[cfg(test)]
#[path = "bdev_tests.rs"]
mod tests;
