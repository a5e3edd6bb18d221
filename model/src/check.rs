//! Whether a whole snapshot is consistent: what must hold after every transaction, whoever made it.

mod books;
mod links;

use std::fmt;

use crate::snapshot::Snapshot;

/// Something that must never be.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Violation {
    /// The record it is about, as a key below the prefix.
    pub key: String,
    pub what: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.key, self.what)
    }
}

/// Collects violations.
#[derive(Default)]
pub(crate) struct Findings(Vec<Violation>);

impl Findings {
    pub(crate) fn add(&mut self, key: impl fmt::Display, what: impl Into<String>) {
        self.0.push(Violation { key: key.to_string(), what: what.into() });
    }

    pub(crate) fn require(&mut self, ok: bool, key: impl fmt::Display, what: impl FnOnce() -> String) {
        if !ok {
            self.add(key, what());
        }
    }
}

/// Every violation in `snapshot`, in the order of keys; none: it is consistent.
pub fn check(snapshot: &Snapshot) -> Vec<Violation> {
    let mut findings = Findings::default();
    for path in snapshot.foreign() {
        findings.add(path, "not a key of VDA");
    }
    for key in snapshot.undecodable() {
        findings.add(key, "its value is not of its type");
    }
    links::nodes(snapshot, &mut findings);
    links::arrays(snapshot, &mut findings);
    links::tombstones(snapshot, &mut findings);
    links::legs(snapshot, &mut findings);
    books::disk_nodes(snapshot, &mut findings);
    books::controller_nodes(snapshot, &mut findings);
    let mut violations = findings.0;
    violations.sort();
    violations
}

#[cfg(test)]
mod tests;
