//! What a guest's kernel log may say.

/// What was done to the paths while the kernel logged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Faults {
    /// Nothing: the kernel has no reason to say anything.
    None,
    /// ANA states changed: there may have been no usable path for a while.
    NoUsablePath,
    /// Connections were cut as well, and refused.
    Connections,
}

/// Messages of a guest that did not get the processor for a while.
const BUSY_MACHINE: [&str; 3] = ["hrtimer: interrupt took ", "clocksource: ", "long keepalive RTT "];

/// Messages of a kernel that waits for a path to come back, and resends.
const NO_USABLE_PATH: [&str; 2] = ["no usable path - requeuing I/O", "nvme_ns_head_submit_bio: "];

/// Messages of a kernel that finds out about a cut connection and makes a new one.
const CONNECTIONS: [&str; 12] = [
    "starting error recovery",
    "Reconnecting in ",
    "failed to connect socket: ",
    "failed to connect queue: 0 ret=",
    // What a target answers that listens at the address, but not for this subsystem.
    "Connect for subsystem ",
    "Failed reconnect attempt ",
    "Successfully reconnected (",
    "failed to send request ",
    "queue 0: timeout request ",
    "queue 1: timeout request ",
    "failed nvme_keep_alive_end_io error=",
    "Connect command failed",
];

/// The lines of a decoded kernel log (`facility:level: [time] text`) that are worse than informational and not excused. Any trace
/// of a bug, of a hung task or of an I/O error is at such a level.
pub(super) fn complaints(log: &str, faults: Faults) -> Vec<&str> {
    let excused = match faults {
        Faults::None => BUSY_MACHINE.to_vec(),
        Faults::NoUsablePath => [&BUSY_MACHINE[..], &NO_USABLE_PATH].concat(),
        Faults::Connections => [&BUSY_MACHINE[..], &NO_USABLE_PATH, &CONNECTIONS].concat(),
    };
    log.lines()
        .filter(|line| !line.trim().is_empty() && !is_informational(line))
        .filter(|line| !excused.iter().any(|text| line.contains(text)))
        .collect()
}

/// `kern  :info  : [    3.160000] text`
fn is_informational(line: &str) -> bool {
    let level = line.split(':').nth(1).unwrap_or_default().trim();
    matches!(level, "info" | "debug" | "notice")
}

#[cfg(test)]
#[path = "kernel_log_tests.rs"]
mod tests;
