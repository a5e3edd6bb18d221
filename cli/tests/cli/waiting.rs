//! `--wait`, `--no-wait` and what happens without them.

use tonic::Status;
use vda_proto::v1::{Condition, WatchReply};

use crate::{
    assert_shown,
    fake_portal::FakePortal,
    fixtures::{blocked, met, status},
    vdacli::vdacli,
};

fn seen(status: vda_proto::v1::ResourceStatus) -> Result<WatchReply, Status> {
    Ok(WatchReply { status: Some(status), parts: vec![], met: false })
}

#[tokio::test]
async fn progress_is_shown_on_stderr_once_per_change() {
    let portal = FakePortal::start().await;
    portal.portal.watch_says(vec![
        seen(status(Condition::Pending)),
        seen(status(Condition::Pending)),
        seen(blocked("DN 127.0.0.1:9720: agent unreachable")),
        Ok(met()),
    ]);
    let run = vdacli(&portal.address, "da create da0 --size 64MiB").await;
    assert_eq!(run.code(), 0);
    assert_shown!("wait_progress", run.show());
}

#[tokio::test]
async fn wait_that_is_not_met_in_time_ends_with_6() {
    let portal = FakePortal::start().await;
    portal.portal.watch_says(vec![seen(blocked("DN 127.0.0.1:9720: agent unreachable"))]);
    portal.portal.watch_stays();
    let run = vdacli(&portal.address, "da create da0 --size 64MiB --wait=200ms").await;
    assert_eq!(run.code(), 6);
    assert_shown!("wait_timed_out", run.show());
}

#[tokio::test]
async fn without_wait_not_being_ready_is_only_a_remark() {
    let portal = FakePortal::start().await;
    portal.portal.watch_says(vec![Err(Status::internal("watch broke"))]);
    let run = vdacli(&portal.address, "da create da0 --size 64MiB").await;
    assert_eq!(run.code(), 0);
    assert_shown!("wait_remark", run.show());
    let run = vdacli(&portal.address, "da create da0 --size 64MiB --wait").await;
    assert_eq!(run.code(), 1);
}

#[tokio::test]
async fn a_deletion_is_followed_by_its_id_until_gone() {
    let portal = FakePortal::start().await;
    portal.portal.watch_says(vec![seen(status(Condition::Deleting)), Ok(met())]);
    let run = vdacli(&portal.address, "da delete da0 --wait=5s").await;
    assert_shown!("wait_gone", run.show());
    let calls: Vec<_> = portal.portal.calls().into_iter().map(|call| call.request).collect();
    assert_shown!("wait_gone_requests", calls.join("\n"));
}

#[tokio::test]
async fn a_watch_that_breaks_off_is_taken_up_again() {
    let portal = FakePortal::start().await;
    portal
        .portal
        .watch_says(vec![seen(status(Condition::Pending)), Err(Status::unavailable("portal is stopping"))]);
    let later = portal.portal.clone();
    let back = tokio::spawn(async move {
        while later.calls().iter().filter(|call| call.method == "watch").count() < 2 {
            tokio::task::yield_now().await;
        }
        later.watch_says(vec![Ok(met())]);
    });
    let run = vdacli(&portal.address, "da create da0 --size 64MiB --wait=30s").await;
    assert_eq!(run.code(), 0, "{}", run.show());
    back.await.expect("it came back");
}

#[tokio::test]
async fn no_wait_does_not_watch() {
    let portal = FakePortal::start().await;
    vdacli(&portal.address, "da create da0 --size 64MiB --no-wait").await;
    let methods: Vec<_> = portal.portal.calls().into_iter().map(|call| call.method).collect();
    assert_eq!(methods, ["create_da"]);
}
