//! The planner: one wave of steps from what is seen towards what is wanted.
//!
//! A plan is a wave, not a script. It takes away the tops of what must go, and makes or changes everything whose needs are observed usable
//! and that has nothing to do with what must go. After the wave the component is observed and planned for again, so order is computed, never
//! written down, and recovery from a crash is the normal path.

use std::collections::{BTreeMap, BTreeSet};

use crate::graph::{Actual, Desired, Domain, Observed, Refusal, Removal, Verdict};

/// Why a step is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Why {
    Create,
    Update,
    Remove,
}

/// Calls about one resource, in order; the first failure ends the step.
#[derive(Debug, Clone, PartialEq)]
pub struct Step<D: Domain> {
    pub id: D::Id,
    pub why: Why,
    pub actions: Vec<D::Action>,
    /// Contents are given up: a medium is formatted, a volume deleted.
    pub destructive: bool,
}

/// What keeps a resource from being as wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Blocker<Id> {
    /// Another resource is not there, not usable, or still in the way.
    On(Id),
    /// The resource could not be observed.
    Unknown(Id),
    /// Something outside, in words.
    Outside(String),
}

/// One wave.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan<D: Domain> {
    /// Independent of each other, ordered by resource.
    pub steps: Vec<Step<D>>,
    pub blocked: BTreeMap<D::Id, Blocker<D::Id>>,
    pub refused: BTreeMap<D::Id, Refusal>,
    /// What must go, whether in this wave or later.
    pub leaving: BTreeSet<D::Id>,
    /// How many wanted resources are as wanted.
    pub unchanged: usize,
}

impl<D: Domain> Plan<D> {
    /// Nothing to do, nothing in the way, nothing refused.
    pub fn settled(&self) -> bool {
        self.steps.is_empty() && self.blocked.is_empty() && self.refused.is_empty()
    }

    /// What blocks `id` in the end: the far end of its chain of blockers.
    pub fn root_blocker(&self, id: &D::Id) -> Option<&Blocker<D::Id>> {
        let mut blocker = self.blocked.get(id)?;
        let mut hops = self.blocked.len();
        while let Blocker::On(next) = blocker {
            match self.blocked.get(next) {
                Some(further) if hops > 0 => blocker = further,
                _ => break,
            }
            hops -= 1;
        }
        Some(blocker)
    }
}

/// Plans one wave. Pure, total and deterministic.
pub fn plan<D: Domain>(desired: &Desired<D>, actual: &Actual<D>) -> Plan<D> {
    let mut draft = Draft::new(desired, actual);
    draft.find_doomed();
    draft.take_tops();
    draft.make_and_change();
    draft.plan
}

struct Draft<'a, D: Domain> {
    desired: &'a Desired<D>,
    actual: &'a Actual<D>,
    /// What there is to say about each wanted resource whose state is known.
    verdicts: BTreeMap<D::Id, Verdict<D>>,
    /// Known resources that must go, and how.
    doomed: BTreeMap<D::Id, Removal<D>>,
    plan: Plan<D>,
}

impl<'a, D: Domain> Draft<'a, D> {
    fn new(desired: &'a Desired<D>, actual: &'a Actual<D>) -> Self {
        let verdicts = desired
            .wants
            .iter()
            .filter(|(id, want)| match actual.state(id) {
                Observed::Known(_) => true,
                Observed::Absent => want.needs.iter().all(|need| actual.usable(need)),
                Observed::Unknown => false,
            })
            .map(|(id, want)| (id.clone(), D::judge(id, &want.spec, actual)))
            .collect();
        let plan = Plan {
            steps: Vec::new(),
            blocked: BTreeMap::new(),
            refused: BTreeMap::new(),
            leaving: BTreeSet::new(),
            unchanged: 0,
        };
        Self { desired, actual, verdicts, doomed: BTreeMap::new(), plan }
    }

    /// What is there and not wanted, what its judge wants gone, and all that falls with it.
    fn find_doomed(&mut self) {
        let present = || self.actual.seen.iter().filter(|(id, _)| !self.desired.context.contains(id));
        let mut ids: BTreeSet<D::Id> = present()
            .filter(|(id, seen)| seen.state.known().is_some() && self.must_go(id))
            .map(|(id, _)| id.clone())
            .collect();
        loop {
            let falling: Vec<D::Id> = present()
                .filter(|(id, seen)| {
                    seen.state.known().is_some() && !ids.contains(id) && D::falls(id, &seen.sits_on, &ids)
                })
                .map(|(id, _)| id.clone())
                .collect();
            if falling.is_empty() {
                break;
            }
            ids.extend(falling);
        }
        for id in ids {
            if let Some(state) = self.actual.known(&id) {
                let removal = D::remove(&id, state, self.desired.erase.contains(&id), self.actual);
                self.doomed.insert(id.clone(), removal);
                self.plan.leaving.insert(id);
            }
        }
    }

    fn must_go(&self, id: &D::Id) -> bool {
        if self.desired.wants.contains_key(id) {
            matches!(self.verdicts.get(id), Some(Verdict::Remove))
        } else {
            true
        }
    }

    /// Something that is (or may be) there and rests on `base`; things that go together with their base do not count themselves, but what
    /// rests on them does.
    fn holder(&self, base: &D::Id) -> Option<&'a D::Id> {
        self.actual
            .seen
            .iter()
            .filter(|(_, seen)| !matches!(seen.state, Observed::Absent) && seen.sits_on.contains(base))
            .find_map(|(id, _)| match self.doomed.get(id) {
                Some(Removal::WithBase) => self.holder(id),
                _ => Some(id),
            })
    }

    fn take_tops(&mut self) {
        let doomed: Vec<(D::Id, Removal<D>)> =
            self.doomed.iter().map(|(id, removal)| (id.clone(), removal.clone())).collect();
        for (id, removal) in doomed {
            let blocker = match (self.holder(&id), removal) {
                (Some(holder), _) => Blocker::On(holder.clone()),
                (None, Removal::Steps { actions, destructive }) => {
                    self.plan.steps.push(Step { id, why: Why::Remove, actions, destructive });
                    continue;
                }
                (None, Removal::Wait(words)) => Blocker::Outside(words),
                (None, Removal::WithBase) => {
                    let base = self.actual.seen.get(&id).and_then(|seen| seen.sits_on.iter().next());
                    Blocker::On(base.unwrap_or(&id).clone())
                }
            };
            self.plan.blocked.insert(id, blocker);
        }
        for (id, seen) in &self.actual.seen {
            let mine = !self.desired.wants.contains_key(id) && !self.desired.context.contains(id);
            if mine && matches!(seen.state, Observed::Unknown) {
                self.plan.blocked.insert(id.clone(), Blocker::Unknown(id.clone()));
            }
        }
    }

    fn make_and_change(&mut self) {
        for (id, want) in &self.desired.wants {
            if self.doomed.contains_key(id) {
                continue;
            }
            if matches!(self.actual.state(id), Observed::Unknown) {
                self.plan.blocked.insert(id.clone(), Blocker::Unknown(id.clone()));
                continue;
            }
            let missing =
                want.needs.iter().find(|need| self.doomed.contains_key(need) || !self.actual.usable(need));
            let verdict = self.verdicts.get(id).cloned();
            self.settle(id, verdict, missing);
        }
        self.plan.steps.sort_by(|a, b| a.id.cmp(&b.id));
    }

    fn settle(&mut self, id: &D::Id, verdict: Option<Verdict<D>>, missing: Option<&D::Id>) {
        let on_missing = |need: &D::Id| match self.actual.state(need) {
            Observed::Unknown => Blocker::Unknown(need.clone()),
            Observed::Absent | Observed::Known(_) => Blocker::On(need.clone()),
        };
        match (verdict, missing) {
            (Some(Verdict::Refuse(refusal)), _) => {
                self.plan.refused.insert(id.clone(), refusal);
            }
            (Some(Verdict::Update(actions)), _) => {
                self.plan.steps.push(Step { id: id.clone(), why: Why::Update, actions, destructive: false });
            }
            (Some(Verdict::Wait(words)), _) => {
                self.plan.blocked.insert(id.clone(), Blocker::Outside(words));
            }
            (_, Some(need)) => {
                self.plan.blocked.insert(id.clone(), on_missing(need));
            }
            (Some(Verdict::Create { actions, destructive }), None) => {
                self.plan.steps.push(Step { id: id.clone(), why: Why::Create, actions, destructive });
            }
            (Some(Verdict::Fine), None) => self.plan.unchanged += 1,
            // Remove of something absent: nothing to do. A verdict is always there when nothing is missing.
            (Some(Verdict::Remove) | None, None) => {}
        }
    }
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
