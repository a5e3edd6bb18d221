//! The controller's side of a connection: any bytes after the initialisation, answered in any order.
//!
//! It must not panic, never have more commands outstanding than its queue has entries, never ask for more data than its budget, nor take more
//! memory than there is, or give back more than it took, and give each command to be executed with exactly the data that it announced.

use bytes::{Buf, Bytes};
use vda_nvme::cmd::{Sgl, Sqe, io};
use vda_nvme::codec::{Decoder, Limits, Outbox, Role};
use vda_nvme::controller::{Buffers, ControllerConfig, ControllerQueue, Request};
use vda_nvme::digest::Digests;
use vda_nvme::pdu::{CapsuleCmd, H2cData, IcReq, Pdu};
use vda_nvme::status::Status;

use crate::mutate::Random;
use crate::{Input, pieces};

const DEPTH: u16 = 8;
const BUDGET: usize = 16 << 10;
/// Memory for the data of commands, bytes.
const MEMORY: usize = 96 << 10;
const LIMITS: Limits = Limits {
    max_h2c_data: 4096,
    max_c2h_data: 1 << 20,
    in_capsule_data: 8192,
    max_io_size: 64 << 10,
    queue_depth: DEPTH,
    alignment: 0,
};

#[derive(Default)]
struct Memory {
    used: usize,
}

impl Buffers for Memory {
    fn take(&mut self, bytes: usize) -> bool {
        let fits = self.used + bytes <= MEMORY;
        self.used += if fits { bytes } else { 0 };
        fits
    }
}

struct Wire {
    memory: Memory,
    queue: ControllerQueue,
    /// Decodes what the controller sends.
    answers: Decoder,
    waiting: Vec<Request>,
    /// Bytes asked for by R2Ts and not sent yet, as far as a host can tell.
    asked: usize,
}

impl Wire {
    fn new(digests: Digests) -> Self {
        let config = ControllerConfig { limits: LIMITS, r2t_budget: BUDGET, ..ControllerConfig::default() };
        let mut queue = ControllerQueue::new(config);
        let mut outbox = Outbox::new();
        outbox.push(Pdu::IcReq(IcReq { pfv: 0, hpda: 0, digests, maxr2t: 15 }));
        queue.buffer().extend_from_slice(&outbox.copy_to_bytes(outbox.remaining()));
        assert!(matches!(queue.poll(&mut Memory::default()), Ok(None)), "initialised");
        let n = queue.outbox().remaining();
        queue.outbox().advance(n);
        let mut answers = Decoder::new(Role::Host, LIMITS);
        answers.establish(digests);
        Self { memory: Memory::default(), queue, answers, waiting: Vec::new(), asked: 0 }
    }

    /// What the controller sent is well formed.
    fn read_answers(&mut self) {
        let n = self.queue.outbox().remaining();
        let sent = self.queue.outbox().copy_to_bytes(n);
        self.answers.buffer().extend_from_slice(&sent);
        while let Some(pdu) = self.answers.decode().expect("the controller keeps the protocol") {
            match pdu {
                Pdu::R2t(r2t) => self.asked += r2t.length as usize,
                Pdu::C2hData(d) => assert!(d.digest_ok && d.data.len() <= LIMITS.max_io_size as usize),
                _ => {}
            }
        }
    }

    fn execute(&mut self, random: &mut Random) {
        while !self.waiting.is_empty() && random.below(3) > 0 {
            let r = self.waiting.swap_remove(random.below(self.waiting.len()));
            let failed = random.below(4) == 0;
            let data = (r.buffer_len > 0 && !failed).then(|| Bytes::from(vec![1; r.buffer_len as usize]));
            let status = if failed { Status::INTERNAL_ERROR } else { Status::SUCCESS };
            self.queue.complete(r.tag, status, 0, data);
        }
    }
}

pub(crate) fn run(input: &[u8]) {
    let mut input = Input(input);
    let mut wire = Wire::new(Digests::from_bits(input.byte()));
    let mut random = Random::new(u64::from(input.word()));
    let mut received = 0;
    for piece in pieces(input.0, random.number()) {
        received += piece.len();
        wire.queue.buffer().extend_from_slice(piece);
        loop {
            match wire.queue.poll(&mut wire.memory) {
                Ok(None) => break,
                Ok(Some(r)) => {
                    check_request(&r);
                    wire.waiting.push(r);
                }
                Err(_) => return wire.read_answers(),
            }
        }
        assert!(wire.queue.outstanding() <= usize::from(DEPTH), "more commands than entries");
        wire.read_answers();
        let most = BUDGET.max(LIMITS.max_io_size as usize) + received;
        assert!(wire.asked <= most, "{} bytes asked for", wire.asked);
        wire.execute(&mut random);
        let freed = wire.queue.take_freed();
        assert!(freed <= wire.memory.used, "{freed} bytes given back, {} taken", wire.memory.used);
        wire.memory.used -= freed;
        let at_rest = wire.queue.outstanding() == 0 && wire.queue.outbox().is_empty();
        assert!(!at_rest || wire.memory.used == 0, "{} bytes were not given back", wire.memory.used);
    }
}

fn check_request(r: &Request) {
    assert!(r.buffer_len <= LIMITS.max_io_size && r.data.len() <= LIMITS.max_io_size as usize);
    let announced = Sgl::decode(&r.sqe.dptr).map_or(0, Sgl::length) as usize;
    assert!(r.data.is_empty() || r.data.len() == announced, "data as announced");
    assert!(r.data.is_empty() || r.buffer_len == 0, "one direction");
}

fn command(cid: u16, opcode: u8, sgl: Sgl, data: Vec<u8>) -> Pdu {
    let mut sqe = Sqe::new(opcode, 1);
    sqe.cid = cid;
    sqe.dptr = sgl.encode();
    sqe.set_range(0, 1);
    Pdu::CapsuleCmd(CapsuleCmd { sqe, data: data.into(), digest_ok: true })
}

fn data(cccid: u16, ttag: u16, offset: u32, len: usize, last: bool) -> Pdu {
    Pdu::H2cData(H2cData { cccid, ttag, offset, data: vec![2; len].into(), last, digest_ok: true })
}

/// Commands in the capsule, by R2T in one and in two PDUs, reads, a full queue.
pub(crate) fn seeds() -> Vec<Vec<u8>> {
    let in_capsule = command(1, io::WRITE, Sgl::InCapsule { offset: 0, length: 512 }, vec![1; 512]);
    let read = command(2, io::READ, Sgl::Transport { length: 4096 }, vec![]);
    let by_r2t = |cid| command(cid, io::WRITE, Sgl::Transport { length: 8192 }, vec![]);
    let flush = command(5, io::FLUSH, Sgl::Transport { length: 0 }, vec![]);
    let streams = [
        vec![in_capsule.clone(), read.clone(), flush.clone()],
        vec![by_r2t(3), data(3, 0, 0, 4096, false), data(3, 0, 4096, 4096, true), read],
        (0..DEPTH).map(by_r2t).collect(),
        vec![by_r2t(1), by_r2t(2), data(1, 0, 0, 4096, false), in_capsule, flush],
    ];
    let mut all = Vec::new();
    for (bits, stream) in (0..4_u8).flat_map(|bits| streams.iter().map(move |s| (bits, s))) {
        let mut outbox = Outbox::new();
        outbox.establish(Digests::from_bits(bits), 0);
        stream.iter().for_each(|p| outbox.push(p.clone()));
        let mut seed = vec![bits, 1, 0];
        seed.extend_from_slice(&outbox.copy_to_bytes(outbox.remaining()));
        all.push(seed);
    }
    all
}
