//! A portal to test, and what monitors and agents would do.

use std::{
    process::{Child, Command, Stdio},
    sync::Arc,
    time::Duration,
};

use tokio::net::TcpListener;
use tonic::{Status, transport::Channel};
use vda_model::{
    Versioned, check,
    ids::{CnId, DnId},
    keys::*,
    snapshot::Snapshot,
    transitions::{finish, reported},
    view::plain,
};
use vda_portal::{Portal, serve};
use vda_ports::Port;
use vda_proto::v1::{self, portal_client::PortalClient};
use vda_store::{Abort, EtcdConfig, EtcdKv, Kv, MemKv, Store, Tx};
use vda_telemetry::Shutdown;

pub(crate) const MIB: u64 = 1 << 20;
pub(crate) const GIB: u64 = 1 << 30;

/// An etcd of the test's own.
pub(crate) struct Etcd {
    child: Child,
    site: Site,
}

/// Where an etcd is to run: its ports, and its data.
pub(crate) struct Site {
    pub(crate) client: Port,
    peer: Port,
    data: tempfile::TempDir,
}

fn start_etcd(site: &Site) -> Child {
    let (client, peer) =
        (format!("http://{}", site.client.address()), format!("http://{}", site.peer.address()));
    let mut command = Command::new("etcd");
    command.arg("--data-dir").arg(site.data.path().join("etcd")).args([
        "--listen-client-urls",
        &client,
        "--advertise-client-urls",
        &client,
    ]);
    command.args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer]);
    command.args(["--initial-cluster", &format!("default={peer}")]);
    command
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("etcd is on PATH (Debian: etcd-server)")
}

impl Etcd {
    /// A place for one that is not running yet.
    pub(crate) fn reserve() -> Site {
        Site {
            client: Port::reserve().unwrap(),
            peer: Port::reserve().unwrap(),
            data: tempfile::tempdir().unwrap(),
        }
    }

    pub(crate) fn start(site: Site) -> Self {
        Self { child: start_etcd(&site), site }
    }

    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    pub(crate) fn restart(&mut self) {
        self.child = start_etcd(&self.site);
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// A portal served on loopback. Dropping it ends everything.
pub(crate) struct Bed {
    pub(crate) client: PortalClient<Channel>,
    /// Not the portal's own: what it writes is read from the outside.
    pub(crate) store: Store,
    pub(crate) channel: Channel,
    pub(crate) etcd: Option<Etcd>,
    shutdown: Shutdown,
}

impl Drop for Bed {
    fn drop(&mut self) {
        self.shutdown.trigger();
    }
}

impl Bed {
    pub(crate) async fn in_memory() -> Self {
        Self::over(Arc::new(MemKv::new())).await
    }

    pub(crate) async fn on_etcd() -> Self {
        let site = Etcd::reserve();
        let mut bed = Self::with_etcd_at(&site.client.address()).await;
        let etcd = Etcd::start(site);
        bed.etcd = Some(etcd);
        bed.until_it_answers().await;
        bed
    }

    /// With an etcd at this address, whether it runs or not.
    pub(crate) async fn with_etcd_at(address: &str) -> Self {
        Self::over(Arc::new(EtcdKv::new(EtcdConfig::new(address)))).await
    }

    pub(crate) async fn over(kv: Arc<dyn Kv>) -> Self {
        let shutdown = Shutdown::new();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let portal = Portal::start(Store::new(kv.clone(), Prefix::default()), &shutdown);
        tokio::spawn(serve(portal, listener, shutdown.clone()));
        let channel = Channel::from_shared(format!("http://{address}")).unwrap().connect().await.unwrap();
        let client = PortalClient::new(channel.clone());
        Self { client, store: Store::new(kv, Prefix::default()), channel, etcd: None, shutdown }
    }

    /// A second portal on the same store.
    pub(crate) async fn another(&self) -> Self {
        Self::over(self.store.kv().clone()).await
    }

    pub(crate) async fn until_it_answers(&self) {
        let asked = async {
            while self.client().list_dn(v1::ListDnRequest::default()).await.is_err() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(60), asked).await.expect("etcd answers within a minute");
    }

    pub(crate) fn client(&self) -> PortalClient<Channel> {
        self.client.clone()
    }

    // ---- requests with few words ----

    pub(crate) async fn add_dn(&self, address: &str, location: &str) -> Result<v1::Dn, Status> {
        let request = v1::CreateDnRequest {
            address: address.into(),
            listener: Some(listener(4420)),
            location: location.into(),
            ..Default::default()
        };
        self.client().create_dn(request).await.map(tonic::Response::into_inner)
    }

    pub(crate) async fn add_cn(&self, address: &str, max_cntlrs: u32) -> Result<v1::Cn, Status> {
        let request = v1::CreateCnRequest {
            address: address.into(),
            listener: Some(listener(4430)),
            max_cntlrs,
            ..Default::default()
        };
        self.client().create_cn(request).await.map(tonic::Response::into_inner)
    }

    pub(crate) async fn add_pd(&self, dn: &str, name: &str, size_bytes: u64) -> Result<v1::Pd, Status> {
        let kind = v1::pd_backend::Kind::Malloc(v1::MallocBackend { size_bytes });
        let request = v1::CreatePdRequest {
            dn_address: dn.into(),
            pd_name: name.into(),
            backend: Some(v1::PdBackend { kind: Some(kind) }),
            ..Default::default()
        };
        self.client().create_pd(request).await.map(tonic::Response::into_inner)
    }

    pub(crate) async fn create_da(&self, request: v1::CreateDaRequest) -> Result<v1::Da, Status> {
        self.client().create_da(request).await.map(tonic::Response::into_inner)
    }

    pub(crate) async fn delete_da(&self, name: &str) -> Result<v1::DeleteReply, Status> {
        let request = v1::DeleteDaRequest { da_name: name.into(), ..Default::default() };
        self.client().delete_da(request).await.map(tonic::Response::into_inner)
    }

    pub(crate) async fn add_exp(&self, da: &str, exp: &str, host: &str) -> Result<v1::Exp, Status> {
        let request = v1::CreateExpRequest {
            da_name: da.into(),
            exp_name: exp.into(),
            initiator_nqns: vec![host.into()],
            ..Default::default()
        };
        self.client().create_exp(request).await.map(tonic::Response::into_inner)
    }

    /// DNs `dn0:9720`… with one PD of `size` each, a CN, all reported ready.
    pub(crate) async fn cluster(&self, dns: u32, size: u64) {
        for n in 0..dns {
            self.add_dn(&format!("dn{n}:9720"), "").await.unwrap();
            self.add_pd(&format!("dn{n}:9720"), "pd0", size).await.unwrap();
        }
        self.add_cn("cn0:9820", 0).await.unwrap();
        self.report().await;
    }

    // ---- what monitors and agents do ----

    pub(crate) async fn snapshot(&self) -> Snapshot {
        let listing = self.store.list_all(Scope::All, 0).await.unwrap();
        let mut snapshot = Snapshot::default();
        for (key, raw) in listing.entries {
            snapshot.insert(
                self.store.prefix(),
                &key.path(self.store.prefix()),
                raw.bytes.to_vec(),
                raw.revision,
            );
        }
        snapshot
    }

    pub(crate) async fn assert_clean(&self) -> Snapshot {
        let snapshot = self.snapshot().await;
        let violations = check::check(&snapshot);
        assert!(violations.is_empty(), "{violations:#?}");
        snapshot
    }

    async fn commit<F, Fut>(&self, body: F)
    where
        F: Fn(Tx) -> Fut,
        Fut: Future<Output = Result<(), Abort<vda_model::Error>>>,
    {
        self.store.stm("test", body).await.unwrap();
    }

    /// Every node reports that all is well, with PDs of the size they were made with.
    pub(crate) async fn report(&self) {
        let snapshot = self.snapshot().await;
        for (DnSpecKey(dn), _) in snapshot.all::<DnSpecKey>() {
            self.report_dn(dn, &snapshot).await;
        }
        for (CnSpecKey(cn), _) in snapshot.all::<CnSpecKey>() {
            self.report_cn(cn, &snapshot).await;
        }
    }

    /// Somebody changes all books of DNs, several times.
    pub(crate) async fn touch_books(&self, times: u64) {
        let snapshot = self.snapshot().await;
        for (key, _) in snapshot.all::<DnCapacityKey>() {
            for n in 0..times {
                self.commit(|tx| {
                    let key = key.clone();
                    async move {
                        let mut books = tx.get(&key).await?.unwrap().value;
                        books.pds[0].total_bytes += if n % 2 == 0 { 4 * MIB } else { 8 * MIB };
                        tx.put(&key, &books);
                        Ok(())
                    }
                })
                .await;
            }
        }
    }

    async fn report_dn(&self, dn: DnId, snapshot: &Snapshot) {
        let ready = || Some(plain(v1::Condition::Ready));
        let pds = snapshot.all::<PdSpecKey>().filter(|(key, _)| key.0 == dn).map(|(_, spec)| {
            let size = match spec.value.backend.and_then(|b| b.kind) {
                Some(v1::pd_backend::Kind::Malloc(malloc)) => malloc.size_bytes,
                _ => 0,
            };
            v1::PdStatus {
                pd_id: spec.value.pd_id,
                status: ready(),
                initialised: true,
                cluster_bytes: 4 * MIB,
                total_bytes: size - 4 * MIB,
                observed_revision: spec.revision,
                gone: spec.value.deleting,
                ..Default::default()
            }
        });
        let status = v1::DnStatus {
            schema_version: 1,
            dn_id: dn.to_string(),
            observed_generation: snapshot.get(&DnGenKey(dn)).map_or(0, |g| g.revision),
            agent: ready(),
            target: ready(),
            pds: pds.collect(),
            boot: String::new(),
        };
        self.commit(|tx| {
            let status = status.clone();
            async move {
                if let Some(books) = tx.get(&DnCapacityKey(dn)).await?
                    && let Some(delta) = reported::capacity(dn, &books.value, &status)
                {
                    put(&tx, &delta);
                }
                tx.put(&DnStatusKey(dn), &status);
                Ok(())
            }
        })
        .await;
    }

    async fn report_cn(&self, cn: CnId, snapshot: &Snapshot) {
        let ready = || Some(plain(v1::Condition::Ready));
        let status = v1::CnStatus {
            schema_version: 1,
            cn_id: cn.to_string(),
            observed_generation: snapshot.get(&CnGenKey(cn)).map_or(0, |g| g.revision),
            agent: ready(),
            target: ready(),
        };
        let mut statuses = Vec::new();
        for (CntlrSpecKey(_, da), spec) in snapshot.all::<CntlrSpecKey>().filter(|(key, _)| key.0 == cn) {
            let exps: Vec<_> = snapshot.all::<ExpSpecKey>().filter(|(k, _)| k.0 == cn && k.1 == da).collect();
            let exp = |e: &v1::ExpSpec| v1::ExpStatus {
                exp_id: e.exp_id.clone(),
                status: ready(),
                ana_state: e.ana_state.clone(),
                gone: e.deleting,
            };
            statuses.push((
                da,
                v1::CntlrStatus {
                    schema_version: 1,
                    da_id: da.to_string(),
                    observed_revision: exps.iter().map(|(_, e)| e.revision).fold(spec.revision, u64::max),
                    gone: spec.value.deleting,
                    status: ready(),
                    exps: exps.iter().map(|(_, e)| exp(&e.value)).collect(),
                    ..Default::default()
                },
            ));
        }
        self.commit(|tx| {
            let (status, statuses) = (status.clone(), statuses.clone());
            async move {
                tx.put(&CnStatusKey(cn), &status);
                for (da, status) in statuses {
                    tx.put(&CntlrStatusKey(cn, da), &status);
                }
                Ok(())
            }
        })
        .await;
    }

    /// Every node confirms its deletions, and the monitor finishes them.
    pub(crate) async fn finish(&self) {
        self.report().await;
        let before = self.snapshot().await;
        for (DnShareKey(dn, da), share) in before.all::<DnShareKey>().filter(|(_, s)| s.value.deleting) {
            let status =
                v1::ShareStatus { observed_revision: share.revision, gone: true, ..Default::default() };
            let (snapshot, share) = (self.snapshot().await, Versioned::new(share.value, share.revision));
            let tombstone = snapshot.get(&DaTombstoneKey(da)).map(|t| t.value);
            let view = finish::ShareView {
                dn,
                da,
                share: &share,
                status: Some(&status),
                capacity: &snapshot.get(&DnCapacityKey(dn)).unwrap().value,
                tombstone: tombstone.as_ref(),
                forced: false,
            };
            self.write(finish::share(view).unwrap()).await;
        }
        for (ExpSpecKey(cn, da, exp), spec) in before.all::<ExpSpecKey>() {
            let status = before.get(&CntlrStatusKey(cn, da)).map(|s| s.value);
            self.write(finish::exp(cn, da, exp, &spec, status.as_ref(), false)).await;
        }
        for (CntlrSpecKey(cn, da), spec) in before.all::<CntlrSpecKey>() {
            let snapshot = self.snapshot().await;
            let tombstone = snapshot.get(&DaTombstoneKey(da)).map(|t| t.value);
            let status = before.get(&CntlrStatusKey(cn, da)).map(|s| s.value);
            let view = finish::CntlrView {
                cn,
                da,
                spec: &spec,
                exps: &[],
                status: status.as_ref(),
                capacity: &snapshot.get(&CnCapacityKey(cn)).unwrap().value,
                tombstone: tombstone.as_ref(),
                forced: false,
            };
            self.write(finish::cntlr(view).unwrap()).await;
        }
        for (PdSpecKey(dn, pd), spec) in before.all::<PdSpecKey>() {
            let snapshot = self.snapshot().await;
            let capacity = snapshot.get(&DnCapacityKey(dn)).unwrap().value;
            let status = before.get(&DnStatusKey(dn)).map(|s| s.value);
            self.write(finish::pd(dn, pd, &spec, &capacity, status.as_ref(), false).unwrap()).await;
        }
        let after = self.snapshot().await;
        for (DnSpecKey(dn), spec) in after.all::<DnSpecKey>() {
            let capacity = after.get(&DnCapacityKey(dn)).unwrap().value;
            let status = before.get(&DnStatusKey(dn)).map(|s| s.value);
            self.write(finish::dn(dn, &spec, &capacity, status.as_ref(), false)).await;
        }
        for (CnSpecKey(cn), spec) in after.all::<CnSpecKey>() {
            let capacity = after.get(&CnCapacityKey(cn)).unwrap().value;
            let status = before.get(&CnStatusKey(cn)).map(|s| s.value);
            self.write(finish::cn(cn, &spec, &capacity, status.as_ref(), false)).await;
        }
    }

    async fn write(&self, delta: Option<vda_model::Delta>) {
        let Some(delta) = delta else { return };
        self.commit(|tx| {
            put(&tx, &delta);
            async { Ok(()) }
        })
        .await;
    }
}

fn put(tx: &Tx, delta: &vda_model::Delta) {
    struct Writes<'a>(&'a Tx);
    impl Sink for Writes<'_> {
        fn put<K: Key>(&mut self, key: &K, value: &K::Value) {
            self.0.put(key, value);
        }
        fn delete<K: Key>(&mut self, key: &K) {
            self.0.delete(key);
        }
    }
    delta.apply(&mut Writes(tx));
}

pub(crate) fn listener(port: u16) -> v1::NvmfListener {
    v1::NvmfListener {
        trtype: "tcp".into(),
        adrfam: "ipv4".into(),
        traddr: "127.0.0.1".into(),
        trsvcid: port.to_string(),
    }
}

pub(crate) fn da(name: &str, size_bytes: u64, replicas: u32) -> v1::CreateDaRequest {
    v1::CreateDaRequest { da_name: name.into(), size_bytes, replicas, ..Default::default() }
}
