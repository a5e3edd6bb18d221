//! Fabrics Connect: who gets which queue (NVM Express Base 2.0, 6.3).

use std::rc::Rc;
use std::time::Instant;

use uuid::Uuid;
use vda_nvme::controller::events::{Events, Notice};
use vda_nvme::controller::state::{Features, KeepAlive, Properties};
use vda_nvme::fabrics::{
    CNTLID_DYNAMIC, CONNECT_CNTLID, CONNECT_HOSTNQN, CONNECT_QID, CONNECT_SQSIZE, CONNECT_SUBNQN, Connect,
    ConnectRefusal,
};
use vda_nvme::limits::KATO_GRANULARITY_MS;
use vda_nvme::status::Status;

use super::controller::{Controller, Link, State};
use super::reservation::Notifications;
use super::subsystem::Subsystem;
use super::{Target, TransportOptions};

/// Keep-alive time of a discovery controller whose host asked for none, milliseconds (SPDK's `NVMF_DISC_KATO_IN_MS`).
const DISCOVERY_KATO_MS: u32 = 120_000;

/// Gives `link` its controller: a new one for the admin queue, an existing one for an I/O queue.
pub(super) fn connect(
    target: &Target,
    link: &Rc<Link>,
    c: &Connect,
) -> Result<Rc<Controller>, ConnectRefusal> {
    let options = target.transport().ok_or_else(|| ConnectRefusal::plain(Status::INTERNAL_ERROR))?;
    let subsystem = target.subsystem(&c.data.subnqn).map_err(|_| ConnectRefusal::data(CONNECT_SUBNQN))?;
    check_access(&subsystem, link, &c.data.hostnqn)?;
    if c.recfmt != 0 {
        return Err(ConnectRefusal::plain(Status::CONNECT_INCOMPATIBLE_FORMAT));
    }
    let depth = if c.qid == 0 { options.max_aq_depth } else { options.max_queue_depth };
    if c.sqsize == 0 || c.sqsize >= depth {
        return Err(ConnectRefusal::command(CONNECT_SQSIZE));
    }
    let controller = match c.qid {
        0 => create(&subsystem, &options, link, c)?,
        _ => join(&subsystem, &options, link, c)?,
    };
    link.qid.set(c.qid);
    controller.links.borrow_mut().insert(c.qid, Rc::clone(link));
    Ok(controller)
}

fn check_access(subsystem: &Subsystem, link: &Link, host: &str) -> Result<(), ConnectRefusal> {
    // The discovery subsystem is reached through every listening socket.
    let reachable = subsystem.config.discovery || subsystem.listener(link.local).is_some();
    // An empty host NQN is no reason to refuse, as in SPDK, whose own perf tool has one: it can only be among "any host".
    if subsystem.closed.get() || !reachable || !subsystem.allows(host) {
        tracing::info!(nqn = %subsystem.config.nqn, host, peer = %link.peer, "host refused");
        return Err(ConnectRefusal::plain(Status::CONNECT_INVALID_HOST));
    }
    Ok(())
}

fn create(
    subsystem: &Rc<Subsystem>,
    options: &TransportOptions,
    link: &Link,
    c: &Connect,
) -> Result<Rc<Controller>, ConnectRefusal> {
    if c.data.cntlid != CNTLID_DYNAMIC {
        return Err(ConnectRefusal::data(CONNECT_CNTLID));
    }
    let cntlid = subsystem.free_cntlid().ok_or_else(|| ConnectRefusal::plain(Status::CONNECT_BUSY))?;
    let discovery = subsystem.config.discovery;
    let controller = Rc::new(Controller {
        subsystem: Rc::clone(subsystem),
        cntlid,
        hostnqn: c.data.hostnqn.clone(),
        hostid: Uuid::from_bytes(c.data.hostid),
        listener: if discovery { None } else { subsystem.listener(link.local) },
        state: std::cell::RefCell::new(initial_state(subsystem, options, c.kato)),
        links: std::cell::RefCell::default(),
    });
    subsystem.controllers.borrow_mut().insert(cntlid, Rc::clone(&controller));
    tracing::info!(nqn = %subsystem.config.nqn, host = %controller.hostnqn, cntlid, peer = %link.peer, "host connected");
    Ok(controller)
}

fn initial_state(subsystem: &Subsystem, options: &TransportOptions, kato: u32) -> State {
    let discovery = subsystem.config.discovery;
    let notices: &[Notice] = match (discovery, subsystem.config.ana_reporting) {
        (true, _) if kato > 0 => &[Notice::Discovery],
        (true, _) => &[],
        (false, true) => &[Notice::Namespaces, Notice::Ana],
        (false, false) => &[Notice::Namespaces],
    };
    let kato_ms = match kato {
        0 if discovery => DISCOVERY_KATO_MS,
        0 => 0,
        k => k.max(options.min_kato),
    };
    State {
        properties: Properties::new(options.max_queue_depth),
        events: Events::new(notices.iter().fold(0, |bits, n| bits | n.enable_bit())),
        keep_alive: KeepAlive::new(kato_ms, granularity(options), Instant::now()),
        kato_ms,
        features: Features::default(),
        changed: std::collections::BTreeSet::new(),
        notifications: Notifications::default(),
    }
}

/// Keep-alive granularity, milliseconds.
pub(super) fn granularity(options: &TransportOptions) -> u32 {
    match options.kas {
        0 => KATO_GRANULARITY_MS,
        kas => u32::from(kas) * 100,
    }
}

fn join(
    subsystem: &Subsystem,
    options: &TransportOptions,
    link: &Link,
    c: &Connect,
) -> Result<Rc<Controller>, ConnectRefusal> {
    let found = subsystem.controllers.borrow().get(&c.data.cntlid).cloned();
    let controller = found.ok_or_else(|| ConnectRefusal::data(CONNECT_CNTLID))?;
    if controller.hostnqn != c.data.hostnqn || *controller.hostid.as_bytes() != c.data.hostid {
        return Err(ConnectRefusal::data(CONNECT_HOSTNQN));
    }
    let admin_lives = controller.links.borrow().get(&0).is_some_and(|l| !l.is_closing());
    let same_port = controller.listener.as_ref().is_some_and(|l| l.address == link.local);
    let ready = controller.state.borrow().properties.takes_io_queues();
    if !admin_lives || !same_port || !ready || c.qid > options.max_io_qpairs {
        return Err(ConnectRefusal::command(CONNECT_QID));
    }
    if controller.links.borrow().contains_key(&c.qid) {
        return Err(ConnectRefusal::plain(Status::INVALID_QUEUE_ID));
    }
    Ok(controller)
}
