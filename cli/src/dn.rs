//! `vdacli dn`.

use clap::{Args, Subcommand};
use vda_proto::v1::{
    CreateDnRequest, DeleteDnRequest, Dn, DnSpec, DnStatus, GetDnRequest, ListDnReply, ListDnRequest,
    ModifyDnRequest, PdCapacity, SyncupDnRequest, resource_ref::Kind,
};

use crate::{
    args::{Identity, Placement, Revision, Waiting, WaitingIfAsked, Yes},
    cell,
    failure::Failure,
    node::{Listen, NodeAddress},
    session::Session,
    table::{Column, col, wide},
    wait::Goal,
};

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Add a disk node: its agent is contacted by a monitor, its disks are added with `pd create`
    Create(Create),
    /// Show one disk node
    Get(Get),
    /// Show all disk nodes
    List,
    /// Change a disk node
    Modify(Modify),
    /// Remove a disk node that has no physical disks any more
    Delete(Delete),
    /// Have a disk node brought in line with what is desired now, not at the next change
    Syncup(Syncup),
}

#[derive(Debug, Args)]
#[command(override_usage = "vdacli dn create [OPTIONS] --listen <IP:PORT> <ADDRESS>")]
#[command(
    after_help = "Example:\n  vdacli dn create 127.0.0.1:9720 --listen 127.0.0.1:4420 --location rack1"
)]
pub(crate) struct Create {
    #[command(flatten)]
    node: NodeAddress,
    #[command(flatten)]
    listen: Listen,
    /// Failure domain, such as a rack: mirrors of the same data are never placed in one. By default each node is its own
    #[arg(long, value_name = "NAME", default_value = "", hide_default_value = true)]
    location: String,
    /// Place nothing on it yet
    #[arg(long)]
    offline: bool,
    #[command(flatten)]
    identity: Identity,
    #[command(flatten)]
    waiting: Waiting,
}

#[derive(Debug, Args)]
#[command(override_usage = "vdacli dn get [OPTIONS] <ADDRESS>")]
pub(crate) struct Get {
    #[command(flatten)]
    node: NodeAddress,
}

#[derive(Debug, Args)]
#[command(override_usage = "vdacli dn syncup [OPTIONS] <ADDRESS>")]
pub(crate) struct Syncup {
    #[command(flatten)]
    node: NodeAddress,
}

#[derive(Debug, Args)]
#[command(override_usage = "vdacli dn modify [OPTIONS] <ADDRESS>")]
pub(crate) struct Modify {
    #[command(flatten)]
    node: NodeAddress,
    #[command(flatten)]
    placement: Placement,
    /// Failure domain; can be changed while nothing is placed on the node
    #[arg(long, value_name = "NAME")]
    location: Option<String>,
    #[command(flatten)]
    revision: Revision,
    #[command(flatten)]
    identity: Identity,
    #[command(flatten)]
    waiting: WaitingIfAsked,
}

#[derive(Debug, Args)]
#[command(override_usage = "vdacli dn delete [OPTIONS] <ADDRESS>")]
pub(crate) struct Delete {
    #[command(flatten)]
    node: NodeAddress,
    /// The node will never come back: do not wait for it to confirm deletions. What is on its disks is given up
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
            Self::Get(args) => show(session, &get(session, args.node.take()).await?),
            Self::List => list(session).await,
            Self::Modify(args) => args.run(session).await,
            Self::Delete(args) => args.run(session).await,
            Self::Syncup(args) => syncup(session, args.node.take()).await,
        }
    }
}

impl Create {
    async fn run(self, session: &Session) -> Result<(), Failure> {
        let (address, patience) = (self.node.take(), self.waiting.patience());
        let request = CreateDnRequest {
            request_id: self.identity.request_id,
            address: address.clone(),
            listener: Some(self.listen.listener()?),
            location: self.location,
            offline: self.offline,
        };
        let id = request.request_id.clone();
        let dn = session.write(&about(&address), &id, session.portal().create_dn(request)).await?;
        settle(session, dn, patience).await
    }
}

impl Modify {
    async fn run(self, session: &Session) -> Result<(), Failure> {
        let (address, patience) = (self.node.take(), self.waiting.patience());
        let request = ModifyDnRequest {
            request_id: self.identity.request_id,
            address: address.clone(),
            revision: self.revision.revision,
            offline: self.placement.offline(),
            location: self.location,
        };
        if request.offline.is_none() && request.location.is_none() {
            return Err(Failure::usage("nothing to change: give --offline, --online or --location"));
        }
        let id = request.request_id.clone();
        let dn = session.write(&about(&address), &id, session.portal().modify_dn(request)).await?;
        settle(session, dn, patience).await
    }
}

impl Delete {
    async fn run(self, session: &Session) -> Result<(), Failure> {
        let (address, patience) = (self.node.take(), self.waiting.patience());
        let request = DeleteDnRequest {
            request_id: self.identity.request_id,
            address: address.clone(),
            revision: self.revision.revision,
            force: self.force,
        };
        let id = request.request_id.clone();
        let reply = session.write(&about(&address), &id, session.portal().delete_dn(request)).await?;
        let goal = Goal::gone(Kind::Dn, "dn", &address, reply.id.clone());
        let gone = session.wait(&goal, patience).await?;
        session.output.message(&reply, |_| goal.fate(gone))
    }
}

async fn get(session: &Session, address: String) -> Result<Dn, Failure> {
    session.read(&about(&address), session.portal().get_dn(GetDnRequest { address: address.clone() })).await
}

async fn settle(session: &Session, dn: Dn, patience: crate::args::Patience) -> Result<(), Failure> {
    if patience == crate::args::Patience::None {
        return show(session, &dn);
    }
    let address = spec(&dn).address;
    session.wait(&Goal::ready(Kind::Dn, "dn", &address, dn.revision), patience).await?;
    show(session, &get(session, address).await?)
}

async fn list(session: &Session) -> Result<(), Failure> {
    let mut all = ListDnReply::default();
    loop {
        let request = ListDnRequest { page_size: 1000, page_token: all.next_page_token };
        let page = session.read("dn", session.portal().list_dn(request)).await?;
        all.dns.extend(page.dns);
        all.next_page_token = page.next_page_token;
        if all.next_page_token.is_empty() {
            return session.output.message(&all, |human| human.table(COLUMNS, &all.dns));
        }
    }
}

async fn syncup(session: &Session, address: String) -> Result<(), Failure> {
    let request = SyncupDnRequest { address: address.clone() };
    let reply = session.read(&about(&address), session.portal().syncup_dn(request)).await?;
    let generation = reply.generation;
    session.output.message(&reply, |_| format!("dn {address} is being brought to generation {generation}\n"))
}

fn show(session: &Session, dn: &Dn) -> Result<(), Failure> {
    session.output.message(dn, |human| {
        human.table(COLUMNS, std::slice::from_ref(dn)) + &human.also(PD_COLUMNS, &dn.pds)
    })
}

fn about(address: &str) -> String {
    format!("dn {address}")
}

const COLUMNS: &[Column<Dn>] = &[
    col("ADDRESS", |dn| spec(dn).address.into()),
    col("STATUS", |dn| cell::condition(dn.status.as_ref())),
    col("LOCATION", |dn| spec(dn).location.into()),
    col("LISTENER", |dn| cell::listener(spec(dn).listener.as_ref()).into()),
    col("OFFLINE", |dn| cell::yes_no(spec(dn).offline).into()),
    col("PDS", |dn| dn.pds.len().into()),
    col("VDS", |dn| dn.pds.iter().map(|pd| pd.live_vds).sum::<u32>().into()),
    col("FREE", |dn| cell::size(free(&dn.pds)).into()),
    col("TOTAL", |dn| cell::size(dn.pds.iter().map(|pd| pd.total_bytes).sum()).into()),
    wide("ID", |dn| spec(dn).dn_id.into()),
    wide("REVISION", |dn| dn.revision.into()),
    wide("GENERATION", |dn| observed(dn).observed_generation.into()),
    wide("AGENT", |dn| cell::condition(observed(dn).agent.as_ref())),
    wide("TARGET", |dn| cell::condition(observed(dn).target.as_ref())),
    wide("CREATED", |dn| cell::time(spec(dn).created_ms).into()),
    col("MESSAGE", |dn| cell::reason(dn.status.as_ref()).into()),
];

const PD_COLUMNS: &[Column<PdCapacity>] = &[
    col("PD", |pd| pd.pd_name.clone().into()),
    col("OFFLINE", |pd| cell::yes_no(pd.offline).into()),
    col("VDS", |pd| pd.live_vds.into()),
    col("DELETING", |pd| pd.deleting_vds.into()),
    col("FREE", |pd| cell::size(pd.total_bytes.saturating_sub(pd.used_bytes)).into()),
    col("TOTAL", |pd| cell::size(pd.total_bytes).into()),
    wide("CLUSTER", |pd| cell::size(pd.cluster_bytes).into()),
    wide("ID", |pd| pd.pd_id.clone().into()),
];

fn free(pds: &[PdCapacity]) -> u64 {
    pds.iter().map(|pd| pd.total_bytes.saturating_sub(pd.used_bytes)).sum()
}

fn spec(dn: &Dn) -> DnSpec {
    dn.spec.clone().unwrap_or_default()
}

fn observed(dn: &Dn) -> DnStatus {
    dn.observed.clone().unwrap_or_default()
}
