//! What the lvstore stands on: a disk, or a mirror of two of them that is rebuilt after each restart, below a delay and an error bdev.

use std::cell::RefCell;
use std::rc::Rc;

use bytes::Bytes;
use uuid::Uuid;
use vda_spdk::RaidLevel;

use super::model::windows;
use super::{BLOCK, End, LVS, PER_CLUSTER, PER_MIB, external_stamp};
use crate::bdev::delay::{DelayBdevs, DelayParams, Latencies};
use crate::bdev::inject::{ErrorBdevs, ErrorParams};
use crate::bdev::malloc::{self, MallocParams};
use crate::bdev::null::{self, NullParams};
use crate::bdev::sim_disk::{SimBdev, SimDisk};
use crate::bdev::{Bdev, NewBdev, Registration, Registry};
use crate::lvstore::LvolModule;
use crate::raid::{CreateRaid, RaidModule, RaidOptions};

/// The external snapshot.
const EXTERNAL: Uuid = Uuid::from_u128(0xe);
/// The mirror, and its second member, which is new after each restart.
const MIRROR: &str = "mirror";
const SECOND: &str = "second";

/// A process on the disk, with the external snapshot.
pub(super) struct Booted {
    pub(super) registry: Registry,
    pub(super) module: Rc<LvolModule>,
    /// What the lvstore is made on.
    pub(super) base: &'static str,
    disks: Vec<(Rc<SimDisk>, Registration)>,
    raids: Option<Rc<RaidModule>>,
    /// They live as long as the process.
    _stack: Option<(Rc<DelayBdevs>, Rc<ErrorBdevs>)>,
}

/// The machine that outlives the process.
pub(super) struct Machine {
    /// The disk that has everything, and which the power leaves.
    pub(super) disk: Rc<SimDisk>,
    mirrored: bool,
    /// The second member of the mirror, once it has everything as well.
    second: RefCell<Option<Rc<SimDisk>>>,
}

impl Machine {
    pub(super) fn new(disk: Rc<SimDisk>, mirrored: bool) -> Self {
        Self { disk, mirrored, second: RefCell::default() }
    }

    /// The machine when the process ended like that; `number` decides all that is random.
    pub(super) fn after(&self, end: End, number: u64) -> Self {
        // Whichever member in sync is elected has everything.
        let second = self.second.borrow_mut().take().filter(|_| number % 2 == 1);
        let elected = second.unwrap_or_else(|| Rc::clone(&self.disk));
        let disk = match end {
            End::PowerCut => elected.after_power_cut(number),
            End::Kill => elected.after_kill(number),
        };
        Self::new(disk, self.mirrored)
    }

    pub(super) async fn boot(&self) -> Booted {
        let mut booted = boot(&self.disk, !self.mirrored).await;
        if self.mirrored {
            self.stack(&mut booted).await;
        }
        booted.registry.wait_for_examine().await;
        booted
    }

    /// The disk as a mirror of one member, which is elected, and one that is rebuilt from it; and what stands over it.
    async fn stack(&self, booted: &mut Booted) {
        let registry = booted.registry.clone();
        let raids = RaidModule::new(registry.clone());
        let (delays, errors) = (DelayBdevs::new(registry.clone()), ErrorBdevs::new(registry.clone()));
        let num_blocks = SimBdev(Rc::clone(&self.disk)).num_blocks();
        let spare = NullParams { name: "spare".to_owned(), num_blocks, block_size: BLOCK as u32, uuid: None };
        null::create(&registry, spare).unwrap();
        raids.set_options(RaidOptions { process_window_size_kb: 16, ..RaidOptions::default() }).unwrap();
        let mirror = CreateRaid {
            name: MIRROR.to_owned(),
            level: RaidLevel::Raid1,
            strip_size_kb: None,
            base_bdevs: vec!["disk".to_owned(), "spare".to_owned()],
            uuid: None,
            superblock: false,
        };
        raids.create(mirror).unwrap();
        raids.remove_base("spare").await.unwrap();
        let second = SimDisk::new(num_blocks, BLOCK as u32, num_blocks);
        second.fill_with_garbage();
        second.scramble_deallocated();
        booted.disks.push((Rc::clone(&second), register(&registry, SECOND, &second)));
        raids.add_base(MIRROR, SECOND).unwrap();
        let delay = DelayParams {
            name: "slow".to_owned(),
            base_bdev_name: MIRROR.to_owned(),
            latencies: Latencies::default(),
            uuid: None,
        };
        delays.create(delay).unwrap();
        errors.create(ErrorParams { base_name: "slow".to_owned(), uuid: None }).unwrap();
        registry.examine("EE_slow").unwrap();
        booted.base = "EE_slow";
        booted.raids = Some(raids);
        booted._stack = Some((delays, errors));
    }

    /// To be called when the process ends: whoever has everything by now may be what is left of the mirror.
    pub(super) fn ends(&self, booted: &Booted) {
        let is_whole = booted.raids.as_ref().is_some_and(|raids| {
            let mirror = raids.list(None).remove(0).info;
            let members = mirror.base_bdevs_list.iter().filter(|m| m.is_configured).count();
            members == 2 && mirror.process.is_none()
        });
        if is_whole {
            self.second.replace(Some(Rc::clone(&booted.disks[1].0)));
        }
    }
}

fn register(registry: &Registry, name: &str, disk: &Rc<SimDisk>) -> Registration {
    let bdev = Rc::new(SimBdev(Rc::clone(disk)));
    registry.register(NewBdev { name: name.to_owned(), aliases: vec![], bdev }).unwrap()
}

/// A process on `disk`, of which an lvstore is loaded if it may be `examined`: members of a mirror are not.
async fn boot(disk: &Rc<SimDisk>, examined: bool) -> Booted {
    let registry = Registry::new();
    let module = LvolModule::new(registry.clone());
    for (name, mib, uuid) in [("ext", 1, Some(EXTERNAL)), ("copy", 3, None)] {
        let name = Some(name.to_owned());
        let params = MallocParams { name, num_blocks: mib * PER_MIB, block_size: BLOCK as u32, uuid };
        malloc::create(&registry, params).unwrap();
    }
    fill_external(&registry).await;
    registry.set_auto_examine(examined);
    disk.scramble_deallocated();
    let disks = vec![(Rc::clone(disk), register(&registry, "disk", disk))];
    Booted { registry, module, base: "disk", disks, raids: None, _stack: None }
}

/// What is in block `n` of the external snapshot is [`external_stamp`] of it.
async fn fill_external(registry: &Registry) {
    let (ext, _events) = registry.open("ext", true).unwrap();
    for (_, lba, len) in windows(1) {
        for block in lba..lba + len {
            let data = external_stamp(block).to_le_bytes().repeat(BLOCK as usize / 8);
            ext.write(block, Bytes::from(data), false).await.unwrap();
        }
    }
}

impl Booted {
    /// Data clusters of the lvstore.
    pub(super) fn clusters(&self) -> u64 {
        self.module.stores(Some(LVS)).unwrap()[0].total_data_clusters
    }

    /// Clusters that its base has room for, with those of metadata.
    pub(super) fn base_clusters(&self) -> u64 {
        self.registry.info(self.base).unwrap().num_blocks / PER_CLUSTER
    }

    /// All disks get one cluster more, one after the other; back when the base of the lvstore has it as well.
    pub(super) async fn grow(&self) {
        let clusters = self.base_clusters() + 1;
        let blocks = clusters * PER_CLUSTER;
        for (disk, registration) in &self.disks {
            disk.grow(blocks);
            registration.notify_resize();
            tokio::task::yield_now().await;
        }
        for _ in 0..1000 {
            if self.base_clusters() == clusters {
                return;
            }
            tokio::task::yield_now().await;
        }
        panic!("the base of the lvstore did not grow to {blocks} blocks");
    }
}
