//! From a controller's desired state to its resources.

use std::collections::BTreeSet;

use vda_model::ids::{DaId, VdId};
use vda_model::names::OwnedName;
use vda_reconcile::parts::export::{ExportSpec, NamespaceSpec};
use vda_reconcile::parts::lvol::LvolSpec;
use vda_reconcile::parts::lvstore::Format;
use vda_reconcile::{Desired, Refusal};
use vda_spdk::{BdevNvmeAttachController, BdevRaidCreate, MultipathMode, RaidLevel};

use crate::mirror::{MemberSpec, MirrorSpec, Source};
use crate::resources::{Array, Id, Spec, member_bdev};
use crate::want::{ExpWant, GroupWant, LegWant, MemberWant, SetWant, Want};

/// Seconds after which I/O to a lost member fails and the mirror set goes on without it. Less than the reconnect delay is refused.
const FAST_IO_FAIL_SEC: u32 = 2;
/// Seconds between two attempts to reach a lost member.
const RECONNECT_DELAY_SEC: u32 = 1;

/// What the agent's own ledger knows.
pub(crate) trait Initialised {
    /// The lvstore of a leg was created once.
    fn leg(&self, da: DaId, leg: u32) -> bool;
    /// The volume was created once.
    fn volume(&self, da: DaId) -> bool;
}

/// The resources of a controller.
pub(crate) fn desired(
    da: DaId,
    want: &Want,
    ledger: &impl Initialised,
    refusal: Option<Refusal>,
) -> Desired<Array> {
    let mut desired = Desired::default();
    let Some(first) = want.legs.first() else { return desired };
    let volume = Id::Volume(da, first.leg);
    for leg in &want.legs {
        add_leg(&mut desired, da, leg, ledger.leg(da, leg.leg));
    }
    let lvol = volume_spec(da, want, first);
    let initialised = ledger.volume(da) || first.known.as_ref().is_some_and(|known| known.initialised);
    desired.want(volume.clone(), Spec::Volume { lvol, initialised }, [Id::Lvstore(da, first.leg)]);
    for exp in &want.exps {
        let id = Id::Export(exp.nqn.clone());
        if exp.deleting {
            desired.erase.insert(id);
            continue;
        }
        let spec = match &refusal {
            Some(refusal) => Spec::Never(refusal.clone()),
            None => {
                Spec::Export { export: Box::new(export_spec(want, exp, &volume)), volume: volume.clone() }
            }
        };
        desired.want(id, spec, [volume.clone()]);
    }
    if want.deleting || !want.primary {
        desired.erase = desired.own_ids();
        desired.wants.clear();
    }
    desired
}

fn add_leg(desired: &mut Desired<Array>, da: DaId, leg: &LegWant, in_ledger: bool) {
    let initialised = in_ledger || leg.known.as_ref().is_some_and(|known| known.initialised);
    let groups: Vec<Id> =
        leg.groups.iter().map(|group| add_group(desired, da, leg, group, initialised)).collect();
    let base = match groups.as_slice() {
        [only] => only.clone(),
        _ => {
            let concat = Id::Concat(da, leg.leg);
            let strip = leg.groups.first().map(|group| group.strip_size_kib);
            add_stack(desired, &concat, RaidLevel::Concat, strip, groups);
            concat
        }
    };
    let spec = Spec::Lvstore {
        bdev: base.name(),
        initialised,
        format: Format {
            cluster_bytes: leg.cluster_bytes,
            md_pages_per_cluster_ratio: Some(leg.md_pages_per_cluster_ratio).filter(|ratio| *ratio > 0),
            // VDs are thin, and new: they read as zeroes.
            blank: true,
        },
    };
    desired.want(Id::Lvstore(da, leg.leg), spec, [base]);
}

/// Answers what the group is seen as.
fn add_group(
    desired: &mut Desired<Array>,
    da: DaId,
    leg: &LegWant,
    group: &GroupWant,
    initialised: bool,
) -> Id {
    let mirrors: Vec<Id> = group.sets.iter().map(|set| add_set(desired, da, leg, set, initialised)).collect();
    match mirrors.as_slice() {
        [only] => only.clone(),
        _ => {
            let id = Id::Group(da, leg.leg, group.group);
            add_stack(desired, &id, RaidLevel::Raid0, Some(group.strip_size_kib), mirrors);
            id
        }
    }
}

fn add_stack(
    desired: &mut Desired<Array>,
    id: &Id,
    level: RaidLevel,
    strip_kib: Option<u32>,
    bases: Vec<Id>,
) {
    let names: Vec<String> = bases.iter().map(Id::name).collect();
    let create = BdevRaidCreate { strip_size_kb: strip_kib, ..BdevRaidCreate::new(id.name(), level, names) };
    desired.want(id.clone(), Spec::Stack(Box::new(create)), bases);
}

fn add_set(desired: &mut Desired<Array>, da: DaId, leg: &LegWant, set: &SetWant, initialised: bool) -> Id {
    for member in &set.members {
        let id = Id::Member(da, member.vd);
        let attach = attach(&id, leg, member, set.members.len() > 1);
        desired.want(id, Spec::Member(Box::new(attach)), []);
    }
    for slot in 0..=u32::try_from(set.members.len()).unwrap_or(0) {
        desired.want(Id::Spare(da, set.position, slot), Spec::Spare(set.position), []);
    }
    let id = Id::Mirror(da, set.position);
    let source = source(leg, set, initialised);
    let needs: Vec<Id> = match &source {
        Source::Blank => set.members.iter().map(|member| Id::Member(da, member.vd)).collect(),
        Source::Elected(vd) => vec![Id::Member(da, *vd)],
        Source::Undecided | Source::Lost => Vec::new(),
    };
    let member = |m: &MemberWant| MemberSpec { vd: m.vd, bdev: member_bdev(da, m.vd), nqn: m.nqn.clone() };
    let members = set.members.iter().map(member).collect();
    let known = leg.known.as_ref().filter(|known| known.initialised);
    let of_set = |vd: &VdId| set.members.iter().any(|m| m.vd == *vd);
    let recorded = known.iter().flat_map(|k| &k.in_sync).copied().filter(of_set).collect();
    let size_bytes = set.members.iter().map(|member| member.size_bytes).min().unwrap_or(0);
    desired.want(id.clone(), Spec::Mirror(MirrorSpec { members, source, recorded, size_bytes }), needs);
    id
}

/// Which members a set that is not assembled can be assembled from.
pub(crate) fn source(leg: &LegWant, set: &SetWant, initialised: bool) -> Source {
    if !initialised {
        return Source::Blank;
    }
    let Some(known) = leg.known.as_ref().filter(|known| known.initialised) else {
        // The agent knows that there is data, but nobody has recorded yet which members are in sync.
        return match set.members.as_slice() {
            [only] => Source::Elected(only.vd),
            _ => Source::Undecided,
        };
    };
    let mut in_sync = set.members.iter().map(|m| m.vd).filter(|vd| known.in_sync.contains(vd));
    match (in_sync.next(), in_sync.next()) {
        (None, _) => Source::Lost,
        (Some(only), None) => Source::Elected(only),
        (Some(_), Some(_)) => Source::Undecided,
    }
}

fn attach(id: &Id, leg: &LegWant, member: &MemberWant, mirrored: bool) -> BdevNvmeAttachController {
    BdevNvmeAttachController {
        adrfam: member.address.adrfam.clone(),
        trsvcid: member.address.trsvcid.clone(),
        subnqn: member.nqn.clone(),
        hostnqn: Some(leg.owner.clone()),
        multipath: Some(MultipathMode::Multipath),
        // A member that is lost stays attached and is connected to again for ever; the host of an unmirrored array waits meanwhile.
        ctrlr_loss_timeout_sec: Some(-1),
        reconnect_delay_sec: Some(RECONNECT_DELAY_SEC),
        fast_io_fail_timeout_sec: Some(if mirrored { FAST_IO_FAIL_SEC } else { 0 }),
        ..BdevNvmeAttachController::new(
            id.name(),
            member.address.trtype.clone(),
            member.address.traddr.clone(),
        )
    }
}

fn volume_spec(da: DaId, want: &Want, leg: &LegWant) -> LvolSpec {
    LvolSpec {
        lvstore: Id::Lvstore(da, leg.leg).name(),
        name: OwnedName::VolumeLvol(da).to_string(),
        size_bytes: want.size_bytes,
        limits: want.limits,
    }
}

fn export_spec(want: &Want, exp: &ExpWant, volume: &Id) -> ExportSpec {
    ExportSpec {
        nqn: exp.nqn.clone(),
        serial_number: exp.serial_number.clone(),
        model_number: exp.model_number.clone(),
        cntlids: Some(exp.cntlids),
        max_namespaces: 1,
        ana: Some(exp.ana),
        hosts: exp.hosts.iter().cloned().collect::<BTreeSet<_>>(),
        listener: want.listener.clone(),
        namespace: NamespaceSpec { bdev: volume.name(), uuid: exp.ns_uuid, nguid: exp.ns_nguid.clone() },
    }
}
