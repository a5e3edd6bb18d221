//! Where records are kept in etcd. The table is in `record.proto`; this is the only place that spells a key.
//!
//! A typed key (`DnSpecKey(dn)`) knows its record's message; [`AnyKey`] is the same without the type, and what a path parses to;
//! a [`Scope`] is a directory to list or watch.

use std::fmt;

use prost::Message;
use vda_proto::v1;

use crate::{
    ids::{CnId, DaId, DnId, ExpId, MonitorId, PdId},
    names::{check_node_address, check_request_id, check_user_name},
};

/// Root of all keys of one VDA cluster: `/vda` unless configured. Never ends with a slash.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Prefix(String);

/// A prefix that cannot be a root of keys.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "prefix {0:?} is not allowed: it must start with '/', and its parts be letters, digits, '.', '_' or '-'"
)]
pub struct BadPrefix(pub String);

impl Prefix {
    /// A root such as `/vda` or `/vda/prod`; a trailing slash is dropped.
    ///
    /// # Errors
    /// If it does not start with a slash, has an empty part or other than letters, digits, `.`, `_`, `-` in one.
    pub fn new(text: &str) -> Result<Self, BadPrefix> {
        let trimmed = text.strip_suffix('/').unwrap_or(text);
        let part =
            |p: &str| !p.is_empty() && p.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b));
        match trimmed.strip_prefix('/') {
            Some(rest) if rest.split('/').all(part) => Ok(Self(trimmed.to_owned())),
            _ => Err(BadPrefix(text.to_owned())),
        }
    }

    /// The text, without a trailing slash.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// `path` relative to this root.
    fn relative<'a>(&self, path: &'a str) -> Option<&'a str> {
        path.strip_prefix(self.0.as_str())?.strip_prefix('/')
    }
}

impl Default for Prefix {
    fn default() -> Self {
        Self("/vda".to_owned())
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::str::FromStr for Prefix {
    type Err = BadPrefix;

    fn from_str(s: &str) -> Result<Self, Self::Err> {
        Self::new(s)
    }
}

/// A key whose record's type is known.
pub trait Key: Clone + fmt::Debug + Send + Sync + 'static {
    /// What is stored there. `()` for the `gen` keys, which carry nothing but their revision.
    type Value: Message + Default + Clone + PartialEq + Send + Sync + 'static;

    /// The key without its type.
    fn any(&self) -> AnyKey;

    /// The key as etcd knows it.
    fn path(&self, prefix: &Prefix) -> String {
        self.any().path(prefix)
    }
}

/// What takes writes: a transaction, or a snapshot in memory.
pub trait Sink {
    /// Stores `value` at `key`.
    fn put<K: Key>(&mut self, key: &K, value: &K::Value);
    /// Removes `key`.
    fn delete<K: Key>(&mut self, key: &K);
}

macro_rules! keys {
    ($($(#[$doc:meta])* $key:ident ( $($field:ident : $type:ty),+ ) => $variant:ident, $value:ty;)+) => {
        /// Any key of ours.
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum AnyKey {
            $($(#[$doc])* $variant($($type),+),)+
        }

        $(
            $(#[$doc])*
            #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
            pub struct $key($(pub $type),+);

            impl Key for $key {
                type Value = $value;

                fn any(&self) -> AnyKey {
                    let Self($($field),+) = self.clone();
                    AnyKey::$variant($($field),+)
                }
            }

            impl From<$key> for AnyKey {
                fn from(key: $key) -> Self {
                    key.any()
                }
            }

            impl TryFrom<AnyKey> for $key {
                type Error = AnyKey;

                fn try_from(key: AnyKey) -> Result<Self, AnyKey> {
                    match key {
                        AnyKey::$variant($($field),+) => Ok(Self($($field),+)),
                        #[allow(unreachable_patterns)]
                        other => Err(other),
                    }
                }
            }

            impl From<($key, Option<$value>)> for Write {
                fn from((key, value): ($key, Option<$value>)) -> Self {
                    Self::$variant(key, value.map(Box::new))
                }
            }
        )+

        /// A record to put (`Some`) or to delete (`None`), with its type.
        #[derive(Debug, Clone, PartialEq)]
        pub enum Write {
            $($(#[$doc])* $variant($key, Option<Box<$value>>),)+
        }

        impl Write {
            /// The key written to.
            pub fn key(&self) -> AnyKey {
                match self {
                    $(Self::$variant(key, _) => key.any(),)+
                }
            }

            /// Hands the write to `sink` with its type.
            pub fn apply<S: Sink + ?Sized>(&self, sink: &mut S) {
                match self {
                    $(
                        Self::$variant(key, Some(value)) => sink.put(key, value),
                        Self::$variant(key, None) => sink.delete(key),
                    )+
                }
            }
        }
    };
}

keys! {
    /// Desired state of a DN.
    DnSpecKey(dn: DnId) => DnSpec, v1::DnSpec;
    /// Its generation: the `mod_revision` of this key. Put blindly by every transaction that touches `dn/{id}/`.
    DnGenKey(dn: DnId) => DnGen, ();
    /// Books of a DN.
    DnCapacityKey(dn: DnId) => DnCapacity, v1::DnCapacity;
    /// A PD of a DN.
    PdSpecKey(dn: DnId, pd: PdId) => PdSpec, v1::PdSpec;
    /// The VDs of one DA on one DN, or their tombstone.
    DnShareKey(dn: DnId, da: DaId) => DnShare, v1::DnShare;
    /// Desired state of a CN.
    CnSpecKey(cn: CnId) => CnSpec, v1::CnSpec;
    /// Its generation, as [`DnGenKey`].
    CnGenKey(cn: CnId) => CnGen, ();
    /// Books of a CN.
    CnCapacityKey(cn: CnId) => CnCapacity, v1::CnCapacity;
    /// A DA's controller on a CN, or its tombstone.
    CntlrSpecKey(cn: CnId, da: DaId) => CntlrSpec, v1::CntlrSpec;
    /// An EXP on a CN, or its tombstone.
    ExpSpecKey(cn: CnId, da: DaId, exp: ExpId) => ExpSpec, v1::ExpSpec;
    /// What is known about the data of a leg.
    LegStateKey(da: DaId, leg: u32) => LegState, v1::LegState;
    /// A DA, by its name.
    DaKey(da_name: String) => Da, v1::DaRecord;
    /// A deleted DA of which something is left on a node.
    DaTombstoneKey(da: DaId) => DaTombstone, v1::DaTombstone;
    /// Which DN has an address. Derived from [`DnSpecKey`].
    DnNameKey(address: String) => DnName, v1::NameIndex;
    /// Which CN has an address. Derived from [`CnSpecKey`].
    CnNameKey(address: String) => CnName, v1::NameIndex;
    /// Observed state of a DN and its PDs.
    DnStatusKey(dn: DnId) => DnStatus, v1::DnStatus;
    /// The boot of a DN.
    DnBootKey(dn: DnId) => DnBoot, v1::BootRecord;
    /// Observed state of a DA's VDs on a DN.
    ShareStatusKey(dn: DnId, da: DaId) => ShareStatus, v1::ShareStatus;
    /// Observed state of a CN.
    CnStatusKey(cn: CnId) => CnStatus, v1::CnStatus;
    /// Observed state of a DA's controller on a CN.
    CntlrStatusKey(cn: CnId, da: DaId) => CntlrStatus, v1::CntlrStatus;
    /// First answer to a request with this id.
    RequestKey(request_id: String) => Request, v1::RequestRecord;
    /// A running monitor.
    MonitorKey(monitor: MonitorId) => Monitor, v1::MemberRecord;
}

impl fmt::Display for AnyKey {
    /// The path below the prefix.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::DnSpec(dn) => write!(f, "dn/{dn}/spec"),
            Self::DnGen(dn) => write!(f, "dn/{dn}/gen"),
            Self::DnCapacity(dn) => write!(f, "dn/{dn}/cap"),
            Self::PdSpec(dn, pd) => write!(f, "dn/{dn}/pd/{pd}"),
            Self::DnShare(dn, da) => write!(f, "dn/{dn}/da/{da}"),
            Self::CnSpec(cn) => write!(f, "cn/{cn}/spec"),
            Self::CnGen(cn) => write!(f, "cn/{cn}/gen"),
            Self::CnCapacity(cn) => write!(f, "cn/{cn}/cap"),
            Self::CntlrSpec(cn, da) => write!(f, "cn/{cn}/da/{da}/cntlr"),
            Self::ExpSpec(cn, da, exp) => write!(f, "cn/{cn}/da/{da}/exp/{exp}"),
            Self::LegState(da, leg) => write!(f, "leg/{da}/{leg}"),
            Self::Da(name) => write!(f, "da/{name}"),
            Self::DaTombstone(da) => write!(f, "tomb/{da}"),
            Self::DnName(address) => write!(f, "name/dn/{address}"),
            Self::CnName(address) => write!(f, "name/cn/{address}"),
            Self::DnStatus(dn) => write!(f, "status/dn/{dn}/node"),
            Self::DnBoot(dn) => write!(f, "status/dn/{dn}/boot"),
            Self::ShareStatus(dn, da) => write!(f, "status/dn/{dn}/da/{da}"),
            Self::CnStatus(cn) => write!(f, "status/cn/{cn}/node"),
            Self::CntlrStatus(cn, da) => write!(f, "status/cn/{cn}/da/{da}"),
            Self::Request(id) => write!(f, "req/{id}"),
            Self::Monitor(id) => write!(f, "member/monitor/{id}"),
        }
    }
}

impl AnyKey {
    /// The key as etcd knows it.
    pub fn path(&self, prefix: &Prefix) -> String {
        format!("{prefix}/{self}")
    }

    /// What `path` is the key of; `None`: not one of ours.
    pub fn parse(prefix: &Prefix, path: &str) -> Option<Self> {
        let parts: Vec<&str> = prefix.relative(path)?.split('/').collect();
        match parts.as_slice() {
            ["dn", dn, rest @ ..] => Self::parse_dn(dn.parse().ok()?, rest),
            ["cn", cn, rest @ ..] => Self::parse_cn(cn.parse().ok()?, rest),
            ["status", rest @ ..] => Self::parse_status(rest),
            ["leg", da, leg] => Some(Self::LegState(da.parse().ok()?, parse_leg(leg)?)),
            ["da", name] => check_user_name("da_name", name).ok().map(|()| Self::Da((*name).to_owned())),
            ["tomb", da] => da.parse().ok().map(Self::DaTombstone),
            ["name", "dn", address] => parse_address(address).map(Self::DnName),
            ["name", "cn", address] => parse_address(address).map(Self::CnName),
            ["req", id] if !id.is_empty() => {
                check_request_id(id).ok().map(|()| Self::Request((*id).to_owned()))
            }
            ["member", "monitor", id] => id.parse().ok().map(Self::Monitor),
            _ => None,
        }
    }

    fn parse_dn(dn: DnId, rest: &[&str]) -> Option<Self> {
        match rest {
            ["spec"] => Some(Self::DnSpec(dn)),
            ["gen"] => Some(Self::DnGen(dn)),
            ["cap"] => Some(Self::DnCapacity(dn)),
            ["pd", pd] => Some(Self::PdSpec(dn, pd.parse().ok()?)),
            ["da", da] => Some(Self::DnShare(dn, da.parse().ok()?)),
            _ => None,
        }
    }

    fn parse_cn(cn: CnId, rest: &[&str]) -> Option<Self> {
        match rest {
            ["spec"] => Some(Self::CnSpec(cn)),
            ["gen"] => Some(Self::CnGen(cn)),
            ["cap"] => Some(Self::CnCapacity(cn)),
            ["da", da, "cntlr"] => Some(Self::CntlrSpec(cn, da.parse().ok()?)),
            ["da", da, "exp", exp] => Some(Self::ExpSpec(cn, da.parse().ok()?, exp.parse().ok()?)),
            _ => None,
        }
    }

    fn parse_status(rest: &[&str]) -> Option<Self> {
        match rest {
            ["dn", dn, "node"] => dn.parse().ok().map(Self::DnStatus),
            ["dn", dn, "boot"] => dn.parse().ok().map(Self::DnBoot),
            ["dn", dn, "da", da] => Some(Self::ShareStatus(dn.parse().ok()?, da.parse().ok()?)),
            ["cn", cn, "node"] => cn.parse().ok().map(Self::CnStatus),
            ["cn", cn, "da", da] => Some(Self::CntlrStatus(cn.parse().ok()?, da.parse().ok()?)),
            _ => None,
        }
    }
}

fn parse_leg(text: &str) -> Option<u32> {
    let leg: u32 = text.parse().ok()?;
    (leg.to_string() == text).then_some(leg)
}

fn parse_address(text: &str) -> Option<String> {
    check_node_address("address", text).ok().map(|()| text.to_owned())
}

/// A directory of keys, to list or to watch. Rendered with a trailing slash, so that it is the prefix of its keys and of no others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Scope {
    /// Everything of the cluster.
    All,
    /// All DNs: specs, books, PDs, shares.
    Dns,
    /// One DN's desired state.
    Dn(DnId),
    /// One DN's PDs.
    DnPds(DnId),
    /// One DN's shares.
    DnShares(DnId),
    /// All CNs: specs, books, controllers, EXPs.
    Cns,
    /// One CN's desired state.
    Cn(CnId),
    /// One CN's controllers and EXPs.
    CnDas(CnId),
    /// One DA's controller and EXPs on a CN.
    CnDa(CnId, DaId),
    /// All leg states.
    Legs,
    /// One DA's leg states.
    LegsOf(DaId),
    /// All DAs.
    Das,
    /// All tombstones of DAs.
    DaTombstones,
    /// DN addresses.
    DnNames,
    /// CN addresses.
    CnNames,
    /// All observed state.
    Statuses,
    /// Observed state of all DNs and what is on them.
    DnStatuses,
    /// Observed state of one DN and what is on it.
    DnStatus(DnId),
    /// Observed state of all CNs and what is on them.
    CnStatuses,
    /// Observed state of one CN and what is on it.
    CnStatus(CnId),
    /// Answered requests.
    Requests,
    /// Running monitors.
    Monitors,
}

impl fmt::Display for Scope {
    /// The path below the prefix.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::All => Ok(()),
            Self::Dns => f.write_str("dn/"),
            Self::Dn(dn) => write!(f, "dn/{dn}/"),
            Self::DnPds(dn) => write!(f, "dn/{dn}/pd/"),
            Self::DnShares(dn) => write!(f, "dn/{dn}/da/"),
            Self::Cns => f.write_str("cn/"),
            Self::Cn(cn) => write!(f, "cn/{cn}/"),
            Self::CnDas(cn) => write!(f, "cn/{cn}/da/"),
            Self::CnDa(cn, da) => write!(f, "cn/{cn}/da/{da}/"),
            Self::Legs => f.write_str("leg/"),
            Self::LegsOf(da) => write!(f, "leg/{da}/"),
            Self::Das => f.write_str("da/"),
            Self::DaTombstones => f.write_str("tomb/"),
            Self::DnNames => f.write_str("name/dn/"),
            Self::CnNames => f.write_str("name/cn/"),
            Self::Statuses => f.write_str("status/"),
            Self::DnStatuses => f.write_str("status/dn/"),
            Self::DnStatus(dn) => write!(f, "status/dn/{dn}/"),
            Self::CnStatuses => f.write_str("status/cn/"),
            Self::CnStatus(cn) => write!(f, "status/cn/{cn}/"),
            Self::Requests => f.write_str("req/"),
            Self::Monitors => f.write_str("member/monitor/"),
        }
    }
}

impl Scope {
    /// The directory as etcd knows it, with a trailing slash.
    pub fn path(&self, prefix: &Prefix) -> String {
        format!("{prefix}/{self}")
    }

    /// Whether `key` is in this directory.
    pub fn contains(&self, key: &AnyKey) -> bool {
        key.to_string().starts_with(&self.to_string())
    }
}

#[cfg(test)]
mod tests;
