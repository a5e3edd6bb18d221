//! Sizes as people write them, and their arithmetic.

/// A size that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "size {0:?} is not a whole number of bytes: write it like 64MiB, 10GiB, 1TiB (powers of 1024), 500MB (powers of 1000) or 1048576"
)]
pub struct BadSize(pub String);

const BINARY: [(&str, u32); 6] = [("B", 0), ("KiB", 10), ("MiB", 20), ("GiB", 30), ("TiB", 40), ("PiB", 50)];

/// The number of bytes `text` says: `10GiB`, `1.5 TiB`, `64M` (as `MiB`), `500MB`, `4096`.
///
/// # Errors
/// If it is no number with a known unit, not a whole number of bytes, or 2^64 or more.
pub fn parse(text: &str) -> Result<u64, BadSize> {
    let bad = || BadSize(text.to_owned());
    let trimmed = text.trim();
    let unit_at = trimmed.find(|c: char| c.is_ascii_alphabetic()).unwrap_or(trimmed.len());
    let (number, unit) = (trimmed[..unit_at].trim_end(), &trimmed[unit_at..]);
    let scale = scale(unit).ok_or_else(bad)?;
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let digits = |s: &str| s.bytes().all(|b| b.is_ascii_digit());
    if whole.is_empty() || !digits(whole) || !digits(fraction) || fraction.len() > 18 || number.ends_with('.')
    {
        return Err(bad());
    }
    let tens = 10_u128.pow(u32::try_from(fraction.len()).map_err(|_| bad())?);
    let mantissa: u128 = format!("{whole}{fraction}").parse().map_err(|_| bad())?;
    let scaled = mantissa.checked_mul(scale).ok_or_else(bad)?;
    if scaled % tens != 0 {
        return Err(bad());
    }
    u64::try_from(scaled / tens).map_err(|_| bad())
}

/// Bytes of one unit; a bare letter means the power of 1024, as in fdisk and lvcreate.
fn scale(unit: &str) -> Option<u128> {
    let lower = unit.to_ascii_lowercase();
    let power = match lower.bytes().next() {
        None => return Some(1),
        Some(b'b') => 0,
        Some(letter) => 1 + u32::try_from("kmgtp".find(char::from(letter))?).ok()?,
    };
    match &lower[1..] {
        "" | "ib" => Some(1024_u128.pow(power)).filter(|_| power > 0 || lower == "b"),
        "b" if power > 0 => Some(1000_u128.pow(power)),
        _ => None,
    }
}

/// `bytes` for people: exact if it can be said in a binary unit with up to two decimals, else rounded and marked with `~`.
pub fn format(bytes: u64) -> String {
    let (unit, shift) =
        BINARY.iter().rev().find(|(_, shift)| bytes >> shift > 0).copied().unwrap_or(("B", 0));
    let hundredths = (u128::from(bytes) * 100) >> shift;
    let exact = hundredths << shift == u128::from(bytes) * 100;
    let mark = if exact { "" } else { "~" };
    match (hundredths / 100, hundredths % 100) {
        (whole, 0) => format!("{mark}{whole}{unit}"),
        (whole, cents) if cents % 10 == 0 => format!("{mark}{whole}.{}{unit}", cents / 10),
        (whole, cents) => format!("{mark}{whole}.{cents:02}{unit}"),
    }
}

/// The least multiple of `unit` that is not below `bytes`; `bytes` itself if `unit` is 0. Saturates at the largest multiple.
pub const fn round_up(bytes: u64, unit: u64) -> u64 {
    if unit == 0 {
        return bytes;
    }
    match bytes.checked_next_multiple_of(unit) {
        Some(rounded) => rounded,
        None => u64::MAX - u64::MAX % unit,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::defaults::{GIB, MIB, TIB};

    #[test]
    fn people_write_sizes_in_many_ways() {
        for (text, bytes) in [
            ("10GiB", 10 * GIB),
            ("64MiB", 64 * MIB),
            ("64M", 64 * MIB),
            ("64m", 64 * MIB),
            ("1.5 TiB", 3 * TIB / 2),
            ("500MB", 500_000_000),
            ("4096", 4096),
            ("4096B", 4096),
            ("0", 0),
            ("16PiB", 16 << 50),
            (" 1 KiB ", 1024),
        ] {
            assert_eq!(parse(text), Ok(bytes), "{text}");
        }
        for bad in [
            "",
            "GiB",
            "-1",
            "+1",
            "1.",
            ".5GiB",
            "1.0001KiB",
            "1XiB",
            "1iB",
            "ten",
            "1e3",
            "99999999PiB",
            "1 0",
            "1é",
        ] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn sizes_for_people() {
        assert_eq!(format(0), "0B");
        assert_eq!(format(64 * MIB), "64MiB");
        assert_eq!(format(3 * GIB / 2), "1.5GiB");
        assert_eq!(format(5 * GIB / 4), "1.25GiB");
        assert_eq!(format(1025), "~1KiB");
        assert_eq!(format(u64::MAX), "~16383.99PiB");
    }

    proptest! {
        #[test]
        fn what_is_exact_reads_back(bytes: u64, shift in 0..63_u32) {
            let bytes = bytes >> shift;
            let text = format(bytes);
            if !text.starts_with('~') {
                prop_assert_eq!(parse(&text), Ok(bytes));
            }
            prop_assert_eq!(parse(&bytes.to_string()), Ok(bytes));
        }

        #[test]
        fn parsing_never_panics(text in ".{0,24}") {
            let _ = parse(&text);
        }

        #[test]
        fn rounding_up(bytes in 0..u64::MAX / 2, unit in 1..u64::MAX / 4) {
            let rounded = round_up(bytes, unit);
            prop_assert!(rounded >= bytes && rounded - bytes < unit && rounded.is_multiple_of(unit));
        }
    }
}
