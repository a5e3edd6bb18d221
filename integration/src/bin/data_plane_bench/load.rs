//! Load on a stack: the target on one core, the host on another, ours and SPDK's in turns.

use std::{collections::BTreeMap, process::Stdio, time::Duration};

use anyhow::{Context as _, ensure};
use serde::Deserialize;
use tokio::process::Command;
use vda_integration::{Make, Target, program, usage};

use crate::{
    Depth, Effort,
    report::{Row, median},
    stack::{self, NQN, Stack},
};

/// Core of the target, and of the host.
const TARGET_CORE: usize = 0;
const HOST_CORE: usize = 1;
/// Of the two, if it is to be real-time.
const PRIORITY: &str = "10";

/// Kinds of load: as reported, and as `vda_host bench` calls it.
const KINDS: &[(&str, &str)] = &[("read", "randread"), ("write", "randwrite"), ("mixed", "randrw")];
const BLOCKS_KIB: &[u32] = &[4, 128];
/// Of each turn, at its beginning, not counted: the other's turn has left nothing in the caches, and a reactor that slept has to notice that
/// sleeping does not pay.
const WARM_UP: Duration = Duration::from_millis(50);

/// What `vda_host bench -o json` says.
#[derive(Clone, Copy, Debug, Deserialize)]
struct Answer {
    seconds: f64,
    iops: f64,
    p50_us: f64,
    p99_us: f64,
}

/// One run.
#[derive(Clone, Copy, Debug)]
struct Sample {
    answer: Answer,
    /// Of a core, that the target used.
    cpu_percent: f64,
}

/// A row: kind of load, block size in KiB, depth.
type Cell = (&'static str, u32, u16);

pub(crate) async fn measure(stack: Stack, effort: &Effort) -> anyhow::Result<Vec<Row>> {
    let files = tempfile::Builder::new().prefix("vda-bench-").tempdir_in(&effort.file_dir)?;
    let mut targets = Vec::new();
    for make in Make::available() {
        let target = start(make, effort).await?;
        let file = files.path().join(make.to_string());
        stack::build(stack, &target, &file).await.with_context(|| format!("building {stack} on {make}"))?;
        // Thin volumes are allocated before anything is measured.
        host(&target, effort, &["write", "--nqn", NQN, "--random", "-o", "json"]).await?;
        run(&target, effort, ("mixed", 4, 8), effort.warm_up).await.context("warming up")?;
        target.freeze(true);
        targets.push((make, target));
    }
    let mut samples: BTreeMap<Cell, Vec<Vec<Sample>>> = BTreeMap::new();
    let rounds = effort.depths.iter().map(|d| d.rounds).max().unwrap_or_default();
    for round in 0..rounds {
        for (cell, depth) in cells(effort).filter(|(_, depth)| round < depth.rounds) {
            let mut turn = vec![None; targets.len()];
            // Each is first in every second round.
            for n in (0..targets.len()).map(|n| (n + round) % targets.len()) {
                let (make, target) = &targets[n];
                target.freeze(false);
                let sample = run(target, effort, cell, depth.time).await;
                target.freeze(true);
                turn[n] = Some(sample.with_context(|| format!("{make}, {cell:?}"))?);
            }
            samples.entry(cell).or_default().push(turn.into_iter().flatten().collect());
        }
    }
    Ok(cells(effort).map(|(cell, _)| row(stack, cell, &samples[&cell])).collect())
}

/// A data plane on its core.
pub(crate) async fn start(make: Make, effort: &Effort) -> anyhow::Result<Target> {
    let target = Target::start(make, TARGET_CORE).await?;
    if effort.realtime {
        // Not from the start: threads of SPDK wait for each other while they start, which needs the scheduler's fairness.
        let mut chrt = Command::new("chrt");
        chrt.args(["--all-tasks", "--fifo", "--pid", PRIORITY, &target.pid().to_string()]);
        ensure!(chrt.status().await.context("chrt")?.success(), "--realtime: chrt failed, it needs root");
    }
    Ok(target)
}

fn cells(effort: &Effort) -> impl Iterator<Item = (Cell, Depth)> {
    let depths = &effort.depths;
    KINDS.iter().flat_map(move |(kind, _)| {
        BLOCKS_KIB.iter().flat_map(move |kib| depths.iter().map(move |d| ((*kind, *kib, d.depth), *d)))
    })
}

/// Loads the target for so long.
async fn run(
    target: &Target,
    effort: &Effort,
    (kind, kib, depth): Cell,
    time: Duration,
) -> anyhow::Result<Sample> {
    let load = KINDS.iter().find(|(name, _)| *name == kind).context("a known kind")?.1;
    let (size, depth) = (format!("{kib}KiB"), depth.to_string());
    let (time, warm_up) = (format!("{}ms", time.as_millis()), format!("{}ms", WARM_UP.as_millis()));
    let args = ["bench", "--nqn", NQN, "--load", load, "--io-size", &size, "--depth", &depth];
    let times = ["--time", &time, "--warm-up", &warm_up, "-o", "json"];
    let before = usage::cpu(target.pid())?;
    let answer = host(target, effort, &[&args[..], &times[..]].concat()).await?;
    let used = usage::cpu(target.pid())? - before;
    let answer: Answer = serde_json::from_str(&answer).context("vda_host bench")?;
    // What it used while the host started and connected counts as used for the load: of what polls, there is no more than all.
    let loaded = answer.seconds + WARM_UP.as_secs_f64();
    let cpu_percent = (used.as_secs_f64() / loaded * 100.0).min(100.0);
    Ok(Sample { answer, cpu_percent })
}

/// Runs `vda_host` against the target, on its own core; what it printed.
pub(crate) async fn host(target: &Target, effort: &Effort, args: &[&str]) -> anyhow::Result<String> {
    let output = host_command(target, effort, args)?.output().await.context("vda_host")?;
    let text = String::from_utf8(output.stdout)?;
    ensure!(output.status.success(), "vda_host {args:?}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(text)
}

/// The command for [`host`].
pub(crate) fn host_command(target: &Target, effort: &Effort, args: &[&str]) -> anyhow::Result<Command> {
    let core = HOST_CORE.to_string();
    let mut command = Command::new("taskset");
    command.args(["-c", &core]);
    if effort.realtime {
        command.args(["chrt", "--fifo", PRIORITY]);
    }
    command.arg(program("vda_host")?).args(args);
    command.args(["--path", &format!("tcp://127.0.0.1:{}", target.port())]);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    Ok(command)
}

/// Medians over the rounds; ratios are medians of the ratios of each turn. `rounds`: per round, one sample of each data plane.
fn row(stack: Stack, (rw, block_kib, qd): Cell, rounds: &[Vec<Sample>]) -> Row {
    let ours = |f: fn(&Sample) -> f64| median(rounds.iter().filter_map(|turn| turn.first()).map(f));
    let spdk = |f: fn(&Sample) -> f64| median(rounds.iter().filter_map(|turn| turn.get(1)).map(f));
    let ratio = |f: fn(&Sample) -> f64| {
        median(rounds.iter().filter_map(|turn| Some(f(turn.first()?) / f(turn.get(1)?))))
    };
    Row {
        stack: stack.to_string(),
        rw: rw.to_owned(),
        block_kib,
        qd,
        iops: ours(|s| s.answer.iops).unwrap_or_default(),
        mib_per_s: ours(|s| s.answer.iops).unwrap_or_default() * f64::from(block_kib) / 1024.0,
        p50_us: ours(|s| s.answer.p50_us).unwrap_or_default(),
        p99_us: ours(|s| s.answer.p99_us).unwrap_or_default(),
        cpu_percent: ours(|s| s.cpu_percent).unwrap_or_default(),
        spdk_iops: spdk(|s| s.answer.iops),
        spdk_p50_us: spdk(|s| s.answer.p50_us),
        spdk_p99_us: spdk(|s| s.answer.p99_us),
        iops_ratio: ratio(|s| s.answer.iops),
        iops_per_core_ratio: ratio(|s| s.answer.iops / s.cpu_percent),
        p50_ratio: ratio(|s| s.answer.p50_us),
    }
}
