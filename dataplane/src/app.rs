//! The process: its state, how it starts and how it stops.

use std::cell::{Cell, RefCell};
use std::path::PathBuf;
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::Context;
use futures::future::LocalBoxFuture;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use vda_spdk::LogLevel;

use crate::bdev::{self, file::FileCache};
use crate::rpc::config::load::Saved;
use crate::rpc::server::Server;
use crate::rpc::{Methods, RpcError};

/// How long the process, when it is told to stop, waits for the calls in flight.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);

/// How long it then waits for its parts to stop.
const STOP_TIMEOUT: Duration = Duration::from_secs(10);

/// What the command line decides.
#[derive(Debug)]
pub struct Config {
    /// Path of the JSON-RPC socket.
    pub rpc_socket: PathBuf,
    /// Stay in the start-up phase until `framework_start_init`.
    pub wait_for_rpc: bool,
    /// A configuration to load at start.
    pub saved: Option<Saved>,
    /// Which way I/O of files and block devices takes.
    pub file_cache: FileCache,
    /// How long to look for events before sleeping, while they come in quick succession; zero for never.
    pub spin: Duration,
}

/// Where the process is between its start and its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Options can be set; nothing runs yet.
    Startup,
    /// `framework_start_init` is under way.
    Starting,
    /// Everything runs.
    Runtime,
}

/// Something to do when the framework starts or stops.
type Hook = Box<dyn FnOnce(Rc<App>) -> LocalBoxFuture<'static, Result<(), RpcError>>>;

/// All state of the process. Handlers get it as `Rc<App>`.
pub struct App {
    phase: watch::Sender<Phase>,
    shutdown: CancellationToken,
    started: Instant,
    start_hooks: RefCell<Vec<Hook>>,
    stop_hooks: RefCell<Vec<Hook>>,
    start_error: RefCell<Option<RpcError>>,
    /// Levels of the log as SPDK knows them.
    pub log: LogLevels,
    /// Which way I/O of files and block devices takes.
    pub file_cache: Cell<FileCache>,
    /// All block devices.
    pub bdevs: bdev::Registry,
}

impl App {
    /// State of a process that has not started yet. To be called inside a `LocalSet`.
    pub fn new(log: LogLevels) -> Rc<Self> {
        Rc::new(Self {
            phase: watch::Sender::new(Phase::Startup),
            shutdown: CancellationToken::new(),
            started: Instant::now(),
            start_hooks: RefCell::default(),
            stop_hooks: RefCell::default(),
            start_error: RefCell::default(),
            log,
            file_cache: Cell::default(),
            bdevs: bdev::Registry::new(),
        })
    }

    /// Whether options can still be set, or everything runs.
    pub fn phase(&self) -> Phase {
        *self.phase.borrow()
    }

    /// Since the process started.
    pub fn uptime(&self) -> Duration {
        self.started.elapsed()
    }

    /// Cancelled when the process is asked to stop.
    pub fn shutdown(&self) -> &CancellationToken {
        &self.shutdown
    }

    /// Runs `hook` at `framework_start_init`, in the order of registration.
    pub fn on_start<F>(&self, hook: impl FnOnce(Rc<Self>) -> F + 'static)
    where
        F: Future<Output = Result<(), RpcError>> + 'static,
    {
        self.start_hooks.borrow_mut().push(Box::new(move |app| Box::pin(hook(app))));
    }

    /// Runs `hook` when the process stops, in reverse order of registration, after the last call was answered.
    pub fn on_stop<F>(&self, hook: impl FnOnce(Rc<Self>) -> F + 'static)
    where
        F: Future<Output = Result<(), RpcError>> + 'static,
    {
        self.stop_hooks.borrow_mut().push(Box::new(move |app| Box::pin(hook(app))));
    }

    /// Leaves the start-up phase.
    ///
    /// # Errors
    /// The first hook's that failed; the process then stops, with this error.
    pub async fn start(self: &Rc<Self>) -> Result<(), RpcError> {
        self.phase.send_replace(Phase::Starting);
        let hooks = self.start_hooks.take();
        for hook in hooks {
            if let Err(error) = hook(Rc::clone(self)).await {
                self.start_error.replace(Some(error.clone()));
                self.shutdown.cancel();
                return Err(error);
            }
        }
        self.phase.send_replace(Phase::Runtime);
        tracing::info!("the framework is initialised");
        Ok(())
    }

    /// Waits until everything runs.
    pub async fn wait_started(&self) {
        // The sender lives in self, so the wait cannot fail.
        let _ = self.phase.subscribe().wait_for(|phase| *phase == Phase::Runtime).await;
    }

    async fn stop(self: &Rc<Self>) {
        let hooks = self.stop_hooks.take();
        for hook in hooks.into_iter().rev() {
            if let Err(error) = hook(Rc::clone(self)).await {
                tracing::warn!(%error, "a part did not stop cleanly");
            }
        }
    }
}

/// SPDK's two log levels. The one for stderr is in force; the other, for syslog, is only remembered.
pub struct LogLevels {
    print: Cell<LogLevel>,
    pub level: Cell<LogLevel>,
    apply: Box<dyn Fn(LogLevel)>,
}

impl LogLevels {
    /// `apply` changes what is printed.
    pub fn new(print: LogLevel, apply: impl Fn(LogLevel) + 'static) -> Self {
        Self { print: Cell::new(print), level: Cell::new(LogLevel::Notice), apply: Box::new(apply) }
    }

    pub fn print_level(&self) -> LogLevel {
        self.print.get()
    }

    pub fn set_print_level(&self, level: LogLevel) {
        self.print.set(level);
        (self.apply)(level);
    }
}

/// Runs the process until SIGTERM, SIGINT or `spdk_kill_instance`. To be called inside a `LocalSet`.
///
/// # Errors
/// The socket cannot be used, or the framework does not start.
pub async fn run(config: Config, log: LogLevels) -> anyhow::Result<()> {
    let app = App::new(log);
    app.file_cache.set(config.file_cache);
    let methods = Rc::new(Methods::all(&app));
    let server = Server::bind(&config.rpc_socket).await?;
    let socket = server.socket();
    watch_signals(&app)?;
    if !config.spin.is_zero() {
        tokio::task::spawn_local(crate::spin::run(config.spin));
    }
    tracing::info!(socket = %config.rpc_socket.display(), wait_for_rpc = config.wait_for_rpc, "ready");
    let serving = tokio::task::spawn_local(server.serve(Rc::clone(&app), Rc::clone(&methods)));
    tokio::select! {
        () = begin(&app, &methods, config) => app.shutdown.cancelled().await,
        () = app.shutdown.cancelled() => {}
    }
    tracing::info!("stopping");
    answer_the_last(serving).await;
    tokio::time::timeout(STOP_TIMEOUT, app.stop())
        .await
        .map_err(|_| anyhow::anyhow!("not stopped within {STOP_TIMEOUT:?}"))?;
    // Only now another process may take over the path, and with it the disks.
    drop(socket);
    app.start_error
        .take()
        .map_or(Ok(()), |error| Err(error).context("the framework could not be initialised"))
}

/// Starts the framework, unless that is left to a call, and loads the saved configuration. An error stops the process, and is reported
/// when it has stopped.
async fn begin(app: &Rc<App>, methods: &Methods, config: Config) {
    let begun = async {
        if let Some(saved) = &config.saved {
            saved.load(app, methods, true).await?;
        }
        match config.wait_for_rpc {
            false => app.start().await?,
            true => app.wait_started().await,
        }
        if let Some(saved) = &config.saved {
            saved.load(app, methods, false).await?;
            tracing::info!("the configuration is loaded");
        }
        Ok(())
    };
    if let Err(error) = begun.await {
        app.start_error.replace(Some(error));
        app.shutdown.cancel();
    }
}

/// Waits for the calls in flight, but not for those that wait for something that may never come.
async fn answer_the_last(mut serving: JoinHandle<()>) {
    if tokio::time::timeout(ANSWER_TIMEOUT, &mut serving).await.is_err() {
        tracing::warn!("stopping with calls unanswered");
        serving.abort();
    }
}

/// The first signal asks the process to stop.
fn watch_signals(app: &Rc<App>) -> std::io::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let shutdown = app.shutdown.clone();
    tokio::task::spawn_local(async move {
        let name = tokio::select! {
            _ = terminate.recv() => "SIGTERM",
            _ = interrupt.recv() => "SIGINT",
            () = shutdown.cancelled() => return,
        };
        tracing::info!(signal = name, "asked to stop");
        shutdown.cancel();
    });
    Ok(())
}
