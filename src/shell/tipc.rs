//! TIPC: heartbeats over RDM between named services, and the topology service's word of processes, nodes and links.
//!
//! The `tipc` crate gives no descriptor to wait for and no topology; so: socket2's sockets, the kernel's structures
//! (linux/tipc.h) laid out here byte by byte, tokio's event loop. Nothing here waits.
//!
//! **Streams.** The kernel sends what leaves a socket over one of a node's two active links, chosen by the parity of
//! the socket's own reference (net/tipc/node.c: `active_links[selector & 1]`). So there are two sockets, one of each
//! parity: every heartbeat goes out by both, and with both links up it travels both. Which of them a given datagram
//! took, nobody says: a link's state comes from the topology service.
//!
//! TIPC is not trusted: the datagrams are the authenticated ones of every transport.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::AsRawFd;
use std::time::Duration;

use socket2::{Domain, Protocol, SockAddr, SockAddrStorage, SockRef, Socket, Type};

use super::ready::Ready;
use crate::config::{Tipc, TipcAddress};
use crate::logic::time::Moment;
use crate::logic::wire::LENGTH;

/// AF_TIPC of linux/socket.h.
const AF_TIPC: libc::c_int = 30;
/// The service type of dre's election processes: "dre" in ASCII and the version of this use. Types below 64 are the kernel's.
const SERVICE: u32 = 0x6472_6501;
/// linux/tipc.h: reserved service types of the topology service.
const TOP_SRV: u32 = 1;
const LINK_STATE: u32 = 2;
/// `struct tipc_subscr` and `struct tipc_event`.
const SUBSCR: usize = 28;
const EVENT: usize = 48;
/// enum tipc_socket_addr type.
const SERVICE_RANGE: u8 = 1;
const SERVICE_ADDR: u8 = 2;
const CLUSTER_SCOPE: i8 = 2;
const NODE_SCOPE: i8 = 3;
/// One event for each publication; one for the first and the last.
const SUB_PORTS: u32 = 1;
const SUB_SERVICE: u32 = 2;
const PUBLISHED: u32 = 1;
const WITHDRAWN: u32 = 2;
const SUBSCR_TIMEOUT: u32 = 3;
/// Datagrams taken in one turn.
const TURN_MAX: usize = 16;
const RETRY: Duration = Duration::from_millis(500);
/// Discovery messages older than this say nothing of now.
const SOUGHT_WITHIN: Duration = Duration::from_secs(6);

/// A `struct sockaddr_tipc`, 16 bytes: family, kind, scope, then three words.
fn address(kind: u8, scope: i8, words: [u32; 3]) -> io::Result<SockAddr> {
    let mut bytes = [0u8; 16];
    let family = u16::try_from(AF_TIPC).unwrap_or(30);
    bytes[..2].copy_from_slice(&family.to_ne_bytes());
    bytes[2] = kind;
    bytes[3] = scope.to_ne_bytes()[0];
    for (n, word) in words.iter().enumerate() {
        bytes[4 + n * 4..8 + n * 4].copy_from_slice(&word.to_ne_bytes());
    }
    from_bytes(&bytes)
}

/// socket2 takes addresses of families it does not know as raw storage.
fn from_bytes(bytes: &[u8; 16]) -> io::Result<SockAddr> {
    let mut storage = SockAddrStorage::zeroed();
    // SAFETY: sockaddr_storage is larger than 16 bytes and has no invalid bit patterns; SockAddr gets the length written.
    unsafe {
        std::ptr::copy_nonoverlapping(bytes.as_ptr(), (&raw mut storage).cast::<u8>(), bytes.len());
        Ok(SockAddr::new(storage, 16))
    }
}

/// The 16 bytes of an address the kernel gave.
fn to_bytes(address: &SockAddr) -> [u8; 16] {
    let mut bytes = [0; 16];
    let len = (address.len() as usize).min(16);
    // SAFETY: the storage behind `as_ptr` holds at least `len` initialised bytes.
    unsafe { std::ptr::copy_nonoverlapping(address.as_ptr().cast::<u8>(), bytes.as_mut_ptr(), len) };
    bytes
}

fn word(bytes: &[u8], at: usize) -> u32 {
    let mut four = [0; 4];
    four.copy_from_slice(&bytes[at..at + 4]);
    u32::from_ne_bytes(four)
}

fn socket(kind: Type) -> io::Result<Socket> {
    let socket = Socket::new(Domain::from(AF_TIPC), kind, None).map_err(|error| match error.raw_os_error() {
        Some(libc::EAFNOSUPPORT) => io::Error::new(
            io::ErrorKind::Unsupported,
            "the kernel has no TIPC; modprobe tipc (Debian: linux-image-amd64 has the module, the cloud kernels do not), \
             or write transport = \"udp\" in [heartbeat]",
        ),
        Some(libc::EACCES | libc::EPERM) => {
            io::Error::new(io::ErrorKind::PermissionDenied, format!("TIPC sockets are refused: {error}"))
        }
        _ => error,
    })?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

/// Whether this kernel has TIPC (the module is loaded by asking, where it may be); the error says what to do.
pub fn available() -> io::Result<()> {
    socket(Type::SEQPACKET).map(drop)
}

/// SOL_TIPC options, which socket2 and nix do not name.
fn option(socket: &Socket, name: libc::c_int, value: libc::c_int) -> io::Result<()> {
    let size = libc::socklen_t::try_from(size_of::<libc::c_int>()).unwrap_or(4);
    // SAFETY: the descriptor is open for the whole call, the pointer is to a c_int and the length says so.
    let rc = unsafe {
        libc::setsockopt(socket.as_raw_fd(), libc::SOL_TIPC, name, (&raw const value).cast(), size)
    };
    if rc == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// This socket's reference; its parity chooses the link.
fn reference(socket: &Socket) -> io::Result<u32> {
    Ok(word(&to_bytes(&socket.local_addr()?), 4))
}

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

fn receive(socket: &Socket, buffer: &mut [u8]) -> io::Result<usize> {
    let mut raw = [MaybeUninit::<u8>::uninit(); 512];
    let room = buffer.len().min(raw.len());
    let len = socket.recv(&mut raw[..room])?;
    for (to, from) in buffer.iter_mut().zip(&raw[..len]) {
        // SAFETY: the kernel has written the first `len` bytes.
        *to = unsafe { from.assume_init() };
    }
    Ok(len)
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

/// Who speaks TIPC on the bearers, read from discovery messages on the wire: the kernel drops those of other networks
/// without a word, and an operator needs one. Open only while something is wrong.
pub struct Discovery {
    network_id: u32,
    local: TipcAddress,
    peer: Option<TipcAddress>,
    bearers: Vec<Listened>,
    socket: Option<Socket>,
}

/// A bearer's interface, and how lately the peer looked for neighbours there.
struct Listened {
    interface: String,
    index: u32,
    sought: Vec<Moment>,
}

/// How the wire explains what is wrong.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// Somebody of another network, or with our own address.
    pub strange: Option<String>,
    /// A bearer of the peer is on the wrong network.
    pub crossed: Option<String>,
}

impl Discovery {
    /// Closed.
    pub fn new(tipc: &Tipc) -> Self {
        let bearers = tipc.bearers.iter().map(|b| Listened {
            interface: b.interface.clone(),
            index: nix::net::if_::if_nametoindex(b.interface.as_str()).unwrap_or(0),
            sought: vec![],
        });
        let (network_id, local, peer) = (tipc.network_id, tipc.local, tipc.peer);
        Self { network_id, local, peer, bearers: bearers.collect(), socket: None }
    }

    /// What has come since the last look. `up`: the kernel's links, by bearer.
    pub fn look(&mut self, now: Moment, up: &[bool]) -> Seen {
        self.listen(now).map_or_else(Seen::default, |strange| {
            let crossed = self.crossed(now, up);
            Seen { strange, crossed }
        })
    }

    /// Reads what is there; `None` if the socket is not to be had.
    fn listen(&mut self, now: Moment) -> Option<Option<String>> {
        if self.socket.is_none() {
            // ETH_P_TIPC of linux/if_ether.h; SOCK_DGRAM: without the Ethernet header.
            let protocol = Protocol::from(i32::from(0x88ca_u16.to_be()));
            let socket = Socket::new(Domain::PACKET, Type::DGRAM, Some(protocol)).ok()?;
            socket.set_nonblocking(true).ok()?;
            self.socket = Some(socket);
        }
        let socket = self.socket.as_ref()?;
        let mut said = None;
        let mut frame = [MaybeUninit::<u8>::uninit(); 64];
        for _ in 0..256 {
            let Ok((len, from)) = socket.recv_from(&mut frame) else { break };
            // SAFETY: the kernel has written the first `len` bytes.
            let bytes: Vec<u8> = frame[..len.min(64)].iter().map(|b| unsafe { b.assume_init() }).collect();
            // struct sockaddr_ll: the interface's index is its second word.
            let index = word(&to_bytes(&from), 4);
            let Some(bearer) = self.bearers.iter_mut().find(|b| b.index == index) else { continue };
            let Some((sender, id)) = discovery(&bytes) else { continue };
            said = strange(sender, id, &bearer.interface, self.network_id, self.local).or(said);
            if Some(sender) == self.peer && id == self.network_id {
                bearer.sought.push(now);
            }
        }
        Some(said)
    }

    /// A bearer whose link is up asks for neighbours once a minute (net/tipc/discover.c: TIPC_DISC_SLOW); one that has found
    /// nobody asks every second. So a peer that goes on asking where its link is up, while another link is down, has two bearers
    /// on this network.
    fn crossed(&mut self, now: Moment, up: &[bool]) -> Option<String> {
        for bearer in &mut self.bearers {
            bearer.sought.retain(|at| now.since(*at) < SOUGHT_WITHIN);
        }
        let down = up.iter().position(|up| !up)?;
        let busy = self.bearers.iter().zip(up).find(|(b, up)| **up && b.sought.len() >= 3)?.0;
        Some(format!(
            "the peer looks for a neighbour on {} though the link there is up, and the link on {} is down: its bearer is \
             cabled to the network of {0}; compare the cables with [heartbeat.tipc] bearers",
            busy.interface, self.bearers[down].interface
        ))
    }

    pub fn close(&mut self) {
        self.socket = None;
        for bearer in &mut self.bearers {
            bearer.sought.clear();
        }
    }
}

/// Sender and network id of a discovery message. net/tipc/msg.h: words of 32 bits in network order; the user in bits 25
/// to 28 of word 0 (13 = LINK_CONFIG), the sender in word 3, the network id in word 4.
fn discovery(frame: &[u8]) -> Option<(TipcAddress, u32)> {
    let at = |n: usize| Some(u32::from_be_bytes(*frame.get(n * 4..n * 4 + 4)?.first_chunk::<4>()?));
    let (first, sender, id) = (at(0)?, at(3)?, at(4)?);
    (first >> 25 & 0xf == 13).then_some((TipcAddress(sender), id))
}

/// What is strange about who looks for neighbours.
fn strange(
    sender: TipcAddress,
    id: u32,
    interface: &str,
    network_id: u32,
    local: TipcAddress,
) -> Option<String> {
    if id != network_id {
        return Some(format!(
            "on {interface} TIPC node {sender} speaks for network {id}, this node is of network {network_id}: nodes of different \
             networks do not talk; make network_id in [heartbeat.tipc] the same on both nodes and reboot the changed one"
        ));
    }
    (sender == local).then(|| {
        format!(
            "on {interface} another machine has this node's TIPC address {local}; give each node its own tipc = \"Z.C.N\" \
             and reboot the changed one"
        )
    })
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
    fn addresses_are_laid_out_as_the_kernels_header_says() {
        let bound =
            address(SERVICE_RANGE, CLUSTER_SCOPE, [SERVICE, 0x0100_1017, 0x0100_1017]).expect("an address");
        let mut golden = vec![];
        golden.extend(30u16.to_ne_bytes());
        golden.extend([1, 2]);
        golden.extend(words(&[0x6472_6501, 0x0100_1017, 0x0100_1017]));
        assert_eq!(to_bytes(&bound).to_vec(), golden);
        assert_eq!(bound.len(), 16);
        assert_eq!(bound.family(), 30);
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

    #[test]
    fn a_discovery_message_of_another_network_or_of_our_own_address_is_strange() {
        let message = |user: u32, sender: u32, id: u32| -> Vec<u8> {
            [2 << 29 | user << 25, 0, 0, sender, id, 0].iter().flat_map(|w: &u32| w.to_be_bytes()).collect()
        };
        let judge = |bytes: &[u8]| {
            let (sender, id) = discovery(bytes)?;
            strange(sender, id, "eth3", 1983, TipcAddress(0x0100_1017))
        };
        assert_eq!(judge(&message(13, 0x0100_101d, 1983)), None);
        let text = judge(&message(13, 0x0100_101d, 4711)).expect("another network");
        assert!(text.contains("eth3") && text.contains("network 4711") && text.contains("1.1.29"), "{text}");
        let text = judge(&message(13, 0x0100_1017, 1983)).expect("the same address");
        assert!(text.contains("this node's TIPC address 1.1.23"), "{text}");
        // Another user's message, and a short one.
        assert_eq!(judge(&message(7, 0x0100_1017, 4711)), None);
        assert_eq!(judge(&message(13, 0, 0)[..19]), None);
    }

    #[test]
    fn a_peer_that_goes_on_asking_where_its_link_is_up_is_cabled_wrong() {
        let at = |ms: u64| Moment::from_nanos(ms * 1_000_000);
        let listened = |interface: &str, sought: &[u64]| Listened {
            interface: interface.into(),
            index: 0,
            sought: sought.iter().map(|ms| at(*ms)).collect(),
        };
        let mut discovery = Discovery {
            network_id: 1983,
            local: TipcAddress(1),
            peer: Some(TipcAddress(2)),
            bearers: vec![listened("eth3", &[1000, 2000, 3000]), listened("eth4", &[])],
            socket: None,
        };
        assert_eq!(discovery.crossed(at(3500), &[true, true]), None);
        let text = discovery.crossed(at(3500), &[true, false]).expect("crossed");
        assert!(text.contains("on eth3") && text.contains("link on eth4 is down"), "{text}");
        assert_eq!(discovery.crossed(at(7500), &[true, false]), None, "long ago");
    }

    /// Where the kernel has no TIPC the error says what to do. Where it has, sockets open: nothing to see here.
    #[test]
    fn a_kernel_without_tipc_is_named_with_the_alternative() {
        if let Err(error) = socket(Type::SEQPACKET) {
            let text = error.to_string();
            assert!(text.contains("modprobe tipc") && text.contains("transport = \"udp\""), "{text}");
        }
    }
}
