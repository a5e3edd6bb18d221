//! The agent against the embedded data plane, over its socket, killed and restarted.

#![allow(clippy::unwrap_used)] // A test that cannot go on says where it stopped.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use clap::Parser;
use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep};
use tonic::transport::Channel;
use vda_dn_agent::args::Args;
use vda_ports::Port;
use vda_proto::v1::dn_agent_client::DnAgentClient;
use vda_proto::v1::sync_reply::Outcome;
use vda_proto::v1::{
    Condition, DnShare, DnSpec, DnSyncRequest, FileBackend, MallocBackend, NvmfListener, ObserveRequest,
    PdBackend, PdSpec, PdStatus, PdSync, Qos, ShareStatus, ShareSync, SyncReply, VdSpec, pd_backend::Kind,
};
use vda_spdk::{
    BdevGetBdevs, BdevLvolGetLvstores, BdevMallocCreate, Client, NvmfCreateSubsystem, NvmfGetSubsystems,
    NvmfSubsystemAddHost, NvmfSubsystemRemoveListener, Rpc,
};
use vda_telemetry::Shutdown;

const DN: &str = "00000000000000d1";
const PD: &str = "00000000000000b1";
const DA: &str = "00000000000000a1";
const VD: &str = "00000000000000f1";
const VD2: &str = "00000000000000f2";
const OWNER: &str = "nqn.2016-06.io.vda:cntlr:00000000000000c1:0:1";
const SUBSYSTEM: &str = "nqn.2016-06.io.vda:vd:00000000000000f1";
const MIB: u64 = 1 << 20;
/// Long for a data plane that answers at once, even on a busy machine.
const SOCK_TIMEOUT: &str = "3";
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

struct Node {
    dir: tempfile::TempDir,
    binary: PathBuf,
    dataplane: Option<Child>,
    shutdown: Shutdown,
    agent: Option<tokio::task::JoinHandle<()>>,
    client: Option<DnAgentClient<Channel>>,
    target: Client,
    nvmf_port: Port,
    agent_port: Port,
    generation: u64,
}

impl Node {
    async fn start(binary: PathBuf) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let target = Client::new(dir.path().join("dn.sock").to_str().unwrap(), PATIENCE);
        let mut node = Self {
            dir,
            binary,
            dataplane: None,
            shutdown: Shutdown::new(),
            agent: None,
            client: None,
            target,
            nvmf_port: Port::reserve().unwrap(),
            agent_port: Port::reserve().unwrap(),
            generation: 10,
        };
        node.boot(1);
        node.start_dataplane();
        node.start_agent().await;
        node
    }

    /// The `nth` boot of the node.
    fn boot(&self, nth: u32) {
        std::fs::write(self.path("boot_id"), format!("{nth:08x}-0000-4000-8000-000000000000\n")).unwrap();
    }

    /// Subsystems of VDs.
    async fn exported(&self) -> Vec<String> {
        let subsystems = self.target.call(NvmfGetSubsystems::default()).await.unwrap();
        let vds = subsystems.into_iter().map(|s| s.nqn).filter(|nqn| nqn.contains(":vd:"));
        vds.collect()
    }

    fn path(&self, name: &str) -> String {
        self.dir.path().join(name).to_str().unwrap().to_owned()
    }

    fn start_dataplane(&mut self) {
        let _ = std::fs::remove_file(self.path("dn.sock"));
        let log = std::fs::File::create(self.path("dataplane.log")).unwrap();
        let child = Command::new(&self.binary)
            .args(["-r", &self.path("dn.sock"), "--wait-for-rpc"])
            .stdout(log.try_clone().unwrap())
            .stderr(Stdio::from(log))
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        self.dataplane = Some(child);
    }

    async fn kill_dataplane(&mut self) {
        let mut child = self.dataplane.take().unwrap();
        child.kill().await.unwrap();
    }

    /// Stops the data plane without ending it, as a hung disk would, or lets it go on.
    async fn hang(&self, hung: bool) {
        let pid = self.dataplane.as_ref().unwrap().id().unwrap();
        let signal = if hung { "STOP" } else { "CONT" };
        let done = Command::new("sh").args(["-c", &format!("kill -{signal} {pid}")]).status().await.unwrap();
        assert!(done.success());
    }

    async fn start_agent(&mut self) {
        let address = self.agent_port.address();
        let listener = format!(
            r#"{{"trtype":"tcp","traddr":"127.0.0.1","adrfam":"ipv4","trsvcid":"{}"}}"#,
            self.nvmf_port.number()
        );
        let args = Args::parse_from([
            "vda_dn_agent",
            "--address",
            &address,
            "--sock-path",
            &self.path("dn.sock"),
            "--lis-conf",
            &listener,
            "--resync-interval",
            "300ms",
            "--boot-id-path",
            &self.path("boot_id"),
            "--sock-timeout",
            SOCK_TIMEOUT,
        ]);
        self.shutdown = Shutdown::new();
        let shutdown = self.shutdown.clone();
        self.agent = Some(tokio::spawn(async move {
            vda_dn_agent::serve(args, shutdown.clone()).await.unwrap();
            assert!(shutdown.finish(PATIENCE).await, "the agent's tasks end");
        }));
        let deadline = Instant::now() + PATIENCE;
        self.client = loop {
            match DnAgentClient::connect(format!("http://{address}")).await {
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

    fn request(&self, pds: Vec<PdSync>, shares: Vec<ShareSync>) -> DnSyncRequest {
        let listener = NvmfListener {
            trtype: "tcp".into(),
            adrfam: "ipv4".into(),
            traddr: "127.0.0.1".into(),
            trsvcid: self.nvmf_port.number().to_string(),
        };
        DnSyncRequest {
            generation: self.generation,
            full: true,
            node: Some(DnSpec { dn_id: DN.into(), listener: Some(listener), ..DnSpec::default() }),
            pds,
            shares,
            ..DnSyncRequest::default()
        }
    }

    async fn send(&mut self, request: DnSyncRequest) -> SyncReply {
        self.client.as_mut().unwrap().sync(request).await.unwrap().into_inner()
    }

    /// A full desired state of the next generation, accepted.
    async fn sync(&mut self, pds: Vec<PdSync>, shares: Vec<ShareSync>) {
        self.generation += 1;
        let reply = self.send(self.request(pds, shares)).await;
        assert_eq!(reply.outcome(), Outcome::Accepted, "{reply:?}");
    }

    /// Follows the node until its statuses satisfy `until`.
    async fn wait<F>(&mut self, what: &str, mut until: F) -> Seen
    where
        F: FnMut(&Seen) -> bool,
    {
        let request = ObserveRequest { node_id: DN.into() };
        let mut stream = self.client.as_mut().unwrap().observe(request).await.unwrap().into_inner();
        let mut seen = Seen::default();
        let found = tokio::time::timeout(PATIENCE, async {
            loop {
                let message = stream.message().await.unwrap().expect("the stream goes on");
                if let Some(node) = message.node {
                    seen.pds = node.pds;
                    let target = node.target.unwrap_or_default();
                    (seen.target, seen.trouble) = (Some(target.condition()), target.message);
                }
                for share in message.shares {
                    seen.shares.retain(|s| s.da_id != share.da_id);
                    seen.shares.push(share);
                }
                seen.complete |= message.complete;
                if seen.complete && until(&seen) {
                    return;
                }
            }
        });
        if found.await.is_err() {
            let log = std::fs::read_to_string(self.path("dataplane.log")).unwrap_or_default();
            panic!("not reached: {what}\nseen: {seen:#?}\ndata plane: {log}");
        }
        seen
    }
}

#[derive(Debug, Default)]
struct Seen {
    complete: bool,
    pds: Vec<PdStatus>,
    shares: Vec<ShareStatus>,
    target: Option<Condition>,
    /// What is wrong with the target.
    trouble: String,
}

impl Seen {
    fn pd(&self) -> Condition {
        self.pds.first().and_then(|pd| pd.status.as_ref()).map_or(Condition::Unspecified, |s| s.condition())
    }

    fn vds(&self) -> Vec<Condition> {
        let vds = self.shares.iter().flat_map(|share| &share.vds);
        vds.map(|vd| vd.status.as_ref().unwrap().condition()).collect()
    }

    fn ready(&self, vds: usize) -> bool {
        self.pd() == Condition::Ready && self.vds() == vec![Condition::Ready; vds]
    }
}

fn file(path: &Path) -> Kind {
    if !path.exists() {
        std::fs::File::create(path).unwrap().set_len(256 * MIB).unwrap();
    }
    Kind::Aio(FileBackend { filename: path.to_str().unwrap().to_owned() })
}

fn pd(kind: Kind, deleting: bool) -> PdSync {
    let backend = Some(PdBackend { kind: Some(kind) });
    let spec = PdSpec { pd_id: PD.into(), pd_name: "pd0".into(), backend, deleting, ..PdSpec::default() };
    PdSync { spec: Some(spec), revision: 5 + u64::from(deleting), initialised: false }
}

fn vd(id: &str, owner: &str) -> VdSpec {
    VdSpec {
        vd_id: id.into(),
        pd_id: PD.into(),
        size_bytes: 32 * MIB,
        owner_nqn: owner.into(),
        ..VdSpec::default()
    }
}

fn share(vds: Vec<VdSpec>, deleting: bool, revision: u64) -> ShareSync {
    let spec = DnShare { da_id: DA.into(), da_name: "da0".into(), vds, deleting, ..DnShare::default() };
    ShareSync { spec: Some(spec), revision, initialised_vd_ids: vec![] }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_share_is_made_survives_and_goes() {
    let Some(binary) = binary() else { return };
    let mut node = Node::start(binary).await;
    let disk = file(Path::new(&node.path("disk")));
    let vds = || vec![vd(VD, OWNER), vd(VD2, OWNER)];

    let started = Instant::now();
    node.sync(vec![pd(disk.clone(), false)], vec![share(vds(), false, 6)]).await;
    let seen = node.wait("ready", |s| s.ready(2)).await;
    eprintln!("PD and two VDs usable after {:?}", started.elapsed());
    let pd_status = &seen.pds[0];
    assert!(pd_status.initialised && pd_status.total_bytes > 200 * MIB && pd_status.cluster_bytes == MIB);
    assert!(seen.shares[0].vds.iter().all(|vd| vd.initialised && vd.exported_to == OWNER));
    assert_eq!(seen.shares[0].observed_revision, 6);

    // A data plane that dies and comes back is set up again; what was on the disk is still there.
    let before = node.target.call(BdevLvolGetLvstores::default()).await.unwrap();
    node.kill_dataplane().await;
    node.wait("target failed", |s| s.target == Some(Condition::Failed)).await;
    node.start_dataplane();
    node.wait("ready again", |s| s.target == Some(Condition::Ready) && s.ready(2)).await;
    let deadline = Instant::now() + PATIENCE;
    while node.target.call(NvmfGetSubsystems::default()).await.map_or(0, |s| s.len()) < 3 {
        assert!(Instant::now() < deadline, "exports come back");
        sleep(Duration::from_millis(20)).await;
    }
    let after = node.target.call(BdevLvolGetLvstores::default()).await.unwrap();
    assert_eq!(before[0].uuid, after[0].uuid, "the same lvstore");

    // An agent that is restarted finds everything as it should be.
    node.stop_agent().await;
    node.start_agent().await;
    node.sync(vec![pd(disk.clone(), false)], vec![share(vds(), false, 6)]).await;
    node.wait("ready with a new agent", |s| s.ready(2)).await;

    // Deleting: first the share, then the PD.
    node.sync(vec![pd(disk.clone(), true)], vec![share(vds(), true, 9)]).await;
    node.wait("gone", |s| s.shares.iter().any(|x| x.gone) && s.pds.iter().any(|p| p.gone)).await;
    assert!(node.target.call(BdevGetBdevs::default()).await.unwrap().is_empty());
    assert_eq!(node.target.call(NvmfGetSubsystems::default()).await.unwrap().len(), 1, "only discovery");
    node.sync(vec![], vec![]).await;
    node.stop_agent().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mirrored_vd_is_not_found_under_the_name_of_another_boot() {
    let Some(binary) = binary() else { return };
    let mut node = Node::start(binary).await;
    let disk = file(Path::new(&node.path("disk")));
    let mirrored = VdSpec { mirrored: true, ..vd(VD, OWNER) };
    node.sync(vec![pd(disk.clone(), false)], vec![share(vec![mirrored.clone()], false, 6)]).await;
    node.wait("ready", |s| s.ready(1)).await;
    assert_eq!(node.exported().await, [format!("{SUBSYSTEM}:0000000100004000")]);

    // The agent alone is restarted: the same name, and nobody loses a connection.
    node.stop_agent().await;
    node.start_agent().await;
    node.sync(vec![pd(disk.clone(), false)], vec![share(vec![mirrored.clone()], false, 6)]).await;
    node.wait("ready with a new agent", |s| s.ready(1)).await;
    assert_eq!(node.exported().await, [format!("{SUBSYSTEM}:0000000100004000")]);

    // Another boot: the old name goes before the agent is told anything at all.
    node.stop_agent().await;
    node.boot(2);
    node.start_agent().await;
    let deadline = Instant::now() + PATIENCE;
    while !node.exported().await.is_empty() {
        assert!(Instant::now() < deadline, "the old name goes");
        sleep(Duration::from_millis(20)).await;
    }
    node.sync(vec![pd(disk.clone(), false)], vec![share(vec![mirrored.clone()], false, 6)]).await;
    node.wait("ready with the new boot", |s| s.ready(1)).await;
    assert_eq!(node.exported().await, [format!("{SUBSYSTEM}:0000000200004000")]);
    node.stop_agent().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn foreign_things_stay_and_drift_is_repaired() {
    let Some(binary) = binary() else { return };
    let mut node = Node::start(binary).await;
    let disk = file(Path::new(&node.path("disk")));
    node.sync(vec![pd(disk.clone(), false)], vec![share(vec![vd(VD, OWNER)], false, 6)]).await;
    node.wait("ready", |s| s.ready(1)).await;

    let foreign = "nqn.2016-06.io.vda:vd:not-ours";
    let malloc =
        BdevMallocCreate { name: Some("vda-pd-foreign".into()), ..BdevMallocCreate::new(4096_u32, 1024_u64) };
    node.target.call(malloc).await.unwrap();
    node.target.call(NvmfCreateSubsystem::new(foreign)).await.unwrap();
    // Somebody lets another host in, and takes the listener away.
    node.target.call(NvmfSubsystemAddHost::new(SUBSYSTEM, "nqn.2014-08.org.example:intruder")).await.unwrap();
    let subsystem = node.subsystem().await;
    let trid = &subsystem.listen_addresses[0];
    let address = vda_spdk::ListenAddress {
        trtype: trid.trtype.clone(),
        traddr: trid.traddr.clone().unwrap(),
        adrfam: trid.adrfam.clone(),
        trsvcid: trid.trsvcid.clone(),
    };
    node.target.call(NvmfSubsystemRemoveListener::new(SUBSYSTEM, address)).await.unwrap();
    let deadline = Instant::now() + PATIENCE;
    loop {
        let subsystem = node.subsystem().await;
        let hosts: Vec<&str> = subsystem.hosts.iter().map(|h| h.nqn.as_str()).collect();
        if hosts == [OWNER] && subsystem.listen_addresses.len() == 1 {
            break;
        }
        assert!(Instant::now() < deadline, "{subsystem:?}");
        sleep(Duration::from_millis(20)).await;
    }
    // A handover: the old owner goes, the new one comes, and the receipt says so.
    let heir = "nqn.2016-06.io.vda:cntlr:00000000000000c2:0:2";
    node.sync(vec![pd(disk.clone(), false)], vec![share(vec![vd(VD, heir)], false, 20)]).await;
    node.wait("handed over", |s| s.shares.iter().any(|x| x.vds[0].exported_to == heir)).await;
    assert_eq!(node.subsystem().await.hosts.len(), 1);

    // Nothing is wanted any more: everything of ours goes, nothing else does.
    node.sync(vec![], vec![]).await;
    let deadline = Instant::now() + PATIENCE;
    loop {
        let names: Vec<String> =
            node.target.call(BdevGetBdevs::default()).await.unwrap().into_iter().map(|b| b.name).collect();
        let nqns: Vec<String> = node
            .target
            .call(NvmfGetSubsystems::default())
            .await
            .unwrap()
            .into_iter()
            .map(|s| s.nqn)
            .collect();
        if names == ["vda-pd-foreign"] && nqns.len() == 2 {
            assert!(nqns.contains(&foreign.to_owned()));
            break;
        }
        assert!(Instant::now() < deadline, "{names:?} {nqns:?}");
        sleep(Duration::from_millis(20)).await;
    }
    node.stop_agent().await;
}

impl Node {
    async fn subsystem(&self) -> vda_spdk::NvmfSubsystem {
        let call = NvmfGetSubsystems { nqn: Some(SUBSYSTEM.into()), tgt_name: None };
        self.target.call(call).await.unwrap().remove(0)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_malloc_disk_that_was_lost_is_not_made_again() {
    let Some(binary) = binary() else { return };
    let mut node = Node::start(binary).await;
    let malloc = || Kind::Malloc(MallocBackend { size_bytes: 64 * MIB });
    node.sync(vec![pd(malloc(), false)], vec![share(vec![vd(VD, OWNER)], false, 6)]).await;
    node.wait("ready", |s| s.ready(1)).await;
    node.kill_dataplane().await;
    node.start_dataplane();
    let seen = node.wait("failed", |s| s.pd() == Condition::Failed).await;
    let message = &seen.pds[0].status.as_ref().unwrap().message;
    assert!(message.contains("volatile"), "{message}");
    assert!(node.target.call(BdevLvolGetLvstores::default()).await.unwrap().is_empty());
    // It can still be given up.
    node.sync(vec![pd(malloc(), true)], vec![share(vec![vd(VD, OWNER)], true, 9)]).await;
    node.wait("gone", |s| s.shares.iter().any(|x| x.gone) && s.pds.iter().any(|p| p.gone)).await;
    node.stop_agent().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_with_a_filesystem_is_not_formatted_until_it_is_cleared() {
    let Some(binary) = binary() else { return };
    let mut node = Node::start(binary).await;
    let path = node.path("disk");
    let disk = file(Path::new(&path));
    let write = |mark: &[u8]| {
        use std::os::unix::fs::FileExt as _;
        std::fs::File::options().write(true).open(&path).unwrap().write_all_at(mark, 0).unwrap();
    };
    write(b"XFSB");
    node.sync(vec![pd(disk, false)], vec![]).await;
    let seen = node.wait("failed", |s| s.pd() == Condition::Failed).await;
    let message = &seen.pds[0].status.as_ref().unwrap().message;
    assert!(message.contains("XFS") && message.contains(&path), "{message}");
    assert!(node.target.call(BdevLvolGetLvstores::default()).await.unwrap().is_empty());
    write(&[0; 4]);
    node.wait("ready", |s| s.pd() == Condition::Ready).await;
    node.stop_agent().await;
}

/// What the data plane cannot load, another may: an agent that does not know the disk must not take it for an empty one.
#[tokio::test(flavor = "multi_thread")]
async fn an_lvstore_that_cannot_be_loaded_is_not_formatted() {
    use std::os::unix::fs::FileExt as _;
    let Some(binary) = binary() else { return };
    let mut node = Node::start(binary.clone()).await;
    let path = node.path("disk");
    node.sync(vec![pd(file(Path::new(&path)), false)], vec![]).await;
    node.wait("ready", |s| s.pd() == Condition::Ready).await;
    node.stop_agent().await;
    node.kill_dataplane().await;

    // The version, in the superblock and in its copy.
    let disk = std::fs::File::options().read(true).write(true).open(&path).unwrap();
    for copy in [0, 4096] {
        disk.write_all_at(&[9], copy + 12).unwrap();
    }
    let head = || {
        let mut head = vec![0; 1 << 20];
        disk.read_exact_at(&mut head, 0).unwrap();
        head
    };
    let before = head();
    let mut other = Node::start(binary).await;
    other.sync(vec![pd(file(Path::new(&path)), false)], vec![]).await;
    let seen = other.wait("failed", |s| s.pd() == Condition::Failed).await;
    let message = &seen.pds[0].status.as_ref().unwrap().message;
    assert!(message.contains("an lvstore that cannot be loaded") && message.contains(&path), "{message}");
    assert!(head() == before, "nothing was written");
    other.stop_agent().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_are_set_and_changed() {
    let Some(binary) = binary() else { return };
    let mut node = Node::start(binary).await;
    let malloc = || Kind::Malloc(MallocBackend { size_bytes: 64 * MIB });
    for (revision, iops) in [(6, 1500), (7, 0), (8, 3000)] {
        let limited = VdSpec { qos: Some(Qos { rw_ios_per_sec: iops, ..Qos::default() }), ..vd(VD, OWNER) };
        node.sync(vec![pd(malloc(), false)], vec![share(vec![limited], false, revision)]).await;
        node.wait("ready", |s| s.ready(1) && s.shares[0].observed_revision == revision).await;
        let name = format!("vda-pdlvs-{PD}/vda-vd-{VD}");
        let bdev =
            node.target.call(BdevGetBdevs { name: Some(name), timeout: None }).await.unwrap().remove(0);
        assert_eq!(bdev.assigned_rate_limits.rw_ios_per_sec, iops.div_ceil(1000) * 1000);
    }
    node.stop_agent().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn older_and_foreign_desired_states_are_refused() {
    let Some(binary) = binary() else { return };
    let mut node = Node::start(binary).await;
    let malloc = || Kind::Malloc(MallocBackend { size_bytes: 64 * MIB });
    node.sync(vec![pd(malloc(), false)], vec![]).await;
    node.wait("ready", |s| s.pd() == Condition::Ready).await;
    let accepted = node.generation;

    let older = DnSyncRequest { generation: accepted - 1, ..node.request(vec![], vec![]) };
    let reply = node.send(older).await;
    assert_eq!((reply.outcome(), reply.generation), (Outcome::Stale, accepted));
    let delta = DnSyncRequest {
        generation: accepted + 1,
        full: false,
        base_generation: accepted - 1,
        ..node.request(vec![], vec![])
    };
    assert_eq!(node.send(delta).await.outcome(), Outcome::NeedFull);
    let mut other = DnSyncRequest { generation: accepted + 5, ..node.request(vec![], vec![]) };
    other.node.as_mut().unwrap().dn_id = "00000000000000d2".into();
    let reply = node.send(other.clone()).await;
    assert_eq!((reply.outcome(), reply.message.as_str()), (Outcome::WrongNode, DN));

    // What was accepted is remembered across a restart, by both agent and node.
    node.stop_agent().await;
    node.start_agent().await;
    let older = DnSyncRequest { generation: accepted - 1, ..node.request(vec![], vec![]) };
    assert_eq!(node.send(older).await.outcome(), Outcome::Stale);
    let delta = DnSyncRequest {
        full: false,
        base_generation: accepted,
        ..node.request(vec![pd(malloc(), false)], vec![])
    };
    assert_eq!(node.send(delta).await.outcome(), Outcome::NeedFull, "nothing was accepted in this life");

    // Once nothing is left the agent is free for another node.
    node.sync(vec![pd(malloc(), true)], vec![]).await;
    node.wait("gone", |s| s.pds.iter().any(|p| p.gone)).await;
    node.sync(vec![], vec![]).await;
    assert_eq!(node.send(other).await.outcome(), Outcome::Accepted);
    node.stop_agent().await;
}

/// A hung data plane keeps its connections, so only the limit of a call tells.
#[tokio::test(flavor = "multi_thread")]
async fn a_data_plane_that_hangs_is_told_and_all_goes_on_when_it_answers_again() {
    let Some(binary) = binary() else { return };
    let mut node = Node::start(binary).await;
    let malloc = || Kind::Malloc(MallocBackend { size_bytes: 64 * MIB });
    node.sync(vec![pd(malloc(), false)], vec![]).await;
    let whole = node.wait("ready", |s| s.pd() == Condition::Ready).await;

    node.hang(true).await;
    let seen = node.wait("told", |s| s.target == Some(Condition::Failed)).await;
    assert!(seen.trouble.contains("may be slow"), "{}", seen.trouble);
    // What cannot be asked has not changed.
    assert_eq!(seen.pd(), Condition::Ready);
    assert_eq!(seen.pds[0].total_bytes, whole.pds[0].total_bytes);
    // Desired state is accepted all the same, and nothing is said to be done.
    node.sync(vec![pd(malloc(), false)], vec![share(vec![vd(VD, OWNER)], false, 6)]).await;
    let seen = node.wait("not made", |s| s.vds().len() == 1).await;
    assert_ne!(seen.vds(), [Condition::Ready]);

    node.hang(false).await;
    node.wait("goes on", |s| s.target == Some(Condition::Ready) && s.ready(1)).await;
    node.stop_agent().await;
}
