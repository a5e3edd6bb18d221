//! The agent's loop over a toy node: numbered things that are made and taken away. Where a duration is asserted the clock is the test's.

use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::watch;
use vda_spdk::{Call, Error, Link, Rpc};

use super::*;
use crate::graph::{Removal, Verdict};

#[derive(Debug, Clone, PartialEq)]
struct Things;

#[derive(Debug, Clone, PartialEq)]
enum Act {
    Make,
    Take,
}

impl Domain for Things {
    type Id = u32;
    type Spec = ();
    type State = ();
    type Action = Act;

    fn judge(id: &u32, (): &(), actual: &Actual<Self>) -> Verdict<Self> {
        match actual.known(id) {
            Some(()) => Verdict::Fine,
            None => Verdict::Create { actions: vec![Act::Make], destructive: false },
        }
    }

    fn remove(_: &u32, (): &(), _: bool, _: &Actual<Self>) -> Removal<Self> {
        Removal::Steps { actions: vec![Act::Take], destructive: false }
    }
}

/// What is on the node, and what it refuses to make.
#[derive(Default)]
struct Node {
    there: Mutex<BTreeSet<u32>>,
    refused: Mutex<BTreeSet<u32>>,
    calls: Mutex<Vec<(u32, Act)>>,
    blind: AtomicBool,
    /// How closely it was looked at, look by look.
    looks: Mutex<Vec<Depth>>,
    /// What fails shows when looked at by name.
    plain: AtomicBool,
}

#[derive(Clone, Default)]
struct Toy(Arc<Node>);

impl Perform<Things> for Toy {
    async fn perform(&self, id: &u32, action: &Act) -> Result<(), Fault> {
        self.0.calls.lock().unwrap().push((*id, action.clone()));
        if self.0.refused.lock().unwrap().contains(id) {
            return Err(Fault::refused("make", "not now"));
        }
        let mut there = self.0.there.lock().unwrap();
        match action {
            Act::Make => there.insert(*id),
            Act::Take => there.remove(id),
        };
        Ok(())
    }
}

impl Driver for Toy {
    type Domain = Things;
    type Key = u32;
    type Want = u32;
    type Status = String;

    fn desired(&self, key: &u32, want: Option<&u32>, _: &BTreeSet<u32>) -> Desired<Things> {
        let mut desired = Desired::default();
        if want.is_some() {
            desired.want(*key, (), []);
        }
        desired
    }

    async fn observe(&self, ids: &BTreeSet<u32>, depth: Depth) -> Actual<Things> {
        self.0.looks.lock().unwrap().push(depth);
        if self.0.blind.load(Ordering::SeqCst) {
            return Actual::unknown(ids);
        }
        let there = self.0.there.lock().unwrap();
        let mut actual = Actual::default();
        for id in ids {
            let state = if there.contains(id) { Observed::Known(()) } else { Observed::Absent };
            actual.saw(*id, state, []);
        }
        actual
    }

    async fn observe_all(&self) -> Result<Actual<Things>, Fault> {
        let all = self.0.there.lock().unwrap().clone();
        Ok(self.observe(&all, Depth::Usual).await)
    }

    fn report(
        &self,
        key: &u32,
        wanted: &Wanted<u32>,
        settled: &Settled<'_, Things>,
        previous: Option<&String>,
        _: &mut Book,
    ) -> Option<Report<String>> {
        if settled.uncertain() && previous.is_some() {
            return None;
        }
        let word = if settled.actual.known(key).is_some() { "ready" } else { "not yet" };
        let initialised = settled.actual.known(key).map(|()| key.to_string()).into_iter().collect();
        let status = format!("{word} {}", wanted.want);
        Some(Report { status, recheck: None, initialised, gone: BTreeSet::new() })
    }

    fn obscure(&self, _: &u32, _: &Fault) -> bool {
        !self.0.plain.load(Ordering::SeqCst)
    }

    fn component_of(&self, id: &u32) -> u32 {
        *id
    }

    fn record_of(&self, id: &u32) -> Option<String> {
        Some(id.to_string())
    }

    async fn prepare(&self) -> Result<(), Fault> {
        Ok(())
    }
}

/// A data plane that answers as long as it is up.
#[derive(Clone)]
struct Line(Arc<watch::Sender<Link>>);

impl Rpc for Line {
    async fn call<C: Call>(&self, _: C) -> Result<C::Reply, Error> {
        if self.0.borrow().up {
            return Err(Error::rpc(C::METHOD, -32601, "Method not found"));
        }
        let source = std::io::Error::from(std::io::ErrorKind::ConnectionRefused);
        Err(Error::Transport { method: C::METHOD, endpoint: "toy".into(), source })
    }
}

impl Target for Line {
    fn link(&self) -> watch::Receiver<Link> {
        self.0.subscribe()
    }
}

struct Scene {
    node: Arc<Node>,
    line: Line,
    agent: Agent<Toy, Line>,
    shutdown: CancellationToken,
    _dir: tempfile::TempDir,
}

impl Scene {
    fn start(options: AgentOptions) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let ledger = Arc::new(Ledger::open(dir.path()).unwrap());
        let toy = Toy::default();
        let line = Line(Arc::new(watch::Sender::new(Link { epoch: 1, up: true })));
        let shutdown = CancellationToken::new();
        let agent = Agent::new(toy.clone(), line.clone(), ledger, options, shutdown.clone());
        let worker = agent.clone();
        tokio::spawn(async move { worker.run().await });
        Self { node: toy.0, line, agent, shutdown, _dir: dir }
    }

    async fn offer(&self, generation: u64, keys: &[u32]) -> Accepted {
        self.agent.accept(full(generation, keys)).await.unwrap()
    }

    /// Follows the agent until a component's status is this.
    async fn until(&self, key: u32, status: &str) {
        let mut feed = self.agent.observe();
        let reached = async {
            loop {
                match feed.next().await {
                    Ok(batch) if batch.statuses.iter().any(|(k, s)| *k == key && s == status) => return,
                    Ok(_) => {}
                    Err(FeedEnd::TooSlow) => feed = self.agent.observe(),
                    Err(FeedEnd::Stopping) => panic!("the agent stops"),
                }
            }
        };
        tokio::time::timeout(Duration::from_secs(60), reached).await.unwrap_or_else(|_| {
            panic!("{key} never {status}, it is {:?}", self.agent.status(&key));
        });
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        self.shutdown.cancel();
    }
}

fn full(generation: u64, keys: &[u32]) -> Offer<Toy> {
    let want = |key: &u32| (*key, Wanted { want: 1, revision: generation });
    Offer {
        node_id: "n1".into(),
        generation,
        full: true,
        base_generation: 0,
        wants: keys.iter().map(want).collect(),
        removed: BTreeSet::new(),
        retry: BTreeSet::new(),
        lists_all: |_| false,
    }
}

fn quick() -> AgentOptions {
    AgentOptions { resync_interval: Duration::from_millis(50), ..AgentOptions::default() }
}

#[tokio::test(start_paused = true)]
async fn what_is_wanted_is_made_and_what_is_not_goes() {
    let scene = Scene::start(quick());
    scene.node.there.lock().unwrap().insert(99);
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert!(
        scene.node.there.lock().unwrap().contains(&99),
        "before a full desired state nothing is a leftover"
    );
    scene.offer(5, &[1, 2]).await;
    scene.until(1, "ready 1").await;
    scene.until(2, "ready 1").await;
    let delta = Offer { full: false, base_generation: 5, removed: BTreeSet::from([2]), ..full(6, &[]) };
    assert_eq!(scene.agent.accept(delta).await.unwrap(), Accepted::Accepted { generation: 6 });
    let gone = async {
        while *scene.node.there.lock().unwrap() != BTreeSet::from([1]) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), gone).await.expect("2 and the leftover 99 go");
    scene.node.there.lock().unwrap().clear();
    let back = async {
        while !scene.node.there.lock().unwrap().contains(&1) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), back).await.expect("what somebody took away is made again");
}

#[tokio::test(flavor = "multi_thread")]
async fn generations_go_up_only_and_deltas_need_their_base() {
    let scene = Scene::start(quick());
    assert_eq!(scene.offer(5, &[1]).await, Accepted::Accepted { generation: 5 });
    assert_eq!(scene.offer(4, &[]).await, Accepted::Stale { accepted: 5 });
    let delta = |base| Offer { full: false, base_generation: base, ..full(7, &[2]) };
    assert_eq!(scene.agent.accept(delta(4)).await.unwrap(), Accepted::NeedFull { accepted: 5 });
    assert_eq!(scene.agent.accept(delta(5)).await.unwrap(), Accepted::Accepted { generation: 7 });
    scene.until(2, "ready 1").await;
    let other = Offer { node_id: "n2".into(), ..full(9, &[]) };
    assert_eq!(scene.agent.accept(other).await.unwrap(), Accepted::WrongNode { serves: "n1".into() });
    assert!(scene.agent.serves("n2").is_err() && scene.agent.serves("n1").is_ok());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_older_record_never_replaces_a_newer_one() {
    let scene = Scene::start(quick());
    let mut newer = full(5, &[1]);
    newer.wants.insert(1, Wanted { want: 7, revision: 50 });
    scene.agent.accept(newer).await.unwrap();
    scene.until(1, "ready 7").await;
    let mut older = full(6, &[1]);
    older.wants.insert(1, Wanted { want: 3, revision: 40 });
    scene.agent.accept(older).await.unwrap();
    scene.until(1, "ready 7").await;
}

#[tokio::test(start_paused = true)]
async fn a_failure_is_retried_with_growing_pauses_and_at_once_on_demand() {
    let scene = Scene::start(AgentOptions {
        min_backoff: Duration::from_millis(10),
        max_backoff: Duration::from_secs(60),
        resync_interval: Duration::from_secs(60),
        ..AgentOptions::default()
    });
    scene.node.refused.lock().unwrap().insert(1);
    scene.offer(5, &[1]).await;
    scene.until(1, "not yet 1").await;
    tokio::time::sleep(Duration::from_millis(400)).await;
    let tries = scene.node.calls.lock().unwrap().len();
    assert!((3..=8).contains(&tries), "10, 20, 40, … ms: {tries}");
    scene.node.refused.lock().unwrap().clear();
    let retry = Offer { full: false, base_generation: 5, retry: BTreeSet::from([1]), ..full(5, &[]) };
    let started = Instant::now();
    scene.agent.accept(retry).await.unwrap();
    scene.until(1, "ready 1").await;
    assert!(started.elapsed() < Duration::from_millis(200), "{:?}", started.elapsed());
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_seen_is_left_alone_and_not_reported() {
    let scene = Scene::start(quick());
    scene.offer(5, &[1]).await;
    scene.until(1, "ready 1").await;
    let calls = scene.node.calls.lock().unwrap().len();
    scene.line.0.send_modify(|link| link.up = false);
    scene.node.there.lock().unwrap().clear();
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(scene.agent.status(&1).as_deref(), Some("ready 1"), "the last report stands");
    assert_eq!(scene.node.calls.lock().unwrap().len(), calls);
    let failed = vda_proto::v1::Condition::Failed;
    assert_eq!(scene.agent.node().target.condition(), failed);
    scene.line.0.send_modify(|link| *link = Link { epoch: 2, up: true });
    let back = async {
        while !scene.node.there.lock().unwrap().contains(&1) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), back)
        .await
        .expect("it is made again by the new data plane");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_listener_is_dropped_and_others_go_on() {
    let scene = Scene::start(AgentOptions { feed_capacity: 16, ..quick() });
    let mut slow = scene.agent.observe();
    assert!(slow.next().await.unwrap().complete);
    let keys: Vec<u32> = (0..200).collect();
    scene.offer(5, &keys).await;
    for key in &keys {
        scene.until(*key, "ready 1").await;
    }
    let end = loop {
        if let Err(end) = slow.next().await {
            break end;
        }
    };
    assert_eq!(end, FeedEnd::TooSlow);
    let mut again = scene.agent.observe();
    let first = again.next().await.unwrap();
    assert_eq!(first.statuses.len(), 200, "everything, at once");
}

#[tokio::test(start_paused = true)]
async fn a_silent_node_still_beats() {
    let scene = Scene::start(AgentOptions::default());
    let mut feed = scene.agent.observe();
    assert!(feed.next().await.unwrap().complete);
    let started = Instant::now();
    loop {
        let batch = feed.next().await.unwrap();
        if batch.node.is_none() && batch.statuses.is_empty() {
            break;
        }
    }
    assert!(started.elapsed() <= Duration::from_millis(2500));
    scene.shutdown.cancel();
    assert_eq!(feed.next().await.err(), Some(FeedEnd::Stopping));
}

#[tokio::test(start_paused = true)]
async fn only_an_obscure_failure_has_the_node_looked_at_thoroughly() {
    for plain in [false, true] {
        // No look at everything in between, which would count too.
        let scene = Scene::start(AgentOptions {
            resync_interval: Duration::from_secs(3600),
            ..AgentOptions::default()
        });
        scene.node.plain.store(plain, Ordering::SeqCst);
        scene.node.refused.lock().unwrap().insert(1);
        scene.offer(10, &[1]).await;
        while scene.node.calls.lock().unwrap().len() < 3 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let looks = scene.node.looks.lock().unwrap().clone();
        assert_eq!(looks.contains(&Depth::Thorough), !plain, "{looks:?}");
        assert_eq!(looks[0], Depth::Usual);
        scene.shutdown.cancel();
    }
}
