//! `vda_dataplane` as a process: its socket, its signals, what it costs when idle.

#![allow(clippy::unwrap_used)]

use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use tokio::net::UnixStream;
use vda_spdk::{
    BdevGetBdevs, Client, Error, FrameworkStartInit, Rpc, RpcGetMethods, Signal, SpdkGetVersion,
    SpdkKillInstance,
};

const PATIENCE: Duration = Duration::from_secs(30);

struct Process {
    child: Child,
    socket: PathBuf,
}

impl Process {
    fn spawn(socket: &Path, args: &[&str]) -> Self {
        let child = Command::new(env!("CARGO_BIN_EXE_vda_dataplane"))
            .arg("-r")
            .arg(socket)
            .args(args)
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        Self { child, socket: socket.to_owned() }
    }

    async fn start(socket: &Path, args: &[&str]) -> (Self, Client) {
        let process = Self::spawn(socket, args);
        let deadline = Instant::now() + PATIENCE;
        while UnixStream::connect(socket).await.is_err() {
            assert!(Instant::now() < deadline, "it does not listen");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let client = Client::new(process.socket.to_str().unwrap(), PATIENCE);
        (process, client)
    }

    fn signal(&self, signal: rustix::process::Signal) {
        rustix::process::kill_process(rustix::process::Pid::from_child(&self.child), signal).unwrap();
    }

    /// Waits for its end; gives what it printed.
    async fn end(mut self) -> (ExitStatus, String) {
        tokio::task::spawn_blocking(move || {
            let mut printed = String::new();
            self.child.stderr.take().unwrap().read_to_string(&mut printed).unwrap();
            (self.child.wait().unwrap(), printed)
        })
        .await
        .unwrap()
    }

    /// CPU time used so far, in clock ticks.
    fn cpu_ticks(&self) -> u64 {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id())).unwrap();
        let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
        fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn files(dir: &Path) -> Vec<String> {
    std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

#[tokio::test]
async fn a_second_process_on_the_same_socket_is_refused_and_says_why() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("dp.sock");
    let (_first, client) = Process::start(&socket, &[]).await;
    let (status, printed) = Process::spawn(&socket, &[]).end().await;
    assert_eq!(status.code(), Some(1));
    assert!(printed.contains("in use by another process") && !printed.contains("backtrace"), "{printed}");
    client.call(SpdkGetVersion {}).await.unwrap();
}

#[tokio::test]
async fn what_a_killed_process_left_is_replaced() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("dp.sock");
    let (first, client) = Process::start(&socket, &[]).await;
    client.call(SpdkGetVersion {}).await.unwrap();
    first.signal(rustix::process::Signal::KILL);
    first.end().await;
    assert!(socket.exists());
    let (_second, _) = Process::start(&socket, &[]).await;
    client.call(SpdkGetVersion {}).await.unwrap();
    assert_eq!(client.epoch(), 2);
}

#[tokio::test]
async fn signals_and_spdk_kill_instance_stop_it_cleanly() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("dp.sock");
    for signal in [rustix::process::Signal::TERM, rustix::process::Signal::INT] {
        let (process, client) = Process::start(&socket, &["--wait-for-rpc"]).await;
        client.call(SpdkGetVersion {}).await.unwrap();
        process.signal(signal);
        let (status, printed) = process.end().await;
        assert!(status.success(), "{signal:?}: {status} {printed}");
        assert_eq!(files(dir.path()), Vec::<String>::new());
    }
    let (process, client) = Process::start(&socket, &[]).await;
    assert!(client.call(SpdkKillInstance::new(Signal::Term)).await.unwrap());
    let (status, printed) = process.end().await;
    assert!(status.success(), "{status} {printed}");
    assert_eq!(files(dir.path()), Vec::<String>::new());
}

#[tokio::test]
async fn a_call_that_waits_for_ever_does_not_keep_it_from_stopping() {
    let dir = tempfile::tempdir().unwrap();
    let (process, client) = Process::start(&dir.path().join("dp.sock"), &[]).await;
    let wait = BdevGetBdevs { name: Some("never".into()), timeout: Some(600_000) };
    let (waited, (status, printed)) = tokio::join!(client.call(wait), async {
        client.call(SpdkGetVersion {}).await.unwrap();
        process.signal(rustix::process::Signal::TERM);
        process.end().await
    });
    assert!(matches!(waited.unwrap_err(), Error::Transport { .. }));
    assert!(status.success(), "{status} {printed}");
    assert_eq!(files(dir.path()), Vec::<String>::new());
}

#[tokio::test]
async fn options_can_be_set_until_it_is_told_to_start() {
    let dir = tempfile::tempdir().unwrap();
    let (_process, client) = Process::start(&dir.path().join("dp.sock"), &["--wait-for-rpc"]).await;
    let current = || RpcGetMethods { current: Some(true), ..RpcGetMethods::default() };
    let before = client.call(current()).await.unwrap();
    assert!(before.iter().any(|name| name == "framework_start_init"));
    assert!(!before.iter().any(|name| name == "framework_get_config"));
    client.call(FrameworkStartInit {}).await.unwrap();
    let after = client.call(current()).await.unwrap();
    assert!(!after.iter().any(|name| name == "framework_start_init"));
    assert!(after.iter().any(|name| name == "framework_get_config"));
    assert!(client.call(FrameworkStartInit {}).await.unwrap_err().is_invalid_state());
}

#[tokio::test]
async fn idle_costs_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let (process, client) = Process::start(&dir.path().join("dp.sock"), &[]).await;
    client.call(SpdkGetVersion {}).await.unwrap();
    let before = process.cpu_ticks();
    tokio::time::sleep(Duration::from_secs(1)).await;
    let used = process.cpu_ticks() - before;
    assert!(used <= 1, "{used} clock ticks in a second");
}
