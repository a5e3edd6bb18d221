//! The agent against embedded data planes over real NVMe/TCP: assembled, a member lost and rebuilt, killed and restarted, deleted.

#![allow(clippy::unwrap_used)] // A test that cannot go on says where it stopped.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use clap::Parser;
use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep};
use tonic::transport::Channel;
use vda_cn_agent::args::Args;
use vda_ports::Port;
use vda_proto::v1::cn_agent_client::CnAgentClient;
use vda_proto::v1::sync_reply::Outcome;
use vda_proto::v1::{
    CnSpec, CnSyncRequest, CntlrSpec, CntlrStatus, CntlrSync, Condition, ExpSpec, GroupSpec, LegSpec,
    LegState, Member, MirrorSet, NvmfListener, ObserveRequest,
};
use vda_spdk::{
    BdevAioCreate, BdevGetBdevs, BdevLvolCreate, BdevLvolDelete, BdevLvolGetLvstores, BdevNvmeGetControllers,
    BdevRaidGetBdevs, BdevSetOptions, Client, FrameworkStartInit, ListenAddress, NamespaceParams,
    NvmfCreateSubsystem, NvmfCreateTransport, NvmfGetSubsystems, NvmfSubsystemAddHost,
    NvmfSubsystemAddListener, NvmfSubsystemAddNs, RaidCategory, Rpc,
};
use vda_telemetry::Shutdown;

const CN: &str = "00000000000000c9";
const DA: &str = "00000000000000a1";
const OWNER: &str = "nqn.2016-06.io.vda:cntlr:00000000000000c1:0:1";
const EXP: &str = "nqn.2016-06.io.vda:exp:da0:exp0:00000000000000e0";
const VDS: [&str; 2] = ["00000000000000f0", "00000000000000f1"];
const MIB: u64 = 1 << 20;
const PATIENCE: Duration = Duration::from_secs(90);

/// The data plane's binary, beside the test's own; `None`: not built.
fn binary() -> Option<PathBuf> {
    let deps = std::env::current_exe().unwrap();
    let path = deps.parent()?.parent()?.join("vda_dataplane");
    if !path.exists() {
        eprintln!("SKIPPED: {} is not built (cargo build -p vda-dataplane)", path.display());
        return None;
    }
    Some(path)
}

/// A data plane process.
struct Plane {
    dir: PathBuf,
    name: String,
    child: Option<Child>,
    target: Client,
    port: Port,
}

impl Plane {
    fn start(binary: &PathBuf, dir: &std::path::Path, name: &str) -> Self {
        let sock = dir.join(format!("{name}.sock"));
        let target = Client::new(sock.to_str().unwrap(), PATIENCE);
        let port = Port::reserve().unwrap();
        let mut plane = Self { dir: dir.to_owned(), name: name.to_owned(), child: None, target, port };
        plane.spawn(binary);
        plane
    }

    fn sock(&self) -> String {
        self.dir.join(format!("{}.sock", self.name)).to_str().unwrap().to_owned()
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.dir.join(format!("{}.log", self.name))).unwrap_or_default()
    }

    fn spawn(&mut self, binary: &PathBuf) {
        let _ = std::fs::remove_file(self.sock());
        let log = std::fs::File::create(self.dir.join(format!("{}.log", self.name))).unwrap();
        let child = Command::new(binary)
            .args(["-r", &self.sock(), "--wait-for-rpc"])
            .stdout(log.try_clone().unwrap())
            .stderr(Stdio::from(log))
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        self.child = Some(child);
    }

    async fn kill(&mut self) {
        self.child.take().unwrap().kill().await.unwrap();
    }

    fn address(&self) -> ListenAddress {
        ListenAddress::tcp(self.port.address().parse().unwrap())
    }

    /// Exports a file as a VD, as a disk node does.
    async fn export(&self, vd: &str) {
        let deadline = Instant::now() + PATIENCE;
        let options = BdevSetOptions { bdev_auto_examine: Some(false), ..BdevSetOptions::default() };
        while self.target.call(options.clone()).await.is_err() {
            assert!(Instant::now() < deadline, "{}", self.log());
            sleep(Duration::from_millis(20)).await;
        }
        self.target.call(FrameworkStartInit {}).await.unwrap();
        self.target.call(NvmfCreateTransport::new("TCP")).await.unwrap();
        let file = self.dir.join(format!("{}.disk", self.name));
        if !file.exists() {
            std::fs::File::create(&file).unwrap().set_len(64 * MIB).unwrap();
        }
        let aio =
            BdevAioCreate { block_size: Some(4096), ..BdevAioCreate::new("disk", file.to_str().unwrap()) };
        self.target.call(aio).await.unwrap();
        let nqn = format!("nqn.2016-06.io.vda:vd:{vd}");
        let create =
            NvmfCreateSubsystem { serial_number: Some("VD".into()), ..NvmfCreateSubsystem::new(nqn.clone()) };
        self.target.call(create).await.unwrap();
        self.target.call(NvmfSubsystemAddHost::new(nqn.clone(), OWNER)).await.unwrap();
        let uuid = format!("6c1b4a3e-0000-4000-8000-{}", &vd[4..]).parse().unwrap();
        let ns = NamespaceParams {
            uuid: Some(uuid),
            nguid: Some(format!("6C1B4A3E0000400080{}", &vd[2..])),
            ..NamespaceParams::new("disk")
        };
        self.target.call(NvmfSubsystemAddNs::new(nqn.clone(), ns)).await.unwrap();
        self.target.call(NvmfSubsystemAddListener::new(nqn, self.address())).await.unwrap();
    }
}

/// A controller node with its agent, and two disk nodes.
struct Scene {
    binary: PathBuf,
    _dir: tempfile::TempDir,
    cn: Plane,
    dns: Vec<Plane>,
    agent_port: Port,
    shutdown: Shutdown,
    agent: Option<tokio::task::JoinHandle<()>>,
    client: Option<CnAgentClient<Channel>>,
    generation: u64,
    known: Option<LegState>,
    deleting: bool,
    export: bool,
}

impl Scene {
    async fn start(binary: PathBuf) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let cn = Plane::start(&binary, dir.path(), "cn");
        let dns = (0..2).map(|n| Plane::start(&binary, dir.path(), &format!("dn{n}"))).collect();
        let mut scene = Self {
            binary,
            _dir: dir,
            cn,
            dns,
            agent_port: Port::reserve().unwrap(),
            shutdown: Shutdown::new(),
            agent: None,
            client: None,
            generation: 10,
            known: None,
            deleting: false,
            export: true,
        };
        scene.start_agent().await;
        scene
    }

    async fn start_agent(&mut self) {
        let address = self.agent_port.address();
        let port = self.cn.port.number();
        let listener =
            format!(r#"{{"trtype":"tcp","traddr":"127.0.0.1","adrfam":"ipv4","trsvcid":"{port}"}}"#);
        let sock = self.cn.sock();
        let args = Args::parse_from([
            "vda_cn_agent",
            "--address",
            &address,
            "--sock-path",
            &sock,
            "--lis-conf",
            &listener,
            "--resync-interval",
            "60",
        ]);
        self.shutdown = Shutdown::new();
        let shutdown = self.shutdown.clone();
        self.agent = Some(tokio::spawn(async move {
            vda_cn_agent::serve(args, shutdown.clone()).await.unwrap();
            assert!(shutdown.finish(PATIENCE).await, "the agent's tasks end");
        }));
        let deadline = Instant::now() + PATIENCE;
        self.client = loop {
            match CnAgentClient::connect(format!("http://{address}")).await {
                Ok(client) => break Some(client),
                Err(e) => assert!(Instant::now() < deadline, "{e}"),
            }
            sleep(Duration::from_millis(10)).await;
        };
    }

    async fn stop_agent(&mut self) {
        self.client = None;
        self.shutdown.trigger();
        self.agent.take().unwrap().await.unwrap();
    }

    fn listener(plane: &Plane) -> Option<NvmfListener> {
        Some(NvmfListener {
            trtype: "tcp".into(),
            adrfam: "ipv4".into(),
            traddr: "127.0.0.1".into(),
            trsvcid: plane.port.number().to_string(),
        })
    }

    fn leg(&self) -> LegSpec {
        let member = |(n, dn): (usize, &Plane)| Member {
            vd_id: VDS[n].into(),
            dn_address: format!("dn{n}:9720"),
            nqn: format!("nqn.2016-06.io.vda:vd:{}", VDS[n]),
            listener: Self::listener(dn),
            size_bytes: 64 * MIB,
            ..Member::default()
        };
        let set = MirrorSet { stripe: 0, members: self.dns.iter().enumerate().map(member).collect() };
        let group = GroupSpec { group: 0, strip_size_kib: 64, sets: vec![set] };
        LegSpec {
            leg: 0,
            epoch: 1,
            owner_nqn: OWNER.into(),
            cluster_bytes: MIB,
            md_pages_per_cluster_ratio: 100,
            groups: vec![group],
        }
    }

    async fn sync(&mut self) {
        self.generation += 1;
        let uuid = "6c1b4a3e-0000-4000-8000-0000000000aa";
        let spec = CntlrSpec {
            da_id: DA.into(),
            da_name: "da0".into(),
            primary: true,
            volume_uuid: uuid.into(),
            size_bytes: 32 * MIB,
            legs: vec![self.leg()],
            deleting: self.deleting,
            ..CntlrSpec::default()
        };
        let exp = ExpSpec {
            exp_id: "00000000000000e1".into(),
            exp_name: "exp0".into(),
            nqn: EXP.into(),
            initiator_nqns: vec!["nqn.2014-08.org.example:host".into()],
            serial_number: "SERIAL".into(),
            model_number: "VDA disk array".into(),
            ns_uuid: uuid.into(),
            ns_nguid: "6C1B4A3E0000400080000000000000BB".into(),
            min_cntlid: 1,
            max_cntlid: 4000,
            ana_state: "optimized".into(),
            deleting: !self.export,
            ..ExpSpec::default()
        };
        let cntlr = CntlrSync {
            spec: Some(spec),
            exps: vec![exp],
            revision: self.generation,
            legs: self.known.iter().cloned().collect(),
        };
        let request = CnSyncRequest {
            generation: self.generation,
            full: true,
            node: Some(CnSpec { cn_id: CN.into(), listener: Self::listener(&self.cn), ..CnSpec::default() }),
            cntlrs: vec![cntlr],
            ..CnSyncRequest::default()
        };
        let reply = self.client.as_mut().unwrap().sync(request).await.unwrap().into_inner();
        assert_eq!(reply.outcome(), Outcome::Accepted, "{reply:?}");
    }

    /// Follows the controller until `until`, writing down what is known about its leg as a monitor does.
    async fn wait(&mut self, what: &str, until: impl Fn(&CntlrStatus) -> bool) -> CntlrStatus {
        let request = ObserveRequest { node_id: CN.into() };
        let mut stream = self.client.as_mut().unwrap().observe(request).await.unwrap().into_inner();
        let mut last = CntlrStatus::default();
        let found = tokio::time::timeout(PATIENCE, async {
            loop {
                let message = stream.message().await.unwrap().expect("the stream goes on");
                for status in message.cntlrs {
                    let leg = &status.legs[0];
                    let new = vda_model::transitions::leg::observe(self.known.as_ref(), DA, &self.leg(), leg);
                    if let (Some(new), false) = (new, self.deleting) {
                        self.known = Some(new);
                        self.sync().await;
                    }
                    last = status;
                }
                if until(&last) {
                    return;
                }
            }
        });
        if found.await.is_err() {
            panic!("not reached: {what}\n{last:#?}\nknown: {:?}\nCN: {}", self.known, self.cn.log());
        }
        last
    }
}

fn condition(status: &CntlrStatus) -> Condition {
    status.status.as_ref().map_or(Condition::Unspecified, |s| s.condition())
}

fn whole(status: &CntlrStatus) -> bool {
    condition(status) == Condition::Ready
        && status.legs.iter().all(|leg| leg.initialised && leg.members.iter().all(|m| m.in_sync))
        && status.exps.iter().all(|e| e.status.as_ref().unwrap().condition() == Condition::Ready)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_array_is_assembled_loses_a_member_and_goes() {
    let Some(binary) = binary() else { return };
    let mut scene = Scene::start(binary).await;
    scene.dns[0].export(VDS[0]).await;
    scene.sync().await;
    // Until its own data plane answers, that is what it waits for.
    let on_the_other = |s: &CntlrStatus| {
        s.status.as_ref().is_some_and(|status| status.on == "DN dn1:9720: VD not exported yet")
    };
    let status = scene.wait("blocked", on_the_other).await;
    assert_eq!(condition(&status), Condition::Blocked);
    assert!(!status.legs[0].initialised);

    scene.dns[1].export(VDS[1]).await;
    let started = Instant::now();
    scene.sync().await;
    let status = scene.wait("ready", whole).await;
    eprintln!("assembled and exported after {:?}", started.elapsed());
    assert_eq!(status.exps[0].ana_state, "optimized");
    let exps = NvmfGetSubsystems { nqn: Some(EXP.into()), tgt_name: None };
    let exp = scene.cn.target.call(exps.clone()).await.unwrap().remove(0);
    assert_eq!((exp.hosts.len(), exp.allow_any_host, exp.min_cntlid), (1, false, Some(1)));
    let uuid = exp.namespaces.unwrap()[0].uuid.unwrap();
    assert_eq!(uuid.to_string(), "6c1b4a3e-0000-4000-8000-0000000000aa");
    let raid = scene.cn.target.call(BdevRaidGetBdevs::new(RaidCategory::All)).await.unwrap().remove(0);
    assert_eq!(raid.info.num_base_bdevs, 3, "one slot to spare");
    assert_eq!(raid.info.base_bdevs_list.iter().filter(|slot| slot.is_configured).count(), 2);
    let lvstore = scene.cn.target.call(BdevLvolGetLvstores::default()).await.unwrap().remove(0).uuid;

    // The data plane dies: nobody knows which member was written last, so one is elected and the other rebuilt.
    scene.cn.kill().await;
    let binary = scene.binary.clone();
    scene.cn.spawn(&binary);
    let deadline = Instant::now() + PATIENCE;
    while scene.cn.target.call(exps.clone()).await.map_or(0, |e| e.len()) == 0 {
        scene.wait("elected, rebuilt", |_| true).await;
        assert!(Instant::now() < deadline, "{}", scene.cn.log());
        sleep(Duration::from_millis(50)).await;
    }
    scene.wait("whole again", whole).await;
    let again = scene.cn.target.call(BdevLvolGetLvstores::default()).await.unwrap().remove(0).uuid;
    assert_eq!(lvstore, again, "the same lvstore");
    let names: BTreeMap<String, ()> = scene
        .cn
        .target
        .call(BdevGetBdevs::default())
        .await
        .unwrap()
        .into_iter()
        .map(|b| (b.name, ()))
        .collect();
    assert!(!names.keys().any(|name| name.starts_with("vda-sp-")), "no placeholder stays: {names:?}");

    // A disk node dies. The next write goes on without it, after a pause; when the node is back its member is rebuilt.
    scene.dns[1].kill().await;
    let store = Some(format!("vda-lglvs-{DA}-0"));
    let probe =
        BdevLvolCreate { lvs_name: store, thin_provision: Some(true), ..BdevLvolCreate::new("probe", 1_u64) };
    let probe = scene.cn.target.call(probe).await.unwrap();
    scene.cn.target.call(BdevLvolDelete::new(probe)).await.unwrap();
    let lacks_one = |s: &CntlrStatus| {
        condition(s) == Condition::Degraded && s.legs[0].members.iter().filter(|m| m.in_sync).count() == 1
    };
    let status = scene.wait("degraded", lacks_one).await;
    assert!(status.exps[0].status.as_ref().unwrap().condition() == Condition::Ready, "it serves");
    assert_eq!(scene.known.as_ref().unwrap().in_sync, [VDS[0].to_owned()]);
    scene.dns[1].spawn(&binary);
    scene.dns[1].export(VDS[1]).await;
    scene.wait("rebuilt", whole).await;
    assert_eq!(scene.known.as_ref().unwrap().in_sync.len(), 2);

    // A new agent finds all as it should be.
    scene.stop_agent().await;
    scene.start_agent().await;
    scene.sync().await;
    scene.wait("whole with a new agent", whole).await;

    // The export goes, then the array.
    scene.export = false;
    scene.sync().await;
    scene.wait("export gone", |s| s.exps.iter().all(|e| e.gone)).await;
    assert_eq!(scene.cn.target.call(NvmfGetSubsystems::default()).await.unwrap().len(), 1, "only discovery");
    scene.deleting = true;
    scene.sync().await;
    scene.wait("gone", |s| s.gone).await;
    assert!(scene.cn.target.call(BdevGetBdevs::default()).await.unwrap().is_empty());
    assert!(scene.cn.target.call(BdevNvmeGetControllers::default()).await.unwrap().is_empty());
    scene.stop_agent().await;
}
