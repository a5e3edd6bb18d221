//! Disk nodes.

use tonic::Status;
use vda_model::{
    Error, Kind, Resource, Versioned,
    ids::{DaId, DnId, PdId},
    keys::*,
    requests,
    transitions::{dn, finish},
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

/// A DN as a transaction sees it.
pub(crate) struct DnRecords {
    pub(crate) dn: DnId,
    pub(crate) spec: Versioned<v1::DnSpec>,
    pub(crate) capacity: v1::DnCapacity,
}

pub(crate) fn not_found(address: &str) -> Error {
    Error::NotFound(Resource::new(Kind::Dn, address))
}

/// The DN of this address.
pub(crate) async fn load(tx: &Tx, address: &str) -> Result<DnRecords, Abort<Refused>> {
    let missing = || Abort::Domain(Refused(not_found(address)));
    let index = tx.get(&DnNameKey(address.to_owned())).await?.ok_or_else(missing)?;
    let dn: DnId = index.value.id.parse().map_err(|e| Error::broken(address, e)).or_refuse()?;
    let spec = tx.get(&DnSpecKey(dn)).await?.ok_or_else(missing)?;
    let capacity = tx.get(&DnCapacityKey(dn)).await?.ok_or_else(missing)?;
    Ok(DnRecords { dn, spec: Versioned::new(spec.value, spec.revision), capacity: capacity.value })
}

/// Specs of the PDs in the books.
pub(crate) async fn load_pds(tx: &Tx, records: &DnRecords) -> Result<Vec<v1::PdSpec>, Abort<Refused>> {
    let mut specs = Vec::new();
    for books in &records.capacity.pds {
        let pd: PdId =
            books.pd_id.parse().map_err(|e| Error::broken(&records.capacity.address, e)).or_refuse()?;
        if let Some(spec) = tx.get(&PdSpecKey(records.dn, pd)).await? {
            specs.push(spec.value);
        }
    }
    Ok(specs)
}

fn reply(
    spec: v1::DnSpec,
    revision: u64,
    capacity: v1::DnCapacity,
    observed: Option<v1::DnStatus>,
) -> v1::Dn {
    let status = Some(view::dn(&spec, observed.as_ref()));
    v1::Dn { spec: Some(spec), revision, status, observed, pds: capacity.pds }
}

impl Portal {
    pub(crate) async fn create_dn(&self, request: v1::CreateDnRequest) -> Result<v1::Dn, Status> {
        let new = requests::new_dn(&request).map_err(|e| status::refused(&e))?;
        let call = Call::new("CreateDn", &request.request_id, &request)?;
        let (id, now_ms) = (DnId::new(random::bits()), call.now_ms);
        self.mutate(&call, move |tx| {
            let new = new.clone();
            async move {
                let taken = match tx.get_speculative_absent(&DnNameKey(new.address.clone())).await? {
                    Some(_) => Some(load(&tx, &new.address).await?.spec.value),
                    None => None,
                };
                apply(&dn::create(taken.as_ref(), &new, id, now_ms).or_refuse()?, &tx);
                let (spec, capacity) = written(&tx, id).await?;
                Ok(reply(spec, 0, capacity, None))
            }
        })
        .await
    }

    pub(crate) async fn modify_dn(&self, request: v1::ModifyDnRequest) -> Result<v1::Dn, Status> {
        let call = Call::new("ModifyDn", &request.request_id, &request)?;
        let address = request.address.clone();
        let changed = self.mutate_used(&call, Of::Dn { address: &address }, move |tx| {
            let request = request.clone();
            async move {
                let records = load(&tx, &request.address).await?;
                let change = dn::Change {
                    revision: request.revision,
                    offline: request.offline,
                    location: request.location,
                };
                let view = dn::View { dn: records.dn, spec: &records.spec, capacity: &records.capacity };
                let delta = dn::modify(view, &change).or_refuse()?;
                apply(&delta, &tx);
                let (spec, capacity) = written(&tx, records.dn).await?;
                Ok(reply(spec, if delta.is_empty() { records.spec.revision } else { 0 }, capacity, None))
            }
        });
        Ok(self.observed_dn(changed.await?))
    }

    /// Fills in the status, which a transaction does not depend on.
    fn observed_dn(&self, dn: v1::Dn) -> v1::Dn {
        let spec = dn.spec.clone().unwrap_or_default();
        let id = spec.dn_id.parse().unwrap_or(DnId::new(0));
        let observed = self.cluster.cache.read(|s| s.get(&DnStatusKey(id)).ok().flatten()).map(|s| s.value);
        v1::Dn { status: Some(view::dn(&spec, observed.as_ref())), observed, ..dn }
    }

    pub(crate) async fn delete_dn(&self, request: v1::DeleteDnRequest) -> Result<v1::DeleteReply, Status> {
        let call = Call::new("DeleteDn", &request.request_id, &request)?;
        let force = request.force;
        let reply = self.mutate(&call, move |tx| {
            let request = request.clone();
            async move {
                let records = load(&tx, &request.address).await?;
                let pds = load_pds(&tx, &records).await?;
                let status = tx.get(&DnStatusKey(records.dn)).await?.map(|s| s.value);
                let view = dn::View { dn: records.dn, spec: &records.spec, capacity: &records.capacity };
                let delta = dn::delete(view, &pds, status.as_ref(), request.revision).or_refuse()?;
                apply(&delta, &tx);
                let revision = if delta.is_empty() { records.spec.revision } else { 0 };
                Ok(v1::DeleteReply { revision, id: records.dn.to_string() })
            }
        });
        let reply = reply.await?;
        if force && let Ok(dn) = reply.id.parse() {
            self.drop_dn(dn).await.map_err(|e| failed("DeleteDn", &e))?;
        }
        Ok(reply)
    }

    /// Gives up what waits for a DN that will never come back.
    async fn drop_dn(&self, dn: DnId) -> Result<(), StmError<Refused>> {
        tracing::warn!(node = %dn, "forced: what the DN was to confirm is given up");
        let shares = self.store.list_all(Scope::DnShares(dn), 0).await.map_err(StmError::Kv)?;
        for (key, _) in shares.entries {
            if let AnyKey::DnShare(dn, da) = key {
                self.drop_share(dn, da, None).await?;
            }
        }
        let pds = self.store.list_all(Scope::DnPds(dn), 0).await.map_err(StmError::Kv)?;
        for (key, _) in pds.entries {
            if let AnyKey::PdSpec(dn, pd) = key {
                self.drop_pd(dn, pd).await?;
            }
        }
        let dropped = self.store.lane().submit("drop_dn", move |tx| async move {
            let (spec, capacity) = (tx.get(&DnSpecKey(dn)).await?, tx.get(&DnCapacityKey(dn)).await?);
            let (Some(spec), Some(capacity)) = (spec, capacity) else { return Ok(()) };
            let spec = Versioned::new(spec.value, spec.revision);
            if let Some(delta) = finish::dn(dn, &spec, &capacity.value, None, true) {
                apply(&delta, &tx);
            }
            Ok::<_, Abort<Refused>>(())
        });
        dropped.await.map(|_| ())
    }

    /// Gives up a tombstone of a DA on a DN, or only its disks on `pd`.
    pub(crate) async fn drop_share(
        &self,
        dn: DnId,
        da: DaId,
        pd: Option<PdId>,
    ) -> Result<(), StmError<Refused>> {
        let dropped = self.store.lane().submit("drop_share", move |tx| async move {
            let (share, capacity) = (tx.get(&DnShareKey(dn, da)).await?, tx.get(&DnCapacityKey(dn)).await?);
            let (Some(share), Some(capacity)) = (share, capacity) else { return Ok(()) };
            let tombstone = tx.get(&DaTombstoneKey(da)).await?.map(|t| t.value);
            let share = Versioned::new(share.value, share.revision);
            let view = finish::ShareView {
                dn,
                da,
                share: &share,
                status: None,
                capacity: &capacity.value,
                tombstone: tombstone.as_ref(),
                forced: true,
            };
            let delta = match pd {
                Some(pd) => finish::lost_pd(view, pd),
                None => finish::share(view),
            };
            if let Some(delta) = delta.or_refuse()? {
                apply(&delta, &tx);
            }
            Ok::<_, Abort<Refused>>(())
        });
        dropped.await.map(|_| ())
    }

    pub(crate) async fn get_dn(&self, address: &str) -> Result<v1::Dn, Status> {
        let index = self.store.get(&DnNameKey(address.to_owned())).await.map_err(|e| status::store(&e))?;
        let id = index.and_then(|i| i.value.id.parse().ok());
        let found = match id {
            Some(dn) => self.read_dn(dn).await?,
            None => None,
        };
        found.ok_or_else(|| status::refused(&not_found(address)))
    }

    pub(crate) async fn read_dn(&self, dn: DnId) -> Result<Option<v1::Dn>, Status> {
        let (spec_key, books_key, status_key) = (DnSpecKey(dn), DnCapacityKey(dn), DnStatusKey(dn));
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

    pub(crate) async fn list_dn(&self, request: v1::ListDnRequest) -> Result<v1::ListDnReply, Status> {
        let page = Page::parse("dn", request.page_size, &request.page_token)?;
        let (ids, next) = self.dn_ids(&page).await?;
        let dns = all(ids.into_iter().map(|dn| self.read_dn(dn)).collect()).await?;
        let next_page_token = next.map(|last| page::next("dn", &last)).unwrap_or_default();
        Ok(v1::ListDnReply { dns: dns.into_iter().flatten().collect(), next_page_token })
    }

    /// Ids of the DNs of a page in the order of addresses, and the last address if there are more.
    pub(crate) async fn dn_ids(&self, page: &Page) -> Result<(Vec<DnId>, Option<String>), Status> {
        let prefix = self.store.prefix();
        let after = (!page.after.is_empty()).then(|| DnNameKey(page.after.clone()).path(prefix));
        let listing = self
            .store
            .list(Scope::DnNames, after.as_deref(), page.size, 0)
            .await
            .map_err(|e| status::store(&e))?;
        let last = listing.entries.last().map(|(key, _)| key.clone());
        let next = match (listing.next, last) {
            (Some(_), Some(AnyKey::DnName(address))) => Some(address),
            _ => None,
        };
        let id =
            |(key, raw): (AnyKey, vda_store::Raw)| raw.decode::<DnNameKey>(&key).ok()?.value.id.parse().ok();
        Ok((listing.entries.into_iter().filter_map(id).collect(), next))
    }

    pub(crate) async fn syncup_dn(&self, request: v1::SyncupDnRequest) -> Result<v1::SyncupReply, Status> {
        let call = Call::new("SyncupDn", "", &request)?;
        self.mutate(&call, move |tx| {
            let address = request.address.clone();
            async move {
                tx.touch_dn(load(&tx, &address).await?.dn);
                Ok(v1::SyncupReply { generation: 0 })
            }
        })
        .await
    }
}

/// A DN as this transaction leaves it.
async fn written(tx: &Tx, dn: DnId) -> Result<(v1::DnSpec, v1::DnCapacity), Abort<Refused>> {
    let spec = tx.get(&DnSpecKey(dn)).await?.map(|s| s.value).unwrap_or_default();
    let capacity = tx.get(&DnCapacityKey(dn)).await?.map(|c| c.value).unwrap_or_default();
    Ok((spec, capacity))
}
