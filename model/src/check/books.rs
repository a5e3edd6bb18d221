//! The books balance.

use std::collections::BTreeMap;

use vda_proto::v1;

use super::Findings;
use crate::{
    ids::DnId,
    keys::{CnCapacityKey, CnSpecKey, CntlrSpecKey, DnCapacityKey, DnShareKey, DnSpecKey, Key, PdSpecKey},
    snapshot::Snapshot,
    transitions::qos,
};

/// What one PD has promised, counted from the shares.
#[derive(Default, Clone, Copy)]
struct Promised {
    bytes: u64,
    live: u32,
    deleting: u32,
    qos: v1::Qos,
}

fn promised(snapshot: &Snapshot) -> BTreeMap<(DnId, String), Promised> {
    let mut sums: BTreeMap<(DnId, String), Promised> = BTreeMap::new();
    for (DnShareKey(dn, _), share) in snapshot.all::<DnShareKey>() {
        for vd in &share.value.vds {
            let sum = sums.entry((dn, vd.pd_id.clone())).or_default();
            sum.bytes = sum.bytes.saturating_add(vd.size_bytes);
            sum.live += u32::from(!share.value.deleting);
            sum.deleting += u32::from(share.value.deleting);
            sum.qos = qos::plus(&sum.qos, &vd.qos.unwrap_or_default());
        }
    }
    sums
}

/// `DnCapacity` says what the shares and the specs say.
pub(crate) fn disk_nodes(snapshot: &Snapshot, findings: &mut Findings) {
    let mut promised = promised(snapshot);
    for (key, books) in snapshot.all::<DnCapacityKey>() {
        let (at, books) = (key.any(), books.value);
        match snapshot.get(&DnSpecKey(key.0)) {
            None => findings.add(&at, "books of a DN that does not exist"),
            Some(spec) => {
                let spec = spec.value;
                findings.require(books.offline == (spec.offline || spec.deleting), &at, || {
                    "offline differs from the spec".into()
                });
                findings.require(books.location == spec.location, &at, || {
                    "location differs from the spec".into()
                });
                findings
                    .require(books.address == spec.address, &at, || "address differs from the spec".into());
            }
        }
        for pd in &books.pds {
            let sum = promised.remove(&(key.0, pd.pd_id.clone())).unwrap_or_default();
            let at = format!("{at} PD {}", pd.pd_name);
            disk(snapshot, key.0, pd, &at, findings);
            balance(pd, &sum, &at, findings);
        }
    }
    for ((dn, pd), _) in promised {
        findings.add(DnCapacityKey(dn).any(), format!("shares use PD {pd}, which is not in the books"));
    }
}

fn disk(snapshot: &Snapshot, dn: DnId, pd: &v1::PdCapacity, at: &str, findings: &mut Findings) {
    let spec = pd.pd_id.parse().ok().and_then(|id| snapshot.get(&PdSpecKey(dn, id)));
    let Some(spec) = spec.map(|s| s.value) else {
        findings.add(at, "in the books without a spec");
        return;
    };
    findings.require(pd.pd_name == spec.pd_name, at, || "name differs from the spec".into());
    findings.require(pd.offline == (spec.offline || spec.deleting), at, || {
        "offline differs from the spec".into()
    });
    findings
        .require(!spec.deleting || pd.live_vds == 0, at, || "being deleted with live virtual disks".into());
    findings.require(pd.qos_budget == spec.qos_budget, at, || "QoS budget differs from the spec".into());
}

fn balance(pd: &v1::PdCapacity, sum: &Promised, at: &str, findings: &mut Findings) {
    let differs =
        |what: &str, books: u64, counted: u64| format!("{what} is {books}, the shares have {counted}");
    findings.require(pd.used_bytes == sum.bytes, at, || differs("used_bytes", pd.used_bytes, sum.bytes));
    findings
        .require(pd.live_vds == sum.live, at, || differs("live_vds", pd.live_vds.into(), sum.live.into()));
    let deleting = (pd.deleting_vds, sum.deleting);
    findings.require(deleting.0 == deleting.1, at, || {
        differs("deleting_vds", deleting.0.into(), deleting.1.into())
    });
    findings.require(pd.qos_used.unwrap_or_default() == sum.qos, at, || {
        "qos_used differs from the shares' sum".into()
    });
    findings.require(pd.used_bytes <= pd.total_bytes, at, || {
        format!("used_bytes {} exceeds total_bytes {}", pd.used_bytes, pd.total_bytes)
    });
}

/// `CnCapacity` says what the controllers and the specs say.
pub(crate) fn controller_nodes(snapshot: &Snapshot, findings: &mut Findings) {
    for (key, books) in snapshot.all::<CnCapacityKey>() {
        let (at, books) = (key.any(), books.value);
        match snapshot.get(&CnSpecKey(key.0)) {
            None => findings.add(&at, "books of a CN that does not exist"),
            Some(spec) => {
                let spec = spec.value;
                findings.require(books.offline == (spec.offline || spec.deleting), &at, || {
                    "offline differs from the spec".into()
                });
                findings.require(books.location == spec.location, &at, || {
                    "location differs from the spec".into()
                });
                findings.require(!spec.deleting || books.live_cntlrs == 0, &at, || {
                    "being deleted with live controllers".into()
                });
            }
        }
        let (mut live, mut deleting) = (0, 0);
        for (_, cntlr) in snapshot.all::<CntlrSpecKey>().filter(|(k, _)| k.0 == key.0) {
            *(if cntlr.value.deleting { &mut deleting } else { &mut live }) += 1;
        }
        let same = (books.live_cntlrs, books.deleting_cntlrs) == (live, deleting);
        findings.require(same, &at, || {
            format!(
                "has {}+{} controllers in the books, {live}+{deleting} in fact",
                books.live_cntlrs, books.deleting_cntlrs
            )
        });
    }
}
