//! The whole target: a host that connects as it should and then sends any commands, over a socket.
//!
//! Nothing may panic, and afterwards the target serves the next host as before: no connection is left, its namespace can be read.

use std::cell::OnceCell;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::rc::Rc;
use std::time::Duration;

use bytes::{Buf, Bytes};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::runtime::Runtime;
use tokio::task::LocalSet;
use vda_dataplane::bdev::malloc::{self, MallocParams};
use vda_dataplane::bdev::{Registration, Registry};
use vda_dataplane::nvmf::{NamespaceRequest, SubsystemConfig, Target, TransportOptions};
use vda_nvme::DISCOVERY_NQN;
use vda_nvme::cmd::{FABRICS_OPCODE, SQE_LEN, Sqe, admin, io};
use vda_nvme::codec::{Decoder, Limits, Outbox, Role};
use vda_nvme::digest::Digests;
use vda_nvme::fabrics::{self, CNTLID_DYNAMIC, Connect, ConnectData, fctype, property};
use vda_nvme::log::AnaState;
use vda_nvme::pdu::{CapsuleCmd, IcReq, Pdu};

use crate::Input;

const NQN: &str = "nqn.2016-06.io.vda:vd:0000000000000001";
/// Flags of a command in the input.
const ON_IO_QUEUE: u8 = 1;
const DISCOVERY: u8 = 2;
/// Data of a command is in the capsule up to this many bytes.
const MOST_DATA: usize = 1024;
const PATIENCE: Duration = Duration::from_secs(10);

/// The target is kept, for the life of the process: starting one costs more than a run.
struct Served {
    runtime: Runtime,
    local: LocalSet,
    target: Rc<Target>,
    address: SocketAddr,
    _malloc: Registration,
}

thread_local! {
    static SERVED: OnceCell<&'static Served> = const { OnceCell::new() };
}

fn serve() -> Served {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let local = LocalSet::new();
    let (target, address, malloc) = local.block_on(&runtime, async {
        let registry = Registry::new();
        let params = MallocParams { name: Some("m0".into()), num_blocks: 256, block_size: 512, uuid: None };
        let malloc = malloc::create(&registry, params).expect("malloc");
        let target = Target::new(registry);
        target.create_transport(TransportOptions::default()).expect("transport");
        let config = SubsystemConfig { ana_reporting: true, ..SubsystemConfig::new(NQN) };
        target.create_subsystem(config, true).expect("subsystem");
        let ns = NamespaceRequest { bdev_name: "m0".into(), ..Default::default() };
        target.add_ns(NQN, &ns).expect("namespace");
        let probe = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
        let address = probe.local_addr().expect("bound");
        drop(probe);
        target.add_listener(NQN, address, AnaState::Optimized).expect("listener");
        (target, address, malloc)
    });
    Served { runtime, local, target, address, _malloc: malloc }
}

/// One connection; what the target answers is decoded, and must be well formed.
struct Wire {
    stream: TcpStream,
    decoder: Decoder,
}

impl Wire {
    async fn open(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).await.expect("connected");
        let mut decoder = Decoder::new(Role::Host, Limits::default());
        let request = IcReq { pfv: 0, hpda: 0, digests: Digests::default(), maxr2t: 15 };
        let mut wire = Self { stream, decoder: Decoder::new(Role::Host, Limits::default()) };
        wire.send(&Pdu::IcReq(request)).await;
        assert!(matches!(wire.next().await, Some(Pdu::IcResp(_))));
        decoder.establish(Digests::default());
        wire.decoder = decoder;
        wire
    }

    async fn send(&mut self, pdu: &Pdu) {
        let mut outbox = Outbox::new();
        outbox.push(pdu.clone());
        // The target may have closed the connection for what came before.
        let _ = self.stream.write_all(&outbox.copy_to_bytes(outbox.remaining())).await;
    }

    async fn command(&mut self, sqe: Sqe, data: Bytes) {
        self.send(&Pdu::CapsuleCmd(CapsuleCmd { sqe, data, digest_ok: true })).await;
    }

    /// The next PDU, `None` at the end of the connection.
    async fn next(&mut self) -> Option<Pdu> {
        loop {
            if let Some(pdu) = self.decoder.decode().expect("the target keeps the protocol") {
                return Some(pdu);
            }
            match self.stream.read_buf(self.decoder.buffer()).await {
                Ok(1..) => {}
                _ => return None,
            }
        }
    }

    /// Connects a queue; gives the controller id.
    async fn connect(address: SocketAddr, subnqn: &str, qid: u16, cntlid: u16) -> (Self, u16) {
        let mut wire = Self::open(address).await;
        let hostnqn = "nqn.2016-06.io.spdk:fuzz".into();
        let data = ConnectData { hostid: [1; 16], cntlid, subnqn: subnqn.into(), hostnqn };
        let connect = Connect { recfmt: 0, qid, sqsize: 31, no_sq_flow_control: false, kato: 0, data };
        let (mut sqe, data) = connect.encode();
        sqe.dptr = vda_nvme::cmd::Sgl::InCapsule { offset: 0, length: data.len() as u32 }.encode();
        wire.command(sqe, data.into()).await;
        let Some(Pdu::CapsuleResp(cqe)) = wire.next().await else { panic!("no answer to Connect") };
        assert!(cqe.status.is_success(), "Connect: {}", cqe.status);
        (wire, cqe.result as u16)
    }

    /// The target has read all and answered what it wants to.
    async fn finish(mut self) {
        let _ = self.stream.shutdown().await;
        while self.next().await.is_some() {}
    }
}

async fn controller(address: SocketAddr) -> (Wire, Wire) {
    let (mut admin, cntlid) = Wire::connect(address, NQN, 0, CNTLID_DYNAMIC).await;
    admin.command(fabrics::property_set(property::CC, 1 | 6 << 16 | 4 << 20), Bytes::new()).await;
    assert!(matches!(admin.next().await, Some(Pdu::CapsuleResp(_))));
    let (io, _) = Wire::connect(address, NQN, 1, cntlid).await;
    (admin, io)
}

async fn host(address: SocketAddr, mut input: Input<'_>) {
    let (mut admin, mut io) = controller(address).await;
    let (mut discovery, _) = Wire::connect(address, DISCOVERY_NQN, 0, CNTLID_DYNAMIC).await;
    while !input.is_empty() {
        let (flags, length) = (input.byte(), usize::from(input.word()) % (MOST_DATA + 1));
        let sqe = Sqe::decode(&input.array::<SQE_LEN>());
        let data = Bytes::copy_from_slice(input.take(length));
        let queue = match flags & (ON_IO_QUEUE | DISCOVERY) {
            ON_IO_QUEUE => &mut io,
            DISCOVERY => &mut discovery,
            _ => &mut admin,
        };
        queue.command(sqe, data).await;
    }
    tokio::join!(admin.finish(), io.finish(), discovery.finish());
}

async fn is_idle(target: &Target) {
    let idle = async {
        while [NQN, DISCOVERY_NQN].iter().any(|n| !target.show_qpairs(n).expect("shown").is_empty()) {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, idle).await.expect("connections are left");
}

async fn still_serves(address: SocketAddr) {
    let (_admin, mut io) = controller(address).await;
    let mut read = Sqe::new(io::READ, 1);
    read.set_range(0, 1);
    read.dptr = vda_nvme::cmd::Sgl::Transport { length: 512 }.encode();
    io.command(read, Bytes::new()).await;
    match io.next().await {
        Some(Pdu::C2hData(d)) => assert_eq!(d.data.len(), 512),
        Some(Pdu::CapsuleResp(cqe)) => assert!(!cqe.status.is_success(), "data or an error"),
        other => panic!("a read is answered by {other:?}"),
    }
}

pub(crate) fn run(input: &[u8]) {
    SERVED.with(|served| {
        let s = served.get_or_init(|| Box::leak(Box::new(serve())));
        s.local.block_on(&s.runtime, async {
            let all = async {
                host(s.address, Input(input)).await;
                is_idle(&s.target).await;
                still_serves(s.address).await;
                is_idle(&s.target).await;
            };
            tokio::time::timeout(PATIENCE, all).await.expect("the target hangs");
        });
    });
}

fn record(flags: u8, mut sqe: Sqe, room: u32, data: &[u8]) -> Vec<u8> {
    sqe.dptr = match data.len() {
        0 => vda_nvme::cmd::Sgl::Transport { length: room },
        n => vda_nvme::cmd::Sgl::InCapsule { offset: 0, length: n as u32 },
    }
    .encode();
    [&[flags][..], &(data.len() as u16).to_le_bytes(), &sqe.encode(), data].concat()
}

fn with(opcode: u8, nsid: u32, dwords: [u32; 3]) -> Sqe {
    let mut sqe = Sqe::new(opcode, nsid);
    sqe.cdw10[..3].copy_from_slice(&dwords);
    sqe
}

/// Each command once, and all together.
pub(crate) fn seeds() -> Vec<Vec<u8>> {
    let identify =
        [0, 1, 2, 3, 5, 6, 7, 8, 0x1c].map(|c| record(0, with(admin::IDENTIFY, 1, [c, 0, 0]), 4096, &[]));
    let logs = [0, 1, 2, 3, 4, 5, 0x0c, 0x80]
        .map(|l| record(0, with(admin::GET_LOG_PAGE, 1, [l | 127 << 16, 0, 0]), 512, &[]));
    let features = [1, 2, 4, 5, 6, 7, 0x0b, 0x0f, 0x16, 0x81, 0x82, 0x83].map(|f| {
        let room = if f == 0x16 { 512 } else { 16 };
        [
            record(0, with(admin::GET_FEATURES, 1, [f, 1, 0]), room, &[]),
            record(0, with(admin::SET_FEATURES, 1, [f, 1, 0]), 0, &[]),
        ]
        .concat()
    });
    let other = [
        record(0, with(admin::ABORT, 0, [1 | 3 << 16, 0, 0]), 0, &[]),
        record(0, with(admin::ASYNC_EVENT_REQUEST, 0, [0; 3]), 0, &[]),
        record(0, with(admin::KEEP_ALIVE, 0, [0; 3]), 0, &[]),
        record(0, with(FABRICS_OPCODE, fctype::PROPERTY_GET.into(), [1, 0, 0]), 0, &[]),
        record(0, with(FABRICS_OPCODE, fctype::PROPERTY_SET.into(), [0, 0x14, 0]), 0, &[]),
        record(DISCOVERY, with(admin::GET_LOG_PAGE, 0, [0x70 | 511 << 16, 0, 0]), 2048, &[]),
        record(DISCOVERY, with(admin::IDENTIFY, 0, [1, 0, 0]), 4096, &[]),
    ];
    let io = [
        record(ON_IO_QUEUE, with(io::WRITE, 1, [3, 0, 1 << 30]), 0, &[9; 512]),
        record(ON_IO_QUEUE, with(io::WRITE, 1, [3, 0, 1]), 1024, &[]),
        record(ON_IO_QUEUE, with(io::READ, 1, [3, 0, 3]), 2048, &[]),
        record(ON_IO_QUEUE, with(io::COMPARE, 1, [3, 0, 0]), 0, &[9; 512]),
        record(ON_IO_QUEUE, with(io::FLUSH, 1, [0; 3]), 0, &[]),
        record(ON_IO_QUEUE, with(io::WRITE_ZEROES, 1, [3, 0, 7]), 0, &[]),
        record(ON_IO_QUEUE, with(io::DATASET_MANAGEMENT, 1, [0, 4, 0]), 0, &[0; 16]),
        record(ON_IO_QUEUE, with(0x0d, 1, [0, 0, 0]), 0, &[1; 16]),
        record(ON_IO_QUEUE, with(0x11, 1, [1 << 8, 0, 0]), 0, &[1; 16]),
        record(ON_IO_QUEUE, with(0x15, 1, [1 << 8, 0, 0]), 0, &[1; 8]),
        record(ON_IO_QUEUE, with(0x0e, 1, [31, 1, 0]), 128, &[]),
    ];
    let mut all = [&identify[..], &logs, &features, &other, &io].concat();
    all.push(all.concat());
    all
}
