//! What the control plane costs: creates a second beside what etcd itself does, and how long it takes until an array is usable.

mod creates;
mod measure;
mod plot;
mod report;
mod usable;

use std::{io::Write as _, path::PathBuf, time::Duration};

use anyhow::Context as _;
use clap::Parser;

use crate::report::Report;

/// Measures the control plane on this machine, with a cluster of its own on loopback
#[derive(Debug, Parser)]
struct Args {
    /// Where to write the results as JSON
    #[arg(long, value_name = "FILE")]
    json: PathBuf,
    /// Where to draw them, as SVG
    #[arg(long, value_name = "FILE")]
    plot: Option<PathBuf>,
    /// Short runs, to see that it works: the numbers mean little
    #[arg(long)]
    quick: bool,
}

/// How much is measured.
struct Effort {
    /// Of each row.
    time: Duration,
    /// How many arrays exist when the time to usable is measured.
    existing: &'static [usize],
    /// How often that is measured.
    samples: usize,
}

const FULL: Effort = Effort { time: Duration::from_secs(5), existing: &[0, 100, 1000], samples: 50 };
const QUICK: Effort = Effort { time: Duration::from_secs(1), existing: &[0, 20], samples: 5 };

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let effort = if args.quick { &QUICK } else { &FULL };
    let rows = creates::measure(effort).await.context("measuring creates")?;
    let (usable, rss_mib) = usable::measure(effort).await.context("measuring create to usable")?;
    let report = Report { rows, usable, rss_mib };
    let mut out = std::io::stdout().lock();
    write!(out, "{report}")?;
    std::fs::write(&args.json, serde_json::to_string_pretty(&report)? + "\n")
        .with_context(|| format!("writing {}", args.json.display()))?;
    writeln!(out, "\nwritten: {}", args.json.display())?;
    if let Some(file) = args.plot {
        std::fs::write(&file, plot::svg(&report)).with_context(|| format!("writing {}", file.display()))?;
        writeln!(out, "drawn:   {}", file.display())?;
    }
    Ok(())
}
