//! Sizes on the command line.

pub(crate) use vda_model::sizes::parse;

/// A number of MiB, in bytes.
pub(crate) fn mib(text: &str) -> Result<u64, String> {
    let number: u64 = text.parse().map_err(|_| "not a number".to_owned())?;
    number.checked_mul(1 << 20).ok_or_else(|| "more than 2^64 bytes".to_owned())
}
