//! Arguments become these requests, in the modern spelling and in that of the Go VDA's tutorial.

use crate::{
    assert_shown,
    fake_portal::{Call, FakePortal},
    vdacli::vdacli,
};

async fn calls_of(line: &str) -> Vec<Call> {
    let portal = FakePortal::start().await;
    let run = vdacli(&portal.address, line).await;
    assert_eq!(run.code(), 0, "{}", run.show());
    portal.portal.calls()
}

/// Both spellings ask for the same.
const TUTORIAL: [(&str, &str); 19] = [
    (
        "dn create --sock-addr localhost:9720 --tr-type tcp --tr-addr 127.0.0.1 --adr-fam ipv4 --tr-svc-id 4420",
        "dn create localhost:9720 --listen 127.0.0.1:4420",
    ),
    (
        "pd create --sock-addr localhost:9720 --pd-name pd0 --bdev-type-key malloc --bdev-type-value 256",
        "pd create localhost:9720 pd0 --malloc 256MiB",
    ),
    (
        "cn create --sock-addr localhost:9820 --tr-type tcp --tr-addr 127.0.0.1 --adr-fam ipv4 --tr-svc-id 4430",
        "cn create localhost:9820 --listen 127.0.0.1:4430",
    ),
    (
        "da create --da-name da0 --size-mb 64 --physical-size-mb 64 --cntlr-cnt 1 --strip-cnt 1 --strip-size-kb 64",
        "da create da0 --size 64MiB --physical-size 64MiB --stripes 1 --stripe-size 64KiB --replicas 1 --cntlrs 1",
    ),
    ("da get --da-name da0", "da get da0"),
    (
        "exp create --da-name da0 --exp-name exp0a --initiator-nqn nqn.2016-06.io.spdk:host0",
        "exp create da0 exp0a --host nqn.2016-06.io.spdk:host0",
    ),
    ("exp get --da-name da0 --exp-name exp0a", "exp get da0 exp0a"),
    ("exp delete --da-name da0 --exp-name exp0a", "exp delete da0 exp0a"),
    ("da delete --da-name da0", "da delete da0"),
    ("pd delete --sock-addr localhost:9720 --pd-name pd0", "pd delete localhost:9720 pd0"),
    ("cn delete --sock-addr localhost:9820", "cn delete localhost:9820"),
    ("dn delete --sock-addr localhost:9720", "dn delete localhost:9720"),
    ("da delete -y da0", "da delete da0"),
    ("dn delete localhost:9720 --yes", "dn delete localhost:9720"),
    ("pd delete localhost:9720 pd0 -y", "pd delete localhost:9720 pd0"),
    ("cn delete localhost:9820 -y", "cn delete localhost:9820"),
    ("exp delete da0 exp0a --yes", "exp delete da0 exp0a"),
    ("pd list --sock-addr localhost:9720", "pd list localhost:9720"),
    ("exp list --da-name da0", "exp list da0"),
];

#[tokio::test]
async fn the_tutorial_and_the_modern_spelling_ask_for_the_same() {
    for (tutorial, modern) in TUTORIAL {
        assert_eq!(calls_of(tutorial).await, calls_of(modern).await, "{tutorial}");
    }
}

#[tokio::test]
async fn requests_of_all_mutating_commands() {
    let lines = [
        "dn create [::1]:9720 --listen [::1]:4420 --location rack1 --offline --no-wait",
        "dn modify 127.0.0.1:9720 --offline --location rack2 --revision 7",
        "dn modify 127.0.0.1:9720 --online --wait",
        "dn delete 127.0.0.1:9720 --force --revision 7",
        "pd create 127.0.0.1:9720 pd0 --nvme 0000:5e:00.0 --rw-iops 1000 --no-wait",
        "pd create 127.0.0.1:9720 pd0 --aio /dev/sdb --no-wait",
        "pd create 127.0.0.1:9720 pd0 --uring /dev/sdb --no-wait",
        "pd create --sock-addr localhost:9720 --pd-name pd0 --bdev-type-key aio --bdev-type-value /dev/sdb --no-wait",
        "pd modify 127.0.0.1:9720 pd0 --rw-mibps 5",
        "pd modify 127.0.0.1:9720 pd0 --online",
        "pd delete 127.0.0.1:9720 pd0 --force",
        "cn create 127.0.0.1:9820 --listen 127.0.0.1:4430 --max-cntlrs 7 --no-wait",
        "cn modify 127.0.0.1:9820 --max-cntlrs 8",
        "da create da0 --size 1GiB --physical-size 2GiB --stripes 4 --stripe-size 128KiB --replicas 3 --cntlrs 2 --w-mibps 9 --no-wait",
        "da create --da-name da0 --size-mb 64 --physical-size-mb 128 --no-wait",
        "da modify da0 --rw-iops 500",
        "da delete da0 --revision 3",
        "exp create da0 exp0a --host nqn.a --host nqn.b --no-wait",
        "exp modify da0 exp0a --add-host nqn.c --remove-host nqn.a",
    ];
    let mut shown = String::new();
    for line in lines {
        shown += &format!("$ vdacli {line}\n");
        for call in calls_of(line).await {
            shown += &format!("  {}: {}\n", call.method, call.request);
        }
    }
    assert_shown!("requests", shown);
}

#[tokio::test]
async fn a_request_id_of_the_user_is_sent_as_it_is() {
    let portal = FakePortal::start().await;
    portal.portal.refuse(tonic::Status::unavailable("etcd is down"));
    let run = vdacli(&portal.address, "da create da0 --size 64MiB --request-id nightly-17").await;
    assert_eq!(run.code(), 5);
    assert!(run.stderr.contains("--request-id nightly-17 is safe"), "{}", run.show());
}
