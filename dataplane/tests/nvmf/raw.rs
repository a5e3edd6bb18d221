//! A host that sends any command at any time: [`HostQueue`] over a socket, nothing above it.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use vda_nvme::cmd::Sqe;
use vda_nvme::codec::Limits;
use vda_nvme::digest::Digests;
use vda_nvme::fabrics::{self, CNTLID_DYNAMIC, Connect, ConnectData, property};
use vda_nvme::host::{Command, Completion, Event, HostConfig, HostQueue};
use vda_nvme::status::Status;

/// CC: enabled, 64 byte commands, 16 byte completions.
pub(crate) const CC_ENABLED: u32 = 1 | 6 << 16 | 4 << 20;
/// In-capsule data of the I/O queues of [`crate::fixture`].
pub(crate) const IN_CAPSULE: u32 = 4096;

/// Who connects where.
#[derive(Debug, Clone)]
pub(crate) struct Who {
    pub(crate) address: SocketAddr,
    pub(crate) subnqn: String,
    pub(crate) hostnqn: String,
    pub(crate) hostid: [u8; 16],
    pub(crate) digests: Digests,
    pub(crate) depth: u16,
    pub(crate) kato_ms: u32,
}

/// One queue.
pub(crate) struct RawQueue {
    stream: TcpStream,
    pub(crate) queue: HostQueue<u32>,
    next: u32,
    done: BTreeMap<u32, Completion<u32>>,
    cids: BTreeMap<u32, u16>,
    /// Controller id, from Connect.
    pub(crate) cntlid: u16,
}

impl RawQueue {
    /// Connects and initialises the transport; no Fabrics Connect.
    pub(crate) async fn open(address: SocketAddr, digests: Digests, depth: u16) -> Self {
        let stream = TcpStream::connect(address).await.expect("connected");
        stream.set_nodelay(true).expect("nodelay");
        let limits = Limits { queue_depth: depth, ..Limits::default() };
        let mut queue = HostQueue::new(HostConfig { limits, digests });
        queue.set_in_capsule(IN_CAPSULE);
        let mut this =
            Self { stream, queue, next: 0, done: BTreeMap::new(), cids: BTreeMap::new(), cntlid: 0 };
        while !this.queue.has_room() {
            this.exchange().await;
        }
        this
    }

    /// Opens queue `qid` of a controller; gives the status of Connect as well.
    pub(crate) async fn connect(who: &Who, qid: u16, cntlid: u16) -> (Self, Status) {
        let mut this = Self::open(who.address, who.digests, who.depth).await;
        let connect = Connect {
            recfmt: 0,
            qid,
            sqsize: who.depth - 1,
            no_sq_flow_control: false,
            kato: if qid == 0 { who.kato_ms } else { 0 },
            data: ConnectData {
                hostid: who.hostid,
                cntlid,
                subnqn: who.subnqn.clone(),
                hostnqn: who.hostnqn.clone(),
            },
        };
        let (sqe, data) = connect.encode();
        let done = this.command(sqe, data, 0).await;
        this.cntlid = (done.cqe.result & 0xffff) as u16;
        (this, done.cqe.status)
    }

    /// Sends a command without waiting for it; `room` is the length of the buffer for data from the controller.
    pub(crate) async fn submit(&mut self, sqe: Sqe, data: impl Into<Bytes>, room: usize) -> u32 {
        let token = self.stage(sqe, data, room);
        self.flush().await;
        token
    }

    /// Queues a command to be sent with the next exchange.
    pub(crate) fn stage(&mut self, sqe: Sqe, data: impl Into<Bytes>, room: usize) -> u32 {
        let token = self.next;
        self.next += 1;
        let command = Command { sqe, data: data.into(), buffer: BytesMut::zeroed(room), token };
        let cid = self.queue.submit(command).expect("the queue is full");
        self.cids.insert(token, cid);
        token
    }

    /// Identifier of a command.
    pub(crate) fn cid_of(&self, token: u32) -> u16 {
        self.cids[&token]
    }

    pub(crate) async fn flush(&mut self) {
        while !self.queue.outbox().is_empty() {
            self.stream.write_all_buf(self.queue.outbox()).await.expect("sent");
        }
    }

    /// The end of a command.
    pub(crate) async fn wait(&mut self, token: u32) -> Completion<u32> {
        loop {
            if let Some(done) = self.done.remove(&token) {
                return done;
            }
            self.exchange().await;
        }
    }

    pub(crate) async fn command(&mut self, sqe: Sqe, data: impl Into<Bytes>, room: usize) -> Completion<u32> {
        let token = self.submit(sqe, data, room).await;
        self.wait(token).await
    }

    /// Status of a command.
    pub(crate) async fn status(&mut self, sqe: Sqe, data: impl Into<Bytes>, room: usize) -> Status {
        self.command(sqe, data, room).await.cqe.status
    }

    /// The connection itself, for what a host should not do.
    pub(crate) fn stream(&mut self) -> &mut TcpStream {
        &mut self.stream
    }

    async fn exchange(&mut self) {
        self.flush().await;
        let n = self.stream.read_buf(self.queue.buffer()).await.expect("received");
        assert!(n > 0, "the target closed the connection");
        while let Some(event) = self.queue.poll().expect("the target keeps the protocol") {
            if let Event::Completed(done) = event {
                self.done.insert(done.token, done);
            }
        }
        self.flush().await;
    }
}

/// A controller: an admin queue and an I/O queue.
pub(crate) struct RawHost {
    pub(crate) admin: RawQueue,
    pub(crate) io: RawQueue,
}

impl RawHost {
    /// Connects, enables the controller and connects one I/O queue.
    pub(crate) async fn connect(who: &Who) -> Self {
        let admin = Self::admin(who).await;
        let (io, status) = RawQueue::connect(who, 1, admin.cntlid).await;
        assert_eq!(status, Status::SUCCESS, "I/O queue");
        Self { admin, io }
    }

    /// The admin queue of an enabled controller.
    pub(crate) async fn admin(who: &Who) -> RawQueue {
        let (mut admin, status) = RawQueue::connect(who, 0, CNTLID_DYNAMIC).await;
        assert_eq!(status, Status::SUCCESS, "admin queue");
        let set = fabrics::property_set(property::CC, CC_ENABLED);
        assert_eq!(admin.status(set, vec![], 0).await, Status::SUCCESS, "enabled");
        admin
    }
}
