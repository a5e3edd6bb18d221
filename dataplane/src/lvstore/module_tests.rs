//! lvstores and lvols as their users see them, on memory and files.

use bytes::{Bytes, BytesMut};

use super::super::LvolClear;
use super::*;
use crate::bdev::malloc::{self, MallocParams};
use crate::bdev::{IoError, malloc::MODULE as MALLOC};

fn run<F: Future>(test: impl FnOnce() -> F) -> F::Output {
    let rt = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    tokio::task::LocalSet::new().block_on(&rt, async { test().await })
}

fn disk(registry: &Registry, name: &str, mib: u64) -> Registration {
    let params =
        MallocParams { name: Some(name.to_owned()), num_blocks: mib * 256, block_size: 4096, uuid: None };
    malloc::create(registry, params).unwrap()
}

fn params(bdev: &str, lvs: &str, cluster: u32) -> CreateStore {
    CreateStore {
        bdev_name: bdev.to_owned(),
        lvs_name: lvs.to_owned(),
        cluster_sz: Some(cluster),
        ..CreateStore::default()
    }
}

fn named(name: &str) -> LvsSelector<'_> {
    LvsSelector::Name(name)
}
const MIB32: u32 = 1 << 20;

async fn fresh(mib: u64) -> (Registry, Rc<LvolModule>) {
    let registry = Registry::new();
    registry.set_auto_examine(false);
    let module = LvolModule::new(registry.clone());
    disk(&registry, "m0", mib);
    module.create_store(params("m0", "lvs", MIB32)).await.unwrap();
    (registry, module)
}

#[test]
fn overhead_is_about_that_of_spdk() {
    run(|| async {
        let registry = Registry::new();
        let module = LvolModule::new(registry.clone());
        for (n, (mib, cluster, at_least)) in
            [(64, 4 << 20, 15), (512, 1 << 20, 509), (128, 1 << 20, 126), (256, 4 << 20, 62)]
                .into_iter()
                .enumerate()
        {
            let name = format!("d{n}");
            disk(&registry, &name, mib);
            module.create_store(params(&name, &name, cluster)).await.unwrap();
            let info = module.stores(Some(named(&name))).unwrap().remove(0);
            assert!(info.total_data_clusters >= at_least, "{mib} MiB / {cluster}: {info:?}");
            assert_eq!(info.free_clusters, info.total_data_clusters);
            assert!(info.max_growable_size >= 8 * mib * u64::from(MIB32), "{info:?}");
        }
    });
}

#[test]
fn refusals_have_the_errno_of_spdk() {
    run(|| async {
        let (registry, module) = fresh(64).await;
        disk(&registry, "m1", 64);
        let create = |bdev: &str, lvs: &str, cluster| {
            let (module, p) = (Rc::clone(&module), params(bdev, lvs, cluster));
            async move { module.create_store(p).await.map_err(|e| e.errno()) }
        };
        assert_eq!(create("m0", "other", MIB32).await, Err(libc::EPERM));
        assert_eq!(create("nope", "other", MIB32).await, Err(libc::ENODEV));
        assert_eq!(create("m1", "lvs", MIB32).await, Err(libc::EEXIST));
        assert_eq!(create("m1", &"x".repeat(64), MIB32).await, Err(libc::EINVAL));
        assert_eq!(create("m1", "other", 1000).await, Err(libc::EINVAL));
        assert_eq!(create("m1", &"x".repeat(63), MIB32).await.map(|_| ()), Ok(()));
        let lvol = |name: &str, mib, thin| {
            let (module, name) = (Rc::clone(&module), name.to_owned());
            async move {
                module
                    .create(named("lvs"), &name, mib, thin, LvolClear::Unmap)
                    .await
                    .map(|_| ())
                    .map_err(|e| e.errno())
            }
        };
        assert_eq!(lvol("a", 10, false).await, Ok(()));
        assert_eq!(lvol("a", 10, true).await, Err(libc::EEXIST));
        assert_eq!(lvol(&"l".repeat(64), 10, true).await, Err(libc::EINVAL));
        assert_eq!(lvol("big", 10000, false).await, Err(libc::ENOSPC));
        assert_eq!(lvol("bigthin", 10000, true).await, Ok(()));
        assert_eq!(lvol("zero", 0, true).await, Ok(()));
        assert_eq!(module.rename("lvs/a", "bigthin").await.unwrap_err().errno(), libc::EEXIST);
        assert_eq!(module.rename("lvs/nope", "b").await.unwrap_err().errno(), libc::ENODEV);
        assert_eq!(module.resize("lvs/a", 9999).await.unwrap_err().errno(), libc::ENOSPC);
        assert_eq!(module.delete("lvs/nope").await.unwrap_err().errno(), libc::ENODEV);
    });
}

#[test]
fn thin_takes_on_write_and_gives_back_on_unmap_thick_reserves() {
    run(|| async {
        let (registry, module) = fresh(64).await;
        let free = || module.stores(None).unwrap()[0].free_clusters;
        let all = free();
        module.create(named("lvs"), "thick", 10, false, LvolClear::Unmap).await.unwrap();
        assert_eq!(free(), all - 10);
        module.create(named("lvs"), "thin", 1000, true, LvolClear::Unmap).await.unwrap();
        assert_eq!(free(), all - 10);
        let (thin, _e) = registry.open("lvs/thin", true).unwrap();
        thin.write(300, Bytes::from(vec![7; 8192]), false).await.unwrap();
        assert_eq!(free(), all - 11);
        let got = thin.read(256, BytesMut::zeroed(256 * 4096)).await.unwrap();
        assert!(
            got.iter()
                .enumerate()
                .all(|(i, b)| *b == if (44 * 4096..46 * 4096).contains(&i) { 7 } else { 0 })
        );
        let across = vec![9; 3 << 20];
        thin.write(512 + 128, Bytes::from(across.clone()), false).await.unwrap();
        assert_eq!(thin.read(512 + 128, BytesMut::zeroed(across.len())).await.unwrap(), across);
        assert_eq!(free(), all - 15);
        thin.unmap(500, 1000).await.unwrap();
        assert_eq!(free(), all - 12, "whole clusters 2 to 4 are given back, 1 and 5 are touched in part");
        let got = thin.read(512, BytesMut::zeroed(3 << 20)).await.unwrap();
        assert!(got.iter().all(|b| *b == 0));
        thin.unmap(0, thin.num_blocks()).await.unwrap();
        assert_eq!(free(), all - 10);
        let (thick, _e) = registry.open("lvs/thick", true).unwrap();
        thick.write(0, Bytes::from(vec![1; 4096]), true).await.unwrap();
        assert_eq!(free(), all - 10);
    });
}

#[test]
fn a_full_store_refuses_thin_writes_but_not_those_of_thick_lvols() {
    run(|| async {
        let (registry, module) = fresh(32).await;
        let all = module.stores(None).unwrap()[0].free_clusters;
        module.create(named("lvs"), "thick", 5, false, LvolClear::Unmap).await.unwrap();
        module.create(named("lvs"), "thin", 1000, true, LvolClear::Unmap).await.unwrap();
        let (thin, _e) = registry.open("lvs/thin", true).unwrap();
        let one = Bytes::from(vec![1; 4096]);
        let writes = (0..all + 10).map(|i| thin.write(i * 256, one.clone(), false));
        let results = futures::future::join_all(writes).await;
        let ok = results.iter().filter(|r| r.is_ok()).count() as u64;
        assert_eq!(ok, all - 5);
        assert!(results.iter().all(|r| matches!(r, Ok(()) | Err(IoError::NoSpace))));
        let (thick, _e) = registry.open("lvs/thick", true).unwrap();
        for i in 0..5 {
            thick.write(i * 256, one.clone(), false).await.unwrap();
        }
        assert_eq!(module.stores(None).unwrap()[0].free_clusters, 0);
        thin.unmap(0, 256).await.unwrap();
        thin.write((all + 20) * 256, one, false).await.unwrap();
    });
}

#[test]
fn a_cluster_that_changes_hands_shows_zeros() {
    run(|| async {
        let (registry, module) = fresh(32).await;
        for round in 0..4u8 {
            let name = format!("v{round}");
            module.create(named("lvs"), &name, 29, round % 2 == 0, LvolClear::Unmap).await.unwrap();
            let (d, _e) = registry.open(&format!("lvs/{name}"), true).unwrap();
            for cluster in 0..29u64 {
                let block = cluster * 256 + 100;
                d.write(block, Bytes::from(vec![0xa0 + round; 4096]), false).await.unwrap();
                let got = d.read(cluster * 256, BytesMut::zeroed(1 << 20)).await.unwrap();
                let want = |i| if i / 4096 == 100 { 0xa0 + round } else { 0 };
                assert!(
                    got.iter().enumerate().all(|(i, b)| *b == want(i)),
                    "round {round} cluster {cluster}"
                );
            }
            drop(d);
            module.delete(&format!("lvs/{name}")).await.unwrap();
        }
    });
}

#[test]
fn a_refused_shrink_changes_nothing_and_an_unused_lvol_shrinks() {
    run(|| async {
        let (registry, module) = fresh(64).await;
        module.create(named("lvs"), "v", 20, true, LvolClear::Unmap).await.unwrap();
        let (d, mut events) = registry.open("lvs/v", true).unwrap();
        d.write(19 * 256, Bytes::from(vec![5; 4096]), false).await.unwrap();
        assert_eq!(module.resize("lvs/v", 10).await.unwrap_err().errno(), libc::EBUSY);
        assert_eq!(d.num_blocks(), 20 * 256);
        assert_eq!(d.read(19 * 256, BytesMut::zeroed(4096)).await.unwrap(), vec![5; 4096]);
        module.resize("lvs/v", 30).await.unwrap();
        assert_eq!(events.recv().await, Some(BdevEvent::Resized));
        assert_eq!(d.num_blocks(), 30 * 256);
        drop(d);
        module.resize("lvs/v", 10).await.unwrap();
        module.resize("lvs/v", 20).await.unwrap();
        let (d, _e) = registry.open("lvs/v", true).unwrap();
        assert_eq!(d.read(19 * 256, BytesMut::zeroed(4096)).await.unwrap(), vec![0; 4096]);
        module.set_read_only("lvs/v").await.unwrap();
        assert_eq!(d.write(0, Bytes::from(vec![5; 4096]), false).await, Err(IoError::WriteProtected));
        assert_eq!(module.resize("lvs/v", 40).await.unwrap_err().errno(), libc::EPERM);
    });
}

#[test]
fn names_follow_renames() {
    run(|| async {
        let (registry, module) = fresh(64).await;
        let uuid = module.create(named("lvs"), "v", 20, true, LvolClear::Unmap).await.unwrap();
        module.rename("lvs/v", "w").await.unwrap();
        assert!(registry.info("lvs/v").is_err());
        module.rename_store("lvs", "pool").await.unwrap();
        assert_eq!(registry.info("pool/w").unwrap().name, uuid.to_string());
        assert_eq!(module.rename_store("lvs", "x").await.unwrap_err().errno(), libc::ENODEV);
        module.resize(&uuid.to_string(), 21).await.unwrap();
        assert_eq!(registry.info("pool/w").unwrap().num_blocks, 21 * 256);
    });
}

#[test]
fn a_store_goes_with_its_bdev_and_comes_back_by_examine() {
    run(|| async {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("disk");
        std::fs::File::create(&path).unwrap().set_len(64 << 20).unwrap();
        let registry = Registry::new();
        let module = LvolModule::new(registry.clone());
        let files = crate::bdev::file::FileBdevs::new(registry.clone());
        let file = crate::bdev::file::FileParams {
            module: crate::bdev::file::FileModule::Aio,
            name: "f".to_owned(),
            filename: path.to_str().unwrap().to_owned(),
            block_size: Some(4096),
            readonly: false,
            fallocate: false,
            uuid: None,
        };
        files.create(file.clone()).unwrap();
        module.create_store(params("f", "lvs", MIB32)).await.unwrap();
        module.create(named("lvs"), "v", 20, true, LvolClear::Unmap).await.unwrap();
        let (d, mut events) = registry.open("lvs/v", true).unwrap();
        d.write(77, Bytes::from(vec![5; 4096]), false).await.unwrap();
        let before = module.stores(None).unwrap();
        let gone = files.delete(file.module, "f").unwrap();
        assert_eq!(events.recv().await, Some(BdevEvent::Removed));
        assert!(d.read(77, BytesMut::zeroed(4096)).await.is_err());
        drop(d);
        gone.await;
        assert!(module.stores(None).unwrap().is_empty());
        assert!(registry.list().is_empty());

        files.create(file.clone()).unwrap();
        registry.wait_for_examine().await;
        assert_eq!(module.stores(None).unwrap(), before);
        let (d, _e) = registry.open("lvs/v", true).unwrap();
        assert_eq!(d.read(77, BytesMut::zeroed(4096)).await.unwrap(), vec![5; 4096]);
        drop(d);
        module.delete_store(named("lvs")).await.unwrap();
        files.delete(file.module, "f").unwrap().await;
        files.create(file).unwrap();
        registry.wait_for_examine().await;
        assert!(module.stores(None).unwrap().is_empty());
    });
}

#[test]
fn a_grown_bdev_gives_clusters() {
    run(|| async {
        let registry = Registry::new();
        let module = LvolModule::new(registry.clone());
        let p = crate::bdev::null::NullParams {
            name: "n".to_owned(),
            num_blocks: 64 * 256,
            block_size: 4096,
            uuid: None,
        };
        let null = crate::bdev::null::create(&registry, p).unwrap();
        // A null bdev forgets its metadata, so the store can be made on it but not loaded: grow a store on an lvol instead.
        assert_eq!(module.create_store(params("n", "bad", MIB32)).await.unwrap_err().errno(), libc::EILSEQ);
        drop(null);
        disk(&registry, "m0", 256);
        module.create_store(params("m0", "outer", MIB32)).await.unwrap();
        module.create(named("outer"), "v", 64, true, LvolClear::Unmap).await.unwrap();
        module.create_store(params("outer/v", "inner", MIB32)).await.unwrap();
        let before = module.stores(Some(named("inner"))).unwrap()[0].total_data_clusters;
        module.resize("outer/v", 128).await.unwrap();
        module.grow_store(named("inner")).await.unwrap();
        let after = module.stores(Some(named("inner"))).unwrap().remove(0);
        assert_eq!(after.total_data_clusters, before + 64);
        assert_eq!(after.free_clusters, before + 64);
        module.create(named("inner"), "w", before + 60, false, LvolClear::Unmap).await.unwrap();
        assert_eq!(registry.unregister("m0", MALLOC).map(|_| ()), Ok(()));
    });
}
