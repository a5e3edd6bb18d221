//! Both engines against real files and block devices, around and through the page cache.

use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::path::{Path, PathBuf};

use bytes::{Bytes, BytesMut};

use super::*;
use crate::bdev::{BdevEvent, IoError, IoType};

const DIRECT: FileIo = FileIo { cache: FileCache::Around, threads: false };
const EVERY: [FileIo; 4] = [
    DIRECT,
    FileIo { cache: FileCache::Through, ..DIRECT },
    FileIo { threads: true, ..DIRECT },
    FileIo { threads: true, cache: FileCache::Through },
];

fn run<F: Future>(test: impl FnOnce() -> F) -> F::Output {
    let rt = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    tokio::task::LocalSet::new().block_on(&rt, async { test().await })
}

fn temp(len: u64) -> (tempfile::TempDir, String) {
    temp_in(&std::env::temp_dir(), len)
}

fn temp_in(parent: &Path, len: u64) -> (tempfile::TempDir, String) {
    let dir = tempfile::tempdir_in(parent).unwrap();
    let path = dir.path().join("disk.img");
    File::create(&path).unwrap().set_len(len).unwrap();
    let path = path.to_str().unwrap().to_owned();
    (dir, path)
}

fn params(module: FileModule, filename: &str) -> FileParams {
    FileParams {
        module,
        name: "f0".to_owned(),
        filename: filename.to_owned(),
        block_size: Some(512),
        readonly: false,
        fallocate: false,
        uuid: None,
    }
}

async fn exercise(module: FileModule, io: FileIo, dir: &Path) {
    let (_dir, path) = temp_in(dir, 8 << 20);
    let registry = Registry::new();
    let files = FileBdevs::with(registry.clone(), io);
    files.create(params(module, &path)).unwrap();
    let (d, mut events) = registry.open("f0", true).unwrap();
    let pattern: Vec<u8> = (0..3 << 20).map(|i: u32| (i % 253) as u8).collect();
    d.write(7, Bytes::from(pattern.clone()), false).await.unwrap();
    d.write(7, Bytes::copy_from_slice(&pattern[..512]), true).await.unwrap();
    d.flush().await.unwrap();
    assert_eq!(d.read(7, BytesMut::zeroed(pattern.len())).await.unwrap(), pattern);
    assert_eq!(&std::fs::read(&path).unwrap()[7 * 512..7 * 512 + pattern.len()], &pattern[..]);
    let many = (0..600u64).map(|i| d.write(8000 + i, Bytes::from(vec![i as u8; 512]), false));
    assert!(futures::future::join_all(many).await.iter().all(Result::is_ok));
    for i in 0..600u64 {
        assert_eq!(d.read(8000 + i, BytesMut::zeroed(512)).await.unwrap(), vec![i as u8; 512]);
    }
    d.write_zeroes(8, 5, true).await.unwrap();
    assert_eq!(d.read(8, BytesMut::zeroed(5 * 512)).await.unwrap(), vec![0; 5 * 512]);
    d.unmap(16, 2048).await.unwrap();
    assert_eq!(d.compare(15, Bytes::copy_from_slice(&pattern[8 * 512..9 * 512])).await, Ok(()));

    OpenOptions::new().write(true).open(&path).unwrap().set_len(16 << 20).unwrap();
    files.rescan(module, "f0").unwrap();
    assert_eq!(events.recv().await, Some(BdevEvent::Resized));
    assert_eq!(d.num_blocks(), 32768);
    OpenOptions::new().write(true).open(&path).unwrap().set_len(8 << 20).unwrap();
    assert_eq!(files.rescan(module, "f0").unwrap_err().errno(), libc::EBUSY);
    assert!(d.read(32000, BytesMut::zeroed(512)).await.is_err(), "beyond the end of the file");
    drop(d);
    files.delete(module, "f0").unwrap().await;
    assert!(files.delete(module, "f0").is_err());
}

/// Where there is direct I/O, as a rule, and where there is none in blocks of 512 bytes.
fn exercise_everywhere(io: FileIo) {
    run(|| async {
        if let (false, Err(e)) = (io.threads, Ring::new()) {
            eprintln!("io_uring is blocked here ({e}): threads serve instead");
        }
        for dir in [std::env::temp_dir(), PathBuf::from("/dev/shm")].iter().filter(|d| d.is_dir()) {
            exercise(FileModule::Aio, io, dir).await;
            exercise(FileModule::Uring, io, dir).await;
        }
    });
}

#[test]
fn the_ring_does_it_all_around_the_page_cache() {
    exercise_everywhere(EVERY[0]);
}

#[test]
fn the_ring_does_it_all_through_the_page_cache() {
    exercise_everywhere(EVERY[1]);
}

#[test]
fn the_threads_do_it_all_around_the_page_cache() {
    exercise_everywhere(EVERY[2]);
}

#[test]
fn the_threads_do_it_all_through_the_page_cache() {
    exercise_everywhere(EVERY[3]);
}

#[test]
fn bad_files_are_refused_with_their_errno() {
    run(|| async {
        let (dir, path) = temp(1 << 20);
        let files = FileBdevs::new(Registry::new());
        let errno = |p: FileParams| files.create(p).err().map(|e| e.errno());
        let aio = |path: &str| params(FileModule::Aio, path);
        assert_eq!(errno(aio("/nonexistent/x")), Some(libc::ENOENT));
        assert_eq!(errno(FileParams { block_size: Some(3000), ..aio(&path) }), Some(libc::EINVAL));
        assert_eq!(errno(aio(dir.path().to_str().unwrap())), Some(libc::EISDIR));
        let odd = dir.path().join("odd");
        File::create(&odd).unwrap().write_all(&[0; 700]).unwrap();
        assert_eq!(errno(aio(odd.to_str().unwrap())), Some(libc::EINVAL));
        assert_eq!(errno(aio(&path)), None);
        assert_eq!(errno(aio(&path)), Some(libc::EEXIST));
    });
}

#[test]
fn a_readonly_file_is_not_written() {
    run(|| async {
        let (_dir, path) = temp(1 << 20);
        let registry = Registry::new();
        let files = FileBdevs::new(registry.clone());
        files.create(FileParams { readonly: true, ..params(FileModule::Aio, &path) }).unwrap();
        let (d, _e) = registry.open("f0", true).unwrap();
        let denied = d.write(0, Bytes::from(vec![1; 512]), false).await;
        assert_eq!(denied, Err(IoError::WriteProtected));
        assert_eq!(d.read(0, BytesMut::zeroed(512)).await.unwrap(), vec![0; 512]);
        assert!(!d.supports(IoType::Write));
    });
}

#[test]
fn a_file_that_is_empty_takes_the_bdev_with_it() {
    run(|| async {
        let (_dir, path) = temp(1 << 20);
        let registry = Registry::new();
        let files = FileBdevs::new(registry.clone());
        files.create(params(FileModule::Aio, &path)).unwrap();
        let (d, mut events) = registry.open("f0", true).unwrap();
        OpenOptions::new().write(true).open(&path).unwrap().set_len(0).unwrap();
        files.rescan(FileModule::Aio, "f0").unwrap();
        assert_eq!(events.recv().await, Some(BdevEvent::Removed));
        assert_eq!(d.read(0, BytesMut::zeroed(512)).await, Err(IoError::Removed));
        drop(d);
        assert_eq!(files.rescan(FileModule::Aio, "f0").unwrap_err().errno(), libc::ENODEV);
    });
}

/// A block device over a file, gone when dropped.
struct Loop(String);

impl Loop {
    fn over(path: &str, sector: &str) -> Option<Self> {
        let args = ["--find", "--show", "--sector-size", sector, path];
        let made = std::process::Command::new("losetup").args(args).output().ok()?;
        let device = String::from_utf8(made.stdout).unwrap().trim().to_owned();
        made.status.success().then_some(Self(device))
    }

    /// Takes over the size of the file.
    fn resized(&self) {
        assert!(std::process::Command::new("losetup").args(["-c", &self.0]).status().unwrap().success());
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        let _ = std::process::Command::new("losetup").args(["-d", &self.0]).status();
    }
}

#[test]
fn block_devices_are_read_written_zeroed_flushed_and_grow() {
    run(|| async {
        let (_dir, path) = temp(8 << 20);
        let Some(device) = Loop::over(&path, "512") else {
            eprintln!("SKIPPED: no loop device can be made here (needs root, losetup and /dev/loop-control)");
            return;
        };
        for (n, io) in EVERY.into_iter().enumerate() {
            let module = [FileModule::Aio, FileModule::Uring][n % 2];
            let registry = Registry::new();
            let files = FileBdevs::with(registry.clone(), io);
            let size = std::fs::metadata(&path).unwrap().len();
            files.create(FileParams { block_size: None, ..params(module, &device.0) }).unwrap();
            let (d, mut events) = registry.open("f0", true).unwrap();
            assert_eq!((d.block_size(), d.num_blocks()), (512, size / 512), "its own block size");
            let data = Bytes::from(vec![n as u8 + 1; 64 << 10]);
            d.write(3, data.clone(), true).await.unwrap();
            assert_eq!(
                &std::fs::read(&path).unwrap()[3 * 512..][..data.len()],
                &data[..],
                "FUA reached the file"
            );
            d.write_zeroes(4, 7, true).await.unwrap();
            assert_eq!(d.read(4, BytesMut::zeroed(7 * 512)).await.unwrap(), vec![0; 7 * 512]);
            assert_eq!(d.read(11, BytesMut::zeroed(512)).await.unwrap(), data[..512]);
            d.unmap(16, 32).await.unwrap();
            d.flush().await.unwrap();
            assert_eq!(d.read(3, BytesMut::zeroed(512)).await.unwrap(), data[..512]);
            OpenOptions::new().write(true).open(&path).unwrap().set_len(size + (4 << 20)).unwrap();
            device.resized();
            files.rescan(module, "f0").unwrap();
            assert_eq!(events.recv().await, Some(BdevEvent::Resized));
            d.write(size / 512, data.clone(), false).await.unwrap();
            assert_eq!(d.read(size / 512, BytesMut::zeroed(data.len())).await.unwrap(), data);
            drop(d);
            files.delete(module, "f0").unwrap().await;
            let small = FileParams { block_size: Some(256), ..params(module, &device.0) };
            assert_eq!(files.create(small).err().unwrap().errno(), libc::EINVAL);
            let readonly = FileParams { readonly: true, ..params(module, &device.0) };
            files.create(readonly).unwrap();
            let (d, _e) = registry.open("f0", true).unwrap();
            assert_eq!(d.write(3, data, false).await, Err(IoError::WriteProtected));
            assert_eq!(d.write_zeroes(3, 1, false).await, Err(IoError::WriteProtected));
            drop(d);
            files.delete(module, "f0").unwrap().await;
        }
    });
}

#[test]
fn a_device_with_large_sectors_is_served_in_blocks_of_a_sector_or_more() {
    run(|| async {
        let (_dir, path) = temp(8 << 20);
        let Some(device) = Loop::over(&path, "4096") else {
            eprintln!("SKIPPED: no loop device can be made here (needs root, losetup and /dev/loop-control)");
            return;
        };
        for io in EVERY {
            let registry = Registry::new();
            let files = FileBdevs::with(registry.clone(), io);
            let file = params(FileModule::Aio, &device.0);
            assert_eq!(
                files.create(file.clone()).err().unwrap().errno(),
                libc::EINVAL,
                "512 is less than a sector"
            );
            for block_size in [None, Some(8192)] {
                files.create(FileParams { block_size, ..file.clone() }).unwrap();
                let (d, _events) = registry.open("f0", true).unwrap();
                let block = block_size.unwrap_or(4096) as usize;
                assert_eq!(d.block_size() as usize, block);
                // At an address that no device takes.
                let data = Bytes::from(vec![block_size.is_some() as u8 + 1; block + 1]).slice(1..);
                d.write(3, data.clone(), true).await.unwrap();
                assert_eq!(d.read(3, BytesMut::zeroed(block + 1).split_off(1)).await.unwrap(), data);
                d.write_zeroes(3, 1, true).await.unwrap();
                assert_eq!(d.read(3, BytesMut::zeroed(block)).await.unwrap(), vec![0; block]);
                drop(d);
                files.delete(FileModule::Aio, "f0").unwrap().await;
            }
        }
    });
}

#[test]
fn what_is_in_flight_when_a_file_is_deleted_reaches_it() {
    run(|| async {
        for io in EVERY {
            let (_dir, path) = temp(8 << 20);
            let registry = Registry::new();
            let files = FileBdevs::with(registry.clone(), io);
            files.create(params(FileModule::Uring, &path)).unwrap();
            let (d, _events) = registry.open("f0", true).unwrap();
            // Begun, and then forgotten by who began them.
            for n in 0..100u64 {
                let mut write = Box::pin(d.write(n * 16, Bytes::from(vec![n as u8 + 1; 8192]), false));
                let _ = futures::poll!(write.as_mut());
            }
            drop(d);
            files.delete(FileModule::Uring, "f0").unwrap().await;
            let found = std::fs::read(&path).unwrap();
            for n in 0..100 {
                assert_eq!(found[n * 8192..][..8192], vec![n as u8 + 1; 8192], "{io:?}: write {n}");
            }
        }
    });
}
