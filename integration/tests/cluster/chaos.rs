//! Processes are killed at random points while arrays come and go: at the end what is wanted is there, and nothing else.
//!
//! `VDA_CHAOS_CYCLES=200` runs the long form, `VDA_CHAOS_SEED=n` repeats a run.

use std::{env, future::Future, time::Duration};

use anyhow::Context as _;
use rand::{Rng, RngExt as _, SeedableRng as _, rngs::StdRng};
use tokio::time::{Instant, sleep};
use tonic::{Code, Response, Status};
use vda_integration::{Cluster, Role, Tombstones, da_request, exp_request};
use vda_proto::v1::{CreateDaRequest, DeleteDaRequest, DeleteExpRequest, resource_ref::Kind};

use crate::{CLEAN_UP, HOST};

type Portal = vda_proto::v1::portal_client::PortalClient<tonic::transport::Channel>;

/// How long a client goes on repeating a request while processes come back.
const PATIENCE: Duration = Duration::from_secs(60);

/// Repeats a request that may or may not have been carried out: its request id makes that safe.
async fn persist<T, F, Fut>(what: &str, mut call: F) -> anyhow::Result<T>
where
    F: FnMut() -> Fut,
    Fut: Future<Output = Result<Response<T>, Status>>,
{
    let end = Instant::now() + PATIENCE;
    loop {
        match call().await {
            Ok(answer) => return Ok(answer.into_inner()),
            Err(status) if Instant::now() < end && passes(status.code()) => {
                sleep(Duration::from_millis(20)).await;
            }
            Err(status) => anyhow::bail!("{what}: {status}"),
        }
    }
}

/// Processes come back.
fn passes(code: Code) -> bool {
    matches!(code, Code::Unavailable | Code::Unknown | Code::Cancelled)
}

/// How long deletions may stay unconfirmed when nothing is killed any more: the nodes of a dead monitor are nobody's until its lease
/// ends (5 s), and the deletions of all cycles before may be waiting for that.
const CONFIRMED: Duration = Duration::from_secs(90);

/// Creates an array. All arrays that are kept fit easily, so a refusal for want of space is right only while deleted ones hold it:
/// then those have to be confirmed, in time, and what was refused has to fit.
async fn create(portal: &Portal, tombstones: &Tombstones, request: CreateDaRequest) -> anyhow::Result<()> {
    loop {
        let before = tombstones.outstanding().await?;
        let attempt = || {
            let (mut p, r) = (portal.clone(), request.clone());
            async move {
                match p.create_da(r).await {
                    Ok(_) => Ok(Response::new(None)),
                    Err(status) if status.code() == Code::ResourceExhausted => {
                        Ok(Response::new(Some(status)))
                    }
                    Err(status) => Err(status),
                }
            }
        };
        let Some(refusal) = persist("create_da", attempt).await? else { return Ok(()) };
        anyhow::ensure!(!before.is_empty(), "refused, and no deletion is outstanding: {refusal}");
        let begun = Instant::now();
        tombstones.completed(&before, CONFIRMED).await.with_context(|| refusal.to_string())?;
        eprintln!("no place: {} deletions were outstanding for {:?} more", before.len(), begun.elapsed());
    }
}

fn victim(rng: &mut impl Rng) -> Role {
    let n = rng.random_range(0..2);
    match rng.random_range(0..6) {
        0 => Role::Portal(0),
        1 => Role::Monitor(0),
        2 => Role::DnTarget(n),
        3 => Role::DnAgent(n),
        4 => Role::CnTarget(n),
        _ => Role::CnAgent(n),
    }
}

/// An array's life, from the side of a client that does not give up.
async fn live(
    cluster_portal: Portal,
    tombstones: Tombstones,
    name: String,
    shape: (u64, u32, u32),
    export: bool,
    delete: bool,
) -> anyhow::Result<()> {
    let portal = || cluster_portal.clone();
    create(&cluster_portal, &tombstones, da_request(&name, shape.0, shape.1, shape.2)).await?;
    if export {
        let request = exp_request(&name, "exp0", HOST);
        persist("create_exp", || {
            let (mut p, r) = (portal(), request.clone());
            async move { p.create_exp(r).await }
        })
        .await?;
    }
    if !delete {
        return Ok(());
    }
    let id = || uuid::Uuid::new_v4().to_string();
    if export {
        let request = DeleteExpRequest {
            request_id: id(),
            da_name: name.clone(),
            exp_name: "exp0".into(),
            revision: 0,
        };
        persist("delete_exp", || {
            let (mut p, r) = (portal(), request.clone());
            async move { p.delete_exp(r).await }
        })
        .await?;
    }
    let request = DeleteDaRequest { request_id: id(), da_name: name, revision: 0 };
    persist("delete_da", || {
        let (mut p, r) = (portal(), request.clone());
        async move { p.delete_da(r).await }
    })
    .await?;
    Ok(())
}

#[tokio::test]
async fn kill_9_at_random_points_leaves_exactly_what_is_wanted() -> anyhow::Result<()> {
    let number = |name: &str| env::var(name).ok().and_then(|value| value.parse::<u64>().ok());
    let cycles = number("VDA_CHAOS_CYCLES").unwrap_or(12);
    let seed = number("VDA_CHAOS_SEED").unwrap_or_else(rand::random);
    eprintln!("VDA_CHAOS_SEED={seed} VDA_CHAOS_CYCLES={cycles}");
    let mut rng = StdRng::seed_from_u64(seed);
    let mut cluster = Cluster::builder().start().await?;
    cluster.add_nodes().await?;
    let mut kept = Vec::new();
    for cycle in 0..cycles {
        let name = format!("da{cycle}");
        let shape = (4 * rng.random_range(1..=4), rng.random_range(1..=2), rng.random_range(1..=2));
        let (export, keep) = (rng.random_bool(0.5), kept.len() < 3 && rng.random_bool(0.3));
        let life =
            tokio::spawn(live(cluster.portal(0)?, cluster.tombstones(), name.clone(), shape, export, !keep));
        for _ in 0..rng.random_range(1..=2) {
            // Not a wait for anything: the point in time is the random choice.
            sleep(Duration::from_micros(rng.random_range(0..150_000))).await;
            let role = victim(&mut rng);
            eprintln!("cycle {cycle}: {name} {shape:?}, kill -9 {role}");
            cluster.kill(role).await?;
            sleep(Duration::from_micros(rng.random_range(0..50_000))).await;
            cluster.start(role).await?;
        }
        life.await??;
        if keep {
            kept.push((name, export));
        }
    }
    for (name, export) in &kept {
        cluster.ready(Kind::Da, name).await?;
        if *export {
            cluster.ready(Kind::Exp, &format!("{name}/exp0")).await?;
        }
    }
    for (name, export) in &kept {
        if *export {
            cluster.vdacli_ok(&format!("exp delete {name} exp0 --wait=60s")).await?;
        }
        cluster.vdacli_ok(&format!("da delete {name} --wait=60s")).await?;
    }
    cluster.nothing_left(true, CLEAN_UP).await?;
    cluster.end().await
}
