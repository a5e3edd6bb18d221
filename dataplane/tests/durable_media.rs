//! Files and block devices where it matters what the system does below: flushes that a device counts, and file systems that are full. With
//! loop devices and mounts, for which it takes root; elsewhere each test says that it was skipped.

#![allow(clippy::unwrap_used)]

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;

use bytes::{Bytes, BytesMut};
use tempfile::TempDir;
use vda_dataplane::bdev::file::{FileBdevs, FileCache, FileIo, FileModule, FileParams};
use vda_dataplane::bdev::{Descriptor, IoError, Registry};

const EVERY: [FileIo; 4] = [
    FileIo { cache: FileCache::Around, threads: false },
    FileIo { cache: FileCache::Through, threads: false },
    FileIo { cache: FileCache::Around, threads: true },
    FileIo { cache: FileCache::Through, threads: true },
];
const BLOCK: usize = 4096;
/// Blocks of a write that fills a file system.
const MANY: usize = 16;

/// What a program prints, if it is there, may do that, and does it.
fn run(program: &str, arguments: &[&str]) -> Option<String> {
    let output = Command::new(program).args(arguments).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

fn skip(why: &str) {
    println!("=== SKIPPED: {why}");
}

/// A loop device, until this is dropped.
struct LoopDevice {
    path: String,
    _file: TempDir,
}

impl LoopDevice {
    fn new(block_size: &str) -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        File::create(&file).unwrap().set_len(32 << 20).unwrap();
        let path = run("losetup", &["-f", "--show", "-b", block_size, file.to_str().unwrap()])?;
        Some(Self { path, _file: dir })
    }

    /// Flushes that it has done; `None` if the kernel does not tell.
    fn flushes(&self) -> Option<u64> {
        let name = Path::new(&self.path).file_name().unwrap().to_str().unwrap();
        let counters = std::fs::read_to_string(format!("/sys/block/{name}/stat")).ok()?;
        counters.split_whitespace().nth(15)?.parse().ok()
    }
}

impl Drop for LoopDevice {
    fn drop(&mut self) {
        run("losetup", &["-d", &self.path]);
    }
}

/// A mounted file system, until this is dropped.
struct Mounted {
    dir: TempDir,
    _device: Option<LoopDevice>,
}

impl Mounted {
    fn tmpfs() -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        run("mount", &["-t", "tmpfs", "-o", "size=1m", "tmpfs", dir.path().to_str().unwrap()])?;
        Some(Self { dir, _device: None })
    }

    fn ext4() -> Option<Self> {
        let device = LoopDevice::new("512")?;
        // Small, and without a share that only root may use.
        run("mkfs.ext4", &["-q", "-F", "-m", "0", "-O", "^has_journal", "-b", "4096", &device.path, "2M"])?;
        let dir = tempfile::tempdir().unwrap();
        run("mount", &[&device.path, dir.path().to_str().unwrap()])?;
        Some(Self { dir, _device: Some(device) })
    }

    fn file(&self, bytes: u64) -> PathBuf {
        let path = self.dir.path().join("disk");
        File::create(&path).unwrap().set_len(bytes).unwrap();
        path
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        run("umount", &[self.dir.path().to_str().unwrap()]);
    }
}

fn params(filename: &str, block_size: Option<u32>) -> FileParams {
    FileParams {
        module: FileModule::Aio,
        name: "f0".to_owned(),
        filename: filename.to_owned(),
        block_size,
        readonly: false,
        fallocate: false,
        uuid: None,
    }
}

fn filled(value: u8, blocks: usize) -> Bytes {
    Bytes::from(vec![value; blocks * BLOCK])
}

fn on_reactor<F: Future>(test: F) -> F::Output {
    let rt = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    tokio::task::LocalSet::new().block_on(&rt, test)
}

/// A durable write and a flush are a flush of the device's own cache, whichever way they take; devices of 512 and of 4096 bytes a sector.
#[test]
fn a_flush_and_a_durable_write_reach_the_device() {
    for (block_size, io) in ["512", "4096"].into_iter().flat_map(|b| EVERY.map(|io| (b, io))) {
        let Some(device) = LoopDevice::new(block_size) else { return skip("no loop devices here") };
        let Some(mut before) = device.flushes() else { return skip("the kernel counts no flushes") };
        let mut more = |what: &str| {
            let now = device.flushes().unwrap();
            assert!(now > before, "{what} did not reach the device of {block_size} with {io:?}");
            before = now;
        };
        on_reactor(async {
            let registry = Registry::new();
            let files = FileBdevs::with(registry.clone(), io);
            files.create(params(&device.path, None)).unwrap();
            let (d, _events) = registry.open("f0", true).unwrap();
            let per = BLOCK as u64 / u64::from(d.block_size());
            assert_eq!(d.block_size().to_string(), block_size);
            d.write(0, filled(1, 1), true).await.unwrap();
            more("a durable write");
            d.write_zeroes(per, per, true).await.unwrap();
            more("durable zeros");
            d.write(2 * per, filled(2, 1), false).await.unwrap();
            d.flush().await.unwrap();
            more("a flush");
            let found = d.read(0, BytesMut::zeroed(3 * BLOCK)).await.unwrap();
            assert_eq!(found, [filled(1, 1), filled(0, 1), filled(2, 1)].concat());
        });
    }
}

/// Fills a sparse file until its file system has no more room: who writes is told, and what was acknowledged is there.
async fn fill(d: &Descriptor, writes: u64) {
    let mut done = Vec::new();
    for n in 0..writes {
        match d.write(n * MANY as u64, filled(n as u8 + 1, MANY), false).await {
            Ok(()) => done.push(n),
            Err(e) => assert_eq!(e, IoError::NoSpace),
        }
    }
    assert!(!done.is_empty() && (done.len() as u64) < writes, "{} of {writes} fit", done.len());
    d.flush().await.unwrap();
    for n in &done {
        let found = d.read(n * MANY as u64, BytesMut::zeroed(MANY * BLOCK)).await.unwrap();
        assert_eq!(found, filled(*n as u8 + 1, MANY), "write {n}");
    }
    // What is given back can be used.
    d.unmap(done[0] * MANY as u64, MANY as u64).await.unwrap();
    let missing = (0..writes).find(|n| !done.contains(n)).unwrap();
    d.write(missing * MANY as u64, filled(0xfe, 1), false).await.unwrap();
    d.flush().await.unwrap();
}

#[test]
fn a_full_file_system_loses_nothing_that_was_acknowledged() {
    for (mount, io) in [Mounted::tmpfs, Mounted::ext4].into_iter().flat_map(|m| EVERY.map(|io| (m, io))) {
        let Some(mounted) = mount() else { return skip("nothing can be mounted here") };
        let path = mounted.file(4 << 20);
        on_reactor(async {
            let registry = Registry::new();
            let files = FileBdevs::with(registry.clone(), io);
            files.create(params(path.to_str().unwrap(), Some(BLOCK as u32))).unwrap();
            let (d, _events) = registry.open("f0", true).unwrap();
            fill(&d, (4 << 20) / (MANY * BLOCK) as u64).await;
            drop(d);
            files.delete(FileModule::Aio, "f0").unwrap().await;
        });
    }
}
