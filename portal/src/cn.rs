//! Controller nodes.

use tonic::Status;
use vda_model::{
    Error, Kind, Resource, Versioned,
    ids::{CnId, DaId, ExpId},
    keys::*,
    requests,
    transitions::{cn, finish},
    view,
};
use vda_proto::v1;
use vda_store::{Abort, StmError, Tx};

use crate::{
    cluster::all,
    mutate::{Call, OrRefuse, Refused, apply, failed},
    page::{self, Page},
    random,
    server::Portal,
    status,
    users::Of,
};

/// EXP tombstones removed in one transaction.
const EXPS_AT_ONCE: usize = 64;

struct CnRecords {
    cn: CnId,
    spec: Versioned<v1::CnSpec>,
    capacity: v1::CnCapacity,
}

pub(crate) fn not_found(address: &str) -> Error {
    Error::NotFound(Resource::new(Kind::Cn, address))
}

async fn load(tx: &Tx, address: &str) -> Result<CnRecords, Abort<Refused>> {
    let missing = || Abort::Domain(Refused(not_found(address)));
    let index = tx.get(&CnNameKey(address.to_owned())).await?.ok_or_else(missing)?;
    let cn: CnId = index.value.id.parse().map_err(|e| Error::broken(address, e)).or_refuse()?;
    let spec = tx.get(&CnSpecKey(cn)).await?.ok_or_else(missing)?;
    let capacity = tx.get(&CnCapacityKey(cn)).await?.ok_or_else(missing)?;
    Ok(CnRecords { cn, spec: Versioned::new(spec.value, spec.revision), capacity: capacity.value })
}

fn reply(
    spec: v1::CnSpec,
    revision: u64,
    capacity: v1::CnCapacity,
    observed: Option<v1::CnStatus>,
) -> v1::Cn {
    let status = Some(view::cn(&spec, observed.as_ref()));
    v1::Cn { spec: Some(spec), revision, status, observed, capacity: Some(capacity) }
}

/// A CN as this transaction leaves it.
async fn written(tx: &Tx, cn: CnId) -> Result<(v1::CnSpec, v1::CnCapacity), Abort<Refused>> {
    let spec = tx.get(&CnSpecKey(cn)).await?.map(|s| s.value).unwrap_or_default();
    let capacity = tx.get(&CnCapacityKey(cn)).await?.map(|c| c.value).unwrap_or_default();
    Ok((spec, capacity))
}

impl Portal {
    pub(crate) async fn create_cn(&self, request: v1::CreateCnRequest) -> Result<v1::Cn, Status> {
        let new = requests::new_cn(&request).map_err(|e| status::refused(&e))?;
        let call = Call::new("CreateCn", &request.request_id, &request)?;
        let (id, now_ms) = (CnId::new(random::bits()), call.now_ms);
        self.mutate(&call, move |tx| {
            let new = new.clone();
            async move {
                let taken = match tx.get_speculative_absent(&CnNameKey(new.address.clone())).await? {
                    Some(_) => Some(load(&tx, &new.address).await?.spec.value),
                    None => None,
                };
                apply(&cn::create(taken.as_ref(), &new, id, now_ms).or_refuse()?, &tx);
                let (spec, capacity) = written(&tx, id).await?;
                Ok(reply(spec, 0, capacity, None))
            }
        })
        .await
    }

    pub(crate) async fn modify_cn(&self, request: v1::ModifyCnRequest) -> Result<v1::Cn, Status> {
        let call = Call::new("ModifyCn", &request.request_id, &request)?;
        let changed = self.mutate(&call, move |tx| {
            let request = request.clone();
            async move {
                let records = load(&tx, &request.address).await?;
                let change = cn::Change {
                    revision: request.revision,
                    offline: request.offline,
                    location: request.location,
                    max_cntlrs: request.max_cntlrs,
                };
                let view = cn::View { cn: records.cn, spec: &records.spec, capacity: &records.capacity };
                let delta = cn::modify(view, &change).or_refuse()?;
                apply(&delta, &tx);
                let (spec, capacity) = written(&tx, records.cn).await?;
                Ok(reply(spec, if delta.is_empty() { records.spec.revision } else { 0 }, capacity, None))
            }
        });
        let cn = changed.await?;
        let spec = cn.spec.clone().unwrap_or_default();
        let observed = spec
            .cn_id
            .parse()
            .ok()
            .and_then(|id| self.cluster.cache.read(|s| s.get(&CnStatusKey(id)).ok().flatten()));
        let observed = observed.map(|s| s.value);
        Ok(v1::Cn { status: Some(view::cn(&spec, observed.as_ref())), observed, ..cn })
    }

    pub(crate) async fn delete_cn(&self, request: v1::DeleteCnRequest) -> Result<v1::DeleteReply, Status> {
        let call = Call::new("DeleteCn", &request.request_id, &request)?;
        let (force, address) = (request.force, request.address.clone());
        let reply = self.mutate_used(&call, Of::Cn { address: &address }, move |tx| {
            let request = request.clone();
            async move {
                let records = load(&tx, &request.address).await?;
                let status = tx.get(&CnStatusKey(records.cn)).await?.map(|s| s.value);
                let view = cn::View { cn: records.cn, spec: &records.spec, capacity: &records.capacity };
                let delta = cn::delete(view, status.as_ref(), request.revision).or_refuse()?;
                apply(&delta, &tx);
                let revision = if delta.is_empty() { records.spec.revision } else { 0 };
                Ok(v1::DeleteReply { revision, id: records.cn.to_string() })
            }
        });
        let reply = reply.await?;
        if force && let Ok(cn) = reply.id.parse() {
            self.drop_cn(cn).await.map_err(|e| failed("DeleteCn", &e))?;
        }
        Ok(reply)
    }

    /// Gives up what waits for a CN that will never come back.
    async fn drop_cn(&self, cn: CnId) -> Result<(), StmError<Refused>> {
        tracing::warn!(node = %cn, "forced: what the CN was to confirm is given up");
        let listing = self.store.list_all(Scope::CnDas(cn), 0).await.map_err(StmError::Kv)?;
        let mut cntlrs = Vec::new();
        let mut exps = Vec::new();
        for (key, _) in listing.entries {
            match key {
                AnyKey::CntlrSpec(_, da) => cntlrs.push(da),
                AnyKey::ExpSpec(_, da, exp) => exps.push((da, exp)),
                _ => {}
            }
        }
        for some in exps.chunks(EXPS_AT_ONCE) {
            self.drop_exps(cn, some.to_vec()).await?;
        }
        for da in cntlrs {
            self.drop_cntlr(cn, da).await?;
        }
        let dropped = self.store.lane().submit("drop_cn", move |tx| async move {
            let (spec, capacity) = (tx.get(&CnSpecKey(cn)).await?, tx.get(&CnCapacityKey(cn)).await?);
            let (Some(spec), Some(capacity)) = (spec, capacity) else { return Ok(()) };
            let spec = Versioned::new(spec.value, spec.revision);
            if let Some(delta) = finish::cn(cn, &spec, &capacity.value, None, true) {
                apply(&delta, &tx);
            }
            Ok::<_, Abort<Refused>>(())
        });
        dropped.await.map(|_| ())
    }

    async fn drop_exps(&self, cn: CnId, exps: Vec<(DaId, ExpId)>) -> Result<(), StmError<Refused>> {
        let dropped = self.store.lane().submit("drop_exps", move |tx| {
            let exps = exps.clone();
            async move {
                for (da, exp) in exps {
                    let Some(spec) = tx.get(&ExpSpecKey(cn, da, exp)).await? else { continue };
                    let spec = Versioned::new(spec.value, spec.revision);
                    if let Some(delta) = finish::exp(cn, da, exp, &spec, None, true) {
                        apply(&delta, &tx);
                    }
                }
                Ok::<_, Abort<Refused>>(())
            }
        });
        dropped.await.map(|_| ())
    }

    async fn drop_cntlr(&self, cn: CnId, da: DaId) -> Result<(), StmError<Refused>> {
        let dropped = self.store.lane().submit("drop_cntlr", move |tx| async move {
            let (spec, capacity) = (tx.get(&CntlrSpecKey(cn, da)).await?, tx.get(&CnCapacityKey(cn)).await?);
            let (Some(spec), Some(capacity)) = (spec, capacity) else { return Ok(()) };
            let tombstone = tx.get(&DaTombstoneKey(da)).await?.map(|t| t.value);
            let spec = Versioned::new(spec.value, spec.revision);
            let view = finish::CntlrView {
                cn,
                da,
                spec: &spec,
                exps: &[],
                status: None,
                capacity: &capacity.value,
                tombstone: tombstone.as_ref(),
                forced: true,
            };
            if let Some(delta) = finish::cntlr(view).or_refuse()? {
                apply(&delta, &tx);
            }
            Ok::<_, Abort<Refused>>(())
        });
        dropped.await.map(|_| ())
    }

    pub(crate) async fn get_cn(&self, address: &str) -> Result<v1::Cn, Status> {
        let index = self.store.get(&CnNameKey(address.to_owned())).await.map_err(|e| status::store(&e))?;
        let id = index.and_then(|i| i.value.id.parse().ok());
        let found = match id {
            Some(cn) => self.read_cn(cn).await?,
            None => None,
        };
        found.ok_or_else(|| status::refused(&not_found(address)))
    }

    pub(crate) async fn read_cn(&self, cn: CnId) -> Result<Option<v1::Cn>, Status> {
        let (spec_key, books_key, status_key) = (CnSpecKey(cn), CnCapacityKey(cn), CnStatusKey(cn));
        let read = tokio::try_join!(
            self.store.get(&spec_key),
            self.store.get(&books_key),
            self.store.get(&status_key)
        );
        let (spec, books, observed) = read.map_err(|e| status::store(&e))?;
        let Some(spec) = spec else { return Ok(None) };
        let books = books.map(|b| b.value).unwrap_or_default();
        Ok(Some(reply(spec.value, spec.revision, books, observed.map(|o| o.value))))
    }

    pub(crate) async fn list_cn(&self, request: v1::ListCnRequest) -> Result<v1::ListCnReply, Status> {
        let page = Page::parse("cn", request.page_size, &request.page_token)?;
        let after = (!page.after.is_empty()).then(|| CnNameKey(page.after.clone()).path(self.store.prefix()));
        let listing = self
            .store
            .list(Scope::CnNames, after.as_deref(), page.size, 0)
            .await
            .map_err(|e| status::store(&e))?;
        let next_page_token = match (&listing.next, listing.entries.last()) {
            (Some(_), Some((AnyKey::CnName(address), _))) => page::next("cn", address),
            _ => String::new(),
        };
        let ids = listing
            .entries
            .iter()
            .filter_map(|(key, raw)| raw.decode::<CnNameKey>(key).ok()?.value.id.parse().ok());
        let ids: Vec<CnId> = ids.collect();
        let cns = all(ids.into_iter().map(|cn| self.read_cn(cn)).collect()).await?;
        Ok(v1::ListCnReply { cns: cns.into_iter().flatten().collect(), next_page_token })
    }

    pub(crate) async fn syncup_cn(&self, request: v1::SyncupCnRequest) -> Result<v1::SyncupReply, Status> {
        let call = Call::new("SyncupCn", "", &request)?;
        self.mutate(&call, move |tx| {
            let address = request.address.clone();
            async move {
                tx.touch_cn(load(&tx, &address).await?.cn);
                Ok(v1::SyncupReply { generation: 0 })
            }
        })
        .await
    }
}
