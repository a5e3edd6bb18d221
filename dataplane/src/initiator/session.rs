//! A session: one connected controller with its admin queue and I/O queues.

use std::cell::Cell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use futures::stream::{FuturesUnordered, StreamExt};
use vda_nvme::cmd::{Sqe, admin, feature};
use vda_nvme::codec::Limits;
use vda_nvme::controller::events::Notice;
use vda_nvme::digest::Digests;
use vda_nvme::fabrics::{self, CNTLID_DYNAMIC, CONNECT_SUBNQN, Connect, ConnectData, property};
use vda_nvme::host::HostConfig;
use vda_nvme::host::pulse::Pulse;
use vda_nvme::identify::{self, ControllerType, IDENTIFY_LEN, NamespaceIds, cns};
use vda_nvme::log::{self, AnaState, DiscoveryEntry, lid};
use vda_nvme::status::Status;

use super::queue::{Lost, Queue, Reply};
use super::{CommandError, ConnectError};

/// How a host presents itself and what it wants of a connection.
#[derive(Debug, Clone)]
pub struct HostOptions {
    pub hostnqn: String,
    pub hostid: [u8; 16],
    /// Digests asked for.
    pub digests: Digests,
    /// I/O queues, at least 1 (the controller may grant fewer).
    pub io_queues: u16,
    /// Entries of an I/O queue.
    pub queue_depth: u16,
    /// Keep Alive Timeout; zero for none.
    pub keep_alive: Duration,
    /// Time for each step of connecting.
    pub connect_timeout: Duration,
}

impl HostOptions {
    /// SPDK's defaults for a host of this name, with a random host id.
    #[must_use]
    pub fn new(hostnqn: impl Into<String>) -> Self {
        Self {
            hostnqn: hostnqn.into(),
            hostid: *uuid::Uuid::new_v4().as_bytes(),
            digests: Digests::default(),
            io_queues: 1,
            queue_depth: 128,
            keep_alive: Duration::from_secs(10),
            connect_timeout: Duration::from_secs(10),
        }
    }
}

const ADMIN_DEPTH: u16 = 32;
/// Events the host has requests outstanding for.
const EVENT_REQUESTS: usize = 3;
/// CC: enabled, 64 byte commands, 16 byte completions.
const CC_ENABLED: u32 = 1 | 6 << 16 | 4 << 20;
const CC_SHUTDOWN: u32 = CC_ENABLED | 1 << 14;
const CSTS_SHST: u64 = 0b11 << 2;
const CSTS_SHUTDOWN_DONE: u64 = 0b10 << 2;
/// Time for a controller to say that its shutdown is complete.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(1);
/// Time between looks at CSTS while the controller becomes ready or shuts down: the specification has no event for it.
const READY_POLL: Duration = Duration::from_millis(10);

/// A namespace as one controller shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamespaceData {
    pub nsid: u32,
    pub ids: NamespaceIds,
    pub identify: identify::Namespace,
}

/// A connected controller.
pub struct Session {
    address: SocketAddr,
    admin: Queue,
    io: Vec<Queue>,
    next: Cell<usize>,
    /// Identify Controller.
    pub identify: identify::Controller,
    /// Controller id.
    pub cntlid: u16,
    /// Largest data of a command, bytes.
    pub max_transfer: usize,
    keep_alive: Duration,
}

/// Why [`Session::watch`] ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SessionEnd {
    /// A queue's connection ended.
    Disconnected,
    /// The controller did not answer Keep Alive in time.
    KeepAlive,
}

struct Dialer<'a> {
    address: SocketAddr,
    subnqn: &'a str,
    options: &'a HostOptions,
}

impl Dialer<'_> {
    async fn queue(&self, qid: u16, depth: u16, cntlid: u16) -> Result<(Queue, u16), ConnectError> {
        let o = self.options;
        let limits = Limits { queue_depth: depth, max_c2h_data: 16 << 20, ..Limits::default() };
        let config = HostConfig { limits, digests: o.digests };
        let queue = Queue::open(self.address, config, o.connect_timeout).await?;
        let connect = Connect {
            recfmt: 0,
            qid,
            sqsize: depth - 1,
            no_sq_flow_control: false,
            kato: if qid == 0 { u32::try_from(o.keep_alive.as_millis()).unwrap_or(u32::MAX) } else { 0 },
            data: ConnectData {
                hostid: o.hostid,
                cntlid,
                subnqn: self.subnqn.to_owned(),
                hostnqn: o.hostnqn.clone(),
            },
        };
        let (sqe, data) = connect.encode();
        let reply = self.within("Connect", queue.submit(sqe, data.into(), BytesMut::new())).await?;
        if reply.cqe.status.is_success() {
            return Ok((queue, (reply.cqe.result & 0xffff) as u16));
        }
        Err(self.refusal(&reply))
    }

    fn refusal(&self, reply: &Reply) -> ConnectError {
        let (address, status) = (self.address, reply.cqe.status);
        let (hostnqn, subnqn) = (self.options.hostnqn.clone(), self.subnqn.to_owned());
        let in_subnqn = reply.cqe.result as u32 == 1 << 16 | u32::from(CONNECT_SUBNQN);
        if status.same(Status::CONNECT_INVALID_HOST) {
            ConnectError::HostNotAllowed { address, hostnqn, subnqn }
        } else if status.same(Status::CONNECT_INVALID_PARAM) && in_subnqn {
            ConnectError::NoSubsystem { address, subnqn }
        } else {
            ConnectError::Refused { address, step: "Connect", status }
        }
    }

    async fn within(
        &self,
        step: &'static str,
        command: impl Future<Output = Result<Reply, Lost>>,
    ) -> Result<Reply, ConnectError> {
        let (address, after) = (self.address, self.options.connect_timeout);
        match tokio::time::timeout(after, command).await {
            Ok(Ok(reply)) => Ok(reply),
            Ok(Err(_)) => Err(ConnectError::Lost { address, step }),
            Err(_) => Err(ConnectError::Timeout { address, step, after }),
        }
    }

    async fn command(
        &self,
        q: &Queue,
        step: &'static str,
        sqe: Sqe,
        len: usize,
    ) -> Result<Reply, ConnectError> {
        let reply = self.within(step, q.submit(sqe, Bytes::new(), BytesMut::zeroed(len))).await?;
        match reply.cqe.status {
            s if s.is_success() && reply.received >= len => Ok(reply),
            s if s.is_success() => Err(ConnectError::Refused {
                address: self.address,
                step,
                status: Status::DATA_TRANSFER_ERROR,
            }),
            status => Err(ConnectError::Refused { address: self.address, step, status }),
        }
    }

    async fn enable(&self, q: &Queue) -> Result<u64, ConnectError> {
        let cap = self.command(q, "reading CAP", fabrics::property_get(property::CAP, true), 0).await?;
        self.command(q, "enabling", fabrics::property_set(property::CC, CC_ENABLED), 0).await?;
        let begun = Instant::now();
        loop {
            let csts =
                self.command(q, "reading CSTS", fabrics::property_get(property::CSTS, false), 0).await?;
            if csts.cqe.result & 1 != 0 {
                return Ok(cap.cqe.result);
            }
            let after = self.options.connect_timeout;
            if begun.elapsed() > after {
                return Err(ConnectError::Timeout { address: self.address, step: "controller ready", after });
            }
            tokio::time::sleep(READY_POLL).await;
        }
    }

    /// Number of I/O queues the controller grants.
    async fn grant(&self, q: &Queue) -> Result<u16, ConnectError> {
        let want = u32::from(self.options.io_queues.max(1)) - 1;
        let mut sqe = Sqe::new(admin::SET_FEATURES, 0);
        sqe.cdw10[0] = feature::NUMBER_OF_QUEUES.into();
        sqe.cdw10[1] = want | want << 16;
        let reply = self.command(q, "asking for queues", sqe, 0).await?;
        let granted = (reply.cqe.result as u16).min((reply.cqe.result >> 16) as u16).saturating_add(1);
        Ok(granted.min(self.options.io_queues.max(1)))
    }
}

impl Session {
    /// Connects a controller of `subnqn` at `address`: admin queue, enable, identify, I/O queues.
    ///
    /// # Errors
    /// See [`ConnectError`].
    pub async fn connect(
        address: SocketAddr,
        subnqn: &str,
        options: &HostOptions,
    ) -> Result<Rc<Self>, ConnectError> {
        let d = Dialer { address, subnqn, options };
        let (admin, cntlid) = d.queue(0, ADMIN_DEPTH, CNTLID_DYNAMIC).await?;
        let cap = d.enable(&admin).await?;
        let mut sqe = Sqe::new(admin::IDENTIFY, 0);
        sqe.cdw10[0] = cns::CONTROLLER.into();
        let reply = d.command(&admin, "Identify Controller", sqe, IDENTIFY_LEN).await?;
        let identify = identify::Controller::decode(&reply.buffer);
        let mut io = Vec::new();
        if identify.kind == ControllerType::Io {
            let mqes = (cap & 0xffff) as u16;
            let depth = options.queue_depth.clamp(2, mqes.saturating_add(1).max(2));
            for qid in 1..=d.grant(&admin).await? {
                let (queue, _) = d.queue(qid, depth, cntlid).await?;
                queue.set_in_capsule(identify.ioccsz.saturating_mul(16).saturating_sub(64));
                io.push(queue);
            }
        }
        let max_transfer = match identify.mdts {
            0 => 1 << 20,
            mdts => (4096_usize << mdts.min(12)).min(1 << 20),
        };
        let keep_alive = options.keep_alive;
        Ok(Rc::new(Self {
            address,
            admin,
            io,
            next: Cell::new(0),
            identify,
            cntlid,
            max_transfer,
            keep_alive,
        }))
    }

    /// Where the controller is.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Whether all its connections live.
    pub fn is_alive(&self) -> bool {
        self.admin.is_alive() && self.io.iter().all(Queue::is_alive)
    }

    /// I/O commands in flight.
    pub fn load(&self) -> usize {
        self.io.iter().map(Queue::load).sum()
    }

    /// Closes all connections; commands in flight fail as lost.
    pub fn close(&self) {
        self.admin.close();
        self.io.iter().for_each(Queue::close);
    }

    /// Leaves in the order of the specification (Base 3.6.1): I/O queues first, then shutdown notification, then, when the
    /// controller says that it is done or after a second, the admin queue.
    pub async fn shutdown(&self) {
        self.io.iter().for_each(Queue::close);
        let _ = tokio::time::timeout(SHUTDOWN_TIMEOUT, self.notify_shutdown()).await;
        self.close();
    }

    async fn notify_shutdown(&self) -> Result<(), CommandError> {
        self.admin(fabrics::property_set(property::CC, CC_SHUTDOWN), Bytes::new(), 0).await?;
        let csts = fabrics::property_get(property::CSTS, false);
        while self.admin(csts, Bytes::new(), 0).await?.0 & CSTS_SHST != CSTS_SHUTDOWN_DONE {
            tokio::time::sleep(READY_POLL).await;
        }
        Ok(())
    }

    /// Submits an I/O command on the next queue.
    pub(super) fn io(
        &self,
        sqe: Sqe,
        data: Bytes,
        buffer: BytesMut,
    ) -> impl Future<Output = Result<Reply, Lost>> + use<> {
        let i = self.next.get();
        self.next.set((i + 1) % self.io.len().max(1));
        let queue = self.io.get(i).unwrap_or(&self.admin);
        queue.submit(sqe, data, buffer)
    }

    /// Runs an admin command that gives `len` bytes.
    ///
    /// # Errors
    /// See [`CommandError`].
    pub async fn admin(&self, sqe: Sqe, data: Bytes, len: usize) -> Result<(u64, BytesMut), CommandError> {
        let submitted = self.admin.submit(sqe, data, BytesMut::zeroed(len));
        let reply = submitted.await.map_err(|_| CommandError::Lost)?;
        match reply.cqe.status {
            s if !s.is_success() => Err(CommandError::Status(s)),
            _ if reply.received < len => Err(CommandError::Short { received: reply.received, wanted: len }),
            _ => Ok((reply.cqe.result, reply.buffer)),
        }
    }

    async fn identify(&self, which: u8, nsid: u32) -> Result<BytesMut, CommandError> {
        let mut sqe = Sqe::new(admin::IDENTIFY, nsid);
        sqe.cdw10[0] = which.into();
        self.admin(sqe, Bytes::new(), IDENTIFY_LEN).await.map(|(_, b)| b)
    }

    /// The active namespaces with their identifiers.
    ///
    /// # Errors
    /// See [`CommandError`].
    pub async fn namespaces(&self) -> Result<Vec<NamespaceData>, CommandError> {
        let list = identify::decode_nsid_list(&self.identify(cns::ACTIVE_NAMESPACES, 0).await?);
        let mut found = Vec::new();
        for nsid in list {
            let data = identify::Namespace::decode(&self.identify(cns::NAMESPACE, nsid).await?);
            if data.blocks == 0 {
                continue; // went away in between
            }
            let mut ids = match self.identify(cns::NAMESPACE_DESCRIPTORS, nsid).await {
                Ok(b) => NamespaceIds::decode(&b),
                Err(CommandError::Status(_)) => NamespaceIds::default(),
                Err(e) => return Err(e),
            };
            if ids.nguid == [0; 16] {
                ids.nguid = data.nguid;
            }
            if ids.eui64 == [0; 8] {
                ids.eui64 = data.eui64;
            }
            found.push(NamespaceData { nsid, ids, identify: data });
        }
        Ok(found)
    }

    async fn log_page(
        &self,
        which: u8,
        offset: u64,
        len: usize,
        retain: bool,
    ) -> Result<BytesMut, CommandError> {
        let dwords = (len / 4).saturating_sub(1) as u32;
        let mut sqe = Sqe::new(admin::GET_LOG_PAGE, vda_nvme::cmd::NSID_ALL);
        sqe.cdw10[0] = u32::from(which) | u32::from(retain) << 15 | (dwords & 0xffff) << 16;
        sqe.cdw10[1] = dwords >> 16;
        sqe.cdw10[2] = offset as u32;
        sqe.cdw10[3] = (offset >> 32) as u32;
        self.admin(sqe, Bytes::new(), len).await.map(|(_, b)| b)
    }

    /// The states of the ANA groups; `None` if the controller does not report them.
    ///
    /// # Errors
    /// See [`CommandError`].
    pub async fn ana_states(&self) -> Result<Option<Vec<(u32, AnaState)>>, CommandError> {
        let Some(ana) = self.identify.ana else { return Ok(None) };
        let largest = 16 + ana.groups as usize * 32 + self.identify.nn as usize * 4;
        let size = largest.min(self.max_transfer).next_multiple_of(4);
        let page = self.log_page(lid::ANA, 0, size, false).await?;
        let (_, groups) = log::decode_ana(&page);
        Ok(Some(groups.into_iter().map(|g| (g.id, g.state)).collect()))
    }

    /// Reads the list of changed namespaces, which re-arms the notice.
    ///
    /// # Errors
    /// See [`CommandError`].
    pub async fn clear_changed_namespaces(&self) -> Result<(), CommandError> {
        self.log_page(lid::CHANGED_NAMESPACES, 0, IDENTIFY_LEN, false).await.map(drop)
    }

    /// The health log page, raw (Base 5.16.1.3).
    ///
    /// # Errors
    /// See [`CommandError`].
    pub async fn health(&self) -> Result<BytesMut, CommandError> {
        self.log_page(lid::HEALTH, 0, log::HEALTH_LEN, true).await
    }

    /// The discovery log, read again while it changes under the reader.
    ///
    /// # Errors
    /// See [`CommandError`].
    pub async fn discover(&self) -> Result<(u64, Vec<DiscoveryEntry>), CommandError> {
        loop {
            let header = self.log_page(lid::DISCOVERY, 0, log::DISCOVERY_ENTRY_LEN, true).await?;
            let (generation, count) = log::decode_discovery_header(&header);
            let size =
                usize::try_from(count).unwrap_or(0).saturating_add(1).min(1 << 14) * log::DISCOVERY_ENTRY_LEN;
            let mut page = BytesMut::with_capacity(size);
            while page.len() < size {
                let n = (size - page.len()).min(self.max_transfer);
                let part = self.log_page(lid::DISCOVERY, page.len() as u64, n, false).await?;
                page.extend_from_slice(&part);
            }
            let again = self.log_page(lid::DISCOVERY, 0, log::DISCOVERY_ENTRY_LEN, false).await?;
            if log::decode_discovery_header(&again).0 == generation {
                return Ok((generation, log::decode_discovery(&page)));
            }
        }
    }

    /// Keeps the controller alive and reports its notices, until a connection ends.
    pub async fn watch(&self, notice: impl Fn(Notice)) -> SessionEnd {
        let ends: FuturesUnordered<_> = self.io.iter().chain([&self.admin]).map(Queue::ended).collect();
        let mut ends = ends;
        tokio::select! {
            _ = ends.next() => SessionEnd::Disconnected,
            () = self.events(notice) => SessionEnd::Disconnected,
            () = self.keep_alive() => SessionEnd::KeepAlive,
        }
    }

    async fn events(&self, notice: impl Fn(Notice)) {
        let request = || {
            let sqe = Sqe::new(admin::ASYNC_EVENT_REQUEST, 0);
            self.admin.submit(sqe, Bytes::new(), BytesMut::new())
        };
        let mut requests: FuturesUnordered<_> = (0..EVENT_REQUESTS).map(|_| request()).collect();
        while let Some(reply) = requests.next().await {
            let Ok(reply) = reply else { return };
            if reply.cqe.status.is_success() {
                if let Some(n) = Notice::from_result(reply.cqe.result as u32) {
                    notice(n);
                }
                requests.push(request());
            }
        }
        // The controller takes no requests at all: notices do not come, the session lives on.
        std::future::pending().await
    }

    /// Resolves when the controller does not answer any more.
    async fn keep_alive(&self) {
        if self.keep_alive.is_zero() || self.identify.kas == 0 && self.identify.kind == ControllerType::Io {
            std::future::pending::<()>().await;
        }
        let mut pulse = Pulse::new(self.keep_alive, Instant::now());
        while let Some(at) = pulse.send_at() {
            tokio::time::sleep_until(at.into()).await;
            let sqe = Sqe::new(admin::KEEP_ALIVE, 0);
            let answer = self.admin.submit(sqe, Bytes::new(), BytesMut::new());
            let until = pulse.sent(Instant::now());
            if tokio::time::timeout_at(until.into(), answer).await.is_err() {
                return;
            }
            pulse.answered(Instant::now());
        }
    }
}
