//! `Watch`: the observed state of one resource, at once and at each change, until what was asked for is met.

use std::pin::Pin;

use futures::Stream;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;
use vda_model::{
    Error, Violation,
    ids::{CnId, DaId, DnId, ExpId, PdId},
    keys::*,
    names::{check_node_address, check_user_name},
    transitions::{derived, exp},
    view,
};
use vda_proto::v1::{self, Condition, resource_ref, watch_request::Until};

use crate::{
    hub::{Follower, Topic},
    server::Portal,
    status,
};

/// What `Watch` answers.
pub(crate) type Replies = Pin<Box<dyn Stream<Item = Result<v1::WatchReply, Status>> + Send>>;

/// A followed resource, named as users do.
#[derive(Debug, Clone)]
enum Target {
    Dn(String),
    Pd(String, String),
    Cn(String),
    Da(String),
    Exp(String, String),
}

fn invalid(field: &str, value: &str, allowed: &str) -> Status {
    status::refused(&Error::Invalid(vec![Violation::new(field, value, allowed)]))
}

impl Target {
    fn parse(resource: Option<&v1::ResourceRef>) -> Result<Self, Status> {
        let Some(resource) = resource else {
            return Err(invalid("resource", "", "must be given"));
        };
        let name = &resource.name;
        let bad =
            || invalid("resource.name", name, "address, <address>/<pd>, <da> or <da>/<exp>, as the kind is");
        let address =
            |a: &str| check_node_address("resource.name", a).map(|()| a.to_owned()).map_err(|_| bad());
        let user = |n: &str| check_user_name("resource.name", n).map(|()| n.to_owned()).map_err(|_| bad());
        match resource.kind() {
            resource_ref::Kind::Dn => address(name).map(Self::Dn),
            resource_ref::Kind::Cn => address(name).map(Self::Cn),
            resource_ref::Kind::Da => user(name).map(Self::Da),
            resource_ref::Kind::Pd => {
                let (dn, pd) = name.rsplit_once('/').ok_or_else(bad)?;
                Ok(Self::Pd(address(dn)?, user(pd)?))
            }
            resource_ref::Kind::Exp => {
                let (da, exp) = name.split_once('/').ok_or_else(bad)?;
                Ok(Self::Exp(user(da)?, user(exp)?))
            }
            resource_ref::Kind::Unspecified => Err(invalid("resource.kind", "", "DN, PD, CN, DA or EXP")),
        }
    }
}

/// What is waited to vanish, by id: its name may be in use again.
#[derive(Debug, Clone, Copy)]
enum Trace {
    Dn(DnId),
    /// Of a PD only the id is known; which DN it was on tells its address.
    Pd(DnId, PdId),
    Cn(CnId),
    Da(DaId),
    Exp(DaId, ExpId),
    /// It has vanished already.
    None,
}

impl Portal {
    pub(crate) async fn follow(&self, request: v1::WatchRequest) -> Result<Replies, Status> {
        let target = Target::parse(request.resource.as_ref())?;
        let until = request.until();
        let follower = self.hub.follow([]);
        let watcher =
            Watcher { portal: self.clone(), target, until, min_revision: request.min_revision, follower };
        let trace = match until {
            Until::Gone => Some(watcher.trace(&request.id).await?),
            Until::Unspecified | Until::Ready => None,
        };
        let (replies, receiver) = mpsc::channel(4);
        let token = self.shutdown.token();
        let run = watcher.run(trace, replies);
        let run = async move {
            tokio::select! {
                () = run => {}
                () = token.cancelled() => {}
            }
        };
        match vda_telemetry::current() {
            Some(id) => self.shutdown.spawn(vda_telemetry::with_request_id(id, run)),
            None => self.shutdown.spawn(run),
        };
        Ok(Box::pin(ReceiverStream::new(receiver)))
    }
}

struct Watcher {
    portal: Portal,
    target: Target,
    until: Until,
    min_revision: u64,
    follower: Follower,
}

impl Watcher {
    /// Answers at once and at each change. Ends when met, when the caller has gone, or with the first error.
    async fn run(mut self, trace: Option<Trace>, replies: mpsc::Sender<Result<v1::WatchReply, Status>>) {
        let mut last = None;
        loop {
            let reply = match trace {
                Some(trace) => self.vanishing(trace).await,
                None => self.observe().await,
            };
            let ended = reply.as_ref().map_or(true, |r| r.met);
            if let Ok(reply) = &reply
                && last.as_ref() == Some(reply)
            {
                // Something else of it has changed.
            } else {
                last = reply.as_ref().ok().cloned();
                if replies.send(reply).await.is_err() {
                    return;
                }
            }
            if ended {
                return;
            }
            tokio::select! {
                () = self.follower.changed() => {}
                () = replies.closed() => return,
            }
        }
    }

    fn reply(&self, status: v1::ResourceStatus, parts: Vec<v1::PartStatus>) -> v1::WatchReply {
        let met = self.until == Until::Ready && status.condition() == Condition::Ready;
        v1::WatchReply { status: Some(status), parts, met }
    }

    async fn observe(&mut self) -> Result<v1::WatchReply, Status> {
        match self.target.clone() {
            Target::Dn(address) => {
                let dn = self.followed_dn(&address).await?;
                let generation = dn.observed.as_ref().map_or(0, |o| o.observed_generation);
                Ok(self.reply(self.at_least(generation, dn.status), Vec::new()))
            }
            Target::Pd(address, name) => {
                self.followed_dn(&address).await?;
                let pd = self.portal.get_pd(&address, &name).await?;
                // The state is READY only for the spec's own revision, which is the least that can be meant.
                Ok(self.reply(self.at_least(pd.revision, pd.status), Vec::new()))
            }
            Target::Cn(address) => {
                let id = self.portal.get_cn(&address).await?.spec.and_then(|s| s.cn_id.parse().ok());
                self.follower.also(id.map(Topic::Cn));
                let cn = self.portal.get_cn(&address).await?;
                let generation = cn.observed.as_ref().map_or(0, |o| o.observed_generation);
                Ok(self.reply(self.at_least(generation, cn.status), Vec::new()))
            }
            Target::Da(name) => {
                self.follow_da(&name).await?;
                let da = self.portal.get_da(&name).await?;
                Ok(self.reply(self.at_least(da.revision, da.status), da.parts))
            }
            Target::Exp(da_name, exp_name) => {
                self.follow_da(&da_name).await?;
                let record = self.portal.read_da(&da_name).await?;
                let exp = exp::find(&record.value, &exp_name).map_err(|e| status::refused(&e))?;
                let gathered = self.portal.gather(&record.value, true).await?;
                let status = view::exporter(&exp.exp_id, &gathered.status(), &gathered.cntlrs());
                Ok(self.reply(self.at_least(record.revision, Some(status)), gathered.parts()))
            }
        }
    }

    /// Not ready before what was observed is as new as asked for.
    fn at_least(&self, revision: u64, status: Option<v1::ResourceStatus>) -> v1::ResourceStatus {
        let status = status.unwrap_or_default();
        let ready = status.condition() == Condition::Ready;
        if ready && revision < self.min_revision { view::plain(Condition::Pending) } else { status }
    }

    /// Follows a DN, then reads it: nothing can be missed in between.
    async fn followed_dn(&mut self, address: &str) -> Result<v1::Dn, Status> {
        let id = self.portal.get_dn(address).await?.spec.and_then(|s| s.dn_id.parse().ok());
        self.follower.also(id.map(Topic::Dn));
        self.portal.get_dn(address).await
    }

    async fn follow_da(&mut self, name: &str) -> Result<(), Status> {
        self.follower.also([Topic::DaName(name.to_owned())]);
        let record = self.portal.read_da(name).await?.value;
        let da = derived::da_id(&record).map_err(|e| status::refused(&e))?;
        let cns = record.cntlrs.iter().filter_map(|c| c.cn_id.parse().ok()).map(Topic::Cn);
        let dns = derived::members(&record).filter_map(|(.., m)| m.dn_id.parse().ok()).map(Topic::Dn);
        self.follower.also(cns.chain(dns).chain([Topic::Da(da)]));
        Ok(())
    }

    /// What has to vanish: by `id`, or if it is empty what has the name now.
    async fn trace(&self, id: &str) -> Result<Trace, Status> {
        let bad = |_| invalid("id", id, "the id a deletion answered, or empty");
        let given = |found: Result<String, Status>| match found {
            _ if !id.is_empty() => Ok(Some(id.to_owned())),
            Ok(found) => Ok(Some(found)),
            Err(gone) if gone.code() == tonic::Code::NotFound => Ok(None),
            Err(error) => Err(error),
        };
        let portal = &self.portal;
        let dn_id = |address: String| async move {
            portal.get_dn(&address).await.map(|dn| dn.spec.unwrap_or_default().dn_id)
        };
        let trace = match self.target.clone() {
            Target::Dn(address) => {
                given(dn_id(address).await)?.map(|id| id.parse().map(Trace::Dn).map_err(|e| bad(Some(e))))
            }
            Target::Cn(address) => {
                let found = portal.get_cn(&address).await.map(|cn| cn.spec.unwrap_or_default().cn_id);
                given(found)?.map(|id| id.parse().map(Trace::Cn).map_err(|e| bad(Some(e))))
            }
            Target::Pd(address, name) => {
                let found = portal.get_pd(&address, &name).await.map(|pd| pd.spec.unwrap_or_default().pd_id);
                // Without its DN there is no PD either.
                let dn = match dn_id(address).await {
                    Ok(dn) => dn.parse().ok(),
                    Err(gone) if gone.code() == tonic::Code::NotFound => None,
                    Err(error) => return Err(error),
                };
                let Some(dn) = dn else { return Ok(Trace::None) };
                given(found)?.map(|id| id.parse().map(|pd| Trace::Pd(dn, pd)).map_err(|e| bad(Some(e))))
            }
            Target::Da(name) => {
                let found = portal.read_da(&name).await.map(|r| r.value.da_id);
                given(found)?.map(|id| id.parse().map(Trace::Da).map_err(|e| bad(Some(e))))
            }
            Target::Exp(da_name, exp_name) => {
                let found = portal.read_da(&da_name).await.and_then(|r| {
                    let exp = exp::find(&r.value, &exp_name).map_err(|e| status::refused(&e))?;
                    Ok(format!("{}.{}", r.value.da_id, exp.exp_id))
                });
                given(found)?.map(|id| {
                    let ids = id
                        .split_once('.')
                        .and_then(|(da, exp)| Some(Trace::Exp(da.parse().ok()?, exp.parse().ok()?)));
                    ids.ok_or_else(|| bad(None))
                })
            }
        };
        trace.unwrap_or(Ok(Trace::None))
    }

    async fn vanishing(&mut self, trace: Trace) -> Result<v1::WatchReply, Status> {
        let topic = match trace {
            Trace::Dn(dn) | Trace::Pd(dn, _) => Some(Topic::Dn(dn)),
            Trace::Cn(cn) => Some(Topic::Cn(cn)),
            Trace::Da(da) | Trace::Exp(da, _) => Some(Topic::Da(da)),
            Trace::None => None,
        };
        self.follower.also(topic);
        if let Target::Da(name) | Target::Exp(name, _) = &self.target {
            self.follower.also([Topic::DaName(name.clone())]);
        }
        let left = self.left(trace).await?;
        let met = left.is_none();
        Ok(v1::WatchReply { status: left, parts: Vec::new(), met })
    }

    /// The state of what is left of it; `None`: nothing.
    async fn left(&mut self, trace: Trace) -> Result<Option<v1::ResourceStatus>, Status> {
        let portal = self.portal.clone();
        match trace {
            Trace::None => Ok(None),
            Trace::Dn(dn) => Ok(portal.read_dn(dn).await?.and_then(|dn| dn.status)),
            Trace::Cn(cn) => Ok(portal.read_cn(cn).await?.and_then(|cn| cn.status)),
            Trace::Pd(dn, pd) => {
                let Some(dn) = portal.read_dn(dn).await? else { return Ok(None) };
                let id = pd.to_string();
                let pds = portal.pds_of(&dn).await?;
                Ok(pds
                    .into_iter()
                    .find(|p| p.spec.as_ref().is_some_and(|s| s.pd_id == id))
                    .and_then(|p| p.status))
            }
            Trace::Da(da) => self.left_of_da(da).await,
            Trace::Exp(da, exp) => self.left_of_exp(da, exp).await,
        }
    }

    async fn live_da(&self, da: DaId) -> Result<Option<v1::DaRecord>, Status> {
        let (Target::Da(name) | Target::Exp(name, _)) = &self.target else { return Ok(None) };
        match self.portal.read_da(name).await {
            Ok(record) if record.value.da_id == da.to_string() => Ok(Some(record.value)),
            Ok(_) => Ok(None),
            Err(gone) if gone.code() == tonic::Code::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    async fn tombstone(&self, da: DaId) -> Result<Option<v1::DaTombstone>, Status> {
        let tombstone = self.portal.store.get(&DaTombstoneKey(da)).await.map_err(|e| status::store(&e))?;
        Ok(tombstone.map(|t| t.value))
    }

    async fn left_of_da(&mut self, da: DaId) -> Result<Option<v1::ResourceStatus>, Status> {
        if let Some(record) = self.live_da(da).await? {
            return Ok(Some(self.portal.gather(&record, false).await?.status()));
        }
        let Some(tombstone) = self.tombstone(da).await? else { return Ok(None) };
        let dns: Vec<DnId> = tombstone.dn_ids.iter().filter_map(|id| id.parse().ok()).collect();
        let cns: Vec<CnId> = tombstone.cn_ids.iter().filter_map(|id| id.parse().ok()).collect();
        self.follower.also(dns.iter().copied().map(Topic::Dn).chain(cns.iter().copied().map(Topic::Cn)));
        Ok(Some(self.portal.deleting(&dns, &cns)))
    }

    async fn left_of_exp(&mut self, da: DaId, exp: ExpId) -> Result<Option<v1::ResourceStatus>, Status> {
        let cns: Vec<CnId> = match self.live_da(da).await? {
            Some(record) => record.cntlrs.iter().filter_map(|c| c.cn_id.parse().ok()).collect(),
            None => match self.tombstone(da).await? {
                Some(tombstone) => tombstone.cn_ids.iter().filter_map(|id| id.parse().ok()).collect(),
                None => return Ok(None),
            },
        };
        self.follower.also(cns.iter().copied().map(Topic::Cn));
        let mut left = Vec::new();
        for cn in cns {
            let spec =
                self.portal.store.get(&ExpSpecKey(cn, da, exp)).await.map_err(|e| status::store(&e))?;
            left.extend(spec.map(|_| cn));
        }
        Ok((!left.is_empty()).then(|| self.portal.deleting(&[], &left)))
    }
}

impl Portal {
    /// Being deleted; waits for the first of these nodes that is not ready, or for all of them.
    fn deleting(&self, dns: &[DnId], cns: &[CnId]) -> v1::ResourceStatus {
        let on = self.cluster.cache.read(|snapshot| {
            let dns = dns.iter().filter_map(|dn| {
                let spec = snapshot.get(&DnSpecKey(*dn)).ok().flatten()?.value;
                let observed = snapshot.get(&DnStatusKey(*dn)).ok().flatten().map(|s| s.value);
                Some((format!("DN {}", spec.address), view::dn(&spec, observed.as_ref())))
            });
            let cns = cns.iter().filter_map(|cn| {
                let spec = snapshot.get(&CnSpecKey(*cn)).ok().flatten()?.value;
                let observed = snapshot.get(&CnStatusKey(*cn)).ok().flatten().map(|s| s.value);
                Some((format!("CN {}", spec.address), view::cn(&spec, observed.as_ref())))
            });
            let nodes: Vec<_> = dns.chain(cns).collect();
            let in_the_way =
                nodes.iter().find(|(_, status)| !status.on.is_empty()).map(|(_, status)| status.on.clone());
            in_the_way
                .unwrap_or_else(|| nodes.into_iter().map(|(name, _)| name).collect::<Vec<_>>().join(", "))
        });
        v1::ResourceStatus { on, ..view::plain(Condition::Deleting) }
    }
}
