//! `bdev_raid_*`.

use std::rc::Rc;

use vda_spdk::{
    BdevRaidAddBaseBdev, BdevRaidCreate, BdevRaidDelete, BdevRaidGetBdevs, BdevRaidRemoveBaseBdev,
    BdevRaidSetOptions, Errno, RaidCategory, RaidState,
};

use super::{Methods, RpcError, State, config};
use crate::app::App;
use crate::raid::{CreateRaid, RaidError, RaidModule, RaidOptions};

/// `-errno`, with a text that names what was tried.
fn refused(what: &str, e: &RaidError) -> RpcError {
    tracing::info!(refusal = %e, "raid call refused");
    let errno = Errno(e.errno());
    RpcError::new(errno.code(), format!("{what}: {}", errno.message()))
}

pub(super) fn register(methods: &mut Methods, app: &Rc<App>) {
    let raids = RaidModule::new(app.bdevs.clone());
    let m = Rc::clone(&raids);
    methods.config_parts(move |_| {
        let parts = m.list(None).into_iter().map(|raid| config::raid_parts(&raid.name, &raid.info));
        (vec![config::raid_options(m.options())], parts.collect())
    });
    let m = Rc::clone(&raids);
    methods.method::<BdevRaidCreate>(State::Runtime, async move |_, call| create(&m, call));
    let m = Rc::clone(&raids);
    methods.method::<BdevRaidDelete>(State::Runtime, async move |_, call| {
        m.delete(&call.name).await.map_err(|_| not_found(&call.name, "not found"))?;
        Ok(true)
    });
    let m = Rc::clone(&raids);
    methods.method::<BdevRaidAddBaseBdev>(State::Runtime, async move |_, call| add(&m, &call));
    let m = Rc::clone(&raids);
    methods.method::<BdevRaidRemoveBaseBdev>(State::Runtime, async move |_, call| {
        m.remove_base(&call.name).await.map_err(|e| {
            tracing::info!(refusal = %e, "raid call refused");
            RpcError::new(Errno(e.errno()).code(), "Failed to remove base bdev from raid bdev")
        })?;
        Ok(true)
    });
    let m = Rc::clone(&raids);
    methods.method::<BdevRaidGetBdevs>(State::Runtime, async move |_, call| {
        Ok(m.list(match call.category {
            RaidCategory::All => None,
            RaidCategory::Online => Some(RaidState::Online),
            RaidCategory::Configuring => Some(RaidState::Configuring),
            RaidCategory::Offline => Some(RaidState::Offline),
        }))
    });
    methods.method::<BdevRaidSetOptions>(State::Any, async move |_, call| {
        let old = raids.options();
        let new = RaidOptions {
            process_window_size_kb: call.process_window_size_kb.unwrap_or(old.process_window_size_kb),
            process_max_bandwidth_mb_sec: call
                .process_max_bandwidth_mb_sec
                .unwrap_or(old.process_max_bandwidth_mb_sec),
        };
        raids.set_options(new).map_err(|e| RpcError::errno(Errno(e.errno())))?;
        Ok(true)
    });
}

fn not_found(name: &str, text: &str) -> RpcError {
    RpcError::new(Errno::ENODEV.code(), format!("raid bdev {name} {text}"))
}

fn create(raids: &Rc<RaidModule>, call: BdevRaidCreate) -> Result<bool, RpcError> {
    if call.base_bdevs.iter().any(String::is_empty) {
        let message = format!("The base bdev name cannot be empty: {}", Errno::EINVAL.message());
        return Err(RpcError::new(Errno::EINVAL.code(), message));
    }
    let what = format!("Failed to create RAID bdev {}", call.name);
    let params = CreateRaid {
        name: call.name,
        level: call.raid_level,
        strip_size_kb: call.strip_size_kb,
        base_bdevs: call.base_bdevs,
        uuid: call.uuid,
        superblock: call.superblock.unwrap_or(false),
    };
    raids.create(params).map_err(|e| refused(&what, &e))?;
    Ok(true)
}

fn add(raids: &Rc<RaidModule>, call: &BdevRaidAddBaseBdev) -> Result<bool, RpcError> {
    match raids.add_base(&call.raid_bdev, &call.base_bdev) {
        Ok(()) => Ok(true),
        Err(RaidError::NotFound { name }) => Err(not_found(&name, "is not found in config")),
        Err(e) => {
            let what = format!("Failed to add base bdev {} to RAID bdev {}", call.base_bdev, call.raid_bdev);
            Err(refused(&what, &e))
        }
    }
}
