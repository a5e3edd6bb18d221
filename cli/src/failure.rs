//! What can go wrong, how it is shown, and which exit code it becomes.

use std::{fmt::Write as _, io, time::Duration};

use tonic::{Code, Status};
use tonic_types::{ErrorDetails, ResourceInfo, StatusExt as _};

/// Why a command did not do what it was asked to.
#[derive(Debug)]
pub enum Failure {
    /// Arguments that make no sense, found before the portal was asked.
    Usage(String),
    /// No connection to the portal.
    Connect {
        /// As given by `--portal`.
        portal: String,
        /// The operating system's or resolver's reason.
        why: String,
    },
    /// The portal, or the way to it, refused the call.
    Refused {
        /// Noun and name of the object: "da da0".
        about: String,
        /// What the portal answered, with details.
        status: Box<Status>,
        /// Travels through all logs.
        request_id: String,
        /// For calls that change something: the name under which they can be repeated safely.
        repeat_as: Option<String>,
    },
    /// `--wait` did not see the result in time.
    TimedOut {
        /// Noun and name of the object: "da da0".
        about: String,
        /// What was waited for: "ready" or "gone".
        until: &'static str,
        /// The limit.
        after: Duration,
        /// The last observed state, in words.
        last: String,
    },
    /// stdout is a pipe nobody reads any more. Not an error.
    BrokenPipe,
    /// stdout cannot be written.
    Output(io::Error),
}

impl Failure {
    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Self::Usage(message.into())
    }

    /// 1 failed, 2 usage, 3 not found, 4 conflict or busy, 5 unavailable, 6 wait timed out. Stable: scripts depend on it.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Usage(_) => 2,
            Self::Connect { .. } => 5,
            Self::Refused { status, .. } => exit_code(status.code()),
            Self::TimedOut { .. } => 6,
            Self::BrokenPipe => 0,
            Self::Output(_) => 1,
        }
    }

    /// Text for stderr: what happened, the details, and what to try next.
    pub fn render(&self, verbose: bool) -> String {
        match self {
            Self::Usage(message) => format!("error: {message}\n"),
            Self::Connect { portal, why } => format!(
                "error: portal {portal} is unreachable: {why}\n  \
                 next: check that vda_portal runs there, or name another one with --portal or VDA_PORTAL\n"
            ),
            Self::Refused { about, status, request_id, repeat_as } => {
                refused(about, status, request_id, repeat_as.as_deref(), verbose)
            }
            Self::TimedOut { about, until, after, last } => format!(
                "error: {about} is not {until} after {}: {last}\n  \
                 next: the request is accepted and work on it goes on; `vdacli {}` shows how far it is\n",
                humantime::format_duration(*after),
                inspect(about)
            ),
            Self::BrokenPipe => String::new(),
            Self::Output(why) => format!("error: cannot write to stdout: {why}\n"),
        }
    }
}

fn exit_code(code: Code) -> u8 {
    match code {
        Code::Ok => 0,
        Code::InvalidArgument | Code::OutOfRange => 2,
        Code::NotFound => 3,
        Code::AlreadyExists | Code::Aborted | Code::FailedPrecondition | Code::ResourceExhausted => 4,
        Code::Unavailable | Code::DeadlineExceeded => 5,
        Code::Cancelled
        | Code::Unknown
        | Code::PermissionDenied
        | Code::Unimplemented
        | Code::Internal
        | Code::DataLoss
        | Code::Unauthenticated => 1,
    }
}

/// `NOT_FOUND` as in the gRPC documentation.
fn code_name(code: Code) -> String {
    let camel = format!("{code:?}");
    let mut name = String::new();
    for (at, letter) in camel.char_indices() {
        if at > 0 && letter.is_ascii_uppercase() {
            name.push('_');
        }
        name.push(letter.to_ascii_uppercase());
    }
    name
}

fn refused(about: &str, status: &Status, request_id: &str, repeat_as: Option<&str>, verbose: bool) -> String {
    let details = status.get_error_details();
    let message = headline(&details, status.message());
    let mut text = match names(&message, about) {
        true => format!("error: {message}\n"),
        false => format!("error: {about}: {message}\n"),
    };
    let mut line = |label: &str, value: &str| {
        let _ = writeln!(text, "  {label}: {value}");
    };
    match details.error_info() {
        Some(info) => line("code", &format!("{} ({})", code_name(status.code()), info.reason)),
        None => line("code", &code_name(status.code())),
    }
    for (label, value) in explain(&details, &message, verbose) {
        line(&label, &value);
    }
    let retry = details.retry_info().and_then(|r| r.retry_delay);
    // Room is made by somebody, not by waiting a second.
    if let Some(delay) = retry.filter(|_| status.code() != Code::ResourceExhausted) {
        line("retry", &format!("worth it after {}", humantime::format_duration(delay)));
    }
    line("request id", request_id);
    if let Some(next) = next_step(about, status.code(), repeat_as) {
        line("next", &next);
    }
    if verbose && let Some(source) = std::error::Error::source(status) {
        line("cause", &format!("{source:?}"));
    }
    text
}

/// What could not be placed, without the candidates: they get a line each.
fn headline(details: &ErrorDetails, message: &str) -> String {
    let info = details.error_info().filter(|info| info.reason == "NO_PLACE");
    let listed = details.precondition_failure().is_some_and(|failed| !failed.violations.is_empty());
    match info.and_then(|info| info.metadata.get("wanted")) {
        Some(wanted) if listed => format!("no place for {wanted}"),
        _ => message.to_owned(),
    }
}

/// Whether a message begins with the object it is about: "DA da0 already exists", "PD 127.0.0.1:9720/pd0 is in use".
fn names(message: &str, about: &str) -> bool {
    let plain = |text: &str| text.to_lowercase().replace('/', " ");
    plain(message).starts_with(&format!("{} ", plain(about)))
}

/// Whether a message has these words; "DA da1" is not in "DA da10".
fn mentions(message: &str, words: &str) -> bool {
    let goes_on = |rest: &str| rest.starts_with(|c: char| c.is_alphanumeric() || "-_/:".contains(c));
    message.match_indices(words).any(|(at, _)| !goes_on(&message[at + words.len()..]))
}

/// What the message does not say already: field violations, refused candidates, users, the resource.
fn explain(details: &ErrorDetails, message: &str, verbose: bool) -> Vec<(String, String)> {
    let mut lines = Vec::new();
    if let Some(bad) = details.bad_request() {
        let new = bad.field_violations.iter().filter(|v| !mentions(message, &v.description));
        lines.extend(new.map(|v| (format!("field {}", v.field), v.description.clone())));
    }
    if let Some(failed) = details.precondition_failure() {
        let new = failed.violations.iter().filter(|v| !mentions(message, &v.subject));
        lines.extend(new.map(|v| (v.subject.clone(), v.description.clone())));
        let candidates = details.error_info().and_then(|info| info.metadata.get("candidates")?.parse().ok());
        let more = candidates.unwrap_or(0_usize).saturating_sub(failed.violations.len());
        if more > 0 {
            lines.push(("and".to_owned(), format!("{more} more that were not suitable")));
        }
    }
    if let Some(quota) = details.quota_failure() {
        lines.extend(quota.violations.iter().map(|v| (v.subject.clone(), v.description.clone())));
    }
    let unnamed = |resource: &&ResourceInfo| {
        !mentions(message, &format!("{} {}", resource.resource_type, resource.resource_name))
    };
    if let Some(resource) = details.resource_info().filter(unnamed) {
        lines.push(("resource".into(), format!("{} {}", resource.resource_type, resource.resource_name)));
    }
    if let Some(info) = details.error_info().filter(|_| verbose) {
        let mut metadata: Vec<_> = info.metadata.iter().collect();
        metadata.sort();
        lines.extend(metadata.into_iter().map(|(key, value)| (key.clone(), value.clone())));
    }
    lines
}

/// "da da0" -> "da get da0".
fn inspect(about: &str) -> String {
    match about.split_once(' ') {
        Some((noun, name)) => format!("{noun} get {name}"),
        None => format!("{about} list"),
    }
}

fn next_step(about: &str, code: Code, repeat_as: Option<&str>) -> Option<String> {
    let noun = about.split(' ').next().unwrap_or(about);
    match code {
        Code::NotFound => Some(format!("`vdacli {noun} list` shows what there is")),
        Code::AlreadyExists => Some(format!("`vdacli {}` shows the one there is", inspect(about))),
        Code::Aborted => {
            Some(format!("it has changed meanwhile: look with `vdacli {}`, then repeat", inspect(about)))
        }
        Code::FailedPrecondition => Some(format!(
            "remove what is in the way; `vdacli {} -o wide` shows the present state",
            inspect(about)
        )),
        Code::ResourceExhausted => Some(
            "`vdacli pd list` and `vdacli cn list` show what is free; add nodes or disks, or ask for less"
                .into(),
        ),
        Code::InvalidArgument | Code::OutOfRange => Some(format!("`vdacli {noun} --help`")),
        Code::Unavailable | Code::DeadlineExceeded => Some(match repeat_as {
            Some(id) => format!(
                "it may or may not have been carried out: repeating it with --request-id {id} is safe, it is done once"
            ),
            None => "check the portal and its etcd, then repeat".to_owned(),
        }),
        Code::Internal | Code::Unknown | Code::DataLoss => {
            Some("the portal's log has more under this request id".into())
        }
        _ => None,
    }
}
