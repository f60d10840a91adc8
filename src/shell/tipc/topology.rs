//! The topology service: the kernel's word of the peer's process, of its node and of each link.

use std::io;
use std::os::fd::AsRawFd;

use socket2::{SockRef, Socket, Type};

use crate::config::{Tipc, TipcAddress};
use crate::logic::time::Moment;
use crate::shell::ready::Ready;
use crate::shell::tipc::{NODE_SCOPE, RETRY, SERVICE, SERVICE_ADDR, address, option, receive, socket, word};

/// linux/tipc.h: reserved service types of the topology service.
const TOP_SRV: u32 = 1;
const LINK_STATE: u32 = 2;
/// `struct tipc_subscr` and `struct tipc_event`.
const SUBSCR: usize = 28;
const EVENT: usize = 48;
/// One event for each publication; one for the first and the last.
const SUB_PORTS: u32 = 1;
const SUB_SERVICE: u32 = 2;
const PUBLISHED: u32 = 1;
const WITHDRAWN: u32 = 2;
const SUBSCR_TIMEOUT: u32 = 3;

/// What the kernel says of the peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// The peer's election process is there, or is not any more.
    Process { present: bool },
    /// A link to the peer: index of the bearer in the configuration.
    Link { bearer: usize, up: bool },
    /// The link on this bearer ends at another interface of the peer than its own end has: cabled to the wrong network.
    Crossed { bearer: usize, crossed: bool },
}

/// The connection to the topology service.
pub struct Topology {
    peer: Option<TipcAddress>,
    interfaces: Vec<String>,
    socket: Option<Ready>,
    retry_at: Moment,
    /// Kernel's bearer number → bearer of the configuration, as links came up.
    known: Vec<(u16, usize)>,
    /// What holds before the service has said anything: it tells of what is there, never of what is not.
    first: Vec<Event>,
    error: Option<String>,
}

impl Topology {
    pub fn open(tipc: &Tipc, now: Moment) -> Self {
        let mut topology = Self {
            peer: tipc.peer,
            interfaces: tipc.bearers.iter().map(|b| b.interface.clone()).collect(),
            socket: None,
            retry_at: now,
            known: vec![],
            first: vec![],
            error: None,
        };
        topology.retry(now);
        topology
    }

    pub fn retry(&mut self, now: Moment) {
        let Some(peer) = self.peer else { return };
        if self.socket.is_some() || now < self.retry_at {
            return;
        }
        match connect(peer) {
            Ok(socket) => {
                self.socket = Some(socket);
                self.error = None;
                self.first =
                    (0..self.interfaces.len()).map(|bearer| Event::Link { bearer, up: false }).collect();
                self.first.push(Event::Process { present: false });
            }
            Err(error) => {
                self.error = Some(format!("the topology service of TIPC: {error}"));
                self.retry_at = now + RETRY;
            }
        }
    }

    pub fn error(&self) -> Option<&str> {
        self.error.as_deref()
    }

    /// Hands every waiting event to `each`. A connection that broke takes its knowledge along.
    pub fn drain(&mut self, now: Moment, mut each: impl FnMut(Event)) {
        self.first.drain(..).for_each(&mut each);
        let Some(socket) = self.socket.take() else { return };
        let mut buffer = [0; EVENT];
        loop {
            let connection = SockRef::from(socket.fd());
            match receive(&connection, &mut buffer) {
                Ok(EVENT) => {
                    self.understand(&connection, &buffer, &mut each);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Ok(_) | Err(_) => {
                    self.retry_at = now + RETRY;
                    return;
                }
            }
        }
        self.socket = Some(socket);
    }

    pub async fn readable(&self) {
        match &self.socket {
            _ if !self.first.is_empty() => {}
            Some(socket) => socket.readable().await,
            None => std::future::pending().await,
        }
    }

    fn understand(&mut self, socket: &Socket, bytes: &[u8; EVENT], each: &mut impl FnMut(Event)) {
        let Some(event) = decode(bytes) else { return };
        match event.service {
            SERVICE => each(Event::Process { present: event.kind == PUBLISHED }),
            LINK_STATE if self.peer == Some(TipcAddress(event.lower)) => {
                let number = (event.port & 0xffff) as u16;
                let up = event.kind == PUBLISHED;
                let named = up.then(|| link_name(socket, event.lower, number)).flatten();
                if let Some(name) = named
                    && let Some(bearer) = bearer_of(&name, &self.interfaces)
                {
                    self.known.retain(|(other, _)| *other != number);
                    self.known.push((number, bearer));
                    let crossed = !name.ends_with(&format!(":{}", self.interfaces[bearer]));
                    each(Event::Crossed { bearer, crossed });
                }
                if let Some((_, bearer)) = self.known.iter().find(|(other, _)| *other == number) {
                    each(Event::Link { bearer: *bearer, up });
                }
            }
            _ => {}
        }
    }
}

fn connect(peer: TipcAddress) -> io::Result<Ready> {
    let socket = socket(Type::SEQPACKET)?;
    // Answered by this kernel within microseconds; TIPC_CONN_TIMEOUT (linux/tipc.h: 130), in ms, bounds it.
    option(&socket, 130, 50)?;
    socket.set_nonblocking(false)?;
    socket.connect(&address(SERVICE_ADDR, NODE_SCOPE, [TOP_SRV, TOP_SRV, 0])?)?;
    socket.set_nonblocking(true)?;
    for (service, lower, upper, filter) in
        [(SERVICE, peer.0, peer.0, SUB_SERVICE), (LINK_STATE, 0, u32::MAX, SUB_PORTS)]
    {
        socket.send(&subscription(service, lower, upper, filter))?;
    }
    Ready::new(socket.into())
}

/// A `struct tipc_subscr` that lasts for ever.
fn subscription(service: u32, lower: u32, upper: u32, filter: u32) -> [u8; SUBSCR] {
    let mut bytes = [0; SUBSCR];
    for (n, word) in [service, lower, upper, u32::MAX, filter].iter().enumerate() {
        bytes[n * 4..n * 4 + 4].copy_from_slice(&word.to_ne_bytes());
    }
    bytes
}

/// What of a `struct tipc_event` is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Raw {
    kind: u32,
    lower: u32,
    port: u32,
    service: u32,
}

fn decode(bytes: &[u8; EVENT]) -> Option<Raw> {
    let kind = word(bytes, 0);
    // event, found_lower, found_upper, port {ref, node}, then the subscription, whose first word is the type.
    let raw = Raw { kind, lower: word(bytes, 4), port: word(bytes, 12), service: word(bytes, 20) };
    match kind {
        PUBLISHED | WITHDRAWN => Some(raw),
        SUBSCR_TIMEOUT => None,
        _ => None,
    }
}

/// `struct tipc_sioc_ln_req` of linux/tipc.h: peer, bearer, name of at most 68 bytes.
#[repr(C)]
struct LinkName {
    peer: u32,
    bearer: u32,
    name: [u8; 68],
}

/// SIOCGETLINKNAME: "1.1.23:eth3-1.1.29:eth3".
fn link_name(socket: &Socket, peer: u32, bearer: u16) -> Option<String> {
    let mut request = LinkName { peer, bearer: u32::from(bearer), name: [0; 68] };
    // SAFETY: the request is the structure that this ioctl reads and writes, alive for the whole call.
    let rc = unsafe { libc::ioctl(socket.as_raw_fd(), 0x89e0, &raw mut request) };
    let end = request.name.iter().position(|b| *b == 0).unwrap_or(68);
    (rc == 0).then(|| String::from_utf8_lossy(&request.name[..end]).into_owned())
}

/// Which of our interfaces a link's name begins at: NODE:INTERFACE-NODE:INTERFACE, where a node may contain anything
/// but a colon.
fn bearer_of(name: &str, interfaces: &[String]) -> Option<usize> {
    let after = name.split_once(':')?.1;
    interfaces.iter().position(|interface| {
        after.strip_prefix(interface.as_str()).is_some_and(|rest| rest.starts_with('-'))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Little-endian machines, on which the golden bytes were written down.
    fn words(words: &[u32]) -> Vec<u8> {
        words.iter().flat_map(|w| w.to_ne_bytes()).collect()
    }

    #[test]
    fn a_subscription_and_an_event() {
        let peer = 0x0100_101d;
        let asked = subscription(SERVICE, peer, peer, SUB_SERVICE);
        assert_eq!(asked.to_vec(), words(&[SERVICE, peer, peer, u32::MAX, 2, 0, 0]));
        let mut event = [0; EVENT];
        event.copy_from_slice(&words(&[2, peer, peer, 77, peer, SERVICE, peer, peer, u32::MAX, 2, 0, 0]));
        assert_eq!(decode(&event), Some(Raw { kind: WITHDRAWN, lower: peer, port: 77, service: SERVICE }));
        event[0] = 3;
        assert_eq!(decode(&event), None);
        event[0] = 9;
        assert_eq!(decode(&event), None);
    }

    #[test]
    fn a_links_name_tells_its_interface() {
        let ours = ["eth3".to_owned(), "eth4".to_owned(), "eth3-1".to_owned()];
        assert_eq!(bearer_of("1.1.23:eth4-1.1.29:eth4", &ours), Some(1));
        assert_eq!(bearer_of("node-a:eth3-node-b:eth4", &ours), Some(0));
        assert_eq!(bearer_of("1001017:eth5-100101d:eth3", &ours), None);
        assert_eq!(bearer_of("nonsense", &ours), None);
    }
}
