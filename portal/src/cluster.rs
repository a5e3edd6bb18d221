//! What is known of the nodes without asking: the copy that etcd's watch keeps, and newer values of this portal's own making.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use futures::{StreamExt, TryStreamExt, stream};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use vda_model::{
    ids::{CnId, DnId, PdId},
    keys::*,
};
use vda_proto::v1;
use vda_store::{KvError, Store, Versioned, WatchCache};

/// Reads in flight at once.
const CONCURRENT_READS: usize = 32;

/// The results of all reads, in their order, some of them at a time.
pub(crate) async fn all<T, E>(reads: Vec<impl Future<Output = Result<T, E>>>) -> Result<Vec<T>, E> {
    stream::iter(reads).buffered(CONCURRENT_READS).try_collect().await
}

/// A DN with all that placing needs.
#[derive(Debug, Clone)]
pub(crate) struct KnownDn {
    pub(crate) listener: v1::NvmfListener,
    pub(crate) capacity: v1::DnCapacity,
    pub(crate) status: Option<v1::DnStatus>,
}

/// A CN with all that placing needs.
#[derive(Debug, Clone)]
pub(crate) struct KnownCn {
    pub(crate) listener: v1::NvmfListener,
    pub(crate) capacity: v1::CnCapacity,
    pub(crate) status: Option<v1::CnStatus>,
}

/// Books that are newer than the watch's, by the revision at which they were read or written.
#[derive(Debug, Default)]
struct Newer {
    dns: HashMap<DnId, (KnownDn, u64)>,
    cns: HashMap<CnId, (KnownCn, u64)>,
    /// Promised to creates in flight: bytes and disks by PD, controllers by CN.
    pending_pds: HashMap<PdId, u64>,
    pending_cns: HashMap<CnId, u32>,
}

/// See the module.
#[derive(Debug, Clone)]
pub(crate) struct Cluster {
    pub(crate) cache: WatchCache,
    newer: Arc<Mutex<Newer>>,
    /// Creates that are not in flight any more.
    settled: Arc<watch::Sender<u64>>,
    refreshing: Arc<tokio::sync::Mutex<()>>,
}

/// Records about nodes are kept; of all others only the change is told.
const fn kept(key: &AnyKey) -> bool {
    matches!(
        key,
        AnyKey::DnSpec(_)
            | AnyKey::DnCapacity(_)
            | AnyKey::CnSpec(_)
            | AnyKey::CnCapacity(_)
            | AnyKey::DnStatus(_)
            | AnyKey::CnStatus(_)
            | AnyKey::PdSpec(..)
            | AnyKey::Monitor(_)
    )
}

impl Cluster {
    pub(crate) fn start(store: &Store, cancelled: CancellationToken) -> Self {
        Self {
            cache: WatchCache::start_keeping(store, vec![Scope::All], kept, cancelled),
            newer: Arc::default(),
            settled: Arc::new(watch::Sender::new(0)),
            refreshing: Arc::default(),
        }
    }

    fn newer(&self) -> MutexGuard<'_, Newer> {
        self.newer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// All nodes that exist. A record that cannot be decoded is left out.
    fn known(&self, newer: &mut Newer) -> (BTreeMap<DnId, KnownDn>, BTreeMap<CnId, KnownCn>) {
        let (mut dns, mut cns) = (BTreeMap::new(), BTreeMap::new());
        self.cache.read(|snapshot| {
            for (key, raw) in snapshot.iter() {
                match key {
                    AnyKey::DnCapacity(dn) => {
                        let Ok(books) = raw.decode::<DnCapacityKey>(key) else { continue };
                        let Ok(Some(spec)) = snapshot.get(&DnSpecKey(*dn)) else { continue };
                        let listener = spec.value.listener.unwrap_or_default();
                        let status = snapshot.get(&DnStatusKey(*dn)).ok().flatten().map(|s| s.value);
                        dns.insert(
                            *dn,
                            (KnownDn { listener, capacity: books.value, status }, books.revision),
                        );
                    }
                    AnyKey::CnCapacity(cn) => {
                        let Ok(books) = raw.decode::<CnCapacityKey>(key) else { continue };
                        let Ok(Some(spec)) = snapshot.get(&CnSpecKey(*cn)) else { continue };
                        let listener = spec.value.listener.unwrap_or_default();
                        let status = snapshot.get(&CnStatusKey(*cn)).ok().flatten().map(|s| s.value);
                        cns.insert(
                            *cn,
                            (KnownCn { listener, capacity: books.value, status }, books.revision),
                        );
                    }
                    _ => {}
                }
            }
            // What the watch has caught up with is forgotten.
            newer.dns.retain(|_, (_, revision)| *revision > snapshot.revision);
            newer.cns.retain(|_, (_, revision)| *revision > snapshot.revision);
        });
        for (dn, known) in &newer.dns {
            dns.insert(*dn, known.clone());
        }
        for (cn, known) in &newer.cns {
            cns.insert(*cn, known.clone());
        }
        let dns = dns.into_iter().map(|(dn, (known, _))| (dn, known)).collect();
        let cns = cns.into_iter().map(|(cn, (known, _))| (cn, known)).collect();
        (dns, cns)
    }

    /// Takes note of books as a transaction wrote or read them at `revision`.
    pub(crate) fn learn(&self, dns: Vec<(DnId, KnownDn)>, cn: Option<(CnId, KnownCn)>, revision: u64) {
        // 0: written by a transaction that is being committed, so newer than anything the watch has brought.
        let revision = if revision == 0 { self.cache.read(|s| s.revision) + 1 } else { revision };
        let mut newer = self.newer();
        for (dn, known) in dns {
            if newer.dns.get(&dn).is_none_or(|(_, old)| *old <= revision) {
                newer.dns.insert(dn, (known, revision));
            }
        }
        if let Some((cn, known)) = cn
            && newer.cns.get(&cn).is_none_or(|(_, old)| *old <= revision)
        {
            newer.cns.insert(cn, (known, revision));
        }
    }

    /// Lets `choose` pick places on the nodes, and counts in what it says it takes, until the reservation is dropped. One at a time: the
    /// next one sees what this one took.
    pub(crate) fn choosing<P, E>(
        &self,
        choose: impl Fn(&mut BTreeMap<DnId, KnownDn>, &mut BTreeMap<CnId, KnownCn>) -> Result<Chosen<P>, E>,
    ) -> Result<(P, Reservation), NotChosen<E>> {
        let mut newer = self.newer();
        let (mut dns, mut cns) = self.known(&mut newer);
        newer.take_pending(&mut dns, &mut cns);
        let chosen = choose(&mut dns, &mut cns).map_err(|error| {
            let (mut dns, mut cns) = self.known(&mut newer);
            match choose(&mut dns, &mut cns) {
                Ok(_) => NotChosen { error, in_flight: true },
                Err(error) => NotChosen { error, in_flight: false },
            }
        })?;
        for (pd, bytes) in &chosen.pds {
            *newer.pending_pds.entry(*pd).or_default() += bytes;
        }
        *newer.pending_cns.entry(chosen.cn).or_default() += 1;
        Ok((chosen.plan, Reservation { cluster: self.clone(), pds: chosen.pds, cn: chosen.cn }))
    }

    /// How many creates of this portal are done, for [`Self::settles_after`].
    pub(crate) fn settled(&self) -> u64 {
        *self.settled.borrow()
    }

    /// Waits until more creates are done than `settled`. One must have been in flight when that was asked, or after.
    pub(crate) async fn settles_after(&self, settled: u64) {
        // The sender is in `self`: it cannot be gone.
        self.settled.subscribe().wait_for(|now| *now > settled).await.ok();
    }

    /// Reads the nodes anew: what was placed on must not be refused because a watch lags.
    pub(crate) async fn refresh(&self, store: &Store) -> Result<(), KvError> {
        let _one_at_a_time = self.refreshing.lock().await;
        let listing = store.list_all(Scope::DnNames, 0).await?;
        let ids = listing
            .entries
            .iter()
            .filter_map(|(key, raw)| raw.decode::<DnNameKey>(key).ok()?.value.id.parse().ok());
        let ids: Vec<DnId> = ids.collect();
        let dns = all(ids.into_iter().map(|dn| read_dn(store, dn)).collect()).await?;
        let listing = store.list_all(Scope::CnNames, 0).await?;
        let ids = listing
            .entries
            .iter()
            .filter_map(|(key, raw)| raw.decode::<CnNameKey>(key).ok()?.value.id.parse().ok());
        let ids: Vec<CnId> = ids.collect();
        let cns = all(ids.into_iter().map(|cn| read_cn(store, cn)).collect()).await?;
        let mut newer = self.newer();
        newer.dns.clear();
        newer.cns.clear();
        for (id, known, revision) in dns.into_iter().flatten() {
            newer.dns.insert(id, (known, revision));
        }
        for (id, known, revision) in cns.into_iter().flatten() {
            newer.cns.insert(id, (known, revision));
        }
        Ok(())
    }
}

impl Newer {
    fn take_pending(&self, dns: &mut BTreeMap<DnId, KnownDn>, cns: &mut BTreeMap<CnId, KnownCn>) {
        if self.pending_cns.is_empty() {
            return;
        }
        for pd in dns.values_mut().flat_map(|dn| &mut dn.capacity.pds) {
            let pending = pd.pd_id.parse().ok().and_then(|id| self.pending_pds.get(&id));
            pd.used_bytes = pd.used_bytes.saturating_add(pending.copied().unwrap_or(0));
        }
        for (cn, count) in &self.pending_cns {
            if let Some(known) = cns.get_mut(cn) {
                known.capacity.live_cntlrs = known.capacity.live_cntlrs.saturating_add(*count);
            }
        }
    }
}

type Read<I, N> = Result<Option<(I, N, u64)>, KvError>;

async fn read_dn(store: &Store, dn: DnId) -> Read<DnId, KnownDn> {
    let (spec_key, books_key, status_key) = (DnSpecKey(dn), DnCapacityKey(dn), DnStatusKey(dn));
    let (spec, books, status) =
        tokio::try_join!(store.get(&spec_key), store.get(&books_key), store.get(&status_key))?;
    let (Some(spec), Some(books)) = (spec, books) else { return Ok(None) };
    let status = status.map(|s: Versioned<v1::DnStatus>| s.value);
    let known = KnownDn { listener: spec.value.listener.unwrap_or_default(), capacity: books.value, status };
    Ok(Some((dn, known, books.revision)))
}

async fn read_cn(store: &Store, cn: CnId) -> Read<CnId, KnownCn> {
    let (spec_key, books_key, status_key) = (CnSpecKey(cn), CnCapacityKey(cn), CnStatusKey(cn));
    let (spec, books, status) =
        tokio::try_join!(store.get(&spec_key), store.get(&books_key), store.get(&status_key))?;
    let (Some(spec), Some(books)) = (spec, books) else { return Ok(None) };
    let status = status.map(|s: Versioned<v1::CnStatus>| s.value);
    let known = KnownCn { listener: spec.value.listener.unwrap_or_default(), capacity: books.value, status };
    Ok(Some((cn, known, books.revision)))
}

/// What was chosen: a plan, the bytes it takes of each PD, and the CN of which it takes a controller.
pub(crate) struct Chosen<P> {
    pub(crate) plan: P,
    pub(crate) pds: Vec<(PdId, u64)>,
    pub(crate) cn: CnId,
}

/// Nothing was chosen, and why.
pub(crate) struct NotChosen<E> {
    pub(crate) error: E,
    /// Only because of what other creates of this portal were promised, who may not take it.
    pub(crate) in_flight: bool,
}

/// What a create in flight takes; given back when dropped.
#[derive(Debug)]
pub(crate) struct Reservation {
    cluster: Cluster,
    pds: Vec<(PdId, u64)>,
    cn: CnId,
}

impl Drop for Reservation {
    fn drop(&mut self) {
        let mut newer = self.cluster.newer();
        for (pd, bytes) in &self.pds {
            if let Some(pending) = newer.pending_pds.get_mut(pd) {
                *pending = pending.saturating_sub(*bytes);
            }
        }
        newer.pending_pds.retain(|_, bytes| *bytes > 0);
        if let Some(pending) = newer.pending_cns.get_mut(&self.cn) {
            *pending = pending.saturating_sub(1);
        }
        newer.pending_cns.retain(|_, count| *count > 0);
        drop(newer);
        self.cluster.settled.send_modify(|n| *n += 1);
    }
}
