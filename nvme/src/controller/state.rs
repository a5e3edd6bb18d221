//! State of a controller that is not bound to a queue: properties, keep-alive timer, features (Base 3.1.3, 3.9, 5.27).

use std::time::{Duration, Instant};

use crate::cmd::feature;
use crate::fabrics::property;
use crate::status::Status;

/// Version 2.0 in the VS property.
pub const VERSION_2_0: u32 = 0x0002_0000;

const CC_ENABLE: u32 = 1;
const CC_SHN: u32 = 0b11 << 14;
const CSTS_READY: u32 = 1;
const CSTS_FATAL: u32 = 1 << 1;
const CSTS_SHUTDOWN_DONE: u32 = 0b10 << 2;

/// What a Property Set makes the controller do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    /// Nothing.
    None,
    /// The controller was enabled.
    Enabled,
    /// Reset: I/O queues and outstanding commands go.
    Reset,
    /// Shutdown was asked for and is complete.
    Shutdown,
}

/// The properties CAP, VS, CC, CSTS.
#[derive(Debug, Clone)]
pub struct Properties {
    cap: u64,
    cc: u32,
    csts: u32,
}

impl Properties {
    /// Of a controller whose queues have at most `queue_depth` entries.
    #[must_use]
    pub fn new(queue_depth: u16) -> Self {
        // MQES zero based; CQR; TO 7.5 s in units of 500 ms; CSS: NVM command set; CRMS: ready with media.
        let cap = u64::from(queue_depth.saturating_sub(1)) | 1 << 16 | 15 << 24 | 1 << 37 | 1 << 59;
        Self { cap, cc: 0, csts: 0 }
    }

    /// Whether I/O commands are served: enabled, ready, not shut down.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.cc & CC_ENABLE != 0 && self.csts == CSTS_READY
    }

    /// Whether the host may connect I/O queues: CC.EN set, entry sizes right.
    #[must_use]
    pub fn takes_io_queues(&self) -> bool {
        self.is_ready() && self.cc >> 16 & 0xf == 6 && self.cc >> 20 & 0xf == 4
    }

    /// Sets Controller Fatal Status.
    pub fn set_fatal(&mut self) {
        self.csts |= CSTS_FATAL;
    }

    /// Property Get of `offset`; `wide` for 8 bytes.
    ///
    /// # Errors
    /// `INVALID_FIELD` for an unknown property or the wrong size.
    pub fn get(&self, offset: u32, wide: bool) -> Result<u64, Status> {
        match (offset, wide) {
            (property::CAP, true) => Ok(self.cap),
            (property::VS, false) => Ok(VERSION_2_0.into()),
            (property::CC, false) => Ok(self.cc.into()),
            (property::CSTS, false) => Ok(self.csts.into()),
            (property::NSSR, false) => Ok(0),
            (property::CRTO, false) => Ok(15),
            _ => Err(Status::INVALID_FIELD.dnr()),
        }
    }

    /// Property Set; only CC can be set.
    ///
    /// # Errors
    /// `INVALID_FIELD` for another property, for 8 bytes, or for reserved values in CC.
    pub fn set(&mut self, offset: u32, wide: bool, value: u64) -> Result<Effect, Status> {
        let value = u32::try_from(value).map_err(|_| Status::INVALID_FIELD.dnr())?;
        if offset != property::CC || wide {
            return Err(Status::INVALID_FIELD.dnr());
        }
        // CSS: NVM command set, or all that there are; MPS: 4 KiB; AMS: round robin. CAP offers nothing else.
        let (css, mps, ams) = (value >> 4 & 7, value >> 7 & 0xf, value >> 11 & 7);
        if value & CC_ENABLE != 0 && (css != 0 && css != 6 || mps != 0 || ams != 0) {
            return Err(Status::INVALID_FIELD.dnr());
        }
        let old = std::mem::replace(&mut self.cc, value);
        if value & CC_SHN != 0 && old & CC_SHN == 0 {
            self.csts = self.csts & CSTS_READY | CSTS_SHUTDOWN_DONE;
            return Ok(Effect::Shutdown);
        }
        match (old & CC_ENABLE != 0, value & CC_ENABLE != 0) {
            (false, true) => {
                self.csts = CSTS_READY;
                Ok(Effect::Enabled)
            }
            (true, false) => {
                self.csts = 0;
                self.cc = 0;
                Ok(Effect::Reset)
            }
            _ => Ok(Effect::None),
        }
    }
}

/// Keep-alive timer of a controller; `now` is always an argument.
#[derive(Debug, Clone, Copy)]
pub struct KeepAlive {
    timeout: Option<Duration>,
    last: Instant,
}

impl KeepAlive {
    /// Timer for KATO in milliseconds, 0 for none. The time is rounded up to `granularity_ms`.
    #[must_use]
    pub fn new(kato_ms: u32, granularity_ms: u32, now: Instant) -> Self {
        let rounded = u64::from(kato_ms).next_multiple_of(u64::from(granularity_ms.max(1)));
        Self { timeout: (kato_ms > 0).then(|| Duration::from_millis(rounded)), last: now }
    }

    /// The timeout in force.
    #[must_use]
    pub fn timeout(&self) -> Option<Duration> {
        self.timeout
    }

    /// The host gave a sign of life.
    pub fn touch(&mut self, now: Instant) {
        self.last = now;
    }

    /// When the host counts as dead, unless it is touched before.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        self.timeout.map(|t| self.last + t)
    }

    /// Whether the host counts as dead.
    #[must_use]
    pub fn expired(&self, now: Instant) -> bool {
        self.deadline().is_some_and(|d| now > d)
    }
}

/// Features without an effect of their own: what was set is what is read.
#[derive(Debug, Clone, Default)]
pub struct Features {
    arbitration: u32,
    power: u32,
    error_recovery: u32,
    no_write_cache: bool,
}

impl Features {
    /// Value of feature `fid`, if it is one of these.
    #[must_use]
    pub fn get(&self, fid: u8) -> Option<u32> {
        Some(match fid {
            feature::ARBITRATION => self.arbitration,
            feature::POWER_MANAGEMENT => self.power,
            feature::TEMPERATURE_THRESHOLD => 0x157,
            feature::ERROR_RECOVERY => self.error_recovery,
            feature::VOLATILE_WRITE_CACHE => u32::from(!self.no_write_cache),
            feature::WRITE_ATOMICITY | feature::INTERRUPT_COALESCING => 0,
            feature::INTERRUPT_VECTOR => 1 << 16,
            _ => return None,
        })
    }

    /// Sets feature `fid`.
    ///
    /// # Errors
    /// `INVALID_FIELD` if unknown, `FEATURE_NOT_CHANGEABLE` if it is fixed.
    pub fn set(&mut self, fid: u8, value: u32) -> Result<(), Status> {
        match fid {
            feature::ARBITRATION => self.arbitration = value,
            // Only power state 0 exists.
            feature::POWER_MANAGEMENT if value & 0x1f != 0 => return Err(Status::INVALID_FIELD.dnr()),
            feature::POWER_MANAGEMENT => self.power = value,
            feature::TEMPERATURE_THRESHOLD => {}
            // DULBE is not supported.
            feature::ERROR_RECOVERY if value & 1 << 16 != 0 => return Err(Status::INVALID_FIELD.dnr()),
            feature::ERROR_RECOVERY => self.error_recovery = value,
            feature::VOLATILE_WRITE_CACHE => self.no_write_cache = value & 1 == 0,
            feature::WRITE_ATOMICITY | feature::INTERRUPT_COALESCING | feature::INTERRUPT_VECTOR => {
                return Err(Status::FEATURE_NOT_CHANGEABLE.dnr());
            }
            _ => return Err(Status::INVALID_FIELD.dnr()),
        }
        Ok(())
    }
}
