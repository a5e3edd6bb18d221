//! Connecting to one subsystem over one or several paths.

use std::rc::Rc;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use vda_dataplane::initiator::group::NoEvents;
use vda_dataplane::initiator::{ConnectError, Group, HostOptions, Namespace, Resilience};
use vda_nvme::digest::Digests;

use crate::args::{Host, Subsystem};

/// Time between two attempts to reconnect a path.
const RECONNECT_DELAY: Duration = Duration::from_millis(250);
/// Retries of an I/O that failed otherwise than by its path.
const RETRIES: i32 = 3;

impl Host {
    pub(crate) fn options(&self) -> anyhow::Result<HostOptions> {
        let random = || format!("nqn.2014-08.org.nvmexpress:uuid:{}", uuid::Uuid::new_v4());
        let nqn = self.hostnqn.clone().unwrap_or_else(random);
        let max = vda_nvme::NQN_MAX_LEN;
        ensure!(!nqn.is_empty() && nqn.len() <= max, "--hostnqn {nqn:?}: must have 1 to {max} bytes");
        Ok(HostOptions {
            digests: Digests { header: self.hdgst, data: self.ddgst },
            keep_alive: Duration::from_secs(self.keep_alive),
            connect_timeout: self.connect_timeout,
            ..HostOptions::new(nqn)
        })
    }
}

/// Whether the target said no, in contrast to not answering.
pub(crate) fn is_refusal(e: &ConnectError) -> bool {
    e.is_permanent()
}

/// Connects all paths. One that does not answer is tried again in the background, if another one does.
pub(crate) async fn connect(s: &Subsystem) -> anyhow::Result<Rc<Group>> {
    let max = vda_nvme::NQN_MAX_LEN;
    ensure!(!s.nqn.is_empty() && s.nqn.len() <= max, "--nqn {:?}: must have 1 to {max} bytes", s.nqn);
    let group = Group::new("host", s.nqn.clone(), RETRIES, Box::new(NoEvents));
    let options = HostOptions { io_queues: s.queues, ..s.host.options()? };
    let resilience = Resilience {
        loss_timeout: None,
        reconnect_delay: RECONNECT_DELAY,
        fast_io_fail: s.io_timeout.max(RECONNECT_DELAY),
    };
    let mut failed = Vec::new();
    for &address in &s.paths {
        if let Err(error) = group.attach(address, options.clone(), resilience).await {
            failed.push((address, error));
        }
    }
    if failed.len() == s.paths.len() {
        let (_, error) = failed.swap_remove(0);
        return Err(error).context(format!("connecting to {}", s.nqn));
    }
    for (address, error) in failed {
        eprintln!("vda_host: path {address} is not usable yet: {error}");
        group.attach_later(address, options.clone(), resilience);
    }
    Ok(group)
}

/// The namespace of `nsid`, or the first one.
pub(crate) fn namespace(group: &Group, nsid: Option<u32>) -> anyhow::Result<Rc<Namespace>> {
    let all = group.namespaces();
    let known: Vec<u32> = all.iter().map(|n| n.nsid).collect();
    match all.into_iter().find(|n| nsid.is_none_or(|id| id == n.nsid)) {
        Some(ns) => Ok(ns),
        None if known.is_empty() => bail!("subsystem {} has no namespace", group.subnqn),
        None => bail!("--nsid {}: the subsystem has {known:?}", nsid.unwrap_or(0)),
    }
}
