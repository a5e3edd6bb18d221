//! What an agent must not forget: whose node it serves, the highest generation it accepted, what it has initialised.
//!
//! One file, `ledger`, of checksummed lines. Records are appended and synced; callers that come while a sync is in flight share the next
//! one. A torn tail (crash in mid-write) is dropped; damage anywhere else is refused. The file is written anew (temporary file, fsync,
//! rename, fsync of the directory) when most of its lines are history.

use std::collections::BTreeSet;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Lines of history that are not worth writing the file anew.
const SLACK_LINES: usize = 4096;

/// Something to remember.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Record {
    /// The agent serves this node from now on; everything older is about another one.
    Node(String),
    /// A desired state of this generation was accepted.
    Generation(u64),
    /// Something was initialised: it is never created again.
    Initialised(String),
    /// It was deleted on order and is confirmed gone.
    Gone(String),
}

impl Record {
    fn render(&self) -> String {
        let payload = match self {
            Self::Node(id) => format!("node {id}"),
            Self::Generation(n) => format!("gen {n}"),
            Self::Initialised(id) => format!("init {id}"),
            Self::Gone(id) => format!("gone {id}"),
        };
        format!("{:08x} {payload}\n", crc32c::crc32c(payload.as_bytes()))
    }

    fn parse(line: &str) -> Option<Self> {
        let (sum, payload) = line.split_once(' ')?;
        if u32::from_str_radix(sum, 16).ok()? != crc32c::crc32c(payload.as_bytes()) {
            return None;
        }
        let (kind, value) = payload.split_once(' ')?;
        Some(match kind {
            "node" => Self::Node(value.to_owned()),
            "gen" => Self::Generation(value.parse().ok()?),
            "init" => Self::Initialised(value.to_owned()),
            "gone" => Self::Gone(value.to_owned()),
            _ => return None,
        })
    }
}

/// What the records add up to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Memory {
    /// Empty: no node yet.
    pub node_id: String,
    pub generation: u64,
    pub initialised: BTreeSet<String>,
}

impl Memory {
    fn apply(&mut self, record: &Record) {
        match record {
            Record::Node(id) if *id != self.node_id => {
                *self = Self { node_id: id.clone(), ..Self::default() };
            }
            Record::Node(_) => {}
            Record::Generation(n) => self.generation = self.generation.max(*n),
            Record::Initialised(id) => {
                self.initialised.insert(id.clone());
            }
            Record::Gone(id) => {
                self.initialised.remove(id);
            }
        }
    }

    fn records(&self) -> Vec<Record> {
        let mut records = vec![Record::Node(self.node_id.clone()), Record::Generation(self.generation)];
        records.extend(self.initialised.iter().cloned().map(Record::Initialised));
        records
    }
}

/// The ledger cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum LedgerError {
    #[error("cannot {op} {}", path.display())]
    Io {
        op: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{} is in use by another agent", path.display())]
    InUse { path: PathBuf },
    #[error(
        "{} is damaged at line {line}: restore it from a copy, or remove it only if nothing on this node holds data",
        path.display()
    )]
    Damaged { path: PathBuf, line: usize },
}

struct Pending {
    memory: Memory,
    queue: Vec<Record>,
    /// Number of records ever queued.
    queued: u64,
}

struct Disk {
    file: Arc<File>,
    /// Length up to which the file is whole.
    length: u64,
    lines: usize,
    /// Number of records ever made durable.
    durable: u64,
}

/// An open ledger.
pub struct Ledger {
    dir: PathBuf,
    pending: Mutex<Pending>,
    disk: tokio::sync::Mutex<Disk>,
    _lock: File,
}

impl Ledger {
    /// Opens (or starts) the ledger in `dir`, which is created if needed. One agent at a time.
    ///
    /// # Errors
    /// [`LedgerError`].
    pub fn open(dir: &Path) -> Result<Self, LedgerError> {
        std::fs::create_dir_all(dir).map_err(|e| io_error("create", dir, e))?;
        let lock = lock(dir)?;
        let path = dir.join("ledger");
        let (memory, lines) = load(&path)?;
        let disk = if lines.is_some_and(|n| n <= memory.records().len() + SLACK_LINES) {
            reopen(&path, lines.unwrap_or(0))?
        } else {
            rewrite(dir, &memory)?
        };
        let pending = Pending { memory, queue: Vec::new(), queued: 0 };
        Ok(Self {
            dir: dir.to_owned(),
            pending: Mutex::new(pending),
            disk: tokio::sync::Mutex::new(disk),
            _lock: lock,
        })
    }

    fn pending(&self) -> MutexGuard<'_, Pending> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is durable.
    pub fn memory(&self) -> Memory {
        self.pending().memory.clone()
    }

    /// Node id and highest generation that are durable.
    pub fn position(&self) -> (String, u64) {
        let pending = self.pending();
        (pending.memory.node_id.clone(), pending.memory.generation)
    }

    /// Whether `id` was initialised.
    pub fn initialised(&self, id: &str) -> bool {
        self.pending().memory.initialised.contains(id)
    }

    /// Whether anything was initialised and not given up.
    pub fn holds_data(&self) -> bool {
        !self.pending().memory.initialised.is_empty()
    }

    /// Makes `records` durable; returns when they are.
    ///
    /// # Errors
    /// [`LedgerError::Io`]; then they are not remembered by this process either, but a later call may still write them.
    pub async fn remember(&self, records: Vec<Record>) -> Result<(), LedgerError> {
        if records.is_empty() {
            return Ok(());
        }
        let ticket = {
            let mut pending = self.pending();
            pending.queued += records.len() as u64;
            pending.queue.extend(records);
            pending.queued
        };
        let mut disk = self.disk.lock().await;
        if disk.durable >= ticket {
            return Ok(());
        }
        let batch = std::mem::take(&mut self.pending().queue);
        let written = self.write(&mut disk, &batch).await;
        let mut pending = self.pending();
        match written {
            Ok(()) => {
                disk.durable += batch.len() as u64;
                for record in &batch {
                    pending.memory.apply(record);
                }
                Ok(())
            }
            Err(error) => {
                pending.queue.splice(0..0, batch);
                Err(error)
            }
        }
    }

    async fn write(&self, disk: &mut Disk, batch: &[Record]) -> Result<(), LedgerError> {
        let path = self.dir.join("ledger");
        let text: String = batch.iter().map(Record::render).collect();
        let (file, length, size) = (Arc::clone(&disk.file), disk.length, text.len() as u64);
        blocking(move || append(&file, length, text.as_bytes()).map_err(|e| io_error("write", &path, e)))
            .await?;
        disk.length += size;
        disk.lines += batch.len();
        let mut memory = self.memory();
        batch.iter().for_each(|record| memory.apply(record));
        if disk.lines > memory.initialised.len() * 2 + SLACK_LINES {
            let (dir, durable) = (self.dir.clone(), disk.durable);
            *disk = blocking(move || rewrite(&dir, &memory)).await?;
            disk.durable = durable;
        }
        Ok(())
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, LedgerError> + Send + 'static,
) -> Result<T, LedgerError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(join) => std::panic::resume_unwind(join.into_panic()),
    }
}

fn io_error(op: &'static str, path: &Path, source: io::Error) -> LedgerError {
    LedgerError::Io { op, path: path.to_owned(), source }
}

fn lock(dir: &Path) -> Result<File, LedgerError> {
    let path = dir.join("lock");
    let file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path)
        .map_err(|e| io_error("open", &path, e))?;
    match rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(file),
        Err(rustix::io::Errno::WOULDBLOCK) => Err(LedgerError::InUse { path: dir.to_owned() }),
        Err(e) => Err(io_error("lock", &path, e.into())),
    }
}

/// Memory and number of lines; no number if the file must be written anew (absent, or its tail is torn).
fn load(path: &Path) -> Result<(Memory, Option<usize>), LedgerError> {
    let mut memory = Memory::default();
    let bytes = match std::fs::read(path) {
        Ok(bytes) => bytes,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok((memory, None)),
        Err(e) => return Err(io_error("read", path, e)),
    };
    let lines: Vec<Option<Record>> = bytes
        .split_inclusive(|b| *b == b'\n')
        .map(|line| std::str::from_utf8(line).ok()?.strip_suffix('\n').and_then(Record::parse))
        .collect();
    let whole = lines.iter().take_while(|record| record.is_some()).count();
    if lines[whole..].iter().any(Option::is_some) {
        return Err(LedgerError::Damaged { path: path.to_owned(), line: whole + 1 });
    }
    lines.iter().flatten().for_each(|record| memory.apply(record));
    Ok((memory, (whole == lines.len()).then_some(whole)))
}

fn append(mut file: &File, length: u64, bytes: &[u8]) -> io::Result<()> {
    // What an earlier, failed write may have left is cut off first.
    file.set_len(length)?;
    file.write_all(bytes)?;
    file.sync_data()
}

fn reopen(path: &Path, lines: usize) -> Result<Disk, LedgerError> {
    let file = OpenOptions::new().append(true).open(path).map_err(|e| io_error("open", path, e))?;
    let length = file.metadata().map_err(|e| io_error("examine", path, e))?.len();
    Ok(Disk { file: Arc::new(file), length, lines, durable: 0 })
}

/// Writes the file anew so that at any time the old or the new one is there, whole.
fn rewrite(dir: &Path, memory: &Memory) -> Result<Disk, LedgerError> {
    let (path, temporary) = (dir.join("ledger"), dir.join("ledger.new"));
    let records = memory.records();
    let text: String = records.iter().map(Record::render).collect();
    let mut file = File::create(&temporary).map_err(|e| io_error("create", &temporary, e))?;
    file.write_all(text.as_bytes())
        .and_then(|()| file.sync_all())
        .map_err(|e| io_error("write", &temporary, e))?;
    std::fs::rename(&temporary, &path).map_err(|e| io_error("rename", &temporary, e))?;
    File::open(dir).and_then(|d| d.sync_all()).map_err(|e| io_error("sync", dir, e))?;
    reopen(&path, records.len())
}

#[cfg(test)]
#[path = "ledger_tests.rs"]
mod tests;
