//! Heartbeat sockets: one per link, bound to its address and its interface.
//!
//! A link whose address or interface is missing is down, never fatal: it is opened again as soon as it can be. Nothing
//! here waits; a datagram that cannot go out now is lost, as on any wire.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use socket2::{Domain, Protocol, SockFilter, SockRef, Socket, Type};
use tokio::net::UdpSocket;

use crate::config::Link;
use crate::logic::time::Moment;
use crate::logic::wire::LENGTH;

/// Datagrams taken from one link before the next gets its turn: a flood on one must not starve the other.
const TURN_MAX: usize = 16;
/// How long a link that could not be opened rests.
const RETRY: Duration = Duration::from_millis(500);
/// CS6, network control: switches with queues let heartbeats pass first. RFC 4594 §3.1.
const TOS: u32 = 0xc0;

struct Path {
    link: Link,
    socket: Option<UdpSocket>,
    retry_at: Moment,
    /// What the last attempt said, for the operator.
    error: Option<String>,
}

/// All links of the pair.
pub struct Links {
    port: u16,
    paths: Vec<Path>,
}

fn interface_of(address: IpAddr) -> Option<String> {
    let all = nix::ifaddrs::getifaddrs().ok()?;
    for entry in all {
        let Some(storage) = entry.address else { continue };
        let v4 = storage.as_sockaddr_in().map(|a| IpAddr::V4(a.ip()));
        let v6 = storage.as_sockaddr_in6().map(|a| IpAddr::V6(a.ip()));
        if v4.or(v6) == Some(address) {
            return Some(entry.interface_name);
        }
    }
    None
}

/// A port below 1024 needs a right that the unit has since the generator has seen the port.
fn refused(error: io::Error, port: u16) -> io::Error {
    if error.kind() != io::ErrorKind::PermissionDenied {
        return error;
    }
    io::Error::new(
        error.kind(),
        format!(
            "no right to UDP port {port}: systemctl daemon-reload gives it, and a restart of this service takes it up"
        ),
    )
}

fn open(link: &Link, port: u16) -> io::Result<UdpSocket> {
    let interface = interface_of(link.local).ok_or_else(|| {
        io::Error::new(io::ErrorKind::AddrNotAvailable, format!("no interface carries {}", link.local))
    })?;
    let socket =
        Socket::new(Domain::for_address((link.local, port).into()), Type::DGRAM, Some(Protocol::UDP))?;
    socket.set_nonblocking(true)?;
    socket.set_reuse_address(true)?;
    // The link is this cable: no other interface may carry or deliver its heartbeats.
    socket.bind_device(Some(interface.as_bytes()))?;
    socket.set_recv_buffer_size(256 * 1024)?;
    match link.local {
        // TTL 255 out, and nothing less in: what came through a router is not from the other end of the cable.
        // RFC 5082.
        IpAddr::V4(_) => {
            socket.set_ttl_v4(255)?;
            socket.set_tos_v4(TOS)?;
        }
        IpAddr::V6(_) => socket.set_unicast_hops_v6(255)?,
    }
    only_unrouted(&socket, link.local)?;
    socket.bind(&SocketAddr::new(link.local, port).into()).map_err(|error| refused(error, port))?;
    // The kernel drops what does not come from the peer's address and port.
    socket.connect(&SocketAddr::new(link.peer, port).into())?;
    UdpSocket::from_std(socket.into())
}

/// A socket filter that passes what has not been through a router. (IP_MINTTL would say so in one word, but Linux asks it
/// of TCP alone: UDP takes any TTL, as the lab has shown.)
fn only_unrouted(socket: &Socket, family: IpAddr) -> io::Result<()> {
    // Offset of TTL or hop limit in the network header, which the filter reaches below SKF_NET_OFF.
    let at: i32 = if family.is_ipv4() { 8 } else { 7 };
    let word = |code: u32, jf: u8, k: u32| SockFilter::new(u16::try_from(code).unwrap_or(0), 0, jf, k);
    socket.attach_filter(&[
        word(libc::BPF_LD | libc::BPF_B | libc::BPF_ABS, 0, (libc::SKF_NET_OFF + at).cast_unsigned()),
        word(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 1, 255),
        word(libc::BPF_RET | libc::BPF_K, 0, u32::MAX),
        word(libc::BPF_RET | libc::BPF_K, 0, 0),
    ])
}

impl Links {
    /// Opens what can be opened.
    pub fn open(links: &[Link], port: u16, now: Moment) -> Self {
        let paths = links
            .iter()
            .map(|link| Path { link: link.clone(), socket: None, retry_at: now, error: None })
            .collect();
        let mut all = Self { port, paths };
        all.retry(now);
        all
    }

    /// Opens again what is closed and has rested.
    pub fn retry(&mut self, now: Moment) {
        for path in &mut self.paths {
            if path.socket.is_none() && now >= path.retry_at {
                match open(&path.link, self.port) {
                    Ok(socket) => {
                        path.socket = Some(socket);
                        path.error = None;
                    }
                    Err(error) => {
                        path.error = Some(format!("link {}: {error}", path.link.name));
                        path.retry_at = now + RETRY;
                    }
                }
            }
        }
    }

    /// Why links are closed.
    pub fn errors(&self) -> impl Iterator<Item = &str> {
        self.paths.iter().filter_map(|path| path.error.as_deref())
    }

    /// At least one socket is open.
    pub fn any_open(&self) -> bool {
        self.paths.iter().any(|path| path.socket.is_some())
    }

    /// Sends or loses it.
    pub fn send(&mut self, link: usize, bytes: &[u8], now: Moment) {
        let Some(path) = self.paths.get_mut(link) else { return };
        let Some(socket) = &path.socket else { return };
        // Not tokio's try_send: that trusts a cached readiness and loses datagrams after a transient full buffer.
        match SockRef::from(socket).send(bytes) {
            Ok(_) => {}
            Err(error) if is_passing(&error) => {}
            Err(error) => {
                // The address or the interface went away: the socket will not heal.
                path.error = Some(format!("link {}: {error}", path.link.name));
                path.socket = None;
                path.retry_at = now + RETRY;
            }
        }
    }

    /// The next datagram of a link, if one is there.
    fn take(&mut self, link: usize, buffer: &mut [u8]) -> Option<usize> {
        let path = &mut self.paths[link];
        let socket = path.socket.as_ref()?;
        // An ICMP error of an earlier send (the peer's port is closed: it is starting) is no datagram.
        for _ in 0..4 {
            match socket.try_recv(buffer) {
                Ok(len) => return Some(len),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return None,
                Err(error) if is_passing(&error) => {}
                Err(error) => {
                    path.error = Some(format!("link {}: {error}", path.link.name));
                    path.socket = None;
                    return None;
                }
            }
        }
        None
    }

    /// Hands every waiting datagram to `each`, a few per link. One byte more than a heartbeat is read, so that a
    /// longer one is seen to be longer.
    pub fn drain(&mut self, mut each: impl FnMut(&[u8])) {
        let mut buffer = [0; LENGTH + 1];
        for link in 0..self.paths.len() {
            for _ in 0..TURN_MAX {
                match self.take(link, &mut buffer) {
                    Some(len) => each(&buffer[..len]),
                    None => break,
                }
            }
        }
    }

    /// Waits until some link has something to read. Cancel safe.
    pub async fn readable(&self) {
        let mut waits: Vec<_> = self
            .paths
            .iter()
            .filter_map(|path| path.socket.as_ref())
            .map(|socket| Box::pin(socket.readable()))
            .collect();
        if waits.is_empty() {
            return std::future::pending().await;
        }
        std::future::poll_fn(|cx| {
            if waits.iter_mut().any(|wait| wait.as_mut().poll(cx).is_ready()) {
                std::task::Poll::Ready(())
            } else {
                std::task::Poll::Pending
            }
        })
        .await;
    }
}

/// Errors that say something of the peer or of this moment, not of the socket.
fn is_passing(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(
            libc::EAGAIN
                | libc::ECONNREFUSED
                | libc::EHOSTUNREACH
                | libc::EHOSTDOWN
                | libc::ENETUNREACH
                | libc::ENETDOWN
                | libc::ENOBUFS
                | libc::EPERM
                | libc::EINTR
        )
    )
}
