use std::convert::Infallible;
use std::time::Duration;

use vda_model::ids::{DaId, DnId};
use vda_model::keys::{DaKey, DaTombstoneKey, DnCapacityKey, DnGenKey, DnNameKey, DnSpecKey, Prefix};
use vda_proto::v1::{DaRecord, DaTombstone, DnCapacity, DnSpec};

use super::*;
use crate::{Fault, FlakyKv, MemKv, OrAbort};

#[derive(Debug, PartialEq, Eq, thiserror::Error)]
enum Refusal {
    #[error("it exists")]
    Exists,
    #[error("too many")]
    Full,
}

fn flaky() -> (FlakyKv, MemKv, Store) {
    let mem = MemKv::new();
    let flaky = FlakyKv::new(Arc::new(mem.clone()));
    let store = Store::new(Arc::new(flaky.clone()), Prefix::default());
    (flaky, mem, store)
}

fn da(name: &str, size: u64) -> DaRecord {
    DaRecord { schema_version: 1, da_name: name.to_owned(), size_bytes: size, ..DaRecord::default() }
}

/// Adds 1 to a counter that exists.
async fn increment(store: &Store) -> Result<Committed<u64>, StmError<Infallible>> {
    store
        .stm("increment", |tx| async move {
            let key = DaKey("counter".into());
            let mut record = tx.get(&key).await?.map_or_else(|| da("counter", 0), |v| v.value);
            record.size_bytes += 1;
            tx.put(&key, &record);
            tx.touch_dn(DnId::new(1));
            Ok(record.size_bytes)
        })
        .await
}

async fn counter(store: &Store) -> u64 {
    store.get(&DaKey("counter".into())).await.unwrap().map_or(0, |v| v.value.size_bytes)
}

#[tokio::test]
async fn contention_loses_no_update() {
    let (_, _, store) = flaky();
    let tasks: Vec<_> = (0..20)
        .map(|_| {
            let store = store.clone();
            tokio::spawn(async move {
                let mut done = 0;
                while done < 10 {
                    match increment(&store).await {
                        Ok(_) => done += 1,
                        Err(StmError::Conflict { .. }) => {}
                        Err(error) => panic!("{error}"),
                    }
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    assert_eq!(counter(&store).await, 200);
    assert!(store.stats().conflicts > 0, "the test did not contend");
}

#[tokio::test(start_paused = true)]
async fn a_lost_answer_is_found_out_and_applied_once() {
    let (flaky, _, store) = flaky();
    increment(&store).await.unwrap();
    for fault in [
        Fault::ReplyLost,
        Fault::RequestLost,
        Fault::Late(Duration::from_millis(1)),
        Fault::Late(Duration::from_millis(500)),
        Fault::Slow(Duration::from_secs(1)),
    ] {
        let before = counter(&store).await;
        flaky.plan([fault]);
        let committed = increment(&store).await.unwrap();
        assert_eq!(committed.value, before + 1, "{fault:?}");
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert_eq!(counter(&store).await, before + 1, "{fault:?}");
        let stored = store.get(&DaKey("counter".into())).await.unwrap().unwrap();
        assert_eq!(stored.revision, committed.revision, "{fault:?}");
    }
    assert_eq!(store.stats().ambiguous, 4);
}

#[tokio::test(start_paused = true)]
async fn several_lost_answers_in_a_row_are_still_one_update() {
    let (flaky, _, store) = flaky();
    increment(&store).await.unwrap();
    flaky.plan([Fault::ReplyLost, Fault::RequestLost, Fault::Unavailable, Fault::ReplyLost]);
    assert_eq!(increment(&store).await.unwrap().value, 2);
    assert_eq!(counter(&store).await, 2);
}

#[tokio::test(start_paused = true)]
async fn an_answer_lost_while_others_write_is_found_out_by_its_mark() {
    let (flaky, mem, store) = flaky();
    increment(&store).await.unwrap();
    // Applied, answer lost; then somebody else changes the same record before we look.
    let other = Store::new(Arc::new(mem), Prefix::default());
    flaky.plan([Fault::ReplyLost]);
    let (ours, theirs) = tokio::join!(increment(&store), async {
        tokio::time::sleep(Duration::from_millis(5)).await;
        // Does not touch DN 1, so that the mark in its generation stays.
        other
            .stm::<_, Infallible, _, _>("overwrite", |tx| async move {
                let key = DaKey("counter".into());
                let mut record = tx.get(&key).await?.unwrap().value;
                record.size_bytes += 100;
                tx.put(&key, &record);
                Ok(())
            })
            .await
    });
    theirs.unwrap();
    assert_eq!(ours.unwrap().value, 2);
    assert_eq!(counter(&store).await, 102);
}

#[tokio::test(start_paused = true)]
async fn an_overwritten_change_is_found_out_in_the_history() {
    let (flaky, mem, store) = flaky();
    increment(&store).await.unwrap();
    let other = Store::new(Arc::new(mem), Prefix::default());
    flaky.plan([Fault::ReplyLost]);
    let (ours, theirs) = tokio::join!(increment(&store), async {
        tokio::time::sleep(Duration::from_millis(5)).await;
        increment(&other).await // the same record, and the mark
    });
    theirs.unwrap();
    assert_eq!(ours.unwrap().value, 2);
    assert_eq!(counter(&store).await, 3);
}

/// What somebody else wrote is not taken for ours because it is the same.
#[tokio::test(start_paused = true)]
async fn an_equal_record_of_somebody_else_is_not_ours() {
    let (flaky, mem, store) = flaky();
    increment(&store).await.unwrap();
    let other = Store::new(Arc::new(mem), Prefix::default());
    flaky.plan([Fault::RequestLost]);
    let (ours, theirs) = tokio::join!(increment(&store), async {
        tokio::time::sleep(Duration::from_millis(5)).await;
        increment(&other).await
    });
    assert_eq!((theirs.unwrap().value, ours.unwrap().value), (2, 3));
    assert_eq!(counter(&store).await, 3);
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_found_out_is_said_so() {
    let (flaky, mem, store) = flaky();
    increment(&store).await.unwrap();
    let other = Store::new(Arc::new(mem.clone()), Prefix::default());
    flaky.plan([Fault::ReplyLost]);
    let (ours, theirs) = tokio::join!(increment(&store), async {
        tokio::time::sleep(Duration::from_millis(5)).await;
        let theirs = increment(&other).await;
        mem.compact(theirs.as_ref().unwrap().revision);
        theirs
    });
    theirs.unwrap();
    assert!(matches!(ours, Err(StmError::Ambiguous { .. })), "{ours:?}");
    assert_eq!(counter(&store).await, 3);
}

#[tokio::test(start_paused = true)]
async fn etcd_staying_away_after_a_lost_answer_ends_in_ambiguous() {
    let (flaky, _, store) = flaky();
    increment(&store).await.unwrap();
    flaky.plan([Fault::ReplyLost]);
    flaky.script(|_| Fault::Unavailable);
    let error = increment(&store).await.unwrap_err();
    assert!(matches!(error, StmError::Ambiguous { .. }) && !error.retryable(), "{error:?}");
}

#[tokio::test]
async fn unavailable_is_retryable_and_changes_nothing() {
    let (flaky, mem, store) = flaky();
    flaky.plan([Fault::Unavailable]);
    let error = increment(&store).await.unwrap_err();
    assert!(error.retryable(), "{error:?}");
    assert!(mem.dump().is_empty());
}

#[tokio::test]
async fn a_refusal_writes_nothing_and_is_based_on_current_data() {
    let (_, mem, store) = flaky();
    let body = |tx: Tx| async move {
        let key = DaKey("da0".into());
        tx.put(&key, &da("da0", 1));
        if tx.get_speculative_absent(&DaKey("other".into())).await?.is_none() {
            Err(Refusal::Full)
        } else {
            Ok(())
        }
        .or_abort()
    };
    let error = store.stm("refuse", body).await.unwrap_err();
    assert!(matches!(error, StmError::Domain(Refusal::Full)));
    assert!(mem.dump().is_empty());
    // The guess "other is absent" is now wrong: the refusal must not be answered.
    let put = |tx: Tx| async move {
        tx.put(&DaKey("other".into()), &da("other", 1));
        Ok::<_, Abort<Infallible>>(())
    };
    store.stm("put", put).await.unwrap();
    store.stm("refuse", body).await.unwrap();
    assert_eq!(mem.dump().len(), 2);
}

#[tokio::test]
async fn speculation_that_is_wrong_gives_the_true_refusal() {
    let (_, _, store) = flaky();
    let create = |tx: Tx| async move {
        let key = DaKey("da0".into());
        if tx.get_speculative_absent(&key).await?.is_some() {
            return Err(Refusal::Exists).or_abort();
        }
        tx.put(&key, &da("da0", 1));
        Ok(())
    };
    store.stm("create", create).await.unwrap();
    let again = store.stm("create", create).await;
    assert!(matches!(again, Err(StmError::Domain(Refusal::Exists))), "{again:?}");
}

#[tokio::test]
async fn generations_and_names_are_derived() {
    let (_, mem, store) = flaky();
    let (dn, address) = (DnId::new(7), "localhost:9720".to_owned());
    let spec =
        DnSpec { schema_version: 1, dn_id: dn.to_string(), address: address.clone(), ..DnSpec::default() };
    let put = |spec: DnSpec| {
        move |tx: Tx| {
            let spec = spec.clone();
            async move {
                tx.put(&DnSpecKey(dn), &spec);
                Ok::<_, Abort<Infallible>>(())
            }
        }
    };
    let first = store.stm("dn", put(spec.clone())).await.unwrap().revision;
    assert_eq!(store.get(&DnNameKey(address.clone())).await.unwrap().unwrap().value.id, dn.to_string());
    assert_eq!(store.get(&DnGenKey(dn)).await.unwrap().unwrap().revision, first);

    // Books are not desired state: no new generation.
    let books = |tx: Tx| async move {
        tx.put(&DnCapacityKey(dn), &DnCapacity { schema_version: 1, ..DnCapacity::default() });
        Ok::<_, Abort<Infallible>>(())
    };
    store.stm("books", books).await.unwrap();
    assert_eq!(store.get(&DnGenKey(dn)).await.unwrap().unwrap().revision, first);

    let renamed = DnSpec { address: "localhost:9721".into(), ..spec.clone() };
    store.stm("rename", put(renamed)).await.unwrap();
    assert!(store.get(&DnNameKey(address)).await.unwrap().is_none());
    assert!(store.get(&DnNameKey("localhost:9721".into())).await.unwrap().is_some());

    // Another DN cannot take the name over.
    let thief = DnId::new(8);
    let stolen = DnSpec { address: "localhost:9721".into(), dn_id: thief.to_string(), ..spec };
    let steal = |tx: Tx| {
        let stolen = stolen.clone();
        async move {
            tx.put(&DnSpecKey(thief), &stolen);
            Ok::<_, Abort<Infallible>>(())
        }
    };
    let error = store.stm("steal", steal).await.unwrap_err();
    assert!(matches!(error, StmError::Kv(KvError::IndexTaken { .. })), "{error:?}");

    let remove = |tx: Tx| async move {
        tx.delete(&DnSpecKey(dn));
        tx.delete(&DnCapacityKey(dn));
        Ok::<_, Abort<Infallible>>(())
    };
    store.stm("remove", remove).await.unwrap();
    assert!(mem.dump().is_empty(), "{:?}", mem.dump().keys());
}

#[tokio::test]
async fn more_operations_than_etcd_takes_are_refused_here() {
    let (_, _, store) = flaky();
    let body = |tx: Tx| async move {
        for n in 0..129 {
            tx.put(
                &DaTombstoneKey(DaId::new(n)),
                &DaTombstone { schema_version: 1, ..DaTombstone::default() },
            );
        }
        Ok::<_, Abort<Infallible>>(())
    };
    let error = store.stm("many", body).await.unwrap_err();
    assert!(matches!(error, StmError::Kv(KvError::TooLarge { .. })), "{error:?}");
}

#[tokio::test]
async fn records_of_a_newer_schema_are_not_misread() {
    let (_, _, store) = flaky();
    let body = |tx: Tx| async move {
        tx.put(&DaKey("da0".into()), &DaRecord { schema_version: 2, ..DaRecord::default() });
        Ok::<_, Abort<Infallible>>(())
    };
    store.stm("newer", body).await.unwrap();
    let error = store.get(&DaKey("da0".into())).await.unwrap_err();
    assert!(error.to_string().contains("da/da0") && error.to_string().contains("newer"), "{error}");
}

#[tokio::test]
async fn the_request_behind_a_generation_is_kept_with_it() {
    let (_, _, store) = flaky();
    let body = |tx: Tx| async move {
        tx.origin("req-7");
        tx.touch_dn(DnId::new(1));
        Ok::<_, Abort<Infallible>>(())
    };
    store.stm("touch", body).await.unwrap();
    let listing = store.list_all(vda_model::keys::Scope::Dns, 0).await.unwrap();
    assert_eq!(listing.entries[0].1.origin(), Some("req-7"));
    assert!(store.get(&DnGenKey(DnId::new(1))).await.unwrap().is_some(), "it decodes as nothing");
}
