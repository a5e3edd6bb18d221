//! Reservations, by two hosts of one namespace.

use std::path::Path;

use vda_dataplane::nvmf::NamespaceRequest;
use vda_nvme::cmd::{Sqe, admin, feature, io};
use vda_nvme::log::lid;
use vda_nvme::reservation::Type;
use vda_nvme::status::Status;

use crate::fixture::{BLOCK, Fixture, NQN, run};
use crate::raw::{RawHost, RawQueue, Who};

const KEY_A: u64 = 0xaaaa;
const KEY_B: u64 = 0xbbbb;
const PREEMPT_AND_ABORT: u32 = 2;
/// CPTPL of Reservation Register: persist through power loss.
const PERSIST: u32 = 3 << 30;

pub(crate) fn keys(first: u64, second: u64) -> Vec<u8> {
    [first.to_le_bytes(), second.to_le_bytes()].concat()
}

pub(crate) fn command(opcode: u8, cdw10: u32) -> Sqe {
    let mut sqe = Sqe::new(opcode, 1);
    sqe.cdw10[0] = cdw10;
    sqe
}

fn of_type(action: u32, kind: Type) -> u32 {
    action | (kind as u32) << 8
}

async fn two(f: &Fixture) -> (RawHost, RawHost) {
    let a = RawHost::connect(&f.who()).await;
    let b = RawHost::connect(&Who { hostid: [8; 16], ..f.who() }).await;
    (a, b)
}

/// Two hosts that are registered, of which the first holds the reservation: others only read.
async fn holder_and_registrant(f: &Fixture) -> (RawHost, RawHost) {
    let (mut a, mut b) = two(f).await;
    register(&mut a.io, KEY_A, 0).await;
    register(&mut b.io, KEY_B, 0).await;
    assert_eq!(acquire(&mut a.io, 0, Type::WriteExclusive, KEY_A, 0).await, Status::SUCCESS);
    (a, b)
}

async fn register(q: &mut RawQueue, key: u64, flags: u32) {
    let status = q.status(command(io::RESERVATION_REGISTER, flags), keys(0, key), 0).await;
    assert_eq!(status, Status::SUCCESS);
}

async fn acquire(q: &mut RawQueue, action: u32, kind: Type, own: u64, victim: u64) -> Status {
    q.status(command(io::RESERVATION_ACQUIRE, of_type(action, kind)), keys(own, victim), 0).await
}

async fn write(q: &mut RawQueue) -> Status {
    let mut sqe = Sqe::new(io::WRITE, 1);
    sqe.set_range(0, 1);
    q.status(sqe, vec![1; BLOCK], 0).await
}

async fn read(q: &mut RawQueue) -> Status {
    let mut sqe = Sqe::new(io::READ, 1);
    sqe.set_range(0, 1);
    q.status(sqe, vec![], BLOCK).await
}

/// Registered keys and type, as the report shows them.
async fn report(q: &mut RawQueue) -> (u8, Vec<u64>) {
    let mut sqe = command(io::RESERVATION_REPORT, 1023);
    sqe.cdw10[1] = 1;
    let done = q.command(sqe, vec![], 4096).await;
    assert_eq!(done.cqe.status, Status::SUCCESS);
    let b = &done.buffer;
    let key = |i: usize| u64::from_le_bytes(b[64 * (i + 1) + 8..][..8].try_into().expect("8 bytes"));
    (b[4], (0..usize::from(b[5])).map(key).collect())
}

#[test]
fn the_commands_of_others_conflict_and_preemption_is_told() {
    run(async {
        let f = Fixture::new();
        let (mut a, mut b) = holder_and_registrant(&f).await;
        assert_eq!(report(&mut b.io).await, (1, vec![KEY_A, KEY_B]));
        assert_eq!(write(&mut a.io).await, Status::SUCCESS);
        assert!(write(&mut b.io).await.same(Status::RESERVATION_CONFLICT));
        assert_eq!(read(&mut b.io).await, Status::SUCCESS);
        assert!(
            acquire(&mut b.io, 0, Type::WriteExclusive, KEY_B, 0).await.same(Status::RESERVATION_CONFLICT)
        );

        let event = a.admin.submit(Sqe::new(admin::ASYNC_EVENT_REQUEST, 0), vec![], 0).await;
        let preempted = acquire(&mut b.io, PREEMPT_AND_ABORT, Type::ExclusiveAccess, KEY_B, KEY_A).await;
        assert_eq!(preempted, Status::SUCCESS);
        assert!(write(&mut a.io).await.same(Status::RESERVATION_CONFLICT));
        assert!(read(&mut a.io).await.same(Status::RESERVATION_CONFLICT));
        assert_eq!(write(&mut b.io).await, Status::SUCCESS);
        // I/O command specific event, reservation log page available.
        assert_eq!(a.admin.wait(event).await.cqe.result, 6 | u64::from(lid::RESERVATION) << 16);
        let mut log = Sqe::new(admin::GET_LOG_PAGE, 0);
        log.cdw10[0] = u32::from(lid::RESERVATION) | 15 << 16;
        let page = a.admin.command(log, vec![], 64).await.buffer;
        assert_eq!(
            (page[0], page[8], page[9], page[12]),
            (1, 1, 0, 1),
            "registration preempted, namespace 1"
        );
        assert!(a.admin.command(log, vec![], 64).await.buffer.iter().all(|b| *b == 0), "read once");

        let release = command(io::RESERVATION_RELEASE, of_type(0, Type::ExclusiveAccess));
        assert_eq!(b.io.status(release, KEY_B.to_le_bytes().to_vec(), 0).await, Status::SUCCESS);
        assert_eq!(write(&mut a.io).await, Status::SUCCESS);
        assert_eq!(report(&mut a.io).await, (0, vec![KEY_B]));
    });
}

#[test]
fn preempt_and_abort_ends_after_what_the_other_host_had_begun() {
    run(async {
        let f = Fixture::new();
        let (mut a, mut b) = holder_and_registrant(&f).await;
        f.limit(1);
        // 4 KiB take 4 ms each; a flush that is answered shows that they were taken.
        for i in 0..30 {
            let mut sqe = Sqe::new(io::WRITE, 1);
            sqe.set_range(i * 8, 8);
            a.io.stage(sqe, vec![3; 8 * BLOCK], 0);
        }
        assert_eq!(a.io.status(Sqe::new(io::FLUSH, 1), vec![], 0).await, Status::SUCCESS);
        let before = f.completed();
        let action = acquire(&mut b.io, PREEMPT_AND_ABORT, Type::WriteExclusive, KEY_B, KEY_A).await;
        assert_eq!(action, Status::SUCCESS);
        let after = f.completed();
        assert!(before < 20, "the limit held them back: {before}");
        // The writes, two registrations, an acquire and a flush before; the acquire that preempts is answered last.
        assert!(after >= 34, "{after} commands had ended");
        f.limit(0);
        assert!(write(&mut a.io).await.same(Status::RESERVATION_CONFLICT));
    });
}

fn add_with(f: &Fixture, file: &Path) -> Result<u32, vda_dataplane::nvmf::TargetError> {
    let ptpl_file = Some(file.to_owned());
    f.target.add_ns(NQN, &NamespaceRequest { bdev_name: "m0".into(), ptpl_file, ..Default::default() })
}

#[test]
fn reservations_persist_where_that_was_asked_for() {
    run(async {
        let dir = tempfile::tempdir().expect("a directory");
        let file = dir.path().join("ptpl.json");
        let f = Fixture::new();
        f.target.remove_ns(NQN, 1).await.expect("removed");
        add_with(&f, &file).expect("added");
        let (mut a, mut b) = two(&f).await;
        register(&mut b.io, KEY_B, 0).await;
        assert!(!std::fs::read(&file).is_ok_and(|text| !text.is_empty()), "nobody asked for it yet");
        register(&mut a.io, KEY_A, PERSIST).await;
        assert_eq!(acquire(&mut a.io, 0, Type::WriteExclusive, KEY_A, 0).await, Status::SUCCESS);
        let mut persistence = Sqe::new(admin::GET_FEATURES, 1);
        persistence.cdw10[0] = feature::RESERVATION_PERSISTENCE.into();
        assert_eq!(a.admin.command(persistence, vec![], 0).await.cqe.result, 1);

        f.target.remove_ns(NQN, 1).await.expect("removed");
        add_with(&f, &file).expect("added");
        assert_eq!(report(&mut b.io).await, (1, vec![KEY_B, KEY_A]));
        assert!(write(&mut b.io).await.same(Status::RESERVATION_CONFLICT));
        assert_eq!(write(&mut a.io).await, Status::SUCCESS);

        // Of another bdev, or not one of these files: refused, never ignored.
        f.target.remove_ns(NQN, 1).await.expect("removed");
        let text = std::fs::read_to_string(&file).expect("read");
        let uuid = text.split('"').skip_while(|w| *w != "bdev_uuid").nth(2).expect("in the file").to_owned();
        for bad in [text.replace(&uuid, "11111111-1111-1111-1111-111111111111"), "{".into()] {
            std::fs::write(&file, bad).expect("written");
            assert!(add_with(&f, &file).is_err());
        }
        std::fs::write(&file, text).expect("written");
        add_with(&f, &file).expect("a refusal leaves the bdev free");

        // SPDK empties the file when nothing is to persist.
        f.target.remove_ns(NQN, 1).await.expect("removed");
        std::fs::write(&file, "").expect("written");
        add_with(&f, &file).expect("nothing is held");
        assert_eq!(report(&mut a.io).await, (0, vec![]));
    });
}
