use std::convert::Infallible;

use vda_model::ids::DaId;
use vda_model::keys::{DaKey, DaTombstoneKey, Prefix};
use vda_proto::v1::{DaRecord, DaTombstone};

use super::*;
use crate::{Abort, FlakyKv, Kv, MemKv, Tx};

fn setup() -> (MemKv, FlakyKv, Store, CancellationToken) {
    let mem = MemKv::new();
    let flaky = FlakyKv::new(Arc::new(mem.clone()));
    let kv: Arc<dyn Kv> = Arc::new(mem.clone());
    (mem, flaky, Store::new(kv, Prefix::default()), CancellationToken::new())
}

fn key(n: u64) -> DaTombstoneKey {
    DaTombstoneKey(DaId::new(n))
}

async fn put(store: &Store, n: u64) -> u64 {
    let body = |tx: Tx| async move {
        tx.put(&key(n), &DaTombstone { schema_version: 1, ..DaTombstone::default() });
        tx.put(&DaKey("other".into()), &DaRecord { schema_version: 1, ..DaRecord::default() });
        Ok::<_, Abort<Infallible>>(())
    };
    store.stm("put", body).await.unwrap().revision
}

async fn delete(store: &Store, n: u64) -> u64 {
    let body = |tx: Tx| async move {
        tx.delete(&key(n));
        Ok::<_, Abort<Infallible>>(())
    };
    store.stm("delete", body).await.unwrap().revision
}

fn keys(cache: &WatchCache) -> Vec<AnyKey> {
    cache.read(|s| s.iter().map(|(key, _)| key.clone()).collect())
}

#[tokio::test]
async fn it_follows_its_directories_and_no_others() {
    let (_, _, store, end) = setup();
    put(&store, 1).await;
    let cache = WatchCache::start(&store, vec![Scope::DaTombstones], end);
    let mut changes = cache.subscribe();
    assert!(changes.next().await.unwrap().everything);
    put(&store, 2).await;
    put(&store, 3).await;
    let revision = delete(&store, 1).await;
    assert!(cache.reached(revision).await);
    assert_eq!(keys(&cache), [key(2).any(), key(3).any()]);
    // What was not asked for is merged.
    let mut told = BTreeSet::new();
    while told.len() < 3 {
        told.extend(changes.next().await.unwrap().keys);
    }
    assert_eq!(told, [key(1).any(), key(2).any(), key(3).any()].into());
}

#[tokio::test(start_paused = true)]
async fn a_lost_watch_is_resumed_and_a_compacted_one_is_read_anew() {
    let (mem, flaky, store, end) = setup();
    let watched = Store::new(Arc::new(flaky.clone()), Prefix::default());
    put(&store, 1).await;
    let cache = WatchCache::start(&watched, vec![Scope::DaTombstones], end);
    assert!(cache.filled().await);
    for compact in [false, true] {
        let mut changes = cache.subscribe();
        assert!(changes.next().await.unwrap().everything);
        flaky.set_down(true);
        delete(&store, 1).await;
        let revision = put(&store, 2).await;
        if compact {
            mem.compact(revision);
        }
        put(&store, 1).await;
        let revision = delete(&store, 2).await;
        while cache.is_connected() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        flaky.set_down(false);
        assert!(cache.reached(revision).await);
        assert_eq!(keys(&cache), [key(1).any()]);
        assert_eq!(changes.next().await.unwrap().everything, compact);
    }
}

#[tokio::test]
async fn more_changes_than_anybody_wants_to_hear_of_become_everything() {
    let pending = Pending::default();
    let keys: Vec<AnyKey> = (0..=MAX_PENDING_KEYS as u64).map(|n| key(n).any()).collect();
    pending.add(1, &keys[..10], false);
    assert!(!pending.changes.lock().unwrap().clone().unwrap().everything);
    pending.add(2, &keys, false);
    pending.add(3, &keys[..1], false);
    let set = pending.changes.lock().unwrap().clone().unwrap();
    assert_eq!(set, ChangeSet { revision: 3, keys: BTreeSet::new(), everything: true });
}

#[tokio::test]
async fn it_ends_with_its_token() {
    let (_, flaky, _, end) = setup();
    flaky.set_down(true);
    let store = Store::new(Arc::new(flaky), Prefix::default());
    let cache = WatchCache::start(&store, vec![Scope::All], end.clone());
    let mut changes = cache.subscribe();
    end.cancel();
    assert!(!cache.filled().await);
    assert!(changes.next().await.is_none());
}
