//! The topology service: the kernel's word of the peer's process and of its node, and that something about a link has changed
//! (`links` says what).
//!
//! The service tells of what is there, never of what is not. So the subscriptions end with one for a name that is always
//! there (the service's own): when that is answered, all answers to the others have come, and what was not told is absent.
//! Until then nothing is said: a connection that broke and is back would else show the peer gone for a moment.

use std::collections::BTreeSet;
use std::io;
use std::time::Duration;

use socket2::{SockRef, Socket, Type};

use crate::config::{Tipc, TipcAddress};
use crate::logic::time::Moment;
use crate::shell::ready::Ready;
use crate::shell::tipc::{NODE_SCOPE, PRESENCE, RETRY, SERVICE_ADDR, address, receive, socket, word};

/// linux/tipc.h: reserved service types of the topology service.
const NODE_STATE: u32 = 0;
const TOP_SRV: u32 = 1;
const LINK_STATE: u32 = 2;
/// `struct tipc_subscr` and `struct tipc_event`.
const SUBSCR: usize = 28;
const EVENT: usize = 48;
/// TIPC_SUB_PORTS: an event for each publication, with who published.
const SUB_PORTS: u32 = 1;
const PUBLISHED: u32 = 1;
const WITHDRAWN: u32 = 2;
const SUBSCR_TIMEOUT: u32 = 3;
/// Events taken in one turn: any node of the network can make any number of them.
const TURN_MAX: usize = 64;
/// This kernel's own service answers within a millisecond or two.
const ANSWERS_WITHIN: Duration = Duration::from_secs(2);

/// What the kernel says of the peer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// The peer's election process is there, or is not any more.
    Process { present: bool },
    /// Some link reaches the peer's node, or none does any more.
    Node { reachable: bool },
    /// Something about a link to the peer is otherwise than it was.
    Links,
    /// The service is not to be heard: nothing that was said before counts.
    Unknown,
}

/// How far the connection is.
enum Wire {
    Closed,
    /// The kernel is asked for a connection; when it was.
    Connecting(Ready, Moment),
    /// Subscribed; what is there comes in.
    Asking(Ready, Moment),
    Open(Ready),
}

/// The connection to the topology service.
pub struct Topology {
    peer: Option<TipcAddress>,
    wire: Wire,
    retry_at: Moment,
    facts: Facts,
    /// What was said before was withdrawn, and nobody has heard that yet.
    lost: bool,
    /// A turn ended with events left: the next one does not wait for an edge.
    more: bool,
    error: Option<String>,
}

/// What the service has said on this connection.
#[derive(Debug, Default)]
struct Facts {
    /// References of the peer's sockets that have its name.
    names: BTreeSet<u32>,
    reachable: bool,
}

impl Topology {
    pub fn open(tipc: &Tipc, now: Moment) -> Self {
        let mut topology = Self {
            peer: tipc.peer,
            wire: Wire::Closed,
            retry_at: now,
            facts: Facts::default(),
            lost: false,
            more: false,
            error: None,
        };
        topology.retry(now);
        topology
    }

    /// Asks for a connection when there is none; never waits for it.
    pub fn retry(&mut self, now: Moment) {
        if self.peer.is_none() {
            return;
        }
        match &self.wire {
            Wire::Closed if now >= self.retry_at => match connect() {
                Ok(socket) => self.wire = Wire::Connecting(socket, now),
                Err(error) => self.fail(now, &error),
            },
            Wire::Connecting(_, since) | Wire::Asking(_, since) if now.since(*since) > ANSWERS_WITHIN => {
                self.fail(now, &io::Error::new(io::ErrorKind::TimedOut, "it does not answer"));
            }
            _ => {}
        }
    }

    fn fail(&mut self, now: Moment, error: &io::Error) {
        self.lost |= matches!(self.wire, Wire::Open(_));
        self.more = false;
        self.wire = Wire::Closed;
        self.facts = Facts::default();
        self.retry_at = now + RETRY;
        self.error = Some(format!("the topology service of TIPC: {error}"));
    }

    pub fn error(&self) -> Option<&str> {
        self.error.as_deref()
    }

    /// Hands every waiting event to `each`. A connection that broke takes its knowledge along.
    pub fn drain(&mut self, now: Moment, mut each: impl FnMut(Event)) {
        if let Err(error) = self.read(now, &mut each) {
            self.fail(now, &error);
        }
        if std::mem::take(&mut self.lost) {
            each(Event::Unknown);
        }
    }

    fn read(&mut self, now: Moment, each: &mut impl FnMut(Event)) -> io::Result<()> {
        let Some(peer) = self.peer else { return Ok(()) };
        if let Wire::Connecting(ready, _) = &self.wire {
            if !established(&SockRef::from(ready.fd()))? {
                return Ok(());
            }
            subscribe(&SockRef::from(ready.fd()), peer)?;
            if let Wire::Connecting(ready, _) = std::mem::replace(&mut self.wire, Wire::Closed) {
                self.wire = Wire::Asking(ready, now);
            }
        }
        let mut complete = false;
        if let Wire::Asking(ready, _) | Wire::Open(ready) = &self.wire {
            let asking = matches!(self.wire, Wire::Asking(..));
            let connection = SockRef::from(ready.fd());
            let mut buffer = [0; EVENT];
            self.more = true;
            for _ in 0..TURN_MAX {
                match receive(&connection, &mut buffer) {
                    Ok(EVENT) => {}
                    Ok(len) => return Err(io::Error::other(format!("an event of {len} bytes"))),
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                        self.more = false;
                        break;
                    }
                    Err(error) => return Err(error),
                }
                let Some(event) = decode(&buffer) else { continue };
                let told = self.facts.take(&event, peer);
                if !asking || complete {
                    told.into_iter().for_each(&mut *each);
                } else if event.service == TOP_SRV {
                    complete = true;
                    self.facts.all().into_iter().for_each(&mut *each);
                }
            }
        }
        if complete && let Wire::Asking(ready, _) = std::mem::replace(&mut self.wire, Wire::Closed) {
            self.wire = Wire::Open(ready);
            self.error = None;
        }
        Ok(())
    }

    pub async fn readable(&self) {
        match &self.wire {
            _ if self.lost || self.more => {}
            Wire::Connecting(ready, _) => ready.writable().await,
            Wire::Asking(ready, _) | Wire::Open(ready) => ready.readable().await,
            Wire::Closed => std::future::pending().await,
        }
    }
}

impl Facts {
    /// Takes an event in; what changed by it.
    fn take(&mut self, event: &Raw, peer: TipcAddress) -> Option<Event> {
        let there = event.kind == PUBLISHED;
        match event.service {
            // The name alone proves nothing: any node of the network may publish it.
            PRESENCE if event.node == peer.0 => {
                let before = !self.names.is_empty();
                if there {
                    self.names.insert(event.port);
                } else {
                    self.names.remove(&event.port);
                }
                let present = !self.names.is_empty();
                (present != before).then_some(Event::Process { present })
            }
            NODE_STATE if event.lower == peer.0 => {
                self.reachable = there;
                Some(Event::Node { reachable: there })
            }
            LINK_STATE if event.lower == peer.0 => Some(Event::Links),
            _ => None,
        }
    }

    /// All of it, once it is complete.
    fn all(&self) -> [Event; 3] {
        let node = Event::Node { reachable: self.reachable };
        [node, Event::Process { present: !self.names.is_empty() }, Event::Links]
    }
}

/// Asks the kernel for a connection; it is there when the socket can be written to.
fn connect() -> io::Result<Ready> {
    let socket = socket(Type::SEQPACKET)?;
    match socket.connect(&address(SERVICE_ADDR, NODE_SCOPE, [TOP_SRV, TOP_SRV, 0])?) {
        Err(error) if error.raw_os_error() != Some(libc::EINPROGRESS) => Err(error),
        _ => Ready::new(socket.into()),
    }
}

/// Whether the connection that was asked for is there; the error if it was refused.
fn established(socket: &Socket) -> io::Result<bool> {
    if let Some(error) = socket.take_error()? {
        return Err(error);
    }
    match socket.connect(&address(SERVICE_ADDR, NODE_SCOPE, [TOP_SRV, TOP_SRV, 0])?) {
        Ok(()) => Ok(true),
        Err(error) => match error.raw_os_error() {
            Some(libc::EISCONN) => Ok(true),
            Some(libc::EALREADY | libc::EINPROGRESS) => Ok(false),
            _ => Err(error),
        },
    }
}

/// Everything that is asked, the name that is always there last.
fn subscribe(socket: &Socket, peer: TipcAddress) -> io::Result<()> {
    for (service, lower, upper) in [
        (NODE_STATE, peer.0, peer.0),
        (PRESENCE, peer.0, peer.0),
        (LINK_STATE, 0, u32::MAX),
        (TOP_SRV, TOP_SRV, TOP_SRV),
    ] {
        socket.send(&subscription(service, lower, upper))?;
    }
    Ok(())
}

/// A `struct tipc_subscr` that lasts for ever.
fn subscription(service: u32, lower: u32, upper: u32) -> [u8; SUBSCR] {
    let mut bytes = [0; SUBSCR];
    for (n, word) in [service, lower, upper, u32::MAX, SUB_PORTS].iter().enumerate() {
        bytes[n * 4..n * 4 + 4].copy_from_slice(&word.to_ne_bytes());
    }
    bytes
}

/// What of a `struct tipc_event` is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Raw {
    kind: u32,
    lower: u32,
    /// The publishing socket's reference; of a link both bearers' numbers.
    port: u32,
    /// The publishing node.
    node: u32,
    service: u32,
}

fn decode(bytes: &[u8; EVENT]) -> Option<Raw> {
    let kind = word(bytes, 0);
    // event, found_lower, found_upper, port {ref, node}, then the subscription, whose first word is the type.
    let raw = Raw {
        kind,
        lower: word(bytes, 4),
        port: word(bytes, 12),
        node: word(bytes, 16),
        service: word(bytes, 20),
    };
    match kind {
        PUBLISHED | WITHDRAWN => Some(raw),
        SUBSCR_TIMEOUT => None,
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PEER: TipcAddress = TipcAddress(0x0100_101d);
    const OTHER: u32 = 0x0100_1063;

    /// The bytes as a little-endian kernel has them.
    #[cfg(target_endian = "little")]
    #[test]
    fn a_subscription_and_an_event() {
        #[rustfmt::skip]
        let golden = [
            0x81, 0x65, 0x72, 0x64,  0x1d, 0x10, 0x00, 0x01,  0x1d, 0x10, 0x00, 0x01,
            0xff, 0xff, 0xff, 0xff,  0x01, 0x00, 0x00, 0x00,  0, 0, 0, 0, 0, 0, 0, 0,
        ];
        assert_eq!(subscription(PRESENCE, PEER.0, PEER.0), golden);
        #[rustfmt::skip]
        let mut event = [
            0x02, 0x00, 0x00, 0x00,  0x1d, 0x10, 0x00, 0x01,  0x1d, 0x10, 0x00, 0x01,
            0x4d, 0x00, 0x00, 0x00,  0x1d, 0x10, 0x00, 0x01,
            0x81, 0x65, 0x72, 0x64,  0x1d, 0x10, 0x00, 0x01,  0x1d, 0x10, 0x00, 0x01,
            0xff, 0xff, 0xff, 0xff,  0x01, 0x00, 0x00, 0x00,  0, 0, 0, 0, 0, 0, 0, 0,
        ];
        let raw = Raw { kind: WITHDRAWN, lower: PEER.0, port: 77, node: PEER.0, service: PRESENCE };
        assert_eq!(decode(&event), Some(raw));
        event[0] = 3;
        assert_eq!(decode(&event), None);
        event[0] = 9;
        assert_eq!(decode(&event), None);
    }

    fn told(facts: &mut Facts, kind: u32, service: u32, port: u32, node: u32, lower: u32) -> Option<Event> {
        facts.take(&Raw { kind, lower, port, node, service }, PEER)
    }

    /// A process has two sockets, so its name is published twice; it is gone when the last is withdrawn.
    #[test]
    fn only_the_peers_own_publications_count() {
        let mut facts = Facts::default();
        let mut name = |kind, port, node| told(&mut facts, kind, PRESENCE, port, node, PEER.0);
        assert_eq!(name(PUBLISHED, 5, OTHER), None, "another node has the peer's name");
        assert_eq!(name(PUBLISHED, 7, PEER.0), Some(Event::Process { present: true }));
        assert_eq!(name(PUBLISHED, 8, PEER.0), None);
        assert_eq!(name(WITHDRAWN, 5, OTHER), None);
        assert_eq!(name(WITHDRAWN, 7, PEER.0), None);
        assert_eq!(name(WITHDRAWN, 8, PEER.0), Some(Event::Process { present: false }));
        assert_eq!(facts.all()[1], Event::Process { present: false });
    }

    #[test]
    fn nodes_and_links_of_others_are_not_ours() {
        let mut facts = Facts::default();
        assert_eq!(told(&mut facts, PUBLISHED, NODE_STATE, 0, OTHER, OTHER), None);
        assert_eq!(told(&mut facts, PUBLISHED, LINK_STATE, 0, OTHER, OTHER), None);
        let reached = told(&mut facts, PUBLISHED, NODE_STATE, 0, PEER.0, PEER.0);
        assert_eq!(reached, Some(Event::Node { reachable: true }));
        // Whatever it is: the kernel is asked.
        for kind in [PUBLISHED, WITHDRAWN] {
            assert_eq!(told(&mut facts, kind, LINK_STATE, 1, PEER.0, PEER.0), Some(Event::Links));
        }
        // What was not told by the time the answers are complete is not there.
        let all = [Event::Node { reachable: true }, Event::Process { present: false }, Event::Links];
        assert_eq!(facts.all(), all);
    }
}
