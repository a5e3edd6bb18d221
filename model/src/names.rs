//! What VDA's objects are called in a data plane, and back.
//!
//! An agent decides ownership by parsing: a name that does not parse here is foreign and never touched. Hence every name has one
//! spelling (`parse(render(x)) == x` and `render(parse(s)) == s`), and no two things share one within a namespace.

mod rules;

use std::fmt;

pub use rules::{
    BadName, MAX_NQN_BYTES, MAX_REQUEST_ID_BYTES, MAX_USER_NAME_BYTES, check_host_nqn, check_node_address,
    check_request_id, check_user_name,
};

use crate::ids::{BootId, CntlrId, DaId, ExpId, PdId, VdId};

const NQN: &str = "nqn.2016-06.io.vda:";

/// Where a name lives. The same text may name different things in different namespaces.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Namespace {
    /// Bdev names and aliases (`bdev_get_bdevs`: `name`, `aliases`).
    Bdev,
    /// Lvstore names (`bdev_lvol_get_lvstores`: `name`).
    Lvstore,
    /// Lvol names within their lvstore (`bdev_lvol_create`: `lvol_name`); their bdev's alias is `lvstore/lvol`.
    Lvol,
    /// Names of NVMe controllers (`bdev_nvme_get_controllers`: `name`).
    NvmeController,
    /// NQNs of subsystems and hosts.
    Nqn,
}

/// A place in a disk array: stripe `stripe` of group `group` of leg `leg`, each counted from 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SetPosition {
    pub leg: u32,
    pub group: u32,
    pub stripe: u32,
}

/// A name of ours. `Display` renders it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum OwnedName {
    /// Bdev under a PD's lvstore, made by malloc, aio or uring.
    PdBdev(PdId),
    /// NVMe controller of a PD that is a PCIe disk.
    PdNvmeController(PdId),
    /// Bdev (namespace 1) of a PD that is a PCIe disk.
    PdNvmeBdev(PdId),
    /// Lvstore of a PD.
    PdLvstore(PdId),
    /// Lvol of a VD, by its name within the lvstore.
    VdLvol(VdId),
    /// Lvol of a VD, by its bdev alias.
    VdBdev(PdId, VdId),
    /// Subsystem through which a VD is exported to its controller. That of a mirrored VD has the boot of its node in its name: after a loss of
    /// power there is no subsystem of the old name, so no initiator comes back by itself to what may lack acknowledged writes (ADR 0091).
    VdSubsystem(VdId, Option<BootId>),
    /// Host NQN with which a controller attaches the VDs of a leg it owns since `epoch`.
    Owner { cntlr: CntlrId, leg: u32, epoch: u64 },
    /// NVMe controller by which a CN has attached a VD.
    AttachedController(DaId, VdId),
    /// Bdev by which a CN sees an attached VD.
    AttachedBdev(DaId, VdId),
    /// raid1 of a mirror set.
    MirrorSet(DaId, SetPosition),
    /// Null bdev that fills slot `slot` of a mirror set while it is created: the spare slot, and those of members that come later.
    SparePlaceholder { da: DaId, set: SetPosition, slot: u32 },
    /// raid0 of a group.
    Group { da: DaId, leg: u32, group: u32 },
    /// Concat of a leg's groups.
    Concat { da: DaId, leg: u32 },
    /// Lvstore of a leg.
    LegLvstore { da: DaId, leg: u32 },
    /// Volume lvol, by its name within the leg's lvstore.
    VolumeLvol(DaId),
    /// Volume lvol, by its bdev alias.
    VolumeBdev { da: DaId, leg: u32 },
    /// Subsystem of an EXP. With its id: a host that still knows a deleted EXP never meets another volume under the same names, and a
    /// controller that is still being cleaned up never touches the new one.
    ExpSubsystem { da_name: String, exp_name: String, exp: ExpId },
}

impl OwnedName {
    /// The namespace the name belongs to.
    pub const fn namespace(&self) -> Namespace {
        match self {
            Self::PdNvmeController(_) | Self::AttachedController(..) => Namespace::NvmeController,
            Self::PdLvstore(_) | Self::LegLvstore { .. } => Namespace::Lvstore,
            Self::VdLvol(_) | Self::VolumeLvol(_) => Namespace::Lvol,
            Self::VdSubsystem(..) | Self::Owner { .. } | Self::ExpSubsystem { .. } => Namespace::Nqn,
            Self::PdBdev(_)
            | Self::PdNvmeBdev(_)
            | Self::VdBdev(..)
            | Self::AttachedBdev(..)
            | Self::MirrorSet(..)
            | Self::SparePlaceholder { .. }
            | Self::Group { .. }
            | Self::Concat { .. }
            | Self::VolumeBdev { .. } => Namespace::Bdev,
        }
    }

    /// The disk array a name carries, if it carries one.
    pub const fn da(&self) -> Option<DaId> {
        match self {
            Self::AttachedController(da, _)
            | Self::AttachedBdev(da, _)
            | Self::MirrorSet(da, _)
            | Self::SparePlaceholder { da, .. }
            | Self::Group { da, .. }
            | Self::Concat { da, .. }
            | Self::LegLvstore { da, .. }
            | Self::VolumeLvol(da)
            | Self::VolumeBdev { da, .. } => Some(*da),
            Self::PdBdev(_)
            | Self::PdNvmeController(_)
            | Self::PdNvmeBdev(_)
            | Self::PdLvstore(_)
            | Self::VdLvol(_)
            | Self::VdBdev(..)
            | Self::VdSubsystem(..)
            | Self::Owner { .. }
            | Self::ExpSubsystem { .. } => None,
        }
    }

    /// What `name` names in `namespace`; `None`: nothing of ours.
    pub fn parse(namespace: Namespace, name: &str) -> Option<Self> {
        match namespace {
            Namespace::Bdev => parse_bdev(name),
            Namespace::Lvstore => parse_lvstore(name),
            Namespace::Lvol => parse_lvol(name),
            Namespace::NvmeController => parse_nvme_controller(name),
            Namespace::Nqn => parse_nqn(name),
        }
    }
}

impl fmt::Display for OwnedName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::PdBdev(pd) | Self::PdNvmeController(pd) => write!(f, "vda-pd-{pd}"),
            Self::PdNvmeBdev(pd) => write!(f, "vda-pd-{pd}n1"),
            Self::PdLvstore(pd) => write!(f, "vda-pdlvs-{pd}"),
            Self::VdLvol(vd) => write!(f, "vda-vd-{vd}"),
            Self::VdBdev(pd, vd) => write!(f, "vda-pdlvs-{pd}/vda-vd-{vd}"),
            Self::VdSubsystem(vd, None) => write!(f, "{NQN}vd:{vd}"),
            Self::VdSubsystem(vd, Some(boot)) => write!(f, "{NQN}vd:{vd}:{boot}"),
            Self::Owner { cntlr, leg, epoch } => write!(f, "{NQN}cntlr:{cntlr}:{leg}:{epoch}"),
            Self::AttachedController(da, vd) => write!(f, "vda-nc-{da}-{vd}"),
            Self::AttachedBdev(da, vd) => write!(f, "vda-nc-{da}-{vd}n1"),
            Self::MirrorSet(da, p) => write!(f, "vda-r1-{da}-{}-{}-{}", p.leg, p.group, p.stripe),
            Self::SparePlaceholder { da, set, slot } => {
                write!(f, "vda-sp-{da}-{}-{}-{}-{slot}", set.leg, set.group, set.stripe)
            }
            Self::Group { da, leg, group } => write!(f, "vda-r0-{da}-{leg}-{group}"),
            Self::Concat { da, leg } => write!(f, "vda-cc-{da}-{leg}"),
            Self::LegLvstore { da, leg } => write!(f, "vda-lglvs-{da}-{leg}"),
            Self::VolumeLvol(da) => write!(f, "vda-vol-{da}"),
            Self::VolumeBdev { da, leg } => write!(f, "vda-lglvs-{da}-{leg}/vda-vol-{da}"),
            Self::ExpSubsystem { da_name, exp_name, exp } => write!(f, "{NQN}exp:{da_name}:{exp_name}:{exp}"),
        }
    }
}

/// The bdev under a PD's lvstore, for a PD with this backend: `nvme` disks carry their namespace in the name.
pub const fn pd_base_bdev(pd: PdId, nvme: bool) -> OwnedName {
    if nvme { OwnedName::PdNvmeBdev(pd) } else { OwnedName::PdBdev(pd) }
}

/// A decimal number in its only spelling: no sign, no leading zeros.
fn number<T: std::str::FromStr + fmt::Display>(text: &str) -> Option<T> {
    let value: T = text.parse().ok()?;
    (value.to_string() == text).then_some(value)
}

/// `{da}-{n}` … with exactly `N` numbers.
fn da_and_numbers<const N: usize>(rest: &str) -> Option<(DaId, [u32; N])> {
    let mut parts = rest.split('-');
    let da = parts.next()?.parse().ok()?;
    let mut numbers = [0; N];
    for slot in &mut numbers {
        *slot = number(parts.next()?)?;
    }
    parts.next().is_none().then_some((da, numbers))
}

fn da_and_position(rest: &str) -> Option<(DaId, SetPosition)> {
    let (da, [leg, group, stripe]) = da_and_numbers(rest)?;
    Some((da, SetPosition { leg, group, stripe }))
}

fn da_and_vd(rest: &str) -> Option<(DaId, VdId)> {
    let (da, vd) = rest.split_once('-')?;
    Some((da.parse().ok()?, vd.parse().ok()?))
}

fn parse_bdev(name: &str) -> Option<OwnedName> {
    if let Some((lvstore, lvol)) = name.split_once('/') {
        return match (parse_lvstore(lvstore)?, parse_lvol(lvol)?) {
            (OwnedName::PdLvstore(pd), OwnedName::VdLvol(vd)) => Some(OwnedName::VdBdev(pd, vd)),
            (OwnedName::LegLvstore { da, leg }, OwnedName::VolumeLvol(of)) if of == da => {
                Some(OwnedName::VolumeBdev { da, leg })
            }
            _ => None,
        };
    }
    let (kind, rest) = name.strip_prefix("vda-")?.split_once('-')?;
    match kind {
        "pd" => match rest.strip_suffix("n1") {
            Some(pd) => pd.parse().ok().map(OwnedName::PdNvmeBdev),
            None => rest.parse().ok().map(OwnedName::PdBdev),
        },
        "nc" => da_and_vd(rest.strip_suffix("n1")?).map(|(da, vd)| OwnedName::AttachedBdev(da, vd)),
        "r1" => da_and_position(rest).map(|(da, p)| OwnedName::MirrorSet(da, p)),
        "sp" => {
            let (da, [leg, group, stripe, slot]) = da_and_numbers(rest)?;
            Some(OwnedName::SparePlaceholder { da, set: SetPosition { leg, group, stripe }, slot })
        }
        "r0" => da_and_numbers(rest).map(|(da, [leg, group])| OwnedName::Group { da, leg, group }),
        "cc" => da_and_numbers(rest).map(|(da, [leg])| OwnedName::Concat { da, leg }),
        _ => None,
    }
}

fn parse_lvstore(name: &str) -> Option<OwnedName> {
    if let Some(pd) = name.strip_prefix("vda-pdlvs-") {
        return pd.parse().ok().map(OwnedName::PdLvstore);
    }
    let (da, [leg]) = da_and_numbers(name.strip_prefix("vda-lglvs-")?)?;
    Some(OwnedName::LegLvstore { da, leg })
}

fn parse_lvol(name: &str) -> Option<OwnedName> {
    if let Some(vd) = name.strip_prefix("vda-vd-") {
        return vd.parse().ok().map(OwnedName::VdLvol);
    }
    name.strip_prefix("vda-vol-")?.parse().ok().map(OwnedName::VolumeLvol)
}

fn parse_nvme_controller(name: &str) -> Option<OwnedName> {
    if let Some(pd) = name.strip_prefix("vda-pd-") {
        return pd.parse().ok().map(OwnedName::PdNvmeController);
    }
    da_and_vd(name.strip_prefix("vda-nc-")?).map(|(da, vd)| OwnedName::AttachedController(da, vd))
}

fn parse_nqn(name: &str) -> Option<OwnedName> {
    let mut parts = name.strip_prefix(NQN)?.split(':');
    let owned = match parts.next()? {
        "vd" => {
            let vd = parts.next()?.parse().ok()?;
            OwnedName::VdSubsystem(vd, parts.next().map(str::parse).transpose().ok()?)
        }
        "cntlr" => OwnedName::Owner {
            cntlr: parts.next()?.parse().ok()?,
            leg: number(parts.next()?)?,
            epoch: number(parts.next()?)?,
        },
        "exp" => {
            let (da_name, exp_name) = (parts.next()?, parts.next()?);
            check_user_name("da_name", da_name).ok()?;
            check_user_name("exp_name", exp_name).ok()?;
            OwnedName::ExpSubsystem {
                da_name: da_name.to_owned(),
                exp_name: exp_name.to_owned(),
                exp: parts.next()?.parse().ok()?,
            }
        }
        _ => return None,
    };
    parts.next().is_none().then_some(owned)
}

#[cfg(test)]
mod tests;
