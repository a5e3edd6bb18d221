//! A real etcd in a temporary directory. Killed with its owner.
#![allow(clippy::unwrap_used)]

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use vda_model::keys::Prefix;
use vda_ports::Port;
use vda_store::{EtcdConfig, EtcdKv, RangeRequest, Store};

pub(crate) struct Etcd {
    dir: tempfile::TempDir,
    client: Port,
    peer: Port,
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

fn port() -> Port {
    Port::reserve().unwrap()
}

impl Etcd {
    pub(crate) fn start() -> Option<Self> {
        binary()?;
        let dir = tempfile::tempdir().unwrap();
        let mut etcd = Self { dir, client: port(), peer: port(), child: None };
        etcd.up();
        Some(etcd)
    }

    /// A place for one that is not running yet.
    pub(crate) fn stopped() -> Option<Self> {
        binary()?;
        Some(Self { dir: tempfile::tempdir().unwrap(), client: port(), peer: port(), child: None })
    }

    pub(crate) fn up(&mut self) {
        let client = format!("http://{}", self.client.address());
        let peer = format!("http://{}", self.peer.address());
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
        EtcdConfig::new(&self.client.address())
    }

    pub(crate) fn store(&self) -> Store {
        Store::new(Arc::new(EtcdKv::new(self.config())), Prefix::default())
    }

    /// Waits until it answers.
    pub(crate) async fn ready(&self, store: &Store) {
        let started = Instant::now();
        while let Err(error) = store.kv().range(RangeRequest::key("/")).await {
            assert!(started.elapsed() < Duration::from_secs(90), "etcd does not answer: {error}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    pub(crate) fn compact(&self, revision: u64) {
        // By etcd's JSON gateway: `etcdctl` is in a package of its own, which nothing else needs.
        let body = format!(r#"{{"revision": "{revision}", "physical": true}}"#);
        let mut stream = TcpStream::connect(self.client.address()).unwrap();
        write!(
            stream,
            "POST /v3/kv/compaction HTTP/1.1\r\nHost: etcd\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        )
        .unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        self.kill();
    }
}
