//! How single values are shown in tables.

use std::time::{Duration, UNIX_EPOCH};

pub(crate) use vda_model::sizes::format as size;
use vda_proto::v1::{Condition, NvmfListener, Qos, ResourceStatus};

use crate::table::{Cell, Tone};

/// `Ready`, `Blocked`, …; `Unknown` while nobody has reported.
pub(crate) fn condition(status: Option<&ResourceStatus>) -> Cell {
    let (name, tone) = match status.map(ResourceStatus::condition).unwrap_or_default() {
        Condition::Unspecified => ("Unknown", Tone::Busy),
        Condition::Pending => ("Pending", Tone::Busy),
        Condition::Ready => ("Ready", Tone::Good),
        Condition::Degraded => ("Degraded", Tone::Busy),
        Condition::Blocked => ("Blocked", Tone::Bad),
        Condition::Failed => ("Failed", Tone::Bad),
        Condition::Deleting => ("Deleting", Tone::Busy),
    };
    Cell::toned(name, tone)
}

/// Why it is not ready: what it waits for, or what failed.
pub(crate) fn reason(status: Option<&ResourceStatus>) -> String {
    let Some(status) = status else { return String::new() };
    let failed = match (status.op.is_empty(), status.code) {
        (true, _) => status.message.clone(),
        (false, 0) => format!("{}: {}", status.op, status.message),
        (false, code) => format!("{}: {} ({code})", status.op, status.message),
    };
    match (status.on.is_empty(), failed.is_empty()) {
        (true, _) => failed,
        (false, true) => format!("waits for {}", status.on),
        (false, false) => format!("waits for {}; {failed}", status.on),
    }
}

/// Condition and reason in one phrase, for progress: "blocked: waits for DN 127.0.0.1:9720: agent unreachable".
pub(crate) fn phrase(status: Option<&ResourceStatus>) -> String {
    let name = match status.map(ResourceStatus::condition).unwrap_or_default() {
        Condition::Unspecified => "not observed yet",
        Condition::Pending => "pending",
        Condition::Ready => "ready",
        Condition::Degraded => "degraded",
        Condition::Blocked => "blocked",
        Condition::Failed => "failed",
        Condition::Deleting => "deleting",
    };
    match reason(status) {
        reason if reason.is_empty() => name.to_owned(),
        reason => format!("{name}: {reason}"),
    }
}

/// `127.0.0.1:4420`, `[::1]:4420`.
pub(crate) fn listener(listener: Option<&NvmfListener>) -> String {
    listener.map_or_else(String::new, |l| match l.adrfam.as_str() {
        "ipv6" => format!("[{}]:{}", l.traddr, l.trsvcid),
        _ => format!("{}:{}", l.traddr, l.trsvcid),
    })
}

pub(crate) fn yes_no(value: bool) -> &'static str {
    if value { "yes" } else { "no" }
}

/// RFC 3339, UTC; empty for a time that was never set.
pub(crate) fn time(unix_ms: i64) -> String {
    match u64::try_from(unix_ms) {
        Ok(ms @ 1..) => humantime::format_rfc3339_seconds(UNIX_EPOCH + Duration::from_millis(ms)).to_string(),
        _ => String::new(),
    }
}

/// The limits that are set: `1000 IOPS, 10 MiB/s read`.
pub(crate) fn qos(qos: Option<&Qos>) -> String {
    let Some(q) = qos else { return String::new() };
    let limits = [
        (q.rw_ios_per_sec, "IOPS"),
        (q.rw_mbytes_per_sec, "MiB/s"),
        (q.r_mbytes_per_sec, "MiB/s read"),
        (q.w_mbytes_per_sec, "MiB/s write"),
    ];
    let set = limits.iter().filter(|(limit, _)| *limit > 0).map(|(limit, unit)| format!("{limit} {unit}"));
    set.collect::<Vec<_>>().join(", ")
}
