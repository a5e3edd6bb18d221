//! `vdacli exp`.

use std::fmt::Write as _;

use clap::{Args, Subcommand};
use vda_proto::v1::{
    CreateExpRequest, DeleteExpRequest, Exp, ExpPath, ExpRecord, GetExpRequest, ListExpReply, ListExpRequest,
    ModifyExpRequest, resource_ref::Kind,
};

use crate::{
    args::{Identity, Patience, Revision, Waiting, WaitingIfAsked, Yes},
    cell,
    failure::Failure,
    session::Session,
    table::{Column, col, wide},
    wait::Goal,
};

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Export a disk array to hosts
    Create(Create),
    /// Show one exporter, with the `nvme connect` lines for its hosts
    Get(Get),
    /// Show the exporters of one disk array, or of all
    List(List),
    /// Change which hosts an exporter admits
    Modify(Modify),
    /// Delete an exporter: its hosts are disconnected, the data stays
    Delete(Delete),
}

#[derive(Debug, Args)]
pub(crate) struct ExpRef {
    /// Name of the disk array
    #[arg(value_name = "DA", required_unless_present = "da_name")]
    da: Option<String>,
    /// Name of the exporter, unique in its disk array
    #[arg(value_name = "NAME", required_unless_present = "exp_name")]
    name: Option<String>,
    #[arg(long, hide = true, value_name = "DA", requires = "exp_name", conflicts_with = "da")]
    da_name: Option<String>,
    #[arg(long, hide = true, value_name = "NAME", requires = "da_name", conflicts_with = "name")]
    exp_name: Option<String>,
}

impl ExpRef {
    fn take(self) -> Name {
        Name {
            da: self.da.or(self.da_name).unwrap_or_default(),
            exp: self.name.or(self.exp_name).unwrap_or_default(),
        }
    }
}

#[derive(Clone)]
struct Name {
    da: String,
    exp: String,
}

impl Name {
    fn about(&self) -> String {
        format!("exp {} {}", self.da, self.exp)
    }

    fn path(&self) -> String {
        format!("{}/{}", self.da, self.exp)
    }
}

#[derive(Debug, Args)]
#[command(override_usage = "vdacli exp create [OPTIONS] --host <NQN> <DA> <NAME>")]
#[command(after_help = "A host's NQN is in its /etc/nvme/hostnqn. Example:\n  \
    vdacli exp create da0 exp0a --host nqn.2014-08.org.nvmexpress:uuid:5a4b0a0e-6f6a-4b5c-9f0e-0c9f0f1d2e3f")]
pub(crate) struct Create {
    #[command(flatten)]
    exp: ExpRef,
    /// NQN of a host that may connect; repeat it for more. No other host is admitted
    #[arg(long = "host", alias = "initiator-nqn", value_name = "NQN", required = true)]
    hosts: Vec<String>,
    #[command(flatten)]
    identity: Identity,
    #[command(flatten)]
    waiting: Waiting,
}

#[derive(Debug, Args)]
#[command(override_usage = "vdacli exp get [OPTIONS] <DA> <NAME>")]
pub(crate) struct Get {
    #[command(flatten)]
    exp: ExpRef,
}

#[derive(Debug, Args)]
pub(crate) struct List {
    /// Name of the disk array; without it, of all
    #[arg(value_name = "DA")]
    da: Option<String>,
    #[arg(long, hide = true, value_name = "DA", conflicts_with = "da")]
    da_name: Option<String>,
}

#[derive(Debug, Args)]
#[command(override_usage = "vdacli exp modify [OPTIONS] <DA> <NAME>")]
pub(crate) struct Modify {
    #[command(flatten)]
    exp: ExpRef,
    /// NQN of a host to admit; repeat it for more
    #[arg(long = "add-host", value_name = "NQN")]
    add: Vec<String>,
    /// NQN of a host to admit no longer: it is disconnected; repeat it for more
    #[arg(long = "remove-host", value_name = "NQN")]
    remove: Vec<String>,
    #[command(flatten)]
    revision: Revision,
    #[command(flatten)]
    identity: Identity,
    #[command(flatten)]
    waiting: WaitingIfAsked,
}

#[derive(Debug, Args)]
#[command(override_usage = "vdacli exp delete [OPTIONS] <DA> <NAME>")]
pub(crate) struct Delete {
    #[command(flatten)]
    exp: ExpRef,
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
            Self::Get(args) => show(session, &get(session, &args.exp.take()).await?),
            Self::List(args) => list(session, args.da.or(args.da_name).unwrap_or_default()).await,
            Self::Modify(args) => args.run(session).await,
            Self::Delete(args) => args.run(session).await,
        }
    }
}

impl Create {
    async fn run(self, session: &Session) -> Result<(), Failure> {
        let (name, patience) = (self.exp.take(), self.waiting.patience());
        let request = CreateExpRequest {
            request_id: self.identity.request_id,
            da_name: name.da.clone(),
            exp_name: name.exp.clone(),
            initiator_nqns: self.hosts,
        };
        let id = request.request_id.clone();
        let exp = session.write(&name.about(), &id, session.portal().create_exp(request)).await?;
        settle(session, &name, exp, patience).await
    }
}

impl Modify {
    async fn run(self, session: &Session) -> Result<(), Failure> {
        let (name, patience) = (self.exp.take(), self.waiting.patience());
        if self.add.is_empty() && self.remove.is_empty() {
            return Err(Failure::usage("nothing to change: give --add-host or --remove-host"));
        }
        let request = ModifyExpRequest {
            request_id: self.identity.request_id,
            da_name: name.da.clone(),
            exp_name: name.exp.clone(),
            revision: self.revision.revision,
            add_initiator_nqns: self.add,
            remove_initiator_nqns: self.remove,
        };
        let id = request.request_id.clone();
        let exp = session.write(&name.about(), &id, session.portal().modify_exp(request)).await?;
        settle(session, &name, exp, patience).await
    }
}

impl Delete {
    async fn run(self, session: &Session) -> Result<(), Failure> {
        let (name, patience) = (self.exp.take(), self.waiting.patience());
        let request = DeleteExpRequest {
            request_id: self.identity.request_id,
            da_name: name.da.clone(),
            exp_name: name.exp.clone(),
            revision: self.revision.revision,
        };
        let id = request.request_id.clone();
        let reply = session.write(&name.about(), &id, session.portal().delete_exp(request)).await?;
        let goal = Goal::gone(Kind::Exp, "exp", &name.path(), reply.id.clone());
        let gone = session.wait(&goal, patience).await?;
        session.output.message(&reply, |_| goal.fate(gone))
    }
}

async fn get(session: &Session, name: &Name) -> Result<Exp, Failure> {
    let request = GetExpRequest { da_name: name.da.clone(), exp_name: name.exp.clone() };
    session.read(&name.about(), session.portal().get_exp(request)).await
}

async fn settle(session: &Session, name: &Name, exp: Exp, patience: Patience) -> Result<(), Failure> {
    if patience == Patience::None {
        return show(session, &exp);
    }
    session.wait(&Goal::ready(Kind::Exp, "exp", &name.path(), exp.revision), patience).await?;
    show(session, &get(session, name).await?)
}

async fn list(session: &Session, da_name: String) -> Result<(), Failure> {
    let mut all = ListExpReply::default();
    loop {
        let request =
            ListExpRequest { da_name: da_name.clone(), page_size: 1000, page_token: all.next_page_token };
        let page = session.read("exp", session.portal().list_exp(request)).await?;
        all.exps.extend(page.exps);
        all.next_page_token = page.next_page_token;
        if all.next_page_token.is_empty() {
            return session.output.message(&all, |human| human.table(COLUMNS, &all.exps));
        }
    }
}

fn show(session: &Session, exp: &Exp) -> Result<(), Failure> {
    session.output.message(exp, |human| {
        let table = human.table(COLUMNS, std::slice::from_ref(exp));
        let paths = human.table(PATH_COLUMNS, &exp.paths);
        format!("{table}\n{paths}\nTo connect, on the host with that NQN:\n{}", connect_lines(exp))
    })
}

/// One `nvme connect` line per host and path. `-k 2` (keep-alive, seconds) decides how long a frozen controller is noticed after,
/// `-c 1` how often a lost one is tried again, `-l 3600` that I/O waits an hour for it and does not fail at once.
fn connect_lines(exp: &Exp) -> String {
    let mut text = String::new();
    let spec = spec(exp);
    for host in &spec.initiator_nqns {
        for listener in exp.paths.iter().filter_map(|path| path.listener.as_ref()) {
            let _ = writeln!(
                text,
                "  nvme connect -t {} -a {} -s {} -n {} -q {host} -k 2 -c 1 -l 3600",
                listener.trtype, listener.traddr, listener.trsvcid, spec.nqn
            );
        }
    }
    text
}

const COLUMNS: &[Column<Exp>] = &[
    col("DA", |exp| exp.da_name.clone().into()),
    col("NAME", |exp| spec(exp).exp_name.into()),
    col("STATUS", |exp| cell::condition(exp.status.as_ref())),
    col("SIZE", |exp| cell::size(exp.size_bytes).into()),
    col("NQN", |exp| spec(exp).nqn.into()),
    col("HOSTS", |exp| spec(exp).initiator_nqns.join(",").into()),
    wide("PATHS", |exp| exp.paths.len().into()),
    wide("ID", |exp| spec(exp).exp_id.into()),
    wide("NAMESPACE UUID", |exp| exp.ns_uuid.clone().into()),
    wide("REVISION", |exp| exp.revision.into()),
    wide("CREATED", |exp| cell::time(spec(exp).created_ms).into()),
    col("MESSAGE", |exp| cell::reason(exp.status.as_ref()).into()),
];

const PATH_COLUMNS: &[Column<ExpPath>] = &[
    col("CN", |path| path.cn_address.clone().into()),
    col("LISTENER", |path| cell::listener(path.listener.as_ref()).into()),
    col("DESIRED ANA", |path| path.ana_state.clone().into()),
    col("OBSERVED ANA", |path| {
        path.observed.as_ref().map_or_else(String::new, |o| o.ana_state.clone()).into()
    }),
    col("STATUS", |path| cell::condition(path.observed.as_ref().and_then(|o| o.status.as_ref()))),
    col("MESSAGE", |path| cell::reason(path.observed.as_ref().and_then(|o| o.status.as_ref())).into()),
];

fn spec(exp: &Exp) -> ExpRecord {
    exp.spec.clone().unwrap_or_default()
}
