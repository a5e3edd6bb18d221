//! A real etcd in a temporary directory. Killed with its owner.
#![allow(clippy::unwrap_used)]

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use vda_model::keys::Prefix;
use vda_store::{EtcdConfig, EtcdKv, RangeRequest, Store};

pub(crate) struct Etcd {
    dir: tempfile::TempDir,
    client_port: u16,
    peer_port: u16,
    child: Option<Child>,
}

/// `None`, with a note, where etcd is not installed.
pub(crate) fn binary() -> Option<PathBuf> {
    let found = ["/usr/bin/etcd", "/usr/local/bin/etcd"].iter().map(Path::new).find(|path| path.exists());
    if found.is_none() {
        eprintln!("etcd is not installed: skipped");
    }
    found.map(Path::to_path_buf)
}

fn free_port() -> u16 {
    TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap().port()
}

impl Etcd {
    pub(crate) fn start() -> Option<Self> {
        binary()?;
        let dir = tempfile::tempdir().unwrap();
        let mut etcd = Self { dir, client_port: free_port(), peer_port: free_port(), child: None };
        etcd.up();
        Some(etcd)
    }

    /// A place for one that is not running yet.
    pub(crate) fn stopped() -> Option<Self> {
        binary()?;
        Some(Self {
            dir: tempfile::tempdir().unwrap(),
            client_port: free_port(),
            peer_port: free_port(),
            child: None,
        })
    }

    pub(crate) fn up(&mut self) {
        let client = format!("http://127.0.0.1:{}", self.client_port);
        let peer = format!("http://127.0.0.1:{}", self.peer_port);
        let child = Command::new(binary().unwrap())
            .arg("--data-dir")
            .arg(self.dir.path().join("data"))
            .args(["--listen-client-urls", &client, "--advertise-client-urls", &client])
            .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
            .args(["--initial-cluster", &format!("default={peer}"), "--log-level", "error"])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        self.child = Some(child);
    }

    /// SIGKILL: what was acknowledged must survive it.
    pub(crate) fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    pub(crate) fn config(&self) -> EtcdConfig {
        EtcdConfig::new(&format!("127.0.0.1:{}", self.client_port))
    }

    pub(crate) fn store(&self) -> Store {
        Store::new(Arc::new(EtcdKv::new(self.config())), Prefix::default())
    }

    /// Waits until it answers.
    pub(crate) async fn ready(&self, store: &Store) {
        let started = Instant::now();
        while let Err(error) = store.kv().range(RangeRequest::key("/")).await {
            assert!(started.elapsed() < Duration::from_secs(30), "etcd does not answer: {error}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    pub(crate) fn compact(&self, revision: u64) {
        let done = Command::new("etcdctl")
            .env("ETCDCTL_API", "3")
            .args(["--endpoints", &format!("127.0.0.1:{}", self.client_port), "compact", "--physical"])
            .arg(revision.to_string())
            .output()
            .unwrap();
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        self.kill();
    }
}
