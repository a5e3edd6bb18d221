//! What is printed, in every format.

use std::process::Stdio;

use tokio::io::{AsyncBufReadExt as _, BufReader};

use crate::{
    assert_shown,
    fake_portal::FakePortal,
    vdacli::{command, vdacli},
};

const GETS: [(&str, &str); 6] = [
    ("dn", "dn get 127.0.0.1:9720"),
    ("pd", "pd get 127.0.0.1:9720 pd0"),
    ("cn", "cn get 127.0.0.1:9820"),
    ("da", "da get da0"),
    ("exp", "exp get da0 exp0a"),
    ("cluster", "cluster summary"),
];

#[tokio::test]
async fn every_object_in_every_format() {
    let portal = FakePortal::start().await;
    for (noun, line) in GETS {
        for format in ["table", "wide", "json", "yaml"] {
            let run = vdacli(&portal.address, &format!("{line} -o {format}")).await;
            assert_eq!((run.code(), run.stderr.as_str()), (0, ""), "{line}");
            assert_shown!(format!("get_{noun}_{format}"), run.show());
        }
    }
}

#[tokio::test]
async fn lists_have_a_header_even_when_empty() {
    let portal = FakePortal::start().await;
    let mut shown = String::new();
    for noun in ["dn", "pd", "cn", "da", "exp"] {
        shown += &vdacli(&portal.address, &format!("{noun} list")).await.show();
    }
    portal.portal.empty();
    for noun in ["dn", "pd", "cn", "da", "exp"] {
        for format in ["table", "wide", "json", "yaml"] {
            shown += &vdacli(&portal.address, &format!("{noun} list -o {format}")).await.show();
        }
    }
    shown += &vdacli(&portal.address, "cluster summary").await.show();
    assert_shown!("lists", shown);
}

#[tokio::test]
async fn json_has_the_numbers_of_the_message_and_every_field() {
    let portal = FakePortal::start().await;
    let run = vdacli(&portal.address, "da get da0 -o json").await;
    let json: serde_json::Value = serde_json::from_str(&run.stdout).expect("JSON");
    assert_eq!(json["spec"]["size_bytes"], 64 << 20);
    assert_eq!(json["status"]["condition"], "CONDITION_DEGRADED");
    assert_eq!(json["status"]["on"], "", "fields at their default are there too");
    let yaml = vdacli(&portal.address, "da get da0 -o yaml").await.stdout;
    let yaml: serde_json::Value = serde_norway::from_str(&yaml).expect("YAML");
    assert_eq!(yaml, json);
}

#[tokio::test]
async fn a_list_is_all_pages() {
    let portal = FakePortal::start().await;
    portal.portal.many(3);
    let run = vdacli(&portal.address, "da list").await;
    assert_eq!(run.stdout.lines().count(), 4, "{}", run.show());
    assert_eq!(portal.portal.calls().len(), 3);
}

#[tokio::test]
async fn what_mutating_commands_print() {
    let portal = FakePortal::start().await;
    let lines = [
        "dn create 127.0.0.1:9720 --listen 127.0.0.1:4420 --location rack1",
        "dn delete 127.0.0.1:9720",
        "dn syncup 127.0.0.1:9720",
        "cn syncup 127.0.0.1:9820",
        "pd create 127.0.0.1:9720 pd0 --aio /var/lib/vda/pd0.img --no-wait",
        "exp create da0 exp0a --host nqn.2016-06.io.spdk:host0 -o json",
        "exp delete da0 exp0a -o yaml",
        "da delete da0 --no-wait",
    ];
    let mut shown = String::new();
    for line in lines {
        let run = vdacli(&portal.address, line).await;
        assert_eq!(run.code(), 0, "{}", run.show());
        shown += &format!("{}\n", run.show());
    }
    assert_shown!("mutations", shown);
}

/// `vdacli da list | head -1`: the reader goes away in the middle of more than a pipe holds.
#[tokio::test]
async fn a_closed_pipe_is_no_error() {
    let portal = FakePortal::start().await;
    portal.portal.many(100);
    let mut child = command(&portal.address, &["da", "list", "-o", "json"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("vdacli runs");
    let mut reader = BufReader::new(child.stdout.take().expect("piped"));
    let mut line = String::new();
    reader.read_line(&mut line).await.expect("first line");
    drop(reader);
    let output = child.wait_with_output().await.expect("ends");
    assert_eq!(line, "{\n");
    assert_eq!((output.status.code(), String::from_utf8_lossy(&output.stderr).as_ref()), (Some(0), ""));
}

#[tokio::test]
async fn every_call_carries_the_request_id_that_verbose_shows() {
    let portal = FakePortal::start().await;
    let run = vdacli(&portal.address, "da create da0 --size 64MiB -v").await;
    let id =
        run.stderr.lines().next().and_then(|line| line.rsplit(' ').next()).expect("first line").to_owned();
    assert_eq!(portal.portal.request_ids(), [id.clone(), id.clone(), id]);
}
