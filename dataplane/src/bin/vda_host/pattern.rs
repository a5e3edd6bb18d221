//! Data that tells where it belongs: every 8 bytes are a hash of the seed and of their position.

use bytes::{BufMut, Bytes, BytesMut};

/// SplitMix64's output function (Steele, Lea, Flood 2014).
fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

fn word(key: u64, position: u64) -> u64 {
    mix(key.wrapping_add((position / 8).wrapping_mul(0x9e37_79b9_7f4a_7c15)))
}

/// `len` bytes for position `at`, both multiples of 8.
pub(crate) fn fill(seed: u64, at: u64, len: usize) -> Bytes {
    let key = mix(seed);
    let mut out = BytesMut::with_capacity(len);
    for i in (0..len as u64).step_by(8) {
        out.put_u64_le(word(key, at + i));
    }
    out.truncate(len);
    out.freeze()
}

/// Position of the first byte of `data` that is not what [`fill`] gives.
pub(crate) fn first_difference(seed: u64, at: u64, data: &[u8]) -> Option<u64> {
    let key = mix(seed);
    data.chunks(8).zip((at..).step_by(8)).find_map(|(have, position)| {
        let want = word(key, position).to_le_bytes();
        let i = have.iter().zip(&want).position(|(a, b)| a != b)?;
        Some(position + i as u64)
    })
}

/// Pseudo-random number `n` of a seed.
pub(crate) fn random(seed: u64, n: u64) -> u64 {
    word(mix(seed), n.wrapping_mul(8))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_in_the_wrong_place_or_of_another_seed_is_noticed() {
        let block = fill(1, 4096, 4096);
        assert_eq!(first_difference(1, 4096, &block), None);
        assert!(first_difference(1, 8192, &block).is_some_and(|p| p < 8200));
        assert!(first_difference(2, 4096, &block).is_some_and(|p| p < 4104));
        let mut damaged = block.to_vec();
        damaged[1234] ^= 1;
        assert_eq!(first_difference(1, 4096, &damaged), Some(4096 + 1234));
    }
}
