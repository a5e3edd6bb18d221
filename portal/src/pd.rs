//! Physical disks.

use tonic::Status;
use vda_model::{
    Error, Kind, Resource, Versioned,
    ids::{DnId, PdId},
    keys::*,
    requests,
    transitions::{finish, pd},
    view,
};
use vda_proto::v1;
use vda_store::{Abort, StmError, Tx};

use crate::{
    dn,
    mutate::{Call, OrRefuse, Refused, apply, failed},
    page::{self, Page},
    random,
    server::Portal,
    status,
    users::Of,
};

fn not_found(dn_address: &str, pd_name: &str) -> Error {
    Error::NotFound(Resource::of(Kind::Pd, dn_address, pd_name))
}

/// The PD of this name in the books of its DN.
fn find(capacity: &v1::DnCapacity, dn_address: &str, pd_name: &str) -> Result<PdId, Error> {
    let books =
        capacity.pds.iter().find(|p| p.pd_name == pd_name).ok_or_else(|| not_found(dn_address, pd_name))?;
    books.pd_id.parse().map_err(|e| Error::broken(dn_address, e))
}

async fn load(
    tx: &Tx,
    records: &dn::DnRecords,
    pd_name: &str,
) -> Result<(PdId, Versioned<v1::PdSpec>), Abort<Refused>> {
    let address = &records.capacity.address;
    let pd = find(&records.capacity, address, pd_name).or_refuse()?;
    let spec =
        tx.get(&PdSpecKey(records.dn, pd)).await?.ok_or_else(|| not_found(address, pd_name)).or_refuse()?;
    Ok((pd, Versioned::new(spec.value, spec.revision)))
}

/// A PD as users see it, on a DN with these records.
pub(crate) fn reply(dn: &v1::Dn, spec: v1::PdSpec, revision: u64) -> v1::Pd {
    let node = dn.status.clone().unwrap_or_default();
    let capacity = dn.pds.iter().find(|p| p.pd_id == spec.pd_id).cloned();
    let observed = dn.observed.iter().flat_map(|o| &o.pds).find(|p| p.pd_id == spec.pd_id).cloned();
    let status = view::pd(&spec, revision, capacity.as_ref(), &node, observed.as_ref());
    let dn_address = dn.spec.as_ref().map(|s| s.address.clone()).unwrap_or_default();
    v1::Pd { spec: Some(spec), revision, dn_address, status: Some(status), capacity, observed }
}

impl Portal {
    pub(crate) async fn create_pd(&self, request: v1::CreatePdRequest) -> Result<v1::Pd, Status> {
        let new = requests::new_pd(&request).map_err(|e| status::refused(&e))?;
        let call = Call::new("CreatePd", &request.request_id, &request)?;
        let (id, now_ms) = (PdId::new(random::bits()), call.now_ms);
        self.mutate(&call, move |tx| {
            let new = new.clone();
            async move {
                let records = dn::load(&tx, &new.dn_address).await?;
                let pds = dn::load_pds(&tx, &records).await?;
                let view = pd::CreateView {
                    dn: records.dn,
                    spec: &records.spec.value,
                    capacity: &records.capacity,
                    pds: &pds,
                };
                apply(&pd::create(view, &new, id, now_ms).or_refuse()?, &tx);
                written(&tx, records, id, 0).await
            }
        })
        .await
    }

    pub(crate) async fn modify_pd(&self, request: v1::ModifyPdRequest) -> Result<v1::Pd, Status> {
        let call = Call::new("ModifyPd", &request.request_id, &request)?;
        let (address, name) = (request.dn_address.clone(), request.pd_name.clone());
        let changed = self.mutate(&call, move |tx| {
            let request = request.clone();
            async move {
                let records = dn::load(&tx, &request.dn_address).await?;
                let (pd, spec) = load(&tx, &records, &request.pd_name).await?;
                let change = pd::Change {
                    revision: request.revision,
                    offline: request.offline,
                    qos_budget: request.qos_budget,
                };
                let view = pd::View { dn: records.dn, pd, spec: &spec, capacity: &records.capacity };
                let delta = pd::modify(view, &change).or_refuse()?;
                apply(&delta, &tx);
                let revision = if delta.is_empty() { spec.revision } else { 0 };
                written(&tx, records, pd, revision).await
            }
        });
        let changed = changed.await?;
        // With the state as it is now; should it be gone already, as it was left.
        Ok(self.get_pd(&address, &name).await.unwrap_or(changed))
    }

    pub(crate) async fn delete_pd(&self, request: v1::DeletePdRequest) -> Result<v1::DeleteReply, Status> {
        let call = Call::new("DeletePd", &request.request_id, &request)?;
        let told = request.clone();
        let of = Of::Pd { dn_address: &told.dn_address, pd_name: &told.pd_name };
        let deleted = self.mutate_used(&call, of, move |tx| {
            let request = request.clone();
            async move {
                let records = dn::load(&tx, &request.dn_address).await?;
                let (pd, spec) = load(&tx, &records, &request.pd_name).await?;
                let view = pd::View { dn: records.dn, pd, spec: &spec, capacity: &records.capacity };
                let delta = pd::delete(view, request.revision).or_refuse()?;
                apply(&delta, &tx);
                let revision = if delta.is_empty() { spec.revision } else { 0 };
                Ok(v1::DeleteReply { revision, id: pd.to_string() })
            }
        });
        let reply = deleted.await?;
        if told.force
            && let Ok(pd) = reply.id.parse()
        {
            let dn = self.get_dn(&told.dn_address).await?;
            if let Some(Ok(dn)) = dn.spec.map(|s| s.dn_id.parse()) {
                self.drop_pd(dn, pd).await.map_err(|e| failed("DeletePd", &e))?;
            }
        }
        Ok(reply)
    }

    /// Gives up what waits for a PD that will never come back.
    pub(crate) async fn drop_pd(&self, dn: DnId, pd: PdId) -> Result<(), StmError<Refused>> {
        tracing::warn!(node = %dn, %pd, "forced: what was to be confirmed of the PD is given up");
        let shares = self.store.list_all(Scope::DnShares(dn), 0).await.map_err(StmError::Kv)?;
        for (key, _) in shares.entries {
            if let AnyKey::DnShare(dn, da) = key {
                self.drop_share(dn, da, Some(pd)).await?;
            }
        }
        let dropped = self.store.lane().submit("drop_pd", move |tx| async move {
            let (spec, capacity) = (tx.get(&PdSpecKey(dn, pd)).await?, tx.get(&DnCapacityKey(dn)).await?);
            let (Some(spec), Some(capacity)) = (spec, capacity) else { return Ok(()) };
            let spec = Versioned::new(spec.value, spec.revision);
            if let Some(delta) = finish::pd(dn, pd, &spec, &capacity.value, None, true).or_refuse()? {
                apply(&delta, &tx);
            }
            Ok::<_, Abort<Refused>>(())
        });
        dropped.await.map(|_| ())
    }

    pub(crate) async fn get_pd(&self, dn_address: &str, pd_name: &str) -> Result<v1::Pd, Status> {
        let dn = self.get_dn(dn_address).await?;
        let found = self
            .pds_of(&dn)
            .await?
            .into_iter()
            .find(|p| p.spec.as_ref().is_some_and(|s| s.pd_name == pd_name));
        found.ok_or_else(|| status::refused(&not_found(dn_address, pd_name)))
    }

    /// The PDs of a DN in the order of their names.
    pub(crate) async fn pds_of(&self, dn: &v1::Dn) -> Result<Vec<v1::Pd>, Status> {
        let id = dn.spec.as_ref().and_then(|s| s.dn_id.parse().ok());
        let Some(id) = id else { return Ok(Vec::new()) };
        let listing = self.store.list_all(Scope::DnPds(id), 0).await.map_err(|e| status::store(&e))?;
        let mut pds: Vec<v1::Pd> = Vec::new();
        for (key, raw) in &listing.entries {
            let spec = raw.decode::<PdSpecKey>(key).map_err(|e| status::store(&e))?;
            pds.push(reply(dn, spec.value, spec.revision));
        }
        pds.sort_by(|a, b| name(a).cmp(name(b)));
        Ok(pds)
    }

    pub(crate) async fn list_pd(&self, request: v1::ListPdRequest) -> Result<v1::ListPdReply, Status> {
        let page = Page::parse("pd", request.page_size, &request.page_token)?;
        let (mut address, after) = match page.after.rsplit_once('/') {
            Some((address, pd)) => (address.to_owned(), pd.to_owned()),
            None => (request.dn_address.clone(), String::new()),
        };
        let mut found = Vec::new();
        if !address.is_empty() {
            let dn = match self.get_dn(&address).await {
                // The list goes on although the DN it stopped at is gone.
                Err(error) if error.code() == tonic::Code::NotFound && !page.after.is_empty() => None,
                other => Some(other?),
            };
            let pds = match dn {
                Some(dn) => self.pds_of(&dn).await?,
                None => Vec::new(),
            };
            found.extend(pds.into_iter().filter(|p| name(p) > after.as_str()));
        }
        while request.dn_address.is_empty() && found.len() <= page.size {
            let (ids, more) = self.dn_ids(&Page { size: 32, after: address.clone() }).await?;
            for id in ids {
                let Some(dn) = self.read_dn(id).await? else { continue };
                found.extend(self.pds_of(&dn).await?);
            }
            match more {
                Some(last) => address = last,
                None => break,
            }
        }
        let more = found.len() > page.size;
        found.truncate(page.size);
        let last = found.last().filter(|_| more);
        let next_page_token =
            last.map(|p| page::next("pd", &format!("{}/{}", p.dn_address, name(p)))).unwrap_or_default();
        Ok(v1::ListPdReply { pds: found, next_page_token })
    }
}

fn name(pd: &v1::Pd) -> &str {
    pd.spec.as_ref().map_or("", |s| &s.pd_name)
}

/// A PD as this transaction leaves it.
async fn written(tx: &Tx, records: dn::DnRecords, pd: PdId, revision: u64) -> Result<v1::Pd, Abort<Refused>> {
    let spec = tx.get(&PdSpecKey(records.dn, pd)).await?.map(|s| s.value).unwrap_or_default();
    let capacity = tx.get(&DnCapacityKey(records.dn)).await?.map(|c| c.value).unwrap_or_default();
    let dn = v1::Dn { spec: Some(records.spec.value), pds: capacity.pds, ..v1::Dn::default() };
    Ok(v1::Pd { revision, status: Some(view::plain(v1::Condition::Pending)), ..reply(&dn, spec, u64::MAX) })
}
