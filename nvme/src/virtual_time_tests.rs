//! Host and controller against each other in virtual time, over a wire with latency that cuts the stream anywhere and that may die
//! without a word: keep alive on both sides, reconnect, R2T, digests, events. A tick is a millisecond.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use bytes::{Buf, Bytes, BytesMut};
use proptest::collection::vec;
use proptest::prelude::*;

use crate::cmd::{Sqe, admin, io};
use crate::codec::{Limits, Outbox};
use crate::controller::events::{Events, Notice};
use crate::controller::state::KeepAlive;
use crate::controller::{ControllerConfig, ControllerQueue, Request, Unlimited};
use crate::digest::Digests;
use crate::host::pulse::Pulse;
use crate::host::{Command, Event, HostConfig, HostQueue};
use crate::status::Status;

const BLOCK: usize = 512;
const BLOCKS_EACH: usize = 40;
const COMMANDS: u32 = 24;
const READ: u32 = 1000;
const KEEP_ALIVE: u32 = 5000;
const EVENT: u32 = 6000;
const KATO: Duration = Duration::from_millis(1000);
/// Granularity of the controller's timer, milliseconds.
const GRANULARITY: u32 = 100;
const TICK: Duration = Duration::from_millis(1);

#[derive(Debug, Clone)]
struct Setting {
    digests: Digests,
    latency: u64,
    service: u64,
    cuts: Vec<usize>,
    sizes: Vec<usize>,
    /// When the first connection dies, milliseconds.
    dies: Option<u64>,
    /// When something happens that the host is to hear of.
    notices: Vec<u64>,
}

/// One direction of a connection.
#[derive(Default)]
struct Wire {
    flying: VecDeque<(u64, Bytes)>,
    turn: usize,
}

impl Wire {
    fn carry(&mut self, now: u64, s: &Setting, from: &mut Outbox, to: &mut BytesMut) {
        let n = s.cuts[self.turn % s.cuts.len()].min(from.remaining());
        self.turn += 1;
        if n > 0 {
            self.flying.push_back((now + s.latency, from.copy_to_bytes(n)));
        }
        while self.flying.front().is_some_and(|(at, _)| *at <= now) {
            let Some((_, bytes)) = self.flying.pop_front() else { break };
            to.extend_from_slice(&bytes);
        }
    }
}

/// A connection, with both of its ends.
struct Connection {
    host: HostQueue<u32>,
    controller: ControllerQueue,
    wires: [Wire; 2],
    pulse: Pulse,
    keep_alive: KeepAlive,
    events: Events,
    waiting: Vec<(u64, Request)>,
    /// When the host gives it up unless the controller has answered its ICReq.
    ready_by: Option<Instant>,
    dead: bool,
}

impl Connection {
    fn new(s: &Setting, now: Instant) -> Self {
        let limits = Limits { max_h2c_data: 4096, ..Limits::default() };
        let config = ControllerConfig { limits, r2t_budget: 8192, ..ControllerConfig::default() };
        Self {
            host: HostQueue::new(HostConfig { limits, digests: s.digests }),
            controller: ControllerQueue::new(config),
            wires: Default::default(),
            pulse: Pulse::new(KATO, now),
            keep_alive: KeepAlive::new(KATO.as_millis() as u32, GRANULARITY, now),
            events: Events::new(Notice::Ana.enable_bit()),
            waiting: Vec::new(),
            ready_by: Some(now + KATO),
            dead: false,
        }
    }
}

struct Simulation {
    s: Setting,
    epoch: Instant,
    now: u64,
    c: Connection,
    media: Vec<u8>,
    todo: VecDeque<u32>,
    written: u32,
    read: BTreeMap<u32, Bytes>,
    /// Notices posted, and those posted when the host last heard of one.
    posted: usize,
    heard: usize,
    /// When a side gave the connection up: host, controller.
    lost: [Option<u64>; 2],
}

fn byte(token: u32) -> u8 {
    token as u8 + 1
}

impl Simulation {
    fn new(s: Setting) -> Self {
        let epoch = Instant::now();
        let c = Connection::new(&s, epoch);
        Self {
            c,
            s,
            epoch,
            now: 0,
            media: vec![0; COMMANDS as usize * BLOCKS_EACH * BLOCK],
            todo: (0..COMMANDS).collect(),
            written: 0,
            read: BTreeMap::new(),
            posted: 0,
            heard: 0,
            lost: [None; 2],
        }
    }

    fn time(&self) -> Instant {
        self.epoch + TICK * self.now as u32
    }

    fn length(&self, token: u32) -> usize {
        self.s.sizes[token as usize % self.s.sizes.len()] * BLOCK
    }

    fn submit(&mut self, token: u32) -> bool {
        let (opcode, length) = match token {
            KEEP_ALIVE => (admin::KEEP_ALIVE, 0),
            EVENT => (admin::ASYNC_EVENT_REQUEST, 0),
            t if t >= READ => (io::READ, self.length(t - READ)),
            t => (io::WRITE, self.length(t)),
        };
        let mut sqe = Sqe::new(opcode, 1);
        if token < KEEP_ALIVE {
            sqe.set_range(u64::from(token % READ) * BLOCKS_EACH as u64, (length / BLOCK) as u32);
        }
        let (data, room) =
            if opcode == io::WRITE { (vec![byte(token); length], 0) } else { (vec![], length) };
        let command = Command { sqe, data: data.into(), buffer: BytesMut::zeroed(room), token };
        self.c.host.submit(command).is_ok()
    }

    /// The host: takes what came, sends what there is to do, watches its controller.
    fn host(&mut self) {
        while let Some(event) = self.c.host.poll().expect("the controller keeps the protocol") {
            match event {
                Event::Ready(_) => {
                    self.c.ready_by = None;
                    assert!(self.submit(EVENT));
                }
                Event::Completed(done) => {
                    assert_eq!(done.cqe.status, Status::SUCCESS);
                    match done.token {
                        KEEP_ALIVE => self.c.pulse.answered(self.time()),
                        EVENT => {
                            self.heard = self.posted;
                            self.c.events.read(Notice::Ana);
                            assert!(self.submit(EVENT));
                        }
                        t if t >= READ => {
                            let data = done.buffer.freeze().slice(..done.received);
                            assert!(self.read.insert(t - READ, data).is_none(), "completed twice");
                        }
                        t => {
                            self.written += 1;
                            self.todo.push_back(READ + t);
                        }
                    }
                }
            }
        }
        if self.c.pulse.send_at().is_some_and(|at| at <= self.time()) && self.submit(KEEP_ALIVE) {
            self.c.pulse.sent(self.time());
        }
        while self.c.host.outstanding() < 10 {
            let Some(token) = self.todo.pop_front() else { break };
            if !self.submit(token) {
                self.todo.push_front(token);
                break;
            }
        }
        let never_ready = self.c.ready_by.is_some_and(|at| at <= self.time());
        if self.lost[0].is_none() && (never_ready || self.c.pulse.is_lost(self.time())) {
            self.lost[0] = Some(self.now);
        }
    }

    /// The controller: takes commands, ends those whose time has come, watches its host.
    fn controller(&mut self) {
        while let Some(r) = self.c.controller.poll(&mut Unlimited).expect("the host keeps the protocol") {
            self.c.keep_alive.touch(self.epoch + TICK * self.now as u32);
            if r.sqe.opcode == admin::ASYNC_EVENT_REQUEST {
                let report = self.c.events.request(r.tag).expect("one request at a time");
                self.answer_event(report);
            } else {
                self.c.waiting.push((self.now + self.s.service, r));
            }
        }
        if self.s.notices.contains(&self.now) {
            self.posted += 1;
            let report = self.c.events.post(Notice::Ana);
            self.answer_event(report);
        }
        let now = self.now;
        let due = |w: &(u64, Request)| w.0 <= now;
        while let Some(i) = self.c.waiting.iter().position(due) {
            let (_, r) = self.c.waiting.swap_remove(i);
            self.execute(r);
        }
        if self.lost[1].is_none() && self.c.keep_alive.expired(self.time()) {
            self.lost[1] = Some(self.now);
        }
    }

    fn answer_event(&mut self, report: Option<(u16, u32)>) {
        if let Some((tag, result)) = report {
            self.c.controller.complete(tag, Status::SUCCESS, result.into(), None);
        }
    }

    fn execute(&mut self, r: Request) {
        let at = r.sqe.slba() as usize * BLOCK;
        let range = at..at + r.sqe.blocks() as usize * BLOCK;
        let data = match r.sqe.opcode {
            io::WRITE => {
                self.media[range].copy_from_slice(&r.data);
                None
            }
            io::READ => Some(Bytes::copy_from_slice(&self.media[range])),
            _ => None,
        };
        self.c.controller.complete(r.tag, Status::SUCCESS, 0, data);
    }

    fn tick(&mut self) {
        self.now += 1;
        if self.s.dies == Some(self.now) {
            self.c.dead = true;
        }
        if !self.c.dead {
            let [out, back] = &mut self.c.wires;
            out.carry(self.now, &self.s, self.c.host.outbox(), self.c.controller.buffer());
            back.carry(self.now, &self.s, self.c.controller.outbox(), self.c.host.buffer());
        }
        self.host();
        self.controller();
        // Both gave it up: the host connects again and sends again what was not answered.
        if self.lost.iter().all(Option::is_some) && self.c.dead {
            let lost = self.c.host.drain();
            self.c = Connection::new(&self.s, self.time());
            self.todo.extend(lost.into_iter().map(|(t, _)| t).filter(|t| *t < KEEP_ALIVE));
            // What happened meanwhile is in the log pages, which a host reads when it connects.
            self.heard = self.posted;
        }
    }

    fn is_done(&self) -> bool {
        self.read.len() == COMMANDS as usize && self.heard == self.posted
    }
}

fn setting() -> impl Strategy<Value = Setting> {
    let digests = (any::<bool>(), any::<bool>()).prop_map(|(header, data)| Digests { header, data });
    let parts = (digests, 0..40_u64, 0..60_u64, vec(1..5000_usize, 1..12), vec(1..=BLOCKS_EACH, 1..6));
    (parts, proptest::option::of(1..3000_u64), vec(1..3000_u64, 0..6)).prop_map(
        |((digests, latency, service, cuts, sizes), dies, notices)| {
            // A wire of a few bytes a millisecond would need minutes for the data.
            let cuts = cuts.into_iter().map(|c| c + 400).collect();
            Setting { digests, latency, service, cuts, sizes, dies, notices }
        },
    )
}

/// A wire that lives is never given up; one that dies is by both sides, in time and not before, and nothing is lost by it.
fn silence_is_found_and_nothing_else(s: Setting) -> Result<(), TestCaseError> {
    let dies = s.dies;
    let round_trip = 2 * s.latency + s.service;
    let mut sim = Simulation::new(s);
    while sim.now < 60_000 && !(sim.is_done() && sim.now > 9_000) {
        sim.tick();
    }
    let (written, read) = (sim.written, sim.read.len());
    prop_assert!(
        sim.is_done(),
        "{written} written, {read} read, heard of {} of {} notices",
        sim.heard,
        sim.posted
    );
    for (token, data) in &sim.read {
        prop_assert_eq!(data.len(), sim.length(*token));
        prop_assert!(data.iter().all(|b| *b == byte(*token)), "data of write {}", token);
    }
    let kato = KATO.as_millis() as u64;
    let Some(died) = dies else {
        prop_assert_eq!(sim.lost, [None, None]);
        return Ok(());
    };
    let [Some(host), Some(controller)] = sim.lost else { panic!("noticed by {:?}", sim.lost) };
    let latest = died + kato / 2 + kato + round_trip + 2;
    prop_assert!(host > died && host <= latest, "host: {} after {}", host, died);
    let latest = died + kato + u64::from(GRANULARITY) + round_trip + 2;
    prop_assert!(controller > died && controller <= latest, "controller: {} after {}", controller, died);
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn silence_is_found_by_both_sides_and_nothing_else_is(s in setting()) {
        silence_is_found_and_nothing_else(s)?;
    }
}

/// No Keep Alive can be sent then; the time for connecting ends it.
#[test]
fn a_wire_that_dies_before_the_controller_answered_is_given_up() {
    let digests = Digests { header: false, data: false };
    for dies in 1..=35 {
        let (cuts, sizes) = (vec![401], vec![1]);
        let s = Setting { digests, latency: 17, service: 0, cuts, sizes, dies: Some(dies), notices: vec![] };
        silence_is_found_and_nothing_else(s).unwrap();
    }
}

#[test]
fn a_controller_that_answers_too_late_is_given_up() {
    let start = Instant::now();
    let at = |ms| start + Duration::from_millis(ms);
    let mut pulse = Pulse::new(KATO, start);
    assert_eq!(pulse.send_at(), Some(at(500)));
    assert_eq!(pulse.sent(at(510)), at(1510));
    assert_eq!((pulse.send_at(), pulse.is_lost(at(1509)), pulse.is_lost(at(1510))), (None, false, true));
    pulse.answered(at(1400));
    assert_eq!((pulse.send_at(), pulse.is_lost(at(9000))), (Some(at(1900)), false));
}
