//! Target and host of this crate against each other over loopback.

use std::net::{Ipv4Addr, TcpListener};

use bytes::{Bytes, BytesMut};
use tokio::task::LocalSet;
use vda_nvme::controller::state::KeepAlive;
use vda_nvme::digest::Digests;
use vda_spdk::MultipathMode;

use super::*;
use crate::bdev::held_disk::HeldDisk;
use crate::bdev::malloc::{self, MallocParams};
use crate::bdev::nvme::{Attach, Multipath, NvmeError, NvmeModule};
use crate::bdev::{Bdev, IoError, IoFuture, NewBdev, Registration};
use crate::initiator::group::NoEvents;
use crate::initiator::{ConnectError, Group, HostOptions, Namespace as HostNamespace, Resilience, Session};

const NQN: &str = "nqn.2016-06.io.vda:vd:0000000000000001";
const HOST: &str = "nqn.2016-06.io.vda:cntlr:0000000000000001:0:1";
const OTHER: &str = "nqn.2016-06.io.vda:cntlr:0000000000000002:0:2";
const PATIENCE: Duration = Duration::from_secs(10);

fn run(test: impl Future<Output = ()>) {
    let rt = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("runtime");
    LocalSet::new().block_on(&rt, async {
        tokio::time::timeout(Duration::from_secs(60), test).await.expect("the test hangs");
    });
}

fn free_address() -> SocketAddr {
    let probe = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
    probe.local_addr().expect("bound")
}

fn options() -> TransportOptions {
    TransportOptions { in_capsule_data_size: 8192, ..TransportOptions::default() }
}

struct Fixture {
    registry: Registry,
    target: Rc<Target>,
    address: SocketAddr,
    _malloc: Registration,
}

fn request(bdev: &str) -> NamespaceRequest {
    NamespaceRequest {
        bdev_name: bdev.into(),
        nguid: Some("7C5B1A600000400080000000000ABCD1".into()),
        uuid: Some(Uuid::from_u128(7)),
        ..NamespaceRequest::default()
    }
}

fn fixture() -> Fixture {
    let registry = Registry::new();
    let params = MallocParams { name: Some("m0".into()), num_blocks: 4096, block_size: 512, uuid: None };
    let malloc = malloc::create(&registry, params).expect("malloc");
    let target = Target::new(registry.clone());
    target.create_transport(options()).expect("transport");
    let config = SubsystemConfig { ana_reporting: true, ..SubsystemConfig::new(NQN) };
    target.create_subsystem(config, false).expect("subsystem");
    target.add_ns(NQN, &request("m0")).expect("namespace");
    target.add_host(NQN, HOST).expect("host");
    let address = free_address();
    target.add_listener(NQN, address, AnaState::Optimized).expect("listener");
    Fixture { registry, target, address, _malloc: malloc }
}

fn resilience() -> Resilience {
    Resilience {
        loss_timeout: None,
        reconnect_delay: Duration::from_millis(20),
        fast_io_fail: Duration::ZERO,
    }
}

fn host() -> HostOptions {
    HostOptions::new(HOST)
}

async fn attach(f: &Fixture, options: HostOptions) -> (Rc<Group>, Rc<HostNamespace>) {
    let group = Group::new("g", NQN, 3, Box::new(NoEvents));
    group.attach(f.address, options, resilience()).await.expect("attach");
    let ns = group.namespaces().pop().expect("a namespace");
    (group, ns)
}

fn pattern(seed: u8, len: usize) -> Bytes {
    (0..len).map(|i| (i as u8).wrapping_mul(31).wrapping_add(seed) ^ (i >> 9) as u8).collect()
}

async fn round_trip(ns: &HostNamespace) {
    for (seed, (lba, len)) in
        [(0, 512), (1, 4096), (9, 8192), (40, 65536), (200, 400 << 10)].into_iter().enumerate()
    {
        let data = pattern(seed as u8, len);
        ns.write(lba, data.clone(), seed % 2 == 0).await.expect("write");
        let read = ns.read(lba, BytesMut::zeroed(len)).await.expect("read");
        assert!(read == data, "lba {lba} len {len}");
        ns.compare(lba, data).await.expect("equal");
    }
    ns.flush().await.expect("flush");
    assert_eq!(ns.compare(0, pattern(99, 512)).await, Err(IoError::Miscompare));
    ns.write_zeroes(0, 8, false).await.expect("write zeroes");
    ns.unmap(8, 8).await.expect("unmap");
    assert!(ns.read(0, BytesMut::zeroed(512)).await.expect("read").iter().all(|b| *b == 0));
    assert_eq!(ns.read(ns.blocks(), BytesMut::zeroed(512)).await, Err(IoError::InvalidRange));
}

#[test]
fn every_command_works_with_and_without_digests() {
    run(async {
        let f = fixture();
        for (header, data) in [(false, false), (true, false), (false, true), (true, true)] {
            let options = HostOptions { digests: Digests { header, data }, io_queues: 3, ..host() };
            let (group, ns) = attach(&f, options).await;
            assert_eq!((ns.blocks(), ns.block_size()), (4096, 512));
            assert_eq!(ns.ids.uuid, *Uuid::from_u128(7).as_bytes());
            assert_eq!(f.target.show_controllers(NQN).expect("shown")[0].num_io_qpairs, 4);
            round_trip(&ns).await;
            group.close().await;
            eventually(|| f.target.show_qpairs(NQN).expect("shown").is_empty()).await;
        }
    });
}

/// Lets other tasks run until `condition` holds.
async fn eventually(condition: impl Fn() -> bool) {
    let until = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(PATIENCE, until).await.expect("condition is not met");
}

#[test]
fn a_host_that_is_not_allowed_is_refused_and_learns_nothing() {
    run(async {
        let f = fixture();
        let refused = Session::connect(f.address, NQN, &HostOptions::new(OTHER)).await;
        assert!(matches!(refused, Err(ConnectError::HostNotAllowed { .. })));
        let unknown = Session::connect(f.address, "nqn.2016-06.io.vda:vd:none", &host()).await;
        assert!(matches!(unknown, Err(ConnectError::NoSubsystem { .. })));
        for (name, sees) in [(HOST, 1), (OTHER, 0), ("nqn.2016-06.io.vda:cntlr:0000000000000001:0:11", 0)] {
            let s =
                Session::connect(f.address, DISCOVERY_NQN, &HostOptions::new(name)).await.expect("discovery");
            let (_, entries) = s.discover().await.expect("log");
            assert_eq!(entries.len(), sees, "{name}");
            assert!(entries.iter().all(|e| e.subnqn == NQN && e.trsvcid == f.address.port().to_string()));
        }
    });
}

#[test]
fn inaccessible_paths_hold_io_until_they_are_optimized_again() {
    run(async {
        let f = fixture();
        let (_group, ns) = attach(&f, host()).await;
        f.target.set_ana_state(NQN, f.address, AnaState::Inaccessible, None).expect("set");
        let io = {
            let ns = Rc::clone(&ns);
            tokio::task::spawn_local(async move { ns.write(0, pattern(1, 512), false).await })
        };
        tokio::time::sleep(Duration::from_millis(100)).await;
        assert!(!io.is_finished(), "must wait");
        f.target.set_ana_state(NQN, f.address, AnaState::NonOptimized, None).expect("set");
        io.await.expect("joined").expect("written");
    });
}

#[test]
fn io_moves_to_the_path_that_becomes_optimized() {
    run(async {
        let f = fixture();
        let second = free_address();
        f.target.add_listener(NQN, second, AnaState::Inaccessible).expect("listener");
        let (group, ns) = attach(&f, host()).await;
        group.attach(second, host(), resilience()).await.expect("second path");
        let chosen = |ns: &HostNamespace| ns.select(None).map(|(p, _)| p.address);
        assert_eq!(chosen(&ns), Some(f.address));
        f.target.set_ana_state(NQN, second, AnaState::Optimized, None).expect("set");
        f.target.set_ana_state(NQN, f.address, AnaState::Inaccessible, None).expect("set");
        eventually(|| chosen(&ns) == Some(second)).await;
        round_trip(&ns).await;
        // The listener vanishes, as with the death of a controller: the other path must take over.
        f.target.set_ana_state(NQN, f.address, AnaState::Optimized, None).expect("set");
        f.target.remove_listener(NQN, second).expect("removed");
        round_trip(&ns).await;
        assert_eq!(chosen(&ns), Some(f.address));
    });
}

#[test]
fn remove_host_is_a_fence_even_with_a_stuck_write() {
    run(async {
        let f = fixture();
        let disk = HeldDisk::register(&f.registry, "stuck");
        f.target.remove_ns(NQN, 1).await.expect("removed");
        f.target
            .add_ns(NQN, &NamespaceRequest { bdev_name: "stuck".into(), ..Default::default() })
            .expect("added");
        let (group, ns) = attach(&f, host()).await;
        let writing = Rc::clone(&ns);
        tokio::task::spawn_local(async move { writing.write(0, pattern(1, 512), false).await });
        eventually(|| disk.begun() == 1).await;

        let short = Some(Duration::from_millis(50));
        let refused = f.target.remove_host(NQN, HOST, short).await;
        assert!(matches!(refused, Err(TargetError::RemovalTimeout { .. })));
        assert_eq!(
            refused.map_err(|e| (e.code(), e.to_string())),
            Err((-32603, "Timeout reached during host removal".into()))
        );
        assert!(!f.target.show_qpairs(NQN).expect("shown").is_empty(), "the stuck connection still counts");
        let again = Session::connect(f.address, NQN, &host()).await;
        assert!(matches!(again, Err(ConnectError::HostNotAllowed { .. })), "no way back in");
        let still = f.target.remove_host(NQN, HOST, short).await;
        assert!(matches!(still, Err(TargetError::RemovalTimeout { .. })));

        disk.let_end(2);
        f.target.remove_host(NQN, HOST, None).await.expect("now it is a fence");
        assert_eq!(disk.ended(), 1, "what was in flight has ended");
        assert!(f.target.show_qpairs(NQN).expect("shown").is_empty());
        assert_eq!(
            f.target.remove_host(NQN, HOST, None).await.map_err(|e| e.to_string()),
            Err("Internal error".into())
        );
        assert_eq!(disk.begun(), 1, "nothing came in after the fence");
        group.close().await;
    });
}

#[test]
fn a_lost_connection_is_made_again_and_io_survives() {
    run(async {
        let f = fixture();
        let (group, ns) = attach(&f, host()).await;
        ns.write(0, pattern(5, 4096), false).await.expect("write");
        f.target.remove_listener(NQN, f.address).expect("removed");
        let reading = Rc::clone(&ns);
        let io = tokio::task::spawn_local(async move { reading.read(0, BytesMut::zeroed(4096)).await });
        eventually(|| group.paths()[0].session().is_none()).await;
        assert!(!io.is_finished());
        f.target.add_listener(NQN, f.address, AnaState::Optimized).expect("listener");
        assert!(io.await.expect("joined").expect("read") == pattern(5, 4096));
    });
}

#[test]
fn a_path_that_stays_lost_fails_io_and_then_goes_away() {
    run(async {
        let f = fixture();
        let attach = async |loss: Duration, fast: Duration| {
            let group = Group::new("g", NQN, 3, Box::new(NoEvents));
            let r = Resilience { loss_timeout: Some(loss), fast_io_fail: fast, ..resilience() };
            group.attach(f.address, host(), r).await.expect("attach");
            let ns = group.namespaces().pop().expect("a namespace");
            (group, ns)
        };
        let (kept, failing) = attach(Duration::from_secs(3600), Duration::from_millis(100)).await;
        let (gone, _) = attach(Duration::from_millis(400), Duration::ZERO).await;
        f.target.remove_listener(NQN, f.address).expect("removed");
        // By `fast_io_fail`, long before the path is given up.
        assert_eq!(failing.read(0, BytesMut::zeroed(512)).await, Err(IoError::NoPath));
        assert_eq!(kept.paths().len(), 1);
        eventually(|| gone.paths().is_empty() && gone.namespaces().is_empty()).await;
        kept.close().await;
    });
}

#[test]
fn namespaces_come_grow_and_go_under_a_connected_host() {
    run(async {
        let f = fixture();
        let (group, _) = attach(&f, host()).await;
        let params = MallocParams { name: Some("m1".into()), num_blocks: 64, block_size: 4096, uuid: None };
        let m1 = malloc::create(&f.registry, params).expect("malloc");
        let nsid = f
            .target
            .add_ns(NQN, &NamespaceRequest { bdev_name: "m1".into(), ..Default::default() })
            .expect("added");
        assert_eq!(nsid, 2);
        eventually(|| group.namespaces().len() == 2).await;
        // The bdev is pulled: its namespace goes, the other stays.
        m1.unregister().await;
        eventually(|| group.namespaces().len() == 1).await;
        assert_eq!(
            f.target.show_subsystems(Some(NQN)).expect("shown")[0].namespaces.as_ref().map(Vec::len),
            Some(1)
        );
        f.target.delete_subsystem(NQN).await.expect("deleted");
        assert!(matches!(f.target.show_qpairs(NQN), Err(TargetError::NoSubsystem { .. })));
        assert!(f.registry.open("m0", true).is_ok(), "the bdev is free again");
    });
}

#[test]
fn garbage_is_answered_with_a_termination_request_and_disturbs_nobody() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    run(async {
        let f = fixture();
        let (_group, ns) = attach(&f, host()).await;
        // Garbage, a command before ICReq, an ICReq of an unknown version, a length beyond every limit.
        let mut version = [0; 128];
        version[..9].copy_from_slice(&[0, 0, 128, 0, 128, 0, 0, 0, 7]);
        let wrong: [(&[u8], u8); 4] = [
            (&[0xff; 64], 1),
            (&[4, 0, 72, 0, 72, 0, 0, 0, 0, 0], 2),
            (&version, 6),
            (&[0, 0, 128, 0, 0xff, 0xff, 0xff, 0xff], 1),
        ];
        for (bytes, fes) in wrong {
            let mut stream = tokio::net::TcpStream::connect(f.address).await.expect("connected");
            stream.write_all(bytes).await.expect("sent");
            if bytes.len() == 8 {
                stream.write_all(&[0; 120]).await.expect("sent");
            }
            let mut answer = Vec::new();
            // The target may reset what it did not read, after its request.
            let _ = stream.read_to_end(&mut answer).await;
            assert_eq!(
                answer.first().zip(answer.get(8)),
                Some((&3, &fes)),
                "C2HTermReq with its reason: {answer:?}"
            );
            ns.write(0, pattern(3, 512), false).await.expect("others are served");
        }
        eventually(|| f.target.show_stats().poll_groups[0].current_unassociated_qpairs == Some(0)).await;
    });
}

/// Forwards connections to `to` until it is frozen: then it keeps them open and moves nothing, like a stopped process.
async fn freezer(to: SocketAddr) -> (SocketAddr, Rc<Cell<bool>>) {
    let frozen = Rc::new(Cell::new(false));
    let listener = tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("bound");
    let address = listener.local_addr().expect("bound");
    let state = Rc::clone(&frozen);
    tokio::task::spawn_local(async move {
        while let Ok((near, _)) = listener.accept().await {
            let far = tokio::net::TcpStream::connect(to).await.expect("the target listens");
            let (near, far) = (near.into_split(), far.into_split());
            tokio::task::spawn_local(pump(near.0, far.1, Rc::clone(&state)));
            tokio::task::spawn_local(pump(far.0, near.1, Rc::clone(&state)));
        }
    });
    (address, frozen)
}

async fn pump(
    mut from: tokio::net::tcp::OwnedReadHalf,
    mut to: tokio::net::tcp::OwnedWriteHalf,
    frozen: Rc<Cell<bool>>,
) {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let mut buf = vec![0; 65536];
    while let Ok(n @ 1..) = from.read(&mut buf).await {
        if frozen.get() {
            std::future::pending::<()>().await;
        }
        if to.write_all(&buf[..n]).await.is_err() {
            return;
        }
    }
}

#[test]
fn io_leaves_a_target_that_is_frozen() {
    run(async {
        let f = fixture();
        let (through, frozen) = freezer(f.address).await;
        let watched = HostOptions { keep_alive: Duration::from_secs(1), ..host() };
        let group = Group::new("g", NQN, 3, Box::new(NoEvents));
        // The target knows the connection under its own address: the proxy's is that of no listener, but it forwards to one.
        group.attach(through, watched, resilience()).await.expect("first path");
        group.attach(f.address, host(), resilience()).await.expect("second path");
        let ns = group.namespaces().pop().expect("a namespace");
        // An answer that was late because the machine is busy is made up for.
        eventually(|| ns.select(None).map(|(p, _)| p.address) == Some(through)).await;
        frozen.set(true);
        round_trip(&ns).await;
        assert_eq!(ns.select(None).map(|(p, _)| p.address), Some(f.address));
        assert!(group.paths()[0].session().is_none(), "the frozen path was given up");
    });
}

#[test]
fn two_attachments_of_one_path_at_a_time_make_one_path() {
    run(async {
        let f = fixture();
        let module = NvmeModule::new(Registry::new());
        let both = tokio::join!(module.attach(attach_as("c", &f)), module.attach(attach_as("c", &f)));
        assert!(matches!(both, (Ok(_), Err(NvmeError::Already { .. }))), "{both:?}");
        assert_eq!(module.group("c").expect("there").paths().len(), 1);
        // One that fails does not take the name away from one that is still connecting.
        module.detach("c", |_, _| true).await.expect("detached");
        let nowhere = Attach { address: free_address(), ..attach_as("c", &f) };
        let both = tokio::join!(module.attach(attach_as("c", &f)), module.attach(nowhere));
        assert!(matches!(both, (Ok(_), Err(NvmeError::Connect { .. }))), "{both:?}");
        assert_eq!(module.group("c").expect("there").paths().len(), 1);
    });
}

/// A bdev that grows.
struct Growing(Rc<Cell<u64>>);

impl Bdev for Growing {
    fn product_name(&self) -> &'static str {
        "Growing disk"
    }
    fn module(&self) -> &'static str {
        "growing"
    }
    fn block_size(&self) -> u32 {
        512
    }
    fn num_blocks(&self) -> u64 {
        self.0.get()
    }
    fn uuid(&self) -> Uuid {
        Uuid::from_u128(77)
    }
    fn supports(&self, _: IoType) -> bool {
        true
    }
    fn driver_specific(&self) -> serde_json::Value {
        serde_json::json!({})
    }
    fn read(&self, _: u64, buf: BytesMut) -> IoFuture<BytesMut> {
        Box::pin(async move { Ok(buf) })
    }
    fn write(&self, _: u64, _: Bytes, _: bool) -> IoFuture<()> {
        Box::pin(async { Ok(()) })
    }
    fn flush(&self) -> IoFuture<()> {
        Box::pin(async { Ok(()) })
    }
    fn unmap(&self, _: u64, _: u64) -> IoFuture<()> {
        Box::pin(async { Ok(()) })
    }
    fn write_zeroes(&self, _: u64, _: u64, _: bool) -> IoFuture<()> {
        Box::pin(async { Ok(()) })
    }
}

#[test]
fn growth_of_a_bdev_reaches_the_bdev_of_the_host() {
    run(async {
        let f = fixture();
        let blocks = Rc::new(Cell::new(100));
        let new =
            NewBdev { name: "grow".into(), aliases: vec![], bdev: Rc::new(Growing(Rc::clone(&blocks))) };
        let growing = f.registry.register(new).expect("registered");
        f.target
            .add_ns(NQN, &NamespaceRequest { bdev_name: "grow".into(), ..Default::default() })
            .expect("added");
        let (remote, module) = remote(&f).await;
        let (held, mut events) = remote.open("cn2", false).expect("the bdev of namespace 2");
        for grown in [200, 300] {
            blocks.set(grown);
            growing.notify_resize();
            let event = tokio::time::timeout(PATIENCE, events.recv()).await.expect("announced in time");
            assert_eq!(event, Some(BdevEvent::Resized));
            assert_eq!(remote.info("cn2").expect("there").num_blocks, grown);
        }
        assert_eq!(remote.info("cn1").expect("there").num_blocks, 4096);
        drop(held);
        module.detach("c", |_, _| true).await.expect("detached");
        assert!(remote.list().is_empty());
    });
}

/// Another process's registry with the namespaces attached as `cn1`, `cn2`, ....
async fn remote(f: &Fixture) -> (Registry, Rc<NvmeModule>) {
    let registry = Registry::new();
    let module = NvmeModule::new(registry.clone());
    module.attach(attach_as("c", f)).await.expect("attached");
    (registry, module)
}

fn attach_as(name: &str, f: &Fixture) -> Attach {
    Attach {
        name: name.into(),
        address: f.address,
        subnqn: NQN.into(),
        hostnqn: Some(HOST.into()),
        header_digest: false,
        data_digest: false,
        io_queues: 1,
        resilience: Some(resilience()),
        multipath: Multipath::default(),
        mode: MultipathMode::Multipath,
    }
}

#[test]
fn bdev_nvme_refuses_what_spdk_refuses() {
    run(async {
        let f = fixture();
        let (remote, module) = remote(&f).await;
        let attach = async |a: Attach| module.attach(a).await.map_err(|e| e.to_string());
        assert_eq!(
            attach(attach_as("c", &f)).await,
            Err("A controller named c already exists with the specified network path".into())
        );
        assert_eq!(
            attach(Attach { mode: MultipathMode::Disable, ..attach_as("c", &f) }).await,
            Err("A controller named c already exists and multipath is disabled".into())
        );
        let elsewhere = Attach {
            subnqn: "nqn.2016-06.io.vda:vd:b".into(),
            address: free_address(),
            ..attach_as("c", &f)
        };
        let different = format!("A controller named c already exists, but uses a different subnqn ({NQN})");
        assert_eq!(attach(elsewhere).await, Err(different));
        // The same under another name.
        assert!(matches!(module.attach(attach_as("d", &f)).await, Err(NvmeError::Duplicate { .. })));
        assert!(matches!(module.group("d"), Err(NvmeError::NotFound { .. })));
        let intruder = Attach { hostnqn: Some(OTHER.into()), ..attach_as("e", &f) };
        assert!(matches!(module.attach(intruder).await, Err(NvmeError::Connect { .. })));
        assert!(matches!(module.set_options(Default::default()), Err(NvmeError::Attached)));
        assert!(matches!(module.detach("nope", |_, _| true).await, Err(NvmeError::NotFound { .. })));
        assert!(matches!(module.detach("c", |_, _| false).await, Err(NvmeError::NoPath { .. })));
        module.detach("c", |_, _| true).await.expect("detached");
        assert!(remote.list().is_empty() && module.groups().is_empty());
    });
}

#[test]
fn refusals_are_those_of_spdk() {
    run(async {
        let f = fixture();
        let text = |r: Result<(), TargetError>| r.map_err(|e| (e.code(), e.to_string()));
        let invalid = Err((-32602, "Invalid parameters".to_owned()));
        let internal = Err((-32603, "Internal error".to_owned()));
        assert_eq!(
            text(f.target.create_transport(options())),
            Err((-32603, "Transport type 'TCP' already exists".into()))
        );
        let create = |c: SubsystemConfig| text(f.target.create_subsystem(c, false));
        let d = SubsystemConfig::new;
        assert_eq!(create(d(NQN)), Err((-32603, format!("Unable to create subsystem {NQN}"))));
        assert_eq!(create(d("badnqn")), Err((-32603, "Unable to create subsystem badnqn".into())));
        let s2 = "nqn.2024-01.org.spdk:s2";
        assert_eq!(create(SubsystemConfig { serial: "S".repeat(21), ..d(s2) }), invalid);
        assert_eq!(create(SubsystemConfig { model: "M".repeat(41), ..d(s2) }), invalid);
        let range = |min, max| create(SubsystemConfig { min_cntlid: min, max_cntlid: max, ..d(s2) });
        assert_eq!(range(10, 5), Err((-32602, "Invalid cntlid range [10-5]".into())));
        assert_eq!(range(0, 65519), Err((-32602, "Invalid cntlid range [0-65519]".into())));
        assert_eq!(text(f.target.add_host(NQN, HOST)), internal);
        assert_eq!(text(f.target.add_listener(NQN, f.address, AnaState::Optimized)), invalid);
        assert_eq!(text(f.target.remove_listener(NQN, free_address())), invalid);
        assert_eq!(text(f.target.remove_ns(NQN, 2).await), invalid);
        assert_eq!(text(f.target.add_ns(NQN, &request("m0")).map(drop)), invalid);
        let bad = NamespaceRequest { nguid: Some("zz".into()), ..request("m0") };
        assert_eq!(text(f.target.add_ns(NQN, &bad).map(drop)), Err((-32602, "Invalid nguid".into())));
        let ana = |a, g| text(f.target.set_ana_state(NQN, a, AnaState::Optimized, g));
        assert_eq!(ana(f.address, Some(77)), Err((-32603, "error setting ANA state: -22".into())));
        assert_eq!(ana(free_address(), None), Err((-32603, "error setting ANA state: -22".into())));
        let missing = "Subsystem with NQN 'nqn.x:none' not found";
        assert_eq!(text(f.target.add_host("nqn.x:none", HOST)), Err((-32602, missing.into())));
    });
}

/// A host with this keep-alive time, and the controller that it has.
async fn kept_alive(f: &Fixture, keep_alive: Duration) -> (Rc<Session>, Rc<controller::Controller>) {
    let session =
        Session::connect(f.address, NQN, &HostOptions { keep_alive, ..host() }).await.expect("connected");
    let subsystem = f.target.subsystem(NQN).expect("there");
    let controller = subsystem.controllers.borrow().values().next().cloned().expect("a controller");
    (session, controller)
}

#[test]
fn a_host_that_is_silent_is_disconnected_by_keep_alive() {
    run(async {
        let f = fixture();
        let (session, controller) = kept_alive(&f, Duration::from_secs(3600)).await;
        assert_eq!(f.target.show_qpairs(NQN).expect("shown").len(), 2);
        // From its next command on it has a millisecond, not an hour. How long that command takes does not matter.
        controller.state.borrow_mut().keep_alive = KeepAlive::new(1, 1, std::time::Instant::now());
        let _ = session.health().await;
        eventually(|| f.target.show_qpairs(NQN).expect("shown").is_empty()).await;
        eventually(|| !session.is_alive()).await;
    });
}

#[test]
fn a_session_that_is_watched_keeps_itself_alive() {
    run(async {
        let f = fixture();
        // The host sends Keep Alive after half of the time, and waits for the answer for all of it.
        let (session, controller) = kept_alive(&f, Duration::from_secs(20)).await;
        let deadline = || controller.state.borrow().keep_alive.deadline();
        let before = deadline();
        tokio::select! {
            end = session.watch(|_| ()) => panic!("ended: {end:?}"),
            () = async {
                // The requests for events come first, and are signs of life as well.
                while deadline() < before.map(|d| d + Duration::from_secs(9)) {
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            } => {}
        }
        assert!(session.is_alive());
    });
}
