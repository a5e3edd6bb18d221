//! The cluster: its layout on this machine, and its processes.

use std::{
    collections::BTreeMap,
    fs::File,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context as _, bail};
use serde_json::Value;
use tempfile::TempDir;
use tokio::net::{TcpStream, UnixStream};
use tonic::transport::{Channel, Endpoint};
use vda_ports::Port;
use vda_proto::v1::{GetClusterSummaryRequest, portal_client::PortalClient};

use crate::{
    power,
    process::{Process, tail},
    ready::eventually,
    reaper::Reaper,
    roles::{self, Role},
    rpc,
};

/// How long a process may take until it answers.
const START: Duration = Duration::from_secs(90);

/// What a cluster consists of.
#[derive(Clone, Copy, Debug)]
pub struct Builder {
    storage: &'static str,
    portals: usize,
    monitors: usize,
    dns: usize,
    pds_per_dn: usize,
    pd_mib: u64,
    cns: usize,
}

impl Builder {
    /// The address where all targets serve NVMe/TCP; loopback unless said.
    #[must_use]
    pub fn storage(self, storage: &'static str) -> Self {
        Self { storage, ..self }
    }

    /// Portals.
    #[must_use]
    pub fn portals(self, portals: usize) -> Self {
        Self { portals, ..self }
    }

    /// Monitors.
    #[must_use]
    pub fn monitors(self, monitors: usize) -> Self {
        Self { monitors, ..self }
    }

    /// Disk nodes.
    #[must_use]
    pub fn dns(self, dns: usize) -> Self {
        Self { dns, ..self }
    }

    /// Sparse files for physical disks, on each disk node, and their size in MiB.
    #[must_use]
    pub fn pds(self, pds_per_dn: usize, pd_mib: u64) -> Self {
        Self { pds_per_dn, pd_mib, ..self }
    }

    /// Controller nodes.
    #[must_use]
    pub fn cns(self, cns: usize) -> Self {
        Self { cns, ..self }
    }

    /// Directories, files and ports, and no process yet.
    pub fn prepare(self) -> anyhow::Result<Cluster> {
        let layout = Layout::new(self)?;
        let reaper = Arc::new(Reaper::start()?);
        Ok(Cluster { layout, processes: BTreeMap::new(), reaper, ended: false })
    }

    /// All processes run and answer. Nodes are known to nobody yet: see [`Cluster::add_nodes`].
    pub async fn start(self) -> anyhow::Result<Cluster> {
        let mut cluster = self.prepare()?;
        for role in cluster.roles() {
            cluster.start(role).await?;
        }
        Ok(cluster)
    }
}

/// Where everything is.
#[derive(Debug)]
pub(crate) struct Layout {
    dir: TempDir,
    pub(crate) storage: &'static str,
    pub(crate) etcd: Port,
    pub(crate) etcd_peer: Port,
    pub(crate) portals: Vec<Port>,
    pub(crate) monitors: usize,
    pub(crate) dns: Vec<Node>,
    pub(crate) cns: Vec<Node>,
    pd_paths: Vec<Vec<PathBuf>>,
}

/// Ports of a node.
#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) agent: Port,
    pub(crate) nvmf: Port,
    /// File that tells the node's boot.
    pub(crate) boot: PathBuf,
}

impl Layout {
    pub(crate) const PREFIX: &str = "/vda-test";

    fn new(builder: Builder) -> anyhow::Result<Self> {
        // Short: a Unix socket's path has at most 107 bytes.
        let dir = tempfile::Builder::new().prefix("vda-").tempdir()?;
        let node = |kind: &str, n: usize| {
            let boot = dir.path().join(format!("{kind}{n}.boot"));
            power::boot_anew(&boot)?;
            anyhow::Ok(Node { agent: Port::reserve()?, nvmf: Port::reserve()?, boot })
        };
        let nodes = |kind: &str, count| (0..count).map(|n| node(kind, n)).collect::<anyhow::Result<Vec<_>>>();
        let mut pd_paths = Vec::new();
        for dn in 0..builder.dns {
            let paths: Vec<_> =
                (0..builder.pds_per_dn).map(|pd| dir.path().join(format!("dn{dn}-pd{pd}.img"))).collect();
            for path in &paths {
                File::create(path)?.set_len(builder.pd_mib << 20)?;
            }
            pd_paths.push(paths);
        }
        Ok(Self {
            etcd: Port::reserve()?,
            etcd_peer: Port::reserve()?,
            portals: (0..builder.portals).map(|_| Port::reserve()).collect::<Result<_, _>>()?,
            monitors: builder.monitors,
            dns: nodes("dn", builder.dns)?,
            cns: nodes("cn", builder.cns)?,
            pd_paths,
            storage: builder.storage,
            dir,
        })
    }

    pub(crate) fn dir(&self) -> &Path {
        self.dir.path()
    }

    pub(crate) fn log(&self, role: Role) -> PathBuf {
        self.dir().join(format!("{role}.log"))
    }

    pub(crate) fn socket(&self, target: Role) -> PathBuf {
        self.dir().join(format!("{target}.sock"))
    }
}

/// Running processes. All end when it is dropped; unless it was ended with [`Cluster::end`] something has gone wrong, and the ends of
/// their logs are shown.
#[derive(Debug)]
pub struct Cluster {
    pub(crate) layout: Layout,
    processes: BTreeMap<Role, Process>,
    reaper: Arc<Reaper>,
    ended: bool,
}

impl Cluster {
    /// One portal, one monitor, 2 disk nodes with 2 disks of 256 MiB each, 2 controller nodes.
    pub fn builder() -> Builder {
        Builder { storage: "127.0.0.1", portals: 1, monitors: 1, dns: 2, pds_per_dn: 2, pd_mib: 256, cns: 2 }
    }

    /// All processes, in an order in which they can be started.
    pub fn roles(&self) -> Vec<Role> {
        let nodes = |count: usize, target: fn(usize) -> Role, agent: fn(usize) -> Role| {
            (0..count).flat_map(move |n| [target(n), agent(n)])
        };
        std::iter::once(Role::Etcd)
            .chain(nodes(self.layout.dns.len(), Role::DnTarget, Role::DnAgent))
            .chain(nodes(self.layout.cns.len(), Role::CnTarget, Role::CnAgent))
            .chain((0..self.layout.portals.len()).map(Role::Portal))
            .chain((0..self.layout.monitors).map(Role::Monitor))
            .collect()
    }

    /// Starts a process and waits until it answers.
    pub async fn start(&mut self, role: Role) -> anyhow::Result<()> {
        self.launch(role)?;
        self.answering(role).await
    }

    /// Starts a process and does not wait: what it needs may not be there yet.
    pub fn launch(&mut self, role: Role) -> anyhow::Result<()> {
        let spec = roles::spec(role, &self.layout)?;
        self.processes.insert(role, Process::spawn(&spec, &self.reaper)?);
        Ok(())
    }

    /// `kill -9`.
    pub async fn kill(&mut self, role: Role) -> anyhow::Result<()> {
        match self.processes.remove(&role) {
            Some(process) => process.kill().await,
            None => Ok(()),
        }
    }

    /// SIGTERM; the process must end by itself, without an error.
    pub async fn stop(&mut self, role: Role) -> anyhow::Result<()> {
        match self.processes.remove(&role) {
            Some(process) => process.stop().await,
            None => Ok(()),
        }
    }

    /// `kill -9` and a new start.
    pub async fn restart(&mut self, role: Role) -> anyhow::Result<()> {
        self.kill(role).await?;
        self.start(role).await
    }

    /// The end of a test in which all went well: no process has ended or panicked, and each ends when it is asked to.
    pub async fn end(mut self) -> anyhow::Result<()> {
        for (role, process) in &mut self.processes {
            if let Some(status) = process.ended() {
                bail!("{role} has ended with {status}");
            }
        }
        for role in self.roles().into_iter().rev() {
            match role {
                // It reports the signal as its end.
                Role::Etcd => self.kill(role).await?,
                _ => self.stop(role).await?,
            }
            let log = self.log(role);
            if let Some(line) = log.lines().find(|line| line.contains("panicked at")) {
                bail!("{role}: {line}");
            }
        }
        self.ended = true;
        Ok(())
    }

    /// An end for those who do not care how it ends.
    pub async fn kill_all(mut self) -> anyhow::Result<()> {
        for role in self.roles() {
            self.kill(role).await?;
        }
        self.ended = true;
        Ok(())
    }

    /// SIGSTOP (`true`) or SIGCONT.
    pub fn freeze(&self, role: Role, frozen: bool) {
        if let Some(process) = self.processes.get(&role) {
            process.freeze(frozen);
        }
    }

    /// Process ids by role.
    pub fn pids(&self) -> BTreeMap<Role, u32> {
        self.processes.iter().map(|(role, process)| (*role, process.id())).collect()
    }

    /// Waits until the process accepts requests; that it ended instead is an error with the end of its log.
    pub async fn answering(&mut self, role: Role) -> anyhow::Result<()> {
        let log = self.layout.log(role);
        let process = self.processes.get_mut(&role).with_context(|| format!("{role} does not run"))?;
        let layout = &self.layout;
        let mut ended = None;
        let answer = eventually(&format!("{role} answers"), START, || {
            ended = ended.or_else(|| process.ended());
            let status = ended;
            async move {
                match status {
                    Some(status) => Ok(Err(status)),
                    None => probe(layout, role).await.map(Ok),
                }
            }
        })
        .await;
        match answer {
            Ok(Ok(())) => Ok(()),
            Ok(Err(status)) => bail!("{role} ended at once with {status}:\n{}", tail(&log, 30)),
            Err(why) => Err(why.context(format!("end of {}:\n{}", log.display(), tail(&log, 30)))),
        }
    }

    /// A client of portal `n`; it connects when it is used, and again when the portal was restarted.
    pub fn portal(&self, n: usize) -> anyhow::Result<PortalClient<Channel>> {
        connect(&self.portal_address(n))
    }

    /// Address of portal `n`.
    pub fn portal_address(&self, n: usize) -> String {
        self.layout.portals[n].address()
    }

    /// Address of etcd.
    pub fn etcd_address(&self) -> String {
        self.layout.etcd.address()
    }

    /// Address of the agent of disk node `n`: its name.
    pub fn dn(&self, n: usize) -> String {
        self.layout.dns[n].agent.address()
    }

    /// Address of the agent of controller node `n`: its name.
    pub fn cn(&self, n: usize) -> String {
        self.layout.cns[n].agent.address()
    }

    /// Where the target of disk node `n` serves NVMe/TCP.
    pub fn dn_listener(&self, n: usize) -> String {
        format!("{}:{}", self.layout.storage, self.layout.dns[n].nvmf.number())
    }

    /// Where the target of controller node `n` serves NVMe/TCP.
    pub fn cn_listener(&self, n: usize) -> String {
        format!("{}:{}", self.layout.storage, self.layout.cns[n].nvmf.number())
    }

    /// The file behind a physical disk.
    pub fn pd_path(&self, dn: usize, pd: usize) -> &Path {
        &self.layout.pd_paths[dn][pd]
    }

    pub(crate) fn pds_per_dn(&self) -> usize {
        self.layout.pd_paths.first().map_or(0, Vec::len)
    }

    /// Where logs, sockets and disks are.
    pub fn dir(&self) -> &Path {
        self.layout.dir()
    }

    /// All a process has logged.
    pub fn log(&self, role: Role) -> String {
        std::fs::read_to_string(self.layout.log(role)).unwrap_or_default()
    }

    /// Calls a target over JSON-RPC.
    pub async fn rpc(&self, target: Role, method: &str, params: Value) -> anyhow::Result<Value> {
        rpc::call(&self.layout.socket(target), method, params).await
    }
}

async fn probe(layout: &Layout, role: Role) -> anyhow::Result<()> {
    match role {
        Role::Etcd => drop(TcpStream::connect(layout.etcd.address()).await?),
        Role::Portal(n) => {
            // Answers only when etcd does.
            let mut portal = connect(&layout.portals[n].address())?;
            portal.get_cluster_summary(GetClusterSummaryRequest {}).await?;
        }
        // Serves nobody; that it works shows in what it does.
        Role::Monitor(_) => {}
        Role::DnTarget(_) | Role::CnTarget(_) => drop(UnixStream::connect(layout.socket(role)).await?),
        Role::DnAgent(n) => drop(TcpStream::connect(layout.dns[n].agent.address()).await?),
        Role::CnAgent(n) => drop(TcpStream::connect(layout.cns[n].agent.address()).await?),
    }
    Ok(())
}

fn connect(address: &str) -> anyhow::Result<PortalClient<Channel>> {
    let channel = Endpoint::from_shared(format!("http://{address}"))?.connect_lazy();
    Ok(PortalClient::new(channel).max_decoding_message_size(256 << 20))
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if self.ended && std::env::var_os("VDA_KEEP").is_none() {
            return;
        }
        for role in self.roles() {
            eprintln!(
                "===== end of {}\n{}",
                self.layout.log(role).display(),
                tail(&self.layout.log(role), 25)
            );
        }
        self.layout.dir.disable_cleanup(true);
        eprintln!("===== logs and disks are kept in {}", self.layout.dir().display());
    }
}
