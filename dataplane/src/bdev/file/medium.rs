//! What is on the other end of a path: opened, measured, and asked whether its I/O can go around the page cache.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileTypeExt;

use rustix::fs::{
    AtFlags, OFlags, SeekFrom, StatxFlags, fcntl_getfl, fcntl_setfl, ioctl_blksszget, seek, statx,
};
use rustix::io::Errno;

use super::FileParams;
use crate::bdev::BdevError;
use crate::page::{self, PAGE};

/// An open file or block device.
#[derive(Debug)]
pub(super) struct Medium {
    pub(super) file: File,
    pub(super) is_block_device: bool,
    /// What the addresses of buffers must be a multiple of; `None` if I/O goes through the page cache, and any will do.
    pub(super) direct: Option<usize>,
}

pub(super) fn file_error(path: &str, e: &std::io::Error) -> BdevError {
    BdevError::File { path: path.to_owned(), errno: e.raw_os_error().unwrap_or(libc::EIO) }
}

impl Medium {
    /// Opens `params.filename`, with I/O through the page cache.
    ///
    /// # Errors
    /// What the system answers; [`BdevError::Invalid`] if it is neither a file nor a block device.
    pub(super) fn open(params: &FileParams) -> Result<Self, BdevError> {
        let path = &params.filename;
        let file = OpenOptions::new()
            .read(true)
            .write(!params.readonly)
            .open(path)
            .map_err(|e| file_error(path, &e))?;
        let meta = file.metadata().map_err(|e| file_error(path, &e))?;
        let is_block_device = meta.file_type().is_block_device();
        if !is_block_device && !meta.is_file() {
            return Err(BdevError::Invalid {
                field: "filename",
                value: path.clone(),
                allowed: "a regular file or a block device",
            });
        }
        Ok(Self { file, is_block_device, direct: None })
    }

    /// Its size, bytes.
    pub(super) fn bytes(&self) -> std::io::Result<u64> {
        if self.is_block_device {
            // A block device's stat has no size; its end is where seeking to the end arrives.
            Ok(seek(&self.file, SeekFrom::End(0))?)
        } else {
            Ok(self.file.metadata()?.len())
        }
    }

    /// The block size and count a bdev gets if `asked` for a block size.
    ///
    /// # Errors
    /// [`BdevError::Invalid`] if its size, or the device, does not suit; [`BdevError::File`].
    pub(super) fn geometry(&self, path: &str, asked: Option<u32>) -> Result<(u32, u64), BdevError> {
        // A file has none of its own.
        let own = match self.is_block_device {
            true => Some(ioctl_blksszget(&self.file).map_err(|e| file_error(path, &e.into()))?),
            false => None,
        };
        let bytes = self.bytes().map_err(|e| file_error(path, &e))?;
        let block_size = asked.filter(|b| *b != 0).or(own).unwrap_or(0);
        let invalid = |field, value: String, allowed| Err(BdevError::Invalid { field, value, allowed });
        if block_size < 512 || !block_size.is_power_of_two() {
            return invalid("block_size", block_size.to_string(), "a power of two of at least 512");
        }
        if own.is_some_and(|own| block_size < own) {
            return invalid("block_size", block_size.to_string(), "at least the block size of the device");
        }
        let blocks = bytes / u64::from(block_size);
        if blocks == 0 || !bytes.is_multiple_of(u64::from(block_size)) {
            return invalid("size of the file", bytes.to_string(), "a multiple of the block size, not 0");
        }
        Ok((block_size, blocks))
    }

    /// From now on I/O in blocks of `block_size` goes around the page cache, all of it, if the file system lets it.
    ///
    /// # Errors
    /// Why it can not; it then goes through the page cache, all of it.
    pub(super) fn go_direct(&mut self, block_size: u32) -> Result<(), NotDirect> {
        let align = self.alignment()?;
        if !block_size.is_multiple_of(align.offset) {
            return Err(NotDirect::Alignment { block_size, needed: align.offset });
        }
        let flags = fcntl_getfl(&self.file)?;
        fcntl_setfl(&self.file, flags | OFlags::DIRECT)?;
        // Some say yes to the flag and no to the I/O.
        let mut block = page::zeroed(block_size as usize);
        if rustix::io::pread(&self.file, &mut block[..], 0) == Err(Errno::INVAL) {
            fcntl_setfl(&self.file, flags)?;
            return Err(NotDirect::Refused(Errno::INVAL));
        }
        self.direct = Some(align.memory);
        Ok(())
    }

    /// What direct I/O has to be aligned to.
    fn alignment(&self) -> Result<Alignment, NotDirect> {
        // Linux 6.1 on, and not every file system.
        if let Ok(known) = statx(&self.file, c"", AtFlags::EMPTY_PATH, StatxFlags::DIOALIGN)
            && StatxFlags::from_bits_retain(known.stx_mask).contains(StatxFlags::DIOALIGN)
        {
            return match (known.stx_dio_mem_align, known.stx_dio_offset_align) {
                (memory @ 1.., offset @ 1..) if memory as usize <= PAGE => {
                    Ok(Alignment { memory: memory as usize, offset })
                }
                _ => Err(NotDirect::Refused(Errno::OPNOTSUPP)),
            };
        }
        let offset = if self.is_block_device { ioctl_blksszget(&self.file)? } else { PAGE as u32 };
        Ok(Alignment { memory: PAGE, offset })
    }
}

/// What direct I/O has to be a multiple of, bytes.
struct Alignment {
    /// Addresses of buffers.
    memory: usize,
    /// Offsets and lengths.
    offset: u32,
}

/// Why I/O can not go around the page cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum NotDirect {
    #[error("direct I/O is refused: {0}")]
    Refused(#[from] Errno),
    #[error("direct I/O is in units of {needed} bytes, and the bdev's blocks have {block_size}")]
    Alignment { block_size: u32, needed: u32 },
}

#[cfg(test)]
#[path = "medium_tests.rs"]
mod tests;
