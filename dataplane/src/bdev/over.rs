//! What bdevs that stand over exactly one other have in common: the claim on it, and going away with it.

use std::cell::RefCell;
use std::rc::Rc;

use super::{BdevError, BdevEvent, ClaimType, Descriptor, Events, IoError, Registration, Registry};

/// The base of a bdev over another one.
pub(super) struct Base {
    desc: RefCell<Option<Descriptor>>,
    pub(super) name: String,
    pub(super) block_size: u32,
}

impl Base {
    /// Opens and claims a bdev for `module`.
    pub(super) fn open(
        registry: &Registry,
        name: &str,
        module: &'static str,
    ) -> Result<(Rc<Self>, Events), BdevError> {
        let (mut desc, events) = registry.open(name, false)?;
        desc.claim(ClaimType::ExclusiveWrite, module)?;
        let base = Self {
            name: desc.name().to_owned(),
            block_size: desc.block_size(),
            desc: RefCell::new(Some(desc)),
        };
        Ok((Rc::new(base), events))
    }

    /// Begins something on the base.
    pub(super) fn begin<T>(&self, f: impl FnOnce(&Descriptor) -> T) -> Result<T, IoError> {
        self.desc.borrow().as_ref().map(f).ok_or(IoError::Removed)
    }

    /// Lets go of it.
    pub(super) fn close(&self) {
        self.desc.replace(None);
    }
}

/// Passes growth on, and takes the upper bdev away when the base goes.
pub(super) fn follow(mut events: Events, upper: Registration) {
    tokio::task::spawn_local(async move {
        while let Some(event) = events.recv().await {
            match event {
                BdevEvent::Resized => upper.notify_resize(),
                BdevEvent::Removed => {
                    upper.unregister().await;
                    return;
                }
            }
        }
    });
}
