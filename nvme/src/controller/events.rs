//! Asynchronous events of a controller (Base 5.2).

use std::collections::{BTreeSet, VecDeque};

use crate::limits::EVENT_REQUESTS;
use crate::log::lid;
use crate::status::Status;

/// A notice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Notice {
    /// A namespace appeared, vanished or changed its size.
    Namespaces,
    /// The ANA state of a group changed.
    Ana,
    /// The discovery log changed.
    Discovery,
    /// The reservation notification log has an entry; it cannot be disabled here, but per namespace.
    Reservation,
}

impl Notice {
    /// All notices.
    pub const ALL: [Self; 4] = [Self::Namespaces, Self::Ana, Self::Discovery, Self::Reservation];

    /// Dword 0 of the completion: type, information, log page.
    #[must_use]
    pub fn result(self) -> u32 {
        // Types: notice, and I/O command specific status.
        let (kind, info): (u32, u32) = match self {
            Self::Namespaces => (2, 0x00),
            Self::Ana => (2, 0x03),
            Self::Discovery => (2, 0xf0),
            Self::Reservation => (6, 0x00),
        };
        kind | info << 8 | u32::from(self.log_page()) << 16
    }

    /// From dword 0 of a completion.
    #[must_use]
    pub fn from_result(dword: u32) -> Option<Self> {
        Self::ALL.into_iter().find(|n| n.result() & 0xffff == dword & 0xff07)
    }

    /// Log page that tells more, and whose reading re-arms the notice.
    #[must_use]
    pub fn log_page(self) -> u8 {
        match self {
            Self::Namespaces => lid::CHANGED_NAMESPACES,
            Self::Ana => lid::ANA,
            Self::Discovery => lid::DISCOVERY,
            Self::Reservation => lid::RESERVATION,
        }
    }

    /// Bit in the Asynchronous Event Configuration feature and in OAES; 0 if it is always enabled.
    #[must_use]
    pub fn enable_bit(self) -> u32 {
        match self {
            Self::Namespaces => 1 << 8,
            Self::Ana => 1 << 11,
            Self::Discovery => 1 << 31,
            Self::Reservation => 0,
        }
    }

    fn is_enabled(self, config: u32) -> bool {
        self.enable_bit() == 0 || self.enable_bit() & config != 0
    }
}

/// Requests that wait, and notices that wait for a request.
#[derive(Debug, Default)]
pub struct Events {
    config: u32,
    requests: VecDeque<u16>,
    pending: BTreeSet<Notice>,
    /// Reported, and the log page was not read since.
    masked: BTreeSet<Notice>,
}

impl Events {
    /// With the notices of `config` (feature 0Bh) enabled.
    #[must_use]
    pub fn new(config: u32) -> Self {
        Self { config, ..Self::default() }
    }

    /// Value of the Asynchronous Event Configuration feature.
    #[must_use]
    pub fn config(&self) -> u32 {
        self.config
    }

    /// Sets the Asynchronous Event Configuration feature.
    pub fn set_config(&mut self, config: u32) {
        self.config = config;
        self.pending.retain(|n| n.is_enabled(config));
    }

    /// An Asynchronous Event Request came; gives the completion if a notice waits.
    ///
    /// # Errors
    /// `AER_LIMIT_EXCEEDED`.
    pub fn request(&mut self, tag: u16) -> Result<Option<(u16, u32)>, Status> {
        if self.requests.len() >= EVENT_REQUESTS {
            return Err(Status::AER_LIMIT_EXCEEDED.dnr());
        }
        self.requests.push_back(tag);
        Ok(self.report())
    }

    /// Something happened; gives the completion to send, if there is one.
    pub fn post(&mut self, notice: Notice) -> Option<(u16, u32)> {
        if !notice.is_enabled(self.config) || self.masked.contains(&notice) {
            return None;
        }
        self.pending.insert(notice);
        self.report()
    }

    /// The log page of `notice` was read without Retain Asynchronous Event: it may be reported again.
    pub fn read(&mut self, notice: Notice) {
        self.masked.remove(&notice);
    }

    /// Takes the request `tag` out, for Abort.
    pub fn abort(&mut self, tag: u16) -> bool {
        let before = self.requests.len();
        self.requests.retain(|&t| t != tag);
        before != self.requests.len()
    }

    fn report(&mut self) -> Option<(u16, u32)> {
        if self.requests.is_empty() {
            return None;
        }
        let notice = self.pending.pop_first()?;
        self.masked.insert(notice);
        self.requests.pop_front().map(|tag| (tag, notice.result()))
    }
}
