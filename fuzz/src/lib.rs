//! Fuzz targets for everything that reads bytes of a peer or of a disk. A target is a function of bytes that panics when something is
//! wrong: not only when the code under test panics, but also when one of the properties does not hold that the target states.
//!
//! `tests/fuzz.rs` runs each on its corpus and on mutations of it for a moment (`VDA_FUZZ_SECONDS`), on a stable compiler; the crate in
//! `libfuzzer/` runs the same functions guided by coverage, for as long as wanted. See `docs/adr/0067-fuzzing.md`.

mod controller;
mod host;
mod json_rpc;
mod lvstore;
pub mod mutate;
mod pdu_stream;
mod target;

/// Something to fuzz.
#[derive(Debug, Clone, Copy)]
pub struct Target {
    /// Also the name of the corpus' folder.
    pub name: &'static str,
    /// Panics if a property does not hold for the input.
    pub run: fn(&[u8]),
    /// Inputs to begin with that get far into the code.
    pub seeds: fn() -> Vec<Vec<u8>>,
}

/// All targets.
pub const TARGETS: &[Target] = &[
    Target { name: "pdu_stream", run: pdu_stream::run, seeds: pdu_stream::seeds },
    Target { name: "controller", run: controller::run, seeds: controller::seeds },
    Target { name: "host", run: host::run, seeds: host::seeds },
    Target { name: "nvmf_target", run: target::run, seeds: target::seeds },
    Target { name: "json_rpc", run: json_rpc::run, seeds: json_rpc::seeds },
    Target { name: "lvstore", run: lvstore::run, seeds: lvstore::seeds },
];

/// The target of this name.
///
/// # Panics
/// If there is none.
#[must_use]
pub fn target(name: &str) -> Target {
    *TARGETS.iter().find(|t| t.name == name).unwrap_or_else(|| panic!("no fuzz target is called {name}"))
}

/// Takes bytes off the front of an input; what is missing reads as zero.
struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn take(&mut self, n: usize) -> &'a [u8] {
        let (front, rest) = self.0.split_at(n.min(self.0.len()));
        self.0 = rest;
        front
    }

    fn array<const N: usize>(&mut self) -> [u8; N] {
        let mut out = [0; N];
        let front = self.take(N);
        out[..front.len()].copy_from_slice(front);
        out
    }

    fn byte(&mut self) -> u8 {
        self.array::<1>()[0]
    }

    fn word(&mut self) -> u16 {
        u16::from_le_bytes(self.array())
    }
}

/// Cuts `bytes` into pieces whose lengths depend on `seed`.
fn pieces(bytes: &[u8], seed: u64) -> impl Iterator<Item = &[u8]> {
    let mut random = mutate::Random::new(seed);
    let mut rest = bytes;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let most = [1, 7, 64, 4096][random.below(4)];
        let (piece, left) = rest.split_at(rest.len().min(1 + random.below(most)));
        rest = left;
        Some(piece)
    })
}
