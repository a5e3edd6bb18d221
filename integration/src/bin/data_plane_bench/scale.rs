//! Many subsystems and connections: are they served, what do they hold in memory, and what does an idle data plane cost?

use std::{fmt, process::Output, time::Duration};

use anyhow::{Context as _, ensure};
use serde::Serialize;
use vda_integration::{Make, Target, eventually, usage};

use crate::{Effort, load, stack};

/// Of each subsystem, how many are connected when the cost of idle connections is measured.
const IDLE_SUBSYSTEMS: usize = 25;
/// Each subsystem's namespace.
const MIB: u64 = 1;
/// For connecting all, and for their end.
const CONNECTED: Duration = Duration::from_secs(120);
/// Of the load over all connections.
const DEPTH: &str = "256";

#[derive(Debug, Serialize)]
pub(crate) struct Scale {
    pub(crate) subsystems: usize,
    pub(crate) connections: u64,
    /// Of random 4 KiB reads over all of them in turn.
    pub(crate) iops: f64,
    pub(crate) p99_us: f64,
    /// Before anything is created.
    pub(crate) rss_empty_mib: f64,
    /// With the subsystems, without connections.
    pub(crate) rss_subsystems_mib: f64,
    /// With the connections, before and after load on all of them.
    pub(crate) rss_connected_mib: f64,
    pub(crate) rss_mib: f64,
    pub(crate) connections_idle: u64,
    /// Of a core, with [`Self::connections_idle`], and with all.
    pub(crate) idle_cpu_percent: f64,
    pub(crate) idle_all_cpu_percent: f64,
}

/// Serves many, then few, and looks at what that costs.
pub(crate) async fn measure(effort: &Effort) -> anyhow::Result<Scale> {
    let target = load::start(Make::Embedded, effort).await?;
    let pid = target.pid();
    let rss_empty_mib = usage::rss_mib(pid)?;
    let (subsystems, connections, _) = effort.scale;
    let nqns: Vec<String> = (0..subsystems).map(|n| format!("{}:{n}", stack::NQN)).collect();
    target.call("nvmf_create_transport", serde_json::json!({"trtype": "TCP"})).await?;
    for (n, nqn) in nqns.iter().enumerate() {
        let disk = stack::malloc(&target, &format!("m{n}"), MIB).await?;
        stack::export(&target, nqn, &disk).await?;
    }
    let rss_subsystems_mib = usage::rss_mib(pid)?;
    let idle = connected(&target, effort, &nqns[..IDLE_SUBSYSTEMS.min(subsystems)], connections).await?;
    let all = connected(&target, effort, &nqns, connections).await?;
    Ok(Scale {
        subsystems,
        connections: all.connections,
        iops: all.iops,
        p99_us: all.p99_us,
        rss_empty_mib,
        rss_subsystems_mib,
        rss_connected_mib: all.rss_before_load_mib,
        rss_mib: all.rss_after_load_mib,
        connections_idle: idle.connections,
        idle_cpu_percent: idle.idle_cpu_percent,
        idle_all_cpu_percent: all.idle_cpu_percent,
    })
}

struct Connected {
    connections: u64,
    idle_cpu_percent: f64,
    rss_before_load_mib: f64,
    rss_after_load_mib: f64,
    iops: f64,
    p99_us: f64,
}

/// Connects to each of `nqns` so often (an admin queue, the others for I/O), leaves them idle, loads them, and disconnects.
async fn connected(
    target: &Target,
    effort: &Effort,
    nqns: &[String],
    connections: usize,
) -> anyhow::Result<Connected> {
    let queues = (connections - 1).to_string();
    // Idle time, and some more for the slower of looking and connecting.
    let hold = format!("{}s", effort.idle.as_secs() + 5);
    let time = format!("{}ms", effort.scale.2.as_millis());
    let mut args =
        vec!["bench", "--queues", &queues, "--hold", &hold, "--time", &time, "--depth", DEPTH, "-o", "json"];
    args.extend(["--nqn", &nqns[0]]);
    nqns[1..].iter().for_each(|nqn| args.extend(["--also", nqn]));
    let host = load::host_command(target, effort, &args)?.spawn().context("vda_host")?;
    let wanted = (nqns.len() * connections) as u64;
    reached(target, wanted).await?;
    let pid = target.pid();
    let before = usage::cpu(pid)?;
    tokio::time::sleep(effort.idle).await;
    let used = usage::cpu(pid)? - before;
    let rss_before_load_mib = usage::rss_mib(pid)?;
    ensure!(current(target).await? == wanted, "connections were lost while idle");
    let answer: serde_json::Value = serde_json::from_slice(&ended(host.wait_with_output().await?)?)?;
    let number = |key: &str| answer[key].as_f64().with_context(|| format!("no {key} in {answer}"));
    let rss_after_load_mib = usage::rss_mib(pid)?;
    reached(target, 0).await?;
    Ok(Connected {
        connections: wanted,
        idle_cpu_percent: used.as_secs_f64() / effort.idle.as_secs_f64() * 100.0,
        rss_before_load_mib,
        rss_after_load_mib,
        iops: number("iops")?,
        p99_us: number("p99_us")?,
    })
}

fn ended(output: Output) -> anyhow::Result<Vec<u8>> {
    ensure!(output.status.success(), "vda_host: {}", String::from_utf8_lossy(&output.stderr));
    Ok(output.stdout)
}

async fn reached(target: &Target, wanted: u64) -> anyhow::Result<()> {
    let what = format!("{wanted} connections");
    eventually(&what, CONNECTED, || async {
        let now = current(target).await?;
        ensure!(now == wanted, "there are {now}");
        Ok(())
    })
    .await
}

/// Connections that belong to a controller now.
async fn current(target: &Target) -> anyhow::Result<u64> {
    let stats = target.call("nvmf_get_stats", serde_json::Value::Null).await?;
    let group = &stats["poll_groups"][0];
    let count = |key: &str| group[key].as_u64().with_context(|| format!("no {key} in {stats}"));
    Ok(count("current_admin_qpairs")? + count("current_io_qpairs")?)
}

impl fmt::Display for Scale {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { subsystems, connections, iops, p99_us, .. } = self;
        writeln!(
            f,
            "{subsystems} subsystems, {connections} connections: {iops:.0} IOPS over all of them, p99 {p99_us:.0} us"
        )?;
        writeln!(
            f,
            "resident: {:.1} MiB empty, {:.1} with the subsystems, {:.1} with the connections, {:.1} after load on all",
            self.rss_empty_mib, self.rss_subsystems_mib, self.rss_connected_mib, self.rss_mib
        )?;
        writeln!(
            f,
            "idle: {:.2} % of a core with {} connections, {:.2} % with {connections}",
            self.idle_cpu_percent, self.connections_idle, self.idle_all_cpu_percent
        )
    }
}
