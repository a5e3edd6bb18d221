//! lvstores and raids.

use vda_spdk::{BdevExamine, BdevRaidCreate, BdevRaidSetOptions, BdevWaitForExamine, ConfigEntry, RaidInfo};

use super::{Part, entry};
use crate::raid::RaidOptions;

/// lvstores are on their bdevs: they only have to be looked for, by a call if that does not happen by itself.
pub(crate) fn store_parts(auto_examine: bool, base_bdev: &str, lvols: Vec<String>) -> Part {
    let examine = (!auto_examine).then(|| entry(&BdevExamine::new(base_bdev)));
    let found = entry(&BdevWaitForExamine {});
    Part {
        provides: lvols,
        needs: vec![base_bdev.to_owned()],
        calls: examine.into_iter().chain([found]).collect(),
    }
}

/// Options of rebuilds.
pub(crate) fn raid_options(options: RaidOptions) -> ConfigEntry {
    entry(&BdevRaidSetOptions {
        process_window_size_kb: Some(options.process_window_size_kb),
        process_max_bandwidth_mb_sec: Some(options.process_max_bandwidth_mb_sec),
    })
}

/// A raid. An empty slot gets SPDK's name for it, under which no bdev is found; so does a member that is still being rebuilt: it does not
/// have all data, and would be taken for one that has. Such a raid is not online after its configuration was loaded.
pub(crate) fn raid_parts(name: &str, info: &RaidInfo) -> Part {
    let rebuilt = info.process.as_ref().map(|process| process.target.as_str());
    let member = |(slot, base): (usize, &vda_spdk::RaidBaseBdev)| match &base.name {
        Some(name) if Some(name.as_str()) != rebuilt => name.clone(),
        _ => format!("removed_base_bdev_{slot}"),
    };
    let base_bdevs: Vec<String> = info.base_bdevs_list.iter().enumerate().map(member).collect();
    let call = BdevRaidCreate {
        strip_size_kb: Some(info.strip_size_kb).filter(|kib| *kib > 0),
        uuid: Some(info.uuid),
        ..BdevRaidCreate::new(name, info.raid_level, base_bdevs.clone())
    };
    Part { provides: vec![name.to_owned()], needs: base_bdevs, calls: vec![entry(&call)] }
}
