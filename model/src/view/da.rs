//! Disk arrays and exporters.

use vda_proto::v1::{self, Condition, PartStatus, ResourceStatus};

use super::{blocked, part, plain, words};

/// A controller of the DA.
#[derive(Debug, Clone, Copy)]
pub struct CntlrPart<'a> {
    pub place: &'a v1::CntlrPlace,
    /// Highest revision among the DA's records on the CN: what must have been observed. 0: none was found.
    pub revision: u64,
    pub status: Option<&'a v1::CntlrStatus>,
    /// State of its CN.
    pub node: &'a ResourceStatus,
}

/// The DA's virtual disks on one DN.
#[derive(Debug, Clone, Copy)]
pub struct SharePart<'a> {
    pub dn_address: &'a str,
    pub status: Option<&'a v1::ShareStatus>,
    /// State of its DN.
    pub node: &'a ResourceStatus,
}

/// All that the state of a DA is derived from.
#[derive(Debug, Clone, Copy)]
pub struct DaParts<'a> {
    pub cntlrs: &'a [CntlrPart<'a>],
    pub shares: &'a [SharePart<'a>],
}

/// The state of a DA. What its primary controller says decides; where that is not READY, the first thing in the way is named: the
/// controller's node, a disk node, a virtual disk, then the controller's own words.
pub fn array(parts: DaParts<'_>) -> ResourceStatus {
    let Some(primary) = parts.cntlrs.iter().find(|c| c.place.primary) else {
        return blocked("a controller: the DA has none", 0);
    };
    if primary.node.condition() != Condition::Ready {
        return blocked(words(primary.node), primary.node.since_ms);
    }
    let observed = primary.status.filter(|s| s.observed_revision >= primary.revision);
    let status = observed.and_then(|s| s.status.as_ref());
    if let Some(serving) = status.filter(|s| matches!(s.condition(), Condition::Ready | Condition::Degraded))
    {
        return serving.clone();
    }
    in_the_way(parts.shares).or_else(|| status.cloned()).unwrap_or_else(|| plain(Condition::Pending))
}

fn in_the_way(shares: &[SharePart<'_>]) -> Option<ResourceStatus> {
    let node = shares.iter().find(|s| s.node.condition() != Condition::Ready);
    let failed = || {
        let vds =
            shares.iter().flat_map(|s| s.status.iter().flat_map(|status| &status.vds).map(move |vd| (s, vd)));
        vds.filter_map(|(share, vd)| Some((share, vd, vd.status.as_ref()?)))
            .find(|(.., status)| matches!(status.condition(), Condition::Failed | Condition::Blocked))
    };
    match node {
        Some(share) => Some(blocked(words(share.node), share.node.since_ms)),
        None => failed().map(|(share, vd, status)| {
            let on = format!("DN {}: vd {}: {}", share.dn_address, vd.vd_id, words(status));
            ResourceStatus { on, ..status.clone() }
        }),
    }
}

impl DaParts<'_> {
    /// Everything of a DA that has a state of its own, for display.
    pub fn list(self) -> Vec<PartStatus> {
        let nodes = self.cntlrs.iter().map(|c| part(format!("cn {}", c.place.cn_address), c.node));
        let dns = self.shares.iter().map(|s| part(format!("dn {}", s.dn_address), s.node));
        let reported = self.cntlrs.iter().filter_map(|c| c.status).flat_map(|s| s.parts.iter().cloned());
        let vds = self.shares.iter().filter_map(|s| Some((s, s.status?))).flat_map(|(share, status)| {
            status.vds.iter().map(move |vd| {
                let unknown = ResourceStatus::default();
                part(
                    format!("vd {} on dn {}", vd.vd_id, share.dn_address),
                    vd.status.as_ref().unwrap_or(&unknown),
                )
            })
        });
        nodes.chain(dns).chain(reported).chain(vds).collect()
    }
}

/// The state of an EXP of a DA in state `array`: what the primary controller says of it, or what is in the way of the DA.
pub fn exporter(exp_id: &str, array: &ResourceStatus, cntlrs: &[CntlrPart<'_>]) -> ResourceStatus {
    let primary = cntlrs.iter().find(|c| c.place.primary);
    let observed = primary.and_then(|c| c.status.filter(|s| s.observed_revision >= c.revision));
    let exp =
        observed.and_then(|s| s.exps.iter().find(|e| e.exp_id == exp_id)).and_then(|e| e.status.clone());
    let serving = matches!(array.condition(), Condition::Ready | Condition::Degraded);
    match exp {
        Some(status) if serving || status.condition() == Condition::Failed => status,
        _ if serving => plain(Condition::Pending),
        _ => array.clone(),
    }
}
