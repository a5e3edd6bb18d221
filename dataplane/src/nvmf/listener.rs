//! Listening sockets, shared by subsystems, and the listener of one subsystem with its ANA states.

use std::cell::{Cell, RefCell};
use std::io;
use std::net::SocketAddr;
use std::rc::{Rc, Weak};
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, TcpKeepalive, Type};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;
use vda_nvme::log::AnaState;

use super::{Target, connection};

/// A subsystem's permission to be reached at an address, and what is seen there.
pub(super) struct Listener {
    pub(super) id: u16,
    pub(super) address: SocketAddr,
    /// State of group `i + 1`.
    states: RefCell<Vec<AnaState>>,
    changes: Cell<u64>,
}

impl Listener {
    pub(super) fn new(id: u16, address: SocketAddr, groups: u32, state: AnaState) -> Self {
        let states = RefCell::new(vec![state; groups as usize]);
        Self { id, address, states, changes: Cell::new(0) }
    }

    pub(super) fn ana_state(&self, group: u32) -> AnaState {
        let index = (group as usize).wrapping_sub(1);
        self.states.borrow().get(index).copied().unwrap_or(AnaState::Inaccessible)
    }

    pub(super) fn ana_states(&self) -> Vec<AnaState> {
        self.states.borrow().clone()
    }

    pub(super) fn change_count(&self) -> u64 {
        self.changes.get()
    }

    /// Sets the state of a group, or of all with 0; `false` if there is no such group.
    pub(super) fn set_ana_state(&self, group: u32, state: AnaState) -> bool {
        let mut states = self.states.borrow_mut();
        match group {
            0 => states.fill(state),
            g => match states.get_mut(g as usize - 1) {
                Some(s) => *s = state,
                None => return false,
            },
        }
        self.changes.set(self.changes.get() + 1);
        true
    }
}

/// A bound socket. Closed when the last listener goes.
pub(super) struct ListeningSocket {
    pub(super) users: Cell<usize>,
    stop: CancellationToken,
}

impl Drop for ListeningSocket {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl ListeningSocket {
    /// Binds, listens and accepts.
    pub(super) fn open(target: &Rc<Target>, address: SocketAddr, backlog: i32) -> io::Result<Self> {
        let listener = listen(address, backlog)?;
        let stop = CancellationToken::new();
        let accept = accept(Rc::downgrade(target), listener, address);
        let token = stop.clone();
        tokio::task::spawn_local(async move {
            tokio::select! {
                () = token.cancelled() => {}
                () = accept => {}
            }
        });
        Ok(Self { users: Cell::new(0), stop })
    }
}

/// When a connection on which nothing happens is asked whether its other end is still there, and how often until it counts as gone: after two minutes.
const PROBE_AFTER: Duration = Duration::from_secs(60);
const PROBE_EVERY: Duration = Duration::from_secs(15);
const PROBES: u32 = 4;

/// A socket that listens. What it accepts is probed by the kernel: a host that asked for no Keep Alive and is gone without a word would keep its
/// connection, and the buffers that it holds, for ever.
fn listen(address: SocketAddr, backlog: i32) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    // Linux hands these on to accepted connections: no call for each of them.
    let probes = TcpKeepalive::new().with_time(PROBE_AFTER).with_interval(PROBE_EVERY).with_retries(PROBES);
    socket.set_tcp_keepalive(&probes)?;
    socket.bind(&address.into())?;
    socket.listen(backlog.max(1))?;
    TcpListener::from_std(socket.into())
}

/// Pause after a failed accept: the process is out of descriptors, and nothing tells when one is free again.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

async fn accept(target: Weak<Target>, listener: TcpListener, address: SocketAddr) {
    loop {
        match listener.accept().await {
            Ok((stream, peer)) => {
                let Some(target) = target.upgrade() else { return };
                accepted(&target, stream, peer, address);
            }
            Err(error) => {
                let limit = crate::open_files::limit();
                tracing::warn!(%address, %error, limit, "accepting a connection failed; limit: of open files");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

fn accepted(target: &Rc<Target>, stream: TcpStream, peer: SocketAddr, address: SocketAddr) {
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%peer, %error, "connection was gone before it was served");
        return;
    }
    connection::spawn(target, stream, peer, address);
}

#[cfg(test)]
#[path = "listener_tests.rs"]
mod tests;
