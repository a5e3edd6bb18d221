//! Where the virtual disks and the controller of a new array go.
//!
//! Hard rules first, each failure recorded for every candidate; then the least `Score` wins. The order of its fields is the policy.
//! A mirror never takes places that cost more than itself (`room`). Two passes: by policy, and if that paints itself into a corner, by
//! where most room is left.

mod refusal;
mod room;

use std::{cmp::Reverse, collections::BTreeMap};

use vda_proto::v1;

pub use refusal::{Refusal, RefusedCandidate, Rule};

use room::{NextSet, Rooms};

use crate::{
    defaults::{MAX_DNS_PER_DA, SPREAD},
    ids::{CnId, DnId, PdId},
    requests::NewDa,
    sizes::round_up,
    transitions::qos,
    view,
};

/// A DN that may take virtual disks.
#[derive(Debug, Clone, Copy)]
pub struct DnCandidate<'a> {
    pub dn: DnId,
    pub capacity: &'a v1::DnCapacity,
    pub status: Option<&'a v1::DnStatus>,
}

/// A CN that may take a controller.
#[derive(Debug, Clone, Copy)]
pub struct CnCandidate<'a> {
    pub cn: CnId,
    pub capacity: &'a v1::CnCapacity,
    pub status: Option<&'a v1::CnStatus>,
}

/// One chosen place of a virtual disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Slot {
    pub dn: DnId,
    pub pd: PdId,
}

/// Chosen places: `sets[stripe][replica]`, and the controller's node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Placement {
    pub sets: Vec<Vec<Slot>>,
    pub cn: CnId,
}

/// Order of preference among PDs that could take a disk; the least is the best.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Score {
    /// Second pass only: disks that still fit into the location.
    location_room: Reverse<u64>,
    /// A node that does not answer is the last resort: the array would wait for it.
    not_ready: bool,
    /// Another mirror of this kind would lose its last place.
    wastes: bool,
    /// Disks of this array on the same PD, on the same DN: an array spreads as far as it can.
    siblings_on_pd: u32,
    siblings_on_dn: u32,
    /// Used share in parts per billion.
    used_ppb: u64,
    /// So that the choice does not depend on the order of candidates.
    pd: PdId,
}

/// The failure domain of a DN: its location, or itself.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Domain<'a> {
    Location(&'a str),
    Dn(DnId),
}

/// A PD while an array is being placed.
struct Pd<'a> {
    dn: DnId,
    pd: PdId,
    domain: Domain<'a>,
    address: &'a str,
    capacity: &'a v1::PdCapacity,
    /// Rules that fail whatever is placed.
    failed: Vec<Rule>,
    not_ready: bool,
    vd_bytes: u64,
    promise: v1::Qos,
    siblings: u32,
}

impl Pd<'_> {
    fn free(&self) -> u64 {
        let used = self.capacity.used_bytes.saturating_add(self.vd_bytes * u64::from(self.siblings));
        self.capacity.total_bytes.saturating_sub(used)
    }

    /// Promised I/O, with that of this array's disks.
    fn qos_used(&self) -> v1::Qos {
        qos::plus(&self.capacity.qos_used.unwrap_or_default(), &qos::times(&self.promise, self.siblings))
    }

    /// Disks of this array's kind that still fit.
    fn room(&self) -> u64 {
        if !self.failed.is_empty() {
            return 0;
        }
        let budget = self.capacity.qos_budget.unwrap_or_default();
        qos::lasts(&budget, &self.qos_used(), &self.promise).min(self.free() / self.vd_bytes.max(1))
    }

    fn ppb(&self, bytes: u64) -> u64 {
        let share = u128::from(bytes) * 1_000_000_000 / u128::from(self.capacity.total_bytes.max(1));
        u64::try_from(share).unwrap_or(u64::MAX)
    }
}

/// Chooses places for `da` on these nodes. `seed` spreads portals over equally good places; 0 always takes the best.
///
/// # Errors
/// The rules every candidate failed.
pub fn place(
    da: &NewDa,
    dns: &[DnCandidate<'_>],
    cns: &[CnCandidate<'_>],
    seed: u64,
) -> Result<Placement, Box<Refusal>> {
    let cn = place_cntlr(cns, seed)?;
    let sets = place_sets(da, dns, seed, false)
        .or_else(|first| place_sets(da, dns, seed, true).map_err(|_| first))?;
    Ok(Placement { sets, cn })
}

/// What a placement costs beyond itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cost {
    /// The most mirror sets of this kind that fit before it.
    pub sets_before: u64,
    /// Those that no longer fit after it although it does not need their places; 0 unless more important rules leave no other choice,
    /// or the places were chosen when the nodes were not as they are here.
    pub wasted: u64,
}

/// What taking these places costs on these nodes.
pub fn cost(da: &NewDa, dns: &[DnCandidate<'_>], placement: &Placement) -> Cost {
    let mut pds = pds(da, dns);
    let before = Rooms::of(&pds, da.replicas);
    for slot in placement.sets.iter().flatten() {
        if let Some(pd) = pds.iter_mut().find(|pd| pd.pd == slot.pd) {
            pd.siblings += 1;
        }
    }
    let (sets_before, sets_after) = (before.sets(), before.again(&pds, da.replicas).sets());
    Cost { sets_before, wasted: sets_before.saturating_sub(sets_after + u64::from(da.stripes)) }
}

fn place_cntlr(cns: &[CnCandidate<'_>], seed: u64) -> Result<CnId, Box<Refusal>> {
    let mut fit = Vec::new();
    let mut refused = Vec::new();
    for candidate in cns {
        let books = candidate.capacity;
        let taken = books.live_cntlrs + books.deleting_cntlrs;
        let mut failed = Vec::new();
        if books.offline {
            failed.push(Rule::Offline);
        }
        if taken >= books.max_cntlrs {
            failed.push(Rule::CntlrLimit { taken, limit: books.max_cntlrs });
        }
        if failed.is_empty() {
            let not_ready = !view::node_ready(
                candidate.status.and_then(|s| s.agent.as_ref()),
                candidate.status.and_then(|s| s.target.as_ref()),
            );
            let used_ppb = u64::from(taken) * 1_000_000_000 / u64::from(books.max_cntlrs);
            fit.push((not_ready, used_ppb, candidate.cn));
        } else {
            refused.push(RefusedCandidate { name: format!("CN {}", books.address), failed });
        }
    }
    fit.sort_unstable();
    let Some(best) = fit.first().copied() else {
        return Err(Box::new(Refusal { wanted: "a controller node".to_owned(), candidates: refused }));
    };
    let equals: Vec<_> = fit.iter().take_while(|c| (c.0, c.1) == (best.0, best.1)).take(SPREAD).collect();
    Ok(equals[pick(seed, 0, equals.len())].2)
}

fn place_sets(
    da: &NewDa,
    dns: &[DnCandidate<'_>],
    seed: u64,
    by_room: bool,
) -> Result<Vec<Vec<Slot>>, Box<Refusal>> {
    let mut pds = pds(da, dns);
    let mut sets = Vec::new();
    for stripe in 0..da.stripes {
        let mut set: Vec<usize> = Vec::new();
        // Without mirrors a place is as good as another one for what comes later.
        let next = (da.replicas > 1).then(|| Rooms::of(&pds, da.replicas).next_set());
        for replica in 0..da.replicas {
            let at = (u64::from(stripe) << 32) | (u64::from(replica) + 1);
            let Some(chosen) = choose(da, &pds, &set, next.as_ref(), seed.wrapping_mul(at), by_room) else {
                return Err(Box::new(refuse(da, &pds, &set, stripe, replica)));
            };
            pds[chosen].siblings += 1;
            set.push(chosen);
        }
        sets.push(set.iter().map(|i| Slot { dn: pds[*i].dn, pd: pds[*i].pd }).collect());
    }
    Ok(sets)
}

fn pds<'a>(da: &NewDa, dns: &[DnCandidate<'a>]) -> Vec<Pd<'a>> {
    let vd_bytes = da.leg_size().vd_bytes;
    let promise = qos::of_vd(&da.qos, da.stripes);
    let mut pds = Vec::new();
    for candidate in dns {
        let books = candidate.capacity;
        let status = candidate.status;
        let not_ready =
            !view::node_ready(status.and_then(|s| s.agent.as_ref()), status.and_then(|s| s.target.as_ref()));
        let domain = if books.location.is_empty() {
            Domain::Dn(candidate.dn)
        } else {
            Domain::Location(&books.location)
        };
        for capacity in &books.pds {
            let Ok(pd) = capacity.pd_id.parse() else { continue };
            pds.push(Pd {
                dn: candidate.dn,
                pd,
                domain: domain.clone(),
                address: &books.address,
                capacity,
                failed: fixed_rules(books.offline, capacity, status.filter(|_| !not_ready)),
                not_ready,
                vd_bytes: round_up(vd_bytes, capacity.cluster_bytes),
                promise,
                siblings: 0,
            });
        }
    }
    pds.sort_by_key(|pd| pd.pd);
    pds
}

/// Rules that do not depend on what else is placed. `status` only if its node answers: what is known of a PD is old otherwise.
fn fixed_rules(dn_offline: bool, pd: &v1::PdCapacity, status: Option<&v1::DnStatus>) -> Vec<Rule> {
    let mut failed = Vec::new();
    if dn_offline || pd.offline {
        failed.push(Rule::Offline);
    }
    if pd.cluster_bytes == 0 {
        failed.push(Rule::NotReported);
    }
    let observed =
        status.and_then(|s| s.pds.iter().find(|p| p.pd_id == pd.pd_id)).and_then(|p| p.status.as_ref());
    if let Some(status) = observed.filter(|s| s.condition() == v1::Condition::Failed) {
        failed.push(Rule::Failed(view::words(status)));
    }
    failed
}

/// How many disks of this array are on each DN.
struct Spread(BTreeMap<DnId, u32>);

impl Spread {
    fn of(pds: &[Pd<'_>]) -> Self {
        let mut on_dn: BTreeMap<DnId, u32> = BTreeMap::new();
        for pd in pds.iter().filter(|pd| pd.siblings > 0) {
            *on_dn.entry(pd.dn).or_default() += pd.siblings;
        }
        Self(on_dn)
    }

    fn on(&self, dn: DnId) -> u32 {
        self.0.get(&dn).copied().unwrap_or(0)
    }

    fn admits(&self, dn: DnId) -> bool {
        self.0.len() < MAX_DNS_PER_DA || self.0.contains_key(&dn)
    }
}

fn failed_rules(pds: &[Pd<'_>], set: &[usize], index: usize, spread: &Spread) -> Vec<Rule> {
    let pd = &pds[index];
    let mut failed = pd.failed.clone();
    if let Some(taken) = set.iter().map(|i| &pds[*i]).find(|other| other.domain == pd.domain) {
        failed.push(match pd.domain {
            Domain::Location(location) => Rule::SameLocation(location.to_owned()),
            Domain::Dn(_) => Rule::SameDn(taken.address.to_owned()),
        });
    }
    if !spread.admits(pd.dn) {
        failed.push(Rule::DnLimit);
    }
    if pd.capacity.cluster_bytes > 0 {
        if pd.free() < pd.vd_bytes {
            failed.push(Rule::NoSpace { free: pd.free(), needed: pd.vd_bytes });
        }
        let budget = pd.capacity.qos_budget.unwrap_or_default();
        failed.extend(qos::exceeded(&budget, &pd.qos_used(), &pd.promise).into_iter().map(Rule::NoQos));
    }
    failed
}

fn choose<'a>(
    da: &NewDa,
    pds: &[Pd<'a>],
    set: &[usize],
    next: Option<&NextSet<'a>>,
    seed: u64,
    by_room: bool,
) -> Option<usize> {
    let spread = Spread::of(pds);
    let rooms = by_room.then(|| Rooms::of(pds, da.replicas));
    let more = (da.replicas as usize).saturating_sub(set.len() + 1);
    let score = |pd: &Pd<'_>| Score {
        location_room: Reverse(rooms.as_ref().map_or(0, |rooms| rooms.in_domain(&pd.domain))),
        not_ready: pd.not_ready,
        wastes: next.is_some_and(|n| n.wastes(set.iter().map(|i| &pds[*i].domain), &pd.domain, more)),
        siblings_on_pd: pd.siblings,
        siblings_on_dn: spread.on(pd.dn),
        used_ppb: pd.ppb(pd.capacity.total_bytes.saturating_sub(pd.free())),
        pd: pd.pd,
    };
    let mut fit: Vec<(Score, usize)> = pds
        .iter()
        .enumerate()
        .filter(|(i, _)| failed_rules(pds, set, *i, &spread).is_empty())
        .map(|(i, pd)| (score(pd), i))
        .collect();
    fit.sort_unstable();
    let (best, index) = fit.first().copied()?;
    // As good as the best: less loaded than the best would be after taking the disk.
    let window = best.used_ppb.saturating_add(pds[index].ppb(pds[index].vd_bytes));
    let as_good = |s: &Score| {
        let rank = |s: &Score| (s.location_room, s.not_ready, s.wastes, s.siblings_on_pd, s.siblings_on_dn);
        rank(s) == rank(&best) && (s.used_ppb == best.used_ppb || s.used_ppb < window)
    };
    let equals: Vec<usize> = fit.iter().filter(|(s, _)| as_good(s)).map(|(_, i)| *i).take(SPREAD).collect();
    Some(equals[pick(seed, 1, equals.len())])
}

/// An index below `len` that depends on all bits of the seed (the finaliser of SplitMix64); 0 for seed 0.
const fn pick(seed: u64, salt: u64, len: usize) -> usize {
    if seed == 0 || len < 2 {
        return 0;
    }
    let mut x = seed.wrapping_add(salt.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    ((x ^ (x >> 31)) % len as u64) as usize
}

fn refuse(da: &NewDa, pds: &[Pd<'_>], set: &[usize], stripe: u32, replica: u32) -> Refusal {
    let spread = Spread::of(pds);
    let mut candidates: Vec<_> = pds
        .iter()
        .enumerate()
        .map(|(index, pd)| RefusedCandidate {
            name: format!("PD {}/{}", pd.address, pd.capacity.pd_name),
            failed: failed_rules(pds, set, index, &spread),
        })
        .collect();
    candidates.sort_by(|a, b| a.name.cmp(&b.name));
    let size = crate::sizes::format(da.leg_size().vd_bytes);
    let mut wanted = match da.stripes * da.replicas {
        1 => format!("a virtual disk of {size}"),
        _ => format!("{} x {} virtual disks of {size}", da.stripes, da.replicas),
    };
    if da.replicas > 1 {
        wanted += ", each replica of a stripe on another disk node and location";
    }
    if stripe + replica > 0 {
        wanted += &format!(" (none is left for stripe {stripe}, replica {replica})");
    }
    Refusal { wanted, candidates }
}

#[cfg(test)]
mod tests;
