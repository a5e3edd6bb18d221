//! What `framework_get_config` shows: the calls that would rebuild the present state, in an order in which they work.
//!
//! Nothing is remembered for it: every family derives its calls from what it shows anyway. SPDK's `rpc.py save_config` and
//! `load_config` put the calls into a file and back; `vda_dataplane --json` ([`load`]) does the latter at start.

mod disks;
pub mod load;
mod nvme;
mod nvmf;
mod volumes;

use std::collections::BTreeSet;
use std::rc::Rc;

use serde_json::Value;
use vda_spdk::{BdevSetOptions, BdevSetQosLimit, BdevWaitForExamine, Call, ConfigEntry};

use super::Methods;
use crate::app::App;
use crate::bdev::BdevInfo;

pub(super) use disks::waiting_parts;
pub(super) use nvme::parts as nvme_parts;
pub(super) use nvmf::calls as nvmf_calls;
pub(super) use volumes::{raid_options, raid_parts, store_parts};

/// Calls that belong together, and how they depend on others.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Part {
    /// Names of bdevs that are there after the calls.
    pub(super) provides: Vec<String>,
    /// Names of bdevs that have to be there before. What nobody provides is not waited for.
    pub(super) needs: Vec<String>,
    pub(super) calls: Vec<ConfigEntry>,
}

/// A call as configuration.
pub(super) fn entry<C: Call>(call: &C) -> ConfigEntry {
    let params =
        serde_json::to_value(call).ok().filter(|params| *params != Value::Object(Default::default()));
    ConfigEntry { method: C::METHOD.to_owned(), params }
}

/// Registers the subsystem `bdev`: options, then the parts that the families registered, then what is said of single bdevs.
pub(super) fn register(methods: &mut Methods) {
    let index = Rc::clone(&methods.index);
    methods.subsystem("bdev", &["iobuf"], move |app| {
        let mut calls = vec![entry(&options(app.bdevs.is_auto_examine()))];
        let mut parts = disks::parts(&app.bdevs.list());
        for family in index.parts.borrow().iter() {
            let (before, of_family) = family(app);
            calls.extend(before);
            parts.extend(of_family);
        }
        calls.extend(in_order(canonical(app, parts)));
        calls.extend(app.bdevs.list().iter().filter_map(limits));
        calls.push(entry(&BdevWaitForExamine {}));
        calls
    });
}

/// The sizes are SPDK's defaults: there are no pools here.
fn options(auto_examine: bool) -> BdevSetOptions {
    BdevSetOptions {
        bdev_io_pool_size: Some(super::bdev::IO_POOL_SIZE),
        bdev_io_cache_size: Some(super::bdev::IO_CACHE_SIZE),
        bdev_auto_examine: Some(auto_examine),
        iobuf_small_cache_size: Some(128),
        iobuf_large_cache_size: Some(16),
    }
}

fn limits(info: &BdevInfo) -> Option<ConfigEntry> {
    let l = info.limits;
    let given = |limit: u64| Some(limit).filter(|l| *l > 0);
    let call = BdevSetQosLimit {
        rw_ios_per_sec: given(l.rw_ios_per_sec),
        rw_mbytes_per_sec: given(l.rw_mbytes_per_sec),
        r_mbytes_per_sec: given(l.r_mbytes_per_sec),
        w_mbytes_per_sec: given(l.w_mbytes_per_sec),
        ..BdevSetQosLimit::new(info.name.clone())
    };
    (call != BdevSetQosLimit::new(info.name.clone())).then(|| entry(&call))
}

/// Bdevs by their names: whoever is needed may be called by an alias.
fn canonical(app: &App, mut parts: Vec<Part>) -> Vec<Part> {
    for part in &mut parts {
        for name in &mut part.needs {
            if let Ok(found) = app.bdevs.canonical_name(name) {
                *name = found;
            }
        }
    }
    parts
}

/// The calls of all parts, those of a part after those of the parts it needs. Otherwise the order stays.
fn in_order(mut parts: Vec<Part>) -> Vec<ConfigEntry> {
    let mut calls = Vec::new();
    loop {
        let missing: BTreeSet<String> = parts.iter().flat_map(|p| p.provides.iter().cloned()).collect();
        let is_ready = |part: &Part| !part.needs.iter().any(|name| missing.contains(name));
        let (ready, rest): (Vec<_>, Vec<_>) = parts.into_iter().partition(is_ready);
        if ready.is_empty() {
            // A circle: there is none, but nothing may be left out either.
            calls.extend(rest.into_iter().flat_map(|part| part.calls));
            return calls;
        }
        calls.extend(ready.into_iter().flat_map(|part| part.calls));
        parts = rest;
    }
}

#[cfg(test)]
#[path = "config_tests.rs"]
mod tests;
