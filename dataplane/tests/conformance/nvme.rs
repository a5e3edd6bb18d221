//! A host of single NVMe commands: any command at any time, and every field of what comes back.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use serde::Deserialize;
use serde_json::{Value, json};
use vda_nvme::cmd::{Sqe, admin, feature, io};
use vda_nvme::codec::Limits;
use vda_nvme::digest::Digests;
use vda_nvme::fabrics::{self, CNTLID_DYNAMIC, Connect, ConnectData, property};
use vda_nvme::host::{Command, Completion, Event, HostConfig, HostQueue};
use vda_nvme::log::lid;
use vda_nvme::status::Status;

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(60);
/// CC: enabled, 64 byte commands, 16 byte completions.
const CC_ENABLED: u32 = 1 | 6 << 16 | 4 << 20;
/// What every target takes inside a capsule.
const IN_CAPSULE: u32 = 4096;
const DEPTH: u16 = 32;

/// A command as a scenario has it. Exactly one of `admin` and `io` names it, and with it the queue.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct NvmeCommand {
    /// The host that sends it.
    pub(crate) by: String,
    /// Name of an admin command.
    admin: Option<String>,
    /// Name of an I/O command.
    io: Option<String>,
    /// Namespace, 1 if it is left out.
    nsid: Option<u32>,
    /// Which half of a fused operation it is: 1 or 2.
    #[serde(default)]
    fuse: u8,
    #[serde(default)]
    cdw10: u32,
    #[serde(default)]
    cdw11: u32,
    #[serde(default)]
    cdw12: u32,
    #[serde(default)]
    cdw13: u32,
    /// Data for the controller: 64-bit numbers, the first bytes of it.
    #[serde(default)]
    send: Vec<u64>,
    /// Length of the data for the controller when it is not that of `send`.
    bytes: Option<usize>,
    /// Room for data from the controller.
    #[serde(default)]
    room: usize,
    /// Offset and length of the part of it that is compared; all of it if it is left out.
    part: Option<[usize; 2]>,
    /// What is special about it: part of its name in the table of differences.
    why: Option<String>,
    /// It is not waited for; the name under which its answer is asked for.
    pub(crate) r#as: Option<String>,
    /// The recorded answer.
    pub(crate) answer: Option<Value>,
}

impl NvmeCommand {
    /// Its name in messages and in the table of differences.
    pub(crate) fn name(&self) -> String {
        let name = self.admin.as_ref().or(self.io.as_ref()).map_or("", String::as_str);
        self.why.as_ref().map_or_else(|| name.to_owned(), |why| format!("{name}: {why}"))
    }

    fn sqe(&self) -> Sqe {
        let opcode = match (&self.admin, &self.io) {
            (Some(name), None) => admin_opcode(name),
            (None, Some(name)) => io_opcode(name),
            _ => None,
        };
        let mut sqe =
            Sqe::new(opcode.unwrap_or_else(|| panic!("no such command: {self:?}")), self.nsid.unwrap_or(1));
        sqe.flags |= self.fuse;
        sqe.cdw10[..4].copy_from_slice(&[self.cdw10, self.cdw11, self.cdw12, self.cdw13]);
        sqe
    }

    fn data(&self) -> Vec<u8> {
        let mut data: Vec<u8> = self.send.iter().flat_map(|n| n.to_le_bytes()).collect();
        data.resize(self.bytes.unwrap_or(data.len()), 0);
        data
    }

    /// An answer: the status, with its Do Not Retry bit apart, dword 0 and 1, and the data.
    fn show(&self, done: &Completion<u32>) -> Value {
        let status = done.cqe.status;
        let mut answer = json!({
            "status": format!("{:x}/{:02x}", status.sct(), status.sc()),
            "dnr": status.is_dnr(),
            "result": done.cqe.result,
        });
        if self.room > 0 && status.is_success() {
            let data = &done.buffer[..done.received];
            answer["data"] = match self.part {
                Some([from, length]) => hex(data.get(from..from + length).unwrap_or_default()).into(),
                None if self.io.as_deref() == Some("report") => report(data),
                None if self.cdw10 & 0xff == u32::from(lid::RESERVATION) => {
                    data.chunks(64).map(notification).collect()
                }
                None => hex(data).into(),
            };
        }
        answer
    }
}

/// In hexadecimal, without the zeros at the end.
fn hex(data: &[u8]) -> String {
    let end = data.iter().rposition(|b| *b != 0).map_or(0, |at| at + 1);
    data[..end].iter().map(|b| format!("{b:02x}")).collect()
}

/// A little endian number.
fn number(data: &[u8]) -> u64 {
    data.iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte))
}

/// Reservation Status, extended (Base 7.5). Behind the structure SPDK leaves whatever was in its buffer.
fn report(data: &[u8]) -> Value {
    let mut padded = data.to_vec();
    padded.resize(data.len().max(64), 0);
    let registrants = usize::from(padded[5]);
    let registrant = |b: &[u8]| {
        json!({
            "cntlid": number(&b[..2]), "holder": b[2], "reserved": hex(&b[3..8]), "key": number(&b[8..16]), "host": hex(&b[16..32]),
            "end": hex(&b[32..]),
        })
    };
    json!({
        "generation": number(&padded[..4]), "type": padded[4], "registered": number(&padded[5..7]), "reserved": hex(&padded[7..9]),
        "persistent": padded[9], "end": hex(&padded[10..64]),
        "registrants": padded.chunks_exact(64).skip(1).take(registrants).map(registrant).collect::<Value>(),
    })
}

/// Reservation Notification log page (Base 5.16.1.24).
fn notification(data: &[u8]) -> Value {
    json!({
        "count": number(&data[..8]), "type": data[8], "available": data[9], "reserved": hex(&data[10..12]),
        "nsid": number(&data[12..16]), "end": hex(&data[16..]),
    })
}

fn admin_opcode(name: &str) -> Option<u8> {
    Some(match name {
        "get_log_page" => admin::GET_LOG_PAGE,
        "identify" => admin::IDENTIFY,
        "set_features" => admin::SET_FEATURES,
        "get_features" => admin::GET_FEATURES,
        "async_event" => admin::ASYNC_EVENT_REQUEST,
        _ => return None,
    })
}

fn io_opcode(name: &str) -> Option<u8> {
    Some(match name {
        "flush" => io::FLUSH,
        "write" => io::WRITE,
        "read" => io::READ,
        "compare" => io::COMPARE,
        "write_zeroes" => io::WRITE_ZEROES,
        "dataset_management" => io::DATASET_MANAGEMENT,
        "register" => io::RESERVATION_REGISTER,
        "report" => io::RESERVATION_REPORT,
        "acquire" => io::RESERVATION_ACQUIRE,
        "release" => io::RESERVATION_RELEASE,
        _ => return None,
    })
}

/// Who connects to what.
#[derive(Debug, Clone)]
pub(crate) struct Who {
    pub(crate) port: u16,
    pub(crate) nqn: String,
    pub(crate) hostnqn: String,
    pub(crate) hostid: uuid::Uuid,
}

/// A controller with one I/O queue.
pub(crate) struct NvmeHost {
    admin: Queue,
    io: Queue,
}

impl NvmeHost {
    /// Connects, enables the controller, connects one I/O queue.
    ///
    /// # Errors
    /// The status with which the controller was refused.
    pub(crate) fn connect(who: &Who) -> Result<Self, Status> {
        let mut admin = Queue::connect(who, 0, CNTLID_DYNAMIC)?;
        let enabled = admin.status(fabrics::property_set(property::CC, CC_ENABLED));
        assert_eq!(enabled, Status::SUCCESS, "enabled");
        let ready = fabrics::property_get(property::CSTS, false);
        while {
            let done = admin.command(ready, Bytes::new(), 0);
            assert_eq!(done.cqe.status, Status::SUCCESS);
            done.cqe.result & 1 == 0
        } {}
        let io = Queue::connect(who, 1, admin.cntlid)?;
        Ok(Self { admin, io })
    }

    fn queue(&mut self, is_admin: bool) -> &mut Queue {
        if is_admin { &mut self.admin } else { &mut self.io }
    }

    /// Sends a command.
    pub(crate) fn begin(&mut self, command: &NvmeCommand) -> Token {
        let is_admin = command.admin.is_some();
        let queue = self.queue(is_admin);
        let number = queue.submit(command.sqe(), command.data().into(), command.room);
        Token { is_admin, number }
    }

    /// Waits for the answer.
    pub(crate) fn end(&mut self, token: Token, command: &NvmeCommand) -> Value {
        let done = self.queue(token.is_admin).wait(token.number);
        command.show(&done)
    }

    /// Whether the command has no answer after a later command of the same queue was answered.
    pub(crate) fn is_pending(&mut self, token: Token) -> bool {
        let queue = self.queue(token.is_admin);
        let barrier = if token.is_admin {
            let mut sqe = Sqe::new(admin::GET_FEATURES, 0);
            sqe.cdw10[0] = feature::NUMBER_OF_QUEUES.into();
            sqe
        } else {
            Sqe::new(io::FLUSH, 1)
        };
        queue.status(barrier);
        !queue.done.contains_key(&token.number)
    }
}

/// A command that was sent.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Token {
    is_admin: bool,
    number: u32,
}

struct Queue {
    stream: TcpStream,
    queue: HostQueue<u32>,
    next: u32,
    done: BTreeMap<u32, Completion<u32>>,
    cntlid: u16,
}

impl Queue {
    fn connect(who: &Who, qid: u16, cntlid: u16) -> Result<Self, Status> {
        let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, who.port)).unwrap();
        stream.set_nodelay(true).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let limits = Limits { queue_depth: DEPTH, ..Limits::default() };
        let mut queue = HostQueue::new(HostConfig { limits, digests: Digests::default() });
        queue.set_in_capsule(IN_CAPSULE);
        let mut this = Self { stream, queue, next: 0, done: BTreeMap::new(), cntlid: 0 };
        while !this.queue.has_room() {
            this.exchange();
        }
        let data = ConnectData {
            hostid: *who.hostid.as_bytes(),
            cntlid,
            subnqn: who.nqn.clone(),
            hostnqn: who.hostnqn.clone(),
        };
        let sqsize = DEPTH - 1;
        let (sqe, data) =
            Connect { recfmt: 0, qid, sqsize, no_sq_flow_control: false, kato: 0, data }.encode();
        let done = this.command(sqe, data.into(), 0);
        if !done.cqe.status.is_success() {
            return Err(done.cqe.status);
        }
        this.cntlid = (done.cqe.result & 0xffff) as u16;
        Ok(this)
    }

    fn submit(&mut self, sqe: Sqe, data: Bytes, room: usize) -> u32 {
        let token = self.next;
        self.next += 1;
        let command = Command { sqe, data, buffer: BytesMut::zeroed(room), token };
        self.queue.submit(command).expect("room in the queue");
        self.flush();
        token
    }

    fn wait(&mut self, token: u32) -> Completion<u32> {
        loop {
            if let Some(done) = self.done.remove(&token) {
                return done;
            }
            self.exchange();
        }
    }

    fn command(&mut self, sqe: Sqe, data: Bytes, room: usize) -> Completion<u32> {
        let token = self.submit(sqe, data, room);
        self.wait(token)
    }

    fn status(&mut self, sqe: Sqe) -> Status {
        self.command(sqe, Bytes::new(), 0).cqe.status
    }

    fn flush(&mut self) {
        while !self.queue.outbox().is_empty() {
            let sent = self.stream.write(self.queue.outbox().chunk()).unwrap();
            self.queue.outbox().advance(sent);
        }
    }

    fn exchange(&mut self) {
        self.flush();
        let mut chunk = [0; 8192];
        let received = self.stream.read(&mut chunk).expect("an answer in time");
        assert!(received > 0, "the target closed the connection");
        self.queue.buffer().extend_from_slice(&chunk[..received]);
        while let Some(event) = self.queue.poll().expect("the target keeps the protocol") {
            if let Event::Completed(done) = event {
                self.done.insert(done.token, done);
            }
        }
        self.flush();
    }
}
