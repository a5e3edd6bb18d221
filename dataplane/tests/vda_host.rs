//! The binary `vda_host` against a target of this crate.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::process::{Command, Output};
use std::sync::mpsc;
use std::thread;

use tokio::sync::oneshot;
use tokio::task::LocalSet;
use vda_dataplane::bdev::Registry;
use vda_dataplane::bdev::malloc::{self, MallocParams};
use vda_dataplane::nvmf::{NamespaceRequest, SubsystemConfig, Target, TransportOptions};
use vda_nvme::log::AnaState;

const NQN: &str = "nqn.2016-06.io.vda:exp:da0:exp0";
const HOST: &str = "nqn.2016-06.io.spdk:host0";

/// A target on a thread of its own, with two listeners: the first inaccessible, the second optimized.
struct Served {
    paths: [String; 2],
    stop: Option<oneshot::Sender<()>>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Drop for Served {
    fn drop(&mut self) {
        drop(self.stop.take());
        let joined = self.thread.take().map(thread::JoinHandle::join);
        assert!(matches!(joined, Some(Ok(()))) || thread::panicking(), "the target failed");
    }
}

fn free_address() -> SocketAddr {
    let probe = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
    probe.local_addr().expect("bound")
}

fn serve() -> Served {
    let addresses = [free_address(), free_address()];
    let (stop, stopped) = oneshot::channel::<()>();
    let (ready, started) = mpsc::channel();
    let thread = thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("runtime");
        LocalSet::new().block_on(&runtime, async {
            let registry = Registry::new();
            let params =
                MallocParams { name: Some("m".into()), num_blocks: 8192, block_size: 512, uuid: None };
            malloc::create(&registry, params).expect("malloc");
            let target = Target::new(registry);
            target.create_transport(TransportOptions::default()).expect("transport");
            let config = SubsystemConfig { ana_reporting: true, ..SubsystemConfig::new(NQN) };
            target.create_subsystem(config, false).expect("subsystem");
            target.add_host(NQN, HOST).expect("host");
            target
                .add_ns(NQN, &NamespaceRequest { bdev_name: "m".into(), ..Default::default() })
                .expect("namespace");
            for (address, state) in addresses.iter().zip([AnaState::Inaccessible, AnaState::Optimized]) {
                target.add_listener(NQN, *address, state).expect("listener");
            }
            ready.send(()).expect("somebody waits");
            let _ = stopped.await;
            target.shutdown().await;
        });
    });
    started.recv().expect("the target starts");
    Served { paths: addresses.map(|a| format!("tcp://{a}")), stop: Some(stop), thread: Some(thread) }
}

fn vda_host(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_vda_host")).args(args).output().expect("vda_host runs")
}

/// A data command over both paths.
fn on_volume(s: &Served, command: &str, host: &str, more: &[&str]) -> (Option<i32>, String, String) {
    let fixed = [command, "--path", &s.paths[0], "--path", &s.paths[1], "--nqn", NQN, "--hostnqn", host];
    let out = vda_host(&[&fixed[..], more].concat());
    let text = |b: &[u8]| String::from_utf8_lossy(b).into_owned();
    (out.status.code(), text(&out.stdout), text(&out.stderr))
}

#[test]
fn what_is_written_is_verified_and_differences_have_their_own_exit_code() {
    let s = serve();
    let (code, out, err) = on_volume(&s, "write", HOST, &["--random", "--seed", "7", "-o", "json"]);
    assert_eq!(code, Some(0), "{err}");
    let written: serde_json::Value = serde_json::from_str(&out).expect("JSON");
    assert_eq!(written["bytes"], 8192 * 512);
    let (code, out, err) =
        on_volume(&s, "verify", HOST, &["--seed", "7", "--hdgst", "--ddgst", "-o", "json"]);
    assert_eq!(code, Some(0), "{err}");
    let verified: serde_json::Value = serde_json::from_str(&out).expect("JSON");
    assert_eq!(verified["crc32c"], written["crc32c"]);

    let (code, _, err) =
        on_volume(&s, "write", HOST, &["--random", "--seed", "8", "--offset", "1MiB", "--length", "512"]);
    assert_eq!(code, Some(0), "{err}");
    let (code, _, err) = on_volume(&s, "verify", HOST, &["--seed", "7"]);
    assert_eq!(code, Some(3), "{err}");
    assert!(err.contains("byte 1048576 of the namespace (block 2048)"), "{err}");
}

#[test]
fn files_go_in_and_come_out() {
    let s = serve();
    let dir = tempfile::tempdir().expect("a directory");
    let (from, to) = (dir.path().join("in"), dir.path().join("out"));
    let data: Vec<u8> = (0..300 * 512_u32).map(|i| (i / 7) as u8).collect();
    std::fs::write(&from, &data).expect("written");
    let (code, _, err) =
        on_volume(&s, "write", HOST, &["--from", from.to_str().expect("text"), "--offset", "4KiB"]);
    assert_eq!(code, Some(0), "{err}");
    let range = ["--offset", "4KiB", "--length", "153600", "--to", to.to_str().expect("text")];
    let (code, _, err) = on_volume(&s, "read", HOST, &range);
    assert_eq!(code, Some(0), "{err}");
    assert!(std::fs::read(&to).expect("read") == data);
}

#[test]
fn refusals_and_bad_usage_have_their_own_exit_codes() {
    let s = serve();
    let (code, _, err) = on_volume(&s, "verify", "nqn.2016-06.io.spdk:intruder", &[]);
    assert_eq!(code, Some(4), "{err}");
    assert!(err.contains("host NQN nqn.2016-06.io.spdk:intruder is not allowed"), "{err}");
    assert_eq!(on_volume(&s, "write", HOST, &[]).0, Some(2), "neither --random nor --from");
    for bad in [&["--offset", "100"][..], &["--length", "1TiB"], &["--nsid", "9"]] {
        let (code, _, err) = on_volume(&s, "verify", HOST, bad);
        assert_eq!(code, Some(1), "{bad:?}");
        assert!(err.contains(bad[0]), "{err}");
    }
    let nowhere = free_address();
    let path = format!("tcp://{nowhere}");
    let out = vda_host(&["identify", "--path", &path, "--nqn", NQN]);
    assert_eq!(out.status.code(), Some(1));
}

#[test]
fn discovery_shows_a_host_only_what_it_may_use() {
    let s = serve();
    for (host, sees) in [(HOST, 2), ("nqn.2016-06.io.spdk:other", 0)] {
        let out = vda_host(&["discover", "--path", &s.paths[0], "--hostnqn", host, "-o", "json"]);
        assert_eq!(out.status.code(), Some(0));
        let found: serde_json::Value = serde_json::from_slice(&out.stdout).expect("JSON");
        assert_eq!(found[0]["records"].as_array().map(Vec::len), Some(sees), "{host}");
    }
}

#[test]
fn identify_and_bench_report_in_json() {
    let s = serve();
    let (code, out, err) = on_volume(&s, "identify", HOST, &["-o", "json"]);
    assert_eq!(code, Some(0), "{err}");
    let shown: serde_json::Value = serde_json::from_str(&out).expect("JSON");
    let states: Vec<_> = (0..2).map(|i| shown["controllers"][i]["ana"][0]["ana_state"].as_str()).collect();
    assert_eq!(states, [Some("inaccessible"), Some("optimized")]);
    assert_eq!(shown["namespaces"][0]["bytes"], 8192 * 512);
    let (code, out, err) = on_volume(&s, "bench", HOST, &["--time", "200ms", "-o", "json"]);
    assert_eq!(code, Some(0), "{err}");
    let measured: serde_json::Value = serde_json::from_str(&out).expect("JSON");
    assert!(measured["iops"].as_f64().is_some_and(|n| n > 100.0), "{measured}");
    assert!(measured["p50_us"].as_f64() <= measured["p99_us"].as_f64());
}
