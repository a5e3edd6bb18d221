//! Whole monitors on a store in memory, against strict agents in this process.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rand::seq::IndexedRandom;
use tokio_util::sync::CancellationToken;
use vda_model::allocator::{Placement, Slot};
use vda_model::ids::{CnId, CntlrId, DaId, DnId, ExpId, MonitorId, PdId, VdId};
use vda_model::keys::*;
use vda_model::requests::{NewDa, NewExp, NewNode, NewPd};
use vda_model::transitions::{cn, da, dn, exp, pd};
use vda_model::{Delta, Error};
use vda_proto::v1::{self, Condition, ResourceStatus};
use vda_store::{Abort, Changes, FlakyKv, Kv, MemKv, OrAbort, Snapshot, Store, Tx, WatchCache};
use vda_telemetry::Shutdown;

use crate::Config;
use crate::monitor::run_on;

#[path = "monitor_tests/fake.rs"]
mod fake;

use fake::{FakeAgent, PD_BYTES, SharedWorld, World};

fn ready() -> ResourceStatus {
    ResourceStatus { condition: Condition::Ready.into(), ..ResourceStatus::default() }
}

struct Cluster {
    node_timeout: Duration,
    mem: MemKv,
    flaky: FlakyKv,
    store: Store,
    cache: WatchCache,
    changes: Changes,
    world: SharedWorld,
    dns: Vec<(DnId, PdId, FakeAgent)>,
    cn: (CnId, FakeAgent),
    monitors: BTreeMap<u64, (Shutdown, tokio::task::JoinHandle<()>)>,
    _end: tokio_util::sync::DropGuard,
}

fn listener() -> v1::NvmfListener {
    v1::NvmfListener {
        trtype: "tcp".into(),
        adrfam: "ipv4".into(),
        traddr: "127.0.0.1".into(),
        trsvcid: "4420".into(),
    }
}

fn node(address: &str) -> NewNode {
    let (address, location) = (address.to_owned(), String::new());
    NewNode { address, listener: listener(), location, offline: false, max_cntlrs: 10_000 }
}

async fn commit(store: &Store, delta: Delta) {
    let delta = Arc::new(delta);
    let body = |tx: Tx| {
        let delta = delta.clone();
        async move {
            tx.apply(&delta);
            Ok::<_, Abort<Error>>(())
        }
    };
    store.stm("test", body).await.unwrap();
}

impl Cluster {
    /// Two DNs with a PD each, a CN and a monitor, which soon gives up a node that is silent.
    async fn start() -> Self {
        Self::with_node_timeout(Duration::from_millis(300)).await
    }

    async fn with_node_timeout(node_timeout: Duration) -> Self {
        let mem = MemKv::new();
        let flaky = FlakyKv::new(Arc::new(mem.clone()));
        let store = Store::new(Arc::new(mem.clone()), Prefix::default());
        let end = CancellationToken::new();
        let cache = WatchCache::start(&store, vec![Scope::All], end.clone());
        let changes = cache.subscribe();
        assert!(cache.filled().await);
        let world: SharedWorld = Arc::new(Mutex::new(World::default()));
        let cn_agent = FakeAgent::start(false, world.clone()).await;
        let cn_id = CnId::new(0xc1);
        commit(&store, cn::create(None, &node(&cn_agent.address), cn_id, 1).unwrap()).await;
        let mut dns = Vec::new();
        for n in 1..=2_u64 {
            let (agent, dn_id, pd_id) =
                (FakeAgent::start(true, world.clone()).await, DnId::new(0xd0 + n), PdId::new(n));
            commit(&store, dn::create(None, &node(&agent.address), dn_id, 1).unwrap()).await;
            let spec = store.get(&DnSpecKey(dn_id)).await.unwrap().unwrap().value;
            let capacity = store.get(&DnCapacityKey(dn_id)).await.unwrap().unwrap().value;
            let view = pd::CreateView { dn: dn_id, spec: &spec, capacity: &capacity, pds: &[] };
            let kind = v1::pd_backend::Kind::Malloc(v1::MallocBackend { size_bytes: PD_BYTES });
            let new = NewPd {
                dn_address: agent.address.clone(),
                pd_name: "pd0".into(),
                backend: v1::PdBackend { kind: Some(kind) },
                offline: false,
                qos_budget: v1::Qos::default(),
            };
            commit(&store, pd::create(view, &new, pd_id, 1).unwrap()).await;
            dns.push((dn_id, pd_id, agent));
        }
        let (cn, monitors, _end) = ((cn_id, cn_agent), BTreeMap::new(), end.drop_guard());
        let mut cluster =
            Self { node_timeout, mem, flaky, store, cache, changes, world, dns, cn, monitors, _end };
        cluster.start_monitor(1);
        cluster
    }

    fn start_monitor(&mut self, id: u64) {
        let config = Config {
            etcd: vda_store::EtcdConfig::new("unused:0"),
            prefix: Prefix::default(),
            id: MonitorId::new(id),
            member_ttl_s: 5,
            node_timeout: self.node_timeout,
        };
        let (shutdown, kv) = (Shutdown::new(), Arc::new(self.flaky.clone()) as Arc<dyn Kv>);
        let own = shutdown.clone();
        let task = tokio::spawn(async move { run_on(kv, &config, &own).await });
        self.monitors.insert(id, (shutdown, task));
    }

    /// As SIGKILL: whatever it was doing ends in the middle. (Its membership ends too: the clock of leases stands still here.)
    async fn kill_monitor(&mut self, id: u64) {
        if let Some((shutdown, task)) = self.monitors.remove(&id) {
            shutdown.trigger();
            task.await.unwrap();
        }
    }

    /// Waits until `condition` holds in etcd.
    async fn until(&mut self, what: &str, condition: impl Fn(&Snapshot) -> bool) {
        let cache = self.cache.clone();
        // All that has been committed is to be seen.
        let newest = self.mem.range(vda_store::RangeRequest::key("/")).await.unwrap().revision;
        let wait = async {
            assert!(cache.reached(newest).await);
            while !cache.read(&condition) {
                self.changes.next().await.unwrap();
            }
        };
        if tokio::time::timeout(Duration::from_secs(60), wait).await.is_err() {
            let keys: Vec<String> = self.mem.dump().into_keys().collect();
            panic!("{what}: not within 60 s; etcd has {keys:#?}");
        }
    }

    async fn pds_usable(&mut self) {
        let dns: Vec<DnId> = self.dns.iter().map(|d| d.0).collect();
        self.until("PDs are sized", |s| {
            dns.iter()
                .all(|dn| s.get(&DnCapacityKey(*dn)).unwrap().unwrap().value.pds[0].total_bytes == PD_BYTES)
        })
        .await;
    }

    async fn create(&self, n: u64) {
        let placement = Placement {
            sets: vec![self.dns.iter().map(|(dn, pd, _)| Slot { dn: *dn, pd: *pd }).collect()],
            cn: self.cn.0,
        };
        let ids = da::Ids {
            da: DaId::new(n),
            cntlr: CntlrId::new(n),
            vds: vec![VdId::new(n * 10), VdId::new(n * 10 + 1)],
            volume_uuid: format!("00000000-0000-0000-0000-{n:012x}"),
        };
        let new = NewDa {
            da_name: format!("da{n}"),
            size_bytes: 4 << 20,
            physical_min_bytes: 0,
            stripes: 1,
            strip_size_kib: 64,
            replicas: 2,
            qos: v1::Qos::default(),
        };
        let shared = Arc::new((placement, ids, new, self.cn.0));
        let body = |tx: Tx| {
            let shared = shared.clone();
            async move {
                let (placement, ids, new, cn) = &*shared;
                let mut dns = BTreeMap::new();
                for slot in &placement.sets[0] {
                    let capacity = tx.get(&DnCapacityKey(slot.dn)).await?.map(|c| c.value);
                    dns.insert(slot.dn, da::Place { capacity, listener: listener() });
                }
                let capacity = tx.get(&CnCapacityKey(*cn)).await?.map(|c| c.value);
                let cn = da::Place { capacity, listener: listener() };
                let view = da::CreateView { taken: None, dns: &dns, cn: &cn };
                let (delta, _) = da::create(view, new, placement, ids, 1).or_abort()?;
                tx.apply(&delta);
                Ok::<_, Abort<Error>>(())
            }
        };
        self.store.stm("create", body).await.unwrap();
    }

    async fn delete(&self, n: u64) {
        let dns: Vec<DnId> = self.dns.iter().map(|d| d.0).collect();
        let shared = Arc::new((dns, self.cn.0, format!("da{n}")));
        let body = |tx: Tx| {
            let shared = shared.clone();
            async move {
                let (ids, cn, name) = &*shared;
                let record = tx.get(&DaKey(name.clone())).await?.expect("it exists");
                let mut dns = BTreeMap::new();
                for dn in ids {
                    dns.insert(*dn, tx.get(&DnCapacityKey(*dn)).await?.expect("it exists").value);
                }
                let cns = [(*cn, tx.get(&CnCapacityKey(*cn)).await?.expect("it exists").value)].into();
                let delta =
                    da::delete(da::View { record: &record, dns: &dns, cns: &cns }, 0, 2).or_abort()?;
                tx.apply(&delta);
                Ok::<_, Abort<Error>>(())
            }
        };
        self.store.stm("delete", body).await.unwrap();
    }

    async fn da_ready(&mut self, n: u64) {
        let cn = self.cn.0;
        self.until(&format!("DA {n} is ready"), |s| is_ready(s, cn, n)).await;
    }

    async fn in_sync(&mut self, n: u64, count: usize) {
        self.until(&format!("{count} members of DA {n} in sync"), |s| {
            leg(s, n).is_some_and(|l| l.in_sync.len() == count)
        })
        .await;
    }

    async fn all_gone(&mut self) {
        self.until("every trace of every DA is gone", |s| {
            s.iter().all(|(key, _)| {
                !matches!(
                    key,
                    AnyKey::DnShare(..)
                        | AnyKey::CntlrSpec(..)
                        | AnyKey::ExpSpec(..)
                        | AnyKey::LegState(..)
                        | AnyKey::DaTombstone(_)
                        | AnyKey::ShareStatus(..)
                        | AnyKey::CntlrStatus(..)
                )
            })
        })
        .await;
    }

    /// What must hold whenever nothing is being changed.
    fn check(&self) {
        let mut snapshot = vda_model::snapshot::Snapshot::default();
        for (path, kv) in self.mem.dump() {
            snapshot.insert(&Prefix::default(), &path, kv.value.to_vec(), kv.mod_revision);
        }
        assert_eq!(vda_model::check::check(&snapshot), []);
        assert_eq!(self.world.lock().unwrap().violations, Vec::<String>::new());
    }

    async fn no_traces(&mut self) {
        self.all_gone().await;
        self.check();
        for dn in self.dns.iter().map(|d| d.0) {
            let pd = &self.store.get(&DnCapacityKey(dn)).await.unwrap().unwrap().value.pds[0];
            assert_eq!((pd.used_bytes, pd.live_vds, pd.deleting_vds), (0, 0, 0));
        }
        assert!(self.world.lock().unwrap().exported.is_empty());
    }
}

fn leg(s: &Snapshot, n: u64) -> Option<v1::LegState> {
    s.get(&LegStateKey(DaId::new(n), 0)).unwrap().map(|l| l.value)
}

fn is_ready(s: &Snapshot, cn: CnId, n: u64) -> bool {
    let status = s.get(&CntlrStatusKey(cn, DaId::new(n))).unwrap().map(|c| c.value);
    status.is_some_and(|c| c.status.is_some_and(|c| c.condition() == Condition::Ready))
        && leg(s, n).is_some_and(|l| l.initialised)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_whole_life_of_a_cluster() {
    let mut c = Cluster::start().await;
    c.pds_usable().await;
    c.create(1).await;
    c.da_ready(1).await;
    c.in_sync(1, 2).await;
    c.check();
    c.delete(1).await;
    c.no_traces().await;

    let (dn_id, pd_id) = (c.dns[0].0, c.dns[0].1);
    let spec = c.store.get(&PdSpecKey(dn_id, pd_id)).await.unwrap().unwrap();
    let capacity = c.store.get(&DnCapacityKey(dn_id)).await.unwrap().unwrap().value;
    let view = pd::View { dn: dn_id, pd: pd_id, spec: &spec, capacity: &capacity };
    commit(&c.store, pd::delete(view, 0).unwrap()).await;
    c.until("the PD is gone", |s| s.get(&PdSpecKey(dn_id, pd_id)).unwrap().is_none()).await;

    let spec = c.store.get(&DnSpecKey(dn_id)).await.unwrap().unwrap();
    let capacity = c.store.get(&DnCapacityKey(dn_id)).await.unwrap().unwrap().value;
    let status = c.store.get(&DnStatusKey(dn_id)).await.unwrap().map(|s| s.value);
    assert!(status.as_ref().is_some_and(|s| s.observed_generation > 0 && s.pds.is_empty()));
    let view = dn::View { dn: dn_id, spec: &spec, capacity: &capacity };
    commit(&c.store, dn::delete(view, &[], status.as_ref(), 0).unwrap()).await;
    c.until("the DN is gone", |s| s.iter().all(|(key, _)| !key.to_string().contains(&dn_id.to_string())))
        .await;

    let cn_id = c.cn.0;
    let spec = c.store.get(&CnSpecKey(cn_id)).await.unwrap().unwrap();
    let capacity = c.store.get(&CnCapacityKey(cn_id)).await.unwrap().unwrap().value;
    let status = c.store.get(&CnStatusKey(cn_id)).await.unwrap().map(|s| s.value);
    let view = cn::View { cn: cn_id, spec: &spec, capacity: &capacity };
    commit(&c.store, cn::delete(view, status.as_ref(), 0).unwrap()).await;
    c.until("the CN is gone", |s| s.iter().all(|(key, _)| !key.to_string().contains(&cn_id.to_string())))
        .await;
    c.check();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn changes_are_told_as_changes() {
    // Whoever is given up is told everything again; a busy machine can be silent for long.
    let mut c = Cluster::with_node_timeout(Duration::from_secs(60)).await;
    c.pds_usable().await;
    for n in 1..=20 {
        c.create(n).await;
        c.da_ready(n).await;
    }
    for agent in c.dns.iter().map(|d| &d.2).chain([&c.cn.1]) {
        let (full, all) = agent.syncs();
        assert!(full <= 2 && all >= 15, "{full} of {all} were full");
    }
    for n in 1..=20 {
        c.delete(n).await;
    }
    c.no_traces().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_is_away_is_named_and_its_tombstones_complete_when_it_returns() {
    let mut c = Cluster::start().await;
    c.pds_usable().await;
    c.create(1).await;
    c.da_ready(1).await;
    let (dn_id, agent) = (c.dns[0].0, c.dns[0].2.clone());
    agent.kill();
    c.until("the DN is unreachable", |s| {
        let status = s.get(&DnStatusKey(dn_id)).unwrap().unwrap().value.agent.unwrap_or_default();
        status.condition() == Condition::Failed && status.message.contains("agent unreachable")
    })
    .await;
    let written = c.store.get(&DnStatusKey(dn_id)).await.unwrap().unwrap().revision;
    c.delete(1).await;
    let cn_id = c.cn.0;
    c.until("the CN has let go, the other DN is done", |s| {
        s.get(&CntlrSpecKey(cn_id, DaId::new(1))).unwrap().is_none()
            && s.get(&DaTombstoneKey(DaId::new(1))).unwrap().unwrap().value.dn_ids == [dn_id.to_string()]
    })
    .await;
    assert_eq!(c.store.get(&DnStatusKey(dn_id)).await.unwrap().unwrap().revision, written, "told once");
    let pd = &c.store.get(&DnCapacityKey(dn_id)).await.unwrap().unwrap().value.pds[0];
    assert!(pd.used_bytes > 0 && pd.deleting_vds == 1, "the space is held until the DN confirms");
    agent.restart();
    c.no_traces().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deletion_does_not_wait_for_a_dead_controller() {
    let mut c = Cluster::start().await;
    c.pds_usable().await;
    c.create(1).await;
    c.da_ready(1).await;
    // The controller died with its data plane: nothing is attached any more.
    c.cn.1.kill();
    c.world.lock().unwrap().attached.clear();
    c.delete(1).await;
    c.until("the DNs are done", |s| {
        s.get(&DaTombstoneKey(DaId::new(1))).unwrap().unwrap().value.dn_ids.is_empty()
    })
    .await;
    c.cn.1.restart();
    c.no_traces().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_exp_ends_when_its_controller_says_so() {
    let mut c = Cluster::start().await;
    c.pds_usable().await;
    c.create(1).await;
    c.da_ready(1).await;
    let record = c.store.get(&DaKey("da1".into())).await.unwrap().unwrap();
    let new = NewExp {
        da_name: "da1".into(),
        exp_name: "exp0".into(),
        initiator_nqns: vec!["nqn.2016-06.io.spdk:host0".into()],
    };
    let exp_id = ExpId::new(5);
    commit(&c.store, exp::create(&record, &new, exp_id, 1).unwrap().0).await;
    let (cn_id, da_id) = (c.cn.0, DaId::new(1));
    c.until("the EXP is served", |s| {
        s.get(&CntlrStatusKey(cn_id, da_id)).unwrap().is_some_and(|c| c.value.exps.len() == 1)
    })
    .await;
    let spec = c.store.get(&ExpSpecKey(cn_id, da_id, exp_id)).await.unwrap().unwrap().value;
    let mut record = c.store.get(&DaKey("da1".into())).await.unwrap().unwrap().value;
    record.exps.clear();
    let mut delta = Delta::default();
    delta.put(ExpSpecKey(cn_id, da_id, exp_id), v1::ExpSpec { deleting: true, ..spec });
    delta.put(DaKey("da1".into()), record);
    commit(&c.store, delta).await;
    c.until("the EXP is gone, and the agent knows", |s| {
        let told = s.get(&CntlrStatusKey(cn_id, da_id)).unwrap().unwrap().value;
        s.get(&ExpSpecKey(cn_id, da_id, exp_id)).unwrap().is_none()
            && told.exps.is_empty()
            && told.observed_revision >= s.revision_of(&CntlrSpecKey(cn_id, da_id).any())
    })
    .await;
    c.delete(1).await;
    c.no_traces().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restarted_controller_is_assembled_from_one_elected_member() {
    let mut c = Cluster::start().await;
    c.pds_usable().await;
    c.create(1).await;
    c.da_ready(1).await;
    c.in_sync(1, 2).await;
    let before = c.cache.read(|s| s.revision_of(&LegStateKey(DaId::new(1), 0).any()));
    c.cn.1.restart_target();
    c.until("elected and rebuilt", |s| {
        s.revision_of(&LegStateKey(DaId::new(1), 0).any()) > before && leg(s, 1).unwrap().in_sync.len() == 2
    })
    .await;
    c.check();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_lost_at_run_time_is_never_read_from_again_until_rebuilt() {
    let mut c = Cluster::start().await;
    c.pds_usable().await;
    c.create(1).await;
    c.in_sync(1, 2).await;
    let lost = VdId::new(10).to_string();
    c.cn.1.lose_member(&DaId::new(1).to_string(), &lost);
    c.in_sync(1, 1).await;
    assert!(!c.cache.read(|s| leg(s, 1).unwrap()).in_sync.contains(&lost));
    // With exactly one left no election is needed: it is assembled from that one, and the other rebuilt.
    c.cn.1.restart_target();
    c.in_sync(1, 2).await;
    c.check();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_controller_is_told_the_new_names_of_a_node_that_was_started_anew() {
    let mut c = Cluster::start().await;
    c.pds_usable().await;
    c.create(1).await;
    c.da_ready(1).await;
    let (dn, agent) = (c.dns[1].0, c.dns[1].2.clone());
    let booted = c.cache.read(|s| s.revision_of(&DnBootKey(dn).any()));
    assert!(booted > 0);
    // A restart of the agent alone is nothing to the controller, and is not written.
    agent.kill();
    c.until("the agent is missed", |s| !dn_is_up(s, dn)).await;
    agent.restart();
    c.until("the agent is back", |s| dn_is_up(s, dn)).await;
    assert_eq!(c.cache.read(|s| s.revision_of(&DnBootKey(dn).any())), booted);
    agent.reboot();
    c.until("the boot is recorded", |s| s.revision_of(&DnBootKey(dn).any()) > booted).await;
    let (da, vd) = (DaId::new(1).to_string(), VdId::new(11).to_string());
    let name = format!("nqn.2016-06.io.vda:vd:{vd}:0000000000000001");
    let told = c.cn.1.until_told(&da, &vd, &name);
    tokio::time::timeout(Duration::from_secs(60), told).await.expect("the controller is told");
    // A monitor that was late records what was true before: the one that is connected puts it right.
    let record = v1::BootRecord { schema_version: 1, dn_id: dn.into(), boot: "0".repeat(16) };
    let mut late = Delta::default();
    late.put(DnBootKey(dn), record);
    let wrong = c.cache.read(|s| s.revision_of(&DnBootKey(dn).any()));
    commit(&c.store, late).await;
    c.until("it is put right", |s| {
        let boot = s.get(&DnBootKey(dn)).unwrap().unwrap();
        boot.revision > wrong + 1 && boot.value.boot.ends_with('1')
    })
    .await;
    c.da_ready(1).await;
    c.delete(1).await;
    c.no_traces().await;
}

fn dn_is_up(snapshot: &Snapshot, dn: DnId) -> bool {
    let status = snapshot.get(&DnStatusKey(dn)).unwrap().and_then(|d| d.value.agent).unwrap_or_default();
    status.condition() == Condition::Ready
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn etcd_lost_in_mid_run_changes_nothing_and_comes_back() {
    let mut c = Cluster::start().await;
    c.pds_usable().await;
    c.create(1).await;
    c.da_ready(1).await;
    c.flaky.set_down(true);
    // Written by somebody whose etcd is there.
    c.create(2).await;
    c.cn.1.restart_target();
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert!(c.cn.1.holds() >= 1, "agents keep what they have");
    c.flaky.set_down(false);
    c.da_ready(2).await;
    c.in_sync(1, 2).await;
    c.delete(1).await;
    c.delete(2).await;
    c.no_traces().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_of_another_node_is_refused_by_name() {
    let mut c = Cluster::start().await;
    c.pds_usable().await;
    // The same agent, registered as a second DN.
    let (twin, address) = (DnId::new(99), c.dns[0].2.address.clone());
    let mut delta = dn::create(None, &node(&address), twin, 1).unwrap();
    let spec = v1::DnSpec {
        schema_version: 1,
        dn_id: twin.to_string(),
        address: format!("localhost:{}", &address[10..]),
        ..v1::DnSpec::default()
    };
    delta.put(DnSpecKey(twin), spec);
    commit(&c.store, delta).await;
    c.until("it says whose agent it is", |s| {
        let status = s.get(&DnStatusKey(twin)).unwrap().and_then(|d| d.value.agent).unwrap_or_default();
        status.condition() == Condition::Failed && status.message.contains("another node")
    })
    .await;
}

/// Monitors, agents and etcd's answers fail at random while arrays come and go; in the end desired equals actual.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everything_is_killed_at_random_and_nothing_is_orphaned() {
    let mut c = Cluster::start().await;
    c.pds_usable().await;
    c.start_monitor(2);
    let mut n = 0_u32;
    c.flaky.script(move |_| {
        n += 1;
        match n % 11 {
            3 => vda_store::Fault::ReplyLost,
            5 => vda_store::Fault::RequestLost,
            8 => vda_store::Fault::Late(Duration::from_millis(7)),
            10 => vda_store::Fault::Unavailable,
            _ => vda_store::Fault::None,
        }
    });
    let agents: Vec<FakeAgent> = c.dns.iter().map(|d| d.2.clone()).chain([c.cn.1.clone()]).collect();
    for round in 1..=40_u64 {
        c.create(round).await;
        match rand::random_range(0..7) {
            0 => {
                let agent = agents.choose(&mut rand::rng()).unwrap();
                agent.kill();
                tokio::time::sleep(Duration::from_millis(rand::random_range(0..30))).await;
                agent.restart();
            }
            1 => {
                let id = rand::random_range(1..=2);
                c.kill_monitor(id).await;
                c.start_monitor(id);
            }
            2 => c.cn.1.restart_target(),
            3 => c.da_ready(round).await,
            4 => {
                c.flaky.set_down(true);
                tokio::time::sleep(Duration::from_millis(20)).await;
                c.flaky.set_down(false);
            }
            5 => c.dns.choose(&mut rand::rng()).unwrap().2.reboot(),
            _ => {}
        }
        if round > 3 {
            c.delete(round - 3).await;
        }
    }
    for n in 38..=40 {
        c.da_ready(n).await;
        c.delete(n).await;
    }
    c.no_traces().await;
}
