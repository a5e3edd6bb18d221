//! raid0, raid1 and concat of bdevs: `bdev_raid_*`. Bad parameters are answered with -32700 here.

use crate::Uuid;

rpc! {
    /// `bdev_raid_create`: a raid of bdevs. With a missing base it answers `true` and stays `configuring`.
    BdevRaidCreate = "bdev_raid_create" -> bool, {
        name: String,
        raid_level: RaidLevel,
        base_bdevs: Vec<String>,
        ;
        /// KiB, a power of two; raid0 and concat need it, raid1 refuses it.
        strip_size_kb: u32,
        uuid: Uuid,
        superblock: bool,
    }

    /// `bdev_raid_delete`: deletes a raid, also under something that uses it.
    BdevRaidDelete = "bdev_raid_delete" -> bool, {
        name: String,
        ;
        clear_sb: bool,
    }

    /// `bdev_raid_add_base_bdev`: fills an empty slot; a raid1 is rebuilt onto it.
    BdevRaidAddBaseBdev = "bdev_raid_add_base_bdev" -> bool, {
        raid_bdev: String,
        base_bdev: String,
        ;
    }

    /// `bdev_raid_remove_base_bdev`: empties the slot of a base bdev. Removing the last member deletes the raid.
    BdevRaidRemoveBaseBdev = "bdev_raid_remove_base_bdev" -> bool, {
        name: String,
        ;
    }

    /// `bdev_raid_get_bdevs`: the raids in a state.
    BdevRaidGetBdevs = "bdev_raid_get_bdevs" -> Vec<RaidBdev>, {
        category: RaidCategory,
        ;
    }

    /// `bdev_raid_set_options`: limits rebuilds started afterwards.
    BdevRaidSetOptions = "bdev_raid_set_options" -> bool, {
        ;
        /// KiB.
        process_window_size_kb: u32,
        /// MiB a second; 0: no limit. For processes started afterwards.
        process_max_bandwidth_mb_sec: u32,
    }
}

closed! {
    /// Levels; the digits alone are accepted from a user, and never sent.
    RaidLevel { Raid0 = "raid0" | "0", Raid1 = "raid1" | "1", Raid5f = "raid5f" | "5f", Concat = "concat", }

    /// Which raids [`BdevRaidGetBdevs`] shows.
    RaidCategory { Online = "online", Configuring = "configuring", Offline = "offline", All = "all", }

    /// State of a raid: only an `online` one is a bdev.
    RaidState { Online = "online", Configuring = "configuring", Offline = "offline", }
}

/// An element of the reply of [`BdevRaidGetBdevs`].
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct RaidBdev {
    pub name: String,
    #[serde(flatten)]
    pub info: RaidInfo,
}

impl<'de> serde::Deserialize<'de> for RaidBdev {
    /// SPDK writes `uuid` twice here, once for the method and once with the rest (`bdev_raid_rpc.c`, `bdev_raid.c`): the last one counts.
    fn deserialize<D: serde::Deserializer<'de>>(source: D) -> Result<Self, D::Error> {
        use serde::de::Error as _;
        let mut fields = serde_json::Map::<String, serde_json::Value>::deserialize(source)?;
        let name = fields.remove("name").ok_or_else(|| D::Error::missing_field("name"))?;
        let name = serde_json::from_value(name).map_err(D::Error::custom)?;
        let info = serde_json::from_value(fields.into()).map_err(D::Error::custom)?;
        Ok(Self { name, info })
    }
}

/// A slot of a raid.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct RaidBaseBdev {
    /// `null` when the slot is empty.
    pub name: Option<String>,
    pub uuid: Uuid,
    pub is_configured: bool,
    /// Blocks.
    pub data_offset: u64,
    /// Blocks.
    pub data_size: u64,
}

object! {
    /// What is known about a raid; also `driver_specific.raid` of its bdev.
    RaidInfo {
        uuid: Uuid,
        /// KiB; 0 for raid1.
        strip_size_kb: u32,
        state: RaidState,
        raid_level: RaidLevel,
        superblock: bool,
        /// Slots, filled or not.
        num_base_bdevs: u32,
        num_base_bdevs_discovered: u32,
        /// Counts a member that is being rebuilt; see `process`.
        num_base_bdevs_operational: u32,
        base_bdevs_list: Vec<RaidBaseBdev>,
        ;
        /// A rebuild under way. May be missing for its first milliseconds.
        process: RaidProcess,
    }

    /// A background process of a raid.
    RaidProcess {
        /// `rebuild`.
        r#type: String,
        /// The base bdev written to.
        target: String,
        progress: RaidProgress,
        ;
    }

    /// How far a [`RaidProcess`] is.
    RaidProgress {
        blocks: u64,
        percent: u32,
        ;
    }
}

#[cfg(test)]
#[path = "raid_tests.rs"]
mod tests;
