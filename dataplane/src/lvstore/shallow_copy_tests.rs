//! What a shallow copy leaves behind.

use std::rc::Rc;

use bytes::Bytes;
use vda_spdk::{ErrorIoType, ErrorType};

use super::super::LvolClear;
use super::super::module::{CreateStore, LvolModule, LvsSelector};
use super::CopyStatus;
use crate::bdev::inject::{ErrorBdevs, ErrorParams, Injection};
use crate::bdev::malloc::{self, MallocParams};
use crate::bdev::sim_disk::{SimBdev, SimDisk};
use crate::bdev::{NewBdev, Registry};

const BLOCK: usize = 4096;
const MIB: usize = 1 << 20;

async fn end(module: &LvolModule, number: u32) -> CopyStatus {
    loop {
        let status = module.check_shallow_copy(number).expect("its end was not told yet");
        if status.done || status.error.is_some() {
            return status;
        }
        tokio::task::yield_now().await;
    }
}

/// A snapshot `lvs/s` of 2 MiB of sevens.
async fn snapshot(registry: &Registry) -> Rc<LvolModule> {
    let module = LvolModule::new(registry.clone());
    let num_blocks = (32 * MIB / BLOCK) as u64;
    let params =
        MallocParams { name: Some("m0".to_owned()), num_blocks, block_size: BLOCK as u32, uuid: None };
    malloc::create(registry, params).expect("a disk");
    let params = CreateStore {
        bdev_name: "m0".to_owned(),
        lvs_name: "lvs".to_owned(),
        cluster_sz: Some(MIB as u32),
        ..CreateStore::default()
    };
    module.create_store(params).await.expect("an lvstore");
    module.create(LvsSelector::Name("lvs"), "v", 2, true, LvolClear::Unmap).await.expect("an lvol");
    let (v, _events) = registry.open("lvs/v", true).expect("opened");
    v.write(0, Bytes::from(vec![7; 2 * MIB]), false).await.expect("written");
    module.snapshot("lvs/v", "s").await.expect("a snapshot");
    module
}

/// A copy that is said to be complete survives a power cut that takes all that was not flushed; one that can not be made durable failed.
#[test]
fn a_complete_copy_survives_a_power_cut() {
    let rt = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    tokio::task::LocalSet::new().block_on(&rt, async {
        let registry = Registry::new();
        let module = snapshot(&registry).await;
        let disk = SimDisk::new(1, BLOCK as u32, (2 * MIB / BLOCK) as u64);
        let bdev = Rc::new(SimBdev(Rc::clone(&disk)));
        registry.register(NewBdev { name: "to".to_owned(), aliases: vec![], bdev }).expect("registered");
        let number = module.start_shallow_copy("lvs/s", "to").await.expect("begun");
        let status = end(&module, number).await;
        assert_eq!((status.copied_clusters, status.total_clusters, status.error), (2, 2, None));
        let after = disk.after_power_cut_with(2, |_| false);
        assert!(after.contents(0, (2 * MIB / BLOCK) as u64).iter().all(|byte| *byte == 7));

        let faults = ErrorBdevs::new(registry.clone());
        faults.create(ErrorParams { base_name: "to".to_owned(), uuid: None }).expect("an error bdev");
        let once =
            Injection { error: ErrorType::Failure, num: 1, queue_depth: 0, nvme: (0, 0), corrupt: (0, 0) };
        faults.inject("EE_to", ErrorIoType::Flush, once).expect("injected");
        let number = module.start_shallow_copy("lvs/s", "EE_to").await.expect("begun");
        let status = end(&module, number).await;
        assert_eq!((status.copied_clusters, status.done, status.error), (2, false, Some(libc::EIO)));
    });
}
