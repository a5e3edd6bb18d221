//! Log output: to stderr, as text for people or as one JSON object per line.

use std::io::IsTerminal;

use anyhow::Context;
use clap::{Args, ValueEnum};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format::FmtSpan;

/// How a log line is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people: one line per event, fields after the message.
    #[default]
    Text,
    /// For programs: one JSON object per line, span fields (`req_id`, `node`, `generation`, `da`) under `span` and `spans`.
    Json,
}

/// Arguments about logging, flattened into those of every binary.
#[derive(Args, Clone, Debug, Default)]
pub struct LogArgs {
    /// How log lines are written to stderr; `json` writes one object per line
    #[arg(long, env = "VDA_LOG_FORMAT", value_enum, default_value_t = LogFormat::Text, help_heading = "Logging")]
    pub log_format: LogFormat,

    /// What is logged: `error`, `warn`, `info`, `debug` or `trace`, or a filter such as `info,vda_store=debug`.
    /// `debug` writes several lines per request, `trace` also every message with its contents
    #[arg(long, env = "VDA_LOG_LEVEL", default_value = "info", help_heading = "Logging")]
    pub log_level: String,
}

impl LogArgs {
    /// Starts logging to stderr. `role` ("portal", "monitor", …) is logged once with the version.
    ///
    /// # Errors
    /// If `log_level` is not a filter, or logging was started before in this process.
    pub fn init(&self, role: &'static str) -> anyhow::Result<()> {
        let filter = self.filter()?;
        let builder = tracing_subscriber::fmt()
            .with_env_filter(filter)
            .with_writer(std::io::stderr)
            .with_ansi(std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none())
            .with_span_events(FmtSpan::NONE);
        let started = match self.log_format {
            LogFormat::Text => builder.try_init(),
            LogFormat::Json => builder.json().flatten_event(true).try_init(),
        };
        started.map_err(|e| anyhow::anyhow!("cannot start logging: {e}"))?;
        tracing::info!(role, version = env!("CARGO_PKG_VERSION"), pid = std::process::id(), "starting");
        Ok(())
    }

    /// The filter `log_level` stands for. HTTP/2 and gRPC internals stay at `warn` unless they are named.
    fn filter(&self) -> anyhow::Result<EnvFilter> {
        let text = self.log_level.trim();
        let quiet = ["h2", "hyper", "hyper_util", "tonic", "tower"];
        let mut directives: Vec<String> =
            quiet.iter().filter(|name| !text.contains(*name)).map(|name| format!("{name}=warn")).collect();
        directives.push(text.to_owned());
        let all = directives.join(",");
        EnvFilter::try_new(&all).with_context(|| {
            format!("--log-level {text:?}: allowed are error, warn, info, debug, trace or target=level,…")
        })
    }
}

#[cfg(test)]
#[path = "logs_tests.rs"]
mod tests;
