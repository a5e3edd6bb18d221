//! Reservations of a namespace: who registered a key, who holds what, and which commands of others conflict with it
//! (Base 8.19; the commands are 7.2 to 7.5). Pure; a host is its host identifier.
//!
//! Where the specification leaves room this does what SPDK's `lib/nvmf/subsystem.c` does: preempting a key that nobody has succeeds
//! while nothing is held, and Reservation Report wants extended data structures. An all-registrants reservation that is preempted with key
//! zero gets the new type, as the specification says and SPDK does not.

use crate::cmd::{Sqe, io};
use crate::field::{put, u64_at};
use crate::status::Status;

#[cfg(test)]
#[path = "reservation_tests.rs"]
mod tests;

/// Registrants of a namespace at most (SPDK's `SPDK_NVMF_MAX_NUM_REGISTRANTS`).
pub const MAX_REGISTRANTS: usize = 16;

/// Host identifier.
pub type HostId = [u8; 16];

/// Reservation types (RTYPE, Base figure "Reservation Types").
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Type {
    /// The holder writes, all read.
    WriteExclusive = 1,
    /// The holder writes and reads.
    ExclusiveAccess = 2,
    /// Registrants write, all read; one of them holds.
    WriteExclusiveRegistrantsOnly = 3,
    /// Registrants write and read; one of them holds.
    ExclusiveAccessRegistrantsOnly = 4,
    /// Registrants write, all read; all of them hold.
    WriteExclusiveAllRegistrants = 5,
    /// Registrants write and read; all of them hold.
    ExclusiveAccessAllRegistrants = 6,
}

impl Type {
    /// From RTYPE.
    #[must_use]
    pub fn from_byte(b: u8) -> Option<Self> {
        Some(match b {
            1 => Self::WriteExclusive,
            2 => Self::ExclusiveAccess,
            3 => Self::WriteExclusiveRegistrantsOnly,
            4 => Self::ExclusiveAccessRegistrantsOnly,
            5 => Self::WriteExclusiveAllRegistrants,
            6 => Self::ExclusiveAccessAllRegistrants,
            _ => return None,
        })
    }

    /// Whether every registrant holds the reservation.
    #[must_use]
    pub fn is_all_registrants(self) -> bool {
        matches!(self, Self::WriteExclusiveAllRegistrants | Self::ExclusiveAccessAllRegistrants)
    }

    fn keeps_registrants_out(self) -> bool {
        matches!(self, Self::WriteExclusive | Self::ExclusiveAccess)
    }

    fn keeps_readers_out(self) -> bool {
        matches!(
            self,
            Self::ExclusiveAccess
                | Self::ExclusiveAccessRegistrantsOnly
                | Self::ExclusiveAccessAllRegistrants
        )
    }
}

/// A host that registered a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Registrant {
    /// The host.
    pub host: HostId,
    /// Its key, not zero.
    pub key: u64,
    /// Controller through which it registered; 0 if that is not known any more.
    pub cntlid: u16,
}

/// A reservation that is held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Held {
    /// Its type.
    pub kind: Type,
    /// Key of the holder.
    pub key: u64,
    /// The holder; of an all-registrants reservation the first registrant.
    pub holder: HostId,
}

/// What a host is told (Reservation Notification Log Page Type).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Notification {
    /// Its registration was preempted.
    RegistrationPreempted = 1,
    /// The reservation was released.
    ReservationReleased = 2,
    /// The reservation was preempted, here: cleared.
    ReservationPreempted = 3,
}

impl Notification {
    /// Its bit in the Reservation Notification Mask feature.
    #[must_use]
    pub fn mask_bit(self) -> u32 {
        1 << (self as u8)
    }
}

/// What a command changed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Change {
    /// Whether anything did: what persists has to be stored.
    pub changed: bool,
    /// Whom to tell what.
    pub notify: Vec<(HostId, Notification)>,
    /// Commands that preempted hosts have outstanding have to end before the command does.
    pub abort: bool,
}

impl Change {
    fn yes() -> Self {
        Self { changed: true, ..Self::default() }
    }
}

/// All state of a namespace.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Reservations {
    generation: u32,
    registrants: Vec<Registrant>,
    held: Option<Held>,
    /// Persist Through Power Loss is possible.
    persistable: bool,
    persistent: bool,
}

const INVALID: Status = Status::INVALID_FIELD.dnr();
const CONFLICT: Status = Status::RESERVATION_CONFLICT.dnr();

impl Reservations {
    /// Nobody is registered. `persistable`: state can be stored.
    #[must_use]
    pub fn new(persistable: bool) -> Self {
        Self { persistable, ..Self::default() }
    }

    /// State that was stored, persistent.
    ///
    /// # Errors
    /// What does not fit together.
    pub fn restore(registrants: Vec<Registrant>, held: Option<Held>) -> Result<Self, &'static str> {
        if registrants.len() > MAX_REGISTRANTS {
            return Err("too many registrants");
        }
        let holds = |h: &Held| registrants.iter().any(|r| r.host == h.holder && r.key == h.key);
        if held.as_ref().is_some_and(|h| !holds(h)) {
            return Err("the holder is not registered");
        }
        Ok(Self { generation: 0, registrants, held, persistable: true, persistent: true })
    }

    /// Registered hosts, in their order.
    #[must_use]
    pub fn registrants(&self) -> &[Registrant] {
        &self.registrants
    }

    /// The reservation.
    #[must_use]
    pub fn held(&self) -> Option<Held> {
        self.held
    }

    /// Reservation Persistence feature: whether state is stored.
    #[must_use]
    pub fn is_persistent(&self) -> bool {
        self.persistent
    }

    /// RESCAP of Identify Namespace: all types, IEKEY as of revision 1.3, and persistence.
    #[must_use]
    pub fn capabilities(persistable: bool) -> u8 {
        0xfe | u8::from(persistable)
    }

    /// Sets the Reservation Persistence feature.
    ///
    /// # Errors
    /// `INVALID_FIELD` if state cannot be stored.
    pub fn set_persistent(&mut self, on: bool) -> Result<(), Status> {
        if !self.persistable {
            return Err(INVALID);
        }
        self.persistent = on;
        Ok(())
    }

    fn find(&self, host: &HostId) -> Option<usize> {
        self.registrants.iter().position(|r| r.host == *host)
    }

    fn is_holder(&self, host: &HostId) -> bool {
        self.held.is_some_and(|h| {
            if h.kind.is_all_registrants() { self.find(host).is_some() } else { h.holder == *host }
        })
    }

    /// Whether `host` may execute the command (Base figure "Command Behavior in the Presence of a Reservation").
    ///
    /// # Errors
    /// `RESERVATION_CONFLICT`.
    pub fn check(&self, host: &HostId, sqe: &Sqe) -> Result<(), Status> {
        let Some(held) = self.held else { return Ok(()) };
        if self.is_holder(host) {
            return Ok(());
        }
        let registered = self.find(host).is_some();
        let kept_out = held.kind.keeps_registrants_out() || !registered;
        let conflict = match sqe.opcode {
            io::READ | io::COMPARE => held.kind.keeps_readers_out() && kept_out,
            io::FLUSH | io::WRITE | io::WRITE_ZEROES | io::DATASET_MANAGEMENT => kept_out,
            io::RESERVATION_ACQUIRE => sqe.cdw10[0] & 7 == 0 || !registered,
            io::RESERVATION_RELEASE => !registered,
            _ => false,
        };
        if conflict { Err(CONFLICT) } else { Ok(()) }
    }

    /// Reservation Register (Base 7.3) by `host` through controller `cntlid`; `data` holds the current and the new key.
    ///
    /// # Errors
    /// `INVALID_FIELD`, `RESERVATION_CONFLICT`, or `INTERNAL_ERROR` if there is no room for a registrant.
    pub fn register(&mut self, host: &HostId, cntlid: u16, sqe: &Sqe, data: &[u8]) -> Result<Change, Status> {
        let (action, ignore) = (sqe.cdw10[0] & 7, sqe.cdw10[0] & 8 != 0);
        let (current, new) = (key(data, 0)?, key(data, 8)?);
        let persistent = match sqe.cdw10[0] >> 30 {
            2 => Some(false),
            3 if !self.persistable => return Err(INVALID),
            3 => Some(true),
            _ => None,
        };
        let known = self.find(host);
        let mut change = match action {
            0 => self.register_key(host, cntlid, known, new)?,
            1 => {
                let i = known.filter(|&i| ignore || self.registrants[i].key == current).ok_or(CONFLICT)?;
                self.unregister(host, i)
            }
            2 if new == 0 => return Err(INVALID),
            2 => self.replace_key(host, cntlid, known, ignore, [current, new])?,
            _ => return Err(INVALID),
        };
        if let Some(on) = persistent.filter(|on| *on != self.persistent) {
            self.persistent = on;
            change.changed = true;
        }
        Ok(change)
    }

    fn register_key(
        &mut self,
        host: &HostId,
        cntlid: u16,
        known: Option<usize>,
        new: u64,
    ) -> Result<Change, Status> {
        match known {
            // To register the same key again is no error.
            Some(i) if self.registrants[i].key == new => Ok(Change::default()),
            Some(_) => Err(CONFLICT),
            None if new == 0 => Err(INVALID),
            None => self.add(host, cntlid, new),
        }
    }

    fn replace_key(
        &mut self,
        host: &HostId,
        cntlid: u16,
        known: Option<usize>,
        ignore: bool,
        [current, new]: [u64; 2],
    ) -> Result<Change, Status> {
        match known {
            Some(i) if !ignore && self.registrants[i].key != current => Err(CONFLICT),
            Some(i) if self.registrants[i].key == new => Ok(Change::default()),
            Some(i) => {
                self.registrants[i].key = new;
                if let Some(held) = self.held.as_mut().filter(|h| h.holder == *host) {
                    held.key = new;
                }
                Ok(Change::yes())
            }
            None if ignore => self.add(host, cntlid, new),
            None => Err(CONFLICT),
        }
    }

    fn add(&mut self, host: &HostId, cntlid: u16, key: u64) -> Result<Change, Status> {
        if self.registrants.len() >= MAX_REGISTRANTS {
            return Err(Status::INTERNAL_ERROR);
        }
        self.registrants.push(Registrant { host: *host, key, cntlid });
        self.generation = self.generation.wrapping_add(1);
        Ok(Change::yes())
    }

    fn unregister(&mut self, host: &HostId, index: usize) -> Change {
        let before = self.held;
        self.remove(|i, _| i == index);
        let released = before.filter(|_| self.held.is_none()).map(|h| h.kind);
        let tell = matches!(
            released,
            Some(Type::WriteExclusiveRegistrantsOnly | Type::ExclusiveAccessRegistrantsOnly)
        );
        let notify = if tell { self.others(host, Notification::ReservationReleased) } else { Vec::new() };
        Change { notify, ..Change::yes() }
    }

    /// Removes registrants; a reservation goes with its holder, or with the last of all registrants.
    fn remove(&mut self, which: impl Fn(usize, &Registrant) -> bool) -> usize {
        let before = self.registrants.len();
        let mut index = 0;
        self.registrants.retain(|r| {
            index += 1;
            !which(index - 1, r)
        });
        let removed = before - self.registrants.len();
        self.generation = self.generation.wrapping_add(removed as u32);
        if let Some(held) = self.held {
            let stays = self.find(&held.holder).is_some();
            self.held = match self.registrants.first() {
                _ if stays => Some(held),
                Some(next) if held.kind.is_all_registrants() => {
                    Some(Held { holder: next.host, key: next.key, ..held })
                }
                _ => None,
            };
        }
        removed
    }

    fn others(&self, host: &HostId, what: Notification) -> Vec<(HostId, Notification)> {
        self.registrants.iter().filter(|r| r.host != *host).map(|r| (r.host, what)).collect()
    }

    /// Reservation Acquire (Base 7.2); `data` holds the host's key and the key to preempt.
    ///
    /// # Errors
    /// `INVALID_FIELD` or `RESERVATION_CONFLICT`.
    pub fn acquire(&mut self, host: &HostId, sqe: &Sqe, data: &[u8]) -> Result<Change, Status> {
        let [flags, kind, ..] = sqe.cdw10[0].to_le_bytes();
        let (own, victim) = (key(data, 0)?, key(data, 8)?);
        let kind = Type::from_byte(kind).filter(|_| flags & 8 == 0).ok_or(INVALID)?;
        let me = self.find(host).filter(|&i| self.registrants[i].key == own).ok_or(CONFLICT)?;
        let mine = Held { kind, key: own, holder: self.registrants[me].host };
        match flags & 7 {
            0 => match self.held {
                None => {
                    self.held = Some(mine);
                    Ok(Change::yes())
                }
                // The holder may acquire the same again.
                Some(h) if h.kind == kind && self.is_holder(host) => Ok(Change::default()),
                Some(_) => Err(CONFLICT),
            },
            1 => self.preempt(mine, victim),
            2 => Ok(Change { abort: true, ..self.preempt(mine, victim)? }),
            _ => Err(INVALID),
        }
    }

    fn preempt(&mut self, mine: Held, victim: u64) -> Result<Change, Status> {
        let before = self.registrants.clone();
        let released = match self.held {
            None => {
                self.remove(|_, r| r.key == victim);
                false
            }
            Some(held) if held.kind.is_all_registrants() => self.preempt_all(mine, victim)?,
            Some(held) if held.holder == mine.holder && held.key == victim => {
                self.held = Some(Held { kind: mine.kind, ..held });
                true
            }
            Some(held) if held.key == victim => {
                self.remove(|_, r| r.key == victim && r.host != mine.holder);
                self.held = Some(mine);
                true
            }
            Some(_) if victim == 0 => return Err(CONFLICT),
            Some(_) => {
                self.remove(|_, r| r.key == victim);
                false
            }
        };
        let gone = before.iter().filter(|r| r.host != mine.holder && self.find(&r.host).is_none());
        let mut notify: Vec<_> = gone.map(|r| (r.host, Notification::RegistrationPreempted)).collect();
        if released {
            notify.extend(self.others(&mine.holder, Notification::ReservationReleased));
        }
        Ok(Change { notify, ..Change::yes() })
    }

    fn preempt_all(&mut self, mine: Held, victim: u64) -> Result<bool, Status> {
        if victim == 0 {
            self.remove(|_, r| r.host != mine.holder);
            self.held = Some(mine);
            return Ok(true);
        }
        if self.remove(|_, r| r.key == victim) == 0 {
            return Err(CONFLICT);
        }
        Ok(false)
    }

    /// Reservation Release (Base 7.4); `data` holds the host's key.
    ///
    /// # Errors
    /// `INVALID_FIELD` or `RESERVATION_CONFLICT`.
    pub fn release(&mut self, host: &HostId, sqe: &Sqe, data: &[u8]) -> Result<Change, Status> {
        let [flags, kind, ..] = sqe.cdw10[0].to_le_bytes();
        let own = key(data, 0)?;
        if flags & 8 != 0 {
            return Err(INVALID);
        }
        self.find(host).filter(|&i| self.registrants[i].key == own).ok_or(CONFLICT)?;
        match (flags & 7, self.held) {
            (0, None) => Ok(Change::default()),
            (0, Some(held)) if held.kind as u8 != kind => Err(INVALID),
            // A registrant that does not hold it releases nothing, which is no error.
            (0, Some(_)) if !self.is_holder(host) => Ok(Change::default()),
            (0, Some(held)) => {
                self.held = None;
                let tell = !held.kind.keeps_registrants_out();
                let notify = if tell { self.others(host, Notification::ReservationReleased) } else { vec![] };
                Ok(Change { notify, ..Change::yes() })
            }
            (1, _) => {
                let notify = self.others(host, Notification::ReservationPreempted);
                self.remove(|_, _| true);
                Ok(Change { notify, ..Change::yes() })
            }
            _ => Err(INVALID),
        }
    }

    /// Reservation Report (Base 7.5): the extended data structure.
    ///
    /// # Errors
    /// `HOST_ID_INCONSISTENT` without EDS: a host identifier of 16 bytes fits into the extended structure only.
    pub fn report(&self, sqe: &Sqe) -> Result<Vec<u8>, Status> {
        if sqe.cdw10[1] & 1 == 0 {
            return Err(Status::HOST_ID_INCONSISTENT.dnr());
        }
        let mut b = vec![0; 64 * (1 + self.registrants.len())];
        put(&mut b, 0, &self.generation.to_le_bytes());
        put(&mut b, 4, &[self.held.map_or(0, |h| h.kind as u8)]);
        put(&mut b, 5, &(self.registrants.len() as u16).to_le_bytes());
        put(&mut b, 9, &[u8::from(self.persistent)]);
        for (r, entry) in self.registrants.iter().zip(b.chunks_exact_mut(64).skip(1)) {
            let cntlid = if r.cntlid == 0 { 0xffff } else { r.cntlid };
            put(entry, 0, &cntlid.to_le_bytes());
            put(entry, 2, &[u8::from(self.is_holder(&r.host))]);
            put(entry, 8, &r.key.to_le_bytes());
            put(entry, 16, &r.host);
        }
        Ok(b)
    }
}

fn key(data: &[u8], at: usize) -> Result<u64, Status> {
    if data.len() < at + 8 { Err(INVALID) } else { Ok(u64_at(data, at)) }
}
