//! A target process and connections to it.

use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use vda_spdk::framing::Framer;

/// How long a target may take to start, or to answer.
const PATIENCE: Duration = Duration::from_secs(60);

/// A running target. Dropping it kills it.
pub(crate) struct Target {
    child: Child,
    socket: PathBuf,
    log: PathBuf,
    connection: Option<Connection>,
}

impl Target {
    /// The program of SPDK that plays the target `name`, if it is not the data plane.
    pub(crate) fn spdk(name: &str) -> Option<PathBuf> {
        let path = std::env::var_os("VDA_SPDK_TGT")?;
        let only = std::env::var("VDA_SPDK_TARGETS").unwrap_or_default();
        let is_chosen = only.is_empty() || only.split(',').any(|chosen| chosen == name);
        is_chosen.then(|| path.into())
    }

    pub(crate) fn start(dir: &Path, name: &str) -> Self {
        Self::start_with(dir, name, &[])
    }

    /// With more arguments.
    #[allow(dead_code)]
    pub(crate) fn start_with(dir: &Path, name: &str, arguments: &[&str]) -> Self {
        Self::start_program(Self::spdk(name), dir, name, arguments)
    }

    /// The data plane, whatever else is asked for.
    #[allow(dead_code)]
    pub(crate) fn embedded(dir: &Path, name: &str, arguments: &[&str]) -> Self {
        Self::start_program(None, dir, name, arguments)
    }

    fn start_program(spdk: Option<PathBuf>, dir: &Path, name: &str, arguments: &[&str]) -> Self {
        let socket = dir.join(format!("{name}.sock"));
        let log = dir.join(format!("{name}.log"));
        let stderr = File::options().create(true).append(true).open(&log).unwrap();
        let mut command = match spdk {
            Some(path) => {
                let mut command = Command::new(path);
                // Several of them share the first core.
                command.arg("--disable-cpumask-locks");
                command
            }
            None => Command::new(env!("CARGO_BIN_EXE_vda_dataplane")),
        };
        command.args(["--no-huge", "-s", "1024", "--no-pci", "--wait-for-rpc", "-r"]).arg(&socket);
        command.args(arguments);
        let stdout = stderr.try_clone().unwrap();
        let child = command.stdin(Stdio::null()).stdout(stdout).stderr(stderr).spawn().unwrap();
        let mut target = Self { child, socket, log, connection: None };
        target.connection = Some(target.wait_ready());
        target
    }

    /// Connected, as soon as that is possible.
    fn wait_ready(&mut self) -> Connection {
        let started = Instant::now();
        loop {
            if let Ok(stream) = UnixStream::connect(&self.socket) {
                return Connection::new(stream);
            }
            let ended = self.child.try_wait().unwrap();
            if ended.is_some() || started.elapsed() > PATIENCE {
                panic!("the target does not listen ({ended:?}):\n{}", self.log());
            }
            // Nothing announces it.
            #[allow(clippy::disallowed_methods)]
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Waits until the configuration given at start is loaded.
    #[allow(dead_code)]
    pub(crate) fn wait_loaded(&mut self) {
        let started = Instant::now();
        while !self.log().contains("the configuration is loaded") {
            let ended = self.child.try_wait().unwrap();
            assert!(
                ended.is_none() && started.elapsed() < PATIENCE,
                "not loaded ({ended:?}):\n{}",
                self.log()
            );
            // Nothing announces it.
            #[allow(clippy::disallowed_methods)]
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Sends it a signal.
    #[allow(dead_code)]
    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    #[allow(dead_code)]
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// A connection of its own.
    pub(crate) fn connect(&self) -> Connection {
        Connection::new(UnixStream::connect(&self.socket).unwrap())
    }

    /// Sends a request and waits for its answer.
    pub(crate) fn exchange(&mut self, request: &Value) -> Value {
        let connection = self.connection.as_mut().unwrap();
        connection.send(&request.to_string());
        let answer = connection.receive();
        answer.unwrap_or_else(|| panic!("no answer to {request}; the target's log:\n{}", self.log()))
    }

    fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("log of {}:\n{}", self.socket.display(), self.log());
        }
    }
}

/// A connection to a target.
pub(crate) struct Connection {
    stream: UnixStream,
    framer: Framer,
}

impl Connection {
    fn new(stream: UnixStream) -> Self {
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        Self { stream, framer: Framer::new(64 << 20) }
    }

    pub(crate) fn send(&mut self, text: &str) {
        self.stream.write_all(text.as_bytes()).unwrap();
    }

    /// A value, if one has come; does not wait.
    #[allow(dead_code)]
    pub(crate) fn received(&mut self) -> Option<Value> {
        self.stream.set_nonblocking(true).unwrap();
        let mut chunk = [0; 16 * 1024];
        while let Ok(received @ 1..) = self.stream.read(&mut chunk) {
            self.framer.buffer().extend_from_slice(&chunk[..received]);
        }
        self.stream.set_nonblocking(false).unwrap();
        self.framer.next_value().unwrap().map(|value| serde_json::from_slice(value).unwrap())
    }

    /// The next value, `None` when the target has closed the connection or stays silent.
    pub(crate) fn receive(&mut self) -> Option<Value> {
        let mut chunk = [0; 16 * 1024];
        loop {
            if let Some(value) = self.framer.next_value().unwrap() {
                return Some(serde_json::from_slice(value).unwrap());
            }
            match self.stream.read(&mut chunk) {
                Ok(0) => return None,
                Ok(received) => self.framer.buffer().extend_from_slice(&chunk[..received]),
                Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => return None,
                Err(error) => panic!("no answer within {PATIENCE:?}: {error}"),
            }
        }
    }
}
