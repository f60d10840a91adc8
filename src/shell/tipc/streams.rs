//! The heartbeat sockets: one of each parity, so that with both links up every heartbeat travels both.

use std::io;

use socket2::{SockRef, Type};

use crate::config::{Tipc, TipcAddress};
use crate::logic::time::Moment;
use crate::logic::wire::LENGTH;
use crate::shell::ready::Ready;
use crate::shell::tipc::{
    CLUSTER_SCOPE, RETRY, SERVICE, SERVICE_ADDR, SERVICE_RANGE, address, option, receive, reference, socket,
    to_bytes, word,
};

/// Datagrams taken in one turn.
const TURN_MAX: usize = 16;

/// A bound heartbeat socket whose reference has this parity.
fn stream(local: TipcAddress, parity: u32) -> io::Result<Ready> {
    // Others are kept open meanwhile, or the next would get the same reference; references are random, 64 tries
    // fail once in 2^64.
    let mut others = vec![];
    for _ in 0..64 {
        let socket = socket(Type::from(libc::SOCK_RDM))?;
        if reference(&socket)? & 1 != parity {
            others.push(socket);
            continue;
        }
        // linux/tipc.h: TIPC_IMPORTANCE = 127, critical = 3; TIPC_SRC_DROPPABLE = 128, TIPC_DEST_DROPPABLE = 129: a
        // heartbeat that cannot be delivered is lost, not returned, and never waits for a congested link.
        option(&socket, 127, 3)?;
        option(&socket, 128, 1)?;
        option(&socket, 129, 1)?;
        socket.bind(&address(SERVICE_RANGE, CLUSTER_SCOPE, [SERVICE, local.0, local.0])?)?;
        return Ready::new(socket.into());
    }
    Err(io::Error::other("no TIPC socket of the wanted parity in 64 tries"))
}

/// The heartbeat sockets of this node.
pub struct Streams {
    local: TipcAddress,
    peer: Option<TipcAddress>,
    sockets: Vec<Ready>,
    wanted: usize,
    retry_at: Moment,
    error: Option<String>,
    /// A turn ended with datagrams left: the next one does not wait for an edge.
    more: bool,
}

impl Streams {
    /// Opens what can be opened.
    pub fn open(tipc: &Tipc, now: Moment) -> Self {
        let wanted = tipc.bearers.len().min(2);
        let (local, peer) = (tipc.local, tipc.peer);
        let mut all = Self { local, peer, sockets: vec![], wanted, retry_at: now, error: None, more: false };
        all.retry(now);
        all
    }

    /// Opens again what is closed and has rested.
    pub fn retry(&mut self, now: Moment) {
        while self.sockets.len() < self.wanted && now >= self.retry_at {
            match stream(self.local, u32::from(self.sockets.len() % 2 == 1)) {
                Ok(socket) => {
                    self.sockets.push(socket);
                    self.error = None;
                }
                Err(error) => {
                    self.error = Some(format!("heartbeats over TIPC: {error}"));
                    self.retry_at = now + RETRY;
                }
            }
        }
    }

    /// What the kernel takes for this node's address, as long as there is a socket to ask; 0.0.0: it has none yet.
    pub fn address(&self) -> Option<TipcAddress> {
        let socket = SockRef::from(self.sockets.first()?.fd());
        // struct sockaddr_tipc of a socket: reference, then node.
        Some(TipcAddress(word(&to_bytes(&socket.local_addr().ok()?), 8)))
    }

    /// Why there are none.
    pub fn error(&self) -> Option<&str> {
        self.error.as_deref()
    }

    /// Sends or loses it.
    pub fn send(&self, link: usize, bytes: &[u8]) {
        let (Some(peer), false) = (self.peer, self.sockets.is_empty()) else { return };
        let Ok(to) = address(SERVICE_ADDR, 0, [SERVICE, peer.0, 0]) else { return };
        // Nobody has bound the name (EHOSTUNREACH), the link is congested (EAGAIN): as a lost datagram.
        let _ = SockRef::from(self.sockets[link % self.sockets.len()].fd()).send_to(bytes, &to);
    }

    /// Hands every waiting datagram to `each`, a few per socket. One byte more than a heartbeat is read, so that a
    /// longer one is seen to be longer.
    pub fn drain(&mut self, mut each: impl FnMut(&[u8])) {
        let mut buffer = [0; LENGTH + 1];
        self.more = false;
        for socket in &self.sockets {
            let mut left = TURN_MAX;
            while let Ok(len) = receive(&SockRef::from(socket.fd()), &mut buffer) {
                // Length 0: an undeliverable message that came back; those are asked to be dropped.
                if len > 0 {
                    each(&buffer[..len]);
                }
                left -= 1;
                if left == 0 {
                    self.more = true;
                    break;
                }
            }
        }
    }

    /// Waits until some socket has something to read. Cancel safe.
    pub async fn readable(&self) {
        if !self.more {
            any_readable(&self.sockets).await;
        }
    }
}

async fn any_readable(sockets: &[Ready]) {
    let mut waits: Vec<_> = sockets.iter().map(|socket| Box::pin(socket.readable())).collect();
    std::future::poll_fn(|cx| {
        if waits.iter_mut().any(|wait| wait.as_mut().poll(cx).is_ready()) {
            std::task::Poll::Ready(())
        } else {
            std::task::Poll::Pending
        }
    })
    .await;
}
