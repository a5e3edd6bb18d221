//! `vdacli da`.

use clap::{Args, Subcommand};
use vda_proto::v1::{
    Condition, CreateDaRequest, Da, DaRecord, DeleteDaRequest, GetDaRequest, ListDaReply, ListDaRequest,
    ModifyDaRequest, PartStatus, ResourceStatus, resource_ref::Kind,
};

use crate::{
    args::{Identity, Limits, Patience, Revision, Waiting, WaitingIfAsked, Yes},
    cell,
    failure::Failure,
    session::Session,
    size,
    table::{Cell, Column, col, wide},
    wait::Goal,
};

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Create a disk array
    Create(Box<Create>),
    /// Show one disk array, where its data is and what is not as it should be
    Get(Get),
    /// Show all disk arrays
    List,
    /// Change the limits of a disk array
    Modify(Modify),
    /// Delete a disk array that has no exporters any more, with all its data
    Delete(Delete),
}

#[derive(Debug, Args)]
pub(crate) struct DaName {
    /// Name of the disk array
    #[arg(value_name = "NAME", required_unless_present = "da_name")]
    name: Option<String>,
    #[arg(long, hide = true, value_name = "NAME", conflicts_with = "name")]
    da_name: Option<String>,
}

impl DaName {
    fn take(self) -> String {
        self.name.or(self.da_name).unwrap_or_default()
    }
}

#[derive(Debug, Args)]
#[command(override_usage = "vdacli da create [OPTIONS] --size <SIZE> <NAME>")]
#[command(after_help = "Example:\n  \
    vdacli da create da0 --size 64MiB --stripes 1 --stripe-size 64KiB --replicas 2 --cntlrs 1")]
pub(crate) struct Create {
    #[command(flatten)]
    da: DaName,
    /// Size hosts see, such as 10GiB
    #[arg(long, value_name = "SIZE", value_parser = size::parse, required_unless_present = "size_mb")]
    size: Option<u64>,
    /// Least space to take from disks for each copy; by default the size and what the array's own lvstore needs
    #[arg(long, value_name = "SIZE", value_parser = size::parse)]
    physical_size: Option<u64>,
    /// How many mirror sets the data is striped over (raid0)
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    stripes: u32,
    /// How much of the data goes to a mirror set in turn
    #[arg(long, value_name = "SIZE", value_parser = size::parse, default_value = "64KiB")]
    stripe_size: u64,
    /// How many copies of everything, each on a disk node and in a location of its own (raid1)
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    replicas: u32,
    /// How many controller nodes serve it
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    cntlrs: u32,
    #[command(flatten)]
    limits: Limits,
    #[command(flatten)]
    go: GoSpelling,
    #[command(flatten)]
    identity: Identity,
    #[command(flatten)]
    waiting: Waiting,
}

/// The flags of the Go VDA's `da create`.
#[derive(Debug, Args)]
struct GoSpelling {
    #[arg(long, hide = true, value_name = "MIB", conflicts_with = "size")]
    size_mb: Option<u64>,
    #[arg(long, hide = true, value_name = "MIB", conflicts_with = "physical_size")]
    physical_size_mb: Option<u64>,
    #[arg(long, hide = true, value_name = "N", conflicts_with = "cntlrs")]
    cntlr_cnt: Option<u32>,
    #[arg(long, hide = true, value_name = "N", conflicts_with = "stripes")]
    strip_cnt: Option<u32>,
    #[arg(long, hide = true, value_name = "KIB", conflicts_with = "stripe_size")]
    strip_size_kb: Option<u32>,
}

impl Create {
    fn request(self) -> Result<CreateDaRequest, Failure> {
        let strip_size_kib = match self.go.strip_size_kb {
            Some(kib) => kib,
            None => kib(self.stripe_size)?,
        };
        let size_bytes = match (self.size, self.go.size_mb) {
            (Some(bytes), _) => bytes,
            (None, mib) => bytes("--size-mb", mib.unwrap_or(0))?,
        };
        let physical_size_bytes = match (self.physical_size, self.go.physical_size_mb) {
            (Some(bytes), _) => bytes,
            (None, mib) => bytes("--physical-size-mb", mib.unwrap_or(0))?,
        };
        Ok(CreateDaRequest {
            request_id: self.identity.request_id,
            da_name: self.da.take(),
            size_bytes,
            physical_size_bytes,
            cntlrs: self.go.cntlr_cnt.unwrap_or(self.cntlrs),
            legs: 0,
            groups: 0,
            stripes: self.go.strip_cnt.unwrap_or(self.stripes),
            strip_size_kib,
            replicas: self.replicas,
            qos: self.limits.qos(),
        })
    }
}

fn kib(bytes: u64) -> Result<u32, Failure> {
    let bad = || {
        Failure::usage(format!("--stripe-size {}: must be a multiple of 1KiB, below 4TiB", cell::size(bytes)))
    };
    if bytes == 0 || !bytes.is_multiple_of(1024) {
        return Err(bad());
    }
    u32::try_from(bytes / 1024).map_err(|_| bad())
}

fn bytes(flag: &str, mib: u64) -> Result<u64, Failure> {
    mib.checked_mul(1 << 20).ok_or_else(|| Failure::usage(format!("{flag} {mib}: more than 2^64 bytes")))
}

#[derive(Debug, Args)]
#[command(override_usage = "vdacli da get [OPTIONS] <NAME>")]
pub(crate) struct Get {
    #[command(flatten)]
    da: DaName,
}

#[derive(Debug, Args)]
#[command(override_usage = "vdacli da modify [OPTIONS] <NAME>")]
pub(crate) struct Modify {
    #[command(flatten)]
    da: DaName,
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
#[command(override_usage = "vdacli da delete [OPTIONS] <NAME>")]
pub(crate) struct Delete {
    #[command(flatten)]
    da: DaName,
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
            Self::Get(args) => show(session, &get(session, &args.da.take()).await?),
            Self::List => list(session).await,
            Self::Modify(args) => args.run(session).await,
            Self::Delete(args) => args.run(session).await,
        }
    }
}

impl Create {
    async fn run(self: Box<Self>, session: &Session) -> Result<(), Failure> {
        let patience = self.waiting.patience();
        let request = self.request()?;
        let id = request.request_id.clone();
        let about = about(&request.da_name);
        let da = session.write(&about, &id, session.portal().create_da(request)).await?;
        settle(session, da, patience).await
    }
}

impl Modify {
    async fn run(self, session: &Session) -> Result<(), Failure> {
        let (name, patience) = (self.da.take(), self.waiting.patience());
        if self.limits.qos().is_none() {
            return Err(Failure::usage("nothing to change: give a limit, such as --rw-iops 10000"));
        }
        // Limits that were not named stay: they are read, and must not have changed when the new ones are written.
        let present = get(session, &name).await?;
        let request = ModifyDaRequest {
            request_id: self.identity.request_id,
            da_name: name.clone(),
            revision: if self.revision.revision == 0 { present.revision } else { self.revision.revision },
            qos: self.limits.over(spec(&present).qos),
        };
        let id = request.request_id.clone();
        let da = session.write(&about(&name), &id, session.portal().modify_da(request)).await?;
        settle(session, da, patience).await
    }
}

impl Delete {
    async fn run(self, session: &Session) -> Result<(), Failure> {
        let (name, patience) = (self.da.take(), self.waiting.patience());
        let request = DeleteDaRequest {
            request_id: self.identity.request_id,
            da_name: name.clone(),
            revision: self.revision.revision,
        };
        let id = request.request_id.clone();
        let reply = session.write(&about(&name), &id, session.portal().delete_da(request)).await?;
        let goal = Goal::gone(Kind::Da, "da", &name, reply.id.clone());
        let gone = session.wait(&goal, patience).await?;
        session.output.message(&reply, |_| goal.fate(gone))
    }
}

async fn get(session: &Session, name: &str) -> Result<Da, Failure> {
    session.read(&about(name), session.portal().get_da(GetDaRequest { da_name: name.to_owned() })).await
}

async fn settle(session: &Session, da: Da, patience: Patience) -> Result<(), Failure> {
    if patience == Patience::None {
        return show(session, &da);
    }
    let name = spec(&da).da_name;
    session.wait(&Goal::ready(Kind::Da, "da", &name, da.revision), patience).await?;
    show(session, &get(session, &name).await?)
}

async fn list(session: &Session) -> Result<(), Failure> {
    let mut all = ListDaReply::default();
    loop {
        let request = ListDaRequest { page_size: 1000, page_token: all.next_page_token };
        let page = session.read("da", session.portal().list_da(request)).await?;
        all.das.extend(page.das);
        all.next_page_token = page.next_page_token;
        if all.next_page_token.is_empty() {
            return session.output.message(&all, |human| human.table(COLUMNS, &all.das));
        }
    }
}

/// The array, its members with where and how they are, and its other parts.
fn show(session: &Session, da: &Da) -> Result<(), Failure> {
    session.output.message(da, |human| {
        let members = members(da);
        let of_member = |part: &&PartStatus| members.iter().any(|place| is_of(part, &place.member.vd_id));
        let others: Vec<_> = da.parts.iter().filter(|part| !of_member(part)).cloned().collect();
        human.table(COLUMNS, std::slice::from_ref(da))
            + &human.also(MEMBER_COLUMNS, &members)
            + &human.also(PART_COLUMNS, &others)
    })
}

/// Whether a part is a virtual disk, as its disk node or as the controller sees it: `vd ID on dn ADDRESS`, `vd ID`.
fn is_of(part: &PartStatus, vd_id: &str) -> bool {
    let mut words = part.part.split(' ');
    words.next() == Some("vd") && words.next() == Some(vd_id)
}

fn about(name: &str) -> String {
    format!("da {name}")
}

const COLUMNS: &[Column<Da>] = &[
    col("NAME", |da| spec(da).da_name.into()),
    col("STATUS", |da| cell::condition(da.status.as_ref())),
    col("SIZE", |da| cell::size(spec(da).size_bytes).into()),
    col("STRIPES", |da| spec(da).stripes.into()),
    col("REPLICAS", |da| spec(da).replicas.into()),
    col("CNTLRS", |da| cntlrs(da).into()),
    col("EXPS", |da| spec(da).exps.len().into()),
    wide("PHYSICAL", |da| cell::size(spec(da).physical_size_bytes).into()),
    wide("STRIPE SIZE", |da| cell::size(u64::from(spec(da).strip_size_kib) << 10).into()),
    wide("LIMITS", |da| cell::qos(spec(da).qos.as_ref()).into()),
    wide("ID", |da| spec(da).da_id.into()),
    wide("VOLUME UUID", |da| spec(da).volume_uuid.into()),
    wide("REVISION", |da| da.revision.into()),
    wide("CREATED", |da| cell::time(spec(da).created_ms).into()),
    col("MESSAGE", |da| cell::reason(da.status.as_ref()).into()),
];

/// A virtual disk's place in the array.
struct Place {
    set: String,
    replica: usize,
    member: vda_proto::v1::Member,
    in_sync: &'static str,
    /// What its disk node says of it, then what the controller says.
    said: Vec<PartStatus>,
}

impl Place {
    /// What is in the way, or that nothing is.
    fn status(&self) -> Option<&ResourceStatus> {
        let mut said = self.said.iter().filter_map(|part| part.status.as_ref());
        let in_the_way = said.clone().find(|status| status.condition() != Condition::Ready);
        in_the_way.or_else(|| said.next())
    }
}

const MEMBER_COLUMNS: &[Column<Place>] = &[
    col("MIRROR SET", |place| place.set.clone().into()),
    col("REPLICA", |place| place.replica.into()),
    col("DN", |place| place.member.dn_address.clone().into()),
    col("VD", |place| place.member.vd_id.clone().into()),
    col("SIZE", |place| cell::size(place.member.size_bytes).into()),
    col("IN SYNC", |place| place.in_sync.into()),
    col("STATUS", |place| cell::condition(place.status())),
    col("REBUILT", |place| rebuilt(place.said.iter().map(|part| part.progress_percent).max().unwrap_or(0))),
    wide("PD ID", |place| place.member.pd_id.clone().into()),
    wide("LISTENER", |place| cell::listener(place.member.listener.as_ref()).into()),
    wide("NQN", |place| place.member.nqn.clone().into()),
    col("MESSAGE", |place| cell::reason(place.status()).into()),
];

/// All members in order; a mirror set is named leg/group/stripe.
fn members(da: &Da) -> Vec<Place> {
    let mut places = Vec::new();
    for leg in spec(da).legs {
        let state = da.legs.iter().find(|state| state.leg == leg.leg);
        for group in leg.groups {
            for set in group.sets {
                for (replica, member) in set.members.into_iter().enumerate() {
                    let in_sync =
                        state.map_or("", |state| cell::yes_no(state.in_sync.contains(&member.vd_id)));
                    let set = format!("{}/{}/{}", leg.leg, group.group, set.stripe);
                    let mut said: Vec<_> =
                        da.parts.iter().filter(|part| is_of(part, &member.vd_id)).cloned().collect();
                    said.sort_by_key(|part| !part.part.contains(" on dn "));
                    places.push(Place { set, replica, member, in_sync, said });
                }
            }
        }
    }
    places
}

const PART_COLUMNS: &[Column<PartStatus>] = &[
    col("PART", |part| part.part.clone().into()),
    col("STATUS", |part| cell::condition(part.status.as_ref())),
    col("REBUILT", |part| rebuilt(part.progress_percent)),
    wide("SINCE", |part| cell::time(part.status.as_ref().map_or(0, |status| status.since_ms)).into()),
    col("MESSAGE", |part| cell::reason(part.status.as_ref()).into()),
];

fn rebuilt(percent: u32) -> Cell {
    if percent > 0 { format!("{percent}%") } else { String::new() }.into()
}

fn cntlrs(da: &Da) -> String {
    spec(da).cntlrs.iter().map(|cntlr| cntlr.cn_address.clone()).collect::<Vec<_>>().join(",")
}

fn spec(da: &Da) -> DaRecord {
    da.spec.clone().unwrap_or_default()
}
