//! The host's side of a connection: whatever a target sends.
//!
//! It must not panic, end each command at most once and with the buffer that it was given, say nothing was received that was not, send only the
//! data of the command that is asked for it, each byte once, and keep the protocol to the end.

use bytes::{Buf, Bytes, BytesMut};
use vda_nvme::cmd::{Cqe, Sqe, io};
use vda_nvme::codec::{Decoder, Limits, Outbox, Role};
use vda_nvme::digest::Digests;
use vda_nvme::host::{Command, Event, HostConfig, HostQueue};
use vda_nvme::pdu::{C2hData, IcResp, Pdu, R2t};

use crate::mutate::Random;
use crate::{Input, pieces};

const DEPTH: u16 = 8;
/// Bytes of a command's data.
const SIZE: usize = 8192;
const LIMITS: Limits = Limits {
    max_h2c_data: 1 << 20,
    max_c2h_data: 64 << 10,
    in_capsule_data: 8192,
    max_io_size: 64 << 10,
    queue_depth: DEPTH,
    alignment: 0,
};

/// A command by its token.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Fate {
    Open,
    Ended,
}

struct Wire {
    queue: HostQueue<usize>,
    /// Decodes what the host sends.
    sent: Decoder,
    /// By token.
    fates: Vec<Fate>,
    /// Bytes of data that each command has sent, by its identifier, with its token.
    active: [(usize, usize); DEPTH as usize],
}

impl Wire {
    fn new(digests: Digests) -> Self {
        let queue = HostQueue::new(HostConfig { limits: LIMITS, digests });
        let sent = Decoder::new(Role::Controller, LIMITS);
        Self { queue, sent, fates: Vec::new(), active: [(0, 0); DEPTH as usize] }
    }

    /// What byte `at` of a command's data is.
    fn byte(token: usize, at: usize) -> u8 {
        (token * 31 + at / 512) as u8
    }

    /// What the host sent is well formed, and is the data of the command.
    fn read_sent(&mut self) {
        let n = self.queue.outbox().remaining();
        let bytes = self.queue.outbox().copy_to_bytes(n);
        self.sent.buffer().extend_from_slice(&bytes);
        while let Some(pdu) = self.sent.decode().expect("the host keeps the protocol") {
            if let Pdu::H2cData(d) = pdu {
                let (token, sent) = &mut self.active[usize::from(d.cccid)];
                assert_eq!(d.offset as usize, *sent, "one after the other");
                assert!(d.digest_ok, "its own digest");
                let mut bytes = d.data.iter().enumerate();
                assert!(bytes.all(|(n, b)| *b == Self::byte(*token, *sent + n)), "the data of the command");
                *sent += d.data.len();
                assert!(*sent <= SIZE, "more than there is");
            }
        }
    }

    /// As many commands as fit, reads and writes, with and without their data in the capsule.
    fn submit(&mut self, random: &mut Random) {
        while self.queue.has_room() && random.below(4) > 0 {
            let token = self.fates.len();
            let writes = random.below(2) == 0;
            let len = if random.below(3) == 0 { 4096 } else { SIZE };
            let data: Vec<u8> = (0..len).map(|at| Self::byte(token, at)).collect();
            let (data, buffer) = match writes {
                true => (Bytes::from(data), BytesMut::new()),
                false => (Bytes::new(), BytesMut::zeroed(len)),
            };
            let sqe = Sqe::new(if writes { io::WRITE } else { io::READ }, 1);
            let Ok(cid) = self.queue.submit(Command { sqe, data, buffer, token }) else {
                panic!("there was room");
            };
            self.active[usize::from(cid)] = (token, 0);
            self.fates.push(Fate::Open);
            assert!(self.queue.outstanding() < usize::from(DEPTH), "more commands than entries");
        }
    }

    fn end(&mut self, token: usize, buffer: &BytesMut, received: usize) {
        assert!(self.fates[token] == Fate::Open, "command {token} ended twice");
        self.fates[token] = Fate::Ended;
        assert!(matches!(buffer.len(), 0 | 4096 | SIZE) && received <= buffer.len(), "its buffer");
        assert!(buffer[received..].iter().all(|b| *b == 0), "more than was received");
    }
}

pub(crate) fn run(input: &[u8]) {
    let mut input = Input(input);
    let mut wire = Wire::new(Digests::from_bits(input.byte()));
    let mut random = Random::new(u64::from(input.word()));
    for piece in pieces(input.0, random.number()) {
        wire.queue.buffer().extend_from_slice(piece);
        loop {
            match wire.queue.poll() {
                Ok(None) => break,
                Ok(Some(Event::Ready(digests))) => {
                    wire.read_sent();
                    wire.sent.establish(digests);
                    wire.queue.set_in_capsule(4096);
                }
                Ok(Some(Event::Completed(c))) => wire.end(c.token, &c.buffer, c.received),
                Err(_) => return lost(wire),
            }
            wire.read_sent();
        }
        wire.submit(&mut random);
        wire.read_sent();
    }
    lost(wire);
}

/// The connection is over: every command that has not ended is given back.
fn lost(mut wire: Wire) {
    wire.read_sent();
    assert!(!wire.queue.has_room() || wire.queue.outstanding() < usize::from(DEPTH));
    for (token, buffer) in wire.queue.drain() {
        assert!(wire.fates[token] == Fate::Open, "command {token} is given back though it has ended");
        wire.fates[token] = Fate::Ended;
        assert!(matches!(buffer.len(), 0 | 4096 | SIZE), "its buffer");
    }
    assert!(wire.fates.iter().all(|f| *f == Fate::Ended), "a command is lost");
}

fn data(cccid: u16, offset: u32, len: usize, last: bool, success: bool) -> Pdu {
    Pdu::C2hData(C2hData { cccid, offset, data: vec![3; len].into(), last, success, digest_ok: true })
}

fn done(cid: u16) -> Pdu {
    Pdu::CapsuleResp(Cqe { cid, ..Cqe::default() })
}

fn ask(cccid: u16, offset: u32, length: u32) -> Pdu {
    Pdu::R2t(R2t { cccid, ttag: 9, offset, length })
}

/// Reads and writes as a target answers them: at once, in pieces, out of order, and what no command asked for.
pub(crate) fn seeds() -> Vec<Vec<u8>> {
    let streams = [
        (0..4).map(done).collect::<Vec<_>>(),
        (0..4).flat_map(|cid| [ask(cid, 0, 4096), ask(cid, 4096, 4096), done(cid)]).collect(),
        (0..4)
            .flat_map(|cid| [data(cid, 0, 4096, false, false), data(cid, 4096, 4096, true, true)])
            .collect(),
        vec![ask(1, 0, 8192), data(0, 0, 4096, true, false), done(0), done(1), done(1)],
        vec![data(2, 0, 8192, true, true), ask(2, 0, 8192), done(7)],
    ];
    let mut all = Vec::new();
    for (bits, stream) in (0..4_u8).flat_map(|bits| streams.iter().map(move |s| (bits, s))) {
        for random in 0..3 {
            let digests = Digests::from_bits(bits);
            let mut outbox = Outbox::new();
            outbox.push(Pdu::IcResp(IcResp { pfv: 0, cpda: 0, digests, maxh2cdata: 4096 }));
            outbox.establish(digests, 0);
            stream.iter().for_each(|p| outbox.push(p.clone()));
            let mut seed = vec![bits, random, 0];
            seed.extend_from_slice(&outbox.copy_to_bytes(outbox.remaining()));
            all.push(seed);
        }
    }
    all
}
