//! Changes the size of volumes, of those that hosts use as well, and makes clones leave their parents meanwhile.

use std::rc::Rc;

use rand::RngExt;
use rand::rngs::SmallRng;

use super::PER_MIB;
use super::model::Shared;
use crate::bdev::IoError;
use crate::lvstore::{LvolError, LvolModule};

/// Changes volumes under the I/O of their hosts.
pub(super) struct Resizer {
    pub(super) module: Rc<LvolModule>,
    pub(super) model: Shared,
    /// Volumes that hosts have.
    pub(super) used: Vec<u64>,
    pub(super) rng: SmallRng,
}

impl Resizer {
    pub(super) async fn run(mut self) {
        for _ in 0..12 {
            for _ in 0..self.rng.random_range(0..60) {
                tokio::task::yield_now().await;
            }
            let Some(n) = self.used.len().checked_sub(1) else { return };
            let id = self.used[self.rng.random_range(0..=n)];
            match self.rng.random_range(0..8) {
                0 => leave_parent(&self.module, &self.model, id, true).await,
                1 => leave_parent(&self.module, &self.model, id, false).await,
                n => resize(&self.module, &self.model, id, u64::from(n as u32 % 4)).await,
            }
        }
    }
}

/// Resizes a volume. What is open does not shrink, and what is refused changes nothing.
pub(super) async fn resize(module: &LvolModule, model: &Shared, id: u64, mib: u64) {
    let before = model.borrow().vols.get(&id).cloned();
    let Some(before) = before.filter(|v| !v.read_only && !v.must_be_absent) else { return };
    model.borrow_mut().resizes(id, mib);
    let done = module.resize(&before.alias(), mib).await;
    let mut model = model.borrow_mut();
    let Some(vol) = model.vols.get_mut(&id) else { return };
    match done {
        Ok(()) => {
            assert!(mib >= before.mib[0] || !before.open || !vol.open, "v{id} shrank while it was open");
            vol.has_size(mib);
            return;
        }
        Err(LvolError::NoSpace | LvolError::Io(IoError::NoSpace)) => assert!(mib > before.mib[0]),
        Err(LvolError::Busy { .. }) => {
            let is_shrink = mib < before.mib[0];
            assert!(is_shrink && before.open || before.leaving + vol.leaving > 0, "v{id} is not in use");
        }
        Err(LvolError::VolumeNotFound { .. }) => assert!(vol.may_be_absent, "v{id} is lost"),
        Err(e) => panic!("{e}"),
    }
    vol.has_size(before.mib[0]);
    if let Ok(info) = module.registry.info(&before.alias()) {
        assert_eq!(info.num_blocks, before.mib[0] * PER_MIB, "v{id} changed though that was refused");
    }
}

/// Inflates a volume, or makes it leave its direct parent. Changes nothing that can be seen.
pub(super) async fn leave_parent(module: &LvolModule, model: &Shared, id: u64, all: bool) {
    let vol = model.borrow().vols.get(&id).cloned();
    let Some(vol) = vol.filter(|v| !v.must_be_absent) else { return };
    let count = |n: i32| model.borrow_mut().vols.get_mut(&id).map(|v| v.leaving += n);
    count(1);
    let left = match all {
        true => module.inflate(&vol.alias()).await,
        false => module.decouple_parent(&vol.alias()).await,
    };
    count(-1);
    match left {
        Ok(()) | Err(LvolError::NoSpace | LvolError::Invalid { .. } | LvolError::Io(IoError::NoSpace)) => {}
        // The other administrator does the same, or has deleted it.
        Err(LvolError::Busy { .. } | LvolError::VolumeNotFound { .. }) => {}
        Err(e) => panic!("{e}"),
    }
}
