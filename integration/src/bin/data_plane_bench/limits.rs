//! Limits of a bdev (`bdev_set_qos_limit`): what hosts get of them, beside what SPDK gives.

use std::fmt;

use anyhow::Context as _;
use serde::{Deserialize, Serialize};
use serde_json::json;
use vda_integration::{Make, Target};

use crate::{
    Effort, load,
    report::median,
    stack::{self, NQN, Stack},
};

/// Bytes of a MiB; limits count in them.
const MIB: f64 = 1_048_576.0;

/// A limit, and a load that it holds back.
struct Case {
    /// As `bdev_set_qos_limit` has them: `rw_ios_per_sec`, `rw_mbytes_per_sec`, `r_mbytes_per_sec`, `w_mbytes_per_sec`.
    limits: [u64; 4],
    load: &'static str,
    kib: u32,
    qd: u16,
}

const CASES: &[Case] = &[
    Case { limits: [1000, 0, 0, 0], load: "randread", kib: 4, qd: 64 },
    Case { limits: [10_000, 0, 0, 0], load: "randwrite", kib: 4, qd: 64 },
    // Rounded up to 3000.
    Case { limits: [2500, 0, 0, 0], load: "randrw", kib: 4, qd: 8 },
    Case { limits: [0, 1, 0, 0], load: "randread", kib: 4, qd: 8 },
    Case { limits: [0, 50, 0, 0], load: "randrw", kib: 128, qd: 8 },
    Case { limits: [0, 0, 20, 0], load: "randread", kib: 128, qd: 1 },
    Case { limits: [0, 0, 0, 20], load: "randwrite", kib: 4, qd: 64 },
    Case { limits: [5000, 10, 0, 0], load: "randread", kib: 4, qd: 64 },
    Case { limits: [2000, 100, 50, 50], load: "randwrite", kib: 4, qd: 64 },
];

/// What a load got: medians over the rounds, I/Os a second.
#[derive(Debug, Serialize)]
pub(crate) struct Limited {
    rw_ios_per_sec: u64,
    rw_mbytes_per_sec: u64,
    r_mbytes_per_sec: u64,
    w_mbytes_per_sec: u64,
    rw: String,
    block_kib: u32,
    qd: u16,
    /// What the limits come to for this load.
    allowed_iops: f64,
    iops: f64,
    spdk_iops: Option<f64>,
}

/// What `vda_host bench -o json` says.
#[derive(Deserialize)]
struct Answer {
    iops: f64,
}

impl Case {
    /// I/Os a second that the limits come to.
    fn allowed(&self) -> f64 {
        let [ios, both, read, write] = self.limits;
        let bytes = f64::from(self.kib) * 1024.0;
        let own = match self.load {
            "randread" => read,
            "randwrite" => write,
            _ => 0,
        };
        let mbytes =
            [both, own].into_iter().filter(|limit| *limit > 0).map(|limit| limit as f64 * MIB / bytes);
        let ios = (ios > 0).then(|| ios.next_multiple_of(1000) as f64);
        mbytes.chain(ios).fold(f64::INFINITY, f64::min)
    }

    async fn run(&self, target: &Target, effort: &Effort) -> anyhow::Result<f64> {
        let [ios, both, read, write] = self.limits;
        let limits = json!({"name": "m0", "rw_ios_per_sec": ios, "rw_mbytes_per_sec": both, "r_mbytes_per_sec": read,
            "w_mbytes_per_sec": write});
        target.call("bdev_set_qos_limit", limits).await?;
        let (size, depth) = (format!("{}KiB", self.kib), self.qd.to_string());
        // Long enough for the first millisecond, and the I/O under way at the end, not to show.
        let time = format!("{}ms", effort.limits.1.as_millis());
        let load = ["--load", self.load, "--io-size", &size, "--depth", &depth, "--time", &time];
        let answer =
            load::host(target, effort, &[&["bench", "--nqn", NQN, "-o", "json"], &load[..]].concat()).await?;
        Ok(serde_json::from_str::<Answer>(&answer).context("vda_host bench")?.iops)
    }
}

/// Every case on every data plane, in turns.
pub(crate) async fn measure(effort: &Effort) -> anyhow::Result<Vec<Limited>> {
    let mut targets = Vec::new();
    for make in Make::available() {
        let target = load::start(make, effort).await?;
        stack::build(Stack::Malloc, &target, &effort.file_dir).await?;
        target.freeze(true);
        targets.push(target);
    }
    let mut rows = Vec::new();
    for case in CASES {
        let mut got = vec![Vec::new(); targets.len()];
        for _ in 0..effort.limits.0 {
            for (target, got) in targets.iter().zip(&mut got) {
                target.freeze(false);
                let iops = case.run(target, effort).await;
                target.freeze(true);
                got.push(iops?);
            }
        }
        let mut medians = got.into_iter().map(|iops| median(iops.into_iter()));
        let [rw_ios_per_sec, rw_mbytes_per_sec, r_mbytes_per_sec, w_mbytes_per_sec] = case.limits;
        rows.push(Limited {
            rw_ios_per_sec,
            rw_mbytes_per_sec,
            r_mbytes_per_sec,
            w_mbytes_per_sec,
            rw: case.load.to_owned(),
            block_kib: case.kib,
            qd: case.qd,
            allowed_iops: case.allowed(),
            iops: medians.next().flatten().unwrap_or_default(),
            spdk_iops: medians.next().flatten(),
        });
    }
    Ok(rows)
}

impl fmt::Display for Limited {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let limits =
            [self.rw_ios_per_sec, self.rw_mbytes_per_sec, self.r_mbytes_per_sec, self.w_mbytes_per_sec];
        let limits = limits.map(|limit| limit.to_string()).join("/");
        let percent = |iops: f64| iops / self.allowed_iops * 100.0;
        write!(
            f,
            "{limits:>16} {:>9} {:>5} {:>3}  {:>9.0} {:>9.0} {:>7.1}",
            self.rw,
            self.block_kib,
            self.qd,
            self.allowed_iops,
            self.iops,
            percent(self.iops)
        )?;
        match self.spdk_iops {
            Some(iops) => write!(f, "  {iops:>9.0} {:>7.1}", percent(iops)),
            None => write!(f, "  {:>9} {:>7}", "-", "-"),
        }
    }
}

/// Above the rows.
pub(crate) const TITLE: &str =
    "     ios/rw/r/w s        rw   KiB  qd    allowed      IOPS       %  SPDK IOPS       %";
