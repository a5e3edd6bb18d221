//! One beyond every limit of commands, over a target: the status that the host gets. Limits of the transport are tested in `vda-nvme`.

use vda_dataplane::nvmf::TransportOptions;
use vda_nvme::cmd::{Cqe, DsmRange, NSID_ALL, Sqe, admin, feature, io};
use vda_nvme::fabrics::{self, CNTLID_DYNAMIC, Connect, ConnectData, property};
use vda_nvme::identify::{Controller, IDENTIFY_LEN, cns};
use vda_nvme::limits::{EVENT_REQUESTS, NQN_MAX_LEN};
use vda_nvme::log::lid;
use vda_nvme::status::Status;

use crate::fixture::{BLOCK, BLOCKS, Fixture, HOST, NQN, run};
use crate::raw::{CC_ENABLED, RawHost, RawQueue};

/// The largest NSID of the subsystem.
const LAST_NSID: u32 = 32;

/// A command, its data, the room for data from the controller, and the status.
type Case = (&'static str, Sqe, Vec<u8>, usize, Status);

async fn check(queue: &mut RawQueue, cases: Vec<Case>) {
    for (what, sqe, data, room, status) in cases {
        assert_eq!(queue.status(sqe, data, room).await, status, "{what}");
    }
}

fn sqe(opcode: u8, nsid: u32, dwords: &[(usize, u32)]) -> Sqe {
    let mut sqe = Sqe::new(opcode, nsid);
    dwords.iter().for_each(|(n, value)| sqe.cdw10[n - 10] = *value);
    sqe
}

fn range(opcode: u8, nsid: u32, lba: u64, blocks: u32) -> Sqe {
    let mut sqe = Sqe::new(opcode, nsid);
    sqe.set_range(lba, blocks);
    sqe
}

fn io_cases() -> Vec<Case> {
    let range_status = Status::LBA_OUT_OF_RANGE.dnr();
    let namespace = Status::INVALID_NAMESPACE.dnr();
    let length = Status::DATA_SGL_LENGTH_INVALID.dnr();
    let ranges = |last: u64, n: usize| {
        let one = DsmRange { slba: last, blocks: 1 };
        DsmRange::encode_all(&vec![one; n])
    };
    let deallocate = |n: u32| sqe(io::DATASET_MANAGEMENT, 1, &[(10, n), (11, io::DSM_DEALLOCATE)]);
    vec![
        ("the last block", range(io::READ, 1, BLOCKS - 1, 1), vec![], BLOCK, Status::SUCCESS),
        ("a block too far", range(io::READ, 1, BLOCKS, 1), vec![], BLOCK, range_status),
        ("one more than there is", range(io::READ, 1, BLOCKS - 1, 2), vec![], 2 * BLOCK, range_status),
        ("an end beyond 64 bits", range(io::READ, 1, u64::MAX, 1), vec![], BLOCK, range_status),
        ("write", range(io::WRITE, 1, BLOCKS, 1), vec![1; BLOCK], 0, range_status),
        ("compare", range(io::COMPARE, 1, BLOCKS, 1), vec![1; BLOCK], 0, range_status),
        ("zeroes", range(io::WRITE_ZEROES, 1, BLOCKS - 1, 2), vec![], 0, range_status),
        ("a range of many", deallocate(1), ranges(BLOCKS, 2), 0, range_status),
        ("the last of 256 ranges", deallocate(255), ranges(BLOCKS - 1, 256), 0, Status::SUCCESS),
        ("a range that is not there", deallocate(2), ranges(0, 2), 0, length),
        ("room for less than the blocks", range(io::READ, 1, 0, 2), vec![], 2 * BLOCK - 1, length),
        ("data for less than the blocks", range(io::WRITE, 1, 0, 2), vec![1; 2 * BLOCK - 1], 0, length),
        ("MDTS", range(io::READ, 1, 0, 256), vec![], 256 * BLOCK, Status::SUCCESS),
        ("more than MDTS", range(io::READ, 1, 0, 257), vec![], 257 * BLOCK, Status::INVALID_FIELD.dnr()),
        ("no namespace 0", range(io::READ, 0, 0, 1), vec![], BLOCK, namespace),
        ("an inactive namespace", range(io::READ, 2, 0, 1), vec![], BLOCK, namespace),
        ("all namespaces", range(io::READ, NSID_ALL, 0, 1), vec![], BLOCK, namespace),
        ("an unknown opcode", sqe(0x7c, 1, &[]), vec![], 0, Status::INVALID_OPCODE.dnr()),
        ("verify is not offered", range(0x0c, 1, 0, 1), vec![], 0, Status::INVALID_OPCODE.dnr()),
        ("an admin command", sqe(admin::KEEP_ALIVE, 1, &[]), vec![], 0, Status::INVALID_OPCODE.dnr()),
    ]
}

#[test]
fn io_commands() {
    run(async {
        let f = Fixture::new();
        let mut host = RawHost::connect(&f.who()).await;
        check(&mut host.io, io_cases()).await;
    });
}

fn identify_cases() -> Vec<Case> {
    let identify = |cns: u8, nsid: u32| sqe(admin::IDENTIFY, nsid, &[(10, cns.into())]);
    let csi = |cns: u8, csi: u32| sqe(admin::IDENTIFY, 1, &[(10, cns.into()), (11, csi << 24)]);
    let (ok, field) = (Status::SUCCESS, Status::INVALID_FIELD.dnr());
    let (namespace, length) = (Status::INVALID_NAMESPACE.dnr(), Status::DATA_SGL_LENGTH_INVALID.dnr());
    let case = |what, sqe, status| (what, sqe, vec![], IDENTIFY_LEN, status);
    vec![
        case("controller", identify(cns::CONTROLLER, 0), ok),
        ("a byte short", identify(cns::CONTROLLER, 0), vec![], IDENTIFY_LEN - 1, length),
        case("the last namespace", identify(cns::NAMESPACE, LAST_NSID), ok),
        case("one above NN", identify(cns::NAMESPACE, LAST_NSID + 1), namespace),
        case("namespace 0", identify(cns::NAMESPACE, 0), namespace),
        case("all namespaces", identify(cns::NAMESPACE, NSID_ALL), namespace),
        case("descriptors of none", identify(cns::NAMESPACE_DESCRIPTORS, 2), field),
        case("descriptors above NN", identify(cns::NAMESPACE_DESCRIPTORS, LAST_NSID + 1), namespace),
        case("a list after the last", identify(cns::ACTIVE_NAMESPACES, NSID_ALL - 2), ok),
        case("a list after FFFFFFFEh", identify(cns::ACTIVE_NAMESPACES, NSID_ALL - 1), namespace),
        case("another command set", csi(cns::CSI_NAMESPACE, 1), field),
        case("an unknown CNS", identify(0x04, 0), field),
        case("allocated namespaces are not managed", identify(cns::ALLOCATED_NAMESPACES, 0), field),
    ]
}

fn log_cases() -> Vec<Case> {
    // Dwords zero based in the upper half of dword 10, the offset in dwords 12 and 13.
    let log = |lid: u8, dwords: u32, offset: u32| {
        sqe(admin::GET_LOG_PAGE, NSID_ALL, &[(10, u32::from(lid) | (dwords - 1) << 16), (12, offset)])
    };
    let (ok, field) = (Status::SUCCESS, Status::INVALID_FIELD.dnr());
    let unknown = Status::INVALID_LOG_PAGE.dnr();
    let length = Status::DATA_SGL_LENGTH_INVALID.dnr();
    vec![
        ("health", log(lid::HEALTH, 128, 0), vec![], 512, ok),
        ("more than there is room for", log(lid::HEALTH, 128, 0), vec![], 511, length),
        ("the last dword", log(lid::HEALTH, 1, 508), vec![], 4, ok),
        ("an offset behind the end", log(lid::HEALTH, 1, 512), vec![], 4, field),
        ("an offset within a dword", log(lid::HEALTH, 1, 2), vec![], 4, field),
        ("the one error entry", log(lid::ERROR, 16, 0), vec![], 64, ok),
        ("a second error entry", log(lid::ERROR, 16, 64), vec![], 64, field),
        ("an unknown log", log(0x7f, 1, 0), vec![], 4, unknown),
        ("discovery, of an I/O controller", log(lid::DISCOVERY, 1, 0), vec![], 4, unknown),
    ]
}

fn feature_cases() -> Vec<Case> {
    let get = |fid: u8, sel: u32, dword11: u32| {
        sqe(admin::GET_FEATURES, 0, &[(10, u32::from(fid) | sel << 8), (11, dword11)])
    };
    let set = |fid: u8, value: u32| sqe(admin::SET_FEATURES, 0, &[(10, fid.into()), (11, value)]);
    let (ok, field) = (Status::SUCCESS, Status::INVALID_FIELD.dnr());
    let length = Status::DATA_SGL_LENGTH_INVALID.dnr();
    let save = sqe(admin::SET_FEATURES, 0, &[(10, 1 << 31 | u32::from(feature::ARBITRATION))]);
    vec![
        ("number of queues", set(feature::NUMBER_OF_QUEUES, 0xfffe_fffe), vec![], 0, ok),
        ("65536 submission queues", set(feature::NUMBER_OF_QUEUES, 0xffff), vec![], 0, field),
        ("65536 completion queues", set(feature::NUMBER_OF_QUEUES, 0xffff_0000), vec![], 0, field),
        ("power state 0", set(feature::POWER_MANAGEMENT, 0), vec![], 0, ok),
        ("power state 1", set(feature::POWER_MANAGEMENT, 1), vec![], 0, field),
        ("a fixed one", set(feature::WRITE_ATOMICITY, 1), vec![], 0, Status::FEATURE_NOT_CHANGEABLE.dnr()),
        ("one that cannot be saved", save, vec![], 0, Status::FEATURE_NOT_SAVEABLE.dnr()),
        ("the saved value", get(feature::ARBITRATION, 2, 0), vec![], 0, field),
        ("an unknown one", get(0x7f, 0, 0), vec![], 0, field),
        ("another unknown one", set(0x7f, 0), vec![], 0, field),
        (
            "the timer cannot be turned off",
            set(feature::KEEP_ALIVE_TIMER, 0),
            vec![],
            0,
            Status::KEEP_ALIVE_INVALID.dnr(),
        ),
        ("keep alive", sqe(admin::KEEP_ALIVE, 0, &[]), vec![], 0, Status::KEEP_ALIVE_INVALID.dnr()),
        ("host identifier", get(feature::HOST_IDENTIFIER, 0, 1), vec![], 16, ok),
        ("a byte short", get(feature::HOST_IDENTIFIER, 0, 1), vec![], 15, length),
        (
            "the short form",
            get(feature::HOST_IDENTIFIER, 0, 0),
            vec![],
            16,
            Status::HOST_ID_INCONSISTENT.dnr(),
        ),
        ("host behaviour", set(feature::HOST_BEHAVIOR, 0), vec![0; 512], 0, ok),
        ("less of it", set(feature::HOST_BEHAVIOR, 0), vec![0; 511], 0, length),
        ("room for less of it", get(feature::HOST_BEHAVIOR, 0, 0), vec![], 511, length),
    ]
}

fn property_cases() -> Vec<Case> {
    let (ok, field) = (Status::SUCCESS, Status::INVALID_FIELD.dnr());
    let sized = |size: u32| {
        let mut sqe = fabrics::property_get(property::CAP, true);
        sqe.cdw10[0] = size;
        sqe
    };
    let cc = |more: u32| fabrics::property_set(property::CC, CC_ENABLED | more);
    vec![
        ("CAP", sized(1), vec![], 0, ok),
        ("CAP as 4 bytes", sized(0), vec![], 0, field),
        ("a size that does not exist", sized(2), vec![], 0, field),
        ("an unknown property", fabrics::property_get(0x24, false), vec![], 0, field),
        ("one that is read-only", fabrics::property_set(property::CSTS, 0), vec![], 0, field),
        ("pages of 8 KiB", cc(1 << 7), vec![], 0, field),
        ("weighted arbitration", cc(1 << 11), vec![], 0, field),
        ("another command set", cc(1 << 4), vec![], 0, field),
        (
            "a second Connect",
            Sqe { nsid: 1, ..Sqe::new(0x7f, 0) },
            vec![0; 1024],
            0,
            Status::SEQUENCE_ERROR.dnr(),
        ),
        (
            "an unknown Fabrics command",
            Sqe { nsid: 0x10, ..Sqe::new(0x7f, 0) },
            vec![],
            0,
            Status::INVALID_OPCODE.dnr(),
        ),
        ("an unknown admin command", sqe(0x80, 0, &[]), vec![], 0, Status::INVALID_OPCODE.dnr()),
    ]
}

#[test]
fn admin_commands() {
    run(async {
        let f = Fixture::new();
        let mut host = RawHost::connect(&f.who()).await;
        for cases in [identify_cases(), log_cases(), feature_cases(), property_cases()] {
            check(&mut host.admin, cases).await;
        }
    });
}

#[test]
fn what_identify_says_is_what_is_enforced() {
    run(async {
        let f = Fixture::new();
        let mut host = RawHost::connect(&f.who()).await;
        let data = host.admin.command(sqe(admin::IDENTIFY, 0, &[(10, 1)]), vec![], IDENTIFY_LEN).await.buffer;
        let id = Controller::decode(&data);
        assert_eq!((usize::from(id.aerl) + 1, id.nn), (EVENT_REQUESTS, LAST_NSID));
        assert_eq!((4096 << id.mdts, id.ioccsz * 16 - 64), (128 << 10, 4096));
        let word = |at: usize| u32::from_le_bytes([data[at], data[at + 1], data[at + 2], data[at + 3]]);
        assert_eq!((data[258], data[262]), (3, 0), "ACL: four aborts; ELPE: one entry");
        assert_eq!(word(522) & 0xffff, 1, "FUSES: Compare and Write");
        assert_eq!(word(532) & 0xffff, 0, "ACWU: one block");
        assert_eq!(word(536), 1 | 1 << 20 | 1 << 21, "SGLS: offsets and transport data blocks");
        // One block more than ACWU, and a queue that has no fused operations.
        for (blocks, ends) in
            [(1, [Status::SUCCESS; 2]), (2, [Status::INVALID_FIELD.dnr(), Status::FAILED_FUSED])]
        {
            let zeroes = vec![0; blocks as usize * BLOCK];
            let tokens = [(io::COMPARE, 1), (io::WRITE, 2)].map(|(opcode, fuse)| {
                let half = Sqe { flags: fuse, ..range(opcode, 1, 0, blocks) };
                host.io.stage(half, zeroes.clone(), 0)
            });
            for (token, end) in tokens.into_iter().zip(ends) {
                assert_eq!(host.io.wait(token).await.cqe.status, end, "{blocks} blocks");
            }
        }
        let keep_alive = Sqe { flags: 1, ..sqe(admin::KEEP_ALIVE, 0, &[]) };
        assert_eq!(host.admin.status(keep_alive, vec![], 0).await, Status::INVALID_FIELD.dnr());
        // One request for events more than AERL says.
        for _ in 0..EVENT_REQUESTS {
            host.admin.submit(sqe(admin::ASYNC_EVENT_REQUEST, 0, &[]), vec![], 0).await;
        }
        let one_more = host.admin.status(sqe(admin::ASYNC_EVENT_REQUEST, 0, &[]), vec![], 0).await;
        assert_eq!(one_more, Status::AER_LIMIT_EXCEEDED.dnr());
    });
}

#[test]
fn one_abort_more_than_acl_says_is_refused() {
    run(async {
        let f = Fixture::new();
        let mut host = RawHost::connect(&f.who()).await;
        // Sent together they arrive together, and the other queue has no turn in between.
        let abort = sqe(admin::ABORT, 0, &[(10, 1 | 0x7777 << 16)]);
        let tokens: Vec<u32> = (0..5).map(|_| host.admin.stage(abort, vec![], 0)).collect();
        let mut refused = 0;
        for token in tokens {
            let cqe: Cqe = host.admin.wait(token).await.cqe;
            match cqe.status {
                Status::SUCCESS => assert_eq!(cqe.result, 1, "there is no such command"),
                status => {
                    assert_eq!(status, Status::ABORT_LIMIT_EXCEEDED.dnr());
                    refused += 1;
                }
            }
        }
        assert_eq!(refused, 1);
        // Their places are free again.
        assert_eq!(host.admin.status(abort, vec![], 0).await, Status::SUCCESS);
    });
}

/// Status and dword 0 of a Connect.
async fn connect(f: &Fixture, change: impl Fn(&mut Connect, &mut Vec<u8>)) -> (Status, u64) {
    let who = f.who();
    let mut queue = RawQueue::open(who.address, who.digests, who.depth).await;
    let data =
        ConnectData { hostid: who.hostid, cntlid: CNTLID_DYNAMIC, subnqn: NQN.into(), hostnqn: HOST.into() };
    let mut connect = Connect { recfmt: 0, qid: 0, sqsize: 31, no_sq_flow_control: false, kato: 0, data };
    change(&mut connect, &mut Vec::new());
    let (sqe, mut data) = connect.encode();
    change(&mut connect, &mut data);
    let done = queue.command(sqe, data, 0).await;
    (done.cqe.status, done.cqe.result)
}

#[test]
fn connect_parameters() {
    run(async {
        let f = Fixture::with(TransportOptions { max_io_qpairs: 2, ..TransportOptions::default() });
        let mut admin = RawHost::admin(&f.who()).await;
        let cntlid = admin.cntlid;
        let in_data = |offset: u64| (Status::CONNECT_INVALID_PARAM, 1 << 16 | offset);
        let in_command = |offset: u64| (Status::CONNECT_INVALID_PARAM, offset);
        let invalid_field = (Status::INVALID_FIELD, 0);
        let io = move |c: &mut Connect, qid: u16| (c.qid, c.data.cntlid) = (qid, cntlid);
        type Change = Box<dyn Fn(&mut Connect, &mut Vec<u8>)>;
        let cases: Vec<(&str, Change, (Status, u64))> = vec![
            ("a record format", Box::new(|c, _| c.recfmt = 1), (Status::CONNECT_INCOMPATIBLE_FORMAT, 0)),
            ("a queue of one entry", Box::new(|c, _| c.sqsize = 0), in_command(44)),
            ("a queue one too long", Box::new(|c, _| c.sqsize = 128), in_command(44)),
            ("a controller of one's choice", Box::new(|c, _| c.data.cntlid = 1), in_data(16)),
            ("an unknown subsystem", Box::new(|c, _| c.data.subnqn.push('x')), in_data(256)),
            (
                "a subsystem without end",
                Box::new(|_, d| {
                    if !d.is_empty() {
                        d[256..=256 + NQN_MAX_LEN].fill(b'n')
                    }
                }),
                in_data(256),
            ),
            (
                "a host without end",
                Box::new(|_, d| {
                    if !d.is_empty() {
                        d[512..=512 + NQN_MAX_LEN].fill(b'n')
                    }
                }),
                in_data(512),
            ),
            ("data a byte short", Box::new(|_, d| d.truncate(1023)), invalid_field),
            ("a queue above the last", Box::new(move |c, _| io(c, 3)), in_command(42)),
            (
                "an unknown controller",
                Box::new(move |c, _| (c.qid, c.data.cntlid) = (1, cntlid + 1)),
                in_data(16),
            ),
            (
                "another host's controller",
                Box::new(move |c, _| {
                    io(c, 1);
                    c.data.hostid = [8; 16]
                }),
                in_data(512),
            ),
        ];
        for (what, change, expected) in cases {
            assert_eq!(connect(&f, change).await, expected, "{what}");
        }
        // The longest queue, the last queue; and each queue once.
        let (status, _) = connect(&f, |c, _| c.sqsize = 127).await;
        assert_eq!(status, Status::SUCCESS);
        let who = f.who();
        let (_queue, status) = RawQueue::connect(&who, 2, cntlid).await;
        assert_eq!(status, Status::SUCCESS);
        let (_twin, status) = RawQueue::connect(&who, 2, cntlid).await;
        assert_eq!(status, Status::INVALID_QUEUE_ID);
        // Before the controller is enabled it has no I/O queues.
        assert_eq!(admin.status(fabrics::property_set(property::CC, 0), vec![], 0).await, Status::SUCCESS);
        assert_eq!(connect(&f, move |c, _| io(c, 1)).await, in_command(42));
    });
}
