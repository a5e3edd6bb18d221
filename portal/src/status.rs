//! Errors as gRPC statuses with details: the one place where they are translated.

use std::{collections::HashMap, error::Error as StdError, time::Duration};

use tonic::{Code, Status};
use tonic_types::{ErrorDetails, FieldViolation, PreconditionViolation, StatusExt as _};
use vda_model::{Error, Resource, error};
use vda_store::{KvError, StmError};

/// `domain` of every `ErrorInfo`.
const DOMAIN: &str = "vda.v1";
/// Candidates that a refused placement lists; a status must fit into HTTP/2 headers.
const MAX_CANDIDATES: usize = 25;
/// Characters of one explanation, and of the whole message.
const MAX_TEXT: usize = 160;
const MAX_MESSAGE: usize = 2000;

const fn code(code: error::Code) -> Code {
    match code {
        error::Code::InvalidArgument => Code::InvalidArgument,
        error::Code::NotFound => Code::NotFound,
        error::Code::AlreadyExists => Code::AlreadyExists,
        error::Code::FailedPrecondition => Code::FailedPrecondition,
        error::Code::Aborted => Code::Aborted,
        error::Code::ResourceExhausted => Code::ResourceExhausted,
        error::Code::Unimplemented => Code::Unimplemented,
        error::Code::Internal => Code::Internal,
    }
}

/// `text`, or its beginning if that is all that fits.
fn shortened(text: &str, most: usize) -> String {
    if text.chars().count() <= most {
        return text.to_owned();
    }
    text.chars().take(most).chain(std::iter::once('…')).collect()
}

/// A refused request.
pub(crate) fn refused(error: &Error) -> Status {
    let mut details = ErrorDetails::new();
    let mut metadata = HashMap::new();
    match error {
        Error::Invalid(violations) => {
            let fields = violations.iter().take(MAX_CANDIDATES).map(|v| {
                FieldViolation::new(
                    &v.field,
                    shortened(&format!("{:?} is not allowed: {}", v.value, v.allowed), 2 * MAX_TEXT),
                )
            });
            details.set_bad_request(fields.collect::<Vec<_>>());
        }
        Error::NotServed { field, value, served } => {
            details.set_bad_request(vec![FieldViolation::new(
                *field,
                format!("{value} is not served yet: {served}"),
            )]);
        }
        Error::RequestReused { method, .. } => {
            details.set_bad_request(vec![FieldViolation::new(
                "request_id",
                format!("was used before for another {method}"),
            )]);
        }
        Error::InUse { by, .. } => {
            let violations = by
                .iter()
                .take(MAX_CANDIDATES)
                .map(|user| PreconditionViolation::new("IN_USE", user, "uses it"));
            details.set_precondition_failure(violations.collect::<Vec<_>>());
        }
        Error::NoPlace(refusal) => {
            let violations = refusal.candidates.iter().take(MAX_CANDIDATES).map(|candidate| {
                let rules: Vec<String> = candidate.failed.iter().map(ToString::to_string).collect();
                let rules =
                    if rules.is_empty() { "usable, but not enough are".to_owned() } else { rules.join(", ") };
                PreconditionViolation::new("PLACEMENT", &candidate.name, shortened(&rules, MAX_TEXT))
            });
            details.set_precondition_failure(violations.collect::<Vec<_>>());
            metadata.insert("wanted".to_owned(), refusal.wanted.clone());
            metadata.insert("candidates".to_owned(), refusal.candidates.len().to_string());
        }
        Error::Changed { given, current, .. } => {
            metadata.insert("given_revision".to_owned(), given.to_string());
            metadata.insert("current_revision".to_owned(), current.to_string());
        }
        Error::NotFound(_)
        | Error::Exists { .. }
        | Error::Deleting(_)
        | Error::Limit { .. }
        | Error::PlacementStale { .. }
        | Error::Broken { .. } => {}
    }
    if let Some(resource) = resource(error) {
        details.set_resource_info(resource.kind.to_string(), &resource.name, "", "");
    }
    if error.retryable() {
        details.set_retry_info(Some(Duration::from_secs(1)));
    }
    details.set_error_info(error.reason(), DOMAIN, metadata);
    Status::with_error_details(code(error.code()), shortened(&error.to_string(), MAX_MESSAGE), details)
}

const fn resource(error: &Error) -> Option<&Resource> {
    match error {
        Error::NotFound(resource)
        | Error::Exists { resource, .. }
        | Error::Changed { resource, .. }
        | Error::InUse { resource, .. }
        | Error::Deleting(resource)
        | Error::Limit { resource, .. } => Some(resource),
        Error::Invalid(_)
        | Error::NotServed { .. }
        | Error::NoPlace(_)
        | Error::PlacementStale { .. }
        | Error::RequestReused { .. }
        | Error::Broken { .. } => None,
    }
}

/// etcd failed a read.
pub(crate) fn store(error: &KvError) -> Status {
    let away = matches!(error, KvError::Unavailable { .. } | KvError::Ambiguous { .. });
    let (code, message) = match error {
        _ if away => (Code::Unavailable, format!("etcd does not answer: {error}")),
        KvError::NoSpace { .. } => (Code::ResourceExhausted, format!("etcd is full: {error}")),
        KvError::Compacted { .. } => {
            (Code::Aborted, format!("the list is too old to be continued, start again: {error}"))
        }
        _ => (Code::Internal, error.to_string()),
    };
    let mut details = ErrorDetails::with_error_info(error.code(), DOMAIN, HashMap::new());
    if away {
        details.set_retry_info(Some(Duration::from_secs(1)));
    }
    Status::with_error_details(code, message, details)
}

/// A transaction that did not commit.
pub(crate) fn transaction<E: StdError + AsRef<Error> + 'static>(error: &StmError<E>) -> Status {
    match error {
        StmError::Domain(domain) => refused(domain.as_ref()),
        StmError::Kv(kv) => store(kv),
        StmError::Conflict { .. } => {
            let mut details = ErrorDetails::with_error_info("CONTENDED", DOMAIN, HashMap::new());
            details.set_retry_info(Some(Duration::from_millis(100)));
            Status::with_error_details(Code::Aborted, error.to_string(), details)
        }
        StmError::Ambiguous { .. } => {
            let details = ErrorDetails::with_error_info("OUTCOME_UNKNOWN", DOMAIN, HashMap::new());
            Status::with_error_details(Code::Unavailable, format!("etcd does not answer: {error}"), details)
        }
    }
}
