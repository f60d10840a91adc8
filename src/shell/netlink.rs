//! Interfaces, addresses, routes and the gate's hooks, by rtnetlink.
//!
//! One socket asks, another listens. The asking one is used synchronously: the kernel does the work inside `sendmsg` and
//! the answer is there when it returns, so nothing waits, and what was asked first is done first. That order is
//! what dre-vip needs between gate, address and announcement, and what the `rtnetlink` crate (requests
//! queued to a task of their own) does not give; its message types are used.
//!
//! Our tag on addresses (IFA_PROTO) and routes (RTPROT): whatever carries it and is not wanted is an
//! orphan of a crash and goes.

use std::collections::BTreeMap;
use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::time::Duration;

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_REPLACE, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage,
    NetlinkPayload,
};
use netlink_packet_route::address::{
    AddressAttribute, AddressFlags, AddressMessage, AddressProtocol, CacheInfo,
};
use netlink_packet_route::link::{LinkAttribute, LinkFlags, LinkMessage};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};
use nix::sys::socket::{setsockopt, sockopt};
use nix::sys::time::TimeVal;

use super::gate::Way;
use super::ready::Ready;
use crate::config::Vip;

/// IFA_PROTO and RTPROT of everything of ours. Unused in linux/if_addr.h, linux/rtnetlink.h and iproute2's tables.
pub const TAG: u8 = 0xd7;

/// An answer that takes longer is lost (an overrun of the socket); the caller looks again by a dump.
const PATIENCE: Duration = Duration::from_millis(500);

/// linux/rtnetlink.h
const RTM_NEWQDISC: u16 = 36;
const RTM_DELQDISC: u16 = 37;
const RTM_NEWTFILTER: u16 = 44;
const RTM_DELTFILTER: u16 = 45;
const GROUPS: [u32; 5] = [1, 4, 5, 9, 7]; // LINK, TC, IPV4_IFADDR, IPV6_IFADDR, IPV4_ROUTE
/// linux/pkt_sched.h
const TC_H_CLSACT: u32 = 0xffff_fff1;
const CLSACT_HANDLE: u32 = 0xffff_0000;
/// Of our filters: leaves lower numbers, which run first, to others.
const PRIORITY: u32 = 0xd7e0;

/// An interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Interface {
    pub index: u32,
    pub name: String,
    pub mac: [u8; 6],
    /// Up, and the cable carries.
    pub carrier: bool,
}

/// An address on an interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Address {
    pub index: u32,
    pub address: IpAddr,
    pub prefix: u8,
    pub ours: bool,
    /// IPv6: not usable yet.
    pub tentative: bool,
}

/// What the listening socket heard.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Heard {
    Interface(Interface),
    InterfaceGone {
        index: u32,
    },
    Address(Address),
    AddressGone(Address),
    /// A queueing discipline or filter of this interface went away.
    Hook {
        index: u32,
    },
    RouteGone,
    /// The kernel had more to say than the socket could hold: look at everything again.
    Overrun,
}

/// Asks.
pub struct Kernel {
    socket: Socket,
    sequence: u32,
}

impl Kernel {
    pub fn new() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        // A dump of thousands of addresses must fit, or its tail is lost.
        let _ = socket.set_rx_buf_sz(4_u32 << 20);
        let patience = TimeVal::new(0, i64::try_from(PATIENCE.as_micros()).unwrap_or(500_000));
        setsockopt(&socket.as_fd(), sockopt::ReceiveTimeout, &patience)?;
        Ok(Self { socket, sequence: 0 })
    }

    fn ask(&mut self, message: RouteNetlinkMessage, flags: u16) -> io::Result<Vec<RouteNetlinkMessage>> {
        let mut header = NetlinkHeader::default();
        header.flags = NLM_F_REQUEST | flags;
        let mut packet = NetlinkMessage::new(header, NetlinkPayload::from(message));
        self.sequence = self.sequence.wrapping_add(1);
        packet.header.sequence_number = self.sequence;
        packet.finalize();
        let mut bytes = vec![0; packet.buffer_len()];
        packet.serialize(&mut bytes);
        self.exchange(&bytes)
    }

    fn exchange(&mut self, bytes: &[u8]) -> io::Result<Vec<RouteNetlinkMessage>> {
        self.socket.send(bytes, 0)?;
        let mut answers = vec![];
        loop {
            let (data, from) = self.socket.recv_from_full()?;
            // Anybody may send to a netlink socket; only the kernel is port 0.
            if from.port_number() != 0 {
                continue;
            }
            let mut rest = &data[..];
            while rest.len() >= 16 {
                let len = u32::from_ne_bytes([rest[0], rest[1], rest[2], rest[3]]) as usize;
                if len < 16 || len > rest.len() {
                    break;
                }
                let (one, after) = rest.split_at(len);
                rest = after.get((len.next_multiple_of(4) - len).min(after.len())..).unwrap_or(&[]);
                let sequence = u32::from_ne_bytes([one[8], one[9], one[10], one[11]]);
                if sequence != self.sequence {
                    continue;
                }
                match NetlinkMessage::<RouteNetlinkMessage>::deserialize(one).map(|m| m.payload) {
                    Ok(NetlinkPayload::Error(error)) => {
                        return match error.code {
                            None => Ok(answers),
                            Some(code) => Err(io::Error::from_raw_os_error(code.get().abs())),
                        };
                    }
                    Ok(NetlinkPayload::Done(_)) => return Ok(answers),
                    Ok(NetlinkPayload::InnerMessage(inner)) => answers.push(inner),
                    // A message of a newer kernel that the parser does not know: not ours to use.
                    Ok(_) | Err(_) => {}
                }
            }
        }
    }

    /// All interfaces by name.
    pub fn interfaces(&mut self) -> io::Result<BTreeMap<String, Interface>> {
        let all = self.ask(RouteNetlinkMessage::GetLink(LinkMessage::default()), NLM_F_DUMP)?;
        let links = all.into_iter().filter_map(|m| match m {
            RouteNetlinkMessage::NewLink(link) => interface(&link),
            _ => None,
        });
        Ok(links.map(|i| (i.name.clone(), i)).collect())
    }

    pub fn addresses(&mut self) -> io::Result<Vec<Address>> {
        let all = self.ask(RouteNetlinkMessage::GetAddress(AddressMessage::default()), NLM_F_DUMP)?;
        Ok(all
            .into_iter()
            .filter_map(|m| match m {
                RouteNetlinkMessage::NewAddress(a) => address(&a),
                _ => None,
            })
            .collect())
    }

    /// Brings a VIP up; what is there already is no error. `lifetime` in whole seconds, where the kernel has no gate.
    pub fn add_vip(&mut self, vip: &Vip, index: u32, lifetime: Option<u32>) -> io::Result<()> {
        let mut message = vip_message(vip, index);
        if let Some(seconds) = lifetime {
            let mut cache = CacheInfo::default();
            cache.ifa_valid = seconds;
            cache.ifa_preferred = seconds;
            message.attributes.push(AddressAttribute::CacheInfo(cache));
        }
        let flags = NLM_F_ACK | NLM_F_CREATE | NLM_F_REPLACE;
        self.ask(RouteNetlinkMessage::NewAddress(message), flags).map(drop)
    }

    /// Takes an address away; `false` if it was not there.
    pub fn remove_address(&mut self, ip: IpAddr, prefix: u8, index: u32) -> io::Result<bool> {
        let mut message = AddressMessage::default();
        message.header.family = if ip.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
        message.header.prefix_len = prefix;
        message.header.index = index;
        message.attributes = vec![AddressAttribute::Local(ip)];
        match self.ask(RouteNetlinkMessage::DelAddress(message), NLM_F_ACK) {
            Ok(_) => Ok(true),
            Err(error) if matches!(error.raw_os_error(), Some(libc::EADDRNOTAVAIL | libc::ENODEV)) => {
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }

    /// A host route to an arbitrator over the neutral interface, so that no other route decides the way of the ping.
    pub fn host_route(&mut self, to: IpAddr, index: u32, add: bool) -> io::Result<()> {
        let mut message = RouteMessage::default();
        let max = if to.is_ipv4() { 32 } else { 128 };
        message.header.address_family = if to.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
        message.header.destination_prefix_length = max;
        message.header.table = RouteHeader::RT_TABLE_MAIN;
        message.header.protocol = RouteProtocol::Other(TAG);
        message.header.scope = if to.is_ipv4() { RouteScope::Link } else { RouteScope::Universe };
        message.header.kind = RouteType::Unicast;
        message.attributes =
            vec![RouteAttribute::Destination(RouteAddress::from(to)), RouteAttribute::Oif(index)];
        if add {
            let flags = NLM_F_ACK | NLM_F_CREATE | NLM_F_REPLACE;
            return self.ask(RouteNetlinkMessage::NewRoute(message), flags).map(drop);
        }
        match self.ask(RouteNetlinkMessage::DelRoute(message), NLM_F_ACK) {
            Err(error) if error.raw_os_error() != Some(libc::ESRCH) => Err(error),
            _ => Ok(()),
        }
    }

    /// Puts a program on an interface's way in or out; the one that an earlier process left is replaced in one step.
    pub fn attach(&mut self, index: u32, way: Way, program: &OwnedFd) -> io::Result<()> {
        let mut clsact = tc_head(index, CLSACT_HANDLE, TC_H_CLSACT, 0);
        attribute(&mut clsact, 1, b"clsact\0");
        match self.tc(RTM_NEWQDISC, NLM_F_CREATE | 0x200, &clsact) {
            // NLM_F_EXCL: one that is there, ours or another's, stays as it is.
            Err(error) if error.raw_os_error() != Some(libc::EEXIST) => return Err(error),
            _ => {}
        }
        let mut options = vec![];
        attribute(&mut options, 6, &program.as_raw_fd().to_ne_bytes()); // TCA_BPF_FD
        attribute(&mut options, 7, b"dre-gate\0"); // TCA_BPF_NAME
        attribute(&mut options, 8, &1_u32.to_ne_bytes()); // TCA_BPF_FLAGS: direct action
        let mut filter = tc_head(index, 1, hook(way), priority());
        attribute(&mut filter, 1, b"bpf\0"); // TCA_KIND
        attribute(&mut filter, 2 | 0x8000, &options); // TCA_OPTIONS, nested
        self.tc(RTM_NEWTFILTER, NLM_F_CREATE, &filter)
    }

    /// Takes our programs off an interface. The clsact discipline stays: others may use it.
    pub fn detach(&mut self, index: u32) -> io::Result<()> {
        for way in [Way::In, Way::Out] {
            let mut filter = tc_head(index, 1, hook(way), priority());
            attribute(&mut filter, 1, b"bpf\0");
            match self.tc(RTM_DELTFILTER, 0, &filter) {
                Err(error)
                    if !matches!(error.raw_os_error(), Some(libc::ENOENT | libc::EINVAL | libc::ENODEV)) =>
                {
                    return Err(error);
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn tc(&mut self, kind: u16, flags: u16, body: &[u8]) -> io::Result<()> {
        self.sequence = self.sequence.wrapping_add(1);
        let len = u32::try_from(16 + body.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
        let mut bytes = Vec::with_capacity(16 + body.len());
        bytes.extend_from_slice(&len.to_ne_bytes());
        bytes.extend_from_slice(&kind.to_ne_bytes());
        bytes.extend_from_slice(&(NLM_F_REQUEST | NLM_F_ACK | flags).to_ne_bytes());
        bytes.extend_from_slice(&self.sequence.to_ne_bytes());
        bytes.extend_from_slice(&[0; 4]);
        bytes.extend_from_slice(body);
        self.exchange(&bytes).map(drop)
    }
}

const fn hook(way: Way) -> u32 {
    match way {
        Way::In => 0xffff_fff2,
        Way::Out => 0xffff_fff3,
    }
}

const fn priority() -> u32 {
    // The protocol in the low half, in network order: every frame.
    PRIORITY << 16 | (libc::ETH_P_ALL as u16).to_be() as u32
}

/// `struct tcmsg`.
fn tc_head(index: u32, handle: u32, parent: u32, info: u32) -> Vec<u8> {
    let mut head = vec![0; 4];
    for word in [index, handle, parent, info] {
        head.extend_from_slice(&word.to_ne_bytes());
    }
    head
}

fn attribute(to: &mut Vec<u8>, kind: u16, value: &[u8]) {
    let len = u16::try_from(4 + value.len()).unwrap_or(u16::MAX);
    to.extend_from_slice(&len.to_ne_bytes());
    to.extend_from_slice(&kind.to_ne_bytes());
    to.extend_from_slice(value);
    to.resize(to.len().next_multiple_of(4), 0);
}

/// The address as the VIP asks for it: alone (/32, /128) on the wire unless label or broadcast are asked for, because the
/// loss of a primary address of a subnet would take others along.
pub fn vip_prefix(vip: &Vip) -> u8 {
    match (vip.address.addr(), vip.label.is_some() || vip.broadcast.is_some()) {
        (IpAddr::V4(_), true) => vip.address.prefix_len(),
        (IpAddr::V4(_), false) => 32,
        (IpAddr::V6(_), _) => 128,
    }
}

fn vip_message(vip: &Vip, index: u32) -> AddressMessage {
    let ip = vip.address.addr();
    let mut message = AddressMessage::default();
    message.header.family = if ip.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    message.header.prefix_len = vip_prefix(vip);
    message.header.index = index;
    // No duplicate address detection: the wire was probed before, and DAD would take a second.
    let flags = match ip {
        IpAddr::V4(_) => AddressFlags::empty(),
        IpAddr::V6(_) => AddressFlags::Nodad | AddressFlags::Noprefixroute,
    };
    message.attributes = vec![
        AddressAttribute::Local(ip),
        AddressAttribute::Address(ip),
        AddressAttribute::Flags(flags),
        AddressAttribute::Protocol(AddressProtocol::Other(TAG)),
    ];
    message.attributes.extend(vip.label.clone().map(AddressAttribute::Label));
    message.attributes.extend(vip.broadcast.map(AddressAttribute::Broadcast));
    message
}

fn interface(link: &LinkMessage) -> Option<Interface> {
    let mut found = Interface {
        index: link.header.index,
        name: String::new(),
        mac: [0; 6],
        carrier: link.header.flags.contains(LinkFlags::Up) && link.header.flags.contains(LinkFlags::LowerUp),
    };
    for attribute in &link.attributes {
        match attribute {
            LinkAttribute::IfName(name) => found.name.clone_from(name),
            LinkAttribute::Address(mac) if mac.len() == 6 => found.mac.copy_from_slice(mac),
            _ => {}
        }
    }
    (!found.name.is_empty()).then_some(found)
}

fn address(message: &AddressMessage) -> Option<Address> {
    let mut found = Address {
        index: message.header.index,
        address: IpAddr::from([0, 0, 0, 0]),
        prefix: message.header.prefix_len,
        ours: false,
        tentative: false,
    };
    let mut local = None;
    for attribute in &message.attributes {
        match attribute {
            AddressAttribute::Local(ip) => local = Some(*ip),
            AddressAttribute::Address(ip) => local = local.or(Some(*ip)),
            AddressAttribute::Protocol(protocol) => found.ours = u8::from(*protocol) == TAG,
            AddressAttribute::Flags(flags) => found.tentative = flags.contains(AddressFlags::Tentative),
            _ => {}
        }
    }
    found.address = local?;
    Some(found)
}

/// Listens.
pub struct Listener {
    socket: Socket,
    ready: Ready,
}

impl Listener {
    pub fn new() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        socket.bind_auto()?;
        for group in GROUPS {
            socket.add_membership(group)?;
        }
        socket.set_non_blocking(true)?;
        let _ = socket.set_rx_buf_sz(4_u32 << 20);
        let ready = Ready::new(socket.as_fd().try_clone_to_owned()?)?;
        Ok(Self { socket, ready })
    }

    /// Cancel safe.
    pub async fn readable(&self) {
        self.ready.readable().await;
    }

    /// Everything that was heard since.
    pub fn drain(&mut self) -> Vec<Heard> {
        let mut heard = vec![];
        loop {
            let (data, from) = match self.socket.recv_from_full() {
                Ok(got) => got,
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => {
                    heard.push(Heard::Overrun);
                    continue;
                }
                Err(_) => return heard,
            };
            if from.port_number() != 0 {
                continue;
            }
            let mut rest = &data[..];
            while rest.len() >= 16 {
                let len = u32::from_ne_bytes([rest[0], rest[1], rest[2], rest[3]]) as usize;
                if len < 16 || len > rest.len() {
                    break;
                }
                heard.extend(understand(&rest[..len]));
                rest = rest.get(len.next_multiple_of(4)..).unwrap_or(&[]);
            }
        }
    }
}

fn understand(one: &[u8]) -> Option<Heard> {
    let kind = u16::from_ne_bytes([one[4], one[5]]);
    if matches!(kind, RTM_DELQDISC | RTM_DELTFILTER) {
        let index = one.get(20..24)?;
        return Some(Heard::Hook { index: u32::from_ne_bytes([index[0], index[1], index[2], index[3]]) });
    }
    let message = NetlinkMessage::<RouteNetlinkMessage>::deserialize(one).ok()?;
    let NetlinkPayload::InnerMessage(inner) = message.payload else { return None };
    match inner {
        RouteNetlinkMessage::NewLink(link) => interface(&link).map(Heard::Interface),
        RouteNetlinkMessage::DelLink(link) => Some(Heard::InterfaceGone { index: link.header.index }),
        RouteNetlinkMessage::NewAddress(a) => address(&a).map(Heard::Address),
        RouteNetlinkMessage::DelAddress(a) => address(&a).map(Heard::AddressGone),
        RouteNetlinkMessage::DelRoute(_) => Some(Heard::RouteGone),
        _ => None,
    }
}
