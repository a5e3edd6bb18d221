//! What the module of a bdev holds, and how a bdev goes away.

use std::rc::{Rc, Weak};

use super::{BdevEvent, Entry, Inner, Registry};
use crate::bdev::BdevError;

/// A module's handle on a bdev it registered. Dropping it does not unregister.
#[derive(Clone)]
pub struct Registration {
    pub(super) registry: Weak<Inner>,
    pub(super) entry: Rc<Entry>,
    pub(super) seq: u64,
}

impl Registry {
    /// Removes a bdev of `module`: holders get [`BdevEvent::Removed`], and when all have closed it and its I/O has ended it is
    /// destructed and its names are free again. Waiting for that is up to the caller: dropping the future does not stop it.
    ///
    /// # Errors
    /// [`BdevError::NotFound`] if there is none, or it is of another module.
    pub fn unregister(
        &self,
        name: &str,
        module: &str,
    ) -> Result<impl Future<Output = ()> + use<>, BdevError> {
        let entry = self.find(name)?;
        if entry.bdev.module() != module {
            return Err(BdevError::NotFound { name: name.to_owned() });
        }
        let seq = self.0.state.borrow().names.get(&entry.name).copied();
        let seq = seq.ok_or_else(|| BdevError::NotFound { name: name.to_owned() })?;
        Ok(Registration { registry: Rc::downgrade(&self.0), entry, seq }.unregister())
    }
}

impl Registration {
    pub fn name(&self) -> &str {
        &self.entry.name
    }

    /// Whether some descriptor other than for reading, or a claim, is on it.
    pub fn is_open_for_write(&self) -> bool {
        self.entry.writers.get() > 0 || self.entry.claim.borrow().is_some()
    }

    /// Whether it is open, or I/O is in flight on it.
    pub fn is_busy(&self) -> bool {
        !self.entry.is_idle()
    }

    /// Open descriptors.
    pub fn open_count(&self) -> usize {
        self.entry.holders.borrow().len()
    }

    /// Tells the holders that `num_blocks` changed.
    pub fn notify_resize(&self) {
        self.entry.notify(BdevEvent::Resized);
    }

    /// Replaces one alias by another (a rename).
    ///
    /// # Errors
    /// [`BdevError::Exists`] if the new one is taken.
    pub fn replace_alias(&self, old: &str, new: &str) -> Result<(), BdevError> {
        let Some(inner) = self.registry.upgrade() else { return Ok(()) };
        let mut state = inner.state.borrow_mut();
        if old == new {
            return Ok(());
        }
        if state.names.contains_key(new) {
            return Err(BdevError::Exists { name: new.to_owned() });
        }
        state.names.remove(old);
        state.names.insert(new.to_owned(), self.seq);
        for alias in self.entry.aliases.borrow_mut().iter_mut().filter(|a| *a == old) {
            new.clone_into(alias);
        }
        Ok(())
    }

    /// Removes the bdev, see [`Registry::unregister`]. Calling it again waits for the same removal.
    pub fn unregister(&self) -> impl Future<Output = ()> + use<> {
        let (done, finished) = tokio::sync::oneshot::channel();
        let first = !self.entry.removing.replace(true);
        let (registry, entry, seq) = (self.registry.clone(), Rc::clone(&self.entry), self.seq);
        if first {
            entry.notify(BdevEvent::Removed);
        }
        tokio::task::spawn_local(async move {
            if first {
                remove(registry, &entry, seq).await;
            } else {
                while is_listed(&registry, seq) {
                    entry.quiesced.notified().await;
                }
            }
            let _ = done.send(());
        });
        async move {
            // An error means that the reactor is shutting down.
            let _ = finished.await;
        }
    }
}

fn is_listed(registry: &Weak<Inner>, seq: u64) -> bool {
    registry.upgrade().is_some_and(|inner| inner.state.borrow().entries.contains_key(&seq))
}

async fn remove(registry: Weak<Inner>, entry: &Rc<Entry>, seq: u64) {
    while !entry.is_idle() {
        entry.quiesced.notified().await;
    }
    entry.bdev.destruct().await;
    if let Some(inner) = registry.upgrade() {
        let mut state = inner.state.borrow_mut();
        let state = &mut *state;
        let allowed = &mut state.examine_allowed;
        state.names.retain(|name, s| {
            let keep = *s != seq;
            if !keep {
                allowed.remove(name);
            }
            keep
        });
        state.entries.remove(&seq);
    }
    entry.quiesced.notify_waiters();
    tracing::debug!(bdev = %entry.name, "bdev removed");
}
