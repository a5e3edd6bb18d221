//! Host and controller queue talking to each other in memory, over a wire that cuts the stream anywhere.

use std::collections::BTreeMap;

use bytes::{Buf, Bytes, BytesMut};
use proptest::collection::vec;
use proptest::prelude::*;

use crate::cmd::{Sqe, io};
use crate::codec::{Limits, Outbox};
use crate::controller::{Buffers, ControllerConfig, ControllerQueue, Request, Unlimited};
use crate::digest::Digests;
use crate::host::{Command, Event, HostConfig, HostQueue};
use crate::status::Status;

const BLOCK: usize = 512;
const BLOCKS: usize = 256;

/// Memory for a few commands, counted.
struct Memory {
    size: usize,
    used: usize,
}

impl Buffers for Memory {
    fn take(&mut self, bytes: usize) -> bool {
        let fits = self.used == 0 || self.used + bytes <= self.size;
        self.used += if fits { bytes } else { 0 };
        fits
    }
}

struct Pair {
    memory: Memory,
    host: HostQueue<usize>,
    controller: ControllerQueue,
    media: Vec<u8>,
    waiting: Vec<Request>,
    done: BTreeMap<usize, (Status, Bytes)>,
    cut: Box<dyn FnMut() -> usize>,
}

fn carry(from: &mut Outbox, to: &mut BytesMut, n: usize) -> bool {
    let n = n.min(from.remaining());
    to.extend_from_slice(&from.copy_to_bytes(n));
    n > 0
}

impl Pair {
    fn new(digests: Digests, limits: Limits, success: bool, cut: Box<dyn FnMut() -> usize>) -> Self {
        let offered = ControllerConfig {
            limits,
            c2h_success: success,
            r2t_budget: 8192,
            ..ControllerConfig::default()
        };
        Self {
            memory: Memory { size: 24 << 10, used: 0 },
            host: HostQueue::new(HostConfig { limits, digests }),
            controller: ControllerQueue::new(offered),
            media: vec![0; BLOCK * BLOCKS],
            waiting: Vec::new(),
            done: BTreeMap::new(),
            cut,
        }
    }

    /// One exchange in both directions; false when nothing moved.
    fn step(&mut self) -> bool {
        let (a, b) = ((self.cut)(), (self.cut)());
        let moved = carry(self.host.outbox(), self.controller.buffer(), a);
        let moved = carry(self.controller.outbox(), self.host.buffer(), b) || moved;
        self.memory.used -= self.controller.take_freed();
        while let Some(r) = self.controller.poll(&mut self.memory).expect("host keeps the protocol") {
            self.waiting.push(r);
        }
        while let Some(e) = self.host.poll().expect("controller keeps the protocol") {
            if let Event::Completed(c) = e {
                let filled = c.buffer.freeze().slice(..c.received);
                assert!(self.done.insert(c.token, (c.cqe.status, filled)).is_none(), "completed twice");
            }
        }
        moved || self.controller.outbox().has_remaining() || self.host.outbox().has_remaining()
    }

    /// Whether all memory was given back, and nobody waits for any.
    fn is_at_rest(&mut self) -> bool {
        self.memory.used -= self.controller.take_freed();
        self.memory.used == 0 && !self.controller.waits_for_buffer()
    }

    /// Executes the oldest or the youngest command that is complete.
    fn execute(&mut self, oldest: bool) -> bool {
        let Some(r) = (if oldest {
            (!self.waiting.is_empty()).then(|| self.waiting.remove(0))
        } else {
            self.waiting.pop()
        }) else {
            return false;
        };
        let at = r.sqe.slba() as usize * BLOCK;
        let range = at..at + r.sqe.blocks() as usize * BLOCK;
        if range.end > self.media.len() {
            self.controller.complete(r.tag, Status::LBA_OUT_OF_RANGE, 0, None);
        } else if r.sqe.opcode == io::WRITE {
            self.media[range].copy_from_slice(&r.data);
            self.controller.complete(r.tag, Status::SUCCESS, 0, None);
        } else {
            let data = Bytes::copy_from_slice(&self.media[range]);
            self.controller.complete(r.tag, Status::SUCCESS, 0, Some(data));
        }
        true
    }

    fn settle(&mut self) {
        while self.step() || self.execute(true) {}
    }
}

fn command(token: usize, write: bool, lba: u64, blocks: u32) -> Command<usize> {
    let mut sqe = Sqe::new(if write { io::WRITE } else { io::READ }, 1);
    sqe.set_range(lba, blocks);
    let len = blocks as usize * BLOCK;
    let (data, buffer) = if write { (len, 0) } else { (0, len) };
    Command { sqe, data: vec![token as u8 + 1; data].into(), buffer: BytesMut::zeroed(buffer), token }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    /// Writes of distinct ranges followed by reads of them: every command completes once, with the right data.
    #[test]
    fn data_survives_any_cut_order_digest_and_limit(
        header in any::<bool>(), data in any::<bool>(), success in any::<bool>(), alignment in 0u8..8,
        sizes in vec(1u32..40, 1..6), cuts in vec(1usize..5000, 1..20), order in vec(any::<bool>(), 8),
        in_capsule in prop_oneof![Just(0u32), Just(4096), Just(8192)],
    ) {
        let limits = Limits { alignment, max_h2c_data: 4096, ..Limits::default() };
        let mut i = 0;
        let cut = Box::new(move || { i += 1; cuts[i % cuts.len()] });
        let mut p = Pair::new(Digests { header, data }, limits, success, cut);
        p.settle();
        p.host.set_in_capsule(in_capsule);
        let mut lba = 0;
        let ranges: Vec<(u64, u32)> = sizes.iter().map(|&n| { lba += 40; (lba - 40, n) }).collect();
        for (t, &(lba, n)) in ranges.iter().enumerate() {
            prop_assert!(p.host.submit(command(t, true, lba, n)).is_ok());
        }
        for &oldest in &order {
            p.step();
            p.execute(oldest);
        }
        p.settle();
        for (t, &(lba, n)) in ranges.iter().enumerate() {
            prop_assert!(p.host.submit(command(100 + t, false, lba, n)).is_ok());
        }
        p.settle();
        prop_assert_eq!(p.done.len(), 2 * ranges.len());
        for (t, &(_, n)) in ranges.iter().enumerate() {
            prop_assert_eq!(p.done[&t].0, Status::SUCCESS);
            let (status, read) = &p.done[&(100 + t)];
            prop_assert_eq!(*status, Status::SUCCESS);
            prop_assert_eq!(read, &vec![t as u8 + 1; n as usize * BLOCK]);
        }
        prop_assert_eq!((p.host.outstanding(), p.controller.outstanding()), (0, 0));
        prop_assert!(p.is_at_rest(), "{} bytes are still in use", p.memory.used);
    }

    /// Whatever a hostile peer sends, neither side panics, and both hold what they buffer within limits.
    #[test]
    fn hostile_bytes_after_initialisation_never_panic(bytes in vec(any::<u8>(), 0..400), seed in any::<u8>()) {
        let mut p = Pair::new(Digests::default(), Limits::default(), true, Box::new(|| usize::MAX));
        p.settle();
        for t in 0..4 {
            let _ = p.host.submit(command(t, t % 2 == 0, 0, 32));
        }
        p.step();
        let mut b = bytes;
        if let [kind, _, hlen, ..] = &mut b[..] {
            (*kind, *hlen) = [(4, 72), (6, 24), (5, 24), (7, 24), (9, 24)][usize::from(seed) % 5];
        }
        p.host.buffer().extend_from_slice(&b);
        p.controller.buffer().extend_from_slice(&b);
        while let Ok(Some(_)) = p.host.poll() {}
        while let Ok(Some(_)) = p.controller.poll(&mut Unlimited) {}
    }
}

#[test]
fn damaged_data_fails_the_command_and_keeps_the_connection() {
    let digests = Digests { header: true, data: true };
    let mut p = Pair::new(digests, Limits::default(), true, Box::new(|| usize::MAX));
    p.settle();
    p.host.set_in_capsule(8192);
    p.host.submit(command(0, true, 0, 4)).expect("room");
    let n = p.host.outbox().remaining();
    let mut wire = p.host.outbox().copy_to_bytes(n).to_vec();
    wire[100] ^= 1;
    p.controller.buffer().extend_from_slice(&wire);
    p.settle();
    assert!(p.done[&0].0.same(Status::TRANSIENT_TRANSPORT_ERROR));
    assert!(p.media.iter().all(|&b| b == 0), "damaged data must not reach the media");
    p.host.submit(command(1, true, 0, 4)).expect("room");
    p.settle();
    assert_eq!(p.done[&1].0, Status::SUCCESS);
}

#[test]
fn a_full_queue_gives_the_command_back() {
    let limits = Limits { queue_depth: 4, ..Limits::default() };
    let mut p = Pair::new(Digests::default(), limits, true, Box::new(|| usize::MAX));
    assert!(p.host.submit(command(0, true, 0, 1)).is_err(), "not initialised");
    p.settle();
    for t in 0..3 {
        p.host.submit(command(t, true, 0, 1)).expect("room");
    }
    assert!(p.host.submit(command(3, true, 0, 1)).is_err());
    p.settle();
    assert!(p.host.has_room());
}

#[test]
fn reads_beyond_the_end_report_their_status() {
    let mut p = Pair::new(Digests::default(), Limits::default(), true, Box::new(|| usize::MAX));
    p.settle();
    p.host.submit(command(0, false, BLOCKS as u64, 1)).expect("room");
    p.settle();
    assert_eq!(p.done[&0], (Status::LBA_OUT_OF_RANGE, Bytes::new()));
}
