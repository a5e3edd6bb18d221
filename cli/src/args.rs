//! Arguments that many commands share.

use std::time::Duration;

use clap::{Args, ValueEnum};
use vda_proto::v1::Qos;

/// Accepted by every command.
#[derive(Debug, Args)]
#[command(next_help_heading = "Global options")]
pub(crate) struct Global {
    /// Address of a portal
    #[arg(
        long,
        global = true,
        env = "VDA_PORTAL",
        hide_env_values = true,
        value_name = "HOST:PORT",
        default_value = "127.0.0.1:9520"
    )]
    pub(crate) portal: String,
    /// How long one call to the portal may take; waiting for a result is not counted
    #[arg(
        long,
        global = true,
        env = "VDA_TIMEOUT",
        hide_env_values = true,
        value_name = "DURATION",
        default_value = "10s"
    )]
    #[arg(value_parser = humantime::parse_duration)]
    pub(crate) timeout: Duration,
    /// What to print: json and yaml are the portal's messages, complete
    #[arg(
        short,
        long,
        global = true,
        env = "VDA_OUTPUT",
        hide_env_values = true,
        value_name = "FORMAT",
        default_value = "table"
    )]
    pub(crate) output: Format,
    /// Say more: the request id of every call, and where an error came from
    #[arg(short, long, global = true)]
    pub(crate) verbose: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    Table,
    Wide,
    Json,
    Yaml,
}

/// How long a command that accepts `--wait` waits when nothing is said.
const DEFAULT_WAIT: Duration = Duration::from_secs(10);

#[derive(Debug, Args)]
pub(crate) struct Waiting {
    /// Wait for the result, 5 minutes or as long as given, and fail with exit code 6 when it does not come. Without it, wait
    /// 10 seconds and only warn
    #[arg(long, value_name = "DURATION", num_args = 0..=1, require_equals = true, default_missing_value = "5m")]
    #[arg(value_parser = humantime::parse_duration, conflicts_with = "no_wait")]
    wait: Option<Duration>,
    /// Return as soon as the portal has accepted the request
    #[arg(long)]
    no_wait: bool,
}

/// What a command does about the result that comes after the portal's answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Patience {
    None,
    /// Look for this long; that it is not there yet is worth a remark.
    Remark(Duration),
    /// That it is not there in this time is a failure.
    Insist(Duration),
}

impl Waiting {
    pub(crate) fn patience(&self) -> Patience {
        match (self.wait, self.no_wait) {
            (Some(limit), _) => Patience::Insist(limit),
            (None, true) => Patience::None,
            (None, false) => Patience::Remark(DEFAULT_WAIT),
        }
    }
}

/// For scripts that say yes beforehand to whatever a tool may ask.
#[derive(Debug, Args)]
pub(crate) struct Yes {
    /// Has no effect: vdacli never asks
    #[arg(short, long)]
    yes: bool,
}

/// For commands that wait only when told to.
#[derive(Debug, Args)]
pub(crate) struct WaitingIfAsked {
    /// Wait for the result, 5 minutes or as long as given, and fail with exit code 6 when it does not come
    #[arg(long, value_name = "DURATION", num_args = 0..=1, require_equals = true, default_missing_value = "5m")]
    #[arg(value_parser = humantime::parse_duration)]
    wait: Option<Duration>,
}

impl WaitingIfAsked {
    pub(crate) fn patience(&self) -> Patience {
        self.wait.map_or(Patience::None, Patience::Insist)
    }
}

/// The client's name for a mutating request.
#[derive(Debug, Args)]
pub(crate) struct Identity {
    /// Name of this request, at most 64 characters: repeating a request under the same name returns what the first one did. Random
    /// by default
    #[arg(long, value_name = "ID", default_value_t = uuid::Uuid::new_v4().to_string(), hide_default_value = true)]
    pub(crate) request_id: String,
}

#[derive(Debug, Args)]
pub(crate) struct Revision {
    /// Only if the object is still at this revision (as shown by `-o wide`)
    #[arg(long, value_name = "N", default_value_t = 0, hide_default_value = true)]
    pub(crate) revision: u64,
}

/// `--offline` or `--online`.
#[derive(Debug, Args)]
pub(crate) struct Placement {
    /// Place nothing new on it; what is there stays and keeps serving
    #[arg(long, conflicts_with = "online")]
    offline: bool,
    /// Place on it again
    #[arg(long)]
    online: bool,
}

impl Placement {
    pub(crate) fn offline(&self) -> Option<bool> {
        match (self.offline, self.online) {
            (true, _) => Some(true),
            (_, true) => Some(false),
            _ => None,
        }
    }
}

/// Limits; those not given are 0, unlimited.
#[derive(Debug, Args)]
pub(crate) struct Limits {
    /// Limit of reads and writes together, I/Os per second; 0 is unlimited
    #[arg(long, value_name = "N")]
    rw_iops: Option<u64>,
    /// Limit of reads and writes together, MiB per second; 0 is unlimited
    #[arg(long, value_name = "N")]
    rw_mibps: Option<u64>,
    /// Limit of reads, MiB per second; 0 is unlimited
    #[arg(long, value_name = "N")]
    r_mibps: Option<u64>,
    /// Limit of writes, MiB per second; 0 is unlimited
    #[arg(long, value_name = "N")]
    w_mibps: Option<u64>,
}

impl Limits {
    /// `None` if no limit was given at all.
    pub(crate) fn qos(&self) -> Option<Qos> {
        let given = [self.rw_iops, self.rw_mibps, self.r_mibps, self.w_mibps];
        given.iter().any(Option::is_some).then(|| Qos {
            rw_ios_per_sec: self.rw_iops.unwrap_or(0),
            rw_mbytes_per_sec: self.rw_mibps.unwrap_or(0),
            r_mbytes_per_sec: self.r_mibps.unwrap_or(0),
            w_mbytes_per_sec: self.w_mibps.unwrap_or(0),
        })
    }

    /// The limits to set on something that has some: those not given stay as they are.
    pub(crate) fn over(&self, present: Option<Qos>) -> Option<Qos> {
        self.qos().map(|_| {
            let present = present.unwrap_or_default();
            Qos {
                rw_ios_per_sec: self.rw_iops.unwrap_or(present.rw_ios_per_sec),
                rw_mbytes_per_sec: self.rw_mibps.unwrap_or(present.rw_mbytes_per_sec),
                r_mbytes_per_sec: self.r_mibps.unwrap_or(present.r_mbytes_per_sec),
                w_mbytes_per_sec: self.w_mibps.unwrap_or(present.w_mbytes_per_sec),
            }
        })
    }
}
