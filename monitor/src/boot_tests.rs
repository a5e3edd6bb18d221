use std::sync::Arc;

use prost::Message;
use tokio_util::sync::CancellationToken;
use vda_model::keys::{Key, Prefix, Scope};
use vda_store::{Kv, MemKv, Store, Txn, WatchCache, Write};

use super::*;

const DN: DnId = DnId::new(1);

#[tokio::test]
async fn etcd_is_behind_when_it_names_another_boot_than_the_agent_does_or_none() {
    let kv = Arc::new(MemKv::new());
    let record = BootRecord { schema_version: 1, dn_id: DN.into(), boot: "000000000000b001".into() };
    let key = DnBootKey(DN).path(&Prefix::default());
    let put = Write::Put { key, value: record.encode_to_vec().into(), lease: None };
    kv.commit(Txn { writes: vec![put], ..Txn::default() }).await.unwrap();
    let store = Store::new(kv, Prefix::default());
    let cache = WatchCache::start(&store, vec![Scope::All], CancellationToken::new());
    assert!(cache.filled().await);
    let behind = |dn: DnId, boot: &str| {
        let told = DnStatus { boot: boot.into(), ..DnStatus::default() };
        cache.read(|snapshot| differs(snapshot, dn, &told))
    };
    assert!(behind(DN, "000000000000b002") && behind(DnId::new(2), "000000000000b001"));
    assert!(!behind(DN, "000000000000b001"));
    assert!(!behind(DN, "") && !behind(DN, "nonsense"), "an agent that does not tell it");
}
