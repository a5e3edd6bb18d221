//! `vdacli pd`.

use clap::{ArgGroup, Args, Subcommand, ValueEnum};
use vda_proto::v1::{
    CreatePdRequest, DeletePdRequest, FileBackend, GetPdRequest, ListPdReply, ListPdRequest, MallocBackend,
    ModifyPdRequest, NvmeBackend, Pd, PdBackend, PdCapacity, PdSpec, PdStatus, pd_backend,
    resource_ref::Kind,
};

use crate::{
    args::{Identity, Limits, Patience, Placement, Revision, Waiting, WaitingIfAsked, Yes},
    cell,
    failure::Failure,
    session::Session,
    size,
    table::{Column, col, wide},
    wait::Goal,
};

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Add a physical disk to a disk node. Everything on it is lost: it gets an lvstore
    Create(Create),
    /// Show one physical disk
    Get(Get),
    /// Show the physical disks of one disk node, or of all
    List(List),
    /// Change a physical disk
    Modify(Modify),
    /// Remove a physical disk that carries no virtual disks any more
    Delete(Delete),
}

#[derive(Debug, Args)]
pub(crate) struct PdRef {
    /// Disk node: the address of its agent
    #[arg(value_name = "DN", required_unless_present = "sock_addr")]
    dn: Option<String>,
    /// Name of the physical disk, unique on its node
    #[arg(value_name = "NAME", required_unless_present = "pd_name")]
    name: Option<String>,
    #[arg(long, hide = true, value_name = "DN", requires = "pd_name", conflicts_with = "dn")]
    sock_addr: Option<String>,
    #[arg(long, hide = true, value_name = "NAME", requires = "sock_addr", conflicts_with = "name")]
    pd_name: Option<String>,
}

impl PdRef {
    fn take(self) -> Name {
        Name {
            dn: self.dn.or(self.sock_addr).unwrap_or_default(),
            pd: self.name.or(self.pd_name).unwrap_or_default(),
        }
    }
}

#[derive(Clone)]
struct Name {
    dn: String,
    pd: String,
}

impl Name {
    fn about(&self) -> String {
        format!("pd {} {}", self.dn, self.pd)
    }

    fn path(&self) -> String {
        format!("{}/{}", self.dn, self.pd)
    }
}

#[derive(Debug, Args)]
#[command(
    override_usage = "vdacli pd create [OPTIONS] <DN> <NAME> <--nvme <ADDRESS>|--aio <PATH>|--uring <PATH>|--malloc <SIZE>>"
)]
#[command(group(ArgGroup::new("backend").required(true)))]
#[command(after_help = "Examples:\n  \
    vdacli pd create 127.0.0.1:9720 pd0 --nvme 0000:5e:00.0\n  \
    vdacli pd create 127.0.0.1:9720 pd1 --aio /var/lib/vda/pd1.img")]
pub(crate) struct Create {
    #[command(flatten)]
    pd: PdRef,
    #[command(flatten)]
    backend: Backend,
    /// Place nothing on it yet
    #[arg(long)]
    offline: bool,
    #[command(flatten)]
    limits: Limits,
    #[command(flatten)]
    identity: Identity,
    #[command(flatten)]
    waiting: Waiting,
}

#[derive(Debug, Args)]
#[group(skip)]
struct Backend {
    /// A PCIe NVMe disk of the node, by its PCI address
    #[arg(long, value_name = "ADDRESS", group = "backend")]
    nvme: Option<String>,
    /// A file or block device of the node, through Linux AIO
    #[arg(long, value_name = "PATH", group = "backend")]
    aio: Option<String>,
    /// A file or block device of the node, through io_uring
    #[arg(long, value_name = "PATH", group = "backend")]
    uring: Option<String>,
    /// RAM of the node, for trials: everything on it is lost when the node's target stops
    #[arg(long, value_name = "SIZE", value_parser = size::parse, group = "backend")]
    malloc: Option<u64>,
    #[arg(long, hide = true, value_name = "TYPE", requires = "bdev_type_value", group = "backend")]
    bdev_type_key: Option<BackendKey>,
    #[arg(long, hide = true, value_name = "VALUE", requires = "bdev_type_key")]
    bdev_type_value: Option<String>,
}

/// The Go VDA's names of backends.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum BackendKey {
    Malloc,
    Aio,
    Uring,
    Nvme,
}

impl Backend {
    fn backend(self) -> Result<PdBackend, Failure> {
        let kind = match self {
            Self { nvme: Some(traddr), .. } => nvme(traddr),
            Self { aio: Some(filename), .. } => aio(filename),
            Self { uring: Some(filename), .. } => uring(filename),
            Self { malloc: Some(size_bytes), .. } => malloc(size_bytes),
            Self { bdev_type_key: Some(key), bdev_type_value, .. } => {
                let value = bdev_type_value.unwrap_or_default();
                match key {
                    BackendKey::Nvme => nvme(value),
                    BackendKey::Aio => aio(value),
                    BackendKey::Uring => uring(value),
                    BackendKey::Malloc => malloc(size::mib(&value).map_err(|why| {
                        Failure::usage(format!(
                            "--bdev-type-value {value}: {why}; for malloc it is a number of MiB"
                        ))
                    })?),
                }
            }
            _ => return Err(Failure::usage("one of --nvme, --aio, --uring, --malloc is needed")),
        };
        Ok(PdBackend { kind: Some(kind) })
    }
}

fn nvme(traddr: String) -> pd_backend::Kind {
    pd_backend::Kind::Nvme(NvmeBackend { traddr })
}
fn aio(filename: String) -> pd_backend::Kind {
    pd_backend::Kind::Aio(FileBackend { filename })
}
fn uring(filename: String) -> pd_backend::Kind {
    pd_backend::Kind::Uring(FileBackend { filename })
}
fn malloc(size_bytes: u64) -> pd_backend::Kind {
    pd_backend::Kind::Malloc(MallocBackend { size_bytes })
}

#[derive(Debug, Args)]
#[command(override_usage = "vdacli pd get [OPTIONS] <DN> <NAME>")]
pub(crate) struct Get {
    #[command(flatten)]
    pd: PdRef,
}

#[derive(Debug, Args)]
pub(crate) struct List {
    /// Disk node: the address of its agent; without it, of all
    #[arg(value_name = "DN")]
    dn: Option<String>,
    #[arg(long, hide = true, value_name = "DN", conflicts_with = "dn")]
    sock_addr: Option<String>,
}

#[derive(Debug, Args)]
#[command(override_usage = "vdacli pd modify [OPTIONS] <DN> <NAME>")]
pub(crate) struct Modify {
    #[command(flatten)]
    pd: PdRef,
    #[command(flatten)]
    placement: Placement,
    #[command(flatten)]
    limits: Limits,
    #[command(flatten)]
    revision: Revision,
    #[command(flatten)]
    identity: Identity,
    #[command(flatten)]
    waiting: WaitingIfAsked,
}

#[derive(Debug, Args)]
#[command(override_usage = "vdacli pd delete [OPTIONS] <DN> <NAME>")]
pub(crate) struct Delete {
    #[command(flatten)]
    pd: PdRef,
    /// The disk will never come back: do not wait for its node to confirm deletions. What is on it is given up
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    revision: Revision,
    #[command(flatten)]
    identity: Identity,
    #[command(flatten)]
    waiting: Waiting,
    #[command(flatten)]
    yes: Yes,
}

impl Command {
    pub(crate) async fn run(self, session: &Session) -> Result<(), Failure> {
        match self {
            Self::Create(args) => args.run(session).await,
            Self::Get(args) => show(session, &get(session, &args.pd.take()).await?),
            Self::List(args) => list(session, args.dn.or(args.sock_addr).unwrap_or_default()).await,
            Self::Modify(args) => args.run(session).await,
            Self::Delete(args) => args.run(session).await,
        }
    }
}

impl Create {
    async fn run(self, session: &Session) -> Result<(), Failure> {
        let (name, patience) = (self.pd.take(), self.waiting.patience());
        let request = CreatePdRequest {
            request_id: self.identity.request_id,
            dn_address: name.dn.clone(),
            pd_name: name.pd.clone(),
            backend: Some(self.backend.backend()?),
            offline: self.offline,
            qos_budget: self.limits.qos(),
        };
        let id = request.request_id.clone();
        let pd = session.write(&name.about(), &id, session.portal().create_pd(request)).await?;
        settle(session, &name, pd, patience).await
    }
}

impl Modify {
    async fn run(self, session: &Session) -> Result<(), Failure> {
        let (name, patience) = (self.pd.take(), self.waiting.patience());
        let mut revision = self.revision.revision;
        let mut qos_budget = self.limits.qos();
        if qos_budget.is_some() {
            // Limits that were not named stay: they are read, and must not have changed when the new ones are written.
            let present = get(session, &name).await?;
            qos_budget = self.limits.over(spec(&present).qos_budget);
            revision = if revision == 0 { present.revision } else { revision };
        }
        let request = ModifyPdRequest {
            request_id: self.identity.request_id,
            dn_address: name.dn.clone(),
            pd_name: name.pd.clone(),
            revision,
            offline: self.placement.offline(),
            qos_budget,
        };
        if request.offline.is_none() && request.qos_budget.is_none() {
            return Err(Failure::usage("nothing to change: give --offline, --online or a limit"));
        }
        let id = request.request_id.clone();
        let pd = session.write(&name.about(), &id, session.portal().modify_pd(request)).await?;
        settle(session, &name, pd, patience).await
    }
}

impl Delete {
    async fn run(self, session: &Session) -> Result<(), Failure> {
        let (name, patience) = (self.pd.take(), self.waiting.patience());
        let request = DeletePdRequest {
            request_id: self.identity.request_id,
            dn_address: name.dn.clone(),
            pd_name: name.pd.clone(),
            revision: self.revision.revision,
            force: self.force,
        };
        let id = request.request_id.clone();
        let reply = session.write(&name.about(), &id, session.portal().delete_pd(request)).await?;
        let goal = Goal::gone(Kind::Pd, "pd", &name.path(), reply.id.clone());
        let gone = session.wait(&goal, patience).await?;
        session.output.message(&reply, |_| goal.fate(gone))
    }
}

async fn get(session: &Session, name: &Name) -> Result<Pd, Failure> {
    let request = GetPdRequest { dn_address: name.dn.clone(), pd_name: name.pd.clone() };
    session.read(&name.about(), session.portal().get_pd(request)).await
}

async fn settle(session: &Session, name: &Name, pd: Pd, patience: Patience) -> Result<(), Failure> {
    if patience == Patience::None {
        return show(session, &pd);
    }
    session.wait(&Goal::ready(Kind::Pd, "pd", &name.path(), pd.revision), patience).await?;
    show(session, &get(session, name).await?)
}

async fn list(session: &Session, dn_address: String) -> Result<(), Failure> {
    let mut all = ListPdReply::default();
    loop {
        let request = ListPdRequest {
            dn_address: dn_address.clone(),
            page_size: 1000,
            page_token: all.next_page_token,
        };
        let page = session.read("pd", session.portal().list_pd(request)).await?;
        all.pds.extend(page.pds);
        all.next_page_token = page.next_page_token;
        if all.next_page_token.is_empty() {
            return session.output.message(&all, |human| human.table(COLUMNS, &all.pds));
        }
    }
}

fn show(session: &Session, pd: &Pd) -> Result<(), Failure> {
    session.output.message(pd, |human| human.table(COLUMNS, std::slice::from_ref(pd)))
}

const COLUMNS: &[Column<Pd>] = &[
    col("DN", |pd| pd.dn_address.clone().into()),
    col("NAME", |pd| spec(pd).pd_name.into()),
    col("STATUS", |pd| cell::condition(pd.status.as_ref())),
    col("BACKEND", |pd| backend(&spec(pd)).into()),
    col("OFFLINE", |pd| cell::yes_no(spec(pd).offline).into()),
    col("VDS", |pd| capacity(pd).live_vds.into()),
    col("FREE", |pd| cell::size(capacity(pd).total_bytes.saturating_sub(capacity(pd).used_bytes)).into()),
    col("TOTAL", |pd| cell::size(capacity(pd).total_bytes).into()),
    wide("DELETING", |pd| capacity(pd).deleting_vds.into()),
    wide("CLUSTER", |pd| cell::size(capacity(pd).cluster_bytes).into()),
    wide("LIMITS", |pd| cell::qos(spec(pd).qos_budget.as_ref()).into()),
    wide("PROMISED", |pd| cell::qos(capacity(pd).qos_used.as_ref()).into()),
    wide("ID", |pd| spec(pd).pd_id.into()),
    wide("LVSTORE", |pd| observed(pd).lvs_uuid.into()),
    wide("REVISION", |pd| pd.revision.into()),
    wide("CREATED", |pd| cell::time(spec(pd).created_ms).into()),
    col("MESSAGE", |pd| cell::reason(pd.status.as_ref()).into()),
];

fn backend(spec: &PdSpec) -> String {
    match spec.backend.as_ref().and_then(|backend| backend.kind.as_ref()) {
        Some(pd_backend::Kind::Malloc(malloc)) => format!("malloc:{}", cell::size(malloc.size_bytes)),
        Some(pd_backend::Kind::Aio(file)) => format!("aio:{}", file.filename),
        Some(pd_backend::Kind::Uring(file)) => format!("uring:{}", file.filename),
        Some(pd_backend::Kind::Nvme(nvme)) => format!("nvme:{}", nvme.traddr),
        None => String::new(),
    }
}

fn spec(pd: &Pd) -> PdSpec {
    pd.spec.clone().unwrap_or_default()
}

fn capacity(pd: &Pd) -> PdCapacity {
    pd.capacity.clone().unwrap_or_default()
}

fn observed(pd: &Pd) -> PdStatus {
    pd.observed.clone().unwrap_or_default()
}
