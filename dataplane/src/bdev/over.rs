//! What bdevs that stand over exactly one other have in common: the claim on it, going away with it, and coming when it comes.

use std::cell::RefCell;
use std::rc::{Rc, Weak};

use futures::future::LocalBoxFuture;

use super::{BdevError, BdevEvent, ClaimType, Descriptor, Events, Examiner, IoError, Registration, Registry};

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

/// A module that remembers what it was asked for, and puts it over its base when that comes.
pub(super) trait WaitsForBases: 'static {
    /// A bdev has come; `is_it` says whether a name or alias is its.
    fn base_came(&self, name: &str, is_it: &dyn Fn(&str) -> bool);
}

/// Has `module` told of each bdev that comes.
pub(super) fn watch_for_bases<M: WaitsForBases>(registry: &Registry, module: &Rc<M>) {
    registry.add_examiner(Rc::new(BaseExaminer(Rc::downgrade(module))));
}

/// Holds the module weakly: the registry lives longer.
struct BaseExaminer<M>(Weak<M>);

impl<M: WaitsForBases> Examiner for BaseExaminer<M> {
    fn examine_config(&self, registry: &Registry, name: &str) {
        if let Some(module) = self.0.upgrade() {
            module.base_came(name, &|base| registry.canonical_name(base).is_ok_and(|found| found == name));
        }
    }

    fn examine(&self, _registry: Registry, _name: String) -> LocalBoxFuture<'static, ()> {
        Box::pin(std::future::ready(()))
    }
}
