//! Heartbeats from a hand that should not send any, and an ear for those of the nodes.
//!
//! The daemon's socket is connected to the peer's address and port and takes nothing below TTL 255, so what is sent by
//! ordinary means never reaches it. A forger stands on the same network, as the stranger, and writes whole frames: the
//! peer's address, the right port, the right TTL, anything inside. The peer may be running all the while.

use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::net::{self, NETS, in_netns};
use super::{Lab, sys};

/// UDP port of the heartbeats in the lab's configuration.
pub const PORT: u16 = 1694;

/// Sends to one node on one network, as if it were somebody else.
pub struct Forger {
    socket: OwnedFd,
    /// Ethernet, IPv4 and UDP headers; lengths and checksum are filled in for each payload.
    head: [u8; 42],
}

impl Forger {
    /// On that network, with the address of `from`, to `to`.
    pub fn new(lab: &Lab, net: &str, from: &str, to: &str) -> Result<Self> {
        let number = NETS.iter().position(|n| *n == net).with_context(|| format!("no network {net}"))?;
        let socket = in_netns(&lab.net.ns("stranger"), || sys::frame_socket(net))??;
        let address = |who: &str| -> Result<Ipv4Addr> {
            match net::address(who, number, false) {
                Some(std::net::IpAddr::V4(address)) => Ok(address),
                _ => bail!("{who} has no IPv4 address on {net}"),
            }
        };
        let mut head = [0; 42];
        let mut put = |at: usize, bytes: &[u8]| head[at..at + bytes.len()].copy_from_slice(bytes);
        put(0, &net::mac(to, number));
        put(6, &net::mac("stranger", number));
        put(12, &[8, 0, 0x45, 0xc0]);
        // Don't fragment, TTL 255, UDP.
        put(20, &[0x40, 0, 255, 17]);
        put(26, &address(from)?.octets());
        put(30, &address(to)?.octets());
        put(34, &PORT.to_be_bytes());
        put(36, &PORT.to_be_bytes());
        Ok(Self { socket, head })
    }

    /// The same with another TTL.
    pub fn ttl(mut self, ttl: u8) -> Self {
        self.head[22] = ttl;
        self
    }

    /// The same from another port.
    pub fn port(mut self, port: u16) -> Self {
        self.head[34..36].copy_from_slice(&port.to_be_bytes());
        self
    }

    /// The same from another address.
    pub fn address(mut self, from: Ipv4Addr) -> Self {
        self.head[26..30].copy_from_slice(&from.octets());
        self
    }

    /// One datagram; false where the kernel did not take it.
    pub fn send(&self, payload: &[u8]) -> bool {
        let mut frame = [self.head.as_slice(), payload].concat();
        let udp = (payload.len() + 8) as u16;
        frame[16..18].copy_from_slice(&(udp + 20).to_be_bytes());
        frame[38..40].copy_from_slice(&udp.to_be_bytes());
        let sum = net::checksum(&[&frame[14..34]]);
        frame[24..26].copy_from_slice(&sum.to_be_bytes());
        sys::send(&self.socket, &frame)
    }

    /// Several, at a pace that no receive buffer overflows; how many the kernel took.
    pub fn send_all<'a>(&self, payloads: impl IntoIterator<Item = &'a [u8]>) -> usize {
        let mut sent = 0;
        for (n, payload) in payloads.into_iter().enumerate() {
            sent += usize::from(self.send(payload));
            if n % 8 == 7 {
                std::thread::sleep(Duration::from_millis(2));
            }
        }
        sent
    }
}

/// Records the heartbeats that a node receives on one network, as they are on the wire.
pub struct Ear {
    socket: OwnedFd,
}

impl Ear {
    /// Listens from now on.
    pub fn at(node: &super::node::Node, net: &str) -> Result<Self> {
        Ok(Self { socket: in_netns(&node.netns()?, || sys::frame_socket(net))?? })
    }

    /// What came until `count` datagrams are there, in order.
    pub fn record(&self, count: usize, limit: Duration) -> Result<Vec<Vec<u8>>> {
        let (mut found, begun, mut frame) = (Vec::new(), sys::now(), [0u8; 2048]);
        while found.len() < count {
            let left = limit.saturating_sub(sys::now().since(begun));
            if left.is_zero() {
                bail!("{} of {count} heartbeats within {limit:?}", found.len());
            }
            sys::wait(&[(self.socket.as_raw_fd(), libc::POLLIN)], left);
            while let Some((len, _)) = sys::receive(&self.socket, &mut frame, sys::Stamps::compare()) {
                let is_heartbeat = len > 42
                    && frame[12..14] == [8, 0]
                    && frame[23] == 17
                    && frame[36..38] == PORT.to_be_bytes();
                if is_heartbeat && found.len() < count {
                    found.push(frame[42..len].to_vec());
                }
            }
        }
        Ok(found)
    }
}
