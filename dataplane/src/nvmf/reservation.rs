//! Reservations of namespaces: the commands, what hosts are told, and the file that they persist in (Base 8.19).

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use futures::future::LocalBoxFuture;
use serde::{Deserialize, Serialize};
use uuid::Uuid;
use vda_nvme::cmd::{NSID_ALL, Sqe, feature, io};
use vda_nvme::controller::Request;
use vda_nvme::log::{self, RESERVATION_LEN};
use vda_nvme::reservation::{Change, Held, Notification, Registrant, Reservations, Type};
use vda_nvme::status::Status;

use super::TargetError;
use super::controller::Controller;
use super::io::Done;
use super::namespace::Namespace;

/// How long Preempt and Abort waits for the I/O of others (SPDK's `NS_RESERVATION_IO_WAIT_TIMEOUT_S`).
const DRAIN_TIMEOUT: Duration = Duration::from_secs(10);
/// Notifications that a controller keeps (SPDK's bound; the page counts them in a byte).
const MAX_NOTIFICATIONS: usize = 255;

/// Reservations of one namespace.
pub(super) struct Reserved {
    state: RefCell<Reservations>,
    /// Commands that change it run one after the other: storing and draining take time.
    lock: tokio::sync::Mutex<()>,
    /// Reservation Notification Mask feature.
    mask: Cell<u32>,
    file: Option<PathBuf>,
}

impl Reserved {
    /// State from `file`, if there is one.
    ///
    /// # Errors
    /// [`TargetError::Invalid`] if the file cannot be read, is not one of these, or belongs to another bdev.
    pub(super) fn load(file: Option<PathBuf>, bdev: Uuid) -> Result<Self, TargetError> {
        let stored = file.as_deref().map(|f| read(f, bdev)).transpose().map_err(|reason| {
            let shown = file.as_deref().unwrap_or_else(|| Path::new("")).display().to_string();
            TargetError::invalid("ptpl_file", shown, reason)
        })?;
        let fresh = || Reservations::new(file.is_some());
        let state = RefCell::new(stored.flatten().unwrap_or_else(fresh));
        Ok(Self { state, lock: tokio::sync::Mutex::default(), mask: Cell::new(0), file })
    }

    /// Where reservations persist.
    pub(super) fn file(&self) -> Option<&Path> {
        self.file.as_deref()
    }

    /// RESCAP.
    pub(super) fn capabilities(&self) -> u8 {
        Reservations::capabilities(self.file.is_some())
    }

    /// Whether a reservation of another host forbids the command.
    pub(super) fn check(&self, c: &Controller, sqe: &Sqe) -> Result<(), Status> {
        self.state.borrow().check(c.hostid.as_bytes(), sqe)
    }

    async fn store(&self, bdev: Option<Uuid>) -> Result<(), Status> {
        let (Some(file), Some(bdev)) = (self.file.clone(), bdev) else { return Ok(()) };
        let text = Stored::of(&self.state.borrow(), bdev)
            .map(|stored| serde_json::to_vec_pretty(&stored))
            .transpose()
            .map_err(|_| Status::INTERNAL_ERROR)?
            .unwrap_or_default();
        let path = file.clone();
        let written = tokio::task::spawn_blocking(move || replace(&path, &text)).await;
        match written {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => {
                tracing::error!(file = %file.display(), %error, "reservations cannot be stored");
                Err(Status::INTERNAL_ERROR)
            }
            Err(_) => Err(Status::INTERNAL_ERROR),
        }
    }
}

/// Whether it is one of the four commands.
pub(super) fn is_command(sqe: &Sqe) -> bool {
    matches!(
        sqe.opcode,
        io::RESERVATION_REGISTER | io::RESERVATION_REPORT | io::RESERVATION_ACQUIRE | io::RESERVATION_RELEASE
    )
}

/// Executes one of the four commands.
pub(super) fn begin(c: &Controller, ns: &Rc<Namespace>, r: Request) -> LocalBoxFuture<'static, Done> {
    let (tag, ns) = (r.tag, Rc::clone(ns));
    let (host, cntlid, subsystem) = (*c.hostid.as_bytes(), c.cntlid, Rc::clone(&c.subsystem));
    Box::pin(async move {
        let _one = ns.reservations.lock.lock().await;
        if r.sqe.opcode == io::RESERVATION_REPORT {
            return report(&ns, &r);
        }
        let outcome = {
            // What was waited for may have changed what is allowed.
            let mut state = ns.reservations.state.borrow_mut();
            state.check(&host, &r.sqe).and_then(|()| match r.sqe.opcode {
                io::RESERVATION_REGISTER => state.register(&host, cntlid, &r.sqe, &r.data),
                io::RESERVATION_ACQUIRE => state.acquire(&host, &r.sqe, &r.data),
                _ => state.release(&host, &r.sqe, &r.data),
            })
        };
        let status = match outcome {
            Err(status) => status,
            Ok(change) => {
                for (host, what) in
                    change.notify.iter().filter(|(_, w)| w.mask_bit() & ns.reservations.mask.get() == 0)
                {
                    let told = subsystem.all_controllers();
                    let sees = |c: &&Rc<Controller>| ns.is_visible_to(&c.hostnqn);
                    for c in told.iter().filter(|c| c.hostid.as_bytes() == host).filter(sees) {
                        c.reservation_changed(ns.nsid, *what);
                    }
                }
                settle(&ns, &change).await.err().unwrap_or(Status::SUCCESS)
            }
        };
        Done::new(tag, status, None)
    })
}

/// Makes a change durable, and waits for what preempted hosts have begun.
async fn settle(ns: &Namespace, change: &Change) -> Result<(), Status> {
    if change.changed {
        ns.reservations.store(ns.bdev_uuid()).await?;
    }
    if change.abort {
        let drained = tokio::time::timeout(DRAIN_TIMEOUT, ns.drain_begun()).await;
        drained.map_err(|_| Status::COMMAND_INTERRUPTED)?;
    }
    Ok(())
}

fn report(ns: &Namespace, r: &Request) -> Done {
    // Number of dwords, zero based. SPDK wants room for the header.
    let length = (u64::from(r.sqe.cdw10[0]) + 1) * 4;
    let page = match ns.reservations.state.borrow().report(&r.sqe) {
        _ if length < 64 => Err(Status::INTERNAL_ERROR.dnr()),
        _ if length > u64::from(r.buffer_len) => Err(Status::DATA_SGL_LENGTH_INVALID.dnr()),
        page => page,
    };
    match page {
        Err(status) => Done::new(r.tag, status, None),
        Ok(mut page) => {
            page.resize(r.buffer_len as usize, 0);
            Done::new(r.tag, Status::SUCCESS, Some(page.into()))
        }
    }
}

fn namespaces(c: &Controller, nsid: u32) -> Result<Vec<Rc<Namespace>>, Status> {
    if nsid == NSID_ALL {
        let all = c.subsystem.namespaces.borrow();
        return Ok(all.values().filter(|ns| ns.is_visible_to(&c.hostnqn)).cloned().collect());
    }
    c.namespace(nsid).map(|ns| vec![ns]).ok_or(Status::INVALID_FIELD.dnr())
}

/// Get Features: Reservation Notification Mask and Reservation Persistence, of one namespace.
pub(super) fn get_feature(c: &Controller, sqe: &Sqe) -> Result<u32, Status> {
    let ns = c.namespace(sqe.nsid).ok_or(Status::INVALID_FIELD.dnr())?;
    let mask = sqe.cdw10[0].to_le_bytes()[0] == feature::RESERVATION_MASK;
    let persistent = u32::from(ns.reservations.state.borrow().is_persistent());
    Ok(if mask { ns.reservations.mask.get() } else { persistent })
}

/// Set Features of the same, of one namespace or of all. Persistence is stored with the next command that changes anything.
pub(super) fn set_feature(c: &Controller, sqe: &Sqe) -> Result<(), Status> {
    let value = sqe.cdw10[1];
    for ns in namespaces(c, sqe.nsid)? {
        if sqe.cdw10[0].to_le_bytes()[0] == feature::RESERVATION_MASK {
            ns.reservations.mask.set(value);
        } else if sqe.nsid != NSID_ALL || ns.reservations.file.is_some() {
            ns.reservations.state.borrow_mut().set_persistent(value & 1 != 0)?;
        }
    }
    Ok(())
}

/// Reservation notifications of a controller that its host has not read.
#[derive(Default)]
pub(super) struct Notifications {
    /// Of all notifications ever; the last page carries it when some had to be dropped.
    count: u64,
    pages: VecDeque<(u64, Notification, u32)>,
}

impl Notifications {
    pub(super) fn push(&mut self, nsid: u32, what: Notification) {
        self.count = self.count.wrapping_add(1).max(1);
        let full = self.pages.len() >= MAX_NOTIFICATIONS;
        match self.pages.back_mut() {
            Some(last) if full => last.0 = self.count,
            _ => self.pages.push_back((self.count, what, nsid)),
        }
    }

    /// The pages from `offset` on, at most `length` bytes, which are then gone with those before; zeroes if there are none.
    pub(super) fn read(&mut self, offset: u64, length: usize) -> Result<Vec<u8>, Status> {
        if self.pages.is_empty() {
            return Ok(vec![0; RESERVATION_LEN]);
        }
        let (all, from) = (self.pages.len() * RESERVATION_LEN, usize::try_from(offset).unwrap_or(usize::MAX));
        if from >= all {
            return Err(Status::INVALID_FIELD.dnr());
        }
        let end = from.saturating_add(length).min(all);
        let taken: Vec<_> = self.pages.drain(..end.div_ceil(RESERVATION_LEN)).collect();
        let more = |i: usize| (all / RESERVATION_LEN - 1 - i) as u8;
        let page = |(i, (count, what, nsid)): (usize, &(u64, Notification, u32))| {
            log::encode_reservation(*count, *what as u8, more(i), *nsid)
        };
        let bytes: Vec<u8> = taken.iter().enumerate().flat_map(page).collect();
        Ok(bytes[from..end].to_vec())
    }
}

/// The file, in SPDK's form: what one target stored the other can load.
#[derive(Serialize, Deserialize)]
struct Stored {
    #[serde(default)]
    ptpl: bool,
    #[serde(default)]
    rtype: u8,
    #[serde(default)]
    crkey: u64,
    bdev_uuid: String,
    #[serde(default)]
    holder_uuid: String,
    registrants: Vec<StoredRegistrant>,
}

#[derive(Serialize, Deserialize)]
struct StoredRegistrant {
    rkey: u64,
    host_uuid: Uuid,
}

impl Stored {
    /// `None` if the state is not to persist.
    fn of(state: &Reservations, bdev: Uuid) -> Option<Self> {
        let held = state.held();
        let holder =
            held.filter(|h| !h.kind.is_all_registrants()).map(|h| Uuid::from_bytes(h.holder).to_string());
        let registrant =
            |r: &Registrant| StoredRegistrant { rkey: r.key, host_uuid: Uuid::from_bytes(r.host) };
        state.is_persistent().then(|| Self {
            ptpl: true,
            rtype: held.map_or(0, |h| h.kind as u8),
            crkey: held.map_or(0, |h| h.key),
            bdev_uuid: bdev.to_string(),
            holder_uuid: holder.unwrap_or_default(),
            registrants: state.registrants().iter().map(registrant).collect(),
        })
    }

    fn restore(self, bdev: Uuid) -> Result<Option<Reservations>, &'static str> {
        if !self.ptpl || self.registrants.is_empty() {
            return Ok(None);
        }
        if Uuid::try_parse(&self.bdev_uuid) != Ok(bdev) {
            return Err("belongs to another bdev");
        }
        let registrants: Vec<Registrant> = self
            .registrants
            .iter()
            .map(|r| Registrant { host: *r.host_uuid.as_bytes(), key: r.rkey, cntlid: 0 })
            .collect();
        let held = match (self.rtype, Type::from_byte(self.rtype)) {
            (0, _) => None,
            (_, None) => return Err("unknown type of reservation"),
            (_, Some(kind)) if kind.is_all_registrants() => {
                registrants.first().map(|r| Held { kind, key: r.key, holder: r.host })
            }
            (_, Some(kind)) => {
                let holder = Uuid::try_parse(&self.holder_uuid).map_err(|_| "the holder is no UUID")?;
                Some(Held { kind, key: self.crkey, holder: *holder.as_bytes() })
            }
        };
        Reservations::restore(registrants, held).map(Some)
    }
}

/// A file that does not exist, or is empty, is no error.
fn read(file: &Path, bdev: Uuid) -> Result<Option<Reservations>, String> {
    let text = match std::fs::read(file) {
        Ok(text) => text,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(e.to_string()),
    };
    if text.is_empty() {
        return Ok(None);
    }
    let stored: Stored = serde_json::from_slice(&text).map_err(|e| e.to_string())?;
    stored.restore(bdev).map_err(str::to_owned)
}

/// Replaces the file at once, durably: after a crash it is the old or the new one.
fn replace(file: &Path, text: &[u8]) -> std::io::Result<()> {
    let folder = match file.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    let mut name = file.as_os_str().to_owned();
    name.push(".new");
    let new = PathBuf::from(name);
    let mut out = std::fs::File::create(&new)?;
    out.write_all(text)?;
    out.sync_all()?;
    std::fs::rename(&new, file)?;
    std::fs::File::open(folder)?.sync_all()
}
