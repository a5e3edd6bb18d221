//! A proxy that writes what passes through it as a capture file, so that no privileges are needed to look at the wire.
//!
//! The capture is made of plain IPv4 packets (link type 101): every connection has a client port of its own, the server's port is
//! always 4420, which Wireshark knows as NVMe/TCP. Sequence numbers count the bytes, as TCP does.

use std::cell::RefCell;
use std::net::{Ipv4Addr, SocketAddr};
use std::rc::Rc;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// Port of the target in the capture.
const SERVER_PORT: u16 = 4420;
const FIRST_CLIENT_PORT: u16 = 50_000;
const SYN: u8 = 0x02;
const PSH: u8 = 0x08;
const ACK: u8 = 0x10;
/// Below the largest payload of an IPv4 packet.
const CHUNK: usize = 32 << 10;

/// What was recorded.
#[derive(Default)]
pub(crate) struct Capture {
    bytes: Vec<u8>,
    packets: u32,
    connections: u16,
}

/// Sequence numbers of one connection: of the client, of the server.
struct Flow {
    port: u16,
    sent: [u32; 2],
}

impl Capture {
    fn new() -> Self {
        let mut bytes = Vec::new();
        for word in [0xa1b2_c3d4_u32, 2 | 4 << 16, 0, 0, 1 << 16, 101] {
            bytes.extend_from_slice(&word.to_le_bytes());
        }
        Self { bytes, ..Self::default() }
    }

    /// The capture file.
    pub(crate) fn file(&self) -> &[u8] {
        &self.bytes
    }

    fn open(&mut self) -> Rc<RefCell<Flow>> {
        let mut flow = Flow { port: FIRST_CLIENT_PORT + self.connections, sent: [0, 0] };
        self.connections += 1;
        self.packet(&flow, true, SYN, &[]);
        flow.sent[0] = 1;
        self.packet(&flow, false, SYN | ACK, &[]);
        flow.sent[1] = 1;
        self.packet(&flow, true, ACK, &[]);
        Rc::new(RefCell::new(flow))
    }

    fn data(&mut self, flow: &RefCell<Flow>, from_client: bool, data: &[u8]) {
        self.packet(&flow.borrow(), from_client, PSH | ACK, data);
        flow.borrow_mut().sent[usize::from(!from_client)] += data.len() as u32;
    }

    fn packet(&mut self, flow: &Flow, from_client: bool, flags: u8, data: &[u8]) {
        let (client, server) = ([10, 0, 0, 1], [10, 0, 0, 2]);
        let (ports, seq, ack, from, to) = match from_client {
            true => ([flow.port, SERVER_PORT], flow.sent[0], flow.sent[1], client, server),
            false => ([SERVER_PORT, flow.port], flow.sent[1], flow.sent[0], server, client),
        };
        let length = (40 + data.len()) as u16;
        let mut p = vec![0x45, 0];
        p.extend_from_slice(&length.to_be_bytes());
        p.extend_from_slice(&[0, 0, 0x40, 0, 64, 6, 0, 0]); // do not fragment, TTL, TCP, no checksum
        p.extend_from_slice(&from);
        p.extend_from_slice(&to);
        p.extend(ports.iter().flat_map(|port| port.to_be_bytes()));
        p.extend_from_slice(&seq.to_be_bytes());
        p.extend_from_slice(&ack.to_be_bytes());
        p.extend_from_slice(&[5 << 4, flags, 0xff, 0xff, 0, 0, 0, 0]); // header of 5 words, window, no checksum
        p.extend_from_slice(data);
        self.packets += 1;
        // The time is the number of the packet, in milliseconds.
        for word in [self.packets / 1000, self.packets % 1000 * 1000, p.len() as u32, p.len() as u32] {
            self.bytes.extend_from_slice(&word.to_le_bytes());
        }
        self.bytes.extend_from_slice(&p);
    }
}

/// Forwards connections to `to` and records them; gives the address to connect to.
pub(crate) async fn record(to: SocketAddr) -> (SocketAddr, Rc<RefCell<Capture>>) {
    let capture = Rc::new(RefCell::new(Capture::new()));
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("bound");
    let address = listener.local_addr().expect("bound");
    let recorded = Rc::clone(&capture);
    tokio::task::spawn_local(async move {
        while let Ok((near, _)) = listener.accept().await {
            let far = TcpStream::connect(to).await.expect("the target listens");
            let flow = recorded.borrow_mut().open();
            tokio::task::spawn_local(forward(near, far, flow, Rc::clone(&recorded)));
        }
    });
    (address, capture)
}

async fn forward(
    mut near: TcpStream,
    mut far: TcpStream,
    flow: Rc<RefCell<Flow>>,
    capture: Rc<RefCell<Capture>>,
) {
    let (mut from_client, mut from_server) = (vec![0; CHUNK], vec![0; CHUNK]);
    loop {
        let (n, client) = tokio::select! {
            n = near.read(&mut from_client) => (n, true),
            n = far.read(&mut from_server) => (n, false),
        };
        let Ok(n @ 1..) = n else { return };
        let (data, to) = if client { (&from_client[..n], &mut far) } else { (&from_server[..n], &mut near) };
        capture.borrow_mut().data(&flow, client, data);
        if to.write_all(data).await.is_err() {
            return;
        }
    }
}
