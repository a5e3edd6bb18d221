//! What cannot be done is refused, with an exit code and a reason, and changes nothing.

use vda_integration::Cluster;

use crate::CLEAN_UP;

/// Words after `vdacli`, exit code, and what the message must say.
type Case<'a> = (&'a [&'a str], i32, &'a str);

async fn refused(cluster: &Cluster, cases: &[Case<'_>]) -> anyhow::Result<()> {
    let mut wrong = String::new();
    for (words, code, says) in cases {
        let run = cluster.vdacli_words(words).await?;
        if run.code != *code || !run.stderr.contains(says) {
            wrong += &format!(
                "{words:?}: wanted {code} and {says:?}, got {}:\n{}{}\n",
                run.code, run.stdout, run.stderr
            );
        }
    }
    anyhow::ensure!(wrong.is_empty(), "{wrong}");
    Ok(())
}

#[tokio::test]
async fn names_sizes_and_shapes_that_cannot_be() -> anyhow::Result<()> {
    let cluster = Cluster::builder().start().await?;
    cluster.add_nodes().await?;
    let before = cluster.etcd_keys().await?;
    let long = "x".repeat(300);
    let da = |name| ["da", "create", name, "--size", "16MiB"];
    let dn = cluster.dn(0);
    refused(
        &cluster,
        &[
            (&da(""), 2, "name"),
            (&da(&long), 2, "name"),
            (&da("größe"), 2, "name"),
            (&da("a/b"), 2, "name"),
            (&da(".a"), 2, "name"),
            (&["pd", "create", &dn, "a/b", "--malloc", "64MiB", "--no-wait"], 2, "pd_name"),
            (&["pd", "create", &dn, "pd9", "--malloc", "0", "--no-wait"], 2, "size"),
            (&["da", "create", "d", "--size", "0"], 2, "size"),
            (&["da", "create", "d", "--size", "1000"], 2, "size"),
            (&["da", "create", "d", "--size", "16MiB", "--replicas", "3"], 4, "already holds a replica"),
            (&["da", "create", "d", "--size", "100GiB"], 4, "free"),
        ],
    )
    .await?;
    // What is not served yet is refused, not ignored.
    refused(&cluster, &[(&["da", "create", "d", "--size", "16MiB", "--cntlrs", "2"], 1, "controller")])
        .await?;
    let new: Vec<_> = cluster.etcd_keys().await?.difference(&before).cloned().collect();
    let new: Vec<_> = new.into_iter().filter(|key| !key.starts_with("req/")).collect();
    assert_eq!(new, Vec::<String>::new(), "refusals leave nothing behind");
    cluster.end().await
}

#[tokio::test]
async fn names_that_are_taken_unknown_or_in_use() -> anyhow::Result<()> {
    let cluster = Cluster::builder().start().await?;
    cluster.add_nodes().await?;
    cluster.vdacli_ok("da create da0 --size 16MiB --replicas 2 --wait=60s").await?;
    cluster.vdacli_ok(&format!("exp create da0 exp0 --host {} --wait=60s", crate::HOST)).await?;
    let (dn, cn, listen) = (cluster.dn(0), cluster.cn(0), cluster.dn_listener(0));
    let path = cluster.pd_path(0, 0).display().to_string();
    let busy_cn = cluster.vdacli_ok("da get da0").await?;
    let busy_cn =
        (0..2).map(|n| cluster.cn(n)).find(|cn| busy_cn.contains(cn.as_str())).expect("one serves it");
    refused(
        &cluster,
        &[
            (&["dn", "create", &dn, "--listen", &listen], 4, "ALREADY_EXISTS"),
            (&["pd", "create", &dn, "pd0", "--aio", &path], 4, "ALREADY_EXISTS"),
            (&["cn", "create", &cn, "--listen", &cluster.cn_listener(0)], 4, "ALREADY_EXISTS"),
            (&["da", "create", "da0", "--size", "16MiB"], 4, "ALREADY_EXISTS"),
            (&["exp", "create", "da0", "exp0", "--host", crate::HOST], 4, "ALREADY_EXISTS"),
            (&["dn", "get", "127.0.0.1:1"], 3, "NOT_FOUND"),
            (&["pd", "get", &dn, "nope"], 3, "NOT_FOUND"),
            (&["pd", "create", "127.0.0.1:1", "pd0", "--malloc", "64MiB"], 3, "NOT_FOUND"),
            (&["cn", "delete", "127.0.0.1:1"], 3, "NOT_FOUND"),
            (&["da", "delete", "nope"], 3, "NOT_FOUND"),
            (&["exp", "create", "nope", "exp0", "--host", crate::HOST], 3, "NOT_FOUND"),
            (&["exp", "delete", "da0", "nope"], 3, "NOT_FOUND"),
            (&["dn", "delete", &dn], 4, "pd"),
            (&["pd", "delete", &dn, "pd0"], 4, ""),
            (&["cn", "delete", &busy_cn], 4, "in use"),
            (&["da", "delete", "da0"], 4, "exp"),
            (&["dn", "modify", &dn, "--offline", "--revision", "1"], 4, "ABORTED"),
        ],
    )
    .await
    .or_else(|error| {
        // Which of the DN's two disks carries the array is the allocator's choice: only one of them is in use.
        let text = format!("{error:#}");
        anyhow::ensure!(text.matches("wanted").count() == 1 && text.contains(r#""pd", "delete""#), "{text}");
        Ok(())
    })?;
    cluster.vdacli_ok("exp delete da0 exp0 --wait=60s").await?;
    cluster.vdacli_ok("da delete da0 --wait=60s").await?;
    cluster.nothing_left(true, CLEAN_UP).await?;
    cluster.end().await
}
