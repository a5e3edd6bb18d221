//! How I/O is spread over the paths to a namespace: SPDK's words for it, and what they mean.

use vda_spdk::{MultipathOpts, MultipathPolicy, MultipathSelector};

use crate::initiator::group::Policy;

/// How I/O is spread over paths, in SPDK's words (`multipath_opts`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Multipath {
    pub policy: MultipathPolicy,
    /// With `active_active`.
    pub selector: MultipathSelector,
    /// With `round_robin`: I/Os to a path before the next one is taken.
    pub min_io: u32,
}

impl Default for Multipath {
    fn default() -> Self {
        let (policy, selector) = (MultipathPolicy::ActivePassive, MultipathSelector::RoundRobin);
        Self { policy, selector, min_io: 1 }
    }
}

impl Multipath {
    /// With what was given in place of what was.
    #[must_use]
    pub fn with(self, given: Option<&MultipathOpts>) -> Self {
        let Some(given) = given else { return self };
        Self {
            policy: given.policy.unwrap_or(self.policy),
            selector: given.selector.unwrap_or(self.selector),
            min_io: given.min_io.unwrap_or(self.min_io),
        }
    }

    /// What it means; `None` if it means nothing: turns of no I/O.
    #[must_use]
    pub fn meaning(self) -> Option<Policy> {
        Some(match (self.policy, self.selector) {
            (MultipathPolicy::ActivePassive, _) => Policy::ActivePassive,
            (MultipathPolicy::ActiveActive, MultipathSelector::QueueDepth) => Policy::QueueDepth,
            (MultipathPolicy::ActiveActive, MultipathSelector::RoundRobin) if self.min_io == 0 => {
                return None;
            }
            (MultipathPolicy::ActiveActive, MultipathSelector::RoundRobin) => {
                Policy::RoundRobin { min_io: self.min_io }
            }
        })
    }
}
