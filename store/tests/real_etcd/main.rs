//! The store on a real etcd. Skipped where none is installed.
#![allow(clippy::unwrap_used)]

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use vda_model::ids::{DaId, DnId, MonitorId};
use vda_model::keys::{AnyKey, DaKey, DaTombstoneKey, Key, Prefix, Scope};
use vda_proto::v1::{DaRecord, DaTombstone};
use vda_store::{
    Abort, Committed, EtcdConfig, EtcdKv, Fault, FlakyKv, KvError, Membership, MembershipConfig, OrAbort,
    RangeRequest, StmError, Store, Tx, Txn, TxnReply, WatchCache, Write,
};

mod process;

use process::Etcd;

async fn running() -> Option<(Etcd, Store)> {
    let etcd = Etcd::start()?;
    let store = etcd.store();
    etcd.ready(&store).await;
    Some((etcd, store))
}

fn da(name: &str, size_bytes: u64) -> DaRecord {
    DaRecord { schema_version: 1, da_name: name.to_owned(), size_bytes, ..DaRecord::default() }
}

/// Adds 1 to a counter and creates a record that must be new, as creating an array does.
async fn create(store: &Store, name: String) -> Result<Committed<u64>, StmError<Infallible>> {
    let body = move |tx: Tx| {
        let name = name.clone();
        async move {
            let key = DaKey("counter".into());
            let mut record = tx.get(&key).await?.map_or_else(|| da("counter", 0), |v| v.value);
            record.size_bytes += 1;
            assert!(
                tx.get_speculative_absent(&DaKey(name.clone())).await?.is_none(),
                "{name} was created twice"
            );
            tx.put(&key, &record);
            tx.put(&DaKey(name.clone()), &da(&name, record.size_bytes));
            tx.touch_dn(DnId::new(1));
            Ok::<_, Abort<Infallible>>(record.size_bytes)
        }
    };
    store.lane().submit("create", body).await
}

async fn counter(store: &Store) -> u64 {
    store.get(&DaKey("counter".into())).await.unwrap().map_or(0, |v| v.value.size_bytes)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_stores_contend_and_nothing_is_lost() {
    let Some((etcd, one)) = running().await else { return };
    let two = etcd.store();
    let creates = (0..200_u32).map(|n| {
        let store = if n % 2 == 0 { one.clone() } else { two.clone() };
        async move {
            while let Err(error) = create(&store, format!("da{n}")).await {
                assert!(matches!(error, StmError::Conflict { .. }), "{error}");
            }
        }
    });
    futures::future::join_all(creates).await;
    assert_eq!(counter(&one).await, 200);
    assert_eq!(one.list_all(Scope::Das, 0).await.unwrap().entries.len(), 201);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lost_answers_neither_lose_nor_double() {
    let Some((etcd, _)) = running().await else { return };
    let flaky = FlakyKv::new(Arc::new(EtcdKv::new(etcd.config())));
    let mut n = 0_u32;
    flaky.script(move |_| {
        n += 1;
        match n % 5 {
            1 => Fault::ReplyLost,
            3 => Fault::Late(Duration::from_millis(30)),
            4 => Fault::RequestLost,
            _ => Fault::None,
        }
    });
    let store = Store::new(Arc::new(flaky), Prefix::default());
    for round in 0..10 {
        let creates = (0..5).map(|n| create(&store, format!("da{round}-{n}")));
        for created in futures::future::join_all(creates).await {
            created.unwrap();
        }
    }
    assert_eq!(counter(&store).await, 50);
    assert!(store.stats().ambiguous > 0);
}

/// Waits until there are so many more than now.
async fn more(count: &watch::Sender<u32>, by: u32) {
    let mut seen = count.subscribe();
    let now = *seen.borrow();
    seen.wait_for(|n| *n >= now + by).await.unwrap();
}

/// Kills etcd while creates are running; every create that was answered must be there, and none twice.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn etcd_killed_in_mid_run() {
    let Some((mut etcd, store)) = running().await else { return };
    let stop = CancellationToken::new();
    let answered = watch::Sender::new(0_u32);
    let clients: Vec<_> = (0..4)
        .map(|client| {
            let (store, stop, answered) = (store.clone(), stop.clone(), answered.clone());
            tokio::spawn(async move {
                let mut done = Vec::new();
                let mut n = 0;
                while !stop.is_cancelled() {
                    let name = format!("da{client}-{n}");
                    match create(&store, name.clone()).await {
                        Ok(_) => {
                            done.push(name);
                            n += 1;
                            answered.send_modify(|n| *n += 1);
                        }
                        // Its outcome is unknown: go on with another name.
                        Err(StmError::Ambiguous { .. }) => n += 1,
                        Err(error) => {
                            assert!(error.retryable(), "{error}");
                            tokio::time::sleep(Duration::from_millis(50)).await;
                        }
                    }
                }
                done
            })
        })
        .collect();
    for _ in 0..3 {
        more(&answered, 8).await;
        etcd.kill();
        // Long enough to be noticed, most of the time; nothing depends on it.
        tokio::time::sleep(Duration::from_millis(200)).await;
        etcd.up();
        etcd.ready(&store).await;
    }
    more(&answered, 8).await;
    stop.cancel();
    let mut done = Vec::new();
    for client in clients {
        done.extend(client.await.unwrap());
    }
    let listing = store.list_all(Scope::Das, 0).await.unwrap();
    let there: std::collections::BTreeSet<AnyKey> = listing.entries.into_iter().map(|(key, _)| key).collect();
    for name in &done {
        assert!(there.contains(&DaKey(name.clone()).any()), "{name} was answered but is lost");
    }
    // Every record that exists was counted exactly once.
    assert_eq!(counter(&store).await, there.len() as u64 - 1);
}

#[tokio::test]
async fn etcd_that_is_down_is_unavailable_and_comes_back_by_itself() {
    let Some(mut etcd) = Etcd::stopped() else { return };
    let store = etcd.store();
    let error = store.get(&DaKey("da0".into())).await.unwrap_err();
    assert!(matches!(error, KvError::Unavailable { .. }), "{error:?}");
    assert!(error.to_string().contains("etcd is unavailable"), "{error}");
    // A commit that could not be sent is known not to have been applied.
    let error = create(&store, "da0".into()).await.unwrap_err();
    assert!(matches!(error, StmError::Kv(KvError::Unavailable { .. })), "{error:?}");
    let put = Write::Put { key: "/x".into(), value: "1".into(), lease: None };
    let error = store.kv().commit(Txn { writes: vec![put], ..Txn::default() }).await.unwrap_err();
    assert!(matches!(error, KvError::Unavailable { .. }), "{error:?}");
    etcd.up();
    etcd.ready(&store).await;
    create(&store, "da0".into()).await.unwrap();
}

#[tokio::test]
async fn a_refused_transaction_brings_the_current_values() {
    let Some((_etcd, store)) = running().await else { return };
    create(&store, "da0".into()).await.unwrap();
    let key = DaKey("counter".into()).path(store.prefix());
    let txn = Txn {
        compares: vec![vda_store::Compare { key: key.clone(), mod_revision: 1 }],
        also_read: vec!["/nothing".into()],
        ..Txn::default()
    };
    let TxnReply::Refused { found, .. } = store.kv().commit(txn).await.unwrap() else { panic!("committed") };
    assert_eq!(found[0].0, key);
    assert!(found[0].1.as_ref().is_some_and(|kv| kv.mod_revision > 1));
    assert_eq!(found[1], ("/nothing".to_owned(), None));
}

#[tokio::test]
async fn limits_and_leases_are_classified() {
    let Some((_etcd, store)) = running().await else { return };
    let kv = store.kv();
    let put = |n: u32| Write::Put { key: format!("/k{n}"), value: "".into(), lease: None };
    let many = Txn { writes: (0..129).map(put).collect(), ..Txn::default() };
    assert!(matches!(kv.commit(many).await, Err(KvError::TooLarge { .. })));
    let large = Write::Put { key: "/large".into(), value: vec![0; 2 << 20].into(), lease: None };
    assert!(matches!(
        kv.commit(Txn { writes: vec![large], ..Txn::default() }).await,
        Err(KvError::TooLarge { .. })
    ));
    let lease = kv.grant(5).await.unwrap();
    kv.keep_alive(lease).await.unwrap();
    let leased = Write::Put { key: "/leased".into(), value: "".into(), lease: Some(lease) };
    kv.commit(Txn { writes: vec![leased.clone()], ..Txn::default() }).await.unwrap();
    kv.revoke(lease).await.unwrap();
    kv.revoke(lease).await.unwrap();
    assert!(kv.range(RangeRequest::key("/leased")).await.unwrap().kvs.is_empty());
    assert_eq!(kv.keep_alive(lease).await, Err(KvError::LeaseGone { lease: lease.0 }));
    assert!(matches!(
        kv.commit(Txn { writes: vec![leased], ..Txn::default() }).await,
        Err(KvError::LeaseGone { .. })
    ));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_watch_cache_survives_restarts_and_compaction() {
    let Some((mut etcd, store)) = running().await else { return };
    create(&store, "da0".into()).await.unwrap();
    let end = CancellationToken::new();
    let cache = WatchCache::start(&store, vec![Scope::Das], end.clone());
    let mut changes = cache.subscribe();
    assert!(changes.next().await.unwrap().everything);
    let has = |name: &str| cache.read(|s| s.get(&DaKey(name.into())).unwrap().is_some());
    assert!(has("da0"));

    let revision = create(&store, "da1".into()).await.unwrap().revision;
    assert!(cache.reached(revision).await);
    assert!(has("da1"));
    assert!(changes.next().await.unwrap().keys.contains(&DaKey("da1".into()).any()));

    etcd.kill();
    etcd.up();
    etcd.ready(&store).await;
    let revision = create(&store, "da2".into()).await.unwrap().revision;
    assert!(cache.reached(revision).await);
    assert!(has("da2"));

    // While it is away: changes, a deletion, and the history of all of it compacted.
    let other = etcd.store();
    let gone = |tx: Tx| async move {
        tx.delete(&DaKey("da0".into()));
        Ok::<_, Abort<Infallible>>(())
    };
    etcd.kill();
    etcd.up();
    etcd.ready(&other).await;
    other.stm("delete", gone).await.unwrap();
    let revision = create(&other, "da3".into()).await.unwrap().revision;
    etcd.compact(revision);
    let revision = create(&other, "da4".into()).await.unwrap().revision;
    assert!(cache.reached(revision).await);
    assert!(!has("da0") && has("da3") && has("da4"));
    end.cancel();
    while changes.next().await.is_some() {}
}

#[tokio::test]
async fn membership_comes_goes_and_is_renewed() {
    let Some((_etcd, store)) = running().await else { return };
    let end = CancellationToken::new();
    let cache = WatchCache::start(&store, vec![Scope::Monitors], end.clone());
    let mut changes = cache.subscribe();
    let leave = CancellationToken::new();
    let config =
        |n: u64| MembershipConfig { id: MonitorId::new(n), host: "here".into(), ttl_s: 2, started_ms: 0 };
    let one = Membership::join(store.clone(), config(1), leave.clone());
    let two = Membership::join(store.clone(), config(2), end.clone());
    while cache.read(|s| s.monitors().len()) < 2 {
        changes.next().await.unwrap();
    }
    leave.cancel();
    one.left().await;
    while cache.read(|s| s.monitors()) != [MonitorId::new(2)].into() {
        changes.next().await.unwrap();
    }
    // Outlives its TTL. On a machine that stands still for as long it ends and comes back.
    tokio::time::sleep(Duration::from_secs(4)).await;
    while cache.read(|s| s.monitors()) != [MonitorId::new(2)].into() {
        changes.next().await.unwrap();
    }
    end.cancel();
    two.left().await;
}

#[tokio::test]
async fn an_endpoint_that_is_no_address_is_said_so() {
    let store = Store::new(Arc::new(EtcdKv::new(EtcdConfig::new("not an address"))), Prefix::default());
    let error = store.get(&DaKey("da0".into())).await.unwrap_err();
    assert!(matches!(&error, KvError::Invalid { detail } if detail.contains("not an address")), "{error:?}");
}

#[tokio::test]
async fn pages_are_of_one_revision() {
    let Some((_etcd, store)) = running().await else { return };
    let put = |n: u64| {
        move |tx: Tx| async move {
            tx.put(
                &DaTombstoneKey(DaId::new(n)),
                &DaTombstone { schema_version: 1, ..DaTombstone::default() },
            );
            Ok::<_, Infallible>(()).or_abort()
        }
    };
    for n in 0..25 {
        store.stm("put", put(n)).await.unwrap();
    }
    let mut page = store.list(Scope::DaTombstones, None, 10, 0).await.unwrap();
    let as_of = page.revision;
    store.stm("put", put(99)).await.unwrap();
    let mut seen = page.entries.len();
    while let Some(after) = page.next.take() {
        page = store.list(Scope::DaTombstones, Some(&after), 10, as_of).await.unwrap();
        seen += page.entries.len();
    }
    assert_eq!(seen, 25, "the one put in between is of a later revision");
}
