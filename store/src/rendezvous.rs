//! Which member is responsible for what: highest random weight (rendezvous) hashing. When a member comes or goes, only what moves to
//! or from it changes hands. Pure; every member that sees the same members decides the same.

/// The member responsible for `item`; `None` if there are no members.
pub fn owner_of<M: Copy + Ord>(
    item: u64,
    members: impl IntoIterator<Item = M>,
    bits: impl Fn(M) -> u64,
) -> Option<M> {
    members.into_iter().max_by_key(|member| (weight(item, bits(*member)), *member))
}

/// Depends on every bit of both (two rounds of the finaliser of SplitMix64).
fn weight(item: u64, member: u64) -> u64 {
    mix(mix(item ^ 0x9e37_79b9_7f4a_7c15).wrapping_add(member))
}

fn mix(mut x: u64) -> u64 {
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

#[cfg(test)]
#[path = "rendezvous_tests.rs"]
mod tests;
