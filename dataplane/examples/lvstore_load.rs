//! How long an lvstore takes to load after a crash, and what memory it takes: every cluster mapped, in random order, no clean shutdown.
//!
//! `cargo run --release -p vda-dataplane --example lvstore_load -- DIR [GIB...]` makes a sparse file in DIR (about 1 GiB of data for 1 TiB) for each
//! size (100 and 1024 unless given) and prints `{"rows": [{"gib", "clusters", "load_ms", "memory_kib", "program_kib", "bytes_per_gib"}]}`.
//! One process fills the lvstore and aborts, another one loads it: its time is from examine to the lvol's bdev, its memory the growth of its
//! anonymous resident memory by that, and apart from it that of its file mappings: the program's own pages, which are read in when they are first
//! executed, once for any number of lvstores. The process allocates as `vda_dataplane` does.

use std::path::Path;
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, bail, ensure};
use bytes::Bytes;
use futures::StreamExt;
use serde_json::{Value, json};
use tokio::task::LocalSet;
use vda_dataplane::bdev::Registry;
use vda_dataplane::bdev::file::{FileBdevs, FileModule, FileParams};
use vda_dataplane::lvstore::{ClearMethod, CreateStore, LvolClear, LvolModule, LvsSelector};

const BLOCK: u64 = 4096;
/// SPDK's default, and ours.
const CLUSTER: u64 = 4 << 20;
const WRITES_IN_FLIGHT: usize = 64;
const LVOL: &str = "lvs/v";

fn open_file(registry: &Registry, path: &Path) -> anyhow::Result<()> {
    let params = FileParams {
        module: FileModule::Aio,
        name: "disk".to_owned(),
        filename: path.to_str().context("the path is not UTF-8")?.to_owned(),
        block_size: Some(BLOCK as u32),
        readonly: false,
        fallocate: false,
        uuid: None,
    };
    FileBdevs::new(registry.clone()).create(params)?;
    Ok(())
}

/// Maps every cluster, and ends without a word.
async fn fill(path: &Path) -> anyhow::Result<()> {
    let registry = Registry::new();
    registry.set_auto_examine(false);
    let module = LvolModule::new(registry.clone());
    open_file(&registry, path)?;
    let params = CreateStore {
        bdev_name: "disk".to_owned(),
        lvs_name: "lvs".to_owned(),
        cluster_sz: Some(CLUSTER as u32),
        clear_method: ClearMethod::None,
        ..CreateStore::default()
    };
    module.create_store(params).await?;
    let clusters = module.stores(None)?.first().context("no lvstore")?.free_clusters;
    let mib = clusters * CLUSTER / (1 << 20);
    module.create(LvsSelector::Name("lvs"), "v", mib, true, LvolClear::Unmap).await?;
    let (lvol, _events) = registry.open(LVOL, true)?;
    // A prime that divides no number of clusters here: all of them, in an order that leaves no runs.
    let order = (0..clusters).map(|n| n * 2_147_483_647 % clusters);
    let data = Bytes::from(vec![7; BLOCK as usize]);
    let writes = order.map(|n| lvol.write(n * CLUSTER / BLOCK, data.clone(), false));
    let mut writes = futures::stream::iter(writes).buffer_unordered(WRITES_IN_FLIGHT);
    while let Some(written) = writes.next().await {
        written?;
    }
    lvol.flush().await?;
    std::process::abort();
}

async fn load(path: &Path) -> anyhow::Result<Value> {
    let registry = Registry::new();
    registry.set_auto_examine(false);
    let module = LvolModule::new(registry.clone());
    open_file(&registry, path)?;
    let (before, begun) = ([resident_kib("RssAnon")?, resident_kib("RssFile")?], Instant::now());
    registry.examine("disk")?;
    registry.wait_for(LVOL).await;
    let load_ms = begun.elapsed().as_secs_f64() * 1e3;
    let memory_kib = resident_kib("RssAnon")?.saturating_sub(before[0]);
    let program_kib = resident_kib("RssFile")?.saturating_sub(before[1]);
    let lvols = module.lvols(None)?;
    let clusters = lvols.first().context("no lvol")?.num_allocated_clusters;
    Ok(
        json!({"clusters": clusters, "load_ms": load_ms, "memory_kib": memory_kib, "program_kib": program_kib}),
    )
}

fn resident_kib(what: &str) -> anyhow::Result<u64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|l| l.strip_prefix(what)?.strip_prefix(':'));
    Ok(line.with_context(|| format!("no {what}"))?.trim().trim_end_matches(" kB").parse()?)
}

fn block_on<T>(work: impl Future<Output = T>) -> anyhow::Result<T> {
    let rt = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    Ok(LocalSet::new().block_on(&rt, work))
}

/// One size, in two processes.
fn measure(dir: &Path, gib: u64) -> anyhow::Result<Value> {
    let file = tempfile::Builder::new().prefix("lvstore-load-").tempfile_in(dir)?;
    file.as_file().set_len(gib << 30)?;
    let me = std::env::current_exe()?;
    let run = |what: &str| Command::new(&me).args([what]).arg(file.path()).output();
    let filled = run("fill")?;
    ensure!(
        !filled.status.success() && filled.stderr.is_empty(),
        "{}",
        String::from_utf8_lossy(&filled.stderr)
    );
    let loaded = run("load")?;
    ensure!(loaded.status.success(), "{}", String::from_utf8_lossy(&loaded.stderr));
    let mut row: Value = serde_json::from_slice(&loaded.stdout)?;
    row["gib"] = gib.into();
    row["bytes_per_gib"] = (row["memory_kib"].as_u64().unwrap_or(0) * 1024 / gib).into();
    Ok(row)
}

fn main() -> anyhow::Result<()> {
    vda_dataplane::allocator::tune();
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    match args[..] {
        ["fill", path] => block_on(fill(Path::new(path)))?,
        ["load", path] => {
            println!("{}", block_on(load(Path::new(path)))??);
            Ok(())
        }
        [dir, ref sizes @ ..] => {
            let sizes = if sizes.is_empty() { &["100", "1024"] } else { sizes };
            let rows = sizes.iter().map(|gib| measure(Path::new(dir), gib.parse()?));
            println!("{}", json!({"rows": rows.collect::<anyhow::Result<Vec<_>>>()?}));
            Ok(())
        }
        [] => bail!("which directory?"),
    }
}
