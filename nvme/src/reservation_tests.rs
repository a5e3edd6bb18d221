use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

const A: HostId = [1; 16];
const B: HostId = [2; 16];
const C: HostId = [3; 16];
const TYPES: [Type; 6] = [
    Type::WriteExclusive,
    Type::ExclusiveAccess,
    Type::WriteExclusiveRegistrantsOnly,
    Type::ExclusiveAccessRegistrantsOnly,
    Type::WriteExclusiveAllRegistrants,
    Type::ExclusiveAccessAllRegistrants,
];

fn command(opcode: u8, cdw10: u32) -> Sqe {
    let mut sqe = Sqe::new(opcode, 1);
    sqe.cdw10[0] = cdw10;
    sqe
}

fn keys(all: &[u64]) -> Vec<u8> {
    all.iter().flat_map(|k| k.to_le_bytes()).collect()
}

fn register(r: &mut Reservations, host: HostId, key: u64) -> Result<Change, Status> {
    r.register(&host, 1, &command(io::RESERVATION_REGISTER, 0), &keys(&[0, key]))
}

fn acquire(
    r: &mut Reservations,
    host: HostId,
    own: u64,
    victim: u64,
    action: u32,
    t: Type,
) -> Result<Change, Status> {
    let sqe = command(io::RESERVATION_ACQUIRE, action | (t as u32) << 8);
    r.check(&host, &sqe)?;
    r.acquire(&host, &sqe, &keys(&[own, victim]))
}

fn release(r: &mut Reservations, host: HostId, own: u64, action: u32, t: Type) -> Result<Change, Status> {
    let sqe = command(io::RESERVATION_RELEASE, action | (t as u32) << 8);
    r.check(&host, &sqe)?;
    r.release(&host, &sqe, &keys(&[own]))
}

/// A holds, B is registered, C is not.
fn held(t: Type) -> Reservations {
    let mut r = Reservations::new(false);
    register(&mut r, A, 10).expect("registered");
    register(&mut r, B, 20).expect("registered");
    acquire(&mut r, A, 10, 0, 0, t).expect("acquired");
    r
}

/// The table of the specification: may the holder, another registrant, and anybody else read and write?
#[test]
fn conflicts_are_those_of_the_specification() {
    let table = [
        // type, registrant reads, writes, other reads, writes
        (TYPES[0], [true, false, true, false]),
        (TYPES[1], [false, false, false, false]),
        (TYPES[2], [true, true, true, false]),
        (TYPES[3], [true, true, false, false]),
        (TYPES[4], [true, true, true, false]),
        (TYPES[5], [true, true, false, false]),
    ];
    for (t, [registrant_reads, registrant_writes, other_reads, other_writes]) in table {
        let r = held(t);
        let may = |host: &HostId, opcode: u8| r.check(host, &command(opcode, 0)).is_ok();
        for opcode in [io::READ, io::COMPARE] {
            assert!(may(&A, opcode));
            assert_eq!((may(&B, opcode), may(&C, opcode)), (registrant_reads, other_reads), "{t:?} {opcode}");
        }
        for opcode in [io::WRITE, io::WRITE_ZEROES, io::DATASET_MANAGEMENT, io::FLUSH] {
            assert!(may(&A, opcode));
            assert_eq!(
                (may(&B, opcode), may(&C, opcode)),
                (registrant_writes, other_writes),
                "{t:?} {opcode}"
            );
        }
        // Nobody needs to hold it to register or to ask.
        for opcode in [io::RESERVATION_REGISTER, io::RESERVATION_REPORT] {
            assert!(may(&C, opcode));
        }
    }
    assert!(Reservations::new(false).check(&C, &command(io::WRITE, 0)).is_ok());
}

#[test]
fn keys_are_registered_replaced_and_removed() {
    let mut r = Reservations::new(false);
    assert_eq!(register(&mut r, A, 0), Err(INVALID));
    assert_eq!(register(&mut r, A, 1), Ok(Change::yes()));
    assert_eq!(register(&mut r, A, 1), Ok(Change::default()), "the same again");
    assert_eq!(register(&mut r, A, 2), Err(CONFLICT));
    let mut act = |cdw10, k: &[u64]| r.register(&A, 1, &command(io::RESERVATION_REGISTER, cdw10), &keys(k));
    assert_eq!(act(2, &[9, 3]), Err(CONFLICT), "the current key is another");
    assert_eq!(act(2, &[1, 3]), Ok(Change::yes()));
    assert_eq!(act(2 | 8, &[9, 4]), Ok(Change::yes()), "whatever the current key is");
    assert_eq!(act(1, &[9]), Err(INVALID), "the new key is missing");
    assert_eq!(act(1, &[9, 0]), Err(CONFLICT));
    assert_eq!(act(3 << 30, &[0, 4]), Err(INVALID), "nothing can be stored");
    assert_eq!(act(7, &[0, 4]), Err(INVALID));
    assert_eq!(act(1, &[4, 0]), Ok(Change::yes()));
    assert!(r.registrants().is_empty());
    for i in 0..MAX_REGISTRANTS as u8 {
        register(&mut r, [i; 16], 1).expect("room");
    }
    assert_eq!(register(&mut r, [99; 16], 1), Err(Status::INTERNAL_ERROR));
}

#[test]
fn a_reservation_goes_with_its_holder_or_with_the_last_registrant() {
    for t in TYPES {
        let mut r = held(t);
        let unregister = command(io::RESERVATION_REGISTER, 1);
        let change = r.register(&A, 1, &unregister, &keys(&[10, 0])).expect("unregistered");
        let told = matches!(t, Type::WriteExclusiveRegistrantsOnly | Type::ExclusiveAccessRegistrantsOnly);
        assert_eq!(
            change.notify,
            if told { vec![(B, Notification::ReservationReleased)] } else { vec![] },
            "{t:?}"
        );
        assert_eq!(r.held().map(|h| h.holder), t.is_all_registrants().then_some(B), "{t:?}");
        r.register(&B, 1, &unregister, &keys(&[20, 0])).expect("unregistered");
        assert_eq!(r.held(), None);
    }
}

#[test]
fn release_and_clear() {
    for t in TYPES {
        let mut r = held(t);
        let other = if t == TYPES[0] { TYPES[1] } else { TYPES[0] };
        assert_eq!(release(&mut r, A, 10, 0, other), Err(INVALID), "another type");
        assert_eq!(release(&mut r, A, 11, 0, t), Err(CONFLICT), "another key");
        assert_eq!(release(&mut r, C, 10, 0, t), Err(CONFLICT), "not registered");
        if !t.is_all_registrants() {
            assert_eq!(release(&mut r, B, 20, 0, t), Ok(Change::default()), "not the holder");
            assert!(r.held().is_some());
        }
        let told =
            if t.keeps_registrants_out() { vec![] } else { vec![(B, Notification::ReservationReleased)] };
        assert_eq!(release(&mut r, A, 10, 0, t).expect("released").notify, told);
        assert_eq!((r.held(), r.registrants().len()), (None, 2));
        let change = release(&mut r, B, 20, 1, t).expect("cleared");
        assert_eq!(change.notify, [(A, Notification::ReservationPreempted)]);
        assert!(r.registrants().is_empty());
    }
}

#[test]
fn preempting_takes_over_and_tells_those_who_lost() {
    for t in &TYPES[..4] {
        let mut r = held(*t);
        register(&mut r, C, 30).expect("registered");
        assert_eq!(acquire(&mut r, B, 20, 0, 0, *t), Err(CONFLICT), "held by another");
        assert_eq!(acquire(&mut r, B, 20, 0, 1, *t), Err(CONFLICT), "no key to preempt");
        let change = acquire(&mut r, B, 20, 10, 2, TYPES[1]).expect("preempted");
        assert!(change.abort);
        let told = [(A, Notification::RegistrationPreempted), (C, Notification::ReservationReleased)];
        assert_eq!(change.notify, told);
        assert_eq!(r.held(), Some(Held { kind: TYPES[1], key: 20, holder: B }));
        // A key that is not the holder's is only unregistered.
        acquire(&mut r, B, 20, 30, 1, TYPES[1]).expect("preempted");
        assert_eq!(r.registrants().iter().map(|r| r.host).collect::<Vec<_>>(), [B]);
    }
    for t in &TYPES[4..] {
        let mut r = held(*t);
        assert_eq!(acquire(&mut r, B, 20, 99, 1, *t), Err(CONFLICT), "nobody has this key");
        acquire(&mut r, B, 20, 0, 1, TYPES[0]).expect("all others preempted");
        assert_eq!(r.held(), Some(Held { kind: TYPES[0], key: 20, holder: B }));
        assert_eq!(r.registrants().len(), 1);
    }
}

#[test]
fn the_report_shows_registrants_and_holders() {
    let mut sqe = command(io::RESERVATION_REPORT, 63);
    let r = held(TYPES[2]);
    assert_eq!(r.report(&sqe), Err(Status::HOST_ID_INCONSISTENT.dnr()));
    sqe.cdw10[1] = 1;
    let b = r.report(&sqe).expect("reported");
    assert_eq!((b.len(), b[0], b[4], b[5], b[9]), (192, 2, 3, 2, 0));
    assert_eq!((b[64], b[66], b[72], &b[80..96]), (1, 1, 10, &A[..]));
    assert_eq!((b[130], b[136], &b[144..160]), (0, 20, &B[..]));
    let all = held(TYPES[4]).report(&sqe).expect("reported");
    assert_eq!((all[66], all[130]), (1, 1), "all hold it");
}

proptest! {
    /// Whatever is sent: a holder is registered with its key, and there is one registration a host.
    #[test]
    fn state_stays_consistent(commands in vec((0usize..4, 0u8..4, any::<u32>(), 0u64..4, 0u64..4), 0..60)) {
        let mut r = Reservations::new(true);
        for (what, host, cdw10, own, other) in commands {
            // Few types and actions, so that commands meet.
            let sqe = command(0, cdw10 & 0xc000_070f);
            let (host, data) = ([host; 16], keys(&[own, other]));
            let _ = match what {
                0 => r.register(&host, 1, &sqe, &data),
                1 => r.acquire(&host, &sqe, &data),
                2 => r.release(&host, &sqe, &data),
                _ => register(&mut r, host, own),
            };
            if let Some(h) = r.held() {
                prop_assert!(r.registrants().iter().any(|x| x.host == h.holder && x.key == h.key));
            }
            let mut hosts: Vec<_> = r.registrants().iter().map(|x| x.host).collect();
            hosts.sort_unstable();
            hosts.dedup();
            prop_assert_eq!(hosts.len(), r.registrants().len());
            prop_assert!(r.registrants().len() <= MAX_REGISTRANTS);
            let again = Reservations::restore(r.registrants().to_vec(), r.held());
            prop_assert!(again.is_ok(), "what is stored can be restored");
        }
    }
}
