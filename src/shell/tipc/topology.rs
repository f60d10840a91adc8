//! The topology service: the kernel's word of the peer's process, of its node and of each link.
//!
//! The service tells of what is there, never of what is not. So the subscriptions end with one for a name that is always
//! there (the service's own): when that is answered, all answers to the others have come, and what was not told is absent.
//! Until then nothing is said: a connection that broke and is back would else show every link down for a moment.

use std::collections::BTreeSet;
use std::io;
use std::os::fd::AsRawFd;
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
/// This kernel's own service answers within a millisecond or two.
const ANSWERS_WITHIN: Duration = Duration::from_secs(2);

/// What the kernel says of the peer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// The peer's election process is there, or is not any more.
    Process { present: bool },
    /// Some link reaches the peer's node, or none does any more.
    Node { reachable: bool },
    /// A link to the peer: index of the bearer in the configuration.
    Link { bearer: usize, up: bool },
    /// The interface of the peer at which the link on this bearer ends.
    Ends { bearer: usize, at: String },
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
    error: Option<String>,
}

/// What the service has said on this connection.
#[derive(Debug, Default)]
struct Facts {
    interfaces: Vec<String>,
    /// References of the peer's sockets that have its name.
    names: BTreeSet<u32>,
    reachable: bool,
    links: Vec<bool>,
    /// Where each link ends at the peer.
    ends: Vec<Option<String>>,
    /// Kernel's bearer number → bearer of the configuration, as links came up.
    known: Vec<(u16, usize)>,
}

impl Topology {
    pub fn open(tipc: &Tipc, now: Moment) -> Self {
        let interfaces = tipc.bearers.iter().map(|b| b.interface.clone()).collect();
        let mut topology = Self {
            peer: tipc.peer,
            wire: Wire::Closed,
            retry_at: now,
            facts: Facts::new(interfaces),
            lost: false,
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
        self.wire = Wire::Closed;
        self.facts = Facts::new(std::mem::take(&mut self.facts.interfaces));
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
            loop {
                match receive(&connection, &mut buffer) {
                    Ok(EVENT) => {}
                    Ok(len) => return Err(io::Error::other(format!("an event of {len} bytes"))),
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                    Err(error) => return Err(error),
                }
                let Some(event) = decode(&buffer) else { continue };
                let name = |number| link_name(&connection, peer, number);
                let told = self.facts.take(&event, peer, name);
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
            _ if self.lost => {}
            Wire::Connecting(ready, _) => ready.writable().await,
            Wire::Asking(ready, _) | Wire::Open(ready) => ready.readable().await,
            Wire::Closed => std::future::pending().await,
        }
    }
}

impl Facts {
    fn new(interfaces: Vec<String>) -> Self {
        let (links, ends) = (vec![false; interfaces.len()], vec![None; interfaces.len()]);
        Self { links, ends, interfaces, ..Self::default() }
    }

    /// Takes an event in; what changed by it. `name`: a link's name, by this node's bearer number.
    fn take(
        &mut self,
        event: &Raw,
        peer: TipcAddress,
        name: impl FnOnce(u16) -> Option<String>,
    ) -> Vec<Event> {
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
                if present == before { vec![] } else { vec![Event::Process { present }] }
            }
            NODE_STATE if event.lower == peer.0 => {
                self.reachable = there;
                vec![Event::Node { reachable: there }]
            }
            LINK_STATE if event.lower == peer.0 => self.link(event, there, name),
            _ => vec![],
        }
    }

    fn link(&mut self, event: &Raw, up: bool, name: impl FnOnce(u16) -> Option<String>) -> Vec<Event> {
        // The bearer's number here in the lower half, the peer's in the upper.
        let number = (event.port & 0xffff) as u16;
        let mut told = vec![];
        if let Some(name) = up.then(|| name(number)).flatten()
            && let Some((bearer, at)) = ends_of(&name, &self.interfaces)
        {
            self.known.retain(|(other, _)| *other != number);
            self.known.push((number, bearer));
            self.ends[bearer] = Some(at.clone());
            told.push(Event::Ends { bearer, at });
        }
        if let Some((_, bearer)) = self.known.iter().find(|(other, _)| *other == number) {
            if let Some(link) = self.links.get_mut(*bearer) {
                *link = up;
            }
            told.push(Event::Link { bearer: *bearer, up });
        }
        told
    }

    /// All of it, once it is complete.
    fn all(&self) -> Vec<Event> {
        let node = Event::Node { reachable: self.reachable };
        let mut all = vec![node, Event::Process { present: !self.names.is_empty() }];
        for (bearer, (up, ends)) in self.links.iter().zip(&self.ends).enumerate() {
            all.extend(ends.clone().map(|at| Event::Ends { bearer, at }));
            all.push(Event::Link { bearer, up: *up });
        }
        all
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

/// `struct tipc_sioc_ln_req` of linux/tipc.h: peer, bearer, name of at most 68 bytes.
#[repr(C)]
struct LinkName {
    peer: u32,
    bearer: u32,
    name: [u8; 68],
}

/// SIOCGETLINKNAME: "1.1.23:eth3-1.1.29:eth3".
fn link_name(socket: &Socket, peer: TipcAddress, bearer: u16) -> Option<String> {
    let mut request = LinkName { peer: peer.0, bearer: u32::from(bearer), name: [0; 68] };
    // SAFETY: the request is the structure that this ioctl reads and writes, alive for the whole call.
    let rc = unsafe { libc::ioctl(socket.as_raw_fd(), 0x89e0, &raw mut request) };
    let end = request.name.iter().position(|b| *b == 0).unwrap_or(68);
    (rc == 0).then(|| String::from_utf8_lossy(&request.name[..end]).into_owned())
}

/// Which of our interfaces a link's name begins at, and the peer's interface at which it ends: NODE:INTERFACE-NODE:INTERFACE,
/// where a node may contain anything but a colon.
fn ends_of(name: &str, interfaces: &[String]) -> Option<(usize, String)> {
    let after = name.split_once(':')?.1;
    // "eth3-1-…" begins with "eth3-" too: the longest that fits is meant.
    let fits = |interface: &str| after.strip_prefix(interface).is_some_and(|rest| rest.starts_with('-'));
    let all = interfaces.iter().enumerate().filter(|(_, interface)| fits(interface));
    let (bearer, _) = all.max_by_key(|(_, interface)| interface.len())?;
    Some((bearer, after.rsplit_once(':')?.1.to_owned()))
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

    #[test]
    fn a_links_name_tells_its_ends() {
        let ours = ["eth3".to_owned(), "eth4".to_owned(), "eth3-1".to_owned()];
        let ends = |name| ends_of(name, &ours);
        assert_eq!(ends("1.1.23:eth4-1.1.29:eth4"), Some((1, "eth4".into())));
        assert_eq!(ends("node-a:eth3-node-b:eth4"), Some((0, "eth4".into())));
        assert_eq!(ends("1001017:eth3-1-100101d:eth3-1"), Some((2, "eth3-1".into())));
        assert_eq!(ends("1001017:eth5-100101d:eth3"), None);
        assert_eq!(ends("nonsense"), None);
    }

    fn facts() -> Facts {
        Facts::new(vec!["eth3".into(), "eth4".into()])
    }

    fn told(facts: &mut Facts, kind: u32, service: u32, port: u32, node: u32, lower: u32) -> Vec<Event> {
        let name = |number| {
            Some(if number == 0 { "1.1.23:eth3-1.1.29:eth3" } else { "1.1.23:eth4-1.1.29:eth3" }.to_owned())
        };
        facts.take(&Raw { kind, lower, port, node, service }, PEER, name)
    }

    /// A process has two sockets, so its name is published twice; it is gone when the last is withdrawn.
    #[test]
    fn only_the_peers_own_publications_count() {
        let mut facts = facts();
        let mut name = |kind, port, node| told(&mut facts, kind, PRESENCE, port, node, PEER.0);
        assert_eq!(name(PUBLISHED, 5, OTHER), vec![], "another node has the peer's name");
        assert_eq!(name(PUBLISHED, 7, PEER.0), [Event::Process { present: true }]);
        assert_eq!(name(PUBLISHED, 8, PEER.0), vec![]);
        assert_eq!(name(WITHDRAWN, 5, OTHER), vec![]);
        assert_eq!(name(WITHDRAWN, 7, PEER.0), vec![]);
        assert_eq!(name(WITHDRAWN, 8, PEER.0), [Event::Process { present: false }]);
        assert_eq!(facts.all()[1], Event::Process { present: false });
    }

    #[test]
    fn nodes_and_links_of_others_are_not_ours() {
        let mut facts = facts();
        assert_eq!(told(&mut facts, PUBLISHED, NODE_STATE, 0, OTHER, OTHER), vec![]);
        assert_eq!(told(&mut facts, PUBLISHED, LINK_STATE, 0, OTHER, OTHER), vec![]);
        assert_eq!(
            told(&mut facts, PUBLISHED, NODE_STATE, 0, PEER.0, PEER.0),
            [Event::Node { reachable: true }]
        );
        assert_eq!(
            told(&mut facts, PUBLISHED, LINK_STATE, 1, PEER.0, PEER.0),
            [Event::Ends { bearer: 1, at: "eth3".into() }, Event::Link { bearer: 1, up: true }]
        );
        // What was not told by the time the answers are complete is not there.
        assert_eq!(
            facts.all(),
            [
                Event::Node { reachable: true },
                Event::Process { present: false },
                Event::Link { bearer: 0, up: false },
                Event::Ends { bearer: 1, at: "eth3".into() },
                Event::Link { bearer: 1, up: true },
            ]
        );
        assert_eq!(
            told(&mut facts, WITHDRAWN, LINK_STATE, 1, PEER.0, PEER.0),
            [Event::Link { bearer: 1, up: false }]
        );
    }
}
