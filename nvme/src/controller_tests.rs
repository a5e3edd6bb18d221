use bytes::Buf;

use super::events::{Events, Notice};
use super::state::{Effect, KeepAlive, Properties};
use super::*;
use crate::cmd::{io, *};
use crate::fabrics::property;
use crate::limits::EVENT_REQUESTS;
use crate::pdu::R2t;
use std::time::{Duration, Instant};

pub(super) fn send(q: &mut ControllerQueue, pdu: &Pdu) {
    let mut out = Outbox::new();
    out.push(pdu.clone());
    let n = out.remaining();
    q.buffer().extend_from_slice(&out.copy_to_bytes(n));
}

pub(super) fn sent(q: &mut ControllerQueue) -> Vec<Pdu> {
    let mut d = Decoder::new(Role::Host, Limits::default());
    let n = q.outbox().remaining();
    let mut bytes = q.outbox().copy_to_bytes(n);
    if bytes.first() == Some(&1) {
        bytes.advance(128);
    }
    d.establish(Digests::default());
    d.buffer().extend_from_slice(&bytes);
    std::iter::from_fn(|| d.decode().expect("what we send is valid")).collect()
}

pub(super) fn ready(config: ControllerConfig) -> ControllerQueue {
    let mut q = ControllerQueue::new(config);
    send(&mut q, &Pdu::IcReq(IcReq { pfv: 0, hpda: 0, digests: Digests::default(), maxr2t: 0 }));
    assert_eq!(q.poll(&mut Unlimited), Ok(None));
    sent(&mut q);
    q
}

fn write(cid: u16, length: u32) -> Pdu {
    let mut sqe = Sqe::new(io::WRITE, 1);
    sqe.cid = cid;
    sqe.dptr = Sgl::Transport { length }.encode();
    Pdu::CapsuleCmd(CapsuleCmd { sqe, data: Bytes::new(), digest_ok: true })
}

pub(super) fn chunk(ttag: u16, cccid: u16, offset: u32, len: usize, last: bool) -> Pdu {
    Pdu::H2cData(H2cData { cccid, ttag, offset, data: vec![offset as u8; len].into(), last, digest_ok: true })
}

fn terminated(q: &mut ControllerQueue) -> (Fes, u32) {
    let Err(QueueError::Terminated(t)) = q.poll(&mut Unlimited) else { panic!("must end the connection") };
    assert!(matches!(sent(q).last(), Some(Pdu::C2hTermReq(r)) if r.fes == t.fes as u16));
    assert!(q.poll(&mut Unlimited).is_err(), "stays ended");
    (t.fes, t.fei)
}

#[test]
fn r2t_budget_orders_writes_and_never_starves_a_large_one() {
    let mut q = ready(ControllerConfig { r2t_budget: 8192, ..ControllerConfig::default() });
    for cid in 0..3 {
        send(&mut q, &write(cid, 16384));
    }
    assert_eq!(q.poll(&mut Unlimited), Ok(None));
    let r2ts = sent(&mut q);
    assert_eq!(r2ts, vec![Pdu::R2t(R2t { cccid: 0, ttag: 0, offset: 0, length: 16384 })]);
    send(&mut q, &chunk(0, 0, 0, 8192, false));
    assert_eq!(q.poll(&mut Unlimited), Ok(None));
    assert_eq!(sent(&mut q), vec![]);
    send(&mut q, &chunk(0, 0, 8192, 8192, true));
    let r = q.poll(&mut Unlimited).expect("valid").expect("complete");
    assert_eq!((r.data.len(), r.data[0], r.data[8192]), (16384, 0, 8192_u32 as u8));
    assert_eq!(q.poll(&mut Unlimited), Ok(None));
    assert!(matches!(sent(&mut q)[..], [Pdu::R2t(R2t { cccid: 1, .. })]));
}

#[test]
fn h2c_data_that_was_not_asked_for_ends_the_connection() {
    type Case = (fn() -> Pdu, Fes, u32);
    let cases: [Case; 7] = [
        (|| chunk(5, 0, 0, 4096, true), Fes::InvalidHeader, 10),
        (|| chunk(0, 9, 0, 4096, true), Fes::InvalidHeader, 8),
        (|| chunk(0, 0, 4, 4092, true), Fes::OutOfRange, 0),
        (|| chunk(0, 0, 0, 4100, true), Fes::OutOfRange, 0),
        (|| chunk(0, 0, 0, 4096, false), Fes::InvalidHeader, 1),
        (|| chunk(0, 0, 0, 100, true), Fes::InvalidHeader, 1),
        (|| chunk(0, 0, 0, 0, false), Fes::InvalidHeader, 16),
    ];
    for (pdu, fes, fei) in cases {
        let mut q = ready(ControllerConfig::default());
        send(&mut q, &write(0, 4096));
        assert_eq!(q.poll(&mut Unlimited), Ok(None));
        sent(&mut q);
        send(&mut q, &pdu());
        assert_eq!(terminated(&mut q), (fes, fei));
    }
}

#[test]
fn more_commands_than_the_queue_holds_end_the_connection() {
    let mut q = ready(ControllerConfig::default());
    q.connected(0, 3, false);
    for cid in 0..5 {
        send(
            &mut q,
            &Pdu::CapsuleCmd(CapsuleCmd {
                sqe: Sqe { cid, ..Sqe::new(0, 1) },
                data: Bytes::new(),
                digest_ok: true,
            }),
        );
    }
    for _ in 0..4 {
        assert!(q.poll(&mut Unlimited).expect("fits").is_some());
    }
    assert_eq!(terminated(&mut q).0, Fes::Sequence);
}

#[test]
fn bad_sgls_fail_the_command_and_not_the_connection() {
    let mut sqe = Sqe::new(io::WRITE, 1);
    let capsule = |sqe: Sqe| Pdu::CapsuleCmd(CapsuleCmd { sqe, data: vec![1; 512].into(), digest_ok: true });
    for (sgl, status) in [
        (Sgl::InCapsule { offset: 513, length: 1 }, Status::SGL_OFFSET_INVALID),
        (Sgl::InCapsule { offset: 0, length: 513 }, Status::DATA_SGL_LENGTH_INVALID),
        (Sgl::InCapsule { offset: u64::MAX, length: 1 }, Status::SGL_OFFSET_INVALID),
        (Sgl::Transport { length: 1 << 20 }, Status::INVALID_FIELD),
    ] {
        let mut q = ready(ControllerConfig::default());
        sqe.dptr = sgl.encode();
        send(&mut q, &capsule(sqe));
        assert_eq!(q.poll(&mut Unlimited), Ok(None));
        let Some(Pdu::CapsuleResp(cqe)) = sent(&mut q).pop() else { panic!("a response") };
        assert!(cqe.status.same(status), "{sgl:?}: {}", cqe.status);
        assert_eq!(q.outstanding(), 0);
    }
}

#[test]
fn ic_req_with_an_unknown_version_is_refused() {
    let mut q = ControllerQueue::new(ControllerConfig::default());
    send(&mut q, &Pdu::IcReq(IcReq { pfv: 1, hpda: 0, digests: Digests::default(), maxr2t: 0 }));
    assert_eq!(terminated(&mut q), (Fes::Unsupported, 8));
}

#[test]
fn keep_alive_expires_only_without_signs_of_life() {
    let start = Instant::now();
    let at = |ms| start + Duration::from_millis(ms);
    let mut k = KeepAlive::new(5001, 10_000, start);
    assert_eq!(k.timeout(), Some(Duration::from_secs(10)));
    assert!(!k.expired(at(10_000)));
    k.touch(at(9_000));
    assert!(!k.expired(at(19_000)));
    assert!(k.expired(at(19_001)));
    assert_eq!(KeepAlive::new(0, 10_000, start).deadline(), None);
}

#[test]
fn properties_follow_enable_reset_and_shutdown() {
    let mut p = Properties::new(128);
    let cc = |v| (property::CC, false, v);
    let set = |p: &mut Properties, (o, w, v): (u32, bool, u64)| p.set(o, w, v);
    assert_eq!(p.get(property::CSTS, false), Ok(0));
    assert_eq!(set(&mut p, cc(0x0046_0001)), Ok(Effect::Enabled));
    assert!(p.is_ready() && p.takes_io_queues());
    assert_eq!(set(&mut p, cc(0x0046_4001)), Ok(Effect::Shutdown));
    assert_eq!(p.get(property::CSTS, false), Ok(0b1001));
    assert!(!p.is_ready());
    assert_eq!(set(&mut p, cc(0)), Ok(Effect::Reset));
    assert_eq!(p.get(property::CSTS, false), Ok(0));
    assert!(p.set(property::VS, false, 1).is_err());
    // Pages of 8 KiB, weighted arbitration, another command set.
    for bad in [0x0046_0081, 0x0046_0801, 0x0046_0011] {
        assert_eq!(set(&mut p, cc(bad)), Err(Status::INVALID_FIELD.dnr()));
    }
    assert!(p.get(property::CAP, false).is_err());
}

#[test]
fn notices_are_masked_until_their_log_is_read() {
    let mut e = Events::new(Notice::Ana.enable_bit() | Notice::Namespaces.enable_bit());
    assert_eq!(e.post(Notice::Discovery), None, "not enabled");
    assert_eq!(e.post(Notice::Ana), None, "no request yet");
    assert_eq!(e.request(7), Ok(Some((7, Notice::Ana.result()))));
    assert_eq!(e.request(8), Ok(None));
    assert_eq!(e.post(Notice::Ana), None, "masked");
    e.read(Notice::Ana);
    assert_eq!(e.post(Notice::Ana), Some((8, 0x000c_0302)));
    for tag in 0..EVENT_REQUESTS as u16 {
        assert_eq!(e.request(tag), Ok(None));
    }
    assert_eq!(e.request(9), Err(Status::AER_LIMIT_EXCEEDED.dnr()));
    assert!(e.abort(0) && !e.abort(0));
    assert!(Notice::ALL.iter().all(|n| Notice::from_result(n.result()) == Some(*n)));
}

#[test]
fn what_is_aborted_is_never_given_out() {
    let mut q = ready(ControllerConfig { r2t_budget: 4096, ..ControllerConfig::default() });
    for cid in 10..13 {
        send(&mut q, &write(cid, 4096));
    }
    assert_eq!(q.poll(&mut Unlimited), Ok(None));
    assert!(
        matches!(sent(&mut q)[..], [Pdu::R2t(R2t { cccid: 10, ttag: 0, .. })]),
        "the others wait for budget"
    );
    // Its data was asked for: it keeps its tag until that is here.
    assert_eq!(q.abort(10), Abort::Aborted);
    assert_eq!((sent(&mut q), q.outstanding()), (vec![], 3));
    // Its data was not: it ends at once, and is not asked for later, whoever gets its tag.
    assert_eq!(q.abort(11), Abort::Aborted);
    let aborted = |pdus: &[Pdu], cid: u16| matches!(pdus, [Pdu::CapsuleResp(cqe), ..] if cqe.cid == cid && cqe.status.same(Status::ABORTED_BY_REQUEST));
    assert!(aborted(&sent(&mut q), 11));
    send(&mut q, &write(13, 4096));
    send(&mut q, &chunk(0, 10, 0, 4096, true));
    assert_eq!(q.poll(&mut Unlimited), Ok(None), "an aborted command is not executed");
    let after = sent(&mut q);
    let r2ts = |pdus: &[Pdu]| {
        pdus.iter()
            .filter_map(|p| if let Pdu::R2t(r) = p { Some((r.cccid, r.ttag)) } else { None })
            .collect::<Vec<_>>()
    };
    assert!(after.iter().any(|p| aborted(std::slice::from_ref(p), 10)));
    assert_eq!(r2ts(&after), [(12, 2)]);
    send(&mut q, &chunk(2, 12, 0, 4096, true));
    let r = q.poll(&mut Unlimited).expect("valid").expect("complete");
    assert_eq!((r.sqe.cid, q.abort(12), q.abort(99)), (12, Abort::Executing(r.tag), Abort::Unknown));
    assert_eq!(q.poll(&mut Unlimited), Ok(None));
    assert_eq!(r2ts(&sent(&mut q)).len(), 1, "the last one gets its turn once");
}

/// Memory that is there.
struct Room(usize);

impl Buffers for Room {
    fn take(&mut self, bytes: usize) -> bool {
        let fits = bytes <= self.0;
        self.0 -= if fits { bytes } else { 0 };
        fits
    }
}

fn read(cid: u16, length: u32) -> Pdu {
    let mut sqe = Sqe::new(io::READ, 1);
    sqe.cid = cid;
    sqe.dptr = Sgl::Transport { length }.encode();
    Pdu::CapsuleCmd(CapsuleCmd { sqe, data: Bytes::new(), digest_ok: true })
}

#[test]
fn commands_wait_for_memory_in_their_order_and_others_pass() {
    let mut q = ready(ControllerConfig::default());
    let given = |q: &mut ControllerQueue, room: &mut Room| q.poll(room).expect("valid").map(|r| r.sqe.cid);
    send(&mut q, &read(1, 8192));
    send(&mut q, &write(2, 4096));
    send(&mut q, &read(3, 4096));
    assert_eq!(given(&mut q, &mut Room(4096)), None, "what would fit does not overtake what came first");
    assert!(q.waits_for_buffer() && q.outbox().is_empty() && q.outstanding() == 3);
    // Without data there is nothing to wait for.
    let mut flush = Sqe::new(io::FLUSH, 1);
    flush.cid = 4;
    send(&mut q, &Pdu::CapsuleCmd(CapsuleCmd { sqe: flush, data: Bytes::new(), digest_ok: true }));
    assert_eq!(given(&mut q, &mut Room(4096)), Some(4));
    assert_eq!(given(&mut q, &mut Room(8192)), Some(1));
    // The write is next: its data is asked for with its memory, and only then the read has its turn.
    assert_eq!((given(&mut q, &mut Room(4095)), sent(&mut q)), (None, vec![]));
    assert_eq!(given(&mut q, &mut Room(4096)), None);
    assert!(matches!(sent(&mut q)[..], [Pdu::R2t(R2t { cccid: 2, length: 4096, .. })]));
    // One that waits can be aborted, and is never given out.
    assert_eq!((q.abort(3), q.waits_for_buffer()), (Abort::Aborted, false));
    assert_eq!(given(&mut q, &mut Room(1 << 20)), None);
    assert_eq!(q.take_freed(), 0, "what has ended had no memory yet");
}

#[test]
fn memory_is_given_back_when_it_is_not_needed_any_more() {
    let mut q = ready(ControllerConfig::default());
    let next = |q: &mut ControllerQueue| q.poll(&mut Unlimited).expect("valid").expect("given out").tag;
    // A read that fails: at once. One that succeeds: when its data has been sent, and before that what it did not fill.
    send(&mut q, &read(1, 8192));
    let tag = next(&mut q);
    q.complete(tag, Status::INTERNAL_ERROR, 0, None);
    assert_eq!(q.take_freed(), 8192);
    send(&mut q, &read(2, 16384));
    let tag = next(&mut q);
    q.complete(tag, Status::SUCCESS, 0, Some(vec![0; 4096].into()));
    assert_eq!(q.take_freed(), 12288);
    sent(&mut q);
    assert_eq!(q.take_freed(), 4096);
    // A write: when it has ended.
    send(&mut q, &write(3, 4096));
    assert_eq!(q.poll(&mut Unlimited), Ok(None));
    sent(&mut q);
    send(&mut q, &chunk(0, 3, 0, 4096, true));
    let tag = next(&mut q);
    assert_eq!(q.take_freed(), 0);
    q.complete(tag, Status::SUCCESS, 0, None);
    assert_eq!(q.take_freed(), 4096);
}
