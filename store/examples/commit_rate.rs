//! etcd's own rate for a transaction of one compare and six puts, beside creates through the group-commit lane, in the same run.
//!
//! `cargo run --release -p vda-store --example commit_rate -- 127.0.0.1:2379 [seconds per row]`; writes below /vda-commit-rate.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use vda_model::ids::{CnId, DaId, DnId};
use vda_model::keys::{CnCapacityKey, CntlrSpecKey, DaKey, DnCapacityKey, DnShareKey, Prefix};
use vda_proto::v1::{CnCapacity, CntlrSpec, DaRecord, DnCapacity, DnShare, PdCapacity};
use vda_store::{Abort, Compare, EtcdConfig, EtcdKv, Kv, Store, Tx, Txn, TxnReply, Write};

static NEXT: AtomicU64 = AtomicU64::new(1);

#[allow(clippy::print_stdout, clippy::cast_precision_loss)]
#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let mut args = std::env::args().skip(1);
    let endpoint = args.next().unwrap_or_else(|| "127.0.0.1:2379".to_owned());
    let seconds: u64 = args.next().map_or(Ok(5), |s| s.parse())?;
    let kv: Arc<dyn Kv> = Arc::new(EtcdKv::new(EtcdConfig::new(&endpoint)));
    let store = Store::new(kv.clone(), Prefix::new("/vda-commit-rate")?);
    println!("{:>8} {:>12} {:>12} {:>8} {:>10}", "clients", "etcd txn/s", "creates/s", "ratio", "per commit");
    for clients in [1, 8, 32] {
        let limit = Duration::from_secs(seconds);
        let raw = rate(clients, limit, || etcd_txn(kv.clone())).await;
        let before = store.stats();
        let lane = rate(clients, limit, || lane_create(store.clone())).await;
        let after = store.stats();
        let shared = (after.lane_requests - before.lane_requests) as f64
            / (after.lane_batches - before.lane_batches).max(1) as f64;
        println!("{clients:>8} {raw:>12.0} {lane:>12.0} {:>8.2} {shared:>10.1}", lane / raw);
    }
    Ok(())
}

async fn rate<F: Future<Output = ()> + Send>(clients: u64, limit: Duration, work: impl Fn() -> F) -> f64 {
    let (started, done) = (Instant::now(), AtomicU64::new(0));
    let client = || async {
        while started.elapsed() < limit {
            work().await;
            done.fetch_add(1, Ordering::Relaxed);
        }
    };
    futures::future::join_all((0..clients).map(|_| client())).await;
    done.load(Ordering::Relaxed) as f64 / started.elapsed().as_secs_f64()
}

/// Values as large as those of a small create.
async fn etcd_txn(kv: Arc<dyn Kv>) {
    let n = NEXT.fetch_add(1, Ordering::Relaxed);
    let put = |i: u64| Write::Put {
        key: format!("/commit-rate-raw/{n}/{i}"),
        value: vec![7_u8; 200].into(),
        lease: None,
    };
    let compares = vec![Compare { key: format!("/commit-rate-raw/{n}/0"), mod_revision: 0 }];
    let txn = Txn { compares, writes: (0..6).map(put).collect(), ..Txn::default() };
    match kv.commit(txn).await {
        Ok(TxnReply::Committed { .. }) => {}
        other => panic!("{other:?}"),
    }
}

/// One VD on each of two DNs, a controller on a CN: ten writes, four of them to books and generations that all creates share.
async fn lane_create(store: Store) {
    let n = NEXT.fetch_add(1, Ordering::Relaxed);
    let body = move |tx: Tx| async move {
        let da = DaId::new(n);
        for dn in [DnId::new(1), DnId::new(2)] {
            let mut books = tx.get(&DnCapacityKey(dn)).await?.map_or_else(new_books, |v| v.value);
            books.pds[0].used_bytes += 1;
            tx.put(&DnCapacityKey(dn), &books);
            tx.put(
                &DnShareKey(dn, da),
                &DnShare { schema_version: 1, da_name: "x".repeat(150), ..DnShare::default() },
            );
        }
        let cn = CnId::new(1);
        let mut books = tx.get(&CnCapacityKey(cn)).await?.map_or_else(CnCapacity::default, |v| v.value);
        (books.schema_version, books.live_cntlrs) = (1, books.live_cntlrs + 1);
        tx.put(&CnCapacityKey(cn), &books);
        tx.put(
            &CntlrSpecKey(cn, da),
            &CntlrSpec { schema_version: 1, da_name: "x".repeat(500), ..CntlrSpec::default() },
        );
        let name = DaKey(format!("da{n}"));
        assert!(tx.get_speculative_absent(&name).await?.is_none());
        tx.put(&name, &DaRecord { schema_version: 1, da_name: "x".repeat(500), ..DaRecord::default() });
        Ok::<_, Abort<Infallible>>(())
    };
    store.lane().submit("create", body).await.expect("etcd serves");
}

fn new_books() -> DnCapacity {
    DnCapacity { schema_version: 1, pds: vec![PdCapacity::default()], ..DnCapacity::default() }
}
