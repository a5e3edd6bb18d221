//! The binary itself: how much memory it takes, and how it ends.

use std::{
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use futures::{StreamExt, stream};
use tonic::transport::Channel;
use vda_ports::Port;
use vda_proto::v1::{self, portal_client::PortalClient};

use crate::bed::{Bed, Etcd, GIB, MIB, da};

/// What a portal may take with thousands of arrays, its code not counted: that of a debug build is several times a release's.
const MAX_MIB: u64 = 18;
const ARRAYS: usize = 2000;

struct Process {
    child: Child,
    _port: Port,
    client: PortalClient<Channel>,
}

impl Drop for Process {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

impl Process {
    async fn start(etcd: &str) -> Self {
        let port = Port::reserve().unwrap();
        let child = Command::new(env!("CARGO_BIN_EXE_vda_portal"))
            .args(["--portal-address", &port.address()])
            .args(["--etcd-endpoints", etcd, "--log-level", "warn"])
            // Each thread has a heap of its own: the same on a machine with many processors.
            .env("TOKIO_WORKER_THREADS", "2")
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let endpoint = Channel::from_shared(format!("http://{}", port.address())).unwrap();
        let connected = async {
            loop {
                match endpoint.connect().await {
                    Ok(channel) => return channel,
                    Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
                }
            }
        };
        let channel = tokio::time::timeout(Duration::from_secs(60), connected).await.expect("it listens");
        Self { child, _port: port, client: PortalClient::new(channel) }
    }

    /// Resident memory in MiB: `RssAnon` its own, `RssFile` its code.
    fn memory(&self, field: &str) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find(|l| l.starts_with(field)).unwrap();
        line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() / 1024
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn thousands_of_arrays_take_little_memory() {
    let site = Etcd::reserve();
    let address = site.client.address();
    let _etcd = Etcd::start(site);
    let bed = Bed::with_etcd_at(&address).await;
    bed.until_it_answers().await;
    bed.cluster(8, 64 * GIB).await;
    let portal = Process::start(&address).await;
    let started = Instant::now();
    let creates = stream::iter(0..ARRAYS).map(|n| {
        let mut client = portal.client.clone();
        async move { client.create_da(da(&format!("da{n}"), 4 * MIB, 2)).await.map(drop) }
    });
    let results: Vec<_> = creates.buffer_unordered(32).collect().await;
    let took = started.elapsed();
    assert!(results.iter().all(Result::is_ok), "{:?}", results.into_iter().find(Result::is_err));
    let list = v1::ListDaRequest { page_size: 1000, page_token: String::new() };
    assert_eq!(portal.client.clone().list_da(list).await.unwrap().into_inner().das.len(), 1000);
    let (own, code) = (portal.memory("RssAnon"), portal.memory("RssFile"));
    println!("{ARRAYS} creates by 32 clients in {took:?}; resident {own} MiB and {code} MiB of code");
    assert!(own < MAX_MIB, "resident {own} MiB");
    bed.assert_clean().await;
}
