//! Every code a portal can answer with: what is shown, and the exit code.

use std::{collections::HashMap, time::Duration};

use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt as _};

use crate::{assert_shown, fake_portal::FakePortal, vdacli::vdacli};

fn refusal(code: Code, message: &str, reason: &str, more: impl FnOnce(&mut ErrorDetails)) -> Status {
    let mut details = ErrorDetails::new();
    details.set_error_info(reason, "vda", HashMap::from([("revision".into(), "17".into())]));
    more(&mut details);
    Status::with_error_details(code, message, details)
}

/// As a portal with 27 disks says it.
fn no_place() -> Status {
    let mut details = ErrorDetails::new();
    let metadata = [("wanted", "1 x 3 virtual disks of 10GiB"), ("candidates", "27")];
    let metadata = metadata.map(|(key, value)| (key.to_owned(), value.to_owned()));
    details.set_error_info("NO_PLACE", "vda.v1", HashMap::from(metadata));
    for (disk, why) in
        [("pd0", "free 220MiB < needed 10GiB"), ("pd1", "location rack1 already holds a replica")]
    {
        details.add_precondition_failure_violation("PLACEMENT", format!("PD 127.0.0.1:9720/{disk}"), why);
    }
    details.set_retry_info(Some(Duration::from_secs(1)));
    let message = "no place for 1 x 3 virtual disks of 10GiB: PD 127.0.0.1:9720/pd0: free 220MiB < needed 10GiB; and so on";
    Status::with_error_details(Code::ResourceExhausted, message, details)
}

fn refusals() -> Vec<(&'static str, i32, Status)> {
    vec![
        (
            "da create da0 --size 5000",
            2,
            refusal(Code::InvalidArgument, "2 fields are not acceptable", "BAD_FIELD", |details| {
                details.add_bad_request_violation("size_bytes", "5000: must be a multiple of 4194304 (4MiB)");
                details.add_bad_request_violation("replicas", "0: must be between 1 and 8");
            }),
        ),
        (
            "da get da0",
            3,
            refusal(Code::NotFound, "no disk array is called \"da0\"", "DA_NOT_FOUND", |details| {
                details.set_resource_info("da", "da0", "", "");
            }),
        ),
        (
            "pd create 127.0.0.1:9720 pd0 --aio /a",
            4,
            refusal(Code::AlreadyExists, "the node has a physical disk \"pd0\"", "PD_EXISTS", |_| ()),
        ),
        (
            "dn delete 127.0.0.1:9720 --revision 16",
            4,
            refusal(Code::Aborted, "is at revision 17, not 16", "REVISION_MISMATCH", |_| ()),
        ),
        (
            "dn delete 127.0.0.1:9720",
            4,
            refusal(Code::FailedPrecondition, "still has 2 physical disks", "IN_USE", |details| {
                details.add_precondition_failure_violation(
                    "IN_USE",
                    "pd 127.0.0.1:9720/pd0",
                    "carries 1 virtual disk",
                );
                details.add_precondition_failure_violation(
                    "IN_USE",
                    "pd 127.0.0.1:9720/pd1",
                    "is on the node",
                );
            }),
        ),
        (
            "da create da0 --size 10GiB --replicas 2",
            4,
            refusal(
                Code::ResourceExhausted,
                "no room for 1 x 2 virtual disks of 10GiB",
                "NO_CANDIDATE",
                |details| {
                    details.add_precondition_failure_violation(
                        "FREE_SPACE",
                        "pd 127.0.0.1:9720/pd0",
                        "180MiB free, 10GiB needed",
                    );
                    details.add_precondition_failure_violation("OFFLINE", "dn 127.0.0.1:9721", "is offline");
                },
            ),
        ),
        ("da create da0 --size 10GiB --replicas 3", 4, no_place()),
        (
            "cn delete 127.0.0.1:9820",
            4,
            refusal(
                Code::FailedPrecondition,
                "CN 127.0.0.1:9820 is in use by DA da0, DA da10 and 2 more",
                "IN_USE",
                |details| {
                    for da in ["DA da0", "DA da10", "DA da1", "DA da2"] {
                        details.add_precondition_failure_violation("IN_USE", da, "uses it");
                    }
                    details.set_resource_info("CN", "127.0.0.1:9820", "", "");
                },
            ),
        ),
        (
            "da delete da0",
            5,
            refusal(Code::Unavailable, "etcd does not answer", "STORE_UNAVAILABLE", |details| {
                details.set_retry_info(Some(Duration::from_secs(1)));
            }),
        ),
        (
            "da create da0 --size 1GiB --cntlrs 2",
            1,
            Status::unimplemented("2 controllers are not served yet"),
        ),
        ("da list", 1, Status::internal("record da/da0: schema version 9 is newer than 1")),
        ("cluster summary", 5, Status::deadline_exceeded("etcd did not answer in 5s")),
    ]
}

#[tokio::test]
async fn refusals_are_explained_and_have_stable_exit_codes() {
    let portal = FakePortal::start().await;
    let mut shown = String::new();
    for (line, code, status) in refusals() {
        portal.portal.refuse(status);
        let run = vdacli(&portal.address, line).await;
        assert_eq!((run.code(), run.stdout.as_str()), (code, ""), "{}", run.show());
        shown += &format!("{}\n", run.show());
    }
    assert_shown!("refusals", shown);
}

#[tokio::test]
async fn verbose_shows_the_metadata_of_an_error() {
    let portal = FakePortal::start().await;
    portal.portal.refuse(refusal(Code::Aborted, "is at revision 17, not 16", "REVISION_MISMATCH", |_| ()));
    let run = vdacli(&portal.address, "dn delete 127.0.0.1:9720 --revision 16 -v").await;
    assert!(run.stderr.contains("\n  revision: 17\n"), "{}", run.show());
}

#[tokio::test]
async fn a_portal_that_is_not_there_is_told_with_its_address() {
    let closed = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = closed.local_addr().expect("bound").to_string();
    drop(closed);
    let run = vdacli(&address, "da list").await;
    assert_eq!(run.code(), 5);
    assert_shown!("no_portal", run.show());
}

/// Accepts connections and never says a word: the deadline of the call, not of the connection, ends it.
#[tokio::test]
async fn a_portal_that_does_not_answer_runs_into_the_timeout() {
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = silent.local_addr().expect("bound").to_string();
    let run = vdacli(&address, "da list --timeout 200ms").await;
    assert_eq!(run.code(), 5);
    assert_shown!("silent_portal", run.show());
}
