//! One node: keeps its agent told and what it tells recorded. Every step is decided by `sync`, `liveness`, `outbox` and `record`; this is
//! the loop that waits for whatever comes next.

use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use tonic::Status;
use vda_model::Error;
use vda_model::delta::Node;
use vda_model::keys::AnyKey;
use vda_proto::v1::SyncReply;
use vda_store::{Backoff, Committed, StmError};
use vda_telemetry::RequestId;

use crate::agent::{Agent, describe};
use crate::boot;
use crate::context::{Context, now_ms};
use crate::desired::{build, generation, origin};
use crate::inbox::{Inbox, Mail};
use crate::liveness::Liveness;
use crate::record::{Entry, is_ending, reads, record};
use crate::report::{ComponentStatus, NodeStatus, Report};
use crate::routing::waits_for;
use crate::supervisor::name;
use crate::sync::{SyncState, Verdict};

mod link;
mod outbox;

use link::{LinkEvent, follow};
use outbox::Outbox;

/// Pause before asking an agent again that cannot be right: it serves another node, or its records cannot be read.
const LONG_PAUSE: Duration = Duration::from_secs(5);

type Syncing = BoxFuture<'static, Result<SyncReply, Status>>;
type Recording = BoxFuture<'static, Result<Committed<()>, StmError<Error>>>;

/// Work that is under way.
#[derive(Default)]
struct Work {
    sync: Option<Syncing>,
    record: Option<(Recording, Arc<Entry>)>,
}

pub(crate) struct Driver {
    node: Node,
    name: String,
    agent: Agent,
    context: Context,
    inbox: Arc<Inbox>,
    liveness: Liveness,
    /// A connection is up, and whether the agent has told everything on it.
    connected: bool,
    listed: bool,
    /// The agent says that it serves another node.
    wrong: bool,
    sync: SyncState,
    sync_after: Instant,
    sync_backoff: Backoff,
    outbox: Outbox,
    record_after: Instant,
    record_backoff: Backoff,
    complained: bool,
}

impl Driver {
    pub(crate) fn new(
        node: Node,
        address: &str,
        context: Context,
        inbox: Arc<Inbox>,
    ) -> Result<Self, String> {
        let now = Instant::now();
        let backoff = || Backoff::new(Duration::from_millis(20), Duration::from_secs(2));
        Ok(Self {
            node,
            name: name(node),
            agent: Agent::new(node, address)?,
            liveness: Liveness::new(context.node_timeout, now),
            context,
            inbox,
            connected: false,
            listed: false,
            wrong: false,
            sync: SyncState::default(),
            sync_after: now,
            sync_backoff: backoff(),
            outbox: Outbox::default(),
            record_after: now,
            record_backoff: backoff(),
            complained: false,
        })
    }

    pub(crate) async fn run(mut self, stop: CancellationToken) {
        let (told, mut events) = mpsc::channel(64);
        let id = match self.node {
            Node::Dn(dn) => dn.to_string(),
            Node::Cn(cn) => cn.to_string(),
        };
        let _link = AbortOnDropHandle::new(tokio::spawn(follow(
            self.agent.clone(),
            id,
            self.context.node_timeout,
            told,
        )));
        let inbox = self.inbox.clone();
        let mut work = Work::default();
        loop {
            self.start_sync(&mut work);
            self.start_record(&mut work);
            let wake_at = self.wake_at(&work);
            tokio::select! {
                () = stop.cancelled() => return,
                mail = inbox.next() => self.on_mail(&mail),
                event = events.recv() => match event {
                    Some(event) => self.on_link(event),
                    None => return,
                },
                reply = under_way(&mut work.sync) => {
                    work.sync = None;
                    self.on_reply(reply);
                }
                outcome = recording(&mut work.record) => self.on_recorded(outcome, work.record.take()),
                () = until(wake_at) => self.on_time(),
            }
        }
    }

    fn on_mail(&mut self, mail: &Mail) {
        self.sync.note(mail);
        // What is known of an agent that is not connected may be old.
        let said = self.connected && self.listed;
        let due = |snapshot: &_| {
            is_ending(snapshot, self.node) || (said && self.outbox.boot_differs(snapshot, self.node))
        };
        if self.context.cache.read(due) {
            self.outbox.node_due(Instant::now());
        }
    }

    fn on_link(&mut self, event: LinkEvent) {
        match event {
            LinkEvent::Connected => {
                self.connected = true;
                self.listed = false;
                self.sync.doubt();
            }
            LinkEvent::Lost(detail) => {
                tracing::debug!(node = self.name, detail, "connection lost");
                self.connected = false;
                self.sync.doubt();
                self.liveness.lost(detail);
            }
            LinkEvent::Told(report) => self.on_report(*report),
        }
    }

    fn on_report(&mut self, report: Report) {
        let now = Instant::now();
        self.listed |= report.complete;
        let changed = self.liveness.heard(now, self.listed && !self.wrong, now_ms());
        if changed {
            self.verdict_changed();
        }
        self.outbox.generation(report.generation, now);
        if let Some(node) = report.node {
            self.note_boot(&node);
            let generation = match &node {
                NodeStatus::Dn(status) => status.observed_generation,
                NodeStatus::Cn(status) => status.observed_generation,
            };
            self.outbox.generation(generation, now);
            self.outbox.node(node, now);
        }
        for (da, status) in report.components {
            if let (Node::Dn(dn), ComponentStatus::Share(share)) = (self.node, &status)
                && let Some(cn) = self.context.cache.read(|snapshot| waits_for(snapshot, dn, da, share))
            {
                self.context.inboxes.post(Node::Cn(cn), Mail { retry: [da].into(), ..Mail::default() });
            }
            self.outbox.components.insert(da, status);
        }
    }

    fn note_boot(&self, told: &NodeStatus) {
        let (Node::Dn(dn), NodeStatus::Dn(told)) = (self.node, told) else { return };
        let anew = self.context.cache.read(|snapshot| {
            snapshot.raw(&AnyKey::DnBoot(dn)).is_some() && boot::differs(snapshot, dn, told)
        });
        if anew && !self.outbox.knows_boot(&told.boot) {
            tracing::warn!(
                node = self.name,
                boot = told.boot,
                "the node was started anew: members of mirrors on it are rebuilt; what was written to arrays without mirrors and not flushed may be lost"
            );
        }
    }

    fn verdict_changed(&mut self) {
        let verdict = self.liveness.verdict().cloned();
        if let Some(verdict) = &verdict {
            tracing::info!(
                node = self.name,
                condition = verdict.condition().as_str_name(),
                verdict.message,
                "agent"
            );
        }
        self.outbox.agent(verdict, Instant::now());
    }

    fn on_time(&mut self) {
        if self.liveness.check(Instant::now(), now_ms()) {
            self.verdict_changed();
        }
    }

    /// When something becomes due that no event announces.
    fn wake_at(&self, work: &Work) -> Option<Instant> {
        let now = Instant::now();
        let sync =
            (self.connected && work.sync.is_none() && self.sync_after > now).then_some(self.sync_after);
        let record = match (&work.record, self.outbox.due_at()) {
            (None, Some(due)) => Some(due.max(self.record_after)),
            _ => None,
        };
        [sync, record, self.liveness.deadline()].into_iter().flatten().min()
    }

    fn start_sync(&mut self, work: &mut Work) {
        if !self.connected || work.sync.is_some() || Instant::now() < self.sync_after {
            return;
        }
        let node = self.node;
        let sync = &self.sync;
        let built = self.context.cache.read(|snapshot| {
            let (extent, retry) = sync.next(generation(snapshot, node))?;
            let id = origin(snapshot, node)
                .and_then(|id| RequestId::parse(&id))
                .unwrap_or_else(RequestId::generate);
            Some(build(snapshot, node, &extent, &retry).map(|built| built.map(|built| (extent, built, id))))
        });
        match built {
            None | Some(Ok(None)) => {}
            Some(Ok(Some((_, built, _)))) if built.empty && self.sync.base() == Some(built.generation) => {
                self.sync.skipped(built.held);
            }
            Some(Ok(Some((extent, built, id)))) => {
                tracing::debug!(node = self.name, generation = built.generation, req_id = %id, ?extent, "sync");
                self.sync.sent(&extent, built.generation, built.held);
                work.sync = Some(Box::pin(self.agent.clone().sync(built.request, id)));
            }
            Some(Err(error)) => {
                tracing::error!(node = self.name, %error, "the agent is not told anything new");
                self.sync_after = Instant::now() + LONG_PAUSE;
            }
        }
    }

    fn on_reply(&mut self, reply: Result<SyncReply, Status>) {
        let now = Instant::now();
        match reply {
            Ok(reply) => match self.sync.answered(&reply) {
                Verdict::Accepted(generation) => {
                    self.sync_backoff.reset();
                    self.complained = false;
                    self.outbox.generation(generation, now);
                    // The end of a node waits for its agent to have accepted that.
                    if self.context.cache.read(|snapshot| is_ending(snapshot, self.node)) {
                        self.outbox.node_due(now);
                    }
                    if std::mem::replace(&mut self.wrong, false)
                        && self.liveness.heard(now, self.listed, now_ms())
                    {
                        self.verdict_changed();
                    }
                }
                Verdict::Again => self.sync_after = now + self.sync_backoff.next_delay(),
                Verdict::WrongNode(message) => {
                    self.wrong = true;
                    if self.liveness.refused(&format!("agent serves another node: {message}"), now_ms()) {
                        self.verdict_changed();
                    }
                    self.sync_after = now + LONG_PAUSE;
                }
            },
            Err(status) => {
                self.sync.failed();
                self.sync_after = now + self.sync_backoff.next_delay();
                if self.connected && !std::mem::replace(&mut self.complained, true) {
                    tracing::warn!(node = self.name, error = describe(&status), "sync failed, trying again");
                }
            }
        }
    }

    fn start_record(&mut self, work: &mut Work) {
        let now = Instant::now();
        if work.record.is_some() || now < self.record_after {
            return;
        }
        let (node, outbox, lane) = (self.node, &mut self.outbox, self.context.store.lane());
        let taken = self.context.cache.read(|snapshot| {
            let entry = outbox.take(snapshot, node, now)?;
            reads(snapshot, node, &entry).iter().for_each(|key| lane.hint(key, snapshot.raw(key)));
            Some(entry)
        });
        let Some(entry) = taken else { return };
        let entry = Arc::new(entry);
        let (store, shared) = (self.context.store.clone(), entry.clone());
        let recording = async move {
            let body = move |tx| {
                let entry = shared.clone();
                async move { record(tx, node, &entry).await }
            };
            store.lane().submit("record", body).await
        };
        work.record = Some((Box::pin(recording), entry));
    }

    fn on_recorded(
        &mut self,
        outcome: Result<Committed<()>, StmError<Error>>,
        work: Option<(Recording, Arc<Entry>)>,
    ) {
        let Err(error) = outcome else {
            self.record_backoff.reset();
            return;
        };
        if matches!(error, StmError::Domain(_)) {
            // Trying again would not change it, and must not keep other statuses from being recorded.
            tracing::error!(node = self.name, %error, "a report cannot be recorded");
            return;
        }
        tracing::debug!(node = self.name, %error, "not recorded, trying again");
        self.record_after = Instant::now() + self.record_backoff.next_delay();
        if let Some((_, entry)) = work {
            self.outbox.put_back(&entry, Instant::now());
        }
    }
}

async fn under_way<T>(work: &mut Option<BoxFuture<'static, T>>) -> T {
    match work {
        Some(work) => work.await,
        None => std::future::pending().await,
    }
}

async fn recording(work: &mut Option<(Recording, Arc<Entry>)>) -> Result<Committed<()>, StmError<Error>> {
    match work {
        Some((work, _)) => work.await,
        None => std::future::pending().await,
    }
}

async fn until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}
