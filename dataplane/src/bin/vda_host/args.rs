//! The command line.

use std::net::{SocketAddr, ToSocketAddrs};
use std::path::PathBuf;
use std::time::Duration;

use clap::{ArgGroup, Args as ClapArgs, Parser, Subcommand, ValueEnum};

/// NVMe/TCP host in user space: checks a volume without a kernel driver.
///
/// Exit codes: 0 success, 1 failure, 2 wrong usage, 3 data differs from what is expected, 4 refused by the target (host NQN not
/// allowed, or no such subsystem). Logs go to stderr (VDA_LOG=debug for more), results to stdout.
#[derive(Debug, Parser)]
#[command(name = "vda_host", version)]
pub(crate) struct Args {
    /// Log connections and reconnections.
    #[arg(short, long, global = true)]
    pub(crate) verbose: bool,
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Show the subsystems that a target offers to this host.
    Discover(Discover),
    /// Show the controllers and namespaces of a subsystem.
    Identify(Identify),
    /// Read a range to a file or to stdout.
    Read(Read),
    /// Write random or given data over a range.
    Write(Write),
    /// Read a range and compare it with what `write --random` wrote with the same seed.
    Verify(Verify),
    /// Measure IOPS, throughput and latency.
    Bench(Bench),
}

/// How results are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    Text,
    Json,
}

#[derive(Debug, Clone, ClapArgs)]
pub(crate) struct Host {
    /// Host NQN to present; targets with a host list need it exactly. Random if absent.
    #[arg(long, env = "VDA_HOSTNQN", value_name = "NQN")]
    pub(crate) hostnqn: Option<String>,
    /// Ask for header digests (CRC32C).
    #[arg(long)]
    pub(crate) hdgst: bool,
    /// Ask for data digests (CRC32C).
    #[arg(long)]
    pub(crate) ddgst: bool,
    /// Keep-alive time in seconds: how long a silent controller counts as alive. 0 turns it off.
    #[arg(long, default_value_t = 5, value_name = "SECONDS")]
    pub(crate) keep_alive: u64,
    /// Time for each step of connecting.
    #[arg(long, default_value = "10s", value_parser = humantime::parse_duration, value_name = "TIME")]
    pub(crate) connect_timeout: Duration,
}

#[derive(Debug, Clone, ClapArgs)]
pub(crate) struct Subsystem {
    /// Where the subsystem is, tcp://ADDRESS:PORT. Give it several times for several paths: I/O uses the optimized one and moves
    /// when it fails. At least one has to answer.
    #[arg(long = "path", required = true, value_parser = parse_path, value_name = "tcp://ADDR:PORT")]
    pub(crate) paths: Vec<SocketAddr>,
    /// Subsystem NQN.
    #[arg(long, value_name = "NQN")]
    pub(crate) nqn: String,
    /// I/O queues per path.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=64))]
    pub(crate) queues: u16,
    /// How long an I/O may take, waiting for a lost path included, before it fails.
    #[arg(long, default_value = "30s", value_parser = humantime::parse_duration, value_name = "TIME")]
    pub(crate) io_timeout: Duration,
    #[command(flatten)]
    pub(crate) host: Host,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct Range {
    /// Namespace; the first one if absent.
    #[arg(long)]
    pub(crate) nsid: Option<u32>,
    /// First byte, a multiple of the block size. Units like 4KiB, 1GiB are understood.
    #[arg(long, default_value = "0", value_parser = parse_size, value_name = "SIZE")]
    pub(crate) offset: u64,
    /// Bytes, a multiple of the block size; the rest of the namespace if absent.
    #[arg(long, value_parser = parse_size, value_name = "SIZE")]
    pub(crate) length: Option<u64>,
    /// Bytes of one I/O.
    #[arg(long, default_value = "128KiB", value_parser = parse_size, value_name = "SIZE")]
    pub(crate) io_size: u64,
    /// I/Os in flight.
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub(crate) depth: u16,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct Discover {
    /// Discovery service, tcp://ADDRESS:PORT.
    #[arg(long = "path", required = true, value_parser = parse_path, value_name = "tcp://ADDR:PORT")]
    pub(crate) paths: Vec<SocketAddr>,
    #[command(flatten)]
    pub(crate) host: Host,
    #[arg(short, long, value_enum, default_value_t = Format::Text)]
    pub(crate) output: Format,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct Identify {
    #[command(flatten)]
    pub(crate) subsystem: Subsystem,
    #[arg(short, long, value_enum, default_value_t = Format::Text)]
    pub(crate) output: Format,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct Read {
    #[command(flatten)]
    pub(crate) subsystem: Subsystem,
    #[command(flatten)]
    pub(crate) range: Range,
    /// File to write to; stdout if absent.
    #[arg(long, value_name = "FILE")]
    pub(crate) to: Option<PathBuf>,
}

#[derive(Debug, ClapArgs)]
#[command(group = ArgGroup::new("source").required(true))]
pub(crate) struct Write {
    #[command(flatten)]
    pub(crate) subsystem: Subsystem,
    #[command(flatten)]
    pub(crate) range: Range,
    /// Pseudo-random data that depends on seed and position, to be checked with `verify`.
    #[arg(long, group = "source")]
    pub(crate) random: bool,
    /// File to write; its length must be a multiple of the block size.
    #[arg(long, group = "source", value_name = "FILE")]
    pub(crate) from: Option<PathBuf>,
    /// Leave out the flush at the end: what is written may be lost with the power of the disks.
    #[arg(long)]
    pub(crate) no_flush: bool,
    /// Seed of --random.
    #[arg(long, default_value_t = 0)]
    pub(crate) seed: u64,
    #[arg(short, long, value_enum, default_value_t = Format::Text)]
    pub(crate) output: Format,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct Verify {
    #[command(flatten)]
    pub(crate) subsystem: Subsystem,
    #[command(flatten)]
    pub(crate) range: Range,
    /// Seed that `write --random` was given.
    #[arg(long, default_value_t = 0)]
    pub(crate) seed: u64,
    #[arg(short, long, value_enum, default_value_t = Format::Text)]
    pub(crate) output: Format,
}

/// Kind of load.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Load {
    Randread,
    Randwrite,
    Read,
    Write,
    /// Random, 7 of 10 are reads.
    Randrw,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct Bench {
    #[command(flatten)]
    pub(crate) subsystem: Subsystem,
    /// More subsystems on the same paths; the load goes over all of them in turn.
    #[arg(long = "also", value_name = "NQN")]
    pub(crate) also: Vec<String>,
    /// Stay connected for this long, without load, before the load.
    #[arg(long, value_parser = humantime::parse_duration, value_name = "TIME")]
    pub(crate) hold: Option<Duration>,
    /// Kind of load. Writes overwrite the namespace.
    #[arg(long, value_enum, default_value_t = Load::Randread)]
    pub(crate) load: Load,
    /// Namespace; the first one if absent.
    #[arg(long)]
    pub(crate) nsid: Option<u32>,
    /// Bytes of one I/O.
    #[arg(long, default_value = "4KiB", value_parser = parse_size, value_name = "SIZE")]
    pub(crate) io_size: u64,
    /// I/Os in flight.
    #[arg(long, default_value_t = 32, value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub(crate) depth: u16,
    /// How long to measure.
    #[arg(long, default_value = "5s", value_parser = humantime::parse_duration, value_name = "TIME")]
    pub(crate) time: Duration,
    /// Load for this long before anything is counted.
    #[arg(long, default_value = "0s", value_parser = humantime::parse_duration, value_name = "TIME")]
    pub(crate) warm_up: Duration,
    /// Seed of the positions and of the data.
    #[arg(long, default_value_t = 0)]
    pub(crate) seed: u64,
    #[arg(short, long, value_enum, default_value_t = Format::Text)]
    pub(crate) output: Format,
}

fn parse_path(text: &str) -> Result<SocketAddr, String> {
    let Some(rest) = text.strip_prefix("tcp://") else {
        return Err(format!("{text:?} is no path: expected tcp://ADDRESS:PORT"));
    };
    let mut found =
        rest.to_socket_addrs().map_err(|e| format!("{rest:?}: {e}; expected tcp://ADDRESS:PORT"))?;
    found.next().ok_or_else(|| format!("{rest:?} has no address"))
}

fn parse_size(text: &str) -> Result<u64, String> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let shift = match unit.trim().to_ascii_lowercase().as_str() {
        "" | "b" => 0,
        "k" | "kib" => 10,
        "m" | "mib" => 20,
        "g" | "gib" => 30,
        "t" | "tib" => 40,
        _ => return Err(format!("unit {unit:?} is unknown: use KiB, MiB, GiB or TiB")),
    };
    let number: u64 =
        number.parse().map_err(|_| format!("{text:?} is no size: expected e.g. 4096 or 128KiB"))?;
    number.checked_mul(1 << shift).ok_or_else(|| format!("{text:?} is too large"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn command_line_is_consistent() {
        Args::command().debug_assert();
    }

    #[test]
    fn sizes_have_units_and_limits() {
        assert_eq!(parse_size("4096"), Ok(4096));
        assert_eq!(parse_size("128KiB"), Ok(131_072));
        assert_eq!(parse_size("1g"), Ok(1 << 30));
        assert!(
            parse_size("KiB").is_err()
                && parse_size("1x").is_err()
                && parse_size("99999999999999999999").is_err()
        );
        assert!(parse_size("99999999999TiB").is_err());
    }

    #[test]
    fn paths_are_urls() {
        assert_eq!(parse_path("tcp://127.0.0.1:4420"), Ok(SocketAddr::from(([127, 0, 0, 1], 4420))));
        assert!(parse_path("127.0.0.1:4420").is_err() && parse_path("tcp://127.0.0.1").is_err());
    }
}
