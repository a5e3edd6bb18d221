//! Keeping the data plane usable: connecting, preparing it after every new connection, telling when it does not answer.

use tokio::time::{Instant, sleep};
use vda_proto::v1::ResourceStatus;

use super::{Agent, Driver, now_ms};
use crate::execute::{Fault, FaultKind};
use crate::status;
use crate::target::{self, PING, RETRY, Target};

impl<V: Driver, T: Target> Agent<V, T> {
    pub(super) async fn supervise(&self) {
        let mut link = self.inner.target.link();
        loop {
            let pause = match self.ensure_usable().await {
                Ok(()) => PING,
                Err(_) => RETRY,
            };
            link.mark_unchanged();
            let seen = *link.borrow();
            let ready = self.state().ready_epoch;
            // A change between the look above and now is acted on at once.
            if seen.up && ready != Some(seen.epoch) && pause == PING {
                continue;
            }
            tokio::select! {
                () = self.inner.shutdown.cancelled() => return,
                _ = link.changed() => {}
                () = sleep(pause) => {}
            }
        }
    }

    async fn ensure_usable(&self) -> Result<(), Fault> {
        let checked = self.check().await;
        match &checked {
            Ok(Some(epoch)) => self.usable(*epoch),
            Ok(None) => {}
            Err(fault) => self.unusable(fault),
        }
        checked.map(|_| ())
    }

    /// `Some(epoch)`: it was made usable for this connection just now. `None`: it was already, and answers.
    async fn check(&self) -> Result<Option<u64>, Fault> {
        target::ping(&self.inner.target).await.map_err(suspect)?;
        let epoch = self.inner.target.link().borrow().epoch;
        if self.state().ready_epoch == Some(epoch) {
            return Ok(None);
        }
        self.inner.driver.prepare().await?;
        Ok(Some(epoch))
    }

    fn usable(&self, epoch: u64) {
        tracing::info!(epoch, "data plane is usable");
        let now = Instant::now();
        let mut state = self.state();
        state.ready_epoch = Some(epoch);
        let keys: Vec<V::Key> = state.entries.keys().cloned().collect();
        for key in keys {
            if let Some(entry) = state.entries.get_mut(&key) {
                entry.attempts = 0;
            }
            state.mark(&key, now);
        }
        self.set_target(&mut state, status::ready());
        drop(state);
        self.inner.wake.notify_one();
        self.inner.resync.notify_one();
    }

    fn unusable(&self, fault: &Fault) {
        let mut state = self.state();
        if state.ready_epoch.take().is_some() {
            tracing::warn!(%fault, "data plane is not usable");
        }
        self.set_target(&mut state, status::failed(fault));
    }

    fn set_target(&self, state: &mut super::State<V>, mut new: ResourceStatus) {
        let old = &state.target;
        let same = old.condition == new.condition && old.op == new.op && old.message == new.message;
        new.since_ms = if same { old.since_ms } else { now_ms() };
        if *old != new {
            state.target = new;
            self.publish_node(state);
        }
    }
}

/// Slow is not dead: said so.
fn suspect(error: vda_spdk::Error) -> Fault {
    let mut fault = Fault::from(error);
    if fault.kind == FaultKind::Timeout {
        fault.message.push_str("; it may be slow, it is not taken for dead");
    }
    fault
}
