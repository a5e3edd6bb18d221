//! Abort (NVM Express Base 2.0, 5.1).

use vda_nvme::cmd::{Sqe, admin, io};
use vda_nvme::status::Status;

use crate::fixture::{BLOCK, Fixture, run};
use crate::raw::{RawHost, RawQueue};

/// Dword 0 of an Abort: the command was aborted, or not.
const ABORTED: u64 = 0;
const NOT_ABORTED: u64 = 1;
const NONE: u16 = 0x7777;

async fn abort(admin_queue: &mut RawQueue, sqid: u16, cid: u16) -> u64 {
    let mut sqe = Sqe::new(admin::ABORT, 0);
    sqe.cdw10[0] = u32::from(sqid) | u32::from(cid) << 16;
    let done = admin_queue.command(sqe, vec![], 0).await;
    assert_eq!(done.cqe.status, Status::SUCCESS);
    done.cqe.result
}

fn write(lba: u64, blocks: u32) -> Sqe {
    let mut sqe = Sqe::new(io::WRITE, 1);
    sqe.set_range(lba, blocks);
    sqe
}

async fn first_byte(q: &mut RawQueue, lba: u64) -> u8 {
    let mut sqe = Sqe::new(io::READ, 1);
    sqe.set_range(lba, 1);
    q.command(sqe, vec![], BLOCK).await.buffer[0]
}

#[test]
fn a_write_that_a_limit_holds_back_never_happens() {
    run(async {
        let f = Fixture::new();
        let mut host = RawHost::connect(&f.who()).await;
        f.limit(1);
        // Each of these takes an eighth of a second.
        let slow = [0, 256].map(|lba| write(lba, 256));
        let before = [
            host.io.submit(slow[0], vec![1; 256 * BLOCK], 0).await,
            host.io.submit(slow[1], vec![1; 256 * BLOCK], 0).await,
        ];
        assert_eq!(host.io.wait(before[0]).await.cqe.status, Status::SUCCESS);
        let victim = host.io.submit(write(1000, 1), vec![9; BLOCK], 0).await;
        let kept = host.io.submit(write(1001, 1), vec![8; BLOCK], 0).await;
        // Commands of a queue are taken in order, and a flush is not limited: when it is back, the others wait.
        assert_eq!(host.io.status(Sqe::new(io::FLUSH, 1), vec![], 0).await, Status::SUCCESS);
        let cid = host.io.cid_of(victim);
        assert_eq!(abort(&mut host.admin, 1, cid).await, ABORTED);
        assert!(host.io.wait(victim).await.cqe.status.same(Status::ABORTED_BY_REQUEST));
        assert_eq!(abort(&mut host.admin, 1, cid).await, NOT_ABORTED, "it is gone");
        for token in [before[1], kept] {
            assert_eq!(host.io.wait(token).await.cqe.status, Status::SUCCESS, "others go on");
        }
        f.limit(0);
        assert_eq!((first_byte(&mut host.io, 1000).await, first_byte(&mut host.io, 1001).await), (0, 8));
    });
}

#[test]
fn what_was_aborted_is_given_back_to_the_limit() {
    run(async {
        let f = Fixture::new();
        let mut host = RawHost::connect(&f.who()).await;
        f.limit(1);
        // 128 KiB take an eighth of a second: twenty of them are aborted, two and a half seconds' worth.
        let mut waiting = Vec::new();
        for i in 0..21 {
            waiting.push(host.io.submit(write(i % 16 * 256, 256), vec![1; 256 * BLOCK], 0).await);
        }
        assert_eq!(host.io.wait(waiting[0]).await.cqe.status, Status::SUCCESS);
        for token in &waiting[1..] {
            let cid = host.io.cid_of(*token);
            abort(&mut host.admin, 1, cid).await;
            host.io.wait(*token).await;
        }
        let begun = std::time::Instant::now();
        assert_eq!(host.io.status(write(0, 1), vec![2; BLOCK], 0).await, Status::SUCCESS);
        assert!(
            begun.elapsed().as_millis() < 1500,
            "waited {:?} for writes that never happened",
            begun.elapsed()
        );
    });
}

#[test]
fn an_event_request_is_aborted_and_leaves_room_for_another() {
    run(async {
        let f = Fixture::new();
        let mut q = RawHost::admin(&f.who()).await;
        let request = Sqe::new(admin::ASYNC_EVENT_REQUEST, 0);
        let mut waiting = Vec::new();
        for _ in 0..4 {
            waiting.push(q.submit(request, vec![], 0).await);
        }
        assert!(q.status(request, vec![], 0).await.same(Status::AER_LIMIT_EXCEEDED));
        let cid = q.cid_of(waiting[1]);
        assert_eq!(abort(&mut q, 0, cid).await, ABORTED);
        assert!(q.wait(waiting[1]).await.cqe.status.same(Status::ABORTED_BY_REQUEST));
        q.submit(request, vec![], 0).await;
        // Unknown commands and queues.
        assert_eq!(abort(&mut q, 0, NONE).await, NOT_ABORTED);
        assert_eq!(abort(&mut q, 1, 0).await, NOT_ABORTED);
    });
}

#[test]
fn what_waits_for_its_turn_ends_with_its_connection() {
    run(async {
        let f = Fixture::new();
        let mut host = RawHost::connect(&f.who()).await;
        f.limit(1);
        // Ten seconds' worth of writes, none of which anybody waits for any more.
        for i in 0..20 {
            host.io.submit(write(i % 16 * 256, 256), vec![1; 256 * BLOCK], 0).await;
        }
        let begun = std::time::Instant::now();
        f.target.delete_subsystem(crate::fixture::NQN).await.expect("deleted");
        assert!(begun.elapsed().as_secs() < 2, "waited {:?} for writes that had not begun", begun.elapsed());
    });
}
