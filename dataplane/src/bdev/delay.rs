//! `bdev_delay`: answers later than the bdev below.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures::future::LocalBoxFuture;
use rand::RngExt;
use serde_json::{Value, json};
use uuid::Uuid;

use super::over::{Base, WaitsForBases, follow, watch_for_bases};
use super::{Bdev, BdevError, IoError, IoFuture, IoType, NewBdev, Registry};

/// Module name of delay bdevs.
pub const MODULE: &str = "delay";

/// Latencies of reads and writes in microseconds; one I/O in a hundred takes the p99. Below a millisecond the timer rounds up to one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Latencies {
    pub avg_read: u64,
    pub p99_read: u64,
    pub avg_write: u64,
    pub p99_write: u64,
}

/// Parameters of `bdev_delay_create`.
#[derive(Clone, Debug)]
pub struct DelayParams {
    pub name: String,
    pub base_bdev_name: String,
    pub latencies: Latencies,
    pub uuid: Option<Uuid>,
}

struct Delay {
    name: String,
    base: Rc<Base>,
    latencies: Rc<Cell<Latencies>>,
    uuid: Uuid,
}

/// All delay bdevs of the process.
pub struct DelayBdevs {
    registry: Registry,
    /// What was asked for and not deleted. A bdev is there while its base is, and comes back with it.
    wanted: RefCell<Vec<DelayParams>>,
    latencies: RefCell<BTreeMap<String, Rc<Cell<Latencies>>>>,
}

impl WaitsForBases for DelayBdevs {
    fn base_came(&self, name: &str, is_it: &dyn Fn(&str) -> bool) {
        for params in self.waiting().into_iter().filter(|waiting| is_it(&waiting.base_bdev_name)) {
            let delay = params.name.clone();
            if let Err(error) = self.build(params) {
                tracing::error!(%delay, base = name, %error, "the delay bdev can not be put over its base");
            }
        }
    }
}

impl DelayBdevs {
    /// Starts the module, which waits for the bases of what it was asked for.
    pub fn new(registry: Registry) -> Rc<Self> {
        let module = Rc::new(Self {
            registry: registry.clone(),
            wanted: RefCell::default(),
            latencies: RefCell::default(),
        });
        watch_for_bases(&registry, &module);
        module
    }

    /// `bdev_delay_create`. Without its base the bdev comes later, with the base.
    ///
    /// # Errors
    /// [`BdevError::Claimed`] for the base, [`BdevError::Exists`] also if one of that name waits for its base,
    /// [`BdevError::Invalid`] if a p99 is below its average.
    pub fn create(&self, params: DelayParams) -> Result<(), BdevError> {
        check(params.latencies)?;
        if self.wanted.borrow().iter().any(|wanted| wanted.name == params.name) {
            return Err(BdevError::Exists { name: params.name });
        }
        match self.build(params.clone()) {
            Ok(()) => {}
            Err(BdevError::NotFound { name }) => {
                tracing::info!(delay = %params.name, base = %name, "the delay bdev waits for its base");
            }
            Err(error) => return Err(error),
        }
        self.wanted.borrow_mut().push(params);
        Ok(())
    }

    /// What waits for its base.
    pub fn waiting(&self) -> Vec<DelayParams> {
        let is_there = |name: &str| self.registry.info(name).is_ok_and(|info| info.module == MODULE);
        self.wanted.borrow().iter().filter(|wanted| !is_there(&wanted.name)).cloned().collect()
    }

    /// Puts the bdev over its base.
    fn build(&self, params: DelayParams) -> Result<(), BdevError> {
        let (base, events) = Base::open(&self.registry, &params.base_bdev_name, MODULE)?;
        let latencies = Rc::new(Cell::new(params.latencies));
        let bdev = Delay {
            name: params.name.clone(),
            base,
            latencies: Rc::clone(&latencies),
            uuid: params.uuid.filter(|u| !u.is_nil()).unwrap_or_else(Uuid::new_v4),
        };
        let new = NewBdev { name: params.name.clone(), aliases: Vec::new(), bdev: Rc::new(bdev) };
        follow(events, self.registry.register(new)?);
        self.latencies.borrow_mut().insert(params.name, latencies);
        Ok(())
    }

    /// `bdev_delay_update_latency`. As in SPDK, until the base goes: when it comes back the latencies are those asked for at first.
    ///
    /// # Errors
    /// [`BdevError::NotFound`], also if it is no delay bdev, or `name` is an alias.
    pub fn update(&self, name: &str, change: impl FnOnce(&mut Latencies)) -> Result<(), BdevError> {
        let not_found = || BdevError::NotFound { name: name.to_owned() };
        let cell = self.latencies.borrow().get(name).cloned().ok_or_else(not_found)?;
        if self.registry.info(name)?.module != MODULE {
            return Err(not_found());
        }
        let mut latencies = cell.get();
        change(&mut latencies);
        cell.set(latencies);
        Ok(())
    }

    /// `bdev_delay_delete`.
    ///
    /// # Errors
    /// [`BdevError::NotFound`].
    pub fn delete(&self, name: &str) -> Result<impl Future<Output = ()> + use<>, BdevError> {
        let name = self.registry.canonical_name(name)?;
        let gone = self.registry.unregister(&name, MODULE)?;
        self.wanted.borrow_mut().retain(|wanted| wanted.name != name);
        Ok(gone)
    }
}

fn check(l: Latencies) -> Result<(), BdevError> {
    let invalid = |field, value: u64| {
        Err(BdevError::Invalid { field, value: value.to_string(), allowed: "not below the average" })
    };
    if l.p99_read < l.avg_read {
        return invalid("p99_read_latency", l.p99_read);
    }
    if l.p99_write < l.avg_write {
        return invalid("p99_write_latency", l.p99_write);
    }
    Ok(())
}

impl Delay {
    /// Answers after one of the two latencies, counted from when the base has answered.
    fn later<T: 'static, F>(&self, io: Result<F, IoError>, avg: u64, p99: u64) -> IoFuture<T>
    where
        F: Future<Output = Result<T, IoError>> + 'static,
    {
        let slow = rand::rng().random_ratio(1, 100);
        let wait = Duration::from_micros(if slow { p99 } else { avg });
        Box::pin(async move {
            let result = io?.await;
            if !wait.is_zero() {
                tokio::time::sleep(wait).await;
            }
            result
        })
    }

    /// Only reads and writes are delayed, as in SPDK.
    fn at_once(&self, io: impl FnOnce(&super::Descriptor) -> IoFuture<()>) -> IoFuture<()> {
        self.base.begin(io).unwrap_or_else(|e| Box::pin(std::future::ready(Err(e))))
    }
}

impl Bdev for Delay {
    fn product_name(&self) -> &'static str {
        "delay"
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
        let l = self.latencies.get();
        json!({"delay": {
            "name": self.name,
            "base_bdev_name": self.base.name,
            "avg_read_latency": l.avg_read,
            "p99_read_latency": l.p99_read,
            "avg_write_latency": l.avg_write,
            "p99_write_latency": l.p99_write,
            "uuid": self.uuid,
        }})
    }
    fn read(&self, lba: u64, buf: BytesMut) -> IoFuture<BytesMut> {
        let l = self.latencies.get();
        self.later(self.base.begin(|d| d.read(lba, buf)), l.avg_read, l.p99_read)
    }
    fn write(&self, lba: u64, data: Bytes, fua: bool) -> IoFuture<()> {
        let l = self.latencies.get();
        self.later(self.base.begin(|d| d.write(lba, data, fua)), l.avg_write, l.p99_write)
    }
    fn flush(&self) -> IoFuture<()> {
        self.at_once(|d| Box::pin(d.flush()))
    }
    fn unmap(&self, lba: u64, blocks: u64) -> IoFuture<()> {
        self.at_once(|d| Box::pin(d.unmap(lba, blocks)))
    }
    fn write_zeroes(&self, lba: u64, blocks: u64, fua: bool) -> IoFuture<()> {
        self.at_once(|d| Box::pin(d.write_zeroes(lba, blocks, fua)))
    }
    fn destruct(&self) -> LocalBoxFuture<'static, ()> {
        self.base.close();
        Box::pin(std::future::ready(()))
    }
}
