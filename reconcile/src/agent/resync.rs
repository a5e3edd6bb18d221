//! Looking at everything, from time to time: foreign changes, restarted data planes and leftovers are found here.

use std::collections::BTreeSet;

use tokio::time::Instant;
use vda_spdk::Link;

use super::{Agent, Driver, IdOf, Settled, State};
use crate::graph::{Actual, Observed, Seen};
use crate::plan::plan;
use crate::target::Target;

impl<V: Driver, T: Target> Agent<V, T> {
    pub(super) async fn resync(&self) {
        let mut timer = tokio::time::interval(self.inner.options.resync_interval);
        timer.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = self.inner.shutdown.cancelled() => return,
                () = self.inner.resync.notified() => {}
                _ = timer.tick() => {}
            }
            self.resync_once().await;
        }
    }

    pub(super) async fn glance(&self) {
        let mut timer = tokio::time::interval(self.inner.options.glance_interval);
        timer.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = self.inner.shutdown.cancelled() => return,
                _ = timer.tick() => {}
            }
            let link = *self.inner.target.link().borrow();
            if !self.ready(link) {
                continue;
            }
            let changed = self.inner.driver.glance().await;
            if !changed.is_empty() {
                let now = Instant::now();
                let mut state = self.state();
                changed.iter().for_each(|key| state.mark(key, now));
                drop(state);
                self.inner.wake.notify_one();
            }
        }
    }

    fn ready(&self, link: Link) -> bool {
        link.up && self.state().ready_epoch == Some(link.epoch)
    }

    async fn resync_once(&self) {
        let link = *self.inner.target.link().borrow();
        if !self.ready(link) {
            return;
        }
        let all = match self.inner.driver.observe_all().await {
            Ok(all) => all,
            // Nothing is known, so nothing is concluded.
            Err(fault) => return tracing::debug!(%fault, "cannot look at the whole node"),
        };
        if !self.ready(link) {
            return;
        }
        self.collect_leftovers(&all);
        let keys: Vec<V::Key> = self.state().entries.keys().cloned().collect();
        for (n, key) in keys.iter().enumerate() {
            self.compare(key, &all);
            if n % 64 == 63 {
                tokio::task::yield_now().await;
            }
        }
        self.inner.wake.notify_one();
    }

    /// Things of ours that no component asks for.
    fn collect_leftovers(&self, all: &Actual<V::Domain>) {
        let now = Instant::now();
        let mut state = self.state();
        for (id, seen) in &all.seen {
            if state.owner.contains_key(id) || matches!(seen.state, Observed::Absent) {
                continue;
            }
            let key = self.inner.driver.component_of(id);
            let known = state.entries.contains_key(&key);
            // Until a full desired state was accepted, what nobody has mentioned may well be wanted.
            if !known && !state.full_seen {
                continue;
            }
            if state.entries.entry(key.clone()).or_default().leftovers.insert(id.clone()) {
                tracing::info!(component = %key, resource = %id, "not wanted by anything: will be removed");
                state.mark(&key, now);
            }
        }
    }

    /// Marks a component if what is seen asks for work, or for another report.
    fn compare(&self, key: &V::Key, all: &Actual<V::Domain>) {
        let mut state = self.state();
        if self.differs(&state, key, all) {
            state.mark(key, Instant::now());
        }
    }

    fn differs(&self, state: &State<V>, key: &V::Key, all: &Actual<V::Domain>) -> bool {
        let Some(entry) = state.entries.get(key) else { return false };
        if entry.running || entry.due.is_some() {
            return false;
        }
        let want = entry.wanted.as_ref();
        let desired = self.inner.driver.desired(key, want.map(|w| &w.want), &entry.leftovers);
        let ids: BTreeSet<IdOf<V>> =
            desired.ids().into_iter().chain(entry.leftovers.iter().cloned()).collect();
        let absent = || Seen { state: Observed::Absent, sits_on: BTreeSet::new() };
        let seen = ids.into_iter().map(|id| {
            let seen = all.seen.get(&id).cloned().unwrap_or_else(absent);
            (id, seen)
        });
        let actual = Actual { seen: seen.collect() };
        let wave = plan(&desired, &actual);
        if !wave.steps.is_empty() {
            return true;
        }
        let Some(wanted) = want else { return !wave.settled() };
        let failures = std::collections::BTreeMap::new();
        let settled = Settled { desired: &desired, actual: &actual, plan: &wave, failures: &failures };
        let mut book = entry.book.clone();
        let report = self.inner.driver.report(key, wanted, &settled, entry.status.as_ref(), &mut book);
        report.is_some_and(|report| entry.status.as_ref() != Some(&report.status))
    }
}
