//! Start-up, versions, logs and configuration of a target: `framework_*`, `rpc_*`, `spdk_*`, `log_*`, `thread_*`.

use serde_json::Value;

rpc! {
    /// `framework_start_init`: leaves the start-up state a target with `--wait-for-rpc` begins in. Once only.
    FrameworkStartInit = "framework_start_init" -> bool, { ; }

    /// `framework_wait_init`: answers when the subsystems are initialised.
    FrameworkWaitInit = "framework_wait_init" -> bool, { ; }

    /// `framework_get_subsystems`: the subsystems and what each depends on.
    FrameworkGetSubsystems = "framework_get_subsystems" -> Vec<Subsystem>, { ; }

    /// `framework_get_config`: the calls that would rebuild a subsystem's present state; `null` where it has none.
    FrameworkGetConfig = "framework_get_config" -> Option<Vec<ConfigEntry>>, {
        name: String,
        ;
        with_batches: bool,
    }

    /// `framework_get_reactors`: the cores and what they spent their time on.
    FrameworkGetReactors = "framework_get_reactors" -> Reactors, { ; }

    /// `iobuf_set_options`: how much memory the data of I/O may take, before `framework_start_init` only. -22 below SPDK's minima.
    IobufSetOptions = "iobuf_set_options" -> bool, {
        ;
        small_pool_count: u64,
        large_pool_count: u64,
        /// Bytes.
        small_bufsize: u32,
        /// Bytes.
        large_bufsize: u32,
        enable_numa: bool,
    }

    /// `rpc_get_methods`: the names of all methods, or of those allowed in the present state (`current`).
    RpcGetMethods = "rpc_get_methods" -> Vec<String>, {
        ;
        current: bool,
        include_aliases: bool,
    }

    /// `spdk_get_version`: the target's version.
    SpdkGetVersion = "spdk_get_version" -> Version, { ; }

    /// `spdk_kill_instance`: sends the target a signal.
    SpdkKillInstance = "spdk_kill_instance" -> bool, {
        sig_name: Signal,
        ;
    }

    /// `thread_get_stats`: time spent per thread.
    ThreadGetStats = "thread_get_stats" -> ThreadStats, { ; }

    /// `log_set_level`: what goes into the log.
    LogSetLevel = "log_set_level" -> bool, {
        level: LogLevel,
        ;
    }

    /// `log_get_level`: what goes into the log.
    LogGetLevel = "log_get_level" -> LogLevel, { ; }

    /// `log_set_print_level`: what is printed to stderr.
    LogSetPrintLevel = "log_set_print_level" -> bool, {
        level: LogLevel,
        ;
    }

    /// `log_get_print_level`: what is printed to stderr.
    LogGetPrintLevel = "log_get_print_level" -> LogLevel, { ; }

    /// `log_set_flag`: turns on a component's debug log.
    LogSetFlag = "log_set_flag" -> bool, {
        flag: String,
        ;
    }

    /// `log_clear_flag`: turns off a component's debug log.
    LogClearFlag = "log_clear_flag" -> bool, {
        flag: String,
        ;
    }

    /// `log_get_flags`: which components' debug logs are on.
    LogGetFlags = "log_get_flags" -> std::collections::BTreeMap<String, bool>, { ; }
}

closed! {
    /// Levels of the log, the most urgent first.
    LogLevel { Error = "ERROR", Warning = "WARNING", Notice = "NOTICE", Info = "INFO", Debug = "DEBUG", }

    /// Signals `spdk_kill_instance` accepts.
    Signal {
        Int = "SIGINT", Term = "SIGTERM", Quit = "SIGQUIT", Hup = "SIGHUP", Kill = "SIGKILL", Usr1 = "SIGUSR1",
    }
}

object! {
    /// An element of the reply of [`FrameworkGetSubsystems`].
    Subsystem {
        subsystem: String,
        depends_on: Vec<String>,
        ;
    }

    /// An element of the reply of [`FrameworkGetConfig`]: a call.
    ConfigEntry {
        method: String,
        ;
        params: Value,
    }

    /// Reply of [`SpdkGetVersion`].
    Version {
        version: String,
        fields: VersionFields,
        ;
    }

    /// The parts of a [`Version`].
    VersionFields {
        major: u32,
        minor: u32,
        patch: u32,
        suffix: String,
        ;
        commit: String,
    }

    /// Reply of [`FrameworkGetReactors`].
    Reactors {
        /// Ticks a second.
        tick_rate: u64,
        reactors: Vec<Reactor>,
        ;
        pid: u32,
    }

    /// A core. Times in ticks.
    Reactor {
        lcore: u32,
        busy: u64,
        idle: u64,
        in_interrupt: bool,
        lw_threads: Vec<LwThread>,
        ;
        numa_id: i32,
        tid: u64,
        irq: u64,
        sys: u64,
        usr: u64,
        core_freq: u32,
    }

    /// A lightweight thread of a [`Reactor`].
    LwThread {
        name: String,
        id: u64,
        cpumask: String,
        elapsed: u64,
        ;
    }

    /// Reply of [`ThreadGetStats`].
    ThreadStats {
        /// Ticks a second.
        tick_rate: u64,
        threads: Vec<ThreadStat>,
        ;
    }

    /// A thread. Times in ticks.
    ThreadStat {
        name: String,
        id: u64,
        cpumask: String,
        busy: u64,
        idle: u64,
        active_pollers_count: u64,
        timed_pollers_count: u64,
        paused_pollers_count: u64,
        ;
    }
}
