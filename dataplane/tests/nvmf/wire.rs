//! Every command on the wire, as Wireshark reads it.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

use vda_nvme::DISCOVERY_NQN;
use vda_nvme::cmd::{DsmRange, Sqe, admin, feature, io};
use vda_nvme::digest::Digests;
use vda_nvme::fabrics::{self, fctype, property};
use vda_nvme::identify::{IDENTIFY_LEN, cns};
use vda_nvme::log::{AnaState, lid};
use vda_nvme::status::Status;

use crate::fixture::{BLOCK, BLOCKS, Fixture, NQN, run};
use crate::raw::{IN_CAPSULE, RawHost, RawQueue, Who};
use crate::recorder::{Capture, record};
use crate::reservations::{command, keys};

/// Commands that [`every_command`] sends, so that one that is forgotten is found: admin opcodes, I/O opcodes, Fabrics types.
const ADMIN: &[u8] = &[
    admin::GET_LOG_PAGE,
    admin::IDENTIFY,
    admin::ABORT,
    admin::SET_FEATURES,
    admin::GET_FEATURES,
    admin::ASYNC_EVENT_REQUEST,
    admin::KEEP_ALIVE,
];
const IO: &[u8] = &[
    io::FLUSH,
    io::WRITE,
    io::READ,
    io::COMPARE,
    io::WRITE_ZEROES,
    io::DATASET_MANAGEMENT,
    io::RESERVATION_REGISTER,
    io::RESERVATION_REPORT,
    io::RESERVATION_ACQUIRE,
    io::RESERVATION_RELEASE,
];
const FABRICS: &[u8] = &[fctype::PROPERTY_SET, fctype::CONNECT, fctype::PROPERTY_GET];
/// Types of PDUs that a target and a host that keep the protocol exchange.
const PDUS: &[u8] = &[0, 1, 4, 5, 6, 7, 9];

const TSHARK: &str = "tshark";
/// Wireshark's states of a checksum.
const BAD: u8 = 0;
const GOOD: u8 = 1;

fn tshark_is_there() -> bool {
    let there = Command::new(TSHARK).arg("--version").output().is_ok_and(|out| out.status.success());
    if !there {
        eprintln!(
            "SKIPPED: tshark is not installed, so what is on the wire is NOT CHECKED (Debian: apt-get install tshark)"
        );
    }
    there
}

/// What tshark prints; it fails if tshark does.
fn tshark(file: &Path, args: &[&str]) -> String {
    let verify = ["-o", "nvme-tcp.check_hdgst:TRUE", "-o", "nvme-tcp.check_ddgst:TRUE"];
    let out = Command::new(TSHARK).arg("-r").arg(file).args(verify).args(args).output().expect("tshark runs");
    let complaint = String::from_utf8_lossy(&out.stderr);
    assert!(out.status.success(), "{complaint}");
    assert!(!complaint.contains("cut short") && !complaint.contains("damaged"), "{complaint}");
    String::from_utf8(out.stdout).expect("text")
}

/// Malformed or wrong. What is left out is a mistake of Wireshark 4.0 itself, which says so: the feature Arbitration has fields it
/// never registered.
const WRONG: &str =
    "(_ws.malformed || _ws.expert.severity==error) && !(_ws.expert.message contains \"Unregistered hf\")";

/// Frames that Wireshark finds malformed or wrong, in full.
fn complaints(file: &Path) -> String {
    tshark(file, &["-V", "-Y", WRONG])
}

/// What is looked at in a capture.
const FIELDS: [&str; 5] = [
    "nvme.cmd.opc",
    "nvme.fabrics.cmd.fctype",
    "nvme-tcp.type",
    "nvme-tcp.hdgst.status",
    "nvme-tcp.ddgst.status",
];

/// All values of each of [`FIELDS`].
fn values(file: &Path) -> [BTreeSet<u8>; 5] {
    let mut args = vec!["-T", "fields", "-E", "occurrence=a", "-E", "separator=;", "-E", "aggregator=,"];
    args.extend(FIELDS.iter().flat_map(|f| ["-e", f]));
    let number = |text: &str| match text.strip_prefix("0x") {
        Some(hex) => u8::from_str_radix(hex, 16),
        None => text.parse(),
    };
    let mut found: [BTreeSet<u8>; 5] = Default::default();
    for line in tshark(file, &args).lines() {
        for (set, column) in found.iter_mut().zip(line.split(';')) {
            set.extend(column.split(',').filter(|v| !v.is_empty()).map(|v| number(v).expect("a number")));
        }
    }
    found
}

fn set(all: &[&[u8]]) -> BTreeSet<u8> {
    all.concat().into_iter().collect()
}

fn save(capture: &RefCell<Capture>, dir: &tempfile::TempDir, name: &str) -> std::path::PathBuf {
    let path = dir.path().join(name);
    std::fs::write(&path, capture.borrow().file()).expect("written");
    path
}

fn with(mut sqe: Sqe, dwords: &[(usize, u32)]) -> Sqe {
    for (i, value) in dwords {
        sqe.cdw10[*i - 10] = *value;
    }
    sqe
}

fn block_io(opcode: u8, lba: u64, blocks: u32) -> Sqe {
    let mut sqe = Sqe::new(opcode, 1);
    sqe.set_range(lba, blocks);
    sqe
}

fn log_page(lid: u8, len: usize) -> Sqe {
    let dwords = (len / 4 - 1) as u32;
    with(Sqe::new(admin::GET_LOG_PAGE, 0), &[(10, u32::from(lid) | dwords << 16)])
}

async fn good(q: &mut RawQueue, what: &str, sqe: Sqe, data: Vec<u8>, room: usize) {
    assert_eq!(q.status(sqe, data, room).await, Status::SUCCESS, "{what}");
}

async fn properties(q: &mut RawQueue) {
    for (offset, wide) in [
        (property::CAP, true),
        (property::VS, false),
        (property::CC, false),
        (property::CSTS, false),
        (property::CRTO, false),
    ] {
        good(q, "property get", fabrics::property_get(offset, wide), vec![], 0).await;
    }
}

async fn identify(q: &mut RawQueue) {
    for (which, nsid) in [
        (cns::NAMESPACE, 1),
        (cns::NAMESPACE, 2),
        (cns::CONTROLLER, 0),
        (cns::ACTIVE_NAMESPACES, 0),
        (cns::NAMESPACE_DESCRIPTORS, 1),
        (cns::CSI_NAMESPACE, 1),
        (cns::CSI_CONTROLLER, 0),
        (cns::CSI_ACTIVE_NAMESPACES, 0),
        (cns::INDEPENDENT_NAMESPACE, 1),
        (cns::COMMAND_SETS, 0),
    ] {
        let sqe = with(Sqe::new(admin::IDENTIFY, nsid), &[(10, which.into())]);
        good(q, "identify", sqe, vec![], IDENTIFY_LEN).await;
    }
}

async fn log_pages(q: &mut RawQueue) {
    for (which, len) in [
        (lid::SUPPORTED, 1024),
        (lid::ERROR, 128), // Wireshark 4.0 believes that an entry has 66 bytes
        (lid::HEALTH, 512),
        (lid::FIRMWARE, 512),
        (lid::CHANGED_NAMESPACES, 4096),
        (lid::EFFECTS, 4096),
        (lid::ANA, 16 + 32 + 4),
        (lid::RESERVATION, 64),
    ] {
        good(q, "log page", log_page(which, len), vec![], len).await;
    }
}

async fn features(q: &mut RawQueue) {
    for fid in [
        feature::ARBITRATION,
        feature::POWER_MANAGEMENT,
        feature::TEMPERATURE_THRESHOLD,
        feature::ERROR_RECOVERY,
        feature::VOLATILE_WRITE_CACHE,
        feature::NUMBER_OF_QUEUES,
        feature::ASYNC_EVENT_CONFIG,
        feature::KEEP_ALIVE_TIMER,
    ] {
        let done = q.command(with(Sqe::new(admin::GET_FEATURES, 0), &[(10, fid.into())]), vec![], 0).await;
        assert_eq!(done.cqe.status, Status::SUCCESS, "get feature {fid:#x}");
        let value = done.cqe.result as u32;
        let sqe = with(Sqe::new(admin::SET_FEATURES, 0), &[(10, fid.into()), (11, value)]);
        good(q, "set feature", sqe, vec![], 0).await;
    }
    let id = with(Sqe::new(admin::GET_FEATURES, 0), &[(10, feature::HOST_IDENTIFIER.into()), (11, 1)]);
    good(q, "host identifier", id, vec![], 16).await;
}

/// An event that is reported, one that is aborted.
async fn events(q: &mut RawQueue, f: &Fixture) {
    let aer = Sqe::new(admin::ASYNC_EVENT_REQUEST, 0);
    let reported = q.submit(aer, vec![], 0).await;
    f.target.set_ana_state(NQN, f.address, AnaState::NonOptimized, None).expect("set");
    assert_eq!(q.wait(reported).await.cqe.status, Status::SUCCESS);
    good(q, "abort", with(Sqe::new(admin::ABORT, 0), &[(10, 0x7777 << 16)]), vec![], 0).await;
    f.target.set_ana_state(NQN, f.address, AnaState::Optimized, None).expect("set");
}

async fn data_commands(q: &mut RawQueue) {
    // In the capsule, and by R2T in one and in several PDUs.
    for blocks in [1, IN_CAPSULE / BLOCK as u32, 64, 256] {
        let data = vec![blocks as u8; blocks as usize * BLOCK];
        let mut write = block_io(io::WRITE, 8, blocks);
        write.cdw10[2] |= io::FUA;
        good(q, "write", write, data.clone(), 0).await;
        let read = q.command(block_io(io::READ, 8, blocks), vec![], data.len()).await;
        assert_eq!((read.cqe.status, &read.buffer[..]), (Status::SUCCESS, &data[..]));
        good(q, "compare", block_io(io::COMPARE, 8, blocks), data, 0).await;
    }
    // Both halves of a fused operation.
    let half = |opcode, fuse| Sqe { flags: fuse, ..block_io(opcode, 8, 1) };
    let compare = q.submit(half(io::COMPARE, 1), vec![0; BLOCK], 0).await;
    good(q, "fused write", half(io::WRITE, 2), vec![7; BLOCK], 0).await;
    assert_eq!(q.wait(compare).await.cqe.status, Status::SUCCESS, "fused compare");
    good(q, "flush", Sqe::new(io::FLUSH, 1), vec![], 0).await;
    good(q, "write zeroes", block_io(io::WRITE_ZEROES, 0, 16), vec![], 0).await;
    let ranges = [DsmRange { slba: 0, blocks: 8 }, DsmRange { slba: 64, blocks: 1 }];
    let dsm = with(Sqe::new(io::DATASET_MANAGEMENT, 1), &[(10, 1), (11, io::DSM_DEALLOCATE)]);
    good(q, "deallocate", dsm, DsmRange::encode_all(&ranges), 0).await;
}

async fn reservations(q: &mut RawQueue) {
    good(q, "register", command(io::RESERVATION_REGISTER, 0), keys(0, 5), 0).await;
    good(q, "acquire", command(io::RESERVATION_ACQUIRE, 1 << 8), keys(5, 0), 0).await;
    let report = with(command(io::RESERVATION_REPORT, 31), &[(11, 1)]);
    good(q, "report", report, vec![], 128).await;
    good(q, "release", command(io::RESERVATION_RELEASE, 1 << 8), vec![5, 0, 0, 0, 0, 0, 0, 0], 0).await;
    good(q, "unregister", command(io::RESERVATION_REGISTER, 1), keys(5, 0), 0).await;
}

/// What is refused is answered in form as well.
async fn refusals(admin_queue: &mut RawQueue, q: &mut RawQueue) {
    let differs = q.status(block_io(io::COMPARE, 0, 1), vec![9; BLOCK], 0).await;
    assert!(differs.same(Status::COMPARE_FAILURE), "{differs}");
    let beyond = q.status(block_io(io::READ, BLOCKS, 1), vec![], BLOCK).await;
    assert!(beyond.same(Status::LBA_OUT_OF_RANGE), "{beyond}");
    let unknown = q.status(Sqe::new(0x90, 1), vec![], 0).await;
    assert!(unknown.same(Status::INVALID_OPCODE), "{unknown}");
    let page = admin_queue.status(log_page(0xee, 512), vec![], 512).await;
    assert!(page.same(Status::INVALID_LOG_PAGE), "{page}");
}

async fn discovery(who: &Who, f: &Fixture) {
    let who = Who { subnqn: DISCOVERY_NQN.into(), kato_ms: 10_000, ..who.clone() };
    let mut q = RawHost::admin(&who).await;
    good(
        &mut q,
        "identify",
        with(Sqe::new(admin::IDENTIFY, 0), &[(10, cns::CONTROLLER.into())]),
        vec![],
        IDENTIFY_LEN,
    )
    .await;
    good(&mut q, "discovery log", log_page(lid::DISCOVERY, 2048), vec![], 2048).await;
    let event = q.submit(Sqe::new(admin::ASYNC_EVENT_REQUEST, 0), vec![], 0).await;
    f.target.allow_any_host(NQN, true).expect("allowed");
    assert_eq!(q.wait(event).await.cqe.status, Status::SUCCESS);
    good(&mut q, "keep alive", Sqe::new(admin::KEEP_ALIVE, 0), vec![], 0).await;
}

/// All commands, by one host, with these digests.
async fn every_command(who: &Who, f: &Fixture) {
    let mut host = RawHost::connect(who).await;
    properties(&mut host.admin).await;
    identify(&mut host.admin).await;
    log_pages(&mut host.admin).await;
    features(&mut host.admin).await;
    events(&mut host.admin, f).await;
    good(&mut host.admin, "keep alive", Sqe::new(admin::KEEP_ALIVE, 0), vec![], 0).await;
    data_commands(&mut host.io).await;
    reservations(&mut host.io).await;
    refusals(&mut host.admin, &mut host.io).await;
    discovery(who, f).await;
}

/// State of the digests, which Wireshark computes itself, where they were asked for; else there must be none.
fn verified(asked: bool) -> BTreeSet<u8> {
    if asked { BTreeSet::from([GOOD]) } else { BTreeSet::new() }
}

#[test]
fn wireshark_finds_what_is_wrong() {
    if !tshark_is_there() {
        return;
    }
    run(async {
        let dir = tempfile::tempdir().expect("a directory");
        let f = Fixture::new();
        let (through, capture) = record(f.address).await;
        let digests = Digests { header: true, data: true };
        let mut host = RawHost::connect(&Who { address: through, digests, ..f.who() }).await;
        good(&mut host.io, "read", block_io(io::READ, 0, 1), vec![], BLOCK).await;
        let file = save(&capture, &dir, "good.pcap");
        assert_eq!(values(&file)[3..], [verified(true), verified(true)]);
        // The last PDU is the read's data, whose last byte is of its digest.
        let mut bytes = std::fs::read(&file).expect("read");
        *bytes.last_mut().expect("not empty") ^= 1;
        std::fs::write(&file, &bytes).expect("written");
        assert_eq!(values(&file)[3..], [verified(true), BTreeSet::from([BAD, GOOD])]);
        // A length below that of the header.
        let header = bytes.len() - BLOCK - 4 - 4 - 24;
        assert_eq!(bytes[header], 7, "C2HData");
        bytes[header + 4] = 1;
        bytes[header + 5] = 0;
        std::fs::write(&file, &bytes).expect("written");
        assert!(!complaints(&file).is_empty());
    });
}

#[test]
fn wireshark_finds_nothing_wrong_with_any_command() {
    if !tshark_is_there() {
        return;
    }
    let dir = tempfile::tempdir().expect("a directory");
    for (header, data) in [(false, false), (true, false), (false, true), (true, true)] {
        run(async {
            let f = Fixture::new();
            let (through, capture) = record(f.address).await;
            let who = Who { address: through, digests: Digests { header, data }, kato_ms: 10_000, ..f.who() };
            every_command(&who, &f).await;
            let file = save(&capture, &dir, "capture.pcap");
            let found = complaints(&file);
            assert!(found.is_empty(), "digests {header} {data}:\n{found}");
            // That nothing is wrong means something only if it was all understood.
            let [sent, fabrics, pdus, headers, payloads] = values(&file);
            let all = set(&[ADMIN, IO]);
            assert!(sent.is_superset(&all), "missing: {:x?}", all.difference(&sent));
            assert_eq!((fabrics, pdus), (set(&[FABRICS]), set(&[PDUS])));
            assert_eq!([headers, payloads], [verified(header), verified(data)]);
        });
    }
}
