//! Changes to inputs, by a generator whose seed repeats them.

/// A small generator of numbers (splitmix64).
#[derive(Debug, Clone)]
pub struct Random(u64);

impl Random {
    /// The same numbers for the same seed.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next number.
    pub fn number(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    /// A number below `n`, 0 if `n` is 0.
    pub fn below(&mut self, n: usize) -> usize {
        (self.number() % (n.max(1) as u64)) as usize
    }
}

/// Values that lie at the edges of lengths, counts and offsets.
const EDGES: [u64; 12] =
    [0, 1, 2, 7, 8, 0x7f, 0xff, 0x1000, 0x7fff, 0xffff, 0x7fff_ffff, 0xffff_ffff_ffff_ffff];
/// Longest input.
const LONGEST: usize = 64 << 10;

/// A changed copy of one of `corpus`: one to six changes.
pub fn mutate(random: &mut Random, corpus: &[Vec<u8>]) -> Vec<u8> {
    let pick = |random: &mut Random| corpus.get(random.below(corpus.len())).cloned().unwrap_or_default();
    let mut input = pick(random);
    for _ in 0..=random.below(6) {
        let other = if random.below(8) == 0 { pick(random) } else { Vec::new() };
        change(random, &mut input, &other);
    }
    input.truncate(LONGEST);
    input
}

fn change(random: &mut Random, input: &mut Vec<u8>, other: &[u8]) {
    let at = random.below(input.len() + 1);
    match random.below(8) {
        0 => flip(random, input, at),
        1 => overwrite(input, at, &[random.number() as u8]),
        2 | 3 => {
            let width = [1, 2, 4, 8][random.below(4)];
            let edge = EDGES[random.below(EDGES.len())].wrapping_add(random.below(3) as u64).wrapping_sub(1);
            overwrite(input, at, &edge.to_le_bytes()[..width]);
        }
        4 => {
            let bytes = random.number().to_le_bytes();
            input.splice(at..at, bytes.into_iter().take(1 + random.below(8)));
        }
        5 => drop(input.drain(at..(at + random.below(80)).min(input.len()))),
        6 => {
            let end = (at + random.below(200)).min(input.len());
            let copy = input[at..end].to_vec();
            let to = random.below(input.len() + 1);
            input.splice(to..to, copy);
        }
        _ if other.is_empty() => input.truncate(at),
        _ => {
            let from = random.below(other.len());
            input.truncate(at);
            input.extend_from_slice(&other[from..]);
        }
    }
}

fn flip(random: &mut Random, input: &mut [u8], at: usize) {
    if let Some(byte) = input.get_mut(at) {
        *byte ^= 1 << random.below(8);
    }
}

fn overwrite(input: &mut [u8], at: usize, with: &[u8]) {
    for (to, from) in input.iter_mut().skip(at).zip(with) {
        *to = *from;
    }
}
