//! Why nothing could be placed.

use std::fmt;

use crate::sizes;

/// A rule that a candidate failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Rule {
    /// It, or its node, was taken offline, or is being deleted.
    Offline,
    /// Its node has not reported an lvstore yet.
    NotReported,
    /// Its node says it does not work.
    Failed(String),
    NoSpace {
        free: u64,
        needed: u64,
    },
    /// Its budget of promised I/O is used up; says which.
    NoQos(String),
    /// Another replica of the stripe is in the same location.
    SameLocation(String),
    /// Another replica of the stripe is on the same disk node.
    SameDn(String),
    /// The array is on as many disk nodes as one transaction can change.
    DnLimit,
    CntlrLimit {
        taken: u32,
        limit: u32,
    },
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Offline => f.write_str("offline"),
            Self::NotReported => f.write_str("its disk node has not reported its lvstore yet"),
            Self::Failed(why) => write!(f, "failed: {why}"),
            Self::NoSpace { free, needed } => {
                write!(f, "free {} < needed {}", sizes::format(*free), sizes::format(*needed))
            }
            Self::NoQos(what) => write!(f, "QoS budget: {what}"),
            Self::SameLocation(location) => {
                write!(f, "location {location} already holds a replica of the stripe")
            }
            Self::SameDn(address) => write!(f, "DN {address} already holds a replica of the stripe"),
            Self::DnLimit => f.write_str("the array is on the most disk nodes it can be on already"),
            Self::CntlrLimit { taken, limit } => write!(f, "has {taken} of {limit} controllers"),
        }
    }
}

/// One candidate and the rules it failed; none: it was a place for some part, but not all parts found one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RefusedCandidate {
    /// As users know it: `PD 127.0.0.1:9720/pd0`, `CN 127.0.0.1:9820`.
    pub name: String,
    pub failed: Vec<Rule>,
}

impl fmt::Display for RefusedCandidate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rules: Vec<String> = self.failed.iter().map(ToString::to_string).collect();
        write!(f, "{}: {}", self.name, if rules.is_empty() { "usable".to_owned() } else { rules.join(", ") })
    }
}

/// Nothing could be placed: what was wanted, and why not on each candidate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    pub wanted: String,
    pub candidates: Vec<RefusedCandidate>,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const SHOWN: usize = 10;
        write!(f, "no place for {}: ", self.wanted)?;
        if self.candidates.is_empty() {
            return f.write_str("there are no candidates");
        }
        let shown: Vec<String> = self.candidates.iter().take(SHOWN).map(ToString::to_string).collect();
        f.write_str(&shown.join("; "))?;
        if self.candidates.len() > SHOWN {
            write!(f, "; and {} more", self.candidates.len() - SHOWN)?;
        }
        Ok(())
    }
}
