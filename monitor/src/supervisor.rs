//! Which nodes are ours, one driver for each, and the way of changes to them.

use std::collections::{BTreeMap, BTreeSet};

use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use vda_model::delta::Node;
use vda_model::ids::{CnId, DnId, MonitorId};
use vda_model::keys::{AnyKey, CnSpecKey, DnSpecKey, Key};
use vda_store::{ChangeSet, Snapshot, owner_of};

use crate::context::Context;
use crate::driver::Driver;
use crate::inbox::Mail;
use crate::routing::Sorter;

struct Running {
    address: String,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

pub(crate) struct Supervisor {
    context: Context,
    id: MonitorId,
    drivers: BTreeMap<Node, Running>,
}

impl Supervisor {
    pub(crate) fn new(context: Context, id: MonitorId) -> Self {
        Self { context, id, drivers: BTreeMap::new() }
    }

    /// Until the cache ends.
    pub(crate) async fn run(mut self) {
        let mut changes = self.context.cache.subscribe();
        while let Some(set) = changes.next().await {
            self.apply(&set);
        }
        for running in self.drivers.values() {
            running.stop.cancel();
        }
        for (_, running) in std::mem::take(&mut self.drivers) {
            // A panic of a driver has been reported by the runtime.
            running.task.await.ok();
        }
    }

    fn apply(&mut self, set: &ChangeSet) {
        let assigns =
            |key: &AnyKey| matches!(key, AnyKey::DnSpec(_) | AnyKey::CnSpec(_) | AnyKey::Monitor(_));
        if set.everything || set.keys.iter().any(assigns) {
            self.assign();
        }
        let inboxes = self.context.inboxes.clone();
        if set.everything {
            inboxes.post_all(&Mail { everything: true, node: true, held: true, ..Mail::default() });
        }
        let nodes = inboxes.nodes();
        let mail = self.context.cache.read(|snapshot| {
            let mut sorter = Sorter::new(snapshot, &nodes);
            set.keys.iter().for_each(|key| sorter.sort(key));
            sorter.finish()
        });
        mail.into_iter().for_each(|(node, mail)| inboxes.post(node, mail));
    }

    /// Starts and stops drivers, so that exactly our nodes have one.
    fn assign(&mut self) {
        let wanted = self.context.cache.read(|snapshot| ours(snapshot, self.id));
        let context = &self.context;
        self.drivers.retain(|node, running| {
            let keep = wanted.get(node) == Some(&running.address) && !running.task.is_finished();
            if !keep {
                tracing::info!(node = %name(*node), "no longer driving");
                running.stop.cancel();
                context.inboxes.remove(*node);
            }
            keep
        });
        for (node, address) in wanted {
            if self.drivers.contains_key(&node) {
                continue;
            }
            tracing::info!(node = %name(node), address, "driving");
            let stop = self.context.cancelled.child_token();
            let inbox = self.context.inboxes.add(node);
            match Driver::new(node, &address, self.context.clone(), inbox) {
                Ok(driver) => {
                    let task = tokio::spawn(driver.run(stop.clone()));
                    self.drivers.insert(node, Running { address, stop, task });
                }
                Err(error) => tracing::error!(node = %name(node), error, "cannot be driven"),
            }
        }
    }
}

/// How a node is called in logs.
pub(crate) fn name(node: Node) -> String {
    match node {
        Node::Dn(dn) => format!("dn/{dn}"),
        Node::Cn(cn) => format!("cn/{cn}"),
    }
}

fn bits(node: Node) -> u64 {
    match node {
        Node::Dn(dn) => dn.bits(),
        Node::Cn(cn) => !cn.bits(),
    }
}

/// Our nodes and their addresses. We count as a member also while our own lease is not there (yet): driving a node twice is harmless, not
/// driving it is not.
fn ours(snapshot: &Snapshot, id: MonitorId) -> BTreeMap<Node, String> {
    let mut members: BTreeSet<MonitorId> = snapshot.monitors();
    members.insert(id);
    let mine = |node: &Node| owner_of(bits(*node), members.iter().copied(), MonitorId::bits) == Some(id);
    nodes(snapshot).into_iter().filter(|(node, _)| mine(node)).collect()
}

fn nodes(snapshot: &Snapshot) -> BTreeMap<Node, String> {
    let dns = snapshot.range(DnSpecKey(DnId::new(0)).any(), DnSpecKey(DnId::new(u64::MAX)).any());
    let cns = snapshot.range(CnSpecKey(CnId::new(0)).any(), CnSpecKey(CnId::new(u64::MAX)).any());
    let mut nodes = BTreeMap::new();
    for (key, raw) in dns.chain(cns) {
        let found = match key {
            AnyKey::DnSpec(dn) => {
                raw.decode::<DnSpecKey>(key).map(|spec| (Node::Dn(*dn), spec.value.address))
            }
            AnyKey::CnSpec(cn) => {
                raw.decode::<CnSpecKey>(key).map(|spec| (Node::Cn(*cn), spec.value.address))
            }
            _ => continue,
        };
        match found {
            Ok((node, address)) => _ = nodes.insert(node, address),
            Err(error) => tracing::error!(%error, "node left alone"),
        }
    }
    nodes
}
