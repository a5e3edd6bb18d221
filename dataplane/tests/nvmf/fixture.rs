//! A target in this process, on loopback.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::rc::Rc;
use std::time::Duration;

use tokio::task::LocalSet;
use vda_dataplane::bdev::malloc::{self, MallocParams};
use vda_dataplane::bdev::{QosUpdate, Registration, Registry};
use vda_dataplane::nvmf::{NamespaceRequest, SubsystemConfig, Target, TransportOptions};
use vda_nvme::digest::Digests;
use vda_nvme::log::AnaState;

use crate::raw::{IN_CAPSULE, Who};

pub(crate) const NQN: &str = "nqn.2016-06.io.vda:vd:0000000000000001";
pub(crate) const HOST: &str = "nqn.2016-06.io.spdk:host0";
/// Blocks of the namespace, 512 bytes each.
pub(crate) const BLOCKS: u64 = 4096;
pub(crate) const BLOCK: usize = 512;

/// Runs a test on the one thread that the data plane lives on.
pub(crate) fn run(test: impl Future<Output = ()>) {
    let rt = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("runtime");
    LocalSet::new().block_on(&rt, async {
        tokio::time::timeout(Duration::from_secs(60), test).await.expect("the test hangs");
    });
}

pub(crate) fn free_address() -> SocketAddr {
    let probe = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
    probe.local_addr().expect("bound")
}

/// A subsystem with ANA and one namespace in memory.
pub(crate) struct Fixture {
    pub(crate) registry: Registry,
    pub(crate) target: Rc<Target>,
    pub(crate) address: SocketAddr,
    _malloc: Registration,
}

impl Fixture {
    pub(crate) fn new() -> Self {
        Self::with(TransportOptions::default())
    }

    pub(crate) fn with(options: TransportOptions) -> Self {
        let registry = Registry::new();
        let params =
            MallocParams { name: Some("m0".into()), num_blocks: BLOCKS, block_size: 512, uuid: None };
        let malloc = malloc::create(&registry, params).expect("malloc");
        let target = Target::new(registry.clone());
        let options = TransportOptions { in_capsule_data_size: IN_CAPSULE, ..options };
        target.create_transport(options).expect("transport");
        let config = SubsystemConfig { ana_reporting: true, ..SubsystemConfig::new(NQN) };
        target.create_subsystem(config, true).expect("subsystem");
        target
            .add_ns(NQN, &NamespaceRequest { bdev_name: "m0".into(), ..Default::default() })
            .expect("namespace");
        let address = free_address();
        target.add_listener(NQN, address, AnaState::Optimized).expect("listener");
        Self { registry, target, address, _malloc: malloc }
    }

    /// At most this many bytes a second, or no limit with 0.
    pub(crate) fn limit(&self, mbytes_per_sec: u64) {
        let update = QosUpdate { rw_mbytes_per_sec: Some(mbytes_per_sec), ..Default::default() };
        assert!(self.registry.set_qos("m0", update).expect("there"), "a limit");
    }

    /// I/O commands that have ended.
    pub(crate) fn completed(&self) -> u64 {
        self.target.show_stats().poll_groups[0].completed_nvme_io.unwrap_or_default()
    }

    pub(crate) fn who(&self) -> Who {
        Who {
            address: self.address,
            subnqn: NQN.into(),
            hostnqn: HOST.into(),
            hostid: [7; 16],
            digests: Digests::default(),
            depth: 32,
            kato_ms: 0,
        }
    }
}
