//! Snapshots, clones, external snapshots and shallow copies as their users see them.

use std::rc::Rc;

use bytes::{Bytes, BytesMut};
use uuid::Uuid;

use super::super::LvolClear;
use super::super::module::{CreateStore, LvolModule, LvsSelector};
use crate::bdev::malloc::{self, MallocParams};
use crate::bdev::{Descriptor, IoError, Registration, Registry};

const LVS: LvsSelector<'static> = LvsSelector::Name("lvs");
const CLUSTER: u64 = 1 << 20;
const BLOCK: usize = 4096;
const PER_CLUSTER: u64 = CLUSTER / BLOCK as u64;

fn run<F: Future>(test: impl FnOnce() -> F) -> F::Output {
    let rt = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    tokio::task::LocalSet::new().block_on(&rt, async { test().await })
}

struct Bench {
    registry: Registry,
    module: Rc<LvolModule>,
}

fn disk(registry: &Registry, name: &str, mib: u64, block_size: u32, uuid: Option<Uuid>) -> Registration {
    let num_blocks = mib * CLUSTER / u64::from(block_size);
    let params = MallocParams { name: Some(name.to_owned()), num_blocks, block_size, uuid };
    malloc::create(registry, params).unwrap()
}

impl Bench {
    async fn new(mib: u64) -> Self {
        let registry = Registry::new();
        let module = LvolModule::new(registry.clone());
        disk(&registry, "m0", mib, BLOCK as u32, None);
        let params = CreateStore {
            bdev_name: "m0".to_owned(),
            lvs_name: "lvs".to_owned(),
            cluster_sz: Some(CLUSTER as u32),
            ..CreateStore::default()
        };
        module.create_store(params).await.unwrap();
        Self { registry, module }
    }

    async fn lvol(&self, name: &str, mib: u64, thin: bool) {
        self.module.create(LVS, name, mib, thin, LvolClear::Unmap).await.unwrap();
    }

    /// v over s2 over s1: 1 and 2 in the first clusters of s1; in s2 no longer the 2, but 3 in the cluster after it.
    async fn generations(&self, mib: u64) {
        self.lvol("v", mib, true).await;
        self.write("lvs/v", 0, 1).await;
        self.write("lvs/v", PER_CLUSTER, 2).await;
        self.module.snapshot("lvs/v", "s1").await.unwrap();
        self.write("lvs/v", 2 * PER_CLUSTER, 3).await;
        self.open("lvs/v").unmap(PER_CLUSTER, PER_CLUSTER).await.unwrap();
        self.module.snapshot("lvs/v", "s2").await.unwrap();
    }

    fn open(&self, name: &str) -> Descriptor {
        let write = self.registry.info(name).unwrap().supported.contains(&crate::bdev::IoType::Write);
        self.registry.open(name, write).unwrap().0
    }

    async fn byte(&self, name: &str, block: u64) -> u8 {
        let got = self.open(name).read(block, BytesMut::zeroed(BLOCK)).await.unwrap();
        assert!(got.iter().all(|b| *b == got[0]), "a block of pieces");
        got[0]
    }

    /// The first byte of the first block of each cluster.
    async fn bytes(&self, name: &str) -> Vec<u8> {
        let clusters = self.registry.info(name).unwrap().num_blocks / PER_CLUSTER;
        let mut bytes = Vec::new();
        for cluster in 0..clusters {
            bytes.push(self.byte(name, cluster * PER_CLUSTER).await);
        }
        bytes
    }

    async fn write(&self, name: &str, block: u64, value: u8) {
        let data = Bytes::from(vec![value; BLOCK]);
        self.registry.open(name, true).unwrap().0.write(block, data, false).await.unwrap();
    }

    fn allocated(&self, name: &str) -> u64 {
        let all = self.module.lvols(Some(LVS)).unwrap();
        all.iter().find(|l| l.name == name).unwrap().num_allocated_clusters
    }

    fn shown(&self, name: &str) -> serde_json::Value {
        self.registry.info(&format!("lvs/{name}")).unwrap().driver_specific["lvol"].clone()
    }

    fn free(&self) -> u64 {
        self.module.stores(None).unwrap()[0].free_clusters
    }
}

fn errno<T>(result: Result<T, super::LvolError>) -> Result<(), i32> {
    result.map(|_| ()).map_err(|e| e.errno())
}

#[test]
fn a_snapshot_keeps_what_its_origin_overwrites() {
    run(|| async {
        let b = Bench::new(64).await;
        b.lvol("v", 4, true).await;
        b.write("lvs/v", 0, 1).await;
        b.write("lvs/v", 1, 2).await;
        b.write("lvs/v", PER_CLUSTER, 3).await;
        b.module.snapshot("lvs/v", "s").await.unwrap();
        assert_eq!((b.allocated("v"), b.allocated("s")), (0, 2));
        b.write("lvs/v", 1, 9).await;
        assert_eq!(
            [b.byte("lvs/v", 0).await, b.byte("lvs/v", 1).await],
            [1, 9],
            "the rest of the cluster was copied"
        );
        assert_eq!([b.byte("lvs/s", 0).await, b.byte("lvs/s", 1).await], [1, 2]);
        assert_eq!((b.allocated("v"), b.allocated("s")), (1, 2));
        let v = b.open("lvs/v");
        v.unmap(PER_CLUSTER, PER_CLUSTER).await.unwrap();
        assert_eq!((b.byte("lvs/v", PER_CLUSTER).await, b.byte("lvs/s", PER_CLUSTER).await), (0, 3));
        assert_eq!(b.allocated("v"), 1, "zeros cost no cluster");
        let read_only = b.registry.open("lvs/s", true).unwrap().0;
        assert_eq!(
            read_only.write(0, Bytes::from(vec![1; BLOCK]), false).await,
            Err(IoError::WriteProtected)
        );
        assert_eq!(read_only.unmap(0, 1).await, Err(IoError::WriteProtected));
        let (v, s) = (b.shown("v"), b.shown("s"));
        assert_eq!((&v["clone"], &v["base_snapshot"]), (&true.into(), &"s".into()));
        assert_eq!((&s["snapshot"], &s["clones"]), (&true.into(), &serde_json::json!(["v"])));
    });
}

#[test]
fn less_than_a_cluster_of_what_is_inherited_can_be_zeroed() {
    run(|| async {
        let b = Bench::new(64).await;
        b.lvol("v", 2, true).await;
        let all = Bytes::from(vec![5; 2 * CLUSTER as usize]);
        b.open("lvs/v").write(0, all.clone(), false).await.unwrap();
        b.module.snapshot("lvs/v", "s").await.unwrap();
        let v = b.open("lvs/v");
        v.unmap(3, 2).await.unwrap();
        v.write_zeroes(PER_CLUSTER - 1, 2, true).await.unwrap();
        let got = v.read(0, BytesMut::zeroed(all.len())).await.unwrap();
        for (n, block) in got.chunks(BLOCK).enumerate() {
            let zero = [3, 4, PER_CLUSTER as usize - 1, PER_CLUSTER as usize].contains(&n);
            assert!(block.iter().all(|b| *b == if zero { 0 } else { 5 }), "block {n}");
        }
        assert_eq!(b.open("lvs/s").read(0, BytesMut::zeroed(all.len())).await.unwrap(), all);
    });
}

#[test]
fn writes_to_one_inherited_cluster_at_the_same_time_all_stay() {
    run(|| async {
        let b = Bench::new(64).await;
        b.lvol("v", 2, true).await;
        b.open("lvs/v").write(0, Bytes::from(vec![5; 2 * CLUSTER as usize]), false).await.unwrap();
        b.module.snapshot("lvs/v", "s").await.unwrap();
        let v = b.open("lvs/v");
        let writes =
            (0..40u8).map(|n| v.write(u64::from(n) * 8, Bytes::from(vec![n + 10; BLOCK]), n % 3 == 0));
        let zeroes = (0..10).map(|n| v.write_zeroes(n * 8 + 1, 1, false));
        let (writes, zeroes) =
            futures::join!(futures::future::join_all(writes), futures::future::join_all(zeroes));
        assert!(writes.into_iter().chain(zeroes).all(|r| r.is_ok()));
        for n in 0..40u8 {
            assert_eq!(b.byte("lvs/v", u64::from(n) * 8).await, n + 10);
            assert_eq!(b.byte("lvs/v", u64::from(n) * 8 + 1).await, if n < 10 { 0 } else { 5 });
        }
        assert_eq!(b.allocated("v"), 2);
    });
}

#[test]
fn deleting_follows_the_rules_of_spdk() {
    run(|| async {
        let b = Bench::new(64).await;
        let all = b.free();
        b.lvol("v", 4, true).await;
        b.write("lvs/v", 0, 1).await;
        b.module.snapshot("lvs/v", "s1").await.unwrap();
        b.write("lvs/v", PER_CLUSTER, 2).await;
        b.module.snapshot("lvs/v", "s2").await.unwrap();
        b.module.clone_lvol("lvs/s2", "c").await.unwrap();
        b.write("lvs/c", 0, 7).await;
        assert_eq!(errno(b.module.delete("lvs/s2").await), Err(libc::EPERM), "two clones");
        assert_eq!(b.bytes("lvs/v").await, [1, 2, 0, 0]);
        b.module.delete("lvs/s1").await.unwrap();
        assert_eq!(b.bytes("lvs/v").await, [1, 2, 0, 0]);
        assert_eq!(b.bytes("lvs/c").await, [7, 2, 0, 0]);
        b.module.delete("lvs/v").await.unwrap();
        b.module.delete("lvs/s2").await.unwrap();
        assert_eq!(b.bytes("lvs/c").await, [7, 2, 0, 0]);
        assert_eq!((b.free(), b.shown("c")["clone"].clone()), (all - 2, false.into()));
        b.module.delete("lvs/c").await.unwrap();
        assert_eq!(b.free(), all);
    });
}

#[test]
fn what_was_promised_to_a_thick_lvol_comes_back_with_its_snapshot() {
    run(|| async {
        let b = Bench::new(16).await;
        b.lvol("k", 5, false).await;
        b.write("lvs/k", 0, 1).await;
        b.module.snapshot("lvs/k", "s").await.unwrap();
        assert_eq!((b.allocated("k"), b.allocated("s")), (0, 5));
        b.module.delete("lvs/s").await.unwrap();
        assert_eq!((b.allocated("k"), b.shown("k")["thin_provision"].clone()), (5, true.into()));
        b.lvol("rest", b.free(), false).await;
        for cluster in 0..5 {
            b.write("lvs/k", cluster * PER_CLUSTER, 2).await;
        }
        assert_eq!(b.bytes("lvs/k").await, [2; 5]);
        let at = b.module.resize("lvs/k", 6).await;
        assert_eq!(errno(at), Err(libc::ENOSPC));
    });
}

#[test]
fn refusals_of_snapshots_and_clones() {
    run(|| async {
        let b = Bench::new(64).await;
        b.lvol("v", 4, true).await;
        b.module.snapshot("lvs/v", "s").await.unwrap();
        assert_eq!(errno(b.module.snapshot("lvs/v", "s").await), Err(libc::EEXIST));
        assert_eq!(errno(b.module.snapshot("lvs/nope", "x").await), Err(libc::ENODEV));
        assert_eq!(errno(b.module.snapshot("lvs/s", "x").await), Err(libc::EINVAL));
        assert_eq!(errno(b.module.clone_lvol("lvs/v", "x").await), Err(libc::EINVAL));
        assert_eq!(errno(b.module.clone_lvol("lvs/s", "v").await), Err(libc::EEXIST));
        assert_eq!(errno(b.module.resize("lvs/s", 8).await), Err(libc::EPERM));
        assert_eq!(errno(b.module.rename("lvs/s", "t").await), Err(libc::EPERM));
        assert_eq!(errno(b.module.decouple_parent("lvs/s").await), Err(libc::EINVAL));
        b.module.set_read_only("lvs/v").await.unwrap();
        b.module.clone_lvol("lvs/v", "c").await.unwrap();
        assert_eq!(b.shown("v")["snapshot"], true);
    });
}

#[test]
fn a_clone_leaves_one_parent_or_all() {
    run(|| async {
        let b = Bench::new(64).await;
        b.generations(5).await;
        b.write("lvs/v", 3 * PER_CLUSTER, 4).await;
        let content = [1, 0, 3, 4, 0];
        assert_eq!(b.bytes("lvs/v").await, content);
        b.module.decouple_parent("lvs/v").await.unwrap();
        assert_eq!(b.bytes("lvs/v").await, content, "the hole of the snapshot is now the clone's own");
        assert_eq!((b.shown("v")["base_snapshot"].clone(), b.allocated("v")), ("s1".into(), 2));
        let free = b.free();
        b.module.inflate("lvs/v").await.unwrap();
        assert_eq!((b.bytes("lvs/v").await.as_slice(), b.allocated("v")), (content.as_slice(), 5));
        assert_eq!(b.free(), free - 3);
        let shown = b.shown("v");
        assert_eq!((&shown["clone"], &shown["thin_provision"]), (&false.into(), &false.into()));
        b.module.inflate("lvs/v").await.unwrap();
        assert_eq!(b.bytes("lvs/s2").await, [1, 0, 3, 0, 0]);
        b.module.delete("lvs/s2").await.unwrap();
        b.module.delete("lvs/s1").await.unwrap();
        assert_eq!(b.bytes("lvs/v").await, content);
        assert_eq!(errno(b.module.decouple_parent("lvs/v").await), Err(libc::EINVAL));
    });
}

#[test]
fn an_inflation_without_room_is_refused() {
    run(|| async {
        let b = Bench::new(16).await;
        b.lvol("v", 10, true).await;
        b.write("lvs/v", 0, 1).await;
        b.module.snapshot("lvs/v", "s").await.unwrap();
        b.lvol("thick", b.free() - 5, false).await;
        assert_eq!(errno(b.module.inflate("lvs/v").await), Err(libc::ENOSPC));
        b.module.decouple_parent("lvs/v").await.unwrap();
        assert_eq!(b.allocated("v"), 1);
    });
}

#[test]
fn an_lvol_is_hung_below_another_snapshot() {
    run(|| async {
        let b = Bench::new(64).await;
        b.lvol("v", 3, true).await;
        b.write("lvs/v", 0, 1).await;
        b.module.snapshot("lvs/v", "s1").await.unwrap();
        b.write("lvs/v", PER_CLUSTER, 2).await;
        b.module.snapshot("lvs/v", "s2").await.unwrap();
        b.lvol("w", 3, true).await;
        b.write("lvs/w", 0, 9).await;
        b.module.set_parent("lvs/w", "lvs/s2").await.unwrap();
        assert_eq!(b.bytes("lvs/w").await, [9, 2, 0]);
        b.module.set_parent("lvs/w", "lvs/s1").await.unwrap();
        assert_eq!(b.bytes("lvs/w").await, [9, 0, 0]);
        assert_eq!(errno(b.module.set_parent("lvs/w", "lvs/s1").await), Err(libc::EEXIST));
        assert_eq!(errno(b.module.set_parent("lvs/s1", "lvs/s2").await), Err(libc::EINVAL), "a circle");
        assert_eq!(errno(b.module.set_parent("lvs/w", "lvs/nope").await), Err(libc::ENODEV));
        assert_eq!(errno(b.module.set_parent_bdev("lvs/w", "lvs/s2").await), Err(libc::EINVAL));
        disk(&b.registry, "ext", 3, 512, None);
        b.write_ext("ext").await;
        b.module.set_parent_bdev("lvs/w", "ext").await.unwrap();
        assert_eq!(b.bytes("lvs/w").await, [9, 101, 102]);
        assert_eq!(errno(b.module.set_parent_bdev("lvs/w", "ext").await), Err(libc::EEXIST));
        b.module.set_parent("lvs/w", "lvs/s2").await.unwrap();
        assert_eq!(b.registry.info("ext").unwrap().claim, None, "nobody stands on it any more");
    });
}

impl Bench {
    /// Fills every cluster with 100 and its number.
    async fn write_ext(&self, name: &str) {
        let (ext, _events) = self.registry.open(name, true).unwrap();
        let per_cluster = CLUSTER / u64::from(ext.block_size());
        for cluster in 0..ext.num_blocks() / per_cluster {
            let data = Bytes::from(vec![100 + cluster as u8; CLUSTER as usize]);
            ext.write(cluster * per_cluster, data, false).await.unwrap();
        }
    }
}

#[test]
fn a_clone_of_a_bdev_comes_and_goes_with_it() {
    run(|| async {
        let b = Bench::new(64).await;
        let uuid = Uuid::new_v4();
        let ext = disk(&b.registry, "ext", 3, 512, Some(uuid));
        b.write_ext("ext").await;
        let said = |r: Result<Uuid, super::LvolError>| r.unwrap_err().to_string();
        assert_eq!(said(b.module.clone_bdev("ext", "nope", "e").await), "lvs does not exist");
        assert_eq!(said(b.module.clone_bdev("nope", "lvs", "e").await), "bdev does not exist");
        b.module.clone_bdev("ext", "lvs", "e").await.unwrap();
        let same = said(b.module.clone_bdev("lvs/e", "lvs", "e2").await);
        assert_eq!(same, "bdev is an lvol in same lvs as clone; use bdev_lvol_clone instead");
        assert!(b.registry.open("ext", true).is_err(), "nobody may write it");
        b.module.clone_bdev("ext", "lvs", "f").await.unwrap();
        b.write("lvs/e", 1, 7).await;
        assert_eq!([b.byte("lvs/e", 0).await, b.byte("lvs/e", 1).await], [100, 7]);
        b.module.snapshot("lvs/e", "s").await.unwrap();
        b.open("lvs/e").unmap(2 * PER_CLUSTER, PER_CLUSTER).await.unwrap();
        b.module.resize("lvs/e", 4).await.unwrap();
        assert_eq!(b.bytes("lvs/e").await, [100, 101, 0, 0]);
        assert_eq!(b.shown("s")["external_snapshot_name"], uuid.to_string());
        ext.unregister().await;
        let lvols = b.module.lvols(Some(LVS)).unwrap();
        assert!(lvols.iter().all(|l| l.degraded) && lvols.len() == 3, "{lvols:?}");
        assert!(b.registry.info("lvs/e").is_err());
        assert_eq!(errno(b.module.snapshot("lvs/e", "t").await), Err(libc::ENODEV));
        b.module.delete("lvs/f").await.unwrap();
        disk(&b.registry, "ext", 3, 512, Some(uuid));
        b.registry.wait_for_examine().await;
        assert_eq!([b.byte("lvs/e", 0).await, b.byte("lvs/e", 1).await], [100, 7]);
        assert_eq!(b.bytes("lvs/e").await, [100, 0, 0, 0], "it came back without what it had");
    });
}

/// In SPDK that is refused with -2.
#[test]
fn below_a_snapshot_of_a_clone_of_a_bdev_is_that_bdev() {
    run(|| async {
        let b = Bench::new(32).await;
        disk(&b.registry, "ext", 2, 4096, None);
        b.write_ext("ext").await;
        b.module.clone_bdev("ext", "lvs", "e").await.unwrap();
        b.write("lvs/e", 0, 7).await;
        b.module.snapshot("lvs/e", "s").await.unwrap();
        b.module.clone_lvol("lvs/s", "c").await.unwrap();
        b.module.decouple_parent("lvs/c").await.unwrap();
        assert_eq!((b.shown("c")["esnap_clone"].clone(), b.allocated("c")), (true.into(), 1));
        assert_eq!(b.bytes("lvs/c").await, [7, 101]);
    });
}

#[test]
fn an_lvol_waits_for_its_external_snapshot_after_a_restart() {
    run(|| async {
        let uuid = Uuid::new_v4();
        let saved = {
            let b = Bench::new(32).await;
            disk(&b.registry, "ext", 2, 4096, Some(uuid));
            b.write_ext("ext").await;
            b.module.clone_bdev("ext", "lvs", "e").await.unwrap();
            b.write("lvs/e", 0, 7).await;
            b.module.snapshot("lvs/e", "s").await.unwrap();
            let m0 = b.registry.open("m0", false).unwrap().0;
            m0.read(0, BytesMut::zeroed(32 << 20)).await.unwrap().freeze()
        };
        let registry = Registry::new();
        registry.set_auto_examine(false);
        let module = LvolModule::new(registry.clone());
        disk(&registry, "m0", 32, 4096, None);
        registry.open("m0", true).unwrap().0.write(0, saved, false).await.unwrap();
        registry.examine("m0").unwrap();
        registry.wait_for_examine().await;
        let lvols = module.lvols(Some(LVS)).unwrap();
        assert!(lvols.iter().all(|l| l.degraded) && lvols.len() == 2, "{lvols:?}");
        assert!(registry.info("lvs/e").is_err());
        let b = Bench { registry, module };
        disk(&b.registry, "ext", 2, 4096, Some(uuid));
        b.write_ext("ext").await;
        b.registry.examine("ext").unwrap();
        b.registry.wait_for_examine().await;
        assert_eq!(b.bytes("lvs/e").await, [7, 101]);
        assert_eq!(b.bytes("lvs/s").await, [7, 101]);
        b.module.inflate("lvs/e").await.unwrap();
        b.module.delete("lvs/s").await.unwrap();
        assert_eq!(b.registry.info("ext").unwrap().claim, None);
        assert_eq!(b.bytes("lvs/e").await, [7, 101]);
    });
}

#[test]
fn a_shallow_copy_has_what_the_lvol_itself_has() {
    run(|| async {
        let b = Bench::new(64).await;
        b.generations(4).await;
        disk(&b.registry, "to", 5, 512, None);
        b.write_ext("to").await;
        disk(&b.registry, "small", 3, 512, None);
        assert_eq!(errno(b.module.start_shallow_copy("lvs/s2", "nope").await), Err(libc::ENODEV));
        assert_eq!(errno(b.module.start_shallow_copy("lvs/nope", "to").await), Err(libc::ENODEV));
        let number = b.module.start_shallow_copy("lvs/s2", "to").await.unwrap();
        assert_eq!(number, 2, "the refused one had a number");
        assert_eq!(errno(b.module.delete("lvs/s2").await), Err(libc::EBUSY));
        assert_eq!(
            errno(b.module.delete("lvs/s1").await),
            Err(libc::EBUSY),
            "the other one descends from it"
        );
        assert_eq!(errno(b.module.start_shallow_copy("lvs/s1", "to").await), Err(libc::EPERM));
        let status = finish(&b.module, number).await;
        assert_eq!((status.copied_clusters, status.total_clusters, status.error), (1, 1, None));
        assert_eq!(b.module.check_shallow_copy(number), None, "told once");
        let (to, _events) = b.registry.open("to", true).unwrap();
        let mut got = Vec::new();
        for cluster in 0..5 {
            got.push(to.read(cluster * CLUSTER / 512, BytesMut::zeroed(512)).await.unwrap()[0]);
        }
        assert_eq!(got, [100, 0, 3, 103, 104]);
        for (from, to, expected) in [("lvs/v", "small", libc::EPERM), ("lvs/s1", "small", libc::EINVAL)] {
            let number = b.module.start_shallow_copy(from, to).await.unwrap();
            assert_eq!(finish(&b.module, number).await.error, Some(expected), "{from} {to}");
        }
    });
}

async fn finish(module: &LvolModule, number: u32) -> super::super::CopyStatus {
    loop {
        let status = module.check_shallow_copy(number).unwrap();
        if status.done || status.error.is_some() {
            return status;
        }
        tokio::task::yield_now().await;
    }
}
