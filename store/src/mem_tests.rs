use futures::StreamExt;

use super::*;

fn put(key: &str, value: &str) -> Write {
    Write::Put { key: key.into(), value: value.to_owned().into(), lease: None }
}

fn delete(key: &str) -> Write {
    Write::Delete { key: key.into() }
}

async fn commit(kv: &MemKv, writes: Vec<Write>) -> u64 {
    match kv.commit(Txn { writes, ..Txn::default() }).await.unwrap() {
        TxnReply::Committed { revision } => revision,
        refused => panic!("{refused:?}"),
    }
}

#[tokio::test]
async fn a_transaction_is_one_revision_and_a_delete_of_nothing_is_none() {
    let kv = MemKv::new();
    assert_eq!(commit(&kv, vec![put("/a", "1"), put("/b", "1")]).await, 2);
    assert_eq!(commit(&kv, vec![put("/a", "2")]).await, 3);
    assert_eq!(commit(&kv, vec![delete("/nothing")]).await, 3);
    let reply = kv.range(RangeRequest::prefix("/")).await.unwrap();
    let seen: Vec<_> =
        reply.kvs.iter().map(|kv| (kv.key.as_str(), kv.create_revision, kv.mod_revision)).collect();
    assert_eq!(seen, [("/a", 2, 3), ("/b", 2, 2)]);
}

#[tokio::test]
async fn the_past_can_be_read_until_it_is_compacted() {
    let kv = MemKv::new();
    commit(&kv, vec![put("/a", "1")]).await;
    commit(&kv, vec![delete("/a")]).await;
    commit(&kv, vec![put("/a", "2")]).await;
    let at = |revision| RangeRequest { revision, ..RangeRequest::key("/a") };
    assert_eq!(kv.range(at(2)).await.unwrap().kvs[0].value, "1");
    assert!(kv.range(at(3)).await.unwrap().kvs.is_empty());
    kv.compact(3);
    assert_eq!(kv.range(at(2)).await, Err(KvError::Compacted { requested: 2, oldest: 3 }));
    let now = kv.range(at(0)).await.unwrap();
    assert_eq!((now.kvs[0].create_revision, now.kvs[0].mod_revision), (4, 4), "created anew");
    assert!(matches!(kv.range(at(99)).await, Err(KvError::Invalid { .. })));
}

#[tokio::test]
async fn a_watch_tells_puts_and_deletes_from_a_revision_on() {
    let kv = MemKv::new();
    commit(&kv, vec![put("/a", "1")]).await;
    commit(&kv, vec![put("/b", "1"), put("/z", "1")]).await;
    commit(&kv, vec![delete("/a")]).await;
    let mut watch = kv.watch("/".into(), 3).await.unwrap();
    let batch = watch.next().await.unwrap().unwrap();
    let seen: Vec<_> = batch.events.iter().map(|e| (e.key().to_owned(), e.revision())).collect();
    assert_eq!(seen, [("/b".into(), 3), ("/z".into(), 3), ("/a".into(), 4)]);
    assert!(matches!(batch.events[2], Event::Delete { .. }));
    let (next, _) = tokio::join!(watch.next(), commit(&kv, vec![put("/c", "1")]));
    assert_eq!(next.unwrap().unwrap().revision, 5);
    kv.compact(5);
    let mut late = kv.watch("/".into(), 3).await.unwrap();
    assert!(matches!(late.next().await, Some(Err(KvError::Compacted { .. }))));
    assert!(late.next().await.is_none());
}

#[tokio::test]
async fn leases_end_by_the_clock_and_take_their_keys_along() {
    let kv = MemKv::new();
    let lease = kv.grant(10).await.unwrap();
    let leased = Write::Put { key: "/a".into(), value: "1".into(), lease: Some(lease) };
    commit(&kv, vec![leased.clone(), put("/b", "1")]).await;
    kv.advance(Duration::from_secs(9));
    kv.keep_alive(lease).await.unwrap();
    kv.advance(Duration::from_secs(9));
    assert_eq!(kv.dump().len(), 2);
    kv.advance(Duration::from_secs(2));
    assert_eq!(kv.dump().keys().collect::<Vec<_>>(), ["/b"]);
    assert_eq!(kv.keep_alive(lease).await, Err(KvError::LeaseGone { lease: lease.0 }));
    let refused = kv.commit(Txn { writes: vec![leased], ..Txn::default() }).await;
    assert_eq!(refused, Err(KvError::LeaseGone { lease: lease.0 }));
}

#[tokio::test]
async fn a_key_put_again_without_its_lease_outlives_it() {
    let kv = MemKv::new();
    let lease = kv.grant(10).await.unwrap();
    commit(&kv, vec![Write::Put { key: "/a".into(), value: "1".into(), lease: Some(lease) }]).await;
    commit(&kv, vec![put("/a", "2")]).await;
    kv.revoke(lease).await.unwrap();
    assert_eq!(kv.dump().len(), 1);
}

#[tokio::test]
async fn what_etcd_refuses_is_refused() {
    let kv = MemKv::new();
    let twice = Txn { writes: vec![put("/a", "1"), delete("/a")], ..Txn::default() };
    assert!(matches!(kv.commit(twice).await, Err(KvError::Invalid { .. })));
    let many = Txn { writes: (0..129).map(|n| put(&format!("/{n}"), "")).collect(), ..Txn::default() };
    assert!(matches!(kv.commit(many).await, Err(KvError::TooLarge { .. })));
}
