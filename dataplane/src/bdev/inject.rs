//! `bdev_error`: a bdev that fails, delays without end or corrupts what passes through it, on demand.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

use bytes::{Bytes, BytesMut};
use futures::future::LocalBoxFuture;
use serde_json::{Value, json};
use tokio::sync::Notify;
use uuid::Uuid;
use vda_spdk::{ErrorIoType, ErrorType};

use super::over::{Base, WaitsForBases, follow, watch_for_bases};
use super::{Bdev, BdevError, IoError, IoFuture, IoType, NewBdev, Registry};

/// Module name of error bdevs.
pub const MODULE: &str = "error";

/// Parameters of `bdev_error_inject_error`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Injection {
    pub error: ErrorType,
    /// How many operations it hits.
    pub num: u32,
    /// Only while at least that many are in flight on the base; 0 is always.
    pub queue_depth: u64,
    /// Status for [`ErrorType::NvmeFailure`].
    pub nvme: (u8, u8),
    /// Byte of the data, and what it is xored with, for [`ErrorType::CorruptData`].
    pub corrupt: (u64, u8),
}

#[derive(Default)]
struct Plan {
    injections: BTreeMap<ErrorIoType, Injection>,
    inflight: u64,
}

/// What an error bdev and its administration share.
#[derive(Default)]
struct Shared {
    plan: RefCell<Plan>,
    /// Lets pending operations go.
    resume: Notify,
}

/// A call of `bdev_error_create`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ErrorParams {
    pub base_name: String,
    pub uuid: Option<Uuid>,
}

/// What was asked for and is not gone yet.
type Wanted = Rc<RefCell<Vec<ErrorParams>>>;

struct ErrorDisk {
    base: Rc<Base>,
    /// The base as it was called when this was made.
    base_name: String,
    shared: Rc<Shared>,
    uuid: Uuid,
    wanted: Wanted,
}

/// All error bdevs of the process.
pub struct ErrorBdevs {
    registry: Registry,
    wanted: Wanted,
    disks: RefCell<BTreeMap<String, Rc<Shared>>>,
}

impl WaitsForBases for ErrorBdevs {
    fn base_came(&self, name: &str, is_it: &dyn Fn(&str) -> bool) {
        let waiting = self.waiting().into_iter().find(|waiting| is_it(&waiting.base_name));
        if let Some(Err(error)) = waiting.map(|params| self.build(&params)) {
            tracing::error!(base = name, %error, "the error bdev can not be put over its base");
        }
    }
}

impl ErrorBdevs {
    /// Starts the module, which waits for the bases of what it was asked for.
    pub fn new(registry: Registry) -> Rc<Self> {
        let module = Rc::new(Self {
            registry: registry.clone(),
            wanted: Wanted::default(),
            disks: RefCell::default(),
        });
        watch_for_bases(&registry, &module);
        module
    }

    /// `bdev_error_create`: a bdev `EE_{base}`. Without its base it comes later, with the base. When the base goes, it is forgotten.
    ///
    /// # Errors
    /// [`BdevError::Claimed`] for the base, [`BdevError::Exists`] also if one waits for that base.
    pub fn create(&self, params: ErrorParams) -> Result<(), BdevError> {
        if self.wanted.borrow().iter().any(|wanted| wanted.base_name == params.base_name) {
            return Err(BdevError::Exists { name: params.base_name });
        }
        match self.build(&params) {
            Ok(()) => {}
            Err(BdevError::NotFound { name }) => {
                tracing::info!(base = %name, "the error bdev waits for its base");
            }
            Err(error) => return Err(error),
        }
        self.wanted.borrow_mut().push(params);
        Ok(())
    }

    /// What waits for its base.
    pub fn waiting(&self) -> Vec<ErrorParams> {
        let is_there = |base: &str| self.registry.info(&bdev_name(base)).is_ok_and(|i| i.module == MODULE);
        self.wanted.borrow().iter().filter(|wanted| !is_there(&wanted.base_name)).cloned().collect()
    }

    /// Puts the bdev over its base.
    fn build(&self, params: &ErrorParams) -> Result<(), BdevError> {
        let (base, events) = Base::open(&self.registry, &params.base_name, MODULE)?;
        let name = bdev_name(&params.base_name);
        let shared = Rc::<Shared>::default();
        let bdev = Rc::new(ErrorDisk {
            base,
            base_name: params.base_name.clone(),
            shared: Rc::clone(&shared),
            uuid: params.uuid.filter(|u| !u.is_nil()).unwrap_or_else(Uuid::new_v4),
            wanted: Rc::clone(&self.wanted),
        });
        let registration =
            self.registry.register(NewBdev { name: name.clone(), aliases: Vec::new(), bdev })?;
        follow(events, registration);
        self.disks.borrow_mut().insert(name, shared);
        Ok(())
    }

    fn find(&self, name: &str) -> Result<Rc<Shared>, BdevError> {
        let name = self.registry.canonical_name(name)?;
        self.disks.borrow().get(&name).cloned().ok_or(BdevError::NotFound { name })
    }

    /// `bdev_error_inject_error`.
    ///
    /// # Errors
    /// [`BdevError::NotFound`]; [`BdevError::Invalid`] for a corruption that changes nothing.
    pub fn inject(&self, name: &str, io: ErrorIoType, injection: Injection) -> Result<(), BdevError> {
        let shared = self.find(name)?;
        if injection.error == ErrorType::CorruptData && injection.corrupt.1 == 0 {
            let value = injection.corrupt.1.to_string();
            return Err(BdevError::Invalid { field: "corrupt_value", value, allowed: "1 to 255" });
        }
        let mut plan = shared.plan.borrow_mut();
        match io {
            ErrorIoType::Clear => plan.injections.clear(),
            ErrorIoType::All => {
                for io in [ErrorIoType::Read, ErrorIoType::Write, ErrorIoType::Unmap, ErrorIoType::Flush] {
                    plan.injections.insert(io, injection);
                }
            }
            io => {
                plan.injections.insert(io, injection);
            }
        }
        Ok(())
    }

    /// `bdev_error_resume_pending`: what was held goes on, and nothing more is held.
    ///
    /// # Errors
    /// [`BdevError::NotFound`].
    pub fn resume(&self, name: &str) -> Result<(), BdevError> {
        let shared = self.find(name)?;
        shared.plan.borrow_mut().injections.retain(|_, injection| injection.error != ErrorType::Pending);
        shared.resume.notify_waiters();
        Ok(())
    }

    /// `bdev_error_delete`.
    ///
    /// # Errors
    /// [`BdevError::NotFound`].
    pub fn delete(&self, name: &str) -> Result<impl Future<Output = ()> + use<>, BdevError> {
        let canonical = self.registry.canonical_name(name)?;
        let gone = self.registry.unregister(&canonical, MODULE)?;
        if let Some(shared) = self.disks.borrow_mut().remove(&canonical) {
            shared.resume.notify_waiters();
        }
        Ok(gone)
    }
}

/// The base as it was called when the bdev was made.
fn bdev_name(base_name: &str) -> String {
    format!("EE_{base_name}")
}

/// Counts an operation as in flight on the base.
struct InFlight(Rc<Shared>);

impl InFlight {
    fn begin(shared: &Rc<Shared>) -> Self {
        shared.plan.borrow_mut().inflight += 1;
        Self(Rc::clone(shared))
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.plan.borrow_mut().inflight -= 1;
    }
}

impl Shared {
    /// What happens to the next operation of a kind.
    fn next(&self, io: ErrorIoType) -> Option<Injection> {
        let mut plan = self.plan.borrow_mut();
        let inflight = plan.inflight;
        plan.injections.get_mut(&io).filter(|i| i.num > 0 && inflight >= i.queue_depth).map(|i| {
            i.num -= 1;
            *i
        })
    }
}

/// What is beyond the end of the data is not corrupted.
fn corrupted(mut data: BytesMut, (offset, value): (u64, u8)) -> BytesMut {
    if let Some(byte) = usize::try_from(offset).ok().and_then(|at| data.get_mut(at)) {
        *byte ^= value;
    }
    data
}

impl ErrorDisk {
    fn run<T: 'static, F>(
        &self,
        io: ErrorIoType,
        begin: impl FnOnce(&Base) -> Result<F, IoError> + 'static,
    ) -> IoFuture<T>
    where
        F: Future<Output = Result<T, IoError>> + 'static,
    {
        let hit = self.shared.next(io);
        self.inject(hit, begin)
    }

    fn inject<T: 'static, F>(
        &self,
        hit: Option<Injection>,
        begin: impl FnOnce(&Base) -> Result<F, IoError> + 'static,
    ) -> IoFuture<T>
    where
        F: Future<Output = Result<T, IoError>> + 'static,
    {
        let (base, shared) = (Rc::clone(&self.base), Rc::clone(&self.shared));
        Box::pin(async move {
            match hit.map(|i| (i.error, i.nvme)) {
                Some((ErrorType::Failure, _)) => return Err(IoError::Os { errno: libc::EIO }),
                Some((ErrorType::NvmeFailure, (sct, sc))) => {
                    return Err(IoError::Nvme { sct, sc, dnr: false });
                }
                Some((ErrorType::Pending, _)) => shared.resume.notified().await,
                // SPDK's bdev layer repeats what failed for want of memory.
                Some((ErrorType::Nomem | ErrorType::CorruptData, _)) | None => {}
            }
            let inflight = InFlight::begin(&shared);
            let result = begin(&base)?.await;
            drop(inflight);
            result
        })
    }
}

impl Bdev for ErrorDisk {
    fn product_name(&self) -> &'static str {
        "Error Injection Disk"
    }
    fn module(&self) -> &'static str {
        MODULE
    }
    fn block_size(&self) -> u32 {
        self.base.block_size
    }
    fn num_blocks(&self) -> u64 {
        self.base.begin(super::Descriptor::num_blocks).unwrap_or(0)
    }
    fn uuid(&self) -> Uuid {
        self.uuid
    }
    fn supports(&self, io: IoType) -> bool {
        self.base.begin(|d| d.supports(io)).unwrap_or(false)
    }
    fn driver_specific(&self) -> Value {
        json!({"error_disk": {"base_bdev": self.base.name}})
    }
    fn read(&self, lba: u64, buf: BytesMut) -> IoFuture<BytesMut> {
        let hit = self.shared.next(ErrorIoType::Read);
        let read = self.inject(hit, move |base| base.begin(|d| d.read(lba, buf)));
        match hit {
            Some(Injection { error: ErrorType::CorruptData, corrupt, .. }) => {
                Box::pin(async move { Ok(corrupted(read.await?, corrupt)) })
            }
            _ => read,
        }
    }
    fn write(&self, lba: u64, data: Bytes, fua: bool) -> IoFuture<()> {
        let hit = self.shared.next(ErrorIoType::Write);
        let data = match hit {
            Some(Injection { error: ErrorType::CorruptData, corrupt, .. }) => {
                corrupted(BytesMut::from(&data[..]), corrupt).freeze()
            }
            _ => data,
        };
        self.inject(hit, move |base| base.begin(|d| d.write(lba, data, fua)))
    }
    fn flush(&self) -> IoFuture<()> {
        self.run(ErrorIoType::Flush, |base| base.begin(super::Descriptor::flush))
    }
    fn unmap(&self, lba: u64, blocks: u64) -> IoFuture<()> {
        self.run(ErrorIoType::Unmap, move |base| base.begin(|d| d.unmap(lba, blocks)))
    }
    fn write_zeroes(&self, lba: u64, blocks: u64, fua: bool) -> IoFuture<()> {
        // SPDK knows errors of reads, writes, unmaps and flushes only.
        self.inject(None, move |base| base.begin(|d| d.write_zeroes(lba, blocks, fua)))
    }
    fn destruct(&self) -> LocalBoxFuture<'static, ()> {
        self.wanted.borrow_mut().retain(|wanted| wanted.base_name != self.base_name);
        self.base.close();
        Box::pin(std::future::ready(()))
    }
}
