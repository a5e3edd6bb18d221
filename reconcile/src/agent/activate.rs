//! Working on one component: rounds of observe, plan, execute, until there is nothing left that can be done now.

use std::collections::{BTreeMap, BTreeSet};

use tokio::time::Instant;

use super::{Agent, Depth, Driver, Entry, IdOf, Report, Settled, State, Wanted, now_ms};
use crate::execute::{Fault, FaultKind, execute};
use crate::graph::{Actual, Desired, Observed};
use crate::ledger::Record;
use crate::plan::{Blocker, Plan, plan};
use crate::target::Target;

/// A component that is not settled after so many waves is left to the next activation.
const MAX_ROUNDS: usize = 64;

/// What there is to do about a component: what is wanted of it, what is left of it, how closely to look.
type Job<V> = (Option<Wanted<<V as Driver>::Want>>, BTreeSet<IdOf<V>>, Depth);

/// What an activation found in the end.
struct Outcome<V: Driver> {
    wanted: Option<Wanted<V::Want>>,
    desired: Desired<V::Domain>,
    actual: Actual<V::Domain>,
    plan: Plan<V::Domain>,
    failures: BTreeMap<IdOf<V>, Fault>,
    /// Resources that a step has changed.
    changed: BTreeSet<IdOf<V>>,
}

impl<V: Driver, T: Target> Agent<V, T> {
    pub(super) async fn activate(&self, key: V::Key) {
        let outcome = self.rounds(&key).await;
        self.note_faults(&key, &outcome.failures);
        let report = self.report(&key, &outcome);
        let recorded = match &report {
            Some(report) => self.record(&report.initialised, &report.gone).await,
            None => self.record(&BTreeSet::new(), &self.leftovers_gone(&outcome)).await,
        };
        if let Err(error) = &recorded {
            tracing::error!(component = %key, %error, "the ledger cannot be written; nothing is reported until it can");
        }
        self.finish(&key, &outcome, report.filter(|_| recorded.is_ok()));
        self.inner.wake.notify_one();
    }

    async fn rounds(&self, key: &V::Key) -> Outcome<V> {
        let driver = &self.inner.driver;
        let (mut failures, mut changed) = (BTreeMap::new(), BTreeSet::new());
        let mut last: Option<Option<Wanted<V::Want>>> = None;
        let mut rounds = 0;
        loop {
            let (wanted, leftovers, depth) = self.job(key);
            if last.as_ref().is_some_and(|last| *last != wanted) {
                failures.clear();
            }
            let desired = driver.desired(key, wanted.as_ref().map(|w| &w.want), &leftovers);
            let ids: BTreeSet<_> = desired.ids().into_iter().chain(leftovers).collect();
            let actual = self.look(&ids, depth).await;
            let mut wave = plan(&desired, &actual);
            wave.steps.retain(|step| !failures.contains_key(&step.id));
            rounds += 1;
            if wave.steps.is_empty() || rounds > MAX_ROUNDS || self.inner.shutdown.is_cancelled() {
                if let Some(step) = wave.steps.first() {
                    let fault = Fault::refused("reconcile", "does not settle");
                    failures.insert(step.id.clone(), fault);
                }
                return Outcome { wanted, desired, actual, plan: wave, failures, changed };
            }
            for (id, result) in execute(&wave, driver).await {
                match result {
                    Ok(()) => {
                        changed.insert(id);
                    }
                    Err(fault) => {
                        failures.insert(id, fault);
                    }
                }
            }
            last = Some(wanted);
        }
    }

    fn job(&self, key: &V::Key) -> Job<V> {
        let mut state = self.state();
        match state.entries.get_mut(key) {
            Some(entry) => {
                entry.again = false;
                (entry.wanted.clone(), entry.leftovers.clone(), entry.depth)
            }
            None => (None, BTreeSet::new(), Depth::Usual),
        }
    }

    /// Observes, unless the data plane is not usable now, or was replaced meanwhile.
    async fn look(&self, ids: &BTreeSet<IdOf<V>>, depth: Depth) -> Actual<V::Domain> {
        let link = self.inner.target.link();
        let usable = |agent: &Self| {
            let now = *link.borrow();
            now.up && agent.state().ready_epoch == Some(now.epoch)
        };
        if !usable(self) {
            return Actual::unknown(ids);
        }
        let actual = self.inner.driver.observe(ids, depth).await;
        if usable(self) { actual } else { Actual::unknown(ids) }
    }

    fn note_faults(&self, key: &V::Key, failures: &BTreeMap<IdOf<V>, Fault>) {
        for (id, fault) in failures {
            match fault.kind {
                FaultKind::Refused => {
                    tracing::info!(component = %key, resource = %id, %fault, "step failed, will be retried")
                }
                FaultKind::Timeout | FaultKind::Unreachable => {
                    tracing::debug!(component = %key, resource = %id, %fault, "data plane did not answer");
                }
            }
        }
    }

    fn report(&self, key: &V::Key, outcome: &Outcome<V>) -> Option<Report<V::Status>> {
        let wanted = outcome.wanted.as_ref()?;
        let settled = Settled {
            desired: &outcome.desired,
            actual: &outcome.actual,
            plan: &outcome.plan,
            failures: &outcome.failures,
        };
        let mut state = self.state();
        let entry = state.entries.get_mut(key)?;
        let mut book = std::mem::take(&mut entry.book);
        book.now_ms = now_ms();
        let report = self.inner.driver.report(key, wanted, &settled, entry.status.as_ref(), &mut book);
        entry.book = book;
        report
    }

    async fn record(
        &self,
        initialised: &BTreeSet<String>,
        gone: &BTreeSet<String>,
    ) -> Result<(), crate::LedgerError> {
        let ledger = &self.inner.ledger;
        let mut records = Vec::new();
        records.extend(
            initialised.iter().filter(|id| !ledger.initialised(id)).cloned().map(Record::Initialised),
        );
        records.extend(gone.iter().filter(|id| ledger.initialised(id)).cloned().map(Record::Gone));
        ledger.remember(records).await
    }

    /// What the ledger need not remember of a component that nothing asks for any more.
    fn leftovers_gone(&self, outcome: &Outcome<V>) -> BTreeSet<String> {
        if outcome.wanted.is_some() {
            return BTreeSet::new();
        }
        let absent = outcome.actual.seen.keys().filter(|id| outcome.actual.absent(id));
        absent.filter_map(|id| self.inner.driver.record_of(id)).collect()
    }

    fn finish(&self, key: &V::Key, outcome: &Outcome<V>, report: Option<Report<V::Status>>) {
        let now = Instant::now();
        let mut state = self.state();
        state.running -= 1;
        let recheck = report.as_ref().and_then(|r| r.recheck);
        if let Some(report) = report {
            self.publish(&mut state, key, outcome, report.status);
        }
        let Some(entry) = state.entries.get_mut(key) else { return };
        entry.running = false;
        entry.leftovers.retain(|id| !outcome.actual.absent(id));
        let again = std::mem::take(&mut entry.again);
        let obscure = outcome.failures.iter().any(|(id, fault)| self.inner.driver.obscure(id, fault));
        entry.depth = if obscure { Depth::Thorough } else { Depth::Usual };
        let next = entry.next(&self.inner.options, outcome, again, recheck, now);
        if entry.wanted.is_none() && entry.leftovers.is_empty() && !again {
            state.forget(key);
        } else {
            state.wait_for(key, blockers(outcome));
            if let Some(at) = next {
                state.mark(key, at);
            }
        }
        let affected = outcome.changed.iter().filter_map(|id| self.inner.driver.affects(id));
        let changed = outcome.changed.iter().cloned().chain(affected).collect();
        state.wake_waiters(key, &changed, now);
    }

    fn publish(&self, state: &mut State<V>, key: &V::Key, outcome: &Outcome<V>, status: V::Status) {
        let Some(entry) = state.entries.get_mut(key) else { return };
        // It is about what was wanted when the round began; the next activation reports on what came since.
        let still_wanted = entry.wanted.as_ref().is_some_and(|w| outcome.wanted.as_ref() == Some(w));
        if still_wanted && entry.status.as_ref() != Some(&status) {
            entry.status = Some(status.clone());
            self.publish_status(key, status);
        }
    }
}

/// Resources of other components that this one waits for.
fn blockers<V: Driver>(outcome: &Outcome<V>) -> BTreeSet<IdOf<V>> {
    let on = outcome.plan.blocked.values().filter_map(|blocker| match blocker {
        Blocker::On(id) | Blocker::Unknown(id) => Some(id),
        Blocker::Outside(_) => None,
    });
    on.filter(|id| outcome.desired.context.contains(id)).cloned().collect()
}

impl<V: Driver> Entry<V> {
    /// When to look at it again.
    fn next(
        &mut self,
        options: &super::AgentOptions,
        outcome: &Outcome<V>,
        again: bool,
        recheck: Option<std::time::Duration>,
        now: Instant,
    ) -> Option<Instant> {
        let failed = !outcome.failures.is_empty();
        let unknown = outcome.actual.seen.values().any(|seen| matches!(seen.state, Observed::Unknown));
        let stuck = failed || unknown || !outcome.plan.blocked.is_empty() || !outcome.plan.refused.is_empty();
        self.attempts = if stuck { self.attempts.saturating_add(1) } else { 0 };
        if again {
            return Some(now);
        }
        let backoff = stuck.then(|| now + options.backoff(self.attempts));
        let recheck = recheck.map(|after| now + after);
        [backoff, recheck].into_iter().flatten().min()
    }
}

impl<V: Driver> State<V> {
    fn forget(&mut self, key: &V::Key) {
        if let Some(entry) = self.entries.remove(key) {
            if let Some(due) = entry.due {
                self.queue.remove(&(due, key.clone()));
            }
            for id in entry.waits_for {
                if let Some(keys) = self.waiting.get_mut(&id) {
                    keys.remove(key);
                }
            }
        }
    }

    fn wait_for(&mut self, key: &V::Key, ids: BTreeSet<IdOf<V>>) {
        let Some(entry) = self.entries.get_mut(key) else { return };
        for id in entry.waits_for.difference(&ids) {
            if let Some(keys) = self.waiting.get_mut(id) {
                keys.remove(key);
                if keys.is_empty() {
                    self.waiting.remove(id);
                }
            }
        }
        for id in &ids {
            self.waiting.entry(id.clone()).or_default().insert(key.clone());
        }
        entry.waits_for = ids;
    }

    fn wake_waiters(&mut self, by: &V::Key, changed: &BTreeSet<IdOf<V>>, now: Instant) {
        let woken: BTreeSet<V::Key> = changed
            .iter()
            .filter_map(|id| self.waiting.get(id))
            .flatten()
            .filter(|key| *key != by)
            .cloned()
            .collect();
        for key in woken {
            if let Some(entry) = self.entries.get_mut(&key) {
                entry.attempts = 0;
            }
            self.mark(&key, now);
        }
    }
}
