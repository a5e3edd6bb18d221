//! raid0, raid1 and concat (SPDK's `bdev_raid`), without superblock: the control plane says who is a member.
//!
//! A raid has *slots*; a slot is empty or holds a member. A member of a raid1 is in sync, or is being rebuilt and never read from.

mod bdev;
mod error;
mod mirror;
mod module;
mod range_lock;
mod rebuild;
mod striped;

use std::cell::{Cell, RefCell};
use std::rc::{Rc, Weak};

use tokio::sync::Notify;
use uuid::Uuid;
use vda_spdk::{RaidBaseBdev, RaidInfo, RaidLevel, RaidProcess, RaidProgress, RaidState};

pub use error::RaidError;
pub use module::{CreateRaid, RaidModule};

use crate::bdev::{Descriptor, Registration};
use range_lock::RangeLock;
use striped::Spread;

/// Module name of raids and of their claims.
pub(crate) const MODULE: &str = "raid";

/// Options of `bdev_raid_set_options`; a rebuild uses those in force when it starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RaidOptions {
    /// KiB copied while writes to them wait.
    pub process_window_size_kb: u32,
    /// MiB a second; 0 is unlimited.
    pub process_max_bandwidth_mb_sec: u32,
}

impl Default for RaidOptions {
    fn default() -> Self {
        Self { process_window_size_kb: 1024, process_max_bandwidth_mb_sec: 0 }
    }
}

/// A base bdev in a slot.
struct Member {
    desc: Descriptor,
    /// Holds what the raid holds; false while it is being rebuilt. Reads only go to members in sync.
    in_sync: Cell<bool>,
    inflight: Cell<u32>,
    /// Somebody waits for `idle`.
    awaited: Cell<bool>,
    idle: Notify,
    /// It is no member any more.
    left: Notify,
}

/// Members in the order of their slots.
type Members = Rc<[Rc<Member>]>;

fn has(members: &[Rc<Member>], member: &Rc<Member>) -> bool {
    members.iter().any(|m| Rc::ptr_eq(m, member))
}

/// Counts an I/O on a member, so that its removal can wait for the end of it.
struct OnMember(Rc<Member>);

impl OnMember {
    fn begin(member: &Rc<Member>) -> Self {
        member.inflight.set(member.inflight.get() + 1);
        Self(Rc::clone(member))
    }
}

impl Drop for OnMember {
    fn drop(&mut self) {
        self.0.inflight.set(self.0.inflight.get() - 1);
        if self.0.inflight.get() == 0 && self.0.awaited.get() {
            self.0.idle.notify_waiters();
        }
    }
}

impl Member {
    fn new(desc: Descriptor, in_sync: bool) -> Rc<Self> {
        Rc::new(Self {
            desc,
            in_sync: Cell::new(in_sync),
            inflight: Cell::new(0),
            awaited: Cell::new(false),
            idle: Notify::new(),
            left: Notify::new(),
        })
    }

    /// Waits for the end of the I/O on it, and of its rebuild.
    async fn drained(&self) {
        self.awaited.set(true);
        loop {
            let idle = self.idle.notified();
            if self.inflight.get() == 0 {
                return;
            }
            idle.await;
        }
    }
}

/// A place for a member.
#[derive(Default)]
struct Slot {
    /// What is, or is to come, in it.
    name: Option<String>,
    /// Of its bdev. A slot that is emptied before the raid is online waits for the same bdev.
    uuid: Uuid,
    member: Option<Rc<Member>>,
    /// Blocks of it that the raid uses.
    data_size: u64,
}

/// A rebuild under way.
#[derive(Clone)]
struct Process {
    target: Rc<Member>,
    /// Blocks copied so far.
    position: u64,
}

/// A raid.
struct Raid {
    name: String,
    level: RaidLevel,
    strip_size_kb: u32,
    /// Nil until it is online.
    uuid: Cell<Uuid>,
    block_size: Cell<u32>,
    num_blocks: Cell<u64>,
    state: Cell<RaidState>,
    /// Members it had left when it went offline.
    operational: Cell<u32>,
    slots: RefCell<Vec<Slot>>,
    /// Those in `slots`; another list whenever one comes or goes.
    members: RefCell<Members>,
    /// Of a raid0 or concat: where blocks are on `members`; `None` unless every slot has one.
    spread: RefCell<Option<Spread>>,
    registration: RefCell<Option<Registration>>,
    /// Changes under way, of hosts and of a rebuild.
    changes: Rc<RangeLock>,
    process: RefCell<Option<Process>>,
    /// Where the next read of equals goes.
    turn: Cell<usize>,
    module: Weak<RaidModule>,
}

impl Raid {
    fn members(&self) -> Members {
        Rc::clone(&self.members.borrow())
    }

    fn has(&self, member: &Rc<Member>) -> bool {
        has(&self.members.borrow(), member)
    }

    /// Takes over what has changed in the slots.
    fn slots_changed(&self) {
        let members = self.slots.borrow().iter().filter_map(|s| s.member.clone()).collect();
        self.members.replace(members);
        self.spread_changed();
    }

    /// Empties the slot of a member; `false` if it has none any more.
    fn detach(&self, member: &Rc<Member>) -> bool {
        let mut slots = self.slots.borrow_mut();
        let slot = slots.iter_mut().find(|s| s.member.as_ref().is_some_and(|m| Rc::ptr_eq(m, member)));
        let Some(slot) = slot else { return false };
        slot.member = None;
        slot.name = None;
        if self.state.get() != RaidState::Configuring {
            slot.uuid = Uuid::nil();
        }
        drop(slots);
        self.slots_changed();
        let is_target = self.process.borrow().as_ref().is_some_and(|p| Rc::ptr_eq(&p.target, member));
        if is_target {
            self.process.replace(None);
        }
        member.left.notify_waiters();
        true
    }

    /// What `bdev_raid_get_bdevs` and `driver_specific.raid` show.
    fn info(&self) -> RaidInfo {
        let slots = self.slots.borrow();
        let discovered = slots.iter().filter(|s| s.member.is_some()).count() as u32;
        let operational = match self.state.get() {
            RaidState::Configuring => slots.len() as u32,
            RaidState::Online => discovered,
            RaidState::Offline => self.operational.get(),
        };
        let list = slots.iter().map(|s| RaidBaseBdev {
            name: s.name.clone(),
            uuid: s.uuid,
            is_configured: s.member.is_some(),
            data_offset: 0,
            data_size: s.data_size,
        });
        RaidInfo {
            uuid: self.uuid.get(),
            strip_size_kb: self.strip_size_kb,
            state: self.state.get(),
            raid_level: self.level,
            superblock: false,
            num_base_bdevs: slots.len() as u32,
            num_base_bdevs_discovered: discovered,
            num_base_bdevs_operational: operational,
            base_bdevs_list: list.collect(),
            process: self.process.borrow().as_ref().map(|p| self.process_info(p)),
        }
    }

    fn process_info(&self, process: &Process) -> RaidProcess {
        let total = self.num_blocks.get().max(1);
        let percent = u32::try_from(u128::from(process.position) * 100 / u128::from(total)).unwrap_or(100);
        RaidProcess {
            r#type: "rebuild".to_owned(),
            target: process.target.desc.name().to_owned(),
            progress: RaidProgress { blocks: process.position, percent },
        }
    }
}

#[cfg(test)]
#[path = "oracle_tests.rs"]
mod oracle;
#[cfg(test)]
mod oracle_host;
#[cfg(test)]
mod oracle_model;
