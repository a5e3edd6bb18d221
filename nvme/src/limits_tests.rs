//! One beyond every limit: what the peer gets, by status code or by Fatal Error Status and Information. And the limit itself, which passes.

use bytes::{Buf, Bytes, BytesMut};

use super::*;
use crate::cmd::{Cqe, Sgl, io};
use crate::codec::{Decoder, Outbox, Role};
use crate::controller::{ControllerConfig, ControllerQueue, QueueError, Unlimited};
use crate::digest::Digests;
use crate::host::{Command, Event, HostConfig, HostQueue};
use crate::pdu::{C2hData, CapsuleCmd, Fes, H2cData, IcReq, IcResp, Pdu, R2t, TermReq, Termination, flag};

const LIMITS: Limits = Limits {
    max_h2c_data: 8192,
    max_c2h_data: 8192,
    in_capsule_data: 8192,
    max_io_size: 16 << 10,
    queue_depth: 4,
    alignment: 0,
};
const NONE: Digests = Digests { header: false, data: false };
const HEADER: Digests = Digests { header: true, data: false };
const DATA: Digests = Digests { header: false, data: true };

fn bytes(pdu: &Pdu, digests: Digests, alignment: u8) -> Vec<u8> {
    let mut out = Outbox::new();
    out.establish(digests, alignment);
    out.push(pdu.clone());
    out.copy_to_bytes(out.remaining()).to_vec()
}

fn h2c(len: usize) -> Pdu {
    let data = vec![7; len].into();
    Pdu::H2cData(H2cData { cccid: 0, ttag: 0, offset: 0, data, last: true, digest_ok: true })
}

fn c2h(cccid: u16, offset: u32, len: usize) -> C2hData {
    C2hData { cccid, offset, data: vec![7; len].into(), last: true, success: false, digest_ok: true }
}

fn capsule(sqe: Sqe, len: usize) -> Pdu {
    Pdu::CapsuleCmd(CapsuleCmd { sqe, data: vec![7; len].into(), digest_ok: true })
}

fn term(len: usize) -> TermReq {
    TermReq { fes: 1, fei: 0, header: vec![7; len].into() }
}

/// What is done to the bytes of a PDU.
type Edit = Box<dyn Fn(&mut Vec<u8>)>;

/// Writes `n` as four bytes at `at`.
fn word(at: usize, n: u32) -> Edit {
    Box::new(move |b| b[at..at + 4].copy_from_slice(&n.to_le_bytes()))
}

fn byte(at: usize, n: u8) -> Edit {
    Box::new(move |b| b[at] = n)
}

fn as_is() -> Edit {
    Box::new(|_| ())
}

/// Data begins at `pdo`, and the length says so too: nothing but the offset is wrong.
fn data_at(pdo: u8, len: u32) -> Edit {
    Box::new(move |b| {
        b[3] = pdo;
        b[4..8].copy_from_slice(&(u32::from(pdo) + len).to_le_bytes());
        b.resize((usize::from(pdo) + len as usize).max(72), 7);
    })
}

/// Role, digests, alignment, a good PDU, what is done to it, and what comes of it.
type Case = (Role, Digests, u8, Pdu, Edit, Option<(Fes, u32)>);

fn header_cases() -> Vec<Case> {
    use Fes::{InvalidHeader, Sequence};
    use Role::{Controller, Host};
    let flush = || capsule(Sqe::new(io::FLUSH, 1), 0);
    let resp = || Pdu::CapsuleResp(Cqe::default());
    let r2t = || Pdu::R2t(R2t { cccid: 0, ttag: 0, offset: 0, length: 4 });
    let invalid = |fei| Some((InvalidHeader, fei));
    vec![
        // Type: unknown ones, and those that are not for this role or this time.
        (Controller, NONE, 0, h2c(16), byte(0, 8), invalid(0)),
        (Controller, NONE, 0, h2c(16), byte(0, 10), invalid(0)),
        (Controller, NONE, 0, h2c(16), byte(0, 0), Some((Sequence, 0))),
        (Controller, NONE, 0, h2c(16), byte(0, 7), Some((Sequence, 0))),
        (Host, NONE, 0, resp(), byte(0, 1), Some((Sequence, 0))),
        (Host, NONE, 0, resp(), byte(0, 4), Some((Sequence, 0))),
        // Header length.
        (Controller, NONE, 0, flush(), byte(2, 71), invalid(2)),
        (Controller, NONE, 0, flush(), byte(2, 73), invalid(2)),
        (Host, NONE, 0, r2t(), byte(2, 25), invalid(2)),
        // Digest flags: both ways.
        (Controller, NONE, 0, h2c(16), byte(1, flag::LAST | flag::HDGST), invalid(1)),
        (Controller, NONE, 0, h2c(16), byte(1, flag::LAST | flag::DDGST), invalid(1)),
        (Controller, HEADER, 0, flush(), byte(1, 0), invalid(1)),
        (Controller, DATA, 0, h2c(16), byte(1, flag::LAST), invalid(1)),
        (Host, NONE, 0, resp(), byte(1, flag::HDGST), invalid(1)),
        // PDU length of PDUs without data.
        (Host, NONE, 0, resp(), word(4, 23), invalid(4)),
        (Host, NONE, 0, resp(), word(4, 25), invalid(4)),
        (Host, NONE, 0, r2t(), word(4, 25), invalid(4)),
        (Controller, NONE, 0, flush(), word(4, 71), invalid(3)),
        (Controller, NONE, 0, flush(), as_is(), None),
    ]
}

fn data_cases() -> Vec<Case> {
    use Fes::{InvalidHeader, LimitExceeded, OutOfRange};
    use Role::{Controller, Host};
    let write = |len| capsule(Sqe::new(io::WRITE, 1), len);
    let invalid = |fei| Some((InvalidHeader, fei));
    vec![
        // PDO: not into the header, nor into its digest, and aligned as was negotiated.
        (Controller, NONE, 0, h2c(16), data_at(20, 16), invalid(3)),
        (Controller, NONE, 0, h2c(16), data_at(0, 16), invalid(3)),
        (Controller, NONE, 0, h2c(16), data_at(24, 16), None),
        (Controller, NONE, 0, write(16), data_at(68, 16), invalid(3)),
        (Controller, NONE, 0, write(16), data_at(72, 16), None),
        (Controller, NONE, 0, write(16), data_at(76, 0), invalid(4)),
        (Host, NONE, 0, Pdu::C2hData(c2h(0, 0, 16)), data_at(20, 16), invalid(3)),
        (Controller, NONE, 0, h2c(16), data_at(26, 16), invalid(3)),
        (Controller, NONE, 0, h2c(16), data_at(28, 16), None),
        (Controller, NONE, 1, h2c(16), data_at(28, 16), invalid(3)),
        (Controller, NONE, 1, h2c(16), data_at(32, 16), None),
        (Controller, NONE, 31, h2c(16), data_at(124, 16), invalid(3)),
        (Controller, NONE, 31, h2c(16), data_at(128, 16), None),
        // Lengths that do not fit one another.
        (Controller, NONE, 0, h2c(16), word(4, 23), invalid(4)),
        (Controller, NONE, 0, h2c(16), word(4, 39), invalid(4)),
        (Controller, NONE, 0, h2c(16), word(4, 41), invalid(4)),
        (Controller, NONE, 0, h2c(16), word(16, 17), invalid(4)),
        (Host, NONE, 0, Pdu::C2hData(c2h(0, 0, 16)), word(16, 15), invalid(4)),
        // Termination requests.
        (Controller, NONE, 0, Pdu::H2cTermReq(term(TERM_DATA_MAX)), as_is(), None),
        (Controller, NONE, 0, Pdu::H2cTermReq(term(TERM_DATA_MAX + 1)), as_is(), invalid(4)),
        (Host, NONE, 0, Pdu::C2hTermReq(term(TERM_DATA_MAX)), as_is(), None),
        (Host, NONE, 0, Pdu::C2hTermReq(term(TERM_DATA_MAX + 1)), as_is(), invalid(4)),
        // Amounts of data.
        (Controller, NONE, 0, h2c(8192), as_is(), None),
        (Controller, NONE, 0, h2c(8193), as_is(), Some((LimitExceeded, 0))),
        (Controller, NONE, 0, write(8192), as_is(), None),
        (Controller, NONE, 0, write(8193), as_is(), invalid(4)),
        (Controller, DATA, 0, write(8192), as_is(), None),
        (Controller, DATA, 0, write(8193), as_is(), invalid(4)),
        (Host, NONE, 0, Pdu::C2hData(c2h(0, 0, 8192)), as_is(), None),
        (Host, NONE, 0, Pdu::C2hData(c2h(0, 0, 8193)), as_is(), Some((OutOfRange, 0))),
    ]
}

#[test]
fn every_header_field_is_checked_and_the_offending_one_is_named() {
    for (i, (role, digests, alignment, pdu, edit, expected)) in
        header_cases().into_iter().chain(data_cases()).enumerate()
    {
        let mut raw = bytes(&pdu, digests, alignment);
        edit(&mut raw);
        let mut decoder = Decoder::new(role, Limits { alignment, ..LIMITS });
        decoder.establish(digests);
        decoder.buffer().extend_from_slice(&raw);
        let kind = pdu.kind();
        match (decoder.decode(), expected) {
            (Ok(Some(_)), None) => {}
            (Err(t), Some(expected)) => {
                assert_eq!((t.fes, t.fei), expected, "case {i}: {kind:?}");
                assert!(t.header.len() >= 8 && raw.starts_with(&t.header), "case {i}: header of {kind:?}");
            }
            (other, expected) => panic!("case {i}: {kind:?}: {other:?} instead of {expected:?}"),
        }
    }
}

#[test]
fn data_that_begins_in_the_header_digest_is_refused() {
    let mut raw = bytes(&capsule(Sqe::new(io::WRITE, 1), 16), HEADER, 0);
    assert_eq!(raw[3], 76, "after header and digest");
    raw[3] = 72;
    raw[4..8].copy_from_slice(&(72_u32 + 16).to_le_bytes());
    let sum = crate::digest::digest(&raw[..72]);
    raw[72..76].copy_from_slice(&sum);
    let mut decoder = Decoder::new(Role::Controller, LIMITS);
    decoder.establish(HEADER);
    decoder.buffer().extend_from_slice(&raw);
    let t = decoder.decode().expect_err("refused");
    assert_eq!((t.fes, t.fei), (Fes::InvalidHeader, 3));
}

#[test]
fn a_wrong_header_digest_is_told_as_it_came() {
    let mut raw = bytes(&capsule(Sqe::new(io::FLUSH, 1), 0), HEADER, 0);
    raw[72] ^= 1;
    let came = u32::from_le_bytes([raw[72], raw[73], raw[74], raw[75]]);
    let mut decoder = Decoder::new(Role::Controller, LIMITS);
    decoder.establish(HEADER);
    decoder.buffer().extend_from_slice(&raw);
    let t = decoder.decode().expect_err("damaged");
    assert_eq!((t.fes, t.fei, &t.header[..]), (Fes::HeaderDigest, came, &raw[..72]));
}

fn controller(config: ControllerConfig) -> ControllerQueue {
    let mut q = ControllerQueue::new(config);
    receive(&mut q, &Pdu::IcReq(IcReq { pfv: 0, hpda: 0, digests: NONE, maxr2t: 0 }));
    assert_eq!(q.poll(&mut Unlimited), Ok(None));
    q.outbox().clear();
    q
}

fn receive(q: &mut ControllerQueue, pdu: &Pdu) {
    q.buffer().extend_from_slice(&bytes(pdu, NONE, 0));
}

/// What a side says last, and that it says it on the wire with the header that is to blame.
fn said(t: &Termination, outbox: &mut Outbox, blamed: &Pdu) -> (Fes, u32) {
    let all = outbox.copy_to_bytes(outbox.remaining());
    let raw = bytes(blamed, NONE, 0);
    let hlen = usize::from(raw[2]);
    assert_eq!(t.header, raw[..hlen], "header of the PDU in error");
    let last = &all[all.len() - 24 - hlen..];
    assert!(matches!(last[0], 2 | 3), "a termination request");
    assert_eq!(last[4..8], (24 + hlen as u32).to_le_bytes());
    assert_eq!(last[8..10], (t.fes as u16).to_le_bytes());
    assert_eq!(last[10..14], t.fei.to_le_bytes());
    assert_eq!(last[24..], raw[..hlen]);
    (t.fes, t.fei)
}

/// What the controller says to `last`, after `first`.
fn refused(mut q: ControllerQueue, first: &[Pdu], last: &Pdu) -> (Fes, u32) {
    for pdu in first {
        receive(&mut q, pdu);
        q.poll(&mut Unlimited).expect("allowed");
    }
    receive(&mut q, last);
    let Err(QueueError::Terminated(t)) = q.poll(&mut Unlimited) else {
        panic!("{last:?} ends the connection")
    };
    said(&t, q.outbox(), last)
}

fn config() -> ControllerConfig {
    ControllerConfig { limits: LIMITS, ..ControllerConfig::default() }
}

#[test]
fn initialisation_is_checked_at_both_ends() {
    let request = |pfv, hpda| Pdu::IcReq(IcReq { pfv, hpda, digests: NONE, maxr2t: u32::MAX });
    let new = || ControllerQueue::new(config());
    assert_eq!(refused(new(), &[], &request(1, 0)), (Fes::Unsupported, 8));
    assert_eq!(refused(new(), &[], &request(0, MAX_ALIGNMENT + 1)), (Fes::InvalidHeader, 10));
    let mut q = new();
    receive(&mut q, &request(0, MAX_ALIGNMENT));
    assert_eq!(q.poll(&mut Unlimited), Ok(None));

    let response = |pfv, cpda, digests, maxh2cdata| Pdu::IcResp(IcResp { pfv, cpda, digests, maxh2cdata });
    let cases = [
        (response(1, 0, NONE, 4096), Some((Fes::Unsupported, 8))),
        (response(0, MAX_ALIGNMENT + 1, NONE, 4096), Some((Fes::InvalidHeader, 10))),
        (response(0, MAX_ALIGNMENT, NONE, 4096), None),
        (response(0, 0, HEADER, 4096), Some((Fes::InvalidHeader, 11))),
        (response(0, 0, DATA, 4096), Some((Fes::InvalidHeader, 11))),
        (response(0, 0, NONE, MIN_H2C_DATA - 1), Some((Fes::InvalidHeader, 12))),
        (response(0, 0, NONE, MIN_H2C_DATA), None),
    ];
    for (pdu, expected) in cases {
        let mut host: HostQueue<u32> = HostQueue::new(HostConfig { limits: LIMITS, digests: NONE });
        host.outbox().clear();
        host.buffer().extend_from_slice(&bytes(&pdu, NONE, 0));
        match (host.poll(), expected) {
            (Ok(Some(Event::Ready(_))), None) => {}
            (Err(QueueError::Terminated(t)), Some(e)) => assert_eq!(said(&t, host.outbox(), &pdu), e),
            (other, e) => panic!("{pdu:?}: {other:?} instead of {e:?}"),
        }
    }
}

fn write_of(cid: u16, sgl: Sgl) -> Sqe {
    Sqe { cid, dptr: sgl.encode(), ..Sqe::new(io::WRITE, 1) }
}

#[test]
fn data_for_the_controller_is_what_was_asked_for_and_nothing_else() {
    use Fes::{InvalidHeader, OutOfRange, Sequence};
    let ask = capsule(write_of(3, Sgl::Transport { length: 8192 }), 0);
    let data = |ttag, cccid, offset, len, last| {
        Pdu::H2cData(H2cData { cccid, ttag, offset, data: vec![7; len].into(), last, digest_ok: true })
    };
    let first = data(0, 3, 0, 4096, false);
    for (before, pdu, expected) in [
        (vec![], data(1, 3, 0, 4096, false), (InvalidHeader, 10)),
        (vec![], data(0, 4, 0, 4096, false), (InvalidHeader, 8)),
        (vec![], data(0, 3, 1, 4096, false), (OutOfRange, 0)),
        (vec![first.clone()], data(0, 3, 4095, 4096, true), (OutOfRange, 0)),
        (vec![first.clone()], data(0, 3, 4096, 4097, true), (OutOfRange, 0)),
        (vec![first.clone()], data(0, 3, 4096, 4096, false), (InvalidHeader, 1)),
        (vec![first.clone()], data(0, 3, 4096, 4095, true), (InvalidHeader, 1)),
        (vec![first], data(0, 3, 4096, 0, false), (InvalidHeader, 16)),
        // The transfer is over: its tag is free.
        (vec![data(0, 3, 0, 8192, true)], data(0, 3, 0, 8192, true), (InvalidHeader, 10)),
    ] {
        let before: Vec<Pdu> = std::iter::once(ask.clone()).chain(before).collect();
        assert_eq!(refused(controller(config()), &before, &pdu), expected, "{pdu:?}");
    }
    // One command more than the queue has entries, whatever they wait for.
    let full: Vec<Pdu> = (0..4).map(|cid| capsule(write_of(cid, Sgl::Transport { length: 4 }), 0)).collect();
    assert_eq!(refused(controller(config()), &full, &capsule(Sqe::new(io::FLUSH, 1), 0)), (Sequence, 0));
    // Before the budget or a buffer lets the controller ask, a tag is not valid either.
    let tight = ControllerConfig { r2t_budget: 8192, ..config() };
    let second = capsule(write_of(4, Sgl::Transport { length: 8192 }), 0);
    assert_eq!(refused(controller(tight), &[ask, second], &data(1, 4, 0, 4096, false)), (InvalidHeader, 10));
}

#[test]
fn in_capsule_data_of_an_io_queue_is_what_identify_says() {
    let limits = Limits { in_capsule_data: 4096, ..LIMITS };
    let sized = |len: usize| capsule(write_of(0, Sgl::InCapsule { offset: 0, length: len as u32 }), len);
    for (qid, most) in [(0, ADMIN_IN_CAPSULE as usize), (1, 4096)] {
        let new = || {
            let mut q = controller(ControllerConfig { limits, ..config() });
            q.connected(qid, 3, false);
            q
        };
        assert_eq!(refused(new(), &[sized(most)], &sized(most + 1)), (Fes::InvalidHeader, 4), "queue {qid}");
    }
}

#[test]
fn a_command_that_asks_for_too_much_fails_and_the_connection_goes_on() {
    let fused = |n: u8| Sqe { flags: Sqe::PSDT_SGL << 6 | n, ..Sqe::new(io::FLUSH, 1) };
    let psdt = |n: u8| Sqe { flags: n << 6, ..Sqe::new(io::FLUSH, 1) };
    let read = |length| Sqe { dptr: Sgl::Transport { length }.encode(), ..Sqe::new(io::READ, 1) };
    let sgl = |kind: u8| {
        let mut sqe = write_of(0, Sgl::Transport { length: 512 });
        sqe.dptr[15] = kind;
        sqe
    };
    let inside = |offset, length| write_of(0, Sgl::InCapsule { offset, length });
    let invalid = Status::INVALID_FIELD.dnr();
    let kind = Status::SGL_TYPE_INVALID.dnr();
    let cases = [
        (fused(1), 0, Err(invalid)),
        (fused(2), 0, Err(invalid)),
        (fused(3), 0, Err(invalid)),
        (psdt(0), 0, Err(invalid)),
        (psdt(2), 0, Err(invalid)),
        (psdt(3), 0, Err(invalid)),
        (read(16384), 0, Ok(16384)),
        (read(16385), 0, Err(invalid)),
        (write_of(0, Sgl::Transport { length: 16385 }), 0, Err(invalid)),
        (inside(0, 16385), 512, Err(invalid)),
        (inside(0, 512), 512, Ok(0)),
        (inside(0, 513), 512, Err(Status::DATA_SGL_LENGTH_INVALID.dnr())),
        (inside(1, 512), 512, Err(Status::DATA_SGL_LENGTH_INVALID.dnr())),
        (inside(512, 0), 512, Ok(0)),
        (inside(513, 0), 512, Err(Status::SGL_OFFSET_INVALID.dnr())),
        // Data block with an address, keyed, segment, bit bucket: none is of NVMe/TCP; nor is the capsule for data to the host.
        (sgl(0x00), 0, Err(kind)),
        (sgl(0x10), 0, Err(kind)),
        (sgl(0x20), 0, Err(kind)),
        (sgl(0x30), 0, Err(kind)),
        (sgl(0x40), 0, Err(kind)),
        (sgl(0x5b), 0, Err(kind)),
        (
            Sqe { dptr: Sgl::InCapsule { offset: 0, length: 4 }.encode(), ..Sqe::new(io::READ, 1) },
            4,
            Err(kind),
        ),
        // An opcode that would move data both ways.
        (
            Sqe { dptr: Sgl::Transport { length: 4 }.encode(), ..Sqe::new(0x83, 1) },
            0,
            Err(Status::INVALID_OPCODE.dnr()),
        ),
    ];
    for (sqe, data, expected) in cases {
        let mut q = controller(config());
        receive(&mut q, &capsule(sqe, data));
        let given = q.poll(&mut Unlimited).expect("the connection goes on");
        match expected {
            Ok(room) => assert_eq!(given.expect("given out").buffer_len, room, "{sqe:?}"),
            Err(status) => {
                assert!(given.is_none(), "{sqe:?}");
                let raw = q.outbox().copy_to_bytes(24);
                let mut cqe = [0; 16];
                cqe.copy_from_slice(&raw[8..24]);
                assert_eq!((raw[0], Cqe::decode(&cqe).status), (5, status), "{sqe:?}");
                assert_eq!((q.outstanding(), q.outbox().remaining()), (0, 0));
            }
        }
    }
}

fn host() -> HostQueue<u32> {
    let mut host = HostQueue::new(HostConfig { limits: LIMITS, digests: NONE });
    let resp = Pdu::IcResp(IcResp { pfv: 0, cpda: 0, digests: NONE, maxh2cdata: 4096 });
    host.buffer().extend_from_slice(&bytes(&resp, NONE, 0));
    assert!(matches!(host.poll(), Ok(Some(Event::Ready(_)))));
    host.set_in_capsule(0);
    let command = |opcode, data: usize, room| Command {
        sqe: Sqe::new(opcode, 1),
        data: Bytes::from(vec![1; data]),
        buffer: BytesMut::zeroed(room),
        token: 0,
    };
    assert_eq!(host.submit(command(io::WRITE, 8192, 0)).expect("room"), 0);
    assert_eq!(host.submit(command(io::READ, 0, 4096)).expect("room"), 1);
    host.outbox().clear();
    host
}

#[test]
fn a_controller_gets_from_a_host_what_belongs_to_the_command_once() {
    use Fes::{InvalidHeader, LimitExceeded, OutOfRange};
    let r2t = |cccid, offset, length| Pdu::R2t(R2t { cccid, ttag: 9, offset, length });
    let resp = |cid| Pdu::CapsuleResp(Cqe { cid, ..Cqe::default() });
    let success = C2hData { last: false, success: true, ..c2h(1, 0, 4096) };
    let part = |offset, len| Pdu::C2hData(C2hData { last: false, ..c2h(1, offset, len) });
    // What came before; whether what the host then had to send was sent; what comes.
    let cases = [
        (vec![], true, r2t(2, 0, 4096), (InvalidHeader, 8)),
        (vec![], true, r2t(0, 1, 4096), (InvalidHeader, 12)),
        (vec![], true, r2t(0, 0, 0), (InvalidHeader, 16)),
        (vec![], true, r2t(0, 0, 8193), (OutOfRange, 0)),
        (vec![], true, r2t(0, 0, u32::MAX), (OutOfRange, 0)),
        (vec![], true, r2t(1, 0, 1), (OutOfRange, 0)),
        (vec![r2t(0, 0, 4096)], true, r2t(0, 0, 4096), (InvalidHeader, 12)),
        (vec![r2t(0, 0, 4096)], true, r2t(0, 4096, 4097), (OutOfRange, 0)),
        (vec![r2t(0, 0, 4096)], false, r2t(0, 4096, 4096), (LimitExceeded, 0)),
        (vec![], true, Pdu::C2hData(c2h(2, 0, 16)), (InvalidHeader, 8)),
        (vec![], true, Pdu::C2hData(c2h(0, 0, 16)), (InvalidHeader, 8)),
        (vec![], true, Pdu::C2hData(c2h(1, 0, 4097)), (OutOfRange, 0)),
        (vec![], true, Pdu::C2hData(c2h(1, 1, 4095)), (OutOfRange, 0)),
        (vec![part(0, 2048)], true, Pdu::C2hData(c2h(1, 0, 2048)), (OutOfRange, 0)),
        (vec![part(0, 2048)], true, Pdu::C2hData(c2h(1, 2048, 2049)), (OutOfRange, 0)),
        (vec![], true, Pdu::C2hData(success), (InvalidHeader, 1)),
        (vec![], true, resp(2), (InvalidHeader, 20)),
    ];
    for (before, sent, pdu, expected) in cases {
        let mut host = host();
        for good in &before {
            host.buffer().extend_from_slice(&bytes(good, NONE, 0));
            assert!(matches!(host.poll(), Ok(None)), "{good:?}");
        }
        if sent {
            host.outbox().clear();
        }
        host.buffer().extend_from_slice(&bytes(&pdu, NONE, 0));
        let Err(QueueError::Terminated(t)) = host.poll() else { panic!("{pdu:?} ends the connection") };
        assert_eq!(said(&t, host.outbox(), &pdu), expected, "{pdu:?}");
    }
    // All of it in two R2Ts, one after the other.
    let mut host = host();
    for offset in [0, 4096] {
        host.buffer().extend_from_slice(&bytes(&r2t(0, offset, 4096), NONE, 0));
        assert!(matches!(host.poll(), Ok(None)));
        assert_eq!(host.outbox().remaining(), 24 + 4096);
        host.outbox().clear();
    }
}

#[test]
fn a_buffer_is_a_power_of_two_and_never_tiny() {
    let sizes = [0, 1, 4096, 4097, 128 << 10, (128 << 10) + 1].map(buffer_size);
    assert_eq!(sizes, [0, 4096, 4096, 8192, 128 << 10, 256 << 10]);
}
