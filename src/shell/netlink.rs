//! Interfaces, addresses, routes and the gate's hooks, by rtnetlink.
//!
//! One socket asks, another listens. The asking one is used synchronously (`exchange`), so what was asked first is done first. That order is
//! what dre-vip needs between gate, address and announcement, and what the `rtnetlink` crate (requests
//! queued to a task of their own) does not give; its message types are used.
//!
//! Our tag on addresses (IFA_PROTO) and routes (RTPROT): whatever carries it and is not wanted is an
//! orphan of a crash and goes. Several groups have it on one machine, so each has a mark of its own ([`Mark`]) beside it, where the
//! kernel keeps it with the thing itself: no file to be lost, and no group asks what another one wants.

use std::collections::BTreeMap;
use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, AsRawFd};

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL, NLM_F_REPLACE, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_route::address::{
    AddressAttribute, AddressFlags, AddressMessage, AddressProtocol, CacheInfo,
};
use netlink_packet_route::link::{LinkAttribute, LinkFlags, LinkMessage};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use netlink_sys::{Socket, protocols::NETLINK_ROUTE};
use sha2::{Digest, Sha256};

use super::exchange::{self, Exchange};
use super::gate::{Programs, Way};
use super::ready::Ready;
use crate::config::Vip;
use crate::logic::group::PLAIN;

/// IFA_PROTO and RTPROT of everything of ours. Unused in linux/if_addr.h, linux/rtnetlink.h and iproute2's tables.
pub const TAG: u8 = 0xd7;

/// linux/rtnetlink.h
const RTM_NEWQDISC: u16 = 36;
const RTM_DELQDISC: u16 = 37;
const RTM_NEWTFILTER: u16 = 44;
const RTM_DELTFILTER: u16 = 45;
const RTM_GETTFILTER: u16 = 46;
const GROUPS: [u32; 6] = [1, 4, 5, 9, 7, 11]; // LINK, TC, IPV4_IFADDR, IPV6_IFADDR, IPV4_ROUTE, IPV6_ROUTE
/// linux/pkt_sched.h
const TC_H_CLSACT: u32 = 0xffff_fff1;
const CLSACT_HANDLE: u32 = 0xffff_0000;
/// Of our filters: leaves lower numbers, which run first, to others.
const PRIORITY: u32 = 0xd7e0;
/// linux/ipv6_route.h: what the kernel makes of an IPv6 route without a metric.
const IP6_RT_PRIO_USER: u32 = 1024;
/// linux/pkt_cls.h
const TCA_KIND: u16 = 1;
const TCA_OPTIONS: u16 = 2;
const TCA_BPF_FD: u16 = 6;
const TCA_BPF_NAME: u16 = 7;
const TCA_BPF_FLAGS: u16 = 8;
const TCA_BPF_ID: u16 = 11;
const NESTED: u16 = 0x8000;

/// What tells a group's addresses, routes and filters from those of the other groups of this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mark {
    /// Metric of its addresses and routes; group `dre` has none. (Of an address it is the metric of the network's route, and none
    /// comes with a VIP that is alone on the wire, or is not the first address of its network.)
    metric: Option<u32>,
    /// Number of its filters, within the one list of ours.
    handle: u32,
    /// What `tc filter show` calls them.
    filter: String,
}

impl Mark {
    pub fn of(group: &str) -> Self {
        if group == PLAIN {
            return Self { metric: None, handle: 1, filter: "dre-gate".into() };
        }
        let digest = Sha256::digest(group);
        // 22 bits: no two groups of a machine meet, and above what people write by hand and the kernel by itself.
        let number = 1 << 23 | u32::from_be_bytes([0, digest[0], digest[1], digest[2]]) >> 2;
        Self { metric: Some(number), handle: number, filter: format!("dre-gate@{group}") }
    }

    /// As the kernel tells it of a route.
    const fn route_metric(&self, to: IpAddr) -> u32 {
        match (self.metric, to) {
            (Some(metric), _) => metric,
            (None, IpAddr::V4(_)) => 0,
            (None, IpAddr::V6(_)) => IP6_RT_PRIO_USER,
        }
    }
}

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
    /// It has our tag and this group's mark.
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
    /// A queueing discipline or filter of this interface went away, whoever's it was.
    Hook {
        index: u32,
    },
    /// One of our host routes went.
    RouteGone,
    /// The kernel had more to say than the socket could hold: look at everything again.
    Overrun,
}

/// What was found of the gate on an interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hook {
    There,
    /// It was not, and is now.
    PutBack,
}

/// Asks.
pub struct Kernel {
    exchange: Exchange,
    mark: Mark,
}

impl Kernel {
    pub fn new(mark: Mark) -> io::Result<Self> {
        Ok(Self { exchange: Exchange::new(NETLINK_ROUTE)?, mark })
    }

    fn ask(&mut self, message: RouteNetlinkMessage, flags: u16) -> io::Result<Vec<RouteNetlinkMessage>> {
        self.exchange.ask(message, flags)
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
                RouteNetlinkMessage::NewAddress(a) => address(&a, &self.mark),
                _ => None,
            })
            .collect())
    }

    /// Brings a VIP up; what is there already is no error. `lifetime` in whole seconds, where the kernel has no gate.
    pub fn add_vip(&mut self, vip: &Vip, index: u32, lifetime: Option<u32>) -> io::Result<()> {
        let mut message = vip_message(vip, index, &self.mark);
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
        let metric = self.mark.route_metric(to);
        if metric != 0 {
            message.attributes.push(RouteAttribute::Priority(metric));
        }
        // Without a metric the kernel takes away whichever comes first: another group's, if this one's is not there.
        if !add && !self.tagged_routes()?.contains(&(to, index)) {
            return Ok(());
        }
        if add {
            let flags = NLM_F_ACK | NLM_F_CREATE | NLM_F_REPLACE;
            return self.ask(RouteNetlinkMessage::NewRoute(message), flags).map(drop);
        }
        match self.ask(RouteNetlinkMessage::DelRoute(message), NLM_F_ACK) {
            Err(error) if error.raw_os_error() != Some(libc::ESRCH) => Err(error),
            _ => Ok(()),
        }
    }

    /// Every host route with our tag and mark: where it leads, over which interface.
    pub fn tagged_routes(&mut self) -> io::Result<Vec<(IpAddr, u32)>> {
        let mut found = vec![];
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            let mut message = RouteMessage::default();
            message.header.address_family = family;
            let all = self.ask(RouteNetlinkMessage::GetRoute(message), NLM_F_DUMP)?;
            found.extend(all.iter().filter_map(|m| match m {
                RouteNetlinkMessage::NewRoute(route) => tagged_route(route, &self.mark),
                _ => None,
            }));
        }
        Ok(found)
    }

    /// Sees to it that both programs are on an interface, and that they are these: what an earlier process left is replaced in one
    /// step, what is there is not touched.
    pub fn hook(&mut self, index: u32, programs: &Programs) -> io::Result<Hook> {
        if self.hooked(index, programs)? {
            return Ok(Hook::There);
        }
        let mut clsact = tc_head(index, CLSACT_HANDLE, TC_H_CLSACT, 0);
        attribute(&mut clsact, TCA_KIND, b"clsact\0");
        match self.tc(RTM_NEWQDISC, NLM_F_CREATE | NLM_F_EXCL, &clsact) {
            // One that is there, ours or another's, stays as it is.
            Err(error) if error.raw_os_error() != Some(libc::EEXIST) => return Err(error),
            _ => {}
        }
        // The way out first: an ingress discipline in clsact's place has one list for both, and what stays in it must be the
        // program of the way in.
        for way in [Way::Out, Way::In] {
            let mut options = vec![];
            attribute(&mut options, TCA_BPF_FD, &programs.fd(way).as_raw_fd().to_ne_bytes());
            attribute(&mut options, TCA_BPF_NAME, format!("{}\0", self.mark.filter).as_bytes());
            attribute(&mut options, TCA_BPF_FLAGS, &1_u32.to_ne_bytes()); // direct action
            let mut filter = self.place(index, way);
            attribute(&mut filter, TCA_OPTIONS | NESTED, &options);
            self.tc(RTM_NEWTFILTER, NLM_F_CREATE, &filter)?;
        }
        if self.hooked(index, programs)? {
            return Ok(Hook::PutBack);
        }
        Err(io::Error::new(
            io::ErrorKind::AddrInUse,
            "an ingress discipline sits where clsact belongs; replace it (tc qdisc del dev … ingress; tc qdisc add dev … clsact)",
        ))
    }

    /// Our filter's place: a request begins with it.
    fn place(&self, index: u32, way: Way) -> Vec<u8> {
        filter_head(index, way, self.mark.handle)
    }

    fn hooked(&mut self, index: u32, programs: &Programs) -> io::Result<bool> {
        for way in [Way::In, Way::Out] {
            if self.filter(index, way)?.is_none_or(|(_, id)| id != programs.id(way)) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Name and program of the filter at our place.
    fn filter(&mut self, index: u32, way: Way) -> io::Result<Option<(String, u32)>> {
        let place = self.place(index, way);
        match self.tc(RTM_GETTFILTER, 0, &place) {
            Ok(answers) => Ok(answers.iter().find_map(|one| bpf_filter(one))),
            // No discipline, no chain, no filter there, or one of another kind.
            Err(error) if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::EINVAL)) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Takes the gate's programs off an interface, whichever process of this group put them there; `false` if there were none. The clsact
    /// discipline stays: others may use it.
    pub fn unhook(&mut self, index: u32) -> io::Result<bool> {
        let mut found = false;
        for way in [Way::In, Way::Out] {
            if self.filter(index, way)?.is_none_or(|(name, _)| name != self.mark.filter) {
                continue;
            }
            found = true;
            let place = self.place(index, way);
            match self.tc(RTM_DELTFILTER, 0, &place) {
                Err(error)
                    if !matches!(error.raw_os_error(), Some(libc::ENOENT | libc::EINVAL | libc::ENODEV)) =>
                {
                    return Err(error);
                }
                _ => {}
            }
        }
        Ok(found)
    }

    fn tc(&mut self, kind: u16, flags: u16, body: &[u8]) -> io::Result<Vec<Vec<u8>>> {
        self.exchange.raw(kind, NLM_F_ACK | flags, body)
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

/// A filter's place.
fn filter_head(index: u32, way: Way, handle: u32) -> Vec<u8> {
    let mut head = tc_head(index, handle, hook(way), priority());
    attribute(&mut head, TCA_KIND, b"bpf\0");
    head
}

/// Name and program of the bpf filter that a message of the kernel describes.
fn bpf_filter(one: &[u8]) -> Option<(String, u32)> {
    if u16::from_ne_bytes([*one.get(4)?, *one.get(5)?]) != RTM_NEWTFILTER {
        return None;
    }
    let options = attributes(one.get(36..)?).find(|(kind, _)| *kind == TCA_OPTIONS)?.1;
    let text = |value: &[u8]| String::from_utf8_lossy(value).trim_end_matches('\0').to_owned();
    let name = attributes(options)
        .find(|(kind, _)| *kind == TCA_BPF_NAME)
        .map_or_else(String::new, |(_, v)| text(v));
    let (_, id) = attributes(options).find(|(kind, _)| *kind == TCA_BPF_ID)?;
    Some((name, u32::from_ne_bytes(id.try_into().ok()?)))
}

/// Kind and value of each attribute.
fn attributes(mut rest: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let len = usize::from(u16::from_ne_bytes([*rest.first()?, *rest.get(1)?]));
        let kind = u16::from_ne_bytes([*rest.get(2)?, *rest.get(3)?]) & !NESTED;
        let value = rest.get(4..len)?;
        rest = rest.get(len.next_multiple_of(4)..).unwrap_or(&[]);
        Some((kind, value))
    })
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

fn vip_message(vip: &Vip, index: u32, mark: &Mark) -> AddressMessage {
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
    message.attributes.extend(mark.metric.map(AddressAttribute::RoutePriority));
    message.attributes.extend(vip.label.clone().map(AddressAttribute::Label));
    message.attributes.extend(vip.broadcast.map(AddressAttribute::Broadcast));
    message
}

/// A host route with our tag and mark.
fn tagged_route(route: &RouteMessage, mark: &Mark) -> Option<(IpAddr, u32)> {
    if route.header.protocol != RouteProtocol::Other(TAG) {
        return None;
    }
    let (mut found, mut metric) = ((None, None), 0);
    for attribute in &route.attributes {
        match attribute {
            RouteAttribute::Destination(RouteAddress::Inet(ip)) => found.0 = Some(IpAddr::V4(*ip)),
            RouteAttribute::Destination(RouteAddress::Inet6(ip)) => found.0 = Some(IpAddr::V6(*ip)),
            RouteAttribute::Oif(index) => found.1 = Some(*index),
            RouteAttribute::Priority(is) => metric = *is,
            _ => {}
        }
    }
    let (to, over) = (found.0?, found.1?);
    (metric == mark.route_metric(to)).then_some((to, over))
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

fn address(message: &AddressMessage, mark: &Mark) -> Option<Address> {
    let mut found = Address {
        index: message.header.index,
        address: IpAddr::from([0, 0, 0, 0]),
        prefix: message.header.prefix_len,
        ours: false,
        tentative: false,
    };
    let (mut local, mut metric) = (None, None);
    for attribute in &message.attributes {
        match attribute {
            AddressAttribute::Local(ip) => local = Some(*ip),
            AddressAttribute::Address(ip) => local = local.or(Some(*ip)),
            AddressAttribute::Protocol(protocol) => found.ours = u8::from(*protocol) == TAG,
            AddressAttribute::RoutePriority(is) => metric = Some(*is),
            AddressAttribute::Flags(flags) => found.tentative = flags.contains(AddressFlags::Tentative),
            _ => {}
        }
    }
    found.address = local?;
    found.ours &= metric == mark.metric;
    Some(found)
}

/// Listens.
pub struct Listener {
    socket: Socket,
    ready: Ready,
    mark: Mark,
}

impl Listener {
    pub fn new(mark: Mark) -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        socket.bind_auto()?;
        for group in GROUPS {
            socket.add_membership(group)?;
        }
        socket.set_non_blocking(true)?;
        let _ = socket.set_rx_buf_sz(4_u32 << 20);
        let ready = Ready::new(socket.as_fd().try_clone_to_owned()?)?;
        Ok(Self { socket, ready, mark })
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
            heard.extend(exchange::messages(&data).filter_map(|one| understand(one, &self.mark)));
        }
    }
}

fn understand(one: &[u8], mark: &Mark) -> Option<Heard> {
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
        RouteNetlinkMessage::NewAddress(a) => address(&a, mark).map(Heard::Address),
        RouteNetlinkMessage::DelAddress(a) => address(&a, mark).map(Heard::AddressGone),
        // Every address brings and takes routes of its own: only ours say anything.
        RouteNetlinkMessage::DelRoute(route) => tagged_route(&route, mark).map(|_| Heard::RouteGone),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use netlink_packet_core::NetlinkHeader;

    use super::*;

    fn route_gone(to: IpAddr, protocol: RouteProtocol, metric: Option<u32>, group: &str) -> Option<Heard> {
        let mut message = RouteMessage::default();
        message.header.address_family = if to.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
        message.header.destination_prefix_length = if to.is_ipv4() { 32 } else { 128 };
        message.header.protocol = protocol;
        message.attributes =
            vec![RouteAttribute::Destination(RouteAddress::from(to)), RouteAttribute::Oif(2)];
        message.attributes.extend(metric.map(RouteAttribute::Priority));
        let payload = NetlinkPayload::from(RouteNetlinkMessage::DelRoute(message));
        let mut packet = NetlinkMessage::new(NetlinkHeader::default(), payload);
        packet.finalize();
        let mut bytes = vec![0; packet.buffer_len()];
        packet.serialize(&mut bytes);
        understand(&bytes, &Mark::of(group))
    }

    /// Both families' routes are listened to, and of all that come and go with every address only ours count.
    #[test]
    fn the_loss_of_our_host_routes_is_heard() {
        assert!(GROUPS.contains(&7) && GROUPS.contains(&11), "RTNLGRP_IPV4_ROUTE, RTNLGRP_IPV6_ROUTE");
        let ours = RouteProtocol::Other(TAG);
        for (to, metric) in [("172.16.8.250", None), ("2001:db8:8::250", Some(IP6_RT_PRIO_USER))] {
            let to: IpAddr = to.parse().expect("an address");
            assert_eq!(route_gone(to, ours, metric, "dre"), Some(Heard::RouteGone), "{to}");
            assert_eq!(route_gone(to, RouteProtocol::Kernel, metric, "dre"), None, "{to}");
            // Another group's, of the same arbitrator.
            assert_eq!(route_gone(to, ours, metric, "mysql"), None, "{to}");
            let mysql = Mark::of("mysql").metric;
            assert_eq!(route_gone(to, ours, mysql, "mysql"), Some(Heard::RouteGone), "{to}");
            assert_eq!(route_gone(to, ours, mysql, "dre"), None, "{to}");
        }
    }

    /// An address with our tag is an orphan to the group that set it, and nothing to the others.
    #[test]
    fn each_group_knows_its_own_addresses_and_no_others() {
        let groups = ["dre", "mysql", "mysql2", "db"];
        for (text, label) in
            [("172.16.9.61/24", None), ("172.16.10.71/16", Some("eth2:0")), ("2001:db8:9::61/64", None)]
        {
            let address_of = text.parse().expect("an address");
            let vip = Vip {
                address: address_of,
                interface: "eth2".into(),
                label: label.map(str::to_owned),
                broadcast: None,
            };
            for setter in groups {
                let message = vip_message(&vip, 2, &Mark::of(setter));
                for reader in groups {
                    let seen = address(&message, &Mark::of(reader)).expect("read");
                    assert_eq!(seen.ours, setter == reader, "{text}, set by {setter}, read by {reader}");
                }
            }
        }
        let filters: BTreeMap<u32, String> =
            groups.iter().map(|group| Mark::of(group)).map(|mark| (mark.handle, mark.filter)).collect();
        assert_eq!(filters.len(), groups.len(), "{filters:?}");
    }

    /// The kernel's own words for a filter: header, tcmsg, kind, nested options with name and program.
    #[test]
    fn a_filters_name_and_program_are_read() {
        let mut options = vec![];
        attribute(&mut options, TCA_BPF_FLAGS, &1_u32.to_ne_bytes());
        attribute(&mut options, TCA_BPF_NAME, b"dre-gate\0");
        attribute(&mut options, TCA_BPF_ID, &77_u32.to_ne_bytes());
        let mut body = filter_head(3, Way::In, 1);
        attribute(&mut body, TCA_OPTIONS | NESTED, &options);
        let message = |kind: u16, body: &[u8]| [&[0; 4][..], &kind.to_ne_bytes(), &[0; 10], body].concat();
        assert_eq!(bpf_filter(&message(RTM_NEWTFILTER, &body)), Some(("dre-gate".into(), 77)));
        assert_eq!(bpf_filter(&message(RTM_DELTFILTER, &body)), None);
        for len in 0..body.len() - 4 {
            assert_eq!(bpf_filter(&message(RTM_NEWTFILTER, &body[..len])), None, "cut to {len}");
        }
    }
}
