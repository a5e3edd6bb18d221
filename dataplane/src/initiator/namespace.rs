//! A namespace over several paths: every command picks a path, and takes another one when the path fails.

use std::cell::{Cell, RefCell};
use std::rc::{Rc, Weak};

use bytes::{Bytes, BytesMut};
use vda_nvme::cmd::{DsmRange, Sqe, io};
use vda_nvme::identify::{NamespaceIds, ONCS_COMPARE, ONCS_DSM, ONCS_WRITE_ZEROES};
use vda_nvme::log::AnaState;
use vda_nvme::status::Status;

use super::group::{Group, Policy};
use super::path::Path;
use super::session::{NamespaceData, Session};
use crate::bdev::IoError;

/// Blocks of one Write Zeroes command.
const MAX_ZERO_BLOCKS: u64 = 1 << 16;
/// Blocks of one range of Dataset Management.
const MAX_UNMAP_BLOCKS: u64 = u32::MAX as u64;

/// A path and its session.
type Choice = (Rc<Path>, Rc<Session>);

/// A namespace of a [`Group`].
pub struct Namespace {
    group: Weak<Group>,
    pub nsid: u32,
    pub ids: NamespaceIds,
    /// Logarithm of the block size.
    pub block_shift: u8,
    blocks: Cell<u64>,
    oncs: Cell<u16>,
    turn: Cell<u32>,
    /// The choice of the last command, good while nothing changed.
    current: RefCell<Option<(u64, Choice)>>,
    policy: Cell<Policy>,
    /// Paths that come before the others, the last preferred one first.
    preferred: RefCell<Vec<Weak<Path>>>,
}

impl Namespace {
    pub(super) fn new(group: &Rc<Group>, data: &NamespaceData) -> Self {
        Self {
            group: Rc::downgrade(group),
            policy: Cell::new(group.policy()),
            preferred: RefCell::default(),
            nsid: data.nsid,
            ids: data.ids,
            block_shift: data.identify.block_shift,
            blocks: Cell::new(data.identify.blocks),
            oncs: Cell::new(ONCS_COMPARE | ONCS_DSM | ONCS_WRITE_ZEROES),
            turn: Cell::new(0),
            current: RefCell::default(),
        }
    }

    /// Blocks.
    pub fn blocks(&self) -> u64 {
        self.blocks.get()
    }

    /// Bytes of a block.
    pub fn block_size(&self) -> u32 {
        1 << self.block_shift
    }

    pub(super) fn set_blocks(&self, blocks: u64) -> bool {
        self.blocks.replace(blocks) != blocks
    }

    /// The group, while it exists.
    pub fn group(&self) -> Option<Rc<Group>> {
        self.group.upgrade()
    }

    /// Optional commands that the controllers of all connected paths know (ONCS).
    pub fn optional_commands(&self) -> u16 {
        let Some(group) = self.group.upgrade() else { return 0 };
        let known =
            group.paths().iter().filter_map(|p| p.session()).map(|s| s.identify.oncs).reduce(|a, b| a & b);
        if let Some(k) = known {
            self.oncs.set(k);
        }
        self.oncs.get()
    }

    /// Which path carries a command.
    pub fn policy(&self) -> Policy {
        self.policy.get()
    }

    /// Changes which path carries a command.
    pub fn set_policy(&self, policy: Policy) {
        self.policy.set(policy);
        self.forget_choice();
    }

    /// Makes a path the first choice among those in the same ANA state; whether this controller shows the namespace.
    pub fn prefer(&self, cntlid: u16) -> bool {
        let found = self.paths().into_iter().find(|p| p.cntlid() == cntlid);
        let Some(path) = found else { return false };
        let mut preferred = self.preferred.borrow_mut();
        preferred.retain(|p| p.upgrade().is_some_and(|p| !Rc::ptr_eq(&p, &path)));
        preferred.insert(0, Rc::downgrade(&path));
        drop(preferred);
        self.forget_choice();
        true
    }

    fn forget_choice(&self) {
        *self.current.borrow_mut() = None;
    }

    /// The paths that show the namespace, the preferred ones first.
    pub fn paths(&self) -> Vec<Rc<Path>> {
        let Some(group) = self.group.upgrade() else { return Vec::new() };
        let mut paths = group.paths();
        paths.retain(|p| p.ana_state(self.nsid).is_some());
        let preferred = self.preferred.borrow();
        let rank = |path: &Rc<Path>| {
            let same = |p: &Weak<Path>| p.as_ptr() == Rc::as_ptr(path);
            preferred.iter().position(same).unwrap_or(preferred.len())
        };
        paths.sort_by_key(rank);
        paths
    }

    /// Whether commands take this path at present: with [`Policy::ActivePassive`] the last one did, otherwise it is one of several.
    pub fn is_current(&self, path: &Rc<Path>) -> bool {
        let state = path.ana_state(self.nsid);
        let usable = matches!(state, Some(AnaState::Optimized | AnaState::NonOptimized));
        if !usable || path.session().is_none() {
            return false;
        }
        if self.policy() != Policy::ActivePassive {
            let optimized = |p: &Rc<Path>| p.ana_state(self.nsid) == Some(AnaState::Optimized);
            return state == Some(AnaState::Optimized) || !self.paths().iter().any(optimized);
        }
        let generation = self.group.upgrade().map(|g| g.generation());
        self.current
            .borrow()
            .as_ref()
            .is_some_and(|(at, (p, _))| Some(*at) == generation && Rc::ptr_eq(p, path))
    }

    /// The path the next command takes, and its session.
    pub fn select(&self, avoid: Option<&Rc<Path>>) -> Option<Choice> {
        let group = self.group.upgrade()?;
        let sticky = avoid.is_none() && self.policy() == Policy::ActivePassive;
        if sticky
            && let Some((generation, choice)) = &*self.current.borrow()
            && *generation == group.generation()
            && choice.1.is_alive()
        {
            return Some(choice.clone());
        }
        let choice = self.select_anew(avoid);
        let keep = choice.as_ref().filter(|_| sticky);
        *self.current.borrow_mut() = keep.map(|c| (group.generation(), c.clone()));
        choice
    }

    fn select_anew(&self, avoid: Option<&Rc<Path>>) -> Option<Choice> {
        let paths = self.paths();
        let usable = |wanted: AnaState| {
            let fits = move |p: &&Rc<Path>| p.ana_state(self.nsid) == Some(wanted);
            let chosen = paths.iter().filter(fits).filter_map(|p| p.session().map(|s| (Rc::clone(p), s)));
            chosen.collect::<Vec<_>>()
        };
        for state in [AnaState::Optimized, AnaState::NonOptimized] {
            let mut candidates = usable(state);
            if candidates.len() > 1
                && let Some(bad) = avoid
            {
                candidates.retain(|(p, _)| !Rc::ptr_eq(p, bad));
            }
            if let Some(choice) = self.choose(self.policy(), candidates) {
                return Some(choice);
            }
        }
        None
    }

    fn choose(&self, policy: Policy, mut c: Vec<Choice>) -> Option<Choice> {
        if c.is_empty() {
            return None;
        }
        let index = match policy {
            Policy::ActivePassive => 0,
            Policy::RoundRobin { min_io } => {
                let turn = self.turn.get();
                self.turn.set(turn.wrapping_add(1));
                (turn / min_io.max(1)) as usize % c.len()
            }
            Policy::QueueDepth => {
                let load = |i: &usize| c[*i].1.load();
                (0..c.len()).min_by_key(load).unwrap_or(0)
            }
        };
        Some(c.swap_remove(index))
    }

    fn may_come_back(&self, group: &Group) -> bool {
        let shows = |p: &Rc<Path>| p.ana_state(self.nsid).is_some();
        group.paths().iter().any(|p| shows(p) && p.may_come_back())
    }

    /// Runs a command over whatever path can carry it; waits while one may come back.
    async fn run(&self, sqe: Sqe, data: Bytes, mut buffer: BytesMut) -> Result<BytesMut, IoError> {
        let group = self.group.upgrade().ok_or(IoError::Removed)?;
        let length = buffer.len();
        let mut failures = 0;
        let mut avoid = None;
        loop {
            let change = group.next_change();
            let Some((path, session)) = self.select(avoid.as_ref()) else {
                if !self.may_come_back(&group) {
                    return Err(IoError::NoPath);
                }
                change.await;
                continue;
            };
            let reply = match session.io(sqe, data.clone(), buffer).await {
                Ok(reply) => reply,
                Err(lost) => {
                    buffer = lost.buffer;
                    buffer.resize(length, 0);
                    continue;
                }
            };
            let status = match reply.cqe.status {
                s if s.is_success() && reply.received < length => Status::DATA_TRANSFER_ERROR,
                s if s.is_success() => return Ok(reply.buffer),
                s => s,
            };
            buffer = reply.buffer;
            let error = IoError::Nvme { sct: status.sct(), sc: status.sc(), dnr: status.is_dnr() };
            if status.is_dnr() || status.same(Status::ABORTED_BY_REQUEST) {
                return Err(translate(status).unwrap_or(error));
            }
            if status.is_ana_error() {
                path.distrust(self.nsid);
                group.changed();
            } else if group.retries >= 0 && failures >= group.retries {
                return Err(translate(status).unwrap_or(error));
            } else {
                failures += 1;
                avoid = Some(path);
            }
        }
    }

    fn command(&self, opcode: u8, lba: u64, blocks: u64) -> Sqe {
        let mut sqe = Sqe::new(opcode, self.nsid);
        sqe.set_range(lba, u32::try_from(blocks).unwrap_or(u32::MAX));
        sqe
    }

    /// Bytes a command may carry: whole blocks, what every connected path takes.
    fn max_transfer(&self) -> usize {
        let smallest = self.group.upgrade().and_then(|g| g.smallest_transfer());
        let block = self.block_size() as usize;
        (smallest.unwrap_or(128 << 10) / block * block).max(block)
    }

    /// Fills `buf` from block `lba` on. The buffer is the one passed in.
    ///
    /// # Errors
    /// The status of the controller, or [`IoError::NoPath`].
    pub async fn read(&self, lba: u64, mut buf: BytesMut) -> Result<BytesMut, IoError> {
        let max = self.max_transfer();
        if buf.len() <= max {
            let blocks = (buf.len() >> self.block_shift) as u64;
            return self.run(self.command(io::READ, lba, blocks), Bytes::new(), buf).await;
        }
        let mut parts = Vec::new();
        let mut at = lba;
        while !buf.is_empty() {
            let part = buf.split_to(buf.len().min(max));
            let blocks = (part.len() >> self.block_shift) as u64;
            parts.push(self.run(self.command(io::READ, at, blocks), Bytes::new(), part));
            at += blocks;
        }
        let mut whole = BytesMut::new();
        for part in futures::future::try_join_all(parts).await? {
            whole.unsplit(part);
        }
        Ok(whole)
    }

    /// Writes `data` from block `lba` on.
    ///
    /// # Errors
    /// See [`Namespace::read`].
    pub async fn write(&self, lba: u64, data: Bytes, fua: bool) -> Result<(), IoError> {
        self.send(io::WRITE, lba, data, if fua { io::FUA } else { 0 }).await
    }

    /// Compares blocks with `data`.
    ///
    /// # Errors
    /// [`IoError::Miscompare`], and see [`Namespace::read`].
    pub async fn compare(&self, lba: u64, data: Bytes) -> Result<(), IoError> {
        self.send(io::COMPARE, lba, data, 0).await
    }

    async fn send(&self, opcode: u8, lba: u64, data: Bytes, flags: u32) -> Result<(), IoError> {
        let max = self.max_transfer();
        let part = |at: usize| {
            let part = data.slice(at..data.len().min(at + max));
            let first = lba + (at >> self.block_shift) as u64;
            let mut sqe = self.command(opcode, first, (part.len() >> self.block_shift) as u64);
            sqe.cdw10[2] |= flags;
            self.run(sqe, part, BytesMut::new())
        };
        if data.len() <= max {
            return part(0).await.map(drop);
        }
        let parts = (0..data.len()).step_by(max).map(part);
        futures::future::try_join_all(parts).await.map(drop)
    }

    /// Makes everything acknowledged durable.
    ///
    /// # Errors
    /// See [`Namespace::read`].
    pub async fn flush(&self) -> Result<(), IoError> {
        self.run(Sqe::new(io::FLUSH, self.nsid), Bytes::new(), BytesMut::new()).await.map(drop)
    }

    /// Makes blocks read as zeroes.
    ///
    /// # Errors
    /// See [`Namespace::read`].
    pub async fn write_zeroes(&self, lba: u64, blocks: u64, fua: bool) -> Result<(), IoError> {
        let (mut at, end) = (lba, lba + blocks);
        let native = self.optional_commands() & ONCS_WRITE_ZEROES != 0;
        let step = if native { MAX_ZERO_BLOCKS } else { (self.max_transfer() >> self.block_shift) as u64 };
        while at < end {
            let n = (end - at).min(step);
            if native {
                let mut sqe = self.command(io::WRITE_ZEROES, at, n);
                sqe.cdw10[2] |= if fua { io::FUA } else { 0 };
                self.run(sqe, Bytes::new(), BytesMut::new()).await?;
            } else {
                let zeroes = BytesMut::zeroed((n << self.block_shift) as usize).freeze();
                self.write(at, zeroes, fua).await?;
            }
            at += n;
        }
        Ok(())
    }

    /// Deallocates blocks.
    ///
    /// # Errors
    /// See [`Namespace::read`].
    pub async fn unmap(&self, lba: u64, blocks: u64) -> Result<(), IoError> {
        let (mut at, end) = (lba, lba + blocks);
        while at < end {
            let n = (end - at).min(MAX_UNMAP_BLOCKS);
            let range = DsmRange { slba: at, blocks: n as u32 };
            let mut sqe = Sqe::new(io::DATASET_MANAGEMENT, self.nsid);
            sqe.cdw10[1] = io::DSM_DEALLOCATE;
            self.run(sqe, DsmRange::encode_all(&[range]).into(), BytesMut::new()).await?;
            at += n;
        }
        Ok(())
    }
}

/// Statuses that have a name of their own above.
fn translate(s: Status) -> Option<IoError> {
    Some(match s {
        _ if s.same(Status::COMPARE_FAILURE) => IoError::Miscompare,
        _ if s.same(Status::LBA_OUT_OF_RANGE) => IoError::InvalidRange,
        _ if s.same(Status::CAPACITY_EXCEEDED) => IoError::NoSpace,
        _ if s.same(Status::INVALID_OPCODE) => IoError::Unsupported,
        _ => return None,
    })
}
