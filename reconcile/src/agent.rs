//! The agent: accepts desired state, works on components that need it, tells monitors what is.

mod accept;
mod activate;
mod feed;
mod resync;
mod schedule;
mod supervise;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{Debug, Display};
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::sync::{Notify, broadcast};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use vda_proto::v1::ResourceStatus;

use crate::execute::{Fault, Perform};
use crate::graph::{Actual, Desired, Domain, Observed};
use crate::ledger::Ledger;
use crate::plan::Plan;
use crate::status::{self, Book};
use crate::target::Target;

pub use accept::{Accepted, Offer};
pub use feed::{Batch, Feed, FeedEnd, NodeReport};

/// What is wanted of a component, with the revision it was written at.
#[derive(Debug, Clone, PartialEq)]
pub struct Wanted<W> {
    pub want: W,
    /// `mod_revision` of its record: an older one never replaces a newer one.
    pub revision: u64,
}

/// How closely to look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Depth {
    /// By name, one thing at a time.
    Usual,
    /// Also where only a listing of the node shows it: after something failed.
    Thorough,
}

/// How an activation of a component ended.
#[derive(Debug)]
pub struct Settled<'a, D: Domain> {
    pub desired: &'a Desired<D>,
    pub actual: &'a Actual<D>,
    /// Of the last round. Steps left in it have failed.
    pub plan: &'a Plan<D>,
    pub failures: &'a BTreeMap<D::Id, Fault>,
}

impl<D: Domain> Settled<'_, D> {
    /// Whether something could not be observed.
    pub fn uncertain(&self) -> bool {
        self.desired.ids().iter().any(|id| matches!(self.actual.state(id), Observed::Unknown))
    }

    /// Whether nothing of the component is left on the node.
    pub fn gone(&self, extra: impl IntoIterator<Item = D::Id>) -> bool {
        let own = self.desired.own_ids();
        own.iter().all(|id| self.actual.absent(id)) && extra.into_iter().all(|id| self.actual.absent(&id))
    }
}

/// What there is to tell about a component.
#[derive(Debug)]
pub struct Report<S> {
    pub status: S,
    /// Look again after this time, although nothing is to be done now.
    pub recheck: Option<Duration>,
    /// Initialised: made durable before the status is published.
    pub initialised: BTreeSet<String>,
    /// Deleted on order and confirmed gone.
    pub gone: BTreeSet<String>,
}

/// What makes an agent one for disk nodes or for controller nodes.
pub trait Driver: Perform<Self::Domain> + Send + Sync + 'static {
    type Domain: Domain;
    /// Names a component.
    type Key: Ord + Clone + Debug + Display + Send + Sync + 'static;
    /// What is wanted of a component.
    type Want: Clone + Debug + PartialEq + Send + Sync + 'static;
    /// What is reported about a component.
    type Status: Clone + Debug + PartialEq + Send + Sync + 'static;

    /// The resources of a component. `leftovers` are things of the component that are there although nothing asks for them.
    fn desired(
        &self,
        key: &Self::Key,
        want: Option<&Self::Want>,
        leftovers: &BTreeSet<<Self::Domain as Domain>::Id>,
    ) -> Desired<Self::Domain>;

    /// Looks at these.
    fn observe(
        &self,
        ids: &BTreeSet<<Self::Domain as Domain>::Id>,
        depth: Depth,
    ) -> impl Future<Output = Actual<Self::Domain>> + Send;

    /// Looks at everything of ours on the node with a few calls; what is not in the result is absent.
    ///
    /// # Errors
    /// If any of it could not be seen: then nothing is known.
    fn observe_all(&self) -> impl Future<Output = Result<Actual<Self::Domain>, Fault>> + Send;

    /// Looks, with one cheap call, for components whose state has changed by itself since the last time: between two looks at everything.
    fn glance(&self) -> impl Future<Output = BTreeSet<Self::Key>> + Send {
        std::future::ready(BTreeSet::new())
    }

    /// What to report. `None`: leave what was reported last.
    fn report(
        &self,
        key: &Self::Key,
        wanted: &Wanted<Self::Want>,
        settled: &Settled<'_, Self::Domain>,
        previous: Option<&Self::Status>,
        book: &mut Book,
    ) -> Option<Report<Self::Status>>;

    /// Whether a look by name may not show what this failure is about, so that the next look has to be [`Depth::Thorough`].
    fn obscure(&self, _id: &<Self::Domain as Domain>::Id, _fault: &Fault) -> bool {
        true
    }

    /// The component a leftover belongs to when no desired state says so.
    fn component_of(&self, id: &<Self::Domain as Domain>::Id) -> Self::Key;

    /// Another resource that changes when this one does.
    fn affects(&self, _id: &<Self::Domain as Domain>::Id) -> Option<<Self::Domain as Domain>::Id> {
        None
    }

    /// How the ledger names a resource that is initialised once.
    fn record_of(&self, _id: &<Self::Domain as Domain>::Id) -> Option<String> {
        None
    }

    /// Makes the data plane usable after a new connection.
    fn prepare(&self) -> impl Future<Output = Result<(), Fault>> + Send;
}

type IdOf<V> = <<V as Driver>::Domain as Domain>::Id;

/// Knobs of an agent.
#[derive(Debug, Clone)]
pub struct AgentOptions {
    /// Everything is looked at again after this time.
    pub resync_interval: Duration,
    /// What may change by itself is glanced at after this time.
    pub glance_interval: Duration,
    /// The first pause after a failure; it doubles up to `max_backoff`.
    pub min_backoff: Duration,
    pub max_backoff: Duration,
    /// How many components are worked on at the same time.
    pub concurrency: usize,
    /// Changes a slow listener may lag behind before it is dropped.
    pub feed_capacity: usize,
}

impl Default for AgentOptions {
    fn default() -> Self {
        Self {
            resync_interval: Duration::from_secs(10),
            glance_interval: Duration::from_millis(500),
            min_backoff: Duration::from_millis(20),
            max_backoff: Duration::from_secs(5),
            concurrency: 32,
            feed_capacity: 4096,
        }
    }
}

struct Entry<V: Driver> {
    wanted: Option<Wanted<V::Want>>,
    /// There, and not asked for by `wanted`.
    leftovers: BTreeSet<IdOf<V>>,
    status: Option<V::Status>,
    book: Book,
    attempts: u32,
    due: Option<Instant>,
    running: bool,
    /// Something changed while it was worked on.
    again: bool,
    /// Of other components.
    waits_for: BTreeSet<IdOf<V>>,
    depth: Depth,
}

impl<V: Driver> Default for Entry<V> {
    fn default() -> Self {
        Self {
            wanted: None,
            leftovers: BTreeSet::new(),
            status: None,
            book: Book::default(),
            attempts: 0,
            due: None,
            running: false,
            again: false,
            waits_for: BTreeSet::new(),
            depth: Depth::Usual,
        }
    }
}

struct State<V: Driver> {
    entries: BTreeMap<V::Key, Entry<V>>,
    /// Which component asks for a resource.
    owner: BTreeMap<IdOf<V>, V::Key>,
    waiting: BTreeMap<IdOf<V>, BTreeSet<V::Key>>,
    queue: BTreeSet<(Instant, V::Key)>,
    running: usize,
    /// The generation accepted last in this life.
    accepted: Option<u64>,
    /// A full desired state was accepted in this life: what it does not list is not wanted.
    full_seen: bool,
    target: ResourceStatus,
    /// The connection for which the data plane was made usable.
    ready_epoch: Option<u64>,
}

struct Inner<V: Driver, T: Target> {
    driver: V,
    target: T,
    ledger: Arc<Ledger>,
    options: AgentOptions,
    state: Mutex<State<V>>,
    wake: Notify,
    resync: Notify,
    feed: broadcast::Sender<Arc<feed::Change<V>>>,
    shutdown: CancellationToken,
}

/// A running agent; clones are the same one.
pub struct Agent<V: Driver, T: Target> {
    inner: Arc<Inner<V, T>>,
}

impl<V: Driver, T: Target> Clone for Agent<V, T> {
    fn clone(&self) -> Self {
        Self { inner: Arc::clone(&self.inner) }
    }
}

impl<V: Driver, T: Target> Agent<V, T> {
    /// An agent that does nothing until [`Agent::run`].
    pub fn new(
        driver: V,
        target: T,
        ledger: Arc<Ledger>,
        options: AgentOptions,
        shutdown: CancellationToken,
    ) -> Self {
        let (feed, _) = broadcast::channel(options.feed_capacity);
        let state = State {
            entries: BTreeMap::new(),
            owner: BTreeMap::new(),
            waiting: BTreeMap::new(),
            queue: BTreeSet::new(),
            running: 0,
            accepted: None,
            full_seen: false,
            target: status::pending(),
            ready_epoch: None,
        };
        Self {
            inner: Arc::new(Inner {
                driver,
                target,
                ledger,
                options,
                state: Mutex::new(state),
                wake: Notify::new(),
                resync: Notify::new(),
                feed,
                shutdown,
            }),
        }
    }

    /// Works until shutdown.
    pub async fn run(&self) {
        tokio::join!(self.supervise(), self.schedule(), self.resync(), self.glance());
    }

    /// The driver.
    pub fn driver(&self) -> &V {
        &self.inner.driver
    }

    fn state(&self) -> MutexGuard<'_, State<V>> {
        self.inner.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Unix time in milliseconds.
fn now_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

#[cfg(test)]
#[path = "agent_tests.rs"]
mod tests;
