//! What a node's report means for its books: totals come from the lvstore as its DN measured it, never from a guess.

use vda_proto::v1;

use crate::{delta::Delta, ids::DnId, keys::DnCapacityKey};

/// The books of a DN after it reported its PDs; `None`: they stay as they are. A PD that is not usable at the moment keeps its totals:
/// what was promised on it is still promised.
pub fn capacity(dn: DnId, books: &v1::DnCapacity, status: &v1::DnStatus) -> Option<Delta> {
    let mut changed = books.clone();
    for pd in &mut changed.pds {
        let report = status.pds.iter().find(|p| p.pd_id == pd.pd_id);
        if let Some(report) = report.filter(|r| r.initialised && r.cluster_bytes > 0 && r.total_bytes > 0) {
            pd.cluster_bytes = report.cluster_bytes;
            pd.total_bytes = report.total_bytes;
        }
    }
    if changed == *books {
        return None;
    }
    let mut delta = Delta::default();
    delta.put(DnCapacityKey(dn), changed);
    Some(delta)
}
