//! Who is in the way of a change, by name. That somebody is, the books say, in the transaction; who it is, is read for the refusal only.

use std::collections::BTreeSet;

use tonic::Status;
use vda_model::{
    Error,
    ids::{CnId, DnId},
    keys::*,
};
use vda_store::{Abort, KvError, StmError, Store, Tx};

use crate::{
    mutate::{Call, Refused, Reply, failed},
    server::Portal,
};

/// Whose users are named.
pub(crate) enum Of<'a> {
    Cn {
        address: &'a str,
    },
    /// All PDs of a DN.
    Dn {
        address: &'a str,
    },
    Pd {
        dn_address: &'a str,
        pd_name: &'a str,
    },
}

impl Portal {
    /// As [`Portal::mutate`]; a refusal because of users names them.
    pub(crate) async fn mutate_used<R, F, Fut>(&self, call: &Call, of: Of<'_>, body: F) -> Result<R, Status>
    where
        R: Reply,
        F: Fn(Tx) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<R, Abort<Refused>>> + Send + 'static,
    {
        match self.try_mutate(call, body).await {
            Ok(reply) => Ok(reply),
            Err(error) => Err(failed(call.method, &named(&self.store, of, error).await)),
        }
    }
}

/// `error` with the names of the DAs, if it is a refusal because of users and they can be read.
async fn named(store: &Store, of: Of<'_>, error: StmError<Refused>) -> StmError<Refused> {
    let StmError::Domain(Refused(Error::InUse { resource, by })) = error else { return error };
    let names = match names(store, &of).await {
        Ok(names) if !names.is_empty() => names.into_iter().map(|name| format!("DA {name}")).collect(),
        Ok(_) => by,
        Err(error) => {
            tracing::warn!(%resource, %error, "cannot read who uses it");
            by
        }
    };
    StmError::Domain(Refused(Error::InUse { resource, by: names }))
}

async fn names(store: &Store, of: &Of<'_>) -> Result<BTreeSet<String>, KvError> {
    match of {
        Of::Cn { address } => {
            let index = store.get(&CnNameKey((*address).to_owned())).await?;
            match index.and_then(|index| index.value.id.parse().ok()) {
                Some(cn) => on_cn(store, cn).await,
                None => Ok(BTreeSet::new()),
            }
        }
        Of::Dn { address } | Of::Pd { dn_address: address, .. } => {
            let index = store.get(&DnNameKey((*address).to_owned())).await?;
            match index.and_then(|index| index.value.id.parse().ok()) {
                Some(dn) => on_dn(store, dn, of).await,
                None => Ok(BTreeSet::new()),
            }
        }
    }
}

async fn on_cn(store: &Store, cn: CnId) -> Result<BTreeSet<String>, KvError> {
    let mut names = BTreeSet::new();
    for (key, raw) in store.list_all(Scope::CnDas(cn), 0).await?.entries {
        if let AnyKey::CntlrSpec(..) = key {
            let spec = raw.decode::<CntlrSpecKey>(&key)?.value;
            if !spec.deleting {
                names.insert(spec.da_name);
            }
        }
    }
    Ok(names)
}

async fn on_dn(store: &Store, dn: DnId, of: &Of<'_>) -> Result<BTreeSet<String>, KvError> {
    let pd_id = match of {
        Of::Pd { pd_name, .. } => {
            let books = store.get(&DnCapacityKey(dn)).await?.map(|books| books.value.pds).unwrap_or_default();
            Some(books.into_iter().find(|pd| pd.pd_name == *pd_name).map(|pd| pd.pd_id).unwrap_or_default())
        }
        Of::Cn { .. } | Of::Dn { .. } => None,
    };
    let mut names = BTreeSet::new();
    for (key, raw) in store.list_all(Scope::DnShares(dn), 0).await?.entries {
        let share = raw.decode::<DnShareKey>(&key)?.value;
        let uses = share.vds.iter().any(|vd| pd_id.as_ref().is_none_or(|id| vd.pd_id == *id));
        // A deleted one is in the way of a DN's new location until it is gone, but not of a PD's deletion.
        if uses && (!share.deleting || pd_id.is_none()) {
            let gone_soon = if share.deleting { " (being deleted)" } else { "" };
            names.insert(format!("{}{gone_soon}", share.da_name));
        }
    }
    Ok(names)
}
