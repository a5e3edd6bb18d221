//! Paths that fail, change, come back and leave, against targets of this crate over loopback.

use std::cell::Cell;
use std::net::{Ipv4Addr, SocketAddr};
use std::rc::Rc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures::future::join_all;
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{LocalSet, spawn_local};
use uuid::Uuid;
use vda_nvme::log::AnaState;
use vda_ports::Port;

use super::group::{NoEvents, Policy};
use super::*;
use crate::bdev::delay::{DelayBdevs, DelayParams, Latencies};
use crate::bdev::malloc::{self, MallocParams};
use crate::bdev::nvme::{Attach, Multipath, NvmeModule};
use crate::bdev::{IoError, Registration, Registry};
use crate::nvmf::{NamespaceRequest, SubsystemConfig, Target, TransportOptions};

const NQN: &str = "nqn.2016-06.io.vda:vd:0000000000000001";
const FRONT: &str = "nqn.2016-06.io.vda:exp:0000000000000001";
const HOST: &str = "nqn.2016-06.io.vda:cntlr:0000000000000001:0:1";
/// Milliseconds of a write to the slow bdev.
const SLOW: u64 = 20;

fn run(test: impl Future<Output = ()>) {
    let rt = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("runtime");
    LocalSet::new().block_on(&rt, async {
        tokio::time::timeout(Duration::from_secs(60), test).await.expect("the test hangs");
    });
}

/// A target with a slow bdev as its only namespace, seen at two addresses.
struct Fixture {
    target: Rc<Target>,
    a: SocketAddr,
    b: SocketAddr,
    registry: Registry,
    _malloc: Registration,
    _delays: Rc<DelayBdevs>,
    _ports: [Port; 2],
}

fn address(port: &Port) -> SocketAddr {
    (Ipv4Addr::LOCALHOST, port.number()).into()
}

fn namespace(uuid: u128) -> NamespaceRequest {
    NamespaceRequest {
        bdev_name: "slow".into(),
        nsid: Some(1),
        uuid: Some(Uuid::from_u128(uuid)),
        ..NamespaceRequest::default()
    }
}

fn fixture() -> Fixture {
    let registry = Registry::new();
    let params = MallocParams { name: Some("m0".into()), num_blocks: 4096, block_size: 512, uuid: None };
    let malloc = malloc::create(&registry, params).expect("malloc");
    let delays = DelayBdevs::new(registry.clone());
    let latency = SLOW * 1000;
    let latencies = Latencies { avg_read: 0, p99_read: 0, avg_write: latency, p99_write: latency };
    let (name, base_bdev_name) = ("slow".into(), "m0".into());
    delays.create(DelayParams { name, base_bdev_name, latencies, uuid: None }).expect("delay");
    let target = Target::new(registry.clone());
    target.create_transport(TransportOptions::default()).expect("transport");
    let config = SubsystemConfig { ana_reporting: true, ..SubsystemConfig::new(NQN) };
    target.create_subsystem(config, true).expect("subsystem");
    target.add_ns(NQN, &namespace(7)).expect("namespace");
    let ports = [Port::reserve().expect("a port"), Port::reserve().expect("a port")];
    let (a, b) = (address(&ports[0]), address(&ports[1]));
    target.add_listener(NQN, a, AnaState::Optimized).expect("listener");
    target.add_listener(NQN, b, AnaState::Optimized).expect("listener");
    Fixture { target, a, b, registry, _malloc: malloc, _delays: delays, _ports: ports }
}

fn resilience() -> Resilience {
    let (reconnect_delay, fast_io_fail) = (Duration::from_millis(20), Duration::ZERO);
    Resilience { loss_timeout: None, reconnect_delay, fast_io_fail }
}

async fn attach(
    addresses: &[SocketAddr],
    policy: Policy,
    resilience: Resilience,
) -> (Rc<Group>, Rc<Namespace>) {
    let group = Group::new("g", NQN, 3, Box::new(NoEvents));
    group.set_policy(policy);
    for address in addresses {
        group.attach(*address, HostOptions::new(HOST), resilience).await.expect("attached");
    }
    let namespace = group.namespaces().pop().expect("a namespace");
    (group, namespace)
}

fn block(seed: u64) -> Bytes {
    seed.to_le_bytes().repeat(64).into()
}

/// Resolves when the condition holds: it is looked at after every change of the group.
async fn when(group: &Group, condition: impl Fn() -> bool) {
    loop {
        let change = group.next_change();
        if condition() {
            return;
        }
        change.await;
    }
}

/// Writes block `lba` over and over with growing numbers; gives the last one that was acknowledged.
async fn writer(ns: Rc<Namespace>, lba: u64, stop: Rc<Cell<bool>>) -> u64 {
    let mut seed = lba << 32;
    while !stop.get() {
        seed += 1;
        ns.write(lba, block(seed), false).await.expect("no write may fail");
    }
    seed
}

/// Flips of ANA states in both directions and losses of one and of both paths, all under writes: none fails, none is lost.
#[test]
fn writes_survive_flips_and_losses_of_paths() {
    run(async {
        for policy in [Policy::ActivePassive, Policy::RoundRobin { min_io: 1 }, Policy::QueueDepth] {
            let f = fixture();
            let (group, ns) = attach(&[f.a, f.b], policy, resilience()).await;
            let stop = Rc::new(Cell::new(false));
            let writers: Vec<_> =
                (0..8).map(|lba| spawn_local(writer(Rc::clone(&ns), lba, Rc::clone(&stop)))).collect();
            let set = |address, state| f.target.set_ana_state(NQN, address, state, None).expect("set");
            let seen = |i: usize, state| group.paths()[i].ana_state(1) == Some(state);
            for _ in 0..3 {
                for (i, address, j, other) in [(0, f.a, 1, f.b), (1, f.b, 0, f.a)] {
                    set(other, AnaState::Inaccessible);
                    when(&group, || seen(j, AnaState::Inaccessible)).await;
                    set(address, AnaState::NonOptimized);
                    set(other, AnaState::Optimized);
                    when(&group, || seen(i, AnaState::NonOptimized) && seen(j, AnaState::Optimized)).await;
                    set(address, AnaState::Optimized);
                    when(&group, || seen(i, AnaState::Optimized)).await;
                }
            }
            for lost in [vec![f.a], vec![f.b], vec![f.a, f.b]] {
                lost.iter().for_each(|at| f.target.remove_listener(NQN, *at).expect("removed"));
                let gone = |p: &Rc<Path>| !lost.contains(&p.address) || p.session().is_none();
                when(&group, || group.paths().iter().all(gone)).await;
                for at in &lost {
                    f.target.add_listener(NQN, *at, AnaState::Optimized).expect("listener");
                }
                when(&group, || group.paths().iter().all(|p| p.session().is_some())).await;
            }
            stop.set(true);
            for (lba, last) in join_all(writers).await.into_iter().enumerate() {
                let read = ns.read(lba as u64, BytesMut::zeroed(512)).await.expect("read");
                assert_eq!(read, block(last.expect("joined")), "{policy:?}: block {lba}");
            }
            group.close().await;
        }
    });
}

/// A namespace with another identity behind the same address, NQN and id is not the one that was lost.
#[test]
fn a_target_that_came_back_as_another_is_not_used() {
    run(async {
        let f = fixture();
        let (group, ns) = attach(&[f.a], Policy::ActivePassive, resilience()).await;
        ns.write(0, block(1), false).await.expect("written");
        f.target.remove_listener(NQN, f.a).expect("removed");
        when(&group, || group.paths()[0].session().is_none()).await;
        let waiting = Rc::clone(&ns);
        let write = spawn_local(async move { waiting.write(0, block(2), false).await });
        f.target.remove_ns(NQN, 1).await.expect("removed");
        f.target.add_ns(NQN, &namespace(8)).expect("another namespace");
        f.target.add_listener(NQN, f.a, AnaState::Optimized).expect("listener");
        assert_eq!(write.await.expect("joined"), Err(IoError::NoPath));
        assert!(group.namespaces().is_empty(), "it is gone, the other has to be attached by who wants it");
        let (other, stranger) = attach(&[f.b], Policy::ActivePassive, resilience()).await;
        assert_eq!(
            stranger.read(0, BytesMut::zeroed(512)).await.expect("read"),
            block(1),
            "nothing was written"
        );
        other.close().await;
    });
}

/// A path that is detached under writes hands them to the other; the last one takes them along.
#[test]
fn detaching_a_path_under_writes_moves_or_fails_them() {
    run(async {
        let f = fixture();
        let (group, ns) = attach(&[f.a, f.b], Policy::ActivePassive, resilience()).await;
        let write = |seed: u64| {
            let ns = Rc::clone(&ns);
            spawn_local(async move { ns.write(seed, block(seed), false).await })
        };
        let writes: Vec<_> = (0..16).map(write).collect();
        tokio::task::yield_now().await;
        let first = Rc::clone(&group.paths()[0]);
        assert!(first.session().is_some_and(|s| s.load() == 16), "they are in flight on the first path");
        group.detach(&first);
        group.wait_gone(&first).await;
        assert!(join_all(writes).await.into_iter().all(|w| w.expect("joined").is_ok()));
        for seed in 0..16 {
            let read = ns.read(seed, BytesMut::zeroed(512)).await.expect("read");
            assert_eq!(read, block(seed));
        }
        let writes: Vec<_> = (0..16).map(write).collect();
        tokio::task::yield_now().await;
        group.close().await;
        let ends: Vec<_> = join_all(writes).await.into_iter().map(|w| w.expect("joined")).collect();
        assert!(ends.iter().all(|end| *end == Err(IoError::NoPath)), "{ends:?}");
    });
}

/// Forwards connections to a target until it is told to stop: then it breaks them, accepts others, and never says a word on those.
async fn proxy(to: SocketAddr) -> (SocketAddr, watch::Sender<bool>) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("bound");
    let address = listener.local_addr().expect("bound");
    let (stop, stopped) = watch::channel(false);
    spawn_local(async move {
        let mut silent = Vec::new();
        while let Ok((mut near, _)) = listener.accept().await {
            let mut stopped = stopped.clone();
            if *stopped.borrow() {
                silent.push(near);
                continue;
            }
            let mut far = TcpStream::connect(to).await.expect("the target listens");
            spawn_local(async move {
                tokio::select! {
                    _ = copy_bidirectional(&mut near, &mut far) => {}
                    _ = stopped.changed() => {}
                }
            });
        }
    });
    (address, stop)
}

/// I/O fails after `fast_io_fail`, even while an attempt to connect is under way that takes much longer.
#[test]
fn fast_io_fail_does_not_wait_for_an_attempt_to_connect() {
    run(async {
        let f = fixture();
        let fast = Resilience { fast_io_fail: Duration::from_millis(200), ..resilience() };
        let (address, stop) = proxy(f.a).await;
        let (group, ns) = attach(&[address], Policy::ActivePassive, fast).await;
        stop.send_replace(true);
        when(&group, || group.paths()[0].session().is_none()).await;
        let begun = std::time::Instant::now();
        assert_eq!(ns.read(0, BytesMut::zeroed(512)).await, Err(IoError::NoPath));
        let after = begun.elapsed();
        assert!(after > Duration::from_millis(100), "failed after {after:?}");
        assert_eq!(group.paths()[0].state(), PathState::Resetting, "the attempt goes on");
    });
}

/// A reset tries at once what would be tried later; it leaves alone what is disabled.
#[test]
fn a_reset_does_not_wait_for_the_reconnect_delay() {
    run(async {
        let f = fixture();
        let slow = Resilience { reconnect_delay: Duration::from_secs(3600), ..resilience() };
        let (group, _) = attach(&[f.a], Policy::ActivePassive, slow).await;
        let path = Rc::clone(&group.paths()[0]);
        f.target.remove_listener(NQN, f.a).expect("removed");
        when(&group, || path.state() == PathState::ReconnectIsDelayed).await;
        assert!(!group.reset(&path).await, "nobody listens");
        f.target.add_listener(NQN, f.a, AnaState::Optimized).expect("listener");
        assert!(group.reset(&path).await);
        assert_eq!(path.state(), PathState::Enabled);
        let before = path.session().expect("connected");
        assert!(group.enable(&path).await, "which it is already");
        assert!(path.session().is_some_and(|s| Rc::ptr_eq(&s, &before)), "the session is the same");
        group.disable(&path).await;
        assert!(group.reset(&path).await);
        assert_eq!(path.state(), PathState::Disabled);
        assert!(group.enable(&path).await);
        assert_eq!(path.state(), PathState::Enabled);
    });
}

#[test]
fn policies_and_preference_choose_among_equal_paths() {
    run(async {
        let f = fixture();
        let (group, ns) = attach(&[f.a, f.b], Policy::ActivePassive, resilience()).await;
        let next = || ns.select(None).map(|(p, _)| p.address).expect("a path");
        let sequence = |n: usize| (0..n).map(|_| next()).collect::<Vec<_>>();
        assert_eq!(sequence(3), [f.a, f.a, f.a]);
        assert!(ns.prefer(group.paths()[1].cntlid()));
        assert_eq!(sequence(3), [f.b, f.b, f.b]);
        assert!(!ns.prefer(999));
        assert_eq!(group.paths()[0].address, f.a, "the paths keep their order");
        f.target.set_ana_state(NQN, f.b, AnaState::NonOptimized, None).expect("set");
        when(&group, || group.paths()[1].ana_state(1) == Some(AnaState::NonOptimized)).await;
        assert_eq!(sequence(2), [f.a, f.a], "the ANA state counts more");
        f.target.set_ana_state(NQN, f.b, AnaState::Optimized, None).expect("set");
        when(&group, || group.paths()[1].ana_state(1) == Some(AnaState::Optimized)).await;

        ns.set_policy(Policy::RoundRobin { min_io: 2 });
        let turns = sequence(8);
        assert!(turns.chunks(2).all(|pair| pair[0] == pair[1]), "{turns:?}");
        assert!(turns.windows(3).all(|w| w[0] != w[2]), "{turns:?}");

        ns.set_policy(Policy::QueueDepth);
        let busy = group.paths().into_iter().find(|p| p.address == next()).expect("the least loaded");
        let writing = Rc::clone(&ns);
        let write = spawn_local(async move { writing.write(0, block(1), false).await });
        tokio::task::yield_now().await;
        assert_ne!(next(), busy.address, "it has a write in flight");
        write.await.expect("joined").expect("written");
    });
}

/// What waits for a path waits in its caller: behind a queue of 16 entries no more than 16 commands do, whatever the host wants.
#[test]
fn without_a_path_no_more_waits_than_the_host_may_have_in_flight() {
    run(async {
        let f = fixture();
        let near = Registry::new();
        let module = NvmeModule::new(near.clone());
        let request = Attach {
            name: "n".into(),
            address: f.a,
            subnqn: NQN.into(),
            hostnqn: Some(HOST.into()),
            header_digest: false,
            data_digest: false,
            io_queues: 1,
            resilience: Some(resilience()),
            multipath: Multipath::default(),
            mode: vda_spdk::MultipathMode::Multipath,
        };
        module.attach(request).await.expect("attached");
        let front = Target::new(near);
        front.create_transport(TransportOptions::default()).expect("transport");
        let config = SubsystemConfig::new(FRONT);
        front.create_subsystem(config, true).expect("subsystem");
        let exported = NamespaceRequest { bdev_name: "nn1".into(), ..NamespaceRequest::default() };
        front.add_ns(FRONT, &exported).expect("namespace");
        let port = Port::reserve().expect("a port");
        let address = address(&port);
        front.add_listener(FRONT, address, AnaState::Optimized).expect("listener");

        let host = Group::new("h", FRONT, 3, Box::new(NoEvents));
        let options = HostOptions { queue_depth: 16, ..HostOptions::new(HOST) };
        host.attach(address, options, resilience()).await.expect("attached");
        let ns = host.namespaces().pop().expect("a namespace");

        let inner = module.group("n").expect("there");
        f.target.remove_listener(NQN, f.a).expect("removed");
        when(&inner, || inner.paths()[0].session().is_none()).await;
        let behind = inner.namespaces().pop().expect("a namespace");
        let idle = Rc::strong_count(&behind);
        let waiting = || Rc::strong_count(&behind) - idle;
        let write = |lba: u64| {
            let ns = Rc::clone(&ns);
            spawn_local(async move { ns.write(lba, block(lba), false).await })
        };
        let writes: Vec<_> = (0..500).map(write).collect();
        let full = async {
            while waiting() < 15 {
                tokio::task::yield_now().await;
            }
        };
        full.await;
        // The target has seen all that was sent: a command on the admin queue is answered after it.
        let session = host.paths()[0].session().expect("connected");
        for _ in 0..3 {
            session.health().await.expect("answered");
        }
        assert!(waiting() <= 16, "{} I/Os wait", waiting());
        f.target.add_listener(NQN, f.a, AnaState::Optimized).expect("listener");
        assert!(join_all(writes).await.into_iter().all(|w| w.expect("joined").is_ok()));
        assert!(f.registry.info("slow").is_ok());
    });
}
