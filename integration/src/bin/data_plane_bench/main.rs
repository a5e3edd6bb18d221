//! What a data plane does: IOPS and latency over every kind of stack, on one core, beside SPDK in the same run; and what it costs when
//! it has much to hold and nothing to do.

mod limits;
mod load;
mod report;
mod scale;
mod stack;

use std::{io::Write as _, path::PathBuf, time::Duration};

use anyhow::Context as _;
use clap::Parser;

use crate::report::Report;
use crate::stack::Stack;

/// Measures the data plane on this machine, over loopback: the target on core 0, the host on core 1
///
/// With VDA_SPDK_TGT=/path/to/spdk_tgt the same load runs on SPDK as well, in turns, and ratios are shown.
#[derive(Debug, Parser)]
struct Args {
    /// Where to write the results as JSON
    #[arg(long, value_name = "FILE")]
    json: PathBuf,
    /// Short runs, to see that it works: the numbers mean little
    #[arg(long)]
    quick: bool,
    /// Only these stacks
    #[arg(long, value_enum, value_delimiter = ',', value_name = "STACKS")]
    stacks: Vec<Stack>,
    /// Rounds of each row, in turns with SPDK; medians are reported [default: 9, 3 and 5 at depth 1, 8 and 64]
    #[arg(long, value_name = "N")]
    rounds: Option<usize>,
    /// Milliseconds of each turn, besides a part that is not counted [default: 400, at depth 64 500]
    #[arg(long, value_name = "MS")]
    time: Option<u64>,
    /// Run targets and hosts with real-time priority (chrt, needs root): for machines on which others work too
    #[arg(long)]
    realtime: bool,
    /// Where the file of the aio stack is made
    #[arg(long, value_name = "DIR", default_value_os_t = std::env::temp_dir())]
    file_dir: PathBuf,
    /// Leave connections, memory and idle cost out
    #[arg(long)]
    no_scale: bool,
    /// Leave limits of bdevs out
    #[arg(long)]
    no_limits: bool,
}

/// How often a depth is measured, and for how long. A machine that others use too has spells in which everything is slower: many short
/// turns put as much of them on one data plane as on the other, and a median of many leaves out those that met the end of one.
#[derive(Clone, Copy)]
struct Depth {
    depth: u16,
    rounds: usize,
    time: Duration,
}

/// How much is measured, and how.
struct Effort {
    depths: [Depth; 3],
    /// Load on each data plane before anything is measured: a new process is slower.
    warm_up: Duration,
    realtime: bool,
    file_dir: PathBuf,
    /// Subsystems, connections to each, and how long all are loaded.
    scale: (usize, usize, Duration),
    /// Rounds of each limit, and how long each is met.
    limits: (usize, Duration),
    /// How long nothing is done while that is measured.
    idle: Duration,
}

impl Effort {
    fn new(args: &Args) -> Self {
        let depth = |depth: u16, rounds: usize, ms: u64| {
            let (rounds, ms) = if args.quick { (1, 200) } else { (rounds, ms) };
            let time = Duration::from_millis(args.time.unwrap_or(ms));
            Depth { depth, rounds: args.rounds.unwrap_or(rounds).max(1), time }
        };
        let (scale, load_ms, idle, warm_up_ms) =
            if args.quick { (100, 200, 2, 200) } else { (1000, 1000, 10, 4000) };
        let (rounds, limit_ms) = if args.quick { (1, 400) } else { (3, 2000) };
        Self {
            depths: [depth(1, 9, 400), depth(8, 3, 400), depth(64, 5, 500)],
            warm_up: Duration::from_millis(warm_up_ms),
            realtime: args.realtime,
            file_dir: args.file_dir.clone(),
            scale: (scale, 4, Duration::from_millis(load_ms)),
            limits: (
                args.rounds.unwrap_or(rounds).max(1),
                Duration::from_millis(args.time.unwrap_or(limit_ms)),
            ),
            idle: Duration::from_secs(idle),
        }
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let effort = Effort::new(&args);
    let stacks = if args.stacks.is_empty() { Stack::ALL } else { &args.stacks[..] };
    let mut report = Report::default();
    for stack in stacks {
        eprintln!("measuring {stack}");
        let rows = load::measure(*stack, &effort).await.with_context(|| format!("measuring {stack}"))?;
        report.rows.extend(rows);
    }
    if !args.no_scale {
        eprintln!("measuring connections, memory and idle cost");
        let scale = scale::measure(&effort).await.context("measuring connections")?;
        (report.idle_cpu_percent, report.rss_mib) = (Some(scale.idle_cpu_percent), Some(scale.rss_mib));
        report.scale = Some(scale);
    }
    if !args.no_limits {
        eprintln!("measuring limits");
        report.limits = limits::measure(&effort).await.context("measuring limits")?;
    }
    let mut out = std::io::stdout().lock();
    write!(out, "{report}")?;
    std::fs::write(&args.json, serde_json::to_string_pretty(&report)? + "\n")
        .with_context(|| format!("writing {}", args.json.display()))?;
    writeln!(out, "\nwritten: {}", args.json.display())?;
    Ok(())
}
