//! As many hosts as a node may have: 1,000 subsystems and 4,000 connections are served at once, by one process whose memory stays within
//! bounds, and nothing of them is left when they have gone.

#![allow(clippy::unwrap_used)]

use std::net::{Ipv4Addr, SocketAddr};

use futures::StreamExt;
use futures::stream;
use rustix::process::{Resource, getrlimit};
use serde_json::{Value, json};
use tokio::task::LocalSet;
use vda_nvme::cmd::{Sqe, admin, io};
use vda_nvme::digest::Digests;
use vda_nvme::identify::{IDENTIFY_LEN, cns};
use vda_nvme::status::Status;
use vda_ports::Port;

#[allow(dead_code)]
#[path = "nvmf/raw.rs"]
mod raw;
#[allow(dead_code)]
#[path = "conformance/target.rs"]
mod target;

use raw::{RawHost, RawQueue, Who};
use target::Target;

/// Of each host: an admin queue and three for I/O.
const CONNECTIONS: usize = 4;
const SUBSYSTEMS: usize = 1000;
/// Descriptors of either process that are no such connection.
const OTHER_FILES: u64 = 100;
const BLOCK: usize = 4096;
/// Of each RAM disk is written, and so taken: two pages for each I/O queue, and what its memory begins and ends with.
const DATA_KIB: u64 = ((CONNECTIONS as u64 - 1) * 2 + 2) * 4;
/// Hosts that connect, or do I/O, at a time.
const AT_A_TIME: usize = 64;
/// What the data plane may take beside data, and of it for a connection; and what the same hosts may add when they come again, KiB.
const MEMORY_KIB: u64 = 64 << 10;
const CONNECTION_KIB: u64 = 6;
const GROWTH_KIB: u64 = 4 << 10;

/// As many hosts as both processes may have connections for.
fn hosts() -> usize {
    vda_dataplane::open_files::raise_limit();
    let files = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    let room = usize::try_from(files.saturating_sub(OTHER_FILES)).unwrap_or(usize::MAX) / CONNECTIONS;
    if room < SUBSYSTEMS {
        eprintln!(
            "SCALED DOWN: {room} subsystems instead of {SUBSYSTEMS}: a process may only have {files} open files (ulimit -Hn)"
        );
    }
    room.min(SUBSYSTEMS)
}

/// Makes calls, many in a request.
fn make(target: &mut Target, calls: impl Iterator<Item = (&'static str, Value)>) {
    let calls: Vec<Value> = calls
        .map(|(method, params)| json!({"jsonrpc": "2.0", "id": 1, "method": method, "params": params}))
        .collect();
    for batch in calls.chunks(500) {
        let answers = target.exchange(&Value::from(batch));
        let refused = answers.as_array().unwrap().iter().find(|answer| answer.get("error").is_some());
        assert_eq!(refused, None);
    }
}

fn nqn(n: usize) -> String {
    format!("nqn.2016-06.io.vda:vd:{n:016x}")
}

/// `n` subsystems, each with a disk in memory.
fn export(target: &mut Target, n: usize, port: u16) {
    let address =
        json!({"trtype": "TCP", "adrfam": "IPv4", "traddr": "127.0.0.1", "trsvcid": port.to_string()});
    let started = target.exchange(&json!({"jsonrpc": "2.0", "id": 1, "method": "framework_start_init"}));
    assert_eq!(started["result"], true);
    make(target, std::iter::once(("nvmf_create_transport", json!({"trtype": "TCP"}))));
    make(
        target,
        (0..n).map(|i| {
            let disk = json!({"name": format!("m{i}"), "num_blocks": 64, "block_size": BLOCK});
            ("bdev_malloc_create", disk)
        }),
    );
    make(target, (0..n).map(|i| ("nvmf_create_subsystem", json!({"nqn": nqn(i), "allow_any_host": true}))));
    make(
        target,
        (0..n).map(|i| {
            let ns = json!({"nqn": nqn(i), "namespace": {"bdev_name": format!("m{i}")}});
            ("nvmf_subsystem_add_ns", ns)
        }),
    );
    make(
        target,
        (0..n).map(|i| ("nvmf_subsystem_add_listener", json!({"nqn": nqn(i), "listen_address": address}))),
    );
}

/// What the process has of memory that is no file, KiB, and how many files it has open.
fn holds(target: &Target) -> (u64, usize) {
    let status = std::fs::read_to_string(format!("/proc/{}/status", target.pid())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap();
    let files = std::fs::read_dir(format!("/proc/{}/fd", target.pid())).unwrap().count();
    (line.trim().trim_end_matches(" kB").parse().unwrap(), files)
}

/// Admin queues, I/O queues and connections without either that the target counts.
fn counted(target: &mut Target) -> [u64; 3] {
    let stats = target.exchange(&json!({"jsonrpc": "2.0", "id": 1, "method": "nvmf_get_stats"}));
    let group = &stats["result"]["poll_groups"][0];
    ["current_admin_qpairs", "current_io_qpairs", "current_unassociated_qpairs"]
        .map(|key| group[key].as_u64().unwrap())
}

struct Host {
    admin: RawQueue,
    io: Vec<RawQueue>,
}

impl Host {
    async fn connect(n: usize, address: SocketAddr) -> Self {
        let who = Who {
            address,
            subnqn: nqn(n),
            hostnqn: "nqn.2016-06.io.spdk:host0".into(),
            hostid: (n as u128 + 1).to_le_bytes(),
            digests: Digests::default(),
            depth: 32,
            kato_ms: 0,
        };
        let admin = RawHost::admin(&who).await;
        let mut io = Vec::new();
        for qid in 1..CONNECTIONS as u16 {
            let (queue, status) = RawQueue::connect(&who, qid, admin.cntlid).await;
            assert_eq!(status, Status::SUCCESS, "queue {qid} of {}", who.subnqn);
            io.push(queue);
        }
        Self { admin, io }
    }

    /// Writes over each queue, all at once, in the capsule and by R2T, and reads it over the next one. The admin queue is asked something as well.
    async fn use_all(&mut self, n: usize, round: u64) {
        let length = |piece: usize| BLOCK * (1 + piece % 2);
        let pattern = |piece: usize| -> Vec<u8> {
            let word = (round << 48 | (n as u64) << 16 | piece as u64).to_le_bytes();
            word.into_iter().cycle().take(length(piece)).collect()
        };
        let command = |opcode: u8, piece: usize| {
            let mut sqe = Sqe::new(opcode, 1);
            sqe.set_range(piece as u64 * 2, (length(piece) / BLOCK) as u32);
            sqe
        };
        let mut written = Vec::new();
        for (piece, queue) in self.io.iter_mut().enumerate() {
            written.push(queue.submit(command(io::WRITE, piece), pattern(piece), 0).await);
        }
        for (queue, token) in self.io.iter_mut().zip(written) {
            assert_eq!(queue.wait(token).await.cqe.status, Status::SUCCESS);
        }
        let queues = self.io.len();
        for (i, queue) in self.io.iter_mut().enumerate() {
            let piece = (i + 1) % queues;
            let read = queue.command(command(io::READ, piece), Vec::new(), length(piece)).await;
            assert_eq!((read.cqe.status, read.received), (Status::SUCCESS, length(piece)));
            assert!(read.buffer == pattern(piece), "piece {piece} of {}", nqn(n));
        }
        let mut identify = Sqe::new(admin::IDENTIFY, 0);
        identify.cdw10[0] = cns::CONTROLLER.into();
        let identified = self.admin.command(identify, Vec::new(), IDENTIFY_LEN).await;
        assert_eq!((identified.cqe.status, identified.received), (Status::SUCCESS, IDENTIFY_LEN));
    }
}

/// All hosts connect, all of them use all of their connections while all are there, and leave; what the process holds meanwhile.
async fn visit(target: &mut Target, hosts: usize, address: SocketAddr, round: u64) -> (u64, usize) {
    let connecting = stream::iter((0..hosts).map(|n| Host::connect(n, address)));
    let mut all: Vec<Host> = connecting.buffered(AT_A_TIME).collect().await;
    let queues = hosts as u64;
    assert_eq!(counted(target), [queues, queues * (CONNECTIONS as u64 - 1), 0]);
    let using = stream::iter(all.iter_mut().enumerate().map(|(n, host)| host.use_all(n, round)));
    using.buffer_unordered(AT_A_TIME).collect::<()>().await;
    assert_eq!(counted(target), [queues, queues * (CONNECTIONS as u64 - 1), 0], "all of them stayed");
    let held = holds(target);
    drop(all);
    // Nothing announces it. A target that forgets one of them makes the test hang, which is a failure.
    while counted(target) != [0; 3] {
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    held
}

#[test]
fn a_thousand_subsystems_and_four_thousand_connections_are_served_within_bounds() {
    let hosts = hosts();
    let dir = tempfile::tempdir().unwrap();
    let port = Port::reserve().unwrap();
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port.number()));
    // Each connection is a line of the log otherwise, twice.
    let mut target = Target::embedded(dir.path(), "scale", &["--log-level", "warn"]);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    LocalSet::new().block_on(&runtime, async {
        let (empty, _) = holds(&target);
        export(&mut target, hosts, port.number());
        let (exported, files) = holds(&target);
        let first = visit(&mut target, hosts, address, 1).await;
        let (left, files_left) = holds(&target);
        let second = visit(&mut target, hosts, address, 2).await;
        eprintln!("{hosts} hosts, KiB: {empty} empty, {exported} exported, {first:?} connected, {left} after, {second:?} again");
        assert_eq!((files_left, holds(&target).1), (files, files), "files that stayed open");
        assert_eq!(first.1, files + hosts * CONNECTIONS);
        let data = DATA_KIB * hosts as u64;
        assert!(first.0 <= MEMORY_KIB + data, "{} KiB, of which {data} are data", first.0);
        let connections = CONNECTION_KIB * (CONNECTIONS * hosts) as u64;
        assert!(first.0 <= exported + connections + data, "{} KiB, {exported} before", first.0);
        assert!(second.0 <= first.0 + GROWTH_KIB, "{} KiB, {} when they were there the first time", second.0, first.0);
        // What served them can go, too.
        make(&mut target, (0..hosts).map(|i| ("nvmf_delete_subsystem", json!({"nqn": nqn(i)}))));
        make(&mut target, (0..hosts).map(|i| ("bdev_malloc_delete", json!({"name": format!("m{i}")}))));
        let bdevs = target.exchange(&json!({"jsonrpc": "2.0", "id": 1, "method": "bdev_get_bdevs"}));
        assert_eq!(bdevs["result"], json!([]));
    });
}
