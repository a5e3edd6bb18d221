use bytes::Buf;
use proptest::prelude::*;

use super::super::tests::{chunk, ready, sent};
use super::*;
use crate::codec::Outbox;
use crate::controller::{Abort, Buffers, ControllerConfig, Unlimited};
use crate::digest::Digests;
use crate::pdu::{CapsuleCmd, H2cData, IcReq, Pdu};

/// As Base 3.3.3.1 has it in dword 0.
const FIRST: u8 = 1;
const SECOND: u8 = 2;
const BLOCK: u32 = 512;

fn io_queue() -> ControllerQueue {
    let mut q = ready(ControllerConfig::default());
    q.connected(1, 31, false);
    q
}

#[derive(Clone, Copy, Debug)]
struct Command {
    opcode: u8,
    fuse: u8,
    in_capsule: bool,
}

fn compare(fuse: u8) -> Command {
    Command { opcode: io::COMPARE, fuse, in_capsule: true }
}

fn write(fuse: u8) -> Command {
    Command { opcode: io::WRITE, fuse, in_capsule: true }
}

impl Command {
    fn later(self) -> Self {
        Self { in_capsule: false, ..self }
    }

    fn pdu(self, cid: u16, length: u32) -> Pdu {
        let sgl =
            if self.in_capsule { Sgl::InCapsule { offset: 0, length } } else { Sgl::Transport { length } };
        let sqe = Sqe {
            cid,
            flags: Sqe::PSDT_SGL << 6 | self.fuse,
            dptr: sgl.encode(),
            ..Sqe::new(self.opcode, 1)
        };
        let data = vec![cid as u8; if self.in_capsule { length as usize } else { 0 }].into();
        Pdu::CapsuleCmd(CapsuleCmd { sqe, data, digest_ok: true })
    }

    /// Sends it; what is given out then.
    fn to(self, q: &mut ControllerQueue, cid: u16) -> Option<Request> {
        send(q, &self.pdu(cid, BLOCK))
    }
}

fn send(q: &mut ControllerQueue, pdu: &Pdu) -> Option<Request> {
    super::super::tests::send(q, pdu);
    q.poll(&mut Unlimited).expect("valid")
}

/// All data of a command, as [`is_pair`] wants it.
fn data_of(cccid: u16, ttag: u16) -> Pdu {
    let data = vec![cccid as u8; BLOCK as usize].into();
    Pdu::H2cData(H2cData { cccid, ttag, offset: 0, data, last: true, digest_ok: true })
}

/// Completions that were sent: command, status.
fn ended(pdus: &[Pdu]) -> Vec<(u16, Status)> {
    pdus.iter()
        .filter_map(|pdu| match pdu {
            Pdu::CapsuleResp(cqe) => Some((cqe.cid, cqe.status)),
            _ => None,
        })
        .collect()
}

/// R2Ts that were sent: command, transfer tag.
fn asked(pdus: &[Pdu]) -> Vec<(u16, u16)> {
    pdus.iter()
        .filter_map(|pdu| match pdu {
            Pdu::R2t(r2t) => Some((r2t.cccid, r2t.ttag)),
            _ => None,
        })
        .collect()
}

/// A pair that is given out: both commands' ids and data.
fn is_pair(request: Option<Request>, first: u16, second: u16) {
    let request = request.expect("is given out");
    let compare = request.compare.expect("has both halves");
    assert_eq!((compare.sqe.cid, compare.sqe.opcode), (first, io::COMPARE));
    assert_eq!((request.sqe.cid, request.sqe.opcode), (second, io::WRITE));
    assert_eq!((compare.data[0], compare.data.len()), (first as u8, BLOCK as usize));
    assert_eq!((request.data[0], request.data.len()), (second as u8, BLOCK as usize));
}

#[test]
fn two_halves_are_given_out_as_one_and_completed_each() {
    let mut q = io_queue();
    assert_eq!(compare(FIRST).to(&mut q, 7), None);
    let request = write(SECOND).to(&mut q, 8);
    is_pair(request.clone(), 7, 8);
    let request = request.expect("is given out");
    q.complete(request.compare.expect("both").tag, Status::FAILED_FUSED, 0, None);
    q.complete(request.tag, Status::SUCCESS, 0, None);
    assert_eq!(ended(&sent(&mut q)), [(7, Status::FAILED_FUSED), (8, Status::SUCCESS)]);
    assert_eq!((q.outstanding(), q.take_freed()), (0, 0));
}

#[test]
fn a_half_waits_for_the_data_of_the_other() {
    for late in [0, 1] {
        let mut q = io_queue();
        let commands = [compare(FIRST), write(SECOND)];
        for (nth, command) in commands.into_iter().enumerate() {
            let command = if nth == late { command.later() } else { command };
            assert_eq!(command.to(&mut q, 7 + nth as u16), None);
        }
        let (cid, ttag) = asked(&sent(&mut q))[0];
        assert_eq!(cid, 7 + late as u16);
        is_pair(send(&mut q, &data_of(cid, ttag)), 7, 8);
    }
}

#[test]
fn a_half_without_the_other_ends_and_what_came_instead_goes_on() {
    let mut q = io_queue();
    assert_eq!(write(SECOND).to(&mut q, 1), None);
    assert_eq!(ended(&sent(&mut q)), [(1, Status::MISSING_FUSED)]);
    assert_eq!(compare(FIRST).to(&mut q, 2), None);
    assert_eq!(write(0).to(&mut q, 3).expect("goes on").sqe.cid, 3);
    assert_eq!(ended(&sent(&mut q)), [(2, Status::MISSING_FUSED)]);
    assert_eq!(compare(FIRST).to(&mut q, 4), None);
    assert_eq!(compare(FIRST).to(&mut q, 5), None);
    is_pair(write(SECOND).to(&mut q, 6), 5, 6);
    assert_eq!(ended(&sent(&mut q)), [(4, Status::MISSING_FUSED)]);
    assert_eq!(write(SECOND).to(&mut q, 9), None);
    assert_eq!(ended(&sent(&mut q)), [(9, Status::MISSING_FUSED)]);
}

#[test]
fn what_is_no_half_of_compare_and_write_is_refused() {
    let invalid = Status::INVALID_FIELD.dnr();
    let opcode = Status::INVALID_OPCODE.dnr();
    let mut q = io_queue();
    assert_eq!(write(FIRST).to(&mut q, 1), None);
    assert_eq!(write(SECOND).to(&mut q, 2), None);
    assert_eq!(ended(&sent(&mut q)), [(1, opcode), (2, Status::MISSING_FUSED)]);
    assert_eq!(compare(FIRST).to(&mut q, 3), None);
    assert_eq!(compare(SECOND).to(&mut q, 4), None);
    assert_eq!(ended(&sent(&mut q)), [(3, Status::MISSING_FUSED), (4, opcode)]);
    assert_eq!(compare(3).to(&mut q, 5), None);
    assert_eq!(send(&mut q, &compare(FIRST).later().pdu(6, FUSED_DATA + 1)), None);
    assert_eq!(ended(&sent(&mut q)), [(5, invalid), (6, invalid)]);
    assert_eq!(send(&mut q, &compare(FIRST).later().pdu(7, FUSED_DATA)), None);
    assert_eq!(asked(&sent(&mut q)).len(), 1);
    // An admin queue has none.
    let mut q = ready(ControllerConfig::default());
    q.connected(0, 31, false);
    assert_eq!(compare(FIRST).to(&mut q, 1), None);
    assert_eq!(ended(&sent(&mut q)), [(1, invalid)]);
}

#[test]
fn a_half_that_is_aborted_takes_the_other_with_it() {
    // The one that is aborted has its data asked for, and the other waits with all of its own.
    let mut q = io_queue();
    compare(FIRST).later().to(&mut q, 1);
    write(SECOND).to(&mut q, 2);
    let (_, ttag) = asked(&sent(&mut q))[0];
    assert_eq!(q.abort(1), Abort::Aborted);
    assert_eq!(ended(&sent(&mut q)), [(2, Status::FAILED_FUSED)]);
    assert_eq!(send(&mut q, &chunk(ttag, 1, 0, BLOCK as usize, true)), None);
    assert_eq!(ended(&sent(&mut q)), [(1, Status::ABORTED_BY_REQUEST)]);
    // The other has its data under way as well.
    compare(FIRST).later().to(&mut q, 3);
    write(SECOND).later().to(&mut q, 4);
    let tags = asked(&sent(&mut q));
    assert_eq!(q.abort(4), Abort::Aborted);
    for (cid, ttag) in tags {
        assert_eq!(send(&mut q, &chunk(ttag, cid, 0, BLOCK as usize, true)), None);
    }
    assert_eq!(ended(&sent(&mut q)), [(3, Status::FAILED_FUSED), (4, Status::ABORTED_BY_REQUEST)]);
    // The first one alone: the second one comes too late.
    compare(FIRST).later().to(&mut q, 5);
    assert_eq!(q.abort(5), Abort::Aborted);
    assert_eq!(write(SECOND).to(&mut q, 6), None);
    assert_eq!(ended(&sent(&mut q)), [(6, Status::MISSING_FUSED)]);
    assert_eq!((q.outstanding(), q.pairs.0.len()), (1, 0), "the data of the first is still under way");
}

#[test]
fn a_half_whose_data_is_damaged_takes_the_other_with_it() {
    let digests = Digests { header: false, data: true };
    let mut q = ControllerQueue::new(ControllerConfig::default());
    super::super::tests::send(&mut q, &Pdu::IcReq(IcReq { pfv: 0, hpda: 0, digests, maxr2t: 0 }));
    q.connected(1, 31, false);
    let mut wire = Outbox::new();
    wire.establish(digests, 0);
    compare(FIRST).later().to(&mut q, 7);
    wire.push(write(SECOND).pdu(8, BLOCK));
    wire.push(chunk(0, 7, 0, BLOCK as usize, true));
    let mut bytes = wire.copy_to_bytes(wire.remaining()).to_vec();
    *bytes.last_mut().expect("the digest") ^= 1;
    q.buffer().extend_from_slice(&bytes);
    assert_eq!(q.poll(&mut Unlimited), Ok(None));
    let sent = sent(&mut q);
    assert_eq!(ended(&sent), [(7, Status::TRANSIENT_TRANSPORT_ERROR), (8, Status::FAILED_FUSED)]);
    assert_eq!(q.outstanding(), 0);
}

#[test]
fn halves_need_no_memory_that_others_hold() {
    struct None;
    impl Buffers for None {
        fn take(&mut self, _: usize) -> bool {
            false
        }
    }
    let mut q = io_queue();
    for (cid, command) in [(1, compare(FIRST)), (2, write(SECOND))] {
        super::super::tests::send(&mut q, &command.later().pdu(cid, BLOCK));
    }
    assert_eq!(q.poll(&mut None), Ok(Option::None));
    let mut given = Option::None;
    for (cid, ttag) in asked(&sent(&mut q)) {
        super::super::tests::send(&mut q, &data_of(cid, ttag));
        given = q.poll(&mut None).expect("valid");
    }
    is_pair(given, 1, 2);
    for tag in [0, 1] {
        q.complete(tag, Status::SUCCESS, 0, Option::None);
    }
    assert_eq!((q.outstanding(), q.take_freed()), (0, 0));
}

fn command() -> impl Strategy<Value = Command> {
    let opcode = prop_oneof![4 => Just(io::COMPARE), 4 => Just(io::WRITE), 1 => Just(io::FLUSH)];
    (opcode, prop_oneof![2 => Just(0_u8), 4 => Just(FIRST), 4 => Just(SECOND)], any::<bool>())
        .prop_map(|(opcode, fuse, in_capsule)| Command { opcode, fuse, in_capsule })
}

/// What is to become of each command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Alone,
    PairedWith(u16),
    Ends(Status),
}

fn fates(commands: &[Command]) -> Vec<Fate> {
    let mut fates: Vec<Fate> = Vec::new();
    let mut first = None;
    for (nth, command) in commands.iter().enumerate() {
        let lone = first.take();
        let fate = match (command.fuse, command.opcode) {
            (0, _) => Fate::Alone,
            (FIRST, io::COMPARE) => {
                first = Some(nth);
                // Unless the second half follows.
                Fate::Ends(Status::MISSING_FUSED)
            }
            (SECOND, io::WRITE) => match lone {
                Some(lone) => {
                    fates[lone] = Fate::PairedWith(nth as u16);
                    Fate::PairedWith(lone as u16)
                }
                None => Fate::Ends(Status::MISSING_FUSED),
            },
            _ => Fate::Ends(Status::INVALID_OPCODE.dnr()),
        };
        fates.push(fate);
    }
    if let Some(first) = first {
        fates[first] = Fate::PairedWith(u16::MAX);
    }
    fates
}

proptest! {
    /// Whatever comes, and in whatever order its data comes: every command ends once, as it should, and what is given out is whole.
    #[test]
    fn every_command_meets_its_fate(commands in prop::collection::vec(command(), 1..30), order in any::<u64>()) {
        let fates = fates(&commands);
        let mut q = ready(ControllerConfig::default());
        q.connected(1, 63, false);
        let mut given = vec![0; commands.len()];
        let mut late = Vec::new();
        let mut over = vec![None; commands.len()];
        let mut seed = order;
        let mut step = |q: &mut ControllerQueue, pdu: Option<&Pdu>, late: &mut Vec<(u16, u16)>| {
            if let Some(pdu) = pdu {
                super::super::tests::send(q, pdu);
            }
            while let Some(request) = q.poll(&mut Unlimited).expect("valid") {
                let cid = request.sqe.cid;
                given[usize::from(cid)] += 1;
                match (request.compare, fates[usize::from(cid)]) {
                    (None, Fate::Alone) => {}
                    (Some(first), Fate::PairedWith(partner)) => {
                        assert_eq!(first.sqe.cid, partner);
                        given[usize::from(partner)] += 1;
                        q.complete(first.tag, Status::SUCCESS, 0, None);
                    }
                    other => panic!("{cid}: {other:?}"),
                }
                q.complete(request.tag, Status::SUCCESS, 0, None);
            }
            let pdus = sent(q);
            late.extend(asked(&pdus));
            for (cid, status) in ended(&pdus) {
                assert_eq!(over[usize::from(cid)].replace(status), None, "{cid} ends twice");
            }
        };
        for (nth, command) in commands.iter().enumerate() {
            let length = if command.opcode == io::FLUSH { 0 } else { BLOCK };
            step(&mut q, Some(&command.pdu(nth as u16, length)), &mut late);
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            if seed >> 63 == 1 && !late.is_empty() {
                let (cid, ttag) = late.swap_remove((seed >> 32) as usize % late.len());
                step(&mut q, Some(&chunk(ttag, cid, 0, BLOCK as usize, true)), &mut late);
            }
        }
        while let Some((cid, ttag)) = late.pop() {
            step(&mut q, Some(&chunk(ttag, cid, 0, BLOCK as usize, true)), &mut late);
        }
        for (nth, fate) in fates.iter().enumerate() {
            let expected = match fate {
                Fate::PairedWith(u16::MAX) => (0, None),
                Fate::Alone | Fate::PairedWith(_) => (1, Some(Status::SUCCESS)),
                Fate::Ends(status) => (0, Some(*status)),
            };
            prop_assert_eq!((given[nth], over[nth]), expected, "{}: {:?}", nth, fate);
        }
    }
}
