//! Sizes on the command line.

/// `64MiB`, `10GiB`, plain bytes.
pub(crate) fn parse(text: &str) -> Result<u64, String> {
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let shift = match unit.trim() {
        "" | "B" => 0,
        "KiB" | "K" | "k" => 10,
        "MiB" | "M" => 20,
        "GiB" | "G" => 30,
        "TiB" | "T" => 40,
        _ => return Err("expected a size such as 64MiB, 10GiB or 1TiB".to_owned()),
    };
    let number: u64 =
        number.parse().map_err(|_| "expected a size such as 64MiB, 10GiB or 1TiB".to_owned())?;
    number.checked_mul(1 << shift).ok_or_else(|| "more than 2^64 bytes".to_owned())
}

/// A number of MiB, in bytes.
pub(crate) fn mib(text: &str) -> Result<u64, String> {
    let number: u64 = text.parse().map_err(|_| "not a number".to_owned())?;
    number.checked_mul(1 << 20).ok_or_else(|| "more than 2^64 bytes".to_owned())
}
