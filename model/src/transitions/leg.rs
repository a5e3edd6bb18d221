//! What is known about the data of a leg.
//!
//! INVARIANT: `initialised` never goes back; a set never loses its last in-sync member here; a member enters `in_sync` only when its raid1
//! reports it as a full member, or when the leg is assembled for the first time, all members empty.

use std::collections::{BTreeMap, BTreeSet};

use vda_proto::{SCHEMA_VERSION, v1};

use crate::{
    delta::Delta,
    error::Error,
    ids::{CnId, DaId},
    keys::{CnGenKey, LegStateKey},
};

/// The state of a leg after its controller reported `observed`; `None`: as it was.
///
/// - Reported initialised for the first time: the members that are in sync now.
/// - A set that is assembled (some full member is of `in_sync`, or was rebuilt): members that no longer are full leave, rebuilt ones join.
/// - `needs_election`: in each set with several candidates, the first reachable one stays, of those whose node runs since they were last seen in
///   sync if there is one; the others are rebuilt from it. If a set has no reachable candidate nothing is elected anywhere: the leg cannot be
///   assembled, and candidates are not given up for nothing.
pub fn observe(
    state: Option<&v1::LegState>,
    da_id: &str,
    leg: &v1::LegSpec,
    observed: &v1::LegObserved,
) -> Option<v1::LegState> {
    let reports: BTreeMap<&str, &v1::MemberStatus> =
        observed.members.iter().map(|m| (m.vd_id.as_str(), m)).collect();
    let old = state.cloned().unwrap_or_else(|| v1::LegState {
        schema_version: SCHEMA_VERSION,
        da_id: da_id.to_owned(),
        leg: leg.leg,
        initialised: false,
        epoch: leg.epoch,
        in_sync: Vec::new(),
        boots: Vec::new(),
    });
    let mut new = v1::LegState { initialised: old.initialised || observed.initialised, ..old.clone() };
    if !new.initialised {
        return None;
    }
    let known: BTreeSet<&str> = old.in_sync.iter().map(String::as_str).collect();
    let sets = || leg.groups.iter().flat_map(|g| &g.sets);
    new.in_sync = if observed.needs_election {
        elect(sets(), &known, &old.boots, &reports)?
    } else {
        let kept: Vec<Vec<String>> = sets().map(|set| keep(set, &known, &reports)).collect();
        if kept.iter().any(Vec::is_empty) {
            return None;
        }
        kept.concat()
    };
    new.epoch = leg.epoch;
    new.boots = boots(&new.in_sync, &old.boots, &reports);
    (new != old || state.is_none()).then_some(new)
}

/// Members of a set that are in sync after a report.
fn keep(
    set: &v1::MirrorSet,
    known: &BTreeSet<&str>,
    reports: &BTreeMap<&str, &v1::MemberStatus>,
) -> Vec<String> {
    let full = |m: &&v1::Member| reports.get(m.vd_id.as_str()).is_some_and(|r| r.in_sync);
    let was = |m: &&v1::Member| known.contains(m.vd_id.as_str());
    let first_assembly = !set.members.iter().any(|m| was(&m));
    // Who was rebuilt has what the raid1 held, which was assembled from a member in sync: it may have outlived that one.
    let rebuilt = |m: &&v1::Member| reports.get(m.vd_id.as_str()).is_some_and(|r| r.in_sync && r.rebuilt);
    // Without such a member the report is not about an assembly of this data: nothing is learnt about it.
    let trusted = first_assembly || set.members.iter().any(|m| was(&m) && full(&m) || rebuilt(&m));
    let chosen = |m: &&v1::Member| if trusted { full(m) } else { was(m) };
    set.members.iter().filter(chosen).map(|m| m.vd_id.clone()).collect()
}

/// With which boot of its node each member that is in sync was last seen to be: what was written since may be lost with any other.
fn boots(
    in_sync: &[String],
    old: &[v1::MemberBoot],
    reports: &BTreeMap<&str, &v1::MemberStatus>,
) -> Vec<v1::MemberBoot> {
    let seen = |vd: &String| reports.get(vd.as_str()).filter(|r| r.in_sync && !r.boot.is_empty());
    let boot = |vd: &String| match seen(vd) {
        Some(report) => Some(v1::MemberBoot { vd_id: vd.clone(), boot: report.boot.clone() }),
        None => old.iter().find(|b| b.vd_id == *vd).cloned(),
    };
    in_sync.iter().filter_map(boot).collect()
}

/// One member of each set, or `None` if some set has no reachable candidate.
fn elect<'a>(
    sets: impl Iterator<Item = &'a v1::MirrorSet>,
    known: &BTreeSet<&str>,
    boots: &[v1::MemberBoot],
    reports: &BTreeMap<&str, &v1::MemberStatus>,
) -> Option<Vec<String>> {
    let reachable = |m: &&v1::Member| {
        let status = reports.get(m.vd_id.as_str()).and_then(|r| r.status.as_ref());
        status.is_some_and(|s| s.condition() == v1::Condition::Ready)
    };
    // Its node was not started anew since: it has what its data plane acknowledged, flushed or not.
    let kept_power = |m: &&v1::Member| {
        let boot = reports.get(m.vd_id.as_str()).map_or("", |r| r.boot.as_str());
        boots.iter().any(|b| b.vd_id == m.vd_id && b.boot == boot)
    };
    sets.map(|set| {
        // Nothing known of the set: its first assembly, of which all members were part, was never recorded.
        let first = !set.members.iter().any(|m| known.contains(m.vd_id.as_str()));
        let candidate = |m: &&v1::Member| first || known.contains(m.vd_id.as_str());
        let candidates: Vec<&v1::Member> = set.members.iter().filter(candidate).collect();
        match candidates.as_slice() {
            [only] => Some(only.vd_id.clone()),
            several => {
                let there = || several.iter().copied().filter(reachable);
                there().find(kept_power).or_else(|| there().next()).map(|m| m.vd_id.clone())
            }
        }
    })
    .collect()
}

/// Stores what is known about a leg, and makes it a new generation of the CN that has to act on it.
///
/// # Errors
/// [`Error::Broken`] if the state forgets that the leg is initialised.
pub fn store(cn: CnId, da: DaId, old: Option<&v1::LegState>, new: v1::LegState) -> Result<Delta, Error> {
    if old.is_some_and(|o| o.initialised) && !new.initialised {
        return Err(Error::broken(format!("leg {} of DA {da}", new.leg), "initialised goes back to false"));
    }
    let mut delta = Delta::default();
    delta.put(LegStateKey(da, new.leg), new);
    delta.put(CnGenKey(cn), ());
    Ok(delta)
}

#[cfg(test)]
#[path = "leg_tests.rs"]
mod tests;
