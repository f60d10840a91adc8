//! Ethernet frames: announcements, probes of the wire, and who else answers. AF_PACKET, hand-built.
//!
//! AF_PACKET also for IPv6: no waiting for a source address to be usable, one path for both families.
//! Layouts: RFC 826 and 5227 (ARP), RFC 4861 §4.3, §4.4 (neighbour messages).

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsFd, OwnedFd};

use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use super::ready::Ready;

const ETH_ARP: u16 = 0x0806;
const ETH_IPV6: u16 = 0x86dd;
const BROADCAST: [u8; 6] = [0xff; 6];
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
const SOLICITATION: u8 = 135;
const ADVERTISEMENT: u8 = 136;

/// What a frame from somebody else says of an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Said {
    pub address: IpAddr,
    pub mac: [u8; 6],
    /// Only asked for it, as a probe does (sender 0.0.0.0 or ::); else it holds it.
    pub probe: bool,
}

/// The sockets of one interface.
pub struct Wire {
    arp: Socket,
    nd: Socket,
    arp_ready: Ready,
    nd_ready: Ready,
    mac: [u8; 6],
}

/// A packet socket's address: this interface, this protocol.
fn packet_address(index: u32, protocol: u16) -> io::Result<SockAddr> {
    let index = i32::try_from(index).map_err(|_| io::ErrorKind::InvalidInput)?;
    // SAFETY: the storage is zeroed and large enough for sockaddr_ll, whose fields are plain integers; the
    // length written is that structure's.
    let ((), address) = unsafe {
        SockAddr::try_init(|storage, len| {
            let ll = storage.cast::<libc::sockaddr_ll>();
            (*ll).sll_family = libc::AF_PACKET as u16;
            (*ll).sll_protocol = protocol.to_be();
            (*ll).sll_ifindex = index;
            *len = libc::socklen_t::try_from(size_of::<libc::sockaddr_ll>()).unwrap_or(0);
            Ok(())
        })
    }?;
    Ok(address)
}

fn packet_socket(index: u32, protocol: u16, filter: &[libc::sock_filter]) -> io::Result<Socket> {
    // Protocol 0 until the filter is on: nothing else gets in between.
    let socket = Socket::new(Domain::PACKET, Type::RAW, Some(Protocol::from(0)))?;
    socket.set_nonblocking(true)?;
    if !filter.is_empty() {
        let filter: Vec<socket2::SockFilter> =
            filter.iter().map(|f| socket2::SockFilter::new(f.code, f.jt, f.jf, f.k)).collect();
        socket.attach_filter(&filter)?;
    }
    socket.bind(&packet_address(index, protocol)?)?;
    Ok(socket)
}

const fn bpf(code: u16, jt: u8, jf: u8, k: u32) -> libc::sock_filter {
    libc::sock_filter { code, jt, jf, k }
}

/// Classic BPF: neighbour solicitations and advertisements only, so that IPv6 traffic does not wake us.
const ND_ONLY: [libc::sock_filter; 7] = [
    bpf(0x30, 0, 0, 20),                   // ldb next header
    bpf(0x15, 0, 4, 58),                   // ICMPv6?
    bpf(0x30, 0, 0, 54),                   // ldb type
    bpf(0x15, 1, 0, SOLICITATION as u32),  //
    bpf(0x15, 0, 1, ADVERTISEMENT as u32), //
    bpf(0x06, 0, 0, 128),                  // take
    bpf(0x06, 0, 0, 0),                    // leave
];

impl Wire {
    pub fn open(index: u32, mac: [u8; 6]) -> io::Result<Self> {
        let arp = packet_socket(index, ETH_ARP, &[])?;
        let nd = packet_socket(index, ETH_IPV6, &ND_ONLY)?;
        let ready = |socket: &Socket| -> io::Result<Ready> {
            let fd: OwnedFd = socket.as_fd().try_clone_to_owned()?;
            Ready::new(fd)
        };
        Ok(Self { arp_ready: ready(&arp)?, nd_ready: ready(&nd)?, arp, nd, mac })
    }

    pub fn mac(&self) -> [u8; 6] {
        self.mac
    }

    /// Tells the network where the VIP is. `false` when the interface could not take the frames now.
    pub fn announce(&self, vip: IpAddr) -> bool {
        match vip {
            // Both forms: some equipment learns from requests only, some from replies only.
            IpAddr::V4(ip) => {
                let request = self.arp.send(&arp(1, self.mac, ip, [0; 6], ip));
                let reply = self.arp.send(&arp(2, self.mac, ip, self.mac, ip));
                request.is_ok() && reply.is_ok()
            }
            IpAddr::V6(ip) => self.nd.send(&advertisement(self.mac, ip)).is_ok(),
        }
    }

    /// Asks who has the VIP, as one who has no address himself: poisons no cache.
    pub fn probe(&self, vip: IpAddr) -> bool {
        match vip {
            IpAddr::V4(ip) => self.arp.send(&arp(1, self.mac, Ipv4Addr::UNSPECIFIED, [0; 6], ip)).is_ok(),
            IpAddr::V6(ip) => self.nd.send(&probe6(self.mac, ip)).is_ok(),
        }
    }

    /// Cancel safe.
    pub async fn readable(&self) {
        tokio::select! {
            () = self.arp_ready.readable() => {}
            () = self.nd_ready.readable() => {}
        }
    }

    /// What others said, at most `max` frames: a storm must not hold the loop.
    pub fn drain(&self, max: usize, mut each: impl FnMut(Said)) {
        let mut buffer = [0_u8; 256];
        for socket in [&self.arp, &self.nd] {
            for _ in 0..max {
                // SAFETY-free receive: std's Read for &Socket takes an initialised buffer.
                let Ok(len) = io::Read::read(&mut &*socket, &mut buffer) else { break };
                let said = understand(&buffer[..len]);
                if let Some(said) = said.filter(|said| said.mac != self.mac) {
                    each(said);
                }
            }
        }
    }
}

fn arp(operation: u8, mac: [u8; 6], sender: Ipv4Addr, target_mac: [u8; 6], target: Ipv4Addr) -> [u8; 42] {
    let mut frame = [0; 42];
    frame[..6].copy_from_slice(&BROADCAST);
    frame[6..12].copy_from_slice(&mac);
    frame[12..22].copy_from_slice(&[8, 6, 0, 1, 8, 0, 6, 4, 0, operation]);
    frame[22..28].copy_from_slice(&mac);
    frame[28..32].copy_from_slice(&sender.octets());
    frame[32..38].copy_from_slice(&target_mac);
    frame[38..42].copy_from_slice(&target.octets());
    frame
}

fn multicast_mac(ip: Ipv6Addr) -> [u8; 6] {
    let o = ip.octets();
    [0x33, 0x33, o[12], o[13], o[14], o[15]]
}

/// RFC 4291 §2.7.1.
fn solicited_node(ip: Ipv6Addr) -> Ipv6Addr {
    let o = ip.octets();
    let low = u16::from_be_bytes([o[14], o[15]]);
    Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, 0xff00 | u16::from(o[13]), low)
}

fn icmp6(mac: [u8; 6], source: Ipv6Addr, destination: Ipv6Addr, body: &[u8]) -> Vec<u8> {
    let mut frame = Vec::with_capacity(54 + body.len());
    frame.extend_from_slice(&multicast_mac(destination));
    frame.extend_from_slice(&mac);
    let len = u16::try_from(body.len()).unwrap_or(0).to_be_bytes();
    frame.extend_from_slice(&[0x86, 0xdd, 0x60, 0, 0, 0, len[0], len[1], 58, 255]);
    frame.extend_from_slice(&source.octets());
    frame.extend_from_slice(&destination.octets());
    frame.extend_from_slice(body);
    let sum = checksum(source, destination, body);
    frame[56..58].copy_from_slice(&sum.to_be_bytes());
    frame
}

/// RFC 4443 §2.3, with the checksum field of `body` still zero.
fn checksum(source: Ipv6Addr, destination: Ipv6Addr, body: &[u8]) -> u16 {
    let length = u32::try_from(body.len()).unwrap_or(0).to_be_bytes();
    let pseudo = [&source.octets()[..], &destination.octets(), &length, &[0, 0, 0, 58], body].concat();
    let mut sum: u32 = pseudo
        .chunks(2)
        .map(|pair| u32::from(u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or(0)])))
        .sum();
    while sum >> 16 != 0 {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).unwrap_or(0)
}

fn advertisement(mac: [u8; 6], ip: Ipv6Addr) -> Vec<u8> {
    // Override: caches take it at once.
    let mut body = vec![ADVERTISEMENT, 0, 0, 0, 0x20, 0, 0, 0];
    body.extend_from_slice(&ip.octets());
    body.extend_from_slice(&[2, 1]);
    body.extend_from_slice(&mac);
    icmp6(mac, ip, ALL_NODES, &body)
}

fn probe6(mac: [u8; 6], ip: Ipv6Addr) -> Vec<u8> {
    let mut body = vec![SOLICITATION, 0, 0, 0, 0, 0, 0, 0];
    body.extend_from_slice(&ip.octets());
    icmp6(mac, Ipv6Addr::UNSPECIFIED, solicited_node(ip), &body)
}

/// Who holds, or asks for, which address.
fn understand(frame: &[u8]) -> Option<Said> {
    let mac: [u8; 6] = frame.get(6..12)?.try_into().ok()?;
    match u16::from_be_bytes([*frame.get(12)?, *frame.get(13)?]) {
        ETH_ARP => {
            if frame.get(14..20)? != [0, 1, 8, 0, 6, 4] {
                return None;
            }
            let v4 = |at: usize| -> Option<Ipv4Addr> {
                let bytes: [u8; 4] = frame.get(at..at + 4)?.try_into().ok()?;
                Some(Ipv4Addr::from(bytes))
            };
            let (sender, target) = (v4(28)?, v4(38)?);
            let sender_mac: [u8; 6] = frame.get(22..28)?.try_into().ok()?;
            if sender.is_unspecified() {
                return Some(Said { address: target.into(), mac: sender_mac, probe: true });
            }
            Some(Said { address: sender.into(), mac: sender_mac, probe: false })
        }
        ETH_IPV6 => {
            let kind = *frame.get(54)?;
            if *frame.get(20)? != 58 {
                return None;
            }
            let v6 = |at: usize| -> Option<Ipv6Addr> {
                let bytes: [u8; 16] = frame.get(at..at + 16)?.try_into().ok()?;
                Some(Ipv6Addr::from(bytes))
            };
            let (source, target) = (v6(22)?, v6(62)?);
            match kind {
                ADVERTISEMENT => Some(Said { address: target.into(), mac, probe: false }),
                SOLICITATION if source.is_unspecified() => {
                    Some(Said { address: target.into(), mac, probe: true })
                }
                _ => None,
            }
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];

    #[test]
    fn an_announcement_says_who_holds_the_vip() {
        let v4: Ipv4Addr = "172.16.9.61".parse().expect("an address");
        let said = Said { address: v4.into(), mac: MAC, probe: false };
        assert_eq!(understand(&arp(1, MAC, v4, [0; 6], v4)), Some(said));
        assert_eq!(understand(&arp(2, MAC, v4, MAC, v4)), Some(said));
        let v6: Ipv6Addr = "2001:db8:9::61".parse().expect("an address");
        let said = Said { address: v6.into(), mac: MAC, probe: false };
        assert_eq!(understand(&advertisement(MAC, v6)), Some(said));
    }

    #[test]
    fn a_probe_says_who_asks() {
        let v4: Ipv4Addr = "172.16.9.61".parse().expect("an address");
        let asked = Said { address: v4.into(), mac: MAC, probe: true };
        assert_eq!(understand(&arp(1, MAC, Ipv4Addr::UNSPECIFIED, [0; 6], v4)), Some(asked));
        let v6: Ipv6Addr = "2001:db8:9::61".parse().expect("an address");
        assert_eq!(understand(&probe6(MAC, v6)), Some(Said { address: v6.into(), mac: MAC, probe: true }));
        assert_eq!(&probe6(MAC, v6)[..6], &[0x33, 0x33, 0xff, 0, 0, 0x61]);
    }

    /// The sum over a message with its checksum in place is zero.
    #[test]
    fn the_checksum_checks() {
        let v6: Ipv6Addr = "2001:db8:9::61".parse().expect("an address");
        let frame = advertisement(MAC, v6);
        assert_eq!(checksum(v6, ALL_NODES, &frame[54..]), 0);
    }

    #[test]
    fn nothing_cut_short_is_understood() {
        let v6: Ipv6Addr = "2001:db8:9::61".parse().expect("an address");
        let frame = advertisement(MAC, v6);
        for len in 0..78 {
            assert_eq!(understand(&frame[..len]), None, "{len}");
        }
    }
}
