//! Hosts that ask for more than they take: nothing grows without bound.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use uuid::Uuid;
use vda_dataplane::bdev::malloc::{self, MallocParams};
use vda_dataplane::bdev::nvme::{Attach, Multipath, NvmeModule};
use vda_dataplane::initiator::Resilience;
use vda_dataplane::nvmf::{NamespaceRequest, SubsystemConfig};
use vda_nvme::cmd::{SQE_LEN, Sgl, Sqe, io};
use vda_nvme::log::AnaState;
use vda_nvme::pdu::COMMON_HEADER_LEN;
use vda_nvme::status::Status;
use vda_spdk::MultipathMode;

use crate::fixture::{BLOCK, Fixture, HOST, free_address, run};
use crate::raw::{RawHost, Who};

/// Blocks of a read or write: 128 KiB.
const BLOCKS: u32 = 256;
const BYTES: usize = BLOCKS as usize * BLOCK;
const HEADER: usize = COMMON_HEADER_LEN + SQE_LEN;

/// A command capsule as bytes, so that no host's queue counts it.
fn capsule(opcode: u8, cid: u16) -> Vec<u8> {
    let mut sqe = Sqe::new(opcode, 1);
    sqe.cid = cid;
    sqe.set_range(0, BLOCKS);
    sqe.dptr = Sgl::Transport { length: BYTES as u32 }.encode();
    let mut pdu = vec![4, 0, HEADER as u8, 0, HEADER as u8, 0, 0, 0];
    pdu.extend_from_slice(&sqe.encode());
    pdu
}

/// Waits until the target has done all it will do without more from the host.
async fn settled(f: &Fixture) -> u64 {
    let mut last = f.completed();
    loop {
        tokio::time::sleep(Duration::from_millis(200)).await;
        let now = f.completed();
        if now == last && now > 0 {
            return now;
        }
        last = now;
    }
}

#[test]
fn a_host_that_never_reads_gets_no_more_work_done() {
    const READS: usize = 1500;
    run(async {
        let f = Fixture::new();
        let mut host = RawHost::connect(&f.who()).await;
        let all: Vec<u8> = (0..READS).flat_map(|i| capsule(io::READ, i as u16)).collect();
        host.io.stream().write_all(&all).await.expect("sent");
        // What the kernel buffers for the socket, and a mebibyte: not the 190 MiB that were asked for.
        let done = settled(&f).await;
        assert!(done < 400, "{done} reads were done for a host that takes nothing");
        // It goes on as soon as the host reads: each answer is a C2HData with success.
        let mut left = READS * (24 + BYTES);
        let mut buf = vec![0; 1 << 20];
        while left > 0 {
            left -= host.io.stream().read(&mut buf).await.expect("received");
        }
        // The Connect of the queue counts as well.
        assert_eq!(f.completed(), READS as u64 + 1);
    });
}

#[test]
fn a_host_that_fills_more_than_its_queue_is_disconnected() {
    run(async {
        let f = Fixture::new();
        let mut host = RawHost::connect(&f.who()).await;
        // Writes whose data never comes stay in the queue, which has 32 entries.
        let all: Vec<u8> = (0..33).flat_map(|i| capsule(io::WRITE, i)).collect();
        host.io.stream().write_all(&all).await.expect("sent");
        let mut answer = Vec::new();
        let _ = host.io.stream().read_to_end(&mut answer).await;
        // Only as much data is asked for as the budget allows: 2 MiB.
        let r2ts = answer.chunks_exact(24).take_while(|pdu| pdu[0] == 9).count();
        assert_eq!(r2ts, (2 << 20) / BYTES);
        let last = &answer[r2ts * 24..];
        assert_eq!((last[0], last[8]), (3, 2), "C2HTermReq: PDU sequence error");
    });
}

fn transfer(opcode: u8, lba: u64, blocks: u32) -> Sqe {
    let mut sqe = Sqe::new(opcode, 1);
    sqe.set_range(lba, blocks);
    sqe
}

/// Writes `n` pieces of `blocks` blocks at once and reads them back at once.
async fn write_and_read(host: &mut RawHost, first: u64, n: u64, blocks: u32) {
    let at = |i: u64| first + i * u64::from(blocks);
    let bytes = blocks as usize * BLOCK;
    let mut tokens = Vec::new();
    for i in 0..n {
        tokens.push(host.io.stage(transfer(io::WRITE, at(i), blocks), vec![at(i) as u8 + 1; bytes], 0));
    }
    for token in tokens.drain(..) {
        assert_eq!(host.io.wait(token).await.cqe.status, Status::SUCCESS);
    }
    for i in 0..n {
        tokens.push(host.io.stage(transfer(io::READ, at(i), blocks), vec![], bytes));
    }
    for (i, token) in (0..n).zip(tokens) {
        let done = host.io.wait(token).await;
        assert_eq!((done.cqe.status, done.received), (Status::SUCCESS, bytes));
        assert!(done.buffer.iter().all(|b| *b == at(i) as u8 + 1), "piece {i}");
    }
}

#[test]
fn many_hosts_share_memory_for_two_commands() {
    run(async {
        let f = Fixture::new();
        f.target.set_data_buffers(64 << 10);
        let hosts = (0..8).map(|i| {
            let who = Who { hostid: [i as u8; 16], ..f.who() };
            async move {
                let mut host = RawHost::connect(&who).await;
                write_and_read(&mut host, i * 512, 8, 64).await;
            }
        });
        futures::future::join_all(hosts).await;
    });
}

#[test]
fn hosts_that_hold_all_memory_and_say_nothing_do_not_stop_the_others() {
    run(async {
        let f = Fixture::new();
        f.target.set_data_buffers(256 << 10);
        let mut silent = Vec::new();
        for opcode in [io::WRITE, io::READ] {
            // It never sends the data that it is asked for, or never takes the data that it asked for.
            let mut host = RawHost::connect(&f.who()).await;
            let all: Vec<u8> = (0..31).flat_map(|cid| capsule(opcode, cid)).collect();
            host.io.stream().write_all(&all).await.expect("sent");
            silent.push(host);
        }
        let mut host = RawHost::connect(&f.who()).await;
        write_and_read(&mut host, 0, 16, 256).await;
    });
}

/// A volume that is made of a volume of the same target: each I/O needs two buffers, one after the other.
#[test]
fn a_volume_of_this_target_on_a_volume_of_this_target_does_not_deadlock() {
    const LOWER: &str = "nqn.2016-06.io.vda:vd:0000000000000002";
    const UPPER: &str = "nqn.2016-06.io.vda:vd:0000000000000003";
    run(async {
        let f = Fixture::new();
        let export = |nqn: &str, bdev: &str, uuid: u128| {
            f.target.create_subsystem(SubsystemConfig::new(nqn), true).expect("subsystem");
            // Identifiers of its own: the bdev of the attached namespace is in the same registry as the one behind it.
            let request = NamespaceRequest {
                bdev_name: bdev.into(),
                nguid: Some(format!("{uuid:032X}")),
                uuid: Some(Uuid::from_u128(uuid)),
                ..Default::default()
            };
            f.target.add_ns(nqn, &request).expect("namespace");
            let address = free_address();
            f.target.add_listener(nqn, address, AnaState::Optimized).expect("listener");
            address
        };
        let params = MallocParams { name: Some("m1".into()), num_blocks: 4096, block_size: 512, uuid: None };
        let _malloc = malloc::create(&f.registry, params).expect("malloc");
        let module = NvmeModule::new(f.registry.clone());
        let attach = Attach {
            name: "c".into(),
            address: export(LOWER, "m1", 1),
            subnqn: LOWER.into(),
            hostnqn: Some(HOST.into()),
            header_digest: false,
            data_digest: false,
            io_queues: 1,
            resilience: None::<Resilience>,
            multipath: Multipath::default(),
            mode: MultipathMode::Multipath,
        };
        module.attach(attach).await.expect("attached");
        let address = export(UPPER, "cn1", 2);
        // Less than what the commands of the upper one take.
        f.target.set_data_buffers(128 << 10);
        let mut host = RawHost::connect(&Who { address, subnqn: UPPER.into(), ..f.who() }).await;
        write_and_read(&mut host, 0, 24, 128).await;
        module.detach("c", |_, _| true).await.expect("detached");
    });
}
