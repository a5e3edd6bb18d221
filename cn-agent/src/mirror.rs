//! Mirror sets: which members a raid1 is assembled from, and who joins later.
//!
//! A raid1 has one slot more than the set has replicas. Slots without a member are filled with null bdevs when it is created, and emptied
//! at once: a member that is lost, moved or added later finds an empty slot, online. Until they are emptied nothing is built on the raid:
//! a read could be served from a placeholder.
//!
//! INVARIANT: a raid1 is never created from members that may differ. The first assembly takes all of them (nothing was written yet);
//! any later one takes exactly one that is in sync, and the others are rebuilt onto.
//!
//! A member whose node was started anew since it was attached has another name now (ADR 0091): what it had acknowledged and not flushed is gone.
//! Under its old name it is connected to no more. It is reported as out of sync as soon as a member is connected that stayed, and
//! leaves when that is recorded; if all are like that, the raid1
//! goes, as when it loses its last member, and one is elected.

use std::collections::BTreeSet;

use vda_model::ids::{DaId, VdId};
use vda_reconcile::{Actual, Refusal, Verdict};
use vda_spdk::{BdevRaidCreate, RaidInfo, RaidLevel, RaidState};

use crate::resources::{Action, Array, Id, MemberState, State};

/// Where the data of a set is when it has to be assembled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// Nothing was written yet: all members are equal.
    Blank,
    /// On this member, for sure.
    Elected(VdId),
    /// On one of several; which one has to be decided elsewhere.
    Undecided,
    /// Nowhere: no member is in sync.
    Lost,
}

/// A member of a mirror set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemberSpec {
    pub vd: VdId,
    /// The bdev by which it is seen here.
    pub bdev: String,
    /// Subsystem through which it is exported now; `None`: not known.
    pub nqn: Option<String>,
}

impl MemberSpec {
    fn attached<'a>(&self, da: DaId, actual: &'a Actual<Array>) -> Option<&'a MemberState> {
        match actual.known(&Id::Member(da, self.vd)) {
            Some(State::Member(member)) => Some(member),
            _ => None,
        }
    }

    /// It is attached under a name that it does not have any more.
    fn renamed(&self, da: DaId, actual: &Actual<Array>) -> bool {
        let attached = self.attached(da, actual);
        self.nqn.is_some() && attached.is_some_and(|attached| attached.trid.subnqn != self.nqn)
    }

    /// It can be used under the name that it has.
    fn present(&self, da: DaId, actual: &Actual<Array>) -> bool {
        self.nqn.is_some() && !self.renamed(da, actual) && actual.usable(&Id::Member(da, self.vd))
    }
}

/// What a mirror set should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MirrorSpec {
    pub members: Vec<MemberSpec>,
    pub source: Source,
    /// Those that are recorded to be in sync.
    pub recorded: BTreeSet<VdId>,
    /// What every member has at least.
    pub size_bytes: u64,
}

/// What a mirror set is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MirrorState {
    /// It is a bdev.
    pub online: bool,
    /// Base bdevs; `None`: an empty slot.
    pub slots: Vec<Option<String>>,
    /// Bdev being rebuilt onto, and percent done.
    pub rebuild: Option<(String, u32)>,
    /// Joined, but not certain to be rebuilt.
    pub unproven: BTreeSet<String>,
    /// Joined, and certainly rebuilt.
    pub rebuilt: BTreeSet<String>,
}

impl From<&RaidInfo> for MirrorState {
    fn from(raid: &RaidInfo) -> Self {
        let configured =
            raid.base_bdevs_list.iter().map(|slot| slot.name.clone().filter(|_| slot.is_configured));
        Self {
            online: raid.state == RaidState::Online,
            slots: configured.collect(),
            rebuild: raid.process.as_ref().map(|p| (p.target.clone(), p.progress.percent)),
            ..Self::default()
        }
    }
}

impl MirrorState {
    fn holds(&self, bdev: &str) -> bool {
        self.slots.iter().flatten().any(|name| name == bdev)
    }

    /// Whether `bdev` has all the data.
    pub fn in_sync(&self, bdev: &str) -> bool {
        let rebuilding = self.rebuild.as_ref().is_some_and(|(target, _)| target == bdev);
        self.online && self.holds(bdev) && !rebuilding && !self.unproven.contains(bdev)
    }

    /// How far the rebuild of `bdev` is.
    pub fn percent(&self, bdev: &str) -> u32 {
        self.rebuild.as_ref().filter(|(target, _)| target == bdev).map_or(0, |(_, percent)| *percent)
    }

    /// Placeholders among its base bdevs.
    fn placeholders(&self) -> impl Iterator<Item = &String> {
        self.slots.iter().flatten().filter(|name| matches!(Id::of_bdev(name), Some(Id::Spare(..))))
    }

    /// Whether something may be built on it: every read comes from a member.
    pub fn usable(&self) -> bool {
        self.online && self.placeholders().next().is_none() && self.slots.iter().any(Option::is_some)
    }
}

/// What a placeholder asks for: to go, as soon as its mirror set does without it.
pub(crate) fn judge_spare(id: &Id, mirror: &Id, actual: &Actual<Array>) -> Verdict<Array> {
    match (actual.known(id), actual.known(mirror)) {
        (Some(_), Some(State::Mirror(mirror))) if !mirror.holds(&id.name()) => Verdict::Remove,
        _ => Verdict::Fine,
    }
}

/// What a mirror set asks for.
pub(crate) fn judge(id: &Id, spec: &MirrorSpec, actual: &Actual<Array>) -> Verdict<Array> {
    match actual.known(id) {
        Some(State::Mirror(found)) => judge_assembled(id, spec, found, actual),
        _ => match &spec.source {
            Source::Blank => assemble(id, spec, &spec.members, actual),
            Source::Elected(vd) => {
                let elected: Vec<_> = spec.members.iter().filter(|m| m.vd == *vd).cloned().collect();
                assemble(id, spec, &elected, actual)
            }
            Source::Undecided => {
                Verdict::Wait(format!("the election of a member of mirror set {}", position(id)))
            }
            Source::Lost => Verdict::Refuse(Refusal {
                op: "bdev_raid_create",
                message: format!("no member of mirror set {} is known to hold current data", position(id)),
            }),
        },
    }
}

fn judge_assembled(
    id: &Id,
    spec: &MirrorSpec,
    found: &MirrorState,
    actual: &Actual<Array>,
) -> Verdict<Array> {
    if !found.online {
        // Not a bdev: it serves nobody, and holds nothing by itself.
        return Verdict::Remove;
    }
    let placeholders: Vec<_> =
        found.placeholders().map(|bdev| Action::RemoveBase { bdev: bdev.clone() }).collect();
    if !placeholders.is_empty() {
        return Verdict::Update(placeholders);
    }
    let Id::Mirror(da, _) = id else { return Verdict::Fine };
    if let Some(actions) = let_go(id, *da, spec, found, actual) {
        return Verdict::Update(actions);
    }
    // One rebuild at a time. A member that is back is always rebuilt in full: what it missed is not known.
    let room =
        found.rebuild.is_none() && found.unproven.is_empty() && found.slots.iter().any(Option::is_none);
    let back = spec.members.iter().find(|member| {
        !found.holds(&member.bdev) && member.present(*da, actual) && recorded_as_out(member, spec, found)
    });
    match back {
        Some(member) if room => {
            Verdict::Update(vec![Action::AddBase { raid: id.name(), bdev: member.bdev.clone() }])
        }
        _ => Verdict::Fine,
    }
}

/// Members of a raid1 whose nodes were started anew, and those that stayed and have all the data.
fn renamed<'a>(
    da: DaId,
    spec: &'a MirrorSpec,
    found: &MirrorState,
    actual: &Actual<Array>,
) -> (Vec<&'a MemberSpec>, Vec<&'a MemberSpec>) {
    let target = found.rebuild.as_ref().map(|(target, _)| target);
    let (renamed, stayed): (Vec<_>, Vec<_>) =
        spec.members.iter().filter(|m| found.holds(&m.bdev)).partition(|m| m.renamed(da, actual));
    (renamed, stayed.into_iter().filter(|m| target != Some(&m.bdev)).collect())
}

/// Members of a raid1 that lack something, for sure, although they are in it: their nodes were started anew, and there is one that stayed. If that one
/// is away it may come back with all it has, or may have lost its power too: before that is known nothing is given up.
pub(crate) fn outdated(
    da: DaId,
    spec: &MirrorSpec,
    found: &MirrorState,
    actual: &Actual<Array>,
) -> BTreeSet<VdId> {
    let (renamed, stayed) = renamed(da, spec, found, actual);
    let sure = stayed.iter().any(|m| found.in_sync(&m.bdev) && m.present(da, actual));
    renamed.into_iter().filter(|_| sure).map(|m| m.vd).collect()
}

/// What takes members out whose nodes were started anew, if that can be done now. They can neither be read from nor written to, so they stay until
/// it is recorded that they are out of sync: what is written without them must not be lost by electing one of them.
fn let_go(
    id: &Id,
    da: DaId,
    spec: &MirrorSpec,
    found: &MirrorState,
    actual: &Actual<Array>,
) -> Option<Vec<Action>> {
    let (renamed, stayed) = renamed(da, spec, found, actual);
    if renamed.is_empty() {
        return None;
    }
    if stayed.is_empty() {
        // Nobody has what was not flushed. What is recorded must be what is here: from that one is elected.
        let here = |vd: &VdId| spec.members.iter().any(|m| m.vd == *vd && found.in_sync(&m.bdev));
        let recorded = !spec.recorded.is_empty() && spec.recorded.iter().all(here);
        let decided = spec.source == Source::Blank || recorded;
        return decided.then(|| vec![Action::DeleteRaid { name: id.name() }]);
    }
    let outdated = outdated(da, spec, found, actual);
    let leaves = |m: &&&MemberSpec| outdated.contains(&m.vd) && recorded_as_out(m, spec, found);
    let actions: Vec<_> =
        renamed.iter().filter(leaves).map(|m| Action::RemoveBase { bdev: m.bdev.clone() }).collect();
    (!actions.is_empty()).then_some(actions)
}

/// A member leaves, and may be rebuilt onto, only when it is recorded to be out of sync: if this node dies in the middle, it must not be elected.
/// Unless nobody in this raid1 is recorded to be in sync: then a report about it would not be believed, and the record stays as it is.
fn recorded_as_out(member: &MemberSpec, spec: &MirrorSpec, found: &MirrorState) -> bool {
    let others = || spec.members.iter().filter(|m| m.vd != member.vd && found.in_sync(&m.bdev));
    let believed = others().any(|m| spec.recorded.contains(&m.vd));
    !(believed && spec.recorded.contains(&member.vd))
}

/// Creates it from `from`, with placeholders in all other slots, and takes those out again.
fn assemble(id: &Id, spec: &MirrorSpec, from: &[MemberSpec], actual: &Actual<Array>) -> Verdict<Array> {
    let Id::Mirror(da, set) = id else { return Verdict::Fine };
    let block_size =
        from.iter().find_map(|m| m.attached(*da, actual)?.bdev.map(|(block_size, _)| block_size));
    let Some(block_size) = block_size else {
        return Verdict::Wait(format!("the members of mirror set {}", position(id)));
    };
    let empty = spec.members.len() + 1 - from.len();
    let spares: Vec<Id> =
        (0..u32::try_from(empty).unwrap_or(0)).map(|slot| Id::Spare(*da, *set, slot)).collect();
    let missing = spares.iter().filter(|spare| actual.absent(spare));
    let mut actions: Vec<Action> = missing
        .map(|spare| Action::CreateNull {
            name: spare.name(),
            block_size,
            blocks: spec.size_bytes / u64::from(block_size.max(1)),
        })
        .collect();
    let bases = from.iter().map(|m| m.bdev.clone()).chain(spares.iter().map(Id::name));
    actions.push(Action::CreateRaid(Box::new(BdevRaidCreate::new(
        id.name(),
        RaidLevel::Raid1,
        bases.collect::<Vec<_>>(),
    ))));
    actions.extend(spares.iter().map(|spare| Action::RemoveBase { bdev: spare.name() }));
    actions.extend(spares.iter().map(|spare| Action::DeleteNull { name: spare.name() }));
    Verdict::Create { actions, destructive: false }
}

/// `leg/group/stripe`.
pub(crate) fn position(id: &Id) -> String {
    match id {
        Id::Mirror(_, p) => format!("{}/{}/{}", p.leg, p.group, p.stripe),
        _ => id.to_string(),
    }
}
