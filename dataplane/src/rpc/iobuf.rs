//! `iobuf_set_options`: SPDK's pools of data buffers. Here they are one budget in bytes, as large as those pools together (ADR 0086).

use std::cell::RefCell;
use std::rc::Rc;

use vda_spdk::{Errno, IobufSetOptions};

use super::{Methods, State, config};
use crate::nvmf::{LARGE_POOL, SMALL_POOL};

/// What was asked for, whole.
pub(super) struct Pools(RefCell<IobufSetOptions>);

/// Registers the method, and its configuration.
pub(super) fn register(methods: &mut Methods) -> Rc<Pools> {
    let pools = &Rc::new(Pools(RefCell::new(IobufSetOptions {
        small_pool_count: Some(SMALL_POOL.0),
        large_pool_count: Some(LARGE_POOL.0),
        small_bufsize: Some(SMALL_POOL.1),
        large_bufsize: Some(LARGE_POOL.1),
        enable_numa: Some(false),
    })));
    let set = Rc::clone(pools);
    methods.method::<IobufSetOptions>(State::Startup, async move |_, call| {
        set.change(&call)?;
        Ok(true)
    });
    let saved = Rc::clone(pools);
    methods.subsystem("iobuf", &[], move |_| vec![config::entry(&*saved.0.borrow())]);
    Rc::clone(pools)
}

impl Pools {
    /// Changes what is given, and leaves the rest.
    ///
    /// # Errors
    /// -22 below the minima of `spdk_iobuf_set_opts`.
    fn change(&self, call: &IobufSetOptions) -> Result<(), Errno> {
        let mut pools = self.0.borrow_mut();
        let all = IobufSetOptions {
            small_pool_count: call.small_pool_count.or(pools.small_pool_count),
            large_pool_count: call.large_pool_count.or(pools.large_pool_count),
            small_bufsize: call.small_bufsize.or(pools.small_bufsize),
            large_bufsize: call.large_bufsize.or(pools.large_bufsize),
            enable_numa: call.enable_numa.or(pools.enable_numa),
        };
        if all.small_pool_count < Some(64)
            || all.large_pool_count < Some(8)
            || all.small_bufsize < Some(4096)
            || all.large_bufsize < Some(8192)
        {
            return Err(Errno::EINVAL);
        }
        *pools = all;
        Ok(())
    }

    /// The memory of the pools, bytes.
    pub(super) fn bytes(&self) -> usize {
        let pools = self.0.borrow();
        let bytes = |count: Option<u64>, size: Option<u32>| {
            count.unwrap_or_default().saturating_mul(size.unwrap_or_default().into())
        };
        let small = bytes(pools.small_pool_count, pools.small_bufsize);
        let large = bytes(pools.large_pool_count, pools.large_bufsize);
        usize::try_from(small.saturating_add(large)).unwrap_or(usize::MAX)
    }
}

#[cfg(test)]
#[path = "iobuf_tests.rs"]
mod tests;
