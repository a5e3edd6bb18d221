//! The pool by itself, and many hosts and controllers in virtual time over one pool that is far too small for them.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::Wake;

use bytes::{Buf, Bytes, BytesMut};
use vda_nvme::cmd::{Sqe, io};
use vda_nvme::codec::Limits;
use vda_nvme::controller::{ControllerConfig, ControllerQueue, Request};
use vda_nvme::host::{Command, Event, HostConfig, HostQueue};
use vda_nvme::limits::buffer_size;
use vda_nvme::status::Status;

use super::*;

const KIB: usize = 1 << 10;

#[derive(Default)]
struct Woken(AtomicUsize);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

fn take(share: &Share, bytes: usize) -> bool {
    (&mut &*share).take(bytes)
}

#[test]
fn turns_come_in_the_order_of_waiting_and_wake() {
    let pool = Pool::new(12 * KIB);
    let [a, b, c] = [pool.join(), pool.join(), pool.join()];
    let woken: [Arc<Woken>; 2] = Default::default();
    let count = || woken.each_ref().map(|w| w.0.load(Ordering::Relaxed));
    assert!(take(&a, 8 * KIB));
    // The first buffer of a connection is its own, whatever the others hold; the second is not.
    assert!(take(&b, 4 * KIB) && take(&c, 4 * KIB) && pool.used() == 16 * KIB);
    assert!(!take(&b, 8 * KIB) && !take(&c, 4 * KIB));
    b.wake_later(&Arc::clone(&woken[0]).into());
    c.wake_later(&Arc::clone(&woken[1]).into());
    // Now 4 KiB are free, which is what `c` wants. But `b` was first.
    a.release(4 * KIB);
    a.release(4 * KIB);
    assert_eq!((count(), pool.used()), ([0, 0], 8 * KIB));
    assert!(!take(&c, 4 * KIB), "nobody overtakes");
    // `c` holds nothing any more: its turn has come, and after it that of nobody.
    c.release(4 * KIB);
    assert_eq!((count(), pool.used()), ([0, 1], 8 * KIB));
    assert!(take(&c, 4 * KIB) && !c.waits() && b.waits());
    c.release(4 * KIB);
    assert_eq!((count(), pool.used()), ([1, 1], 12 * KIB));
    assert!(take(&b, 8 * KIB) && pool.used() == 12 * KIB && !b.waits());
    drop((a, b, c));
    assert_eq!((pool.used(), pool.waiting.borrow().len()), (0, 0));
}

#[test]
fn nobody_passes_those_who_wait() {
    let pool = Pool::new(12 * KIB);
    let [a, b] = [pool.join(), pool.join()];
    assert!(take(&a, 4 * KIB) && take(&b, 4 * KIB) && !take(&b, 8 * KIB));
    // 4 KiB are free, but not for who comes later and is not without any.
    assert!(!take(&a, 4 * KIB) && a.waits() && pool.used() == 8 * KIB);
    b.release(4 * KIB);
    assert!(take(&b, 8 * KIB) && a.waits(), "who was first");
    b.release(8 * KIB);
    assert!(take(&a, 4 * KIB) && !a.waits());
}

#[test]
fn who_waits_behind_one_that_goes_away_gets_its_turn() {
    let pool = Pool::new(12 * KIB);
    let [a, b, c] = [pool.join(), pool.join(), pool.join()];
    assert!(take(&a, 4 * KIB) && take(&b, 4 * KIB) && take(&c, 4 * KIB));
    assert!(!take(&b, 12 * KIB) && !take(&c, 4 * KIB) && c.waits());
    drop(b);
    assert!(!c.waits() && take(&c, 4 * KIB), "its turn has come");
    drop((a, c));
    assert_eq!(pool.used(), 0);
}

/// What a connection asks for when its turn has come may be another command: the first may have been aborted.
#[test]
fn a_turn_is_for_what_is_wanted_when_it_comes() {
    let wanted = |first: usize| {
        let pool = Pool::new(12 * KIB);
        let [a, b] = [pool.join(), pool.join()];
        assert!(take(&a, 8 * KIB) && take(&b, 4 * KIB) && !take(&b, first));
        a.release(8 * KIB);
        assert!(!b.waits() && pool.used() == 4 * KIB + first);
        (pool, a, b)
    };
    // Less: the rest is given back.
    let (pool, _a, b) = wanted(8 * KIB);
    assert!(take(&b, 4 * KIB) && pool.used() == 8 * KIB);
    // More: from the end of the queue.
    let (pool, a, b) = wanted(4 * KIB);
    assert!(take(&a, 4 * KIB) && !take(&b, 8 * KIB) && b.waits() && pool.used() == 8 * KIB);
    // Nothing.
    let (pool, _a, b) = wanted(8 * KIB);
    b.settle();
    assert!(pool.used() == 4 * KIB);
}

#[test]
fn a_larger_pool_serves_those_who_wait() {
    let pool = Pool::new(4 * KIB);
    let a = pool.join();
    assert!(take(&a, 4 * KIB) && !take(&a, 4 * KIB) && a.waits());
    pool.resize(8 * KIB);
    assert!(!a.waits() && take(&a, 4 * KIB) && pool.used() == 8 * KIB);
}

/// How a host behaves.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Manner {
    Good,
    /// Sends its commands, and nothing after them: no data that is asked for.
    SendsNothing,
    /// Takes nothing of what it is sent.
    ReceivesNothing,
}

const LIMITS: Limits = Limits {
    max_h2c_data: 32 << 10,
    max_c2h_data: 128 << 10,
    in_capsule_data: 4096,
    max_io_size: 128 << 10,
    queue_depth: 32,
    alignment: 0,
};
/// Ticks that a bdev takes.
const SERVICE: usize = 3;
/// Bytes that a wire carries in a tick.
const CARRIED: usize = 64 << 10;

/// A host and its controller.
struct Pair {
    host: HostQueue<usize>,
    controller: ControllerQueue,
    share: Share,
    manner: Manner,
    depth: usize,
    /// Lengths of the commands; those with odd numbers are writes.
    lengths: Vec<usize>,
    begun: usize,
    done: usize,
    running: Vec<(usize, Request)>,
}

impl Pair {
    fn new(pool: &Rc<Pool>, manner: Manner, depth: usize, lengths: Vec<usize>) -> Self {
        let config =
            ControllerConfig { limits: LIMITS, r2t_budget: 256 << 10, ..ControllerConfig::default() };
        let mut this = Self {
            host: HostQueue::new(HostConfig { limits: LIMITS, ..HostConfig::default() }),
            controller: ControllerQueue::new(config),
            share: pool.join(),
            manner: Manner::Good,
            depth,
            lengths,
            begun: 0,
            done: 0,
            running: Vec::new(),
        };
        this.tick(0);
        this.host.set_in_capsule(4096);
        this.submit();
        this.send();
        this.manner = manner;
        this
    }

    fn submit(&mut self) {
        while self.begun < self.lengths.len() && self.host.outstanding() < self.depth {
            let length = self.lengths[self.begun];
            let write = self.begun % 2 == 1;
            let mut sqe = Sqe::new(if write { io::WRITE } else { io::READ }, 1);
            sqe.set_range(self.begun as u64, (length / 512) as u32);
            let (data, room) = if write { (length, 0) } else { (0, length) };
            let data = Bytes::from(vec![self.begun as u8; data]);
            let command = Command { sqe, data, buffer: BytesMut::zeroed(room), token: self.begun };
            if self.host.submit(command).is_err() {
                return;
            }
            self.begun += 1;
        }
    }

    fn send(&mut self) {
        let out = self.host.outbox();
        let n = out.remaining().min(CARRIED);
        self.controller.buffer().extend_from_slice(&out.copy_to_bytes(n));
    }

    fn receive(&mut self) {
        let out = self.controller.outbox();
        let n = out.remaining().min(CARRIED);
        self.host.buffer().extend_from_slice(&out.copy_to_bytes(n));
        while out.take_spent().is_some() {}
        while let Some(event) = self.host.poll().expect("the controller keeps the protocol") {
            let Event::Completed(c) = event else { continue };
            assert!(c.cqe.status.is_success());
            let expected = if c.token % 2 == 1 { 0 } else { self.lengths[c.token] };
            assert_eq!((c.received, c.buffer.len()), (expected, expected));
            assert!(c.buffer.iter().all(|b| *b == c.token as u8));
            self.done += 1;
        }
    }

    /// What a connection does in its task.
    fn tick(&mut self, now: usize) {
        if self.manner == Manner::Good {
            self.submit();
        }
        if self.manner != Manner::SendsNothing {
            self.send();
        }
        while let Some(r) = self.controller.poll(&mut &self.share).expect("the host keeps the protocol") {
            self.running.push((now + SERVICE, r));
        }
        while let Some(i) = self.running.iter().position(|(end, _)| *end <= now) {
            let (_, r) = self.running.swap_remove(i);
            let number = r.sqe.slba() as usize;
            assert!(r.data.iter().all(|b| *b == number as u8));
            let data = (r.buffer_len > 0).then(|| Bytes::from(vec![number as u8; r.buffer_len as usize]));
            self.controller.complete(r.tag, Status::SUCCESS, 0, data);
        }
        if self.manner != Manner::ReceivesNothing {
            self.receive();
        }
        self.share.release(self.controller.take_freed());
        if !self.controller.waits_for_buffer() {
            self.share.settle();
        }
    }

    fn is_done(&self) -> bool {
        self.manner != Manner::Good || self.done == self.lengths.len()
    }
}

/// Runs until all good hosts are done; the ticks, and the most memory that was in use.
fn simulate(pool: &Rc<Pool>, pairs: &mut [Pair], patience: usize) -> (usize, usize) {
    let (mut now, mut most) = (0, 0);
    while !pairs.iter().all(Pair::is_done) {
        now += 1;
        assert!(now < patience, "{} hosts are not done", pairs.iter().filter(|p| !p.is_done()).count());
        for pair in pairs.iter_mut() {
            pair.tick(now);
            most = most.max(pool.used());
        }
        assert!(pool.waiting.borrow().len() <= pairs.len());
    }
    (now, most)
}

/// Lengths of `n` commands, 4 KiB to 128 KiB.
fn lengths(n: usize, seed: usize) -> Vec<usize> {
    (0..n).map(|i| 4096 << ((i * 7 + seed * 3 + i / 3) % 6)).collect()
}

#[test]
fn a_tiny_pool_serves_deep_queues_and_is_not_exceeded() {
    let capacity = 256 * KIB;
    let pool = Pool::new(capacity);
    let mut pairs: Vec<Pair> = (0..8).map(|i| Pair::new(&pool, Manner::Good, 31, lengths(60, i))).collect();
    let (_, most) = simulate(&pool, &mut pairs, 100_000);
    // Above the capacity there is at most the one buffer that each connection may always have.
    assert!(most > capacity / 2 && most <= capacity + 8 * buffer_size(128 * KIB), "{most} bytes");
    assert_eq!(pool.used(), 0, "all was given back");
}

#[test]
fn a_single_connection_never_exceeds_the_pool() {
    let pool = Pool::new(256 * KIB);
    let mut pairs = [Pair::new(&pool, Manner::Good, 31, lengths(200, 1))];
    let (_, most) = simulate(&pool, &mut pairs, 100_000);
    assert!(most > 128 * KIB && most <= 256 * KIB, "{most} bytes");
    assert_eq!(pool.used(), 0);
}

#[test]
fn hosts_that_hold_all_of_it_for_ever_starve_nobody() {
    let pool = Pool::new(512 * KIB);
    let silent = [Manner::SendsNothing, Manner::ReceivesNothing].into_iter().cycle().take(20);
    let mut pairs: Vec<Pair> =
        silent.enumerate().map(|(i, m)| Pair::new(&pool, m, 31, vec![64 * KIB; 31 + i % 2])).collect();
    for now in 0..50 {
        pairs.iter_mut().for_each(|p| p.tick(now));
    }
    assert!(pool.used() >= 512 * KIB, "they hold all of it: {}", pool.used());
    let quiet = pairs.len();
    pairs.extend((0..10).map(|i| Pair::new(&pool, Manner::Good, 16, lengths(40, i))));
    simulate(&pool, &mut pairs, 100_000);
    assert!(pairs[..quiet].iter().all(|p| p.done < 31), "the silent ones did not go on");
    // When they are disconnected, what they held is there for the others again.
    pairs.drain(..quiet);
    assert_eq!(pool.used(), 0);
}

#[test]
fn a_deep_queue_does_not_keep_a_shallow_one_waiting() {
    let pool = Pool::new(512 * KIB);
    let mut pairs: Vec<Pair> =
        (0..4).map(|_| Pair::new(&pool, Manner::Good, 31, vec![128 * KIB; 400])).collect();
    // Depth 2: its second command has to wait for its turn among those of the others.
    pairs.push(Pair::new(&pool, Manner::Good, 2, vec![128 * KIB; 100]));
    let mut now = 0;
    while pairs[4].done < 100 {
        now += 1;
        assert!(now < 100_000);
        pairs.iter_mut().for_each(|p| p.tick(now));
    }
    for deep in &pairs[..4] {
        assert!(deep.done < 400, "a share of the pool like everybody's: {} done in the meantime", deep.done);
    }
}

#[test]
fn thousands_of_connections_share_a_pool() {
    const CONNECTIONS: usize = 3000;
    let capacity = 4 << 20;
    let pool = Pool::new(capacity);
    let mut pairs: Vec<Pair> =
        (0..CONNECTIONS).map(|_| Pair::new(&pool, Manner::Good, 4, vec![8 * KIB; 4])).collect();
    let (_, most) = simulate(&pool, &mut pairs, 100_000);
    // Without it: 96 MiB.
    assert!(most <= capacity + CONNECTIONS * 8 * KIB, "{most} bytes");
    assert_eq!(pool.used(), 0);
}
