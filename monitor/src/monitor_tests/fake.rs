//! Agents in this process, with real gRPC in between. They are strict: a Sync that breaks the contract is a violation, as is whatever would
//! have cost data.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use futures::stream::BoxStream;
use tokio::sync::watch;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status};
use vda_proto::v1::cn_agent_server::{CnAgent, CnAgentServer};
use vda_proto::v1::dn_agent_server::{DnAgent, DnAgentServer};
use vda_proto::v1::sync_reply::Outcome;
use vda_proto::v1::*;

use super::ready;

pub(super) const CLUSTER: u64 = 4 << 20;
pub(super) const PD_BYTES: u64 = 1 << 30;

/// The cables: which VDs are exported, and to which controllers they are attached.
#[derive(Debug, Default)]
pub(super) struct World {
    pub(super) exported: BTreeSet<String>,
    /// Under which name a VD was exported last. A mirrored one's ends with the boot of its node.
    pub(super) names: BTreeMap<String, String>,
    pub(super) attached: BTreeMap<String, String>,
    pub(super) violations: Vec<String>,
}

pub(super) type SharedWorld = Arc<Mutex<World>>;

#[derive(Debug, Default)]
struct State {
    node_id: String,
    /// Survives a kill.
    generation: u64,
    /// Accepted in this life.
    accepted: Option<u64>,
    alive: bool,
    /// How often the node was started.
    boot: u64,
    syncs: Vec<bool>,
    in_flight: u32,
    shares: BTreeMap<String, ShareSync>,
    pds: Vec<PdSync>,
    cntlrs: BTreeMap<String, CntlrSync>,
    node_cn: Option<CnSpec>,
    /// Arrays whose leg was assembled once: on the agent's disk.
    initialised: BTreeSet<String>,
    /// Members of assembled legs that are in sync: lost with the data plane.
    assembled: BTreeMap<String, BTreeSet<String>>,
    /// What a controller tells: settled by `work`.
    cntlr_status: BTreeMap<String, CntlrStatus>,
}

/// One agent with its data plane.
#[derive(Clone)]
pub(super) struct FakeAgent {
    state: Arc<Mutex<State>>,
    world: SharedWorld,
    /// Raised at every change, so that streams look again.
    changed: Arc<watch::Sender<u64>>,
    pub(super) address: String,
}

impl FakeAgent {
    pub(super) async fn start(dn: bool, world: SharedWorld) -> Self {
        let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let state = Arc::new(Mutex::new(State { alive: true, ..State::default() }));
        let agent = Self { state, world, changed: Arc::new(watch::Sender::new(0)), address };
        let mut server = tonic::transport::Server::builder();
        let incoming = TcpListenerStream::new(listener);
        if dn {
            let service = server.add_service(DnAgentServer::new(agent.clone()));
            tokio::spawn(service.serve_with_incoming(incoming));
        } else {
            let service = server.add_service(CnAgentServer::new(agent.clone()));
            tokio::spawn(service.serve_with_incoming(incoming));
        }
        agent
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    fn world(&self) -> MutexGuard<'_, World> {
        self.world.lock().unwrap()
    }

    fn notify(&self) {
        self.changed.send_modify(|n| *n += 1);
    }

    /// The process is gone, the data plane goes on. The generation is on its disk, what it was told is not.
    pub(super) fn kill(&self) {
        let mut state = self.state();
        (state.alive, state.accepted, state.in_flight) = (false, None, 0);
        state.shares.clear();
        state.pds.clear();
        state.cntlrs.clear();
        state.cntlr_status.clear();
        drop(state);
        self.notify();
    }

    pub(super) fn restart(&self) {
        self.state().alive = true;
        self.notify();
    }

    /// The node of a DN is started anew.
    pub(super) fn reboot(&self) {
        let mut state = self.state();
        state.boot += 1;
        let das: Vec<String> = state.shares.keys().cloned().collect();
        for da in das {
            self.work_share(&mut state, &da);
        }
        drop(state);
        self.notify();
    }

    /// The data plane of a CN lost its memory, and the agent works again.
    pub(super) fn restart_target(&self) {
        let mut state = self.state();
        state.assembled.clear();
        let das: Vec<String> = state.cntlrs.keys().cloned().collect();
        for da in das {
            self.work_cntlr(&mut state, &da);
        }
        drop(state);
        self.notify();
    }

    /// A member of an assembled leg is lost at run time.
    pub(super) fn lose_member(&self, da: &str, vd: &str) {
        let mut state = self.state();
        if let Some(members) = state.assembled.get_mut(da) {
            members.remove(vd);
        }
        self.work_cntlr(&mut state, da);
        drop(state);
        self.notify();
    }

    /// How many Syncs were full, and how many there were.
    pub(super) fn syncs(&self) -> (usize, usize) {
        let state = self.state();
        (state.syncs.iter().filter(|full| **full).count(), state.syncs.len())
    }

    /// Until a controller was told this name of a VD.
    pub(super) async fn until_told(&self, da: &str, vd: &str, nqn: &str) {
        let mut changed = self.changed.subscribe();
        let told = || {
            let cntlr = self.state().cntlrs.get(da).and_then(|c| c.spec.clone()).unwrap_or_default();
            let sets = cntlr.legs.iter().flat_map(|l| &l.groups).flat_map(|g| &g.sets);
            sets.flat_map(|s| &s.members).any(|m| m.vd_id == vd && m.nqn == nqn)
        };
        while !told() {
            changed.changed().await.unwrap();
        }
    }

    pub(super) fn holds(&self) -> usize {
        let state = self.state();
        state.shares.len() + state.cntlrs.len()
    }

    fn screen(
        &self,
        state: &mut State,
        node: &str,
        generation: u64,
        full: bool,
        base: u64,
    ) -> Option<SyncReply> {
        let reply = |outcome: Outcome, generation| SyncReply {
            outcome: outcome.into(),
            generation,
            message: String::new(),
        };
        if !state.node_id.is_empty() && state.node_id != node {
            let message = state.node_id.clone();
            return Some(SyncReply { outcome: Outcome::WrongNode.into(), generation: 0, message });
        }
        if generation < state.generation {
            return Some(reply(Outcome::Stale, state.generation));
        }
        if !full && state.accepted != Some(base) {
            return Some(reply(Outcome::NeedFull, state.generation));
        }
        node.clone_into(&mut state.node_id);
        (state.generation, state.accepted) = (generation, Some(generation));
        state.syncs.push(full);
        None
    }

    /// Waits a little, as a disk would make it, and gives up if it is killed meanwhile.
    async fn begin(&self) -> Result<(), Status> {
        if !self.state().alive {
            return Err(Status::unavailable("killed"));
        }
        self.state().in_flight += 1;
        tokio::time::sleep(Duration::from_millis(1)).await;
        let mut state = self.state();
        state.in_flight = state.in_flight.saturating_sub(1);
        if state.alive { Ok(()) } else { Err(Status::unavailable("killed")) }
    }

    fn work_share(&self, state: &mut State, da: &str) {
        let Some(share) = state.shares.get(da).and_then(|s| s.spec.clone()) else { return };
        let mut world = self.world();
        for vd in &share.vds {
            if !share.deleting {
                world.exported.insert(vd.vd_id.clone());
                let boot = if vd.mirrored { format!(":{:016x}", state.boot) } else { String::new() };
                world.names.insert(vd.vd_id.clone(), format!("nqn.2016-06.io.vda:vd:{}{boot}", vd.vd_id));
            } else if world.exported.remove(&vd.vd_id) && world.attached.contains_key(&vd.vd_id) {
                let what = format!("VD {} of DA {da} was removed under its controller", vd.vd_id);
                world.violations.push(what);
            }
        }
    }

    fn work_cntlr(&self, state: &mut State, da: &str) {
        let Some(told) = state.cntlrs.get(da).cloned() else { return };
        let spec = told.spec.clone().unwrap_or_default();
        let all = || spec.legs.iter().flat_map(|l| &l.groups).flat_map(|g| &g.sets).flat_map(|s| &s.members);
        let members: Vec<String> = all().map(|m| m.vd_id.clone()).collect();
        let mut status =
            CntlrStatus { da_id: da.to_owned(), observed_revision: told.revision, ..CntlrStatus::default() };
        let mut world = self.world();
        if spec.deleting {
            members.iter().for_each(|vd| _ = world.attached.remove(vd));
            state.assembled.remove(da);
            state.initialised.remove(da);
            status.gone = true;
        } else if !all().all(|m| world.exported.contains(&m.vd_id) && world.names[&m.vd_id] == m.nqn) {
            let on = "a member".to_owned();
            status.status = Some(ResourceStatus {
                condition: Condition::Blocked.into(),
                on,
                ..ResourceStatus::default()
            });
        } else {
            members.iter().for_each(|vd| _ = world.attached.insert(vd.clone(), da.to_owned()));
            self.assemble(state, &mut world, &told, &spec, &members, &mut status);
        }
        state.cntlr_status.insert(da.to_owned(), status);
    }

    fn assemble(
        &self,
        state: &mut State,
        world: &mut World,
        told: &CntlrSync,
        spec: &CntlrSpec,
        members: &[String],
        status: &mut CntlrStatus,
    ) {
        let da = &spec.da_id;
        let known = told.legs.first().filter(|l| l.initialised);
        let mut needs_election = false;
        if !state.assembled.contains_key(da) {
            match known {
                None if state.initialised.contains(da) => needs_election = true,
                None => {
                    state.initialised.insert(da.clone());
                    state.assembled.insert(da.clone(), members.iter().cloned().collect());
                }
                Some(leg) if leg.in_sync.len() > 1 => needs_election = true,
                Some(leg) => {
                    state.assembled.insert(da.clone(), leg.in_sync.iter().cloned().collect());
                    self.rebuild(da, members);
                }
            }
        }
        let in_sync = state.assembled.get(da).cloned().unwrap_or_default();
        let trusted =
            |leg: &LegState| in_sync.is_empty() || leg.in_sync.iter().any(|vd| in_sync.contains(vd));
        if known.is_some_and(|leg| !trusted(leg)) {
            world.violations.push(format!("DA {da} is served by members that were not in sync"));
        }
        let member = |vd: &String| MemberStatus {
            vd_id: vd.clone(),
            status: Some(ready()),
            in_sync: in_sync.contains(vd),
            rebuilt: false,
            rebuild_percent: 0,
            boot: String::new(),
        };
        let members = members.iter().map(member).collect();
        status.legs = vec![LegObserved { leg: 0, initialised: true, needs_election, members }];
        let condition = if needs_election { Condition::Blocked } else { Condition::Ready };
        status.status = Some(ResourceStatus { condition: condition.into(), ..ResourceStatus::default() });
        let exp = |e: &ExpSpec| ExpStatus {
            exp_id: e.exp_id.clone(),
            status: Some(ready()),
            ana_state: e.ana_state.clone(),
            gone: e.deleting,
        };
        status.exps = told.exps.iter().map(exp).collect();
    }

    fn rebuild(&self, da: &str, members: &[String]) {
        let (agent, da, members) = (self.clone(), da.to_owned(), members.to_vec());
        tokio::spawn(async move {
            tokio::time::sleep(Duration::from_millis(20)).await;
            let mut state = agent.state();
            if let Some(in_sync) = state.assembled.get_mut(&da) {
                in_sync.extend(members);
                agent.work_cntlr(&mut state, &da);
            }
            drop(state);
            agent.notify();
        });
    }

    fn stream<T: Send + 'static>(
        &self,
        take: impl Fn(&State, bool) -> T + Send + 'static,
    ) -> Result<BoxStream<'static, Result<T, Status>>, Status> {
        if !self.state().alive {
            return Err(Status::unavailable("killed"));
        }
        let (agent, mut changed, mut first) = (self.clone(), self.changed.subscribe(), true);
        Ok(Box::pin(futures::stream::unfold(Some(take), move |take| {
            let agent = agent.clone();
            let was_first = std::mem::replace(&mut first, false);
            let mut signal = changed.clone();
            changed.mark_unchanged();
            async move {
                let take = take?;
                if !was_first {
                    // A heartbeat at the latest.
                    tokio::time::timeout(Duration::from_millis(50), signal.changed()).await.ok();
                }
                let state = agent.state();
                if !state.alive {
                    return Some((Err(Status::unavailable("killed")), None));
                }
                let message = take(&state, was_first);
                drop(state);
                Some((Ok(message), Some(take)))
            }
        })))
    }
}

#[tonic::async_trait]
impl DnAgent for FakeAgent {
    async fn sync(&self, request: Request<DnSyncRequest>) -> Result<Response<SyncReply>, Status> {
        self.begin().await?;
        let request = request.into_inner();
        let node = request.node.clone().unwrap_or_default().dn_id;
        let mut state = self.state();
        if let Some(refusal) =
            self.screen(&mut state, &node, request.generation, request.full, request.base_generation)
        {
            return Ok(Response::new(refusal));
        }
        if request.full {
            state.shares.clear();
        }
        request.removed_da_ids.iter().for_each(|da| _ = state.shares.remove(da));
        state.pds = request.pds;
        for share in request.shares {
            let da = share.spec.clone().unwrap_or_default().da_id;
            state.shares.insert(da.clone(), share);
            self.work_share(&mut state, &da);
        }
        drop(state);
        self.notify();
        let outcome = Outcome::Accepted.into();
        Ok(Response::new(SyncReply { outcome, generation: request.generation, message: String::new() }))
    }

    type ObserveStream = BoxStream<'static, Result<DnObservation, Status>>;

    async fn observe(&self, _: Request<ObserveRequest>) -> Result<Response<Self::ObserveStream>, Status> {
        self.stream(|state, first| {
            let pd = |pd: &PdSync| {
                let spec = pd.spec.clone().unwrap_or_default();
                PdStatus {
                    pd_id: spec.pd_id,
                    status: Some(ready()),
                    initialised: true,
                    lvs_uuid: "u".into(),
                    cluster_bytes: CLUSTER,
                    total_bytes: PD_BYTES,
                    free_bytes: 0,
                    observed_revision: pd.revision,
                    gone: spec.deleting,
                }
            };
            let share = |share: &ShareSync| {
                let spec = share.spec.clone().unwrap_or_default();
                let vd = |vd: VdSpec| VdStatus {
                    vd_id: vd.vd_id,
                    status: Some(ready()),
                    initialised: true,
                    exported_to: vd.owner_nqn,
                };
                let vds = if spec.deleting { Vec::new() } else { spec.vds.into_iter().map(vd).collect() };
                let (da_id, gone, observed_revision) = (spec.da_id, spec.deleting, share.revision);
                ShareStatus { schema_version: 1, da_id, observed_revision, gone, vds }
            };
            DnObservation {
                complete: first,
                generation: state.generation,
                node: Some(DnStatus {
                    schema_version: 1,
                    dn_id: state.node_id.clone(),
                    observed_generation: state.generation,
                    agent: None,
                    target: Some(ready()),
                    pds: state.pds.iter().map(pd).collect(),
                    boot: format!("{:016x}", state.boot),
                }),
                shares: state.shares.values().map(share).collect(),
            }
        })
        .map(Response::new)
    }
}

#[tonic::async_trait]
impl CnAgent for FakeAgent {
    async fn sync(&self, request: Request<CnSyncRequest>) -> Result<Response<SyncReply>, Status> {
        self.begin().await?;
        let request = request.into_inner();
        let node = request.node.clone().unwrap_or_default().cn_id;
        let mut state = self.state();
        if let Some(refusal) =
            self.screen(&mut state, &node, request.generation, request.full, request.base_generation)
        {
            return Ok(Response::new(refusal));
        }
        state.node_cn = request.node;
        if request.full {
            state.cntlrs.clear();
            state.cntlr_status.clear();
        }
        for da in &request.removed_da_ids {
            state.cntlrs.remove(da);
            state.cntlr_status.remove(da);
        }
        let mut work: BTreeSet<String> = request.retry_da_ids.into_iter().collect();
        for cntlr in request.cntlrs {
            let da = cntlr.spec.clone().unwrap_or_default().da_id;
            if let Some(held) = state.cntlrs.get(&da)
                && cntlr.revision < held.revision
            {
                self.world()
                    .violations
                    .push(format!("DA {da}: revision went from {} to {}", held.revision, cntlr.revision));
            }
            work.insert(da.clone());
            state.cntlrs.insert(da, cntlr);
        }
        work.iter().for_each(|da| self.work_cntlr(&mut state, da));
        drop(state);
        self.notify();
        let outcome = Outcome::Accepted.into();
        Ok(Response::new(SyncReply { outcome, generation: request.generation, message: String::new() }))
    }

    type ObserveStream = BoxStream<'static, Result<CnObservation, Status>>;

    async fn observe(&self, _: Request<ObserveRequest>) -> Result<Response<Self::ObserveStream>, Status> {
        self.stream(|state, first| CnObservation {
            complete: first,
            generation: state.generation,
            node: Some(CnStatus {
                schema_version: 1,
                cn_id: state.node_id.clone(),
                observed_generation: state.generation,
                agent: None,
                target: Some(ready()),
            }),
            cntlrs: state.cntlr_status.values().cloned().collect(),
        })
        .map(Response::new)
    }
}
