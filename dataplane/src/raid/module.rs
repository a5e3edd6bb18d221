//! What `bdev_raid_*` does.

use std::cell::{Cell, RefCell};
use std::rc::{Rc, Weak};

use futures::future::LocalBoxFuture;
use uuid::Uuid;
use vda_spdk::{RaidBdev as RaidView, RaidLevel, RaidState};

use super::bdev::RaidBdev;
use super::{MODULE, Member, Raid, RaidError, RaidOptions, Slot};
use crate::bdev::{BdevEvent, ClaimType, Events, Examiner, NewBdev, Registry};

/// Longest name of a raid (SPDK's `RAID_BDEV_SB_NAME_SIZE` without its NUL).
const NAME_MAX: usize = 63;
/// A raid has at most that many slots.
const SLOTS_MAX: usize = 255;

/// Parameters of `bdev_raid_create`.
#[derive(Clone, Debug)]
pub struct CreateRaid {
    pub name: String,
    pub level: RaidLevel,
    /// KiB, a power of two; raid0 and concat need it, raid1 refuses it.
    pub strip_size_kb: Option<u32>,
    pub base_bdevs: Vec<String>,
    /// Random if absent.
    pub uuid: Option<Uuid>,
    pub superblock: bool,
}

/// All raids of the process.
pub struct RaidModule {
    registry: Registry,
    raids: RefCell<Vec<Rc<Raid>>>,
    options: Cell<RaidOptions>,
}

/// Fills slots of raids that wait for a bdev. Holds the module weakly: the registry lives longer.
struct SlotExaminer(Weak<RaidModule>);

impl Examiner for SlotExaminer {
    fn examine(&self, _registry: Registry, name: String) -> LocalBoxFuture<'static, ()> {
        let module = self.0.upgrade();
        Box::pin(async move {
            if let Some(module) = module {
                module.examine(&name);
            }
        })
    }
}

fn invalid(field: &'static str, value: impl ToString, allowed: &'static str) -> RaidError {
    RaidError::Invalid { field, value: value.to_string(), allowed }
}

fn check(params: &CreateRaid) -> Result<(), RaidError> {
    if params.name.is_empty() || params.name.len() > NAME_MAX {
        return Err(invalid("name", &params.name, "1 to 63 bytes"));
    }
    let strip = params.strip_size_kb.unwrap_or(0);
    let least = match params.level {
        RaidLevel::Raid1 if strip != 0 => return Err(invalid("strip_size_kb", strip, "0 for raid1")),
        RaidLevel::Raid1 => 2,
        RaidLevel::Raid0 | RaidLevel::Concat if !strip.is_power_of_two() => {
            return Err(invalid("strip_size_kb", strip, "a power of two"));
        }
        RaidLevel::Raid0 | RaidLevel::Concat => 1,
        RaidLevel::Raid5f => return Err(invalid("raid_level", "raid5f", "raid0, raid1, concat")),
    };
    if !(least..=SLOTS_MAX).contains(&params.base_bdevs.len()) {
        return Err(invalid("base_bdevs", params.base_bdevs.len(), "at least 1, for raid1 2; at most 255"));
    }
    if params.superblock {
        return Err(invalid("superblock", true, "false: who is a member is not kept on the members"));
    }
    Ok(())
}

impl RaidModule {
    /// Starts the module.
    pub fn new(registry: Registry) -> Rc<Self> {
        let module =
            Rc::new(Self { registry: registry.clone(), raids: RefCell::default(), options: Cell::default() });
        registry.add_examiner(Rc::new(SlotExaminer(Rc::downgrade(&module))));
        module
    }

    /// `bdev_raid_set_options`, for rebuilds that start from now on.
    ///
    /// # Errors
    /// -22 for a window of 0.
    pub fn set_options(&self, options: RaidOptions) -> Result<(), RaidError> {
        if options.process_window_size_kb == 0 {
            return Err(invalid("process_window_size_kb", 0, "at least 1"));
        }
        self.options.set(options);
        Ok(())
    }

    /// The options in force.
    pub fn options(&self) -> RaidOptions {
        self.options.get()
    }

    pub(super) fn find(&self, name: &str) -> Result<Rc<Raid>, RaidError> {
        let found = self.raids.borrow().iter().find(|r| r.name == name).cloned();
        found.ok_or_else(|| RaidError::NotFound { name: name.to_owned() })
    }

    /// `bdev_raid_create`: online at once if all members are there, else `configuring` until they are.
    ///
    /// # Errors
    /// -22 bad parameters or members that do not fit, -17 taken name, -1 a member is claimed.
    pub fn create(self: &Rc<Self>, params: CreateRaid) -> Result<(), RaidError> {
        check(&params)?;
        if self.find(&params.name).is_ok() || self.registry.canonical_name(&params.name).is_ok() {
            return Err(RaidError::Exists { name: params.name });
        }
        let slot = |name: &String| Slot { name: Some(name.clone()), ..Slot::default() };
        let raid = Rc::new(Raid {
            level: params.level,
            strip_size_kb: params.strip_size_kb.unwrap_or(0),
            uuid: Cell::new(params.uuid.unwrap_or(Uuid::nil())),
            block_size: Cell::new(0),
            num_blocks: Cell::new(0),
            state: Cell::new(RaidState::Configuring),
            operational: Cell::new(0),
            slots: RefCell::new(params.base_bdevs.iter().map(slot).collect()),
            registration: RefCell::new(None),
            members: RefCell::new(Rc::new([])),
            spread: RefCell::new(None),
            changes: Rc::default(),
            process: RefCell::new(None),
            turn: Cell::new(0),
            module: Rc::downgrade(self),
            name: params.name,
        });
        for (n, base) in params.base_bdevs.iter().enumerate() {
            if self.registry.canonical_name(base).is_ok() {
                let (member, events) = self.open(&raid, base, true)?;
                raid.fill(n, member, events);
            }
        }
        raid.go_online(&self.registry)?;
        self.raids.borrow_mut().push(raid);
        Ok(())
    }

    /// Opens and claims a base bdev that fits the raid.
    fn open(&self, raid: &Raid, base: &str, in_sync: bool) -> Result<(Rc<Member>, Events), RaidError> {
        let (mut desc, events) = self.registry.open(base, false)?;
        desc.claim(ClaimType::ExclusiveWrite, MODULE)?;
        let block_size = raid.block_size.get();
        if block_size == 0 {
            if !(raid.strip_size_kb * 1024).is_multiple_of(desc.block_size()) {
                return Err(invalid("strip_size_kb", raid.strip_size_kb, "a multiple of the block size"));
            }
            raid.block_size.set(desc.block_size());
        } else if block_size != desc.block_size() {
            return Err(invalid("block size", desc.block_size(), "that of the other members"));
        }
        Ok((Member::new(desc, in_sync), events))
    }

    fn examine(self: &Rc<Self>, bdev: &str) {
        let waiting: Vec<_> = {
            let raids = self.raids.borrow();
            raids.iter().filter(|r| r.state.get() == RaidState::Configuring).cloned().collect()
        };
        for raid in waiting {
            let slot = raid
                .slots
                .borrow()
                .iter()
                .position(|s| s.member.is_none() && s.name.as_deref() == Some(bdev));
            let Some(slot) = slot else { continue };
            let joined = self.open(&raid, bdev, true).and_then(|(member, events)| {
                raid.fill(slot, member, events);
                raid.go_online(&self.registry)
            });
            if let Err(error) = joined {
                tracing::warn!(raid = %raid.name, member = bdev, %error, "a member that was waited for can not join");
            }
        }
    }

    /// `bdev_raid_add_base_bdev`: into an empty slot of a raid1, which is then rebuilt.
    ///
    /// # Errors
    /// -19 no such raid or bdev, -22 no empty slot or too small, -1 a rebuild is under way or the bdev is claimed.
    pub fn add_base(&self, raid: &str, base: &str) -> Result<(), RaidError> {
        let raid = self.find(raid)?;
        if raid.process.borrow().is_some() {
            return Err(RaidError::Rebuilding { name: raid.name.clone() });
        }
        let online = raid.state.get() == RaidState::Online;
        let uuid = self.registry.info(base).map_or(Uuid::nil(), |info| info.uuid);
        let slot = raid.slots.borrow().iter().position(|s| {
            let free = s.member.is_none() && s.name.is_none();
            free && (online || s.uuid == uuid) || s.member.is_none() && s.name.as_deref() == Some(base)
        });
        let slot = slot.ok_or_else(|| RaidError::Full { name: raid.name.clone() })?;
        let (member, events) = self.open(&raid, base, !online)?;
        if online && member.desc.num_blocks() < raid.num_blocks.get() {
            return Err(invalid(
                "size of the base bdev",
                member.desc.num_blocks(),
                "at least that of the raid",
            ));
        }
        raid.fill(slot, Rc::clone(&member), events);
        if online {
            raid.start_rebuild(member, self.options.get());
        } else {
            raid.go_online(&self.registry)?;
        }
        Ok(())
    }

    /// `bdev_raid_remove_base_bdev`: resolves when no I/O of the raid is on it any more. The last member takes the raid with it.
    ///
    /// # Errors
    /// -19 if it is no member of a raid.
    pub async fn remove_base(&self, base: &str) -> Result<(), RaidError> {
        let name = self.registry.canonical_name(base)?;
        let found = {
            let raids = self.raids.borrow();
            raids.iter().find_map(|raid| {
                let members = raid.members();
                let member = members.iter().find(|m| m.desc.name() == name)?;
                Some((Rc::clone(raid), Rc::clone(member)))
            })
        };
        let (raid, member) = found.ok_or(RaidError::NotFound { name })?;
        raid.lose(&member).await;
        Ok(())
    }

    /// `bdev_raid_delete`, whoever uses it.
    ///
    /// # Errors
    /// -19.
    pub async fn delete(&self, name: &str) -> Result<(), RaidError> {
        let raid = self.find(name)?;
        raid.take_offline().await;
        for member in raid.members().iter() {
            raid.detach(member);
            member.drained().await;
        }
        self.forget(&raid);
        Ok(())
    }

    fn forget(&self, raid: &Rc<Raid>) {
        self.raids.borrow_mut().retain(|r| !Rc::ptr_eq(r, raid));
    }

    /// `bdev_raid_get_bdevs`: those in a state, or all.
    pub fn list(&self, state: Option<RaidState>) -> Vec<RaidView> {
        let raids = self.raids.borrow();
        let wanted = raids.iter().filter(|r| state.is_none_or(|s| r.state.get() == s));
        wanted.map(|r| RaidView { name: r.name.clone(), info: r.info() }).collect()
    }
}

impl Raid {
    /// Puts a member in a slot and watches it.
    fn fill(self: &Rc<Self>, slot: usize, member: Rc<Member>, mut events: Events) {
        {
            let mut slots = self.slots.borrow_mut();
            let slot = &mut slots[slot];
            slot.name = Some(member.desc.name().to_owned());
            slot.uuid = member.desc.uuid();
            if slot.data_size == 0 {
                slot.data_size = member.desc.num_blocks();
            }
            slot.member = Some(Rc::clone(&member));
        }
        self.slots_changed();
        let (raid, member) = (Rc::downgrade(self), Rc::downgrade(&member));
        tokio::task::spawn_local(async move {
            while let Some(event) = events.recv().await {
                let (Some(raid), Some(member)) = (raid.upgrade(), member.upgrade()) else { return };
                match event {
                    BdevEvent::Resized => raid.grow(),
                    BdevEvent::Removed => {
                        raid.lose(&member).await;
                        return;
                    }
                }
            }
        });
    }

    /// Registers the bdev if every slot is filled.
    fn go_online(self: &Rc<Self>, registry: &Registry) -> Result<(), RaidError> {
        if self.slots.borrow().iter().any(|s| s.member.is_none()) {
            return Ok(());
        }
        let (sizes, blocks) = self.sizes();
        if blocks == 0 {
            return Err(invalid("size of the base bdevs", blocks, "at least a strip"));
        }
        if self.uuid.get().is_nil() {
            self.uuid.set(Uuid::new_v4());
        }
        self.set_sizes(&sizes, blocks);
        let bdev = Rc::new(RaidBdev(Rc::clone(self)));
        // The bdev is examined when it is registered: by then it has to work.
        self.state.set(RaidState::Online);
        let new = NewBdev { name: self.name.clone(), aliases: Vec::new(), bdev };
        match registry.register(new) {
            Ok(registration) => {
                self.registration.replace(Some(registration));
                Ok(())
            }
            Err(e) => {
                self.state.set(RaidState::Configuring);
                Err(e.into())
            }
        }
    }

    /// What the raid uses of each member, and what that makes together.
    fn sizes(&self) -> (Vec<u64>, u64) {
        let slots = self.slots.borrow();
        let own: Vec<_> =
            slots.iter().filter_map(|s| s.member.as_ref()).map(|m| m.desc.num_blocks()).collect();
        let least = own.iter().copied().min().unwrap_or(0);
        let strip = self.strip_blocks().max(1);
        let (used, blocks) = match self.level {
            RaidLevel::Raid1 => (vec![least; slots.len()], least),
            RaidLevel::Concat => {
                let used: Vec<_> = own.iter().map(|b| b / strip * strip).collect();
                let sum = used.iter().sum();
                (used, sum)
            }
            RaidLevel::Raid0 | RaidLevel::Raid5f => {
                let used = least / strip * strip;
                (vec![used; slots.len()], used * slots.len() as u64)
            }
        };
        (used, blocks)
    }

    fn set_sizes(&self, sizes: &[u64], blocks: u64) {
        for (slot, size) in self.slots.borrow_mut().iter_mut().zip(sizes) {
            slot.data_size = *size;
        }
        self.spread_changed();
        self.num_blocks.set(blocks);
    }

    /// Follows its smallest member upwards. A concat never grows: its second member would move.
    fn grow(&self) {
        if self.state.get() != RaidState::Online || self.level == RaidLevel::Concat {
            return;
        }
        let (sizes, blocks) = self.sizes();
        if blocks > self.num_blocks.get() {
            self.set_sizes(&sizes, blocks);
            if let Some(registration) = self.registration.borrow().as_ref() {
                registration.notify_resize();
            }
        }
    }

    /// A member is taken away. A raid1 goes on as long as one in sync is left.
    async fn lose(self: &Rc<Self>, member: &Rc<Member>) {
        if !self.detach(member) {
            member.drained().await;
            return;
        }
        tracing::info!(raid = %self.name, member = member.desc.name(), "member removed");
        let survives = self.level == RaidLevel::Raid1 && self.members().iter().any(|m| m.in_sync.get());
        if self.state.get() == RaidState::Online && !survives {
            let rest = if self.level == RaidLevel::Raid1 { self.members() } else { Rc::default() };
            for target in rest.iter() {
                // It was being rebuilt from the member that is gone, which alone has everything: from this moment on the target must
                // neither become in sync nor be what a write is acknowledged for.
                self.detach(target);
            }
            self.take_offline().await;
            for target in rest.iter() {
                target.drained().await;
            }
        }
        member.drained().await;
        let over = self.state.get() == RaidState::Offline && self.members().is_empty();
        if over && let Some(module) = self.module.upgrade() {
            module.forget(self);
        }
    }

    /// Takes the bdev away from whoever uses it.
    async fn take_offline(self: &Rc<Self>) {
        self.state.set(RaidState::Offline);
        self.operational.set(self.members().len() as u32);
        let registration = self.registration.borrow().clone();
        if let Some(registration) = registration {
            tracing::info!(raid = %self.name, "raid goes offline");
            registration.unregister().await;
            self.registration.replace(None);
        }
    }
}

#[cfg(test)]
#[path = "module_tests.rs"]
mod tests;
