//! Hosts that ask for more than they take: nothing grows without bound.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use vda_nvme::cmd::{SQE_LEN, Sgl, Sqe, io};
use vda_nvme::pdu::COMMON_HEADER_LEN;

use crate::fixture::{BLOCK, Fixture, run};
use crate::raw::RawHost;

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
