//! Disk arrays.

use std::collections::BTreeMap;

use tonic::Status;
use vda_model::{
    Error, Kind, Resource, Versioned,
    ids::{CnId, DaId, DnId},
    keys::*,
    requests,
    transitions::{da, derived},
    view,
};
use vda_proto::v1;
use vda_store::{Abort, KvError, Tx};

use crate::{
    cluster::all,
    mutate::{Call, OrRefuse, Refused, apply},
    page::{self, Page},
    server::Portal,
    status,
};

pub(crate) fn not_found(da_name: &str) -> Error {
    Error::NotFound(Resource::new(Kind::Da, da_name))
}

/// The DA of this name.
pub(crate) async fn load(tx: &Tx, da_name: &str) -> Result<Versioned<v1::DaRecord>, Abort<Refused>> {
    let record = tx.get(&DaKey(da_name.to_owned())).await?.ok_or_else(|| not_found(da_name)).or_refuse()?;
    Ok(Versioned::new(record.value, record.revision))
}

type Books = (BTreeMap<DnId, v1::DnCapacity>, BTreeMap<CnId, v1::CnCapacity>);

async fn load_books(tx: &Tx, record: &v1::DaRecord) -> Result<Books, Abort<Refused>> {
    let (mut dns, mut cns) = (BTreeMap::new(), BTreeMap::new());
    for dn in derived::shares(record).or_refuse()?.into_keys() {
        if let Some(books) = tx.get(&DnCapacityKey(dn)).await? {
            dns.insert(dn, books.value);
        }
    }
    for (cn, _) in derived::cns(record).or_refuse()? {
        if let Some(books) = tx.get(&CnCapacityKey(cn)).await? {
            cns.insert(cn, books.value);
        }
    }
    Ok((dns, cns))
}

/// What a DA's state is derived from, as read.
pub(crate) struct Gathered {
    pub(crate) cntlrs: Vec<GatheredCntlr>,
    shares: Vec<GatheredShare>,
    pub(crate) legs: Vec<v1::LegState>,
}

pub(crate) struct GatheredCntlr {
    pub(crate) place: v1::CntlrPlace,
    revision: u64,
    pub(crate) status: Option<v1::CntlrStatus>,
    node: v1::ResourceStatus,
}

struct GatheredShare {
    dn_address: String,
    status: Option<v1::ShareStatus>,
    node: v1::ResourceStatus,
}

impl Gathered {
    /// Nothing has been observed yet.
    pub(crate) fn unknown(record: &v1::DaRecord) -> Self {
        let cntlr = |place: &v1::CntlrPlace| GatheredCntlr {
            place: place.clone(),
            revision: 0,
            status: None,
            node: view::plain(v1::Condition::Ready),
        };
        Self { cntlrs: record.cntlrs.iter().map(cntlr).collect(), shares: Vec::new(), legs: Vec::new() }
    }

    pub(crate) fn cntlrs(&self) -> Vec<view::CntlrPart<'_>> {
        self.cntlrs
            .iter()
            .map(|c| view::CntlrPart {
                place: &c.place,
                revision: c.revision,
                status: c.status.as_ref(),
                node: &c.node,
            })
            .collect()
    }

    fn with<R>(&self, look: impl FnOnce(view::DaParts<'_>) -> R) -> R {
        let cntlrs = self.cntlrs();
        let shares: Vec<_> = self
            .shares
            .iter()
            .map(|s: &GatheredShare| view::SharePart {
                dn_address: &s.dn_address,
                status: s.status.as_ref(),
                node: &s.node,
            })
            .collect();
        look(view::DaParts { cntlrs: &cntlrs, shares: &shares })
    }

    pub(crate) fn status(&self) -> v1::ResourceStatus {
        self.with(view::array)
    }

    pub(crate) fn parts(&self) -> Vec<v1::PartStatus> {
        self.with(|parts| parts.list())
    }
}

impl Portal {
    pub(crate) async fn create_da(&self, request: v1::CreateDaRequest) -> Result<v1::Da, Status> {
        let new = requests::new_da(&request).map_err(|e| status::refused(&e))?;
        let call = Call::new("CreateDa", &request.request_id, &request)?;
        self.place_da(&call, new).await
    }

    pub(crate) async fn modify_da(&self, request: v1::ModifyDaRequest) -> Result<v1::Da, Status> {
        let call = Call::new("ModifyDa", &request.request_id, &request)?;
        let name = request.da_name.clone();
        let changed = self.mutate(&call, move |tx| {
            let request = request.clone();
            async move {
                let record = load(&tx, &request.da_name).await?;
                let (dns, cns) = load_books(&tx, &record.value).await?;
                let view = da::View { record: &record, dns: &dns, cns: &cns };
                let (delta, changed) = da::modify(view, request.revision, request.qos).or_refuse()?;
                apply(&delta, &tx);
                let revision = if delta.is_empty() { record.revision } else { 0 };
                let status = Some(view::plain(v1::Condition::Pending));
                Ok(v1::Da { spec: Some(changed), revision, status, ..v1::Da::default() })
            }
        });
        let changed = changed.await?;
        Ok(self.get_da(&name).await.unwrap_or(changed))
    }

    pub(crate) async fn delete_da(&self, request: v1::DeleteDaRequest) -> Result<v1::DeleteReply, Status> {
        let call = Call::new("DeleteDa", &request.request_id, &request)?;
        let now_ms = call.now_ms;
        self.mutate(&call, move |tx| {
            let request = request.clone();
            async move {
                let record = load(&tx, &request.da_name).await?;
                let (dns, cns) = load_books(&tx, &record.value).await?;
                let view = da::View { record: &record, dns: &dns, cns: &cns };
                apply(&da::delete(view, request.revision, now_ms).or_refuse()?, &tx);
                Ok(v1::DeleteReply { revision: 0, id: record.value.da_id })
            }
        })
        .await
    }

    /// The record of a DA.
    pub(crate) async fn read_da(&self, da_name: &str) -> Result<Versioned<v1::DaRecord>, Status> {
        let record = self.store.get(&DaKey(da_name.to_owned())).await.map_err(|e| status::store(&e))?;
        let record = record.ok_or_else(|| status::refused(&not_found(da_name)))?;
        Ok(Versioned::new(record.value, record.revision))
    }

    pub(crate) async fn get_da(&self, da_name: &str) -> Result<v1::Da, Status> {
        let record = self.read_da(da_name).await?;
        let gathered = self.gather(&record.value, true).await?;
        Ok(v1::Da {
            status: Some(gathered.status()),
            parts: gathered.parts(),
            legs: gathered.legs,
            spec: Some(record.value),
            revision: record.revision,
        })
    }

    pub(crate) async fn list_da(&self, request: v1::ListDaRequest) -> Result<v1::ListDaReply, Status> {
        let page = Page::parse("da", request.page_size, &request.page_token)?;
        let (records, next) = self.da_page(&page).await?;
        let das = all(records.into_iter().map(|record| self.summarised(record)).collect()).await?;
        Ok(v1::ListDaReply {
            das,
            next_page_token: next.map(|last| page::next("da", &last)).unwrap_or_default(),
        })
    }

    async fn summarised(&self, record: Versioned<v1::DaRecord>) -> Result<v1::Da, Status> {
        let gathered = self.gather(&record.value, false).await?;
        Ok(v1::Da {
            status: Some(gathered.status()),
            spec: Some(record.value),
            revision: record.revision,
            ..v1::Da::default()
        })
    }

    /// Records of a page in the order of names, and the last name if there are more.
    pub(crate) async fn da_page(
        &self,
        page: &Page,
    ) -> Result<(Vec<Versioned<v1::DaRecord>>, Option<String>), Status> {
        let after = (!page.after.is_empty()).then(|| DaKey(page.after.clone()).path(self.store.prefix()));
        let listing = self
            .store
            .list(Scope::Das, after.as_deref(), page.size, 0)
            .await
            .map_err(|e| status::store(&e))?;
        let next = match (&listing.next, listing.entries.last()) {
            (Some(_), Some((AnyKey::Da(name), _))) => Some(name.clone()),
            _ => None,
        };
        let decode = |(key, raw): &(AnyKey, vda_store::Raw)| {
            let record = raw.decode::<DaKey>(key).map_err(|e| status::store(&e))?;
            Ok(Versioned::new(record.value, record.revision))
        };
        let records = listing.entries.iter().map(decode).collect::<Result<Vec<_>, Status>>()?;
        Ok((records, next))
    }

    /// Reads what the state of a DA is derived from. Without `detail` only what is needed to say whether it serves, and if it does not, why.
    pub(crate) async fn gather(&self, record: &v1::DaRecord, detail: bool) -> Result<Gathered, Status> {
        let da = derived::da_id(record).map_err(|e| status::refused(&e))?;
        let cntlrs = self.gather_cntlrs(record, da).await.map_err(|e| status::store(&e))?;
        let mut gathered = Gathered { cntlrs, shares: Vec::new(), legs: Vec::new() };
        let serves = matches!(gathered.status().condition(), v1::Condition::Ready | v1::Condition::Degraded);
        if detail || !serves {
            gathered.shares = self.gather_shares(record, da).await?;
        }
        if detail {
            gathered.legs = self.gather_legs(da).await.map_err(|e| status::store(&e))?;
        }
        Ok(gathered)
    }

    async fn gather_cntlrs(&self, record: &v1::DaRecord, da: DaId) -> Result<Vec<GatheredCntlr>, KvError> {
        let mut cntlrs = Vec::new();
        for place in &record.cntlrs {
            let Ok(cn) = place.cn_id.parse::<CnId>() else { continue };
            let (status_key, node_key) = (CntlrStatusKey(cn, da), CnStatusKey(cn));
            let (specs, observed, node) = tokio::try_join!(
                self.store.list(Scope::CnDa(cn, da), None, 0, 0),
                self.store.get(&status_key),
                self.store.get(&node_key),
            )?;
            let revision = specs.entries.iter().map(|(_, raw)| raw.revision).max().unwrap_or(0);
            let spec = v1::CnSpec { address: place.cn_address.clone(), ..v1::CnSpec::default() };
            let node = view::cn(&spec, node.map(|n| n.value).as_ref());
            let status = observed.map(|o| o.value);
            cntlrs.push(GatheredCntlr { place: place.clone(), revision, status, node });
        }
        Ok(cntlrs)
    }

    async fn gather_shares(&self, record: &v1::DaRecord, da: DaId) -> Result<Vec<GatheredShare>, Status> {
        let dns: BTreeMap<DnId, &str> = derived::members(record)
            .filter_map(|(.., member)| Some((member.dn_id.parse().ok()?, member.dn_address.as_str())))
            .collect();
        let read = |(dn, address): (DnId, &str)| {
            let spec = v1::DnSpec { address: address.to_owned(), ..v1::DnSpec::default() };
            async move {
                let (status_key, node_key) = (ShareStatusKey(dn, da), DnStatusKey(dn));
                let read = tokio::try_join!(self.store.get(&status_key), self.store.get(&node_key));
                let (status, node) = read.map_err(|e| status::store(&e))?;
                let node = view::dn(&spec, node.map(|n| n.value).as_ref());
                Ok::<_, Status>(GatheredShare {
                    dn_address: spec.address,
                    status: status.map(|s| s.value),
                    node,
                })
            }
        };
        all(dns.into_iter().map(read).collect()).await
    }

    async fn gather_legs(&self, da: DaId) -> Result<Vec<v1::LegState>, KvError> {
        let listing = self.store.list(Scope::LegsOf(da), None, 0, 0).await?;
        listing.entries.iter().map(|(key, raw)| raw.decode::<LegStateKey>(key).map(|s| s.value)).collect()
    }
}
