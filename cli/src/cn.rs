//! `vdacli cn`.

use clap::{Args, Subcommand};
use vda_proto::v1::{
    Cn, CnCapacity, CnSpec, CnStatus, CreateCnRequest, DeleteCnRequest, GetCnRequest, ListCnReply,
    ListCnRequest, ModifyCnRequest, SyncupCnRequest, resource_ref::Kind,
};

use crate::{
    args::{Identity, Patience, Placement, Revision, Waiting, WaitingIfAsked, Yes},
    cell,
    failure::Failure,
    node::{Listen, NodeAddress},
    session::Session,
    table::{Column, col, wide},
    wait::Goal,
};

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Add a controller node: its agent is contacted by a monitor
    Create(Create),
    /// Show one controller node
    Get(Get),
    /// Show all controller nodes
    List,
    /// Change a controller node
    Modify(Modify),
    /// Remove a controller node that has no disk arrays any more
    Delete(Delete),
    /// Have a controller node brought in line with what is desired now, not at the next change
    Syncup(Syncup),
}

#[derive(Debug, Args)]
#[command(override_usage = "vdacli cn create [OPTIONS] --listen <IP:PORT> <ADDRESS>")]
#[command(after_help = "Example:\n  vdacli cn create 127.0.0.1:9820 --listen 127.0.0.1:4430")]
pub(crate) struct Create {
    #[command(flatten)]
    node: NodeAddress,
    #[command(flatten)]
    listen: Listen,
    /// Failure domain, such as a rack: controllers of one disk array are spread over them
    #[arg(long, value_name = "NAME", default_value = "", hide_default_value = true)]
    location: String,
    /// Most controllers it takes; 0 is 10000
    #[arg(long, value_name = "N", default_value_t = 0, hide_default_value = true)]
    max_cntlrs: u32,
    /// Place nothing on it yet
    #[arg(long)]
    offline: bool,
    #[command(flatten)]
    identity: Identity,
    #[command(flatten)]
    waiting: Waiting,
}

#[derive(Debug, Args)]
#[command(override_usage = "vdacli cn get [OPTIONS] <ADDRESS>")]
pub(crate) struct Get {
    #[command(flatten)]
    node: NodeAddress,
}

#[derive(Debug, Args)]
#[command(override_usage = "vdacli cn syncup [OPTIONS] <ADDRESS>")]
pub(crate) struct Syncup {
    #[command(flatten)]
    node: NodeAddress,
}

#[derive(Debug, Args)]
#[command(override_usage = "vdacli cn modify [OPTIONS] <ADDRESS>")]
pub(crate) struct Modify {
    #[command(flatten)]
    node: NodeAddress,
    #[command(flatten)]
    placement: Placement,
    /// Failure domain; can be changed while nothing is placed on the node
    #[arg(long, value_name = "NAME")]
    location: Option<String>,
    /// Most controllers it takes
    #[arg(long, value_name = "N")]
    max_cntlrs: Option<u32>,
    #[command(flatten)]
    revision: Revision,
    #[command(flatten)]
    identity: Identity,
    #[command(flatten)]
    waiting: WaitingIfAsked,
}

#[derive(Debug, Args)]
#[command(override_usage = "vdacli cn delete [OPTIONS] <ADDRESS>")]
pub(crate) struct Delete {
    #[command(flatten)]
    node: NodeAddress,
    /// The node will never come back: do not wait for it to confirm deletions
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
        let request = CreateCnRequest {
            request_id: self.identity.request_id,
            address: address.clone(),
            listener: Some(self.listen.listener()?),
            location: self.location,
            offline: self.offline,
            max_cntlrs: self.max_cntlrs,
        };
        let id = request.request_id.clone();
        let cn = session.write(&about(&address), &id, session.portal().create_cn(request)).await?;
        settle(session, cn, patience).await
    }
}

impl Modify {
    async fn run(self, session: &Session) -> Result<(), Failure> {
        let (address, patience) = (self.node.take(), self.waiting.patience());
        let request = ModifyCnRequest {
            request_id: self.identity.request_id,
            address: address.clone(),
            revision: self.revision.revision,
            offline: self.placement.offline(),
            location: self.location,
            max_cntlrs: self.max_cntlrs,
        };
        if request.offline.is_none() && request.location.is_none() && request.max_cntlrs.is_none() {
            return Err(Failure::usage(
                "nothing to change: give --offline, --online, --location or --max-cntlrs",
            ));
        }
        let id = request.request_id.clone();
        let cn = session.write(&about(&address), &id, session.portal().modify_cn(request)).await?;
        settle(session, cn, patience).await
    }
}

impl Delete {
    async fn run(self, session: &Session) -> Result<(), Failure> {
        let (address, patience) = (self.node.take(), self.waiting.patience());
        let request = DeleteCnRequest {
            request_id: self.identity.request_id,
            address: address.clone(),
            revision: self.revision.revision,
            force: self.force,
        };
        let id = request.request_id.clone();
        let reply = session.write(&about(&address), &id, session.portal().delete_cn(request)).await?;
        let goal = Goal::gone(Kind::Cn, "cn", &address, reply.id.clone());
        let gone = session.wait(&goal, patience).await?;
        session.output.message(&reply, |_| goal.fate(gone))
    }
}

async fn get(session: &Session, address: String) -> Result<Cn, Failure> {
    session.read(&about(&address), session.portal().get_cn(GetCnRequest { address: address.clone() })).await
}

async fn settle(session: &Session, cn: Cn, patience: Patience) -> Result<(), Failure> {
    if patience == Patience::None {
        return show(session, &cn);
    }
    let address = spec(&cn).address;
    session.wait(&Goal::ready(Kind::Cn, "cn", &address, cn.revision), patience).await?;
    show(session, &get(session, address).await?)
}

async fn list(session: &Session) -> Result<(), Failure> {
    let mut all = ListCnReply::default();
    loop {
        let request = ListCnRequest { page_size: 1000, page_token: all.next_page_token };
        let page = session.read("cn", session.portal().list_cn(request)).await?;
        all.cns.extend(page.cns);
        all.next_page_token = page.next_page_token;
        if all.next_page_token.is_empty() {
            return session.output.message(&all, |human| human.table(COLUMNS, &all.cns));
        }
    }
}

async fn syncup(session: &Session, address: String) -> Result<(), Failure> {
    let request = SyncupCnRequest { address: address.clone() };
    let reply = session.read(&about(&address), session.portal().syncup_cn(request)).await?;
    let generation = reply.generation;
    session.output.message(&reply, |_| format!("cn {address} is being brought to generation {generation}\n"))
}

fn show(session: &Session, cn: &Cn) -> Result<(), Failure> {
    session.output.message(cn, |human| human.table(COLUMNS, std::slice::from_ref(cn)))
}

fn about(address: &str) -> String {
    format!("cn {address}")
}

const COLUMNS: &[Column<Cn>] = &[
    col("ADDRESS", |cn| spec(cn).address.into()),
    col("STATUS", |cn| cell::condition(cn.status.as_ref())),
    col("LOCATION", |cn| spec(cn).location.into()),
    col("LISTENER", |cn| cell::listener(spec(cn).listener.as_ref()).into()),
    col("OFFLINE", |cn| cell::yes_no(spec(cn).offline).into()),
    col("CNTLRS", |cn| capacity(cn).live_cntlrs.into()),
    wide("MAX", |cn| capacity(cn).max_cntlrs.into()),
    wide("DELETING", |cn| capacity(cn).deleting_cntlrs.into()),
    wide("ID", |cn| spec(cn).cn_id.into()),
    wide("REVISION", |cn| cn.revision.into()),
    wide("GENERATION", |cn| observed(cn).observed_generation.into()),
    wide("AGENT", |cn| cell::condition(observed(cn).agent.as_ref())),
    wide("TARGET", |cn| cell::condition(observed(cn).target.as_ref())),
    wide("CREATED", |cn| cell::time(spec(cn).created_ms).into()),
    col("MESSAGE", |cn| cell::reason(cn.status.as_ref()).into()),
];

fn spec(cn: &Cn) -> CnSpec {
    cn.spec.clone().unwrap_or_default()
}

fn observed(cn: &Cn) -> CnStatus {
    cn.observed.clone().unwrap_or_default()
}

fn capacity(cn: &Cn) -> CnCapacity {
    cn.capacity.clone().unwrap_or_default()
}
