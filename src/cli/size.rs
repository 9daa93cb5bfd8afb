//! File sizes with units.

use std::str::FromStr;

/// A size like `5GB`, `500MB` or `2GiB`, or a number of bytes, as in transformers' `max_shard_size`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ByteSize(pub u64);

const UNITS: [(&str, u64); 8] = [
    ("KIB", 1 << 10),
    ("MIB", 1 << 20),
    ("GIB", 1 << 30),
    ("TIB", 1 << 40),
    ("KB", 1_000),
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
    ("TB", 1_000_000_000_000),
];

impl FromStr for ByteSize {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let upper = text.trim().to_ascii_uppercase();
        let unit = UNITS.into_iter().find_map(|(unit, bytes)| Some((upper.strip_suffix(unit)?, bytes)));
        let (number, unit) = unit.unwrap_or((&upper, 1));
        let size = number.trim().parse::<u64>().ok().and_then(|number| number.checked_mul(unit));
        match size {
            Some(size) if size > 0 => Ok(Self(size)),
            _ => Err("expected a size like 5GB, 500MB or 2GiB".into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_parsed_as_in_transformers() {
        for (text, bytes) in [("5GB", 5_000_000_000), ("200kb", 200_000), ("2GiB", 2 << 30), ("12", 12)] {
            assert_eq!(text.parse::<ByteSize>(), Ok(ByteSize(bytes)));
        }
        for wrong in ["", "GB", "-1GB", "0", "5 parsecs", "99999999999TB"] {
            assert!(wrong.parse::<ByteSize>().is_err(), "{wrong}");
        }
    }
}
