//! `bdev_aio` and `bdev_uring`: disks in files and on block devices.
//!
//! I/O is buffered: data from the network is not aligned, and durability comes from `fdatasync` (flush) and `RWF_DSYNC` (FUA),
//! never from the page cache being bypassed.

mod engine;
mod pool;
mod ring;

use std::cell::{Cell, OnceCell, RefCell};
use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileTypeExt;
use std::rc::Rc;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use futures::future::LocalBoxFuture;
use serde_json::{Value, json};
use uuid::Uuid;

use self::engine::{Deallocate, FileEngine};
use self::pool::ThreadPool;
use self::ring::Ring;
use super::{Bdev, BdevError, IoError, IoFuture, IoType, NewBdev, Registration, Registry};

/// Zeros are written in pieces of this size where the file system can not make a hole.
const ZERO_PIECE: usize = 1024 * 1024;
static ZEROS: [u8; ZERO_PIECE] = [0; ZERO_PIECE];

/// Which of the two modules a file bdev belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileModule {
    Aio,
    Uring,
}

impl FileModule {
    /// The registry's module name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Aio => "aio",
            Self::Uring => "uring",
        }
    }
}

/// Parameters of `bdev_aio_create` and `bdev_uring_create`.
#[derive(Clone, Debug)]
pub struct FileParams {
    pub module: FileModule,
    pub name: String,
    pub filename: String,
    /// Bytes; the device's own if absent. A file has none.
    pub block_size: Option<u32>,
    pub readonly: bool,
    /// `fallocate` of `bdev_aio_create`: advertise unmap and write zeroes. Only reported: both always work here.
    pub fallocate: bool,
    pub uuid: Option<Uuid>,
}

/// The file bdevs of the process and the engines that do their I/O.
pub struct FileBdevs {
    registry: Registry,
    pool: Rc<ThreadPool>,
    /// `None` inside if the kernel refuses `io_uring`.
    ring: OnceCell<Option<Rc<Ring>>>,
    disks: RefCell<BTreeMap<String, (Rc<Disk>, Registration)>>,
}

/// What is on the other end of a path.
struct Opened {
    file: File,
    bytes: u64,
    is_block_device: bool,
    /// `None` for a file.
    own_block_size: Option<u32>,
}

struct Disk {
    engine: Rc<dyn FileEngine>,
    file: Arc<File>,
    params: FileParams,
    block_size: u32,
    num_blocks: Cell<u64>,
    uuid: Uuid,
    is_block_device: bool,
}

fn file_error(path: &str, e: &std::io::Error) -> BdevError {
    BdevError::File { path: path.to_owned(), errno: e.raw_os_error().unwrap_or(libc::EIO) }
}

/// Size of an open file or block device, in bytes.
fn size_of(file: &File, is_block_device: bool) -> std::io::Result<u64> {
    if is_block_device {
        // A block device's stat has no size; its end is where seeking to the end arrives.
        Ok(rustix::fs::seek(file, rustix::fs::SeekFrom::End(0))?)
    } else {
        Ok(file.metadata()?.len())
    }
}

fn open(params: &FileParams) -> Result<Opened, BdevError> {
    let path = &params.filename;
    let file =
        OpenOptions::new().read(true).write(!params.readonly).open(path).map_err(|e| file_error(path, &e))?;
    let meta = file.metadata().map_err(|e| file_error(path, &e))?;
    let is_block_device = meta.file_type().is_block_device();
    if !is_block_device && !meta.is_file() {
        return Err(BdevError::Invalid {
            field: "filename",
            value: path.clone(),
            allowed: "a regular file or a block device",
        });
    }
    let own_block_size = match is_block_device {
        true => Some(rustix::fs::ioctl_blksszget(&file).map_err(|e| file_error(path, &e.into()))?),
        false => None,
    };
    let bytes = size_of(&file, is_block_device).map_err(|e| file_error(path, &e))?;
    Ok(Opened { file, bytes, is_block_device, own_block_size })
}

/// The block size and count a bdev gets.
fn geometry(opened: &Opened, asked: Option<u32>) -> Result<(u32, u64), BdevError> {
    let block_size = asked.filter(|b| *b != 0).or(opened.own_block_size).unwrap_or(0);
    let invalid = |field, value: String, allowed| Err(BdevError::Invalid { field, value, allowed });
    if block_size < 512 || !block_size.is_power_of_two() {
        return invalid("block_size", block_size.to_string(), "a power of two of at least 512");
    }
    if opened.own_block_size.is_some_and(|own| block_size < own) {
        return invalid("block_size", block_size.to_string(), "at least the block size of the device");
    }
    let blocks = opened.bytes / u64::from(block_size);
    if blocks == 0 || !opened.bytes.is_multiple_of(u64::from(block_size)) {
        return invalid("size of the file", opened.bytes.to_string(), "a multiple of the block size, not 0");
    }
    Ok((block_size, blocks))
}

impl FileBdevs {
    pub fn new(registry: Registry) -> Self {
        Self {
            registry,
            pool: Rc::new(ThreadPool),
            ring: OnceCell::new(),
            disks: RefCell::new(BTreeMap::new()),
        }
    }

    fn engine(&self, module: FileModule) -> Rc<dyn FileEngine> {
        if module == FileModule::Uring {
            let ring = self.ring.get_or_init(|| match Ring::new() {
                Ok(ring) => Some(ring),
                Err(e) => {
                    tracing::warn!(error = %e, "io_uring is not available: uring bdevs use the thread pool");
                    None
                }
            });
            if let Some(ring) = ring {
                return Rc::<Ring>::clone(ring);
            }
        }
        Rc::<ThreadPool>::clone(&self.pool)
    }

    /// `bdev_aio_create`, `bdev_uring_create`.
    ///
    /// # Errors
    /// [`BdevError::File`] if the file can not be opened, [`BdevError::Invalid`] for its size or block size,
    /// [`BdevError::Exists`] for a taken name or uuid.
    pub fn create(&self, params: FileParams) -> Result<Registration, BdevError> {
        let opened = open(&params)?;
        let (block_size, num_blocks) = geometry(&opened, params.block_size)?;
        let disk = Rc::new(Disk {
            engine: self.engine(params.module),
            file: Arc::new(opened.file),
            block_size,
            num_blocks: Cell::new(num_blocks),
            uuid: params.uuid.filter(|u| !u.is_nil()).unwrap_or_else(Uuid::new_v4),
            is_block_device: opened.is_block_device,
            params,
        });
        let name = disk.params.name.clone();
        let bdev = Rc::clone(&disk) as Rc<dyn Bdev>;
        let registration =
            self.registry.register(NewBdev { name: name.clone(), aliases: Vec::new(), bdev })?;
        self.disks.borrow_mut().insert(name, (disk, registration.clone()));
        Ok(registration)
    }

    /// `bdev_aio_rescan`, `bdev_uring_rescan`: takes over the present size of the file. With an empty file the bdev is removed.
    ///
    /// # Errors
    /// [`BdevError::NotFound`]; [`BdevError::Busy`] if it shrank while open, [`BdevError::File`].
    pub fn rescan(&self, module: FileModule, name: &str) -> Result<(), BdevError> {
        let not_found = || BdevError::NotFound { name: name.to_owned() };
        let canonical = self.registry.canonical_name(name)?;
        let (disk, registration) = self.disks.borrow().get(&canonical).cloned().ok_or_else(not_found)?;
        if disk.params.module != module {
            return Err(not_found());
        }
        let bytes =
            size_of(&disk.file, disk.is_block_device).map_err(|e| file_error(&disk.params.filename, &e))?;
        if bytes == 0 {
            // Nothing is left of it: a disk that was pulled.
            tracing::warn!(bdev = %canonical, file = %disk.params.filename, "the file is empty: the bdev goes away");
            self.disks.borrow_mut().remove(&canonical);
            drop(registration.unregister());
            return Ok(());
        }
        let blocks = bytes / u64::from(disk.block_size);
        if blocks < disk.num_blocks.get() && registration.open_count() > 0 {
            return Err(BdevError::Busy { name: canonical, by: "open while it shrinks".to_owned() });
        }
        if disk.num_blocks.replace(blocks) != blocks {
            registration.notify_resize();
        }
        Ok(())
    }

    /// `bdev_aio_delete`, `bdev_uring_delete`; resolves when it is gone.
    ///
    /// # Errors
    /// [`BdevError::NotFound`].
    pub fn delete(
        &self,
        module: FileModule,
        name: &str,
    ) -> Result<impl Future<Output = ()> + use<>, BdevError> {
        let canonical = self.registry.canonical_name(name)?;
        let gone = self.registry.unregister(&canonical, module.as_str())?;
        self.disks.borrow_mut().remove(&canonical);
        Ok(gone)
    }
}

impl Disk {
    fn at(&self, lba: u64) -> u64 {
        lba * u64::from(self.block_size)
    }

    /// Zeros a byte range by the cheapest means that the file supports.
    fn zero(&self, offset: u64, len: u64, fua: bool) -> IoFuture<()> {
        let (engine, file) = (Rc::clone(&self.engine), Arc::clone(&self.file));
        // A hole in a file costs nothing; on a disk zeroing must not depend on discard.
        let first = if self.is_block_device { Deallocate::Zero } else { Deallocate::Hole };
        let second = if self.is_block_device { Deallocate::Hole } else { Deallocate::Zero };
        Box::pin(async move {
            let mut result = engine.deallocate(&file, first, offset, len).await;
            if result == Err(IoError::Unsupported) {
                result = engine.deallocate(&file, second, offset, len).await;
            }
            if result == Err(IoError::Unsupported) {
                result = write_zeros(&engine, &file, offset, len).await;
            }
            result?;
            if fua { engine.sync(&file).await } else { Ok(()) }
        })
    }
}

async fn write_zeros(
    engine: &Rc<dyn FileEngine>,
    file: &Arc<File>,
    offset: u64,
    len: u64,
) -> Result<(), IoError> {
    let (mut at, end) = (offset, offset + len);
    while at < end {
        let n = usize::try_from(end - at).map_or(ZERO_PIECE, |left| left.min(ZERO_PIECE));
        engine.write(file, at, Bytes::from_static(&ZEROS[..n]), false).await?;
        at += n as u64;
    }
    Ok(())
}

impl Bdev for Disk {
    fn product_name(&self) -> &'static str {
        match self.params.module {
            FileModule::Aio => "AIO disk",
            FileModule::Uring => "URING bdev",
        }
    }
    fn module(&self) -> &'static str {
        self.params.module.as_str()
    }
    fn block_size(&self) -> u32 {
        self.block_size
    }
    fn num_blocks(&self) -> u64 {
        self.num_blocks.get()
    }
    fn uuid(&self) -> Uuid {
        self.uuid
    }
    fn supports(&self, io: IoType) -> bool {
        match io {
            IoType::Read | IoType::Flush | IoType::Reset | IoType::Compare => true,
            IoType::Write | IoType::WriteZeroes | IoType::Unmap => !self.params.readonly,
            IoType::CompareAndWrite | IoType::Abort => false,
        }
    }
    fn driver_specific(&self) -> Value {
        let p = &self.params;
        match p.module {
            FileModule::Aio => json!({"aio": {
                "filename": p.filename,
                "block_size_override": p.block_size.is_some_and(|b| b != 0),
                "readonly": p.readonly,
                "fallocate": p.fallocate,
                "nowait": false,
            }}),
            FileModule::Uring => json!({"uring": {"filename": p.filename}}),
        }
    }
    fn read(&self, lba: u64, buf: BytesMut) -> IoFuture<BytesMut> {
        self.engine.read(&self.file, self.at(lba), buf)
    }
    fn write(&self, lba: u64, data: Bytes, fua: bool) -> IoFuture<()> {
        if self.params.readonly {
            return Box::pin(std::future::ready(Err(IoError::WriteProtected)));
        }
        self.engine.write(&self.file, self.at(lba), data, fua)
    }
    fn flush(&self) -> IoFuture<()> {
        self.engine.sync(&self.file)
    }
    fn unmap(&self, lba: u64, blocks: u64) -> IoFuture<()> {
        if self.params.readonly {
            return Box::pin(std::future::ready(Err(IoError::WriteProtected)));
        }
        let hole = self.engine.deallocate(&self.file, Deallocate::Hole, self.at(lba), self.at(blocks));
        Box::pin(async move {
            match hole.await {
                // Deallocation is a hint.
                Err(IoError::Unsupported) => Ok(()),
                result => result,
            }
        })
    }
    fn write_zeroes(&self, lba: u64, blocks: u64, fua: bool) -> IoFuture<()> {
        if self.params.readonly {
            return Box::pin(std::future::ready(Err(IoError::WriteProtected)));
        }
        self.zero(self.at(lba), self.at(blocks), fua)
    }
    fn destruct(&self) -> LocalBoxFuture<'static, ()> {
        let synced = self.engine.sync(&self.file);
        let (name, readonly) = (self.params.name.clone(), self.params.readonly);
        Box::pin(async move {
            if readonly {
                return;
            }
            if let Err(e) = synced.await {
                tracing::warn!(bdev = %name, error = %e, "last flush of a file failed");
            }
        })
    }
}

#[cfg(test)]
mod tests;
