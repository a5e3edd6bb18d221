//! `vda_dataplane`: the embedded data plane. Takes the place of SPDK's `spdk_tgt`.

use std::io;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, ValueEnum};
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Layer, Registry, fmt, reload};
use vda_dataplane::app::{self, Config, LogLevels};
use vda_dataplane::bdev::file::FileCache;
use vda_dataplane::rpc::config::load::Saved;
use vda_spdk::LogLevel;

/// Serves block devices over NVMe/TCP, driven through SPDK's JSON-RPC.
///
/// What `spdk_tgt` needs and this does not (-m, -s, --no-huge, --no-pci) is accepted, so that one command line starts either.
#[derive(Debug, Parser)]
#[command(name = "vda_dataplane", version)]
struct Args {
    /// Unix socket to answer JSON-RPC on. A file left there by a process that died is replaced; a second process on the same
    /// socket is refused.
    #[arg(
        short = 'r',
        long,
        env = "VDA_RPC_SOCKET",
        value_name = "PATH",
        default_value = "/var/tmp/spdk.sock"
    )]
    rpc_socket: PathBuf,

    /// Wait for framework_start_init before anything is started; only until then bdev_set_options and the like can be called.
    #[arg(short = 'w', long)]
    wait_for_rpc: bool,

    /// Load a configuration that SPDK's `rpc.py save_config` wrote. A call that is refused ends the process. With --wait-for-rpc what
    /// needs the framework is loaded after framework_start_init.
    #[arg(short = 'c', long = "json", visible_alias = "config", value_name = "FILE")]
    json: Option<PathBuf>,

    /// Log the calls of the configuration that are refused, and go on.
    #[arg(long)]
    json_ignore_init_errors: bool,

    /// Print logs as text, or as one JSON object a line. They go to stderr.
    #[arg(long, env = "VDA_LOG_FORMAT", value_enum, default_value_t = LogFormat::Text)]
    log_format: LogFormat,

    /// Least urgent messages to print: error, warn, info, debug, trace. log_set_print_level changes it at run time.
    #[arg(long, env = "VDA_LOG_LEVEL", value_name = "LEVEL", default_value = "info")]
    log_level: LevelFilter,

    /// Microseconds to look for events before sleeping, while requests come in quick succession: takes the time to wake up out of their
    /// latency, and costs nothing while idle. 0 never does.
    #[arg(long, env = "VDA_SPIN_US", value_name = "US", default_value_t = 200, value_parser = clap::value_parser!(u64).range(..=1000))]
    spin_us: u64,

    /// Which way I/O of files and block devices takes: around the page cache (O_DIRECT) where the file system lets it, or always through it.
    /// Through it, what was read or written lately is read from memory, of which it then takes all that is free, and a flush
    /// writes all that was written since the last one, which can take long.
    #[arg(long, env = "VDA_FILE_IO", value_enum, value_name = "WAY", default_value_t = FileIo::Direct)]
    file_io: FileIo,

    /// Ignored: there is one thread, and it runs where the kernel puts it.
    #[arg(short = 'm', long, value_name = "MASK")]
    cpumask: Option<String>,

    /// Ignored: memory is taken when it is needed.
    #[arg(short = 's', long, value_name = "MIB")]
    mem_size: Option<u64>,

    /// Ignored: no huge pages are used.
    #[arg(long)]
    no_huge: bool,

    /// Ignored: PCI devices are not driven.
    #[arg(short = 'u', long)]
    no_pci: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum FileIo {
    Direct,
    Cached,
}

impl From<FileIo> for FileCache {
    fn from(io: FileIo) -> Self {
        match io {
            FileIo::Direct => Self::Around,
            FileIo::Cached => Self::Through,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum LogFormat {
    Text,
    Json,
}

fn main() -> ExitCode {
    vda_dataplane::allocator::tune();
    match run(Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: Args) -> anyhow::Result<()> {
    let log = start_log(args.log_format, args.log_level);
    if args.cpumask.is_some() || args.mem_size.is_some() || args.no_huge || args.no_pci {
        tracing::info!("-m, -s, --no-huge and --no-pci have no meaning here and are ignored");
    }
    vda_dataplane::open_files::raise_limit();
    let ignore_errors = args.json_ignore_init_errors;
    let saved = args.json.map(|path| Saved::read(&path, ignore_errors)).transpose()?;
    let config = Config {
        rpc_socket: args.rpc_socket,
        wait_for_rpc: args.wait_for_rpc,
        saved,
        file_cache: args.file_io.into(),
        spin: Duration::from_micros(args.spin_us),
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let local = tokio::task::LocalSet::new();
    let result = local.block_on(&runtime, app::run(config, log));
    // What still runs on the pool belongs to a stop that took too long.
    runtime.shutdown_background();
    result
}

fn start_log(format: LogFormat, level: LevelFilter) -> LogLevels {
    let (filter, handle) = reload::Layer::new(level);
    let layer = fmt::layer().with_writer(io::stderr);
    let layer: Box<dyn Layer<Registry> + Send + Sync> = match format {
        LogFormat::Text => Box::new(layer.with_ansi(false).with_filter(filter)),
        LogFormat::Json => Box::new(layer.json().flatten_event(true).with_filter(filter)),
    };
    tracing_subscriber::registry().with(layer).init();
    LogLevels::new(to_spdk(level), move |level| {
        // The subscriber lives as long as the process.
        let _ = handle.reload(from_spdk(level));
    })
}

/// SPDK's `NOTICE` is what is called `info` here; its `INFO` and `DEBUG` are one step finer.
fn from_spdk(level: LogLevel) -> LevelFilter {
    match level {
        LogLevel::Error => LevelFilter::ERROR,
        LogLevel::Warning => LevelFilter::WARN,
        LogLevel::Notice => LevelFilter::INFO,
        LogLevel::Info => LevelFilter::DEBUG,
        LogLevel::Debug => LevelFilter::TRACE,
    }
}

fn to_spdk(level: LevelFilter) -> LogLevel {
    LogLevel::ALL.iter().copied().find(|known| from_spdk(*known) == level).unwrap_or(LogLevel::Error)
}
