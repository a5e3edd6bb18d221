//! Ids: 64 random bits, written as 16 lower-case hex digits. A type per kind of thing, so that one cannot pass for another.

use std::{fmt, str::FromStr};

/// Text that is not an id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{kind} id {value:?} is not 16 lower-case hex digits")]
pub struct ParseIdError {
    /// What the id should have named: "DN", "PD", …
    pub kind: &'static str,
    /// What was found instead.
    pub value: String,
}

/// Parses exactly what `{:016x}` prints, so that parsing is the inverse of printing.
fn parse_hex(kind: &'static str, value: &str) -> Result<u64, ParseIdError> {
    let canonical = value.len() == 16 && value.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    let parsed = if canonical { u64::from_str_radix(value, 16).ok() } else { None };
    parsed.ok_or_else(|| ParseIdError { kind, value: value.to_owned() })
}

macro_rules! id {
    ($(#[$doc:meta])* $name:ident, $kind:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(u64);

        impl $name {
            /// The id made of these 64 bits.
            pub const fn new(bits: u64) -> Self {
                Self(bits)
            }

            /// Its 64 bits.
            pub const fn bits(self) -> u64 {
                self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:016x}", self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({:016x})"), self.0)
            }
        }

        impl FromStr for $name {
            type Err = ParseIdError;

            fn from_str(s: &str) -> Result<Self, Self::Err> {
                parse_hex($kind, s).map(Self)
            }
        }

        impl From<$name> for String {
            fn from(id: $name) -> Self {
                id.to_string()
            }
        }
    };
}

id!(
    /// A disk node.
    DnId, "DN"
);
id!(
    /// A physical disk.
    PdId, "PD"
);
id!(
    /// A controller node.
    CnId, "CN"
);
id!(
    /// A disk array.
    DaId, "DA"
);
id!(
    /// A virtual disk.
    VdId, "VD"
);
id!(
    /// A controller of a disk array.
    CntlrId, "cntlr"
);
id!(
    /// An exporter.
    ExpId, "EXP"
);
id!(
    /// A boot of a disk node: another one after every start of its operating system.
    BootId, "boot"
);
id!(
    /// A running monitor process.
    MonitorId, "monitor"
);

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn parse_is_the_inverse_of_display(bits: u64) {
            let id = DaId::new(bits);
            prop_assert_eq!(id.to_string().parse::<DaId>(), Ok(id));
            prop_assert_eq!(id.to_string().len(), 16);
        }

        #[test]
        fn what_parses_prints_the_same(text in "[0-9a-fA-F+ x]{0,18}") {
            if let Ok(id) = text.parse::<VdId>() {
                prop_assert_eq!(id.to_string(), text);
            }
        }
    }

    #[test]
    fn an_error_names_kind_and_value() {
        let error = "00AF".parse::<PdId>().unwrap_err().to_string();
        assert_eq!(error, r#"PD id "00AF" is not 16 lower-case hex digits"#);
    }
}
