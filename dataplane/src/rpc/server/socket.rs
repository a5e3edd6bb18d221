//! Who owns the path of a socket: the process that holds the lock file beside it, as in SPDK.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};
use tokio::net::{UnixListener, UnixStream};

/// Why a path cannot be listened on.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    #[error("socket {path}: in use by another process; choose another path with -r, or stop that process")]
    InUse { path: PathBuf },
    #[error("socket {path}: there is a file at this path that is no socket")]
    NotASocket { path: PathBuf },
    #[error("socket {path}: {what}")]
    Io {
        path: PathBuf,
        what: &'static str,
        #[source]
        source: io::Error,
    },
}

/// A listening socket. Dropping it removes its file.
#[derive(Debug)]
pub struct OwnedSocket {
    listener: UnixListener,
    path: PathBuf,
    lock_path: PathBuf,
    _lock: File,
}

impl OwnedSocket {
    pub(super) async fn bind(path: &Path) -> Result<Self, BindError> {
        let fail = |what| move |source| BindError::Io { path: path.to_owned(), what, source };
        let mut lock_path = path.as_os_str().to_owned();
        lock_path.push(".lock");
        let lock_path = PathBuf::from(lock_path);
        let lock = lock(&lock_path)
            .map_err(fail("cannot use the lock file beside it"))?
            .ok_or_else(|| BindError::InUse { path: path.to_owned() })?;
        remove_stale(path).await?;
        let listener = UnixListener::bind(path).map_err(fail("cannot listen"))?;
        Ok(Self { listener, path: path.to_owned(), lock_path, _lock: lock })
    }

    pub(super) fn listener(&self) -> &UnixListener {
        &self.listener
    }
}

impl Drop for OwnedSocket {
    fn drop(&mut self) {
        // Both while the lock is held. What cannot be removed is replaced by the next process.
        let _ = std::fs::remove_file(&self.path);
        let _ = std::fs::remove_file(&self.lock_path);
    }
}

/// The locked file, or `None` if another process has it.
fn lock(path: &Path) -> io::Result<Option<File>> {
    loop {
        let file =
            OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path)?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => return Ok(None),
            Err(error) => return Err(error.into()),
        }
        // Its last owner may have removed the file between our open and our lock: then the lock means nothing.
        match std::fs::metadata(path) {
            Ok(now) if now.ino() == file.metadata()?.ino() => return Ok(Some(file)),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
}

/// Removes a socket file nobody listens on.
async fn remove_stale(path: &Path) -> Result<(), BindError> {
    let fail = |what| move |source| BindError::Io { path: path.to_owned(), what, source };
    match std::fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(fail("cannot look at it")(error)),
        Ok(found) if !found.file_type().is_socket() => {
            return Err(BindError::NotASocket { path: path.to_owned() });
        }
        Ok(_) => {}
    }
    match UnixStream::connect(path).await {
        Ok(_) => Err(BindError::InUse { path: path.to_owned() }),
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            std::fs::remove_file(path).map_err(fail("cannot remove what a former process left"))
        }
        Err(error) => Err(fail("cannot tell whether somebody answers on it")(error)),
    }
}
