//! What keys held when we last looked: own commits, own reads, and what refused transactions brought back. Only a guess, verified by
//! the compares of every commit.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::kv::KeyValue;

/// Bounded by the number of keys; the half that was not used for longest goes when it is full.
#[derive(Debug)]
pub(crate) struct ReadCache {
    capacity: usize,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    clock: u64,
    entries: HashMap<String, (u64, Option<KeyValue>)>,
}

impl ReadCache {
    pub(crate) fn new(capacity: usize) -> Self {
        Self { capacity, state: Mutex::default() }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// `None`: nothing is known; `Some(None)`: known to be absent.
    pub(crate) fn get(&self, key: &str) -> Option<Option<KeyValue>> {
        let mut state = self.lock();
        state.clock += 1;
        let now = state.clock;
        let (used, value) = state.entries.get_mut(key)?;
        *used = now;
        Some(value.clone())
    }

    /// Takes note of what a key holds, unless something newer is known.
    pub(crate) fn learn(&self, key: String, value: Option<KeyValue>) {
        let mut state = self.lock();
        state.clock += 1;
        let now = state.clock;
        let revision = value.as_ref().map(|kv| kv.mod_revision);
        if let Some((_, Some(known))) = state.entries.get(&key)
            && revision.is_some_and(|revision| revision < known.mod_revision)
        {
            return;
        }
        state.entries.insert(key, (now, value));
        if state.entries.len() > self.capacity {
            let mut ages: Vec<u64> = state.entries.values().map(|(used, _)| *used).collect();
            let middle = ages.len() / 2;
            let (_, &mut limit, _) = ages.select_nth_unstable(middle);
            state.entries.retain(|_, (used, _)| *used >= limit);
        }
    }

    pub(crate) fn forget_all(&self) {
        self.lock().entries.clear();
    }
}
