//! When to tell an agent how much. At most one request is in flight; what changes meanwhile is merged into the next. After any doubt about
//! what the agent has, the next one is full. Pure.

use std::collections::BTreeSet;

use vda_model::ids::DaId;
use vda_proto::v1::SyncReply;
use vda_proto::v1::sync_reply::Outcome;

use crate::desired::Extent;
use crate::inbox::Mail;

/// What a driver knows of what its agent has been told.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct SyncState {
    /// Generation accepted on this connection; `None`: in doubt.
    base: Option<u64>,
    /// Components that changed since.
    dirty: BTreeSet<DaId>,
    /// The node's own records changed since.
    node_dirty: bool,
    retry: BTreeSet<DaId>,
    /// Deletions not told yet.
    held: BTreeSet<DaId>,
    in_flight: Option<InFlight>,
    /// The agent has a higher generation than we know of: wait for it.
    not_before: u64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct InFlight {
    generation: u64,
    retry: BTreeSet<DaId>,
    /// Changed while in flight such that the answer does not matter.
    doubt: bool,
}

/// What a reply means for the driver.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// The agent has it.
    Accepted(u64),
    /// Go on at once.
    Again,
    /// The agent belongs to another node.
    WrongNode(String),
}

impl SyncState {
    /// The agent may have restarted: nothing is known of what it has.
    pub(crate) fn doubt(&mut self) {
        self.base = None;
        if let Some(in_flight) = &mut self.in_flight {
            in_flight.doubt = true;
        }
    }

    pub(crate) fn note(&mut self, mail: &Mail) {
        if mail.everything || mail.resync {
            self.doubt();
        }
        self.node_dirty |= mail.node;
        self.dirty.extend(&mail.das);
        self.retry.extend(&mail.retry);
        if mail.held {
            // Looked at again; those that still have to wait are held again.
            self.dirty.append(&mut self.held);
        }
    }

    /// What to send now, if anything, when etcd has `generation`.
    pub(crate) fn next(&self, generation: u64) -> Option<(Extent, BTreeSet<DaId>)> {
        if self.in_flight.is_some() || generation == 0 || generation < self.not_before {
            return None;
        }
        let Some(base) = self.base else { return Some((Extent::Full, self.retry.clone())) };
        // A higher generation alone is no reason: what it stands for is still on its way to us.
        let something = self.node_dirty || !self.dirty.is_empty() || !self.retry.is_empty();
        something.then(|| (Extent::Delta { base, das: self.dirty.clone() }, self.retry.clone()))
    }

    /// It turned out to say nothing that the agent does not know.
    pub(crate) fn skipped(&mut self, held: BTreeSet<DaId>) {
        self.dirty.clear();
        self.node_dirty = false;
        self.held.extend(held);
    }

    pub(crate) fn base(&self) -> Option<u64> {
        self.base
    }

    /// It is on its way.
    pub(crate) fn sent(&mut self, extent: &Extent, generation: u64, held: BTreeSet<DaId>) {
        self.in_flight = Some(InFlight { generation, retry: std::mem::take(&mut self.retry), doubt: false });
        self.dirty.clear();
        self.node_dirty = false;
        match extent {
            Extent::Full => self.held = held,
            Extent::Delta { das, .. } => {
                self.held.retain(|da| !das.contains(da));
                self.held.extend(held);
            }
        }
    }

    /// No answer came, or an error.
    pub(crate) fn failed(&mut self) {
        self.base = None;
        if let Some(in_flight) = self.in_flight.take() {
            self.retry.extend(in_flight.retry);
        }
    }

    pub(crate) fn answered(&mut self, reply: &SyncReply) -> Verdict {
        let Some(in_flight) = self.in_flight.take() else { return Verdict::Again };
        match reply.outcome() {
            Outcome::Accepted => {
                self.base = (!in_flight.doubt).then_some(in_flight.generation);
                return Verdict::Accepted(in_flight.generation);
            }
            Outcome::Stale => self.not_before = reply.generation,
            Outcome::NeedFull | Outcome::Unspecified => {}
            Outcome::WrongNode => {
                self.base = None;
                self.retry.extend(in_flight.retry);
                return Verdict::WrongNode(reply.message.clone());
            }
        }
        self.base = None;
        self.retry.extend(in_flight.retry);
        Verdict::Again
    }
}

#[cfg(test)]
#[path = "sync_tests.rs"]
mod tests;
