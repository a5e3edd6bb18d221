//! Start-up, version, log and introspection: `framework_*`, `rpc_*`, `spdk_*`, `log_*`, `thread_*`.

use std::rc::Rc;

use vda_spdk::{
    ConfigEntry, FrameworkGetConfig, FrameworkGetReactors, FrameworkGetSubsystems, FrameworkStartInit,
    FrameworkWaitInit, LogClearFlag, LogGetFlags, LogGetLevel, LogGetPrintLevel, LogSetFlag, LogSetLevel,
    LogSetPrintLevel, LwThread, Reactor, Reactors, RpcGetMethods, Signal, SpdkGetVersion, SpdkKillInstance,
    Subsystem, ThreadGetStats, ThreadStat, ThreadStats, Version, VersionFields,
};

use super::{Index, Methods, RpcError, State, refusal};
use crate::app::{App, Phase};

/// Ticks a second of all times and latencies that are given in ticks: they are nanoseconds.
const TICK_RATE: u64 = 1_000_000_000;

/// The version of SPDK whose JSON-RPC is spoken.
const SPEAKS: (u32, u32, u32) = (26, 9, 0);

pub(super) fn register(methods: &mut Methods) {
    methods.method::<FrameworkStartInit>(State::Startup, async |app, _| app.start().await.map(|()| true));
    methods.method::<FrameworkWaitInit>(State::Any, async |app, _| {
        app.wait_started().await;
        Ok(true)
    });
    methods.method::<SpdkGetVersion>(State::Any, async |_, _| Ok(version()));
    methods.method::<SpdkKillInstance>(State::Runtime, async |app, call| kill(&app, call.sig_name));
    methods.method::<FrameworkGetReactors>(State::Runtime, async |app, _| Ok(reactors(&app)));
    methods.method::<ThreadGetStats>(State::Runtime, async |app, _| Ok(threads(&app)));
    register_log(methods);
    register_introspection(methods);
}

fn register_introspection(methods: &mut Methods) {
    let index = Rc::clone(&methods.index);
    methods.method::<RpcGetMethods>(State::Any, async move |app, call| {
        let phase = call.current.unwrap_or(false).then(|| app.phase());
        Ok(index.method_names(phase))
    });
    let index = Rc::clone(&methods.index);
    methods.method::<FrameworkGetSubsystems>(State::Runtime, async move |_, _| Ok(index.subsystems()));
    let index = Rc::clone(&methods.index);
    methods.method::<FrameworkGetConfig>(State::Runtime, async move |app, call| {
        index.config(&app, &call.name).map(Some)
    });
}

impl Index {
    /// The methods, or only those that may be called in a phase.
    fn method_names(&self, phase: Option<Phase>) -> Vec<String> {
        let allowed = |state: State| phase.is_none_or(|phase| refusal(state, phase).is_none());
        let methods = self.methods.borrow();
        methods.iter().filter(|(_, state)| allowed(**state)).map(|(name, _)| (*name).to_owned()).collect()
    }

    fn subsystems(&self) -> Vec<Subsystem> {
        let show = |subsystem: &super::Subsystem| Subsystem {
            subsystem: subsystem.name.to_owned(),
            depends_on: subsystem.depends_on.iter().map(|name| (*name).to_owned()).collect(),
        };
        self.subsystems.borrow().iter().map(show).collect()
    }

    fn config(&self, app: &App, name: &str) -> Result<Vec<ConfigEntry>, RpcError> {
        let subsystems = self.subsystems.borrow();
        let found = subsystems.iter().find(|subsystem| subsystem.name == name);
        let found = found.ok_or_else(|| RpcError::invalid_params(format!("Subsystem '{name}' not found")))?;
        Ok((found.config)(app))
    }
}

fn register_log(methods: &mut Methods) {
    methods.method::<LogGetLevel>(State::Any, async |app, _| Ok(app.log.level.get()));
    methods.method::<LogSetLevel>(State::Any, async |app, call| {
        app.log.level.set(call.level);
        Ok(true)
    });
    methods.method::<LogGetPrintLevel>(State::Any, async |app, _| Ok(app.log.print_level()));
    methods.method::<LogSetPrintLevel>(State::Any, async |app, call| {
        app.log.set_print_level(call.level);
        Ok(true)
    });
    // There are no debug logs per component here: every flag is unknown.
    methods.method::<LogGetFlags>(State::Any, async |_, _| Ok([].into()));
    methods.method::<LogSetFlag>(State::Any, async |_, _| Err(RpcError::invalid_params("invalid log flag")));
    methods
        .method::<LogClearFlag>(State::Any, async |_, _| Err(RpcError::invalid_params("invalid log flag")));
}

fn version() -> Version {
    let (major, minor, patch) = SPEAKS;
    let suffix = format!("-vda-{}", env!("CARGO_PKG_VERSION"));
    Version {
        version: format!("SPDK v{major}.{minor:02}{suffix} (VDA's embedded data plane)"),
        fields: VersionFields { major, minor, patch, suffix, commit: None },
    }
}

fn kill(app: &App, signal: Signal) -> Result<bool, RpcError> {
    match signal {
        Signal::Int | Signal::Term | Signal::Quit | Signal::Hup => app.shutdown().cancel(),
        Signal::Kill => std::process::abort(),
        // SPDK's own handler does nothing with it either.
        Signal::Usr1 => {}
    }
    Ok(true)
}

/// Nanoseconds of CPU the process has used, and the others since it started.
fn busy_idle(app: &App) -> (u64, u64) {
    let used = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    let busy = u64::try_from(used.tv_sec).unwrap_or(0) * TICK_RATE + u64::try_from(used.tv_nsec).unwrap_or(0);
    let uptime = u64::try_from(app.uptime().as_nanos()).unwrap_or(u64::MAX);
    (busy, uptime.saturating_sub(busy))
}

fn reactors(app: &App) -> Reactors {
    let (busy, idle) = busy_idle(app);
    let pid = std::process::id();
    let thread =
        LwThread { name: "app_thread".to_owned(), id: 1, cpumask: "1".to_owned(), elapsed: busy + idle };
    let reactor = Reactor {
        tid: Some(u64::from(pid)),
        // It sleeps until there is something to do, which SPDK calls interrupt mode.
        ..Reactor::new(0u32, busy, idle, true, vec![thread])
    };
    Reactors { tick_rate: TICK_RATE, reactors: vec![reactor], pid: Some(pid) }
}

fn threads(app: &App) -> ThreadStats {
    let (busy, idle) = busy_idle(app);
    let thread = ThreadStat {
        name: "app_thread".to_owned(),
        id: 1,
        cpumask: "1".to_owned(),
        busy,
        idle,
        active_pollers_count: 0,
        timed_pollers_count: 0,
        paused_pollers_count: 0,
    };
    ThreadStats { tick_rate: TICK_RATE, threads: vec![thread] }
}
