use std::collections::BTreeSet;
use std::convert::Infallible;

use vda_model::ids::DnId;
use vda_model::keys::{DaKey, DnCapacityKey, Prefix};
use vda_proto::v1::{DaRecord, DnCapacity, PdCapacity};

use super::*;
use crate::{Fault, FlakyKv, MemKv, OrAbort};

#[derive(Debug, PartialEq, Eq, thiserror::Error)]
enum Refusal {
    #[error("it exists")]
    Exists,
    #[error("full")]
    Full,
}

const DN: DnId = DnId::new(1);

fn setup() -> (FlakyKv, MemKv, Store) {
    let mem = MemKv::new();
    let flaky = FlakyKv::new(Arc::new(mem.clone()));
    let store = Store::new(Arc::new(flaky.clone()), Prefix::default());
    (flaky, mem, store)
}

async fn seed(store: &Store, total: u64) {
    let pds = vec![PdCapacity { total_bytes: total, ..PdCapacity::default() }];
    let books = DnCapacity { schema_version: 1, pds, ..DnCapacity::default() };
    let put = |tx: Tx| {
        let books = books.clone();
        async move {
            tx.put(&DnCapacityKey(DN), &books);
            Ok::<_, Abort<Infallible>>(())
        }
    };
    store.stm("seed", put).await.unwrap();
}

/// Takes one byte from the books and records who got it.
async fn create(store: &Store, name: String) -> Result<Committed<()>, StmError<Refusal>> {
    let body = move |tx: Tx| {
        let name = name.clone();
        async move {
            let key = DaKey(name.clone());
            if tx.get_speculative_absent(&key).await?.is_some() {
                return Err(Refusal::Exists).or_abort();
            }
            let mut books = tx.get(&DnCapacityKey(DN)).await?.expect("seeded").value;
            if books.pds[0].used_bytes >= books.pds[0].total_bytes {
                return Err(Refusal::Full).or_abort();
            }
            books.pds[0].used_bytes += 1;
            tx.put(&DnCapacityKey(DN), &books);
            tx.put(&key, &DaRecord { schema_version: 1, da_name: name, ..DaRecord::default() });
            tx.touch_dn(DN);
            Ok(())
        }
    };
    store.lane().submit("create", body).await
}

async fn used(store: &Store) -> u64 {
    store.get(&DnCapacityKey(DN)).await.unwrap().unwrap().value.pds[0].used_bytes
}

fn das(mem: &MemKv) -> BTreeSet<String> {
    mem.dump().into_keys().filter(|key| key.starts_with("/vda/da/")).collect()
}

#[tokio::test]
async fn many_creates_share_few_commits_and_the_books_balance() {
    let (_, mem, store) = setup();
    seed(&store, 1000).await;
    let creates = (0..200).map(|n| create(&store, format!("da{n}")));
    for created in futures::future::join_all(creates).await {
        created.unwrap();
    }
    assert_eq!(used(&store).await, 200);
    assert_eq!(das(&mem).len(), 200);
    let stats = store.stats();
    assert!(stats.lane_batches < 20, "{stats:?}");
    assert!(mem.dump()["/vda/dn/0000000000000001/gen"].mod_revision > 0);
}

#[tokio::test]
async fn exactly_what_fits_succeeds() {
    let (_, mem, store) = setup();
    seed(&store, 40).await;
    let results = futures::future::join_all((0..64).map(|n| create(&store, format!("da{n}")))).await;
    let ok = results.iter().filter(|r| r.is_ok()).count();
    assert!(results.iter().all(|r| matches!(r, Ok(_) | Err(StmError::Domain(Refusal::Full)))));
    assert_eq!((ok, used(&store).await, das(&mem).len()), (40, 40, 40));
}

#[tokio::test]
async fn a_refusal_does_not_disturb_its_neighbours() {
    let (_, mem, store) = setup();
    seed(&store, 1000).await;
    create(&store, "taken".into()).await.unwrap();
    let names = ["a", "taken", "b", "b", "c"];
    let results = futures::future::join_all(names.map(|name| create(&store, name.into()))).await;
    let outcomes: Vec<bool> = results.iter().map(Result::is_ok).collect();
    assert_eq!(outcomes, [true, false, true, false, true]);
    assert_eq!((used(&store).await, das(&mem).len()), (4, 4));
}

#[tokio::test]
async fn two_portals_and_a_stranger_contend_and_nothing_is_lost() {
    let (_, mem, one) = setup();
    let two = Store::new(Arc::new(mem.clone()), Prefix::default());
    seed(&one, 10_000).await;
    let stranger = two.clone();
    // Changes the totals all the time, as monitors do.
    let meddle = tokio::spawn(async move {
        for _ in 0..50 {
            let body = |tx: Tx| async move {
                let mut books = tx.get(&DnCapacityKey(DN)).await?.expect("seeded").value;
                books.pds[0].total_bytes += 1;
                tx.put(&DnCapacityKey(DN), &books);
                Ok::<_, Abort<Infallible>>(())
            };
            while stranger.stm("resize", body).await.is_err() {}
        }
    });
    let create = |store: Store, n: u32| async move {
        loop {
            match create(&store, format!("da{n}")).await {
                Ok(_) => break,
                Err(StmError::Conflict { .. }) => {}
                Err(error) => panic!("{error}"),
            }
        }
    };
    let both = (0..100).map(|n| create(if n % 2 == 0 { one.clone() } else { two.clone() }, n));
    futures::future::join_all(both).await;
    meddle.await.unwrap();
    assert_eq!(used(&one).await, 100);
    let books = one.get(&DnCapacityKey(DN)).await.unwrap().unwrap().value;
    assert_eq!(books.pds[0].total_bytes, 10_050);
    assert_eq!(das(&mem).len(), 100);
}

#[tokio::test(start_paused = true)]
async fn lost_answers_neither_lose_nor_double_a_create() {
    let (flaky, mem, store) = setup();
    seed(&store, 10_000).await;
    let mut n = 0_u32;
    flaky.script(move |_| {
        n += 1;
        match n % 7 {
            1 => Fault::ReplyLost,
            3 => Fault::RequestLost,
            5 => Fault::Late(Duration::from_millis(u64::from(n % 60))),
            _ => Fault::None,
        }
    });
    for round in 0..20 {
        let creates = (0..5).map(|i| create(&store, format!("da{round}-{i}")));
        for created in futures::future::join_all(creates).await {
            created.unwrap();
        }
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!((used(&store).await, das(&mem).len()), (100, 100));
    assert!(store.stats().ambiguous > 5, "{:?}", store.stats());
}

#[tokio::test(start_paused = true)]
async fn unavailable_is_answered_and_the_lane_lives_on() {
    let (flaky, mem, store) = setup();
    seed(&store, 10).await;
    create(&store, "first".into()).await.unwrap();
    flaky.set_down(true);
    let error = create(&store, "second".into()).await.unwrap_err();
    assert!(error.retryable(), "{error:?}");
    flaky.set_down(false);
    create(&store, "second".into()).await.unwrap();
    assert_eq!((used(&store).await, das(&mem).len()), (2, 2));
}

#[tokio::test]
async fn a_request_that_is_too_large_fails_alone() {
    let (_, mem, store) = setup();
    seed(&store, 10).await;
    create(&store, "warm".into()).await.unwrap();
    let large = |tx: Tx| async move {
        for n in 0..200 {
            tx.put(&DaKey(format!("large{n}")), &DaRecord { schema_version: 1, ..DaRecord::default() });
        }
        Ok::<_, Abort<Refusal>>(())
    };
    let (a, b, c) = tokio::join!(
        create(&store, "a".into()),
        store.lane().submit("large", large),
        create(&store, "c".into())
    );
    a.unwrap();
    assert!(matches!(b, Err(StmError::Kv(KvError::TooLarge { .. }))), "{b:?}");
    c.unwrap();
    assert_eq!(das(&mem).len(), 3);
}

#[tokio::test]
async fn a_panicking_closure_fails_alone() {
    let (_, _, store) = setup();
    seed(&store, 10).await;
    let wrong = |tx: Tx| async move {
        tx.touch_dn(DN);
        assert!(tx.get(&DaKey("nothing".into())).await?.is_some(), "as a bug would");
        Ok::<_, Abort<Refusal>>(())
    };
    let (wrong, right) = tokio::join!(store.lane().submit("wrong", wrong), create(&store, "right".into()));
    assert!(matches!(wrong, Err(StmError::Kv(KvError::Invalid { .. }))), "{wrong:?}");
    right.unwrap();
}

#[tokio::test]
async fn a_withdrawn_request_is_not_executed() {
    let (_, mem, store) = setup();
    seed(&store, 10).await;
    let mut pending = Box::pin(create(&store, "withdrawn".into()));
    assert!(futures::poll!(&mut pending).is_pending());
    drop(pending);
    create(&store, "kept".into()).await.unwrap();
    assert_eq!(das(&mem), BTreeSet::from(["/vda/da/kept".to_owned()]));
}

#[tokio::test]
async fn the_lane_ends_with_its_store() {
    let (_, _, store) = setup();
    let lane = store.lane().clone();
    drop(store);
    let body = |tx: Tx| async move {
        tx.touch_dn(DN);
        Ok::<_, Abort<Refusal>>(())
    };
    // A handle keeps it alive.
    lane.submit("touch", body).await.unwrap();
}

#[tokio::test]
async fn a_hint_saves_a_fetch_and_a_wrong_one_does_no_harm() {
    let (_, mem, store) = setup();
    seed(&store, 10).await;
    let any = AnyKey::DnCapacity(DN);
    let listing = store.list_all(vda_model::keys::Scope::Dns, 0).await.unwrap();
    let stale = listing.entries.into_iter().find(|(key, _)| *key == any).unwrap().1;
    seed(&store, 20).await;
    store.lane().hint(&any, Some(&stale));
    store.lane().hint(&AnyKey::Da("a".into()), None);
    create(&store, "a".into()).await.unwrap();
    let books = store.get(&DnCapacityKey(DN)).await.unwrap().unwrap().value;
    assert_eq!((books.pds[0].used_bytes, books.pds[0].total_bytes), (1, 20));
    // An old hint does not replace what is known to be newer.
    store.lane().hint(&any, Some(&stale));
    let conflicts = store.stats().conflicts;
    create(&store, "b".into()).await.unwrap();
    assert_eq!((store.stats().conflicts, das(&mem).len()), (conflicts, 2));
}
