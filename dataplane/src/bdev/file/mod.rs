//! `bdev_aio` and `bdev_uring`: disks in files and on block devices.
//!
//! I/O goes around the page cache (`O_DIRECT`) where the file system lets it, all I/O of a bdev or none; durability comes from
//! `fdatasync` (flush) and `RWF_DSYNC` (FUA) in either case (`docs/adr/0082-file-io-is-direct.md`).

mod disk;
mod engine;
mod medium;
mod pool;
mod ring;

use std::cell::{Cell, OnceCell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;

use uuid::Uuid;

use self::disk::Disk;
use self::engine::FileEngine;
use self::medium::{Medium, file_error};
use self::pool::ThreadPool;
use self::ring::Ring;
use super::{Bdev, BdevError, NewBdev, Registration, Registry};
use crate::page_buffers::PageBuffers;
use crate::slabs;

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

/// Which way I/O takes between a bdev and its file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum FileCache {
    /// Around the page cache, where the file system lets it.
    #[default]
    Around,
    /// Through it.
    Through,
}

/// How the I/O of files is done, where there is a choice.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FileIo {
    pub cache: FileCache,
    /// By threads, even where `io_uring` works.
    pub threads: bool,
}

/// The file bdevs of the process and the engines that do their I/O.
pub struct FileBdevs {
    registry: Registry,
    io: FileIo,
    buffers: Rc<PageBuffers>,
    pool: Rc<ThreadPool>,
    /// `None` inside if the kernel refuses `io_uring`.
    ring: OnceCell<Option<Rc<Ring>>>,
    disks: RefCell<BTreeMap<String, (Rc<Disk>, Registration)>>,
}

impl FileBdevs {
    /// With I/O as it is by default.
    pub fn new(registry: Registry) -> Self {
        Self::with(registry, FileIo::default())
    }

    pub fn with(registry: Registry, io: FileIo) -> Self {
        Self {
            registry,
            io,
            buffers: Rc::default(),
            pool: Rc::new(ThreadPool),
            ring: OnceCell::new(),
            disks: RefCell::new(BTreeMap::new()),
        }
    }

    fn engine(&self) -> Rc<dyn FileEngine> {
        let ring = self.ring.get_or_init(|| {
            if self.io.threads {
                return None;
            }
            Ring::new()
                .inspect_err(|e| {
                    tracing::warn!(error = %e, "io_uring is not available: files are read and written by threads, which costs more");
                })
                .ok()
        });
        match ring {
            Some(ring) => Rc::<Ring>::clone(ring),
            None => Rc::<ThreadPool>::clone(&self.pool),
        }
    }

    fn open(&self, params: &FileParams) -> Result<(Medium, u32, u64), BdevError> {
        let mut medium = Medium::open(params)?;
        let (block_size, num_blocks) = medium.geometry(&params.filename, params.block_size)?;
        if self.io.cache == FileCache::Around
            && let Err(reason) = medium.go_direct(block_size)
        {
            tracing::info!(bdev = %params.name, file = %params.filename, %reason, "I/O goes through the page cache");
        }
        if medium.direct.is_some() {
            slabs::disk_is_there();
        }
        Ok((medium, block_size, num_blocks))
    }

    /// `bdev_aio_create`, `bdev_uring_create`.
    ///
    /// # Errors
    /// [`BdevError::File`] if the file can not be opened, [`BdevError::Invalid`] for its size or block size,
    /// [`BdevError::Exists`] for a taken name or uuid.
    pub fn create(&self, params: FileParams) -> Result<Registration, BdevError> {
        let (medium, block_size, num_blocks) = self.open(&params)?;
        let disk = Rc::new(Disk {
            engine: self.engine(),
            buffers: Rc::clone(&self.buffers),
            medium: Arc::new(medium),
            block_size,
            num_blocks: Cell::new(num_blocks),
            lost: Rc::default(),
            uuid: params.uuid.filter(|u| !u.is_nil()).unwrap_or_else(Uuid::new_v4),
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
        let bytes = disk.medium.bytes().map_err(|e| file_error(&disk.params.filename, &e))?;
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

#[cfg(test)]
mod tests;
