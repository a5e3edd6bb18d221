//! Mirror sets: which members a raid1 is assembled from, and who joins later.
//!
//! A raid1 has one slot more than the set has replicas. Slots without a member are filled with null bdevs when it is created, and emptied
//! at once: a member that is lost, moved or added later finds an empty slot, online. Until they are emptied nothing is built on the raid:
//! a read could be served from a placeholder.
//!
//! INVARIANT: a raid1 is never created from members that may differ. The first assembly takes all of them (nothing was written yet);
//! any later one takes exactly one that is in sync, and the others are rebuilt onto.

use std::collections::BTreeSet;

use vda_model::ids::VdId;
use vda_reconcile::{Actual, Refusal, Verdict};
use vda_spdk::{BdevRaidCreate, RaidInfo, RaidLevel, RaidState};

use crate::resources::{Action, Array, Id, State};

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

/// What a mirror set should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MirrorSpec {
    /// Members and their bdevs.
    pub members: Vec<(VdId, String)>,
    pub source: Source,
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
                let elected: Vec<_> =
                    spec.members.iter().filter(|(member, _)| member == vd).cloned().collect();
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
    // One rebuild at a time. A member that is back is always rebuilt in full: what it missed is not known.
    let room =
        found.rebuild.is_none() && found.unproven.is_empty() && found.slots.iter().any(Option::is_none);
    let Id::Mirror(da, _) = id else { return Verdict::Fine };
    let back =
        spec.members.iter().find(|(vd, bdev)| !found.holds(bdev) && actual.usable(&Id::Member(*da, *vd)));
    match back {
        Some((_, bdev)) if room => {
            Verdict::Update(vec![Action::AddBase { raid: id.name(), bdev: bdev.clone() }])
        }
        _ => Verdict::Fine,
    }
}

/// Creates it from `from`, with placeholders in all other slots, and takes those out again.
fn assemble(id: &Id, spec: &MirrorSpec, from: &[(VdId, String)], actual: &Actual<Array>) -> Verdict<Array> {
    let Id::Mirror(da, set) = id else { return Verdict::Fine };
    let block_size = from.iter().find_map(|(vd, _)| match actual.known(&Id::Member(*da, *vd)) {
        Some(State::Member(member)) => member.bdev.map(|(block_size, _)| block_size),
        _ => None,
    });
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
    let bases = from.iter().map(|(_, bdev)| bdev.clone()).chain(spares.iter().map(Id::name));
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
