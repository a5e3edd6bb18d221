//! A path: a connection to a controller that comes back by itself, as SPDK's `bdev_nvme` does it.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::net::SocketAddr;
use std::rc::{Rc, Weak};
use std::time::{Duration, Instant};

use tokio::sync::Notify;
use vda_nvme::controller::events::Notice;
use vda_nvme::identify;
use vda_nvme::log::AnaState;

use super::ConnectError;
use super::group::Group;
use super::session::{HostOptions, Session};

/// When a lost path is tried again, when its I/O fails, when it is given up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Resilience {
    /// Delete the path when it was lost for this long; `None`: never. Zero: it stays, failed, after one attempt.
    pub loss_timeout: Option<Duration>,
    /// Between two attempts to reconnect; zero: there is one attempt.
    pub reconnect_delay: Duration,
    /// Fail I/O that waits for a lost path after this long; zero: not before the path is given up.
    pub fast_io_fail: Duration,
}

impl Resilience {
    /// From SPDK's parameters, in seconds.
    ///
    /// # Errors
    /// What SPDK refuses (`bdev_nvme_check_io_error_resiliency_params`), as a reason.
    pub fn from_secs(loss: i32, delay: u32, fast_fail: u32) -> Result<Self, &'static str> {
        let delay_fits = |fast: u32| fast == 0 || fast >= delay;
        match loss {
            ..=-2 => return Err("ctrlr_loss_timeout_sec is less than -1"),
            -1 if delay == 0 => {
                return Err("reconnect_delay_sec must not be 0 with ctrlr_loss_timeout_sec -1");
            }
            0 if delay != 0 || fast_fail != 0 => {
                return Err(
                    "reconnect_delay_sec and fast_io_fail_timeout_sec must be 0 without ctrlr_loss_timeout_sec",
                );
            }
            1.. if delay == 0 => return Err("reconnect_delay_sec must not be 0 with ctrlr_loss_timeout_sec"),
            1.. if delay > loss.unsigned_abs() => {
                return Err("reconnect_delay_sec is above ctrlr_loss_timeout_sec");
            }
            1.. if fast_fail > loss.unsigned_abs() => {
                return Err("fast_io_fail_timeout_sec is above ctrlr_loss_timeout_sec");
            }
            _ if !delay_fits(fast_fail) => {
                return Err("fast_io_fail_timeout_sec is below reconnect_delay_sec");
            }
            _ => {}
        }
        Ok(Self {
            loss_timeout: u64::try_from(loss).ok().map(Duration::from_secs),
            reconnect_delay: Duration::from_secs(delay.into()),
            fast_io_fail: Duration::from_secs(fast_fail.into()),
        })
    }
}

/// State of a path, in SPDK's words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PathState {
    /// Connected.
    Enabled,
    /// Disconnected by `bdev_nvme_disable_controller`.
    Disabled,
    /// Given up.
    Failed,
    /// Being removed.
    Deleting,
    /// Connecting.
    Resetting,
    /// Waiting for the next attempt.
    ReconnectIsDelayed,
}

/// Time between two attempts to read an ANA log that could not be read.
const ANA_RETRY: Duration = Duration::from_secs(1);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Order {
    Delete,
    Reset,
    Disable,
    Enable,
}

/// A path to a subsystem.
pub struct Path {
    /// Where the controller is.
    pub address: SocketAddr,
    /// How the host presents itself.
    pub options: HostOptions,
    /// When to try again and when to give up.
    pub resilience: Resilience,
    state: Cell<PathState>,
    session: RefCell<Option<Rc<Session>>>,
    cntlid: Cell<u16>,
    /// Identify Controller, of the last session if the path is lost.
    identify: RefCell<Option<identify::Controller>>,
    /// Attempts to connect that came to an end, either way.
    attempts: Cell<u64>,
    /// Since when the path is lost.
    lost: Cell<Option<Instant>>,
    /// ANA state per group; empty if not reported.
    pub(super) ana: RefCell<BTreeMap<u32, AnaState>>,
    /// Namespaces seen here, with their ANA group.
    pub(super) nsids: RefCell<BTreeMap<u32, u32>>,
    /// Groups whose state is known to be out of date: not used until the log was read.
    stale: RefCell<BTreeSet<u32>>,
    order: Cell<Option<Order>>,
    ordered: Notify,
    refresh: Cell<Refresh>,
    refreshed: Notify,
    /// Why the last attempt failed.
    failure: RefCell<String>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Refresh {
    ana: bool,
    namespaces: bool,
}

impl Path {
    pub(super) fn new(address: SocketAddr, options: HostOptions, resilience: Resilience) -> Self {
        Self {
            address,
            options,
            resilience,
            state: Cell::new(PathState::Resetting),
            session: RefCell::default(),
            cntlid: Cell::new(0),
            identify: RefCell::default(),
            attempts: Cell::new(0),
            lost: Cell::new(Some(Instant::now())),
            ana: RefCell::default(),
            nsids: RefCell::default(),
            stale: RefCell::default(),
            order: Cell::new(None),
            ordered: Notify::new(),
            refresh: Cell::default(),
            refreshed: Notify::new(),
            failure: RefCell::default(),
        }
    }

    /// State of the path.
    pub fn state(&self) -> PathState {
        self.state.get()
    }

    /// Id of the controller, of the last one if the path is lost.
    pub fn cntlid(&self) -> u16 {
        self.cntlid.get()
    }

    /// What the controller says of itself, the last one if the path is lost.
    pub fn identify(&self) -> Option<identify::Controller> {
        self.identify.borrow().clone()
    }

    /// Attempts to connect again that have succeeded or failed so far.
    pub(super) fn attempts(&self) -> u64 {
        self.attempts.get()
    }

    fn attempt_ended(&self) {
        self.attempts.set(self.attempts.get().wrapping_add(1));
    }

    /// The session, if the path is connected.
    pub fn session(&self) -> Option<Rc<Session>> {
        self.session.borrow().clone().filter(|s| s.is_alive())
    }

    /// ANA state of a namespace through this path; `None` if the path does not show it.
    pub fn ana_state(&self, nsid: u32) -> Option<AnaState> {
        let group = *self.nsids.borrow().get(&nsid)?;
        if self.stale.borrow().contains(&group) {
            return Some(AnaState::Change);
        }
        let states = self.ana.borrow();
        if states.is_empty() {
            return Some(AnaState::Optimized);
        }
        Some(states.get(&group).copied().unwrap_or(AnaState::Inaccessible))
    }

    /// Whether I/O should wait for this path instead of failing.
    pub(super) fn may_come_back(&self) -> bool {
        match self.state.get() {
            PathState::Enabled => true,
            PathState::Resetting | PathState::ReconnectIsDelayed => !self.failed_fast(),
            PathState::Disabled | PathState::Failed | PathState::Deleting => false,
        }
    }

    fn failed_fast(&self) -> bool {
        let limit = self.resilience.fast_io_fail;
        !limit.is_zero() && self.lost.get().is_some_and(|since| since.elapsed() >= limit)
    }

    /// The controller answered that it cannot be reached this way: look at its ANA log before it is used again.
    pub(super) fn distrust(&self, nsid: u32) {
        if let Some(group) = self.nsids.borrow().get(&nsid) {
            self.stale.borrow_mut().insert(*group);
        }
        self.ask(Refresh { ana: true, namespaces: false });
    }

    fn ask(&self, what: Refresh) {
        let r = self.refresh.get();
        self.refresh.set(Refresh { ana: r.ana || what.ana, namespaces: r.namespaces || what.namespaces });
        self.refreshed.notify_one();
    }

    pub(super) fn command(&self, order: Order) {
        // Nothing takes a deletion back.
        if self.order.get() != Some(Order::Delete) {
            self.order.set(Some(order));
        }
        if order == Order::Delete {
            self.state.set(PathState::Deleting);
        }
        self.ordered.notify_one();
    }

    pub(super) fn adopt(&self, session: Rc<Session>) {
        self.cntlid.set(session.cntlid);
        *self.identify.borrow_mut() = Some(session.identify.clone());
        *self.session.borrow_mut() = Some(session);
        self.lost.set(None);
        self.failure.borrow_mut().clear();
        if self.state.get() != PathState::Deleting {
            self.state.set(PathState::Enabled);
        }
    }

    fn disconnected(&self) {
        if let Some(s) = self.session.borrow_mut().take() {
            s.close();
        }
        if self.lost.get().is_none() {
            self.lost.set(Some(Instant::now()));
        }
    }

    fn set_state(&self, state: PathState) {
        if self.state.get() != PathState::Deleting {
            self.state.set(state);
        }
    }

    async fn next_order(&self) -> Order {
        loop {
            if let Some(order) = self.order.take() {
                return order;
            }
            self.ordered.notified().await;
        }
    }

    /// Reads the ANA log and makes it the truth.
    pub(super) async fn read_ana(&self, session: &Session) {
        match session.ana_states().await {
            Ok(states) => {
                *self.ana.borrow_mut() = states.unwrap_or_default().into_iter().collect();
                self.stale.borrow_mut().clear();
            }
            Err(error) => tracing::warn!(address = %self.address, %error, "reading the ANA log failed"),
        }
    }

    /// Follows a session to its end.
    async fn follow(&self, group: &Rc<Group>, session: &Rc<Session>) -> Next {
        let notice = |n: Notice| match n {
            Notice::Ana => self.ask(Refresh { ana: true, namespaces: false }),
            Notice::Namespaces => self.ask(Refresh { ana: true, namespaces: true }),
            Notice::Discovery | Notice::Reservation => {}
        };
        let refreshing = async {
            loop {
                self.refreshed.notified().await;
                let r = self.refresh.take();
                if r.namespaces {
                    group.rescan(self, session).await;
                } else if r.ana {
                    self.read_ana(session).await;
                }
                if !self.stale.borrow().is_empty() {
                    // The log could not be read. The controller says no more than that, so ask again a little later.
                    tokio::time::sleep(ANA_RETRY).await;
                    self.ask(Refresh { ana: true, namespaces: false });
                }
                group.changed();
            }
        };
        tokio::select! {
            end = session.watch(notice) => {
                tracing::info!(group = %group.name, address = %self.address, ?end, "path lost");
                Next::Lost
            }
            order = self.next_order() => Next::Order(order),
            () = refreshing => Next::Lost,
        }
    }

    /// Wakes I/O that waits for the path when it is to fail. Does not resolve: it accompanies something that does.
    async fn fail_waiting(&self, group: &Group) -> Infallible {
        let limit = self.resilience.fast_io_fail;
        if let Some(since) = self.lost.get().filter(|_| !limit.is_zero()) {
            tokio::time::sleep_until((since + limit).into()).await;
            group.changed();
        }
        std::future::pending().await
    }

    /// Waits after a failed attempt: for the next one, for an order, or until the path is given up.
    async fn pause(&self, group: &Rc<Group>) -> Next {
        let r = self.resilience;
        let since = self.lost.get().unwrap_or_else(Instant::now);
        if r.reconnect_delay.is_zero() {
            self.set_state(PathState::Failed);
            group.changed();
            return Next::Order(self.next_order().await);
        }
        self.set_state(PathState::ReconnectIsDelayed);
        let attempt = Instant::now() + r.reconnect_delay;
        let give_up = r.loss_timeout.map(|t| since + t);
        group.changed();
        let until = give_up.map_or(attempt, |g| g.min(attempt));
        tokio::select! {
            () = tokio::time::sleep_until(until.into()) => {}
            order = self.next_order() => return Next::Order(order),
            never = self.fail_waiting(group) => match never {},
        }
        if give_up.is_some_and(|g| g <= Instant::now()) { Next::GiveUp } else { Next::Lost }
    }

    /// The life of a path: connect, follow, reconnect, until it is deleted or given up.
    pub(super) async fn run(self: Rc<Self>, group: Weak<Group>) {
        loop {
            let Some(group) = group.upgrade() else { return };
            let mut next = match self.session() {
                Some(session) => self.follow(&group, &session).await,
                None => self.attempt(&group).await,
            };
            if next == Next::Order(Order::Disable) {
                self.disconnected();
                self.set_state(PathState::Disabled);
                group.changed();
                while !matches!(next, Next::Order(Order::Enable | Order::Delete)) {
                    next = Next::Order(self.next_order().await);
                }
            }
            match next {
                Next::Connected => continue,
                Next::GiveUp | Next::Order(Order::Delete) => {
                    self.leave(&group).await;
                    return;
                }
                Next::Lost | Next::Order(_) => {
                    self.disconnected();
                    self.set_state(PathState::Resetting);
                    group.changed();
                }
            }
        }
    }

    async fn leave(self: &Rc<Self>, group: &Rc<Group>) {
        self.state.set(PathState::Deleting);
        let session = self.session.borrow_mut().take();
        if let Some(s) = session {
            s.shutdown().await;
        }
        group.path_gone(self);
    }

    /// Once per reason: a path may fail every second for days.
    fn log_failure(&self, group: &Group, error: &ConnectError) {
        let reason = error.to_string();
        if *self.failure.borrow() == reason {
            tracing::debug!(group = %group.name, %error, "connecting failed again");
            return;
        }
        tracing::info!(group = %group.name, %error, "connecting failed, goes on trying");
        *self.failure.borrow_mut() = reason;
    }

    async fn attempt(&self, group: &Rc<Group>) -> Next {
        let connecting = async {
            let session = Session::connect(self.address, &group.subnqn, &self.options).await?;
            // Nothing is sent to namespaces before it is known that they are still the same.
            match group.scan(self, &session).await {
                Ok(()) => Ok(session),
                Err(error) => Err(ConnectError::identifying(self.address, error)),
            }
        };
        let connected = tokio::select! {
            connected = connecting => connected,
            order = self.next_order() => return Next::Order(order),
            never = self.fail_waiting(group) => match never {},
        };
        self.attempt_ended();
        match connected {
            Ok(session) => {
                self.adopt(session);
                tracing::info!(group = %group.name, address = %self.address, "path connected");
                group.changed();
                Next::Connected
            }
            Err(error) => {
                self.log_failure(group, &error);
                self.pause(group).await
            }
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Next {
    Connected,
    Lost,
    GiveUp,
    Order(Order),
}
