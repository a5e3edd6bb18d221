//! Exporters.

use tonic::Status;
use vda_model::{
    Versioned,
    ids::ExpId,
    requests,
    transitions::{derived, exp},
    view,
};
use vda_proto::v1;

use crate::{
    cluster::all,
    da::{self, Gathered},
    mutate::{Call, OrRefuse, apply},
    page::{self, Page},
    random,
    server::Portal,
    status,
};

/// An EXP as its request left it; what has become of it is not known in a transaction.
fn pending(record: &v1::DaRecord, exp: v1::ExpRecord, revision: u64) -> v1::Exp {
    reply(record, exp, revision, &Gathered::unknown(record))
}

/// An EXP as users see it.
fn reply(record: &v1::DaRecord, exp: v1::ExpRecord, revision: u64, gathered: &Gathered) -> v1::Exp {
    let status = view::exporter(&exp.exp_id, &gathered.status(), &gathered.cntlrs());
    let path = |cntlr: &da::GatheredCntlr| v1::ExpPath {
        cn_address: cntlr.place.cn_address.clone(),
        listener: cntlr.place.listener.clone(),
        ana_state: derived::exp_spec(record, &exp, &cntlr.place).map(|s| s.ana_state).unwrap_or_default(),
        observed: cntlr.status.iter().flat_map(|s| &s.exps).find(|e| e.exp_id == exp.exp_id).cloned(),
    };
    v1::Exp {
        paths: gathered.cntlrs.iter().map(path).collect(),
        da_name: record.da_name.clone(),
        revision,
        status: Some(status),
        ns_uuid: record.volume_uuid.clone(),
        size_bytes: record.size_bytes,
        spec: Some(exp),
    }
}

impl Portal {
    pub(crate) async fn create_exp(&self, request: v1::CreateExpRequest) -> Result<v1::Exp, Status> {
        let new = requests::new_exp(&request).map_err(|e| status::refused(&e))?;
        let call = Call::new("CreateExp", &request.request_id, &request)?;
        let (id, now_ms) = (ExpId::new(random::bits()), call.now_ms);
        self.mutate(&call, move |tx| {
            let new = new.clone();
            async move {
                let record = da::load(&tx, &new.da_name).await?;
                let (delta, record) = exp::create(&record, &new, id, now_ms).or_refuse()?;
                apply(&delta, &tx);
                let made = exp::find(&record, &new.exp_name).or_refuse()?.clone();
                Ok(pending(&record, made, 0))
            }
        })
        .await
    }

    pub(crate) async fn modify_exp(&self, request: v1::ModifyExpRequest) -> Result<v1::Exp, Status> {
        requests::exp_change(&request).map_err(|e| status::refused(&e))?;
        let call = Call::new("ModifyExp", &request.request_id, &request)?;
        let (da_name, exp_name) = (request.da_name.clone(), request.exp_name.clone());
        let changed = self.mutate(&call, move |tx| {
            let request = request.clone();
            async move {
                let before = da::load(&tx, &request.da_name).await?;
                let (delta, record) = exp::modify(&before, &request).or_refuse()?;
                apply(&delta, &tx);
                let changed = exp::find(&record, &request.exp_name).or_refuse()?.clone();
                Ok(pending(&record, changed, if delta.is_empty() { before.revision } else { 0 }))
            }
        });
        let changed = changed.await?;
        Ok(self.get_exp(&da_name, &exp_name).await.unwrap_or(changed))
    }

    /// The id of the answer is `<da id>.<exp id>`: where the EXP's tombstones are is found by its DA.
    pub(crate) async fn delete_exp(&self, request: v1::DeleteExpRequest) -> Result<v1::DeleteReply, Status> {
        let call = Call::new("DeleteExp", &request.request_id, &request)?;
        self.mutate(&call, move |tx| {
            let request = request.clone();
            async move {
                let record = da::load(&tx, &request.da_name).await?;
                let (delta, gone) = exp::delete(&record, &request.exp_name, request.revision).or_refuse()?;
                apply(&delta, &tx);
                Ok(v1::DeleteReply { revision: 0, id: format!("{}.{}", record.value.da_id, gone.exp_id) })
            }
        })
        .await
    }

    pub(crate) async fn get_exp(&self, da_name: &str, exp_name: &str) -> Result<v1::Exp, Status> {
        let record = self.read_da(da_name).await?;
        let exp = exp::find(&record.value, exp_name).map_err(|e| status::refused(&e))?.clone();
        let gathered = self.gather(&record.value, false).await?;
        Ok(reply(&record.value, exp, record.revision, &gathered))
    }

    pub(crate) async fn list_exp(&self, request: v1::ListExpRequest) -> Result<v1::ListExpReply, Status> {
        let page = Page::parse("exp", request.page_size, &request.page_token)?;
        let (da_after, exp_after) = page.after.split_once('/').unwrap_or_default();
        let mut found: Vec<v1::Exp> = Vec::new();
        if !request.da_name.is_empty() {
            let record = self.read_da(&request.da_name).await?;
            found = self.exps_of(record).await?;
        } else {
            let mut after = String::new();
            if !da_after.is_empty() {
                // The rest of the DA at which the page before ended, then those after it.
                match self.read_da(da_after).await {
                    Ok(record) => found = self.exps_of(record).await?,
                    Err(gone) if gone.code() == tonic::Code::NotFound => {}
                    Err(error) => return Err(error),
                }
                da_after.clone_into(&mut after);
            }
            found.retain(|e| exp_name(e) > exp_after);
            while found.len() <= page.size {
                let (records, more) = self.da_page(&Page { size: 100, after: after.clone() }).await?;
                let exporting = records.into_iter().filter(|r| !r.value.exps.is_empty());
                let read = all(exporting.map(|record| self.exps_of(record)).collect()).await?;
                found.extend(read.concat());
                match more {
                    Some(last) => after = last,
                    None => break,
                }
            }
        }
        if !request.da_name.is_empty() {
            found.retain(|e| exp_name(e) > exp_after);
        }
        let more = found.len() > page.size;
        found.truncate(page.size);
        let last = found
            .last()
            .filter(|_| more)
            .map(|e| page::next("exp", &format!("{}/{}", e.da_name, exp_name(e))));
        Ok(v1::ListExpReply { exps: found, next_page_token: last.unwrap_or_default() })
    }

    /// The EXPs of a DA in the order of their names.
    async fn exps_of(&self, record: Versioned<v1::DaRecord>) -> Result<Vec<v1::Exp>, Status> {
        let gathered = self.gather(&record.value, false).await?;
        let mut exps = record.value.exps.clone();
        exps.sort_by(|a, b| a.exp_name.cmp(&b.exp_name));
        Ok(exps.into_iter().map(|exp| reply(&record.value, exp, record.revision, &gathered)).collect())
    }
}

fn exp_name(exp: &v1::Exp) -> &str {
    exp.spec.as_ref().map_or("", |s| &s.exp_name)
}
