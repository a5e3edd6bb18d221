//! What a controller node tells about its controllers.

use std::collections::BTreeSet;
use std::time::Duration;

use vda_model::ids::{BootId, DaId};
use vda_model::names::{Namespace, OwnedName};
use vda_proto::v1::{
    CntlrStatus, Condition, ExpStatus, LegObserved, MemberStatus, PartStatus, ResourceStatus,
};
use vda_reconcile::status::{self, Book};
use vda_reconcile::{Blocker, FaultKind, Observed, Report, Settled, Wanted};

use crate::driver::{leg_record, volume_record};
use crate::mirror::{MirrorState, Source, outdated, position};
use crate::resources::{Array, Id, Spec, State, member_bdev};
use crate::stack::{Initialised, source};
use crate::want::{ExpWant, LegWant, MemberWant, SetWant, Want};

/// What blocks everything while the data plane cannot be asked.
const DATA_PLANE: &str = "the data plane of the controller node";
/// How often a mirror set that is not whole is looked at.
const RECHECK: Duration = Duration::from_secs(1);

pub(crate) fn report(
    node: &impl Initialised,
    da: DaId,
    wanted: &Wanted<Want>,
    settled: &Settled<'_, Array>,
    previous: Option<&CntlrStatus>,
    book: &mut Book,
) -> Option<Report<CntlrStatus>> {
    // What was not seen is not known to be otherwise than before: above all, no member leaves the set of those in sync.
    if settled.uncertain() && previous.is_some() {
        return None;
    }
    let mut view = View { da, want: &wanted.want, settled, book };
    let gone = wanted.want.deleting && settled.gone([]);
    let status = CntlrStatus {
        schema_version: vda_proto::SCHEMA_VERSION,
        da_id: da.to_string(),
        observed_revision: wanted.revision,
        gone,
        status: Some(view.whole(gone)),
        parts: view.parts(),
        legs: wanted.want.legs.iter().map(|leg| view.leg(node, leg)).collect(),
        exps: wanted.want.exps.iter().map(|exp| view.exp(exp)).collect(),
    };
    let records = view.records();
    let recheck = (!wanted.want.deleting && view.degraded().is_some()).then_some(RECHECK);
    let (initialised, gone) =
        if gone { (BTreeSet::new(), view.all_records()) } else { (records, BTreeSet::new()) };
    Some(Report { status, recheck, initialised, gone })
}

struct View<'a, 'b> {
    da: DaId,
    want: &'a Want,
    settled: &'a Settled<'b, Array>,
    book: &'a mut Book,
}

impl View<'_, '_> {
    /// The condition of one resource.
    fn of(&self, id: &Id) -> ResourceStatus {
        if let Some(fault) = self.settled.failures.get(id) {
            // A VD that is not exported (to us) yet refuses the connection, or is unknown to its node: not a failure of ours.
            return match id {
                Id::Member(..)
                    if fault.op == "bdev_nvme_attach_controller" && fault.kind == FaultKind::Refused =>
                {
                    status::blocked(self.member_words(id, "VD not exported yet"))
                }
                _ => status::failed(fault),
            };
        }
        if let Some(refusal) = self.settled.plan.refused.get(id) {
            return status::refused(refusal);
        }
        match self.settled.plan.blocked.get(id) {
            None => status::ready(),
            Some(Blocker::Unknown(_)) => status::blocked(DATA_PLANE),
            Some(Blocker::Outside(words)) => status::blocked(self.member_words(id, words)),
            Some(Blocker::On(on)) => self.because_of(on),
        }
    }

    fn because_of(&self, on: &Id) -> ResourceStatus {
        let below = self.of(on);
        match below.condition() {
            Condition::Blocked => below,
            Condition::Failed => status::blocked(format!("{}: {}", self.part_name(on), below.message)),
            _ => status::blocked(self.part_name(on)),
        }
    }

    /// Says of which DN a member is.
    fn member_words(&self, id: &Id, words: &str) -> String {
        match self.member(id) {
            Some(member) => format!("DN {}: {words}", member.dn_address),
            None => words.to_owned(),
        }
    }

    fn member(&self, id: &Id) -> Option<&MemberWant> {
        let Id::Member(_, vd) = id else { return None };
        self.sets().flat_map(|(_, set)| &set.members).find(|member| member.vd == *vd)
    }

    fn sets(&self) -> impl Iterator<Item = (&LegWant, &SetWant)> {
        self.want.legs.iter().flat_map(|leg| leg.sets().map(move |set| (leg, set)))
    }

    fn part_name(&self, id: &Id) -> String {
        match id {
            Id::Member(_, vd) => format!("vd {vd}"),
            Id::Spare(..) => "spare slot".to_owned(),
            Id::Mirror(..) => format!("raid1 {}", position(id)),
            Id::Group(_, leg, group) => format!("raid0 {leg}/{group}"),
            Id::Concat(_, leg) => format!("concat {leg}"),
            Id::Lvstore(..) => "lvstore".to_owned(),
            Id::Volume(..) => "volume".to_owned(),
            Id::Export(nqn) => match self.want.exps.iter().find(|exp| exp.nqn == *nqn) {
                Some(exp) => format!("exp {}", exp.name),
                None => format!("export {nqn}"),
            },
        }
    }

    fn mirror(&self, set: &SetWant) -> Option<&MirrorState> {
        match self.settled.actual.known(&Id::Mirror(self.da, set.position)) {
            Some(State::Mirror(mirror)) => Some(mirror),
            _ => None,
        }
    }

    /// Whether a member has all the data.
    fn in_sync(&self, set: &SetWant, mirror: &MirrorState, member: &MemberWant) -> bool {
        let outdated = match self.settled.desired.wants.get(&Id::Mirror(self.da, set.position)) {
            Some(vda_reconcile::Want { spec: Spec::Mirror(spec), .. }) => {
                outdated(self.da, spec, mirror, self.settled.actual).contains(&member.vd)
            }
            _ => false,
        };
        !outdated && mirror.in_sync(&member_bdev(self.da, member.vd))
    }

    /// What is not whole although it serves.
    fn degraded(&self) -> Option<String> {
        let lacks = self.sets().filter_map(|(_, set)| {
            let mirror = self.mirror(set)?;
            let in_sync = set.members.iter().filter(|m| self.in_sync(set, mirror, m)).count();
            let rebuild =
                mirror.rebuild.as_ref().map_or_else(String::new, |(_, p)| format!(", rebuilding: {p} %"));
            let p = set.position;
            (in_sync < set.members.len()).then(|| {
                format!(
                    "mirror set {}/{}/{}: {in_sync} of {} members in sync{rebuild}",
                    p.leg,
                    p.group,
                    p.stripe,
                    set.members.len()
                )
            })
        });
        let mut all: Vec<String> = lacks.collect();
        let members = self.sets().flat_map(|(_, set)| &set.members);
        let away =
            members.map(|member| self.of(&Id::Member(self.da, member.vd))).filter(|s| !s.on.is_empty());
        all.extend(away.map(|status| status.on));
        (!all.is_empty()).then(|| all.join("; "))
    }

    /// The condition of the stack as a whole.
    fn whole(&mut self, gone: bool) -> ResourceStatus {
        let own = self.settled.desired.own_ids();
        let whole = if self.want.deleting {
            match status::worst(&own.iter().map(|id| self.of(id)).collect::<Vec<_>>()) {
                worst if gone || matches!(worst.condition(), Condition::Failed) => worst,
                _ => status::deleting(),
            }
        } else if !self.want.primary {
            status::blocked("a version that serves standby controllers")
        } else {
            let volume = self.want.legs.first().map(|leg| self.of(&Id::Volume(self.da, leg.leg)));
            match (volume, self.degraded()) {
                (Some(volume), _) if volume.condition() != Condition::Ready => volume,
                (_, Some(lack)) => status::degraded(lack),
                (Some(volume), None) => volume,
                (None, None) => status::blocked("a leg: the array has none"),
            }
        };
        self.book.stamp("", whole)
    }

    /// Everything that is not as wanted, and every member.
    fn parts(&mut self) -> Vec<PartStatus> {
        let ids: Vec<Id> = self.settled.desired.own_ids().into_iter().collect();
        let mut parts = Vec::new();
        for id in ids {
            let mut condition = self.of(&id);
            let mut progress_percent = 0;
            if let (Id::Mirror(..), Some(State::Mirror(mirror))) = (&id, self.settled.actual.known(&id)) {
                progress_percent = mirror.rebuild.as_ref().map_or(0, |(_, percent)| *percent);
                let lack = self.lack(&id, mirror);
                if let (Condition::Ready, Some(lack)) = (condition.condition(), lack) {
                    condition = status::degraded(lack);
                }
            }
            if condition.condition() == Condition::Ready && !matches!(id, Id::Member(..)) {
                continue;
            }
            let part = self.part_name(&id);
            let condition = self.book.stamp(&part, condition);
            parts.push(PartStatus { part, status: Some(condition), progress_percent });
        }
        parts
    }

    fn lack(&self, id: &Id, mirror: &MirrorState) -> Option<String> {
        let (_, set) = self.sets().find(|(_, set)| Id::Mirror(self.da, set.position) == *id)?;
        let in_sync = set.members.iter().filter(|m| self.in_sync(set, mirror, m)).count();
        (in_sync < set.members.len()).then(|| format!("{in_sync} of {} members in sync", set.members.len()))
    }

    fn leg(&mut self, node: &impl Initialised, leg: &LegWant) -> LegObserved {
        let initialised = leg.known.as_ref().is_some_and(|known| known.initialised)
            || (node.leg(self.da, leg.leg) && node.volume(self.da))
            || self.settled.actual.known(&Id::Volume(self.da, leg.leg)).is_some();
        let undecided = |set: &SetWant| {
            let absent =
                matches!(self.settled.actual.state(&Id::Mirror(self.da, set.position)), Observed::Absent);
            absent && source(leg, set, initialised || node.leg(self.da, leg.leg)) == Source::Undecided
        };
        let needs_election = !self.want.deleting && leg.sets().any(undecided);
        let members = leg.sets().flat_map(|set| set.members.iter().map(move |member| (set, member)));
        let members = members.map(|(set, member)| self.member_status(set, member)).collect();
        LegObserved { leg: leg.leg, initialised, needs_election, members }
    }

    fn member_status(&mut self, set: &SetWant, member: &MemberWant) -> MemberStatus {
        let bdev = member_bdev(self.da, member.vd);
        let (in_sync, rebuilt, rebuild_percent) = match self.mirror(set) {
            Some(mirror) => {
                (self.in_sync(set, mirror, member), mirror.rebuilt.contains(&bdev), mirror.percent(&bdev))
            }
            None => (false, false, 0),
        };
        let condition = self.of(&Id::Member(self.da, member.vd));
        let status = self.book.stamp(&format!("member {}", member.vd), condition);
        MemberStatus {
            vd_id: member.vd.to_string(),
            status: Some(status),
            in_sync,
            rebuilt,
            rebuild_percent,
            boot: self.boot(member).map(|boot| boot.to_string()).unwrap_or_default(),
        }
    }

    /// The boot in the name under which a member is attached.
    fn boot(&self, member: &MemberWant) -> Option<BootId> {
        let Some(State::Member(attached)) = self.settled.actual.known(&Id::Member(self.da, member.vd)) else {
            return None;
        };
        match OwnedName::parse(Namespace::Nqn, attached.trid.subnqn.as_deref()?)? {
            OwnedName::VdSubsystem(_, boot) => boot,
            _ => None,
        }
    }

    fn exp(&mut self, exp: &ExpWant) -> ExpStatus {
        let id = Id::Export(exp.nqn.clone());
        let deleting = exp.deleting || self.want.deleting;
        let gone = deleting && self.settled.actual.absent(&id);
        let condition = match self.of(&id) {
            found if deleting && !gone && found.condition() != Condition::Failed => status::deleting(),
            found => found,
        };
        let ana_state = match self.settled.actual.known(&id) {
            Some(State::Export(found)) => {
                let shown = found.ana_at(&self.want.listener).map(|ana| ana.as_str());
                let unseen = || if found.ana.is_none() { exp.ana.as_str() } else { "" };
                shown.unwrap_or_else(unseen).to_owned()
            }
            _ => String::new(),
        };
        let status = self.book.stamp(&format!("exp {}", exp.id), condition);
        ExpStatus { exp_id: exp.id.clone(), status: Some(status), ana_state, gone }
    }

    /// What is there and is never to be created again.
    fn records(&self) -> BTreeSet<String> {
        let mut records = BTreeSet::new();
        for leg in &self.want.legs {
            if self.settled.actual.known(&Id::Lvstore(self.da, leg.leg)).is_some() {
                records.insert(leg_record(self.da, leg.leg));
            }
            if self.settled.actual.known(&Id::Volume(self.da, leg.leg)).is_some() {
                records.insert(volume_record(self.da));
            }
        }
        records
    }

    fn all_records(&self) -> BTreeSet<String> {
        let legs = self.want.legs.iter().map(|leg| leg_record(self.da, leg.leg));
        legs.chain([volume_record(self.da)]).collect()
    }
}
