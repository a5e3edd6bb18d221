//! Looking at bdevs for what modules may find on them.

use std::rc::Rc;

use futures::future::LocalBoxFuture;

use super::{Entry, Registry};
use crate::bdev::BdevError;

/// A module that looks at bdevs for what it may find on them (an lvstore).
pub trait Examiner: 'static {
    /// Takes a bdev that it was told to wait for. All modules are asked this before any may [look](Self::examine), so that none finds
    /// something on a bdev that is another's (SPDK's `examine_config`).
    fn examine_config(&self, _registry: &Registry, _name: &str) {}

    /// Looks at what is on a bdev (SPDK's `examine_disk`).
    fn examine(&self, registry: Registry, name: String) -> LocalBoxFuture<'static, ()>;
}

impl Registry {
    /// Adds a module that examines bdevs.
    pub fn add_examiner(&self, examiner: Rc<dyn Examiner>) {
        self.0.state.borrow_mut().examiners.push(examiner);
    }

    /// Whether new bdevs are examined without being asked (`bdev_set_options`).
    pub fn is_auto_examine(&self) -> bool {
        self.0.auto_examine.get()
    }

    /// `bdev_set_options`: whether new bdevs are examined at once.
    pub fn set_auto_examine(&self, on: bool) {
        self.0.auto_examine.set(on);
    }

    /// `bdev_examine`: examines a bdev now, or as soon as one of that name appears.
    ///
    /// # Errors
    /// [`BdevError::Invalid`] while automatic examine is on, [`BdevError::Exists`] if it was asked for before.
    pub fn examine(&self, name: &str) -> Result<(), BdevError> {
        if self.0.auto_examine.get() {
            return Err(BdevError::Invalid {
                field: "name",
                value: name.to_owned(),
                allowed: "manual examine needs bdev_auto_examine false",
            });
        }
        if !self.0.state.borrow_mut().examine_allowed.insert(name.to_owned()) {
            return Err(BdevError::Exists { name: name.to_owned() });
        }
        if let Ok(entry) = self.find(name) {
            self.spawn_examine(entry.name.clone());
        }
        Ok(())
    }

    fn spawn_examine(&self, name: String) {
        let examiners = self.0.state.borrow().examiners.clone();
        if examiners.is_empty() {
            return;
        }
        for examiner in &examiners {
            examiner.examine_config(self, &name);
        }
        self.0.examining.set(self.0.examining.get() + 1);
        let registry = self.clone();
        tokio::task::spawn_local(async move {
            for examiner in examiners {
                examiner.examine(registry.clone(), name.clone()).await;
            }
            let left = registry.0.examining.get() - 1;
            registry.0.examining.set(left);
            if left == 0 {
                registry.0.examined.notify_waiters();
            }
        });
    }

    /// `bdev_wait_for_examine`: resolves when no examination is under way.
    pub async fn wait_for_examine(&self) {
        while self.0.examining.get() > 0 {
            self.0.examined.notified().await;
        }
    }

    /// Examines a bdev that was just registered, if that is wanted.
    pub(super) fn examine_new(&self, entry: &Entry) {
        let allowed = self.0.auto_examine.get() || {
            let state = self.0.state.borrow();
            state.examine_allowed.contains(&entry.name)
                || entry.aliases.borrow().iter().any(|a| state.examine_allowed.contains(a))
        };
        if allowed {
            self.spawn_examine(entry.name.clone());
        }
    }
}
