//! Controllers of remote subsystems: an attachment per path.

use std::time::Duration;

use vda_spdk::{
    BdevNvmeAttachController, BdevNvmeSetMultipathPolicy, BdevNvmeSetOptions, ConfigEntry, MultipathMode,
    MultipathOpts, MultipathPolicy, MultipathSelector,
};

use super::{Part, entry};
use crate::bdev::nvme::{Attached, Multipath, NvmeModule, NvmeOptions};
use crate::initiator::group::Policy;
use crate::initiator::{Path, Resilience};

/// The options, and the controllers with their bdevs.
pub(crate) fn parts(module: &NvmeModule) -> (Vec<ConfigEntry>, Vec<Part>) {
    let parts = module.attached().iter().map(part).collect();
    (vec![entry(&options(&module.options()))], parts)
}

fn part(attached: &Attached) -> Part {
    let group = &attached.group;
    let mut calls: Vec<_> = group.paths().iter().map(|path| entry(&attach(attached, path))).collect();
    let namespaces = group.namespaces();
    let name = |nsid: u32| format!("{}n{nsid}", group.name);
    for ns in namespaces.iter().filter(|ns| ns.policy() != group.policy()) {
        calls.push(entry(&policy(name(ns.nsid), ns.policy())));
    }
    Part { provides: namespaces.iter().map(|ns| name(ns.nsid)).collect(), needs: Vec::new(), calls }
}

fn seconds(time: Duration) -> u32 {
    u32::try_from(time.as_secs()).unwrap_or(u32::MAX)
}

fn loss_timeout(r: Resilience) -> i32 {
    r.loss_timeout.map_or(-1, |time| i32::try_from(time.as_secs()).unwrap_or(i32::MAX))
}

fn attach(attached: &Attached, path: &Path) -> BdevNvmeAttachController {
    let family = if path.address.is_ipv4() { "IPv4" } else { "IPv6" };
    let r = path.resilience;
    BdevNvmeAttachController {
        adrfam: Some(family.to_owned()),
        trsvcid: Some(path.address.port().to_string()),
        subnqn: Some(attached.group.subnqn.clone()),
        hostnqn: Some(path.options.hostnqn.clone()),
        hdgst: Some(path.options.digests.header),
        ddgst: Some(path.options.digests.data),
        multipath: (attached.mode != MultipathMode::Disable).then_some(attached.mode),
        ctrlr_loss_timeout_sec: Some(loss_timeout(r)),
        reconnect_delay_sec: Some(seconds(r.reconnect_delay)),
        fast_io_fail_timeout_sec: Some(seconds(r.fast_io_fail)),
        multipath_opts: Some(words(attached.multipath)),
        ..BdevNvmeAttachController::new(attached.group.name.clone(), "TCP", path.address.ip().to_string())
    }
}

fn words(m: Multipath) -> MultipathOpts {
    let active = m.policy == MultipathPolicy::ActiveActive;
    let in_turn = active && m.selector == MultipathSelector::RoundRobin;
    MultipathOpts {
        policy: Some(m.policy),
        selector: active.then_some(m.selector),
        min_io: in_turn.then_some(m.min_io),
    }
}

fn policy(bdev: String, policy: Policy) -> BdevNvmeSetMultipathPolicy {
    match policy {
        Policy::ActivePassive => BdevNvmeSetMultipathPolicy::new(bdev, MultipathPolicy::ActivePassive),
        Policy::QueueDepth => BdevNvmeSetMultipathPolicy {
            selector: Some(MultipathSelector::QueueDepth),
            ..BdevNvmeSetMultipathPolicy::new(bdev, MultipathPolicy::ActiveActive)
        },
        Policy::RoundRobin { min_io } => BdevNvmeSetMultipathPolicy {
            selector: Some(MultipathSelector::RoundRobin),
            rr_min_io: Some(min_io),
            ..BdevNvmeSetMultipathPolicy::new(bdev, MultipathPolicy::ActiveActive)
        },
    }
}

fn options(o: &NvmeOptions) -> BdevNvmeSetOptions {
    let millis = |time: Duration| u32::try_from(time.as_millis()).unwrap_or(u32::MAX);
    BdevNvmeSetOptions {
        timeout_us: Some(o.timeout_us),
        keep_alive_timeout_ms: Some(millis(o.keep_alive)),
        bdev_retry_count: Some(o.retry_count),
        ctrlr_loss_timeout_sec: Some(loss_timeout(o.resilience)),
        reconnect_delay_sec: Some(seconds(o.resilience.reconnect_delay)),
        fast_io_fail_timeout_sec: Some(seconds(o.resilience.fast_io_fail)),
        tcp_connect_timeout_ms: Some(millis(o.connect_timeout)),
        multipath_opts: Some(words(o.multipath)),
        ..BdevNvmeSetOptions::default()
    }
}
