//! Why a change is refused.

use std::fmt;

use vda_proto::v1;

use crate::{
    allocator::Refusal,
    ids::{CnId, DnId},
    names::BadName,
};

/// Kinds of resources users name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    Dn,
    Pd,
    Cn,
    Da,
    Exp,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Dn => "DN",
            Self::Pd => "PD",
            Self::Cn => "CN",
            Self::Da => "DA",
            Self::Exp => "EXP",
        })
    }
}

impl From<Kind> for v1::resource_ref::Kind {
    fn from(kind: Kind) -> Self {
        match kind {
            Kind::Dn => Self::Dn,
            Kind::Pd => Self::Pd,
            Kind::Cn => Self::Cn,
            Kind::Da => Self::Da,
            Kind::Exp => Self::Exp,
        }
    }
}

/// One resource, as users name it: nodes by address, a PD `<address>/<pd>`, an EXP `<da>/<exp>`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resource {
    pub kind: Kind,
    pub name: String,
}

impl Resource {
    /// A resource with a plain name.
    pub fn new(kind: Kind, name: impl Into<String>) -> Self {
        Self { kind, name: name.into() }
    }

    /// A PD of a DN, or an EXP of a DA.
    pub fn of(kind: Kind, parent: &str, name: &str) -> Self {
        Self { kind, name: format!("{parent}/{name}") }
    }
}

impl fmt::Display for Resource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.kind, self.name)
    }
}

/// One field of a request that cannot be accepted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    pub field: String,
    pub value: String,
    pub allowed: String,
}

impl Violation {
    /// A violation of `field`, which holds `value`.
    pub fn new(field: &str, value: impl fmt::Display, allowed: impl Into<String>) -> Self {
        Self { field: field.to_owned(), value: value.to_string(), allowed: allowed.into() }
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {:?} is not allowed: {}", self.field, self.value, self.allowed)
    }
}

impl From<BadName> for Violation {
    fn from(bad: BadName) -> Self {
        Self::new(bad.field, bad.value, bad.allowed)
    }
}

/// What a caller can do about an error, in gRPC's terms.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Code {
    InvalidArgument,
    NotFound,
    AlreadyExists,
    FailedPrecondition,
    Aborted,
    ResourceExhausted,
    Unimplemented,
    Internal,
}

/// A refused change.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Fields of the request that can never be accepted as they are.
    #[error("{}", list(.0))]
    Invalid(Vec<Violation>),
    /// The request makes sense, but this version does not serve it.
    #[error("{field}: {value} is not served yet: {served}")]
    NotServed { field: &'static str, value: String, served: &'static str },
    #[error("{0} does not exist")]
    NotFound(Resource),
    #[error("{resource} already exists{}", if *.deleting { ", and is being deleted" } else { "" })]
    Exists { resource: Resource, deleting: bool },
    /// The caller's `revision` is not the resource's.
    #[error("{resource} has changed: it is at revision {current}, the request was made for {given}")]
    Changed { resource: Resource, given: u64, current: u64 },
    #[error("{resource} is in use by {}", shorten(.by))]
    InUse { resource: Resource, by: Vec<String> },
    #[error("{0} is being deleted")]
    Deleting(Resource),
    /// A limit of the resource is reached.
    #[error("{resource} has {limit} {what}, the most it can have")]
    Limit { resource: Resource, what: &'static str, limit: usize },
    #[error("{0}")]
    NoPlace(Box<Refusal>),
    /// The chosen places can no longer be used; another choice may succeed.
    #[error("places on {} nodes are no longer available", dns.len() + cns.len())]
    PlacementStale { dns: Vec<DnId>, cns: Vec<CnId> },
    /// `request_id` was used for another request.
    #[error("request_id {request_id:?} was used before for another request ({method})")]
    RequestReused { request_id: String, method: String },
    /// A stored record contradicts itself or another one.
    #[error("{what}: {why}")]
    Broken { what: String, why: String },
}

impl Error {
    /// A record that contradicts itself.
    pub fn broken(what: impl fmt::Display, why: impl fmt::Display) -> Self {
        Self::Broken { what: what.to_string(), why: why.to_string() }
    }

    /// What the caller can do about it.
    pub const fn code(&self) -> Code {
        match self {
            Self::Invalid(_) | Self::RequestReused { .. } => Code::InvalidArgument,
            Self::NotServed { .. } => Code::Unimplemented,
            Self::NotFound(_) => Code::NotFound,
            Self::Exists { .. } => Code::AlreadyExists,
            Self::Changed { .. } | Self::PlacementStale { .. } => Code::Aborted,
            Self::InUse { .. } | Self::Deleting(_) => Code::FailedPrecondition,
            Self::Limit { .. } | Self::NoPlace(_) => Code::ResourceExhausted,
            Self::Broken { .. } => Code::Internal,
        }
    }

    /// Machine-readable name of the error, stable across releases.
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::Invalid(_) => "INVALID_FIELD",
            Self::NotServed { .. } => "NOT_SERVED",
            Self::NotFound(_) => "NOT_FOUND",
            Self::Exists { deleting: false, .. } => "EXISTS",
            Self::Exists { deleting: true, .. } => "EXISTS_DELETING",
            Self::Changed { .. } => "REVISION_CHANGED",
            Self::InUse { .. } => "IN_USE",
            Self::Deleting(_) => "BEING_DELETED",
            Self::Limit { .. } => "LIMIT_REACHED",
            Self::NoPlace(_) => "NO_PLACE",
            Self::PlacementStale { .. } => "PLACEMENT_CONTENDED",
            Self::RequestReused { .. } => "REQUEST_ID_REUSED",
            Self::Broken { .. } => "RECORD_BROKEN",
        }
    }

    /// Whether the same request may succeed later without anybody changing it.
    pub const fn retryable(&self) -> bool {
        matches!(self, Self::PlacementStale { .. } | Self::Exists { deleting: true, .. } | Self::NoPlace(_))
    }
}

fn list(violations: &[Violation]) -> String {
    violations.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

/// `1 thing`, `2 things`.
pub(crate) fn counted(count: u32, one: &str, more: &str) -> String {
    format!("{count} {}", if count == 1 { one } else { more })
}

fn shorten(by: &[String]) -> String {
    const SHOWN: usize = 5;
    let mut text = by.iter().take(SHOWN).cloned().collect::<Vec<_>>().join(", ");
    if by.len() > SHOWN {
        text.push_str(&format!(" and {} more", by.len() - SHOWN));
    }
    text
}

/// Refuses unless `given` is 0 (any) or the `current` revision.
///
/// # Errors
/// [`Error::Changed`].
pub(crate) fn check_revision(
    resource: impl FnOnce() -> Resource,
    given: u64,
    current: u64,
) -> Result<(), Error> {
    if given == 0 || given == current {
        return Ok(());
    }
    Err(Error::Changed { resource: resource(), given, current })
}
