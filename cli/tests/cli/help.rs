//! Help texts, usage errors and completions.

use clap::CommandFactory as _;

use crate::{assert_shown, vdacli::vdacli};

/// Nobody listens there: what is tested here must not need a portal.
const NOWHERE: &str = "127.0.0.1:1";

fn commands(command: &clap::Command, path: &str, all: &mut Vec<String>) {
    all.push(path.to_owned());
    for sub in command.get_subcommands().filter(|sub| sub.get_name() != "help") {
        commands(sub, format!("{path} {}", sub.get_name()).trim(), all);
    }
}

#[tokio::test]
async fn every_help_text() {
    let mut all = Vec::new();
    commands(&vda_cli::Cli::command(), "", &mut all);
    assert!(all.len() >= 36, "{all:?}");
    for path in all {
        let run = vdacli(NOWHERE, format!("{path} --help").trim()).await;
        assert_eq!(run.code(), 0, "{path}");
        let name = format!("help {path}");
        assert_shown!(name.trim().replace(' ', "_"), run.show());
    }
}

#[tokio::test]
async fn usage_errors_name_the_argument_and_end_with_2() {
    let lines = [
        "",
        "da",
        "da frobnicate",
        "da create",
        "da create da0",
        "da create da0 --size ten",
        "da create da0 --size 10GiB --size-mb 10",
        "da create da0 --size 10GiB --stripe-size 1000",
        "da create da0 --size 10GiB --stripes 0",
        "da create da0 --size 10GiB --replicas 0",
        "da create da0 --size 10GiB --wait --no-wait",
        "da modify da0",
        "dn create 127.0.0.1:9720",
        "dn create 127.0.0.1:9720 --listen localhost",
        "dn create 127.0.0.1:9720 --listen 0.0.0.0:4420",
        "dn modify 127.0.0.1:9720",
        "dn modify 127.0.0.1:9720 --offline --online",
        "pd create 127.0.0.1:9720 pd0",
        "pd create 127.0.0.1:9720 pd0 --aio /a --malloc 1GiB",
        "pd create 127.0.0.1:9720",
        "pd create --sock-addr localhost:9720 --pd-name pd0 --bdev-type-key floppy --bdev-type-value 256",
        "pd create --sock-addr localhost:9720 --pd-name pd0 --bdev-type-key malloc --bdev-type-value lots",
        "exp create da0 exp0",
        "exp modify da0 exp0",
        "cluster summary -o xml",
        "--portal nowhere cluster summary",
        "--timeout soon cluster summary",
    ];
    let portal = crate::fake_portal::FakePortal::start().await;
    let mut shown = String::new();
    for line in lines {
        let run = vdacli(&portal.address, line).await;
        assert_eq!(run.code(), 2, "{line}: {}", run.show());
        assert_eq!(run.stdout, "", "{line}");
        shown += &format!("{}\n", run.show());
    }
    assert_eq!(portal.portal.calls(), [], "the portal is not bothered with any of them");
    assert_shown!("usage_errors", shown);
}

#[tokio::test]
async fn completions_for_every_shell() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let run = vdacli(NOWHERE, &format!("completions {shell}")).await;
        assert_eq!(run.code(), 0);
        assert!(run.stdout.contains("vdacli") && run.stdout.contains("syncup"), "{shell}: {}", run.stdout);
    }
}
