//! The tutorial of the Go VDA, word for word, typed as fast as a machine can.

use vda_integration::Cluster;

use crate::CLEAN_UP;

/// As printed there, with `vdacli` for its client. A person replaces nothing but addresses when they are taken: here ports are chosen
/// by the test.
const TUTORIAL: &str = "\
dn create --sock-addr localhost:9720 --tr-type tcp --tr-addr 127.0.0.1 --adr-fam ipv4 --tr-svc-id 4420
pd create --sock-addr localhost:9720 --pd-name pd0 --bdev-type-key malloc --bdev-type-value 256
cn create --sock-addr localhost:9820 --tr-type tcp --tr-addr 127.0.0.1 --adr-fam ipv4 --tr-svc-id 4430
da create --da-name da0 --size-mb 64 --physical-size-mb 64 --cntlr-cnt 1 --strip-cnt 1 --strip-size-kb 64
da get --da-name da0
exp create --da-name da0 --exp-name exp0a --initiator-nqn nqn.2016-06.io.spdk:host0
exp get --da-name da0 --exp-name exp0a
exp delete --da-name da0 --exp-name exp0a
da delete --da-name da0
pd delete --sock-addr localhost:9720 --pd-name pd0
cn delete --sock-addr localhost:9820
dn delete --sock-addr localhost:9720";

fn port(address: &str) -> &str {
    address.rsplit_once(':').expect("HOST:PORT").1
}

#[tokio::test]
async fn the_tutorial_works_word_for_word() -> anyhow::Result<()> {
    let cluster = Cluster::builder().dns(1).pds(0, 0).cns(1).start().await?;
    let ports = [
        ("9720", cluster.dn(0)),
        ("4420", cluster.dn_listener(0)),
        ("9820", cluster.cn(0)),
        ("4430", cluster.cn_listener(0)),
    ];
    let mut shown = String::new();
    for line in TUTORIAL.lines() {
        let words: Vec<String> = line
            .split(' ')
            .map(|word| {
                ports.iter().fold(word.to_owned(), |word, (from, to)| match word.strip_suffix(from) {
                    Some(before) if before.is_empty() || before.ends_with(':') => {
                        format!("{before}{}", port(to))
                    }
                    _ => word,
                })
            })
            .collect();
        shown = shown + &cluster.vdacli_ok(&words.join(" ")).await? + "\n";
    }
    assert!(shown.contains("Ready"), "{shown}");
    assert!(shown.contains("nvme connect -t tcp -a 127.0.0.1 -s"), "{shown}");
    let connect = shown.lines().find(|line| line.contains("nvme connect")).unwrap_or_default();
    assert!(connect.contains("-n nqn.2016-06.io.vda:exp:da0:exp0a:"), "{shown}");
    assert!(connect.contains("-q nqn.2016-06.io.spdk:host0"), "{shown}");
    cluster.nothing_left(false, CLEAN_UP).await?;
    cluster.end().await
}
